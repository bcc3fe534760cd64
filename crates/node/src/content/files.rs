//! The files of one torrent below one folder. No path is ever followed through a connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::IoSlice,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

/// How many files all torrents of an engine hold open together: far below the usual limit of a
/// process, 1024, most of which is for connections.
const OPEN_MAX: usize = 128;
/// How many parts are written at once: the least IOV_MAX that POSIX systems have is 1024.
const PARTS_MAX: usize = 512;

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The file, or a folder above it, is not there (any more).
    #[error("{} is missing: put it back, fetch the torrent again, or remove it", .0.display())]
    Missing(PathBuf),
    /// A connection, a folder, a pipe or a device where a file should be.
    #[error("{} is not an ordinary file or folder: move it away", .0.display())]
    Special(PathBuf),
    /// The file is longer than the torrent says, so it is something else.
    #[error("{} is longer than in the torrent: move it away", .0.display())]
    TooLong(PathBuf),
    /// The file is shorter than what was asked of it.
    #[error("{} ends early: it was changed, or is not complete", .0.display())]
    EndsEarly(PathBuf),
    /// No space, or no more of a quota.
    #[error("no space is left for {}: make room, then start the torrent again", .0.display())]
    Full(PathBuf),
    /// We may not, or the file system is one that can only be read.
    #[error(
        "{} may not be read or written: change its permissions, or how it is mounted, \
        then start the torrent again", .0.display()
    )]
    Denied(PathBuf),
    /// Anything else.
    #[error("{}: {reason}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

impl DiskError {
    pub(super) fn at(path: &Path, error: std::io::Error) -> Self {
        let path = path.to_owned();
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::STALE) => Self::Missing(path),
            // A connection is `LOOP` by `NOFOLLOW`; where a folder is wanted it is `NOTDIR`.
            Some(Errno::LOOP | Errno::MLINK | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO) => {
                Self::Special(path)
            }
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full(path),
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Self::Denied(path),
            _ => Self::Io { path, reason: error.to_string() },
        }
    }
}

/// By what a change of a file is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct Stamp {
    len: u64,
    modified_s: i64,
    modified_ns: u32,
    inode: u64,
}

impl Stamp {
    /// `None` where the file was removed while we hold it open.
    fn of(open: &File) -> Result<Option<Self>, Errno> {
        let stat = rustix::fs::fstat(open)?;
        Ok((stat.st_nlink > 0).then(|| Self {
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified_s: stat.st_mtime,
            modified_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            inode: stat.st_ino,
        }))
    }
}

/// Reads from the page cache alone.
#[cfg(target_os = "linux")]
pub(super) fn read_cached(open: &File, mut offset: u64, mut into: &mut [u8]) -> bool {
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    while !into.is_empty() {
        let parts = &mut [std::io::IoSliceMut::new(into)];
        match rustix::io::preadv2(open, parts, offset, flags) {
            // Also where the file system cannot: then it is read in the ordinary way.
            Ok(0) | Err(_) => return false,
            Ok(read) => {
                offset += read as u64;
                into = &mut into[read..];
            }
        }
    }
    true
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read_cached(_: &File, _: u64, _: &mut [u8]) -> bool {
    false
}

/// Files that are open, of all torrents together; those that were not used longest are closed.
#[derive(Debug, Default)]
pub struct Handles {
    pool: Mutex<Pool>,
    torrents: AtomicU64,
}

#[derive(Debug, Default)]
struct Pool {
    open: BTreeMap<(u64, u32), Handle>,
    uses: u64,
}

#[derive(Debug)]
struct Handle {
    file: Arc<File>,
    writable: bool,
    used: u64,
}

impl Handles {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: (u64, u32), write: bool) -> Option<Arc<File>> {
        let mut pool = self.pool();
        pool.uses += 1;
        let uses = pool.uses;
        let handle = pool.open.get_mut(&key).filter(|handle| handle.writable || !write)?;
        handle.used = uses;
        Some(Arc::clone(&handle.file))
    }

    fn keep(&self, key: (u64, u32), file: Arc<File>, writable: bool) {
        let mut pool = self.pool();
        pool.uses += 1;
        let used = pool.uses;
        pool.open.insert(key, Handle { file, writable, used });
        while pool.open.len() > OPEN_MAX {
            let oldest = pool.open.iter().min_by_key(|(_, handle)| handle.used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else { break };
            pool.open.remove(&oldest);
        }
    }

    /// Closes what a torrent has open, or one file of it.
    fn forget(&self, torrent: u64, file: Option<u32>) {
        self.pool()
            .open
            .retain(|(of, which), _| *of != torrent || file.is_some_and(|file| file != *which));
    }
}

/// A file as the torrent describes it.
#[derive(Clone, Debug)]
pub struct FileSpec {
    /// Names of the folders down to it, and its own: each one a plain name.
    pub path: Vec<String>,
    /// Its length in bytes.
    pub len: u64,
}

/// One torrent's files.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    specs: Vec<FileSpec>,
    handles: Arc<Handles>,
    id: u64,
    /// Written since they were last made durable.
    unsynced: Mutex<BTreeSet<u32>>,
    /// One at a time: what another is making durable is not durable yet.
    syncing: Mutex<()>,
}

