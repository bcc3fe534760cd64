//! `sparewire demo`: a whole market in one process, and figures that add up.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Ended, Running, curl, number, owed, run, sparewire};

const MIB: u128 = 1 << 20;

/// Runs `demo --once` in `dir`.
fn demo_in(dir: &Path, args: &[&str]) -> Ended {
    run(sparewire(dir, ["demo", "--once", "--json"].iter().chain(args)))
}

/// Runs `demo --once` where nothing is left of it.
fn demo(args: &[&str]) -> Ended {
    let temp = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(support::SPAREWIRE);
    command.args(["demo", "--once", "--json"]).args(args).env("TMPDIR", temp.path());
    let ended = run(command);
    let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    ended
}

fn total(reading: &Value) -> u128 {
    number(&reading["up"]) + number(&reading["down"])
}

/// Holds every figure of a report against the others, by arithmetic of our own.
fn assert_adds_up(report: &Value, size: u128, price: u128) {
    assert_eq!(report["agree"], true, "{report:#}");
    assert_eq!(report["disagreements"], Value::Array(vec![]));
    assert_eq!(number(&report["sample_bytes"]), size);
    let (buyer, seller) = (&report["consumer"], &report["provider"]);
    assert_eq!((&buyer["role"], &seller["role"]), (&"payer".into(), &"payee".into()));
    for key in ["session", "channel", "counted", "receipted", "price", "paid", "cumulative"] {
        assert_eq!(buyer[key], seller[key], "{key}");
    }
    assert_eq!(number(&seller["price"]), price);
    assert_eq!(seller["counted"], seller["receipted"]);
    let bytes = total(&seller["counted"]);
    let down = number(&seller["counted"]["down"]);
    assert!(down >= size && down < size + 1024, "{down} for a sample of {size} and its headers");
    assert_eq!(number(&seller["paid"]), owed(bytes, price));
    assert!(number(&seller["cumulative"]) >= number(&seller["paid"]));
    assert_eq!(report["claimed_on_chain"], seller["cumulative"]);
    for side in [buyer, seller] {
        assert!(number(&side["exposure_peak"]) <= number(&side["exposure_bound"]), "{side:#}");
        assert!(number(&side["payments"]) >= 1 && number(&side["receipts"]) >= 1, "{side:#}");
    }
    assert!(number(&seller["exposure_peak"]) > 0, "something was served before it was paid");
    for gas in report["gas"].as_array().unwrap() {
        assert!(number(&gas["gas"]) > 21_000 && number(&gas["fee_wei"]) > 0, "{gas:#}");
    }
    let rate = |key: &str| report[key].as_f64().unwrap();
    let ratio = rate("throughput_mib_s") / rate("unmetered_mib_s");
    assert!((rate("ratio") - ratio).abs() < 1e-6 * ratio, "{report:#}");
}

fn did(report: &Value, what: &str) -> bool {
    report["gas"].as_array().unwrap().iter().any(|gas| gas["what"] == what)
}

#[test]
fn every_figure_of_the_demo_follows_from_the_others() {
    let report = demo(&["--size", "8MiB"]).json();
    assert_adds_up(&report, 8 * MIB, 20_000);
    assert!(number(&report["consumer"]["paid"]) >= 156, "8 MiB at 0.02 per GiB");
    // A stranger's credit, while 64 times as much has not been paid.
    assert!(number(&report["provider"]["exposure_bound"]) <= (8 * MIB + 1024) / 64 + 1);
    assert!(did(&report, "deposit") && did(&report, "open") && did(&report, "claim"));
}

#[test]
fn a_free_demo_pays_and_claims_nothing_and_still_signs_for_every_byte() {
    let report = demo(&["--size", "1MiB", "--price", "0"]).json();
    assert_adds_up(&report, MIB, 0);
    assert_eq!(report["claimed_on_chain"], "0");
    assert!(!did(&report, "claim"), "{report:#}");
}

#[test]
fn a_demo_of_one_byte_adds_up() {
    // The session ends before either side has had time to do anything else: it used to be cut off.
    for _ in 0..3 {
        assert_adds_up(&demo(&["--size", "1B", "--price", "1000"]).json(), 1, 1_000_000_000);
    }
}

#[test]
fn a_demo_at_a_dear_price_funds_its_channel_for_it() {
    let report = demo(&["--size", "300KiB", "--price", "100000000"]).json();
    assert_adds_up(&report, 300 << 10, 100_000_000_000_000);
}

#[test]
fn a_second_demo_on_the_same_data_goes_on_where_the_first_ended() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--size", "2MiB", "--price", "1"];
    let first = demo_in(dir.path(), &args).json();
    assert_adds_up(&first, 2 * MIB, 1_000_000);
    let second = demo_in(dir.path(), &args).json();
    assert_adds_up(&second, 2 * MIB, 1_000_000);

    assert_eq!(first["consumer"]["channel"], second["consumer"]["channel"]);
    assert_ne!(first["consumer"]["session"], second["consumer"]["session"]);
    assert!(!did(&second, "open"), "the channel is there already");
    let before = number(&first["consumer"]["cumulative"]);
    let more = number(&second["consumer"]["paid"]);
    assert_eq!(number(&second["consumer"]["cumulative"]), before + more);
    assert_eq!(number(&second["claimed_on_chain"]), before + more);
}

#[test]
fn sizes_and_prices_that_make_no_sense_are_named_before_anything_starts() {
    for (args, word) in [
        (["--size", "0"], "--size"),
        (["--size", "many"], "--size: 'many'"),
        (["--size", "99999999TiB"], "too large"),
        (["--price", "cheap"], "--price"),
        (["--price", "0.0000001"], "6 decimals"),
        (["--price", "99999999999999999999999999"], "too large"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        demo_in(&dir, &args).fails_with(&[word]);
        assert!(!dir.exists(), "{args:?} left something behind");
    }
    let dir = tempfile::tempdir().unwrap();
    let negative = demo_in(dir.path(), &["--price=-1"]);
    negative.fails_with(&["--price"]);
}

#[test]
fn a_demo_that_stays_up_serves_the_curl_line_it_prints_and_settles_on_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["demo", "--size", "1MiB", "--price", "1000"];
    let mut demo = Running::start(sparewire(dir.path(), args));
    let line = demo.said(|line| line.starts_with("curl ").then(|| line.to_owned()));
    let mut words: Vec<_> = line.split_whitespace().skip(1).collect();
    words.extend(["--fail", "--write-out", "%{size_download}"]);
    assert_eq!(run(curl(words)).ok(), (1 << 20).to_string());
    let ended = demo.stopped();
    assert!(ended.stderr.contains("settled:"), "{ended:?}");
    let said = ended.ok();
    assert!(said.contains("All figures agree."), "{said}");

    // What curl fetched is settled and claimed too.
    let side = |name: &str, args: &[&str]| {
        let mut command = sparewire(&dir.path().join(name), args);
        command.arg("--json");
        run(command).json()
    };
    let consumer = side("consumer", &["session", "list"]);
    let provider = side("provider", &["session", "list"]);
    let paid = |sessions: &Value| {
        let sessions = sessions.as_array().unwrap();
        assert!(sessions.iter().all(|session| session["state"] == "settled"), "{sessions:#?}");
        assert_eq!(sessions.len(), 2);
        sessions.iter().map(|session| number(&session["paid"])).sum::<u128>()
    };
    assert_eq!(paid(&consumer), paid(&provider));
    assert!(paid(&consumer) >= 2 * owed(MIB, 1_000_000_000));
}
