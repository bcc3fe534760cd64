//! What is checked of honest providers, against the ledger.

use sparewire_core::{Amount, ByteCount, ChannelId, Price, TypedData};
use sparewire_protocol::{Claim, Message, Record, Statement};

use super::{Provider, Seat, total};
use crate::{
    cast::network,
    ledger::{Invariant, allowance, credit, credit_and_step},
    node::Surroundings,
    plan::LIAR,
    vice::ProviderVice,
};

impl Provider {
    /// What is about to become durable.
    pub(super) fn recording(
        &mut self,
        world: &mut Surroundings,
        connection: u64,
        records: &[Record],
    ) {
        let Some(Seat::Live(live)) = self.seats.get(&connection) else { return };
        let agreement = live.machine.agreement();
        for record in records {
            match record {
                Record::Payment { channel, payment } => {
                    let paid = &mut world.ledger.channel(*channel).paid_bytes;
                    paid.insert(payment.session, total(payment.reading));
                    let amount = payment.voucher.body.amount;
                    let worth = agreement.owed(payment.reading) == Some(amount);
                    world.ensure(
                        Invariant::I4ExposureWithinCredit,
                        worth || payment.session != agreement.session,
                        || format!("{amount} taken for {:?}", payment.reading),
                    );
                    let reserved = world.ledger.channel(*channel).reserved;
                    let lied_to = self.node.purse.asks == LIAR || self.vice.is_some();
                    world.ensure(
                        Invariant::I4ExposureWithinCredit,
                        amount.get() <= reserved || lied_to,
                        || format!("{amount} taken of a channel that holds {reserved}"),
                    );
                }
                Record::Receipt { receipt, payee_signature: Some(_) } => {
                    let key = (receipt.body.channel, receipt.body.sequence);
                    world.ledger.countersigned.insert(key);
                    // A receipt of this session is about what is paid for.
                    let account = world.ledger.channel(receipt.body.channel);
                    let paid = account.paid_bytes.get(&receipt.body.session).copied();
                    let worth = paid.unwrap_or(0) >= total(receipt.body.reading);
                    world.ensure(
                        Invariant::I8StatementsAgree,
                        worth || receipt.body.session != agreement.session,
                        || format!("{:?} receipted, {paid:?} paid", receipt.body),
                    );
                }
                _ => {}
            }
        }
    }

    /// I7, the payee's: no countersignature leaves that is not recorded.
    pub(super) fn check_recorded(
        &self,
        world: &mut Surroundings,
        channel: ChannelId,
        message: &Message,
    ) {
        let sequence = match message {
            Message::Countersignature { sequence, .. } => Some(*sequence),
            Message::Accepted(accepted) => accepted.receipt.map(|it| it.receipt.body.sequence),
            _ => None,
        };
        let known = sequence.is_none_or(|n| world.ledger.countersigned.contains(&(channel, n)));
        world.ensure(Invariant::I7NothingLeavesBeforeItIsDurable, known, || {
            format!("{} countersigns {sequence:?} and has not recorded it", self.node.name)
        });
        let Message::Accepted(accepted) = message else { return };
        let memory = self.node.recall(|store| store.memory(channel, Some(accepted.session)));
        let kept = memory.is_none_or(|memory| memory.session.is_some());
        world.ensure(Invariant::I7NothingLeavesBeforeItIsDurable, kept, || {
            format!("{} accepts a session that it has not recorded", self.node.name)
        });
    }

    /// What became durable.
    pub(super) fn recorded(
        &mut self,
        world: &mut Surroundings,
        connection: u64,
        records: &[Record],
    ) {
        let Some(Seat::Live(live)) = self.seats.get_mut(&connection) else { return };
        for record in records {
            match record {
                Record::Payment { channel, payment } => {
                    if payment.session == live.machine.agreement().session {
                        live.paid = payment.reading;
                    }
                    let delay = live.machine.agreement().config.withdraw_delay_secs;
                    let in_time = world.in_time(*channel, delay);
                    let account = world.ledger.channel(*channel);
                    account.kept = account.kept.max(payment.voucher.body.amount);
                    if in_time {
                        account.due = account.due.max(payment.voucher.body.amount);
                    }
                    if let Some(vouchers) = &mut world.vouchers
                        && self.vice.is_none()
                    {
                        let config = live.machine.agreement().config;
                        let voucher = payment.voucher;
                        vouchers.push(Claim {
                            config,
                            amount: voucher.body.amount,
                            signature: voucher.signature,
                        });
                    }
                    if self.vice == Some(ProviderVice::ClaimsAgain) {
                        let config = live.machine.agreement().config;
                        let voucher = payment.voucher;
                        self.claims.push(Claim {
                            config,
                            amount: voucher.body.amount,
                            signature: voucher.signature,
                        });
                    }
                }
                Record::Receipt { receipt, payee_signature: Some(_) } => {
                    let digest = receipt.body.digest(&network().0);
                    let key = (receipt.body.channel, 1, receipt.body.sequence);
                    let known = *world.ledger.receipts.entry(key).or_insert(digest);
                    world.ensure(Invariant::I14OneReceiptForEachNumber, known == digest, || {
                        format!("{} signed two of number {}", self.node.name, key.2)
                    });
                }
                _ => {}
            }
        }
    }

