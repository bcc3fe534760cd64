//! The three keys of a node and the directory that they live in.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use sparewire_core::{Address, DeviceSigner, NodeId, Signer};

use crate::{
    Cost, DeviceKey, HdError, HdWallet, Identity, KeyFileError, Keystore, KeystoreError, LocalKey,
    Mnemonic, Secret, Warning, file, password::PasswordKey,
};

const WALLET: &str = "wallet.json";
const AUTHORIZER: &str = "authorizer.json";
const DEVICE: &str = "device.json";
/// The authorizer that is to take over from the present one.
const NEXT: &str = "authorizer.next.json";
/// How the files of those begin that it took over from; their addresses follow.
const REPLACED: &str = "authorizer-";

/// What a node is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PublicKeys {
    /// Where its money is.
    pub wallet: Address,
    /// The hot key that its channels name.
    pub authorizer: Address,
    /// Its device key: its name on the network.
    pub node_id: NodeId,
}

/// The keys of a running node, from a directory with one keystore file each: `wallet.json`,
/// `authorizer.json`, `device.json`, under one password.
///
/// No mnemonic is stored there: a node that is broken into loses its own keys, not those that
/// its owner derives elsewhere. Calls that take a password block for a second or so.
pub struct NodeKeys {
    /// Owns the money.
    pub wallet: Arc<dyn Signer>,
    /// Signs vouchers and receipts.
    pub authorizer: LocalKey,
    /// The transport endpoint's identity.
    pub device: DeviceKey,
}

impl NodeKeys {
    /// Makes the keys of a new node, from index 0 of a mnemonic or, without one, at random, and
    /// stores them in `dir`, which must not exist or be empty. The directory appears complete or
    /// not at all.
    ///
    /// After a disk was lost do not go back to index 0 of the same mnemonic: the authorizer
    /// would sign again without knowing what it has signed. Take the next index, with
    /// [`NodeSecrets::derive`].
    ///
    /// # Errors
    /// [`KeyFileError`] where there are keys already or the disk fails.
    pub fn create(
        dir: &Path,
        password: &str,
        mnemonic: Option<Mnemonic>,
    ) -> Result<Self, KeyFileError> {
        let secrets = match mnemonic {
            Some(mnemonic) => NodeSecrets::derive(&mnemonic, 0).map_err(KeystoreError::from),
            None => NodeSecrets::random().map_err(KeystoreError::from),
        };
        secrets.map_err(|error| error.at(dir))?.store(dir, password, Cost::STANDARD)
    }

    /// Opens the keys in `dir`; the warnings are for their owner.
    ///
    /// # Errors
    /// [`KeyFileError`] names the file that is missing, damaged or under another password.
    pub fn open(dir: &Path, password: &str) -> Result<(Self, Vec<Warning>), KeyFileError> {
        Self::load(dir, password, None)
    }

    /// What the files in `dir` say of themselves; needs no password and proves nothing.
    ///
    /// # Errors
    /// [`KeyFileError`] names the file that is missing or damaged.
    pub fn peek(dir: &Path) -> Result<PublicKeys, KeyFileError> {
        let (wallet, authorizer) = (address(&dir.join(WALLET))?, address(&dir.join(AUTHORIZER))?);
        let path = dir.join(DEVICE);
        match Keystore::read(&path)?.0.identity() {
            Identity::Device { node_id } => Ok(PublicKeys { wallet, authorizer, node_id }),
            held => Err(KeystoreError::WrongKind { held }.at(&path)),
        }
    }

    /// The same of the authorizer that waits to take over, where one does.
    ///
    /// # Errors
    /// [`KeyFileError`] where its file is damaged.
    pub fn peek_next(dir: &Path) -> Result<Option<Address>, KeyFileError> {
        Self::has_next_authorizer(dir).then(|| address(&dir.join(NEXT))).transpose()
    }

    /// The authorizer that is to take over from the present one: made at random and stored under
    /// the same password where there is none yet. It is durable when this returns, and the same when
    /// this is asked again, until [`NodeKeys::use_next_authorizer`].
    ///
    /// # Errors
    /// [`KeyFileError`] names the file that is missing, damaged or under another password.
    pub fn next_authorizer(dir: &Path, password: &str) -> Result<LocalKey, KeyFileError> {
        let (path, next) = (dir.join(AUTHORIZER), dir.join(NEXT));
        let (present, _) = Keystore::read(&path)?;
        let key = present.password_key(password, None).map_err(|error| error.at(&path))?;
        present.open(&key).map_err(|error| error.at(&path))?; // by the right password
        let missing = !Self::has_next_authorizer(dir);
        if missing {
            let made = LocalKey::random().map_err(KeystoreError::from);
            let made = made.and_then(|made| Keystore::seal(&Secret::Key(made), &key));
            made.map_err(|error| error.at(&next))?.write_new(&next)?;
        }
        // What counts is what can be read back.
        let (stored, _) = Keystore::read(&next)?;
        let key = stored.password_key(password, Some(key)).map_err(|error| error.at(&next))?;
        let secret = stored.open(&key).map_err(|error| error.at(&next))?;
        secp256k1((next, secret))
    }

