//! The process that runs a data directory's torrents.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use sparewire_content::{Magnet, Metainfo, TORRENT_LEN_MAX};
use sparewire_node::content::{
    AddTorrent, DiscoveryConfig, Engine, EngineConfig, EngineError, Torrent, TorrentState,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    ContentRequest, Entry, Figures, Library, Order, Purse, Settings, Source, State,
    finding::{resolve, searching, with_more, with_trackers},
    library::{hex, meant, topics},
    purse::{Terms, terms},
};
use crate::{hint::Hint, home::clock};

/// How long a torrent may take to end: what it wrote is made durable, sessions are settled.
const STOP: Duration = Duration::from_secs(90);

/// Reads a .torrent file.
pub(crate) fn read_torrent(path: &Path) -> Result<Metainfo> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mut bytes = Vec::new();
    file.take(TORRENT_LEN_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {shown}"))?;
    // Its message has its cause in it already.
    Metainfo::from_torrent(&bytes).map_err(|error| anyhow!("{shown} cannot be used: {error}"))
}

/// What is under way under one info-hash.
enum Slot {
    /// It is asked what a magnet link names.
    Looking {
        magnet: Box<Magnet>,
        order: Box<Order>,
        cancel: CancellationToken,
    },
    /// The link's torrent cannot be run.
    Lost {
        magnet: Box<Magnet>,
        order: Box<Order>,
        trouble: String,
    },
    Running {
        torrent: Arc<Torrent>,
        entry: Entry,
        had: Had,
    },
}

/// Bytes that were there once what is on disk had been looked at. Who sees that first writes it.
type Had = Arc<OnceLock<u64>>;

/// Runs torrents of a library. Who makes one holds the lock of the store.
#[derive(Clone)]
pub(crate) struct Host(Arc<Shared>);

struct Shared {
    library: Library,
    engine: Engine,
    searching: DiscoveryConfig,
    /// `None` where nothing is paid.
    purse: Option<Purse>,
    slots: Mutex<BTreeMap<String, Slot>>,
    /// One at a time changes what runs.
    changing: tokio::sync::Mutex<()>,
    changed: Notify,
    /// Another command has handed a torrent over.
    asked: AtomicBool,
}

impl Host {
    /// Starts the engine. Nothing runs yet.
    pub(crate) async fn start(
        library: Library,
        mut config: EngineConfig,
        purse: Option<Purse>,
    ) -> Result<Self> {
        config.banned_at = Some(library.banned_path());
        config.money = purse.as_ref().map(|purse| Arc::clone(&purse.money));
        let searching = config.discovery.clone();
        let engine = Engine::start(config).await.map_err(|error| match error {
            EngineError::Listen { .. } => anyhow::Error::from(
                Hint::new(error.to_string())
                    .hint("--listen 0.0.0.0:0 takes any free port; [content] listen sets another"),
            ),
            other => other.into(),
        })?;
        let (slots, changing) = (Mutex::default(), tokio::sync::Mutex::default());
        let changed = Notify::new();
        let asked = AtomicBool::new(false);
        let shared = Shared { library, engine, searching, purse, slots, changing, changed, asked };
        Ok(Self(Arc::new(shared)))
    }

