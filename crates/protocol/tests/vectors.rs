//! `vectors/channels.json`, made by viem, against what Rust makes of the same messages.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // vectors are files

use serde_json::Value;
use sparewire_core::{
    Address, Amount, B256, ByteCount, ChannelId, Domain, NodeId, SessionId, Signature, Signed,
    Signer, Timestamp, TypedData, Verified,
};
use sparewire_protocol::{
    ChannelConfig, Claim, Delegation, Reading, Receipt, Voucher,
    channel::{CooperativeClose, pack_claims},
};
use sparewire_wallet::LocalKey;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/channels.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'a>(vectors: &'a Value, key: &str) -> &'a Vec<Value> {
    let list = vectors[key].as_array().unwrap();
    assert!(!list.is_empty(), "{key}");
    list
}

fn read<T: std::str::FromStr>(entry: &Value, key: &str) -> T {
    let text = entry[key].as_str().unwrap_or_else(|| panic!("{key} of {entry}"));
    text.parse().unwrap_or_else(|_| panic!("{key}: {text}"))
}

fn raw(entry: &Value, key: &str) -> Vec<u8> {
    hex::decode(entry[key].as_str().unwrap().trim_start_matches("0x")).unwrap()
}

fn amount(entry: &Value) -> Option<Amount> {
    Amount::new(read(entry, "amount"))
}

fn domain(vectors: &Value, entry: &Value) -> Domain {
    let domain = &vectors["domains"][entry["domain"].as_u64().unwrap() as usize];
    Domain { chain_id: read(domain, "chainId"), contract: read(domain, "verifyingContract") }
}

fn key(vectors: &Value, address: Address) -> LocalKey {
    let entry = list(vectors, "keys").iter().find(|key| read::<Address>(key, "address") == address);
    let secret: B256 = read(entry.unwrap(), "privateKey");
    LocalKey::from_secret(&secret.0).unwrap()
}

/// `None` for a channel that only the contract can hold: a salt above 64 bits or a delay above 32.
fn config(entry: &Value) -> Option<ChannelConfig> {
    let salt: B256 = read(entry, "salt");
    let (high, low) = salt.0.split_at(24);
    let small = high.iter().all(|byte| *byte == 0);
    Some(ChannelConfig {
        payer: read(entry, "payer"),
        payer_authorizer: read(entry, "payerAuthorizer"),
        payee: read(entry, "payee"),
        payee_authorizer: read(entry, "payeeAuthorizer"),
        token: read(entry, "token"),
        withdraw_delay_secs: u32::try_from(read::<u64>(entry, "withdrawDelay")).ok()?,
        salt: small.then(|| u64::from_be_bytes(low.try_into().unwrap()))?,
    })
}

/// Digest, both encodings of the signature, its signer, and that our own key signs the same.
fn check<T: TypedData + Copy>(vectors: &Value, entry: &Value, body: T) -> Signature {
    let domain = domain(vectors, entry);
    let (digest, signer): (B256, Address) = (read(entry, "digest"), read(entry, "signer"));
    assert_eq!(body.digest(&domain), digest, "{entry}");
    let signature = Signature::from_bytes(raw(entry, "signature").try_into().unwrap()).unwrap();
    assert_eq!(signature.recover(digest), Ok(signer));
    assert_eq!(signature.to_compact().to_vec(), raw(entry, "compact"));
    // From the compact form back to the same signature.
    let mut rs: [u8; 64] = raw(entry, "compact").try_into().unwrap();
    let odd_y = rs[32] >> 7 == 1;
    rs[32] &= 0x7f;
    let compact = Signature::from_parts(rs, odd_y).unwrap();
    assert_eq!((compact, compact.recover(digest)), (signature, Ok(signer)));
    assert!(Signed { body, signature }.verify(&domain, signer).is_ok());
    let ours = Verified::sign(body, &domain, &key(vectors, signer)).unwrap();
    assert_eq!(ours.signature(), signature, "RFC 6979 gives one signature");
    // A9: a signature for one domain fails in one that differs in one field.
    for other in [
        Domain { chain_id: domain.chain_id ^ 1, ..domain },
        Domain { contract: Address::repeat_byte(0x5a), ..domain },
    ] {
        assert!(Signed { body, signature }.verify(&other, signer).is_err());
    }
    signature
}

