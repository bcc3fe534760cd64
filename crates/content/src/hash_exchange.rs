//! Hashes asked for and given between peers (BEP 52).

use crate::{
    Hash, HashRequest, Metainfo,
    merkle::{self, Shape},
};

/// Most hashes of the base layer in one request (BEP 52).
const LENGTH_MAX: u32 = 512;

impl Metainfo {
    /// What to ask a peer for, so that each block of a piece can be judged by its leaf: nothing where
    /// there is no tree, or a block is a piece. The answers are the piece's leaves from the first
    /// on, 512 of each, with zeros beyond the end of the file ([`Metainfo::proven`]).
    pub fn ask_leaves(&self, piece: u32) -> Vec<HashRequest> {
        let Some((file, shape, number)) = self.tree_at(piece) else { return Vec::new() };
        let Some(pieces_root) = self.layout().files()[file].root() else { return Vec::new() };
        let levels = shape.piece_height();
        if levels == 0 {
            return Vec::new();
        }
        let length = LENGTH_MAX.min(1 << levels);
        // A whole piece needs no proof, its root is known; a part needs one up to that.
        let proof_layers = if length < 1 << levels { levels - 1 } else { 0 };
        let chunks = self.geometry().blocks_of(piece).div_ceil(length);
        // The messages have no numbers for leaves beyond 64 TiB of a file.
        let Some(first) = number.checked_mul(1 << levels) else { return Vec::new() };
        let index = |chunk: u32| first + chunk * length;
        let ask = |chunk| HashRequest {
            pieces_root,
            base_layer: 0,
            index: index(chunk),
            length,
            proof_layers,
        };
        (0..chunks).map(ask).collect()
    }

    /// What to ask peers for, so that the pieces of a file can be judged ([`Metainfo::set_layer`]).
    /// The answers are the hashes of its pieces from the first on, 512 of each, and of padding
    /// beyond the last. Empty for a file of one piece, and without trees.
    pub fn ask_layer(&self, file: usize) -> Vec<HashRequest> {
        let Some(of) = self.layout().files().get(file) else { return Vec::new() };
        let shape = Shape::new(of.len(), self.geometry().piece_len());
        let Some(pieces_root) = of.root().filter(|_| shape.pieces() > 1) else { return Vec::new() };
        let base_layer = shape.piece_height();
        let above = shape.height() - base_layer;
        let length = LENGTH_MAX.min(1 << above);
        let ask = |chunk| HashRequest {
            pieces_root,
            base_layer,
            index: chunk * length,
            length,
            proof_layers: above - 1,
        };
        // A torrent has at most 2^24 pieces.
        (0..(shape.pieces() as u32).div_ceil(length)).map(ask).collect()
    }

    /// The hashes of the base layer, if an answer proves them: it must lead to the file's root, or
    /// to a hash of a piece that is known. `hashes` are those of the message, as it has them.
    pub fn proven<'a>(&self, request: &HashRequest, hashes: &'a [u8]) -> Option<&'a [Hash]> {
        let (file, span) = self.span(request)?;
        let (hashes, []) = hashes.as_chunks() else { return None };
        if hashes.len() as u64 != u64::from(request.length) + u64::from(span.uncles) {
            return None;
        }
        let (base, uncles) = hashes.split_at(request.length as usize);
        let mut node = merkle::root(base, request.base_layer, span.levels)?;
        let mut at = request.index >> span.levels;
        for uncle in uncles {
            node = match at % 2 {
                0 => merkle::parent(&node, uncle),
                _ => merkle::parent(uncle, &node),
            };
            at >>= 1;
        }
        let top = span.top();
        let known = if top == span.shape.height() {
            self.layout().files()[file].root()
        } else if top == span.shape.piece_height() {
            self.layer(file)?.get(at as usize).copied()
        } else {
            None
        };
        (known == Some(node)).then_some(base)
    }

    /// The hashes that answer a peer's request; `None` if it is to be rejected. `leaves` gives the
    /// leaves of a piece, of each of its blocks, from the data; it is asked for at most 512 pieces,
    /// whose blocks together are 512 or those of one piece.
    pub fn answer(
        &self,
        request: &HashRequest,
        mut leaves: impl FnMut(u32) -> Option<Vec<Hash>>,
    ) -> Option<Vec<u8>> {
        let (file, span) = self.span(request)?;
        let first = self.layout().pieces(file).start;
        let piece_height = span.shape.piece_height();
        // The end may be one more than fits the message.
        let (index, index_end) = (u64::from(request.index), span.end(request));
        let layer = self.layer(file).unwrap_or_default();
        let mut out = Vec::new();
        if request.base_layer == piece_height && span.shape.pieces() > 1 {
            let row = Row { hashes: layer, height: piece_height };
            if layer.is_empty() {
                return None;
            }
            (index..index_end).for_each(|at| out.push(row.node(piece_height, at)));
            span.uncles_of(request).for_each(|(height, at)| out.push(row.node(height, at)));
        } else if request.base_layer == 0 {
            let mut of_piece = Vec::new();
            for number in index >> piece_height..=(index_end - 1) >> piece_height {
                let blocks = if number < span.shape.pieces() {
                    // A torrent has at most 2^24 pieces.
                    let piece = first + number as u32;
                    let blocks = leaves(piece)?;
                    // What would not pass there is not sent: the data may have changed.
                    self.check(piece)?.leaves_pass(&blocks).then_some(blocks)?
                } else {
                    Vec::new()
                };
                let of = number << piece_height;
                let from = index.max(of);
                let to = index_end.min(of + (1 << piece_height));
                let row = Row { hashes: &blocks, height: 0 };
                (from..to).for_each(|at| out.push(row.node(0, at - of)));
                of_piece = blocks;
            }
            for (height, at) in span.uncles_of(request) {
                out.push(if height < piece_height {
                    // Still within the one piece: the uncle's place there.
                    let within = at % (1 << (piece_height - height));
                    Row { hashes: &of_piece, height: 0 }.node(height, within)
                } else if layer.is_empty() {
                    return None;
                } else {
                    Row { hashes: layer, height: piece_height }.node(height, at)
                });
            }
        } else {
            return None;
        }
        Some(out.into_flattened())
    }

    /// What a request is about, if a sound one.
    fn span(&self, request: &HashRequest) -> Option<(usize, Span)> {
        let file = self.file_of_root(&request.pieces_root)?;
        let shape = Shape::new(self.layout().files()[file].len(), self.geometry().piece_len());
        let HashRequest { base_layer, index, length, proof_layers, .. } = *request;
        if base_layer > shape.height() || !(2..=LENGTH_MAX).contains(&length) {
            return None;
        }
        let row = 1u64 << (shape.height() - base_layer);
        if !length.is_power_of_two()
            || !index.is_multiple_of(length)
            || u64::from(index) + u64::from(length) > row
        {
            return None;
        }
        let levels = length.ilog2();
        // The hashes of the base layer give the lowest nodes of the proof.
        let uncles = proof_layers.saturating_sub(levels - 1);
        let span = Span { shape, base: base_layer, levels, uncles };
        (uncles < 64 && span.top() <= shape.height()).then_some((file, span))
    }
}