    /// Where connections come in.
    pub(crate) fn listens(&self) -> SocketAddr {
        self.0.engine.listens()
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers another command on the same data directory.
    pub(crate) async fn answer(&self, request: ContentRequest) -> Result<Value> {
        Ok(match request {
            ContentRequest::Run(order) => {
                self.0.asked.store(true, Ordering::Relaxed);
                self.run(*order).await?.into()
            }
            ContentRequest::List => serde_json::to_value(self.list()?)?,
            ContentRequest::Show(which) => serde_json::to_value(self.show(&which)?)?,
            ContentRequest::Stop(which) => {
                let key = self.key(&which)?;
                self.stop(&key).await?;
                serde_json::to_value(self.show(&key)?)?
            }
            ContentRequest::Remove(which) => {
                let key = self.key(&which)?;
                self.remove(&key).await?;
                key.into()
            }
        })
    }

    /// Puts a torrent into the library and runs it; says its info-hash.
    ///
    /// # Errors
    /// Where it cannot be read or run. What was in the library stays.
    pub(crate) async fn run(&self, order: Order) -> Result<String> {
        let changing = self.0.changing.lock().await;
        match order.source.clone() {
            Source::File(path) => {
                let read = tokio::task::spawn_blocking(move || read_torrent(&path)).await??;
                self.begin(read, &order).await
            }
            Source::Magnet(link) => {
                let magnet: Magnet = link.parse()?;
                let key = hex(&magnet.hashes.handshake());
                let known = self.0.library.all()?;
                if let Some(entry) = known.iter().find(|entry| entry.topics.contains(&key)) {
                    return self.begin(self.0.library.torrent(entry)?, &order).await;
                }
                terms(self.0.purse.as_ref(), &order.settings)?;
                let peers = resolve(&order.settings.peers).await?;
                let cancel = CancellationToken::new();
                let slot = Slot::Looking {
                    magnet: Box::new(magnet.clone()),
                    order: Box::new(order.clone()),
                    cancel: cancel.clone(),
                };
                if let Some(Slot::Looking { cancel, .. }) = self.slots().insert(key.clone(), slot) {
                    cancel.cancel();
                }
                drop(changing);
                let (host, looked) = (self.clone(), key.clone());
                tokio::spawn(async move { host.look(looked, magnet, peers, order, cancel).await });
                Ok(key)
            }
        }
    }

    /// Finds out what a link names, and runs that.
    async fn look(
        self,
        key: String,
        mut magnet: Magnet,
        peers: Vec<SocketAddr>,
        order: Order,
        cancel: CancellationToken,
    ) {
        magnet.trackers.extend(order.settings.trackers.iter().cloned());
        let metainfo = tokio::select! {
            metainfo = self.0.engine.fetch(&magnet, &peers) => metainfo,
            () = cancel.cancelled() => return,
        };
        let _changing = self.0.changing.lock().await;
        if cancel.is_cancelled() {
            return;
        }
        let begun = self.begin(metainfo, &order).await;
        match begun {
            // By its v2 hash alone it was looked for under another key.
            Ok(now) if now != key => drop(self.slots().remove(&key)),
            Ok(_) => {}
            Err(error) => {
                let (trouble, order) = (format!("{error:#}"), Box::new(order));
                let slot = Slot::Lost { magnet: Box::new(magnet), order, trouble };
                self.slots().insert(key, slot);
            }
        }
        self.0.changed.notify_one();
    }

    async fn begin(&self, mut metainfo: Metainfo, order: &Order) -> Result<String> {
        let topics = topics(&metainfo);
        let key = topics[0].clone();
        let known = self.0.library.all()?.into_iter().find(|entry| entry.info_hash() == key);
        let root = match (&known, &order.root) {
            (Some(known), Some(root)) if known.root != *root => bail!(
                Hint::new(format!(
                    "{} is in the library already, below {}",
                    known.name,
                    known.root.display()
                ))
                .hint(format!("`sparewire content remove {key}` forgets it, and leaves its files"))
            ),
            (Some(known), _) => known.root.clone(),
            (None, root) => root.as_ref().unwrap_or(&order.otherwise).clone(),
        };
        let mut settings = order.settings.clone();
        let terms = terms(self.0.purse.as_ref(), &settings)?;
        let peers = resolve(&settings.peers).await?;
        if let Some(known) = &known {
            settings.peers = with_more(&known.settings.peers, &settings.peers);
            settings.trackers = with_more(&known.settings.trackers, &settings.trackers);
        }
        let entry = Entry {
            name: metainfo.name().to_owned(),
            root,
            added_ms: known.as_ref().map_or_else(|| clock()().as_ms(), |known| known.added_ms),
            stopped: false,
            topics,
            settings,
        };
        let running = self.running(&key);
        if let Some((torrent, before)) = running {
            if before.but_for_peers() == entry.but_for_peers() && !is_over(&torrent) {
                // It goes on, with its sessions, and has more peers to ask.
                if before != entry {
                    self.0.library.update(&entry)?;
                    if let Some(Slot::Running { entry: known, .. }) = self.slots().get_mut(&key) {
                        *known = entry;
                    }
                }
                peers.into_iter().for_each(|peer| torrent.add_peer(peer));
                return Ok(key);
            }
            self.end(&key).await?;
        }
        with_trackers(&mut metainfo, &entry.settings);
        std::fs::create_dir_all(&entry.root)
            .with_context(|| format!("cannot make {}", entry.root.display()))?;
        let torrent = self.add_to_engine(metainfo.clone(), &entry, &terms).await?;
        if let Err(error) = self.0.library.add(&entry, &metainfo) {
            torrent.stop();
            return Err(error);
        }
        peers.into_iter().for_each(|peer| torrent.add_peer(peer));
        let had = Had::default();
        let attend = self.clone().attend(Arc::clone(&torrent), had.clone(), entry.settings.seed);
        tokio::spawn(attend);
        self.slots().insert(key.clone(), Slot::Running { torrent, entry, had });
        Ok(key)
    }

    async fn add_to_engine(
        &self,
        metainfo: Metainfo,
        entry: &Entry,
        terms: &Terms,
    ) -> Result<Arc<Torrent>> {
        let adding = || async {
            loop {
                let add = AddTorrent {
                    metainfo: metainfo.clone(),
                    root: entry.root.clone(),
                    remembered_at: Some(self.0.library.have_path(entry)),
                    // What is only shared is never written to.
                    download: entry.settings.take_free || entry.settings.price_max.is_some(),
                    sale: terms.sale,
                    free: terms.free,
                    buying: terms.buying,
                };
                match self.0.engine.add(add).await {
                    // One that has just ended, or failed and settles its sessions.
                    Err(EngineError::Twice) => sleep(Duration::from_millis(20)).await,
                    added => return added,
                }
            }
        };
        Ok(timeout(STOP, adding()).await.unwrap_or(Err(EngineError::Twice))?)
    }

    /// Ends a torrent that is not to be shared once it is there; tells of every change.
    async fn attend(self, torrent: Arc<Torrent>, had: Had, seed: bool) {
        let mut state = torrent.state();
        loop {
            let now = state.borrow_and_update().clone();
            if now != TorrentState::Checking {
                had.get_or_init(|| torrent.status().have);
            }
            if now == TorrentState::Seeding && !seed {
                torrent.stop();
            }
            self.0.changed.notify_one();
            if matches!(now, TorrentState::Stopped) || state.changed().await.is_err() {
                return;
            }
        }
    }

    fn running(&self, key: &str) -> Option<(Arc<Torrent>, Entry)> {
        match self.slots().get(key) {
            Some(Slot::Running { torrent, entry, .. }) => {
                Some((Arc::clone(torrent), entry.clone()))
            }
            _ => None,
        }
    }

    /// The torrent that runs and that somebody means.
    pub(crate) fn torrent(&self, which: &str) -> Option<Arc<Torrent>> {
        self.running(&self.key(which).ok()?).map(|(torrent, _)| torrent)
    }

    /// Ends what runs under an info-hash, and waits until what it has is durable.
    async fn end(&self, key: &str) -> Result<()> {
        let slot = self.slots().remove(key);
        self.0.changed.notify_one();
        match slot {
            Some(Slot::Running { torrent, entry, .. }) => {
                let mut state = torrent.state();
                torrent.stop();
                let over = |state: &TorrentState| {
                    matches!(state, TorrentState::Stopped | TorrentState::Failed(_))
                };
                let ended = timeout(STOP, state.wait_for(over)).await;
                ended.ok().with_context(|| format!("{} does not end", entry.name))?.ok();
            }
            Some(Slot::Looking { cancel, .. }) => cancel.cancel(),
            Some(Slot::Lost { .. }) | None => {}
        }
        Ok(())
    }

    async fn stop(&self, key: &str) -> Result<()> {
        let _changing = self.0.changing.lock().await;
        self.end(key).await?;
        if let Some(mut entry) = self.entry(key)? {
            entry.stopped = true;
            self.0.library.update(&entry)?;
        }
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let _changing = self.0.changing.lock().await;
        self.end(key).await?;
        match self.entry(key)? {
            Some(entry) => self.0.library.remove(&entry),
            None => Ok(()),
        }
    }

    fn entry(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.0.library.all()?.into_iter().find(|entry| entry.info_hash() == key))
    }

