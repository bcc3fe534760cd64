//! One peer, as the download sees it.

use std::collections::VecDeque;

use sparewire_core::{Price, Timestamp};

use super::{LATE_MAX, LATE_MS, QUEUE_MAX, QUEUE_MIN, QUEUE_MS, Supply, VOID_MAX, VOID_MS};
use crate::{BLOCK_LEN, Bitfield, Block};

/// How often a rate is taken, in ms at least.
const SAMPLE_MS: u64 = 250;

/// Which pieces a peer says it has.
#[derive(Debug)]
pub(super) enum Holds {
    All,
    Some(Bitfield),
}

impl Holds {
    pub(super) fn has(&self, piece: u32) -> bool {
        match self {
            Self::All => true,
            Self::Some(bits) => bits.has(piece),
        }
    }

    /// Its bits; `None` where they are all set.
    pub(super) fn bits(&self) -> Option<&Bitfield> {
        match self {
            Self::All => None,
            Self::Some(bits) => Some(bits),
        }
    }
}

/// A block that was asked of a peer: since `at`, or until `at` where it has been cancelled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) block: Block,
    pub(super) at: Timestamp,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) price: Option<Price>,
    queue_max: u32,
    pub(super) holds: Holds,
    /// How many pieces it has that we do not.
    pub(super) wanted: u32,
    pub(super) unchoked: bool,
    pub(super) told_interested: bool,
    /// When it was last told that we are.
    pub(super) interested_at: Timestamp,
    /// What it has been asked for and owes, oldest first. Invariant: it is an asker of exactly these
    /// slots of open pieces.
    pub(super) asks: VecDeque<Ask>,
    /// What was cancelled and may still come, oldest first.
    pub(super) late: VecDeque<Ask>,
    /// What was cancelled when it choked or before, oldest first. It has forgotten that, save what
    /// reached it only after it had unchoked again: that may still come, soon.
    pub(super) void: VecDeque<Ask>,
    /// When the last of that was cancelled.
    void_since: Timestamp,
    /// Bytes that may come from it in all.
    pub(super) limit: u64,
    /// Bytes that came and had been asked for.
    pub(super) taken: u64,
    /// Bytes in `asks`, `late` and `void`.
    pub(super) under_way: u64,
    /// The piece that it works on.
    pub(super) piece: Option<u32>,
    /// How many blocks it should have been asked for at a time.
    queue: u32,
    pub(super) rate: Rate,
    /// When a block last came from it, or was first asked for.
    pub(super) progress: Timestamp,
    /// Since when it has been asked for blocks and has sent none, whatever it choked in between.
    pub(super) waited_since: Option<Timestamp>,
    pub(super) snubbed_until: Timestamp,
    /// It has just choked us.
    pub(super) rests_until: Timestamp,
    /// It has not failed to give leaf hashes.
    pub(super) gives_leaves: bool,
    /// How often it has stalled since it last sent a block.
    pub(super) stalls: u32,
    pub(super) unasked: u32,
}

impl Peer {
    pub(super) fn new(supply: Supply, pieces: u32, now: Timestamp) -> Self {
        Self {
            price: supply.price,
            queue_max: supply.queue_max.clamp(1, QUEUE_MAX),
            holds: Holds::Some(Bitfield::none(pieces)),
            wanted: 0,
            unchoked: false,
            told_interested: false,
            interested_at: now,
            asks: VecDeque::new(),
            late: VecDeque::new(),
            void: VecDeque::new(),
            void_since: now,
            limit: if supply.price == Some(Price::FREE) { u64::MAX } else { 0 },
            taken: 0,
            under_way: 0,
            piece: None,
            queue: QUEUE_MIN,
            rate: Rate::new(now),
            progress: now,
            waited_since: None,
            snubbed_until: now,
            rests_until: now,
            gives_leaves: true,
            stalls: 0,
            unasked: 0,
        }
    }

    pub(super) fn is_priced(&self) -> bool {
        self.price != Some(Price::FREE)
    }

