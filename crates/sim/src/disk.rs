//! A simulated disk under the real store: [`SqliteStore`] and SQLite itself run on a VFS in memory
//! that keeps apart what was written and what was synced, and fails when it is told to.
//!
//! What survives a power cut is drawn from the caller's generator and nothing else is random here.
//! SQLite draws the salts of its write-ahead log by itself; nothing that it does depends on them,
//! and [`Disk::contents`] leaves them out.

mod vfs;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use sparewire_node::store::{SqliteStore, StoreError};

/// Bytes that a power cut keeps or loses together, unless told otherwise.
pub const SECTOR: usize = 512;
const STORE: &str = "store.sqlite";

/// The disk of one node; clones are handles of the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Shared>);

/// What fails once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A read.
    Read,
    /// A write; nothing of it is written.
    Write,
    /// A sync; what was to be synced stays to be synced.
    Sync,
    /// A sync; what was to be synced is taken for synced from then on, and is not.
    SyncForgets,
}

/// What was done on a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Writes, syncs, truncations, creations and deletions: the points that [`Disk::stop_at`]
    /// counts.
    pub steps: u64,
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::of(State::default())
    }

    /// A disk that holds an empty store, durably: what [`Disk::open_store`] makes of an empty disk,
    /// made once and copied.
    pub fn formatted() -> Self {
        static TEMPLATE: OnceLock<Disk> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| {
            let disk = Self::new();
            drop(disk.open_store().expect("an empty disk takes a store"));
            disk.state().sync_all();
            disk
        });
        Self::of(State { counters: Counters::default(), ..template.state().copy() })
    }

    /// Another disk with the same contents, written and synced, and no open store or planned fault.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::of(self.state().copy())
    }

    fn of(state: State) -> Self {
        Self(Shared::new(state))
    }

    /// The same disk with sectors of `bytes`: 512 or 4096.
    #[must_use]
    pub fn with_sector(self, bytes: usize) -> Self {
        self.state().sync_all();
        self.state().sector = bytes;
        self
    }

    /// Opens the store, or makes it. Dropping the store closes it as a process does that ends well;
    /// one that was killed is dropped on the thread that opens the next, or before.
    ///
    /// # Errors
    /// [`StoreError`] of the real store; [`StoreError::InUse`] while it is open.
    pub fn open_store(&self) -> Result<SqliteStore, StoreError> {
        let path = {
            let mut state = self.state();
            let path = PathBuf::from(format!("{}/{STORE}", state.epoch));
            if state.open {
                return Err(StoreError::InUse { path: path.display().to_string() });
            }
            state.collect();
            path
        };
        SqliteStore::open_on(self.0.vfs_name(), &path)
    }

    /// The process dies: its handles are dead, what it wrote is there, synced or not. What was
    /// planned by [`Disk::stop_at`] and [`Disk::fail`] and has not come is off.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// The power fails: the process dies, and what was not synced survives in parts. Each sector
    /// has one of the contents it had since it was synced, or is torn between two of them; the
    /// length of each file and each name likewise.
    pub fn power_cut(&self, rng: &mut Rng) {
        let mut state = self.state();
        state.kill();
        state.power_cut(rng);
    }

    /// Stops the process at the `nth` step from now (0 is the next): that step and all that follow
    /// do nothing and fail, until [`Disk::kill`] or [`Disk::power_cut`] says how it ended.
    pub fn stop_at(&self, nth: u64) {
        let mut state = self.state();
        state.stop = Some(state.counters.steps + nth);
    }

    /// Whether [`Disk::stop_at`] has come to pass.
    pub fn stopped(&self) -> bool {
        self.state().stopped()
    }

    /// The `nth` such operation from now (0 is the next) fails, once.
    pub fn fail(&self, fault: Fault, nth: u64) {
        let mut state = self.state();
        let at = state.counters.of(fault) + nth;
        state.faults.push((fault, at));
    }

    /// Files grow to `bytes` in all and no further; `None` for no limit.
    pub fn limit(&self, bytes: Option<u64>) {
        self.state().limit = bytes;
    }

    /// Bytes that the files take.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Whether syncs do nothing and say that they did: to plant a bug.
    pub fn lie(&self, lying: bool) {
        self.state().lying = lying;
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// The files as a process sees them, the same for the same history: without what SQLite draws
    /// by itself, namely salts and checksums of the write-ahead log, and a rollback journal.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let content = |(name, id): (&String, &u64)| {
            let mut bytes = state.files[id].cache.clone();
            if name.ends_with("-wal") {
                blank_salts(&mut bytes);
            } else if name.ends_with("-journal") {
                bytes.fill(0);
            }
            (name.clone(), bytes)
        };
        state.names.iter().map(content).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    fn of(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Read => self.reads,
            Fault::Write => self.writes,
            Fault::Sync | Fault::SyncForgets => self.syncs,
        }
    }
}

