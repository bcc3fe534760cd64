//! A provider: the real machine, store and admission; the shell around them as the node's, without
//! its tasks. And what dishonest ones do instead.

mod check;

use std::{collections::BTreeMap, sync::Arc};

use sparewire_core::{
    Amount, B256, ByteCount, ChannelId, DeviceSigner, DeviceStatement, NodeId, Price, Signer,
    Verified,
};
use sparewire_node::{
    seller::{Applicant, admit, terms_of},
    store::{KnownChannel, Store},
};
use sparewire_protocol::{
    ANSWER_MS_MAX, Action, ChannelStatus, Claim, CountingRule, CreditRule, Direction, Event,
    Message, Meter, Offer, Output, Payee, ProtocolError, Reading, RefusalCode, Refused, Role,
    Service, Terms, Voucher, settlement::Intent, short_reason,
};

use crate::{
    cast::{PARTIES, identity, network},
    ledger::Invariant,
    node::{Alive, Node, Surroundings},
    road::{Frame, RoadState},
    vice::ProviderVice,
};

/// How often the chain is asked about channels in use, and about channels being left.
const LOOK_MS: u64 = 30_000;
/// Streams of one session at a time.
const STREAMS_MAX: usize = 16;

/// A provider.
pub struct Provider {
    /// Its body.
    pub node: Node,
    /// What is wrong with it.
    pub vice: Option<ProviderVice>,
    /// What it asks, in the token's smallest unit for a GiB.
    pub price: Price,
    /// How far it trusts.
    pub credit: CreditRule,
    /// Bytes in a packet.
    pub chunk: u64,
    /// How long its terms are good for, in milliseconds.
    pub terms_ms: u64,
    /// Which parties are honest: what it may accuse of.
    pub honest: Vec<bool>,
    seats: BTreeMap<u64, Seat>,
    look_ms: u64,
    /// Nothing is served, and everybody is asked to settle.
    pub shutting_down: bool,
    wanted: BTreeMap<ChannelId, Amount>,
    claims: Vec<Claim>,
    paid_once: bool,
    collusions: u8,
    over_served: u64,
}

enum Seat {
    Greeting(Option<Box<Terms>>),
    Live(Box<Live>),
    Done,
}

struct Live {
    machine: Payee,
    meter: Meter,
    channel: ChannelId,
    peer: NodeId,
    streams: BTreeMap<u64, Stream>,
    /// What is durably paid.
    paid: Reading,
    /// What may pass.
    limit: ByteCount,
    /// When its end was first asked for, by either side.
    closing_since_ms: Option<u64>,
}

#[derive(Default)]
struct Stream {
    down_left: u64,
    down_sent: u64,
    up_waiting: u64,
    finished: bool,
    paused: bool,
}

pub(crate) fn total(reading: Reading) -> u64 {
    reading.checked_total().map_or(u64::MAX, ByteCount::get)
}

impl Provider {
    /// One that runs.
    pub fn new(node: Node, vice: Option<ProviderVice>, price: Price, credit: CreditRule) -> Self {
        Self {
            node,
            vice,
            price,
            credit,
            chunk: (credit.initial.get() / 6).max(64),
            terms_ms: 3_600_000 * 24,
            honest: vec![true; PARTIES],
            seats: BTreeMap::new(),
            look_ms: 0,
            shutting_down: false,
            wanted: BTreeMap::new(),
            claims: Vec::new(),
            paid_once: false,
            collusions: 0,
            over_served: 0,
        }
    }

    fn terms(&self, world: &Surroundings) -> Terms {
        let (domain, token) = network();
        let issued = self.node.clock(world);
        Terms {
            provider: self.node.identity.node_id(),
            service: Service::ExitTcp,
            counting: CountingRule::StreamPayload,
            price: self.price,
            credit: self.credit,
            domain,
            token,
            payee: self.node.identity.address(),
            payee_authorizer: self.node.identity.authorizer.address(),
            withdraw_delay_secs_min: 900,
            channel_min: Amount::ZERO,
            issued,
            expires: issued.plus_ms(self.terms_ms),
        }
    }

