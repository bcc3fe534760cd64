//! The consumer's door: one TCP port on loopback that applications use as a SOCKS5 proxy
//! (RFC 1928) or an HTTP proxy (`CONNECT`, RFC 9110), told apart by their first byte. Names are
//! passed on unresolved: nothing is asked of the local resolver.
//!
//! An application is answered only once the caller knows whether its destination was reached:
//! [`ProxyRequest::accept`] or [`ProxyRequest::refuse`].

mod http;
mod socks;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use crate::{refusal::Refusal, target::Target};

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// How long an application has to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an application has to read a reply of a few bytes.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest HTTP header.
const HEADER_LENGTH_MAX: usize = 16 << 10;
/// How long accepting rests after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves what applications ask for.
#[async_trait]
pub trait ProxyHandler: Send + Sync + 'static {
    /// Serves one request to the end of its tunnel. The connection counts as open until then; the
    /// future is dropped when serving ends.
    async fn handle(&self, request: ProxyRequest);
}

/// A proxy that listens and does not serve yet.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Proxy {
    /// Listens on a loopback address. Port 0 takes any.
    ///
    /// # Errors
    /// [`ProxyError::NotLoopback`], [`ProxyError::PortTaken`] or [`ProxyError::Bind`].
    pub async fn bind(addr: SocketAddr) -> Result<Self, ProxyError> {
        if !addr.ip().to_canonical().is_loopback() {
            return Err(ProxyError::NotLoopback { addr });
        }
        Self::bind_anywhere(addr).await
    }

    /// Listens on any address. Whoever reaches it spends the consumer's money.
    ///
    /// # Errors
    /// [`ProxyError::PortTaken`] or [`ProxyError::Bind`].
    pub async fn bind_anywhere(addr: SocketAddr) -> Result<Self, ProxyError> {
        let listener = TcpListener::bind(addr).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ProxyError::PortTaken { addr },
            _ => ProxyError::Bind { addr, source },
        })?;
        let addr = listener.local_addr().map_err(|source| ProxyError::Bind { addr, source })?;
        Ok(Self { listener, addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until dropped, and with it every connection.
    pub async fn serve(self, handler: Arc<dyn ProxyHandler>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let tcp = match self.listener.accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    debug!(%error, "cannot accept an application's connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let handler = Arc::clone(&handler);
            connections.spawn(async move {
                let _slot = slot;
                if let Err(error) = serve_connection(tcp, &*handler).await {
                    debug!(kind = ?error.kind(), "an application's request was not understood");
                }
            });
        }
    }
}

/// Listens on `addr` (loopback only) and serves until dropped.
///
/// # Errors
/// As [`Proxy::bind`].
pub async fn serve(addr: SocketAddr, handler: Arc<dyn ProxyHandler>) -> Result<(), ProxyError> {
    Proxy::bind(addr).await?.serve(handler).await;
    Ok(())
}

async fn serve_connection(tcp: TcpStream, handler: &dyn ProxyHandler) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut first = [0];
    if timeout(HEADER_TIMEOUT, tcp.peek(&mut first)).await?? == 0 {
        return Ok(()); // somebody looked whether the port is open
    }
    if first[0] == socks::VERSION {
        if let Some(request) = timeout(HEADER_TIMEOUT, socks::read_request(tcp)).await?? {
            handler.handle(request).await;
        }
        Ok(())
    } else {
        http::serve_connection(tcp, handler).await
    }
}

/// What an application asks for, waiting for its answer.
#[derive(Debug)]
pub struct ProxyRequest {
    target: Target,
    waiting: Waiting,
}

#[derive(Debug)]
enum Waiting {
    Socks(TcpStream),
    Http { reply: oneshot::Sender<Result<(), Refusal>>, upgrade: OnUpgrade },
}

impl ProxyRequest {
    /// Where it wants to go.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Tells the application that its destination is reached, and hands over its connection.
    ///
    /// # Errors
    /// Where the application is gone.
    pub async fn accept(self) -> io::Result<Accepted> {
        let accepting = async {
            match self.waiting {
                Waiting::Socks(tcp) => socks::accept(tcp).await,
                Waiting::Http { reply, upgrade } => http::accept(reply, upgrade).await,
            }
        };
        timeout(REPLY_TIMEOUT, accepting).await?
    }

    /// Tells the application why its destination is not reached.
    pub async fn refuse(self, refusal: Refusal) {
        match self.waiting {
            Waiting::Socks(tcp) => {
                // Nobody is left to tell if this fails.
                let _ = timeout(REPLY_TIMEOUT, socks::refuse(tcp, refusal.kind())).await;
            }
            Waiting::Http { reply, .. } => {
                let _ = reply.send(Err(refusal));
            }
        }
    }
}

/// An application's connection after the proxy's part of it.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub tcp: TcpStream,
    /// What the application sent already, beyond its request.
    pub leftover: Bytes,
}

/// Why a proxy does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Others could reach it and spend the consumer's money.
    #[error("{addr} is not a loopback address; others could spend through this proxy")]
    NotLoopback {
        /// The address.
        addr: SocketAddr,
    },
    /// Another program listens there.
    #[error("TCP port {addr} is taken by another program")]
    PortTaken {
        /// The address.
        addr: SocketAddr,
    },
    /// It cannot be bound.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}
