//! A consumer: the real machine and store; the shell around them as the node's, without its tasks.
//! And what dishonest ones do instead.

mod cheat;
mod check;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use sparewire_core::{
    Amount, B256, ByteCount, ChannelId, NodeId, Price, SessionId, Signer, TypedData,
};
use sparewire_node::{
    buyer::{BrokenSession, gives_up_session, may_retry, resumable},
    store::{Store, StoreError},
};
use sparewire_protocol::{
    ANSWER_MS_MAX, Action, ChannelConfig, ChannelStatus, Direction, Event, Memory, Message, Meter,
    Output, Payer, PayerSetup, Payment, ProtocolError, Reading, Record, RefusalCode, Service,
    SessionMemory, settlement::Intent,
};

use crate::{
    cast::{channel, identity, network},
    disk::Disk,
    ledger::{Invariant, broken},
    link::Addr,
    node::{Alive, Node, Surroundings},
    provider::total,
    road::{Frame, Road, RoadState},
    vice::ConsumerVice,
};

/// How long streams get to end when the session is to be closed, in milliseconds.
const GRACE_MS: u64 = 8_000;
const RETRY_MS: (u64, u64) = (200, 10_000);
/// How long the provider may take to answer in the handshake, in milliseconds.
const ANSWER_MS: u64 = 20_000;
const STREAMS_MAX: usize = 4;

/// A consumer.
pub struct Consumer {
    /// Its body.
    pub node: Node,
    /// Its party number.
    pub party: usize,
    /// What is wrong with it.
    pub vice: Option<ConsumerVice>,
    /// The provider's party number, and where it is.
    pub provider: (usize, Addr),
    /// Whether that one is honest.
    pub provider_is_honest: bool,
    /// The endpoint that it asks says that its channels hold more than they do.
    pub lied_to: bool,
    /// The dearest price that it accepts.
    pub price_max: Price,
    /// What it puts into a channel, and tops one up by.
    pub channel_amount: Amount,
    /// Seconds that it gives providers to claim.
    pub withdraw_delay_secs: u32,
    /// Bytes in a packet.
    pub chunk: u64,
    /// What its applications want: bytes up and down.
    pub demand: VecDeque<(u64, u64)>,
    /// It should end its session.
    pub wants_close: bool,
    /// It has left: no session any more.
    pub left: bool,
    /// Why it will not try again.
    pub gave_up: Option<String>,
    /// Its channels, oldest first.
    pub channels: Vec<ChannelConfig>,
    opening: bool,
    topping_up: bool,
    /// The channel in use wants to be topped up, and another one is.
    starved: bool,
    phase: Phase,
    broken: Option<BrokenSession>,
    /// Whether there is one to resume, as the store said when it was last asked: it says the same
    /// until the next connection.
    unfinished: Cell<Option<bool>>,
    forgotten: BTreeSet<SessionId>,
    avoid: BTreeSet<ChannelId>,
    retry_at_ms: u64,
    pause_ms: u64,
    sessions: u64,
    said: Vec<Vec<u8>>,
    late: Vec<(u64, Message)>,
    first_voucher: Option<Payment>,
    /// How often a dishonest one has asked for the same once more.
    asked_again: u64,
    backup: Option<Disk>,
    /// Its store was once set back to a backup: it remembers less than it signed.
    set_back: bool,
    /// Of each channel, the newest payment and receipt that it recorded together.
    together: BTreeMap<ChannelId, (Amount, u64)>,
    /// Of each channel, the highest payment that it went to record without a receipt.
    alone: BTreeMap<ChannelId, Amount>,
}

enum Phase {
    Down,
    /// Dialed; what the offer must match.
    Asking {
        connection: u64,
        since_ms: u64,
        known: Option<Box<SessionMemory>>,
    },
    /// Accepted, or on.
    Up(Box<Up>),
}

struct Up {
    connection: u64,
    machine: Payer,
    meter: Option<Meter>,
    has_paid: bool,
    accepting_since_ms: u64,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    closing_since_ms: Option<u64>,
    closed: bool,
    got: u64,
}

#[derive(Default)]
struct Stream {
    up_left: u64,
    got: u64,
    total: Option<u64>,
}

impl Stream {
    fn is_done(&self) -> bool {
        self.up_left == 0 && self.total == Some(self.got)
    }
}

