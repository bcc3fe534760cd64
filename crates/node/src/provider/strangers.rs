//! Connections whose peers have not accepted any terms yet. They cost nothing to open, so they must
//! not be able to keep others out: when there are too many, the oldest has to go.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// How many may wait at once. An honest one needs seconds, or comes again once its channel is open.
const STRANGERS_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, CancellationToken)>,
    next: u64,
}

/// One of them; it leaves the queue when this is dropped.
#[derive(Debug)]
pub(super) struct Stranger<'a> {
    queue: &'a Strangers,
    number: u64,
    /// Cancelled when it has to go.
    pub(super) evicted: CancellationToken,
}

impl Strangers {
    pub(super) fn enter(&self) -> Stranger<'_> {
        let evicted = CancellationToken::new();
        let mut queue = self.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back((number, evicted.clone()));
        if queue.waiting.len() > STRANGERS_MAX
            && let Some((_, oldest)) = queue.waiting.pop_front()
        {
            oldest.cancel();
        }
        Stranger { queue: self, number, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Plain pushes and removes: a panic leaves no half.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.queue.lock().waiting.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_stranger_goes_when_there_are_too_many_and_who_left_counts_no_more() {
        let strangers = Strangers::default();
        let mut waiting: Vec<_> = (0..STRANGERS_MAX).map(|_| strangers.enter()).collect();
        assert!(waiting.iter().all(|stranger| !stranger.evicted.is_cancelled()));
        waiting.remove(5);
        waiting.push(strangers.enter());
        assert!(waiting.iter().all(|stranger| !stranger.evicted.is_cancelled()));
        waiting.push(strangers.enter());
        let gone: Vec<_> = waiting.iter().map(|s| s.evicted.is_cancelled()).collect();
        assert!(gone[0] && gone[1..].iter().all(|gone| !gone));
    }
}
