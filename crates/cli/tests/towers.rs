//! Watchtowers, whole processes: a provider goes to sleep, its payer leaves, and it is paid.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Market, Node, Running, number, run, until};

/// The token's smallest units: it has 6 decimals.
const REWARD: u128 = 500_000;
/// What the faucet gives.
const FAUCET: u128 = 100_000_000;
/// Seconds of the channels here, and of a slot where two towers share half of it or more: the most.
const DELAY: u64 = 86_400;
const SLOT: u64 = 3_600;

/// A tower on a machine of its own.
struct Tower {
    node: Node,
    running: Option<Running>,
    address: String,
}

impl Tower {
    fn start(market: &Market, name: &str) -> Self {
        let node = Node::fresh(market.root.path(), name, market.rpc);
        node.run(["chain", "faucet", &node.wallet()]).ok();
        let config = "[watch]\nlook_secs = 1\nreward_min = \"0.5\"\nlisten = \"127.0.0.1:0\"\n";
        fs::write(node.dir.join("config.toml"), config).unwrap();
        let mut tower = Self { node, running: None, address: String::new() };
        tower.again();
        tower
    }

    /// Starts it, at its old address where it had one.
    fn again(&mut self) {
        let mut command = self.node.command(["watch", "serve", "--password-file"]);
        command.arg(&self.node.password);
        if let Some((_, addr)) = self.address.split_once('@') {
            command.args(["--listen", addr]);
        }
        let mut running = Running::start(command);
        self.address = running.said(|line| line.contains('@').then(|| line.trim().to_owned()));
        self.running = Some(running);
    }

    fn kill_9(&mut self) {
        self.running.take().unwrap().kill_9();
    }

    fn tokens(&self, market: &Market) -> u128 {
        tokens(market, &self.node.wallet())
    }

