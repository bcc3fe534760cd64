//! Where a torrent stands, for those who look at it.

use std::sync::Weak;

use sparewire_core::Amount;

use super::{discovery::Progress, files::DiskError, torrent::Torrent};

/// Where a torrent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TorrentState {
    /// What is on disk is looked at.
    Checking,
    /// Pieces are missing.
    Downloading,
    /// All is there.
    Seeding,
    /// Not all is there, and nothing is written: it was not to be downloaded, or files were changed
    /// after they had been complete. What is there is served.
    Partial,
    /// Something is wrong with its files: it stands still until it is started again.
    Failed(DiskError),
    /// It was ended.
    Stopped,
}

/// A torrent's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorrentStatus {
    /// Where it stands.
    pub state: TorrentState,
    /// Bytes of data in pieces that are there.
    pub have: u64,
    /// Bytes of data in all.
    pub total: u64,
    /// Bytes of blocks sent since the start.
    pub sent: u64,
    /// Bytes of blocks that came since the start.
    pub got: u64,
    /// Connections.
    pub peers: usize,
    /// How often a piece was found changed on disk when somebody asked for it.
    pub spoilt: u64,
    /// What was paid for it since the start, in the token's smallest units.
    pub paid: Amount,
    /// What it earned since the start, in the same.
    pub earned: Amount,
    /// Why nothing was bought of somebody, last.
    pub refusal: Option<String>,
}

/// What trackers are told.
pub(super) struct Told(pub(super) Weak<Torrent>);

impl Progress for Told {
    fn bytes(&self) -> (u64, u64, u64) {
        self.0.upgrade().map_or((0, 0, 0), |torrent| {
            let status = torrent.status();
            (status.sent, status.have, status.total)
        })
    }
}
