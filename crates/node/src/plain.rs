//! The same data plane without accounting: no terms, no channel, no receipts, no payment, and a
//! valve that is always open. It exists to be compared with: what the metered path costs beyond
//! this is the cost of metering.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sparewire_protocol::Direction;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    copy::{DrainLimit, Gate, Pause, Tally, Tunnel, consumer_copy, provider_copy},
    exit::Exit,
    proxy::{Accepted, ProxyHandler, ProxyRequest},
    refusal::{Refusal, RefusalKind},
    session::{
        OpenReply, OpenRequest, SessionError, read_reply, read_request, write_reply, write_request,
    },
    transport::{Connection, Endpoint},
};

/// Counts nothing and stops nothing.
struct Unmetered;

impl Gate for Unmetered {
    fn try_admit(&self, _direction: Direction, want: usize) -> usize {
        want
    }

    async fn wait(&self) -> bool {
        true
    }
}

impl Tally for Unmetered {
    fn count(&self, _direction: Direction, _bytes: usize) {}
}

/// Serves every connection to `endpoint` as an unmetered exit until `shutdown`.
pub async fn serve(endpoint: Endpoint, exit: Exit, shutdown: CancellationToken) {
    let (exit, tracker) = (Arc::new(exit), TaskTracker::new());
    loop {
        let incoming = tokio::select! {
            () = shutdown.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let (exit, streams) = (Arc::clone(&exit), tracker.clone());
        tracker.spawn(async move {
            let Ok(connection) = incoming.handshake().await else { return };
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let exit = Arc::clone(&exit);
                streams.spawn(async move {
                    let OpenRequest::Tcp(target) = read_request(&mut recv).await?;
                    match exit.dial(&target).await {
                        Ok(tcp) => {
                            write_reply(&mut send, &OpenReply::Opened).await?;
                            let tunnel = Tunnel { tcp, leftover: Bytes::new(), send, recv };
                            let (limit, never) = (DrainLimit::default(), std::future::pending());
                            provider_copy(
                                tunnel,
                                &Unmetered,
                                limit,
                                &Pause::default(),
                                never,
                                async {},
                            )
                            .await;
                        }
                        Err(refusal) => {
                            write_reply(&mut send, &OpenReply::Refused(refusal)).await?;
                            send.finish();
                        }
                    }
                    Ok::<(), SessionError>(())
                });
            }
        });
    }
    tracker.close();
}

/// The consumer's side: a proxy handler over one connection to such an exit.
#[derive(Debug)]
pub struct PlainConsumer {
    /// The connection.
    pub connection: Connection,
}

#[async_trait]
impl ProxyHandler for PlainConsumer {
    async fn handle(&self, request: ProxyRequest) {
        let unreachable =
            |error: SessionError| Refusal::new(RefusalKind::Unreachable, error.to_string());
        let open = async {
            let (mut send, mut recv) = self.connection.open_bi().await?;
            write_request(&mut send, &OpenRequest::Tcp(request.target().clone())).await?;
            let reply = read_reply(&mut recv).await?;
            Ok::<_, SessionError>((send, recv, reply))
        };
        let (send, recv) = match open.await {
            Ok((send, recv, OpenReply::Opened)) => (send, recv),
            Ok((_, _, OpenReply::Refused(refusal))) => return request.refuse(refusal).await,
            Err(error) => return request.refuse(unreachable(error)).await,
        };
        if let Ok(Accepted { tcp, leftover }) = request.accept().await {
            let tunnel = Tunnel { tcp, leftover, send, recv };
            let (limit, never) = (DrainLimit::default(), std::future::pending());
            consumer_copy(tunnel, &Unmetered, limit, |_| async {}, never, async {}).await;
        }
    }
}
