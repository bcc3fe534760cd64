//! What a request asks a key to sign, told in words of ours: the asker's own prove nothing.

use sparewire_core::TypedData;
use sparewire_protocol::{Delegation, Receipt, Revocation, Voucher, channel::CooperativeClose};
use sparewire_wallet::{Contract, Field, OfflineRequest, Payload};

use crate::{dates::Day, output};

/// Longest description that is shown, in characters: it must not push the rest off the screen.
const DESCRIPTION_LEN_MAX: usize = 200;

/// What is shown of a request before it is signed.
pub(crate) struct Told {
    /// Line by line: the asker's words first, then what the signature covers.
    pub(crate) lines: Vec<String>,
    /// Whether it is known what the signature does.
    pub(crate) known: bool,
}

/// Tells what signing a request would do.
pub(crate) fn told(request: &OfflineRequest) -> Told {
    let words = output::tame(request.description());
    let mut said: String = words.chars().take(DESCRIPTION_LEN_MAX).collect();
    if said.len() < words.len() {
        said.push('…');
    }
    let mut lines = vec![format!("the asker says: \"{said}\"; what is signed is this:")];
    let effect = effect(request.payload());
    lines.push(match (effect, request.payload()) {
        (Some(effect), _) => effect.to_owned(),
        (None, Payload::Digest { .. }) => {
            "a bare DIGEST of nobody knows what; it can be a transaction that takes all that the \
             wallet holds"
                .to_owned()
        }
        (None, Payload::Transaction { .. }) => {
            "an Ethereum TRANSACTION, not decoded; it can take all that the wallet holds".to_owned()
        }
        (None, Payload::Eip712 { encode_type, .. }) => {
            let name = encode_type.split('(').next().unwrap_or_default();
            format!("{}: UNKNOWN here, nobody can tell what it does", output::tame(name))
        }
    });
    lines.push(format!("  by      {}", request.signer()));
    if let Payload::Eip712 { of, domain, .. } = request.payload() {
        let contract = match of {
            Contract::Channels => "the channel contract",
            Contract::Keys => "the registry of keys",
        };
        lines.push(format!(
            "  for     {contract} at {} on chain {}",
            domain.contract, domain.chain_id
        ));
    }
    lines.extend(request.fields().iter().map(line));
    Told { lines, known: effect.is_some() }
}

/// What a signature does that is one of ours, by the exact type and the contract that takes it.
fn effect(payload: &Payload) -> Option<&'static str> {
    let Payload::Eip712 { of, encode_type, .. } = payload else { return None };
    let known = [
        (
            Contract::Channels,
            Delegation::TYPE,
            "Delegation: LETS the device and the authorizer ACT FOR the wallet until the expiry",
        ),
        (
            Contract::Keys,
            Revocation::TYPE,
            "Revocation: REVOKES FOR GOOD the device and the authorizer, whoever brings it to the \
             registry until the deadline; they never act for the wallet again",
        ),
        (
            Contract::Channels,
            Voucher::TYPE,
            "Voucher: PROMISES the channel's payee the amount in all; whoever has it can claim it",
        ),
        (
            Contract::Channels,
            CooperativeClose::TYPE,
            "Cooperative close: AGREES TO END the channel with no more than the amount paid to its \
             payee",
        ),
        (
            Contract::Channels,
            Receipt::TYPE,
            "Receipt: ACKNOWLEDGES what a session carried and what is owed; a second one with this \
             number can cost a bond",
        ),
    ];
    known
        .into_iter()
        .find(|(contract, name, _)| contract == of && name == encode_type)
        .map(|(_, _, effect)| effect)
}

