//! Mistakes that people make: each is answered with what to do, at once, and changes nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, UdpSocket},
    path::Path,
};

use serde_json::json;
use support::{Market, Running, number, run, sparewire, wallet_new};

const NOBODY: &str = "5866666666666666666666666666666666666666666666666666666666666666@127.0.0.1:9";

/// Every file below `dir` and what is in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.path().display().to_string();
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(files(&entry.path())),
            false => drop(all.insert(name, fs::read(entry.path()).unwrap_or_default())),
        }
    }
    all
}

#[test]
fn without_keys_it_says_how_to_make_them() {
    let root = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 5] = [
        &["provide"],
        &["connect", NOBODY],
        &["settle"],
        &["wallet", "show"],
        &["channel", "withdraw"],
    ];
    for (n, command) in commands.iter().enumerate() {
        let dir = root.path().join(n.to_string());
        let mut command = sparewire(&dir, *command);
        // The proxy's own port may be taken by somebody; that is another story.
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("config.toml"), "[consumer]\nproxy = \"127.0.0.1:0\"\n").unwrap();
        command.env("SPAREWIRE_PASSWORD", "x");
        run(command).fails_with(&["there are no keys in", "sparewire wallet new"]);
        assert!(!dir.join("keys").exists());
    }
}

#[test]
fn keys_are_never_overwritten_and_never_made_without_a_password() {
    let root = tempfile::tempdir().unwrap();
    wallet_new(root.path()).ok();
    let before = files(root.path());
    wallet_new(root.path()).fails_with(&["there are keys in", "--data-dir"]);
    assert_eq!(files(root.path()), before);

    for (name, content, word) in
        [("missing", None, "password file"), ("empty", Some(""), "password is empty")]
    {
        let dir = root.path().join(name);
        fs::create_dir(&dir).unwrap();
        let file = dir.join("password");
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let mut command = sparewire(&dir, ["wallet", "new", "--password-file"]);
        command.arg(file);
        run(command).fails_with(&[word]);
        assert!(!dir.join("keys").exists(), "half-made keys");
    }
    for args in [["--words", "13"], ["--mnemonic-file", "/nonexistent"]] {
        let dir = root.path().join(args[1].trim_matches('/'));
        let mut command = sparewire(&dir, ["wallet", "new"]);
        command.args(args).env("SPAREWIRE_PASSWORD", "x");
        run(command).fails_with(&[args[1]]);
        assert!(!dir.join("keys").exists(), "half-made keys");
    }
}

#[test]
fn a_mnemonic_brings_the_same_wallet_back() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    fs::create_dir(&first).unwrap();
    let made = wallet_new(&first).json();
    let words = root.path().join("words");
    fs::write(&words, made["mnemonic"].as_str().unwrap()).unwrap();
    let mut command = sparewire(&second, ["wallet", "new", "--json", "--mnemonic-file"]);
    command.arg(&words).env("SPAREWIRE_PASSWORD", "another");
    let again = run(command).json();
    assert_eq!(again["keys"], made["keys"]);
    assert!(again["mnemonic"].is_null(), "words that are known are not printed");

    fs::write(&words, "abandon abandon abandon").unwrap();
    let third = root.path().join("third");
    let mut command = sparewire(&third, ["wallet", "new", "--mnemonic-file"]);
    command.arg(&words).env("SPAREWIRE_PASSWORD", "another");
    run(command).fails_with(&["12", "words"]);
    assert!(!third.join("keys").exists());
}

#[test]
fn wrong_passwords_and_damaged_keys_are_named() {
    let market = Market::funded();
    let node = &market.consumer;
    let wrong = market.path("wrong");
    fs::write(&wrong, "incorrect horse").unwrap();
    let mut command = node.command(["settle", "--password-file"]);
    command.arg(&wrong);
    run(command).fails_with(&["wrong password", "hint: "]);

    for entry in fs::read_dir(node.dir.join("keys")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"not a key"] {
            fs::write(&path, damaged).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            node.unlock(["settle"]).fails_with(&[name, "hint: "]);
            assert_eq!(fs::read(&path).unwrap(), damaged, "the evidence is left as it is");
        }
        fs::remove_file(&path).unwrap();
        node.unlock(["settle"]).fails_with(&["hint: "]);
        fs::write(&path, whole).unwrap();
    }
    node.unlock(["settle"]).ok();
}

