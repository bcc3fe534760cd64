//! What is here, what is under way, and what is still to be asked for.
//!
//! Each piece is in one of three states: had, open (some block of it is asked for or has arrived and
//! is not judged), or to do. Only open pieces have a record for each block; of the others there is a
//! bit, and of those to do that have passed in part, one bit for each block.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sparewire_core::Timestamp;

use super::{OPEN_BLOCKS_MAX, PeerId, peer::Holds};
use crate::{Bitfield, Block, Geometry};

/// How many pieces are compared for the rarest one. In a torrent with more to do, it is the rarest
/// of so many: a look at all for each piece would cost more than it gives.
const WINDOW: usize = 4096;

/// Where a block of an open piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Missing,
    /// One or two peers are asked.
    Asked(PeerId, Option<PeerId>),
    /// It came from this peer and waits to be judged.
    Arrived(PeerId),
    Passed,
}

/// Whether the leaf hashes of an open piece are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// Nobody gives them, or there are none: the piece is judged as a whole.
    None,
    Wanted,
    Asked(PeerId, Timestamp),
    Known,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) slots: Vec<Slot>,
    pub(super) missing: u32,
    pub(super) asked: u32,
    pub(super) waiting: u32,
    /// No missing slot lies before this one.
    first_missing: u32,
    /// Who works on it.
    pub(super) owner: Option<PeerId>,
    /// Nobody but the owner may be asked: it has failed once, and the next sender is to be known.
    pub(super) sole: bool,
    pub(super) leaves: Leaves,
    /// It has been given out to be judged as a whole.
    pub(super) checking: bool,
}

impl Open {
    pub(super) fn next_missing(&self) -> Option<u32> {
        let from = self.first_missing as usize;
        let at = self.slots.get(from..)?.iter().position(|slot| *slot == Slot::Missing)?;
        Some((from + at) as u32)
    }

    /// Puts a slot into another state.
    pub(super) fn put(&mut self, number: u32, new: Slot) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        let old = std::mem::replace(slot, new);
        for (state, more) in [(old, false), (new, true)] {
            let count = match state {
                Slot::Missing => &mut self.missing,
                Slot::Asked(..) => &mut self.asked,
                Slot::Arrived(_) => &mut self.waiting,
                Slot::Passed => continue,
            };
            *count = if more { *count + 1 } else { *count - 1 };
        }
        if new == Slot::Missing {
            self.first_missing = self.first_missing.min(number);
        } else if number == self.first_missing {
            self.first_missing += 1;
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.missing + self.asked + self.waiting < self.slots.len() as u32
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asked == 0 && self.waiting == 0
    }

    /// Blocks that wait to be judged, and who sent them.
    pub(super) fn arrived(&self) -> Vec<(u32, PeerId)> {
        let arrived = |(slot, number): (&Slot, u32)| match slot {
            Slot::Arrived(from) => Some((number, *from)),
            _ => None,
        };
        self.slots.iter().zip(0..).filter_map(arrived).collect()
    }
}

#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) geometry: Arc<Geometry>,
    pub(super) have: Bitfield,
    /// Neither had nor open.
    pub(super) todo: Bitfield,
    pub(super) open: BTreeMap<u32, Open>,
    /// Blocks of all open pieces together.
    open_blocks: u64,
    /// Open pieces in which a block is missing.
    pub(super) unfilled: BTreeSet<u32>,
    /// Which blocks have passed of pieces that are to do.
    parked: BTreeMap<u32, Bitfield>,
    /// Pieces not had whose leaf hashes whoever drives this has had from the start.
    pub(super) leaves_kept: BTreeSet<u32>,
    /// How many peers have a piece, those that have all left out.
    pub(super) availability: Vec<u8>,
    /// Where the last piece was begun.
    cursor: u32,
    /// Bytes that have passed.
    pub(super) passed_bytes: u64,
}