impl Consumer {
    /// One that runs, with money but no channel.
    pub fn new(
        node: Node,
        party: usize,
        vice: Option<ConsumerVice>,
        provider: (usize, Addr),
        price_max: Price,
        channel_amount: Amount,
    ) -> Self {
        Self {
            node,
            party,
            vice,
            provider,
            provider_is_honest: true,
            lied_to: false,
            price_max,
            channel_amount,
            withdraw_delay_secs: 900,
            chunk: 1_024,
            demand: VecDeque::new(),
            wants_close: false,
            left: false,
            gave_up: None,
            channels: Vec::new(),
            opening: false,
            topping_up: false,
            starved: false,
            phase: Phase::Down,
            broken: None,
            unfinished: Cell::new(None),
            forgotten: BTreeSet::new(),
            avoid: BTreeSet::new(),
            retry_at_ms: 0,
            pause_ms: RETRY_MS.0,
            sessions: 0,
            said: Vec::new(),
            late: Vec::new(),
            first_voucher: None,
            asked_again: 0,
            backup: None,
            set_back: false,
            together: BTreeMap::new(),
            alone: BTreeMap::new(),
        }
    }

    fn is_honest(&self) -> bool {
        self.vice.is_none()
    }

    /// Puts money aside and opens a channel.
    pub fn open_channel(&mut self, world: &mut Surroundings) {
        let amount = match self.vice {
            Some(ConsumerVice::OpensDust) => Amount::new(1).unwrap_or_default(),
            _ => self.channel_amount,
        };
        let salt = self.channels.len() as u64 + 1;
        let config = channel(self.party, self.provider.0, salt, self.withdraw_delay_secs);
        world.ledger.channel(config.id(&network().0)).reserved = amount.get();
        let domain = network().0;
        let kept = self
            .node
            .recall(|store| store.keep_channel(sparewire_protocol::Role::Payer, &domain, &config));
        if kept.is_none() {
            return;
        }
        self.channels.push(config);
        let token = network().1;
        self.node.purse.want(Intent::Deposit { token, amount });
        self.node.purse.want(Intent::Open { channels: vec![(config, amount)] });
        self.opening = true;
        world.say(|| format!("{} opens a channel with {amount}", self.node.name));
    }

    fn top_up(&mut self, world: &mut Surroundings, config: ChannelConfig) {
        if self.topping_up || self.left {
            return;
        }
        let (amount, token) = (self.channel_amount, network().1);
        world.ledger.channel(config.id(&network().0)).reserved += amount.get();
        self.node.purse.want(Intent::Deposit { token, amount });
        self.node.purse.want(Intent::TopUp { config, amount });
        self.topping_up = true;
        world.coverage.met("top-up");
        world.say(|| format!("{} tops up by {amount}", self.node.name));
    }

    /// Starts to withdraw what its channels hold.
    pub fn leave_chain(&mut self, world: &mut Surroundings) {
        world.coverage.met("leaves on chain");
        for config in self.channels.clone() {
            world.ledger.channel(config.id(&network().0)).leaving = true;
            self.node.purse.want(Intent::StartClose { config });
        }
    }

    /// A copy of its disk is put away.
    pub fn back_up(&mut self) {
        self.backup = Some(self.node.disk.fork());
    }

    /// Its disk is lost, and the copy of it put in its place: the store is set back.
    pub fn restore(&mut self, world: &mut Surroundings) {
        let Some(backup) = &self.backup else { return };
        let disk = backup.fork();
        self.node.die(world, false, 2_000);
        self.forget(world);
        world.coverage.met("a store is set back");
        self.node.disk = disk;
        self.set_back = true;
        self.together.clear();
    }

    /// The process is gone.
    pub fn forget(&mut self, world: &mut Surroundings) {
        self.phase = Phase::Down;
        for (session, account) in &mut world.ledger.sessions {
            account.forgotten |= usize::from(session.0[0]) == self.party;
        }
        (self.broken, self.opening, self.topping_up) = (None, false, false);
        self.starved = false;
        self.unfinished.set(None);
        self.forgotten.clear();
        self.avoid.clear();
        self.late.clear();
        self.retry_at_ms = world.now_ms;
        self.pause_ms = RETRY_MS.0;
    }

    fn died(&mut self, world: &mut Surroundings) -> bool {
        if self.node.store.is_none() {
            self.forget(world);
            return true;
        }
        false
    }

    fn connection(&self) -> Option<u64> {
        match &self.phase {
            Phase::Down => None,
            Phase::Asking { connection, .. } => Some(*connection),
            Phase::Up(up) => Some(up.connection),
        }
    }

    // --- connecting ---

    fn has_unfinished_session(&self) -> bool {
        let provider = identity(self.provider.0).node_id();
        if let Some(known) = self.unfinished.get() {
            return known;
        }
        let newest = self.node.recall(|store| self.resumable(store, provider));
        let there = |known: &SessionMemory| !self.forgotten.contains(&known.agreement.session);
        self.unfinished.set(newest.as_ref().map(|newest| newest.as_ref().is_some_and(there)));
        newest.flatten().as_ref().is_some_and(there)
    }

