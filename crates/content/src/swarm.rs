//! The download: whom to ask for which block.

mod ceiling;
mod peer;
mod pieces;
mod schedule;
mod suspects;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use sparewire_core::{ByteCount, Price, Timestamp};
use sparewire_protocol::CHECKPOINT_MS;

use self::{
    ceiling::Ceiling,
    peer::{Holds, Owed, Peer},
    pieces::{Leaves, Pieces, Slot},
    suspects::Suspects,
};
use crate::{Bitfield, Block, Geometry};

/// Most peers of one download; so that how many have a piece fits a byte.
pub const PEERS_MAX: usize = 250;
/// Fewest blocks that a peer is asked for at a time.
pub const QUEUE_MIN: u32 = 8;
/// Most blocks that a peer is asked for at a time (8 MiB).
pub const QUEUE_MAX: u32 = 512;
/// A peer is asked for as many blocks at a time as it sends within this time, in ms: more than any
/// round trip, so that it always has something to send.
pub const QUEUE_MS: u64 = 1_000;
/// Most blocks of open pieces (1 GiB of data): what the records for each block may take.
pub const OPEN_BLOCKS_MAX: u64 = 1 << 16;
/// Most blocks that are asked of two peers at a time, near the end. None is ever asked of three.
pub const DOUBLED_MAX: u32 = 32;
/// A block is asked of a second peer only if the first is expected to take so long for it, in ms.
pub const DOUBLE_MS_MIN: u64 = 250;
/// Most blocks of a download that are paid for a second time (1 MiB), whatever peers do.
pub const PAID_TWICE_MAX: u32 = 64;
/// A peer that owes blocks and has sent none for so long has stalled, in ms. What it owes is asked
/// of others, and it is left alone for as long again; for twice that after the next time.
pub const STALL_MS: u64 = 10_000;
/// So often in a row, and a peer is dropped.
pub const STALLS_MAX: u32 = 3;
/// How long a seller may have no credit left for another piece before it is left, in ms: what is
/// less than a payment step is paid only after [`CHECKPOINT_MS`], and that payment takes its time.
pub const SPENT_MS: u64 = CHECKPOINT_MS + STALL_MS;
/// How long a cancelled block may still come and count, in ms.
pub const LATE_MS: u64 = 60_000;
/// Most blocks of a peer that were cancelled and may still come.
pub const LATE_MAX: usize = QUEUE_MAX as usize;
/// How long what a peer owed when it choked may still come and count after the last sign of that, in
/// ms. It comes only where the peer unchoked before it was asked, and has not heard of the cancel.
pub const VOID_MS: u64 = STALL_MS;
/// Most blocks of a peer that were cancelled when it choked or before and may still come.
const VOID_MAX: usize = LATE_MAX + QUEUE_MAX as usize;
/// So many blocks that nobody asked for, and a peer is dropped.
pub const UNASKED_MAX: u32 = 128;
/// How long a peer may take to give a piece's leaf hashes, in ms.
pub const LEAVES_MS: u64 = 20_000;
/// How long a peer that choked while it owed blocks is not asked again, in ms.
pub const CHOKED_MS: u64 = 1_000;
/// How long a peer that could be paid may choke us, in ms: one that is paid has no reason to.
pub const CHOKING_MS: u64 = 30_000;
/// How often [`Download::tick`] wants to be called, in ms.
pub const TICK_MS: u64 = 100;
/// How long nothing may come from those that are asked before dearer ones are, in ms.
pub const PATIENCE_MS: u64 = 5_000;
/// A longer time between two ticks was no time in which peers could have sent anything, in ms.
const GAP_MS: u64 = 5_000;

/// A connection to a peer, as whoever drives the download numbers it. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// On what conditions a peer gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// What it takes. `None` where that is not known yet: it is asked for nothing.
    pub price: Option<Price>,
    /// How many requests it keeps waiting at most (`reqq`; 250 is what libtorrent takes a peer for
    /// that says nothing).
    pub queue_max: u32,
}

/// What a block that arrived is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first copy. Judge it; if it passes, write it, and count it for this peer.
    Wanted,
    /// Asked of this peer, but somebody else was first. Nobody waits for it; count it for this peer
    /// if it is what has passed (or passes).
    Duplicate,
    /// Not asked, or beyond [`PAID_TWICE_MAX`]. Do not count it.
    Unasked,
}

