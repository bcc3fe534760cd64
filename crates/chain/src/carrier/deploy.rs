//! Putting contracts on a chain, test tokens and native currency: for the embedded chain, dev nets
//! and whoever runs a chain of their own.

use std::sync::Arc;

use alloy_primitives::{Address, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolValue};
use sparewire_core::{Amount, Domain, Signer};
use sparewire_protocol::settlement::{ChainError, Outcome};

use super::{
    EvmChain, Policy,
    follow::{Follower, Plan},
    node::Endpoint,
    nodes::Nodes,
};
use crate::{
    contracts::{Channels, Keys, Stake, TestToken, Towers},
    journal::{Call, Journal},
};

/// Contracts that were just put on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The test token; everybody may mint it.
    pub token: Address,
    /// The channel contract and its chain.
    pub domain: Domain,
}

/// Deploys the test token and the channel contract with one wallet. The wallet's other
/// transactions must rest meanwhile: this keeps a journal of its own, in memory.
///
/// # Errors
/// As [`sparewire_protocol::settlement::Chain::perform`].
pub async fn deploy(
    endpoint: Endpoint,
    signer: Arc<dyn Signer>,
    policy: Policy,
) -> Result<Deployment, ChainError> {
    let deployer = Deployer::new(endpoint, signer, policy).await?;
    let token = deployer.create(TestToken::BYTECODE.clone()).await?;
    let contract = deployer.create(Channels::BYTECODE.clone()).await?;
    Ok(Deployment { token, domain: Domain { chain_id: deployer.0.chain_id, contract } })
}

/// Deploys the contract that holds watchtowers' rewards for the channel contract `channels`, and
/// returns its address. The wallet's other transactions must rest meanwhile.
///
/// # Errors
/// As [`sparewire_protocol::settlement::Chain::perform`].
pub async fn deploy_towers(
    endpoint: Endpoint,
    signer: Arc<dyn Signer>,
    policy: Policy,
    channels: Address,
) -> Result<Address, ChainError> {
    deploy_beside(&Towers::BYTECODE, endpoint, signer, policy, channels).await
}

/// Deploys the registry of keys beside the channel contract `channels`, and returns its address. The
/// wallet's other transactions must rest meanwhile.
///
/// # Errors
/// As [`sparewire_protocol::settlement::Chain::perform`].
pub async fn deploy_keys(
    endpoint: Endpoint,
    signer: Arc<dyn Signer>,
    policy: Policy,
    channels: Address,
) -> Result<Address, ChainError> {
    deploy_beside(&Keys::BYTECODE, endpoint, signer, policy, channels).await
}

/// Deploys the contract that holds providers' bonds in `token` beside the registry `keys`, and returns
/// its address. Each piece of evidence takes `penalty` of a bond, in the token's smallest unit. The
/// wallet's other transactions must rest meanwhile.
///
/// # Errors
/// As [`sparewire_protocol::settlement::Chain::perform`].
pub async fn deploy_stake(
    endpoint: Endpoint,
    signer: Arc<dyn Signer>,
    policy: Policy,
    keys: Address,
    token: Address,
    penalty: Amount,
) -> Result<Address, ChainError> {
    let arguments = (keys, token, penalty.get()).abi_encode_params();
    let code = [Stake::BYTECODE.as_ref(), &arguments].concat();
    Deployer::new(endpoint, signer, policy).await?.create(code.into()).await
}

/// Deploys a contract whose one argument is the channel contract.
async fn deploy_beside(
    bytecode: &Bytes,
    endpoint: Endpoint,
    signer: Arc<dyn Signer>,
    policy: Policy,
    channels: Address,
) -> Result<Address, ChainError> {
    let code = [bytecode.as_ref(), channels.into_word().as_slice()].concat();
    Deployer::new(endpoint, signer, policy).await?.create(code.into()).await
}

/// A wallet that puts contracts on a chain, with a journal of its own in memory.
struct Deployer(Follower);

impl Deployer {
    async fn new(
        endpoint: Endpoint,
        signer: Arc<dyn Signer>,
        policy: Policy,
    ) -> Result<Self, ChainError> {
        let node = Nodes::new(endpoint, &policy)?;
        let chain_id = node.chain_id().await?;
        Ok(Self(Follower::new(node, signer, Journal::in_memory()?, policy, chain_id)?))
    }

    /// Creates a contract and returns its address, where there is code then.
    async fn create(&self, code: Bytes) -> Result<Address, ChainError> {
        let Self(follower) = self;
        let wallet = follower.wallet();
        let contract = wallet.create(follower.node.nonce(wallet).await?);
        let digest = keccak256(&code);
        let call = Call { target: None, data: code, value: U256::ZERO };
        follower.perform("deploy", digest, Plan::new(vec![call])).await?;
        if follower.node.code(contract, None).await?.is_empty() {
            return Err(ChainError::NoContract { contract, chain_id: follower.chain_id });
        }
        Ok(contract)
    }
}

impl EvmChain {
    /// Mints test tokens to `to`; real tokens refuse.
    ///
    /// # Errors
    /// As [`sparewire_protocol::settlement::Chain::perform`].
    pub async fn mint(
        &self,
        token: Address,
        to: Address,
        amount: Amount,
    ) -> Result<Outcome, ChainError> {
        let data = TestToken::mintCall { to, amount: U256::from(amount.get()) }.abi_encode();
        self.send("mint", Call { target: Some(token), data: data.into(), value: U256::ZERO }).await
    }

    /// Sends native currency to `to`, so that it can pay for gas.
    ///
    /// # Errors
    /// As [`sparewire_protocol::settlement::Chain::perform`].
    pub async fn transfer(&self, to: Address, wei: u128) -> Result<Outcome, ChainError> {
        let call = Call { target: Some(to), data: Bytes::new(), value: U256::from(wei) };
        self.send("transfer", call).await
    }

    async fn send(&self, kind: &'static str, call: Call) -> Result<Outcome, ChainError> {
        let target = call.target.unwrap_or_default();
        let value = call.value.to_be_bytes::<32>();
        let digest =
            keccak256([kind.as_bytes(), target.as_slice(), &value, call.data.as_ref()].concat());
        self.follower.perform(kind, digest, Plan::new(vec![call])).await
    }
}
