//! BitTorrent's peer messages (BEP 3, 5, 6, 10, 52), read from and written to plain bytes.
//!
//! ```
//! use sparewire_content::{Inbox, PeerMessage, WireError};
//!
//! fn received(inbox: &mut Inbox, bytes: &[u8]) -> Result<(), WireError> {
//!     // A program reads from its socket straight into `space`.
//!     inbox.space()[..bytes.len()].copy_from_slice(bytes);
//!     inbox.filled(bytes.len());
//!     while let Some(message) = inbox.poll()? {
//!         if let PeerMessage::Piece { block, data } = message {
//!             assert_eq!(block.len as usize, data.len()); // copied for the first time by whom we tell
//!         }
//!     }
//!     Ok(())
//! }
//! # let mut inbox = Inbox::default();
//! # received(&mut inbox, &[0, 0, 0, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap_err();
//! ```

use librqbit_core::hash_id::Id20;
use librqbit_peer_protocol::{self as rqbit, Message, Request};

use crate::{
    BLOCK_LEN, Block, PIECES_MAX,
    extended::{EXTENDED_LEN_MAX, Extended},
};

/// Length of the handshake in bytes.
pub const HANDSHAKE_LEN: usize = 68;
/// Most hashes of one [`PeerMessage::Hashes`]: the 512 of the base layer that BEP 52 allows, and
/// the uncle hashes of a tree of at most 2^32 leaves.
pub const HASHES_MAX: usize = 512 + 32;
/// What goes before a block's bytes, in bytes: length, kind, piece, begin.
pub const PIECE_HEADER_LEN: usize = 13;

/// The longest payload, in bytes, of a message of a kind that we do not know. It is skipped.
const UNKNOWN_LEN_MAX: usize = EXTENDED_LEN_MAX;
/// Where a new inbox begins: some blocks, so that one read takes in several.
const INBOX_LEN: usize = 256 << 10;
/// The least that a read can take.
const READ_LEN_MIN: usize = 16 << 10;

/// What both ends say first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The torrent: v1's hash, or v2's cut to 20 bytes.
    pub info_hash: [u8; 20],
    /// How the peer calls itself on this connection; drawn anew by whoever likes.
    pub peer_id: [u8; 20],
    /// Speaks BEP 10.
    pub extended: bool,
    /// Has a DHT node (BEP 5).
    pub dht: bool,
    /// Speaks BEP 6. We do not: what it would tell us (which requests are void) a choke tells too.
    pub fast: bool,
    /// Would upgrade to v2 of a hybrid torrent (BEP 52).
    pub v2: bool,
}

const EXTENDED_BIT: u64 = 0x10_0000;
const DHT_BIT: u64 = 1;
const FAST_BIT: u64 = 4;
const V2_BIT: u64 = 0x10;

impl Handshake {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; HANDSHAKE_LEN] {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let reserved = bit(self.extended, EXTENDED_BIT)
            | bit(self.dht, DHT_BIT)
            | bit(self.fast, FAST_BIT)
            | bit(self.v2, V2_BIT);
        let handshake = rqbit::Handshake {
            reserved,
            info_hash: Id20::new(self.info_hash),
            peer_id: Id20::new(self.peer_id),
        };
        let mut bytes = [0; HANDSHAKE_LEN];
        let _ = handshake.serialize_unchecked_len(&mut bytes);
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`WireError::NotBitTorrent`].
    pub fn from_bytes(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, WireError> {
        let (read, _) =
            rqbit::Handshake::deserialize(bytes).map_err(|_| WireError::NotBitTorrent)?;
        let has = |bit: u64| read.reserved & bit != 0;
        Ok(Self {
            info_hash: read.info_hash.0,
            peer_id: read.peer_id.0,
            extended: has(EXTENDED_BIT),
            dht: has(DHT_BIT),
            fast: has(FAST_BIT),
            v2: has(V2_BIT),
        })
    }
}

