//! The provider's machine against a consumer that says anything, a chain that says anything, and a
//! clock that goes anywhere.

use std::collections::BTreeMap;

use sparewire_core::{
    Amount, B256, ByteCount, DeviceSigner, DeviceStatement, SessionId, Timestamp,
};
use sparewire_protocol::{
    Acceptance, Agreement, ChannelFacts, ChannelStatus, Direction, Event, Memory, Message, Meter,
    Output, Payee, PayeeSetup, Payment, ProtocolError, Reading, Receipt, ReceiptChain, Record,
    SessionMemory,
};

use super::input::{
    CONSUMER, EPOCH, Hand, Input, PROVIDER, Papers, Sum, Which, saturating_sum, session_id, total,
};
use crate::cast;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Carry { up: u64, down: u64 },
    Pay { session: u8, reading: Which, sum: Sum, hand: Hand, receipt: Option<Checkpoint> },
    Chain { reserved: Amount, claimed: Amount, status: u8 },
    Wait { ms: u64 },
    SetBack { ms: u64 },
    Abort(u64),
    Flow(u64, bool),
    Funded,
    Close,
    OutOfPlace(u8),
    AskToClose,
    CutAfter(u8),
}

/// A receipt beside a payment.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    sequence: Option<u64>,
    previous: bool,
    reading: Which,
    sum: Sum,
    hand: Hand,
    time: u8,
}

fn operation(input: &mut Input<'_>) -> Operation {
    match input.below(16) {
        0..=3 => Operation::Carry { up: input.number(), down: input.number() },
        4..=7 => Operation::Pay {
            session: input.byte(),
            reading: Which::read(input),
            sum: Sum::read(input),
            hand: Hand::read(input),
            receipt: input.flag().then(|| Checkpoint {
                sequence: (input.below(8) == 7).then(|| input.number()),
                previous: input.below(8) != 7,
                reading: if input.below(4) == 3 { Which::read(input) } else { Which::Paid },
                sum: Sum::read(input),
                hand: Hand::read(input),
                time: input.byte(),
            }),
        },
        8 => Operation::Chain {
            reserved: input.amount(),
            claimed: input.amount(),
            status: input.byte(),
        },
        9 => Operation::Wait { ms: input.number() },
        10 => Operation::SetBack { ms: input.number() },
        11 => match input.below(3) {
            0 => Operation::Abort(input.number()),
            1 => Operation::Flow(input.number(), input.flag()),
            _ => Operation::Funded,
        },
        12 => Operation::Close,
        13 => Operation::AskToClose,
        14 => Operation::OutOfPlace(input.byte()),
        _ => Operation::CutAfter(input.byte()),
    }
}

/// The machine and what is known beside it.
struct Provider {
    papers: Papers,
    payee: Payee,
    meter: Meter,
    now: Timestamp,
    session: SessionId,
    reserved: Amount,
    reserved_max: Amount,
    durable: Reading,
    promised: Amount,
    chain: ReceiptChain,
    countersigned: BTreeMap<u64, B256>,
    /// The data plane uses every grant at once.
    eager: bool,
    /// The connection breaks after so many outputs of the next operation.
    cut: Option<u8>,
    ended: bool,
}

/// No message, reading, time or fact of the chain panics the payee; it grants no more than what is
/// durably paid, the credit and one step, nor than the channel can pay for; its claim only grows,
/// by payments that are right in every respect and by nothing else; one receipt has one number.
pub fn payee(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(mut provider) = Provider::start(&mut input) else { return };
    if !provider.carry_out() {
        return;
    }
    for operation in input.list(200, operation) {
        let result = provider.apply(operation);
        // Errors end it, and so does a connection that breaks between two outputs.
        if result.is_err() || !provider.carry_out() {
            break;
        }
    }
    provider.disconnect();
}

