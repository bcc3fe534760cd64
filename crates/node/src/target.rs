//! Where a consumer wants to go. It travels on the wire, so it is parsed once, here, into a type
//! that cannot hold anything malformed.

use std::{
    fmt,
    io::{Error, ErrorKind, Read},
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::read_text;

/// A destination of one tunnel.
///
/// `Debug` leaves the host out: destinations are private and are shown above `TRACE` nowhere.
/// [`fmt::Display`] shows it, for those who mean to.
#[derive(Clone, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

impl Target {
    /// Reads `host:port`, where an IPv6 host is in brackets.
    ///
    /// # Errors
    /// [`TargetError`] where it is no such thing.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Port)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(TargetError::Host); // `::1:80` has two readings
        }
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TargetError::Port);
        }
        let port = port.parse().map_err(|_| TargetError::Port)?;
        Ok(Self { host: host.parse()?, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target(..)")
    }
}

/// A host: a name that the exit resolves, or an address.
///
/// Every form that a resolver would read as an address (`127.1`, `0x7f.1`, `2130706433`,
/// `[::1]`, …) is an [`Host::Ip`] here, so that nobody downstream has to know those forms.
#[derive(Clone, PartialEq, Eq, Hash, BorshSerialize)]
pub enum Host {
    /// A name, not resolved yet.
    Domain(DomainName),
    /// An address.
    Ip(IpAddr),
}

impl FromStr for Host {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(TargetError::Host)?;
            return inner.parse().map(|ip| Self::Ip(IpAddr::V6(ip))).map_err(|_| TargetError::Host);
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        match loose_ipv4(name) {
            Some(Ok(ip)) => Ok(Self::Ip(IpAddr::V4(ip))),
            Some(Err(error)) => Err(error),
            None => DomainName::new(name).map(Self::Domain),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(name) => f.write_str(name.as_str()),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host(..)")
    }
}

impl BorshDeserialize for Host {
    /// Refuses every encoding that this side would not have written.
    fn deserialize_reader<R: Read>(reader: &mut R) -> std::io::Result<Self> {
        match u8::deserialize_reader(reader)? {
            0 => {
                let text = read_text(reader, DomainName::LENGTH_MAX)?;
                match text.parse() {
                    Ok(Self::Domain(name)) if name.as_str() == text => Ok(Self::Domain(name)),
                    _ => Err(Error::new(ErrorKind::InvalidData, "not a canonical domain name")),
                }
            }
            1 => IpAddr::deserialize_reader(reader).map(Self::Ip),
            _ => Err(Error::new(ErrorKind::InvalidData, "unknown kind of host")),
        }
    }
}

/// A domain name of 1 to 253 characters: letters, digits, `-` and `_`, in lower case, without the
/// trailing dot, and never one that reads as an address.
#[derive(Clone, PartialEq, Eq, Hash, BorshSerialize)]
pub struct DomainName(String);

impl DomainName {
    /// The most characters that a name has (RFC 1035, without the trailing dot).
    pub const LENGTH_MAX: usize = 253;

