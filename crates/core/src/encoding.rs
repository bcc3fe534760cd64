//! The one canonical encoding: [borsh](https://borsh.io) (fixed little-endian integers, `u32`
//! length prefixes, no optional forms), read strictly. One value has one encoding and one
//! encoding has one value, so hashes and signatures over it are unambiguous.

use std::io::{Error, ErrorKind, Read, Result as IoResult};

use borsh::{BorshDeserialize, BorshSerialize};

/// Why bytes are not one canonical value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than this kind of value may be.
    #[error("{length} bytes where at most {length_max} are allowed")]
    TooLong {
        /// How long it is.
        length: usize,
        /// How long it may be.
        length_max: usize,
    },
    /// Truncated, trailing bytes, an unknown variant or a value out of range.
    #[error("malformed: {reason}")]
    Malformed {
        /// What the decoder stumbled over.
        reason: String,
    },
}

/// The canonical bytes of `value`.
pub fn encode<T: BorshSerialize + ?Sized>(value: &T) -> Vec<u8> {
    // Writing to memory fails only where a collection is longer than u32::MAX, and every
    // collection that we send is bounded far below that.
    borsh::to_vec(value).unwrap_or_else(|error| unreachable!("encoding to memory: {error}"))
}

/// Reads one value that fills `bytes` exactly.
///
/// # Errors
/// [`DecodeError`] where `bytes` is longer than `length_max`, truncated, has trailing bytes, or
/// holds a value that is out of range.
///
/// For a text or list, borsh allocates on the word of its length prefix, up to a MiB; types that
/// a peer sends bound theirs themselves: [`read_text`].
pub fn decode<T: BorshDeserialize>(bytes: &[u8], length_max: usize) -> Result<T, DecodeError> {
    if bytes.len() > length_max {
        return Err(DecodeError::TooLong { length: bytes.len(), length_max });
    }
    T::try_from_slice(bytes).map_err(|error| DecodeError::Malformed { reason: error.to_string() })
}

/// Reads a text of at most `length_max` bytes, for a type's own `deserialize_reader`. Its length is
/// looked at before anything is allocated.
///
/// # Errors
/// Where the text is longer, cut off, or not UTF-8.
pub fn read_text<R: Read>(reader: &mut R, length_max: usize) -> IoResult<String> {
    let malformed = |what| Error::new(ErrorKind::InvalidData, what);
    let length = u32::deserialize_reader(reader)? as usize;
    if length > length_max {
        return Err(malformed("text too long"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|_| malformed("text is not UTF-8"))
}
