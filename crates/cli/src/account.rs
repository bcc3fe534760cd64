//! What was earned, spent and claimed, from the store's sessions and the journal's transactions:
//! pure arithmetic, in which nothing is lost between one grouping and another.
//!
//! Two rules decide to whom something belongs:
//!
//! - **Claims.** A claim of a channel covers amounts `(from, to]`: `from` is what our claims before it
//!   had come to. A session's amounts are `(base, base + paid]`. What both have in common is the
//!   session's.
//! - **Fees.** A transaction's fee is shared over its channels, and a channel's part over its sessions,
//!   in proportion to what it newly claimed there. Shares are rounded down cumulatively: the first
//!   `n` of them add up to the fee's part for the first `n` amounts, rounded down, all of them to the fee.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use sparewire_chain::Spending;
use sparewire_core::{Amount, ChannelId, SessionId, Timestamp, U256};
use sparewire_node::store::{KeptReceipt, KnownSession};
use sparewire_protocol::Role;

use crate::dates::Day;

/// Figures that can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sums {
    /// Bytes that were paid for.
    pub(crate) bytes: u64,
    /// What both sides signed receipts for, in the token's smallest unit.
    pub(crate) receipted: Amount,
    /// What vouchers promise; receipts are part of it.
    pub(crate) promised: Amount,
    /// What our own transactions claimed (provider).
    pub(crate) claimed: Amount,
    /// What of it was paid out to the payee, finally.
    pub(crate) settled: Amount,
    /// Fees, in wei of the chain's native currency.
    #[serde(serialize_with = "as_text")]
    pub(crate) fees_wei: u128,
}

/// Numbers that JSON readers would round.
pub(crate) fn as_text<S: Serializer>(wei: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(wei)
}

impl Sums {
    pub(crate) fn add(&mut self, more: &Self) {
        // A hundred bits of tokens that exist: no sum of real figures comes near the bound.
        let sum = |a: Amount, b: Amount| a.checked_add(b).unwrap_or(Amount::MAX);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.receipted = sum(self.receipted, more.receipted);
        self.promised = sum(self.promised, more.promised);
        self.claimed = sum(self.claimed, more.claimed);
        self.settled = sum(self.settled, more.settled);
        self.fees_wei = self.fees_wei.saturating_add(more.fees_wei);
    }
}

/// Figures of one day and side, of a channel and session where they belong to one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) day: Day,
    pub(crate) side: Role,
    pub(crate) channel: Option<ChannelId>,
    pub(crate) session: Option<SessionId>,
    pub(crate) sums: Sums,
}

/// What one transaction claimed of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Index of the transaction.
    pub(crate) spending: usize,
    pub(crate) channel: ChannelId,
    /// What had been claimed before it.
    pub(crate) from: Amount,
    /// What has been since.
    pub(crate) to: Amount,
    /// The channel's part of the fee.
    pub(crate) fee_wei: u128,
}

impl Claimed {
    fn amount(&self) -> Amount {
        self.to.saturating_sub(self.from)
    }

    /// How much of it was promised in a session.
    pub(crate) fn of(&self, session: &KnownSession) -> Amount {
        let (base, top) = range(session);
        self.to.min(top).saturating_sub(self.from.max(base))
    }
}

/// What was promised before a session, and since.
pub(crate) fn range(session: &KnownSession) -> (Amount, Amount) {
    let base = session.agreement.base;
    let top = session.payment.map_or(base, |payment| payment.voucher.body.amount);
    (base, top.max(base))
}

/// What a session paid.
pub(crate) fn paid(session: &KnownSession) -> Amount {
    let (base, top) = range(session);
    top.saturating_sub(base)
}

/// Shares `total` in proportion to the weights; the last one gets what has no weight at all.
pub(crate) fn share(total: u128, weights: &[u128]) -> Vec<u128> {
    let all = weights.iter().fold(U256::ZERO, |sum, weight| sum + U256::from(*weight));
    let (mut seen, mut given) = (U256::ZERO, 0);
    let last = weights.len().saturating_sub(1);
    let shares: Vec<u128> = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| {
            seen += U256::from(*weight);
            // At most `total`, as `seen` is at most `all`.
            let until = match index {
                _ if index == last => total,
                _ if all.is_zero() => 0,
                _ => (U256::from(total) * seen / all).to::<u128>(),
            };
            let share = until - given;
            given = until;
            share
        })
        .collect();
    assert_eq!(shares.iter().sum::<u128>(), if weights.is_empty() { 0 } else { total });
    shares
}

