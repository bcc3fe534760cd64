//! Where people and programs meet a running node.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sparewire_chain::EvmChain;
use tokio_util::sync::CancellationToken;

use crate::{
    backup,
    content::{self, ContentRequest},
    control::{self, Request},
    home::Home,
    interrupt::Interrupts,
    metrics::{self, Figure, Figures},
    output,
};

/// What a running node shows, and does when it is asked.
pub(crate) trait Shown: Clone + Send + Sync + 'static {
    /// What is going on, for `sparewire status`.
    fn status(&self) -> Result<Value>;
    /// The same in figures.
    fn figures(&self) -> Vec<Figure>;
    /// Claims what is owed to it, for `sparewire settle`.
    fn settle(&self) -> impl Future<Output = Result<Value>> + Send;
    /// What that would bring and cost, for `sparewire settle --dry-run`.
    fn plan(&self) -> impl Future<Output = Result<Value>> + Send;
    /// What is asked about torrents; null where none are run.
    fn content(&self, _request: ContentRequest) -> impl Future<Output = Result<Value>> + Send {
        async { Ok(content::not_here()) }
    }
}

/// The chain nodes that are asked, and what is wrong with each.
fn nodes_of(carrier: &EvmChain) -> Value {
    let shown = |node: sparewire_chain::NodeStatus| json!({ "name": node.name, "fault": node.fault.map(|fault| fault.to_string()) });
    carrier.nodes().into_iter().map(shown).collect()
}

/// Asks a file on a thread that may wait for it.
async fn blocking(ask: impl FnOnce() -> Result<Value> + Send + 'static) -> Result<Value> {
    tokio::task::spawn_blocking(ask).await?
}

/// The control socket, the metrics, what is said when the node is ready, and Ctrl-C.
pub(crate) struct Console {
    interrupts: Interrupts,
    control: control::Server,
    _metrics: Option<metrics::Server>,
}

impl Console {
    /// Opens the console of a node that is about to run on the chain of `carrier`, or without one.
    pub(crate) async fn open<S: Shown>(
        home: &Home,
        metrics_at: Option<SocketAddr>,
        node: S,
        carrier: Option<Arc<EvmChain>>,
    ) -> Result<Self> {
        let (answering, kept) = (node.clone(), home.clone());
        let control = control::Server::start(&home.control_path(), move |request| {
            let (node, carrier, home) = (answering.clone(), carrier.clone(), kept.clone());
            async move {
                match request {
                    Request::Status => {
                        let mut status = node.status()?;
                        let work = match &carrier {
                            Some(carrier) => {
                                status["nodes"] = nodes_of(carrier);
                                carrier.work()?
                            }
                            None => home.chain_work()?,
                        };
                        status["chain_work"] = serde_json::to_value(work)?;
                        Ok(status)
                    }
                    Request::Settle => node.settle().await,
                    Request::SettlePlan => node.plan().await,
                    Request::Spendings => {
                        blocking(move || {
                            let spendings = match &carrier {
                                Some(carrier) => carrier.journal().spendings()?,
                                None => home.stored_spendings()?,
                            };
                            let chain_id = home.network()?.0.chain_id;
                            Ok(json!({ "chain_id": chain_id, "spendings": spendings }))
                        })
                        .await
                    }
                    Request::Snapshot => {
                        // Without a chain no journal is held: whoever asks copies it.
                        let Some(carrier) = carrier else { return Ok(Value::Null) };
                        blocking(move || {
                            Ok(backup::snapshot_journal(&home, carrier.journal())?.into())
                        })
                        .await
                    }
                    Request::Content(request) => node.content(request).await,
                }
            }
        })?;
        let metrics = match metrics_at {
            Some(addr) => {
                let figures = Figures(Arc::new(move || node.figures()));
                let (addr, server) = metrics::serve(addr, figures).await?;
                eprintln!("metrics at http://{addr}/metrics");
                Some(server)
            }
            None => None,
        };
        Ok(Self { interrupts: Interrupts::listen()?, control, _metrics: metrics })
    }

    /// Says that the node is ready: `line`, or `document` as JSON, is what programs wait for.
    pub(crate) fn ready(&self, json: bool, line: &str, document: &Value, talk: &str) -> Result<()> {
        if json {
            output::json(document)?;
        } else {
            output::out!("{line}");
        }
        eprintln!("{talk}");
        Ok(())
    }

    /// Runs the node until it ends by itself or is interrupted; then says what it is `settling`
    /// and lets it finish, until it is interrupted again. `cut` says what that means.
    pub(crate) async fn run<R>(
        mut self,
        node: impl FnOnce(CancellationToken) -> R,
        settling: &str,
        cut: &'static str,
    ) -> Result<R::Output>
    where
        R: Future<Output: Send + 'static> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let mut running = tokio::spawn(node(shutdown.clone()));
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = self.interrupts.next() => {
                eprintln!("{settling} (Ctrl-C again: end at once)");
                shutdown.cancel();
                self.interrupts.or(cut, running).await?
            }
        };
        self.control.end().await;
        ended.context("the node stopped unexpectedly")
    }
}
