//! An HTTP origin with sample content, and a client that fetches it through a SOCKS5 proxy and
//! checks every byte.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use axum::{Router, body::Body, http::header::CONTENT_LENGTH, routing::get};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

/// The sample repeats this many bytes.
const BLOCK_LEN: usize = 1 << 20;
/// How long the transfer may stand still.
const STALL: Duration = Duration::from_secs(60);

/// A running origin.
pub(super) struct Origin {
    pub(super) addr: SocketAddr,
    block: Bytes,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Serves `size` bytes at `/sample`.
    pub(super) async fn start(size: u64) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let addr = listener.local_addr()?;
        let block = block();
        let served = block.clone();
        let sample = move || {
            let block = served.clone();
            async move {
                let chunks = (0..size).step_by(BLOCK_LEN).map(move |at| {
                    let length = (size - at).min(BLOCK_LEN as u64) as usize;
                    Ok::<_, std::io::Error>(block.slice(..length))
                });
                let body = Body::from_stream(futures_util::stream::iter(chunks));
                ([(CONTENT_LENGTH, size.to_string())], body)
            }
        };
        let app = Router::new()
            .route("/", get(|| async { "This came through Sparewire, and was paid for.\n" }))
            .route("/sample", get(sample));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the origin ended");
            }
        });
        Ok(Self { addr, block, task })
    }

    /// Fetches the sample through the SOCKS5 proxy at `proxy` and compares it; returns how long
    /// the body took, in seconds.
    pub(super) async fn fetch(
        &self,
        proxy: SocketAddr,
        size: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<f64> {
        let mut tcp = socks5(proxy, self.addr).await.context("the proxy did not connect")?;
        let request =
            format!("GET /sample HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr);
        tcp.write_all(request.as_bytes()).await?;
        let mut buffer = vec![0; 256 << 10];
        let mut filled = 0;
        let body_at = loop {
            let read = timeout(STALL, tcp.read(&mut buffer[filled..])).await??;
            ensure!(read > 0, "the origin's answer ended early");
            filled += read;
            if let Some(at) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
        };
        ensure!(buffer.starts_with(b"HTTP/1.1 200"), "the origin did not answer 200");
        let start = Instant::now();
        let mut done = 0u64;
        let (mut from, mut to) = (body_at, filled);
        loop {
            self.compare(done, &buffer[from..to])?;
            done += (to - from) as u64;
            progress(done);
            (from, to) = (0, timeout(STALL, tcp.read(&mut buffer)).await.context("stalled")??);
            if to == 0 {
                break;
            }
        }
        ensure!(done == size, "{done} of {size} bytes arrived");
        Ok(start.elapsed().as_secs_f64())
    }

    fn compare(&self, at: u64, mut bytes: &[u8]) -> Result<()> {
        let mut offset = (at % BLOCK_LEN as u64) as usize;
        while !bytes.is_empty() {
            let length = bytes.len().min(BLOCK_LEN - offset);
            ensure!(bytes[..length] == self.block[offset..offset + length], "wrong bytes at {at}");
            (bytes, offset) = (&bytes[length..], 0);
        }
        Ok(())
    }
}

/// Bytes that do not compress and do not repeat within the block (xorshift64).
fn block() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK_LEN);
    while block.len() < BLOCK_LEN {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    Bytes::from(block)
}

/// Connects to `target` through a SOCKS5 proxy (RFC 1928, no authentication).
async fn socks5(proxy: SocketAddr, target: SocketAddr) -> Result<TcpStream> {
    let mut tcp = TcpStream::connect(proxy).await?;
    tcp.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    tcp.read_exact(&mut method).await?;
    ensure!(method == [5, 0], "the proxy wants a method that we do not speak");
    let SocketAddr::V4(target) = target else { anyhow::bail!("the origin is on IPv4") };
    let mut request = vec![5, 1, 0, 1];
    request.extend_from_slice(&target.ip().octets());
    request.extend_from_slice(&target.port().to_be_bytes());
    tcp.write_all(&request).await?;
    let mut reply = [0; 10];
    timeout(Duration::from_secs(60), tcp.read_exact(&mut reply)).await??;
    ensure!(reply[1] == 0, "the proxy refused with SOCKS5 code {}", reply[1]);
    Ok(tcp)
}
