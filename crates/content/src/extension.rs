//! `sw_pay`: the extension by which two peers learn each other's device keys and pay.
//!
//! Both ends prove their keys on the BitTorrent connection itself. Each says which key it has and
//! a random nonce, and signs what both have said, which connection it is, and which of the two it
//! is itself; so that no signature says anything about another connection, another torrent or the
//! other end. Then the frames of up to two sessions travel, one for each direction.
//!
//! ```
//! use sparewire_content::{BindError, Binder, PayMessage};
//! use sparewire_core::NodeId;
//!
//! // Both extension handshakes name `sw_pay`: say `binder.greet()`, then hand in what comes.
//! fn take(binder: &mut Binder, message: PayMessage<'_>, send: &mut dyn FnMut(PayMessage<'_>))
//!     -> Result<(), BindError>
//! {
//!     match message {
//!         PayMessage::Frame { from_payer, frame } => {
//!             let peer: NodeId = binder.peer()?;
//!             // ... to the session in which `peer` pays (`from_payer`) or is paid
//!             # let _ = (peer, from_payer, frame);
//!         }
//!         other => binder.handle(&other)?.into_iter().for_each(send),
//!     }
//!     Ok(())
//! }
//! ```

use std::{fmt, sync::Arc};

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::{DeviceSignature, DeviceSigner, DeviceStatement, NodeId, decode, encode};

/// The version of the extension that is spoken here.
pub const PAY_VERSION: u16 = 1;
/// Longest frame: that of a session, kind and body together.
pub const PAY_FRAME_LEN_MAX: usize = sparewire_protocol::FRAME_LEN_MAX;

const GREET: u8 = 0;
const BIND: u8 = 1;
const FROM_PAYER: u8 = 2;
const FROM_PAYEE: u8 = 3;

/// What an end says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Greet {
    /// The highest version that it speaks, from 1.
    pub version: u16,
    /// Its device key.
    pub device: NodeId,
    /// 32 random bytes, drawn for this connection.
    pub nonce: [u8; 32],
}

/// One message: `kind u8 || body`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayMessage<'a> {
    /// Kind 0: who the sender is.
    Greet(Greet),
    /// Kind 1: its signature of a [`Binding`].
    Bind(DeviceSignature),
    /// Kinds 2 and 3: a frame of a session, without its length
    /// (`sparewire_protocol::Message::from_frame`), at most [`PAY_FRAME_LEN_MAX`] bytes. An empty one
    /// says that the session is at its end.
    Frame {
        /// Whether the sender is the payer of that session (2) or the payee (3).
        from_payer: bool,
        /// Kind and body.
        frame: &'a [u8],
    },
}

impl<'a> PayMessage<'a> {
    /// Reads one. `Some(None)` for a kind of a newer version, `None` where it is malformed.
    pub(crate) fn read(payload: &'a [u8]) -> Option<Option<Self>> {
        let (kind, body) = payload.split_first()?;
        Some(Some(match *kind {
            GREET => Self::Greet(decode(body, 66).ok()?),
            BIND => Self::Bind(decode(body, 64).ok()?),
            FROM_PAYER | FROM_PAYEE => {
                if body.len() > PAY_FRAME_LEN_MAX {
                    return None;
                }
                Self::Frame { from_payer: *kind == FROM_PAYER, frame: body }
            }
            _ => return Some(None),
        }))
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Greet(greet) => {
                out.push(GREET);
                out.extend(encode(greet));
            }
            Self::Bind(signature) => {
                out.push(BIND);
                out.extend(encode(signature));
            }
            Self::Frame { from_payer, frame } => {
                out.push(if *from_payer { FROM_PAYER } else { FROM_PAYEE });
                out.extend_from_slice(frame);
            }
        }
    }
}

/// One end of a connection: its peer id of the BitTorrent handshake, and what it greeted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize)]
pub struct End {
    /// Peer id.
    pub peer_id: [u8; 20],
    /// Greeting.
    pub greet: Greet,
}

