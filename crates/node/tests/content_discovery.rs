//! Peers are found by real packets: of UDP trackers, and in the local network.
#![allow(clippy::unwrap_used)]

#[path = "swarm/namespace.rs"]
mod namespace;
mod swarm;

use std::{net::Ipv4Addr, time::Duration};

use sparewire_content::Format;
use sparewire_node::content::{DiscoveryConfig, Engine, EngineConfig, TorrentState};
use swarm::{
    Content, PATIENCE, SEVERAL, anywhere, reaches,
    udp_tracker::{Manner, UdpTracker},
};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

async fn with(discovery: DiscoveryConfig) -> Engine {
    Engine::start(EngineConfig { discovery, ..EngineConfig::new(anywhere()) }).await.unwrap()
}

fn trackers() -> DiscoveryConfig {
    DiscoveryConfig { trackers: true, private_addresses: true, ..DiscoveryConfig::none() }
}

/// A torrent with these trackers.
fn content(trackers: &[&UdpTracker]) -> Content {
    let mut content = Content::made("several", &SEVERAL, 64 << 10, Format::Hybrid, "");
    let urls = trackers.iter().map(|tracker| tracker.url.clone()).collect();
    content.metainfo.set_trackers(vec![urls]);
    content
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// A seeder and a downloader that know of each other by trackers alone.
async fn find_each_other(content: &Content, tracker: &UdpTracker) {
    let seeder = with(trackers()).await;
    let seeded = seeder.add(content.seed()).await.unwrap();
    reaches(&seeded, TorrentState::Seeding).await;
    until("the seeder is known", || tracker.announced() > 0).await;
    let folder = tempfile::tempdir().unwrap();
    let downloader = with(trackers()).await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    reaches(&torrent, TorrentState::Seeding).await;
    content.assert_at(folder.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_find_each_other_by_a_udp_tracker() {
    let tracker = UdpTracker::start(Manner::Honest).await;
    find_each_other(&content(&[&tracker]), &tracker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_trackers_that_answer_badly_harm_nobody_and_keep_no_peer_out() {
    let cuts = [0, 1, 7, 8, 12, 19].map(Manner::Cut);
    let first = [3, 8, 15].map(Manner::CutFirst);
    let others = [
        Manner::Silent,
        Manner::OtherTransaction,
        Manner::OtherAction(0),
        Manner::OtherAction(2),
        Manner::OtherAction(u32::MAX),
        Manner::Complains,
        Manner::Crowds,
        Manner::Repeats,
    ];
    let mut hostile = Vec::new();
    for manner in cuts.into_iter().chain(first).chain(others) {
        hostile.push((manner, UdpTracker::start(manner).await));
    }
    let honest = UdpTracker::start(Manner::Honest).await;
    let all: Vec<&UdpTracker> =
        hostile.iter().map(|(_, tracker)| tracker).chain([&honest]).collect();
    let content = content(&all);
    let begun = std::time::Instant::now();
    find_each_other(&content, &honest).await;
    // Two engines, two swarms of a hybrid torrent, two packets at a time; no oftener than 5 s.
    let times = begun.elapsed().as_secs() as usize / 5 + 1;
    for (manner, tracker) in &hostile {
        assert!(tracker.asked() > 0, "{manner:?}");
        assert!(tracker.asked() <= 8 * times, "{manner:?}: {} in {times}", tracker.asked());
    }
}

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 192, 152, 143), 6771);

/// What somebody in the local network may send instead of an announcement (BEP 14).
fn nonsense(info_hash: &str) -> Vec<Vec<u8>> {
    let search = |port: &str, hash: &str| {
        format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: {port}\r\n\
             Infohash: {hash}\r\ncookie: x\r\n\r\n\r\n"
        )
    };
    let good = search("1", info_hash);
    let mut all: Vec<Vec<u8>> = (0..good.len()).step_by(7).map(|at| good[..at].into()).collect();
    for (port, hash) in [
        ("0", info_hash),
        ("65536", info_hash),
        ("-1", info_hash),
        ("", info_hash),
        ("1", ""),
        ("1", &info_hash[1..]),
        ("1", &"z".repeat(40)),
        ("1", &info_hash.repeat(90)),
    ] {
        all.push(search(port, hash).into());
    }
    all.push(b"\xff".repeat(1400));
    all.push(format!("BT-SEARCH * HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(40)).into());
    // A thousand that lead nowhere.
    all.extend((1..1000).map(|port| search(&port.to_string(), info_hash).into()));
    all
}

#[test]
fn peers_find_each_other_in_the_local_network_whatever_else_is_said_there() {
    let name = "peers_find_each_other_in_the_local_network_whatever_else_is_said_there";
    let setup = "ip link set lo up multicast on && ip route add 224.0.0.0/4 dev lo";
    if namespace::enter(name, &["--net"], setup).is_none() {
        return;
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let local = || DiscoveryConfig { local_discovery: true, ..DiscoveryConfig::none() };
        let content = content(&[]);
        let info_hash = content.metainfo.hashes().handshake();
        let info_hash: String = info_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let seeder = with(local()).await;
        let seeded = seeder.add(content.seed()).await.unwrap();
        reaches(&seeded, TorrentState::Seeding).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for packet in nonsense(&info_hash) {
            socket.send_to(&packet, GROUP).await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let downloader = with(local()).await;
        let torrent = downloader.add(content.below(folder.path())).await.unwrap();
        reaches(&torrent, TorrentState::Seeding).await;
        content.assert_at(folder.path());
    });
}
