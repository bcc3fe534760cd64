//! Whose turn it is: one performer of a wallet at a time, urgent ones before all others, and each of
//! the two in the order in which they came.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// Who has the turn, and who waits for it.
#[derive(Default)]
pub(super) struct Turns(Mutex<Line>);

/// As many wait as there are callers, who bound it themselves.
#[derive(Default)]
struct Line {
    taken: bool,
    urgent: VecDeque<oneshot::Sender<Turn>>,
    others: VecDeque<oneshot::Sender<Turn>>,
}

/// The turn. It goes to the next one when it is dropped, wherever that happens: a caller may go away
/// while he waits, or when it is just handed to him.
#[must_use]
pub(super) struct Turn(Option<Arc<Turns>>);

impl Turns {
    /// Waits for the turn.
    pub(super) async fn take(self: &Arc<Self>, urgent: bool) -> Turn {
        loop {
            let handed = {
                let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if !line.taken {
                    line.taken = true;
                    return Turn(Some(self.clone()));
                }
                let (sender, handed) = oneshot::channel();
                let waiting = if urgent { &mut line.urgent } else { &mut line.others };
                waiting.push_back(sender);
                handed
            };
            // A sender is dropped only with the line, which we hold on to.
            if let Ok(turn) = handed.await {
                return turn;
            }
        }
    }

    /// Who is next; where nobody is, the turn is free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = line.urgent.pop_front().or_else(|| line.others.pop_front());
        line.taken = next.is_some();
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        // In a loop: thousands may have gone away, each of whom would hand it on from within.
        while let Some(next) = turns.next() {
            match next.send(Turn(Some(turns.clone()))) {
                Ok(()) => return,
                Err(mut refused) => refused.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use futures_util::{FutureExt, poll};

    use super::*;

    #[tokio::test]
    async fn urgent_ones_go_first_and_each_kind_in_the_order_in_which_it_came() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(false).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, urgent) in [("a", false), ("b", true), ("c", false), ("d", true)] {
            let (turns, order) = (turns.clone(), order.clone());
            let mut waits = Box::pin(async move {
                let turn = turns.take(urgent).await;
                order.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                drop(turn);
            });
            assert!(poll!(&mut waits).is_pending());
            waiting.push(waits);
        }
        drop(first);
        // Whoever is asked first: only the one whose turn it is goes on.
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain_mut(|waits| waits.now_or_never().is_none());
            assert!(waiting.len() < before, "nobody has the turn");
        }
        assert_eq!(*order.lock().unwrap_or_else(PoisonError::into_inner), ["b", "d", "a", "c"]);
    }

    #[tokio::test]
    async fn who_goes_away_before_or_after_it_is_handed_to_him_keeps_it_from_nobody() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(true).await;
        let mut gone = Vec::new();
        for _ in 0..50_000 {
            let mut waits = Box::pin(turns.take(true));
            assert!(poll!(&mut waits).is_pending());
            gone.push(waits);
        }
        let mut handed = pin!(turns.take(false));
        assert!(poll!(&mut handed).is_pending());
        let kept = gone.pop();
        drop(gone);
        drop(first);
        // It is the one's who has not asked again yet; then he goes away too.
        assert!(poll!(&mut handed).is_pending());
        drop(kept);
        let Poll::Ready(turn) = poll!(&mut handed) else { panic!("it is lost") };
        drop(turn);
        assert!(turns.take(false).now_or_never().is_some(), "free again");
    }
}
