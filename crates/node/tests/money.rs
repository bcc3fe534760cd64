//! What becomes of the money: settlement, budgets and top-ups, with a chain that has faults.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use market::{
    Buyer, Client, Keys, Market, WEALTH, amount, assert_agree, connect, consumer_config, domain,
    echo, exit_policy, open_store, promise, provider_config, sink, source, target, total, until,
    within,
};
use sparewire_core::{ChannelId, Signer};
use sparewire_node::{
    exit::{Exit, Resolve},
    session::SessionError,
    store::Store,
    target::Target,
};
use sparewire_protocol::{
    ChannelStatus, Message, Role,
    settlement::{ChainError, Intent, StartedClose},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_cannot_be_asked_about_keeps_no_other_from_being_claimed() {
    let market = Market::new().await;
    let keys = Keys::random();
    let channels: Vec<_> = (0..40)
        .map(|salt| {
            let config = keys.channel_to(&market.seller.keys, salt);
            market.chain.open(&config, 1_000);
            promise(&*market.seller.disk, &keys, &config, 100 + u128::from(salt))
        })
        .collect();
    let seat = &market.seller.seat;
    seat.muddled.lock().unwrap().insert(channels[3]);
    *seat.slow.lock().unwrap() = Duration::from_millis(50);
    let failed = market.seller.provider.settler().settle().await.unwrap_err();
    let told = failed.to_string();
    assert!(matches!(failed.error, SessionError::Chain(ChainError::Nonsense { .. })), "{told}");
    assert!(told.contains("muddled"), "{told}");
    assert_eq!(failed.outcome.transactions.len(), 1, "what was done is told");
    for (salt, channel) in channels.iter().enumerate() {
        let expected = if salt == 3 { 0 } else { 100 + salt as u128 };
        assert_eq!(market.chain.facts(*channel).claimed, amount(expected));
    }
    assert_eq!(seat.asking_peak.load(SeqCst), 16, "many are asked about at once, not all");

    seat.muddled.lock().unwrap().clear();
    assert_eq!(market.seller.provider.settler().settle().await.unwrap().transactions.len(), 1);
    assert_eq!(market.chain.facts(channels[3]).claimed, amount(103));

    // A node that answers nothing is not asked about every channel there is.
    seat.asked.lock().unwrap().clear();
    seat.unreachable.store(true, SeqCst);
    let failed = market.seller.provider.settler().settle().await.unwrap_err();
    assert!(matches!(failed.error, SessionError::Chain(ChainError::Unreachable { .. })));
    assert!(failed.outcome.transactions.is_empty());
    assert!(seat.asked.lock().unwrap().len() < 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_who_leaves_is_noticed_and_settled_channels_are_not_asked_about_again() {
    let mut config = provider_config();
    config.selling.closes_every = Duration::from_millis(50);
    let market = Market::with(config, Exit::new(exit_policy())).await;
    let keys = Keys::random();
    let config = |salt| keys.channel_to(&market.seller.keys, salt);
    for salt in 1..=3 {
        market.chain.open(&config(salt), 1_000);
    }
    // Before anybody looks: there is something to look at from the first promise on.
    market.chain.set_claimed(config(1).id(&domain()), amount(100));
    market.chain.set_status(config(2).id(&domain()), ChannelStatus::Closed);
    let [claimed, closed, open] =
        [1, 2, 3].map(|salt| promise(&*market.seller.disk, &keys, &config(salt), 100));
    let asked = |id| market.seller.seat.asked.lock().unwrap().get(&id).copied().unwrap_or(0);
    until("the open one is asked about again and again", || asked(open) >= 5).await;
    assert_eq!((asked(claimed), asked(closed)), (1, 1));
    assert_eq!(market.chain.performed(market.seller.keys.wallet.address()), []);

    // A higher promise is worth asking about; a payer who leaves is claimed from at once, also
    // while another channel cannot be asked about.
    market.seller.seat.muddled.lock().unwrap().insert(open);
    promise(&*market.seller.disk, &keys, &config(1), 200);
    market.chain.set_status(claimed, ChannelStatus::Closing { finish_at_secs: u64::MAX });
    until("it is claimed", || market.chain.facts(claimed).claimed == amount(200)).await;
    let before = asked(claimed);
    let others = asked(open);
    until("the other goes on being asked about", || asked(open) >= others + 6).await;
    // Once while the claim is on its way, and once when it is made.
    assert!(asked(claimed) <= before + 2, "settled again");
    assert_eq!(asked(closed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_logs_are_followed_who_leaves_is_claimed_from_first_and_the_others_in_turns() {
    let mut settings = provider_config();
    settings.selling.closes_every = Duration::from_millis(50);
    let market = Market::with(settings, Exit::new(exit_policy())).await;
    let seat = &market.seller.seat;
    *seat.closes.lock().unwrap() = Some(Ok(Vec::new()));
    let keys = Keys::random();
    let mut ids = Vec::new();
    for salt in 0..500 {
        let config = keys.channel_to(&market.seller.keys, salt);
        market.chain.open(&config, 1_000);
        ids.push(promise(&*market.seller.disk, &keys, &config, 100));
    }
    // Each in its turn: whoever was asked about longest ago is next.
    seat.asked.lock().unwrap().clear();
    let times = || {
        let asked = seat.asked.lock().unwrap();
        ids.iter().map(|id| asked.get(id).copied().unwrap_or(0)).collect::<Vec<_>>()
    };
    until("all were asked about twice", || times().iter().min() >= Some(&2)).await;
    let asked = times();
    let (least, most) = (asked.iter().min(), asked.iter().max());
    assert!(most <= least.map(|it| it + 3).as_ref(), "{least:?} to {most:?}");
    assert_eq!(market.chain.performed(market.seller.keys.wallet.address()), []);

    // A start that is not final yet, as state still says open: it is acted on all the same, for the
    // delay has begun. One that is told of a channel which we do not have is nothing to us.
    let told = [ids[7], ChannelId::default()];
    let told = told.map(|channel| StartedClose { channel, finish_at_secs: u64::MAX });
    *seat.closes.lock().unwrap() = Some(Ok(told.to_vec()));
    until("it is claimed", || market.chain.facts(ids[7]).claimed == amount(100)).await;
    let claims = market.chain.performed(market.seller.keys.wallet.address()).len();
    assert_eq!(claims, 1, "and no other channel is");

    // Without a word of logs, state is asked all the same.
    let error = ChainError::Nonsense { endpoint: "node".to_owned(), reason: "doubt".to_owned() };
    *seat.closes.lock().unwrap() = Some(Err(error));
    market.chain.set_status(ids[9], ChannelStatus::Closing { finish_at_secs: u64::MAX });
    until("it is claimed too", || market.chain.facts(ids[9]).claimed == amount(100)).await;
}

/// Names that begin with `dead` are looked up for ever; all others are this computer.
#[derive(Default)]
struct Sluggish {
    dead: AtomicUsize,
}

#[async_trait]
impl Resolve for Sluggish {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if name.starts_with("dead") {
            self.dead.fetch_add(1, SeqCst);
            return std::future::pending().await;
        }
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_two_hundred_dead_names_delays_no_other_session() {
    let resolver = Arc::new(Sluggish::default());
    let exit = Exit::with_resolver(exit_policy(), resolver.clone());
    let market = Market::with(provider_config(), exit).await;
    let (buyer, _directory) = market.buyer().await;
    buyer.session().await;
    let origin = echo().await;
    let live = format!("live.example:{}", origin.port());
    let (first, channel) = market.client().await;
    let keys = first.keys.clone();
    drop(first);
    // Coming again brings no more look-ups: those that hang are still counted.
    for session in 1..=3 {
        let mut client = Client::connect(&keys, &market.seller.address()).await;
        let terms = client.terms(None).await;
        let acceptance = client.acceptance(&terms, channel, session);
        assert!(matches!(client.accept(acceptance).await, Some(Message::Accepted(_))));
        let mut streams = Vec::new();
        for number in 0..200 {
            let dead = Target::parse(&format!("dead{number}.example:443")).unwrap();
            let (mut send, receive) = client.connection.open_bi().await.unwrap();
            send.write_chunk(Client::request(&dead)).await.unwrap();
            streams.push((send, receive));
        }
        until("its share hangs", || resolver.dead.load(SeqCst) == 16).await;
        for _ in 0..5 {
            let began = Instant::now();
            connect(buyer.proxy, &live).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        client.connection.close(7, "again");
    }
    assert_eq!(resolver.dead.load(SeqCst), 16);
    let statement = buyer.close().await.unwrap();
    assert_agree(&statement, &market.seller.statement(statement.session).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_opens_streams_too_fast_waits_and_holds_up_nobody() {
    let mut config = provider_config();
    config.streams_per_sec_max = 20;
    let market = Market::with(config, Exit::new(exit_policy())).await;
    let (buyer, _directory) = market.buyer().await;
    buyer.session().await;
    let echo = echo().await;
    let (mut client, channel) = market.client().await;
    let terms = client.terms(None).await;
    let acceptance = client.acceptance(&terms, channel, 1);
    assert!(matches!(client.accept(acceptance).await, Some(Message::Accepted(_))));
    let (began, target) = (Instant::now(), target(echo));
    let opened = futures_util::future::join_all((0..260).map(|_| client.open(&target)));
    let other = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        connect(buyer.proxy, &echo.to_string()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    };
    let (opened, ()) = tokio::join!(opened, other);
    assert_eq!(opened.len(), 260);
    // Two hundred at once, and the others at twenty a second.
    assert!(began.elapsed() > Duration::from_millis(2_900), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_topped_up_while_a_quarter_of_it_is_left() {
    const MIB: u64 = 1 << 20;
    let market = Market::new().await;
    let mut config = consumer_config();
    config.buying.channel_amount = amount(u128::from(8 * MIB));
    let (buyer, _directory) = market.buyer_with(config).await;
    let asked = || -> Vec<_> {
        let wallet = buyer.keys.wallet.address();
        market.chain.performed(wallet).iter().map(Intent::kind).collect()
    };
    let (sink, mut swallowed) = sink().await;
    let upload = async |bytes: u64| {
        let mut tcp = buyer.connect(sink).await.unwrap();
        tcp.write_all(&vec![1; bytes as usize]).await.unwrap();
        tcp.shutdown().await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    };
    upload(5 * MIB).await;
    assert_eq!(within(20, swallowed.recv()).await, Some(5 * MIB));
    assert_eq!(asked(), ["deposit", "open"]);
    // Less than 2 MiB are left, more than ten times the credit; nothing more is carried.
    upload(MIB + MIB / 4).await;
    assert_eq!(within(20, swallowed.recv()).await, Some(MIB + MIB / 4));
    until("it is topped up", || asked().contains(&"top_up")).await;
    let statement = buyer.close().await.unwrap();
    assert_eq!(total(&statement), 25 * MIB / 4);
    assert_agree(&statement, &market.seller.statement(statement.session).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_empty_wallet_the_rest_of_the_channel_is_used_and_the_session_settled() {
    const MIB: u64 = 1 << 20;
    let market = Market::new().await;
    let (keys, directory) = (Keys::random(), tempfile::tempdir().unwrap());
    market.chain.mint(keys.wallet.address(), u128::from(2 * MIB));
    let mut config = consumer_config();
    config.buying.channel_amount = amount(u128::from(2 * MIB));
    let address = market.seller.address();
    let buyer = Buyer::start(&market.chain, &keys, directory.path(), address, config).await;
    let id = buyer.session_id().await;
    let (sink, mut swallowed) = sink().await;
    let mut tcp = buyer.connect(sink).await.unwrap();
    tcp.write_all(&vec![1; 1_700_000]).await.unwrap();
    drop(tcp);
    assert_eq!(within(20, swallowed.recv()).await, Some(1_700_000));
    // Below low water, and no top-up comes; new streams are served all the same.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(&[7; 1_000]).await.unwrap();
    within(10, tcp.read_exact(&mut [0; 1_000])).await.unwrap();
    drop(tcp);

    let download = buyer.download(source().await).await;
    let error = within(40, buyer.run).await.unwrap().unwrap_err();
    let short = matches!(error, SessionError::Chain(ChainError::InsufficientFunds { .. }));
    assert!(short, "{error}");
    let answer = within(1, connect(buyer.proxy, "127.0.0.1:9")).await.unwrap_err();
    assert!(answer.contains("not enough tokens"), "{answer}");
    let statement = buyer.disk.session(id).unwrap().unwrap().statement.expect("it is settled");
    assert_eq!(total(&statement), 2 * MIB, "all of the channel was used");
    assert_agree(&statement, &market.seller.statement(id).await);
    assert_eq!(within(10, download).await.unwrap(), 2 * MIB - 1_700_000 - 2_000);
    let asked: Vec<_> =
        market.chain.performed(keys.wallet.address()).iter().map(Intent::kind).collect();
    assert_eq!(asked, ["deposit", "open"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_chain_is_silent_streams_wait_for_the_top_up() {
    const MIB: u64 = 1 << 20;
    let market = Market::new().await;
    let mut config = consumer_config();
    config.buying.channel_amount = amount(u128::from(MIB));
    let (buyer, _directory) = market.buyer_with(config).await;
    let id = buyer.session_id().await;
    buyer.seat.unreachable.store(true, SeqCst);
    let download = buyer.download(source().await).await;
    until("the channel is used up", || {
        market.seller.payment(id).is_some_and(|paid| paid.voucher.body.amount == amount(1 << 20))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!buyer.run.is_finished() && !download.is_finished(), "it waits");
    assert_eq!(buyer.session_id().await, id);
    buyer.seat.unreachable.store(false, SeqCst);
    until("service goes on", || {
        market.seller.payment(id).is_some_and(|paid| paid.voucher.body.amount > amount(2 << 20))
    })
    .await;
    drop(download);
    let statement = buyer.close().await.unwrap();
    assert_eq!(statement.session, id);
    assert_agree(&statement, &market.seller.statement(id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_broke_off_with_an_empty_channel_is_resumed_to_be_settled() {
    const MIB: u128 = 1 << 20;
    let market = Market::new().await;
    let mut config = consumer_config();
    (config.buying.channel_amount, config.buying.budget) = (amount(MIB), amount(MIB));
    let (buyer, directory) = market.buyer_with(config.clone()).await;
    let (id, keys) = (buyer.session_id().await, buyer.keys.clone());
    buyer.seat.unreachable.store(true, SeqCst); // it does not know yet that there is no more money
    let download = buyer.download(source().await).await;
    until("the channel is used up", || {
        market.seller.payment(id).is_some_and(|paid| paid.voucher.body.amount == amount(MIB))
    })
    .await;
    buyer.kill().await;
    within(20, download).await.unwrap();
    assert!(market.seller.session(id).unwrap().statement.is_none(), "it was not settled");
    let address = market.seller.address();
    let buyer = Buyer::start(&market.chain, &keys, directory.path(), address, config).await;
    let error = within(40, buyer.run).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("--budget"), "{error}");
    let statement = buyer.disk.session(id).unwrap().unwrap().statement.expect("it is settled");
    assert_eq!(u128::from(total(&statement)), MIB);
    assert_agree(&statement, &market.seller.statement(id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_holds_less_than_its_provider_asks_is_topped_up_and_used() {
    let mut config = provider_config();
    config.selling.channel_min = amount(1 << 40);
    let market = Market::with(config, Exit::new(exit_policy())).await;
    let (keys, directory) = (Keys::random(), tempfile::tempdir().unwrap());
    market.chain.mint(keys.wallet.address(), WEALTH);
    // As a rotation leaves it: more than a quarter of what a channel gets, and less than is asked.
    let channel = keys.channel_to(&market.seller.keys, 1);
    market.chain.open(&channel, 3 << 38);
    let store = open_store(directory.path()).await;
    store.keep_channel(Role::Payer, &domain(), &channel).unwrap();
    drop(store);
    let at = market.seller.address();
    let buyer = Buyer::start(&market.chain, &keys, directory.path(), at, consumer_config()).await;
    let figures = market::figures(&*buyer.session().await).await;
    assert_eq!(figures.channel, channel.id(&domain()));
    assert_eq!(market.chain.facts(figures.channel).reserved, amount((3 << 38) + (1 << 40)));
    buyer.close().await.unwrap();
}
