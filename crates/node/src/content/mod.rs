//! Drives `sparewire-content` over disk and network: the tokio shell around torrents.
//!
//! ```text
//! discovery -> candidates -> engine (dials, accepts) -> torrent -> connection
//!   connection: download (socket -> intake -> disk) and upload (disk -> socket), through an outbox
//!   swarm: the machine that says whom to ask for which block
//! ```

mod admission;
mod candidates;
mod connection;
mod deal;
mod discovery;
mod disk;
mod download;
mod engine;
mod fetch;
mod files;
mod have;
mod intake;
mod leaf_file;
mod leaves;
mod money;
mod outbox;
mod swarm;
mod torrent;
mod upload;

pub use admission::{Admission, Free, Rate};
pub use deal::{Deal, DealError, Figures, Side};
pub use discovery::{DhtConfig, Discovery, DiscoveryConfig, Finding, Progress, Source, Wanted};
pub use disk::{Standing, Storage};
pub use engine::{AddTorrent, Engine, EngineConfig, EngineError};
pub use files::{DiskError, FileSpec, Files, Handles, Stamp};
pub use money::{Buying, Money, Sale};
pub use torrent::{Torrent, TorrentState, TorrentStatus};