/// What each successful claim of ours claimed, in the order of the transactions.
pub(crate) fn claims(spendings: &[Spending]) -> Vec<Claimed> {
    let mut reached: BTreeMap<ChannelId, Amount> = BTreeMap::new();
    let mut claims = Vec::new();
    for (spending, done) in spendings.iter().enumerate().filter(|(_, s)| is_claim(s)) {
        let mut parts = Vec::new();
        for part in &done.parts {
            let from = reached.get(&part.channel).copied().unwrap_or_default();
            let to = part.amount.max(from);
            reached.insert(part.channel, to);
            parts.push(Claimed { spending, channel: part.channel, from, to, fee_wei: 0 });
        }
        let weights: Vec<u128> = parts.iter().map(|part| part.amount().get()).collect();
        let fees = share(done.transaction.fee_wei, &weights);
        for (part, fee_wei) in parts.iter_mut().zip(fees) {
            part.fee_wei = fee_wei;
        }
        claims.append(&mut parts);
    }
    claims
}

fn is_claim(spending: &Spending) -> bool {
    spending.succeeded && spending.kind == "claim" && !spending.parts.is_empty()
}

/// A session and its receipts.
pub(crate) type Told = (KnownSession, Vec<KeptReceipt>);

/// All entries of these sessions and transactions. `now` is where a session stands that has not
/// ended.
pub(crate) fn entries(sessions: &[Told], spendings: &[Spending], now: Timestamp) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (session, receipts) in sessions {
        earned(session, receipts, now, &mut entries);
    }
    let of_channel = |channel: ChannelId| {
        let sessions = sessions.iter().map(|(session, _)| session);
        sessions.filter(move |s| s.role == Role::Payee && s.agreement.channel() == channel)
    };
    let claims = claims(spendings);
    let mut credited = Vec::new(); // claimed, and not paid out yet
    for (index, spending) in spendings.iter().enumerate() {
        let day = Day::of_secs(spending.signed_secs);
        let fee = spending.transaction.fee_wei;
        let side = match spending.kind.as_str() {
            "claim" | "sweep" => Role::Payee,
            _ => Role::Payer,
        };
        if is_claim(spending) {
            for claim in claims.iter().filter(|claim| claim.spending == index) {
                let mut left = claim.amount();
                let mut parts = Vec::new();
                for session in of_channel(claim.channel) {
                    let amount = claim.of(session).min(left);
                    left = left.saturating_sub(amount);
                    parts.push((Some(session.agreement.session), amount));
                }
                parts.push((None, left)); // of sessions that nobody remembers
                let weights: Vec<u128> = parts.iter().map(|(_, amount)| amount.get()).collect();
                let fees = share(claim.fee_wei, &weights);
                for ((session, claimed), fees_wei) in parts.into_iter().zip(fees) {
                    let sums = Sums { claimed, fees_wei, ..Sums::default() };
                    let channel = Some(claim.channel);
                    if sums != Sums::default() {
                        credited.push(Entry { day, side, channel, session, sums });
                        entries.push(Entry { day, side, channel, session, sums });
                    }
                }
            }
        } else {
            let weights: Vec<u128> = spending.parts.iter().map(|part| part.amount.get()).collect();
            let mut fees: Vec<_> = share(fee, &weights)
                .into_iter()
                .zip(&spending.parts)
                .map(|(fee, part)| (Some(part.channel), fee))
                .collect();
            if fees.is_empty() {
                fees.push((None, fee));
            }
            for (channel, fees_wei) in fees {
                let sums = Sums { fees_wei, ..Sums::default() };
                entries.push(Entry { day, side, channel, session: None, sums });
            }
        }
        if spending.succeeded && spending.sweeps {
            entries.extend(credited.drain(..).map(|entry: Entry| {
                let sums = Sums { settled: entry.sums.claimed, ..Sums::default() };
                Entry { day, sums, ..entry }
            }));
        }
    }
    entries
}

