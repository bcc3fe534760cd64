//! Blocks are paid for over frames among other messages: both directions at once, over breaks, for
//! what passed and nothing else. The blocks themselves are played here.
#![allow(clippy::unwrap_used)]

mod market;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use market::{FakeChain, INITIAL, PRICE, TOKEN, Trader, until, within};
use sparewire_core::{ByteCount, InfoHash, Price, SessionId, Signer};
use sparewire_node::{
    buyer::BuyerConfig,
    content::{Admission, Deal, DealError, Side},
    seller::Offering,
    session::{FrameSink, SessionError},
    store::{KnownSession, Store},
};
use sparewire_protocol::{
    CreditRule, Role, Service, Statement,
    settlement::{Chain, Intent},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const BLOCK: u64 = 16 << 10;

/// Frames on their way to the deal at the other end.
struct Pipe {
    to: Arc<OnceLock<Arc<Deal>>>,
    side: Side,
    cut: Arc<AtomicBool>,
}

impl FrameSink for Pipe {
    fn send(&self, frame: &[u8]) -> bool {
        !self.cut.load(Ordering::Acquire)
            && self.to.get().unwrap().deliver(self.side, frame).is_ok()
    }
}

/// One connection between two traders.
struct Line {
    near: Arc<Deal>,
    far: Arc<Deal>,
    cut: Arc<AtomicBool>,
}

impl Line {
    fn new(near: &Trader, far: &Trader, torrent: u8) -> Self {
        let cut = Arc::new(AtomicBool::new(false));
        let (at_near, at_far) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let end = |to: &Arc<OnceLock<Arc<Deal>>>, peer: &Trader| {
            let pipe = |side| -> Arc<dyn FrameSink> {
                Arc::new(Pipe { to: to.clone(), side, cut: cut.clone() })
            };
            // What one end says as the payer is for the session in which the other is paid.
            let sinks = (pipe(Side::Selling), pipe(Side::Buying));
            let torrent = InfoHash([torrent; 20].into());
            let unit = ByteCount::new(BLOCK);
            Deal::new(peer.keys.identity().node_id(), torrent, true, unit, sinks.0, sinks.1)
        };
        let (near_deal, far_deal) = (end(&at_far, far), end(&at_near, near));
        at_near.set(near_deal.clone()).unwrap();
        at_far.set(far_deal.clone()).unwrap();
        Self { near: near_deal, far: far_deal, cut }
    }

    /// The connection breaks.
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.near.hang_up();
        self.far.hang_up();
    }
}

struct Trade {
    stop: CancellationToken,
    shut: CancellationToken,
    bought: JoinHandle<Result<Statement, SessionError>>,
    sold: JoinHandle<()>,
}

impl Trade {
    /// `buyer` at one end of a line buys from `seller` at the other.
    fn begin((buyer, buys): (&Trader, &Arc<Deal>), (seller, sells): (&Trader, &Arc<Deal>)) -> Self {
        Self::at((PRICE, PRICE), (buyer, buys), (seller, sells))
    }

    /// At a price, for no more than another.
    fn at(
        (price, most): (u128, u128),
        (buyer, buys): (&Trader, &Arc<Deal>),
        (seller, sells): (&Trader, &Arc<Deal>),
    ) -> Self {
        let stop = CancellationToken::new();
        let (machine, deal, done) = (buyer.buyer.clone(), buys.clone(), stop.clone());
        let bought = tokio::spawn(async move {
            let most = Price::per_gib(most).unwrap();
            deal.buy(&machine, most, |_| (), &done, &CancellationToken::new()).await
        });
        let shut = CancellationToken::new();
        let (machine, deal, done) = (seller.seller.clone(), sells.clone(), shut.clone());
        let sold = tokio::spawn(async move {
            let service = Service::Content(InfoHash([1; 20].into()));
            let offering = Offering {
                service,
                price: Price::per_gib(price).unwrap(),
                credit: CreditRule::default(),
            };
            deal.sell(&machine, &offering, &done, &CancellationToken::new()).await;
        });
        Self { stop, shut, bought, sold }
    }

