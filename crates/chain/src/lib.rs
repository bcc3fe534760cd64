//! The chain that money settles on.
//!
//! It is: an EVM chain in this process ([`EmbeddedChain`]: Osaka rules, one block per transaction,
//! kept in one SQLite file), standard JSON-RPC for it ([`serve`], [`InProcess`]), and the carrier
//! ([`EvmChain`]) that implements [`Chain`](sparewire_protocol::settlement::Chain) over the embedded
//! chain or any EVM node, with every transaction in a durable [`Journal`] until it is final.
//!
//! It is not a wallet (keys sit behind [`Signer`](sparewire_core::Signer)), not a peer-to-peer
//! node (nobody else makes blocks on the embedded chain: whoever runs it is trusted with it), and
//! not an archive (state is kept for the last 1,024 blocks).
//!
//! ```
//! use std::sync::Arc;
//! use sparewire_chain::{EmbeddedChain, Endpoint, EvmChain, Genesis, Journal, Policy, deploy};
//! use sparewire_core::{Amount, Signer, U256};
//! use sparewire_protocol::settlement::{Chain, ChainError, Intent};
//!
//! async fn fund(wallet: Arc<dyn Signer>) -> Result<(), Box<dyn std::error::Error>> {
//!     let genesis = Genesis::new(7357).fund(wallet.address(), U256::from(10).pow(U256::from(18)));
//!     let embedded = EmbeddedChain::open("chain.sqlite", genesis, Default::default())?;
//!     let endpoint = Endpoint::Embedded(embedded);
//!     let deployed = deploy(endpoint.clone(), wallet.clone(), Policy::default()).await?;
//!
//!     let journal = Journal::open("transactions.sqlite")?;
//!     let chain =
//!         EvmChain::connect(endpoint, deployed.domain, wallet, journal, Policy::default()).await?;
//!     chain.resume().await?; // what an earlier process left unfinished
//!     let amount = Amount::parse("12.5", 6)?;
//!     chain.mint(deployed.token, chain.wallet(), amount).await?;
//!     chain.perform(&Intent::Deposit { token: deployed.token, amount }).await?;
//!     Ok(())
//! }
//! ```
//!
//! Terms: an *intent* is what settlement asks for; it takes one or more *steps*, each a contract
//! call; each step is signed in one or more *attempts* (one nonce, growing fees). On the river
//! (`ARCHITECTURE.md`) this is the sea: facts evaporate from here, money ends here.

pub mod carrier;
pub mod chain_work;
pub mod contracts;
pub mod evm;
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
pub mod index;
pub mod journal;
pub mod rpc;
#[cfg(test)]
mod testing;

pub use carrier::{
    Allowance, Deployment, Endpoint, EvmChain, Fault, Finality, NodeStatus, Policy, deploy,
    deploy_keys, deploy_stake, deploy_towers,
};
pub use chain_work::{ChainWork, ForeignUse, Stands, UnderWay};
pub use evm::{Clock, EmbeddedChain, EvmError, Genesis, Options, Place, StoreError};
pub use history::{Part, Spending};
pub use index::{Index, IndexError};
pub use journal::{Call, Journal, JournalError};
pub use rpc::{InProcess, ServeError, Server, serve};
