//! Two machines and a chain node, each a process of its own, as users run them.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use support::{
    Market, Running, number, only, owed, paid, run, sha256, sha256_of, sparewire, until,
};

const FIVE_MIB: usize = 5 << 20;
/// A unit of money for about a byte.
const PRICE: u128 = 1_000_000_000;

#[test]
fn bytes_arrive_unchanged_both_ways_and_both_machines_tell_the_same_story() {
    let mut market = Market::funded();
    assert!(market.consumer.sessions().is_empty());
    let idle = market.consumer.json(&["status"]);
    assert!(idle["running"].is_null(), "{idle:#}");

    market.provide();
    market.connect();
    market.connected();
    a_day_on_the_line(&market);

    // While it runs, both say what is going on; the provider's figures are the consumer's.
    let (ours, theirs) = (market.consumer.status(), market.provider.status());
    assert_eq!((&ours["role"], &theirs["role"]), (&"consumer".into(), &"provider".into()));
    assert_eq!(theirs["address"], market.address.as_str());
    let live = until("the provider's figures", || {
        let live = only(market.provider.status()["sessions"].as_array().unwrap()).clone();
        (number(&live["bytes"]) >= 4 * FIVE_MIB as u128).then_some(live)
    });
    assert_eq!(live["session"], ours["session"]["session"]);
    assert!(number(&live["exposure_peak"]) <= number(&live["exposure_bound"]), "{live:#}");
    assert_eq!(only(&market.consumer.sessions())["state"], "open or broken off");

    // The provider can claim in mid-session; what follows is claimed later. A dry run tells what that
    // would bring, and claims nothing.
    let plan = market.provider.json(&["settle", "--dry-run"]);
    let row = only(plan["channels"].as_array().unwrap());
    assert_eq!((&row["verdict"], &row["worth"]), (&"claim".into(), &plan["brings"]), "{plan:#}");
    assert_eq!(number(&plan["transactions"]), 1, "{plan:#}");
    // The embedded chain's gas is worth nothing.
    assert_eq!((&plan["fee"], &plan["net"]), (&"0".into(), &plan["brings"]), "{plan:#}");
    assert!((50_000..200_000).contains(&number(&plan["gas"])), "{plan:#}");
    assert!(number(&plan["brings"]) > owed(3 * FIVE_MIB as u128, PRICE), "{plan:#}");
    assert_eq!(market.provider.claimed(), 0);
    let early = market.provider.settle();
    assert_eq!(early["transactions"].as_array().unwrap().len(), 1, "{early:#}");
    let claimed_early = market.provider.claimed();
    assert!(claimed_early > owed(3 * FIVE_MIB as u128, PRICE));
    market.download("/bytes/1000000");

    let consumer = market.disconnect();
    assert!(consumer.stderr.contains("settled:"), "{consumer:?}");
    let provider = market.stop_providing();
    // How many files may be open is this machine's affair.
    let mut complaints = provider.stderr.lines().filter(|line| !line.contains("open files"));
    assert!(
        !complaints.any(|line| line.contains("WARN") || line.contains("ERROR")),
        "{provider:?}"
    );

    let session = only(&market.consumer.sessions()).clone();
    let id = session["session"].as_str().unwrap();
    market.assert_sides_agree(id);
    let bytes = number(&session["paid_for"]["up"]) + number(&session["paid_for"]["down"]);
    let carried = (4 * FIVE_MIB + 1_000_000) as u128;
    assert!(bytes >= carried && bytes < carried + 10_000, "{bytes} for {carried} and headers");
    assert_eq!(paid(&session), owed(bytes, PRICE));
    // Short ids are as good as long ones.
    assert_eq!(market.consumer.session(&id[2..10])["session"], id);

    // Offline the provider claims the rest, and once more there is nothing left.
    market.provider.settle();
    assert_eq!(market.provider.claimed(), paid(&session));
    assert_eq!(market.provider.promised(), paid(&session));
    assert_eq!(market.consumer.promised(), paid(&session));
    let again = market.provider.settle();
    assert!(again["transactions"].as_array().unwrap().is_empty(), "{again:#}");
    let nothing = market.provider.unlock(["settle", "--dry-run"]).ok();
    assert_eq!(nothing.trim(), "nothing to claim");
    let earned = market.provider.json(&["wallet", "show"]);
    assert_eq!(number(&earned["funds"]["wallet"]), 100_000_000 + paid(&session), "{earned:#}");

    // The chain's events tell the same to anybody, and fit its state.
    let index = market.consumer.json(&["chain", "index", "--check"]);
    assert_eq!(index["verified_block"], index["last_block"], "{index:#}");
    assert_eq!(index["last_block"], index["final_block"], "{index:#}");
    let channel = session["channel"].as_str().unwrap();
    let told = market.provider.json(&["chain", "events", "--channel", channel]);
    let claims = told.as_array().unwrap().iter().filter(|event| event["event"] == "claimed");
    let claims: Vec<_> = claims.map(|event| number(&event["claimed"])).collect();
    assert_eq!(claims, [claimed_early, paid(&session)], "{told:#}");
    let opened = &told[0];
    assert_eq!((&opened["event"], &opened["channel"]), (&"opened".into(), &session["channel"]));
    let late = number(&told[told.as_array().unwrap().len() - 1]["block"]).to_string();
    let late = market.provider.json(&["chain", "events", "--since", &late]);
    assert!(late.as_array().unwrap().len() < told.as_array().unwrap().len(), "{late:#}");

    // Everything goes off and comes up again.
    let chain = market.chain.take().unwrap().stopped();
    assert!(chain.status.success(), "{chain:?}");
    market.chain_again();
    market.provide();
    market.connect();
    market.connected();
    market.download("/bytes/3000000");
    market.disconnect();
    market.provider.settle();
    market.stop_providing();

    let sessions = market.consumer.sessions();
    let [first, second] = &sessions[..] else { panic!("{sessions:#?}") };
    assert_eq!(first["channel"], second["channel"], "the channel is used again");
    market.assert_sides_agree(second["session"].as_str().unwrap());
    assert_eq!(market.provider.claimed(), paid(first) + paid(second));
    let status = market.provider.json(&["status"]);
    assert!(status["running"].is_null(), "{status:#}");
    assert_eq!(number(&status["earned_units"]), paid(first) + paid(second));
}