/// Which hashes of a file's tree are meant (BEP 52).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashRequest {
    /// The root of the file's tree.
    pub pieces_root: [u8; 32],
    /// The lowest layer that is asked for; 0 is that of the leaves.
    pub base_layer: u32,
    /// The first hash within that layer.
    pub index: u32,
    /// How many.
    pub length: u32,
    /// How many layers above the base to prove.
    pub proof_layers: u32,
}

/// One message. What it borrows lies in the buffer that it was read from.
///
/// Blocks and pieces are as the peer wrote them: `Geometry` says whether there are such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// Nothing, so that the connection is seen to live.
    KeepAlive,
    /// Will not answer requests, and has forgotten those that it has.
    Choke,
    /// Answers requests.
    Unchoke,
    /// Would request.
    Interested,
    /// Would not.
    NotInterested,
    /// Has one more piece.
    Have(u32),
    /// Has those pieces, highest bit first.
    Bitfield(&'a [u8]),
    /// Wants a block.
    Request(Block),
    /// A block.
    Piece {
        /// Which; its length is that of `data`.
        block: Block,
        /// Its bytes.
        data: &'a [u8],
    },
    /// Does not want a block any more.
    Cancel(Block),
    /// Has a DHT node at this UDP port (BEP 5).
    Port(u16),
    /// Suggests a piece (BEP 6); read and left alone.
    Suggest(u32),
    /// Has all pieces (BEP 6).
    HaveAll,
    /// Has none (BEP 6).
    HaveNone,
    /// Will not answer this request (BEP 6).
    Reject(Block),
    /// Would serve this piece while choking (BEP 6); read and left alone.
    AllowedFast(u32),
    /// Wants hashes (BEP 52).
    HashRequest(HashRequest),
    /// Hashes: of the base layer, then the uncles upwards.
    Hashes {
        /// What was asked.
        request: HashRequest,
        /// 32 bytes each.
        hashes: &'a [u8],
    },
    /// Does not give these hashes.
    HashReject(HashRequest),
    /// A message of an extension (BEP 10).
    Extended(Extended<'a>),
    /// A kind that we do not know; to be skipped.
    Unknown(u8),
}

/// Why bytes are no message. Whoever sent them is to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The handshake begins with something else.
    #[error("not a BitTorrent handshake: leave this peer")]
    NotBitTorrent,
    /// A length that this kind cannot have.
    #[error("message {kind} of {length} bytes: leave this peer")]
    Length {
        /// The kind.
        kind: u8,
        /// Its length in bytes, kind included.
        length: u32,
    },
    /// A payload that cannot be read.
    #[error("malformed message {kind}: leave this peer")]
    Malformed {
        /// The kind.
        kind: u8,
    },
}

/// What the front of a buffer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A message.
    Message {
        /// It.
        message: PeerMessage<'a>,
        /// How many bytes of the buffer it took.
        length: usize,
    },
    /// Not yet: so many bytes in all are needed before anything else can be said.
    Needs(usize),
}

/// Reads the message that `bytes` begins with, without copying. `pieces` is how many the torrent
/// has, where that is known already: it bounds a bitfield. A length that cannot be is refused as
/// soon as it is seen.
///
/// # Errors
/// [`WireError`].
pub fn decode(bytes: &[u8], pieces: Option<u32>) -> Result<Decoded<'_>, WireError> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(Decoded::Needs(4)) };
    let length = u32::from_be_bytes(*head);
    if length == 0 {
        return Ok(Decoded::Message { message: PeerMessage::KeepAlive, length: 4 });
    }
    let Some((kind, _)) = rest.split_first() else { return Ok(Decoded::Needs(5)) };
    check_length(*kind, length, pieces)?;
    let whole = 4 + length as usize;
    let Some(whole_bytes) = bytes.get(..whole) else { return Ok(Decoded::Needs(whole)) };
    let message = read(*kind, whole_bytes)?;
    Ok(Decoded::Message { message, length: whole })
}

