//! What a payee entrusts to a watchtower, and how the tower answers: the words of ALPN
//! `sparewire-watch/1`.
//!
//! Frames are those of [`crate::message`]: `length: u32 LE || kind: u8 || body`.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use sparewire_core::{
    Address, Amount, B256, ChannelId, DecodeError, DeviceSignature, DeviceStatement, Domain,
    NodeId, Signature, SignatureError, Signed, Signer, SignerError, StructHasher, Timestamp,
    TypedData, decode, domain_separator, encode, keccak256, typed_digest,
};

use crate::{
    channel::{ChannelConfig, Claim, Voucher},
    message::{join_frame, read_reason, short_reason, split_frame},
};

/// Longest frame of this protocol, kind and body together: what a peer can make us allocate.
pub const WATCH_FRAME_LEN_MAX: usize = 2 << 10;
/// Most towers that one channel is entrusted to: all of them have their turn in half the withdraw
/// delay.
pub const TOWERS_MAX: u8 = 16;
/// Longest that one tower waits for the one before it, in seconds. It is far above what a public
/// chain needs to make a claim final (about 13 minutes on Ethereum).
const SLOT_SECS_MAX: u64 = 3_600;
/// The most that a reward may be: what the contract keeps in 96 bits.
pub const REWARD_MAX: u128 = (1 << 96) - 1;
/// Longest that an appointment may have left, in seconds: what covers its reward today can be
/// withdrawn after the contract's notice of 30 days.
pub const APPOINTMENT_SECS_MAX: u64 = 30 * 24 * 3_600;

/// The contract that holds rewards, on one chain. It is the EIP-712 domain
/// `("Sparewire Towers", "1", chainId, verifyingContract)`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize,
)]
pub struct TowersDomain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Address of the contract; zero where no reward is bound.
    pub contract: Address,
}

/// The payee side's promise of a reward to whoever makes the channel contract credit at least
/// `amount` while the channel is closing.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
pub struct Appointment {
    /// The channel.
    pub channel: ChannelId,
    /// The least that must have been credited in all.
    pub amount: Amount,
    /// The channel's payee.
    pub payee: Address,
    /// The token of the reward.
    pub token: Address,
    /// The reward in that token's smallest unit; zero where none is bound.
    pub reward: Amount,
    /// Seconds since the epoch after which it no longer counts.
    pub expiry_secs: u64,
}

impl TypedData for Appointment {
    const TYPE: &'static str = "Appointment(bytes32 channelId,uint128 amount,address payee,\
        address token,uint128 reward,uint64 expiry)";

    fn fields(&self, hasher: &mut StructHasher) {
        hasher
            .word(self.channel.0)
            .uint(self.amount.get())
            .address(self.payee)
            .address(self.token)
            .uint(self.reward.get())
            .uint(u128::from(self.expiry_secs));
    }
}

impl Appointment {
    /// The digest that the payee side signs and the contract of `towers` checks.
    fn digest_for(&self, towers: &TowersDomain) -> B256 {
        let towers = domain_separator("Sparewire Towers", towers.chain_id, towers.contract);
        typed_digest(towers, self.struct_hash())
    }

    /// Signs it for `towers` with the payee's authorizer.
    ///
    /// # Errors
    /// [`SignerError`] where the key's keeper refuses or cannot be reached.
    pub fn sign(
        self,
        towers: &TowersDomain,
        signer: &dyn Signer,
    ) -> Result<Signed<Self>, SignerError> {
        let signature = signer.sign_digest(self.digest_for(towers))?;
        Ok(Signed { body: self, signature })
    }

    /// Checks that `signer` signed it for `towers`.
    ///
    /// # Errors
    /// [`SignatureError`] where it did not.
    pub(crate) fn verify(
        &self,
        signature: Signature,
        towers: &TowersDomain,
        signer: Address,
    ) -> Result<(), SignatureError> {
        signature.verify(self.digest_for(towers), signer)
    }
}

/// Everything that a tower needs to defend a channel. No key is in it: whoever holds it can only
/// make the payee be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entrust {
    /// The chain and contract that the channel lives on.
    pub domain: Domain,
    /// The contract that holds the reward; zero where none is bound.
    pub towers: Address,
    /// The channel's parties and keys.
    pub config: ChannelConfig,
    /// The newest voucher, signed by the payer's authorizer.
    pub voucher: Signed<Voucher>,
    /// What is promised for defending it, signed by the payee's authorizer.
    pub appointment: Signed<Appointment>,
    /// Whose turn it is: towers wait for those before them. Below `turns`.
    pub turn: u8,
    /// How many towers hold this; at most [`TOWERS_MAX`].
    pub turns: u8,
}

impl Entrust {
    /// The channel.
    pub fn channel(&self) -> ChannelId {
        self.voucher.body.channel
    }

    /// What is promised over it in all.
    pub fn amount(&self) -> Amount {
        self.voucher.body.amount
    }

    /// Where the appointment is signed for.
    pub(crate) fn towers_domain(&self) -> TowersDomain {
        TowersDomain { chain_id: self.domain.chain_id, contract: self.towers }
    }

