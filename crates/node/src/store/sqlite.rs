//! The store in one SQLite file: write-ahead log, `synchronous=FULL` since it holds money.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use borsh::{BorshDeserialize, BorshSerialize};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, config::DbConfig, params,
};
use sparewire_core::{
    Address, Amount, B256, ByteCount, ChannelId, Domain, NodeId, SessionId, Signed, Timestamp,
    decode, encode,
};
use sparewire_protocol::{
    Agreement, ChannelConfig, Countersigned, Delegation, Memory, Offer, Payment, Reading, Record,
    Role, SessionMemory, channel::CooperativeClose, short_reason, stake::Contradiction,
};

use super::{KnownChannel, KnownSession, Stop, Store, StoreError, evidence::has_past};
use crate::transport::PeerAddress;

const VERSION: i64 = 5;
/// The oldest version that is brought up to ours as it is opened.
const VERSION_MIN: i64 = 2;
/// Longest value that we ever wrote: what a damaged file can make us read.
const VALUE_LEN_MAX: usize = 1 << 16;

const SCHEMA: &str = "
create table channels (
    id      blob primary key,
    role    integer not null,            -- 1 payer, 2 payee
    domain  blob not null,
    config  blob not null,
    lost    integer not null default 0,  -- bytes of sessions that are forgotten
    restored integer not null default 0, -- 1 where more may be promised than is known here
    agreed  blob                         -- the close that was agreed on: nothing more is promised
) without rowid;
create table sessions (
    number    integer primary key,       -- the order in which they began
    id        blob not null unique,
    channel   blob not null references channels (id),
    role      integer not null,
    peer      blob not null,
    agreement blob not null,
    started   integer not null,          -- ms since the epoch
    up        integer not null default 0,-- bytes that the payee had carried when the connection
    down      integer not null default 0,-- last broke or the session went on
    lost      integer not null default 0,-- bytes
    statement text                       -- JSON, once it has ended
);
create index sessions_by_channel on sessions (channel);
create table payments (                  -- the newest of each session over each channel
    channel blob not null,
    session blob not null,               -- a peer names it: never trusted without the channel
    amount  blob not null,               -- 16 bytes big endian: sorts as the number
    bytes   integer not null,            -- total of the reading
    payment blob not null,
    primary key (channel, session)
) without rowid;
create table receipts (
    channel         blob not null,
    sequence        integer not null,
    session         blob not null,
    receipt         blob not null,       -- signed by the payer
    payee_signature blob,                -- null while only the payer has signed
    primary key (channel, sequence)
) without rowid;
create index receipts_by_session on receipts (session);
";

/// What version 3 has more than version 2.
const SINCE_2: &str = "alter table channels add column restored integer not null default 0;";

/// What version 4 has more than version 3.
const SINCE_3: &str = "alter table channels add column agreed blob;";

/// Where peers were reached last; new in version 4.
const ADDRESSES: &str = "
create table addresses (
    node    blob primary key,
    address text not null                -- as people write it
) without rowid;
";

/// Evidence of why sessions stood still.
const STOPS: &str = "
create table stops (
    session blob not null,
    began   integer not null,            -- ms since the epoch
    lasted  integer,                     -- ms; null while it lasts
    reason  integer not null,
    waiting integer not null,            -- streams
    unpaid  integer not null,            -- bytes
    primary key (session, began)
) without rowid;
create table stops_forgotten (           -- neither among the first of a session nor among the last
    session blob primary key,
    number  integer not null,
    lasted  integer not null             -- ms, of all of them
) without rowid;
";

/// Evidence of what providers offered; new in version 4.
const OFFERS: &str = "
create table offers (
    session blob primary key,
    offer   blob not null                -- terms, their signature, the delegation
) without rowid;
";

