//! A swarm with money, in virtual time: nodes that download and seed, connections that break, disks
//! that are slow, a chain, and everything that happens, drawn from one seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sparewire_content::{
    BLOCK_LEN, Bitfield, Block, Download, DownloadSetup, Geometry, PeerId, TICK_MS,
};
use sparewire_core::{ChannelId, Price, Timestamp};
use sparewire_protocol::{ChannelConfig, ChannelStatus, CreditRule, Message, Record, Role};

use super::{
    blocks::blocks,
    cast::{EPOCH, NODES_MAX, bytes, owed},
    chain::Chain,
    end::{Command, End, Key, Past},
    ledger::{Ledger, Reached},
    links::Link,
    store::Store,
    vice::{VICES, Vice},
};
use crate::random::Random;

/// After the last fault all that can be complete is, within so long, in ms of virtual time.
const COMPLETE_MS_MAX: u64 = 30 * 60_000;
/// Sessions are over so long after everybody wants to end them.
const SETTLE_MS_MAX: u64 = 45_000;

/// What is to be seen in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything.
    Any,
    /// Nobody cheats; connections, processes and disks fail.
    Honest,
    /// As [`Kind::Honest`], of two; the credit is one block, and there are shorter ones.
    Scant,
    /// Two have one half each, and more to give each other than a credit; a third has all, and is
    /// dear. Sessions end and begin again over connections that seldom break.
    Trade,
}

#[derive(Clone)]
pub(crate) enum Wire {
    Bitfield(Vec<u8>),
    Have(u32),
    Interested(bool),
    Choke,
    Unchoke,
    Request(Block),
    Cancel(Block),
    Piece {
        block: Block,
        good: bool,
    },
    AskLeaves(u32),
    Leaves {
        piece: u32,
        gives: bool,
    },
    /// Of a session, or the end of the sender's half of it.
    Frame {
        from_payer: bool,
        message: Option<Box<Message>>,
    },
}

#[derive(Clone, Copy)]
pub(crate) enum ChainOp {
    Open { config: ChannelConfig, amount: u128 },
    TopUp { channel: ChannelId, amount: u128 },
}

#[allow(clippy::large_enum_variant)] // some hundreds at a time
pub(crate) enum Happening {
    Wire { link: u64, key: Key, wire: Wire },
    Notice { link: u64, key: Key },
    Tick { node: usize, life: u32 },
    Wake { key: Key, role: Role, task: u64 },
    Durable { key: Key, role: Role, task: u64, life: u32, channel: ChannelId, records: Vec<Record> },
    Sent { key: Key, link: u64, block: Block, good: bool },
    Written { node: usize, life: u32, block: Block, stamp: u64 },
    Judge { node: usize, life: u32, piece: u32 },
    Copies { node: usize, life: u32, piece: u32 },
    Look { key: Key, task: u64 },
    Mined { key: Key, number: u64, op: ChainOp },
    Late { key: Key, link: u64, message: Message },
    Boot { node: usize },
    Kill { node: usize },
    Fault,
    Audit,
}

