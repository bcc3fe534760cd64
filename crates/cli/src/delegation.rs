//! Another wallet than this node's own as the one that is paid: its signed word for this node, which
//! is asked for here, signed where its key is, and kept in a file.

use std::{fs, io::Read, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sparewire_core::{Address, B256, Domain, NodeId, Signed, Timestamp, TypedData, U256};
use sparewire_node::identity::{DelegationError, Identity};
use sparewire_protocol::{Delegation, Revocation};
use sparewire_wallet::{Contract, OfflineError, OfflineRequest, OfflineResponse, Payload};

use crate::{
    dates::{self, Day},
    hint::Hint,
    home::{Home, clock},
    output,
};

/// Where `wallet delegation import` keeps it in a data directory.
pub(crate) const FILE: &str = "delegation.json";
/// Longest file that is read, in bytes; ours have a few kilobytes.
const FILE_LEN_MAX: u64 = 16 << 10;
/// How long before its end its owner is told to renew it, in seconds.
const RENEW_SECS: u64 = 30 * 86_400;

const HOW: &str = "`sparewire wallet delegation request` asks for one; docs/operations.md says how";

/// What was asked for, and the answer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DelegationFile {
    request: Value,
    response: Value,
}

/// What a wallet is asked to sign.
///
/// # Errors
/// None that a delegation of ours could cause.
pub(crate) fn request(
    delegation: &Delegation,
    domain: Domain,
) -> Result<OfflineRequest, OfflineError> {
    let Delegation { wallet, device, authorizer, expiry_secs } = *delegation;
    let expiry = B256::from(U256::from(expiry_secs));
    let words = vec![wallet.into_word(), device.0, authorizer.into_word(), expiry];
    let until = dates::utc(Timestamp::from_ms(expiry_secs.saturating_mul(1_000)));
    let description = format!("let node {device} be paid to {wallet} until {until}");
    OfflineRequest::typed_data(delegation, words, Contract::Channels, domain, wallet, description)
}

/// What a wallet is asked to sign for the registry of keys at `registry`.
///
/// # Errors
/// None that a revocation of ours could cause.
pub(crate) fn revocation_request(
    revocation: &Revocation,
    registry: Domain,
) -> Result<OfflineRequest, OfflineError> {
    let Revocation { wallet, device, authorizer, deadline_secs } = *revocation;
    let deadline = B256::from(U256::from(deadline_secs));
    let words = vec![wallet.into_word(), device.0, authorizer.into_word(), deadline];
    let description =
        format!("{wallet} revokes for good: device {device}, authorizer {authorizer}");
    OfflineRequest::typed_data(revocation, words, Contract::Keys, registry, wallet, description)
}

/// A signed word about keys that anybody may bring to the registry.
#[derive(Debug)]
pub(crate) enum Word {
    Delegation(Signed<Delegation>),
    Revocation(Signed<Revocation>),
}

/// What was asked for and is signed now, for the channel contract of `domain` and its registry of
/// keys.
///
/// # Errors
/// Where the request is for something or somewhere else, or the response is not its answer.
pub(crate) fn word(
    request: &str,
    response: &str,
    domain: &Domain,
    registry: Address,
) -> Result<Word> {
    let asked = OfflineRequest::from_json(request).context("the request")?;
    let Payload::Eip712 { of: Contract::Keys, domain: at, encode_type, words } = asked.payload()
    else {
        let (at, signed) = answered(request, response)?;
        ensure!(at == *domain, "signed for chain {}, contract {}", at.chain_id, at.contract);
        return Ok(Word::Delegation(signed));
    };
    let other = "the request is not one for a revocation";
    let &[wallet, device, authorizer, deadline] = &words[..] else { bail!(other) };
    ensure!(encode_type == Revocation::TYPE, other);
    let here = Domain { chain_id: domain.chain_id, contract: registry };
    ensure!(*at == here, "signed for chain {}, registry {}", at.chain_id, at.contract);
    let body = Revocation {
        wallet: Address::from_word(wallet),
        device: NodeId(device),
        authorizer: Address::from_word(authorizer),
        deadline_secs: u64::try_from(U256::from_be_bytes(deadline.0))?,
    };
    ensure!(asked.signer() == body.wallet, "only {} can revoke its keys", body.wallet);
    let response = OfflineResponse::from_json(response).context("the response")?;
    Ok(Word::Revocation(Signed { body, signature: response.signature_for(&asked)? }))
}