    /// The info-hash of what somebody means.
    fn key(&self, which: &str) -> Result<String> {
        if self.slots().contains_key(which) {
            return Ok(which.to_owned());
        }
        let mut all = self.0.library.all()?;
        // Links whose torrents are not known yet are meant too.
        for (key, slot) in &*self.slots() {
            if let Slot::Looking { magnet, order, .. } | Slot::Lost { magnet, order, .. } = slot {
                all.push(Entry {
                    topics: vec![key.clone()],
                    name: magnet.name.clone().unwrap_or_default(),
                    root: order.otherwise.clone(),
                    added_ms: 0,
                    stopped: false,
                    settings: Settings::default(),
                });
            }
        }
        Ok(meant(&all, which)?.info_hash().to_owned())
    }

    /// Figures of all that is in the library, or looked for.
    pub(crate) fn list(&self) -> Result<Vec<Figures>> {
        let mut list: Vec<Figures> = Vec::new();
        for entry in self.0.library.all()? {
            list.push(self.figures_of(&entry));
        }
        for (key, slot) in &*self.slots() {
            list.extend(self.figures_of_link(key, slot));
        }
        Ok(list)
    }

    /// Figures of the one that somebody means.
    pub(crate) fn show(&self, which: &str) -> Result<Figures> {
        let key = self.key(which)?;
        let of_link = self.slots().get(&key).and_then(|slot| self.figures_of_link(&key, slot));
        match (of_link, self.entry(&key)?) {
            (Some(figures), _) => Ok(figures),
            (None, Some(entry)) => Ok(self.figures_of(&entry)),
            (None, None) => bail!("{which} is gone"),
        }
    }

