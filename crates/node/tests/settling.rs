//! When a provider claims, and what it leaves where it is.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use market::{
    Keys, Market, TOKEN, amount, domain, exit_policy, payment, promise, provider_config, remember,
    until,
};
use sparewire_core::{ChannelId, Signature, Signer, Timestamp};
use sparewire_node::{exit::Exit, seller::Row};
use sparewire_protocol::{
    ChannelConfig, ChannelStatus,
    settlement::{Intent, NativePrice, Occasion, SettlePolicy, Verdict},
};

const TICK: Duration = Duration::from_millis(20);

/// A provider with a policy, and a payer who promises.
struct Scene {
    market: Market,
    payer: Arc<Keys>,
}

impl Scene {
    /// One wei of fees is worth one unit.
    async fn new(policy: SettlePolicy) -> Self {
        let per_coin = amount(1_000_000_000_000_000_000);
        let native_price = Some(NativePrice { token: TOKEN, per_coin });
        let mut config = provider_config();
        config.selling.closes_every = TICK;
        config.selling.settle = SettlePolicy { native_price, ..policy };
        let market = Market::with(config, Exit::new(exit_policy())).await;
        Self { market, payer: Keys::random() }
    }

    fn config(&self, salt: u64) -> ChannelConfig {
        self.payer.channel_to(&self.market.seller.keys, salt)
    }

    /// The provider remembers a promise of `units` over the channel with this salt.
    fn promise(&self, salt: u64, units: u128) -> ChannelId {
        promise(&*self.market.seller.disk, &self.payer, &self.config(salt), units)
    }

    /// Final state does not show what is claimed of the channel until it is [`Scene::shown`].
    fn unshown(&self, salt: u64) {
        let channel = self.config(salt).id(&domain());
        self.market.seller.seat.unshown.lock().unwrap().insert(channel);
    }

    fn shown(&self, channel: ChannelId) {
        self.market.seller.seat.unshown.lock().unwrap().remove(&channel);
    }

    fn open(&self, salt: u64) {
        self.market.chain.open(&self.config(salt), 1_000_000);
    }

    fn claimed(&self, channel: ChannelId) -> u128 {
        self.market.chain.facts(channel).claimed.get()
    }

    /// What was claimed so far: the amounts of each transaction.
    fn claims(&self) -> Vec<Vec<u128>> {
        let wallet = self.market.seller.keys.wallet.address();
        let amounts = |intent: Intent| match intent {
            Intent::Claim { claims } => claims.iter().map(|claim| claim.amount.get()).collect(),
            other => panic!("{other:?}"),
        };
        self.market.chain.performed(wallet).into_iter().map(amounts).collect()
    }

    /// Waits until the chain has been asked about the channel again, some times.
    async fn looks(&self, channel: ChannelId) {
        let asked =
            || self.market.seller.seat.asked.lock().unwrap().get(&channel).copied().unwrap_or(0);
        let before = asked();
        until("it is looked at again", || asked() >= before + 3).await;
    }

