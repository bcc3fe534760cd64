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
    PeerMessage, Verdict,
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
    choker::{Choker, TURN},
    connection::{Connection, ConnectionError},
    copies::Copies,
    discovery::{Discovery, Source, Wanted},
    disk::Storage,
    download,
    engine::{EngineError, Shared, dial},
    files::DiskError,
    intake::{Intake, Landed, Outcome},
    leaves::{Answer, Leaves},
    money::{Money, Trading},
    outbox::REQUESTS_MAX,
    status::{Told, TorrentState, TorrentStatus},
    swarm::{Errand, Swarm},
    upload,
};

/// How often the download machine is told that time goes on.
const TICK: Duration = Duration::from_millis(100);
/// Dials under way at a time.
const DIALS_MAX: usize = 16;

/// A torrent that runs in an [`super::Engine`].
#[derive(Debug)]
pub struct Torrent {
    storage: Arc<Storage>,
    intake: Intake,
    leaves: Arc<Leaves>,
    copies: Copies,
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
    /// How many machines there were before this one.
    generation: AtomicU64,
    sent: AtomicU64,
    got: AtomicU64,
    spoilt: AtomicU64,
    choker: Choker,
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
        let choker = Choker::new(shared.config.upload_slots);
        Ok(Arc::new(Self {
            intake: Intake::new(Arc::clone(&storage)),
            leaves: Arc::new(Leaves::new(Arc::clone(&storage))),
            copies: Copies::default(),
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
            generation: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            got: AtomicU64::new(0),
            spoilt: AtomicU64::new(0),
            choker,
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
        // Not under a lock of the state: others change it under that of the machine.
        let state = self.state.borrow().clone();
        TorrentStatus {
            state,
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

    pub(super) fn discovery(&self) -> &Discovery {
        &self.shared.discovery
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
            true => self.shared.stranger(self.trading.sale.is_some()),
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
        let _ending = Ending(self);
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
            swarm.end_connections();
        }
        let mut conversations = std::mem::take(&mut *lock(&self.conversations));
        while conversations.join_next().await.is_some() {}
        if let Err(error) = self.save(true).await {
            tracing::warn!(torrent = self.storage.metainfo().name(), "not saved: {error}");
        }
        // Before it is told: whoever waited for that may add it again at once.
        self.shared.torrents().retain(|_, torrent| !Arc::ptr_eq(torrent, self));
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
            if !this.download {
                return Ok(Vec::new());
            }
            let kept = this.intake.recall()?;
            if this.storage.held().is_all() {
                this.storage.finish()?;
            }
            Ok(kept)
        });
        let kept = looked.await.unwrap_or(Ok(Vec::new()))?;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        let mut random = [0; 8];
        let _ = getrandom::fill(&mut random); // where it begins: no secret
        let held = self.storage.held();
        let full = held.is_all();
        let random = u64::from_le_bytes(random);
        let mut swarm = self.machine(held, random, self.download);
        swarm.keep(&kept);
        *lock(&self.swarm) = Some(swarm);
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

    /// The `last` one is when nothing is written any more.
    async fn save(self: &Arc<Self>, last: bool) -> Result<(), DiskError> {
        let this = Arc::clone(self);
        let save = move || {
            let written = this.intake.written(); // before it is made durable
            this.storage.save(written, last)
        };
        spawn_blocking(save).await.unwrap_or(Ok(()))
    }

    async fn failed(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, TorrentState::Failed(_))).await;
    }

