//! Agreeing to cooperative closes: a channel at a time, while no session of it is open, and never
//! before what is signed is durable.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sparewire_core::{ChannelId, NodeId, Signer};
use sparewire_protocol::{
    AgreedClose, ChannelFacts, CloseRequest, CloseSetup, ProtocolError, RefusalCode, Role, agree,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{LiveSession, Seller, SlotGuard};
use crate::{
    closing::paid_in,
    identity::check_standing,
    session::SessionError,
    store::{Store, ask},
};

/// How many closes of each kind are decided on at a time: twice as many as are checked on chain at
/// once, so that whoever begins a session behind them waits for two checks and not for a crowd.
const CLOSES_MAX: usize = 32;

type Refusal = (SessionError, RefusalCode);

/// The closes that are being decided on. Each goes on when whoever asked has hung up, so that their
/// number is bounded here: one for each channel, and so many in all of channels that have paid and
/// of others, which hold up nobody who has.
#[derive(Debug)]
pub(super) struct Closes {
    paid_before: Arc<Semaphore>,
    new: Arc<Semaphore>,
    channels: Mutex<HashSet<ChannelId>>,
}

impl Default for Closes {
    fn default() -> Self {
        let line = || Arc::new(Semaphore::new(CLOSES_MAX));
        Self { paid_before: line(), new: line(), channels: Mutex::default() }
    }
}

/// One of them; it makes room when this is dropped.
#[derive(Debug)]
struct ClosePlace {
    closes: Arc<Closes>,
    channel: ChannelId,
    _room: OwnedSemaphorePermit,
}

impl Closes {
    /// `None` where one of this channel is being decided on, or too many are. Nobody waits.
    fn enter(self: &Arc<Self>, channel: ChannelId, has_paid: bool) -> Option<ClosePlace> {
        let line = if has_paid { &self.paid_before } else { &self.new };
        let room = Arc::clone(line).try_acquire_owned().ok()?;
        if !self.channels().insert(channel) {
            return None;
        }
        Some(ClosePlace { closes: Arc::clone(self), channel, _room: room })
    }

    fn channels(&self) -> MutexGuard<'_, HashSet<ChannelId>> {
        // Plain inserts and removes: a panic leaves no half.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClosePlace {
    fn drop(&mut self) {
        self.closes.channels().remove(&self.channel);
    }
}

impl Seller {
    /// What costs nothing comes first: what our store alone decides is answered from it. The chain
    /// is asked only about channels that we have served over, for their payers.
    pub(crate) async fn answer_close(
        self: &Arc<Self>,
        peer: NodeId,
        request: CloseRequest,
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<AgreedClose, Refusal> {
        let authorizer = self.identity.authorizer.address();
        request.verify(peer, &self.chain.domain(), authorizer, (self.clock)()).map_err(refusal)?;
        let channel = request.channel();
        let known = ask(&self.store, move |store| {
            Ok((store.channel(channel)?, store.memory(channel, None)?))
        });
        let (known, memory) = known.await.map_err(busy)?;
        if known.is_none_or(|known| known.role != Role::Payee) {
            let unknown = "no session over it is remembered here";
            return Err(refusal(ProtocolError::ChannelUnusable(unknown)));
        }
        // Agreed on already, or refused for good: neither changes any more.
        if memory.agreed.is_some() || memory.resync.is_some() {
            return self.agree_to(request, None).await;
        }
        let has_paid = memory.payment.is_some();
        let place = self.closes.enter(channel, has_paid).ok_or_else(|| {
            busy(SessionError::Policy("it or too many others are being closed; come again".into()))
        })?;
        // Not cut off where the other end goes meanwhile: its channel's place is kept until it is
        // known what was signed.
        let (seller, stop) = (Arc::clone(self), shutdown.child_token());
        let deciding = tasks.spawn(async move {
            let _place = place;
            seller.decide_close(peer, request, has_paid, stop).await
        });
        deciding.await.map_err(|error| busy(SessionError::Policy(format!("cut off: {error}"))))?
    }

    async fn decide_close(
        &self,
        peer: NodeId,
        request: CloseRequest,
        has_paid: bool,
        cancel: CancellationToken,
    ) -> Result<AgreedClose, Refusal> {
        let channel = request.channel();
        // From here on no session of it begins before we are done, and then none at all.
        let live = LiveSession {
            peer,
            figures: watch::channel(None).1,
            cancel,
            gone: CancellationToken::new(),
        };
        self.take_slot(channel, &live).await.map_err(busy)?;
        let _slot = SlotGuard { seller: self, channel, live };
        let facts = self.facts_for_close(channel, &request, has_paid).await?;
        self.agree_to(request, facts).await
    }

    async fn agree_to(
        &self,
        request: CloseRequest,
        facts: Option<ChannelFacts>,
    ) -> Result<AgreedClose, Refusal> {
        let signer = Arc::clone(&self.identity.authorizer);
        ask(&self.store, move |store| Ok(agree_durably(store, &request, facts, &*signer)))
            .await
            .map_err(busy)?
    }

    async fn facts_for_close(
        &self,
        channel: ChannelId,
        request: &CloseRequest,
        has_paid: bool,
    ) -> Result<Option<ChannelFacts>, Refusal> {
        let _place = self.checks.enter(has_paid).await.ok_or_else(|| {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_channels_that_never_paid_keeps_nobody_who_has_from_closing() {
        let closes = Arc::new(Closes::default());
        let channel = |number: usize| ChannelId([number as u8; 32].into());
        let mut crowd: Vec<_> =
            (0..CLOSES_MAX).map(|number| closes.enter(channel(number), false).unwrap()).collect();
        assert!(closes.enter(channel(100), false).is_none(), "there is no room");
        for _ in 0..2 {
            assert!(closes.enter(channel(0), true).is_none(), "one of each channel");
        }
        let paid = closes.enter(channel(100), true).unwrap();
        crowd.pop();
        assert!(closes.enter(channel(100), false).is_none(), "it is under way");
        drop(paid);
        assert!(closes.enter(channel(100), false).is_some());
    }
}
