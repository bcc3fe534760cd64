//! What a history is made of: a seed gives the parties, the weather, and what happens when.

mod text;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use sparewire_core::{Amount, ByteCount, Price};
use sparewire_protocol::CreditRule;

pub use self::text::PlanError;
use crate::{
    chain::{Asks, Endpoint, Lie, TROUBLES, Trouble, Weather},
    disk::Fault,
    link::{Dependence, Line, Nat},
    relay::{RELAY_VICES, RelayVice},
    vice::{CONSUMER_VICES, ConsumerVice, PROVIDER_VICES, ProviderVice},
    watcher::{WATCHER_VICES, WatcherVice},
};

/// Something that happens to the world. Nodes are counted providers first, a relay last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // each says what it is
pub enum Operation {
    Traffic { consumer: usize, up: u64, down: u64 },
    CloseSession { consumer: usize },
    LeaveChain { consumer: usize },
    ClaimOld { consumer: usize },
    Settle { provider: usize },
    ShutDown { provider: usize, ms: u64 },
    Cut { node: usize, ms: u64 },
    Line { node: usize, line: Line },
    Readdress { node: usize },
    Rebind { node: usize },
    Kill { node: usize, ms: u64 },
    PowerCut { node: usize, ms: u64 },
    CutBefore { node: usize, outputs: u8, power: bool },
    StopDiskAt { node: usize, step: u64, power: bool },
    DiskFull { node: usize, ms: u64 },
    DiskFault { node: usize, fault: Fault, nth: u64 },
    Skew { node: usize, ms: i64 },
    Backup { consumer: usize },
    Restore { consumer: usize },
    Reorg { depth: u64 },
    Halt { ms: u64 },
    Spike { factor: u64, ms: u64 },
    TakeDown { endpoint: usize, ms: u64 },
    Troubled { endpoint: usize, trouble: Trouble },
    Price { price: Price },
    FrontRun,
    KillWatcher { ms: u64 },
    ProviderGone,
    FinishLeaving { consumer: usize },
}

impl Operation {
    /// Its name in the coverage.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Traffic { .. } => "op traffic",
            Self::CloseSession { .. } => "op close session",
            Self::LeaveChain { .. } => "op leave chain",
            Self::ClaimOld { .. } => "op claim old voucher",
            Self::Settle { .. } => "op settle",
            Self::ShutDown { .. } => "op shut down",
            Self::Cut { .. } => "op cut line",
            Self::Line { .. } => "op change line",
            Self::Readdress { .. } => "op change address",
            Self::Rebind { .. } => "op rebind",
            Self::Kill { .. } => "op kill",
            Self::PowerCut { .. } => "op power cut",
            Self::CutBefore { .. } => "op crash between outputs",
            Self::StopDiskAt { power: true, .. } => "op power cut in a write",
            Self::StopDiskAt { .. } => "op kill in a write",
            Self::DiskFull { .. } => "op disk full",
            Self::DiskFault { .. } => "op disk fault",
            Self::Skew { .. } => "op clock skew",
            Self::Backup { .. } => "op backup",
            Self::Restore { .. } => "op restore a backup",
            Self::Reorg { .. } => "op reorg",
            Self::Halt { .. } => "op halt",
            Self::Spike { .. } => "op fee spike",
            Self::TakeDown { .. } => "op endpoint down",
            Self::Troubled { .. } => "op another endpoint in trouble",
            Self::Price { .. } => "op price",
            Self::FrontRun => "op front-run",
            Self::KillWatcher { .. } => "op kill the watcher",
            Self::ProviderGone => "op provider gone",
            Self::FinishLeaving { .. } => "op finish leaving",
        }
    }
}

/// All names of operations, for the report.
pub const FAULTS: [&str; 27] = [
    "op close session",
    "op leave chain",
    "op settle",
    "op shut down",
    "op cut line",
    "op change line",
    "op change address",
    "op rebind",
    "op kill",
    "op power cut",
    "op crash between outputs",
    "op power cut in a write",
    "op kill in a write",
    "op disk full",
    "op disk fault",
    "op clock skew",
    "op restore a backup",
    "op reorg",
    "op halt",
    "op fee spike",
    "op endpoint down",
    "op another endpoint in trouble",
    "op price",
    "op front-run",
    "op kill the watcher",
    "op provider gone",
    "op finish leaving",
];