    /// The process is gone.
    pub fn forget(&mut self, world: &mut Surroundings) {
        for seat in self.seats.values() {
            if let Seat::Live(live) = seat {
                world.ledger.channel(live.channel).crashes += 1;
            }
        }
        self.seats.clear();
        self.wanted.clear();
        self.shutting_down = false;
    }

    fn died(&mut self, world: &mut Surroundings) -> bool {
        if self.node.store.is_none() {
            self.forget(world);
            return true;
        }
        false
    }

    /// A connection is there.
    pub fn welcome(&mut self, connection: u64) {
        self.seats.entry(connection).or_insert(Seat::Greeting(None));
    }

    /// A connection is gone.
    pub fn lost(&mut self, world: &mut Surroundings, connection: u64) {
        self.leave(world, connection);
        self.node.roads.remove(&connection);
        self.seats.remove(&connection);
    }

    /// Who is at the other end of a connection: whoever dialed has its number in it.
    fn peer(connection: u64) -> usize {
        (connection % 16) as usize
    }

    /// Takes a frame.
    pub fn take(&mut self, world: &mut Surroundings, connection: u64, frame: Frame) {
        match frame {
            Frame::Control(bytes) => match Message::from_frame(&bytes) {
                Ok(Some(message)) => self.hear(world, connection, message),
                Ok(None) => {}
                Err(error) => {
                    world.coverage.met("malformed frame");
                    self.give_up(world, connection, &error.into());
                }
            },
            Frame::Open { stream, down, .. } => {
                if let Some(Seat::Live(live)) = self.seats.get_mut(&connection)
                    && live.streams.values().filter(|it| !it.finished).count() < STREAMS_MAX
                {
                    live.streams
                        .entry(stream)
                        .or_insert(Stream { down_left: down, ..Stream::default() });
                }
                self.pump(world, connection);
            }
            Frame::Data { stream, bytes, .. } => {
                if let Some(Seat::Live(live)) = self.seats.get_mut(&connection)
                    && let Some(stream) = live.streams.get_mut(&stream)
                {
                    stream.up_waiting += bytes;
                }
                self.pump(world, connection);
            }
            Frame::Fin { .. } => {}
        }
    }

    fn hear(&mut self, world: &mut Surroundings, connection: u64, message: Message) {
        match self.seats.get_mut(&connection) {
            Some(Seat::Greeting(_)) => self.greet(world, connection, message),
            Some(Seat::Live(_)) => {
                self.read(world, connection);
                let now = self.node.clock(world);
                let Some(Seat::Live(live)) = self.seats.get_mut(&connection) else { return };
                self.paid_once |= matches!(message, Message::Payment { .. });
                match live.machine.handle_message(message, now) {
                    Ok(()) => self.drain(world, connection),
                    // It is paid for more than its machine knows to have served.
                    Err(_) if self.vice == Some(ProviderVice::OverServes) => {}
                    Err(error) => self.give_up(world, connection, &error),
                }
                self.pump(world, connection);
            }
            Some(Seat::Done) | None => {}
        }
    }

