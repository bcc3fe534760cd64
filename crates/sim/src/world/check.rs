//! What is checked of the whole world: of money after each block, of statements and payments at the
//! end.

use sparewire_core::{Amount, ChannelId, U256};
use sparewire_protocol::{ChannelStatus, Statement};

use super::{PROVIDER, TOKENS, World};
use crate::{
    cast::{PARTIES, WATCHER, identity, network},
    chain::Tag,
    ledger::Invariant,
    plan::LIAR,
};

impl World {
    /// I1 and I2, at whatever is the newest block now: everybody has what it began with, less what it
    /// paid and with what it was paid, and no more was claimed than was promised. That the chain's
    /// own sums are right is checked as each block is made or taken back.
    pub(super) fn check_block(&mut self) {
        let booked = self.around.chain.booked();
        if std::mem::replace(&mut self.booked, booked) == booked {
            return; // nothing has moved
        }
        for party in 0..PARTIES {
            let holding = self.around.chain.holding(identity(party).address());
            let due = U256::from(TOKENS) + holding.was_paid;
            self.around.ensure(
                Invariant::I1Conservation,
                holding.has + holding.paid == due,
                || format!("party {party} began with {TOKENS} and has {holding:?}"),
            );
        }
        for (id, claimed) in self.around.chain.claimed() {
            let promised =
                self.around.ledger.channels.get(&id).map_or(Amount::ZERO, |it| it.promised);
            self.around.ensure(
                Invariant::I2NeverMoreThanTheNewestVoucher,
                claimed <= promised,
                || format!("{claimed} claimed of {promised} promised over {id}"),
            );
        }
    }

    /// I8: where both sides state a session's end, they state the same.
    pub(super) fn check_statements(&mut self) {
        if self.plan.vice.is_some() {
            return;
        }
        let mut agreed = 0;
        for (session, account) in &self.around.ledger.sessions {
            let party = usize::from(session.0[0]);
            if self.plan.consumers[party.saturating_sub(1)].vice.is_some() {
                continue;
            }
            if let [Some(ours), Some(theirs)] = &account.statements {
                let figures = |s: &Statement| {
                    (s.session, s.channel, s.receipted, s.paid, s.cumulative, s.price)
                };
                self.around.ensure(
                    Invariant::I8StatementsAgree,
                    figures(ours) == figures(theirs),
                    || format!("{ours:?}\n{theirs:?}"),
                );
                agreed += 1;
            }
        }
        for _ in 0..agreed {
            self.around.coverage.met("statements agree");
        }
    }

    /// I9 and I2, by the chain's own facts.
    pub(super) fn check_paid(&mut self) {
        let truth = self.around.chain.truth();
        let believed_lies = self.plan.asks == LIAR || self.plan.vice.is_some();
        let channels: Vec<ChannelId> = self.around.ledger.channels.keys().copied().collect();
        for id in channels {
            let account = self.around.ledger.channels[&id].clone();
            let Ok(Some(facts)) = truth.channel(id, Tag::Final) else { continue };
            self.around.ensure(
                Invariant::I2NeverMoreThanTheNewestVoucher,
                facts.claimed <= account.promised,
                || format!("{} claimed of {} promised over {id}", facts.claimed, account.promised),
            );
            // Who never comes back is paid what its watcher heard of, once payers leave.
            if !believed_lies && !self.gone {
                self.around.ensure(
                    Invariant::I9WhoKeepsAVoucherIsPaid,
                    facts.claimed >= account.due,
                    || format!("{} paid of {} kept over {id}", facts.claimed, account.due),
                );
            }
        }
    }

    /// I9: what an honest watcher had heard of is paid, whether the provider came back or not.
    pub(super) fn check_watched(&mut self) {
        let honest = self.watcher.as_ref().is_some_and(|watcher| watcher.vice.is_none());
        if !honest || self.plan.asks == LIAR {
            return; // a provider that is lied to takes vouchers for money that is not there
        }
        let mut paid = Amount::ZERO;
        for (id, account) in &self.around.ledger.channels {
            let facts = self.around.chain.truth().channel(*id, Tag::Final).ok().flatten();
            let claimed = facts.map_or(Amount::ZERO, |facts| facts.claimed);
            let heard = account.heard;
            self.around.ensure(Invariant::I9WhoKeepsAVoucherIsPaid, claimed >= heard, || {
                format!("{claimed} paid of {heard} that the watcher heard of over {id}")
            });
            paid = paid.max(claimed);
        }
        if self.gone && paid > Amount::ZERO {
            self.around.coverage.met("who is gone for good is paid");
        }
    }

    /// I1: every unit is where it belongs.
    pub(super) fn check_money(&mut self) {
        self.around.chain.assert_conserved();
        let truth = self.around.chain.truth();
        let held = |party: usize| {
            let wallet = identity(party).address();
            let balance = truth.token_balance(wallet, Tag::Final).unwrap_or(0);
            let claimable = truth.claimable(wallet, Tag::Final).unwrap_or(0);
            let deposit = truth.deposit(wallet, Tag::Final).unwrap_or(0);
            balance + claimable + deposit
        };
        let mut spent = 0u128;
        for (index, consumer) in self.consumers.iter().enumerate() {
            let mut paid = 0u128;
            for config in &consumer.channels {
                let id = config.id(&network().0);
                let Ok(Some(facts)) = truth.channel(id, Tag::Final) else { continue };
                self.around.ensure(
                    Invariant::I10EverySessionEnds,
                    facts.status == ChannelStatus::Closed,
                    || format!("{id} cannot be closed: {facts:?} {:?}", consumer.node.purse),
                );
                paid += facts.claimed.get();
            }
            spent += paid;
            let has = held(index + 1);
            self.around.ensure(Invariant::I1Conservation, has == TOKENS - paid, || {
                format!("consumer {} has {has} after paying {paid}", index + 1)
            });
        }
        let has = held(PROVIDER);
        self.around.ensure(Invariant::I1Conservation, has == TOKENS + spent, || {
            format!("the provider has {has}, was paid {spent}")
        });
        for (who, party) in [("a stranger", PARTIES - 1), ("the watcher", WATCHER)] {
            let has = held(party);
            self.around
                .ensure(Invariant::I1Conservation, has == TOKENS, || format!("{who} has {has}"));
        }
        if spent > 0 {
            self.around.coverage.met("somebody was paid");
        }
    }
}
