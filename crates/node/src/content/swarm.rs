//! The download machine and the connections that it commands.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use sparewire_content::{
    Bitfield, Block, Download, DownloadSetup, DropReason, Metainfo, Order, PeerId, PeerMessage,
    Supply, Verdict,
};
use sparewire_core::{ByteCount, Price, Timestamp};
use tokio::time::Instant;

use super::{
    connection::{Connection, ConnectionError},
    intake::{Kept, Outcome},
};

/// How many requests a peer keeps waiting at least: what clients of others take for granted.
const QUEUE_MAX: u32 = 250;

/// What the torrent has to do for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Whoever is at the other end of this connection sent bad data: it is not spoken to again.
    Ban(Arc<Connection>),
    /// Judge a piece as a whole, and say digests of its blocks where `digests`.
    Check { piece: u32, digests: bool },
    /// Forget what has arrived of a piece and has not passed.
    Forget(u32),
    /// A piece is there.
    Had(u32),
    /// Ask for the leaf hashes of a piece.
    AskLeaves(Arc<Connection>, u32),
    /// All is there.
    Complete,
}

/// One torrent's peers.
#[derive(Debug)]
pub(super) struct Swarm {
    download: Download,
    connections: BTreeMap<u32, Arc<Connection>>,
    /// Whether what is missing is asked for.
    wants: bool,
    /// The machine's clock begins here: it wants one that does not jump.
    born: Instant,
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Connection {}

impl Swarm {
    pub(super) fn new(
        metainfo: &Metainfo,
        have: Bitfield,
        price_max: Price,
        random: u64,
        wants: bool,
    ) -> Self {
        let born = Instant::now();
        let download = download(metainfo, have, price_max, random);
        Self { download, connections: BTreeMap::new(), wants, born }
    }

    /// What an earlier run left of pieces that are not whole; to be said before anything else.
    pub(super) fn keep(&mut self, kept: &[Kept]) {
        for kept in kept {
            if kept.leaves_known {
                self.download.leaves_known(kept.piece);
            }
            kept.blocks.iter().for_each(|block| self.download.keep(*block));
        }
    }

    /// Goes on in place of `before`, with what is `kept` of pieces that are not whole; to be said before
    /// anything else.
    pub(super) fn follow(&mut self, before: &Self, kept: &[Kept]) {
        self.download.count_paid_twice(before.download.paid_twice());
        self.keep(kept);
    }

