//! Where peers are found: trackers, the mainline DHT, the local network.
//!
//! A torrent is written by strangers: what it names must not make us talk to machines in our own
//! network. Names are resolved here, and addresses that are not public are left out, unless the
//! configuration allows them.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use librqbit_core::hash_id::Id20;
use librqbit_lsd::{LocalServiceDiscovery, LocalServiceDiscoveryOptions};
use librqbit_tracker_comms::{
    TorrentStatsProvider, TrackerComms, TrackerCommsStats, TrackerCommsStatsState, UdpTrackerClient,
};
use mainline::async_dht::AsyncDht;
use sparewire_content::Announce;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::http_tracker::HttpTrackers;
use crate::exit::is_public;

/// How many addresses wait for a torrent; who finds more waits.
const FOUND_MAX: usize = 64;
/// Most trackers of a torrent that are asked.
const TRACKERS_MAX: usize = 32;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a look-up in the DHT may take.
const DHT_TIMEOUT: Duration = Duration::from_secs(60);

/// Which ways are used.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Ask the trackers that a torrent names.
    pub trackers: bool,
    /// How often HTTP trackers are asked; most want every half hour. UDP trackers say how often.
    pub announce_every: Duration,
    /// Take part in the mainline DHT.
    pub dht: Option<DhtConfig>,
    /// Find peers in the local network by multicast (BEP 14).
    pub local_discovery: bool,
    /// Learn peers from peers, and tell them of others, this often (BEP 11: a minute at least).
    pub peer_exchange: Option<Duration>,
    /// Trackers, and peers that strangers name, may have addresses that are not public.
    pub private_addresses: bool,
}

impl DiscoveryConfig {
    /// No way at all: peers are named by whoever runs the engine, or come by themselves.
    pub fn none() -> Self {
        Self {
            trackers: false,
            announce_every: Duration::from_secs(30 * 60),
            dht: None,
            local_discovery: false,
            peer_exchange: None,
            private_addresses: false,
        }
    }
}

/// How the DHT is taken part in.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// Nodes to begin with (`host:port`). Without any, others have to find us.
    pub bootstrap: Vec<String>,
    /// Where to listen; `None` for all addresses.
    pub bind: Option<Ipv4Addr>,
    /// UDP port; `None` for any.
    pub port: Option<u16>,
    /// How often a torrent is looked up and announced.
    pub every: Duration,
    /// Answer others from the start, before it is known that they can reach us.
    pub server: bool,
}

/// Who told of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Whoever runs the engine.
    Named,
    /// A tracker of the torrent.
    Tracker,
    /// The mainline DHT.
    Dht,
    /// The local network.
    Local,
    /// Another peer.
    Exchange,
}

/// What is looked for.
pub struct Wanted {
    /// As trackers, DHT and peers know the torrent.
    pub info_hash: [u8; 20],
    /// Ours, in this torrent.
    pub peer_id: [u8; 20],
    /// URLs of trackers.
    pub trackers: Vec<String>,
    /// BEP 27: trackers only.
    pub private: bool,
    /// Where we take connections.
    pub port: u16,
    /// What trackers are told of our progress.
    pub progress: Arc<dyn Progress>,
}

impl Wanted {
    /// What trackers are told now.
    fn announce(&self) -> Announce {
        let (uploaded, downloaded, total) = self.progress.bytes();
        Announce {
            info_hash: self.info_hash,
            peer_id: self.peer_id,
            port: self.port,
            uploaded,
            downloaded,
            left: total.saturating_sub(downloaded),
            started: false,
        }
    }
}

/// A torrent's progress, for trackers.
pub trait Progress: Send + Sync {
    /// Bytes sent, bytes got and bytes in all.
    fn bytes(&self) -> (u64, u64, u64);
}

/// What all torrents share of it.
pub struct Discovery {
    config: DiscoveryConfig,
    trackers: Option<(HttpTrackers, UdpTrackerClient)>,
    dht: Option<AsyncDht>,
    local: Option<LocalServiceDiscovery>,
    cancelled: CancellationToken,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Discovery").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

impl Discovery {
    /// Starts the ways that `config` names. One that cannot be had is left out, with a warning: the
    /// others still find peers.
    pub async fn start(config: DiscoveryConfig) -> Self {
        let cancelled = CancellationToken::new();
        let mut trackers = None;
        if config.trackers {
            let udp = UdpTrackerClient::new(cancelled.clone(), None).await;
            match (HttpTrackers::new(config.private_addresses), udp) {
                (Ok(http), Ok(udp)) => trackers = Some((http, udp)),
                (Err(error), _) => tracing::warn!("no trackers: {error}"),
                (_, Err(error)) => tracing::warn!("no trackers: {error:#}"),
            }
        }
        let mut dht = None;
        if let Some(wanted) = config.dht.clone() {
            // Resolves names, and waits for a thread to start.
            let started = tokio::task::spawn_blocking(move || start_dht(&wanted)).await;
            match started {
                Ok(Ok(started)) => dht = Some(started),
                Ok(Err(error)) => tracing::warn!("no DHT: {error}"),
                Err(error) => tracing::warn!("no DHT: {error}"),
            }
        }
        let mut local = None;
        if config.local_discovery {
            let options = LocalServiceDiscoveryOptions {
                cancel_token: cancelled.clone(),
                ..LocalServiceDiscoveryOptions::default()
            };
            local = LocalServiceDiscovery::new(options)
                .await
                .inspect_err(|error| tracing::warn!("no local discovery: {error:#}"))
                .ok();
        }
        Self { config, trackers, dht, local, cancelled }
    }