/// What a session earned: each receipt on its day, and on the last one what is promised beyond.
fn earned(session: &KnownSession, receipts: &[KeptReceipt], now: Timestamp, to: &mut Vec<Entry>) {
    let side = session.role;
    let (channel, id) = (Some(session.agreement.channel()), Some(session.agreement.session));
    let end = session.statement.as_ref().map_or(now, |statement| statement.ended);
    let (base, top) = range(session);
    let total = session.payment.and_then(|payment| payment.reading.checked_total());
    let total = total.unwrap_or_default().get();
    let (mut amount, mut bytes, mut day) = (base, 0, Day::of(session.started));
    for kept in receipts.iter().filter(|kept| kept.payee_signature.is_some()) {
        let receipt = &kept.receipt.body;
        // Its time is by the payer's clock, and may be anything.
        let time = receipt.time.max(session.started).min(end.max(session.started));
        day = day.max(Day::of(time));
        let reached = receipt.amount.min(top).max(amount);
        let carried = receipt.reading.checked_total().unwrap_or_default().get();
        let carried = carried.min(total).max(bytes);
        let more = reached.saturating_sub(amount);
        let sums =
            Sums { bytes: carried - bytes, receipted: more, promised: more, ..Sums::default() };
        to.push(Entry { day, side, channel, session: id, sums });
        (amount, bytes) = (reached, carried);
    }
    if session.statement.is_some() {
        day = day.max(Day::of(end));
    }
    let promised = top.saturating_sub(amount);
    let sums = Sums { bytes: total - bytes, promised, ..Sums::default() };
    to.push(Entry { day, side, channel, session: id, sums });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{B256, ByteCount, NodeId};
    use sparewire_protocol::Receipt;

    use super::*;
    use crate::cast::{self, PAYEE, PAYER, down, signed, units};

    const DAY_MS: u64 = 86_400_000;

    /// A session of a unit for each byte, with receipts at these totals, one a day.
    fn session(role: Role, id: u8, salt: u64, base: u128, paid: u64, receipts: &[u64]) -> Told {
        let agreement = cast::agreement(id, salt, base);
        let kept = receipts.iter().enumerate().map(|(index, bytes)| {
            let body = Receipt {
                channel: agreement.channel(),
                session: agreement.session,
                sequence: index as u64 + 1,
                reading: down(*bytes),
                amount: units(base + u128::from(*bytes)),
                previous: B256::ZERO,
                time: Timestamp::from_ms((index as u64 + 1) * DAY_MS),
            };
            let payee_signature = Some(signed(body, PAYEE).signature);
            KeptReceipt { receipt: signed(body, PAYER), payee_signature }
        });
        let kept = kept.collect();
        let known = KnownSession {
            role,
            peer: NodeId(B256::repeat_byte(8)),
            started: Timestamp::from_ms(DAY_MS),
            payment: (paid > 0).then(|| cast::payment(&agreement, paid)),
            agreement,
            receipts: receipts.len() as u64,
            lost: ByteCount::ZERO,
            statement: None,
        };
        (known, kept)
    }

    fn spending(kind: &str, day: u64, fee_wei: u128, parts: &[(u64, u128)]) -> Spending {
        cast::spending(kind, day * DAY_MS / 1_000, fee_wei, parts)
    }

    fn total(entries: &[Entry], of: impl Fn(&Entry) -> bool) -> Sums {
        let mut sums = Sums::default();
        entries.iter().filter(|entry| of(entry)).for_each(|entry| sums.add(&entry.sums));
        sums
    }

    #[test]
    fn shares_add_up_to_the_whole_and_are_in_proportion() {
        assert_eq!(share(10, &[1, 1, 1]), [3, 3, 4]);
        assert_eq!(share(7, &[0, 0]), [0, 7]);
        assert_eq!(share(7, &[]), []);
        let most = Amount::MAX.get();
        assert_eq!(share(u128::MAX, &[most, 0, most]), [u128::MAX / 2, 0, u128::MAX / 2 + 1]);
    }

    #[test]
    fn nothing_is_lost_between_one_grouping_and_another() {
        let sessions = [
            session(Role::Payee, 1, 1, 0, 100, &[40, 90]),
            session(Role::Payee, 2, 1, 100, 50, &[]),
            session(Role::Payee, 3, 2, 0, 7, &[7]),
            session(Role::Payer, 4, 3, 0, 20, &[20]),
        ];
        let mut failed = spending("claim", 3, 5, &[(1, 150)]);
        failed.succeeded = false;
        let spendings = [
            spending("open", 1, 11, &[(3, 1_000)]),
            spending("claim", 2, 100, &[(1, 60)]),
            failed,
            // More than our sessions know of: of one that is forgotten.
            spending("claim", 4, 1_000, &[(1, 160), (2, 7)]),
            spending("deposit", 4, 13, &[]),
        ];
        let entries = entries(&sessions, &spendings, Timestamp::from_ms(9 * DAY_MS));
        let all = |side| total(&entries, |entry| entry.side == side);
        let provider = all(Role::Payee);
        assert_eq!(provider.bytes, 157);
        assert_eq!((provider.promised, provider.receipted), (units(157), units(97)));
        assert_eq!((provider.claimed, provider.settled), (units(167), units(167)));
        assert_eq!(provider.fees_wei, 1_105);
        let consumer = all(Role::Payer);
        assert_eq!((consumer.promised, consumer.claimed), (units(20), Amount::ZERO));
        assert_eq!(consumer.fees_wei, 24);

        let of = |id: u8| {
            let id = SessionId(B256::repeat_byte(id));
            total(&entries, |entry| entry.session == Some(id))
        };
        // (0, 60] and (60, 100] are the first session's, (100, 150] the second's.
        assert_eq!(
            (of(1).claimed, of(2).claimed, of(3).claimed),
            (units(100), units(50), units(7))
        );
        // 1,000 wei for 107 units newly claimed, of which 40, 50, 10 (forgotten) and 7.
        assert_eq!((of(1).fees_wei, of(2).fees_wei), (100 + 373, 467));
        assert_eq!(of(3).fees_wei, 1_000 - 100_000 / 107);
        let unknown = total(&entries, |entry| entry.session.is_none() && entry.side == Role::Payee);
        assert_eq!((unknown.claimed, unknown.promised), (units(10), Amount::ZERO));
        assert_eq!(of(1).fees_wei + of(2).fees_wei + of(3).fees_wei + unknown.fees_wei, 1_105);

        // Receipts count on their days, the rest on the last.
        let day = |day: u64| total(&entries, |entry| entry.day == Day::of_secs(day * 86_400));
        assert_eq!(day(1).receipted, units(40 + 7 + 20));
        assert_eq!(day(2).receipted, units(50));
        assert_eq!(day(2).claimed, units(60));
        let days = (0..10).map(day).fold(Sums::default(), |mut sum, day| {
            sum.add(&day);
            sum
        });
        assert_eq!(days, total(&entries, |_| true));
    }

    #[test]
    fn what_is_claimed_without_being_paid_out_is_settled_by_the_next_sweep() {
        let sessions = [session(Role::Payee, 1, 1, 0, 100, &[])];
        let mut unswept = spending("claim", 2, 0, &[(1, 60)]);
        unswept.sweeps = false;
        let now = Timestamp::from_ms(9 * DAY_MS);
        let before = entries(&sessions, std::slice::from_ref(&unswept), now);
        let sums = total(&before, |_| true);
        assert_eq!((sums.claimed, sums.settled), (units(60), Amount::ZERO));
        let mut sweep = spending("sweep", 5, 3, &[]);
        sweep.sweeps = true;
        let after = entries(&sessions, &[unswept, sweep], now);
        let swept = total(&after, |entry| entry.day == Day::of_secs(5 * 86_400));
        assert_eq!((swept.settled, swept.fees_wei), (units(60), 3));
    }
}