    /// I4: what may pass is within what is durably paid, the credit, and one step.
    pub(super) fn check_grant(
        &mut self,
        world: &mut Surroundings,
        connection: u64,
        limit: ByteCount,
    ) {
        let Some(Seat::Live(live)) = self.seats.get(&connection) else { return };
        let paid = world.ledger.channel(live.channel).paid_bytes.values().sum();
        let bound = credit_and_step(self.credit, paid);
        world.ensure(
            Invariant::I4ExposureWithinCredit,
            limit.get() <= total(live.paid) + bound,
            || format!("{limit} granted on {:?} durably paid, bound {bound}", live.paid),
        );
        let reserved = Amount::new(world.ledger.channel(live.channel).reserved);
        let affordable = live.machine.agreement().affordable(reserved.unwrap_or(Amount::MAX));
        let lied_to = self.node.purse.asks == LIAR;
        world.ensure(
            Invariant::I4ExposureWithinCredit,
            limit <= affordable || limit.get() <= total(live.paid) || lied_to,
            || format!("{limit} granted, the channel can pay for {affordable}"),
        );
    }

    /// I4, once all that was wanted is done: one step more than the credit was for the time that it
    /// took to make a voucher durable.
    pub(super) fn check_credit(&self, world: &mut Surroundings, connection: u64) {
        let Some(Seat::Live(live)) = self.seats.get(&connection) else { return };
        let account = world.ledger.channel(live.channel);
        let most = total(live.paid) + credit(self.credit, account.paid_bytes.values().sum());
        world.ensure(Invariant::I4ExposureWithinCredit, live.limit.get() <= most, || {
            format!("{} may pass, {most} is what was paid and the credit", live.limit)
        });
    }

    /// I8: between honest parties, whatever arrived is paid for when the session is over.
    pub(super) fn check_ended(
        &self,
        world: &mut Surroundings,
        connection: u64,
        statement: &Statement,
    ) {
        let Some(Seat::Live(live)) = self.seats.get(&connection) else { return };
        let account = world.ledger.session(statement.session);
        let counted = ByteCount::new(total(statement.counted));
        let owed = statement.price.owed(counted).and_then(|owed| account.base.checked_add(owed));
        let covered = owed.is_some_and(|owed| owed <= account.reserved);
        let (arrived, paid) = (account.arrived_down, live.paid.down.get());
        let honest = self.vice.is_none() && self.honest[Self::peer(connection)];
        let fine = arrived <= paid || account.forgotten || !covered || !honest;
        world.ensure(Invariant::I8StatementsAgree, fine, || {
            format!("a session ended, {arrived} bytes arrived, {paid} paid: {statement:?}")
        });
    }

    pub(super) fn check_exposure(&mut self, world: &mut Surroundings, connection: u64) {
        let Some(Seat::Live(live)) = self.seats.get(&connection) else { return };
        let now = self.node.clock(world);
        let statement = live.machine.statement(now);
        world.ensure(
            Invariant::I4ExposureWithinCredit,
            statement.exposure_peak <= statement.exposure_bound,
            || format!("peak {} above {}", statement.exposure_peak, statement.exposure_bound),
        );
        let exposed = total(live.meter.reading()).saturating_sub(total(live.paid));
        let paid = world.ledger.channel(live.channel).paid_bytes.values().sum();
        let bound = credit_and_step(self.credit, paid);
        world.ensure(Invariant::I4ExposureWithinCredit, exposed <= bound, || {
            format!("{exposed} bytes carried and not durably paid, bound {bound}")
        });
        self.check_loss(world, live.channel);
    }

    /// I5: what was ever carried over a channel and not paid, crashes included.
    pub(super) fn check_loss(&self, world: &mut Surroundings, channel: ChannelId) {
        if self.vice.is_some() {
            return;
        }
        let account = world.ledger.channel(channel).clone();
        let (lost, paid) = if world.price_varies {
            // Money bought now more and now less: session by session, and none where it is free.
            let sessions = world.ledger.sessions.iter().filter_map(|(session, of)| {
                let (at, price) = of.sold?;
                let paid = account.paid_bytes.get(session).copied().unwrap_or(0);
                let carried = of.carried[0] + of.carried[1];
                (at == channel && price != Price::FREE).then(|| carried.saturating_sub(paid))
            });
            (sessions.sum(), account.paid_bytes.values().sum())
        } else if self.price == Price::FREE {
            return;
        } else {
            let paid = self.price.affordable(account.kept).get();
            (account.served.saturating_sub(paid), paid)
        };
        let bound = allowance(self.credit, paid)
            + credit_and_step(self.credit, paid) * (1 + account.crashes);
        world.ensure(Invariant::I5LossWithinAllowance, lost <= bound, || {
            format!("{lost} bytes lost over {channel}, bound {bound}, {} crashes", account.crashes)
        });
        if lost * 2 > bound {
            world.coverage.met("more than half of the loss bound used");
        }
    }
}
