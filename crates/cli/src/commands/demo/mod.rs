//! `sparewire demo`: a whole bandwidth market on this machine.

mod content;
mod market;
mod origin;
mod statement;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sparewire_core::{Amount, ByteCount, Price};
use sparewire_node::{
    consumer::{Consumer, Link},
    exit::{AllowRule, Exit, ExitPolicy},
    plain::{self, PlainConsumer},
    provider::Provider,
    proxy::{Proxy, ProxyHandler},
    session::SessionError,
    transport::{Endpoint, PeerAddress},
};
use sparewire_protocol::{
    Statement,
    settlement::{Chain, TokenInfo},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{market::Party, origin::Origin, statement::Report};
use crate::{
    assemble,
    config::{ConsumerConfig, ProviderConfig, SettleConfig},
    descriptors,
    home::{Node, make_private_dir},
    interrupt::Interrupts,
    network, output,
};

/// Run a whole bandwidth market on this machine and show that it adds up.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    what: Option<DemoCommand>,
    /// End after the statement; the exit code is 0 only if all figures agree.
    #[arg(long)]
    once: bool,
    /// How much is transferred.
    #[arg(long, default_value = "256MiB")]
    size: String,
    /// Price per GiB in the test token.
    #[arg(long, default_value = "0.02")]
    price: String,
}

#[derive(Debug, Subcommand)]
enum DemoCommand {
    /// A paid swarm: one seeder, and four downloaders that also serve each other.
    Content(content::ContentDemoArgs),
}

