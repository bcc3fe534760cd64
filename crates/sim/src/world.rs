//! A history as it happens: nodes, network, chain and time, one event after the other.

mod check;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use sparewire_core::Amount;
use sparewire_protocol::{ChannelFacts, ChannelStatus, Claim, settlement::Intent};

use crate::{
    cast::{EPOCH_MS, PARTIES, identity, network},
    chain::{Asks, Endpoint, SimChain, Tag, Transaction, Weather},
    consumer::Consumer,
    ledger::Invariant,
    link::{Addr, Dependence, Flight, Nat, Network},
    node::{Node, Surroundings},
    plan::{ConsumerPlan, ENDPOINTS, LIAR, LONE, Operation, Plan},
    provider::{Provider, SETTLE_MS},
    purse::Purse,
    relay::{REGISTER_MS, Relay, RelayVice, registration},
    road::{Body, Packet, Road, RoadState},
    vice::ConsumerVice,
    watcher::{LOOK_MS, Watcher, WatcherVice},
};

const TOKENS: u128 = 1 << 80;
const WEI: u128 = 1 << 90;
/// The provider's party; consumers come after it.
const PROVIDER: usize = 0;

enum Wake {
    /// Sent by which host.
    Flight(usize, Flight, Packet),
    Node(usize),
    /// The provider tells the relay where it is.
    Register,
    /// A voucher reaches the watcher.
    Voucher(Box<Claim>),
    /// The watcher looks at the chain.
    Look,
    Block,
    Operation(usize),
}

/// A history under way.
pub struct World {
    /// What nodes act in.
    pub around: Surroundings,
    plan: Plan,
    provider: Provider,
    consumers: Vec<Consumer>,
    watcher: Option<Watcher>,
    relay: Option<Relay>,
    /// The provider's machine is lost.
    gone: bool,
    queue: BTreeMap<(u64, u64), Wake>,
    order: u64,
    scheduled: Vec<u64>,
    /// Wallet, deposit and claimable tokens of each node, as last told.
    holdings: Vec<[u128; 3]>,
    /// When disks have room again and shut down providers start again.
    ends: Vec<(u64, usize)>,
    /// How much of the chain's books was checked.
    booked: u64,
    outsider: u64,
}

