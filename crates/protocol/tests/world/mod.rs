//! A deterministic world of one consumer and one provider: the real machines, two disks, a control
//! stream and an in-flight byte pipe each way, a chain, and a ledger that watches all of them.
//!
//! The reference implementation of [`Memory`] is [`recall`]: naive, obvious, and what a store must
//! agree with.

mod cast;
mod disk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sparewire_core::{
    Address, Amount, B256, ByteCount, DeviceSignature, Domain, Price, SessionId, Signed, Signer,
    Timestamp, TypedData, Verified,
};
use sparewire_protocol::{
    Acceptance, Action, ChannelConfig, ChannelFacts, ChannelStatus, CreditRule, Direction, Event,
    Message, Meter, Output, Payee, PayeeSetup, Payer, Payment, ProtocolError, Reading, Receipt,
    Record, RefusalCode, Refused, Statement, Voucher,
};
use sparewire_wallet::LocalKey;

pub(crate) use cast::*;
pub(crate) use disk::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Payer,
    Payee,
}

/// What happens in the world.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// So much up and so much down, all the way, and what is said about it.
    Flow(u16, u16),
    ServeDown(u16),
    SendUp(u16),
    ArriveDown(u16),
    ArriveUp(u16),
    DeliverToPayee(u8),
    DeliverToPayer(u8),
    /// Everything that is on its way arrives, several times around.
    Settle(u8),
    Tick(u16),
    Break,
    Connect,
    /// Power is cut after so many more outputs of that side.
    Crash(Side, u8),
    /// The next `Persist` of that side fails; its process lives.
    DiskFull(Side),
    TopUp(u16),
    /// The provider looks at the chain.
    Look,
    PayerLeavesOnChain,
    Abort(u64),
    Close,
    CloseByProvider,
    NewSession,
    Duplicate(Side, u8),
    Replay(Side, u16),
    Reorder(Side),
    Forge(Side, Forgery),
}

/// What is put on the control stream beside what the machines say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forgery {
    WrongSigner,
    OtherChannel,
    OtherChain,
    OtherContract,
    Lower,
    OverDeposit,
    LargerReading,
    HugeReading,
    WorthLess,
    BadReceipt,
    BadCountersignature,
    AcceptedAgain,
}

pub(crate) struct Consumer {
    pub(crate) machine: Payer,
    pub(crate) meter: Option<Meter>,
}

pub(crate) struct Provider {
    pub(crate) machine: Payee,
    pub(crate) meter: Meter,
}

/// What is watched beside the machines.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Bytes that the provider let pass, over all sessions.
    pub(crate) served: u64,
    pub(crate) received_down: BTreeMap<SessionId, u64>,
    pub(crate) carried_up: BTreeMap<SessionId, u64>,
    pub(crate) transmitted: Option<Payment>,
    pub(crate) transmitted_reading: BTreeMap<SessionId, Reading>,
    pub(crate) receipts: BTreeMap<u64, B256>,
    /// The highest voucher that the provider's machine took.
    pub(crate) arrived: Amount,
    pub(crate) payee_crashes: u64,
    pub(crate) payer_crashes: u64,
    /// Sessions that went on over a new connection.
    pub(crate) resumed: u64,
    /// Largest share of the exposure bound that was ever used, and of the loss bound.
    pub(crate) worst_exposure: u64,
    pub(crate) worst_loss: u64,
}

pub(crate) struct World {
    pub(crate) cast: Cast,
    pub(crate) now: Timestamp,
    pub(crate) reserved: Amount,
    pub(crate) status: ChannelStatus,
    pub(crate) consumer: Option<Consumer>,
    pub(crate) provider: Option<Provider>,
    pub(crate) payer_disk: Vec<Record>,
    pub(crate) payee_disk: Vec<Record>,
    payer_live: Option<(SessionId, Reading, ByteCount)>,
    pub(crate) to_payee: VecDeque<Message>,
    pub(crate) to_payer: VecDeque<Message>,
    sent_to_payee: Vec<Message>,
    sent_to_payer: Vec<Message>,
    pub(crate) pipe_up: u64,
    pub(crate) pipe_down: u64,
    pub(crate) connected: bool,
    crash_in: [Option<u8>; 2],
    disk_full: [bool; 2],
    unknown: BTreeSet<SessionId>,
    sessions: u64,
    pub(crate) refused: Option<RefusalCode>,
    pub(crate) last_error: Option<ProtocolError>,
    pub(crate) statements: BTreeMap<(SessionId, u8), Statement>,
    pub(crate) events: Vec<(Side, Event)>,
    pub(crate) ledger: Ledger,
    pub(crate) trace: Vec<String>,
}

macro_rules! ensure {
    ($world:expr, $condition:expr, $($words:tt)*) => {
        if !$condition {
            $world.fail(&format!($($words)*));
        }
    };
}