#[derive(Clone, Copy)]
pub(crate) struct Landed {
    pub(crate) from: PeerId,
    pub(crate) good: bool,
    pub(crate) stamp: u64,
    pub(crate) written: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct Copy {
    pub(crate) from: PeerId,
    pub(crate) block: Block,
    pub(crate) good: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut,
    Kill,
}

pub(crate) struct Node {
    pub(crate) vice: Option<Vice>,
    /// It has money for all that it could ever need.
    pub(crate) rich: bool,
    pub(crate) funds: u128,
    pub(crate) price: Price,
    pub(crate) price_max: Price,
    pub(crate) credit: CreditRule,
    pub(crate) channel_amount: u128,
    /// How long it takes to send a block, in ms.
    pub(crate) pace: u64,
    // What is on its disk.
    pub(crate) store: Store,
    pub(crate) had: Bitfield,
    /// Blocks of pieces that are not had, and whether they are good.
    pub(crate) kept: BTreeMap<Block, bool>,
    /// Pieces not had whose leaf hashes are here.
    pub(crate) leaves: BTreeSet<u32>,
    pub(crate) banned: BTreeSet<usize>,
    // What is known of it from outside.
    pub(crate) passed: BTreeSet<Block>,
    pub(crate) had_first: u64,
    pub(crate) twice: u64,
    pub(crate) completed_at: Option<u64>,
    // Its process.
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) download: Download,
    pub(crate) ids: BTreeMap<PeerId, usize>,
    pub(crate) pending: BTreeMap<Block, Landed>,
    pub(crate) checks: BTreeSet<u32>,
    pub(crate) copies: Vec<Copy>,
    pub(crate) past: Past,
    pub(crate) closing: bool,
    pub(crate) disk_fails: bool,
    pub(crate) fuse: Option<(u32, Fault)>,
    pub(crate) said: Vec<(usize, Role, Message)>,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: u64,
    numbers: u64,
    pub(crate) happenings: BTreeMap<(u64, u64), Happening>,
    pub(crate) geometry: Arc<Geometry>,
    pub(crate) by_block: bool,
    mutual: bool,
    /// Sellers want to end their sessions now and then; the next can begin at once.
    restless: bool,
    pub(crate) unit: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ends: BTreeMap<Key, End>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) chain: Chain,
    pub(crate) ledger: Ledger,
    pub(crate) calm_at: u64,
    pub(crate) fault_every: u64,
    pub(crate) turns: u32,
    pub(crate) turns_at: u64,
    pub(crate) traces: bool,
}

impl World {
    pub(crate) fn new(seed: u64, kind: Kind) -> Self {
        let mut random = Random(seed);
        let by_block = kind == Kind::Scant || random.one_in(2);
        let piece_len = match by_block {
            true => BLOCK_LEN * random.of(&[1, 2, 4]),
            false => random.of(&[16_384, 32_768, 40_000, 65_536]),
        };
        // Much that each has and another wants, at less than who has all takes for it.
        let (trade, scant) = (kind == Kind::Trade, kind == Kind::Scant);
        let mutual = trade || !scant && random.one_in(2);
        let pieces = match mutual {
            true => 8 + random.below(40) as u32,
            false => 1 + random.below(12) as u32,
        };
        let mut short = BTreeMap::new();
        if scant || random.one_in(2) {
            short.insert(pieces - 1, 1 + random.below(u64::from(piece_len) - 1) as u32);
        }
        let geometry = Arc::new(Geometry::new(piece_len, pieces, short).unwrap());
        let unit = u64::from(if by_block { BLOCK_LEN.min(piece_len) } else { piece_len });
        let calm = random.one_in(3) || trade && random.one_in(2);
        let restless = trade || !scant && random.one_in(2);
        let mut world = Self {
            now: 0,
            numbers: 0,
            happenings: BTreeMap::new(),
            by_block,
            mutual,
            restless,
            unit,
            nodes: Vec::new(),
            ends: BTreeMap::new(),
            links: BTreeMap::new(),
            chain: Chain::default(),
            ledger: Ledger::default(),
            calm_at: if calm { 0 } else { 1_000 + random.below(60_000) },
            fault_every: random.of(&[300, 1_000, 4_000, 15_000, 30_000]),
            turns: 0,
            turns_at: 0,
            traces: std::env::var_os("MARKET_TRACE").is_some(),
            geometry,
            random,
        };
        let nodes = match trade {
            _ if scant => 2,
            true => 3,
            false => 2 + world.random.below(NODES_MAX as u64 - 1) as usize,
        };
        // Whole units of money for a block, or blocks for a unit.
        let scale = world.random.of(&[1 << 16, 1 << 26, 12_345_678_901, 777]);
        for number in 0..nodes {
            world.join(number, kind, scale);
        }
        for node in 0..nodes {
            world.boot(node);
        }
        let first = world.fault_every;
        world.at(first, Happening::Fault);
        world.at(700, Happening::Audit);
        world
    }

