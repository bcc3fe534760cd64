//! Channels that are closed at once, because their provider agrees: over a real connection, and
//! with those who ask for what is not theirs to ask for.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use market::{
    Buyer, Client, FakeChain, Keys, Market, Seat, Seller, amount, consumer_config, domain, echo,
    exit_policy, provider_config, within,
};
use sparewire_core::{ChannelId, Signer};
use sparewire_node::{
    closing::ask_to_close,
    exit::Exit,
    session::SessionError,
    store::{KnownChannel, Store},
    transport::{CLOSE_ALPN, PeerAddress},
};
use sparewire_protocol::{
    AgreedClose, CLOSE_FRAME_LEN_MAX, ChannelConfig, ChannelStatus, CloseMessage, CloseRequest,
    Message, ProtocolError, RefusalCode, Role, Statement,
    settlement::{Chain, Intent},
};
use sparewire_wallet::{DeviceKey, LocalKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Another machine of the same wallet, with a device and an authorizer of its own.
fn another_machine(wallet: [u8; 32]) -> Arc<Keys> {
    Arc::new(Keys {
        wallet: LocalKey::from_secret(&wallet).unwrap(),
        device: Arc::new(DeviceKey::random().unwrap()),
        authorizer: Arc::new(LocalKey::random().unwrap()),
    })
}

/// Says one thing on a stream of its own, and reads what comes back; nothing where the provider
/// hangs up.
async fn say(keys: &Keys, provider: &PeerAddress, frame: &[u8]) -> Option<CloseMessage> {
    let endpoint = keys.endpoint(None).await;
    let connection = within(10, endpoint.connect_for(provider, CLOSE_ALPN)).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_chunk(Bytes::copy_from_slice(frame)).await.unwrap();
    send.finish();
    let mut length = [0; 4];
    let heard = async {
        receive.read_exact(&mut length).await.ok()?;
        let length = u32::from_le_bytes(length) as usize;
        assert!(length <= CLOSE_FRAME_LEN_MAX);
        let mut frame = vec![0; length];
        receive.read_exact(&mut frame).await.ok()?;
        CloseMessage::from_frame(&frame).unwrap()
    };
    let heard = within(20, heard).await;
    endpoint.close().await;
    heard
}

fn request(keys: &Keys, config: ChannelConfig) -> CloseRequest {
    let delegation = keys.identity().delegation;
    CloseRequest { domain: domain(), config, delegation, payment: None }
}

async fn ask(keys: &Keys, provider: &PeerAddress, request: CloseRequest) -> Option<CloseMessage> {
    say(keys, provider, &CloseMessage::Ask(request).to_frame()).await
}

#[track_caller]
fn refused(answer: Option<CloseMessage>, code: RefusalCode, words: &str) {
    match answer {
        Some(CloseMessage::Refused(refused)) => {
            assert_eq!(refused.code, code, "{}", refused.reason);
            assert!(refused.reason.contains(words), "{}", refused.reason);
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[track_caller]
fn agreed(answer: Option<CloseMessage>) -> AgreedClose {
    match answer {
        Some(CloseMessage::Agreed(agreed)) => agreed,
        other => panic!("expected an agreement, got {other:?}"),
    }
}

/// A buyer that has paid for something, and what it remembers after its session is settled.
async fn settled(market: &Market, wallet: [u8; 32]) -> (Arc<Keys>, tempfile::TempDir, Statement) {
    let (keys, directory) = (another_machine(wallet), tempfile::tempdir().unwrap());
    market.chain.mint(keys.wallet.address(), 1 << 60);
    let buyer = buys(&market.chain, &keys, &directory, market.seller.address()).await;
    let statement = buyer.close().await.unwrap();
    market.seller.statement(statement.session).await;
    market::until("its channel is free", || market.seller.provider.live().is_empty()).await;
    (keys, directory, statement)
}

async fn buys(
    chain: &Arc<FakeChain>,
    keys: &Arc<Keys>,
    directory: &tempfile::TempDir,
    provider: PeerAddress,
) -> Buyer {
    let buyer = Buyer::start(chain, keys, directory.path(), provider, consumer_config()).await;
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(&[7; 10_000]).await.unwrap();
    within(10, tcp.read_exact(&mut [0; 10_000])).await.unwrap();
    buyer
}

fn known(store: &dyn Store, channel: ChannelId) -> KnownChannel {
    store.channel(channel).unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_agrees_and_the_payer_has_its_rest_back_at_once() {
    let market = Market::new().await;
    let (keys, directory, statement) = settled(&market, [1; 32]).await;
    let store: Arc<dyn Store> = market::open_store(directory.path()).await;
    let at = store.address(market.seller.keys.identity().node_id()).unwrap().unwrap();
    assert_eq!(at, market.seller.address(), "it remembers where its provider is");
    let channel = known(&*store, statement.channel);
    let endpoint = keys.endpoint(None).await;
    let (identity, holds) = (keys.identity(), market.chain.facts(channel.id).reserved);
    let asking = ask_to_close(&endpoint, &at, &identity, &store, &channel, holds);
    let (claim, payee_signature) = within(20, asking).await.unwrap();
    assert_eq!(claim.amount, statement.cumulative);
    // Both remember it before anything is sent to the chain.
    assert_eq!(known(&*store, channel.id).agreed_close(), Some((claim, payee_signature)));
    assert!(known(&*market.seller.disk, channel.id).agreed.is_some());

    endpoint.close().await;
    drop(store);
    // It comes again before the chain is asked: with another channel.
    let buyer = buys(&market.chain, &keys, &directory, market.seller.address()).await;
    let next = buyer.close().await.unwrap();
    assert_ne!(next.channel, statement.channel);

    let seat = Seat::new(&market.chain, keys.wallet.address());
    let before = market.chain.facts(channel.id);
    seat.perform(&Intent::CloseCooperatively { claim, payee_signature }).await.unwrap();
    let after = market.chain.facts(channel.id);
    assert_eq!((after.status, after.claimed), (ChannelStatus::Closed, statement.cumulative));
    let rest = before.reserved.saturating_sub(statement.cumulative).get();
    assert_eq!(market.chain.deposit(keys.wallet.address()), rest);
    let paid = market.chain.wallet(market.seller.keys.wallet.address());
    assert_eq!(paid, statement.cumulative.get(), "the payee has all that it was promised");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_signed_that_is_not_durable_and_a_restarted_provider_says_the_same() {
    let market = Market::new().await;
    let (keys, _directory, statement) = settled(&market, [2; 32]).await;
    let config = known(&*market.seller.disk, statement.channel).config;
    let at = market.seller.address();
    market.seller.disk.full.store(true, SeqCst);
    let answer = ask(&keys, &at, request(&keys, config)).await;
    refused(answer, RefusalCode::Busy, "nothing can be recorded");
    assert_eq!(known(&*market.seller.disk, statement.channel).agreed, None);
    market.seller.disk.full.store(false, SeqCst);
    let first = agreed(ask(&keys, &at, request(&keys, config)).await);
    assert_eq!(first.close.body.amount, statement.cumulative);

    let (Market { chain, seller, seller_directory }, addr) = (market, at.addrs[0]);
    let seller_keys = seller.keys.clone();
    seller.stop().await;
    let exit = Exit::new(exit_policy());
    let path = seller_directory.path();
    let seller =
        Seller::start_with(&chain, &seller_keys, path, Some(addr), provider_config(), exit).await;
    assert_eq!(agreed(ask(&keys, &at, request(&keys, config)).await), first);
    // And it serves over that channel no more.
    let mut client = Client::connect(&keys, &at).await;
    let terms = client.terms(None).await;
    match client.accept(client.acceptance(&terms, config, 1)).await {
        Some(Message::Refused(refused)) => {
            assert_eq!(refused.code, RefusalCode::ChannelUnusable);
            assert!(refused.reason.contains("close is agreed on"), "{}", refused.reason);
        }
        answer => panic!("{answer:?}"),
    }
    seller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_session_runs_no_other_device_ends_its_channel_and_afterwards_any_of_the_wallet() {
    let market = Market::new().await;
    let (keys, directory) = (another_machine([3; 32]), tempfile::tempdir().unwrap());
    market.chain.mint(keys.wallet.address(), 1 << 60);
    let at = market.seller.address();
    let buyer = buys(&market.chain, &keys, &directory, at.clone()).await;
    let channel = market::figures(&*buyer.session().await).await.channel;
    let config = known(&*market.seller.disk, channel).config;
    // The same wallet with another device and another authorizer, as after a loss.
    let other = another_machine([3; 32]);
    let answer = ask(&other, &at, request(&other, config)).await;
    refused(answer, RefusalCode::Busy, "in use by another device");
    let statement = buyer.close().await.unwrap();
    market.seller.statement(statement.session).await;
    market::until("the channel is free", || market.seller.provider.live().is_empty()).await;
    let agreed = agreed(ask(&other, &at, request(&other, config)).await);
    assert_eq!(agreed.close.body.amount, statement.cumulative);
    assert_eq!(agreed.payment.unwrap().voucher.body.amount, statement.cumulative);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_ask_is_refused_before_the_chain_is_asked_or_anything_is_written() {
    let market = Market::new().await;
    let (keys, _directory, statement) = settled(&market, [4; 32]).await;
    let (at, disk) = (market.seller.address(), &market.seller.disk);
    let config = known(&**disk, statement.channel).config;
    let asked = || market.seller.seat.asked.lock().unwrap().values().sum::<usize>();
    let before = asked();

    let stranger = Keys::random();
    let (invalid, unusable) = (RefusalCode::Invalid, RefusalCode::ChannelUnusable);
    refused(ask(&stranger, &at, request(&stranger, config)).await, invalid, "another wallet");
    // With the payer's own word, which is for another device.
    refused(ask(&stranger, &at, request(&keys, config)).await, invalid, "another wallet");
    let unknown = ChannelConfig { salt: config.salt ^ 1, ..config };
    refused(ask(&keys, &at, request(&keys, unknown)).await, unusable, "no session over it");
    let elsewhere = ChannelConfig { payee_authorizer: stranger.authorizer.address(), ..config };
    refused(ask(&keys, &at, request(&keys, elsewhere)).await, unusable, "no more");
    let mut network = request(&keys, config);
    network.domain.chain_id += 1;
    refused(ask(&keys, &at, network).await, RefusalCode::WrongNetwork, "settles on chain");
    assert_eq!(asked(), before, "the chain is asked about none of them");

    // What is no question at all.
    let good = CloseMessage::Ask(request(&keys, config)).to_frame();
    for garbage in [
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat()[..good.len()].iter().map(|byte| byte ^ 0x55).collect(),
        u32::MAX.to_le_bytes().to_vec(),
        vec![1, 0, 0, 0, 99],
        vec![0; 4],
    ] {
        assert_eq!(say(&keys, &at, &garbage).await, None);
    }
    market.chain.revoke(keys.authorizer.address());
    refused(ask(&keys, &at, request(&keys, config)).await, invalid, "revoked");
    market.seller.seat.unreachable.store(true, SeqCst);
    let silent = RefusalCode::ChainUnavailable;
    refused(ask(&keys, &at, request(&keys, config)).await, silent, "chain cannot be asked");
    market.seller.seat.unreachable.store(false, SeqCst);
    assert_eq!(known(&**disk, statement.channel).agreed, None);

    // The wallet has another authorizer by now.
    let next = another_machine([4; 32]);
    agreed(ask(&next, &at, request(&next, config)).await);
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_waits_for_no_provider_that_is_gone_or_forgets_what_it_was_promised() {
    let market = Market::new().await;
    let (keys, directory, statement) = settled(&market, [5; 32]).await;
    let store: Arc<dyn Store> = market::open_store(directory.path()).await;
    let channel = known(&*store, statement.channel);
    let (at, identity) = (market.seller.address(), keys.identity());
    let holds = market.chain.facts(channel.id).reserved;
    let endpoint = keys.endpoint(None).await;
    // More was claimed than the provider remembers: it was set back, and signs nothing.
    market.chain.set_claimed(channel.id, statement.cumulative.checked_add(amount(1)).unwrap());
    let asking = ask_to_close(&endpoint, &at, &identity, &store, &channel, holds);
    let error = within(20, asking).await.unwrap_err();
    let code = match &error {
        SessionError::Protocol(ProtocolError::Refused { code, .. }) => *code,
        other => panic!("{other}"),
    };
    assert_eq!(code, RefusalCode::ChannelUnusable, "{error}");
    market.seller.stop().await;
    let asking = ask_to_close(&endpoint, &at, &identity, &store, &channel, holds);
    let error = within(20, asking).await.unwrap_err();
    assert!(matches!(error, SessionError::Transport(_) | SessionError::Protocol(_)), "{error}");
    assert_eq!(known(&*store, channel.id).agreed, None);
    endpoint.close().await;
}

/// An hour passes on nobody's clock in a test: the chain does not answer.
fn silence(market: &Market, silent: bool) {
    let hours = Duration::from_secs(if silent { 3_600 } else { 0 });
    *market.seller.seat.slow.lock().unwrap() = hours;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_close_of_a_channel_waits_at_a_time_and_what_was_agreed_on_waits_for_nothing() {
    let market = Market::new().await;
    let (keys, _directory, statement) = settled(&market, [6; 32]).await;
    let (other, _other_directory, others) = settled(&market, [7; 32]).await;
    let at = market.seller.address();
    let config = known(&*market.seller.disk, statement.channel).config;
    let others = known(&*market.seller.disk, others.channel).config;
    let first = agreed(ask(&keys, &at, request(&keys, config)).await);

    silence(&market, true);
    let asked = || market.seller.seat.asked_of_keys.load(SeqCst);
    let before = asked();
    let hangs_up = tokio::spawn({
        let (other, at, request) = (other.clone(), at.clone(), request(&other, others));
        async move { ask(&other, &at, request).await }
    });
    market::until("the chain is asked", || asked() > before).await;
    hangs_up.abort();
    let again = within(4, ask(&other, &at, request(&other, others))).await;
    refused(again, RefusalCode::Busy, "it or too many others are being closed");
    let again = within(4, ask(&keys, &at, request(&keys, config))).await;
    assert_eq!(agreed(again), first, "neither a place nor the chain is needed");
    assert_eq!(asked(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closes_of_channels_that_never_paid_keep_no_customer_waiting() {
    let market = Market::new().await;
    let (keys, directory, statement) = settled(&market, [8; 32]).await;
    let (at, crowd) = (market.seller.address(), Keys::random());
    silence(&market, true);
    let before = market.seller.seat.asked_of_keys.load(SeqCst);
    let mut asking = tokio::task::JoinSet::new();
    for salt in 0..20 {
        let config = crowd.channel_to(&market.seller.keys, salt);
        market.seller.disk.keep_channel(Role::Payee, &domain(), &config).unwrap();
        let (crowd, at) = (crowd.clone(), at.clone());
        asking.spawn(async move { ask(&crowd, &at, request(&crowd, config)).await });
    }
    let checked = || market.seller.seat.asked_of_keys.load(SeqCst) - before;
    market::until("their line is full", || checked() == 16).await;
    // They go on waiting for the chain; whoever comes now has its answer at once.
    silence(&market, false);
    let buyer = buys(&market.chain, &keys, &directory, at).await;
    assert_eq!(buyer.close().await.unwrap().channel, statement.channel);
    asking.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agreement_whose_answer_was_lost_locks_nobody_out_who_never_paid() {
    let market = Market::new().await;
    let (keys, directory) = (another_machine([9; 32]), tempfile::tempdir().unwrap());
    market.chain.mint(keys.wallet.address(), 1 << 60);
    let at = market.seller.address();
    let start = async || {
        let path = directory.path();
        Buyer::start(&market.chain, &keys, path, at.clone(), consumer_config()).await
    };
    // A session in which nothing is bought.
    let buyer = start().await;
    let channel = market::figures(&*buyer.session().await).await.channel;
    buyer.close().await.unwrap();
    market::until("its channel is free", || market.seller.provider.live().is_empty()).await;
    let config = known(&*market.seller.disk, channel).config;
    // Its provider agrees, and the payer dies before it hears of that.
    assert_eq!(agreed(ask(&keys, &at, request(&keys, config)).await).payment, None);
    let store = market::open_store(directory.path()).await;
    assert_eq!((known(&*store, channel).agreed, known(&*store, channel).payment), (None, None));
    drop(store);

    let buyer = start().await;
    let another = market::figures(&*buyer.session().await).await.channel;
    assert_ne!(another, channel, "it takes another channel");
    buyer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_provider_agrees_to_no_close_of_a_channel_that_its_backup_never_knew() {
    let (chain, keys) = (Arc::new(FakeChain::default()), Keys::random());
    let seller_directory = tempfile::tempdir().unwrap();
    let store = market::open_store(seller_directory.path()).await;
    store.mark_restored(&[keys.authorizer.address()]).unwrap();
    drop(store);
    let seller = Seller::start(&chain, &keys, seller_directory.path(), None).await;
    let market = Market { chain, seller, seller_directory };
    // Consumers with new channels come and come again.
    let (buyer, directory, statement) = settled(&market, [10; 32]).await;
    let again = buys(&market.chain, &buyer, &directory, market.seller.address()).await;
    assert_eq!(again.close().await.unwrap().channel, statement.channel);
    // Whatever was promised over it while the store knew it, its payer says nothing of that now.
    let (mut client, config) = market.client().await;
    let terms = client.terms(None).await;
    let answer = client.accept(client.acceptance(&terms, config, 1)).await;
    assert!(matches!(answer, Some(Message::Accepted(_))), "it is served: {answer:?}");
    let payer = client.keys.clone();
    drop(client);
    let answer = ask(&payer, &market.seller.address(), request(&payer, config)).await;
    refused(answer, RefusalCode::ChannelUnusable, "restored from a backup");
    assert_eq!(known(&*market.seller.disk, config.id(&domain())).agreed, None);
}
