//! `vectors/channels.json`: what viem makes of our messages is what Rust makes of them.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use sparewire_core::{Address, Amount, B256, Domain, Signature, Signed, TypedData};
use sparewire_protocol::channel::{ChannelConfig, Claim, CooperativeClose, Voucher, pack_claims};

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/channels.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn parse<T: std::str::FromStr>(entry: &Value, field: &str) -> T {
    let text = entry[field].as_str().unwrap_or_else(|| panic!("{field} of {entry}"));
    text.parse().unwrap_or_else(|_| panic!("{field}: {text}"))
}

/// The domain, where it is one that our contract could have (its name and version are fixed).
fn domain(vectors: &Value, entry: &Value) -> Option<Domain> {
    let domain = &vectors["domains"][entry["domain"].as_u64().unwrap() as usize];
    let ours = domain["name"] == "Sparewire Channels" && domain["version"] == "1";
    ours.then(|| Domain {
        chain_id: parse(domain, "chainId"),
        contract: parse(domain, "verifyingContract"),
    })
}

/// The configuration, where its salt and delay are in the range that sessions use.
fn config(entry: &Value) -> Option<ChannelConfig> {
    let salt: B256 = parse(entry, "salt");
    let (high, low) = salt.split_at(24);
    high.iter().all(|byte| *byte == 0).then_some(())?;
    Some(ChannelConfig {
        payer: parse(entry, "payer"),
        payer_authorizer: parse(entry, "payerAuthorizer"),
        payee: parse(entry, "payee"),
        payee_authorizer: parse(entry, "payeeAuthorizer"),
        token: parse(entry, "token"),
        withdraw_delay_secs: entry["withdrawDelay"].as_str().unwrap().parse().ok()?,
        salt: u64::from_be_bytes(low.try_into().unwrap()),
    })
}

fn signature(entry: &Value) -> Signature {
    let bytes = entry["signature"].as_str().unwrap().parse::<alloy_primitives::Bytes>().unwrap();
    Signature::from_bytes(bytes.as_ref().try_into().unwrap()).unwrap()
}

#[test]
fn separators_ids_digests_and_signatures_are_viem_s() {
    let vectors = vectors();
    let mut checked = [0; 3];
    for entry in vectors["domains"].as_array().unwrap() {
        if entry["name"] == "Sparewire Channels" && entry["version"] == "1" {
            let (chain_id, contract) = (parse(entry, "chainId"), parse(entry, "verifyingContract"));
            let separator = Domain { chain_id, contract }.separator();
            assert_eq!(separator, parse::<B256>(entry, "separator"));
            checked[0] += 1;
        }
    }
    for entry in vectors["channels"].as_array().unwrap() {
        if let (Some(domain), Some(config)) = (domain(&vectors, entry), config(entry)) {
            assert_eq!(config.id(&domain), parse(entry, "channelId"));
            checked[1] += 1;
        }
    }
    for (kind, close) in [("vouchers", false), ("cooperativeCloses", true)] {
        for entry in vectors[kind].as_array().unwrap() {
            let Some(domain) = domain(&vectors, entry) else { continue };
            let Some(amount) = Amount::new(parse(entry, "amount")) else { continue };
            let channel = parse(entry, "channelId");
            let digest = match close {
                true => CooperativeClose { channel, amount }.digest(&domain),
                false => Voucher { channel, amount }.digest(&domain),
            };
            assert_eq!(digest, parse::<B256>(entry, "digest"));
            assert_eq!(signature(entry).recover(digest), Ok(parse::<Address>(entry, "signer")));
            checked[2] += 1;
        }
    }
    assert!(checked[0] >= 2 && checked[1] >= 4 && checked[2] >= 6, "{checked:?}");
}

#[test]
fn packed_claims_are_viem_s_to_the_byte() {
    let vectors = vectors();
    let packed = &vectors["packedClaim"];
    let domain = domain(&vectors, packed).unwrap();
    let claims = packed["vouchers"].as_array().unwrap().iter().map(|index| {
        let entry = &vectors["vouchers"][index.as_u64().unwrap() as usize];
        let channels = vectors["channels"].as_array().unwrap();
        let of_it = |channel: &&Value| channel["channelId"] == entry["channelId"];
        let config = config(channels.iter().find(of_it).unwrap()).unwrap();
        let amount = Amount::new(parse(entry, "amount")).unwrap();
        let body = Voucher { channel: config.id(&domain), amount };
        let signed = Signed { body, signature: signature(entry) };
        let verified = signed.verify(&domain, config.payer_authorizer).unwrap();
        Claim::new(config, &domain, &verified)
    });
    let groups = pack_claims(&claims.collect::<Vec<_>>());
    let expected = parse::<alloy_primitives::Bytes>(packed, "data");
    assert_eq!(groups, [expected.to_vec()]);
}
