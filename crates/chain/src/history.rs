//! What past transactions did and cost, read out of the journal: evidence of claims and fees.

use alloy_sol_types::SolInterface;
use serde::{Deserialize, Serialize};
use sparewire_core::{Amount, ChannelId, Domain};
use sparewire_protocol::{
    channel::{ChannelConfig, PACKED_ENTRY_LEN, PACKED_HEAD_LEN},
    settlement::TransactionSummary,
};

use crate::{
    contracts::Channels,
    journal::{Journal, JournalError, Step, StepState},
};

/// A transaction that is over: what it was for, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// The kind of intent, as [`Intent::kind`](sparewire_protocol::settlement::Intent::kind) says.
    pub kind: String,
    /// When it was signed, in seconds since the epoch, by our clock.
    pub signed_secs: u64,
    /// Its hash, block, gas and fee.
    pub transaction: TransactionSummary,
    /// Whether it did what it was for; one that failed has its fee all the same.
    pub succeeded: bool,
    /// Whether it paid out what it claimed.
    pub sweeps: bool,
    /// The channels that it was about, in the order in which the contract took them.
    pub parts: Vec<Part>,
}

/// A transaction's part in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The channel.
    pub channel: ChannelId,
    /// Of a claim: what is claimed in all once it is done. Of an opening or a top-up: what was put
    /// in. Nothing otherwise.
    pub amount: Amount,
}

impl Journal {
    /// All transactions that are over, the oldest first, as far as the journal reaches back (10,000
    /// intents).
    ///
    /// # Errors
    /// [`JournalError`] where the file cannot be read.
    pub fn spendings(&self) -> Result<Vec<Spending>, JournalError> {
        let Some(chain_id) = self.chain_id()? else { return Ok(Vec::new()) };
        let spendings = self.past()?.into_iter().filter_map(|(kind, step, signed_secs)| {
            let transaction = step.summary.clone()?;
            let (sweeps, parts) = parts_of(&step, chain_id);
            let succeeded = step.state == StepState::Final;
            Some(Spending { kind, signed_secs, transaction, succeeded, sweeps, parts })
        });
        Ok(spendings.collect())
    }
}

/// What a call was about; nothing where it is none of the channel contract's.
fn parts_of(step: &Step, chain_id: u64) -> (bool, Vec<Part>) {
    let Some(contract) = step.call.target else { return (false, Vec::new()) };
    let domain = Domain { chain_id, contract };
    match Channels::ChannelsCalls::abi_decode(&step.call.data) {
        // One within another is none that we ever made.
        Ok(Channels::ChannelsCalls::multicall(call)) => {
            let calls = call.calls.iter().map(|data| parts_of_call(data, &domain));
            calls.fold((false, Vec::new()), |(sweeps, mut all), (also, parts)| {
                all.extend(parts);
                (sweeps || also, all)
            })
        }
        _ => parts_of_call(&step.call.data, &domain),
    }
}

fn parts_of_call(data: &[u8], domain: &Domain) -> (bool, Vec<Part>) {
    use Channels::ChannelsCalls as Calls;
    let part = |config: &Channels::ChannelConfig, amount: u128| {
        let config = config_of(config)?;
        Some(Part { channel: config.id(domain), amount: Amount::new(amount)? })
    };
    let one = |part: Option<Part>| part.into_iter().collect();
    match Channels::ChannelsCalls::abi_decode(data) {
        Ok(Calls::claimPackedAndSweep(call)) => (true, unpack(&call.data, domain)),
        Ok(Calls::claimPacked(call)) => (false, unpack(&call.data, domain)),
        Ok(Calls::claim(call)) => {
            let parts = call.claims.iter().filter_map(|claim| part(&claim.config, claim.amount));
            (false, parts.collect())
        }
        Ok(Calls::closeCooperatively(call)) => {
            (false, one(part(&call.last.config, call.last.amount)))
        }
        Ok(Calls::open(call)) => (false, one(part(&call.config, call.amount))),
        Ok(Calls::openBatch(call)) => {
            let each = call.configs.iter().zip(&call.amounts);
            (false, each.filter_map(|(config, amount)| part(config, *amount)).collect())
        }
        Ok(Calls::topUp(call)) => (false, one(part(&call.source, call.amount))),
        Ok(Calls::startClose(call)) => (false, one(part(&call.source, 0))),
        Ok(Calls::finishClose(call)) => (false, one(part(&call.source, 0))),
        Ok(Calls::sweep(_)) => (true, Vec::new()),
        _ => (false, Vec::new()),
    }
}