impl World {
    pub(crate) fn new(price: Price, credit: CreditRule, reserved: u128) -> Self {
        Self {
            cast: Cast::new(price, credit),
            now: EPOCH,
            reserved: units(reserved),
            status: ChannelStatus::Open,
            consumer: None,
            provider: None,
            payer_disk: Vec::new(),
            payee_disk: Vec::new(),
            payer_live: None,
            to_payee: VecDeque::new(),
            to_payer: VecDeque::new(),
            sent_to_payee: Vec::new(),
            sent_to_payer: Vec::new(),
            pipe_up: 0,
            pipe_down: 0,
            connected: false,
            crash_in: [None; 2],
            disk_full: [false; 2],
            unknown: BTreeSet::new(),
            sessions: 0,
            refused: None,
            last_error: None,
            statements: BTreeMap::new(),
            events: Vec::new(),
            ledger: Ledger::default(),
            trace: Vec::new(),
        }
    }

    /// Connected, with a session that has begun.
    pub(crate) fn started(price: Price, credit: CreditRule, reserved: u128) -> Self {
        let mut world = Self::new(price, credit, reserved);
        world.apply(&Operation::Connect);
        world.apply(&Operation::Settle(2));
        assert!(world.provider.is_some() && world.meter_of_consumer().is_some());
        world
    }

    pub(crate) fn facts(&self) -> ChannelFacts {
        ChannelFacts { reserved: self.reserved, claimed: Amount::ZERO, status: self.status }
    }

    fn say(&mut self, words: String) {
        self.trace.push(words);
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        panic!("{what}\n--- trace ---\n{}\n--- {what}", self.trace.join("\n"));
    }

    fn meter_of_consumer(&self) -> Option<&Meter> {
        self.consumer.as_ref()?.meter.as_ref()
    }

    pub(crate) fn session(&self) -> Option<SessionId> {
        Some(self.consumer.as_ref()?.machine.agreement().session)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.session().is_some_and(|session| {
            self.statements.contains_key(&(session, 1))
                && self.statements.contains_key(&(session, 2))
        })
    }

