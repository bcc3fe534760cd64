//! The embedded chain: the Ethereum rules (Osaka) in this process, one block per transaction,
//! kept in one SQLite file or in memory.

mod execute;
pub(crate) use execute::output_of;
mod store;
mod world;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, EMPTY_ROOT_HASH, Header};
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};

use store::Store;
pub use store::StoreError;
pub(crate) use store::{BlockRecord, LogRecord, TransactionRecord, UNDO_DEPTH};
pub(crate) use world::View;
pub use world::{AccountState, Changes, World};

/// Most snapshots that are remembered at a time; tests nest a handful.
const SNAPSHOTS_MAX: usize = 64;

/// Tells the time in seconds since the epoch; tests hand in one that they can shift.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where a chain is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is gone with the process.
    Memory,
    /// In this SQLite file (and its `-wal` beside it).
    File(PathBuf),
}

impl<P: AsRef<Path>> From<P> for Place {
    fn from(path: P) -> Self {
        Self::File(path.as_ref().to_owned())
    }
}

/// How a chain begins. An existing file keeps its own beginning; only the chain id is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Who has native currency from the start, in wei.
    pub funded: Vec<(Address, U256)>,
    /// Price of gas in wei. It is constant: blocks hold one transaction, so that there is no
    /// congestion for EIP-1559 to measure.
    pub base_fee_wei: u64,
    /// Gas limit of a block. One transaction may use at most 2^24 of it (EIP-7825).
    pub gas_limit: u64,
}

impl Genesis {
    /// A chain of this id with gas at 1 gwei and blocks of 60 million gas.
    pub fn new(chain_id: u64) -> Self {
        Self { chain_id, funded: Vec::new(), base_fee_wei: 1_000_000_000, gas_limit: 60_000_000 }
    }

    /// Gives `wei` to `owner` from the start.
    #[must_use]
    pub fn fund(mut self, owner: Address, wei: U256) -> Self {
        self.funded.push((owner, wei));
        self
    }
}

/// How a chain is run.
#[derive(Clone)]
pub struct Options {
    /// Tells the time; the system's clock by default.
    pub clock: Clock,
    /// Whether `evm_*` methods may shift time and take blocks back. Off by default: whoever can
    /// call them can undo payments.
    pub dev_methods: bool,
    /// Seconds after which asking for the newest block mines an empty one, so that time goes by
    /// on a chain where nothing happens. Zero turns it off.
    pub idle_block_secs: u64,
}

impl Default for Options {
    fn default() -> Self {
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { clock: Arc::new(clock), dev_methods: false, idle_block_secs: 12 }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("dev_methods", &self.dev_methods)
            .field("idle_block_secs", &self.idle_block_secs)
            .finish_non_exhaustive()
    }
}

/// Why the embedded chain refuses.
#[derive(Debug, thiserror::Error)]
pub enum EvmError {
    /// The disk; the state has not advanced.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is another chain's.
    #[error("the chain file is of chain {actual}, not {expected}")]
    WrongChain {
        /// What was asked for.
        expected: u64,
        /// What the file holds.
        actual: u64,
    },
    /// The transaction breaks a rule before it runs; the words are geth's.
    #[error("{0}")]
    Rejected(String),
    /// A call or an estimate ran into a revert.
    #[error("execution reverted")]
    Reverted {
        /// What the contract returned.
        data: Bytes,
    },
    /// A call or an estimate ran into something that is no revert: out of gas, bad jump.
    #[error("{0}")]
    Halted(String),
    /// State of a block for which no undo records are kept.
    #[error(
        "historical state of block {number} is not available: only the last {UNDO_DEPTH} blocks are kept"
    )]
    HistoryGone {
        /// Which block.
        number: u64,
    },
    /// No such block, snapshot or time.
    #[error("{0}")]
    Unknown(&'static str),
}

/// An EVM chain in this process. Clones are handles of one chain.
#[derive(Clone)]
pub struct EmbeddedChain {
    inner: Arc<Inner>,
}

struct Inner {
    chain_id: u64,
    options: Options,
    ledger: Mutex<Ledger>,
}

/// All that changes, behind one lock: a block is written before it counts.
pub(crate) struct Ledger {
    pub(crate) store: Store,
    pub(crate) world: World,
    pub(crate) head: BlockRecord,
    chain_id: u64,
    clock: Clock,
    time_offset_secs: u64,
    next_time_secs: Option<u64>,
    snapshots: Vec<Snapshot>,
    snapshots_taken: u64,
}

struct Snapshot {
    id: u64,
    number: u64,
    time_offset_secs: u64,
}

