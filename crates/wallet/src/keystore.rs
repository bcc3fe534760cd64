//! Encrypted keystore files: Ethereum's Web3 Secret Storage, version 3, as geth, Foundry and
//! most wallets read and write it.
//! Source: <https://ethereum.org/developers/docs/data-structures-and-encoding/web3-secret-storage/>.
//!
//! A password becomes 32 bytes by scrypt or PBKDF2; the first half encrypts with AES-128-CTR, the
//! second authenticates the ciphertext with `keccak256(half || ciphertext)`. What V3 cannot hold
//! (an Ed25519 device seed, a mnemonic's entropy) stands in the same envelope, without `address`
//! and with our own field `sparewire` that names its kind, so that other programs refuse it. The
//! code does not cover the IV: the key that comes out is compared with the address in the file.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use alloy_primitives::hex;
use serde::{Deserialize, Serialize};
use sparewire_core::{Address, DeviceSigner, NodeId, Signer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    Cost, DeviceKey, HdError, HdWallet, LocalKey, Mnemonic, Warning, file,
    password::{Kdf, PasswordKey},
};

/// What a keystore protects.
#[derive(Debug)]
pub enum Secret {
    /// A secp256k1 key: a wallet or an authorizer.
    Key(LocalKey),
    /// An Ed25519 device key.
    Device(DeviceKey),
    /// The words that keys are derived from.
    Mnemonic(Mnemonic),
}

impl Secret {
    /// What may be said of it in public.
    ///
    /// # Errors
    /// Where a mnemonic has no first wallet, which one in 2^127 has not.
    pub fn identity(&self) -> Result<Identity, HdError> {
        Ok(match self {
            Self::Key(key) => Identity::Key { address: Some(key.address()) },
            Self::Device(key) => Identity::Device { node_id: key.node_id() },
            Self::Mnemonic(mnemonic) => Identity::Mnemonic {
                first_wallet: HdWallet::new(mnemonic, "").wallet(0)?.address(),
            },
        })
    }

    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Key(key) => Zeroizing::new(key.secret().to_vec()),
            Self::Device(key) => Zeroizing::new(key.secret().to_vec()),
            Self::Mnemonic(mnemonic) => mnemonic.entropy(),
        }
    }

    /// The secret that a file with this identity holds; `None` where the bytes cannot be one.
    fn from_bytes(identity: Identity, bytes: &[u8]) -> Option<Self> {
        match identity {
            Identity::Key { .. } => LocalKey::from_secret(bytes.try_into().ok()?).map(Self::Key),
            Identity::Device { .. } => {
                Some(Self::Device(DeviceKey::from_secret(bytes.try_into().ok()?)))
            }
            Identity::Mnemonic { .. } => Mnemonic::from_entropy(bytes).map(Self::Mnemonic),
        }
    }
}

/// Whose secret a keystore says it holds; readable without the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A secp256k1 key.
    Key {
        /// Its address; Foundry, for one, leaves it out.
        address: Option<Address>,
    },
    /// A device key.
    Device {
        /// Its public key.
        node_id: NodeId,
    },
    /// A mnemonic.
    Mnemonic {
        /// The address of its wallet 0 under the empty passphrase, to tell it from others.
        first_wallet: Address,
    },
}

impl Identity {
    /// Whether a secret with the identity `actual` is what a file with this one promised.
    fn is_kept_by(&self, actual: &Self) -> bool {
        self == actual || matches!((self, actual), (Self::Key { address: None }, Self::Key { .. }))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { address: Some(address) } => write!(f, "key {address}"),
            Self::Key { address: None } => f.write_str("key without a name"),
            Self::Device { node_id } => write!(f, "device {node_id}"),
            Self::Mnemonic { first_wallet } => write!(f, "mnemonic of {first_wallet}"),
        }
    }
}

/// A keystore as it is stored: encrypted.
#[derive(Clone, Debug)]
pub struct Keystore {
    id: String,
    identity: Identity,
    kdf: Kdf,
    iv: [u8; 16],
    ciphertext: Vec<u8>,
    mac: [u8; 32],
}