impl World {
    /// The beginning.
    pub fn new(plan: Plan, trace: Option<Arc<Mutex<Vec<String>>>>) -> Self {
        let seed = plan.seed;
        let mut weather = plan.weather.clone();
        weather.genesis = sparewire_core::Timestamp::from_ms(EPOCH_MS);
        weather.endpoints.resize(ENDPOINTS.max(weather.endpoints.len()), Endpoint::default());
        let mut chain = SimChain::new(weather, seed ^ 1);
        for party in 0..PARTIES {
            chain.fund(identity(party).address(), WEI, TOKENS);
        }
        let mut net = Network::new(seed ^ 2);
        let open = Nat {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPortDependent,
            timeout_ms: 30_000,
            forwarded: true,
        };
        let nat = match plan.relay {
            Some(relay) => Some(relay.nat),
            None => plan.forwarded.then_some(open),
        };
        let host = net.join(plan.line, nat);
        let address = net.address(host);
        let mut node = Node::new(0, "provider".into(), PROVIDER, host, seed ^ 3);
        node.purse.asks = plan.asks;
        let mut provider = Provider::new(node, plan.vice, plan.price, plan.credit);
        provider.terms_ms = plan.terms_ms;
        let mut around = Surroundings::new(chain, net, trace);
        let mut consumers = Vec::new();
        let price_max = plan.price_max();
        for (index, consumer) in plan.consumers.iter().enumerate() {
            let (number, party) = (index + 1, index + 1);
            let host = around.network.join(consumer.line, consumer.nat);
            let name = format!("consumer {number}");
            let mut node = Node::new(number, name, party, host, seed ^ (4 + number as u64));
            node.purse.asks = consumer.asks;
            let place = (PROVIDER, address);
            let amount = consumer.channel_amount;
            let mut made = Consumer::new(node, party, consumer.vice, place, price_max, amount);
            made.provider_is_honest = plan.vice.is_none();
            made.lied_to = consumer.asks == LIAR;
            made.withdraw_delay_secs = plan.withdraw_delay_secs;
            made.chunk = (plan.credit.initial.get() / 6).max(64);
            provider.honest[party] = consumer.vice.is_none();
            if let Some(vice) = consumer.vice {
                around.coverage.met(vice.name());
            }
            consumers.push(made);
        }
        let colludes = |consumer: &ConsumerPlan| consumer.vice == Some(ConsumerVice::Colludes);
        let partners = plan.consumers.iter().enumerate().filter(|(_, it)| colludes(it));
        around.partners = partners.map(|(index, _)| index + 1).collect();
        around.skews = plan.skews();
        around.price_varies = plan.price_varies();
        if let Some(vice) = plan.vice {
            around.coverage.met(vice.name());
        }
        let watcher = plan.watcher.map(|watcher| Watcher::new(watcher, seed ^ 8));
        if watcher.is_some() {
            around.vouchers = Some(Vec::new());
        }
        let relay = plan.relay.map(|relay| {
            let host = around.network.join(relay.line, None);
            for consumer in &mut consumers {
                consumer.provider.1 = around.network.address(host);
            }
            Relay::new(host, relay.vice, seed ^ 9)
        });
        let actors = [
            plan.watcher.and_then(|watcher| watcher.vice).map(WatcherVice::name),
            plan.relay.and_then(|relay| relay.vice).map(RelayVice::name),
        ];
        actors.into_iter().flatten().for_each(|name| around.coverage.met(name));
        let mut world = Self {
            around,
            scheduled: vec![u64::MAX; 1 + consumers.len()],
            holdings: vec![[TOKENS, 0, 0]; 1 + consumers.len()],
            provider,
            consumers,
            watcher,
            relay,
            gone: false,
            queue: BTreeMap::new(),
            order: 0,
            ends: Vec::new(),
            booked: 0,
            outsider: 0,
            plan,
        };
        for index in 0..world.plan.operations.len() {
            let at = world.plan.operations[index].0;
            world.at(at, Wake::Operation(index));
        }
        for consumer in &mut world.consumers {
            consumer.open_channel(&mut world.around);
        }
        world.at(0, Wake::Block);
        if world.relay.is_some() {
            world.at(0, Wake::Register);
        }
        if world.watcher.is_some() {
            world.at(seed % LOOK_MS, Wake::Look);
        }
        world
    }

    fn at(&mut self, at_ms: u64, wake: Wake) {
        self.order += 1;
        self.queue.insert((at_ms.max(self.around.now_ms), self.order), wake);
    }

    /// Lives through the history and to its end.
    pub fn run(mut self) -> Surroundings {
        self.around.say(|| "the history begins".into());
        let end = self.plan.operations.last().map_or(0, |(at, _)| *at) + 30_000;
        self.run_until(end, |_| false);
        self.finish();
        self.around.coverage.close();
        self.around
    }

    fn run_until(&mut self, end_ms: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut steps = 0u64;
        while let Some(entry) = self.queue.first_entry() {
            let at = entry.key().0;
            if at > end_ms {
                break;
            }
            let wake = entry.remove();
            self.around.now_ms = at;
            self.happen(wake);
            steps += 1;
            self.around.ensure(Invariant::I10EverySessionEnds, steps < 2_000_000, || {
                "the world spins".into()
            });
            if done(self) {
                return true;
            }
        }
        self.around.now_ms = self.around.now_ms.max(end_ms);
        done(self)
    }