    fn join(&mut self, number: usize, kind: Kind, scale: u128) {
        let random = &mut self.random;
        let pieces = self.geometry.pieces();
        let vice = match kind {
            Kind::Any if number > 0 && random.one_in(3) => Some(random.of(&VICES)),
            Kind::Trade if number > 1 && random.one_in(2) => {
                Some(random.of(&[Vice::SetsOffTwice, Vice::SetsOffTwice, Vice::PaysShort]))
            }
            _ => None,
        };
        let mut had = Bitfield::none(pieces);
        if kind == Kind::Trade && number > 0 {
            (0..pieces).filter(|piece| (piece + number as u32).is_multiple_of(2)).for_each(
                |piece| {
                    had.insert(piece);
                },
            );
        } else if number == 0 || random.one_in(5) {
            had = Bitfield::all(pieces);
        } else if self.mutual || random.one_in(2) {
            (0..pieces).filter(|_| random.one_in(2)).for_each(|piece| {
                had.insert(piece);
            });
        }
        let dear = if self.mutual && number == 0 { 3 } else { 0 };
        let price = Price::per_gib(scale * u128::from(1 + dear + random.below(4 - dear))).unwrap();
        let least: u64 = if kind == Kind::Trade { 32 } else { 16 };
        let mut credit = CreditRule {
            initial: bytes(
                random
                    .of(&[16, 24, 32, 64, 200])
                    .clamp(least, if kind == Kind::Scant { 16 } else { 200 })
                    << 10,
            ),
            maximum: bytes(0),
        };
        if !self.by_block {
            let least = 2 * u64::from(self.geometry.piece_len());
            credit.initial = credit.initial.max(bytes(least));
        }
        credit.maximum = bytes(credit.initial.get() * random.of(&[1, 4]));
        let dearest = Price::per_gib(scale * 4).unwrap();
        let least = owed(dearest, self.unit) + 1;
        let channel_amount = least * u128::from(1 + random.below(20));
        let rich = !random.one_in(4);
        let funds = channel_amount * if rich { 10_000 } else { u128::from(1 + random.below(4)) };
        self.chain.fund(number, funds);
        let mut passed = BTreeSet::new();
        for piece in had.iter() {
            passed.extend(blocks(&self.geometry, piece));
        }
        let had_first = passed.iter().map(|block| u64::from(block.len)).sum();
        let setup = self.download_setup(had.clone());
        let pace = self.random.of(&[1, 5, 20, 80, 300]);
        self.nodes.push(Node {
            vice,
            rich,
            funds,
            price,
            price_max: dearest,
            credit,
            channel_amount,
            pace,
            store: Store::default(),
            had,
            kept: BTreeMap::new(),
            leaves: BTreeSet::new(),
            banned: BTreeSet::new(),
            passed,
            had_first,
            twice: 0,
            completed_at: None,
            up: false,
            life: 0,
            download: Download::new(setup),
            ids: BTreeMap::new(),
            pending: BTreeMap::new(),
            checks: BTreeSet::new(),
            copies: Vec::new(),
            past: Past::default(),
            closing: false,
            disk_fails: false,
            fuse: None,
            said: Vec::new(),
        });
    }

    pub(crate) fn download_setup(&mut self, have: Bitfield) -> DownloadSetup {
        DownloadSetup {
            geometry: self.geometry.clone(),
            have,
            by_block: self.by_block,
            price_max: Price::MAX,
            random: self.random.next(),
            now: self.clock(),
        }
    }

    // --- What there is of everything ---

