//! The way from SQLite to a [`Disk`](super::Disk).
//!
//! `sqlite-vfs` hands out its state of a VFS by `&mut` wherever SQLite calls it, so that one VFS
//! under two threads would alias. Every disk therefore has a VFS of its own, which the next disk
//! takes over: SQLite never forgets one.

use std::{
    borrow::Cow,
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use sqlite_vfs::{
    DatabaseHandle, LockKind, OpenAccess, OpenKind, OpenOptions, Vfs,
    wip::{WalIndex, WalIndexLock},
};

use super::{Failure, Shared, State};

type Route = Arc<Mutex<Weak<Shared>>>;

/// A VFS that is registered with SQLite.
pub(super) struct Slot {
    name: String,
    route: Route,
}

/// The VFSs that no disk has at present, and how many there are in all.
static SLOTS: Mutex<(Vec<Slot>, u64)> = Mutex::new((Vec::new(), 0));

impl Slot {
    fn take() -> Self {
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.0.pop() {
            return slot;
        }
        let slot = Self { name: format!("sparewire-sim-{}", slots.1), route: Route::default() };
        slots.1 += 1;
        sqlite_vfs::register(&slot.name, SimVfs(Arc::clone(&slot.route)), false)
            .expect("SQLite takes a VFS of a new name");
        slot
    }
}

impl Shared {
    pub(super) fn new(state: State) -> Arc<Self> {
        let shared = Arc::new(Self { state: Mutex::new(state), slot: Slot::take() });
        *shared.slot.route.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&shared);
        shared
    }

    pub(super) fn vfs_name(&self) -> &str {
        &self.slot.name
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let slot = Slot { name: self.slot.name.clone(), route: Arc::clone(&self.slot.route) };
        SLOTS.lock().unwrap_or_else(PoisonError::into_inner).0.push(slot);
    }
}

struct SimVfs(Route);

impl SimVfs {
    fn disk(&self) -> io::Result<Arc<Shared>> {
        let route = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        route.upgrade().ok_or_else(|| Failure::Missing.into())
    }
}

/// The epoch that opened a path, and the name of the file.
fn split(path: &str) -> io::Result<(u64, &str)> {
    let parts = path.split_once('/').and_then(|(epoch, name)| Some((epoch.parse().ok()?, name)));
    parts.ok_or_else(|| Failure::Missing.into())
}

/// A path in a state, where its epoch lives on.
fn living<'a>(state: &State, path: &'a str) -> io::Result<&'a str> {
    let (epoch, name) = split(path)?;
    if epoch == state.epoch { Ok(name) } else { Err(Failure::Missing.into()) }
}

impl Vfs for SimVfs {
    type Handle = Handle;

    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Handle> {
        let shared = self.disk()?;
        let mut state = shared.state();
        let name = living(&state, path)?;
        let create = matches!(options.access, OpenAccess::Create | OpenAccess::CreateNew);
        let file = match state.names.get(name) {
            Some(_) if options.access == OpenAccess::CreateNew => return Err(Failure::Io.into()),
            Some(file) => *file,
            None if create => state.create(name)?,
            None => return Err(Failure::Missing.into()),
        };
        let is_main = options.kind == OpenKind::MainDb;
        state.open |= is_main;
        // As SQLite on Unix: the first sync of a journal or log makes its name durable too.
        let sync_names = create
            && matches!(
                options.kind,
                OpenKind::MainJournal | OpenKind::SuperJournal | OpenKind::Wal
            );
        let epoch = state.epoch;
        drop(state);
        Ok(Handle { shared, file, epoch, is_main, sync_names, lock: LockKind::None })
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let shared = self.disk()?;
        let mut state = shared.state();
        let name = living(&state, path)?;
        // `sqlite-vfs` knows of one failure only.
        state.delete(name).map_err(|_| Failure::Missing.into())
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let shared = self.disk()?;
        let state = shared.state();
        Ok(living(&state, path).is_ok_and(|name| state.names.contains_key(name)))
    }

    fn temporary_name(&self) -> String {
        self.disk().map_or_else(
            |_| String::from("none"),
            |shared| {
                let state = shared.state();
                format!("{}/temporary-{}", state.epoch, state.next_file)
            },
        )
    }

    fn random(&self, buffer: &mut [i8]) {
        buffer.fill(4); // SQLite asks its default VFS instead
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }

    fn full_pathname<'a>(&self, path: &'a str) -> io::Result<Cow<'a, str>> {
        Ok(path.into())
    }
}

/// An open file.
pub(super) struct Handle {
    shared: Arc<Shared>,
    file: u64,
    epoch: u64,
    is_main: bool,
    sync_names: bool,
    lock: LockKind,
}

impl Handle {
    /// Does something on the disk, if the process that opened the file lives.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Failure>) -> io::Result<T> {
        let mut state = self.shared.state();
        if self.epoch != state.epoch {
            return Err(Failure::Io.into());
        }
        Ok(work(&mut state)?)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.is_main {
            let _ = self.with(|state| {
                state.open = false;
                Ok(())
            });
        }
    }
}

impl DatabaseHandle for Handle {
    type WalIndex = Alone;

    fn size(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.file(self.file)?.cache.len() as u64))
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.with(|state| state.read(self.file, offset as usize, buffer))?;
        if read < buffer.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state| state.write(self.file, offset as usize, bytes))
    }

    fn sync(&mut self, _data_only: bool) -> io::Result<()> {
        self.with(|state| state.sync(self.file, self.sync_names))?;
        self.sync_names = false;
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.with(|state| state.truncate(self.file, len as usize))
    }

    fn lock(&mut self, lock: LockKind) -> io::Result<bool> {
        self.with(|_| Ok(()))?;
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    fn current_lock(&self) -> io::Result<LockKind> {
        Ok(self.lock)
    }

    fn wal_index(&self, _readonly: bool) -> io::Result<Alone> {
        Ok(Alone)
    }
}

/// The index of the write-ahead log, in memory that nobody shares: one store is open at a time.
pub(super) struct Alone;

impl WalIndex for Alone {
    fn map(&mut self, _region: u32) -> io::Result<[u8; 32768]> {
        Ok([0; 32768])
    }

    fn lock(&mut self, _locks: Range<u8>, _lock: WalIndexLock) -> io::Result<bool> {
        Ok(true)
    }

    fn delete(self) -> io::Result<()> {
        Ok(())
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        // The kinds that `sqlite-vfs` tells apart.
        match failure {
            Failure::Io => Self::other("input or output failed"),
            Failure::Full => io::ErrorKind::WriteZero.into(),
            Failure::Missing => io::ErrorKind::NotFound.into(),
        }
    }
}