/// Evidence of peers that contradicted themselves; new in version 4.
const CONTRADICTIONS: &str = "
create table contradictions (            -- each with the receipt of its number in `receipts`
    channel    blob not null,
    sequence   integer not null,
    session    blob not null,
    delegation blob not null,            -- by which the payee's wallet answers for its authorizer
    theirs     blob not null,            -- the other receipt, with the payee's signature
    primary key (channel, sequence)
) without rowid;
create index contradictions_by_session on contradictions (session);
";

/// Whose past a restored store may not know all of; new in version 5.
const RESTORED: &str = "
create table restored_authorizers (authorizer blob primary key) without rowid;
";

/// The store in one SQLite file.
pub struct SqliteStore {
    connection: Mutex<Connection>,
    path: PathBuf,
    /// Whether the log may hold what could not be recorded.
    unsure: AtomicBool,
    /// Held while this process may write; the lock is the operating system's and dies with it.
    _lock: Option<File>,
}

impl SqliteStore {
    /// Opens the file, or makes it, as the only process that writes to it.
    ///
    /// # Errors
    /// [`StoreError`] where it is damaged, of another version, or held by another process.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let in_use = || StoreError::InUse { path: path.display().to_string() };
        let damaged = |error: std::io::Error| StoreError::Damaged {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let lock = File::create(path.with_extension("lock")).map_err(damaged)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use()),
            Err(TryLockError::Error(error)) => return Err(damaged(error)),
        }
        let connection = Connection::open(path).map_err(|error| failure(path, error))?;
        Self::begin(connection, path, Some(lock))
    }

    /// Opens the file on another VFS of SQLite, such as a simulated disk. There is no lock file:
    /// who made the VFS sees to it that one process writes.
    ///
    /// # Errors
    /// [`StoreError`] as of [`SqliteStore::open`].
    pub fn open_on(vfs: &str, path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs)
            .map_err(|error| failure(path, error))?;
        Self::begin(connection, path, None)
    }

    fn begin(
        mut connection: Connection,
        path: &Path,
        lock: Option<File>,
    ) -> Result<Self, StoreError> {
        let failed = |error| failure(path, error);
        // All statements are kept, and not compiled anew whenever other values are bound (STAT4).
        connection.set_prepared_statement_cache_capacity(64);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(failed)?;
        connection
            .execute_batch("pragma journal_mode = wal; pragma synchronous = full;")
            .map_err(failed)?;
        let transaction = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(failed)?;
        let found = version(&transaction, path)?;
        if found < VERSION {
            let missing: &[&str] = match found {
                0 => &[SCHEMA, STOPS, OFFERS, CONTRADICTIONS, ADDRESSES, RESTORED],
                2 => &[SINCE_2, STOPS, SINCE_3, OFFERS, CONTRADICTIONS, ADDRESSES, RESTORED],
                3 => &[SINCE_3, OFFERS, CONTRADICTIONS, ADDRESSES, RESTORED],
                _ => &[RESTORED],
            };
            for tables in missing {
                transaction.execute_batch(tables).map_err(failed)?;
            }
            transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        // Found by simulation: a process that was killed may leave a batch written and not synced.
        // It would be found now and gone after a power cut.
        match connection.execute_batch("pragma wal_checkpoint(full)") {
            // The log is synced before anything is copied out of it.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {}
            synced => synced.map_err(failed)?,
        }
        let (connection, path) = (Mutex::new(connection), path.to_owned());
        Ok(Self { connection, path, unsure: false.into(), _lock: lock })
    }

    /// Opens the file to look at it, while another process may be writing; `None` where there is
    /// no such file. A file of the version before is brought up to ours first.
    ///
    /// # Errors
    /// [`StoreError`] where it is damaged or of another version.
    pub fn open_to_read(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| failure(path, error))?;
        match version(&connection, path)? {
            0 => return Ok(None), // its writer has not got that far
            VERSION => {}
            _ => drop(Self::open(path)?),
        }
        let (connection, path) = (Mutex::new(connection), path.to_owned());
        Ok(Some(Self { connection, path, unsure: false.into(), _lock: None }))
    }

    /// Caps the file's size, as a full disk would; for tests.
    ///
    /// # Errors
    /// [`StoreError`] where SQLite refuses.
    pub fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        self.lock()
            .pragma_update(None, "max_page_count", pages)
            .map_err(|error| failure(&self.path, error))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held left SQLite's own transaction to roll back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was written and could not be synced out of the log. SQLite has rolled it back and
    /// writes over it next, but a copy of the files that is made before then (of a whole machine, say)
    /// would have it: a node set back to that would show a receipt that it never sent, and another one
    /// of its number is with its peer. Found by simulation.
    fn forget_what_failed(&self, connection: &Connection) -> Result<(), StoreError> {
        let busy: bool = connection
            .query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))
            .map_err(|error| failure(&self.path, error))?;
        // Somebody reads the log; the next write goes over it.
        self.unsure.store(busy, Relaxed);
        Ok(())
    }

    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        work(&self.lock()).map_err(|trouble| self.name(trouble))
    }

    pub(super) fn name(&self, trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Sqlite(error) => failure(&self.path, error),
            Trouble::Agreed(channel) => StoreError::Agreed { channel },
            // What a damaged file says is shown on terminals.
            Trouble::Content(reason) => StoreError::Damaged {
                path: self.path.display().to_string(),
                reason: short_reason(&reason),
            },
        }
    }
}

