//! The story for people, top to bottom.

use sparewire_core::Amount;
use sparewire_node::store::Stop;
use sparewire_protocol::{ChannelStatus, Role, StopReason, settlement::TokenInfo};

use super::Story;
use crate::{dates, output};

impl Story<'_> {
    /// One string for each line.
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
            match (self.terms_signed, self.evidence.offer) {
                (Some(true), Some(offer)) => format!(
                    "  terms     signed by device {}, which speaks for the payee until {}",
                    terms.provider,
                    dates::Day::of_secs(offer.delegation.body.expiry_secs)
                ),
                (None, _) | (_, None) => "  terms     no signature of them is kept".into(),
                _ => "  terms     their SIGNATURE IS FALSE".into(),
            },
            format!("  paid to   {}", agreement.config.payee),
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
