//! Drives `sparewire-content` over disk and network: the tokio shell around torrents.
//!
//! ```text
//! discovery -> candidates -> engine (dials, accepts) -> torrent -> connection
//!   connection: download (socket -> intake -> disk) and upload (disk -> socket), through an outbox
//!   swarm: the machine that says whom to ask for which block
//! ```

mod admission;
mod bans;
mod candidates;
mod choker;
mod connection;
mod copies;
mod deal;
mod discovery;
mod disk;
mod download;
mod engine;
mod exchange;
mod fetch;
mod files;
mod have;
mod http_tracker;
mod intake;
mod leaf_file;
mod leaves;
mod money;
mod outbox;
mod parts;
mod status;
mod swarm;
mod torrent;
mod upload;

pub use admission::{Admission, Free, Rate};
pub use deal::{Deal, DealError, Figures, Side};
pub use discovery::{DhtConfig, Discovery, DiscoveryConfig, Finding, Progress, Source, Wanted};
pub use disk::{Standing, Storage};
pub use engine::{AddTorrent, Engine, EngineConfig, EngineError, FREE_BESIDE_SALE};
pub use files::{DiskError, FileSpec, Files, Handles, Stamp};
pub use money::{Buying, Money, Sale};
pub use status::{TorrentState, TorrentStatus};
pub use torrent::Torrent;
