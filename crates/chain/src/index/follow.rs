//! Reads logs up to the final block, in ranges that the node takes, and what is newer on demand.

use std::{sync::atomic::Ordering, time::Duration};

use alloy_primitives::Address;
use alloy_sol_types::SolEvent;
use serde_json::{Value, json};
use sparewire_protocol::settlement::{Chain, ChainError, Head, StartedClose};

use super::{
    Index, IndexError,
    event::{Event, read},
    store::{self, Appended, Placed},
};
use crate::{
    carrier::{
        EvmChain,
        logs::{LogQuery, LogRange, LogsError},
    },
    contracts::Channels,
};

/// Blocks that are asked for first, and at most. Nodes allow from 500 to any number.
pub(super) const SPAN_FIRST: u64 = 2_000;
const SPAN_MAX: u64 = 100_000;
/// As many logs as a range may bring before the next one is no longer: it keeps an answer to a few
/// megabytes, and what is in memory at a time.
const LOGS_WANTED: usize = 5_000;
/// How often a range is asked for again when there is no answer, each time half of it.
const SILENCES_MAX: u32 = 5;
/// Most blocks beyond the cursor that are looked through for what is not final yet.
const TAIL_MAX: u64 = 2_000;
/// No chain has as many blocks.
const BLOCK_MAX: u64 = 1 << 53;

/// How far an index has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The block of the contract's deployment.
    pub first: u64,
    /// The next block that is read; everything before it is stored.
    pub next: u64,
    /// The newest block that counts as final: the index goes up to it.
    pub final_number: u64,
    /// The newest block.
    pub newest: u64,
    /// Events that were stored by this call.
    pub stored: usize,
}

impl Progress {
    /// Whether all that is final is stored.
    pub fn is_done(&self) -> bool {
        self.next > self.final_number
    }
}

impl EvmChain {
    /// Stores events of blocks that are final and not read yet, in at most `ranges_max` ranges. It
    /// goes on where it, an earlier process or another one stopped.
    ///
    /// # Errors
    /// [`IndexError::InDoubt`] where what the nodes tell cannot follow from what they told before:
    /// what is not verified is taken back, and read again by the next call.
    /// [`IndexError::HistoryGone`], [`IndexError::Chain`] and others; what is stored stays.
    pub async fn advance_index(
        &self,
        index: &Index,
        ranges_max: usize,
    ) -> Result<Progress, IndexError> {
        self.assert_of(index);
        let head = self.head().await?;
        if head.number > BLOCK_MAX {
            return Err(self.index_nonsense(format!("block {}", head.number)));
        }
        let mut next = self.next_block(index, &head).await?;
        let (mut silences, mut ranges, mut stored, mut contradictions) = (0, 0, 0, 0);
        while next <= head.final_number && ranges < ranges_max {
            let span = index.inner.span.load(Ordering::Relaxed).clamp(1, SPAN_MAX);
            let to = next.saturating_add(span - 1).min(head.final_number);
            match self.read_range(next, to, Vec::new()).await {
                Ok(range) => {
                    (ranges, silences) = (ranges + 1, 0);
                    if range.logs.len() < LOGS_WANTED {
                        let wider = span.saturating_mul(2).min(SPAN_MAX);
                        index.inner.span.store(wider, Ordering::Relaxed);
                    } else {
                        index.inner.span.store((span / 2).max(1), Ordering::Relaxed);
                    }
                    let appended = match self.placed(&range) {
                        Ok(placed) => {
                            let last = (to, range.to_hash);
                            index.work(move |db| store::append(db, next, last, &placed)).await?
                        }
                        Err(reason) => Appended::Contradicts(reason),
                    };
                    match appended {
                        Appended::Stored(events) => {
                            (next, stored, contradictions) = (to + 1, stored + events, 0);
                        }
                        Appended::Overtaken => next = self.next_block(index, &head).await?,
                        // Once may be one node behind a name that many share.
                        Appended::Contradicts(reason) if contradictions == 0 => {
                            tracing::warn!(nodes = self.endpoint(), reason, "logs do not fit");
                            contradictions += 1;
                        }
                        Appended::Contradicts(reason) => {
                            let told = format!("{reason}; told by {}", self.endpoint());
                            return Err(index.doubt(told).await);
                        }
                    }
                }
                Err(LogsError::TooMuch(reason)) if to == next => {
                    let reason = format!("the logs of block {to} alone are refused: {reason}");
                    return Err(self.index_nonsense(reason));
                }
                Err(LogsError::TooMuch(reason)) => {
                    tracing::debug!(from = next, to, reason, "fewer blocks at a time");
                    index.inner.span.store((to - next).div_ceil(2), Ordering::Relaxed);
                }
                Err(LogsError::Gone(reason)) => {
                    let endpoint = self.endpoint().to_owned();
                    return Err(IndexError::HistoryGone { endpoint, from: next, to, reason });
                }
                Err(LogsError::Node(error)) if error.is_passing() && silences < SILENCES_MAX => {
                    silences += 1;
                    tracing::debug!(from = next, to, %error, "no logs");
                    let pause = Duration::from_millis(100) * 2u32.pow(silences);
                    let patience = self.policy().retry_for;
                    let pause = match error.limit() {
                        // An answer that is too large or takes too long looks like none.
                        None => {
                            index.inner.span.store(((to - next) / 2).max(1), Ordering::Relaxed);
                            pause.min(patience)
                        }
                        // A node that counts requests wants fewer of them, not smaller ones; where
                        // it says when, it is not asked before.
                        Some(after) if after > patience => {
                            return Err(self.follower.node.blame(error).into());
                        }
                        Some(after) => after.max(pause.min(patience)),
                    };
                    tokio::time::sleep(pause).await;
                }
                Err(LogsError::Node(error)) => {
                    return Err(self.follower.node.blame(error).into());
                }
            }
        }
        let first = index.work(|db| store::state(db)).await?.first.unwrap_or_default();
        let (final_number, newest) = (head.final_number, head.number);
        Ok(Progress { first, next, final_number, newest, stored })
    }