    /// The voucher as the contract takes it.
    pub fn claim(&self) -> Claim {
        Claim {
            config: self.config,
            amount: self.voucher.body.amount,
            signature: self.voucher.signature,
        }
    }

    /// Seconds after the close was started at which this tower acts, if nobody has.
    ///
    /// The payee's own node acts at once, tower 0 a slot later, and so on. All have acted when half
    /// the withdraw delay is over, which leaves the other half for fees that rise and nodes that
    /// fail.
    pub fn wait_secs(&self) -> u64 {
        let slots = u64::from(self.turns) + 1;
        let slot = (u64::from(self.config.withdraw_delay_secs) / 2 / slots).min(SLOT_SECS_MAX);
        slot * (u64::from(self.turn) + 1)
    }
}

/// Whose turn it is at `tower` among `towers` to defend `channel`: another order for each channel,
/// so that no tower is always the first.
pub fn turn_of(channel: ChannelId, tower: NodeId, towers: &[NodeId]) -> u8 {
    let rank = |node: &NodeId| keccak256([channel.0.0, node.0.0].concat());
    let own = rank(&tower);
    let before = towers.iter().filter(|node| rank(node) < own).count();
    u8::try_from(before).unwrap_or(u8::MAX)
}

/// A tower's signed word that it keeps an appointment. It is made after the appointment was made
/// durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Kept {
    /// Whose word it is.
    pub tower: NodeId,
    /// To whom.
    pub client: NodeId,
    /// The chain and contract that the channel lives on.
    pub domain: Domain,
    /// The channel.
    pub channel: ChannelId,
    /// What it will have credited at least.
    pub amount: Amount,
    /// The reward that it was promised.
    pub reward: Amount,
    /// Until when, in seconds since the epoch.
    pub expiry_secs: u64,
    /// Its turn, and of how many: as asked for, or as another client had it at this amount before.
    pub turn: (u8, u8),
    /// When it said so, by its clock.
    pub time: Timestamp,
}

impl DeviceStatement for Kept {
    const TAG: &'static str = "sparewire watch kept v1";
}

/// Why a tower does not keep an appointment.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[error("{reason}")]
pub struct WatchRefused {
    /// What for.
    pub code: WatchRefusal,
    /// In words, at most [`crate::REASON_LEN_MAX`] bytes.
    #[borsh(deserialize_with = "read_reason")]
    pub reason: String,
}

impl WatchRefused {
    /// A refusal with its reason made fit to be sent.
    pub fn new(code: WatchRefusal, reason: &str) -> Self {
        Self { code, reason: short_reason(reason) }
    }
}

/// What an appointment was turned down for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum WatchRefusal {
    /// Another chain or contract.
    WrongNetwork = 1,
    /// A signature or field is wrong.
    Invalid = 2,
    /// The channel is unknown, not final yet, closed, too small, claimed already, or its withdraw
    /// delay too short.
    ChannelUnusable = 3,
    /// The tower wants more, or another token.
    RewardTooSmall = 4,
    /// Not enough reward money is put aside.
    RewardUncovered = 5,
    /// The tower holds a newer voucher, or a better appointment.
    Older = 6,
    /// No room, in all or for this client.
    Full = 7,
    /// Too many at once; come again in a minute.
    Busy = 8,
    /// The tower cannot reach its chain, or its disk; come again in a minute.
    Unavailable = 9,
    /// Expired, or binding for longer than the tower binds itself.
    Expiry = 10,
}

/// Everything that is said on a watch stream: one question, one answer, on a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // what is sent often is the large one
pub enum WatchMessage {
    /// Payee: please watch.
    Entrust(Entrust),
    /// Tower: it is kept.
    Kept {
        /// What is kept.
        kept: Kept,
        /// The tower's device's signature.
        signature: DeviceSignature,
    },
    /// Tower: no.
    Refused(WatchRefused),
}

impl WatchMessage {
    /// The frame of this message, with its length.
    ///
    /// # Panics
    /// Where it is longer than [`WATCH_FRAME_LEN_MAX`]; nothing that we build is.
    pub fn to_frame(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Entrust(entrust) => (1u8, encode(entrust)),
            Self::Kept { kept, signature } => (2, encode(&(kept, signature))),
            Self::Refused(refused) => (3, encode(refused)),
        };
        join_frame(kind, &body, WATCH_FRAME_LEN_MAX)
    }

    /// Reads kind and body of a frame, without its length. `None` for a kind that this version
    /// does not know.
    ///
    /// # Errors
    /// [`DecodeError`] where a known kind is malformed or the frame too long or empty.
    pub fn from_frame(frame: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (kind, body) = split_frame(frame, WATCH_FRAME_LEN_MAX)?;
        Ok(Some(match kind {
            1 => Self::Entrust(decode(body, WATCH_FRAME_LEN_MAX)?),
            2 => {
                let (kept, signature) = decode(body, WATCH_FRAME_LEN_MAX)?;
                Self::Kept { kept, signature }
            }
            3 => Self::Refused(decode(body, WATCH_FRAME_LEN_MAX)?),
            _ => return Ok(None),
        }))
    }
}
