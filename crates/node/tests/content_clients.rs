//! Torrents between our engine and clients that nobody here wrote: each downloads from us, and we
//! from each. Ours offers to sell and to pay, which none of them knows.
//!
//! Torrents of v1: no hybrid one opens in the clients of Debian 12, whoever made it. transmission 3.00
//! reads no file tree of BEP 52, whose keys may be empty; aria2 1.36 leaves such keys out when it works
//! out what the torrent is called.
#![allow(clippy::unwrap_used)]

mod market;
#[path = "swarm/node.rs"]
mod node;
mod swarm;

use std::{path::Path, sync::Arc, time::Duration};

use market::{FakeChain, PRICE, Trader};
use sparewire_content::Format;
use sparewire_node::{
    content::{AddTorrent, DiscoveryConfig, Engine, EngineConfig, Money, Torrent, TorrentState},
    store::Store,
};
use sparewire_protocol::Role;
use swarm::{
    Content, PATIENCE, anywhere,
    clients::{self, Client},
    reaches, several_as,
    tracker::Tracker,
};
use tokio::time::{sleep, timeout};

/// An engine that asks trackers, also those on loopback, and could pay and be paid.
async fn start(trader: &Trader) -> Engine {
    let mut config = EngineConfig::new(anywhere());
    config.discovery = DiscoveryConfig {
        trackers: true,
        private_addresses: true,
        announce_every: Duration::from_secs(1),
        ..DiscoveryConfig::none()
    };
    let (buyer, seller) = (trader.buyer.clone(), trader.seller.clone());
    config.money =
        Some(Arc::new(Money::new(Some(buyer), Some(seller), trader.keys.device.clone())));
    Engine::start(config).await.unwrap()
}

fn torrent_file(content: &Content, folder: &Path) -> String {
    let path = folder.join("x.torrent");
    std::fs::write(&path, &content.torrent).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Waits until all files are below `root` as they should be. Of those that hold nothing transmission
/// makes none.
async fn arrives(content: &Content, root: &Path) {
    let same = |(path, data): &(std::path::PathBuf, Vec<u8>)| {
        std::fs::read(root.join(path)).is_ok_and(|found| found == *data)
    };
    let all = async {
        while !content.files.iter().filter(|(_, data)| !data.is_empty()).all(same) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("the client did not get all of it");
}

/// The client, told where to find the torrent, fetches it from us.
async fn downloads_from_us(run: impl FnOnce(&str, &Path, &Path) -> Client) {
    let tracker = Tracker::start().await;
    let content = several_as(Format::V1, &tracker.url);
    let home = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let torrent = torrent_file(&content, home.path());
    let trader = Trader::new(&Arc::new(FakeChain::default())).await;
    let engine = start(&trader).await;
    let sold = AddTorrent { free: true, ..node::selling(content.seed(), PRICE) };
    let seeding = engine.add(sold).await.unwrap();
    reaches(&seeding, TorrentState::Seeding).await;
    let client = run(&torrent, folder.path(), &home.path().join("home"));
    arrives(&content, folder.path()).await;
    drop(client);
    engine.shutdown().await;
}

/// The client has the files, and we fetch them from it.
async fn seeds_to_us(run: impl FnOnce(&str, &Path, &Path) -> Client) {
    let content = several_as(Format::V1, "");
    let home = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let torrent = torrent_file(&content, home.path());
    let client = run(&torrent, content.folder.path(), &home.path().join("home"));
    let trader = Trader::new(&Arc::new(FakeChain::default())).await;
    let engine = start(&trader).await;
    let bought = AddTorrent { buying: node::paying(), ..content.below(folder.path()) };
    let getting: Arc<Torrent> = engine.add(node::selling(bought, PRICE)).await.unwrap();
    getting.add_peer(client.address);
    let status = reaches(&getting, TorrentState::Seeding).await;
    content.assert_at(folder.path());
    assert!(status.got >= status.total);
    assert!(trader.disk.channels(Role::Payer).unwrap().is_empty(), "it takes nothing");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transmission_downloads_a_torrent_of_ours() {
    if clients::is_there("transmission-cli") {
        downloads_from_us(clients::transmission).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transmission_seeds_a_torrent_to_us() {
    if clients::is_there("transmission-cli") {
        seeds_to_us(clients::transmission).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aria2_downloads_a_torrent_of_ours() {
    if clients::is_there("aria2c") {
        downloads_from_us(clients::aria2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aria2_seeds_a_torrent_to_us() {
    if clients::is_there("aria2c") {
        seeds_to_us(clients::aria2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webtorrent_downloads_a_torrent_of_ours() {
    if clients::is_webtorrent_there() {
        downloads_from_us(clients::webtorrent).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webtorrent_seeds_a_torrent_to_us() {
    if clients::is_webtorrent_there() {
        seeds_to_us(clients::webtorrent).await;
    }
}