impl Pieces {
    pub(super) fn new(geometry: Arc<Geometry>, have: Bitfield, random: u64) -> Self {
        let pieces = geometry.pieces();
        assert_eq!(have.pieces(), pieces, "a bitfield of another torrent");
        let mut todo = Bitfield::all(pieces);
        let mut passed_bytes = 0;
        for piece in have.iter() {
            todo.remove(piece);
            passed_bytes += u64::from(geometry.len_of(piece));
        }
        Self {
            have,
            todo,
            open: BTreeMap::new(),
            open_blocks: 0,
            unfilled: BTreeSet::new(),
            parked: BTreeMap::new(),
            leaves_kept: BTreeSet::new(),
            availability: vec![0; pieces as usize],
            cursor: (random % u64::from(pieces.max(1))) as u32,
            passed_bytes,
            geometry,
        }
    }

    /// A block of a piece that is to do is here from an earlier run.
    pub(super) fn keep(&mut self, block: Block) {
        let Some(number) = self.geometry.number_of(block) else { return };
        if !self.todo.has(block.piece) {
            return;
        }
        let blocks = self.geometry.blocks_of(block.piece);
        let passed = self.parked.entry(block.piece).or_insert_with(|| Bitfield::none(blocks));
        // The last block of a piece is left to be asked again: a piece that is whole is had.
        if passed.count() + 1 < blocks && passed.insert(number) {
            self.passed_bytes += u64::from(block.len);
        }
        if passed.count() == 0 {
            self.parked.remove(&block.piece);
        }
    }