pub(crate) async fn run(args: DemoArgs, data_dir: Option<PathBuf>, json: bool) -> Result<()> {
    if let Some(DemoCommand::Content(args)) = &args.what {
        ensure!(data_dir.is_none(), "a demo of content keeps nothing: leave --data-dir out");
        return passing(args, json).await;
    }
    let size = ByteCount::parse(&args.size).context("--size")?;
    ensure!(size > ByteCount::ZERO, "--size must be above 0");
    let price = Price::parse(&args.price, network::TOKEN_DECIMALS).context("--price")?;
    let Some(cost) = price.owed(size) else {
        bail!("--price times --size is more than a channel holds")
    };

    // One descriptor each for the application's end, the exit's and the origin's.
    let tunnels = ConsumerConfig::default().streams_max;
    descriptors::raise(3 * tunnels, &format!("{tunnels} tunnels"));

    let (dir, temporary) = match data_dir {
        Some(dir) => {
            make_private_dir(&dir)?;
            (dir, None)
        }
        None => {
            let temporary = tempfile::tempdir()?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    // From here on: a signal's own way to end the process would leave the directory behind.
    let mut interrupts = Interrupts::listen()?;
    let demo = Demo { size, cost, price: args.price, dir, keep: temporary.is_none() };
    let result = demo.run(args.once, json, &mut interrupts).await;
    if let Some(temporary) = temporary {
        remove(temporary);
    }
    result
}

/// A demo of which nothing is left.
async fn passing(args: &content::ContentDemoArgs, json: bool) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let mut interrupts = Interrupts::listen()?;
    let cut = "nothing is left of this demo; its money was test money";
    let ran = interrupts.or(cut, content::run(args, temporary.path(), json)).await;
    remove(temporary);
    ran?
}

fn remove(temporary: tempfile::TempDir) {
    let dir = temporary.path().to_owned();
    if let Err(error) = temporary.close() {
        eprintln!("warning: {} is left behind: {error}", dir.display());
    }
}

struct Demo {
    size: ByteCount,
    cost: Amount,
    price: String,
    dir: PathBuf,
    keep: bool,
}

impl Demo {
    async fn run(&self, once: bool, json: bool, interrupts: &mut Interrupts) -> Result<()> {
        let cut = match self.keep {
            true => "nothing that was signed is lost; a demo on the same --data-dir goes on",
            false => "nothing is left of this demo; its money was test money",
        };
        let (market, proxy) = interrupts.or(cut, self.measure(json)).await??;
        if !once {
            let buyer = interrupts.or(cut, market.connect(proxy)).await??;
            tokio::select! {
                () = market.stay(&buyer, json) => {}
                () = interrupts.next() => {}
            }
            if !json {
                eprintln!("settling… (Ctrl-C again: end at once)");
            }
            interrupts.or(cut, market.settle(buyer, json)).await??;
        }
        interrupts.or(cut, market.close()).await?
    }

    /// Runs the market up to its statement; returns it with the address of the proxy.
    async fn measure(&self, json: bool) -> Result<(Market, SocketAddr)> {
        let say = |text: &str| {
            if !json {
                eprintln!("{text}");
            }
        };
        say("starting an embedded EVM chain and deploying the contracts…");
        let place = network::chain_file(&self.dir);
        let embedded = network::open(place, true).await?;
        // The channel holds twice what the sample costs; the wallet twice that.
        let twice = |amount: Amount| amount.checked_add(amount).context("--price is too high");
        let channel_amount = twice(self.cost)?.max(Amount::new(1_000_000).unwrap_or_default());
        let purse = twice(channel_amount)?;
        let selling = Party::open(&self.dir.join("provider"), self.keep, &embedded, purse).await?;
        let buying = Party::open(&self.dir.join("consumer"), self.keep, &embedded, purse).await?;
        let origin = Origin::start(self.size.get()).await?;

        say("starting a provider and a consumer…");
        let config = ProviderConfig {
            listen: loopback(),
            price: self.price.clone(),
            allow: vec![origin.addr.to_string()],
            ..ProviderConfig::default()
        };
        let settle = SettleConfig::default();
        let (provider, provider_endpoint) =
            assemble::provider(&config, &settle, &selling.side).await?;
        let closing = CancellationToken::new();
        let provider_task = tokio::spawn({
            let (provider, closing) = (Arc::clone(&provider), closing.clone());
            async move { provider.run(closing).await }
        });
        let consumer_config = ConsumerConfig {
            price_max: self.price.clone(),
            channel_amount: channel_amount.display(network::TOKEN_DECIMALS),
            budget: Amount::MAX.display(network::TOKEN_DECIMALS),
            ..ConsumerConfig::default()
        };
        let market = Market {
            consumer_config,
            provider,
            provider_addr: at_loopback(&provider_endpoint),
            provider_endpoint,
            provider_task,
            closing,
            selling,
            buying,
            origin,
        };

        // The same data plane without metering first, so that both runs find the same machine.
        let unmetered = {
            let plain = Plain::start(&market.origin).await?;
            let bar = bar(self.size, "without metering", json);
            let secs =
                market.origin.fetch(plain.proxy, self.size.get(), |n| bar.set_position(n)).await?;
            bar.finish_and_clear();
            plain.stop().await;
            secs
        };

        let buyer = market.connect(loopback()).await?;
        let bar = bar(self.size, "metered and paid", json);
        let metered =
            market.origin.fetch(buyer.proxy, self.size.get(), |n| bar.set_position(n)).await?;
        bar.finish_and_clear();
        let proxy = buyer.proxy;
        say("closing the session and settling on chain…");
        let paid = buyer.finish().await?;
        let report = market.report(self.size, &paid, metered, unmetered).await?;
        if json {
            output::json(&report)?;
        } else {
            report.print(market.token());
        }
        ensure!(report.agree, "the figures do not agree");
        Ok((market, proxy))
    }
}

/// What runs from the beginning to the end of the demo.
struct Market {
    consumer_config: ConsumerConfig,
    provider: Arc<Provider>,
    provider_addr: PeerAddress,
    provider_endpoint: Endpoint,
    provider_task: JoinHandle<()>,
    closing: CancellationToken,
    selling: Party,
    buying: Party,
    origin: Origin,
}

impl Market {
    fn token(&self) -> &TokenInfo {
        &self.selling.side.token
    }

    /// Starts a consumer and its proxy, and waits for the session.
    async fn connect(&self, proxy: SocketAddr) -> Result<Buyer> {
        let (consumer, endpoint) = assemble::consumer(
            &self.consumer_config,
            self.provider_addr.clone(),
            false,
            &self.buying.side,
        )
        .await?;
        let proxy = Proxy::bind(proxy).await?;
        let addr = proxy.addr();
        let handler: Arc<dyn ProxyHandler> = consumer.clone();
        let serving = tokio::spawn(proxy.serve(handler));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let (consumer, shutdown) = (Arc::clone(&consumer), shutdown.clone());
            async move { consumer.run(shutdown).await }
        });
        ready(&consumer).await?;
        Ok(Buyer { endpoint, proxy: addr, serving, shutdown, running })
    }

    /// Claims what was earned and holds all figures against each other.
    async fn report(
        &self,
        size: ByteCount,
        paid: &Statement,
        metered: f64,
        unmetered: f64,
    ) -> Result<Report> {
        self.provider.settler().settle().await?;
        let session = paid.session;
        let earned = self
            .selling
            .side
            .store
            .session(session)?
            .and_then(|known| known.statement)
            .context("the provider has no statement of the session")?;
        let facts = self.selling.chain.channel(paid.channel).await?;
        let claimed = facts.context("the chain does not know the channel")?.claimed;
        let mut gas = self.buying.chain.done();
        gas.extend(self.selling.chain.done());
        Ok(Report::new(size, paid.clone(), earned, claimed, gas, metered, unmetered))
    }

    /// Shows live figures until dropped.
    async fn stay(&self, buyer: &Buyer, json: bool) {
        if !json {
            eprintln!("\nThe market stays up. Use it, or stop it with Ctrl-C:\n");
            output::out!(
                "curl --proxy socks5h://{} http://{}/sample --output /dev/null",
                buyer.proxy,
                self.origin.addr
            );
            eprintln!();
        }
        let live = if json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Some(figures) = self.provider.live().first().map(|live| &live.statement) {
                let total = figures.counted.checked_total().unwrap_or_default().get();
                live.set_message(format!(
                    "{} up, {} down ({} a second), {} paid, exposure peak {} of {}",
                    figures.counted.up,
                    figures.counted.down,
                    ByteCount::new(total.saturating_sub(before)),
                    output::amount(figures.paid, self.token()),
                    figures.exposure_peak,
                    figures.exposure_bound,
                ));
                before = total;
                live.tick();
            }
        }
    }

    /// Ends the consumer's session and claims what it paid.
    async fn settle(&self, buyer: Buyer, json: bool) -> Result<()> {
        let paid = buyer.finish().await?;
        self.provider.settler().settle().await?;
        if !json {
            eprintln!("{}", super::connect::sentence(&paid, self.token()));
        }
        Ok(())
    }

    /// Ends the provider.
    async fn close(self) -> Result<()> {
        self.closing.cancel();
        self.provider_task.await?;
        self.provider_endpoint.close().await;
        Ok(())
    }
}

