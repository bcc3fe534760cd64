//! Where money joins a torrent: who a peer is, what it asks, and the sessions with it.
//!
//! ```text
//! extension handshake -> binder (both device keys) -> deal -> quote -> the machine wants it -> session
//! ```

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::FutureExt;
use sparewire_content::{BLOCK_LEN, BindError, Binder, Extended, PayMessage};
use sparewire_core::{Amount, ByteCount, DeviceSigner, InfoHash, NodeId, Price};
use sparewire_protocol::{CreditRule, ProtocolError, Service};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::Admission,
    choker::TURN,
    connection::{Connection, ConnectionError},
    deal::{Deal, Figures, Side},
    swarm::Swarm,
    torrent::Torrent,
};
use crate::{
    buyer::{Buyer, may_retry},
    seller::{Offering, Seller},
    session::{FrameSink, SessionError},
};

/// How long sessions get to be settled: as long as both ends give each other.
const SETTLE: Duration = Duration::from_millis(sparewire_protocol::ANSWER_MS_MAX + 5_000);

/// Pauses between questions for a peer's terms, where it did not say them or they do not suit us,
/// doubling.
const QUOTE_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Who pays and is paid for blocks, for all torrents.
pub struct Money {
    buyer: Option<Arc<Buyer>>,
    seller: Option<Arc<Seller>>,
    device: Arc<dyn DeviceSigner>,
}

impl std::fmt::Debug for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Money").field("device", &self.device.node_id()).finish_non_exhaustive()
    }
}

impl Money {
    /// With `device` as our name; `None` for what is not done.
    pub fn new(
        buyer: Option<Arc<Buyer>>,
        seller: Option<Arc<Seller>>,
        device: Arc<dyn DeviceSigner>,
    ) -> Self {
        Self { buyer, seller, device }
    }
}

/// For how much a torrent's blocks are sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sale {
    /// Price per GiB in the token's smallest unit.
    pub price: Price,
    /// How far service runs ahead of payment. It is raised to two blocks, or two pieces where those are
    /// judged as a whole, or nobody could pay.
    pub credit: CreditRule,
}

/// From whom a torrent's blocks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buying {
    /// From those who give them for nothing.
    pub free: bool,
    /// From those who sell them for no more than this.
    pub price_max: Price,
}

impl Default for Buying {
    /// For nothing only.
    fn default() -> Self {
        Self { free: true, price_max: Price::FREE }
    }
}

/// What of a torrent has to do with money.
#[derive(Debug)]
pub(super) struct Trading {
    pub(super) sale: Option<Sale>,
    /// Whether those are served who do not pay.
    pub(super) free: bool,
    pub(super) buying: Buying,
    /// Sessions are to be settled.
    closing: CancellationToken,
    /// Those in which we pay.
    done_buying: Mutex<CancellationToken>,
    /// Trades with peers, each with its sessions.
    tasks: TaskTracker,
    /// What was paid and earned over connections that are gone.
    before: Mutex<(Amount, Amount)>,
    /// Why nothing was bought of somebody, last.
    refusal: Mutex<Option<String>>,
}

