//! The index on disk. Only facts are stored: what a channel holds is the newest of its events of
//! each kind, since they all tell sums.

use alloy_primitives::{Address, B256, U256};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use sparewire_core::{Amount, ChannelId, Domain};
use sparewire_protocol::channel::{ChannelFacts, ChannelStatus};

use super::{
    Checkpoint, IndexError, Known,
    event::{Event, Opening, Told, fold},
};

const SCHEMA_VERSION: i64 = 1;

/// Blocks whose hashes are remembered: one for each range that was read. A chain that differs from
/// all of them is another chain.
const CHECKPOINTS_MAX: i64 = 1_024;

const SCHEMA: &str = "
    CREATE TABLE state (
        chain_id INTEGER NOT NULL, contract BLOB NOT NULL, first INTEGER, checked INTEGER,
        verified INTEGER, doubt TEXT);
    CREATE TABLE checkpoints (block INTEGER PRIMARY KEY, hash BLOB NOT NULL);
    -- A transaction by the first log of ours in it; its logs follow each other.
    CREATE TABLE transactions (
        block INTEGER, log INTEGER, hash BLOB NOT NULL, time_secs INTEGER NOT NULL,
        PRIMARY KEY (block, log)) WITHOUT ROWID;
    CREATE TABLE channels (
        row INTEGER PRIMARY KEY, channel BLOB NOT NULL UNIQUE, payer BLOB NOT NULL,
        payee BLOB NOT NULL, token BLOB NOT NULL, rest BLOB NOT NULL, block INTEGER NOT NULL);
    CREATE INDEX channels_payer ON channels (payer, token);
    CREATE INDEX channels_payee ON channels (payee, token);
    CREATE INDEX channels_block ON channels (block);
    CREATE TABLE events (
        block INTEGER, log INTEGER, part INTEGER, kind INTEGER NOT NULL, channel INTEGER,
        party BLOB, body BLOB NOT NULL, PRIMARY KEY (block, log, part)) WITHOUT ROWID;
    CREATE INDEX events_channel ON events (channel, kind) WHERE channel IS NOT NULL;
    CREATE INDEX events_party ON events (party) WHERE party IS NOT NULL;
";

/// What an event is, on disk. Never renumbered.
pub(super) mod kind {
    pub(crate) const DEPOSITED: i64 = 1;
    pub(crate) const WITHDRAWN: i64 = 2;
    pub(crate) const OPENED: i64 = 3;
    pub(crate) const TOPPED_UP: i64 = 4;
    pub(crate) const CLAIMED: i64 = 5;
    pub(crate) const SWEPT: i64 = 6;
    pub(crate) const CLOSE_STARTED: i64 = 7;
    pub(crate) const CLOSED: i64 = 8;
}

/// The one row of `state`.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) first: Option<u64>,
    pub(super) checked: Option<u64>,
    pub(super) verified: Option<u64>,
    pub(super) doubt: Option<String>,
}

/// A channel as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChannelRow {
    pub(super) channel: ChannelId,
    pub(super) opening: Opening,
    pub(super) block: u64,
    pub(super) facts: ChannelFacts,
    /// When a close that was started can be finished, or could be; 0 where none was started.
    pub(super) close_at: u64,
}

/// A log with its place, read and not stored yet.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) block: u64,
    pub(super) log: u64,
    pub(super) time_secs: u64,
    pub(super) transaction: B256,
    pub(super) told: Vec<Told>,
}

/// What became of a range of logs.
#[derive(Debug, PartialEq)]
pub(super) enum Appended {
    /// It is stored: so many events.
    Stored(usize),
    /// Another process was faster.
    Overtaken,
    /// It cannot follow what is stored, for this reason; nothing of it is stored.
    Contradicts(String),
}

