//! Leaf hashes (BEP 52): asked of peers, and given to them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use sparewire_content::{BLOCK_LEN, Hash, HashRequest, PeerMessage, merkle};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{connection::Connection, disk::Storage, leaf_file::AT_ONCE_MAX};

/// How many pieces' leaves are worked out at a time: it is reading and hashing for others.
const JOBS_MAX: usize = 2;
/// How many requests of a connection wait for that; more are rejected.
const WAITING_MAX: u32 = 128;
/// How many leaves are kept of pieces that were asked for: 1 MiB of them.
const KEPT_MAX: usize = 32 << 10;

/// One torrent's exchange of leaves.
#[derive(Debug)]
pub(super) struct Leaves {
    storage: Arc<Storage>,
    /// By piece. Bounded by the pieces that the download machine has under way.
    asked: Mutex<BTreeMap<u32, Asked>>,
    kept: Mutex<Kept>,
    jobs: Semaphore,
}

#[derive(Debug)]
struct Asked {
    /// Of whom.
    connection: u32,
    /// A long piece's leaves come in parts, in this order.
    parts: BTreeMap<HashRequest, Option<Vec<Hash>>>,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: BTreeMap<u32, Arc<[Hash]>>,
    leaves: usize,
}

/// What an answer is worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody asked, or more is to come.
    Nothing,
    /// The peer does not give the leaves of this piece, or gives wrong ones.
    Refused(u32),
    /// All leaves of this piece; they fit what is known above them.
    All(u32, Vec<Hash>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leaves {
    pub(super) fn new(storage: Arc<Storage>) -> Self {
        Self {
            storage,
            asked: Mutex::default(),
            kept: Mutex::default(),
            jobs: Semaphore::new(JOBS_MAX),
        }
    }

    /// Asks a peer for the leaves of a piece. `false` where it does not speak BEP 52, or there are
    /// none to ask for.
    pub(super) fn ask(&self, connection: &Connection, piece: u32) -> bool {
        let requests = self.storage.metainfo().ask_leaves(piece);
        if !connection.v2 || requests.is_empty() {
            return false;
        }
        requests.iter().for_each(|request| connection.send(&PeerMessage::HashRequest(*request)));
        let parts = requests.into_iter().map(|request| (request, None)).collect();
        lock(&self.asked).insert(piece, Asked { connection: connection.number, parts });
        true
    }

    /// The piece of which a peer was asked this.
    fn piece_of(
        asked: &BTreeMap<u32, Asked>,
        connection: u32,
        request: &HashRequest,
    ) -> Option<u32> {
        let of =
            |asked: &Asked| asked.connection == connection && asked.parts.contains_key(request);
        asked.iter().find(|(_, asked)| of(asked)).map(|(piece, _)| *piece)
    }

    /// Hashes came.
    pub(super) fn answered(&self, connection: u32, request: &HashRequest, hashes: &[u8]) -> Answer {
        let mut all = lock(&self.asked);
        let Some(piece) = Self::piece_of(&all, connection, request) else { return Answer::Nothing };
        let Some(proven) = self.storage.metainfo().proven(request, hashes) else {
            all.remove(&piece);
            return Answer::Refused(piece);
        };
        let Some(asked) = all.get_mut(&piece) else { return Answer::Nothing };
        asked.parts.insert(*request, Some(proven.to_vec()));
        if asked.parts.values().any(Option::is_none) {
            return Answer::Nothing;
        }
        let parts = all.remove(&piece).map(|asked| asked.parts).unwrap_or_default();
        let mut leaves: Vec<Hash> = parts.into_values().flatten().flatten().collect();
        leaves.truncate(self.storage.metainfo().geometry().blocks_of(piece) as usize);
        Answer::All(piece, leaves)
    }

    /// A peer rejects a request.
    pub(super) fn rejected(&self, connection: u32, request: &HashRequest) -> Answer {
        let mut all = lock(&self.asked);
        let Some(piece) = Self::piece_of(&all, connection, request) else { return Answer::Nothing };
        all.remove(&piece);
        Answer::Refused(piece)
    }

    /// A connection is over: what it was asked, it will not answer.
    pub(super) fn left(&self, connection: u32) {
        lock(&self.asked).retain(|_, asked| asked.connection != connection);
    }

    /// Answers a peer's request, when its turn has come.
    pub(super) fn give(self: &Arc<Self>, connection: &Arc<Connection>, request: HashRequest) {
        // The leaves of one short piece, in memory: sooner given than handed to another thread.
        if request.base_layer == 0 && request.proof_layers == 0 && request.length <= AT_ONCE_MAX {
            let answer = self
                .storage
                .metainfo()
                .answer(&request, |piece| self.storage.leaves_at_once(piece));
            if let Some(hashes) = &answer {
                connection.send(&PeerMessage::Hashes { request, hashes });
                return;
            }
        }
        if connection.hash_requests.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            connection.hash_requests.fetch_sub(1, Ordering::Relaxed);
            connection.send(&PeerMessage::HashReject(request));
            return;
        }
        let (this, connection) = (Arc::clone(self), Arc::clone(connection));
        tokio::spawn(async move {
            let Ok(_permit) = this.jobs.acquire().await else { return };
            if connection.ended.is_cancelled() {
                return;
            }
            let working = Arc::clone(&this);
            let answer = spawn_blocking(move || {
                working.storage.metainfo().answer(&request, |piece| working.of(piece))
            });
            let answer = answer.await.ok().flatten();
            connection.hash_requests.fetch_sub(1, Ordering::Relaxed);
            connection.send(&match &answer {
                Some(hashes) => PeerMessage::Hashes { request, hashes },
                None => PeerMessage::HashReject(request),
            });
        });
    }

    /// The leaves of a piece that we have.
    fn of(&self, piece: u32) -> Option<Vec<Hash>> {
        if let Some(leaves) = lock(&self.kept).pieces.get(&piece) {
            return Some(leaves.to_vec());
        }
        if !self.storage.has(piece) {
            return None;
        }
        if let Some(leaves) = self.storage.leaves(piece) {
            return Some(leaves);
        }
        let geometry = self.storage.metainfo().geometry();
        let mut data = vec![0; BLOCK_LEN as usize];
        let mut leaves = Vec::new();
        for number in 0..geometry.blocks_of(piece) {
            let block = geometry.block(piece, number)?;
            let data = &mut data[..block.len as usize];
            self.storage.read(piece, block.begin, data).ok()?;
            leaves.push(merkle::leaf(data));
        }
        let mut kept = lock(&self.kept);
        if kept.leaves + leaves.len() > KEPT_MAX {
            *kept = Kept::default(); // pieces are asked for once by each peer, about together
        }
        kept.leaves += leaves.len();
        kept.pieces.insert(piece, leaves.as_slice().into());
        Some(leaves)
    }
}