    fn resumable(
        &self,
        store: &dyn Store,
        provider: NodeId,
    ) -> Result<Option<SessionMemory>, StoreError> {
        let broken = |of| self.broken.filter(|broken| broken.session == of);
        resumable(store, provider, Service::ExitTcp, &BTreeSet::new(), broken)
    }

    fn connect(&mut self, world: &mut Surroundings) {
        self.unfinished.set(None);
        let provider = identity(self.provider.0).node_id();
        let Some(known) = self.node.recall(|store| self.resumable(store, provider)) else {
            return self.retry_later(world);
        };
        let known = known.filter(|known| !self.forgotten.contains(&known.agreement.session));
        let connection = world.next_connection * 16 + self.party as u64;
        world.next_connection += 1;
        world.say(|| format!("{} dials", self.node.name));
        world.coverage.met(if known.is_some() { "dial to resume" } else { "dial" });
        let road = Road::dial(connection, self.provider.1, world.now_ms);
        self.node.roads.insert(connection, road);
        self.node.flush(world, connection);
        let (domain, token) = network();
        let resume = known.as_ref().map(|known| known.agreement.session);
        let known = known.map(Box::new);
        self.phase = Phase::Asking { connection, since_ms: world.now_ms, known };
        self.tell(world, Message::Hello { minor: 0, domain, token, resume });
    }

    fn retry_later(&mut self, world: &mut Surroundings) {
        self.pause_ms = (self.pause_ms * 2).min(RETRY_MS.1);
        self.retry_at_ms = world.now_ms + self.pause_ms;
    }

    /// The channel that pays: the one of the session to resume, else the one with most left.
    fn channel_for(
        &mut self,
        world: &mut Surroundings,
        known: Option<&SessionMemory>,
    ) -> Option<(ChannelConfig, Amount)> {
        let domain = network().0;
        let view = world.chain.ask(self.node.purse.asks);
        let channels = self.node.recall(|store| store.channels(sparewire_protocol::Role::Payer))?;
        let mut best: Option<(ChannelConfig, Amount, Amount)> = None;
        for known_channel in channels {
            let id = known_channel.config.id(&domain);
            if self.avoid.contains(&id) {
                continue;
            }
            let Ok(Some(facts)) = view.channel(id) else { continue };
            if facts.status != ChannelStatus::Open {
                continue;
            }
            let left = facts.reserved.saturating_sub(known_channel.promised());
            if known.is_some_and(|known| known.agreement.config == known_channel.config) {
                return Some((known_channel.config, facts.reserved));
            }
            if best.is_none_or(|(_, _, most)| left > most) {
                best = Some((known_channel.config, facts.reserved, left));
            }
        }
        let (config, reserved, left) = best?;
        if left == Amount::ZERO {
            self.top_up(world, config);
            return None;
        }
        Some((config, reserved))
    }

    fn accept(&mut self, world: &mut Surroundings, offer: &sparewire_protocol::Offer) {
        let Phase::Asking { connection, known, .. } =
            std::mem::replace(&mut self.phase, Phase::Down)
        else {
            return;
        };
        let now = self.node.clock(world);
        let unfinished = known.as_ref().map(|known| known.agreement.session);
        let known = known.filter(|known| known.agreement.terms == offer.terms);
        let provider = identity(self.provider.0).node_id();
        let terms = match offer.verify(provider, &network().0, known.is_none(), now) {
            Ok(terms) => terms,
            Err(error) => {
                if known.is_some() && error == ProtocolError::TermsExpired {
                    self.forgotten.extend(unfinished);
                }
                return self.fail(world, connection, &error);
            }
        };
        if terms.price > self.price_max {
            world.coverage.met("too dear");
            self.gave_up = Some("too dear".into());
            return self.node.hang_up(world, connection, false);
        }
        let Some((config, reserved)) = self.channel_for(world, known.as_deref()) else {
            self.node.hang_up(world, connection, false);
            if self.left {
                // Its money has left: there is nothing to settle with.
                self.forgotten.extend(unfinished);
            } else if !self.opening && !self.topping_up {
                self.open_channel(world);
            }
            self.retry_at_ms = world.now_ms + 12_000;
            return;
        };
        let known = known.filter(|known| known.agreement.config == config);
        let session = match &known {
            Some(known) => known.agreement.session,
            None => {
                self.sessions += 1;
                let mut id = [0; 32];
                id[0] = self.party as u8; // for whoever reads a trace
                id[1..9].copy_from_slice(&self.node.rng.u64(..).to_be_bytes());
                SessionId(B256::from(id))
            }
        };
        let id = config.id(&network().0);
        let memory = self.node.recall(|store| store.memory(id, Some(session)));
        let Some(mut memory): Option<Memory> = memory else {
            self.node.hang_up(world, connection, false);
            return self.retry_later(world);
        };
        if let Some(known) = known {
            world.coverage.met("resumes");
            memory.session = Some(*known);
        }
        let has_paid = memory.payment.is_some();
        // What was recorded as a process died, or a disk failed, may be there or not.
        let recorded = &mut world.ledger.channel(id).recorded;
        let found = memory.payment.map_or(Amount::ZERO, |it| it.voucher.body.amount);
        *recorded = found.max(*recorded);
        let setup = PayerSetup {
            terms,
            session,
            config,
            reserved,
            delegation: self.node.identity.delegation,
            memory,
            low_water: Amount::new(self.channel_amount.get() / 4).unwrap_or_default(),
            signer: self.node.identity.authorizer.clone() as Arc<dyn Signer>,
            device: &self.node.identity.device,
        };
        world.ledger.session(session).reserved = reserved;
        match Payer::accept(setup, now) {
            Ok(machine) => {
                self.phase = Phase::Up(Box::new(Up {
                    connection,
                    machine,
                    meter: None,
                    has_paid,
                    accepting_since_ms: world.now_ms,
                    streams: BTreeMap::new(),
                    next_stream: 4,
                    closing_since_ms: None,
                    closed: false,
                    got: 0,
                }));
                self.drain(world);
            }
            Err(error) => {
                if gives_up_session(&error) {
                    self.forgotten.insert(session);
                }
                self.fail(world, connection, &error);
            }
        }
    }

