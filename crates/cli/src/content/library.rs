//! What is shared and fetched from a data directory, over restarts: for each torrent `content/` has
//! the .torrent file, which pieces are there (written by the engine), and a record of what the user
//! wants of it.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sparewire_content::Metainfo;
use sparewire_node::content::{Handles, Storage};

use super::{Figures, Settings, State, read_torrent};
use crate::{hint::Hint, home::make_private_dir};

/// A torrent of the library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// By which peers may know it, in hexadecimal digits; the first names its files here.
    pub(crate) topics: Vec<String>,
    pub(crate) name: String,
    /// The folder that its files are in, or are to be in; absolute.
    pub(crate) root: PathBuf,
    /// When it came here, in milliseconds since the epoch.
    pub(crate) added_ms: u64,
    /// It is not run until somebody asks for it.
    pub(crate) stopped: bool,
    pub(crate) settings: Settings,
}

impl Entry {
    pub(crate) fn info_hash(&self) -> &str {
        self.topics.first().map_or("", String::as_str)
    }

    /// The same without the peers that were named.
    pub(crate) fn but_for_peers(&self) -> Self {
        let settings = Settings { peers: Vec::new(), ..self.settings.clone() };
        Self { settings, ..self.clone() }
    }

    /// Whether somebody who says `which` may mean it.
    pub(crate) fn is_meant_by(&self, which: &str) -> bool {
        let digits = which.to_ascii_lowercase();
        let by_hash = digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        self.name == which || by_hash && self.topics.iter().any(|topic| topic.starts_with(&digits))
    }
}

/// By which peers may know a torrent, in hexadecimal digits.
pub(crate) fn topics(metainfo: &Metainfo) -> Vec<String> {
    metainfo.hashes().topics().map(|topic| hex(&topic)).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one of `entries` that somebody means.
///
/// # Errors
/// Where there is none, or there are several.
pub(crate) fn meant<'a>(entries: &'a [Entry], which: &str) -> Result<&'a Entry> {
    let mut meant = entries.iter().filter(|entry| entry.is_meant_by(which));
    match (meant.next(), meant.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) => bail!(
            Hint::new(format!("\"{which}\" is several torrents"))
                .hint("give more of the info-hash")
        ),
        (None, _) => bail!(
            Hint::new(format!("there is no torrent \"{which}\" here"))
                .hint("`sparewire content list` shows names and info-hashes")
        ),
    }
}

/// The folder of a data directory in which torrents are remembered. Who changes it holds the lock
/// of the store.
#[derive(Clone, Debug)]
pub(crate) struct Library {
    dir: PathBuf,
}

impl Library {
    /// Of the data directory `home`; made where it is missing.
    pub(crate) fn open(home: &Path) -> Result<Self> {
        let dir = home.join("content");
        make_private_dir(&dir)?;
        Ok(Self { dir })
    }

    /// The same to look at it: nothing is made, and where it is missing it is empty.
    pub(crate) fn look(home: &Path) -> Self {
        Self { dir: home.join("content") }
    }

    fn path(&self, entry: &Entry, extension: &str) -> PathBuf {
        self.dir.join(entry.info_hash()).with_extension(extension)
    }

    /// Where the engine remembers which pieces are there.
    pub(crate) fn have_path(&self, entry: &Entry) -> PathBuf {
        self.path(entry, "have")
    }

    /// Where the engine remembers who sent bad data.
    pub(crate) fn banned_path(&self) -> PathBuf {
        self.dir.join("banned")
    }

