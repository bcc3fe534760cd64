//! Receipts: what both ends agree was carried. Second station of the river.

use std::sync::LazyLock;

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::{
    Address, Amount, B256, ChannelId, Domain, SessionId, Signature, SignatureError, Signed,
    StructHasher, Timestamp, TypedData, Verified, keccak256,
};

use crate::meter::Reading;

/// A checkpoint of a session. Receipts of one channel form a chain by hash; two different ones
/// with one sequence number convict whoever signed both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Receipt {
    /// The channel that pays.
    pub channel: ChannelId,
    /// The session.
    pub session: SessionId,
    /// 1 for the channel's first receipt, then one more each, across sessions.
    pub sequence: u64,
    /// What the session has carried so far.
    pub reading: Reading,
    /// Everything owed over the channel so far.
    pub amount: Amount,
    /// Hash (EIP-712 digest) of the receipt before, or zero.
    pub previous: B256,
    /// The payer's clock.
    pub time: Timestamp,
}

impl TypedData for Receipt {
    const TYPE: &'static str = "Receipt(bytes32 channelId,bytes32 sessionId,uint64 sequence,\
        uint64 up,uint64 down,uint128 amount,bytes32 previous,uint64 time)";

    fn type_hash() -> B256 {
        static HASH: LazyLock<B256> = LazyLock::new(|| keccak256(Receipt::TYPE));
        *HASH
    }

    fn fields(&self, hasher: &mut StructHasher) {
        hasher
            .word(self.channel.0)
            .word(self.session.0)
            .uint(u128::from(self.sequence))
            .uint(u128::from(self.reading.up.get()))
            .uint(u128::from(self.reading.down.get()))
            .uint(self.amount.get())
            .word(self.previous)
            .uint(u128::from(self.time.as_ms()));
    }
}

/// A receipt that both ends have signed, as it is sent and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Countersigned {
    /// The receipt with the payer authorizer's signature.
    pub receipt: Signed<Receipt>,
    /// The payee authorizer's signature of the same digest.
    pub payee_signature: Signature,
}

impl Countersigned {
    /// Checks both signatures.
    ///
    /// # Errors
    /// [`SignatureError`] where one of them is not of the key that the channel names.
    pub fn verify(
        &self,
        domain: &Domain,
        payer_authorizer: Address,
        payee_authorizer: Address,
    ) -> Result<Verified<Receipt>, SignatureError> {
        let countersignature = Signed { body: self.receipt.body, signature: self.payee_signature };
        countersignature.verify(domain, payee_authorizer)?;
        self.receipt.verify(domain, payer_authorizer)
    }
}

/// Where a channel's chain of receipts stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiptChain {
    /// Sequence number of the newest receipt; 0 where there is none.
    pub sequence: u64,
    /// Its hash; zero where there is none.
    pub hash: B256,
}

impl ReceiptChain {
    /// The chain's state after `receipt`.
    pub fn after(receipt: &Receipt, domain: &Domain) -> Self {
        Self { sequence: receipt.sequence, hash: receipt.digest(domain) }
    }
}
