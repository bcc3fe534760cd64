//! Blocks on their way from a connection to the disk, and the judgement whether they are good.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use sparewire_content::{BLOCK_LEN, Block, Hash, PieceHasher};

use super::{disk::Storage, files::DiskError};

/// What came of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The block is good by its own leaf, and written.
    BlockPassed(Block),
    /// The block is not what its leaf says; nothing of it was kept.
    BlockFailed(Block),
    /// All of the piece is there and good.
    PiecePassed(u32),
    /// All of the piece was there, and is not good. A digest of each block tells, by comparison
    /// with those that pass later, which of them were bad.
    PieceFailed {
        /// Which piece.
        piece: u32,
        /// Of each block in order.
        digests: Vec<Hash>,
    },
}

/// One torrent's pieces under way. Their number is bounded by the download machine.
#[derive(Debug)]
pub(super) struct Intake {
    storage: Arc<Storage>,
    begun: Mutex<BTreeMap<u32, Arc<Mutex<Begun>>>>,
}

/// A piece of which some blocks are there.
#[derive(Debug)]
struct Begun {
    /// Has taken all bytes before `hashed`.
    hasher: Option<PieceHasher>,
    hashed: u32,
    /// Blocks that are on disk.
    written: Vec<bool>,
    /// How many are not.
    missing: u32,
    /// Their hashes, where all of the piece are known.
    leaves: Option<Vec<Hash>>,
}

impl Intake {
    pub(super) fn new(storage: Arc<Storage>) -> Self {
        Self { storage, begun: Mutex::default() }
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Mutex<Begun>>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piece(&self, piece: u32) -> Arc<Mutex<Begun>> {
        let mut begun = self.begun();
        let new = || {
            let blocks = self.storage.metainfo().geometry().blocks_of(piece);
            let hasher = self.storage.metainfo().check(piece).map(|check| check.hasher());
            Arc::new(Mutex::new(Begun {
                hasher,
                hashed: 0,
                written: vec![false; blocks as usize],
                missing: blocks,
                leaves: None,
            }))
        };
        Arc::clone(begun.entry(piece).or_insert_with(new))
    }

    /// From now on each block of a piece is judged by its own hash. `false` where these are not the
    /// hashes of its blocks.
    pub(super) fn set_leaves(&self, piece: u32, leaves: Vec<Hash>) -> bool {
        let check = self.storage.metainfo().check(piece);
        let fits = check.is_some_and(|check| check.leaves_pass(&leaves));
        if fits {
            let begun = self.piece(piece);
            begun.lock().unwrap_or_else(PoisonError::into_inner).leaves = Some(leaves);
        }
        fits
    }

    /// Whether each block of a piece can be judged by itself.
    pub(super) fn knows_leaves(&self, piece: u32) -> bool {
        let begun = self.begun().get(&piece).cloned();
        begun.is_some_and(|begun| {
            begun.lock().unwrap_or_else(PoisonError::into_inner).leaves.is_some()
        })
    }

    /// Judges and writes `blocks`, whose bytes lie in `buffer`. What is written is written from
    /// there, without another copy. On a blocking thread.
    pub(super) fn take(
        &self,
        buffer: &[u8],
        blocks: &[(Block, Range<usize>)],
    ) -> Result<Vec<Outcome>, DiskError> {
        let mut outcomes = Vec::new();
        for of_piece in blocks.chunk_by(|(a, _), (b, _)| a.piece == b.piece) {
            self.take_of_one(buffer, of_piece, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    /// Blocks of one piece.
    fn take_of_one(
        &self,
        buffer: &[u8],
        blocks: &[(Block, Range<usize>)],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), DiskError> {
        let Some((Block { piece, .. }, _)) = blocks.first() else { return Ok(()) };
        let piece = *piece;
        let geometry = self.storage.metainfo().geometry();
        let begun = self.piece(piece);
        let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
        // Runs of blocks that follow each other are written at once.
        let mut run: Vec<&[u8]> = Vec::new();
        let (mut run_begin, mut run_end) = (0, 0);
        let mut passed = Vec::new();
        for (block, range) in blocks {
            let Some(number) = geometry.number_of(*block) else { continue };
            let Some(data) = buffer.get(range.clone()) else { continue };
            if begun.written[number as usize] {
                continue;
            }
            if let Some(leaves) = &begun.leaves {
                let leaf: Hash = Sha256::digest(data).into();
                if leaves.get(number as usize) != Some(&leaf) {
                    outcomes.push(Outcome::BlockFailed(*block));
                    continue;
                }
                passed.push(*block);
            } else if begun.hashed == block.begin
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
            begun.written[number as usize] = true;
            begun.missing -= 1;
        }
        self.storage.write(piece, run_begin, &run)?;
        outcomes.extend(passed.into_iter().map(Outcome::BlockPassed));
        if begun.missing == 0 {
            let outcome = self.judge(piece, &mut begun)?;
            self.begun().remove(&piece);
            outcomes.push(outcome);
        }
        Ok(())
    }

    /// All blocks are on disk.
    fn judge(&self, piece: u32, begun: &mut Begun) -> Result<Outcome, DiskError> {
        if begun.leaves.is_some() {
            // Each was judged by itself before it was written.
            self.storage.hold(piece);
            return Ok(Outcome::PiecePassed(piece));
        }
        let len = self.storage.metainfo().geometry().len_of(piece);
        let mut block = vec![0; BLOCK_LEN as usize];
        if let Some(mut hasher) = begun.hasher.take() {
            while begun.hashed < len {
                let now = &mut block[..BLOCK_LEN.min(len - begun.hashed) as usize];
                self.storage.read(piece, begun.hashed, now)?;
                hasher.update(now);
                begun.hashed += now.len() as u32;
            }
            if hasher.passes() {
                self.storage.hold(piece);
                return Ok(Outcome::PiecePassed(piece));
            }
        }
        let mut digests = Vec::new();
        let mut begin = 0;
        while begin < len {
            let now = &mut block[..BLOCK_LEN.min(len - begin) as usize];
            self.storage.read(piece, begin, now)?;
            digests.push(Sha256::digest(&*now).into());
            begin += BLOCK_LEN;
        }
        Ok(Outcome::PieceFailed { piece, digests })
    }
}
