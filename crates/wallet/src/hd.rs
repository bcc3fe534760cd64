//! Keys derived from a mnemonic: BIP-39 words to a seed, BIP-32 (secp256k1) and SLIP-0010
//! (Ed25519) from the seed to the keys.
//!
//! | key | path | why |
//! | --- | --- | --- |
//! | wallet `i` | `m/44'/60'/0'/0/i` | BIP-44; the accounts that every Ethereum wallet shows |
//! | authorizer `i` | `m/21335'/0'/i'` | our own BIP-43 purpose (`0x5357`, "SW"), hardened throughout: a stolen hot key tells nothing of its siblings or of the wallet |
//! | device `i` | `m/21335'/1'/i'` | the same on SLIP-0010's Ed25519 tree, which has another master key |
//!
//! `i` counts nodes, or successors of one node. Sources:
//! <https://github.com/bitcoin/bips/blob/master/bip-0032.mediawiki>,
//! <https://github.com/satoshilabs/slips/blob/master/slip-0010.md>.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::{DeviceKey, LocalKey};

/// The BIP-43 purpose of Sparewire's own keys: "SW" in ASCII.
pub const PURPOSE: u32 = 0x5357;

const HARDENED: u32 = 1 << 31;
const LONGEST_PHRASE: usize = 24 * 9; // English words have at most 8 letters

/// How many words a new mnemonic has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordCount {
    /// 12 words, 128 bits of entropy.
    Twelve,
    /// 24 words, 256 bits of entropy.
    TwentyFour,
}

/// An English BIP-39 mnemonic with a good checksum. Wiped when dropped, never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Mnemonic(bip39::Mnemonic);

impl Mnemonic {
    /// New words, from the operating system's generator.
    ///
    /// # Errors
    /// Where the operating system gives no randomness.
    pub fn random(words: WordCount) -> Result<Self, getrandom::Error> {
        let mut entropy = Zeroizing::new([0; 32]);
        getrandom::fill(entropy.as_mut())?;
        let bytes = match words {
            WordCount::Twelve => 16,
            WordCount::TwentyFour => 32,
        };
        Ok(Self::from_entropy(&entropy[..bytes]).expect("16 and 32 bytes are lengths of BIP-39"))
    }

    /// The words for this entropy: 16, 20, 24, 28 or 32 bytes; `None` for other lengths.
    pub fn from_entropy(entropy: &[u8]) -> Option<Self> {
        bip39::Mnemonic::from_entropy(entropy).ok().map(Self)
    }

    /// The entropy behind the words; as secret as they are.
    pub fn entropy(&self) -> Zeroizing<Vec<u8>> {
        let (bytes, len) = self.0.to_entropy_array();
        let bytes = Zeroizing::new(bytes);
        Zeroizing::new(bytes[..len].to_vec())
    }

    /// The words with a space between; to be shown to their owner once.
    pub fn phrase(&self) -> Zeroizing<String> {
        let mut phrase = Zeroizing::new(String::with_capacity(LONGEST_PHRASE));
        for word in self.0.words() {
            if !phrase.is_empty() {
                phrase.push(' ');
            }
            phrase.push_str(word);
        }
        phrase
    }
}

impl FromStr for Mnemonic {
    type Err = MnemonicError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = Zeroizing::new(text.to_lowercase());
        bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &text).map(Self).map_err(
            |error| match error {
                bip39::Error::BadWordCount(actual) => MnemonicError::WordCount { actual },
                bip39::Error::UnknownWord(index) => {
                    MnemonicError::UnknownWord { position: index + 1 }
                }
                _ => MnemonicError::Checksum,
            },
        )
    }
}

impl fmt::Debug for Mnemonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mnemonic({} words)", self.0.word_count())
    }
}

/// Why words are no mnemonic. The words themselves are not repeated: they may end up in a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MnemonicError {
    /// A word is missing or one too many.
    #[error("a mnemonic has 12, 15, 18, 21 or 24 words, not {actual}")]
    WordCount {
        /// How many there were.
        actual: usize,
    },
    /// A word that the English list does not have.
    #[error("word {position} is not in the English BIP-39 list; check its spelling")]
    UnknownWord {
        /// Counted from 1.
        position: usize,
    },
    /// Each word exists, but together they are wrong.
    #[error("the words do not fit together: one of them is wrong, or two are swapped")]
    Checksum,
}

/// Derives a node's keys from a mnemonic's seed. Paths are in the module's table, in short:
/// wallets as any Ethereum wallet does, the hot keys below our own purpose.
pub struct HdWallet {
    seed: Zeroizing<[u8; 64]>,
}

