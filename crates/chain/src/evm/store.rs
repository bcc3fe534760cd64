//! The embedded chain on disk: one SQLite transaction per block.
//!
//! WAL with `synchronous=NORMAL`: a commit is handed to the operating system before it counts, so
//! that `kill -9` at any point leaves whole blocks only. A power cut may take the newest blocks
//! with it (again whole ones); a chain that many people's money hangs on wants a chain of many.

use std::{collections::BTreeMap, path::Path};

use alloy_consensus::{Header, ReceiptEnvelope};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{Address, B256, Bytes, Log, LogData, U256};
use alloy_rlp::Decodable;
use revm::{database_interface::DBErrorMarker, state::Bytecode};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::world::{AccountState, Changes, World};

/// How many blocks can be taken back, and how far back state can be read. It bounds what undo
/// records take on disk; the reorganisations that we test, and reads "at the final block", are
/// orders of magnitude shallower.
pub(crate) const UNDO_DEPTH: u64 = 1024;

const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE accounts (
        address BLOB PRIMARY KEY, balance BLOB NOT NULL, nonce INTEGER NOT NULL,
        code_hash BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE slots (
        address BLOB, slot BLOB, value BLOB NOT NULL, PRIMARY KEY (address, slot)) WITHOUT ROWID;
    CREATE TABLE code (hash BLOB PRIMARY KEY, code BLOB NOT NULL);
    CREATE TABLE blocks (
        number INTEGER PRIMARY KEY, hash BLOB NOT NULL, header BLOB NOT NULL,
        tx_hash BLOB, tx BLOB, sender BLOB, receipt BLOB);
    CREATE INDEX blocks_hash ON blocks (hash);
    CREATE INDEX blocks_tx ON blocks (tx_hash) WHERE tx_hash IS NOT NULL;
    CREATE TABLE undo (number INTEGER PRIMARY KEY, changes BLOB NOT NULL);
    CREATE TABLE logs (
        number INTEGER, position INTEGER, address BLOB NOT NULL, topics BLOB NOT NULL,
        data BLOB NOT NULL, PRIMARY KEY (number, position)) WITHOUT ROWID;
    CREATE INDEX logs_address ON logs (address, number);
";

/// Why the disk did not take, or did not give.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own words: disk full, locked, no permission.
    #[error("chain database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What was read back is not what was written.
    #[error("chain database is damaged: {0}")]
    Damaged(&'static str),
}

impl DBErrorMarker for StoreError {}

/// A block with at most one transaction.
#[derive(Clone, Debug)]
pub(crate) struct BlockRecord {
    pub(crate) hash: B256,
    pub(crate) header: Header,
    pub(crate) transaction: Option<TransactionRecord>,
}

/// A transaction that was executed, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct TransactionRecord {
    pub(crate) hash: B256,
    /// EIP-2718 bytes.
    pub(crate) raw: Bytes,
    pub(crate) sender: Address,
    pub(crate) receipt: ReceiptEnvelope,
}

/// A log with its place.
#[derive(Clone, Debug)]
pub(crate) struct LogRecord {
    pub(crate) number: u64,
    pub(crate) position: u64,
    pub(crate) log: Log,
}

/// The database.
#[derive(Debug)]
pub(crate) struct Store {
    db: Connection,
}

