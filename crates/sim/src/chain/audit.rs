//! Conservation: every token that came in is held or went out, by the contracts' own words.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use alloy_primitives::{Address, U256};
use sparewire_chain::contracts::TestToken;
use sparewire_core::{Amount, ChannelId};
use sparewire_protocol::channel::ChannelStatus;

use super::{
    SimChain,
    event::Transfer,
    state::{Slot, StateAt, base},
};
use crate::ledger::{Invariant, broken};

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

/// Something that the contracts are asked for the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Supply,
    Balance(Address),
    Deposit(Address),
    Claimable(Address),
    Channel(ChannelId),
}

/// What they say: how much is held there and, of a channel, what was ever claimed.
#[derive(Clone, Copy, Debug, Default)]
struct Says {
    held: U256,
    claimed: U256,
}

/// All that the contracts say of money, kept up with every block: an answer is asked for again when
/// a slot changes that it was read from.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    said: BTreeMap<Entry, Says>,
    read_from: BTreeMap<Slot, BTreeSet<Entry>>,
    /// How many blocks were added or taken away.
    blocks: u64,
}

impl Books {
    fn forget(&mut self, changed: impl IntoIterator<Item = Slot>) {
        for slot in changed {
            for entry in self.read_from.remove(&slot).into_iter().flatten() {
                self.said.remove(&entry);
            }
        }
    }

    fn ask(&mut self, entry: Entry, state: StateAt<'_>) {
        if self.said.contains_key(&entry) {
            return;
        }
        let seen = RefCell::default();
        self.said.insert(entry, entry.says(state.noting(&seen)));
        for slot in seen.into_inner() {
            self.read_from.entry(slot).or_default().insert(entry);
        }
    }

    fn held(&self, entry: Entry) -> U256 {
        self.said.get(&entry).map_or(U256::ZERO, |says| says.held)
    }
}

impl Entry {
    fn says(self, state: StateAt<'_>) -> Says {
        let held = match self {
            Self::Supply => state.read(base().token, &TestToken::totalSupplyCall {}),
            Self::Balance(owner) => U256::from(state.tokens(owner)),
            Self::Deposit(owner) => U256::from(state.deposit(owner)),
            Self::Claimable(owner) => U256::from(state.claimable(owner)),
            Self::Channel(id) => {
                // One whose opening was taken back holds nothing.
                let Some(facts) = state.channel(id) else { return Says::default() };
                let (reserved, claimed) = (facts.reserved.get(), facts.claimed.get());
                let Some(left) = reserved.checked_sub(claimed) else {
                    broken(Invariant::I1Conservation, &format!("{id} is overdrawn: {facts:?}"))
                };
                let open = facts.status != ChannelStatus::Closed;
                let held = if open { U256::from(left) } else { U256::ZERO };
                return Says { held, claimed: U256::from(claimed) };
            }
        };
        Says { held, claimed: U256::ZERO }
    }
}

/// What is a party's, in the token's smallest unit, at the newest block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// In its wallet, its deposit, credited to it, and left in its open channels.
    pub has: U256,
    /// What was ever claimed of its channels.
    pub paid: U256,
    /// What was ever claimed for it.
    pub was_paid: U256,
}

/// The books, kept with every block.
impl SimChain {
    /// How many blocks with a transaction were made or taken back so far: the books are as they were
    /// while that is what it was, and empty while it is nothing.
    pub fn booked(&self) -> u64 {
        self.books.blocks
    }

    /// What is a party's, by the books: as of the newest block with a transaction in it.
    pub fn holding(&self, party: Address) -> Holding {
        let held = |entry| self.books.held(entry);
        let own = [Entry::Balance(party), Entry::Deposit(party), Entry::Claimable(party)];
        let has = own.into_iter().map(held).sum();
        let mut holding = Holding { has, paid: U256::ZERO, was_paid: U256::ZERO };
        for (id, config) in &self.channels {
            let Some(says) = self.books.said.get(&Entry::Channel(*id)) else { continue };
            if config.payer == party {
                holding.has += says.held;
                holding.paid += says.claimed;
            }
            if config.payee == party {
                holding.was_paid += says.claimed;
            }
        }
        holding
    }

    /// What was claimed of each channel so far, by the books.
    pub fn claimed(&self) -> impl Iterator<Item = (ChannelId, Amount)> {
        self.books.said.iter().filter_map(|(entry, says)| match entry {
            Entry::Channel(id) => Some((*id, Amount::new(says.claimed.saturating_to())?)),
            _ => None,
        })
    }

    /// A block was made, or taken back, and `changed` with it: everything is added up.
    pub(super) fn keep_books(&mut self, changed: impl IntoIterator<Item = Slot>) {
        let mut books = std::mem::take(&mut self.books);
        books.blocks += 1;
        books.forget(changed);
        let state = StateAt::newest(&self.world);
        for entry in self.entries() {
            books.ask(entry, state);
        }
        self.books = books;
        self.check_conserved(&self.added_up(|entry| self.books.held(entry)));
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let of_each =
            |it: &Address| [Entry::Balance(*it), Entry::Deposit(*it), Entry::Claimable(*it)];
        let holders = self.holders.iter().flat_map(of_each);
        holders.chain(self.channels.keys().copied().map(Entry::Channel)).chain([Entry::Supply])
    }

