//! Torrents between processes on loopback, for nothing: without keys, a chain, or anybody's server.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use support::{Ended, Running, run, sparewire, until};

/// A data directory of its own, and a folder for its files.
struct Party {
    dir: PathBuf,
    files: PathBuf,
}

impl Party {
    fn new(root: &Path, name: &str) -> Self {
        let (dir, files) = (root.join(name), root.join(name.to_owned() + "-files"));
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(&files).unwrap();
        let this = Self { dir, files };
        this.configure("");
        this
    }

    /// Loopback only, and what else is wanted.
    fn configure(&self, more: &str) {
        let config =
            format!("[content]\nlisten = \"127.0.0.1:0\"\nlocal_discovery = false\n{more}\n");
        fs::write(self.dir.join("config.toml"), config).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = sparewire(&self.dir, ["content"]);
        command.args(args).current_dir(&self.files);
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        run(self.command(args))
    }

    /// Shares what is at `path` in its folder; says where it listens, and the magnet link.
    fn share(&self, path: &str, more: &[&str]) -> (Running, SocketAddr, String) {
        let mut command = self.command(&["share", path, "--json"]);
        command.args(more);
        let mut running = Running::start(command);
        let listens = running.said(|line| said(line, "listen")).parse().unwrap();
        let magnet = running.said(|line| said(line, "magnet"));
        (running, listens, magnet)
    }

    fn show(&self, which: &str) -> Value {
        self.run(&["show", which, "--json"]).json()
    }

    fn list(&self) -> Vec<Value> {
        self.run(&["list", "--json"]).json().as_array().unwrap().clone()
    }
}

/// The text under a key of a document of which this is a line.
fn said(line: &str, key: &str) -> Option<String> {
    let value = line.trim().strip_prefix(&format!("\"{key}\": \""))?;
    Some(value.trim_end_matches(',').strip_suffix('"')?.to_owned())
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn folder(at: &Path) {
    fs::create_dir_all(at.join("deep/er")).unwrap();
    fs::write(at.join("a.bin"), bytes(300_000, 1)).unwrap();
    fs::write(at.join("deep/er/b.bin"), bytes(70_001, 2)).unwrap();
    fs::write(at.join("deep/one byte"), "x").unwrap();
    fs::write(at.join("empty"), "").unwrap();
}

/// Every file below `dir` and what is in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                all.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[test]
fn a_folder_is_shared_and_fetched_without_keys_or_a_chain() {
    for format in [&[][..], &["--v1"], &["--v2"]] {
        let root = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
        folder(&a.files.join("shared"));
        let (sharer, at, _) = a.share("shared", format);
        let torrent = a.files.join("shared.torrent");
        let (at, torrent) = (at.to_string(), torrent.to_str().unwrap());

        let fetched = b.run(&["get", torrent, "--peer", &at, "--no-seed"]).ok();
        assert_eq!(fetched.trim(), b.files.join("shared").to_str().unwrap());
        assert_eq!(files(&b.files.join("shared")), files(&a.files.join("shared")));
        for party in [&a, &b] {
            assert!(!party.dir.join("keys").exists(), "nothing was paid");
        }
        let shown = a.show("shared");
        assert_eq!((shown["state"].as_str(), &shown["have"]), (Some("seeding"), &shown["total"]));
        until("what was sent is counted", || {
            (a.show("shared")["sent"].as_u64().unwrap() >= 370_002).then_some(())
        });
        sharer.stopped().ok();
        // Again: nothing is left to fetch, so nobody is needed.
        b.run(&["get", torrent, "--no-seed"]).ok();
    }
}

#[test]
fn a_magnet_link_is_enough_and_who_has_fetched_shares() {
    for format in [&[][..], &["--v1"], &["--v2"]] {
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| Party::new(root.path(), name));
        folder(&a.files.join("shared"));
        let (sharer, at, magnet) = a.share("shared", format);
        let to = b.files.join("below/here");
        let to = to.to_str().unwrap();
        let get = ["get", &magnet, "--peer", &at.to_string(), "--to", to, "--listen"];
        let mut command = b.command(&get);
        command.arg("127.0.0.1:0");
        let mut second = Running::start(command);
        second.said(|line| line.ends_with("/below/here/shared").then_some(()));
        sharer.stopped().ok();

        // The first is gone: the one that fetched it gives it on.
        let status = run(sparewire(&b.dir, ["status", "--json"])).json();
        let from = status["running"]["listen"].as_str().unwrap().to_owned();
        // As people write them, a tracker's address is not escaped.
        let magnet = format!("{magnet}&tr=udp://127.0.0.1:1/announce");
        c.run(&["get", &magnet, "--peer", &from, "--no-seed"]).ok();
        assert_eq!(files(&c.files.join("shared")), files(&a.files.join("shared")));
        second.stopped().ok();
    }
}