impl Keystore {
    /// Encrypts a secret under a password. Takes about a second at [`Cost::STANDARD`].
    ///
    /// # Errors
    /// [`KeystoreError::EmptyPassword`], or where the operating system gives no randomness.
    pub fn encrypt(secret: &Secret, password: &str, cost: Cost) -> Result<Self, KeystoreError> {
        Self::seal(secret, &PasswordKey::new(password, cost)?)
    }

    /// Decrypts with the password. Takes as long as the file's parameters ask for.
    ///
    /// # Errors
    /// [`KeystoreError`] where the password is wrong, the parameters are absurd or the secret is
    /// not the one that the file names.
    pub fn decrypt(&self, password: &str) -> Result<Secret, KeystoreError> {
        self.open(&PasswordKey::derive(&self.kdf, password)?)
    }

    /// Whose secret it says it holds. Anybody can write that; [`Keystore::decrypt`] checks it.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Reads a V3 file's content.
    ///
    /// # Errors
    /// [`KeystoreError::Corrupt`] where it is no keystore, [`KeystoreError::Unsupported`] where it
    /// is one of a kind that we do not read, [`KeystoreError::TooCostly`] where opening it would
    /// take more than 1 GiB of memory or half a minute.
    pub fn from_json(json: &[u8]) -> Result<Self, KeystoreError> {
        let file: V3 = serde_json::from_slice(json).map_err(|error| {
            // Not its own words: they may repeat a value, and the file may be a raw key.
            let (line, column) = (error.line(), error.column());
            corrupt(format!("no version 3 keystore (line {line}, column {column})"))
        })?;
        if file.version.as_u64() != Some(3) {
            return Err(unsupported(format!("version {}", file.version)));
        }
        let Crypto { cipher, cipherparams, ciphertext, kdf, kdfparams, mac } = file.crypto;
        if cipher != "aes-128-ctr" {
            return Err(unsupported(format!("cipher {cipher}")));
        }
        let identity = match (file.sparewire, file.address) {
            (None, None) => Identity::Key { address: None },
            (None, Some(address)) => {
                Identity::Key { address: Some(Address::from(bytes(&address.0, "address")?)) }
            }
            (Some(Extension::DeviceSeed { node_id }), None) => Identity::Device { node_id },
            (Some(Extension::MnemonicEntropy { first_wallet }), None) => {
                Identity::Mnemonic { first_wallet }
            }
            (Some(_), Some(_)) => return Err(corrupt("both an address and another kind".into())),
        };
        if !(16..=32).contains(&ciphertext.0.len()) {
            return Err(corrupt("ciphertext of an impossible length".into()));
        }
        Ok(Self {
            id: file.id,
            identity,
            kdf: Kdf::from_json(&kdf, kdfparams)?,
            iv: bytes(&cipherparams.iv.0, "iv")?,
            ciphertext: ciphertext.0,
            mac: bytes(&mac.0, "mac")?,
        })
    }

    /// The V3 file's content.
    pub fn to_json(&self) -> String {
        let (address, sparewire) = match self.identity {
            Identity::Key { address } => (address.map(|address| Hex(address.to_vec())), None),
            Identity::Device { node_id } => (None, Some(Extension::DeviceSeed { node_id })),
            Identity::Mnemonic { first_wallet } => {
                (None, Some(Extension::MnemonicEntropy { first_wallet }))
            }
        };
        let (kdf, kdfparams) = self.kdf.to_json();
        let file = V3 {
            version: 3.into(),
            id: self.id.clone(),
            address,
            sparewire,
            crypto: Crypto {
                cipher: "aes-128-ctr".into(),
                cipherparams: CipherParams { iv: Hex(self.iv.to_vec()) },
                ciphertext: Hex(self.ciphertext.clone()),
                kdf: kdf.into(),
                kdfparams,
                mac: Hex(self.mac.to_vec()),
            },
        };
        let mut json = serde_json::to_string_pretty(&file).expect("strings and numbers are JSON");
        json.push('\n');
        json
    }

