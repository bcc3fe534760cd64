//! What we asked of the chain, and every transaction that was ever signed for it, in a SQLite file
//! with `synchronous=FULL`: money leaves only on the strength of what is written here first.
//!
//! ```text
//! step:  planned -> signed -> mined -> final
//!                     ^  |      |  \-> failed (why)
//!                     |  \------/  a reorganisation takes it back; it is sent again
//!                     attempts: one nonce, several hashes (fee bumps); each is followed
//! ```
//!
//! What was signed is never forgotten before its nonce is used for good: an intent of which a step
//! failed stays open until its other signed steps are over too, so that no nonce is left behind that
//! nobody sends again.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use alloy_primitives::{Address, B256, Bytes, U256};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use sparewire_protocol::settlement::{ChainError, TransactionSummary};

use crate::chain_work::ForeignUse;

const SCHEMA_VERSION: i64 = 2;

/// Intents that are remembered after they are over, so that the file stays below some 20 MB; what
/// is older goes at the next start.
const HISTORY_MAX: i64 = 10_000;

const SCHEMA: &str = "
    CREATE TABLE owner (chain_id INTEGER NOT NULL, wallet BLOB NOT NULL);
    CREATE TABLE intents (
        id INTEGER PRIMARY KEY, digest BLOB NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
        reason TEXT, created_secs INTEGER NOT NULL);
    CREATE INDEX intents_open ON intents (digest) WHERE state = 'open';
    CREATE TABLE steps (
        id INTEGER PRIMARY KEY, intent INTEGER NOT NULL, target BLOB, data BLOB NOT NULL,
        value BLOB NOT NULL, state TEXT NOT NULL, nonce INTEGER,
        hash BLOB, block INTEGER, gas_used INTEGER, fee_wei TEXT);
    CREATE INDEX steps_intent ON steps (intent);
    CREATE TABLE attempts (
        hash BLOB PRIMARY KEY, step INTEGER NOT NULL, nonce INTEGER NOT NULL, raw BLOB NOT NULL,
        gas INTEGER NOT NULL, max_fee TEXT NOT NULL, tip TEXT, signed_secs INTEGER NOT NULL);
    CREATE INDEX attempts_step ON attempts (step);
";

/// What version 2 adds: which intents may cost more, and nonces that were not ours.
const SCHEMA_2: &str = "
    ALTER TABLE intents ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE foreign_use (id INTEGER PRIMARY KEY CHECK (id = 0),
        nonce INTEGER NOT NULL, seen_secs INTEGER NOT NULL);
";

/// Why the record of transactions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Two performers on one wallet would sign the same nonce twice.
    #[error("the transaction journal is in use by another process")]
    InUse,
    /// It belongs to another wallet or chain.
    #[error("the transaction journal is of wallet {wallet} on chain {chain_id}")]
    OtherOwner {
        /// Whose it is.
        wallet: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// SQLite's own words.
    #[error("{0}")]
    Sqlite(rusqlite::Error),
    /// What was read back is not what was written.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse,
            _ => Self::Sqlite(error),
        }
    }
}

impl From<JournalError> for ChainError {
    fn from(error: JournalError) -> Self {
        Self::Journal { reason: error.to_string() }
    }
}

/// One call that an intent takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who is called; `None` creates a contract.
    pub target: Option<Address>,
    /// What is handed in: ABI-encoded, selector first.
    pub data: Bytes,
    /// Native currency that goes along, in wei.
    pub value: U256,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepState {
    Planned,
    Signed,
    Mined,
    Final,
    Failed,
}

impl StepState {
    fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Signed => "signed",
            Self::Mined => "mined",
            Self::Final => "final",
            Self::Failed => "failed",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Planned, Self::Signed, Self::Mined, Self::Final, Self::Failed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// A call and how far it has come.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) id: i64,
    pub(crate) call: Call,
    pub(crate) state: StepState,
    pub(crate) summary: Option<TransactionSummary>,
}

