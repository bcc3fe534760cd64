//! Torrents for money, between processes on loopback, over the embedded chain.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use support::{Market, Node, Running, number, only, owed, run, sparewire, until};

const PRICE: &str = "1000";
const PRICE_UNITS: u128 = 1_000_000_000;
const LEN: usize = 3 << 20;

fn configure(dir: &Path) {
    let config = "[content]\nlisten = \"127.0.0.1:0\"\nlocal_discovery = false\n\
        [consumer]\nchannel_amount = \"20\"\nbudget = \"50\"\n";
    fs::write(dir.join("config.toml"), config).unwrap();
}

fn content(node: &Node, args: &[&str]) -> Command {
    let mut command = node.command(["content"]);
    command.args(args).arg("--password-file").arg(&node.password).current_dir(&node.dir);
    command
}

/// Shares `name` for [`PRICE`], and says where.
fn selling(node: &Node, name: &str, more: &[&str]) -> (Running, String) {
    configure(&node.dir);
    let data: Vec<u8> = (0..LEN).map(|at| (at * 7 + at / 251) as u8).collect();
    fs::write(node.dir.join(name), data).unwrap();
    let mut command = content(node, &["share", name, "--price", PRICE, "--json"]);
    command.args(more);
    let mut running = Running::start(command);
    let at = running.said(|line| {
        let rest = line.trim().strip_prefix("\"listen\": \"")?;
        rest.split('"').next().map(str::to_owned)
    });
    (running, at)
}

#[test]
fn what_is_fetched_is_paid_for_to_the_byte_and_claimed() {
    for format in ["--v1", "--v2"] {
        let market = Market::funded();
        let (seller, buyer) = (&market.provider, &market.consumer);
        let (sharing, at) = selling(seller, "goods", &[format]);
        configure(&buyer.dir);
        let torrent = seller.dir.join("goods.torrent");
        let torrent = torrent.to_str().unwrap();
        let get = ["get", torrent, "--peer", &at, "--no-seed", "--max-price", PRICE, "--json"];
        let done = run(content(buyer, &get));
        // To the unit, and what that is for a GiB to four digits.
        let told = "3.00 MiB came, 2.929688 tUSD (1000 per GiB) paid";
        assert!(done.stderr.trim_end().ends_with(told), "{done:?}");
        let done = done.json();
        let goods = fs::read(buyer.dir.join("goods")).unwrap();
        assert!(goods == fs::read(seller.dir.join("goods")).unwrap(), "{format}");
        let price = owed(LEN as u128, PRICE_UNITS);
        assert_eq!(number(&done["paid"]), price, "{format} {done}");

        let shown = seller.json(&["content", "show", "goods"]);
        assert_eq!(number(&shown["earned"]), price, "{format} {shown}");
        let shown = seller.run(["content", "show", "goods"]).ok();
        let paid = shown.lines().find(|line| line.starts_with("paid")).unwrap();
        assert_eq!(paid.matches("paid").count(), 1);
        assert!(paid.contains("since this process began"), "{paid}");
        // Claimed while it goes on sharing.
        seller.settle();
        assert_eq!(seller.claimed(), price);
        let session = only(&buyer.sessions())["session"].as_str().unwrap().to_owned();
        market.assert_sides_agree(&session);
        let ended = sharing.stopped();
        let told = "3.00 MiB sent, 2.929688 tUSD earned";
        assert!(ended.stderr.contains(told), "{ended:?}");
        ended.ok();
    }
}

#[test]
fn what_was_bought_is_sold_for_what_was_ready_to_be_paid() {
    let market = Market::funded();
    let (seller, buyer) = (&market.provider, &market.consumer);
    let (sharing, at) = selling(seller, "goods", &[]);
    assert!(!sharing.stderr().contains("--v1"), "ordinary clients get nothing");
    configure(&buyer.dir);
    let torrent = seller.dir.join("goods.torrent");
    let torrent = torrent.to_str().unwrap();
    let get = ["get", torrent, "--peer", &at, "--max-price", PRICE];
    let mut buying = Running::start(content(buyer, &get));
    buying.warned("what comes is sold at 1000 per GiB");
    buying.said(|line| line.ends_with("/goods").then_some(()));
    sharing.stopped().ok();

    // A third pays the second.
    let third = Node::fresh(market.root.path(), "third", market.rpc);
    third.run(["chain", "faucet", &third.wallet()]).ok();
    configure(&third.dir);
    let from = buyer.status()["listen"].as_str().unwrap().to_owned();
    let fetch = ["get", torrent, "--peer", &from, "--max-price", PRICE, "--no-seed"];
    run(content(&third, &fetch)).ok();
    let price = owed(LEN as u128, PRICE_UNITS);
    let shown = buyer.json(&["content", "show", "goods"]);
    assert_eq!(number(&shown["earned"]), price, "{shown}");
    let listed = third.json(&["content", "show", "goods"]);
    assert_eq!(listed["settings"]["price"], PRICE, "nor is it given away while it comes: {listed}");

    // Whoever says for what it is given is obeyed.
    let given = |more: &[&str]| {
        let mut command = content(buyer, &get);
        command.args(more);
        let said = run(command);
        let told = said.stderr.contains("what comes is sold");
        said.ok();
        let settings = buyer.json(&["content", "show", "goods"])["settings"].clone();
        (told, settings["price"].clone(), settings["free"].clone())
    };
    assert_eq!(given(&["--free-for-unpaid"]), (true, PRICE.into(), true.into()));
    assert_eq!(given(&["--price", "0"]), (false, Value::Null, true.into()));
    assert_eq!(given(&["--price", "7"]), (false, "7".into(), false.into()));
    // It is remembered.
    run(content(buyer, &get)).ok();
    buying.stopped().ok();
    let mut serving = Running::start(content(buyer, &["serve"]));
    serving.said(support::addr_in);
    let shown = buyer.json(&["content", "show", "goods"]);
    assert_eq!(shown["settings"]["price"], PRICE, "{shown}");
    serving.stopped().ok();
}