#[test]
fn after_kill_9_a_download_goes_on_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
    let data = bytes(6 << 20, 3);
    fs::write(a.files.join("big"), &data).unwrap();
    a.configure("free_upload = \"1MiB\"");
    let (sharer, at, _) = a.share("big", &["--piece-length", "64KiB"]);
    let torrent = a.files.join("big.torrent");
    let torrent = torrent.to_str().unwrap();
    let cut = Running::start(b.command(&["get", torrent, "--peer", &at.to_string()]));
    let shown = until("a part is there", || {
        let shown = b.list().first()?.clone();
        (shown["have"].as_u64()? >= 1 << 20).then_some(shown)
    });
    assert_eq!(shown["had"], 0, "{shown}");
    let said = cut.stderr();
    assert!(said.contains("downloading big") && !said.contains("going on"), "{said}");
    // Nor does who looks later take what came meanwhile for something that was there.
    let mut other = Running::start(b.command(&["get", torrent]));
    other.warned(" big ");
    assert!(other.stderr().contains("downloading big"), "{}", other.stderr());
    other.kill_9();
    cut.kill_9();
    let there = b.show("big");
    assert_eq!(there["state"], "resting");
    sharer.kill_9();

    // What was shared goes on, too, as fast as it can.
    a.configure("");
    let mut serving = Running::start(a.command(&["serve"]));
    let at = serving.said(support::addr_in).to_string();
    let done = b.run(&["get", torrent, "--peer", &at, "--no-seed", "--json"]);
    assert!(done.stderr.contains("going on with big"), "{done:?}");
    assert!(done.stderr.contains(" came, nothing paid"), "{done:?}");
    let done = done.json();
    assert_eq!(done["bytes"], data.len());
    let got = done["got"].as_u64().unwrap();
    assert!(got > 0 && got <= 5 << 20, "{got} came again");
    assert_eq!(fs::read(b.files.join("big")).unwrap(), data);
    serving.stopped().ok();
}

#[test]
fn a_second_command_hands_its_torrent_to_the_process_that_runs() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
    fs::write(a.files.join("one"), bytes(100_000, 4)).unwrap();
    fs::write(a.files.join("two"), bytes(100_000, 5)).unwrap();
    fs::write(a.files.join("three"), bytes(100_000, 6)).unwrap();
    let (sharer, at, _) = a.share("one", &[]);
    let at = at.to_string();
    // Shared by the first process, and the second command returns.
    let handed = a.run(&["share", "two", "--json"]).json();
    assert!(handed["listen"].is_null(), "{handed}");
    let told = a.run(&["share", "three"]);
    assert!(told.stderr.contains("--v1"), "other clients are given it too: {told:?}");
    let magnet = told.ok();

    let one = a.files.join("one.torrent");
    let mut first = Running::start(b.command(&["get", one.to_str().unwrap(), "--peer", &at]));
    first.said(|line| line.ends_with("/one").then_some(()));
    // One more peer is one more to ask: what runs goes on, and its figures with it.
    let again = ["get", one.to_str().unwrap(), "--peer", &at, "--peer", "127.0.0.1:1"];
    b.run(&again).ok();
    let shown = b.show("one");
    assert_eq!(shown["got"], 100_000, "{shown}");
    let peers = serde_json::json!([at, "127.0.0.1:1"]);
    assert_eq!(shown["settings"]["peers"], peers, "{shown}");
    let two = a.files.join("two.torrent");
    let said = b.run(&["get", two.to_str().unwrap(), "--peer", &at]);
    assert!(said.stderr.contains("process that runs here"), "{said:?}");
    assert!(said.ok().trim().ends_with("/two"));
    b.run(&["get", magnet.trim(), "--peer", &at, "--no-seed"]).ok();
    for name in ["one", "two", "three"] {
        assert_eq!(fs::read(b.files.join(name)).unwrap(), fs::read(a.files.join(name)).unwrap());
    }
    let states: Vec<Value> = b.list().into_iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["seeding", "seeding", "stopped"]);
    b.run(&["serve"]).fails_with(&["already"]);
    first.stopped().ok();
    sharer.stopped().ok();
}

