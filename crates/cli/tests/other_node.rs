//! The parts apart, on an Ethereum node that nobody here wrote: anvil, which `scripts/contracts`
//! installs from npm beside forge.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use support::{
    Origin, Running, curl, number, run, sha256, sha256_of, sparewire, until, wallet_new,
};

/// Where npm puts it. `None` on machines that npm has none for, or where npm was not run, unless
/// `SPAREWIRE_REQUIRE_ANVIL` is set, as `scripts/test` does: then a test that needs it fails.
fn anvil() -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contracts/node_modules");
    let file = modules.join("@foundry-rs/anvil-linux-amd64/bin/anvil");
    if file.exists() {
        return Some(file);
    }
    let required = std::env::var_os("SPAREWIRE_REQUIRE_ANVIL").is_some();
    assert!(
        !required,
        "no anvil at {}: run `npm ci --ignore-scripts` in contracts/",
        file.display()
    );
    // Not captured as `eprintln!` is: who runs the tests is to know.
    let words = "skipped: no anvil here; scripts/contracts installs it where npm has it";
    let _ = writeln!(std::io::stderr(), "{words}");
    None
}

/// A node of its own, and where it is asked. Blocks come by time, and are final only with others on
/// top: nothing here is instant.
fn start() -> Option<(Running, String)> {
    let mut node = Command::new(anvil()?);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rpc = format!("http://127.0.0.1:{port}");
    node.args(["--port", &port.to_string(), "--hardfork", "osaka"]);
    node.args(["--block-time", "1", "--slots-in-an-epoch", "1"]);
    let node = Running::start(node);
    until("anvil answers", || ask(&rpc, "eth_chainId", &json!([])));
    Some((node, rpc))
}

fn ask(rpc: &str, method: &str, params: &Value) -> Option<Value> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let header = "content-type: application/json";
    let ended = run(curl(["-H", header, "--data", &body.to_string(), rpc]));
    let answer: Value = serde_json::from_str(&ended.stdout).ok()?;
    answer.get("result").cloned()
}

/// Mints 100 tokens, by one of anvil's own accounts, and returns when that is final.
fn mint(rpc: &str, token: &str, to: &str) {
    // mint(address,uint256)
    let data = format!("0x40c10f19{:0>64}{:064x}", &to[2..], 100_000_000);
    let from = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
    let transaction = json!([{ "from": from, "to": token, "data": data }]);
    let hash = ask(rpc, "eth_sendTransaction", &transaction).unwrap();
    until("the tokens are minted and final", || {
        let receipt = ask(rpc, "eth_getTransactionReceipt", &json!([hash]))?;
        let newest = ask(rpc, "eth_getBlockByNumber", &json!(["finalized", false]))?;
        (height(&newest["number"])? >= height(&receipt["blockNumber"])?).then_some(())
    });
}

/// A figure that a node tells.
fn height(hex: &Value) -> Option<u64> {
    u64::from_str_radix(hex.as_str()?.trim_start_matches("0x"), 16).ok()
}

/// A text field in a line of printed JSON.
fn field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{name}\": \""))?;
    Some(rest.split('"').next()?.to_owned())
}