    /// Whether an authorizer waits to take over.
    pub fn has_next_authorizer(dir: &Path) -> bool {
        dir.join(NEXT).exists()
    }

    /// The authorizers that others have taken over from, whose files are kept.
    ///
    /// # Errors
    /// [`KeyFileError`] where the directory cannot be read.
    pub fn replaced_authorizers(dir: &Path) -> Result<Vec<Address>, KeyFileError> {
        let at_dir = |error| KeystoreError::from(error).at(dir);
        let mut replaced = Vec::new();
        for entry in dir.read_dir().map_err(at_dir)? {
            let name = entry.map_err(at_dir)?.file_name();
            let name = name.to_string_lossy();
            let address = name.strip_prefix(REPLACED).and_then(|name| name.strip_suffix(".json"));
            replaced.extend(address.and_then(|address| address.parse::<Address>().ok()));
        }
        replaced.sort_unstable();
        Ok(replaced)
    }

    /// Lets the next authorizer take over; where there is none, it has. The one before is kept
    /// beside it, named by its address.
    ///
    /// # Errors
    /// [`KeyFileError`] where a file cannot be read or written. Either of the two is in place then,
    /// whole.
    pub fn use_next_authorizer(dir: &Path) -> Result<(), KeyFileError> {
        if !Self::has_next_authorizer(dir) {
            return Ok(());
        }
        let path = dir.join(AUTHORIZER);
        let (present, _) = Keystore::read(&path)?;
        let Identity::Key { address: Some(address) } = present.identity() else {
            return Err(KeystoreError::WrongKind { held: present.identity() }.at(&path));
        };
        match present.write_new(&dir.join(format!("{REPLACED}{address:#x}.json"))) {
            // Kept before a crash.
            Err(KeyFileError { error: KeystoreError::Exists, .. }) => {}
            kept => kept?,
        }
        file::replace(&dir.join(NEXT), &path).map_err(|error| KeystoreError::from(error).at(&path))
    }

    /// What the node is known by.
    pub fn public(&self) -> PublicKeys {
        PublicKeys {
            wallet: self.wallet.address(),
            authorizer: self.authorizer.address(),
            node_id: self.device.node_id(),
        }
    }

    /// Opens the keys; `known` saves stretching the password for files that share its salt.
    fn load(
        dir: &Path,
        password: &str,
        mut known: Option<PasswordKey>,
    ) -> Result<(Self, Vec<Warning>), KeyFileError> {
        let mut warnings = Vec::new();
        let mut open = |name: &str| -> Result<(PathBuf, Secret), KeyFileError> {
            let path = dir.join(name);
            let (keystore, warned) = Keystore::read(&path)?;
            warnings.extend(warned);
            let key =
                keystore.password_key(password, known.take()).map_err(|error| error.at(&path))?;
            let secret = keystore.open(&key).map_err(|error| error.at(&path))?;
            known = Some(key);
            Ok((path, secret))
        };
        let wallet = secp256k1(open(WALLET)?)?;
        let authorizer = secp256k1(open(AUTHORIZER)?)?;
        let device = match open(DEVICE)? {
            (_, Secret::Device(key)) => key,
            (path, other) => return Err(wrong_kind(&path, &other)),
        };
        Ok((Self { wallet: Arc::new(wallet), authorizer, device }, warnings))
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKeys").field(&self.public()).finish()
    }
}

/// The keys of a node that is about to be stored, wherever they come from: each can be replaced,
/// for example the wallet by an imported one.
#[derive(Debug)]
pub struct NodeSecrets {
    /// Owns the money.
    pub wallet: LocalKey,
    /// Signs vouchers and receipts.
    pub authorizer: LocalKey,
    /// The transport endpoint's identity.
    pub device: DeviceKey,
}