impl Store for SqliteStore {
    fn record(&self, records: &[Record]) -> Result<(), StoreError> {
        let mut connection = self.lock();
        if self.unsure.load(Relaxed) {
            self.forget_what_failed(&connection)?;
        }
        let mut write = || -> Result<(), Trouble> {
            let transaction = connection.transaction()?;
            for record in records {
                write_record(&transaction, record)?;
            }
            Ok(transaction.commit()?)
        };
        let Err(trouble) = write() else { return Ok(()) };
        self.unsure.store(true, Relaxed);
        // Tried again before the next write.
        let _ = self.forget_what_failed(&connection);
        Err(self.name(trouble))
    }

    fn keep_channel(
        &self,
        role: Role,
        domain: &Domain,
        config: &ChannelConfig,
    ) -> Result<(), StoreError> {
        self.with(|connection| keep_channel(connection, role, domain, config))
    }

    fn memory(&self, channel: ChannelId, session: Option<SessionId>) -> Result<Memory, StoreError> {
        self.with(|connection| {
            let payment = newest_payment(connection, channel)?;
            let receipt = connection
                .prepare_cached(
                    "select receipt, payee_signature from receipts
                     where channel = ? and payee_signature is not null
                     order by sequence desc limit 1",
                )?
                .query_row([blob(&channel.0)], read_countersigned)
                .optional()?
                .transpose()?;
            let pending = connection
                .prepare_cached(
                    "select receipt from receipts
                     where channel = ? and payee_signature is null order by sequence desc limit 1",
                )?
                .query_row([blob(&channel.0)], |row| row.get::<_, Vec<u8>>(0))
                .optional()?
                .map(|bytes| read(&bytes))
                .transpose()?;
            let excluded = session.unwrap_or_default();
            let history: i64 = connection
                .prepare_cached(
                    "select coalesce(sum(bytes), 0) from payments where channel = ? and session <> ?",
                )?
                .query_row([blob(&channel.0), blob(&excluded.0)], |row| row.get(0))?;
            // Written off, or carried and unpaid in a session that may never come back.
            let lost: i64 = connection
                .prepare_cached(
                    "select coalesce((select lost from channels where id = ?1), 0)
                     + coalesce(sum(s.lost + case
                           when s.statement is null and s.id <> ?2
                           then max(0, s.up + s.down - coalesce(p.bytes, 0)) else 0 end), 0)
                     from sessions s
                     left join payments p on p.session = s.id and p.channel = s.channel
                     where s.channel = ?1",
                )?
                .query_row([blob(&channel.0), blob(&excluded.0)], |row| row.get(0))?;
            let session = match session {
                Some(id) => session_memory(connection, id)?,
                None => None,
            };
            let of_channel: Option<(bool, Option<Vec<u8>>)> = connection
                .prepare_cached("select restored, agreed from channels where id = ?")?
                .query_row([blob(&channel.0)], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (restored, agreed) = of_channel.unwrap_or_default();
            Ok(Memory {
                payment,
                receipt,
                pending,
                history: bytes(history),
                lost: bytes(lost),
                session,
                resync: restored.then_some(Amount::ZERO),
                agreed: agreed.map(|bytes| read(&bytes)).transpose()?,
            })
        })
    }

    fn channels(&self, role: Role) -> Result<Vec<KnownChannel>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(&format!("{CHANNEL} where role = ?"))?;
            let rows = statement.query_map([role as i64], |row| Ok(read_channel(row)))?;
            rows.map(|row| with_payment(connection, row??)).collect()
        })
    }

    fn channel(&self, id: ChannelId) -> Result<Option<KnownChannel>, StoreError> {
        self.with(|connection| {
            connection
                .prepare_cached(&format!("{CHANNEL} where id = ?"))?
                .query_row([blob(&id.0)], |row| Ok(read_channel(row)))
                .optional()?
                .map(|channel| with_payment(connection, channel?))
                .transpose()
        })
    }

    fn sessions(&self) -> Result<Vec<KnownSession>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(&format!("{SESSION} order by number"))?;
            let rows = statement.query_map([], |row| Ok(read_session(row)))?;
            rows.map(|row| row?).collect()
        })
    }

    fn session(&self, id: SessionId) -> Result<Option<KnownSession>, StoreError> {
        self.with(|connection| known_session(connection, id))
    }

    fn receipts(&self, session: SessionId) -> Result<Vec<Countersigned>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "select receipt, payee_signature from receipts
                 where session = ? and payee_signature is not null order by sequence",
            )?;
            let rows = statement.query_map([blob(&session.0)], read_countersigned)?;
            rows.map(|row| row?).collect()
        })
    }

    fn stopped(&self, session: SessionId, stop: &Stop) -> Result<(), StoreError> {
        self.keep_stop(session, stop)
    }

    fn offered(&self, session: SessionId, offer: &Offer) -> Result<(), StoreError> {
        self.keep_offer(session, offer)
    }

    fn contradicted(
        &self,
        delegation: &Signed<Delegation>,
        theirs: &Countersigned,
    ) -> Result<Option<Contradiction>, StoreError> {
        self.keep_contradiction(delegation, theirs)
    }

    fn was_restored(&self, authorizer: Address) -> Result<bool, StoreError> {
        self.with(|connection| has_past(connection, authorizer))
    }

    fn reached(&self, peer: &PeerAddress) -> Result<(), StoreError> {
        self.with(|connection| {
            // Each new session tells it, and most tell nothing new: that is not written.
            connection
                .prepare_cached(
                    "insert into addresses (node, address) values (?1, ?2)
                     on conflict (node) do update set address = ?2 where address <> ?2",
                )?
                .execute(params![blob(&peer.node.0), peer.to_string()])?;
            Ok(())
        })
    }

    fn address(&self, node: NodeId) -> Result<Option<PeerAddress>, StoreError> {
        self.with(|connection| {
            let text: Option<String> = connection
                .prepare_cached("select address from addresses where node = ?")?
                .query_row([blob(&node.0)], |row| row.get(0))
                .optional()?;
            let parsed = text.map(|text| text.parse()).transpose();
            parsed.map_err(|error| Trouble::Content(format!("address of a peer: {error}")))
        })
    }
}