#[test]
fn what_is_stopped_rests_and_what_is_removed_is_gone_with_or_without_a_process() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
    folder(&a.files.join("shared"));
    let (sharer, at, _) = a.share("shared", &[]);
    let torrent = a.files.join("shared.torrent");
    let torrent = torrent.to_str().unwrap();
    b.run(&["get", torrent, "--peer", &at.to_string(), "--no-seed"]).ok();

    // While it runs. The process has nothing to do then, and ends.
    a.run(&["stop", "shared"]).ok();
    sharer.ended().ok();
    assert_eq!(a.list()[0]["state"], "stopped");
    let hash = a.list()[0]["info_hash"].as_str().unwrap().to_owned();
    let mut serving = Running::start(a.command(&["serve"]));
    serving.said(support::addr_in);
    assert_eq!(a.show(&hash[..8])["state"], "stopped", "serve leaves it alone");
    a.run(&["remove", "shared"]).ok();
    assert!(a.list().is_empty());
    assert!(a.files.join("shared/a.bin").exists(), "its files stay");
    serving.stopped().ok();
    a.run(&["show", "shared"]).fails_with(&["no torrent", "content list"]);

    // Without a process.
    fs::write(b.files.join("shared/mine"), "mine").unwrap();
    b.run(&["stop", "shared"]).ok();
    assert_eq!(b.list()[0]["state"], "stopped");
    b.run(&["remove", "shared", "--delete-files"]).fails_with(&["--yes"]);
    assert_eq!(b.list().len(), 1);
    b.run(&["remove", "shared", "--delete-files", "--yes"]).ok();
    let left: Vec<_> = files(&b.files).into_keys().collect();
    assert_eq!(left, [PathBuf::from("shared/mine")], "what is not the torrent's stays");
    assert!(b.list().is_empty());
    assert_eq!(fs::read_dir(b.dir.join("content")).unwrap().count(), 0);
}

#[test]
fn of_two_commands_at_the_same_moment_one_does_the_work_of_both() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
    let names = ["one", "two", "three", "four"];
    let mut at = String::new();
    let mut sharing = Vec::new();
    for name in names {
        fs::write(a.files.join(name), bytes(100_000, 9)).unwrap();
        if at.is_empty() {
            let (running, listens, _) = a.share(name, &[]);
            at = listens.to_string();
            sharing.push(running);
        } else {
            a.run(&["share", name]).ok();
        }
    }
    let start = |name: &&str| {
        let torrent = a.files.join(name).with_extension("torrent");
        let get = ["get", torrent.to_str().unwrap(), "--peer", &at, "--no-seed"];
        Running::start(b.command(&get))
    };
    let running: Vec<Running> = names.iter().map(start).collect();
    for one in running {
        one.ended().ok();
    }
    assert_eq!(b.list().len(), names.len());
}

#[test]
fn who_only_looks_makes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let nowhere = root.path().join("no/where");
    let look = |args: &[&str]| {
        let mut command = sparewire(&nowhere, ["content"]);
        command.args(args);
        run(command)
    };
    let said = look(&["list"]);
    assert!(said.stderr.contains("there is no ") && said.ok().is_empty());
    assert_eq!(look(&["list", "--json"]).json(), serde_json::json!([]));
    look(&["show", "x"]).fails_with(&["no torrent"]);
    assert!(!root.path().join("no").exists());
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let root = tempfile::tempdir().unwrap();
    let a = Party::new(root.path(), "a");
    fs::write(a.files.join("x"), "x").unwrap();
    let mut command = a.command(&["share", "x"]);
    command.env_remove("NO_COLOR").env("RUST_LOG", "trace");
    let mut sharing = Running::start(command);
    sharing.warned("TRACE");
    sharing.said(|line| line.starts_with("magnet:").then_some(()));
    let said = sharing.stopped();
    assert!(!said.stderr.contains('\u{1b}'), "{said:?}");
    said.ok();
}

#[test]
fn what_is_no_torrent_is_named_and_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
    fs::write(a.files.join("x"), bytes(100_000, 7)).unwrap();
    let (sharer, _, _) = a.share("x", &[]);
    sharer.stopped().ok();
    let good = fs::read(a.files.join("x.torrent")).unwrap();
    let before = files(root.path());
    let bad = root.path().join("bad.torrent");
    let get = |bytes: &[u8]| {
        fs::write(&bad, bytes).unwrap();
        let said = b.run(&["get", bad.to_str().unwrap(), "--no-seed"]);
        fs::remove_file(&bad).unwrap();
        said
    };
    for bytes in [&b""[..], b"<html>", b"de", &good[..good.len() - 1], &good[1..], b"d4:infode"] {
        let said = get(bytes).failed();
        assert!(said.contains("bad.torrent cannot be used"), "{said}");
        let line = said.lines().find(|line| line.contains("cannot be used")).unwrap();
        let parts: Vec<&str> = line.split(": ").collect();
        assert!(parts.iter().all(|one| line.matches(one).count() == 1), "said twice: {line}");
    }
    b.run(&["get", "https://example.org/x.torrent"]).fails_with(&["is an address", "download"]);
    // Before anything is hashed, and keys are asked for.
    a.run(&["share", "y", "--price", "5x"]).fails_with(&["--price: '5x' is not a price", "0.02"]);
    b.run(&["get", "missing.torrent"]).fails_with(&["cannot read", "missing.torrent"]);
    b.run(&["get", "magnet:?xt=urn:btih:123"]).fails_with(&["magnet link is damaged"]);
    b.run(&["get", "magnet:?dn=x"]).fails_with(&["names no torrent"]);
    let x = a.files.join("x.torrent");
    let x = x.to_str().unwrap();
    for price in ["5x", "-1", "1e3", "64KiB"] {
        let said = b.run(&["get", x, &format!("--max-price={price}")]).failed();
        assert!(said.contains("--max-price: ") && said.contains("0.02"), "{said}");
        assert!(!said.contains("keys") && !said.contains("write for example 64KiB"), "{said}");
    }
    b.run(&["get", x, "--no-allow-free"]).fails_with(&["--max-price"]);
    b.run(&["get", x, "--peer", "nowhere"]).fails_with(&["no peer \"nowhere\"", "HOST:PORT"]);
    a.run(&["share", "missing"]).fails_with(&["missing"]);
    let ours = |all: BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
        let store = |path: &PathBuf| path.to_str().unwrap().contains("/store.");
        all.into_keys().filter(|path| !store(path)).collect()
    };
    assert_eq!(ours(files(root.path())), ours(before), "nothing came of it");
}

