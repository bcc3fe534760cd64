//! HTTP `CONNECT` by hyper. One request per connection: after it there is a tunnel or nothing.

use std::{convert::Infallible, io, sync::Mutex};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderName},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::oneshot};

use super::{Accepted, HEADER_LENGTH_MAX, HEADER_TIMEOUT, ProxyHandler, ProxyRequest, Waiting};
use crate::{
    refusal::{Refusal, RefusalKind},
    target::Target,
};

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Reads a request, has it handled, and stays until its tunnel ends.
pub(super) async fn serve_connection(tcp: TcpStream, handler: &dyn ProxyHandler) -> io::Result<()> {
    let (found, request) = oneshot::channel();
    let found = Mutex::new(Some(found));
    let service = service_fn(|request| answer(request, &found));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_LENGTH_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service)
        .with_upgrades();
    let handled = async {
        if let Ok(request) = request.await {
            handler.handle(request).await;
        }
    };
    // The connection ends when its socket is handed over, or by an answer, or because the
    // application left; `found` has been dropped or used by then, and so `handled` ends too.
    let connection = async {
        let ended = connection.await.map_err(io::Error::other);
        drop(found.lock().map(|mut found| found.take()));
        ended
    };
    let (ended, ()) = tokio::join!(connection, handled);
    ended
}

async fn answer(
    mut request: Request<Incoming>,
    found: &Mutex<Option<oneshot::Sender<ProxyRequest>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::CONNECT {
        let text = "This proxy carries tunnels only: use CONNECT (https:// addresses do; \
                    for http:// use `curl --proxytunnel`) or SOCKS5 on the same port.\n";
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, text, |response| {
            response.header(ALLOW, "CONNECT")
        }));
    }
    let target = match request.uri().authority().map(|target| Target::parse(target.as_str())) {
        Some(Ok(target)) => target,
        Some(Err(error)) => {
            return Ok(plain(StatusCode::BAD_REQUEST, &format!("{error}\n"), |response| response));
        }
        None => {
            return Ok(plain(StatusCode::BAD_REQUEST, "CONNECT wants host:port\n", |response| {
                response
            }));
        }
    };
    let (reply, answered) = oneshot::channel();
    let upgrade = hyper::upgrade::on(&mut request);
    let request = ProxyRequest { target, waiting: Waiting::Http { reply, upgrade } };
    let found = found.lock().ok().and_then(|mut found| found.take());
    let handed_over = found.is_some_and(|found| found.send(request).is_ok());
    let outcome = match handed_over {
        true => answered.await.ok(),
        false => None,
    };
    let dropped = || Refusal::new(RefusalKind::Busy, "the request was dropped");
    Ok(match outcome.unwrap_or_else(|| Err(dropped())) {
        Ok(()) => Response::new(Full::default()),
        Err(refusal) => refused(&refusal),
    })
}

pub(super) async fn accept(
    reply: oneshot::Sender<Result<(), Refusal>>,
    upgrade: OnUpgrade,
) -> io::Result<Accepted> {
    reply.send(Ok(())).map_err(|_| io::ErrorKind::ConnectionAborted)?;
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| io::Error::other("the upgraded connection is not the one that was served"))?;
    Ok(Accepted { tcp: parts.io.into_inner(), leftover: parts.read_buf })
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    // The error types are RFC 9209's.
    let (status, error) = match refusal.kind() {
        RefusalKind::Policy => (StatusCode::FORBIDDEN, "http_request_denied"),
        RefusalKind::Unresolvable => (StatusCode::BAD_GATEWAY, "dns_error"),
        RefusalKind::Unreachable => (StatusCode::BAD_GATEWAY, "destination_ip_unroutable"),
        RefusalKind::ConnectionRefused => (StatusCode::BAD_GATEWAY, "connection_refused"),
        RefusalKind::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
        RefusalKind::Busy => (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached"),
    };
    // A structured-field string (RFC 8941): printable ASCII, with `\` and `"` escaped.
    let mut details = String::new();
    for c in refusal.reason().chars() {
        match c {
            '"' | '\\' => details.extend(['\\', c]),
            ' '..='~' => details.push(c),
            _ => details.push('?'),
        }
    }
    let header = format!("sparewire; error={error}; details=\"{details}\"");
    plain(status, &format!("{refusal}\n"), |response| response.header(PROXY_STATUS, header))
}

fn plain(
    status: StatusCode,
    text: &str,
    with: impl FnOnce(hyper::http::response::Builder) -> hyper::http::response::Builder,
) -> Response<Full<Bytes>> {
    let response =
        Response::builder().status(status).header(CONTENT_TYPE, "text/plain; charset=utf-8");
    // All headers are ours and valid; were one not, the application gets an empty answer.
    with(response).body(Full::from(text.to_owned())).unwrap_or_default()
}