/// A consumer of a history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConsumerPlan {
    /// What is wrong with it.
    pub vice: Option<ConsumerVice>,
    /// Its line.
    pub line: Line,
    /// Its translator.
    pub nat: Option<Nat>,
    /// Whom it asks about the chain.
    pub asks: Asks,
    /// What its channels get.
    pub channel_amount: Amount,
}

/// A watcher of a history.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WatcherPlan {
    /// What is wrong with it.
    pub vice: Option<WatcherVice>,
    /// Whom it asks about the chain.
    pub asks: Asks,
    /// Of a thousand vouchers that it is sent, how many are lost.
    pub lost: u16,
}

/// A relay of a history, without which nobody reaches the provider.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RelayPlan {
    /// What is wrong with it.
    pub vice: Option<RelayVice>,
    /// Its line.
    pub line: Line,
    /// The provider's translator.
    pub nat: Nat,
}

/// A history that has not happened yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where everything that is left to chance comes from.
    pub seed: u64,
    /// The provider's price.
    pub price: Price,
    /// How far it trusts.
    pub credit: CreditRule,
    /// What is wrong with it.
    pub vice: Option<ProviderVice>,
    /// Its line.
    pub line: Line,
    /// Whether a port is forwarded to it through a translator.
    pub forwarded: bool,
    /// Whom it asks about the chain.
    pub asks: Asks,
    /// How long its terms are good for, in milliseconds.
    pub terms_ms: u64,
    /// The consumers.
    pub consumers: Vec<ConsumerPlan>,
    /// Seconds that consumers give the provider to claim when they leave.
    #[serde(default = "delay_min")]
    pub withdraw_delay_secs: u32,
    /// Who watches the chain for the provider, if anybody does.
    #[serde(default)]
    pub watcher: Option<WatcherPlan>,
    /// Through whom the provider is reached, if not directly.
    #[serde(default)]
    pub relay: Option<RelayPlan>,
    /// The chain's.
    pub weather: Weather,
    /// What happens, and when in milliseconds.
    #[serde(skip)]
    pub operations: Vec<(u64, Operation)>,
}

/// Who asks the endpoint that lies, and no other.
pub const LIAR: Asks = Asks::One(2);
/// Three endpoints of which one at a time is in trouble, and it changes which one.
pub const PANEL: [usize; 3] = [LONE, LONE + 1, LONE + 2];
/// How many endpoints there are that are asked alone; those of `PANEL` come after them.
pub const LONE: usize = 4;
/// How many there are in all, where any party asks several.
pub const ENDPOINTS: usize = LONE + PANEL.len();
/// Make of a history's seed those of what is said by [`Plan::panel`] and [`Plan::prices`].
const PANELS: u64 = 0x5041_4E45_4C53_0003;
const PRICES: u64 = 0x5052_4943_4553_0001;
/// Makes of a history's seed the one of what is said by [`Plan::actors`].
const ACTORS: u64 = 0x5350_4152_4557_4952;
/// The withdraw delay where a watcher is: four times what the chain may be halted or dear for.
pub const WATCHED_DELAY_SECS: u32 = 3_600;