/// What was asked for and is signed now, and where it counts.
///
/// # Errors
/// Where the request is for something else, or the response is not its answer.
pub(crate) fn answered(request: &str, response: &str) -> Result<(Domain, Signed<Delegation>)> {
    let request = OfflineRequest::from_json(request).context("the request")?;
    let response = OfflineResponse::from_json(response).context("the response")?;
    let other = "the request is not one for a delegation";
    let Payload::Eip712 { of: Contract::Channels, domain, encode_type, words } = request.payload()
    else {
        bail!(other)
    };
    let &[wallet, device, authorizer, expiry] = &words[..] else { bail!(other) };
    ensure!(encode_type == Delegation::TYPE, other);
    let body = Delegation {
        wallet: Address::from_word(wallet),
        device: NodeId(device),
        authorizer: Address::from_word(authorizer),
        expiry_secs: u64::try_from(U256::from_be_bytes(expiry.0))?,
    };
    let signed = Signed { body, signature: response.signature_for(&request)? };
    signed.verify(domain, body.wallet).context("not signed by the wallet that is to be paid")?;
    Ok((*domain, signed))
}

/// Keeps a delegation in a file, in place of an older one.
///
/// # Errors
/// Where it is none, or the disk fails.
pub(crate) fn keep(path: &Path, request: &str, response: &str) -> Result<Signed<Delegation>> {
    let (_, signed) = answered(request, response)?;
    let (request, response) = (serde_json::from_str(request)?, serde_json::from_str(response)?);
    let mut json = serde_json::to_string_pretty(&DelegationFile { request, response })?;
    json.push('\n');
    // Whole or not at all: a provider that starts meanwhile reads the old one or the new one.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("cannot write {}", path.display());
    let mut staged = tempfile::NamedTempFile::new_in(dir).with_context(cannot)?;
    std::io::Write::write_all(&mut staged, json.as_bytes()).with_context(cannot)?;
    staged.as_file().sync_all().with_context(cannot)?;
    staged.persist(path).with_context(cannot)?;
    Ok(signed)
}

/// Reads a delegation that counts on `domain`, whether or not it does now and for this node.
fn read(path: &Path, domain: &Domain) -> Result<Signed<Delegation>> {
    let shown = path.display();
    let cannot = || format!("cannot read the delegation in {shown}");
    // What is no file could have no end, or never begin.
    ensure!(fs::metadata(path).with_context(cannot)?.is_file(), "{shown} is not a file");
    let mut text = String::new();
    let mut file = fs::File::open(path).with_context(cannot)?.take(FILE_LEN_MAX + 1);
    file.read_to_string(&mut text).with_context(cannot)?;
    ensure!(
        text.len() as u64 <= FILE_LEN_MAX,
        "{shown} is no delegation: it is longer than {FILE_LEN_MAX} bytes"
    );
    let told = serde_json::from_str(&text).map_err(anyhow::Error::from);
    let told = told.and_then(|DelegationFile { request, response }| {
        answered(&request.to_string(), &response.to_string())
    });
    let (signed_for, signed) = told.map_err(|error| {
        Hint::new(format!("{shown} is no delegation: {}", output::tame(&format!("{error:#}"))))
            .hint("name the file that `sparewire wallet delegation import` wrote")
    })?;
    ensure!(
        signed_for == *domain,
        Hint::new(format!(
            "the delegation in {shown} is for chain {}, contract {}; this node settles on chain {}, contract {}",
            signed_for.chain_id, signed_for.contract, domain.chain_id, domain.contract
        ))
        .hint(HOW)
    );
    Ok(signed)
}

/// The delegation that is configured, whether or not it counts now and for this node; `None` where
/// this node's own wallet is paid.
///
/// # Errors
/// Where the file is none, damaged, or for another chain or contract.
pub(crate) fn configured(home: &Home) -> Result<Option<Signed<Delegation>>> {
    let name = home.config.provider.delegation.as_str();
    if name.is_empty() {
        return Ok(None);
    }
    let (domain, _) = home.network()?;
    read(&home.dir.join(name), &domain).map(Some).context("[provider] delegation")
}