/// The part of a tree that a request covers.
struct Span {
    shape: Shape,
    base: u32,
    /// How high the node over all hashes of the request is above them.
    levels: u32,
    /// How many hashes beside the way up come after them.
    uncles: u32,
}

impl Span {
    /// Where in the base layer the request ends.
    fn end(&self, request: &HashRequest) -> u64 {
        u64::from(request.index) + u64::from(request.length)
    }

    /// How high above the leaves the proof ends.
    fn top(&self) -> u32 {
        self.base + self.levels + self.uncles
    }

    /// Height above the leaves and place of each uncle, upwards.
    fn uncles_of(&self, request: &HashRequest) -> impl Iterator<Item = (u32, u64)> + use<> {
        let (begin, at) = (self.base + self.levels, u64::from(request.index) >> self.levels);
        (0..self.uncles).map(move |up| (begin + up, (at >> up) ^ 1))
    }
}

/// Nodes of one height, from the left on; beyond them is padding.
struct Row<'a> {
    hashes: &'a [Hash],
    height: u32,
}

impl Row<'_> {
    /// The node `height` above the leaves, as the row leads to it.
    fn node(&self, height: u32, at: u64) -> Hash {
        let levels = height - self.height;
        let place = |at: u64| (at << levels).min(self.hashes.len() as u64) as usize;
        let beneath = &self.hashes[place(at)..place(at + 1)];
        merkle::root(beneath, self.height, levels).unwrap_or_else(|| merkle::padding(height))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{BLOCK_LEN, Builder, Format};

    /// A torrent of files of so many blocks (and one byte less), and the leaves of each piece.
    fn torrent(blocks: &[u64], piece_len: u32) -> (Metainfo, Vec<Vec<Hash>>) {
        let lens: Vec<_> = blocks.iter().map(|blocks| blocks * u64::from(BLOCK_LEN) - 1).collect();
        let files = (0..).zip(&lens).map(|(at, len)| (vec![format!("{at:02}")], *len)).collect();
        let builder = Builder::folder("t", files).unwrap().format(Format::V2);
        let mut builder = builder.piece_len(piece_len).unwrap();
        let mut pieces = Vec::new();
        while let Some((file, left)) = builder.wanted() {
            // No two blocks alike.
            let mut bytes = vec![file as u8; left.min(u64::from(piece_len)) as usize];
            for (at, block) in bytes.chunks_mut(BLOCK_LEN as usize).enumerate() {
                block[..8].copy_from_slice(&[
                    left.to_le_bytes()[2],
                    at as u8,
                    (at >> 8) as u8,
                    0,
                    1,
                    2,
                    3,
                    4,
                ]);
            }
            pieces.push(bytes.chunks(BLOCK_LEN as usize).map(merkle::leaf).collect());
            builder.update(&bytes).unwrap();
        }
        (builder.finish().unwrap(), pieces)
    }

    #[test]
    fn a_piece_of_many_leaves_is_asked_for_in_parts_that_are_proven() {
        // 1,100 of 2,048 leaves in the first file's second piece, which no request covers.
        let (metainfo, pieces) = torrent(&[2048 + 1100, 700], 2048 * BLOCK_LEN);
        for (piece, parts) in [(0, 4), (1, 3), (2, 2)] {
            let asked = metainfo.ask_leaves(piece);
            assert_eq!(asked.len(), parts);
            let mut learned = Vec::new();
            for request in asked {
                let leaves = |piece: u32| pieces.get(piece as usize).cloned();
                let mut answer = metainfo.answer(&request, leaves).unwrap();
                learned.extend(metainfo.proven(&request, &answer).unwrap());
                *answer.last_mut().unwrap() ^= 1;
                assert_eq!(metainfo.proven(&request, &answer), None);
            }
            learned.truncate(pieces[piece as usize].len());
            assert_eq!(learned, pieces[piece as usize]);
            assert!(metainfo.check(piece).unwrap().leaves_pass(&learned));
        }
    }

    #[test]
    fn a_file_of_more_than_512_pieces_is_learned_in_parts() {
        let (metainfo, pieces) = torrent(&[1300, 1], BLOCK_LEN);
        let mut learner = Metainfo::from_info(metainfo.info_bytes(), metainfo.hashes()).unwrap();
        let asked = learner.ask_layer(0);
        assert_eq!(asked.len(), 3);
        let mut layer = Vec::new();
        for request in asked {
            let answer = metainfo.answer(&request, |_| None).unwrap();
            // 512 hashes and two uncles below the root of 2,048.
            assert_eq!(answer.len(), 32 * (512 + 2));
            layer.extend(learner.proven(&request, &answer).unwrap());
            assert_eq!(learner.answer(&request, |_| None), None);
        }
        layer.truncate(1300);
        learner.set_layer(0, layer).unwrap();
        assert_eq!(learner.layer(0).unwrap(), pieces[..1300].concat());
        assert!(learner.ask_layer(1).is_empty() && learner.ask_leaves(0).is_empty());
    }

    #[test]
    fn requests_as_nobody_should_make_them_are_rejected() {
        let (metainfo, pieces) = torrent(&[5, 1], 4 * BLOCK_LEN);
        let good = metainfo.ask_leaves(0)[0];
        let answer = |request: &HashRequest| {
            metainfo.answer(request, |piece| pieces.get(piece as usize).cloned())
        };
        assert!(answer(&good).is_some());
        for wrong in [
            HashRequest { pieces_root: [9; 32], ..good },
            HashRequest { base_layer: 1, ..good },
            HashRequest { base_layer: 3, ..good },
            HashRequest { base_layer: u32::MAX, ..good },
            HashRequest { index: 1, ..good },
            HashRequest { index: 8, ..good },
            HashRequest { index: u32::MAX - 3, ..good },
            HashRequest { length: 0, ..good },
            HashRequest { length: 1, ..good },
            HashRequest { length: 3, ..good },
            HashRequest { length: 16, ..good },
            HashRequest { length: 1 << 31, ..good },
            HashRequest { length: u32::MAX, ..good },
            HashRequest { proof_layers: 3, ..good },
            HashRequest { proof_layers: u32::MAX, ..good },
        ] {
            assert_eq!(answer(&wrong), None, "{wrong:?}");
            assert_eq!(metainfo.proven(&wrong, &[0; 128]), None);
        }
        assert_eq!(metainfo.answer(&good, |_| None), None);
        assert_eq!(metainfo.answer(&good, |_| Some(Vec::new())), None);
        assert_eq!(metainfo.answer(&good, |_| Some(vec![[0; 32]; 5000])), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever we answer is proven to whoever asked.
        #[test]
        fn every_answer_proves_itself(
            blocks in prop::collection::vec(1u64..40, 1..4), piece in 0u32..4,
            file in 0usize..4, base in 0u32..7, index in 0u32..64, length in 1u32..6, proof in 0u32..8,
        ) {
            let (metainfo, pieces) = torrent(&blocks, BLOCK_LEN << piece);
            let Some(root) = metainfo.layout().files().get(file).and_then(|file| file.root()) else {
                return Ok(());
            };
            let request = HashRequest {
                pieces_root: root,
                base_layer: base,
                index: index << length,
                length: 1 << length,
                proof_layers: proof,
            };
            let answer = metainfo.answer(&request, |piece| pieces.get(piece as usize).cloned());
            if let Some(answer) = answer {
                let (height, piece_height) = {
                    let of = &metainfo.layout().files()[file];
                    let shape = Shape::new(of.len(), metainfo.geometry().piece_len());
                    (shape.height(), shape.piece_height())
                };
                let top = base + length + proof.saturating_sub(length - 1);
                let known = top == height || top == piece_height;
                let within = u64::from(request.index >> length) << (base + length) < blocks[file];
                if known && within {
                    prop_assert!(metainfo.proven(&request, &answer).is_some());
                }
            }
        }
    }
}
