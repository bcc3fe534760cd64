//! An HTTP tracker: it tells everybody of everybody.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

type Peers = Arc<Mutex<BTreeMap<Vec<u8>, Vec<SocketAddrV4>>>>;

pub struct Tracker {
    pub url: String,
    task: JoinHandle<()>,
    peers: Peers,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tracker {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(super::anywhere()).await.unwrap();
        let url = format!("http://{}/announce", listener.local_addr().unwrap());
        let peers = Peers::default();
        let known = Arc::clone(&peers);
        let task = tokio::spawn(async move {
            loop {
                let (stream, address) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, address, Arc::clone(&known)));
            }
        });
        Self { url, task, peers }
    }

    /// How many peers have announced themselves, of all torrents together.
    pub fn announced(&self) -> usize {
        self.peers.lock().unwrap().values().map(Vec::len).sum()
    }
}

async fn answer(stream: TcpStream, from: SocketAddr, peers: Peers) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut header = String::new();
    while stream.read_line(&mut header).await.ok()? > 2 {
        header.clear();
    }
    let query = line.split(' ').nth(1)?.split_once('?')?.1.to_owned();
    let find = |key: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key)
    };
    let info_hash = unescape(find("info_hash")?.1);
    let port: u16 = find("port")?.1.parse().ok()?;
    let SocketAddr::V4(from) = from else { return None };
    let own = SocketAddrV4::new(*from.ip(), port);
    let mut body = b"d8:intervali1e12:min intervali1e5:peers".to_vec();
    {
        let mut peers = peers.lock().unwrap();
        let list = peers.entry(info_hash).or_default();
        let others = list.iter().filter(|peer| **peer != own);
        let compact: Vec<u8> = others
            .flat_map(|peer| [&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat())
            .collect();
        body.extend(format!("{}:", compact.len()).into_bytes());
        body.extend(compact);
        body.push(b'e');
        list.retain(|peer| *peer != own);
        if find("event").is_none_or(|(_, event)| event != "stopped") {
            list.push(own);
        }
    }
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&body).await.ok()?;
    stream.shutdown().await.ok()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    out
}
