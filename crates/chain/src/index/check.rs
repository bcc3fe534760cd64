//! What events add up to, against the contract's state at the same block.
//!
//! At each look: every channel that changed since the last one, its payer's deposit, and the next
//! part of a round over all channels, which finds what was left out about those of which nothing
//! was told. A whole check compares everything at one block, swept money too. An account that the
//! index never heard of is not found; its money is in none of the answers either.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use alloy_primitives::{Address, U256};
use rusqlite::{Connection, Row, params};
use sparewire_core::ChannelId;
use sparewire_protocol::{
    channel::{ChannelFacts, ChannelStatus},
    settlement::Chain,
};

use super::{
    Index, IndexError,
    store::{self, ChannelRow, channel_at, fixed, kind},
};
use crate::carrier::{EvmChain, many::Holding};

/// Channels of a round that are looked at each time: 8 requests.
const PART: usize = 8 * 192;
/// Channels and accounts that are in memory at a time.
const PAGE: usize = 4_096;

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Channels.
    pub channels: usize,
    /// Deposits, and what payees have to get.
    pub accounts: usize,
    /// The block up to which everything is known to fit by now.
    pub verified: Option<u64>,
}

/// A wallet and a token.
type Account = (Address, Address);

/// Something that was compared at another block than the index is at now.
struct Moved;

impl EvmChain {
    /// Compares what the events add up to with the contract's state: what changed since the last
    /// check and a part of the rest, or with `all` everything. An index in doubt is always compared
    /// as a whole, and out of doubt when it fits.
    ///
    /// # Errors
    /// [`IndexError::InDoubt`] where it does not fit: what is not verified is taken back.
    /// [`IndexError::Chain`] where state cannot be read: nothing changes then.
    pub async fn check_index(&self, index: &Index, all: bool) -> Result<Checked, IndexError> {
        let final_number = self.head().await?.final_number;
        self.check_index_at(index, all, final_number).await
    }

    /// The same for who has just asked which block is final.
    pub(super) async fn check_index_at(
        &self,
        index: &Index,
        all: bool,
        final_number: u64,
    ) -> Result<Checked, IndexError> {
        self.assert_of(index);
        let cursor = index.work(|db| store::checkpoint(db, u64::MAX)).await?;
        let state = index.work(|db| store::state(db)).await?;
        let mut checked = Checked { verified: state.verified, ..Checked::default() };
        let Some((block, _)) = cursor else { return Ok(checked) };
        if block > final_number {
            return Ok(checked);
        }
        let all = all || state.doubt.is_some();
        let moved = match all {
            true => self.check_all(index, block, &mut checked).await?,
            false => {
                self.check_some(index, block, state.checked, state.verified, &mut checked).await?
            }
        };
        let _: Option<Moved> = moved;
        Ok(checked)
    }

    async fn check_all(
        &self,
        index: &Index,
        block: u64,
        checked: &mut Checked,
    ) -> Result<Option<Moved>, IndexError> {
        let mut after = 0;
        loop {
            let rows = index.work(move |db| rows_after(db, after, None, PAGE)).await?;
            let Some(last) = rows.last() else { break };
            after = *last;
            if let Some(moved) = self.check_channels(index, block, rows, checked).await? {
                return Ok(Some(moved));
            }
        }
        for what in [Holding::Deposit, Holding::Claimable] {
            let mut after = None;
            loop {
                let accounts = index.work(move |db| accounts_after(db, what, after, PAGE)).await?;
                let Some(last) = accounts.last() else { break };
                after = Some(*last);
                let moved = self.check_accounts(index, block, what, accounts, checked).await?;
                if moved.is_some() {
                    return Ok(moved);
                }
            }
        }
        index.forget_round();
        index.work(move |db| store::set_checked(db, block, Some(block))).await?;
        checked.verified = Some(block);
        Ok(None)
    }

    async fn check_some(
        &self,
        index: &Index,
        block: u64,
        since: Option<u64>,
        verified: Option<u64>,
        checked: &mut Checked,
    ) -> Result<Option<Moved>, IndexError> {
        // What was never checked is the round's business.
        let mut rows = match since {
            Some(since) => index.work(move |db| touched(db, since)).await?,
            None => Vec::new(),
        };
        let round = &index.inner.round;
        if round.began.load(Ordering::Relaxed) == 0 {
            round.began.store(block, Ordering::Relaxed);
        }
        let after = round.after.load(Ordering::Relaxed);
        let part = index.work(move |db| rows_after(db, after, verified, PART)).await?;
        let last = part.last().copied();
        rows.extend(part);
        let payers = {
            let rows = rows.clone();
            let since = since.unwrap_or(u64::MAX);
            index.work(move |db| payers_of(db, &rows, since)).await?
        };
        for rows in rows.chunks(PAGE) {
            let moved = self.check_channels(index, block, rows.to_vec(), checked).await?;
            if moved.is_some() {
                return Ok(moved);
            }
        }
        let moved = self.check_accounts(index, block, Holding::Deposit, payers, checked).await?;
        if moved.is_some() {
            return Ok(moved);
        }
        let verified = match last {
            Some(last) => {
                round.after.store(last, Ordering::Relaxed);
                None
            }
            // The round is over: each channel fitted at the block where it began, or later.
            None => {
                let began = round.began.load(Ordering::Relaxed);
                index.forget_round();
                Some(began)
            }
        };
        checked.verified = verified.or(checked.verified);
        index.work(move |db| store::set_checked(db, block, verified)).await?;
        Ok(None)
    }