    async fn save_often(self: &Arc<Self>) {
        let mut every = interval(self.shared.config.save_every);
        loop {
            every.tick().await;
            if let Err(error) = self.save(false).await {
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
            swarm.end_connections();
        }
    }

    /// A piece was changed on disk under us: whatever lies in its file is looked at again, and then all
    /// begins anew with what is there. Everybody was told of pieces that are not: they are left.
    pub(super) fn spoilt(self: &Arc<Self>) {
        self.spoilt.fetch_add(1, Ordering::Relaxed);
        let Some(old) = lock(&self.swarm).take() else { return }; // it is looked at already
        tracing::warn!(
            torrent = self.storage.metainfo().name(),
            "its files were changed: what is not in them any more is neither offered nor sold"
        );
        // What had been complete is not downloaded again: whoever changed a file may have meant to. A
        // download that is under way goes on, and buys what it lacks now.
        let goes_on = *self.state.borrow() == TorrentState::Downloading;
        if goes_on {
            self.trading.reopen();
        }
        let looks = self.state.send_if_modified(|state| {
            let runs = !matches!(state, TorrentState::Failed(_) | TorrentState::Stopped);
            if runs {
                *state = TorrentState::Checking;
            }
            runs
        });
        old.end_connections();
        if !looks {
            return;
        }
        let this = Arc::clone(self);
        spawn_blocking(move || {
            if let Err(error) = this.storage.check_doubted(|| !this.cancel.is_cancelled()) {
                return this.fail(error);
            }
            // Nothing lands or is told while there is no machine.
            let kept = this.intake.begin_anew();
            let held = this.storage.held(); // what is whole by now too
            let complete = held.is_all();
            // As where the machine says so, which it may not have come to.
            if complete
                && goes_on
                && let Err(error) = this.storage.finish()
            {
                return this.fail(error);
            }
            let mut anew = this.machine(held, 0, goes_on);
            anew.follow(&old, &kept);
            let mut swarm = lock(&this.swarm);
            this.state.send_if_modified(|state| {
                if *state != TorrentState::Checking {
                    return false;
                }
                // What was judged for the machine before is told to none.
                this.generation.fetch_add(1, Ordering::AcqRel);
                *swarm = Some(anew);
                *state = match complete {
                    true => TorrentState::Seeding,
                    false if goes_on => TorrentState::Downloading,
                    false => TorrentState::Partial,
                };
                true
            });
        });
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
            self.found(found.0, found.1);
        }
    }

