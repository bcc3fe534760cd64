//! Watchtowers: the service that keeps other payees' newest vouchers and has them claimed when
//! their payers leave ([`TowerService`]), and a payee's side of it ([`Entrusting`]).
//!
//! Both drive [`sparewire_protocol::watch`]; what is said between them is in `docs/protocol.md`.

mod client;
mod errands;
mod service;
mod store;
mod wire;

pub use client::{EntrustConfig, Entrusting, TowerStatus};
pub use service::TowerService;
pub use store::TowerStore;

use std::sync::Arc;

use sparewire_core::Address;
use sparewire_protocol::{
    ChannelStatus, Entrust,
    settlement::{Chain, ChainError, RewardFacts},
    watch::WatchFacts,
};

/// What final state says of a channel that is watched, or is to be (`new`). Of an open one that is
/// watched already, nobody asks for the reward: nothing can have been earned in it.
async fn look(
    chain: &Arc<dyn Chain>,
    entrust: &Entrust,
    new: bool,
) -> Result<WatchFacts, ChainError> {
    let head_secs = chain.head().await?.time_secs;
    let facts = chain.channel(entrust.channel()).await?;
    let is_open = facts.is_none_or(|facts| facts.status == ChannelStatus::Open);
    let reward = if entrust.towers == Address::ZERO || (is_open && !new) {
        RewardFacts::default()
    } else {
        let token = entrust.appointment.body.token;
        chain.reward(entrust.towers, &entrust.config, token).await?
    };
    Ok(WatchFacts { channel: facts, reward, head_secs })
}
