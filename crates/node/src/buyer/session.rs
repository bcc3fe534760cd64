//! One session from hello to its end, whatever it carries.

use std::{sync::Arc, time::Duration};

use sparewire_core::{Amount, ByteCount, NodeId, Price, SessionId, Signed, TypedData};
use sparewire_protocol::{
    Countersigned, Delegation, Event, Memory, Message, Offer, Output, Payer, PayerSetup,
    ProtocolError, RefusalCode, Service, SessionMemory, Statement, Terms,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{BrokenSession, Buyer, InUse, gives_up_session, resumable};
use crate::{
    identity::{check_standing, until_lapsed},
    session::{Balance, Command, ControlReader, ControlWriter, Driver, SessionError, SessionMeter},
    store::ask,
    transport::PeerAddress,
};

/// How long the provider may take to answer in the handshake.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The least credit that is worth connecting for: half of it is a payment step.
const CREDIT_MIN: ByteCount = ByteCount::new(16 << 10);
/// How many commands may wait for the machine.
const COMMANDS_MAX: usize = 256;

/// What a session that was accepted gives those who use it.
#[derive(Clone)]
pub(crate) struct Bought {
    /// What is counted by it is paid for.
    pub(crate) meter: Arc<SessionMeter>,
    /// What the machine is told.
    pub(crate) commands: mpsc::Sender<Command>,
    /// Its figures so far.
    pub(crate) figures: watch::Receiver<Option<Statement>>,
    /// What was agreed.
    pub(crate) terms: Terms,
    /// Bytes that earlier sessions paid for over its channel.
    pub(crate) history: ByteCount,
    /// Bytes that this one had paid for when it began or went on.
    pub(crate) paid: ByteCount,
    /// What earlier sessions promised over its channel.
    pub(crate) base: Amount,
    /// What its channel held when it began or went on.
    pub(crate) reserved: Amount,
}

impl Bought {
    /// How many bytes of the session a channel can pay for that holds `reserved`.
    pub(crate) fn payable(&self, reserved: Amount) -> ByteCount {
        self.terms.price.affordable(reserved.saturating_sub(self.base))
    }
}

/// Why a session ends before its connection does.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// We are done.
    Shutdown,
    /// The provider asks for it.
    Asked,
    /// No more is to be had for its channel, and what was left is used up.
    OutOfMoney(SessionError),
    /// The provider's keys count no more.
    Lapsed(&'static str),
}

/// What a session is used for.
pub(crate) trait Purchase: Sync {
    /// Takes what the machine tells; with [`Event::Started`] the session is on.
    fn event(&self, event: Event);
    /// Its channel holds more, and can pay for so many bytes of the session.
    fn funded(&self, _payable: ByteCount) {}
    /// How many bytes are worth going on for, at least.
    fn unit(&self) -> ByteCount {
        ByteCount::new(1)
    }
    /// The session is to end: returns when nothing more is under way, after a bounded time.
    fn wind_up(&self, why: &Ending) -> impl Future<Output = ()> + Send;
    /// What is set off against what the provider buys of us over the same connection.
    fn balance(&self) -> Option<Arc<Balance>> {
        None
    }
    /// The session is over, or broke off with this error.
    fn over(&self, error: Option<&SessionError>);
}

impl Buyer {
    /// Runs one session, new or resumed, for `service` of `provider`, whose key the connection has
    /// proven; `at` is where it can be reached later.
    pub(crate) async fn session<P: Purchase>(
        self: &Arc<Self>,
        provider: NodeId,
        at: Option<&PeerAddress>,
        (service, price_max): (Service, Price),
        (mut control, mut reader): (ControlWriter, ControlReader),
        shutdown: &CancellationToken,
        begin: impl FnOnce(Bought) -> P + Send,
    ) -> Result<Statement, SessionError> {
        let late = |_| SessionError::Stalled;
        let mut in_use = InUse { buyer: self, session: None, channel: None };
        let resumable = self.resumable(provider, service).await?;
        let domain = self.chain.domain();
        let resume = resumable.as_ref().map(|known| known.agreement.session);
        let offer = self.ask_for_terms(&mut control, &mut reader, resume).await?;
        // The same terms again: the session goes on. Other terms: a new session.
        let known = resumable.filter(|known| known.agreement.terms == offer.terms);
        let now = (self.clock)();
        let terms = offer.verify(provider, &domain, known.is_none(), now).inspect_err(|error| {
            // By our clock it cannot go on, whatever the provider's says.
            if let (ProtocolError::TermsExpired, Some(known)) = (error, &known) {
                self.forget(known.agreement.session);
            }
        })?;
        if let Some(known) = known.as_ref().filter(|_| terms.price > price_max) {
            // What was agreed on then is dearer than what is offered now.
            self.forget(known.agreement.session);
            return Err(
                ProtocolError::CannotResume("it costs more than what is offered now").into()
            );
        }
        self.check_terms(&terms, service, price_max)?;
        self.check_past(&terms).await?;
        if let Some(at) = at.cloned() {
            // Only for the convenience of whoever closes the channel later.
            if let Err(error) = ask(&self.store, move |store| store.reached(&at)).await {
                tracing::warn!(%error, "where the provider is will not be remembered");
            }
        }
        check_standing(&self.chain, self.config.keys, &offer.delegation.body).await?;

        let funded = tokio::select! {
            // Not cut off where the connection goes meanwhile: the channel that it opens is used
            // by the next one.
            funded = self.channel_for(&terms, known.as_ref(), &mut in_use) => funded?,
            () = shutdown.cancelled() => return Err(SessionError::Shutdown),
        };
        let known = known.filter(|known| known.agreement.config == funded.config);
        let session = match &known {
            Some(known) => known.agreement.session,
            None => new_session()?,
        };
        if !self.past().live_sessions.insert(session) {
            return Err(SessionError::Policy("the session is in use by another connection".into()));
        }
        in_use.session = Some(session);
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
                    RefusalCode::ChannelUnusable | RefusalCode::LossAllowanceUsed if !is_seen => {}
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

        let begun = payer.statement((self.clock)());
        let start = begun.counted;
        // Money that was paid for whole units paid for no more than was counted.
        let counted = start.checked_total().unwrap_or_default();
        let paid = terms.price.affordable(begun.paid).min(counted);
        let meter = Arc::new(SessionMeter::new(start, ByteCount::new(u64::MAX)));
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (figures, seen) = watch::channel(None);
        let history = payer.agreement().history;
        let (base, reserved) = (begun.cumulative.saturating_sub(begun.paid), funded.reserved);
        let bought = Bought {
            meter: Arc::clone(&meter),
            commands,
            figures: seen,
            terms,
            history,
            paid,
            base,
            reserved,
        };
        let purchase = begin(bought.clone());
        let delegation = offer.delegation.body;
        let mut driver = Driver {
            control,
            messages: reader.into_queue(),
            commands: receiver,
            meter: Arc::clone(&meter),
            store: Arc::clone(&self.store),
            figures,
            offer: Some(*offer),
            balance: purchase.balance(),
            clock: Arc::clone(&self.clock),
        };
        let top_up = Notify::new();
        let asked_to_close = CancellationToken::new();
        let result = {
            let run = driver.run(&mut payer, |event| match event {
                Event::Exhausted => top_up.notify_one(),
                Event::PeerClosing { reason } => {
                    tracing::info!(reason, "the provider ends the session");
                    asked_to_close.cancel();
                }
                event => purchase.event(event),
            });
            let close = async {
                let (chain, keys, every) = (&self.chain, self.config.keys, self.config.keys_every);
                let why = tokio::select! {
                    () = shutdown.cancelled() => Ending::Shutdown,
                    () = asked_to_close.cancelled() => Ending::Asked,
                    error = self.keep_funded(&funded, &top_up, &bought, &purchase) => {
                        tracing::warn!(%error, "the channel is used up; ending the session");
                        Ending::OutOfMoney(error)
                    }
                    reason = until_lapsed(chain, keys, &delegation, every, &self.clock) => {
                        tracing::warn!(reason, "the provider's keys count no more; ending the session");
                        Ending::Lapsed(reason)
                    }
                };
                purchase.wind_up(&why).await;
                let _ = bought.commands.send(Command::Close("the consumer is done")).await;
                std::future::pending::<SessionError>().await
            };
            tokio::select! {
                result = run => result,
                error = close => Err(error),
            }
        };
        purchase.over(result.as_ref().err());
        meter.stop();
        match &result {
            Ok(_) => {
                // The last message must have arrived; then it is for us to close.
                driver.control.finish().await;
                self.past().broken.remove(&session);
            }
            Err(_) => {
                let (counted, reported_up) = (meter.reading(), payer.reported_up());
                let broken = BrokenSession { session, counted, reported_up };
                self.past().broken.insert(session, broken);
                // What it told that it owes may be set off already, at the other end.
                if purchase.balance().is_some_and(|balance| balance.is_broken()) {
                    self.forget(session);
                }
            }
        }
        result
    }

    /// What `provider` asks for `service`, without taking it. Nothing is promised, and no channel is
    /// opened.
    ///
    /// # Errors
    /// [`SessionError`] where it does not say, or where we would not take it.
    pub(crate) async fn quote(
        &self,
        provider: NodeId,
        service: Service,
        (mut control, mut reader): (ControlWriter, ControlReader),
    ) -> Result<Terms, SessionError> {
        let offer = self.ask_for_terms(&mut control, &mut reader, None).await?;
        let terms = offer.verify(provider, &self.chain.domain(), true, (self.clock)())?;
        self.check_terms(&terms, service, self.config.price_max)?;
        self.check_past(&terms).await?;
        Ok(terms)
    }

    async fn ask_for_terms(
        &self,
        control: &mut ControlWriter,
        reader: &mut ControlReader,
        resume: Option<SessionId>,
    ) -> Result<Box<Offer>, SessionError> {
        let (domain, token) = (self.chain.domain(), self.config.token);
        control.send(&Message::Hello { minor: 0, domain, token, resume }).await?;
        let answer = timeout(ANSWER_TIMEOUT, reader.next()).await;
        match answer.map_err(|_| SessionError::Stalled)?? {
            Some(Message::Offer(offer)) => Ok(offer),
            Some(Message::Refused(refused)) => Err(refusal(refused).into()),
            _ => Err(ProtocolError::Unexpected("answer to hello").into()),
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

    fn check_terms(
        &self,
        terms: &Terms,
        service: Service,
        price_max: Price,
    ) -> Result<(), SessionError> {
        let policy = |reason: String| Err(SessionError::Policy(reason));
        if terms.service != service || terms.counting != service.counting() {
            return policy("the provider offers something else than what was asked for".into());
        }
        let price_max = price_max.min(self.config.price_max);
        if terms.price > price_max {
            return policy(format!(
                "the provider asks {} units per GiB, more than the limit of {}; raise --max-price or choose another",
                terms.price.get(),
                price_max.get()
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

    async fn resumable(
        &self,
        provider: NodeId,
        service: Service,
    ) -> Result<Option<SessionMemory>, SessionError> {
        let (live, broken) = {
            let past = self.past();
            (past.live_sessions.clone(), past.broken.clone())
        };
        let newest = ask(&self.store, move |store| {
            resumable(store, provider, service, &live, |of| broken.get(&of).copied())
        })
        .await?;
        Ok(newest.filter(|known| !self.past().forgotten.contains(&known.agreement.session)))
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
