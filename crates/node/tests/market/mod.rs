//! A market on loopback: a chain in memory, a provider and consumers with everything else real.
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, clippy::unwrap_used)]

mod chain;
mod client;
mod disk;
mod origins;
mod trader;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use chain::{FakeChain, REGISTRY, Seat, TOKEN, amount, domain};
pub use client::{Client, refused};
pub use disk::Disk;
pub use origins::{echo, nobody, sink, source};
use sparewire_core::{ByteCount, ChannelId, Price, SessionId, Signer, Timestamp, Verified};
use sparewire_node::{
    buyer::BuyerConfig,
    consumer::{Consumer, ConsumerConfig, Link, Session},
    exit::{AllowHost, AllowRule, Exit, ExitPolicy},
    identity::Identity,
    provider::{Provider, ProviderConfig},
    proxy::Proxy,
    seller::SellerConfig,
    session::{Clock, SessionError},
    store::{KnownSession, SqliteStore, Store, StoreError},
    target::{Host, Target},
    transport::{Endpoint, EndpointConfig, PeerAddress, TransportError},
};
use sparewire_protocol::{
    ChannelConfig, CreditRule, Payment, Reading, Record, Role, Statement, Voucher,
    settlement::SettlePolicy,
};
use sparewire_wallet::{DeviceKey, LocalKey};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
pub use trader::Trader;

/// One unit for each byte: what is paid can be read as bytes.
pub const PRICE: u128 = 1 << 30;
pub const INITIAL: u64 = 128 << 10;
pub const WEALTH: u128 = 1 << 60;

pub async fn within<T>(secs: u64, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(secs), what).await.expect("in time")
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), poll).await;
    waited.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

pub fn clock() -> Clock {
    Arc::new(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::from_ms(now.as_millis() as u64)
    })
}

pub fn target(addr: SocketAddr) -> Target {
    Target { host: Host::Ip(addr.ip()), port: addr.port() }
}

pub struct Keys {
    pub wallet: LocalKey,
    pub device: Arc<DeviceKey>,
    pub authorizer: Arc<LocalKey>,
}

impl Keys {
    pub fn random() -> Arc<Self> {
        Arc::new(Self {
            wallet: LocalKey::random().unwrap(),
            device: Arc::new(DeviceKey::random().unwrap()),
            authorizer: Arc::new(LocalKey::random().unwrap()),
        })
    }

    pub fn identity(&self) -> Identity {
        let now = clock()();
        let (device, authorizer) = (self.device.clone(), self.authorizer.clone());
        Identity::delegate(&self.wallet, device, authorizer, &domain(), now, 3600).unwrap()
    }

    pub async fn endpoint(&self, addr: Option<SocketAddr>) -> Endpoint {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        within(10, async {
            loop {
                let config = EndpointConfig {
                    bind_addr: Some(addr.unwrap_or(any)),
                    ..EndpointConfig::new(*self.device.secret())
                };
                match Endpoint::bind(config).await {
                    // The sockets of an endpoint close in the background.
                    Err(TransportError::PortTaken { .. }) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    bound => return bound.unwrap(),
                }
            }
        })
        .await
    }

    /// A channel from us to `payee`.
    pub fn channel_to(&self, payee: &Self, salt: u64) -> ChannelConfig {
        ChannelConfig {
            payer: self.wallet.address(),
            payer_authorizer: self.authorizer.address(),
            payee: payee.wallet.address(),
            payee_authorizer: payee.authorizer.address(),
            token: TOKEN,
            withdraw_delay_secs: 3600,
            salt,
        }
    }
}

/// What `payer` signs for `units` in all over its channel, at a unit for each byte.
pub fn payment(payer: &Keys, config: &ChannelConfig, units: u128) -> Payment {
    let voucher = Voucher { channel: config.id(&domain()), amount: amount(units) };
    Payment {
        session: SessionId([7; 32].into()),
        reading: Reading { up: ByteCount::ZERO, down: ByteCount::new(units as u64) },
        voucher: *Verified::sign(voucher, &domain(), &*payer.authorizer).unwrap().signed(),
    }
}

