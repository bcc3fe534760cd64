//! The provider's side of a session: grants credit, takes payments, countersigns receipts.
//!
//! It keeps the exposure invariant: what was served and is not paid never exceeds the credit. Paid is
//! also what the consumer sets off against what we owe it ourselves: [`crate::SetOff`].

use std::{collections::VecDeque, sync::Arc};

use sparewire_core::{
    Amount, ByteCount, ChannelId, DeviceSignature, NodeId, Signed, Signer, Timestamp, TypedData,
};

use crate::{
    channel::{ChannelFacts, ChannelStatus, Claim},
    error::ProtocolError,
    message::{Accepted, Message, Payment, short_reason},
    meter::Reading,
    opening::Opening,
    payer::conflict,
    receipt::{Countersigned, Receipt, ReceiptChain},
    session::{
        ANSWER_MS_MAX, Agreement, Event, Memory, Output, Record, Role, Statement, StopReason, total,
    },
    terms::{Acceptance, Terms},
};

/// How long bytes up may stay unreported, in milliseconds: the consumer cannot pay for them before.
const REPORT_MS: u64 = 1_000;
/// How many costly messages a consumer may send at once, and after how many milliseconds one more.
const PATIENCE_MAX: u64 = 64;
const PATIENCE_MS: u64 = 100;

/// What a payee starts from.
pub struct PayeeSetup {
    /// The terms that were offered on this connection.
    pub terms: Terms,
    /// The device at the other end of the connection.
    pub consumer: NodeId,
    /// What it accepts.
    pub acceptance: Acceptance,
    /// Its signature of that.
    pub signature: DeviceSignature,
    /// What final state says of the channel.
    pub facts: ChannelFacts,
    /// What our store remembers of the channel.
    pub memory: Memory,
    /// What was agreed in the session that the acceptance's pending receipt is of, where that is
    /// another one and is remembered; and what is known to be paid for in that.
    pub pending_of: Option<(Agreement, Reading)>,
    /// Our authorizer's key.
    pub signer: Arc<dyn Signer>,
}

/// The machine. Drive it as [`crate`] describes.
pub struct Payee {
    agreement: Agreement,
    channel: ChannelId,
    signer: Arc<dyn Signer>,
    reserved: Amount,
    status: ChannelStatus,
    phase: Phase,
    counted: Reading,
    paid: Reading,
    payment: Option<Payment>,
    promised: Amount,
    /// What the consumer told that it owes, no less than what is paid; and what we owe it ourselves,
    /// as we told.
    told: Reading,
    set_off_max: Amount,
    /// A payment that sets off more than that, of which only a part was taken, and a receipt for it:
    /// we paid at once what it was about to set off, and it will pay what is missing when it sees
    /// that.
    held: Option<Payment>,
    held_receipt: Option<Signed<Receipt>>,
    receipts: ReceiptChain,
    receipted: Reading,
    last_countersigned: Option<Countersigned>,
    reported: Reading,
    last_report: Timestamp,
    granted: ByteCount,
    granted_max: ByteCount,
    exhausted: bool,
    payments_count: u64,
    receipts_count: u64,
    exposure_peak: ByteCount,
    exposure_bound: ByteCount,
    patience: u64,
    patience_at: Timestamp,
    begun: bool,
    over: bool,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    /// We asked the consumer to close.
    Asked {
        since: Timestamp,
    },
    /// The consumer closes; our last report is out.
    Closing {
        since: Timestamp,
    },
    Ended,
}

