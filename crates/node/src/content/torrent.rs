//! One torrent that is downloaded or seeded: its connections, its download machine, its storage.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sparewire_content::{
    BLOCK_LEN, Bitfield, Block, Extended, ExtensionHandshake, ExtensionIds, Handshake, Metadata,
    PeerMessage, Pex,
};
use sparewire_core::{Amount, Price};
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    admission::{Admission, Free, Rate},
    candidates::Candidates,
    connection::{Connection, ConnectionError},
    discovery::{Progress, Source, Wanted},
    disk::Storage,
    download,
    engine::{EngineError, Shared, dial},
    files::DiskError,
    intake::{Intake, Landed, Outcome},
    leaves::{Answer, Leaves},
    money::{Money, Trading},
    outbox::REQUESTS_MAX,
    swarm::{Errand, Swarm},
    upload,
};

/// How often the download machine is told that time goes on.
const TICK: Duration = Duration::from_millis(100);
/// How often places for those who do not pay are given to others who wait for one.
const TURN: Duration = Duration::from_secs(20);
/// Dials under way at a time.
const DIALS_MAX: usize = 16;
/// Most others that one message tells of (BEP 11).
const EXCHANGE_PEERS_MAX: usize = 50;

/// Where a torrent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TorrentState {
    /// What is on disk is looked at.
    Checking,
    /// Pieces are missing.
    Downloading,
    /// All is there.
    Seeding,
    /// Not all is there, and nothing is written: it was not to be downloaded, or files were changed
    /// after they had been complete. What is there is served.
    Partial,
    /// Something is wrong with its files: it stands still until it is started again.
    Failed(DiskError),
    /// It was ended.
    Stopped,
}

/// A torrent's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorrentStatus {
    /// Where it stands.
    pub state: TorrentState,
    /// Bytes of data in pieces that are there.
    pub have: u64,
    /// Bytes of data in all.
    pub total: u64,
    /// Bytes of blocks sent since the start.
    pub sent: u64,
    /// Bytes of blocks that came since the start.
    pub got: u64,
    /// Connections.
    pub peers: usize,
    /// How often a piece was found changed on disk when somebody asked for it.
    pub spoilt: u64,
    /// What was paid for it since the start, in the token's smallest units.
    pub paid: Amount,
    /// What it earned since the start, in the same.
    pub earned: Amount,
    /// Why nothing was bought of somebody, last.
    pub refusal: Option<String>,
}

/// A torrent that runs in an [`super::Engine`].
#[derive(Debug)]
pub struct Torrent {
    storage: Arc<Storage>,
    intake: Intake,
    leaves: Arc<Leaves>,
    shared: Arc<Shared>,
    trading: Trading,
    download: bool,
    /// `None` until it is known what is on disk.
    swarm: Mutex<Option<Swarm>>,
    candidates: Mutex<Candidates>,
    /// There may be somebody to dial.
    dialable: Notify,
    state: watch::Sender<TorrentState>,
    cancel: CancellationToken,
    conversations: Mutex<JoinSet<()>>,
    next_number: AtomicU64,
    sent: AtomicU64,
    got: AtomicU64,
    spoilt: AtomicU64,
    /// How often places have been given anew.
    turns: AtomicU64,
}