/// The entries of packed claims, as [`pack_claims`](sparewire_protocol::channel::pack_claims) lays
/// them out.
fn unpack(data: &[u8], domain: &Domain) -> Vec<Part> {
    let Some((head, entries)) = data.split_at_checked(PACKED_HEAD_LEN) else { return Vec::new() };
    let address = |bytes: &[u8]| sparewire_core::Address::from_slice(bytes);
    let mut delay = [0; 4];
    delay.copy_from_slice(&head[61..65]);
    let parts = entries.chunks_exact(PACKED_ENTRY_LEN).filter_map(|entry| {
        let (mut salt, mut amount) = ([0; 8], [0; 16]);
        salt.copy_from_slice(&entry[40..48]);
        amount[3..].copy_from_slice(&entry[48..61]);
        let config = ChannelConfig {
            payer: address(&entry[..20]),
            payer_authorizer: address(&entry[20..40]),
            payee: address(&head[20..40]),
            payee_authorizer: address(&head[40..60]),
            token: address(&head[..20]),
            withdraw_delay_secs: u32::from_be_bytes(delay),
            salt: u64::from_be_bytes(salt),
        };
        let amount = Amount::new(u128::from_be_bytes(amount))?;
        Some(Part { channel: config.id(domain), amount })
    });
    parts.collect()
}

