//! What travels on a session's control stream.
//!
//! A frame is `length: u32 LE || kind: u8 || body`, where `length` counts kind and body. Bodies
//! are in the canonical encoding of [`sparewire_core::encode`]. Kinds that a reader does not know
//! come from a newer minor version and are skipped; a known kind must fill its frame exactly.

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::{
    Address, Amount, ByteCount, DecodeError, DeviceSignature, Domain, SessionId, Signature, Signed,
    decode, encode, read_text,
};

use crate::{
    channel::Voucher,
    meter::Reading,
    receipt::{Countersigned, Receipt},
    terms::{Acceptance, Offer},
};

/// Longest frame, kind and body together: what a peer can make us allocate.
pub const FRAME_LEN_MAX: usize = 16 << 10;

/// Longest text in a message, in bytes.
pub const REASON_LEN_MAX: usize = 256;

/// A payment: a voucher, and the reading of the session that it pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Payment {
    /// The session.
    pub session: SessionId,
    /// What is paid for, since the session began.
    pub reading: Reading,
    /// The voucher for everything promised over the channel.
    pub voucher: Signed<Voucher>,
}

/// How the provider takes an acceptance: everything it remembers of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Accepted {
    /// The session.
    pub session: SessionId,
    /// Where both counters go on from.
    pub reading: Reading,
    /// What had been promised over the channel before this session.
    pub base: Amount,
    /// Bytes paid for over the channel by earlier sessions (they count for the credit).
    pub history: ByteCount,
    /// The newest payment over this channel that it holds.
    pub payment: Option<Payment>,
    /// The newest receipt of this channel with both signatures.
    pub receipt: Option<Countersigned>,
}

/// Why a request was turned down.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Refused {
    /// What for.
    pub code: RefusalCode,
    /// In words, at most [`REASON_LEN_MAX`] bytes.
    #[borsh(deserialize_with = "read_reason")]
    pub reason: String,
}

/// What a request was turned down for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum RefusalCode {
    /// Another chain, contract or token.
    WrongNetwork = 1,
    /// The terms are not valid any more; ask again.
    TermsExpired = 2,
    /// The provider does not remember the session; start a new one.
    UnknownSession = 3,
    /// The channel is unknown, not final yet, too small, closing or closed.
    ChannelUnusable = 4,
    /// A signature, delegation or field is wrong.
    Invalid = 5,
    /// Too many bytes were lost unpaid over this channel.
    LossAllowanceUsed = 6,
    /// No room for another session now.
    Busy = 7,
    /// The provider cannot reach its chain; nothing can be checked.
    ChainUnavailable = 8,
    /// The two clocks differ by too much.
    ClockSkew = 9,
    /// The provider is going away.
    GoingAway = 10,
}

/// Everything that is said on a control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // a payment is the one that is sent often: no box for it
pub enum Message {
    /// Consumer: asks for terms.
    Hello {
        /// Highest minor version that the consumer speaks.
        minor: u16,
        /// Where it settles.
        domain: Domain,
        /// What it pays in.
        token: Address,
        /// The session that it wants to resume.
        resume: Option<SessionId>,
    },
    /// Provider: its terms.
    Offer(Box<Offer>),
    /// Consumer: takes them.
    Accept {
        /// What it accepts.
        acceptance: Box<Acceptance>,
        /// Its device's signature.
        signature: DeviceSignature,
    },
    /// Provider: the session is on.
    Accepted(Box<Accepted>),
    /// Either: no.
    Refused(Refused),
    /// Consumer: pays, at checkpoints with a receipt.
    Payment {
        /// The payment.
        payment: Payment,
        /// A checkpoint.
        receipt: Option<Signed<Receipt>>,
    },
    /// Provider: its signature of a receipt.
    Countersignature {
        /// Which receipt.
        sequence: u64,
        /// The signature.
        signature: Signature,
    },
    /// Provider: what it has counted, and the credit that it grants now.
    Report {
        /// Its reading.
        reading: Reading,
        /// Its credit in bytes.
        credit: ByteCount,
        /// Whether no byte will follow: the answer to [`Message::Close`].
        last: bool,
    },
    /// Consumer: its application gave up on a stream; the provider should finish it.
    Abort {
        /// The transport's stream id.
        stream: u64,
    },
    /// Provider: the origin broke a stream off; its end is not a proper end.
    Broken {
        /// The transport's stream id.
        stream: u64,
    },
    /// Consumer: an application has stopped reading, or reads again. What a paused stream has under
    /// way is still taken and paid for, so that it holds up no credit that others need.
    Flow {
        /// The transport's stream id.
        stream: u64,
        /// Whether the provider should send no more on it for now.
        paused: bool,
    },
    /// Consumer: it has put more into the channel; look at the chain.
    Funded,
    /// Consumer: so much has come that it will pay for, or set off ([`crate::SetOff`]) where the
    /// provider owes it something too.
    Due {
        /// Its reading.
        reading: Reading,
    },
    /// Either: wants to end the session. The consumer answers with its own `Close`, the provider
    /// with its last report.
    Close {
        /// Why, in words; at most [`REASON_LEN_MAX`] bytes.
        reason: String,
    },
}

