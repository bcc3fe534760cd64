//! A .torrent file out of a file or folder.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use sparewire_content::{Builder, CreateError, FILES_MAX, Format, Metainfo, PATH_NAMES_MAX};

use super::read_torrent;
use crate::{hint::Hint, output};

/// How much is read at once, in bytes.
const READ_LEN: usize = 1 << 20;

/// How a torrent is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recipe {
    pub(crate) format: Format,
    /// In bytes; `None` lets the size decide.
    pub(crate) piece_len: Option<u32>,
    pub(crate) trackers: Vec<String>,
    pub(crate) private: bool,
    /// Where the .torrent file goes; beside what is shared where `None`.
    pub(crate) out: Option<PathBuf>,
}

/// A torrent and where it is.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) metainfo: Metainfo,
    /// The .torrent file; absolute.
    pub(crate) file: PathBuf,
    /// The folder in which what is shared lies; absolute.
    pub(crate) root: PathBuf,
}

/// A file that is shared.
struct Source {
    path: PathBuf,
    names: Vec<String>,
    len: u64,
}

/// Hashes what is at `path`, telling `told` how many of how many bytes are done, and writes the
/// .torrent file. Reads and writes files: it belongs on a blocking thread.
///
/// # Errors
/// Where something cannot be read, has a name that other systems do not take, or the .torrent file
/// would replace something else.
pub(crate) fn make(path: &Path, recipe: &Recipe, told: &dyn Fn(u64, u64)) -> Result<Made> {
    let path = path.canonicalize().with_context(|| format!("cannot share {}", path.display()))?;
    let (Some(root), Some(name)) = (path.parent(), path.file_name()) else {
        bail!(Hint::new("the whole file system cannot be shared").hint("name a folder in it"))
    };
    let name = utf8(name.to_str(), &path)?;
    let mut sources = Vec::new();
    let is_folder = path.is_dir();
    let mut builder = if is_folder {
        collect(&path, &mut Vec::new(), &mut sources)?;
        let files = sources.iter().map(|source| (source.names.clone(), source.len));
        Builder::folder(name, files.collect())
    } else {
        let meta = fs::metadata(&path)?;
        ensure!(meta.is_file(), "{} is neither a file nor a folder", path.display());
        sources.push(Source { path: path.clone(), names: Vec::new(), len: meta.len() });
        Builder::file(name, meta.len())
    }
    .with_context(|| format!("cannot share {}", path.display()))?
    .format(recipe.format);
    if let Some(len) = recipe.piece_len {
        builder = builder.piece_len(len)?;
    }
    if recipe.private {
        builder = builder.private();
    }
    if !recipe.trackers.is_empty() {
        builder = builder.trackers(vec![recipe.trackers.clone()]);
    }
    let metainfo = hash(builder, &sources, told)?;
    check_names(&metainfo, name, &sources)?;
    let out = match &recipe.out {
        Some(out) => std::path::absolute(out)?,
        None => root.join(format!("{name}.torrent")),
    };
    write(&out, &metainfo)?;
    // In v2 alone a folder with one file is that file (BEP 52): it lies in the folder.
    let alone =
        metainfo.layout().files().len() == 1 && metainfo.layout().path(0).components().count() == 1;
    let root = if is_folder && alone { &path } else { root };
    Ok(Made { root: root.to_owned(), metainfo, file: out })
}

fn utf8<'a>(name: Option<&'a str>, path: &Path) -> Result<&'a str> {
    name.ok_or_else(|| {
        Hint::new(format!("the name of {} is not Unicode", path.display()))
            .hint("rename it: names in torrents are")
            .into()
    })
}

/// All files below a folder. Links are left out: what they lead to may not be meant.
fn collect(folder: &Path, names: &mut Vec<String>, sources: &mut Vec<Source>) -> Result<()> {
    let unreadable = || format!("cannot read {}", folder.display());
    ensure!(names.len() < PATH_NAMES_MAX, "{} is too deep in folders", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let (path, kind) = (entry.path(), entry.file_type().with_context(unreadable)?);
        names.push(utf8(entry.file_name().to_str(), &path)?.to_owned());
        if kind.is_dir() {
            collect(&path, names, sources)?;
        } else if kind.is_file() {
            ensure!(sources.len() < FILES_MAX, "there are more than {FILES_MAX} files to share");
            let len = entry.metadata().with_context(unreadable)?.len();
            sources.push(Source { path, names: names.clone(), len });
        } else {
            eprintln!("warning: {} is not an ordinary file and is left out", path.display());
        }
        names.pop();
    }
    Ok(())
}

fn hash(mut builder: Builder, sources: &[Source], told: &dyn Fn(u64, u64)) -> Result<Metainfo> {
    let total = sources.iter().map(|source| source.len).sum();
    let mut done = 0;
    let mut buffer = vec![0; READ_LEN];
    while let Some((at, _)) = builder.wanted() {
        let source = &sources[at];
        let cannot = || format!("cannot read {}", source.path.display());
        let changed = || CreateError::Changed(source.path.display().to_string());
        let mut file = File::open(&source.path).with_context(cannot)?;
        let mut left = source.len;
        // One byte more than is wanted, so that a file that has grown is noticed.
        loop {
            let read = match file.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.with_context(cannot)?,
            };
            let Some(rest) = left.checked_sub(read as u64) else { bail!(changed()) };
            if read == 0 {
                ensure!(rest == 0, changed());
                break;
            }
            builder.update(&buffer[..read])?;
            (left, done) = (rest, done + read as u64);
            told(done, total);
        }
    }
    Ok(builder.finish()?)
}