    /// Adds everything up, every answer asked for anew.
    pub fn audit(&self) -> Audit {
        let state = StateAt::newest(&self.world);
        self.added_up(|entry| entry.says(state).held)
    }

    fn added_up(&self, held: impl Fn(Entry) -> U256) -> Audit {
        let flows = self.head().flows;
        let mut audit = Audit {
            supply: U256::ZERO,
            balances: U256::ZERO,
            held: held(Entry::Balance(base().contract)),
            deposits: U256::ZERO,
            claimable: U256::ZERO,
            in_channels: U256::ZERO,
            deposited: flows.deposited,
            paid_out: flows.paid_out,
            stray: flows.received.saturating_sub(flows.deposited),
            wei: self.world.accounts.values().map(|account| account.balance).sum(),
        };
        for entry in self.entries() {
            *match entry {
                Entry::Supply => &mut audit.supply,
                Entry::Balance(_) => &mut audit.balances,
                Entry::Deposit(_) => &mut audit.deposits,
                Entry::Claimable(_) => &mut audit.claimable,
                Entry::Channel(_) => &mut audit.in_channels,
            } += held(entry);
        }
        audit
    }

    /// Insists that nothing came from or went to nowhere.
    fn check_conserved(&self, audit: &Audit) {
        let flows = self.head().flows;
        let owed = audit.deposits + audit.claimable + audit.in_channels;
        for (what, left, right) in [
            ("all balances are the supply", audit.balances, audit.supply),
            ("what was minted is the supply", audit.supply, flows.minted),
            ("all that left is accounted for", audit.paid_out, flows.sent),
            ("in = held + out", audit.deposited, owed + audit.paid_out),
            ("the contract can pay", audit.held, owed + audit.stray),
            ("wei is burned, not lost", flows.wei, audit.wei + flows.burned),
        ] {
            if left != right {
                let block = self.head().number;
                let what = format!("{what} at block {block}: {left} and {right}: {audit:?}");
                broken(Invariant::I1Conservation, &what);
            }
        }
    }

    /// Adds everything up anew and insists that nothing came from or went to nowhere.
    ///
    /// # Panics
    /// Where it did.
    pub fn assert_conserved(&self) -> Audit {
        let audit = self.audit();
        self.check_conserved(&audit);
        audit
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_protocol::settlement::Intent;

    use super::*;
    use crate::{
        cast::{channel, identity, network},
        chain::{Asks, Weather, state},
        purse::Purse,
    };

    fn units(n: u128) -> Amount {
        Amount::new(n).unwrap()
    }

    /// A payer that deposits, opens, tops up, and takes everything back, for some hours.
    fn live(weather: Weather, seed: u64, mut each: impl FnMut(&mut SimChain, u64)) -> SimChain {
        let mut chain = SimChain::new(weather, seed);
        chain.fund(identity(1).address(), 1 << 90, 1 << 80);
        let mut purse = Purse::new(identity(1).address(), Asks::One(0));
        let (config, token) = (channel(1, 0, 1, 900), network().1);
        purse.want(Intent::Deposit { token, amount: units(100) });
        purse.want(Intent::Open { channels: vec![(config, units(60))] });
        purse.want(Intent::TopUp { config, amount: units(20) });
        purse.want(Intent::Withdraw { token, amount: units(20) });
        purse.want(Intent::StartClose { config });
        for block in 0..600 {
            let now = Weather::calm().genesis.plus_ms(block * 12_000);
            while chain.step(now) {
                each(&mut chain, block);
            }
            purse.tick(&mut chain, now);
            if block == 400 {
                purse.want(Intent::FinishClose { config });
            }
        }
        chain
    }

    #[test]
    fn the_books_say_what_the_contracts_say_after_every_block_and_reorganisation() {
        for seed in 0..4 {
            let weather = Weather { halts: 0, reorgs: 150, ..Weather::storm() };
            let chain = live(weather, seed, |chain, _| {
                if chain.booked() > 0 {
                    let booked = chain.added_up(|entry| chain.books.held(entry));
                    assert_eq!(booked, chain.audit());
                }
            });
            let holding = chain.holding(identity(1).address());
            assert_eq!(holding.has, U256::from(1u128 << 80));
            assert!(chain.booked() > 8);
        }
    }

    #[test]
    #[should_panic(expected = "I1 I1Conservation: all balances are the supply")]
    fn money_out_of_nowhere_is_noticed_with_the_next_block_that_moves_it() {
        live(Weather::calm(), 1, |chain, block| {
            if block == 3 {
                state::mint(&mut chain.world, identity(1).address(), 5);
            }
        });
    }
}
