//! A provider that signs two receipts with one number, and what its consumer keeps of that.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::sync::Arc;

use market::{
    Buyer, Client, Keys, Market, amount, consumer_config, domain, echo, open_store, within,
};
use sparewire_core::{ByteCount, SessionId, Signed, Signer, TypedData};
use sparewire_node::{
    session::SessionError,
    store::{KnownChannel, SqliteStore, Store},
    transport::PeerAddress,
};
use sparewire_protocol::{
    Accepted, Countersigned, Message, ProtocolError, Reading, Receipt, Role, stake::Contradiction,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A consumer that has settled a session with a provider, which lies from now on.
struct Scene {
    market: Market,
    provider: Arc<Keys>,
    consumer: Arc<Keys>,
    directory: TempDir,
    session: SessionId,
}

impl Scene {
    async fn new() -> Self {
        let market = Market::new().await;
        let (buyer, directory) = market.buyer().await;
        let mut tcp = buyer.connect(echo().await).await.unwrap();
        tcp.write_all(b"something").await.unwrap();
        tcp.shutdown().await.unwrap();
        within(10, tcp.read_to_end(&mut Vec::new())).await.unwrap();
        let (consumer, provider) = (buyer.keys.clone(), market.seller.keys.clone());
        let session = buyer.close().await.unwrap().session;
        market.seller.statement(session).await;
        Self { market, provider, consumer, directory, session }
    }

    /// The consumer as a new process, with the provider that it had.
    async fn again(&self, forgive: bool) -> Buyer {
        let mut config = consumer_config();
        config.buying.forgive = forgive;
        let (chain, there) = (&self.market.chain, self.market.seller.address());
        Buyer::start(chain, &self.consumer, self.directory.path(), there, config).await
    }

    async fn store(&self) -> Arc<SqliteStore> {
        open_store(self.directory.path()).await
    }

    /// The receipt that both signed, changed, with the payer's old signature.
    async fn other(&self, change: impl FnOnce(&mut Receipt), by: &dyn Signer) -> Countersigned {
        let ours = self.store().await.receipts(self.session).unwrap();
        let mut body = ours.last().unwrap().receipt.body;
        change(&mut body);
        let payee_signature = by.sign_digest(body.digest(&domain())).unwrap();
        let signature = ours.last().unwrap().receipt.signature;
        Countersigned { receipt: Signed { body, signature }, payee_signature }
    }

    /// How the consumer's next session ends, with a provider that shows `receipt` as the newest, and
    /// what is kept of it.
    async fn shown(&self, receipt: Countersigned) -> (SessionError, Vec<Contradiction>) {
        let offer = self.store().await.offer(self.session).unwrap().unwrap();
        let endpoint = self.provider.endpoint(None).await;
        let there = PeerAddress { node: endpoint.node_id(), addrs: endpoint.bound_addrs() };
        let path = self.directory.path();
        let chain = &self.market.chain;
        let buyer = Buyer::start(chain, &self.consumer, path, there, consumer_config()).await;
        let mut liar = Client::provide(&self.provider, &endpoint).await;
        assert!(matches!(liar.hear().await, Some(Message::Hello { .. })));
        liar.say(&Message::Offer(Box::new(offer))).await;
        let Some(Message::Accept { acceptance, .. }) = liar.hear().await else { panic!() };
        let payment = acceptance.payment.unwrap();
        let accepted = Accepted {
            session: acceptance.session,
            reading: Reading::ZERO,
            base: payment.voucher.body.amount,
            history: payment.reading.checked_total().unwrap(),
            payment: Some(payment),
            receipt: Some(receipt),
        };
        liar.say(&Message::Accepted(Box::new(accepted))).await;
        let error = buyer.ended().await.unwrap_err();
        let kept = self.store().await.contradictions(self.session).unwrap();
        endpoint.close().await;
        (error, kept)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_receipt_with_one_number_ends_the_session_and_both_are_kept() {
    let scene = Scene::new().await;
    let less = |receipt: &mut Receipt| receipt.reading.down = ByteCount::new(1);
    let other = scene.other(less, &*scene.provider.authorizer).await;
    let (error, kept) = scene.shown(other).await;
    match error {
        SessionError::Protocol(ProtocolError::ConflictingReceipts { sequence, second, .. }) => {
            assert_eq!(sequence, other.receipt.body.sequence);
            assert_eq!(second, other.receipt.body.digest(&domain()));
        }
        error => panic!("{error}"),
    }
    let [contradiction] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(contradiction.provider(), scene.provider.wallet.address());
    assert_eq!(contradiction.receipts()[1].body, other.receipt.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_that_the_provider_did_not_sign_convicts_it_of_nothing() {
    let scene = Scene::new().await;
    let more = |receipt: &mut Receipt| receipt.amount = amount(receipt.amount.get() + 1);
    let forged = scene.other(more, &*scene.consumer.authorizer).await;
    let (error, kept) = scene.shown(forged).await;
    match error {
        SessionError::Protocol(ProtocolError::Signature(_)) => {}
        error => panic!("{error}"),
    }
    assert_eq!(kept, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_channel_is_used_no_more_and_its_provider_only_where_it_is_forgiven() {
    let scene = Scene::new().await;
    let channel = scene.store().await.channels(Role::Payer).unwrap()[0].clone();
    let facts = scene.market.chain.facts(channel.id);
    let deposit = scene.market.chain.deposit(scene.consumer.wallet.address());
    let less = |receipt: &mut Receipt| receipt.reading.down = ByteCount::new(1);
    let other = scene.other(less, &*scene.provider.authorizer).await;
    scene.shown(other).await;
    // As another process, which knows what is on its disk.
    let refused = || async {
        let error = scene.again(false).await.ended().await.unwrap_err();
        let SessionError::Policy(reason) = &error else { panic!("{error}") };
        for words in [&channel.id.to_string(), "`channel close`", "--forgive"] {
            assert!(reason.contains(words), "no {words} in: {reason}");
        }
    };
    refused().await;
    let frozen = KnownChannel { frozen: true, ..channel.clone() };
    assert_eq!(scene.store().await.channels(Role::Payer).unwrap(), std::slice::from_ref(&frozen));
    assert_eq!(scene.market.chain.deposit(scene.consumer.wallet.address()), deposit);

    // Money is left in the frozen channel, and still another one pays.
    assert!(facts.reserved > channel.promised());
    let buyer = scene.again(true).await;
    let session = buyer.session_id().await;
    let statement = buyer.close().await.unwrap();
    assert_eq!(statement.session, session);
    assert_ne!(statement.channel, channel.id);
    let known = scene.store().await.channel(channel.id).unwrap();
    assert_eq!(known, Some(frozen), "nothing more was promised over it");
    assert_eq!(scene.market.chain.facts(channel.id), facts, "nothing more was put into it");
    // It was forgiven once, not for good.
    refused().await;
}
