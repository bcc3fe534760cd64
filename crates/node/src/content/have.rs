//! Which pieces are there, and the file that remembers it over a restart.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::files::{DiskError, Stamp};

/// What a have file begins with.
const MAGIC: &[u8; 20] = b"sparewire have v1\n\0\0";
/// The longest have file that is read: a bitfield of 2 MiB and a stamp for each file.
const FILE_LEN_MAX: u64 = 64 << 20;

/// What a have file says.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub(super) struct Remembered {
    /// Of which torrent it is: a hash of its metainfo's `info`.
    pub(super) torrent: [u8; 32],
    pub(super) pieces: u32,
    /// Pieces whose hash passed and whose bytes were durable before this was written.
    pub(super) bits: Vec<u8>,
    /// How complete files looked then, and at an orderly end others of which anything is there.
    pub(super) stamps: Vec<(u32, Stamp)>,
}

impl Remembered {
    /// What `path` says of `torrent`; `None` where there is nothing, or nothing sound: then all is
    /// checked, and nothing is lost but time.
    pub(super) fn load(path: &Path, torrent: [u8; 32], pieces: u32) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(FILE_LEN_MAX).read_to_end(&mut bytes).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (body, digest) = rest.split_at_checked(rest.len().checked_sub(32)?)?;
        if Sha256::digest(body).as_slice() != digest {
            return None;
        }
        let this: Self = borsh::from_slice(body).ok()?;
        (this.torrent == torrent && this.pieces == pieces).then_some(this)
    }

    /// Replaces `path` at once: what is there is the old one or the new one, whole.
    pub(super) fn save(&self, path: &Path) -> Result<(), DiskError> {
        let failed = |error: std::io::Error| DiskError::at(path, error);
        let body = borsh::to_vec(self).map_err(failed)?;
        let staged = path.with_extension("have-new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&staged)
            .map_err(failed)?;
        file.write_all(MAGIC).map_err(failed)?;
        file.write_all(&body).map_err(failed)?;
        file.write_all(&Sha256::digest(&body)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&staged, path).map_err(failed)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|f| f.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_read_back_and_anything_else_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.have");
        let this = Remembered { torrent: [7; 32], pieces: 9, bits: vec![3, 0], stamps: vec![] };
        assert_eq!(Remembered::load(&path, [7; 32], 9), None);
        this.save(&path).unwrap();
        this.save(&path).unwrap();
        assert_eq!(Remembered::load(&path, [7; 32], 9), Some(this));
        assert_eq!(Remembered::load(&path, [8; 32], 9), None, "of another torrent");
        assert_eq!(Remembered::load(&path, [7; 32], 8), None);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(Remembered::load(&path, [7; 32], 9), None, "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(Remembered::load(&path, [7; 32], 9), None, "first {at} bytes");
        }
    }
}
