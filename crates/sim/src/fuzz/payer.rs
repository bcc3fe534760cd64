//! The consumer's machine against a provider that says anything.

use std::collections::BTreeMap;

use sparewire_core::{Amount, B256, ByteCount, Signed, Timestamp};
use sparewire_protocol::{
    Accepted, Agreement, Countersigned, Event, Memory, Message, Output, Payer, PayerSetup, Payment,
    ProtocolError, Reading, Receipt, ReceiptChain, Record, RefusalCode, Refused, SessionMemory,
};

use super::input::{
    CONSUMER, EPOCH, Hand, Input, Papers, Sum, Which, saturating_sum, session_id, total,
};
use crate::cast;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Accepted {
        session: u8,
        reading: Which,
        base: Sum,
        history: u64,
        payment: Option<Told>,
        receipt: Option<(u64, Which, Hand)>,
    },
    Count {
        up: u64,
        down: u64,
    },
    Report {
        reading: Which,
        last: bool,
    },
    Countersign {
        sequence: Option<u64>,
        hand: Hand,
    },
    TopUp(Amount),
    Wait {
        ms: u64,
    },
    SetBack {
        ms: u64,
    },
    Close,
    Abort(u64),
    Flow(u64, bool),
    TheyClose,
    Broken(u64),
    Refused,
    OutOfPlace,
}

/// A payment that the provider says it has.
#[derive(Clone, Copy, Debug)]
struct Told {
    session: u8,
    reading: Which,
    sum: Sum,
    hand: Hand,
}

fn operation(input: &mut Input<'_>) -> Operation {
    match input.below(16) {
        0 => Operation::Accepted {
            session: input.byte(),
            reading: Which::read(input),
            base: Sum::read(input),
            history: input.number(),
            payment: (input.below(4) == 3).then(|| Told {
                session: input.byte(),
                reading: Which::read(input),
                sum: Sum::read(input),
                hand: Hand::read(input),
            }),
            receipt: (input.below(4) == 3)
                .then(|| (input.number(), Which::read(input), Hand::read(input))),
        },
        1..=4 => Operation::Count { up: input.number(), down: input.number() },
        5 | 6 => Operation::Report { reading: Which::read(input), last: input.flag() },
        7 => Operation::Countersign {
            sequence: (input.below(4) == 3).then(|| input.number()),
            hand: Hand::read(input),
        },
        8 => Operation::TopUp(input.amount()),
        9 | 10 => Operation::Wait { ms: input.number().saturating_mul(1_000) % (1 << 40) },
        11 => Operation::SetBack { ms: input.number() },
        12 => Operation::Close,
        13 => match input.below(3) {
            0 => Operation::Abort(input.number()),
            1 => Operation::Flow(input.number(), input.flag()),
            _ => Operation::Broken(input.number()),
        },
        14 => Operation::TheyClose,
        _ => match input.below(2) {
            0 => Operation::Refused,
            _ => Operation::OutOfPlace,
        },
    }
}

/// The machine and what is known beside it.
struct Consumer {
    papers: Papers,
    payer: Payer,
    now: Timestamp,
    reserved: Amount,
    /// The meter's.
    counted: Reading,
    reported_up: ByteCount,
    live: bool,
    ended: bool,
    resumed: bool,
    /// What is durable, and the newest promise, whoever remembers it.
    durable: Option<Payment>,
    promised: Amount,
    paid: Reading,
    /// Every receipt that was signed, by its number, and the one without a countersignature.
    signed: BTreeMap<u64, B256>,
    pending: Option<Signed<Receipt>>,
}

/// Nothing that a provider says panics the payer or makes it promise less than before, more than
/// the channel holds, or for more than it has received and sent and was told of; it says nothing
/// that is not durable; each number of a receipt is signed once.
pub fn payer(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(mut consumer) = Consumer::start(&mut input) else { return };
    consumer.carry_out();
    for operation in input.list(200, operation) {
        if consumer.apply(operation).is_err() {
            break; // it is no longer driven
        }
        consumer.carry_out();
    }
}

