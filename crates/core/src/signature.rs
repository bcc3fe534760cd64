//! Ethereum signatures, and values that carry them: [`Signed`] is what arrived, [`Verified`] is
//! what was checked, and only [`Signed::verify`] leads from one to the other.

use std::{fmt, ops::Deref};

use alloy_primitives::{Address, B256, hex, keccak256};
use borsh::{BorshDeserialize, BorshSerialize};
use secp256k1::{
    Message, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};

use crate::typed_data::{Domain, TypedData};

/// A recoverable secp256k1 signature in Ethereum's form `r || s || v` with `v` 27 or 28 and a low
/// `s` (EIP-2), so that one message and key have one encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, BorshSerialize)]
pub struct Signature([u8; 65]);

impl Signature {
    /// Reads `r || s || v`.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] where `v` is not 27 or 28, `s` is not low, or `r` or `s` is
    /// no scalar.
    pub fn from_bytes(bytes: [u8; 65]) -> Result<Self, SignatureError> {
        let signature = Self(bytes);
        let recoverable = signature.recoverable()?;
        let mut normalized = recoverable.to_standard();
        normalized.normalize_s();
        if normalized != recoverable.to_standard() {
            return Err(SignatureError::Malformed);
        }
        Ok(signature)
    }

    /// From `r || s` and the recovery id's parity, as signers give them; a high `s` is mended.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] where `r` or `s` is no scalar.
    pub fn from_parts(rs: [u8; 64], odd_y: bool) -> Result<Self, SignatureError> {
        let mut standard = secp256k1::ecdsa::Signature::from_compact(&rs)
            .map_err(|_| SignatureError::Malformed)?;
        let before = standard;
        standard.normalize_s();
        let odd_y = odd_y ^ (before != standard);
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&standard.serialize_compact());
        bytes[64] = 27 + u8::from(odd_y);
        Self::from_bytes(bytes)
    }

    /// `r || s || v`, 65 bytes.
    pub fn to_bytes(self) -> [u8; 65] {
        self.0
    }

    /// The 64-byte form of EIP-2098: `r || (parity << 255 | s)`.
    pub fn to_compact(self) -> [u8; 64] {
        let mut compact = [0; 64];
        compact.copy_from_slice(&self.0[..64]);
        compact[32] |= (self.0[64] - 27) << 7;
        compact
    }

    /// The address whose key signed `digest`.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] where no key could have.
    pub fn recover(&self, digest: B256) -> Result<Address, SignatureError> {
        let key = SECP256K1
            .recover_ecdsa(Message::from_digest(digest.0), &self.recoverable()?)
            .map_err(|_| SignatureError::Malformed)?;
        Ok(Address::from_slice(&keccak256(&key.serialize_uncompressed()[1..])[12..]))
    }

    /// Checks that `signer` signed `digest`.
    ///
    /// # Errors
    /// [`SignatureError`] where it did not.
    pub fn verify(&self, digest: B256, signer: Address) -> Result<(), SignatureError> {
        let actual = self.recover(digest)?;
        if actual == signer {
            Ok(())
        } else {
            Err(SignatureError::WrongSigner { expected: signer, actual })
        }
    }

    fn recoverable(&self) -> Result<RecoverableSignature, SignatureError> {
        let id = match self.0[64] {
            27 => RecoveryId::Zero,
            28 => RecoveryId::One,
            _ => return Err(SignatureError::Malformed),
        };
        RecoverableSignature::from_compact(&self.0[..64], id).map_err(|_| SignatureError::Malformed)
    }
}

impl BorshDeserialize for Signature {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        Self::from_bytes(<[u8; 65]>::deserialize_reader(reader)?)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No signature at all: wrong length, recovery id or range, or a high `s`.
    #[error("malformed signature")]
    Malformed,
    /// A signature of somebody else, of other data, or for another chain or contract.
    #[error("signed by {actual}, not by {expected}")]
    WrongSigner {
        /// Who should have signed.
        expected: Address,
        /// Whose key it is, if the data is what was signed.
        actual: Address,
    },
    /// A device signature that does not verify.
    #[error("not signed by the device {0}")]
    WrongDevice(crate::NodeId),
}