impl Plan {
    /// The history of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let price = match rng.u8(0..10) {
            0 => 0,
            1 | 2 => 1 << 18, // a unit for 4 KiB
            3..=7 => 1 << 30, // a unit for a byte
            _ => rng.u128(1..1 << 33),
        };
        let price = Price::per_gib(price).unwrap_or(Price::FREE);
        let initial = rng.u64(1 << 10..16 << 10);
        let credit = CreditRule {
            initial: ByteCount::new(initial),
            maximum: ByteCount::new(initial * rng.u64(1..5)),
        };
        let mut vice = None;
        let mut consumers: Vec<_> = (0..1 + usize::from(rng.u8(0..4) == 0))
            .map(|_| {
                let worth = ByteCount::new(initial * rng.u64(2..40));
                ConsumerPlan {
                    vice: None,
                    line: line(rng),
                    nat: nat(rng),
                    asks: asks(rng),
                    channel_amount: price
                        .owed(worth)
                        .into_iter()
                        .chain(Amount::new(16))
                        .max()
                        .unwrap_or(Amount::MAX),
                }
            })
            .collect();
        match rng.u8(0..20) {
            0..=8 => {}
            9..=13 => {
                let which = rng.usize(0..consumers.len());
                consumers[which].vice = rng.choice(CONSUMER_VICES);
            }
            14..=18 => vice = rng.choice(PROVIDER_VICES),
            _ => {
                consumers[0].vice = rng.choice(CONSUMER_VICES);
                vice = rng.choice(PROVIDER_VICES);
            }
        }
        // Collusion takes two.
        if vice == Some(ProviderVice::Colludes) {
            consumers[0].vice = Some(ConsumerVice::Colludes);
        } else if consumers.iter().any(|it| it.vice == Some(ConsumerVice::Colludes)) {
            vice = Some(ProviderVice::Colludes);
        }
        let weather = weather(rng);
        let nodes = 1 + consumers.len();
        let horizon = rng.u64(60_000..900_000);
        let mut operations = Vec::new();
        for _ in 0..rng.usize(2..7) {
            let at = rng.u64(0..horizon);
            operations.push((at, traffic(rng, consumers.len(), initial)));
        }
        for _ in 0..rng.usize(0..12) {
            let at = rng.u64(0..horizon);
            let operation = fault(rng, nodes, &mut operations, at, consumers.len(), initial);
            operations.push((at, operation));
        }
        let line = line(rng);
        let forwarded = rng.u8(0..4) == 0;
        let asks = asks(rng);
        let terms_ms = if rng.u8(0..6) == 0 { rng.u64(60_000..600_000) } else { 86_400_000 };
        // What came later has chance of its own: seeds stay what they were in everything else.
        let rng = &mut Rng::with_seed(seed ^ 0x9E37_79B9_7F4A_7C15);
        if rng.u8(0..16) == 0 {
            let consumer = rng.usize(0..consumers.len());
            let at = rng.u64(0..horizon);
            operations.push((at, Operation::Backup { consumer }));
            operations.push((rng.u64(at..=horizon), Operation::Restore { consumer }));
        }
        let credit = match rng.u8(0..200) {
            0 => prosper(rng, price, &mut consumers, horizon, &mut operations),
            _ => credit,
        };
        operations.sort_by_key(|(at, _)| *at);
        let hurries = rng.bool();
        let mut plan = Self {
            seed,
            price,
            credit,
            vice,
            line,
            forwarded,
            asks,
            terms_ms,
            consumers,
            withdraw_delay_secs: delay_min(),
            watcher: None,
            relay: None,
            weather,
            operations,
        };
        if hurries {
            plan.hurry(rng, horizon);
        }
        plan.actors(&mut Rng::with_seed(seed ^ ACTORS));
        plan.panel(&mut Rng::with_seed(seed ^ PANELS));
        plan.prices(&mut Rng::with_seed(seed ^ PRICES));
        plan
    }

    /// Whoever leaves takes what is left as soon as it can: what its provider has not claimed by then
    /// is lost to it. The bad weather lasts until then, and is short beside the delay.
    fn hurry(&mut self, rng: &mut Rng, horizon: u64) {
        use ConsumerVice::{ClosesWithOldVoucher, WithdrawsWhileServed};
        let mut leave: Vec<(u64, usize)> = Vec::new();
        for (at, operation) in &self.operations {
            if let Operation::LeaveChain { consumer } = operation {
                leave.push((*at, *consumer));
            }
        }
        for (index, consumer) in self.consumers.iter().enumerate() {
            if matches!(consumer.vice, Some(WithdrawsWhileServed | ClosesWithOldVoucher)) {
                leave.push((horizon, index));
            }
        }
        for (at, consumer) in leave {
            self.withdraw_delay_secs = WATCHED_DELAY_SECS;
            let at = at + u64::from(WATCHED_DELAY_SECS) * 1_000 + rng.u64(30_000..600_000);
            self.operations.push((at, Operation::FinishLeaving { consumer }));
        }
        self.operations.sort_by_key(|(at, _)| *at);
    }

    /// Who else is in it, from a chance of its own: whatever else happens stays as it is.
    fn actors(&mut self, rng: &mut Rng) {
        let horizon = self.operations.last().map_or(0, |(at, _)| *at) + 30_000;
        if rng.u8(0..3) == 0 {
            self.watch(rng, horizon);
        }
        if rng.u8(0..5) == 0 {
            let nat = std::iter::repeat_with(|| nat(rng)).flatten().next();
            let nat = nat.expect("every other one is one");
            let vice = (rng.u8(0..4) == 0).then(|| rng.choice(RELAY_VICES)).flatten();
            self.relay = Some(RelayPlan { vice, line: line(rng), nat });
            let node = 1 + self.consumers.len();
            for _ in 0..rng.usize(0..4) {
                let (at, ms) = (rng.u64(0..horizon), rng.u64(500..60_000));
                let operation = match rng.u8(0..5) {
                    0 => Operation::Cut { node, ms },
                    1 => Operation::Line { node, line: line(rng) },
                    2 => Operation::Rebind { node: 0 },
                    _ => Operation::Kill { node, ms },
                };
                self.operations.push((at, operation));
            }
        }
        self.operations.sort_by_key(|(at, _)| *at);
    }

    fn watch(&mut self, rng: &mut Rng, horizon: u64) {
        let watcher = WatcherPlan {
            vice: (rng.u8(0..4) == 0).then(|| rng.choice(WATCHER_VICES)).flatten(),
            asks: Asks::One([0, 0, 1, 3][rng.usize(0..4)]),
            lost: if rng.bool() { 0 } else { rng.u16(0..500) },
        };
        self.watcher = Some(watcher);
        self.withdraw_delay_secs = WATCHED_DELAY_SECS;
        for _ in 0..rng.usize(0..3) {
            let (at, ms) = (rng.u64(0..horizon), rng.u64(500..120_000));
            self.operations.push((at, Operation::KillWatcher { ms }));
        }
        // Mostly where something is promised to the one that goes.
        let owed = watcher.vice.is_none() && self.vice.is_none() && self.asks != LIAR;
        if rng.u8(0..12) < if owed { 4 } else { 1 } {
            // Not before there are channels: opening one takes minutes.
            let gone = 400_000 + rng.u64(0..horizon);
            let before = gone - rng.u64(0..120_000);
            let traffic = traffic(rng, self.consumers.len(), self.credit.initial.get());
            self.operations.push((before, traffic));
            self.operations.push((gone, Operation::ProviderGone));
            for consumer in 0..self.consumers.len() {
                let leaves = gone + rng.u64(0..120_000);
                self.operations.push((leaves, Operation::LeaveChain { consumer }));
                let killed = leaves + rng.u64(0..600_000);
                self.operations.push((killed, Operation::KillWatcher { ms: rng.u64(0..300_000) }));
                // As soon as it can: what is not claimed by then is lost.
                let delay = u64::from(WATCHED_DELAY_SECS) * 1_000;
                let leaves = leaves + delay + rng.u64(30_000..300_000);
                self.operations.push((leaves, Operation::FinishLeaving { consumer }));
            }
        }
    }

    /// In one history of three most parties ask three endpoints, of which two must agree and one is
    /// in trouble, now this one and now that.
    fn panel(&mut self, rng: &mut Rng) {
        if rng.u8(0..3) != 0 {
            return;
        }
        let horizon = self.operations.last().map_or(0, |(at, _)| *at) + 30_000;
        let parties = self.consumers.iter_mut().map(|it| &mut it.asks);
        let parties = parties.chain(self.watcher.as_mut().map(|it| &mut it.asks));
        for asks in parties.chain([&mut self.asks]) {
            if rng.u8(0..4) != 0 {
                *asks = Asks::TwoOf(PANEL);
            }
        }
        for change in 0..rng.usize(1..6) {
            let at = if change == 0 { 0 } else { rng.u64(0..horizon) };
            let endpoint = PANEL[rng.usize(0..PANEL.len())];
            let trouble = TROUBLES[rng.usize(0..TROUBLES.len())];
            self.operations.push((at, Operation::Troubled { endpoint, trouble }));
        }
        self.operations.sort_by_key(|(at, _)| *at);
    }

    /// In one history of six the provider's price changes between sessions: up, down, to nothing
    /// and back. Sessions that are resumed go on at theirs.
    fn prices(&mut self, rng: &mut Rng) {
        if rng.u8(0..6) != 0 {
            return;
        }
        let horizon = self.operations.last().map_or(0, |(at, _)| *at).max(60_000);
        for _ in 0..rng.usize(1..5) {
            let price = match (rng.u8(0..4), self.price.get()) {
                (0, 1..) => 0,
                (0 | 1, _) => self.price.get().max(1 << 18),
                (_, 0) => 1 << rng.u32(18..31),
                (_, price) => price * u128::from(rng.u8(1..40)) / 10 + 1,
            };
            let price = Price::per_gib(price).unwrap_or(self.price);
            let at = rng.u64(0..horizon);
            self.operations.push((at, Operation::Price { price }));
            // Sessions must end for another to begin, and break for one to be resumed.
            let consumer = rng.usize(0..self.consumers.len());
            let after = at + rng.u64(0..30_000);
            self.operations.push(match rng.u8(0..3) {
                0 => (after, Operation::CloseSession { consumer }),
                1 => (after, Operation::Cut { node: 1 + consumer, ms: rng.u64(30_000..60_000) }),
                _ => (after, Operation::Kill { node: rng.usize(0..2), ms: 2_000 }),
            });
            for at in [at, after + 1_000] {
                let initial = self.credit.initial.get();
                self.operations.push((at, traffic(rng, self.consumers.len(), initial)));
            }
            // What a channel holds is worth as many bytes at the new price as at the first one.
            for consumer in &mut self.consumers {
                let worth = ByteCount::new(self.credit.initial.get() * rng.u64(2..40));
                let amount = price.owed(worth).unwrap_or(Amount::MAX);
                consumer.channel_amount = consumer.channel_amount.max(amount);
            }
        }
        self.operations.sort_by_key(|(at, _)| *at);
    }

    /// Whether the provider's price changes.
    pub fn price_varies(&self) -> bool {
        self.operations.iter().any(|(_, operation)| matches!(operation, Operation::Price { .. }))
    }

    /// The dearest that the provider ever asks.
    pub fn price_max(&self) -> Price {
        let prices = self.operations.iter().filter_map(|(_, operation)| match operation {
            Operation::Price { price } => Some(*price),
            _ => None,
        });
        prices.chain([self.price]).max().unwrap_or(self.price)
    }

    /// Whether any fault of the clock is in it: then refusals for it are fair.
    pub fn skews(&self) -> bool {
        self.operations.iter().any(|(_, operation)| matches!(operation, Operation::Skew { .. }))
    }
}