pub(super) fn prepare(db: &mut Connection, domain: &Domain) -> Result<(), IndexError> {
    // Long enough for what another process stores at a time.
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.set_prepared_statement_cache_capacity(64);
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute(
                "INSERT INTO state (chain_id, contract) VALUES (?1, ?2)",
                params![domain.chain_id as i64, domain.contract.as_slice()],
            )?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        SCHEMA_VERSION => {}
        _ => return Err(IndexError::Damaged("written by a newer version")),
    }
    let (chain_id, contract) =
        transaction.query_row("SELECT chain_id, contract FROM state", [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?))
        })?;
    let contract = Address::try_from(contract.as_slice());
    let contract = contract.map_err(|_| IndexError::Damaged("its contract"))?;
    let owner = Domain { chain_id, contract };
    if owner != *domain {
        return Err(IndexError::OtherContract { owner });
    }
    transaction.commit()?;
    Ok(())
}

pub(super) fn state(db: &Connection) -> Result<State, IndexError> {
    let mut statement = db.prepare_cached("SELECT first, checked, verified, doubt FROM state")?;
    let number = |row: &Row<'_>, at| -> rusqlite::Result<Option<u64>> {
        Ok(row.get::<_, Option<i64>>(at)?.map(|it| it as u64))
    };
    Ok(statement.query_row([], |row| {
        Ok(State {
            first: number(row, 0)?,
            checked: number(row, 1)?,
            verified: number(row, 2)?,
            doubt: row.get(3)?,
        })
    })?)
}