    pub(crate) fn clock(&self) -> Timestamp {
        EPOCH.plus_ms(self.now)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn at(&mut self, at: u64, what: Happening) {
        let number = self.number();
        self.happenings.insert((at.max(self.now), number), what);
    }

    pub(crate) fn is_honest(&self, node: usize) -> bool {
        self.nodes[node].vice.is_none()
    }

    /// Whether the connection is there, and always was quick.
    pub(crate) fn is_quick(&self, link: u64) -> bool {
        self.links.get(&link).is_some_and(|link| !link.stalled)
    }

    // --- Time ---

    /// Runs until all is settled; every check on the way.
    pub(crate) fn run(mut self) -> Reached {
        let deadline = self.calm_at + COMPLETE_MS_MAX;
        while !self.all_complete() || self.now < self.calm_at {
            self.step();
            if self.now > deadline {
                self.stuck("not complete");
            }
        }
        self.ledger.reached.slowest_ms = self.now.saturating_sub(self.calm_at);
        // Some go on for a while, poor or bad ones too.
        let more = self.now + self.random.below(5_000);
        while self.now < more {
            self.step();
        }
        self.calm_at = self.now;
        for node in 0..self.nodes.len() {
            self.nodes[node].closing = true;
            self.nodes[node].fuse = None;
            let keys: Vec<Key> = self.keys_of(node);
            for key in keys {
                if let Some(task) = self.ends.get_mut(&key).and_then(|end| end.selling.as_mut()) {
                    task.commands.push_back(Command::Close("the provider is shutting down"));
                    self.wake(key, Role::Payee, self.now);
                }
                self.drive(key);
            }
        }
        let over = self.now + SETTLE_MS_MAX;
        while self.now < over {
            self.step();
        }
        for key in self.ends.keys().filter(|key| self.is_honest(key.0)) {
            if !self.is_quiet(*key) {
                self.stuck("a session does not end");
            }
        }
        self.audit(true);
        self.check_set_off();
        self.check_paid();
        self.settle_all();
        let complete = self.nodes.iter().filter(|node| node.download.is_complete()).count();
        self.ledger.reached.complete += complete as u64;
        self.ledger.reached
    }

    fn all_complete(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| node.vice.is_some() || !node.rich || node.up && node.download.is_complete())
    }

    fn step(&mut self) {
        let Some(((at, _), what)) = self.happenings.pop_first() else {
            self.now += TICK_MS;
            return;
        };
        self.now = at;
        let lives = |world: &Self, node: usize, life: u32| {
            world.nodes[node].up && world.nodes[node].life == life
        };
        match what {
            Happening::Wire { link, key, wire } => {
                let here = self.ends.get(&key).is_some_and(|end| end.link == link && !end.lost);
                if here && self.links.contains_key(&link) {
                    self.hear(key, wire);
                }
            }
            Happening::Notice { link, key } => self.notice(link, key),
            Happening::Tick { node, life } if lives(self, node, life) => self.tick(node),
            Happening::Wake { key, role, task } => self.woken(key, role, task),
            Happening::Durable { key, role, task, life, channel, records } => {
                if lives(self, key.0, life) {
                    self.durable((key, role, task), channel, records);
                    self.drive(key);
                }
            }
            Happening::Sent { key, link, block, good } => self.sent(key, link, block, good),
            Happening::Written { node, life, block, stamp } if lives(self, node, life) => {
                self.written(node, block, stamp);
            }
            Happening::Judge { node, life, piece } if lives(self, node, life) => {
                self.judge(node, piece);
            }
            Happening::Copies { node, life, piece } if lives(self, node, life) => {
                self.judge_copies(node, piece);
            }
            Happening::Look { key, task } => self.look(key, task),
            Happening::Mined { key, number, op } => {
                let worked = match op {
                    ChainOp::Open { config, amount } => self.chain.open(key, config, amount),
                    ChainOp::TopUp { channel, amount } => self.chain.top_up(channel, amount),
                };
                self.mined(key, number, worked);
            }
            Happening::Late { key, link, message } => {
                if self.ends.get(&key).is_some_and(|end| end.link == link) {
                    let message = Some(Box::new(message));
                    self.send(key, Wire::Frame { from_payer: true, message });
                }
            }
            Happening::Boot { node } => self.boot(node),
            Happening::Kill { node } => self.kill(node),
            Happening::Fault => self.fault(),
            Happening::Audit => {
                let often = self.now < 10_000;
                let full = self.random.one_in(12);
                self.audit(full);
                let next = self.now + if often { 700 } else { 5_000 };
                self.at(next, Happening::Audit);
            }
            // Of a process that is gone.
            Happening::Tick { .. }
            | Happening::Written { .. }
            | Happening::Judge { .. }
            | Happening::Copies { .. } => {}
        }
    }

