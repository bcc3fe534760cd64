//! A swarm of actors around one download.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use sparewire_content::{
    BLOCK_LEN, Bitfield, Block, DOUBLED_MAX, Download, DownloadSetup, DropReason, Geometry, Order,
    PAID_TWICE_MAX, PeerId, QUEUE_MAX, Supply, TICK_MS, Verdict,
};
use sparewire_core::{ByteCount, Price, Timestamp};

use crate::random::Random;

/// The most that may be paid.
const PRICE_MAX: u128 = 40;
/// A download that takes longer has got stuck.
const MINUTES_MAX: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Says it has all, and sends nothing.
    Liar,
    /// Sends bad blocks now and then.
    Spoiler,
    /// Chokes now and then.
    Moody,
    /// Chokes often, and unchokes before that is heard.
    Hasty,
    /// Leaves at any time, and comes back.
    Flaky,
    /// Falls silent after some blocks.
    Stopper,
    /// Is silent for longer than patience lasts, then sends.
    Sluggish,
    /// Sends blocks twice, and some that nobody asked for.
    Chatty,
    /// Does not hear cancels.
    Deaf,
    /// Answers some requests with no.
    Refuser,
    /// Gives no leaf hashes.
    Hashless,
    /// Speaks of pieces that there are not.
    Confused,
}

const MANNERS: [Manner; 12] = [
    Manner::Honest,
    Manner::Liar,
    Manner::Spoiler,
    Manner::Moody,
    Manner::Flaky,
    Manner::Stopper,
    Manner::Sluggish,
    Manner::Chatty,
    Manner::Deaf,
    Manner::Refuser,
    Manner::Hashless,
    Manner::Confused,
];

impl Manner {
    /// Whether what it does is ever reason to be taken for a cheat.
    fn is_fair(self) -> bool {
        !matches!(self, Self::Spoiler | Self::Chatty | Self::Confused | Self::Hashless)
    }
}

pub(crate) struct Plan {
    seed: u64,
    geometry: Geometry,
    by_block: bool,
    /// The first stays.
    actors: Vec<(Manner, u128)>,
}

impl Plan {
    pub(crate) fn any(seed: u64) -> Self {
        let mut random = Random(seed);
        let others = random.below(7);
        let mut actors = vec![(Manner::Honest, random.of(&[0, 0, 10, 20, 40]))];
        for _ in 0..others {
            actors.push((random.of(&MANNERS), random.of(&[0, 0, 0, 10, 20, 30, 50])));
        }
        Self::with(random, actors)
    }

    pub(crate) fn spoiled(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut actors = vec![(Manner::Honest, 10)];
        for _ in 0..1 + random.below(4) {
            actors.push((Manner::Spoiler, random.of(&[0, 10])));
        }
        Self::with(random, actors)
    }

    /// Sellers that are asked first choke and unchoke at once, again and again.
    pub(crate) fn hasty(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut actors = vec![(Manner::Honest, 40)];
        for _ in 0..1 + random.below(3) {
            actors.push((Manner::Hasty, random.of(&[10, 20, 30])));
        }
        Self::with(random, actors)
    }

    fn with(mut random: Random, actors: Vec<(Manner, u128)>) -> Self {
        let by_block = random.one_in(2);
        let piece_len = match by_block {
            true => BLOCK_LEN * random.of(&[1, 2, 4, 8]),
            false => random.of(&[16_384, 32_768, 40_000, 65_536, 100_000]),
        };
        let most = random.of(&[6, 24, 24, 200]);
        let pieces = 1 + random.below(most) as u32;
        let mut short = BTreeMap::new();
        for _ in 0..random.below(3) {
            short.insert(
                random.below(pieces.into()) as u32,
                1 + random.below(piece_len as u64 - 1) as u32,
            );
        }
        let geometry = Geometry::new(piece_len, pieces, short).unwrap();
        Self { seed: random.next(), geometry, by_block, actors }
    }
}

#[derive(Clone, Copy, Debug)]
enum ToPeer {
    Request(Block),
    Cancel(Block),
    AskLeaves(u32),
}