impl Store {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, StoreError> {
        let db = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        db.busy_timeout(std::time::Duration::from_secs(2))?;
        // One process writes: a second one that opens the same chain is refused at once.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.set_prepared_statement_cache_capacity(32);
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => {
                let transaction = db.unchecked_transaction()?;
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                transaction.commit()?;
            }
            SCHEMA_VERSION => {}
            _ => return Err(StoreError::Damaged("written by a newer version")),
        }
        Ok(Self { db })
    }

    /// Bounds the file, in pages of 4 KiB: how tests fill the disk.
    pub(crate) fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        self.db.pragma_update(None, "max_page_count", pages)?;
        Ok(())
    }

    pub(crate) fn pages(&self) -> Result<u32, StoreError> {
        Ok(self.db.pragma_query_value(None, "page_count", |row| row.get(0))?)
    }

    pub(crate) fn meta(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let value = self
            .db
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
            .query_row([key], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(value.map(|value| value as u64))
    }

    pub(crate) fn set_meta(&self, key: &str, value: u64) -> Result<(), StoreError> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?
            .execute(params![key, value as i64])?;
        Ok(())
    }

    /// Writes a block with everything that it changes, or nothing.
    pub(crate) fn append(
        &mut self,
        block: &BlockRecord,
        changes: &Changes,
        undo: &Changes,
        meta: &[(&str, u64)],
    ) -> Result<(), StoreError> {
        let transaction = self.db.transaction()?;
        write_changes(&transaction, changes)?;
        let number = block.header.number as i64;
        let record = block.transaction.as_ref();
        transaction
            .prepare_cached("INSERT INTO blocks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                number,
                block.hash.as_slice(),
                alloy_rlp::encode(&block.header),
                record.map(|record| record.hash.to_vec()),
                record.map(|record| record.raw.to_vec()),
                record.map(|record| record.sender.to_vec()),
                record.map(|record| record.receipt.encoded_2718()),
            ])?;
        transaction
            .prepare_cached("INSERT INTO undo VALUES (?1, ?2)")?
            .execute(params![number, undo.encode()])?;
        if block.header.number.is_multiple_of(256) && block.header.number > UNDO_DEPTH {
            transaction
                .prepare_cached("DELETE FROM undo WHERE number < ?1")?
                .execute([number - UNDO_DEPTH as i64])?;
        }
        let logs = record.map(|record| record.receipt.logs()).unwrap_or_default();
        for (position, log) in logs.iter().enumerate() {
            let topics = log.topics().iter().flat_map(|topic| topic.0).collect::<Vec<u8>>();
            transaction.prepare_cached("INSERT INTO logs VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                params![
                    number,
                    position as i64,
                    log.address.as_slice(),
                    topics,
                    log.data.data.as_ref()
                ],
            )?;
        }
        for (key, value) in meta {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?
                .execute(params![key, *value as i64])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Takes back all blocks above `number`.
    pub(crate) fn truncate(&mut self, number: u64, undo: &Changes) -> Result<(), StoreError> {
        let transaction = self.db.transaction()?;
        write_changes(&transaction, undo)?;
        for table in ["blocks", "undo", "logs"] {
            transaction
                .execute(&format!("DELETE FROM {table} WHERE number > ?1"), [number as i64])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// What has to be written to lead the newest state back to that of block `number`; `None`
    /// where the undo records no longer reach so far.
    pub(crate) fn undo_to(&self, number: u64, newest: u64) -> Result<Option<Changes>, StoreError> {
        let mut all = Changes::default();
        let mut statement = self
            .db
            .prepare_cached("SELECT changes FROM undo WHERE number > ?1 ORDER BY number DESC")?;
        let mut rows = statement.query([number as i64])?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            all.overlay(Changes::decode(bytes).ok_or(StoreError::Damaged("undo record"))?);
            found += 1;
        }
        Ok((found == newest.saturating_sub(number)).then_some(all))
    }

    pub(crate) fn load_world(&self) -> Result<World, StoreError> {
        let mut world = World::default();
        let mut statement =
            self.db.prepare("SELECT address, balance, nonce, code_hash FROM accounts")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let account = AccountState {
                balance: U256::from_be_bytes(fixed::<32>(row, 1)?),
                nonce: row.get::<_, i64>(2)? as u64,
                code_hash: B256::from(fixed::<32>(row, 3)?),
            };
            world.accounts.insert(Address::from(fixed::<20>(row, 0)?), account);
        }
        let mut statement = self.db.prepare("SELECT address, slot, value FROM slots")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key =
                (Address::from(fixed::<20>(row, 0)?), U256::from_be_bytes(fixed::<32>(row, 1)?));
            world.slots.insert(key, U256::from_be_bytes(fixed::<32>(row, 2)?));
        }
        let mut statement = self.db.prepare("SELECT hash, code FROM code")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let code = Bytecode::new_raw_checked(row.get::<_, Vec<u8>>(1)?.into())
                .map_err(|_| StoreError::Damaged("code"))?;
            world.code.insert(B256::from(fixed::<32>(row, 0)?), code);
        }
        Ok(world)
    }

    pub(crate) fn newest(&self) -> Result<Option<BlockRecord>, StoreError> {
        self.block_where("ORDER BY number DESC LIMIT 1", &[])
    }

    pub(crate) fn block(&self, number: u64) -> Result<Option<BlockRecord>, StoreError> {
        let Ok(number) = i64::try_from(number) else { return Ok(None) };
        self.block_where("WHERE number = ?1", &[&number])
    }

    pub(crate) fn block_by_hash(&self, hash: B256) -> Result<Option<BlockRecord>, StoreError> {
        self.block_where("WHERE hash = ?1", &[&hash.as_slice()])
    }

    pub(crate) fn block_by_transaction(
        &self,
        hash: B256,
    ) -> Result<Option<BlockRecord>, StoreError> {
        self.block_where("WHERE tx_hash = ?1", &[&hash.as_slice()])
    }

    pub(crate) fn block_hash(&self, number: u64) -> Result<Option<B256>, StoreError> {
        let Ok(number) = i64::try_from(number) else { return Ok(None) };
        let mut statement = self.db.prepare_cached("SELECT hash FROM blocks WHERE number = ?1")?;
        let mut rows = statement.query([number])?;
        rows.next()?.map(|row| Ok(B256::from(fixed::<32>(row, 0)?))).transpose()
    }

    /// Hands the logs of a range of blocks to `visit`, in order, until it says `false`. `address`
    /// narrows the search to one contract, by index.
    pub(crate) fn scan_logs(
        &self,
        from: u64,
        to: u64,
        address: Option<Address>,
        mut visit: impl FnMut(LogRecord) -> bool,
    ) -> Result<(), StoreError> {
        let columns = "SELECT number, position, address, topics, data FROM logs";
        let order = "ORDER BY number, position";
        let range = [from, to].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let sql = match address {
            Some(_) => {
                format!("{columns} WHERE number >= ?1 AND number <= ?2 AND address = ?3 {order}")
            }
            None => format!("{columns} WHERE number >= ?1 AND number <= ?2 {order}"),
        };
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = match address {
            Some(address) => statement.query(params![range[0], range[1], address.as_slice()])?,
            None => statement.query(params![range[0], range[1]])?,
        };
        while let Some(row) = rows.next()? {
            let topics = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
            let topics = topics.chunks_exact(32).map(B256::from_slice).collect();
            let data = LogData::new(topics, row.get::<_, Vec<u8>>(4)?.into())
                .ok_or(StoreError::Damaged("log"))?;
            let record = LogRecord {
                number: row.get::<_, i64>(0)? as u64,
                position: row.get::<_, i64>(1)? as u64,
                log: Log { address: Address::from(fixed::<20>(row, 2)?), data },
            };
            if !visit(record) {
                break;
            }
        }
        Ok(())
    }

    fn block_where(
        &self,
        clause: &str,
        params: &[&dyn rusqlite::ToSql],
    ) -> Result<Option<BlockRecord>, StoreError> {
        let sql = format!("SELECT hash, header, tx_hash, tx, sender, receipt FROM blocks {clause}");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let header = row.get::<_, Vec<u8>>(1)?;
        let header = Header::decode(&mut header.as_slice())
            .map_err(|_| StoreError::Damaged("block header"))?;
        let transaction = match row.get::<_, Option<Vec<u8>>>(3)? {
            None => None,
            Some(raw) => {
                let receipt = row.get::<_, Vec<u8>>(5)?;
                Some(TransactionRecord {
                    hash: B256::from(fixed::<32>(row, 2)?),
                    raw: raw.into(),
                    sender: Address::from(fixed::<20>(row, 4)?),
                    receipt: ReceiptEnvelope::decode_2718(&mut receipt.as_slice())
                        .map_err(|_| StoreError::Damaged("receipt"))?,
                })
            }
        };
        Ok(Some(BlockRecord { hash: B256::from(fixed::<32>(row, 0)?), header, transaction }))
    }
}

