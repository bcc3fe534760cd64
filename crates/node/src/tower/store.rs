//! What a tower keeps, and what a payee was promised by towers, in one SQLite file: write-ahead
//! log, `synchronous=FULL`, since an acknowledgement commits.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, params};
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
        match connection.execute_batch("pragma wal_checkpoint(full)") {
            // The log is synced before anything is copied out of it.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {}
            synced => synced.map_err(failed)?,
        }
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

    /// Writes a copy of everything to a new file, as it is at this moment, while others write on.
    ///
    /// # Errors
    /// [`StoreError`], also where the file exists.
    pub fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        let copied = self.lock().execute("vacuum into ?", [to.to_string_lossy()]);
        copied.map(|_| ()).map_err(|error| failure(&self.path, error))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{
        Address, Amount, ChannelId, Domain, NodeId, Signature, Signed, Timestamp,
    };
    use sparewire_protocol::{Appointment, ChannelConfig, Entrust, Voucher};

    use super::*;

    fn channel(number: u8) -> ChannelId {
        ChannelId([number; 32].into())
    }

    fn charge(number: u8, units: u128) -> Charge {
        let (channel, amount) = (channel(number), Amount::new(units).unwrap());
        let mut raw = [1; 65];
        raw[64] = 27;
        let signature = Signature::from_bytes(raw).unwrap();
        let address = Address::repeat_byte(number);
        let domain = Domain { chain_id: 1, contract: address };
        let config = ChannelConfig {
            payer: address,
            payer_authorizer: address,
            payee: address,
            payee_authorizer: address,
            token: address,
            withdraw_delay_secs: 900,
            salt: 0,
        };
        let appointment = Appointment {
            channel,
            amount,
            payee: address,
            token: address,
            reward: amount,
            expiry_secs: 9,
        };
        let entrust = Entrust {
            domain,
            towers: address,
            config,
            voucher: Signed { body: Voucher { channel, amount }, signature },
            appointment: Signed { body: appointment, signature },
            turn: 0,
            turns: 1,
        };
        Charge { client: NodeId([7; 32].into()), entrust, since: Timestamp::from_ms(5) }
    }

    fn kept(charge: &Charge, tower: u8) -> Kept {
        Kept {
            tower: NodeId([tower; 32].into()),
            client: charge.client,
            domain: charge.entrust.domain,
            channel: charge.entrust.channel(),
            amount: charge.entrust.amount(),
            reward: Amount::ZERO,
            expiry_secs: 9,
            turn: (0, 1),
            time: Timestamp::from_ms(6),
        }
    }

    #[test]
    fn the_newest_of_each_channel_and_tower_is_found_again_and_what_is_over_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watch.sqlite");
        assert!(TowerStore::open_to_read(&path).unwrap().is_none());
        let store = TowerStore::open(&path).unwrap();
        for charge in [charge(1, 5), charge(2, 6), charge(1, 7)] {
            store.record(&WatchRecord::Keep(charge)).unwrap();
        }
        let signature = DeviceSignature([3; 64]);
        for (charge, tower) in [(charge(1, 5), 8), (charge(1, 5), 9), (charge(1, 7), 8)] {
            store.acknowledge(&kept(&charge, tower), signature).unwrap();
        }
        drop(store);
        let store = TowerStore::open(&path).unwrap();
        assert_eq!(store.charges().unwrap(), [charge(1, 7), charge(2, 6)]);
        let words = [(kept(&charge(1, 7), 8), signature), (kept(&charge(1, 5), 9), signature)];
        assert_eq!(store.acknowledgements().unwrap(), words);
        store.record(&WatchRecord::Forget(channel(1))).unwrap();
        let reader = TowerStore::open_to_read(&path).unwrap().unwrap();
        assert_eq!(reader.charges().unwrap(), [charge(2, 6)]);
    }

    #[test]
    fn a_snapshot_is_taken_beside_the_writer_and_holds_everything() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("watch.sqlite"), dir.path().join("copy.sqlite"));
        let writer = TowerStore::open(&path).unwrap();
        writer.record(&WatchRecord::Keep(charge(1, 5))).unwrap();
        let word = (kept(&charge(2, 6), 8), DeviceSignature([3; 64]));
        writer.acknowledge(&word.0, word.1).unwrap();
        let reader = TowerStore::open_to_read(&path).unwrap().unwrap();
        reader.snapshot(&copy).unwrap();
        assert!(reader.snapshot(&copy).is_err(), "it overwrites nothing");
        writer.record(&WatchRecord::Keep(charge(1, 9))).unwrap();
        let copy = TowerStore::open(&copy).unwrap();
        assert_eq!(copy.charges().unwrap(), [charge(1, 5)]);
        assert_eq!(copy.acknowledgements().unwrap(), [word]);
    }

    #[test]
    fn a_full_disk_is_told_and_what_was_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = TowerStore::open(&dir.path().join("watch.sqlite")).unwrap();
        store.record(&WatchRecord::Keep(charge(0, 1))).unwrap();
        store.limit_pages(1).unwrap();
        let full = (1..100).find_map(|number| {
            store.record(&WatchRecord::Keep(charge(number, 1))).err().map(|error| (number, error))
        });
        let (number, error) = full.unwrap();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert_eq!(store.charges().unwrap().len(), usize::from(number));
    }

    #[test]
    fn a_damaged_row_and_another_version_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watch.sqlite");
        let store = TowerStore::open(&path).unwrap();
        store.record(&WatchRecord::Keep(charge(1, 1))).unwrap();
        let harm = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        harm("update appointments set charge = substr(charge, 2)");
        assert!(matches!(store.charges(), Err(StoreError::Damaged { .. })));
        harm("pragma user_version = 2");
        let newer = StoreError::Version { path: path.display().to_string(), found: 2, known: 1 };
        assert_eq!(TowerStore::open(&path).err(), Some(newer.clone()));
        assert_eq!(TowerStore::open_to_read(&path).err(), Some(newer));
    }
}
