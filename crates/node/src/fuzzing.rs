//! Doors for the fuzzer to decoders that are nobody else's business.

use sparewire_core::{DecodeError, decode, encode};

use crate::session::{HEAD_LEN_MAX, OpenReply, OpenRequest};

/// Reads a consumer's stream head, without its length, and writes it anew.
///
/// # Errors
/// [`DecodeError`] where it is malformed.
pub fn open_request(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode::<OpenRequest>(body, HEAD_LEN_MAX).map(|request| encode(&request))
}

/// Reads a provider's stream head, without its length, and writes it anew.
///
/// # Errors
/// [`DecodeError`] where it is malformed.
pub fn open_reply(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode::<OpenReply>(body, HEAD_LEN_MAX).map(|reply| encode(&reply))
}
