//! Whose applications may be checked on chain at a time. A handshake costs a stranger nothing and
//! costs us requests to chain nodes, so that there is a bound; it must not keep those out who have
//! paid before.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// How many of each kind are checked at once.
const CHECKS_MAX: usize = 16;
/// How long one waits to be checked: the other end gives us 20 s to answer.
const ENTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Two lines, each in the order of arrival: a crowd of channels that nobody knows holds up nobody
/// whose voucher we hold.
#[derive(Debug)]
pub(super) struct Checks {
    paid_before: Semaphore,
    new: Semaphore,
}

impl Default for Checks {
    fn default() -> Self {
        Self { paid_before: Semaphore::new(CHECKS_MAX), new: Semaphore::new(CHECKS_MAX) }
    }
}

impl Checks {
    /// A place, given back when it is dropped; `None` where none became free in time.
    pub(super) async fn enter(&self, has_paid: bool) -> Option<SemaphorePermit<'_>> {
        let line = if has_paid { &self.paid_before } else { &self.new };
        timeout(ENTER_TIMEOUT, line.acquire()).await.ok()?.ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_crowd_of_strangers_waits_and_holds_up_nobody_who_has_paid() {
        let checks = Checks::default();
        let at_once = async |has_paid| checks.enter(has_paid).now_or_never().flatten();
        let mut crowd = Vec::new();
        for _ in 0..CHECKS_MAX {
            crowd.push(at_once(false).await.expect("there is room"));
        }
        assert!(at_once(false).await.is_none());
        assert!(at_once(true).await.is_some());
        crowd.pop();
        assert!(at_once(false).await.is_some());
    }
}