impl Message {
    /// The frame of this message.
    ///
    /// # Panics
    /// Where it is longer than [`FRAME_LEN_MAX`]; nothing that we build is.
    pub fn to_frame(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Hello { minor, domain, token, resume } => {
                (1, encode(&(*minor, *domain, *token, *resume)))
            }
            Self::Offer(offer) => (2, encode(offer)),
            Self::Accept { acceptance, signature } => (3, encode(&(acceptance, signature))),
            Self::Accepted(accepted) => (4, encode(accepted)),
            Self::Refused(refused) => (5, encode(refused)),
            Self::Payment { payment, receipt } => (6, encode(&(payment, receipt))),
            Self::Countersignature { sequence, signature } => (7, encode(&(sequence, signature))),
            Self::Report { reading, credit, last } => (8, encode(&(reading, credit, last))),
            Self::Abort { stream } => (9, encode(stream)),
            Self::Broken { stream } => (10, encode(stream)),
            Self::Funded => (11, Vec::new()),
            Self::Close { reason } => (12, encode(reason)),
            Self::Flow { stream, paused } => (13, encode(&(stream, paused))),
            Self::Due { reading } => (14, encode(reading)),
        };
        join_frame(kind, &body, FRAME_LEN_MAX)
    }

    /// Reads kind and body of a frame, without its length. `None` for a kind that this version
    /// does not know.
    ///
    /// # Errors
    /// [`DecodeError`] where a known kind is malformed or the frame too long or empty.
    pub fn from_frame(frame: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (kind, body) = split_frame(frame, FRAME_LEN_MAX)?;
        fn read<T: BorshDeserialize>(body: &[u8]) -> Result<T, DecodeError> {
            decode(body, FRAME_LEN_MAX - 1)
        }
        Ok(Some(match kind {
            1 => {
                let (minor, domain, token, resume) = read(body)?;
                Self::Hello { minor, domain, token, resume }
            }
            2 => Self::Offer(read(body)?),
            3 => {
                let (acceptance, signature) = read(body)?;
                Self::Accept { acceptance, signature }
            }
            4 => Self::Accepted(read(body)?),
            5 => Self::Refused(read(body)?),
            6 => {
                let (payment, receipt) = read(body)?;
                Self::Payment { payment, receipt }
            }
            7 => {
                let (sequence, signature) = read(body)?;
                Self::Countersignature { sequence, signature }
            }
            8 => {
                let (reading, credit, last) = read(body)?;
                Self::Report { reading, credit, last }
            }
            9 => Self::Abort { stream: read(body)? },
            10 => Self::Broken { stream: read(body)? },
            11 => {
                read::<()>(body)?;
                Self::Funded
            }
            12 => {
                let Reason(reason) = read(body)?;
                Self::Close { reason }
            }
            13 => {
                let (stream, paused) = read(body)?;
                Self::Flow { stream, paused }
            }
            14 => Self::Due { reading: read(body)? },
            _ => return Ok(None),
        }))
    }
}

/// A frame with its length.
///
/// # Panics
/// Where kind and body together are longer than `length_max`.
pub(crate) fn join_frame(kind: u8, body: &[u8], length_max: usize) -> Vec<u8> {
    let length = body.len() + 1;
    assert!(length <= length_max, "our own messages fit a frame");
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&(length as u32).to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(body);
    frame
}

/// Kind and body of a frame without its length.
///
/// # Errors
/// [`DecodeError`] where it is empty, or longer than `length_max`.
pub(crate) fn split_frame(frame: &[u8], length_max: usize) -> Result<(u8, &[u8]), DecodeError> {
    let length = frame.len();
    if length > length_max {
        return Err(DecodeError::TooLong { length, length_max });
    }
    let empty = || DecodeError::Malformed { reason: "empty frame".to_owned() };
    frame.split_first().map(|(kind, body)| (*kind, body)).ok_or_else(empty)
}

#[derive(BorshDeserialize)]
struct Reason(#[borsh(deserialize_with = "read_reason")] String);

/// Reads a text of at most [`REASON_LEN_MAX`] bytes.
pub(crate) fn read_reason<R: std::io::Read>(reader: &mut R) -> std::io::Result<String> {
    let text = read_text(reader, REASON_LEN_MAX)?;
    // It is shown on terminals and in logs, so it must be tame when it comes in.
    if text.chars().any(char::is_control) {
        let reason = "text has control characters";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
    }
    Ok(text)
}

/// Makes a text fit for a message: at most [`REASON_LEN_MAX`] bytes, cut at a character's end, and
/// spaces for control characters.
pub fn short_reason(text: &str) -> String {
    let end = text.floor_char_boundary(REASON_LEN_MAX);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