    /// The provider broke the protocol, or our own papers do not fit.
    fn fail(&mut self, world: &mut Surroundings, connection: u64, error: &ProtocolError) {
        world.say(|| format!("{} gives up: {error}", self.node.name));
        if error.action() == Action::Dispute {
            world.coverage.met("conviction");
            let innocent = self.is_honest() && self.provider_is_honest;
            world.ensure(Invariant::I12HonestPartiesDoNotAccuse, !innocent, || {
                format!("{} accuses an honest provider: {error}", self.node.name)
            });
        }
        if !may_retry(&error.clone().into()) && self.gave_up.is_none() {
            self.gave_up = Some(error.to_string());
        }
        let session = match &self.phase {
            Phase::Up(up) if gives_up_session(error) => Some(up.machine.agreement().session),
            _ => None,
        };
        self.disconnect(world);
        if let Some(session) = session {
            self.broken = None;
            self.forgotten.insert(session);
        }
        self.node.hang_up(world, connection, false);
    }

    fn disconnect(&mut self, world: &mut Surroundings) {
        if let Phase::Up(up) = std::mem::replace(&mut self.phase, Phase::Down)
            && let Some(meter) = up.meter
        {
            self.broken = Some(BrokenSession {
                session: up.machine.agreement().session,
                counted: meter.reading(),
                reported_up: up.machine.reported_up(),
            });
        }
        self.late.clear();
        self.retry_later(world);
    }

    /// A connection is gone.
    pub fn lost(&mut self, world: &mut Surroundings, connection: u64) {
        self.node.roads.remove(&connection);
        if self.connection() == Some(connection) {
            world.coverage.met("connection lost");
            world.say(|| format!("{} has lost its connection", self.node.name));
            self.disconnect(world);
        }
    }

    // --- listening ---

    /// Takes a frame.
    pub fn take(&mut self, world: &mut Surroundings, connection: u64, frame: Frame) {
        if self.connection() != Some(connection) {
            return;
        }
        match frame {
            Frame::Control(bytes) => match Message::from_frame(&bytes) {
                Ok(Some(message)) => self.hear(world, connection, message),
                Ok(None) => {}
                Err(error) => {
                    world.coverage.met("malformed frame");
                    self.fail(world, connection, &error.into());
                }
            },
            Frame::Data { stream, bytes, genuine } => self.arrive(world, stream, bytes, genuine),
            Frame::Fin { stream, total } => {
                if let Phase::Up(up) = &mut self.phase
                    && let Some(stream) = up.streams.get_mut(&stream)
                {
                    stream.total = Some(total);
                }
                self.go_on(world);
            }
            Frame::Open { .. } => {}
        }
    }

