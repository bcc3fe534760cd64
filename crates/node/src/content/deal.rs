//! The money of one BitTorrent connection: up to two sessions, one for each direction, whose frames
//! travel among the peer wire's messages.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use sparewire_core::{Amount, ByteCount, InfoHash, NodeId, Price};
use sparewire_protocol::{Direction, Event, ProtocolError, Service, Statement, Terms};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::Admission;
use crate::{
    buyer::{Bought, Buyer, Ending, Purchase, may_retry},
    copy::{Gate, Tally},
    seller::{Begun, Offering, Sale, Seller},
    session::{
        Balance, ControlReader, ControlWriter, Frame, FrameSink, SessionError, SessionMeter,
    },
};

/// How many frames of a session may wait for its machine, and how many bytes of them. A peer that
/// sends more before we have read them is cut off: an honest one has a payment (some 300 bytes) for
/// each step of the credit under way, and one message of a few KiB at most.
const FRAMES_MAX: usize = 256;
const FRAMES_LEN_MAX: usize = 64 << 10;
/// How long blocks that were asked for are waited for when a session is to end: less than the
/// provider waits for us.
const WIND_UP: Duration = Duration::from_secs(4);
/// How long what came is waited for to be judged then.
const JUDGE: Duration = Duration::from_secs(1);
/// How long the peer may take to end its half of a session: it waits for our record of the end for
/// half as long.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts to buy from one peer, or to sell to it, that came to nothing, doubling.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Which of the two sessions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one in which we pay.
    Buying,
    /// The one in which we are paid.
    Selling,
}

/// The peer breaks the rules of the two sessions: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DealError {
    /// It sends faster than any session needs.
    #[error("the peer sends session messages faster than they can be taken")]
    Flood,
}

/// What the sessions of one direction have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// What was paid, in the token's smallest units, in sessions that are over.
    before: Amount,
    /// What of that was not paid but set off.
    set_off_before: Amount,
    /// The session that is on.
    session: Option<Account>,
    /// Bytes that may come from the peer in all, before it is paid more (buying only); 0 where
    /// nothing is to be asked for.
    pub allowed: u64,
    /// A session was to begin, and did not: nothing is to be had until one does (buying only).
    pub unready: bool,
    /// The session that is on is to end.
    closing: bool,
}

/// A session's payments since it began or went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    terms: Terms,
    /// Bytes that earlier sessions paid for over its channel.
    history: ByteCount,
    began: ByteCount,
    paid: ByteCount,
    set_off: Amount,
    /// What had come of the peer when it began.
    came: u64,
    /// How many bytes of it its channel can pay for, and how many are asked for at a time at least.
    payable: ByteCount,
    unit: ByteCount,
}

impl Account {
    fn amount(&self) -> Amount {
        let owed = |bytes| self.terms.price.owed(bytes).unwrap_or(Amount::MAX);
        owed(self.paid.max(self.began)).saturating_sub(owed(self.began))
    }

    /// The peer sends up to what is paid, and its credit, as far as the channel can pay for it; it
    /// began where both counted alike. Nothing where less is left than what is asked for at a time:
    /// nobody waits for a peer that may send no more.
    fn allowed(&self) -> u64 {
        let paid = self.paid.max(self.began);
        if self.payable.saturating_sub(paid) < self.unit {
            return 0;
        }
        let all = self.history.checked_add(self.paid).unwrap_or(ByteCount::new(u64::MAX));
        let credit = self.terms.credit.credit(all).get();
        let granted = self.paid.get().saturating_add(credit).min(self.payable.get());
        self.came.saturating_add(granted.saturating_sub(self.began.get()))
    }
}

impl Figures {
    /// What was paid, in the token's smallest units; what was set off ([`sparewire_protocol::SetOff`]) is in it.
    pub fn paid(&self) -> Amount {
        let session = self.session.map_or(Amount::ZERO, |session| session.amount());
        self.before.checked_add(session).unwrap_or(Amount::MAX)
    }

    /// What of it was set off against what the other end owed for the other direction.
    pub fn set_off(&self) -> Amount {
        let session = self.session.map_or(Amount::ZERO, |session| session.set_off);
        self.set_off_before.checked_add(session).unwrap_or(Amount::MAX)
    }

    fn take(&mut self, event: &Event, start: impl FnOnce(ByteCount) -> Account) {
        match event {
            Event::Started { reading } => {
                (self.session, self.closing) = (Some(start(reading.down)), false);
                self.unready = false;
            }
            Event::Paid { reading, set_off, .. } => {
                if let Some(session) = &mut self.session {
                    session.set_off = *set_off;
                    session.paid = session.paid.max(reading.down);
                }
            }
            _ => {}
        }
        self.allow();
    }

