//! A provider's bond, by whole processes: put up, taken back, and slashed for what it signed.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use sparewire_core::{Amount, Signed, Signer, TypedData};
use sparewire_node::store::{SqliteStore, Store};
use sparewire_protocol::{Countersigned, Receipt};
use sparewire_wallet::NodeKeys;
use support::{Market, Node, Running, number, only, run, until};

/// The token's smallest units: it has 6 decimals.
const TOKEN: u128 = 1_000_000;
/// What the faucet gives.
const FAUCET: u128 = 100 * TOKEN;
const MONTH: u64 = 30 * 86_400;

/// What an address has of the test token.
fn tokens(market: &Market, address: &str) -> u128 {
    // balanceOf(address)
    let data = format!("0x70a08231{:0>64}", address.trim_start_matches("0x"));
    let balance = market.rpc("eth_call", json!([{ "to": market.token, "data": data }, "latest"]));
    u128::from_str_radix(balance.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// As people are shown addresses; programs get them in lower case.
fn says(text: &str, address: &str) -> bool {
    text.to_lowercase().contains(address)
}

/// What `node` shows of a bond: of its own payee, or of `of`.
fn shown(node: &Node, of: Option<&str>) -> Value {
    let mut args = vec!["stake", "show"];
    args.extend(of.iter().flat_map(|of| ["--of", of]));
    node.json(&args)["bond"].clone()
}

fn bonded(node: &Node) -> (u128, u128) {
    let bond = shown(node, None);
    (number(&bond["bonded"]) / TOKEN, number(&bond["covered"]) / TOKEN)
}

#[test]
fn a_bond_is_shown_and_leaves_thirty_days_after_it_was_announced() {
    let market = Market::funded();
    let node = &market.provider;
    let wallet = node.wallet();
    assert_eq!(bonded(node), (0, 0));
    let leave = |amount: &str| node.unlock(["stake", "leave", amount]);
    let unbond = || node.unlock(["stake", "unbond"]);
    leave("1").fails_with(&["nothing bonded", "stake bond"]);
    node.unlock(["stake", "bond", "0"]).fails_with(&["zero"]);
    node.unlock(["stake", "bond", "1000"]).fails_with(&["not enough tokens"]);
    let said = node.unlock(["stake", "bond", "20"]).ok();
    assert!(says(&said, &wallet), "{said}");
    for words in ["bonded   20 tUSD", "covered  20 tUSD", "takes 10 tUSD"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(tokens(&market, &wallet), FAUCET - 20 * TOKEN);
    let theirs = shown(&market.consumer, Some(&wallet));
    assert_eq!(number(&theirs["bonded"]), 20 * TOKEN, "others see it");

    leave("25").fails_with(&["only 20 tUSD", "25 tUSD cannot leave"]);
    unbond().fails_with(&["nothing of the bond is announced", "stake leave"]);
    let said = leave("5").ok();
    assert!(said.contains("leaving  5 tUSD, from 2") && said.contains("covered  15"), "{said}");
    unbond().fails_with(&["cannot be taken back before"]);
    assert_eq!(bonded(node), (20, 15));
    // Announced again, it is the same announcement.
    let due = shown(node, None)["due_secs"].clone();
    market.pass(MONTH / 2);
    leave("5").ok();
    assert_eq!(shown(node, None)["due_secs"], due);
    market.pass(MONTH / 2);
    unbond().ok();
    assert_eq!((bonded(node), tokens(&market, &wallet)), ((15, 15), FAUCET - 15 * TOKEN));
    // An announcement is taken back.
    leave("15").ok();
    assert_eq!(bonded(node), (15, 0));
    let said = leave("0").ok();
    assert!(!said.contains("leaving"), "{said}");
    assert_eq!(bonded(node), (15, 15));

    // Elsewhere there is none, unless it is named.
    fs::write(node.dir.join("config.toml"), "[chain]\nchain_id = 1\n").unwrap();
    node.run(["stake", "show"]).fails_with(&["no contract that holds bonds", "[chain] stake"]);
    let nowhere = format!("[chain]\nstake = \"0x{}\"\n", "dd".repeat(20));
    fs::write(node.dir.join("config.toml"), nowhere).unwrap();
    node.run(["stake", "show"]).fails_with(&["no stake contract at", "chain deploy"]);
    node.unlock(["stake", "bond", "1"]).fails_with(&["no stake contract at"]);
    assert_eq!(tokens(&market, &wallet), FAUCET - 15 * TOKEN);
}

#[test]
fn the_bond_is_the_wallets_that_is_paid_and_only_its_key_takes_it_back() {
    let market = Market::funded();
    let (node, cold) = (&market.provider, Node::fresh(market.root.path(), "cold", market.rpc));
    node.delegated_by(&cold);
    let config = "[provider]\ndelegation = \"delegation.json\"\n";
    fs::write(node.dir.join("config.toml"), config).unwrap();
    let theirs = cold.wallet();
    let told = ["would be 0x", "only that wallet's key could take it back", "--holder 0x"];
    node.unlock(["stake", "bond", "3"]).fails_with(&told);
    node.unlock(["stake", "bond", "3", "--holder", &node.wallet()]).fails_with(&told);
    assert_eq!(bonded(node), (0, 0));
    assert!(says(&node.unlock(["stake", "bond", "3", "--holder", &theirs]).ok(), &theirs));
    assert_eq!(bonded(node), (3, 3));
    assert_eq!(number(&shown(node, Some(&node.wallet()))["bonded"]), 0);
    let refused = ["3 tUSD", "only that wallet can take it back"];
    node.unlock(["stake", "leave", "3"]).fails_with(&refused);
    node.unlock(["stake", "unbond"]).fails_with(&refused);
    market.provider.run(["chain", "faucet", &cold.wallet()]).ok();
    assert!(cold.unlock(["stake", "leave", "3"]).ok().contains("leaving  3 tUSD"));
}

/// A way to a chain node that breaks off where somebody looks for a transaction: returns its
/// address, and whether it did.
fn breaking_off(market: &Market) -> (SocketAddr, Arc<AtomicBool>) {
    let (node, broke) = (market.rpc, Arc::new(AtomicBool::new(false)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, told) = (listener.local_addr().unwrap(), broke.clone());
    thread::spawn(move || {
        for near in listener.incoming() {
            let (mut near, broke) = (near.unwrap(), told.clone());
            let mut far = TcpStream::connect(node).unwrap();
            let (mut answers, mut back) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            thread::spawn(move || {
                let mut asked = [0; 65_536];
                while let Ok(length @ 1..) = near.read(&mut asked) {
                    let words = String::from_utf8_lossy(&asked[..length]);
                    if words.contains("eth_getTransactionReceipt") {
                        broke.store(true, Ordering::SeqCst);
                        return;
                    }
                    far.write_all(&asked[..length]).unwrap();
                }
            });
        }
    });
    (at, broke)
}

#[test]
fn a_bond_that_was_broken_off_and_is_asked_for_again_is_put_up_once() {
    let market = Market::funded();
    let node = &market.provider;
    let (way, broke) = breaking_off(&market);
    // Killed when its first transaction was sent, and not seen in a block yet.
    let rpc = format!("http://{way}");
    let mut command = support::sparewire(&node.dir, ["--rpc", &rpc, "stake", "bond", "20"]);
    command.arg("--password-file").arg(&node.password);
    let running = Running::start(command);
    until("it looks for its transaction", || broke.load(Ordering::SeqCst).then_some(()));
    running.kill_9();

    let again = node.unlock(["stake", "bond", "20"]);
    assert!(again.stderr.contains("the bond of an earlier call"), "{}", again.stderr);
    assert!(again.ok().contains("bonded   20 tUSD"));
    assert_eq!(bonded(node), (20, 20));
    // And then it is another one.
    node.unlock(["stake", "bond", "20"]).ok();
    assert_eq!(bonded(node), (40, 40));
}

/// Has the provider's authorizer sign a second receipt with the number of one that the consumer
/// holds, and the consumer be shown it. Returns the session.
fn contradicted(market: &Market) -> String {
    let password = fs::read_to_string(&market.provider.password).unwrap();
    let (keys, _) = NodeKeys::open(&market.provider.dir.join("keys"), password.trim()).unwrap();
    let store = SqliteStore::open(&market.consumer.dir.join("store.sqlite")).unwrap();
    let known = only(&store.sessions().unwrap()).clone();
    let (session, domain) = (known.agreement.session, *known.agreement.domain());
    let ours = store.receipts(session).unwrap()[0];
    let body = Receipt { amount: Amount::new(1).unwrap(), ..ours.receipt.body };
    let payee_signature = keys.authorizer.sign_digest(body.digest(&domain)).unwrap();
    // The payer's signature is of the other one.
    let receipt = Signed { body, signature: ours.receipt.signature };
    let theirs = Countersigned { receipt, payee_signature };
    let delegation = store.offer(session).unwrap().unwrap().delegation;
    assert!(store.contradicted(&delegation, &theirs).unwrap().is_some());
    session.to_string()
}

#[test]
fn a_provider_that_signed_two_receipts_with_one_number_is_reported_by_its_consumer() {
    let mut market = Market::open();
    market.download("/bytes/3000000");
    market.disconnect();
    market.stop_providing();
    let (consumer, provider) = (&market.consumer, &market.provider);
    let id = only(&consumer.sessions())["session"].as_str().unwrap().to_owned();
    let report = || consumer.unlock(["stake", "report", &id]);
    report().fails_with(&["there is no evidence", "session explain"]);
    assert_eq!(contradicted(&market), id);
    let told = consumer.run(["session", "explain", &id]).ok();
    assert!(told.contains("signed another one with this number too"), "{told}");
    assert_eq!(consumer.json(&["session", "explain", &id])["contradictions"][0]["sequence"], 1);

    let before = tokens(&market, &consumer.wallet());
    assert!(says(&report().failed(), &provider.wallet()));
    report().fails_with(&["nothing bonded"]);
    provider.unlock(["stake", "bond", "12"]).ok();
    // It commits, and is killed while it waits; nothing is shown yet.
    let mut command = consumer.command(["stake", "report", &id, "--password-file"]);
    command.arg(&consumer.password);
    let mut running = Running::start(command);
    running.warned("of block time the evidence is shown");
    running.kill_9();
    assert_eq!(bonded(provider), (12, 12));
    // It finds its commitment again under another authorizer too.
    consumer.unlock(["wallet", "device", "rotate"]).ok();
    market.pass(300);
    let said = report().ok();
    for words in ["reward   5 tUSD", "burned   5 tUSD", "reported 0x", " gas, "] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(tokens(&market, &consumer.wallet()), before + 5 * TOKEN);
    assert_eq!(bonded(provider), (2, 2));
    let sent = || market.rpc("eth_getTransactionCount", json!([consumer.wallet(), "latest"]));
    let transactions = sent();

    // Asked for again, it tells what was; whoever else has the evidence is told that it is used.
    let again = consumer.unlock(["stake", "report", &id, "--json"]).json();
    assert_eq!(number(&again["slashed"]["reward"]), 5 * TOKEN);
    assert!(number(&again["gas_used"]) > 120_000, "both transactions: {again}");
    let other = Node::fresh(market.root.path(), "other", market.rpc);
    fs::copy(consumer.dir.join("store.sqlite"), other.dir.join("store.sqlite")).unwrap();
    other.unlock(["stake", "report", &id]).fails_with(&["was reported before"]);
    assert_eq!(sent(), transactions);
}

#[test]
fn a_frozen_channel_is_shown_closed_and_never_paid_over_again() {
    let mut market = Market::open();
    market.download("/bytes/1000000");
    market.disconnect();
    assert_eq!(market.consumer.channel()["frozen"], false);
    assert!(!market.consumer.run(["status"]).ok().contains("frozen"));
    contradicted(&market);
    let channel = market.consumer.channel();
    let id = channel["channel"].as_str().unwrap();
    assert_eq!(channel["frozen"], true);
    assert_eq!(only(market.consumer.json(&["status"])["frozen"].as_array().unwrap()), id);
    for show in [&["channel", "list"][..], &["status"]] {
        let said = market.consumer.run(show).ok();
        assert!(said.contains("frozen: two receipts of one number"), "{said}");
    }
    let refused = ["two receipts with one number", id, "`channel close`", "--forgive"];
    run(market.connect_command()).fails_with(&refused);

    // Another authorizer takes over, and what is left does not move to a new channel by the way.
    let rotated = market.consumer.unlock(["wallet", "device", "rotate"]);
    assert!(rotated.stderr.contains("is not moved: its provider signed two"), "{rotated:?}");
    assert!(rotated.ok().contains("0 channels moved, 1 left"));
    // The way out by itself, and at once where the provider agrees after all.
    let close =
        |how: &[&str]| market.consumer.unlock([&["channel", "close", id], how].concat()).ok();
    assert!(close(&["--unilateral"]).starts_with("closing; "));
    assert!(close(&[]).starts_with("closed; "));
    assert_eq!(market.provider.claimed(), market.provider.promised());
    run(market.connect_command()).fails_with(&refused);

    market.connect_args.push("--forgive".to_owned());
    market.connect();
    market.connected();
    market.download("/bytes/100000");
    market.disconnect();
    let channels = market.consumer.json(&["channel", "list"]).as_array().unwrap().clone();
    let frozen = |it: &&Value| it["frozen"] == true;
    assert_eq!(channels.len(), 2);
    let was: Vec<_> = channels.iter().filter(frozen).collect();
    assert_eq!(only(&was)["promised"], channel["promised"], "nothing more");
}

#[test]
fn a_restored_provider_with_a_bond_sells_again_only_under_another_authorizer() {
    let mut market = Market::funded();
    let node = &market.provider;
    let wallet = node.wallet();
    // The backup is older than its store: there is no channel that could be marked.
    let (file, secret) = (market.path("node.backup"), market.path("secret"));
    fs::copy(&node.password, &secret).unwrap();
    let backup = |verb: &str| {
        let mut command = node.command(["backup", verb]);
        command.arg(&file).arg("--password-file").arg(&secret);
        run(command).ok()
    };
    backup("create");
    node.unlock(["stake", "bond", "12"]).ok();
    fs::rename(&node.dir, market.path("dead")).unwrap();
    backup("restore");
    fs::copy(&secret, node.dir.join("password")).unwrap();

    let refused = ["was restored from a backup", "12 tUSD", "device rotate", "stake leave"];
    let sells = run(market.provide_command());
    assert!(says(&sells.stderr, &wallet), "{sells:?}");
    sells.fails_with(&refused);
    let bond = || node.unlock(["stake", "bond", "1"]);
    bond().fails_with(&["was restored from a backup", "device rotate"]);
    // What is on its way out can be slashed until it is out.
    node.unlock(["stake", "leave", "12"]).ok();
    run(market.provide_command()).fails_with(&refused);
    assert_eq!(bonded(node), (12, 0));

    node.unlock(["wallet", "device", "rotate"]).ok();
    bond().ok();
    assert_eq!(bonded(node).0, 13);
    market.provide();
    market.connect();
    market.connected();
    market.download("/bytes/100000");
    market.disconnect();
}
