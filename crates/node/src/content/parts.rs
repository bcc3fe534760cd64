//! What is there of pieces that are not whole, and the file that remembers it over a restart.
//!
//! Beside the have file, with the ending `parts`: [`MAGIC`], 32 bytes that say of which torrent it
//! is (as in the have file), then one record after the other:
//!
//! - `0 || piece: u32 || leaves`: the leaf hashes of a piece with a hash tree, 32 bytes for each of
//!   its blocks. Appended before a block is counted that they prove, so that what was paid for is
//!   found again after a crash. They prove themselves by the torrent, and then prove what is on disk.
//! - `1 || piece: u32 || bits`: blocks of another piece that are on disk, one bit each, the highest of
//!   the first byte for the first. Nothing proves them, and nobody was paid for them; they are judged
//!   with their piece. Written only after their bytes are durable.
//!
//! Integers are little-endian. What follows a record that is not sound, or is cut off, is not read.
//! The file is a hint: nothing is served, or paid, because it says so. It is replaced at each save,
//! by what is not whole then, and removed where that is nothing.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sparewire_content::{Bitfield, Hash, Metainfo, PieceCheck};

use super::files::DiskError;

/// What a parts file begins with.
const MAGIC: &[u8; 20] = b"sparewire parts v1\n\0";
/// The most of a parts file that is read: the leaves of 32 GiB of pieces that are open together, of
/// which the download machine allows 1.
const FILE_LEN_MAX: u64 = 64 << 20;

/// What the file says of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Its leaf hashes. They are known to fit.
    Leaves(Arc<[Hash]>),
    /// Blocks that may be on disk.
    Written(Bitfield),
}

/// The parts file of one torrent.
#[derive(Debug)]
pub(super) struct Parts {
    /// `None` forgets.
    path: Option<PathBuf>,
    torrent: [u8; 32],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of pieces that were not whole at the last save, or began later.
    leaves: BTreeMap<u32, Arc<[Hash]>>,
    /// As they were at the last save.
    written: Vec<(u32, Bitfield)>,
    /// Where records are appended; `None` until something is to be remembered.
    file: Option<File>,
    /// The file was looked at: where it was not, what it says is not thrown away.
    looked: bool,
}

impl Parts {
    /// Beside the have file of a torrent.
    pub(super) fn beside(have: Option<&Path>, torrent: [u8; 32]) -> Self {
        let path = have.map(|have| have.with_extension("parts"));
        Self { path, torrent, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file says of pieces that are not `held`. Nothing where there is no sound file.
    pub(super) fn load(&self, metainfo: &Metainfo, held: &Bitfield) -> BTreeMap<u32, Part> {
        let mut bytes = Vec::new();
        let mut read =
            |path: &PathBuf| File::open(path)?.take(FILE_LEN_MAX).read_to_end(&mut bytes);
        let found = self.path.as_ref().map(&mut read);
        self.state().looked = match &found {
            Some(Err(error)) => error.kind() == std::io::ErrorKind::NotFound,
            _ => true,
        };
        if !matches!(found, Some(Ok(_))) {
            return BTreeMap::new();
        }
        let head = [&MAGIC[..], &self.torrent].concat();
        let mut rest = bytes.strip_prefix(&head[..]).unwrap_or_default();
        let mut parts = BTreeMap::new();
        while let Some((piece, part, after)) = record(rest, metainfo) {
            rest = after;
            if !held.has(piece) {
                parts.insert(piece, part);
            }
        }
        let leaves = |(piece, part): (&u32, &Part)| match part {
            Part::Leaves(leaves) => Some((*piece, Arc::clone(leaves))),
            Part::Written(_) => None,
        };
        self.state().leaves = parts.iter().filter_map(leaves).collect();
        parts
    }

    /// Remembers the leaf hashes of a piece; to be done before a block is counted that they prove.
    /// What is appended is not durable before [`Parts::save`]: it outlives the process, not a power cut.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(super) fn remember(&self, piece: u32, leaves: &Arc<[Hash]>) -> Result<(), DiskError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut state = self.state();
        if state.leaves.insert(piece, Arc::clone(leaves)).is_some() {
            return Ok(()); // its leaves are what they are
        }
        let written = match &mut state.file {
            Some(file) => file.write_all(&leaves_record(piece, leaves)),
            None => self.replace(path, &state).map(|file| {
                (state.file, state.looked) = (Some(file), true); // what it says is ours
            }),
        };
        if written.is_err() {
            // Half of it may be there, and nothing is read behind that: the next one replaces all.
            state.file = None;
            state.leaves.remove(&piece);
        }
        written.map_err(|error| DiskError::at(path, error))
    }

    /// Forgets pieces that are `held`, and remembers blocks of others that are `written` and durable.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(super) fn save(
        &self,
        held: &Bitfield,
        mut written: Vec<(u32, Bitfield)>,
    ) -> Result<(), DiskError> {
        let Some(path) = &self.path else { return Ok(()) };
        written.retain(|(piece, bits)| !held.has(*piece) && bits.count() > 0);
        let mut state = self.state();
        let before = state.leaves.len();
        state.leaves.retain(|piece, _| !held.has(*piece));
        let empty = state.leaves.is_empty() && written.is_empty();
        // What was appended is made durable where nothing else is to be done.
        if before == state.leaves.len()
            && written == state.written
            && !empty
            && let Some(file) = &state.file
        {
            return file.sync_data().map_err(|error| DiskError::at(path, error));
        }
        state.written = written;
        state.file = None;
        let saved = match empty {
            true if !state.looked => Ok(()),
            true => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            false => self.replace(path, &state).map(|file| {
                (state.file, state.looked) = (Some(file), true);
            }),
        };
        saved.map_err(|error| DiskError::at(path, error))
    }

