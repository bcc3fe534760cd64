//! The payer's side of whatever is bought: under which terms, over which channels, and for how much
//! at most. What a session carries, and over which kind of connection, is for those who buy.

mod funding;
mod limits;
mod session;

pub(crate) use session::{Bought, Ending, Purchase};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sparewire_core::{Address, Amount, ChannelId, NodeId, Price, SessionId};
use sparewire_protocol::{
    ProtocolError, Reading, RefusalCode, Role, Service, SessionMemory,
    settlement::{Chain, ChainError},
};

use crate::{
    identity::Identity,
    session::{Clock, SessionError},
    store::{Store, StoreError},
};

/// What a buyer is willing to do.
#[derive(Clone, Debug)]
pub struct BuyerConfig {
    /// The token it pays in.
    pub token: Address,
    /// The dearest price that it accepts.
    pub price_max: Price,
    /// What it puts into a new channel, and tops one up by.
    pub channel_amount: Amount,
    /// The most that its open channels may hold together.
    pub budget: Amount,
    /// Seconds that a provider gets to claim when it leaves: the withdraw delay of new channels,
    /// where the terms do not ask for more.
    pub withdraw_delay_secs: u32,
    /// The longest withdraw delay that it accepts.
    pub withdraw_delay_secs_max: u32,
    /// The registry in which wallets revoke keys; `None` where there is none.
    pub keys: Option<Address>,
    /// How often it is asked in a session whether the provider's keys are revoked.
    pub keys_every: Duration,
    /// Whether it deals with a provider that contradicted itself, over another channel than the
    /// frozen one.
    pub forgive: bool,
}

/// Who pays, and within which limits. One of them keeps account of all that is spent from its store.
pub struct Buyer {
    config: BuyerConfig,
    identity: Identity,
    store: Arc<dyn Store>,
    chain: Arc<dyn Chain>,
    clock: Clock,
    past: Mutex<Past>,
    /// One at a time decides what money is put aside.
    funding: tokio::sync::Mutex<()>,
    /// Something may have been left unfinished on chain.
    unfinished: AtomicBool,
}

/// What broken connections left, what did not work, and what is in use.
#[derive(Default)]
struct Past {
    broken: BTreeMap<SessionId, BrokenSession>,
    forgotten: BTreeSet<SessionId>,
    avoid: BTreeSet<ChannelId>,
    live_sessions: BTreeSet<SessionId>,
    live_channels: BTreeSet<ChannelId>,
    /// Those of them that were opened to these payees for blocks, of which none had come then.
    untried: BTreeMap<ChannelId, Address>,
    /// Money on its way into channels, and up to how much it is to fill them.
    earmarks: BTreeMap<u64, (ChannelId, Amount)>,
    next_earmark: u64,
}

/// A session whose connection broke while the process lived on.
#[derive(Clone, Copy, Debug)]
pub struct BrokenSession {
    /// Which.
    pub session: SessionId,
    /// What it had counted.
    pub counted: Reading,
    /// What the provider had reported of `up`.
    pub reported_up: sparewire_core::ByteCount,
}

impl Buyer {
    /// A buyer for whoever has connections to providers.
    pub fn new(
        config: BuyerConfig,
        identity: Identity,
        store: Arc<dyn Store>,
        chain: Arc<dyn Chain>,
        clock: Clock,
    ) -> Self {
        Self {
            config,
            identity,
            store,
            chain,
            clock,
            past: Mutex::default(),
            funding: tokio::sync::Mutex::default(),
            unfinished: AtomicBool::new(true),
        }
    }

    /// What it is willing to do.
    pub fn config(&self) -> &BuyerConfig {
        &self.config
    }

