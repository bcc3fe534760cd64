//! What is asked of an HTTP tracker, and what it answers (BEP 3, 7 and 23).

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::bencode::{self, BencodeError};

/// The longest answer that is read, in bytes: some 3,000 peers in the longest form.
pub const TRACKER_ANSWER_LEN_MAX: usize = 256 << 10;
/// Most peers that are taken from one answer.
const PEERS_MAX: usize = 1_000;
/// How many peers are asked for.
const WANTED: usize = 200;

/// That somebody is there, or still is, and wants to know others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// As the handshake names the torrent.
    pub info_hash: [u8; 20],
    /// Ours.
    pub peer_id: [u8; 20],
    /// Where we take connections.
    pub port: u16,
    /// Bytes sent, came and missing.
    pub uploaded: u64,
    /// Bytes that came.
    pub downloaded: u64,
    /// Bytes that are missing.
    pub left: u64,
    /// The first of a run.
    pub started: bool,
}

impl Announce {
    /// The query of the tracker's URL, without its question mark, before whatever that has already.
    pub fn query(&self) -> String {
        let Self { info_hash, peer_id, port, uploaded, downloaded, left, started } = self;
        let event = if *started { "&event=started" } else { "" };
        format!(
            "info_hash={}&peer_id={}&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}&compact=1&numwant={WANTED}{event}",
            escaped(info_hash),
            escaped(peer_id)
        )
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(3 * bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            // Writing to a string does not fail.
            byte => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

/// Why a tracker's answer names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// Not an answer.
    #[error(transparent)]
    Bencode(#[from] BencodeError),
    /// It says why: printable, and at most 200 characters.
    #[error("the tracker refuses: {0}")]
    Refused(String),
}

/// The peers that a tracker's answer names, at most 1,000. What makes no sense in it is left out.
///
/// # Errors
/// [`TrackerError`].
pub fn tracked_peers(answer: &[u8]) -> Result<Vec<SocketAddr>, TrackerError> {
    bencode::measure(answer, i64::MIN..=i64::MAX)?;
    if answer.first() != Some(&b'd') {
        return Err(BencodeError::Mistyped.into());
    }
    let mut peers = Vec::new();
    for (key, value) in bencode::entries(answer) {
        match key {
            b"failure reason" => {
                let reason = bencode::string(value).ok_or(BencodeError::Mistyped)?;
                let reason = String::from_utf8_lossy(reason);
                let tame = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
                return Err(TrackerError::Refused(tame.take(200).collect()));
            }
            b"peers" => match bencode::string(value) {
                Some(compact) => peers.extend(compact.as_chunks().0.iter().map(v4)),
                None => peers.extend(bencode::items(value).filter_map(named)),
            },
            b"peers6" => {
                let compact = bencode::string(value).unwrap_or_default();
                peers.extend(compact.as_chunks().0.iter().map(v6));
            }
            _ => {}
        }
        peers.truncate(PEERS_MAX);
    }
    Ok(peers)
}

fn v4(compact: &[u8; 6]) -> SocketAddr {
    let [a, b, c, d, port @ ..] = *compact;
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes(port)).into()
}

fn v6(compact: &[u8; 18]) -> SocketAddr {
    let ip: [u8; 16] = std::array::from_fn(|at| compact[at]);
    (Ipv6Addr::from(ip), u16::from_be_bytes([compact[16], compact[17]])).into()
}

/// A peer as BEP 3 has it; its name may be a name, which is not looked up.
fn named(peer: &[u8]) -> Option<SocketAddr> {
    let (mut ip, mut port) = (None, None);
    for (key, value) in bencode::entries(peer) {
        match key {
            b"ip" => ip = std::str::from_utf8(bencode::string(value)?).ok()?.parse::<IpAddr>().ok(),
            b"port" => port = u16::try_from(bencode::number(value)?).ok(),
            _ => {}
        }
    }
    Some(SocketAddr::new(ip?, port?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses(of: &[&str]) -> Vec<SocketAddr> {
        of.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn peers_are_read_in_each_form() {
        let compact = b"d8:intervali1800e5:peers12:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\0\x01e";
        assert_eq!(tracked_peers(compact).unwrap(), addresses(&["1.2.3.4:6881", "5.6.7.8:1"]));
        let six = b"d8:intervali1e5:peers0:6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1e";
        assert_eq!(tracked_peers(six).unwrap(), addresses(&["[2001:db8::1]:6881"]));
        let list = b"d5:peersld2:ip7:1.2.3.47:peer id1:x4:porti80eed2:ip11:2001:db8::24:porti9eeee";
        assert_eq!(tracked_peers(list).unwrap(), addresses(&["1.2.3.4:80", "[2001:db8::2]:9"]));
    }

    #[test]
    fn what_makes_no_sense_is_left_out_or_refused() {
        let reason = b"d14:failure reason5:n\x1bo\xff!e";
        let refused = tracked_peers(reason).unwrap_err();
        assert_eq!(refused, TrackerError::Refused("n o\u{fffd}!".into()));
        for none in [
            &b"de"[..],
            b"d5:peersi3ee",
            b"d5:peers5:abcdee",
            b"d5:peersl3:abci1eld2:ip1:xeeee",
            b"d5:peersld2:ip7:1.2.3.44:porti65536eed2:ip7:1.2.3.4eee",
            b"d6:peers6le5:peers0:e",
        ] {
            assert_eq!(tracked_peers(none).unwrap(), [], "{}", String::from_utf8_lossy(none));
        }
        for bad in [&b""[..], b"le", b"i3e", b"d5:peers", b"d8:intervali99999999999999999999ee"] {
            assert!(matches!(tracked_peers(bad), Err(TrackerError::Bencode(_))));
        }
        let crowd = [&b"d5:peers12000:"[..], &[1; 12_000], b"e"].concat();
        assert_eq!(tracked_peers(&crowd).unwrap().len(), PEERS_MAX);
    }

    #[test]
    fn an_announce_is_what_trackers_read() {
        let announce = Announce {
            info_hash: *b"~abc \0\xff%&0123456789-",
            peer_id: *b"-SW0100-abcdefghijkl",
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            started: true,
        };
        assert_eq!(
            announce.query(),
            "info_hash=~abc%20%00%FF%25%260123456789-&peer_id=-SW0100-abcdefghijkl&port=6881&uploaded=1&downloaded=2&left=3&compact=1&numwant=200&event=started"
        );
        assert!(!Announce { started: false, ..announce }.query().contains("event"));
    }
}