    fn greet(&mut self, world: &mut Surroundings, connection: u64, message: Message) {
        let peer = identity(Self::peer(connection)).node_id();
        let now = self.node.clock(world);
        match message {
            Message::Hello { resume, .. } => {
                let known = resume.and_then(|session| {
                    self.node.recall(|store| terms_of(store, session, peer, now)).flatten()
                });
                let terms = known.unwrap_or_else(|| self.terms(world));
                let signature = self.node.identity.device.sign_bytes(&terms.signing_bytes());
                let delegation = self.node.identity.delegation;
                self.seats.insert(connection, Seat::Greeting(Some(Box::new(terms))));
                let offer = Message::Offer(Box::new(Offer { terms, delegation, signature }));
                self.tell(world, connection, offer);
            }
            Message::Accept { acceptance, signature } => {
                let Some(Seat::Greeting(Some(terms))) = self.seats.get(&connection) else {
                    return self.refuse(world, connection, RefusalCode::Invalid, "no terms yet");
                };
                let terms = **terms;
                if let Err(error) = acceptance.verify(&signature, peer, &terms, now) {
                    let (code, reason) = (error.refusal_code(), error.to_string());
                    return self.refuse(world, connection, code, &reason);
                }
                let channel = acceptance.channel.id(&terms.domain);
                if self.shutting_down {
                    return self.refuse(world, connection, RefusalCode::GoingAway, "shutting down");
                }
                // The same device comes back before its old connection is seen to be broken.
                let old = self.seats.iter().find_map(|(old, seat)| match seat {
                    Seat::Live(live) if live.channel == channel => Some((*old, live.peer)),
                    _ => None,
                });
                if let Some((old, other)) = old {
                    if other != peer {
                        return self.refuse(world, connection, RefusalCode::Busy, "in use");
                    }
                    world.coverage.met("takeover");
                    self.leave(world, old);
                    self.node.hang_up(world, old, false);
                    if self.died(world) {
                        return;
                    }
                }
                let facts = world.chain.ask(self.node.purse.asks).channel(channel);
                let Ok(facts) = facts else {
                    let code = RefusalCode::ChainUnavailable;
                    return self.refuse(world, connection, code, "the chain does not answer");
                };
                let Some(store) = &self.node.store else { return };
                let signer: Arc<dyn Signer> = self.node.identity.authorizer.clone();
                let session = acceptance.session;
                let applicant = Applicant { terms, peer, acceptance: *acceptance, signature };
                match admit(store, facts, applicant, signer, now) {
                    Ok(machine) => {
                        let over = world.ledger.session(session).statements[1].is_some();
                        world.ensure(Invariant::I8StatementsAgree, !over, || {
                            format!("{} takes up a session that it has ended", self.node.name)
                        });
                        let start = machine.statement(now).counted;
                        let meter = Meter::new(start, ByteCount::ZERO);
                        let memory = store.memory(channel, Some(session)).ok();
                        let paid = memory
                            .and_then(|m| m.session)
                            .map_or(Reading::ZERO, |known| known.paid);
                        let streams = BTreeMap::new();
                        let (limit, closing_since_ms) = (ByteCount::ZERO, None);
                        let live = Live {
                            machine,
                            meter,
                            channel,
                            peer,
                            streams,
                            paid,
                            limit,
                            closing_since_ms,
                        };
                        self.seats.insert(connection, Seat::Live(Box::new(live)));
                        self.drain(world, connection);
                    }
                    Err((error, code)) => {
                        if let sparewire_node::session::SessionError::Protocol(violation) = &error {
                            self.accuse(world, connection, violation);
                        }
                        self.refuse(world, connection, code, &error.to_string());
                    }
                }
            }
            _ => self.node.hang_up(world, connection, false),
        }
    }

    fn accuse(&mut self, world: &mut Surroundings, connection: u64, error: &ProtocolError) {
        if error.action() == Action::Dispute {
            let peer = Self::peer(connection);
            world.coverage.met("conviction");
            let innocent = self.vice.is_none() && self.honest[peer];
            world.ensure(Invariant::I12HonestPartiesDoNotAccuse, !innocent, || {
                format!("{} accuses an honest consumer: {error}", self.node.name)
            });
        }
    }

    fn refuse(&mut self, world: &mut Surroundings, connection: u64, code: RefusalCode, why: &str) {
        let refused = Message::Refused(Refused { code, reason: short_reason(why) });
        self.tell(world, connection, refused);
        self.seats.insert(connection, Seat::Done);
    }

    /// The consumer broke the protocol.
    fn give_up(&mut self, world: &mut Surroundings, connection: u64, error: &ProtocolError) {
        world.say(|| format!("{} gives up: {error}", self.node.name));
        self.accuse(world, connection, error);
        self.leave(world, connection);
        if !self.died(world) {
            self.refuse(world, connection, error.refusal_code(), &error.to_string());
        }
    }

