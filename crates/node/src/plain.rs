//! The same data plane without accounting: no terms, no channel, no receipts, no payment, and a
//! valve that is always open. It exists to be compared with: what the metered path costs beyond
//! this is the cost of metering.

use std::sync::Arc;

use bytes::Bytes;
use sparewire_protocol::Direction;
use tokio::net::TcpStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    copy::{CopyReport, DrainLimit, Gate, Tally, Tunnel, consumer_copy, provider_copy},
    exit::Exit,
    refusal::Refusal,
    session::{
        OpenReply, OpenRequest, SessionError, read_reply, read_request, write_reply, write_request,
    },
    target::Target,
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
                            provider_copy(tunnel, &Unmetered, limit, never, async {}).await;
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

/// Carries one application connection to `target` over `connection`, unmetered.
///
/// # Errors
/// [`SessionError`] where the connection is gone; the inner [`Refusal`] is the exit's.
pub async fn carry(
    connection: &Connection,
    target: Target,
    tcp: TcpStream,
    leftover: Bytes,
    opened: impl AsyncFnOnce(&mut TcpStream),
) -> Result<Result<CopyReport, Refusal>, SessionError> {
    let (mut send, mut recv) = connection.open_bi().await?;
    write_request(&mut send, &OpenRequest::Tcp(target)).await?;
    match read_reply(&mut recv).await? {
        OpenReply::Opened => {
            let mut tcp = tcp;
            opened(&mut tcp).await;
            let tunnel = Tunnel { tcp, leftover, send, recv };
            let (limit, never) = (DrainLimit::default(), std::future::pending());
            Ok(Ok(consumer_copy(tunnel, &Unmetered, limit, never, async {}).await))
        }
        OpenReply::Refused(refusal) => Ok(Err(refusal)),
    }
}
