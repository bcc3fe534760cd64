//! One side of the market.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use sparewire_chain::EvmChain;
use sparewire_core::{Address, Signer};
use sparewire_node::store::Store;
use sparewire_protocol::settlement::{Chain, ChainError, Standing, TokenInfo};
use sparewire_wallet::NodeKeys;

use crate::home::{Home, Node, known_token};

/// What a node trades with: keys that sign, a store that remembers, a chain where money settles,
/// and the token that it is counted in.
pub(crate) struct Side {
    pub(crate) node: Node,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) chain: Arc<dyn Chain>,
    pub(crate) token: TokenInfo,
    /// The registry in which wallets revoke keys, where there is one.
    pub(crate) registry: Option<Address>,
}

impl Side {
    /// Opens the side that lives in a data directory, and what carries its chain. What an earlier
    /// run left under way on chain is finished first.
    pub(crate) async fn open(home: &Home, password_file: Option<&Path>) -> Result<Self> {
        Self::open_with(home, async || home.keys(password_file).await).await
    }

    /// The same with keys that are opened in another way.
    pub(crate) async fn open_with(
        home: &Home,
        keys: impl AsyncFnOnce() -> Result<NodeKeys>,
    ) -> Result<Self> {
        let connect = async |wallet| home.connect(wallet).await;
        Ok(Self::open_by(home, keys, connect).await?.0)
    }

    /// The same for a node that stays: what an earlier run left is finished while it runs.
    pub(crate) async fn open_to_stay(
        home: &Home,
        password_file: Option<&Path>,
    ) -> Result<(Self, Arc<EvmChain>)> {
        if NodeKeys::has_next_authorizer(&home.keys_dir()) {
            eprintln!(
                "warning: another authorizer is to take over; `sparewire wallet device rotate` goes on with that"
            );
        }
        let keys = async || home.keys(password_file).await;
        Self::open_by(home, keys, async |wallet| home.connect_to_stay(wallet).await).await
    }

    async fn open_by(
        home: &Home,
        keys: impl AsyncFnOnce() -> Result<NodeKeys>,
        connect: impl AsyncFnOnce(Arc<dyn Signer>) -> Result<Arc<EvmChain>>,
    ) -> Result<(Self, Arc<EvmChain>)> {
        // The store first: its lock says at once that another process runs here.
        let store = home.store()?;
        let (domain, token) = home.network()?;
        let node = Node::new(keys().await?, &domain)?;
        let chain = connect(Arc::clone(&node.wallet)).await?;
        let token = known_token(&*chain, token).await?;
        Ok((Self { node, store, chain: chain.clone(), token, registry: home.registry()? }, chain))
    }

    /// What the registry says of this node's own keys; `None` where there is no registry to ask.
    ///
    /// # Errors
    /// [`ChainError::NoRegistry`] where one is named and is not there.
    pub(crate) async fn own_standing(&self) -> Result<Option<Standing>, ChainError> {
        let Some(keys) = self.registry else { return Ok(None) };
        self.chain.standing(keys, &self.node.identity.delegation.body).await.map(Some)
    }
}
