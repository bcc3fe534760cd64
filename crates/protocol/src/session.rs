//! What payer and payee share: the agreement, what each remembers, and what a machine puts out.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use sparewire_core::{
    Amount, ByteCount, ChannelId, Domain, NodeId, Price, SessionId, Signature, Signed, Timestamp,
    Verified,
};

use crate::{
    channel::{ChannelConfig, CooperativeClose, Voucher},
    error::ProtocolError,
    message::{Message, Payment, Refused},
    meter::Reading,
    receipt::{Countersigned, Receipt, ReceiptChain},
    terms::Terms,
};

/// A receipt is signed after so many bytes.
pub const CHECKPOINT_BYTES: ByteCount = ByteCount::new(16 << 20);
/// A receipt, or a payment of what is still owed, is signed after so long, in milliseconds.
pub const CHECKPOINT_MS: u64 = 10_000;
/// How long a peer may take to answer what must be answered, in milliseconds.
pub const ANSWER_MS_MAX: u64 = 10_000;

pub(crate) const AGREED: &str = "its close is agreed on; use another one";
pub(crate) const SUPERSEDED: &str = "another session paid in between";
pub(crate) const WAS_SET_OFF: &str = "part of it was set off over a connection that is gone";

/// Which side of a channel we are on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize,
)]
#[borsh(use_discriminant = true)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Role {
    /// The consumer.
    Payer = 1,
    /// The provider.
    Payee = 2,
}

/// What both sides agreed on; nothing of it changes during the session.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Agreement {
    /// The session.
    pub session: SessionId,
    /// The channel that pays.
    pub config: ChannelConfig,
    /// The provider's terms.
    pub terms: Terms,
    /// What had been promised over the channel before the session.
    pub base: Amount,
    /// Bytes that earlier sessions paid for over the channel.
    pub history: ByteCount,
}

impl Agreement {
    /// Chain and contract.
    pub fn domain(&self) -> &Domain {
        &self.terms.domain
    }

    /// The channel's id: several hashes, so whoever needs it often keeps it.
    pub fn channel(&self) -> ChannelId {
        self.config.id(&self.terms.domain)
    }

    /// What the channel's vouchers must add up to when `reading` is paid for; `None` where that
    /// is more than any channel can hold.
    pub fn owed(&self, reading: Reading) -> Option<Amount> {
        self.base.checked_add(self.terms.price.owed(reading.checked_total()?)?)
    }

    /// What of a reading's price is not in `amount`, but set off against what the payee owes the
    /// payer; `None` where the reading is not worth that amount, or nothing is set off in such
    /// sessions.
    pub fn set_off(&self, reading: Reading, amount: Amount) -> Option<Amount> {
        let set_off = self.owed(reading)?.checked_sub(amount)?;
        let may = set_off == Amount::ZERO || self.terms.service.sets_off();
        (may && amount >= self.base).then_some(set_off)
    }

    /// The bytes of this session that a channel holding `reserved` can pay for.
    pub fn affordable(&self, reserved: Amount) -> ByteCount {
        match reserved.checked_sub(self.base) {
            Some(rest) => self.terms.price.affordable(rest),
            None => ByteCount::ZERO,
        }
    }

    /// Bytes paid for over the channel when `session` bytes of this session are.
    pub(crate) fn paid(&self, session: ByteCount) -> ByteCount {
        self.history.checked_add(session).unwrap_or(ByteCount::new(u64::MAX))
    }

    /// Checks a payment's voucher and that it is worth what the payment says; what it is short of
    /// that is to be set off.
    pub(crate) fn verify_payment(
        &self,
        channel: ChannelId,
        payment: &Payment,
    ) -> Result<(Verified<Voucher>, Amount), ProtocolError> {
        if payment.session != self.session {
            return Err(ProtocolError::Inconsistent("payment of another session"));
        }
        let voucher = self.verify_voucher(channel, payment)?;
        let expected = self
            .owed(payment.reading)
            .ok_or(ProtocolError::Inconsistent("payment for more bytes than can be counted"))?;
        let wrong = ProtocolError::WrongAmount { expected, actual: voucher.amount };
        let set_off = self.set_off(payment.reading, voucher.amount).ok_or(wrong)?;
        Ok((voucher, set_off))
    }

