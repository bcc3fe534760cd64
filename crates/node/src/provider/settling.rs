//! Claims what is owed: on request, and at once when a payer starts to leave.

use std::{sync::Arc, time::Duration};

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

/// How often channels are looked at whose payer may have started to leave. The shortest withdraw
/// delay of the contract is 15 minutes.
const CLOSE_WATCH_EVERY: Duration = Duration::from_secs(60);

/// Claims every voucher that is worth more than what was claimed, and pays out. It needs no running
/// provider.
///
/// # Errors
/// [`SessionError`] where the store or the chain fails; what is not claimed stays claimable.
pub async fn settle(
    store: &Arc<dyn Store>,
    chain: &Arc<dyn Chain>,
    identity: &Identity,
) -> Result<Outcome, SessionError> {
    let claims = claimable(store, chain, identity, false).await?;
    if claims.is_empty() {
        return Ok(Outcome::default());
    }
    claim(chain, claims).await
}

/// Claims together; where the contract refuses, each alone, so that one bad entry holds up no
/// other.
async fn claim(chain: &Arc<dyn Chain>, claims: Vec<Claim>) -> Result<Outcome, SessionError> {
    let alone = claims.clone();
    let error = match chain.perform(&Intent::Claim { claims }).await {
        Ok(outcome) => return Ok(outcome),
        Err(error @ ChainError::Reverted { .. }) if alone.len() > 1 => error,
        Err(error) => return Err(error.into()),
    };
    tracing::error!(%error, "the claims are refused together; claiming each alone");
    let mut done = Outcome::default();
    for claim in alone {
        match chain.perform(&Intent::Claim { claims: vec![claim] }).await {
            Ok(outcome) => done.transactions.extend(outcome.transactions),
            Err(error @ ChainError::Reverted { .. }) => {
                tracing::error!(payer = %claim.config.payer, %error, "a claim is refused");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// The vouchers worth claiming; with `leaving`, only those whose payer has started to close.
async fn claimable(
    store: &Arc<dyn Store>,
    chain: &Arc<dyn Chain>,
    identity: &Identity,
    leaving: bool,
) -> Result<Vec<Claim>, SessionError> {
    let channels = ask(store, |store| store.channels(Role::Payee)).await?;
    let mut claims = Vec::new();
    for channel in channels {
        let Some(claim) = channel.claim() else { continue };
        if channel.domain != chain.domain() || channel.config.payee != identity.wallet() {
            continue;
        }
        let Some(facts) = chain.channel(channel.id).await? else { continue };
        let open = match facts.status {
            ChannelStatus::Open => !leaving,
            ChannelStatus::Closing { .. } => true,
            ChannelStatus::Closed => false,
        };
        if open && claim.amount > facts.claimed {
            claims.push(claim);
        }
    }
    Ok(claims)
}

impl Provider {
    /// Claims what is promised over channels that their payers are leaving.
    pub(super) async fn watch_closes(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(CLOSE_WATCH_EVERY) => {}
            }
            let claims = claimable(&self.store, &self.chain, &self.identity, true).await;
            let claimed = match claims {
                Ok(claims) if claims.is_empty() => continue,
                Ok(claims) => {
                    tracing::warn!(channels = claims.len(), "payers are leaving; claiming");
                    claim(&self.chain, claims).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = claimed {
                tracing::error!(%error, "could not claim from closing channels; trying again");
            }
        }
    }
}
