//! Sessions between a real provider and real consumers over QUIC on loopback, honest and not.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use market::{
    Buyer, Client, INITIAL, Keys, Market, Seller, amount, assert_agree, connect, consumer_config,
    domain, echo, figures, nobody, refused, sink, source, target, total, until, within,
};
use sparewire_core::{ByteCount, DeviceSigner, DeviceStatement, Price, Signer, Verified};
use sparewire_node::{
    consumer::Link,
    session::SessionError,
    store::{Store, StoreError},
    transport::RecvStream,
};
use sparewire_protocol::{
    ChannelStatus, Message, Payment, Reading, Record, RefusalCode, Role, Voucher,
    settlement::Intent,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Reads until nothing has come for a second.
async fn drain(stream: &mut RecvStream) -> u64 {
    let mut got = 0;
    let quiet = Duration::from_secs(1);
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(quiet, stream.read_chunk(64 << 10)).await {
        got += chunk.len() as u64;
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_counted_alike_paid_receipted_and_claimed_to_the_last_unit() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let (sink, mut swallowed) = sink().await;

    let mut up = buyer.connect(sink).await.unwrap();
    up.write_all(&vec![1; 3_000_001]).await.unwrap();
    up.shutdown().await.unwrap();
    assert_eq!(within(20, swallowed.recv()).await, Some(3_000_001));
    drop(up);

    let mut tcp = buyer.connect(echo().await).await.unwrap();
    let sent: Vec<u8> = (0..2_000_003u32).map(|i| (i % 251) as u8).collect();
    let (mut reader, mut writer) = tcp.split();
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut answer = Vec::new();
    let ((), read) =
        within(20, async { tokio::join!(write, reader.read_to_end(&mut answer)) }).await;
    read.unwrap();
    assert!(answer == sent, "the echo is what was sent");
    drop(tcp);

    let wallet = buyer.keys.wallet.address();
    let disk = buyer.disk.clone();
    let statement = buyer.close().await.unwrap();
    assert_eq!(statement.counted.up, ByteCount::new(3_000_001 + 2_000_003));
    assert_eq!(statement.counted.down, ByteCount::new(2_000_003));
    let theirs = market.seller.statement(statement.session).await;
    assert_agree(&statement, &theirs);
    assert_eq!(
        disk.session(statement.session).unwrap().unwrap().statement,
        Some(statement.clone())
    );
    assert!(theirs.exposure_peak <= theirs.exposure_bound);
    let last = |store: &dyn Store| store.receipts(statement.session).unwrap().pop().unwrap();
    assert_eq!(last(&*disk), last(&*market.seller.disk), "both hold the same last receipt");

    // One deposit, one channel, and one claim over exactly what was promised.
    let asked: Vec<_> = market.chain.performed(wallet).iter().map(Intent::kind).collect();
    assert_eq!(asked, ["deposit", "open"]);
    market.seller.provider.settler().settle().await.unwrap();
    let payee = market.seller.keys.wallet.address();
    let [Intent::Claim { claims }] = &market.chain.performed(payee)[..] else {
        panic!("one claim")
    };
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].amount, statement.cumulative);
    assert_eq!(market.chain.wallet(payee), 7_000_007);
    // Nothing is left to claim.
    assert!(market.seller.provider.settler().settle().await.unwrap().transactions.is_empty());
    assert_eq!(market.chain.performed(payee).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_pays_gets_the_initial_credit_and_not_a_byte_more() {
    let market = Market::new().await;
    let (mut client, channel) = market.client().await;
    let source = target(source().await);
    let terms = client.terms(None).await;
    let acceptance = client.acceptance(&terms, channel, 1);
    assert!(matches!(client.accept(acceptance).await, Some(Message::Accepted(_))));
    let (_up, mut first) = client.open(&source).await;
    let mut got = drain(&mut first).await;
    assert_eq!(got, INITIAL);

    // Another stream brings nothing either, nor does asking in other ways.
    let (_up2, mut second) = client.open(&source).await;
    client.say(&Message::Funded).await;
    got += drain(&mut second).await + drain(&mut first).await;
    assert_eq!(got, INITIAL);
    assert_eq!(market.seller.provider.live()[0].statement.exposure_peak, ByteCount::new(INITIAL));
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_breaks_connections_instead_of_paying_uses_up_its_loss_allowance() {
    let market = Market::new().await;
    let (first, channel) = market.client().await;
    let keys = first.keys.clone();
    drop(first);
    let source = target(source().await);
    let (mut got, mut served) = (0, 0);
    for session in 1..20 {
        let mut client = Client::connect(&keys, &market.seller.address()).await;
        let terms = client.terms(None).await;
        match client.accept(client.acceptance(&terms, channel, session)).await {
            Some(Message::Accepted(_)) => {}
            answer => {
                assert_eq!(refused(answer), RefusalCode::LossAllowanceUsed);
                break;
            }
        }
        let (_up, mut stream) = client.open(&source).await;
        while got < INITIAL * (served + 1) {
            let chunk = within(5, stream.read_chunk(64 << 10)).await.unwrap().unwrap();
            got += chunk.len() as u64;
        }
        served += 1;
        client.connection.close(7, "gone"); // and comes back at once
    }
    // Four times the initial credit may be lost; the fifth is running when that is used up.
    assert_eq!((got, served), (5 * INITIAL, 5));
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_at_once_get_no_more_than_one_after_the_other() {
    let market = Market::new().await;
    let (first, channel) = market.client().await;
    let source = target(source().await);
    let mut clients = tokio::task::JoinSet::new();
    for session in 1..=12 {
        let (keys, source) = (first.keys.clone(), source.clone());
        let address = market.seller.address();
        clients.spawn(async move {
            let mut client = Client::connect(&keys, &address).await;
            let terms = client.terms(None).await;
            let Some(Message::Accepted(_)) =
                client.accept(client.acceptance(&terms, channel, session)).await
            else {
                return 0;
            };
            let Ok((mut send, mut receive)) = client.connection.open_bi().await else { return 0 };
            let _ = send.write_chunk(Client::request(&source)).await;
            match within(5, receive.read_exact(&mut [0; 3])).await {
                Ok(()) => drain(&mut receive).await,
                Err(_) => 0, // another one took its place
            }
        });
    }
    let got: Vec<u64> = within(60, clients.join_all()).await;
    assert!(got.iter().sum::<u64>() <= 5 * INITIAL, "{got:?}");
    assert!(got.iter().all(|got| *got <= INITIAL), "{got:?}");
    assert!(got.contains(&INITIAL), "{got:?}");
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_end_their_connection_and_nobody_elses() {
    let market = Market::new().await;
    let garbage_accept = [&[41, 0, 0, 0, 3][..], &[0xff; 40]].concat();
    // What is said first, and whether the stream then ends.
    let first: [(&str, Vec<u8>, bool); 7] = [
        ("an oversized length", u32::MAX.to_le_bytes().to_vec(), false),
        ("a length one too long", (16385u32).to_le_bytes().to_vec(), false),
        ("an empty frame", vec![0, 0, 0, 0], false),
        ("a garbage body", vec![3, 0, 0, 0, 1, 9, 9], false),
        ("a first message that is none", Message::Funded.to_frame(), false),
        ("an acceptance of nothing", garbage_accept.clone(), false),
        ("a frame that breaks off", vec![100, 0, 0, 0, 1, 2, 3], true),
    ];
    for (what, bytes, end) in first {
        let (mut client, _) = market.client().await;
        client.say_bytes(&bytes).await;
        if end {
            client.send.finish();
        }
        assert_eq!(client.hear().await, None, "{what}");
        within(5, client.connection.closed()).await;
    }
    let (mut client, _) = market.client().await;
    let token = market::TOKEN;
    let hello = Message::Hello { minor: 0, domain: domain(), token, resume: None }.to_frame();
    client.say_bytes(&hello[..hello.len() - 1]).await;
    client.send.finish();
    assert_eq!(client.hear().await, None, "half a hello");
    // After hello.
    let (mut client, _) = market.client().await;
    client.terms(None).await;
    client.say_bytes(&garbage_accept).await;
    assert_eq!(client.hear().await, None, "garbage for an acceptance");
    let (mut client, _) = market.client().await;
    client.terms(None).await;
    client.say(&Message::Funded).await;
    assert_eq!(client.hear().await, None, "another message than an acceptance");
    // In the session: the machine refuses, or the reader gives up; the slot is free afterwards.
    let messages: [(&str, Vec<u8>); 4] = [
        ("garbage", vec![3, 0, 0, 0, 6, 1, 1]),
        ("an oversized frame", vec![0, 0, 1, 0]),
        ("a message of the other side", Message::Broken { stream: 0 }.to_frame()),
        ("a text with a newline", vec![6, 0, 0, 0, 12, 1, 0, 0, 0, b'\n']),
    ];
    for (session, (what, bytes)) in (1..).zip(messages) {
        let (mut client, channel) = market.client().await;
        let terms = client.terms(None).await;
        let acceptance = client.acceptance(&terms, channel, session);
        assert!(matches!(client.accept(acceptance).await, Some(Message::Accepted(_))), "{what}");
        client.say_bytes(&bytes).await;
        while client.hear().await.is_some() {}
        within(5, client.connection.closed()).await;
    }
    // Kinds of a newer version are skipped.
    let (mut client, channel) = market.client().await;
    client.say_bytes(&[3, 0, 0, 0, 200, 1, 2]).await;
    let terms = client.terms(None).await;
    let acceptance = client.acceptance(&terms, channel, 9);
    assert!(matches!(client.accept(acceptance).await, Some(Message::Accepted(_))));
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acceptances_that_are_not_the_channel_owners_are_refused() {
    let market = Market::new().await;
    let (mut client, channel) = market.client().await;
    let terms = client.terms(None).await;
    let acceptance = client.acceptance(&terms, channel, 1);
    // Signed by another device.
    let signature = Keys::random().device.sign_bytes(&acceptance.signing_bytes());
    let message = Message::Accept { acceptance: Box::new(acceptance), signature };
    client.say(&message).await;
    assert_eq!(refused(client.hear().await), RefusalCode::Invalid);

    // A channel that the chain does not know.
    let (mut client, channel) = market.client().await;
    let terms = client.terms(None).await;
    let unknown = sparewire_protocol::ChannelConfig { salt: 77, ..channel };
    let answer = client.accept(client.acceptance(&terms, unknown, 1)).await;
    assert_eq!(refused(answer), RefusalCode::ChannelUnusable);

    // A channel that pays somebody else.
    let (mut client, channel) = market.client().await;
    let terms = client.terms(None).await;
    let payee = Keys::random().wallet.address();
    let elsewhere = sparewire_protocol::ChannelConfig { payee, ..channel };
    market.chain.open(&elsewhere, 1 << 40);
    let answer = client.accept(client.acceptance(&terms, elsewhere, 1)).await;
    assert_eq!(refused(answer), RefusalCode::ChannelUnusable);

    // Other terms than the ones offered.
    let (mut client, channel) = market.client().await;
    let mut terms = client.terms(None).await;
    terms.price = Price::FREE;
    let answer = client.accept(client.acceptance(&terms, channel, 1)).await;
    assert_eq!(refused(answer), RefusalCode::Invalid);

    // Another network.
    let (mut client, _) = market.client().await;
    let elsewhere = sparewire_core::Domain { chain_id: 1, ..domain() };
    let token = market::TOKEN;
    client.say(&Message::Hello { minor: 0, domain: elsewhere, token, resume: None }).await;
    assert_eq!(refused(client.hear().await), RefusalCode::WrongNetwork);
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_names_a_victims_channel_does_the_victim_no_harm() {
    let market = Market::new().await;
    let (mut victim, channel) = market.client().await;
    let source = target(source().await);
    let terms = victim.terms(None).await;
    let acceptance = victim.acceptance(&terms, channel, 1);
    assert!(matches!(victim.accept(acceptance).await, Some(Message::Accepted(_))));
    let (_up, mut stream) = victim.open(&source).await;
    assert_eq!(drain(&mut stream).await, INITIAL);

    let attack = async |session: u8, delegation| {
        let mut stranger = Client::connect(&Keys::random(), &market.seller.address()).await;
        let terms = stranger.terms(None).await;
        let mut acceptance = stranger.acceptance(&terms, channel, session);
        acceptance.delegation = delegation;
        assert_eq!(refused(stranger.accept(acceptance).await), RefusalCode::Invalid);
    };
    // While the victim is served: with the victim's word, and with the stranger's own.
    attack(2, victim.delegation()).await;
    attack(2, Keys::random().identity().delegation).await;
    assert_eq!(market.seller.provider.live().len(), 1, "the victim's session goes on");

    // While the victim's connection is broken, with the same session and with another.
    victim.connection.close(7, "cut");
    until("the session is not live", || market.seller.provider.live().is_empty()).await;
    for session in [1, 2, 3] {
        attack(session, victim.delegation()).await;
        attack(session, Keys::random().identity().delegation).await;
    }
    let id = sparewire_core::SessionId([1; 32].into());
    assert_eq!(market.seller.session(id).unwrap().lost, ByteCount::ZERO, "nothing is written off");

    // The victim comes back to where it was, pays for it, and is served on.
    let mut victim = Client::connect(&victim.keys, &market.seller.address()).await;
    let again = victim.terms(Some(id)).await;
    assert_eq!(again, terms, "its session is still there");
    let mut acceptance = victim.acceptance(&terms, channel, 1);
    let reading = Reading { up: ByteCount::ZERO, down: ByteCount::new(INITIAL) };
    acceptance.reading = reading;
    let Some(Message::Accepted(accepted)) = victim.accept(acceptance).await else { panic!() };
    assert_eq!(accepted.reading, reading);
    let body = Voucher { channel: channel.id(&domain()), amount: amount(INITIAL.into()) };
    let voucher = Verified::sign(body, &domain(), &*victim.keys.authorizer).unwrap();
    let payment = Payment { session: id, reading, voucher: *voucher.signed() };
    victim.say(&Message::Payment { payment, receipt: None }).await;
    let (_up, mut stream) = victim.open(&source).await;
    assert_eq!(drain(&mut stream).await, INITIAL, "one more credit for what was paid");
    assert_eq!(market.seller.session(id).unwrap().lost, ByteCount::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_for_what_was_not_carried_is_refused() {
    let market = Market::new().await;
    let (mut client, channel) = market.client().await;
    let terms = client.terms(None).await;
    let acceptance = client.acceptance(&terms, channel, 1);
    let session = acceptance.session;
    assert!(matches!(client.accept(acceptance).await, Some(Message::Accepted(_))));
    let body = Voucher { channel: channel.id(&domain()), amount: amount(1) };
    let voucher = *Verified::sign(body, &domain(), &*client.keys.authorizer).unwrap().signed();
    let reading = Reading { up: ByteCount::ZERO, down: ByteCount::new(1) };
    let payment = Payment { session, reading, voucher };
    client.say(&Message::Payment { payment, receipt: None }).await;
    assert_eq!(refused(client.hear().await), RefusalCode::Invalid);
    within(5, client.connection.closed()).await;
    assert_eq!(market.seller.payment(session), None);
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_with_a_full_disk_stops_serving_and_keeps_its_voucher() {
    let mut market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let id = buyer.session_id().await;
    let download = buyer.download(source().await).await;
    until("a MiB is paid", || {
        market.seller.payment(id).is_some_and(|p| p.voucher.body.amount >= amount(1 << 20))
    })
    .await;
    market.seller.disk.full.store(true, SeqCst);
    within(20, download).await.unwrap();
    until("the session is not live", || market.seller.provider.live().is_empty()).await;
    let held = market.seller.payment(id).unwrap();
    assert!(!market.seller.run.is_finished());
    let consumers = buyer.disk.session(id).unwrap().unwrap().payment.unwrap();
    assert!(held.voucher.body.amount <= consumers.voucher.body.amount);
    buyer.kill().await;

    // After a restart with room the voucher is there and counts.
    let (keys, addr) = (market.seller.keys.clone(), market.seller.address().addrs[0]);
    let path = market.seller_directory.path().to_owned();
    market.seller.stop().await;
    market.seller = Seller::start(&market.chain, &keys, &path, Some(addr)).await;
    assert_eq!(market.seller.payment(id), Some(held));
    market.seller.provider.settler().settle().await.unwrap();
    assert_eq!(market.chain.wallet(keys.wallet.address()), held.voucher.body.amount.get());
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_whose_database_cannot_grow_begins_no_session_until_it_can() {
    let market = Market::new().await;
    market.seller.disk.sqlite.limit_pages(1).unwrap();
    let (mut begun, mut session) = (Vec::new(), 0);
    loop {
        session += 1;
        assert!(session < 100, "the database is never full");
        // A channel each: of one channel no more than one unpaid session is remembered.
        let (mut client, channel) = market.client().await;
        let terms = client.terms(None).await;
        let acceptance = client.acceptance(&terms, channel, session);
        let id = acceptance.session;
        match client.accept(acceptance).await {
            Some(Message::Accepted(_)) => begun.push(id),
            answer => {
                assert_eq!(answer, None);
                assert!(market.seller.session(id).is_none(), "nothing of it was written");
                let reason = within(5, client.connection.closed()).await.to_string();
                assert!(reason.contains("nothing can be recorded"), "{reason}");
                let path = market.seller_directory.path().to_str().unwrap();
                assert!(!reason.contains(path), "{reason}");
                break;
            }
        }
    }
    // What was begun was durable before it was told.
    assert!(begun.iter().all(|id| market.seller.session(*id).is_some()));
    market.seller.disk.sqlite.limit_pages(1_000_000).unwrap();
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_with_a_full_disk_signs_nothing_that_it_cannot_remember() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let id = buyer.session_id().await;
    let download = buyer.download(source().await).await;
    until("a MiB is paid", || {
        market.seller.payment(id).is_some_and(|p| p.voucher.body.amount >= amount(1 << 20))
    })
    .await;
    buyer.disk.full.store(true, SeqCst);
    let error = within(20, buyer.run).await.unwrap().unwrap_err();
    assert!(matches!(error, SessionError::Store(StoreError::Full { .. })), "{error}");
    within(20, download).await.unwrap();
    until("the session is not live", || market.seller.provider.live().is_empty()).await;
    let durable = buyer.disk.session(id).unwrap().unwrap().payment.unwrap();
    let held = market.seller.payment(id).unwrap();
    assert!(held.voucher.body.amount <= durable.voucher.body.amount, "{held:?} {durable:?}");
    assert!(durable.reading.covers(held.reading));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_while_the_chain_is_away_and_none_begins() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let id = buyer.session_id().await;
    let _download = buyer.download(source().await).await;
    until("it is paid", || market.seller.payment(id).is_some()).await;
    market.seller.seat.unreachable.store(true, SeqCst);
    let (mut client, channel) = market.client().await;
    let terms = client.terms(None).await;
    let Some(Message::Refused(answer)) = client.accept(client.acceptance(&terms, channel, 1)).await
    else {
        panic!("not refused")
    };
    assert_eq!(answer.code, RefusalCode::ChainUnavailable);
    assert!(!answer.reason.contains("node-of-the-provider"), "{}", answer.reason);
    let paid = || market.seller.payment(id).unwrap().voucher.body.amount.get();
    let before = paid();
    until("four MiB more are paid", || paid() >= before + (4 << 20)).await;
    assert_eq!(buyer.session_id().await, id);

    // When it is back, and slow, new ones begin.
    market.seller.seat.unreachable.store(false, SeqCst);
    *market.seller.seat.slow.lock().unwrap() = Duration::from_millis(300);
    market.serves_an_honest_consumer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_stops_when_the_payer_starts_to_close_and_the_voucher_is_claimed() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let id = buyer.session_id().await;
    let download = buyer.download(source().await).await;
    until("it is paid", || market.seller.payment(id).is_some()).await;
    let channel = market.seller.session(id).unwrap().agreement.channel();
    market.chain.set_status(channel, ChannelStatus::Closing { finish_at_secs: u64::MAX });
    // Stopped: nothing was counted for a second.
    within(30, async {
        let mut before = u64::MAX;
        loop {
            let now = market.seller.provider.live().first().map(|live| total(&live.statement));
            let now = now.unwrap_or_default();
            if now == before {
                break;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        }
    })
    .await;
    // The session is alive and its valve shut; what is served and unpaid stays within the credit.
    let statement = market.seller.provider.live()[0].statement.clone();
    assert!(statement.exposure_peak <= statement.exposure_bound);
    assert!(!download.is_finished());
    // All that is promised is claimed.
    let held = market.seller.payment(id).unwrap();
    market.seller.provider.settler().settle().await.unwrap();
    assert_eq!(market.chain.facts(channel).claimed, held.voucher.body.amount);
    let (mut client, channel) = market.client().await;
    market.chain.set_status(channel.id(&domain()), ChannelStatus::Closed);
    let terms = client.terms(None).await;
    let answer = client.accept(client.acceptance(&terms, channel, 1)).await;
    assert_eq!(refused(answer), RefusalCode::ChannelUnusable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_is_resumed_where_it_was() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let source = source().await;
    let session = buyer.session().await;
    let id = figures(&session).await.session;
    for round in 1..=3u128 {
        let download = buyer.download(source).await;
        let session = buyer.session().await;
        until("two MiB more are paid", || {
            let paid = market.seller.payment(id).map(|p| p.voucher.body.amount.get());
            paid.unwrap_or_default() >= round << 21
        })
        .await;
        let before = total(&figures(&session).await);
        session.connection().close(9, "cut");
        within(20, download).await.unwrap();
        let mut link = buyer.consumer.link();
        let other = |link: &Link| match link {
            Link::Up(up) => !std::sync::Arc::ptr_eq(up, &session),
            _ => false,
        };
        within(20, link.wait_for(other)).await.unwrap();
        assert_eq!(buyer.session_id().await, id, "the same session goes on");
        assert!(buyer.counted().await >= before, "counters go on");
    }
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(&[7; 1000]).await.unwrap();
    let mut answer = [0; 1000];
    within(10, tcp.read_exact(&mut answer)).await.unwrap();
    drop(tcp);
    let wallet = buyer.keys.wallet.address();
    let statement = buyer.close().await.unwrap();
    assert_eq!(statement.session, id);
    assert_agree(&statement, &market.seller.statement(id).await);
    let opened = market.chain.performed(wallet).iter().filter(|i| i.kind() == "open").count();
    assert_eq!(opened, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_was_killed_resumes_its_session_from_what_is_durable() {
    let market = Market::new().await;
    let (buyer, directory) = market.buyer().await;
    let (id, keys) = (buyer.session_id().await, buyer.keys.clone());
    let download = buyer.download(source().await).await;
    until("a MiB is paid", || {
        market.seller.payment(id).is_some_and(|p| p.voucher.body.amount >= amount(1 << 20))
    })
    .await;
    buyer.kill().await;
    within(20, download).await.unwrap();
    let buyer = Buyer::start(
        &market.chain,
        &keys,
        directory.path(),
        market.seller.address(),
        consumer_config(),
    )
    .await;
    assert_eq!(buyer.session_id().await, id);
    assert!(buyer.counted().await >= 1 << 20);
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(b"back").await.unwrap();
    within(10, tcp.read_exact(&mut [0; 4])).await.unwrap();
    drop(tcp);
    let statement = buyer.close().await.unwrap();
    assert_agree(&statement, &market.seller.statement(id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_shuts_down_settles_and_is_found_again() {
    let mut market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let id = buyer.session_id().await;
    let download = buyer.download(source().await).await;
    until("a MiB is paid", || {
        market.seller.payment(id).is_some_and(|p| p.voucher.body.amount >= amount(1 << 20))
    })
    .await;
    let (keys, addr) = (market.seller.keys.clone(), market.seller.address().addrs[0]);
    let path = market.seller_directory.path().to_owned();
    market.seller.stop().await;
    within(20, download).await.unwrap();
    let ours = buyer.disk.session(id).unwrap().unwrap().statement.expect("ended properly");
    assert!(!buyer.run.is_finished(), "it goes on trying");

    market.seller = Seller::start(&market.chain, &keys, &path, Some(addr)).await;
    assert_agree(&ours, &market.seller.statement(id).await);
    let next = buyer.session_id().await;
    assert_ne!(next, id);
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(b"again").await.unwrap();
    within(10, tcp.read_exact(&mut [0; 5])).await.unwrap();
    drop(tcp);
    let statement = buyer.close().await.unwrap();
    assert_eq!((statement.session, total(&statement)), (next, 10));
    assert_agree(&statement, &market.seller.statement(next).await);
    assert_eq!(statement.cumulative.get(), ours.cumulative.get() + 10, "over the same channel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_price_and_budget_are_told_and_cost_nothing() {
    let market = Market::new().await;
    let mut cheap = consumer_config();
    cheap.buying.price_max = Price::per_gib(market::PRICE - 1).unwrap();
    let mut poor = consumer_config();
    poor.buying.budget = amount(poor.buying.channel_amount.get() - 1);
    for (config, hint) in [(cheap, "--max-price"), (poor, "--budget")] {
        let (buyer, _directory) = market.buyer_with(config).await;
        let error = within(20, buyer.run).await.unwrap().unwrap_err();
        let SessionError::Policy(reason) = &error else { panic!("{error}") };
        assert!(reason.contains(hint), "{reason}");
        assert_eq!(market.chain.performed(buyer.keys.wallet.address()), []);
        assert_eq!(buyer.disk.channels(Role::Payer).unwrap(), []);
        // Applications are told, too, and at once.
        let answer = within(5, connect(buyer.proxy, "127.0.0.1:9")).await.unwrap_err();
        assert!(answer.contains(hint), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_never_hold_more_than_the_wallets_cap_on_their_authorizer() {
    const MIB: u128 = 1 << 20;
    let market = Market::new().await;
    let mut config = consumer_config();
    (config.buying.channel_amount, config.buying.budget) = (amount(MIB), amount(100 * MIB));
    let (buyer, _directory) = market.buyer_with(config).await;
    let id = buyer.session_id().await;
    // One top-up more, and not another one.
    market.chain.cap(buyer.keys.authorizer.address(), amount(2 * MIB));
    let download = buyer.download(source().await).await;
    let wallet = buyer.keys.wallet.address();
    let error = within(40, buyer.run).await.unwrap().unwrap_err();
    let SessionError::Policy(reason) = &error else { panic!("{error}") };
    assert!(reason.contains("cap") && reason.contains("`wallet device cap`"), "{reason}");
    let statement = buyer.disk.session(id).unwrap().unwrap().statement.expect("it is settled");
    assert_eq!(u128::from(total(&statement)), 2 * MIB, "what was paid for was delivered");
    within(10, download).await.unwrap();
    let asked: Vec<_> = market.chain.performed(wallet).iter().map(Intent::kind).collect();
    assert_eq!(asked, ["deposit", "open", "deposit", "top_up"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_topped_up_while_it_is_used_and_never_beyond_the_budget() {
    const MIB: u128 = 1 << 20;
    let market = Market::new().await;
    let mut config = consumer_config();
    (config.buying.channel_amount, config.buying.budget) = (amount(MIB), amount(3 * MIB));
    let (buyer, _directory) = market.buyer_with(config).await;
    let id = buyer.session_id().await;
    let download = buyer.download(source().await).await;
    let channel = market.seller.session(id).unwrap().agreement.channel();
    until("all of the budget is used", || {
        // Or it is settled already: then nobody looked in between.
        let live = market.seller.provider.live();
        live.first().is_none_or(|live| u128::from(total(&live.statement)) == 3 * MIB)
    })
    .await;
    let wallet = buyer.keys.wallet.address();
    // There is no more money: the session is settled, and everybody told why.
    let error = within(40, buyer.run).await.unwrap().unwrap_err();
    let SessionError::Policy(reason) = &error else { panic!("{error}") };
    assert!(reason.contains("budget is used up") && reason.contains("--budget"), "{reason}");
    let answer = within(1, connect(buyer.proxy, "127.0.0.1:9")).await.unwrap_err();
    assert!(answer.contains("--budget"), "{answer}");
    let statement = buyer.disk.session(id).unwrap().unwrap().statement.expect("it is settled");
    assert_eq!(u128::from(total(&statement)), 3 * MIB, "what was paid for was delivered");
    assert_agree(&statement, &market.seller.statement(id).await);
    assert_eq!(within(10, download).await.unwrap(), total(&statement));
    let asked: Vec<_> = market.chain.performed(wallet).iter().map(Intent::kind).collect();
    assert_eq!(asked, ["deposit", "open", "deposit", "top_up", "deposit", "top_up"]);
    market.seller.provider.settler().settle().await.unwrap();
    assert_eq!(market.chain.facts(channel).claimed, amount(3 * MIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_at_once_are_all_answered_and_refusals_are_not_billed() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let echo = echo().await;
    buyer.session().await;
    let mut streams = tokio::task::JoinSet::new();
    for i in 0..200u32 {
        let proxy = buyer.proxy;
        streams.spawn(async move {
            let mut tcp = connect(proxy, &echo.to_string()).await.unwrap();
            let sent: Vec<u8> = (0..5_000).map(|j| ((i + j) % 253) as u8).collect();
            tcp.write_all(&sent).await.unwrap();
            tcp.shutdown().await.unwrap();
            let mut answer = Vec::new();
            tcp.read_to_end(&mut answer).await.unwrap();
            assert!(answer == sent, "stream {i}");
        });
    }
    within(60, streams.join_all()).await;
    // Nobody listens; not allowed.
    for (to, status, error) in [
        (nobody().await.to_string(), "502", "connection_refused"),
        ("10.1.2.3:80".to_owned(), "403", "http_request_denied"),
    ] {
        let answer = connect(buyer.proxy, &to).await.unwrap_err();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(error), "{answer}");
    }
    let statement = buyer.close().await.unwrap();
    assert_eq!(total(&statement), 200 * 5_000 * 2);
    assert_agree(&statement, &market.seller.statement(statement.session).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_that_do_not_read_hold_up_no_credit_that_others_need() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let source = source().await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(buyer.connect(source).await.unwrap());
    }
    // The kernel's buffers are full, and all that is counted is paid.
    let session = buyer.session().await;
    let mut before = 0;
    until("nothing more comes", || {
        std::thread::sleep(Duration::from_millis(400));
        let now = session.figures().map_or(0, |figures| total(&figures));
        std::mem::replace(&mut before, now) == now && now > 0
    })
    .await;
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(&[7; 1 << 20]).await.unwrap();
    let mut answer = vec![0; 1 << 20];
    within(20, tcp.read_exact(&mut answer)).await.unwrap();
    drop((tcp, stalled));
    let statement = buyer.close().await.unwrap();
    assert_agree(&statement, &market.seller.statement(statement.session).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_lost_too_much_before_it_ever_paid_is_replaced() {
    let market = Market::new().await;
    let (buyer, _directory) = market.buyer().await;
    let session = buyer.session().await;
    let first = figures(&session).await;
    let lost = Record::Loss { session: first.session, bytes: ByteCount::new(5 * INITIAL) };
    market.seller.disk.record(&[lost]).unwrap();
    session.connection().close(9, "cut");
    drop(session);
    let mut link = buyer.consumer.link();
    let other = |link: &Link| match link {
        Link::Up(up) => up.figures().is_some_and(|figures| figures.channel != first.channel),
        _ => false,
    };
    until("another channel pays", || other(&link.borrow_and_update())).await;
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(b"still served").await.unwrap();
    let mut answer = [0; 12];
    within(10, tcp.read_exact(&mut answer)).await.unwrap();
    drop(tcp);
    let statement = buyer.close().await.unwrap();
    assert_agree(&statement, &market.seller.statement(statement.session).await);
}
