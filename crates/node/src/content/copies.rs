//! Copies of blocks that somebody else sent first, though both had been asked: whether they are what
//! has passed, so that their sender is paid for them too. How many count is for the download machine.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use sparewire_content::{Block, PAID_TWICE_MAX};

use super::{disk::Storage, files::DiskError, intake::Outcome};

/// One torrent's copies that wait for the rest of their piece, by piece.
#[derive(Debug, Default)]
pub(super) struct Copies {
    waiting: Mutex<BTreeMap<u32, Vec<Copy>>>,
}

/// A copy, by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// The number of the connection that it came over.
    from: u32,
    block: Block,
    hash: [u8; 32],
}

impl Copies {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<Copy>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy came. `false` where more wait already than would ever be paid for.
    pub(super) fn keep(&self, from: u32, block: Block, data: &[u8]) -> bool {
        let mut waiting = self.waiting();
        let count: usize = waiting.values().map(Vec::len).sum();
        if count >= PAID_TWICE_MAX as usize {
            return false;
        }
        let hash = Sha256::digest(data).into();
        waiting.entry(block.piece).or_default().push(Copy { from, block, hash });
        true
    }

    /// A piece is there: takes the copies of its blocks.
    pub(super) fn of(&self, piece: u32) -> Vec<Copy> {
        self.waiting().remove(&piece).unwrap_or_default()
    }

    /// A connection is over: nothing that came over it is counted any more.
    pub(super) fn left(&self, from: u32) {
        self.waiting().retain(|_, copies| {
            copies.retain(|copy| copy.from != from);
            !copies.is_empty()
        });
    }
}

impl Copy {
    /// Compares it with what is there. On a blocking thread.
    pub(super) fn judge(self, storage: &Storage) -> Result<Outcome, DiskError> {
        let Self { from, block, hash } = self;
        let mut there = vec![0; block.len as usize];
        storage.read(block.piece, block.begin, &mut there)?;
        let good = <[u8; 32]>::from(Sha256::digest(&there)) == hash;
        Ok(Outcome::Copy { from, block, good })
    }
}
