//! Device keys: Ed25519, the identity of a transport endpoint. They sign offers and terms and
//! never hold money.

use std::fmt;

use alloy_primitives::{B256, hex};
use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::{encode, signature::SignatureError};

/// The public device key of a node: its name on the network.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub B256);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for NodeId {
    type Err = <B256 as std::str::FromStr>::Err;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A value that a device signs: its bytes are `TAG || canonical encoding`.
pub trait DeviceStatement: BorshSerialize {
    /// Keeps a signature of one kind of statement from counting as another,
    /// for example `"sparewire terms v1"`.
    const TAG: &'static str;

    /// The bytes that are signed.
    fn signing_bytes(&self) -> Vec<u8> {
        [Self::TAG.as_bytes(), &[0], &encode(self)].concat()
    }
}

/// An Ed25519 signature by a device key.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DeviceSignature(pub [u8; 64]);

impl fmt::Debug for DeviceSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSignature({})", hex::encode(self.0))
    }
}

impl DeviceSignature {
    /// Checks that `node` signed `statement`; small-order keys and other malleable forms are
    /// refused (`verify_strict`).
    ///
    /// # Errors
    /// [`SignatureError::WrongDevice`] where it did not.
    pub fn verify<T: DeviceStatement>(
        &self,
        node: NodeId,
        statement: &T,
    ) -> Result<(), SignatureError> {
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        VerifyingKey::from_bytes(&node.0.0)
            .and_then(|key| key.verify_strict(&statement.signing_bytes(), &signature))
            .map_err(|_| SignatureError::WrongDevice(node))
    }
}

/// Holds a device key and signs with it.
pub trait DeviceSigner: Send + Sync {
    /// The public key.
    fn node_id(&self) -> NodeId;

    /// Signs raw bytes; callers go through [`DeviceStatement::signing_bytes`].
    fn sign_bytes(&self, bytes: &[u8]) -> DeviceSignature;
}
