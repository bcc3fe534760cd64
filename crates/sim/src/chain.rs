//! The chain of the simulated world: the real contracts on revm, a mempool, blocks that may be
//! taken back, and RPC endpoints that may be wrong. All that happens by chance is drawn from one
//! seeded generator, so the same seed and the same calls make the same history.
//!
//! ```text
//! submit -> pool -(delayed, forgotten, replaced)-> block -(reorg)-> pool ... until final
//! ```

mod asked;
mod audit;
mod block;
mod event;
mod state;
mod view;
mod weather;

#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use revm::primitives::eip7825::TX_GAS_LIMIT_CAP;
use sparewire_chain::{
    Call,
    carrier::{approval, calls_of},
    evm::{Changes, World},
};
use sparewire_core::{ChannelId, Domain, Timestamp};
use sparewire_protocol::{
    channel::ChannelConfig,
    settlement::{Head, Intent},
};

pub use self::{
    asked::{Asked, Asks, TROUBLES, Trouble},
    audit::{Audit, Holding},
    event::{Event, Logged},
    view::{RpcError, Tag, View},
    weather::{Endpoint, Lie, PerMille, Weather},
};
use self::{
    audit::{Books, Flows},
    block::Block,
    state::{BLOCK_GAS, CHAIN_ID, StateAt, base},
};

/// By how much a replacement must pay more, in percent.
const REPLACEMENT_PERCENT: u128 = 10;
/// What a transaction pays before its first instruction; data costs more.
const INTRINSIC_GAS: u64 = 21_000;

/// A transaction's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub B256);

/// An EIP-1559 transaction. Nobody signs it: the sender is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Who sends it and pays for its gas.
    pub from: Address,
    /// The sender's count of transactions before it.
    pub nonce: u64,
    /// The contract that it calls.
    pub to: Address,
    /// What it hands in: ABI-encoded, selector first.
    pub data: Bytes,
    /// Most that is paid for a unit of gas, in wei.
    pub max_fee: u128,
    /// Most of it that goes to the block's builder, in wei.
    pub priority_fee: u128,
    /// Gas limit.
    pub gas: u64,
}

impl Transaction {
    /// A transaction of `call` with gas enough for whatever an [`Intent`] takes.
    pub fn new(from: Address, nonce: u64, call: Call, max_fee: u128, priority_fee: u128) -> Self {
        // An entry of a packed claim (125 bytes) takes up to 60,000 gas, an opening (256) too.
        let gas = (200_000 + 600 * call.data.len() as u64).min(TX_GAS_LIMIT_CAP);
        let to = call.target.unwrap_or_default();
        Self { from, nonce, to, data: call.data, max_fee, priority_fee, gas }
    }

    /// Its hash.
    pub fn id(&self) -> TxId {
        let mut bytes = [self.from.as_slice(), self.to.as_slice()].concat();
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(self.max_fee.to_be_bytes());
        bytes.extend(self.priority_fee.to_be_bytes());
        bytes.extend(self.gas.to_be_bytes());
        bytes.extend_from_slice(&self.data);
        TxId(keccak256(bytes))
    }

    /// The same one with both fees raised by this many percent (rounded up).
    #[must_use]
    pub fn bumped(&self, percent: u128) -> Self {
        let bump = |fee: u128| fee + (fee * percent).div_ceil(100);
        let (max_fee, priority_fee) = (bump(self.max_fee), bump(self.priority_fee));
        Self { max_fee, priority_fee, ..self.clone() }
    }

    /// What the sender must have before it may be mined, in wei.
    fn cost(&self) -> U256 {
        U256::from(self.max_fee) * U256::from(self.gas)
    }

    /// What the builder gets of a unit of gas, in wei; `None` where the base fee is too high.
    fn tip(&self, base_fee: u64) -> Option<u128> {
        Some(self.max_fee.checked_sub(u128::from(base_fee))?.min(self.priority_fee))
    }
}

/// What became of a transaction that is in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction.
    pub id: TxId,
    /// Number of its block.
    pub block: u64,
    /// Whether it did what it should.
    pub success: bool,
    /// Gas used.
    pub gas_used: u64,
    /// What a unit of gas cost, in wei.
    pub effective_gas_price: u128,
    /// Why it failed, in words.
    pub reason: Option<String>,
}

