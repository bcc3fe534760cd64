//! The download machine and the connections that it commands.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use sparewire_content::{
    Bitfield, Block, Download, DownloadSetup, DropReason, Metainfo, Order, PeerId, PeerMessage,
    Supply, Verdict,
};
use sparewire_core::{ByteCount, Price, Timestamp};

use super::{
    intake::Outcome,
    link::{Link, LinkError},
};

/// How many requests a peer keeps waiting at least: what clients of others take for granted.
const QUEUE_MAX: u32 = 250;

/// What the torrent has to do for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Nobody at this address is spoken to again.
    Ban(IpAddr),
    /// Judge a piece as a whole, and say digests of its blocks where `digests`.
    Check { piece: u32, digests: bool },
    /// Forget what has arrived of a piece and has not passed.
    Forget(u32),
    /// Ask for the leaf hashes of a piece.
    AskLeaves(Arc<Link>, u32),
    /// All is there.
    Complete,
}

/// One torrent's peers.
#[derive(Debug)]
pub(super) struct Swarm {
    download: Download,
    links: BTreeMap<u32, Arc<Link>>,
    /// The machine's clock begins here: it wants one that does not jump.
    born: Instant,
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Link {}

impl Swarm {
    pub(super) fn new(metainfo: &Metainfo, have: Bitfield, price_max: Price, random: u64) -> Self {
        let born = Instant::now();
        let download = download(metainfo, have, price_max, random);
        Self { download, links: BTreeMap::new(), born }
    }

    fn now(&self) -> Timestamp {
        let ms = self.born.elapsed().as_millis();
        Timestamp::from_ms(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// All connections.
    pub(super) fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.links.values()
    }

    /// How many there are.
    pub(super) fn peers(&self) -> usize {
        self.links.len()
    }

    /// Whether all pieces are there.
    pub(super) fn is_complete(&self) -> bool {
        self.download.is_complete()
    }

    /// Ends all connections.
    pub(super) fn end(self) {
        self.links.values().for_each(|link| link.ended.cancel());
    }

    /// A peer; what it takes is said by [`Swarm::priced`].
    pub(super) fn join(&mut self, link: &Arc<Link>) {
        self.links.insert(link.number, Arc::clone(link));
        let supply = Supply { price: None, queue_max: QUEUE_MAX };
        self.download.peer_joined(PeerId(link.number), supply);
    }

    /// What a peer takes.
    pub(super) fn priced(&mut self, link: &Link, price: Price) {
        self.download.priced(PeerId(link.number), price);
    }

    /// How many bytes may come from a peer in all.
    pub(super) fn allow(&mut self, link: &Link, bytes: u64) {
        self.download.allow(PeerId(link.number), ByteCount::new(bytes));
    }

    pub(super) fn leave(&mut self, link: &Link) {
        self.links.remove(&link.number);
        self.download.peer_left(PeerId(link.number));
    }

    pub(super) fn tick(&mut self) {
        let now = self.now();
        self.download.tick(now);
    }

    /// A block came; whether it is to be judged and written.
    pub(super) fn arrived(&mut self, link: &Link, block: Block) -> bool {
        let now = self.now();
        self.download.arrived(PeerId(link.number), block, now) == Verdict::Wanted
    }

    /// What a peer says of itself.
    pub(super) fn handle(
        &mut self,
        link: &Link,
        message: &PeerMessage<'_>,
    ) -> Result<(), LinkError> {
        let peer = PeerId(link.number);
        match message {
            PeerMessage::Choke => {
                link.admission().withdrawn(u64::MAX);
                self.download.choked(peer);
            }
            PeerMessage::Unchoke => self.download.unchoked(peer),
            PeerMessage::Have(piece) => self.download.have(peer, *piece),
            PeerMessage::Bitfield(bits) => {
                let pieces = self.download.pieces_had().pieces();
                let bits = Bitfield::from_bytes(bits, pieces)
                    .ok_or(LinkError::Nonsense("a bitfield of another length"))?;
                link.state().has_all = bits.is_all();
                self.download.bitfield(peer, &bits.to_bytes());
            }
            PeerMessage::HaveAll => {
                link.state().has_all = true;
                self.download.have_all(peer);
            }
            PeerMessage::Reject(block) => self.download.rejected(peer, *block),
            _ => {}
        }
        Ok(())
    }

    /// A peer does not give the leaf hashes of a piece.
    pub(super) fn leaves_refused(&mut self, link: &Link, piece: u32) {
        self.download.leaves_refused(PeerId(link.number), piece);
    }

    /// Blocks were judged.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        let count = |from: u32, bytes: u64| {
            if let Some(link) = self.links.get(&from) {
                link.admission().passed(bytes);
            }
        };
        match outcome {
            Outcome::LeavesKnown(piece) => self.download.leaves_known(piece),
            Outcome::BlockPassed { from, block } => {
                count(from, u64::from(block.len));
                self.download.passed(block);
            }
            Outcome::BlockFailed { from, block } => {
                self.download.block_failed(PeerId(from), block);
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
                if let Some(link) = self.links.get(&peer.0) {
                    link.send(message);
                }
            };
            match order {
                Order::Request(peer, block) => {
                    if let Some(link) = self.links.get(&peer.0) {
                        link.admission().asked(u64::from(block.len));
                        link.send(&PeerMessage::Request(block));
                    }
                }
                Order::Cancel(peer, block) => {
                    if let Some(link) = self.links.get(&peer.0) {
                        link.admission().withdrawn(u64::from(block.len));
                        link.send(&PeerMessage::Cancel(block));
                    }
                }
                Order::Interested(peer) => {
                    send(peer, &PeerMessage::Interested);
                    if let Some(trade) = self.links.get(&peer.0).and_then(|link| link.trade()) {
                        trade.wanted.send_replace(true);
                    }
                }
                Order::NotInterested(peer) => send(peer, &PeerMessage::NotInterested),
                Order::AskLeaves(peer, piece) => match self.links.get(&peer.0) {
                    Some(link) => errands.push(Errand::AskLeaves(Arc::clone(link), piece)),
                    None => self.download.leaves_refused(peer, piece),
                },
                Order::Check(piece) => {
                    let digests = self.download.wants_digests(piece);
                    errands.push(Errand::Check { piece, digests });
                }
                Order::Forget(piece) => errands.push(Errand::Forget(piece)),
                Order::Have(piece) => {
                    self.links.values().for_each(|link| link.send(&PeerMessage::Have(piece)));
                }
                Order::Drop(peer, reason) => {
                    if let Some(link) = self.links.get(&peer.0) {
                        tracing::debug!(address = %link.address, "left: {reason}");
                        link.ended.cancel();
                        if reason == DropReason::BadData {
                            errands.push(Errand::Ban(link.address.ip()));
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
