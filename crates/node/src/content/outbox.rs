//! What waits to be sent on one connection.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sparewire_content::Block;
use tokio::sync::Notify;

/// How many blocks a peer may have asked for at a time: what our extension handshake says.
pub(super) const REQUESTS_MAX: usize = 512;
/// How many bytes of messages may wait, blocks apart. Who leaves more unread is cut off: it is far
/// above a bitfield of the largest torrent and all requests that are ever under way.
const MESSAGES_MAX_BYTES: usize = 4 << 20;

/// Messages, and blocks that the peer asked for. Messages go first: payments are among them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: Vec<u8>,
    blocks: VecDeque<Block>,
    closed: bool,
}

/// What is to be sent next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Next {
    /// Encoded messages.
    pub(super) messages: Vec<u8>,
    /// Blocks that lie one after the other in one piece.
    pub(super) run: Vec<Block>,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts encoded messages in.
    pub(super) fn push(&self, message: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.messages.len() + message.len() > MESSAGES_MAX_BYTES {
            waiting.closed = true;
        } else {
            waiting.messages.extend_from_slice(message);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Remembers that the peer asked for a block; `false` where it asked for too many.
    pub(super) fn ask(&self, block: Block) -> bool {
        let mut waiting = self.waiting();
        if waiting.blocks.len() >= REQUESTS_MAX {
            return false;
        }
        waiting.blocks.push_back(block);
        drop(waiting);
        self.wake.notify_one();
        true
    }

    /// The peer no longer wants a block.
    pub(super) fn cancel(&self, block: Block) {
        self.waiting().blocks.retain(|asked| *asked != block);
    }

    /// Forgets what the peer asked for: it is choked.
    pub(super) fn forget_blocks(&self) {
        self.waiting().blocks.clear();
    }

    /// Takes all messages, and blocks up to `len_max` bytes (at least one, where `blocks`).
    /// `None` when the connection is to end.
    pub(super) fn take(&self, len_max: u32, blocks: bool) -> Option<Next> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return None;
        }
        let mut next = Next { messages: std::mem::take(&mut waiting.messages), run: Vec::new() };
        let mut len = 0;
        while let Some(block) = waiting.blocks.front().copied().filter(|_| blocks) {
            let goes_on = next.run.last().is_none_or(|last| {
                last.piece == block.piece && last.begin.checked_add(last.len) == Some(block.begin)
            });
            if !next.run.is_empty() && (!goes_on || len + block.len > len_max) {
                break;
            }
            len += block.len;
            next.run.push(block);
            waiting.blocks.pop_front();
        }
        Some(next)
    }

    /// Waits until something was put in since the last wait.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn block(piece: u32, begin: u32) -> Block {
        Block { piece, begin, len: 16 }
    }

    #[test]
    fn blocks_are_taken_in_runs_and_messages_before_them() {
        let outbox = Outbox::default();
        for asked in [block(1, 0), block(1, 16), block(1, 32), block(1, 64), block(2, 80)] {
            assert!(outbox.ask(asked));
        }
        outbox.push(b"abc");
        outbox.push(b"d");
        assert_eq!(outbox.take(40, false).unwrap().messages, b"abcd");
        assert_eq!(outbox.take(40, true).unwrap().run, [block(1, 0), block(1, 16)]);
        outbox.cancel(block(1, 32));
        assert_eq!(outbox.take(1, true).unwrap().run, [block(1, 64)], "one at least");
        assert_eq!(outbox.take(999, true).unwrap().run, [block(2, 80)]);
        assert_eq!(outbox.take(999, true), Some(Next::default()));
    }

    #[test]
    fn a_peer_that_asks_for_too_much_or_reads_nothing_is_cut_off() {
        let outbox = Outbox::default();
        for _ in 0..REQUESTS_MAX {
            assert!(outbox.ask(block(0, 0)));
        }
        assert!(!outbox.ask(block(0, 0)));
        outbox.forget_blocks();
        assert!(outbox.ask(block(0, 0)));
        outbox.push(&vec![0; MESSAGES_MAX_BYTES]);
        assert!(outbox.take(16, false).is_some());
        outbox.push(&vec![0; MESSAGES_MAX_BYTES + 1]);
        assert_eq!(outbox.take(16, false), None);
    }
}
