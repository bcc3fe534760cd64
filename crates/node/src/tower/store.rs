//! What a tower keeps, and what a payee was promised by towers, in one SQLite file: write-ahead log,
//! `synchronous=FULL`, since an acknowledgement commits.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OpenFlags, params};
use sparewire_core::{DeviceSignature, decode, encode};
use sparewire_protocol::{
    Kept,
    watch::{Charge, WatchRecord},
};

use crate::store::{StoreError, failure};

const VERSION: i64 = 1;
/// Longest value that we ever wrote: what a damaged file can make us read.
const VALUE_LEN_MAX: usize = 4 << 10;

const SCHEMA: &str = "
create table appointments (              -- what we watch for others
    channel blob primary key,
    charge  blob not null                -- the newest
) without rowid;
create table acknowledgements (          -- what towers watch for us: their signed word
    channel blob not null,
    tower   blob not null,
    kept    blob not null,               -- the newest, with its signature
    primary key (channel, tower)
) without rowid;
";

/// The file. Calls block; async code runs them on a blocking thread.
#[derive(Debug)]
pub struct TowerStore {
    connection: Mutex<Connection>,
    path: PathBuf,
}

impl TowerStore {
    /// Opens the file, or makes it. The caller sees to it that one process writes to it.
    ///
    /// # Errors
    /// [`StoreError`] where it is damaged or of another version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| failure(path, error);
        let mut connection = Connection::open(path).map_err(failed)?;
        connection
            .execute_batch("pragma journal_mode = wal; pragma synchronous = full;")
            .map_err(failed)?;
        let transaction = connection.transaction().map_err(failed)?;
        let version = "user_version";
        let found: i64 =
            transaction.pragma_query_value(None, version, |row| row.get(0)).map_err(failed)?;
        if found == 0 {
            transaction.execute_batch(SCHEMA).map_err(failed)?;
            transaction.pragma_update(None, version, VERSION).map_err(failed)?;
        } else if found != VERSION {
            let path = path.display().to_string();
            return Err(StoreError::Version { path, found, known: VERSION });
        }
        transaction.commit().map_err(failed)?;
        // What a killed process left written and not synced is synced before it is relied on.
        connection.execute_batch("pragma wal_checkpoint(full)").map_err(failed)?;
        Ok(Self { connection: Mutex::new(connection), path: path.to_owned() })
    }

    /// Opens the file to look at it, while another process may be writing; `None` where there is no
    /// such file, or its writer has not got that far.
    ///
    /// # Errors
    /// [`StoreError`] where it is damaged or of another version.
    pub fn open_to_read(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let failed = |error| failure(path, error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed)?;
        match found {
            0 => Ok(None),
            VERSION => Ok(Some(Self { connection: Mutex::new(connection), path: path.to_owned() })),
            _ => {
                let path = path.display().to_string();
                Err(StoreError::Version { path, found, known: VERSION })
            }
        }
    }

    /// Caps the file's size, as a full disk would; for tests.
    ///
    /// # Errors
    /// [`StoreError`] where SQLite refuses.
    pub fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        let limited = self.lock().pragma_update(None, "max_page_count", pages);
        limited.map_err(|error| failure(&self.path, error))
    }

    /// Makes a record durable.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    pub fn record(&self, record: &WatchRecord) -> Result<(), StoreError> {
        let connection = self.lock();
        let written = match record {
            WatchRecord::Keep(charge) => connection.execute(
                "insert or replace into appointments (channel, charge) values (?, ?)",
                params![charge.entrust.channel().0.0, encode(charge)],
            ),
            WatchRecord::Forget(channel) => connection
                .execute("delete from appointments where channel = ?", params![channel.0.0]),
        };
        written.map(|_| ()).map_err(|error| failure(&self.path, error))
    }

    /// Everything that is kept for others.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn charges(&self) -> Result<Vec<Charge>, StoreError> {
        self.read("select charge from appointments order by channel")
    }

    /// Makes a tower's word durable, instead of an older one.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    pub fn acknowledge(&self, kept: &Kept, signature: DeviceSignature) -> Result<(), StoreError> {
        let row = params![kept.channel.0.0, kept.tower.0.0, encode(&(kept, signature))];
        let sql = "insert or replace into acknowledgements (channel, tower, kept) values (?, ?, ?)";
        let written = self.lock().execute(sql, row);
        written.map(|_| ()).map_err(|error| failure(&self.path, error))
    }

    /// Every tower's newest word for each channel, with its signature.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn acknowledgements(&self) -> Result<Vec<(Kept, DeviceSignature)>, StoreError> {
        self.read("select kept from acknowledgements order by channel, tower")
    }

    fn read<T: borsh::BorshDeserialize>(&self, sql: &str) -> Result<Vec<T>, StoreError> {
        let failed = |error| failure(&self.path, error);
        let connection = self.lock();
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let value: Vec<u8> = row.get(0).map_err(failed)?;
            all.push(decode(&value, VALUE_LEN_MAX).map_err(|error| StoreError::Damaged {
                path: self.path.display().to_string(),
                reason: error.to_string(),
            })?);
        }
        Ok(all)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held left SQLite's own transaction to roll back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
