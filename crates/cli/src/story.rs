//! The story of a session's money, told from stored evidence: what was agreed, signed, stopped,
//! claimed and spent; and what is missing, with whose signature would have been needed.

use serde::Serialize;
use serde_json::{Value, json};
use sparewire_chain::Spending;
use sparewire_core::{Amount, B256, ByteCount, Signed, Timestamp, TypedData};
use sparewire_node::store::{KeptReceipt, KnownSession, Stop, Stops};
use sparewire_protocol::{
    ChannelFacts, ChannelStatus, Reading, Role, StopReason, settlement::TokenInfo,
};

use crate::{account, dates, output};

/// What there is to tell from.
pub(crate) struct Evidence<'a> {
    pub(crate) session: &'a KnownSession,
    pub(crate) receipts: &'a [KeptReceipt],
    /// What the payee had carried as its connection last broke.
    pub(crate) carried: Reading,
    pub(crate) stops: &'a Stops,
    /// All transactions of ours on the session's chain.
    pub(crate) spendings: &'a [Spending],
    /// What final state says of the channel; `None` where the chain does not tell now.
    pub(crate) facts: Option<ChannelFacts>,
}

/// A receipt, and what was found when it was checked.
#[derive(Debug, Serialize)]
struct ReceiptLine {
    sequence: u64,
    up: ByteCount,
    down: ByteCount,
    amount: Amount,
    time_ms: Timestamp,
    /// Whether the payer's signature is its authorizer's.
    payer_signed: bool,
    /// The same of the payee's; `None` where there is none.
    payee_signed: Option<bool>,
    /// Whether the amount is what the bytes cost.
    amount_right: bool,
    /// Whether it names the one before it.
    follows: bool,
}

/// A transaction that claimed some of what the session promised.
#[derive(Debug, Serialize)]
struct ClaimLine {
    transaction: B256,
    block: u64,
    signed_ms: Timestamp,
    gas_used: u64,
    #[serde(serialize_with = "account::as_text")]
    fee_wei: u128,
    /// The amounts of the channel that it covers: above the first, up to the second.
    channel_from: Amount,
    channel_to: Amount,
    /// What of it is the session's.
    amount: Amount,
    /// The session's part of the fee.
    #[serde(serialize_with = "account::as_text")]
    fee_share_wei: u128,
    paid_out: bool,
}

/// The story.
#[derive(Debug)]
pub(crate) struct Story<'a> {
    evidence: Evidence<'a>,
    receipts: Vec<ReceiptLine>,
    /// What the newest receipt of both comes to in the session, and the bytes that it is for.
    receipted: (Amount, ByteCount),
    paid: Amount,
    paid_bytes: ByteCount,
    voucher_signed: Option<bool>,
    voucher_right: Option<bool>,
    /// Counted and not paid for.
    unpaid: ByteCount,
    claims: Vec<ClaimLine>,
    claimed: Amount,
    /// The same by the chain, whoever sent the transactions.
    claimed_on_chain: Option<Amount>,
    fees_wei: u128,
    findings: Vec<String>,
}

impl std::fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("session", &self.session).finish_non_exhaustive()
    }
}