    fn hear(&mut self, world: &mut Surroundings, connection: u64, message: Message) {
        match (&mut self.phase, message) {
            (Phase::Asking { .. }, Message::Offer(offer)) => self.accept(world, &offer),
            (Phase::Asking { .. }, _) => {
                self.node.hang_up(world, connection, false);
                self.disconnect(world);
            }
            (Phase::Up(up), message) => {
                // While accepting, a refusal says what not to try again.
                if up.meter.is_none()
                    && let Message::Refused(refused) = &message
                {
                    let (session, channel) =
                        (up.machine.agreement().session, up.machine.agreement().channel());
                    let has_paid = up.has_paid;
                    match refused.code {
                        RefusalCode::ChannelUnusable if !has_paid => {}
                        RefusalCode::ChannelUnusable | RefusalCode::LossAllowanceUsed => {
                            self.avoid.insert(channel);
                        }
                        _ => {}
                    }
                    let (code, reason) = (refused.code, refused.reason.clone());
                    let error = ProtocolError::Refused { code, reason };
                    if gives_up_session(&error) {
                        self.broken = None;
                        self.forgotten.insert(session);
                    }
                    if !may_retry(&error.into()) {
                        self.gave_up.get_or_insert_with(|| refused.reason.clone());
                    }
                    world.say(|| format!("{} is refused: {}", self.node.name, refused.reason));
                    self.phase = Phase::Down;
                    self.retry_later(world);
                    return self.node.hang_up(world, connection, false);
                }
                let now = self.node.clock(world);
                let mut result = Ok(());
                if let Some(meter) = &up.meter {
                    result = up.machine.handle_reading(meter.reading(), now);
                }
                let result = result.and_then(|()| up.machine.handle_message(message, now));
                match result {
                    Ok(()) => self.drain(world),
                    Err(error) => self.fail(world, connection, &error),
                }
                self.go_on(world);
            }
            (Phase::Down, _) => {}
        }
    }

    fn arrive(&mut self, world: &mut Surroundings, stream: u64, bytes: u64, genuine: bool) {
        let Phase::Up(up) = &mut self.phase else { return };
        let (Some(meter), Some(open)) = (&up.meter, up.streams.get_mut(&stream)) else {
            world.coverage.met("payload on no stream of ours");
            return;
        };
        let counted = meter.admit(Direction::Down, bytes as usize) as u64;
        assert_eq!(counted, bytes, "a consumer counts whatever has arrived");
        open.got += bytes;
        up.got += bytes;
        let session = up.machine.agreement().session;
        world.ledger.session(session).arrived_down += bytes;
        self.check_meters(world);
        let Phase::Up(up) = &mut self.phase else { return };
        let Some(meter) = &up.meter else { return };
        let look = total(meter.reading()) >= up.machine.poll_mark().get();
        if look {
            self.read(world);
        }
        if !genuine && !self.wants_close {
            world.coverage.met("rubbish noticed");
            self.wants_close = true; // the application cannot use it: enough of this provider
        }
        if self.vice == Some(ConsumerVice::BreaksOff)
            && let Phase::Up(up) = &self.phase
            && up.got > self.chunk * 5
        {
            world.coverage.met("broke off on purpose");
            let (connection, session) = (up.connection, up.machine.agreement().session);
            // And comes back for more, now to go on, now as if nothing had been.
            self.ask_again();
            if self.node.rng.bool() {
                self.forgotten.insert(session);
            }
            self.node.hang_up(world, connection, false);
            self.disconnect(world);
            return;
        }
        if self.vice == Some(ConsumerVice::NeverPays)
            && let Phase::Up(up) = &self.phase
            && up.got > self.chunk * 5
            && !self.wants_close
        {
            self.wants_close = true;
            self.ask_again();
        }
        self.go_on(world);
    }

    fn read(&mut self, world: &mut Surroundings) {
        let now = self.node.clock(world);
        let Phase::Up(up) = &mut self.phase else { return };
        let Some(meter) = &up.meter else { return };
        let connection = up.connection;
        match up.machine.handle_reading(meter.reading(), now) {
            Ok(()) => self.drain(world),
            Err(error) => self.fail(world, connection, &error),
        }
    }

    // --- acting ---

    fn drain(&mut self, world: &mut Surroundings) {
        loop {
            let Phase::Up(up) = &mut self.phase else { return };
            let connection = up.connection;
            let Some(output) = up.machine.poll_output() else { return };
            if self.node.before_output(world) == Alive::No {
                return self.forget(world);
            }
            match output {
                Output::Persist(mut records) => {
                    if self.vice == Some(ConsumerVice::NeverPays) {
                        // Nor does it remember that it would have, and tell it when it comes back.
                        records.retain(|it| {
                            !matches!(it, Record::Payment { .. } | Record::Receipt { .. })
                        });
                    }
                    self.recording(world, &records);
                    if self.node.record(world, &records).is_err() {
                        if !self.died(world) {
                            self.together.clear();
                            self.disconnect(world);
                            self.node.hang_up(world, connection, false);
                            self.retry_at_ms = world.now_ms + 5_000; // somebody frees some space
                        }
                        return;
                    }
                    self.recorded(world, &records);
                }
                Output::Transmit(message) => self.tell(world, message),
                Output::Grant(_) => broken(Invariant::I13NothingPanics, "a payer grants"),
                Output::Event(event) => self.happen(world, event),
            }
        }
    }

