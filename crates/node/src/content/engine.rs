//! All torrents of a process: where connections come in, and what torrents share.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sparewire_content::{HANDSHAKE_LEN, Handshake, InfoHashes, Magnet, Metainfo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    admission::{Admission, Free, Rate},
    bans::Bans,
    discovery::{Discovery, DiscoveryConfig},
    disk::Storage,
    fetch::fetch,
    files::{DiskError, Handles},
    money::{Buying, Money, Sale, Trading},
    torrent::Torrent,
};

/// How long a peer may take for its handshake, and a connection to come about.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the listener rests when it cannot accept, as where files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How all our peer ids begin (BEP 20).
const PEER_ID_PREFIX: &[u8; 8] = b"-SW0100-";

/// Bytes a second for all together who do not pay for what others pay for, where nothing else is
/// said: enough to be useful, and too little to be worth more than what is sold.
pub const FREE_BESIDE_SALE: u64 = 1 << 20;

/// How an engine works.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where connections are taken.
    pub listen: SocketAddr,
    /// Where peers are found.
    pub discovery: DiscoveryConfig,
    /// Most connections of all torrents together, those that are being made included.
    pub connections_max: usize,
    /// Most connections of one torrent.
    pub peers_max: usize,
    /// How many peers that do not pay are served at a time.
    pub upload_slots: usize,
    /// Bytes a second for all peers that do not pay; `None` without a bound (of what is sold:
    /// [`FREE_BESIDE_SALE`]), `Some(0)` for nothing.
    pub free_upload: Option<u64>,
    /// How often it is made durable and remembered which pieces are there.
    pub save_every: Duration,
    /// Who pays and is paid; `None` where everything is for nothing.
    pub money: Option<Arc<Money>>,
    /// Where it is remembered for a week who sent bad data; `None` forgets with the process.
    pub banned_at: Option<PathBuf>,
}

impl EngineConfig {
    /// Listens at `listen`, finds nobody by itself, and serves everybody.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            discovery: DiscoveryConfig::none(),
            connections_max: 200,
            peers_max: 50,
            upload_slots: 8,
            free_upload: None,
            save_every: Duration::from_secs(5),
            money: None,
            banned_at: None,
        }
    }
}

/// Why an engine, or a torrent, cannot start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The port is taken, or the address is not ours.
    #[error("cannot listen at {address}: {reason}; choose another address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// The torrent is running.
    #[error("the torrent is here already")]
    Twice,
    /// A magnet connection's torrent without the hashes of its pieces.
    #[error("the hashes of the torrent's pieces are not known: get its .torrent file")]
    Layers,
    /// The system has no randomness to give.
    #[error("no random numbers: {0}")]
    Random(String),
    /// Something is in the way of its files.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The engine is shutting down.
    #[error("shutting down")]
    Shutdown,
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct AddTorrent {
    /// The torrent.
    pub metainfo: Metainfo,
    /// The folder in which its files and folders are, or are to be.
    pub root: PathBuf,
    /// Where it is remembered which pieces are there; `None` to find out anew each time.
    pub remembered_at: Option<PathBuf>,
    /// Whether what is missing is downloaded. Without it nothing is ever written below `root`.
    pub download: bool,
    /// For how much it is sold; `None` where it is not.
    pub sale: Option<Sale>,
    /// Whether those are served who do not pay.
    pub free: bool,
    /// From whom it is taken.
    pub buying: Buying,
}

impl AddTorrent {
    /// For nothing: taken from everybody who gives it, and given to everybody.
    pub fn new(metainfo: Metainfo, root: PathBuf) -> Self {
        let (remembered_at, sale, buying) = (None, None, Buying::default());
        Self { metainfo, root, remembered_at, download: true, sale, free: true, buying }
    }
}

