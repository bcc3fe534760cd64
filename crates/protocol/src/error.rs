//! What can go wrong between two peers, and what to do about it.

use sparewire_core::{Amount, B256, DecodeError, Domain, SignatureError, SignerError, Timestamp};

use crate::message::RefusalCode;

/// What to do about an error that a peer caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A duplicate or something late: nothing happens.
    Ignore,
    /// Odd, but harmless: note it.
    Warn,
    /// End the connection; what is proved so far stays.
    Disconnect,
    /// End the connection and keep the evidence: the peer contradicted itself under its signature.
    Dispute,
}

/// A message, or the lack of one, that breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Bytes that are no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A signature that does not count.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Our own key did not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// A message that has no place here.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// Fields that contradict each other or what was agreed.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// A chain, contract or token other than ours.
    #[error(
        "the peer settles on chain {} contract {}, we on chain {} contract {}",
        theirs.chain_id, theirs.contract, ours.chain_id, ours.contract
    )]
    WrongNetwork {
        /// Ours.
        ours: Domain,
        /// Theirs.
        theirs: Domain,
    },
    /// Two clocks that differ too much to tell what is still valid.
    #[error(
        "the clocks differ by {} minutes (ours {}, the peer's {}); set the clock of whichever is wrong",
        ours.ms_since(*theirs).max(theirs.ms_since(*ours)) / 60_000, ours.as_secs(), theirs.as_secs()
    )]
    ClockSkew {
        /// Ours.
        ours: Timestamp,
        /// Theirs.
        theirs: Timestamp,
    },
    /// Terms that are out of date.
    #[error("the terms have expired; ask for new ones")]
    TermsExpired,
    /// A delegation that is out of date.
    #[error("the wallet's delegation expired at {expired_secs}; sign a new one")]
    DelegationExpired {
        /// When, in seconds since the epoch.
        expired_secs: u64,
    },
    /// A channel that cannot pay.
    #[error("the channel cannot be used: {0}")]
    ChannelUnusable(&'static str),
    /// A voucher that is not worth what its payment says.
    #[error("voucher over {actual} where the payment's bytes are worth {expected}")]
    WrongAmount {
        /// What it should be.
        expected: Amount,
        /// What it is.
        actual: Amount,
    },
    /// A voucher above what the channel holds.
    #[error("voucher over {amount} of a channel that holds {reserved}")]
    OverDeposit {
        /// The voucher.
        amount: Amount,
        /// The channel.
        reserved: Amount,
    },
    /// Payment for more than was carried.
    #[error("payment for bytes that were not carried")]
    PaidAhead,
    /// Two receipts with one sequence number, both signed by the peer.
    #[error("conflicting receipts number {sequence}: {first} and {second}")]
    ConflictingReceipts {
        /// Their number.
        sequence: u64,
        /// Hash of the one that we hold.
        first: B256,
        /// Hash of the other.
        second: B256,
    },
    /// Too many bytes lost unpaid over broken connections.
    #[error(
        "{lost} bytes were lost unpaid over this channel, {allowed} are allowed; open another channel"
    )]
    LossAllowanceUsed {
        /// Lost so far.
        lost: u64,
        /// Allowed.
        allowed: u64,
    },
    /// A session that cannot go on where it broke off, for example because one side's store was set
    /// back; another one over the same channel can begin.
    #[error("the session cannot be resumed, a new one can be started: {0}")]
    CannotResume(&'static str),
    /// No answer in time.
    #[error("the peer did not {0} in time")]
    Silent(&'static str),
    /// The peer said no.
    #[error("the peer refused: {reason}")]
    Refused {
        /// What for.
        code: RefusalCode,
        /// In its words.
        reason: String,
    },
}

impl ProtocolError {
    /// What to do about it.
    pub fn action(&self) -> Action {
        match self {
            Self::ConflictingReceipts { .. } => Action::Dispute,
            _ => Action::Disconnect,
        }
    }

    /// How a provider that turns an acceptance down for this tells the consumer.
    pub fn refusal_code(&self) -> RefusalCode {
        match self {
            Self::WrongNetwork { .. } => RefusalCode::WrongNetwork,
            Self::TermsExpired => RefusalCode::TermsExpired,
            Self::ClockSkew { .. } => RefusalCode::ClockSkew,
            Self::ChannelUnusable(_) | Self::OverDeposit { .. } => RefusalCode::ChannelUnusable,
            Self::LossAllowanceUsed { .. } => RefusalCode::LossAllowanceUsed,
            Self::CannotResume(_) => RefusalCode::UnknownSession,
            Self::Refused { code, .. } => *code,
            // Only who ends a session waits for the other; it did nothing wrong by being cut off.
            Self::Silent(_) => RefusalCode::GoingAway,
            _ => RefusalCode::Invalid,
        }
    }
}
