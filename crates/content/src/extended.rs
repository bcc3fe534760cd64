//! Messages of extensions (BEP 10): the extension handshake, metadata for magnet links (BEP 9),
//! peer exchange (BEP 11), and ours, `sw_pay`, by which blocks are paid for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use librqbit_bencode::ByteBuf;
use librqbit_peer_protocol::{
    DoubleBufHelper,
    extended::ut_metadata::{self, UtMetadataData},
};
use serde::{Deserialize, Serialize};

use crate::{BLOCK_LEN, bencode, extension::PayMessage};

/// Longest message of an extension, in bytes: 16 KiB of metadata or of a frame, and what is around.
pub const EXTENDED_LEN_MAX: usize = (BLOCK_LEN as usize) + 1024;
/// Longest metadata that we ask for or serve, in bytes.
pub const METADATA_LEN_MAX: u32 = 64 << 20;
/// Most peers that are taken from one message of peer exchange; the rest is left.
pub const PEX_PEERS_MAX: usize = 200;
/// Longest name of a client that is kept, in bytes.
pub const CLIENT_LEN_MAX: usize = 64;

/// Ids under which we want to be sent messages. rqbit's readers have the first two built in.
const PEX_ID: u8 = librqbit_peer_protocol::MY_EXTENDED_UT_PEX;
const METADATA_ID: u8 = librqbit_peer_protocol::MY_EXTENDED_UT_METADATA;
const PAY_ID: u8 = 2;

/// A message of an extension as it comes in, or as it is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extended<'a> {
    /// What a peer speaks, under which ids.
    Handshake(ExtensionHandshake),
    /// Asks for a part of the metadata, gives it, or not.
    Metadata(Metadata<'a>),
    /// Tells of other peers.
    Pex(Pex),
    /// Ours.
    Pay(PayMessage<'a>),
    /// One that we did not offer: to be skipped. Written, it is any message under the id that the
    /// peer gave: [`ExtensionIds`].
    Other {
        /// The id.
        id: u8,
        /// What follows.
        payload: &'a [u8],
    },
}

impl<'a> Extended<'a> {
    /// Reads what a peer sent us; `None` where it is malformed.
    pub(crate) fn read(id: u8, payload: &'a [u8]) -> Option<Self> {
        Some(match id {
            0 => Self::Handshake(ExtensionHandshake::read(payload)?),
            METADATA_ID => Self::Metadata(Metadata::read(payload)?),
            PEX_ID => Self::Pex(Pex::read(payload)?),
            PAY_ID => match PayMessage::read(payload)? {
                Some(message) => Self::Pay(message),
                None => Self::Other { id, payload }, // of a newer version
            },
            _ => Self::Other { id, payload },
        })
    }

    /// Id and payload, under our own ids: [`ExtensionIds::write`] puts the peer's in.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Handshake(handshake) => {
                out.push(0);
                handshake.write(&mut out);
            }
            Self::Metadata(metadata) => {
                out.push(METADATA_ID);
                metadata.write(&mut out);
            }
            Self::Pex(pex) => {
                out.push(PEX_ID);
                pex.write(&mut out);
            }
            Self::Pay(message) => {
                out.push(PAY_ID);
                message.write(&mut out);
            }
            Self::Other { id, payload } => {
                out.push(*id);
                out.extend_from_slice(payload);
            }
        }
        out
    }
}

/// Under which ids a peer wants to be sent messages; `None` for what it does not speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtensionIds {
    /// Metadata (BEP 9).
    pub metadata: Option<u8>,
    /// Peer exchange (BEP 11).
    pub pex: Option<u8>,
    /// Payment: `sw_pay`.
    pub pay: Option<u8>,
}

impl ExtensionIds {
    /// Those that we give.
    pub const OURS: Self =
        Self { metadata: Some(METADATA_ID), pex: Some(PEX_ID), pay: Some(PAY_ID) };

    /// Appends a message to `out` as this peer wants it. `false`, and nothing appended, where it
    /// does not speak that extension.
    #[must_use]
    pub fn write(&self, message: &Extended<'_>, out: &mut Vec<u8>) -> bool {
        let id = match message {
            Extended::Handshake(_) => Some(0),
            Extended::Metadata(_) => self.metadata,
            Extended::Pex(_) => self.pex,
            Extended::Pay(_) => self.pay,
            Extended::Other { id, .. } => Some(*id),
        };
        let Some(id) = id else { return false };
        let begin = out.len();
        crate::PeerMessage::Extended(message.clone()).write(out);
        out[begin + 5] = id;
        true
    }
}