#[test]
fn a_damaged_or_newer_store_is_named_and_left_as_it_is() {
    let mut market = Market::open();
    market.download("/bytes/100000");
    market.disconnect();
    market.stop_providing();
    let store = market.provider.dir.join("store.sqlite");
    let whole = fs::read(&store).unwrap();
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&99u32.to_be_bytes()); // SQLite keeps user_version here
    let garbage = b"this is not a database, it is a poem\n".repeat(100);
    for (content, words) in [
        (newer, ["schema version 99", "matching release"]),
        (garbage, ["store.sqlite", "restore it from a backup"]),
        (whole[..whole.len() / 3].to_vec(), ["store.sqlite", "restore it from a backup"]),
    ] {
        fs::write(&store, &content).unwrap();
        market.provider.unlock(["settle"]).fails_with(&words);
        market.provider.run(["session", "list"]).fails_with(&words);
        run(market.provide_command()).fails_with(&words);
        assert!(fs::read(&store).unwrap() == content, "the evidence is left as it is");
    }
    fs::write(&store, whole).unwrap();
    market.provider.settle();
    assert_eq!(market.provider.claimed(), market.provider.promised());
}

#[test]
fn ports_and_data_that_others_use_are_named() {
    let market = Market::open();
    // The data directories.
    for args in [["provide", "--listen"], ["connect", NOBODY]] {
        let mut command = market.provider.command(args);
        if args[0] == "provide" {
            command.arg("127.0.0.1:0");
        }
        command.arg("--password-file").arg(&market.provider.password);
        run(command).fails_with(&["store.sqlite", "in use by another", "--data-dir"]);
    }
    let chain = sparewire(&market.path("chain"), ["chain", "serve", "--listen", "127.0.0.1:0"]);
    run(chain).fails_with(&["chain.sqlite", "stop it, or choose another --data-dir"]);
    // Both are still there.
    market.download("/bytes/1000");

    // The ports.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = tcp.local_addr().unwrap().to_string();
    let chain = sparewire(&market.path("other"), ["chain", "serve", "--listen", &taken]);
    run(chain).fails_with(&[&taken, "in use"]);

    let mut market = market;
    market.disconnect();
    market.stop_providing();
    let mut proxy = market.connect_command();
    proxy.args(["--metrics", &taken]);
    run(proxy).fails_with(&[&taken, "metrics"]);
    market.proxy = tcp.local_addr().unwrap();
    run(market.connect_command()).fails_with(&[&taken, "taken"]);
    market.proxy = "192.0.2.1:1080".parse().unwrap();
    run(market.connect_command()).fails_with(&["192.0.2.1", "loopback"]);

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = udp.local_addr().unwrap().to_string();
    let mut provide = market.provider.command(["provide", "--listen", &taken, "--password-file"]);
    provide.arg(&market.provider.password);
    run(provide).fails_with(&[&taken]);
}

#[test]
fn what_a_consumer_does_not_want_to_pay_it_does_not_put_aside() {
    let mut market = Market::funded();
    market.provide();
    market.proxy = "127.0.0.1:0".parse().unwrap();
    let funds = |market: &Market| market.consumer.json(&["wallet", "show"])["funds"].clone();
    let before = funds(&market);
    for (flags, words) in [
        (["--max-price", "999", "--budget", "90"], ["1000000000", "raise --max-price"]),
        (["--max-price", "1000", "--budget", "39.9"], ["budget is used up", "raise --budget"]),
    ] {
        market.connect_args = ["--channel-amount", "40"].map(str::to_owned).to_vec();
        market.connect_args.extend(flags.map(str::to_owned));
        let ended = run(market.connect_command());
        ended.fails_with(&words);
        assert_eq!(funds(&market), before);
        assert_eq!(market.consumer.json(&["channel", "list"]), json!([]));
    }
    // More than the wallet holds: it says so, and waits for money.
    let flags = ["--max-price", "1000", "--channel-amount", "500", "--budget", "900"];
    market.connect_args = flags.map(str::to_owned).to_vec();
    let mut poor = Running::start(market.connect_command());
    poor.warned("not enough tokens");
    poor.stopped();
    assert_eq!(funds(&market), before);
}