#[test]
fn a_session_is_paid_and_settled_on_an_ethereum_node_that_nobody_here_wrote() {
    let Some((_node, rpc)) = start() else { return };
    let root = tempfile::tempdir().unwrap();

    let wallet = |name: &str| {
        let dir = root.path().join(name);
        fs::create_dir(&dir).unwrap();
        let made = wallet_new(&dir).json();
        let wallet = made["keys"]["wallet"].as_str().unwrap().to_owned();
        ask(&rpc, "anvil_setBalance", &json!([wallet, "0x8AC7230489E80000"])).unwrap();
        (dir, wallet)
    };
    let ((seller, _), (buyer, payer)) = (wallet("seller"), wallet("buyer"));
    let command = |dir: &Path, contracts: &[&str], arguments: &[&str]| {
        let mut command = sparewire(dir, ["--rpc", &rpc, "--chain-id", "31337", "--json"]);
        command.args(contracts).args(arguments);
        command.env("SPAREWIRE_PASSWORD", "correct horse");
        command
    };
    let deployed = run(command(&seller, &[], &["chain", "deploy"])).json();
    let (contract, token) =
        (deployed["contract"].as_str().unwrap(), deployed["token"].as_str().unwrap());
    for beside in ["towers", "keys"] {
        let code = ask(&rpc, "eth_getCode", &json!([deployed[beside], "latest"])).unwrap();
        assert!(code.as_str().unwrap().len() > 2, "no {beside}: {deployed:#}");
    }
    mint(&rpc, token, &payer);

    let contracts = ["--contract", contract, "--token", token];
    let origin = Origin::start();
    let allow = origin.addr.to_string();
    let arguments = ["provide", "--listen", "127.0.0.1:0", "--price", "1000", "--allow", &allow];
    let mut provider = Running::start(command(&seller, &contracts, &arguments));
    let address = provider.said(|line| field(line, "address"));
    let arguments = [
        "connect",
        &address,
        "--proxy",
        "127.0.0.1:0",
        "--max-price",
        "1000",
        "--channel-amount",
        "10",
        "--budget",
        "20",
    ];
    let mut consumer = Running::start(command(&buyer, &contracts, &arguments));
    let proxy = consumer.said(|line| field(line, "proxy"));
    consumer.warned("connected:");

    let length = 3 << 20;
    let got = root.path().join("got");
    run(curl([
        "--proxy",
        &format!("socks5h://{proxy}"),
        "--output",
        got.to_str().unwrap(),
        &origin.url(&format!("/bytes/{length}")),
    ]))
    .ok();
    assert_eq!(sha256(&fs::read(&got).unwrap()), sha256_of(length));

    let statement: Value = serde_json::from_str(&{
        let ended = consumer.stopped();
        let at = ended.stdout.rfind("\n{").map_or(0, |at| at + 1);
        ended.stdout[at..].to_owned()
    })
    .unwrap();
    let cumulative = number(&statement["cumulative"]);
    assert!(cumulative > 0);
    let outcome = run(command(&seller, &contracts, &["settle"])).json();
    assert_eq!(outcome["transactions"].as_array().unwrap().len(), 1);
    let shown = run(command(&seller, &contracts, &["wallet", "show"])).json();
    assert_eq!(number(&shown["funds"]["wallet"]), cumulative, "claimed and paid out");
    provider.stopped().ok();
}