/// A payee's store remembers a payment over the channel.
pub fn remember(store: &dyn Store, config: &ChannelConfig, payment: Payment) -> ChannelId {
    let channel = config.id(&domain());
    store.keep_channel(Role::Payee, &domain(), config).unwrap();
    store.record(&[Record::Payment { channel, payment }]).unwrap();
    channel
}

/// A payee's store remembers that `payer` promised `units` in all over its channel.
pub fn promise(store: &dyn Store, payer: &Keys, config: &ChannelConfig, units: u128) -> ChannelId {
    remember(store, config, payment(payer, config, units))
}

/// Opens a store, whose last holder may still be letting go of it.
pub async fn open_store(directory: &Path) -> Arc<SqliteStore> {
    within(20, async {
        loop {
            match SqliteStore::open(&directory.join("store.sqlite")) {
                Ok(store) => return Arc::new(store),
                Err(StoreError::InUse { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

pub fn provider_config() -> ProviderConfig {
    ProviderConfig {
        selling: SellerConfig {
            token: TOKEN,
            withdraw_delay_secs_min: 900,
            channel_min: amount(1),
            terms_valid_ms: 3_600_000,
            sessions_max: 64,
            facts_every: Duration::from_millis(100),
            closes_every: Duration::from_secs(60),
            keys: Some(REGISTRY),
            settle: SettlePolicy::default(),
        },
        price: Price::per_gib(PRICE).unwrap(),
        credit: CreditRule::default(),
        streams_max: 512,
        streams_per_sec_max: 200,
    }
}

/// Loopback is where the origins are.
pub fn exit_policy() -> ExitPolicy {
    let loopback = AllowHost::Network(IpAddr::from(Ipv4Addr::LOCALHOST).into());
    ExitPolicy { allow: vec![AllowRule { host: loopback, port: None }], ..ExitPolicy::default() }
}

pub fn consumer_config() -> ConsumerConfig {
    ConsumerConfig {
        buying: BuyerConfig {
            token: TOKEN,
            price_max: Price::per_gib(PRICE).unwrap(),
            channel_amount: amount(1 << 40),
            budget: amount(1 << 42),
            withdraw_delay_secs: 3600,
            withdraw_delay_secs_max: 86_400,
            keys: Some(REGISTRY),
            keys_every: Duration::from_secs(60),
            forgive: false,
        },
        streams_max: 512,
    }
}

/// A provider process.
pub struct Seller {
    pub keys: Arc<Keys>,
    pub seat: Arc<Seat>,
    pub disk: Arc<Disk>,
    pub provider: Arc<Provider>,
    pub endpoint: Endpoint,
    pub shutdown: CancellationToken,
    pub run: JoinHandle<()>,
}

impl Seller {
    pub async fn start(
        chain: &Arc<FakeChain>,
        keys: &Arc<Keys>,
        directory: &Path,
        addr: Option<SocketAddr>,
    ) -> Self {
        let exit = Exit::new(exit_policy());
        Self::start_with(chain, keys, directory, addr, provider_config(), exit).await
    }

    pub async fn start_with(
        chain: &Arc<FakeChain>,
        keys: &Arc<Keys>,
        directory: &Path,
        addr: Option<SocketAddr>,
        config: ProviderConfig,
        exit: Exit,
    ) -> Self {
        let identity = keys.identity();
        Self::start_as(chain, keys, identity, directory, addr, config, exit).await
    }

    /// The same by the word of another wallet than the one that pays gas.
    pub async fn start_as(
        chain: &Arc<FakeChain>,
        keys: &Arc<Keys>,
        identity: Identity,
        directory: &Path,
        addr: Option<SocketAddr>,
        config: ProviderConfig,
        exit: Exit,
    ) -> Self {
        let seat = Seat::new(chain, keys.wallet.address());
        let disk = Arc::new(Disk { sqlite: open_store(directory).await, full: false.into() });
        let endpoint = keys.endpoint(addr).await;
        let provider = Provider::new(
            config,
            identity,
            endpoint.clone(),
            disk.clone(),
            seat.clone(),
            exit,
            clock(),
        );
        let shutdown = CancellationToken::new();
        let run = tokio::spawn({
            let (provider, shutdown) = (provider.clone(), shutdown.clone());
            async move { provider.run(shutdown).await }
        });
        Self { keys: keys.clone(), seat, disk, provider, endpoint, shutdown, run }
    }

    pub fn address(&self) -> PeerAddress {
        PeerAddress { node: self.endpoint.node_id(), addrs: self.endpoint.bound_addrs() }
    }

    /// Shuts down properly and lets go of everything.
    pub async fn stop(self) {
        self.shutdown.cancel();
        within(20, self.run).await.unwrap();
        self.endpoint.close().await;
    }

    pub fn session(&self, id: SessionId) -> Option<KnownSession> {
        self.disk.session(id).unwrap()
    }

    pub fn payment(&self, id: SessionId) -> Option<Payment> {
        self.session(id)?.payment
    }

    /// Its statement of a session that has ended.
    pub async fn statement(&self, id: SessionId) -> Statement {
        let ended = || self.session(id).is_some_and(|known| known.statement.is_some());
        until("the provider has recorded the session's end", ended).await;
        self.session(id).unwrap().statement.unwrap()
    }
}

/// A consumer process with its proxy.
pub struct Buyer {
    pub keys: Arc<Keys>,
    pub seat: Arc<Seat>,
    pub disk: Arc<Disk>,
    pub consumer: Arc<Consumer>,
    pub endpoint: Endpoint,
    pub proxy: SocketAddr,
    pub shutdown: CancellationToken,
    pub run: JoinHandle<Result<Statement, SessionError>>,
    serve: JoinHandle<()>,
}

impl Buyer {
    pub async fn start(
        chain: &Arc<FakeChain>,
        keys: &Arc<Keys>,
        directory: &Path,
        provider: PeerAddress,
        config: ConsumerConfig,
    ) -> Self {
        let seat = Seat::new(chain, keys.wallet.address());
        let disk = Arc::new(Disk { sqlite: open_store(directory).await, full: false.into() });
        let endpoint = keys.endpoint(None).await;
        let consumer = Consumer::new(
            config,
            provider,
            keys.identity(),
            endpoint.clone(),
            disk.clone(),
            seat.clone(),
            clock(),
        );
        let proxy = Proxy::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let addr = proxy.addr();
        let serve = tokio::spawn(proxy.serve(consumer.clone()));
        let shutdown = CancellationToken::new();
        let run = tokio::spawn({
            let (consumer, shutdown) = (consumer.clone(), shutdown.clone());
            async move { consumer.run(shutdown).await }
        });
        let keys = keys.clone();
        Self { keys, seat, disk, consumer, endpoint, proxy: addr, shutdown, run, serve }
    }

    /// The running session, once there is one.
    pub async fn session(&self) -> Arc<Session> {
        let mut link = self.consumer.link();
        let up = within(30, link.wait_for(|link| matches!(link, Link::Up(_)))).await.unwrap();
        let Link::Up(session) = &*up else { unreachable!() };
        session.clone()
    }

    pub async fn session_id(&self) -> SessionId {
        figures(&*self.session().await).await.session
    }

    /// Bytes that the running session has counted.
    pub async fn counted(&self) -> u64 {
        total(&figures(&*self.session().await).await)
    }

    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream, String> {
        connect(self.proxy, &to.to_string()).await
    }

    /// Begins a download that goes on until its end is dropped or broken.
    pub async fn download(&self, source: SocketAddr) -> JoinHandle<u64> {
        let mut tcp = self.connect(source).await.unwrap();
        tokio::spawn(async move {
            let (mut buffer, mut got) = (vec![0; 64 << 10], 0);
            while let Ok(n @ 1..) = tcp.read(&mut buffer).await {
                got += n as u64;
            }
            got
        })
    }

    /// Ends properly.
    pub async fn close(self) -> Result<Statement, SessionError> {
        self.shutdown.cancel();
        let result = within(40, self.run).await.unwrap();
        self.serve.abort();
        self.endpoint.close().await;
        result
    }

    /// Waits for its end, which comes by itself.
    pub async fn ended(self) -> Result<Statement, SessionError> {
        let result = within(30, self.run).await.unwrap();
        self.serve.abort();
        let _ = self.serve.await;
        self.endpoint.close().await;
        result
    }

    /// Dies without a word to its own code.
    pub async fn kill(self) {
        self.run.abort();
        self.serve.abort();
        let _ = self.run.await;
        let _ = self.serve.await;
        self.endpoint.close().await;
    }
}

/// Asks the proxy for a tunnel; the error is its whole answer.
pub async fn connect(proxy: SocketAddr, to: &str) -> Result<TcpStream, String> {
    within(30, async {
        let mut tcp = TcpStream::connect(proxy).await.unwrap();
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tcp.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(error) => return Err(error.to_string()),
            }
        }
        let head = String::from_utf8(head).unwrap();
        if head.starts_with("HTTP/1.1 200") { Ok(tcp) } else { Err(head) }
    })
    .await
}

/// A session's figures; it has none in its very first moment.
pub async fn figures(session: &Session) -> Statement {
    until("it has figures", || session.figures().is_some()).await;
    session.figures().unwrap()
}

pub fn total(statement: &Statement) -> u64 {
    statement.counted.checked_total().unwrap().get()
}

/// What both statements of a session must have in common.
pub fn assert_agree(consumer: &Statement, provider: &Statement) {
    assert_eq!(consumer.session, provider.session);
    assert_eq!(consumer.channel, provider.channel);
    assert_eq!(consumer.counted, provider.counted, "counted");
    assert_eq!(consumer.receipted, provider.receipted, "receipted");
    assert_eq!(consumer.receipted, consumer.counted, "all that was counted is receipted");
    assert_eq!(consumer.price, provider.price);
    assert_eq!(consumer.paid, provider.paid, "paid");
    assert_eq!(consumer.cumulative, provider.cumulative, "cumulative");
    assert_eq!(u128::from(total(consumer)), consumer.paid.get(), "a unit for each byte");
}

/// A chain, a provider, and the means for consumers.
pub struct Market {
    pub chain: Arc<FakeChain>,
    pub seller: Seller,
    pub seller_directory: TempDir,
}

impl Market {
    pub async fn new() -> Self {
        Self::with(provider_config(), Exit::new(exit_policy())).await
    }

    pub async fn with(config: ProviderConfig, exit: Exit) -> Self {
        let (chain, keys) = (Arc::new(FakeChain::default()), Keys::random());
        let seller_directory = tempfile::tempdir().unwrap();
        let path = seller_directory.path();
        let seller = Seller::start_with(&chain, &keys, path, None, config, exit).await;
        Self { chain, seller, seller_directory }
    }

    /// A new consumer with money.
    pub async fn buyer(&self) -> (Buyer, TempDir) {
        self.buyer_with(consumer_config()).await
    }

    pub async fn buyer_with(&self, config: ConsumerConfig) -> (Buyer, TempDir) {
        let (keys, directory) = (Keys::random(), tempfile::tempdir().unwrap());
        self.chain.mint(keys.wallet.address(), WEALTH);
        let address = self.seller.address();
        let buyer = Buyer::start(&self.chain, &keys, directory.path(), address, config).await;
        (buyer, directory)
    }

    /// A hand-written consumer with an open channel.
    pub async fn client(&self) -> (Client, ChannelConfig) {
        let keys = Keys::random();
        let channel = keys.channel_to(&self.seller.keys, 1);
        self.chain.open(&channel, 1 << 40);
        (Client::connect(&keys, &self.seller.address()).await, channel)
    }

    /// An honest consumer is served from beginning to end.
    pub async fn serves_an_honest_consumer(&self) {
        let (buyer, _directory) = self.buyer().await;
        let mut tcp = buyer.connect(echo().await).await.unwrap();
        tcp.write_all(b"honest").await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = String::new();
        within(10, tcp.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "honest");
        drop(tcp);
        let statement = buyer.close().await.unwrap();
        assert_agree(&statement, &self.seller.statement(statement.session).await);
        assert_eq!(total(&statement), 12);
    }
}
