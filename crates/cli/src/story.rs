//! The story of a session's money, told from stored evidence: what was agreed, signed, stopped,
//! claimed and spent; and what is missing, with whose signature would have been needed.

mod text;

use serde::Serialize;
use serde_json::{Value, json};
use sparewire_chain::Spending;
use sparewire_core::{Amount, B256, ByteCount, Signed, Timestamp, TypedData};
use sparewire_node::store::{KeptReceipt, KnownSession, Stops};
use sparewire_protocol::{
    Agreement, ChannelFacts, Delegation, Offer, Reading, Role, stake::Contradiction,
};

use crate::{account, output};

/// What there is to tell from.
pub(crate) struct Evidence<'a> {
    pub(crate) session: &'a KnownSession,
    /// The terms as the provider signed them; `None` where that is not kept.
    pub(crate) offer: Option<Offer>,
    /// By which the payee contradicted itself.
    pub(crate) contradictions: &'a [Contradiction],
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

/// What is asked of a receipt.
type Check<'a> = &'a dyn Fn(&ReceiptLine) -> bool;

/// The story.
#[derive(Debug)]
pub(crate) struct Story<'a> {
    evidence: Evidence<'a>,
    receipts: Vec<ReceiptLine>,
    /// What the newest receipt of both comes to in the session, and the bytes that it is for.
    receipted: (Amount, ByteCount),
    paid: Amount,
    paid_bytes: ByteCount,
    /// What of their price is not in that: the provider owed it to the consumer for the other
    /// direction.
    set_off: Amount,
    /// Whether the provider's device signed the terms, by the word of the wallet that is paid.
    terms_signed: Option<bool>,
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
        let set_off = session
            .payment
            .and_then(|paid| agreement.set_off(paid.reading, paid.voucher.body.amount))
            .unwrap_or(Amount::ZERO);
        let unpaid = counted.checked_total().unwrap_or_default().saturating_sub(paid_bytes);
        let domain = agreement.domain();
        let terms_signed = evidence.offer.map(|offer| is_signed(&offer, agreement));
        let voucher_signed = session.payment.map(|payment| {
            let voucher = payment.voucher;
            voucher.body.channel == agreement.channel()
                && voucher.verify(domain, agreement.config.payer_authorizer).is_ok()
        });
        let voucher_right = session
            .payment
            .map(|paid| agreement.set_off(paid.reading, paid.voucher.body.amount).is_some());

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
            set_off,
            terms_signed,
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
        let receipt_faults: [(Check<'_>, String); 4] = [
            (
                &|line| !line.payer_signed,
                format!(
                    "no valid signature of {payer} authorizer: damaged or false, and no evidence"
                ),
            ),
            (
                &|line| line.payee_signed == Some(false),
                format!(
                    "no valid signature of {payee} authorizer: damaged or false, and no evidence"
                ),
            ),
            (
                &|line| !line.amount_right,
                "another amount than the bytes cost at the agreed price".into(),
            ),
            (
                &|line| !line.follows,
                "the receipt before is not the one that it names: one is missing or was exchanged"
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
        if self.set_off > Amount::ZERO {
            found.push(format!(
                "{} units of the price were not promised but set off against what the provider bought of the consumer over the same connection: the receipts of that session are short of as much",
                self.set_off
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
        for contradiction in self.evidence.contradictions {
            found.push(format!(
                "receipt {}: the provider signed another one with this number too; `sparewire stake report` shows the contract both, which takes a penalty from its bond",
                contradiction.receipts()[0].body.sequence
            ));
        }
        match self.terms_signed {
            Some(true) => {}
            Some(false) => found.push("the terms bear no valid signature of the provider's device, or it did not speak for the wallet that is paid: damaged or false, and no evidence of the price".into()),
            None => found.push("the provider's signature of the terms is not kept, as in sessions that began under an older release: the price rests on the receipts and vouchers, which both sides signed by it".into()),
        }
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
            "terms": agreement.terms, "terms_signed": self.terms_signed,
            "terms_signature": self.evidence.offer.map(|offer| json!({
                "device": offer.terms.provider, "delegation": offer.delegation.body,
                "signature": hex(&offer.signature.0),
                "delegation_signature": hex(&offer.delegation.signature.to_bytes()),
            })),
            "started_ms": session.started,
            "ended_ms": session.statement.as_ref().map(|statement| statement.ended),
            "promised_before": base, "promised_since": top,
            "paid": self.paid, "paid_bytes": self.paid_bytes, "set_off": self.set_off,
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
            "contradictions": self.evidence.contradictions.iter().map(|contradiction| json!({
                "sequence": contradiction.receipts()[0].body.sequence,
                "evidence": contradiction.evidence(),
            })).collect::<Vec<_>>(),
            "findings": self.findings,
        })
    }
}

/// Whether an offer is of these very terms, and signed by who may speak for the payee.
fn is_signed(offer: &Offer, agreement: &Agreement) -> bool {
    let terms = &agreement.terms;
    let delegation = offer.delegation;
    let speaker = Delegation {
        wallet: terms.payee,
        device: terms.provider,
        authorizer: terms.payee_authorizer,
        expiry_secs: delegation.body.expiry_secs,
    };
    offer.terms == *terms
        && offer.signature.verify(terms.provider, terms).is_ok()
        && delegation.body == speaker
        && delegation.verify(&terms.domain, terms.payee).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".into(), |text, byte| format!("{text}{byte:02x}"))
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
                amount_right: agreement.set_off(body.reading, body.amount).is_some(),
                follows,
            }
        })
        .collect()
}

