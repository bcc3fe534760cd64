//! Leaving at once, where the provider agrees: channels closed without the withdraw delay, and
//! moved to another key in one transaction, by whole processes.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::Value;
use support::{Market, Node, number, only, until};

fn listed(node: &Node) -> Vec<Value> {
    node.json(&["channel", "list"]).as_array().unwrap().clone()
}

fn id(channel: &Value) -> String {
    channel["channel"].as_str().unwrap().to_owned()
}

fn status(channel: &Value) -> String {
    channel["on_chain"]["status"].to_string()
}

fn deposit(node: &Node) -> u128 {
    number(&node.json(&["wallet", "show"])["funds"]["deposit"])
}

fn authorizer(node: &Node) -> String {
    node.json(&["wallet", "show"])["keys"]["authorizer"].as_str().unwrap().to_owned()
}

/// A market in which something was bought, and the session settled.
fn settled() -> Market {
    let mut market = Market::open();
    market.download("/bytes/1000000");
    market.disconnect();
    market
}

#[test]
fn a_provider_that_agrees_has_all_that_it_was_promised_and_the_payer_the_rest_at_once() {
    let mut market = settled();
    let channel = market.consumer.channel();
    let said = market.consumer.unlock(["channel", "close", &id(&channel)]).ok();
    assert!(said.starts_with("closed; ") && said.contains("back in your deposit"), "{said}");
    let closed = market.consumer.channel();
    assert!(status(&closed).contains("closed"), "{closed:#}");
    let promised = market.provider.promised();
    assert_eq!(market.provider.claimed(), promised);
    assert!(promised > 0);
    assert_eq!(deposit(&market.consumer), 40_000_000 - promised);
    let said = market.consumer.unlock(["channel", "close", &id(&channel)]).ok();
    assert!(said.contains("closed already"), "{said}");
    // What was credited is paid out as always, and it comes back with another channel.
    market.provider.settle();
    market.connect();
    market.connected();
    market.download("/bytes/100000");
    market.disconnect();
    assert_eq!(listed(&market.consumer).len(), 2);
}

#[test]
fn a_provider_that_is_away_is_left_unilaterally_and_agrees_when_it_is_back() {
    let mut market = settled();
    market.stop_providing();
    let channel = id(&market.consumer.channel());
    let left = market.consumer.unlock(["channel", "close", &channel]);
    assert!(left.stderr.contains("does not agree to close it at once"), "{left:?}");
    assert!(left.ok().contains("86400 s"));
    assert!(status(&market.consumer.channel()).contains("losing"));
    market.provide();
    let address = market.address.clone();
    let close = ["channel", "close", &channel, "--provider", &address];
    let said = market.consumer.unlock(close).ok();
    assert!(said.starts_with("closed; "), "{said}");
    assert_eq!(market.provider.claimed(), market.provider.promised());
}