/// Why a peer is to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// It sent a block that did not pass: never connect to it again.
    #[error("sent bad data")]
    BadData,
    /// It speaks of pieces that there are not.
    #[error("has pieces that the torrent does not have")]
    BadPiece,
    /// It sends what it was not asked for.
    #[error("sends blocks that nobody asked for")]
    Unasked,
    /// It has stalled [`STALLS_MAX`] times in a row.
    #[error("sends nothing")]
    Stalled,
    /// It sells blocks of a torrent with hash trees, and does not give the hashes.
    #[error("sells blocks, but gives no hashes to check them by")]
    NoHashes,
    /// It sells, and what it sent and was never paid for has left no room for another piece for
    /// [`SPENT_MS`]: begin a new session with it, if there is money left.
    #[error("what it may send unpaid is used up")]
    Spent,
    /// There are [`PEERS_MAX`] already.
    #[error("one peer too many")]
    Full,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ask this peer for a block.
    Request(PeerId, Block),
    /// Tell it that this block is not wanted any more.
    Cancel(PeerId, Block),
    /// Tell it that we are interested. Of one with a price: and begin to pay it, with whatever that
    /// takes (session, channel); then say how far it may go by [`Download::allow`].
    Interested(PeerId),
    /// Tell it that we are not, and let its session rest.
    NotInterested(PeerId),
    /// Ask it for the leaf hashes of a piece.
    AskLeaves(PeerId, u32),
    /// All blocks of this piece have arrived, and not all have passed: judge it as a whole.
    Check(u32),
    /// Forget what has arrived of this piece and has not passed.
    Forget(u32),
    /// This piece is had: tell everybody.
    Have(u32),
    /// Leave this peer. It may have left by itself, or been named before: then remember its address
    /// all the same.
    Drop(PeerId, DropReason),
    /// All is here. Said once.
    Complete,
}

/// Chooses which peer is asked for which block, so that the whole comes quickly, cheaply and from
/// whoever happens to stay.
///
/// One input, or some, then [`Download::poll_order`] until `None`. Inputs about peers or pieces that
/// it does not know (any more) change nothing, so that none can come too late.
///
/// # What whoever drives it owes
///
/// - [`Download::tick`] at [`Download::poll_timeout`], with a clock that seldom jumps back.
/// - For each [`Order::Request`], in the order given, one of: [`Download::arrived`] when the block
///   comes; [`Download::rejected`]; [`Download::choked`] or [`Download::peer_left`], which are about
///   all that the peer owes. Nothing, if the peer just says nothing. Of [`Order::Cancel`] nothing is
///   told; the block may still arrive, and is reported like any other.
/// - For each [`Verdict::Wanted`], once, in whatever order: [`Download::passed`] when it is written,
///   or [`Download::block_failed`], where blocks pass one by one and the leaf hashes are here. All
///   others are covered by one [`Download::piece_passed`] or [`Download::piece_failed`] for each
///   [`Order::Check`]. Blocks that [`Order::Forget`] is about are covered by that.
/// - For each [`Order::AskLeaves`] one of [`Download::leaves_known`], [`Download::leaves_refused`],
///   [`Download::peer_left`]; or nothing, for [`LEAVES_MS`].
/// - For each [`Verdict::Duplicate`] nothing, or [`Download::copy_failed`] where it is not what has
///   passed.
///
/// If a verdict about a block never comes, its piece stays open, and nothing else suffers.
///
/// # What it promises
///
/// - A priced peer is asked only for what [`Download::allow`] covers, counting what is under way and
///   what was cancelled (when it choked, too) and may still come, and only if its price is below the
///   most that may be paid.
/// - A block counts for at most one peer, save [`PAID_TWICE_MAX`] copies in the whole download.
/// - At most [`QUEUE_MAX`] requests of a peer are open, never more than it takes; at most
///   [`OPEN_BLOCKS_MAX`] blocks have a record (or those of one piece).
/// - In a torrent whose pieces are judged as a whole, a piece is begun with a priced peer only if
///   that peer is allowed all of it, so that it can always be paid and go on.
///
/// # How it chooses
///
/// Pieces that are open come first, then those that have passed in part, then the rarest. Where
/// pieces are judged as a whole each has one peer while there are others to begin, so that a bad
/// peer spoils no good one's work. When nothing is left to ask, blocks that a slow peer owes are
/// asked of one that would have them in half the time.
#[derive(Debug)]
pub struct Download {
    pieces: Pieces,
    peers: BTreeMap<PeerId, Peer>,
    suspects: Suspects,
    /// Whether blocks are judged one by one, by leaf hashes.
    by_block: bool,
    price_max: Price,
    ceiling: Ceiling,
    /// Blocks that two peers are asked for.
    doubled: u32,
    paid_twice: u32,
    /// Bytes of blocks that were wanted.
    came: u64,
    /// When such a block last came, or when the ceiling last changed.
    came_at: Timestamp,
    /// Peers that may have to be asked or told something.
    hungry: BTreeSet<PeerId>,
    orders: VecDeque<Order>,
    complete: bool,
    now: Timestamp,
}