/// What the files and handles of a disk share, and the VFS that leads to it.
struct Shared {
    state: Mutex<State>,
    slot: vfs::Slot,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Input or output failed.
    Io,
    /// No room.
    Full,
    /// No such file.
    Missing,
}

#[derive(Clone)]
struct State {
    files: BTreeMap<u64, Contents>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Names as they came and went since the directory was synced.
    renamed: Vec<(String, Option<u64>)>,
    sector: usize,
    /// Counts deaths: a handle of an earlier epoch is dead.
    epoch: u64,
    /// Whether a store is open in this epoch.
    open: bool,
    stop: Option<u64>,
    faults: Vec<(Fault, u64)>,
    limit: Option<u64>,
    lying: bool,
    counters: Counters,
}

impl Default for State {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamed: Vec::new(),
            sector: SECTOR,
            epoch: 0,
            open: false,
            stop: None,
            faults: Vec::new(),
            limit: None,
            lying: false,
            counters: Counters::default(),
        }
    }
}

impl State {
    fn copy(&self) -> Self {
        let mut copy = self.clone();
        copy.kill();
        copy.collect();
        copy
    }

    fn kill(&mut self) {
        self.epoch += 1;
        self.open = false;
        self.stop = None;
        self.faults.clear();
    }

    fn stopped(&self) -> bool {
        self.stop.is_some_and(|at| self.counters.steps >= at)
    }

    /// One step of the process; fails once it is stopped.
    fn step(&mut self) -> Result<(), Failure> {
        if self.stopped() {
            return Err(Failure::Io);
        }
        self.counters.steps += 1;
        Ok(())
    }