impl Payee {
    /// Takes an acceptance of our terms; the first outputs persist and answer it.
    ///
    /// # Errors
    /// [`ProtocolError`], to be told to the consumer by its [`ProtocolError::refusal_code`].
    /// Nothing has changed then.
    pub fn start(setup: PayeeSetup, now: Timestamp) -> Result<Self, ProtocolError> {
        let (signer, facts) = (Arc::clone(&setup.signer), setup.facts);
        let opening = Opening::of(setup, now)?;
        let (reading, paid) = (opening.reading, opening.paid);
        let mut payee = Self {
            channel: opening.agreement.channel(),
            signer,
            reserved: facts.reserved,
            status: facts.status,
            phase: Phase::Live,
            counted: reading,
            paid,
            payment: opening.payment,
            promised: opening.promised,
            told: paid,
            set_off_max: Amount::ZERO,
            held: None,
            held_receipt: None,
            receipts: opening.receipts,
            receipted: opening.receipted,
            last_countersigned: opening.countersigned,
            reported: reading,
            last_report: now,
            granted: ByteCount::ZERO,
            // A resumed session may start above its limit (what the consumer received and has
            // not paid for yet); nothing more passes until it has.
            granted_max: total(reading),
            exhausted: false,
            payments_count: 0,
            receipts_count: 0,
            exposure_peak: ByteCount::ZERO,
            exposure_bound: opening.credit,
            patience: PATIENCE_MAX,
            patience_at: now,
            begun: false,
            over: false,
            outputs: VecDeque::new(),
            agreement: opening.agreement,
        };
        if !opening.records.is_empty() {
            payee.outputs.push_back(Output::Persist(opening.records));
        }
        payee.outputs.push_back(Output::Event(Event::Started { reading }));
        payee.outputs.push_back(Output::Transmit(Message::Accepted(Box::new(Accepted {
            session: payee.agreement.session,
            reading,
            base: payee.agreement.base,
            history: payee.agreement.history,
            payment: payee.payment,
            receipt: payee.last_countersigned,
        }))));
        payee.watch_exposure();
        payee.grant();
        Ok(payee)
    }

    /// Takes a message of the consumer.
    ///
    /// # Errors
    /// [`ProtocolError`], whose [`ProtocolError::action`] says what to do; the machine is then no
    /// longer driven, and nothing that was promised before is lost.
    pub fn handle_message(
        &mut self,
        message: Message,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        if self.phase == Phase::Ended {
            return Ok(());
        }
        match message {
            Message::Payment { payment, receipt } => {
                let of_payment = receipt.is_none_or(|receipt| {
                    receipt.body.reading == payment.reading
                        && receipt.body.amount == payment.voucher.body.amount
                });
                if self.agreement.terms.service.sets_off() && !of_payment {
                    return Err(ProtocolError::Inconsistent("receipt of another payment"));
                }
                let known = self.held.map_or(self.paid, |held| held.reading);
                // What makes good what was set off too early brings money, and no bytes.
                let raises = payment.voucher.body.amount.saturating_sub(self.promised);
                let raises = match raises {
                    Amount::ZERO => ByteCount::ZERO,
                    raises => self.agreement.terms.price.affordable(raises),
                };
                let brings = total(payment.reading).saturating_sub(total(known)).max(raises);
                self.has_brought(brings, now)?;
                self.take_payment(&payment)?;
                match receipt {
                    Some(receipt) if self.held.is_some() => self.held_receipt = Some(receipt),
                    Some(receipt) => self.take_receipt(receipt, now)?,
                    None => self.take_held(now)?,
                }
                Ok(())
            }
            Message::Due { reading } if self.agreement.terms.service.sets_off() => {
                self.has_brought(total(reading).saturating_sub(total(self.told)), now)?;
                if !self.counted.covers(reading) || self.agreement.owed(reading).is_none() {
                    return Err(ProtocolError::Inconsistent("more is said to be due than came"));
                }
                if reading.covers(self.told) {
                    self.told = reading;
                }
                Ok(())
            }
            Message::Abort { stream } => {
                self.outputs.push_back(Output::Event(Event::Abort { stream }));
                Ok(())
            }
            Message::Flow { stream, paused } => {
                self.outputs.push_back(Output::Event(Event::Flow { stream, paused }));
                Ok(())
            }
            Message::Funded => {
                self.spend_patience(now)?;
                self.outputs.push_back(Output::Event(Event::Funded));
                Ok(())
            }
            Message::Close { reason } => {
                match self.phase {
                    Phase::Live | Phase::Asked { .. } => {
                        self.phase = Phase::Closing { since: now };
                        self.outputs.push_back(Output::Event(Event::PeerClosing { reason }));
                        self.report(true, now);
                        self.grant();
                    }
                    // The second one says that the consumer has paid all that it received.
                    Phase::Closing { .. } => self.end(now),
                    Phase::Ended => {}
                }
                Ok(())
            }
            _ => Err(ProtocolError::Unexpected("message from the consumer")),
        }
    }