    async fn settle(self) -> Statement {
        self.stop.cancel();
        let statement = within(20, self.bought).await.unwrap().unwrap();
        self.shut.cancel();
        within(20, self.sold).await.unwrap();
        statement
    }

    async fn refused(self) -> String {
        let error = within(20, self.bought).await.unwrap().unwrap_err();
        self.sold.abort();
        error.to_string()
    }
}

/// Whether blocks can be asked for.
fn is_bought(deal: &Deal) -> bool {
    deal.figures(Side::Buying).borrow().allowed > 0
}

/// Waits until the valve lets a block pass; `false` where it is shut for good.
async fn admit(seller: &Deal) -> bool {
    let mut left = BLOCK as usize;
    while left > 0 {
        match seller.try_admit(left) {
            0 if !within(20, seller.wait()).await => return false,
            granted => left -= granted,
        }
    }
    true
}

/// Carries blocks, all of which pass or none.
async fn carry(seller: &Arc<Deal>, buyer: &Arc<Deal>, blocks: u64, good: bool) {
    until("it is sold", || seller.may_serve() && is_bought(buyer)).await;
    for _ in 0..blocks {
        buyer.asked(BLOCK);
        assert!(admit(seller).await, "the session is on");
        buyer.arrived(BLOCK);
        if good {
            buyer.passed(BLOCK);
        }
    }
}