#[test]
fn another_chain_contract_or_token_is_named() {
    let mut market = Market::funded();
    market.proxy = "127.0.0.1:0".parse().unwrap();
    market.address = NOBODY.to_owned();
    let other = "0x00000000000000000000000000000000000000AA";
    let with = |flags: &[&str]| {
        let mut command = market.connect_command();
        command.args(flags);
        run(command)
    };
    with(&["--contract", other]).fails_with(&["no channel contract at", other]);
    with(&["--contract", "0x12"]).fails_with(&["contract", "0x12"]);
    with(&["--token", other]).fails_with(&["no ERC-20 token at", "check --token"]);
    with(&["--chain-id", "7"]).fails_with(&["chain 7", "--contract"]);
    let elsewhere = ["--chain-id", "7", "--contract", other, "--token", other];
    with(&elsewhere).fails_with(&["is on chain 21335", "chain 7"]);
    // Something answers there, and it is no chain.
    let origin = market.origin.url("/");
    with(&["--rpc", &origin]).fails_with(&["chain node at"]);
    with(&["--rpc", "nowhere"]).fails_with(&["malformed URL", "check --rpc"]);
    assert_eq!(market.consumer.json(&["channel", "list"]), json!([]));
}

#[test]
fn a_provider_on_another_chain_costs_a_consumer_at_most_one_channel() {
    let mut market = Market::funded();
    market.provide();
    // Same chain id and same contract, by all names the same network; but another chain.
    let elsewhere = Market::funded();
    let mut command = elsewhere.consumer.command(["connect", &market.address]);
    command.args(["--proxy", "127.0.0.1:0", "--max-price", "1000", "--channel-amount", "10"]);
    command.args(["--budget", "40", "--password-file"]).arg(&elsewhere.consumer.password);
    let mut lost = Running::start(command);
    lost.warned("the chain does not know it");
    // It keeps trying, a few times by now, and does not throw good money after bad.
    support::until("more attempts", || {
        let tried = lost.stderr().matches("the chain does not know it").count();
        (tried >= 3 || !lost.is_running()).then_some(())
    });
    assert_eq!(number(&elsewhere.consumer.channel()["on_chain"]["reserved"]), 10_000_000);
    lost.stopped();
}

#[test]
fn configurations_with_mistakes_name_the_key() {
    let market = Market::funded();
    let file = market.provider.dir.join("config.toml");
    for (text, word) in [
        ("[provider]\nprise = \"1\"", "prise"),
        ("[provider]\nprice = \"dear\"", "[provider] price"),
        ("[provider]\ncredit_initial = \"17MiB\"", "credit_initial"),
        ("[provider]\nwithdraw_delay_secs = 60", "withdraw_delay_secs = 60"),
        ("[provider]\nstreams_max = 0", "streams_max = 0"),
        ("[provider]\nlisten = \"here\"", "listen"),
        ("[provider]\nallow = [\"nonsense\"]", "nonsense"),
        ("[provider]\ndeny_networks = [\"10.0.0.0/99\"]", "10.0.0.0/99"),
        ("[metrics]\nlisten = \"here\"", "[metrics] listen"),
        ("not toml", "config example"),
    ] {
        fs::write(&file, text).unwrap();
        let mut command = market.provider.command(["provide", "--password-file"]);
        command.arg(&market.provider.password);
        run(command).fails_with(&[word]);
    }
    let missing = market.provider.run(["status", "--config", "/nonexistent/config.toml"]);
    missing.fails_with(&["/nonexistent/config.toml"]);
}

