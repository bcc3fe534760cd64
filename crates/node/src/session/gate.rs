//! The session's counting point, shared by its data streams and its accounting.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use sparewire_core::ByteCount;
use sparewire_protocol::{Direction, Meter, Reading};
use tokio::sync::Notify;

use crate::copy::{Gate, Tally};

/// A [`Meter`] that wakes accounting when a mark is passed or the valve has closed, and wakes
/// streams when the valve opens. The data plane takes no lock in it.
#[derive(Debug)]
pub struct SessionMeter {
    meter: Meter,
    /// Total at which accounting wants to look.
    mark: AtomicU64,
    accounting: Notify,
    opened: Notify,
    stopped: AtomicBool,
    /// Something was not let through since the limit was last set.
    turned_away: AtomicBool,
    /// Streams that wait for the valve.
    waiting: AtomicU32,
}

impl SessionMeter {
    /// Goes on from `start`; no byte passes above `limit`.
    pub fn new(start: Reading, limit: ByteCount) -> Self {
        Self {
            meter: Meter::new(start, limit),
            mark: AtomicU64::new(0),
            accounting: Notify::new(),
            opened: Notify::new(),
            stopped: AtomicBool::new(false),
            turned_away: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
        }
    }

    /// What has been counted.
    pub fn reading(&self) -> Reading {
        self.meter.reading()
    }

    /// Opens or closes the valve at `limit` bytes in total.
    pub(crate) fn set_limit(&self, limit: ByteCount) {
        self.turned_away.store(false, Ordering::Relaxed);
        self.meter.set_limit(limit);
        self.opened.notify_waiters();
    }

    /// Whether something was not let through since the limit was last set.
    pub(crate) fn has_turned_away(&self) -> bool {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// How many streams wait for the valve.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Calls accounting once `mark` bytes in total have passed.
    pub(crate) fn set_mark(&self, mark: ByteCount) {
        self.mark.store(mark.get(), Ordering::Relaxed);
        if self.meter.admitted() >= mark.get() {
            self.accounting.notify_one(); // passed while we were setting it
        }
    }

    /// Waits for the mark.
    pub(crate) async fn marked(&self) {
        self.accounting.notified().await;
    }

    /// The session is over: nothing passes any more, and who waits is told.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.meter.set_limit(ByteCount::ZERO);
        self.opened.notify_waiters();
    }

    /// Whether the valve is closed for now.
    pub fn is_closed(&self) -> bool {
        self.meter.is_closed()
    }

    /// Whether the session is over.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Gate for SessionMeter {
    fn try_admit(&self, direction: Direction, want: usize) -> usize {
        let granted = self.meter.admit(direction, want);
        if granted == 0 {
            self.turned_away.store(true, Ordering::Relaxed);
        }
        if granted == 0 || self.meter.admitted() >= self.mark.load(Ordering::Relaxed) {
            self.accounting.notify_one();
        }
        granted
    }

    async fn wait(&self) -> bool {
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let opened = self.opened.notified();
            if self.stopped.load(Ordering::Acquire) {
                return false;
            }
            if !self.meter.is_closed() {
                return true;
            }
            opened.await;
        }
    }
}

/// A stream that waits, for as long as it does: its task may be dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tally for SessionMeter {
    /// The consumer's valve never closes: it counts what has already arrived.
    fn count(&self, direction: Direction, bytes: usize) {
        self.try_admit(direction, bytes);
    }
}