impl HdWallet {
    /// The keys of `mnemonic` under BIP-39's optional `passphrase`; empty is the usual one.
    pub fn new(mnemonic: &Mnemonic, passphrase: &str) -> Self {
        Self { seed: Zeroizing::new(mnemonic.0.to_seed(passphrase)) }
    }

    /// Wallet `index`, at `m/44'/60'/0'/0/index`.
    ///
    /// # Errors
    /// [`HdError`] where there is no such key.
    pub fn wallet(&self, index: u32) -> Result<LocalKey, HdError> {
        let path = [hardened(44)?, hardened(60)?, hardened(0)?, 0, normal(index)?];
        secp256k1_key(self.seed.as_ref(), &path)
    }

    /// Authorizer `index`, at `m/21335'/0'/index'`.
    ///
    /// # Errors
    /// [`HdError`] where there is no such key.
    pub fn authorizer(&self, index: u32) -> Result<LocalKey, HdError> {
        let path = [hardened(PURPOSE)?, hardened(0)?, hardened(index)?];
        secp256k1_key(self.seed.as_ref(), &path)
    }

    /// Device key `index`, at `m/21335'/1'/index'` of the Ed25519 tree.
    ///
    /// # Errors
    /// [`HdError`] where `index` is 2^31 or more.
    pub fn device(&self, index: u32) -> Result<DeviceKey, HdError> {
        let path = [hardened(PURPOSE)?, hardened(1)?, hardened(index)?];
        Ok(DeviceKey::from_secret(&ed25519_seed(self.seed.as_ref(), &path)))
    }
}

impl fmt::Debug for HdWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HdWallet(..)")
    }
}

/// Why a key could not be derived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HdError {
    /// Indices have 31 bits.
    #[error("key index {0} is not below 2^31")]
    IndexTooLarge(u32),
    /// One path in 2^127 has no key; BIP-32 says to take the next index.
    #[error("there is no key at this index; take the next one")]
    NoKey,
}

fn normal(index: u32) -> Result<u32, HdError> {
    if index < HARDENED { Ok(index) } else { Err(HdError::IndexTooLarge(index)) }
}

fn hardened(index: u32) -> Result<u32, HdError> {
    normal(index).map(|index| index | HARDENED)
}

/// A secret and the chain code that goes with it: the two halves of one HMAC.
struct Halves {
    left: Zeroizing<[u8; 32]>,
    right: Zeroizing<[u8; 32]>,
}

impl Halves {
    fn hmac(key: &[u8], data: &[&[u8]]) -> Self {
        let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of any length");
        for part in data {
            mac.update(part);
        }
        let bytes: Zeroizing<[u8; 64]> = Zeroizing::new(mac.finalize().into_bytes().into());
        let mut halves = Self { left: Zeroizing::new([0; 32]), right: Zeroizing::new([0; 32]) };
        halves.left.copy_from_slice(&bytes[..32]);
        halves.right.copy_from_slice(&bytes[32..]);
        halves
    }

    /// The HMAC for a hardened child of the key `left` with the chain code `right`.
    fn hardened_child(&self, index: u32) -> Self {
        Self::hmac(self.right.as_ref(), &[&[0], self.left.as_ref(), &index.to_be_bytes()])
    }
}

/// BIP-32's `CKDpriv` along `path`.
fn secp256k1_key(seed: &[u8], path: &[u32]) -> Result<LocalKey, HdError> {
    let mut node = Halves::hmac(b"Bitcoin seed", &[seed]);
    for &index in path {
        let mut parent = SecretKey::from_byte_array(*node.left).map_err(|_| HdError::NoKey)?;
        let child = if index & HARDENED == 0 {
            let public = PublicKey::from_secret_key(SECP256K1, &parent).serialize();
            Halves::hmac(node.right.as_ref(), &[&public, &index.to_be_bytes()])
        } else {
            node.hardened_child(index)
        };
        let tweak = Scalar::from_be_bytes(*child.left).map_err(|_| HdError::NoKey)?;
        let mut key = parent.add_tweak(&tweak).map_err(|_| HdError::NoKey)?;
        node = Halves { left: Zeroizing::new(key.secret_bytes()), right: child.right };
        parent.non_secure_erase();
        key.non_secure_erase();
    }
    LocalKey::from_secret(&node.left).ok_or(HdError::NoKey)
}