    /// The session's channel can pay for so many bytes of it.
    fn funded(&mut self, payable: ByteCount) {
        if let Some(session) = &mut self.session {
            session.payable = session.payable.max(payable);
        }
        self.allow();
    }

    fn allow(&mut self) {
        if let Some(session) = self.session.as_ref().filter(|_| !self.closing) {
            self.allowed = session.allowed();
        }
    }

    fn close(&mut self) {
        (self.allowed, self.closing) = (0, true);
    }

    fn end(&mut self) {
        (self.before, self.set_off_before, self.session) = (self.paid(), self.set_off(), None);
        self.close();
    }
}

/// The two sessions of one connection over one torrent with one peer, whose key is proven.
pub struct Deal {
    peer: NodeId,
    service: Service,
    sinks: [Arc<dyn FrameSink>; 2],
    /// Where frames of the running sessions go.
    running: Mutex<[Option<mpsc::Sender<Frame>>; 2]>,
    /// Room for frames that wait, in bytes.
    rooms: [Arc<Semaphore>; 2],
    applicants: mpsc::Sender<mpsc::Receiver<Frame>>,
    applying: tokio::sync::Mutex<mpsc::Receiver<mpsc::Receiver<Frame>>>,
    selling: watch::Sender<Option<Arc<SessionMeter>>>,
    buying: watch::Sender<Option<Bought>>,
    /// What both sessions owe each other.
    balance: Arc<Balance>,
    /// A half of a session has ended.
    over: Notify,
    figures: [watch::Sender<Figures>; 2],
    /// How often a session in which we are paid has begun or ended.
    sales: AtomicU64,
    /// Whether there is anything to buy here.
    sells: bool,
    /// How many bytes are asked for at a time at least: a block, or a piece where pieces are judged
    /// as a whole.
    unit: ByteCount,
    /// Why there is no money for another session.
    out_of_money: Mutex<Option<SessionError>>,
    /// Bytes that were asked of the peer and are neither there nor given up.
    asked: AtomicU64,
    /// Bytes that ever came from the peer.
    came: AtomicU64,
    /// Nothing is asked of the peer, or nothing of it is to be judged any more.
    quiet: Notify,
    /// Bytes that arrived in the session that is on, and were not counted in it.
    unjudged: AtomicU64,
}