    /// Takes the meter's reading.
    ///
    /// # Panics
    /// Where a counter went back, or the data plane let more pass than was granted.
    pub fn handle_reading(&mut self, reading: Reading, now: Timestamp) {
        assert!(reading.covers(self.counted), "counters only grow");
        // A3, the exposure invariant: granted is paid plus credit, so what is served and unpaid is
        // within the credit as long as nothing passed that was not granted.
        assert!(total(reading) <= self.granted_max, "no byte passes without credit");
        self.counted = reading;
        self.watch_exposure();
        self.report_if_due(now);
    }

    /// Takes a new final state of the channel.
    pub fn handle_chain_event(&mut self, facts: ChannelFacts) {
        self.reserved = facts.reserved;
        self.status = facts.status;
        self.exhausted = false;
        self.grant();
    }

    /// Takes what we owe the consumer ourselves by [`SetOff`](crate::SetOff).
    ///
    /// # Errors
    /// As [`Payee::handle_message`]: a payment may have waited for it.
    pub fn handle_set_off(&mut self, ours: Amount, now: Timestamp) -> Result<(), ProtocolError> {
        self.set_off_max = ours;
        if self.phase != Phase::Ended {
            self.take_held(now)?;
        }
        Ok(())
    }

    /// What the consumer told that it owes and has not promised.
    pub fn debt(&self) -> Amount {
        let owed = self.agreement.owed(self.told).unwrap_or(Amount::MAX);
        owed.saturating_sub(self.promised)
    }

    /// What we have taken as set off: never more than we owed the consumer ourselves.
    pub fn set_off(&self) -> Amount {
        let set_off = self.agreement.set_off(self.paid, self.promised);
        set_off.unwrap_or(Amount::ZERO)
    }

    /// Asks the consumer to end the session; it pays what it owes and closes.
    pub fn handle_close(&mut self, reason: &str, now: Timestamp) {
        if self.phase == Phase::Live {
            self.phase = Phase::Asked { since: now };
            self.outputs
                .push_back(Output::Transmit(Message::Close { reason: short_reason(reason) }));
            self.grant();
        }
    }

    /// The connection is gone, or the session broke off: takes the meter's last reading, drops what
    /// was still to be done, and has what was carried remembered for when the consumer comes back.
    ///
    /// # Panics
    /// As [`Payee::handle_reading`].
    pub fn handle_disconnect(&mut self, reading: Reading, now: Timestamp) {
        self.handle_reading(reading, now);
        self.outputs.clear();
        // Before its beginning is durable nothing has passed, and what it would have written off is
        // still remembered; after its end is, nothing is left to remember.
        if self.begun && !self.over {
            let session = self.agreement.session;
            self.outputs.push_back(Output::Persist(vec![Record::Counted { session, reading }]));
            self.phase = Phase::Ended;
        }
    }