    /// Replaces the file at once; what is returned is at its end.
    fn replace(&self, path: &Path, state: &State) -> std::io::Result<File> {
        let mut bytes = [&MAGIC[..], &self.torrent].concat();
        for (piece, leaves) in &state.leaves {
            bytes.extend(leaves_record(*piece, leaves));
        }
        for (piece, written) in &state.written {
            bytes.push(1);
            bytes.extend_from_slice(&piece.to_le_bytes());
            bytes.extend(written.to_bytes());
        }
        let staged = path.with_extension("parts-new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&staged)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&staged, path)?;
        Ok(file)
    }
}

fn leaves_record(piece: u32, leaves: &[Hash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + leaves.len() * 32);
    bytes.push(0);
    bytes.extend_from_slice(&piece.to_le_bytes());
    leaves.iter().for_each(|leaf| bytes.extend_from_slice(leaf));
    bytes
}

/// The first record of `bytes` and what follows it; `None` where it is not sound.
fn record<'a>(bytes: &'a [u8], metainfo: &Metainfo) -> Option<(u32, Part, &'a [u8])> {
    let ([kind], rest) = bytes.split_first_chunk()?;
    let (piece, rest) = rest.split_first_chunk()?;
    let piece = u32::from_le_bytes(*piece);
    let blocks = metainfo.geometry().blocks_of(piece);
    match (kind, metainfo.check(piece)?) {
        (0, check @ PieceCheck::Tree { .. }) => {
            let (leaves, rest) = rest.split_at_checked(blocks as usize * 32)?;
            let leaves: Vec<Hash> = leaves.as_chunks().0.to_vec();
            check.leaves_pass(&leaves).then(|| (piece, Part::Leaves(leaves.into()), rest))
        }
        (1, PieceCheck::Sha1(_)) => {
            let (bits, rest) = rest.split_at_checked(blocks.div_ceil(8) as usize)?;
            Some((piece, Part::Written(Bitfield::from_bytes(bits, blocks)?), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_content::{BLOCK_LEN, Builder, Format, merkle};

    use super::*;

    const TORRENT: [u8; 32] = [7; 32];
    const BLOCKS: usize = 4;

    /// Three pieces of four blocks, and the leaves of each.
    fn content(format: Format) -> (Metainfo, Vec<Arc<[Hash]>>) {
        let len = 3 * BLOCKS * BLOCK_LEN as usize;
        let data: Vec<u8> = (0..len).map(|at| (at / 1000) as u8).collect();
        let builder = Builder::file("f", len as u64).unwrap().format(format);
        let mut builder = builder.piece_len(BLOCKS as u32 * BLOCK_LEN).unwrap();
        builder.update(&data).unwrap();
        let blocks: Vec<Hash> = data.chunks(BLOCK_LEN as usize).map(merkle::leaf).collect();
        (builder.finish().unwrap(), blocks.chunks(BLOCKS).map(Into::into).collect())
    }

    fn held(pieces: &[u32]) -> Bitfield {
        let mut held = Bitfield::none(3);
        pieces.iter().for_each(|piece| {
            held.insert(*piece);
        });
        held
    }

    fn load(have: &Path, metainfo: &Metainfo) -> BTreeMap<u32, Part> {
        Parts::beside(Some(have), TORRENT).load(metainfo, &held(&[]))
    }

    #[test]
    fn leaves_are_there_at_once_and_go_when_their_piece_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (have, path) = (folder.path().join("x.have"), folder.path().join("x.parts"));
        let (metainfo, leaves) = content(Format::Hybrid);
        let parts = Parts::beside(Some(&have), TORRENT);
        for piece in [0, 2, 1, 2] {
            parts.remember(piece, &leaves[piece as usize]).unwrap();
        }
        let all = (0..3).map(|piece| (piece, Part::Leaves(leaves[piece as usize].clone())));
        assert_eq!(load(&have, &metainfo), all.clone().collect(), "before anything is saved");
        let later = Parts::beside(Some(&have), TORRENT).load(&metainfo, &held(&[1]));
        assert_eq!(later.len(), 2, "what is had is not in doubt");
        parts.save(&held(&[1]), Vec::new()).unwrap();
        assert_eq!(load(&have, &metainfo), all.clone().filter(|(piece, _)| *piece != 1).collect());
        parts.remember(1, &leaves[1]).unwrap();
        assert_eq!(load(&have, &metainfo), all.collect());
        parts.save(&held(&[0, 1, 2]), Vec::new()).unwrap();
        assert!(!path.exists(), "nothing is left to remember");
        parts.save(&held(&[0, 1, 2]), Vec::new()).unwrap();
    }

    #[test]
    fn what_could_not_be_appended_is_not_taken_for_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let have = folder.path().join("x.have");
        let (metainfo, leaves) = content(Format::Hybrid);
        let parts = Parts::beside(Some(&have), TORRENT);
        parts.remember(0, &leaves[0]).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        parts.state().file = Some(full);
        parts.remember(1, &leaves[1]).unwrap_err();
        parts.remember(1, &leaves[1]).unwrap();
        let kept = [0, 1].map(|piece| (piece, Part::Leaves(leaves[piece as usize].clone())));
        assert_eq!(load(&have, &metainfo), kept.into());
    }

    #[test]
    fn a_file_that_nobody_looked_at_is_not_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let have = folder.path().join("x.have");
        let (metainfo, leaves) = content(Format::Hybrid);
        Parts::beside(Some(&have), TORRENT).remember(1, &leaves[1]).unwrap();
        // Its torrent was stopped before it came to that.
        Parts::beside(Some(&have), TORRENT).save(&held(&[]), Vec::new()).unwrap();
        assert_eq!(load(&have, &metainfo).len(), 1);
        let parts = Parts::beside(Some(&have), TORRENT);
        parts.load(&metainfo, &held(&[1]));
        parts.save(&held(&[1]), Vec::new()).unwrap();
        assert!(!folder.path().join("x.parts").exists());
    }

    #[test]
    fn blocks_of_pieces_without_trees_are_remembered_as_they_were_at_the_last_save() {
        let folder = tempfile::tempdir().unwrap();
        let have = folder.path().join("x.have");
        let (metainfo, _) = content(Format::V1);
        let parts = Parts::beside(Some(&have), TORRENT);
        let mut bits = Bitfield::none(BLOCKS as u32);
        bits.insert(2);
        let none = Bitfield::none(BLOCKS as u32);
        let written = vec![(0, none), (1, bits.clone()), (2, bits.clone())];
        parts.save(&held(&[2]), written).unwrap();
        assert_eq!(load(&have, &metainfo), [(1, Part::Written(bits))].into());
        parts.save(&held(&[2]), Vec::new()).unwrap();
        assert_eq!(load(&have, &metainfo), BTreeMap::new());
    }

    #[test]
    fn a_file_that_is_cut_off_damaged_or_another_torrents_says_nothing_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let (have, path) = (folder.path().join("x.have"), folder.path().join("x.parts"));
        let (metainfo, leaves) = content(Format::V2);
        let parts = Parts::beside(Some(&have), TORRENT);
        (0..3).for_each(|piece| parts.remember(piece, &leaves[piece as usize]).unwrap());
        let good = std::fs::read(&path).unwrap();
        let record = 5 + 32 * BLOCKS;
        for at in 0..good.len() {
            std::fs::write(&path, &good[..at]).unwrap();
            let whole = at.saturating_sub(52) / record;
            assert_eq!(load(&have, &metainfo).len(), whole, "first {at} bytes");
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            for (piece, part) in load(&have, &metainfo) {
                assert_eq!(part, Part::Leaves(leaves[piece as usize].clone()), "byte {at}");
            }
        }
        std::fs::write(&path, &good).unwrap();
        assert!(Parts::beside(Some(&have), [8; 32]).load(&metainfo, &held(&[])).is_empty());
        let (v1, _) = content(Format::V1);
        assert!(load(&have, &v1).is_empty(), "nothing proves leaves there");
    }
}