    fn new(text: &str) -> Result<Self, TargetError> {
        let label_is_valid = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if text.len() > Self::LENGTH_MAX || !text.split('.').all(label_is_valid) {
            return Err(TargetError::Host);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `suffix` or ends in `.suffix`.
    pub fn is_within(&self, suffix: &str) -> bool {
        let suffix = suffix.trim_matches('.');
        self.0.len() >= suffix.len()
            && self.0.is_char_boundary(self.0.len() - suffix.len())
            && self.0[self.0.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            && (self.0.len() == suffix.len()
                || self.0.as_bytes()[self.0.len() - suffix.len() - 1] == b'.')
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DomainName(..)")
    }
}

/// Reads the forms that `inet_aton` reads (one to four parts; decimal, `0x` hex, `0` octal; the
/// last part fills the rest). `None` where the last label is not a number: then it is a name. A
/// name that ends in a number but is no address is refused, as the URL standard does.
fn loose_ipv4(text: &str) -> Option<Result<Ipv4Addr, TargetError>> {
    let is_number = |label: &str| {
        let hex = label.strip_prefix("0x").or(label.strip_prefix("0X"));
        hex.map_or(!label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()), |hex| {
            hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    };
    if !is_number(text.rsplit('.').next()?) {
        return None;
    }
    let number = |label: &str| {
        let hex = label.strip_prefix("0x").or(label.strip_prefix("0X"));
        let (digits, radix) = match hex {
            Some("") => return Some(0), // `0x` alone is zero to many parsers
            Some(hex) => (hex, 16),
            None if label.len() > 1 && label.starts_with('0') => (&label[1..], 8),
            None => (label, 10),
        };
        u32::from_str_radix(digits, radix).ok()
    };
    let address = || {
        let parts: Vec<u32> = text
            .splitn(5, '.')
            .map(|label| is_number(label).then(|| number(label))?)
            .collect::<Option<_>>()?;
        let (&last, first) = parts.split_last()?;
        if parts.len() > 4 || first.iter().any(|&part| part > 255) {
            return None;
        }
        if first.is_empty() {
            return Some(last.into());
        }
        if u64::from(last) >= 1 << (8 * (4 - first.len())) {
            return None;
        }
        let high = first.iter().zip([24, 16, 8]).map(|(part, shift)| part << shift).sum::<u32>();
        Some(Ipv4Addr::from(high | last))
    };
    Some(address().ok_or(TargetError::Host))
}

/// Why a text is not a destination. The text is left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a domain name nor an address.
    #[error("the host is neither a domain name nor an address")]
    Host,
    /// No port, or no number up to 65535.
    #[error("the port is missing or not a number up to 65535")]
    Port,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use sparewire_core::{decode, encode};

    use super::*;

    #[test]
    fn every_form_of_an_address_is_an_address() {
        for (text, ip) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("127.0.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0X7F000001", "127.0.0.1"),
            ("0x7f000001.", "127.0.0.1"),
            ("0177.0.0.01", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("0x", "0.0.0.0"),
            ("10.65535", "10.0.255.255"),
            ("[::1]", "::1"),
            ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
            ("::ffff:7f00:1", "::ffff:127.0.0.1"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap(), Host::Ip(ip.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_neither_name_nor_address_is_refused() {
        let long = format!("{}.example", "a".repeat(64));
        let longer = "a.".repeat(127) + "a";
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "[::1",
            "[127.0.0.1]",
            "256.1.1.1",
            "1.2.3.4.5",
            "127.0.0.08",
            "1.16777216",
            "4294967296",
            "0x1ffffffff",
            "example.1",
            "exa mple",
            "exa\0mple",
            "user@host",
            "fe80::1%eth0",
            "host/path",
            "\u{fe0f}",
            "ex\u{e4}mple.de",
            "+1",
            &long,
            &longer,
        ] {
            assert!(text.parse::<Host>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_kept_in_lower_case_without_the_last_dot() {
        let Host::Domain(name) = "WWW.Example.COM.".parse().unwrap() else { panic!() };
        assert_eq!(name.as_str(), "www.example.com");
        assert!(name.is_within("example.com") && name.is_within(".COM"));
        assert!(!name.is_within("ample.com") && !name.is_within("a.www.example.com"));
    }

    #[test]
    fn targets_survive_the_wire_and_only_one_encoding_is_taken() {
        for text in ["example.com:443", "1.2.3.4:80", "[2001:db8::1]:8080"] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(decode::<Target>(&encode(&target), 512).unwrap(), target);
        }
        for domain in ["Example.com", "example.com.", "127.1", "1.2.3.4", "::1", ""] {
            let bytes = encode(&(0u8, domain.to_owned(), 80u16));
            assert!(decode::<Target>(&bytes, 512).is_err(), "{domain:?}");
        }
        for text in ["example.com", "example.com:", "example.com:65536", "::1:80", "a:+80"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_claims_to_be_long_is_refused_before_it_is_read() {
        for claimed in [DomainName::LENGTH_MAX as u32 + 1, u32::MAX] {
            let error = decode::<Target>(&encode(&(0u8, claimed)), 512).unwrap_err();
            assert!(error.to_string().contains("too long"), "{error}");
        }
    }

    #[test]
    fn debug_keeps_the_destination_to_itself() {
        let target = Target::parse("secret.example:443").unwrap();
        assert!(!format!("{target:?} {:?}", target.host).contains("secret"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,300}", bytes: Vec<u8>) {
            let _ = Target::parse(&text);
            let _ = text.parse::<Host>();
            let _ = decode::<Target>(&bytes, 1024);
        }

        #[test]
        fn what_parses_reads_back_the_same(text in "[0-9a-zA-Zx.:\\[\\]-]{1,30}") {
            if let Ok(host) = text.parse::<Host>() {
                prop_assert_eq!(host.to_string().parse::<Host>().unwrap(), host);
            }
        }
    }
}