    async fn check_channels(
        &self,
        index: &Index,
        block: u64,
        rows: Vec<i64>,
        checked: &mut Checked,
    ) -> Result<Option<Moved>, IndexError> {
        let known = index
            .work(move |db| {
                at_block(db, block, |db| {
                    rows.iter().map(|row| channel_at(db, *row)).collect::<Result<Vec<_>, _>>()
                })
            })
            .await?;
        let Some(known) = known else { return Ok(Some(Moved)) };
        let ids: Vec<ChannelId> = known.iter().map(|channel| channel.channel).collect();
        let told = self.channels_at(&ids, block).await?;
        for (ChannelRow { channel: id, facts, close_at, .. }, (told, told_at)) in
            known.iter().zip(told)
        {
            if (told, told_at) != (Some(*facts), *close_at) {
                let is = told.map_or("was never opened".to_owned(), |it| in_words(&it, told_at));
                let says = in_words(facts, *close_at);
                return Err(self.differs(index, block, &format!("channel {id}"), &says, &is).await);
            }
        }
        checked.channels += known.len();
        Ok(None)
    }

    async fn check_accounts(
        &self,
        index: &Index,
        block: u64,
        what: Holding,
        accounts: Vec<Account>,
        checked: &mut Checked,
    ) -> Result<Option<Moved>, IndexError> {
        for accounts in accounts.chunks(PAGE) {
            let asked = accounts.to_vec();
            let sums = index.work(move |db| {
                at_block(db, block, |db| {
                    asked.iter().map(|account| holding(db, what, account)).collect()
                })
            });
            let Some(sums): Option<Vec<U256>> = sums.await? else { return Ok(Some(Moved)) };
            let told = self.holdings_at(what, accounts, block).await?;
            for ((account, sum), told) in accounts.iter().zip(sums).zip(told) {
                if sum != told {
                    let (owner, token) = account;
                    let whose = match what {
                        Holding::Deposit => "deposit",
                        Holding::Claimable => "unpaid earnings",
                    };
                    let what = format!("the {whose} of {owner} in token {token}");
                    let (says, is) = (format!("is {sum}"), format!("is {told}"));
                    return Err(self.differs(index, block, &what, &says, &is).await);
                }
            }
            checked.accounts += accounts.len();
        }
        Ok(None)
    }

    async fn differs(
        &self,
        index: &Index,
        block: u64,
        what: &str,
        says: &str,
        is: &str,
    ) -> IndexError {
        index
            .doubt(format!(
                "at block {block} {what} {says} by its events and {is} by its state; logs told by \
                 {} are missing or made up",
                self.endpoint()
            ))
            .await
    }
}

/// Asks for what belongs to one block; nothing where the index is at another one by now.
fn at_block<T>(
    db: &mut Connection,
    block: u64,
    question: impl FnOnce(&Connection) -> Result<T, IndexError>,
) -> Result<Option<T>, IndexError> {
    let moment = db.transaction()?;
    match store::checkpoint(&moment, u64::MAX)? {
        Some((at, _)) if at == block => question(&moment).map(Some),
        _ => Ok(None),
    }
}