#[test]
fn who_pays_too_little_gets_nothing_and_is_told_why() {
    let market = Market::funded();
    let (seller, buyer) = (&market.provider, &market.consumer);
    let (sharing, at) = selling(seller, "goods", &[]);
    configure(&buyer.dir);
    let torrent = seller.dir.join("goods.torrent");
    let torrent = torrent.to_str().unwrap();
    // Without keys, and for nothing.
    let keyless = market.path("keyless");
    fs::create_dir_all(&keyless).unwrap();
    configure(&keyless);
    let mut command = sparewire(&keyless, ["content", "get", torrent, "--peer", &at]);
    command.current_dir(&keyless);
    let mut waiting = Running::start(command);
    waiting.warned("none of the connected peers gives what is missing");
    waiting.stopped().fails_with(&["not complete"]);
    // For less.
    let get = ["get", torrent, "--peer", &at, "--max-price", "999"];
    let mut cheap = Running::start(content(buyer, &get));
    cheap.warned("waiting: ");
    let shown = until("it is known why", || {
        let shown = buyer.json(&["content", "show", "goods"]);
        shown["trouble"].is_string().then_some(shown)
    });
    assert_eq!((number(&shown["have"]), number(&shown["paid"])), (0, 0), "{shown}");
    cheap.stopped().fails_with(&["not complete"]);
    assert_eq!(number(&seller.json(&["content", "show", "goods"])["sent"]), 0);
    sharing.stopped().ok();
}

#[test]
fn who_gives_for_nothing_too_serves_ordinary_clients() {
    let market = Market::funded();
    let seller = &market.provider;
    let (sharing, at) = selling(seller, "goods", &["--free-for-unpaid"]);
    let torrent = seller.dir.join("goods.torrent");
    let keyless = market.path("keyless");
    fs::create_dir_all(&keyless).unwrap();
    configure(&keyless);
    let get = ["content", "get", torrent.to_str().unwrap(), "--peer", &at, "--no-seed"];
    let mut command = sparewire(&keyless, get);
    command.current_dir(&keyless);
    run(command).ok();
    let (got, sold) = (keyless.join("goods"), seller.dir.join("goods"));
    assert!(fs::read(got).unwrap() == fs::read(sold).unwrap());
    // And for nothing it goes on, where nothing is named: then it takes nothing that costs.
    sharing.stopped().ok();
    let mut serving = Running::start(content(seller, &["serve"]));
    serving.said(support::addr_in);
    let shown = seller.json(&["content", "show", "goods"]);
    assert_eq!(shown["settings"]["price"], PRICE, "terms are remembered");
    serving.stopped().ok();
}

#[test]
fn a_process_without_keys_takes_no_torrent_that_costs() {
    let root = tempfile::tempdir().unwrap();
    configure(root.path());
    fs::write(root.path().join("a"), "a").unwrap();
    fs::write(root.path().join("b"), "b").unwrap();
    let here = |args: &[&str]| {
        let mut command = sparewire(root.path(), ["content"]);
        command.args(args).current_dir(root.path());
        command
    };
    run(here(&["share", "b", "--price", "1"])).fails_with(&["no keys", "wallet new"]);
    let torrent = root.path().join("b.torrent");
    let get = ["get", torrent.to_str().unwrap(), "--max-price", "1"];
    run(here(&get)).fails_with(&["no keys", "wallet new"]);
    let mut free = Running::start(here(&["share", "a"]));
    free.said(|line| line.starts_with("magnet:").then_some(()));
    run(here(&["share", "b", "--price", "1"])).fails_with(&["no keys open", "stop it"]);
    let list = run(here(&["list", "--json"])).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    run(sparewire(root.path(), ["settle"])).fails_with(&["no keys open"]);
    free.stopped().ok();
}
