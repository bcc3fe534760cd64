//! The embedded chain's network: a chain id of our own, a development key that everybody knows,
//! and contracts at addresses that follow from it.

use std::{path::Path, sync::Arc};

use anyhow::{Result, bail};
use sparewire_chain::{
    Deployment, EmbeddedChain, Endpoint, EvmChain, Finality, Genesis, Journal, Options, Place,
    Policy, deploy, deploy_keys, deploy_stake, deploy_towers,
};
use sparewire_core::{Address, Amount, Domain, Signer, U256, keccak256};
use sparewire_protocol::settlement::ChainError;
use sparewire_wallet::LocalKey;

use crate::output;

/// EIP-155 id of the embedded chain ("SW").
pub(crate) const CHAIN_ID: u64 = 21_335;
/// Decimals of its test token.
pub(crate) const TOKEN_DECIMALS: u8 = 6;
/// What one piece of evidence takes from a bond, in the test token's smallest unit: 10 tUSD, what 500
/// GiB bring at the default price. A lie about one receipt brings far less.
pub(crate) const PENALTY: u128 = 10_000_000;
/// What the faucet hands out: 1 ether for gas and 100 test tokens.
const FAUCET_WEI: u128 = 1_000_000_000_000_000_000;
const FAUCET_TOKENS: u128 = 100_000_000;

/// The key that owns everything at the embedded chain's beginning. It is public on purpose: the
/// chain's money is worth nothing.
pub(crate) fn development_key() -> Arc<dyn Signer> {
    deployer("sparewire embedded chain development key")
}

/// The contracts of the embedded chain: the first two that the development key deploys.
pub(crate) fn contracts() -> Deployment {
    let deployer = development_key().address();
    Deployment {
        token: deployer.create(0),
        domain: Domain { chain_id: CHAIN_ID, contract: deployer.create(1) },
    }
}

/// The key that deploys the contract for watchtowers' rewards: one of its own, so that the contract
/// has the same address on a chain that was begun without it. Public as well.
fn towers_key() -> Arc<dyn Signer> {
    deployer("sparewire embedded chain towers key")
}

/// As [`towers_key`], for the registry of keys.
fn keys_key() -> Arc<dyn Signer> {
    deployer("sparewire embedded chain keys key")
}

/// The embedded chain's registry of keys.
pub(crate) fn keys() -> Address {
    keys_key().address().create(0)
}

/// As [`towers_key`], for the contract that holds bonds.
fn stake_key() -> Arc<dyn Signer> {
    deployer("sparewire embedded chain stake key")
}

/// The embedded chain's contract that holds bonds.
pub(crate) fn stake() -> Address {
    stake_key().address().create(0)
}

fn deployer(name: &str) -> Arc<dyn Signer> {
    let secret = keccak256(name);
    Arc::new(LocalKey::from_secret(&secret.0).expect("this hash is below the group's order"))
}

/// The embedded chain's contract for watchtowers' rewards.
pub(crate) fn towers() -> Address {
    towers_key().address().create(0)
}

/// How transactions are followed on the embedded chain, where every block is final at once.
pub(crate) fn embedded_policy() -> Policy {
    Policy {
        finality: Finality::Blocks(0),
        poll: std::time::Duration::from_millis(20),
        ..Policy::default()
    }
}

/// Opens the embedded chain, and puts the contracts on it where they are not there yet.
pub(crate) async fn open(place: Place, dev_methods: bool) -> Result<EmbeddedChain> {
    let key = development_key();
    let genesis = Genesis::new(CHAIN_ID).fund(key.address(), U256::from(10u64).pow(U256::from(27)));
    let options = Options { dev_methods, ..Options::default() };
    let embedded = EmbeddedChain::open(place, genesis, options)?;
    if !is_deployed(&embedded) {
        let endpoint = Endpoint::Embedded(embedded.clone());
        let deployed = deploy(endpoint, key, embedded_policy()).await?;
        anyhow::ensure!(
            deployed == contracts(),
            "the embedded chain's contracts are at unexpected addresses; its file was used by something else"
        );
    }
    if !has_code(&embedded, towers()) {
        let (endpoint, key) = (Endpoint::Embedded(embedded.clone()), towers_key());
        send_wei(endpoint.clone(), key.address()).await?;
        let channels = contracts().domain.contract;
        let deployed = deploy_towers(endpoint, key, embedded_policy(), channels).await?;
        anyhow::ensure!(deployed == towers(), "the towers key was used by something else");
    }
    if !has_code(&embedded, keys()) {
        let (endpoint, key) = (Endpoint::Embedded(embedded.clone()), keys_key());
        send_wei(endpoint.clone(), key.address()).await?;
        let channels = contracts().domain.contract;
        let deployed = deploy_keys(endpoint, key, embedded_policy(), channels).await?;
        anyhow::ensure!(deployed == keys(), "the key of the keys' contract was used");
    }
    if !has_code(&embedded, stake()) {
        let (endpoint, key) = (Endpoint::Embedded(embedded.clone()), stake_key());
        send_wei(endpoint.clone(), key.address()).await?;
        let (token, penalty) = (contracts().token, Amount::new(PENALTY).expect("in range"));
        let policy = embedded_policy();
        let deployed = deploy_stake(endpoint, key, policy, keys(), token, penalty).await?;
        anyhow::ensure!(deployed == stake(), "the stake key was used by something else");
    }
    Ok(embedded)
}

fn is_deployed(embedded: &EmbeddedChain) -> bool {
    let contracts = contracts();
    has_code(embedded, contracts.token) && has_code(embedded, contracts.domain.contract)
}

fn has_code(embedded: &EmbeddedChain, address: Address) -> bool {
    let request = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "eth_getCode", "params": [address, "latest"],
    });
    embedded.handle(request)["result"].as_str().is_some_and(|code| code.len() > 2)
}

async fn send_wei(endpoint: Endpoint, to: Address) -> Result<()> {
    let (domain, journal) = (contracts().domain, Journal::in_memory()?);
    let key = development_key();
    let chain = EvmChain::connect(endpoint, domain, key, journal, embedded_policy()).await?;
    chain.transfer(to, FAUCET_WEI).await?;
    Ok(())
}

/// Gives `to` something to pay gas with, and test tokens.
pub(crate) async fn faucet(endpoint: Endpoint, to: Address) -> Result<()> {
    fund(endpoint, to, Amount::new(FAUCET_TOKENS).expect("in range")).await
}

/// Gives `to` 1 ether and `tokens`.
pub(crate) async fn fund(endpoint: Endpoint, to: Address, tokens: Amount) -> Result<()> {
    let journal = Journal::in_memory()?;
    let contracts = contracts();
    let node = format!("the chain node at {}", endpoint.name());
    let (key, policy) = (development_key(), embedded_policy());
    let connecting = EvmChain::connect(endpoint, contracts.domain, key, journal, policy);
    let chain = match output::patiently(&node, connecting).await {
        Err(error @ (ChainError::WrongChain { .. } | ChainError::NoContract { .. })) => {
            bail!("the faucet works on the embedded chain only: {error}")
        }
        connected => connected?,
    };
    chain.transfer(to, FAUCET_WEI).await?;
    chain.mint(contracts.token, to, tokens).await?;
    Ok(())
}

/// Where a data directory keeps the embedded chain.
pub(crate) fn chain_file(dir: &Path) -> Place {
    Place::File(dir.join("chain.sqlite"))
}
