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

pub mod bencode;
mod geometry;
mod info_hash;
mod layout;
pub mod merkle;
mod metainfo;
mod names;
mod verify;

pub use geometry::{BLOCK_LEN, Block, Geometry, GeometryError, PIECE_LEN_MAX, PIECES_MAX};
pub use info_hash::InfoHashes;
pub use layout::{Extent, Extents, File, Layout};
pub use merkle::Hash;
pub use metainfo::{FILES_MAX, Metainfo, MetainfoError, TORRENT_LEN_MAX};
pub use names::{NAME_LEN_MAX, PATH_LEN_MAX, PATH_NAMES_MAX, safe_name};
pub use verify::{PieceCheck, PieceHasher};