    fn happen(&mut self, wake: Wake) {
        match wake {
            Wake::Flight(by, flight, packet) => {
                let now = self.around.now_ms;
                let host = self.around.network.arrive(now, &flight);
                match (host, &mut self.relay) {
                    (Some(host), Some(relay)) if host == relay.host => {
                        relay.take(&mut self.around, by, flight.from, packet);
                        self.send();
                    }
                    (Some(host), _) => {
                        self.receive(host, flight.from, packet);
                        self.touch(host);
                    }
                    (None, _) => {}
                }
            }
            Wake::Register => {
                if let Some(relay) = &self.relay
                    && self.provider.node.store.is_some()
                {
                    let to = self.around.network.address(relay.host);
                    self.around.outbox.push((self.provider.node.host, to, registration()));
                    self.send();
                }
                self.at(self.around.now_ms + REGISTER_MS, Wake::Register);
            }
            Wake::Voucher(claim) => {
                if let Some(watcher) = &mut self.watcher {
                    watcher.hear(&mut self.around, *claim);
                }
            }
            Wake::Look => {
                if let Some(watcher) = &mut self.watcher {
                    watcher.look(&mut self.around);
                }
                self.at(self.around.now_ms + LOOK_MS, Wake::Look);
            }
            Wake::Node(node) => {
                if self.scheduled[node] <= self.around.now_ms {
                    self.scheduled[node] = u64::MAX;
                }
                self.tick(node);
                self.touch(node);
            }
            Wake::Block => {
                let now = self.around.time();
                while self.around.chain.step(now) {
                    self.check_block();
                }
                for node in 0..self.scheduled.len() {
                    // In the end a wallet works without its node.
                    let healed = self.around.healed;
                    let body = self.node(node);
                    if (body.store.is_some() || healed) && !body.purse.is_idle() {
                        let chain = &mut self.around.chain;
                        // The body is not part of the surroundings, so both can be held.
                        match node {
                            0 => self.provider.node.purse.tick(chain, now),
                            n => self.consumers[n - 1].node.purse.tick(chain, now),
                        }
                        self.tick(node);
                        self.touch(node);
                    }
                }
                if let Some(watcher) = &mut self.watcher {
                    watcher.block(&mut self.around.chain, now, self.around.now_ms);
                }
                self.tell_money();
                let next = self.around.chain.next_block_at().as_ms().saturating_sub(EPOCH_MS);
                let next = next.max(self.around.now_ms + 1_000);
                self.at(next, Wake::Block);
            }
            Wake::Operation(index) => {
                let (_, operation) = self.plan.operations[index].clone();
                self.around.say(|| format!("--- {operation:?}"));
                self.around.coverage.met(operation.name());
                self.apply(&operation);
                for node in 0..self.scheduled.len() {
                    self.tick(node);
                    self.touch(node);
                }
            }
        }
    }

    /// What a block has moved, for whoever reads.
    fn tell_money(&mut self) {
        if self.around.trace.is_none() {
            return;
        }
        let truth = self.around.chain.truth();
        let holdings = |party: usize| {
            let wallet = identity(party).address();
            [
                truth.token_balance(wallet, Tag::Head).unwrap_or(0),
                truth.deposit(wallet, Tag::Head).unwrap_or(0),
                truth.claimable(wallet, Tag::Head).unwrap_or(0),
            ]
        };
        let now: Vec<_> = (0..self.scheduled.len()).map(holdings).collect();
        for (node, now) in now.into_iter().enumerate() {
            let before = std::mem::replace(&mut self.holdings[node], now);
            if before == now {
                continue;
            }
            let name = self.node(node).name.clone();
            for (what, (before, now)) in
                ["wallet", "deposit", "claimable"].iter().zip(before.into_iter().zip(now))
            {
                if before != now {
                    let (less, more) = (before.saturating_sub(now), now.saturating_sub(before));
                    self.around.say(|| {
                        format!("  chain: {name}'s {what} {before} -> {now} (-{less} +{more})")
                    });
                }
            }
        }
    }

    fn node(&mut self, number: usize) -> &mut Node {
        match number {
            0 => &mut self.provider.node,
            n => &mut self.consumers[n - 1].node,
        }
    }

    /// Hosts have their nodes' numbers.
    fn receive(&mut self, node: usize, from: Addr, packet: Packet) {
        let now = self.around.now_ms;
        let body = self.node(node);
        if body.store.is_none() {
            return;
        }
        let connection = packet.connection;
        let known = body.roads.contains_key(&connection);
        if !known {
            match packet.body {
                Body::Dial if node == 0 => {
                    body.roads.insert(connection, Road::welcome(connection, from, now));
                    self.provider.welcome(connection);
                    self.provider.node.flush(&mut self.around, connection);
                }
                // Nobody knows it here (any more).
                Body::Close { .. } | Body::Welcome => {}
                _ => {
                    let close = Packet { connection, body: Body::Close { clean: false } };
                    self.around.outbox.push((node, from, close));
                }
            }
            return;
        }
        let body = self.node(node);
        let Some(road) = body.roads.get_mut(&connection) else { return };
        let frames = road.receive(from, packet.body, now);
        let over = matches!(road.state, RoadState::Over { .. });
        match node {
            0 => self.provider.node.flush(&mut self.around, connection),
            n => self.consumers[n - 1].node.flush(&mut self.around, connection),
        }
        for frame in frames {
            match node {
                0 => self.provider.take(&mut self.around, connection, frame),
                n => self.consumers[n - 1].take(&mut self.around, connection, frame),
            }
        }
        if over {
            self.lost(node, connection);
        }
    }

