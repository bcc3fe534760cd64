//! A provider at home whose earnings go to a wallet that has its key elsewhere, by whole processes.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::json;
use support::{Market, Node, number, only, run};

/// What the faucet gives of the test token, in its smallest units.
const FAUCET: u128 = 100_000_000;

fn hex(value: &serde_json::Value) -> u128 {
    u128::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// What an address has of the test token.
fn tokens(market: &Market, address: &str) -> u128 {
    // balanceOf(address)
    let data = format!("0x70a08231{:0>64}", address.trim_start_matches("0x"));
    hex(&market.rpc("eth_call", json!([{ "to": market.token, "data": data }, "latest"])))
}

/// How many transactions it has sent.
fn sent(market: &Market, address: &str) -> u128 {
    hex(&market.rpc("eth_getTransactionCount", json!([address, "latest"])))
}

fn is_configured(node: &Node) {
    fs::write(node.dir.join("config.toml"), "[provider]\ndelegation = \"delegation.json\"\n")
        .unwrap();
}

#[test]
fn a_wallet_that_is_offline_is_paid_and_the_node_at_home_pays_only_gas() {
    let mut market = Market::funded();
    let cold = Node::fresh(market.root.path(), "cold", market.rpc);
    market.provider.delegated_by(&cold);
    is_configured(&market.provider);
    let (hot, cold) = (market.provider.wallet(), cold.wallet());
    let status = market.provider.json(&["status"]);
    assert_eq!(status["payee"]["wallet"], cold.as_str(), "{status:#}");
    assert_eq!(status["payee"]["trouble"], json!(null));

    market.provide();
    market.connect();
    market.connected();
    assert_eq!(market.provider.status()["payee"], cold.as_str());
    market.download("/bytes/3000000");
    market.disconnect();
    let promised = market.provider.promised();
    assert!(promised > 2_000_000, "{promised}");
    market.provider.settle();
    assert_eq!(tokens(&market, &cold), promised);
    assert_eq!(
        (tokens(&market, &hot), sent(&market, &hot)),
        (FAUCET, 1),
        "one claim, and no token"
    );
    assert_eq!(sent(&market, &cold), 0);

    let session = only(&market.provider.sessions())["session"].as_str().unwrap().to_owned();
    let story = market.provider.run(["session", "explain", &session]).ok();
    // People are shown capitals as a checksum (EIP-55), programs are not.
    assert!(story.to_lowercase().contains(&format!("paid to   {cold}")), "{story}");
    let earned = market.provider.json(&["earnings"]);
    for figure in ["promised", "claimed", "settled"] {
        assert_eq!(number(&earned["provider"][figure]), promised, "{figure} of {earned:#}");
    }
    // A backup knows by whose word the node is paid.
    let backup = market.path("backup");
    let made = ["backup", "create", backup.to_str().unwrap(), "--json"];
    let made = market.provider.unlock(made).json();
    let files = made["manifest"]["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "delegation.json"), "{made:#}");
}

#[test]
fn a_delegation_that_does_not_count_keeps_a_provider_from_starting_and_says_why() {
    let market = Market::funded();
    let (provider, cold) = (&market.provider, Node::fresh(market.root.path(), "cold", market.rpc));
    is_configured(provider);
    run(market.provide_command())
        .fails_with(&["cannot read the delegation", "[provider] delegation"]);
    let status = provider.run(["status"]).ok();
    assert!(status.contains("WARNING: [provider] delegation"), "{status}");

    // Of another node.
    market.consumer.delegated_by(&cold);
    let file = "delegation.json";
    fs::copy(market.consumer.dir.join(file), provider.dir.join(file)).unwrap();
    let told = ["are not this node's", "hint:", "wallet delegation request"];
    run(market.provide_command()).fails_with(&told);
    assert!(provider.run(["status"]).ok().contains("is for another node"));

    // What is another node's takes the place of none.
    let [asked, told] = ["asked", "told"].map(|name| market.path(name).display().to_string());
    let import = ["wallet", "delegation", "import", "--request", &asked, "--response", &told];
    fs::write(
        &asked,
        market.consumer.run(["wallet", "delegation", "request", "--wallet", &cold.wallet()]).ok(),
    )
    .unwrap();
    fs::write(&told, cold.unlock(["wallet", "sign", "--request", &asked]).ok()).unwrap();
    let kept = fs::read(provider.dir.join(file)).unwrap();
    provider.run(import).fails_with(&["it is for another node", "hint:"]);
    assert_eq!(fs::read(provider.dir.join(file)).unwrap(), kept);

    // Another authorizer would not be the one that the wallet signed for.
    let before = provider.json(&["wallet", "show"])["keys"]["authorizer"].clone();
    provider.unlock(["wallet", "device", "rotate"]).fails_with(&[
        "is paid to another wallet",
        "wallet device ask --wallet",
        "wallet delegation request --wallet",
    ]);
    assert_eq!(provider.json(&["wallet", "show"])["keys"]["authorizer"], before);

    // The wallet takes its word back, from a machine that has its key and a network.
    provider.delegated_by(&cold);
    cold.run(["chain", "faucet", &cold.wallet()]).ok();
    let device = provider.json(&["wallet", "show"])["keys"]["node_id"].as_str().unwrap().to_owned();
    cold.unlock(["wallet", "device", "revoke", "--device", &device]).ok();
    run(market.provide_command()).fails_with(&["revoked on chain"]);
}

#[test]
fn what_an_offline_wallet_signs_about_its_keys_anybody_can_bring_to_the_registry() {
    let market = Market::funded();
    let (provider, cold) = (&market.provider, Node::fresh(market.root.path(), "cold", market.rpc));
    let (request, response) = (market.path("request.json"), market.path("response.json"));
    let shown = [&request, &response].map(|path| path.to_str().unwrap().to_owned());
    let relay = ["wallet", "device", "relay", "--request", &shown[0], "--response", &shown[1]];
    let wallet = cold.wallet();
    let signed = |asked: String| {
        fs::write(&request, asked).unwrap();
        fs::write(&response, cold.unlock(["wallet", "sign", "--request", &shown[0]]).ok()).unwrap();
    };
    let device = provider.json(&["wallet", "show"])["keys"]["node_id"].as_str().unwrap().to_owned();

    signed(provider.run(["wallet", "delegation", "request", "--wallet", &wallet]).ok());
    // A stranger pays for it, and the wallet, which has nothing, sends nothing.
    assert!(market.consumer.unlock(relay).ok().contains("registered"));

    let ask = ["wallet", "device", "ask", "--wallet", &wallet, "--device", &device];
    provider.run(&ask[..5]).fails_with(&["nothing is named"]);
    signed(provider.run(ask).ok());
    assert!(market.consumer.unlock(relay).ok().contains("revoked for good"));
    assert_eq!(sent(&market, &wallet), 0);
    let import =
        ["wallet", "delegation", "import", "--request", &shown[0], "--response", &shown[1]];
    provider.run(import).fails_with(&["not one for a delegation"]);
    is_configured(provider);
    provider.delegated_by(&cold);
    run(market.provide_command()).fails_with(&["revoked on chain"]);
}
