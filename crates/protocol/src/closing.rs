//! The cooperative close over the wire: a payer asks its payee to agree that a channel ends now.
//! The words of ALPN `sparewire-close/1`, and when either side takes the other's.
//!
//! Frames are those of [`crate::message`]: `length: u32 LE || kind: u8 || body`.
//!
//! **The invariant.** A payee never loses what it was promised by agreeing to a close: it signs at
//! exactly the highest voucher that it holds, which is never less than what was claimed, once for
//! each channel, and never after its store was set back, when it cannot know what it was promised.
//! What it signs is durable before it leaves, so that it gives the same answer for ever, and no
//! side begins a session over that channel again. The payer signs nothing: it takes no close above
//! what its own authorizer has signed.

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::{
    Address, Amount, ChannelId, DecodeError, Domain, NodeId, Signature, Signed, Signer, Timestamp,
    Verified, decode, encode,
};

use crate::{
    channel::{ChannelConfig, ChannelFacts, ChannelStatus, Claim, CooperativeClose, Delegation},
    error::ProtocolError,
    message::{Payment, Refused, join_frame, split_frame},
    meter::Reading,
    session::{Agreement, Memory, Record},
    terms::check_delegation,
};

/// Longest frame of this protocol, kind and body together: what a peer can make us allocate.
pub const CLOSE_FRAME_LEN_MAX: usize = 2 << 10;

/// Payer: please agree that this channel ends. It is asked over a connection of a device that the
/// payer's wallet delegates to; which authorizer that delegation names is all the same, so that a
/// wallet whose authorizer was rotated or lost has its channels closed by another one.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CloseRequest {
    /// The chain and contract that the channel lives on.
    pub domain: Domain,
    /// The channel.
    pub config: ChannelConfig,
    /// The payer's word that this device acts for it.
    pub delegation: Signed<Delegation>,
    /// The newest payment over this channel that the payer remembers.
    pub payment: Option<Payment>,
}

/// Payee: it agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AgreedClose {
    /// What the contract takes, signed by the payee's authorizer.
    pub close: Signed<CooperativeClose>,
    /// The payment whose voucher is of that amount; `None` where nothing was ever promised.
    pub payment: Option<Payment>,
}

/// What agreeing takes.
pub struct CloseSetup<'a> {
    /// What is asked, after [`CloseRequest::verify`].
    pub request: &'a CloseRequest,
    /// What final state says of the channel; `None` where it does not know it.
    pub facts: Option<ChannelFacts>,
    /// What our store remembers of the channel. No session of it is open.
    pub memory: Memory,
    /// What was agreed in the session that the request's payment is of, where it is remembered.
    pub paid_in: Option<Agreement>,
    /// Our authorizer's key.
    pub signer: &'a dyn Signer,
}

impl CloseRequest {
    /// The channel's id.
    pub fn channel(&self) -> ChannelId {
        self.config.id(&self.domain)
    }

    /// Checks that `device` (at the other end of the connection) may speak for the channel's payer,
    /// and that the channel names `authorizer`, ours, on our chain. Nothing is done or written for
    /// whoever fails it.
    ///
    /// # Errors
    /// [`ProtocolError`], to be told by its [`ProtocolError::refusal_code`].
    pub fn verify(
        &self,
        device: NodeId,
        domain: &Domain,
        authorizer: Address,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        if self.domain != *domain {
            return Err(ProtocolError::WrongNetwork { ours: *domain, theirs: self.domain });
        }
        if self.config.payee_authorizer != authorizer {
            let unusable = "it names another payee, or a key that this provider has no more";
            return Err(ProtocolError::ChannelUnusable(unusable));
        }
        let expected = Delegation { wallet: self.config.payer, device, ..self.delegation.body };
        check_delegation(self.delegation, domain, &expected, now)
    }

    /// As payer: takes the payee's answer to this request. The records are to be durable before the
    /// close is sent to the chain. `paid_in` is what was agreed in the session that the answer's
    /// payment is of, where it is remembered; `reserved` is what the chain says that the channel
    /// holds.
    ///
    /// # Errors
    /// [`ProtocolError`] where the answer is about something else, not signed by the payee's
    /// authorizer, where it asks for another amount than our authorizer signed at last, or for more
    /// than the channel holds, which no contract carries out.
    pub fn take(
        &self,
        agreed: &AgreedClose,
        paid_in: Option<&Agreement>,
        reserved: Amount,
    ) -> Result<(Vec<Record>, Claim), ProtocolError> {
        let (channel, close) = (self.channel(), agreed.close.body);
        if close.channel != channel {
            return Err(ProtocolError::Inconsistent("close of another channel"));
        }
        agreed.close.verify(&self.domain, self.config.payee_authorizer)?;
        let ours = self.promised(self.payment.as_ref())?;
        let told = self.promised(agreed.payment.as_ref())?;
        if close.amount != told {
            return Err(ProtocolError::WrongAmount { expected: told, actual: close.amount });
        }
        if told < ours {
            return Err(ProtocolError::Inconsistent("close at less than was promised"));
        }
        // Ours is never above. Who has stolen the authorizer can sign it all the same, and what is
        // taken here is kept for ever.
        if told > reserved {
            return Err(ProtocolError::OverDeposit { amount: told, reserved });
        }
        let mut records = Vec::new();
        // More than we remember, under our own signature: our store was set back.
        if let Some(payment) = agreed.payment
            && told > ours
        {
            let payment = self.believed(payment, paid_in)?;
            records.push(Record::Payment { channel, payment });
        }
        records.push(Record::Agreed { channel, close: agreed.close });
        // Where nothing was promised, the contract does not look at the voucher's signature.
        let voucher = agreed.payment.map(|payment| payment.voucher.signature);
        let signature: Signature = voucher.unwrap_or(agreed.close.signature);
        Ok((records, Claim { config: self.config, amount: close.amount, signature }))
    }