    /// As [`Self::verify_payment`], in a session that goes on over a new connection: what was set
    /// off over another one is not known to both alike.
    pub(crate) fn verify_whole_payment(
        &self,
        channel: ChannelId,
        payment: &Payment,
    ) -> Result<(), ProtocolError> {
        match self.verify_payment(channel, payment)? {
            (_, Amount::ZERO) => Ok(()),
            _ => Err(ProtocolError::CannotResume(WAS_SET_OFF)),
        }
    }

    /// Checks the voucher alone; the payment may be of an earlier session.
    pub(crate) fn verify_voucher(
        &self,
        channel: ChannelId,
        payment: &Payment,
    ) -> Result<Verified<Voucher>, ProtocolError> {
        if payment.voucher.body.channel != channel {
            return Err(ProtocolError::Inconsistent("voucher of another channel"));
        }
        Ok(payment.voucher.verify(self.domain(), self.config.payer_authorizer)?)
    }

    /// Where the channel's receipts stand, and what the newest one says of this session.
    pub(crate) fn recall_receipts(
        &self,
        newest: Option<&Countersigned>,
    ) -> Result<(ReceiptChain, Reading), ProtocolError> {
        let Some(newest) = newest else { return Ok((ReceiptChain::default(), Reading::ZERO)) };
        let receipt = self.verify_countersigned(newest)?;
        let reading = if receipt.session == self.session { receipt.reading } else { Reading::ZERO };
        Ok((ReceiptChain::after(&receipt, self.domain()), reading))
    }

    pub(crate) fn verify_countersigned(
        &self,
        countersigned: &Countersigned,
    ) -> Result<Verified<Receipt>, ProtocolError> {
        if countersigned.receipt.body.channel != self.channel() {
            return Err(ProtocolError::Inconsistent("receipt of another channel"));
        }
        Ok(countersigned.verify(
            self.domain(),
            self.config.payer_authorizer,
            self.config.payee_authorizer,
        )?)
    }
}

/// What our store remembers of a channel when a session over it starts. Facts only; everything
/// that was signed in it was verified when it came in and is verified again when it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The payment with the highest voucher, of whichever session.
    pub payment: Option<Payment>,
    /// The newest receipt with both signatures.
    pub receipt: Option<Countersigned>,
    /// A receipt that we signed as payer and that nobody has countersigned.
    pub pending: Option<Signed<Receipt>>,
    /// Bytes that sessions other than this one paid for.
    pub history: ByteCount,
    /// Bytes that were carried over this channel and lost unpaid (payee only), those included that
    /// other sessions which have not ended had carried and were not paid for.
    pub lost: ByteCount,
    /// The session that is resumed.
    pub session: Option<SessionMemory>,
    /// Our store was set back to a backup: nothing is signed over the channel before the peer has
    /// told a voucher of no less than we remember, nor than so much: at the payer, what final state
    /// says was claimed (R1). `None` where the store never was.
    pub resync: Option<Amount>,
    /// The close that was agreed on: no session begins over the channel any more.
    pub agreed: Option<Signed<CooperativeClose>>,
}

/// What our store and (at the payer) a meter that lived on remember of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionMemory {
    /// What was agreed.
    pub agreement: Agreement,
    /// What we have counted: what the newest [`Record::Counted`] says or is paid for, whichever is
    /// more; at the payer the meter's reading, where the process lived on.
    pub counted: Reading,
    /// What the other side told of `up` (payer only).
    pub reported_up: ByteCount,
    /// What is paid for.
    pub paid: Reading,
}

/// Why no byte of a session passes for now. Evidence only: nothing is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum StopReason {
    /// What is carried and unpaid is as much as the credit (payee): a voucher of the payer is
    /// needed.
    Unpaid = 1,
    /// The same, and nothing was heard of the payer for [`ANSWER_MS_MAX`].
    Silent = 2,
    /// All that the channel holds is promised: a top-up is needed.
    ChannelSpent = 3,
    /// The channel is being closed or closed on chain: no voucher beyond it would count for long.
    ChannelLeaving = 4,
    /// As much as the credit was sent up that the provider has not reported as carried (payer):
    /// its report is needed before it can be paid for.
    Unreported = 5,
}

