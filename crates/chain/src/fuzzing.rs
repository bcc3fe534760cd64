//! Doors for the fuzzer to decoders that are nobody else's business.

/// Revert data in words, as errors show them.
pub fn reason_in_words(data: &[u8]) -> String {
    crate::contracts::reason_in_words(&alloy_primitives::Bytes::copy_from_slice(data))
}
