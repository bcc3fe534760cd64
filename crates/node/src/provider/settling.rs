//! Claims what is owed: on request, and at once when a payer starts to leave.

use std::{collections::HashMap, sync::Arc};

use futures_util::stream::{self, StreamExt};
use sparewire_core::{Amount, ChannelId};
use sparewire_protocol::{
    ChannelStatus, Claim, Role,
    settlement::{Chain, ChainError, Intent, Outcome},
};
use tokio_util::sync::CancellationToken;

use super::Provider;
use crate::{
    identity::Identity,
    session::SessionError,
    store::{Store, ask},
};

/// How many channels the chain is asked about at a time: each is a round trip.
const ASKED_AT_ONCE: usize = 16;

/// Something could not be settled. What could be was, and the rest stays claimable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not every channel could be settled, the others are; settle again: {error}")]
pub struct SettleError {
    /// What was claimed all the same.
    pub outcome: Outcome,
    /// What went wrong first; each channel that it concerns is in the log.
    pub error: SessionError,
}

/// Claims every voucher that is worth more than what was claimed, and pays out. It needs no running
/// provider.
///
/// # Errors
/// [`SettleError`] where the store or the chain failed for some channels or all; what is not
/// claimed stays claimable.
pub async fn settle(
    store: &Arc<dyn Store>,
    chain: &Arc<dyn Chain>,
    identity: &Identity,
) -> Result<Outcome, SettleError> {
    // Whoever asks wants to know: every channel is looked at, whatever was seen of it before.
    let mut settled = Settled::new();
    let (claims, asked) = claimable(store, chain, identity, false, &mut settled).await;
    let (outcome, claimed) = claim(chain, claims).await;
    match asked.and(claimed) {
        Ok(()) => Ok(outcome),
        Err(error) => Err(SettleError { outcome, error }),
    }
}

/// Claims together; where the contract refuses, each alone, so that one bad entry holds up no
/// other. What was done counts, whatever failed beside it.
async fn claim(chain: &Arc<dyn Chain>, claims: Vec<Claim>) -> (Outcome, Result<(), SessionError>) {
    let mut done = Outcome::default();
    if claims.is_empty() {
        return (done, Ok(()));
    }
    let alone = claims.clone();
    match chain.perform(&Intent::Claim { claims }).await {
        Ok(outcome) => return (outcome, Ok(())),
        Err(error @ ChainError::Reverted { .. }) if alone.len() > 1 => {
            tracing::error!(%error, "the claims are refused together; claiming each alone");
        }
        Err(error) => return (done, Err(error.into())),
    }
    let mut failed = Ok(());
    for claim in alone {
        match chain.perform(&Intent::Claim { claims: vec![claim] }).await {
            Ok(outcome) => done.transactions.extend(outcome.transactions),
            Err(error @ ChainError::Reverted { .. }) => {
                tracing::error!(payer = %claim.config.payer, %error, "a claim is refused");
                failed = failed.and(Err(error.into()));
            }
            Err(error) => return (done, failed.and(Err(error.into()))),
        }
    }
    (done, failed)
}

/// Up to which amount there is nothing left to claim in a channel: what was claimed, or anything
/// where it is closed. It is learned from final state, which no reorganisation undoes, and not kept
/// longer than the process.
type Settled = HashMap<ChannelId, Amount>;

/// The vouchers worth claiming; with `leaving`, only those whose payer has started to close. Only
/// channels that promise more than `settled` are asked about, and one that cannot be does not keep
/// the others from being claimed: the error is told beside them.
async fn claimable(
    store: &Arc<dyn Store>,
    chain: &Arc<dyn Chain>,
    identity: &Identity,
    leaving: bool,
    settled: &mut Settled,
) -> (Vec<Claim>, Result<(), SessionError>) {
    let channels = match ask(store, |store| store.channels(Role::Payee)).await {
        Ok(channels) => channels,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let (domain, payee) = (chain.domain(), identity.wallet());
    let unsettled: Vec<(ChannelId, Claim)> = channels
        .into_iter()
        .filter(|channel| channel.domain == domain && channel.config.payee == payee)
        .filter_map(|channel| Some((channel.id, channel.claim()?)))
        .filter(|(id, claim)| settled.get(id).is_none_or(|settled| claim.amount > *settled))
        .collect();
    // In order, so that the same vouchers are the same intent when it is tried again.
    let mut answers = stream::iter(unsettled)
        .map(|(id, claim)| {
            let chain = Arc::clone(chain);
            async move { (id, claim, chain.channel(id).await) }
        })
        .buffered(ASKED_AT_ONCE);
    let (mut claims, mut failed, mut silent) = (Vec::new(), Ok(()), 0);
    while let Some((id, claim, answer)) = answers.next().await {
        let facts = match answer {
            Ok(facts) => facts,
            Err(error) => {
                tracing::warn!(channel = %id, %error, "cannot ask about a channel");
                silent += usize::from(matches!(error, ChainError::Unreachable { .. }));
                failed = failed.and(Err(error.into()));
                if silent == ASKED_AT_ONCE {
                    break; // it is the node that does not answer, whatever it is asked
                }
                continue;
            }
        };
        silent = 0;
        let Some(facts) = facts else { continue };
        match facts.status {
            ChannelStatus::Closed => {
                settled.insert(id, Amount::MAX);
            }
            _ if claim.amount <= facts.claimed => {
                settled.insert(id, facts.claimed);
            }
            ChannelStatus::Open if leaving => {}
            ChannelStatus::Open | ChannelStatus::Closing { .. } => claims.push(claim),
        }
    }
    (claims, failed)
}

impl Provider {
    /// Claims what is promised over channels that their payers are leaving.
    pub(super) async fn watch_closes(self: Arc<Self>, shutdown: CancellationToken) {
        let mut settled = Settled::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.config.closes_every) => {}
            }
            let (store, chain) = (&self.store, &self.chain);
            let (claims, asked) = claimable(store, chain, &self.identity, true, &mut settled).await;
            if !claims.is_empty() {
                tracing::warn!(channels = claims.len(), "payers are leaving; claiming");
            }
            let (_, claimed) = claim(chain, claims).await;
            if let Err(error) = asked.and(claimed) {
                tracing::error!(%error, "could not claim from closing channels; trying again");
            }
        }
    }
}