#[test]
fn names_that_lead_elsewhere_stay_in_the_folder() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
    // Of one piece, whose hash is that of three bytes.
    let hash = b"\xa9\x99\x3e\x36\x47\x06\x81\x6a\xba\x3e\x25\x71\x78\x50\xc2\x6c\x9c\xd0\xd8\x9d";
    let mut torrent =
        b"d4:infod6:lengthi3e4:name9:../../abc12:piece lengthi16384e6:pieces20:".to_vec();
    torrent.extend_from_slice(hash);
    torrent.extend_from_slice(b"ee");
    let hostile = root.path().join("hostile.torrent");
    fs::write(&hostile, torrent).unwrap();
    let hostile = hostile.to_str().unwrap();
    // Who has it has it under a name that is safe.
    fs::write(a.files.join(".._.._abc"), "abc").unwrap();
    let mut command = a.command(&["get", hostile, "--listen"]);
    command.arg("127.0.0.1:0");
    let mut sharer = Running::start(command);
    sharer.said(|line| line.ends_with("/.._.._abc").then_some(()));
    let status = run(sparewire(&a.dir, ["status", "--json"])).json();
    let at = status["running"]["listen"].as_str().unwrap().to_owned();
    b.run(&["get", hostile, "--peer", &at, "--no-seed"]).ok();
    assert_eq!(fs::read(b.files.join(".._.._abc")).unwrap(), b"abc");
    let outside = |path: &Path| path.file_name().is_some_and(|name| name == "abc");
    assert!(!files(root.path()).keys().any(|path| outside(path)));
    assert!(!root.path().parent().unwrap().join("abc").exists());
    sharer.stopped().ok();
}

#[test]
fn it_says_what_it_waits_for_and_that_it_is_not_complete() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Party::new(root.path(), name));
    fs::write(a.files.join("x"), bytes(100_000, 8)).unwrap();
    let (sharer, _, magnet) = a.share("x", &[]);
    sharer.stopped().ok();
    let torrent = a.files.join("x.torrent");
    let mut waiting = Running::start(b.command(&["get", torrent.to_str().unwrap()]));
    waiting.warned("nobody has it so far");
    waiting.warned("the DHT is off");
    waiting.stopped().fails_with(&["not complete", "content serve"]);
    let mut looking = Running::start(b.command(&["get", &magnet]));
    // The library knows what the link names.
    looking.warned("nobody has it so far");
    looking.stopped().fails_with(&["not complete"]);
    let c = Party::new(root.path(), "c");
    let mut looking = Running::start(c.command(&["get", &magnet]));
    looking.warned("looking for the torrent of the link");
    c.run(&["list"]).ok();
    let said = looking.stopped().failed();
    assert!(said.contains("nothing is kept") && said.contains("same command again"), "{said}");
    assert!(!said.contains("content serve"), "it would do nothing: {said}");
    assert!(c.list().is_empty());
}

#[test]
fn a_process_of_another_kind_keeps_torrents_out() {
    let root = tempfile::tempdir().unwrap();
    let a = Party::new(root.path(), "a");
    fs::write(a.files.join("x"), "x").unwrap();
    // As `provide` answers.
    let listener = UnixListener::bind(a.dir.join("control.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(b"{\"ok\":null}\n").unwrap();
        }
    });
    for args in [&["share", "x"][..], &["serve"], &["stop", "x"]] {
        a.run(args).fails_with(&["another sparewire process runs on this data directory"]);
    }
    assert!(a.list().is_empty(), "looking is allowed");
}
