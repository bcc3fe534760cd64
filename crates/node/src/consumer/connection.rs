//! One connection to the provider: handshake, session, tunnels.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sparewire_core::{ByteCount, NodeId, SessionId, Signed, TypedData};
use sparewire_protocol::{
    Countersigned, Delegation, Direction, Event, Memory, Message, Output, Payer, PayerSetup,
    ProtocolError, RefusalCode, Role, SessionMemory, Statement, Terms,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{BrokenSession, Consumer, Link, Session, TUNNELS_GRACE, Tunnel, gives_up_session};
use crate::{
    copy::{DrainLimit, Tally, Tunnel as Copied, consumer_copy},
    identity::{check_standing, until_lapsed},
    refusal::{Refusal, RefusalKind},
    session::{
        Command, ControlReader, ControlWriter, Driver, OpenReply, OpenRequest, SessionError,
        SessionMeter, Streams, read_reply, write_request,
    },
    store::{Store, StoreError, ask},
    target::Target,
};

/// How long the provider may take to answer in the handshake.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a stream may take to open: the exit tries for 10 s.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// The least credit that is worth connecting for: half of it is a payment step.
const CREDIT_MIN: ByteCount = ByteCount::new(16 << 10);
/// How many commands may wait for the machine.
const COMMANDS_MAX: usize = 256;

impl Consumer {
    /// Runs one session, new or resumed, from connecting to its end.
    pub(super) async fn session(
        self: &Arc<Self>,
        shutdown: &CancellationToken,
    ) -> Result<Statement, SessionError> {
        let late = |_| SessionError::Stalled;
        let stop = || SessionError::Shutdown;
        let connection = tokio::select! {
            connection = self.endpoint.connect(&self.provider) => connection?,
            () = shutdown.cancelled() => return Err(stop()),
        };
        let (send, receive) = connection.open_bi().await?;
        let mut control = ControlWriter::new(send);
        let mut reader = ControlReader::new(receive);

        let resumable = self.resumable().await?;
        let domain = self.chain.domain();
        control
            .send(&Message::Hello {
                minor: 0,
                domain,
                token: self.config.token,
                resume: resumable.as_ref().map(|known| known.agreement.session),
            })
            .await?;
        let offer = match timeout(ANSWER_TIMEOUT, reader.next()).await.map_err(late)?? {
            Some(Message::Offer(offer)) => offer,
            Some(Message::Refused(refused)) => return Err(refusal(refused).into()),
            _ => return Err(ProtocolError::Unexpected("answer to hello").into()),
        };
        // The same terms again: the session goes on. Other terms: a new session.
        let known = resumable.filter(|known| known.agreement.terms == offer.terms);
        let now = (self.clock)();
        let terms = offer.verify(connection.peer(), &domain, known.is_none(), now).inspect_err(
            |error| {
                // By our clock it cannot go on, whatever the provider's says.
                if let (ProtocolError::TermsExpired, Some(known)) = (error, &known) {
                    self.forget(known.agreement.session);
                }
            },
        )?;
        self.check_terms(&terms)?;
        self.check_past(&terms).await?;
        let at = self.provider.clone();
        // Only for the convenience of whoever closes the channel later.
        if let Err(error) = ask(&self.store, move |store| store.reached(&at)).await {
            tracing::warn!(%error, "where the provider is will not be remembered");
        }
        check_standing(&self.chain, self.config.keys, &offer.delegation.body).await?;

        let funded = tokio::select! {
            // Not cut off where the connection goes meanwhile: the channel that it opens is used
            // by the next one.
            funded = self.channel_for(&terms, known.as_ref()) => funded?,
            () = shutdown.cancelled() => return Err(stop()),
        };
        let known = known.filter(|known| known.agreement.config == funded.config);
        let session = match &known {
            Some(known) => known.agreement.session,
            None => new_session()?,
        };
        let channel = funded.config.id(&domain);
        let mut memory: Memory =
            ask(&self.store, move |store| store.memory(channel, Some(session))).await?;
        if known.is_some() {
            memory.session = known;
        }
        if let Some(least) = &mut memory.resync {
            *least = (*least).max(funded.claimed);
        }
        // Whether its provider has seen the channel: a session over it began, or, where our store
        // was restored, may have.
        let sessions = ask(&self.store, |store| store.sessions()).await?;
        let began = sessions.iter().any(|of| of.agreement.config == funded.config);
        let is_seen = began || memory.payment.is_some() || memory.resync.is_some();
        let violation = |error: ProtocolError| {
            if gives_up_session(&error) {
                self.forget(session);
            }
            SessionError::from(error)
        };
        let setup = PayerSetup {
            terms,
            session,
            config: funded.config,
            reserved: funded.reserved,
            low_water: self.low_water(),
            delegation: self.identity.delegation,
            memory,
            signer: Arc::clone(&self.identity.authorizer),
            device: &*self.identity.device,
        };
        let mut payer = Payer::accept(setup, now).map_err(violation)?;
        while let Some(output) = payer.poll_output() {
            if let Output::Transmit(message) = output {
                control.send(&message).await?;
            }
        }
        let answer = timeout(ANSWER_TIMEOUT, reader.next()).await.map_err(late)??;
        match answer {
            Some(Message::Refused(refused)) => {
                match refused.code {
                    // A channel over which nothing ever began is not replaced by another one: its
                    // provider may not see it yet, or look at another chain, and would not see that
                    // one either.
                    RefusalCode::ChannelUnusable if !is_seen => {}
                    RefusalCode::ChannelUnusable | RefusalCode::LossAllowanceUsed => {
                        self.past().avoid.insert(channel);
                    }
                    _ => {}
                }
                return Err(violation(refusal(refused)));
            }
            Some(Message::Close { reason }) => {
                let code = RefusalCode::GoingAway;
                return Err(ProtocolError::Refused { code, reason }.into());
            }
            Some(answer) => {
                let shown = match &answer {
                    Message::Accepted(accepted) => accepted.receipt,
                    _ => None,
                };
                if let Err(error) = payer.handle_message(answer, (self.clock)()) {
                    if let Some(theirs) = shown {
                        self.dispute(offer.delegation, theirs).await?;
                    }
                    if matches!(error, ProtocolError::ChannelUnusable(_)) {
                        self.past().avoid.insert(channel);
                    }
                    return Err(violation(error));
                }
            }
            None => return Err(ProtocolError::Unexpected("end of the control stream").into()),
        }

        let start = payer.statement((self.clock)()).counted;
        let meter = Arc::new(SessionMeter::new(start, ByteCount::new(u64::MAX)));
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (figures, seen) = watch::channel(None);
        let live = Arc::new(Session {
            connection: connection.clone(),
            meter: Arc::clone(&meter),
            commands: commands.clone(),
            figures: seen,
            terms,
            streams: Streams::new(self.config.streams_max, Arc::default()),
        });
        let mut driver = Driver {
            control,
            messages: reader.into_queue(),
            commands: receiver,
            meter: Arc::clone(&meter),
            store: Arc::clone(&self.store),
            figures,
            offer: Some(*offer),
            clock: Arc::clone(&self.clock),
        };
        let top_up = tokio::sync::Notify::new();
        let asked_to_close = CancellationToken::new();
        let result = {
            let run = driver.run(&mut payer, |event| match event {
                Event::Started { .. } => {
                    self.link.send_replace(Link::Up(Arc::clone(&live)));
                }
                Event::Exhausted => top_up.notify_one(),
                Event::PeerClosing { reason } => {
                    tracing::info!(reason, "the provider ends the session");
                    asked_to_close.cancel();
                }
                Event::Broken { stream } => live.streams.cancel(stream),
                _ => {}
            });
            tokio::select! {
                result = run => result,
                error = self.close_when(
                    &live,
                    shutdown,
                    &asked_to_close,
                    self.keep_funded(&funded, &top_up, &live),
                    &offer.delegation.body,
                ) => Err(error),
            }
        };
        let was_up = matches!(&*self.link.borrow(), Link::Up(up) if Arc::ptr_eq(up, &live));
        if was_up {
            self.link.send_replace(Link::Down(result.as_ref().err().cloned()));
        }
        live.streams.all.cancel();
        meter.stop();
        match result {
            Ok(statement) => {
                // The last message must have arrived; then it is for us to close.
                driver.control.finish().await;
                connection.close(0, "settled");
                self.past().session = None;
                match &*self.link.borrow() {
                    // There is no money for another one.
                    Link::Over(Err(error)) if !shutdown.is_cancelled() => Err(error.clone()),
                    _ => Ok(statement),
                }
            }
            Err(error) => {
                self.past().session = Some(BrokenSession {
                    session,
                    counted: meter.reading(),
                    reported_up: payer.reported_up(),
                });
                connection.close(1, &error.for_peer());
                Err(error)
            }
        }
    }

    /// Looks whether a receipt that we cannot go on from contradicts one that the provider signed
    /// before, whoever signed it beside the provider, and keeps it then.
    ///
    /// # Errors
    /// [`ProtocolError::ConflictingReceipts`] where it does: there is no going on with that provider.
    async fn dispute(
        &self,
        delegation: Signed<Delegation>,
        theirs: Countersigned,
    ) -> Result<(), SessionError> {
        let kept = ask(&self.store, move |store| store.contradicted(&delegation, &theirs)).await?;
        let Some(contradiction) = kept else { return Ok(()) };
        let domain = self.chain.domain();
        let [ours, theirs] = contradiction.receipts().map(|receipt| receipt.body);
        tracing::warn!(
            session = %ours.session,
            "the provider signed two receipts with one number: both are kept (`sparewire stake report`), and the channel is frozen (`sparewire channel close`)"
        );
        let (first, second) = (ours.digest(&domain), theirs.digest(&domain));
        Err(ProtocolError::ConflictingReceipts { sequence: ours.sequence, first, second }.into())
    }

    fn check_terms(&self, terms: &Terms) -> Result<(), SessionError> {
        let policy = |reason: String| Err(SessionError::Policy(reason));
        if terms.price > self.config.price_max {
            return policy(format!(
                "the provider asks {} units per GiB, more than the limit of {}; raise --max-price or choose another",
                terms.price.get(),
                self.config.price_max.get()
            ));
        }
        if terms.token != self.config.token {
            return policy(format!("the provider wants to be paid in token {}", terms.token));
        }
        if terms.credit.initial < CREDIT_MIN {
            return policy(format!(
                "the provider's credit of {} would take a payment every few packets",
                terms.credit.initial
            ));
        }
        if terms.withdraw_delay_secs_min > self.config.withdraw_delay_secs_max {
            return policy(format!(
                "the provider asks for a withdraw delay of {} s, more than the limit of {} s",
                terms.withdraw_delay_secs_min, self.config.withdraw_delay_secs_max
            ));
        }
        Ok(())
    }

    async fn resumable(&self) -> Result<Option<SessionMemory>, SessionError> {
        let (provider, broken) = (self.provider.node, self.past().session);
        let newest = ask(&self.store, move |store| resumable(store, provider, broken)).await?;
        Ok(newest.filter(|known| !self.past().forgotten.contains(&known.agreement.session)))
    }

    /// On shutdown, when the provider asks, when there is no money left, or when the provider's keys
    /// count no more: no new tunnels, a grace for the running ones, then the machine closes the
    /// session.
    async fn close_when(
        &self,
        live: &Session,
        shutdown: &CancellationToken,
        asked: &CancellationToken,
        out_of_money: impl Future<Output = SessionError>,
        delegation: &Delegation,
    ) -> SessionError {
        let (chain, keys, every) = (&self.chain, self.config.keys, self.config.keys_every);
        let (grace, link) = tokio::select! {
            () = shutdown.cancelled() => (TUNNELS_GRACE, Link::Down(None)),
            () = asked.cancelled() => (Duration::ZERO, Link::Down(None)),
            // Whoever wants a stream is told why there is none, at once.
            error = out_of_money => {
                tracing::warn!(%error, "the channel is used up; ending the session");
                (Duration::ZERO, Link::Over(Err(error)))
            }
            reason = until_lapsed(chain, keys, delegation, every, &self.clock) => {
                tracing::warn!(reason, "the provider's keys count no more; ending the session");
                (Duration::ZERO, Link::Down(Some(SessionError::Policy(reason.into()))))
            }
        };
        self.link.send_replace(link);
        self.tunnels.close();
        let _ = timeout(grace, self.tunnels.wait()).await;
        live.streams.all.cancel();
        let _ = timeout(TUNNELS_GRACE, self.tunnels.wait()).await;
        self.tunnels.reopen();
        let _ = live.commands.send(Command::Close("the consumer is done")).await;
        std::future::pending().await
    }
}

impl Tunnel {
    /// Joins the tunnel to an application's connection until both directions have ended.
    pub(super) async fn carry(self, application: TcpStream, leftover: Bytes) {
        let Self { session, send, recv, _permit } = self;
        let stream = send.id();
        let broken = session.streams.enter(stream).cancel;
        let abort = async || {
            let _ = session.commands.send(Command::Abort(stream)).await;
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
        let commands = &session.commands;
        let flow = |paused| async move {
            let _ = commands.send(Command::Flow { stream, paused }).await;
        };
        let report = consumer_copy(tunnel, &session.meter, limit, flow, heard, abort()).await;
        tracing::trace!(?report, "tunnel ended");
        session.streams.leave(stream);
    }
}

impl Tunnel {
    /// Gives the tunnel up, whose application is gone: what the origin has said already is still
    /// counted, so that both ends agree.
    pub(super) async fn abandon(self) {
        let Self { session, mut send, mut recv, _permit } = self;
        let _ = session.commands.send(Command::Abort(send.id())).await;
        send.finish();
        let drain = async {
            let mut left = DrainLimit::default().bytes as usize;
            while let Ok(Some(chunk)) = recv.read_chunk(64 << 10).await {
                session.meter.count(Direction::Down, chunk.len());
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(DrainLimit::default().time, drain).await;
    }
}

/// The newest session with a provider that has not ended: the one to resume. What a broken
/// connection of this very process left is known better than what is stored. Over a frozen channel
/// nothing is resumed. No I/O but the store's, so that a simulation decides as a consumer does.
///
/// # Errors
/// [`StoreError`].
pub fn resumable(
    store: &dyn Store,
    provider: NodeId,
    broken: Option<BrokenSession>,
) -> Result<Option<SessionMemory>, StoreError> {
    let newest = store
        .sessions()?
        .into_iter()
        .rev()
        .find(|known| known.role == Role::Payer && known.peer == provider);
    let Some(newest) = newest.filter(|known| known.statement.is_none()) else {
        return Ok(None);
    };
    let (session, channel) = (newest.agreement.session, newest.agreement.channel());
    if store.channel(channel)?.is_some_and(|known| known.frozen) {
        return Ok(None);
    }
    let mut memory = store.memory(channel, Some(session))?.session;
    if let (Some(known), Some(broken)) = (&mut memory, broken)
        && broken.session == session
    {
        (known.counted, known.reported_up) = (broken.counted, broken.reported_up);
    }
    Ok(memory)
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

fn refusal(refused: sparewire_protocol::Refused) -> ProtocolError {
    ProtocolError::Refused { code: refused.code, reason: refused.reason }
}

fn new_session() -> Result<SessionId, SessionError> {
    let mut id = [0; 32];
    getrandom::fill(&mut id).map_err(|error| {
        SessionError::Policy(format!("the system gives no randomness ({error})"))
    })?;
    Ok(SessionId(id.into()))
}
