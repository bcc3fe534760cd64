//! Leaving at once, where the provider agrees: channels closed without the withdraw delay,
//! by whole processes.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{Market, Node, number};

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
