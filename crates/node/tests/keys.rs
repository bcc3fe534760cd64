//! Keys that their wallet has revoked act for it no more, wherever its delegation still says so.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use market::{
    Client, Market, amount, consumer_config, domain, exit_policy, provider_config, refused, sink,
    until, within,
};
use sparewire_core::Signer;
use sparewire_node::{exit::Exit, session::SessionError};
use sparewire_protocol::{ChannelStatus, Message, RefusalCode};
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_keys_are_revoked_is_not_served() {
    let market = Market::new().await;
    let (mut client, channel) = market.client().await;
    market.chain.revoke(client.keys.authorizer.address());
    let terms = client.terms(None).await;
    match client.accept(client.acceptance(&terms, channel, 1)).await {
        Some(Message::Refused(refused)) => {
            assert_eq!(refused.code, RefusalCode::Invalid);
            assert!(refused.reason.contains("revoked"), "{}", refused.reason);
        }
        answer => panic!("{answer:?}"),
    }
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_revoked_in_mid_session_end_it_and_what_was_promised_is_claimed() {
    let mut config = provider_config();
    config.selling.facts_every = Duration::from_millis(20);
    let market = Market::with(config, Exit::new(exit_policy())).await;
    let (buyer, _directory) = market.buyer_with(consumer_config()).await;
    let (sink, _counts) = sink().await;
    let mut stream = buyer.connect(sink).await.unwrap();
    stream.write_all(&[7; 100_000]).await.unwrap();
    let session = buyer.session_id().await;
    until("something is paid", || {
        let payment = market.seller.payment(session);
        payment.is_some_and(|payment| payment.voucher.body.amount > amount(0))
    })
    .await;
    market.chain.revoke(buyer.keys.authorizer.address());
    // The session is settled properly, and no other one begins.
    let statement = market.seller.statement(session).await;
    until("nobody is served", || market.seller.provider.live().is_empty()).await;
    let outcome = market.seller.provider.settler().settle().await.unwrap();
    assert_eq!(outcome.transactions.len(), 1);
    assert_eq!(market.chain.facts(statement.channel).claimed, statement.cumulative);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_whose_keys_are_revoked_is_paid_nothing() {
    let market = Market::new().await;
    market.chain.revoke(market.seller.keys.authorizer.address());
    let (mut buyer, _directory) = market.buyer().await;
    match within(20, &mut buyer.run).await.unwrap().unwrap_err() {
        SessionError::Policy(reason) => assert!(reason.contains("revoked"), "{reason}"),
        error => panic!("{error}"),
    }
    let wallet = buyer.keys.wallet.address();
    assert_eq!(market.chain.performed(wallet), [], "no channel is opened to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_whose_keys_are_revoked_in_mid_session_is_left() {
    let market = Market::new().await;
    let mut config = consumer_config();
    config.buying.keys_every = Duration::from_millis(20);
    let (mut buyer, _directory) = market.buyer_with(config).await;
    let (sink, _counts) = sink().await;
    let mut stream = buyer.connect(sink).await.unwrap();
    stream.write_all(&[7; 100_000]).await.unwrap();
    let session = buyer.session_id().await;
    market.chain.revoke(market.seller.keys.authorizer.address());
    // The session is settled properly, and no other one begins.
    market.seller.statement(session).await;
    match within(20, &mut buyer.run).await.unwrap().unwrap_err() {
        SessionError::Policy(reason) => assert!(reason.contains("revoked"), "{reason}"),
        error => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_is_asked_about_nobody_whose_channel_the_chain_does_not_know_or_is_closing() {
    let market = Market::new().await;
    let asked = || market.seller.seat.asked_of_keys.load(SeqCst);
    let (mut client, mut channel) = market.client().await;
    let opened = channel;
    channel.salt += 77;
    let terms = client.terms(None).await;
    let answer = client.accept(client.acceptance(&terms, channel, 1)).await;
    assert_eq!(refused(answer), RefusalCode::ChannelUnusable);

    market.chain.set_status(opened.id(&domain()), ChannelStatus::Closing { finish_at_secs: 1 });
    let mut client = Client::connect(&client.keys, &market.seller.address()).await;
    let terms = client.terms(None).await;
    let answer = client.accept(client.acceptance(&terms, opened, 2)).await;
    assert_eq!(refused(answer), RefusalCode::ChannelUnusable);
    assert_eq!(asked(), 0);
    market.serves_an_honest_consumer().await;
    assert!(asked() > 0);
}
