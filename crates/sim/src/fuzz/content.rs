//! What a peer of a torrent sends: messages, and the proof of its device key.

use std::sync::Arc;

use sparewire_content::{
    BLOCK_LEN, Binder, Block, Decoded, Extended, ExtensionHandshake, ExtensionIds, Greet,
    Handshake, HashRequest, Inbox, Metadata, PayMessage, PeerMessage, Pex, decode, piece_header,
};
use sparewire_core::{DeviceSignature, DeviceSigner, NodeId};
use sparewire_wallet::DeviceKey;

use super::{assert_tame, input::Input, within};

/// What reading one message may allocate: the longest is a list of 400 addresses.
const ALLOCATION_MAX: usize = 32 << 10;

/// A handshake, and a stream of messages that comes in parts. The first byte says of how many
/// pieces the torrent is, the second how long the parts are.
pub fn peer_wire(data: &[u8]) {
    if let Some(bytes) = data.first_chunk() {
        match Handshake::from_bytes(bytes) {
            Ok(handshake) => {
                let again = Handshake::from_bytes(&handshake.to_bytes());
                assert_eq!(again, Ok(handshake));
            }
            Err(error) => assert_tame(&error, 128),
        }
    }
    let [pieces, part, stream @ ..] = data else { return };
    let pieces = (*pieces > 0).then(|| u32::from(*pieces));
    let whole = read_stream(stream, pieces);
    let mut inbox = Inbox::default();
    if let Some(pieces) = pieces {
        inbox.set_pieces(pieces);
    }
    let mut found = 0;
    for part in stream.chunks(usize::from(*part) + 1) {
        let space = inbox.space();
        assert!(space.len() >= part.len(), "parts are at most 256 bytes");
        space[..part.len()].copy_from_slice(part);
        inbox.filled(part.len());
        loop {
            match inbox.poll() {
                Ok(Some(message)) => {
                    assert_eq!(whole.messages.get(found), Some(&message));
                    found += 1;
                }
                Ok(None) => break,
                Err(_) => {
                    assert!(whole.is_bad && found == whole.messages.len());
                    return;
                }
            }
        }
    }
    assert!(found == whole.messages.len() && !whole.is_bad);
}

struct Stream<'a> {
    messages: Vec<PeerMessage<'a>>,
    is_bad: bool,
}

fn read_stream(mut stream: &[u8], pieces: Option<u32>) -> Stream<'_> {
    let mut messages = Vec::new();
    loop {
        match within(ALLOCATION_MAX, || decode(stream, pieces)) {
            Ok(Decoded::Message { message, length }) => {
                assert_written_back(&message);
                messages.push(message);
                stream = &stream[length..];
            }
            Ok(Decoded::Needs(needs)) => {
                assert!(needs > stream.len() && needs <= 3 << 20, "{needs}");
                return Stream { messages, is_bad: false };
            }
            Err(error) => {
                assert_tame(&error, 128);
                return Stream { messages, is_bad: true };
            }
        }
    }
}

fn assert_written_back(message: &PeerMessage<'_>) {
    let mut bytes = Vec::new();
    message.write(&mut bytes);
    let length = bytes.len();
    assert_eq!(decode(&bytes, None), Ok(Decoded::Message { message: message.clone(), length }));
    match message {
        PeerMessage::Piece { block, data } => {
            assert_eq!([&piece_header(*block)[..], data].concat(), bytes);
            assert!(block.len <= BLOCK_LEN);
        }
        PeerMessage::Extended(Extended::Handshake(handshake)) => {
            handshake.client.iter().for_each(|client| assert_tame(client, 64));
        }
        _ => {}
    }
}

/// One end of a connection, and what really happens at it.
struct Side {
    binder: Binder,
    device: NodeId,
    greet: Greet,
    /// What it has said.
    said: Vec<PayMessage<'static>>,
    /// The greeting that it took for the other's.
    heard: Option<Greet>,
}

impl Side {
    fn new(info_hash: u8, ours: u8, theirs: u8, key: DeviceKey, nonce: u8) -> Self {
        let device = key.node_id();
        let hash = [info_hash; 20];
        let binder = Binder::new(hash, [ours; 20], [theirs; 20], Arc::new(key), [nonce; 32]);
        let PayMessage::Greet(greet) = binder.greet() else { panic!("not a greeting") };
        Self { said: vec![binder.greet()], binder, device, greet, heard: None }
    }

    fn hear(&mut self, message: &PayMessage<'_>) {
        let was = self.binder.peer();
        match self.binder.handle(message) {
            Ok(answer) => {
                if let PayMessage::Greet(greet) = message {
                    self.heard = Some(*greet);
                }
                self.said.extend(answer);
            }
            Err(error) => {
                assert_tame(&error, 128);
                assert!(self.binder.peer().is_err(), "proved in spite of {error}");
            }
        }
        if let Ok(peer) = self.binder.peer() {
            assert!(was.is_err() || was == Ok(peer), "a proved key has changed");
        }
    }
}