/// Why an endpoint does not take a transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It did not answer. With [`RpcError::AnswerLost`] it took the transaction all the same.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The sender has used this nonce.
    #[error("nonce too low: next nonce {next}")]
    NonceTooLow {
        /// The account's next nonce.
        next: u64,
    },
    /// Another transaction with this nonce waits; to replace it, pay this much.
    #[error("replacement transaction underpriced: {max_fee} and {priority_fee} wei are needed")]
    Underpriced {
        /// Least max fee, in wei.
        max_fee: u128,
        /// Least priority fee, in wei.
        priority_fee: u128,
    },
    /// The sender cannot pay for the gas of all its waiting transactions.
    #[error("insufficient funds for gas: balance {balance}, needed {needed}")]
    InsufficientFunds {
        /// What there is, in wei.
        balance: U256,
        /// What it takes, in wei.
        needed: U256,
    },
    /// It breaks a rule.
    #[error("{0}")]
    Invalid(&'static str),
}

/// A transaction in the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its hash.
    pub id: TxId,
    /// The transaction.
    pub transaction: Transaction,
    /// Since when the builders have it.
    pub since: Timestamp,
    forget_at: Option<Timestamp>,
    /// Among equal tips the first come is served first.
    order: u64,
}

/// Something that happened, for the log of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Happening {
    Submitted {
        id: TxId,
        endpoint: usize,
    },
    /// The endpoint took it and did not pass it on.
    Swallowed {
        id: TxId,
        endpoint: usize,
    },
    Replaced {
        old: TxId,
        new: TxId,
    },
    Forgotten(TxId),
    /// Not fit for a block after all.
    Discarded {
        id: TxId,
        reason: String,
    },
    Mined(Receipt),
    Reorg {
        from: u64,
        to: u64,
    },
    /// A reorganisation took it out of its block, and it is not in the pool either.
    Lost(TxId),
    Halted {
        until: Timestamp,
    },
    Spike {
        factor: u64,
        until: Timestamp,
    },
    Outage {
        endpoint: usize,
        until: Timestamp,
    },
}

/// A chain, seen from above. A clone is another chain with the same past and the same dice.
#[derive(Clone)]
pub struct SimChain {
    weather: Weather,
    rng: fastrand::Rng,
    now: Timestamp,
    world: World,
    /// By number; never empty.
    blocks: Vec<Arc<Block>>,
    mined: BTreeMap<TxId, u64>,
    pool: BTreeMap<(Address, u64), Pending>,
    submitted: u64,
    /// The newest slot that the weather has looked at; those before it may be mined anew.
    newest_slot: u64,
    final_number: u64,
    final_hash: B256,
    halted_until: Timestamp,
    spike: (u64, Timestamp),
    down_until: BTreeMap<usize, Timestamp>,
    /// Per endpoint the second and the requests in it.
    requests: RefCell<BTreeMap<usize, (u64, u32)>>,
    /// Everybody who ever had tokens.
    holders: BTreeSet<Address>,
    /// Every channel that was ever opened, even if that was taken back.
    channels: BTreeMap<ChannelId, ChannelConfig>,
    books: Books,
    /// How often an endpoint was outvoted.
    outvoted: Cell<u64>,
    log: Vec<(Timestamp, Happening)>,
}

impl fmt::Debug for SimChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimChain")
            .field("head", &self.head().number)
            .field("final", &self.final_number)
            .field("pool", &self.pool.len())
            .finish_non_exhaustive()
    }
}

