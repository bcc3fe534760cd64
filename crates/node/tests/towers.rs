//! A payee and a watchtower on loopback, with a chain in memory: what is handed over, what is
//! acknowledged, and what becomes of it.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering::SeqCst},
};

use market::{
    FakeChain, Keys, Seat, TOKEN, amount, clock, domain, open_store, payment, promise, until,
};
use sparewire_core::{Address, Amount, ChannelId, DeviceSigner, DeviceStatement, Signed, Signer};
use sparewire_node::{
    store::{SqliteStore, Store},
    tower::{EntrustConfig, Entrusting, TowerService, TowerStatus, TowerStore},
    transport::{Endpoint, EndpointConfig, PeerAddress, WATCH_ALPN},
};
use sparewire_protocol::{
    Appointment, ChannelConfig, ChannelStatus, Entrust, Kept,
    settlement::Intent,
    watch::{Charge, TowerPolicy, WatchRecord},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A tower that watches for one friend.
struct Tower {
    service: Arc<TowerService>,
    seat: Arc<Seat>,
    wallet: Address,
    store: Arc<TowerStore>,
    address: PeerAddress,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Tower {
    async fn start(chain: &Arc<FakeChain>, friend: &Keys, dir: &TempDir) -> Self {
        Self::start_with(chain, friend, dir, |_| {}).await
    }

    async fn start_with(
        chain: &Arc<FakeChain>,
        friend: &Keys,
        dir: &TempDir,
        prepare: impl FnOnce(&Seat),
    ) -> Self {
        let keys = Keys::random();
        let mut config = EndpointConfig::new(*keys.device.secret());
        config.bind_addr = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.alpns = &[WATCH_ALPN];
        let endpoint = Endpoint::bind(config).await.unwrap();
        let policy = TowerPolicy {
            domain: domain(),
            towers: Address::ZERO,
            token: TOKEN,
            reward_min: amount(1_000),
            friends: BTreeSet::from([friend.device.node_id()]),
            withdraw_delay_secs_min: 0,
            appointments_max: 1_000,
            appointments_per_client_max: 1_000,
            look_ms: 50,
        };
        let store = Arc::new(TowerStore::open(&dir.path().join("tower.sqlite")).unwrap());
        let wallet = keys.wallet.address();
        let seat = Seat::new(chain, wallet);
        prepare(&seat);
        let (device, address) = (keys.device.clone(), endpoint.address());
        let service = TowerService::new(
            policy,
            device,
            endpoint.clone(),
            store.clone(),
            seat.clone(),
            clock(),
        )
        .unwrap();
        let stop = CancellationToken::new();
        let (run, shutdown) = (service.clone(), stop.clone());
        let running = tokio::spawn(async move {
            run.run(shutdown).await;
            endpoint.close().await;
        });
        Self { service, seat, wallet, store, address, stop, running }
    }

    /// What it holds a voucher for, over all channels.
    fn holds(&self) -> u128 {
        self.service.watched().iter().map(|(charge, _)| charge.entrust.amount().get()).sum()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

/// A payee that entrusts to one tower whatever it is promised.
struct Payee {
    keys: Arc<Keys>,
    payer: Arc<Keys>,
    store: Arc<SqliteStore>,
    dir: TempDir,
}

impl Payee {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open_store(dir.path()).await;
        Self { keys: Keys::random(), payer: Keys::random(), store, dir }
    }

    fn channel(&self, salt: u64) -> ChannelConfig {
        self.payer.channel_to(&self.keys, salt)
    }

    fn is_promised(&self, salt: u64, units: u128) -> ChannelId {
        promise(&*self.store, &self.payer, &self.channel(salt), units)
    }

    async fn entrusting(&self, tower: &PeerAddress) -> Arc<Entrusting> {
        let config = EntrustConfig {
            towers: vec![tower.clone()],
            contract: Address::ZERO,
            token: TOKEN,
            reward: Amount::ZERO,
            step: Amount::ZERO,
            wait_ms: 0,
        };
        let kept = Arc::new(TowerStore::open(&self.dir.path().join("watch.sqlite")).unwrap());
        let endpoint = self.keys.endpoint(None).await;
        let identity = self.keys.identity();
        let store: Arc<dyn Store> = self.store.clone();
        Entrusting::new(config, identity, endpoint, store, domain(), kept, clock()).unwrap()
    }
}

fn status(entrusting: &Entrusting) -> TowerStatus {
    entrusting.status(|_| Amount::ZERO).unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vouchers_are_entrusted_as_they_grow_and_claimed_when_the_payer_leaves() {
    let (chain, payee) = (Arc::new(FakeChain::default()), Payee::new().await);
    let dir = tempfile::tempdir().unwrap();
    let tower = Tower::start(&chain, &payee.keys, &dir).await;
    chain.open(&payee.channel(1), 1_000);
    payee.is_promised(1, 100);
    let entrusting = payee.entrusting(&tower.address).await;
    let awake = CancellationToken::new();
    let (run, sleep) = (entrusting.clone(), awake.clone());
    let running = tokio::spawn(async move { run.run(sleep).await });
    until("the tower holds the first", || tower.holds() == 100).await;
    payee.is_promised(1, 150);
    until("the tower holds the newest", || tower.holds() == 150).await;
    until("it is acknowledged", || status(&entrusting).watched_units == amount(150)).await;
    let told = status(&entrusting);
    assert_eq!((told.channels, told.reachable, told.trouble), (1, Some(true), None));
    assert_eq!(told.unwatched_units, Amount::ZERO);

    // The last voucher comes while the payee falls asleep.
    let channel = payee.is_promised(1, 170);
    awake.cancel();
    running.await.unwrap();
    assert_eq!(tower.holds(), 170);
    let remembered = status(&*payee.entrusting(&tower.address).await);
    assert_eq!((remembered.watched_units, remembered.reachable), (amount(170), None));

    // The payer leaves while the tower's node is gone.
    tower.seat.unreachable.store(true, SeqCst);
    let finish_at_secs = clock()().as_secs() + 5;
    chain.set_status(channel, ChannelStatus::Closing { finish_at_secs });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(chain.facts(channel).claimed, Amount::ZERO);
    tower.seat.unreachable.store(false, SeqCst);
    until("it is claimed", || chain.facts(channel).claimed == amount(170)).await;
    until("nothing is left to do", || tower.service.watched().is_empty()).await;
    assert_eq!(chain.performed(tower.wallet).len(), 1);
    // The machine forgets first, then the store.
    until("its store forgets it", || tower.store.charges().unwrap().is_empty()).await;
    tower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tower_with_a_full_disk_acknowledges_nothing_until_there_is_room() {
    let (chain, payee) = (Arc::new(FakeChain::default()), Payee::new().await);
    let dir = tempfile::tempdir().unwrap();
    let tower = Tower::start(&chain, &payee.keys, &dir).await;
    // The pages that are there have room for a few.
    for salt in 1..=40 {
        chain.open(&payee.channel(salt), 1_000);
        payee.is_promised(salt, 100);
    }
    tower.store.limit_pages(1).unwrap();
    let entrusting = payee.entrusting(&tower.address).await;
    let awake = CancellationToken::new();
    let (run, sleep) = (entrusting.clone(), awake.clone());
    let running = tokio::spawn(async move { run.run(sleep).await });
    until("the tower says why", || {
        status(&entrusting).trouble.is_some_and(|trouble| trouble.contains("recorded"))
    })
    .await;
    let (acknowledged, durable) = (status(&entrusting).channels, tower.store.charges().unwrap());
    assert!(acknowledged < 40 && acknowledged <= durable.len(), "{acknowledged}, {durable:?}");
    tower.store.limit_pages(10_000).unwrap();
    until("all are acknowledged", || status(&entrusting).watched_units == amount(4_000)).await;
    assert_eq!(tower.store.charges().unwrap().len(), 40);

    // A tower that is gone is told as such.
    tower.stop().await;
    payee.is_promised(1, 200);
    until("it is missed", || status(&entrusting).reachable == Some(false)).await;
    assert_eq!(status(&entrusting).unwatched_units, amount(100));
    awake.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_claimed_or_whose_appointment_expired_is_not_said_to_be_watched() {
    let payee = Payee::new().await;
    let now_secs = clock()().as_secs();
    let tower = Keys::random();
    let path = payee.dir.path().join("watch.sqlite");
    let store = TowerStore::open(&path).unwrap();
    // Three of 100 each: one that counts, one that expired, and one that is claimed.
    let [counts, expired, claimed] = [1, 2, 3].map(|salt| payee.is_promised(salt, 100));
    for (channel, expiry_secs) in
        [(counts, now_secs + 60), (expired, now_secs), (claimed, now_secs + 60)]
    {
        let kept = Kept {
            tower: tower.device.node_id(),
            client: payee.keys.device.node_id(),
            domain: domain(),
            channel,
            amount: amount(100),
            reward: Amount::ZERO,
            expiry_secs,
            turn: (0, 1),
            time: clock()(),
        };
        store.acknowledge(&kept, tower.device.sign_bytes(&kept.signing_bytes())).unwrap();
    }
    drop(store);
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let address = PeerAddress { node: tower.device.node_id(), addrs: vec![nowhere] };
    let entrusting = payee.entrusting(&address).await;
    let settled = |id| if id == claimed { amount(100) } else { Amount::ZERO };
    let told = entrusting.status(settled).unwrap().remove(0);
    assert_eq!((told.channels, told.watched_units), (1, amount(100)));
    assert_eq!(told.unwatched_units, amount(100), "of the one that expired");
}

/// An appointment without a reward over all of a channel, as if it had been handed over before.
fn charge(payer: &Keys, payee: &Keys, salt: u64) -> Charge {
    let config = payer.channel_to(payee, salt);
    let voucher = payment(payer, &config, 100).voucher;
    let body = Appointment {
        channel: voucher.body.channel,
        amount: voucher.body.amount,
        payee: config.payee,
        token: TOKEN,
        reward: Amount::ZERO,
        expiry_secs: clock()().as_secs() + 86_400,
    };
    let appointment = Signed { body, signature: voucher.signature };
    let towers = Address::ZERO;
    let entrust =
        Entrust { domain: domain(), towers, config, voucher, appointment, turn: 0, turns: 1 };
    Charge { client: payee.device.node_id(), entrust, since: clock()() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_defence_waits_for_others_to_be_final_and_one_payees_claims_go_together() {
    const PAYEES: usize = 40;
    let (chain, payer) = (Arc::new(FakeChain::default()), Keys::random());
    let dir = tempfile::tempdir().unwrap();
    let store = TowerStore::open(&dir.path().join("tower.sqlite")).unwrap();
    let finish_at_secs = clock()().as_secs() + 5;
    let mut channels = Vec::new();
    for number in 0..PAYEES {
        let payee = Keys::random();
        // The last has many channels.
        for salt in 0..if number + 1 < PAYEES { 1 } else { 12 } {
            let charge = charge(&payer, &payee, salt);
            let channel = charge.entrust.channel();
            chain.open(&charge.entrust.config, 100);
            chain.set_status(channel, ChannelStatus::Closing { finish_at_secs });
            store.record(&WatchRecord::Keep(charge)).unwrap();
            channels.push(channel);
        }
    }
    drop(store);
    let keys = Keys::random();
    let tower = Tower::start_with(&chain, &keys, &dir, |seat| {
        seat.never_final.send_replace(true);
    })
    .await;
    until("all are claimed, and none is final", || {
        channels.iter().all(|channel| chain.facts(*channel).claimed == amount(100))
    })
    .await;
    assert_eq!(tower.service.watched().len(), channels.len());
    let performed = chain.performed(tower.wallet);
    assert!(performed.len() < channels.len(), "{} intents", performed.len());
    assert!(performed.iter().all(|intent| matches!(intent, Intent::Claim { .. })));
    tower.seat.never_final.send_replace(false);
    until("nothing is left to do", || tower.service.watched().is_empty()).await;
    assert_eq!(chain.performed(tower.wallet).len(), performed.len(), "nothing was done twice");
    tower.stop().await;
}
