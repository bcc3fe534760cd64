//! What the index answers. All of it is of final blocks, and nothing is told while it is in doubt.

use alloy_primitives::{Address, B256};
use rusqlite::{Connection, params};
use serde::Serialize;
use sparewire_core::{Amount, ChannelId};
use sparewire_protocol::channel::ChannelFacts;

use super::{
    Index, IndexError,
    event::{Event, Opening},
    store::{self, channel_at, decode, fixed, kind, number, row_of, seconds},
};

/// Which events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this channel only.
    pub channel: Option<ChannelId>,
    /// From this block on.
    pub since: u64,
    /// And behind this event: where an earlier answer ended.
    pub after: Option<Position>,
}

/// Where an event is: block, log in the block, entry in the log. Positions order events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The block.
    pub block: u64,
    /// The log's index in the block.
    pub log: u64,
    /// Which entry of a packed claim; 0 for all other events.
    pub part: u64,
}

/// An event and where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventRecord {
    /// Where it is.
    #[serde(flatten)]
    pub position: Position,
    /// The block's time in seconds since the epoch.
    pub time_secs: u64,
    /// The transaction.
    pub transaction: B256,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A channel and what its events add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IndexedChannel {
    /// Its id.
    pub id: ChannelId,
    /// Who opened it for whom.
    pub opening: Opening,
    /// The block that opened it.
    pub block: u64,
    /// What it holds, and where it stands.
    pub facts: ChannelFacts,
}

/// A close that was started and is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IndexedClose {
    /// The channel.
    pub channel: ChannelId,
    /// Who leaves.
    pub payer: Address,
    /// Who has to claim before.
    pub payee: Address,
    /// Block time in seconds from which anybody can finish it.
    pub finish_at_secs: u64,
}

/// A credit to a channel's payee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimRecord {
    /// What this one credited.
    pub credited: Amount,
    /// What was ever claimed in the channel, this included.
    pub claimed: Amount,
    /// The transaction. It may have claimed for other channels too.
    pub transaction: B256,
    /// Its block.
    pub block: u64,
    /// The block's time in seconds since the epoch.
    pub time_secs: u64,
}

impl Index {
    /// Events in their order, at most `limit` of them.
    ///
    /// # Errors
    /// [`IndexError::InDoubt`], or where the file cannot be read.
    pub fn events(
        &self,
        filter: &EventFilter,
        limit: usize,
    ) -> Result<Vec<EventRecord>, IndexError> {
        self.ask(|db| {
            let channel = match filter.channel {
                None => None,
                Some(id) => match row_of(db, id)? {
                    Some(row) => Some(row),
                    None => return Ok(Vec::new()),
                },
            };
            records(db, channel, filter, limit)
        })
    }

    /// All events of a channel, in their order.
    pub(super) fn events_of(&self, channel: ChannelId) -> Result<Vec<EventRecord>, IndexError> {
        self.events(&EventFilter { channel: Some(channel), ..EventFilter::default() }, usize::MAX)
    }

