//! What people and files write: units, names, addresses, destinations and rules.

use std::{
    fmt::{Debug, Display},
    net::Ipv4Addr,
    str::FromStr,
};

use sparewire_core::{
    Address, Amount, B256, ByteCount, ChannelId, NodeId, Price, SessionId, Timestamp, decode,
    encode,
};
use sparewire_node::{
    exit::{AllowRule, DomainRule},
    target::{DomainName, Host, Target},
    transport::PeerAddress,
};

use super::{assert_tame, within};

/// What comes on top of a few times the text's length.
const ALLOCATION_MAX: usize = 8 << 10;

/// Sizes, amounts and prices; the first byte is the token's number of decimals.
pub fn units(data: &[u8]) {
    let Some((&decimals, bytes)) = data.split_first() else { return };
    assert_json::<Amount>(bytes);
    assert_json::<Price>(bytes);
    assert_json::<(ByteCount, Timestamp)>(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let allocated_max = ALLOCATION_MAX + 8 * text.len();
    if let Ok(count) = within(allocated_max, || ByteCount::parse(text)) {
        assert_eq!(ByteCount::parse(&count.get().to_string()), Ok(count));
        let shown = ByteCount::parse(&count.to_string()).expect("what is shown can be read");
        assert!(shown <= count, "what is shown is rounded down");
    }
    if let Ok(amount) = within(allocated_max, || Amount::parse(text, decimals)) {
        assert!(amount <= Amount::MAX);
        assert_eq!(Amount::parse(&amount.display(decimals), decimals), Ok(amount));
    }
    if let Ok(price) = within(allocated_max, || Price::parse(text, decimals)) {
        assert!(price <= Price::MAX);
        assert_eq!(Price::parse(&price.display(decimals), decimals), Ok(price));
    }
}

/// Ids and addresses.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_text::<Address>(text);
    assert_text::<B256>(text);
    assert_text::<ChannelId>(text);
    assert_text::<SessionId>(text);
    assert_text::<NodeId>(text);
    assert_json::<Address>(data);
    assert_json::<NodeId>(data);
}

/// Where a provider is.
pub fn peer_address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match within(ALLOCATION_MAX + 2 * text.len(), || text.parse::<PeerAddress>()) {
        Ok(peer) => {
            assert!((1..=PeerAddress::ADDRS_MAX).contains(&peer.addrs.len()));
            assert!(peer.addrs.iter().all(|addr| addr.port() != 0));
            assert_eq!(peer.to_string().parse().as_ref(), Ok(&peer));
        }
        Err(error) => drop(error.to_string()),
    }
}

/// Destinations: as text from an application, and as bytes from a consumer.
pub fn target(data: &[u8]) {
    if let Ok(target) = within(ALLOCATION_MAX, || decode::<Target>(data, 512)) {
        assert_eq!(encode(&target), data, "one value has one encoding");
        assert_host(&target.host);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(target) = within(ALLOCATION_MAX + 4 * text.len(), || Target::parse(text)) {
        assert_eq!(Target::parse(&target.to_string()).as_ref(), Ok(&target));
        assert_eq!(decode::<Target>(&encode(&target), 512).as_ref(), Ok(&target));
        assert_host(&target.host);
    }
    let host = within(ALLOCATION_MAX + 4 * text.len(), || text.parse::<Host>());
    if let Ok(host) = &host {
        assert_host(host);
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        assert_eq!(host, Ok(Host::Ip(ip.into())), "a plain address is that address");
    }
}

fn assert_host(host: &Host) {
    assert_eq!(host.to_string().parse::<Host>().as_ref(), Ok(host));
    let Host::Domain(name) = host else { return };
    let name = name.as_str();
    assert!((1..=DomainName::LENGTH_MAX).contains(&name.len()));
    assert!(name.split('.').all(|label| (1..=63).contains(&label.len())));
    let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    assert!(name.bytes().all(valid), "{name}");
    let last = name.rsplit('.').next().unwrap_or_default();
    assert!(!last.bytes().all(|byte| byte.is_ascii_digit()), "{name} reads as an address");
    assert_tame(&name, DomainName::LENGTH_MAX);
}

/// What an operator allows and denies.
pub fn exit_rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(rule) = within(ALLOCATION_MAX + 8 * text.len(), || text.parse::<AllowRule>()) {
        assert_ne!(rule.port, Some(0));
        assert_eq!(rule.to_string().parse().as_ref(), Ok(&rule), "{rule}");
    }
    if let Ok(rule) = within(ALLOCATION_MAX + 8 * text.len(), || text.parse::<DomainRule>()) {
        let bare = text.trim();
        let bare = bare.strip_prefix("*.").unwrap_or(bare);
        let Ok(Host::Domain(name)) = bare.parse() else { panic!("a rule is a name") };
        assert!(rule.matches(&name), "a rule covers what it names");
    }
}

/// What is read from a text is shown as a text that reads the same.
fn assert_text<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(value) = within(ALLOCATION_MAX + 2 * text.len(), || text.parse::<T>().map_err(drop))
    else {
        return;
    };
    let shown = value.to_string();
    assert_eq!(shown.parse().ok().as_ref(), Some(&value), "{shown}");
}

fn assert_json<T>(bytes: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    let read = within(ALLOCATION_MAX + 4 * bytes.len(), || serde_json::from_slice::<T>(bytes).ok());
    let Some(value) = read else { return };
    let json = serde_json::to_vec(&value).expect("units and names are JSON");
    assert_eq!(serde_json::from_slice::<T>(&json).ok().as_ref(), Some(&value));
}
