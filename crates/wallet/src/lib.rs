//! Keys of a Sparewire node: where they come from ([`Mnemonic`], [`HdWallet`]), how they are kept
//! ([`Keystore`], [`NodeKeys`]; backups in [`Sealer`]'s files) and how they sign, here ([`LocalKey`], [`DeviceKey`]) or on a
//! machine without a network ([`OfflineRequest`]).
//!
//! It is not a place for channels, chains or transport: who uses a key sees it as a
//! [`sparewire_core::Signer`] or [`sparewire_core::DeviceSigner`], and an HSM can stand there.
//!
//! ```no_run
//! use std::path::Path;
//! use sparewire_wallet::{Mnemonic, NodeKeys, WordCount};
//!
//! let (dir, password) = (Path::new("keys"), "from the caller");
//! let mnemonic = Mnemonic::random(WordCount::Twelve)?;
//! eprintln!("write these words down: {}", *mnemonic.phrase());
//! NodeKeys::create(dir, password, Some(mnemonic))?;
//!
//! println!("{}", NodeKeys::peek(dir)?.node_id); // needs no password
//! let (keys, warnings) = NodeKeys::open(dir, password)?;
//! for warning in warnings {
//!     eprintln!("warning: {warning}");
//! }
//! println!("{}", keys.wallet.address());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! On the river (`ARCHITECTURE.md`) it lies beside the protocol, which it does not know.

mod file;
mod hd;
mod key;
mod keystore;
mod node_keys;
mod offline;
mod password;
mod sealed;

pub use file::Warning;
pub use hd::{HdError, HdWallet, Mnemonic, MnemonicError, PURPOSE, WordCount};
pub use key::{DeviceKey, LocalKey};
pub use keystore::{Identity, KeyFileError, Keystore, KeystoreError, Secret};
pub use node_keys::{NodeKeys, NodeSecrets, PublicKeys};
pub use offline::{Contract, Field, OfflineError, OfflineRequest, OfflineResponse, Payload};
pub use password::Cost;
pub use sealed::{SealedError, Sealer, Unsealer};