    /// The configuration it was started with.
    pub fn config(&self) -> &DiscoveryConfig {
        &self.config
    }

    /// Where our node of the DHT listens.
    pub async fn dht_port(&self) -> Option<u16> {
        Some(self.dht.as_ref()?.info().await.local_addr().port())
    }

    /// Whether an address may be dialled that `source` told of.
    pub fn may_dial(&self, address: SocketAddr, source: Source) -> bool {
        let ip = address.ip();
        if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
            return false;
        }
        match source {
            Source::Named | Source::Local => true,
            Source::Tracker | Source::Dht | Source::Exchange => {
                self.config.private_addresses || is_public(ip)
            }
        }
    }

    /// Looks for peers until what is returned is dropped.
    pub fn find(self: &Arc<Self>, wanted: Wanted) -> Finding {
        let (sender, found) = mpsc::channel(FOUND_MAX);
        let mut tasks = JoinSet::new();
        let wanted = Arc::new(wanted);
        if self.trackers.is_some() && !wanted.trackers.is_empty() {
            let (this, wanted, found) = (Arc::clone(self), Arc::clone(&wanted), sender.clone());
            tasks.spawn(async move { this.ask_trackers(wanted, found).await });
        }
        if self.dht.is_some() && !wanted.private {
            let (this, wanted, found) = (Arc::clone(self), Arc::clone(&wanted), sender.clone());
            tasks.spawn(async move { this.ask_dht(&wanted, found).await });
        }
        if let Some(local) = self.local.as_ref().filter(|_| !wanted.private) {
            let stream = local.announce(Id20::new(wanted.info_hash), Some(wanted.port));
            let this = Arc::clone(self);
            tasks.spawn(async move { this.pass_on(stream, Source::Local, &sender).await });
        }
        Finding { found, _tasks: tasks }
    }

    async fn pass_on(
        &self,
        stream: impl Stream<Item = SocketAddr>,
        source: Source,
        found: &mpsc::Sender<(SocketAddr, Source)>,
    ) {
        let mut stream = std::pin::pin!(stream);
        while let Some(address) = stream.next().await {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if self.may_dial(address, source) && found.send((address, source)).await.is_err() {
                return;
            }
        }
    }

    async fn ask_trackers(
        self: &Arc<Self>,
        wanted: Arc<Wanted>,
        found: mpsc::Sender<(SocketAddr, Source)>,
    ) {
        let mut trackers = HashSet::new();
        for text in wanted.trackers.iter().take(TRACKERS_MAX) {
            match self.checked(text).await {
                Ok(urls) => trackers.extend(urls),
                Err(reason) => tracing::warn!(tracker = %text, "not asked: {reason}"),
            }
        }
        let Some((http, udp)) = self.trackers.clone() else { return };
        let (of_udp, of_http): (HashSet<Url>, HashSet<Url>) =
            trackers.into_iter().partition(|url| url.scheme() == "udp");
        let (named, mut peers) = mpsc::channel(FOUND_MAX);
        let mut tasks = JoinSet::new();
        for url in of_http {
            let wanted = Arc::clone(&wanted);
            let every = self.config.announce_every;
            let now = move || wanted.announce();
            tasks.spawn(http.clone().follow(url, every, now, named.clone()));
        }
        drop(named);
        let by_http = futures_util::stream::poll_fn(|context| peers.poll_recv(context));
        let by_udp = TrackerComms::start(
            Id20::new(wanted.info_hash),
            Id20::new(wanted.peer_id),
            of_udp,
            Box::new(Told(Arc::clone(&wanted.progress))),
            None,
            wanted.port,
            http.client(),
            udp,
        );
        let by_udp = futures_util::stream::iter(by_udp).flatten();
        let all = futures_util::stream::select(by_http, by_udp);
        self.pass_on(all, Source::Tracker, &found).await;
    }