impl<'a> Story<'a> {
    /// Checks every signature and every sum.
    pub(crate) fn of(evidence: Evidence<'a>) -> Self {
        let session = evidence.session;
        let agreement = &session.agreement;
        let receipts = check_receipts(&evidence);
        let (base, top) = account::range(session);
        let newest = evidence.receipts.iter().zip(&receipts).rev();
        let receipted = newest
            .filter(|(_, line)| line.payer_signed && line.payee_signed == Some(true))
            .map(|(kept, _)| {
                let body = &kept.receipt.body;
                (body.amount.saturating_sub(base), body.reading.checked_total().unwrap_or_default())
            })
            .next()
            .unwrap_or_default();
        let paid_for = session.payment.map(|payment| payment.reading).unwrap_or_default();
        let paid_bytes = paid_for.checked_total().unwrap_or_default();
        let counted = match &session.statement {
            Some(statement) => statement.counted,
            None => evidence.carried,
        };
        let unpaid = counted.checked_total().unwrap_or_default().saturating_sub(paid_bytes);
        let domain = agreement.domain();
        let voucher_signed = session.payment.map(|payment| {
            let voucher = payment.voucher;
            voucher.body.channel == agreement.channel()
                && voucher.verify(domain, agreement.config.payer_authorizer).is_ok()
        });
        let voucher_right = session
            .payment
            .map(|paid| agreement.owed(paid.reading) == Some(paid.voucher.body.amount));

        let channel = agreement.channel();
        let mut claims = Vec::new();
        for claim in account::claims(evidence.spendings) {
            let amount = claim.of(session);
            if claim.channel != channel || amount == Amount::ZERO {
                continue;
            }
            let spending = &evidence.spendings[claim.spending];
            let whole = claim.to.saturating_sub(claim.from).get();
            let before = claim.from.max(base).saturating_sub(claim.from).get();
            let after = whole - before - amount.get();
            // The shares of what was promised before, in, and after the session.
            let fee = account::share(claim.fee_wei, &[before, amount.get(), after]);
            claims.push(ClaimLine {
                transaction: spending.transaction.hash,
                block: spending.transaction.block,
                signed_ms: Timestamp::from_ms(spending.signed_secs.saturating_mul(1_000)),
                gas_used: spending.transaction.gas_used,
                fee_wei: spending.transaction.fee_wei,
                channel_from: claim.from,
                channel_to: claim.to,
                amount,
                fee_share_wei: fee[1],
                paid_out: spending.sweeps,
            });
        }
        let sum =
            |sum: Amount, line: &ClaimLine| sum.checked_add(line.amount).unwrap_or(Amount::MAX);
        let claimed = claims.iter().fold(Amount::ZERO, sum);
        let fees_wei = claims.iter().map(|line| line.fee_share_wei).sum();
        let claimed_on_chain =
            evidence.facts.map(|facts| facts.claimed.min(top).saturating_sub(base));
        let mut story = Self {
            evidence,
            receipts,
            receipted,
            paid: top.saturating_sub(base),
            paid_bytes,
            voucher_signed,
            voucher_right,
            unpaid,
            claims,
            claimed,
            claimed_on_chain,
            fees_wei,
            findings: Vec::new(),
        };
        story.findings = story.find();
        story
    }

    fn role(&self) -> Role {
        self.evidence.session.role
    }

    /// What bytes cost in this session.
    fn worth(&self, bytes: ByteCount) -> Amount {
        self.evidence.session.agreement.terms.price.owed(bytes).unwrap_or(Amount::MAX)
    }