impl Provider {
    /// A new session, one over a channel that was used before, or one that is resumed.
    fn start(input: &mut Input<'_>) -> Option<Self> {
        let papers = Papers::read(input);
        let (session, before) = (session_id(1), session_id(9));
        let reserved = input.amount();
        let mut memory = Memory::default();
        let mut durable = Reading::ZERO;
        let kind = input.below(4);
        let mut base = Amount::ZERO;
        if kind > 0 {
            base = input.amount();
            memory.history = ByteCount::new(input.number());
            memory.lost = ByteCount::new(input.number());
            let reading = Reading { up: ByteCount::ZERO, down: memory.history };
            memory.payment = Some(papers.payment(before, reading, base, Hand::Right));
        }
        let mut counted = Reading::ZERO;
        if kind == 3 {
            let agreement = Agreement {
                session,
                config: papers.config,
                terms: papers.terms,
                base,
                history: memory.history,
            };
            let paid = reading(input);
            counted = Which::Beyond { up: input.number(), down: input.number() }.of(paid, paid);
            counted.checked_total()?;
            if paid != Reading::ZERO {
                let owed = agreement.owed(paid)?;
                memory.payment = Some(papers.payment(session, paid, owed, Hand::Right));
            }
            durable = paid;
            memory.session =
                Some(SessionMemory { agreement, counted, reported_up: ByteCount::ZERO, paid });
        }
        let remembered = memory.payment.map_or(Amount::ZERO, |p| p.voucher.body.amount);
        let claimed = if input.flag() { input.amount() } else { Amount::ZERO };
        let facts = ChannelFacts { reserved, claimed, status: ChannelStatus::Open };
        let told = if kind == 3 || input.flag() {
            Which::read(input).of(counted, durable)
        } else {
            Reading::ZERO
        };
        let up_max = ByteCount::new(input.number());
        let payment = input.flag().then(|| {
            let reading = Which::read(input).of(counted, durable);
            let owed =
                papers.terms.price.owed(total(reading)).and_then(|owed| owed.checked_add(base));
            let of = if input.flag() { session } else { before };
            papers.payment(of, reading, Sum::read(input).of(owed), Hand::read(input))
        });
        let consumer = cast::identity(CONSUMER);
        let acceptance = Acceptance {
            session,
            terms_hash: papers.terms.hash(),
            channel: papers.config,
            delegation: consumer.delegation,
            reading: told,
            up_max,
            payment,
            receipt: None,
            pending: None,
        };
        let setup = PayeeSetup {
            terms: papers.terms,
            consumer: consumer.node_id(),
            signature: consumer.device.sign_bytes(&acceptance.signing_bytes()),
            acceptance,
            facts,
            memory,
            pending_of: None,
            signer: cast::identity(PROVIDER).authorizer.clone(),
        };
        let payee = Payee::start(setup, EPOCH).ok()?;
        let statement = payee.statement(EPOCH);
        assert!(statement.cumulative >= remembered, "what was promised stays");
        assert!(statement.cumulative >= claimed, "what was claimed was promised");
        Some(Self {
            meter: Meter::new(statement.counted, ByteCount::ZERO),
            papers,
            now: EPOCH,
            session,
            reserved,
            reserved_max: reserved.max(remembered),
            durable,
            promised: statement.cumulative,
            chain: ReceiptChain::default(),
            countersigned: BTreeMap::new(),
            eager: input.flag(),
            cut: None,
            ended: false,
            payee,
        })
    }