impl Trading {
    pub(super) fn new(sale: Option<Sale>, free: bool, buying: Buying) -> Self {
        let closing = CancellationToken::new();
        Self {
            sale,
            free,
            buying,
            done_buying: Mutex::new(closing.child_token()),
            closing,
            tasks: TaskTracker::new(),
            before: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    /// Everything is here: what is owed for it is paid, and no more is bought.
    pub(super) fn complete(&self) {
        lock(&self.done_buying).cancel();
    }

    /// Something is missing again: what is bought from now on is bought.
    pub(super) fn reopen(&self) {
        let mut done = lock(&self.done_buying);
        if done.is_cancelled() {
            *done = self.closing.child_token();
        }
    }

    /// Cancelled when no more is to be bought.
    pub(super) fn done_buying(&self) -> CancellationToken {
        lock(&self.done_buying).clone()
    }

    /// Settles all sessions, within the time that their peers have.
    pub(super) async fn settle(&self) {
        self.closing.cancel();
        self.tasks.close();
        if timeout(SETTLE, self.tasks.wait()).await.is_err() {
            tracing::warn!("a peer does not settle; what it owes or is owed is remembered");
        }
    }

    /// A connection is gone, and what was traded over it.
    pub(super) fn gone(&self, trade: &Trade) {
        trade.deal.hang_up();
        let (paid, earned) = trade.figures();
        let mut before = lock(&self.before);
        let add = |sum: Amount, more| sum.checked_add(more).unwrap_or(Amount::MAX);
        *before = (add(before.0, paid), add(before.1, earned));
    }

    /// What was paid and earned before.
    pub(super) fn before(&self) -> (Amount, Amount) {
        *lock(&self.before)
    }

    /// Something comes: nothing is waited for.
    pub(super) fn forget_refusal(&self) {
        let mut refusal = lock(&self.refusal);
        if refusal.is_some() {
            *refusal = None;
        }
    }

    /// Why nothing was bought of somebody, last.
    pub(super) fn refusal(&self) -> Option<String> {
        lock(&self.refusal).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of a connection has to do with money.
#[derive(Debug, Default)]
pub(super) enum Pay {
    /// The peer speaks nothing of it, or has not said yet.
    #[default]
    Unknown,
    /// It proves who it is.
    Binding(Box<Binder>),
    /// It has; this is what is traded with it.
    Trading(Arc<Trade>),
    /// It could not.
    Refused,
}

/// What is traded with one peer.
#[derive(Debug)]
pub(super) struct Trade {
    pub(super) deal: Arc<Deal>,
    /// The machine wants its blocks.
    pub(super) wanted: watch::Sender<bool>,
    /// What trades.
    tasks: TaskTracker,
}

impl Trade {
    /// What it came to: what we paid, and what we were paid.
    pub(super) fn figures(&self) -> (Amount, Amount) {
        let paid = |side| self.deal.figures(side).borrow().paid();
        (paid(Side::Buying), paid(Side::Selling))
    }
}

/// A peer that may pay and be paid, and is otherwise served as those who are not known.
#[derive(Debug)]
struct Known {
    deal: Arc<Deal>,
    otherwise: Arc<dyn Admission>,
}

impl Known {
    fn serving(&self) -> &dyn Admission {
        if self.deal.may_serve() { &*self.deal } else { &*self.otherwise }
    }
}

#[async_trait::async_trait]
impl Admission for Known {
    fn may_serve(&self) -> bool {
        self.serving().may_serve()
    }
    fn needs_slot(&self) -> bool {
        self.serving().needs_slot()
    }
    fn try_admit(&self, want: usize) -> usize {
        self.serving().try_admit(want)
    }
    async fn wait(&self) -> bool {
        let mut sold = self.deal.is_sold_to();
        tokio::select! {
            goes_on = self.serving().wait() => goes_on,
            // From now on by other rules.
            _ = sold.changed() => true,
        }
    }
    fn epoch(&self) -> u64 {
        self.deal.epoch()
    }
    fn asked(&self, bytes: u64) {
        self.deal.asked(bytes);
    }
    fn unwanted(&self, bytes: u64) {
        self.deal.unwanted(bytes);
    }
    fn withdrawn(&self, bytes: u64) {
        self.deal.withdrawn(bytes);
    }
    fn arrived(&self, bytes: u64) {
        self.deal.arrived(bytes);
    }
    fn passed(&self, bytes: u64) {
        self.deal.passed(bytes);
        self.otherwise.passed(bytes);
    }
}

struct ConnectionSink {
    connection: Weak<Connection>,
    from_payer: bool,
}

impl FrameSink for ConnectionSink {
    fn send(&self, frame: &[u8]) -> bool {
        let Some(connection) = self.connection.upgrade() else { return false };
        let message = PayMessage::Frame { from_payer: self.from_payer, frame };
        !connection.ended.is_cancelled() && connection.send_extended(&Extended::Pay(message))
    }
}

impl Torrent {
    /// The peer has said which extensions it speaks: with one that speaks of money, both prove who
    /// they are; from another blocks are taken for nothing or not at all.
    pub(super) fn introduce(self: &Arc<Self>, connection: &Arc<Connection>, speaks: bool) {
        if !matches!(connection.state().pay, Pay::Unknown) {
            return; // it says its extensions again: nothing of money changes by that
        }
        let money = self.money().filter(|_| speaks);
        let Some(money) = money else { return self.take_for_nothing(connection) };
        let mut nonce = [0; 32];
        if let Err(error) = getrandom::fill(&mut nonce) {
            tracing::warn!("no random numbers, so nothing is traded: {error}");
            return self.take_for_nothing(connection);
        }
        let mut state = connection.state();
        let device = Arc::clone(&money.device);
        let ids = (self.peer_id(), connection.peer_id);
        let binder = Binder::new(connection.info_hash, ids.0, ids.1, device, nonce);
        let greet = binder.greet();
        state.pay = Pay::Binding(Box::new(binder));
        drop(state);
        connection.send_extended(&Extended::Pay(greet));
    }

    /// Takes a message about money.
    ///
    /// # Errors
    /// [`ConnectionError`] where the connection is to end.
    pub(super) fn handle_pay(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        message: &PayMessage<'_>,
    ) -> Result<(), ConnectionError> {
        let mut state = connection.state();
        let (answer, peer) = match (&mut state.pay, message) {
            (Pay::Trading(trade), PayMessage::Frame { from_payer, frame }) => {
                let side = if *from_payer { Side::Selling } else { Side::Buying };
                let deal = Arc::clone(&trade.deal);
                drop(state);
                return deal
                    .deliver(side, frame)
                    .map_err(|_| ConnectionError::Closed("too many messages about money"));
            }
            (Pay::Binding(binder), message) => match binder.handle(message) {
                Ok(answer) => (answer, binder.peer().ok()),
                Err(BindError::Version) => {
                    state.pay = Pay::Refused;
                    drop(state);
                    self.take_for_nothing(connection);
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(address = %connection.address, "not who it says: {error}");
                    return Err(ConnectionError::Closed("it does not prove who it is"));
                }
            },
            // It speaks before we do, or of what it could not prove.
            (Pay::Unknown | Pay::Refused | Pay::Trading(_), _) => {
                return Err(ConnectionError::Nonsense("money before or after its turn"));
            }
        };
        drop(state);
        if let Some(answer) = answer {
            connection.send_extended(&Extended::Pay(answer));
        }
        peer.map_or(Ok(()), |peer| self.trade(connection, peer))
    }

    /// Begins to trade with a peer whose key is proven: over one connection, under however many names
    /// it comes.
    ///
    /// # Errors
    /// [`ConnectionError::Duplicate`] where it is traded with already.
    fn trade(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        peer: NodeId,
    ) -> Result<(), ConnectionError> {
        let Some(money) = self.money().cloned() else { return Ok(()) };
        let sink = |from_payer| -> Arc<dyn FrameSink> {
            Arc::new(ConnectionSink { connection: Arc::downgrade(connection), from_payer })
        };
        let offering = self.trading().sale.map(|sale| Offering {
            service: Service::Content(InfoHash(self.info_hash().into())),
            price: sale.price,
            credit: self.sound_credit(sale.credit),
        });
        let sells = money.seller.clone().zip(offering);
        let torrent = InfoHash(self.info_hash().into());
        let unit = ByteCount::new(self.unit());
        let deal = Deal::new(peer, torrent, sells.is_some(), unit, sink(true), sink(false));
        let trade = Arc::new(Trade {
            deal: Arc::clone(&deal),
            wanted: watch::channel(false).0,
            tasks: TaskTracker::new(),
        });
        let (mut earlier, mut stays) = (Vec::new(), true);
        self.with_swarm(|swarm| {
            for other in swarm.connections().filter(|other| other.number != connection.number) {
                let Some(traded) = other.trade().filter(|other| other.deal.peer() == peer) else {
                    continue;
                };
                // Under another peer id its process is another than the one that the older leads to.
                let restarted = connection.peer_id != other.peer_id;
                if restarted || connection.replaces(other, self.peer_id()) {
                    other.ended.cancel();
                    earlier.push(traded);
                } else {
                    stays = false;
                }
            }
            if !stays {
                return;
            }
            let mut state = connection.state();
            let otherwise = Arc::clone(&state.admission);
            state.admission = Arc::new(Known { deal: Arc::clone(&deal), otherwise });
            state.pay = Pay::Trading(Arc::clone(&trade));
        });
        if !stays {
            return Err(ConnectionError::Duplicate);
        }
        // Their sessions are over before others begin, or these would need channels of their own.
        let over = async move {
            for trade in earlier {
                trade.tasks.close();
                let _ = timeout(SETTLE, trade.tasks.wait()).await;
            }
        }
        .shared();
        if let Some((seller, offering)) = sells {
            let (torrent, connection, deal) =
                (Arc::clone(self), Arc::clone(connection), Arc::clone(&deal));
            let over = over.clone();
            self.trading().tasks.spawn(trade.tasks.track_future(async move {
                over.await;
                let mut sold = deal.is_sold_to();
                let told = async {
                    while sold.changed().await.is_ok() {
                        torrent.serve_now();
                    }
                };
                tokio::select! {
                    () = deal.sell(&seller, &offering, &torrent.trading().closing, &connection.ended) => {}
                    () = told => {}
                }
                torrent.serve_now();
            }));
        }
        match &money.buyer {
            Some(buyer) if self.trading().buying.price_max > Price::FREE && !self.is_complete() => {
                let (torrent, connection) = (Arc::clone(self), Arc::clone(connection));
                let buyer = Arc::clone(buyer);
                let tasks = trade.tasks.clone();
                self.trading().tasks.spawn(tasks.track_future(async move {
                    over.await;
                    torrent.buy(&connection, &trade, &buyer).await;
                }));
            }
            _ => self.take_for_nothing(connection),
        }
        Ok(())
    }

    /// Asks a peer what it takes, and buys of it once the machine wants its blocks.
    async fn buy(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        trade: &Trade,
        buyer: &Arc<Buyer>,
    ) {
        let deal = &trade.deal;
        let mut pause = QUOTE_RETRY.0;
        let price = loop {
            let quote = tokio::select! {
                quote = deal.quote(buyer) => quote,
                () = connection.ended.cancelled() => return,
                () = self.trading().closing.cancelled() => return,
            };
            let error = match quote {
                Ok(terms) if terms.price == Price::FREE => {
                    return self.take_for_nothing(connection);
                }
                Ok(terms) if self.sound_credit(terms.credit) != terms.credit => {
                    let short = "its credit is less than two blocks (or pieces, where those are judged as a whole)";
                    SessionError::Policy(short.into())
                }
                Ok(terms) => break terms.price,
                // It does not sell.
                Err(SessionError::Protocol(ProtocolError::Unexpected(_))) => {
                    return self.take_for_nothing(connection);
                }
                Err(error) => error,
            };
            tracing::info!(peer = %deal.peer(), %error, "nothing is bought");
            self.note_refusal(&error);
            // Terms change; what it speaks does not.
            if !may_retry(&error) && !matches!(error, SessionError::Policy(_)) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = connection.ended.cancelled() => return,
                () = self.trading().closing.cancelled() => return,
            }
            pause = (pause * 2).min(QUOTE_RETRY.1);
        };
        self.with_machine(|swarm| swarm.priced(connection, price));
        let mut wanted = trade.wanted.subscribe();
        tokio::select! {
            found = wanted.wait_for(|wanted| *wanted) => if found.is_err() { return },
            () = connection.ended.cancelled() => return,
            () = self.trading().closing.cancelled() => return,
        }
        let mut figures = deal.figures(Side::Buying);
        let allow = async {
            loop {
                let Figures { allowed, unready, .. } = *figures.borrow_and_update();
                self.with_machine(|swarm| {
                    if unready {
                        return swarm.unpriced(connection);
                    }
                    swarm.priced(connection, price);
                    swarm.allow(connection, allowed);
                });
                if figures.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let done = self.trading().done_buying();
        // A peer that went is no reason.
        let told = |error: &SessionError| {
            if matches!(error, SessionError::Untried(_)) {
                self.note_refusal(error);
            }
        };
        tokio::select! {
            bought = deal.buy(buyer, price, told, &done, &connection.ended) => match bought {
                Ok(_) => {}
                Err(error) if connection.ended.is_cancelled() => {
                    tracing::debug!(peer = %deal.peer(), %error, "its session waits to go on");
                }
                Err(error) => {
                    tracing::warn!(peer = %deal.peer(), %error, "nothing more is bought of it");
                    self.note_refusal(&error);
                }
            },
            () = allow => {}
        }
        self.with_machine(|swarm| swarm.unpriced(connection));
    }

    /// Whether blocks are judged one by one, by hash trees.
    fn judges_blocks(&self) -> bool {
        self.storage().metainfo().hashes().v2().is_some()
    }

    /// How many bytes pass together: a block, or a piece where pieces are judged as a whole.
    fn unit(&self) -> u64 {
        let piece_len = self.storage().metainfo().geometry().piece_len();
        u64::from(if self.judges_blocks() { piece_len.min(BLOCK_LEN) } else { piece_len })
    }

    /// Credit is two blocks (or pieces) at least, so that one can be under way while the other is paid
    /// for.
    fn sound_credit(&self, credit: CreditRule) -> CreditRule {
        let initial = credit.initial.max(ByteCount::new(2 * self.unit()));
        CreditRule { initial, maximum: credit.maximum.max(initial) }
    }

    fn note_refusal(&self, error: &SessionError) {
        *lock(&self.trading().refusal) = Some(error.to_string());
    }

    /// Who buys nothing is told that somebody sells: else it would wait and not know for what.
    pub(super) fn note_sellers(&self, swarm: &Swarm) {
        let buys = self.trading().buying.price_max > Price::FREE;
        if buys || swarm.is_complete() || lock(&self.trading().refusal).is_some() {
            return;
        }
        let sells = |connection: &Arc<Connection>| {
            let state = connection.state();
            connection.age() > TURN / 2 && state.ids.pay.is_some() && state.has_all && !state.serves
        };
        if swarm.connections().any(sells) {
            *lock(&self.trading().refusal) = Some(
                "a peer that has all of it does not serve us for nothing: it may sell, to those who name the most that they would pay per GiB (--max-price)".into(),
            );
        }
    }

    /// From a peer that takes nothing.
    fn take_for_nothing(self: &Arc<Self>, connection: &Arc<Connection>) {
        if self.trading().buying.free {
            self.with_machine(|swarm| swarm.priced(connection, Price::FREE));
        }
    }
}
