//! Torrents from engine to engine.

mod swarm;

use sparewire_node::content::TorrentState;
use swarm::{engine, reaches, seeder, several};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_of_several_files_goes_from_a_seeder_to_a_downloader() {
    let content = several("");
    let (seeder, seeded) = seeder(&content).await;
    let folder = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(seeder.listens());
    let status = reaches(&torrent, TorrentState::Seeding).await;
    assert_eq!((status.have, status.total), (status.total, 1_070_005));
    assert_eq!(status.got, status.total, "nothing came twice");
    downloader.shutdown().await;
    content.assert_at(folder.path());
    seeder.shutdown().await;
    assert_eq!(seeded.status().sent, status.total);
}