impl Consumer {
    /// A new session, one over a channel that was used before, or one that is resumed.
    fn start(input: &mut Input<'_>) -> Option<Self> {
        let papers = Papers::read(input);
        let (session, before) = (session_id(1), session_id(9));
        let reserved = input.amount();
        let low_water = input.amount();
        let mut memory = Memory::default();
        let (mut counted, mut paid) = (Reading::ZERO, Reading::ZERO);
        let mut reported_up = ByteCount::ZERO;
        let kind = input.below(4);
        let mut base = Amount::ZERO;
        if kind > 0 {
            base = input.amount();
            memory.history = ByteCount::new(input.number());
            let reading = Reading { up: ByteCount::ZERO, down: memory.history };
            memory.payment = Some(papers.payment(before, reading, base, Hand::Right));
        }
        if kind == 3 {
            let agreement = Agreement {
                session,
                config: papers.config,
                terms: papers.terms,
                base,
                history: memory.history,
            };
            paid = reading(input);
            counted = Which::Beyond { up: input.number(), down: input.number() }.of(paid, paid);
            counted.checked_total()?;
            reported_up = saturating_sum([paid.up, ByteCount::new(input.number())]);
            if paid != Reading::ZERO {
                let owed = agreement.owed(paid)?;
                memory.payment = Some(papers.payment(session, paid, owed, Hand::Right));
            }
            memory.session = Some(SessionMemory { agreement, counted, reported_up, paid });
        }
        let mut signed = BTreeMap::new();
        let mut chain = ReceiptChain::default();
        let remembered = memory.payment.map_or(Amount::ZERO, |p| p.voucher.body.amount);
        let mut next = |chain: &mut ReceiptChain, session| {
            let receipt = Receipt {
                channel: papers.channel,
                session,
                sequence: chain.sequence + 1,
                reading: paid,
                amount: remembered,
                previous: chain.hash,
                time: EPOCH,
            };
            *chain = ReceiptChain::after(&receipt, &papers.terms.domain);
            signed.insert(chain.sequence, chain.hash);
            papers.receipt(receipt, Hand::Right)
        };
        if kind > 1 && input.flag() {
            let receipt = next(&mut chain, before);
            memory.receipt = Some(papers.countersigned(receipt, Hand::Right));
        }
        if kind > 1 && input.flag() {
            memory.pending = Some(next(&mut chain, if kind == 3 { session } else { before }));
        }
        let pending = memory.pending;
        let consumer = cast::identity(CONSUMER);
        let setup = PayerSetup {
            terms: papers.terms,
            session,
            config: papers.config,
            reserved,
            low_water,
            delegation: consumer.delegation,
            memory,
            signer: consumer.authorizer.clone(),
            device: &consumer.device,
        };
        let payer = Payer::accept(setup, EPOCH).ok()?;
        Some(Self {
            papers,
            payer,
            now: EPOCH,
            reserved,
            counted,
            reported_up,
            live: false,
            ended: false,
            resumed: kind == 3,
            durable: None,
            promised: remembered,
            paid,
            signed,
            pending,
        })
    }