#[test]
fn keys_have_the_addresses_that_viem_gives_them() {
    let vectors = vectors();
    for entry in list(&vectors, "keys") {
        let secret: B256 = read(entry, "privateKey");
        let key = LocalKey::from_secret(&secret.0).unwrap();
        assert_eq!(key.address(), read::<Address>(entry, "address"));
    }
}

#[test]
fn domain_separators_are_equal() {
    for entry in list(&vectors(), "domains") {
        assert_eq!(
            (&entry["name"], &entry["version"]),
            (&"Sparewire Channels".into(), &"1".into())
        );
        let contract = read(entry, "verifyingContract");
        let domain = Domain { chain_id: read(entry, "chainId"), contract };
        assert_eq!(domain.separator(), read::<B256>(entry, "separator"));
    }
}

#[test]
fn channel_ids_are_equal_and_all_different() {
    let vectors = vectors();
    let mut ids = Vec::new();
    for entry in list(&vectors, "channels") {
        let Some(config) = config(entry) else { continue };
        assert_eq!(config.id(&domain(&vectors, entry)), read(entry, "channelId"), "{entry}");
        ids.push(config.id(&domain(&vectors, entry)));
    }
    assert!(ids.len() >= 5, "most of them are channels that sessions can use: {}", ids.len());
    ids.sort();
    ids.dedup();
    assert!(ids.len() >= 5);
}

#[test]
fn vouchers_are_equal() {
    let vectors = vectors();
    let mut checked = 0;
    for entry in list(&vectors, "vouchers") {
        let Some(amount) = amount(entry) else { continue };
        check(&vectors, entry, Voucher { channel: read(entry, "channelId"), amount });
        checked += 1;
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn cooperative_closes_are_equal_and_are_no_vouchers() {
    let vectors = vectors();
    for entry in list(&vectors, "cooperativeCloses") {
        let (channel, Some(amount)) = (read::<ChannelId>(entry, "channelId"), amount(entry)) else {
            continue;
        };
        check(&vectors, entry, CooperativeClose { channel, amount });
        let domain = domain(&vectors, entry);
        assert_ne!(Voucher { channel, amount }.digest(&domain), read::<B256>(entry, "digest"));
    }
}

#[test]
fn receipts_are_equal_and_chained() {
    let vectors = vectors();
    let entries = list(&vectors, "receipts");
    let mut checked = 0;
    for entry in entries {
        // Amounts that no slot of the contract can hold are for the contract alone.
        let Some(amount) = amount(entry) else { continue };
        checked += 1;
        let receipt = Receipt {
            channel: read(entry, "channelId"),
            session: read::<SessionId>(entry, "sessionId"),
            sequence: read(entry, "sequence"),
            reading: Reading {
                up: ByteCount::new(read(entry, "up")),
                down: ByteCount::new(read(entry, "down")),
            },
            amount,
            previous: read(entry, "previous"),
            time: Timestamp::from_ms(read(entry, "time")),
        };
        check(&vectors, entry, receipt);
    }
    assert!(checked >= 3, "{checked}");
    assert_eq!(entries[0]["digest"], entries[1]["digest"], "one receipt, two signers");
    assert_ne!(entries[0]["signer"], entries[1]["signer"]);
    assert_eq!(entries[2]["previous"], entries[1]["digest"]);
}

#[test]
fn delegations_are_equal() {
    let vectors = vectors();
    for entry in list(&vectors, "delegations") {
        let delegation = Delegation {
            wallet: read(entry, "wallet"),
            device: read::<NodeId>(entry, "device"),
            authorizer: read(entry, "authorizer"),
            expiry_secs: read(entry, "expiry"),
        };
        check(&vectors, entry, delegation);
    }
}

#[test]
fn the_packed_claim_is_equal() {
    let vectors = vectors();
    let packed = &vectors["packedClaim"];
    let claims: Vec<Claim> = packed["vouchers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|index| {
            let entry = &list(&vectors, "vouchers")[index.as_u64().unwrap() as usize];
            let channel = list(&vectors, "channels")
                .iter()
                .find(|channel| channel["channelId"] == entry["channelId"])
                .unwrap();
            let signature = raw(entry, "signature").try_into().unwrap();
            Claim {
                config: config(channel).unwrap(),
                amount: amount(entry).unwrap(),
                signature: Signature::from_bytes(signature).unwrap(),
            }
        })
        .collect();
    assert_eq!(pack_claims(&claims), [raw(packed, "data")]);
}
