//! The consumer's side of a session: counts what it receives, signs for it, and pays.
//!
//! It never pays ahead: it signs for what arrived, and upwards for what the provider says it has
//! carried of what was sent. Where the provider buys of us too, what each owes the other is set off
//! before a voucher is signed: [`crate::SetOff`].

use std::{collections::VecDeque, sync::Arc};

use sparewire_core::{
    Amount, B256, ByteCount, ChannelId, DeviceSigner, DeviceStatement, NodeId, Price, SessionId,
    Signed, Signer, Timestamp, Verified,
};

use crate::{
    channel::{ChannelConfig, Delegation, Voucher},
    error::ProtocolError,
    message::{Accepted, Message, Payment, short_reason},
    meter::Reading,
    receipt::{Countersigned, Receipt, ReceiptChain},
    session::{
        AGREED, ANSWER_MS_MAX, Agreement, CHECKPOINT_BYTES, CHECKPOINT_MS, Event, Memory, Output,
        Record, Role, SUPERSEDED, Statement, StopReason, WAS_SET_OFF, total,
    },
    terms::{Acceptance, Terms, check_channel},
};

/// What a payer starts from.
pub struct PayerSetup<'a> {
    /// The provider's verified terms.
    pub terms: Terms,
    /// The session to start, or the one that `memory.session` is of.
    pub session: SessionId,
    /// The channel that pays.
    pub config: ChannelConfig,
    /// What it holds, by the chain's final state.
    pub reserved: Amount,
    /// What is to be left unpromised in the channel: with less than that, or than the credit is
    /// worth, a top-up is asked for ([`Event::Exhausted`]), which takes its time on chain.
    pub low_water: Amount,
    /// Our wallet's word for our device and authorizer.
    pub delegation: Signed<Delegation>,
    /// What our store remembers of the channel.
    pub memory: Memory,
    /// Our authorizer's key.
    pub signer: Arc<dyn Signer>,
    /// Our device key.
    pub device: &'a dyn DeviceSigner,
}

/// The machine. Drive it as [`crate`] describes.
pub struct Payer {
    agreement: Agreement,
    channel: ChannelId,
    provider: NodeId,
    signer: Arc<dyn Signer>,
    reserved: Amount,
    low_water: Amount,
    phase: Phase,
    /// What we sent up and received down.
    counted: Reading,
    up_max: ByteCount,
    reported_up: ByteCount,
    /// What our newest payment pays for, and the newest promise over the channel.
    paid: Reading,
    payment: Option<Payment>,
    promised: Amount,
    /// What we told that we owe, no less than what is paid; and what the provider owes us in the same
    /// way; `None` where it buys nothing of us.
    told: Reading,
    set_off_max: Option<Amount>,
    /// More was promised for what the last receipt speaks of.
    raised: bool,
    last_payment: Timestamp,
    receipts: ReceiptChain,
    receipted: Reading,
    last_receipt: Timestamp,
    pending: Option<(Verified<Receipt>, Timestamp)>,
    exhausted: bool,
    payments_count: u64,
    receipts_count: u64,
    prepaid_peak: ByteCount,
    resumed: bool,
    /// As of [`Memory::resync`], until the provider has told.
    resync: Option<Amount>,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `Accept` is sent.
    Accepting { since: Timestamp },
    /// Bytes flow.
    Live,
    /// `Close` is sent; the provider owes its last report.
    Closing { since: Timestamp },
    /// Everything is reported; the last receipt waits for its countersignature.
    Settling { since: Timestamp },
    /// Nothing more is said.
    Ended,
}

