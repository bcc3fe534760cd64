//! Agreeing to cooperative closes: a channel at a time, while no session of it is open, and never
//! before what is signed is durable.

use std::sync::Arc;

use sparewire_core::{ChannelId, NodeId, Signer};
use sparewire_protocol::{
    AgreedClose, ChannelFacts, CloseRequest, CloseSetup, ProtocolError, RefusalCode, Role, agree,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{LiveSession, Seller, SlotGuard};
use crate::{
    closing::paid_in,
    identity::check_standing,
    session::SessionError,
    store::{Store, ask},
};

type Refusal = (SessionError, RefusalCode);

impl Seller {
    /// What costs nothing comes first; the chain is asked only about channels that we have served
    /// over, for their payers.
    pub(crate) async fn answer_close(
        &self,
        peer: NodeId,
        request: CloseRequest,
        cancel: CancellationToken,
    ) -> Result<AgreedClose, Refusal> {
        let authorizer = Arc::clone(&self.identity.authorizer);
        request
            .verify(peer, &self.chain.domain(), authorizer.address(), (self.clock)())
            .map_err(refusal)?;
        let channel = request.channel();
        let known = ask(&self.store, move |store| store.channel(channel)).await.map_err(busy)?;
        if known.is_none_or(|known| known.role != Role::Payee) {
            let unknown = "no session over it is remembered here";
            return Err(refusal(ProtocolError::ChannelUnusable(unknown)));
        }
        // From here on no session of it begins before we are done, and then none at all.
        let place = LiveSession {
            peer,
            figures: watch::channel(None).1,
            cancel,
            gone: CancellationToken::new(),
        };
        self.take_slot(channel, &place).await.map_err(busy)?;
        let _slot = SlotGuard { seller: self, channel, live: place };
        let facts = self.facts_for_close(channel, &request).await?;
        ask(&self.store, move |store| Ok(agree_durably(store, &request, facts, &*authorizer)))
            .await
            .map_err(busy)?
    }

    async fn facts_for_close(
        &self,
        channel: ChannelId,
        request: &CloseRequest,
    ) -> Result<Option<ChannelFacts>, Refusal> {
        let _place = self.checks.enter(true).await.ok_or_else(|| {
            busy(SessionError::Policy("too many others are being checked; come again".into()))
        })?;
        let silent = |error: SessionError| (error, RefusalCode::ChainUnavailable);
        let standing = check_standing(&self.chain, self.config.keys, &request.delegation.body);
        standing.await.map_err(|error| match error {
            SessionError::Policy(_) => (error, RefusalCode::Invalid),
            error => silent(error),
        })?;
        self.chain.channel(channel).await.map_err(|error| silent(error.into()))
    }
}

/// Agrees to a close that was verified, while no session of its channel is open. When this returns,
/// what was signed is durable.
///
/// # Errors
/// What to tell the payer, and under which code. Nothing has changed then.
pub fn agree_durably(
    store: &dyn Store,
    request: &CloseRequest,
    facts: Option<ChannelFacts>,
    signer: &dyn Signer,
) -> Result<AgreedClose, (SessionError, RefusalCode)> {
    let recall = || Ok((store.memory(request.channel(), None)?, paid_in(store, request)?));
    let (memory, paid_in) =
        recall().map_err(|error: crate::store::StoreError| busy(error.into()))?;
    let paid_in = paid_in.map(|of| of.agreement);
    let setup = CloseSetup { request, facts, memory, paid_in, signer };
    let (records, agreed) = agree(setup).map_err(refusal)?;
    if !records.is_empty() {
        store.record(&records).map_err(|error| busy(error.into()))?;
    }
    Ok(agreed)
}

fn refusal(error: ProtocolError) -> Refusal {
    let code = error.refusal_code();
    (error.into(), code)
}

fn busy(error: SessionError) -> Refusal {
    (error, RefusalCode::Busy)
}
