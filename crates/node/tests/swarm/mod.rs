//! Torrents, trackers and engines for tests, on loopback only.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod clients;
pub mod tracker;
pub mod udp_tracker;

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha1::{Digest, Sha1};
use sparewire_content::{Builder, Format, Metainfo};
use sparewire_node::content::{
    AddTorrent, Engine, EngineConfig, Torrent, TorrentState, TorrentStatus,
};

/// How long anything here may take: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Bytes that are the same for the same seed, and compress as little as random ones.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&next());
    }
    out.truncate(len);
    out
}

/// A folder of files, and the torrent of it.
pub struct Content {
    pub folder: tempfile::TempDir,
    pub torrent: Vec<u8>,
    pub metainfo: Metainfo,
    /// Paths within the folder, and bytes.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Content {
    /// A v1 torrent called `name`: of one file where its path is that name alone.
    pub fn v1(name: &str, files: &[(&str, usize)], piece_len: usize, tracker: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        let mut list = String::new();
        let mut kept = Vec::new();
        for (seed, (path, len)) in (1..).zip(files) {
            let data = bytes(seed, *len);
            let whole = match *path {
                "" => PathBuf::from(name),
                path => Path::new(name).join(path),
            };
            let at = folder.path().join(&whole);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, &data).unwrap();
            write!(list, "d6:lengthi{len}e4:pathl").unwrap();
            for part in path.split('/') {
                write!(list, "{}:{part}", part.len()).unwrap();
            }
            list.push_str("ee");
            all.extend_from_slice(&data);
            kept.push((whole, data));
        }
        let pieces: Vec<u8> = all.chunks(piece_len).flat_map(Sha1::digest).collect();
        let mut torrent = Vec::new();
        torrent.push(b'd');
        if !tracker.is_empty() {
            torrent.extend(format!("8:announce{}:{tracker}", tracker.len()).into_bytes());
        }
        torrent.extend_from_slice(b"4:infod");
        torrent.extend(match files {
            [("", len)] => format!("6:lengthi{len}e").into_bytes(),
            _ => format!("5:filesl{list}e").into_bytes(),
        });
        let rest = format!("4:name{}:{name}12:piece lengthi{piece_len}e6:pieces", name.len());
        torrent.extend(rest.into_bytes());
        torrent.extend(format!("{}:", pieces.len()).into_bytes());
        torrent.extend(pieces);
        torrent.extend_from_slice(b"ee");
        let metainfo = Metainfo::from_torrent(&torrent).unwrap();
        Self { folder, torrent, metainfo, files: kept }
    }

    /// A torrent of several files as our own `Builder` makes it.
    pub fn made(
        name: &str,
        files: &[(&str, usize)],
        piece_len: u32,
        format: Format,
        tracker: &str,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Vec::new();
        let mut listed = Vec::new();
        for (seed, (path, len)) in (1..).zip(files) {
            let data = bytes(seed, *len);
            let whole = Path::new(name).join(path);
            let at = folder.path().join(&whole);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, &data).unwrap();
            listed.push((path.split('/').map(str::to_owned).collect(), *len as u64));
            kept.push((whole, data));
        }
        let builder = Builder::folder(name, listed).unwrap().format(format);
        let mut builder = builder.piece_len(piece_len).unwrap();
        if !tracker.is_empty() {
            builder = builder.trackers(vec![vec![tracker.to_owned()]]);
        }
        while let Some((file, left)) = builder.wanted() {
            let data = &kept[file].1;
            builder.update(&data[data.len() - left as usize..]).unwrap();
        }
        let metainfo = builder.finish().unwrap();
        Self { folder, torrent: metainfo.to_torrent(), metainfo, files: kept }
    }

    /// What is added to an engine to serve it.
    pub fn seed(&self) -> AddTorrent {
        AddTorrent { download: false, ..self.below(self.folder.path()) }
    }

    /// What is added to download it into `root`.
    pub fn below(&self, root: &Path) -> AddTorrent {
        AddTorrent::new(self.metainfo.clone(), root.to_owned())
    }

    /// Fails where a file below `root` is not as it should be.
    pub fn assert_at(&self, root: &Path) {
        for (path, data) in &self.files {
            let found = std::fs::read(root.join(path)).unwrap();
            assert!(found == *data, "{} differs", path.display());
        }
    }
}

/// Some files of odd lengths, an empty one among them.
pub const SEVERAL: [(&str, usize); 4] =
    [("a.bin", 1_000_003), ("sub/empty", 0), ("sub/b.bin", 70_001), ("sub/c", 1)];
/// The bytes of all of them.
pub const SEVERAL_LEN: u64 = 1_070_005;

/// These files in small pieces, as a torrent of v1.
pub fn several(tracker: &str) -> Content {
    Content::v1("several", &SEVERAL, 32 << 10, tracker)
}

/// These files in small pieces, as we make it.
pub fn several_as(format: Format, tracker: &str) -> Content {
    Content::made("several", &SEVERAL, 64 << 10, format, tracker)
}

pub async fn engine() -> Engine {
    Engine::start(EngineConfig::new(anywhere())).await.unwrap()
}

/// Waits for a state, and fails where the torrent fails or it takes too long.
pub async fn reaches(torrent: &Torrent, wanted: TorrentState) -> TorrentStatus {
    let mut state = torrent.state();
    let reached = state.wait_for(|state| {
        *state == wanted || matches!(state, TorrentState::Failed(_) | TorrentState::Stopped)
    });
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    let status = torrent.status();
    let reached = reached.unwrap_or_else(|_| panic!("not {wanted:?} in time: {status:?}"));
    assert_eq!(*reached.unwrap(), wanted, "{status:?}");
    status
}

/// An engine that seeds `content`.
pub async fn seeder(content: &Content) -> (Engine, Arc<Torrent>) {
    let engine = engine().await;
    let torrent = engine.add(content.seed()).await.unwrap();
    reaches(&torrent, TorrentState::Seeding).await;
    (engine, torrent)
}