    /// Takes leave of a session whose connection is gone: what was carried is remembered.
    fn leave(&mut self, world: &mut Surroundings, connection: u64) {
        let Some(Seat::Live(mut live)) = self.seats.insert(connection, Seat::Done) else { return };
        live.machine.handle_disconnect(live.meter.reading(), self.node.clock(world));
        while let Some(output) = live.machine.poll_output() {
            if self.node.before_output(world) == Alive::No {
                world.ledger.channel(live.channel).crashes += 1;
                break;
            }
            if let Output::Persist(records) = output
                && self.node.record(world, &records).is_err()
            {
                // As after a crash: what was carried is not remembered.
                world.ledger.channel(live.channel).crashes += 1;
            }
        }
        self.died(world);
    }

    fn tell(&mut self, world: &mut Surroundings, connection: u64, mut message: Message) {
        use ProviderVice as Vice;
        match (self.vice, &mut message) {
            (Some(Vice::WithholdsCountersignatures), Message::Countersignature { .. }) => {
                return world.coverage.met("withheld a countersignature");
            }
            (Some(Vice::FallsMute), _) if self.paid_once => {
                return world.coverage.met("fell mute");
            }
            (Some(Vice::OverReports), Message::Report { reading, .. }) => {
                reading.up = ByteCount::new(reading.up.get() + 10_000);
                world.coverage.met("over-reported");
            }
            (Some(Vice::Overstates), Message::Accepted(accepted)) => {
                accepted.reading.down = ByteCount::new(accepted.reading.down.get() + 5_000);
                world.coverage.met("overstated");
            }
            (Some(Vice::UnderstatesBase), Message::Accepted(accepted)) => {
                let (less, more) =
                    (accepted.base.get().saturating_sub(1), accepted.base.get() + 999);
                let base = if self.node.rng.bool() { less } else { more };
                accepted.base = Amount::new(base).unwrap_or_default();
                accepted.payment = None;
                world.coverage.met("misstates the base");
            }
            (Some(Vice::EquivocatesInReceipts), Message::Countersignature { signature, .. }) => {
                let other = B256::repeat_byte(7);
                world.coverage.met("countersigned something else");
                *signature =
                    self.node.identity.authorizer.sign_digest(other).expect("its key signs");
            }
            (Some(Vice::Garbles), message) if self.node.rng.u8(0..8) == 0 => {
                let mut bytes = message.to_frame()[4..].to_vec();
                let at = self.node.rng.usize(0..bytes.len());
                bytes[at] ^= 1 << self.node.rng.u8(0..8);
                world.coverage.met("garbled frame");
                return self.node.tell_bytes(world, connection, bytes);
            }
            _ => {}
        }
        self.node.tell(world, connection, &message);
    }

    /// Hands the meter's reading in.
    fn read(&mut self, world: &mut Surroundings, connection: u64) {
        let now = self.node.clock(world);
        if let Some(Seat::Live(live)) = self.seats.get_mut(&connection) {
            live.machine.handle_reading(live.meter.reading(), now);
            self.drain(world, connection);
        }
    }