/// A value with a signature that nobody has checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signed<T> {
    /// What is claimed to be signed.
    pub body: T,
    /// The signature.
    pub signature: Signature,
}

impl<T: TypedData> Signed<T> {
    /// Checks that `signer` signed the body for `domain`.
    ///
    /// # Errors
    /// [`SignatureError`] where it did not.
    pub fn verify(self, domain: &Domain, signer: Address) -> Result<Verified<T>, SignatureError> {
        self.signature.verify(self.body.digest(domain), signer)?;
        Ok(Verified(self))
    }
}

/// A value whose signature was checked against the key that should have signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<T>(Signed<T>);

impl<T: TypedData> Verified<T> {
    /// Signs `body` for `domain` with our own key.
    ///
    /// # Errors
    /// [`SignerError`] where the key's keeper refuses or cannot be reached.
    pub fn sign(body: T, domain: &Domain, signer: &dyn Signer) -> Result<Self, SignerError> {
        let signature = signer.sign_digest(body.digest(domain))?;
        Ok(Self(Signed { body, signature }))
    }
}

impl<T> Verified<T> {
    /// The signed form, to be sent or stored; who reads it back verifies it again.
    pub fn signed(&self) -> &Signed<T> {
        &self.0
    }

    /// The signature.
    pub fn signature(&self) -> Signature {
        self.0.signature
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.body
    }
}

/// Holds one secp256k1 key and signs digests with it: a hot key, a keystore, an HSM.
pub trait Signer: Send + Sync {
    /// The Ethereum address of the key.
    fn address(&self) -> Address;

    /// Signs a 32-byte digest with a low `s`.
    ///
    /// # Errors
    /// [`SignerError`] where the key's keeper refuses or cannot be reached.
    fn sign_digest(&self, digest: B256) -> Result<Signature, SignerError>;
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The keeper of the key said no, or is not there.
    #[error("the signer refused: {reason}")]
    Refused {
        /// In its own words.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(secret: u8, digest: B256) -> Signature {
        let key = secp256k1::SecretKey::from_byte_array([secret; 32]).expect("a scalar");
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &key);
        let (id, rs) = signature.serialize_compact();
        Signature::from_parts(rs, i32::from(id) & 1 == 1).expect("well formed")
    }

    #[test]
    fn a_signature_recovers_to_its_key_and_to_no_other_for_another_digest() {
        let (one, two) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let signature = sign(7, one);
        let address = signature.recover(one).expect("recovers");
        assert_eq!(address, sign(7, two).recover(two).expect("recovers"));
        assert_ne!(signature.recover(two).ok(), Some(address));
    }

    #[test]
    fn a_high_s_is_refused_on_reading_and_mended_from_a_signer() {
        let digest = B256::repeat_byte(3);
        let good = sign(9, digest).to_bytes();
        // n - s, with the other parity, is the same signature in its malleable form.
        let n = hex!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
        let n = alloy_primitives::U256::from_be_bytes(n);
        let s = alloy_primitives::U256::from_be_slice(&good[32..64]);
        let mut high = good;
        high[32..64].copy_from_slice(&(n - s).to_be_bytes::<32>());
        high[64] = 27 + 28 - good[64];
        assert_eq!(Signature::from_bytes(high), Err(SignatureError::Malformed));
        let rs: [u8; 64] = high[..64].try_into().expect("64 bytes");
        assert_eq!(Signature::from_parts(rs, high[64] == 28).map(Signature::to_bytes), Ok(good));
    }

    #[test]
    fn zero_and_unknown_recovery_ids_are_refused() {
        assert_eq!(Signature::from_bytes([0; 65]), Err(SignatureError::Malformed));
        let mut bytes = sign(9, B256::ZERO).to_bytes();
        bytes[64] = 0;
        assert_eq!(Signature::from_bytes(bytes), Err(SignatureError::Malformed));
    }
}
