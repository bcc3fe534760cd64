//! Hash trees of BEP 52: one for each file, over its blocks of 16 KiB.

use sha2::{Digest, Sha256};

use crate::BLOCK_LEN;

/// A SHA-256 hash: a leaf or a node of a tree.
pub type Hash = [u8; 32];

/// The hash of one block, at most [`BLOCK_LEN`] bytes.
pub fn leaf(block: &[u8]) -> Hash {
    Sha256::digest(block).into()
}

/// The hash over two nodes.
pub(crate) fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update(left).chain_update(right).finalize().into()
}

/// What stands `height` levels above leaves that are all beyond the end of the file, and so zero.
pub fn padding(height: u32) -> Hash {
    (0..height).fold([0; 32], |node, _| parent(&node, &node))
}

/// The node `levels` above `nodes`, which are from the left on what is `height` above the leaves,
/// at most 2^`levels` of them; the others are padding. `None` where there are more.
pub fn root(nodes: &[Hash], height: u32, levels: u32) -> Option<Hash> {
    if nodes.len() as u64 > 1 << levels.min(32) {
        return None;
    }
    let mut row = nodes.to_vec();
    let mut beyond = padding(height);
    for _ in 0..levels {
        let pairs = row.len().div_ceil(2);
        for at in 0..pairs {
            let right = row.get(2 * at + 1).unwrap_or(&beyond);
            row[at] = parent(&row[2 * at], right);
        }
        row.truncate(pairs);
        beyond = parent(&beyond, &beyond);
    }
    Some(row.first().copied().unwrap_or(beyond))
}

/// The shape of the tree of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    leaves: u64,
    piece_height: u32,
}

impl Shape {
    /// Of a file of `len` bytes in pieces of `piece_len`: a power of two, at least [`BLOCK_LEN`].
    pub fn new(len: u64, piece_len: u32) -> Self {
        let piece_height = (piece_len / BLOCK_LEN).max(1).ilog2();
        Self { leaves: len.div_ceil(u64::from(BLOCK_LEN)), piece_height }
    }

    /// How high the root is above the leaves.
    pub fn height(&self) -> u32 {
        self.leaves.next_power_of_two().ilog2()
    }

    /// How high above the leaves the hashes of whole pieces are: the root, if the file has one piece.
    pub fn piece_height(&self) -> u32 {
        self.piece_height.min(self.height())
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u64 {
        self.leaves.div_ceil(1 << self.piece_height)
    }

    /// Whether `layer` are the hashes of all pieces of the tree with this root.
    pub fn fits(&self, layer: &[Hash], file_root: &Hash) -> bool {
        let height = self.piece_height();
        layer.len() as u64 == self.pieces()
            && root(layer, height, self.height() - height).as_ref() == Some(file_root)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// BEP 52 word by word: all leaves, zeros up to a power of two, then pair after pair.
    fn plain(leaves: &[Hash], width: usize) -> Hash {
        let mut row = leaves.to_vec();
        row.resize(width, [0; 32]);
        while row.len() > 1 {
            row = row.chunks(2).map(|pair| parent(&pair[0], &pair[1])).collect();
        }
        row[0]
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|at| leaf(&at.to_be_bytes())).collect()
    }

    proptest! {
        #[test]
        fn the_root_of_pieces_is_the_root_of_all_leaves(count in 1u64..200, height in 0u32..6) {
            let shape = Shape { leaves: count, piece_height: height };
            let all = leaves(count);
            let width = all.len().next_power_of_two();
            prop_assert_eq!(1usize << shape.height(), width);
            let expected = plain(&all, width);
            prop_assert_eq!(root(&all, 0, shape.height()), Some(expected));
            if shape.pieces() > 1 {
                let piece = |of: &[Hash]| root(of, 0, height).unwrap();
                let layer: Vec<_> = all.chunks(1 << height).map(piece).collect();
                prop_assert!(shape.fits(&layer, &expected));
                prop_assert!(!shape.fits(&layer[1..], &expected));
                prop_assert!(!shape.fits(&layer, &layer[0]));
            }
        }
    }

    #[test]
    fn the_shape_of_a_file_follows_its_length() {
        let shape = |len| Shape::new(len, 65_536);
        let of = |len| (shape(len).height(), shape(len).piece_height(), shape(len).pieces());
        assert_eq!(of(1), (0, 0, 1));
        assert_eq!(of(16_385), (1, 1, 1));
        assert_eq!(of(65_536), (2, 2, 1));
        assert_eq!(of(65_537), (3, 2, 2));
        assert_eq!(of(1 << 60), (46, 2, 1 << 44));
    }

    #[test]
    fn more_nodes_than_there_is_room_for_have_no_root() {
        assert_eq!(root(&leaves(5), 0, 2), None);
        assert_eq!(root(&[], 1, 3), Some(padding(4)));
    }
}
