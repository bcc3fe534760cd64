//! EIP-712 typed data: what wallets show and contracts check.
//! Source: <https://eips.ethereum.org/EIPS/eip-712>.

use std::sync::LazyLock;

use alloy_primitives::{Address, B256, U256, keccak256};
use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// A struct that is signed as EIP-712 data.
pub trait TypedData {
    /// `encodeType` of the struct, for example `Voucher(bytes32 channelId,uint128 amount)`.
    const TYPE: &'static str;

    /// `typeHash`: the hash of [`TypedData::TYPE`]. What is signed often remembers it.
    fn type_hash() -> B256 {
        keccak256(Self::TYPE)
    }

    /// Feeds the fields, in the order of [`TypedData::TYPE`].
    fn fields(&self, hasher: &mut StructHasher);

    /// `hashStruct` of the value.
    fn struct_hash(&self) -> B256 {
        let mut hasher = StructHasher::new(Self::type_hash());
        self.fields(&mut hasher);
        keccak256(&hasher.words)
    }

    /// The digest that is signed: `keccak256(0x1901 || domainSeparator || hashStruct)`.
    fn digest(&self, domain: &Domain) -> B256 {
        typed_digest(domain.separator(), self.struct_hash())
    }
}

/// Collects the 32-byte words of `encodeData`.
#[derive(Debug)]
pub struct StructHasher {
    words: Vec<u8>,
}

impl StructHasher {
    fn new(type_hash: B256) -> Self {
        let mut words = Vec::with_capacity(9 * 32);
        words.extend_from_slice(type_hash.as_slice());
        Self { words }
    }

    /// An `address` field.
    pub fn address(&mut self, value: Address) -> &mut Self {
        self.word(value.into_word())
    }

    /// A `bytes32` field.
    pub fn word(&mut self, value: B256) -> &mut Self {
        self.words.extend_from_slice(value.as_slice());
        self
    }

    /// An unsigned integer field of at most 128 bits.
    pub fn uint(&mut self, value: u128) -> &mut Self {
        self.word(B256::from(U256::from(value)))
    }
}

/// Where signatures are valid: one contract on one chain. It is the EIP-712 domain
/// `("Sparewire Channels", "1", chainId, verifyingContract)`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
pub struct Domain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Address of the channel contract.
    pub contract: Address,
}

impl Domain {
    /// `hashStruct` of the domain.
    pub fn separator(&self) -> B256 {
        static NAME: LazyLock<B256> = LazyLock::new(|| keccak256("Sparewire Channels"));
        separator(*NAME, self.chain_id, self.contract)
    }
}

/// `hashStruct` of the EIP-712 domain `(name, "1", chainId, verifyingContract)`: each of our
/// contracts has a name of its own, so that what is signed for one is nothing to another.
pub fn domain_separator(name: &str, chain_id: u64, contract: Address) -> B256 {
    separator(keccak256(name), chain_id, contract)
}

fn separator(name: B256, chain_id: u64, contract: Address) -> B256 {
    static CONSTANT: LazyLock<[B256; 2]> = LazyLock::new(|| {
        let domain =
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
        [domain, "1"].map(keccak256)
    });
    let [type_hash, version] = *CONSTANT;
    let mut hasher = StructHasher::new(type_hash);
    hasher.word(name).word(version).uint(u128::from(chain_id)).address(contract);
    keccak256(&hasher.words)
}

/// What is signed of a struct in the domain of `separator`, which need not be a [`Domain`]:
/// `keccak256(0x1901 || separator || structHash)`.
pub fn typed_digest(separator: B256, struct_hash: B256) -> B256 {
    let mut message = [0u8; 66];
    message[..2].copy_from_slice(&[0x19, 0x01]);
    message[2..34].copy_from_slice(separator.as_slice());
    message[34..].copy_from_slice(struct_hash.as_slice());
    keccak256(message)
}
