//! Conservation: every token that came in is held or went out, by the contracts' own words.

use alloy_primitives::U256;
use sparewire_chain::contracts::TestToken;
use sparewire_protocol::channel::ChannelStatus;

use super::{SimChain, event::Transfer, state::base};

/// What flowed since the beginning, told by logs (tokens) and headers (wei).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flows {
    /// Wei that parties began with.
    pub(super) wei: U256,
    /// Wei burned with base fees.
    pub(super) burned: U256,
    /// Tokens made out of nothing.
    pub(super) minted: U256,
    /// Tokens sent to the channel contract, by `Transfer` events.
    pub(super) received: U256,
    /// Tokens sent by it, by `Transfer` events.
    pub(super) sent: U256,
    /// By `Deposited` events.
    pub(super) deposited: U256,
    /// By `Withdrawn` and `Swept` events.
    pub(super) paid_out: U256,
}

impl Flows {
    pub(super) fn count(&mut self, transfer: &Transfer) {
        let contract = base().contract;
        if transfer.from.is_zero() {
            self.minted += transfer.amount;
        }
        if transfer.to == contract {
            self.received += transfer.amount;
        }
        if transfer.from == contract {
            self.sent += transfer.amount;
        }
    }
}

/// Where all tokens are at the newest block, in the smallest unit, read from the contracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The token's total supply.
    pub supply: U256,
    /// All balances together, the channel contract's included.
    pub balances: U256,
    /// The channel contract's balance.
    pub held: U256,
    /// All deposits together.
    pub deposits: U256,
    /// All that payees were credited and not sent.
    pub claimable: U256,
    /// Reserved and not claimed, over all channels that are not closed.
    pub in_channels: U256,
    /// All that was ever deposited.
    pub deposited: U256,
    /// All that was ever withdrawn or swept.
    pub paid_out: U256,
    /// Tokens sent to the contract without a deposit: nobody's.
    pub stray: U256,
    /// Native currency of all accounts together, in wei.
    pub wei: U256,
}

impl SimChain {
    /// Adds everything up.
    pub fn audit(&self) -> Audit {
        let state = self.state_at(self.head().number);
        let flows = self.head().flows;
        let mut audit = Audit {
            supply: state.read(base().token, &TestToken::totalSupplyCall {}),
            balances: U256::ZERO,
            held: U256::from(state.tokens(base().contract)),
            deposits: U256::ZERO,
            claimable: U256::ZERO,
            in_channels: U256::ZERO,
            deposited: flows.deposited,
            paid_out: flows.paid_out,
            stray: flows.received.saturating_sub(flows.deposited),
            wei: self.world.accounts.values().map(|account| account.balance).sum(),
        };
        for holder in &self.holders {
            audit.balances += U256::from(state.tokens(*holder));
            audit.deposits += U256::from(state.deposit(*holder));
            audit.claimable += U256::from(state.claimable(*holder));
        }
        for id in self.channels.keys() {
            let Some(facts) = state.channel(*id) else { continue }; // taken back
            if facts.status != ChannelStatus::Closed {
                audit.in_channels += U256::from(facts.reserved.get() - facts.claimed.get());
            }
        }
        audit
    }

    /// Adds everything up and insists that nothing came from or went to nowhere.
    ///
    /// # Panics
    /// Where it did.
    pub fn assert_conserved(&self) -> Audit {
        let (audit, flows) = (self.audit(), self.head().flows);
        let owed = audit.deposits + audit.claimable + audit.in_channels;
        assert_eq!(audit.balances, audit.supply, "all balances are the supply: {audit:?}");
        assert_eq!(audit.supply, flows.minted, "what was minted is the supply: {audit:?}");
        assert_eq!(audit.paid_out, flows.sent, "all that left is accounted for: {audit:?}");
        assert_eq!(audit.deposited, owed + audit.paid_out, "in = held + out: {audit:?}");
        assert_eq!(audit.held, owed + audit.stray, "the contract can pay: {audit:?}");
        assert_eq!(flows.wei, audit.wei + flows.burned, "wei is burned, not lost: {audit:?}");
        audit
    }
}
