//! A provider and a consumer on this machine, joined only by the network and the chain.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use async_trait::async_trait;
use sparewire_chain::{EmbeddedChain, Endpoint as ChainEndpoint, EvmChain, Journal};
use sparewire_core::{Address, Amount, ChannelId, Domain};
use sparewire_protocol::{
    ChannelFacts,
    settlement::{Chain, ChainError, Funds, Head, Intent, Outcome, Quote, TokenInfo},
};
use sparewire_wallet::{Cost, NodeKeys, NodeSecrets};
use zeroize::Zeroizing;

use crate::{
    home::{Home, Node, key_error},
    network,
    side::Side,
};

/// One of the two, and what it does on chain.
pub(super) struct Party {
    pub(super) side: Side,
    pub(super) chain: Arc<Watched>,
}

impl Party {
    /// Opens a party in `dir`, with new keys where it has none, and gives its wallet test money.
    pub(super) async fn open(
        dir: &Path,
        keep: bool,
        embedded: &EmbeddedChain,
        tokens: Amount,
    ) -> Result<Self> {
        let contracts = network::contracts();
        let home = Home::open(Some(dir.to_owned()), None)?;
        let node = if keep {
            Node::new(kept_keys(&home).await?, &contracts.domain)?
        } else {
            Node::passing(&contracts.domain)?
        };
        network::fund(ChainEndpoint::Embedded(embedded.clone()), node.wallet.address(), tokens)
            .await?;
        let chain = EvmChain::connect(
            ChainEndpoint::Embedded(embedded.clone()),
            contracts.domain,
            Arc::clone(&node.wallet),
            Journal::open(dir.join("transactions.sqlite"))?,
            network::embedded_policy(),
        )
        .await?;
        chain.resume().await?;
        let chain = Arc::new(Watched { inner: chain, done: Mutex::default() });
        let token = chain.token(contracts.token).await?;
        let registry = home.registry()?;
        let side = Side { node, store: home.store()?, chain: chain.clone(), token, registry };
        Ok(Self { side, chain })
    }
}

/// The keys of a demo that is kept, under a password that lies beside them: they guard test money.
async fn kept_keys(home: &Home) -> Result<NodeKeys> {
    let (dir, password_file) = (home.keys_dir(), home.dir.join("demo-password"));
    if dir.exists() {
        return home.keys(Some(&password_file)).await;
    }
    let mut secret = [0; 16];
    getrandom::fill(&mut secret)?;
    let password = Zeroizing::new(secret.map(|byte| format!("{byte:02x}")).concat());
    std::fs::write(&password_file, password.as_bytes())?;
    let made = tokio::task::spawn_blocking(move || {
        NodeSecrets::random()
            .map_err(|error| anyhow::anyhow!("no randomness: {error}"))?
            .store(&dir, &password, Cost::STANDARD)
            .map_err(key_error)
    });
    made.await?
}

/// A chain that remembers what was done on it, for the statement.
pub(super) struct Watched {
    inner: EvmChain,
    done: Mutex<Vec<(&'static str, Outcome)>>,
}

impl Watched {
    /// What was done so far, and what it took.
    pub(super) fn done(&self) -> Vec<(&'static str, Outcome)> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Chain for Watched {
    fn domain(&self) -> Domain {
        self.inner.domain()
    }
    fn wallet(&self) -> Address {
        self.inner.wallet()
    }
    async fn head(&self) -> Result<Head, ChainError> {
        self.inner.head().await
    }
    async fn channel(&self, id: ChannelId) -> Result<Option<ChannelFacts>, ChainError> {
        self.inner.channel(id).await
    }
    async fn channels(&self, ids: &[ChannelId]) -> Result<Vec<Option<ChannelFacts>>, ChainError> {
        self.inner.channels(ids).await
    }
    async fn funds(&self, owner: Address, token: Address) -> Result<Funds, ChainError> {
        self.inner.funds(owner, token).await
    }
    async fn token(&self, token: Address) -> Result<TokenInfo, ChainError> {
        self.inner.token(token).await
    }
    async fn quote(&self, intent: &Intent) -> Result<Quote, ChainError> {
        self.inner.quote(intent).await
    }
    async fn perform(&self, intent: &Intent) -> Result<Outcome, ChainError> {
        let outcome = self.inner.perform(intent).await?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push((intent.kind(), outcome.clone()));
        Ok(outcome)
    }
    async fn resume(&self) -> Result<usize, ChainError> {
        self.inner.resume().await
    }
}