/// Channels in the order in which they were opened; with `verified`, without those that were closed
/// by that block: nothing can happen in them any more.
fn rows_after(
    db: &mut Connection,
    after: i64,
    verified: Option<u64>,
    limit: usize,
) -> Result<Vec<i64>, IndexError> {
    let mut statement = db.prepare_cached(
        "SELECT row FROM channels WHERE row > ?1 AND NOT EXISTS (
             SELECT 1 FROM events WHERE channel = row AND kind = ?2 AND block <= ?3)
         ORDER BY row LIMIT ?4",
    )?;
    let verified = verified.map_or(-1, |block| block as i64);
    let rows = statement
        .query_map(params![after, kind::CLOSED, verified, limit as i64], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Channels that something happened in after a block.
fn touched(db: &mut Connection, since: u64) -> Result<Vec<i64>, IndexError> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT channel FROM events WHERE block > ?1 AND channel IS NOT NULL
         ORDER BY channel",
    )?;
    let rows = statement.query_map([since as i64], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The payers of channels, and whoever deposited or withdrew after a block.
fn payers_of(db: &mut Connection, rows: &[i64], since: u64) -> Result<Vec<Account>, IndexError> {
    let moment = db.transaction()?;
    let account = |row: &Row<'_>| -> Result<Account, IndexError> {
        Ok((Address::from(fixed::<20>(row, 0)?), Address::from(fixed::<20>(row, 1)?)))
    };
    let mut accounts = BTreeSet::new();
    let mut statement =
        moment.prepare_cached("SELECT payer, token FROM channels WHERE row = ?1")?;
    for row in rows {
        let mut found = statement.query([row])?;
        accounts.insert(account(found.next()?.ok_or(IndexError::Damaged("a channel"))?)?);
    }
    let mut statement = moment.prepare_cached(
        "SELECT party, substr(body, 1, 20) FROM events WHERE block > ?1 AND kind IN (?2, ?3)",
    )?;
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let mut found = statement.query(params![since, kind::DEPOSITED, kind::WITHDRAWN])?;
    while let Some(row) = found.next()? {
        accounts.insert(account(row)?);
    }
    Ok(accounts.into_iter().collect())
}

/// Accounts behind one, in order.
fn accounts_after(
    db: &mut Connection,
    what: Holding,
    after: Option<Account>,
    limit: usize,
) -> Result<Vec<Account>, IndexError> {
    let (side, first, second) = match what {
        Holding::Deposit => ("payer", kind::DEPOSITED, kind::WITHDRAWN),
        Holding::Claimable => ("payee", kind::SWEPT, kind::SWEPT),
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT owner, token FROM (
             SELECT {side} AS owner, token FROM channels
             UNION SELECT party, substr(body, 1, 20) FROM events
             WHERE party IS NOT NULL AND kind IN (?1, ?2))
         WHERE (owner, token) > (?3, ?4) ORDER BY owner, token LIMIT ?5"
    ))?;
    let (owner, token) =
        after.map_or((Vec::new(), Vec::new()), |(owner, token)| (owner.to_vec(), token.to_vec()));
    let mut rows = statement.query(params![first, second, owner, token, limit as i64])?;
    let mut accounts = Vec::new();
    while let Some(row) = rows.next()? {
        accounts.push((Address::from(fixed::<20>(row, 0)?), Address::from(fixed::<20>(row, 1)?)));
    }
    Ok(accounts)
}

/// What an account holds by its events. A deposit is what came in, less what went out and what is in
/// channels or was paid from them; earnings are what was claimed, less what was swept. The
/// contract's sums do not overflow, and neither do ours: both are exact modulo 2^256.
fn holding(db: &Connection, what: Holding, (owner, token): &Account) -> Result<U256, IndexError> {
    let side = match what {
        Holding::Deposit => "payer",
        Holding::Claimable => "payee",
    };
    let mut sum = U256::ZERO;
    let mut statement =
        db.prepare_cached(&format!("SELECT row FROM channels WHERE {side} = ?1 AND token = ?2"))?;
    let mut rows = statement.query([owner.as_slice(), token.as_slice()])?;
    while let Some(row) = rows.next()? {
        let facts = channel_at(db, row.get(0)?)?.facts;
        let claimed = U256::from(facts.claimed.get());
        sum = match (what, facts.status) {
            (Holding::Claimable, _) => sum.wrapping_add(claimed),
            (Holding::Deposit, ChannelStatus::Closed) => sum.wrapping_sub(claimed),
            (Holding::Deposit, _) => sum.wrapping_sub(U256::from(facts.reserved.get())),
        };
    }
    let mut statement = db.prepare_cached(
        "SELECT kind, body FROM events WHERE party = ?1 AND substr(body, 1, 20) = ?2",
    )?;
    let mut rows = statement.query([owner.as_slice(), token.as_slice()])?;
    while let Some(row) = rows.next()? {
        let (kind, body): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let units = body.get(body.len().saturating_sub(32)..).unwrap_or_default();
        let units = U256::from_be_slice(units);
        sum = match (what, kind) {
            (Holding::Deposit, kind::DEPOSITED) => sum.wrapping_add(units),
            (Holding::Deposit, kind::WITHDRAWN) | (Holding::Claimable, kind::SWEPT) => {
                sum.wrapping_sub(units)
            }
            _ => sum,
        };
    }
    Ok(sum)
}

fn in_words(facts: &ChannelFacts, close_at: u64) -> String {
    let status = match (facts.status, close_at) {
        (ChannelStatus::Open, _) => "open".to_owned(),
        (ChannelStatus::Closing { .. }, at) => format!("closing at {at}"),
        (ChannelStatus::Closed, 0) => "closed by agreement".to_owned(),
        (ChannelStatus::Closed, at) => format!("closed, its close started for {at}"),
    };
    format!("holds {}, of it {} claimed, {status}", facts.reserved.get(), facts.claimed.get())
}
