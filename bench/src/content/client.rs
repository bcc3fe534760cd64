//! The BitTorrent clients that are measured, and how each is started.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use sparewire_content::Format;

use super::Bench;
use crate::process::{Process, beside};

/// What is paid for a GiB, in the token, where something is.
const PRICE: &str = "0.02";

/// Clients that nobody here wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Other {
    Rqbit,
    Aria2,
    Transmission,
    Webtorrent,
}

impl Other {
    fn program(self) -> &'static str {
        match self {
            Self::Rqbit => "rqbit",
            Self::Aria2 => "aria2c",
            Self::Transmission => "transmission-cli",
            Self::Webtorrent => "node",
        }
    }

    /// Why it cannot be run here.
    pub(super) fn missing(self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|dir| dir.join(self.program()).is_file());
        match self {
            _ if !found => Some(format!("{} is not in PATH", self.program())),
            Self::Webtorrent if modules().is_none() => {
                Some("SPAREWIRE_WEBTORRENT names no folder of node modules".into())
            }
            _ => None,
        }
    }
}

/// Where webtorrent's modules are: npm has it, and no system.
fn modules() -> Option<std::ffi::OsString> {
    std::env::var_os("SPAREWIRE_WEBTORRENT").filter(|modules| !modules.is_empty())
}

/// One kind of client, with a swarm of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Ours: `sparewire content share` and `get`.
    Ours {
        format: Format,
        paid: bool,
    },
    Other(Other),
}

impl Client {
    /// What its figures are called, and its swarm.
    pub(super) fn name(self) -> String {
        match self {
            Self::Ours { format, paid } => {
                let format = match format {
                    Format::V1 => "v1",
                    Format::V2 => "v2",
                    Format::Hybrid => "hybrid",
                };
                format!("{format}-{}", if paid { "paid" } else { "unpaid" })
            }
            Self::Other(other) => format!("{other:?}").to_lowercase(),
        }
    }

    /// Whether it connects to nobody on loopback, and must be connected to. It cannot serve another
    /// like it then: we seed to it.
    pub(super) fn never_dials(self) -> bool {
        self == Self::Other(Other::Transmission)
    }

    /// Other clients read no hybrid torrent, or not all of them do.
    pub(super) fn format(self) -> Format {
        match self {
            Self::Ours { format, .. } => format,
            Self::Other(_) => Format::V1,
        }
    }

    /// Starts it on a .torrent file: it downloads what is missing in `folder`, then seeds. `home`
    /// is a folder of its own, `others` are ports of the same kind of client. Says at which port it
    /// listens.
    pub(super) async fn start(
        self,
        torrent: &Path,
        folder: &Path,
        home: &Path,
        seeds: bool,
        others: &[u16],
        bench: &Bench,
    ) -> Result<(Process, u16)> {
        std::fs::create_dir_all(folder)?;
        std::fs::create_dir_all(home)?;
        let (port, rpc) = (free_port()?, &bench.rpc);
        let command = match self {
            Self::Ours { paid, .. } => ours(torrent, folder, home, port, seeds, paid, rpc).await?,
            Self::Other(Other::Rqbit) => rqbit(torrent, folder, port, seeds, others),
            Self::Other(Other::Aria2) => aria2(torrent, folder, port),
            Self::Other(Other::Transmission) if seeds => {
                ours(torrent, folder, home, port, true, false, rpc).await?
            }
            Self::Other(Other::Transmission) => transmission(torrent, folder, home, port)?,
            Self::Other(Other::Webtorrent) => webtorrent(torrent, folder, home, port)?,
        };
        Ok((Process::spawn(command)?, port))
    }
}

async fn ours(
    torrent: &Path,
    folder: &Path,
    home: &Path,
    port: u16,
    seeds: bool,
    paid: bool,
    rpc: &str,
) -> Result<Command> {
    // The trackers and peers of this benchmark are on loopback, and nobody else is asked.
    let config = "[content]\nprivate_addresses = true\nlocal_discovery = false\n";
    std::fs::write(home.join("config.toml"), config)?;
    let program = beside("sparewire")?;
    let mut command = Command::new(&program);
    command.arg("--data-dir").arg(home).args(["--rpc", rpc, "content", "get"]);
    command.arg(torrent).arg("--to").arg(folder).arg("--listen").arg(format!("127.0.0.1:{port}"));
    if paid {
        // Whoever was here before has its wallet, and its channels.
        if !home.join("keys").exists() {
            let home = home.to_str().context("a path in UTF-8")?;
            let made = ["wallet", "new", "--json", "--data-dir", home];
            let made = Process::run(program.clone(), &made).await?;
            let made: serde_json::Value = serde_json::from_str(&made)?;
            let wallet = made["keys"]["wallet"].as_str().context("a wallet")?;
            let faucet = ["chain", "faucet", wallet, "--rpc", rpc, "--data-dir", home];
            Process::run(program, &faucet).await?;
        }
        command.args(["--price", PRICE]);
        if !seeds {
            command.args(["--max-price", PRICE, "--no-allow-free"]);
        }
    }
    Ok(command)
}

fn rqbit(torrent: &Path, folder: &Path, port: u16, seeds: bool, others: &[u16]) -> Command {
    let mut command = Command::new(Other::Rqbit.program());
    command.args(["--disable-dht", "--disable-lsd", "--disable-upnp-port-forward"]);
    command.args(["--ipv4-only", "--listen-ip", "127.0.0.1", "-v", "error"]);
    command.arg("--listen-port").arg(port.to_string());
    command.arg("download").arg("--disable-http-api");
    if seeds {
        command.arg("--overwrite");
    }
    // It does not connect to all peers that a tracker names on loopback, but to these.
    let others: Vec<_> = others.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    if !others.is_empty() {
        command.arg("--initial-peers").arg(others.join(","));
    }
    command.arg("--output-folder").arg(folder).arg(torrent);
    command
}

fn aria2(torrent: &Path, folder: &Path, port: u16) -> Command {
    let mut command = Command::new(Other::Aria2.program());
    command.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--seed-ratio=0.0"]);
    command.args(["--bt-enable-lpd=false", "--enable-peer-exchange=false", "--no-proxy=*"]);
    command.args(["--file-allocation=none", "--check-integrity=true", "--interface=127.0.0.1"]);
    command.arg(format!("--listen-port={port}"));
    command.arg("--dir").arg(folder).arg(torrent);
    command
}

fn transmission(torrent: &Path, folder: &Path, home: &Path, port: u16) -> Result<Command> {
    let settings = r#"{
        "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
        "port-forwarding-enabled": false, "encryption": 0, "rename-partial-files": false,
        "bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": "::1", "preallocation": 0,
        "script-torrent-done-enabled": false, "blocklist-enabled": false
    }"#;
    std::fs::write(home.join("settings.json"), settings)?;
    let mut command = Command::new(Other::Transmission.program());
    command.args(["-M", "-et", "-p"]).arg(port.to_string());
    command.arg("-g").arg(home).arg("-w").arg(folder).arg(torrent);
    Ok(command)
}

fn webtorrent(torrent: &Path, folder: &Path, home: &Path, port: u16) -> Result<Command> {
    let script: PathBuf = home.join("webtorrent.mjs");
    std::fs::write(&script, include_str!("webtorrent.mjs"))?;
    let mut command = Command::new(Other::Webtorrent.program());
    command.arg(script).arg(modules().context("SPAREWIRE_WEBTORRENT")?);
    command.arg(torrent).arg(folder).arg(port.to_string());
    Ok(command)
}

/// A port that nobody listens at, which may be taken by somebody else before it is used.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
