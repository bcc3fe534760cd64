//! How a torrent's bytes are cut into pieces, and pieces into blocks.

use std::collections::BTreeMap;

/// The unit in which peers ask for data, in bytes (BEP 3), and the leaf of BEP 52's hash trees.
pub const BLOCK_LEN: u32 = 16 << 10;
/// The longest piece that is handled, in bytes: what has to arrive before a hash of BEP 3 can tell
/// whether it is good. Torrents in the wild stay at or below 64 MiB.
pub const PIECE_LEN_MAX: u32 = 64 << 20;
/// Most pieces of a torrent: 16 Mi, so that a bitfield stays at 2 MiB.
pub const PIECES_MAX: u32 = 1 << 24;

/// A part of a piece that is asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Index of the piece.
    pub piece: u32,
    /// Where it begins in the piece, in bytes: a multiple of [`BLOCK_LEN`].
    pub begin: u32,
    /// Its length in bytes, from 1 to [`BLOCK_LEN`].
    pub len: u32,
}

/// Why a torrent cannot be cut like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Not what BEP 3 and 52 allow, or more than we handle.
    #[error(
        "pieces of {0} bytes: must be a power of two from {BLOCK_LEN} to {PIECE_LEN_MAX} (v1 alone: any length from 1)"
    )]
    PieceLen(u32),
    /// More than [`PIECES_MAX`].
    #[error("more than {PIECES_MAX} pieces: use longer ones")]
    TooManyPieces,
    /// A piece is said to hold no byte, or more than the others.
    #[error("piece {0} has no sound length")]
    Short(u32),
}

/// Piece lengths. All pieces are of one length, save the last, and those at which a file of BEP 52
/// ends: only their data is sent, never the padding after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    piece_len: u32,
    pieces: u32,
    /// Pieces that hold less data than `piece_len`.
    short: BTreeMap<u32, u32>,
    data_len: u64,
}

impl Geometry {
    /// `pieces` of `piece_len` bytes, save those in `short` (piece and its length in bytes).
    ///
    /// # Errors
    /// [`GeometryError`].
    pub fn new(
        piece_len: u32,
        pieces: u32,
        short: BTreeMap<u32, u32>,
    ) -> Result<Self, GeometryError> {
        if piece_len == 0 || piece_len > PIECE_LEN_MAX {
            return Err(GeometryError::PieceLen(piece_len));
        }
        if pieces > PIECES_MAX {
            return Err(GeometryError::TooManyPieces);
        }
        let unsound =
            |(piece, len): (&u32, &u32)| *piece >= pieces || *len == 0 || *len >= piece_len;
        if let Some((piece, _)) = short.iter().find(|entry| unsound(*entry)) {
            return Err(GeometryError::Short(*piece));
        }
        let missing: u64 = short.values().map(|len| u64::from(piece_len - len)).sum();
        let data_len = u64::from(piece_len) * u64::from(pieces) - missing;
        Ok(Self { piece_len, pieces, short, data_len })
    }

    /// How long all pieces are that are not short, in bytes.
    pub fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// How many there are.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Data bytes of all pieces together.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Data bytes of one piece; 0 for one that does not exist.
    pub fn len_of(&self, piece: u32) -> u32 {
        if piece >= self.pieces {
            return 0;
        }
        self.short.get(&piece).copied().unwrap_or(self.piece_len)
    }

    /// How many blocks a piece has.
    pub fn blocks_of(&self, piece: u32) -> u32 {
        self.len_of(piece).div_ceil(BLOCK_LEN)
    }

    /// A block of a piece by its number; `None` where there is none.
    pub fn block(&self, piece: u32, number: u32) -> Option<Block> {
        let begin = number.checked_mul(BLOCK_LEN)?;
        let left = self.len_of(piece).checked_sub(begin)?;
        (left > 0).then(|| Block { piece, begin, len: left.min(BLOCK_LEN) })
    }

    /// The number of a block in its piece; `None` where it is not one of [`Geometry::block`]'s.
    pub fn number_of(&self, block: Block) -> Option<u32> {
        let number = block.begin / BLOCK_LEN;
        (self.block(block.piece, number) == Some(block)).then_some(number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_short_piece_has_fewer_blocks_and_a_short_last_one() {
        let geometry = Geometry::new(64 << 10, 3, [(1, 20_000), (2, 1)].into()).unwrap();
        assert_eq!(geometry.data_len(), (64 << 10) + 20_001);
        assert_eq!(geometry.blocks_of(0), 4);
        assert_eq!(geometry.block(1, 1), Some(Block { piece: 1, begin: 16384, len: 3616 }));
        assert_eq!(geometry.block(1, 2), None);
        assert_eq!(geometry.block(3, 0), None);
        assert_eq!(geometry.blocks_of(3), 0);
        let block = geometry.block(0, 3).unwrap();
        assert_eq!(geometry.number_of(block), Some(3));
        assert_eq!(geometry.number_of(Block { len: 5, ..block }), None);
        assert_eq!(geometry.number_of(Block { begin: 5, ..block }), None);
    }

    #[test]
    fn what_no_torrent_can_be_is_refused() {
        for (piece_len, pieces, short) in [
            (0, 1, BTreeMap::new()),
            (PIECE_LEN_MAX + 1, 1, BTreeMap::new()),
            (1, PIECES_MAX + 1, BTreeMap::new()),
            (16, 1, [(1, 5)].into()),
            (16, 1, [(0, 0)].into()),
            (16, 1, [(0, 16)].into()),
        ] {
            assert!(Geometry::new(piece_len, pieces, short).is_err());
        }
    }
}