#[derive(Clone, Debug)]
enum FromPeer {
    Bitfield(Vec<u8>),
    HaveAll,
    Have(u32),
    Choke,
    Unchoke,
    Data(Block, bool),
    Leaves(u32, bool),
    Reject(Block),
}

struct Actor {
    manner: Manner,
    price: Option<u128>,
    has: Bitfield,
    stays: bool,
    banned: bool,
    id: Option<PeerId>,
    to_it: VecDeque<ToPeer>,
    from_it: VecDeque<FromPeer>,
    queue: VecDeque<Block>,
    chokes: bool,
    /// As we have been told.
    choked: bool,
    told_all: Bitfield,
    /// Bytes sent, paid, and allowed since it joined.
    sent: u64,
    paid: u64,
    limit: u64,
    interested: bool,
    silent_until: u64,
    blocks_left: u64,
    sent_last: Option<Block>,
    speed: u64,
}

pub(crate) struct World {
    random: Random,
    geometry: Arc<Geometry>,
    by_block: bool,
    download: Download,
    actors: Vec<Actor>,
    ids: BTreeMap<PeerId, usize>,
    next_id: u32,
    now: u64,
    /// Who is asked for what, now.
    live: BTreeMap<Block, BTreeSet<PeerId>>,
    /// Blocks that are wanted and not judged: who sent them, and whether they are good.
    pending: BTreeMap<Block, (PeerId, usize, bool)>,
    leaves: BTreeSet<u32>,
    checks: Vec<u32>,
    passed: BTreeSet<Block>,
    had: BTreeSet<u32>,
    extras: u32,
    completed: bool,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut random = Random(plan.seed);
        let geometry = Arc::new(plan.geometry);
        let pieces = geometry.pieces();
        let mut have = Bitfield::none(pieces);
        if random.one_in(4) {
            (0..pieces).filter(|_| random.one_in(3)).for_each(|piece| {
                have.insert(piece);
            });
        }
        let mut download = Download::new(DownloadSetup {
            geometry: geometry.clone(),
            have: have.clone(),
            by_block: plan.by_block,
            price_max: Price::per_gib(PRICE_MAX).unwrap(),
            random: random.next(),
            now: Timestamp::from_ms(0),
        });
        let mut passed: BTreeSet<Block> =
            have.iter().flat_map(|piece| blocks(&geometry, piece)).collect();
        if plan.by_block && random.one_in(2) {
            for piece in (0..pieces).filter(|piece| !have.has(*piece)) {
                let mut blocks = blocks(&geometry, piece);
                blocks.pop();
                for block in blocks.into_iter().filter(|_| random.one_in(2)) {
                    download.keep(block);
                    passed.insert(block);
                }
            }
            assert!(download.passed_blocks().all(|block| passed.contains(&block)));
        }
        let actors = plan.actors.iter().enumerate().map(|(at, (manner, price))| {
            let mut has = Bitfield::all(pieces);
            if at > 0 && random.one_in(2) {
                has = Bitfield::none(pieces);
                (0..pieces).filter(|_| random.one_in(2)).for_each(|piece| {
                    has.insert(piece);
                });
            }
            Actor {
                manner: *manner,
                price: Some(*price),
                has,
                stays: at == 0,
                banned: false,
                id: None,
                to_it: VecDeque::new(),
                from_it: VecDeque::new(),
                queue: VecDeque::new(),
                chokes: true,
                choked: true,
                told_all: Bitfield::none(pieces),
                sent: 0,
                paid: 0,
                limit: 0,
                interested: false,
                silent_until: 0,
                blocks_left: 3 + random.below(20),
                sent_last: None,
                // Some need rounds for a block, so that others have time for what they do.
                speed: random.of(&[10, 10, 50, 100, 300]) + random.below(20),
            }
        });
        let actors = actors.collect();
        Self {
            geometry,
            by_block: plan.by_block,
            download,
            actors,
            ids: BTreeMap::new(),
            next_id: 0,
            now: 0,
            live: BTreeMap::new(),
            pending: BTreeMap::new(),
            leaves: BTreeSet::new(),
            checks: Vec::new(),
            passed,
            had: have.iter().collect(),
            extras: 0,
            completed: false,
            random,
        }
    }

    /// Runs until all is here.
    pub(crate) fn run(mut self) {
        self.drain();
        while !self.completed {
            assert!(
                self.now < MINUTES_MAX * 60_000,
                "stuck with {} of {} pieces {:?}",
                self.had.len(),
                self.geometry.pieces(),
                self.download
            );
            self.now += 20 + self.random.below(TICK_MS);
            self.download.tick(Timestamp::from_ms(self.now));
            self.drain();
            for at in 0..self.actors.len() {
                self.turn(at);
                self.judge();
                self.pay();
                self.drain();
            }
        }
        assert_eq!(self.had.len() as u32, self.geometry.pieces());
        assert_eq!(self.download.passed_bytes().get(), self.geometry.data_len());
        let all: BTreeSet<Block> =
            (0..self.geometry.pieces()).flat_map(|piece| blocks(&self.geometry, piece)).collect();
        assert_eq!(self.passed, all, "each block passed, and once");
        assert_eq!(self.download.paid_twice(), self.extras);
        assert!(self.live.is_empty(), "nothing is asked any more");
    }

    /// What an actor does in a round, and what we hear of it.
    fn turn(&mut self, at: usize) {
        if self.actors[at].id.is_none() {
            if !self.actors[at].banned && (self.actors[at].stays || self.random.one_in(10)) {
                self.join(at);
            }
            return;
        }
        self.act(at);
        let heard = match self.actors[at].manner {
            _ if self.actors[at].stays => usize::MAX,
            Manner::Hasty => self.random.below(4) as usize,
            _ => self.random.below(12) as usize,
        };
        for _ in 0..heard.min(self.actors[at].from_it.len()) {
            let Some(message) = self.actors[at].from_it.pop_front() else { break };
            self.hear(at, message);
            if self.random.one_in(2) {
                self.drain();
            }
            if self.actors[at].id.is_none() {
                return;
            }
            if self.actors[at].manner == Manner::Flaky && self.random.one_in(30) {
                self.leave(at);
                return;
            }
        }
    }

    fn join(&mut self, at: usize) {
        let id = PeerId(self.next_id);
        self.next_id += 1;
        self.ids.insert(id, at);
        let queue_max = self.random.of(&[1, 4, 250, 10_000]);
        let actor = &mut self.actors[at];
        actor.id = Some(id);
        (actor.sent, actor.paid, actor.limit) = (0, 0, 0);
        (actor.chokes, actor.choked, actor.interested) = (true, true, false);
        actor.told_all = Bitfield::none(self.geometry.pieces());
        let price = actor.price.map(|price| Price::per_gib(price).unwrap());
        let known = self.random.one_in(2).then_some(price).flatten();
        self.download.peer_joined(id, Supply { price: known, queue_max });
        if known.is_none() {
            self.download.priced(id, price.unwrap());
        }
        let actor = &mut self.actors[at];
        let says_all = actor.manner == Manner::Liar || actor.has.is_all();
        if says_all && self.random.one_in(2) {
            actor.from_it.push_back(FromPeer::HaveAll);
        } else {
            let bits =
                if says_all { Bitfield::all(self.geometry.pieces()) } else { actor.has.clone() };
            actor.from_it.push_back(FromPeer::Bitfield(bits.to_bytes()));
        }
        if actor.manner == Manner::Confused && self.random.one_in(4) {
            actor.from_it.push_back(FromPeer::Have(self.geometry.pieces()));
        }
        actor.chokes = false;
        actor.from_it.push_back(FromPeer::Unchoke);
    }

    fn leave(&mut self, at: usize) {
        let Some(id) = self.actors[at].id else { return };
        self.gone(at);
        self.download.peer_left(id);
    }

    fn gone(&mut self, at: usize) {
        let Some(id) = self.actors[at].id.take() else { return };
        self.void(id);
        let actor = &mut self.actors[at];
        actor.to_it.clear();
        actor.from_it.clear();
        actor.queue.clear();
    }

    fn void(&mut self, id: PeerId) {
        self.live.retain(|_, askers| {
            askers.remove(&id);
            !askers.is_empty()
        });
    }

    fn act(&mut self, at: usize) {
        let random = &mut self.random;
        let actor = &mut self.actors[at];
        while let Some(message) = actor.to_it.pop_front() {
            match message {
                ToPeer::Request(_) if actor.chokes => {}
                ToPeer::Request(block) if actor.manner == Manner::Refuser && random.one_in(4) => {
                    actor.from_it.push_back(FromPeer::Reject(block));
                }
                ToPeer::Request(block) => actor.queue.push_back(block),
                ToPeer::Cancel(_) if actor.manner == Manner::Deaf => {}
                ToPeer::Cancel(block) => actor.queue.retain(|queued| *queued != block),
                ToPeer::AskLeaves(piece) => {
                    let gives = actor.manner != Manner::Hashless;
                    if gives || random.one_in(2) {
                        actor.from_it.push_back(FromPeer::Leaves(piece, gives));
                    }
                }
            }
        }
        let chances = match actor.manner {
            Manner::Moody => Some(15),
            Manner::Hasty => Some(if actor.chokes { 2 } else { 20 }),
            _ => None,
        };
        if chances.is_some_and(|chances| random.one_in(chances)) {
            actor.chokes = !actor.chokes;
            if actor.chokes {
                actor.queue.clear();
            }
            actor.from_it.push_back(if actor.chokes { FromPeer::Choke } else { FromPeer::Unchoke });
        }
        if actor.manner == Manner::Sluggish && random.one_in(40) {
            actor.silent_until = self.now + 5_000 + random.below(20_000);
        }
        if actor.manner == Manner::Liar || self.now < actor.silent_until {
            return;
        }
        let blocks = actor.speed / 50 + u64::from(random.below(50) < actor.speed % 50);
        for _ in 0..blocks {
            if actor.manner == Manner::Stopper && actor.blocks_left == 0 {
                break;
            }
            let Some(block) = actor.queue.pop_front() else { break };
            actor.blocks_left = actor.blocks_left.saturating_sub(1);
            let good = actor.manner != Manner::Spoiler || !random.one_in(3);
            let copies = if actor.manner == Manner::Chatty && random.one_in(3) { 2 } else { 1 };
            for _ in 0..copies {
                actor.from_it.push_back(FromPeer::Data(block, good));
                actor.sent += u64::from(block.len);
            }
            if actor.price != Some(0) && actor.manner != Manner::Chatty {
                assert!(actor.sent <= actor.limit, "more was asked for than is allowed");
            }
            actor.sent_last = Some(block);
        }
        if actor.manner == Manner::Chatty
            && let Some(block) = actor.sent_last.filter(|_| random.one_in(8))
        {
            actor.from_it.push_back(FromPeer::Data(block, true));
            let odd = Block { begin: block.begin + 1, ..block };
            actor.from_it.push_back(FromPeer::Data(odd, true));
        }
        let piece = random.below(self.geometry.pieces().into()) as u32;
        if random.one_in(20) && actor.has.insert(piece) {
            actor.from_it.push_back(FromPeer::Have(piece));
        }
    }

    fn hear(&mut self, at: usize, message: FromPeer) {
        let Some(id) = self.actors[at].id else { return };
        let actor = &mut self.actors[at];
        match message {
            FromPeer::Bitfield(bytes) => {
                actor.told_all = Bitfield::from_bytes(&bytes, self.geometry.pieces()).unwrap();
                self.download.bitfield(id, &bytes);
            }
            FromPeer::HaveAll => {
                actor.told_all = Bitfield::all(self.geometry.pieces());
                self.download.have_all(id);
            }
            FromPeer::Have(piece) => {
                actor.told_all.insert(piece);
                self.download.have(id, piece);
            }
            FromPeer::Choke => {
                actor.choked = true;
                self.void(id);
                self.download.choked(id);
            }
            FromPeer::Unchoke => {
                actor.choked = false;
                self.download.unchoked(id);
            }
            FromPeer::Reject(block) => {
                self.answered(id, block);
                self.download.rejected(id, block);
            }
            FromPeer::Leaves(piece, true) => {
                self.leaves.insert(piece);
                self.download.leaves_known(piece);
            }
            FromPeer::Leaves(piece, false) => self.download.leaves_refused(id, piece),
            FromPeer::Data(block, good) => self.data(at, id, block, good),
        }
    }

    fn answered(&mut self, id: PeerId, block: Block) -> bool {
        let Some(askers) = self.live.get_mut(&block) else { return false };
        let was_asked = askers.remove(&id);
        if askers.is_empty() {
            self.live.remove(&block);
        }
        was_asked
    }

    fn data(&mut self, at: usize, id: PeerId, block: Block, good: bool) {
        let asked = self.answered(id, block);
        let verdict = self.download.arrived(id, block, Timestamp::from_ms(self.now));
        match verdict {
            Verdict::Wanted => {
                assert!(!self.passed.contains(&block), "a block that has passed is wanted");
                let before = self.pending.insert(block, (id, at, good));
                assert!(before.is_none(), "a block that waits to be judged is wanted");
            }
            Verdict::Duplicate => {
                if self.actors[at].price != Some(0) {
                    // Counted even where it is bad: the machine cannot know.
                    self.extras += 1;
                    assert!(self.extras <= PAID_TWICE_MAX);
                }
                if good && self.actors[at].id == Some(id) {
                    self.actors[at].paid += u64::from(block.len);
                }
                if !good && self.actors[at].id == Some(id) && self.random.one_in(2) {
                    self.actors[at].banned = true;
                    self.leave(at);
                }
            }
            Verdict::Unasked => {
                self.drain(); // it may have been dropped meanwhile
                let fair = asked && self.extras < PAID_TWICE_MAX && self.actors[at].id == Some(id);
                assert!(!fair, "an asked block does not count");
            }
        }
    }

    /// Some of what waits is judged.
    fn judge(&mut self) {
        if self.by_block {
            let due: Vec<Block> = self
                .pending
                .keys()
                .copied()
                .filter(|block| {
                    self.leaves.contains(&block.piece) || self.geometry.blocks_of(block.piece) == 1
                })
                .collect();
            for block in due {
                if self.random.one_in(4) {
                    continue;
                }
                let Some((id, at, good)) = self.pending.remove(&block) else { continue };
                if good {
                    self.count(block, id, at);
                    self.download.passed(block);
                } else {
                    self.download.block_failed(id, block);
                }
            }
        }
        for piece in std::mem::take(&mut self.checks) {
            if self.random.one_in(4) {
                self.checks.push(piece);
                continue;
            }
            let here =
                |block: &Block| self.passed.contains(block) || self.pending.contains_key(block);
            if !blocks(&self.geometry, piece).iter().all(here) {
                continue; // some were judged by themselves meanwhile, and were bad
            }
            let waiting: Vec<Block> =
                self.pending.keys().copied().filter(|block| block.piece == piece).collect();
            let good = waiting.iter().all(|block| self.pending[block].2);
            let digests: Vec<u64> = blocks(&self.geometry, piece)
                .iter()
                .map(|block| match self.pending.get(block) {
                    Some((_, at, false)) => 1_000 + *at as u64,
                    _ => u64::from(block.begin),
                })
                .collect();
            let digests = match good && !self.download.wants_digests(piece) {
                true => Vec::new(),
                false => digests,
            };
            for block in waiting {
                let (id, at, _) = self.pending.remove(&block).unwrap();
                if good {
                    self.count(block, id, at);
                }
            }
            match good {
                true => self.download.piece_passed(piece, &digests),
                false => self.download.piece_failed(piece, &digests),
            }
        }
    }

    /// The ledger: a block counts once, for the one who sent it first.
    fn count(&mut self, block: Block, id: PeerId, at: usize) {
        assert!(self.passed.insert(block), "a block counts twice");
        if self.actors[at].id == Some(id) {
            self.actors[at].paid += u64::from(block.len);
        }
    }

    /// Pays those who are paid: that lets them go on.
    fn pay(&mut self) {
        let blockwise = u64::from(BLOCK_LEN) * 4;
        let credit = match self.by_block {
            true => blockwise,
            false => 2 * u64::from(self.geometry.piece_len()),
        };
        for actor in &mut self.actors {
            let Some(id) = actor.id.filter(|_| actor.price != Some(0) && actor.interested) else {
                continue;
            };
            if actor.limit < actor.paid + credit && !self.random.one_in(3) {
                actor.limit = actor.paid + credit;
                self.download.allow(id, ByteCount::new(actor.limit));
            }
        }
    }

    /// Carries out what the machine wants.
    fn drain(&mut self) {
        while let Some(order) = self.download.poll_order() {
            match order {
                Order::Request(id, block) => self.requested(id, block),
                Order::Cancel(id, block) => {
                    self.answered(id, block); // if it did not come before we heard of this
                    self.tell(id, ToPeer::Cancel(block));
                }
                Order::Interested(id) => {
                    let actor = self.actor(id);
                    assert!(!actor.interested && actor.price.unwrap() <= PRICE_MAX);
                    actor.interested = true;
                }
                Order::NotInterested(id) => {
                    let actor = self.actor(id);
                    assert!(actor.interested);
                    actor.interested = false;
                }
                Order::AskLeaves(id, piece) => {
                    assert!(self.by_block && self.geometry.blocks_of(piece) > 1);
                    self.tell(id, ToPeer::AskLeaves(piece));
                }
                Order::Check(piece) => self.checks.push(piece),
                Order::Forget(piece) => self.pending.retain(|block, _| block.piece != piece),
                Order::Have(piece) => {
                    assert!(self.had.insert(piece), "a piece is had twice");
                    for block in blocks(&self.geometry, piece) {
                        assert!(self.passed.contains(&block), "had before it has passed");
                    }
                }
                Order::Drop(id, why) => self.dropped(id, why),
                Order::Complete => {
                    assert!(!self.completed);
                    self.completed = true;
                }
            }
        }
    }

    fn actor(&mut self, id: PeerId) -> &mut Actor {
        let actor = &mut self.actors[self.ids[&id]];
        assert_eq!(actor.id, Some(id), "orders for a peer that is gone");
        actor
    }

    fn tell(&mut self, id: PeerId, message: ToPeer) {
        self.actor(id).to_it.push_back(message);
    }

    fn requested(&mut self, id: PeerId, block: Block) {
        assert!(self.geometry.number_of(block).is_some());
        assert!(!self.passed.contains(&block), "what has passed is asked for");
        let askers = self.live.entry(block).or_default();
        assert!(askers.insert(id), "asked twice of one peer");
        assert!(askers.len() <= 2, "asked of three");
        let doubled = self.live.values().filter(|askers| askers.len() > 1).count();
        assert!(doubled as u32 <= DOUBLED_MAX);
        let owed = self.live.values().filter(|askers| askers.contains(&id)).count();
        assert!(owed as u32 <= QUEUE_MAX);
        let actor = self.actor(id);
        assert!(!actor.choked && actor.told_all.has(block.piece));
        assert!(actor.price.unwrap() <= PRICE_MAX);
        actor.to_it.push_back(ToPeer::Request(block));
    }

    fn dropped(&mut self, id: PeerId, why: DropReason) {
        let at = self.ids[&id];
        let actor = &mut self.actors[at];
        match why {
            DropReason::BadData => {
                assert_eq!(actor.manner, Manner::Spoiler, "a good peer is taken for a bad one");
                actor.banned = true;
            }
            DropReason::BadPiece => assert_eq!(actor.manner, Manner::Confused),
            DropReason::Unasked => {
                assert!(!actor.manner.is_fair());
                actor.banned = true;
            }
            DropReason::NoHashes => {
                assert!(self.by_block && actor.price != Some(0));
                actor.banned |= actor.manner == Manner::Hashless;
            }
            DropReason::Stalled => assert_ne!(actor.manner, Manner::Honest),
            DropReason::Spent => assert_ne!(actor.price, Some(0)),
            DropReason::Full => panic!("there is room"),
        }
        if actor.id == Some(id) {
            self.gone(at);
        }
    }
}

fn blocks(geometry: &Geometry, piece: u32) -> Vec<Block> {
    (0..geometry.blocks_of(piece)).filter_map(|number| geometry.block(piece, number)).collect()
}