#[test]
fn two_data_directories_on_one_wallet_do_not_run_at_a_time() {
    let Some((_node, rpc)) = start() else { return };
    let root = tempfile::tempdir().unwrap();

    let (one, two) = (root.path().join("one"), root.path().join("two"));
    fs::create_dir(&one).unwrap();
    let made = wallet_new(&one).json();
    let wallet = made["keys"]["wallet"].as_str().unwrap().to_owned();
    ask(&rpc, "anvil_setBalance", &json!([wallet, "0x8AC7230489E80000"])).unwrap();
    support::copy_dir(&one, &two);
    let command = |dir: &Path, arguments: &[&str]| {
        let mut command = sparewire(dir, ["--rpc", &rpc, "--chain-id", "31337", "--json"]);
        command.args(arguments).env("SPAREWIRE_PASSWORD", "correct horse");
        command
    };
    let deployed = run(command(&one, &["chain", "deploy"])).json();
    let (contract, token) =
        (deployed["contract"].as_str().unwrap(), deployed["token"].as_str().unwrap());
    let on = ["--contract", contract, "--token", token];
    let with = |more: &[&'static str]| [&on[..], more].concat();

    let mut provider =
        Running::start(command(&one, &with(&["provide", "--listen", "127.0.0.1:0"])));
    provider.said(|line| field(line, "address"));
    let before = ask(&rpc, "eth_getTransactionCount", &json!([wallet, "latest"])).unwrap();
    for arguments in [with(&["settle"]), with(&["chain", "deploy"])] {
        let words =
            ["another process of this machine uses wallet 0x", "on chain 31337", "stop that"];
        run(command(&two, &arguments)).fails_with(&words);
    }
    let after = ask(&rpc, "eth_getTransactionCount", &json!([wallet, "latest"])).unwrap();
    assert_eq!(before, after, "nothing was sent");
    let status = run(command(&one, &with(&["status"]))).json();
    let work = &status["running"]["chain_work"];
    assert_eq!((&work["under_way"], &work["foreign_use"]), (&json!([]), &Value::Null));
    assert_eq!(&status["chain_work"], work);

    // With the process the lock is gone, however it ends.
    provider.kill_9();
    let outcome = run(command(&two, &with(&["settle"]))).json();
    assert_eq!(outcome["transactions"], json!([]));
    let status = run(command(&two, &with(&["status"]))).json();
    assert_eq!(status["chain_work"]["under_way"], json!([]));
}

#[test]
fn status_tells_of_a_stuck_transaction_and_a_node_that_runs_again_follows_it() {
    let Some((_node, rpc)) = start() else { return };
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("node");
    fs::create_dir(&dir).unwrap();
    let wallet = wallet_new(&dir).json()["keys"]["wallet"].as_str().unwrap().to_owned();
    ask(&rpc, "anvil_setBalance", &json!([wallet, "0x8AC7230489E80000"])).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = sparewire(&dir, ["--rpc", &rpc, "--chain-id", "31337"]);
        command.args(arguments).env("SPAREWIRE_PASSWORD", "correct horse");
        command
    };
    let deployed = run(command(&["--json", "chain", "deploy"])).json();
    let named = |name: &str| deployed[name].as_str().unwrap().to_owned();
    mint(&rpc, &named("token"), &wallet);
    let config = format!(
        "[chain]\ncontract = \"{}\"\ntoken = \"{}\"\ntowers = \"{}\"\n\
         fee_max_gwei = 3\nfee_max_urgent_gwei = 3\n",
        named("contract"),
        named("token"),
        named("towers"),
    );
    fs::write(dir.join("config.toml"), config).unwrap();

    // A thousand million gwei: it sinks by an eighth with each empty block, for two minutes.
    ask(&rpc, "anvil_setNextBlockBaseFeePerGas", &json!(["0xDE0B6B3A7640000"])).unwrap();
    until("gas is dear", || {
        let newest = ask(&rpc, "eth_getBlockByNumber", &json!(["latest", false]))?;
        (height(&newest["baseFeePerGas"])? > 1_000_000_000_000).then_some(())
    });
    let nonce = || {
        height(&ask(&rpc, "eth_getTransactionCount", &json!([wallet, "latest"])).unwrap()).unwrap()
    };
    let before = nonce();
    let mut fund = command(&["watch", "fund", "1"]);
    fund.env("RUST_LOG", "sparewire_chain=info");
    let mut fund = Running::start(fund);
    fund.warned("transaction sent");
    fund.kill_9();

    let sent = |status: &Value| {
        let work = &status["chain_work"];
        let stands = work["under_way"][0]["stands"]["sent"].clone();
        (stands["nonce"].is_u64()).then(|| (work.clone(), stands))
    };
    let status = run(command(&["--json", "status"])).json();
    let (work, stands) = sent(&status).expect("it is in the journal");
    assert_eq!(work["under_way"][0]["intent"], "deposit_reward");
    assert_eq!((&stands["nonce"], &stands["mined"]), (&json!(before), &json!(false)));
    assert_eq!(
        (&stands["max_fee_wei"], &stands["replaced"]),
        (&json!(3_000_000_000u64), &json!(0))
    );
    let text = run(command(&["status"])).ok();
    for words in [
        "deposit reward, asked for ",
        "(0 of 2 transactions are final)",
        &format!("(nonce {before}, sent "),
        " s ago) is in no block yet; it pays up to 3.000 gwei",
        "(followed when a node runs here again, or by `settle`)",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }

    let mut provider = Running::start(command(&["--json", "provide", "--listen", "127.0.0.1:0"]));
    provider.said(|line| field(line, "address"));
    // Whoever follows it knows what gas costs.
    let work = until("the node follows it", || {
        let (work, stands) = sent(&run(command(&["--json", "status"])).json()["running"])?;
        assert_eq!(stands["nonce"], before, "one nonce, whoever follows it");
        work["base_fee_wei"].is_number().then_some(work)
    });
    assert!(number(&work["base_fee_wei"]) > 3_000_000_000);
    let text = run(command(&["status"])).ok();
    assert!(text.contains("gwei: too little for now"), "{text}");

    ask(&rpc, "anvil_setNextBlockBaseFeePerGas", &json!(["0x3B9ACA00"])).unwrap();
    until("it is over", || {
        let status = run(command(&["--json", "status"])).json();
        (status["running"]["chain_work"]["under_way"] == json!([])).then_some(())
    });
    assert_eq!(nonce(), before + 2, "the approval and the deposit, each once");
    provider.stopped().ok();
}
