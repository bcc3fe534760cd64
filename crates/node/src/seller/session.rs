//! One session from hello to its end, whatever it carries.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use sparewire_core::{ByteCount, ChannelId, DeviceStatement, NodeId};
use sparewire_protocol::{
    Action, Delegation, Event, Message, Offer, Output, Payee, ProtocolError, RefusalCode, Refused,
    Terms,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Applicant, LiveSession, Offering, Seller, SlotGuard, admit, terms_of};
use crate::{
    identity::{check_standing, until_lapsed},
    session::{
        Balance, Command, ControlReader, ControlWriter, Driver, SessionError, SessionMeter, persist,
    },
    store::ask,
};

/// How long a peer may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to accept: it may have to open a channel first, on a slow chain.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How long a consumer may take to record the session's end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How many commands may wait for the machine.
const COMMANDS_MAX: usize = 64;
/// Each so many looks at a channel, its payer's keys are looked at.
const STANDING_EVERY: u32 = 4;

/// What a session that begins gives those who carry its bytes.
pub(crate) struct Begun {
    /// The channel that pays.
    pub(crate) channel: ChannelId,
    /// What is admitted by it counts, and is paid for or lost.
    pub(crate) meter: Arc<SessionMeter>,
    /// What the machine is told.
    pub(crate) commands: mpsc::Sender<Command>,
}

/// What a session carries.
pub(crate) trait Sale: Sync {
    /// Carries bytes until the session is over: it is cut off then.
    fn carry(&self) -> impl Future<Output = Infallible> + Send;
    /// Takes what the machine tells.
    fn event(&self, event: Event);
    /// What is set off against what we buy of the consumer over the same connection.
    fn balance(&self) -> Option<Arc<Balance>> {
        None
    }
    /// The session is over; nothing passes any more.
    fn over(&self);
}

/// A consumer that has shown whom it speaks for.
pub(crate) struct Greeted {
    control: ControlWriter,
    reader: ControlReader,
    /// What it accepts.
    offer: Offer,
    applicant: Applicant,
}

impl Greeted {
    /// What it accepts.
    pub(crate) fn terms(&self) -> &Terms {
        &self.applicant.terms
    }
}

impl Seller {
    /// From hello to an acceptance whose sender may speak for the channel's owner; `None` where it
    /// was turned down, or only looked at the terms. `peer` is proven by the connection.
    pub(crate) async fn greet(
        &self,
        peer: NodeId,
        mut control: ControlWriter,
        mut reader: ControlReader,
        offering: &Offering,
    ) -> Result<Option<Greeted>, SessionError> {
        let late = |_| SessionError::Stalled;
        let hello = timeout(HELLO_TIMEOUT, reader.next()).await.map_err(late)??;
        let Some(Message::Hello { domain, token, resume, .. }) = hello else {
            return Err(ProtocolError::Unexpected("first message").into());
        };
        let ours = self.chain.domain();
        if domain != ours || token != self.config.token {
            let reason = format!(
                "this provider settles on chain {} contract {} token {}",
                ours.chain_id, ours.contract, self.config.token
            );
            refuse(control, RefusalCode::WrongNetwork, reason).await?;
            return Ok(None);
        }
        let terms = match resume {
            Some(session) => {
                let now = (self.clock)();
                ask(&self.store, move |store| terms_of(store, session, peer, now)).await?
            }
            None => None,
        };
        // Terms by which another wallet was paid cannot be offered under the delegation of this one;
        // nor can those of something else that is sold.
        let terms = terms.filter(|terms| {
            terms.payee == self.identity.wallet() && terms.service == offering.service
        });
        let terms = terms.unwrap_or_else(|| self.terms(offering, ours));
        let signature = self.identity.device.sign_bytes(&terms.signing_bytes());
        let offer = Offer { terms, delegation: self.identity.delegation, signature };
        control.send(&Message::Offer(Box::new(offer))).await?;

        let accept = timeout(ACCEPT_TIMEOUT, reader.next()).await.map_err(late)??;
        let Some(Message::Accept { acceptance, signature }) = accept else {
            return match accept {
                None => Ok(None), // it only wanted to see the terms
                Some(_) => Err(ProtocolError::Unexpected("answer to the terms").into()),
            };
        };
        // Before anything is done for the channel's sake: does this device speak for its owner?
        if let Err(error) = acceptance.verify(&signature, peer, &terms, (self.clock)()) {
            refuse(control, error.refusal_code(), error.to_string()).await?;
            return Ok(None);
        }
        let applicant = Applicant { terms, peer, acceptance: *acceptance, signature };
        Ok(Some(Greeted { control, reader, offer, applicant }))
    }

