//! The running streams of a session, so that one of them, or all, can be told to end.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A quarter of the dials that an exit has under way at once.
const CONNECTING_MAX: usize = 128;

/// The streams of a session.
#[derive(Debug)]
pub(crate) struct Streams {
    /// How many more may run.
    pub(crate) room: Semaphore,
    /// How many more may be connecting to their origins: a share of what the exit can do at once,
    /// so that one consumer's dead destinations do not hold up the others.
    pub(crate) connecting: Semaphore,
    /// Ends them all.
    pub(crate) all: CancellationToken,
    each: Mutex<HashMap<u64, CancellationToken>>,
}

impl Streams {
    pub(crate) fn new(streams_max: usize) -> Self {
        Self {
            room: Semaphore::new(streams_max),
            connecting: Semaphore::new(CONNECTING_MAX),
            all: CancellationToken::new(),
            each: Mutex::new(HashMap::new()),
        }
    }

    fn each(&self) -> MutexGuard<'_, HashMap<u64, CancellationToken>> {
        // Single inserts and removes: a panic leaves no half.
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream begins; the token says when it should end.
    pub(crate) fn enter(&self, stream: u64) -> CancellationToken {
        let token = self.all.child_token();
        self.each().insert(stream, token.clone());
        token
    }

    /// Ends one stream.
    pub(crate) fn cancel(&self, stream: u64) {
        if let Some(token) = self.each().get(&stream) {
            token.cancel();
        }
    }

    /// A stream has ended.
    pub(crate) fn leave(&self, stream: u64) {
        self.each().remove(&stream);
    }
}
