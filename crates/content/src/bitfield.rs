//! Which pieces somebody has.

/// A set of pieces, one bit each, as on the wire: the highest bit of the first byte is piece 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitfield {
    words: Vec<u64>,
    pieces: u32,
    count: u32,
}

impl Bitfield {
    /// None of `pieces`.
    pub fn none(pieces: u32) -> Self {
        Self { words: vec![0; pieces.div_ceil(64) as usize], pieces, count: 0 }
    }

    /// All of `pieces`.
    pub fn all(pieces: u32) -> Self {
        let mut all = Self::none(pieces);
        all.words.fill(u64::MAX);
        if let (Some(last), spare @ 1..) = (all.words.last_mut(), (64 - pieces % 64) % 64) {
            *last <<= spare;
        }
        all.count = pieces;
        all
    }

    /// Reads a bitfield of `pieces`; `None` where it is of another length, or has a bit for a piece
    /// that there is not.
    pub fn from_bytes(bytes: &[u8], pieces: u32) -> Option<Self> {
        if bytes.len() != pieces.div_ceil(8) as usize {
            return None;
        }
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_be_bytes(word)
        });
        let words: Vec<u64> = words.collect();
        let spare = words.len() as u32 * 64 - pieces;
        if words.last().is_some_and(|last| last & !(u64::MAX.checked_shl(spare).unwrap_or(0)) != 0)
        {
            return None;
        }
        let count = words.iter().map(|word| word.count_ones()).sum();
        Some(Self { words, pieces, count })
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.truncate(self.pieces.div_ceil(8) as usize);
        bytes
    }

    /// Of how many pieces it speaks.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// How many are in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether all are.
    pub fn is_all(&self) -> bool {
        self.count == self.pieces
    }

    /// Whether `piece` is in it; no piece beyond the last is.
    pub fn has(&self, piece: u32) -> bool {
        let word = self.words.get(piece as usize / 64).copied().unwrap_or(0);
        word & bit(piece) != 0
    }

    /// Takes `piece` in; `false` where it was in already, or is beyond the last.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.pieces || self.has(piece) {
            return false;
        }
        self.words[piece as usize / 64] |= bit(piece);
        self.count += 1;
        true
    }

    /// Takes `piece` out; `false` where it was not in.
    pub fn remove(&mut self, piece: u32) -> bool {
        if !self.has(piece) {
            return false;
        }
        self.words[piece as usize / 64] &= !bit(piece);
        self.count -= 1;
        true
    }

    /// Those that are in both, from `from` on and then from the first, each once.
    pub fn both_from<'a>(
        &'a self,
        other: Option<&'a Self>,
        from: u32,
    ) -> impl Iterator<Item = u32> + 'a {
        let words = self.words.len();
        let start = (from as usize / 64).min(words.saturating_sub(1));
        let common = move |at: usize| {
            self.words[at]
                & other.map_or(u64::MAX, |other| other.words.get(at).copied().unwrap_or(0))
        };
        // The first word is met twice: its later part first, its earlier part last.
        let after = u64::MAX >> (from % 64);
        (0..=words).filter(move |_| words > 0).flat_map(move |step| {
            let at = (start + step) % words;
            let mask = match step {
                0 => after,
                _ if step == words => !after,
                _ => u64::MAX,
            };
            Bits(common(at) & mask).map(move |bit| at as u32 * 64 + bit)
        })
    }

    /// Those that are in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.both_from(None, 0)
    }

    /// How many are in `self` and not in `other`.
    pub fn count_without(&self, other: &Self) -> u32 {
        self.words
            .iter()
            .zip(&other.words)
            .map(|(ours, theirs)| (ours & !theirs).count_ones())
            .sum()
    }
}

fn bit(piece: u32) -> u64 {
    1 << (63 - piece % 64)
}

/// The set bits of a word, highest first, as places from the highest.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.leading_zeros();
        self.0 &= !(1 << (63 - place));
        Some(place)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bit_beyond_the_last_piece_is_refused() {
        assert!(Bitfield::from_bytes(&[0b1110_0000], 3).is_some());
        assert!(Bitfield::from_bytes(&[0b1111_0000], 3).is_none());
        assert!(Bitfield::from_bytes(&[0xff; 8], 64).is_some());
        assert!(Bitfield::from_bytes(&[0xff; 9], 65).is_none());
        assert!(Bitfield::from_bytes(&[0xff; 2], 24).is_none());
        assert!(Bitfield::from_bytes(&[], 0).is_some());
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_pieces(
            pieces in 1u32..200,
            changes in proptest::collection::vec((0u32..210, any::<bool>()), 0..300),
            from in 0u32..200,
        ) {
            let from = from % pieces;
            let (mut bits, mut set) = (Bitfield::none(pieces), std::collections::BTreeSet::new());
            for (piece, insert) in changes {
                if insert {
                    prop_assert_eq!(bits.insert(piece), piece < pieces && set.insert(piece));
                } else {
                    prop_assert_eq!(bits.remove(piece), set.remove(&piece));
                }
            }
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert!(bits.iter().eq(set.iter().copied()));
            let turned: Vec<u32> = set.range(from..).chain(set.range(..from)).copied().collect();
            prop_assert_eq!(bits.both_from(None, from).collect::<Vec<_>>(), turned);
            prop_assert_eq!(Bitfield::from_bytes(&bits.to_bytes(), pieces), Some(bits.clone()));
            prop_assert_eq!(Bitfield::all(pieces).count_without(&bits), pieces - bits.count());
            prop_assert_eq!(Bitfield::all(pieces).iter().count() as u32, pieces);
            prop_assert_eq!(Bitfield::from_bytes(&Bitfield::all(pieces).to_bytes(), pieces), Some(Bitfield::all(pieces)));
        }
    }
}
