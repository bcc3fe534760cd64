//! What a disk can do to torrents: be full, be read-only, lose files, have them changed.
#![allow(clippy::unwrap_used)]

mod market;
#[path = "swarm/namespace.rs"]
mod namespace;
#[path = "swarm/node.rs"]
mod node;
mod swarm;

use std::{fs, path::Path, sync::Arc, time::Duration};

use market::{FakeChain, PRICE, until};
use node::Node;
use sparewire_content::Format;
use sparewire_node::content::{AddTorrent, DiskError, Engine, EngineConfig, Torrent, TorrentState};
use sparewire_protocol::Role;
use swarm::{Content, anywhere, engine, reaches, seeder};

const LEN: u64 = 16_000_000;
/// What a seller may have sent that is not paid when a connection breaks: its credit and a payment
/// step, early in a session.
const EXPOSED: u64 = 512 << 10;

fn content() -> Content {
    Content::made("one", &[("sub/a", LEN as usize)], 4 << 20, Format::Hybrid, "")
}

fn in_a_runtime(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(test);
}

/// Waits until a torrent stands still, and says why it does.
async fn fails(torrent: &Torrent) -> DiskError {
    let mut state = torrent.state();
    let failed = state.wait_for(|state| matches!(state, TorrentState::Failed(_)));
    let failed = market::within(60, failed).await.unwrap().clone();
    let TorrentState::Failed(error) = failed else { unreachable!() };
    error
}

