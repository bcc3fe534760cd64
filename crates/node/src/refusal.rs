//! Why a destination was not reached. It travels from the provider to the consumer and on to the
//! application, so it is bounded and tame.

use std::{
    fmt,
    io::{Error, ErrorKind, Read},
};

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::read_text;

/// Why a destination was not reached, told to the consumer and never billed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, BorshSerialize)]
#[error("{kind}: {reason}")]
pub struct Refusal {
    kind: RefusalKind,
    reason: String,
}

impl Refusal {
    /// The most bytes that a reason has.
    pub const REASON_LENGTH_MAX: usize = 200;

    /// A refusal; `reason` is cut to [`Refusal::REASON_LENGTH_MAX`] bytes and control characters
    /// become spaces, so that it is safe in a header and on a terminal.
    pub fn new(kind: RefusalKind, reason: impl AsRef<str>) -> Self {
        let reason = reason.as_ref();
        let reason = &reason[..reason.floor_char_boundary(Self::REASON_LENGTH_MAX)];
        let tame = |c: char| if c.is_control() { ' ' } else { c };
        // A two-byte control character becomes one byte: it never grows.
        Self { kind, reason: reason.chars().map(tame).collect() }
    }

    /// What kind of refusal it is.
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// The reason in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl BorshDeserialize for Refusal {
    fn deserialize_reader<R: Read>(reader: &mut R) -> std::io::Result<Self> {
        let kind = RefusalKind::deserialize_reader(reader)?;
        let reason = read_text(reader, Self::REASON_LENGTH_MAX)?;
        let refusal = Self::new(kind, &reason);
        if refusal.reason != reason {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "refusal's reason is too long or unsafe",
            ));
        }
        Ok(refusal)
    }
}

/// The kinds of refusal. New kinds are added at the end: the order is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub enum RefusalKind {
    /// The provider's policy does not allow it.
    Policy,
    /// The name does not resolve.
    Unresolvable,
    /// No route to the host or its network.
    Unreachable,
    /// The host refused the connection.
    ConnectionRefused,
    /// Nothing answered in time.
    TimedOut,
    /// Too much is under way; try again.
    Busy,
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "not allowed",
            Self::Unresolvable => "name not found",
            Self::Unreachable => "unreachable",
            Self::ConnectionRefused => "connection refused",
            Self::TimedOut => "timed out",
            Self::Busy => "busy",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use sparewire_core::{decode, encode};

    use super::*;

    #[test]
    fn refusals_are_short_and_tame_and_survive_the_wire() {
        let refusal = Refusal::new(RefusalKind::Policy, format!("a\r\nb\u{1b}{}", "x".repeat(999)));
        assert_eq!(refusal.reason().len(), 200);
        assert!(refusal.reason().starts_with("a  b x"));
        assert_eq!(decode::<Refusal>(&encode(&refusal), 1024).unwrap(), refusal);
        assert!(decode::<Refusal>(&encode(&(RefusalKind::Busy, "a\nb".to_owned())), 1024).is_err());
    }

    #[test]
    fn a_reason_that_claims_to_be_long_is_refused_before_it_is_read() {
        for claimed in [Refusal::REASON_LENGTH_MAX as u32 + 1, u32::MAX] {
            let bytes = encode(&(RefusalKind::Busy, claimed));
            let error = decode::<Refusal>(&bytes, 1024).unwrap_err();
            assert!(error.to_string().contains("too long"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, text in "\\PC{0,300}") {
            let _ = decode::<Refusal>(&bytes, 1024);
            let refusal = Refusal::new(RefusalKind::Busy, text);
            prop_assert_eq!(decode::<Refusal>(&encode(&refusal), 1024).unwrap(), refusal);
        }
    }
}
