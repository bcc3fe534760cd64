//! Signing on a machine without a network: a request file goes there, a response file comes back.
//!
//! ```json
//! {
//!   "version": 1,
//!   "description": "delegate to the exit in Oslo until March",
//!   "payload": {
//!     "kind": "eip712",
//!     "domain": { "chain_id": 100, "contract": "0x..." },
//!     "type": "Delegation(address wallet,bytes32 device,address authorizer,uint64 expiry)",
//!     "words": ["0x...", "0x...", "0x...", "0x..."]
//!   },
//!   "digest": "0x...",
//!   "signer": "0x..."
//! }
//! ```
//!
//! The digest is computed from the payload again on loading, so what the signing machine shows
//! is what it signs; a bare `digest` and a transaction, which is not decoded, must be taken on
//! trust ([`OfflineRequest::is_blind`]).
//! The description is the asker's own words and proves nothing.

use alloy_primitives::{Bytes, hex};
use serde::{Deserialize, Serialize};
use sparewire_core::{
    Address, B256, Domain, Signature, SignatureError, Signer, SignerError, TypedData, U256,
    domain_separator, keccak256, typed_digest,
};

use crate::file::tame;

const VERSION: u32 = 1;
const FILE_BYTES_MAX: usize = 256 * 1024;

/// What is to be signed, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Payload {
    /// 32 bytes that say nothing of themselves.
    Digest {
        /// The bytes.
        digest: B256,
    },
    /// A flat EIP-712 struct for a contract of ours, as [`TypedData`] describes them.
    Eip712 {
        /// Which contract.
        #[serde(default, skip_serializing_if = "Contract::is_channels")]
        of: Contract,
        /// Chain and address of that contract.
        domain: Domain,
        /// `encodeType`, for example `Voucher(bytes32 channelId,uint128 amount)`.
        #[serde(rename = "type")]
        encode_type: String,
        /// `encodeData` without its first word: one word for each field.
        words: Vec<B256>,
    },
    /// An Ethereum transaction.
    Transaction {
        /// Its unsigned encoding, whose keccak-256 is signed.
        unsigned: Bytes,
    },
}

/// Whose EIP-712 domain it is: what is signed for one contract is nothing to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contract {
    /// The channel contract.
    #[default]
    Channels,
    /// The registry of keys.
    Keys,
}

impl Contract {
    fn is_channels(&self) -> bool {
        *self == Self::Channels
    }

    fn separator(self, at: &Domain) -> B256 {
        match self {
            Self::Channels => at.separator(),
            Self::Keys => domain_separator("Sparewire Keys", at.chain_id, at.contract),
        }
    }
}

impl Payload {
    fn digest(&self) -> Result<B256, OfflineError> {
        match self {
            Self::Digest { digest } => Ok(*digest),
            Self::Eip712 { of, domain, encode_type, words } => {
                fields(encode_type, words)?;
                Ok(typed_digest(of.separator(domain), struct_hash(encode_type, words)))
            }
            // EIP-2718: a type below 0x80, of which 1 to 4 are in use, or a legacy RLP list. What
            // starts with 0x19 would be signed data in a transaction's clothes.
            Self::Transaction { unsigned } => match unsigned.first() {
                Some(0x01..=0x04 | 0xc0..) => Ok(keccak256(unsigned)),
                _ => Err(OfflineError::Malformed { reason: "no unsigned transaction".into() }),
            },
        }
    }
}

/// A field of an EIP-712 struct, readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in the type.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Its value: an address, decimal number, truth value or hexadecimal word.
    pub value: String,
}

/// A request for a signature. It exists only with a digest that is its payload's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineRequest {
    description: String,
    payload: Payload,
    digest: B256,
    signer: Address,
}

impl OfflineRequest {
    /// Asks `signer` to sign a payload.
    ///
    /// # Errors
    /// [`OfflineError::Malformed`] where the payload is none of its kind.
    pub fn new(
        payload: Payload,
        signer: Address,
        description: impl Into<String>,
    ) -> Result<Self, OfflineError> {
        let digest = payload.digest()?;
        Ok(Self { description: description.into(), payload, digest, signer })
    }

    /// Asks `signer` to sign a struct of ours; `words` are its fields in their order, and are
    /// checked against it.
    ///
    /// # Errors
    /// [`OfflineError::Malformed`] where the words are not the body's.
    pub fn typed_data<T: TypedData>(
        body: &T,
        words: Vec<B256>,
        of: Contract,
        domain: Domain,
        signer: Address,
        description: impl Into<String>,
    ) -> Result<Self, OfflineError> {
        let payload = Payload::Eip712 { of, domain, encode_type: T::TYPE.into(), words };
        let request = Self::new(payload, signer, description)?;
        if request.digest != typed_digest(of.separator(&domain), body.struct_hash()) {
            return Err(OfflineError::Malformed { reason: "words of another struct".into() });
        }
        Ok(request)
    }

