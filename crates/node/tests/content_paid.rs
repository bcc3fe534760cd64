//! Torrents that are paid for, between whole engines on loopback: real pieces, real sessions, a
//! chain in memory.
#![allow(clippy::unwrap_used)]

mod market;
#[path = "swarm/node.rs"]
mod node;
mod swarm;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use market::{FakeChain, INITIAL, PRICE, amount, until};
use node::{Node, engine_of, selling};
use sparewire_content::Format;
use sparewire_node::{
    content::{AddTorrent, Buying, FREE_BESIDE_SALE, Torrent, TorrentState, TorrentStatus},
    store::Store,
};
use sparewire_protocol::Role;
use swarm::{Content, SEVERAL, SEVERAL_LEN, reaches};

fn files(format: Option<Format>) -> Content {
    match format {
        None => Content::v1("several", &SEVERAL, 32 << 10, ""),
        Some(format) => Content::made("several", &SEVERAL, 64 << 10, format, ""),
    }
}

/// A download costs what it weighs, to the byte, and both ends agree.
async fn is_paid_for(content: Content) {
    let chain = Arc::new(FakeChain::default());
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    let shared = seeder.share(&content, PRICE).await;
    let got = getter.get(&content, &[&seeder]).await;
    reaches(&got, TorrentState::Seeding).await;
    content.assert_at(getter.files.path());
    until("both have settled", || getter.all_ended() && seeder.all_ended()).await;
    assert_eq!(getter.sum(Role::Payer), (SEVERAL_LEN, u128::from(SEVERAL_LEN)));
    assert_eq!(seeder.sum(Role::Payee), getter.sum(Role::Payer));
    until("it is shown", || got.status().paid == amount(u128::from(SEVERAL_LEN))).await;
    assert_eq!(shared.status().earned, amount(u128::from(SEVERAL_LEN)));
    assert_eq!(got.status().earned, amount(0));
    seeder.trader.seller.settler().settle().await.unwrap();
    // Nobody is served for nothing.
    let beggar = swarm::engine().await;
    let below = tempfile::tempdir().unwrap();
    let begging = beggar.add(content.below(below.path())).await.unwrap();
    begging.add_peer(seeder.engine.listens());
    until("it is connected", || begging.status().peers > 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(begging.status().have, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_of_v1_is_paid_for_to_the_byte() {
    is_paid_for(files(None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_of_v2_is_paid_for_to_the_byte() {
    is_paid_for(files(Some(Format::V2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hybrid_torrent_is_paid_for_to_the_byte_and_its_padding_is_not() {
    is_paid_for(files(Some(Format::Hybrid))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_downloaded_earns_it_back_and_the_money_of_a_swarm_adds_up() {
    let chain = Arc::new(FakeChain::default());
    let content = Content::made("one", &[("a", 6_000_000)], 64 << 10, Format::Hybrid, "");
    let seeder = Node::new(&chain).await;
    seeder.share(&content, PRICE).await;
    let mut getters = Vec::new();
    for _ in 0..4 {
        getters.push(Node::new(&chain).await);
    }
    let mut torrents = Vec::new();
    for (at, getter) in getters.iter().enumerate() {
        let others = getters.iter().enumerate().filter(|(other, _)| *other != at);
        let others = others.map(|(_, node)| node);
        // The last one knows nobody but those who download themselves.
        let from: Vec<&Node> = match at {
            3 => others.collect(),
            _ => others.chain([&seeder]).collect(),
        };
        torrents.push(getter.get(&content, &from).await);
    }
    for (torrent, getter) in torrents.iter().zip(&getters) {
        reaches(torrent, TorrentState::Seeding).await;
        content.assert_at(getter.files.path());
    }
    let all = || getters.iter().chain([&seeder]);
    until("all have settled", || all().all(Node::all_ended)).await;
    let sum = |role| all().map(|node| node.sum(role).1).sum::<u128>();
    assert_eq!(sum(Role::Payer), sum(Role::Payee), "what was paid was earned");
    let twice = u128::from(sparewire_content::BLOCK_LEN) * 64;
    for getter in &getters {
        let (bought, paid) = getter.sum(Role::Payer);
        let (sold, earned) = getter.sum(Role::Payee);
        assert!((6_000_000..=6_000_000 + twice).contains(&u128::from(bought)), "{bought}");
        // What it did not pay of what it bought, it was not paid of what it sold.
        assert_eq!(u128::from(bought) - paid, u128::from(sold) - earned, "it is set off");
    }
    assert_eq!(u128::from(seeder.sum(Role::Payee).0), seeder.sum(Role::Payee).1);
    let sold: u64 = getters.iter().map(|getter| getter.sum(Role::Payee).0).sum();
    assert!(sold >= 6_000_000, "the last one bought all of it from them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_ended_goes_on_and_pays_for_nothing_twice() {
    let chain = Arc::new(FakeChain::default());
    // Long pieces: it is ended in the middle of one.
    let content = Content::made("one", &[("sub/a", 20_000_000)], 8 << 20, Format::Hybrid, "");
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    seeder.share(&content, PRICE).await;
    let got = getter.get(&content, &[&seeder]).await;
    until("a part is there", || got.status().have > 0).await;
    got.stop();
    reaches_end(&got).await;
    until("both have settled", || getter.all_ended() && seeder.all_ended()).await;
    let first = getter.sum(Role::Payer).0;
    assert!(first < 20_000_000, "it was ended in the middle");

    let got = getter.get(&content, &[&seeder]).await;
    reaches(&got, TorrentState::Seeding).await;
    content.assert_at(getter.files.path());
    until("both have settled", || getter.all_ended() && seeder.all_ended()).await;
    let (bytes, paid) = getter.sum(Role::Payer);
    assert_eq!(u128::from(bytes), paid);
    assert_eq!(bytes, 20_000_000, "blocks of pieces that were not whole were kept, after {first}");
    assert_eq!(seeder.sum(Role::Payee).0, bytes);
}

async fn reaches_end(torrent: &Torrent) -> TorrentStatus {
    let mut state = torrent.state();
    let stopped = state.wait_for(|state| *state == TorrentState::Stopped);
    market::within(30, stopped).await.unwrap();
    torrent.status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dear_seller_is_left_and_the_reason_is_told() {
    let chain = Arc::new(FakeChain::default());
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    let content = files(Some(Format::Hybrid));
    seeder.share(&content, PRICE + 1).await;
    let got = getter.get(&content, &[&seeder]).await;
    until("it is told", || got.status().refusal.is_some()).await;
    let refusal = got.status().refusal.unwrap();
    assert!(refusal.contains("more than the limit"), "{refusal}");
    assert_eq!(got.status().have, 0);
    assert!(getter.trader.disk.channels(Role::Payer).unwrap().is_empty());
}

/// A seller and somebody who gives for nothing, both with all of it, and who takes it from them.
async fn from_a_free_one_and_a_seller(free: bool) -> (Node, u64, u64) {
    let chain = Arc::new(FakeChain::default());
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    let content = files(Some(Format::Hybrid));
    let sold = seeder.share(&content, PRICE).await;
    let giver = swarm::engine().await;
    let given = giver.add(content.seed()).await.unwrap();
    reaches(&given, TorrentState::Seeding).await;
    let buying = Buying { free, ..node::paying() };
    let add = AddTorrent { buying, ..content.below(getter.files.path()) };
    let got = getter.engine.add(add).await.unwrap();
    got.add_peer(giver.listens());
    got.add_peer(seeder.engine.listens());
    reaches(&got, TorrentState::Seeding).await;
    content.assert_at(getter.files.path());
    until("it has settled", || getter.all_ended()).await;
    giver.shutdown().await;
    seeder.engine.shutdown().await;
    (getter, given.status().sent, sold.status().sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_for_nothing_is_taken_first_and_not_paid_for() {
    let (getter, given, sold) = from_a_free_one_and_a_seller(true).await;
    assert_eq!((given, sold), (SEVERAL_LEN, 0));
    assert!(getter.trader.disk.channels(Role::Payer).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_for_nothing_pays_for_all_of_it() {
    let (getter, given, sold) = from_a_free_one_and_a_seller(false).await;
    assert_eq!((given, sold), (0, SEVERAL_LEN));
    assert_eq!(getter.sum(Role::Payer), (SEVERAL_LEN, u128::from(SEVERAL_LEN)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_beside_a_sale_is_given_slowly() {
    let chain = Arc::new(FakeChain::default());
    let seeder = Node::new(&chain).await;
    let content = Content::made("one", &[("a", 8 << 20)], 64 << 10, Format::Hybrid, "");
    let both = AddTorrent { free: true, ..selling(content.seed(), PRICE) };
    reaches(&seeder.engine.add(both).await.unwrap(), TorrentState::Seeding).await;
    let (beggar, below) = (swarm::engine().await, tempfile::tempdir().unwrap());
    let begging = beggar.add(content.below(below.path())).await.unwrap();
    let began = Instant::now();
    begging.add_peer(seeder.engine.listens());
    until("some of it is there", || begging.status().got >= 4 << 20).await;
    // However busy the machine is, it is not sooner; what a second grants may come at once.
    assert!(began.elapsed() >= Duration::from_secs((4 << 20) / FREE_BESIDE_SALE - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_buys_nothing_is_told_that_it_is_sold() {
    let chain = Arc::new(FakeChain::default());
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    let content = files(None);
    seeder.share(&content, PRICE).await;
    // One without money at all, and one that names no price.
    let (beggar, below) = (swarm::engine().await, tempfile::tempdir().unwrap());
    let begging = beggar.add(content.below(below.path())).await.unwrap();
    let waiting = getter.engine.add(content.below(getter.files.path())).await.unwrap();
    let torrents = [&begging, &waiting];
    torrents.iter().for_each(|torrent| torrent.add_peer(seeder.engine.listens()));
    for torrent in torrents {
        until("it is told", || torrent.status().refusal.is_some()).await;
        assert!(torrent.status().refusal.unwrap().contains("--max-price"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_under_another_name_gets_no_second_deal() {
    let chain = Arc::new(FakeChain::default());
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    let content = files(Some(Format::Hybrid));
    // Too dear, so that they stay connected.
    let first = seeder.share(&content, PRICE + 1).await;
    let other = engine_of(&seeder.trader).await;
    let second = other.add(selling(content.seed(), PRICE + 1)).await.unwrap();
    reaches(&second, TorrentState::Seeding).await;
    let got = getter.get(&content, &[&seeder]).await;
    until("the first has said its price", || got.status().refusal.is_some()).await;
    assert_eq!(first.status().peers, 1);
    got.add_peer(other.listens());
    until("the second is connected", || second.status().peers == 1).await;
    until("the first is left for it", || first.status().peers == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_has_gone_over_to_another_connection_is_paid_over_one_channel() {
    let chain = Arc::new(FakeChain::default());
    let content = Content::made("one", &[("a", 6_000_000)], 64 << 10, Format::Hybrid, "");
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    seeder.share(&content, PRICE).await;
    let other = engine_of(&seeder.trader).await;
    let second = other.add(selling(content.seed(), PRICE)).await.unwrap();
    reaches(&second, TorrentState::Seeding).await;
    let got = getter.get(&content, &[&seeder]).await;
    until("something is there", || got.status().have > 0).await;
    got.add_peer(other.listens());
    reaches(&got, TorrentState::Seeding).await;
    content.assert_at(getter.files.path());
    until("both have settled", || getter.all_ended() && seeder.all_ended()).await;
    assert_eq!(getter.trader.disk.channels(Role::Payer).unwrap().len(), 1);
    // What was under way as it went over, and passed later, is paid for by nobody.
    assert!(getter.sum(Role::Payer).0 >= 6_000_000 - INITIAL);
    assert_eq!(getter.sum(Role::Payer), seeder.sum(Role::Payee));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_buys_and_sells_and_goes_over_to_another_connection_is_owed_what_was_not_set_off() {
    let chain = Arc::new(FakeChain::default());
    let len = 6_000_000;
    let content = Content::made("two", &[("a", len), ("b", len)], 64 << 10, Format::Hybrid, "");
    // Each has what the other lacks.
    let (one, other) = (Node::new(&chain).await, Node::new(&chain).await);
    for (node, file) in [(&one, "two/a"), (&other, "two/b")] {
        std::fs::create_dir(node.files.path().join("two")).unwrap();
        let there = node.files.path().join(file);
        std::fs::copy(content.folder.path().join(file), there).unwrap();
    }
    let of_one = one.get(&content, &[]).await;
    let of_other = other.get(&content, &[&one]).await;
    let half = len as u64;
    for torrent in [&of_one, &of_other] {
        until("it buys", || (half + 1..2 * half).contains(&torrent.status().have)).await;
    }
    // The same device from another process: what is on ends, and what was told in it.
    let again = engine_of(&other.trader).await;
    let second = again.add(selling(content.seed(), PRICE)).await.unwrap();
    reaches(&second, TorrentState::Seeding).await;
    of_one.add_peer(again.listens());
    for (torrent, node) in [(&of_one, &one), (&of_other, &other)] {
        reaches(torrent, TorrentState::Seeding).await;
        content.assert_at(node.files.path());
    }
    // What broke off with something told has no last receipt; what came after it has.
    for torrent in [&of_one, &of_other, &second] {
        torrent.stop();
        reaches_end(torrent).await;
    }
    let promised = |node: &Node, role| {
        let channels = node.trader.disk.channels(role).unwrap();
        assert_eq!(channels.len(), 1);
        assert!(!channels[0].frozen);
        channels[0].promised()
    };
    for (buyer, seller) in [(&one, &other), (&other, &one)] {
        assert_eq!(promised(buyer, Role::Payer), promised(seller, Role::Payee));
        let (bought, paid) = buyer.sum(Role::Payer);
        // What was under way as it broke off, at most the credit, is lost to its seller.
        let twice = 64 * u64::from(sparewire_content::BLOCK_LEN);
        assert!((half - (1 << 20)..=half + twice).contains(&bought), "{bought}");
        assert!(paid <= u128::from(bought));
    }
}