fn ended(trader: &Trader, session: SessionId) -> Option<KnownSession> {
    trader.disk.session(session).unwrap().filter(|known| known.statement.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_a_line_buy_from_each_other_at_once_and_the_difference_is_paid() {
    let chain = Arc::new(FakeChain::default());
    let (near, far) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&near, &far, 1);
    let to_near = Trade::begin((&near, &line.near), (&far, &line.far));
    let to_far = Trade::begin((&far, &line.far), (&near, &line.near));
    tokio::join!(carry(&line.far, &line.near, 200, true), carry(&line.near, &line.far, 50, true),);
    let (down, up) = tokio::join!(to_near.settle(), to_far.settle());
    let (gross_down, gross_up) = (u128::from(200 * BLOCK), u128::from(50 * BLOCK));
    assert_eq!(down.paid.get() - up.paid.get(), gross_down - gross_up);
    assert!(up.paid.get() < gross_up, "something is set off");
    let bought = |deal: &Deal| *deal.figures(Side::Buying).borrow();
    let sold = |deal: &Deal| *deal.figures(Side::Selling).borrow();
    for (payer, payee, paid, gross) in
        [(&line.near, &line.far, &down, gross_down), (&line.far, &line.near, &up, gross_up)]
    {
        assert_eq!(bought(payer).paid().get(), gross);
        assert_eq!(bought(payer).set_off().get(), gross - paid.paid.get());
        assert_eq!(sold(payee).paid(), bought(payer).paid());
        assert_eq!(sold(payee).set_off(), bought(payer).set_off());
    }
    assert_ne!(down.channel, up.channel);
    for (payer, payee, mine) in [(&near, &far, &down), (&far, &near, &up)] {
        until("the payee has recorded the end", || ended(payee, mine.session).is_some()).await;
        let theirs = ended(payee, mine.session).unwrap();
        let told = theirs.statement.as_ref().unwrap();
        assert_eq!((mine.counted, mine.cumulative), (told.counted, told.cumulative));
        assert_eq!((mine.receipted, told.receipted), (mine.counted, mine.counted));
        assert_eq!(theirs.lost.get(), 0);
        assert_eq!(payer.sessions(Role::Payer).len(), 1);
    }
    // Nothing stands in the way of the money.
    far.seller.settler().settle().await.unwrap();
    near.seller.settler().settle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_something_was_set_off_a_new_connection_begins_new_sessions() {
    let chain = Arc::new(FakeChain::default());
    let (near, far) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&near, &far, 1);
    let to_near = Trade::begin((&near, &line.near), (&far, &line.far));
    let to_far = Trade::begin((&far, &line.far), (&near, &line.near));
    tokio::join!(carry(&line.far, &line.near, 60, true), carry(&line.near, &line.far, 60, true));
    let bought = |deal: &Deal| *deal.figures(Side::Buying).borrow();
    let some = |deal: &Deal| bought(deal).set_off().get() > 0;
    until("something is set off", || some(&line.near) && some(&line.far)).await;
    let first = near.sessions(Role::Payer)[0].agreement.session;
    line.cut();
    until("both are gone", || !line.far.may_serve() && !line.near.may_serve()).await;
    until("both are gone", || !is_bought(&line.near) && !is_bought(&line.far)).await;
    // Whoever broke off has nothing more to say on that connection.
    for trade in [to_near, to_far] {
        trade.bought.abort();
        trade.sold.abort();
    }

    let line = Line::new(&near, &far, 1);
    let trade = Trade::begin((&near, &line.near), (&far, &line.far));
    carry(&line.far, &line.near, 10, true).await;
    let statement = trade.settle().await;
    assert_ne!(statement.session, first, "a new session");
    assert_eq!(statement.paid.get(), u128::from(10 * BLOCK));
    // What was under way is lost to neither beyond its credit.
    let promised = |payer: &Trader| {
        payer.sessions(Role::Payer)[0].payment.map_or(0, |first| first.voucher.body.amount.get())
    };
    let (down, up) = (promised(&near), promised(&far));
    assert!(down.abs_diff(up) <= u128::from(2 * INITIAL), "{down} {up}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_is_never_paid_and_costs_the_sender_no_more_than_its_credit() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    carry(&line.far, &line.near, 16, true).await;
    let paid = || buyer.sessions(Role::Payer)[0].payment.map_or(0, |p| p.reading.down.get());
    until("all that passed is paid for", || paid() == 16 * BLOCK).await;
    let bad = INITIAL / BLOCK;
    carry(&line.far, &line.near, bad, false).await;
    assert_eq!(line.far.try_admit(1), 0, "the credit is used up");
    let statement = trade.settle().await;
    assert_eq!(statement.paid.get(), u128::from(16 * BLOCK));
    until("the payee has recorded the end", || ended(&seller, statement.session).is_some()).await;
    assert_eq!(ended(&seller, statement.session).unwrap().lost.get(), bad * BLOCK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_over_a_new_connection_and_nothing_is_paid_after_the_fact() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    carry(&line.far, &line.near, 100, true).await;
    carry(&line.far, &line.near, 3, false).await; // of a piece that is not complete yet
    line.cut();
    until("the session is gone", || !is_bought(&line.near)).await;
    until("the session is gone", || !line.far.may_serve()).await;
    line.near.passed(3 * BLOCK);
    trade.bought.abort();
    trade.sold.abort();
    let first = buyer.sessions(Role::Payer)[0].agreement.session;

    let line = Line::new(&buyer, &seller, 1);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    carry(&line.far, &line.near, 1, false).await;
    line.near.passed(3 * BLOCK); // the piece is complete: one of its blocks is of this session
    carry(&line.far, &line.near, 9, true).await;
    let statement = trade.settle().await;
    assert_eq!(statement.session, first, "the session goes on");
    assert_eq!(statement.paid.get(), u128::from(110 * BLOCK));
    until("the payee has recorded the end", || ended(&seller, first).is_some()).await;
    let theirs = ended(&seller, first).unwrap();
    market::assert_agree(&statement, theirs.statement.as_ref().unwrap());
    assert_eq!(theirs.lost.get(), 3 * BLOCK);
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_of_another_torrent_are_not_taken_and_a_quote_promises_nothing() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 2);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far)); // offers torrent 1
    let refused = trade.refused().await;
    assert!(refused.contains("something else than what was asked for"), "{refused}");
    assert!(buyer.disk.channels(Role::Payer).unwrap().is_empty(), "no channel was opened");

    let line = Line::new(&buyer, &seller, 1);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    trade.bought.abort();
    let _ = trade.bought.await;
    let terms = within(10, line.near.quote(&buyer.buyer)).await.unwrap();
    assert_eq!(terms.price, Price::per_gib(PRICE).unwrap());
    trade.sold.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_holds_over_all_sellers_together_whatever_their_number() {
    let chain = Arc::new(FakeChain::default());
    let config = market::consumer_config().buying;
    let four = market::amount(4 * config.channel_amount.get());
    let buyer = Trader::with(&chain, BuyerConfig { budget: four, ..config.clone() }).await;
    // All are asked for before the first stands on chain.
    *buyer.seat.slow_blocks.lock().unwrap() = std::time::Duration::from_millis(200);
    let (sellers, lines, trades) = many(&chain, &buyer, 6).await;
    let on = || lines.iter().filter(|line| is_bought(&line.near)).count();
    let refused = || trades.iter().filter(|trade| trade.bought.is_finished()).count();
    // Half of the budget is for sellers that have delivered.
    until("two are bought from", || on() == 2).await;
    assert_eq!((opens(&chain, &buyer), refused()), (2, 0));
    deliver(&lines, 1).await;
    until("a fourth is bought from", || on() == 4 || refused() > 2).await;
    deliver(&lines, 1).await;
    until("two are bought from no more", || refused() == 2).await;
    assert_eq!((opens(&chain, &buyer), on()), (4, 4));
    for trade in trades {
        match trade.bought.is_finished() {
            true => assert!(trade.refused().await.contains("budget is used up")),
            false => {
                trade.settle().await;
            }
        }
    }
    drop(sellers);
}

/// Sellers, and a line to each over which is bought.
async fn many(
    chain: &Arc<FakeChain>,
    buyer: &Trader,
    count: usize,
) -> (Vec<Trader>, Vec<Line>, Vec<Trade>) {
    let mut sellers = Vec::new();
    for _ in 0..count {
        sellers.push(Trader::new(chain).await);
    }
    let lines: Vec<Line> = sellers.iter().map(|seller| Line::new(buyer, seller, 1)).collect();
    let trade =
        |(line, seller): (&Line, &Trader)| Trade::begin((buyer, &line.near), (seller, &line.far));
    let trades = lines.iter().zip(&sellers).map(trade).collect();
    (sellers, lines, trades)
}

/// All that are bought from deliver.
async fn deliver(lines: &[Line], blocks: u64) {
    for line in lines.iter().filter(|line| is_bought(&line.near)) {
        carry(&line.far, &line.near, blocks, true).await;
    }
}

/// How many channels the buyer has opened.
fn opens(chain: &FakeChain, buyer: &Trader) -> usize {
    let all = chain.performed(buyer.keys.wallet.address());
    all.iter().filter(|intent| matches!(intent, Intent::Open { .. })).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn few_channels_are_open_to_sellers_that_have_delivered_nothing() {
    let chain = Arc::new(FakeChain::default());
    let config = market::consumer_config().buying;
    let plenty = market::amount(64 * config.channel_amount.get());
    let buyer = Trader::with(&chain, BuyerConfig { budget: plenty, ..config }).await;
    let (_sellers, lines, trades) = many(&chain, &buyer, 7).await;
    let on = || lines.iter().filter(|line| is_bought(&line.near)).count();
    until("four are bought from", || on() == 4).await;
    assert_eq!(opens(&chain, &buyer), 4, "each once, and no other");
    let one = lines.iter().find(|line| is_bought(&line.near)).unwrap();
    carry(&one.far, &one.near, 8, true).await;
    until("a fifth is bought from", || on() == 5).await;
    assert_eq!(opens(&chain, &buyer), 5);
    for trade in trades {
        trade.bought.abort();
        trade.sold.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_that_has_delivered_nothing_gets_no_second_channel() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let lines = [Line::new(&buyer, &seller, 1), Line::new(&buyer, &seller, 1)];
    let trades =
        lines.each_ref().map(|line| Trade::begin((&buyer, &line.near), (&seller, &line.far)));
    let on = || lines.iter().position(|line| is_bought(&line.near));
    until("one is bought from", || on().is_some()).await;
    // The other has been turned down meanwhile, more than once.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(opens(&chain, &buyer), 1);
    let first = &lines[on().unwrap()];
    carry(&first.far, &first.near, 8, true).await;
    until("both are", || lines.iter().all(|line| is_bought(&line.near))).await;
    assert_eq!(opens(&chain, &buyer), 2);
    for trade in trades {
        trade.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_that_asks_more_than_it_was_quoted_at_is_refused() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    let trade = Trade::at((PRICE, PRICE - 1), (&buyer, &line.near), (&seller, &line.far));
    let refused = trade.refused().await;
    assert!(refused.contains(&format!("more than the limit of {}", PRICE - 1)), "{refused}");
    assert!(buyer.disk.channels(Role::Payer).unwrap().is_empty(), "no channel was opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lines_to_one_seller_are_paid_over_two_channels() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let lines = [Line::new(&buyer, &seller, 1), Line::new(&buyer, &seller, 1)];
    let trades =
        lines.each_ref().map(|line| Trade::begin((&buyer, &line.near), (&seller, &line.far)));
    let carried = lines.each_ref().map(|line| carry(&line.far, &line.near, 20, true));
    let [one, other] = carried;
    tokio::join!(one, other); // whichever comes first, the other waits for it to deliver
    let [one, other] = trades;
    let (one, other) = (one.settle().await, other.settle().await);
    assert_ne!(one.channel, other.channel);
    assert_ne!(one.session, other.session);
    for statement in [one, other] {
        assert_eq!(statement.paid.get(), u128::from(20 * BLOCK));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_just_opened_takes_its_part_of_the_budget_once() {
    let chain = Arc::new(FakeChain::default());
    let config = market::consumer_config().buying;
    let four = market::amount(4 * config.channel_amount.get());
    let buyer = Trader::with(&chain, BuyerConfig { budget: four, ..config.clone() }).await;
    for _ in 0..2 {
        let seller = Trader::new(&chain).await;
        let line = Line::new(&buyer, &seller, 1);
        let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
        carry(&line.far, &line.near, 1, true).await;
        trade.settle().await;
    }
    let deposit = Intent::Deposit { token: TOKEN, amount: market::amount(four.get() / 2) };
    buyer.seat.perform(&deposit).await.unwrap();
    // From here on channels stand on chain, and are not final.
    buyer.seat.never_final.send_replace(true);
    let sellers = [Trader::new(&chain).await, Trader::new(&chain).await];
    let lines = sellers.each_ref().map(|seller| Line::new(&buyer, seller, 1));
    let mut trades = Vec::new();
    for (opened, (line, seller)) in (3..).zip(lines.iter().zip(&sellers)) {
        trades.push(Trade::begin((&buyer, &line.near), (seller, &line.far)));
        let opens = || opens(&chain, &buyer);
        until("its channel is opened", || opens() == opened || any_ended(&trades)).await;
        assert_eq!(opens(), opened, "the budget has room for it");
    }
    buyer.seat.never_final.send_replace(false);
    until("both are bought from", || lines.iter().all(|line| is_bought(&line.near))).await;
    for trade in trades {
        trade.settle().await;
    }
}

fn any_ended(trades: &[Trade]) -> bool {
    trades.iter().any(|trade| trade.bought.is_finished())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_fills_the_memory_with_session_messages_is_cut_off_after_64_kib() {
    let chain = Arc::new(FakeChain::default());
    let (near, far) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&near, &far, 1);
    let frame = vec![1; 16 << 10];
    for _ in 0..4 {
        line.far.deliver(Side::Selling, &frame).unwrap();
    }
    assert_eq!(line.far.deliver(Side::Selling, &[1]), Err(DealError::Flood));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_thought_better_of_leaves_the_line_free_for_the_next() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    let ends = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    struct Count(Arc<std::sync::atomic::AtomicUsize>);
    impl FrameSink for Count {
        fn send(&self, frame: &[u8]) -> bool {
            self.0.fetch_add(usize::from(frame.is_empty()), Ordering::AcqRel);
            true
        }
    }
    let torrent = InfoHash([1; 20].into());
    let sink = || Arc::new(Count(ends.clone()));
    let deal = Deal::new(line.far.peer(), torrent, true, ByteCount::new(BLOCK), sink(), sink());
    // It ends what it has not begun.
    deal.deliver(Side::Selling, &[]).unwrap();
    assert_eq!(ends.load(Ordering::Acquire), 1, "and is told that nothing is on");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_budget_is_told_where_less_than_a_block_is_left() {
    let chain = Arc::new(FakeChain::default());
    let config = market::consumer_config().buying;
    let little = market::amount(u128::from(8 * BLOCK + 5));
    let config = BuyerConfig { budget: little, channel_amount: little, ..config };
    let (buyer, seller) = (Trader::with(&chain, config).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    let figures = line.near.figures(Side::Buying);
    until("it is bought", || is_bought(&line.near)).await;
    assert_eq!(figures.borrow().allowed, 8 * BLOCK, "its credit, and no more than it can pay for");
    carry(&line.far, &line.near, 8, true).await;
    let refused = trade.refused().await;
    assert!(refused.contains("the budget is used up"), "{refused}");
    assert_eq!(figures.borrow().allowed, 0, "nothing more is asked for");
    let ended = buyer.sessions(Role::Payer)[0].statement.clone().unwrap();
    assert_eq!(ended.paid.get(), u128::from(8 * BLOCK));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_asked_for_than_the_channel_can_pay_for_until_it_is_topped_up() {
    let chain = Arc::new(FakeChain::default());
    let config = market::consumer_config().buying;
    let little = market::amount(u128::from(5 * BLOCK + 5));
    let config = BuyerConfig { channel_amount: little, ..config };
    let (buyer, seller) = (Trader::with(&chain, config).await, Trader::new(&chain).await);
    // It is nearly used up from the start, and topped up as soon as the chain lets it be.
    *buyer.seat.slow_blocks.lock().unwrap() = std::time::Duration::from_millis(500);
    let line = Line::new(&buyer, &seller, 1);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    let allowed = || line.near.figures(Side::Buying).borrow().allowed;
    until("it is bought", || is_bought(&line.near)).await;
    assert_eq!(allowed(), 5 * BLOCK + 5);
    carry(&line.far, &line.near, 5, true).await;
    until("it is topped up", || allowed() > 6 * BLOCK).await;
    carry(&line.far, &line.near, 4, true).await;
    assert_eq!(trade.settle().await.paid.get(), u128::from(9 * BLOCK));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_begin_is_not_waited_for_until_it_can() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    seller.seat.unreachable.store(true, Ordering::Release);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    let figures = line.near.figures(Side::Buying);
    until("it is told that nothing is to be had", || figures.borrow().unready).await;
    assert!(!is_bought(&line.near));
    seller.seat.unreachable.store(false, Ordering::Release);
    until("it is bought", || is_bought(&line.near)).await;
    assert!(!figures.borrow().unready);
    trade.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_whose_disk_fails_for_a_moment_as_a_session_begins_is_bought_from_later() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    seller.disk.full.store(true, Ordering::Release);
    let trade = Trade::begin((&buyer, &line.near), (&seller, &line.far));
    let figures = line.near.figures(Side::Buying);
    until("it is told that nothing is to be had", || figures.borrow().unready).await;
    seller.disk.full.store(false, Ordering::Release);
    until("it is bought", || is_bought(&line.near)).await;
    carry(&line.far, &line.near, 4, true).await;
    assert_eq!(trade.settle().await.paid.get(), u128::from(4 * BLOCK));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_delivers_in_each_session_is_bought_from_again_without_longer_and_longer_pauses() {
    let chain = Arc::new(FakeChain::default());
    let (buyer, seller) = (Trader::new(&chain).await, Trader::new(&chain).await);
    let line = Line::new(&buyer, &seller, 1);
    let Trade { stop, bought, sold, shut: _ } =
        Trade::begin((&buyer, &line.near), (&seller, &line.far));
    sold.abort();
    let _ = sold.await;
    let offering = Offering {
        service: Service::Content(InfoHash([1; 20].into())),
        price: Price::per_gib(PRICE).unwrap(),
        credit: CreditRule::default(),
    };
    let rounds = async {
        for _ in 0..8 {
            let (end, never) = (CancellationToken::new(), CancellationToken::new());
            let selling = line.far.sell(&seller.seller, &offering, &end, &never);
            let delivering = async {
                carry(&line.far, &line.near, 1, true).await;
                end.cancel();
            };
            tokio::join!(selling, delivering);
            until("the session is over", || !is_bought(&line.near)).await;
        }
    };
    within(15, rounds).await;
    stop.cancel();
    let _ = within(20, bought).await;
}
