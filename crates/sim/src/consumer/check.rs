//! What is checked of honest consumers, against the ledger.

use sparewire_core::{Amount, ByteCount, Signed, Signer, TypedData};
use sparewire_protocol::{Payment, Record};

use super::{Consumer, Phase};
use crate::{
    cast::{identity, network},
    ledger::{Invariant, credit_and_step},
    node::Surroundings,
};

impl Consumer {
    /// Notes what is about to be recorded, and must be there in whole or not at all.
    pub(super) fn recording(&mut self, world: &mut Surroundings, records: &[Record]) {
        if let [Record::Payment { channel, payment }, Record::Receipt { receipt, .. }] = records {
            let amount = payment.voucher.body.amount;
            if amount > world.ledger.channel(*channel).promised {
                self.together.insert(*channel, (amount, receipt.body.sequence));
            }
        } else {
            for record in records {
                let Record::Payment { channel, payment } = record else { continue };
                let alone = self.alone.entry(*channel).or_default();
                *alone = payment.voucher.body.amount.max(*alone);
            }
        }
    }

    pub(super) fn recorded(&mut self, world: &mut Surroundings, records: &[Record]) {
        for record in records {
            if let Record::Payment { channel, payment } = record {
                let recorded = &mut world.ledger.channel(*channel).recorded;
                *recorded = payment.voucher.body.amount.max(*recorded);
            }
            if let Record::Receipt { receipt, payee_signature } = record
                && self.is_honest()
            {
                let domain = network().0;
                let payee = identity(self.provider.0).authorizer.address();
                let genuine = payee_signature.is_none_or(|signature| {
                    Signed { body: receipt.body, signature }.verify(&domain, payee).is_ok()
                });
                world.ensure(Invariant::I14OneReceiptForEachNumber, genuine, || {
                    format!("{} keeps a countersignature that is none", self.node.name)
                });
                if self.set_back {
                    continue; // it does not know what it signed since
                }
                let digest = receipt.body.digest(&network().0);
                let key = (receipt.body.channel, 0, receipt.body.sequence);
                let known = *world.ledger.receipts.entry(key).or_insert(digest);
                world.ensure(Invariant::I14OneReceiptForEachNumber, known == digest, || {
                    format!("{} signed two of number {}", self.node.name, key.2)
                });
            }
        }
    }

    /// I3, I6, I11: what an honest consumer signs is for what arrived and what its transport took,
    /// and never less than before.
    pub(super) fn check_payment(&mut self, world: &mut Surroundings, payment: &Payment) {
        let Phase::Up(up) = &self.phase else { return };
        let price = up.machine.agreement().terms.price;
        let amount = payment.voucher.body.amount;
        let account = world.ledger.session(payment.session);
        account.promised = account.promised.max(amount);
        let account = account.clone();
        let carried = ByteCount::new(account.arrived_down + account.sent_up);
        let fair = price.owed(carried).unwrap_or(Amount::MAX);
        world.ensure(
            Invariant::I3NeverPaidForMoreThanArrived,
            amount.get() <= account.base.get() + fair.get(),
            || format!("{amount} promised for {carried} over {}", account.base),
        );
        let down = payment.reading.down.get();
        world.ensure(
            Invariant::I11OnlyWhatWasAskedForIsBilled,
            down <= account.arrived_down,
            || format!("{down} bytes down signed for, {} arrived", account.arrived_down),
        );
        let up = payment.reading.up.get();
        world.ensure(Invariant::I11OnlyWhatWasAskedForIsBilled, up <= account.sent_up, || {
            format!("{up} bytes up signed for, {} sent", account.sent_up)
        });
        let known = account.reserved.max(account.base);
        world.ensure(Invariant::I6PromisesOnlyGrow, amount <= known || self.set_back, || {
            format!("{amount} promised, {known} known to be there")
        });
        self.check_promise(world, payment, false);
    }