    fn fault(&mut self, count: u64, which: impl Fn(Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(|(fault, at)| which(*fault) && *at == count)?;
        Some(self.faults.swap_remove(at).0)
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].cache.len() as u64).sum()
    }

    fn create(&mut self, name: &str) -> Result<u64, Failure> {
        self.step()?;
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, Contents::default());
        self.names.insert(name.to_owned(), id);
        self.renamed.push((name.to_owned(), Some(id)));
        Ok(id)
    }

    fn delete(&mut self, name: &str) -> Result<(), Failure> {
        if !self.names.contains_key(name) {
            return Err(Failure::Missing);
        }
        self.step()?;
        self.names.remove(name);
        self.renamed.push((name.to_owned(), None));
        Ok(())
    }

    fn file(&mut self, id: u64) -> Result<&mut Contents, Failure> {
        self.files.get_mut(&id).ok_or(Failure::Missing)
    }

    fn read(&mut self, id: u64, offset: usize, out: &mut [u8]) -> Result<usize, Failure> {
        if self.stopped() {
            return Err(Failure::Io);
        }
        let count = self.counters.reads;
        self.counters.reads += 1;
        if self.fault(count, |fault| fault == Fault::Read).is_some() {
            return Err(Failure::Io);
        }
        let there = self.file(id)?.cache.get(offset..).unwrap_or_default();
        let len = there.len().min(out.len());
        out[..len].copy_from_slice(&there[..len]);
        out[len..].fill(0);
        Ok(len)
    }

    fn write(&mut self, id: u64, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        self.step()?;
        let count = self.counters.writes;
        self.counters.writes += 1;
        if self.fault(count, |fault| fault == Fault::Write).is_some() {
            return Err(Failure::Io);
        }
        let (sector, len) = (self.sector, self.file(id)?.cache.len());
        let free = self.limit.map(|limit| limit.saturating_sub(self.used()) as usize);
        let room = free.map_or(usize::MAX, |free| (len + free).saturating_sub(offset));
        let fits = &bytes[..bytes.len().min(room)];
        self.counters.bytes += fits.len() as u64;
        self.file(id)?.write(offset, fits, sector);
        if fits.len() < bytes.len() { Err(Failure::Full) } else { Ok(()) }
    }

    fn truncate(&mut self, id: u64, len: usize) -> Result<(), Failure> {
        if len >= self.file(id)?.cache.len() {
            return Ok(()); // only ever a hint
        }
        self.step()?;
        self.file(id)?.truncate(len);
        Ok(())
    }

    fn sync(&mut self, id: u64, directory: bool) -> Result<(), Failure> {
        self.step()?;
        let count = self.counters.syncs;
        self.counters.syncs += 1;
        match self.fault(count, |fault| matches!(fault, Fault::Sync | Fault::SyncForgets)) {
            Some(Fault::SyncForgets) => {
                self.file(id)?.forget();
                return Err(Failure::Io);
            }
            Some(_) => return Err(Failure::Io),
            None if self.lying => return Ok(()),
            None => {}
        }
        let sector = self.sector;
        self.file(id)?.sync(sector);
        if directory {
            self.sync_names();
        }
        Ok(())
    }

    fn sync_names(&mut self) {
        self.durable_names.clone_from(&self.names);
        self.renamed.clear();
    }

    fn sync_all(&mut self) {
        let sector = self.sector;
        self.files.values_mut().for_each(|file| file.sync(sector));
        self.sync_names();
    }

    /// Drops the files that no name leads to, nor may after a power cut.
    fn collect(&mut self) {
        let renamed = self.renamed.iter().filter_map(|(_, id)| *id);
        let named = self.names.values().chain(self.durable_names.values()).copied();
        let keep: BTreeSet<u64> = named.chain(renamed).collect();
        self.files.retain(|id, _| keep.contains(id));
    }

    fn power_cut(&mut self, rng: &mut Rng) {
        // One cut in three loses all, one keeps all, one anything.
        let survival = match rng.u8(..3) {
            0 => 0.0,
            1 => 1.0,
            _ => rng.f64(),
        };
        let mut renamed: BTreeMap<String, Vec<Option<u64>>> = BTreeMap::new();
        for (name, id) in std::mem::take(&mut self.renamed) {
            renamed.entry(name).or_default().push(id);
        }
        for (name, versions) in renamed {
            match survivors(versions.len(), survival, rng).checked_sub(1) {
                None => continue,
                Some(last) => match versions[last] {
                    Some(id) => self.durable_names.insert(name, id),
                    None => self.durable_names.remove(&name),
                },
            };
        }
        self.names.clone_from(&self.durable_names);
        self.collect();
        let sector = self.sector;
        self.files.values_mut().for_each(|file| file.power_cut(sector, survival, rng));
    }
}

/// How many of the newer versions of something a power cut found on the disk: all or none mostly.
fn survivors(versions: usize, survival: f64, rng: &mut Rng) -> usize {
    if rng.f64() >= survival {
        0
    } else if rng.u8(..4) == 0 {
        rng.usize(..=versions)
    } else {
        versions
    }
}

