//! Clients that nobody here wrote, and clients that misbehave in ordinary ways.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use support::{Market, PATIENCE, Running, only, sha256, sha256_of};

/// A SOCKS5 client by the book (RFC 1928).
fn socks5(proxy: SocketAddr, to: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(proxy).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.write_all(&[5, 1, 0]).unwrap();
    let mut method = [0; 2];
    tcp.read_exact(&mut method).unwrap();
    assert_eq!(method, [5, 0]);
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    let mut request = vec![5, 1, 0, 1];
    request.extend(to.ip().octets());
    request.extend(to.port().to_be_bytes());
    tcp.write_all(&request).unwrap();
    let mut reply = [0; 10];
    tcp.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..2], [5, 0]);
    tcp
}

/// Ends the session and compares both sides' statements.
#[track_caller]
fn assert_settles(mut market: Market) {
    market.disconnect();
    let session = only(&market.consumer.sessions()).clone();
    market.assert_sides_agree(session["session"].as_str().unwrap());
}

#[test]
fn twenty_downloads_at_once_through_one_session_arrive_unchanged() {
    let market = Market::open();
    let running: Vec<_> = (0..20)
        .map(|n| {
            let file = market.path(&format!("part-{n}"));
            let flags = ["--fail", "--output"];
            let mut command = match n % 2 {
                0 => market.curl(flags),
                _ => market.curl_connect(flags),
            };
            command.arg(&file).arg(market.origin.url(&format!("/bytes/{}", 300_000 + n)));
            (n, file, Running::start(command))
        })
        .collect();
    for (n, file, curl) in running {
        curl.ended().ok();
        assert_eq!(sha256(&fs::read(file).unwrap()), sha256_of(300_000 + n), "download {n}");
    }
    assert_settles(market);
}

#[test]
fn a_client_that_ends_its_half_first_still_gets_its_answer() {
    let market = Market::open();
    for length in [0, 1, 700_000] {
        let mut tcp = socks5(market.proxy, market.origin.addr);
        let mut question = vec![b'?'; length];
        question.insert(0, 0); // not HTTP: read to its end, then answered
        tcp.write_all(&question).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("{} {}", question.len(), sha256(&question)));
    }
    assert_settles(market);
}

#[test]
fn downloads_that_are_broken_off_leave_both_sides_with_the_same_count() {
    let market = Market::open();
    for round in 1..=3u128 {
        // By curl itself, by a kill, and by an application that closes in mid-air.
        let begun = market.counted().unwrap();
        let url = market.origin.url("/paced/20000000");
        match round {
            1 => {
                let mut curl = market.curl_connect(["--output", "/dev/null", "--max-time", "1"]);
                curl.arg(&url);
                assert_eq!(Running::start(curl).ended().status.code(), Some(28), "its time is up");
            }
            2 => {
                let curl = market.downloading("/paced/20000000");
                market.carried(begun + 1_000_000);
                curl.kill_9();
            }
            _ => {
                let mut tcp = socks5(market.proxy, market.origin.addr);
                tcp.write_all(b"GET /paced/20000000 HTTP/1.1\r\n\r\n").unwrap();
                tcp.read_exact(&mut vec![0; 500_000]).unwrap();
            }
        }
        let length = 400_000;
        assert_eq!(sha256(&market.download(&format!("/bytes/{length}"))), sha256_of(length));
    }
    assert_settles(market);
}

#[test]
fn an_upload_that_is_broken_off_leaves_both_sides_with_the_same_count() {
    let market = Market::open();
    let mut tcp = socks5(market.proxy, market.origin.addr);
    tcp.write_all(b"PUT /half HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n").unwrap();
    tcp.write_all(&vec![7; 2_000_000]).unwrap();
    market.carried(1_000_000);
    drop(tcp);
    assert_eq!(sha256(&market.download("/bytes/100000")), sha256_of(100_000));
    assert_settles(market);
}

#[test]
fn a_consumer_that_falls_silent_is_served_no_more_than_its_credit_and_goes_on_when_it_is_back() {
    let market = Market::open();
    let file = market.path("long");
    let mut command = market.curl(["--fail", "--output"]);
    command.arg(&file).arg(market.origin.url("/paced/12000000"));
    let curl = Running::start(command);
    market.carried(1_000_000);
    let consumer = market.connecting.as_ref().unwrap();
    consumer.signal("-STOP");
    // It neither reads nor pays; the provider stops by itself.
    let live = || only(market.provider.status()["sessions"].as_array().unwrap()).clone();
    let mut before = serde_json::Value::Null;
    let stopped = support::until("the valve", || {
        let now = live();
        let rests = now["bytes"] == before["bytes"];
        before = now.clone();
        rests.then_some(now)
    });
    let bytes = support::number(&stopped["bytes"]);
    let unpaid = bytes - support::number(&stopped["paid"]) * (1 << 30) / 1_000_000_000;
    // Money comes in units, each worth a little more than a byte.
    assert!(unpaid <= (128 << 10) + 2, "{unpaid} bytes unpaid: {stopped:#}");
    assert!(bytes < 12_000_000, "{stopped:#}");
    consumer.signal("-CONT");
    curl.ended().ok();
    assert_eq!(sha256(&fs::read(file).unwrap()), sha256_of(12_000_000));
    assert_settles(market);
}