    /// What the asker says that it is. Not covered by the signature.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What is signed.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// What the signature covers.
    pub fn digest(&self) -> B256 {
        self.digest
    }

    /// Whose signature is asked for.
    pub fn signer(&self) -> Address {
        self.signer
    }

    /// Whether the signing machine cannot show what it signs: a bare digest, or a transaction,
    /// which is not decoded.
    pub fn is_blind(&self) -> bool {
        !matches!(self.payload, Payload::Eip712 { .. })
    }

    /// The fields of an EIP-712 struct, to be shown before it is signed; none for other kinds.
    pub fn fields(&self) -> Vec<Field> {
        match &self.payload {
            Payload::Eip712 { encode_type, words, .. } => {
                fields(encode_type, words).expect("checked when the request was made")
            }
            _ => Vec::new(),
        }
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`OfflineError`] where `signer` is not the one asked for, or refuses.
    pub fn sign(&self, signer: &dyn Signer) -> Result<OfflineResponse, OfflineError> {
        if signer.address() != self.signer {
            let (asked, given) = (self.signer, signer.address());
            return Err(OfflineError::WrongKey { asked, given });
        }
        OfflineResponse::new(self.digest, signer.sign_digest(self.digest)?, self.signer)
    }

    /// Reads and checks a request file.
    ///
    /// # Errors
    /// [`OfflineError`] where it is no request of this version, or its digest is not its
    /// payload's.
    pub fn from_json(json: &str) -> Result<Self, OfflineError> {
        let file: RequestFile = read(json)?;
        let request = Self::new(file.payload, file.signer, file.description)?;
        if request.digest != file.digest {
            return Err(OfflineError::WrongDigest { said: file.digest, actual: request.digest });
        }
        Ok(request)
    }

    /// The request file's content.
    pub fn to_json(&self) -> String {
        write(&RequestFile {
            version: VERSION,
            description: self.description.clone(),
            payload: self.payload.clone(),
            digest: self.digest,
            signer: self.signer,
        })
    }
}

/// A signature that came back. It exists only where it is its signer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfflineResponse {
    digest: B256,
    signature: Signature,
    signer: Address,
}

impl OfflineResponse {
    fn new(digest: B256, signature: Signature, signer: Address) -> Result<Self, OfflineError> {
        signature.verify(digest, signer)?;
        Ok(Self { digest, signature, signer })
    }

    /// The signature, if it answers this request.
    ///
    /// # Errors
    /// [`OfflineError::WrongAnswer`] where it is for other data or by another signer.
    pub fn signature_for(&self, request: &OfflineRequest) -> Result<Signature, OfflineError> {
        if (self.digest, self.signer) != (request.digest, request.signer) {
            return Err(OfflineError::WrongAnswer);
        }
        Ok(self.signature)
    }

    /// What was signed.
    pub fn digest(&self) -> B256 {
        self.digest
    }

    /// The signature.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// Who signed.
    pub fn signer(&self) -> Address {
        self.signer
    }

    /// Reads a response file and checks the signature in it.
    ///
    /// # Errors
    /// [`OfflineError`] where it is no response of this version, or the signature is not its
    /// signer's.
    pub fn from_json(json: &str) -> Result<Self, OfflineError> {
        let file: ResponseFile = read(json)?;
        let bytes = hex::decode_to_array(&file.signature)
            .map_err(|_| OfflineError::from(SignatureError::Malformed))?;
        Self::new(file.digest, Signature::from_bytes(bytes)?, file.signer)
    }

    /// The response file's content.
    pub fn to_json(&self) -> String {
        write(&ResponseFile {
            version: VERSION,
            digest: self.digest,
            signature: hex::encode_prefixed(self.signature.to_bytes()),
            signer: self.signer,
        })
    }
}