    /// Whether so many more bytes may be asked for.
    pub(super) fn affords(&self, bytes: u64) -> bool {
        self.limit.saturating_sub(self.taken).saturating_sub(self.under_way) >= bytes
    }

    /// Money: of one that is paid no more is asked than there is room for when it chokes, so that all
    /// of it goes on counting as under way.
    pub(super) fn is_full(&self) -> bool {
        self.asks.len() >= self.queue.min(self.queue_max) as usize
            || self.is_priced() && self.asks.len() + self.late.len() + self.void.len() >= VOID_MAX
    }

    pub(super) fn ask(&mut self, block: Block, now: Timestamp) {
        if self.asks.is_empty() {
            self.progress = now;
        }
        self.waited_since.get_or_insert(now);
        self.asks.push_back(Ask { block, at: now });
        self.under_way += u64::from(block.len);
    }

    /// A block came. Whether it was owed, or cancelled before; `None` for neither.
    pub(super) fn take(&mut self, block: Block, now: Timestamp) -> Option<Owed> {
        let asked = remove(&mut self.asks, block);
        let owed = match asked {
            Some(_) => Owed::Asked,
            None => {
                remove(&mut self.late, block).or_else(|| remove(&mut self.void, block))?;
                Owed::Cancelled
            }
        };
        self.under_way -= u64::from(block.len);
        let is_void = self.is_void(block);
        if asked.is_some_and(|ask| ask.at > self.void_since && !is_void) {
            // It was asked for this after what was void had been cancelled: nothing of that is left.
            self.free_void(|_| true);
        } else if asked.is_none() || is_void {
            // It may have been asked for this before it choked: the rest may follow.
            self.void.iter_mut().for_each(|ask| ask.at = now.plus_ms(VOID_MS));
        }
        if asked.is_some() && is_void {
            // This may be the first copy: the second is cancelled now, and only what is asked for
            // after that tells whether it still comes.
            self.void_since = now;
        }
        self.taken = self.taken.saturating_add(u64::from(block.len));
        self.rate.add(block.len);
        self.progress = now;
        self.waited_since = (!self.asks.is_empty()).then_some(now);
        self.stalls = 0;
        // As long as blocks come the queue grows by one for each: it doubles with each round trip.
        self.queue = (self.queue + 1).min(self.queue_for_rate());
        Some(owed)
    }

    /// Whether a block was cancelled when it choked, and may still come.
    pub(super) fn is_void(&self, block: Block) -> bool {
        self.void.iter().any(|ask| ask.block == block)
    }

    /// Takes back one ask; `false` where there was none. A cancelled one may still come.
    pub(super) fn forget(&mut self, block: Block, may_come: bool, now: Timestamp) -> bool {
        if remove(&mut self.asks, block).is_none() {
            return false;
        }
        if self.asks.is_empty() {
            self.waited_since = None;
        }
        if !may_come {
            self.under_way -= u64::from(block.len);
            return true;
        }
        if self.late.len() >= LATE_MAX
            && let Some(oldest) = self.late.pop_front()
        {
            self.under_way -= u64::from(oldest.block.len);
        }
        self.late.push_back(Ask { block, at: now.plus_ms(LATE_MS) });
        true
    }

    /// It says that it will not send a block that it was not waited for any more.
    pub(super) fn refused(&mut self, block: Block) {
        if remove(&mut self.void, block).or_else(|| remove(&mut self.late, block)).is_some() {
            self.under_way -= u64::from(block.len);
        }
    }

    /// It has choked: what it owed is void, and is to be cancelled. It may have unchoked already, and
    /// take for new what reaches it only then: so all of it may still come.
    pub(super) fn choke(&mut self, now: Timestamp) -> Vec<Block> {
        let at = now.plus_ms(VOID_MS);
        self.void_since = now;
        let owed: Vec<Block> = self.asks.drain(..).map(|ask| ask.block).collect();
        let cancelled = self.late.drain(..).map(|ask| ask.block);
        self.void.extend(cancelled.chain(owed.iter().copied()).map(|block| Ask { block, at }));
        let more = self.void.len().saturating_sub(VOID_MAX);
        for ask in self.void.drain(..more) {
            self.under_way -= u64::from(ask.block.len);
        }
        // Money: what may still come takes up credit.
        let void = self.void.iter().map(|ask| u64::from(ask.block.len));
        assert_eq!(self.under_way, void.sum::<u64>());
        owed
    }