/// Much is carried over good lines, a hundred times the first credit and more, so that what was paid
/// earns credit.
fn prosper(
    rng: &mut Rng,
    price: Price,
    consumers: &mut [ConsumerPlan],
    horizon: u64,
    operations: &mut Vec<(u64, Operation)>,
) -> CreditRule {
    let initial = rng.u64(256..512);
    operations.retain(|(_, operation)| !matches!(operation, Operation::Traffic { .. }));
    for consumer in &mut *consumers {
        let worth = price.owed(ByteCount::new(initial * rng.u64(100..300))).unwrap_or(Amount::MAX);
        consumer.channel_amount = consumer.channel_amount.max(worth);
        consumer.line = Line { delay_ms: consumer.line.delay_ms, ..Line::PERFECT };
    }
    for _ in 0..rng.usize(4..8) {
        let consumer = rng.usize(0..consumers.len());
        let (up, down) = (rng.u64(0..initial), initial * rng.u64(10..50));
        let at = rng.u64(0..horizon);
        operations.push((at, Operation::Traffic { consumer, up, down }));
        if rng.u8(0..3) == 0 {
            operations.push((at + 20_000, Operation::CloseSession { consumer }));
        }
    }
    let maximum = ByteCount::new(initial * rng.u64(2..9));
    CreditRule { initial: ByteCount::new(initial), maximum }
}