/// Downloads and uploads by both protocols of the proxy, 20 MiB in all.
fn a_day_on_the_line(market: &Market) {
    let url = market.origin.url(&format!("/bytes/{FIVE_MIB}"));
    let get = |mut curl: std::process::Command, name: &str| {
        let file = market.path(name);
        curl.args(["--fail", "--output"]).arg(&file).arg(&url);
        run(curl).ok();
        sha256(&fs::read(file).unwrap())
    };
    let expected = sha256_of(FIVE_MIB);
    assert_eq!(get(market.curl::<&str>([]), "socks"), expected);
    assert_eq!(get(market.curl_connect::<&str>([]), "connect"), expected);

    let file = market.path("socks");
    let mut put = market.curl(["--fail", "--upload-file"]);
    put.arg(&file).arg(market.origin.url("/put"));
    assert_eq!(run(put).ok(), expected, "the origin answers with the hash of what it got");
    let mut post = market.curl_connect(["--fail", "--data-binary"]);
    post.arg(format!("@{}", file.display())).arg(market.origin.url("/post"));
    assert_eq!(run(post).ok(), expected);
    for path in ["/put", "/post"] {
        let seen = market.origin.upload(path);
        assert_eq!((seen.length, seen.sha256), (FIVE_MIB, expected.clone()));
    }
}

#[test]
fn a_provider_that_goes_home_asks_its_consumer_to_settle_first() {
    let mut market = Market::open();
    market.download("/bytes/2000000");
    market.stop_providing();
    let session = only(&market.provider.sessions()).clone();
    assert_eq!(session["state"], "settled", "{session:#}");
    market.assert_sides_agree(session["session"].as_str().unwrap());

    // The consumer waits for it to come back, and is served again.
    market.provide();
    market.connected();
    market.download("/bytes/2000000");
    market.disconnect();
    let sessions = market.consumer.sessions();
    assert_eq!(sessions.len(), 2, "{sessions:#?}");
    market.assert_sides_agree(sessions[1]["session"].as_str().unwrap());
}

