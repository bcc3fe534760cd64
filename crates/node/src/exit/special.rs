//! Which addresses are not the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why `ip` by itself is not an ordinary public unicast address; `None` where it is.
///
/// The ranges are those of the IANA special-purpose registries (RFC 6890 and its updates) that
/// are not globally reachable, and the metadata services of clouds. Addresses that lead to an IPv4
/// address are judged by that one: see [`embedded`].
pub(super) fn special(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

/// Whether `ip`, and whatever address a packet to it may be translated toward, is an ordinary public
/// unicast address.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    std::iter::once(ip).chain(embedded(ip)).all(|ip| special(ip).is_none())
}

/// The IPv4 addresses that a packet to `ip` may be unwrapped or translated toward: NAT64, 6to4,
/// Teredo (server and, inverted, client) and ISATAP. (`::ffff:0:0/96` was made IPv4 before.)
pub(super) fn embedded(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into();
    let found = match ip {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(ip) => match ip.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [Some(v4(high, low)), None],
            [0x2001, 0, server_high, server_low, _, _, high, low] => {
                [Some(v4(server_high, server_low)), Some(v4(!high, !low))]
            }
            [0x2002, high, low, ..] => [Some(v4(high, low)), None],
            [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [Some(v4(high, low)), None],
            _ => [None, None],
        },
    };
    found.into_iter().flatten()
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let reason = match ip.octets() {
        [0, ..] => "an unspecified address",
        [127, ..] => "a loopback address",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address",
        [100, 64..=127, ..] => "a carrier's shared address",
        [169, 254, ..] => "a link-local address",
        // Azure's host service answers on a public address inside its virtual networks.
        [168, 63, 129, 16] => "a cloud metadata address",
        [192, 0, 0, _] => "a protocol assignment",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "a documentation address",
        [192, 88, 99, _] => "a 6to4 relay address",
        [198, 18..=19, ..] => "a benchmarking address",
        [224..=239, ..] => "a multicast address",
        [255, 255, 255, 255] => "a broadcast address",
        [240..=255, ..] => "a reserved address",
        _ => return None,
    };
    Some(reason)
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let reason = match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "an unspecified address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback address",
        [0, 0, 0, 0, 0, 0, _, _] => "an IPv4-compatible address",
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => return None, // judged by what is embedded
        [0x64, 0xff9b, ..] => "a local translation address",
        [0x2001, 0, ..] => return None, // likewise
        [0x2001, 1..=0x1ff, ..] => "a protocol assignment",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "a documentation address",
        [0x2000..=0x3fff, ..] => return None,
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xfec0..=0xfeff, ..] => "a site-local address",
        [0xfc00..=0xfdff, ..] => "a unique local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        _ => "a reserved address",
    };
    Some(reason)
}