    /// Takes the time.
    ///
    /// # Errors
    /// [`ProtocolError::Silent`] where the consumer does not settle a session that is being closed.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        let (Phase::Asked { since } | Phase::Closing { since }) = self.phase else {
            self.report_if_due(now);
            return Ok(());
        };
        if now.ms_since(since) >= ANSWER_MS_MAX {
            return Err(ProtocolError::Silent("settle the session"));
        }
        Ok(())
    }

    /// When [`Payee::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Asked { since } | Phase::Closing { since } => Some(since.plus_ms(ANSWER_MS_MAX)),
            Phase::Live => {
                (self.counted.up > self.reported.up).then(|| self.last_report.plus_ms(REPORT_MS))
            }
            Phase::Ended => None,
        }
    }

    /// At which total of the meter [`Payee::handle_reading`] wants to be called next, at the
    /// earliest; also whenever the meter's valve has closed.
    pub fn poll_mark(&self) -> ByteCount {
        let unreported = self.counted.up.saturating_sub(self.reported.up);
        let missing = self.report_step().saturating_sub(unreported).max(ByteCount::new(1));
        total(self.counted).checked_add(missing).unwrap_or(ByteCount::new(u64::MAX))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        // Whoever asks for what follows a `Persist` has made it durable.
        match &output {
            Some(Output::Event(Event::Started { .. })) => self.begun = true,
            Some(Output::Event(Event::Ended(_))) => self.over = true,
            _ => {}
        }
        output
    }

    /// Where the session stands; final once [`Event::Ended`] is out.
    pub fn statement(&self, now: Timestamp) -> Statement {
        Statement {
            role: Role::Payee,
            session: self.agreement.session,
            channel: self.channel,
            counted: self.counted,
            receipted: self.receipted,
            price: self.agreement.terms.price,
            paid: self.promised.saturating_sub(self.agreement.base),
            cumulative: self.promised,
            payments: self.payments_count,
            receipts: self.receipts_count,
            exposure_peak: self.exposure_peak,
            exposure_bound: self.exposure_bound,
            ended: now,
        }
    }

    /// What was agreed.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// What can be claimed on chain now: the newest voucher, if there is one.
    pub fn claim(&self) -> Option<Claim> {
        let voucher = self.payment?.voucher;
        Some(Claim {
            config: self.agreement.config,
            amount: voucher.body.amount,
            signature: voucher.signature,
        })
    }

    /// Why no byte passes now; `None` while some may, and while the session is being closed.
    pub fn stopped(&self) -> Option<StopReason> {
        if self.phase != Phase::Live || total(self.counted) < self.granted {
            return None;
        }
        Some(if self.status != ChannelStatus::Open {
            StopReason::ChannelLeaving
        } else if self.granted >= self.agreement.affordable(self.reserved) {
            StopReason::ChannelSpent
        } else {
            StopReason::Unpaid
        })
    }

    /// What was served and is not paid, in bytes.
    pub fn exposure(&self) -> ByteCount {
        total(self.counted).saturating_sub(total(self.paid))
    }

    /// The credit now, in bytes.
    pub fn credit(&self) -> ByteCount {
        self.agreement.terms.credit.credit(self.agreement.paid(total(self.paid)))
    }

    fn take_payment(&mut self, payment: &Payment) -> Result<(), ProtocolError> {
        if payment.session == self.agreement.session
            && self.paid.covers(payment.reading)
            && payment.voucher.body.amount <= self.promised
        {
            return Ok(()); // a duplicate, or one that a later payment has superseded
        }
        let (voucher, set_off) = self.agreement.verify_payment(self.channel, payment)?;
        if voucher.amount > self.reserved {
            return Err(ProtocolError::OverDeposit {
                amount: voucher.amount,
                reserved: self.reserved,
            });
        }
        if !self.counted.covers(payment.reading) {
            return Err(ProtocolError::PaidAhead);
        }
        if !payment.reading.covers(self.paid) {
            return Err(ProtocolError::Inconsistent("payment for less than is paid already"));
        }
        if voucher.amount < self.promised {
            return Err(ProtocolError::Inconsistent("payment of less than is promised already"));
        }
        if payment.reading.covers(self.told) {
            self.told = payment.reading;
        }
        self.held = (set_off > self.set_off_max).then_some(*payment);
        let reading = match self.held {
            Some(_) => self.covered(payment.reading, voucher.amount),
            None => payment.reading,
        };
        if reading == self.paid && voucher.amount == self.promised {
            return Ok(());
        }
        let payment = Payment { reading, ..*payment };
        // A1: what is promised over the channel only grows; and what is paid is promised, or we owe
        // it to the consumer ourselves.
        assert!(voucher.amount >= self.promised, "a promise never shrinks");
        let owed = self.agreement.owed(reading).unwrap_or(Amount::MAX);
        let set_off = owed.saturating_sub(voucher.amount);
        assert!(
            set_off <= self.set_off_max.max(self.set_off()),
            "nothing is set off that we do not owe"
        );
        self.watch_exposure();
        let durable = total(self.paid);
        let rule = self.agreement.terms.credit;
        let ahead = [self.credit(), rule.step(self.agreement.paid(durable))]
            .into_iter()
            .try_fold(durable, ByteCount::checked_add)
            .unwrap_or(ByteCount::new(u64::MAX));
        self.paid = payment.reading;
        self.promised = voucher.amount;
        self.payment = Some(payment);
        self.payments_count += 1;
        // Up to one step of the new credit may be used while the voucher is being made durable,
        // the rest after: a crash costs at most one step more than the credit.
        self.grant_at_most(ahead);
        self.outputs
            .push_back(Output::Persist(vec![Record::Payment { channel: self.channel, payment }]));
        self.grant();
        self.outputs.push_back(Output::Event(Event::Paid {
            reading: payment.reading,
            amount: voucher.amount,
            set_off,
        }));
        Ok(())
    }

    /// What of `reading`, which covers what is paid, a promise of `amount` pays for with what we owe.
    fn covered(&self, reading: Reading, amount: Amount) -> Reading {
        let worth = amount.saturating_sub(self.agreement.base).checked_add(self.set_off_max);
        let most = self.agreement.terms.price.affordable(worth.unwrap_or(Amount::MAX));
        reading.within(most, self.paid)
    }

    /// Takes what was held back, where it can be taken now.
    fn take_held(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        if let Some(held) = self.held {
            self.take_payment(&held)?;
        }
        match self.held_receipt.take() {
            Some(receipt) if self.held.is_some() => self.held_receipt = Some(receipt),
            Some(receipt) => self.take_receipt(receipt, now)?,
            None => {}
        }
        Ok(())
    }

    /// Messages that bring little are rare where a consumer is honest.
    fn has_brought(&mut self, brings: ByteCount, now: Timestamp) -> Result<(), ProtocolError> {
        match brings < ByteCount::new(self.report_step().get() / 4) {
            true => self.spend_patience(now),
            false => Ok(()),
        }
    }

    /// Messages that cost us more than they bring (payments far below the step, hints to look at
    /// the chain) are taken at a rate that no honest consumer comes near.
    fn spend_patience(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        self.patience_at = self.patience_at.min(now); // the clock was set back
        let earned = now.ms_since(self.patience_at) / PATIENCE_MS;
        if earned > 0 {
            self.patience = PATIENCE_MAX.min(self.patience.saturating_add(earned));
            self.patience_at = now;
        }
        self.patience = self
            .patience
            .checked_sub(1)
            .ok_or(ProtocolError::Inconsistent("too many small payments or hints"))?;
        Ok(())
    }

    fn take_receipt(
        &mut self,
        signed: Signed<Receipt>,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        let domain = *self.agreement.domain();
        if signed.body.channel != self.channel {
            return Err(ProtocolError::Inconsistent("receipt of another channel"));
        }
        let chain = ReceiptChain::after(&signed.body, &domain);
        let receipt = signed.verify(&domain, self.agreement.config.payer_authorizer)?;
        if let Some(last) = &self.last_countersigned
            && chain.sequence == self.receipts.sequence
        {
            if chain.hash != self.receipts.hash {
                return Err(conflict(chain.sequence, self.receipts.hash, chain.hash));
            }
            let (sequence, signature) = (chain.sequence, last.payee_signature);
            self.outputs
                .push_back(Output::Transmit(Message::Countersignature { sequence, signature }));
            return Ok(());
        }
        if chain.sequence <= self.receipts.sequence {
            return Ok(()); // an old one, late
        }
        let fits = receipt.session == self.agreement.session
            && receipt.sequence == self.receipts.sequence + 1
            && receipt.previous == self.receipts.hash
            && receipt.reading.covers(self.receipted)
            && self.paid.covers(receipt.reading)
            && receipt.amount <= self.promised
            && self.agreement.set_off(receipt.reading, receipt.amount).is_some();
        if !fits {
            return Err(ProtocolError::Inconsistent("receipt that does not follow the one before"));
        }
        let payee_signature = self.signer.sign_digest(receipt.digest(&domain))?;
        self.receipts = chain;
        self.receipted = receipt.reading;
        self.last_countersigned = Some(Countersigned { receipt: signed, payee_signature });
        self.receipts_count += 1;
        self.outputs.push_back(Output::Persist(vec![Record::Receipt {
            receipt: signed,
            payee_signature: Some(payee_signature),
        }]));
        self.outputs.push_back(Output::Transmit(Message::Countersignature {
            sequence: chain.sequence,
            signature: payee_signature,
        }));
        self.outputs.push_back(Output::Event(Event::Receipted { sequence: chain.sequence }));
        if matches!(self.phase, Phase::Closing { .. })
            && self.paid == self.counted
            && self.receipted == self.paid
            // Where something was set off it may still find that it was less, and says when it has
            // paid all.
            && self.agreement.owed(receipt.reading) == Some(receipt.amount)
        {
            self.end(now);
        }
        Ok(())
    }

    /// Ends the session; what was served and stays unpaid is a loss.
    fn end(&mut self, now: Timestamp) {
        self.phase = Phase::Ended;
        let statement = self.statement(now);
        let mut records = vec![Record::Ended(statement.clone())];
        if self.exposure() > ByteCount::ZERO {
            let (session, bytes) = (self.agreement.session, self.exposure());
            records.push(Record::Loss { session, bytes });
        }
        self.outputs.push_back(Output::Persist(records));
        self.outputs.push_back(Output::Event(Event::Ended(statement)));
    }

    /// Raises (or, when the channel closes, ends) what may pass: paid plus credit, and never more
    /// than the channel can pay for.
    fn grant(&mut self) {
        self.grant_at_most(ByteCount::new(u64::MAX));
    }

    /// As [`Self::grant`], but not beyond `most` bytes, unless that much was granted already.
    fn grant_at_most(&mut self, most: ByteCount) {
        let paid = total(self.paid);
        let serving = self.status == ChannelStatus::Open && self.phase == Phase::Live;
        let affordable = self.agreement.affordable(self.reserved);
        let limit = if serving {
            let credit = self.credit();
            self.exposure_bound = self.exposure_bound.max(credit);
            let limit = paid.checked_add(credit).unwrap_or(ByteCount::new(u64::MAX));
            limit.min(affordable).min(most.max(self.granted))
        } else {
            paid
        };
        if serving && limit == affordable && !self.exhausted {
            self.exhausted = true;
            self.outputs.push_back(Output::Event(Event::Exhausted));
        }
        if limit != self.granted {
            self.granted = limit;
            self.granted_max = self.granted_max.max(limit);
            self.outputs.push_back(Output::Grant(limit));
        }
    }

    fn watch_exposure(&mut self) {
        self.exposure_peak = self.exposure_peak.max(self.exposure());
    }

    fn report_step(&self) -> ByteCount {
        let step = self.agreement.terms.credit.step(self.agreement.paid(total(self.paid)));
        ByteCount::new((step.get() / 2).max(1))
    }

    fn report_if_due(&mut self, now: Timestamp) {
        let unreported = self.counted.up.saturating_sub(self.reported.up);
        let blocked = total(self.counted) >= self.granted;
        let overdue = now.ms_since(self.last_report) >= REPORT_MS;
        if unreported > ByteCount::ZERO
            && (unreported >= self.report_step() || blocked || overdue)
            && matches!(self.phase, Phase::Live | Phase::Asked { .. })
        {
            self.report(false, now);
        }
    }

    fn report(&mut self, last: bool, now: Timestamp) {
        self.reported = self.counted;
        self.last_report = now;
        let (reading, credit) = (self.counted, self.credit());
        self.outputs.push_back(Output::Transmit(Message::Report { reading, credit, last }));
    }
}
