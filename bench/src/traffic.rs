//! Origins and applications.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Serves as many bytes as an 8-byte request asks for.
pub(crate) async fn source() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        let chunk: &'static [u8] = vec![7; 256 << 10].leak();
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut left = tcp.read_u64().await?;
                while left > 0 {
                    let length = left.min(chunk.len() as u64);
                    tcp.write_all(&chunk[..length as usize]).await?;
                    left -= length;
                }
                tcp.shutdown().await
            });
        }
    });
    Ok(addr)
}

/// Says back what it hears.
pub(crate) async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.set_nodelay(true)?;
                let mut buffer = [0; 64];
                loop {
                    match tcp.read(&mut buffer).await? {
                        0 => return tcp.shutdown().await,
                        read => tcp.write_all(&buffer[..read]).await?,
                    }
                }
            });
        }
    });
    Ok(addr)
}

/// Fetches `bytes` through a proxy; returns the seconds that it took.
pub(crate) async fn fetch(proxy: SocketAddr, source: SocketAddr, bytes: u64) -> Result<f64> {
    let mut tcp = through(proxy, source).await?;
    let start = Instant::now();
    tcp.write_u64(bytes).await?;
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0u64;
    loop {
        match tcp.read(&mut buffer).await? {
            0 => break,
            read => total += read as u64,
        }
    }
    ensure!(total == bytes, "{total} of {bytes} bytes arrived");
    Ok(start.elapsed().as_secs_f64())
}

/// Opens streams that have each echoed one byte and now rest.
pub(crate) async fn idle(
    proxy: SocketAddr,
    echo: SocketAddr,
    count: usize,
) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut tcp = through(proxy, echo).await?;
        round_trip(&mut tcp).await?;
        streams.push(tcp);
    }
    Ok(streams)
}

/// Has every stream echo once more, all at the same time.
pub(crate) async fn answer_all(streams: Vec<TcpStream>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for mut tcp in streams {
        tasks.spawn(async move { round_trip(&mut tcp).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Opens, uses and closes connections, `at_once` at a time.
pub(crate) async fn short(
    proxy: SocketAddr,
    echo: SocketAddr,
    count: usize,
    at_once: usize,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    for worker in 0..at_once {
        let share = count / at_once + usize::from(worker < count % at_once);
        tasks.spawn(async move {
            for _ in 0..share {
                let mut tcp = through(proxy, echo).await?;
                round_trip(&mut tcp).await?;
                tcp.shutdown().await?;
                ensure!(tcp.read(&mut [0]).await? == 0, "a byte too many");
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A connection for echoes of one byte.
pub(crate) struct Echo(TcpStream);

impl Echo {
    pub(crate) async fn open(proxy: SocketAddr, echo: SocketAddr) -> Result<Self> {
        Ok(Self(through(proxy, echo).await?))
    }

    /// Seconds of one round trip.
    pub(crate) async fn once(&mut self) -> Result<f64> {
        let start = Instant::now();
        round_trip(&mut self.0).await?;
        Ok(start.elapsed().as_secs_f64())
    }
}

async fn round_trip(tcp: &mut TcpStream) -> Result<()> {
    let mut byte = [42];
    tcp.write_all(&byte).await?;
    tcp.read_exact(&mut byte).await?;
    ensure!(byte == [42], "another byte came back");
    Ok(())
}

/// Connects through a SOCKS5 proxy.
async fn through(proxy: SocketAddr, target: SocketAddr) -> Result<TcpStream> {
    let mut tcp = TcpStream::connect(proxy).await?;
    tcp.set_nodelay(true)?;
    let SocketAddr::V4(target) = target else { anyhow::bail!("targets are on IPv4") };
    let mut request = vec![5, 1, 0, 5, 1, 0, 1];
    request.extend_from_slice(&target.ip().octets());
    request.extend_from_slice(&target.port().to_be_bytes());
    tcp.write_all(&request[..3]).await?;
    let mut method = [0; 2];
    tcp.read_exact(&mut method).await?;
    tcp.write_all(&request[3..]).await?;
    let mut reply = [0; 10];
    tcp.read_exact(&mut reply).await?;
    ensure!(method == [5, 0] && reply[1] == 0, "the proxy refused with code {}", reply[1]);
    Ok(tcp)
}