    /// Carries out what the machine wants, in its order.
    fn drain(&mut self, world: &mut Surroundings, connection: u64) {
        loop {
            let Some(Seat::Live(live)) = self.seats.get_mut(&connection) else { return };
            let Some(output) = live.machine.poll_output() else {
                return self.check_credit(world, connection);
            };
            if self.node.before_output(world) == Alive::No {
                self.forget(world);
                return;
            }
            match output {
                Output::Persist(records) => {
                    self.recording(world, connection, &records);
                    if self.node.record(world, &records).is_err() {
                        if !self.died(world) {
                            self.leave(world, connection);
                            self.node.hang_up(world, connection, false);
                        }
                        return;
                    }
                    self.recorded(world, connection, &records);
                }
                Output::Transmit(message) => {
                    let channel = live.channel;
                    self.check_recorded(world, channel, &message);
                    self.tell(world, connection, message);
                }
                Output::Grant(limit) => {
                    live.meter.set_limit(limit);
                    live.limit = limit;
                    self.check_grant(world, connection, limit);
                }
                Output::Event(event) => match event {
                    Event::Funded => self.look_ms = world.now_ms,
                    Event::Abort { stream } => {
                        if let Some(stream) = live.streams.get_mut(&stream) {
                            (stream.down_left, stream.paused) = (0, false);
                        }
                    }
                    Event::Flow { stream, paused } => {
                        if let Some(stream) = live.streams.get_mut(&stream) {
                            stream.paused = paused;
                        }
                    }
                    Event::PeerClosing { .. } => {
                        live.closing_since_ms.get_or_insert(world.now_ms);
                    }
                    Event::Ended(statement) => {
                        world.coverage.met("payee ended");
                        self.check_ended(world, connection, &statement);
                        let session = statement.session;
                        world.ledger.session(session).statements[1] = Some(statement);
                        self.seats.insert(connection, Seat::Done);
                    }
                    Event::Exhausted => world.coverage.met("payee exhausted"),
                    _ => {}
                },
            }
        }
    }

    /// Moves payload as far as the valve and the connection let it.
    fn pump(&mut self, world: &mut Surroundings, connection: u64) {
        for _ in 0..64 {
            let silent = self.vice == Some(ProviderVice::DropsSilently) && self.paid_once;
            let genuine = self.vice != Some(ProviderVice::ServesRubbish);
            let Some(Seat::Live(live)) = self.seats.get_mut(&connection) else { return };
            let mut room = self.node.roads.get(&connection).is_some_and(|road| road.has_room());
            let mut frames = Vec::new();
            let mut served = [0, 0];
            for (number, stream) in &mut live.streams {
                let up = live.meter.admit(Direction::Up, stream.up_waiting as usize) as u64;
                stream.up_waiting -= up;
                served[0] += up;
                if silent {
                    world.coverage.met("dropped silently");
                    continue;
                }
                if stream.down_left > 0 && !stream.paused && room {
                    let want = stream.down_left.min(self.chunk);
                    let bytes = live.meter.admit(Direction::Down, want as usize) as u64;
                    if bytes > 0 {
                        stream.down_left -= bytes;
                        stream.down_sent += bytes;
                        served[1] += bytes;
                        frames.push(Frame::Data { stream: *number, bytes, genuine });
                        room = false; // one packet at a time, each stream in its turn
                    }
                }
                if stream.down_left == 0 && !stream.finished {
                    stream.finished = true;
                    frames.push(Frame::Fin { stream: *number, total: stream.down_sent });
                }
            }
            let (channel, moved) = (live.channel, !frames.is_empty());
            let frames_of = live.streams.iter().find(|(_, it)| !it.finished).map(|(it, _)| *it);
            let look = live.meter.is_closed()
                || total(live.meter.reading()) >= live.machine.poll_mark().get();
            world.ledger.channel(channel).served += served[0] + served[1];
            let account = world.ledger.session(live.machine.agreement().session);
            account.metered = Some((connection, live.meter.reading()));
            account.sold = Some((channel, live.machine.agreement().terms.price));
            for (carried, more) in account.carried.iter_mut().zip(served) {
                *carried += more;
            }
            let (carried, sent) = (account.carried[0], account.sent_up);
            world.ensure(Invariant::I8StatementsAgree, carried <= sent, || {
                format!("{carried} bytes up carried by {}, {sent} were sent", self.node.name)
            });
            for frame in frames {
                self.node.push(world, connection, frame);
            }
            let over_serves = self.vice == Some(ProviderVice::OverServes);
            let open = frames_of.filter(|_| over_serves && self.over_served < 600);
            for stream in std::iter::repeat_n(open, 60).flatten() {
                self.over_served += 1;
                world.coverage.met("over-served");
                let bytes = self.chunk;
                self.node.push(world, connection, Frame::Data { stream, bytes, genuine: true });
            }
            if self.vice == Some(ProviderVice::Floods) && moved {
                world.coverage.met("flooded");
                let flood = Frame::Data { stream: 9_999, bytes: self.chunk, genuine: false };
                self.node.push(world, connection, flood);
            }
            if look {
                self.read(world, connection);
            }
            self.check_exposure(world, connection);
            if !moved {
                return;
            }
        }
    }

