//! What a peer may be sent, and what was got from it: where money comes in.

use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

/// Stands between a connection and its blocks, in both directions. Without money it is [`Free`].
#[async_trait]
pub trait Admission: Debug + Send + Sync {
    /// Whether the peer may be served now: whether it may be unchoked.
    fn may_serve(&self) -> bool;

    /// Whether it takes one of the places for those who do not pay.
    fn needs_slot(&self) -> bool;

    /// Under which session something is let pass: what was let pass under another is let pass no
    /// more.
    fn epoch(&self) -> u64 {
        0
    }

    /// Lets up to `want` bytes of blocks pass to the peer, and counts what it lets pass.
    fn try_admit(&self, want: usize) -> usize;

    /// Waits until something may pass; `false` when nothing ever will.
    async fn wait(&self) -> bool;

    /// Bytes were asked of the peer.
    fn asked(&self, _bytes: u64) {}

    /// Bytes that were asked for are not waited for any more; all, with `u64::MAX`.
    fn withdrawn(&self, _bytes: u64) {}

    /// Bytes of a block arrived; whether they are good is still to be seen.
    fn arrived(&self, _bytes: u64) {}

    /// Bytes that arrived are a copy, were not asked for, or did not pass: nothing is owed for them.
    fn unwanted(&self, _bytes: u64) {}

    /// Counts bytes from the peer that have passed their hash.
    fn passed(&self, bytes: u64);
}

/// A peer that neither pays nor is paid: it shares one rate with all others like it.
#[derive(Debug)]
pub struct Free {
    rate: Arc<Rate>,
    got: AtomicU64,
}

impl Free {
    /// Shares `rate`.
    pub fn new(rate: Arc<Rate>) -> Self {
        Self { rate, got: AtomicU64::new(0) }
    }

    /// Bytes from the peer that passed their hash.
    pub fn got(&self) -> u64 {
        self.got.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Admission for Free {
    fn may_serve(&self) -> bool {
        self.rate.bytes_per_s != Some(0)
    }

    fn needs_slot(&self) -> bool {
        true
    }

    fn try_admit(&self, want: usize) -> usize {
        self.rate.take(want)
    }

    async fn wait(&self) -> bool {
        self.rate.wait().await
    }

    fn passed(&self, bytes: u64) {
        self.got.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes per second that several connections share: a bucket that holds a second's worth.
#[derive(Debug)]
pub struct Rate {
    bytes_per_s: Option<u64>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    bytes: u64,
    filled: Instant,
}

impl Rate {
    /// `None` is without a bound, `Some(0)` lets nothing pass.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        let bytes = bytes_per_s.unwrap_or(0);
        Self { bytes_per_s, bucket: Mutex::new(Bucket { bytes, filled: Instant::now() }) }
    }

    fn take(&self, want: usize) -> usize {
        let Some(rate) = self.bytes_per_s else { return want };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed_us = now.saturating_duration_since(bucket.filled).as_micros();
        let new = u128::from(rate) * elapsed_us / 1_000_000;
        if new > 0 {
            // Below one byte nothing is added, and the time goes on counting.
            let new = u64::try_from(new).unwrap_or(u64::MAX);
            bucket.bytes = bucket.bytes.saturating_add(new).min(rate);
            bucket.filled = now;
        }
        let taken = want.min(usize::try_from(bucket.bytes).unwrap_or(usize::MAX));
        bucket.bytes -= taken as u64;
        taken
    }

    async fn wait(&self) -> bool {
        match self.bytes_per_s {
            None => true,
            Some(0) => false,
            Some(rate) => {
                // Until about a block's worth is there, so that it is not doled out in crumbs.
                let block_us = u64::from(sparewire_content::BLOCK_LEN) * 1_000_000 / rate;
                let pause = Duration::from_micros(block_us.clamp(1_000, 1_000_000));
                tokio::time::sleep(pause).await;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_lets_a_second_s_worth_pass_and_then_what_time_adds() {
        let rate = Rate::new(Some(1000));
        assert_eq!(rate.take(600), 600);
        assert_eq!(rate.take(600), 400);
        assert_eq!(rate.take(600), 0);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(rate.take(600), 500);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(rate.take(5000), 1000, "no more than a second's worth is kept");
        assert!(rate.wait().await);
    }

    #[tokio::test]
    async fn a_rate_of_nothing_is_never_waited_for() {
        let free = Free::new(Arc::new(Rate::new(Some(0))));
        assert!(!free.may_serve());
        assert_eq!(free.try_admit(1), 0);
        assert!(!free.wait().await);
    }
}