/// The shortest withdraw delay that the contract takes, in seconds.
fn delay_min() -> u32 {
    900
}

fn line(rng: &mut Rng) -> Line {
    let bad = rng.u8(0..4) == 0;
    Line {
        delay_ms: rng.u64(1..120),
        jitter_ms: rng.u64(0..60),
        lost: if bad { rng.u16(0..200) } else { rng.u16(0..15) },
        repeated: rng.u16(0..30),
        rate: rng.u64(20..10_000),
        queue_ms: rng.u64(200..2_000),
    }
}

fn nat(rng: &mut Rng) -> Option<Nat> {
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let kinds = [EndpointIndependent, AddressDependent, AddressAndPortDependent];
    rng.bool().then(|| Nat {
        mapping: kinds[rng.usize(0..3)],
        filtering: kinds[rng.usize(0..3)],
        timeout_ms: rng.u64(20_000..120_000),
        forwarded: false,
    })
}

fn asks(rng: &mut Rng) -> Asks {
    match rng.u8(0..20) {
        0..=13 => Asks::One(0),
        14..=16 => Asks::One(1),
        17 => LIAR,
        _ => Asks::One(3),
    }
}

fn weather(rng: &mut Rng) -> Weather {
    let mut weather = match rng.u8(0..4) {
        0 | 1 => Weather::calm(),
        _ => Weather::storm(),
    };
    weather.endpoints = vec![
        if rng.bool() {
            Endpoint::default()
        } else {
            Endpoint { outages: 20, outage_max_ms: 60_000, answers_lost: 30, ..Endpoint::default() }
        },
        Endpoint::lagging(rng.u64(1..6)),
        Endpoint::lying(vec![
            Lie::MoreReserved(Amount::new(1 << 40).unwrap_or(Amount::MAX)),
            Lie::NeverClosing,
            Lie::NoClaims,
        ]),
        Endpoint { requests_per_sec: Some(8), swallows: 50, ..Endpoint::default() },
    ];
    weather
}