/// The extension handshake. Every part may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionHandshake {
    /// What the sender speaks.
    pub ids: ExtensionIds,
    /// Its program, as text of at most [`CLIENT_LEN_MAX`] bytes without control characters.
    pub client: Option<String>,
    /// The TCP port that it listens on.
    pub port: Option<u16>,
    /// How many requests it keeps waiting at most; more are lost.
    pub queue_max: Option<u32>,
    /// Length of the metadata in bytes, at most [`METADATA_LEN_MAX`].
    pub metadata_len: Option<u32>,
    /// The address under which the sender sees the receiver.
    pub your_ip: Option<IpAddr>,
    /// Has all that it wants and only uploads (BEP 21).
    pub upload_only: bool,
}

#[derive(Serialize, Deserialize)]
struct HandshakeFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    m: Option<IdFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<i64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    v: Option<ByteBuf<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    yourip: Option<ByteBuf<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reqq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_only: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct IdFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    ut_metadata: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ut_pex: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sw_pay: Option<i64>,
}

/// A number within range, else as if it had not been sent.
fn within<T: TryFrom<i64>>(number: Option<i64>) -> Option<T> {
    number.and_then(|number| T::try_from(number).ok())
}

impl ExtensionHandshake {
    fn read(payload: &[u8]) -> Option<Self> {
        let fields: HandshakeFields<'_> = bencode::read(payload).ok()?;
        // An id of 0 takes an extension back.
        let id = |number: Option<i64>| within(number).filter(|id| *id != 0);
        let ids = fields.m.map_or_else(ExtensionIds::default, |m| ExtensionIds {
            metadata: id(m.ut_metadata),
            pex: id(m.ut_pex),
            pay: id(m.sw_pay),
        });
        Some(Self {
            ids,
            client: fields.v.map(|name| tame(name.0)),
            port: within(fields.p).filter(|port| *port != 0),
            queue_max: within(fields.reqq),
            metadata_len: within(fields.metadata_size)
                .filter(|length| (1..=METADATA_LEN_MAX).contains(length)),
            your_ip: fields.yourip.and_then(|bytes| address(bytes.0)),
            upload_only: fields.upload_only.is_some_and(|number| number != 0),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let ip = self.your_ip.map(|ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        });
        let fields = HandshakeFields {
            m: Some(IdFields {
                ut_metadata: self.ids.metadata.map(i64::from),
                ut_pex: self.ids.pex.map(i64::from),
                sw_pay: self.ids.pay.map(i64::from),
            }),
            p: self.port.map(i64::from),
            v: self.client.as_ref().map(|name| ByteBuf(name.as_bytes())),
            yourip: ip.as_ref().map(|ip| ByteBuf(ip)),
            reqq: self.queue_max.map(i64::from),
            metadata_size: self.metadata_len.map(i64::from),
            upload_only: self.upload_only.then_some(1),
        };
        bencode::write(&fields, out);
    }
}

/// A name as it may be shown: short, and without what would move a terminal's cursor.
fn tame(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(&name[..name.len().min(CLIENT_LEN_MAX)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text[..text.floor_char_boundary(CLIENT_LEN_MAX)].to_owned()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    let v6 = || Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into());
    v4().or_else(v6)
}

/// What is said about metadata (BEP 9): the info dictionary in parts of 16 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata<'a> {
    /// Asks for a part.
    Request(u32),
    /// Gives it.
    Data {
        /// Which; its length is the one that belongs to it.
        part: u32,
        /// The length of the whole in bytes, at most [`METADATA_LEN_MAX`].
        total: u32,
        /// Its bytes.
        data: &'a [u8],
    },
    /// Does not give it.
    Reject(u32),
}

impl<'a> Metadata<'a> {
    fn read(payload: &'a [u8]) -> Option<Self> {
        // rqbit reads these numbers as `u32`, and only the front of the dictionary.
        const NUMBERS: RangeInclusive<i64> = 0..=u32::MAX as i64;
        bencode::measure(payload, NUMBERS).ok()?;
        let read = ut_metadata::UtMetadata::deserialize(DoubleBufHelper::new(payload, &[])).ok()?;
        Some(match read {
            ut_metadata::UtMetadata::Request(part) => Self::Request(part),
            ut_metadata::UtMetadata::Reject(part) => Self::Reject(part),
            ut_metadata::UtMetadata::Data(part) => Self::of(payload, &part)?,
        })
    }

