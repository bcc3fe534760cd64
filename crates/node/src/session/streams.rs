//! The running streams of a session, so that one of them, or all, can be told to end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::exit::Share;

/// The streams of a session.
#[derive(Debug)]
pub(crate) struct Streams {
    /// How many more may run.
    pub(crate) room: Semaphore,
    /// Their share of the provider's exit.
    pub(crate) share: Arc<Share>,
    /// Ends them all.
    pub(crate) all: CancellationToken,
    each: Mutex<HashMap<u64, CancellationToken>>,
}

impl Streams {
    pub(crate) fn new(streams_max: usize, share: Arc<Share>) -> Self {
        Self {
            room: Semaphore::new(streams_max),
            share,
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