    /// What is false or missing, and whose signature would have been needed.
    fn find(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (payer, payee) = match self.role() {
            Role::Payer => ("your", "the provider's"),
            Role::Payee => ("the consumer's", "your"),
        };
        let receipt_faults: [(&dyn Fn(&ReceiptLine) -> bool, String); 4] = [
            (
                &|line| !line.payer_signed,
                format!(
                    "bear no valid signature of {payer} authorizer: damaged or false, and no evidence"
                ),
            ),
            (
                &|line| line.payee_signed == Some(false),
                format!(
                    "bear no valid signature of {payee} authorizer: damaged or false, and no evidence"
                ),
            ),
            (
                &|line| !line.amount_right,
                "name another amount than their bytes cost at the agreed price".into(),
            ),
            (
                &|line| !line.follows,
                "do not name the receipt before them: one between is missing or was exchanged"
                    .into(),
            ),
        ];
        for (is_so, words) in &receipt_faults {
            for run in runs(&self.receipts, is_so) {
                found.push(format!("{run} {words}"));
            }
        }
        for run in runs(&self.receipts, &|line| line.payee_signed.is_none()) {
            found.push(format!(
                "{run} signed by {} only: {payee} countersignature is missing; what is owed for it rests on the voucher",
                if self.role() == Role::Payer { "you" } else { "the consumer" },
            ));
        }
        if self.voucher_signed == Some(false) {
            found.push(format!(
                "the newest voucher bears no valid signature of {payer} authorizer: the contract would refuse it, and nothing of it can be claimed"
            ));
        }
        if self.voucher_right == Some(false) {
            found.push(
                "the newest voucher promises another amount than its bytes cost at the agreed price".into(),
            );
        }
        let (_, receipted) = self.receipted;
        let unreceipted = self.paid_bytes.saturating_sub(receipted);
        if unreceipted > ByteCount::ZERO {
            found.push(format!(
                "{} were paid for after the last receipt of both: the voucher covers them, no receipt does; {payer} and {payee} signatures under one would have been needed to say which bytes they were",
                output::bytes(unreceipted)
            ));
        }
        if self.unpaid > ByteCount::ZERO {
            let (bytes, units) = (output::bytes(self.unpaid), self.worth(self.unpaid));
            found.push(match self.role() {
                Role::Payee => format!(
                    "{bytes} were carried after the last payment: no voucher covers them, and the consumer's signature would have been needed; lost unless it comes back: {units} units"
                ),
                Role::Payer => format!(
                    "{bytes} were counted after the last payment: your signature was not given for them ({units} units)"
                ),
            });
        }
        let lost = self.evidence.session.lost;
        if lost > ByteCount::ZERO {
            found.push(format!(
                "{} were carried and written off as connections broke or the session ended: no voucher covers them, and the consumer's signature would have been needed; lost: {} units",
                output::bytes(lost),
                self.worth(lost)
            ));
        }
        let on_chain = self.claimed_on_chain.unwrap_or(self.claimed);
        if on_chain > self.claimed && self.role() == Role::Payee {
            found.push(format!(
                "{} units were claimed by transactions that are not in this journal (sent by somebody else, before a backup, or too long ago): their fees are not known here",
                on_chain.saturating_sub(self.claimed)
            ));
        }
        if self.evidence.session.statement.is_none() {
            found.push(
                "the session has not ended on both sides: there is no last receipt of it".into(),
            );
        }
        found.push("the provider's signature of the terms is not kept: the price rests on the receipts and vouchers, which both sides signed by it".into());
        found
    }

    /// For programs; amounts are in the token's smallest unit, fees in wei.
    pub(crate) fn json(&self) -> Value {
        let session = self.evidence.session;
        let agreement = &session.agreement;
        let (base, top) = account::range(session);
        json!({
            "session": agreement.session, "side": session.role, "peer": session.peer.to_string(),
            "channel": agreement.channel(), "chain_id": agreement.domain().chain_id,
            "contract": agreement.domain().contract, "channel_config": agreement.config,
            "terms": agreement.terms, "started_ms": session.started,
            "ended_ms": session.statement.as_ref().map(|statement| statement.ended),
            "promised_before": base, "promised_since": top,
            "paid": self.paid, "paid_bytes": self.paid_bytes,
            "receipted": self.receipted.0, "receipted_bytes": self.receipted.1,
            "voucher": session.payment.map(|payment| json!({
                "amount": payment.voucher.body.amount, "signature_valid": self.voucher_signed,
                "amount_right": self.voucher_right,
            })),
            "receipts": self.receipts,
            "stops": {
                "number": self.evidence.stops.number, "lasted_ms": self.evidence.stops.lasted_ms,
                "first_and_last": self.evidence.stops.kept,
            },
            "unpaid_bytes": self.unpaid, "lost_bytes": session.lost,
            "lost": self.worth(session.lost),
            "claims": self.claims, "claimed": self.claimed,
            "claimed_on_chain": self.claimed_on_chain,
            "on_chain": self.evidence.facts, "fees_wei": self.fees_wei.to_string(),
            "findings": self.findings,
        })
    }