/// Waits for a consumer's session.
async fn ready(consumer: &Consumer) -> Result<()> {
    let mut link = consumer.link();
    let wait = link.wait_for(|link| !matches!(link, Link::Down(_)));
    let link = tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .context("no session within a minute")??;
    match &*link {
        Link::Over(Err(error)) => Err(error.clone().into()),
        _ => Ok(()),
    }
}

/// A running consumer with its proxy.
struct Buyer {
    endpoint: Endpoint,
    proxy: SocketAddr,
    serving: JoinHandle<()>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<Statement, SessionError>>,
}

impl Buyer {
    /// Ends the session properly.
    async fn finish(self) -> Result<Statement> {
        self.shutdown.cancel();
        let statement = self.running.await??;
        self.serving.abort();
        self.endpoint.close().await;
        Ok(statement)
    }
}

/// The unmetered twin of the market.
struct Plain {
    proxy: SocketAddr,
    endpoints: [Endpoint; 2],
    tasks: [JoinHandle<()>; 2],
}

impl Plain {
    async fn start(origin: &Origin) -> Result<Self> {
        let domain = network::contracts().domain;
        let (seller, buyer) = (Node::passing(&domain)?, Node::passing(&domain)?);
        let exit_endpoint = assemble::bind(&seller, Some(loopback())).await?;
        let own_endpoint = assemble::bind(&buyer, None).await?;
        let policy = ExitPolicy { allow: vec![AllowRule::addr(origin.addr)], ..Default::default() };
        let serving = tokio::spawn(plain::serve(
            exit_endpoint.clone(),
            Exit::new(policy),
            CancellationToken::new(),
        ));
        let connection = own_endpoint.connect(&at_loopback(&exit_endpoint)).await?;
        let proxy = Proxy::bind(loopback()).await?;
        let addr = proxy.addr();
        let proxying = tokio::spawn(proxy.serve(Arc::new(PlainConsumer { connection })));
        Ok(Self {
            proxy: addr,
            endpoints: [exit_endpoint, own_endpoint],
            tasks: [serving, proxying],
        })
    }

    async fn stop(self) {
        for task in &self.tasks {
            task.abort();
        }
        for endpoint in &self.endpoints {
            endpoint.close().await;
        }
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The endpoint's address on this machine.
fn at_loopback(endpoint: &Endpoint) -> PeerAddress {
    let addrs = endpoint.bound_addrs().into_iter().filter(|addr| addr.ip().is_loopback()).collect();
    PeerAddress { node: endpoint.node_id(), addrs }
}

fn bar(size: ByteCount, what: &'static str, json: bool) -> ProgressBar {
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(size.get()) };
    let style = "{msg:>18} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
    bar.set_message(what);
    bar
}
