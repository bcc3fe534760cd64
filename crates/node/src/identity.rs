//! Who a node is: its device, its authorizer, its wallet, and the wallet's word for them.

use std::{sync::Arc, time::Duration};

use sparewire_core::{
    Address, DeviceSigner, Domain, NodeId, SignatureError, Signed, Signer, SignerError, Timestamp,
    Verified,
};
use sparewire_protocol::{
    Delegation,
    settlement::{Chain, Standing},
};

use crate::session::{Clock, SessionError};

/// The keys that a running node works with. The wallet's own key is not among them.
#[derive(Clone)]
pub struct Identity {
    /// Signs terms and acceptances; its secret is also the transport endpoint's.
    pub device: Arc<dyn DeviceSigner>,
    /// Signs vouchers, receipts and cooperative closes.
    pub authorizer: Arc<dyn Signer>,
    /// The wallet's word that these two act for it.
    pub delegation: Signed<Delegation>,
}

impl Identity {
    /// Has the wallet sign a delegation that counts for `valid_secs` seconds.
    ///
    /// # Errors
    /// [`SignerError`] where the wallet does not sign.
    pub fn delegate(
        wallet: &dyn Signer,
        device: Arc<dyn DeviceSigner>,
        authorizer: Arc<dyn Signer>,
        domain: &Domain,
        now: Timestamp,
        valid_secs: u64,
    ) -> Result<Self, SignerError> {
        let delegation = Delegation {
            wallet: wallet.address(),
            device: device.node_id(),
            authorizer: authorizer.address(),
            expiry_secs: now.as_secs().saturating_add(valid_secs),
        };
        let delegation = *Verified::sign(delegation, domain, wallet)?.signed();
        Ok(Self { device, authorizer, delegation })
    }

    /// An identity by the word of a wallet whose key is elsewhere.
    ///
    /// # Errors
    /// [`DelegationError`] where the word is not about these keys, is not the wallet's on `domain`, or
    /// does not count any more.
    pub fn delegated(
        device: Arc<dyn DeviceSigner>,
        authorizer: Arc<dyn Signer>,
        delegation: Signed<Delegation>,
        domain: &Domain,
        now: Timestamp,
    ) -> Result<Self, DelegationError> {
        let Delegation { wallet, device: named, authorizer: key, expiry_secs } = delegation.body;
        if (named, key) != (device.node_id(), authorizer.address()) {
            return Err(DelegationError::OtherKeys { device: named, authorizer: key });
        }
        delegation.verify(domain, wallet)?;
        if now.as_secs() > expiry_secs {
            return Err(DelegationError::Expired { expired_secs: expiry_secs });
        }
        Ok(Self { device, authorizer, delegation })
    }

    /// The wallet that pays or is paid.
    pub fn wallet(&self) -> Address {
        self.delegation.body.wallet
    }

    /// The device key: the node's name on the network.
    pub fn node_id(&self) -> NodeId {
        self.device.node_id()
    }
}

/// Why a wallet's word makes no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DelegationError {
    /// It is about another node.
    #[error("it names device {device} and authorizer {authorizer}, which are not this node's")]
    OtherKeys {
        /// The device that it names.
        device: NodeId,
        /// The authorizer that it names.
        authorizer: Address,
    },
    /// It is forged, or for another chain or contract.
    #[error("it is not its wallet's word on this chain and contract: {0}")]
    Forged(#[from] SignatureError),
    /// It is over.
    #[error("it counted until {expired_secs} s after 1970")]
    Expired {
        /// The last second in which it counted.
        expired_secs: u64,
    },
}

/// Waits until the keys of a session's other end do not act for their wallet any more, looking
/// `every` so often, and returns why, as the other end is told. What was promised before counts all
/// the same.
pub(crate) async fn until_lapsed(
    chain: &Arc<dyn Chain>,
    keys: Option<Address>,
    delegation: &Delegation,
    every: Duration,
    clock: &Clock,
) -> &'static str {
    loop {
        tokio::time::sleep(every).await;
        if clock().as_secs() > delegation.expiry_secs {
            return "the wallet's delegation has expired; connect again";
        }
        match check_standing(chain, keys, delegation).await {
            Ok(()) => {}
            Err(SessionError::Policy(_)) => return "the wallet has revoked these keys",
            // A chain that stays silent is for those to judge who look at the channel.
            Err(error) => tracing::warn!(%error, "cannot check whether keys are revoked"),
        }
    }
}

/// Turns keys down that their wallet has revoked in the registry `keys`, before its word for them
/// has expired.
///
/// # Errors
/// [`SessionError::Policy`] where they are revoked, [`SessionError::Chain`] where nobody can tell.
pub(crate) async fn check_standing(
    chain: &Arc<dyn Chain>,
    keys: Option<Address>,
    delegation: &Delegation,
) -> Result<(), SessionError> {
    let Some(keys) = keys else { return Ok(()) };
    match chain.standing(keys, delegation).await? {
        Standing::Revoked => Err(SessionError::Policy(format!(
            "wallet {} has revoked this device or its authorizer on chain",
            delegation.wallet
        ))),
        // Without a registration the delegation itself decides, and a newer one than what was
        // registered counts.
        Standing::Unknown | Standing::Registered | Standing::Expired => Ok(()),
    }
}
