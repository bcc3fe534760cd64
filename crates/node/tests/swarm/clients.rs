//! Other people's clients, as programs.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Whether `program` is installed; without it a test is skipped, unless the environment says that
/// it has to be there.
pub fn is_there(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    });
    if !found {
        let required = std::env::var_os("SPAREWIRE_REQUIRE_CLIENTS").is_some();
        assert!(!required, "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Where webtorrent's modules are, from the environment: npm has it, and no system.
fn webtorrent_modules() -> Option<std::ffi::OsString> {
    std::env::var_os("SPAREWIRE_WEBTORRENT")
}

/// Whether webtorrent can be run; as [`is_there`].
pub fn is_webtorrent_there() -> bool {
    let required = std::env::var_os("SPAREWIRE_REQUIRE_CLIENTS").is_some();
    let found = webtorrent_modules().is_some();
    assert!(found || !required, "SPAREWIRE_WEBTORRENT names no folder of modules");
    if !found {
        eprintln!("skipped: SPAREWIRE_WEBTORRENT names no folder of modules");
    }
    found && is_there("node")
}

/// webtorrent: downloads what is missing in `folder`, then seeds.
pub fn webtorrent(torrent: &str, folder: &Path, _: &Path) -> Client {
    let port = free_port();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/swarm/webtorrent.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(webtorrent_modules().unwrap());
    command.arg(torrent).arg(folder).arg(port.to_string());
    run(command, port)
}

/// A port that nobody listens at, which may be taken by somebody else before it is used.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(super::anywhere()).unwrap();
    listener.local_addr().unwrap().port()
}

/// A client that runs until this is dropped.
pub struct Client {
    child: Child,
    pub address: SocketAddr,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(mut command: Command, port: u16) -> Client {
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(proxy);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    Client { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
}

/// transmission-cli: downloads what is missing in `folder`, then seeds.
pub fn transmission(torrent: &str, folder: &Path, home: &Path) -> Client {
    let port = free_port();
    let mut command = Command::new("transmission-cli");
    // Neither port mapping nor anything else that leaves the machine.
    let settings = r#"{
        "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
        "port-forwarding-enabled": false, "encryption": 1, "rename-partial-files": false,
        "bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": "::1",
        "script-torrent-done-enabled": false, "blocklist-enabled": false
    }"#;
    std::fs::create_dir_all(home).unwrap();
    std::fs::write(home.join("settings.json"), settings).unwrap();
    command.arg("-M").arg("-p").arg(port.to_string());
    command.arg("-g").arg(home).arg("-w").arg(folder).arg(torrent);
    run(command, port)
}

/// aria2: downloads what is missing in `folder`, then seeds.
pub fn aria2(torrent: &str, folder: &Path, _: &Path) -> Client {
    let port = free_port();
    let mut command = Command::new("aria2c");
    command.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false"]);
    command.args(["--bt-enable-lpd=false", "--enable-peer-exchange=false", "--seed-ratio=0.0"]);
    command.args(["--file-allocation=none", "--check-integrity=true", "--interface=127.0.0.1"]);
    command.args(["--bt-tracker-interval=1", "--no-proxy=*"]);
    command.arg(format!("--listen-port={port}"));
    command.arg("--dir").arg(folder).arg(torrent);
    run(command, port)
}