    fn apply(&mut self, operation: Operation) -> Result<(), ProtocolError> {
        let now = self.now;
        match operation {
            Operation::Carry { up, down } => {
                self.meter.admit(Direction::Up, usize::try_from(up).unwrap_or(usize::MAX));
                self.meter.admit(Direction::Down, usize::try_from(down).unwrap_or(usize::MAX));
                self.payee.handle_reading(self.meter.reading(), now);
                Ok(())
            }
            Operation::Pay { session, reading, sum, hand, receipt } => {
                let session = session_id(if session >= 0xf8 { session } else { self.session.0[0] });
                self.pay(session, reading, sum, hand, receipt)
            }
            Operation::Chain { reserved, claimed, status } => {
                let status = match status {
                    ..0xc0 => ChannelStatus::Open,
                    0xc0..0xe0 => ChannelStatus::Closing { finish_at_secs: now.as_secs() },
                    _ => ChannelStatus::Closed,
                };
                self.reserved = reserved;
                self.reserved_max = self.reserved_max.max(reserved);
                self.payee.handle_chain_event(ChannelFacts { reserved, claimed, status });
                Ok(())
            }
            Operation::Wait { ms } => {
                self.now = now.plus_ms(ms);
                self.payee.handle_timeout(self.now)
            }
            Operation::SetBack { ms } => {
                self.now = Timestamp::from_ms(now.as_ms().saturating_sub(ms));
                self.payee.handle_timeout(self.now)
            }
            Operation::Abort(stream) => self.say(Message::Abort { stream }),
            Operation::Flow(stream, paused) => self.say(Message::Flow { stream, paused }),
            Operation::Funded => self.say(Message::Funded),
            Operation::Close => self.say(Message::Close { reason: "enough".into() }),
            Operation::OutOfPlace(which) => {
                let message = match which % 2 {
                    0 => Message::Broken { stream: which.into() },
                    _ => Message::Report {
                        reading: Reading::ZERO,
                        credit: ByteCount::ZERO,
                        last: true,
                    },
                };
                let result = self.say(message);
                assert!(result.is_err() || self.ended, "only providers say that");
                result
            }
            Operation::AskToClose => {
                self.payee.handle_close("going away", now);
                Ok(())
            }
            Operation::CutAfter(outputs) => {
                self.cut = Some(outputs % 8);
                Ok(())
            }
        }
    }

    fn say(&mut self, message: Message) -> Result<(), ProtocolError> {
        self.payee.handle_message(message, self.now)
    }

    fn pay(
        &mut self,
        session: SessionId,
        which: Which,
        sum: Sum,
        hand: Hand,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), ProtocolError> {
        let before = self.payee.statement(self.now);
        let (counted, paid) = (before.counted, self.durable);
        let reading = which.of(counted, paid);
        let owed = self.payee.agreement().owed(reading);
        let amount = sum.of(owed);
        let payment = self.papers.payment(session, reading, amount, hand);
        let stale = paid.covers(reading) && amount <= self.promised;
        let right = hand == Hand::Right
            && session == self.session
            && owed == Some(amount)
            && amount <= self.reserved
            && counted.covers(reading)
            && reading.covers(paid);
        let receipt = checkpoint.map(|checkpoint| {
            let paid = if right { reading } else { paid };
            self.checkpoint(checkpoint, session, counted, paid)
        });
        let claim = self.payee.claim();
        let with_receipt = receipt.is_some();
        let result = self.say(Message::Payment { payment, receipt });
        let after = self.payee.statement(self.now);
        if self.ended || !right || stale {
            assert_eq!(self.payee.claim(), claim, "only what is right is taken");
            assert_eq!(after.payments, before.payments);
            assert!(
                stale || self.ended || result.is_err(),
                "and the rest is an error: {payment:?}"
            );
        } else if result.is_ok() {
            assert_eq!(after.cumulative, amount, "what is right is taken");
            self.assert_claims(&payment);
        }
        if !with_receipt && result.is_err() {
            assert_eq!(after, before, "an error changes nothing");
            assert_eq!(self.payee.poll_output(), None, "and wants nothing");
        }
        result
    }

    fn assert_claims(&self, payment: &Payment) {
        let claim = self.payee.claim().expect("it was paid");
        assert_eq!(claim.signature, payment.voucher.signature, "the newest voucher is claimed");
    }

    fn checkpoint(
        &self,
        checkpoint: Checkpoint,
        session: SessionId,
        counted: Reading,
        paid: Reading,
    ) -> sparewire_core::Signed<Receipt> {
        let Checkpoint { sequence, previous, reading, sum, hand, time } = checkpoint;
        let reading = reading.of(counted, paid);
        let receipt = Receipt {
            channel: self.papers.channel,
            session,
            sequence: sequence.unwrap_or(self.chain.sequence + 1),
            reading,
            amount: sum.of(self.payee.agreement().owed(reading)),
            previous: if previous { self.chain.hash } else { B256::repeat_byte(time) },
            time: EPOCH.plus_ms(time.into()),
        };
        self.papers.receipt(receipt, hand)
    }