    /// Void asks of which this is true do not come any more.
    fn free_void(&mut self, is_over: impl Fn(&Ask) -> bool) {
        while let Some(oldest) = self.void.front().filter(|ask| is_over(ask)) {
            self.under_way -= u64::from(oldest.block.len);
            self.void.pop_front();
        }
    }

    /// It was no time in which anything could have come.
    pub(super) fn interrupt(&mut self, gap_ms: u64) {
        self.progress = self.progress.plus_ms(gap_ms);
        self.waited_since = self.waited_since.map(|since| since.plus_ms(gap_ms));
        self.void.iter_mut().for_each(|ask| ask.at = ask.at.plus_ms(gap_ms));
    }

    /// Time goes on: what was cancelled long ago does not come any more.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.free_void(|ask| ask.at <= now);
        while let Some(oldest) = self.late.front().filter(|late| late.at <= now) {
            self.under_way -= u64::from(oldest.block.len);
            self.late.pop_front();
        }
        if self.asks.is_empty() {
            self.rate.pause(now);
        } else {
            self.rate.tick(now);
        }
        self.queue = self.queue.min(self.queue_for_rate());
    }

    /// It has stalled: begin small again.
    pub(super) fn shrink(&mut self) {
        self.queue = QUEUE_MIN;
        self.rate.per_sec = Some(0);
    }

    /// Bandwidth times delay, in blocks: what arrives within [`QUEUE_MS`].
    fn queue_for_rate(&self) -> u32 {
        let Some(per_sec) = self.rate.per_sec else { return QUEUE_MAX };
        let blocks = per_sec.saturating_mul(QUEUE_MS) / 1000 / u64::from(BLOCK_LEN);
        blocks.saturating_add(u64::from(QUEUE_MIN)).min(u64::from(QUEUE_MAX)) as u32
    }

    /// How long until `more` bytes have come after all that it owes, in ms.
    pub(super) fn drain_ms(&self, more: u32) -> u64 {
        let bytes: u64 = self.asks.iter().map(|ask| u64::from(ask.block.len)).sum();
        match self.rate.per_sec {
            // Nothing is known: as if it were quick with little, so that it is tried.
            None => bytes / u64::from(BLOCK_LEN),
            Some(per_sec) => (bytes + u64::from(more)).saturating_mul(1000) / per_sec.max(1),
        }
    }
}

/// Removes one ask for a block, the oldest.
fn remove(asks: &mut VecDeque<Ask>, block: Block) -> Option<Ask> {
    let at = asks.iter().position(|ask| ask.block == block)?;
    asks.remove(at)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Asked,
    Cancelled,
}

/// Bytes a second, as a moving average of a second or so.
#[derive(Debug)]
pub(super) struct Rate {
    /// `None` until it has been measured.
    pub(super) per_sec: Option<u64>,
    bytes: u64,
    since: Timestamp,
}

impl Rate {
    fn new(now: Timestamp) -> Self {
        Self { per_sec: None, bytes: 0, since: now }
    }

    fn add(&mut self, bytes: u32) {
        self.bytes += u64::from(bytes);
    }

    /// Nothing is owed: what it could send is still as it was.
    fn pause(&mut self, now: Timestamp) {
        if self.bytes > 0 {
            self.tick(now);
        } else {
            self.since = now;
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let ms = now.ms_since(self.since);
        if ms < SAMPLE_MS {
            return;
        }
        let sample = self.bytes.saturating_mul(1000) / ms;
        self.per_sec = match self.per_sec {
            None if self.bytes == 0 => None,
            None => Some(sample),
            Some(before) => Some((before.saturating_mul(3).saturating_add(sample)) / 4),
        };
        (self.bytes, self.since) = (0, now);
    }
}
