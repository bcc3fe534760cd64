//! A connection to a peer, as the torrent and the connection's own tasks see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use sparewire_content::{Block, Extended, ExtensionIds, Handshake, PeerMessage};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    admission::Admission,
    money::{Pay, Trade},
    outbox::Outbox,
};

/// Two ends that dial each other have crossed where one connection is no older than this as the other
/// comes: more than any handshake takes.
const CROSSED: Duration = Duration::from_secs(10);

/// Why a connection ends.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The network.
    #[error("the connection broke: {0}")]
    Network(String),
    /// The peer closed it.
    #[error("the peer left")]
    Left,
    /// It does not answer, or does not read.
    #[error("the peer is silent")]
    Silent,
    /// It sends what nobody should.
    #[error(transparent)]
    Wire(#[from] sparewire_content::WireError),
    /// It asks for, or has, what there is not.
    #[error("the peer speaks of another torrent: {0}")]
    Nonsense(&'static str),
    /// Another one leads to where this one does.
    #[error("it is connected already")]
    Duplicate,
    /// The torrent, or the download machine, is done with it.
    #[error("{0}")]
    Closed(&'static str),
    /// Ours.
    #[error(transparent)]
    Disk(#[from] super::files::DiskError),
}

impl From<std::io::Error> for ConnectionError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Left,
            _ => Self::Network(error.to_string()),
        }
    }
}

/// What is known of a connection, and what it is to be sent.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number among the torrent's connections; never used twice.
    pub(super) number: u32,
    born: Instant,
    pub(super) address: SocketAddr,
    pub(super) peer_id: [u8; 20],
    /// As both handshakes named the torrent.
    pub(super) info_hash: [u8; 20],
    /// We dialled.
    pub(super) outgoing: bool,
    /// It speaks BEP 10.
    pub(super) extended: bool,
    /// It speaks BEP 52: it gives hashes.
    pub(super) v2: bool,
    /// How many of its requests for hashes wait.
    pub(super) hash_requests: AtomicU32,
    pub(super) outbox: Outbox,
    /// Cancelled when the connection is to end.
    pub(super) ended: CancellationToken,
    /// The download machine has left it: nothing good is to be had there soon.
    pub(super) dropped: AtomicBool,
    pub(super) sent: AtomicU64,
    state: Mutex<State>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) admission: Arc<dyn Admission>,
    pub(super) ids: ExtensionIds,
    pub(super) pay: Pay,
    pub(super) client: Option<String>,
    /// Where it takes connections.
    pub(super) listens: Option<SocketAddr>,
    /// It wants something of us.
    pub(super) interested: bool,
    /// We serve it.
    pub(super) unchoked: bool,
    /// It serves us.
    pub(super) serves: bool,
    /// It has all pieces.
    pub(super) has_all: bool,
    /// Which others it was told of.
    pub(super) told: Vec<SocketAddr>,
    /// When it was last served, or stopped being served, in turns of the choker.
    pub(super) served_at: u64,
}