    fn happen(&mut self, world: &mut Surroundings, event: Event) {
        let Phase::Up(up) = &mut self.phase else { return };
        match event {
            Event::Started { reading } => {
                world.coverage.met("payer started");
                up.meter = Some(Meter::new(reading, ByteCount::new(u64::MAX)));
                self.pause_ms = RETRY_MS.0;
                let agreement = up.machine.agreement();
                let (session, base) = (agreement.session, agreement.base);
                world.ledger.session(session).base = base;
                let promised = world.ledger.channel(up.machine.agreement().channel()).promised;
                let honest = self.vice.is_none();
                world.ensure(
                    Invariant::I3NeverPaidForMoreThanArrived,
                    base <= promised || !honest,
                    || format!("a session begins at {base}, {promised} was promised"),
                );
                self.go_on(world);
            }
            Event::Exhausted => {
                world.coverage.met("payer exhausted");
                let config = up.machine.agreement().config;
                if self.vice != Some(ConsumerVice::OpensDust) {
                    self.starved = self.topping_up; // another channel's turn
                    self.top_up(world, config);
                }
            }
            Event::PeerClosing { .. } => {
                world.coverage.met("provider asks to close");
                self.wants_close = true;
            }
            Event::Broken { stream } => {
                up.streams.remove(&stream);
            }
            Event::Ended(statement) => {
                world.coverage.met("payer ended");
                let account = world.ledger.session(statement.session);
                // Whatever came is paid and receipted, as far as the channel goes.
                let counted = ByteCount::new(total(statement.counted));
                let owed = statement.price.owed(counted);
                let covered = owed.and_then(|owed| account.base.checked_add(owed));
                let covered = covered.is_some_and(|owed| owed <= account.reserved);
                let settled = statement.receipted.down == statement.counted.down;
                let honest = self.vice.is_none();
                account.statements[0] = Some(statement.clone());
                world.ensure(Invariant::I8StatementsAgree, settled || !covered || !honest, || {
                    format!("a session ended with something unpaid: {statement:?}")
                });
                up.closed = true;
                self.broken = None;
            }
            _ => {}
        }
    }

    fn tell(&mut self, world: &mut Surroundings, message: Message) {
        let Some(connection) = self.connection() else { return };
        if let Message::Payment { payment, .. } = &message {
            let channel = world.ledger.channel(payment.voucher.body.channel);
            let before = channel.promised;
            let paid = channel.paid_bytes.get(&payment.session).copied().unwrap_or(0);
            let account = world.ledger.session(payment.session).clone();
            let (amount, bytes) = (payment.voucher.body.amount, total(payment.reading));
            world.say(|| {
                format!(
                    "  money promised {before} -> {amount}; bytes paid for {paid} -> {bytes}, of {} that arrived and {} sent",
                    account.arrived_down, account.sent_up
                )
            });
        }
        if self.is_honest() {
            match &message {
                Message::Payment { payment, receipt } => {
                    self.check_payment(world, payment);
                    let digest = receipt.as_ref().map(|it| it.body.digest(&network().0));
                    let key = receipt.as_ref().map(|it| (it.body.channel, 0, it.body.sequence));
                    let recorded = key.and_then(|key| world.ledger.receipts.get(&key)).copied();
                    world.ensure(
                        Invariant::I14OneReceiptForEachNumber,
                        digest == recorded || self.set_back,
                        || format!("{} sends another receipt than it recorded", self.node.name),
                    );
                }
                // What was cut off before it left is told when it comes back.
                Message::Accept { acceptance, .. } => {
                    if let Some(payment) = &acceptance.payment {
                        self.check_promise(world, payment, true);
                    }
                }
                _ => {}
            }
            return self.node.tell(world, connection, &message);
        }
        for message in self.corrupt(world, message) {
            if let Message::Payment { payment, .. } = &message {
                let account = world.ledger.channel(payment.voucher.body.channel);
                account.promised = account.promised.max(payment.voucher.body.amount);
            }
            if let Message::Accept { acceptance, .. } = &message
                && let Some(payment) = &acceptance.payment
            {
                let account = world.ledger.channel(payment.voucher.body.channel);
                account.promised = account.promised.max(payment.voucher.body.amount);
            }
            let bytes = message.to_frame()[4..].to_vec();
            self.said.push(bytes.clone());
            if self.vice == Some(ConsumerVice::Garbles) && self.node.rng.u8(0..8) == 0 {
                let mut bytes = bytes;
                let at = self.node.rng.usize(0..bytes.len());
                bytes[at] ^= 1 << self.node.rng.u8(0..8);
                world.coverage.met("garbled frame");
                self.node.tell_bytes(world, connection, bytes);
            } else {
                self.node.tell(world, connection, &message);
            }
            if self.vice == Some(ConsumerVice::Replays) && self.node.rng.bool() {
                let old = self.said[self.node.rng.usize(0..self.said.len())].clone();
                world.coverage.met("replayed");
                self.node.tell_bytes(world, connection, old);
            }
        }
    }

