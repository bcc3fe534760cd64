//! Blocks on their way from a connection to the disk, and the judgement whether they are good.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use sparewire_content::{BLOCK_LEN, Bitfield, Block, Hash, PieceCheck, PieceHasher, merkle};

use super::{disk::Storage, files::DiskError, parts::Part};

/// What came of blocks. `from` is the number of the connection that one came over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// From now on each block of the piece is judged by itself.
    LeavesKnown(u32),
    /// The block is good by its own leaf, and written.
    BlockPassed {
        /// Who sent it.
        from: u32,
        /// Which block.
        block: Block,
    },
    /// The block is not what its leaf says.
    BlockFailed {
        /// Who sent it.
        from: u32,
        /// Which block.
        block: Block,
    },
    /// Another copy of a block was compared with what has passed.
    Copy {
        /// Who sent it.
        from: u32,
        /// Which block.
        block: Block,
        /// Whether it is the same.
        good: bool,
    },
    /// All of the piece is there and good.
    PiecePassed {
        /// Which piece.
        piece: u32,
        /// How many bytes of it each connection sent, those left out that passed by themselves.
        by: BTreeMap<u32, u64>,
        /// Of each block in order, where they were asked for.
        digests: Vec<u64>,
    },
    /// All of the piece was there, and is not good.
    PieceFailed {
        /// Which piece.
        piece: u32,
        /// Of each block in order.
        digests: Vec<u64>,
    },
}

/// One torrent's pieces under way. Their number is bounded by the download machine.
#[derive(Debug)]
pub(super) struct Intake {
    storage: Arc<Storage>,
    begun: Mutex<BTreeMap<u32, Arc<Mutex<Begun>>>>,
}

/// A block in a buffer, and the piece that it belongs to, as it was when the block came.
#[derive(Clone, Debug)]
pub(super) struct Landed {
    pub(super) block: Block,
    /// Where its bytes are in the buffer.
    pub(super) range: Range<usize>,
    begun: Arc<Mutex<Begun>>,
}

/// A piece of which some blocks are there.
#[derive(Debug)]
struct Begun {
    /// What it must hash to.
    check: Option<PieceCheck>,
    /// Where all of it has one hash: has taken all bytes before `hashed`.
    hasher: Option<PieceHasher>,
    hashed: u32,
    blocks: Vec<Slot>,
    /// Where it has a tree: the hash of each block that is written, so that none is hashed twice.
    found: Vec<Hash>,
    /// How many are on disk.
    written: u32,
    /// The hashes of all blocks, where they are known.
    leaves: Option<Arc<[Hash]>>,
    /// It is to be judged as a whole when all blocks are on disk; and whether with digests.
    check_due: Option<bool>,
    /// What comes of it is thrown away: the machine has begun it anew.
    forgotten: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Missing,
    /// On disk, sent by this connection, and not judged.
    Written(u32),
    /// On disk and good; or kept from an earlier run, to be judged with its piece.
    Passed,
}

/// What an earlier run left of a piece that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) piece: u32,
    /// Whether its leaf hashes are known: then `blocks` have passed.
    pub(super) leaves_known: bool,
    pub(super) blocks: Vec<Block>,
}