fn check_length(kind: u8, length: u32, pieces: Option<u32>) -> Result<(), WireError> {
    let payload = (length - 1) as usize;
    let sound = match kind {
        0..=3 | 14 | 15 => payload == 0,
        4 | 13 | 17 => payload == 4,
        5 => match pieces {
            Some(pieces) => payload == pieces.div_ceil(8) as usize,
            None => payload <= PIECES_MAX.div_ceil(8) as usize,
        },
        6 | 8 | 16 => payload == 12,
        7 => (9..=8 + BLOCK_LEN as usize).contains(&payload),
        9 => payload == 2,
        20 => (1..=1 + EXTENDED_LEN_MAX).contains(&payload),
        21 | 23 => payload == HASH_REQUEST_LEN,
        22 => {
            (HASH_REQUEST_LEN..=HASH_REQUEST_LEN + 32 * HASHES_MAX).contains(&payload)
                && payload.is_multiple_of(16)
                && (payload - HASH_REQUEST_LEN).is_multiple_of(32)
        }
        _ => payload <= UNKNOWN_LEN_MAX,
    };
    if sound { Ok(()) } else { Err(WireError::Length { kind, length }) }
}

const HASH_REQUEST_LEN: usize = 48;

/// Reads a whole message whose length is sound.
fn read(kind: u8, bytes: &[u8]) -> Result<PeerMessage<'_>, WireError> {
    let malformed = WireError::Malformed { kind };
    let payload = &bytes[5..];
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(*payload.get(at..)?.first_chunk::<4>()?))
    };
    let block = || {
        let (piece, begin, len) = (number(0)?, number(4)?, number(8)?);
        Some(Block { piece, begin, len })
    };
    let hashes = || {
        Some(HashRequest {
            pieces_root: *payload.first_chunk::<32>()?,
            base_layer: number(32)?,
            index: number(36)?,
            length: number(40)?,
            proof_layers: number(44)?,
        })
    };
    let message = match kind {
        // No bits at all are what a torrent of no piece has; rqbit's reader would not have it.
        5 if payload.is_empty() => Some(PeerMessage::Bitfield(payload)),
        0..=8 => return read_base(bytes).ok_or(malformed),
        9 => payload.first_chunk().map(|port| PeerMessage::Port(u16::from_be_bytes(*port))),
        13 => number(0).map(PeerMessage::Suggest),
        14 => Some(PeerMessage::HaveAll),
        15 => Some(PeerMessage::HaveNone),
        16 => block().map(PeerMessage::Reject),
        17 => number(0).map(PeerMessage::AllowedFast),
        20 => {
            let extended = payload.split_first().and_then(|(id, rest)| Extended::read(*id, rest));
            extended.map(PeerMessage::Extended)
        }
        21 => hashes().map(PeerMessage::HashRequest),
        22 => hashes()
            .map(|request| PeerMessage::Hashes { request, hashes: &payload[HASH_REQUEST_LEN..] }),
        23 => hashes().map(PeerMessage::HashReject),
        _ => Some(PeerMessage::Unknown(kind)),
    };
    message.ok_or(malformed)
}

/// The messages of BEP 3, by rqbit's reader.
fn read_base(bytes: &[u8]) -> Option<PeerMessage<'_>> {
    let block = |r: Request| Block { piece: r.index, begin: r.begin, len: r.length };
    let (message, _) = Message::deserialize(bytes, &[]).ok()?;
    Some(match message {
        Message::Choke => PeerMessage::Choke,
        Message::Unchoke => PeerMessage::Unchoke,
        Message::Interested => PeerMessage::Interested,
        Message::NotInterested => PeerMessage::NotInterested,
        Message::Have(piece) => PeerMessage::Have(piece),
        Message::Bitfield(bits) => PeerMessage::Bitfield(bits.0),
        Message::Request(request) => PeerMessage::Request(block(request)),
        Message::Cancel(request) => PeerMessage::Cancel(block(request)),
        Message::Piece(piece) => {
            let data = piece.data().0; // all of it: the bytes lie in one slice
            let len = u32::try_from(data.len()).ok()?;
            let block = Block { piece: piece.index, begin: piece.begin, len };
            PeerMessage::Piece { block, data }
        }
        Message::KeepAlive | Message::Extended(_) => return None,
    })
}