    fn figures_of(&self, entry: &Entry) -> Figures {
        let running = match self.slots().get(entry.info_hash()) {
            Some(Slot::Running { torrent, had, .. }) => Some((Arc::clone(torrent), had.clone())),
            _ => None,
        };
        let Some((torrent, had)) = running else {
            return self.0.library.figures(entry);
        };
        let status = torrent.status();
        let had = if status.state == TorrentState::Checking {
            status.have
        } else {
            *had.get_or_init(|| status.have)
        };
        let metainfo = torrent.storage().metainfo();
        let (state, trouble) = match status.state {
            TorrentState::Checking => (State::Checking, None),
            TorrentState::Downloading => (State::Downloading, status.refusal),
            TorrentState::Seeding => (State::Seeding, None),
            TorrentState::Partial => (
                State::Seeding,
                Some("files are missing or were changed: what is left of them is shared".into()),
            ),
            TorrentState::Failed(error) => (State::Failed, Some(error.to_string())),
            TorrentState::Stopped => (State::Stopped, None),
        };
        Figures {
            info_hash: entry.info_hash().to_owned(),
            name: entry.name.clone(),
            state,
            trouble,
            root: entry.root.clone(),
            files: metainfo.layout().files().len(),
            have: status.have,
            total: status.total,
            had,
            sent: status.sent,
            got: status.got,
            peers: status.peers,
            spoilt: status.spoilt,
            paid: status.paid,
            earned: status.earned,
            token: self.0.purse.as_ref().map(|purse| purse.token.clone()),
            magnet: metainfo.magnet().to_string(),
            searching: searching(
                &self.0.searching,
                metainfo.trackers().iter().flatten().count(),
                metainfo.is_private(),
            ),
            settings: entry.settings.clone(),
        }
    }