    /// Somebody who may be dialled.
    pub(super) fn found(&self, address: SocketAddr, source: Source) {
        if lock(&self.candidates).add(address, source, Instant::now()) {
            self.dialable.notify_one();
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
        if self.shared.is_banned(address.ip()) {
            lock(&self.candidates).ban(address.ip());
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
            let worked = !matches!(result, Err(ConnectionError::Duplicate))
                && !connection.dropped.load(Ordering::Relaxed);
            this.left(&connection, worked);
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
        // Its peer id is what it says: from elsewhere it may be said to keep us from another.
        let (peer_id, ip) = (connection.peer_id, connection.address.ip());
        let same = swarm
            .connections()
            .filter(|other| (other.peer_id, other.address.ip()) == (peer_id, ip));
        if same.clone().any(|other| !connection.replaces(other, self.shared.peer_id)) {
            return Err(ConnectionError::Duplicate);
        }
        same.for_each(|other| other.ended.cancel());
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

    /// A connection is over. If it led to where another one does (that one may end, or both ends may have
    /// closed one), or to nothing good, it is tried again later and later.
    fn left(self: &Arc<Self>, connection: &Arc<Connection>, worked: bool) {
        if let Some(trade) = connection.trade() {
            self.trading.gone(&trade);
        }
        self.sent.fetch_add(connection.sent.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        if connection.outgoing {
            lock(&self.candidates).ended(connection.address, worked, Instant::now());
        }
        if let Some(swarm) = lock(&self.swarm).as_mut() {
            self.leaves.left(connection.number);
            self.copies.left(connection.number);
            swarm.leave(connection);
            self.carry_out(swarm);
            self.choker.serve(swarm.connections());
        }
        self.dialable.notify_one();
    }

    // --- messages --------------------------------------------------------------------------------

    /// Blocks came, whose bytes are at the ranges of a buffer. Those that are wanted go to the
    /// intake; another copy of one that was asked of two is looked at when its piece is there. All
    /// that came together are told together: one lock, and one wake for what to ask.
    pub(super) fn arrived(
        self: &Arc<Self>,
        connection: &Connection,
        buffer: &[u8],
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
            let verdict = swarm.arrived(connection, block);
            if verdict == Verdict::Wanted {
                // Before the machine says what is to be done with it.
                wanted.push(self.intake.land(block, range));
                continue;
            }
            let kept = verdict == Verdict::Duplicate
                && connection.trade().is_some()
                && self.copies.keep(connection.number, block, &buffer[range]);
            if !kept {
                connection.admission().unwanted(u64::from(block.len));
            } else if self.storage.has(block.piece) {
                self.judge_copies(block.piece);
            }
            // A piece may have to be forgotten before more of it lands.
            self.carry_out(swarm);
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
                self.with_swarm(|swarm| self.choker.serve(swarm.connections()));
            }
            PeerMessage::NotInterested => {
                connection.state().interested = false;
                self.choker.not_interested(connection);
                self.with_swarm(|swarm| self.choker.serve(swarm.connections()));
            }
            PeerMessage::Request(block) => {
                if !self.storage.is_block(*block) {
                    return Err(ConnectionError::Nonsense("a block that there is not"));
                }
                // Who speaks of money knows what is padding; others may not (BEP 47).
                if connection.trade().is_some() && !self.storage.is_data(*block) {
                    return Err(ConnectionError::Nonsense("padding, which is not sold"));
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
                self.on_disk(move |this| this.intake.set_leaves(piece, leaves));
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
            Extended::Pex(pex) => self.take_exchange(pex),
            Extended::Metadata(_) | Extended::Pay(_) | Extended::Other { .. } => {}
        }
    }

    /// How many machines there were before the one that is told now.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Blocks were judged and written, which came for the machine of that generation: another has
    /// begun with what was there, and is told nothing of it.
    pub(super) fn settle(self: &Arc<Self>, generation: u64, outcomes: Vec<Outcome>) {
        self.with_swarm(|swarm| {
            if self.generation() != generation {
                return;
            }
            outcomes.into_iter().for_each(|outcome| swarm.settle(outcome));
            self.carry_out(swarm);
        });
    }

    /// Bytes of blocks that came, and are to be written.
    pub(super) fn count_got(&self, bytes: u64) {
        self.trading.forget_refusal();
        self.got.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives places anew: who may be served has changed.
    pub(super) fn serve_now(&self) {
        self.with_swarm(|swarm| self.choker.serve(swarm.connections()));
    }

    /// Tells the machine something, and does what it says.
    pub(super) fn with_machine(self: &Arc<Self>, tell: impl FnOnce(&mut Swarm)) {
        self.with_swarm(|swarm| {
            tell(swarm);
            self.carry_out(swarm);
        });
    }

    pub(super) fn with_swarm(&self, act: impl FnOnce(&mut Swarm)) {
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
            Errand::Ban(connection) => {
                let ip = connection.address.ip();
                lock(&self.candidates).ban(ip);
                self.shared.ban(ip);
            }
            Errand::Check { piece, digests } => {
                if self.intake.check(piece, digests) {
                    self.on_disk(move |this| this.intake.judge(piece));
                }
            }
            Errand::Forget(piece) => self.intake.forget(piece),
            Errand::Had(piece) => self.judge_copies(piece),
            Errand::AskLeaves(connection, piece) => {
                if !self.leaves.ask(&connection, piece) {
                    swarm.leaves_refused(&connection, piece);
                }
            }
            Errand::Complete => self.on_disk(|this| {
                this.with_swarm(|swarm| {
                    // It may have been taken back meanwhile.
                    if swarm.is_complete() {
                        this.trading.complete();
                    }
                });
                // The machine says so too of what was complete from the start, and may be shared only:
                // then nothing is written.
                if *this.state.borrow() != TorrentState::Downloading {
                    return Ok(Vec::new());
                }
                this.storage.finish()?;
                this.with_swarm(|swarm| {
                    let complete = swarm.is_complete();
                    this.state.send_if_modified(|state| {
                        let done = complete && *state == TorrentState::Downloading;
                        if done {
                            *state = TorrentState::Seeding;
                        }
                        done
                    });
                });
                Ok(Vec::new())
            }),
        }
    }

    /// A piece is there: so are those whose copies of its blocks wait for that.
    fn judge_copies(self: &Arc<Self>, piece: u32) {
        let copies = self.copies.of(piece);
        if !copies.is_empty() {
            // What cannot be read any more is a matter for whoever asks for it.
            self.on_disk(move |this| {
                Ok(copies.into_iter().filter_map(|copy| copy.judge(&this.storage).ok()).collect())
            });
        }
    }

    /// Has blocks judged on a blocking thread.
    fn on_disk(
        self: &Arc<Self>,
        job: impl FnOnce(&Self) -> Result<Vec<Outcome>, DiskError> + Send + 'static,
    ) {
        let (this, generation) = (Arc::clone(self), self.generation());
        spawn_blocking(move || match job(&this) {
            Ok(outcomes) => this.settle(generation, outcomes),
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
                    self.choker.rotate(swarm.connections());
                    self.note_sellers(swarm);
                    self.part_from_seeds(swarm);
                }),
                _ = exchange.tick() => self.with_swarm(|swarm| self.exchange(swarm)),
            }
        }
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
}

/// Connections hold the torrent, and end with it also where [`Torrent::run`] is cut off.
struct Ending<'a>(&'a Torrent);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(swarm) = lock(&self.0.swarm).take() {
            swarm.end_connections();
        }
    }
}

async fn next(finding: &mut Option<super::discovery::Finding>) -> Option<(SocketAddr, Source)> {
    finding.as_mut()?.next().await
}

#[cfg(test)]
mod tests;