/// A configuration as sessions use them; `None` for one that they cannot.
fn config_of(config: &Channels::ChannelConfig) -> Option<ChannelConfig> {
    let salt: [u8; 32] = config.salt.into();
    let (high, low) = salt.split_at(24);
    if high.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(ChannelConfig {
        payer: config.payer,
        payer_authorizer: config.payerAuthorizer,
        payee: config.payee,
        payee_authorizer: config.payeeAuthorizer,
        token: config.token,
        withdraw_delay_secs: u32::try_from(config.withdrawDelay.to::<u64>()).ok()?,
        salt: u64::from_be_bytes(low.try_into().ok()?),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use alloy_primitives::{Address, B256};
    use sparewire_core::Signature;
    use sparewire_protocol::{channel::Claim, settlement::Intent};

    use super::*;
    use crate::{carrier::calls_of, journal::Attempt};

    const CONTRACT: Address = Address::repeat_byte(9);

    fn config(salt: u64) -> ChannelConfig {
        ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: Address::repeat_byte(2),
            payee: Address::repeat_byte(3),
            payee_authorizer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            withdraw_delay_secs: 86_400,
            salt,
        }
    }

    fn part(salt: u64, amount: u128) -> Part {
        let domain = Domain { chain_id: 7, contract: CONTRACT };
        Part { channel: config(salt).id(&domain), amount: Amount::new(amount).unwrap() }
    }

    fn units(amount: u128) -> Amount {
        Amount::new(amount).unwrap()
    }

    #[test]
    fn what_transactions_did_is_read_back_from_their_calls() {
        let mut bytes = [1; 65];
        bytes[64] = 27;
        let claim = |salt, amount| Claim {
            config: config(salt),
            amount: units(amount),
            signature: Signature::from_bytes(bytes).unwrap(),
        };
        let claims = vec![claim(1, 500), claim(u64::MAX, Amount::MAX.get())];
        let signature = Signature::from_bytes(bytes).unwrap();
        let cases = [
            (Intent::Claim { claims }, true, vec![part(1, 500), part(u64::MAX, Amount::MAX.get())]),
            (Intent::Open { channels: vec![(config(2), units(10))] }, false, vec![part(2, 10)]),
            (
                Intent::Open { channels: vec![(config(2), units(10)), (config(3), units(20))] },
                false,
                vec![part(2, 10), part(3, 20)],
            ),
            (Intent::TopUp { config: config(2), amount: units(5) }, false, vec![part(2, 5)]),
            (
                Intent::CloseCooperatively { claim: claim(1, 9), payee_signature: signature },
                false,
                vec![part(1, 9)],
            ),
            (
                Intent::Move {
                    closes: vec![(claim(1, 9), signature), (claim(2, 0), signature)],
                    opens: vec![(config(3), units(20)), (config(4), units(30))],
                },
                false,
                vec![part(1, 9), part(2, 0), part(3, 20), part(4, 30)],
            ),
            (Intent::StartClose { config: config(1) }, false, vec![part(1, 0)]),
            (Intent::Sweep { payee: CONTRACT, token: CONTRACT }, true, Vec::new()),
            (Intent::Deposit { token: CONTRACT, amount: units(1) }, false, Vec::new()),
        ];
        let journal = Journal::in_memory().unwrap();
        assert_eq!(journal.spendings().unwrap(), []);
        journal.claim(Address::ZERO, 7).unwrap();
        let mut expected = Vec::new();
        for (index, (intent, sweeps, parts)) in cases.into_iter().enumerate() {
            let index = index as u8;
            let calls = calls_of(CONTRACT, Address::ZERO, &intent);
            let kind = intent.kind();
            let planned = journal.plan(kind, B256::repeat_byte(index), &calls, false, 5).unwrap();
            let step = journal.steps(planned).unwrap()[0].id;
            let attempt = Attempt {
                hash: B256::repeat_byte(index),
                nonce: index.into(),
                raw: [index].to_vec().into(),
                gas: 1,
                max_fee: 1,
                tip: None,
                signed_secs: 100 + u64::from(index),
            };
            journal.sign(step, &attempt).unwrap();
            assert_eq!(journal.spendings().unwrap(), expected, "it is not over");
            let hash = attempt.hash;
            let transaction = TransactionSummary { hash, block: 3, gas_used: 4, fee_wei: 5 };
            let succeeded = !index.is_multiple_of(2);
            match succeeded {
                true => journal.finish_step(step, &transaction).unwrap(),
                false => {
                    journal.spend(step, &transaction).unwrap();
                    journal.fail(planned, Some(step), "why").unwrap();
                }
            }
            let signed_secs = attempt.signed_secs;
            let kind = kind.to_owned();
            expected.push(Spending { kind, signed_secs, transaction, succeeded, sweeps, parts });
            assert_eq!(journal.spendings().unwrap(), expected);
        }
    }

    #[test]
    fn rubbish_in_a_call_is_no_part_of_anything() {
        let domain = Domain { chain_id: 7, contract: CONTRACT };
        for length in [0, 1, PACKED_HEAD_LEN, PACKED_HEAD_LEN + PACKED_ENTRY_LEN - 1] {
            assert_eq!(unpack(&vec![0xff; length], &domain), []);
        }
        // An amount that no channel can hold.
        assert_eq!(unpack(&[0xff; PACKED_HEAD_LEN + PACKED_ENTRY_LEN], &domain).len(), 1);
    }

    #[test]
    fn a_journal_from_a_backup_sends_nothing_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, copy) = (directory.path().join("journal"), directory.path().join("copy"));
        let journal = Journal::open(&path).unwrap();
        journal.claim(Address::ZERO, 7).unwrap();
        let intent = Intent::TopUp { config: config(1), amount: units(5) };
        let calls = calls_of(CONTRACT, Address::ZERO, &intent);
        let planned = journal.plan(intent.kind(), B256::ZERO, &calls, false, 5).unwrap();
        journal.snapshot(&copy).unwrap();
        assert!(journal.snapshot(&copy).is_err(), "nothing is overwritten");

        let restored = Journal::open(&copy).unwrap();
        assert_eq!(restored.open_intent(B256::ZERO).unwrap(), Some(planned));
        assert_eq!(restored.abandon_open().unwrap(), 1);
        assert_eq!(restored.open_intent(B256::ZERO).unwrap(), None);
        assert_eq!(restored.unfinished().unwrap(), 0);
        assert!(restored.failure(planned).unwrap().unwrap().contains("backup"));
        assert_eq!(journal.open_intent(B256::ZERO).unwrap(), Some(planned));
    }
}