impl Payer {
    /// Accepts the terms: the first output is the `Accept` message.
    ///
    /// # Errors
    /// [`ProtocolError`] where the setup contradicts itself, for example a channel of other
    /// parties than the terms name.
    pub fn accept(setup: PayerSetup<'_>, now: Timestamp) -> Result<Self, ProtocolError> {
        let PayerSetup {
            terms,
            session,
            config,
            reserved,
            low_water,
            delegation,
            memory,
            signer,
            device,
        } = setup;
        if config.payer_authorizer != signer.address() {
            return Err(ProtocolError::Inconsistent(
                "the channel names another authorizer than our key",
            ));
        }
        check_channel(&config, &terms)?;
        if memory.agreed.is_some() {
            return Err(ProtocolError::ChannelUnusable(AGREED));
        }
        let resumed = memory.session.as_ref().filter(|known| known.agreement.session == session);
        let promised = memory.payment.map_or(Amount::ZERO, |payment| payment.voucher.body.amount);
        let agreement = match resumed {
            Some(known) if known.agreement.config != config || known.agreement.terms != terms => {
                return Err(ProtocolError::Inconsistent("resuming a session under other terms"));
            }
            // Going on below what another session promised since would promise less than before.
            Some(known)
                if memory.payment.is_some_and(|newest| newest.session != session)
                    && promised > known.agreement.base =>
            {
                return Err(ProtocolError::CannotResume(SUPERSEDED));
            }
            Some(known)
                if memory.resync.is_none()
                    && known.agreement.owed(known.paid) != Some(promised) =>
            {
                return Err(ProtocolError::CannotResume(WAS_SET_OFF));
            }
            Some(known) => known.agreement.clone(),
            None => Agreement { session, config, terms, base: promised, history: memory.history },
        };
        let (counted, reported_up, paid) = match resumed {
            Some(known) => (known.counted, known.reported_up, known.paid),
            None => (Reading::ZERO, ByteCount::ZERO, Reading::ZERO),
        };
        let reading = Reading {
            up: counted.up.min(reported_up).max(paid.up),
            down: counted.down.max(paid.down),
        };
        let up_max = counted.up.max(reading.up);
        let (receipts, receipted) = agreement.recall_receipts(memory.receipt.as_ref())?;
        let pending = match memory.pending {
            Some(signed) => {
                let receipt = signed.verify(agreement.domain(), config.payer_authorizer)?;
                Some((receipt, now))
            }
            None => None,
        };
        let acceptance = Acceptance {
            session,
            terms_hash: terms.hash(),
            channel: config,
            delegation,
            reading,
            up_max,
            // Where our store was set back we ask and do not tell: a provider that has forgotten
            // would only say again what it just heard.
            payment: memory.payment.filter(|_| memory.resync.is_none()),
            receipt: memory.receipt,
            pending: memory.pending,
        };
        let signature = device.sign_bytes(&acceptance.signing_bytes());
        Ok(Self {
            channel: agreement.channel(),
            provider: terms.provider,
            agreement,
            signer,
            reserved,
            low_water,
            phase: Phase::Accepting { since: now },
            counted: reading,
            up_max,
            reported_up: reading.up,
            paid,
            payment: memory.payment,
            promised,
            told: paid,
            set_off_max: None,
            raised: false,
            last_payment: now,
            receipts,
            receipted,
            last_receipt: now,
            pending,
            exhausted: false,
            payments_count: 0,
            receipts_count: 0,
            prepaid_peak: ByteCount::ZERO,
            resumed: resumed.is_some(),
            resync: memory.resync,
            outputs: VecDeque::from([Output::Transmit(Message::Accept {
                acceptance: Box::new(acceptance),
                signature,
            })]),
        })
    }

