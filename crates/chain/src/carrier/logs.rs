//! Logs of a contract, as nodes tell them: each answer is brought into one form, so that those of
//! several nodes can be compared, and what no node can rightly say is refused before that.

use std::{collections::BTreeMap, sync::Mutex};

use alloy_primitives::{Address, B256, Bytes, LogData, U64, U256};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use sparewire_protocol::settlement::ChainError;

use super::{
    node::{Node, NodeError},
    nodes::{Middle, Nodes, Rule},
};

/// Blocks that a node is asked the time of at a time, where it does not tell it with the logs.
const TIMES_AT_ONCE: usize = 16;
/// Most logs of one block, and latest time: what is above that is nobody's honest answer.
const LOG_INDEX_MAX: u64 = 1 << 32;
const TIME_SECS_MAX: u64 = 1 << 40;

/// Which logs.
#[derive(Clone, Debug)]
pub(crate) struct LogQuery {
    pub(crate) contract: Address,
    /// As `eth_getLogs` takes them; none for all.
    pub(crate) topics: Vec<Value>,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// All logs of a range, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRange {
    /// Hash of the last block: whoever knows it has the range.
    pub(crate) to_hash: B256,
    pub(crate) logs: Vec<PlacedLog>,
}

/// A log and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlacedLog {
    pub(crate) block: u64,
    pub(crate) index: u64,
    pub(crate) time_secs: u64,
    pub(crate) transaction: B256,
    pub(crate) data: LogData,
}

/// Why there are no logs to be had.
#[derive(Debug)]
pub(crate) enum LogsError {
    /// The range is too wide for the node, in its words.
    TooMuch(String),
    /// It has dropped what is so old, in its words.
    Gone(String),
    /// Anything else.
    Node(NodeError),
}

/// A block by its number, as a node has it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Mark {
    hash: B256,
    timestamp: U64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: U64,
    block_hash: B256,
    transaction_hash: B256,
    log_index: U64,
    /// Not every node tells it.
    block_timestamp: Option<U64>,
    #[serde(default)]
    removed: bool,
}

impl Node {
    async fn mark(&self, block: u64) -> Result<Option<Mark>, NodeError> {
        self.ask("eth_getBlockByNumber", (U64::from(block), false)).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogRange, NodeError> {
        // Nodes that lack the end of a range answer with what they have: that is no answer.
        let Some(last) = self.mark(query.to).await? else {
            let message = format!("header not found: block {}", query.to);
            return Err(NodeError::Refused { code: -32000, message, revert: None });
        };
        let filter = json!({
            "address": query.contract, "topics": query.topics,
            "fromBlock": U64::from(query.from), "toBlock": U64::from(query.to),
        });
        let raw: Vec<RawLog> = self.ask("eth_getLogs", (filter,)).await?;
        let mut logs = BTreeMap::new();
        let mut blocks: BTreeMap<u64, (B256, Option<u64>)> = BTreeMap::new();
        for log in raw {
            let (block, index) = (log.block_number.to::<u64>(), log.log_index.to::<u64>());
            let nonsense = |what: &str| NodeError::Nonsense(format!("a log {what}"));
            if log.address != query.contract {
                return Err(nonsense("of another contract"));
            }
            if log.removed {
                return Err(nonsense("that was taken back"));
            }
            if block < query.from || block > query.to || index >= LOG_INDEX_MAX {
                return Err(nonsense("of another block than was asked for"));
            }
            if block == query.to && log.block_hash != last.hash {
                return Err(nonsense("of a block that is not on its chain"));
            }
            let time = log.block_timestamp.map(|time| time.to());
            let known = blocks.entry(block).or_insert((log.block_hash, time));
            if *known != (log.block_hash, time) {
                return Err(nonsense("of a block that another log tells otherwise of"));
            }
            let data = LogData::new(log.topics, log.data);
            let data = data.ok_or_else(|| nonsense("with more than four topics"))?;
            let placed = (log.transaction_hash, data);
            // Told twice is told once; told in two ways is not told.
            if logs.insert((block, index), placed.clone()).is_some_and(|other| other != placed) {
                return Err(nonsense("that is told in two ways"));
            }
        }
        let times = stream::iter(blocks).map(|(block, (hash, time))| async move {
            let time = match time {
                Some(time) => time,
                None => match self.mark(block).await? {
                    Some(mark) if mark.hash == hash => mark.timestamp.to(),
                    _ => return Err(NodeError::Silent("its chain has just changed".to_owned())),
                },
            };
            match time {
                ..TIME_SECS_MAX => Ok((block, time)),
                _ => Err(NodeError::Nonsense("a block's time".to_owned())),
            }
        });
        let times: BTreeMap<u64, u64> = times.buffer_unordered(TIMES_AT_ONCE).try_collect().await?;
        let placed = |((block, index), (transaction, data))| {
            let time_secs = times.get(&block).copied().unwrap_or_default();
            PlacedLog { block, index, time_secs, transaction, data }
        };
        Ok(LogRange { to_hash: last.hash, logs: logs.into_iter().map(placed).collect() })
    }
}

impl Nodes {
    /// All logs that a query asks for, as a quorum tells them.
    pub(crate) async fn logs(&self, query: &LogQuery) -> Result<LogRange, LogsError> {
        // Where there is no quorum because a node wants fewer blocks, fewer are asked for.
        let refused = Mutex::new(None);
        let ask = |node: Node| {
            let refused = &refused;
            async move {
                let answer = node.logs(query).await;
                if let Err(error) = &answer
                    && (error.is_too_much() || error.is_history_gone())
                    && let Ok(mut refused) = refused.lock()
                {
                    *refused = Some((error.clone(), node.name().to_owned()));
                }
                answer
            }
        };
        let rule = Rule { all: false, strict: self.is_settled(query.to), middle: Middle::Lower };
        let same = |a: &LogRange, b: &LogRange| a == b;
        let voted = self.vote_on("eth_getLogs", ask, rule, same, |_| U256::ZERO).await;
        voted.map_err(|error| match refused.into_inner().ok().flatten() {
            Some((refused, _)) if refused.is_too_much() => LogsError::TooMuch(refused.to_string()),
            Some((refused, node)) => LogsError::Gone(format!("{node}: {refused}")),
            None => LogsError::Node(error),
        })
    }

    /// The hash of a block, if the nodes have it.
    pub(crate) async fn block_hash(&self, block: u64) -> Result<Option<B256>, ChainError> {
        let method = "eth_getBlockByNumber";
        let rule = Rule { all: false, strict: self.is_settled(block), middle: Middle::Lower };
        let hash = |mark: &Option<Mark>| mark.map(|mark| mark.hash);
        let ask = |node: Node| async move { node.mark(block).await };
        let vote = || self.vote_on(method, ask, rule, |a, b| hash(a) == hash(b), |_| U256::ZERO);
        let mark = self.patiently(method, vote).await.map_err(|error| self.blame(error))?;
        Ok(hash(&mark))
    }
}
