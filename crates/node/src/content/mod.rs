//! Drives `sparewire-content` over disk and network: the tokio shell around torrents.

mod admission;
mod discovery;
mod disk;
mod files;
mod have;
mod intake;
mod outbox;

pub use admission::{Admission, Free, Rate};
pub use discovery::{DhtConfig, Discovery, DiscoveryConfig, Finding, Progress, Source, Wanted};
pub use disk::{Standing, Storage};
pub use files::{DiskError, FileSpec, Files, Handles, Stamp};
pub use have::Pieces;