    /// The session is not resumed; the next one is another.
    fn forget(&self, session: SessionId) {
        let mut past = self.past();
        past.broken.remove(&session);
        past.forgotten.insert(session);
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        // Single inserts and removes: a panic leaves no half.
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries on what an earlier attempt left unfinished on chain, so that a channel under way is
    /// not opened twice. The caller has the turn of `funding`.
    async fn finish_earlier(&self) -> Result<(), SessionError> {
        if !self.unfinished.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.chain.resume().await.inspect_err(|_| {
            self.unfinished.store(true, Ordering::Release);
        })?;
        Ok(())
    }
}

/// A session or a channel that is in use, until this is dropped.
struct InUse<'a> {
    buyer: &'a Buyer,
    session: Option<SessionId>,
    channel: Option<ChannelId>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut past = self.buyer.past();
        if let Some(session) = self.session {
            past.live_sessions.remove(&session);
        }
        if let Some(channel) = self.channel {
            past.live_channels.remove(&channel);
            past.untried.remove(&channel);
        }
    }
}

/// Whether the session is not to be resumed after this: the next one is another.
pub fn gives_up_session(error: &ProtocolError) -> bool {
    use RefusalCode::{TermsExpired, UnknownSession};
    match error {
        ProtocolError::Refused { code, .. } => matches!(code, UnknownSession | TermsExpired),
        ProtocolError::CannotResume(_) => true,
        _ => false,
    }
}

/// Whether trying again may help.
pub fn may_retry(error: &SessionError) -> bool {
    use sparewire_protocol::ProtocolError::{
        CannotResume, ChannelUnusable, Refused, Silent, TermsExpired,
    };
    match error {
        SessionError::Transport(_) | SessionError::Stalled | SessionError::Untried(_) => true,
        SessionError::Chain(error) => matches!(error, ChainError::Unreachable { .. }),
        SessionError::Protocol(Refused { code, .. }) => match code {
            RefusalCode::UnknownSession
            | RefusalCode::TermsExpired
            | RefusalCode::ChannelUnusable
            | RefusalCode::LossAllowanceUsed
            | RefusalCode::Busy
            | RefusalCode::ChainUnavailable
            | RefusalCode::GoingAway => true,
            RefusalCode::WrongNetwork | RefusalCode::Invalid | RefusalCode::ClockSkew => false,
        },
        SessionError::Protocol(CannotResume(_) | ChannelUnusable(_) | Silent(_) | TermsExpired) => {
            true
        }
        SessionError::Protocol(_)
        | SessionError::Store(_)
        | SessionError::Policy(_)
        | SessionError::Shutdown => false,
    }
}

/// The newest session with a provider for a service that has not ended and is not `live`: the one
/// to resume. What `broken` connections of this very process left is known better than what is
/// stored. Over a frozen channel nothing is resumed. No I/O but the store's, so that a simulation
/// decides as a buyer does.
///
/// # Errors
/// [`StoreError`].
pub fn resumable(
    store: &dyn Store,
    provider: NodeId,
    service: Service,
    live: &BTreeSet<SessionId>,
    broken: impl Fn(SessionId) -> Option<BrokenSession>,
) -> Result<Option<SessionMemory>, StoreError> {
    let newest = store.sessions()?.into_iter().rev().find(|known| {
        known.role == Role::Payer
            && known.peer == provider
            && known.agreement.terms.service == service
            && !live.contains(&known.agreement.session)
    });
    let Some(newest) = newest.filter(|known| known.statement.is_none()) else {
        return Ok(None);
    };
    let (session, channel) = (newest.agreement.session, newest.agreement.channel());
    if store.channel(channel)?.is_some_and(|known| known.frozen) {
        return Ok(None);
    }
    let memory = store.memory(channel, Some(session))?;
    let promised = memory.payment.map_or(Amount::ZERO, |newest| newest.voucher.body.amount);
    let mut memory = memory.session;
    // What was set off over a connection that is gone is not known to both alike.
    if service.sets_off()
        && memory.as_ref().is_some_and(|known| known.agreement.owed(known.paid) != Some(promised))
    {
        return Ok(None);
    }
    if let (Some(known), Some(broken)) = (&mut memory, broken(session)) {
        (known.counted, known.reported_up) = (broken.counted, broken.reported_up);
    }
    Ok(memory)
}
