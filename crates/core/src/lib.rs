//! The ground that every other Sparewire crate stands on: units, ids, canonical encoding,
//! hashes, and signatures whose checked and unchecked forms are different types.
//!
//! It is not a place for anything that reads a clock, draws a random number or touches a file or
//! a socket; `clippy.toml` beside this crate bans them, with a reason each.
//!
//! ```
//! use sparewire_core::{Amount, ByteCount, Price};
//!
//! // 0.02 of a token with 6 decimals for each GiB; what is owed is rounded up, for the payee.
//! let price: Price = Price::parse("0.02/GiB", 6)?;
//! assert_eq!(price.owed(ByteCount::GIB), Some(Amount::new(20_000).unwrap()));
//! assert_eq!(price.owed(ByteCount::new(1)), Some(Amount::new(1).unwrap()));
//! # Ok::<(), sparewire_core::UnitError>(())
//! ```
//!
//! Terms are explained in `GLOSSARY.md`. On the river (`ARCHITECTURE.md`) this is the bed.

mod device;
mod encoding;
mod id;
mod signature;
mod typed_data;
mod units;

pub use alloy_primitives::{Address, B256, U256, address, b256, keccak256};

pub use device::{DeviceSignature, DeviceSigner, DeviceStatement, NodeId};
pub use encoding::{DecodeError, decode, encode, read_text};
pub use id::{ChannelId, InfoHash, SessionId};
pub use signature::{Signature, SignatureError, Signed, Signer, SignerError, Verified};
pub use typed_data::{Domain, StructHasher, TypedData, domain_separator, typed_digest};
pub use units::{Amount, ByteCount, Price, Timestamp, UnitError};