/// Why a request or response does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError {
    /// Not such a file, or a damaged one.
    #[error("malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// From a newer program.
    #[error("version {actual} is not supported, only 1")]
    Version {
        /// Its version.
        actual: u32,
    },
    /// The request was tampered with: its digest is not its payload's.
    #[error("the payload's digest is {actual}, not {said}: do not sign this")]
    WrongDigest {
        /// What the file says.
        said: B256,
        /// What it is.
        actual: B256,
    },
    /// Another key than the request asks for.
    #[error("the request asks for {asked}, the keystore holds {given}")]
    WrongKey {
        /// Whose signature is wanted.
        asked: Address,
        /// Whose key is there.
        given: Address,
    },
    /// A good response to another request.
    #[error("the response answers another request")]
    WrongAnswer,
    /// The signature is not its signer's.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The key's keeper would not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFile {
    version: u32,
    description: String,
    payload: Payload,
    digest: B256,
    signer: Address,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResponseFile {
    version: u32,
    digest: B256,
    signature: String,
    signer: Address,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, OfflineError> {
    // The file comes from elsewhere, and the error repeats its words.
    let malformed =
        |error: serde_json::Error| OfflineError::Malformed { reason: tame(&error.to_string()) };
    if json.len() > FILE_BYTES_MAX {
        return Err(OfflineError::Malformed { reason: format!("over {FILE_BYTES_MAX} bytes") });
    }
    let VersionOnly { version } = serde_json::from_str(json).map_err(malformed)?;
    if version != VERSION {
        return Err(OfflineError::Version { actual: version });
    }
    serde_json::from_str(json).map_err(malformed)
}

fn write<T: Serialize>(file: &T) -> String {
    let mut json = serde_json::to_string_pretty(file).expect("strings and numbers are JSON");
    json.push('\n');
    json
}

/// EIP-712's `hashStruct` of a struct whose fields take one word each.
fn struct_hash(encode_type: &str, words: &[B256]) -> B256 {
    let mut data = keccak256(encode_type).to_vec();
    for word in words {
        data.extend_from_slice(word.as_slice());
    }
    keccak256(data)
}

/// Reads words by a flat struct's type; a word that its type does not allow is an error.
fn fields(encode_type: &str, words: &[B256]) -> Result<Vec<Field>, OfflineError> {
    let bad = |reason: String| OfflineError::Malformed { reason: tame(&reason) };
    let members = encode_type
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .filter(|members| !members.contains(['(', ')']))
        .ok_or_else(|| bad("no type of a flat struct".into()))?;
    let members: Vec<_> = members.split(',').collect();
    if members.len() != words.len() {
        return Err(bad(format!("{} words for {} fields", words.len(), members.len())));
    }
    let field = |(member, word): (&str, &B256)| {
        let (kind, name) =
            member.split_once(' ').ok_or_else(|| bad("a field without name".into()))?;
        let value = value(kind, word).ok_or_else(|| {
            bad(format!("field {name} is no {kind}, or of a type without support"))
        })?;
        Ok(Field { name: name.into(), kind: kind.into(), value })
    };
    members.into_iter().zip(words).map(field).collect()
}

fn value(kind: &str, word: &B256) -> Option<String> {
    let number = U256::from_be_bytes(word.0);
    let fits = |bits: usize| number.bit_len() <= bits;
    match kind {
        "bytes32" => Some(word.to_string()),
        "address" => fits(160).then(|| Address::from_word(*word).to_string()),
        "bool" => fits(1).then(|| (number.bit_len() == 1).to_string()),
        _ => {
            let bits: usize = kind.strip_prefix("uint")?.parse().ok()?;
            (bits.is_multiple_of(8) && (8..=256).contains(&bits) && fits(bits))
                .then(|| number.to_string())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::StructHasher;

    use super::*;
    use crate::LocalKey;

    struct Leave {
        wallet: Address,
        device: B256,
        expiry_secs: u64,
    }

    impl TypedData for Leave {
        const TYPE: &'static str = "Leave(address wallet,bytes32 device,uint64 expiry)";

        fn fields(&self, hasher: &mut StructHasher) {
            hasher.address(self.wallet).word(self.device).uint(self.expiry_secs.into());
        }
    }

    impl Leave {
        fn words(&self) -> Vec<B256> {
            let expiry = B256::from(U256::from(self.expiry_secs));
            vec![self.wallet.into_word(), self.device, expiry]
        }
    }

    const DOMAIN: Domain = Domain { chain_id: 100, contract: Address::repeat_byte(0xcc) };

    fn key() -> LocalKey {
        LocalKey::from_secret(&[7; 32]).unwrap()
    }

    fn leave() -> Leave {
        Leave { wallet: key().address(), device: B256::repeat_byte(3), expiry_secs: 1_800_000_000 }
    }

    fn typed() -> OfflineRequest {
        let words = leave().words();
        OfflineRequest::typed_data(
            &leave(),
            words,
            Contract::Channels,
            DOMAIN,
            key().address(),
            "goodbye",
        )
        .unwrap()
    }

    fn malformed(result: Result<OfflineRequest, OfflineError>) -> bool {
        matches!(result, Err(OfflineError::Malformed { .. }))
    }

    #[test]
    fn a_request_travels_is_signed_and_its_answer_travels_back() {
        let unsigned = Bytes::from(vec![0x02, 0xc0]);
        let digest = B256::repeat_byte(9);
        let new = |payload| OfflineRequest::new(payload, key().address(), "it").unwrap();
        let requests = [
            typed(),
            new(Payload::Digest { digest }),
            new(Payload::Transaction { unsigned: unsigned.clone() }),
        ];
        assert_eq!(requests[0].digest(), leave().digest(&DOMAIN));
        assert_eq!(requests[1].digest(), digest);
        assert_eq!(requests[2].digest(), keccak256(&unsigned));
        assert_eq!(requests.clone().map(|request| request.is_blind()), [false, true, true]);
        for request in requests {
            let arrived = OfflineRequest::from_json(&request.to_json()).unwrap();
            assert_eq!(arrived, request);
            let response = arrived.sign(&key()).unwrap();
            let back = OfflineResponse::from_json(&response.to_json()).unwrap();
            let signature = back.signature_for(&request).unwrap();
            assert_eq!(signature.recover(request.digest()), Ok(key().address()));
        }
    }

    #[test]
    fn what_is_signed_can_be_read() {
        let shown: Vec<_> =
            typed().fields().into_iter().map(|field| (field.name, field.value)).collect();
        let expected = [
            ("wallet", key().address().to_string()),
            ("device", B256::repeat_byte(3).to_string()),
            ("expiry", "1800000000".into()),
        ];
        assert_eq!(shown, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn a_request_that_was_tampered_with_is_refused() {
        let json = typed().to_json();
        let device = B256::repeat_byte(3).to_string();
        let tampered = json.replace(&device, &B256::repeat_byte(4).to_string());
        let error = OfflineRequest::from_json(&tampered).unwrap_err();
        assert!(matches!(error, OfflineError::WrongDigest { .. }), "{error}");
        assert!(malformed(OfflineRequest::from_json(&json.replace("\"kind\"", "\"sort\""))));
        assert!(malformed(OfflineRequest::from_json(&json.replacen('{', "{\"more\":1,", 1))));
        assert!(malformed(OfflineRequest::from_json(&json.replace("uint64", "string"))));
        assert!(malformed(OfflineRequest::from_json("")));
        let newer = json.replace("\"version\": 1", "\"version\": 2");
        assert_eq!(
            OfflineRequest::from_json(&newer).unwrap_err(),
            OfflineError::Version { actual: 2 }
        );
    }

    #[test]
    fn an_error_repeats_no_control_characters_of_a_hostile_file() {
        let strange = Payload::Eip712 {
            of: Contract::Channels,
            domain: DOMAIN,
            encode_type: "Leave(strange\u{1b}[2J wall\u{7}et)".into(),
            words: vec![B256::ZERO],
        };
        let json = typed().to_json().replace("\"description\"", r#""descri\u001b[2Jption""#);
        for error in [
            OfflineRequest::from_json(&json).unwrap_err(),
            OfflineRequest::new(strange, key().address(), "").unwrap_err(),
            OfflineResponse::from_json(r#"{"version":1,"dig\u001best":""}"#).unwrap_err(),
        ] {
            assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn words_must_fit_their_types_and_their_struct() {
        let mut words = leave().words();
        words[2] = B256::repeat_byte(1); // no uint64
        let request = |words| {
            OfflineRequest::typed_data(
                &leave(),
                words,
                Contract::Channels,
                DOMAIN,
                key().address(),
                "",
            )
        };
        assert!(malformed(request(words)));
        assert!(malformed(request(leave().words()[..2].to_vec())));
        let mut words = leave().words();
        words[1] = B256::ZERO; // a good word, but of another struct
        assert!(malformed(request(words)));
    }

    #[test]
    fn signed_data_in_a_transactions_clothes_is_refused() {
        for first in [0x00, 0x05, 0x19, 0x7f, 0x80, 0xbf] {
            let unsigned = Bytes::from(vec![first; 66]);
            let payload = Payload::Transaction { unsigned };
            assert!(malformed(OfflineRequest::new(payload, key().address(), "")));
        }
        let payload = Payload::Transaction { unsigned: Bytes::new() };
        assert!(malformed(OfflineRequest::new(payload, key().address(), "")));
    }

    #[test]
    fn only_the_key_that_was_asked_for_signs_and_only_its_answer_counts() {
        let other = LocalKey::from_secret(&[8; 32]).unwrap();
        let error = typed().sign(&other).unwrap_err();
        assert!(matches!(error, OfflineError::WrongKey { .. }), "{error}");

        let response = typed().sign(&key()).unwrap();
        let forged = response.to_json().replace(
            &serde_json::to_string(&key().address()).unwrap(),
            &serde_json::to_string(&other.address()).unwrap(),
        );
        let error = OfflineResponse::from_json(&forged).unwrap_err();
        assert!(matches!(error, OfflineError::Signature(_)), "{error}");

        let payload = Payload::Digest { digest: B256::repeat_byte(1) };
        let another = OfflineRequest::new(payload, key().address(), "").unwrap();
        assert_eq!(response.signature_for(&another), Err(OfflineError::WrongAnswer));
    }
}