    /// Reads a keystore file; the warnings are for its owner.
    ///
    /// # Errors
    /// [`KeyFileError`] where it is missing, unreadable or no keystore.
    pub fn read(path: &Path) -> Result<(Self, Vec<Warning>), KeyFileError> {
        let (json, warning) =
            file::read(path).map_err(|error| KeystoreError::from(error).at(path))?;
        let keystore = Self::from_json(&json).map_err(|error| error.at(path))?;
        let weak = keystore.kdf.is_weak();
        let weak = weak.then(|| Warning::WeakPasswordHash { path: path.to_owned() });
        Ok((keystore, warning.into_iter().chain(weak).collect()))
    }

    /// Writes a new file with mode 0600, durable and whole or not at all.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`] where there is a file already, which stays as it is.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        file::write_new(path, self.to_json().as_bytes())
            .map_err(|error| KeystoreError::from(error).at(path))
    }

    pub(crate) fn seal(secret: &Secret, key: &PasswordKey) -> Result<Self, KeystoreError> {
        let identity = secret.identity()?;
        let mut iv = [0; 16];
        getrandom::fill(&mut iv)?;
        let mut text = secret.bytes();
        key.apply(&iv, &mut text);
        let ciphertext = text.to_vec();
        let mac = key.mac(&ciphertext);
        Ok(Self { id: uuid()?, identity, kdf: key.kdf.clone(), iv, ciphertext, mac })
    }

    /// The key that `password` makes for this file; one that `known` holds is not made again.
    pub(crate) fn password_key(
        &self,
        password: &str,
        known: Option<PasswordKey>,
    ) -> Result<PasswordKey, KeystoreError> {
        match known {
            Some(key) if key.kdf == self.kdf => Ok(key),
            _ => PasswordKey::derive(&self.kdf, password),
        }
    }

    pub(crate) fn open(&self, key: &PasswordKey) -> Result<Secret, KeystoreError> {
        if !bool::from(key.mac(&self.ciphertext).ct_eq(&self.mac)) {
            return Err(KeystoreError::WrongPassword);
        }
        let mut text = Zeroizing::new(self.ciphertext.clone());
        key.apply(&self.iv, &mut text);
        let secret = Secret::from_bytes(self.identity, &text)
            .ok_or_else(|| corrupt("what it holds is no key".into()))?;
        let actual = secret.identity()?;
        if !self.identity.is_kept_by(&actual) {
            return Err(KeystoreError::WrongIdentity { named: self.identity, held: actual });
        }
        Ok(secret)
    }
}

/// Why a keystore could not be made, read or opened.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// There is no such file.
    #[error("it is missing")]
    Missing,
    /// There is something already; keys are never overwritten.
    #[error("it exists already")]
    Exists,
    /// The disk or its permissions.
    #[error("{0}")]
    Io(io::Error),
    /// Not a keystore, or a damaged one.
    #[error("corrupt: {reason}")]
    Corrupt {
        /// What is wrong with it; never its content.
        reason: String,
    },
    /// A keystore of a kind that we do not read.
    #[error("unsupported: {what}")]
    Unsupported {
        /// What it asks for.
        what: String,
    },
    /// Parameters that no honest program writes: over 1 GiB of memory, or over half a minute.
    #[error("opening it would take too much memory or time ({kdf})")]
    TooCostly {
        /// Function and parameters.
        kdf: String,
    },
    /// The password is not the file's, or its ciphertext was damaged.
    #[error("wrong password")]
    WrongPassword,
    /// No password was given for a new keystore.
    #[error("the password is empty")]
    EmptyPassword,
    /// The password is right, but the secret is not the one that the file names.
    #[error("it says that it holds {named}, but holds {held}")]
    WrongIdentity {
        /// What the file says, or its place demands.
        named: Identity,
        /// What is in it.
        held: Identity,
    },
    /// A key of another kind than belongs in this place.
    #[error("it holds {held}, which does not belong here")]
    WrongKind {
        /// What is in it.
        held: Identity,
    },
    /// The mnemonic has no key at this index.
    #[error(transparent)]
    NoKey(#[from] HdError),
    /// The operating system gives no randomness.
    #[error("no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

impl KeystoreError {
    /// What its owner can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing => "restore it from a backup, or create the keys anew from the mnemonic",
            Self::Exists => "choose another place, or move away what is there",
            Self::Io(_) => "check the disk and that this user may read and write there",
            Self::Corrupt { .. } | Self::WrongIdentity { .. } => {
                "restore the file from a backup, or create the keys anew from the mnemonic"
            }
            Self::Unsupported { .. } => {
                "export the key as a version 3 keystore (aes-128-ctr with scrypt or pbkdf2)"
            }
            Self::TooCostly { .. } => {
                "export the key anew with ordinary parameters; do not trust this file"
            }
            Self::WrongPassword => {
                "try again; mind the keyboard layout and a line break at a password file's end"
            }
            Self::EmptyPassword => "give a password; a provider can read it from a file",
            Self::WrongKind { .. } => "check whether files were renamed or swapped",
            Self::NoKey(_) => "take the next index",
            Self::Random(_) => "the operating system's generator is not ready; try again later",
        }
    }

    pub(crate) fn at(self, path: &Path) -> KeyFileError {
        KeyFileError { path: path.to_owned(), error: self }
    }
}

