//! Files that hold keys: private, written once, whole or not at all.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// No keystore is larger; a wrong file is not read to its end.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Something about a key file that its owner should mend, though it could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Others on this machine can read or change the file.
    PermissionsTooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The password can be guessed more cheaply than in a file that we would write.
    WeakPasswordHash {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PermissionsTooOpen { path, mode } => {
                let path = path.display();
                write!(f, "{path} is open to others (mode {mode:04o}): run chmod 600 {path}")
            }
            Self::WeakPasswordHash { path } => {
                write!(f, "{} protects its password weakly: import it anew", path.display())
            }
        }
    }
}

/// Words out of a file, fit for a terminal: without control characters, and not endless.
pub(crate) fn tame(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The content of a key file, and a warning where others can get at it.
pub(crate) fn read(path: &Path) -> io::Result<(Vec<u8>, Option<Warning>)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a keystore"));
    }
    Ok((bytes, too_open(path, &metadata)))
}

/// Writes a new file that only its owner can read; it is durable when this returns, and never
/// seen half-written. A file that is there already stays.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sparewire-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    sync_dir(dir)
}

/// Puts a file in the place of another one beside it, in one step; durable when this returns.
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent(to))
}

/// A new private directory beside `path`, to be filled and then renamed to it; it vanishes if
/// that does not come to pass.
pub(crate) fn staging_dir(path: &Path) -> io::Result<tempfile::TempDir> {
    let dir = parent(path);
    fs::create_dir_all(dir)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sparewire-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir_in(dir)
}

/// Gives a filled staging directory its name; `path` may be an empty directory, nothing else.
pub(crate) fn publish_dir(staging: tempfile::TempDir, path: &Path) -> io::Result<()> {
    sync_dir(staging.path())?;
    if let Err(error) = fs::remove_dir(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
    }
    fs::rename(staging.path(), path)?;
    let _renamed = staging.keep();
    sync_dir(parent(path))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn too_open(path: &Path, metadata: &fs::Metadata) -> Option<Warning> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
    (mode & 0o077 != 0).then(|| Warning::PermissionsTooOpen { path: path.to_owned(), mode })
}

#[cfg(not(unix))]
fn too_open(_: &Path, _: &fs::Metadata) -> Option<Warning> {
    None
}

/// Makes names in a directory durable; elsewhere than on unix, directories cannot be synced.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}