    /// One step, and every invariant after it.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        self.say(format!("{operation:?}"));
        self.perform(operation);
        self.check();
    }

    pub(crate) fn run(&mut self, operations: &[Operation]) {
        for operation in operations {
            self.apply(operation);
        }
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Flow(up, down) => {
                self.serve_down(u64::from(*down));
                self.send_up(u64::from(*up));
                self.settle();
            }
            Operation::ServeDown(want) => self.serve_down(u64::from(*want)),
            Operation::SendUp(want) => self.send_up(u64::from(*want)),
            Operation::ArriveDown(most) => self.arrive_down(u64::from(*most)),
            Operation::ArriveUp(most) => self.arrive_up(u64::from(*most)),
            Operation::DeliverToPayee(most) => {
                for _ in 0..*most {
                    let Some(message) = self.to_payee.pop_front() else { break };
                    self.hand_to_payee(message);
                }
            }
            Operation::DeliverToPayer(most) => {
                for _ in 0..*most {
                    let Some(message) = self.to_payer.pop_front() else { break };
                    self.hand_to_payer(message);
                }
            }
            Operation::Settle(rounds) => (0..*rounds).for_each(|_| self.settle()),
            Operation::Tick(ms) => self.tick(u64::from(*ms)),
            Operation::Break => self.break_connection(),
            Operation::Connect => {
                if !self.connected {
                    self.connect(false);
                }
            }
            Operation::Crash(side, after) => self.crash_in[*side as usize] = Some(*after),
            Operation::DiskFull(side) => self.disk_full[*side as usize] = true,
            Operation::TopUp(more) => self.top_up(u128::from(*more)),
            Operation::Look => self.look(),
            Operation::PayerLeavesOnChain => {
                self.status =
                    ChannelStatus::Closing { finish_at_secs: self.now.as_secs() + 86_400 };
                self.look();
            }
            Operation::Abort(stream) => {
                if let Some(consumer) = &mut self.consumer {
                    consumer.machine.handle_abort(*stream);
                    self.drain_payer();
                }
            }
            Operation::Close => self.close(),
            Operation::CloseByProvider => {
                self.read_payee();
                if let Some(provider) = &mut self.provider {
                    provider.machine.handle_close("going away", self.now);
                    self.drain_payee();
                }
            }
            Operation::NewSession => {
                self.break_connection();
                self.connect(true);
            }
            Operation::Duplicate(side, index) => {
                let queue = self.queue(*side);
                if !queue.is_empty() {
                    let copy = queue[usize::from(*index) % queue.len()].clone();
                    queue.push_back(copy);
                }
            }
            Operation::Replay(side, index) => {
                let sent = match side {
                    Side::Payee => &self.sent_to_payee,
                    Side::Payer => &self.sent_to_payer,
                };
                if self.connected && !sent.is_empty() {
                    let copy = sent[usize::from(*index) % sent.len()].clone();
                    self.queue(*side).push_back(copy);
                }
            }
            Operation::Reorder(side) => {
                let queue = self.queue(*side);
                if queue.len() >= 2 {
                    queue.swap(0, 1);
                }
            }
            Operation::Forge(side, forgery) => self.forge(*side, *forgery),
        }
    }

    fn queue(&mut self, side: Side) -> &mut VecDeque<Message> {
        match side {
            Side::Payee => &mut self.to_payee,
            Side::Payer => &mut self.to_payer,
        }
    }

    // --- bytes ---

    pub(crate) fn serve_down(&mut self, want: u64) {
        let Some(provider) = &self.provider else { return };
        let granted = provider.meter.admit(Direction::Down, want as usize) as u64;
        self.ledger.served += granted;
        self.pipe_down += granted;
        self.mark_payee();
    }

    pub(crate) fn send_up(&mut self, want: u64) {
        // The transport takes only so much before its flow control stops us.
        let want = want.min(100_000u64.saturating_sub(self.pipe_up));
        let Some(meter) = self.meter_of_consumer() else { return };
        self.pipe_up += meter.admit(Direction::Up, want as usize) as u64;
        self.mark_payer();
    }

    pub(crate) fn arrive_down(&mut self, most: u64) {
        let (Some(session), Some(meter)) = (self.session(), self.meter_of_consumer()) else {
            return;
        };
        let arrived = self.pipe_down.min(most);
        assert_eq!(meter.admit(Direction::Down, arrived as usize) as u64, arrived);
        self.pipe_down -= arrived;
        *self.ledger.received_down.entry(session).or_default() += arrived;
        self.mark_payer();
    }

    pub(crate) fn arrive_up(&mut self, most: u64) {
        let Some(provider) = &self.provider else { return };
        let want = self.pipe_up.min(most);
        let carried = provider.meter.admit(Direction::Up, want as usize) as u64;
        self.pipe_up -= carried;
        self.ledger.served += carried;
        let session = provider.machine.agreement().session;
        *self.ledger.carried_up.entry(session).or_default() += carried;
        self.mark_payee();
    }

    /// Hands the reading in where the mark is passed or the valve has closed.
    fn mark_payee(&mut self) {
        if let Some(provider) = &self.provider
            && (provider.meter.is_closed()
                || total(provider.meter.reading()) >= provider.machine.poll_mark().get())
        {
            self.read_payee();
        }
    }

    fn mark_payer(&mut self) {
        if let Some(Consumer { machine, meter: Some(meter) }) = &self.consumer
            && total(meter.reading()) >= machine.poll_mark().get()
        {
            self.read_payer();
        }
    }

    pub(crate) fn read_payee(&mut self) {
        if let Some(provider) = &mut self.provider {
            provider.machine.handle_reading(provider.meter.reading(), self.now);
            self.drain_payee();
        }
    }

    pub(crate) fn read_payer(&mut self) {
        if let Some(Consumer { machine, meter: Some(meter) }) = &mut self.consumer {
            let result = machine.handle_reading(meter.reading(), self.now);
            self.after_payer(result);
        }
    }

    // --- messages ---

    pub(crate) fn hand_to_payee(&mut self, message: Message) {
        self.say(format!("  -> provider {}", brief(&message)));
        if self.provider.is_none() {
            if let Message::Accept { acceptance, signature } = message {
                self.start_payee(*acceptance, signature);
            }
            return;
        }
        self.read_payee();
        let Some(provider) = &mut self.provider else { return };
        let taken = match &message {
            Message::Payment { payment, .. } => Some(payment.voucher.body.amount),
            _ => None,
        };
        match provider.machine.handle_message(message, self.now) {
            Ok(()) => {
                if let Some(amount) = taken
                    && provider.machine.claim().is_some_and(|claim| claim.amount == amount)
                {
                    self.ledger.arrived = self.ledger.arrived.max(amount);
                }
                self.drain_payee();
            }
            Err(error) => self.broke(Side::Payee, error),
        }
    }

    pub(crate) fn hand_to_payer(&mut self, message: Message) {
        self.say(format!("  -> consumer {}", brief(&message)));
        self.read_payer();
        if let Some(consumer) = &mut self.consumer {
            let result = consumer.machine.handle_message(message, self.now);
            self.after_payer(result);
        }
    }

    fn after_payer(&mut self, result: Result<(), ProtocolError>) {
        match result {
            Ok(()) => self.drain_payer(),
            Err(error) => self.broke(Side::Payer, error),
        }
    }

    fn broke(&mut self, side: Side, error: ProtocolError) {
        self.say(format!("  {side:?} gives up: {error}"));
        // Both parties are honest and nobody can forge their keys.
        ensure!(self, error.action() != Action::Dispute, "a false dispute: {error}");
        self.last_error = Some(error);
        self.break_connection();
    }

    fn start_payee(&mut self, acceptance: Acceptance, signature: DeviceSignature) {
        let session = acceptance.session;
        // A session that has ended is no session: its id is not taken twice.
        let began = self.payee_disk.iter().any(
            |record| matches!(record, Record::Session { agreement, .. } if agreement.session == session),
        );
        if began && recall(&self.payee_disk, session).session.is_none() {
            let reason = "the session has ended".into();
            return self.send_to_payer(Message::Refused(Refused {
                code: RefusalCode::UnknownSession,
                reason,
            }));
        }
        let memory = recall(&self.payee_disk, session);
        let theirs = acceptance.payment.map(|payment| payment.voucher.body.amount);
        let resumed = memory.session.is_some();
        let setup =
            PayeeSetup { signature, ..self.cast.payee_setup(acceptance, self.facts(), memory) };
        match Payee::start(setup, self.now) {
            Ok(machine) => {
                self.ledger.resumed += u64::from(resumed);
                let start = machine.statement(self.now).counted;
                let meter = Meter::new(start, ByteCount::ZERO);
                if let Some(theirs) = theirs {
                    self.ledger.arrived = self.ledger.arrived.max(theirs);
                }
                self.provider = Some(Provider { machine, meter });
                self.drain_payee();
            }
            Err(error) => {
                self.say(format!("  refused: {error}"));
                ensure!(self, error.action() != Action::Dispute, "a false dispute: {error}");
                let refused = Refused { code: error.refusal_code(), reason: error.to_string() };
                self.last_error = Some(error);
                self.send_to_payer(Message::Refused(refused));
            }
        }
    }

    fn send_to_payer(&mut self, message: Message) {
        self.sent_to_payer.push(message.clone());
        self.to_payer.push_back(message);
    }

    // --- outputs ---

    /// Counts an output down; `true` where power is cut before it.
    fn power_cut(&mut self, side: Side) -> bool {
        match &mut self.crash_in[side as usize] {
            Some(0) => {
                self.crash_in[side as usize] = None;
                self.crash(side);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// The process dies: machine and live memory are gone, the disk stays.
    pub(crate) fn crash(&mut self, side: Side) {
        self.say(format!("  {side:?} CRASHES"));
        match side {
            Side::Payer => {
                self.consumer = None;
                self.break_connection();
                self.payer_live = None;
                self.ledger.payer_crashes += 1;
            }
            Side::Payee => {
                self.provider = None;
                self.break_connection();
                self.ledger.payee_crashes += 1;
            }
        }
    }

    fn drain_payer(&mut self) {
        loop {
            let Some(consumer) = &mut self.consumer else { return };
            let Some(output) = consumer.machine.poll_output() else { return };
            if self.power_cut(Side::Payer) {
                return;
            }
            match output {
                Output::Persist(records) => {
                    if std::mem::take(&mut self.disk_full[Side::Payer as usize]) {
                        self.say("  consumer's disk is full".into());
                        return self.break_connection();
                    }
                    self.check_records(&self.payer_disk, &records);
                    self.payer_disk.extend(records);
                    self.check_promises(Side::Payer);
                }
                Output::Transmit(message) => {
                    if let Message::Payment { payment, receipt } = &message {
                        self.check_transmitted(payment, receipt.as_ref());
                    }
                    self.sent_to_payee.push(message.clone());
                    self.to_payee.push_back(message);
                }
                Output::Grant(_) => self.fail("a payer grants nothing"),
                Output::Event(event) => {
                    self.events.push((Side::Payer, event.clone()));
                    match event {
                        Event::Started { reading } => {
                            let meter = Meter::new(reading, bytes(u64::MAX));
                            if let Some(consumer) = &mut self.consumer {
                                consumer.meter = Some(meter);
                            }
                        }
                        Event::Ended(statement) => {
                            self.statements.insert((statement.session, 1), statement);
                        }
                        Event::Refused(refused) => {
                            self.refused = Some(refused.code);
                            if refused.code == RefusalCode::UnknownSession
                                && let Some(session) = self.session()
                            {
                                self.unknown.insert(session);
                            }
                            return self.break_connection();
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn drain_payee(&mut self) {
        loop {
            let Some(provider) = &mut self.provider else { return };
            let Some(output) = provider.machine.poll_output() else { return };
            if self.power_cut(Side::Payee) {
                return;
            }
            match output {
                Output::Persist(records) => {
                    // A store knows each session once.
                    let known = |id| {
                        self.payee_disk.iter().any(|record| {
                            matches!(record, Record::Session { agreement, .. } if agreement.session == id)
                        })
                    };
                    let again = records.iter().any(|record| {
                        matches!(record, Record::Session { agreement, .. } if known(agreement.session))
                    });
                    if std::mem::take(&mut self.disk_full[Side::Payee as usize]) || again {
                        self.say("  provider's disk refuses".into());
                        return self.break_connection();
                    }
                    self.check_records(&self.payee_disk, &records);
                    self.payee_disk.extend(records);
                    self.check_promises(Side::Payee);
                }
                Output::Transmit(message) => {
                    if let Message::Countersignature { sequence, signature } = &message {
                        let durable = self.payee_disk.iter().any(|record| {
                            matches!(record, Record::Receipt { receipt, payee_signature: Some(s) }
                                if receipt.body.sequence == *sequence && s == signature)
                        });
                        ensure!(self, durable, "countersigned before it was durable");
                    }
                    self.send_to_payer(message);
                }
                Output::Grant(limit) => {
                    let provider = self.provider.as_ref().unwrap();
                    let agreement = provider.machine.agreement();
                    let paid = recall(&self.payee_disk, agreement.session)
                        .session
                        .map_or(0, |s| total(s.paid));
                    // Durably paid, the credit, and one step: `protocol.md`, "What is persisted".
                    let (rule, all) =
                        (self.cast.terms.credit, bytes(agreement.history.get() + paid));
                    let (credit, step) = (rule.credit(all), rule.step(all));
                    ensure!(
                        self,
                        limit.get() <= paid.saturating_add(credit.get() + step.get()),
                        "granted {limit} on {paid} durably paid and {credit} of credit"
                    );
                    ensure!(
                        self,
                        limit <= agreement.affordable(self.reserved),
                        "granted more than the channel can pay for"
                    );
                    provider.meter.set_limit(limit);
                }
                Output::Event(event) => {
                    self.events.push((Side::Payee, event.clone()));
                    if let Event::Ended(statement) = event {
                        self.statements.insert((statement.session, 2), statement);
                    }
                }
            }
        }
    }

    // --- the rest of the world ---

    pub(crate) fn break_connection(&mut self) {
        if let Some(Consumer { machine, meter: Some(meter) }) = self.consumer.take() {
            let session = machine.agreement().session;
            self.payer_live = Some((session, meter.reading(), machine.reported_up()));
        }
        if let Some(Provider { mut machine, meter }) = self.provider.take() {
            machine.handle_disconnect(meter.reading(), self.now);
            while let Some(output) = machine.poll_output() {
                let Output::Persist(records) = output else {
                    self.fail("only what was carried is remembered");
                };
                self.payee_disk.extend(records);
            }
        }
        self.to_payee.clear();
        self.to_payer.clear();
        // The transport authenticates the provider: nobody replays it over another connection. (A
        // consumer may say what it said before, so what it sent stays in the bag.)
        self.sent_to_payer.clear();
        (self.pipe_up, self.pipe_down) = (0, 0);
        self.connected = false;
    }

    /// The consumer connects: it resumes its newest session where it can.
    pub(crate) fn connect(&mut self, anew: bool) {
        self.break_connection();
        let resumable =
            newest_session(&self.payer_disk).filter(|id| !anew && !self.unknown.contains(id));
        let session = resumable.unwrap_or_else(|| {
            self.sessions += 1;
            session_id(self.sessions)
        });
        let mut memory = recall(&self.payer_disk, session);
        if let (Some(known), Some((id, counted, reported_up))) =
            (&mut memory.session, self.payer_live)
            && id == session
        {
            (known.counted, known.reported_up) = (counted, reported_up);
        }
        let setup = self.cast.payer_setup(session, self.reserved, memory);
        match Payer::accept(setup, self.now) {
            Ok(machine) => {
                self.consumer = Some(Consumer { machine, meter: None });
                self.connected = true;
                self.drain_payer();
            }
            Err(error) => self.fail(&format!("an honest consumer cannot accept: {error}")),
        }
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..40 {
            if self.to_payee.is_empty() && self.to_payer.is_empty() && self.pipe_down == 0 {
                break;
            }
            self.perform(&Operation::DeliverToPayee(255));
            self.perform(&Operation::DeliverToPayer(255));
            self.arrive_down(u64::MAX);
            self.arrive_up(u64::MAX);
        }
        self.arrive_up(u64::MAX);
        self.read_payee();
        self.read_payer();
    }

    pub(crate) fn tick(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.read_payee();
        if let Some(provider) = &mut self.provider
            && provider.machine.poll_timeout().is_some_and(|at| at <= self.now)
        {
            match provider.machine.handle_timeout(self.now) {
                Ok(()) => {
                    self.drain_payee();
                    self.check_quiet();
                }
                Err(error) => self.broke(Side::Payee, error),
            }
        }
        self.read_payer();
        if let Some(consumer) = &mut self.consumer
            && consumer.machine.poll_timeout().is_some_and(|at| at <= self.now)
        {
            let result = consumer.machine.handle_timeout(self.now);
            self.after_payer(result);
            self.check_quiet();
        }
    }

    /// A timeout that was handled is not due again: whoever sleeps until it would spin.
    fn check_quiet(&self) {
        if let Some(provider) = &self.provider {
            let due = provider.machine.poll_timeout().is_some_and(|at| at <= self.now);
            ensure!(self, !due, "the provider's driver would spin");
        }
        if let Some(consumer) = &self.consumer {
            let due = consumer.machine.poll_timeout().is_some_and(|at| at <= self.now);
            ensure!(self, !due, "the consumer's driver would spin");
        }
    }

    fn top_up(&mut self, more: u128) {
        if self.status != ChannelStatus::Open {
            return;
        }
        self.reserved = units(self.reserved.get() + more);
        if let Some(consumer) = &mut self.consumer {
            let result = consumer.machine.handle_top_up(self.reserved, self.now);
            self.after_payer(result);
        }
    }

    pub(crate) fn look(&mut self) {
        self.read_payee();
        let facts = self.facts();
        if let Some(provider) = &mut self.provider {
            provider.machine.handle_chain_event(facts);
            self.drain_payee();
        }
    }

    pub(crate) fn close(&mut self) {
        self.read_payer();
        if let Some(consumer) = &mut self.consumer {
            consumer.machine.handle_close("done", self.now);
            self.drain_payer();
        }
    }

    fn forge(&mut self, side: Side, forgery: Forgery) {
        if !self.connected {
            return;
        }
        let cast = &self.cast;
        if side == Side::Payer {
            let message = match forgery {
                Forgery::BadCountersignature => {
                    let sequence = self.ledger.receipts.keys().last().copied().unwrap_or(1);
                    let signature = cast.payee.sign_digest(B256::repeat_byte(9)).unwrap();
                    Message::Countersignature { sequence, signature }
                }
                Forgery::AcceptedAgain => {
                    let Some(old) =
                        self.sent_to_payer.iter().find(|m| matches!(m, Message::Accepted(_)))
                    else {
                        return;
                    };
                    old.clone()
                }
                _ => return,
            };
            return self.to_payer.push_back(message);
        }
        let Some(provider) = &self.provider else { return };
        let agreement = provider.machine.agreement().clone();
        let newest = recall(&self.payee_disk, agreement.session);
        let paid = newest.session.map_or(Reading::ZERO, |known| known.paid);
        let next = Reading { up: paid.up, down: bytes(paid.down.get() + 1) };
        let Some(amount) = agreement.owed(next) else { return };
        let session = agreement.session;
        let voucher = Voucher { channel: agreement.channel(), amount };
        let sign = |voucher: Voucher, domain: &Domain, key: &LocalKey| {
            *Verified::sign(voucher, domain, key).unwrap().signed()
        };
        // None of these was ever signed by the payer for this channel, so none may count.
        let stranger = local_key(99);
        let (reading, voucher) = match forgery {
            Forgery::WrongSigner => (next, sign(voucher, &cast.domain, &stranger)),
            Forgery::OtherChannel => {
                let other = ChannelConfig { salt: 77, ..cast.config }.id(&cast.domain);
                (next, sign(Voucher { channel: other, amount }, &cast.domain, &cast.payer))
            }
            Forgery::OtherChain => {
                (next, sign(voucher, &Domain { chain_id: 1, ..cast.domain }, &cast.payer))
            }
            Forgery::OtherContract => {
                let elsewhere = Domain { contract: Address::repeat_byte(1), ..cast.domain };
                (next, sign(voucher, &elsewhere, &cast.payer))
            }
            // The ones below are what a dishonest payer could sign; the amounts are not promised
            // by the honest one, so they must be refused for another reason than the signature.
            Forgery::Lower => {
                let Some(lower) = agreement.base.get().checked_sub(1) else { return };
                (next, cast.voucher(units(lower)))
            }
            Forgery::OverDeposit => (next, cast.voucher(units(self.reserved.get() + 1))),
            Forgery::LargerReading => {
                let reading =
                    Reading { down: bytes(provider.meter.reading().down.get() + 1), ..next };
                let Some(amount) = agreement.owed(reading) else { return };
                (reading, cast.voucher(amount))
            }
            Forgery::HugeReading => (reading(u64::MAX, u64::MAX), cast.voucher(amount)),
            Forgery::WorthLess => {
                let reading = provider.meter.reading();
                match agreement.owed(reading).and_then(|a| a.checked_sub(units(1))) {
                    Some(less) if less > agreement.base => (reading, cast.voucher(less)),
                    _ => return,
                }
            }
            Forgery::BadReceipt => {
                let receipt = Receipt {
                    channel: agreement.channel(),
                    session,
                    sequence: 1_000,
                    reading: paid,
                    amount: agreement.base,
                    previous: B256::ZERO,
                    time: self.now,
                };
                let receipt = *Verified::sign(receipt, &cast.domain, &stranger).unwrap().signed();
                let Some(Payment { reading, voucher, .. }) = newest.payment else { return };
                let payment = Payment { session, reading, voucher };
                let message = Message::Payment { payment, receipt: Some(receipt) };
                return self.to_payee.push_back(message);
            }
            Forgery::BadCountersignature | Forgery::AcceptedAgain => return,
        };
        let before = provider.machine.claim().map(|claim| claim.amount);
        let payment = Payment { session, reading, voucher };
        self.hand_to_payee(Message::Payment { payment, receipt: None });
        if let Some(provider) = &self.provider {
            let after = provider.machine.claim().map(|claim| claim.amount);
            ensure!(self, before == after, "a forged payment ({forgery:?}) counted");
        }
    }

    // --- invariants ---

    /// Records are checked against what is durable before they join it.
    fn check_records(&self, disk: &[Record], records: &[Record]) {
        ensure!(self, !records.is_empty(), "an empty Persist");
        for record in records {
            if let Record::Receipt { receipt, .. } = record {
                let digest = receipt.body.digest(&self.cast.domain);
                for known in disk {
                    if let Record::Receipt { receipt: known, .. } = known
                        && known.body.sequence == receipt.body.sequence
                    {
                        ensure!(
                            self,
                            known.body.digest(&self.cast.domain) == digest,
                            "two receipts number {}",
                            receipt.body.sequence
                        );
                    }
                }
            }
        }
    }

    /// A1 and A2 on a disk: promises and receipts only grow, and stay within the channel.
    fn check_promises(&mut self, side: Side) {
        let disk = match side {
            Side::Payer => &self.payer_disk,
            Side::Payee => &self.payee_disk,
        };
        let (mut amount, mut sequence) = (Amount::ZERO, 0);
        let mut released = Vec::new();
        for record in disk {
            match record {
                Record::Payment { payment, .. } => {
                    let next = payment.voucher.body.amount;
                    ensure!(self, next >= amount, "{side:?}: a promise shrank");
                    ensure!(self, next <= self.reserved, "{side:?}: promised more than reserved");
                    amount = next;
                }
                Record::Receipt { receipt, payee_signature } => {
                    released.push((receipt.body.sequence, receipt.body.digest(&self.cast.domain)));
                    if payee_signature.is_some() {
                        let next = receipt.body.sequence;
                        ensure!(
                            self,
                            next == sequence + 1 || next == sequence,
                            "{side:?}: receipt {next} after {sequence}"
                        );
                        sequence = next;
                    }
                }
                _ => {}
            }
        }
        for (sequence, digest) in released {
            let known = *self.ledger.receipts.entry(sequence).or_insert(digest);
            ensure!(self, known == digest, "two different receipts number {sequence} were signed");
        }
    }

    /// A4 and the consumer's side of the bargain, whenever a payment leaves.
    fn check_transmitted(&mut self, payment: &Payment, receipt: Option<&Signed<Receipt>>) {
        let durable = self.payer_disk.iter().any(
            |record| matches!(record, Record::Payment { payment: known, .. } if known == payment),
        );
        ensure!(self, durable, "a payment left before it was durable");
        if let Some(receipt) = receipt {
            let durable = self.payer_disk.iter().any(
                |record| matches!(record, Record::Receipt { receipt: known, .. } if known == receipt),
            );
            ensure!(self, durable, "a receipt left before it was durable");
        }
        let amount = payment.voucher.body.amount;
        if let Some(before) = self.ledger.transmitted {
            ensure!(self, amount >= before.voucher.body.amount, "a lower voucher is newer");
        }
        if let Some(before) = self.ledger.transmitted_reading.get(&payment.session) {
            ensure!(self, payment.reading.covers(*before), "a smaller reading is newer");
        }
        let agreement = self.consumer.as_ref().unwrap().machine.agreement().clone();
        let carried = self.ledger.carried_up.get(&payment.session).copied().unwrap_or(0)
            + self.ledger.received_down.get(&payment.session).copied().unwrap_or(0);
        let fair = self.cast.terms.price.owed(bytes(carried)).unwrap();
        ensure!(
            self,
            amount.get() <= agreement.base.get() + fair.get(),
            "promised {amount} for {carried} bytes over {}",
            agreement.base
        );
        self.ledger.transmitted = Some(*payment);
        self.ledger.transmitted_reading.insert(payment.session, payment.reading);
    }

    /// Everything that holds between any two steps.
    fn check(&mut self) {
        let rule = self.cast.terms.credit;
        // A3 within the session.
        if let Some(provider) = &self.provider {
            let agreement = provider.machine.agreement();
            let paid = recall(&self.payee_disk, agreement.session).session.map(|s| total(s.paid));
            if let Some(paid) = paid {
                let credit = rule.credit(bytes(agreement.history.get() + paid)).get();
                let exposure = total(provider.meter.reading()).saturating_sub(paid);
                ensure!(self, exposure <= credit, "A3: exposed by {exposure}, credit is {credit}");
                self.ledger.worst_exposure =
                    self.ledger.worst_exposure.max(exposure * 100 / credit);
                let statement = provider.machine.statement(self.now);
                ensure!(
                    self,
                    statement.exposure_peak <= statement.exposure_bound,
                    "the statement's peak {} is above its bound {}",
                    statement.exposure_peak,
                    statement.exposure_bound
                );
            }
        }
        // A3 over the channel: what was ever served and never paid.
        let mut last = BTreeMap::new();
        for record in &self.payee_disk {
            if let Record::Payment { payment, .. } = record {
                last.insert(payment.session, total(payment.reading));
            }
        }
        let paid: u64 = last.values().sum();
        let lost = self.ledger.served.saturating_sub(paid);
        let credit = rule.credit(bytes(paid)).get();
        let bound =
            rule.loss_allowance(bytes(paid)).get() + credit * (1 + self.ledger.payee_crashes);
        ensure!(
            self,
            lost <= bound,
            "{lost} bytes lost over the channel, bound is {bound} ({} crashes)",
            self.ledger.payee_crashes
        );
        self.ledger.worst_loss = self.ledger.worst_loss.max(lost * 100 / bound);
        // Conservation: the provider can claim exactly what arrived, and no more than was sent.
        let promised = |disk: &[Record]| {
            recall(disk, SessionId::default())
                .payment
                .map_or(Amount::ZERO, |p| p.voucher.body.amount)
        };
        let (payer, payee) = (promised(&self.payer_disk), promised(&self.payee_disk));
        let sent = self.ledger.transmitted.map_or(Amount::ZERO, |p| p.voucher.body.amount);
        // What was durable but cut off before it left comes with the next acceptance.
        ensure!(self, payee <= payer, "the provider can claim {payee}, {payer} was promised");
        ensure!(self, sent <= payer, "A4: {sent} was sent, {payer} is durable");
        if let Some(provider) = &self.provider {
            let claim = provider.machine.claim().map_or(Amount::ZERO, |claim| claim.amount);
            ensure!(self, claim == payee, "claims {claim}, durable is {payee}");
        }
        ensure!(self, payee <= self.ledger.arrived.max(payee), "claimable without arrival");
    }

    /// Everything works again; the session must go on or have a reason, and close with both sides
    /// agreeing. Returns the two statements where there is a session to state.
    pub(crate) fn heal_and_close(&mut self) -> Option<(Statement, Statement)> {
        self.say("HEAL".into());
        self.crash_in = [None; 2];
        self.disk_full = [false; 2];
        for attempt in 0.. {
            ensure!(self, attempt < 6, "cannot get a session on again: {:?}", self.last_error);
            self.refused = None;
            self.connect(false);
            self.settle();
            self.settle();
            self.check();
            match self.refused {
                Some(RefusalCode::LossAllowanceUsed | RefusalCode::ChannelUnusable) => return None,
                Some(_) => continue,
                None => {}
            }
            if self.provider.is_some() && self.meter_of_consumer().is_some() {
                break;
            }
        }
        self.look();
        // No deadlock: with everything delivered and paid, service goes on or the channel is used up.
        for _ in 0..30 {
            self.settle();
            self.tick(1_000);
            self.settle();
            self.check();
        }
        self.settle();
        let provider = self.provider.as_ref().unwrap_or_else(|| self.fail("the session broke"));
        let affordable = provider.machine.agreement().affordable(self.reserved).get();
        ensure!(
            self,
            !provider.meter.is_closed()
                || total(provider.meter.reading()) >= affordable
                || self.status != ChannelStatus::Open,
            "deadlock: the valve is closed at {:?} of {affordable} affordable, paid {:?}",
            provider.meter.reading(),
            provider.machine.claim().map(|claim| claim.amount)
        );
        let session = self.session().unwrap();
        self.close();
        for _ in 0..10 {
            self.settle();
            self.check();
            if self.has_ended() {
                break;
            }
        }
        let (Some(ours), Some(theirs)) =
            (self.statements.get(&(session, 1)), self.statements.get(&(session, 2)))
        else {
            self.fail("the session does not end");
        };
        let figures =
            |s: &Statement| (s.session, s.channel, s.receipted, s.paid, s.cumulative, s.price);
        ensure!(self, figures(ours) == figures(theirs), "statements differ: {ours:?} {theirs:?}");
        Some((ours.clone(), theirs.clone()))
    }
}

fn brief(message: &Message) -> String {
    match message {
        Message::Accept { acceptance, .. } => format!(
            "Accept {} {:?} up_max {} payment {:?}",
            acceptance.session,
            acceptance.reading,
            acceptance.up_max,
            acceptance.payment.map(|p| (p.session, p.reading, p.voucher.body.amount))
        ),
        Message::Accepted(accepted) => format!(
            "Accepted {} {:?} base {} payment {:?}",
            accepted.session,
            accepted.reading,
            accepted.base,
            accepted.payment.map(|p| (p.session, p.reading, p.voucher.body.amount))
        ),
        Message::Payment { payment, receipt } => format!(
            "Payment {:?} {} receipt {:?}",
            payment.reading,
            payment.voucher.body.amount,
            receipt.map(|r| r.body.sequence)
        ),
        Message::Countersignature { sequence, .. } => format!("Countersignature {sequence}"),
        other => format!("{other:?}"),
    }
}