impl SimChain {
    /// A chain with both contracts on it and nobody's money.
    ///
    /// # Panics
    /// Where blocks take no time.
    pub fn new(weather: Weather, seed: u64) -> Self {
        assert!(weather.block_time_ms > 0, "blocks take time");
        let genesis = Block {
            number: 0,
            slot: 0,
            time: weather.genesis,
            hash: B256::ZERO,
            base_fee: weather.base_fee_wei,
            calm_fee: weather.base_fee_wei,
            gas_used: BLOCK_GAS / 2,
            transactions: Vec::new(),
            receipts: Vec::new(),
            events: Vec::new(),
            undo: Changes::default(),
            flows: Flows::default(),
        };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            now: weather.genesis,
            weather,
            world: base().world.clone(),
            blocks: vec![Arc::new(genesis)],
            mined: BTreeMap::new(),
            pool: BTreeMap::new(),
            submitted: 0,
            newest_slot: 0,
            final_number: 0,
            final_hash: B256::ZERO,
            halted_until: Timestamp::default(),
            spike: (1, Timestamp::default()),
            down_until: BTreeMap::new(),
            requests: RefCell::default(),
            holders: BTreeSet::from([base().contract]),
            channels: BTreeMap::new(),
            books: Books::default(),
            outvoted: Cell::new(0),
            log: Vec::new(),
        }
    }

    /// The chain id and the channel contract.
    pub fn domain(&self) -> Domain {
        Domain { chain_id: CHAIN_ID, contract: base().contract }
    }

    /// The token contract.
    pub fn token(&self) -> Address {
        base().token
    }

    /// Gives a party native currency (in wei) and tokens (smallest unit) to begin with.
    ///
    /// # Panics
    /// After the first block: that would be money out of nowhere.
    pub fn fund(&mut self, party: Address, wei: u128, tokens: u128) {
        assert_eq!(self.head().number, 0, "parties are funded at genesis");
        state::mint(&mut self.world, party, tokens);
        let mut account = self.world.accounts.get(&party).copied().unwrap_or_default();
        account.balance += U256::from(wei);
        let accounts = BTreeMap::from([(party, Some(account))]);
        self.world.apply(&Changes { accounts, ..Changes::default() });
        self.holders.insert(party);
        let flows = &mut Arc::make_mut(&mut self.blocks[0]).flows;
        flows.wei += U256::from(wei);
        flows.minted += U256::from(tokens);
    }

    /// The weather, to be changed from now on; all of it but `genesis` and `block_time_ms`.
    pub fn weather_mut(&mut self) -> &mut Weather {
        &mut self.weather
    }

    /// The contract calls that carry out `wallet`'s intent, in order; a deposit is preceded by the
    /// approval that it needs.
    pub fn calls(&self, wallet: Address, intent: &Intent) -> Vec<Call> {
        let contract = base().contract;
        let mut calls = Vec::new();
        if let Intent::Deposit { token, amount } = intent {
            calls.push(approval(*token, contract, U256::from(amount.get())));
        }
        calls.extend(calls_of(contract, wallet, intent));
        calls
    }

    /// Hands a transaction to an endpoint. The same one may be handed in again and again.
    ///
    /// # Errors
    /// [`SubmitError`]; what it says is checked against the endpoint's own newest state.
    pub fn submit(
        &mut self,
        now: Timestamp,
        endpoint: usize,
        transaction: Transaction,
    ) -> Result<TxId, SubmitError> {
        self.now = self.now.max(now);
        let id = transaction.id();
        let account = self.view(endpoint).state(Tag::Head)?.account(transaction.from);
        self.check(&transaction, account)?;
        let behaviour = self.weather.endpoints.get(endpoint).cloned().unwrap_or_default();
        if self.chance(behaviour.swallows) {
            self.note(Happening::Swallowed { id, endpoint });
            return Ok(id);
        }
        let key = (transaction.from, transaction.nonce);
        let waiting = self.pool.get(&key).map(|pending| pending.id);
        if waiting != Some(id) {
            let delayed = self.chance(self.weather.delayed);
            let delay = if delayed { self.up_to(self.weather.delay_max_ms) } else { 0 };
            let forgotten = self.chance(self.weather.forgotten);
            let forget_at =
                forgotten.then(|| self.now.plus_ms(self.up_to(10 * self.weather.block_time_ms)));
            self.note(match waiting {
                Some(old) => Happening::Replaced { old, new: id },
                None => Happening::Submitted { id, endpoint },
            });
            self.submitted += 1;
            let (since, order) = (self.now.plus_ms(delay), self.submitted);
            self.pool.insert(key, Pending { id, transaction, since, forget_at, order });
        }
        match self.chance(behaviour.answers_lost) {
            true => Err(RpcError::AnswerLost.into()),
            false => Ok(id),
        }
    }

    /// What everybody can see of the pool: what has reached the builders and waits.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.pool.values().filter(|pending| pending.since <= self.now)
    }

    /// Lets time pass until `now`: blocks are made, and the weather happens.
    pub fn advance(&mut self, now: Timestamp) {
        while self.step(now) {}
    }

    /// Lets time pass until a block is made, or some are taken back; `false` where that is not due
    /// by `now`.
    pub fn step(&mut self, now: Timestamp) -> bool {
        self.now = self.now.max(now);
        let slot = self.next_slot();
        let time = self.time_of(slot);
        if time > self.now {
            return false;
        }
        if slot > self.newest_slot {
            self.newest_slot = slot;
            self.draw_weather(time);
            if self.next_slot() != slot {
                return true; // halted, or blocks were taken back and are made anew first
            }
        }
        self.mine(slot, time);
        true
    }

    /// When the next block is due, if nothing happens.
    pub fn next_block_at(&self) -> Timestamp {
        self.time_of(self.next_slot())
    }

    /// Takes back the newest `depth` blocks, or as many as are not final, and returns how many that
    /// were. Their transactions return to the pool, some delayed, some lost; the next
    /// [`SimChain::advance`] makes blocks in their stead.
    pub fn reorg(&mut self, depth: u64) -> u64 {
        self.take_back(depth, self.now)
    }

    /// Makes no blocks until `ms` milliseconds from now are over.
    pub fn halt(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        self.halted_until = self.halted_until.max(until);
        self.note(Happening::Halted { until });
    }

    /// Multiplies the base fee by `factor` for `ms` milliseconds.
    pub fn spike(&mut self, factor: u64, ms: u64) {
        let until = self.now.plus_ms(ms);
        self.spike = (factor.max(1), until);
        self.note(Happening::Spike { factor, until });
    }

    /// Takes an endpoint down for `ms` milliseconds.
    pub fn take_down(&mut self, endpoint: usize, ms: u64) {
        let until = self.now.plus_ms(ms);
        self.down_until.insert(endpoint, until);
        self.note(Happening::Outage { endpoint, until });
    }

    /// The chain as this endpoint tells it.
    pub fn view(&self, endpoint: usize) -> View<'_> {
        View { chain: self, endpoint: Some(endpoint) }
    }

    /// The chain as it is; never an error.
    pub fn truth(&self) -> View<'_> {
        View { chain: self, endpoint: None }
    }

    /// All that happened so far, oldest first.
    pub fn log(&self) -> &[(Timestamp, Happening)] {
        &self.log
    }

    /// Hash of the newest block: of all that is in it and in all before it.
    pub fn head_hash(&self) -> B256 {
        self.head().hash
    }

    /// Every channel that was ever opened, even if a reorganisation took that back.
    pub fn channels(&self) -> &BTreeMap<ChannelId, ChannelConfig> {
        &self.channels
    }
}

