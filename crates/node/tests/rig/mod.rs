//! Two endpoints on loopback with a connection between them, and tunnels over it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{
    hash::{DefaultHasher, Hasher},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use sparewire_node::{
    copy::{CopyReport, DrainLimit, Gate, Pause, Tally, Tunnel, consumer_copy, provider_copy},
    transport::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream},
};
use sparewire_protocol::Direction;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub async fn endpoint(secret: u8) -> Endpoint {
    let config =
        EndpointConfig { bind_addr: Some(loopback()), ..EndpointConfig::new([secret; 32]) };
    Endpoint::bind(config).await.unwrap()
}

pub struct Rig {
    pub provider: Connection,
    pub consumer: Connection,
    pub endpoints: [Endpoint; 2],
}

impl Rig {
    pub async fn new() -> Self {
        let (p, c) = (endpoint(1).await, endpoint(2).await);
        let address = p.address();
        let (provider, consumer) =
            tokio::join!(async { p.accept().await.unwrap().handshake().await.unwrap() }, async {
                c.connect(&address).await.unwrap()
            });
        Self { provider, consumer, endpoints: [p, c] }
    }

    /// A stream between the two: the consumer's ends and the provider's.
    pub async fn stream(&self) -> ((SendStream, RecvStream), (SendStream, RecvStream)) {
        let (mut send, recv) = self.consumer.open_bi().await.unwrap();
        send.write_chunk(Bytes::from_static(b"!")).await.unwrap();
        let (provider_send, mut provider_recv) = self.provider.accept_bi().await.unwrap();
        provider_recv.read_exact(&mut [0]).await.unwrap();
        ((send, recv), (provider_send, provider_recv))
    }

    /// A tunnel from an application to an origin, with both pumps running.
    pub async fn tunnel(&self, gate: &Arc<Meter>, tally: &Arc<Meter>) -> Running {
        self.tunnel_with(gate, tally, Bytes::new(), DrainLimit::default()).await
    }

    pub async fn tunnel_with(
        &self,
        gate: &Arc<Meter>,
        tally: &Arc<Meter>,
        leftover: Bytes,
        limit: DrainLimit,
    ) -> Running {
        let (app, app_side) = tcp_pair().await;
        let (origin, origin_side) = tcp_pair().await;
        let ((send, recv), (provider_send, provider_recv)) = self.stream().await;
        let (aborted, broken) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (pause, pauses) = (Arc::new(Pause::default()), Arc::new(AtomicU64::new(0)));
        let consumer = {
            let (pause, pauses) = (pause.clone(), pauses.clone());
            let (tally, aborted, broken) = (tally.clone(), aborted.clone(), broken.clone());
            let tunnel = Tunnel { tcp: app_side, leftover, send, recv };
            tokio::spawn(async move {
                let heard = async { broken.notified().await };
                let flow = |paused| {
                    pauses.fetch_add(u64::from(paused), SeqCst);
                    pause.set(paused);
                    async {}
                };
                let abort = async { aborted.notify_one() };
                consumer_copy(tunnel, &tally, limit, flow, heard, abort).await
            })
        };
        let provider = {
            let gate = gate.clone();
            let tunnel = Tunnel {
                tcp: origin_side,
                leftover: Bytes::new(),
                send: provider_send,
                recv: provider_recv,
            };
            tokio::spawn(async move {
                let heard = async { aborted.notified().await };
                let tell = async { broken.notify_one() };
                provider_copy(tunnel, &gate, limit, &pause, heard, tell).await
            })
        };
        Running { app, origin, consumer, provider, pauses }
    }
}

pub struct Running {
    pub app: TcpStream,
    pub origin: TcpStream,
    pub consumer: JoinHandle<CopyReport>,
    pub provider: JoinHandle<CopyReport>,
    /// How often the consumer asked for a pause.
    pub pauses: Arc<AtomicU64>,
}

/// Our end and the far end of a TCP connection on loopback.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A gate with a limit on the sum of both directions; also a tally.
pub struct Meter {
    pub limit: AtomicU64,
    pub up: AtomicU64,
    pub down: AtomicU64,
    pub stopped: AtomicBool,
    changed: Notify,
}

impl Meter {
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.into(),
            up: 0.into(),
            down: 0.into(),
            stopped: false.into(),
            changed: Notify::new(),
        })
    }

    pub fn open() -> Arc<Self> {
        Self::new(u64::MAX)
    }

    pub fn counts(&self) -> (u64, u64) {
        (self.up.load(SeqCst), self.down.load(SeqCst))
    }

    pub fn raise(&self, limit: u64) {
        self.limit.store(limit, SeqCst);
        self.changed.notify_waiters();
    }

    pub fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.changed.notify_waiters();
    }

    fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

impl Gate for Meter {
    fn try_admit(&self, direction: Direction, want: usize) -> usize {
        // Take from the limit, so that two streams cannot share a byte.
        let taken = self.limit.fetch_update(SeqCst, SeqCst, |limit| {
            let granted = limit.min(want as u64);
            (granted > 0).then(|| limit - granted)
        });
        let granted = taken.map_or(0, |limit| limit.min(want as u64));
        self.counter(direction).fetch_add(granted, SeqCst);
        granted as usize
    }

    async fn wait(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.stopped.load(SeqCst) {
                return false;
            }
            if self.limit.load(SeqCst) > 0 {
                return true;
            }
            changed.await;
        }
    }
}

impl Tally for Meter {
    fn count(&self, direction: Direction, bytes: usize) {
        self.counter(direction).fetch_add(bytes as u64, SeqCst);
    }
}

/// How long anything may take.
pub const SOON: Duration = Duration::from_secs(20);

/// Bytes that do not repeat.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Everything to the end.
pub async fn read_all(tcp: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, tcp.read_to_end(&mut bytes)).await.expect("in time").unwrap();
    bytes
}
