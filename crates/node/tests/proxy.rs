//! The consumer's proxy, talked to by clients that we did not write and by hand.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use fast_socks5::client::{Config, Socks5Stream};
use sparewire_node::{
    proxy::{Accepted, Proxy, ProxyError, ProxyHandler, ProxyRequest},
    refusal::{Refusal, RefusalKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    task::JoinHandle,
    time::timeout,
};

/// Refuses names that say so and answers the others with their own name and an echo.
struct Echo;

#[async_trait]
impl ProxyHandler for Echo {
    async fn handle(&self, request: ProxyRequest) {
        let target = request.target().to_string();
        let kind = match target.split(['.', ':']).next() {
            Some("policy") => Some(RefusalKind::Policy),
            Some("unresolvable") => Some(RefusalKind::Unresolvable),
            Some("unreachable") => Some(RefusalKind::Unreachable),
            Some("refused") => Some(RefusalKind::ConnectionRefused),
            Some("slow") => Some(RefusalKind::TimedOut),
            Some("busy") => Some(RefusalKind::Busy),
            Some("dropped") => return,
            _ => None,
        };
        if let Some(kind) = kind {
            return request.refuse(Refusal::new(kind, "because \"it\" is so")).await;
        }
        let Accepted { mut tcp, leftover } = request.accept().await.unwrap();
        let head = format!("HTTP/1.0 200 OK\r\n\r\n{target}\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        tcp.write_all(&leftover).await.unwrap();
        let (mut reader, mut writer) = tcp.split();
        if target.ends_with(":81") {
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
        let _ = writer.shutdown().await;
        let _ = reader.read_to_end(&mut Vec::new()).await;
    }
}

async fn start() -> (SocketAddr, JoinHandle<()>) {
    let proxy = Proxy::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    (proxy.addr(), tokio::spawn(proxy.serve(Arc::new(Echo))))
}

/// Sends `bytes`, half-closes, and reads all that comes back.
async fn talk(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(addr).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
    let _ = read.expect("the proxy ends the connection"); // a reset is an end too
    answer
}

async fn talk_text(addr: SocketAddr, text: &str) -> String {
    String::from_utf8(talk(addr, text.as_bytes()).await).unwrap().to_lowercase()
}

#[tokio::test]
async fn socks_clients_are_served_and_names_stay_unresolved() {
    let (addr, _server) = start().await;
    let mut stream =
        Socks5Stream::connect(addr, "Name.Invalid".into(), 80, Config::default()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("name.invalid:80\n"), "{answer}");

    let mut stream =
        Socks5Stream::connect(addr, "2001:db8::1".into(), 80, Config::default()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("[2001:db8::1]:80\n"), "{answer}");
}

#[tokio::test]
async fn socks_refusals_carry_their_code() {
    let (addr, _server) = start().await;
    for (name, code) in [
        ("policy", 2),
        ("unresolvable", 4),
        ("unreachable", 4),
        ("refused", 5),
        ("slow", 6),
        ("busy", 1),
        ("bad name", 1),
        ("", 1),
    ] {
        let mut request = vec![5, 1, 0, 5, 1, 0, 3, name.len() as u8];
        request.extend(name.as_bytes());
        request.extend([0, 80]);
        let answer = talk(addr, &request).await;
        assert_eq!(answer[..4], [5, 0, 5, code], "{name}");
        assert_eq!(answer.len(), 12);
    }
}

#[tokio::test]
async fn socks_commands_methods_and_address_types_that_are_not_served_are_refused() {
    let (addr, _server) = start().await;
    for (request, answer) in [
        (&[5, 1, 2][..], &[5, 0xff][..]),
        (&[5, 0], &[5, 0xff]),
        (&[5, 1, 0, 5, 2, 0, 1, 1, 2, 3, 4, 0, 80], &[5, 0, 5, 7]),
        (&[5, 2, 2, 0, 5, 3, 0, 1, 1, 2, 3, 4, 0, 80], &[5, 0, 5, 7]),
        (&[5, 1, 0, 5, 1, 0, 9], &[5, 0, 5, 8]),
        (&[5, 1, 0, 4, 1, 0, 1, 1, 2, 3, 4, 0, 80], &[5, 0]),
    ] {
        let got = talk(addr, request).await;
        assert_eq!(got.get(..answer.len()), Some(answer), "{request:?}: {got:?}");
    }
}

#[tokio::test]
async fn connect_is_served_and_what_follows_the_header_is_kept() {
    let (addr, _server) = start().await;
    let mut tcp = TcpStream::connect(addr).await.unwrap();
    let sent = "CONNECT name.invalid:81 HTTP/1.1\r\nHost: name.invalid:81\r\n\r\nearly bytes";
    tcp.write_all(sent.as_bytes()).await.unwrap();
    tcp.write_all(b" and late ones").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nname.invalid:81\nearly bytes and late ones"), "{answer}");
    assert!(!answer.to_lowercase().contains("content-length"), "{answer}");
}

#[tokio::test]
async fn connect_refusals_carry_status_reason_and_proxy_status() {
    let (addr, _server) = start().await;
    for (name, status, error) in [
        ("policy", 403, "http_request_denied"),
        ("unresolvable", 502, "dns_error"),
        ("unreachable", 502, "destination_ip_unroutable"),
        ("refused", 502, "connection_refused"),
        ("slow", 504, "connection_timeout"),
        ("busy", 503, "connection_limit_reached"),
        ("dropped", 503, "connection_limit_reached"),
    ] {
        let answer = talk_text(addr, &format!("CONNECT {name}.x:443 HTTP/1.1\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{answer}");
        assert!(answer.contains(&format!("proxy-status: sparewire; error={error};")), "{answer}");
        if name != "dropped" {
            assert!(answer.contains("details=\"because \\\"it\\\" is so\""), "{answer}");
            assert!(answer.contains("because \"it\" is so\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn other_http_is_told_what_to_do() {
    let (addr, _server) = start().await;
    let answer = talk_text(addr, "GET http://name.invalid/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("http/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: connect") && answer.contains("--proxytunnel"), "{answer}");
    for request in [
        "CONNECT name.invalid HTTP/1.1\r\n\r\n",
        "CONNECT name.invalid:0x50 HTTP/1.1\r\n\r\n",
        "CONNECT user@name.invalid:80 HTTP/1.1\r\n\r\n",
        "CONNECT / HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01 this is TLS\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ] {
        let answer = talk_text(addr, request).await;
        assert!(answer.is_empty() || answer.starts_with("http/1.1 400 "), "{request}: {answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(20_000));
    assert!(talk_text(addr, &long).await.starts_with("http/1.1 431 "));
}

#[tokio::test]
async fn curl_is_served_by_both_protocols() {
    let (addr, _server) = start().await;
    let curl = async |arguments: &[&str]| {
        let output = Command::new("curl").args(["-s", "-S", "-m", "10"]).args(arguments).output();
        let output = output.await.expect("curl is installed");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (socks, http) = (format!("socks5h://{addr}"), format!("http://{addr}"));
    let served = (Some(0), "name.invalid:80\n".to_owned());
    assert_eq!(curl(&["-x", &socks, "http://name.invalid/"]).await, served);
    assert_eq!(curl(&["-p", "-x", &http, "http://name.invalid/"]).await, served);
    let (_, answer) = curl(&["-x", &http, "http://name.invalid/"]).await;
    assert!(answer.contains("--proxytunnel"), "{answer}");
    assert_eq!(curl(&["-x", &socks, "http://policy.invalid/"]).await.0, Some(97));
    assert_eq!(curl(&["-p", "-x", &http, "http://policy.invalid/"]).await.0, Some(56));
}

#[tokio::test]
async fn it_listens_on_loopback_only_and_says_when_the_port_is_taken() {
    let error = Proxy::bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ProxyError::NotLoopback { .. }), "{error}");
    let error = Proxy::bind("[::ffff:1.2.3.4]:0".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ProxyError::NotLoopback { .. }), "{error}");
    let proxy = Proxy::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = Proxy::bind(proxy.addr()).await.unwrap_err();
    assert!(matches!(error, ProxyError::PortTaken { .. }), "{error}");
    assert!(error.to_string().contains(&proxy.addr().to_string()));
    Proxy::bind_anywhere("0.0.0.0:0".parse().unwrap()).await.unwrap();
}

#[tokio::test]
async fn junk_never_breaks_the_proxy() {
    let (addr, server) = start().await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..500 {
        let mut bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
        if round % 2 == 0 {
            bytes.splice(0..0, [5, 1, 0, 5, (random() % 4) as u8]);
        }
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        let _ = tcp.write_all(&bytes).await;
    }
    assert!(!server.is_finished());
    let answer = talk_text(addr, "CONNECT name.invalid:80 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
}
