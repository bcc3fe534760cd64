//! `sparewire provide`: sell your line.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use sparewire_core::{Address, Amount, ByteCount};
use sparewire_node::{
    provider::Provider,
    store::Store,
    tower::{Entrusting, TowerStatus},
};
use sparewire_protocol::{
    Delegation, Role,
    settlement::{Standing, TokenInfo},
};
use tokio_util::sync::CancellationToken;

use super::settle::Settled;
use crate::{
    assemble, backup,
    console::{Console, Shown},
    delegation, descriptors,
    hint::Hint,
    home::{Home, clock},
    metrics::{self, Figure},
    set_back,
    side::Side,
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
    let metrics_at = metrics::addr(args.metrics, &home.config.metrics)?;

    let config = &home.config.provider;
    let (sessions, tunnels) = (config.connections_max, config.streams_max);
    let who = format!("{sessions} sessions of {tunnels} tunnels");
    descriptors::raise(sessions.saturating_mul(tunnels), &who);

    let (mut side, carrier) = Side::open_to_stay(&home, args.password_file.as_deref()).await?;
    side.node.identity = delegation::identity(&home, &side.node.identity)?;
    if side.own_standing().await? == Some(Standing::Revoked) {
        bail!(
            Hint::new(
                "this node's own keys are revoked on chain, so that every consumer turns them down"
            )
            .hint(
                "`sparewire settle` still claims what they earned; then make another node, in a \
                       fresh data directory, with the next --index of `wallet new`"
            )
        );
    }
    set_back::check(&home, &side).await?;
    let hot = side.node.wallet.address();
    let delegation = side.node.identity.delegation.body;
    if delegation.wallet != hot {
        // What is earned goes elsewhere, so nothing refills this.
        if side.chain.funds(hot, side.token.address).await?.native_wei == 0 {
            eprintln!("warning: {hot} has nothing to pay gas with; claims need some");
        }
        if let Some(warning) = delegation::warning(&delegation, clock()().as_secs()) {
            eprintln!("warning: {warning}");
        }
    }
    match home.index() {
        Ok(index) => carrier.use_index(index),
        // Payers that leave are found without it, later.
        Err(error) => eprintln!("warning: no index of the contract's events: {error:#}"),
    }
    let (provider, endpoint) =
        assemble::provider(&home.config.provider, &home.config.settle, &side).await?;
    let entrusting = assemble::entrusting(&home, &side, &endpoint)?;
    let (address, payee) = (endpoint.address().to_string(), delegation.wallet);
    let seller = Seller {
        provider: Arc::clone(&provider),
        entrusting: entrusting.clone(),
        store: side.store,
        address: address.clone(),
        wallet: hot,
        delegation,
        token: side.token,
    };
    let console = Console::open(&home, metrics_at, seller, Some(carrier)).await?;
    let price = &home.config.provider.price;
    console.ready(
        json,
        &address,
        &json!({ "address": address, "wallet": hot, "payee": payee }),
        &format!(
            "selling at {price} per GiB, paid to {payee}; a consumer runs: sparewire connect {address}"
        ),
    )?;
    backup::remind(&home);
    let run = |shutdown| async move {
        let sleep = CancellationToken::new();
        let entrust = async {
            if let Some(entrusting) = &entrusting {
                entrusting.run(sleep.clone()).await;
            }
        };
        // The last vouchers come while consumers settle; then towers get them, and we may sleep.
        let serve = async {
            provider.run(shutdown).await;
            sleep.cancel();
        };
        tokio::join!(serve, entrust);
        endpoint.close().await;
    };
    let cut = "nothing that was signed is lost; the next `sparewire provide` goes on with open sessions, and `sparewire settle` claims what was earned";
    console.run(run, "asking consumers to settle…", cut).await?;
    eprintln!("earned vouchers are kept; `sparewire settle` claims them");
    Ok(())
}

/// A running provider, to be shown.
#[derive(Clone)]
struct Seller {
    provider: Arc<Provider>,
    entrusting: Option<Arc<Entrusting>>,
    store: Arc<dyn Store>,
    address: String,
    /// Whose gas money is spent.
    wallet: Address,
    /// Who is paid, and until when it lets us.
    delegation: Delegation,
    token: TokenInfo,
}

impl Seller {
    fn towers(&self) -> Result<Vec<TowerStatus>> {
        let Some(entrusting) = &self.entrusting else { return Ok(Vec::new()) };
        Ok(entrusting.status(|channel| self.provider.settler().settled_up_to(channel))?)
    }
}

impl Shown for Seller {
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
            "towers": self.towers()?,
            "address": self.address,
            "wallet": self.wallet,
            "payee": self.delegation.wallet,
            "delegation_expiry": self.delegation.expiry_secs,
            "token": self.token,
            "promised": promised(&*self.store, Role::Payee)?,
            "sessions": sessions,
            "leaving": self.provider.settler().leaving(),
        }))
    }

    fn figures(&self) -> Vec<Figure> {
        let live = self.provider.live();
        let sum = |of: &dyn Fn(&sparewire_protocol::Statement) -> u64| {
            live.iter().map(|live| of(&live.statement)).sum::<u64>() as f64
        };
        let promised = promised(&*self.store, Role::Payee).unwrap_or_default();
        let towers = self.towers().unwrap_or_default();
        let watched = towers.iter().map(|tower| tower.watched_units.get()).max();
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
            Figure {
                name: "delegation_left_seconds",
                help: "Until consumers turn this node down, unless its wallet's delegation is renewed",
                value: self.delegation.expiry_secs.saturating_sub(clock()().as_secs()) as f64,
            },
            Figure {
                name: "watched_units",
                help: "Held by the watchtower that holds most, in the token's smallest unit",
                value: watched.unwrap_or_default() as f64,
            },
        ]
    }

    async fn settle(&self) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(Settled::from(self.provider.settler().settle().await))?)
    }

    async fn plan(&self) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(self.provider.settler().plan().await?)?)
    }
}

/// What is promised over all channels on one side, in all.
pub(crate) fn promised(store: &dyn Store, role: Role) -> Result<Amount> {
    let channels = store.channels(role)?;
    let sum = |sum: Amount, more: Amount| sum.checked_add(more).unwrap_or(Amount::MAX);
    Ok(channels.iter().map(|channel| channel.promised()).fold(Amount::ZERO, sum))
}
