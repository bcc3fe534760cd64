//! The loopback HTTP server.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::RpcError;
use crate::evm::EmbeddedChain;

/// Largest request: a contract's init code is at most 48 KiB, so this is a large batch.
const BODY_MAX_BYTES: usize = 2 << 20;
/// Requests that are worked on or wait for the chain's lock at a time; each may hold a body.
const REQUESTS_MAX: usize = 64;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else has the port.
    #[error("{addr} is in use by another program; choose another port, or 0 for a free one")]
    PortTaken {
        /// The address.
        addr: SocketAddr,
    },
    /// Only this computer may ask: nothing here checks who does.
    #[error("{addr} is not a loopback address")]
    NotLoopback {
        /// The address.
        addr: SocketAddr,
    },
    /// Anything else that the operating system said.
    #[error("cannot listen on {addr}: {source}")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// In its words.
        source: io::Error,
    },
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the chain's JSON-RPC on a loopback address; port 0 takes a free one.
///
/// # Errors
/// [`ServeError`] where the port is taken, or the address is no loopback address.
pub async fn serve(chain: EmbeddedChain, addr: SocketAddr) -> Result<Server, ServeError> {
    if !addr.ip().is_loopback() {
        return Err(ServeError::NotLoopback { addr });
    }
    let listener =
        tokio::net::TcpListener::bind(addr).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::PortTaken { addr },
            _ => ServeError::Io { addr, source },
        })?;
    let addr = listener.local_addr().map_err(|source| ServeError::Io { addr, source })?;
    let state = Shared { chain, requests: Arc::new(Semaphore::new(REQUESTS_MAX)) };
    let app = Router::new()
        .route("/", post(answer))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(state);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the JSON-RPC server ended");
        }
    });
    Ok(Server { addr, task })
}

#[derive(Clone)]
struct Shared {
    chain: EmbeddedChain,
    requests: Arc<Semaphore>,
}

async fn answer(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    // A web page can make a browser call us under a name that resolves to 127.0.0.1 (DNS
    // rebinding); it cannot choose the Host header. And only JSON needs a CORS preflight, which
    // nobody answers here.
    if !headers.get(header::HOST).is_some_and(is_loopback_host) {
        return (StatusCode::FORBIDDEN, "this host name is not served here\n").into_response();
    }
    let json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !json.is_some_and(|value| value.to_ascii_lowercase().starts_with("application/json")) {
        let words = "send application/json\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, words).into_response();
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            return (rejection.status(), "request too large or cut off\n").into_response();
        }
    };
    let Ok(_permit) = shared.requests.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let work = tokio::task::spawn_blocking(move || match serde_json::from_slice::<Value>(&body) {
        Ok(request) => shared.chain.handle(request),
        Err(error) => RpcError::parse(&error).into_response(Value::Null),
    });
    match work.await {
        Ok(Value::Null) => StatusCode::NO_CONTENT.into_response(),
        Ok(answer) => axum::Json(answer).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn is_loopback_host(host: &header::HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    name.is_some_and(|name| {
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}