    /// For people, top to bottom.
    pub(crate) fn lines(&self, token: &TokenInfo) -> Vec<String> {
        let money = |amount: Amount| output::amount(amount, token);
        let session = self.evidence.session;
        let agreement = &session.agreement;
        let terms = &agreement.terms;
        let (you, other) = match session.role {
            Role::Payer => ("bought from", "provider"),
            Role::Payee => ("sold to", "consumer"),
        };
        let mut lines = vec![
            format!("Session {}", agreement.session),
            format!("  You {you} {other} {}.", session.peer),
            format!(
                "  It began {}{}.",
                dates::utc(session.started),
                match &session.statement {
                    Some(statement) => format!(" and ended {}", dates::utc(statement.ended)),
                    None => ", and is open or was broken off".into(),
                }
            ),
            String::new(),
            "What was agreed".into(),
            format!(
                "  price     {}, both directions alike, rounded up to a unit once",
                output::price(terms.price, token)
            ),
            format!(
                "  credit    {} at first, {} at most, unpaid at a time",
                output::bytes(terms.credit.initial),
                output::bytes(terms.credit.maximum)
            ),
            format!("  channel   {}", agreement.channel()),
            format!(
                "            on chain {}, contract {}; {} were promised over it before",
                agreement.domain().chain_id,
                agreement.domain().contract,
                money(agreement.base)
            ),
            String::new(),
            "What was signed".into(),
        ];
        match session.payment {
            Some(payment) => {
                let voucher = match (self.voucher_signed, self.voucher_right) {
                    (Some(true), Some(true)) => "signature and amount are right",
                    (Some(true), _) => "its signature is right, its amount IS NOT",
                    _ => "its SIGNATURE IS FALSE",
                };
                lines.push(format!(
                    "  voucher   {} in all, {} of it for this session: {voucher}",
                    money(payment.voucher.body.amount),
                    money(self.paid)
                ));
                lines.push(format!(
                    "            for {} up and {} down",
                    output::bytes(payment.reading.up),
                    output::bytes(payment.reading.down)
                ));
            }
            None => lines.push("  voucher   none: nothing was paid".into()),
        }
        lines.push(format!(
            "  receipts  {}, of both for {} ({})",
            self.receipts.len(),
            output::bytes(self.receipted.1),
            money(self.receipted.0)
        ));
        for receipt in &self.receipts {
            let signed = match (receipt.payer_signed, receipt.payee_signed) {
                (true, Some(true)) => "signed by both",
                (true, None) => "signed by the payer only",
                _ => "FALSE SIGNATURE",
            };
            let wrong = if receipt.amount_right { "" } else { ", WRONG AMOUNT" };
            let torn = if receipt.follows { "" } else { ", DOES NOT FOLLOW" };
            lines.push(format!(
                "    #{:<4} {}  {} up, {} down, {} in all: {signed}{wrong}{torn}",
                receipt.sequence,
                dates::utc(receipt.time_ms),
                receipt.up,
                receipt.down,
                money(receipt.amount)
            ));
        }
        lines.extend([String::new(), "When it stood still".into()]);
        let stops = self.evidence.stops;
        if stops.number == 0 {
            lines.push("  never for longer than a payment takes".into());
        } else {
            let said =
                if stops.number == 1 { "once".into() } else { format!("{} times", stops.number) };
            lines.push(format!("  {said}, {} in all", dates::duration(stops.lasted_ms)));
            lines.extend(stops.kept.iter().map(|stop| format!("    {}", stop_line(stop))));
            if stops.number > stops.kept.len() as u64 {
                lines.push("    (the first and the last of them)".into());
            }
        }
        lines.extend([String::new(), "What became of the money".into()]);
        for claim in &self.claims {
            lines.push(format!("  claimed   {} with {}", money(claim.amount), claim.transaction));
            lines.push(format!("            in block {}, {}; {} gas and {} wei, of which {} wei for this session{}", claim.block, dates::utc(claim.signed_ms), output::grouped(claim.gas_used), claim.fee_wei, claim.fee_share_wei, if claim.paid_out { "; paid out" } else { "; not paid out by it" }));
        }
        let on_chain = self.claimed_on_chain.unwrap_or(self.claimed).max(self.claimed);
        let left = self.paid.saturating_sub(on_chain);
        match (session.role, self.evidence.facts) {
            (_, None) => {
                lines.push("  the chain does not say now what was claimed of the channel".into())
            }
            (_, Some(facts)) => {
                let state = match facts.status {
                    ChannelStatus::Open => "open",
                    ChannelStatus::Closing { .. } => "being closed by its payer",
                    ChannelStatus::Closed => "closed",
                };
                lines.push(format!(
                    "  on chain  {} of this session's {} are claimed; the channel is {state}",
                    money(on_chain),
                    money(self.paid)
                ));
            }
        }
        if session.role == Role::Payee {
            if left > Amount::ZERO {
                let lost = self.evidence.facts.is_some_and(|f| f.status == ChannelStatus::Closed);
                lines.push(if lost {
                    format!("  lost      {}: the channel was closed before the newest voucher was claimed", money(left))
                } else {
                    format!("  to claim  {}: `sparewire settle`", money(left))
                });
            }
            lines.push(format!(
                "  net       {} earned, {} of it claimed, for fees of {} wei",
                money(self.paid),
                money(on_chain),
                self.fees_wei
            ));
        } else {
            lines.push(format!("  net       {} spent", money(self.paid)));
        }
        lines.extend([String::new(), "What is missing".into()]);
        lines.extend(self.findings.iter().map(|finding| format!("  - {finding}")));
        lines
    }
}