/// Which receipts are so, in runs of consecutive numbers: "receipt 5" or "receipts 5 to 7".
fn runs(receipts: &[ReceiptLine], is_so: Check<'_>) -> Vec<String> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{Address, NodeId};
    use sparewire_node::store::Stop;
    use sparewire_protocol::{
        ChannelStatus, Countersigned, Receipt, StopReason, settlement::TokenInfo,
    };

    use super::*;
    use crate::cast::{self, DOMAIN, PAYEE, PAYER, down, signed, units};

    const BASE: u128 = 1_000;

    /// What a side keeps of a session of a unit for each byte: receipts at 100, 200 and 300 bytes,
    /// and 300 bytes paid for.
    struct Kept {
        session: KnownSession,
        offer: Option<Offer>,
        contradictions: Vec<Contradiction>,
        receipts: Vec<KeptReceipt>,
        carried: Reading,
        stops: Stops,
        spendings: Vec<Spending>,
        facts: Option<ChannelFacts>,
    }

    fn kept(role: Role) -> Kept {
        let agreement = cast::agreement(4, 7, BASE);
        let offer = Some(cast::offer(&agreement));
        let (channel, session) = (agreement.channel(), agreement.session);
        let mut previous = B256::ZERO;
        let receipts = (1..=3_u64).map(|sequence| {
            let body = Receipt {
                channel,
                session,
                sequence,
                reading: down(100 * sequence),
                amount: units(BASE + 100 * u128::from(sequence)),
                previous,
                time: Timestamp::from_ms(sequence),
            };
            previous = body.digest(&DOMAIN);
            KeptReceipt {
                receipt: signed(body, PAYER),
                payee_signature: Some(signed(body, PAYEE).signature),
            }
        });
        let receipts = receipts.collect();
        let session = KnownSession {
            role,
            peer: NodeId(B256::repeat_byte(8)),
            payment: Some(cast::payment(&agreement, 300)),
            agreement,
            started: Timestamp::from_ms(3),
            receipts: 3,
            lost: ByteCount::ZERO,
            statement: None,
        };
        let (contradictions, spendings, facts) = (Vec::new(), Vec::new(), None);
        let (carried, stops) = (down(300), Stops::default());
        Kept { session, offer, contradictions, receipts, carried, stops, spendings, facts }
    }

    impl Kept {
        fn told<T>(&self, ask: impl FnOnce(&Story<'_>) -> T) -> T {
            let Self { session, contradictions, receipts, stops, spendings, .. } = self;
            let (offer, carried, facts) = (self.offer, self.carried, self.facts);
            ask(&Story::of(Evidence {
                session,
                offer,
                contradictions,
                receipts,
                carried,
                stops,
                spendings,
                facts,
            }))
        }

        /// The findings beside that of every session that has not ended.
        fn found(&self) -> Vec<String> {
            let mut findings = self.told(|story| story.findings.clone());
            let open = findings.iter().position(|found| found.contains("has not ended"));
            findings.remove(open.expect("it has not ended"));
            findings
        }

        fn text(&self) -> String {
            let token = TokenInfo { address: Address::ZERO, symbol: "T".into(), decimals: 0 };
            self.told(|story| story.lines(&token)).join("\n")
        }
    }

    #[test]
    fn a_provider_that_signed_two_receipts_with_one_number_is_told_of_and_how_it_is_reported() {
        let mut kept = kept(Role::Payer);
        let ours = kept.receipts[1];
        let other = Receipt { amount: units(1), ..ours.receipt.body };
        let both = |receipt: Signed<Receipt>| Countersigned {
            receipt,
            payee_signature: signed(receipt.body, PAYEE).signature,
        };
        // The payer never signed the other one.
        let shown = Signed { body: other, signature: ours.receipt.signature };
        let delegation = kept.offer.unwrap().delegation;
        let config = kept.session.agreement.config;
        let receipts = [both(ours.receipt), both(shown)];
        let found = Contradiction::new(&DOMAIN, delegation, config, receipts).unwrap();
        kept.contradictions = vec![found];
        let findings = kept.found();
        assert!(findings[0].starts_with("receipt 2: the provider signed another"), "{findings:?}");
        let json = kept.told(|story| story.json());
        assert_eq!(json["contradictions"][0]["sequence"], 2);
    }

    #[test]
    fn a_story_in_which_nothing_is_missing_says_so_to_both_sides() {
        for role in [Role::Payer, Role::Payee] {
            let kept = kept(role);
            assert_eq!(kept.found(), [""; 0]);
            let text = kept.text();
            assert!(!text.contains("FALSE") && !text.contains("WRONG"), "{text}");
            assert!(text.contains("of both for 300 B (300 T)"), "{text}");
            assert!(text.contains("terms     signed by device"), "{text}");
            let json = kept.told(|story| story.json());
            assert_eq!((&json["paid"], &json["receipted"]), (&"300".into(), &"300".into()));
        }
    }

    #[test]
    fn whose_signature_is_missing_and_what_is_false_is_named() {
        type Break = fn(&mut Kept);
        let cases: [(Role, Break, &[&str]); 12] = [
            (
                Role::Payer,
                |kept| kept.receipts[1..].iter_mut().for_each(|kept| kept.payee_signature = None),
                &[
                    "receipts 2 to 3: signed by you only: the provider's countersignature is missing",
                    "200 B were paid for after the last receipt",
                ],
            ),
            (
                Role::Payee,
                |kept| kept.receipts[2].receipt.signature = kept.receipts[1].receipt.signature,
                &[
                    "receipt 3: no valid signature of the consumer's authorizer",
                    "100 B were paid for after",
                ],
            ),
            (
                Role::Payee,
                |kept| kept.receipts[0].payee_signature = Some(kept.receipts[0].receipt.signature),
                &["receipt 1: no valid signature of your authorizer"],
            ),
            (
                Role::Payee,
                |kept| {
                    let mut body = kept.receipts[2].receipt.body;
                    body.amount = units(BASE + 301);
                    kept.receipts[2] = KeptReceipt {
                        receipt: signed(body, PAYER),
                        payee_signature: Some(signed(body, PAYEE).signature),
                    };
                },
                &["receipt 3: another amount than the bytes cost"],
            ),
            (
                Role::Payee,
                |kept| {
                    kept.receipts.remove(1);
                },
                &["receipt 3: the receipt before is not the one"],
            ),
            (
                Role::Payee,
                |kept| {
                    let payment = kept.session.payment.as_mut().unwrap();
                    payment.voucher = signed(payment.voucher.body, PAYEE);
                },
                &["the newest voucher bears no valid signature of the consumer's authorizer"],
            ),
            (
                Role::Payee,
                |kept| kept.session.payment.as_mut().unwrap().reading = down(299),
                &["promises another amount than its bytes cost", "1 B were carried after"],
            ),
            (
                Role::Payee,
                |kept| kept.carried = down(365),
                &[
                    "65 B were carried after the last payment: no voucher covers them, and the consumer's signature would have been needed; lost unless it comes back: 65 units",
                ],
            ),
            (
                Role::Payee,
                |kept| kept.session.lost = ByteCount::new(12),
                &["12 B were carried and written off", "lost: 12 units"],
            ),
            (
                Role::Payer,
                |kept| kept.offer = None,
                &["the provider's signature of the terms is not kept"],
            ),
            (
                Role::Payer,
                |kept| kept.offer.as_mut().unwrap().signature.0[5] ^= 1,
                &["the terms bear no valid signature of the provider's device"],
            ),
            (
                Role::Payer,
                |kept| kept.offer.as_mut().unwrap().delegation.body.expiry_secs += 1,
                &["or it did not speak for the wallet that is paid"],
            ),
        ];
        for (role, damage, expected) in cases {
            let mut kept = kept(role);
            damage(&mut kept);
            let found = kept.found();
            for words in expected {
                assert!(found.iter().any(|found| found.contains(words)), "{words}: {found:#?}");
            }
            assert!(found.len() <= expected.len().max(1), "{found:#?}");
        }
    }

    #[test]
    fn claims_and_their_fees_are_told_as_far_as_they_are_the_sessions() {
        let mut kept = kept(Role::Payee);
        let claim = |amount, fee_wei| cast::spending("claim", 7, fee_wei, &[(7, amount)]);
        // Half of the first is of what was promised before; the second goes on beyond the session.
        kept.spendings = vec![claim(BASE, 50), claim(BASE + 100, 60), claim(BASE + 400, 300)];
        let status = ChannelStatus::Open;
        let reserved = units(9_000);
        kept.facts = Some(ChannelFacts { reserved, claimed: units(BASE + 400), status });
        assert_eq!(kept.found(), [""; 0]);
        kept.told(|story| {
            let amounts: Vec<u128> = story.claims.iter().map(|line| line.amount.get()).collect();
            assert_eq!(amounts, [100, 200]);
            assert_eq!(story.fees_wei, 60 + 200);
            assert_eq!((story.claimed, story.claimed_on_chain), (units(300), Some(units(300))));
        });
        // Somebody else claimed some of it.
        kept.spendings.pop();
        assert!(kept.found()[0].contains("200 units were claimed by transactions that are not"));
        // And some of it came too late.
        let status = ChannelStatus::Closed;
        kept.facts = Some(ChannelFacts { reserved, claimed: units(BASE + 100), status });
        assert!(kept.text().contains("lost      200 T: the channel was closed before"));
        kept.facts = None;
        assert!(kept.text().contains("to claim  200 T"), "{}", kept.text());
    }

    #[test]
    fn stops_are_told_with_their_reason() {
        let mut kept = kept(Role::Payee);
        let stop = Stop {
            began: Timestamp::from_ms(1_795_278_003_000),
            lasted_ms: Some(2_500),
            reason: StopReason::Silent,
            waiting: 3,
            unpaid: ByteCount::new(131_072),
        };
        kept.stops = Stops { number: 9, lasted_ms: 60_000, kept: vec![stop] };
        let text = kept.text();
        for words in [
            "9 times, 60 s in all",
            "2026-11-21 16:20:03 UTC, 2 s: the credit was used up, and nothing was heard of the consumer",
            "up to 3 streams waited",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
