//! Backups: one sealed file from which a node can go on elsewhere.
//!
//! Inside the sealed file: the manifest's length (4 bytes, little endian), the manifest (JSON), and the
//! files that it names, one after the other.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sparewire_chain::Journal;
use sparewire_core::{Address, Amount, Timestamp};
use sparewire_node::{
    store::{SqliteStore, Store},
    tower::TowerStore,
};
use sparewire_protocol::Role;
use sparewire_wallet::{Cost, NodeKeys, SealedError, Sealer, Unsealer};

use crate::{
    control::{self, Request},
    dates, delegation,
    hint::Hint,
    home::{Home, clock},
};

/// What is in the sealed file; another number is read by another release.
const VERSION: u32 = 1;
/// Longest manifest: a dozen files and a few figures.
const MANIFEST_LEN_MAX: u32 = 64 << 10;
/// Where the newest backup of a data directory is written down.
const STAMP: &str = "last-backup.json";
/// How old the newest backup may be before its owner is reminded, in milliseconds.
const OLD_MS: u64 = 7 * 86_400_000;
/// Where snapshots are made; private, as all of the data directory is.
const SNAPSHOTS: &str = ".backup";

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// The release that wrote it.
    release: String,
    /// When it was made.
    pub(crate) created_ms: Timestamp,
    /// Whose it is: public keys; null where there are none.
    pub(crate) node: Value,
    /// Whether the keystores are inside.
    pub(crate) keys: bool,
    pub(crate) sessions: usize,
    pub(crate) channels: usize,
    /// Promised to this node, and by it, in all; smallest units.
    pub(crate) earned_units: Amount,
    pub(crate) spent_units: Amount,
    pub(crate) files: Vec<Inside>,
}

/// A file in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Inside {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// The newest backup of a data directory, as it is remembered there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) created_ms: Timestamp,
    pub(crate) file: PathBuf,
}

impl Stamp {
    pub(crate) fn read(home: &Home) -> Option<Self> {
        serde_json::from_slice(&fs::read(home.dir.join(STAMP)).ok()?).ok()
    }

    /// How old it is, in milliseconds.
    pub(crate) fn age_ms(&self) -> u64 {
        clock()().ms_since(self.created_ms)
    }
}

/// Says on stderr how to make a backup, where there is none or an old one.
pub(crate) fn remind(home: &Home) {
    let how = "`sparewire backup create FILE` makes one, while this runs too";
    match Stamp::read(home) {
        None => eprintln!("there is no backup of this data directory yet: {how}"),
        Some(stamp) if stamp.age_ms() > OLD_MS => {
            eprintln!("the last backup is {} old: {how}", dates::duration(stamp.age_ms()));
        }
        Some(_) => {}
    }
}

/// Seals what is in the data directory into a new file; whatever runs there goes on.
pub(crate) async fn create(
    home: &Home,
    to: &Path,
    with_keys: bool,
    password: &str,
    cost: Cost,
) -> Result<Manifest> {
    ensure!(
        !to.exists(),
        Hint::new(format!("{} exists already", to.display())).hint("name another file")
    );
    let snapshots = Snapshots::take(home).await?;
    let mut sources: Vec<(String, PathBuf)> = snapshots.files()?;
    for name in ["config.toml", delegation::FILE] {
        let path = home.dir.join(name);
        if path.is_file() {
            sources.push((name.into(), path));
        }
    }
    let keys_dir = home.keys_dir();
    let mut keys = false;
    if with_keys && keys_dir.is_dir() {
        for entry in fs::read_dir(&keys_dir)? {
            let entry = entry?;
            let name = format!("keys/{}", entry.file_name().to_string_lossy());
            if is_known(&name) {
                sources.push((name, entry.path()));
                keys = true;
            }
        }
    }
    ensure!(
        !sources.is_empty(),
        Hint::new(format!("there is nothing to back up in {}", home.dir.display()))
            .hint("give the right --data-dir; `sparewire wallet new` makes keys")
    );
    sources.sort();
    let manifest = manifest(home, &snapshots.dir, keys, &sources)?;
    let (to, password) = (to.to_owned(), password.to_owned());
    let stamp = Stamp { created_ms: manifest.created_ms, file: to.clone() };
    let sealed = tokio::task::spawn_blocking(move || {
        write(&to, &manifest, &sources, &password, cost)?;
        anyhow::Ok((manifest, snapshots)) // the snapshots are kept until they are read
    });
    let (manifest, snapshots) = sealed.await??;
    drop(snapshots);
    // Where it cannot be written down, the reminders go on.
    if let Err(error) = fs::write(home.dir.join(STAMP), serde_json::to_vec(&stamp)?) {
        eprintln!("warning: the backup is made, but cannot be remembered here: {error}");
    }
    Ok(manifest)
}