/// A fact to be made durable. All records of one [`Output::Persist`] are durable together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A session began.
    Session {
        /// Which side we are.
        role: Role,
        /// The device at the other end.
        peer: NodeId,
        /// What was agreed.
        agreement: Agreement,
        /// When.
        started: Timestamp,
    },
    /// The newest payment of a session.
    Payment {
        /// The channel.
        channel: ChannelId,
        /// The payment.
        payment: Payment,
    },
    /// A receipt, signed by the payer and perhaps by the payee.
    Receipt {
        /// With the payer's signature.
        receipt: Signed<Receipt>,
        /// The payee's.
        payee_signature: Option<Signature>,
    },
    /// What the payee has carried in a session, as its connection broke or the session went on over
    /// a new one: what is not paid of it counts as lost, whoever restarts in between.
    Counted {
        /// The session.
        session: SessionId,
        /// Where its counters stand.
        reading: Reading,
    },
    /// Bytes that were carried and will not be paid for.
    Loss {
        /// In which session.
        session: SessionId,
        /// How many more.
        bytes: ByteCount,
    },
    /// A session ended.
    Ended(Statement),
    /// The payee agreed to close a channel at once, as it did or as it told us: it does so once, at
    /// all that is promised, and nothing more is promised over that channel.
    Agreed {
        /// The channel.
        channel: ChannelId,
        /// What the payee's authorizer signed.
        close: Signed<CooperativeClose>,
    },
}

/// What a machine wants done, in this order. Whoever drives it carries out each output before the
/// next: what follows a `Persist` may happen only once its records are durable, and where they
/// cannot be made so, the machine is dropped with everything that it still wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // a handful at a time, and gone with the next poll
pub enum Output {
    /// Make these durable, together.
    Persist(Vec<Record>),
    /// Send this on the control stream.
    Transmit(Message),
    /// Let so many bytes of the session pass in total.
    Grant(ByteCount),
    /// Tell the shell.
    Event(Event),
}

/// What the shell may want to know or act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session is on; both counters go on from this reading.
    Started {
        /// Where from.
        reading: Reading,
    },
    /// A payment was made or taken.
    Paid {
        /// What is paid for now.
        reading: Reading,
        /// What is promised over the channel now.
        amount: Amount,
        /// What of the reading's price is not in that, but set off.
        set_off: Amount,
    },
    /// A receipt has both signatures.
    Receipted {
        /// Its number.
        sequence: u64,
    },
    /// The channel can hardly pay for more than the credit, or holds less than the payer wants left
    /// in it; it needs a top-up.
    Exhausted,
    /// The payer says that it topped the channel up.
    Funded,
    /// The peer's application gave up on a stream.
    Abort {
        /// The transport's stream id.
        stream: u64,
    },
    /// The peer's application has stopped reading a stream, or reads it again.
    Flow {
        /// The transport's stream id.
        stream: u64,
        /// Whether to send no more on it for now.
        paused: bool,
    },
    /// The origin broke a stream off.
    Broken {
        /// The transport's stream id.
        stream: u64,
    },
    /// The peer wants to end the session.
    PeerClosing {
        /// Why.
        reason: String,
    },
    /// The peer turned us down.
    Refused(Refused),
    /// The session is over and both sides agree on it.
    Ended(Statement),
}

/// The figures of a session, from one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Which side states.
    pub role: Role,
    /// The session.
    pub session: SessionId,
    /// The channel.
    pub channel: ChannelId,
    /// What this side counted.
    pub counted: Reading,
    /// What both sides signed for in the session's last receipt.
    pub receipted: Reading,
    /// The price.
    pub price: Price,
    /// What this session paid over the channel: what was set off ([`crate::SetOff`]) is not in it.
    pub paid: Amount,
    /// What is promised over the channel in all.
    pub cumulative: Amount,
    /// How many payments were made since the session began or was last resumed.
    pub payments: u64,
    /// How many receipts were signed by both in the same time.
    pub receipts: u64,
    /// The largest exposure seen, in bytes: for the payee what it had carried unpaid, for the payer
    /// what it had paid for beyond what it had received.
    pub exposure_peak: ByteCount,
    /// What that exposure was bounded by.
    pub exposure_bound: ByteCount,
    /// When it ended.
    pub ended: Timestamp,
}

/// The total of a reading that went through [`Agreement::owed`] or a meter.
pub(crate) fn total(reading: Reading) -> ByteCount {
    // Meters saturate below u64::MAX (their valve is a u64) and readings off the wire are checked
    // by `owed` before they are kept.
    reading.checked_total().unwrap_or(ByteCount::new(u64::MAX))
}
