//! How alloy's RPC client reaches a chain: in this process, or over HTTP(S).

use std::{
    net::IpAddr,
    sync::Once,
    task::{Context, Poll},
    time::Duration,
};

use alloy_json_rpc::{RequestPacket, ResponsePacket};
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use serde_json::Value;
use tower::Service;

use crate::evm::EmbeddedChain;

/// Largest answer that is read; full `eth_getLogs` answers stay below it.
const ANSWER_MAX_BYTES: usize = 16 << 20;

/// An alloy transport that asks an embedded chain without any port.
#[derive(Clone, Debug)]
pub struct InProcess {
    chain: EmbeddedChain,
}

impl InProcess {
    /// Asks `chain`.
    pub fn new(chain: EmbeddedChain) -> Self {
        Self { chain }
    }
}

impl Service<RequestPacket> for InProcess {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        let chain = self.chain.clone();
        Box::pin(async move {
            let request = serde_json::to_value(&request).map_err(TransportError::ser_err)?;
            let answer = tokio::task::spawn_blocking(move || chain.handle(request))
                .await
                .map_err(|_| TransportErrorKind::backend_gone())?;
            read_packet(answer)
        })
    }
}

fn read_packet(answer: Value) -> Result<ResponsePacket, TransportError> {
    let text = answer.to_string();
    serde_json::from_str(&text).map_err(|error| TransportError::deser_err(error, text))
}

/// An alloy transport over HTTP(S) that bounds what it reads and how long it waits, and keeps the
/// URL, which may hold a password or an API key, out of errors and logs.
#[derive(Clone)]
pub(crate) struct HttpTransport {
    client: reqwest::Client,
    url: reqwest::Url,
}

impl HttpTransport {
    pub(crate) fn new(url: reqwest::Url, timeout: Duration) -> Result<Self, reqwest::Error> {
        static PROVIDER: Once = Once::new();
        // Only where nobody chose before; losing that race is as good.
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut builder = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(reqwest::redirect::Policy::none());
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            // A proxy that the environment names cannot reach our own loopback.
            builder = builder.no_proxy();
        }
        let client = builder.build()?;
        Ok(Self { client, url })
    }

    async fn ask(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let plain = |error: reqwest::Error| TransportErrorKind::custom(error.without_url());
        let mut response = self.client.post(self.url).json(&request).send().await.map_err(plain)?;
        let status = response.status();
        if status == reqwest::StatusCode::TOO_MANY_REQUESTS {
            // Whatever else it says; in seconds, for a date needs a clock that both agree on.
            let after = response.headers().get("retry-after");
            let after = after.and_then(|value| value.to_str().ok()).unwrap_or_default();
            let secs = after.parse::<u64>().map(|secs| secs.to_string()).unwrap_or_default();
            return Err(TransportErrorKind::http_error(status.as_u16(), secs));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(plain)? {
            if body.len() + chunk.len() > ANSWER_MAX_BYTES {
                return Err(TransportErrorKind::custom_str("the answer is too large"));
            }
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice(&body) {
            Ok(packet) => Ok(packet),
            Err(_) if !status.is_success() => {
                Err(TransportErrorKind::http_error(status.as_u16(), String::new()))
            }
            Err(error) => Err(TransportError::deser_err(error, String::new())),
        }
    }
}

impl Service<RequestPacket> for HttpTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}