/// What views ask.
impl SimChain {
    fn block(&self, number: u64) -> &Arc<Block> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        self.blocks.get(index).unwrap_or_else(|| panic!("there is no block {number}"))
    }

    fn blocks_after(&self, since: u64, newest: u64) -> impl Iterator<Item = &Arc<Block>> {
        let first = usize::try_from(since.saturating_add(1)).unwrap_or(usize::MAX);
        self.blocks.iter().skip(first).take_while(move |block| block.number <= newest)
    }

    fn state_at(&self, number: u64) -> StateAt<'_> {
        let since = usize::try_from(number + 1).unwrap_or(usize::MAX).min(self.blocks.len());
        StateAt::before(&self.world, &self.blocks[since..])
    }

    fn head_behind(&self, lag: u64) -> Head {
        let final_number = self.final_number.saturating_sub(lag);
        let number = self.head().number.saturating_sub(lag).max(final_number);
        Head { number, time_secs: self.block(number).time.as_secs(), final_number }
    }

    fn find_receipt(&self, id: TxId) -> Option<Receipt> {
        let block = self.block(*self.mined.get(&id)?);
        block.receipts.iter().find(|receipt| receipt.id == id).cloned()
    }

    /// Counts a request.
    fn answers(&self, endpoint: usize) -> Result<&Endpoint, RpcError> {
        let behaviour = self.weather.endpoints.get(endpoint).ok_or(RpcError::Unreachable)?;
        if self.down_until.get(&endpoint).is_some_and(|until| self.now < *until) {
            return Err(RpcError::Unreachable);
        }
        if let Some(most) = behaviour.requests_per_sec {
            let mut requests = self.requests.borrow_mut();
            let (second, count) = requests.entry(endpoint).or_default();
            if *second != self.now.as_secs() {
                (*second, *count) = (self.now.as_secs(), 0);
            }
            if *count >= most {
                return Err(RpcError::RateLimited);
            }
            *count += 1;
        }
        Ok(behaviour)
    }
}
