//! Magnet links (BEP 9, 52).

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use crate::{InfoHashes, info_hash::write_hex, metainfo::is_url, names::safe_name};

/// The longest link that is read, in bytes: as long as the longest that is written.
const LINK_LEN_MAX: usize = 256 << 10;
/// Most trackers and most peers that are kept of one.
pub(crate) const ADDRESSES_MAX: usize = 64;

/// Why a text is not a magnet link to a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MagnetError {
    /// It begins otherwise.
    #[error("a magnet link begins with magnet:?")]
    Scheme,
    /// Longer than 256 KiB.
    #[error("the magnet link is longer than {LINK_LEN_MAX} bytes")]
    TooLong,
    /// An `xt` of BitTorrent with something else than a hash.
    #[error("the hash in the magnet link is damaged: copy the link again")]
    Hash,
    /// Two of one kind.
    #[error("the magnet link names two torrents: take a link to one")]
    TwoTorrents,
    /// None at all.
    #[error("the magnet link names no torrent: xt=urn:btih: or xt=urn:btmh: is missing")]
    NoTorrent,
}

/// A link to a torrent. What it says beside the hashes is anybody's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Magnet {
    /// What the torrent is called among peers.
    pub hashes: InfoHashes,
    /// What it may be called among people: made safe to show.
    pub name: Option<String>,
    /// URLs of trackers, at most 64.
    pub trackers: Vec<String>,
    /// Addresses of peers, `host:port`, at most 64: host names are not resolved.
    pub peers: Vec<String>,
}

impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(link: &str) -> Result<Self, MagnetError> {
        if link.len() > LINK_LEN_MAX {
            return Err(MagnetError::TooLong);
        }
        let link = link.trim();
        let query = match link.split_at_checked("magnet:?".len()) {
            Some((scheme, query)) if scheme.eq_ignore_ascii_case("magnet:?") => query,
            _ => return Err(MagnetError::Scheme),
        };
        let (mut v1, mut v2, mut name) = (None, None, None);
        let (mut trackers, mut peers) = (Vec::new(), Vec::new());
        for parameter in query.split('&') {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let key = key.to_ascii_lowercase();
            // Several of one kind may be numbered: `xt.1`.
            match key.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('.') {
                "xt" => read_topic(&decode(value), &mut v1, &mut v2)?,
                "dn" if name.is_none() && !value.is_empty() => {
                    name = Some(safe_name(&decode(&value.replace('+', " "))).into_owned());
                }
                "tr" if trackers.len() < ADDRESSES_MAX => {
                    trackers
                        .extend(String::from_utf8(decode(value)).ok().filter(|url| is_url(url)));
                }
                "x.pe" if peers.len() < ADDRESSES_MAX => {
                    peers
                        .extend(String::from_utf8(decode(value)).ok().filter(|peer| is_peer(peer)));
                }
                _ => {}
            }
        }
        let hashes = InfoHashes::new(v1, v2).ok_or(MagnetError::NoTorrent)?;
        Ok(Self { hashes, name, trackers, peers })
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?xt=urn:")?;
        if let Some(hash) = self.hashes.v1() {
            f.write_str("btih:")?;
            write_hex(f, &hash)?;
        }
        if let Some(hash) = self.hashes.v2() {
            f.write_str(if self.hashes.v1().is_some() {
                "&xt=urn:btmh:1220"
            } else {
                "btmh:1220"
            })?;
            write_hex(f, &hash)?;
        }
        let name = self.name.iter().map(|name| ("dn", name));
        let trackers = self.trackers.iter().map(|url| ("tr", url));
        let peers = self.peers.iter().map(|peer| ("x.pe", peer));
        for (key, value) in name.chain(trackers).chain(peers) {
            write!(f, "&{key}=")?;
            encode(f, value)?;
        }
        Ok(())
    }
}

/// Takes a hash out of a topic; those of other networks are left alone.
fn read_topic(
    topic: &[u8],
    v1: &mut Option<[u8; 20]>,
    v2: &mut Option<[u8; 32]>,
) -> Result<(), MagnetError> {
    let topic = topic.to_ascii_lowercase();
    if let Some(hash) = topic.strip_prefix(b"urn:btih:") {
        let hash = from_hex(hash).or_else(|| from_base32(hash)).ok_or(MagnetError::Hash)?;
        if v1.replace(hash).is_some_and(|before| before != hash) {
            return Err(MagnetError::TwoTorrents);
        }
    } else if let Some(hash) = topic.strip_prefix(b"urn:btmh:") {
        // A multihash: 0x12 is SHA-256, 0x20 its length.
        let hash = hash.strip_prefix(b"1220").and_then(from_hex).ok_or(MagnetError::Hash)?;
        if v2.replace(hash).is_some_and(|before| before != hash) {
            return Err(MagnetError::TwoTorrents);
        }
    }
    Ok(())
}

fn from_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(bytes)
}

