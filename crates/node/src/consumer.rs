//! The consumer: keeps one session with a provider going, opens streams through it, and never
//! pays a price, or puts more money aside, than it was told.

mod connection;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sparewire_core::NodeId;
use sparewire_protocol::{Statement, Terms, settlement::Chain};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    buyer::{Bought, Buyer, BuyerConfig, may_retry},
    identity::Identity,
    proxy::{Accepted, ProxyHandler, ProxyRequest},
    refusal::{Refusal, RefusalKind},
    session::{Clock, SessionError, Streams},
    store::Store,
    target::Target,
    transport::{Connection, Endpoint, PeerAddress, RecvStream, SendStream},
};

/// What a consumer is willing to do.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// For how much, and how.
    pub buying: BuyerConfig,
    /// Most streams at a time.
    pub streams_max: usize,
}

/// A consumer at work.
pub struct Consumer {
    buyer: Arc<Buyer>,
    provider: PeerAddress,
    endpoint: Endpoint,
    streams_max: usize,
    link: watch::Sender<Link>,
    streams: Arc<Semaphore>,
    /// Running tunnels; a close waits for them a little.
    tunnels: TaskTracker,
}

/// How things stand with the provider.
#[derive(Clone)]
pub enum Link {
    /// Not connected (any more); what the last attempt failed of, if there was one.
    Down(Option<SessionError>),
    /// Connected and accepted.
    Up(Arc<Session>),
    /// Ended for good: a statement where it ended properly.
    Over(Result<Statement, SessionError>),
}

/// A running session.
pub struct Session {
    connection: Connection,
    bought: Bought,
    streams: Streams,
}

impl Session {
    /// Its figures so far.
    pub fn figures(&self) -> Option<Statement> {
        self.bought.figures.borrow().clone()
    }

    /// What was agreed.
    pub fn terms(&self) -> &Terms {
        &self.bought.terms
    }

    /// The connection under it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// How long a new stream waits for a session that is being (re)established.
const LINK_WAIT: Duration = Duration::from_secs(20);
/// How long running tunnels get when the consumer closes.
const TUNNELS_GRACE: Duration = Duration::from_secs(5);
/// Pauses between attempts to reconnect, doubling.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

impl Consumer {
    /// A consumer that connects once it is [`Consumer::run`].
    pub fn new(
        config: ConsumerConfig,
        provider: PeerAddress,
        identity: Identity,
        endpoint: Endpoint,
        store: Arc<dyn Store>,
        chain: Arc<dyn Chain>,
        clock: Clock,
    ) -> Arc<Self> {
        let streams = Arc::new(Semaphore::new(config.streams_max));
        Arc::new(Self {
            buyer: Arc::new(Buyer::new(config.buying, identity, store, chain, clock)),
            provider,
            endpoint,
            streams_max: config.streams_max,
            link: watch::channel(Link::Down(None)).0,
            streams,
            tunnels: TaskTracker::new(),
        })
    }

    /// Keeps a session going until `shutdown`, then ends it properly and returns its statement.
    ///
    /// # Errors
    /// [`SessionError`] where trying again would not help: a price above the limit, a wrong
    /// network, a budget or wallet with nothing left for a channel that is used up (its session is
    /// settled then), a full disk; or where the last session could not be settled.
    pub async fn run(
        self: &Arc<Self>,
        shutdown: CancellationToken,
    ) -> Result<Statement, SessionError> {
        let mut pause = RETRY.0;
        let result = loop {
            let began = Instant::now();
            let failed = match self.session(&shutdown).await {
                Ok(statement) if shutdown.is_cancelled() => break Ok(statement),
                Ok(_) => None, // the provider wanted to end it; the next session is a new one
                Err(error) if shutdown.is_cancelled() || !may_retry(&error) => break Err(error),
                Err(error) => Some(error),
            };
            if let Some(error) = &failed {
                tracing::info!(%error, "not connected; trying again");
            }
            self.link.send_replace(Link::Down(failed));
            // What held for a while is tried again at once.
            pause = if began.elapsed() > RETRY.1 { RETRY.0 } else { (pause * 2).min(RETRY.1) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => break Err(SessionError::Shutdown),
            }
        };
        self.link.send_replace(Link::Over(result.clone()));
        result
    }

    /// How things stand; changes are notified.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// The provider's name.
    pub fn provider(&self) -> NodeId {
        self.provider.node
    }

    /// Opens a stream to `target` from the provider's line.
    ///
    /// # Errors
    /// [`Refusal`] with the provider's reason, or ours where there is no session.
    pub async fn open(&self, target: Target) -> Result<Tunnel, Refusal> {
        let session = self.session_now().await?;
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Refusal::new(RefusalKind::Busy, "too many streams at once"))?;
        connection::open_tunnel(session, target, permit).await
    }

    async fn session_now(&self) -> Result<Arc<Session>, Refusal> {
        let mut link = self.link.subscribe();
        let wait = link.wait_for(|link| !matches!(link, Link::Down(_)));
        match tokio::time::timeout(LINK_WAIT, wait).await {
            Ok(Ok(link)) => match &*link {
                Link::Up(session) => Ok(Arc::clone(session)),
                Link::Over(Err(error)) => {
                    Err(Refusal::new(RefusalKind::Unreachable, format!("no session: {error}")))
                }
                _ => Err(Refusal::new(RefusalKind::Unreachable, "the session has ended")),
            },
            _ => {
                let reason = match &*self.link.borrow() {
                    Link::Down(Some(error)) => format!("no session with the provider: {error}"),
                    _ => "no session with the provider yet".to_owned(),
                };
                Err(Refusal::new(RefusalKind::Unreachable, reason))
            }
        }
    }
}

#[async_trait]
impl ProxyHandler for Consumer {
    async fn handle(&self, request: ProxyRequest) {
        let tunnel = match self.open(request.target().clone()).await {
            Ok(tunnel) => tunnel,
            Err(refusal) => return request.refuse(refusal).await,
        };
        match request.accept().await {
            Ok(Accepted { tcp, leftover }) => {
                self.tunnels.track_future(tunnel.carry(tcp, leftover)).await;
            }
            Err(_) => self.tunnels.track_future(tunnel.abandon()).await,
        }
    }
}

/// An open stream to a destination, not yet joined to an application.
pub struct Tunnel {
    session: Arc<Session>,
    send: SendStream,
    recv: RecvStream,
    _permit: tokio::sync::OwnedSemaphorePermit,
}
