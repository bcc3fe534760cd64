//! Drives `sparewire-content` over disk and network: the tokio shell around torrents.

mod admission;
mod deal;

pub use admission::{Admission, Free, Rate};
pub use deal::{Deal, DealError, Side};
