//! The provider: sells its line as a TCP exit, one session per connection, and never serves more
//! than its credit rule allows.

mod closing;
mod connection;
mod shares;
mod strangers;

use std::{sync::Arc, time::Duration};

use sparewire_core::Price;
use sparewire_protocol::{CreditRule, Service, settlement::Chain};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{shares::Shares, strangers::Strangers};
use crate::{
    exit::Exit,
    identity::Identity,
    seller::{LiveFigures, Offering, Seller, SellerConfig, Settler},
    session::Clock,
    store::Store,
    transport::{CLOSE_ALPN, Endpoint},
};

/// What a provider sells, and on which conditions.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// On which conditions.
    pub selling: SellerConfig,
    /// Price per GiB in the token's smallest unit.
    pub price: Price,
    /// How far service runs ahead of payment.
    pub credit: CreditRule,
    /// Most streams of one session at a time.
    pub streams_max: usize,
    /// Most new streams of one session a second, and ten times as many at once: to connect them is
    /// work that is not billed. Others wait a little for their turn.
    pub streams_per_sec_max: u32,
}

/// A provider at work.
pub struct Provider {
    offering: Offering,
    streams_max: usize,
    seller: Arc<Seller>,
    endpoint: Endpoint,
    exit: Exit,
    strangers: Strangers,
    shares: Shares,
    tracker: TaskTracker,
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
        Arc::new(Self {
            offering: Offering {
                service: Service::ExitTcp,
                price: config.price,
                credit: config.credit,
            },
            streams_max: config.streams_max,
            seller: Arc::new(Seller::new(config.selling, identity, store, chain, clock)),
            endpoint,
            exit,
            strangers: Strangers::default(),
            shares: Shares::new(config.streams_per_sec_max),
            tracker: TaskTracker::new(),
        })
    }

    /// Serves until `shutdown`; then asks the consumers to settle and waits until they have, at
    /// most for the time that the protocol gives them. Then it claims, where its policy says so; what
    /// is not final within a minute is followed by the next process.
    pub async fn run(self: &Arc<Self>, shutdown: CancellationToken) {
        let (provider, stop) = (Arc::clone(self), shutdown.clone());
        let watcher = self.tracker.spawn(async move { provider.seller.watch(stop).await });
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
        self.seller.shut_down().await;
    }

    /// The sessions that are running now.
    pub fn live(&self) -> Vec<LiveFigures> {
        self.seller.live()
    }

    /// Claims what this provider is owed.
    pub fn settler(&self) -> &Settler {
        self.seller.settler()
    }
}
