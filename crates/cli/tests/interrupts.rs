//! Ctrl-C: the first one settles, the next one ends; and nothing that was signed is lost by it.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use support::{Ended, Market, Running, SPAREWIRE, curl, only, owed, paid, run, sparewire, until};

/// "At once", on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(4);
/// A unit of money for about a byte.
const PRICE: u128 = 1_000_000_000;

/// Sends `signal` to a process that must end by it, at once and with the exit code of Ctrl-C.
#[track_caller]
fn cut(running: Running, signal: &str) -> Ended {
    let began = Instant::now();
    running.signal(signal);
    let ended = running.ended();
    assert!(began.elapsed() < AT_ONCE, "{:?} for {ended:?}", began.elapsed());
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert!(ended.stderr.contains("interrupted: "), "{ended:?}");
    for word in ["panicked", "ERROR", "error: "] {
        assert!(!ended.stderr.contains(word), "{ended:?}");
    }
    ended
}

/// After everybody is at home again, both tell the same story and all of it is claimed.
#[track_caller]
fn assert_goes_on(market: &mut Market, carried: u128) {
    market.connected();
    market.download("/bytes/500000");
    market.disconnect();
    let session = only(&market.consumer.sessions()).clone();
    assert!(paid(&session) >= owed(carried + 500_000, PRICE), "{session:#}");
    market.assert_sides_agree(session["session"].as_str().unwrap());
    market.provider.settle();
    assert_eq!(market.provider.claimed(), paid(&session));
}

#[test]
fn a_second_ctrl_c_ends_a_provider_whose_consumers_do_not_answer() {
    let mut market = Market::open();
    market.download("/bytes/2000000");
    market.all_paid(2_000_000);
    let consumer = market.connecting.as_ref().unwrap();
    consumer.signal("-STOP");
    let mut provider = market.providing.take().unwrap();
    provider.interrupt();
    provider.warned("asking consumers to settle… (Ctrl-C again");
    assert!(provider.is_running());
    let ended = cut(provider, "-INT");
    for words in ["nothing that was signed is lost", "sparewire provide", "sparewire settle"] {
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    // What was earned is there, and the session goes on.
    market.provider.settle();
    assert_eq!(market.provider.claimed(), market.provider.promised());
    assert!(market.provider.claimed() >= owed(2_000_000, PRICE));
    market.provide();
    market.connecting.as_ref().unwrap().signal("-CONT");
    until("the consumer to be back", || {
        let mut curl = market.curl(["--fail", "--output", "/dev/null"]);
        curl.arg(market.origin.url("/bytes/1"));
        run(curl).status.success().then_some(())
    });
    assert_goes_on(&mut market, 2_000_000);
}

#[test]
fn a_second_ctrl_c_ends_a_consumer_whose_provider_does_not_answer() {
    let mut market = Market::open();
    market.download("/bytes/2000000");
    market.all_paid(2_000_000);
    let provider = market.providing.as_ref().unwrap();
    provider.signal("-STOP");
    let mut consumer = market.connecting.take().unwrap();
    consumer.interrupt();
    consumer.warned("settling the session… (Ctrl-C again");
    assert!(consumer.is_running());
    let ended = cut(consumer, "-TERM");
    for words in ["nothing that was signed is lost", "sparewire connect"] {
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    assert!(!market.consumer.dir.join("control.sock").exists());
    market.providing.as_ref().unwrap().signal("-CONT");
    market.connect();
    assert_goes_on(&mut market, 2_000_000);
}

#[test]
fn a_demo_that_is_stopped_before_its_statement_leaves_nothing_behind() {
    for args in [&["demo"][..], &["demo", "--once"]] {
        for phase in ["starting an embedded", "starting a provider", "a session"] {
            let temp = tempfile::tempdir().unwrap();
            let mut command = std::process::Command::new(SPAREWIRE);
            command.args(args).env("TMPDIR", temp.path()).env_remove("RUST_LOG");
            let mut demo = Running::start(command);
            if phase == "a session" {
                metering(&mut demo, || {
                    let made = std::fs::read_dir(temp.path()).unwrap().next()?.unwrap();
                    Some(made.path())
                });
            } else {
                demo.warned(phase);
            }
            let ended = cut(demo, "-INT");
            assert_eq!(ended.stdout, "", "{ended:?}");
            assert!(ended.stderr.contains("nothing is left"), "{ended:?}");
            let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().collect();
            assert!(left.is_empty(), "{phase}: left behind: {left:?}");
        }
    }
}

/// Waits until a demo's metered transfer has begun.
#[track_caller]
fn metering<P: AsRef<Path>>(demo: &mut Running, dir: impl Fn() -> Option<P>) {
    until("a session of the demo", || {
        assert!(demo.is_running(), "it ended first: {}", demo.stderr());
        let consumer = dir()?.as_ref().join("consumer");
        consumer.join("store.sqlite").exists().then_some(())?;
        // Where the store is being made it cannot be read yet.
        let listed = run(sparewire(&consumer, ["session", "list", "--json"]));
        (listed.status.success() && listed.stdout.contains("0x")).then_some(())
    });
}

#[test]
fn a_demo_that_is_kept_goes_on_after_any_ctrl_c() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("demo");
    // Cut in mid-transfer.
    let mut demo = Running::start(sparewire(&dir, ["demo", "--once"]));
    metering(&mut demo, || Some(&dir));
    let ended = cut(demo, "-INT");
    assert!(ended.stderr.contains("the same --data-dir goes on"), "{ended:?}");

    // Cut while it settles: a running download holds it up.
    let mut demo = Running::start(sparewire(&dir, ["demo", "--size", "4MiB"]));
    let line = demo.said(|line| line.starts_with("curl ").then(|| line.to_owned()));
    let mut slow = curl(line.split_whitespace().skip(1));
    slow.args(["--limit-rate", "50k"]);
    let slow = Running::start(slow);
    std::thread::sleep(Duration::from_millis(500)); // it has begun; if not, the demo says so below
    demo.interrupt();
    demo.warned("settling… (Ctrl-C again");
    cut(demo, "-INT");
    drop(slow);

    run(sparewire(&dir, ["demo", "--once", "--size", "4MiB"])).ok();
}
