//! What others may watch: metrics and logs, and what neither ever tells.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{Market, curl, only, run, until};

/// One gauge of a node's metrics.
#[track_caller]
fn gauge(url: &str, name: &str) -> f64 {
    let text = run(curl(["--fail", url])).ok();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[test]
fn metrics_of_both_sides_agree_with_what_was_carried() {
    let mut market = Market::funded();
    for args in [&mut market.provide_args, &mut market.connect_args] {
        args.extend(["--metrics", "127.0.0.1:0"].map(str::to_owned));
    }
    market.provide();
    market.connect();
    market.connected();
    market.download("/bytes/1000000");
    let carried = market.all_paid(1_000_000) as f64;
    let url = |stderr: String| {
        let url = stderr.lines().find_map(|line| line.strip_prefix("metrics at "));
        url.unwrap().to_owned()
    };
    let provider = url(market.providing.as_ref().unwrap().stderr());
    let consumer = url(market.connecting.as_ref().unwrap().stderr());
    assert_eq!(gauge(&provider, "sparewire_sessions"), 1.0);
    assert_eq!(gauge(&consumer, "sparewire_connected"), 1.0);
    let bytes = |url: &str| {
        gauge(url, "sparewire_session_up_bytes") + gauge(url, "sparewire_session_down_bytes")
    };
    assert_eq!(bytes(&consumer), carried);
    until("the provider's figures", || (bytes(&provider) == carried).then_some(()));
    let paid = gauge(&consumer, "sparewire_session_paid_units");
    let promised = gauge(&provider, "sparewire_promised_units");
    assert!(paid > 0.0 && promised == paid, "{promised} of {paid}");
    let peak = gauge(&provider, "sparewire_exposure_peak_bytes");
    assert!(peak > 0.0 && peak <= f64::from(128 << 10), "{peak}");
    market.disconnect();
    let session = only(&market.consumer.sessions()).clone();
    market.assert_sides_agree(session["session"].as_str().unwrap());
}

#[test]
fn logs_are_structured_and_keep_destinations_and_secrets_to_themselves() {
    let mut market = Market::funded();
    let chatty = |mut command: std::process::Command| {
        command.args(["--log-format", "json"]).env("RUST_LOG", "debug");
        command
    };
    market.provide_with(chatty(market.provide_command()));
    market.connect_with(chatty(market.connect_command()));
    market.connected();
    market.download("/bytes/100000");
    let hidden = "hidden-destination.invalid";
    let refused = run(market.curl([&format!("http://{hidden}:8099/hidden-path")]));
    assert_eq!(refused.status.code(), Some(97), "{refused:?}");
    let port = market.origin.addr.port();
    let direct = run(market.curl_connect(["http://10.1.2.3:8077/"]));
    assert!(!direct.status.success());

    let consumer = market.disconnect();
    let provider = market.stop_providing();
    for ended in [&consumer, &provider] {
        let records: Vec<Value> =
            ended.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(records.len() > 5, "{ended:?}");
        for record in &records {
            assert!(record["level"].is_string() && record["timestamp"].is_string(), "{record}");
        }
        let origin = format!("127.0.0.1:{port}");
        for secret in [hidden, "hidden-path", &origin, "10.1.2.3", ":8077", "correct horse"] {
            let told = ended.stderr.lines().find(|line| line.contains(secret));
            assert!(told.is_none(), "{secret} in the log: {told:?}");
        }
    }
}
