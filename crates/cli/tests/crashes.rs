//! Power cuts at the worst moment: what was promised stays promised, and what was received is
//! paid for, within the bound.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Market, Running, number, only, owed, paid, sha256, sha256_of, until};

/// A unit of money for about a byte.
const PRICE: u128 = 1_000_000_000;

/// What may be lost when a connection breaks for good: the credit and one payment step, as they
/// are after `carried` bytes.
fn bound(carried: u128) -> u128 {
    let credit = (carried / 64).clamp(128 << 10, 16 << 20);
    credit + credit / 2
}

/// All sessions are settled, both sides tell the same of each, and all of it is claimed.
#[track_caller]
fn assert_all_is_paid(market: &Market) {
    let (ours, theirs) = (market.consumer.sessions(), market.provider.sessions());
    assert_eq!(ours.len(), theirs.len(), "{ours:#?}\n{theirs:#?}");
    let sum = |sessions: &[serde_json::Value]| sessions.iter().map(paid).sum::<u128>();
    assert_eq!(sum(&ours), sum(&theirs));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours["session"], theirs["session"]);
        assert_eq!(paid(ours), paid(theirs));
        for node in [&market.consumer, &market.provider] {
            support::assert_receipts(&node.session(ours["session"].as_str().unwrap()));
        }
    }
    assert_eq!(market.consumer.promised(), sum(&ours));
    assert_eq!(market.provider.promised(), sum(&ours));
    market.provider.settle();
    assert_eq!(market.provider.claimed(), sum(&ours));
}

#[test]
fn a_provider_killed_in_mid_transfer_claims_all_but_its_credit_and_goes_on() {
    let mut market = Market::open();
    let curl = market.downloading("/paced/30000000");
    market.carried(3 << 20);
    market.providing.take().unwrap().kill_9();
    // What the consumer had received, by its own count.
    let received = market.at_rest();
    drop(curl);

    // From its store alone the provider claims what it earned, within the bound.
    market.provider.settle();
    let claimed = market.provider.claimed();
    assert!(claimed <= owed(received, PRICE), "{claimed} claimed for {received} bytes received");
    let least = owed(received - bound(received), PRICE);
    assert!(claimed >= least, "{claimed} claimed of {received} bytes received");
    assert!(claimed <= market.consumer.promised(), "a consumer promises before it tells");

    // It comes back; the consumer finds it, goes on with the same session, and pays the rest.
    market.provide();
    let length = 1_000_000;
    until("the consumer to be back", || {
        let mut curl = market.curl(["--fail", "--output", "/dev/null"]);
        curl.arg(market.origin.url(&format!("/bytes/{length}")));
        support::run(curl).status.success().then_some(())
    });
    assert_eq!(sha256(&market.download(&format!("/bytes/{length}"))), sha256_of(length));
    market.disconnect();
    let session = only(&market.consumer.sessions()).clone();
    market.assert_sides_agree(session["session"].as_str().unwrap());
    assert!(paid(&session) >= owed(received + 2 * length as u128, PRICE), "{session:#}");
    assert_all_is_paid(&market);
}

#[test]
fn a_consumer_killed_in_mid_transfer_never_takes_a_promise_back() {
    let mut market = Market::open();
    let mut promised = 0;
    for _ in 0..2 {
        let begun = market.counted().unwrap();
        let curl = market.downloading("/paced/30000000");
        market.carried(begun + (2 << 20));
        let received = market.counted().unwrap();
        market.connecting.take().unwrap().kill_9();
        drop(curl);
        // Whatever the provider holds, the consumer remembers to have promised.
        let (ours, theirs) = (market.consumer.promised(), market.provider.promised());
        assert!(theirs <= ours, "{theirs} in the provider's hands, {ours} remembered");
        assert!(promised < ours, "what was promised only grows");
        assert!(ours + owed(bound(received), PRICE) >= owed(received, PRICE), "{ours}/{received}");
        promised = ours;

        market.connect();
        market.connected();
        assert_eq!(sha256(&market.download("/bytes/500000")), sha256_of(500_000));
        assert!(market.consumer.promised() > promised);
        promised = market.consumer.promised();
    }
    market.disconnect();
    let last = market.consumer.sessions().pop().unwrap();
    market.assert_sides_agree(last["session"].as_str().unwrap());
    assert_all_is_paid(&market);
}

#[test]
fn both_killed_at_once_find_each_other_again_and_agree() {
    let mut market = Market::open();
    let curl = market.downloading("/paced/30000000");
    market.carried(2 << 20);
    let (provider, consumer) =
        (market.providing.take().unwrap(), market.connecting.take().unwrap());
    provider.kill_9();
    consumer.kill_9();
    drop(curl);
    assert!(market.provider.promised() <= market.consumer.promised());
    market.provide();
    market.connect();
    market.connected();
    assert_eq!(sha256(&market.download("/bytes/500000")), sha256_of(500_000));
    market.disconnect();
    let last = market.consumer.sessions().pop().unwrap();
    market.assert_sides_agree(last["session"].as_str().unwrap());
    assert_all_is_paid(&market);
}

#[test]
fn the_chain_loses_nothing_when_it_is_killed() {
    let mut market = Market::open();
    market.download("/bytes/1000000");
    market.disconnect();
    market.provider.settle();
    let facts = |market: &Market| {
        let (provider, consumer) = (&market.provider, &market.consumer);
        let nodes = [provider, consumer];
        nodes.map(|node| (node.json(&["wallet", "show"]), node.json(&["channel", "list"])))
    };
    let before = facts(&market);
    assert!(market.provider.claimed() > 0);
    market.chain_gone();
    market.chain_again();
    assert_eq!(facts(&market), before);

    market.connect();
    market.connected();
    market.download("/bytes/1000000");
    market.disconnect();
    assert_all_is_paid(&market);
}

#[test]
fn service_goes_on_while_the_chain_is_away_and_claims_wait_for_it() {
    let mut market = Market::open();
    market.download("/bytes/100000");
    market.chain_gone();
    // What is known of the channel still counts.
    assert_eq!(sha256(&market.download("/bytes/2000000")), sha256_of(2_000_000));

    let endpoint = format!("http://{}", market.rpc);
    let mut late = market.consumer.command(["provide", "--listen", "127.0.0.1:0"]);
    late.arg("--password-file").arg(&market.consumer.password);
    market.disconnect();
    let late = Running::start(late);
    let while_serving = market.provider.unlock(["settle"]);
    while_serving.fails_with(&["does not answer", &endpoint, "check --rpc"]);
    let looking = market.consumer.run(["channel", "list"]);
    looking.fails_with(&["does not answer", &endpoint, "check --rpc"]);
    late.ended().fails_with(&["does not answer", &endpoint, "check --rpc"]);
    // The wallet is shown without what the chain would say.
    let shown = market.consumer.json(&["wallet", "show"]);
    assert!(shown["funds"].is_null() && !shown["keys"]["wallet"].is_null(), "{shown:#}");

    market.chain_again();
    market.provider.settle();
    assert!(market.provider.claimed() >= owed(2_100_000, PRICE), "it is settled to the last byte");
    assert_all_is_paid(&market);
    assert_eq!(number(&market.consumer.channel()["on_chain"]["reserved"]), 40_000_000);
}