    /// Closes of channels to `payee` that were started and are not finished, by the index and by
    /// blocks that are not final yet. The index goes on by at most `ranges_max` ranges first; while
    /// it is not at the end, what is newer is not told.
    ///
    /// # Errors
    /// As [`EvmChain::advance_index`].
    pub(crate) async fn closes_by_index(
        &self,
        index: &Index,
        payee: Address,
        ranges_max: usize,
    ) -> Result<Vec<StartedClose>, IndexError> {
        let progress = self.advance_index(index, ranges_max).await?;
        if progress.is_done() {
            self.check_index_at(index, false, progress.final_number).await?;
        }
        let stored = index.clone();
        let closes = tokio::task::spawn_blocking(move || stored.closes(Some(payee)));
        let closes = closes.await.unwrap_or(Err(IndexError::CutOff))?;
        let mut closes: Vec<StartedClose> = closes
            .into_iter()
            .map(|close| StartedClose {
                channel: close.channel,
                finish_at_secs: close.finish_at_secs,
            })
            .collect();
        if progress.is_done() && progress.next <= progress.newest {
            let from = progress.next.max(progress.newest.saturating_sub(TAIL_MAX - 1));
            let topic = Channels::CloseStarted::SIGNATURE_HASH;
            let topics = vec![json!(topic), Value::Null, Value::Null, json!(payee.into_word())];
            let tail = self.read_range(from, progress.newest, topics).await;
            match tail {
                Ok(tail) => {
                    for log in &tail.logs {
                        closes.extend(self.close_of(log.data.clone(), payee));
                    }
                }
                // The newest blocks are the ones that nodes disagree on; the next look tells.
                Err(error) => tracing::debug!(?error, "cannot look through the newest blocks"),
            }
        }
        Ok(closes)
    }

    fn close_of(&self, log: alloy_primitives::LogData, payee: Address) -> Option<StartedClose> {
        let told = read(&self.domain(), &log).ok()?.pop()?;
        match told.event {
            Event::CloseStarted { channel, finish_at_secs } if told.payee == Some(payee) => {
                Some(StartedClose { channel, finish_at_secs })
            }
            _ => None,
        }
    }