/// A signed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) hash: B256,
    pub(crate) nonce: u64,
    pub(crate) raw: Bytes,
    pub(crate) gas: u64,
    /// Most that is paid for a unit of gas, in wei.
    pub(crate) max_fee: u128,
    /// The part of it for the block's maker; `None` on chains without EIP-1559.
    pub(crate) tip: Option<u128>,
    pub(crate) signed_secs: u64,
}

/// How many versions of a step's transaction there are: of what was signed for it, the newest first,
/// that with the newest nonce. What another program displaced had another nonce.
pub(crate) fn versions(attempts: &[Attempt]) -> usize {
    let nonce = attempts.first().map(|newest| newest.nonce);
    attempts.iter().filter(|attempt| Some(attempt.nonce) == nonce).count()
}

/// An intent that is not carried out yet.
#[derive(Clone, Debug)]
pub(crate) struct OpenIntent {
    pub(crate) id: i64,
    pub(crate) kind: String,
}

/// The durable record of one wallet's transactions on one chain. Clones are handles of one file.
#[derive(Clone)]
pub struct Journal {
    db: Arc<Mutex<Connection>>,
    /// Where a test ends the process.
    #[cfg(test)]
    pub(crate) fuse: Option<crate::testing::Fuse>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in this file, or begins it there, and holds it against other processes
    /// until all handles are dropped.
    ///
    /// # Errors
    /// [`JournalError::InUse`] where another process holds it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        Self::prepare(Connection::open(path)?)
    }

    /// A journal that is gone with the process: for tests and one-off tools.
    ///
    /// # Errors
    /// [`JournalError::Sqlite`] where there is no memory for it.
    pub fn in_memory() -> Result<Self, JournalError> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(db: Connection) -> Result<Self, JournalError> {
        // Long enough for an earlier process to go away.
        db.busy_timeout(std::time::Duration::from_secs(1))?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        // An exclusive lock is taken by the first write and kept.
        let transaction = db.unchecked_transaction()?;
        match version {
            0 => {
                transaction.execute_batch(SCHEMA)?;
                transaction.execute_batch(SCHEMA_2)?;
            }
            1 => transaction.execute_batch(SCHEMA_2)?,
            SCHEMA_VERSION => {}
            _ => return Err(JournalError::Damaged("written by a newer version")),
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.execute(
            "DELETE FROM intents WHERE state <> 'open' AND id <= (SELECT max(id) FROM intents) - ?1",
            [HISTORY_MAX],
        )?;
        transaction.execute_batch(
            "DELETE FROM steps WHERE intent NOT IN (SELECT id FROM intents);
             DELETE FROM attempts WHERE step NOT IN (SELECT id FROM steps);",
        )?;
        transaction.commit()?;
        Ok(Self::over(db))
    }

    fn over(db: Connection) -> Self {
        Self {
            db: Arc::new(Mutex::new(db)),
            #[cfg(test)]
            fuse: None,
        }
    }

    /// Transactions that were signed and are not final yet.
    ///
    /// # Errors
    /// [`JournalError::Sqlite`] where the file cannot be read.
    pub fn unfinished(&self) -> Result<usize, JournalError> {
        self.with(|db| {
            let count: i64 = db.query_row(
                "SELECT count(*) FROM steps JOIN intents ON intents.id = steps.intent
                 WHERE intents.state = 'open' AND steps.state IN ('signed', 'mined')",
                [],
                |row| row.get(0),
            )?;
            Ok(count as usize)
        })
    }

    /// Writes all that is durable now into a new file, in one piece.
    ///
    /// # Errors
    /// [`JournalError::Sqlite`]; also where there is such a file.
    pub fn snapshot(&self, to: &Path) -> Result<(), JournalError> {
        self.with(|db| {
            db.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
            Ok(())
        })
    }

    /// Gives up every intent that is not over: this journal comes from a backup, and what became of
    /// them since, perhaps under hashes that it does not know, only the chain can tell. Who still
    /// wants them asks for them again, by the chain's facts. Returns how many they were.
    ///
    /// # Errors
    /// [`JournalError::Sqlite`] where the file cannot be written.
    pub fn abandon_open(&self) -> Result<usize, JournalError> {
        self.with(|db| {
            let reason = "restored from a backup: what became of it is on chain";
            Ok(db.execute(
                "UPDATE intents SET state = 'failed', reason = ?1 WHERE state = 'open'",
                [reason],
            )?)
        })
    }

    /// Every step that is over and was signed, the oldest first: kind of its intent, the step, and
    /// when its transaction was signed, in seconds since the epoch.
    pub(crate) fn past(&self) -> Result<Vec<(String, Step, u64)>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare(
                "SELECT steps.id, target, data, value, steps.state, steps.hash, block, gas_used,
                        fee_wei, kind, coalesce(attempts.signed_secs, created_secs)
                 FROM steps JOIN intents ON intents.id = steps.intent
                 LEFT JOIN attempts ON attempts.hash = steps.hash
                 WHERE steps.hash IS NOT NULL AND steps.state IN ('final', 'failed')
                 ORDER BY steps.id",
            )?;
            let mut rows = statement.query([])?;
            let mut past = Vec::new();
            while let Some(row) = rows.next()? {
                past.push((row.get(9)?, read_step(row)?, row.get::<_, i64>(10)? as u64));
            }
            Ok(past)
        })
    }

    /// The chain that it is of; `None` before it was first used.
    pub(crate) fn chain_id(&self) -> Result<Option<u64>, JournalError> {
        self.with(|db| {
            let owner = db.query_row("SELECT chain_id FROM owner", [], |row| row.get::<_, i64>(0));
            Ok(owner.optional()?.map(|chain| chain as u64))
        })
    }

    /// Ties the journal to its wallet and chain.
    pub(crate) fn claim(&self, wallet: Address, chain_id: u64) -> Result<(), JournalError> {
        self.with(|db| {
            let owner = db
                .query_row("SELECT chain_id, wallet FROM owner", [], |row| {
                    Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?))
                })
                .optional()?;
            match owner {
                None => {
                    db.execute(
                        "INSERT INTO owner VALUES (?1, ?2)",
                        params![chain_id as i64, wallet.as_slice()],
                    )?;
                    Ok(())
                }
                Some((chain, owner)) if chain == chain_id && owner == wallet.as_slice() => Ok(()),
                Some((chain_id, owner)) => Err(JournalError::OtherOwner {
                    wallet: Address::try_from(owner.as_slice())
                        .map_err(|_| JournalError::Damaged("owner"))?,
                    chain_id,
                }),
            }
        })
    }

    /// Writes an intent and its calls down; an unfinished intent with the same digest is the same, and
    /// as urgent as either.
    pub(crate) fn plan(
        &self,
        kind: &str,
        digest: B256,
        calls: &[Call],
        urgent: bool,
        now_secs: u64,
    ) -> Result<i64, JournalError> {
        self.with(|db| {
            let transaction = db.transaction()?;
            if let Some(intent) = open_with(&transaction, digest)? {
                if urgent {
                    transaction.execute("UPDATE intents SET urgent = 1 WHERE id = ?1", [intent])?;
                    transaction.commit()?;
                }
                return Ok(intent);
            }
            transaction.execute(
                "INSERT INTO intents (digest, kind, state, urgent, created_secs)
                 VALUES (?1, ?2, 'open', ?3, ?4)",
                params![digest.as_slice(), kind, urgent, now_secs as i64],
            )?;
            let intent = transaction.last_insert_rowid();
            for call in calls {
                transaction.execute(
                    "INSERT INTO steps (intent, target, data, value, state)
                     VALUES (?1, ?2, ?3, ?4, 'planned')",
                    params![
                        intent,
                        call.target.map(|target| target.to_vec()),
                        call.data.as_ref(),
                        call.value.to_be_bytes::<32>()
                    ],
                )?;
            }
            transaction.commit()?;
            Ok(intent)
        })
    }

    pub(crate) fn open_intent(&self, digest: B256) -> Result<Option<i64>, JournalError> {
        self.with(|db| open_with(db, digest))
    }

    /// When an intent of this kind was last written down that has not failed, in seconds since the
    /// epoch.
    ///
    /// # Errors
    /// [`JournalError::Sqlite`] where the file cannot be read.
    pub fn last_planned(&self, kind: &str) -> Result<Option<u64>, JournalError> {
        self.with(|db| {
            let newest: Option<i64> = db.query_row(
                "SELECT max(created_secs) FROM intents WHERE kind = ?1 AND state <> 'failed'",
                [kind],
                |row| row.get(0),
            )?;
            Ok(newest.map(i64::unsigned_abs))
        })
    }

    pub(crate) fn open_intents(&self) -> Result<Vec<OpenIntent>, JournalError> {
        self.intents("SELECT id, kind FROM intents WHERE state = 'open' ORDER BY id")
    }

    /// Those of which something is signed that was in no block when it was last looked for.
    pub(crate) fn signed_intents(&self) -> Result<Vec<OpenIntent>, JournalError> {
        self.intents(
            "SELECT id, kind FROM intents WHERE state = 'open' AND EXISTS (
                 SELECT 1 FROM steps WHERE intent = intents.id AND state = 'signed')
             ORDER BY id",
        )
    }

    fn intents(&self, sql: &str) -> Result<Vec<OpenIntent>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement
                .query_map([], |row| Ok(OpenIntent { id: row.get(0)?, kind: row.get(1)? }))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// The next step of each urgent intent, where nothing that it builds on is in no block, with the
    /// intent's kind; the oldest first, at most 1,000.
    pub(crate) fn urgent_next(&self) -> Result<Vec<(String, i64)>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(
                "SELECT kind, steps.id FROM steps JOIN intents ON intents.id = steps.intent
                 WHERE intents.state = 'open' AND urgent = 1 AND steps.state = 'planned'
                 AND NOT EXISTS (
                     SELECT 1 FROM steps AS earlier
                     WHERE earlier.intent = steps.intent AND earlier.id < steps.id
                     AND earlier.state NOT IN ('mined', 'final'))
                 ORDER BY steps.id LIMIT 1000",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Unfinished steps that are signed and were in no block when they were last looked for.
    pub(crate) fn signed_steps(&self) -> Result<Vec<i64>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(
                "SELECT steps.id FROM steps JOIN intents ON intents.id = steps.intent
                 WHERE intents.state = 'open' AND steps.state = 'signed'",
            )?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    pub(crate) fn steps(&self, intent: i64) -> Result<Vec<Step>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(
                "SELECT id, target, data, value, state, hash, block, gas_used, fee_wei
                 FROM steps WHERE intent = ?1 ORDER BY id",
            )?;
            let mut rows = statement.query([intent])?;
            let mut steps = Vec::new();
            while let Some(row) = rows.next()? {
                steps.push(read_step(row)?);
            }
            Ok(steps)
        })
    }

    /// Lets an intent cost more from now on.
    pub(crate) fn hurry(&self, intent: i64) -> Result<(), JournalError> {
        self.with(|db| {
            db.execute("UPDATE intents SET urgent = 1 WHERE id = ?1 AND urgent = 0", [intent])?;
            Ok(())
        })
    }

    pub(crate) fn is_urgent(&self, intent: i64) -> Result<bool, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached("SELECT urgent FROM intents WHERE id = ?1")?;
            Ok(statement.query_row([intent], |row| row.get(0)).optional()?.unwrap_or(false))
        })
    }

    pub(crate) fn step(&self, step: i64) -> Result<Step, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(
                "SELECT id, target, data, value, state, hash, block, gas_used, fee_wei
                 FROM steps WHERE id = ?1",
            )?;
            let mut rows = statement.query([step])?;
            read_step(rows.next()?.ok_or(JournalError::Damaged("a transaction without a step"))?)
        })
    }

    /// All that was signed for a step, the newest first. Where its nonce was lost to another
    /// program, that includes what was signed with that nonce.
    pub(crate) fn attempts(&self, step: i64) -> Result<Vec<Attempt>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(
                "SELECT hash, nonce, raw, gas, max_fee, tip, signed_secs FROM attempts
                 WHERE step = ?1 ORDER BY rowid DESC",
            )?;
            let mut rows = statement.query([step])?;
            let mut attempts = Vec::new();
            while let Some(row) = rows.next()? {
                let tip: Option<String> = row.get(5)?;
                attempts.push(Attempt {
                    hash: hash_of(&row.get::<_, Vec<u8>>(0)?)?,
                    nonce: row.get::<_, i64>(1)? as u64,
                    raw: row.get::<_, Vec<u8>>(2)?.into(),
                    gas: row.get::<_, i64>(3)? as u64,
                    max_fee: wei_of(&row.get::<_, String>(4)?)?,
                    tip: tip.as_deref().map(wei_of).transpose()?,
                    signed_secs: row.get::<_, i64>(6)? as u64,
                });
            }
            Ok(attempts)
        })
    }

    /// Nonces that unfinished steps hold.
    pub(crate) fn nonces_in_flight(&self) -> Result<Vec<u64>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(
                "SELECT nonce FROM steps JOIN intents ON intents.id = steps.intent
                 WHERE intents.state = 'open' AND steps.state IN ('signed', 'mined')
                 AND nonce IS NOT NULL",
            )?;
            let rows = statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Unfinished steps that hold a lower nonce, the lowest first.
    pub(crate) fn steps_below(&self, nonce: u64) -> Result<Vec<i64>, JournalError> {
        self.with(|db| {
            let mut statement = db.prepare_cached(
                "SELECT steps.id FROM steps JOIN intents ON intents.id = steps.intent
                 WHERE intents.state = 'open' AND steps.state IN ('signed', 'mined')
                 AND nonce < ?1 ORDER BY nonce",
            )?;
            let rows = statement.query_map([nonce as i64], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// The nonce after all that were ever signed; `None` where nothing was.
    pub(crate) fn next_nonce(&self) -> Result<Option<u64>, JournalError> {
        self.with(|db| {
            let highest: Option<i64> =
                db.query_row("SELECT max(nonce) FROM attempts", [], |row| row.get(0))?;
            Ok(highest.map(|nonce| (nonce as u64).saturating_add(1)))
        })
    }

    /// Writes down that somebody else used a nonce of the wallet.
    pub(crate) fn note_foreign(&self, found: ForeignUse) -> Result<(), JournalError> {
        self.with(|db| {
            db.execute(
                "INSERT INTO foreign_use VALUES (0, ?1, ?2) ON CONFLICT (id) DO UPDATE
                 SET nonce = ?1, seen_secs = ?2 WHERE nonce < ?1",
                params![found.nonce as i64, found.seen_secs as i64],
            )?;
            Ok(())
        })
    }

    /// The newest nonce that another program used, as far as that was noticed.
    pub(crate) fn foreign_use(&self) -> Result<Option<ForeignUse>, JournalError> {
        self.with(|db| {
            let read = |row: &Row<'_>| {
                let (nonce, seen): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(ForeignUse { nonce: nonce as u64, seen_secs: seen as u64 })
            };
            Ok(db.query_row("SELECT nonce, seen_secs FROM foreign_use", [], read).optional()?)
        })
    }

    /// Writes a signed transaction down, before it is sent for the first time. No nonce is of two
    /// unfinished steps: one of the two could never be mined.
    ///
    /// Signed a second time with the same nonce, gas and fee, a call is the same transaction (RFC
    /// 6979): what all nodes refused, or a backup brought back, comes again. It is of whoever signs
    /// it now, and the newest: none that is under way holds its nonce, and who gave that up before
    /// it was used for good may do its work twice.
    pub(crate) fn sign(&self, step: i64, attempt: &Attempt) -> Result<(), JournalError> {
        self.with(|db| {
            let transaction = db.transaction()?;
            let held: bool = transaction.query_row(
                "SELECT EXISTS (
                     SELECT 1 FROM steps JOIN intents ON intents.id = steps.intent
                     WHERE intents.state = 'open' AND steps.state IN ('signed', 'mined')
                     AND nonce = ?1 AND steps.id <> ?2)",
                params![attempt.nonce as i64, step],
                |row| row.get(0),
            )?;
            if held {
                return Err(JournalError::Damaged("a nonce that another transaction holds"));
            }
            transaction.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    attempt.hash.as_slice(),
                    step,
                    attempt.nonce as i64,
                    attempt.raw.as_ref(),
                    attempt.gas as i64,
                    attempt.max_fee.to_string(),
                    attempt.tip.map(|tip| tip.to_string()),
                    attempt.signed_secs as i64
                ],
            )?;
            transaction.execute(
                "UPDATE steps SET state = 'signed', nonce = ?2 WHERE id = ?1",
                params![step, attempt.nonce as i64],
            )?;
            transaction.commit()?;
            Ok(())
        })
    }

    pub(crate) fn set_state(&self, step: i64, state: StepState) -> Result<(), JournalError> {
        self.with(|db| {
            // Most looks find nothing new, and nothing is written (and synced) then.
            db.execute(
                "UPDATE steps SET state = ?2 WHERE id = ?1 AND state <> ?2",
                params![step, state.name()],
            )?;
            Ok(())
        })
    }

    /// Something else took the step's nonce: it is planned anew. What was signed with that nonce is
    /// kept, in case that it comes back.
    pub(crate) fn displace(&self, step: i64) -> Result<(), JournalError> {
        self.with(|db| {
            db.execute("UPDATE steps SET state = 'planned', nonce = NULL WHERE id = ?1", [step])?;
            Ok(())
        })
    }

    /// A step is over without having done what was asked. Its intent is over too once nothing else
    /// that was signed for it can still happen.
    pub(crate) fn fail_step(
        &self,
        intent: i64,
        step: i64,
        reason: &str,
    ) -> Result<(), JournalError> {
        self.with(|db| {
            let transaction = db.transaction()?;
            transaction.execute("UPDATE steps SET state = 'failed' WHERE id = ?1", [step])?;
            transaction.execute(
                "UPDATE intents SET reason = coalesce(reason, ?2) WHERE id = ?1",
                params![intent, reason],
            )?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Why a step of an intent that is still open failed.
    pub(crate) fn reason(&self, intent: i64) -> Result<Option<String>, JournalError> {
        self.with(|db| {
            let read = |row: &Row<'_>| row.get(0);
            Ok(db.query_row("SELECT reason FROM intents WHERE id = ?1", [intent], read)?)
        })
    }

    pub(crate) fn finish_step(
        &self,
        step: i64,
        summary: &TransactionSummary,
    ) -> Result<(), JournalError> {
        self.end_step(step, StepState::Final, summary)
    }

    /// Writes down what a step cost that failed in its block for good.
    pub(crate) fn spend(
        &self,
        step: i64,
        summary: &TransactionSummary,
    ) -> Result<(), JournalError> {
        self.end_step(step, StepState::Failed, summary)
    }

    fn end_step(
        &self,
        step: i64,
        state: StepState,
        summary: &TransactionSummary,
    ) -> Result<(), JournalError> {
        self.with(|db| {
            db.execute(
                "UPDATE steps SET state = ?6, hash = ?2, block = ?3, gas_used = ?4, fee_wei = ?5
                 WHERE id = ?1",
                params![
                    step,
                    summary.hash.as_slice(),
                    summary.block as i64,
                    summary.gas_used as i64,
                    summary.fee_wei.to_string(),
                    state.name()
                ],
            )?;
            Ok(())
        })
    }

    /// Why an intent failed; `None` where it did not.
    pub(crate) fn failure(&self, intent: i64) -> Result<Option<String>, JournalError> {
        self.with(|db| {
            Ok(db
                .query_row(
                    "SELECT coalesce(reason, '') FROM intents WHERE id = ?1 AND state = 'failed'",
                    [intent],
                    |row| row.get(0),
                )
                .optional()?)
        })
    }

    pub(crate) fn finish(&self, intent: i64) -> Result<(), JournalError> {
        self.with(|db| {
            db.execute("UPDATE intents SET state = 'done' WHERE id = ?1", [intent])?;
            Ok(())
        })
    }

    pub(crate) fn fail(
        &self,
        intent: i64,
        step: Option<i64>,
        reason: &str,
    ) -> Result<(), JournalError> {
        self.with(|db| {
            let transaction = db.transaction()?;
            transaction.execute(
                "UPDATE intents SET state = 'failed', reason = ?2 WHERE id = ?1",
                params![intent, reason],
            )?;
            if let Some(step) = step {
                let state = StepState::Failed.name();
                transaction
                    .execute("UPDATE steps SET state = ?2 WHERE id = ?1", params![step, state])?;
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Every nonce that was ever signed, with the steps that it was signed for.
    #[cfg(test)]
    pub(crate) fn signed(
        &self,
    ) -> std::collections::BTreeMap<u64, std::collections::BTreeSet<i64>> {
        let read = |db: &mut Connection| {
            let mut statement = db.prepare("SELECT nonce, step FROM attempts")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<Vec<(i64, i64)>, _>>()?)
        };
        let mut signed = std::collections::BTreeMap::new();
        for (nonce, step) in self.with(read).unwrap_or_default() {
            let steps: &mut std::collections::BTreeSet<i64> =
                signed.entry(nonce as u64).or_default();
            steps.insert(step);
        }
        signed
    }

    /// Tells whether a transaction is written down, without holding the file; true when it is let go.
    #[cfg(test)]
    pub(crate) fn witness(&self) -> impl Fn(&[u8]) -> bool + Send + use<> {
        let db = Arc::downgrade(&self.db);
        move |raw| {
            let Some(db) = db.upgrade() else { return true };
            let sql = "SELECT EXISTS (SELECT 1 FROM attempts WHERE raw = ?1)";
            let found =
                Self { db, fuse: None }.with(|db| Ok(db.query_row(sql, [raw], |it| it.get(0))?));
            found.unwrap_or(false)
        }
    }

    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        #[cfg(test)]
        if self.fuse.as_ref().is_some_and(|fuse| !fuse.holds()) {
            return Err(JournalError::Damaged("the process was ended here"));
        }
        // SQLite rolls a half-done transaction back; a poisoned lock guards a whole database.
        work(&mut self.db.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn open_with(db: &Connection, digest: B256) -> Result<Option<i64>, JournalError> {
    let mut statement =
        db.prepare_cached("SELECT id FROM intents WHERE state = 'open' AND digest = ?1")?;
    Ok(statement.query_row([digest.as_slice()], |row| row.get(0)).optional()?)
}

fn read_step(row: &Row<'_>) -> Result<Step, JournalError> {
    let target: Option<Vec<u8>> = row.get(1)?;
    let target = target
        .map(|target| Address::try_from(target.as_slice()))
        .transpose()
        .map_err(|_| JournalError::Damaged("target"))?;
    let value: Vec<u8> = row.get(3)?;
    let value = U256::try_from_be_slice(&value).ok_or(JournalError::Damaged("value"))?;
    let state: String = row.get(4)?;
    let state = StepState::parse(&state).ok_or(JournalError::Damaged("state"))?;
    let summary = match row.get::<_, Option<Vec<u8>>>(5)? {
        None => None,
        Some(hash) => Some(TransactionSummary {
            hash: hash_of(&hash)?,
            block: row.get::<_, i64>(6)? as u64,
            gas_used: row.get::<_, i64>(7)? as u64,
            fee_wei: wei_of(&row.get::<_, String>(8)?)?,
        }),
    };
    Ok(Step {
        id: row.get(0)?,
        call: Call { target, data: row.get::<_, Vec<u8>>(2)?.into(), value },
        state,
        summary,
    })
}

fn hash_of(bytes: &[u8]) -> Result<B256, JournalError> {
    B256::try_from(bytes).map_err(|_| JournalError::Damaged("hash"))
}

fn wei_of(text: &str) -> Result<u128, JournalError> {
    text.parse().map_err(|_| JournalError::Damaged("wei"))
}

#[cfg(test)]
mod tests;