    /// Opens streams, sends payload, and closes where it should.
    fn go_on(&mut self, world: &mut Surroundings) {
        let now_ms = world.now_ms;
        let Phase::Up(up) = &mut self.phase else { return };
        let (connection, session) = (up.connection, up.machine.agreement().session);
        if up.meter.is_none() {
            return;
        }
        up.streams.retain(|_, stream| !stream.is_done());
        let mut frames = Vec::new();
        if !self.wants_close && up.closing_since_ms.is_none() {
            while up.streams.len() < STREAMS_MAX
                && let Some((more_up, more_down)) = self.demand.pop_front()
            {
                let stream = up.next_stream;
                up.next_stream += 4;
                up.streams.insert(stream, Stream { up_left: more_up, ..Stream::default() });
                frames.push(Frame::Open { stream, up: more_up, down: more_down });
            }
        }
        for frame in frames {
            self.node.push(world, connection, frame);
        }
        // Up, as far as the transport takes it.
        let mut sent = 0;
        while let Phase::Up(up) = &mut self.phase
            && self.node.roads.get(&connection).is_some_and(Road::has_room)
            && let Some((number, stream)) =
                up.streams.iter_mut().find(|(_, stream)| stream.up_left > 0)
            && let Some(meter) = &up.meter
        {
            let bytes = stream.up_left.min(self.chunk);
            stream.up_left -= bytes;
            meter.admit(Direction::Up, bytes as usize);
            sent += bytes;
            let frame = Frame::Data { stream: *number, bytes, genuine: true };
            self.node.push(world, connection, frame);
        }
        world.ledger.session(session).sent_up += sent;
        if sent > 0 {
            self.read(world);
        }
        let Phase::Up(up) = &mut self.phase else { return };
        if !self.wants_close || up.closed {
            return;
        }
        let since = *up.closing_since_ms.get_or_insert(now_ms);
        if up.streams.is_empty() || now_ms >= since + GRACE_MS {
            up.streams.clear();
            let now = self.node.clock(world);
            up.machine.handle_close("the consumer is done", now);
            self.drain(world);
        } else if now_ms == since {
            let running: Vec<u64> = up.streams.keys().copied().collect();
            for stream in running {
                let Phase::Up(up) = &mut self.phase else { return };
                if let Some(open) = up.streams.get_mut(&stream) {
                    open.up_left = 0;
                }
                up.machine.handle_abort(stream);
                self.drain(world);
            }
        }
    }

    /// Takes the time.
    pub fn tick(&mut self, world: &mut Surroundings) {
        if self.node.restart(world) {
            self.check_durable(world);
            self.forget(world);
        }
        if self.node.store.is_none() {
            return;
        }
        let due: Vec<_> = self.late.extract_if(.., |(at, _)| *at <= world.now_ms).collect();
        for (_, message) in due {
            if let (Some(connection), Message::Payment { payment, .. }) =
                (self.connection(), &message)
            {
                let account = world.ledger.channel(payment.voucher.body.channel);
                account.promised = account.promised.max(payment.voucher.body.amount);
                self.node.tell(world, connection, &message);
            }
        }
        self.look_at_money(world);
        let now = self.node.clock(world);
        match &mut self.phase {
            Phase::Up(up) => {
                let connection = up.connection;
                if up.closed {
                    // The last message must have arrived; then it is for us to hang up.
                    if self.node.roads.get(&connection).is_none_or(Road::is_drained) {
                        self.node.hang_up(world, connection, true);
                        self.phase = Phase::Down;
                        self.wants_close = self.left;
                        self.pause_ms = RETRY_MS.0;
                        self.retry_at_ms = world.now_ms + self.pause_ms;
                    }
                    return;
                }
                let stalled =
                    up.meter.is_none() && world.now_ms >= up.accepting_since_ms + ANSWER_MS;
                let due = up.machine.poll_timeout().is_some_and(|at| at <= now);
                if self.vice.is_none()
                    && !world.skews
                    && let Some(since) = up.closing_since_ms
                {
                    let late = world.now_ms > since + GRACE_MS + 3 * ANSWER_MS_MAX;
                    world.ensure(Invariant::I10EverySessionEnds, !late, || {
                        format!("{} has been closing since {since}", self.node.name)
                    });
                }
                if stalled {
                    self.node.hang_up(world, connection, false);
                    return self.disconnect(world);
                }
                // Whoever never settles does not mind that nobody answers either.
                if due && self.vice != Some(ConsumerVice::NeverSettles) {
                    let reading = up.meter.as_ref().map(Meter::reading);
                    let result = reading
                        .map_or(Ok(()), |reading: Reading| up.machine.handle_reading(reading, now))
                        .and_then(|()| up.machine.handle_timeout(now));
                    match result {
                        Ok(()) => self.drain(world),
                        Err(error) => self.fail(world, connection, &error),
                    }
                }
                self.go_on(world);
            }
            Phase::Asking { connection, since_ms, .. } => {
                let connection = *connection;
                if world.now_ms >= *since_ms + ANSWER_MS {
                    self.node.hang_up(world, connection, false);
                    self.disconnect(world);
                }
            }
            Phase::Down => {
                if self.wants_to_connect() && world.now_ms >= self.retry_at_ms {
                    self.connect(world);
                }
            }
        }
    }