/// Two honest ends, and whoever carries what they say: it may leave out, repeat, reflect, alter and
/// make up. Each takes the other for itself only on the same connection, with both greetings whole.
pub fn content_extension(data: &[u8]) {
    let mut input = Input(data);
    let context = input.byte();
    let key = |number| DeviceKey::from_secret(&[number; 32]);
    // Bits say what the two see differently.
    let differs = |bit: u8| u8::from(context & bit != 0);
    let mut sides = [
        Side::new(1, 10, 20, key(1), 100),
        Side::new(
            1 + differs(1),
            20 + differs(2),
            10 + differs(4),
            key(2 - differs(8)),
            101 - differs(16),
        ),
    ];
    let attacker = key(3);
    let operations =
        input.list(64, |input| (input.below(8), input.byte(), input.byte(), input.byte()));
    for (what, from, at, change) in operations {
        let to = usize::from(what & 1);
        let source = &sides[usize::from(from & 1)].said;
        let Some(message) = source.get(usize::from(at) % source.len().max(1)) else { continue };
        let message = match (what >> 1, *message) {
            (0 | 1, message) => message,
            (2, PayMessage::Greet(mut greet)) => {
                match change % 4 {
                    0 => greet.version = u16::from(change >> 2),
                    1 => greet.nonce[usize::from(change) % 32] ^= 1,
                    2 => greet.device = attacker.node_id(),
                    _ => greet.nonce = [change; 32],
                }
                PayMessage::Greet(greet)
            }
            (2, PayMessage::Bind(mut signature)) => {
                signature.0[usize::from(change) % 64] ^= 1 << (change % 8);
                PayMessage::Bind(signature)
            }
            (_, _) if change & 1 == 0 => PayMessage::Frame { from_payer: true, frame: b"\x0b" },
            (_, _) => PayMessage::Bind(DeviceSignature([change; 64])),
        };
        sides[to].hear(&message);
    }
    let connected = context & 0b11111 == 0;
    for (side, other) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
        let Ok(peer) = side.binder.peer() else { continue };
        assert_eq!(peer, other.device, "nobody else's key is in play");
        assert_ne!(peer, side.device);
        assert!(connected, "proved for another connection: {context:#b}");
        assert_eq!(side.heard, Some(other.greet));
        assert_eq!(other.heard, Some(side.greet), "it signed another greeting");
    }
}

/// Good streams.
pub(super) fn streams() -> Vec<Vec<u8>> {
    let block = Block { piece: 1, begin: BLOCK_LEN, len: 5 };
    let request =
        HashRequest { pieces_root: [7; 32], base_layer: 0, index: 0, length: 2, proof_layers: 1 };
    let handshake = ExtensionHandshake {
        ids: ExtensionIds::OURS,
        client: Some("sparewire 0.1".to_owned()),
        port: Some(6_881),
        queue_max: Some(250),
        metadata_len: Some(20_000),
        your_ip: Some([127, 0, 0, 1].into()),
        upload_only: true,
    };
    let pex = Pex {
        added: vec![
            (([10, 0, 0, 1], 6_881).into(), 2),
            (([0x2001_u16, 0, 0, 0, 0, 0, 0, 1], 1).into(), 0),
        ],
        dropped: vec![([10, 0, 0, 2], 6_881).into()],
    };
    let greet = PayMessage::Greet(Greet { version: 1, device: NodeId::default(), nonce: [9; 32] });
    let extended = [
        Extended::Handshake(handshake),
        Extended::Metadata(Metadata::Request(1)),
        Extended::Metadata(Metadata::Data { part: 0, total: 5, data: b"d1:ae" }),
        Extended::Metadata(Metadata::Reject(1)),
        Extended::Pex(pex),
        Extended::Pay(greet),
        Extended::Pay(PayMessage::Bind(DeviceSignature([1; 64]))),
        Extended::Pay(PayMessage::Frame { from_payer: true, frame: b"\x0b" }),
        Extended::Pay(PayMessage::Frame { from_payer: false, frame: b"" }),
        Extended::Other { id: 9, payload: b"de" },
    ];
    let plain = vec![
        PeerMessage::Bitfield(&[0xa0]),
        PeerMessage::HaveAll,
        PeerMessage::HaveNone,
        PeerMessage::KeepAlive,
        PeerMessage::Choke,
        PeerMessage::Unchoke,
        PeerMessage::Interested,
        PeerMessage::NotInterested,
        PeerMessage::Have(2),
        PeerMessage::Request(block),
        PeerMessage::Piece { block, data: b"hello" },
        PeerMessage::Cancel(block),
        PeerMessage::Port(6_881),
        PeerMessage::Suggest(1),
        PeerMessage::Reject(block),
        PeerMessage::AllowedFast(1),
        PeerMessage::HashRequest(request),
        PeerMessage::Hashes { request, hashes: &[3; 96] },
        PeerMessage::HashReject(request),
        PeerMessage::Unknown(99),
    ];
    let extended = extended.map(PeerMessage::Extended);
    let mut streams: Vec<Vec<u8>> = extended
        .iter()
        .map(|message| {
            let mut stream = vec![3, 20];
            message.write(&mut stream);
            stream
        })
        .collect();
    let mut all = vec![3, 6];
    plain.iter().for_each(|message| message.write(&mut all));
    streams.push(all);
    let hello = Handshake {
        info_hash: [1; 20],
        peer_id: [2; 20],
        extended: true,
        dht: true,
        fast: false,
        v2: true,
    };
    streams.push(hello.to_bytes().to_vec());
    streams
}

/// Two ends that prove themselves; then a reflection, a replay and an altered greeting.
pub(super) fn bindings() -> Vec<Vec<u8>> {
    // what, from, at, change: side 1 hears side 0's greeting, and so on.
    let good = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]].concat();
    let reflected = [[0, 0, 0, 0], [0, 1, 0, 0]].concat();
    let altered = [[5, 0, 0, 2], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]].concat();
    let with = |context: u8, operations: &[u8]| [&[context][..], operations].concat();
    vec![
        with(0, &good),
        with(1, &good),
        with(2, &good),
        with(4, &good),
        with(8, &good),
        with(16, &good),
        with(0, &reflected),
        with(0, &altered),
    ]
}