#[test]
fn things_that_do_not_exist_are_named() {
    let mut market = Market::open();
    market.download("/bytes/1000");
    market.disconnect();
    market.consumer.run(["session", "show", "0xdead"]).fails_with(&["0xdead", "session list"]);
    // The empty beginning fits the only session.
    market.consumer.run(["session", "show", ""]).ok();
    let nowhere = market.path("nowhere");
    let shown = run(sparewire(&nowhere, ["session", "show", "0x12"]));
    shown.fails_with(&["0 sessions begin with \"0x12\"", "session list"]);
    for address in ["nobody", "@127.0.0.1:1", "b0b0@127.0.0.1:1"] {
        let mut command = market.consumer.command(["connect", address, "--password-file"]);
        command.arg(&market.consumer.password);
        run(command).fails_with(&[address]);
    }
    market.consumer.run(["chain", "faucet", "0x12"]).fails_with(&["0x12"]);
}

#[test]
fn one_dead_chain_node_of_three_is_named_and_holds_nothing_up() {
    let mut market = Market::funded();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = market.rpc.port();
    let twice = format!("http://127.0.0.1:{port},http://localhost:{port}");
    let dead = format!("http://{closed}");
    let mut provide = sparewire(&market.provider.dir, ["--rpc", &twice, "--rpc", &dead, "provide"]);
    provide.args(["--listen", "127.0.0.1:0", "--password-file"]).arg(&market.provider.password);
    market.provide_with(provide);
    let status = market.provider.status();
    let [one, two, three] = &status["nodes"].as_array().unwrap()[..] else { panic!("{status:#}") };
    assert!(one["fault"].is_null() && two["fault"].is_null(), "{status:#}");
    assert_eq!(three["name"], dead);
    let fault = format!("{dead} does not answer");
    assert!(market.provider.run(["status"]).ok().contains(&fault), "{status:#}");
    // Two dead ones are too many; and a node has one vote.
    let with = |rpc: &str| {
        run(sparewire(
            &market.consumer.dir,
            ["--rpc", rpc, "chain", "faucet", &market.consumer.wallet()],
        ))
    };
    with(&format!("{dead},http://127.0.0.1:1,http://127.0.0.1:{port}")).fails_with(&[
        "does not answer",
        &dead,
        "http://127.0.0.1:1: ",
    ]);
    with(&format!("{dead},{dead}")).fails_with(&[&dead, "named twice"]);
}

#[test]
fn a_beginner_without_a_chain_or_money_is_told_where_to_get_them() {
    let mut market = Market::funded();
    // Nobody listens where the chain should be.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rpc = format!("http://{closed}");
    let alone = |args: &[&str]| {
        let mut command = sparewire(&market.provider.dir, ["--rpc", &rpc]);
        command.args(args);
        command
    };
    let mut faucet = Running::start(alone(&["chain", "faucet", &market.provider.wallet()]));
    let mut provide = alone(&["provide", "--listen", "127.0.0.1:0", "--password-file"]);
    provide.arg(&market.provider.password);
    let mut provide = Running::start(provide);
    for waiting in [&mut faucet, &mut provide] {
        waiting.warned(&format!("waiting for the chain node at {rpc}"));
    }
    drop(provide);
    let shown = run(alone(&["wallet", "show"]));
    assert!(shown.stderr.contains("hint: `sparewire chain serve`"), "{shown:?}");
    let ended = faucet.ended();
    assert!(!ended.stderr.contains("embedded chain only"), "{ended:?}");
    ended.fails_with(&["does not answer", "hint: `sparewire chain serve`"]);

    // A wallet without money.
    let poor = market.path("poor");
    fs::create_dir(&poor).unwrap();
    wallet_new(&poor).ok();
    market.provide();
    let mut command = sparewire(&poor, ["--rpc", &format!("http://{}", market.rpc)]);
    command.args(["connect", &market.address, "--proxy", "127.0.0.1:0", "--max-price", "1000"]);
    command.arg("--password-file").arg(poor.join("password"));
    run(command).fails_with(&["not enough tokens", "sparewire chain faucet 0x"]);

    let listed = market.provider.run(["channel", "list"]);
    assert!(listed.stderr.contains("no channels yet"), "{listed:?}");
    assert_eq!(listed.ok(), "");
    let nowhere = sparewire(Path::new("/dev/null/nowhere"), ["status"]);
    run(nowhere).fails_with(&["cannot make /dev/null/nowhere", "hint: choose another --data-dir"]);
}
