//! SOCKS5 (RFC 1928) as far as a tunnel needs it: no authentication, `CONNECT`.
//!
//! By hand, because `fast-socks5` 1.0, whose API would do, logs each destination at `debug`; it
//! also writes replies with a single `write` and answers a malformed name as "connection
//! refused". Its client is what our tests talk with.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Accepted, ProxyRequest, Waiting};
use crate::{
    refusal::RefusalKind,
    target::{Host, Target},
};

/// The first byte of a SOCKS5 connection.
pub(super) const VERSION: u8 = 5;

const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const HOST_UNREACHABLE: u8 = 4;
const CONNECTION_REFUSED: u8 = 5;
const TTL_EXPIRED: u8 = 6;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// Reads greeting and request. `None` where the application was told why not. What it sends after
/// its request stays in the socket: only what belongs to the request is read.
pub(super) async fn read_request(mut tcp: TcpStream) -> io::Result<Option<ProxyRequest>> {
    let [_version, methods_len] = read(&mut tcp).await?;
    let mut methods = vec![0; usize::from(methods_len)];
    tcp.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        tcp.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Ok(None);
    }
    tcp.write_all(&[VERSION, NO_AUTHENTICATION]).await?;

    let [version, command, _reserved, address_type] = read(&mut tcp).await?;
    if version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let host = match address_type {
        1 => Ok(Host::Ip(Ipv4Addr::from(read::<4>(&mut tcp).await?).into())),
        4 => Ok(Host::Ip(IpAddr::from(Ipv6Addr::from(read::<16>(&mut tcp).await?)))),
        3 => {
            let [length] = read(&mut tcp).await?;
            let mut name = vec![0; usize::from(length)];
            tcp.read_exact(&mut name).await?;
            let host = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
            host.ok_or(GENERAL_FAILURE)
        }
        _ => return reply(&mut tcp, ADDRESS_TYPE_NOT_SUPPORTED).await.map(|()| None),
    };
    let port = u16::from_be_bytes(read(&mut tcp).await?);
    match (command, host) {
        (CONNECT, Ok(host)) => {
            Ok(Some(ProxyRequest { target: Target { host, port }, waiting: Waiting::Socks(tcp) }))
        }
        (CONNECT, Err(code)) => reply(&mut tcp, code).await.map(|()| None),
        // BIND and UDP ASSOCIATE among them.
        _ => reply(&mut tcp, COMMAND_NOT_SUPPORTED).await.map(|()| None),
    }
}

pub(super) async fn accept(mut tcp: TcpStream) -> io::Result<Accepted> {
    reply(&mut tcp, SUCCEEDED).await?;
    Ok(Accepted { tcp, leftover: Bytes::new() })
}

pub(super) async fn refuse(mut tcp: TcpStream, kind: RefusalKind) -> io::Result<()> {
    let code = match kind {
        RefusalKind::Policy => NOT_ALLOWED,
        RefusalKind::Unresolvable | RefusalKind::Unreachable => HOST_UNREACHABLE,
        RefusalKind::ConnectionRefused => CONNECTION_REFUSED,
        RefusalKind::TimedOut => TTL_EXPIRED,
        RefusalKind::Busy => GENERAL_FAILURE,
    };
    reply(&mut tcp, code).await
}

/// The bound address is left unspecified: it is at the provider and nobody's business.
async fn reply(tcp: &mut TcpStream, code: u8) -> io::Result<()> {
    tcp.write_all(&[VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

async fn read<const N: usize>(tcp: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    tcp.read_exact(&mut bytes).await?;
    Ok(bytes)
}