/// What is downloaded has names that are safe everywhere; what is seeded must have the same.
fn check_names(metainfo: &Metainfo, name: &str, sources: &[Source]) -> Result<()> {
    if metainfo.renamed() == 0 {
        return Ok(());
    }
    let layout = metainfo.layout();
    let safe: Vec<PathBuf> = (0..layout.files().len()).map(|file| layout.path(file)).collect();
    let given = sources.iter().map(|source| {
        [name].into_iter().chain(source.names.iter().map(String::as_str)).collect::<PathBuf>()
    });
    let bad = given.into_iter().find(|path| !safe.contains(path)).unwrap_or_default();
    bail!(
        Hint::new(format!(
            "\"{}\" would have another name on other systems",
            output::tame(&bad.display().to_string())
        ))
        .hint("rename it: no control characters, none of \\ : * ? \" < > |, no dot or blank at the end, not twice but for case")
    )
}

/// Writes the .torrent file, unless it is there already; never over anything else.
fn write(out: &Path, metainfo: &Metainfo) -> Result<()> {
    let taken = || {
        Hint::new(format!("{} exists and is something else", out.display()))
            .hint("move it away, or name another file with --out")
    };
    let cannot = || format!("cannot write {} (--out names another file)", out.display());
    if fs::symlink_metadata(out).is_ok() {
        let same = read_torrent(out).is_ok_and(|there| there.to_torrent() == metainfo.to_torrent());
        ensure!(same, taken());
        return Ok(());
    }
    let dir = out.parent().unwrap_or(Path::new("/"));
    let mut staged =
        tempfile::Builder::new().permissions(readable()).tempfile_in(dir).with_context(cannot)?;
    staged.write_all(&metainfo.to_torrent()).with_context(cannot)?;
    staged.as_file().sync_all().with_context(cannot)?;
    match staged.persist_noclobber(out) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => bail!(taken()),
        Err(error) => Err(error.error).with_context(cannot),
    }
}

/// It is made to be handed to others.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn quietly(path: &Path, recipe: &Recipe) -> Result<Made> {
        make(path, recipe, &|_, _| {})
    }

    #[test]
    fn a_folder_becomes_a_torrent_of_its_files_in_one_order() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        fs::create_dir_all(shared.join("b/c")).unwrap();
        fs::write(shared.join("b/c/x"), vec![7; 70_000]).unwrap();
        fs::write(shared.join("empty"), "").unwrap();
        fs::write(shared.join("a"), "a").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", shared.join("link")).unwrap();
        let made = quietly(&shared, &Recipe::default()).unwrap();
        assert_eq!(made.root, dir.path().canonicalize().unwrap());
        assert_eq!(made.file, made.root.join("shared.torrent"));
        let layout = made.metainfo.layout();
        let paths: Vec<_> = (0..layout.files().len()).map(|file| layout.path(file)).collect();
        assert_eq!(paths, ["shared/a", "shared/b/c/x", "shared/empty"].map(PathBuf::from));
        assert_eq!(read_torrent(&made.file).unwrap(), made.metainfo);
        // Again: the same torrent, and no quarrel about the file.
        assert_eq!(quietly(&shared, &Recipe::default()).unwrap().metainfo, made.metainfo);
    }

    #[test]
    fn a_folder_with_one_file_is_found_where_it_is() {
        for format in [Format::V1, Format::V2, Format::Hybrid] {
            let dir = tempfile::tempdir().unwrap();
            let shared = dir.path().join("shared");
            fs::create_dir(&shared).unwrap();
            fs::write(shared.join("a"), vec![7; 70_000]).unwrap();
            let made = quietly(&shared, &Recipe { format, ..Recipe::default() }).unwrap();
            let found = made.root.join(made.metainfo.layout().path(0));
            assert_eq!(found, shared.canonicalize().unwrap().join("a"), "{format:?}");
        }
    }

    #[test]
    fn nothing_is_ever_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("x");
        fs::write(&shared, "x").unwrap();
        let out = dir.path().join("x.torrent");
        for precious in [&b"precious"[..], b""] {
            fs::write(&out, precious).unwrap();
            let refused = quietly(&shared, &Recipe::default()).unwrap_err();
            assert!(format!("{refused:#}").contains("something else"), "{refused:#}");
            assert_eq!(fs::read(&out).unwrap(), precious);
        }
        let elsewhere = Recipe { out: Some(dir.path().join("y.torrent")), ..Recipe::default() };
        assert!(quietly(&shared, &elsewhere).unwrap().file.exists());
        let missing = Recipe { out: Some(dir.path().join("no/y.torrent")), ..Recipe::default() };
        assert!(format!("{:#}", quietly(&shared, &missing).unwrap_err()).contains("--out"));
    }

    #[test]
    fn what_cannot_be_shared_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let says = |path: &Path, word: &str| {
            let error = format!("{:#}", quietly(path, &Recipe::default()).unwrap_err());
            assert!(error.contains(word), "{error}");
        };
        says(&dir.path().join("missing"), "missing");
        says(Path::new("/"), "file system");
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        says(&empty, "no bytes");
        let odd = dir.path().join("odd");
        fs::create_dir(&odd).unwrap();
        fs::write(odd.join("a:b"), "x").unwrap();
        says(&odd, "odd/a:b");
        fs::rename(odd.join("a:b"), odd.join("A")).unwrap();
        fs::write(odd.join("a"), "x").unwrap();
        says(&odd, "odd/");
        assert!(!dir.path().join("odd.torrent").exists());
    }
}
