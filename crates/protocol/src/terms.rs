//! What a provider offers and a consumer accepts, signed by both before the first byte.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use sparewire_core::{
    Address, Amount, B256, DeviceSignature, DeviceStatement, Domain, InfoHash, NodeId, Price,
    SessionId, Signed, Timestamp, keccak256,
};

use crate::{
    channel::{ChannelConfig, Delegation},
    credit::CreditRule,
    error::ProtocolError,
    message::Payment,
    meter::Reading,
    receipt::{Countersigned, Receipt},
};

/// How far two clocks may differ before terms are refused: 10 minutes, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: u64 = 10 * 60 * 1000;

/// What is sold.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize,
)]
#[borsh(use_discriminant = true)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Service {
    /// TCP connections from the provider's line to where the consumer asks.
    ExitTcp = 1,
    /// Blocks of this torrent. Terms name it, so that a session of a cheap one is not resumed on a
    /// dear one.
    Content(InfoHash) = 2,
}

impl Service {
    /// How its bytes are counted.
    pub fn counting(self) -> CountingRule {
        match self {
            Self::ExitTcp => CountingRule::StreamPayload,
            Self::Content(_) => CountingRule::VerifiedBlocks,
        }
    }

    /// Whether what is owed for it may be set off ([`crate::SetOff`]): those who take a torrent's
    /// blocks have some to sell to those whom they take them from.
    pub fn sets_off(self) -> bool {
        matches!(self, Self::Content(_))
    }
}

/// How bytes are counted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize,
)]
#[borsh(use_discriminant = true)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum CountingRule {
    /// Payload bytes of ordered streams, both directions alike, without stream headers.
    StreamPayload = 1,
    /// Payload bytes of a torrent's blocks, to the consumer only: the provider counts them when it
    /// sends them, the consumer when their hash has passed. What never passes is never owed.
    VerifiedBlocks = 2,
}

/// What a provider serves by. Signed by its device key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize,
)]
pub struct Terms {
    /// Who offers.
    pub provider: NodeId,
    /// What is sold.
    pub service: Service,
    /// How it is counted.
    pub counting: CountingRule,
    /// What a GiB costs.
    pub price: Price,
    /// How far service runs ahead of payment.
    pub credit: CreditRule,
    /// The chain and contract that settle.
    pub domain: Domain,
    /// The token that is paid in.
    pub token: Address,
    /// Who is paid.
    pub payee: Address,
    /// The key that signs for the payee.
    pub payee_authorizer: Address,
    /// The shortest withdraw delay of a channel that is accepted, in seconds.
    pub withdraw_delay_secs_min: u32,
    /// The least that a channel must hold.
    pub channel_min: Amount,
    /// When the offer was made, by the provider's clock.
    pub issued: Timestamp,
    /// Until when it can be accepted, or a session under it resumed.
    pub expires: Timestamp,
}

impl DeviceStatement for Terms {
    const TAG: &'static str = "sparewire terms v1";
}

impl Terms {
    /// Names these very terms.
    pub fn hash(&self) -> B256 {
        keccak256(self.signing_bytes())
    }
}

/// Terms on the wire: with the device's signature and the wallet's delegation to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Offer {
    /// The terms.
    pub terms: Terms,
    /// The payee's word that this device and authorizer act for it.
    pub delegation: Signed<Delegation>,
    /// The device's signature of the terms.
    pub signature: DeviceSignature,
}

impl Offer {
    /// Checks an offer that `provider` (the key at the other end of the connection) made to a
    /// consumer on `domain`, and returns its terms. A `fresh` one must have been made just now; what
    /// a session is resumed under was agreed on already, and may be older, or of a clock that was
    /// set right since.
    ///
    /// # Errors
    /// [`ProtocolError`] where it is forged, for another chain, out of date, unsound, or where the
    /// two clocks differ too much to tell.
    pub fn verify(
        &self,
        provider: NodeId,
        domain: &Domain,
        fresh: bool,
        now: Timestamp,
    ) -> Result<Terms, ProtocolError> {
        let terms = &self.terms;
        if terms.provider != provider {
            return Err(ProtocolError::Inconsistent("terms of another device"));
        }
        self.signature.verify(provider, terms)?;
        if terms.domain != *domain {
            return Err(ProtocolError::WrongNetwork { ours: *domain, theirs: terms.domain });
        }
        let apart_ms = now.ms_since(terms.issued).max(terms.issued.ms_since(now));
        if fresh && apart_ms > CLOCK_SKEW_MS_MAX {
            return Err(ProtocolError::ClockSkew { ours: now, theirs: terms.issued });
        }
        if now > terms.expires {
            return Err(ProtocolError::TermsExpired);
        }
        if !terms.credit.is_sound() {
            return Err(ProtocolError::Inconsistent("credit rule below two bytes"));
        }
        check_delegation(
            self.delegation,
            domain,
            &Delegation {
                wallet: terms.payee,
                device: provider,
                authorizer: terms.payee_authorizer,
                expiry_secs: self.delegation.body.expiry_secs,
            },
            now,
        )?;
        Ok(*terms)
    }
}