    fn lost(&mut self, node: usize, connection: u64) {
        match node {
            0 => self.provider.lost(&mut self.around, connection),
            n => self.consumers[n - 1].lost(&mut self.around, connection),
        }
    }

    fn tick(&mut self, node: usize) {
        let now = self.around.now_ms;
        if self.node(node).disk.stopped() {
            let power = self.node(node).stop_is_power;
            self.die(node, power, 2_000); // it went while it was reading
        }
        let over = {
            let body = self.node(node);
            for road in body.roads.values_mut() {
                road.tick(now);
            }
            match node {
                0 => self.provider.over(),
                n => self.consumers[n - 1].over(),
            }
        };
        for connection in over {
            self.around.coverage.met("connection over");
            let body = match node {
                0 => &mut self.provider.node,
                n => &mut self.consumers[n - 1].node,
            };
            body.flush(&mut self.around, connection);
            self.lost(node, connection);
        }
        match node {
            0 => self.provider.tick(&mut self.around),
            n => self.consumers[n - 1].tick(&mut self.around),
        }
        let body = match node {
            0 => &mut self.provider.node,
            n => &mut self.consumers[n - 1].node,
        };
        for connection in body.roads.keys().copied().collect::<Vec<_>>() {
            body.flush(&mut self.around, connection);
        }
        for (end, of) in std::mem::take(&mut self.ends) {
            if end > now {
                self.ends.push((end, of));
            } else {
                self.node(of).disk.limit(None);
                if of == 0 {
                    self.provider.shutting_down = false;
                }
            }
        }
    }

    /// Sends what is to be sent: packets, and vouchers to the watcher.
    fn send(&mut self) {
        let now = self.around.now_ms;
        for (host, to, packet) in std::mem::take(&mut self.around.outbox) {
            for flight in self.around.network.send(now, host, to, packet.size()) {
                self.at(flight.at_ms, Wake::Flight(host, flight, packet.clone()));
            }
        }
        let vouchers = self.around.vouchers.as_mut().map(std::mem::take);
        for claim in vouchers.into_iter().flatten() {
            let watcher = self.watcher.as_mut();
            if let Some(after) = watcher.and_then(|watcher| watcher.post(&mut self.around)) {
                self.at(now + after, Wake::Voucher(Box::new(claim)));
            }
        }
    }

    /// Sends what a node wants sent and plans when it is called next.
    fn touch(&mut self, node: usize) {
        self.send();
        let around = &self.around;
        let (own, body) = match node {
            0 => (self.provider.wake_ms(around), &self.provider.node),
            n => (self.consumers[n - 1].wake_ms(around), &self.consumers[n - 1].node),
        };
        let roads = body.roads.values().filter_map(Road::wake_ms).min();
        let wake = own.min(roads.unwrap_or(u64::MAX)).max(around.now_ms + 1);
        if wake < self.scheduled[node] {
            self.scheduled[node] = wake;
            self.at(wake, Wake::Node(node));
        }
    }