/// What torrents share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: EngineConfig,
    /// Where connections come in, as bound.
    pub(super) listens: SocketAddr,
    pub(super) peer_id: [u8; 20],
    pub(super) discovery: Arc<Discovery>,
    pub(super) handles: Arc<Handles>,
    pub(super) connections: Arc<Semaphore>,
    free: Arc<Rate>,
    /// The same for what is sold to others.
    free_beside_sale: Arc<Rate>,
    bans: Bans,
    torrents: Mutex<BTreeMap<[u8; 20], Arc<Torrent>>>,
}

/// Seconds of Unix time, as bans count it: they outlive the process.
fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Shared {
    pub(super) fn torrents(&self) -> MutexGuard<'_, BTreeMap<[u8; 20], Arc<Torrent>>> {
        self.torrents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a peer is admitted to before anything is known of it, of a torrent that is `sold` or not.
    pub(super) fn stranger(&self, sold: bool) -> Arc<dyn Admission> {
        let rate = if sold { &self.free_beside_sale } else { &self.free };
        Arc::new(Free::new(Arc::clone(rate)))
    }

    /// Whether somebody sent bad data within a week, to whichever torrent.
    pub(super) fn is_banned(&self, sender: IpAddr) -> bool {
        self.bans.has(sender, now_secs())
    }

    /// Somebody sent bad data, and is remembered.
    pub(super) fn ban(self: &Arc<Self>, sender: IpAddr) {
        self.bans.add(sender, now_secs());
        let this = Arc::clone(self);
        spawn_blocking(move || {
            if let Err(error) = this.bans.save() {
                tracing::warn!(%error, "who sent bad data will not be remembered over a restart");
            }
        });
    }

    /// Our half of a handshake. `v2`: the torrent has hash trees, and we give hashes of them.
    pub(super) fn handshake(&self, info_hash: [u8; 20], v2: bool) -> Handshake {
        Handshake {
            info_hash,
            peer_id: self.peer_id,
            extended: true,
            dht: self.config.discovery.dht.is_some(),
            fast: false,
            v2,
        }
    }
}

/// Runs torrents. Everything ends when it is dropped; [`Engine::shutdown`] also saves.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    cancel: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.cancel.cancel();
        // Each of them holds what they share.
        self.shared.torrents().clear();
    }
}

impl Engine {
    /// Listens, and starts to look for peers.
    ///
    /// # Errors
    /// [`EngineError::Listen`], [`EngineError::Random`].
    pub async fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let address = config.listen;
        let listen =
            |error: std::io::Error| EngineError::Listen { address, reason: error.to_string() };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let listens = listener.local_addr().map_err(listen)?;
        let mut peer_id = [0; 20];
        peer_id[..8].copy_from_slice(PEER_ID_PREFIX);
        getrandom::fill(&mut peer_id[8..])
            .map_err(|error| EngineError::Random(error.to_string()))?;
        let free = Arc::new(Rate::new(config.free_upload));
        // One bound for both where one was set.
        let free_beside_sale = match config.free_upload {
            Some(_) => Arc::clone(&free),
            None => Arc::new(Rate::new(Some(FREE_BESIDE_SALE))),
        };
        let shared = Arc::new(Shared {
            listens,
            peer_id,
            discovery: Arc::new(Discovery::start(config.discovery.clone()).await),
            handles: Arc::default(),
            connections: Arc::new(Semaphore::new(config.connections_max)),
            free,
            free_beside_sale,
            bans: Bans::load(config.banned_at.clone(), now_secs()),
            torrents: Mutex::default(),
            config,
        });
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (accepting, ended) = (Arc::clone(&shared), cancel.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = accept(&accepting, &listener) => {}
                () = ended.cancelled() => {}
            }
        });
        Ok(Self { shared, cancel, tasks: Mutex::new(tasks) })
    }

    /// Where it listens.
    pub fn listens(&self) -> SocketAddr {
        self.shared.listens
    }

    /// What it finds peers with.
    pub fn discovery(&self) -> &Arc<Discovery> {
        &self.shared.discovery
    }

    /// Starts a torrent: looks at what is on disk, then downloads what is missing, then seeds.
    ///
    /// # Errors
    /// [`EngineError::Twice`], [`EngineError::Disk`].
    pub async fn add(&self, add: AddTorrent) -> Result<Arc<Torrent>, EngineError> {
        let AddTorrent { metainfo, root, remembered_at, download, sale, free, buying } = add;
        let metainfo = Arc::new(metainfo);
        let topics: Vec<[u8; 20]> = metainfo.hashes().topics().collect();
        let handles = Arc::clone(&self.shared.handles);
        let opened = spawn_blocking(move || Storage::open(metainfo, &root, remembered_at, handles));
        let storage = opened.await.map_err(|_| EngineError::Shutdown)??;
        let trading = Trading::new(sale, free, buying);
        let (shared, cancel) = (Arc::clone(&self.shared), self.cancel.child_token());
        let torrent = Torrent::new(storage, shared, trading, cancel, download)?;
        {
            let mut torrents = self.shared.torrents();
            if topics.iter().any(|topic| torrents.contains_key(topic)) {
                return Err(EngineError::Twice);
            }
            torrents.extend(topics.into_iter().map(|topic| (topic, Arc::clone(&torrent))));
        }
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let running = Arc::clone(&torrent);
        tasks.spawn(async move { running.run().await });
        Ok(torrent)
    }

    /// Finds out what a magnet connection names: asks `peers`, and whoever is found. Waits for ever where
    /// nobody answers.
    pub async fn fetch(&self, magnet: &Magnet, peers: &[SocketAddr]) -> Metainfo {
        fetch(&self.shared, magnet, peers).await
    }

    /// Ends all torrents, and waits until what they have is durable.
    pub async fn shutdown(self) {
        self.cancel.cancel();
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}