impl EmbeddedChain {
    /// Opens the chain at `place`, or begins it there.
    ///
    /// # Errors
    /// [`EvmError::Store`] where the disk fails or another process holds the file,
    /// [`EvmError::WrongChain`] where the file is of another chain id.
    pub fn open(
        place: impl Into<Place>,
        genesis: Genesis,
        options: Options,
    ) -> Result<Self, EvmError> {
        let place = place.into();
        let mut store = Store::open(match &place {
            Place::Memory => None,
            Place::File(path) => Some(path),
        })?;
        let head = match store.newest()? {
            Some(head) => {
                let actual = store.meta("chain_id")?.ok_or(StoreError::Damaged("no chain id"))?;
                if actual != genesis.chain_id {
                    return Err(EvmError::WrongChain { expected: genesis.chain_id, actual });
                }
                head
            }
            None => write_genesis(&mut store, &genesis, (options.clock)())?,
        };
        let ledger = Ledger {
            world: store.load_world()?,
            time_offset_secs: store.meta("time_offset")?.unwrap_or_default(),
            store,
            head,
            chain_id: genesis.chain_id,
            clock: options.clock.clone(),
            next_time_secs: None,
            snapshots: Vec::new(),
            snapshots_taken: 0,
        };
        let chain_id = genesis.chain_id;
        Ok(Self { inner: Arc::new(Inner { chain_id, options, ledger: Mutex::new(ledger) }) })
    }

    /// A chain in memory with the `evm_*` methods on: for tests and demonstrations.
    ///
    /// # Errors
    /// As [`EmbeddedChain::open`].
    pub fn in_memory(genesis: Genesis) -> Result<Self, EvmError> {
        Self::open(Place::Memory, genesis, Options { dev_methods: true, ..Options::default() })
    }

    /// The EIP-155 chain id.
    pub fn chain_id(&self) -> u64 {
        self.inner.chain_id
    }

    /// Number of the newest block.
    pub fn block_number(&self) -> u64 {
        self.ledger().head.header.number
    }

    /// Executes a signed transaction (EIP-2718 bytes) in a block of its own and returns its hash.
    ///
    /// # Errors
    /// [`EvmError::Rejected`] where it breaks a rule, [`EvmError::Store`] where the disk fails.
    pub fn submit(&self, raw: &[u8]) -> Result<B256, EvmError> {
        self.ledger().submit(raw)
    }

    /// Mines an empty block.
    ///
    /// # Errors
    /// [`EvmError::Store`] where the disk fails.
    pub fn mine(&self) -> Result<(), EvmError> {
        self.ledger().mine_empty()
    }

    /// Moves the chain's clock forward; the next block shows it.
    ///
    /// # Errors
    /// [`EvmError::Store`] where the disk fails.
    pub fn increase_time(&self, secs: u64) -> Result<u64, EvmError> {
        self.ledger().increase_time(secs)
    }

    /// Takes the newest `blocks` blocks back, as a reorganisation does.
    ///
    /// # Errors
    /// [`EvmError::HistoryGone`] beyond the last 1,024 blocks, [`EvmError::Unknown`] beyond the
    /// first.
    pub fn rollback(&self, blocks: u64) -> Result<(), EvmError> {
        let mut ledger = self.ledger();
        let number = ledger.head.header.number.checked_sub(blocks);
        ledger.rollback_to(number.ok_or(EvmError::Unknown("no such block"))?)
    }

    /// Lets the file grow by no more than `pages` pages of 4 KiB, to try out a full disk.
    ///
    /// # Errors
    /// [`EvmError::Store`] where SQLite refuses.
    pub fn limit_growth(&self, pages: u32) -> Result<(), EvmError> {
        let ledger = self.ledger();
        let now = ledger.store.pages()?;
        Ok(ledger.store.limit_pages(now.saturating_add(pages))?)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Memory changes only after the disk did, in one step that does not panic: a poisoned
        // lock still guards a whole state.
        self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for EmbeddedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedChain")
            .field("chain_id", &self.inner.chain_id)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// The time that the next block will bear: never before the newest one's.
    pub(crate) fn next_time(&self) -> u64 {
        let now = (self.clock)().saturating_add(self.time_offset_secs);
        self.next_time_secs.unwrap_or(now).max(self.head.header.timestamp)
    }

    pub(crate) fn increase_time(&mut self, secs: u64) -> Result<u64, EvmError> {
        let offset = self.time_offset_secs.saturating_add(secs).min(u64::from(u32::MAX));
        self.store.set_meta("time_offset", offset)?;
        self.time_offset_secs = offset;
        Ok(offset)
    }

    pub(crate) fn set_next_time(&mut self, secs: u64) -> Result<(), EvmError> {
        // 2^40 seconds: what the channel contract's times can hold.
        if secs < self.head.header.timestamp || secs >= 1 << 40 {
            return Err(EvmError::Unknown("timestamp is before the newest block's, or too far"));
        }
        self.next_time_secs = Some(secs);
        Ok(())
    }

    /// Mines an empty block where the newest is older than `idle_secs`.
    pub(crate) fn catch_up(&mut self, idle_secs: u64) {
        let due = self.head.header.timestamp.saturating_add(idle_secs);
        if idle_secs > 0 && self.next_time() >= due {
            // A full disk must not keep anybody from reading; time stands still then.
            if let Err(error) = self.mine_empty() {
                tracing::warn!(%error, "no empty block could be mined");
            }
        }
    }

    pub(crate) fn snapshot(&mut self) -> u64 {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            self.snapshots.remove(0);
        }
        self.snapshots_taken += 1;
        self.snapshots.push(Snapshot {
            id: self.snapshots_taken,
            number: self.head.header.number,
            time_offset_secs: self.time_offset_secs,
        });
        self.snapshots_taken
    }

