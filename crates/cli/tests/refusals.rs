//! What is not reached: the application is told why, and nobody pays for it.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, net::TcpListener};

use support::{Market, number, run};

/// A port of this machine on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks for `url` by SOCKS5 and by CONNECT, and compares what curl is told.
#[track_caller]
fn assert_refused(market: &Market, url: &str, socks_code: u8, status: u16, reason: &str) {
    let socks = run(market.curl([url]));
    assert_eq!(socks.status.code(), Some(97), "{socks:?}");
    assert!(socks.stderr.contains(&format!("({socks_code})")), "{url}: {socks:?}");

    let connect = run(market.curl_connect(["--verbose", "--write-out", "%{http_connect}", url]));
    assert!(!connect.status.success(), "{connect:?}");
    assert_eq!(connect.stdout, status.to_string(), "{url}: {connect:?}");
    let told = connect.stderr.to_lowercase();
    assert!(told.contains("< proxy-status: sparewire; error="), "{connect:?}");
    assert!(told.contains(reason), "no {reason:?}: {connect:?}");
}

#[test]
fn what_the_policy_forbids_is_refused_with_its_reason_and_not_billed() {
    let unheard = closed_port();
    let mut market = Market::funded();
    market.provide_args = vec!["--allow".into(), format!("127.0.0.1:{unheard}")];
    market.provide();
    market.connect();
    market.connected();
    market.download("/bytes/100000");
    let before = market.all_paid(100_000);

    let other = closed_port();
    let forbidden = "http_request_denied";
    assert_refused(&market, &format!("http://127.0.0.1:{other}/"), 2, 403, forbidden);
    assert_refused(&market, &format!("http://localhost:{other}/"), 2, 403, forbidden);
    assert_refused(&market, &format!("http://[::1]:{other}/"), 2, 403, forbidden);
    assert_refused(&market, &format!("http://[::ffff:127.0.0.1]:{other}/"), 2, 403, forbidden);
    assert_refused(&market, "http://169.254.169.254/latest/meta-data/", 2, 403, forbidden);
    assert_refused(&market, "http://10.0.0.1/", 2, 403, forbidden);
    assert_refused(&market, "http://8.8.8.8:25/", 2, 403, "25");
    // Allowed, and nobody there.
    let url = format!("http://127.0.0.1:{unheard}/");
    assert_refused(&market, &url, 5, 502, "connection_refused");

    // The line still works, and what is paid in the end is for the downloads only.
    market.download("/bytes/100000");
    market.disconnect();
    let session = support::only(&market.consumer.sessions()).clone();
    market.assert_sides_agree(session["session"].as_str().unwrap());
    let bytes = number(&session["paid_for"]["up"]) + number(&session["paid_for"]["down"]);
    assert_eq!(bytes, 2 * before, "two downloads and not a byte more: {session:#}");
}

#[test]
fn plain_proxy_requests_are_told_to_use_a_tunnel() {
    let market = Market::open();
    let proxy = format!("http://{}", market.proxy);
    let url = market.origin.url("/bytes/1");
    let said = run(support::curl(["--proxy", &proxy, "--write-out", "%{http_code}", &url])).ok();
    assert!(said.contains("--proxytunnel") && said.ends_with("405"), "{said}");
}

#[test]
fn a_lost_machine_whose_keys_the_wallet_revokes_is_served_no_more() {
    let mut market = Market::open();
    market.download("/bytes/100000");
    market.disconnect();
    let standing = |market: &Market| market.consumer.json(&["wallet", "device", "list"]);
    assert_eq!(standing(&market)["standing"], "unknown");
    market.consumer.unlock(["wallet", "device", "add", "--days", "30"]).ok();
    let registered = standing(&market);
    assert_eq!(registered["standing"], "registered", "{registered:#}");

    // Nothing named, nothing done; a stranger's key is nobody's business of ours.
    market.consumer.unlock(["wallet", "device", "revoke"]).fails_with(&["nothing is named"]);
    let authorizer = registered["authorizer"].as_str().unwrap().to_owned();
    let stranger = format!("0x{}", "77".repeat(20));
    market.consumer.unlock(["wallet", "device", "revoke", "--authorizer", &stranger]).ok();
    assert_eq!(standing(&market)["standing"], "registered");

    let said = market.consumer.unlock(["wallet", "device", "revoke", "--authorizer", &authorizer]);
    assert!(said.ok().contains("revoked for good"));
    let revoked = standing(&market);
    assert_eq!(revoked["standing"], "revoked", "{revoked:#}");
    assert_eq!(
        (&revoked["authorizer_revoked"], &revoked["device_revoked"]),
        (&true.into(), &false.into())
    );
    // Its old word brings nothing back, and its provider turns it down.
    market.consumer.unlock(["wallet", "device", "add"]).fails_with(&["was revoked for good"]);
    market.connect();
    let ended = market.connecting.take().unwrap().ended();
    ended.fails_with(&["has revoked this device or its authorizer"]);
    // What was promised is claimed all the same.
    market.provider.settle();
    assert_eq!(market.provider.claimed(), market.provider.promised());
    assert!(market.provider.claimed() > 0);
}

#[test]
fn what_the_wallet_caps_the_node_does_not_put_into_channels() {
    let mut market = Market::funded();
    let cap = |market: &Market, amount| {
        market.consumer.unlock(["wallet", "device", "cap", amount]).ok();
        market.consumer.json(&["wallet", "device", "list"])["cap"].clone()
    };
    assert_eq!(market.consumer.json(&["wallet", "device", "list"])["cap"], serde_json::Value::Null);
    assert_eq!(cap(&market, "0.5"), "500000");
    market.provide();
    market.connect();
    let ended = market.connecting.take().unwrap().ended();
    let told = ["cap on this node's authorizer is reached", "hold 0 tUSD of 0.5 tUSD and 40 tUSD"];
    ended.fails_with(&[told[0], told[1], "`wallet device cap` raises it, to 40 tUSD at least"]);
    assert_eq!(market.consumer.json(&["channel", "list"]), serde_json::json!([]));
    cap(&market, "1000");
    market.connect();
    market.download("/bytes/100000");
}

#[test]
fn a_node_whose_registry_is_not_there_or_whose_own_keys_are_revoked_says_so_and_does_not_start() {
    let market = Market::funded();
    let provide = || market.provider.unlock(["provide", "--listen", "127.0.0.1:0"]);
    let own = market.provider.json(&["wallet", "device", "list"]);
    let (authorizer, device) =
        (own["authorizer"].as_str().unwrap(), own["device"].as_str().unwrap());
    let revoke = ["wallet", "device", "revoke", "--authorizer", authorizer];

    let config = market.provider.dir.join("config.toml");
    fs::write(&config, format!("[chain]\nkeys = \"0x{}\"\n", "dd".repeat(20))).unwrap();
    fs::copy(&config, market.consumer.dir.join("config.toml")).unwrap();
    let missing = ["no registry of keys at", "[chain] keys"];
    market.provider.unlock(revoke).fails_with(&missing);
    market.provider.unlock(["wallet", "device", "add"]).fails_with(&missing);
    provide().fails_with(&missing);
    let nobody = format!("{}@127.0.0.1:9", device.trim_start_matches("0x"));
    let connect = market.consumer.unlock(["connect", "--proxy", "127.0.0.1:0", &nobody]);
    connect.fails_with(&missing);

    fs::remove_file(&config).unwrap();
    market.provider.unlock(revoke).ok();
    provide().fails_with(&["own keys are revoked", "--index"]);
    market.provider.settle();
}