    fn leaving(&self) -> Vec<Row> {
        self.market.seller.provider.settler().leaving()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_claimed_in_one_transaction_when_it_is_enough() {
    let policy = SettlePolicy { threshold: Some(amount(1_500)), ..SettlePolicy::default() };
    let scene = Scene::new(policy).await;
    (1..=2).for_each(|salt| scene.open(salt));
    let first = scene.promise(1, 1_000);
    scene.looks(first).await;
    assert_eq!(scene.claims(), Vec::<Vec<u128>>::new());
    let second = scene.promise(2, 500);
    until("both are claimed", || scene.claimed(first) + scene.claimed(second) == 1_500).await;
    assert_eq!(scene.claims().len(), 1);
    // What is claimed does not count towards the next time.
    scene.promise(1, 2_000);
    scene.looks(first).await;
    assert_eq!(scene.claims().len(), 1);
}

/// Whose provider claims once an hour, and was restarted just now.
async fn hourly() -> Scene {
    let policy =
        SettlePolicy { threshold: None, period_ms: Some(3_600_000), ..SettlePolicy::default() };
    let scene = Scene::new(policy).await;
    scene.open(1);
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_does_not_begin_the_period_anew() {
    let ago = |ms: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_ms(now.as_millis() as u64 - ms)
    };
    for (claimed_ms_ago, due) in [(3_700_000, true), (1_800_000, false)] {
        let scene = hourly().await;
        *scene.market.seller.seat.last_claim.lock().unwrap() = Some(ago(claimed_ms_ago));
        let first = scene.promise(1, 1_000);
        if due {
            until("it is claimed", || scene.claimed(first) == 1_000).await;
        } else {
            scene.looks(first).await;
            assert_eq!(scene.claims(), Vec::<Vec<u128>>::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_cost_more_than_it_brings_is_left_where_it_is() {
    let scene = Scene::new(SettlePolicy::default()).await;
    *scene.market.seller.seat.fee_wei.lock().unwrap() = (20, 10);
    (1..=3).for_each(|salt| scene.open(salt));
    // Together a claim costs 17 each, without the smallest 20 each, alone 30.
    let [dear, small, middle] = [(1, 1_000), (2, 15), (3, 18)].map(|(s, u)| scene.promise(s, u));
    let settler = scene.market.seller.provider.settler();

    let plan = settler.plan().await.unwrap();
    let row = |channel| *plan.rows.iter().find(|row| row.channel == channel).unwrap();
    assert_eq!((row(dear).verdict, row(dear).fee), (Verdict::Claim, Some(amount(30))));
    assert_eq!(row(small).verdict, Verdict::TooDear { fee_max: amount(14) });
    assert_eq!(row(middle).verdict, Verdict::TooDear { fee_max: amount(17) });
    assert_eq!(plan.quote.fee_wei, 30);
    assert_eq!(scene.claims(), Vec::<Vec<u128>>::new(), "a plan claims nothing");

    settler.settle().await.unwrap();
    assert_eq!(scene.claims(), [[1_000]]);
    // When fees fall, the others pay as well.
    *scene.market.seller.seat.fee_wei.lock().unwrap() = (2, 1);
    settler.settle().await.unwrap();
    let mut both = scene.claims()[1].clone();
    both.sort_unstable();
    assert_eq!(both, [15, 18]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_claim_is_found_among_many_and_spoils_none() {
    let scene = Scene::new(SettlePolicy::default()).await;
    (1..=9).for_each(|salt| scene.open(salt));
    let channels: Vec<_> =
        (1..=8).map(|salt| scene.promise(salt, 100 + u128::from(salt))).collect();
    let mut signature = [1; 65];
    signature[64] = 27;
    let config = scene.config(9);
    let mut false_payment = payment(&scene.payer, &config, 5_000);
    false_payment.voucher.signature = Signature::from_bytes(signature).unwrap();
    let forged = remember(&*scene.market.seller.disk, &config, false_payment);
    let failed = scene.market.seller.provider.settler().settle().await.unwrap_err();
    assert!(failed.to_string().contains("signature"), "{failed}");
    assert_eq!(failed.outcome.transactions.len(), 1);
    assert_eq!(scene.claims().len(), 1, "nothing was sent in vain");
    for (channel, salt) in channels.into_iter().zip(1..) {
        assert_eq!(scene.claimed(channel), 100 + salt);
    }
    assert_eq!(scene.claimed(forged), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaving_payer_waits_for_no_finality_and_nothing_is_sent_twice() {
    let policy = SettlePolicy { threshold: Some(amount(1_000)), ..SettlePolicy::default() };
    let scene = Scene::new(policy).await;
    scene.market.seller.seat.never_final.send_replace(true);
    (1..=2).for_each(|salt| scene.open(salt));
    scene.unshown(1);
    let first = scene.promise(1, 1_000);
    until("the first is sent", || scene.claimed(first) == 1_000).await;
    scene.looks(first).await;
    assert_eq!(scene.claims(), [[1_000]]);

    // The second is too dear for now, so that it is seen to leave.
    *scene.market.seller.seat.fee_wei.lock().unwrap() = (400, 0);
    let second = scene.promise(2, 300);
    let finish_at_secs = 1 << 40;
    scene.market.chain.set_status(second, ChannelStatus::Closing { finish_at_secs });
    until("it is known", || !scene.leaving().is_empty()).await;
    let leaving = scene.leaving();
    assert_eq!(leaving.iter().map(|row| row.channel).collect::<Vec<_>>(), [second]);
    // Half an hour of an hour's delay is left for it.
    assert_eq!(leaving[0].claim_by_secs, Some(finish_at_secs - 1_800));
    *scene.market.seller.seat.fee_wei.lock().unwrap() = (1, 0);
    until("the second is sent", || scene.claimed(second) == 300).await;

    // Whoever asks waits for what is on its way.
    let seller = Arc::clone(&scene.market.seller.provider);
    let asked = tokio::spawn(async move { seller.settler().settle().await });
    scene.looks(first).await;
    assert!(!asked.is_finished());
    scene.shown(first);
    scene.market.seller.seat.never_final.send_replace(false);
    asked.await.unwrap().unwrap();
    assert_eq!(scene.claims(), [[1_000], [300]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dear_claim_from_a_leaving_payer_waits_for_the_last_safe_moment() {
    let scene = Scene::new(SettlePolicy::default()).await;
    *scene.market.seller.seat.fee_wei.lock().unwrap() = (400, 0);
    scene.open(1);
    let channel = scene.promise(1, 1_000);
    let now = market::clock()().as_secs();
    let finish_at_secs = now + 10_000;
    scene.market.chain.set_status(channel, ChannelStatus::Closing { finish_at_secs });
    scene.looks(channel).await;
    until("it is known", || !scene.leaving().is_empty()).await;
    let row = scene.leaving()[0];
    assert_eq!((row.occasion, row.claim_by_secs), (Occasion::Leaving, Some(now + 8_200)));
    assert_eq!(row.verdict, Verdict::TooDear { fee_max: amount(100) });
    scene.market.seller.seat.block_secs.store(now + 8_199, SeqCst);
    scene.looks(channel).await;
    assert_eq!(scene.claims(), Vec::<Vec<u128>>::new());
    scene.market.seller.seat.block_secs.store(now + 8_200, SeqCst);
    until("it is claimed", || scene.claimed(channel) == 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_claimed_at_shutdown_where_that_is_wanted() {
    for (at_shutdown, claimed) in [(true, 1_000), (false, 0)] {
        let policy = SettlePolicy { at_shutdown, ..SettlePolicy::default() };
        let mut scene = Scene::new(policy).await;
        scene.open(1);
        let channel = scene.promise(1, 1_000);
        scene.market.seller.shutdown.cancel();
        (&mut scene.market.seller.run).await.unwrap();
        assert_eq!(scene.claimed(channel), claimed, "{at_shutdown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_that_leaves_with_dust_makes_no_other_claim_due() {
    let policy = SettlePolicy { threshold: Some(amount(1_000_000)), ..SettlePolicy::default() };
    let scene = Scene::new(policy).await;
    *scene.market.seller.seat.fee_wei.lock().unwrap() = (400, 0);
    (1..=2).for_each(|salt| scene.open(salt));
    let [dust, other] = [(1, 1), (2, 5_000)].map(|(salt, units)| scene.promise(salt, units));
    // Its delay is over, and nobody finishes the close.
    scene.market.chain.set_status(dust, ChannelStatus::Closing { finish_at_secs: 10 });
    scene.market.seller.seat.block_secs.store(100_000, SeqCst);
    scene.looks(other).await;
    until("it is known", || !scene.leaving().is_empty()).await;
    assert_eq!(scene.leaving()[0].occasion, Occasion::LastMoment);
    scene.looks(other).await;
    assert_eq!(scene.claims(), Vec::<Vec<u128>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_which_nobody_heard_is_asked_for_again_as_it_was() {
    let policy = SettlePolicy { threshold: Some(amount(900)), ..SettlePolicy::default() };
    let scene = Scene::new(policy).await;
    scene.market.seller.seat.unheard.store(1, SeqCst);
    scene.market.seller.seat.never_final.send_replace(true);
    scene.open(1);
    scene.unshown(1);
    let channel = scene.promise(1, 1_000);
    until("it is sent", || !scene.claims().is_empty()).await;
    // It is not final yet, and the voucher grows by less than is worth a claim of its own.
    scene.promise(1, 1_300);
    until("it is asked for again", || scene.claims().len() >= 2).await;
    scene.looks(channel).await;
    assert_eq!(scene.claims(), [[1_000], [1_000]]);
    assert_eq!(scene.claimed(channel), 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_on_its_way_is_hurried_when_its_payer_leaves() {
    let policy = SettlePolicy { threshold: Some(amount(1_000)), ..SettlePolicy::default() };
    let scene = Scene::new(policy).await;
    scene.market.seller.seat.never_final.send_replace(true);
    scene.open(1);
    scene.unshown(1);
    let channel = scene.promise(1, 1_000);
    until("it is sent", || !scene.claims().is_empty()).await;
    scene.looks(channel).await;
    assert_eq!(scene.claims().len(), 1);
    scene.market.chain.set_status(channel, ChannelStatus::Closing { finish_at_secs: 1 << 40 });
    until("it is asked for again", || scene.claims().len() == 2).await;
    scene.looks(channel).await;
    // The same intent, once: the chain has been told that it is urgent.
    assert_eq!(scene.claims(), [[1_000], [1_000]]);
}