    /// Takes a message of the provider.
    ///
    /// # Errors
    /// [`ProtocolError`], whose [`ProtocolError::action`] says what to do; the machine is then no
    /// longer driven. Nothing that was signed before is lost.
    pub fn handle_message(
        &mut self,
        message: Message,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        match (self.phase, message) {
            (Phase::Ended, _) => Ok(()),
            (Phase::Accepting { .. }, Message::Accepted(accepted)) => {
                self.handle_accepted(*accepted, now)
            }
            (Phase::Accepting { .. }, Message::Refused(refused)) => {
                self.phase = Phase::Ended;
                self.outputs.push_back(Output::Event(Event::Refused(refused)));
                Ok(())
            }
            (Phase::Accepting { .. }, Message::Close { reason }) => {
                self.outputs.push_back(Output::Event(Event::PeerClosing { reason }));
                self.phase = Phase::Ended;
                Ok(())
            }
            (Phase::Accepting { .. }, _) => {
                Err(ProtocolError::Unexpected("message before the session is accepted"))
            }
            (_, Message::Report { reading, last, .. }) => {
                // Reports only grow; an older one that comes late changes nothing.
                self.reported_up = self.reported_up.max(reading.up);
                if last && matches!(self.phase, Phase::Closing { .. }) {
                    self.phase = Phase::Settling { since: now };
                }
                self.pay(now)
            }
            (_, Message::Countersignature { sequence, signature }) => {
                let Some((pending, _)) = self.pending else { return Ok(()) };
                if sequence != pending.sequence {
                    return Ok(()); // of one that we hold already
                }
                // Our own signature is in order; theirs is of the same receipt.
                let theirs = Signed { body: pending.signed().body, signature };
                let (domain, payee) =
                    (self.agreement.domain(), self.agreement.config.payee_authorizer);
                theirs.verify(domain, payee)?;
                let countersigned =
                    Countersigned { receipt: *pending.signed(), payee_signature: signature };
                self.complete_receipt(&countersigned);
                self.pay(now)
            }
            (_, Message::Broken { stream }) => {
                self.outputs.push_back(Output::Event(Event::Broken { stream }));
                Ok(())
            }
            (Phase::Live, Message::Close { reason }) => {
                self.outputs.push_back(Output::Event(Event::PeerClosing { reason }));
                Ok(())
            }
            (_, Message::Close { .. }) => Ok(()), // both wanted to end it
            (_, Message::Refused(refused)) => {
                Err(ProtocolError::Refused { code: refused.code, reason: refused.reason })
            }
            _ => Err(ProtocolError::Unexpected("message from the provider")),
        }
    }

    /// Takes the meter's reading: `up` as accepted by the connection, `down` as received.
    ///
    /// # Errors
    /// [`ProtocolError::Signer`] where our own key does not sign.
    ///
    /// # Panics
    /// Where a counter went back.
    pub fn handle_reading(
        &mut self,
        reading: Reading,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        assert!(reading.covers(self.counted), "counters only grow");
        self.counted = reading;
        self.pay(now)
    }

    /// Takes a new final state of the channel: it was topped up.
    ///
    /// # Errors
    /// [`ProtocolError::Signer`] where our own key does not sign.
    pub fn handle_top_up(&mut self, reserved: Amount, now: Timestamp) -> Result<(), ProtocolError> {
        if reserved > self.reserved {
            self.reserved = reserved;
            self.exhausted = false;
            if self.phase != Phase::Ended {
                self.outputs.push_back(Output::Transmit(Message::Funded));
            }
        }
        self.pay(now)
    }

    /// Takes what the provider owes us by [`SetOff`](crate::SetOff), or that it buys nothing of us.
    ///
    /// # Errors
    /// [`ProtocolError::Signer`] where our own key does not sign.
    pub fn handle_set_off(
        &mut self,
        theirs: Option<Amount>,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        self.set_off_max = theirs.filter(|_| self.agreement.terms.service.sets_off());
        self.pay(now)
    }

    /// What we told that we owe and have not promised: it is, or is to be, set off or paid.
    pub fn debt(&self) -> Amount {
        let owed = self.agreement.owed(self.told).unwrap_or(Amount::MAX);
        owed.saturating_sub(self.promised)
    }

    /// Our application gave up on a stream.
    pub fn handle_abort(&mut self, stream: u64) {
        if matches!(self.phase, Phase::Live | Phase::Closing { .. }) {
            self.outputs.push_back(Output::Transmit(Message::Abort { stream }));
        }
    }

    /// Our application has stopped reading a stream, or reads it again.
    pub fn handle_flow(&mut self, stream: u64, paused: bool) {
        if matches!(self.phase, Phase::Live | Phase::Closing { .. }) {
            self.outputs.push_back(Output::Transmit(Message::Flow { stream, paused }));
        }
    }

    /// Ends the session: what is owed is paid, and the last receipt signed by both. All streams
    /// must have ended.
    pub fn handle_close(&mut self, reason: &str, now: Timestamp) {
        match self.phase {
            Phase::Live => {
                self.phase = Phase::Closing { since: now };
                let reason = short_reason(reason);
                self.outputs.push_back(Output::Transmit(Message::Close { reason }));
            }
            Phase::Accepting { .. } => self.phase = Phase::Ended,
            Phase::Closing { .. } | Phase::Settling { .. } | Phase::Ended => {}
        }
    }

