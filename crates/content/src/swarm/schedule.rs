//! How the download moves: who is asked for what, and what becomes of what was asked.

use sparewire_core::Price;

use super::{
    CHOKING_MS, DOUBLE_MS_MIN, DOUBLED_MAX, Download, DropReason, LEAVES_MS, Order, PAID_TWICE_MAX,
    PATIENCE_MS, PeerId, SPENT_MS, STALL_MS, STALLS_MAX,
    ceiling::{Market, PREPARE_MS},
    peer::Peer,
    pieces::{Leaves, Open, Slot},
};
use crate::{BLOCK_LEN, Block};

impl Download {
    pub(super) fn all_hungry(&mut self) {
        self.hungry.extend(self.peers.keys());
    }

    /// Asks and tells those that may have to be, the cheapest first.
    pub(super) fn schedule(&mut self) {
        self.make_room();
        let mut hungry: Vec<PeerId> = std::mem::take(&mut self.hungry).into_iter().collect();
        hungry.sort_by_key(|id| (self.peers.get(id).and_then(|peer| peer.price), *id));
        for id in hungry {
            if self.may_ask(id) {
                while let Some((piece, number)) = self.choose(id) {
                    if !self.request(id, piece, number) {
                        break;
                    }
                }
            }
            self.tell_interest(id);
        }
    }

    /// Whether the price lets a peer be asked.
    fn is_employed(&self, peer: &Peer) -> bool {
        peer.price.is_some_and(|price| price <= self.price_ceiling())
    }

