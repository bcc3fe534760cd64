//! `sparewire provide`: sell your line.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use sparewire_core::{Amount, ByteCount};
use sparewire_node::{provider::Provider, store::Store};
use sparewire_protocol::{Role, settlement::TokenInfo};
use tokio_util::sync::CancellationToken;

use super::settle::Settled;
use crate::{
    assemble::{self, interrupted},
    control::{self, Request},
    home::{Home, Node, known_token},
    metrics::{self, Figure, Figures},
    output,
};

/// Sell your line as an exit.
#[derive(Debug, Args)]
pub(crate) struct ProvideArgs {
    /// UDP address to listen on.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Price per GiB in the token, for example 0.02.
    #[arg(long)]
    price: Option<String>,
    /// A destination that is reached in spite of the rules, for example 127.0.0.1:8080; may be
    /// given several times.
    #[arg(long)]
    allow: Vec<String>,
    /// Where Prometheus metrics are served.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// A file with the keystore's password.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

pub(crate) async fn run(args: ProvideArgs, mut home: Home, json: bool) -> Result<()> {
    let config = &mut home.config.provider;
    config.listen = args.listen.unwrap_or(config.listen);
    config.price = args.price.unwrap_or(config.price.clone());
    config.allow.extend(args.allow);
    let metrics_at = metrics_addr(args.metrics, &home)?;

    // The store first: its lock says at once that another process runs here.
    let store = home.store()?;
    let (domain, token) = home.network()?;
    let keys = home.keys(args.password_file.as_deref()).await?;
    let node = Node::new(keys, &domain)?;
    let chain = home.connect(Arc::clone(&node.wallet)).await?;
    let token_info = known_token(&*chain, token).await?;
    let (provider, endpoint) = assemble::provider(
        &home.config.provider,
        &node,
        chain.clone(),
        Arc::clone(&store),
        token,
        token_info.decimals,
    )
    .await?;

    let shown = Shown {
        provider: Arc::clone(&provider),
        store,
        address: endpoint.address().to_string(),
        wallet: node.wallet.address().to_string(),
        token: token_info.clone(),
    };
    let answering = shown.clone();
    let _control = control::Server::start(&home.control_path(), move |request| {
        let shown = answering.clone();
        async move {
            match request {
                Request::Status => shown.status(),
                Request::Settle => {
                    let settled = Settled::from(shown.provider.settle().await);
                    Ok(serde_json::to_value(settled)?)
                }
            }
        }
    })?;
    let _metrics = match metrics_at {
        Some(addr) => {
            let shown = shown.clone();
            let figures = Figures(Arc::new(move || shown.figures()));
            let (addr, server) = metrics::serve(addr, figures).await?;
            eprintln!("metrics at http://{addr}/metrics");
            Some(server)
        }
        None => None,
    };
    if json {
        output::json(&json!({ "address": shown.address, "wallet": shown.wallet }))?;
    } else {
        crate::output::out!("{}", shown.address);
    }
    eprintln!(
        "selling at {} per GiB, paid to {}; a consumer runs: sparewire connect {}",
        home.config.provider.price, shown.wallet, shown.address
    );

    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (provider, shutdown) = (Arc::clone(&provider), shutdown.clone());
        async move { provider.run(shutdown).await }
    });
    interrupted().await;
    eprintln!("asking consumers to settle…");
    shutdown.cancel();
    running.await.context("the provider stopped unexpectedly")?;
    endpoint.close().await;
    eprintln!("earned vouchers are kept; `sparewire settle` claims them");
    Ok(())
}

/// `--metrics`, else the configuration's.
pub(crate) fn metrics_addr(flag: Option<SocketAddr>, home: &Home) -> Result<Option<SocketAddr>> {
    let configured = &home.config.metrics.listen;
    match (flag, configured.as_str()) {
        (Some(addr), _) => Ok(Some(addr)),
        (None, "") => Ok(None),
        (None, text) => text.parse().map(Some).context("[metrics] listen"),
    }
}

#[derive(Clone)]
struct Shown {
    provider: Arc<Provider>,
    store: Arc<dyn Store>,
    address: String,
    wallet: String,
    token: TokenInfo,
}

impl Shown {
    fn status(&self) -> Result<serde_json::Value> {
        let sessions: Vec<_> = self
            .provider
            .live()
            .into_iter()
            .map(|live| {
                let exposure = live.statement.counted.checked_total().unwrap_or_default();
                json!({
                    "peer": live.peer.to_string(),
                    "session": live.statement.session,
                    "bytes": exposure,
                    "paid": live.statement.paid,
                    "exposure_peak": live.statement.exposure_peak,
                    "exposure_bound": live.statement.exposure_bound,
                })
            })
            .collect();
        Ok(json!({
            "role": "provider",
            "address": self.address,
            "wallet": self.wallet,
            "token": self.token,
            "promised": promised(&*self.store, Role::Payee)?,
            "sessions": sessions,
        }))
    }

    fn figures(&self) -> Vec<Figure> {
        let live = self.provider.live();
        let sum = |of: &dyn Fn(&sparewire_protocol::Statement) -> u64| {
            live.iter().map(|live| of(&live.statement)).sum::<u64>() as f64
        };
        let promised = promised(&*self.store, Role::Payee).unwrap_or_default();
        vec![
            Figure { name: "sessions", help: "Sessions running", value: live.len() as f64 },
            Figure {
                name: "session_up_bytes",
                help: "Bytes carried up in running sessions",
                value: sum(&|statement| statement.counted.up.get()),
            },
            Figure {
                name: "session_down_bytes",
                help: "Bytes carried down in running sessions",
                value: sum(&|statement| statement.counted.down.get()),
            },
            Figure {
                name: "exposure_peak_bytes",
                help: "Largest unpaid amount seen in a running session",
                value: live
                    .iter()
                    .map(|live| live.statement.exposure_peak)
                    .max()
                    .unwrap_or(ByteCount::ZERO)
                    .get() as f64,
            },
            Figure {
                name: "promised_units",
                help: "Promised by vouchers over all channels, in the token's smallest unit",
                value: promised.get() as f64,
            },
        ]
    }
}

/// What is promised over all channels on one side, in all.
pub(crate) fn promised(store: &dyn Store, role: Role) -> Result<Amount> {
    let channels = store.channels(role)?;
    let sum = |sum: Amount, more: Amount| sum.checked_add(more).unwrap_or(Amount::MAX);
    Ok(channels.iter().map(|channel| channel.promised()).fold(Amount::ZERO, sum))
}