    fn apply(&mut self, operation: &Operation) {
        let now = self.around.now_ms;
        match operation {
            Operation::Traffic { consumer, up, down } => {
                if !self.consumers[*consumer].left {
                    self.consumers[*consumer].demand.push_back((*up, *down));
                }
            }
            Operation::CloseSession { consumer } => self.consumers[*consumer].wants_close = true,
            Operation::LeaveChain { consumer } => {
                self.consumers[*consumer].left = true;
                self.consumers[*consumer].leave_chain(&mut self.around);
            }
            Operation::ClaimOld { consumer } => {
                self.consumers[*consumer].claim_old(&mut self.around);
            }
            Operation::Settle { .. } => {
                self.provider.settle(&mut self.around, true);
            }
            Operation::ShutDown { ms, .. } => {
                self.provider.shutting_down = true;
                self.end(0, now + ms.max(&SETTLE_MS));
            }
            Operation::Cut { node, ms } => self.around.network.cut(*node, now + ms),
            Operation::Line { node, line } => self.around.network.set_line(*node, *line),
            Operation::Readdress { node } => self.around.network.readdress(*node),
            Operation::Rebind { node } => self.around.network.rebind(*node),
            Operation::Kill { node, ms } => self.die(*node, false, *ms),
            Operation::PowerCut { node, ms } => self.die(*node, true, *ms),
            Operation::CutBefore { node, outputs, power } => {
                let body = self.node(*node);
                (body.cut_before, body.cut_is_power) = (Some(*outputs), *power);
            }
            Operation::StopDiskAt { node, step, power } => {
                let body = self.node(*node);
                body.stop_is_power = *power;
                body.disk.stop_at(*step);
            }
            Operation::DiskFull { node, ms } => {
                let body = self.node(*node);
                let used = body.disk.used();
                body.disk.limit(Some(used));
                self.end(*node, now + ms);
            }
            Operation::DiskFault { node, fault, nth } => self.node(*node).disk.fail(*fault, *nth),
            Operation::Skew { node, ms } => self.node(*node).skew_ms = *ms,
            Operation::Backup { consumer } => self.consumers[*consumer].back_up(),
            Operation::Restore { consumer } => self.consumers[*consumer].restore(&mut self.around),
            Operation::Reorg { depth } => {
                self.around.chain.reorg(*depth);
                self.check_block();
            }
            Operation::Halt { ms } => self.around.chain.halt(*ms),
            Operation::Spike { factor, ms } => self.around.chain.spike(*factor, *ms),
            Operation::TakeDown { endpoint, ms } => self.around.chain.take_down(*endpoint, *ms),
            Operation::Troubled { endpoint, trouble } => {
                self.around.coverage.met(trouble.name());
                let endpoints = &mut self.around.chain.weather_mut().endpoints;
                endpoints[LONE..].fill(Endpoint::default()); // one at a time
                if let Some(it) = endpoints.get_mut(*endpoint) {
                    *it = trouble.endpoint();
                }
            }
            Operation::Price { price } => self.provider.price = *price,
            Operation::FrontRun => self.front_run(),
            Operation::KillWatcher { ms } => {
                if let Some(watcher) = &mut self.watcher {
                    watcher.die(&mut self.around, *ms);
                }
            }
            Operation::ProviderGone => self.provider_goes(),
            Operation::FinishLeaving { consumer } => self.finish_leaving(*consumer),
        }
    }

    fn end(&mut self, node: usize, at: u64) {
        self.ends.push((at, node));
        self.at(at, Wake::Node(node));
    }

    /// The provider's machine is lost, and with it its disk and what its wallet was about to send.
    fn provider_goes(&mut self) {
        self.around.coverage.met("the provider is gone for good");
        self.die(PROVIDER, true, 0);
        let node = &mut self.provider.node;
        node.restart_ms = None;
        node.purse = Purse::new(node.purse.wallet, node.purse.asks);
        self.gone = true;
    }

    fn die(&mut self, node: usize, power: bool, ms: u64) {
        if let Some(relay) = self.relay.as_mut().filter(|relay| relay.host == node) {
            return relay.die(&mut self.around, ms);
        }
        match node {
            0 => {
                if self.provider.node.store.is_some() {
                    self.provider.node.die(&mut self.around, power, ms);
                    self.provider.forget(&mut self.around);
                }
            }
            n => {
                let consumer = &mut self.consumers[n - 1];
                if consumer.node.store.is_some() {
                    consumer.node.die(&mut self.around, power, ms);
                    consumer.forget(&mut self.around);
                }
            }
        }
    }