fn write_changes(db: &Connection, changes: &Changes) -> Result<(), StoreError> {
    for (address, account) in &changes.accounts {
        match account {
            Some(account) => db
                .prepare_cached("INSERT OR REPLACE INTO accounts VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    address.as_slice(),
                    account.balance.to_be_bytes::<32>(),
                    account.nonce as i64,
                    account.code_hash.as_slice()
                ])?,
            None => db
                .prepare_cached("DELETE FROM accounts WHERE address = ?1")?
                .execute([address.as_slice()])?,
        };
    }
    for ((address, slot), value) in &changes.slots {
        let slot = slot.to_be_bytes::<32>();
        match value.is_zero() {
            true => db
                .prepare_cached("DELETE FROM slots WHERE address = ?1 AND slot = ?2")?
                .execute(params![address.as_slice(), slot])?,
            false => db
                .prepare_cached("INSERT OR REPLACE INTO slots VALUES (?1, ?2, ?3)")?
                .execute(params![address.as_slice(), slot, value.to_be_bytes::<32>()])?,
        };
    }
    let code: &BTreeMap<B256, Bytes> = &changes.code;
    for (hash, code) in code {
        db.prepare_cached("INSERT OR IGNORE INTO code VALUES (?1, ?2)")?
            .execute(params![hash.as_slice(), code.as_ref()])?;
    }
    Ok(())
}

fn fixed<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], StoreError> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
    bytes.try_into().map_err(|_| StoreError::Damaged("a column of the wrong length"))
}