impl Begun {
    /// Whether a block, whose hash was found, is good, where that can be said of it alone: by its
    /// leaf, or because it is all of a piece with a hash tree.
    fn judge_alone(&self, number: u32) -> Option<bool> {
        let found = self.found.get(number as usize)?;
        if let Some(leaves) = &self.leaves {
            return Some(leaves.get(number as usize) == Some(found));
        }
        let check = self.check.as_ref().filter(|_| self.blocks.len() == 1)?;
        Some(check.leaves_pass(&[*found]))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Intake {
    pub(super) fn new(storage: Arc<Storage>) -> Self {
        Self { storage, begun: Mutex::default() }
    }

    /// A block that the download machine wants has come.
    pub(super) fn land(&self, block: Block, range: Range<usize>) -> Landed {
        Landed { block, range, begun: self.piece(block.piece) }
    }

    fn piece(&self, piece: u32) -> Arc<Mutex<Begun>> {
        let new = || {
            let blocks = self.storage.metainfo().geometry().blocks_of(piece);
            let check = self.storage.metainfo().check(piece);
            let has_tree = matches!(check, Some(PieceCheck::Tree { .. }));
            Arc::new(Mutex::new(Begun {
                hasher: check.as_ref().filter(|_| !has_tree).map(PieceCheck::hasher),
                found: vec![[0; 32]; if has_tree { blocks as usize } else { 0 }],
                check,
                hashed: 0,
                blocks: vec![Slot::Missing; blocks as usize],
                written: 0,
                leaves: None,
                check_due: None,
                forgotten: false,
            }))
        };
        Arc::clone(lock(&self.begun).entry(piece).or_insert_with(new))
    }

    /// Judges and writes blocks that came over connection `from` and whose bytes lie in `buffer`.
    /// They are written from there, without another copy. On a blocking thread.
    pub(super) fn take(
        &self,
        from: u32,
        buffer: &[u8],
        landed: &[Landed],
    ) -> Result<Vec<Outcome>, DiskError> {
        let mut outcomes = Vec::new();
        for of_piece in landed.chunk_by(|a, b| Arc::ptr_eq(&a.begun, &b.begun)) {
            let taken = self.take_of_one(from, buffer, of_piece, &mut outcomes);
            if let (Err(error), Some(first)) = (taken, of_piece.first()) {
                // What of it is on disk is not known.
                lock(&first.begun).forgotten = true;
                lock(&self.begun).remove(&first.block.piece);
                return Err(error);
            }
        }
        Ok(outcomes)
    }

    /// Blocks of one piece.
    fn take_of_one(
        &self,
        from: u32,
        buffer: &[u8],
        landed: &[Landed],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), DiskError> {
        let Some(first) = landed.first() else { return Ok(()) };
        let piece = first.block.piece;
        let geometry = self.storage.metainfo().geometry();
        let mut begun = lock(&first.begun);
        if begun.forgotten {
            return Ok(());
        }
        // Runs of blocks that follow each other are written at once.
        let mut run: Vec<&[u8]> = Vec::new();
        let (mut run_begin, mut run_end) = (0, 0);
        let mut good = Vec::new();
        for Landed { block, range, .. } in landed {
            let block = *block;
            let Some(number) = geometry.number_of(block) else { continue };
            let Some(data) = buffer.get(range.clone()) else { continue };
            let old = begun.blocks[number as usize];
            if old == Slot::Passed {
                continue;
            }
            let mut new = Slot::Written(from);
            if let Some(found) = begun.found.get_mut(number as usize) {
                *found = merkle::leaf(data);
                match begun.judge_alone(number) {
                    Some(true) => {
                        good.push(Outcome::BlockPassed { from, block });
                        new = Slot::Passed;
                    }
                    Some(false) => {
                        outcomes.push(Outcome::BlockFailed { from, block });
                        begun.blocks[number as usize] = Slot::Missing;
                        begun.written -= u32::from(old != Slot::Missing);
                        continue;
                    }
                    None => {}
                }
            }
            if block.begin < begun.hashed {
                // Another copy is wanted of what failed before: what was hashed is worthless.
                begun.hasher = begun.check.as_ref().map(PieceCheck::hasher);
                begun.hashed = 0;
            }
            if begun.hashed == block.begin
                && let Some(hasher) = &mut begun.hasher
            {
                // In order, as most are: never read back.
                hasher.update(data);
                begun.hashed += block.len;
            }
            if run_end != block.begin {
                self.storage.write(piece, run_begin, &run)?;
                run.clear();
            }
            if run.is_empty() {
                run_begin = block.begin;
            }
            run.push(data);
            run_end = block.begin + block.len;
            begun.blocks[number as usize] = new;
            begun.written += u32::from(old == Slot::Missing);
        }
        self.storage.write(piece, run_begin, &run)?;
        outcomes.extend(good);
        self.judge_if_due(piece, &mut begun, outcomes)
    }

    /// The machine wants a piece judged as a whole. `true` where nothing is left to be written that
    /// would do it by the way: then [`Intake::judge`] is to be called, on a blocking thread.
    pub(super) fn check(&self, piece: u32, digests: bool) -> bool {
        let begun = self.piece(piece);
        let mut begun = lock(&begun);
        begun.check_due = Some(digests);
        begun.written as usize == begun.blocks.len()
    }

    /// Judges a piece of which all is written.
    pub(super) fn judge(&self, piece: u32) -> Result<Vec<Outcome>, DiskError> {
        let begun = self.piece(piece);
        let mut outcomes = Vec::new();
        self.judge_if_due(piece, &mut lock(&begun), &mut outcomes)?;
        Ok(outcomes)
    }

    /// The leaf hashes of a piece came: what is written of it is judged, and whatever comes will be.
    /// Nothing where they are not its leaves.
    ///
    /// # Errors
    /// [`DiskError`] where they cannot be remembered: nothing is judged, so that nothing is paid for
    /// that would not be found again.
    pub(super) fn set_leaves(
        &self,
        piece: u32,
        leaves: Vec<Hash>,
    ) -> Result<Vec<Outcome>, DiskError> {
        let check = self.storage.metainfo().check(piece);
        if !check.is_some_and(|check| check.leaves_pass(&leaves)) {
            return Ok(Vec::new());
        }
        let leaves: Arc<[Hash]> = leaves.into();
        self.storage.parts().remember(piece, &leaves)?;
        loop {
            let found = self.piece(piece);
            let mut begun = lock(&found);
            // It may have been begun anew before it was locked.
            if !begun.forgotten {
                return Ok(self.judge_by_leaves(piece, &mut begun, leaves));
            }
        }
    }

    /// All that is written of a piece is judged by its leaves.
    fn judge_by_leaves(&self, piece: u32, begun: &mut Begun, leaves: Arc<[Hash]>) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::LeavesKnown(piece)];
        begun.leaves = Some(leaves);
        let geometry = self.storage.metainfo().geometry();
        for number in 0..geometry.blocks_of(piece) {
            let Some(block) = geometry.block(piece, number) else { continue };
            let Slot::Written(from) = begun.blocks[number as usize] else { continue };
            let good = begun.judge_alone(number) == Some(true);
            begun.blocks[number as usize] = if good { Slot::Passed } else { Slot::Missing };
            begun.written -= u32::from(!good);
            outcomes.push(match good {
                true => Outcome::BlockPassed { from, block },
                false => Outcome::BlockFailed { from, block },
            });
        }
        self.hold_if_passed(piece, begun);
        outcomes
    }

