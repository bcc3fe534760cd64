//! What every node has: a process that can die, a disk, connections, a purse and a clock that may be
//! wrong. What consumers and providers do with them is theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use fastrand::Rng;
use sparewire_core::{ChannelId, Timestamp};
use sparewire_node::store::{SqliteStore, Store, StoreError};
use sparewire_protocol::{ChannelStatus, Claim, Message, Record};

use crate::{
    cast::{EPOCH_MS, Identity, identity},
    chain::{Asks, SimChain, Tag},
    coverage::Coverage,
    disk::Disk,
    ledger::{Invariant, Ledger, broken},
    link::{Addr, Network},
    purse::Purse,
    road::{Frame, Packet, Road},
};

/// What nodes act in.
pub struct Surroundings {
    /// The time, in milliseconds since the world began.
    pub now_ms: u64,
    /// The network.
    pub network: Network,
    /// The chain.
    pub chain: SimChain,
    /// The account of what happened.
    pub ledger: Ledger,
    /// What met what.
    pub coverage: Coverage,
    /// What happened, in words, where somebody wants to read it.
    pub trace: Option<Arc<Mutex<Vec<String>>>>,
    /// Packets that nodes want sent: from which host, whereto.
    pub outbox: Vec<(usize, Addr, Packet)>,
    /// Vouchers that a provider hands its watcher; `None` where it has none.
    pub vouchers: Option<Vec<Claim>>,
    /// The next connection's number.
    pub next_connection: u64,
    /// Whether everything works again, and all must come to an end.
    pub healed: bool,
    /// Whether the provider's price changes in this history.
    pub price_varies: bool,
    /// Whether clocks are wrong in this history: then nothing is said of how long anything takes.
    pub skews: bool,
    /// Parties that gave a dishonest provider their keys.
    pub partners: BTreeSet<usize>,
}

impl Surroundings {
    /// At the beginning.
    pub fn new(chain: SimChain, network: Network, trace: Option<Arc<Mutex<Vec<String>>>>) -> Self {
        Self {
            now_ms: 0,
            network,
            chain,
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            trace,
            outbox: Vec::new(),
            vouchers: None,
            next_connection: 1,
            healed: false,
            price_varies: false,
            skews: false,
            partners: BTreeSet::new(),
        }
    }

    /// Writes a line of the trace; `words` is only called where there is one.
    pub fn say(&mut self, words: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let line = format!("{:>9.3} s  {}", self.now_ms as f64 / 1_000.0, words());
            trace.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// Asserts an invariant.
    pub fn ensure(&self, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            broken(invariant, &what());
        }
    }

    /// Whether a voucher that becomes known now is known in time to be claimed: half of the withdraw
    /// delay before the payer can take the rest, at least.
    pub fn in_time(&mut self, channel: ChannelId, delay_secs: u32) -> bool {
        if !self.ledger.channel(channel).leaving {
            return true;
        }
        let facts = self.chain.truth().channel(channel, Tag::Head).ok().flatten();
        facts.is_none_or(|facts| match facts.status {
            ChannelStatus::Open => true,
            ChannelStatus::Closing { finish_at_secs } => {
                self.time().as_secs() + u64::from(delay_secs) / 2 <= finish_at_secs
            }
            ChannelStatus::Closed => false,
        })
    }

    /// The true time.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_ms(EPOCH_MS + self.now_ms)
    }
}

/// Whether a process goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Alive {
    /// It does.
    Yes,
    /// It died in the middle of what it was doing.
    No,
}