    /// How many transactions it has sent.
    fn sent(&self, market: &Market) -> u64 {
        let count = market.rpc("eth_getTransactionCount", json!([self.node.wallet(), "latest"]));
        u64::from_str_radix(count.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }
}

/// What an address has of the test token.
fn tokens(market: &Market, address: &str) -> u128 {
    // balanceOf(address)
    let data = format!("0x70a08231{:0>64}", address.trim_start_matches("0x"));
    let balance = market.rpc("eth_call", json!([{ "to": market.token, "data": data }, "latest"]));
    u128::from_str_radix(balance.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// A provider with something earned that its towers know of; it then falls asleep, and its consumer
/// starts to leave. `more` is put into `[provider]`. Returns the channel and what was promised over it.
fn asleep(market: &mut Market, towers: &[&Tower], more: &str) -> (String, u128) {
    let addresses: Vec<_> = towers.iter().map(|tower| format!("\"{}\"", tower.address)).collect();
    let config = format!(
        "[provider]\ntowers = [{}]\ntower_reward = \"0.5\"\ntower_step = \"0\"\n\
         tower_minutes = 0\n{more}",
        addresses.join(", ")
    );
    fs::write(market.provider.dir.join("config.toml"), config).unwrap();
    market.provider.unlock(["watch", "fund", "2"]).ok();
    market.provide();
    market.connect();
    market.connected();
    market.download("/bytes/3000000");
    market.all_paid(3_000_000);
    let promised = market.provider.promised();
    assert!(promised > REWARD, "{promised}");
    until("the towers to hold the newest voucher", || {
        let status = market.provider.status();
        let towers = status["towers"].as_array().unwrap().clone();
        let know = |tower: &Value| {
            number(&tower["watched_units"]) == promised && tower["reachable"] == true
        };
        (!towers.is_empty() && towers.iter().all(know)).then_some(())
    });
    market.providing.take().unwrap().kill_9();
    market.connecting.take().unwrap().kill_9();
    assert_eq!(market.provider.promised(), promised);
    let id = market.consumer.channel()["channel"].as_str().unwrap().to_owned();
    market.consumer.unlock(["channel", "close", &id, "--unilateral"]).ok();
    (id, promised)
}

#[test]
fn a_tower_that_was_killed_and_cut_off_claims_for_a_provider_that_sleeps_and_gets_its_reward() {
    let mut market = Market::funded();
    let mut tower = Tower::start(&market, "tower");
    let (id, promised) = asleep(&mut market, &[&tower], "");
    let listed = tower.node.json(&["watch", "list"]);
    assert_eq!(number(&listed["watching"][0]["amount"]), promised, "{listed:#}");
    assert_eq!(listed["watching"][0]["channel"], id.as_str());
    let proof = market.provider.json(&["watch", "list"]);
    assert_eq!(number(&proof["watched_by"][0]["amount"]), promised, "{proof:#}");

    // It is killed, and its chain node is gone for a while when it is back.
    tower.kill_9();
    tower.again();
    market.chain_gone();
    std::thread::sleep(std::time::Duration::from_secs(3));
    market.chain_again();
    assert_eq!(market.consumer.claimed(), 0, "it was the provider's turn");

    market.pass(SLOT + 60);
    until("the tower to claim", || (market.consumer.claimed() == promised).then_some(()));
    assert_eq!(tower.tokens(&market), FAUCET, "not before the channel is closed");
    // It forgets nothing when it is killed in between.
    tower.kill_9();
    tower.again();
    market.pass(DELAY);
    until("the reward", || (tower.tokens(&market) == FAUCET + REWARD).then_some(()));
    until("the end", || (tower.node.status()["watched"] == 0).then_some(()));
    assert_eq!(tower.sent(&market), 2, "one to defend, one to collect");
    assert_eq!(market.consumer.claimed(), promised, "and the consumer got only the rest");
}

#[test]
fn of_two_towers_one_acts_in_its_turn_and_the_other_spends_nothing() {
    let mut market = Market::funded();
    let towers = [Tower::start(&market, "tower-a"), Tower::start(&market, "tower-b")];
    let (_, promised) = asleep(&mut market, &[&towers[0], &towers[1]], "");
    market.pass(SLOT + 60);
    until("a tower to claim", || (market.consumer.claimed() == promised).then_some(()));
    // The other's turn comes, and nothing is left to do for it.
    market.pass(SLOT);
    until("the other to be done", || {
        let watched = towers.each_ref().map(|tower| tower.node.status()["watched"].as_u64());
        (watched.iter().flatten().sum::<u64>() == 1).then_some(())
    });
    let sent = towers.each_ref().map(|tower| tower.sent(&market));
    assert_eq!(sent.iter().sum::<u64>(), 1, "{sent:?}");
}

#[test]
fn a_tower_defends_what_is_owed_to_a_wallet_whose_key_is_elsewhere() {
    let mut market = Market::funded();
    let tower = Tower::start(&market, "tower");
    let cold = Node::fresh(market.root.path(), "cold", market.rpc);
    market.provider.delegated_by(&cold);
    let paid_elsewhere = "delegation = \"delegation.json\"\n";
    let (_, promised) = asleep(&mut market, &[&tower], paid_elsewhere);
    market.pass(SLOT + 60);
    until("the tower to claim", || (market.consumer.claimed() == promised).then_some(()));
    // It is credited; whoever settles has it paid out.
    assert_eq!(tokens(&market, &cold.wallet()), 0);
    market.provider.settle();
    assert_eq!(tokens(&market, &cold.wallet()), promised);
    let taken = market.provider.unlock(["watch", "withdraw"]);
    taken.fails_with(&["1.5 tUSD", "only that wallet can take it back"]);
}

#[test]
fn a_tower_says_what_it_wants_and_what_is_wrong_with_its_settings() {
    let market = Market::funded();
    let node = &market.provider;
    let serve = |config: &str| {
        fs::write(node.dir.join("config.toml"), config).unwrap();
        node.unlock(["watch", "serve"])
    };
    serve("[watch]\nlook_secs = 0\n").fails_with(&["[watch] look_secs", "1 to 3600"]);
    serve("[watch]\nfriends = [\"x\"]\n").fails_with(&["[watch] friends", "\"x\""]);
    serve("[watch]\nreward_min = \"lots\"\n").fails_with(&["[watch] reward_min"]);
    fs::write(node.dir.join("config.toml"), "[provider]\ntowers = [\"there\"]\n").unwrap();
    run(market.provide_command()).fails_with(&["[provider] towers", "there", "<node-id>@<ip>"]);
    fs::remove_file(node.dir.join("config.toml")).unwrap();
    node.unlock(["watch", "fund", "1000"]).fails_with(&["not enough tokens"]);
    let nothing = node.unlock(["watch", "withdraw"]).ok();
    assert!(nothing.contains("no reward money"), "{nothing}");
    node.unlock(["watch", "fund", "3"]).ok();
    // It stays under the authorizer that it was put aside for, and is reached all the same.
    let old = node.json(&["wallet", "show"])["keys"]["authorizer"].as_str().unwrap().to_owned();
    node.unlock(["wallet", "device", "rotate"]).ok();
    let announced = node.unlock(["watch", "withdraw"]).ok();
    assert!(announced.contains("30 more days"), "{announced}");
    assert!(announced.to_lowercase().contains(&format!("under {old}")), "{announced}");
    let early = node.unlock(["watch", "withdraw", "--authorizer", &old]).ok();
    assert!(early.contains("call again in"), "{early}");
    market.pass(30 * 86_400);
    assert!(node.unlock(["watch", "withdraw"]).ok().contains("paid out"));
    assert_eq!(tokens(&market, &node.wallet()), FAUCET);
}