    /// The block that is read next, after what the chain has taken back since was taken back here.
    async fn next_block(&self, index: &Index, head: &Head) -> Result<u64, IndexError> {
        let mut above = u64::MAX;
        let cursor = index.work(|db| store::checkpoint(db, u64::MAX)).await?;
        // Final blocks do not change. Where one has, finality was misjudged, or the chain is another
        // one: all that is above the last block that is still there goes.
        while let Some((block, hash)) = index.work(move |db| store::checkpoint(db, above)).await? {
            if block > head.final_number {
                // The node has not come so far, or the chain has been set back: which of the two
                // shows when it has come there again.
                return Ok(block + 1);
            }
            match self.follower.node.block_hash(block).await? {
                Some(now) if now == hash => {
                    if above != u64::MAX {
                        self.take_back(index, Some(block)).await?;
                    }
                    return Ok(block + 1);
                }
                Some(_) => {}
                None => {
                    let reason = format!("block {block} is called final and is not there");
                    return Err(self.index_nonsense(reason));
                }
            }
            above = block.saturating_sub(1);
            if block == 0 {
                break;
            }
        }
        if cursor.is_some() {
            self.take_back(index, None).await?;
        }
        match index.work(|db| store::state(db)).await?.first {
            Some(first) => Ok(first),
            None => {
                let first = self.deployment_block(head.final_number).await?;
                index.work(move |db| store::set_first(db, first)).await?;
                Ok(first)
            }
        }
    }

    async fn take_back(&self, index: &Index, block: Option<u64>) -> Result<(), IndexError> {
        let to = block.map_or("the beginning".to_owned(), |block| format!("block {block}"));
        tracing::warn!(
            nodes = self.endpoint(),
            "blocks that counted as final are others now; the event index goes back to {to}"
        );
        index.forget_round();
        index.work(move |db| store::take_back(db, block, None)).await
    }

    /// The first block with the contract's code, by bisection. Nodes that keep no old state cannot
    /// tell; then it is the first block of all, which costs time and nothing else.
    async fn deployment_block(&self, final_number: u64) -> Result<u64, IndexError> {
        let node = &self.follower.node;
        let is_there = async |block| -> Result<bool, ChainError> {
            Ok(!node.code(self.domain().contract, Some(block)).await?.is_empty())
        };
        if !is_there(final_number).await? {
            // It is younger than what is final.
            return Ok(final_number + 1);
        }
        let (mut without, mut with) = (None, final_number);
        loop {
            let low = without.map_or(0, |block: u64| block + 1);
            if low >= with {
                return Ok(with);
            }
            let middle = low + (with - low) / 2;
            match is_there(middle).await {
                Ok(true) => with = middle,
                Ok(false) => without = Some(middle),
                Err(error) => {
                    let nodes = self.endpoint();
                    tracing::info!(nodes, %error, "no old state: logs are read from block {low} on");
                    return Ok(low);
                }
            }
        }
    }

    async fn read_range(
        &self,
        from: u64,
        to: u64,
        topics: Vec<Value>,
    ) -> Result<LogRange, LogsError> {
        let query = LogQuery { contract: self.domain().contract, topics, from, to };
        self.follower.node.logs(&query).await
    }

    /// What logs mean; in words where the contract cannot have written them.
    fn placed(&self, range: &LogRange) -> Result<Vec<Placed>, String> {
        let domain = self.domain();
        let placed = range.logs.iter().map(|log| {
            let told = read(&domain, &log.data)
                .map_err(|reason| format!("log {} of block {}: {reason}", log.index, log.block))?;
            Ok(Placed {
                block: log.block,
                log: log.index,
                time_secs: log.time_secs,
                transaction: log.transaction,
                told,
            })
        });
        placed.collect()
    }

    fn index_nonsense(&self, reason: String) -> IndexError {
        IndexError::Chain(ChainError::Nonsense { endpoint: self.endpoint().to_owned(), reason })
    }

    /// An index of another contract would be filled with what is not its own.
    pub(crate) fn assert_of(&self, index: &Index) {
        assert_eq!(self.domain(), index.domain(), "the index is of this chain's contract");
    }
}

impl Index {
    /// Takes back what was not verified, and answers nothing until all of it was read again and
    /// fits. Returns why.
    pub(super) async fn doubt(&self, reason: String) -> IndexError {
        tracing::error!(reason, "the event index does not fit the contract's state");
        self.forget_round();
        let told = reason.clone();
        let taken = self.work(move |db| {
            let verified = store::state(db)?.verified;
            // Only where a range ended is a place to go on from.
            let from = match verified {
                Some(block) => store::checkpoint(db, block)?.map(|(block, _)| block),
                None => None,
            };
            store::take_back(db, from, Some(&told))
        });
        match taken.await {
            Ok(()) => IndexError::InDoubt { reason },
            Err(error) => error,
        }
    }
}