impl Drop for Files {
    fn drop(&mut self) {
        self.handles.forget(self.id, None);
    }
}

impl Files {
    /// Files `specs` below `root`, which the user named and which may itself be a connection.
    ///
    /// # Errors
    /// [`DiskError::Special`] for a name that is not a plain one: the layout makes only such, and
    /// nothing else reaches the disk.
    pub fn new(
        root: &Path,
        specs: Vec<FileSpec>,
        handles: Arc<Handles>,
    ) -> Result<Self, DiskError> {
        let plain = |name: &String| {
            !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\0'])
        };
        for spec in &specs {
            if spec.path.is_empty() || !spec.path.iter().all(plain) {
                return Err(DiskError::Special(spec.path.iter().collect()));
            }
        }
        let id = handles.torrents.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            root: root.to_owned(),
            specs,
            handles,
            id,
            unsynced: Mutex::default(),
            syncing: Mutex::default(),
        })
    }

    /// Where a file is, for people.
    pub fn path(&self, file: u32) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(self.specs.get(file as usize).into_iter().flat_map(|spec| &spec.path));
        path
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        u32::try_from(self.specs.len()).unwrap_or(u32::MAX)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// Length of a file by the torrent, in bytes.
    pub fn len_of(&self, file: u32) -> u64 {
        self.specs.get(file as usize).map_or(0, |spec| spec.len)
    }

    /// Reads exactly `into.len()` bytes at `offset`.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read(&self, file: u32, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let open = self.open(file, false)?;
        open.read_exact_at(into, offset).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                DiskError::EndsEarly(self.path(file))
            } else {
                DiskError::at(&self.path(file), error)
            }
        })
    }

    /// Writes all of `parts`, one after the other, from `offset`. The file is made, and given its
    /// full length (sparse), where it is not there.
    ///
    /// # Errors
    /// [`DiskError`]; part of it may have been written. [`DiskError::Missing`] where the file was
    /// removed while we hold it open: what is written there is lost when we close it.
    pub fn write(
        &self,
        file: u32,
        mut offset: u64,
        parts: &mut [IoSlice<'_>],
    ) -> Result<(), DiskError> {
        let open = self.open(file, true)?;
        self.unsynced().insert(file);
        let failed = |error: std::io::Error| DiskError::at(&self.path(file), error);
        let mut rest = parts;
        while !rest.is_empty() {
            let now = rest.len().min(PARTS_MAX);
            match rustix::io::pwritev(&open, &rest[..now], offset) {
                Ok(0) => return Err(failed(std::io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        self.look(file, &open).map(|_| ())
    }

    /// What a file that we hold open looks like now; [`DiskError::Missing`] where it was removed.
    fn look(&self, file: u32, open: &File) -> Result<Stamp, DiskError> {
        let stamp =
            Stamp::of(open).map_err(|error| DiskError::at(&self.path(file), error.into()))?;
        stamp.ok_or_else(|| {
            // Removed, or something else took its name: that is the file now.
            self.handles.forget(self.id, Some(file));
            DiskError::Missing(self.path(file))
        })
    }

    /// Makes the files that hold no bytes, which no piece ever mentions.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn create_empty(&self) -> Result<(), DiskError> {
        for (file, spec) in (0..).zip(&self.specs) {
            if spec.len == 0 {
                self.open(file, true)?;
            }
        }
        Ok(())
    }

    /// Makes everything durable that was written before.
    ///
    /// # Errors
    /// [`DiskError`]; what is not durable is tried again by the next call.
    pub fn sync(&self) -> Result<(), DiskError> {
        let _alone = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let files: Vec<u32> = std::mem::take(&mut *self.unsynced()).into_iter().collect();
        for (at, file) in files.iter().enumerate() {
            let synced = self.open(*file, true).and_then(|open| {
                open.sync_data().map_err(|error| DiskError::at(&self.path(*file), error))
            });
            if let Err(error) = synced {
                self.unsynced().extend(&files[at..]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// What a file looks like from outside now.
    ///
    /// # Errors
    /// [`DiskError::Missing`] too where it was removed while we hold it open.
    pub fn stamp(&self, file: u32) -> Result<Stamp, DiskError> {
        let open = self.open(file, false)?;
        self.look(file, &open)
    }

    /// Reads exactly `into.len()` bytes at `offset` if that waits for no disk: the file is open, has
    /// these bytes in memory, and looks as it is `known` to look, where that is known, after they were
    /// read. `false`, and nothing of use in `into`, where not.
    pub(super) fn read_at_once(
        &self,
        file: u32,
        known: Option<Stamp>,
        offset: u64,
        into: &mut [u8],
    ) -> bool {
        let Some(open) = self.handles.find((self.id, file), false) else { return false };
        let looks = |known| Stamp::of(&open).is_ok_and(|stamp| stamp == Some(known));
        read_cached(&open, offset, into) && known.is_none_or(looks)
    }

    /// Whether anything was ever written in a range of a file: `false` only where all of it is a
    /// hole.
    pub fn has_data(&self, file: u32, offset: u64, len: u64) -> bool {
        let Ok(open) = self.open(file, false) else { return false };
        match rustix::fs::seek(&open, rustix::fs::SeekFrom::Data(offset)) {
            Ok(next) => next < offset.saturating_add(len),
            Err(Errno::NXIO) => false,
            // A file system that does not know.
            Err(_) => true,
        }
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, file: u32, write: bool) -> Result<Arc<File>, DiskError> {
        let key = (self.id, file);
        if let Some(open) = self.handles.find(key, write) {
            return Ok(open);
        }
        let open = Arc::new(self.open_below(file, write)?);
        self.handles.keep(key, Arc::clone(&open), write);
        Ok(open)
    }

    /// Goes down name by name, so that no name can be a connection that leads elsewhere.
    fn open_below(&self, file: u32, write: bool) -> Result<File, DiskError> {
        let path = self.path(file);
        let failed = |error: Errno| DiskError::at(&path, error.into());
        let spec = self.specs.get(file as usize);
        let Some((spec, (name, folders))) = spec.and_then(|s| Some((s, s.path.split_last()?)))
        else {
            return Err(DiskError::Missing(path));
        };
        if write {
            std::fs::create_dir_all(&self.root)
                .map_err(|error| DiskError::at(&self.root, error))?;
        }
        let folder_flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at: OwnedFd =
            rustix::fs::open(&self.root, folder_flags, Mode::empty()).map_err(failed)?;
        for folder in folders {
            let flags = folder_flags | OFlags::NOFOLLOW;
            at = match rustix::fs::openat(&at, folder.as_str(), flags, Mode::empty()) {
                Err(Errno::NOENT) if write => {
                    match rustix::fs::mkdirat(&at, folder.as_str(), Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(failed(error)),
                    }
                    rustix::fs::openat(&at, folder.as_str(), flags, Mode::empty())
                }
                opened => opened,
            }
            .map_err(failed)?;
        }
        // `NONBLOCK`: to open a pipe must not wait for its other end.
        let mut flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        flags |= if write { OFlags::RDWR | OFlags::CREATE } else { OFlags::RDONLY };
        let mode = Mode::from_raw_mode(0o644);
        // Asked first: to open a device can do something.
        match rustix::fs::statat(&at, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
                return Err(DiskError::Special(path));
            }
            Ok(_) => {}
            Err(Errno::NOENT) if write => {}
            Err(error) => return Err(failed(error)),
        }
        let open = rustix::fs::openat(&at, name.as_str(), flags, mode).map_err(failed)?;
        let stat = rustix::fs::fstat(&open).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(DiskError::Special(path));
        }
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        if write && len > spec.len {
            return Err(DiskError::TooLong(path));
        }
        if write && len < spec.len {
            rustix::fs::ftruncate(&open, spec.len).map_err(failed)?;
        }
        Ok(open.into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn spec(path: &[&str], len: u64) -> FileSpec {
        FileSpec { path: path.iter().map(ToString::to_string).collect(), len }
    }

    fn files(root: &Path, specs: &[(&[&str], u64)]) -> Files {
        let specs = specs.iter().map(|(path, len)| spec(path, *len)).collect();
        Files::new(root, specs, Arc::default()).unwrap()
    }

    fn write(files: &Files, file: u32, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        files.write(file, offset, &mut [IoSlice::new(bytes)])
    }

    #[test]
    fn a_file_is_made_with_its_folders_at_its_full_length_and_holds_what_was_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("new");
        let files = files(&folder, &[(&["a", "b", "c.bin"], 10), (&["empty"], 0)]);
        let path = folder.join("a/b/c.bin");
        assert_eq!(files.stamp(0), Err(DiskError::Missing(path.clone())));
        let mut parts = [IoSlice::new(b"56"), IoSlice::new(b"78")];
        files.write(0, 5, &mut parts).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0\0\0\x005678\0");
    }

    #[test]
    fn no_link_on_the_way_or_at_the_end_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("f"), b"0123456789").unwrap();
        symlink(outside.path(), root.path().join("folder")).unwrap();
        symlink(outside.path().join("f"), root.path().join("file")).unwrap();
        symlink(outside.path().join("not there"), root.path().join("dangling")).unwrap();
        let names: &[(&[&str], u64)] = &[
            (&["folder", "f"], 10),
            (&["file"], 10),
            (&["dangling"], 10),
            (&["folder", "new"], 1),
        ];
        let files = files(root.path(), names);
        for file in 0..4 {
            let special = Err(DiskError::Special(files.path(file)));
            assert_eq!(write(&files, file, 0, b"x"), special);
            assert_eq!(files.read(file, 0, &mut [0]), special);
            assert_eq!(files.stamp(file).map(|_| ()), special);
        }
        assert_eq!(std::fs::read(outside.path().join("f")).unwrap(), b"0123456789");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_an_ordinary_file_is_refused_without_waiting() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::fs::create_dir(root.path().join("folder")).unwrap();
        std::fs::write(root.path().join("file"), b"ab").unwrap();
        let names: &[(&[&str], u64)] =
            &[(&["pipe"], 1), (&["folder"], 1), (&["file", "below"], 1), (&["file"], 1)];
        let files = files(root.path(), names);
        for file in 0..3 {
            let special = Err(DiskError::Special(files.path(file)));
            assert_eq!(write(&files, file, 0, b"x"), special);
            assert_eq!(files.read(file, 0, &mut [0]), special);
        }
        let path = root.path().join("file");
        assert_eq!(write(&files, 3, 0, b"x"), Err(DiskError::TooLong(path.clone())));
        assert_eq!(std::fs::read(path).unwrap(), b"ab", "and nothing is lost");
    }

    #[test]
    fn names_that_are_not_plain_never_reach_the_disk() {
        for bad in [&[][..], &[""], &["."], &["a", ".."], &["a/b"], &["/"], &["a\0"]] {
            let made = Files::new(Path::new("x"), vec![spec(bad, 1)], Arc::default());
            assert!(made.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn many_files_are_written_through_few_handles() {
        let root = tempfile::tempdir().unwrap();
        let handles = Arc::new(Handles::default());
        let specs = (0..1000).map(|n| spec(&[&format!("{n}")], 1)).collect();
        let files = Files::new(root.path(), specs, Arc::clone(&handles)).unwrap();
        for file in 0..1000 {
            write(&files, file, 0, &[file as u8]).unwrap();
            assert!(handles.pool().open.len() <= OPEN_MAX);
        }
        files.sync().unwrap();
        let mut byte = [0];
        files.read(513, 0, &mut byte).unwrap();
        assert_eq!(byte, [1]);
        drop(files);
        assert!(handles.pool().open.is_empty());
    }

    #[test]
    fn a_file_that_is_changed_replaced_or_removed_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        std::fs::write(&path, b"0123").unwrap();
        let files = files(root.path(), &[(&["f"], 4)]);
        let before = files.stamp(0).unwrap();
        assert_eq!(files.stamp(0).unwrap(), before);
        std::fs::write(&path, b"01").unwrap();
        assert_ne!(files.stamp(0).unwrap(), before);
        assert_eq!(files.read(0, 0, &mut [0; 4]), Err(DiskError::EndsEarly(path.clone())));
        std::fs::write(root.path().join("other"), b"0123").unwrap();
        std::fs::rename(root.path().join("other"), &path).unwrap();
        assert_eq!(files.stamp(0), Err(DiskError::Missing(path.clone())), "as it was known");
        assert!(files.stamp(0).is_ok_and(|stamp| stamp != before), "what is there now");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(files.stamp(0), Err(DiskError::Missing(path)));
    }
}