/// What an end signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize)]
pub struct Binding {
    /// The torrent, as in the BitTorrent handshake.
    pub info_hash: [u8; 20],
    /// Who signs.
    pub signer: End,
    /// For whom.
    pub verifier: End,
}

impl DeviceStatement for Binding {
    const TAG: &'static str = "sparewire content binding v1";
}

/// Why a peer is not who it says. The connection may go on without payment, save where the peer is
/// found to cheat: the engine leaves it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Speaks no version that we do.
    #[error("no common version of sw_pay: update the older of both programs")]
    Version,
    /// Our own key, or our own nonce given back.
    #[error("the peer has our own device key: a node does not trade with itself")]
    Ourselves,
    /// Said twice what is said once.
    #[error("greeted or bound twice: leave this peer")]
    Twice,
    /// A signature or frame before what has to precede it.
    #[error("sw_pay message out of turn: leave this peer")]
    OutOfTurn,
    /// The signature is not that of this key, or of something else.
    #[error("the device key is not proved for this connection: leave this peer")]
    WrongSignature,
}

/// Proves to a peer which device we are, and has it prove which it is.
///
/// Inputs: [`Binder::handle`] for the peer's messages, in their order. Say [`Binder::greet`] once,
/// before anything that `handle` answers with.
pub struct Binder {
    info_hash: [u8; 20],
    us: End,
    their_peer_id: [u8; 20],
    signer: Arc<dyn DeviceSigner>,
    them: Them,
}

#[derive(Debug)]
enum Them {
    Unknown,
    Greeted(End),
    Bound(NodeId),
    /// Nothing that they say counts any more.
    Refused,
}

impl fmt::Debug for Binder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binder").field("us", &self.us).field("them", &self.them).finish()
    }
}

impl Binder {
    /// For one connection: the hash and the two peer ids of its handshakes, our device, and 32
    /// random bytes that are drawn for it.
    pub fn new(
        info_hash: [u8; 20],
        our_peer_id: [u8; 20],
        their_peer_id: [u8; 20],
        signer: Arc<dyn DeviceSigner>,
        nonce: [u8; 32],
    ) -> Self {
        let greet = Greet { version: PAY_VERSION, device: signer.node_id(), nonce };
        let us = End { peer_id: our_peer_id, greet };
        Self { info_hash, us, their_peer_id, signer, them: Them::Unknown }
    }