/// Who this node is as a provider: `own`, or by the word of the wallet that is configured.
///
/// # Errors
/// As of [`configured`], and where the delegation is another node's or over.
pub(crate) fn identity(home: &Home, own: &Identity) -> Result<Identity> {
    let Some(signed) = configured(home)? else { return Ok(own.clone()) };
    let (domain, _) = home.network()?;
    let Identity { device, authorizer, .. } = own.clone();
    let wallet = signed.body.wallet;
    Identity::delegated(device, authorizer, signed, &domain, clock()()).map_err(|error| {
        let said = match &error {
            DelegationError::Expired { expired_secs } => {
                format!("it ended on {}", Day::of_secs(*expired_secs))
            }
            other => other.to_string(),
        };
        Hint::new(format!("the delegation of wallet {wallet} does not count here: {said}"))
            .hint(HOW)
            .into()
    })
}

/// What to tell its owner of a delegation's end, if it is near or over.
pub(crate) fn warning(delegation: &Delegation, now_secs: u64) -> Option<String> {
    let (wallet, end) = (delegation.wallet, delegation.expiry_secs);
    let day = Day::of_secs(end);
    match end.checked_sub(now_secs) {
        None => Some(format!(
            "the delegation of {wallet} ended on {day}: consumers turn this node down; renew it"
        )),
        Some(left) if left < RENEW_SECS => Some(format!(
            "the delegation of {wallet} ends on {day}, in {} days: from then on consumers turn this node down; renew it before",
            left / 86_400
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{DeviceSigner, Signer};
    use sparewire_wallet::{DeviceKey, LocalKey};

    use super::*;
    use crate::home::Node;

    const DAY: u64 = 86_400;

    /// A node whose owner has a cold wallet.
    struct Scene {
        dir: tempfile::TempDir,
        home: Home,
        own: Identity,
        cold: LocalKey,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut home = Home::open(Some(dir.path().join("node")), None).unwrap();
            home.config.provider.delegation = FILE.into();
            let own = Node::passing(&home.network().unwrap().0).unwrap().identity;
            Self { dir, home, own, cold: LocalKey::random().unwrap() }
        }

        fn delegation(&self, days: u64) -> Delegation {
            let expiry_secs = clock()().as_secs() + days * DAY;
            Delegation { wallet: self.cold.address(), expiry_secs, ..self.own.delegation.body }
        }

        fn request(&self, delegation: &Delegation) -> OfflineRequest {
            request(delegation, self.home.network().unwrap().0).unwrap()
        }

        fn keep(&self, delegation: &Delegation) {
            let request = self.request(delegation);
            let response = request.sign(&self.cold).unwrap();
            let path = self.home.dir.join(FILE);
            keep(&path, &request.to_json(), &response.to_json()).unwrap();
        }

        fn identity(&self) -> Result<Identity, String> {
            identity(&self.home, &self.own).map_err(|error| format!("{error:#}"))
        }
    }

    #[test]
    fn a_cold_wallet_is_paid_by_its_word_and_our_own_where_there_is_none() {
        let mut scene = Scene::new();
        let delegation = scene.delegation(60);
        scene.keep(&delegation);
        let identity = scene.identity().unwrap();
        assert_eq!(
            (identity.wallet(), identity.delegation.body),
            (scene.cold.address(), delegation)
        );
        assert_eq!(identity.authorizer.address(), scene.own.authorizer.address());
        // A newer one takes its place.
        scene.keep(&scene.delegation(90));
        assert!(scene.identity().unwrap().delegation.body.expiry_secs > delegation.expiry_secs);
        scene.home.config.provider.delegation.clear();
        assert_eq!(scene.identity().unwrap().wallet(), scene.own.wallet());
    }

    #[test]
    fn a_delegation_that_does_not_count_here_is_refused_with_its_reason() {
        let scene = Scene::new();
        assert!(scene.identity().err().unwrap().contains("cannot read the delegation"));

        let other_device = DeviceKey::random().unwrap().node_id();
        scene.keep(&Delegation { device: other_device, ..scene.delegation(60) });
        assert!(scene.identity().err().unwrap().contains("which are not this node's"));
        let other_key = LocalKey::random().unwrap().address();
        scene.keep(&Delegation { authorizer: other_key, ..scene.delegation(60) });
        assert!(scene.identity().err().unwrap().contains("which are not this node's"));

        scene.keep(&Delegation { expiry_secs: 20 * DAY, ..scene.delegation(60) });
        assert!(scene.identity().err().unwrap().contains("it ended on 1970-01-21"));

        scene.keep(&scene.delegation(60));
        let (path, mut elsewhere) = (scene.home.dir.join(FILE), scene.home.clone());
        elsewhere.config.chain.contract = Address::repeat_byte(9).to_string();
        let told = format!("{:#}", identity(&elsewhere, &scene.own).err().unwrap());
        assert!(told.contains("this node settles on chain"), "{told}");

        // Whoever changes the file finds that it is not signed any more.
        let text = fs::read_to_string(&path).unwrap();
        let device = serde_json::to_string(&scene.own.node_id()).unwrap();
        let tampered = text.replace(device.trim_matches('"'), &B256::repeat_byte(4).to_string());
        assert_ne!(tampered, text);
        fs::write(&path, tampered).unwrap();
        assert!(scene.identity().err().unwrap().contains("do not sign this"));
        fs::write(&path, "x".repeat(FILE_LEN_MAX as usize + 1)).unwrap();
        assert!(scene.identity().err().unwrap().contains("is no delegation"));
        drop(scene.dir);
    }

    #[test]
    fn only_the_answer_of_the_wallet_that_was_asked_is_kept() {
        let scene = Scene::new();
        let asked = scene.request(&scene.delegation(60));
        let path = scene.home.dir.join(FILE);
        let other = scene.request(&scene.delegation(61)).sign(&scene.cold).unwrap();
        let told = keep(&path, &asked.to_json(), &other.to_json()).err().unwrap().to_string();
        assert!(told.contains("answers another request"), "{told}");

        let digest = Payload::Digest { digest: asked.digest() };
        let blind = OfflineRequest::new(digest, scene.cold.address(), "").unwrap();
        let answer = blind.sign(&scene.cold).unwrap();
        let told = keep(&path, &blind.to_json(), &answer.to_json()).err().unwrap().to_string();
        assert!(told.contains("not one for a delegation"), "{told}");
        assert!(!path.exists());
        // The digest is what counts, however it was shown to the signer.
        keep(&path, &asked.to_json(), &answer.to_json()).unwrap();
        assert_eq!(scene.identity().unwrap().wallet(), scene.cold.address());
    }

    #[test]
    fn a_revocation_is_taken_from_the_wallet_that_was_asked_and_for_this_registry_only() {
        let scene = Scene::new();
        let (domain, _) = scene.home.network().unwrap();
        let registry = Address::repeat_byte(0xcc);
        let revocation = Revocation {
            wallet: scene.cold.address(),
            device: scene.own.node_id(),
            authorizer: Address::ZERO,
            deadline_secs: 9,
        };
        let asked = |contract| {
            let at = Domain { contract, ..domain };
            revocation_request(&revocation, at).unwrap()
        };
        let told = |request: &OfflineRequest| {
            let response = request.sign(&scene.cold).unwrap().to_json();
            word(&request.to_json(), &response, &domain, registry)
        };
        let Word::Revocation(signed) = told(&asked(registry)).unwrap() else { panic!("it is one") };
        assert_eq!(signed.body, revocation);
        let elsewhere = told(&asked(Address::repeat_byte(0xdd))).unwrap_err().to_string();
        assert!(elsewhere.to_lowercase().contains("registry 0xdddd"), "{elsewhere}");
        // A delegation goes to the registry as well.
        let delegation = scene.delegation(60);
        let Word::Delegation(signed) = told(&scene.request(&delegation)).unwrap() else {
            panic!("it is one")
        };
        assert_eq!(signed.body, delegation);
        // Somebody else's signature is no answer.
        let (request, stranger) = (asked(registry), LocalKey::random().unwrap());
        assert!(request.sign(&stranger).is_err());
        let other = revocation_request(
            &Revocation { wallet: stranger.address(), ..revocation },
            Domain { contract: registry, ..domain },
        );
        let answer = other.unwrap().sign(&stranger).unwrap().to_json();
        assert!(word(&request.to_json(), &answer, &domain, registry).is_err());
    }

    #[test]
    fn the_end_of_a_delegation_is_told_a_month_before_it_comes() {
        let delegation = Scene::new().delegation(0);
        let said = |before: u64| warning(&delegation, delegation.expiry_secs - before);
        assert_eq!(said(30 * DAY), None);
        assert!(said(30 * DAY - 1).unwrap().contains("in 29 days"));
        assert!(said(0).unwrap().contains("in 0 days"));
        let over = warning(&delegation, delegation.expiry_secs + 1).unwrap();
        assert!(over.contains("ended on"), "{over}");
    }
}