    /// What an earlier run left of pieces that are not whole. To be done before anything else, on a
    /// blocking thread: what its leaf proves is read and hashed once more; of what nothing proves, it
    /// is looked whether there is anything.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(super) fn recall(&self) -> Result<Vec<Kept>, DiskError> {
        let geometry = self.storage.metainfo().geometry();
        let mut all = Vec::new();
        for (piece, part) in
            self.storage.parts().load(self.storage.metainfo(), &self.storage.held())
        {
            let mut blocks = Vec::new();
            for number in 0..geometry.blocks_of(piece) {
                let Some(block) = geometry.block(piece, number) else { continue };
                let here = match &part {
                    Part::Leaves(leaves) => {
                        self.leaf_on_disk(block)?.as_ref() == leaves.get(number as usize)
                    }
                    Part::Written(bits) => bits.has(number) && self.storage.has_data(block),
                };
                blocks.extend(here.then_some(block));
            }
            let leaves = match part {
                Part::Leaves(leaves) => Some(leaves),
                Part::Written(_) => None,
            };
            if blocks.len() == geometry.blocks_of(piece) as usize {
                // Known leaf by leaf it is had. As a whole it was judged, and is not good.
                if leaves.is_some() {
                    self.storage.hold(piece);
                }
                continue;
            }
            let begun = self.piece(piece);
            let mut begun = lock(&begun);
            for block in &blocks {
                let number = (block.begin / BLOCK_LEN) as usize;
                begun.blocks[number] = Slot::Passed;
                if let (Some(found), Some(leaves)) = (begun.found.get_mut(number), &leaves) {
                    *found = leaves[number];
                }
            }
            begun.written = blocks.len() as u32;
            begun.leaves = leaves;
            all.push(Kept { piece, leaves_known: begun.leaves.is_some(), blocks });
        }
        Ok(all)
    }

    /// What a block hashes to as it is on disk; `None` where it is not.
    fn leaf_on_disk(&self, block: Block) -> Result<Option<Hash>, DiskError> {
        let mut data = vec![0; block.len as usize];
        match self.storage.read(block.piece, block.begin, &mut data) {
            Ok(()) => Ok(Some(merkle::leaf(&data))),
            Err(DiskError::Missing(_) | DiskError::EndsEarly(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Blocks on disk of pieces that are judged as a whole and are not.
    pub(super) fn written(&self) -> Vec<(u32, Bitfield)> {
        // Not under the lock on all: whoever writes a piece takes that one last.
        let begun: Vec<_> =
            lock(&self.begun).iter().map(|(piece, begun)| (*piece, Arc::clone(begun))).collect();
        let mut all = Vec::new();
        for (piece, begun) in begun {
            let begun = lock(&begun);
            if begun.forgotten || !matches!(begun.check, Some(PieceCheck::Sha1(_))) {
                continue;
            }
            let mut bits = Bitfield::none(begun.blocks.len() as u32);
            for (number, _) in (0..).zip(&begun.blocks).filter(|(_, slot)| **slot != Slot::Missing)
            {
                bits.insert(number);
            }
            all.push((piece, bits));
        }
        all
    }

    /// What has arrived of a piece and has not passed counts no more.
    pub(super) fn forget(&self, piece: u32) {
        let Some(old) = lock(&self.begun).remove(&piece) else { return };
        let mut old = lock(&old);
        old.forgotten = true;
        if self.storage.has(piece) {
            return; // its last block was written meanwhile
        }
        let passed = |slot: &Slot| *slot == Slot::Passed;
        if old.leaves.is_none() && !old.blocks.iter().any(passed) {
            return;
        }
        let new = self.piece(piece);
        let mut new = lock(&new);
        new.found.clone_from(&old.found);
        new.leaves = old.leaves.take();
        for (slot, old) in new.blocks.iter_mut().zip(&old.blocks) {
            if passed(old) {
                *slot = Slot::Passed;
            }
        }
        new.written = new.blocks.iter().filter(|slot| passed(slot)).count() as u32;
    }

    /// The machine begins anew: what has passed of pieces that are not whole stays, and is said.
    pub(super) fn begin_anew(&self) -> Vec<Kept> {
        let pieces: Vec<u32> = lock(&self.begun).keys().copied().collect();
        pieces.iter().for_each(|piece| self.forget(*piece));
        let begun: Vec<_> =
            lock(&self.begun).iter().map(|(piece, begun)| (*piece, Arc::clone(begun))).collect();
        let geometry = self.storage.metainfo().geometry();
        let kept = |(piece, begun): (u32, Arc<Mutex<Begun>>)| {
            let begun = lock(&begun);
            let passed = (0..).zip(&begun.blocks).filter(|(_, slot)| **slot == Slot::Passed);
            let blocks = passed.filter_map(|(number, _)| geometry.block(piece, number)).collect();
            Kept { piece, leaves_known: begun.leaves.is_some(), blocks }
        };
        begun.into_iter().map(kept).collect()
    }

    fn hold_if_passed(&self, piece: u32, begun: &Begun) {
        if begun.blocks.iter().all(|slot| *slot == Slot::Passed) {
            self.storage.keep_leaves(piece, &begun.found);
            self.storage.hold(piece);
            lock(&self.begun).remove(&piece);
        }
    }

    fn judge_if_due(
        &self,
        piece: u32,
        begun: &mut Begun,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), DiskError> {
        self.hold_if_passed(piece, begun);
        if begun.forgotten || (begun.written as usize) < begun.blocks.len() {
            return Ok(());
        }
        let Some(digests) = begun.check_due.take() else { return Ok(()) };
        let metainfo = self.storage.metainfo();
        let len = metainfo.geometry().len_of(piece);
        let mut block = vec![0; BLOCK_LEN as usize];
        // Of one with a tree all hashes were found as its blocks came.
        let mut good = !begun.found.is_empty()
            && begun.check.as_ref().is_some_and(|check| check.leaves_pass(&begun.found));
        if let Some(mut hasher) = begun.hasher.take() {
            while begun.hashed < len {
                let now = &mut block[..BLOCK_LEN.min(len - begun.hashed) as usize];
                self.storage.read(piece, begun.hashed, now)?;
                hasher.update(now);
                begun.hashed += now.len() as u32;
            }
            good = hasher.passes();
        }
        let digests = if digests || !good { self.digests(piece, len)? } else { Vec::new() };
        if !good {
            begun.forgotten = true;
            lock(&self.begun).remove(&piece);
            outcomes.push(Outcome::PieceFailed { piece, digests });
            return Ok(());
        }
        self.storage.keep_leaves(piece, &begun.found);
        self.storage.hold(piece);
        lock(&self.begun).remove(&piece);
        let mut by = BTreeMap::new();
        for (number, slot) in (0..).zip(&begun.blocks) {
            if let (Slot::Written(from), Some(block)) =
                (slot, metainfo.geometry().block(piece, number))
            {
                *by.entry(*from).or_default() += u64::from(block.len);
            }
        }
        outcomes.push(Outcome::PiecePassed { piece, by, digests });
        Ok(())
    }

    fn digests(&self, piece: u32, len: u32) -> Result<Vec<u64>, DiskError> {
        let mut block = vec![0; BLOCK_LEN as usize];
        let mut digests = Vec::new();
        let mut begin = 0;
        while begin < len {
            let now = &mut block[..BLOCK_LEN.min(len - begin) as usize];
            self.storage.read(piece, begin, now)?;
            let digest = Sha256::digest(&*now);
            digests.push(u64::from_be_bytes(std::array::from_fn(|at| digest[at])));
            begin += BLOCK_LEN;
        }
        Ok(digests)
    }
}