/// A field, with a date where it is a time, and what its number counts.
fn line(field: &Field) -> String {
    let Field { name, kind, value } = field;
    let more = match (name.as_str(), value.parse::<u64>()) {
        ("expiry" | "deadline", Ok(secs)) => format!(" ({})", Day::of_secs(secs)),
        ("amount", _) => " (smallest units of the token)".to_owned(),
        _ => String::new(),
    };
    format!("  {} ({}): {value}{more}", output::tame(name), output::tame(kind))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{Address, B256, Domain, U256};

    use super::*;

    const DOMAIN: Domain = Domain { chain_id: 100, contract: Address::repeat_byte(0xcc) };

    fn asked(of: Contract, encode_type: &str, words: Vec<B256>) -> Told {
        let payload =
            Payload::Eip712 { of, domain: DOMAIN, encode_type: encode_type.into(), words };
        let request = OfflineRequest::new(payload, Address::repeat_byte(1), "let node X be paid");
        told(&request.unwrap())
    }

    fn keys(until_secs: u64) -> Vec<B256> {
        vec![
            Address::repeat_byte(1).into_word(),
            B256::repeat_byte(2),
            Address::repeat_byte(3).into_word(),
            B256::from(U256::from(until_secs)),
        ]
    }

    #[test]
    fn what_lets_keys_act_and_what_revokes_them_for_good_cannot_be_taken_for_each_other() {
        let delegation = asked(Contract::Channels, Delegation::TYPE, keys(1_795_273_200));
        let revocation = asked(Contract::Keys, Revocation::TYPE, keys(1_795_273_200));
        assert!(delegation.known && revocation.known);
        let expected = [
            "the asker says: \"let node X be paid\"; what is signed is this:".to_owned(),
            "Delegation: LETS the device and the authorizer ACT FOR the wallet until the expiry"
                .to_owned(),
            format!("  by      {}", Address::repeat_byte(1)),
            format!("  for     the channel contract at {} on chain 100", DOMAIN.contract),
            format!("  wallet (address): {}", Address::repeat_byte(1)),
            format!("  device (bytes32): {}", B256::repeat_byte(2)),
            format!("  authorizer (address): {}", Address::repeat_byte(3)),
            "  expiry (uint64): 1795273200 (2026-11-21)".to_owned(),
        ];
        assert_eq!(delegation.lines, expected);
        let revocation = revocation.lines.join("\n");
        assert!(revocation.contains("REVOKES FOR GOOD"), "{revocation}");
        assert!(revocation.contains("the registry of keys at"), "{revocation}");
        assert!(revocation.contains("deadline (uint256): 1795273200 (2026-11-21)"), "{revocation}");
    }

    #[test]
    fn a_promise_and_a_close_over_the_same_fields_are_told_apart() {
        let words = || vec![B256::repeat_byte(7), B256::from(U256::from(60))];
        let voucher = asked(Contract::Channels, Voucher::TYPE, words());
        let close = asked(Contract::Channels, CooperativeClose::TYPE, words());
        assert!(voucher.known && voucher.lines[1].contains("PROMISES"), "{:?}", voucher.lines);
        assert!(close.known && close.lines[1].contains("AGREES TO END"), "{:?}", close.lines);
    }

    #[test]
    fn what_is_none_of_ours_is_not_known() {
        let cap = "CapChange(address wallet,bytes32 key,address token,uint104 cap)";
        let words = || keys(5);
        for (of, encode_type) in [
            (Contract::Keys, cap),
            // Right words, and another contract or another spelling: not what it looks like.
            (Contract::Keys, Delegation::TYPE),
            (Contract::Channels, Revocation::TYPE),
            (
                Contract::Channels,
                "Delegation(address wallet,bytes32 device,address key,uint64 end)",
            ),
        ] {
            let told = asked(of, encode_type, words());
            assert!(!told.known && told.lines[1].contains("UNKNOWN"), "{:?}", told.lines);
        }
        for (payload, word) in [
            (Payload::Digest { digest: B256::ZERO }, "DIGEST"),
            (Payload::Transaction { unsigned: vec![0x02, 0xc0].into() }, "TRANSACTION"),
        ] {
            let long = format!("let node X be paid\n{}", "x".repeat(10_000));
            let told = told(&OfflineRequest::new(payload, Address::repeat_byte(1), long).unwrap());
            assert!(!told.known && told.lines[1].contains(word), "{:?}", told.lines);
            assert!(told.lines[0].len() < 300 && !told.lines[0].contains('\n'));
        }
    }
}