#[test]
fn a_channel_that_runs_dry_is_topped_up_within_the_budget_while_bytes_flow() {
    let mut market = Market::funded();
    // One channel amount pays for some 10 MiB, the budget for four of them.
    let flags = ["--max-price", "1000", "--channel-amount", "10", "--budget", "40"];
    market.connect_args = flags.map(str::to_owned).to_vec();
    market.provide();
    market.connect();
    market.connected();
    let length = 24 << 20;
    assert_eq!(sha256(&market.download(&format!("/bytes/{length}"))), sha256_of(length));
    let reserved = number(&market.consumer.channel()["on_chain"]["reserved"]);
    assert!(reserved == 30_000_000 || reserved == 40_000_000, "{reserved}");

    // Where the budget ends, service ends, and what is promised stays below what is there.
    let mut endless = market.curl(["--output", "/dev/null", "--max-time", "20"]);
    endless.arg(market.origin.url("/bytes/100000000"));
    let starved = Running::start(endless);
    market.connecting.as_mut().unwrap().warned("budget");
    let ended = market.connecting.take().unwrap().ended();
    ended.fails_with(&["budget is used up", "raise --budget"]);
    drop(starved);
    assert!(market.consumer.promised() >= 40_000_000 - 300_000);
    let session = only(&market.consumer.sessions()).clone();
    market.assert_sides_agree(session["session"].as_str().unwrap());
    assert!(paid(&session) <= 40_000_000, "{session:#}");
    market.provider.settle();
    assert_eq!(market.provider.claimed(), paid(&session));
}

#[test]
fn a_payer_can_leave_and_take_its_free_deposit_home() {
    let mut market = Market::open();
    market.download("/bytes/100000");
    market.disconnect();
    let id = market.consumer.channel()["channel"].as_str().unwrap().to_owned();
    // People read amounts of the token, programs its smallest units.
    let listed = |market: &Market| market.consumer.run(["channel", "list"]).ok();
    let open = listed(&market);
    assert!(open.contains("40 tUSD") && open.contains("payer"), "{open}");
    assert!(open.contains("0 tUSD") && open.trim_end().ends_with("open"), "{open}");
    assert!(!open.contains("40000000"), "{open}");
    assert_eq!(market.consumer.channel()["on_chain"]["reserved"], "40000000");
    let said = market.consumer.unlock(["channel", "close", &id, "--unilateral"]).ok();
    assert!(said.contains("86400 s"), "{said}");
    let channel = market.consumer.channel();
    assert!(channel["on_chain"]["status"].to_string().contains("losing"), "{channel:#}");
    assert!(listed(&market).contains("closing, 86"), "{}", listed(&market));
    // Too early: it says how long is left, and changes nothing.
    let said = market.consumer.unlock(["channel", "close", &id, "--unilateral"]).ok();
    assert!(said.contains("call again in"), "{said}");
    // The provider still gets what it was promised.
    market.provider.settle();
    assert_eq!(market.provider.claimed(), market.provider.promised());
    assert!(market.provider.claimed() > 0);
    market.consumer.unlock(["channel", "withdraw"]).ok();
    let unknown = market.consumer.unlock(["channel", "close", "0xffff"]);
    unknown.fails_with(&["0xffff", "channel list"]);
}

#[test]
fn the_example_configuration_is_a_configuration() {
    let root = tempfile::tempdir().unwrap();
    let example = run(sparewire(root.path(), ["config", "example"])).ok();
    fs::write(root.path().join("config.toml"), &example).unwrap();
    let status = run(sparewire(root.path(), ["status", "--json"])).json();
    assert_eq!(status["chain"], "http://127.0.0.1:8545");
    assert!(status["running"].is_null() && status["keys"].is_null(), "{status:#}");
}