    /// Serves who was greeted, until its session is over or breaks off.
    pub(crate) async fn serve<S: Sale>(
        &self,
        greeted: Greeted,
        shutdown: &CancellationToken,
        begin: impl FnOnce(Begun) -> S + Send,
    ) -> Result<(), SessionError> {
        let Greeted { control, reader, offer, applicant } = greeted;
        let (peer, terms) = (applicant.peer, applicant.terms);
        let channel = applicant.acceptance.channel.id(&terms.domain);
        let delegation = applicant.acceptance.delegation.body;
        let (figures, seen) = watch::channel(None);
        let live = LiveSession {
            peer,
            figures: seen,
            cancel: shutdown.child_token(),
            gone: CancellationToken::new(),
        };
        if let Err(error) = self.take_slot(channel, &live).await {
            return refuse(control, RefusalCode::Busy, error.to_string()).await;
        }
        // From here on the channel is ours, and given free again whatever happens.
        let _slot = SlotGuard { seller: self, channel, live: live.clone() };
        let mut payee = match self.start(channel, applicant).await {
            Ok(payee) => payee,
            Err((error, code)) => {
                tracing::info!(%peer, %error, "refused");
                return refuse(control, code, error.for_peer()).await;
            }
        };
        // Room is taken by those whose channel the chain knows, not by those who say so.
        let Ok(_room) = self.room.try_acquire() else {
            return refuse(control, RefusalCode::Busy, "too many sessions at once".into()).await;
        };
        let start = payee.statement((self.clock)()).counted;
        let meter = Arc::new(SessionMeter::new(start, ByteCount::ZERO));
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let sale = begin(Begun { channel, meter: Arc::clone(&meter), commands: commands.clone() });
        let mut driver = Driver {
            control,
            messages: reader.into_queue(),
            commands: receiver,
            meter: Arc::clone(&meter),
            store: Arc::clone(&self.store),
            figures,
            offer: Some(offer),
            balance: sale.balance(),
            clock: Arc::clone(&self.clock),
        };
        let look = Notify::new();
        let result = {
            let run = driver.run(&mut payee, |event| match event {
                Event::Funded => look.notify_one(),
                Event::PeerClosing { reason } => tracing::debug!(%peer, reason, "consumer closes"),
                Event::Exhausted => tracing::debug!(%peer, "channel is nearly used up"),
                event => sale.event(event),
            });
            tokio::select! {
                result = run => result,
                never = sale.carry() => match never {},
                never = self.watch_facts(channel, &look, &commands) => match never {},
                never = self.watch_delegation(&delegation, &commands) => match never {},
                () = ask_to_close(&live.cancel, shutdown, &commands) => Err(SessionError::Shutdown),
            }
        };
        meter.stop();
        sale.over();
        match result {
            Ok(statement) => {
                tracing::info!(%peer, session = %statement.session, "session settled");
                driver.control.finish().await;
                // The consumer may still be recording the end; it ends its half when it has, and
                // we do not cut it off.
                let rest = async { while driver.messages.recv().await.is_some() {} };
                let _ = timeout(END_TIMEOUT, rest).await;
                Ok(())
            }
            Err(error) => {
                if let SessionError::Protocol(violation) = &error {
                    if violation.action() == Action::Dispute {
                        tracing::warn!(%peer, %violation, "the peer contradicted itself");
                    }
                    let code = violation.refusal_code();
                    let _ = refuse(driver.control, code, violation.to_string()).await;
                }
                payee.handle_disconnect(meter.reading(), (self.clock)());
                while let Some(output) = payee.poll_output() {
                    if let Output::Persist(records) = output
                        && let Err(error) = persist(&self.store, records).await
                    {
                        tracing::error!(%peer, %error, "what a session carried is not remembered");
                    }
                }
                Err(error)
            }
        }
    }