    /// The URLs under which a tracker may be asked. A UDP tracker's name is resolved here, and
    /// asked by its address; an HTTP tracker's name by the client's own resolver, which checks.
    async fn checked(&self, text: &str) -> Result<Vec<Url>, &'static str> {
        const PRIVATE: &str = "its address is not public (see `private_addresses`)";
        let url = Url::parse(text).map_err(|_| "not a URL")?;
        let allowed = |ip: IpAddr| self.config.private_addresses || is_public(ip);
        let literal = match url.host() {
            None => return Err("it names no host"),
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        };
        if literal.is_some_and(|ip| !allowed(ip)) {
            return Err(PRIVATE);
        }
        match (url.scheme(), literal) {
            ("http" | "https", _) | ("udp", Some(_)) => Ok(vec![url]),
            ("udp", None) => {
                let port = url.port().ok_or("it names no port")?;
                let name = url.host_str().unwrap_or_default();
                let looked_up = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, port)));
                let Ok(Ok(addresses)) = looked_up.await else {
                    return Err("its name leads nowhere");
                };
                let mut urls = Vec::new();
                let (mut v4, mut v6) = (false, false);
                for address in addresses.filter(|address| allowed(address.ip())) {
                    // One of each family, as the name would give.
                    let seen = if address.is_ipv4() { &mut v4 } else { &mut v6 };
                    if !std::mem::replace(seen, true) {
                        urls.extend(Url::parse(&format!("udp://{address}")));
                    }
                }
                if urls.is_empty() { Err(PRIVATE) } else { Ok(urls) }
            }
            _ => Err("only http, https and udp are known"),
        }
    }

    async fn ask_dht(&self, wanted: &Wanted, found: mpsc::Sender<(SocketAddr, Source)>) {
        let (Some(dht), Some(config)) = (&self.dht, &self.config.dht) else { return };
        let id = mainline::Id::from(wanted.info_hash);
        loop {
            let look = async {
                let mut peers = dht.get_peers(id);
                while let Some(addresses) = peers.next().await {
                    let addresses = addresses.into_iter().map(SocketAddr::V4);
                    self.pass_on(futures_util::stream::iter(addresses), Source::Dht, &found).await;
                }
            };
            // A node that never answers must not keep us from announcing.
            let _ = timeout(DHT_TIMEOUT, look).await;
            let announced = timeout(DHT_TIMEOUT, dht.announce_peer(id, Some(wanted.port))).await;
            if let Ok(Err(error)) = announced {
                tracing::debug!("not announced in the DHT: {error}");
            }
            tokio::time::sleep(config.every).await;
        }
    }
}

/// Peers as they are found; ends the search when dropped.
#[derive(Debug)]
pub struct Finding {
    found: mpsc::Receiver<(SocketAddr, Source)>,
    _tasks: JoinSet<()>,
}

impl Finding {
    /// The next address; `None` when nobody looks any more.
    pub async fn next(&mut self) -> Option<(SocketAddr, Source)> {
        self.found.recv().await
    }
}

struct Told(Arc<dyn Progress>);

impl TorrentStatsProvider for Told {
    fn get(&self) -> TrackerCommsStats {
        let (uploaded_bytes, downloaded_bytes, total_bytes) = self.0.bytes();
        TrackerCommsStats {
            uploaded_bytes,
            downloaded_bytes,
            total_bytes,
            torrent_state: TrackerCommsStatsState::Live,
        }
    }
}

fn start_dht(config: &DhtConfig) -> std::io::Result<AsyncDht> {
    let mut builder = mainline::Dht::builder();
    if config.bootstrap.is_empty() {
        builder.no_bootstrap();
    } else {
        builder.bootstrap(&config.bootstrap);
    }
    if let Some(port) = config.port {
        builder.port(port);
    }
    if let Some(bind) = config.bind {
        builder.bind_address(bind);
    }
    if config.server {
        builder.server_mode();
    }
    Ok(builder.build()?.as_async())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn discovery(private_addresses: bool) -> Discovery {
        Discovery::start(DiscoveryConfig { private_addresses, ..DiscoveryConfig::none() }).await
    }

    #[tokio::test]
    async fn a_tracker_in_our_own_network_is_not_asked_unless_the_configuration_says_so() {
        let careful = discovery(false).await;
        let trusting = discovery(true).await;
        for url in [
            "http://127.0.0.1:8080/announce",
            "https://[::1]/announce",
            "http://192.168.1.1/setup.cgi?do=reset",
            "udp://10.0.0.1:53",
            "udp://localhost:6881",
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:192.168.1.1]/x",
            "http://2130706433/x", // 127.0.0.1 as browsers read it
        ] {
            assert!(careful.checked(url).await.is_err(), "{url}");
            assert!(trusting.checked(url).await.is_ok(), "{url}");
        }
        for url in ["", "x", "ftp://1.1.1.1/x", "udp://1.1.1.1", "http:", "wss://1.1.1.1/x"] {
            assert!(trusting.checked(url).await.is_err(), "{url}");
        }
        assert!(careful.checked("http://1.1.1.1/announce").await.is_ok());
    }

    #[tokio::test]
    async fn peers_in_our_own_network_are_dialled_only_where_they_were_named_or_found_there() {
        let careful = discovery(false).await;
        let near: SocketAddr = "192.168.1.7:6881".parse().unwrap();
        for (source, may) in [
            (Source::Named, true),
            (Source::Local, true),
            (Source::Tracker, false),
            (Source::Dht, false),
            (Source::Exchange, false),
        ] {
            assert_eq!(careful.may_dial(near, source), may, "{source:?}");
            assert!(careful.may_dial("1.1.1.1:6881".parse().unwrap(), source));
            assert!(!careful.may_dial("1.1.1.1:0".parse().unwrap(), source));
            assert!(!careful.may_dial("0.0.0.0:1".parse().unwrap(), source));
        }
        assert!(discovery(true).await.may_dial(near, Source::Tracker));
    }
}
