//! The chain of the simulated world: the real contracts on revm, a mempool, blocks that may be
//! taken back, and RPC endpoints that may be wrong. All that happens by chance is drawn from one
//! seeded generator, so the same seed and the same calls make the same history.
//!
//! ```text
//! submit -> pool -(delayed, forgotten, replaced)-> block -(reorg)-> pool ... until final
//! ```

mod audit;
mod event;
mod state;
mod view;
mod weather;

#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use revm::{context::result::ExecutionResult, primitives::eip7825::TX_GAS_LIMIT_CAP};
use sparewire_chain::{
    Call,
    carrier::{approval, calls_of},
    contracts::reason_in_words,
    evm::{AccountState, Changes, World},
};
use sparewire_core::{ChannelId, Domain, Timestamp};
use sparewire_protocol::{
    channel::ChannelConfig,
    settlement::{Head, Intent},
};

pub use self::{
    audit::Audit,
    event::{Event, Logged},
    view::{RpcError, Tag, View},
    weather::{Endpoint, Lie, PerMille, Weather},
};
use self::{
    audit::Flows,
    event::Transfer,
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

#[derive(Clone, Debug)]
struct Block {
    number: u64,
    /// How many block times after genesis it was made.
    slot: u64,
    time: Timestamp,
    hash: B256,
    /// Wei per gas, spikes included.
    base_fee: u64,
    /// Wei per gas, without spikes: what EIP-1559 goes on from.
    calm_fee: u64,
    /// Other people's transactions included.
    gas_used: u64,
    transactions: Vec<Transaction>,
    receipts: Vec<Receipt>,
    events: Vec<Logged>,
    /// What the block overwrote.
    undo: Changes,
    /// Since the beginning.
    flows: Flows,
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
        self.now = self.now.max(now);
        loop {
            let slot = self.next_slot();
            let time = self.time_of(slot);
            if time > self.now {
                break;
            }
            if slot > self.newest_slot {
                self.newest_slot = slot;
                self.draw_weather(time);
                if self.next_slot() != slot {
                    continue; // halted, or blocks were taken back and are made anew first
                }
            }
            self.mine(slot, time);
        }
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

/// How blocks are made.
impl SimChain {
    fn head(&self) -> &Arc<Block> {
        &self.blocks[self.blocks.len() - 1] // never empty: genesis is final
    }

    fn time_of(&self, slot: u64) -> Timestamp {
        self.weather.genesis.plus_ms(slot * self.weather.block_time_ms)
    }

    fn next_slot(&self) -> u64 {
        let halt_ms = self.halted_until.ms_since(self.weather.genesis);
        (self.head().slot + 1).max(halt_ms.div_ceil(self.weather.block_time_ms))
    }

    fn draw_weather(&mut self, time: Timestamp) {
        if self.chance(self.weather.halts) {
            let until = time.plus_ms(self.up_to(self.weather.halt_max_ms));
            self.halted_until = self.halted_until.max(until);
            self.log.push((time, Happening::Halted { until }));
        }
        if self.chance(self.weather.spikes) {
            let factor = 1 + self.up_to(self.weather.spike_factor_max.saturating_sub(1));
            let until = time.plus_ms(self.up_to(self.weather.spike_max_ms));
            self.spike = (factor, until);
            self.log.push((time, Happening::Spike { factor, until }));
        }
        for endpoint in 0..self.weather.endpoints.len() {
            let (outages, longest) = {
                let behaviour = &self.weather.endpoints[endpoint];
                (behaviour.outages, behaviour.outage_max_ms)
            };
            if self.chance(outages) {
                let until = time.plus_ms(self.up_to(longest));
                self.down_until.insert(endpoint, until);
                self.log.push((time, Happening::Outage { endpoint, until }));
            }
        }
        if self.chance(self.weather.reorgs) {
            let depth = self.up_to(self.weather.reorg_depth_max);
            self.take_back(depth, time);
        }
    }

    fn take_back(&mut self, depth: u64, time: Timestamp) -> u64 {
        let from = self.head().number;
        let to = from.saturating_sub(depth).max(self.final_number);
        let mut returned = Vec::new();
        for number in (to + 1..=from).rev() {
            assert!(number > self.final_number, "what is final stays");
            let Some(block) = self.blocks.pop() else { break };
            self.world.apply(&block.undo);
            for transaction in block.transactions.iter().rev() {
                self.mined.remove(&transaction.id());
                returned.push(transaction.clone());
            }
        }
        if from > to {
            self.log.push((time, Happening::Reorg { from, to }));
        }
        for transaction in returned.into_iter().rev() {
            let id = transaction.id();
            if self.chance(self.weather.lost_in_reorg) {
                self.log.push((time, Happening::Lost(id)));
                continue;
            }
            let delayed = self.chance(self.weather.delayed);
            let delay = if delayed { self.up_to(self.weather.delay_max_ms) } else { 0 };
            // Every builder of the other branch may have it from the branch's beginning on.
            let since = self.head().time.plus_ms(delay);
            self.submitted += 1;
            let order = self.submitted;
            let key = (transaction.from, transaction.nonce);
            let pending = Pending { id, transaction, since, forget_at: None, order };
            self.pool.entry(key).or_insert(pending);
        }
        from - to
    }

    fn mine(&mut self, slot: u64, time: Timestamp) {
        let forgotten = |pending: &Pending| pending.forget_at.is_some_and(|at| at <= time);
        for (_, pending) in self.pool.extract_if(.., |_, pending| forgotten(pending)) {
            self.log.push((time, Happening::Forgotten(pending.id)));
        }
        let parent = self.head().clone();
        let calm_fee = calc_next_block_base_fee(
            parent.gas_used,
            BLOCK_GAS,
            parent.calm_fee,
            BaseFeeParams::ethereum(),
        );
        let (factor, until) = self.spike;
        let factor = if time < until { factor } else { 1 };
        let mut block = Block {
            number: parent.number + 1,
            slot,
            time,
            hash: B256::ZERO,
            base_fee: calm_fee.saturating_mul(factor),
            calm_fee,
            gas_used: 0,
            transactions: Vec::new(),
            receipts: Vec::new(),
            events: Vec::new(),
            undo: Changes::default(),
            flows: parent.flows,
        };
        if !self.pool.is_empty() && !self.chance(self.weather.empty) {
            let shuffled = self.chance(self.weather.reordered);
            while let Some(key) = self.pick(&block, shuffled) {
                if let Some(pending) = self.pool.remove(&key) {
                    self.include(&mut block, pending);
                }
            }
            // A stale endpoint may have taken what is too late by now.
            let world = &self.world;
            let late = |from, nonce| nonce < account(world, from).nonce;
            for (_, pending) in self.pool.extract_if(.., |(from, nonce), _| late(*from, *nonce)) {
                let (id, reason) = (pending.id, "nonce too low".to_owned());
                self.log.push((time, Happening::Discarded { id, reason }));
            }
        }
        block.gas_used = block.gas_used.max(self.demand(calm_fee)).min(BLOCK_GAS);
        block.hash = hash_of(&parent, &block);
        self.blocks.push(Arc::new(block));
        self.finalize();
    }

    /// The transaction that the builder takes next.
    fn pick(&mut self, block: &Block, shuffled: bool) -> Option<(Address, u64)> {
        let fits = |(from, nonce): &(Address, u64), pending: &Pending| {
            let transaction = &pending.transaction;
            let tip = transaction.tip(block.base_fee)?;
            let fits = pending.since <= block.time
                && block.gas_used + transaction.gas <= BLOCK_GAS
                && account(&self.world, *from).nonce == *nonce;
            fits.then_some(((tip, Reverse(pending.order)), (*from, *nonce)))
        };
        let fitting = self.pool.iter().filter_map(|(key, pending)| fits(key, pending));
        if !shuffled {
            return fitting.max().map(|(_, key)| key);
        }
        let fitting: Vec<_> = fitting.collect();
        self.rng.choice(fitting).map(|(_, key)| key)
    }

    fn include(&mut self, block: &mut Block, pending: Pending) {
        let Pending { id, transaction, .. } = pending;
        let env = state::block_env(block.number, block.time.as_secs(), block.base_fee);
        let state = StateAt::newest(&self.world);
        let done = match state::execute(state, state::config(), env, transaction.env()) {
            Ok(done) => done,
            Err(reason) => {
                self.log.push((block.time, Happening::Discarded { id, reason }));
                return;
            }
        };
        let gas_used = done.result.tx_gas_used();
        let (mut events, mut transfers) = (Vec::<Event>::new(), Vec::<Transfer>::new());
        let reason = match &done.result {
            ExecutionResult::Success { logs, .. } => {
                logs.iter().for_each(|log| event::read(log, &mut events, &mut transfers));
                None
            }
            ExecutionResult::Revert { output, .. } => Some(reason_in_words(output)),
            ExecutionResult::Halt { reason, .. } => Some(reason.to_string()),
        };
        let changes = Changes::from_revm(done.state);
        let undo = self.world.undo_of(&changes);
        for (address, old) in undo.accounts {
            block.undo.accounts.entry(address).or_insert(old);
        }
        for (slot, old) in undo.slots {
            block.undo.slots.entry(slot).or_insert(old);
        }
        self.world.apply(&changes);

        block.gas_used += gas_used;
        block.flows.burned += U256::from(gas_used) * U256::from(block.base_fee);
        for transfer in &transfers {
            self.holders.extend([transfer.from, transfer.to]);
            block.flows.count(transfer);
        }
        for event in &events {
            match event {
                Event::Deposited { payer, amount, .. } => {
                    self.holders.insert(*payer);
                    block.flows.deposited += U256::from(*amount);
                }
                Event::Withdrawn { amount, .. } | Event::Swept { amount, .. } => {
                    block.flows.paid_out += U256::from(*amount);
                }
                Event::Opened { channel, config, .. } => {
                    self.holders.insert(config.payee);
                    self.channels.insert(*channel, *config);
                }
                _ => {}
            }
        }
        let number = block.number;
        let logged = |event| Logged { block: number, transaction: id, event };
        block.events.extend(events.into_iter().map(logged));
        let tip = transaction.tip(block.base_fee).unwrap_or_default();
        let receipt = Receipt {
            id,
            block: number,
            success: reason.is_none(),
            gas_used,
            effective_gas_price: u128::from(block.base_fee) + tip,
            reason,
        };
        self.mined.insert(id, number);
        self.log.push((block.time, Happening::Mined(receipt.clone())));
        block.receipts.push(receipt);
        block.transactions.push(transaction);
    }

    /// Gas that all people's transactions use in a block: more where gas is cheap.
    fn demand(&mut self, calm_fee: u64) -> u64 {
        const TARGET: u64 = BLOCK_GAS / 2;
        let swing = TARGET / 1_000 * u64::from(self.weather.demand_swing.min(1_000));
        let demand = TARGET - swing + self.up_to_or_zero(2 * swing);
        match calm_fee.cmp(&self.weather.base_fee_wei) {
            std::cmp::Ordering::Less => demand + TARGET / 4,
            std::cmp::Ordering::Equal => demand,
            std::cmp::Ordering::Greater => demand.saturating_sub(TARGET / 4),
        }
    }

    fn finalize(&mut self) {
        let hash = self.block(self.final_number).hash;
        assert_eq!(hash, self.final_hash, "final block {} has changed", self.final_number);
        let deep = self.head().number.saturating_sub(self.weather.finality_depth);
        self.final_number = self.final_number.max(deep);
        self.final_hash = self.block(self.final_number).hash;
    }

    fn check(&self, transaction: &Transaction, account: AccountState) -> Result<(), SubmitError> {
        if transaction.priority_fee > transaction.max_fee {
            return Err(SubmitError::Invalid("max priority fee per gas higher than max fee"));
        }
        if transaction.gas < INTRINSIC_GAS {
            return Err(SubmitError::Invalid("intrinsic gas too low"));
        }
        if transaction.gas > TX_GAS_LIMIT_CAP {
            return Err(SubmitError::Invalid("transaction gas limit too high"));
        }
        if transaction.nonce < account.nonce {
            return Err(SubmitError::NonceTooLow { next: account.nonce });
        }
        let from = transaction.from;
        let old = self.pool.get(&(from, transaction.nonce)).map(|pending| &pending.transaction);
        if let Some(old) = old.filter(|old| *old != transaction) {
            let least = old.bumped(REPLACEMENT_PERCENT);
            if transaction.max_fee < least.max_fee || transaction.priority_fee < least.priority_fee
            {
                let (max_fee, priority_fee) = (least.max_fee, least.priority_fee);
                return Err(SubmitError::Underpriced { max_fee, priority_fee });
            }
        }
        let others = self.pool.range((from, account.nonce)..=(from, u64::MAX));
        let others = others.filter(|((_, nonce), _)| *nonce != transaction.nonce);
        let needed = others.fold(transaction.cost(), |sum, (_, pending)| {
            sum.saturating_add(pending.transaction.cost())
        });
        let balance = account.balance;
        if balance < needed {
            return Err(SubmitError::InsufficientFunds { balance, needed });
        }
        Ok(())
    }

    fn chance(&mut self, of: PerMille) -> bool {
        of > 0 && self.rng.u16(0..1_000) < of
    }

    /// From 1 to `most`, or 0 where that is 0.
    fn up_to(&mut self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.rng.u64(1..=most) }
    }

    /// From 0 to `most`.
    fn up_to_or_zero(&mut self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.rng.u64(0..=most) }
    }

    fn note(&mut self, happening: Happening) {
        self.log.push((self.now, happening));
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

fn account(world: &World, address: Address) -> AccountState {
    world.accounts.get(&address).copied().unwrap_or_default()
}

fn hash_of(parent: &Block, block: &Block) -> B256 {
    let mut bytes = parent.hash.to_vec();
    for number in [block.number, block.slot, block.base_fee, block.gas_used] {
        bytes.extend(number.to_be_bytes());
    }
    for receipt in &block.receipts {
        bytes.extend(receipt.id.0);
        bytes.extend(receipt.gas_used.to_be_bytes());
        bytes.push(receipt.success.into());
    }
    keccak256(bytes)
}
