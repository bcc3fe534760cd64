//! `sparewire connect`: use somebody's line through a local proxy.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use sparewire_node::{
    consumer::{Consumer, Link},
    proxy::Proxy,
    session::SessionError,
    transport::PeerAddress,
};
use sparewire_protocol::{Statement, settlement::TokenInfo};

use crate::{
    assemble, backup,
    console::{Console, Shown},
    descriptors,
    home::Home,
    metrics::{self, Figure},
    output,
    side::Side,
};

/// Use a provider's line through a local proxy.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The provider, as its `provide` prints it: <node-id>@<ip>:<port>.
    provider: PeerAddress,
    /// Where the proxy listens (SOCKS5 and HTTP CONNECT on one port).
    #[arg(long)]
    proxy: Option<SocketAddr>,
    /// The dearest price per GiB that is accepted, in the token.
    #[arg(long)]
    max_price: Option<String>,
    /// The most that all channels may hold and have spent together, in the token.
    #[arg(long)]
    budget: Option<String>,
    /// What is put into a new channel, in the token.
    #[arg(long)]
    channel_amount: Option<String>,
    /// Deal with a provider that signed two receipts with one number all the same, over a new
    /// channel: the one over which it did stays frozen.
    #[arg(long)]
    forgive: bool,
    /// Where Prometheus metrics are served.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// A file with the keystore's password.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

pub(crate) async fn run(args: ConnectArgs, mut home: Home, json: bool) -> Result<()> {
    let config = &mut home.config.consumer;
    config.proxy = args.proxy.unwrap_or(config.proxy);
    config.price_max = args.max_price.unwrap_or(config.price_max.clone());
    config.budget = args.budget.unwrap_or(config.budget.clone());
    config.channel_amount = args.channel_amount.unwrap_or(config.channel_amount.clone());
    let metrics_at = metrics::addr(args.metrics, &home.config.metrics)?;

    let tunnels = home.config.consumer.streams_max;
    descriptors::raise(tunnels, &format!("{tunnels} tunnels"));

    let proxy = Proxy::bind(home.config.consumer.proxy).await?;
    let (side, carrier) = Side::open_to_stay(&home, args.password_file.as_deref()).await?;
    // Revoked or not: its provider says so in the handshake. Here it counts that there is a registry.
    side.own_standing().await?;
    let (consumer, endpoint) =
        assemble::consumer(&home.config.consumer, args.provider, args.forgive, &side).await?;
    let token = side.token;
    let buyer = Buyer { consumer: Arc::clone(&consumer), token: token.clone() };
    let console = Console::open(&home, metrics_at, buyer, Some(carrier)).await?;

    let proxy_addr = proxy.addr();
    let serving = tokio::spawn(proxy.serve(consumer.clone()));
    console.ready(
        json,
        &proxy_addr.to_string(),
        &json!({ "proxy": proxy_addr, "provider": consumer.provider().to_string() }),
        &format!(
            "proxy on {proxy_addr}; try: curl --proxy socks5h://{proxy_addr} http://example.com/"
        ),
    )?;
    tokio::spawn(tell(consumer.link(), token.clone()));
    backup::remind(&home);
    let run = |shutdown| async move {
        let result = consumer.run(shutdown).await;
        serving.abort();
        endpoint.close().await;
        result
    };
    let cut =
        "nothing that was signed is lost; the next `sparewire connect` goes on with the session";
    match console.run(run, "settling the session…", cut).await? {
        Ok(statement) if json => output::json(&statement),
        Ok(statement) => {
            eprintln!("{}", sentence(&statement, &token));
            Ok(())
        }
        Err(SessionError::Shutdown) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Says on stderr when the connection comes and goes.
async fn tell(mut link: tokio::sync::watch::Receiver<Link>, token: TokenInfo) {
    loop {
        let line = match &*link.borrow_and_update() {
            Link::Up(session) => {
                let terms = session.terms();
                format!(
                    "connected: {}, credit {} to {}",
                    output::price(terms.price, &token),
                    terms.credit.initial,
                    terms.credit.maximum
                )
            }
            Link::Down(Some(error)) => {
                format!("not connected: {}", output::tame(&error.to_string()))
            }
            Link::Down(None) => "connecting…".to_owned(),
            Link::Over(_) => return,
        };
        eprintln!("{line}");
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// A session in one sentence.
pub(crate) fn sentence(statement: &Statement, token: &TokenInfo) -> String {
    format!(
        "session {} settled: {} up, {} down, {} paid with {} payments and {} receipts",
        output::short(&statement.session),
        statement.counted.up,
        statement.counted.down,
        output::amount(statement.paid, token),
        statement.payments,
        statement.receipts
    )
}

/// A running consumer, to be shown.
#[derive(Clone)]
struct Buyer {
    consumer: Arc<Consumer>,
    token: TokenInfo,
}

impl Buyer {
    fn statement(&self) -> Option<Statement> {
        match &*self.consumer.link().borrow() {
            Link::Up(session) => session.figures(),
            _ => None,
        }
    }
}

impl Shown for Buyer {
    fn status(&self) -> Result<serde_json::Value> {
        let link = match &*self.consumer.link().borrow() {
            Link::Up(_) => "connected".to_owned(),
            Link::Down(Some(error)) => format!("not connected: {error}"),
            Link::Down(None) => "connecting".to_owned(),
            Link::Over(_) => "over".to_owned(),
        };
        Ok(json!({
            "role": "consumer",
            "provider": self.consumer.provider().to_string(),
            "link": link,
            "token": self.token,
            "session": self.statement(),
        }))
    }

    fn figures(&self) -> Vec<Figure> {
        let statement = self.statement();
        let of = |read: &dyn Fn(&Statement) -> u128| statement.as_ref().map_or(0, read) as f64;
        vec![
            Figure {
                name: "connected",
                help: "Whether a session is running",
                value: f64::from(u8::from(statement.is_some())),
            },
            Figure {
                name: "session_up_bytes",
                help: "Bytes sent up in the running session",
                value: of(&|s| s.counted.up.get().into()),
            },
            Figure {
                name: "session_down_bytes",
                help: "Bytes received in the running session",
                value: of(&|s| s.counted.down.get().into()),
            },
            Figure {
                name: "session_paid_units",
                help: "Paid in the running session, in the token's smallest unit",
                value: of(&|s| s.paid.get()),
            },
        ]
    }

    async fn settle(&self) -> Result<serde_json::Value> {
        bail!("a consumer has nothing to claim; it pays as it goes")
    }

    async fn plan(&self) -> Result<serde_json::Value> {
        self.settle().await
    }
}
