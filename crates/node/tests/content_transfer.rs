//! Torrents from engine to engine.
#![allow(clippy::unwrap_used)]

mod swarm;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sparewire_content::{
    BLOCK_LEN, Decoded, Format, HANDSHAKE_LEN, Handshake, Magnet, PeerMessage, decode,
};
use sparewire_node::content::{
    AddTorrent, DhtConfig, DiscoveryConfig, Engine, EngineConfig, Torrent, TorrentState,
};
use swarm::{
    Content, PATIENCE, SEVERAL_LEN, anywhere, engine, reaches, seeder, seeder as seeder_of,
    several, several_as,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

/// Waits until something of a torrent is so.
async fn until(torrent: &Torrent, so: impl Fn(&Torrent) -> bool) {
    let waiting = async {
        while !so(torrent) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{:?}", torrent.status()));
}

async fn goes_from_a_seeder_to_a_downloader(content: Content) {
    let (seeder, seeded) = seeder(&content).await;
    let folder = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(seeder.listens());
    let status = reaches(&torrent, TorrentState::Seeding).await;
    assert_eq!((status.have, status.total), (SEVERAL_LEN, SEVERAL_LEN));
    assert_eq!(status.got, SEVERAL_LEN, "nothing came twice");
    downloader.shutdown().await;
    content.assert_at(folder.path());
    seeder.shutdown().await;
    assert_eq!(seeded.status().sent, SEVERAL_LEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_of_v1_goes_from_a_seeder_to_a_downloader() {
    goes_from_a_seeder_to_a_downloader(several("")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_of_v2_goes_from_a_seeder_to_a_downloader() {
    goes_from_a_seeder_to_a_downloader(several_as(Format::V2, "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hybrid_torrent_goes_from_a_seeder_to_a_downloader() {
    goes_from_a_seeder_to_a_downloader(several_as(Format::Hybrid, "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_downloaded_a_torrent_has_its_leaf_hashes_for_others() {
    let content = several_as(Format::V2, "");
    let (seeder, _) = seeder(&content).await;
    let folder = tempfile::tempdir().unwrap();
    let home = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let mut add = content.below(folder.path());
    add.remembered_at = Some(home.path().join("several.have"));
    let torrent = downloader.add(add).await.unwrap();
    torrent.add_peer(seeder.listens());
    reaches(&torrent, TorrentState::Seeding).await;
    let metainfo = torrent.storage().metainfo();
    let written = std::fs::read(home.path().join("several.leaves")).unwrap();
    let (leaves, []) = written.as_chunks::<32>() else { panic!("not of leaves alone") };
    let per_piece = (metainfo.geometry().piece_len() / BLOCK_LEN) as usize;
    let mut found = 0;
    for piece in 0..metainfo.geometry().pieces() {
        let blocks = metainfo.geometry().blocks_of(piece) as usize;
        if blocks > 1 {
            let of = &leaves[piece as usize * per_piece..][..blocks];
            assert!(metainfo.check(piece).unwrap().leaves_pass(of), "piece {piece}");
            found += 1;
        }
    }
    assert!(found > 1);
    downloader.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downloader_serves_what_it_has_to_others() {
    let content = several_as(Format::Hybrid, "");
    let (seeder, _) = seeder(&content).await;
    let mut all = Vec::new();
    let mut before = seeder.listens();
    // Each knows only the one before: the last can have it only through all others.
    for _ in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine().await;
        let torrent = engine.add(content.below(folder.path())).await.unwrap();
        torrent.add_peer(before);
        before = engine.listens();
        all.push((engine, torrent, folder));
    }
    for (_, torrent, folder) in &all {
        reaches(torrent, TorrentState::Seeding).await;
        content.assert_at(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_dial_each_other_at_once_keep_one_connection() {
    let content = several("");
    for _ in 0..30 {
        let mut ends = Vec::new();
        for _ in 0..2 {
            let folder = tempfile::tempdir().unwrap();
            let engine = engine().await;
            let torrent = engine.add(content.below(folder.path())).await.unwrap();
            reaches(&torrent, TorrentState::Downloading).await;
            ends.push((engine, torrent, folder));
        }
        let [one, other] = &ends[..] else { panic!("two") };
        one.1.add_peer(other.0.listens());
        other.1.add_peer(one.0.listens());
        until(&one.1, |torrent| torrent.status().peers == 1).await;
        sleep(Duration::from_millis(50)).await; // both have found that they are two, or one
        assert_eq!((one.1.status().peers, other.1.status().peers), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_magnet_link_leads_to_the_torrent_and_its_hashes() {
    for format in [Format::V1, Format::V2, Format::Hybrid] {
        let content = several_as(format, "");
        let (seeder, _) = seeder(&content).await;
        let magnet = Magnet {
            hashes: *content.metainfo.hashes(),
            name: None,
            trackers: Vec::new(),
            peers: Vec::new(),
        };
        let engine = engine().await;
        let peers = [seeder.listens()];
        let fetched = timeout(PATIENCE, engine.fetch(&magnet, &peers)).await.unwrap();
        assert_eq!(fetched, content.metainfo, "{format:?}");
    }
}

/// Spoils some bytes of a file, and leaves its length.
fn spoil(path: &Path, at: usize) {
    let mut data = std::fs::read(path).unwrap();
    data[at] ^= 1;
    std::fs::write(path, data).unwrap();
}

/// Downloads from somebody who lacks a piece, ends (by `end`), then goes on with who has all.
async fn goes_on_after(save_every: Duration, end: impl AsyncFnOnce(Engine)) {
    let content = several("");
    let folder = tempfile::tempdir().unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut add = content.below(folder.path());
    add.remembered_at = Some(home.path().join("several.have"));
    let start = || async {
        let config = EngineConfig { save_every, ..EngineConfig::new(anywhere()) };
        Engine::start(config).await.unwrap()
    };

    let lacking = tempfile::tempdir().unwrap();
    for (path, data) in &content.files {
        let at = lacking.path().join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, data).unwrap();
    }
    let a = lacking.path().join("several/a.bin");
    spoil(&a, 100_000); // in piece 3
    let partial = engine().await;
    let lacks = AddTorrent { download: false, ..content.below(lacking.path()) };
    let partly = partial.add(lacks).await.unwrap();
    reaches(&partly, TorrentState::Partial).await;
    assert_eq!(partly.status().have, SEVERAL_LEN - (32 << 10));

    let first = start().await;
    let torrent = first.add(add.clone()).await.unwrap();
    torrent.add_peer(partial.listens());
    until(&torrent, |torrent| torrent.status().have == SEVERAL_LEN - (32 << 10)).await;
    end(first).await;
    // What was being saved when it ended is done.
    while Arc::strong_count(&torrent) > 1 {
        sleep(Duration::from_millis(20)).await;
    }
    drop(torrent);

    let (seeder, _) = seeder(&content).await;
    let second = start().await;
    let torrent = second.add(add).await.unwrap();
    torrent.add_peer(seeder.listens());
    let status = reaches(&torrent, TorrentState::Seeding).await;
    assert_eq!(status.got, 32 << 10, "only what was missing");
    content.assert_at(folder.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_where_it_was_ended() {
    goes_on_after(Duration::from_secs(3600), async |engine| engine.shutdown().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_after_an_end_that_saved_nothing() {
    // The first save, of nothing, is at once; then none.
    goes_on_after(Duration::from_secs(3600), async |engine| drop(engine)).await;
}

/// Downloads some of one long piece, ends (by `end`), and goes on; says how much came of what was
/// ended, and afterwards.
async fn goes_on_within_a_piece(
    content: &Content,
    end: impl AsyncFnOnce(Engine, Arc<Torrent>),
) -> (u64, u64) {
    let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let add = AddTorrent {
        remembered_at: Some(home.path().join("one.have")),
        ..content.below(folder.path())
    };
    let slow = EngineConfig { free_upload: Some(2 << 20), ..EngineConfig::new(anywhere()) };
    let slow = Engine::start(slow).await.unwrap();
    let seeded = slow.add(content.seed()).await.unwrap();
    reaches(&seeded, TorrentState::Seeding).await;

    let first = engine().await;
    let torrent = first.add(add.clone()).await.unwrap();
    torrent.add_peer(slow.listens());
    until(&torrent, |torrent| torrent.status().got > 3 << 20).await;
    let before = torrent.status();
    assert_eq!(before.have, 0, "all of it is one piece");
    end(first, Arc::clone(&torrent)).await;
    let first_got = torrent.status().got;
    drop(torrent);
    slow.shutdown().await;

    let (seeder, _) = seeder(content).await;
    let second = engine().await;
    let torrent = second.add(add).await.unwrap();
    torrent.add_peer(seeder.listens());
    let status = reaches(&torrent, TorrentState::Seeding).await;
    content.assert_at(folder.path());
    second.shutdown().await;
    assert!(!home.path().join("one.parts").exists(), "nothing is in doubt any more");
    assert!(before.got <= first_got);
    (first_got, status.got)
}

/// One piece, and its length.
fn one_piece(format: Option<Format>) -> (Content, u64) {
    let files = [("sub/a", 8_000_000)];
    let content = match format {
        None => Content::v1("one", &files, 8 << 20, ""),
        Some(format) => Content::made("one", &files, 8 << 20, format, ""),
    };
    assert_eq!(content.metainfo.geometry().pieces(), 1);
    (content, 8_000_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_within_a_piece_and_no_block_comes_again() {
    for format in [None, Some(Format::V2), Some(Format::Hybrid)] {
        let (content, len) = one_piece(format);
        let ended = goes_on_within_a_piece(&content, async |engine, _| engine.shutdown().await);
        let (before, after) = ended.await;
        assert_eq!(before + after, len, "{format:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_leaf_proves_is_kept_though_nothing_was_saved() {
    for format in [Format::V2, Format::Hybrid] {
        let (content, len) = one_piece(Some(format));
        // Dropped: nothing is made durable, as where the process is killed.
        let ended = goes_on_within_a_piece(&content, async |engine, _| drop(engine));
        let (before, after) = ended.await;
        // A buffer or two that was on its way is counted, and may not have been written.
        assert!(before + after <= len + (1 << 20), "{format:?}: {before} and {after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_were_spoiled_on_disk_meanwhile_are_fetched_again_and_nobody_is_blamed() {
    for format in [None, Some(Format::Hybrid)] {
        let (content, len) = one_piece(format);
        let ended = goes_on_within_a_piece(&content, async |engine, torrent| {
            engine.shutdown().await;
            let path = torrent.storage().path(0);
            spoil(&path, 20_000); // in the second block
        });
        let (before, after) = ended.await;
        let again = match format {
            // That block alone.
            Some(_) => u64::from(sparewire_content::BLOCK_LEN),
            // First what is missing; then the piece as a whole, because nothing tells which it is.
            None => len,
        };
        assert_eq!(before + after, len + again, "{format:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_was_changed_under_the_seeder_is_not_served_any_more() {
    let content = several("");
    let (seeder, seeded) = seeder(&content).await;
    let changed = content.folder.path().join("several/a.bin");
    spoil(&changed, 100_000);
    let now = std::fs::read(&changed).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(seeder.listens());
    until(&seeded, |seeded| seeded.status().spoilt > 0).await;
    reaches(&seeded, TorrentState::Partial).await;
    assert_eq!(seeded.status().have, SEVERAL_LEN - (32 << 10));
    until(&torrent, |torrent| torrent.status().have == SEVERAL_LEN - (32 << 10)).await;
    assert!(torrent.status().got <= SEVERAL_LEN, "and nothing bad was sent");
    // Nor is the change undone, though somebody has the piece as it was.
    let copy = several("");
    let (other, _) = seeder_of(&copy).await;
    seeded.add_peer(other.listens());
    torrent.add_peer(other.listens());
    reaches(&torrent, TorrentState::Seeding).await;
    assert_eq!(std::fs::read(&changed).unwrap(), now);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_changed_while_others_are_fetched_is_fetched_again_and_no_block_of_theirs() {
    let (small, long) = (100_000, 16 << 20);
    let content = Content::made("two", &[("a", small), ("b", long)], 8 << 20, Format::Hybrid, "");
    let total = (small + long) as u64;
    // One has the small file only; the other has all, and is slow.
    let few = tempfile::tempdir().unwrap();
    std::fs::create_dir(few.path().join("two")).unwrap();
    std::fs::copy(content.folder.path().join("two/a"), few.path().join("two/a")).unwrap();
    let first = engine().await;
    let lacks = AddTorrent { download: false, ..content.below(few.path()) };
    let has_small = first.add(lacks).await.unwrap();
    reaches(&has_small, TorrentState::Partial).await;
    let slow = EngineConfig { free_upload: Some(2 << 20), ..EngineConfig::new(anywhere()) };
    let slow = Engine::start(slow).await.unwrap();
    let seeded = slow.add(content.seed()).await.unwrap();
    reaches(&seeded, TorrentState::Seeding).await;

    let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let save_every = Duration::from_millis(100);
    let downloader = EngineConfig { save_every, ..EngineConfig::new(anywhere()) };
    let downloader = Engine::start(downloader).await.unwrap();
    let remembered_at = Some(home.path().join("two.have"));
    let add = AddTorrent { remembered_at, ..content.below(folder.path()) };
    let torrent = downloader.add(add).await.unwrap();
    torrent.add_peer(first.listens());
    until(&torrent, |torrent| torrent.status().have == small as u64).await;
    torrent.add_peer(slow.listens());
    until(&torrent, |torrent| torrent.status().got > 3 << 20).await;
    assert_eq!(torrent.status().have, small as u64, "the long pieces are open");
    spoil(&folder.path().join("two/a"), 7);
    // Somebody asks for it, so that it is noticed.
    let (other, below) = (engine().await, tempfile::tempdir().unwrap());
    let asks = other.add(content.below(below.path())).await.unwrap();
    asks.add_peer(downloader.listens());
    let status = reaches(&torrent, TorrentState::Seeding).await;
    assert!(status.spoilt > 0);
    content.assert_at(folder.path());
    let again = status.got - total;
    assert!(again < small as u64 + (1 << 20), "{again} bytes came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_replaced_keeps_nobody_from_the_others() {
    let len = 4_000_000;
    let content = Content::made("two", &[("a", len), ("b", len)], 32 << 10, Format::Hybrid, "");
    let (seeder, seeded) = seeder(&content).await;
    std::fs::write(content.folder.path().join("two/a"), vec![7; len]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(seeder.listens());
    until(&torrent, |torrent| torrent.status().have == len as u64).await;
    let b = std::fs::read(folder.path().join("two/b")).unwrap();
    assert!(b == content.files[1].1);
    let status = seeded.status();
    assert_eq!((status.spoilt, status.have), (1, len as u64), "all of it was found at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeder_whose_folder_is_gone_says_so_and_serves_nothing() {
    let content = several("");
    let (seeder, seeded) = seeder(&content).await;
    std::fs::remove_dir_all(content.folder.path().join("several")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(seeder.listens());
    until(&seeded, |seeded| seeded.status().spoilt > 0).await;
    assert_eq!(torrent.status().have, 0);
    assert!(!content.folder.path().join("several").exists(), "nor is it made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_stops_and_says_why_when_something_is_in_its_way() {
    let content = several("");
    let (seeder, _) = seeder(&content).await;
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("several")).unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    reaches(&torrent, TorrentState::Downloading).await;
    // Somebody puts a link there once it runs.
    std::os::unix::fs::symlink(outside.path(), folder.path().join("several/sub")).unwrap();
    torrent.add_peer(seeder.listens());
    until(&torrent, |torrent| matches!(torrent.status().state, TorrentState::Failed(_))).await;
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// A peer that says it has all, and sends noise.
async fn liar(content: &Content, at: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let pieces = content.metainfo.geometry().pieces();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; HANDSHAKE_LEN];
            stream.read_exact(&mut bytes).await.unwrap();
            let theirs = Handshake::from_bytes(&bytes).unwrap();
            let ours = Handshake { peer_id: [7; 20], extended: false, ..theirs };
            let mut out = ours.to_bytes().to_vec();
            let mut bits = vec![0xff; pieces.div_ceil(8) as usize];
            if let (Some(last), spare @ 1..) = (bits.last_mut(), (8 - pieces % 8) % 8) {
                *last <<= spare;
            }
            PeerMessage::Bitfield(&bits).write(&mut out);
            PeerMessage::Unchoke.write(&mut out);
            stream.write_all(&out).await.unwrap();
            let mut buffer = Vec::new();
            while stream.read_buf(&mut buffer).await.is_ok_and(|length| length > 0) {
                let mut out = Vec::new();
                while let Ok(Decoded::Message { message, length }) = decode(&buffer, Some(pieces)) {
                    if let PeerMessage::Request(block) = message {
                        let data = vec![block.piece as u8; block.len as usize];
                        PeerMessage::Piece { block, data: &data }.write(&mut out);
                    }
                    buffer.drain(..length);
                }
                if stream.write_all(&out).await.is_err() {
                    break;
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_noise_is_left_and_the_download_completes_from_others() {
    for content in [several(""), several_as(Format::Hybrid, "")] {
        let liar = liar(&content, SocketAddr::from(([127, 0, 0, 2], 0))).await;
        let folder = tempfile::tempdir().unwrap();
        let downloader = engine().await;
        let torrent = downloader.add(content.below(folder.path())).await.unwrap();
        torrent.add_peer(liar);
        until(&torrent, |torrent| torrent.status().got > 0).await;
        until(&torrent, |torrent| torrent.status().peers == 0).await;
        assert_eq!(torrent.status().have, 0);
        let (seeder, _) = seeder(&content).await;
        torrent.add_peer(seeder.listens());
        torrent.add_peer(liar);
        reaches(&torrent, TorrentState::Seeding).await;
        content.assert_at(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_sent_noise_is_not_spoken_to_after_a_restart_either() {
    let content = several("");
    let liar = liar(&content, SocketAddr::from(([127, 0, 0, 2], 0))).await;
    let folder = tempfile::tempdir().unwrap();
    let banned_at = Some(folder.path().join("banned"));
    let start = || {
        let config = EngineConfig { banned_at: banned_at.clone(), ..EngineConfig::new(anywhere()) };
        Engine::start(config)
    };
    let first = start().await.unwrap();
    let torrent = first.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(liar);
    until(&torrent, |torrent| torrent.status().got > 0).await;
    until(&torrent, |_| banned_at.as_deref().is_some_and(Path::exists)).await;
    first.shutdown().await;
    let second = start().await.unwrap();
    let torrent = second.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(liar);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(torrent.status().got, 0, "nothing is taken of it");
    let (seeder, _) = seeder(&content).await;
    torrent.add_peer(seeder.listens());
    reaches(&torrent, TorrentState::Seeding).await;
    assert_eq!(torrent.status().got, SEVERAL_LEN);
}

/// A node of the DHT that answers everything, and nothing that makes sense; and how often it did.
async fn nonsense_in_the_dht() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind(anywhere()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    tokio::spawn(async move {
        let mut asked = [0; 2048];
        for turn in 0usize.. {
            let Ok((length, from)) = socket.recv_from(&mut asked).await else { return };
            // Four bytes behind `1:t4:`, as the crate has them.
            let key = asked[..length].windows(5).position(|bytes| bytes == b"1:t4:");
            let transaction = key.and_then(|at| asked.get(at + 5..at + 9)).unwrap_or(b"none");
            let answers: [Vec<u8>; 7] = [
                b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaa5:nodes25:aaaaaaaaaaaaaaaaaaaaaaaaae1:t4:".to_vec(),
                b"d1:rd2:id3:abc6:valuesl6:\0\0\0\0\0\0ee1:t4:".to_vec(),
                b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaa5:token0:6:valuesl18:aaaaaaaaaaaaaaaaaa0:i3eee1:t4:".to_vec(),
                b"d1:eli99999999999999999999999e0:e1:t4:".to_vec(),
                vec![b'l'; 1500],
                b"d1:rd5:token99999999999999999999:x".to_vec(),
                Vec::new(),
            ];
            let mut answer = answers[turn % answers.len()].clone();
            if answer.ends_with(b"1:t4:") {
                answer.extend_from_slice(transaction);
                answer.extend_from_slice(b"1:y1:re");
            }
            let _ = socket.send_to(&answer, from).await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, answered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_find_each_other_in_the_dht_whoever_talks_nonsense_there() {
    let content = several_as(Format::Hybrid, "");
    let localhost = std::net::Ipv4Addr::LOCALHOST;
    let node = tokio::task::spawn_blocking(move || {
        mainline::Dht::builder().no_bootstrap().bind_address(localhost).server_mode().build()
    });
    let node = node.await.unwrap().unwrap().as_async();
    let honest = format!("127.0.0.1:{}", node.info().await.local_addr().port());
    let (nonsense, answered) = nonsense_in_the_dht().await;
    let bootstrap = vec![nonsense.to_string(), honest];
    let start = || async {
        let dht = DhtConfig {
            bootstrap: bootstrap.clone(),
            bind: Some(localhost),
            port: None,
            every: Duration::from_secs(1),
            server: true,
        };
        let discovery =
            DiscoveryConfig { dht: Some(dht), private_addresses: true, ..DiscoveryConfig::none() };
        let config = EngineConfig { discovery, ..EngineConfig::new(anywhere()) };
        Engine::start(config).await.unwrap()
    };
    let seeder = start().await;
    seeder.add(content.seed()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let downloader = start().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    reaches(&torrent, TorrentState::Seeding).await;
    content.assert_at(folder.path());
    assert!(answered.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_told_of_each_other() {
    let content = several("");
    let start = || async {
        let discovery = DiscoveryConfig {
            peer_exchange: Some(Duration::from_millis(200)),
            private_addresses: true,
            ..DiscoveryConfig::none()
        };
        let config = EngineConfig { discovery, ..EngineConfig::new(anywhere()) };
        Engine::start(config).await.unwrap()
    };
    // One in the middle that has nothing; the two others know only it.
    let middle = start().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let knows = middle.add(content.below(folders[0].path())).await.unwrap();
    let getter = start().await;
    let getting = getter.add(content.below(folders[1].path())).await.unwrap();
    getting.add_peer(middle.listens());
    until(&knows, |knows| knows.status().peers == 1).await;
    let (seeder, seeded) = {
        let engine = start().await;
        let torrent = engine.add(content.seed()).await.unwrap();
        (engine, torrent)
    };
    seeded.add_peer(middle.listens());
    until(&getting, |getting| getting.status().peers == 2).await;
    reaches(&getting, TorrentState::Seeding).await;
    drop(seeder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_of_thousands_of_files_goes_through_few_open_ones() {
    let names: Vec<String> = (0..3_000).map(|n| format!("{}/{n}", n % 50)).collect();
    let files: Vec<(&str, usize)> =
        names.iter().zip(0..).map(|(name, n)| (&**name, n % 700)).collect();
    let content = Content::v1("thousands", &files, 64 << 10, "");
    let (seeder, _) = seeder(&content).await;
    let folder = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    torrent.add_peer(seeder.listens());
    reaches(&torrent, TorrentState::Seeding).await;
    content.assert_at(folder.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torrent_runs_once_and_leaves_nothing_behind_when_stopped() {
    let content = several("");
    let (seeder, seeded) = seeder(&content).await;
    assert!(seeder.add(content.seed()).await.is_err());
    seeded.stop();
    reaches(&seeded, TorrentState::Stopped).await;
    let again = async {
        loop {
            match seeder.add(content.seed()).await {
                Ok(torrent) => return torrent,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let again = timeout(PATIENCE, again).await.unwrap();
    reaches(&again, TorrentState::Seeding).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_under_the_peer_id_of_another_does_not_keep_us_from_that_other() {
    let content = several("");
    let (seeder, _) = seeder(&content).await;
    let folder = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let torrent = downloader.add(content.below(folder.path())).await.unwrap();
    reaches(&torrent, TorrentState::Downloading).await;
    let shake = async |mut stream: TcpStream, peer_id: [u8; 20]| {
        let info_hash = content.metainfo.hashes().handshake();
        let ours =
            Handshake { info_hash, peer_id, extended: false, dht: false, fast: false, v2: false };
        stream.write_all(&ours.to_bytes()).await.unwrap();
        let mut bytes = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut bytes).await.unwrap();
        (stream, Handshake::from_bytes(&bytes).unwrap().peer_id)
    };
    let (_, of_seeder) = shake(TcpStream::connect(seeder.listens()).await.unwrap(), [9; 20]).await;
    // From another address, as it would be.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let squatter = socket.connect(downloader.listens()).await.unwrap();
    let (_squatter, _) = shake(squatter, of_seeder).await;
    until(&torrent, |torrent| torrent.status().peers == 1).await;
    torrent.add_peer(seeder.listens());
    reaches(&torrent, TorrentState::Seeding).await;
    content.assert_at(folder.path());
}
