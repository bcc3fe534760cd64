//! One connection: its session, and the streams that the session carries.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use sparewire_protocol::Event;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::Provider;
use crate::{
    copy::{CopyEnd, DrainLimit, Tunnel, provider_copy},
    refusal::{Refusal, RefusalKind},
    seller::{Begun, Sale},
    session::{
        Command, ControlReader, ControlWriter, OpenReply, OpenRequest, SessionError, SessionMeter,
        Signals, Streams, read_request, write_reply,
    },
    transport::{Connection, RecvStream, SendStream},
};

/// How long a peer may take to open its control stream.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a data stream may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Tunnels, sold over one connection.
struct Exiting<'a> {
    provider: &'a Arc<Provider>,
    connection: &'a Connection,
    meter: Arc<SessionMeter>,
    commands: mpsc::Sender<Command>,
    streams: Arc<Streams>,
}

impl Sale for Exiting<'_> {
    fn carry(&self) -> impl Future<Output = Infallible> + Send {
        self.provider.accept_streams(self.connection, &self.meter, &self.streams, &self.commands)
    }

    fn event(&self, event: Event) {
        match event {
            Event::Abort { stream } => self.streams.cancel(stream),
            Event::Flow { stream, paused } => self.streams.pause(stream, paused),
            _ => {}
        }
    }

    fn over(&self) {
        self.streams.all.cancel();
    }
}

impl Provider {
    /// Serves one connection from hello to the end of its session.
    pub(super) async fn serve(
        self: &Arc<Self>,
        connection: &Connection,
        shutdown: CancellationToken,
    ) -> Result<(), SessionError> {
        let stranger = self.strangers.enter();
        let greeting = async {
            let control = timeout(CONTROL_TIMEOUT, connection.accept_bi());
            let (send, receive) = control.await.map_err(|_| SessionError::Stalled)??;
            let (control, reader) = (ControlWriter::new(send), ControlReader::new(receive));
            self.seller.greet(connection.peer(), control, reader, &self.offering).await
        };
        let greeted = tokio::select! {
            greeted = greeting => greeted?,
            () = stranger.evicted.cancelled() => {
                return Err(SessionError::Policy("others needed the room; come again".into()));
            }
            () = shutdown.cancelled() => return Err(SessionError::Shutdown),
        };
        drop(stranger);
        let Some(greeted) = greeted else { return Ok(()) };
        let begin = |begun: Begun| Exiting {
            provider: self,
            connection,
            streams: Arc::new(Streams::new(self.streams_max, self.shares.of(begun.channel))),
            meter: begun.meter,
            commands: begun.commands,
        };
        self.seller.serve(greeted, &shutdown, begin).await
    }

    /// Takes data streams. When the connection ends, the machine's loop learns of it by itself,
    /// after the last messages; it must not be cut off here.
    async fn accept_streams(
        self: &Arc<Self>,
        connection: &Connection,
        meter: &Arc<SessionMeter>,
        streams: &Arc<Streams>,
        commands: &mpsc::Sender<Command>,
    ) -> Infallible {
        loop {
            let Ok((send, receive)) = connection.accept_bi().await else {
                return std::future::pending().await;
            };
            let (provider, meter) = (Arc::clone(self), Arc::clone(meter));
            let (streams, commands) = (Arc::clone(streams), commands.clone());
            self.tracker.spawn(async move {
                let id = send.id();
                let signals = streams.enter(id);
                let tell = async move {
                    let _ = commands.send(Command::Broken(id)).await;
                };
                match provider.serve_stream(send, receive, &meter, &streams, &signals, tell).await {
                    Ok(end) => tracing::trace!(?end, "stream ended"),
                    Err(error) => tracing::trace!(%error, "stream failed"),
                }
                streams.leave(id);
            });
        }
    }

    async fn serve_stream(
        &self,
        mut send: SendStream,
        mut receive: RecvStream,
        meter: &Arc<SessionMeter>,
        streams: &Streams,
        signals: &Signals,
        tell: impl Future<Output = ()> + Send,
    ) -> Result<Option<CopyEnd>, SessionError> {
        let request = timeout(HEAD_TIMEOUT, read_request(&mut receive)).await;
        let OpenRequest::Tcp(target) = request.map_err(|_| SessionError::Stalled)??;
        let dialed = match streams.room.try_acquire() {
            Ok(permit) => tokio::select! {
                dialed = self.exit.dial_in(&streams.share, &target, HEAD_TIMEOUT) => {
                    dialed.map(|origin| (origin, permit))
                }
                () = signals.cancel.cancelled() => return Ok(None),
            },
            Err(_) => Err(Refusal::new(RefusalKind::Busy, "too many streams at once")),
        };
        match dialed {
            Ok((origin, _permit)) => {
                let replied = timeout(HEAD_TIMEOUT, write_reply(&mut send, &OpenReply::Opened));
                replied.await.map_err(|_| SessionError::Stalled)??;
                let tunnel = Tunnel { tcp: origin, leftover: Bytes::new(), send, recv: receive };
                let (limit, heard) = (DrainLimit::default(), signals.cancel.cancelled());
                let report = provider_copy(tunnel, meter, limit, &signals.pause, heard, tell).await;
                Ok(Some(report.end))
            }
            Err(refusal) => {
                write_reply(&mut send, &OpenReply::Refused(refusal)).await?;
                send.finish();
                Ok(None)
            }
        }
    }
}