    fn apply(&mut self, operation: Operation) -> Result<(), ProtocolError> {
        let now = self.now;
        // Before it is accepted, these end it without a word.
        let turns_away =
            matches!(operation, Operation::Close | Operation::TheyClose | Operation::Refused);
        self.ended |= turns_away && !self.live;
        match operation {
            Operation::Accepted { session, reading, base, history, payment, receipt } => {
                let statement = self.payer.statement(now);
                let told = payment.map(|told| {
                    let reading = told.reading.of(self.counted, self.paid);
                    let session = session_id(if told.session >= 0xf0 { 9 } else { 1 });
                    let owed = self.payer.agreement().owed(reading);
                    self.papers.payment(session, reading, told.sum.of(owed), told.hand)
                });
                // The honest consumer has signed it, in a life that its store has forgotten.
                let ours = told.filter(|told| {
                    told.voucher.body.channel == self.papers.channel
                        && payment.is_some_and(|payment| payment.hand == Hand::Right)
                });
                let resumed_base = self.payer.agreement().base;
                let standing = match ours {
                    Some(told) if !self.resumed => resumed_base.max(told.voucher.body.amount),
                    _ => resumed_base,
                };
                let receipt = receipt.map(|(sequence, which, hand)| {
                    self.receipt_of_the_past(sequence, which, hand, statement.cumulative)
                });
                let accepted = Accepted {
                    session: session_id(if session >= 0xf0 { 9 } else { 1 }),
                    reading: reading.of(statement.counted, self.paid),
                    base: base.of(Some(standing)),
                    history: ByteCount::new(history),
                    payment: told,
                    receipt,
                };
                let was_live = self.live;
                let result = self.say(Message::Accepted(Box::new(accepted)));
                if result.is_ok() && !was_live && !self.ended {
                    self.begins(ours, receipt);
                }
                result
            }
            Operation::Count { up, down } => {
                if !self.live {
                    return Ok(());
                }
                let more = Which::Beyond { up, down }.of(self.counted, self.counted);
                if more.checked_total().is_none() {
                    return Ok(());
                }
                self.counted = more;
                self.payer.handle_reading(more, now)
            }
            Operation::Report { reading, last } => {
                let reading = reading.of(self.counted, self.paid);
                self.reported_up = self.reported_up.max(reading.up);
                self.say(Message::Report { reading, credit: ByteCount::ZERO, last })
            }
            Operation::Countersign { sequence, hand } => self.countersign(sequence, hand),
            Operation::TopUp(reserved) => {
                self.reserved = self.reserved.max(reserved);
                self.payer.handle_top_up(reserved, now)
            }
            Operation::Wait { ms } => {
                self.now = now.plus_ms(ms);
                self.payer.handle_timeout(self.now)
            }
            Operation::SetBack { ms } => {
                self.now = Timestamp::from_ms(now.as_ms().saturating_sub(ms));
                self.payer.handle_timeout(self.now)
            }
            Operation::Close => {
                self.payer.handle_close("enough", now);
                Ok(())
            }
            Operation::Abort(stream) => {
                self.payer.handle_abort(stream);
                Ok(())
            }
            Operation::Flow(stream, paused) => {
                self.payer.handle_flow(stream, paused);
                Ok(())
            }
            Operation::TheyClose => self.say(Message::Close { reason: "going away".into() }),
            Operation::Broken(stream) => self.say(Message::Broken { stream }),
            Operation::Refused => self.say(Message::Refused(Refused {
                code: RefusalCode::Busy,
                reason: "no room".into(),
            })),
            Operation::OutOfPlace => self.say(Message::Funded),
        }
    }

    fn say(&mut self, message: Message) -> Result<(), ProtocolError> {
        self.payer.handle_message(message, self.now)
    }

    /// The session is on: what was told with it counts from here.
    fn begins(&mut self, ours: Option<Payment>, receipt: Option<Countersigned>) {
        let Some(accepted) = ours.filter(|ours| ours.voucher.body.amount > self.promised) else {
            self.adopt(receipt);
            return;
        };
        self.promised = accepted.voucher.body.amount;
        if self.resumed {
            self.paid = accepted.reading;
        }
        self.adopt(receipt);
    }

    fn adopt(&mut self, receipt: Option<Countersigned>) {
        self.live = true;
        if let Some(receipt) = receipt {
            let chain = ReceiptChain::after(&receipt.receipt.body, &self.papers.terms.domain);
            self.signed.entry(chain.sequence).or_insert(chain.hash);
        }
    }

    /// The pending receipt itself, or one that a store which was set back does not know.
    fn receipt_of_the_past(
        &self,
        sequence: u64,
        which: Which,
        hand: Hand,
        amount: Amount,
    ) -> Countersigned {
        let receipt = match self.pending {
            Some(pending) if sequence == pending.body.sequence => pending,
            _ => {
                let receipt = Receipt {
                    channel: self.papers.channel,
                    session: session_id(9),
                    sequence: sequence % (1 << 60),
                    reading: which.of(self.counted, self.paid),
                    amount,
                    previous: B256::ZERO,
                    time: EPOCH,
                };
                self.papers
                    .receipt(receipt, if hand == Hand::OtherKey { Hand::Right } else { hand })
            }
        };
        self.papers.countersigned(receipt, hand)
    }

