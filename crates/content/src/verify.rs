//! How it is judged whether a piece, or a block of it, is good.

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::{
    BLOCK_LEN,
    merkle::{self, Hash},
};

/// What a piece must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceCheck {
    /// BEP 3: one hash for the piece. Nothing less than all of it can be judged.
    Sha1([u8; 20]),
    /// BEP 52: the root of a tree over the piece's blocks. A block can be judged by its leaf, once
    /// all leaves of the piece are known and fit the root.
    Tree {
        /// The root over the piece's leaves.
        root: Hash,
        /// How high it is above them, 0 to 12.
        levels: u32,
    },
}

impl PieceCheck {
    /// Whether these are the leaves of all blocks of the piece, so that each can be judged by its
    /// own. Never so for [`PieceCheck::Sha1`].
    pub fn leaves_pass(&self, leaves: &[Hash]) -> bool {
        match self {
            PieceCheck::Sha1(_) => false,
            PieceCheck::Tree { root, levels } => {
                merkle::root(leaves, 0, *levels).as_ref() == Some(root)
            }
        }
    }

    /// Begins to hash a piece.
    pub fn hasher(&self) -> PieceHasher {
        let so_far = match self {
            PieceCheck::Sha1(_) => SoFar::Sha1(Sha1::new()),
            PieceCheck::Tree { .. } => {
                SoFar::Tree { leaves: Vec::new(), hash: Sha256::new(), filled: 0 }
            }
        };
        PieceHasher { check: *self, so_far }
    }
}

/// Hashes a piece from its first byte to its last: of [`crate::Geometry::len_of`] bytes.
#[derive(Clone, Debug)]
pub struct PieceHasher {
    check: PieceCheck,
    so_far: SoFar,
}

#[derive(Clone, Debug)]
enum SoFar {
    Sha1(Sha1),
    /// Leaves, and the block that is hashed: how many bytes of it are.
    Tree {
        leaves: Vec<Hash>,
        hash: Sha256,
        filled: u32,
    },
}

impl PieceHasher {
    /// The bytes that follow, any number of them.
    pub fn update(&mut self, mut bytes: &[u8]) {
        match &mut self.so_far {
            SoFar::Sha1(hash) => hash.update(bytes),
            SoFar::Tree { leaves, hash, filled } => {
                while !bytes.is_empty() {
                    let room = (BLOCK_LEN - *filled) as usize;
                    let (now, later) = bytes.split_at(bytes.len().min(room));
                    hash.update(now);
                    // At most a block.
                    *filled += now.len() as u32;
                    if *filled == BLOCK_LEN {
                        leaves.push(hash.finalize_reset().into());
                        *filled = 0;
                    }
                    bytes = later;
                }
            }
        }
    }

    /// Whether the bytes were the piece.
    pub fn passes(self) -> bool {
        self.finish().is_some()
    }

    /// The leaves of the piece, if the bytes were it: none of [`PieceCheck::Sha1`].
    pub fn finish(self) -> Option<Vec<Hash>> {
        match self.so_far {
            SoFar::Sha1(hash) => {
                let hash: [u8; 20] = hash.finalize().into();
                (self.check == PieceCheck::Sha1(hash)).then(Vec::new)
            }
            SoFar::Tree { mut leaves, hash, filled } => {
                if filled > 0 {
                    leaves.push(hash.finalize().into());
                }
                self.check.leaves_pass(&leaves).then_some(leaves)
            }
        }
    }
}