fn traffic(rng: &mut Rng, consumers: usize, initial: u64) -> Operation {
    let consumer = rng.usize(0..consumers);
    let (up, down) = match rng.u8(0..4) {
        0 => (initial * rng.u64(0..4), initial / 8 + 1),
        1 => (rng.u64(0..initial), initial * rng.u64(1..8)),
        _ => (rng.u64(0..500), initial * rng.u64(1..4)),
    };
    Operation::Traffic { consumer, up, down }
}

fn fault(
    rng: &mut Rng,
    nodes: usize,
    operations: &mut Vec<(u64, Operation)>,
    at: u64,
    consumers: usize,
    initial: u64,
) -> Operation {
    let node = rng.usize(0..nodes);
    let consumer = rng.usize(0..consumers);
    let ms = rng.u64(500..90_000);
    match rng.u8(0..30) {
        0 | 1 => Operation::Cut { node, ms },
        2 | 3 => Operation::Line { node, line: line(rng) },
        4 => Operation::Readdress { node: 1 + consumer },
        5 => Operation::Rebind { node: 1 + consumer },
        6 | 7 => Operation::Kill { node, ms: ms / 4 },
        8 | 9 => Operation::PowerCut { node, ms: ms / 4 },
        10..=13 => {
            // Something must be going on for it to fall between two outputs.
            operations.push((at, traffic(rng, consumers, initial)));
            Operation::CutBefore { node, outputs: rng.u8(0..24), power: rng.bool() }
        }
        14 | 15 => {
            operations.push((at, traffic(rng, consumers, initial)));
            let step = rng.u64(1..60);
            Operation::StopDiskAt { node, step, power: !step.is_multiple_of(3) }
        }
        16 => Operation::DiskFull { node, ms },
        17 | 18 => {
            let faults = [Fault::Read, Fault::Write, Fault::Sync, Fault::SyncForgets];
            Operation::DiskFault { node, fault: faults[rng.usize(0..4)], nth: rng.u64(1..40) }
        }
        19 => {
            let hours = rng.i64(-6..7);
            Operation::Skew { node, ms: hours * 3_600_000 + rng.i64(-5_000..5_000) }
        }
        20 => Operation::Reorg { depth: rng.u64(1..8) },
        21 => Operation::Halt { ms },
        22 => Operation::Spike { factor: rng.u64(2..60), ms: ms * 4 },
        23 => Operation::TakeDown { endpoint: rng.usize(0..4), ms },
        24 => Operation::FrontRun,
        25 => Operation::CloseSession { consumer },
        26 => Operation::LeaveChain { consumer },
        27 => Operation::Settle { provider: 0 },
        28 => Operation::ShutDown { provider: 0, ms },
        _ => Operation::ClaimOld { consumer },
    }
}