    /// A stranger sends what is in the pool as its own, for a higher fee: claims are anybody's to
    /// make, everything else is not.
    fn front_run(&mut self) {
        let thief = identity(PARTIES - 1).address();
        let waiting: Vec<_> =
            self.around.chain.pending().map(|pending| pending.transaction.clone()).collect();
        for transaction in waiting.into_iter().take(3) {
            let Ok(nonce) = self.around.chain.truth().nonce(thief, Tag::Head) else { continue };
            let copy = Transaction {
                from: thief,
                nonce: nonce + self.outsider % 2,
                max_fee: transaction.max_fee * 2,
                priority_fee: transaction.priority_fee * 2,
                ..transaction
            };
            self.outsider += 1;
            self.around.coverage.met("front-run");
            let now = self.around.time();
            let _ = self.around.chain.submit(now, 0, copy);
        }
    }

    // --- the end ---

    /// Everything works again: sessions go on, end with both sides agreeing, vouchers are claimed,
    /// payers leave with the rest, and every unit is where it belongs.
    fn finish(&mut self) {
        self.heal();
        let honest: Vec<usize> = (0..self.consumers.len())
            .filter(|index| self.consumers[*index].vice.is_none() && self.plan.vice.is_none())
            .filter(|_| !self.gone) // nobody is there to serve them, or to settle with
            .collect();
        // Service goes on.
        let more = self.plan.credit.initial.get() / 2;
        for index in &honest {
            let consumer = &mut self.consumers[*index];
            if !consumer.left {
                consumer.demand.push_back((10, more));
            }
        }
        self.wake_all();
        let end = self.around.now_ms + 5 * 3_600_000; // a top-up may take minutes
        let served = |world: &Self, index: &usize| {
            let consumer = &world.consumers[*index];
            consumer.is_served() || consumer.left
        };
        let all = self.run_until(end, |world| honest.iter().all(|index| served(world, index)));
        self.around.ensure(Invariant::I10EverySessionEnds, all, || {
            let stuck: Vec<_> = honest.iter().filter(|index| !served(self, index)).collect();
            let why: Vec<_> =
                stuck.iter().map(|index| self.consumers[**index].gave_up.clone()).collect();
            let purses: Vec<_> =
                stuck.iter().map(|index| &self.consumers[**index].node.purse).collect();
            format!("consumers {stuck:?} are not served once everything works: {why:?} {purses:?}")
        });
        // Sessions end.
        for consumer in &mut self.consumers {
            consumer.demand.clear();
            (consumer.wants_close, consumer.left) = (true, true);
        }
        self.wake_all();
        let end = self.around.now_ms + 600_000;
        let quiet = |world: &Self| honest.iter().all(|index| world.consumers[*index].is_quiet());
        let all = self.run_until(end, |world| quiet(world));
        self.around.ensure(Invariant::I10EverySessionEnds, all, || "a session does not end".into());
        self.run_until(self.around.now_ms + 30_000, |world| world.provider.is_quiet());
        // Consumers are gone, the dishonest too, and with them whatever keeps a session up. Their
        // wallets stay.
        for index in 0..self.consumers.len() {
            self.die(index + 1, false, u64::MAX / 2);
        }
        let end = self.around.now_ms + 120_000;
        let all = self.run_until(end, |world| world.provider.is_quiet());
        self.around.ensure(Invariant::I10EverySessionEnds, all, || {
            "the provider keeps a session that nobody is in".into()
        });
        self.check_statements();
        if self.around.chain.outvoted() > 0 {
            self.around.coverage.met("an endpoint is outvoted");
        }
        // Who keeps a voucher is paid.
        self.settle_all();
        self.check_paid();
        // Payers get the rest.
        self.leave_all();
        self.check_paid(); // a watcher has claimed meanwhile
        self.check_watched();
        self.check_money();
    }