    fn now(&self) -> Timestamp {
        let ms = self.born.elapsed().as_millis();
        Timestamp::from_ms(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// All connections.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> + Clone {
        self.connections.values()
    }

    /// How many there are.
    pub(super) fn peers(&self) -> usize {
        self.connections.len()
    }

    /// Whether all pieces are there.
    pub(super) fn is_complete(&self) -> bool {
        self.download.is_complete()
    }

    /// Ends all connections.
    pub(super) fn end_connections(&self) {
        self.connections.values().for_each(|connection| connection.ended.cancel());
    }

    /// A peer; what it takes is said by [`Swarm::priced`].
    pub(super) fn join(&mut self, connection: &Arc<Connection>) {
        self.connections.insert(connection.number, Arc::clone(connection));
        let supply = Supply { price: None, queue_max: QUEUE_MAX };
        self.download.peer_joined(PeerId(connection.number), supply);
    }

    /// What a peer takes.
    pub(super) fn priced(&mut self, connection: &Connection, price: Price) {
        self.download.priced(PeerId(connection.number), price);
    }

    /// Nothing is to be had of a peer for now.
    pub(super) fn unpriced(&mut self, connection: &Connection) {
        self.download.unpriced(PeerId(connection.number));
    }

    /// How many bytes may come from a peer in all.
    pub(super) fn allow(&mut self, connection: &Connection, bytes: u64) {
        self.download.allow(PeerId(connection.number), ByteCount::new(bytes));
    }

    pub(super) fn leave(&mut self, connection: &Connection) {
        self.connections.remove(&connection.number);
        self.download.peer_left(PeerId(connection.number));
    }

    pub(super) fn tick(&mut self) {
        let now = self.now();
        self.download.tick(now);
    }

    /// A block came.
    pub(super) fn arrived(&mut self, connection: &Connection, block: Block) -> Verdict {
        let now = self.now();
        self.download.arrived(PeerId(connection.number), block, now)
    }

    /// What a peer says of itself.
    pub(super) fn handle(
        &mut self,
        connection: &Connection,
        message: &PeerMessage<'_>,
    ) -> Result<(), ConnectionError> {
        let peer = PeerId(connection.number);
        match message {
            PeerMessage::Choke => {
                connection.admission().withdrawn(u64::MAX);
                connection.state().serves = false;
                self.download.choked(peer);
            }
            PeerMessage::Unchoke => {
                connection.state().serves = true;
                self.download.unchoked(peer);
            }
            PeerMessage::Have(piece) if self.wants => self.download.have(peer, *piece),
            PeerMessage::Bitfield(bits) => {
                let pieces = self.download.pieces_had().pieces();
                let bits = Bitfield::from_bytes(bits, pieces)
                    .ok_or(ConnectionError::Nonsense("a bitfield of another length"))?;
                connection.state().has_all = bits.is_all();
                if self.wants {
                    self.download.bitfield(peer, &bits.to_bytes());
                }
            }
            PeerMessage::HaveAll => {
                connection.state().has_all = true;
                if self.wants {
                    self.download.have_all(peer);
                }
            }
            PeerMessage::Reject(block) => self.download.rejected(peer, *block),
            _ => {}
        }
        Ok(())
    }

    /// A peer does not give the leaf hashes of a piece.
    pub(super) fn leaves_refused(&mut self, connection: &Connection, piece: u32) {
        self.download.leaves_refused(PeerId(connection.number), piece);
    }

    /// Blocks were judged.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        let count = |from: u32, bytes: u64| {
            if let Some(connection) = self.connections.get(&from) {
                connection.admission().passed(bytes);
            }
        };
        match outcome {
            Outcome::LeavesKnown(piece) => self.download.leaves_known(piece),
            Outcome::BlockPassed { from, block } => {
                count(from, u64::from(block.len));
                self.download.passed(block);
            }
            Outcome::BlockFailed { from, block } => {
                if let Some(connection) = self.connections.get(&from) {
                    connection.admission().unwanted(u64::from(block.len));
                }
                self.download.block_failed(PeerId(from), block);
            }
            Outcome::Copy { from, block, good: true } => count(from, u64::from(block.len)),
            Outcome::Copy { from, block, good: false } => {
                if let Some(connection) = self.connections.get(&from) {
                    connection.admission().unwanted(u64::from(block.len));
                }
                self.download.copy_failed(PeerId(from));
            }
            Outcome::PiecePassed { piece, by, digests } => {
                by.into_iter().for_each(|(from, bytes)| count(from, bytes));
                self.download.piece_passed(piece, &digests);
            }
            Outcome::PieceFailed { piece, digests } => {
                self.download.piece_failed(piece, &digests);
            }
        }
    }

    /// Sends what the machine wants sent, and says what else it wants.
    pub(super) fn carry_out(&mut self) -> Vec<Errand> {
        let mut errands = Vec::new();
        while let Some(order) = self.download.poll_order() {
            let send = |peer: PeerId, message: &PeerMessage<'_>| {
                if let Some(connection) = self.connections.get(&peer.0) {
                    connection.send(message);
                }
            };
            match order {
                Order::Request(peer, block) => {
                    if let Some(connection) = self.connections.get(&peer.0) {
                        connection.admission().asked(u64::from(block.len));
                        connection.send(&PeerMessage::Request(block));
                    }
                }
                Order::Cancel(peer, block) => {
                    if let Some(connection) = self.connections.get(&peer.0) {
                        connection.admission().withdrawn(u64::from(block.len));
                        connection.send(&PeerMessage::Cancel(block));
                    }
                }
                Order::Interested(peer) => {
                    send(peer, &PeerMessage::Interested);
                    if let Some(trade) =
                        self.connections.get(&peer.0).and_then(|connection| connection.trade())
                    {
                        trade.wanted.send_replace(true);
                    }
                }
                Order::NotInterested(peer) => send(peer, &PeerMessage::NotInterested),
                Order::AskLeaves(peer, piece) => match self.connections.get(&peer.0) {
                    Some(connection) => {
                        errands.push(Errand::AskLeaves(Arc::clone(connection), piece))
                    }
                    None => self.download.leaves_refused(peer, piece),
                },
                Order::Check(piece) => {
                    let digests = self.download.wants_digests(piece);
                    errands.push(Errand::Check { piece, digests });
                }
                Order::Forget(piece) => errands.push(Errand::Forget(piece)),
                Order::Have(piece) => {
                    self.connections
                        .values()
                        .for_each(|connection| connection.send(&PeerMessage::Have(piece)));
                    errands.push(Errand::Had(piece));
                }
                Order::Drop(peer, reason) => {
                    if let Some(connection) = self.connections.get(&peer.0) {
                        tracing::debug!(address = %connection.address, "left: {reason}");
                        // With one whose credit is used up a new session can begin at once.
                        let useless = reason != DropReason::Spent;
                        connection.dropped.store(useless, Ordering::Relaxed);
                        connection.ended.cancel();
                        if reason == DropReason::BadData {
                            errands.push(Errand::Ban(Arc::clone(connection)));
                        }
                    }
                }
                Order::Complete => errands.push(Errand::Complete),
            }
        }
        errands
    }
}

