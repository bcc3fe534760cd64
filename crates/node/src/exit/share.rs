//! A session's share of the exit: connecting is work that is not billed, so one consumer's countless
//! or dead destinations must not hold up the others.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};

use super::{DIALS_MAX, LOOKUPS_MAX};
use crate::refusal::{Refusal, RefusalKind};

/// A quarter of the dials that an exit has under way at once.
const DIALS_SHARE: usize = DIALS_MAX / 4;
/// A quarter of its look-ups.
const LOOKUPS_SHARE: usize = LOOKUPS_MAX / 4;
/// How many seconds' worth of connections may come at once.
const BURST_SECS: u32 = 10;

/// What one session may ask of an exit.
#[derive(Debug)]
pub struct Share {
    dials: Semaphore,
    /// Held until a look-up is over, which may be long after nobody waits for it any more.
    pub(super) lookups: Arc<Semaphore>,
    rate: Rate,
}

impl Default for Share {
    /// With as many connections a second as there are.
    fn default() -> Self {
        Self::new(u32::MAX)
    }
}

impl Share {
    /// With `per_sec_max` new connections a second, and ten seconds' worth of them at once.
    pub fn new(per_sec_max: u32) -> Self {
        Self {
            dials: Semaphore::new(DIALS_SHARE),
            lookups: Arc::new(Semaphore::new(LOOKUPS_SHARE)),
            rate: Rate::new(per_sec_max),
        }
    }

    /// Whether forgetting it would make no difference: nothing is under way, and all that may come
    /// at once may come.
    pub(crate) fn is_idle(&self) -> bool {
        self.dials.available_permits() == DIALS_SHARE
            && self.lookups.available_permits() == LOOKUPS_SHARE
            && self.rate.is_rested()
    }

    /// Waits for this session's turn to dial.
    pub(super) async fn turn(&self, patience: Duration) -> Result<SemaphorePermit<'_>, Refusal> {
        let busy = |reason: &str| Refusal::new(RefusalKind::Busy, reason);
        let until = Instant::now() + patience;
        if timeout_at(until, self.rate.turn()).await.is_err() {
            let reason = format!(
                "connections are opened faster than the provider's {} a second",
                self.rate.per_sec_max
            );
            return Err(busy(&reason));
        }
        match timeout_at(until, self.dials.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(busy("too many connections are being opened")),
        }
    }
}

/// A token bucket, kept as the time at which it will be full again.
#[derive(Debug)]
struct Rate {
    per_sec_max: u32,
    each: Duration,
    burst: Duration,
    /// The lock is the queue: whoever is first in it waits for the next token, the others for the
    /// lock, and who goes away takes nothing along.
    full_at: Mutex<Instant>,
}

impl Rate {
    fn new(per_sec_max: u32) -> Self {
        let per_sec_max = per_sec_max.max(1);
        let each = Duration::from_secs(1) / per_sec_max;
        let burst = each * (per_sec_max.saturating_mul(BURST_SECS) - 1);
        Self { per_sec_max, each, burst, full_at: Mutex::new(Instant::now()) }
    }

    async fn turn(&self) {
        let mut full_at = self.full_at.lock().await;
        let early = full_at.saturating_duration_since(Instant::now()).saturating_sub(self.burst);
        if early > Duration::ZERO {
            sleep(early).await;
        }
        *full_at = (*full_at).max(Instant::now()) + self.each;
    }

    fn is_rested(&self) -> bool {
        self.full_at.try_lock().is_ok_and(|full_at| *full_at <= Instant::now())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_over_the_rate_wait_their_turn_and_are_refused_when_it_does_not_come() {
        let share = Share::new(10);
        let (soon, never) = (Duration::from_millis(20), Duration::from_secs(60));
        let began = Instant::now();
        for _ in 0..100 {
            drop(share.turn(soon).await.unwrap());
        }
        assert!(began.elapsed() < Duration::from_millis(500), "a burst is let through at once");
        assert!(!share.is_idle());
        let refusal = share.turn(soon).await.unwrap_err();
        assert_eq!(refusal.kind(), RefusalKind::Busy);
        assert!(refusal.reason().contains("10 a second"), "{refusal}");
        for _ in 0..5 {
            drop(share.turn(never).await.unwrap());
        }
        let took = began.elapsed();
        assert!((500..5_000).contains(&took.as_millis()), "a tenth of a second each: {took:?}");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_takes_no_turn_along() {
        let share = Share::new(5);
        for _ in 0..50 {
            drop(share.turn(Duration::from_millis(20)).await.unwrap());
        }
        let began = Instant::now();
        for _ in 0..10 {
            assert!(share.turn(Duration::from_millis(1)).await.is_err());
        }
        drop(share.turn(Duration::from_secs(60)).await.unwrap());
        assert!(began.elapsed() < Duration::from_secs(2), "the next turn is not ten turns away");
    }

    #[tokio::test]
    async fn no_more_dial_at_once_than_the_share_and_an_unused_share_is_idle() {
        let share = Share::default();
        assert!(share.is_idle());
        let patience = Duration::from_millis(20);
        let mut turns = Vec::new();
        for _ in 0..DIALS_SHARE {
            turns.push(share.turn(patience).await.unwrap());
        }
        assert_eq!(share.turn(patience).await.unwrap_err().kind(), RefusalKind::Busy);
        turns.pop();
        drop(share.turn(patience).await.unwrap());
        drop(turns);
        sleep(patience).await;
        assert!(share.is_idle());
    }
}