/// Takes connections for ever.
async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut greeting = JoinSet::new();
    loop {
        while greeting.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("no connection taken: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // More than that are turned away: they have others to ask.
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else { continue };
        let shared = Arc::clone(shared);
        greeting.spawn(async move {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if let Err(error) = greet(&shared, stream, address, permit).await {
                tracing::debug!(%address, "no peer: {error}");
            }
        });
    }
}

/// Shakes hands with who came, and brings it to its torrent.
async fn greet(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> Result<(), super::connection::ConnectionError> {
    use super::connection::ConnectionError;

    let mut bytes = [0; HANDSHAKE_LEN];
    timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut bytes))
        .await
        .map_err(|_| ConnectionError::Silent)??;
    let theirs = Handshake::from_bytes(&bytes)?;
    let torrent = shared.torrents().get(&theirs.info_hash).cloned();
    let torrent = torrent.ok_or(ConnectionError::Nonsense("one that we do not have"))?;
    let v2 = torrent.storage().metainfo().hashes().v2().is_some();
    let ours = shared.handshake(theirs.info_hash, v2).to_bytes();
    timeout(HANDSHAKE_TIMEOUT, stream.write_all(&ours))
        .await
        .map_err(|_| ConnectionError::Silent)??;
    torrent.connected(stream, address, &theirs, false, permit);
    Ok(())
}

/// Dials a peer and shakes hands with it.
pub(super) async fn dial(
    shared: &Shared,
    address: SocketAddr,
    hashes: &InfoHashes,
) -> Result<(TcpStream, Handshake), super::connection::ConnectionError> {
    use super::connection::ConnectionError;

    let dialling = async {
        let mut stream = TcpStream::connect(address).await?;
        let ours = shared.handshake(hashes.handshake(), hashes.v2().is_some());
        stream.write_all(&ours.to_bytes()).await?;
        let mut bytes = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut bytes).await?;
        let theirs = Handshake::from_bytes(&bytes)?;
        // Of a hybrid torrent it may answer for the other half (BEP 52).
        if !hashes.answers_to(&theirs.info_hash) {
            return Err(ConnectionError::Nonsense("it answers for another"));
        }
        Ok((stream, theirs))
    };
    timeout(HANDSHAKE_TIMEOUT, dialling).await.map_err(|_| ConnectionError::Silent)?
}