    /// Takes the time.
    pub fn tick(&mut self, world: &mut Surroundings) {
        if self.node.restart(world) {
            self.look_ms = world.now_ms;
            self.hand_over(world);
        }
        if self.node.store.is_none() {
            return;
        }
        for connection in self.seats.keys().copied().collect::<Vec<_>>() {
            let now = self.node.clock(world);
            let Some(Seat::Live(live)) = self.seats.get_mut(&connection) else { continue };
            if live.machine.poll_timeout().is_some_and(|at| at <= now) {
                live.machine.handle_reading(live.meter.reading(), now);
                match live.machine.handle_timeout(now) {
                    Ok(()) => self.drain(world, connection),
                    Err(error) => self.give_up(world, connection, &error),
                }
            }
            if !world.skews
                && let Some(Seat::Live(live)) = self.seats.get(&connection)
            {
                let since = live.closing_since_ms.unwrap_or(world.now_ms);
                let late = world.now_ms > since + 2 * ANSWER_MS_MAX + 5_000;
                world.ensure(Invariant::I10EverySessionEnds, !late, || {
                    format!("{} has been closing since {since}", self.node.name)
                });
            }
            if self.shutting_down
                && let Some(Seat::Live(live)) = self.seats.get_mut(&connection)
            {
                live.closing_since_ms.get_or_insert(world.now_ms);
                live.machine.handle_reading(live.meter.reading(), now);
                live.machine.handle_close("the provider is shutting down", now);
                self.drain(world, connection);
            }
            if self.died(world) {
                return;
            }
        }
        if world.now_ms >= self.look_ms {
            self.look_ms = world.now_ms + LOOK_MS;
            self.look(world);
        }
        for connection in self.seats.keys().copied().collect::<Vec<_>>() {
            self.pump(world, connection);
        }
    }

    fn look(&mut self, world: &mut Surroundings) {
        for connection in self.seats.keys().copied().collect::<Vec<_>>() {
            let Some(Seat::Live(live)) = self.seats.get_mut(&connection) else { continue };
            let facts = world.chain.ask(self.node.purse.asks).channel(live.channel);
            if let Ok(Some(facts)) = facts {
                live.machine.handle_reading(live.meter.reading(), self.node.clock(world));
                live.machine.handle_chain_event(facts);
                self.drain(world, connection);
                if let Some(Seat::Live(live)) = self.seats.get(&connection) {
                    let shut = facts.status == ChannelStatus::Open || live.meter.is_closed();
                    world.ensure(Invariant::I4ExposureWithinCredit, shut, || {
                        format!("{} serves on a channel that is being left", self.node.name)
                    });
                }
            }
        }
        self.settle(world, false);
        if self.vice == Some(ProviderVice::Colludes) && self.collusions < 2 && !world.healed {
            self.collude(world);
        }
        if self.vice == Some(ProviderVice::ClaimsAgain) && self.node.purse.is_idle() {
            let claims: Vec<_> = self.claims.iter().rev().take(3).copied().collect();
            if !claims.is_empty() {
                world.coverage.met("claimed again");
                self.node.purse.want(Intent::Claim { claims });
            }
        }
    }