/// What a file holds.
#[derive(Clone, Default)]
struct Contents {
    /// As a process sees it.
    cache: Vec<u8>,
    /// As it is after a power cut, but for `changes`.
    durable: Vec<u8>,
    /// Since the last sync, in order.
    changes: Vec<Change>,
    /// The sectors of `changes`, as they were after each.
    images: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Change {
    Sector(usize),
    Length(usize),
}

impl Contents {
    fn write(&mut self, offset: usize, bytes: &[u8], sector: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if end > self.cache.len() {
            self.cache.resize(end, 0);
            self.changes.push(Change::Length(end));
        }
        self.cache[offset..end].copy_from_slice(bytes);
        for index in offset / sector..end.div_ceil(sector) {
            let range = index * sector..self.cache.len().min((index + 1) * sector);
            let padding = sector - range.len();
            self.images.extend_from_slice(&self.cache[range]);
            self.images.resize(self.images.len() + padding, 0);
            self.changes.push(Change::Sector(index));
        }
    }

    fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
        self.changes.push(Change::Length(len));
    }

    fn forget(&mut self) {
        self.changes.clear();
        self.images.clear();
    }

    fn sync(&mut self, sector: usize) {
        for change in &self.changes {
            if let Change::Length(len) = *change {
                self.durable.resize(len, 0);
            }
        }
        self.durable.resize(self.cache.len(), 0);
        for change in &self.changes {
            if let Change::Sector(index) = *change {
                let end = self.cache.len().min((index + 1) * sector);
                let range = (index * sector).min(end)..end;
                self.durable[range.clone()].copy_from_slice(&self.cache[range]);
            }
        }
        self.forget();
    }

    fn power_cut(&mut self, sector: usize, survival: f64, rng: &mut Rng) {
        let mut versions: BTreeMap<usize, usize> = BTreeMap::new();
        let mut lengths = vec![self.durable.len()];
        for change in &self.changes {
            match *change {
                Change::Sector(index) => *versions.entry(index).or_default() += 1,
                Change::Length(len) => lengths.push(len),
            }
        }
        // For each sector how many of its versions came to the disk, and where the next was torn.
        let mut left: BTreeMap<usize, (usize, Option<usize>)> = BTreeMap::new();
        for (index, count) in versions {
            let torn = (rng.u8(..8) == 0).then(|| rng.usize(1..sector));
            left.insert(index, (survivors(count, survival, rng), torn));
        }
        let mut lengths_left = survivors(lengths.len() - 1, survival, rng);
        let len = match lengths[lengths_left..] {
            // A file that grows may stop in between; to be cut short is all or nothing, as SQLite
            // takes it to be.
            [this, next, ..] if this < next && rng.u8(..4) == 0 => rng.usize(this..=next),
            [this, ..] => this,
            [] => 0,
        };
        let mut images = self.images.chunks_exact(sector);
        for change in &self.changes {
            match *change {
                Change::Length(len) => {
                    if lengths_left > 0 {
                        lengths_left -= 1;
                        self.durable.resize(len, 0);
                    }
                }
                Change::Sector(index) => {
                    let image = images.next().unwrap_or_default();
                    let Some((whole, torn)) = left.get_mut(&index) else { continue };
                    let part = match whole.checked_sub(1) {
                        Some(fewer) => {
                            *whole = fewer;
                            image
                        }
                        None => &image[..torn.take().unwrap_or_default()],
                    };
                    let end = index * sector + part.len();
                    if self.durable.len() < end {
                        self.durable.resize(end, 0);
                    }
                    self.durable[index * sector..end].copy_from_slice(part);
                }
            }
        }
        self.durable.resize(len, 0);
        self.cache.clone_from(&self.durable);
        self.forget();
    }
}

/// Zeroes salts and checksums in a write-ahead log.
fn blank_salts(wal: &mut [u8]) {
    let Some((header, frames)) = wal.split_at_mut_checked(32) else { return };
    let page = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
    header[16..].fill(0);
    for frame in frames.chunks_mut(24 + page) {
        let end = frame.len().min(24);
        frame.get_mut(8..end).unwrap_or_default().fill(0);
    }
}

#[cfg(test)]
mod tests;
