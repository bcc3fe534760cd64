//! The meter: first station of the river. The data plane adds to it, accounting reads it, and
//! neither waits for the other.

use std::sync::atomic::{AtomicU64, Ordering};

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use sparewire_core::ByteCount;

/// Payload bytes carried since a session began, seen from the consumer: `up` from its
/// applications to their origins, `down` back to them.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
pub struct Reading {
    /// From the consumer.
    pub up: ByteCount,
    /// To the consumer.
    pub down: ByteCount,
}

impl Reading {
    /// Nothing carried yet.
    pub const ZERO: Self = Self { up: ByteCount::ZERO, down: ByteCount::ZERO };

    /// Both directions together (they are priced alike); `None` above `u64::MAX`.
    pub fn checked_total(self) -> Option<ByteCount> {
        self.up.checked_add(self.down)
    }

    /// What of it fits `most` bytes, what came down left out first, and nothing below `floor`.
    pub(crate) fn within(self, most: ByteCount, floor: Self) -> Self {
        let all = self.checked_total().unwrap_or(ByteCount::new(u64::MAX));
        let over = all.saturating_sub(most);
        let down = over.min(self.down.saturating_sub(floor.down));
        let up = over.saturating_sub(down).min(self.up.saturating_sub(floor.up));
        Self { up: self.up.saturating_sub(up), down: self.down.saturating_sub(down) }
    }

    /// Whether neither direction is below `other`'s.
    pub fn covers(self, other: Self) -> bool {
        self.up >= other.up && self.down >= other.down
    }
}

/// Which way a byte travels, seen from the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the consumer's application to the origin.
    Up,
    /// From the origin to the consumer's application.
    Down,
}

/// The one shared counting point of a session, and the valve in it.
///
/// Bytes are admitted before they move; what is admitted counts. The valve lets no more through
/// than its limit, so that service never runs ahead of payment by more than the credit, however
/// many streams ask at once.
#[derive(Debug)]
pub struct Meter {
    // Admission is decided on `admitted` alone, by compare-and-swap, so that two streams cannot
    // share one remaining byte. `up` and `down` follow it and are never ahead of it.
    admitted: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    limit: AtomicU64,
}

impl Meter {
    /// A meter that goes on from `start` with its valve closed at `limit` bytes in total.
    ///
    /// # Panics
    /// Where `start` is above `u64::MAX` in total; readings that went through a session machine
    /// never are.
    pub fn new(start: Reading, limit: ByteCount) -> Self {
        let total = start.checked_total().expect("a session's total fits 64 bits");
        Self {
            admitted: AtomicU64::new(total.get()),
            up: AtomicU64::new(start.up.get()),
            down: AtomicU64::new(start.down.get()),
            limit: AtomicU64::new(limit.get()),
        }
    }

    /// Counts up to `want` bytes that are about to move; returns how many may (0: the valve is
    /// closed).
    pub fn admit(&self, direction: Direction, want: usize) -> usize {
        let mut admitted = self.admitted.load(Ordering::Relaxed);
        let granted = loop {
            let room = self.limit.load(Ordering::Acquire).saturating_sub(admitted);
            let granted = room.min(want as u64);
            if granted == 0 {
                return 0;
            }
            match self.admitted.compare_exchange_weak(
                admitted,
                admitted + granted,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break granted,
                Err(now) => admitted = now,
            }
        };
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
        .fetch_add(granted, Ordering::AcqRel);
        granted as usize
    }

    /// What has been counted. Each direction only ever grows from one reading to the next.
    pub fn reading(&self) -> Reading {
        Reading {
            up: ByteCount::new(self.up.load(Ordering::Acquire)),
            down: ByteCount::new(self.down.load(Ordering::Acquire)),
        }
    }

    /// Everything admitted so far, in both directions.
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Acquire)
    }

    /// Sets how many bytes in total may pass.
    pub fn set_limit(&self, limit: ByteCount) {
        self.limit.store(limit.get(), Ordering::Release);
    }

    /// How many bytes in total may pass.
    pub fn limit(&self) -> ByteCount {
        ByteCount::new(self.limit.load(Ordering::Acquire))
    }

    /// Whether nothing more may pass until the limit is raised.
    pub fn is_closed(&self) -> bool {
        self.admitted.load(Ordering::Acquire) >= self.limit.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_valve_admits_up_to_its_limit_and_counts_what_it_admits() {
        let meter = Meter::new(Reading::ZERO, ByteCount::new(10));
        assert_eq!(meter.admit(Direction::Down, 7), 7);
        assert_eq!(meter.admit(Direction::Up, 7), 3);
        assert_eq!(meter.admit(Direction::Up, 1), 0);
        assert!(meter.is_closed());
        assert_eq!(meter.reading(), Reading { up: ByteCount::new(3), down: ByteCount::new(7) });
        meter.set_limit(ByteCount::new(12));
        assert_eq!(meter.admit(Direction::Down, 7), 2);
    }

    #[test]
    fn a_limit_below_what_was_admitted_closes_the_valve() {
        let meter = Meter::new(Reading::ZERO, ByteCount::new(10));
        assert_eq!(meter.admit(Direction::Down, 10), 10);
        meter.set_limit(ByteCount::new(4));
        assert_eq!(meter.admit(Direction::Down, 1), 0);
    }

    #[test]
    fn many_threads_never_pass_the_limit_together() {
        let meter = Meter::new(Reading::ZERO, ByteCount::new(100_000));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while meter.admit(Direction::Down, 7) > 0 {});
            }
        });
        assert_eq!(meter.reading().down, ByteCount::new(100_000));
    }
}