fn manifest(
    home: &Home,
    snapshots: &Path,
    keys: bool,
    sources: &[(String, PathBuf)],
) -> Result<Manifest> {
    let mut node = Value::Null;
    if let Ok(keys) = NodeKeys::peek(&home.keys_dir()) {
        node = serde_json::to_value(keys)?;
        if let Some(next) = NodeKeys::peek_next(&home.keys_dir())? {
            node["next_authorizer"] = serde_json::to_value(next)?;
        }
    }
    let mut manifest = Manifest {
        version: VERSION,
        release: env!("CARGO_PKG_VERSION").into(),
        created_ms: clock()(),
        node,
        keys,
        sessions: 0,
        channels: 0,
        earned_units: Amount::ZERO,
        spent_units: Amount::ZERO,
        files: Vec::new(),
    };
    if let Some(store) = SqliteStore::open_to_read(&snapshots.join("store.sqlite"))? {
        let channels = [Role::Payer, Role::Payee].map(|role| store.channels(role));
        let [paying, paid] = channels;
        manifest.channels = paying?.len() + paid?.len();
        manifest.sessions = store.sessions()?.len();
        manifest.earned_units = crate::commands::provide::promised(&store, Role::Payee)?;
        manifest.spent_units = crate::commands::provide::promised(&store, Role::Payer)?;
    }
    for (name, path) in sources {
        let bytes = fs::metadata(path).with_context(|| path.display().to_string())?.len();
        manifest.files.push(Inside { name: name.clone(), bytes });
    }
    Ok(manifest)
}

fn write(
    to: &Path,
    manifest: &Manifest,
    sources: &[(String, PathBuf)],
    password: &str,
    cost: Cost,
) -> Result<()> {
    let parent = parent(to);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sparewire-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
    let cannot = || format!("cannot write {}", to.display());
    let file = builder.tempfile_in(parent).with_context(cannot)?;
    let mut sealer = Sealer::new(file, password, cost)?;
    let head = serde_json::to_vec(manifest)?;
    sealer.write_all(&u32::try_from(head.len())?.to_le_bytes()).with_context(cannot)?;
    sealer.write_all(&head).with_context(cannot)?;
    for ((name, path), inside) in sources.iter().zip(&manifest.files) {
        let mut source = File::open(path).with_context(|| path.display().to_string())?;
        let copied = io::copy(&mut (&mut source).take(inside.bytes), &mut sealer);
        let copied = copied.with_context(cannot)?;
        ensure!(copied == inside.bytes, "{name} became shorter while it was read; try again");
    }
    let file = sealer.finish().with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist_noclobber(to).with_context(cannot)?;
    sync_dir(parent)
}

/// Reads all of a backup and hands each file to `keep`. Only when it returns is it known that
/// nothing was missing.
fn read(
    from: &Path,
    password: &str,
    mut keep: impl FnMut(&Inside, &mut dyn Read) -> Result<()>,
) -> Result<Manifest> {
    let file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut sealed = Unsealer::new(io::BufReader::new(file), password)
        .map_err(|error| sealed_error(error, from))?;
    let broken = |error: io::Error| match error.downcast::<SealedError>() {
        Ok(error) => sealed_error(error, from),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            anyhow::anyhow!("{}: it ends before what its manifest names", from.display())
        }
        Err(error) => error.into(),
    };
    let mut length = [0; 4];
    sealed.read_exact(&mut length).map_err(broken)?;
    let length = u32::from_le_bytes(length);
    ensure!(length <= MANIFEST_LEN_MAX, "{}: its manifest is too long", from.display());
    let mut head = vec![0; length as usize];
    sealed.read_exact(&mut head).map_err(broken)?;
    #[derive(Deserialize)]
    struct OfVersion {
        version: u32,
    }
    let OfVersion { version } = serde_json::from_slice(&head).context("the backup's manifest")?;
    ensure!(
        version == VERSION,
        Hint::new(format!(
            "{} has version {version}, this sparewire reads {VERSION}",
            from.display()
        ))
        .hint("use the release that wrote it, or a newer one")
    );
    let manifest: Manifest = serde_json::from_slice(&head).context("the backup's manifest")?;
    for inside in &manifest.files {
        ensure!(
            is_known(&inside.name),
            "{}: it holds \"{}\", which is no file of ours",
            from.display(),
            crate::output::tame(&inside.name)
        );
        let mut content = (&mut sealed).take(inside.bytes);
        keep(inside, &mut content).map_err(|error| match error.downcast::<io::Error>() {
            Ok(error) => broken(error),
            Err(error) => error,
        })?;
        ensure!(content.limit() == 0, "{}: {} is cut off", from.display(), inside.name);
    }
    let mut rest = [0];
    let more = sealed.read(&mut rest).map_err(broken)?;
    ensure!(more == 0, "{}: it holds more than its manifest names", from.display());
    Ok(manifest)
}