    /// Does what the machine wants, and checks it. Whether the connection still stands.
    fn carry_out(&mut self) -> bool {
        let mut left = self.cut.take();
        while let Some(output) = self.payee.poll_output() {
            self.check(output);
            if let Some(left) = &mut left {
                if *left == 0 {
                    return false;
                }
                *left -= 1;
            }
        }
        let statement = self.payee.statement(self.now);
        assert!(statement.cumulative >= self.promised, "a promise never shrinks");
        self.promised = statement.cumulative;
        assert!(self.promised <= self.reserved_max, "nor exceeds what the channel ever held");
        let claim = self.payee.claim().map_or(Amount::ZERO, |claim| claim.amount);
        assert_eq!(claim, self.promised, "what is promised can be claimed");
        assert!(statement.exposure_peak <= statement.exposure_bound, "{statement:?}");
        assert!(total(statement.receipted) <= total(self.durable), "receipts are of paid bytes");
        let mark = self.payee.poll_mark().get();
        assert!(mark > total(statement.counted).get() || mark == u64::MAX);
        self.payee.poll_timeout();
        true
    }

    fn check(&mut self, output: Output) {
        match output {
            Output::Persist(records) => records.iter().for_each(|record| self.persist(record)),
            Output::Grant(limit) => {
                let agreement = self.payee.agreement();
                let paid = total(self.durable);
                let (rule, all) =
                    (agreement.terms.credit, saturating_sum([agreement.history, paid]));
                let bound = saturating_sum([paid, rule.credit(all), rule.step(all)]);
                assert!(limit <= bound, "{limit} granted, {paid} paid, bound is {bound}");
                let affordable = agreement.affordable(self.reserved);
                assert!(limit <= affordable.max(paid), "{limit} granted, {affordable} affordable");
                self.meter.set_limit(limit);
                if self.eager {
                    self.meter.admit(Direction::Down, usize::MAX);
                }
            }
            Output::Transmit(Message::Report { reading, .. }) => {
                assert!(self.meter.reading().covers(reading), "reports what was carried");
            }
            Output::Event(Event::Ended(_)) => self.ended = true,
            Output::Transmit(_) | Output::Event(_) => {}
        }
        assert!(!self.ended || self.payee.poll_timeout().is_none(), "the end is the end");
    }

    fn persist(&mut self, record: &Record) {
        match record {
            Record::Payment { payment, .. } if payment.session == self.session => {
                assert!(payment.reading.covers(self.durable), "paid bytes only grow");
                self.durable = payment.reading;
            }
            Record::Receipt { receipt, payee_signature } => {
                assert!(payee_signature.is_some(), "the payee has signed it");
                let body = &receipt.body;
                assert_eq!(body.sequence, self.chain.sequence + 1, "receipts follow each other");
                assert_eq!(body.previous, self.chain.hash);
                assert!(self.durable.covers(body.reading), "of bytes that are paid");
                self.chain = ReceiptChain::after(body, &self.papers.terms.domain);
                let other = self.countersigned.insert(body.sequence, self.chain.hash);
                assert_eq!(other, None, "one receipt has one number");
            }
            Record::Ended(statement) => {
                assert!(statement.paid <= statement.cumulative, "{statement:?}");
                assert_eq!(self.payee.exposure(), unpaid(statement.counted, self.durable));
            }
            _ => {}
        }
    }

    fn disconnect(mut self) {
        let reading = self.meter.reading();
        self.payee.handle_disconnect(reading, self.now);
        let output = self.payee.poll_output();
        match output {
            None => {}
            Some(Output::Persist(records)) => {
                let session = self.session;
                assert_eq!(records, [Record::Counted { session, reading }], "it is remembered");
            }
            Some(other) => panic!("{other:?} after the end"),
        }
        assert_eq!(self.payee.poll_output(), None);
        assert_eq!(self.payee.poll_timeout(), None);
    }
}

fn unpaid(counted: Reading, paid: Reading) -> ByteCount {
    total(counted).saturating_sub(total(paid))
}

fn reading(input: &mut Input<'_>) -> Reading {
    Reading { up: ByteCount::new(input.number()), down: ByteCount::new(input.number()) }
}
