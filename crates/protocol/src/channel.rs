//! Channels: money that a payer has put aside on chain for one payee, and the vouchers that
//! promise parts of it. Fourth station of the river; what leaves here is what a contract accepts.

use std::sync::LazyLock;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use sparewire_core::{
    Address, Amount, B256, ChannelId, Domain, Signature, StructHasher, TypedData, Verified,
    keccak256,
};

/// Who pays whom, in what, and by which keys. Its EIP-712 digest is the channel's id, so nothing
/// of it can change while the channel lives.
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
pub struct ChannelConfig {
    /// Wallet that owns the money.
    pub payer: Address,
    /// Key that signs vouchers and receipts for the payer. (On chain, zero stands for the payer's
    /// own EIP-1271 wallet; sessions need a key.)
    pub payer_authorizer: Address,
    /// Wallet that is paid.
    pub payee: Address,
    /// Key that signs receipts and cooperative closes for the payee.
    pub payee_authorizer: Address,
    /// The ERC-20 token that is paid in.
    pub token: Address,
    /// Seconds between a unilateral close and the return of the rest to the payer.
    pub withdraw_delay_secs: u32,
    /// Tells channels between the same parties apart. Sessions use 64 bits, which is what a packed
    /// claim can carry.
    pub salt: u64,
}

impl TypedData for ChannelConfig {
    const TYPE: &'static str = "ChannelConfig(address payer,address payerAuthorizer,address payee,\
        address payeeAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)";

    fn fields(&self, hasher: &mut StructHasher) {
        hasher
            .address(self.payer)
            .address(self.payer_authorizer)
            .address(self.payee)
            .address(self.payee_authorizer)
            .address(self.token)
            .uint(u128::from(self.withdraw_delay_secs))
            .uint(u128::from(self.salt));
    }
}

impl ChannelConfig {
    /// The channel's id on `domain`.
    pub fn id(&self, domain: &Domain) -> ChannelId {
        ChannelId(self.digest(domain))
    }
}

/// A promise of `amount` in total over a channel; the highest voucher supersedes all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Voucher {
    /// The channel.
    pub channel: ChannelId,
    /// Everything promised over the channel since it was opened.
    pub amount: Amount,
}

impl TypedData for Voucher {
    const TYPE: &'static str = "Voucher(bytes32 channelId,uint128 amount)";

    fn type_hash() -> B256 {
        static HASH: LazyLock<B256> = LazyLock::new(|| keccak256(Voucher::TYPE));
        *HASH
    }

    fn fields(&self, hasher: &mut StructHasher) {
        hasher.word(self.channel.0).uint(self.amount.get());
    }
}

/// The payee side's agreement that a channel ends at once when `amount` in total is credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct CooperativeClose {
    /// The channel.
    pub channel: ChannelId,
    /// The least that must have been credited to the payee when it closes.
    pub amount: Amount,
}

impl TypedData for CooperativeClose {
    const TYPE: &'static str = "CooperativeClose(bytes32 channelId,uint128 amount)";

    fn fields(&self, hasher: &mut StructHasher) {
        hasher.word(self.channel.0).uint(self.amount.get());
    }
}

/// A wallet's word that `device` may speak for it and `authorizer` may sign for its channels.
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
pub struct Delegation {
    /// The wallet.
    pub wallet: Address,
    /// The node's device key.
    pub device: sparewire_core::NodeId,
    /// The key that its channels name.
    pub authorizer: Address,
    /// Seconds since the epoch after which it no longer counts.
    pub expiry_secs: u64,
}

impl TypedData for Delegation {
    const TYPE: &'static str =
        "Delegation(address wallet,bytes32 device,address authorizer,uint64 expiry)";

    fn fields(&self, hasher: &mut StructHasher) {
        hasher
            .address(self.wallet)
            .word(self.device.0)
            .address(self.authorizer)
            .uint(u128::from(self.expiry_secs));
    }
}

/// A wallet's word that a device or an authorizer never acts for it again, for anybody to bring to
/// the registry of keys until a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revocation {
    /// The wallet.
    pub wallet: Address,
    /// The device; zero leaves devices alone.
    pub device: sparewire_core::NodeId,
    /// The authorizer; zero leaves authorizers alone.
    pub authorizer: Address,
    /// Seconds since the epoch until which the registry takes it. What it took counts for good.
    pub deadline_secs: u64,
}

impl TypedData for Revocation {
    const TYPE: &'static str =
        "Revocation(address wallet,bytes32 device,address authorizer,uint256 deadline)";

    fn fields(&self, hasher: &mut StructHasher) {
        hasher
            .address(self.wallet)
            .word(self.device.0)
            .address(self.authorizer)
            .uint(u128::from(self.deadline_secs));
    }
}

/// Where a channel stands on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelStatus {
    /// Vouchers count.
    Open,
    /// The payer has asked to leave; vouchers count until somebody finishes the close, which
    /// nobody can before this time.
    Closing {
        /// Block time in seconds.
        finish_at_secs: u64,
    },
    /// Over; the id is never used again.
    Closed,
}

/// What the chain's final state says of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelFacts {
    /// Put aside in total, what is claimed included.
    pub reserved: Amount,
    /// Credited to the payee so far.
    pub claimed: Amount,
    /// Where it stands.
    pub status: ChannelStatus,
}

/// One voucher as the contract takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The channel's configuration; the contract stores only its hash's state.
    pub config: ChannelConfig,
    /// What the voucher promises in total.
    pub amount: Amount,
    /// The payer authorizer's signature of the voucher.
    pub signature: Signature,
}

impl Claim {
    /// The claim of a voucher that was checked against `config`.
    ///
    /// # Panics
    /// Where the voucher is of another channel: a claim of it would cost gas and pay nothing.
    pub fn new(config: ChannelConfig, domain: &Domain, voucher: &Verified<Voucher>) -> Self {
        assert_eq!(voucher.channel, config.id(domain), "voucher and channel belong together");
        Self { config, amount: voucher.amount, signature: voucher.signature() }
    }
}

/// Length of the packed claim's head: token, payee, payee authorizer, withdraw delay.
pub const PACKED_HEAD_LEN: usize = 65;
/// Length of each of its entries: payer, payer authorizer, salt, amount, signature (EIP-2098).
pub const PACKED_ENTRY_LEN: usize = 125;

/// Lays claims out as `claimPacked` reads them, in groups that share token, payee, payee
/// authorizer and withdraw delay (the head), since one call takes one group. The order of claims
/// within a group is kept.
pub fn pack_claims(claims: &[Claim]) -> Vec<Vec<u8>> {
    let mut groups: Vec<Vec<u8>> = Vec::new();
    for claim in claims {
        let config = &claim.config;
        let mut head = Vec::with_capacity(PACKED_HEAD_LEN);
        head.extend_from_slice(config.token.as_slice());
        head.extend_from_slice(config.payee.as_slice());
        head.extend_from_slice(config.payee_authorizer.as_slice());
        head.push(0);
        head.extend_from_slice(&config.withdraw_delay_secs.to_be_bytes());
        let group = match groups.iter_mut().find(|group| group.starts_with(&head)) {
            Some(group) => group,
            None => groups.push_mut(head),
        };
        group.extend_from_slice(config.payer.as_slice());
        group.extend_from_slice(config.payer_authorizer.as_slice());
        group.extend_from_slice(&config.salt.to_be_bytes());
        group.extend_from_slice(&claim.amount.get().to_be_bytes()[3..]);
        group.extend_from_slice(&claim.signature.to_compact());
    }
    groups
}
