//! The provider: sells its line as a TCP exit, one session per connection, and never serves more
//! than its credit rule allows.

mod admission;
mod checks;
mod closing;
mod connection;
mod settling;
mod shares;
mod strangers;
mod watching;

pub use admission::{Applicant, admit, terms_of};
pub use closing::agree_durably;
pub use settling::{Plan, Row, SettleError, Settler};

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sparewire_core::{Address, Amount, ChannelId, Domain, NodeId, Price};
use sparewire_protocol::{
    CountingRule, CreditRule, Service, Statement, Terms,
    settlement::{Chain, SettlePolicy},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{checks::Checks, closing::Closes, shares::Shares, strangers::Strangers};
use crate::{
    exit::Exit,
    identity::Identity,
    session::{Clock, SessionError},
    store::Store,
    transport::{CLOSE_ALPN, Endpoint},
};

/// What a provider sells, and on which conditions.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Price per GiB in the token's smallest unit.
    pub price: Price,
    /// How far service runs ahead of payment.
    pub credit: CreditRule,
    /// The token that is paid in.
    pub token: Address,
    /// Shortest withdraw delay of a channel that is accepted, in seconds.
    pub withdraw_delay_secs_min: u32,
    /// The least that a channel must hold.
    pub channel_min: Amount,
    /// How long terms can be accepted and sessions under them resumed, in milliseconds.
    pub terms_valid_ms: u64,
    /// Most sessions at a time.
    pub connections_max: usize,
    /// Most streams of one session at a time.
    pub streams_max: usize,
    /// Most new streams of one session a second, and ten times as many at once: to connect them is
    /// work that is not billed. Others wait a little for their turn.
    pub streams_per_sec_max: u32,
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

/// How long whoever comes over a channel in use waits for it, however often it changes hands.
const SLOT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a claim at shutdown is waited for.
const SHUTDOWN_CLAIM: Duration = Duration::from_secs(60);

/// A provider at work.
pub struct Provider {
    config: ProviderConfig,
    identity: Identity,
    endpoint: Endpoint,
    store: Arc<dyn Store>,
    chain: Arc<dyn Chain>,
    exit: Exit,
    clock: Clock,
    settler: Settler,
    /// At most one session over a channel.
    slots: Mutex<HashMap<ChannelId, LiveSession>>,
    strangers: Strangers,
    checks: Checks,
    closes: Arc<Closes>,
    shares: Shares,
    connections: Semaphore,
    tracker: TaskTracker,
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

impl Provider {
    /// A provider that serves once it is [`Provider::run`].
    pub fn new(
        config: ProviderConfig,
        identity: Identity,
        endpoint: Endpoint,
        store: Arc<dyn Store>,
        chain: Arc<dyn Chain>,
        exit: Exit,
        clock: Clock,
    ) -> Arc<Self> {
        let connections = Semaphore::new(config.connections_max);
        let shares = Shares::new(config.streams_per_sec_max);
        let settler =
            Settler::new(Arc::clone(&store), Arc::clone(&chain), config.settle, Arc::clone(&clock));
        Arc::new(Self {
            config,
            identity,
            endpoint,
            store,
            chain,
            exit,
            clock,
            settler,
            slots: Mutex::new(HashMap::new()),
            strangers: Strangers::default(),
            checks: Checks::default(),
            closes: Arc::default(),
            shares,
            connections,
            tracker: TaskTracker::new(),
        })
    }

    /// Serves until `shutdown`; then asks the consumers to settle and waits until they have, at
    /// most for the time that the protocol gives them. Then it claims, where its policy says so; what
    /// is not final within a minute is followed by the next process.
    pub async fn run(self: &Arc<Self>, shutdown: CancellationToken) {
        let (provider, stop) = (Arc::clone(self), shutdown.clone());
        let every = self.config.closes_every;
        let watcher = self.tracker.spawn(async move { provider.settler.run(every, stop).await });
        loop {
            let incoming = tokio::select! {
                () = shutdown.cancelled() => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let (provider, shutdown) = (Arc::clone(self), shutdown.clone());
            self.tracker.spawn(async move {
                match incoming.handshake().await {
                    Ok(connection) => {
                        let peer = connection.peer();
                        let served = match connection.alpn() {
                            CLOSE_ALPN => provider.answer_closes(&connection, &shutdown).await,
                            _ => provider.serve(&connection, shutdown).await,
                        };
                        match served {
                            Ok(()) => connection.close(0, "done"),
                            Err(error) => {
                                tracing::info!(%peer, %error, "connection broke off");
                                connection.close(1, &error.for_peer());
                            }
                        }
                    }
                    Err(error) => tracing::debug!(%error, "no connection"),
                }
            });
        }
        self.tracker.close();
        let settled = Duration::from_millis(sparewire_protocol::ANSWER_MS_MAX + 5_000);
        let _ = tokio::time::timeout(settled, self.tracker.wait()).await;
        watcher.abort();
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

    /// Claims what this provider is owed.
    pub fn settler(&self) -> &Settler {
        &self.settler
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<ChannelId, LiveSession>> {
        // Every change under this lock is a single insert or remove: a panic leaves no half.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terms(&self, domain: Domain) -> Terms {
        let issued = (self.clock)();
        let config = &self.config;
        Terms {
            provider: self.identity.node_id(),
            service: Service::ExitTcp,
            counting: CountingRule::StreamPayload,
            price: config.price,
            credit: config.credit,
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