impl PeerMessage<'_> {
    /// Appends the message to `out`. A block's bytes are better sent as they lie, after
    /// [`piece_header`].
    pub fn write(&self, out: &mut Vec<u8>) {
        let request = |block: &Block| Request::new(block.piece, block.begin, block.len);
        let base = match self {
            Self::KeepAlive => Message::KeepAlive,
            Self::Choke => Message::Choke,
            Self::Unchoke => Message::Unchoke,
            Self::Interested => Message::Interested,
            Self::NotInterested => Message::NotInterested,
            Self::Have(piece) => Message::Have(*piece),
            Self::Request(block) => Message::Request(request(block)),
            Self::Cancel(block) => Message::Cancel(request(block)),
            _ => return self.write_further(out),
        };
        let begin = out.len();
        out.resize(begin + 17, 0); // the longest of them
        let length = base
            .serialize(&mut out[begin..], &Default::default)
            .unwrap_or_else(|error| unreachable!("17 bytes are enough: {error}"));
        out.truncate(begin + length);
    }

    /// Those that rqbit's writer does not know, or whose payload is long.
    fn write_further(&self, out: &mut Vec<u8>) {
        let block =
            |block: &Block| [block.piece, block.begin, block.len].map(u32::to_be_bytes).concat();
        match self {
            Self::Bitfield(bits) => put(out, 5, &[bits]),
            Self::Piece { block, data } => {
                debug_assert_eq!(block.len as usize, data.len());
                out.extend_from_slice(&piece_header(*block));
                out.extend_from_slice(data);
            }
            Self::Port(port) => put(out, 9, &[&port.to_be_bytes()]),
            Self::Suggest(piece) => put(out, 13, &[&piece.to_be_bytes()]),
            Self::HaveAll => put(out, 14, &[]),
            Self::HaveNone => put(out, 15, &[]),
            Self::Reject(rejected) => put(out, 16, &[&block(rejected)]),
            Self::AllowedFast(piece) => put(out, 17, &[&piece.to_be_bytes()]),
            Self::HashRequest(request) => put(out, 21, &[&request.to_bytes()]),
            Self::Hashes { request, hashes } => put(out, 22, &[&request.to_bytes(), hashes]),
            Self::HashReject(request) => put(out, 23, &[&request.to_bytes()]),
            Self::Extended(extended) => put(out, 20, &[&extended.to_bytes()]),
            Self::Unknown(kind) => put(out, *kind, &[]),
            // The others are short ones of BEP 3.
            _ => unreachable!("written before"),
        }
    }
}

impl HashRequest {
    fn to_bytes(self) -> [u8; HASH_REQUEST_LEN] {
        let mut bytes = [0; HASH_REQUEST_LEN];
        bytes[..32].copy_from_slice(&self.pieces_root);
        let numbers = [self.base_layer, self.index, self.length, self.proof_layers];
        for (place, number) in bytes[32..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }
}

fn put(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    // Our own messages are far below 4 GiB.
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.push(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// What goes before a block's bytes.
pub fn piece_header(block: Block) -> [u8; PIECE_HEADER_LEN] {
    let mut header = [0; PIECE_HEADER_LEN];
    header[..4].copy_from_slice(&(9 + block.len).to_be_bytes());
    header[4] = 7;
    header[5..9].copy_from_slice(&block.piece.to_be_bytes());
    header[9..].copy_from_slice(&block.begin.to_be_bytes());
    header
}

/// Bytes that came in and have not been read as messages yet.
///
/// It grows beyond 256 KiB only for a bitfield, to little more than [`PIECES_MAX`] bits, and moves only the
/// part of a message that a read has left over.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    /// How much must be here before the next message can be said.
    needs: usize,
    pieces: Option<u32>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: vec![0; INBOX_LEN], begin: 0, end: 0, needs: 4, pieces: None }
    }
}