impl NodeSecrets {
    /// Three independent keys; the files are their only copy.
    ///
    /// # Errors
    /// Where the operating system gives no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        Ok(Self {
            wallet: LocalKey::random()?,
            authorizer: LocalKey::random()?,
            device: DeviceKey::random()?,
        })
    }

    /// Node `index` of a mnemonic without a passphrase.
    ///
    /// # Errors
    /// [`HdError`] where there is no such key.
    pub fn derive(mnemonic: &Mnemonic, index: u32) -> Result<Self, HdError> {
        let hd = HdWallet::new(mnemonic, "");
        Ok(Self {
            wallet: hd.wallet(index)?,
            authorizer: hd.authorizer(index)?,
            device: hd.device(index)?,
        })
    }

    /// Stores the keys as [`NodeKeys::create`] does.
    ///
    /// # Errors
    /// [`KeyFileError`] where there are keys already or the disk fails.
    pub fn store(self, dir: &Path, password: &str, cost: Cost) -> Result<NodeKeys, KeyFileError> {
        let at_dir = |error: KeystoreError| error.at(dir);
        if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(at_dir(KeystoreError::Exists)); // said before a second of scrypt
        }
        let key = PasswordKey::new(password, cost).map_err(at_dir)?;
        let staging = file::staging_dir(dir).map_err(|error| at_dir(error.into()))?;
        for (name, secret) in [
            (WALLET, Secret::Key(self.wallet)),
            (AUTHORIZER, Secret::Key(self.authorizer)),
            (DEVICE, Secret::Device(self.device)),
        ] {
            let keystore = Keystore::seal(&secret, &key).map_err(at_dir)?;
            keystore.write_new(&staging.path().join(name))?;
        }
        // What counts is what can be read back.
        let (keys, _) = NodeKeys::load(staging.path(), password, Some(key))?;
        file::publish_dir(staging, dir).map_err(|error| at_dir(error.into()))?;
        Ok(keys)
    }
}

/// What a key's file says of itself.
fn address(path: &Path) -> Result<Address, KeyFileError> {
    match Keystore::read(path)?.0.identity() {
        Identity::Key { address: Some(address) } => Ok(address),
        held => Err(KeystoreError::WrongKind { held }.at(path)),
    }
}

fn secp256k1((path, secret): (PathBuf, Secret)) -> Result<LocalKey, KeyFileError> {
    match secret {
        Secret::Key(key) => Ok(key),
        other => Err(wrong_kind(&path, &other)),
    }
}