const CHANNEL: &str = "
select id, role, domain, config, agreed,
       exists (select 1 from contradictions c where c.channel = channels.id)
from channels";

const SESSION: &str = "
select s.role, s.peer, s.agreement, s.started, s.lost, s.statement, p.payment,
       (select count(*) from receipts r where r.session = s.id and r.payee_signature is not null)
from sessions s left join payments p on p.session = s.id and p.channel = s.channel";

fn write_record(connection: &Connection, record: &Record) -> Result<(), Trouble> {
    match record {
        Record::Session { role, peer, agreement, started } => {
            keep_channel(connection, *role, agreement.domain(), &agreement.config)?;
            if *role == Role::Payee {
                forget_unpaid(connection, agreement.channel())?;
            }
            connection
                .prepare_cached(
                    "insert into sessions (id, channel, role, peer, agreement, started)
                     values (?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    blob(&agreement.session.0),
                    blob(&agreement.channel().0),
                    *role as i64,
                    blob(&peer.0),
                    encode(agreement),
                    started.as_ms() as i64,
                ])?;
        }
        Record::Payment { channel, payment } => {
            let bytes = payment.reading.checked_total().unwrap_or_default().get();
            // The invariant: after a payee has agreed to a close, nothing is promised to it over that
            // channel. The write of a session that was cut off for the close may come after it.
            let amount = payment.voucher.body.amount;
            if agreed_by_us(connection, *channel)?.is_some_and(|agreed| amount > agreed) {
                return Err(Trouble::Agreed(*channel));
            }
            // The invariant of this table: what is promised over a channel never shrinks.
            let changed = connection
                .prepare_cached(
                    "insert into payments (session, channel, amount, bytes, payment)
                     values (?1, ?2, ?3, ?4, ?5)
                     on conflict (channel, session) do update
                     set amount = ?3, bytes = ?4, payment = ?5 where amount <= ?3",
                )?
                .execute(params![
                    blob(&payment.session.0),
                    blob(&channel.0),
                    payment.voucher.body.amount.get().to_be_bytes(),
                    integer(bytes),
                    encode(payment),
                ])?;
            assert_eq!(changed, 1, "a promise never shrinks");
        }
        Record::Receipt { receipt, payee_signature } => {
            // A receipt may gain its countersignature; its body never changes.
            let changed = connection
                .prepare_cached(
                    "insert into receipts (channel, sequence, session, receipt, payee_signature)
                     values (?1, ?2, ?3, ?4, ?5)
                     on conflict (channel, sequence) do update
                     set payee_signature = coalesce(?5, payee_signature) where receipt = ?4",
                )?
                .execute(params![
                    blob(&receipt.body.channel.0),
                    receipt.body.sequence as i64,
                    blob(&receipt.body.session.0),
                    encode(receipt),
                    payee_signature.map(|signature| signature.to_bytes()),
                ])?;
            assert_eq!(changed, 1, "one receipt for each sequence number");
        }
        Record::Counted { session, reading } => {
            connection
                .prepare_cached("update sessions set up = ?, down = ? where id = ?")?
                .execute(params![
                    integer(reading.up.get()),
                    integer(reading.down.get()),
                    blob(&session.0)
                ])?;
        }
        Record::Loss { session, bytes } => {
            connection
                .prepare_cached("update sessions set lost = lost + ? where id = ?")?
                .execute(params![integer(bytes.get()), blob(&session.0)])?;
        }
        Record::Ended(statement) => {
            let json = serde_json::to_string(statement)
                .map_err(|error| Trouble::Content(error.to_string()))?;
            connection
                .prepare_cached("update sessions set statement = ? where id = ?")?
                .execute(params![json, blob(&statement.session.0)])?;
        }
        Record::Agreed { channel, close } => {
            // A payee agrees to the end of a channel once, and at no less than is promised over it.
            let promised = newest_payment(connection, *channel)?;
            let promised = promised.map_or(Amount::ZERO, |payment| payment.voucher.body.amount);
            assert!(close.body.amount >= promised, "no close gives up what is promised");
            let changed = connection
                .prepare_cached(
                    "update channels set agreed = ?2
                     where id = ?1 and (agreed is null or agreed = ?2)",
                )?
                .execute(params![blob(&channel.0), encode(close)])?;
            assert_eq!(changed, 1, "a known channel's close is agreed on once");
        }
    }
    Ok(())
}

