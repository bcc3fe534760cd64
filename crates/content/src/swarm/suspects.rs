//! Who spoiled a piece that several peers sent together.
//!
//! Such a piece is fetched again from one peer alone. When that copy passes, the blocks that differ
//! from it were the bad ones.

use std::collections::{BTreeMap, BTreeSet};

use super::PeerId;

/// Of how many failed pieces the blocks are remembered; of more, nobody is found out.
const PIECES_MAX: usize = 16;

/// Who sent a block, and what its bytes hashed to.
struct Sent {
    number: u32,
    from: PeerId,
    digest: u64,
}

#[derive(Default)]
pub(super) struct Suspects(BTreeMap<u32, Vec<Sent>>);

impl std::fmt::Debug for Suspects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Suspects {
    /// A piece failed: these blocks (number, sender) were in it, with these digests by number.
    pub(super) fn remember(
        &mut self,
        piece: u32,
        sent: impl Iterator<Item = (u32, PeerId)>,
        digests: &[u64],
    ) {
        if self.0.len() >= PIECES_MAX && !self.0.contains_key(&piece) {
            return;
        }
        let sent = sent.filter_map(|(number, from)| {
            let digest = *digests.get(number as usize)?;
            Some(Sent { number, from, digest })
        });
        self.0.insert(piece, sent.collect());
    }

    pub(super) fn has(&self, piece: u32) -> bool {
        self.0.contains_key(&piece)
    }

    /// The piece passed with these digests: who had sent others.
    pub(super) fn convict(&mut self, piece: u32, digests: &[u64]) -> BTreeSet<PeerId> {
        let sent = self.0.remove(&piece).unwrap_or_default();
        let bad = |sent: &&Sent| {
            digests.get(sent.number as usize).is_some_and(|good| *good != sent.digest)
        };
        sent.iter().filter(bad).map(|sent| sent.from).collect()
    }

    /// Whether this peer is among those who may have spoiled the piece.
    pub(super) fn names(&self, piece: u32, peer: PeerId) -> bool {
        self.0.get(&piece).is_some_and(|sent| sent.iter().any(|sent| sent.from == peer))
    }
}