    /// What a payment promises over this channel, by a signature of its payer's authorizer.
    fn promised(&self, payment: Option<&Payment>) -> Result<Amount, ProtocolError> {
        let Some(payment) = payment else { return Ok(Amount::ZERO) };
        if payment.voucher.body.channel != self.channel() {
            return Err(ProtocolError::Inconsistent("voucher of another channel"));
        }
        Ok(payment.voucher.verify(&self.domain, self.config.payer_authorizer)?.amount)
    }

    /// A payment that the other side told. Its voucher is signed and the reading beside it is not:
    /// that counts only where the session is remembered and makes it worth the voucher.
    fn believed(
        &self,
        mut payment: Payment,
        paid_in: Option<&Agreement>,
    ) -> Result<Payment, ProtocolError> {
        match paid_in.filter(|of| of.session == payment.session && of.config == self.config) {
            Some(of) => drop(of.verify_payment(self.channel(), &payment)?),
            None => payment.reading = Reading::ZERO,
        }
        Ok(payment)
    }
}

/// As payee: agrees to a close. The records are to be durable before the answer leaves; where they
/// cannot be made so, the answer must not.
///
/// # Errors
/// [`ProtocolError`], to be told to the payer by its [`ProtocolError::refusal_code`]. Nothing has
/// changed then.
pub fn agree(setup: CloseSetup<'_>) -> Result<(Vec<Record>, AgreedClose), ProtocolError> {
    let CloseSetup { request, facts, memory, paid_in, signer } = setup;
    let unusable = |what| Err(ProtocolError::ChannelUnusable(what));
    let (channel, mut payment) = (request.channel(), memory.payment);
    let remembered = request.promised(payment.as_ref())?;
    // Agreed before: the same answer, whatever is told now.
    if let Some(close) = memory.agreed {
        if close.body.channel != channel || close.body.amount != remembered {
            return unusable("what this provider's disk says of its close contradicts itself");
        }
        let payment = payment.filter(|_| remembered > Amount::ZERO);
        return Ok((Vec::new(), AgreedClose { close, payment }));
    }
    // R1: what we remember is no more than the least that was promised, and a tower may hold more.
    if memory.resync.is_some() {
        return unusable(
            "this provider was restored from a backup and may have been promised more than it remembers",
        );
    }
    let Some(ChannelFacts { reserved, claimed, status }) = facts else {
        return unusable("the chain does not know it (yet)");
    };
    if status == ChannelStatus::Closed {
        return unusable("it is closed already");
    }
    let mut records = Vec::new();
    let told = request.promised(request.payment.as_ref())?;
    // The last payment was lost on its way here.
    if let Some(theirs) = request.payment
        && told > remembered
    {
        if told > reserved {
            return Err(ProtocolError::OverDeposit { amount: told, reserved });
        }
        let theirs = request.believed(theirs, paid_in.as_ref())?;
        records.push(Record::Payment { channel, payment: theirs });
        payment = Some(theirs);
    }
    let amount = told.max(remembered);
    if claimed > amount {
        return unusable("more was claimed than is remembered of it");
    }
    // The invariant: by this signature the payee gives up nothing that it could ever claim.
    assert!(
        amount >= remembered && amount >= told && amount >= claimed,
        "a close is agreed on at the highest voucher"
    );
    let close = CooperativeClose { channel, amount };
    let close = *Verified::sign(close, &request.domain, signer)?.signed();
    records.push(Record::Agreed { channel, close });
    let payment = payment.filter(|_| amount > Amount::ZERO);
    Ok((records, AgreedClose { close, payment }))
}

/// Everything that is said on a close stream: one question, one answer, on a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one at a time
pub enum CloseMessage {
    /// Payer: please agree.
    Ask(CloseRequest),
    /// Payee: agreed.
    Agreed(AgreedClose),
    /// Payee: no.
    Refused(Refused),
}

impl CloseMessage {
    /// The frame of this message, with its length.
    ///
    /// # Panics
    /// Where it is longer than [`CLOSE_FRAME_LEN_MAX`]; nothing that we build is.
    pub fn to_frame(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Ask(request) => (1u8, encode(request)),
            Self::Agreed(agreed) => (2, encode(agreed)),
            Self::Refused(refused) => (3, encode(refused)),
        };
        join_frame(kind, &body, CLOSE_FRAME_LEN_MAX)
    }

    /// Reads kind and body of a frame, without its length. `None` for a kind that this version
    /// does not know.
    ///
    /// # Errors
    /// [`DecodeError`] where a known kind is malformed or the frame too long or empty.
    pub fn from_frame(frame: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (kind, body) = split_frame(frame, CLOSE_FRAME_LEN_MAX)?;
        Ok(Some(match kind {
            1 => Self::Ask(decode(body, CLOSE_FRAME_LEN_MAX)?),
            2 => Self::Agreed(decode(body, CLOSE_FRAME_LEN_MAX)?),
            3 => Self::Refused(decode(body, CLOSE_FRAME_LEN_MAX)?),
            _ => return Ok(None),
        }))
    }
}