/// The newest block up to which everything is stored, at or below `block`.
pub(super) fn checkpoint(db: &Connection, block: u64) -> Result<Option<Checkpoint>, IndexError> {
    let mut statement = db.prepare_cached(
        "SELECT block, hash FROM checkpoints WHERE block <= ?1 ORDER BY block DESC LIMIT 1",
    )?;
    let mut rows = statement.query([i64::try_from(block).unwrap_or(i64::MAX)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((number(row, 0)?, B256::from(fixed::<32>(row, 1)?))))
}

pub(super) fn set_first(db: &Connection, first: u64) -> Result<(), IndexError> {
    db.execute("UPDATE state SET first = ?1 WHERE first IS NULL", [first as i64])?;
    Ok(())
}

/// Everything up to `checked` that changed fits the contract's state, and with `verified`, all of
/// it up to there.
pub(super) fn set_checked(
    db: &Connection,
    checked: u64,
    verified: Option<u64>,
) -> Result<(), IndexError> {
    db.execute("UPDATE state SET checked = ?1", [checked as i64])?;
    if let Some(verified) = verified {
        db.execute("UPDATE state SET verified = ?1, doubt = NULL", [verified as i64])?;
    }
    Ok(())
}

/// Stores the events of the blocks from the one after the cursor to `to`, and moves the cursor
/// there, or does nothing.
pub(super) fn append(
    db: &mut Connection,
    from: u64,
    to: Checkpoint,
    logs: &[Placed],
) -> Result<Appended, IndexError> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let cursor = checkpoint(&transaction, u64::MAX)?.map(|(block, _)| block);
    let expected = match cursor {
        Some(cursor) => cursor + 1,
        None => state(&transaction)?.first.unwrap_or_default(),
    };
    if expected != from {
        return Ok(Appended::Overtaken);
    }
    let (mut known, mut stored) = (Known::new(), 0);
    let mut newest_transaction = None;
    for log in logs {
        if newest_transaction != Some((log.block, log.transaction)) {
            transaction
                .prepare_cached("INSERT INTO transactions VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    log.block as i64,
                    log.log as i64,
                    log.transaction.as_slice(),
                    log.time_secs as i64
                ])?;
            newest_transaction = Some((log.block, log.transaction));
        }
        for (part, told) in log.told.iter().enumerate() {
            if let Err(reason) = insert(&transaction, &mut known, log, part, told)? {
                let channel = told.event.channel().map(|id| format!(" of channel {id}"));
                return Ok(Appended::Contradicts(format!(
                    "the event \"{}\"{} in block {}: {reason}",
                    told.event.name(),
                    channel.unwrap_or_default(),
                    log.block
                )));
            }
            stored += 1;
        }
    }
    transaction
        .prepare_cached("INSERT INTO checkpoints VALUES (?1, ?2)")?
        .execute(params![to.0 as i64, to.1.as_slice()])?;
    transaction
        .prepare_cached(
            "DELETE FROM checkpoints WHERE block <=
             (SELECT block FROM checkpoints ORDER BY block DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([CHECKPOINTS_MAX])?;
    transaction.commit()?;
    Ok(Appended::Stored(stored))
}

/// Inserts one event if it follows from what is stored; in words why it does not.
fn insert(
    db: &Connection,
    known: &mut Known,
    place: &Placed,
    part: usize,
    told: &Told,
) -> Result<Result<(), &'static str>, IndexError> {
    let event = &told.event;
    let channel = match (event, event.channel()) {
        (_, None) => None,
        (Event::Opened { opening, .. }, Some(id)) => {
            if row_of(db, id)?.is_some() {
                return Ok(Err("it is opened a second time"));
            }
            db.prepare_cached(
                "INSERT INTO channels (channel, payer, payee, token, rest, block)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                id.0.as_slice(),
                opening.payer.as_slice(),
                opening.payee.as_slice(),
                opening.token.as_slice(),
                rest_of(opening),
                place.block as i64
            ])?;
            let row = db.last_insert_rowid();
            match fold(None, event) {
                Err(reason) => return Ok(Err(reason)),
                Ok(facts) => {
                    let (opening, block) = (*opening, place.block);
                    known.insert(
                        row,
                        ChannelRow { channel: id, opening, block, facts, close_at: 0 },
                    );
                }
            }
            Some(row)
        }
        (_, Some(id)) => {
            let Some(row) = row_of(db, id)? else { return Ok(Err("its opening is missing")) };
            let channel = match known.get_mut(&row) {
                Some(channel) => channel,
                None => known.entry(row).or_insert(channel_at(db, row)?),
            };
            let opening = channel.opening;
            if !told.is_of(opening.payer, opening.payee, opening.token) {
                return Ok(Err("it names other parties than the opening"));
            }
            match fold(Some(channel.facts), event) {
                Err(reason) => return Ok(Err(reason)),
                Ok(facts) => channel.facts = facts,
            }
            Some(row)
        }
    };
    let (kind, party, body) = encode(event);
    db.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
        params![
            place.block as i64,
            place.log as i64,
            part as i64,
            kind,
            channel,
            party.map(|party| party.to_vec()),
            body
        ],
    )?;
    Ok(Ok(()))
}

/// Takes everything above `block` back; with `doubt`, says why, and answers nothing until it is
/// verified again.
pub(super) fn take_back(
    db: &mut Connection,
    block: Option<u64>,
    doubt: Option<&str>,
) -> Result<(), IndexError> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Below the first block there is nothing.
    let above = block.map_or(-1, |block| i64::try_from(block).unwrap_or(i64::MAX));
    for table in ["events", "transactions", "channels", "checkpoints"] {
        transaction.execute(&format!("DELETE FROM {table} WHERE block > ?1"), [above])?;
    }
    let keep = block.map(|block| block as i64);
    transaction.execute(
        "UPDATE state SET checked = min(checked, ?1), verified = min(verified, ?1)",
        [keep],
    )?;
    if keep.is_none() {
        // Another chain may have the contract since another block.
        transaction.execute("UPDATE state SET first = NULL", [])?;
    }
    if let Some(doubt) = doubt {
        transaction.execute("UPDATE state SET doubt = ?1", [doubt])?;
    }
    transaction.commit()?;
    Ok(())
}