    /// Takes the time.
    ///
    /// # Errors
    /// [`ProtocolError::Silent`] where the provider owes an answer.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        let (since, what) = match self.phase {
            Phase::Accepting { since } => (Some(since), "answer the acceptance"),
            Phase::Closing { since } => (Some(since), "send its last report"),
            Phase::Settling { since } => (Some(since), "countersign the last receipt"),
            Phase::Live => (self.pending.map(|(_, since)| since), "countersign a receipt"),
            Phase::Ended => (None, ""),
        };
        if since.is_some_and(|since| now.ms_since(since) >= ANSWER_MS_MAX) {
            return Err(ProtocolError::Silent(what));
        }
        self.pay(now)
    }

    /// When [`Payer::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let answer = match self.phase {
            Phase::Accepting { since } | Phase::Closing { since } | Phase::Settling { since } => {
                Some(since)
            }
            Phase::Live => self.pending.map(|(_, since)| since),
            Phase::Ended => return None,
        }
        .map(|since| since.plus_ms(ANSWER_MS_MAX));
        let payable = self.within_channel(self.payable());
        let due = total(payable) > total(self.paid) || self.shortage() > Amount::ZERO;
        let payment =
            (self.phase == Phase::Live && due).then(|| self.last_payment.plus_ms(CHECKPOINT_MS));
        let receipt = (self.phase == Phase::Live
            && self.pending.is_none()
            && total(self.paid) > total(self.receipted))
        .then(|| self.last_receipt.plus_ms(CHECKPOINT_MS));
        [answer, payment, receipt].into_iter().flatten().min()
    }

    /// At which total of the meter [`Payer::handle_reading`] wants to be called next, at the
    /// earliest.
    pub fn poll_mark(&self) -> ByteCount {
        let unpaid = total(self.payable()).saturating_sub(total(self.paid));
        let missing = self.step().saturating_sub(unpaid).min(self.untold_rest());
        let missing = missing.max(ByteCount::new(1));
        total(self.counted).checked_add(missing).unwrap_or(ByteCount::new(u64::MAX))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Where the session stands; final once [`Event::Ended`] is out.
    pub fn statement(&self, now: Timestamp) -> Statement {
        Statement {
            role: Role::Payer,
            session: self.agreement.session,
            channel: self.channel,
            counted: self.counted,
            receipted: self.receipted,
            price: self.agreement.terms.price,
            paid: self.promised.saturating_sub(self.agreement.base),
            cumulative: self.promised,
            payments: self.payments_count,
            receipts: self.receipts_count,
            exposure_peak: self.prepaid_peak,
            exposure_bound: self.step(),
            ended: now,
        }
    }

    /// What was agreed.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// What the provider has told of `up`: to be remembered when the connection breaks.
    pub fn reported_up(&self) -> ByteCount {
        self.reported_up
    }

    /// Why the provider can let no byte pass now, as far as we can see.
    pub fn stopped(&self) -> Option<StopReason> {
        if self.phase != Phase::Live {
            return None;
        }
        let affordable = self.agreement.affordable(self.reserved);
        if self.agreement.terms.price > Price::FREE && total(self.payable()) >= affordable {
            return Some(StopReason::ChannelSpent);
        }
        // What it has told of is paid for at each step, which is less than the credit.
        let credit = self.agreement.terms.credit.credit(self.agreement.paid(total(self.paid)));
        let unreported = self.counted.up.saturating_sub(self.reported_up);
        (unreported >= credit).then_some(StopReason::Unreported)
    }

    /// What we would pay for now.
    fn payable(&self) -> Reading {
        Reading { up: self.counted.up.min(self.reported_up), down: self.counted.down }
    }

    fn step(&self) -> ByteCount {
        self.agreement.terms.credit.step(self.agreement.paid(total(self.paid)))
    }

    /// After how many more bytes we tell what we owe; never where nothing is set off.
    fn untold_rest(&self) -> ByteCount {
        if self.set_off_max.is_none() {
            return ByteCount::new(u64::MAX);
        }
        let told = total(self.told);
        let untold = total(self.within_channel(self.payable())).saturating_sub(told);
        ByteCount::new((self.step().get() / 4).max(1)).saturating_sub(untold)
    }

    /// What is paid for, and neither promised nor owed to us any more.
    fn shortage(&self) -> Amount {
        let owed = self.agreement.owed(self.paid).unwrap_or(Amount::MAX);
        let set_off = owed.saturating_sub(self.promised);
        set_off.saturating_sub(self.set_off_max.unwrap_or(Amount::ZERO))
    }

    /// What of `reading` is set off: what the provider owes us, as far as we owe it for this.
    fn set_off(&self, reading: Reading) -> Result<Amount, ProtocolError> {
        let owed = self
            .agreement
            .owed(reading)
            .ok_or(ProtocolError::Inconsistent("more is owed than a channel can hold"))?;
        let unpromised = owed.saturating_sub(self.promised);
        Ok(unpromised.min(self.set_off_max.unwrap_or(Amount::ZERO)))
    }

    fn handle_accepted(&mut self, accepted: Accepted, now: Timestamp) -> Result<(), ProtocolError> {
        if accepted.session != self.agreement.session {
            return Err(ProtocolError::Inconsistent("acceptance of another session"));
        }
        // R1: on a channel of a store that was set back, nothing is signed before the provider has
        // told, unasked, what we have signed: no less than we remember, or than was claimed.
        if let Some(least) = self.resync {
            let least = least.max(self.promised);
            let told = accepted.payment.map(|theirs| theirs.voucher.body.amount);
            if told.is_none_or(|told| told < least) {
                return Err(ProtocolError::ChannelUnusable(
                    "our store was restored from a backup, and the provider does not tell our newest voucher",
                ));
            }
        }
        let mut records = Vec::new();
        let (mut down_max, mut up_max) = (self.counted.down, self.up_max);
        let sent_and_received = Reading { up: self.up_max, down: self.counted.down };
        let mut total_max = total(sent_and_received);
        if let Some(theirs) = accepted.payment {
            // Our own signature: if it is above what we remember, our store was set back, and
            // going on below it would sign a second amount for what is promised already.
            let voucher = self.agreement.verify_voucher(self.channel, &theirs)?;
            // The session beside a voucher is not signed: told as of this one, which has paid for
            // nothing yet, it would be remembered as bytes that were paid for on top of the base.
            if !self.resumed && theirs.session == self.agreement.session {
                return Err(ProtocolError::Inconsistent("payment of a session that begins"));
            }
            if voucher.amount > self.promised {
                self.promised = voucher.amount;
                self.payment = Some(theirs);
                if !self.resumed {
                    self.agreement.base = voucher.amount;
                } else if theirs.session == self.agreement.session {
                    // The reading beside a voucher is not signed, only what it is worth: it counts
                    // as far as the voucher is above what we remember, and only in all.
                    self.agreement.verify_whole_payment(self.channel, &theirs)?;
                    self.paid = theirs.reading;
                    self.told = theirs.reading;
                    down_max = down_max.max(theirs.reading.down);
                    up_max = up_max.max(theirs.reading.up);
                    total_max = total_max.max(total(theirs.reading));
                } else {
                    return Err(ProtocolError::CannotResume(SUPERSEDED));
                }
                records.push(Record::Payment { channel: self.channel, payment: theirs });
            }
        }
        if accepted.base != self.agreement.base {
            return Err(ProtocolError::Inconsistent("base is not what was promised before"));
        }
        let reading = accepted.reading;
        if !reading.covers(self.counted)
            || reading.up > up_max
            || reading.down > down_max
            || !reading.covers(self.paid)
            || reading.checked_total().is_none_or(|total| total > total_max)
        {
            // A provider that lies; or, in a session that goes on, a store of ours that was set back.
            let what = "its reading is not what was carried";
            return Err(match self.resumed {
                true => ProtocolError::CannotResume(what),
                false => ProtocolError::Inconsistent(what),
            });
        }
        if let Some(theirs) = &accepted.receipt {
            let receipt = self.agreement.verify_countersigned(theirs)?;
            let chain = ReceiptChain::after(&receipt, self.agreement.domain());
            self.adopt_receipts(theirs, chain)?;
        }
        self.agreement.history = accepted.history;
        self.counted = reading;
        self.reported_up = reading.up;
        if !self.resumed {
            records.insert(
                0,
                Record::Session {
                    role: Role::Payer,
                    peer: self.provider,
                    agreement: self.agreement.clone(),
                    started: now,
                },
            );
        }
        if !records.is_empty() {
            self.outputs.push_back(Output::Persist(records));
        }
        self.phase = Phase::Live;
        (self.last_payment, self.last_receipt) = (now, now);
        self.outputs.push_back(Output::Event(Event::Started { reading }));
        self.pay(now)
    }

    fn adopt_receipts(
        &mut self,
        theirs: &Countersigned,
        chain: ReceiptChain,
    ) -> Result<(), ProtocolError> {
        if let Some((pending, _)) = self.pending {
            let ours = ReceiptChain::after(&pending, self.agreement.domain());
            if chain == ours {
                self.complete_receipt(theirs);
                return Ok(());
            }
            if chain.sequence == ours.sequence {
                return Err(conflict(chain.sequence, ours.hash, chain.hash));
            }
            // Ours is behind a receipt that we signed too: our store was set back.
            if chain.sequence > ours.sequence {
                self.pending = None;
            }
        }
        if chain.sequence == self.receipts.sequence && chain.hash != self.receipts.hash {
            return Err(conflict(chain.sequence, self.receipts.hash, chain.hash));
        }
        if chain.sequence > self.receipts.sequence {
            self.receipts = chain;
            let receipt = &theirs.receipt.body;
            if receipt.session == self.agreement.session && self.paid.covers(receipt.reading) {
                self.receipted = receipt.reading;
            }
            self.outputs.push_back(Output::Persist(vec![Record::Receipt {
                receipt: theirs.receipt,
                payee_signature: Some(theirs.payee_signature),
            }]));
        }
        Ok(())
    }

    fn complete_receipt(&mut self, countersigned: &Countersigned) {
        let receipt = &countersigned.receipt.body;
        self.receipts = ReceiptChain::after(receipt, self.agreement.domain());
        if receipt.session == self.agreement.session {
            self.receipted = receipt.reading;
        }
        self.pending = None;
        self.receipts_count += 1;
        self.outputs.push_back(Output::Persist(vec![Record::Receipt {
            receipt: countersigned.receipt,
            payee_signature: Some(countersigned.payee_signature),
        }]));
        self.outputs.push_back(Output::Event(Event::Receipted { sequence: receipt.sequence }));
    }

    /// Pays and signs receipts as far as they are due; called after every input.
    fn pay(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        let settling = match self.phase {
            Phase::Live | Phase::Closing { .. } => false,
            Phase::Settling { .. } => true,
            Phase::Accepting { .. } | Phase::Ended => return Ok(()),
        };
        if self.is_low() && !self.exhausted {
            self.exhausted = true;
            self.outputs.push_back(Output::Event(Event::Exhausted));
        }
        let payable = self.within_channel(self.payable());
        let told_before = self.told;
        let tells = self.untold_rest() == ByteCount::ZERO && total(payable) > total(self.told);
        if tells && self.phase == Phase::Live {
            self.told = payable;
            self.outputs.push_back(Output::Transmit(Message::Due { reading: payable }));
        }
        let unpaid = total(payable).saturating_sub(total(self.paid));
        let overdue = now.ms_since(self.last_payment) >= CHECKPOINT_MS;
        let pays = payable.covers(self.paid)
            && unpaid > ByteCount::ZERO
            && (unpaid >= self.step() || overdue || settling);
        // Both paid at once what the other was about to set off: what we owe is to be paid after all.
        let shortage = self.shortage();
        let little = self.step().get() / 4;
        let short = shortage > Amount::ZERO
            && (self.agreement.terms.price.affordable(shortage).get() >= little
                || overdue
                || settling);
        // Against what was told before, the provider may have told something; against what is told
        // only now it had no time to. So a part of the step stays told and unpaid, to be set off.
        let waits = self.set_off_max.is_some() && !overdue && !settling;
        let reading = match pays {
            true if waits => {
                let most = total(payable).saturating_sub(ByteCount::new(self.step().get() / 2));
                payable.within(most.max(total(told_before)), self.paid)
            }
            true => payable,
            false => self.paid,
        };
        let unreceipted = total(reading).saturating_sub(total(self.receipted));
        let checkpoint = self.pending.is_none()
            && (unreceipted > ByteCount::ZERO || self.raised || (short && settling))
            && (unreceipted >= CHECKPOINT_BYTES
                || now.ms_since(self.last_receipt) >= CHECKPOINT_MS
                || settling);
        if pays || short || checkpoint {
            self.send_payment(reading, checkpoint, now)?;
        }
        // The end: everything payable is paid and receipted, and nothing waits for a signature.
        if settling && self.pending.is_none() && total(self.receipted) == total(self.paid) {
            self.phase = Phase::Ended;
            let statement = self.statement(now);
            self.outputs.push_back(Output::Persist(vec![Record::Ended(statement.clone())]));
            self.outputs.push_back(Output::Transmit(Message::Close { reason: "settled".into() }));
            self.outputs.push_back(Output::Event(Event::Ended(statement)));
        }
        Ok(())
    }

    fn send_payment(
        &mut self,
        reading: Reading,
        checkpoint: bool,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        let channel = self.channel;
        let set_off = self.set_off(reading)?;
        let owed = self.agreement.owed(reading).unwrap_or(Amount::MAX);
        let amount = owed.saturating_sub(set_off);
        // The money invariants of this side: promises only grow, never exceed the channel (A1,
        // A2), and are made only for what was received or reported carried.
        assert!(amount >= self.promised, "a promise never shrinks");
        assert!(
            amount <= self.reserved.max(self.promised),
            "a new promise never exceeds the channel"
        );
        assert!(self.payable().covers(reading), "nothing is paid ahead");
        let ahead = total(reading).saturating_sub(total(self.payable()));
        self.prepaid_peak = self.prepaid_peak.max(ahead);
        let domain = *self.agreement.domain();
        let voucher = match self.payment {
            // A step that is worth less than one unit of the token promises nothing new.
            Some(newest) if newest.voucher.body.amount == amount => newest.voucher,
            _ => *Verified::sign(Voucher { channel, amount }, &domain, &*self.signer)?.signed(),
        };
        let payment = Payment { session: self.agreement.session, reading, voucher };
        let mut records = vec![Record::Payment { channel, payment }];
        let receipt = if checkpoint {
            let receipt = Receipt {
                channel,
                session: self.agreement.session,
                sequence: self.receipts.sequence + 1,
                reading,
                amount,
                previous: self.receipts.hash,
                time: now,
            };
            let receipt = Verified::sign(receipt, &domain, &*self.signer)?;
            records.push(Record::Receipt { receipt: *receipt.signed(), payee_signature: None });
            self.pending = Some((receipt, now));
            self.last_receipt = now;
            Some(*receipt.signed())
        } else {
            None
        };
        // A checkpoint alone repeats the payment before it.
        if reading != self.paid || amount != self.promised {
            self.payments_count += 1;
            self.last_payment = now;
        }
        self.raised =
            !checkpoint && (self.raised || (reading == self.paid && amount > self.promised));
        self.paid = reading;
        if reading.covers(self.told) {
            self.told = reading;
        }
        self.promised = amount;
        self.payment = Some(payment);
        self.outputs.push_back(Output::Persist(records));
        self.outputs.push_back(Output::Transmit(Message::Payment { payment, receipt }));
        self.outputs.push_back(Output::Event(Event::Paid { reading, amount, set_off }));
        Ok(())
    }

    /// Whether a top-up should be asked for now, so that it can come in time.
    fn is_low(&self) -> bool {
        let terms = &self.agreement.terms;
        if terms.price == Price::FREE {
            return false; // what costs nothing uses nothing up
        }
        let payable = self.payable();
        let credit = terms.credit.credit(self.agreement.paid(total(self.paid)));
        let affordable = self.agreement.affordable(self.reserved);
        let soon = total(payable).checked_add(credit);
        let left = self.agreement.owed(payable).map(|owed| self.reserved.saturating_sub(owed));
        soon.is_none_or(|soon| soon >= affordable) || left.is_none_or(|left| left < self.low_water)
    }

    /// What of `payable` the channel can pay for. The provider stops by itself before that.
    fn within_channel(&self, payable: Reading) -> Reading {
        payable.within(self.agreement.affordable(self.reserved), self.paid)
    }
}

pub(crate) fn conflict(sequence: u64, first: B256, second: B256) -> ProtocolError {
    ProtocolError::ConflictingReceipts { sequence, first, second }
}
