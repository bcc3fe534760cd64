#![allow(clippy::unwrap_used)]

use sparewire_content::{Builder, Format};

use super::*;
use crate::content::{AddTorrent, Engine, EngineConfig};

/// A download of one file, of which nothing is there, with nobody to ask.
async fn downloading(root: &std::path::Path) -> (Engine, Arc<Torrent>) {
    let files = vec![(vec!["a".to_owned()], 100_000)];
    let builder = Builder::folder("t", files).unwrap().format(Format::V2);
    let mut builder = builder.piece_len(16 << 10).unwrap();
    while let Some((_, left)) = builder.wanted() {
        builder.update(&vec![7; left as usize]).unwrap();
    }
    let metainfo = builder.finish().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let engine = Engine::start(EngineConfig::new(listen)).await.unwrap();
    let torrent = engine.add(AddTorrent::new(metainfo, root.to_owned())).await.unwrap();
    let mut state = torrent.state();
    state.wait_for(|state| *state == TorrentState::Downloading).await.unwrap();
    (engine, torrent)
}

#[tokio::test]
async fn a_download_whose_end_is_taken_back_goes_on_and_buys() {
    let root = tempfile::tempdir().unwrap();
    let (_engine, torrent) = downloading(root.path()).await;
    torrent.trading.complete();
    assert!(torrent.trading.done_buying().is_cancelled());
    torrent.spoilt();
    let mut state = torrent.state();
    state.wait_for(|state| *state == TorrentState::Downloading).await.unwrap();
    assert!(!torrent.trading.done_buying().is_cancelled(), "what is missing is bought");
    assert!(!lock(&torrent.swarm).as_ref().unwrap().is_complete());
    // Once it is to be left, nothing is bought any more.
    torrent.trading.settle().await;
    torrent.trading.reopen();
    assert!(torrent.trading.done_buying().is_cancelled());
}
