//! Ctrl-C and SIGTERM: the first asks a command to finish, the next one ends it.

use std::fmt;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask this process to end. Until this is made they end it by themselves, which
/// is right while there is nothing to finish.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Takes the signals over, for the rest of the process's life.
    pub(crate) fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The result of `work`, unless a signal is quicker: then the error says what that `means`.
    ///
    /// `work` is then left as it is, as by a power cut, and not dropped: what is torn down in the
    /// middle complains, and the process is about to end.
    pub(crate) async fn or<T>(
        &mut self,
        means: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let mut work = Box::pin(work);
        tokio::select! {
            done = &mut work => Ok(done),
            () = self.next() => {
                std::mem::forget(work);
                Err(Interrupted(means))
            }
        }
    }
}

/// A command that was ended before it was done, and what that means. `main` makes exit code 130
/// of it.
#[derive(Debug)]
pub(crate) struct Interrupted(&'static str);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted: {}", self.0)
    }
}

impl std::error::Error for Interrupted {}
