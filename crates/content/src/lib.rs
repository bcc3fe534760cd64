//! Torrents whose blocks are paid for as they arrive.
//!
//! ```text
//! metainfo -> geometry -> swarm (whom to ask for which block) -> blocks -> hashes -> meter -> ...
//! ```
//!
//! Only the wire is BitTorrent's: what a block costs, who owes it and how it is paid is the river of
//! `sparewire-protocol`, over the same meter, receipts, vouchers and channels as a tunnel's bytes.
//!
//! Like `protocol` this crate is not a network program. It opens no socket, reads no clock and
//! touches no disk; `node::content` drives it. `docs/content.md` describes what is on the wire.

mod geometry;

pub use geometry::{BLOCK_LEN, Block, Geometry, GeometryError, PIECE_LEN_MAX, PIECES_MAX};
