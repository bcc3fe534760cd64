//! What a byte costs in CPU time on its way, both ends and all sockets in this process, in the
//! same run: a bare stream; the whole path from an origin's TCP connection through provider and
//! consumer to an application's; and TCP alone over as many connections, to tell what of the path
//! is the kernel's.
//!
//! `cargo run --release -p sparewire-node --example path_cost -- [MiB per run] [runs] [only this]`
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use sparewire_node::{
    copy::{DrainLimit, Gate, Pause, Tally, Tunnel, consumer_copy, provider_copy},
    transport::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream},
};
use sparewire_protocol::Direction;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const NAMES: [&str; 4] = ["bare", "down", "up", "two-tcp"];
const BLOCK: usize = 256 << 10;

/// Counts as the real meter does: one atomic addition a chunk.
#[derive(Default)]
struct Open(AtomicU64);

impl Gate for Open {
    fn try_admit(&self, _direction: Direction, want: usize) -> usize {
        self.0.fetch_add(want as u64, Relaxed);
        want
    }
    async fn wait(&self) -> bool {
        true
    }
}

impl Tally for Open {
    fn count(&self, _direction: Direction, bytes: usize) {
        self.0.fetch_add(bytes as u64, Relaxed);
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let bytes = arguments.next().map_or(1024, |mib| mib.parse::<u64>().unwrap()) << 20;
    let runs = arguments.next().map_or(5, |runs| runs.parse::<u32>().unwrap());
    let only = arguments.next();
    let (provider, consumer) = connect().await;
    println!("{:>10} {:>14} {:>10}", "", "CPU-s per GiB", "MiB/s");
    let mut sums = [[0.0; 2]; NAMES.len()];
    for _ in 0..runs {
        for (which, (name, sum)) in NAMES.iter().zip(&mut sums).enumerate() {
            if only.as_ref().is_some_and(|only| only != name) {
                continue;
            }
            let result = match which {
                0 => measure(bytes, bare(&provider, &consumer, bytes)).await,
                1 => measure(bytes, down(&provider, &consumer, bytes)).await,
                2 => measure(bytes, up(&provider, &consumer, bytes)).await,
                _ => measure(bytes, two_tcp(bytes)).await,
            };
            println!("{name:>10} {:14.2} {:10.0}", result[0], result[1]);
            *sum = [sum[0] + result[0] / f64::from(runs), sum[1] + result[1] / f64::from(runs)];
        }
    }
    println!("\nmeans of {runs} runs:");
    for (name, [cpu, rate]) in NAMES.iter().zip(sums) {
        println!("{name:>10} {cpu:14.2} {rate:10.0}");
    }
}

/// CPU seconds per GiB and MiB per second.
async fn measure(bytes: u64, work: impl Future<Output = ()>) -> [f64; 2] {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    work.await;
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    [cpu / (bytes as f64 / f64::from(1 << 30)), bytes as f64 / f64::from(1 << 20) / elapsed]
}

/// User and system time of this process, in the kernel's ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

async fn connect() -> (Connection, Connection) {
    let bind_addr: Option<SocketAddr> = Some("127.0.0.1:0".parse().unwrap());
    let config = |secret| EndpointConfig { bind_addr, ..EndpointConfig::new([secret; 32]) };
    let provider = Endpoint::bind(config(1)).await.unwrap();
    let consumer = Endpoint::bind(config(2)).await.unwrap();
    let address = provider.address();
    let connections = tokio::join!(
        async { provider.accept().await.unwrap().handshake().await.unwrap() },
        async { consumer.connect(&address).await.unwrap() }
    );
    std::mem::forget((provider, consumer)); // they live as long as the process
    connections
}

type Halves = (SendStream, RecvStream);

async fn stream(provider: &Connection, consumer: &Connection) -> (Halves, Halves) {
    let (mut send, recv) = consumer.open_bi().await.unwrap();
    send.write_chunk(Bytes::from_static(b"!")).await.unwrap();
    let (provider_send, mut provider_recv) = provider.accept_bi().await.unwrap();
    provider_recv.read_exact(&mut [0]).await.unwrap();
    ((send, recv), (provider_send, provider_recv))
}

async fn bare(provider: &Connection, consumer: &Connection, bytes: u64) {
    let ((_send, mut recv), (mut provider_send, _recv)) = stream(provider, consumer).await;
    let sending = tokio::spawn(async move {
        let block = Bytes::from(vec![7; BLOCK]);
        for _ in 0..bytes / BLOCK as u64 {
            provider_send.write_chunk(block.clone()).await.unwrap();
        }
        provider_send.finish();
        provider_send
    });
    let receiving = tokio::spawn(async move {
        let mut chunks = [const { Bytes::new() }; 64];
        while recv.read_chunks(&mut chunks).await.unwrap().is_some() {}
    });
    receiving.await.unwrap();
    sending.await.unwrap();
}

async fn down(provider: &Connection, consumer: &Connection, bytes: u64) {
    let tunnel = tunnel(provider, consumer).await;
    let (mut app, origin) = (tunnel.0, tunnel.1);
    app.shutdown().await.unwrap();
    let (source, sink) = (tokio::spawn(source(origin, bytes)), tokio::spawn(sink(app)));
    assert_eq!(sink.await.unwrap(), bytes);
    source.await.unwrap();
}

async fn up(provider: &Connection, consumer: &Connection, bytes: u64) {
    let tunnel = tunnel(provider, consumer).await;
    let (app, mut origin) = (tunnel.0, tunnel.1);
    origin.shutdown().await.unwrap();
    let (source, sink) = (tokio::spawn(source(app, bytes)), tokio::spawn(sink(origin)));
    assert_eq!(sink.await.unwrap(), bytes);
    source.await.unwrap();
}

/// The application's and the origin's connection, with both pumps running between them.
async fn tunnel(provider: &Connection, consumer: &Connection) -> (TcpStream, TcpStream) {
    let (app, app_side) = tcp_pair().await;
    let (origin, origin_side) = tcp_pair().await;
    let ((send, recv), (provider_send, provider_recv)) = stream(provider, consumer).await;
    let limit = DrainLimit::default();
    tokio::spawn(async move {
        let tunnel = Tunnel { tcp: app_side, leftover: Bytes::new(), send, recv };
        let never = std::future::pending();
        consumer_copy(tunnel, &Arc::new(Open::default()), limit, |_| async {}, never, async {})
            .await
    });
    tokio::spawn(async move {
        let (send, recv) = (provider_send, provider_recv);
        let tunnel = Tunnel { tcp: origin_side, leftover: Bytes::new(), send, recv };
        let never = std::future::pending();
        provider_copy(tunnel, &Arc::new(Open::default()), limit, &Pause::default(), never, async {})
            .await
    });
    (app, origin)
}

/// Both TCP connections of a path, without anything between them.
async fn two_tcp(bytes: u64) {
    for _ in 0..2 {
        let (far, near) = tcp_pair().await;
        let (source, sink) = (tokio::spawn(source(far, bytes)), tokio::spawn(sink(near)));
        assert_eq!(sink.await.unwrap(), bytes);
        source.await.unwrap();
    }
}

async fn source(mut tcp: TcpStream, bytes: u64) {
    let block = vec![7; BLOCK];
    for _ in 0..bytes / BLOCK as u64 {
        tcp.write_all(&block).await.unwrap();
    }
    tcp.shutdown().await.unwrap();
    let _ = tcp.read(&mut [0]).await;
}

async fn sink(mut tcp: TcpStream) -> u64 {
    let mut buffer = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match tcp.read(&mut buffer).await.unwrap() {
            0 => return total,
            bytes => total += bytes as u64,
        }
    }
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (near.unwrap(), far.unwrap().0)
}