impl fmt::Debug for Deal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deal").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Deal {
    /// With `peer`, about one torrent, which is for sale here where it `sells`, and of which `unit`
    /// bytes are asked for at a time at least; the frames of both sessions go to `buying` and
    /// `selling`.
    pub fn new(
        peer: NodeId,
        torrent: InfoHash,
        sells: bool,
        unit: ByteCount,
        buying: Arc<dyn FrameSink>,
        selling: Arc<dyn FrameSink>,
    ) -> Arc<Self> {
        let (applicants, applying) = mpsc::channel(1);
        Arc::new(Self {
            peer,
            service: Service::Content(torrent),
            sinks: [buying, selling],
            running: Mutex::default(),
            rooms: std::array::from_fn(|_| Arc::new(Semaphore::new(FRAMES_LEN_MAX))),
            applicants,
            applying: tokio::sync::Mutex::new(applying),
            selling: watch::channel(None).0,
            buying: watch::channel(None).0,
            balance: Arc::default(),
            over: Notify::new(),
            figures: Default::default(),
            sales: AtomicU64::new(0),
            sells,
            unit,
            out_of_money: Mutex::default(),
            asked: AtomicU64::new(0),
            came: AtomicU64::new(0),
            quiet: Notify::new(),
            unjudged: AtomicU64::new(0),
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Takes a frame of the peer; an empty one ends its half of the session.
    ///
    /// # Errors
    /// [`DealError`] where the connection is to end.
    pub fn deliver(&self, side: Side, frame: &[u8]) -> Result<(), DealError> {
        let mut running = self.running();
        let slot = &mut running[side as usize];
        if frame.is_empty() {
            let began = slot.take().is_some();
            drop(running);
            self.over.notify_waiters();
            if side == Side::Selling && !began {
                // It wanted to begin a session, and thought better of it: it waits for our half.
                let _ = self.sinks[side as usize].send(&[]);
            }
            return Ok(());
        }
        let sender = match (&*slot, side) {
            (Some(sender), _) => sender,
            // What a session that is over here was still told.
            (None, Side::Buying) => return Ok(()),
            (None, Side::Selling) if !self.sells => {
                drop(running);
                // Or the connection is gone.
                let _ = self.sinks[side as usize].send(&[]);
                return Ok(());
            }
            (None, Side::Selling) => {
                let (sender, receiver) = mpsc::channel(FRAMES_MAX);
                self.applicants.try_send(receiver).map_err(|_| DealError::Flood)?;
                slot.insert(sender)
            }
        };
        let room = Arc::clone(&self.rooms[side as usize]);
        let len = u32::try_from(frame.len()).map_err(|_| DealError::Flood)?;
        let room = room.try_acquire_many_owned(len).map_err(|_| DealError::Flood)?;
        let frame = Frame { bytes: Bytes::copy_from_slice(frame), _room: room };
        match sender.try_send(frame) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(DealError::Flood),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// The connection is gone: sessions that run on it break off.
    pub fn hang_up(&self) {
        *self.running() = [None, None];
        self.over.notify_waiters();
    }

    /// Whether the peer pays for what it is sent now; changes are notified.
    pub fn is_sold_to(&self) -> watch::Receiver<Option<Arc<SessionMeter>>> {
        self.selling.subscribe()
    }

    /// What the sessions of one direction have come to; changes are notified.
    pub fn figures(&self, side: Side) -> watch::Receiver<Figures> {
        self.figures[side as usize].subscribe()
    }

    /// Sells to the peer whenever it wants to buy, until `shutdown`: then its session is settled; or
    /// until the connection has `ended`.
    pub async fn sell(
        &self,
        seller: &Seller,
        offering: &Offering,
        shutdown: &CancellationToken,
        ended: &CancellationToken,
    ) {
        let mut applying = self.applying.lock().await;
        let mut fruitless = 0;
        loop {
            let frames = tokio::select! {
                frames = applying.recv() => frames,
                () = shutdown.cancelled() => return,
                () = ended.cancelled() => return,
            };
            let Some(frames) = frames else { return };
            let control = ControlWriter::frames(Arc::clone(&self.sinks[Side::Selling as usize]));
            let reader = ControlReader::Frames(frames);
            let sales = self.sales.load(Ordering::Acquire);
            let greeted = tokio::select! {
                greeted = seller.greet(self.peer, control, reader, offering) => greeted,
                () = shutdown.cancelled() => return,
            };
            let served = match greeted {
                Ok(Some(greeted)) => {
                    let terms = *greeted.terms();
                    let begin = |begun: Begun| Seeding { deal: self, meter: begun.meter, terms };
                    seller.serve(greeted, shutdown, begin).await
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            let began = self.sales.load(Ordering::Acquire) != sales;
            fruitless = if began && served.is_ok() { 0 } else { fruitless + 1 };
            if let Err(error) = served {
                tracing::info!(peer = %self.peer, %error, "a session broke off");
                self.end_where_broken(ended);
            }
            // Whoever asks for our terms buys next; who asks again and again has to wait.
            if fruitless > 1 {
                let pause = RETRY.0 * 2u32.saturating_pow(fruitless - 2);
                tokio::select! {
                    () = tokio::time::sleep(pause.min(RETRY.1)) => {}
                    () = shutdown.cancelled() => return,
                    () = ended.cancelled() => return,
                }
            }
        }
    }

    /// What the peer asks for its blocks.
    ///
    /// # Errors
    /// [`SessionError`] where it does not say, or where `buyer` would not pay that.
    pub async fn quote(&self, buyer: &Buyer) -> Result<Terms, SessionError> {
        let control = self.begin_buying().await?;
        buyer.quote(self.peer, self.service, control).await
    }

    /// Whether a session is on.
    pub fn is_busy(&self) -> bool {
        self.selling.borrow().is_some() || self.buying.borrow().is_some()
    }

    /// Buys from the peer, for no more than `price_max`, until `shutdown`, or until the connection
    /// has `ended` or trying again would not help; what is tried again is `told`. Blocks can be asked
    /// for up to what [`Figures::allowed`] says.
    ///
    /// # Errors
    /// [`SessionError`] where it did not end properly.
    pub async fn buy(
        &self,
        buyer: &Arc<Buyer>,
        price_max: Price,
        told: impl Fn(&SessionError),
        shutdown: &CancellationToken,
        ended: &CancellationToken,
    ) -> Result<Statement, SessionError> {
        let mut pause = RETRY.0;
        loop {
            let came = self.came.load(Ordering::Acquire);
            let bought = async {
                let control = self.begin_buying().await?;
                let begin = |bought| Downloading { deal: self, bought };
                let wanted = (self.service, price_max);
                buyer.session(self.peer, None, wanted, control, shutdown, begin).await
            };
            let bought = bought.await;
            self.end_where_broken(ended);
            let error = match bought {
                Ok(statement) if shutdown.is_cancelled() => return Ok(statement),
                _ if let Some(error) =
                    self.out_of_money.lock().unwrap_or_else(PoisonError::into_inner).take() =>
                {
                    return Err(error);
                }
                Ok(_) => None, // the peer wanted to end it; the next session is a new one
                Err(error)
                    if shutdown.is_cancelled() || ended.is_cancelled() || !may_go_on(&error) =>
                {
                    return Err(error);
                }
                Err(error) => Some(error),
            };
            if self.came.load(Ordering::Acquire) > came {
                pause = RETRY.0; // it delivered: what ended the session is no habit of its
            }
            self.tell(Side::Buying, |figures| figures.unready |= error.is_some());
            tracing::info!(peer = %self.peer, ?error, "nothing is bought; trying again");
            error.iter().for_each(&told);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return Err(error.unwrap_or(SessionError::Shutdown)),
                () = ended.cancelled() => return Err(error.unwrap_or(SessionError::Shutdown)),
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// The account in which a session under these terms belongs.
    fn balance_of(&self, terms: &Terms) -> Option<Arc<Balance>> {
        self.balance.takes(terms).then(|| Arc::clone(&self.balance))
    }

    /// Where something was to be set off in a session that broke off, sessions begin anew over a new
    /// connection.
    fn end_where_broken(&self, ended: &CancellationToken) {
        if self.balance.is_broken() {
            ended.cancel();
        }
    }

    /// Begins a session in which we pay: not before the peer has ended its half of the one before,
    /// or the end of that would be taken for the end of this.
    async fn begin_buying(&self) -> Result<(ControlWriter, ControlReader), SessionError> {
        let free = async {
            loop {
                let over = self.over.notified();
                if self.running()[Side::Buying as usize].is_none() {
                    return;
                }
                over.await;
            }
        };
        timeout(END_TIMEOUT, free).await.map_err(|_| SessionError::Stalled)?;
        let (sender, receiver) = mpsc::channel(FRAMES_MAX);
        self.running()[Side::Buying as usize] = Some(sender);
        let control = ControlWriter::frames(Arc::clone(&self.sinks[Side::Buying as usize]));
        Ok((control, ControlReader::Frames(receiver)))
    }

    fn running(&self) -> MutexGuard<'_, [Option<mpsc::Sender<Frame>>; 2]> {
        // Single assignments: a panic leaves no half.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until `bytes` has come down to nothing.
    async fn quiet(&self, bytes: &AtomicU64) {
        loop {
            let quiet = self.quiet.notified();
            if bytes.load(Ordering::Acquire) == 0 {
                return;
            }
            quiet.await;
        }
    }

    /// Tells how many bytes may come from the peer in all, and what was paid.
    fn tell(&self, side: Side, change: impl FnOnce(&mut Figures)) {
        self.figures[side as usize].send_modify(change);
    }
}

/// Whether trying again may help. Its terms were said, so one that ends its half before it begins has
/// trouble of its own (its disk), and not with us.
fn may_go_on(error: &SessionError) -> bool {
    let ended = ProtocolError::Unexpected("end of the control stream");
    may_retry(error) || matches!(error, SessionError::Protocol(error) if *error == ended)
}

/// Blocks, sold.
struct Seeding<'a> {
    deal: &'a Deal,
    meter: Arc<SessionMeter>,
    terms: Terms,
}

impl Sale for Seeding<'_> {
    fn balance(&self) -> Option<Arc<Balance>> {
        self.deal.balance_of(&self.terms)
    }

    async fn carry(&self) -> std::convert::Infallible {
        self.deal.sales.fetch_add(1, Ordering::AcqRel);
        self.deal.selling.send_replace(Some(Arc::clone(&self.meter)));
        std::future::pending().await // the connection's writer asks the meter
    }

    fn event(&self, event: Event) {
        let (terms, history, came) = (self.terms, ByteCount::ZERO, 0);
        let (paid, payable, unit) = (ByteCount::ZERO, ByteCount::ZERO, ByteCount::ZERO);
        let set_off = Amount::ZERO;
        let start = |began| Account { terms, history, began, paid, set_off, came, payable, unit };
        self.deal.tell(Side::Selling, |figures| figures.take(&event, start));
    }

    fn over(&self) {
        self.deal.sales.fetch_add(1, Ordering::AcqRel);
        self.deal.selling.send_replace(None);
        self.deal.tell(Side::Selling, Figures::end);
    }
}

/// Blocks, bought.
struct Downloading<'a> {
    deal: &'a Deal,
    bought: Bought,
}

impl Purchase for Downloading<'_> {
    fn balance(&self) -> Option<Arc<Balance>> {
        self.deal.balance_of(&self.bought.terms)
    }

    fn event(&self, event: Event) {
        if let Event::Started { .. } = event {
            self.deal.unjudged.store(0, Ordering::Release);
            self.deal.buying.send_replace(Some(self.bought.clone()));
        }
        let (terms, history, paid) = (self.bought.terms, self.bought.history, self.bought.paid);
        let came = self.deal.came.load(Ordering::Acquire);
        let (payable, unit) = (self.bought.payable(self.bought.reserved), self.deal.unit);
        let set_off = Amount::ZERO;
        let start = |began| Account { terms, history, began, paid, set_off, came, payable, unit };
        self.deal.tell(Side::Buying, |figures| figures.take(&event, start));
    }

    fn funded(&self, payable: ByteCount) {
        self.deal.tell(Side::Buying, |figures| figures.funded(payable));
    }

    fn unit(&self) -> ByteCount {
        self.deal.unit
    }

    /// Nothing more is asked for; what was is waited for a little.
    async fn wind_up(&self, why: &Ending) {
        if let Ending::OutOfMoney(error) = why {
            let mut told = self.deal.out_of_money.lock().unwrap_or_else(PoisonError::into_inner);
            *told = Some(error.clone());
        }
        // Still counted: the meter stays where the blocks under way are judged.
        self.deal.tell(Side::Buying, Figures::close);
        let deal = self.deal;
        let _ = timeout(WIND_UP, deal.quiet(&deal.asked)).await;
        let _ = timeout(JUDGE, deal.quiet(&deal.unjudged)).await;
    }

    fn over(&self, _error: Option<&SessionError>) {
        self.deal.buying.send_replace(None);
        self.deal.tell(Side::Buying, Figures::end);
    }
}

#[async_trait]
impl Admission for Deal {
    fn may_serve(&self) -> bool {
        self.selling.borrow().is_some()
    }

    /// Whoever pays takes nobody's place.
    fn needs_slot(&self) -> bool {
        false
    }

    fn epoch(&self) -> u64 {
        self.sales.load(Ordering::Acquire)
    }

    fn try_admit(&self, want: usize) -> usize {
        match &*self.selling.borrow() {
            Some(meter) => meter.try_admit(Direction::Down, want),
            None => 0,
        }
    }

    async fn wait(&self) -> bool {
        let meter = self.selling.borrow().clone();
        match meter {
            Some(meter) => meter.wait().await,
            None => false,
        }
    }

    fn asked(&self, bytes: u64) {
        self.asked.fetch_add(bytes, Ordering::AcqRel);
    }

    fn withdrawn(&self, bytes: u64) {
        let less = |asked: u64| Some(asked.saturating_sub(bytes));
        let before = self.asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        if before.is_ok_and(|before| before <= bytes) {
            self.quiet.notify_waiters();
        }
    }

    fn arrived(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::AcqRel);
        self.unjudged.fetch_add(bytes, Ordering::AcqRel);
        self.withdrawn(bytes);
    }

    fn unwanted(&self, bytes: u64) {
        let less = |unjudged: u64| Some(unjudged.saturating_sub(bytes));
        let _ = self.unjudged.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.quiet.notify_waiters();
    }

    /// Where no session is on, what passed was given for nothing, or is lost with the session that it
    /// arrived in: no more is counted in a session than arrived in it, or we would pay ahead.
    fn passed(&self, bytes: u64) {
        let buying = self.buying.borrow();
        let Some(bought) = &*buying else { return };
        let mut counts = 0;
        let less = |unjudged: u64| {
            counts = unjudged.min(bytes);
            Some(unjudged - counts)
        };
        let _ = self.unjudged.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.quiet.notify_waiters();
        while counts > 0 {
            let part = usize::try_from(counts).unwrap_or(usize::MAX);
            bought.meter.count(Direction::Down, part);
            counts -= part as u64;
        }
    }
}