/// The body of a node.
pub struct Node {
    /// Its number among the nodes.
    pub number: usize,
    /// In traces.
    pub name: String,
    /// Its keys.
    pub identity: &'static Identity,
    /// Its host on the network.
    pub host: usize,
    /// Its disk.
    pub disk: Disk,
    /// Its store, while the process lives.
    pub store: Option<SqliteStore>,
    /// When it starts again.
    pub restart_ms: Option<u64>,
    /// What its clock adds to the time, in milliseconds.
    pub skew_ms: i64,
    /// Its transactions.
    pub purse: Purse,
    /// Its connections.
    pub roads: BTreeMap<u64, Road>,
    /// Its own chance.
    pub rng: Rng,
    /// Power goes before the so-manieth output from now.
    pub cut_before: Option<u8>,
    /// Whether power goes (unsynced writes are lost) or just the process.
    pub cut_is_power: bool,
    /// The same of a disk that stops ([`Disk::stop_at`]).
    pub stop_is_power: bool,
}

impl Node {
    /// A node that runs, over an empty store.
    pub fn new(number: usize, name: String, party: usize, host: usize, seed: u64) -> Self {
        let identity = identity(party);
        let disk = Disk::formatted();
        let store = disk.open_store().ok();
        assert!(store.is_some(), "a formatted disk holds a store");
        Self {
            number,
            name,
            identity,
            host,
            disk,
            store,
            restart_ms: None,
            skew_ms: 0,
            purse: Purse::new(identity.address(), Asks::One(0)),
            roads: BTreeMap::new(),
            rng: Rng::with_seed(seed),
            cut_before: None,
            cut_is_power: false,
            stop_is_power: true,
        }
    }

    /// The time by its own clock.
    pub fn clock(&self, world: &Surroundings) -> Timestamp {
        let at = (EPOCH_MS + world.now_ms).saturating_add_signed(self.skew_ms);
        Timestamp::from_ms(at)
    }

    /// Counts an output down; where power goes before it, the process is dead.
    pub fn before_output(&mut self, world: &mut Surroundings) -> Alive {
        match &mut self.cut_before {
            Some(0) => {
                let power = self.cut_is_power;
                self.die(world, power, 1_000);
                Alive::No
            }
            Some(left) => {
                *left -= 1;
                Alive::Yes
            }
            None => Alive::Yes,
        }
    }

    /// The process dies: what it had in memory is gone, its connections fall silent. With `power`,
    /// what the disk had not synced is gone as well.
    pub fn die(&mut self, world: &mut Surroundings, power: bool, down_ms: u64) {
        if self.store.is_none() {
            return;
        }
        world.say(|| format!("{} {}", self.name, if power { "LOSES POWER" } else { "IS KILLED" }));
        world.coverage.met(if power { "power cut" } else { "kill" });
        self.cut_before = None;
        self.disk_gone(power);
        self.store = None;
        self.roads.clear();
        self.purse.restart();
        self.restart_ms = Some(world.now_ms + down_ms);
    }

    fn disk_gone(&mut self, power: bool) {
        if power {
            self.disk.power_cut(&mut self.rng);
        } else {
            self.disk.kill();
        }
    }

    /// Starts again, where it is time. `true` where it did.
    pub fn restart(&mut self, world: &mut Surroundings) -> bool {
        if self.store.is_some() || self.restart_ms.is_none_or(|at| world.now_ms < at) {
            return false;
        }
        match self.disk.open_store() {
            Ok(store) => {
                self.store = Some(store);
                self.restart_ms = None;
                world.say(|| format!("{} starts again", self.name));
                true
            }
            Err(error) => {
                if self.disk.stopped() {
                    self.disk_gone(self.stop_is_power); // it dies again while it starts
                }
                world.say(|| format!("{} cannot start: {error}", self.name));
                self.check_undamaged(&error);
                self.restart_ms = Some(world.now_ms + 5_000);
                false
            }
        }
    }