/// The lock, whoever panicked with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Torrent {
    pub(super) fn new(
        storage: Storage,
        shared: Arc<Shared>,
        trading: Trading,
        cancel: CancellationToken,
        download: bool,
    ) -> Result<Arc<Self>, EngineError> {
        if storage.metainfo().missing_layers().next().is_some() {
            return Err(EngineError::Layers);
        }
        let storage = Arc::new(storage);
        Ok(Arc::new(Self {
            intake: Intake::new(Arc::clone(&storage)),
            leaves: Arc::new(Leaves::new(Arc::clone(&storage))),
            storage,
            shared,
            trading,
            download,
            swarm: Mutex::new(None),
            candidates: Mutex::default(),
            dialable: Notify::new(),
            state: watch::Sender::new(TorrentState::Checking),
            cancel,
            conversations: Mutex::default(),
            next_number: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            got: AtomicU64::new(0),
            spoilt: AtomicU64::new(0),
            turns: AtomicU64::new(1),
        }))
    }

    /// Its pieces on disk.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    pub(super) fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Where it stands, now and whenever that changes.
    pub fn state(&self) -> watch::Receiver<TorrentState> {
        self.state.subscribe()
    }

    /// Its figures now.
    pub fn status(&self) -> TorrentStatus {
        let (have, total) = self.storage.progress();
        let (paid, earned) = self.money_moved();
        TorrentStatus {
            state: self.state.borrow().clone(),
            have,
            total,
            sent: self.sent.load(Ordering::Relaxed),
            got: self.got.load(Ordering::Relaxed),
            peers: lock(&self.swarm).as_ref().map_or(0, Swarm::peers),
            spoilt: self.spoilt.load(Ordering::Relaxed),
            paid,
            earned,
            refusal: self.trading.refusal(),
        }
    }

    /// What was paid and earned.
    fn money_moved(&self) -> (Amount, Amount) {
        let swarm = lock(&self.swarm);
        let connections = swarm.iter().flat_map(|swarm| swarm.connections());
        let add = |sum: Amount, more| sum.checked_add(more).unwrap_or(Amount::MAX);
        connections.filter_map(|connection| connection.trade()).fold(
            self.trading.before(),
            |sum, trade| {
                let (paid, earned) = trade.figures();
                (add(sum.0, paid), add(sum.1, earned))
            },
        )
    }

    pub(super) fn trading(&self) -> &Trading {
        &self.trading
    }

    pub(super) fn money(&self) -> Option<&Arc<Money>> {
        self.shared.config.money.as_ref()
    }

    pub(super) fn info_hash(&self) -> [u8; 20] {
        self.storage.metainfo().hashes().handshake()
    }

    pub(super) fn peer_id(&self) -> [u8; 20] {
        self.shared.peer_id
    }

    /// Whether all pieces are there.
    pub(super) fn is_complete(&self) -> bool {
        self.storage.held().is_all()
    }

    /// What somebody is admitted to of whom nothing is known.
    fn stranger(&self) -> Arc<dyn Admission> {
        match self.trading.free {
            true => self.shared.stranger(),
            false => Arc::new(Free::new(Arc::new(Rate::new(Some(0))))),
        }
    }

    /// Names a peer to connect to.
    pub fn add_peer(&self, address: SocketAddr) {
        lock(&self.candidates).add(address, Source::Named, Instant::now());
        self.dialable.notify_one();
    }

    /// Ends it. What is there is saved before [`TorrentState::Stopped`] is said.
    pub fn stop(&self) {
        self.cancel.cancel();
    }

    /// Runs until it is stopped.
    pub(super) async fn run(self: &Arc<Self>) {
        match self.look_at_disk().await {
            Ok(()) => {
                tokio::select! {
                    () = self.turns() => {}
                    () = self.search() => {}
                    () = self.dial_all() => {}
                    () = self.save_often() => {}
                    () = self.failed() => {}
                    () = self.cancel.cancelled() => {}
                }
            }
            Err(error) => self.fail(error),
        }
        // One that has failed says so until it is stopped.
        self.cancel.cancelled().await;
        self.trading.settle().await;
        if let Some(swarm) = lock(&self.swarm).take() {
            swarm.end();
        }
        let mut conversations = std::mem::take(&mut *lock(&self.conversations));
        while conversations.join_next().await.is_some() {}
        if let Err(error) = self.save().await {
            tracing::warn!(torrent = self.storage.metainfo().name(), "not saved: {error}");
        }
        self.state.send_if_modified(|state| {
            let running = !matches!(state, TorrentState::Failed(_));
            if running {
                *state = TorrentState::Stopped;
            }
            running
        });
    }

    async fn look_at_disk(self: &Arc<Self>) -> Result<(), DiskError> {
        let this = Arc::clone(self);
        let looked = spawn_blocking(move || {
            this.storage.look_for_more(|_, _| !this.cancel.is_cancelled())?;
            // Not even an empty file where nothing is to be written.
            let finished = this.download && this.storage.held().is_all();
            if finished { this.storage.finish() } else { Ok(()) }
        });
        looked.await.unwrap_or(Ok(()))?;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        let mut random = [0; 8];
        let _ = getrandom::fill(&mut random); // where it begins: no secret
        let held = self.storage.held();
        let full = held.is_all();
        let random = u64::from_le_bytes(random);
        *lock(&self.swarm) = Some(self.machine(held, random, self.download));
        self.state.send_replace(match full {
            true => TorrentState::Seeding,
            false if self.download => TorrentState::Downloading,
            false => TorrentState::Partial,
        });
        Ok(())
    }

    fn machine(&self, held: Bitfield, random: u64, wants: bool) -> Swarm {
        Swarm::new(self.storage.metainfo(), held, self.trading.buying.price_max, random, wants)
    }

    async fn save(self: &Arc<Self>) -> Result<(), DiskError> {
        let this = Arc::clone(self);
        spawn_blocking(move || this.storage.save()).await.unwrap_or(Ok(()))
    }

    async fn failed(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, TorrentState::Failed(_))).await;
    }

    async fn save_often(self: &Arc<Self>) {
        let mut every = interval(self.shared.config.save_every);
        loop {
            every.tick().await;
            if let Err(error) = self.save().await {
                self.fail(error);
            }
        }
    }

    /// Something is wrong with the disk: nothing more is asked for, nothing is served.
    pub(super) fn fail(&self, error: DiskError) {
        tracing::warn!(torrent = self.storage.metainfo().name(), "stands still: {error}");
        self.state.send_if_modified(|state| {
            let first = !matches!(state, TorrentState::Failed(_) | TorrentState::Stopped);
            if first {
                *state = TorrentState::Failed(error);
            }
            first
        });
        if let Some(swarm) = lock(&self.swarm).take() {
            swarm.end();
        }
    }

    /// A piece was changed on disk under us. It is not offered any more to whom comes.
    pub(super) fn spoilt(&self) {
        self.spoilt.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            torrent = self.storage.metainfo().name(),
            "its files were changed: what is not in them any more is neither offered nor sold"
        );
        // Everybody was told of pieces that are not there: they, and the machine, begin anew with
        // what is. It is not downloaded again: whoever changed a file may have meant to.
        let held = self.storage.held();
        let mut swarm = lock(&self.swarm);
        if swarm.is_some()
            && let Some(old) = swarm.replace(self.machine(held, 0, false))
        {
            old.end();
            self.state.send_if_modified(|state| {
                let was = matches!(state, TorrentState::Seeding | TorrentState::Downloading);
                if was {
                    *state = TorrentState::Partial;
                }
                was
            });
        }
    }

    // --- connections -----------------------------------------------------------------------------

    async fn search(self: &Arc<Self>) {
        let metainfo = self.storage.metainfo();
        let wanted = |info_hash| Wanted {
            info_hash,
            peer_id: self.shared.peer_id,
            trackers: metainfo.trackers().iter().flatten().cloned().collect(),
            private: metainfo.is_private(),
            port: self.shared.listens.port(),
            progress: Arc::new(Told(Arc::downgrade(self))),
        };
        // A hybrid torrent has two swarms.
        let mut topics = metainfo.hashes().topics();
        let mut first = topics.next().map(|topic| self.shared.discovery.find(wanted(topic)));
        let mut second = topics.next().map(|topic| self.shared.discovery.find(wanted(topic)));
        loop {
            let found = tokio::select! {
                Some(found) = next(&mut first) => found,
                Some(found) = next(&mut second) => found,
                else => std::future::pending().await,
            };
            if lock(&self.candidates).add(found.0, found.1, Instant::now()) {
                self.dialable.notify_one();
            }
        }
    }

    async fn dial_all(self: &Arc<Self>) {
        let mut dials = JoinSet::new();
        loop {
            while dials.try_join_next().is_some() {}
            let peers = lock(&self.swarm).as_ref().map_or(0, Swarm::peers);
            let mut wait = Some(Instant::now() + Duration::from_secs(1));
            if dials.len() < DIALS_MAX && peers + dials.len() < self.shared.config.peers_max {
                let next = lock(&self.candidates).next(Instant::now());
                match next {
                    Ok((address, _)) => {
                        let this = Arc::clone(self);
                        dials.spawn(async move { this.dial_one(address).await });
                        continue;
                    }
                    Err(at) => wait = at,
                }
            }
            tokio::select! {
                () = self.dialable.notified() => {}
                Some(_) = dials.join_next() => {}
                () = async { sleep_until(wait.unwrap_or_else(Instant::now)).await },
                    if wait.is_some() => {}
            }
        }
    }

    async fn dial_one(self: Arc<Self>, address: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() else {
            lock(&self.candidates).ended(address, false, Instant::now());
            return;
        };
        match dial(&self.shared, address, self.storage.metainfo().hashes()).await {
            Ok((stream, theirs)) => self.connected(stream, address, &theirs, true, permit),
            Err(error) => {
                tracing::debug!(%address, "not connected: {error}");
                lock(&self.candidates).ended(address, false, Instant::now());
            }
        }
    }

    /// Both handshakes are there.
    pub(super) fn connected(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        theirs: &Handshake,
        outgoing: bool,
        permit: OwnedSemaphorePermit,
    ) {
        let mut conversations = lock(&self.conversations);
        while conversations.try_join_next().is_some() {}
        if self.cancel.is_cancelled() {
            return;
        }
        if theirs.peer_id == self.shared.peer_id {
            if outgoing {
                lock(&self.candidates).forget(address); // ourselves
            }
            return;
        }
        if lock(&self.candidates).is_banned(address.ip()) {
            return;
        }
        // A torrent has far fewer connections in its life.
        let number = self.next_number.fetch_add(1, Ordering::Relaxed) as u32;
        let admission = self.stranger();
        let connection = Arc::new(Connection::new(number, address, theirs, outgoing, admission));
        let this = Arc::clone(self);
        conversations.spawn(async move {
            let _permit = permit;
            let result = this.converse(&connection, stream).await;
            tracing::debug!(%address, "connection over: {}", result.as_ref().err().map_or_else(
                || "closed".to_owned(), ToString::to_string));
            this.left(&connection);
        });
    }

    async fn converse(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        stream: TcpStream,
    ) -> Result<(), ConnectionError> {
        let _ = stream.set_nodelay(true); // messages are put together before they are written
        self.joined(connection)?;
        let (from, to) = stream.into_split();
        // Whichever half ends first ends the other, which finishes what it has in hand.
        let up = async {
            let ended = upload::send(Arc::clone(self), Arc::clone(connection), to).await;
            connection.ended.cancel();
            ended
        };
        let down = async {
            let ended = download::receive(Arc::clone(self), Arc::clone(connection), from).await;
            connection.ended.cancel();
            ended
        };
        let (up, down) = tokio::join!(up, down);
        down.and(up)
    }

    /// A connection begins: it is told what we are and have.
    fn joined(self: &Arc<Self>, connection: &Arc<Connection>) -> Result<(), ConnectionError> {
        let mut guard = lock(&self.swarm);
        let swarm = guard.as_mut().ok_or(ConnectionError::Closed("the torrent is not running"))?;
        if swarm.peers() >= self.shared.config.peers_max {
            return Err(ConnectionError::Closed("enough others"));
        }
        if swarm.connections().any(|other| other.peer_id == connection.peer_id) {
            if connection.outgoing {
                lock(&self.candidates).forget(connection.address);
            }
            return Err(ConnectionError::Closed("it is connected already"));
        }
        let held = self.storage.held();
        if held.count() > 0 {
            connection.send(&PeerMessage::Bitfield(&held.to_bytes()));
        }
        if connection.extended {
            let config = &self.shared.config.discovery;
            let private = self.storage.metainfo().is_private();
            let ours = ExtensionIds::OURS;
            let ids = ExtensionIds {
                pex: ours.pex.filter(|_| config.peer_exchange.is_some() && !private),
                pay: ours.pay.filter(|_| self.shared.config.money.is_some()),
                ..ours
            };
            let info_len = u32::try_from(self.storage.metainfo().info_bytes().len());
            connection.send(&PeerMessage::Extended(Extended::Handshake(ExtensionHandshake {
                ids,
                client: Some(concat!("Sparewire ", env!("CARGO_PKG_VERSION")).to_owned()),
                port: Some(self.shared.listens.port()),
                queue_max: Some(REQUESTS_MAX as u32),
                metadata_len: info_len.ok(),
                your_ip: Some(connection.address.ip()),
                upload_only: held.is_all(),
            })));
        }
        swarm.join(connection);
        if !connection.extended && self.trading.buying.free {
            swarm.priced(connection, Price::FREE); // it will not say anything of money
        }
        self.carry_out(swarm);
        Ok(())
    }

    /// A connection is over.
    fn left(self: &Arc<Self>, connection: &Arc<Connection>) {
        if let Some(trade) = connection.trade() {
            self.trading.gone(&trade);
        }
        self.sent.fetch_add(connection.sent.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        if connection.outgoing {
            lock(&self.candidates).ended(connection.address, true, Instant::now());
        }
        if let Some(swarm) = lock(&self.swarm).as_mut() {
            self.leaves.left(connection.number);
            swarm.leave(connection);
            self.carry_out(swarm);
            self.serve(swarm);
        }
        self.dialable.notify_one();
    }

    // --- messages --------------------------------------------------------------------------------

    /// Blocks came, whose bytes are at the ranges of a buffer. Those that are wanted go to the
    /// intake. All that came together are told together: one lock, and one wake for what to ask.
    pub(super) fn arrived(
        self: &Arc<Self>,
        connection: &Connection,
        blocks: &mut Vec<(Block, Range<usize>)>,
        wanted: &mut Vec<Landed>,
    ) {
        if blocks.is_empty() {
            return;
        }
        let mut guard = lock(&self.swarm);
        let Some(swarm) = guard.as_mut() else { return blocks.clear() };
        for (block, range) in blocks.drain(..) {
            connection.admission().arrived(u64::from(block.len));
            if swarm.arrived(connection, block) {
                // Before the machine says what is to be done with it.
                wanted.push(self.intake.land(block, range));
            } else {
                connection.admission().unwanted(u64::from(block.len));
                // A piece may have to be forgotten before more of it lands.
                self.carry_out(swarm);
            }
        }
        self.carry_out(swarm);
    }

    /// Any other message.
    pub(super) fn handle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        message: &PeerMessage<'_>,
    ) -> Result<(), ConnectionError> {
        match message {
            PeerMessage::Interested => {
                connection.state().interested = true;
                self.with_swarm(|swarm| self.serve(swarm));
            }
            PeerMessage::NotInterested => {
                connection.state().interested = false;
                if connection.admission().needs_slot() {
                    connection.choke(self.turns.load(Ordering::Relaxed));
                }
                self.with_swarm(|swarm| self.serve(swarm));
            }
            PeerMessage::Request(block) => {
                if !self.storage.is_block(*block) {
                    return Err(ConnectionError::Nonsense("a block that there is not"));
                }
                connection.asked(*block)?;
            }
            PeerMessage::Cancel(block) => connection.outbox.cancel(*block),
            PeerMessage::HashRequest(request) => self.leaves.give(connection, *request),
            PeerMessage::Hashes { request, hashes } => {
                let answer = self.leaves.answered(connection.number, request, hashes);
                self.take_leaves(connection, answer);
            }
            PeerMessage::HashReject(request) => {
                let answer = self.leaves.rejected(connection.number, request);
                self.take_leaves(connection, answer);
            }
            PeerMessage::Extended(Extended::Pay(message)) => {
                self.handle_pay(connection, message)?
            }
            PeerMessage::Extended(extended) => self.handle_extended(connection, extended),
            PeerMessage::KeepAlive | PeerMessage::Port(_) | PeerMessage::Unknown(_) => {}
            other => {
                let mut guard = lock(&self.swarm);
                let Some(swarm) = guard.as_mut() else {
                    return Err(ConnectionError::Closed("the torrent is not running"));
                };
                swarm.handle(connection, other)?;
                self.carry_out(swarm);
            }
        }
        Ok(())
    }

    fn take_leaves(self: &Arc<Self>, connection: &Arc<Connection>, answer: Answer) {
        match answer {
            Answer::Nothing => {}
            Answer::Refused(piece) => self.with_swarm(|swarm| {
                swarm.leaves_refused(connection, piece);
                self.carry_out(swarm);
            }),
            Answer::All(piece, leaves) => {
                // On another thread: a block of the piece may be under way to the disk.
                self.on_disk(move |this| Ok(this.intake.set_leaves(piece, leaves)));
            }
        }
    }

    fn handle_extended(self: &Arc<Self>, connection: &Arc<Connection>, message: &Extended<'_>) {
        match message {
            Extended::Handshake(handshake) => {
                let listens =
                    handshake.port.map(|port| SocketAddr::new(connection.address.ip(), port));
                {
                    let mut state = connection.state();
                    state.ids = handshake.ids;
                    state.client = handshake.client.clone();
                    state.listens = state.listens.or(listens);
                }
                self.introduce(connection, handshake.ids.pay.is_some());
            }
            Extended::Metadata(Metadata::Request(part)) => {
                let info = self.storage.metainfo().info_bytes();
                let data = info.chunks(BLOCK_LEN as usize).nth(*part as usize);
                let total = u32::try_from(info.len()).unwrap_or(u32::MAX);
                connection.send_extended(&Extended::Metadata(match data {
                    Some(data) => Metadata::Data { part: *part, total, data },
                    None => Metadata::Reject(*part),
                }));
            }
            Extended::Pex(pex) => {
                let discovery = &self.shared.discovery;
                let private = self.storage.metainfo().is_private();
                if discovery.config().peer_exchange.is_none() || private {
                    return;
                }
                let mut candidates = lock(&self.candidates);
                for (address, _) in &pex.added {
                    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                    if discovery.may_dial(address, Source::Exchange) {
                        candidates.add(address, Source::Exchange, Instant::now());
                    }
                }
                drop(candidates);
                self.dialable.notify_one();
            }
            Extended::Metadata(_) | Extended::Pay(_) | Extended::Other { .. } => {}
        }
    }

    /// Blocks of a connection were judged and written.
    pub(super) fn settle(self: &Arc<Self>, outcomes: Vec<Outcome>) {
        self.with_swarm(|swarm| {
            outcomes.into_iter().for_each(|outcome| swarm.settle(outcome));
            self.carry_out(swarm);
        });
    }

    /// Bytes of blocks that came, and are to be written.
    pub(super) fn count_got(&self, bytes: u64) {
        self.got.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives places anew: who may be served has changed.
    pub(super) fn serve_now(&self) {
        self.with_swarm(|swarm| self.serve(swarm));
    }

    /// Tells the machine something, and does what it says.
    pub(super) fn with_machine(self: &Arc<Self>, tell: impl FnOnce(&mut Swarm)) {
        self.with_swarm(|swarm| {
            tell(swarm);
            self.carry_out(swarm);
        });
    }

    fn with_swarm(&self, act: impl FnOnce(&mut Swarm)) {
        if let Some(swarm) = lock(&self.swarm).as_mut() {
            act(swarm);
        }
    }

    /// Does what the download machine says.
    fn carry_out(self: &Arc<Self>, swarm: &mut Swarm) {
        loop {
            let errands = swarm.carry_out();
            if errands.is_empty() {
                return;
            }
            for errand in errands {
                self.run_errand(swarm, errand);
            }
        }
    }

    fn run_errand(self: &Arc<Self>, swarm: &mut Swarm, errand: Errand) {
        match errand {
            Errand::Ban(ip) => lock(&self.candidates).ban(ip),
            Errand::Check { piece, digests } => {
                if self.intake.check(piece, digests) {
                    self.on_disk(move |this| this.intake.judge(piece));
                }
            }
            Errand::Forget(piece) => self.intake.forget(piece),
            Errand::AskLeaves(connection, piece) => {
                if !self.leaves.ask(&connection, piece) {
                    swarm.leaves_refused(&connection, piece);
                }
            }
            Errand::Complete => self.on_disk(|this| {
                this.trading.complete();
                // The machine says so too of what was complete from the start, and may be shared only:
                // then nothing is written.
                if *this.state.borrow() != TorrentState::Downloading {
                    return Ok(Vec::new());
                }
                this.storage.finish()?;
                this.state.send_if_modified(|state| {
                    let downloading = *state == TorrentState::Downloading;
                    if downloading {
                        *state = TorrentState::Seeding;
                    }
                    downloading
                });
                Ok(Vec::new())
            }),
        }
    }

    /// Has blocks judged on a blocking thread.
    fn on_disk(
        self: &Arc<Self>,
        job: impl FnOnce(&Self) -> Result<Vec<Outcome>, DiskError> + Send + 'static,
    ) {
        let this = Arc::clone(self);
        spawn_blocking(move || match job(&this) {
            Ok(outcomes) => this.settle(outcomes),
            Err(error) => this.fail(error),
        });
    }

    // --- time ------------------------------------------------------------------------------------

    async fn turns(self: &Arc<Self>) {
        let mut tick = interval(TICK);
        let mut turn = interval(TURN);
        let every = self.shared.config.discovery.peer_exchange;
        let mut exchange = interval(every.unwrap_or(TURN).max(TICK));
        loop {
            tokio::select! {
                _ = tick.tick() => self.with_swarm(|swarm| {
                    swarm.tick();
                    self.carry_out(swarm);
                    for connection in swarm.connections() {
                        let sent = connection.sent.swap(0, Ordering::Relaxed);
                        self.sent.fetch_add(sent, Ordering::Relaxed);
                    }
                }),
                _ = turn.tick() => self.with_swarm(|swarm| {
                    self.rotate(swarm);
                    self.part_from_seeds(swarm);
                }),
                _ = exchange.tick() => self.with_swarm(|swarm| self.exchange(swarm)),
            }
        }
    }

    /// Gives free places to those who wait for one longest.
    fn serve(&self, swarm: &mut Swarm) {
        let turn = self.turns.load(Ordering::Relaxed);
        let mut slots = self.shared.config.upload_slots;
        let mut waiting = Vec::new();
        for connection in swarm.connections() {
            let admission = connection.admission();
            let (interested, unchoked, served_at) = {
                let state = connection.state();
                (state.interested, state.unchoked, state.served_at)
            };
            if !admission.may_serve() {
                connection.choke(turn);
            } else if !admission.needs_slot() {
                if interested {
                    connection.unchoke(turn);
                }
            } else if unchoked {
                slots = slots.saturating_sub(1);
            } else if interested {
                waiting.push((served_at, connection));
            }
        }
        waiting.sort_by_key(|(served_at, connection)| (*served_at, connection.number));
        for (_, connection) in waiting.into_iter().take(slots) {
            connection.unchoke(turn);
        }
    }

    /// Takes the place of who had it longest, where somebody waits for one.
    fn rotate(&self, swarm: &mut Swarm) {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let places = |unchoked: bool| {
            let of = swarm.connections().filter(|connection| connection.admission().needs_slot());
            of.filter(move |connection| {
                let state = connection.state();
                state.interested && state.unchoked == unchoked
            })
        };
        if places(false).next().is_some() {
            let longest =
                places(true).min_by_key(|connection| connection.state().served_at).cloned();
            if let Some(longest) = longest {
                longest.choke(turn);
            }
        }
        self.serve(swarm);
    }

    /// Who has all cannot want anything of us, nor we of it, once nothing is owed.
    fn part_from_seeds(&self, swarm: &mut Swarm) {
        if swarm.is_complete() {
            swarm
                .connections()
                .filter(|connection| connection.state().has_all)
                .filter(|connection| connection.trade().is_none_or(|trade| !trade.deal.is_busy()))
                .for_each(|connection| connection.ended.cancel());
        }
    }

    fn exchange(&self, swarm: &mut Swarm) {
        let private = self.storage.metainfo().is_private();
        if self.shared.config.discovery.peer_exchange.is_none() || private {
            return;
        }
        let listening = |connection: &Arc<Connection>| connection.state().listens;
        let all: Vec<SocketAddr> = swarm.connections().filter_map(listening).collect();
        for connection in swarm.connections() {
            let own = connection.state().listens;
            let mut state = connection.state();
            let others = all.iter().filter(|address| Some(**address) != own);
            let others: Vec<SocketAddr> = others.copied().take(EXCHANGE_PEERS_MAX).collect();
            let told = std::mem::replace(&mut state.told, others.clone());
            drop(state);
            let pex = Pex {
                added: others.iter().filter(|a| !told.contains(a)).map(|a| (*a, 0)).collect(),
                dropped: told.into_iter().filter(|address| !others.contains(address)).collect(),
            };
            if !pex.added.is_empty() || !pex.dropped.is_empty() {
                connection.send_extended(&Extended::Pex(pex));
            }
        }
    }
}

async fn next(finding: &mut Option<super::discovery::Finding>) -> Option<(SocketAddr, Source)> {
    finding.as_mut()?.next().await
}

struct Told(std::sync::Weak<Torrent>);

impl Progress for Told {
    fn bytes(&self) -> (u64, u64, u64) {
        self.0.upgrade().map_or((0, 0, 0), |torrent| {
            let status = torrent.status();
            (status.sent, status.have, status.total)
        })
    }
}