    /// What to say first.
    pub fn greet(&self) -> PayMessage<'static> {
        PayMessage::Greet(self.us.greet)
    }

    /// Takes a message and gives the answer to send, if any.
    ///
    /// # Errors
    /// [`BindError`]; from then on the peer stays unproved.
    pub fn handle(
        &mut self,
        message: &PayMessage<'_>,
    ) -> Result<Option<PayMessage<'static>>, BindError> {
        let result = self.step(message);
        if result.is_err() {
            self.them = Them::Refused;
        }
        result
    }

    fn step(&mut self, message: &PayMessage<'_>) -> Result<Option<PayMessage<'static>>, BindError> {
        match (message, &self.them) {
            (PayMessage::Greet(greet), Them::Unknown) => {
                if greet.version == 0 {
                    return Err(BindError::Version);
                }
                // Our own words come back where somebody reflects them, or we reached ourselves.
                if greet.device == self.us.greet.device || greet.nonce == self.us.greet.nonce {
                    return Err(BindError::Ourselves);
                }
                let them = End { peer_id: self.their_peer_id, greet: *greet };
                self.them = Them::Greeted(them);
                let statement = self.statement(self.us, them);
                let signature = self.signer.sign_bytes(&statement.signing_bytes());
                Ok(Some(PayMessage::Bind(signature)))
            }
            (PayMessage::Bind(signature), Them::Greeted(them)) => {
                let (device, statement) = (them.greet.device, self.statement(*them, self.us));
                signature.verify(device, &statement).map_err(|_| BindError::WrongSignature)?;
                self.them = Them::Bound(device);
                Ok(None)
            }
            (PayMessage::Greet(_), Them::Greeted(_) | Them::Bound(_))
            | (PayMessage::Bind(_), Them::Bound(_)) => Err(BindError::Twice),
            (PayMessage::Frame { .. }, Them::Bound(_)) => Ok(None),
            _ => Err(BindError::OutOfTurn),
        }
    }

    fn statement(&self, signer: End, verifier: End) -> Binding {
        Binding { info_hash: self.info_hash, signer, verifier }
    }

    /// The peer's device key, once it is proved.
    ///
    /// # Errors
    /// [`BindError::OutOfTurn`] before.
    pub fn peer(&self) -> Result<NodeId, BindError> {
        match self.them {
            Them::Bound(device) => Ok(device),
            _ => Err(BindError::OutOfTurn),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_wallet::DeviceKey;

    use super::*;

    const A: u8 = 1;
    const B: u8 = 2;

    /// An end of a connection for torrent `hash`, between peer ids `ours` and `theirs`.
    fn end(key: u8, hash: u8, ours: u8, theirs: u8, nonce: u8) -> Binder {
        let signer = Arc::new(DeviceKey::from_secret(&[key; 32]));
        Binder::new([hash; 20], [ours; 20], [theirs; 20], signer, [nonce; 32])
    }

    fn pair() -> (Binder, Binder) {
        (end(A, 9, 10, 20, 100), end(B, 9, 20, 10, 200))
    }

    fn node(key: u8) -> NodeId {
        DeviceKey::from_secret(&[key; 32]).node_id()
    }

    /// Has `to` take `message` and gives its answer.
    fn tell(to: &mut Binder, message: &PayMessage<'_>) -> PayMessage<'static> {
        to.handle(message).unwrap().unwrap()
    }

    #[test]
    fn both_ends_learn_each_others_key() {
        let (mut a, mut b) = pair();
        let of_b = tell(&mut b, &a.greet());
        let of_a = tell(&mut a, &b.greet());
        assert_eq!((a.peer(), b.peer()), (Err(BindError::OutOfTurn), Err(BindError::OutOfTurn)));
        assert_eq!(a.handle(&of_b), Ok(None));
        assert_eq!(b.handle(&of_a), Ok(None));
        assert_eq!((a.peer(), b.peer()), (Ok(node(B)), Ok(node(A))));
        let frame = PayMessage::Frame { from_payer: false, frame: &[1] };
        assert_eq!(a.handle(&frame), Ok(None));
    }

    #[test]
    fn an_end_that_only_repeats_what_it_hears_proves_nothing() {
        let (mut a, _) = pair();
        assert_eq!(a.handle(&a.greet()), Err(BindError::Ourselves));
        // With a key of its own, but our nonce.
        let (mut a, b) = pair();
        let PayMessage::Greet(mut greet) = b.greet() else { panic!("a greeting") };
        greet.nonce = [100; 32];
        assert_eq!(a.handle(&PayMessage::Greet(greet)), Err(BindError::Ourselves));
        // It cannot give our own signature back for its own either.
        let (mut a, b) = pair();
        let of_a = tell(&mut a, &b.greet());
        assert_eq!(a.handle(&of_a), Err(BindError::WrongSignature));
        assert!(a.peer().is_err());
    }

    #[test]
    fn a_signature_for_another_connection_torrent_or_greeting_proves_nothing() {
        for (what, mut other) in [
            ("torrent", end(B, 8, 20, 10, 200)),
            ("its peer id", end(B, 9, 21, 10, 200)),
            ("our peer id", end(B, 9, 20, 11, 200)),
            ("roles swapped", end(B, 9, 10, 20, 200)),
        ] {
            let (mut a, _) = pair();
            let bind = tell(&mut other, &a.greet());
            let _ = tell(&mut a, &other.greet());
            assert_eq!(a.handle(&bind), Err(BindError::WrongSignature), "{what}");
            assert!(a.peer().is_err());
        }
        // One of an earlier connection: its nonces were others.
        let (mut b, earlier) = (end(B, 9, 20, 10, 200), end(A, 9, 10, 20, 99));
        let replayed = tell(&mut b, &earlier.greet());
        let (mut a, _) = pair();
        let _ = tell(&mut a, &b.greet());
        assert_eq!(a.handle(&replayed), Err(BindError::WrongSignature));
    }

    #[test]
    fn a_key_that_is_only_claimed_is_not_proved() {
        let (mut a, mut b) = pair();
        let bind = tell(&mut b, &a.greet());
        let PayMessage::Greet(mut greet) = b.greet() else { panic!("a greeting") };
        greet.device = node(3);
        let _ = tell(&mut a, &PayMessage::Greet(greet));
        assert_eq!(a.handle(&bind), Err(BindError::WrongSignature));
        // A wrong end stays wrong, whatever it sends later.
        assert_eq!(a.handle(&b.greet()), Err(BindError::OutOfTurn));
        assert!(a.peer().is_err());
    }

    #[test]
    fn what_comes_twice_or_too_early_ends_it() {
        let frame = PayMessage::Frame { from_payer: true, frame: &[1] };
        let (mut a, b) = pair();
        assert_eq!(a.handle(&frame), Err(BindError::OutOfTurn));
        let (mut a, _) = pair();
        let unread = PayMessage::Bind(DeviceSignature([0; 64]));
        assert_eq!(a.handle(&unread), Err(BindError::OutOfTurn));
        let (mut a, _) = pair();
        let _ = tell(&mut a, &b.greet());
        assert_eq!(a.handle(&b.greet()), Err(BindError::Twice));
        let (mut a, _) = pair();
        let PayMessage::Greet(greet) = b.greet() else { panic!("a greeting") };
        let old = PayMessage::Greet(Greet { version: 0, ..greet });
        assert_eq!(a.handle(&old), Err(BindError::Version));
        // A newer version is spoken down to ours.
        let (mut a, _) = pair();
        let newer = PayMessage::Greet(Greet { version: 7, ..greet });
        assert!(a.handle(&newer).is_ok());
    }

    #[test]
    fn messages_have_the_bytes_of_the_document_and_no_others() {
        let greet = Greet { version: 1, device: node(A), nonce: [7; 32] };
        let key = hex::encode(node(A).0);
        let greeting = hex::decode(format!("000100{key}{}", "07".repeat(32))).unwrap();
        let mut bytes = Vec::new();
        PayMessage::Greet(greet).write(&mut bytes);
        assert_eq!(bytes, greeting);
        assert_eq!(PayMessage::read(&greeting), Some(Some(PayMessage::Greet(greet))));
        assert_eq!(PayMessage::read(&greeting[..66]), None);
        assert_eq!(PayMessage::read(&[&greeting[..], &[0]].concat()), None);
        let frame = |from_payer, frame| Some(Some(PayMessage::Frame { from_payer, frame }));
        assert_eq!(PayMessage::read(b"\x02ab"), frame(true, b"ab"));
        assert_eq!(PayMessage::read(b"\x03"), frame(false, b""));
        assert_eq!(PayMessage::read(&vec![2; 2 + PAY_FRAME_LEN_MAX]), None);
        assert_eq!(PayMessage::read(b"\x04of a newer version"), Some(None));
        assert_eq!(PayMessage::read(b""), None);
    }

    #[test]
    fn what_is_signed_has_the_bytes_of_the_document() {
        let end = |peer: u8| End {
            peer_id: [peer; 20],
            greet: Greet { version: 1, device: node(peer), nonce: [peer + 10; 32] },
        };
        let binding = Binding { info_hash: [9; 20], signer: end(A), verifier: end(B) };
        let of = |peer: u8| {
            let nonce = hex::encode([peer + 10; 32]);
            format!("{}0100{}{nonce}", hex::encode([peer; 20]), hex::encode(node(peer).0))
        };
        let tag = hex::encode("sparewire content binding v1");
        let expected = format!("{tag}00{}{}{}", "09".repeat(20), of(A), of(B));
        assert_eq!(hex::encode(binding.signing_bytes()), expected);
    }
}