/// Reads all of a backup and writes nothing.
pub(crate) fn verify(from: &Path, password: &str) -> Result<Manifest> {
    read(from, password, |_, content| {
        io::copy(content, &mut io::sink())?;
        Ok(())
    })
}

/// Makes the data directory `to` from a backup, whole or not at all.
///
/// What comes out of it knows that it was set back: on its channels nothing is signed before their
/// peers have told what was signed since, and what was under way on chain is not sent again.
pub(crate) fn restore(from: &Path, to: &Path, password: &str) -> Result<Manifest> {
    refuse_used(to)?;
    let parent = parent(to);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sparewire-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let staging = builder
        .tempdir_in(parent)
        .with_context(|| format!("cannot write beside {}", to.display()))?;
    let manifest = read(from, password, |inside, content| {
        let path = staging.path().join(&inside.name);
        if let Some(dir) = path.parent() {
            crate::home::make_private_dir(dir)?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path)?;
        io::copy(content, &mut file)?;
        file.sync_all()?;
        Ok(())
    })?;
    // The key that was to take over may have done so since. A store that was empty is made: its node
    // may have signed since.
    let signing = ["authorizer", "next_authorizer"];
    let signing = signing.iter().filter_map(|name| manifest.node[*name].as_str()?.parse().ok());
    let signing: Vec<Address> = signing.collect();
    SqliteStore::open(&staging.path().join("store.sqlite"))?.mark_restored(&signing)?;
    for inside in manifest.files.iter().filter(|inside| is_journal(&inside.name)) {
        Journal::open(staging.path().join(&inside.name))?.abandon_open()?;
    }
    let stamp = Stamp { created_ms: manifest.created_ms, file: from.to_owned() };
    fs::write(staging.path().join(STAMP), serde_json::to_vec(&stamp)?)?;
    let keys = staging.path().join("keys");
    if keys.is_dir() {
        sync_dir(&keys)?;
    }
    sync_dir(staging.path())?;
    refuse_used(to)?;
    if to.exists() {
        fs::remove_dir(to).with_context(|| format!("cannot replace {}", to.display()))?;
    }
    fs::rename(staging.path(), to).with_context(|| format!("cannot make {}", to.display()))?;
    let _renamed = staging.keep();
    sync_dir(parent)?;
    Ok(manifest)
}

fn refuse_used(dir: &Path) -> Result<()> {
    let used = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => bail!("cannot look into {}: {error}", dir.display()),
    };
    ensure!(
        !used,
        Hint::new(format!("{} is not empty; a backup never overwrites anything", dir.display()))
            .hint("choose another --data-dir, or move away what is there")
    );
    Ok(())
}

/// The files that a data directory may have and a backup may hold.
fn is_known(name: &str) -> bool {
    const FILES: [&str; 8] = [
        "store.sqlite",
        "watch.sqlite",
        "config.toml",
        delegation::FILE,
        "keys/wallet.json",
        "keys/authorizer.json",
        "keys/authorizer.next.json",
        "keys/device.json",
    ];
    FILES.contains(&name) || is_journal(name) || is_kept_authorizer(name)
}