impl From<io::Error> for KeystoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::AlreadyExists => Self::Exists,
            _ => Self::Io(error),
        }
    }
}

/// A [`KeystoreError`] and the file that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct KeyFileError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: KeystoreError,
}

impl KeyFileError {
    /// What its owner can do.
    pub fn hint(&self) -> &'static str {
        self.error.hint()
    }
}

pub(crate) fn corrupt(reason: String) -> KeystoreError {
    KeystoreError::Corrupt { reason }
}

/// What the file asks for is in its own words, or in another's: they are cut and tame.
pub(crate) fn unsupported(what: String) -> KeystoreError {
    KeystoreError::Unsupported { what: file::tame(&what) }
}

fn bytes<const N: usize>(bytes: &[u8], field: &str) -> Result<[u8; N], KeystoreError> {
    bytes.try_into().map_err(|_| corrupt(format!("{field} is not {N} bytes long")))
}

/// A random UUID (version 4, RFC 9562), which V3 asks for and nobody uses.
fn uuid() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = hex::encode(bytes);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    Ok(text)
}

#[derive(Serialize, Deserialize)]
struct V3 {
    version: serde_json::Value,
    #[serde(default)]
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Hex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sparewire: Option<Extension>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Extension {
    DeviceSeed { node_id: NodeId },
    MnemonicEntropy { first_wallet: Address },
}

#[derive(Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    #[serde(default)]
    cipherparams: CipherParams,
    ciphertext: Hex,
    kdf: String,
    kdfparams: serde_json::Value,
    mac: Hex,
}

#[derive(Default, Serialize, Deserialize)]
struct CipherParams {
    #[serde(default)]
    iv: Hex,
}

