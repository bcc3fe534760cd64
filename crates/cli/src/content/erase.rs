//! Deleting a torrent's own files, and nothing else.

use std::{collections::BTreeSet, os::fd::OwnedFd, path::Path};

use anyhow::{Context, Result};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use sparewire_content::Metainfo;

/// What became of a torrent's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Erased {
    /// Deleted.
    pub(crate) files: usize,
    /// Something else was in their place, and is left alone.
    pub(crate) kept: usize,
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Deletes the files of `metainfo` below `root`, and folders of it that are empty then. No link
/// below `root` is followed; links, folders, devices and files longer than the torrent's are kept.
///
/// # Errors
/// Where the system does not let us; what was deleted before stays so.
pub(crate) fn erase(root: &Path, metainfo: &Metainfo) -> Result<Erased> {
    let root = rustix::fs::open(root, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())
        .with_context(|| format!("cannot open {}", root.display()))?;
    let layout = metainfo.layout();
    let mut erased = Erased::default();
    let mut folders = BTreeSet::new();
    for (file, of) in layout.files().iter().enumerate() {
        let path = layout.path(file);
        folders.extend(path.ancestors().skip(1).filter(|path| *path != "").map(Path::to_owned));
        match erase_one(&root, &path, of.len()) {
            Ok(true) => erased.files += 1,
            Ok(false) => erased.kept += 1,
            Err(Errno::NOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot delete {}", path.display()));
            }
        }
    }
    // Sorted, a folder comes before those in it.
    for folder in folders.iter().rev() {
        if let Ok((parent, name)) = open_parent(&root, folder) {
            // One that is not empty has something else in it.
            let _ = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
        }
    }
    Ok(erased)
}

fn erase_one(root: &OwnedFd, path: &Path, len: u64) -> Result<bool, Errno> {
    let (parent, name) = match open_parent(root, path) {
        Err(Errno::LOOP | Errno::NOTDIR | Errno::MLINK) => return Ok(false),
        opened => opened?,
    };
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || u64::try_from(stat.st_size).is_ok_and(|there| there > len) {
        return Ok(false);
    }
    rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
    Ok(true)
}

/// The folder that `path` is in, name by name, and its own name there.
fn open_parent<'a>(root: &OwnedFd, path: &'a Path) -> Result<(OwnedFd, &'a Path), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let mut folder = rustix::fs::openat(root, ".", FOLDER, Mode::empty())?;
    for above in path.parent().into_iter().flat_map(Path::components) {
        folder = rustix::fs::openat(&folder, above.as_os_str(), FOLDER, Mode::empty())?;
    }
    Ok((folder, Path::new(name)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use sparewire_content::Builder;

    use super::*;

    fn torrent() -> Metainfo {
        let path = |text: &str| text.split('/').map(Into::into).collect();
        let names = ["a", "d/b", "d/e/c", "f/g", "h", "z"];
        let files = names.iter().map(|name| (path(name), u64::from(*name != "z"))).collect();
        let mut builder = Builder::folder("t", files).unwrap();
        while builder.wanted().is_some() {
            builder.update(b"x").unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn only_the_torrents_own_files_go_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        let top = root.join("t");
        fs::create_dir_all(top.join("d/e")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        for name in ["a", "d/b", "d/e/c", "z"] {
            fs::write(top.join(name), if name == "z" { "" } else { "x" }).unwrap();
        }
        fs::write(top.join("d/other"), "x").unwrap();
        fs::write(outside.join("g"), "x").unwrap();
        symlink(&outside, top.join("f")).unwrap();
        symlink(outside.join("g"), top.join("h")).unwrap();

        let erased = erase(&root, &torrent()).unwrap();
        assert_eq!(erased, Erased { files: 4, kept: 2 });
        assert!(outside.join("g").exists(), "what links lead to is not ours");
        assert!(top.join("h").is_symlink() && top.join("f").is_symlink());
        assert!(top.join("d/other").exists());
        assert!(!top.join("d/e").exists() && !top.join("a").exists());

        fs::write(top.join("a"), "longer").unwrap();
        assert_eq!(erase(&root, &torrent()).unwrap(), Erased { files: 0, kept: 3 });
        assert!(top.join("a").exists(), "a longer file is something else");
    }

    #[test]
    fn nothing_is_left_where_there_was_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "d/b", "d/e/c", "f/g", "h", "z"] {
            let path = dir.path().join("t").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if name == "z" { "" } else { "x" }).unwrap();
        }
        let erased = erase(dir.path(), &torrent()).unwrap();
        assert_eq!(erased, Erased { files: 6, kept: 0 });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