    /// All channels that were ever opened for `payee`, oldest first.
    ///
    /// # Errors
    /// As [`Index::events`].
    pub fn channels_to(&self, payee: Address) -> Result<Vec<IndexedChannel>, IndexError> {
        self.ask(|db| {
            let mut statement =
                db.prepare_cached("SELECT row FROM channels WHERE payee = ?1 ORDER BY row")?;
            let rows: Vec<i64> = statement
                .query_map([payee.as_slice()], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            rows.into_iter().map(|row| Ok(indexed(channel_at(db, row)?))).collect()
        })
    }

    /// Closes that were started and are not finished, of channels to `payee` or of all.
    ///
    /// # Errors
    /// As [`Index::events`].
    pub fn closes(&self, payee: Option<Address>) -> Result<Vec<IndexedClose>, IndexError> {
        self.ask(|db| {
            let mut statement = db.prepare_cached(
                "SELECT channels.channel, payer, payee, body FROM channels
                 CROSS JOIN events ON events.channel = channels.row AND kind = ?1
                 WHERE (?2 IS NULL OR payee = ?2) AND NOT EXISTS (
                     SELECT 1 FROM events AS ends
                     WHERE ends.channel = channels.row AND ends.kind = ?3)
                 ORDER BY channels.row",
            )?;
            let payee = payee.map(|payee| payee.to_vec());
            let mut rows = statement.query(params![kind::CLOSE_STARTED, payee, kind::CLOSED])?;
            let mut closes = Vec::new();
            while let Some(row) = rows.next()? {
                closes.push(IndexedClose {
                    channel: ChannelId(B256::from(fixed::<32>(row, 0)?)),
                    payer: Address::from(fixed::<20>(row, 1)?),
                    payee: Address::from(fixed::<20>(row, 2)?),
                    finish_at_secs: seconds(&row.get::<_, Vec<u8>>(3)?)?,
                });
            }
            Ok(closes)
        })
    }

    /// Every credit to a channel's payee, oldest first: plain and packed claims, and the last one of
    /// a cooperative close.
    ///
    /// # Errors
    /// As [`Index::events`].
    pub fn claims(&self, channel: ChannelId) -> Result<Vec<ClaimRecord>, IndexError> {
        let mut before = Amount::ZERO;
        let claims = self.events_of(channel)?.into_iter().filter_map(|record| {
            let Event::Claimed { claimed, .. } = record.event else { return None };
            let credited = claimed.saturating_sub(before);
            before = claimed;
            Some(ClaimRecord {
                credited,
                claimed,
                transaction: record.transaction,
                block: record.position.block,
                time_secs: record.time_secs,
            })
        });
        Ok(claims.collect())
    }

    /// How many events there are.
    ///
    /// # Errors
    /// As [`Index::events`].
    pub fn count(&self) -> Result<u64, IndexError> {
        self.ask(|db| {
            let count: i64 = db.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
            Ok(count as u64)
        })
    }

    /// Answers from one moment of the file, unless it is in doubt.
    fn ask<T>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.with(|db| {
            let moment = db.transaction()?;
            if let Some(reason) = store::state(&moment)?.doubt {
                return Err(IndexError::InDoubt { reason });
            }
            question(&moment)
        })
    }
}

fn indexed(row: store::ChannelRow) -> IndexedChannel {
    IndexedChannel { id: row.channel, opening: row.opening, block: row.block, facts: row.facts }
}

fn records(
    db: &Connection,
    channel: Option<i64>,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<EventRecord>, IndexError> {
    let narrow = match channel {
        Some(_) => "events INDEXED BY events_channel WHERE events.channel = ?1 AND",
        None => "events WHERE ?1 IS NULL AND",
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT block, log, part, kind, channel, party, body FROM {narrow}
         (block, log, part) > (?2, ?3, ?4) ORDER BY block, log, part LIMIT ?5"
    ))?;
    // Behind every event of the block before `since`, or behind the one that is named.
    let since = (filter.since.saturating_sub(1), u64::MAX, u64::MAX);
    let after = filter.after.map_or((0, 0, 0), |at| (at.block, at.log, at.part));
    let from =
        if filter.since == 0 && filter.after.is_none() { None } else { Some(since.max(after)) };
    let place = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (block, log, part) =
        from.map_or((-1, 0, 0), |(block, log, part)| (place(block), place(log), place(part)));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![channel, block, log, part, limit])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let position =
            Position { block: number(row, 0)?, log: number(row, 1)?, part: number(row, 2)? };
        let (kind, of): (i64, Option<i64>) = (row.get(3)?, row.get(4)?);
        let of = of.map(|of| opening_at(db, of)).transpose()?;
        let party = match row.get_ref(5)? {
            rusqlite::types::ValueRef::Null => None,
            _ => Some(Address::from(fixed::<20>(row, 5)?)),
        };
        let event = decode(kind, of, party, &row.get::<_, Vec<u8>>(6)?)?;
        let (transaction, time_secs) = transaction_of(db, &position)?;
        records.push(EventRecord { position, time_secs, transaction, event });
    }
    Ok(records)
}

fn opening_at(db: &Connection, row: i64) -> Result<(ChannelId, Opening), IndexError> {
    let mut statement = db
        .prepare_cached("SELECT channel, payer, payee, token, rest FROM channels WHERE row = ?1")?;
    let mut rows = statement.query([row])?;
    let found = rows.next()?.ok_or(IndexError::Damaged("a channel"))?;
    Ok((ChannelId(B256::from(fixed::<32>(found, 0)?)), store::opening_of(found)?))
}

/// The transaction whose first log is the last one at or before the event's.
fn transaction_of(db: &Connection, at: &Position) -> Result<(B256, u64), IndexError> {
    let mut statement = db.prepare_cached(
        "SELECT hash, time_secs FROM transactions WHERE block = ?1 AND log <= ?2
         ORDER BY log DESC LIMIT 1",
    )?;
    let mut rows = statement.query([at.block as i64, at.log as i64])?;
    let row = rows.next()?.ok_or(IndexError::Damaged("a transaction"))?;
    Ok((B256::from(fixed::<32>(row, 0)?), number(row, 1)?))
}
