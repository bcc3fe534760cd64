//! Torrents of very many pieces, and of very many files, through whole engines. A program of its
//! own, and one test at a time: it counts what the process has open.
#![allow(clippy::unwrap_used)]

mod swarm;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sparewire_content::{Builder, Format, Metainfo};
use sparewire_node::content::{AddTorrent, Engine, EngineConfig, TorrentState};
use swarm::{Content, anywhere, engine, reaches};
use tokio::sync::Mutex;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// What a process of two engines may have open at most: 128 files each, and some for all else.
const OPEN_MAX: usize = 2 * 128 + 100;

/// Looks again and again how much this process has open.
struct Watch {
    most: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn begin() -> Self {
        let this = Self { most: Arc::default(), over: Arc::default() };
        let (most, over) = (Arc::clone(&this.most), Arc::clone(&this.over));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(open_now(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        this
    }

    fn most(&self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.most.load(Ordering::Relaxed)
    }
}

/// How many files, sockets and so on this process has open.
fn open_now() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_of_ten_thousand_files_goes_through_few_open_ones() {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Each fiftieth is empty; folders within folders.
    let names: Vec<String> = (0..10_000).map(|n| format!("{}/{}/{n}", n % 50, n % 7)).collect();
    let files: Vec<(&str, usize)> =
        names.iter().zip(0..).map(|(name, n)| (&**name, n % 50 * 13)).collect();
    // Each file has a piece of its own. (`content_transfer` has pieces that span many.)
    let content = Content::made("thousands", &files, 16 << 10, Format::V2, "");
    let watch = Watch::begin();
    let (seeder, seeded) = swarm::seeder(&content).await;
    let folder = tempfile::tempdir().unwrap();
    // To make each of ten thousand files durable takes a disk minutes, and is not what is tested.
    let save_every = Duration::from_secs(3600);
    let config = EngineConfig { save_every, ..EngineConfig::new(anywhere()) };
    let downloader = Engine::start(config).await.unwrap();
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(seeder.listens());
    let status = reaches(&torrent, TorrentState::Seeding).await;
    content.assert_at(folder.path());
    assert_eq!(status.got, status.total);
    assert_eq!(seeded.status().spoilt, 0);
    let most = watch.most();
    assert!((20..=OPEN_MAX).contains(&most), "{most} open");
    drop((seeder, seeded, downloader, torrent));
    // Everything ends when it is dropped.
    let begun = Instant::now();
    while open_now() > 100 {
        assert!(begun.elapsed() < swarm::PATIENCE, "{} are still open", open_now());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const PIECE: usize = 16 << 10;
const PIECES: usize = 100_000;

/// A file of 1.6 GB of holes, in which each sixteenth piece begins with its number.
fn large(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len((PIECE * PIECES) as u64).unwrap();
    for piece in (0..PIECES).step_by(16) {
        file.write_all_at(&(piece as u64 + 1).to_le_bytes(), (piece * PIECE) as u64).unwrap();
    }
}

fn metainfo(of: &Path, format: Format) -> Metainfo {
    let builder = Builder::file("large", (PIECE * PIECES) as u64).unwrap().format(format);
    let mut builder = builder.piece_len(PIECE as u32).unwrap();
    let (file, mut buffer) = (File::open(of).unwrap(), vec![0; 16 * PIECE]);
    for at in (0..PIECES).step_by(16) {
        file.read_exact_at(&mut buffer, (at * PIECE) as u64).unwrap();
        builder.update(&buffer).unwrap();
    }
    let metainfo = builder.finish().unwrap();
    // As it comes from a file.
    Metainfo::from_torrent(&metainfo.to_torrent()).unwrap()
}

/// A seeder of such a file.
async fn large_seeder(format: Format) -> (Engine, tempfile::TempDir, Metainfo) {
    let folder = tempfile::tempdir().unwrap();
    large(&folder.path().join("large"));
    let metainfo = metainfo(&folder.path().join("large"), format);
    assert_eq!(metainfo.geometry().pieces() as usize, PIECES);
    let engine = engine().await;
    let add = AddTorrent::new(metainfo.clone(), folder.path().to_owned());
    let torrent = engine.add(AddTorrent { download: false, ..add }).await.unwrap();
    reaches(&torrent, TorrentState::Seeding).await;
    (engine, folder, metainfo)
}

fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (File::open(one).unwrap(), File::open(other).unwrap());
    assert_eq!(one.metadata().unwrap().len(), other.metadata().unwrap().len());
    let (mut a, mut b) = (vec![0; 16 * PIECE], vec![0; 16 * PIECE]);
    for at in (0..PIECES).step_by(16) {
        one.read_exact_at(&mut a, (at * PIECE) as u64).unwrap();
        other.read_exact_at(&mut b, (at * PIECE) as u64).unwrap();
        assert!(a == b, "piece {at} or one of the 15 after it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_thousand_pieces_those_that_are_missing_are_fetched_and_the_rest_believed() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (seeder, shared, metainfo) = large_seeder(Format::Hybrid).await;
    // Another copy, of which some pieces are bad.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("large");
    large(&copy);
    let file = File::options().write(true).open(&copy).unwrap();
    let bad: Vec<usize> = (0..PIECES).step_by(997).collect();
    for piece in &bad {
        file.write_all_at(b"bad", (piece * PIECE + 9) as u64).unwrap();
    }
    let add = AddTorrent {
        remembered_at: Some(folder.path().join("large.have")),
        ..AddTorrent::new(metainfo, folder.path().to_owned())
    };
    let downloader = engine().await;
    let torrent = downloader.add(add.clone()).await.unwrap();
    reaches(&torrent, TorrentState::Downloading).await;
    assert_eq!(torrent.status().have, ((PIECES - bad.len()) * PIECE) as u64);
    torrent.add_peer(seeder.listens());
    let status = reaches(&torrent, TorrentState::Seeding).await;
    assert_eq!(status.got, (bad.len() * PIECE) as u64);
    downloader.shutdown().await;
    assert_same(&copy, &shared.path().join("large"));
    // The next start reads none of it again.
    let before = bytes_read();
    let again = engine().await;
    let torrent = again.add(add).await.unwrap();
    reaches(&torrent, TorrentState::Seeding).await;
    assert_eq!(torrent.status().got, 0);
    let read = bytes_read() - before;
    assert!(read < 64 << 20, "{read} bytes were read");
}

/// What this process has asked the system to read since it began.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    line.parse().unwrap()
}

/// 1.6 GB from engine to engine, over a loopback connection and onto a disk: minutes, where that is
/// slow. `cargo test --release -p sparewire-node --test content_large -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes 1.6 GB"]
async fn a_hundred_thousand_pieces_go_from_a_seeder_to_a_downloader() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for format in [Format::V1, Format::Hybrid] {
        let (seeder, shared, metainfo) = large_seeder(format).await;
        let folder = tempfile::tempdir().unwrap();
        let downloader = Engine::start(EngineConfig::new(anywhere())).await.unwrap();
        let add = AddTorrent::new(metainfo, folder.path().to_owned());
        let begun = Instant::now();
        let torrent = downloader.add(add).await.unwrap();
        torrent.add_peer(seeder.listens());
        let mut state = torrent.state();
        let seeding = state.wait_for(|state| *state == TorrentState::Seeding);
        tokio::time::timeout(Duration::from_secs(900), seeding).await.unwrap().unwrap();
        let status = torrent.status();
        println!("{format:?}: {} bytes in {:?}", status.got, begun.elapsed());
        assert_eq!(status.got, (PIECES * PIECE) as u64);
        assert_same(&folder.path().join("large"), &shared.path().join("large"));
    }
}
