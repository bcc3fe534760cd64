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
mod bitfield;
mod create;
mod extended;
mod extension;
mod geometry;
mod hash_exchange;
mod info_hash;
mod layout;
mod magnet;
pub mod merkle;
mod metainfo;
mod names;
mod swarm;
mod tracker;
mod verify;
mod wire;

pub use bitfield::Bitfield;
pub use create::{Builder, CreateError, Format, piece_len_for};
pub use extended::{
    CLIENT_LEN_MAX, EXTENDED_LEN_MAX, Extended, ExtensionHandshake, ExtensionIds, METADATA_LEN_MAX,
    Metadata, PEX_PEERS_MAX, Pex,
};
pub use extension::{
    BindError, Binder, Binding, End, Greet, PAY_FRAME_LEN_MAX, PAY_VERSION, PayMessage,
};
pub use geometry::{BLOCK_LEN, Block, Geometry, GeometryError, PIECE_LEN_MAX, PIECES_MAX};
pub use info_hash::InfoHashes;
pub use layout::{Extent, Extents, File, Layout};
pub use magnet::{Magnet, MagnetError};
pub use merkle::Hash;
pub use metainfo::{FILES_MAX, Metainfo, MetainfoError, TORRENT_LEN_MAX};
pub use names::{NAME_LEN_MAX, PATH_LEN_MAX, PATH_NAMES_MAX, safe_name};
pub use swarm::{
    CHOKED_MS, CHOKING_MS, DOUBLE_MS_MIN, DOUBLED_MAX, Download, DownloadSetup, DropReason,
    LATE_MAX, LATE_MS, LEAVES_MS, OPEN_BLOCKS_MAX, Order, PAID_TWICE_MAX, PATIENCE_MS, PEERS_MAX,
    PeerId, QUEUE_MAX, QUEUE_MIN, QUEUE_MS, SPENT_MS, STALL_MS, STALLS_MAX, Supply, TICK_MS,
    UNASKED_MAX, VOID_MS, Verdict,
};
pub use tracker::{Announce, TRACKER_ANSWER_LEN_MAX, TrackerError, tracked_peers};
pub use verify::{PieceCheck, PieceHasher};
pub use wire::{
    Decoded, HANDSHAKE_LEN, HASHES_MAX, Handshake, HashRequest, Inbox, PIECE_HEADER_LEN,
    PeerMessage, WireError, decode, piece_header,
};