    /// All torrents, oldest first. What cannot be read is left out with a warning.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let names = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(entries),
            read => read.with_context(|| format!("cannot read {}", self.dir.display()))?,
        };
        for file in names {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = || -> Result<Entry> {
                let entry: Entry = serde_json::from_slice(&fs::read(&path)?)?;
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                // Its name becomes that of files.
                if stem != Some(entry.info_hash()) {
                    bail!("it is another torrent's");
                }
                Ok(entry)
            };
            match read() {
                Ok(entry) => entries.push(entry),
                Err(error) => eprintln!("warning: {} is left out: {error:#}", path.display()),
            }
        }
        entries.sort_by(|one, other| {
            (one.added_ms, one.info_hash()).cmp(&(other.added_ms, other.info_hash()))
        });
        Ok(entries)
    }

    /// The torrent of an entry.
    pub(crate) fn torrent(&self, entry: &Entry) -> Result<Metainfo> {
        let metainfo = read_torrent(&self.path(entry, "torrent"))?;
        if topics(&metainfo) != entry.topics {
            bail!("{} is another torrent", self.path(entry, "torrent").display());
        }
        Ok(metainfo)
    }

    /// Puts a torrent in.
    pub(crate) fn add(&self, entry: &Entry, metainfo: &Metainfo) -> Result<()> {
        // The record last: with it the torrent is there.
        replace(&self.path(entry, "torrent"), &metainfo.to_torrent())?;
        self.update(entry)
    }

    /// Replaces the record of a torrent that is in.
    pub(crate) fn update(&self, entry: &Entry) -> Result<()> {
        replace(&self.path(entry, "json"), &serde_json::to_vec_pretty(entry)?)
    }

    /// Takes a torrent out. Its files stay where they are.
    pub(crate) fn remove(&self, entry: &Entry) -> Result<()> {
        // The record first: without it the rest is nothing.
        for extension in ["json", "have", "leaves", "parts", "torrent"] {
            let path = self.path(entry, extension);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What there is to say of a torrent that nobody runs.
    pub(crate) fn figures(&self, entry: &Entry) -> Figures {
        let mut figures = Figures {
            info_hash: entry.info_hash().to_owned(),
            name: entry.name.clone(),
            state: if entry.stopped { State::Stopped } else { State::Resting },
            trouble: None,
            root: entry.root.clone(),
            files: 0,
            have: 0,
            total: 0,
            had: 0,
            sent: 0,
            got: 0,
            peers: 0,
            spoilt: 0,
            paid: Default::default(),
            earned: Default::default(),
            token: None,
            magnet: String::new(),
            searching: String::new(),
            settings: entry.settings.clone(),
        };
        let mut storage = || -> Result<Storage> {
            let metainfo = Arc::new(self.torrent(entry)?);
            figures.files = metainfo.layout().files().len();
            figures.total = metainfo.layout().data_len();
            figures.magnet = metainfo.magnet().to_string();
            let have = Some(self.have_path(entry));
            Ok(Storage::open(metainfo, &entry.root, have, Arc::<Handles>::default())?)
        };
        match storage() {
            Ok(storage) => figures.have = storage.progress().0,
            Err(error) => figures.trouble = Some(format!("{error:#}")),
        }
        figures
    }
}

/// Replaces a file at once: what is there is the old one or the new one, whole.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut staged = tempfile::NamedTempFile::new_in(dir)?;
        staged.write_all(bytes)?;
        staged.as_file().sync_all()?;
        staged.persist(path)?;
        fs::File::open(dir)?.sync_all()
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_content::Builder;

    use super::*;

    fn torrent(name: &str) -> Metainfo {
        let mut builder = Builder::file(name, 3).unwrap();
        builder.update(b"abc").unwrap();
        builder.finish().unwrap()
    }

    fn entry(metainfo: &Metainfo, root: &Path, added_ms: u64) -> Entry {
        let settings = Settings { seed: true, ..Settings::default() };
        let (topics, name) = (topics(metainfo), metainfo.name().to_owned());
        Entry { topics, name, root: root.to_owned(), added_ms, stopped: false, settings }
    }

    #[test]
    fn what_was_put_in_is_there_after_a_restart_and_gone_once_taken_out() {
        let home = tempfile::tempdir().unwrap();
        let library = Library::open(home.path()).unwrap();
        let (a, b) = (torrent("a"), torrent("b"));
        let (later, earlier) = (entry(&a, home.path(), 2), entry(&b, home.path(), 1));
        library.add(&later, &a).unwrap();
        library.add(&earlier, &b).unwrap();

        let library = Library::open(home.path()).unwrap();
        assert_eq!(library.all().unwrap(), [earlier.clone(), later.clone()]);
        assert_eq!(library.torrent(&later).unwrap(), a);
        let stopped = Entry { stopped: true, ..earlier.clone() };
        library.update(&stopped).unwrap();
        assert_eq!(library.all().unwrap()[0], stopped);
        assert_eq!(library.figures(&stopped).state, State::Stopped);
        assert_eq!((library.figures(&later).have, library.figures(&later).total), (0, 3));

        library.remove(&earlier).unwrap();
        library.remove(&earlier).unwrap();
        assert_eq!(library.all().unwrap(), std::slice::from_ref(&later));
        let files = fs::read_dir(home.path().join("content")).unwrap().count();
        assert_eq!(files, 2, "nothing of the other is left");
    }

    #[test]
    fn a_damaged_record_hides_no_other() {
        let home = tempfile::tempdir().unwrap();
        let library = Library::open(home.path()).unwrap();
        let (a, b) = (torrent("a"), torrent("b"));
        library.add(&entry(&a, home.path(), 1), &a).unwrap();
        library.add(&entry(&b, home.path(), 2), &b).unwrap();
        let broken = library.path(&entry(&a, home.path(), 1), "json");
        for content in ["", "{", "[]", "{\"topics\":[\"../x\"]}"] {
            fs::write(&broken, content).unwrap();
            assert_eq!(library.all().unwrap().len(), 1, "{content}");
        }
        let elsewhere = Entry { topics: vec!["../x".into()], ..entry(&a, home.path(), 1) };
        fs::write(&broken, serde_json::to_vec(&elsewhere).unwrap()).unwrap();
        assert_eq!(library.all().unwrap().len(), 1, "a record names only its own files");
    }

    #[test]
    fn a_torrent_is_meant_by_its_name_or_the_beginning_of_a_hash() {
        let metainfo = torrent("a");
        let entries = [entry(&metainfo, Path::new("/x"), 1)];
        let [v1, v2] = &entries[0].topics[..] else { panic!("a hybrid has two") };
        for which in ["a", v1, &v2[..4], &v1.to_uppercase()] {
            assert_eq!(meant(&entries, which).unwrap(), &entries[0]);
        }
        for which in ["", &v1[..3], "b", &format!("{v1}0")] {
            assert!(meant(&entries, which).is_err(), "{which}");
        }
        let twice = [entries[0].clone(), entries[0].clone()];
        assert!(meant(&twice, "a").unwrap_err().to_string().contains("several"));
    }
}