    fn figures_of_link(&self, key: &str, slot: &Slot) -> Option<Figures> {
        let (magnet, order, trouble) = match slot {
            Slot::Looking { magnet, order, .. } => (magnet, order, None),
            Slot::Lost { magnet, order, trouble } => (magnet, order, Some(trouble.clone())),
            Slot::Running { .. } => return None,
        };
        let trackers = magnet.trackers.len() + order.settings.trackers.len();
        Some(Figures {
            info_hash: key.to_owned(),
            name: magnet.name.clone().unwrap_or_else(|| key.to_owned()),
            state: if trouble.is_some() { State::Failed } else { State::Looking },
            trouble,
            root: order.root.as_ref().unwrap_or(&order.otherwise).clone(),
            files: 0,
            have: 0,
            total: 0,
            had: 0,
            sent: 0,
            got: 0,
            peers: 0,
            spoilt: 0,
            paid: Default::default(),
            earned: Default::default(),
            token: None,
            magnet: magnet.to_string(),
            searching: searching(&self.0.searching, trackers, false),
            settings: order.settings.clone(),
        })
    }

    /// Runs all of the library that was not stopped. What cannot be run is told, and left.
    pub(crate) async fn run_all(&self) -> Result<usize> {
        let _changing = self.0.changing.lock().await;
        let mut running = 0;
        for entry in self.0.library.all()?.into_iter().filter(|entry| !entry.stopped) {
            let begun = async {
                let metainfo = self.0.library.torrent(&entry)?;
                let order = Order {
                    source: Source::File(PathBuf::new()),
                    root: Some(entry.root.clone()),
                    otherwise: entry.root.clone(),
                    settings: entry.settings.clone(),
                };
                self.begin(metainfo, &order).await
            };
            match begun.await {
                Ok(_) => running += 1,
                Err(error) => eprintln!("warning: {} is not run: {error:#}", entry.name),
            }
        }
        Ok(running)
    }

    /// Waits until nothing runs or is looked for any more, and where another command had something
    /// run, for so long after that that it sees it.
    pub(crate) async fn idle(&self, farewell: Duration) {
        let busy = || {
            self.slots().values().any(|slot| match slot {
                Slot::Looking { .. } => true,
                Slot::Lost { .. } => false,
                Slot::Running { torrent, .. } => !is_over(torrent),
            })
        };
        loop {
            let changed = self.0.changed.notified();
            if !busy() {
                // One that is ended to begin with other settings is not there for a moment.
                let changing = self.0.changing.lock().await;
                if !busy() && self.0.asked.swap(false, Ordering::Relaxed) {
                    drop(changing);
                    sleep(farewell).await;
                    continue;
                }
                if !busy() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Ends everything, and waits until what is there is durable. What ran is run by the next
    /// `content serve`.
    pub(crate) async fn shut_down(&self) {
        let keys: Vec<String> = self.slots().keys().cloned().collect();
        let mut ending = tokio::task::JoinSet::new();
        for key in keys {
            let host = self.clone();
            ending.spawn(async move { host.end(&key).await });
        }
        while let Some(ended) = ending.join_next().await {
            if let Ok(Err(error)) = ended {
                eprintln!("warning: {error:#}");
            }
        }
    }
}

fn is_over(torrent: &Torrent) -> bool {
    matches!(*torrent.state().borrow(), TorrentState::Stopped | TorrentState::Failed(_))
}