    fn heal(&mut self) {
        self.around.say(|| "--- everything works again".into());
        self.around.healed = true;
        self.around.network.heal();
        self.relay.as_mut().into_iter().for_each(Relay::heal);
        self.watcher.as_mut().into_iter().for_each(Watcher::heal);
        let endpoints = &self.around.chain.weather_mut().endpoints;
        let several = endpoints.get(LONE..).unwrap_or_default().to_vec();
        *self.around.chain.weather_mut() = Weather {
            endpoints: [vec![Endpoint::default(); LONE], several].concat(),
            genesis: self.around.chain.weather_mut().genesis,
            block_time_ms: self.around.chain.weather_mut().block_time_ms,
            ..Weather::calm()
        };
        self.ends.clear();
        self.provider.shutting_down = false;
        for number in 0..self.scheduled.len() {
            let now = self.around.now_ms;
            let body = self.node(number);
            let lied_to = body.purse.asks == LIAR;
            if let Asks::One(endpoint) = &mut body.purse.asks {
                *endpoint = 0; // those of several are in trouble to the end
            }
            body.cut_before = None;
            body.disk.limit(None);
            if let Some(at) = &mut body.restart_ms {
                *at = (*at).min(now);
            }
            // A planned fault that has not come will not.
            if body.disk.stopped() {
                self.die(number, true, 0);
            }
            if self.plan.skews() || lied_to {
                // Whoever sets a clock right, or asks another endpoint, starts again.
                self.node(number).skew_ms = 0;
                self.die(number, false, 0);
            }
        }
        for consumer in &mut self.consumers {
            consumer.wants_close = consumer.left;
            if self.plan.skews() || consumer.gave_up.as_deref() == Some("too dear") {
                consumer.gave_up = None;
            }
        }
        self.wake_all();
        self.provider.hand_over(&mut self.around);
        self.send();
    }

    fn wake_all(&mut self) {
        for node in 0..self.scheduled.len() {
            self.tick(node);
            self.touch(node);
        }
    }

    fn settle_all(&mut self) {
        self.run_until(self.around.now_ms + 1_200_000, |world| {
            world.provider.node.purse.is_idle()
                && world.consumers.iter().all(|consumer| consumer.node.purse.is_idle())
        });
        // An endpoint may still be away for a while: whoever wants its money asks again.
        for _ in 0..4 {
            self.provider.settle(&mut self.around, true);
            self.run_until(self.around.now_ms + 120_000, |_| false);
            let end = self.around.now_ms + 1_200_000;
            self.run_until(end, |world| world.provider.node.purse.is_idle());
        }
    }

    fn leave_all(&mut self) {
        for consumer in &mut self.consumers {
            let open = |config: &sparewire_protocol::ChannelConfig| {
                let facts = self.around.chain.truth().channel(config.id(&network().0), Tag::Final);
                matches!(facts, Ok(Some(facts)) if facts.status == ChannelStatus::Open)
            };
            for config in consumer.channels.clone().into_iter().filter(open) {
                consumer.node.purse.want(Intent::StartClose { config });
            }
        }
        let idle =
            |world: &Self| world.consumers.iter().all(|consumer| consumer.node.purse.is_idle());
        self.run_until(self.around.now_ms + 1_200_000, idle);
        let delay = self.consumers.iter().map(|c| u64::from(c.withdraw_delay_secs)).max();
        self.run_until(self.around.now_ms + (delay.unwrap_or(0) + 60) * 1_000, |_| false);
        for consumer in 0..self.consumers.len() {
            self.finish_leaving(consumer);
        }
        self.run_until(self.around.now_ms + 1_200_000, idle);
        for consumer in &mut self.consumers {
            let wallet = consumer.node.purse.wallet;
            let deposit = self.around.chain.truth().deposit(wallet, Tag::Final).unwrap_or(0);
            if let Some(amount) = Amount::new(deposit).filter(|amount| *amount > Amount::ZERO) {
                let token = network().1;
                consumer.node.purse.want(Intent::Withdraw { token, amount });
            }
        }
        self.run_until(self.around.now_ms + 1_200_000, idle);
    }

    /// A payer takes the rest of the channels that it is leaving.
    fn finish_leaving(&mut self, consumer: usize) {
        let consumer = &mut self.consumers[consumer];
        for config in consumer.channels.clone() {
            let facts = self.around.chain.truth().channel(config.id(&network().0), Tag::Final);
            if matches!(facts, Ok(Some(ChannelFacts { status: ChannelStatus::Closing { .. }, .. })))
            {
                self.around.coverage.met("a payer takes what is left");
                consumer.node.purse.want(Intent::FinishClose { config });
            }
        }
    }
}
