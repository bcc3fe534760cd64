//! What a keystore makes of its password, and what that costs.

use aes::Aes128;
use ctr::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sparewire_core::keccak256;
use zeroize::Zeroizing;

use crate::{
    KeystoreError,
    keystore::{Hex, corrupt, unsupported},
};

/// 1 GiB for scrypt's table (n = 2^20, r = 8) and a little for its blocks.
const MEMORY_BYTES_MAX: u64 = (1 << 30) + (1 << 20);
/// Memory times passes: about half a minute of one core.
const SCRYPT_WORK_BYTES_MAX: u64 = 8 << 30;
const PBKDF2_ROUNDS_MAX: u32 = 1 << 24;

/// How dear one guess at a password is, in files that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub(crate) log_n: u8,
}

impl Cost {
    /// scrypt with n = 2^18, r = 8, p = 1: 256 MiB and about a second, as geth does.
    pub const STANDARD: Self = Self { log_n: 18 };

    /// Next to nothing: for tests, which turn on the feature `insecure-cost`.
    #[cfg(any(test, feature = "insecure-cost"))]
    pub const INSECURE: Self = Self { log_n: 4 };
}

/// What a password makes of a salt: 16 bytes to encrypt, 16 to authenticate. The files of one
/// node share it, each with its own IV, so that a password is stretched once for all of them.
pub(crate) struct PasswordKey {
    pub(crate) kdf: Kdf,
    key: Zeroizing<[u8; 32]>,
}

impl PasswordKey {
    pub(crate) fn new(password: &str, cost: Cost) -> Result<Self, KeystoreError> {
        if password.is_empty() {
            return Err(KeystoreError::EmptyPassword);
        }
        let mut salt = vec![0; 32];
        getrandom::fill(&mut salt)?;
        Self::derive(&Kdf::Scrypt { log_n: cost.log_n, r: 8, p: 1, salt }, password)
    }

    pub(crate) fn derive(kdf: &Kdf, password: &str) -> Result<Self, KeystoreError> {
        let mut key = Zeroizing::new([0; 32]);
        let password = password.as_bytes();
        match kdf {
            Kdf::Scrypt { log_n, r, p, salt } => {
                let params = scrypt::Params::new(*log_n, *r, *p)
                    .map_err(|_| corrupt("impossible scrypt parameters".into()))?;
                scrypt::scrypt(password, salt, &params, key.as_mut())
                    .expect("scrypt gives 32 bytes");
            }
            Kdf::Pbkdf2 { rounds, salt } => {
                pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, *rounds, key.as_mut());
            }
        }
        Ok(Self { kdf: kdf.clone(), key })
    }

    /// All of it, for what is sealed otherwise than a keystore is; never both under one salt.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.key
    }

    /// Encrypts or decrypts.
    pub(crate) fn apply(&self, iv: &[u8; 16], text: &mut [u8]) {
        let mut key = Zeroizing::new([0; 16]);
        key.copy_from_slice(&self.key[..16]);
        ctr::Ctr128BE::<Aes128>::new((&*key).into(), iv.into()).apply_keystream(text);
    }

    pub(crate) fn mac(&self, ciphertext: &[u8]) -> [u8; 32] {
        let body = Zeroizing::new([&self.key[16..], ciphertext].concat());
        keccak256(&*body).0
    }
}

/// How a password is stretched, within the bounds that we accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kdf {
    Scrypt { log_n: u8, r: u32, p: u32, salt: Vec<u8> },
    Pbkdf2 { rounds: u32, salt: Vec<u8> },
}

impl Kdf {
    pub(crate) fn from_json(name: &str, params: serde_json::Value) -> Result<Self, KeystoreError> {
        let bad = |_: serde_json::Error| corrupt(format!("{name} parameters are malformed"));
        match name {
            "scrypt" => {
                let ScryptParams { n, r, p, dklen, salt } =
                    serde_json::from_value(params).map_err(bad)?;
                if dklen != 32 {
                    return Err(corrupt(format!("scrypt with n={n} r={r} p={p} dklen={dklen}")));
                }
                Self::scrypt(n, r, p, salt.0)
            }
            "pbkdf2" => {
                let Pbkdf2Params { c, dklen, prf, salt } =
                    serde_json::from_value(params).map_err(bad)?;
                if prf != "hmac-sha256" {
                    return Err(unsupported(format!("pbkdf2 with {prf}")));
                }
                if c == 0 || dklen != 32 {
                    return Err(corrupt(format!("pbkdf2 with c={c} dklen={dklen}")));
                }
                if c > PBKDF2_ROUNDS_MAX {
                    return Err(KeystoreError::TooCostly { kdf: format!("pbkdf2 c={c}") });
                }
                Ok(Self::Pbkdf2 { rounds: c, salt: salt.0 })
            }
            other => Err(unsupported(format!("kdf {other}"))),
        }
    }

    /// scrypt, where its parameters make sense and cost no more than we accept.
    pub(crate) fn scrypt(n: u64, r: u32, p: u32, salt: Vec<u8>) -> Result<Self, KeystoreError> {
        if !n.is_power_of_two() || n == 1 || r == 0 || p == 0 {
            return Err(corrupt(format!("scrypt with n={n} r={r} p={p}")));
        }
        let block = 128 * u64::from(r);
        let memory = n.saturating_add(u64::from(p)).saturating_mul(block);
        let work = n.saturating_mul(block).saturating_mul(u64::from(p));
        if memory > MEMORY_BYTES_MAX || work > SCRYPT_WORK_BYTES_MAX {
            return Err(KeystoreError::TooCostly { kdf: format!("scrypt n={n} r={r} p={p}") });
        }
        Ok(Self::Scrypt { log_n: n.trailing_zeros() as u8, r, p, salt })
    }

    pub(crate) fn to_json(&self) -> (&'static str, serde_json::Value) {
        let (name, params) = match self {
            Self::Scrypt { log_n, r, p, salt } => {
                let (n, salt) = (1 << log_n, Hex(salt.clone()));
                ("scrypt", serde_json::to_value(ScryptParams { n, r: *r, p: *p, dklen: 32, salt }))
            }
            Self::Pbkdf2 { rounds, salt } => {
                let (c, prf, salt) = (*rounds, "hmac-sha256".into(), Hex(salt.clone()));
                ("pbkdf2", serde_json::to_value(Pbkdf2Params { c, dklen: 32, prf, salt }))
            }
        };
        (name, params.expect("strings and numbers are JSON"))
    }

    /// Below OWASP's advice: scrypt n = 2^17, r = 8, p = 1, or 600,000 rounds of PBKDF2.
    /// Source: <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>.
    pub(crate) fn is_weak(&self) -> bool {
        match self {
            Self::Scrypt { log_n, r, p, .. } => (u64::from(r * p) << log_n) < 8 << 17,
            Self::Pbkdf2 { rounds, .. } => *rounds < 600_000,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ScryptParams {
    n: u64,
    r: u32,
    p: u32,
    dklen: u32,
    salt: Hex,
}

#[derive(Serialize, Deserialize)]
struct Pbkdf2Params {
    c: u32,
    dklen: u32,
    prf: String,
    salt: Hex,
}