    /// Blocks that have passed of pieces that are not had.
    pub(super) fn passed(&self) -> impl Iterator<Item = Block> + '_ {
        let open = self.open.iter().flat_map(|(piece, open)| {
            let passed = open.slots.iter().zip(0u32..).filter(|(slot, _)| **slot == Slot::Passed);
            passed.map(|(_, number)| (*piece, number))
        });
        let parked = self
            .parked
            .iter()
            .flat_map(|(piece, passed)| passed.iter().map(|number| (*piece, number)));
        open.chain(parked).filter_map(|(piece, number)| self.geometry.block(piece, number))
    }

    /// At most so many bytes of a piece are still to be asked for.
    pub(super) fn missing_bytes(&self, piece: u32) -> u64 {
        let Some(open) = self.open.get(&piece) else {
            return u64::from(self.geometry.len_of(piece));
        };
        let missing = u64::from(open.missing) * u64::from(crate::BLOCK_LEN);
        missing.min(u64::from(self.geometry.len_of(piece)))
    }

    /// Whether one more piece may be opened.
    pub(super) fn has_room(&self, piece: u32) -> bool {
        let blocks = u64::from(self.geometry.blocks_of(piece));
        self.open.is_empty() || self.open_blocks + blocks <= OPEN_BLOCKS_MAX
    }

    /// Makes a record for each block of a piece that is to do.
    pub(super) fn open(&mut self, piece: u32, leaves: Leaves) -> Option<&mut Open> {
        if !self.todo.has(piece) || !self.has_room(piece) {
            return None;
        }
        self.todo.remove(piece);
        let blocks = self.geometry.blocks_of(piece);
        let mut open = Open {
            slots: vec![Slot::Missing; blocks as usize],
            missing: blocks,
            asked: 0,
            waiting: 0,
            first_missing: 0,
            owner: None,
            sole: false,
            leaves,
            checking: false,
        };
        for number in self.parked.remove(&piece).iter().flat_map(Bitfield::iter) {
            open.put(number, Slot::Passed);
        }
        self.open_blocks += u64::from(blocks);
        self.unfilled.insert(piece);
        self.cursor = piece;
        self.open.insert(piece, open);
        self.open.get_mut(&piece)
    }

    /// Puts a block of an open piece into another state.
    pub(super) fn put(&mut self, piece: u32, number: u32, slot: Slot) {
        let Some(open) = self.open.get_mut(&piece) else { return };
        open.put(number, slot);
        if open.missing == 0 {
            self.unfilled.remove(&piece);
        } else {
            self.unfilled.insert(piece);
        }
    }

    /// Closes an open piece of which nothing is under way, so that it is to do again. What has
    /// passed of it is kept.
    pub(super) fn park(&mut self, piece: u32) {
        let Some(open) = self.forget(piece) else { return };
        self.todo.insert(piece);
        if open.has_passed() {
            let mut passed = Bitfield::none(open.slots.len() as u32);
            for (slot, number) in open.slots.iter().zip(0u32..) {
                if *slot == Slot::Passed {
                    passed.insert(number);
                }
            }
            self.parked.insert(piece, passed);
        }
    }

    /// What has passed of an open piece has not, after all.
    pub(super) fn distrust(&mut self, piece: u32) {
        for block in self.passed_of(piece) {
            self.passed_bytes -= u64::from(block.len);
            self.put(piece, block.begin / crate::BLOCK_LEN, Slot::Missing);
        }
    }

    /// A piece is had; `false` where it was before.
    pub(super) fn complete(&mut self, piece: u32) -> bool {
        if !self.have.insert(piece) {
            return false;
        }
        let mut passed_before = 0;
        for block in self.passed_of(piece) {
            passed_before += u64::from(block.len);
        }
        self.forget(piece);
        self.todo.remove(piece);
        self.parked.remove(&piece);
        self.leaves_kept.remove(&piece);
        self.passed_bytes += u64::from(self.geometry.len_of(piece)) - passed_before;
        true
    }

    fn passed_of(&self, piece: u32) -> Vec<Block> {
        let number = |(slot, number): (&Slot, u32)| (*slot == Slot::Passed).then_some(number);
        let open = self.open.get(&piece);
        let open = open.into_iter().flat_map(|open| open.slots.iter().zip(0..).filter_map(number));
        let parked = self.parked.get(&piece).into_iter().flat_map(Bitfield::iter);
        open.chain(parked).filter_map(|number| self.geometry.block(piece, number)).collect()
    }

    fn forget(&mut self, piece: u32) -> Option<Open> {
        let open = self.open.remove(&piece)?;
        self.open_blocks -= open.slots.len() as u64;
        self.unfilled.remove(&piece);
        Some(open)
    }

    /// An open piece of which nothing is asked and whose blocks wait for others that nobody gives.
    pub(super) fn stranded(&self) -> Option<u32> {
        // Blocks that are just being judged one by one do not wait for others.
        let stranded =
            |open: &Open| open.asked == 0 && open.missing > 0 && open.leaves != Leaves::Known;
        self.open.iter().find(|(_, open)| stranded(open)).map(|(piece, _)| *piece)
    }

    /// The piece to begin: one of those that have passed in part, else the rarest of the next
    /// [`WINDOW`] to do that the peer has and that `fits`.
    pub(super) fn rarest(&self, holds: &Holds, fits: impl Fn(u32) -> bool) -> Option<u32> {
        if self.todo.count() == 0 {
            return None;
        }
        let begun = self.parked.keys().take(WINDOW).copied();
        let begun =
            begun.filter(|piece| self.todo.has(*piece) && holds.has(*piece) && fits(*piece));
        if let Some(piece) = begun.into_iter().next() {
            return Some(piece);
        }
        // Nothing can be rarer than what only peers have that have all, or this one.
        let least = u8::from(holds.bits().is_some());
        let mut best = None;
        let candidates = self.todo.both_from(holds.bits(), self.cursor);
        for piece in candidates.take(WINDOW).filter(|piece| fits(*piece)) {
            let count = self.availability[piece as usize];
            if count <= least {
                return Some(piece);
            }
            if best.is_none_or(|(rarest, _)| count < rarest) {
                best = Some((count, piece));
            }
        }
        best.map(|(_, piece)| piece)
    }
}