#[test]
fn a_rotated_key_takes_over_and_the_channels_move_to_it_in_one_transaction() {
    let mut market = settled();
    market.consumer.unlock(["wallet", "device", "add"]).ok();
    market.consumer.unlock(["wallet", "device", "cap", "1000"]).ok();
    let (before, old) = (market.consumer.channel(), authorizer(&market.consumer));
    let promised = market.consumer.promised();
    let free = deposit(&market.consumer);
    let rotated = rotate(&market.consumer);
    let next = authorizer(&market.consumer);
    assert_ne!(next, old);
    assert_eq!(
        (&rotated["before"], &rotated["authorizer"]),
        (&old.clone().into(), &next.clone().into())
    );
    assert_eq!(only(rotated["moved"].as_array().unwrap()), &before["channel"]);
    assert_eq!(rotated["left"].as_array().unwrap().len(), 0);
    // The registry, the cap, and one for all channels.
    assert_eq!(rotated["transactions"].as_array().unwrap().len(), 3, "{rotated:#}");
    let standing = market.consumer.json(&["wallet", "device", "list"]);
    assert_eq!(standing["standing"], "registered", "{standing:#}");
    assert_eq!(standing["authorizer"], next.as_str());
    assert_eq!(number(&standing["cap"]), 1_000_000_000, "{standing:#}");

    let channels = listed(&market.consumer);
    let of = |authorizer: &str| {
        let all = channels.iter();
        all.filter(|it| it["config"]["payer_authorizer"] == authorizer).collect::<Vec<_>>()
    };
    let (was, is) = (*only(&of(&old_of(&before))), *only(&of(&next)));
    assert!(status(was).contains("closed") && status(is).contains("open"), "{channels:#?}");
    assert_eq!(number(&was["on_chain"]["claimed"]), promised);
    assert_eq!(number(&is["on_chain"]["reserved"]), 40_000_000 - promised);
    assert_eq!(deposit(&market.consumer), free, "nothing else was touched");

    // As if it had been killed right before its last step: the same key takes over, and nothing is
    // asked of the chain twice.
    let keys = market.consumer.dir.join("keys");
    fs::rename(keys.join("authorizer.json"), keys.join("authorizer.next.json")).unwrap();
    fs::copy(keys.join(format!("authorizer-{old}.json")), keys.join("authorizer.json")).unwrap();
    // And as if it had been killed right after it: that is no other rotation, which would leave the
    // channels behind that were just moved.
    for _ in 0..2 {
        let again = rotate(&market.consumer);
        assert_eq!(authorizer(&market.consumer), next);
        for nothing in ["moved", "left", "transactions"] {
            assert_eq!(again[nothing].as_array().unwrap().len(), 0, "{again:#}");
        }
        assert!(!keys.join("authorizer.next.json").exists());
    }

    // It goes on with what it has, and a backup holds both keys.
    market.connect();
    market.connected();
    market.download("/bytes/100000");
    market.disconnect();
    assert_eq!(listed(&market.consumer).len(), 2);
    let file = market.path("node.backup");
    let made = market.consumer.unlock(["backup", "create", file.to_str().unwrap(), "--json"]);
    let inside = made.json()["manifest"]["files"].to_string();
    for name in ["authorizer.json".to_owned(), format!("authorizer-{old}.json")] {
        assert!(inside.contains(&format!("keys/{name}")), "{name} in {inside}");
    }
}

fn rotate(node: &Node) -> Value {
    node.unlock(["wallet", "device", "rotate", "--json"]).json()
}

fn old_of(channel: &Value) -> String {
    channel["config"]["payer_authorizer"].as_str().unwrap().to_owned()
}

#[test]
fn a_rotation_that_is_cut_off_goes_on_with_the_same_key_and_leaves_who_does_not_agree() {
    let mut market = settled();
    market.stop_providing();
    // The chain goes as the rotation begins: the next key is there, and nothing names it yet.
    let keys = market.consumer.dir.join("keys");
    let old = authorizer(&market.consumer);
    let mut rotating = market.consumer.command(["wallet", "device", "rotate"]);
    rotating.arg("--password-file").arg(&market.consumer.password);
    let rotating = support::Running::start(rotating);
    until("the next key", || keys.join("authorizer.next.json").exists().then_some(()));
    rotating.kill_9();
    let made = fs::read(keys.join("authorizer.next.json")).unwrap();
    assert_eq!(authorizer(&market.consumer), old, "it has not taken over yet");

    let rotated = market.consumer.unlock(["wallet", "device", "rotate"]);
    assert!(rotated.stderr.contains("is not moved"), "{rotated:?}");
    assert!(rotated.ok().contains("0 channels moved, 1 left"));
    assert_eq!(fs::read(keys.join("authorizer.json")).unwrap(), made, "the key that was made");
    assert!(!keys.join("authorizer.next.json").exists());
    assert!(keys.join(format!("authorizer-{old}.json")).exists(), "the old one is kept");
    let channel = market.consumer.channel();
    assert!(status(&channel).contains("open"), "{channel:#}");

    // With its new key the wallet still gets its provider's agreement about the old channel.
    market.provide();
    let close = ["channel", "close", &id(&channel), "--provider", &market.address];
    let said = market.consumer.unlock(close).ok();
    assert!(said.starts_with("closed; "), "{said}");
    assert_eq!(market.provider.claimed(), market.provider.promised());
    market.connect();
    market.connected();
    market.download("/bytes/100000");
    market.disconnect();
}
