//! What is measured: a metered path and its unmetered twin, each as processes of their own.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use bytes::Bytes;
use sparewire_node::{
    exit::{AllowRule, Exit, ExitPolicy},
    plain::{self, PlainConsumer},
    proxy::Proxy,
    transport::{Endpoint, EndpointConfig, PeerAddress},
};
use sparewire_wallet::DeviceKey;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    process::{Process, beside},
    traffic,
};

/// Everything that the measurements share.
pub(crate) struct Rig {
    directory: TempDir,
    rpc: String,
    _chain: Process,
    /// Serves as many bytes as it is asked for.
    pub(crate) source: SocketAddr,
    /// Says back what it hears.
    pub(crate) echo: SocketAddr,
    count: std::cell::Cell<usize>,
}

/// A provider and a consumer.
pub(crate) struct Path {
    provider: Process,
    consumer: Process,
    pub(crate) proxy: SocketAddr,
}

impl Path {
    /// CPU seconds of both processes so far.
    pub(crate) fn cpu_secs(&self) -> Result<f64> {
        Ok(self.provider.cpu_secs()? + self.consumer.cpu_secs()?)
    }

    /// Resident memory of the provider.
    pub(crate) fn provider_rss_bytes(&self) -> Result<u64> {
        self.provider.rss_bytes()
    }
}

impl Rig {
    pub(crate) async fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let chain_dir = directory.path().join("chain");
        let chain_dir = chain_dir.to_str().context("a path in UTF-8")?;
        let arguments = ["chain", "serve", "--listen", "127.0.0.1:0", "--data-dir", chain_dir];
        let chain = Process::start(beside("sparewire")?, &arguments).await?;
        let rpc = chain.first_line.trim_start_matches("rpc").trim().to_owned();
        let (source, echo) = (traffic::source().await?, traffic::echo().await?);
        Ok(Self { directory, rpc, _chain: chain, source, echo, count: 0.into() })
    }

    /// A new provider and a new consumer with new wallets and a new channel.
    pub(crate) async fn metered(&self) -> Result<Path> {
        self.count.set(self.count.get() + 1);
        let at = |role: &str| -> Result<String> {
            let directory = self.directory.path().join(format!("{role}-{}", self.count.get()));
            Ok(directory.to_str().context("a path in UTF-8")?.to_owned())
        };
        let (provider_dir, consumer_dir) = (at("provider")?, at("consumer")?);
        for directory in [&provider_dir, &consumer_dir] {
            let arguments = ["wallet", "new", "--json", "--data-dir", directory];
            let made = Process::run(beside("sparewire")?, &arguments).await?;
            let made: serde_json::Value = serde_json::from_str(&made)?;
            let wallet = made["keys"]["wallet"].as_str().context("a wallet")?;
            let arguments =
                ["chain", "faucet", wallet, "--rpc", &self.rpc, "--data-dir", directory];
            Process::run(beside("sparewire")?, &arguments).await?;
        }
        // Thousands of short connections at once are what is measured.
        let config = "[provider]\nstreams_per_sec_max = 1000000\n";
        std::fs::write(std::path::Path::new(&provider_dir).join("config.toml"), config)?;
        let (source, echo) = (self.source.to_string(), self.echo.to_string());
        let provider = Process::start(
            beside("sparewire")?,
            &[
                "provide",
                "--listen",
                "127.0.0.1:0",
                "--allow",
                &source,
                "--allow",
                &echo,
                "--rpc",
                &self.rpc,
                "--data-dir",
                &provider_dir,
            ],
        )
        .await?;
        let consumer = Process::start(
            beside("sparewire")?,
            &[
                "connect",
                &provider.first_line,
                "--proxy",
                "127.0.0.1:0",
                "--rpc",
                &self.rpc,
                "--data-dir",
                &consumer_dir,
            ],
        )
        .await?;
        let proxy = consumer.first_line.parse()?;
        Ok(Path { provider, consumer, proxy })
    }

    /// The same without metering.
    pub(crate) async fn plain(&self) -> Result<Path> {
        let own = beside("sparewire-bench")?;
        let exit = Process::start(own.clone(), &["plain-exit"]).await?;
        let proxy = Process::start(own, &["plain-proxy", &exit.first_line]).await?;
        let addr = proxy.first_line.parse()?;
        Ok(Path { provider: exit, consumer: proxy, proxy: addr })
    }

    /// CPU seconds of both ends of a bare iroh stream that carries so much.
    pub(crate) async fn bare(&self, mib: u64) -> Result<f64> {
        let own = beside("sparewire-bench")?;
        let sender = Process::start(own.clone(), &["bare-send", &mib.to_string()]).await?;
        let receiver = Process::start(own, &["bare-receive", &sender.first_line]).await?;
        Ok(sender.cpu_secs()? + receiver.cpu_secs()?)
    }
}

async fn endpoint() -> Result<Endpoint> {
    let key = DeviceKey::random()?;
    let mut config = EndpointConfig::new(*key.secret());
    config.bind_addr = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    Ok(Endpoint::bind(config).await?)
}

fn address(endpoint: &Endpoint) -> PeerAddress {
    PeerAddress { node: endpoint.node_id(), addrs: endpoint.bound_addrs() }
}

/// Serves an unmetered exit until it is killed.
pub(crate) async fn plain_exit() -> Result<()> {
    let endpoint = endpoint().await?;
    let allow: AllowRule = "127.0.0.0/8:*".parse()?;
    let policy = ExitPolicy { allow: vec![allow], ..ExitPolicy::default() };
    println!("{}", address(&endpoint));
    plain::serve(endpoint, Exit::new(policy), CancellationToken::new()).await;
    Ok(())
}

/// Serves an unmetered proxy until it is killed.
pub(crate) async fn plain_proxy(exit: PeerAddress) -> Result<()> {
    let endpoint = endpoint().await?;
    let connection = endpoint.connect(&exit).await?;
    let proxy = Proxy::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("{}", proxy.addr());
    proxy.serve(Arc::new(PlainConsumer { connection })).await;
    Ok(())
}

/// Sends bytes over one bare stream.
pub(crate) async fn bare_send(mib: u64) -> Result<()> {
    let endpoint = endpoint().await?;
    println!("{}", address(&endpoint));
    let incoming = endpoint.accept().await.context("the endpoint is closed")?;
    let connection = incoming.handshake().await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut hello = [0; 1];
    receive.read_exact(&mut hello).await?;
    let chunk = Bytes::from(vec![7; 256 << 10]);
    for _ in 0..mib * 4 {
        send.write_chunk(chunk.clone()).await?;
    }
    send.finish();
    let _ = send.delivered().await;
    std::future::pending().await // its CPU time is read before it is killed
}

/// Receives them, and says so when it has them all.
pub(crate) async fn bare_receive(sender: PeerAddress) -> Result<()> {
    let endpoint = endpoint().await?;
    let connection = endpoint.connect(&sender).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_chunk(Bytes::from_static(b"x")).await?;
    let mut total = 0u64;
    let mut chunks = vec![Bytes::new(); 64];
    while let Some(filled) = receive.read_chunks(&mut chunks).await? {
        total += chunks[..filled].iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    }
    println!("{total} bytes");
    std::future::pending().await
}