/// What a download starts from.
#[derive(Clone, Debug)]
pub struct DownloadSetup {
    /// How the torrent is cut.
    pub geometry: Arc<Geometry>,
    /// Pieces that are here and have passed.
    pub have: Bitfield,
    /// Whether blocks are judged one by one, by the leaf hashes of BEP 52 (v2 and hybrid); else
    /// with their piece.
    pub by_block: bool,
    /// Peers that take more are never asked.
    pub price_max: Price,
    /// Any number, different for each download, so that not all begin with the same piece.
    pub random: u64,
    /// The time.
    pub now: Timestamp,
}

impl Download {
    /// A download of what `setup.have` lacks, without peers.
    ///
    /// # Panics
    /// Where `have` is of another number of pieces than the torrent.
    pub fn new(setup: DownloadSetup) -> Self {
        let DownloadSetup { geometry, have, by_block, price_max, random, now } = setup;
        let complete = have.is_all();
        Self {
            pieces: Pieces::new(geometry, have, random),
            peers: BTreeMap::new(),
            suspects: Suspects::default(),
            by_block,
            price_max,
            ceiling: Ceiling::new(now),
            doubled: 0,
            paid_twice: 0,
            came: 0,
            came_at: now,
            hungry: BTreeSet::new(),
            orders: complete.then_some(Order::Complete).into_iter().collect(),
            complete,
            now,
        }
    }

    /// A block of a piece that is not had is here from an earlier run: it is not asked for again. To be
    /// said before anything else. Where blocks pass one by one it must have passed; where they pass
    /// with their piece it may be bad, and if the piece then fails, all that was kept of it is asked
    /// for anew. The last block of a piece cannot be kept: say that the piece is had.
    pub fn keep(&mut self, block: Block) {
        self.pieces.keep(block);
    }

    /// This goes on for a download in which so many blocks were counted twice.
    pub fn count_paid_twice(&mut self, blocks: u32) {
        self.paid_twice = self.paid_twice.max(blocks);
    }

    // --- Peers ---

    /// A peer has joined: it has nothing and chokes us until it says otherwise.
    pub fn peer_joined(&mut self, peer: PeerId, supply: Supply) {
        if self.peers.contains_key(&peer) {
            return;
        }
        if self.peers.len() >= PEERS_MAX {
            self.orders.push_back(Order::Drop(peer, DropReason::Full));
            return;
        }
        let pieces = self.pieces.geometry.pieces();
        self.peers.insert(peer, Peer::new(supply, pieces, self.now));
    }