    /// I8, while a session is under way: nothing arrives that its provider did not count, and the two
    /// meters differ by what is on its way, which the credit bounds.
    pub(super) fn check_meters(&self, world: &mut Surroundings) {
        let Phase::Up(up) = &self.phase else { return };
        let Some(meter) = up.meter.as_ref().filter(|_| self.provider_is_honest) else { return };
        let agreement = up.machine.agreement();
        let account = world.ledger.session(agreement.session);
        let (arrived, carried) = (account.arrived_down, account.carried[1]);
        let theirs = account.metered.filter(|(connection, _)| *connection == up.connection);
        world.ensure(Invariant::I8StatementsAgree, arrived <= carried, || {
            format!("{arrived} bytes down arrived at {}, {carried} were carried", self.node.name)
        });
        let Some((_, theirs)) = theirs.filter(|_| self.is_honest()) else { return };
        let paid = world.ledger.channel(agreement.channel()).paid_bytes.values().sum();
        let bound = credit_and_step(agreement.terms.credit, paid);
        let ours = meter.reading();
        let fine = ours.down <= theirs.down
            && theirs.up <= ours.up
            && theirs.down.get() - ours.down.get() <= bound;
        world.ensure(Invariant::I8StatementsAgree, fine, || {
            format!("{ours:?} by {}, {theirs:?} by its provider, bound {bound}", self.node.name)
        });
    }

    /// `again` where it may have been told before.
    pub(super) fn check_promise(
        &mut self,
        world: &mut Surroundings,
        payment: &Payment,
        again: bool,
    ) {
        let amount = payment.voucher.body.amount;
        let channel = world.ledger.channel(payment.voucher.body.channel);
        let (before, kept, reserved) = (channel.promised, channel.kept, channel.reserved);
        let recorded = channel.recorded;
        channel.promised = channel.promised.max(amount);
        // Whose store was set back does not know what it said since; what an honest provider has of
        // it, that one tells it.
        let floor = match self.set_back {
            false => before,
            true if self.provider_is_honest && !again => kept,
            true => Amount::ZERO,
        };
        world.ensure(Invariant::I6PromisesOnlyGrow, amount >= floor, || {
            format!("{amount} promised after {before}, {kept} of it kept")
        });
        world.ensure(
            Invariant::I7NothingLeavesBeforeItIsDurable,
            amount <= recorded || self.set_back,
            || format!("{amount} promised, {recorded} recorded"),
        );
        let lied_to = self.lied_to;
        world.ensure(Invariant::I6PromisesOnlyGrow, amount.get() <= reserved || lied_to, || {
            format!("{amount} promised out of {reserved}")
        });
    }

    /// I7: what left the node is remembered by it, whatever happened to it.
    pub(super) fn check_durable(&mut self, world: &mut Surroundings) {
        if !self.is_honest() || self.set_back {
            return;
        }
        for config in &self.channels {
            let id = config.id(&network().0);
            let Some(memory) = self.node.recall(|store| store.memory(id, None)) else { continue };
            let kept = memory.payment.map_or(Amount::ZERO, |p| p.voucher.body.amount);
            let sent = world.ledger.channel(id).promised;
            world.ensure(Invariant::I7NothingLeavesBeforeItIsDurable, kept >= sent, || {
                format!("{} has signed for {sent} and remembers {kept}", self.node.name)
            });
            // What was to be recorded together is there, or nothing of it.
            let Some((amount, sequence)) = self.together.remove(&id) else { continue };
            let newest = [
                memory.receipt.map(|it| it.receipt.body.sequence),
                memory.pending.map(|it| it.body.sequence),
            ];
            // Unless the same payment was to be recorded by itself before: what could not be synced
            // then, a power cut may bring back (seed 629513). It was never sent, nor anything since.
            let alone = kept >= amount && self.alone.get(&id) >= Some(&amount);
            let there = newest.into_iter().flatten().max() >= Some(sequence);
            let torn = (kept >= amount) != there && !alone;
            world.ensure(Invariant::I7NothingLeavesBeforeItIsDurable, !torn, || {
                format!("a payment of {amount} and receipt {sequence} were recorded in parts")
            });
        }
    }
}