    fn countersign(&mut self, sequence: Option<u64>, hand: Hand) -> Result<(), ProtocolError> {
        let Some(pending) = self.pending else {
            let empty = Receipt {
                channel: self.papers.channel,
                session: session_id(1),
                sequence: sequence.unwrap_or(1),
                reading: Reading::ZERO,
                amount: Amount::ZERO,
                previous: B256::ZERO,
                time: EPOCH,
            };
            let signature = self.papers.receipt(empty, hand).signature;
            let sequence = empty.sequence;
            return self.say(Message::Countersignature { sequence, signature });
        };
        let theirs = self.papers.countersigned(pending, hand);
        let sequence = sequence.unwrap_or(pending.body.sequence);
        let signature = theirs.payee_signature;
        let before = self.payer.statement(self.now).receipts;
        let result = self.say(Message::Countersignature { sequence, signature });
        let completed = self.payer.statement(self.now).receipts > before;
        assert!(
            !completed || (hand != Hand::OtherKey && sequence == pending.body.sequence),
            "only the payee's own signature completes a receipt"
        );
        result
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.payer.poll_output() {
            self.check(output);
        }
        let statement = self.payer.statement(self.now);
        assert_eq!(statement.cumulative, self.promised, "what is promised is durable");
        assert!(self.paid.covers(statement.receipted) || !self.live, "receipts are of paid bytes");
        let mark = self.payer.poll_mark().get();
        assert!(mark > total(statement.counted).get() || mark == u64::MAX);
        self.payer.poll_timeout();
    }

    fn check(&mut self, output: Output) {
        match output {
            Output::Persist(records) => records.iter().for_each(|record| self.persist(record)),
            Output::Transmit(Message::Payment { payment, receipt }) => {
                assert_eq!(Some(payment), self.durable, "durable before it is said");
                self.assert_owed(&payment);
                if let Some(receipt) = receipt {
                    assert_eq!(Some(receipt), self.pending, "durable before it is said");
                }
            }
            Output::Event(Event::Started { reading }) => {
                assert!(reading.covers(self.paid), "what is paid for was carried");
                // A lost store is told of what it paid for; that is all that can be made up.
                self.counted = reading;
                self.reported_up = reading.up;
            }
            Output::Event(Event::Ended(_)) => self.ended = true,
            Output::Grant(_) => panic!("a payer grants nothing"),
            Output::Transmit(_) | Output::Event(_) => {}
        }
    }

    /// What is promised is owed, and no more than what arrived, or was sent and reported.
    fn assert_owed(&self, payment: &Payment) {
        let reading = payment.reading;
        assert!(reading.down <= self.counted.down, "received");
        assert!(reading.up <= self.counted.up.min(self.reported_up), "sent and reported");
        let amount = payment.voucher.body.amount;
        assert_eq!(Some(amount), self.payer.agreement().owed(reading), "worth what it says");
    }

    fn persist(&mut self, record: &Record) {
        match record {
            Record::Payment { payment, .. } => {
                let amount = payment.voucher.body.amount;
                assert!(amount >= self.promised, "a promise never shrinks");
                assert!(amount <= self.reserved.max(self.promised), "the channel holds it");
                self.promised = amount;
                if payment.session == self.payer.agreement().session {
                    assert!(payment.reading.covers(self.paid), "paid bytes only grow");
                    self.paid = payment.reading;
                }
                self.durable = Some(*payment);
            }
            Record::Receipt { receipt, payee_signature } => {
                let chain = ReceiptChain::after(&receipt.body, &self.papers.terms.domain);
                let first = *self.signed.entry(chain.sequence).or_insert(chain.hash);
                assert_eq!(first, chain.hash, "receipt {} is signed once", chain.sequence);
                if payee_signature.is_none() {
                    assert!(self.paid.covers(receipt.body.reading), "it is of paid bytes");
                    self.pending = Some(*receipt);
                } else if self.pending.is_some_and(|p| p.body.sequence <= chain.sequence) {
                    self.pending = None;
                }
            }
            Record::Ended(statement) => {
                assert_eq!(total(statement.receipted), total(self.paid), "all has a receipt");
            }
            _ => {}
        }
    }
}

fn reading(input: &mut Input<'_>) -> Reading {
    Reading { up: ByteCount::new(input.number()), down: ByteCount::new(input.number()) }
}