    /// rqbit's reader keeps the total to itself, but the dictionary is here.
    fn of(payload: &'a [u8], part: &UtMetadataData<ByteBuf<'a>>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Total {
            total_size: i64,
        }
        let head = payload.len().checked_sub(part.len())?;
        let Total { total_size } = bencode::read(&payload[..head]).ok()?;
        let total = u32::try_from(total_size).ok().filter(|total| *total <= METADATA_LEN_MAX)?;
        Some(Self::Data { part: part.piece(), total, data: part.as_double_buf().get()[0] })
    }

    fn write(&self, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Fields {
            msg_type: u8,
            piece: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            total_size: Option<u32>,
        }
        let (msg_type, piece, total_size, data): (_, _, _, &[u8]) = match *self {
            Self::Request(part) => (0, part, None, &[]),
            Self::Data { part, total, data } => (1, part, Some(total), data),
            Self::Reject(part) => (2, part, None, &[]),
        };
        bencode::write(&Fields { msg_type, piece, total_size }, out);
        out.extend_from_slice(data);
    }
}

/// What is told of other peers (BEP 11): who came, with a byte of flags, and who went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pex {
    /// Who is connected to the sender now, and was not when it last said.
    pub added: Vec<(SocketAddr, u8)>,
    /// Who is not any more.
    pub dropped: Vec<SocketAddr>,
}

// rqbit's own form leaves the flags out, and has no bound for how many are read.
#[derive(Default, Serialize, Deserialize)]
struct PexFields<'a> {
    #[serde(borrow, default)]
    added: ByteBuf<'a>,
    #[serde(borrow, default, rename = "added.f")]
    added_flags: ByteBuf<'a>,
    #[serde(borrow, default)]
    added6: ByteBuf<'a>,
    #[serde(borrow, default, rename = "added6.f")]
    added6_flags: ByteBuf<'a>,
    #[serde(borrow, default)]
    dropped: ByteBuf<'a>,
    #[serde(borrow, default)]
    dropped6: ByteBuf<'a>,
}

impl Pex {
    fn read(payload: &[u8]) -> Option<Self> {
        let fields: PexFields<'_> = bencode::read(payload).ok()?;
        let flags = |flags: &ByteBuf<'_>, at: usize| flags.0.get(at).copied().unwrap_or(0);
        let added4 = compact(fields.added.0, v4).enumerate();
        let added6 = compact(fields.added6.0, v6).enumerate();
        let added = added4
            .map(|(at, peer)| (peer, flags(&fields.added_flags, at)))
            .chain(added6.map(|(at, peer)| (peer, flags(&fields.added6_flags, at))));
        let dropped = compact(fields.dropped.0, v4).chain(compact(fields.dropped6.0, v6));
        Some(Self {
            added: added.take(PEX_PEERS_MAX).collect(),
            dropped: dropped.take(PEX_PEERS_MAX).collect(),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (mut lists, mut flags) = (<[Vec<u8>; 4]>::default(), <[Vec<u8>; 2]>::default());
        for (peer, flag) in self.added.iter().take(PEX_PEERS_MAX) {
            let v6 = usize::from(peer.is_ipv6());
            put_address(peer, &mut lists[v6]);
            flags[v6].push(*flag);
        }
        for peer in self.dropped.iter().take(PEX_PEERS_MAX) {
            put_address(peer, &mut lists[2 + usize::from(peer.is_ipv6())]);
        }
        let fields = PexFields {
            added: ByteBuf(&lists[0]),
            added_flags: ByteBuf(&flags[0]),
            added6: ByteBuf(&lists[1]),
            added6_flags: ByteBuf(&flags[1]),
            dropped: ByteBuf(&lists[2]),
            dropped6: ByteBuf(&lists[3]),
        };
        bencode::write(&fields, out);
    }
}

fn compact<'a, const N: usize>(
    bytes: &'a [u8],
    read: fn(&[u8; N]) -> SocketAddr,
) -> impl Iterator<Item = SocketAddr> + 'a {
    let (chunks, _) = bytes.as_chunks::<N>(); // half an address at the end is none
    chunks.iter().map(read)
}

fn v4(bytes: &[u8; 6]) -> SocketAddr {
    let [a, b, c, d, high, low] = *bytes;
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()
}

fn v6(bytes: &[u8; 18]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[..16]);
    (Ipv6Addr::from(octets), u16::from_be_bytes([bytes[16], bytes[17]])).into()
}

fn put_address(peer: &SocketAddr, out: &mut Vec<u8>) {
    match peer.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&peer.port().to_be_bytes());
}