impl Connection {
    pub(super) fn new(
        number: u32,
        address: SocketAddr,
        theirs: &Handshake,
        outgoing: bool,
        admission: Arc<dyn Admission>,
    ) -> Self {
        let state = State {
            admission,
            ids: ExtensionIds::default(),
            pay: Pay::default(),
            client: None,
            listens: outgoing.then_some(address),
            interested: false,
            unchoked: false,
            serves: false,
            has_all: false,
            told: Vec::new(),
            served_at: 0,
        };
        Self {
            number,
            born: Instant::now(),
            address,
            peer_id: theirs.peer_id,
            info_hash: theirs.info_hash,
            outgoing,
            extended: theirs.extended,
            v2: theirs.v2,
            hash_requests: AtomicU32::new(0),
            outbox: Outbox::default(),
            ended: CancellationToken::new(),
            dropped: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    /// How long it has been there.
    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Whether this one, to a peer to which `older` leads too, stays, and not that one; `ours` is our
    /// peer id. Where both ends have dialled, that of the smaller peer id stays: both find the same. One
    /// that has been there for longer, or is traded over, stays: nobody in between can have it given up
    /// for another.
    pub(super) fn replaces(&self, older: &Self, ours: [u8; 20]) -> bool {
        let crossed = self.outgoing != older.outgoing
            && older.born.elapsed() < CROSSED
            && older.trade().is_none();
        older.ended.is_cancelled() || crossed && self.outgoing == (ours < self.peer_id)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admission(&self) -> Arc<dyn Admission> {
        Arc::clone(&self.state().admission)
    }

    /// What is traded with the peer.
    pub(super) fn trade(&self) -> Option<Arc<Trade>> {
        match &self.state().pay {
            Pay::Trading(trade) => Some(Arc::clone(trade)),
            Pay::Unknown | Pay::Binding(_) | Pay::Refused => None,
        }
    }

    /// Sends a message.
    pub(super) fn send(&self, message: &PeerMessage<'_>) {
        let mut bytes = Vec::with_capacity(32);
        message.write(&mut bytes);
        self.outbox.push(&bytes);
    }

    /// Sends a message of an extension, where the peer speaks it.
    pub(super) fn send_extended(&self, message: &Extended<'_>) -> bool {
        let ids = self.state().ids;
        let mut bytes = Vec::new();
        let speaks = ids.write(message, &mut bytes);
        if speaks {
            self.outbox.push(&bytes);
        }
        speaks
    }

    /// Serves the peer from now on.
    pub(super) fn unchoke(&self, turn: u64) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.unchoked, true) {
            state.served_at = turn;
            drop(state);
            self.send(&PeerMessage::Unchoke);
        }
    }

    /// Serves the peer no more. What it asked for is forgotten, as it will forget it.
    pub(super) fn choke(&self, turn: u64) {
        let mut state = self.state();
        if std::mem::replace(&mut state.unchoked, false) {
            state.served_at = turn;
            drop(state);
            self.outbox.forget_blocks();
            self.send(&PeerMessage::Choke);
        }
    }

    /// The peer wants a block. Not served are those who are choked: they know.
    pub(super) fn asked(&self, block: Block) -> Result<(), ConnectionError> {
        if self.state().unchoked && !self.outbox.ask(block) {
            return Err(ConnectionError::Nonsense("more requests than we said that we keep"));
        }
        Ok(())
    }

    pub(super) fn count_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::admission::{Free, Rate};

    /// As the end with the one peer id sees a connection with the other.
    fn seen(number: u32, outgoing: bool, peer: u8) -> Connection {
        let theirs = Handshake {
            info_hash: [1; 20],
            peer_id: [peer; 20],
            extended: true,
            dht: false,
            fast: false,
            v2: true,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], u16::from(peer)));
        let nothing = Arc::new(Free::new(Arc::new(Rate::new(None))));
        Connection::new(number, address, &theirs, outgoing, nothing)
    }

    #[tokio::test(start_paused = true)]
    async fn ends_that_dial_each_other_at_once_keep_the_same_connection() {
        // Each end has first heard of the one that it accepted, or of the one that it dialled.
        for first_accepted in [false, true] {
            let [stays_at_one, stays_at_other] = [(1, 2), (2, 1)].map(|(ours, peer)| {
                let older = seen(0, !first_accepted, peer);
                let newer = seen(1, first_accepted, peer);
                let stays = if newer.replaces(&older, [ours; 20]) { newer } else { older };
                // Whose connection it is.
                if stays.outgoing { ours } else { peer }
            });
            assert_eq!((stays_at_one, stays_at_other), (1, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_been_there_for_longer_stays_unless_it_has_ended() {
        let (older, again) = (seen(0, false, 2), seen(1, false, 2));
        assert!(!again.replaces(&older, [1; 20]), "both came from there");
        tokio::time::advance(CROSSED).await;
        let newer = seen(2, true, 2);
        assert!(!newer.replaces(&older, [1; 20]));
        older.ended.cancel();
        assert!(newer.replaces(&older, [1; 20]));
    }
}
