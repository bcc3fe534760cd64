//! `sparewire connect`: use somebody's line through a local proxy.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use sparewire_node::{
    consumer::{Consumer, Link},
    proxy::Proxy,
    transport::PeerAddress,
};
use sparewire_protocol::{Statement, settlement::TokenInfo};
use tokio_util::sync::CancellationToken;

use super::provide::metrics_addr;
use crate::{
    assemble::{self, interrupted},
    control::{self, Request},
    home::{Home, Node, known_token},
    metrics::{self, Figure, Figures},
    output,
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
    let metrics_at = metrics_addr(args.metrics, &home)?;

    let store = home.store()?;
    let proxy = Proxy::bind(home.config.consumer.proxy).await?;
    let (domain, token) = home.network()?;
    let keys = home.keys(args.password_file.as_deref()).await?;
    let node = Node::new(keys, &domain)?;
    let chain = home.connect(Arc::clone(&node.wallet)).await?;
    let token_info = known_token(&*chain, token).await?;
    let (consumer, endpoint) = assemble::consumer(
        &home.config.consumer,
        args.provider,
        &node,
        chain.clone(),
        store,
        token,
        token_info.decimals,
    )
    .await?;
    let shown = Shown { consumer: Arc::clone(&consumer), token: token_info.clone() };
    let answering = shown.clone();
    let _control = control::Server::start(&home.control_path(), move |request| {
        let shown = answering.clone();
        async move {
            match request {
                Request::Status => Ok(shown.status()),
                Request::Settle => {
                    anyhow::bail!("a consumer has nothing to claim; it pays as it goes")
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

    let proxy_addr = proxy.addr();
    let serving = tokio::spawn(proxy.serve(consumer.clone()));
    if json {
        output::json(&json!({ "proxy": proxy_addr, "provider": consumer.provider().to_string() }))?;
    } else {
        crate::output::out!("{proxy_addr}");
    }
    eprintln!(
        "proxy on {proxy_addr}; try: curl --proxy socks5h://{proxy_addr} http://example.com/"
    );
    tokio::spawn(tell(consumer.link(), token_info.clone()));

    let shutdown = CancellationToken::new();
    let mut running = tokio::spawn({
        let (consumer, shutdown) = (Arc::clone(&consumer), shutdown.clone());
        async move { consumer.run(shutdown).await }
    });
    let result = tokio::select! {
        result = &mut running => result,
        () = interrupted() => {
            eprintln!("settling the session…");
            shutdown.cancel();
            running.await
        }
    };
    serving.abort();
    endpoint.close().await;
    match result.context("the consumer stopped unexpectedly")? {
        Ok(statement) if json => output::json(&statement),
        Ok(statement) => {
            eprintln!("{}", sentence(&statement, &token_info));
            Ok(())
        }
        Err(sparewire_node::session::SessionError::Shutdown) => Ok(()),
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

#[derive(Clone)]
struct Shown {
    consumer: Arc<Consumer>,
    token: TokenInfo,
}

impl Shown {
    fn statement(&self) -> Option<Statement> {
        match &*self.consumer.link().borrow() {
            Link::Up(session) => session.figures(),
            _ => None,
        }
    }

    fn status(&self) -> serde_json::Value {
        let link = match &*self.consumer.link().borrow() {
            Link::Up(_) => "connected".to_owned(),
            Link::Down(Some(error)) => format!("not connected: {error}"),
            Link::Down(None) => "connecting".to_owned(),
            Link::Over(_) => "over".to_owned(),
        };
        json!({
            "role": "consumer",
            "provider": self.consumer.provider().to_string(),
            "link": link,
            "token": self.token,
            "session": self.statement(),
        })
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
}
