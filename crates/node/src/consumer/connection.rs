//! One connection to the provider: its session, and the tunnels in it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sparewire_protocol::{Direction, Event, Service, Statement};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Consumer, Link, Session, TUNNELS_GRACE, Tunnel};
use crate::{
    buyer::{Ending, Purchase},
    copy::{DrainLimit, Tally, Tunnel as Copied, consumer_copy},
    refusal::{Refusal, RefusalKind},
    session::{
        Command, ControlReader, ControlWriter, OpenReply, OpenRequest, SessionError, Streams,
        read_reply, write_request,
    },
    target::Target,
};

/// How long a stream may take to open: the exit tries for 10 s.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// A session's use for tunnels.
struct Tunnelling<'a> {
    consumer: &'a Consumer,
    live: Arc<Session>,
}

impl Purchase for Tunnelling<'_> {
    fn event(&self, event: Event) {
        match event {
            Event::Started { .. } => {
                self.consumer.link.send_replace(Link::Up(Arc::clone(&self.live)));
            }
            Event::Broken { stream } => self.live.streams.cancel(stream),
            _ => {}
        }
    }

    /// No new tunnels, and a grace for the running ones.
    async fn wind_up(&self, why: &Ending) {
        let (grace, link) = match why {
            Ending::Shutdown => (TUNNELS_GRACE, Link::Down(None)),
            Ending::Asked => (Duration::ZERO, Link::Down(None)),
            // Whoever wants a stream is told why there is none, at once.
            Ending::OutOfMoney(error) => (Duration::ZERO, Link::Over(Err(error.clone()))),
            Ending::Lapsed(reason) => {
                let lapsed = SessionError::Policy((*reason).into());
                (Duration::ZERO, Link::Down(Some(lapsed)))
            }
        };
        let tunnels = &self.consumer.tunnels;
        self.consumer.link.send_replace(link);
        tunnels.close();
        let _ = timeout(grace, tunnels.wait()).await;
        self.live.streams.all.cancel();
        let _ = timeout(TUNNELS_GRACE, tunnels.wait()).await;
        tunnels.reopen();
    }

    fn over(&self, error: Option<&SessionError>) {
        let link = &self.consumer.link;
        let was_up = matches!(&*link.borrow(), Link::Up(up) if Arc::ptr_eq(up, &self.live));
        if was_up {
            link.send_replace(Link::Down(error.cloned()));
        }
        self.live.streams.all.cancel();
    }
}

impl Consumer {
    /// Runs one session, new or resumed, from connecting to its end.
    pub(super) async fn session(
        self: &Arc<Self>,
        shutdown: &CancellationToken,
    ) -> Result<Statement, SessionError> {
        let connection = tokio::select! {
            connection = self.endpoint.connect(&self.provider) => connection?,
            () = shutdown.cancelled() => return Err(SessionError::Shutdown),
        };
        let (send, receive) = connection.open_bi().await?;
        let control = (ControlWriter::new(send), ControlReader::new(receive));
        let (peer, at) = (connection.peer(), Some(&self.provider));
        let wanted = (Service::ExitTcp, self.buyer.config().price_max);
        let begin = |bought| {
            let streams = Streams::new(self.streams_max, Arc::default());
            let live = Arc::new(Session { connection: connection.clone(), bought, streams });
            Tunnelling { consumer: self, live }
        };
        match self.buyer.session(peer, at, wanted, control, shutdown, begin).await {
            Ok(statement) => {
                connection.close(0, "settled");
                match &*self.link.borrow() {
                    // There is no money for another one.
                    Link::Over(Err(error)) if !shutdown.is_cancelled() => Err(error.clone()),
                    _ => Ok(statement),
                }
            }
            Err(error) => {
                connection.close(1, &error.for_peer());
                Err(error)
            }
        }
    }
}

impl Tunnel {
    /// Joins the tunnel to an application's connection until both directions have ended.
    pub(super) async fn carry(self, application: TcpStream, leftover: Bytes) {
        let Self { session, send, recv, _permit } = self;
        let stream = send.id();
        let broken = session.streams.enter(stream).cancel;
        let abort = async || {
            let _ = session.bought.commands.send(Command::Abort(stream)).await;
        };
        // The origin broke, or the session is to end: then the provider is told to finish.
        let heard = async {
            broken.cancelled().await;
            if session.streams.all.is_cancelled() {
                abort().await;
            }
        };
        let tunnel = Copied { tcp: application, leftover, send, recv };
        let limit = DrainLimit::default();
        let commands = &session.bought.commands;
        let flow = |paused| async move {
            let _ = commands.send(Command::Flow { stream, paused }).await;
        };
        let report =
            consumer_copy(tunnel, &session.bought.meter, limit, flow, heard, abort()).await;
        tracing::trace!(?report, "tunnel ended");
        session.streams.leave(stream);
    }
}

impl Tunnel {
    /// Gives the tunnel up, whose application is gone: what the origin has said already is still
    /// counted, so that both ends agree.
    pub(super) async fn abandon(self) {
        let Self { session, mut send, mut recv, _permit } = self;
        let _ = session.bought.commands.send(Command::Abort(send.id())).await;
        send.finish();
        let drain = async {
            let mut left = DrainLimit::default().bytes as usize;
            while let Ok(Some(chunk)) = recv.read_chunk(64 << 10).await {
                session.bought.meter.count(Direction::Down, chunk.len());
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(DrainLimit::default().time, drain).await;
    }
}

/// Opens a stream in a session.
pub(super) async fn open_tunnel(
    session: Arc<Session>,
    target: Target,
    permit: OwnedSemaphorePermit,
) -> Result<Tunnel, Refusal> {
    let lost =
        |error: SessionError| Refusal::new(RefusalKind::Unreachable, format!("provider: {error}"));
    let open = async {
        let (mut send, mut recv) =
            session.connection.open_bi().await.map_err(|error| lost(error.into()))?;
        write_request(&mut send, &OpenRequest::Tcp(target)).await.map_err(lost)?;
        match read_reply(&mut recv).await.map_err(lost)? {
            OpenReply::Opened => Ok((send, recv)),
            OpenReply::Refused(refusal) => Err(refusal),
        }
    };
    match timeout(OPEN_TIMEOUT, open).await {
        Ok(Ok((send, recv))) => {
            Ok(Tunnel { session: Arc::clone(&session), send, recv, _permit: permit })
        }
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::new(RefusalKind::TimedOut, "the provider did not answer")),
    }
}