/// Forgets the payee's sessions over a channel that never paid, all but what they lost: whoever
/// begins sessions without end must not fill the disk with them.
fn forget_unpaid(connection: &Connection, channel: ChannelId) -> Result<(), Trouble> {
    const UNPAID: &str = "from sessions where channel = ?1 and not exists
        (select 1 from payments p where p.session = sessions.id and p.channel = sessions.channel)";
    connection
        .prepare_cached(&format!(
            "update channels set lost = lost
                 + (select coalesce(sum(lost + iif(statement is null, up + down, 0)), 0) {UNPAID})
             where id = ?1"
        ))?
        .execute([blob(&channel.0)])?;
    for table in ["stops", "stops_forgotten", "offers"] {
        connection
            .prepare_cached(&format!("delete from {table} where session in (select id {UNPAID})"))?
            .execute([blob(&channel.0)])?;
    }
    connection.prepare_cached(&format!("delete {UNPAID}"))?.execute([blob(&channel.0)])?;
    Ok(())
}

pub(super) fn bytes(integer: i64) -> ByteCount {
    ByteCount::new(integer.unsigned_abs())
}

/// Bytes as SQLite counts them. What no line can carry is cut off, so that sums stay in range.
pub(super) fn integer(bytes: u64) -> i64 {
    bytes.min(1 << 56) as i64
}

