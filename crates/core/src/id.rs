//! Names of channels, sessions and torrents.

use std::fmt;

use alloy_primitives::{B256, FixedBytes};
use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize, BorshSerialize, BorshDeserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = <$inner as std::str::FromStr>::Err;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// A payment channel: the EIP-712 digest of its configuration, so that it names the chain and
    /// the contract too and cannot be mistaken for a channel elsewhere.
    ChannelId(B256)
}

id! {
    /// A session of service over a channel: 32 random bytes drawn by the consumer.
    SessionId(B256)
}

id! {
    /// A torrent as BitTorrent's handshake names it: the SHA-1 of its `info` dictionary, or, where
    /// it is of BEP 52 alone, the first 20 bytes of that dictionary's SHA-256.
    InfoHash(FixedBytes<20>)
}
