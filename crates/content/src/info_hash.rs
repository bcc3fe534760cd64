//! What a torrent is called among peers.

use std::fmt;

/// The hashes of a torrent's info dictionary: at least one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InfoHashes {
    v1: Option<[u8; 20]>,
    v2: Option<[u8; 32]>,
}

impl InfoHashes {
    /// SHA-1 (BEP 3), SHA-256 (BEP 52), or both of a hybrid torrent. `None` where there is neither.
    pub fn new(v1: Option<[u8; 20]>, v2: Option<[u8; 32]>) -> Option<Self> {
        (v1.is_some() || v2.is_some()).then_some(Self { v1, v2 })
    }

    /// SHA-1 of the info dictionary, of a v1 or hybrid torrent.
    pub fn v1(&self) -> Option<[u8; 20]> {
        self.v1
    }

    /// SHA-256 of the info dictionary, of a v2 or hybrid torrent.
    pub fn v2(&self) -> Option<[u8; 32]> {
        self.v2
    }

    /// The one that stands in handshakes: v1 where there is one, else the first 20 bytes of v2.
    pub fn handshake(&self) -> [u8; 20] {
        self.v1.or(self.truncated()).expect("there is at least one")
    }

    /// All under which peers may be found, at trackers and in the DHT: one or two, v1 first.
    pub fn topics(&self) -> impl Iterator<Item = [u8; 20]> + use<> {
        self.v1.into_iter().chain(self.truncated())
    }

    /// Whether a handshake with `info_hash` means this torrent.
    pub fn answers_to(&self, info_hash: &[u8; 20]) -> bool {
        self.topics().any(|topic| topic == *info_hash)
    }

    /// Whether nothing that is known of `other` is another here.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let v1 = other.v1.is_none_or(|hash| self.v1 == Some(hash));
        v1 && other.v2.is_none_or(|hash| self.v2 == Some(hash))
    }

    fn truncated(&self) -> Option<[u8; 20]> {
        self.v2.map(|hash| std::array::from_fn(|at| hash[at]))
    }
}

/// Hexadecimal digits: of v1 where there is one, else of v2.
impl fmt::Display for InfoHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.v1, &self.v2) {
            (Some(hash), _) => write_hex(f, hash),
            (None, Some(hash)) => write_hex(f, hash),
            (None, None) => Ok(()),
        }
    }
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn write_hex(f: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_is_found_under_both_and_shakes_hands_with_v1() {
        let hybrid = InfoHashes::new(Some([1; 20]), Some([2; 32])).unwrap();
        assert_eq!(hybrid.handshake(), [1; 20]);
        assert_eq!(hybrid.topics().collect::<Vec<_>>(), [[1; 20], [2; 20]]);
        assert!(hybrid.answers_to(&[2; 20]) && !hybrid.answers_to(&[3; 20]));
        assert_eq!(hybrid.to_string(), "01".repeat(20));
        let v2 = InfoHashes::new(None, Some([2; 32])).unwrap();
        assert_eq!(v2.handshake(), [2; 20]);
        assert_eq!(v2.to_string(), "02".repeat(32));
        assert!(hybrid.agrees_with(&v2) && !v2.agrees_with(&hybrid));
        assert_eq!(InfoHashes::new(None, None), None);
    }
}