fn wrong_kind(path: &Path, secret: &Secret) -> KeyFileError {
    match secret.identity() {
        Ok(held) => KeystoreError::WrongKind { held },
        Err(error) => KeystoreError::from(error),
    }
    .at(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use sparewire_core::{B256, address};

    use super::*;

    const JUNK: &str = "test test test test test test test test test test test junk";

    fn store(dir: &Path) -> Result<NodeKeys, KeyFileError> {
        NodeSecrets::derive(&JUNK.parse().unwrap(), 0).unwrap().store(dir, "pass", Cost::INSECURE)
    }

    #[test]
    fn keys_are_created_peeked_at_and_opened() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("node/keys");
        let public = store(&dir).unwrap().public();
        assert_eq!(public.wallet, address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));
        assert_eq!(NodeKeys::peek(&dir).unwrap(), public);
        let (keys, warnings) = NodeKeys::open(&dir, "pass").unwrap();
        assert_eq!(keys.public(), public);
        assert!(warnings.iter().all(|warning| matches!(warning, Warning::WeakPasswordHash { .. })));
        let digest = B256::repeat_byte(5);
        assert_eq!(keys.wallet.sign_digest(digest).unwrap().recover(digest), Ok(public.wallet));
        assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&dir), 0o700);
            assert_eq!(mode(&dir.join(DEVICE)), 0o600);
        }
    }

    #[test]
    fn random_keys_differ_and_an_empty_directory_may_be_filled() {
        let root = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| {
            let dir = root.path().join(name);
            fs::create_dir(&dir).unwrap();
            let keys = NodeSecrets::random().unwrap().store(&dir, "pass", Cost::INSECURE).unwrap();
            assert_eq!(NodeKeys::peek(&dir).unwrap(), keys.public());
            keys.public()
        });
        assert!(one.wallet != two.wallet && one.wallet != one.authorizer);
        assert!(one.node_id != two.node_id && one.authorizer != two.authorizer);
    }

    #[test]
    fn keys_are_never_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("keys");
        let public = store(&dir).unwrap().public();
        let error = store(&dir).unwrap_err();
        assert!(matches!(error.error, KeystoreError::Exists), "{error}");
        // Nor by one who comes between the check and the rename.
        let staging = file::staging_dir(&dir).unwrap();
        let raced = file::publish_dir(staging, &dir).map_err(KeystoreError::from).unwrap_err();
        assert!(matches!(raced, KeystoreError::Exists), "{raced}");
        assert_eq!(NodeKeys::peek(&dir).unwrap(), public);
        let file = root.path().join("file");
        fs::write(&file, "mine").unwrap();
        assert!(matches!(store(&file).unwrap_err().error, KeystoreError::Exists));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn the_next_authorizer_is_made_once_and_takes_over_whole_wherever_it_is_interrupted() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("keys");
        let before = store(&dir).unwrap().public();
        let wrong = NodeKeys::next_authorizer(&dir, "other").unwrap_err();
        assert!(matches!(wrong.error, KeystoreError::WrongPassword), "{wrong}");
        assert!(!NodeKeys::has_next_authorizer(&dir));
        NodeKeys::use_next_authorizer(&dir).unwrap();
        assert_eq!(NodeKeys::peek(&dir).unwrap(), before, "there is none to take over");

        let next = NodeKeys::next_authorizer(&dir, "pass").unwrap().address();
        assert_ne!(next, before.authorizer);
        assert_eq!(NodeKeys::next_authorizer(&dir, "pass").unwrap().address(), next, "the same");
        assert_eq!(NodeKeys::peek_next(&dir).unwrap(), Some(next));
        assert_eq!(NodeKeys::open(&dir, "pass").unwrap().0.public(), before, "not yet");
        assert!(NodeKeys::replaced_authorizers(&dir).unwrap().is_empty());
        // It was interrupted after the present one was kept.
        let kept = dir.join(format!("authorizer-{:#x}.json", before.authorizer));
        fs::copy(dir.join(AUTHORIZER), &kept).unwrap();
        NodeKeys::use_next_authorizer(&dir).unwrap();
        NodeKeys::use_next_authorizer(&dir).unwrap();
        assert!(!NodeKeys::has_next_authorizer(&dir));
        assert_eq!(NodeKeys::replaced_authorizers(&dir).unwrap(), [before.authorizer]);
        let (keys, warnings) = NodeKeys::open(&dir, "pass").unwrap();
        assert_eq!(keys.public(), PublicKeys { authorizer: next, ..before });
        assert!(warnings.iter().all(|warning| matches!(warning, Warning::WeakPasswordHash { .. })));
        let held = Keystore::read(&kept).unwrap().0.identity();
        assert_eq!(held, Identity::Key { address: Some(before.authorizer) });
        // And another one after it.
        assert_ne!(NodeKeys::next_authorizer(&dir, "pass").unwrap().address(), next);
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("keys");
        assert!(NodeKeys::peek(&dir).unwrap_err().path.ends_with(WALLET));
        store(&dir).unwrap();
        let wrong = NodeKeys::open(&dir, "other").unwrap_err();
        assert!(
            matches!(wrong.error, KeystoreError::WrongPassword) && wrong.path.ends_with(WALLET)
        );

        fs::write(dir.join(AUTHORIZER), "{").unwrap();
        let corrupt = NodeKeys::open(&dir, "pass").unwrap_err();
        assert!(matches!(corrupt.error, KeystoreError::Corrupt { .. }), "{corrupt}");
        assert!(corrupt.path.ends_with(AUTHORIZER) && corrupt.hint().contains("backup"));

        fs::copy(dir.join(DEVICE), dir.join(AUTHORIZER)).unwrap();
        for swapped in
            [NodeKeys::open(&dir, "pass").unwrap_err(), NodeKeys::peek(&dir).unwrap_err()]
        {
            assert!(matches!(swapped.error, KeystoreError::WrongKind { .. }), "{swapped}");
        }
        fs::remove_file(dir.join(AUTHORIZER)).unwrap();
        let missing = NodeKeys::open(&dir, "pass").unwrap_err();
        assert!(matches!(missing.error, KeystoreError::Missing), "{missing}");
        assert!(missing.path.ends_with(AUTHORIZER));
    }

    #[test]
    fn a_wallet_from_elsewhere_takes_its_place_beside_the_hot_keys() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("keys");
        store(&dir).unwrap();
        // Its own salt and cost, the same password.
        let imported = Secret::Key(LocalKey::from_secret(&[3; 32]).unwrap());
        fs::remove_file(dir.join(WALLET)).unwrap();
        let keystore = Keystore::encrypt(&imported, "pass", Cost::INSECURE).unwrap();
        keystore.write_new(&dir.join(WALLET)).unwrap();
        let (keys, _) = NodeKeys::open(&dir, "pass").unwrap();
        let address = Some(keys.wallet.address());
        assert_eq!(imported.identity().unwrap(), Identity::Key { address });
    }

    #[test]
    fn debug_shows_only_what_is_public() {
        let secrets = NodeSecrets::derive(&JUNK.parse().unwrap(), 0).unwrap();
        let shown = format!("{secrets:?}").to_lowercase();
        assert!(shown.contains("f39fd6e51aad88f6f4ce6ab8827279cfffb92266"));
        assert!(!shown.contains("ac0974bec39a17e3"));
    }
}