pub(super) fn row_of(db: &Connection, id: ChannelId) -> Result<Option<i64>, IndexError> {
    let mut statement = db.prepare_cached("SELECT row FROM channels WHERE channel = ?1")?;
    Ok(statement.query_row([id.0.as_slice()], |row| row.get(0)).optional()?)
}

/// A channel, with what its newest events make of it.
pub(super) fn channel_at(db: &Connection, row: i64) -> Result<ChannelRow, IndexError> {
    let mut statement = db.prepare_cached(
        "SELECT channel, payer, payee, token, rest, block FROM channels WHERE row = ?1",
    )?;
    let mut rows = statement.query([row])?;
    let found = rows.next()?.ok_or(IndexError::Damaged("a channel"))?;
    let channel = ChannelId(B256::from(fixed::<32>(found, 0)?));
    let opening = opening_of(found)?;
    let block = number(found, 5)?;
    let newest = |kind| newest(db, row, kind);
    let reserved = match newest(kind::TOPPED_UP)? {
        Some(body) => amount(&body, 16)?,
        None => opening.amount,
    };
    let claimed = newest(kind::CLAIMED)?.map_or(Ok(Amount::ZERO), |body| amount(&body, 0))?;
    let started = newest(kind::CLOSE_STARTED)?.map(|body| seconds(&body)).transpose()?;
    let status = match (newest(kind::CLOSED)?, started) {
        (Some(_), _) => ChannelStatus::Closed,
        (None, Some(finish_at_secs)) => ChannelStatus::Closing { finish_at_secs },
        (None, None) => ChannelStatus::Open,
    };
    let facts = ChannelFacts { reserved, claimed, status };
    Ok(ChannelRow { channel, opening, block, facts, close_at: started.unwrap_or_default() })
}

fn newest(db: &Connection, channel: i64, kind: i64) -> Result<Option<Vec<u8>>, IndexError> {
    let mut statement = db.prepare_cached(
        "SELECT body FROM events INDEXED BY events_channel
         WHERE channel IS NOT NULL AND channel = ?1 AND kind = ?2
         ORDER BY block DESC, log DESC, part DESC LIMIT 1",
    )?;
    Ok(statement.query_row([channel, kind], |row| row.get(0)).optional()?)
}

// --- rows ---

fn rest_of(opening: &Opening) -> Vec<u8> {
    let mut rest = Vec::with_capacity(92);
    rest.extend_from_slice(opening.payer_authorizer.as_slice());
    rest.extend_from_slice(opening.payee_authorizer.as_slice());
    rest.extend_from_slice(&opening.withdraw_delay_secs.to_be_bytes());
    rest.extend_from_slice(opening.salt.as_slice());
    rest.extend_from_slice(&opening.amount.get().to_be_bytes());
    rest
}

/// The opening out of `channel, payer, payee, token, rest`.
pub(super) fn opening_of(row: &Row<'_>) -> Result<Opening, IndexError> {
    let address = |at| Ok::<_, IndexError>(Address::from(fixed::<20>(row, at)?));
    let rest = fixed::<92>(row, 4)?;
    Ok(Opening {
        payer: address(1)?,
        payee: address(2)?,
        token: address(3)?,
        payer_authorizer: Address::from_slice(&rest[..20]),
        payee_authorizer: Address::from_slice(&rest[20..40]),
        withdraw_delay_secs: u32::from_be_bytes([rest[40], rest[41], rest[42], rest[43]]),
        salt: B256::from_slice(&rest[44..76]),
        amount: amount(&rest, 76)?,
    })
}