    fn may_ask(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| {
            peer.unchoked
                && !self.complete
                && peer.wanted > 0
                && self.is_employed(peer)
                && peer.snubbed_until.max(peer.rests_until) <= self.now
        })
    }

    fn tell_interest(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let interested = !self.complete && peer.wanted > 0 && self.is_employed(peer);
        let (told, owes) = (peer.told_interested, !peer.asks.is_empty());
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if interested && !told {
            (peer.told_interested, peer.interested_at) = (true, self.now);
            self.orders.push_back(Order::Interested(id));
        } else if !interested && told && !owes {
            peer.told_interested = false;
            self.orders.push_back(Order::NotInterested(id));
        }
    }

    // --- Choosing ---

    /// The next block to ask of a peer.
    fn choose(&self, id: PeerId) -> Option<(u32, u32)> {
        let peer = self.peers.get(&id)?;
        if peer.is_full() || !peer.affords(1) {
            return None;
        }
        let piece = self.choose_piece(id, peer);
        match piece.and_then(|piece| self.first_of(peer, piece)) {
            Some(chosen) => Some(chosen),
            None => self.choose_double(id, peer),
        }
    }

    /// The first block of a piece that may be asked of this peer.
    fn first_of(&self, peer: &Peer, piece: u32) -> Option<(u32, u32)> {
        let number = match self.pieces.open.get(&piece) {
            Some(open) => open.next_missing()?,
            None => 0, // or the first that has not passed: found when it is opened
        };
        let block = self.pieces.geometry.block(piece, number)?;
        peer.affords(u64::from(block.len)).then_some((piece, number))
    }

    fn choose_piece(&self, id: PeerId, peer: &Peer) -> Option<u32> {
        let missing = |piece: &u32| self.pieces.unfilled.contains(piece);
        let open = |piece: &u32| self.pieces.open.get(piece);
        // What it works on.
        if let Some(piece) = peer.piece.filter(missing)
            && open(&piece).is_some_and(|open| !open.sole || open.owner == Some(id))
        {
            return Some(piece);
        }
        let affords_all = |piece: u32| peer.affords(self.pieces.missing_bytes(piece));
        // What nobody works on, or, where blocks pass one by one, anybody.
        let adoptable = self.pieces.unfilled.iter().filter(|piece| peer.holds.has(**piece));
        let mut suspected = None;
        for piece in adoptable {
            let Some(open) = open(piece) else { continue };
            if open.sole {
                // Alone, and rather one that cannot have spoiled it.
                let taken = open.asked > 0 || self.owner_of(*piece).is_some();
                let unfit = !self.affords_sole(peer, *piece) || self.is_behind(id, peer, *piece);
                if taken || unfit {
                    continue;
                }
                if self.suspects.names(*piece, id) {
                    suspected = Some(*piece);
                    continue;
                }
                return Some(*piece);
            }
            if open.leaves != Leaves::None
                || (self.owner_of(*piece).is_none() && affords_all(*piece))
            {
                return Some(*piece);
            }
        }
        let fits = |piece: u32| {
            let need =
                if self.by_block { 1 } else { u64::from(self.pieces.geometry.len_of(piece)) };
            self.pieces.has_room(piece) && peer.affords(need)
        };
        if let Some(piece) = self.pieces.rarest(&peer.holds, fits) {
            return Some(piece);
        }
        // Nothing is left to begin: help with another's piece.
        let shared = self
            .pieces
            .unfilled
            .iter()
            .copied()
            .find(|piece| peer.holds.has(*piece) && open(piece).is_some_and(|open| !open.sole));
        shared.or(suspected)
    }

    /// Who works on an open piece and will ask for what is missing of it.
    fn owner_of(&self, piece: u32) -> Option<PeerId> {
        let owner = self.pieces.open.get(&piece)?.owner?;
        self.peers.get(&owner).filter(|peer| peer.piece == Some(piece)).map(|_| owner)
    }

    /// Whether another peer has shown that it sends, and this one has not: what one peer alone is to
    /// send would wait for each that only says that it has it. The other may have spoiled it: it is
    /// left if it does so again, but liars can come again and again.
    fn is_behind(&self, id: PeerId, peer: &Peer, piece: u32) -> bool {
        let sends = |peer: &Peer| peer.taken > 0 && peer.stalls == 0;
        !sends(peer)
            && self.peers.iter().any(|(other, peer)| {
                *other != id
                    && sends(peer)
                    && peer.holds.has(piece)
                    && self.affords_sole(peer, piece)
                    && self.may_ask(*other)
            })
    }

    /// A piece that has failed is fetched anew as a whole, by one peer.
    fn affords_sole(&self, peer: &Peer, piece: u32) -> bool {
        peer.affords(u64::from(self.pieces.geometry.len_of(piece)))
    }

    /// Near the end: a block that a slow peer owes, for one that would have it in half the time.
    fn choose_double(&self, id: PeerId, peer: &Peer) -> Option<(u32, u32)> {
        let is_sole = |piece: &u32| self.pieces.open.get(piece).is_some_and(|open| open.sole);
        let all_asked = self.pieces.todo.count() == 0 && self.pieces.unfilled.iter().all(is_sole);
        if !all_asked || self.doubled >= DOUBLED_MAX {
            return None;
        }
        let ours = peer.drain_ms(BLOCK_LEN);
        let mut slow: Vec<(u64, PeerId, &Peer)> = self
            .peers
            .iter()
            .filter(|(other, slow)| **other != id && !slow.asks.is_empty())
            .map(|(other, slow)| {
                let silent = self.now.ms_since(slow.progress);
                (slow.drain_ms(0).max(silent), *other, slow)
            })
            .filter(|(theirs, _, slow)| {
                // Money: the second copy may have to be paid, as long as there is room for that.
                let paid = peer.is_priced() || slow.is_priced();
                *theirs >= DOUBLE_MS_MIN
                    && *theirs / 2 > ours
                    && (!paid || self.paid_twice + self.doubled < PAID_TWICE_MAX)
            })
            .collect();
        slow.sort_by_key(|(theirs, other, _)| (*theirs, *other));
        slow.iter().rev().find_map(|(_, other, slow)| {
            // What it would send last.
            slow.asks.iter().rev().find_map(|ask| {
                let block = ask.block;
                let number = self.pieces.geometry.number_of(block)?;
                let open = self.pieces.open.get(&block.piece)?;
                let single = open.slots.get(number as usize) == Some(&Slot::Asked(*other, None));
                let may = single
                    && !open.sole
                    && peer.holds.has(block.piece)
                    && peer.affords(u64::from(block.len));
                may.then_some((block.piece, number))
            })
        })
    }

    // --- Asking ---

    pub(super) fn first_leaves(&self, piece: u32) -> Leaves {
        // The leaf of a piece of one block is its root, which is known.
        match self.by_block {
            true if self.pieces.leaves_kept.contains(&piece) => Leaves::Known,
            true if self.pieces.geometry.blocks_of(piece) > 1 => Leaves::Wanted,
            true => Leaves::Known,
            false => Leaves::None,
        }
    }

    /// Asks a peer for a block, and opens its piece where it is not open. `false` where that cannot
    /// be.
    fn request(&mut self, id: PeerId, piece: u32, number: u32) -> bool {
        let mut number = number;
        let owner = self.owner_of(piece);
        let abandoned = |open: &Open| open.sole && owner != Some(id);
        if self.pieces.open.get(&piece).is_some_and(abandoned) {
            // One peer alone is to send it, from the first block on.
            self.restart(piece);
            number = self.pieces.open.get(&piece).and_then(Open::next_missing).unwrap_or(number);
        }
        if !self.pieces.open.contains_key(&piece) {
            let leaves = self.first_leaves(piece);
            let opened = self.pieces.open(piece, leaves);
            let Some(first) = opened.and_then(|open| open.next_missing()) else { return false };
            number = first;
        }
        let Some(block) = self.pieces.geometry.block(piece, number) else { return false };
        let Some(open) = self.pieces.open.get_mut(&piece) else { return false };
        let (slot, doubled) = match open.slots[number as usize] {
            Slot::Missing => (Slot::Asked(id, None), false),
            Slot::Asked(first, None) if first != id => (Slot::Asked(first, Some(id)), true),
            _ => return false,
        };
        if owner.is_none() && !doubled {
            open.owner = Some(id);
        }
        let wants_leaves = open.leaves == Leaves::Wanted;
        self.pieces.put(piece, number, slot);
        self.doubled += u32::from(doubled);
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        if !doubled {
            peer.piece = Some(piece);
        }
        peer.ask(block, self.now);
        if wants_leaves {
            self.ask_leaves(piece);
        }
        self.orders.push_back(Order::Request(id, block));
        true
    }

    /// Asks somebody for a piece's leaf hashes, if they are wanted and nobody is being asked: a peer
    /// that works on it first, then any that has it.
    pub(super) fn ask_leaves(&mut self, piece: u32) {
        let Some(open) = self.pieces.open.get_mut(&piece) else { return };
        let gives = |id: &PeerId| {
            self.peers.get(id).is_some_and(|peer| peer.gives_leaves && peer.holds.has(piece))
        };
        match open.leaves {
            Leaves::None | Leaves::Known => return,
            Leaves::Asked(from, _) if gives(&from) => return,
            Leaves::Wanted | Leaves::Asked(..) => {}
        }
        match open.owner.filter(gives).or_else(|| self.peers.keys().copied().find(gives)) {
            Some(from) => {
                open.leaves = Leaves::Asked(from, self.now);
                self.orders.push_back(Order::AskLeaves(from, piece));
            }
            // Nobody is here who has the piece: somebody may come.
            None if !self.peers.values().any(|peer| peer.holds.has(piece)) => {
                open.leaves = Leaves::Wanted;
            }
            None => {
                open.leaves = Leaves::None;
                self.check_if_full(piece);
            }
        }
    }

    // --- What becomes of it ---

    /// A block is not wanted from this peer any more, though it was asked.
    pub(super) fn cancel(&mut self, id: PeerId, block: Block) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.forget(block, true, self.now) {
            self.orders.push_back(Order::Cancel(id, block));
            self.hungry.insert(id);
        }
    }

    /// A peer has a piece no more: what it owes of it is asked of others.
    pub(super) fn disown_one(&mut self, id: PeerId, piece: u32) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.piece = peer.piece.filter(|works_on| *works_on != piece);
        let owed = peer.asks.iter().map(|ask| ask.block).filter(|block| block.piece == piece);
        for block in owed.collect::<Vec<Block>>() {
            self.cancel(id, block);
            self.release(id, block);
        }
    }

    /// All that was asked of a peer is void: `owed`.
    pub(super) fn void(&mut self, id: PeerId, owed: &[Block]) {
        for block in owed {
            self.release(id, *block);
        }
        self.disown(id);
        if !owed.is_empty() {
            self.all_hungry();
        }
    }

    /// No piece has this peer to itself any more.
    fn disown(&mut self, id: PeerId) {
        let owned = self.pieces.open.iter().filter(|(_, open)| open.owner == Some(id));
        let owned: Vec<u32> = owned.map(|(piece, _)| *piece).collect();
        for piece in owned {
            let Some(open) = self.pieces.open.get_mut(&piece) else { continue };
            open.owner = None;
            self.settle(piece);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.piece = None;
        }
    }

    /// Nothing that has arrived of this piece counts any more. To be done while orders are being
    /// taken, so that no block arrives between this and the order to forget.
    fn restart(&mut self, piece: u32) {
        let Some(open) = self.pieces.open.get(&piece) else { return };
        let arrived = open.arrived();
        if arrived.is_empty() {
            return;
        }
        for (number, _) in arrived {
            self.pieces.put(piece, number, Slot::Missing);
        }
        self.orders.push_back(Order::Forget(piece));
    }

    /// A peer is not an asker of this block any more.
    pub(super) fn release(&mut self, id: PeerId, block: Block) {
        let Some(number) = self.pieces.geometry.number_of(block) else { return };
        let Some(open) = self.pieces.open.get(&block.piece) else { return };
        let slot = match open.slots[number as usize] {
            Slot::Asked(first, Some(second)) if first == id || second == id => {
                self.doubled -= 1;
                Slot::Asked(if first == id { second } else { first }, None)
            }
            Slot::Asked(first, None) if first == id => Slot::Missing,
            _ => return,
        };
        self.pieces.put(block.piece, number, slot);
        self.settle(block.piece);
    }

    /// Closes an open piece of which nothing is under way.
    pub(super) fn settle(&mut self, piece: u32) {
        let idle = |open: &Open| open.is_idle() && open.missing > 0 && !open.sole;
        if self.pieces.open.get(&piece).is_some_and(idle) {
            self.pieces.park(piece);
        }
    }

    /// Gives a piece out to be judged as a whole, once all of it is here.
    pub(super) fn check_if_full(&mut self, piece: u32) {
        let Some(open) = self.pieces.open.get_mut(&piece) else { return };
        let full = open.missing == 0 && open.asked == 0 && open.waiting > 0;
        if full && open.leaves == Leaves::None && !open.checking {
            open.checking = true;
            self.orders.push_back(Order::Check(piece));
        }
    }

    pub(super) fn complete_piece(&mut self, piece: u32) {
        if let Some(open) = self.pieces.open.get(&piece) {
            // Somebody knew that it is here before all of it came.
            let asked = open.slots.iter().zip(0..).filter_map(|(slot, number)| match slot {
                Slot::Asked(first, second) => Some((number, [Some(*first), *second])),
                _ => None,
            });
            for (number, askers) in asked.collect::<Vec<(u32, _)>>() {
                self.doubled -= u32::from(askers[1].is_some());
                let Some(block) = self.pieces.geometry.block(piece, number) else { continue };
                askers.into_iter().flatten().for_each(|id| self.cancel(id, block));
            }
        }
        if !self.pieces.complete(piece) {
            return;
        }
        self.orders.push_back(Order::Have(piece));
        for (id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.holds.has(piece)) {
            peer.wanted = peer.wanted.saturating_sub(1);
            if peer.wanted == 0 {
                self.hungry.insert(*id);
            }
        }
        if self.pieces.have.is_all() && !self.complete {
            self.complete = true;
            self.orders.push_back(Order::Complete);
            self.all_hungry();
        }
    }

    /// Leaves a peer: nothing that it still sends counts.
    pub(super) fn drop_peer(&mut self, id: PeerId, reason: DropReason) {
        self.peer_left(id);
        self.orders.push_back(Order::Drop(id, reason));
    }

    // --- As time goes on ---

    pub(super) fn leave_stalled(&mut self) {
        let now = self.now;
        let stalled =
            |peer: &Peer| !peer.asks.is_empty() && now.ms_since(peer.progress) >= STALL_MS;
        let ids: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| stalled(peer)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.stalls += 1;
            if peer.stalls >= STALLS_MAX {
                self.drop_peer(id, DropReason::Stalled);
                continue;
            }
            peer.snubbed_until = now.plus_ms(STALL_MS << (peer.stalls - 1));
            peer.shrink();
            let owed: Vec<Block> = peer.asks.iter().map(|ask| ask.block).collect();
            for block in owed {
                self.cancel(id, block);
                self.release(id, block);
            }
            self.disown(id);
        }
    }

    /// Leaves peers that could be paid, and do not answer requests, whatever they choke and unchoke:
    /// another may have their place.
    pub(super) fn leave_choking(&mut self) {
        let chokes = |peer: &Peer| {
            let idle = peer.unchoked.then_some(self.now); // it waits for us
            let since = peer.waited_since.or(idle).unwrap_or(peer.progress);
            peer.is_priced()
                && peer.told_interested
                && peer.limit > peer.taken
                && self.now.ms_since(since.max(peer.interested_at)) >= CHOKING_MS
        };
        let choking = self.peers.iter().filter(|(_, peer)| chokes(peer));
        let choking: Vec<PeerId> = choking.map(|(id, _)| *id).collect();
        choking.into_iter().for_each(|id| self.drop_peer(id, DropReason::Stalled));
    }

    /// Leaves peers that we would pay, but whose credit is taken up by what never passed.
    pub(super) fn leave_spent(&mut self) {
        let need = match self.by_block {
            true => u64::from(BLOCK_LEN.min(self.pieces.geometry.piece_len())),
            false => u64::from(self.pieces.geometry.piece_len()),
        };
        let is_spent = |peer: &Peer| {
            peer.is_priced()
                && peer.told_interested
                && peer.void.is_empty() // else its credit may soon be there again
                && peer.unchoked
                && peer.limit > 0
                && peer.asks.is_empty()
                && self.now.ms_since(peer.progress) >= SPENT_MS
                && !peer.affords(need)
        };
        let spent = self.peers.iter().filter(|(_, peer)| is_spent(peer));
        let spent: Vec<PeerId> = spent.map(|(id, _)| *id).collect();
        spent.into_iter().for_each(|id| self.drop_peer(id, DropReason::Spent));
    }

    /// Blocks that wait for others that nobody gives must not keep out those that somebody does.
    fn make_room(&mut self) {
        if self.pieces.open.len() > 1
            && !self.pieces.has_room(0)
            && let Some(piece) = self.pieces.stranded()
        {
            self.restart(piece);
            self.pieces.park(piece);
        }
    }

    pub(super) fn renew_leaves(&mut self) {
        let now = self.now;
        let is_due = |open: &Open| match open.leaves {
            Leaves::Wanted => true,
            // One that sends blocks may be slow with hashes too.
            Leaves::Asked(from, at) => self
                .peers
                .get(&from)
                .is_none_or(|peer| now.ms_since(at.max(peer.progress)) >= LEAVES_MS),
            Leaves::None | Leaves::Known => false,
        };
        let due = self.pieces.open.iter().filter(|(_, open)| is_due(open));
        let due: Vec<(u32, Leaves)> = due.map(|(piece, open)| (*piece, open.leaves)).collect();
        for (piece, leaves) in due {
            match leaves {
                Leaves::Asked(from, _) => self.leaves_refused(from, piece),
                _ => self.ask_leaves(piece),
            }
        }
    }

    pub(super) fn move_ceiling(&mut self) {
        let now = self.now;
        let useful = |peer: &Peer| peer.wanted > 0 && peer.snubbed_until <= now;
        let mut prices: Vec<Price> = self
            .peers
            .values()
            .filter(|peer| useful(peer))
            .filter_map(|peer| peer.price.filter(|price| *price <= self.price_max))
            .collect();
        prices.sort_unstable();
        prices.dedup();
        let employed = || self.peers.values().filter(|peer| useful(peer) && self.is_employed(peer));
        let prepares = |peer: &Peer| {
            let since = if peer.told_interested { peer.interested_at } else { now };
            peer.limit == 0 && now.ms_since(since) < PREPARE_MS
        };
        let preparing = employed().any(prepares);
        let nothing_came = now.ms_since(self.came_at) >= PATIENCE_MS;
        let starved = employed().next().is_none() || (nothing_came && !preparing);
        let market = Market { prices: &prices, bytes: self.came, starved, preparing };
        if self.ceiling.step(now, &market) {
            self.came_at = now;
        }
    }
}
