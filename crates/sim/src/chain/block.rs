//! How blocks are made, and taken back.

use std::{cmp::Reverse, sync::Arc};

use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy_primitives::{Address, B256, U256, keccak256};
use revm::{context::result::ExecutionResult, primitives::eip7825::TX_GAS_LIMIT_CAP};
use sparewire_chain::{
    contracts::reason_in_words,
    evm::{AccountState, Changes, World},
};
use sparewire_core::Timestamp;

use super::{
    Event, Happening, INTRINSIC_GAS, Logged, Pending, PerMille, REPLACEMENT_PERCENT, Receipt,
    SimChain, SubmitError, Transaction,
    audit::Flows,
    event::{self, Transfer},
    state::{self, BLOCK_GAS, StateAt},
};

/// A block and all that it takes to take it back.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) number: u64,
    /// How many block times after genesis it was made.
    pub(super) slot: u64,
    pub(super) time: Timestamp,
    pub(super) hash: B256,
    /// Wei per gas, spikes included.
    pub(super) base_fee: u64,
    /// Wei per gas, without spikes: what EIP-1559 goes on from.
    pub(super) calm_fee: u64,
    /// Other people's transactions included.
    pub(super) gas_used: u64,
    pub(super) transactions: Vec<Transaction>,
    pub(super) receipts: Vec<Receipt>,
    pub(super) events: Vec<Logged>,
    /// What the block overwrote.
    pub(super) undo: Changes,
    /// Since the beginning.
    pub(super) flows: Flows,
}

/// How blocks are made.
impl SimChain {
    pub(super) fn head(&self) -> &Arc<Block> {
        &self.blocks[self.blocks.len() - 1] // never empty: genesis is final
    }

    pub(super) fn time_of(&self, slot: u64) -> Timestamp {
        self.weather.genesis.plus_ms(slot * self.weather.block_time_ms)
    }

    pub(super) fn next_slot(&self) -> u64 {
        let halt_ms = self.halted_until.ms_since(self.weather.genesis);
        (self.head().slot + 1).max(halt_ms.div_ceil(self.weather.block_time_ms))
    }

    pub(super) fn draw_weather(&mut self, time: Timestamp) {
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

    pub(super) fn take_back(&mut self, depth: u64, time: Timestamp) -> u64 {
        let from = self.head().number;
        let to = from.saturating_sub(depth).max(self.final_number);
        let mut returned = Vec::new();
        for number in (to + 1..=from).rev() {
            assert!(number > self.final_number, "what is final stays");
            let Some(block) = self.blocks.pop() else { break };
            self.world.apply(&block.undo);
            if !block.transactions.is_empty() {
                self.keep_books(block.undo.slots.keys().copied());
            }
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

    pub(super) fn mine(&mut self, slot: u64, time: Timestamp) {
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
        let block = Arc::new(block);
        self.blocks.push(block.clone());
        if !block.transactions.is_empty() {
            self.keep_books(block.undo.slots.keys().copied());
        }
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

    pub(super) fn check(
        &self,
        transaction: &Transaction,
        account: AccountState,
    ) -> Result<(), SubmitError> {
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

    pub(super) fn chance(&mut self, of: PerMille) -> bool {
        of > 0 && self.rng.u16(0..1_000) < of
    }

    /// From 1 to `most`, or 0 where that is 0.
    pub(super) fn up_to(&mut self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.rng.u64(1..=most) }
    }

    /// From 0 to `most`.
    fn up_to_or_zero(&mut self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.rng.u64(0..=most) }
    }

    pub(super) fn note(&mut self, happening: Happening) {
        self.log.push((self.now, happening));
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
