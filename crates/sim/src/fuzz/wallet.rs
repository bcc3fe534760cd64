//! Files of the wallet: keystores, mnemonics, and what travels to an offline signer.

use std::sync::OnceLock;

use serde_json::Value;
use sparewire_core::Signer;
use sparewire_wallet::{
    Identity, Keystore, KeystoreError, LocalKey, Mnemonic, OfflineError, OfflineRequest,
    OfflineResponse, Payload, Secret,
};

use super::{assert_tame, within};

/// JSON that is read in two steps holds 32 bytes and more for each of its values.
const BYTES_PER_JSON_BYTE: usize = 96;
const ALLOCATION_MAX: usize = 64 << 10;
/// Longest error: it names what is wrong, it does not repeat the file.
const WORDS_MAX: usize = 1024;
/// The password of the corpus's keystores.
pub(super) const PASSWORD: &str = "pass";

/// A keystore file. One that is cheap to open is opened.
pub fn keystore(data: &[u8]) {
    let allocated_max = ALLOCATION_MAX + BYTES_PER_JSON_BYTE * data.len();
    let keystore = match within(allocated_max, || Keystore::from_json(data)) {
        Ok(keystore) => keystore,
        Err(error) => return assert_tame(&error, WORDS_MAX),
    };
    let json = keystore.to_json();
    let again = Keystore::from_json(json.as_bytes()).expect("what is written can be read");
    assert_eq!(again.to_json(), json);
    assert_eq!(again.identity(), keystore.identity());
    assert_tame(&keystore.identity(), WORDS_MAX);
    if !is_cheap(&json) {
        return;
    }
    match keystore.decrypt(PASSWORD) {
        Ok(secret) => {
            let held = secret.identity().expect("it was compared with the file's");
            let unnamed = keystore.identity() == Identity::Key { address: None };
            assert!(held == keystore.identity() || unnamed && matches!(secret, Secret::Key(_)));
        }
        Err(KeystoreError::WrongPassword) => {}
        Err(error) => assert_tame(&error, WORDS_MAX),
    }
}

fn is_cheap(json: &str) -> bool {
    let file: Value = serde_json::from_str(json).unwrap_or_default();
    let kdf = &file["crypto"]["kdfparams"];
    let number = |name: &str| kdf[name].as_u64().unwrap_or(1);
    let work = number("n").saturating_mul(number("r")).saturating_mul(number("p"));
    work.max(number("c")) <= 1 << 10
}

/// Words, and the entropy behind them.
pub fn mnemonic(data: &[u8]) {
    if let Some(mnemonic) = Mnemonic::from_entropy(data) {
        assert!(matches!(data.len(), 16 | 20 | 24 | 28 | 32));
        assert_eq!(**mnemonic.entropy(), *data);
        assert_words(&mnemonic);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match within(ALLOCATION_MAX + 8 * text.len(), || text.parse::<Mnemonic>()) {
        Ok(mnemonic) => {
            assert!(Mnemonic::from_entropy(&mnemonic.entropy()).as_ref() == Some(&mnemonic));
            assert_words(&mnemonic);
        }
        Err(error) => assert_tame(&error, WORDS_MAX),
    }
}

fn assert_words(mnemonic: &Mnemonic) {
    let phrase = mnemonic.phrase();
    assert!(matches!(phrase.split(' ').count(), 12 | 15 | 18 | 21 | 24));
    assert!(phrase.parse().as_ref() == Ok(mnemonic), "the words say the same");
    let count = phrase.split(' ').count();
    assert_eq!(format!("{mnemonic:?}"), format!("Mnemonic({count} words)"), "no word is shown");
}

/// A request to an offline signer.
pub fn offline_request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let allocated_max = ALLOCATION_MAX + BYTES_PER_JSON_BYTE * data.len();
    let request = match within(allocated_max, || OfflineRequest::from_json(text)) {
        Ok(request) => request,
        Err(error) => return assert_tame(&error, WORDS_MAX),
    };
    assert_eq!(OfflineRequest::from_json(&request.to_json()).as_ref(), Ok(&request));
    let fields = request.fields();
    match request.payload() {
        Payload::Eip712 { words, .. } => assert_eq!(fields.len(), words.len(), "all are shown"),
        Payload::Digest { digest } => assert_eq!(*digest, request.digest()),
        Payload::Transaction { .. } => assert!(fields.is_empty()),
    }
    assert_eq!(request.is_blind(), fields.is_empty(), "what can be shown is");
    match request.sign(key()) {
        Ok(response) => {
            assert_eq!(request.signer(), key().address());
            assert!(response.signature_for(&request).is_ok());
        }
        Err(error) => assert!(matches!(error, OfflineError::WrongKey { .. }), "{error}"),
    }
}

/// An offline signer's answer.
pub fn offline_response(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let allocated_max = ALLOCATION_MAX + BYTES_PER_JSON_BYTE * data.len();
    match within(allocated_max, || OfflineResponse::from_json(text)) {
        Ok(response) => {
            assert_eq!(response.signature().recover(response.digest()), Ok(response.signer()));
            assert_eq!(OfflineResponse::from_json(&response.to_json()), Ok(response));
        }
        Err(error) => assert_tame(&error, WORDS_MAX),
    }
}

/// A key that everybody knows.
pub(super) fn key() -> &'static LocalKey {
    static KEY: OnceLock<LocalKey> = OnceLock::new();
    KEY.get_or_init(|| LocalKey::from_secret(&[7; 32]).expect("a scalar"))
}
