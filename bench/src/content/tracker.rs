//! An HTTP tracker (BEP 3, 23) on loopback: clients of one kind find each other, and nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

type Swarms = BTreeMap<String, BTreeSet<SocketAddrV4>>;

/// Knows swarms by the path of their announce URL: all clients share one torrent, so that its
/// info-hash does not tell them apart.
#[derive(Clone)]
pub(super) struct Tracker {
    address: SocketAddr,
    swarms: Arc<Mutex<Swarms>>,
}

impl Tracker {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tracker = Self { address, swarms: Arc::default() };
        let this = tracker.clone();
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move { this.answer(stream, from).await });
            }
        });
        Ok(tracker)
    }

    /// Where clients of this kind announce themselves.
    pub(super) fn url(&self, kind: &str) -> String {
        format!("http://{}/{kind}/announce", self.address)
    }

    /// Who announced themselves.
    pub(super) fn peers(&self, kind: &str) -> BTreeSet<SocketAddrV4> {
        self.swarms().get(kind).cloned().unwrap_or_default()
    }

    /// Knows these and nobody else: the others have ended.
    pub(super) fn keep(&self, kind: &str, peers: BTreeSet<SocketAddrV4>) {
        self.swarms().insert(kind.to_owned(), peers);
    }

    fn swarms(&self) -> MutexGuard<'_, Swarms> {
        self.swarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, stream: TcpStream, from: SocketAddr) -> Option<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let mut header = String::new();
        while stream.read_line(&mut header).await.ok()? > 2 {
            header.clear();
        }
        let (path, query) = line.split(' ').nth(1)?.split_once('?')?;
        let kind = path.split('/').nth(1)?.to_owned();
        let port = query.split('&').find_map(|pair| pair.strip_prefix("port="))?.parse().ok()?;
        let SocketAddr::V4(from) = from else { return None };
        let own = SocketAddrV4::new(*from.ip(), port);
        let mut body = b"d8:intervali1800e5:peers".to_vec();
        {
            let mut swarms = self.swarms();
            let swarm = swarms.entry(kind).or_default();
            let others = swarm.iter().filter(|peer| **peer != own);
            let compact: Vec<u8> = others
                .flat_map(|peer| [&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat())
                .collect();
            body.extend(format!("{}:", compact.len()).into_bytes());
            body.extend(compact);
            body.push(b'e');
            swarm.insert(own);
        }
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&body).await.ok()?;
        stream.shutdown().await.ok()
    }
}
