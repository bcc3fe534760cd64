//! Stake: what a provider bonds, and the evidence that takes it away. The contract judges; what it
//! would refuse is refused here first, before anybody pays gas for it.

use serde::{Deserialize, Serialize};
use sparewire_core::{Address, Amount, B256, Domain, SignatureError, Signed, TypedData, keccak256};

use crate::{
    channel::{ChannelConfig, Delegation},
    receipt::{Countersigned, Receipt},
};

/// What final state of a stake contract says of it and of what one holder has bonded there. Amounts
/// are in the token's smallest unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BondFacts {
    /// The token of all bonds there.
    pub token: Address,
    /// What one piece of evidence takes from a bond.
    pub penalty: Amount,
    /// All that the holder has bonded, what is leaving included.
    pub bonded: Amount,
    /// What of it was announced to leave.
    pub leaving: Amount,
    /// From when on that may be withdrawn, in seconds of block time; zero where nothing is announced.
    pub due_secs: u64,
    /// What of it a dispute holds.
    pub locked: Amount,
    /// What is neither locked nor leaving: what others can rely on.
    pub covered: Amount,
}

/// How far a report has come, by final state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportFacts {
    /// From when on the evidence may be shown, in seconds of block time; `None` where nobody
    /// committed to it.
    pub ready_secs: Option<u64>,
    /// Whether it was shown, by whomever.
    pub used: bool,
}

/// For how long a wallet answers for what an authorizer of its signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liability {
    /// When the delegation ends, in seconds since the epoch: what the wallet signed, or what the
    /// registry of keys has where that is later.
    pub expiry_secs: u64,
    /// Up to when, in seconds of block time, the contract takes evidence: until the delegation
    /// ended or the authorizer was revoked, and the days of grace after that.
    pub until_secs: u64,
}

/// What a report took from a bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Slashing {
    /// Who lost it.
    pub provider: Address,
    /// Who reported it.
    pub reporter: Address,
    /// What the reporter got: at most half.
    pub reward: Amount,
    /// What is gone.
    pub burned: Amount,
}

/// Two different receipts of one channel, session and number, both signed by the authorizer that the
/// payee's wallet named: what the contract slashes that wallet for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    delegation: Signed<Delegation>,
    config: ChannelConfig,
    receipts: [Signed<Receipt>; 2],
}

/// Why the contract would not slash for two receipts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoContradiction {
    /// They do not contradict each other.
    #[error("the receipts are not two different ones of one channel, session and number")]
    Alike,
    /// They are not of the payee that the delegation speaks for.
    #[error("the channel does not pay {wallet} under its authorizer {authorizer}")]
    OfAnother {
        /// The delegation's wallet.
        wallet: Address,
        /// The delegation's authorizer.
        authorizer: Address,
    },
    /// The payee's side did not sign all of it.
    #[error("the payee did not sign this: {0}")]
    Signature(#[from] SignatureError),
}

impl Contradiction {
    /// Checks what the contract checks, all but what only the chain knows: whether the key still
    /// answers for the wallet, and whether there is anything to take. The payer's signatures do not
    /// matter.
    ///
    /// # Errors
    /// [`NoContradiction`].
    pub fn new(
        domain: &Domain,
        delegation: Signed<Delegation>,
        config: ChannelConfig,
        [first, second]: [Countersigned; 2],
    ) -> Result<Self, NoContradiction> {
        let Delegation { wallet, authorizer, .. } = delegation.body;
        let (one, other) = (first.receipt.body, second.receipt.body);
        let number = |receipt: &Receipt| (receipt.channel, receipt.session, receipt.sequence);
        if one == other || number(&one) != number(&other) {
            return Err(NoContradiction::Alike);
        }
        if one.channel != config.id(domain)
            || (config.payee, config.payee_authorizer) != (wallet, authorizer)
        {
            return Err(NoContradiction::OfAnother { wallet, authorizer });
        }
        delegation.verify(domain, wallet)?;
        let by_payee =
            |it: Countersigned| Signed { body: it.receipt.body, signature: it.payee_signature };
        let receipts = [first, second].map(by_payee);
        for receipt in receipts {
            receipt.verify(domain, authorizer)?;
        }
        Ok(Self { delegation, config, receipts })
    }

    /// The same under a later expiry that the registry of keys has of this delegation: the contract
    /// asks for no signature of that one.
    #[must_use]
    pub fn registered_until(mut self, expiry_secs: u64) -> Self {
        let expiry = &mut self.delegation.body.expiry_secs;
        *expiry = expiry_secs.max(*expiry);
        self
    }

    /// Whose bond answers for it.
    pub fn provider(&self) -> Address {
        self.delegation.body.wallet
    }

    /// The wallet's word for the authorizer.
    pub fn delegation(&self) -> &Signed<Delegation> {
        &self.delegation
    }

    /// The channel of both.
    pub fn config(&self) -> &ChannelConfig {
        &self.config
    }

    /// Both, with the payee authorizer's signatures.
    pub fn receipts(&self) -> &[Signed<Receipt>; 2] {
        &self.receipts
    }

    /// Its name in the contract: one for each wallet, channel, session and number
    /// (`Stake.receiptsEvidence`).
    pub fn evidence(&self) -> B256 {
        let receipt = &self.receipts[0].body;
        hash_words([
            Receipt::type_hash(),
            self.provider().into_word(),
            receipt.channel.0,
            receipt.session.0,
            B256::left_padding_from(&receipt.sequence.to_be_bytes()),
        ])
    }

    /// What `reporter` commits to before it shows the evidence (`Stake.commit`). `salt` hides it
    /// until then.
    pub fn commitment(&self, reporter: Address, salt: B256) -> B256 {
        hash_words([self.evidence(), reporter.into_word(), salt])
    }
}

/// `keccak256(abi.encode(...))` of values of one word each.
fn hash_words<const N: usize>(words: [B256; N]) -> B256 {
    keccak256(words.map(|word| word.0).concat())
}
