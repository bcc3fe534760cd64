//! Every event of the channel contract since its deployment, typed, in a SQLite file of its own.
//!
//! It is: what final blocks told, stored with the place up to which it was read in one
//! transaction, so that it goes on where it stopped; and answers computed from that: the channels
//! of a payee or a payer, their facts, their claims with transaction and time, closes that were
//! started. What is not final yet is never stored; it is read anew each time
//! ([`EvmChain::advance_index`](crate::EvmChain::advance_index) and
//! [`Chain::closes_started`](sparewire_protocol::settlement::Chain::closes_started)).
//!
//! It is not the truth about money: that is contract state, which a quorum of nodes is asked for.
//! Logs are easier to withhold than state, so what the events of a channel or deposit add up to is
//! compared with state reads at the same block
//! ([`EvmChain::check_index`](crate::EvmChain::check_index)); where they differ, everything since
//! the last block at which all agreed is read again, and no question is answered until it fits.
//!
//! ```text
//! cursor    everything up to it is stored      a reorganisation deeper than final blocks moves
//! checked   what changed up to it fits state   all of them back to a block that is still there
//! verified  everything up to it fits state
//! ```
//!
//! The file can be deleted at any time: it is read again from the chain.

mod check;
pub(crate) mod event;
mod follow;
mod query;
mod store;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use alloy_primitives::B256;
use rusqlite::Connection;
use sparewire_core::Domain;
use sparewire_protocol::settlement::ChainError;

pub use check::Checked;
pub use event::{Event, Opening};
pub use follow::Progress;
pub use query::{ClaimRecord, EventFilter, EventRecord, IndexedChannel, IndexedClose};

/// Why the index does not answer, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It belongs to another contract or chain.
    #[error(
        "the event index is of contract {} on chain {}; move the file away to make a new one",
        .owner.contract, .owner.chain_id
    )]
    OtherContract {
        /// Whose it is.
        owner: Domain,
    },
    /// The disk, or another process for too long.
    #[error("the event index cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What was read back is not what was written.
    #[error("the event index is damaged ({0}); delete its file, it is read again from the chain")]
    Damaged(&'static str),
    /// What it holds does not fit the contract's state, and is not used until it does.
    #[error("the event index is in doubt and is read again: {reason}")]
    InDoubt {
        /// What does not fit, and whose word it was.
        reason: String,
    },
    /// The node no longer has logs of that time.
    #[error(
        "chain node at {endpoint} has no logs of blocks {from} to {to} any more ({reason}); \
         name a node that keeps them in [chain] rpc"
    )]
    HistoryGone {
        /// Which node.
        endpoint: String,
        /// First block of the range.
        from: u64,
        /// Last block of the range.
        to: u64,
        /// Its own words.
        reason: String,
    },
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The work on the file was cut off.
    #[error("the event index was cut off; nothing is lost, try again")]
    CutOff,
}

/// The events of one contract. Clones are handles of one file; other processes may use it too.
#[derive(Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

struct Inner {
    domain: Domain,
    db: Mutex<Connection>,
    /// Blocks that are asked for at a time, as far as the node lets us.
    span: AtomicU64,
    /// How far the round over all channels is that compares them with their state.
    round: Round,
}

/// A round over all channels, one part of it at each look.
#[derive(Default)]
struct Round {
    /// Row of the last channel that was compared.
    after: AtomicI64,
    /// The cursor when the round began: when it ends, that block is verified. 0: none is under way.
    began: AtomicU64,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("domain", &self.inner.domain).finish_non_exhaustive()
    }
}

/// How far an index is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexStatus {
    /// The block of the contract's deployment, where it is known.
    pub first: Option<u64>,
    /// Events up to this block are stored.
    pub cursor: Option<u64>,
    /// Up to this block all that the events add up to was compared with the contract's state.
    pub verified: Option<u64>,
    /// What does not fit the contract's state: the index answers nothing until it does.
    pub doubt: Option<String>,
}

impl Index {
    /// Opens the index of the contract on `domain` in this file, or begins it there.
    ///
    /// # Errors
    /// [`IndexError::OtherContract`], [`IndexError::Sqlite`], or [`IndexError::Damaged`] where a
    /// newer version wrote it.
    pub fn open(path: impl AsRef<Path>, domain: Domain) -> Result<Self, IndexError> {
        Self::prepare(Connection::open(path)?, domain)
    }

    /// An index that is gone with the process.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`] where there is no memory for it.
    pub fn in_memory(domain: Domain) -> Result<Self, IndexError> {
        Self::prepare(Connection::open_in_memory()?, domain)
    }

    fn prepare(mut db: Connection, domain: Domain) -> Result<Self, IndexError> {
        store::prepare(&mut db, &domain)?;
        let span = AtomicU64::new(follow::SPAN_FIRST);
        let inner = Inner { domain, db: Mutex::new(db), span, round: Round::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The contract whose events it holds.
    pub fn domain(&self) -> Domain {
        self.inner.domain
    }

    /// How far it is.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`] where the file cannot be read.
    pub fn status(&self) -> Result<IndexStatus, IndexError> {
        self.with(|db| {
            let state = store::state(db)?;
            Ok(IndexStatus {
                first: state.first,
                cursor: store::checkpoint(db, u64::MAX)?.map(|(block, _)| block),
                verified: state.verified,
                doubt: state.doubt,
            })
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        // Every change is one transaction: a poisoned lock still guards a whole file.
        let mut db = self.inner.db.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut db)
    }

    /// The same on a blocking thread.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let index = self.clone();
        let done = tokio::task::spawn_blocking(move || index.with(work)).await;
        done.unwrap_or(Err(IndexError::CutOff))
    }

    fn forget_round(&self) {
        self.inner.round.began.store(0, Ordering::Relaxed);
        self.inner.round.after.store(0, Ordering::Relaxed);
    }
}

/// Facts of channels that a batch of events touches, by row.
type Known = HashMap<i64, store::ChannelRow>;

/// A block that is stored up to, and its hash.
type Checkpoint = (u64, B256);

#[cfg(test)]
mod tests;
