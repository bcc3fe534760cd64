//! Leaf hashes of pieces that are there, in a file beside the have file, with the ending `leaves`.
//!
//! Who downloads a torrent with hash trees asks for the leaves of each piece, and to find them all
//! of the piece must be read and hashed: as much work as checking it was. They are known when a
//! piece passes, so that is when they are written down: those of piece `n` at `n` times the length
//! of all leaves of a whole piece. Nothing of the file is believed: leaves are used only where they
//! lead to the root that the torrent names. Where they are not there or wrong, or cannot be written,
//! the piece is hashed again.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sparewire_content::{BLOCK_LEN, Hash, Metainfo};

use super::files::read_cached;

/// Of how many leaves a piece is proven outside of a blocking thread: some microseconds.
pub(super) const AT_ONCE_MAX: u32 = 64;
/// Bytes of a leaf.
const LEAF_LEN: usize = size_of::<Hash>();

/// One torrent's leaves on disk.
#[derive(Debug)]
pub(super) struct LeafFile {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
enum Open {
    NotYet,
    Here(File),
    /// It could not be made or written.
    Never,
}

impl LeafFile {
    /// Beside a have file. `None` for a torrent without hash trees.
    pub(super) fn beside(have: &Path, metainfo: &Metainfo) -> Option<Self> {
        metainfo.hashes().v2()?;
        Some(Self { path: have.with_extension("leaves"), open: Mutex::new(Open::NotYet) })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the leaves of a piece are; `None` for one without any above its own: nobody asks.
    fn place(metainfo: &Metainfo, piece: u32) -> Option<(u64, usize)> {
        let blocks = metainfo.geometry().blocks_of(piece) as usize;
        let whole = u64::from(metainfo.geometry().piece_len() / BLOCK_LEN) * LEAF_LEN as u64;
        (blocks > 1).then_some((u64::from(piece) * whole, blocks * LEAF_LEN))
    }

    /// Writes down the leaves of a piece that has passed.
    pub(super) fn keep(&self, metainfo: &Metainfo, piece: u32, leaves: &[Hash]) {
        let Some((offset, len)) = Self::place(metainfo, piece) else { return };
        let bytes = leaves.as_flattened();
        if bytes.len() != len {
            return;
        }
        let mut open = self.open();
        if matches!(*open, Open::NotYet) {
            let mut options = OpenOptions::new();
            let made = options.read(true).write(true).create(true).truncate(false).open(&self.path);
            *open = self.or_never(made);
        }
        if let Open::Here(file) = &*open {
            let written = file.write_all_at(bytes, offset);
            if written.is_err() {
                *open = self.or_never(written.and(Err(std::io::ErrorKind::Other.into())));
            }
        }
    }

    fn or_never(&self, made: std::io::Result<File>) -> Open {
        made.map_or_else(
            |error| {
                let path = self.path.display();
                tracing::warn!("{path}: {error}; leaf hashes are worked out whenever asked for");
                Open::Never
            },
            Open::Here,
        )
    }

    /// The leaves of a piece, where the file has them and they lead to its root.
    pub(super) fn of(&self, metainfo: &Metainfo, piece: u32) -> Option<Vec<Hash>> {
        let (offset, len) = Self::place(metainfo, piece)?;
        let mut leaves = vec![[0; LEAF_LEN]; len / LEAF_LEN];
        {
            let mut open = self.open();
            if matches!(*open, Open::NotYet) {
                let there = OpenOptions::new().read(true).write(true).open(&self.path);
                *open = Open::Here(there.ok()?);
            }
            let Open::Here(file) = &*open else { return None };
            file.read_exact_at(leaves.as_flattened_mut(), offset).ok()?;
        }
        metainfo.check(piece)?.leaves_pass(&leaves).then_some(leaves)
    }

    /// What the file says of a piece of few blocks, if that waits for no disk and for nobody: to be
    /// proven by the caller.
    pub(super) fn at_once(&self, metainfo: &Metainfo, piece: u32) -> Option<Vec<Hash>> {
        let (offset, len) = Self::place(metainfo, piece)?;
        if len > AT_ONCE_MAX as usize * LEAF_LEN {
            return None;
        }
        let mut leaves = vec![[0; LEAF_LEN]; len / LEAF_LEN];
        {
            let open = self.open.try_lock().ok()?;
            let Open::Here(file) = &*open else { return None };
            if !read_cached(file, offset, leaves.as_flattened_mut()) {
                return None;
            }
        }
        Some(leaves)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_content::{Builder, Format, merkle};

    use super::*;

    const PIECE: usize = 64 << 10;

    fn torrent(format: Format) -> (Metainfo, Vec<Vec<Hash>>) {
        let data: Vec<u8> = (0..2 * PIECE + 20_000).map(|at| (at / 77) as u8).collect();
        let builder = Builder::file("x", data.len() as u64).unwrap().format(format);
        let mut builder = builder.piece_len(PIECE as u32).unwrap();
        builder.update(&data).unwrap();
        let of = |piece: &[u8]| piece.chunks(BLOCK_LEN as usize).map(merkle::leaf).collect();
        (builder.finish().unwrap(), data.chunks(PIECE).map(of).collect())
    }

    #[test]
    fn leaves_are_found_again_and_only_where_they_lead_to_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let have = folder.path().join("x.have");
        let (metainfo, leaves) = torrent(Format::Hybrid);
        let file = LeafFile::beside(&have, &metainfo).unwrap();
        assert_eq!(file.of(&metainfo, 0), None, "there is no file yet");
        for piece in [2, 0] {
            file.keep(&metainfo, piece, &leaves[piece as usize]);
        }
        file.keep(&metainfo, 1, &leaves[2]); // too few: not of this piece
        let again = LeafFile::beside(&have, &metainfo).unwrap();
        for file in [&file, &again] {
            assert_eq!(file.of(&metainfo, 0).as_ref(), Some(&leaves[0]));
            assert_eq!(file.of(&metainfo, 1), None);
            assert_eq!(file.of(&metainfo, 2).as_ref(), Some(&leaves[2]));
            assert_eq!(file.of(&metainfo, 3), None);
            // Just written, so in memory; not so on every file system.
            let at_once = file.at_once(&metainfo, 2);
            assert!(at_once.is_none() || at_once.as_ref() == Some(&leaves[2]));
        }
        let path = folder.path().join("x.leaves");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[70] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(again.of(&metainfo, 0), None, "a spoilt leaf is not believed");
        assert_eq!(again.of(&metainfo, 2).as_ref(), Some(&leaves[2]));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_done_without() {
        let folder = tempfile::tempdir().unwrap();
        let (metainfo, leaves) = torrent(Format::V2);
        let have = folder.path().join("not there").join("x.have");
        let file = LeafFile::beside(&have, &metainfo).unwrap();
        file.keep(&metainfo, 0, &leaves[0]);
        file.keep(&metainfo, 0, &leaves[0]);
        assert_eq!(file.of(&metainfo, 0), None);
        assert!(LeafFile::beside(&have, &torrent(Format::V1).0).is_none(), "it has none");
    }
}