/// SLIP-0010 on Ed25519 along `path`, whose indices are all hardened: others do not exist there.
fn ed25519_seed(seed: &[u8], path: &[u32]) -> Zeroizing<[u8; 32]> {
    let mut node = Halves::hmac(b"ed25519 seed", &[seed]);
    for index in path {
        node = node.hardened_child(index | HARDENED);
    }
    node.left
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use alloy_primitives::hex;
    use sparewire_core::{DeviceSigner, Signer, address};

    use super::*;

    const JUNK: &str = "test test test test test test test test test test test junk";

    /// `m/0'/1` as numbers.
    fn path(text: &str) -> Vec<u32> {
        let steps = text.split('/').skip(1);
        steps
            .map(|step| match step.strip_suffix('\'') {
                Some(step) => step.parse::<u32>().unwrap() | HARDENED,
                None => step.parse().unwrap(),
            })
            .collect()
    }

    #[test]
    fn bip39_vectors_hold_in_both_directions() {
        // <https://github.com/trezor/python-mnemonic/blob/master/vectors.json>, passphrase "TREZOR".
        for (entropy, phrase, seed) in [
            (
                "00000000000000000000000000000000",
                "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
                "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e53495531f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04",
            ),
            (
                "7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f",
                "legal winner thank year wave sausage worth useful legal winner thank yellow",
                "2e8905819b8723fe2c1d161860e5ee1830318dbf49a83bd451cfb8440c28bd6fa457fe1296106559a3c80937a1c1069be3a3a5bd381ee6260e8d9739fce1f607",
            ),
            (
                "ffffffffffffffffffffffffffffffffffffffffffffffff",
                "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo when",
                "0cd6e5d827bb62eb8fc1e262254223817fd068a74b5b449cc2f667c3f1f985a76379b43348d952e2265b4cd129090758b3e3c2c49103b5051aac2eaeb890a528",
            ),
            (
                "8080808080808080808080808080808080808080808080808080808080808080",
                "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic bless",
                "c0c519bd0e91a2ed54357d9d1ebef6f5af218a153624cf4f2da911a0ed8f7a09e2ef61af0aca007096df430022f7a2b6fb91661a9589097069720d015e4e982f",
            ),
            (
                "68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c",
                "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy gospel tennis maple dilemma loan word shrug inflict delay length",
                "64c87cde7e12ecf6704ab95bb1408bef047c22db4cc7491c4271d170a1b213d20b385bc1588d9c7b38f1b39d415665b8a9030c9ec653d75e65f847d8fc1fc440",
            ),
        ] {
            let mnemonic = Mnemonic::from_entropy(&hex::decode(entropy).unwrap()).unwrap();
            assert_eq!(*mnemonic.phrase(), phrase);
            let parsed: Mnemonic = phrase.to_uppercase().parse().unwrap();
            assert_eq!(hex::encode(&*parsed.entropy()), entropy);
            assert_eq!(hex::encode(*HdWallet::new(&parsed, "TREZOR").seed), seed);
        }
    }

    #[test]
    fn bip32_vectors_hold() {
        // The keys in the xprv strings of test vectors 1 to 4; 3 and 4 keep leading zeros.
        let vectors: [(&str, &[(&str, &str)]); 4] = [
            (
                "000102030405060708090a0b0c0d0e0f",
                &[
                    ("m", "e8f32e723decf4051aefac8e2c93c9c5b214313817cdb01a1494b917c8436b35"),
                    ("m/0'", "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea"),
                    ("m/0'/1", "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368"),
                    (
                        "m/0'/1/2'",
                        "cbce0d719ecf7431d88e6a89fa1483e02e35092af60c042b1df2ff59fa424dca",
                    ),
                    (
                        "m/0'/1/2'/2",
                        "0f479245fb19a38a1954c5c7c0ebab2f9bdfd96a17563ef28a6a4b1a2a764ef4",
                    ),
                    (
                        "m/0'/1/2'/2/1000000000",
                        "471b76e389e528d6de6d816857e012c5455051cad6660850e58372a6c3e6e7c8",
                    ),
                ],
            ),
            (
                "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542",
                &[
                    ("m/0", "abe74a98f6c7eabee0428f53798f0ab8aa1bd37873999041703c742f15ac7e1e"),
                    (
                        "m/0/2147483647'/1/2147483646'/2",
                        "bb7d39bdb83ecf58f2fd82b6d918341cbef428661ef01ab97c28a4842125ac23",
                    ),
                ],
            ),
            (
                "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be",
                &[
                    ("m", "00ddb80b067e0d4993197fe10f2657a844a384589847602d56f0c629c81aae32"),
                    ("m/0'", "491f7a2eebc7b57028e0d3faa0acda02e75c33b03c48fb288c41e2ea44e1daef"),
                ],
            ),
            (
                "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
                &[
                    ("m/0'", "00d948e9261e41362a688b916f297121ba6bfb2274a3575ac0e456551dfd7f7e"),
                    ("m/0'/1'", "3a2086edd7d9df86c3487a5905a1712a9aa664bce8cc268141e07549eaa8661d"),
                ],
            ),
        ];
        for (seed, chain) in vectors {
            for (steps, secret) in chain {
                let key = secp256k1_key(&hex::decode(seed).unwrap(), &path(steps)).unwrap();
                assert_eq!(hex::encode(*key.secret()), *secret, "{steps}");
            }
        }
    }

    #[test]
    fn slip10_ed25519_vectors_hold() {
        let seed = hex!("000102030405060708090a0b0c0d0e0f");
        for (steps, secret) in [
            ("m", "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7"),
            ("m/0'", "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3"),
            ("m/0'/1'/2'", "92a5b23c0b8a99e37d07df3fb9966917f5d06e02ddbd909c7e184371463e9fc9"),
            (
                "m/0'/1'/2'/2'/1000000000'",
                "8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793",
            ),
        ] {
            assert_eq!(hex::encode(*ed25519_seed(&seed, &path(steps))), secret, "{steps}");
        }
        let last = DeviceKey::from_secret(&ed25519_seed(&seed, &path("m/0'/1'/2'/2'/1000000000'")));
        assert_eq!(
            last.node_id().to_string(),
            "3c24da049451555d51a7014a37337aa4e12d41e485abccfa46b47dfb2af54b7a"
        );
    }

    #[test]
    fn wallets_are_those_that_anvil_and_hardhat_show() {
        let hd = HdWallet::new(&JUNK.parse().unwrap(), "");
        for (index, expected) in [
            (0, address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266")),
            (1, address!("70997970C51812dc3A010C7d01b50e0d17dc79C8")),
            (2, address!("3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")),
            (9, address!("a0Ee7A142d267C1f36714E4a8F75612F20a79720")),
        ] {
            assert_eq!(hd.wallet(index).unwrap().address(), expected);
        }
        assert_eq!(
            hex::encode(*hd.wallet(0).unwrap().secret()),
            "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
        );
    }

    #[test]
    fn own_paths_are_stable_and_apart() {
        let hd = HdWallet::new(&JUNK.parse().unwrap(), "");
        // Golden: these paths can never change, or a mnemonic would restore other keys.
        assert_eq!(
            hd.authorizer(0).unwrap().address(),
            address!("a86bbcca6f606fc9d170b65ae0c25a0f048a7be7")
        );
        assert_eq!(
            hd.device(0).unwrap().node_id().to_string(),
            "327265e9730ed46afe0b142fe052a696b8efed3efd3a37dc317c6df488043ace"
        );
        assert_ne!(hd.authorizer(0).unwrap().address(), hd.authorizer(1).unwrap().address());
        assert_ne!(hd.device(0).unwrap().node_id(), hd.device(1).unwrap().node_id());
        assert_ne!(hd.device(0).unwrap().secret(), hd.authorizer(0).unwrap().secret());
        assert_eq!(hd.wallet(1 << 31).unwrap_err(), HdError::IndexTooLarge(1 << 31));
        assert_eq!(hd.device(u32::MAX).unwrap_err(), HdError::IndexTooLarge(u32::MAX));
    }

    #[test]
    fn bad_words_are_told_apart_and_never_repeated() {
        let error = |text: &str| text.parse::<Mnemonic>().unwrap_err();
        assert_eq!(error("test test"), MnemonicError::WordCount { actual: 2 });
        let misspelt = JUNK.replacen("test", "tset", 1);
        assert_eq!(error(&misspelt), MnemonicError::UnknownWord { position: 1 });
        assert!(!error(&misspelt).to_string().contains("tset"));
        assert_eq!(error(&JUNK.replace("junk", "test")), MnemonicError::Checksum);
    }

    #[test]
    fn new_mnemonics_differ_and_debug_hides_them() {
        let [one, two] = [WordCount::Twelve, WordCount::TwentyFour].map(|count| {
            let mnemonic = Mnemonic::random(count).unwrap();
            assert_eq!(mnemonic.phrase().parse::<Mnemonic>().unwrap(), mnemonic);
            mnemonic
        });
        assert_eq!(format!("{one:?}{two:?}"), "Mnemonic(12 words)Mnemonic(24 words)");
        assert_ne!(one, Mnemonic::random(WordCount::Twelve).unwrap());
        assert_eq!(format!("{:?}", HdWallet::new(&one, "")), "HdWallet(..)");
    }
}