/// RFC 4648, without padding, in lower case: 8 digits for 5 bytes.
fn from_base32(digits: &[u8]) -> Option<[u8; 20]> {
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 20];
    for (bytes, digits) in bytes.chunks_exact_mut(5).zip(digits.chunks_exact(8)) {
        let value = digits.iter().try_fold(0u64, |value, digit| match digit {
            b'a'..=b'z' => Some(value << 5 | u64::from(digit - b'a')),
            b'2'..=b'7' => Some(value << 5 | u64::from(digit - b'2' + 26)),
            _ => None,
        })?;
        bytes.copy_from_slice(&value.to_be_bytes()[3..]);
    }
    Some(bytes)
}

/// Whether a text may be `host:port`, with an IPv6 address in brackets.
fn is_peer(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_sound = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port_sound = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    host_sound && port_sound && (1..=255).contains(&host.len())
}

/// Bytes of a value in a link (RFC 3986); a `%` that begins no such byte stands for itself.
fn decode(value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match after.get(..2).filter(|_| *first == b'%').and_then(from_hex) {
            Some([byte]) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

fn encode(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    value.bytes().try_for_each(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            f.write_char(char::from(byte))
        }
        _ => write!(f, "%{byte:02X}"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const V1: &str = "0123456789abcdef0123456789abcdef01234567";
    const V2: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_hybrid_link_is_written_as_it_was_read() {
        let link = format!(
            "magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}&dn=A%20%26%20%C3%A9\
             &tr=http%3A%2F%2Ft.example%2Fa%3Fb%3D1%26c&tr=udp%3A%2F%2Fu.example%3A80\
             &x.pe=192.0.2.1%3A6881&x.pe=%5B2001%3Adb8%3A%3A1%5D%3A1"
        );
        let magnet: Magnet = link.parse().unwrap();
        assert_eq!(magnet.name.as_deref(), Some("A & é"));
        assert_eq!(magnet.trackers, ["http://t.example/a?b=1&c", "udp://u.example:80"]);
        assert_eq!(magnet.peers, ["192.0.2.1:6881", "[2001:db8::1]:1"]);
        assert_eq!(magnet.to_string(), link);
    }

    #[test]
    fn old_and_odd_spellings_are_read() {
        let hashes = |link: &str| link.parse::<Magnet>().map(|magnet| magnet.hashes);
        let v1 = hashes(&format!("magnet:?xt=urn:btih:{V1}")).unwrap();
        for link in [
            format!(" MAGNET:?XT.1=urn%3Abtih%3A{}\n", V1.to_uppercase()),
            "magnet:?dn=x&xt=urn:btih:AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH".to_owned(),
            format!("magnet:?xt=urn:sha1:abc&xt=urn:btih:{V1}&xt=urn:btih:{V1}&so=0-999999999"),
        ] {
            assert_eq!(hashes(&link), Ok(v1), "{link}");
        }
        let v2 = hashes(&format!("magnet:?xt=urn:btmh:1220{V2}")).unwrap();
        assert_eq!((v2.v1(), v2.v2().is_some()), (None, true));
    }

    #[test]
    fn what_names_no_torrent_or_two_is_refused() {
        let other = V1.replace('0', "1");
        for (link, error) in [
            (String::new(), MagnetError::Scheme),
            ("http://x/?xt=urn:btih:".to_owned(), MagnetError::Scheme),
            ("magnet:é".to_owned(), MagnetError::Scheme),
            ("magnet:?".to_owned(), MagnetError::NoTorrent),
            ("magnet:?dn=a&&=&x".to_owned(), MagnetError::NoTorrent),
            ("magnet:?xt=urn:btih:".to_owned(), MagnetError::Hash),
            (format!("magnet:?xt=urn:btih:{}", &V1[1..]), MagnetError::Hash),
            (format!("magnet:?xt=urn:btih:{}", &V1.replace('a', "g")), MagnetError::Hash),
            ("magnet:?xt=urn:btih:AERUKZ4JVPG66AJDIVTYTK6N54ASGRL1".to_owned(), MagnetError::Hash),
            (format!("magnet:?xt=urn:btmh:1114{V1}"), MagnetError::Hash),
            (format!("magnet:?xt=urn:btmh:1220{V1}"), MagnetError::Hash),
            (format!("magnet:?xt=urn:btih:{V1}&xt=urn:btih:{other}"), MagnetError::TwoTorrents),
            ("magnet:?dn=".to_owned() + &"x".repeat(LINK_LEN_MAX), MagnetError::TooLong),
        ] {
            assert_eq!(link.parse::<Magnet>(), Err(error), "{link}");
        }
    }

    #[test]
    fn what_comes_with_the_hash_is_bounded_and_tame() {
        let link = format!(
            "magnet:?xt=urn:btih:{V1}&dn=..%2F%1b%5b2J%E2%80%AEx&dn=second&tr=%0d%0a&tr=%ff&tr=&tr=%"
        ) + &"&tr=http://x".repeat(100)
            + "&x.pe=nobody&x.pe=h:0&x.pe=h:65536&x.pe=h:%2B1&x.pe=[::1:1&x.pe=a%20b:1&x.pe=:1&x.pe=h:1";
        let magnet: Magnet = link.parse().unwrap();
        assert_eq!(magnet.name.as_deref(), Some("..__[2J_x"));
        assert_eq!(magnet.trackers.len(), ADDRESSES_MAX);
        assert_eq!(magnet.trackers[..2], ["%", "http://x"]);
        assert_eq!(magnet.peers, ["h:1"]);
    }
}
