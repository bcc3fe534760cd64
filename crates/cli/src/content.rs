//! Torrents that a data directory shares and fetches: the library on disk, the process that runs
//! what is in it, and what people see of that.

mod create;
mod display;
mod erase;
mod finding;
mod host;
mod library;
mod purse;

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sparewire_core::{Amount, Price, UnitError};
use sparewire_node::content::TorrentStatus;
use sparewire_protocol::settlement::TokenInfo;

use crate::hint::Hint;

pub(crate) use create::{Recipe, make};
pub(crate) use display::{Display, account, cost};
pub(crate) use erase::erase;
pub(crate) use host::{Host, read_torrent};
pub(crate) use library::{Entry, Library, meant};
pub(crate) use purse::Purse;

/// What is asked of the process that runs a data directory's torrents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContentRequest {
    /// Run this; answers with its info-hash.
    Run(Box<Order>),
    /// Figures of all.
    List,
    /// Figures of the one that has this name, or an info-hash that begins so.
    Show(String),
    /// Keep it, and run it no more.
    Stop(String),
    /// Forget it; its files stay.
    Remove(String),
}

/// A torrent to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) source: Source,
    /// The folder that its files are in, or are to be in. `None` where it does not matter: where
    /// they are already, else `otherwise`.
    pub(crate) root: Option<PathBuf>,
    pub(crate) otherwise: PathBuf,
    pub(crate) settings: Settings,
}

/// By what a torrent is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A .torrent file; an absolute path.
    File(PathBuf),
    /// A magnet link.
    Magnet(String),
}

/// What the user wants of a torrent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Price per GiB at which it is sold, in the token; `None` where it is not.
    pub(crate) price: Option<String>,
    /// Serve those who do not pay.
    pub(crate) free: bool,
    /// Take it from those who give it for nothing.
    pub(crate) take_free: bool,
    /// The dearest price per GiB that is paid for it, in the token; `None` pays nothing.
    pub(crate) price_max: Option<String>,
    /// Go on sharing it once it is there.
    pub(crate) seed: bool,
    /// Peers that were named, as `host:port`.
    pub(crate) peers: Vec<String>,
    /// Trackers that were named, beside the torrent's own.
    pub(crate) trackers: Vec<String>,
}

impl Settings {
    /// Whether keys and a chain are needed.
    pub(crate) fn needs_money(&self) -> bool {
        self.price.is_some() || self.price_max.is_some()
    }

    /// Sells what is bought, for what was ready to be paid for it, so that the money can come back;
    /// not where it is `said` for what it is given. Whoever does not pay gets it too where it is `to_all`. Says the price, where it is set here: then something is paid
    /// for, so that there are keys.
    pub(crate) fn sell_on(&mut self, said: bool, to_all: bool) -> Option<String> {
        if said || self.price.is_some() {
            return None;
        }
        self.price = self.price_max.clone();
        self.free = self.price.is_none() || to_all;
        self.price.clone()
    }
}

/// How a torrent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Of a magnet link it is not known yet what it names.
    Looking,
    /// What is on disk is looked at.
    Checking,
    Downloading,
    Seeding,
    /// Something is wrong with its files.
    Failed,
    /// It is not run until somebody asks for it.
    Stopped,
    /// No process runs it now; `content serve` will.
    Resting,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Checking => "checking",
            Self::Downloading => "downloading",
            Self::Seeding => "seeding",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Resting => "resting",
        }
    }

    /// Whether nothing more happens by itself.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Stopped | Self::Resting)
    }
}

/// What there is to say of a torrent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// As peers know it: 40 hexadecimal digits.
    pub(crate) info_hash: String,
    pub(crate) name: String,
    pub(crate) state: State,
    /// What is in the way.
    pub(crate) trouble: Option<String>,
    /// The folder that its files are in.
    pub(crate) root: PathBuf,
    pub(crate) files: usize,
    /// Bytes of data in pieces that are there, and in all.
    pub(crate) have: u64,
    pub(crate) total: u64,
    /// Bytes of data in pieces that were there before anything was fetched since the process began
    /// to run it.
    #[serde(default)]
    pub(crate) had: u64,
    /// Bytes of blocks sent and received since the process began to run it.
    pub(crate) sent: u64,
    pub(crate) got: u64,
    /// Connections.
    pub(crate) peers: usize,
    /// How often its files were found changed.
    pub(crate) spoilt: u64,
    /// Since the process began to run it, in the token's smallest units.
    pub(crate) paid: Amount,
    pub(crate) earned: Amount,
    /// `None` where the process runs without money.
    pub(crate) token: Option<TokenInfo>,
    pub(crate) magnet: String,
    /// Where peers are looked for, for people.
    pub(crate) searching: String,
    pub(crate) settings: Settings,
}

impl Figures {
    /// Takes bytes and money from a later look at the same torrent.
    pub(crate) fn count(&mut self, status: &TorrentStatus) {
        (self.sent, self.got) = (status.sent, status.got);
        (self.paid, self.earned) = (status.paid, status.earned);
    }
}

/// The number of a price, unless it stands for nothing.
pub(crate) fn priced(text: &str) -> Option<&str> {
    let number = text.trim().trim_end_matches("/GiB").trim();
    let is_nothing = number.chars().all(|c| matches!(c, '0' | '.'));
    (!is_nothing).then_some(number)
}

/// The same of a text that `what` names. Whether the token has as many decimals is known only
/// where there is a chain to ask.
///
/// # Errors
/// Where it is no price.
pub(crate) fn read_price(what: &str, text: &str) -> Result<Option<String>> {
    let Some(number) = priced(text) else { return Ok(None) };
    let decimals = number.split_once('.').map_or(0, |(_, part)| part.len());
    match Price::parse(number, u8::try_from(decimals).unwrap_or(u8::MAX)) {
        Ok(_) => Ok(Some(number.to_owned())),
        Err(UnitError::Malformed { .. }) => bail!(
            Hint::new(format!("{what}: '{text}' is not a price"))
                .hint("write what a GiB costs in the token, for example 0.02")
        ),
        Err(error) => bail!("{what}: {error}"),
    }
}

/// What a process answers that has nothing to do with torrents.
pub(crate) fn not_here() -> Value {
    Value::Null
}
