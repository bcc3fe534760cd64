//! Keys held in this process.

use std::fmt;

use ed25519_dalek::Signer as _;
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use sparewire_core::{
    Address, B256, DeviceSignature, DeviceSigner, NodeId, Signature, Signer, SignerError, keccak256,
};
use zeroize::Zeroizing;

/// A secp256k1 key in memory. Its secret is wiped when it is dropped and never shown.
pub struct LocalKey {
    secret: SecretKey,
    address: Address,
}

impl LocalKey {
    /// The key with this secret scalar (big endian); `None` where it is zero or not below the
    /// group's order.
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        let secret = SecretKey::from_byte_array(*secret).ok()?;
        let public = PublicKey::from_secret_key(SECP256K1, &secret).serialize_uncompressed();
        let address = Address::from_slice(&keccak256(&public[1..])[12..]);
        Some(Self { secret, address })
    }

    /// A new random key, from the operating system's generator.
    ///
    /// # Errors
    /// Where the operating system gives no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        loop {
            let mut secret = Zeroizing::new([0; 32]);
            getrandom::fill(secret.as_mut())?;
            if let Some(key) = Self::from_secret(&secret) {
                return Ok(key); // all but one in 2^127 draws
            }
        }
    }

    /// The secret scalar, big endian; to be stored encrypted or with care.
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.secret_bytes())
    }
}

impl Drop for LocalKey {
    fn drop(&mut self) {
        self.secret.non_secure_erase();
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalKey({})", self.address)
    }
}

impl Signer for LocalKey {
    fn address(&self) -> Address {
        self.address
    }

    fn sign_digest(&self, digest: B256) -> Result<Signature, SignerError> {
        let message = Message::from_digest(digest.0);
        let (id, rs) = SECP256K1.sign_ecdsa_recoverable(message, &self.secret).serialize_compact();
        Signature::from_parts(rs, i32::from(id) & 1 == 1)
            .map_err(|error| SignerError::Refused { reason: error.to_string() })
    }
}

/// A device key: Ed25519, the identity of a transport endpoint.
pub struct DeviceKey(ed25519_dalek::SigningKey);

impl DeviceKey {
    /// The key with this secret seed.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// A new random key, from the operating system's generator.
    ///
    /// # Errors
    /// Where the operating system gives no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut())?;
        Ok(Self::from_secret(&secret))
    }

    /// The secret seed; to be handed to the transport or stored with care.
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", self.node_id())
    }
}

impl DeviceSigner for DeviceKey {
    fn node_id(&self) -> NodeId {
        NodeId(B256::from(self.0.verifying_key().to_bytes()))
    }

    fn sign_bytes(&self, bytes: &[u8]) -> DeviceSignature {
        DeviceSignature(self.0.sign(bytes).to_bytes())
    }
}