    /// What a peer takes has become known, or has changed. What it owes, it still owes.
    pub fn priced(&mut self, peer: PeerId, price: Price) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.price == Some(price) {
            return;
        }
        if price == Price::FREE {
            known.limit = u64::MAX;
        } else if known.price == Some(Price::FREE) {
            known.limit = known.taken;
        }
        known.price = Some(price);
        self.hungry.insert(peer);
    }

    /// What a peer takes is not known any more, or nothing is to be had for it: it is asked for
    /// nothing until it is said again, and holds up nobody. What it owes, it still owes.
    pub fn unpriced(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.limit = known.limit.min(known.taken);
        known.price = None;
        self.hungry.insert(peer);
    }

    /// How many bytes may come from a peer in all, since it joined: what has been paid for, and how
    /// far it may run ahead of payment. Nothing until this is said, save of free peers, of which it
    /// need not be said.
    pub fn allow(&mut self, peer: PeerId, total: ByteCount) {
        if let Some(known) = self.peers.get_mut(&peer) {
            if total.get() > known.limit {
                known.progress = self.now;
                known.waited_since = known.waited_since.map(|_| self.now);
            }
            known.limit = total.get();
            self.hungry.insert(peer);
        }
    }

    /// A peer has these pieces, as it writes it.
    pub fn bitfield(&mut self, peer: PeerId, bytes: &[u8]) {
        if !self.peers.contains_key(&peer) {
            return;
        }
        match Bitfield::from_bytes(bytes, self.pieces.geometry.pieces()) {
            Some(bits) if bits.is_all() => self.holds(peer, Holds::All),
            Some(bits) => self.holds(peer, Holds::Some(bits)),
            None => self.drop_peer(peer, DropReason::BadPiece),
        }
    }

    /// A peer has all pieces.
    pub fn have_all(&mut self, peer: PeerId) {
        self.holds(peer, Holds::All);
    }

    /// A peer has one more piece.
    pub fn have(&mut self, peer: PeerId, piece: u32) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if piece >= self.pieces.geometry.pieces() {
            return self.drop_peer(peer, DropReason::BadPiece);
        }
        let Holds::Some(bits) = &mut known.holds else { return };
        if !bits.insert(piece) {
            return;
        }
        count_up(&mut self.pieces.availability[piece as usize]);
        if bits.is_all() {
            self.holds(peer, Holds::All);
        } else if !self.pieces.have.has(piece) {
            known.wanted += 1;
            self.hungry.insert(peer);
        }
    }

    fn holds(&mut self, peer: PeerId, holds: Holds) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let before = std::mem::replace(&mut known.holds, holds);
        for piece in before.bits().into_iter().flat_map(Bitfield::iter) {
            count_down(&mut self.pieces.availability[piece as usize]);
        }
        for piece in known.holds.bits().into_iter().flat_map(Bitfield::iter) {
            count_up(&mut self.pieces.availability[piece as usize]);
        }
        known.wanted = match &known.holds {
            Holds::All => self.pieces.have.pieces() - self.pieces.have.count(),
            Holds::Some(bits) => bits.count_without(&self.pieces.have),
        };
        self.hungry.insert(peer);
    }

    /// A peer answers requests.
    pub fn unchoked(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.unchoked = true;
            self.hungry.insert(peer);
        }
    }

    /// A peer has forgotten all requests and answers none. What is on its way to it may reach it after
    /// it has unchoked: so all is cancelled, and counts if it comes within [`VOID_MS`].
    pub fn choked(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.unchoked = false;
        if !known.asks.is_empty() {
            known.rests_until = self.now.plus_ms(CHOKED_MS);
        }
        let owed = known.choke(self.now);
        self.orders.extend(owed.iter().map(|block| Order::Cancel(peer, *block)));
        self.void(peer, &owed);
    }

    /// A peer will not answer this request. What it says it has, it is not asked for again.
    pub fn rejected(&mut self, peer: PeerId, block: Block) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if !known.forget(block, false, self.now) {
            known.refused(block);
            self.hungry.insert(peer);
            return;
        }
        self.release(peer, block);
        self.disown_one(peer, block.piece);
        self.all_hungry();
        let pieces = self.pieces.geometry.pieces();
        let Some(known) = self.peers.get(&peer) else { return };
        let mut bits = known.holds.bits().cloned().unwrap_or_else(|| Bitfield::all(pieces));
        bits.remove(block.piece);
        self.holds(peer, Holds::Some(bits));
    }

    /// A peer has left.
    pub fn peer_left(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else { return };
        let owed: Vec<Block> = known.asks.iter().map(|ask| ask.block).collect();
        self.void(peer, &owed);
        self.holds(peer, Holds::All); // takes its pieces out of the count
        self.peers.remove(&peer);
        self.hungry.remove(&peer);
        let waiting = self
            .pieces
            .open
            .iter()
            .filter(|(_, open)| matches!(open.leaves, Leaves::Asked(from, _) if from == peer));
        let waiting: Vec<u32> = waiting.map(|(piece, _)| *piece).collect();
        for piece in waiting {
            self.ask_leaves(piece);
        }
    }

    // --- Blocks ---

    /// A block came.
    pub fn arrived(&mut self, peer: PeerId, block: Block, now: Timestamp) -> Verdict {
        self.now = self.now.max(now);
        let Some(known) = self.peers.get_mut(&peer) else { return Verdict::Unasked };
        let Some(owed) = known.take(block, self.now) else {
            known.unasked += 1;
            if known.unasked >= UNASKED_MAX {
                self.drop_peer(peer, DropReason::Unasked);
            }
            return Verdict::Unasked;
        };
        let priced = known.is_priced();
        if owed == Owed::Asked && known.is_void(block) {
            self.orders.push_back(Order::Cancel(peer, block)); // it may have been asked for two
        }
        self.hungry.insert(peer);
        // Only blocks that there are have been asked for.
        let Some(number) = self.pieces.geometry.number_of(block) else { return Verdict::Unasked };
        if owed == Owed::Cancelled && self.pieces.todo.has(block.piece) {
            self.pieces.open(block.piece, self.first_leaves(block.piece));
        }
        let open = self.pieces.open.get(&block.piece);
        if open.is_some_and(|open| open.sole && open.owner != Some(peer)) {
            self.release(peer, block);
            return self.second_copy(priced); // that piece is one peer's alone
        }
        let slot = open.map(|open| open.slots[number as usize]);
        let others = match slot {
            Some(Slot::Missing) => [None, None],
            Some(Slot::Asked(first, second)) => [Some(first), second],
            Some(Slot::Arrived(_) | Slot::Passed) => return self.second_copy(priced),
            None if self.pieces.have.has(block.piece) => return self.second_copy(priced),
            None => return Verdict::Unasked, // no room to open its piece again
        };
        if others[1].is_some() {
            self.doubled -= 1;
        }
        for other in others.into_iter().flatten().filter(|other| *other != peer) {
            self.cancel(other, block);
        }
        self.pieces.put(block.piece, number, Slot::Arrived(peer));
        self.came = self.came.saturating_add(u64::from(block.len));
        self.came_at = self.now;
        self.check_if_full(block.piece);
        if owed == Owed::Cancelled {
            self.ask_leaves(block.piece);
        }
        Verdict::Wanted
    }

    /// Money: at most [`PAID_TWICE_MAX`] copies beyond the first ones ever count for those who are
    /// paid, over all of them and the whole download.
    fn second_copy(&mut self, priced: bool) -> Verdict {
        if !priced {
            return Verdict::Duplicate;
        }
        if self.paid_twice >= PAID_TWICE_MAX {
            return Verdict::Unasked;
        }
        self.paid_twice += 1;
        assert!(self.paid_twice <= PAID_TWICE_MAX);
        Verdict::Duplicate
    }

    /// The leaf hashes of a piece are here: its blocks are judged one by one. Of a piece that is not
    /// open it means that they need never be asked for, and whoever drives this keeps them.
    pub fn leaves_known(&mut self, piece: u32) {
        if let Some(open) = self.pieces.open.get_mut(&piece) {
            open.leaves = Leaves::Known;
        } else if self.pieces.todo.has(piece) {
            self.pieces.leaves_kept.insert(piece);
        }
    }

    /// A peer does not give the leaf hashes of a piece, or gave wrong ones. It is not asked for any
    /// again. Where nobody gives them, the piece is judged as a whole.
    pub fn leaves_refused(&mut self, peer: PeerId, piece: u32) {
        let Some(open) = self.pieces.open.get(&piece) else { return };
        if !matches!(open.leaves, Leaves::Asked(from, _) if from == peer) {
            return;
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.gives_leaves = false;
        if known.is_priced() {
            self.drop_peer(peer, DropReason::NoHashes); // asks others
        } else {
            self.ask_leaves(piece);
        }
    }

    /// A block has passed and is written.
    pub fn passed(&mut self, block: Block) {
        let Some(number) = self.pieces.geometry.number_of(block) else { return };
        let Some(open) = self.pieces.open.get(&block.piece) else { return };
        if !matches!(open.slots[number as usize], Slot::Arrived(_)) {
            return;
        }
        self.pieces.put(block.piece, number, Slot::Passed);
        self.pieces.passed_bytes += u64::from(block.len);
        let Some(open) = self.pieces.open.get(&block.piece) else { return };
        if open.missing == 0 && open.is_idle() {
            self.complete_piece(block.piece);
        } else {
            self.settle(block.piece);
        }
    }

    /// A block that was wanted from this peer did not pass.
    pub fn block_failed(&mut self, peer: PeerId, block: Block) {
        if let Some(number) = self.pieces.geometry.number_of(block)
            && let Some(open) = self.pieces.open.get_mut(&block.piece)
            && open.slots[number as usize] == Slot::Arrived(peer)
        {
            open.checking = false;
            self.pieces.put(block.piece, number, Slot::Missing);
            self.settle(block.piece);
            self.all_hungry();
        }
        self.drop_peer(peer, DropReason::BadData);
    }

    /// A copy of a block, for which the verdict was [`Verdict::Duplicate`], is not what has passed.
    pub fn copy_failed(&mut self, peer: PeerId) {
        self.drop_peer(peer, DropReason::BadData);
    }

    /// Whether the next verdict about a piece should come with the digests of its blocks.
    pub fn wants_digests(&self, piece: u32) -> bool {
        self.suspects.has(piece)
    }

    /// A piece has passed as a whole and is written. `digests` are 64 bits of a hash of each of its
    /// blocks, in order; they may be left out where [`Download::wants_digests`] says no.
    pub fn piece_passed(&mut self, piece: u32, digests: &[u64]) {
        if piece >= self.pieces.geometry.pieces() {
            return;
        }
        let bad = self.suspects.convict(piece, digests);
        self.complete_piece(piece);
        bad.into_iter().for_each(|peer| self.drop_peer(peer, DropReason::BadData));
    }

    /// A piece has not passed. If one peer sent all of it, that one is dropped; else (where others
    /// sent some of it too, or some was kept from an earlier run) the piece is fetched again from one
    /// alone, and who sent other blocks is found out when that has passed, by `digests` as in
    /// [`Download::piece_passed`].
    pub fn piece_failed(&mut self, piece: u32, digests: &[u64]) {
        // A verdict about a copy that is not the one that is here any more says nothing.
        let Some(open) = self.pieces.open.get_mut(&piece).filter(|open| open.checking) else {
            return;
        };
        let sent = open.arrived();
        let senders: BTreeSet<PeerId> = sent.iter().map(|(_, from)| *from).collect();
        // What passed by its leaf is good; what was kept without a judgement may be what is bad.
        let kept = !self.by_block && open.has_passed();
        let shared = senders.len() > 1 || kept && !senders.is_empty();
        (open.checking, open.owner) = (false, None);
        open.sole |= shared;
        if shared {
            self.suspects.remember(piece, sent.iter().copied(), digests);
        }
        for (number, _) in &sent {
            self.pieces.put(piece, *number, Slot::Missing);
        }
        if senders.is_empty() || kept {
            self.pieces.distrust(piece);
        }
        self.settle(piece);
        if let (Some(only), false) = (senders.first(), shared) {
            self.drop_peer(*only, DropReason::BadData);
        }
        self.all_hungry();
    }

    // --- Time, and what comes out ---

    /// Time goes on.
    pub fn tick(&mut self, now: Timestamp) {
        let gap = now.ms_since(self.now);
        self.now = self.now.max(now);
        if self.complete {
            return;
        }
        if gap > GAP_MS {
            // The machine slept, or the clock was set: nobody has stalled in a time that was not.
            self.peers.values_mut().for_each(|peer| peer.interrupt(gap));
            self.came_at = self.came_at.plus_ms(gap);
            self.ceiling.interrupt(self.now);
        }
        for peer in self.peers.values_mut() {
            peer.tick(self.now);
        }
        self.leave_stalled();
        self.leave_choking();
        self.leave_spent();
        self.renew_leaves();
        self.move_ceiling();
        self.all_hungry();
    }

    /// When [`Download::tick`] is due, if nothing happens before; `None` where nothing is to be done.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        (!self.complete && !self.peers.is_empty()).then(|| self.now.plus_ms(TICK_MS))
    }

    /// What is to be done next.
    pub fn poll_order(&mut self) -> Option<Order> {
        if self.orders.is_empty() && !self.hungry.is_empty() {
            self.schedule();
        }
        self.orders.pop_front()
    }

    // --- What may be looked at ---

    /// Pieces that are had.
    pub fn pieces_had(&self) -> &Bitfield {
        &self.pieces.have
    }

    /// Bytes that have passed, of pieces that are had and of others.
    pub fn passed_bytes(&self) -> ByteCount {
        ByteCount::new(self.pieces.passed_bytes)
    }

    /// Blocks that have passed, of pieces that are not had: what [`Download::keep`] takes next time.
    pub fn passed_blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.pieces.passed()
    }

    /// Whether all is here.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Up to which price peers are asked now.
    pub fn price_ceiling(&self) -> Price {
        self.ceiling.price().min(self.price_max)
    }

    /// What a peer sends, in bytes a second; 0 where it is not known.
    pub fn rate(&self, peer: PeerId) -> u64 {
        self.peers.get(&peer).and_then(|peer| peer.rate.per_sec).unwrap_or(0)
    }

    /// How many blocks have been counted twice for peers that are paid.
    pub fn paid_twice(&self) -> u32 {
        self.paid_twice
    }
}

fn count_up(count: &mut u8) {
    *count = count.saturating_add(1); // at most PEERS_MAX
}

fn count_down(count: &mut u8) {
    *count = count.saturating_sub(1);
}