/// An authorizer that another one took over from: `keys/authorizer-<address>.json`.
fn is_kept_authorizer(name: &str) -> bool {
    let address = name.strip_prefix("keys/authorizer-").and_then(|it| it.strip_suffix(".json"));
    address.is_some_and(|address| address.len() == 42 && address.parse::<Address>().is_ok())
}

fn is_journal(name: &str) -> bool {
    let id = name.strip_prefix("transactions-").and_then(|rest| rest.strip_suffix(".sqlite"));
    id.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

fn sealed_error(error: SealedError, file: &Path) -> anyhow::Error {
    let hint = match &error {
        SealedError::WrongPassword => "the password is the one that `backup create` was given",
        SealedError::Altered { .. } | SealedError::Truncated { .. } => {
            "nothing was written; `sparewire backup verify` checks another copy"
        }
        SealedError::Version { .. } => "use a newer release",
        SealedError::NotSealed => "name a file that `sparewire backup create` made",
        SealedError::Password(error) => error.hint(),
        SealedError::Io(_) => "check the disk and that this user may read the file",
    };
    Hint::new(format!("{}: {error}", file.display())).hint(hint).into()
}

/// Consistent copies of the databases; gone when dropped.
struct Snapshots {
    dir: PathBuf,
}

impl Snapshots {
    /// The stores are read beside their writers; a journal is held by its process, which is asked.
    async fn take(home: &Home) -> Result<Self> {
        let dir = home.dir.join(SNAPSHOTS);
        if dir.exists() {
            fs::remove_dir_all(&dir)?; // of one that was cut off
        }
        crate::home::make_private_dir(&dir)?;
        let snapshots = Self { dir };
        if let Some(store) = home.store_to_read()? {
            store.snapshot(&snapshots.dir.join("store.sqlite"))?;
        }
        if let Some(watched) = TowerStore::open_to_read(&home.watch_path())? {
            watched.snapshot(&snapshots.dir.join("watch.sqlite"))?;
        }
        let held = control::ask(&home.control_path(), Request::Snapshot).await?;
        let held = held.and_then(|name| name.as_str().map(str::to_owned));
        for entry in fs::read_dir(&home.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if is_journal(&name) && held.as_ref() != Some(&name) {
                let journal = Journal::open(home.dir.join(&name))?;
                journal.snapshot(&snapshots.dir.join(&name))?;
            }
        }
        Ok(snapshots)
    }

    fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_known(&name) {
                files.push((name, entry.path()));
            }
        }
        Ok(files)
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir); // the next one does
    }
}

/// What a running node does for a backup: a copy of the journal that it holds, beside the others.
/// Returns the copy's name.
pub(crate) fn snapshot_journal(home: &Home, journal: &Journal) -> Result<String> {
    let name = home.journal_name()?;
    journal.snapshot(&home.dir.join(SNAPSHOTS).join(&name))?;
    Ok(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Makes names in a directory durable; elsewhere than on unix, directories cannot be synced.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{Address, ChannelId, DeviceSignature, Domain, NodeId};
    use sparewire_protocol::Kept;

    use super::*;

    #[tokio::test]
    async fn what_towers_keep_and_said_is_in_a_backup_and_comes_out_of_it() {
        let parent = tempfile::tempdir().unwrap();
        let home = Home::open(Some(parent.path().join("node")), None).unwrap();
        let running = TowerStore::open(&home.watch_path()).unwrap();
        let (tower, channel) = (NodeId([1; 32].into()), ChannelId([2; 32].into()));
        let kept = Kept {
            tower,
            client: tower,
            domain: Domain { chain_id: 1, contract: Address::ZERO },
            channel,
            amount: Amount::ZERO,
            reward: Amount::ZERO,
            expiry_secs: 9,
            turn: (0, 1),
            time: Timestamp::from_ms(6),
        };
        let word = (kept, DeviceSignature([3; 64]));
        running.acknowledge(&word.0, word.1).unwrap();

        let (file, to) = (parent.path().join("backup"), parent.path().join("restored"));
        let made = create(&home, &file, false, "a password", Cost::STANDARD).await.unwrap();
        assert!(made.files.iter().any(|inside| inside.name == "watch.sqlite"), "{made:?}");
        restore(&file, &to, "a password").unwrap();
        let restored = Home::open(Some(to), None).unwrap();
        let store = TowerStore::open(&restored.watch_path()).unwrap();
        assert_eq!(store.acknowledgements().unwrap(), [word]);
    }
}