/// What a consumer says to an offer. Signed by its device key, so that both ends have signed the
/// terms; and everything that it remembers of the channel, so that both ends go on from one state.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Acceptance {
    /// The session to start or to resume.
    pub session: SessionId,
    /// Hash of the accepted terms.
    pub terms_hash: B256,
    /// The channel that pays; it is final on chain.
    pub channel: ChannelConfig,
    /// The payer's word that this device and authorizer act for it.
    pub delegation: Signed<Delegation>,
    /// What the consumer has counted in this session and will pay for (zero for a new one).
    pub reading: Reading,
    /// How many bytes up it has sent at most, whether or not the provider reported them.
    pub up_max: sparewire_core::ByteCount,
    /// The newest payment over this channel that it remembers.
    pub payment: Option<Payment>,
    /// The newest receipt of this channel with both signatures.
    pub receipt: Option<Countersigned>,
    /// A receipt that it signed after that one and that has not been countersigned.
    pub pending: Option<Signed<Receipt>>,
}

impl DeviceStatement for Acceptance {
    const TAG: &'static str = "sparewire acceptance v1";
}

impl Acceptance {
    /// Checks that `consumer` (the device at the other end of the connection) accepts these very
    /// terms with a channel of a wallet that it may speak for. Only then does anything that is
    /// done for the channel's sake concern its owner.
    ///
    /// # Errors
    /// [`ProtocolError`], to be told to the consumer by its [`ProtocolError::refusal_code`].
    pub fn verify(
        &self,
        signature: &DeviceSignature,
        consumer: NodeId,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        signature.verify(consumer, self)?;
        if self.terms_hash != terms.hash() {
            return Err(ProtocolError::Inconsistent("other terms than the ones offered"));
        }
        if now > terms.expires {
            return Err(ProtocolError::TermsExpired);
        }
        check_channel(&self.channel, terms)?;
        let delegation = Delegation {
            wallet: self.channel.payer,
            device: consumer,
            authorizer: self.channel.payer_authorizer,
            expiry_secs: self.delegation.body.expiry_secs,
        };
        check_delegation(self.delegation, &terms.domain, &delegation, now)
    }
}

/// Whether a channel is one that the terms accept.
pub(crate) fn check_channel(config: &ChannelConfig, terms: &Terms) -> Result<(), ProtocolError> {
    let unusable = |what| Err(ProtocolError::ChannelUnusable(what));
    if config.payee != terms.payee || config.payee_authorizer != terms.payee_authorizer {
        return unusable("it pays somebody else");
    }
    if config.token != terms.token {
        return unusable("it pays in another token");
    }
    if config.withdraw_delay_secs < terms.withdraw_delay_secs_min {
        return unusable("its withdraw delay is shorter than the terms ask");
    }
    if config.payer.is_zero() || config.payer_authorizer.is_zero() {
        return unusable("sessions need a payer and an authorizer key");
    }
    Ok(())
}

/// Whether a delegation is `expected`, signed by its wallet, and counts now.
pub(crate) fn check_delegation(
    delegation: Signed<Delegation>,
    domain: &Domain,
    expected: &Delegation,
    now: Timestamp,
) -> Result<(), ProtocolError> {
    if delegation.body != *expected {
        return Err(ProtocolError::Inconsistent("delegation of another wallet, device or key"));
    }
    delegation.verify(domain, expected.wallet)?;
    if now.as_secs() > expected.expiry_secs {
        return Err(ProtocolError::DelegationExpired { expired_secs: expected.expiry_secs });
    }
    Ok(())
}