fn keep_channel(
    connection: &Connection,
    role: Role,
    domain: &Domain,
    config: &ChannelConfig,
) -> Result<(), Trouble> {
    let channel = config.id(domain);
    let is_known: bool = connection
        .prepare_cached("select exists (select 1 from channels where id = ?)")?
        .query_row([blob(&channel.0)], |row| row.get(0))?;
    if is_known {
        return Ok(());
    }
    // The invariant (R1): of a channel that a restored store meets for the first time nobody can tell
    // whether it is new or was promised money over while the store knew of it.
    let restored = role == Role::Payee && has_past(connection, config.payee_authorizer)?;
    connection
        .prepare_cached(
            "insert into channels (id, role, domain, config, restored) values (?, ?, ?, ?, ?)",
        )?
        .execute(params![
            blob(&channel.0),
            role as i64,
            encode(domain),
            encode(config),
            restored
        ])?;
    Ok(())
}

/// At what a close of a channel that we are paid over was agreed on.
fn agreed_by_us(connection: &Connection, channel: ChannelId) -> Result<Option<Amount>, Trouble> {
    let agreed: Option<Vec<u8>> = connection
        .prepare_cached(
            "select agreed from channels where id = ? and role = ? and agreed is not null",
        )?
        .query_row(params![blob(&channel.0), Role::Payee as i64], |row| row.get(0))
        .optional()?;
    let agreed = agreed.map(|bytes| read::<Signed<CooperativeClose>>(&bytes)).transpose()?;
    Ok(agreed.map(|close| close.body.amount))
}

