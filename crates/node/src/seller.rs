//! The payee's side of whatever is sold: whom it serves, on which terms, and what it claims. What a
//! session carries, and over which kind of connection, is for those who sell.

mod admission;
mod checks;
mod closing;
mod session;
mod settling;
mod watching;

pub use admission::{Applicant, admit, terms_of};
pub use closing::agree_durably;
pub(crate) use session::{Begun, Sale};
pub use settling::{Plan, Row, SettleError, Settler};

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sparewire_core::{Address, Amount, ChannelId, Domain, NodeId, Price};
use sparewire_protocol::{
    CreditRule, Service, Statement, Terms,
    settlement::{Chain, SettlePolicy},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::{checks::Checks, closing::Closes};
use crate::{
    identity::Identity,
    session::{Clock, SessionError},
    store::Store,
};

/// On which conditions is sold, whatever it is.
#[derive(Clone, Debug)]
pub struct SellerConfig {
    /// The token that is paid in.
    pub token: Address,
    /// Shortest withdraw delay of a channel that is accepted, in seconds.
    pub withdraw_delay_secs_min: u32,
    /// The least that a channel must hold.
    pub channel_min: Amount,
    /// How long terms can be accepted and sessions under them resumed, in milliseconds.
    pub terms_valid_ms: u64,
    /// Most sessions at a time.
    pub sessions_max: usize,
    /// How often the chain is asked about the channels in use.
    pub facts_every: Duration,
    /// How often it is asked whether payers have started to leave, and whether it is time to claim
    /// for another reason. The shortest withdraw delay of the contract is 15 minutes.
    pub closes_every: Duration,
    /// The registry in which wallets revoke keys; `None` where there is none.
    pub keys: Option<Address>,
    /// When promises are claimed without being asked for.
    pub settle: SettlePolicy,
}

/// What is sold, and for how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offering {
    /// What is sold.
    pub service: Service,
    /// Price per GiB in the token's smallest unit.
    pub price: Price,
    /// How far service runs ahead of payment.
    pub credit: CreditRule,
}

/// How long a claim at shutdown is waited for.
const SHUTDOWN_CLAIM: Duration = Duration::from_secs(60);
/// How long whoever comes over a channel in use waits for it, however often it changes hands.
const SLOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is paid, and keeps account of it.
pub struct Seller {
    config: SellerConfig,
    identity: Identity,
    store: Arc<dyn Store>,
    chain: Arc<dyn Chain>,
    clock: Clock,
    settler: Settler,
    /// At most one session over a channel.
    slots: Mutex<HashMap<ChannelId, LiveSession>>,
    checks: Checks,
    closes: Arc<Closes>,
    room: Semaphore,
}

#[derive(Clone)]
struct LiveSession {
    peer: NodeId,
    figures: watch::Receiver<Option<Statement>>,
    cancel: CancellationToken,
    gone: CancellationToken,
}

/// A session that is running.
#[derive(Clone, Debug)]
pub struct LiveFigures {
    /// Who is served.
    pub peer: NodeId,
    /// Its figures so far.
    pub statement: Statement,
}

impl Seller {
    /// A seller of whatever it is handed connections for.
    pub fn new(
        config: SellerConfig,
        identity: Identity,
        store: Arc<dyn Store>,
        chain: Arc<dyn Chain>,
        clock: Clock,
    ) -> Self {
        let room = Semaphore::new(config.sessions_max);
        let settler =
            Settler::new(Arc::clone(&store), Arc::clone(&chain), config.settle, Arc::clone(&clock));
        Self {
            config,
            identity,
            store,
            chain,
            clock,
            settler,
            slots: Mutex::new(HashMap::new()),
            checks: Checks::default(),
            closes: Arc::default(),
            room,
        }
    }

    /// Watches the chain and claims when the policy says so, until `shutdown`.
    pub async fn watch(&self, shutdown: CancellationToken) {
        self.settler.run(self.config.closes_every, shutdown).await;
    }

    /// Claims at the end, where the policy says so; what is not final within a minute is followed by
    /// the next process.
    pub async fn shut_down(&self) {
        match tokio::time::timeout(SHUTDOWN_CLAIM, self.settler.shut_down()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "could not claim at shutdown"),
            Err(_) => tracing::warn!("the claim is sent, and followed at the next start"),
        }
    }

    /// The sessions that are running now.
    pub fn live(&self) -> Vec<LiveFigures> {
        self.slots()
            .values()
            .filter_map(|live| {
                let statement = live.figures.borrow().clone()?;
                Some(LiveFigures { peer: live.peer, statement })
            })
            .collect()
    }

    /// Claims what is owed.
    pub fn settler(&self) -> &Settler {
        &self.settler
    }

    /// Who is paid.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<ChannelId, LiveSession>> {
        // Every change under this lock is a single insert or remove: a panic leaves no half.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terms(&self, offering: &Offering, domain: Domain) -> Terms {
        let issued = (self.clock)();
        let config = &self.config;
        Terms {
            provider: self.identity.node_id(),
            service: offering.service,
            counting: offering.service.counting(),
            price: offering.price,
            credit: offering.credit,
            domain,
            token: config.token,
            payee: self.identity.wallet(),
            payee_authorizer: self.identity.authorizer.address(),
            withdraw_delay_secs_min: config.withdraw_delay_secs_min,
            channel_min: config.channel_min,
            issued,
            expires: issued.plus_ms(config.terms_valid_ms),
        }
    }

    /// Waits until no connection uses the channel, and takes it for `live`.
    async fn take_slot(&self, channel: ChannelId, live: &LiveSession) -> Result<(), SessionError> {
        let until = tokio::time::Instant::now() + SLOT_TIMEOUT;
        loop {
            let running = match self.slots().entry(channel) {
                Entry::Vacant(free) => {
                    free.insert(live.clone());
                    return Ok(());
                }
                Entry::Occupied(taken) => taken.get().clone(),
            };
            if running.peer != live.peer {
                return Err(SessionError::Policy("the channel is in use by another device".into()));
            }
            // The same device comes back before we noticed that its old connection broke.
            running.cancel.cancel();
            let gone = running.gone.cancelled();
            if tokio::time::timeout_at(until, gone).await.is_err() {
                return Err(SessionError::Policy("the channel's old session is still busy".into()));
            }
        }
    }
}

/// Gives the channel free again, whatever happens to the task.
struct SlotGuard<'a> {
    seller: &'a Seller,
    channel: ChannelId,
    live: LiveSession,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.seller.slots().remove(&self.channel);
        self.live.gone.cancel();
    }
}