    pub(crate) fn keys_of(&self, node: usize) -> Vec<Key> {
        self.ends.range((node, 0)..(node + 1, 0)).map(|(key, _)| *key).collect()
    }

    fn tick(&mut self, node: usize) {
        let clock = self.clock();
        self.nodes[node].download.tick(clock);
        self.carry_out(node);
        for key in self.keys_of(node) {
            self.drive(key);
            if self.random.one_in(30)
                && let Some(task) = self.ends.get_mut(&key).and_then(|end| end.selling.as_mut())
            {
                task.commands.push_back(Command::Look);
                self.wake(key, Role::Payee, self.now);
            }
        }
        if self.restless && self.random.one_in(30) {
            self.ask_to_close(node);
        }
        for peer in node + 1..self.nodes.len() {
            if self.random.one_in(8) && !self.nodes[node].closing {
                self.connect(node, peer);
            }
        }
        if self.random.one_in(20) {
            self.watch(node);
        }
        match self.nodes[node].vice {
            Some(Vice::TakesAndLeaves) if self.random.one_in(20) => {
                let keys = self.keys_of(node);
                if !keys.is_empty() {
                    let key = keys[self.random.below(keys.len() as u64) as usize];
                    let link = self.ends[&key].link;
                    self.end_link(key, link);
                }
            }
            Some(Vice::LeavesOnChain) if self.random.one_in(150) => {
                let books = self.nodes[node].store.books.iter();
                let ours: Vec<ChannelId> = books
                    .filter(|(id, book)| {
                        book.role == Role::Payer && self.chain.channels.contains_key(id)
                    })
                    .map(|(id, _)| *id)
                    .collect();
                if !ours.is_empty() {
                    let id = ours[self.random.below(ours.len() as u64) as usize];
                    self.chain.start_close(id, clock.as_secs());
                    self.ledger.reached.left += 1;
                }
            }
            _ => {}
        }
        let life = self.nodes[node].life;
        self.at(self.now + TICK_MS, Happening::Tick { node, life });
    }

    /// Whether a payer leaves is seen in time, and claimed; a payer that has waited takes its money.
    fn watch(&mut self, node: usize) {
        let now = self.clock().as_secs();
        let ids: Vec<ChannelId> = self.nodes[node].store.books.keys().copied().collect();
        for id in ids {
            let Some(on) = self.chain.channels.get(&id) else { continue };
            let ChannelStatus::Closing { finish_at_secs } = on.status else { continue };
            let (claimed, payer) = (on.claimed, on.payer);
            if payer == node && now >= finish_at_secs {
                self.chain.finish_close(id, now).unwrap();
            } else if let Some(payment) = self.nodes[node].store.books[&id].promise()
                && payer != node
                && payment.voucher.body.amount.get() > claimed
            {
                let claimed = self.chain.claim(&payment.voucher);
                assert!(!self.is_honest(node) || claimed.is_ok(), "{claimed:?}");
            }
        }
    }

    /// Everything that may have to go on at an end.
    pub(crate) fn drive(&mut self, key: Key) {
        self.drive_buying(key);
        self.drive_selling(key);
        let Some(end) = self.ends.get(&key) else { return };
        if end.lost && self.is_quiet(key) {
            self.ends.remove(&key);
        }
    }
}