    pub(crate) fn revert_to(&mut self, id: u64) -> Result<bool, EvmError> {
        let Some(at) = self.snapshots.iter().position(|snapshot| snapshot.id == id) else {
            return Ok(false);
        };
        let (number, offset) = (self.snapshots[at].number, self.snapshots[at].time_offset_secs);
        self.rollback_to(number)?;
        self.store.set_meta("time_offset", offset)?;
        self.time_offset_secs = offset;
        self.snapshots.truncate(at);
        Ok(true)
    }

    pub(crate) fn rollback_to(&mut self, number: u64) -> Result<(), EvmError> {
        let newest = self.head.header.number;
        let head = self.store.block(number)?.ok_or(EvmError::Unknown("no such block"))?;
        let undo = self.store.undo_to(number, newest)?.ok_or(EvmError::HistoryGone { number })?;
        self.store.truncate(number, &undo)?;
        self.world.apply(&undo);
        self.head = head;
        self.next_time_secs = None;
        Ok(())
    }

    /// What older state differs in from the newest; `None` at the newest block itself.
    pub(crate) fn overlay(&self, number: u64) -> Result<Option<Changes>, EvmError> {
        let newest = self.head.header.number;
        if number >= newest {
            return Ok(None);
        }
        if newest - number > UNDO_DEPTH {
            return Err(EvmError::HistoryGone { number });
        }
        self.store.undo_to(number, newest)?.map(Some).ok_or(EvmError::HistoryGone { number })
    }

    pub(crate) fn view<'a>(&'a self, overlay: Option<&'a Changes>) -> View<'a> {
        View { world: &self.world, overlay, store: &self.store }
    }

    pub(crate) fn mine_empty(&mut self) -> Result<(), EvmError> {
        self.seal(None, Changes::default(), 0)
    }

    /// Writes the next block, then makes it count.
    fn seal(
        &mut self,
        transaction: Option<(TransactionRecord, B256, B256)>,
        changes: Changes,
        gas_used: u64,
    ) -> Result<(), EvmError> {
        let parent = &self.head;
        let mut header = next_header(parent, self.next_time());
        header.gas_used = gas_used;
        header.state_root = state_commitment(parent.header.state_root, &changes);
        let transaction = transaction.map(|(record, transactions_root, receipts_root)| {
            header.transactions_root = transactions_root;
            header.receipts_root = receipts_root;
            header.logs_bloom = *record.receipt.logs_bloom();
            record
        });
        let block = BlockRecord { hash: header.hash_slow(), header, transaction };
        let undo = self.world.undo_of(&changes);
        self.store.append(&block, &changes, &undo, &[])?;
        self.world.apply(&changes);
        self.head = block;
        self.next_time_secs = None;
        Ok(())
    }
}

/// The header of the block after `parent`, as far as its contents do not matter.
fn next_header(parent: &BlockRecord, timestamp: u64) -> Header {
    let number = parent.header.number + 1;
    Header {
        parent_hash: parent.hash,
        number,
        timestamp,
        // PREVRANDAO: predictable, like all of a chain that one process makes.
        mix_hash: keccak256(number.to_be_bytes()),
        gas_limit: parent.header.gas_limit,
        base_fee_per_gas: parent.header.base_fee_per_gas,
        ..empty_header()
    }
}

fn empty_header() -> Header {
    Header {
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        transactions_root: EMPTY_ROOT_HASH,
        receipts_root: EMPTY_ROOT_HASH,
        withdrawals_root: Some(EMPTY_ROOT_HASH),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}

/// Stands in the header's state root: it commits to every change since the beginning, in order.
/// It is no Merkle-Patricia root, so this chain gives no `eth_getProof`.
fn state_commitment(parent: B256, changes: &Changes) -> B256 {
    let mut bytes = parent.to_vec();
    bytes.extend_from_slice(&changes.encode());
    keccak256(bytes)
}

fn write_genesis(
    store: &mut Store,
    genesis: &Genesis,
    now_secs: u64,
) -> Result<BlockRecord, EvmError> {
    let mut changes = Changes::default();
    for (owner, wei) in &genesis.funded {
        let account = changes.accounts.entry(*owner).or_default().get_or_insert_default();
        account.balance = account.balance.saturating_add(*wei);
    }
    changes.accounts.retain(|_, account| *account != Some(AccountState::default()));
    let mut header = Header {
        timestamp: now_secs,
        gas_limit: genesis.gas_limit,
        base_fee_per_gas: Some(genesis.base_fee_wei),
        extra_data: Bytes::from_static(b"sparewire"),
        ..empty_header()
    };
    header.state_root = state_commitment(keccak256(genesis.chain_id.to_be_bytes()), &changes);
    let block = BlockRecord { hash: header.hash_slow(), header, transaction: None };
    let meta = [("chain_id", genesis.chain_id), ("time_offset", 0)];
    store.append(&block, &changes, &Changes::default(), &meta)?;
    Ok(block)
}
