//! A connection to a peer, as the torrent and the connection's own tasks see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use sparewire_content::{Block, Extended, ExtensionIds, Handshake, PeerMessage};
use tokio_util::sync::CancellationToken;

use super::{
    admission::Admission,
    money::{Pay, Trade},
    outbox::Outbox,
};

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
            has_all: false,
            told: Vec::new(),
            served_at: 0,
        };
        Self {
            number,
            address,
            peer_id: theirs.peer_id,
            info_hash: theirs.info_hash,
            outgoing,
            extended: theirs.extended,
            v2: theirs.v2,
            hash_requests: AtomicU32::new(0),
            outbox: Outbox::default(),
            ended: CancellationToken::new(),
            sent: AtomicU64::new(0),
            state: Mutex::new(state),
        }
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