    /// Asks the chain what it has to say of an applicant, the channel first: a channel costs its
    /// payer gas, and everything before it costs nothing.
    async fn start(
        &self,
        channel: ChannelId,
        applicant: Applicant,
    ) -> Result<Payee, (SessionError, RefusalCode)> {
        let memory = ask(&self.store, move |store| store.memory(channel, None)).await;
        let memory = memory.map_err(|error| (error, RefusalCode::Busy))?;
        let _place = self.checks.enter(memory.payment.is_some()).await.ok_or_else(|| {
            let crowd = "too many others are being checked on chain; come again";
            (SessionError::Policy(crowd.into()), RefusalCode::Busy)
        })?;
        let facts = self.chain.channel(channel).await;
        let facts = facts.map_err(|error| (error.into(), RefusalCode::ChainUnavailable))?;
        let delegation = applicant.acceptance.delegation.body;
        let (signer, now) = (Arc::clone(&self.identity.authorizer), (self.clock)());
        let payee = ask(&self.store, move |store| Ok(admit(store, facts, applicant, signer, now)))
            .await
            .map_err(|error| (error, RefusalCode::Busy))??;
        // Nothing of it is recorded yet.
        let standing = check_standing(&self.chain, self.config.keys, &delegation).await;
        standing.map_err(|error| match error {
            SessionError::Policy(_) => (error, RefusalCode::Invalid),
            error => (error, RefusalCode::ChainUnavailable),
        })?;
        Ok(payee)
    }

    /// Looks at the chain every now and then, and when the consumer says that it topped up.
    async fn watch_facts(
        &self,
        channel: ChannelId,
        look: &Notify,
        commands: &mpsc::Sender<Command>,
    ) -> Infallible {
        // Half the shortest delay after which a payer who leaves has its money back.
        let blind_max = Duration::from_secs(u64::from(self.config.withdraw_delay_secs_min) / 2);
        let mut seen = Instant::now();
        loop {
            tokio::select! {
                () = look.notified() => {}
                () = tokio::time::sleep(self.config.facts_every) => {}
            }
            match self.chain.channel(channel).await {
                Ok(Some(facts)) => {
                    seen = Instant::now();
                    let _ = commands.send(Command::Facts(facts)).await; // or the session is over
                }
                Err(error) if seen.elapsed() > blind_max => {
                    tracing::error!(%error, "the chain has been silent for too long; ending a session");
                    let reason = "the provider cannot see the chain";
                    let _ = commands.send(Command::Close(reason)).await;
                }
                Ok(None) => tracing::warn!(%channel, "the chain has forgotten a channel in use"),
                Err(error) => tracing::warn!(%error, "cannot check a channel in use"),
            }
        }
    }

    /// Ends the session when the consumer's keys do not act for its wallet any more.
    async fn watch_delegation(
        &self,
        delegation: &Delegation,
        commands: &mpsc::Sender<Command>,
    ) -> Infallible {
        let every = self.config.facts_every.saturating_mul(STANDING_EVERY);
        let (chain, keys) = (&self.chain, self.config.keys);
        let reason = until_lapsed(chain, keys, delegation, every, &self.clock).await;
        let _ = commands.send(Command::Close(reason)).await; // or the session is over
        std::future::pending().await
    }
}

/// On shutdown the machine is asked to close; where the session is taken over by a new
/// connection of the same device, this one just ends.
async fn ask_to_close(
    cancel: &CancellationToken,
    shutdown: &CancellationToken,
    commands: &mpsc::Sender<Command>,
) {
    cancel.cancelled().await;
    if shutdown.is_cancelled() {
        let _ = commands.send(Command::Close("the provider is shutting down")).await;
        std::future::pending::<()>().await;
    }
}

async fn refuse(
    mut control: ControlWriter,
    code: RefusalCode,
    reason: String,
) -> Result<(), SessionError> {
    let reason = sparewire_protocol::short_reason(&reason);
    control.send(&Message::Refused(Refused { code, reason })).await?;
    control.finish().await;
    Ok(())
}