    /// With the key of a consumer that gave it away, claims all that this one put aside, and tries
    /// the same with others' money.
    fn collude(&mut self, world: &mut Surroundings) {
        let Some(partner) = (1..PARTIES).find(|party| world.partners.contains(party)) else {
            return;
        };
        let key = identity(partner).authorizer.clone();
        let Some(channels) = self.node.recall(|store| store.channels(Role::Payee)) else { return };
        let claims = channels.iter().filter_map(|channel| {
            let account = world.ledger.channel(channel.id);
            let amount = Amount::new(account.reserved)?;
            if channel.config.payer_authorizer == key.address() {
                account.promised = account.promised.max(amount);
                account.stolen = true;
            }
            let voucher = Voucher { channel: channel.id, amount };
            let signature = Verified::sign(voucher, &network().0, &*key).ok()?.signed().signature;
            Some(Claim { config: channel.config, amount, signature })
        });
        // One by one: a refused one takes those with it that are claimed together.
        let claims: Vec<_> = claims.collect();
        self.collusions += u8::from(!claims.is_empty());
        for claim in claims {
            let own = claim.config.payer_authorizer == key.address();
            world.coverage.met(if own {
                "all claimed with a partner's key"
            } else {
                "claimed from another with a partner's key"
            });
            self.node.purse.want(Intent::Claim { claims: vec![claim] });
        }
    }

    /// Claims what is worth it: everything, or only where the payer is leaving.
    pub fn settle(&mut self, world: &mut Surroundings, all: bool) {
        let Some(channels) = self.node.recall(|store| store.channels(Role::Payee)) else { return };
        let mut claims = Vec::new();
        for channel in channels {
            let Some(claim) = channel.claim() else { continue };
            let facts = world.chain.ask(self.node.purse.asks).channel(channel.id);
            let Ok(Some(facts)) = facts else { continue };
            let due = match facts.status {
                ChannelStatus::Open => all,
                ChannelStatus::Closing { .. } => {
                    world.coverage.met("a payer leaves");
                    true
                }
                ChannelStatus::Closed => false,
            };
            let asked = self.wanted.get(&channel.id).copied().unwrap_or_default();
            let again = self.node.purse.is_idle() && asked == claim.amount;
            if due && claim.amount > facts.claimed && (asked < claim.amount || again) {
                self.wanted.insert(channel.id, claim.amount);
                claims.push(claim);
            }
        }
        if !claims.is_empty() {
            world.say(|| format!("{} claims over {} channels", self.node.name, claims.len()));
            world.coverage.met("claim");
            self.node.purse.want(Intent::Claim { claims });
        }
    }

    /// Hands its watcher, if it has one, the newest voucher of every channel.
    pub fn hand_over(&self, world: &mut Surroundings) {
        if let Some(vouchers) = &mut world.vouchers
            && self.vice.is_none()
        {
            let channels = self.node.recall(|store| store.channels(Role::Payee));
            vouchers.extend(channels.iter().flatten().filter_map(KnownChannel::claim));
        }
    }

    /// When [`Provider::tick`] wants to be called next.
    pub fn wake_ms(&self, world: &Surroundings) -> u64 {
        if self.node.store.is_none() {
            return self.node.restart_ms.unwrap_or(u64::MAX);
        }
        let now = self.node.clock(world);
        let machines = self.seats.values().filter_map(|seat| match seat {
            Seat::Live(live) => live.machine.poll_timeout(),
            _ => None,
        });
        let machine = machines.map(|at| world.now_ms + at.ms_since(now).max(1)).min();
        let idle = self.seats.is_empty() && world.healed;
        machine.unwrap_or(u64::MAX).min(if idle { u64::MAX } else { self.look_ms })
    }

    /// Whether no session is under way.
    pub fn is_quiet(&self) -> bool {
        !self.seats.values().any(|seat| matches!(seat, Seat::Live(_)))
    }

    /// Connections that are over.
    pub fn over(&self) -> Vec<u64> {
        let over =
            |(_, road): &(&u64, &crate::road::Road)| matches!(road.state, RoadState::Over { .. });
        self.node.roads.iter().filter(over).map(|(connection, _)| *connection).collect()
    }
}

/// How long whoever shuts down waits for others to settle, in milliseconds.
pub const SETTLE_MS: u64 = ANSWER_MS_MAX + 5_000;