/// An event's kind, the wallet that it is kept for, and the rest of it.
fn encode(event: &Event) -> (i64, Option<Address>, Vec<u8>) {
    let units = |amount: &Amount| amount.get().to_be_bytes().to_vec();
    let money = |token: &Address, other: &[u8], amount: &U256| {
        [token.as_slice(), other, &amount.to_be_bytes::<32>()].concat()
    };
    match event {
        Event::Deposited { payer, token, from, amount } => {
            (kind::DEPOSITED, Some(*payer), money(token, from.as_slice(), amount))
        }
        Event::Withdrawn { payer, token, to, amount } => {
            (kind::WITHDRAWN, Some(*payer), money(token, to.as_slice(), amount))
        }
        Event::Swept { payee, token, amount } => {
            (kind::SWEPT, Some(*payee), money(token, &[], amount))
        }
        Event::Opened { .. } => (kind::OPENED, None, Vec::new()),
        Event::ToppedUp { amount, reserved, .. } => {
            (kind::TOPPED_UP, None, [units(amount), units(reserved)].concat())
        }
        Event::Claimed { claimed, .. } => (kind::CLAIMED, None, units(claimed)),
        Event::CloseStarted { finish_at_secs, .. } => {
            (kind::CLOSE_STARTED, None, finish_at_secs.to_be_bytes().to_vec())
        }
        Event::Closed { claimed, refunded, .. } => {
            (kind::CLOSED, None, [units(claimed), units(refunded)].concat())
        }
    }
}

/// The event again. `of` is the channel, for kinds that have one; `party` the wallet, for others.
pub(super) fn decode(
    kind: i64,
    of: Option<(ChannelId, Opening)>,
    party: Option<Address>,
    body: &[u8],
) -> Result<Event, IndexError> {
    let damaged = IndexError::Damaged("an event");
    let length = match kind {
        kind::DEPOSITED | kind::WITHDRAWN => 72,
        kind::SWEPT => 52,
        kind::OPENED => 0,
        kind::TOPPED_UP | kind::CLOSED => 32,
        kind::CLAIMED => 16,
        kind::CLOSE_STARTED => 8,
        _ => return Err(damaged),
    };
    if body.len() != length {
        return Err(damaged);
    }
    if let (Some(party), kind::DEPOSITED | kind::WITHDRAWN | kind::SWEPT) = (party, kind) {
        let token = Address::from_slice(&body[..20]);
        let amount = U256::from_be_slice(&body[length - 32..]);
        let other = || Address::from_slice(&body[20..40]);
        return Ok(match kind {
            kind::DEPOSITED => Event::Deposited { payer: party, token, from: other(), amount },
            kind::WITHDRAWN => Event::Withdrawn { payer: party, token, to: other(), amount },
            _ => Event::Swept { payee: party, token, amount },
        });
    }
    let Some((channel, opening)) = of else { return Err(damaged) };
    Ok(match kind {
        kind::OPENED => Event::Opened { channel, opening },
        kind::TOPPED_UP => {
            Event::ToppedUp { channel, amount: amount(body, 0)?, reserved: amount(body, 16)? }
        }
        kind::CLAIMED => Event::Claimed { channel, claimed: amount(body, 0)? },
        kind::CLOSE_STARTED => Event::CloseStarted { channel, finish_at_secs: seconds(body)? },
        kind::CLOSED => {
            Event::Closed { channel, claimed: amount(body, 0)?, refunded: amount(body, 16)? }
        }
        _ => return Err(damaged),
    })
}

pub(super) fn amount(body: &[u8], at: usize) -> Result<Amount, IndexError> {
    let bytes = body.get(at..at + 16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    bytes
        .and_then(|bytes| Amount::new(u128::from_be_bytes(bytes)))
        .ok_or(IndexError::Damaged("an amount"))
}

pub(super) fn seconds(body: &[u8]) -> Result<u64, IndexError> {
    <[u8; 8]>::try_from(body).map(u64::from_be_bytes).map_err(|_| IndexError::Damaged("a time"))
}

pub(super) fn number(row: &Row<'_>, column: usize) -> Result<u64, IndexError> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| IndexError::Damaged("a number"))
}

pub(super) fn fixed<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], IndexError> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
    bytes.try_into().map_err(|_| IndexError::Damaged("a column of the wrong length"))
}