impl Inbox {
    /// From now on a bitfield must be one of so many pieces.
    pub fn set_pieces(&mut self, pieces: u32) {
        self.pieces = Some(pieces);
    }

    /// Where to read into, at least 16 KiB once [`Inbox::poll`] has said `None`.
    pub fn space(&mut self) -> &mut [u8] {
        let held = self.end - self.begin;
        let short = self.bytes.len() - self.end < INBOX_LEN / 2;
        if self.begin > 0 && (held == 0 || short || self.begin + self.needs > self.bytes.len()) {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, held);
        }
        // Never a read of a few bytes, even where all but those of a long message is here.
        if self.needs > self.bytes.len() || self.bytes.len() - self.end < READ_LEN_MIN {
            self.bytes.resize(self.needs.max(self.end) + READ_LEN_MIN, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes of [`Inbox::space`] have been filled.
    ///
    /// # Panics
    /// Where there was less space.
    pub fn filled(&mut self, length: usize) {
        self.end += length;
        assert!(self.end <= self.bytes.len(), "more was filled than there is");
    }

    /// The next whole message.
    ///
    /// # Errors
    /// [`WireError`]; the connection is of no use any more.
    pub fn poll(&mut self) -> Result<Option<PeerMessage<'_>>, WireError> {
        match decode(&self.bytes[self.begin..self.end], self.pieces)? {
            Decoded::Message { message, length } => {
                self.begin += length;
                self.needs = 4;
                Ok(Some(message))
            }
            Decoded::Needs(needs) => {
                self.needs = needs;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{ExtensionHandshake, ExtensionIds, Metadata, PayMessage, Pex};

    const BLOCK: Block = Block { piece: 1, begin: 2, len: 3 };

    fn written(message: &PeerMessage<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        bytes
    }

    fn request(root: u8) -> HashRequest {
        let pieces_root = [root; 32];
        HashRequest { pieces_root, base_layer: 1, index: 2, length: 4, proof_layers: 3 }
    }

    #[test]
    fn messages_are_as_the_beps_say() {
        for (message, hex) in [
            (PeerMessage::KeepAlive, "00000000"),
            (PeerMessage::Choke, "0000000100"),
            (PeerMessage::Unchoke, "0000000101"),
            (PeerMessage::Interested, "0000000102"),
            (PeerMessage::NotInterested, "0000000103"),
            (PeerMessage::Have(258), "000000050400000102"),
            (PeerMessage::Bitfield(&[0xa0]), "0000000205a0"),
            (PeerMessage::Request(BLOCK), "0000000d06000000010000000200000003"),
            (PeerMessage::Piece { block: BLOCK, data: b"abc" }, "0000000c070000000100000002616263"),
            (PeerMessage::Cancel(BLOCK), "0000000d08000000010000000200000003"),
            (PeerMessage::Port(6881), "00000003091ae1"),
            (PeerMessage::Suggest(1), "000000050d00000001"),
            (PeerMessage::HaveAll, "000000010e"),
            (PeerMessage::HaveNone, "000000010f"),
            (PeerMessage::Reject(BLOCK), "0000000d10000000010000000200000003"),
            (PeerMessage::AllowedFast(1), "000000051100000001"),
        ] {
            assert_eq!(hex::encode(written(&message)), hex);
            let bytes = hex::decode(hex).unwrap();
            let length = bytes.len();
            assert_eq!(decode(&bytes, Some(3)), Ok(Decoded::Message { message, length }));
        }
        let hashes = PeerMessage::Hashes { request: request(7), hashes: &[9; 64] };
        let root = "07".repeat(32);
        let numbers = "00000001000000020000000400000003";
        let expected = format!("0000007116{root}{numbers}{}", "09".repeat(64));
        assert_eq!(hex::encode(written(&hashes)), expected);
        let asked = hex::encode(written(&PeerMessage::HashRequest(request(7))));
        assert_eq!(asked, format!("0000003115{root}{numbers}"));
        let refused = hex::encode(written(&PeerMessage::HashReject(request(7))));
        assert_eq!(refused, format!("0000003117{root}{numbers}"));
    }

    #[test]
    fn the_handshake_is_as_bep_3_says_and_its_bits_as_5_6_10_and_52_say() {
        let all = Handshake {
            info_hash: [1; 20],
            peer_id: [2; 20],
            extended: true,
            dht: true,
            fast: true,
            v2: true,
        };
        let bytes = all.to_bytes();
        assert_eq!(bytes[..20], *b"\x13BitTorrent protocol");
        assert_eq!(bytes[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x15]);
        assert_eq!(Handshake::from_bytes(&bytes), Ok(all));
        let none = Handshake { extended: false, dht: false, fast: false, v2: false, ..all };
        assert_eq!(none.to_bytes()[20..28], [0; 8]);
        assert_eq!(Handshake::from_bytes(&none.to_bytes()), Ok(none));
        let mut other = bytes;
        other[3] = b'x';
        assert_eq!(Handshake::from_bytes(&other), Err(WireError::NotBitTorrent));
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_anything_is_read() {
        for (kind, length, pieces) in [
            (0, 2, None),
            (4, 4, None),
            (5, 3, Some(8)),
            (5, 3, Some(17)),
            (5, (2 << 20) + 2, None),
            (6, 12, None),
            (7, 9, None),
            (7, 16_384 + 10, None),
            (9, 4, None),
            (14, 2, None),
            (20, 1, None),
            (20, 20_000, None),
            (21, 48, None),
            (22, 1 + 48 + 33, None),
            (22, 1 + 48 + 32 * 545, None),
            (23, 50, None),
            (99, 20_000, None),
            (7, u32::MAX, None),
        ] {
            let head = [&u32::to_be_bytes(length)[..], &[kind]].concat();
            assert_eq!(decode(&head, pieces), Err(WireError::Length { kind, length }), "{kind}");
        }
        let head = [0, 0, 0x40, 9, 7];
        assert_eq!(decode(&head, None), Ok(Decoded::Needs(4 + 16_384 + 9)));
        assert_eq!(decode(&head[..4], None), Ok(Decoded::Needs(5)));
        assert_eq!(decode(&head[..3], None), Ok(Decoded::Needs(4)));
    }

    #[test]
    fn what_is_no_bencode_or_no_message_of_ours_is_malformed() {
        for payload in [
            &b"\x00i99999999999999999999e"[..],
            b"\x00d1:pi99999999999999999999ee",
            b"\x00d1:md6:ut_pexi300eeex",
            b"\x00d1:m",
            b"\x03d8:msg_typei0e5:piecei4294967296ee",
            b"\x03d8:msg_typei7e5:piecei0ee",
            b"\x01d5:addedi1ee",
            b"\x02",
            b"\x02\x00\x01\x00",
            b"\x02\x01\x01",
        ] {
            let mut bytes = Vec::new();
            put(&mut bytes, 20, &[payload]);
            assert_eq!(decode(&bytes, None), Err(WireError::Malformed { kind: 20 }), "{payload:?}");
        }
        // A number out of range is one that was not sent.
        let mut bytes = Vec::new();
        put(&mut bytes, 20, &[b"\x00d1:md6:ut_pexi300e6:sw_payi5ee1:pi-1ee"]);
        let Ok(Decoded::Message {
            message: PeerMessage::Extended(Extended::Handshake(read)), ..
        }) = decode(&bytes, None)
        else {
            panic!("not a handshake")
        };
        let ids = ExtensionIds { pay: Some(5), ..ExtensionIds::default() };
        assert_eq!(read, ExtensionHandshake { ids, ..ExtensionHandshake::default() });
    }

    #[test]
    fn a_message_goes_out_under_the_id_that_the_peer_gave() {
        let ids = ExtensionIds { pay: Some(77), ..ExtensionIds::default() };
        let mut out = b"before".to_vec();
        let frame = PayMessage::Frame { from_payer: true, frame: b"xy" };
        assert!(ids.write(&Extended::Pay(frame), &mut out));
        assert_eq!(out, b"before\0\0\0\x05\x14\x4d\x02xy");
        assert!(!ids.write(&Extended::Pex(Pex::default()), &mut out));
        assert_eq!(out.len(), 15);
    }

    #[test]
    fn an_inbox_gives_blocks_from_where_they_were_read_to() {
        let mut inbox = Inbox::default();
        let data = vec![5; 16_384];
        let block = Block { piece: 3, begin: 0, len: 16_384 };
        let stream = written(&PeerMessage::Piece { block, data: &data }).repeat(100);
        let (mut sent, mut read) = (0, 0);
        while sent < stream.len() {
            let space = inbox.space();
            assert!(space.len() >= READ_LEN_MIN);
            let now = space.len().min(stream.len() - sent).min(100_000);
            space[..now].copy_from_slice(&stream[sent..sent + now]);
            inbox.filled(now);
            sent += now;
            while let Some(message) = inbox.poll().unwrap() {
                assert_eq!(message, PeerMessage::Piece { block, data: &data });
                read += 1;
            }
        }
        assert_eq!(read, 100);
        assert_eq!(inbox.bytes.len(), INBOX_LEN, "it does not grow for blocks");
    }

    fn blocks() -> impl Strategy<Value = Block> {
        any::<[u32; 3]>().prop_map(|[piece, begin, len]| Block { piece, begin, len })
    }

    proptest! {
        #[test]
        fn any_bytes_are_messages_that_are_written_back_the_same_or_an_error(
            bytes in vec(any::<u8>(), 0..200),
            kind in 0u8..25,
            pieces in proptest::option::of(0u32..100),
        ) {
            // Random lengths are seldom sound: say the right one.
            let mut framed = Vec::new();
            put(&mut framed, kind, &[&bytes]);
            for bytes in [&bytes, &framed] {
                if let Ok(Decoded::Message { message, .. }) = decode(bytes, pieces) {
                    let again = written(&message);
                    let length = again.len();
                    prop_assert_eq!(decode(&again, None), Ok(Decoded::Message { message, length }));
                }
            }
        }

        #[test]
        fn a_stream_cut_anywhere_gives_the_same_messages(
            asked in vec(blocks(), 1..20),
            bits in vec(any::<u8>(), 40_000),
            cut in 1usize..5_000,
        ) {
            let mut messages = vec![PeerMessage::Bitfield(&bits)];
            messages.extend(asked.into_iter().map(PeerMessage::Request));
            let stream: Vec<u8> = messages.iter().flat_map(written).collect();
            let (mut inbox, mut read) = (Inbox::default(), 0);
            for part in stream.chunks(cut) {
                inbox.space()[..part.len()].copy_from_slice(part);
                inbox.filled(part.len());
                while let Some(message) = inbox.poll().unwrap() {
                    prop_assert_eq!(&message, &messages[read]);
                    read += 1;
                }
            }
            prop_assert_eq!(read, messages.len());
        }

        #[test]
        fn metadata_and_peers_are_read_as_they_were_written(
            part in 0u32..4_000,
            added in vec((any::<(u32, u16)>(), any::<u8>()), 0..100),
            dropped in vec(any::<(u128, u16)>(), 0..100),
        ) {
            let data = vec![1; 16_384];
            let pex = Pex {
                added: added
                    .into_iter()
                    .map(|((ip, port), flag)| ((std::net::Ipv4Addr::from(ip), port).into(), flag))
                    .collect(),
                dropped: dropped
                    .into_iter()
                    .map(|(ip, port)| (std::net::Ipv6Addr::from(ip), port).into())
                    .collect(),
            };
            for extended in [
                Extended::Metadata(Metadata::Request(part)),
                Extended::Metadata(Metadata::Data { part, total: 64 << 20, data: &data }),
                Extended::Metadata(Metadata::Reject(part)),
                Extended::Pex(pex),
            ] {
                let message = PeerMessage::Extended(extended);
                let bytes = written(&message);
                let length = bytes.len();
                prop_assert_eq!(decode(&bytes, None), Ok(Decoded::Message { message, length }));
            }
        }
    }
}
