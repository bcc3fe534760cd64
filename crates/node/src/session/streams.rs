//! The running streams of a session, so that one of them, or all, can be told to end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{copy::Pause, exit::Share};

/// The streams of a session.
#[derive(Debug)]
pub(crate) struct Streams {
    /// How many more may run.
    pub(crate) room: Semaphore,
    /// Their share of the provider's exit.
    pub(crate) share: Arc<Share>,
    /// Ends them all.
    pub(crate) all: CancellationToken,
    each: Mutex<HashMap<u64, Signals>>,
}

/// What a running stream is told.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// To end.
    pub(crate) cancel: CancellationToken,
    /// To send no more for now.
    pub(crate) pause: Arc<Pause>,
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

    fn each(&self) -> MutexGuard<'_, HashMap<u64, Signals>> {
        // Single inserts and removes: a panic leaves no half.
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream begins.
    pub(crate) fn enter(&self, stream: u64) -> Signals {
        let signals = Signals { cancel: self.all.child_token(), pause: Arc::default() };
        self.each().insert(stream, signals.clone());
        signals
    }

    /// Ends one stream.
    pub(crate) fn cancel(&self, stream: u64) {
        if let Some(signals) = self.each().get(&stream) {
            signals.cancel.cancel();
        }
    }

    /// Has one stream send no more for now, or go on.
    pub(crate) fn pause(&self, stream: u64, paused: bool) {
        if let Some(signals) = self.each().get(&stream) {
            signals.pause.set(paused);
        }
    }

    /// A stream has ended.
    pub(crate) fn leave(&self, stream: u64) {
        self.each().remove(&stream);
    }
}