fn stop_line(stop: &Stop) -> String {
    let lasted = match stop.lasted_ms {
        Some(ms) => dates::duration(ms),
        None => "not seen to end".into(),
    };
    let why = match stop.reason {
        StopReason::Unpaid => "the credit was used up: a voucher of the consumer was needed",
        StopReason::Silent => "the credit was used up, and nothing was heard of the consumer",
        StopReason::ChannelSpent => "the channel's money was used up: a top-up was needed",
        StopReason::ChannelLeaving => "the payer was closing the channel",
        StopReason::Unreported => "the provider had not reported what it carried up",
    };
    let waiting = match stop.waiting {
        0 => String::new(),
        waiting => format!("; up to {waiting} streams waited"),
    };
    let unpaid = output::bytes(stop.unpaid);
    format!("{}, {lasted}: {why} ({unpaid} unpaid{waiting})", dates::utc(stop.began))
}

fn check_receipts(evidence: &Evidence<'_>) -> Vec<ReceiptLine> {
    let agreement = &evidence.session.agreement;
    let (domain, channel) = (agreement.domain(), agreement.channel());
    let (payer, payee) = (agreement.config.payer_authorizer, agreement.config.payee_authorizer);
    let mut before: Option<(u64, B256)> = None;
    evidence
        .receipts
        .iter()
        .map(|kept| {
            let body = kept.receipt.body;
            let digest = body.digest(domain);
            let follows = before.is_none_or(|(sequence, hash)| {
                sequence.checked_add(1) == Some(body.sequence) && body.previous == hash
            });
            before = Some((body.sequence, digest));
            let of_channel = body.channel == channel && body.session == agreement.session;
            let by_payee = |signature| Signed { body, signature }.verify(domain, payee).is_ok();
            ReceiptLine {
                sequence: body.sequence,
                up: body.reading.up,
                down: body.reading.down,
                amount: body.amount,
                time_ms: body.time,
                payer_signed: of_channel && kept.receipt.verify(domain, payer).is_ok(),
                payee_signed: kept.payee_signature.map(by_payee),
                amount_right: agreement.owed(body.reading) == Some(body.amount),
                follows,
            }
        })
        .collect()
}

/// Which receipts are so, in runs of consecutive numbers: "receipt 5" or "receipts 5 to 7".
fn runs(receipts: &[ReceiptLine], is_so: &dyn Fn(&ReceiptLine) -> bool) -> Vec<String> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for line in receipts.iter().filter(|line| is_so(line)) {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(line.sequence) => *last = line.sequence,
            _ => runs.push((line.sequence, line.sequence)),
        }
    }
    let said = |(first, last)| match first == last {
        true => format!("receipt {first}:"),
        false => format!("receipts {first} to {last}:"),
    };
    runs.into_iter().map(said).collect()
}