    fn wants_to_connect(&self) -> bool {
        let tries = self.gave_up.is_none() || !self.is_honest();
        let waits_for_money = self.opening && !self.node.purse.is_idle();
        tries
            && !waits_for_money
            && matches!(self.phase, Phase::Down)
            && ((!self.demand.is_empty() && !self.left) || self.has_unfinished_session())
    }

    /// What became of deposits, openings and top-ups.
    fn look_at_money(&mut self, world: &mut Surroundings) {
        if !(self.opening || self.topping_up) || !self.node.purse.is_idle() {
            return;
        }
        (self.opening, self.topping_up) = (false, false);
        let now = self.node.clock(world);
        let Phase::Up(up) = &mut self.phase else { return };
        let id = up.machine.agreement().channel();
        if let Ok(Some(facts)) = world.chain.ask(self.node.purse.asks).channel(id) {
            let connection = up.connection;
            let known = &mut world.ledger.session(up.machine.agreement().session).reserved;
            *known = facts.reserved.max(*known);
            let config = up.machine.agreement().config;
            match up.machine.handle_top_up(facts.reserved, now) {
                Ok(()) => self.drain(world),
                Err(error) => self.fail(world, connection, &error),
            }
            if std::mem::take(&mut self.starved) {
                self.top_up(world, config);
            }
        }
    }

    /// When [`Consumer::tick`] wants to be called next.
    pub fn wake_ms(&self, world: &Surroundings) -> u64 {
        if self.node.store.is_none() {
            return self.node.restart_ms.unwrap_or(u64::MAX);
        }
        let now = self.node.clock(world);
        let late = self.late.iter().map(|(at, _)| *at).min().unwrap_or(u64::MAX);
        late.min(match &self.phase {
            Phase::Down => {
                if self.wants_to_connect() {
                    self.retry_at_ms
                } else {
                    u64::MAX
                }
            }
            Phase::Asking { since_ms, .. } => since_ms + ANSWER_MS,
            Phase::Up(up) => {
                let minds = self.vice != Some(ConsumerVice::NeverSettles);
                let machine = up.machine.poll_timeout().filter(|_| minds);
                let machine = machine.map(|at| world.now_ms + at.ms_since(now).max(1));
                let closing = up.closing_since_ms.filter(|_| !up.streams.is_empty());
                let stalled = up.meter.is_none().then_some(up.accepting_since_ms + ANSWER_MS);
                [machine, closing.map(|since| since + GRACE_MS), stalled]
                    .into_iter()
                    .flatten()
                    .min()
                    .unwrap_or(u64::MAX)
            }
        })
    }

    /// Whether no session is under way and none is to be settled.
    pub fn is_quiet(&self) -> bool {
        matches!(self.phase, Phase::Down) && !self.wants_to_connect()
    }

    /// Whether it has everything that it asked for.
    pub fn is_served(&self) -> bool {
        self.demand.is_empty()
            && match &self.phase {
                Phase::Up(up) => up.streams.values().all(Stream::is_done),
                _ => true,
            }
    }

    /// Connections that are over.
    pub fn over(&self) -> Vec<u64> {
        let over = |(_, road): &(&u64, &Road)| matches!(road.state, RoadState::Over { .. });
        self.node.roads.iter().filter(over).map(|(connection, _)| *connection).collect()
    }
}