    /// Records, as the driver does before anything that builds on it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then. Where power went in the middle, the process is dead
    /// afterwards.
    pub fn record(
        &mut self,
        world: &mut Surroundings,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Err(StoreError::InUse { path: "dead".into() });
        };
        let result = store.record(records);
        if self.disk.stopped() {
            // Whatever SQLite said: the process is gone.
            self.die(world, self.stop_is_power, 2_000);
            return Err(StoreError::InUse { path: "dead".into() });
        }
        if let Err(error) = &result {
            self.check_undamaged(error);
            world.coverage.met("store error");
            let name = &self.name;
            world.say(|| format!("{name} cannot record: {error}"));
        }
        result
    }

    /// Sends a message over a connection.
    pub fn tell(&mut self, world: &mut Surroundings, connection: u64, message: &Message) {
        world.say(|| format!("{} -> {}", self.name, brief(message)));
        world.coverage.said(message);
        self.tell_bytes(world, connection, message.to_frame()[4..].to_vec());
    }

    /// Sends the bytes of a frame on the control stream, whatever they are.
    pub fn tell_bytes(&mut self, world: &mut Surroundings, connection: u64, bytes: Vec<u8>) {
        self.push(world, connection, Frame::Control(bytes));
    }

    /// Sends a frame.
    pub fn push(&mut self, world: &mut Surroundings, connection: u64, frame: Frame) {
        if let Some(road) = self.roads.get_mut(&connection) {
            road.send(frame, world.now_ms);
            self.flush(world, connection);
        }
    }

    /// Whether payload would be taken by a connection now.
    pub fn has_room(&self, connection: u64) -> bool {
        self.roads.get(&connection).is_some_and(Road::has_room)
    }

    /// Ends a connection.
    pub fn hang_up(&mut self, world: &mut Surroundings, connection: u64, clean: bool) {
        if let Some(road) = self.roads.get_mut(&connection) {
            road.close(clean, world.now_ms);
            self.flush(world, connection);
        }
    }

    /// Hands a connection's packets to the network.
    pub fn flush(&mut self, world: &mut Surroundings, connection: u64) {
        if let Some(road) = self.roads.get_mut(&connection) {
            for (to, packet) in road.take_out() {
                world.outbox.push((self.host, to, packet));
            }
        }
    }

    /// Reads the store; `None` while the process is dead or the disk does not answer.
    pub fn recall<T>(&self, ask: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Option<T> {
        ask(self.store.as_ref()?).inspect_err(|error| self.check_undamaged(error)).ok()
    }

    /// I13: whatever the disk did, what is read of the store is not damaged.
    fn check_undamaged(&self, error: &StoreError) {
        if matches!(error, StoreError::Damaged { .. }) {
            broken(Invariant::I13NothingPanics, &format!("{}: {error}", self.name));
        }
    }
}

/// A message in a line of the trace.
pub fn brief(message: &Message) -> String {
    let reading = |reading: &sparewire_protocol::Reading| {
        format!("up {} down {}", reading.up.get(), reading.down.get())
    };
    match message {
        Message::Hello { resume, .. } => format!("Hello resume {}", resume.is_some()),
        Message::Offer(_) => "Offer".into(),
        Message::Accept { acceptance, .. } => format!(
            "Accept session {} {} up_max {} promised {:?}",
            short(&acceptance.session.0),
            reading(&acceptance.reading),
            acceptance.up_max.get(),
            acceptance.payment.map(|payment| payment.voucher.body.amount.get())
        ),
        Message::Accepted(accepted) => format!(
            "Accepted session {} {} base {} promised {:?}",
            short(&accepted.session.0),
            reading(&accepted.reading),
            accepted.base.get(),
            accepted.payment.map(|payment| payment.voucher.body.amount.get())
        ),
        Message::Payment { payment, receipt } => format!(
            "Payment {} promised {} receipt {:?}",
            reading(&payment.reading),
            payment.voucher.body.amount.get(),
            receipt.map(|receipt| receipt.body.sequence)
        ),
        Message::Countersignature { sequence, .. } => format!("Countersignature {sequence}"),
        Message::Report { reading: of, last, .. } => format!("Report {} last {last}", reading(of)),
        other => format!("{other:?}"),
    }
}

fn short(id: &sparewire_core::B256) -> String {
    format!("{id}").chars().take(8).collect()
}