fn newest_payment(connection: &Connection, channel: ChannelId) -> Result<Option<Payment>, Trouble> {
    // Where two sessions stand at one amount, the later one goes on from it.
    let bytes = connection
        .prepare_cached(
            "select p.payment from payments p
             left join sessions s on s.id = p.session and s.channel = p.channel
             where p.channel = ? order by p.amount desc, s.number desc nulls last limit 1",
        )?
        .query_row([blob(&channel.0)], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    bytes.map(|bytes| read(&bytes)).transpose()
}

/// A channel without its payment.
fn read_channel(row: &Row<'_>) -> Result<KnownChannel, Trouble> {
    let agreed: Option<Vec<u8>> = row.get(4)?;
    Ok(KnownChannel {
        id: ChannelId(read_id(&row.get::<_, Vec<u8>>(0)?)?),
        role: read_role(row.get(1)?)?,
        domain: read(&row.get::<_, Vec<u8>>(2)?)?,
        config: read(&row.get::<_, Vec<u8>>(3)?)?,
        payment: None,
        agreed: agreed.map(|bytes| read(&bytes)).transpose()?,
        frozen: row.get(5)?,
    })
}

fn with_payment(connection: &Connection, channel: KnownChannel) -> Result<KnownChannel, Trouble> {
    Ok(KnownChannel { payment: newest_payment(connection, channel.id)?, ..channel })
}

fn read_role(role: i64) -> Result<Role, Trouble> {
    match role {
        1 => Ok(Role::Payer),
        2 => Ok(Role::Payee),
        other => Err(Trouble::Content(format!("role {other}"))),
    }
}

fn known_session(connection: &Connection, id: SessionId) -> Result<Option<KnownSession>, Trouble> {
    connection
        .prepare_cached(&format!("{SESSION} where s.id = ?"))?
        .query_row([blob(&id.0)], |row| Ok(read_session(row)))
        .optional()?
        .transpose()
}

/// What can be resumed: what is paid for and, at the payee, what it had carried beyond that.
fn session_memory(
    connection: &Connection,
    id: SessionId,
) -> Result<Option<SessionMemory>, Trouble> {
    let known = known_session(connection, id)?.filter(|known| known.statement.is_none());
    let Some(known) = known else { return Ok(None) };
    let paid = known.payment.map_or(Reading::ZERO, |payment| payment.reading);
    let counted = connection
        .prepare_cached("select up, down from sessions where id = ?")?
        .query_row([blob(&id.0)], |row| {
            Ok(Reading {
                up: bytes(row.get(0)?).max(paid.up),
                down: bytes(row.get(1)?).max(paid.down),
            })
        })?;
    Ok(Some(SessionMemory { agreement: known.agreement, counted, reported_up: paid.up, paid }))
}

fn read_session(row: &Row<'_>) -> Result<KnownSession, Trouble> {
    let statement: Option<String> = row.get(5)?;
    let payment: Option<Vec<u8>> = row.get(6)?;
    Ok(KnownSession {
        role: read_role(row.get(0)?)?,
        peer: NodeId(read_id(&row.get::<_, Vec<u8>>(1)?)?),
        agreement: read::<Agreement>(&row.get::<_, Vec<u8>>(2)?)?,
        started: Timestamp::from_ms(row.get::<_, i64>(3)?.unsigned_abs()),
        lost: bytes(row.get(4)?),
        statement: statement
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|error| Trouble::Content(error.to_string()))?,
        payment: payment.map(|bytes| read(&bytes)).transpose()?,
        receipts: row.get::<_, i64>(7)?.unsigned_abs(),
    })
}

pub(super) fn read_countersigned(
    row: &Row<'_>,
) -> rusqlite::Result<Result<Countersigned, Trouble>> {
    let (receipt, signature): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
    Ok(read(&receipt)
        .and_then(|receipt| Ok(Countersigned { receipt, payee_signature: read(&signature)? })))
}

pub(super) fn blob(id: &B256) -> &[u8] {
    id.as_slice()
}

pub(super) fn read<T: BorshDeserialize + BorshSerialize>(bytes: &[u8]) -> Result<T, Trouble> {
    decode(bytes, VALUE_LEN_MAX).map_err(|error| Trouble::Content(error.to_string()))
}

fn read_id(bytes: &[u8]) -> Result<B256, Trouble> {
    B256::try_from(bytes).map_err(|_| Trouble::Content("an id that is not 32 bytes".into()))
}

pub(super) enum Trouble {
    Sqlite(rusqlite::Error),
    Content(String),
    Agreed(ChannelId),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The schema's version; 0 for an empty file.
fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| failure(path, error))?;
    if found == 0 || (VERSION_MIN..=VERSION).contains(&found) {
        return Ok(found);
    }
    Err(StoreError::Version { path: path.display().to_string(), found, known: VERSION })
}

pub(crate) fn failure(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.display().to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::SystemIoFailure) => StoreError::Io { path, reason: error.to_string() },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse { path },
        _ => StoreError::Damaged { path, reason: error.to_string() },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(in crate::store) mod tests;