/// Waits until a torrent that failed is gone, so that it can be started again.
async fn ends(engine: &Engine, torrent: Arc<Torrent>, again: AddTorrent) -> Arc<Torrent> {
    torrent.stop();
    market::within(60, async {
        loop {
            match engine.add(again.clone()).await {
                Ok(torrent) => return torrent,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

fn again(content: &Content, root: &Path) -> AddTorrent {
    let remembered_at = Some(root.join("content.have"));
    AddTorrent { remembered_at, buying: node::paying(), ..content.below(root) }
}

#[test]
fn a_full_disk_stops_a_download_and_with_more_room_it_goes_on_and_pays_for_nothing_twice() {
    let name =
        "a_full_disk_stops_a_download_and_with_more_room_it_goes_on_and_pays_for_nothing_twice";
    let setup = "mount -t tmpfs -o size=6m none \"$SPAREWIRE_TEST_FOLDER\"";
    let Some(disk) = namespace::enter(name, &["--mount"], setup) else { return };
    in_a_runtime(async {
        let content = content();
        let chain = Arc::new(FakeChain::default());
        let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
        seeder.share(&content, PRICE).await;
        let got = getter.get_into(&content, &disk, &[&seeder]).await;
        let error = fails(&got).await;
        assert!(matches!(error, DiskError::Full(_)), "{error}");
        assert!(error.to_string().contains("make room"), "{error}");
        // Nothing was paid for that did not fit.
        assert!(getter.sum(Role::Payer).0 <= 6 << 20);
        namespace::sh(&format!("mount -o remount,size=64m {}", disk.display()));
        let got = ends(&getter.engine, got, again(&content, &disk)).await;
        got.add_peer(seeder.engine.listens());
        reaches(&got, TorrentState::Seeding).await;
        content.assert_at(&disk);
        until("both have settled", || getter.all_ended() && seeder.all_ended()).await;
        let (bytes, paid) = getter.sum(Role::Payer);
        assert_eq!(u128::from(bytes), paid);
        assert!((LEN - EXPOSED..=LEN).contains(&bytes), "{bytes} of {LEN}");
        assert_eq!(seeder.sum(Role::Payee), (bytes, paid));
    });
}

#[test]
fn where_nothing_may_be_written_the_error_says_what_to_do_and_nothing_is_paid() {
    let name = "where_nothing_may_be_written_the_error_says_what_to_do_and_nothing_is_paid";
    let setup = "mount -t tmpfs -o size=64m none \"$SPAREWIRE_TEST_FOLDER\"";
    let Some(disk) = namespace::enter(name, &["--mount"], setup) else { return };
    in_a_runtime(async {
        let content = content();
        let chain = Arc::new(FakeChain::default());
        let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
        seeder.share(&content, PRICE).await;
        let got = getter.get_into(&content, &disk, &[]).await;
        reaches(&got, TorrentState::Downloading).await;
        // Not while the first save is under way.
        until("it is remembered that nothing is there", || {
            let remount = format!("mount -o remount,ro {} 2>/dev/null", disk.display());
            std::process::Command::new("sh").args(["-c", &remount]).status().unwrap().success()
        })
        .await;
        got.add_peer(seeder.engine.listens());
        let error = fails(&got).await;
        assert!(matches!(error, DiskError::Denied(_)), "{error}");
        assert!(error.to_string().contains("how it is mounted"), "{error}");
        assert_eq!(getter.sum(Role::Payer), (0, 0));
        namespace::sh(&format!("mount -o remount,rw {}", disk.display()));
        let got = ends(&getter.engine, got, again(&content, &disk)).await;
        got.add_peer(seeder.engine.listens());
        reaches(&got, TorrentState::Seeding).await;
        content.assert_at(&disk);
        until("both have settled", || getter.all_ended() && seeder.all_ended()).await;
        let bytes = getter.sum(Role::Payer).0;
        assert!((LEN - EXPOSED..=LEN).contains(&bytes), "{bytes} of {LEN}");
    });
}

/// Seeds `content` slowly.
async fn slow_seeder(content: &Content) -> Engine {
    let slow = EngineConfig { free_upload: Some(2 << 20), ..EngineConfig::new(anywhere()) };
    let slow = Engine::start(slow).await.unwrap();
    let seeded = slow.add(content.seed()).await.unwrap();
    reaches(&seeded, TorrentState::Seeding).await;
    slow
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_whose_folder_is_removed_stops_and_starts_anew_when_it_is_told_to() {
    let content = content();
    let slow = slow_seeder(&content).await;
    let root = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let got = downloader.add(again(&content, root.path())).await.unwrap();
    got.add_peer(slow.listens());
    until("some is there", || got.status().got > 1 << 20).await;
    fs::remove_dir_all(root.path().join("one")).unwrap();
    let error = fails(&got).await;
    assert!(matches!(error, DiskError::Missing(_)), "{error}");
    assert!(error.to_string().contains("fetch the torrent again"), "{error}");
    assert!(!root.path().join("one").exists(), "nor is anything written there");
    let (fast, _) = seeder(&content).await;
    let got = ends(&downloader, got, again(&content, root.path())).await;
    got.add_peer(fast.listens());
    let status = reaches(&got, TorrentState::Seeding).await;
    assert_eq!(status.got, LEN, "what was removed is fetched");
    content.assert_at(root.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_which_a_finished_file_was_removed_is_not_called_complete() {
    let files = [("a", 3_000_000), ("b", 5_000_000)];
    let content = Content::made("two", &files, 1 << 20, Format::Hybrid, "");
    let slow = slow_seeder(&content).await;
    let root = tempfile::tempdir().unwrap();
    let downloader = engine().await;
    let got = downloader.add(again(&content, root.path())).await.unwrap();
    got.add_peer(slow.listens());
    // Pieces come in any order: whichever file is whole first.
    let whole = |file: usize| {
        let held = got.storage().held();
        content.metainfo.layout().pieces(file).all(|piece| held.has(piece))
    };
    until("a file is there", || whole(0) || whole(1)).await;
    let removed = if whole(0) { "two/a" } else { "two/b" };
    fs::remove_file(root.path().join(removed)).unwrap();
    let error = fails(&got).await;
    assert_eq!(error, DiskError::Missing(root.path().join(removed)));
    let (fast, _) = seeder(&content).await;
    let got = ends(&downloader, got, again(&content, root.path())).await;
    got.add_peer(fast.listens());
    reaches(&got, TorrentState::Seeding).await;
    content.assert_at(root.path());
}

/// Shares 16 MB, does something to the file while it is sold, and fetches the rest elsewhere.
async fn a_file_is_changed_under_the_seller(change: impl Fn(&Path)) {
    let content = content();
    let whole = content.folder.path().join("one/sub/a");
    let chain = Arc::new(FakeChain::default());
    let (seeder, getter) = (Node::new(&chain).await, Node::new(&chain).await);
    let shared = seeder.share(&content, PRICE).await;
    let data = fs::read(&whole).unwrap();
    change(&whole);
    let got = getter.get(&content, &[&seeder]).await;
    until("it is noticed", || shared.status().spoilt > 0).await;
    reaches(&shared, TorrentState::Partial).await;
    assert!(shared.status().have < LEN);
    let sold = seeder.sum(Role::Payee).0;
    assert!(sold <= shared.status().sent, "{sold}");
    // Somebody else has it as it was.
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir_all(copy.path().join("one/sub")).unwrap();
    fs::write(copy.path().join("one/sub/a"), data).unwrap();
    let other = Node::new(&chain).await;
    let add = AddTorrent { download: false, ..content.below(copy.path()) };
    let honest = other.engine.add(node::selling(add, PRICE)).await.unwrap();
    reaches(&honest, TorrentState::Seeding).await;
    got.add_peer(other.engine.listens());
    reaches(&got, TorrentState::Seeding).await;
    until("who sold the rest is paid", || other.all_ended()).await;
    let path = getter.files.path().join("one/sub/a");
    assert!(fs::read(path).unwrap() == fs::read(copy.path().join("one/sub/a")).unwrap());
    let twice = 64 * u64::from(sparewire_content::BLOCK_LEN);
    let (bytes, paid) = getter.sum(Role::Payer);
    let earned = seeder.sum(Role::Payee).1 + other.sum(Role::Payee).1;
    assert!(
        earned <= paid,
        "{earned} of {paid}; a session that broke off may lack its last payment"
    );
    assert!((LEN - 2 * EXPOSED..=LEN + twice).contains(&bytes), "{bytes} of {LEN}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_file_that_was_cut_off_is_sold_and_no_more() {
    a_file_is_changed_under_the_seller(|path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(LEN / 2).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_was_put_in_place_of_is_not_sold() {
    a_file_is_changed_under_the_seller(|path| {
        let other = path.with_extension("new");
        fs::write(&other, vec![7; LEN as usize]).unwrap();
        fs::rename(other, path).unwrap();
    })
    .await;
}