/// Bytes as V3 writes them: hexadecimal without `0x`, which is read too.
#[derive(Default)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        hex::decode(&*text).map(Self).map_err(|_| serde::de::Error::custom("not hexadecimal"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use sparewire_core::{B256, address};

    use super::*;

    const VECTOR_SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const VECTOR_ADDRESS: Address = address!("008aeeda4d805471df9b2a5b0f38a0c3bcba786b");

    const PBKDF2: &str = r#"{"crypto":{"cipher":"aes-128-ctr",
        "cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf":"pbkdf2","kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
        "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
        "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;

    /// The wiki's scrypt vector: little memory, eight passes. (The one that ethereum.org shows now,
    /// salt 25710c2c.., is wrong in itself: OpenSSL makes b4130dc8.. of it, not 7446f59e...)
    const SCRYPT_P8: &str = r#"{"Crypto":{"cipher":"aes-128-ctr",
        "cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
        "kdf":"scrypt","kdfparams":{"dklen":32,"n":262144,"r":1,"p":8,
        "salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
        "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;

    /// Written by geth at the cost that we write: a fixture of web3.py.
    const GETH: &str = r#"{"address":"dc544d1aa88ff8bbd2f2aec754b1f1e99e1812fd",
        "crypto":{"cipher":"aes-128-ctr",
        "ciphertext":"52e06bc9397ea9fa2f0dae8de2b3e8116e92a2ecca9ad5ff0061d1c449704e98",
        "cipherparams":{"iv":"aa5d0a5370ef65395c1a6607af857124"},"kdf":"scrypt",
        "kdfparams":{"dklen":32,"n":262144,"p":1,"r":8,
        "salt":"9fdf0764eb3645ffc184e166537f6fe70516bf0e34dc7311dea21f100f0c9263"},
        "mac":"4e0b51f42b865c15c485f4faefdd1f01a38637e5247f8c75ffe6a8c0eba856f6"},
        "id":"5a6124e0-10f1-4c1c-ae3e-d903eacb740a","version":3}"#;

    #[test]
    fn an_error_repeats_no_control_characters_of_a_hostile_file() {
        let strange = r#"strange\u001b[2J\u009b"#;
        for word in ["aes-128-ctr", "pbkdf2", "hmac-sha256"] {
            let error = read(&PBKDF2.replace(word, strange)).unwrap_err();
            assert!(matches!(error, KeystoreError::Unsupported { .. }), "{error:?}");
            assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
        }
    }

    fn read(json: &str) -> Result<Keystore, KeystoreError> {
        Keystore::from_json(json.as_bytes())
    }

    fn key(byte: u8) -> Secret {
        Secret::Key(LocalKey::from_secret(&[byte; 32]).unwrap())
    }

    fn assert_vector(json: &str, password: &str, secret: &str, address: Address) {
        let Secret::Key(key) = read(json).unwrap().decrypt(password).unwrap() else {
            panic!("another kind");
        };
        assert_eq!(hex::encode(*key.secret()), secret);
        assert_eq!(key.address(), address);
    }

    #[test]
    fn web3_secret_storage_vector_with_pbkdf2_opens() {
        assert_vector(PBKDF2, "testpassword", VECTOR_SECRET, VECTOR_ADDRESS);
    }

    #[test]
    fn web3_secret_storage_vector_with_scrypt_opens() {
        assert_vector(SCRYPT_P8, "testpassword", VECTOR_SECRET, VECTOR_ADDRESS);
    }

    #[test]
    fn a_file_that_geth_wrote_at_standard_cost_opens() {
        assert_vector(
            GETH,
            "web3py-test",
            "58d23b55bc9cdce1f18c2500f40ff4ab7245df9a89505e9b1fa4851f623d241d",
            address!("dc544d1aa88ff8bbd2f2aec754b1f1e99e1812fd"),
        );
        let standard = Kdf::Scrypt { log_n: Cost::STANDARD.log_n, r: 8, p: 1, salt: Vec::new() };
        assert!(!standard.is_weak());
    }

    #[test]
    fn each_kind_of_secret_survives_a_round_trip_and_names_itself() {
        let words = "test test test test test test test test test test test junk";
        let first_wallet = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let device = DeviceKey::from_secret(&[9; 32]);
        let node_id = device.node_id();
        for (secret, identity) in [
            (key(7), key(7).identity().unwrap()),
            (Secret::Device(device), Identity::Device { node_id }),
            (Secret::Mnemonic(words.parse().unwrap()), Identity::Mnemonic { first_wallet }),
        ] {
            let json = Keystore::encrypt(&secret, "pass", Cost::INSECURE).unwrap().to_json();
            let keystore = read(&json).unwrap();
            assert_eq!(keystore.identity(), identity);
            assert_eq!(json.contains("\"address\""), matches!(identity, Identity::Key { .. }));
            let opened = keystore.decrypt("pass").unwrap();
            assert_eq!(opened.bytes(), secret.bytes());
            let shown = format!("{opened:?}{keystore:?}{json}");
            assert!(!shown.contains(&hex::encode(&*secret.bytes())) && !shown.contains("junk"));
            let wrong = keystore.decrypt("pasS").unwrap_err();
            assert!(matches!(wrong, KeystoreError::WrongPassword), "{wrong}");
        }
        let empty = Keystore::encrypt(&key(7), "", Cost::INSECURE).unwrap_err();
        assert!(matches!(empty, KeystoreError::EmptyPassword));
    }

    #[test]
    fn damage_is_told_apart() {
        let sealed = Keystore::encrypt(&key(7), "pass", Cost::INSECURE).unwrap();
        let json = sealed.to_json();
        for (error, text) in [
            (read("").unwrap_err(), "corrupt"),
            (read(&format!("\"{VECTOR_SECRET}\"")).unwrap_err(), "corrupt"),
            (read(&json[..json.len() / 2]).unwrap_err(), "corrupt"),
            (read(&json.replace("aes-128-ctr", "aes-256-gcm")).unwrap_err(), "aes-256-gcm"),
            (read(&json.replace("\"scrypt\"", "\"argon2id\"")).unwrap_err(), "kdf argon2id"),
            (read(&json.replace("\"version\": 3", "\"version\": \"1\"")).unwrap_err(), "version"),
            (read(&json.replace("\"n\": 16", "\"n\": 17")).unwrap_err(), "corrupt: scrypt"),
            (read(&json.replace("\"n\": 16", "\"n\": 2097152")).unwrap_err(), "too much"),
            (
                read(&json.replace("\"n\": 16", "\"n\": 9223372036854775808")).unwrap_err(),
                "too much",
            ),
            (read(&json.replace("\"p\": 1", "\"p\": 4294967295")).unwrap_err(), "too much"),
            (read(&json.replace("\"r\": 8", "\"r\": 4294967295")).unwrap_err(), "too much"),
            (read(&PBKDF2.replace("262144", "4294967295")).unwrap_err(), "too much"),
            (read(&PBKDF2.replace("sha256", "sha1")).unwrap_err(), "unsupported: pbkdf2"),
            (read(&json.replace(&hex::encode(sealed.iv), "00")).unwrap_err(), "iv is not 16"),
        ] {
            assert!(error.to_string().contains(text), "{error} / {text}");
            assert!(!error.to_string().contains(VECTOR_SECRET) && !error.hint().is_empty());
        }
        // The MAC does not cover the IV; the address does.
        let other_iv = json.replace(&hex::encode(sealed.iv), &hex::encode([0; 16]));
        let error = read(&other_iv).unwrap().decrypt("pass").unwrap_err();
        assert!(matches!(error, KeystoreError::WrongIdentity { .. }), "{error}");
    }

    #[test]
    fn a_gibibyte_of_scrypt_is_the_most() {
        let json = |n: u64| GETH.replace("262144", &n.to_string());
        assert!(read(&json(1 << 20)).is_ok());
        assert!(matches!(read(&json(1 << 21)), Err(KeystoreError::TooCostly { .. })));
    }

    #[test]
    fn files_are_private_whole_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.json");
        let missing = Keystore::read(&path).unwrap_err();
        assert!(matches!(missing.error, KeystoreError::Missing), "{missing}");
        let keystore = Keystore::encrypt(&key(7), "pass", Cost::INSECURE).unwrap();
        keystore.write_new(&path).unwrap();
        let (read, warnings) = Keystore::read(&path).unwrap();
        assert_eq!(read.to_json(), keystore.to_json());
        assert_eq!(warnings, [Warning::WeakPasswordHash { path: path.clone() }]);

        let other = Keystore::encrypt(&key(8), "pass", Cost::INSECURE).unwrap();
        let exists = other.write_new(&path).unwrap_err();
        assert!(matches!(exists.error, KeystoreError::Exists), "{exists}");
        assert_eq!(fs::read_to_string(&path).unwrap(), keystore.to_json());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");

        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(), 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let (_, warnings) = Keystore::read(&path).unwrap();
            let expected = Warning::PermissionsTooOpen { path: path.clone(), mode: 0o644 };
            assert_eq!(warnings[0], expected);
        }
    }

    #[test]
    fn an_opened_key_signs() {
        let keystore = Keystore::encrypt(&key(7), "pass", Cost::INSECURE).unwrap();
        let Secret::Key(key) = keystore.decrypt("pass").unwrap() else { panic!("another kind") };
        let digest = B256::repeat_byte(1);
        assert_eq!(key.sign_digest(digest).unwrap().recover(digest), Ok(key.address()));
    }
}