fn download(metainfo: &Metainfo, have: Bitfield, price_max: Price, random: u64) -> Download {
    Download::new(DownloadSetup {
        geometry: Arc::new(metainfo.geometry().clone()),
        have,
        by_block: metainfo.hashes().v2().is_some(),
        price_max,
        random,
        now: Timestamp::default(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{net::SocketAddr, sync::atomic::AtomicU64, time::Duration};

    use sparewire_content::{Builder, Format, Handshake};

    use super::*;
    use crate::content::Admission;

    /// Counts what it would pay for.
    #[derive(Debug, Default)]
    struct Payer {
        passed: AtomicU64,
        unwanted: AtomicU64,
    }

    #[async_trait::async_trait]
    impl Admission for Payer {
        fn may_serve(&self) -> bool {
            false
        }
        fn needs_slot(&self) -> bool {
            false
        }
        fn try_admit(&self, _want: usize) -> usize {
            0
        }
        async fn wait(&self) -> bool {
            false
        }
        fn unwanted(&self, bytes: u64) {
            self.unwanted.fetch_add(bytes, Ordering::Relaxed);
        }
        fn passed(&self, bytes: u64) {
            self.passed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn seller(number: u32, swarm: &mut Swarm, units: u128) -> (Arc<Connection>, Arc<Payer>) {
        let payer = Arc::new(Payer::default());
        let theirs = Handshake {
            info_hash: [1; 20],
            peer_id: [number as u8; 20],
            extended: true,
            dht: false,
            fast: false,
            v2: true,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], number as u16));
        let admission: Arc<dyn Admission> = payer.clone();
        let connection = Arc::new(Connection::new(number, address, &theirs, true, admission));
        swarm.join(&connection);
        swarm.priced(&connection, Price::per_gib(units).unwrap());
        swarm.allow(&connection, u64::MAX);
        swarm.handle(&connection, &PeerMessage::HaveAll).unwrap();
        swarm.handle(&connection, &PeerMessage::Unchoke).unwrap();
        (connection, payer)
    }

    async fn wait(swarm: &mut Swarm, secs: u64) {
        for _ in 0..secs * 10 {
            tokio::time::advance(Duration::from_millis(100)).await;
            swarm.tick();
            swarm.carry_out();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_seller_whose_blocks_come_late_is_paid_for_them_and_left_if_they_are_bad() {
        let files = vec![(vec!["a".to_owned()], 4 << 14)];
        let builder = Builder::folder("t", files).unwrap().format(Format::V2);
        let mut builder = builder.piece_len(4 << 14).unwrap();
        builder.update(&vec![7; 4 << 14]).unwrap();
        let metainfo = builder.finish().unwrap();
        let price = Price::per_gib(9).unwrap();
        let mut swarm = Swarm::new(&metainfo, Bitfield::none(1), price, 0, true);
        let (slow, of_slow) = seller(1, &mut swarm, 5);
        wait(&mut swarm, 1).await;
        // All is asked of it, and it stalls.
        let (quick, _) = seller(2, &mut swarm, 5);
        wait(&mut swarm, 11).await;
        let block = |number| metainfo.geometry().block(0, number).unwrap();
        for number in 0..3 {
            assert_eq!(swarm.arrived(&quick, block(number)), Verdict::Wanted);
        }
        for number in 0..2 {
            assert_eq!(swarm.arrived(&slow, block(number)), Verdict::Duplicate);
        }
        let (from, len) = (slow.number, u64::from(block(0).len));
        swarm.settle(Outcome::Copy { from, block: block(0), good: true });
        assert_eq!(of_slow.passed.load(Ordering::Relaxed), len);
        assert!(!slow.ended.is_cancelled());
        swarm.settle(Outcome::Copy { from, block: block(1), good: false });
        assert_eq!(of_slow.passed.load(Ordering::Relaxed), len);
        assert_eq!(of_slow.unwanted.load(Ordering::Relaxed), len);
        assert!(swarm.carry_out().contains(&Errand::Ban(slow.clone())));
        assert!(slow.ended.is_cancelled());
    }
}
