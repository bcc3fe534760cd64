//! One loop for both machines: inputs in, outputs carried out in order.

use std::{sync::Arc, time::Duration};

use sparewire_core::{Amount, ByteCount, DecodeError, SessionId, Timestamp};
use sparewire_protocol::{
    ChannelFacts, Event, Message, Offer, Output, Payee, Payer, ProtocolError, Reading, Record,
    Role, SetOff, Statement, StopReason,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    Balance, ControlWriter, SessionMeter,
    stops::{Look, StopWatch},
};
use crate::{
    store::{Stop, Store, StoreError, ask},
    transport::TransportError,
};

/// How old the figures that others watch may be.
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Where the time comes from; tests and simulations bring their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Why a session broke off.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection is gone; the session can be resumed.
    #[error("the connection broke: {0}")]
    Transport(#[from] TransportError),
    /// The peer does not read what we send.
    #[error("the peer has stopped reading")]
    Stalled,
    /// The peer broke the protocol, or turned us down.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Nothing could be recorded, so nothing more is signed or served.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain did not tell what we need to know.
    #[error(transparent)]
    Chain(#[from] sparewire_protocol::settlement::ChainError),
    /// We are told to do it another way: a limit of our own configuration.
    #[error("{0}")]
    Policy(String),
    /// As much is at stake with sellers that have delivered nothing as may be: that changes when one
    /// of them does.
    #[error("{0}")]
    Untried(String),
    /// The process is shutting down.
    #[error("shutting down")]
    Shutdown,
}

impl SessionError {
    /// In words for the peer: where our disk and our chain node are is none of its business.
    pub(crate) fn for_peer(&self) -> String {
        match self {
            Self::Store(_) => "nothing can be recorded at this end now".to_owned(),
            Self::Chain(_) => "the chain cannot be asked at this end now".to_owned(),
            told => told.to_string(),
        }
    }
}

impl From<DecodeError> for SessionError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.into())
    }
}

/// What the shell asks of a running machine.
#[derive(Debug)]
pub(crate) enum Command {
    /// End the session properly.
    Close(&'static str),
    /// Our application gave up on this stream (consumer).
    Abort(u64),
    /// Our application has stopped reading this stream, or reads it again (consumer).
    Flow { stream: u64, paused: bool },
    /// Our origin broke this stream off (provider).
    Broken(u64),
    /// The channel holds this much now (consumer).
    ToppedUp(Amount),
    /// The chain says this of the channel (provider).
    Facts(ChannelFacts),
}

/// What payer and payee have in common for their driver.
pub(crate) trait Machine: Send {
    fn handle_message(&mut self, message: Message, now: Timestamp) -> Result<(), ProtocolError>;
    fn handle_reading(&mut self, reading: Reading, now: Timestamp) -> Result<(), ProtocolError>;
    fn handle_timeout(&mut self, now: Timestamp) -> Result<(), ProtocolError>;
    fn handle_command(&mut self, command: Command, now: Timestamp) -> Result<(), ProtocolError>;
    fn poll_timeout(&self) -> Option<Timestamp>;
    fn poll_mark(&self) -> ByteCount;
    fn poll_output(&mut self) -> Option<Output>;
    fn statement(&self, now: Timestamp) -> Statement;
    fn stopped(&self) -> Option<StopReason>;
    /// Takes what the other session of the connection owes.
    fn hear(&mut self, account: &SetOff, now: Timestamp) -> Result<(), ProtocolError>;
    /// Puts down what this one does.
    fn tell(&self, account: &mut SetOff);
    /// It has ended properly.
    fn leave(&self, account: &mut SetOff);
}

impl Machine for Payer {
    fn hear(&mut self, account: &SetOff, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_set_off(account.for_payer(), now)
    }
    fn tell(&self, account: &mut SetOff) {
        account.payer(self.debt());
    }
    fn leave(&self, account: &mut SetOff) {
        account.payer_over(self.debt());
    }
    fn handle_message(&mut self, message: Message, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_message(message, now)
    }
    fn handle_reading(&mut self, reading: Reading, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_reading(reading, now)
    }
    fn handle_timeout(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_timeout(now)
    }
    fn handle_command(&mut self, command: Command, now: Timestamp) -> Result<(), ProtocolError> {
        match command {
            Command::Close(reason) => self.handle_close(reason, now),
            Command::Abort(stream) => self.handle_abort(stream),
            Command::Flow { stream, paused } => self.handle_flow(stream, paused),
            Command::ToppedUp(reserved) => self.handle_top_up(reserved, now)?,
            Command::Broken(_) | Command::Facts(_) => {}
        }
        Ok(())
    }
    fn poll_timeout(&self) -> Option<Timestamp> {
        self.poll_timeout()
    }
    fn poll_mark(&self) -> ByteCount {
        self.poll_mark()
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.poll_output()
    }
    fn statement(&self, now: Timestamp) -> Statement {
        self.statement(now)
    }
    fn stopped(&self) -> Option<StopReason> {
        self.stopped()
    }
}

impl Machine for Payee {
    fn hear(&mut self, account: &SetOff, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_set_off(account.for_payee(), now)
    }
    fn tell(&self, account: &mut SetOff) {
        account.payee(self.debt(), self.set_off());
    }
    fn leave(&self, account: &mut SetOff) {
        account.payee_over(self.set_off());
    }
    fn handle_message(&mut self, message: Message, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_message(message, now)
    }
    fn handle_reading(&mut self, reading: Reading, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_reading(reading, now);
        Ok(())
    }
    fn handle_timeout(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        self.handle_timeout(now)
    }
    fn handle_command(&mut self, command: Command, now: Timestamp) -> Result<(), ProtocolError> {
        match command {
            Command::Close(reason) => self.handle_close(reason, now),
            Command::Facts(facts) => self.handle_chain_event(facts),
            Command::Abort(_)
            | Command::Flow { .. }
            | Command::Broken(_)
            | Command::ToppedUp(_) => {}
        }
        Ok(())
    }
    fn poll_timeout(&self) -> Option<Timestamp> {
        self.poll_timeout()
    }
    fn poll_mark(&self) -> ByteCount {
        self.poll_mark()
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.poll_output()
    }
    fn statement(&self, now: Timestamp) -> Statement {
        self.statement(now)
    }
    fn stopped(&self) -> Option<StopReason> {
        self.stopped()
    }
}

/// Makes records durable on a blocking thread.
pub(crate) async fn persist(
    store: &Arc<dyn Store>,
    records: Vec<Record>,
) -> Result<(), SessionError> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || store.record(&records)).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(StoreError::Damaged {
            path: "store".into(),
            reason: format!("recording stopped: {error}"),
        }
        .into()),
    }
}

/// What makes a machine turn.
#[allow(clippy::large_enum_variant)] // lives for one turn on the stack
enum Input {
    Message(Message),
    Command(Command),
    Reading,
    Timeout,
}

impl Input {
    fn into_machine(
        self,
        machine: &mut dyn Machine,
        reading: Reading,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        machine.handle_reading(reading, now)?;
        match self {
            Self::Message(message) => machine.handle_message(message, now),
            Self::Command(command) => machine.handle_command(command, now),
            Self::Timeout => machine.handle_timeout(now),
            Self::Reading => Ok(()),
        }
    }
}

/// Everything that a machine is connected to.
pub(crate) struct Driver {
    pub(crate) control: ControlWriter,
    pub(crate) messages: mpsc::Receiver<Result<Message, SessionError>>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) meter: Arc<SessionMeter>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) figures: watch::Sender<Option<Statement>>,
    /// What the session runs under, until it is kept as evidence.
    pub(crate) offer: Option<Offer>,
    /// What is set off against the session that runs the other way over the same connection.
    pub(crate) balance: Option<Arc<Balance>>,
    pub(crate) clock: Clock,
}

/// Tells the other session of the connection that this one did not end properly.
struct BreaksOff(Option<Arc<Balance>>);

impl BreaksOff {
    fn not(mut self) {
        self.0 = None;
    }
}

impl Drop for BreaksOff {
    fn drop(&mut self) {
        if let Some(balance) = &self.0 {
            balance.break_off();
        }
    }
}

impl Driver {
    /// Runs until the session has ended on both sides. Returns the statement and the control
    /// stream, which the caller finishes.
    ///
    /// # Errors
    /// [`SessionError`] where it broke off; what is durable by then is what counts.
    pub(crate) async fn run(
        &mut self,
        machine: &mut dyn Machine,
        on_event: impl FnMut(Event) + Send,
    ) -> Result<Statement, SessionError> {
        let mut stops = StopWatch::default();
        // Also where we are dropped in the middle: another connection has taken the session over.
        let breaks_off = BreaksOff(self.balance.clone());
        let result = self.turns(machine, on_event, &mut stops).await;
        if result.is_ok() {
            breaks_off.not();
        }
        let now = (self.clock)();
        if let Some(stop) = stops.end(now) {
            self.keep_stop(machine.statement(now).session, stop).await;
        }
        result
    }

    async fn turns(
        &mut self,
        machine: &mut dyn Machine,
        mut on_event: impl FnMut(Event) + Send,
        stops: &mut StopWatch,
    ) -> Result<Statement, SessionError> {
        let mut commands_open = true;
        let mut heard = (self.clock)();
        loop {
            if let Some(statement) = self.drain(machine, &mut on_event).await? {
                if let Some(balance) = &self.balance {
                    balance.turn(statement.role, |account| machine.leave(account));
                }
                return Ok(statement);
            }
            if self.balance.as_ref().is_some_and(|balance| balance.is_broken()) {
                return Err(SessionError::Transport(TransportError::FinishedEarly));
            }
            let now = (self.clock)();
            let statement = machine.statement(now);
            // The session is recorded now: it was among the machine's first outputs.
            if let Some(offer) = self.offer.take() {
                self.keep_offer(statement.session, offer).await;
            }
            if let Some(stop) = stops.look(&self.seen(machine, &statement, heard), now) {
                self.keep_stop(statement.session, stop).await;
            }
            let role = statement.role;
            self.figures.send_replace(Some(statement));
            self.meter.set_mark(machine.poll_mark());
            let wake = machine.poll_timeout().map(|at| Duration::from_millis(at.ms_since(now)));
            let rebalanced = async {
                match &self.balance {
                    Some(balance) => balance.changed(role).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => Input::Message(message?),
                    None => return Err(SessionError::Transport(TransportError::FinishedEarly)),
                },
                command = self.commands.recv(), if commands_open => match command {
                    Some(command) => Input::Command(command),
                    None => { commands_open = false; continue }
                },
                () = self.meter.marked() => Input::Reading,
                () = rebalanced => Input::Reading,
                () = sleep(wake.unwrap_or(FIGURES_EVERY).min(FIGURES_EVERY)) => match wake {
                    Some(wake) if wake <= FIGURES_EVERY => Input::Timeout,
                    _ => Input::Reading,
                },
            };
            let now = (self.clock)();
            match input {
                Input::Message(_) => heard = now,
                Input::Command(Command::Broken(stream)) => {
                    self.control.send(&Message::Broken { stream }).await?;
                }
                _ => {}
            }
            // The newest reading first: a payment must not look as if it ran ahead of it.
            let reading = self.meter.reading();
            match &self.balance {
                None => input.into_machine(machine, reading, now)?,
                Some(balance) => balance.turn(role, |account| {
                    machine.hear(account, now)?;
                    input.into_machine(machine, reading, now)?;
                    machine.tell(account);
                    Ok::<_, ProtocolError>(())
                })?,
            }
        }
    }

    /// What is seen of the session now.
    fn seen(&self, machine: &dyn Machine, statement: &Statement, heard: Timestamp) -> Look {
        // A consumer's meter lets everything pass: it counts what has arrived.
        let wanted = statement.role == Role::Payer || self.meter.has_turned_away();
        let paid = statement.price.affordable(statement.paid);
        let counted = statement.counted.checked_total().unwrap_or_default();
        Look {
            stopped: machine.stopped().filter(|_| wanted),
            waiting: self.meter.waiting(),
            unpaid: counted.saturating_sub(paid),
            heard,
        }
    }

    /// Evidence only, as stops are.
    async fn keep_offer(&self, session: SessionId, offer: Offer) {
        if let Err(error) = ask(&self.store, move |store| store.offered(session, &offer)).await {
            tracing::warn!(%session, %error, "the provider's signature of the terms is not kept");
        }
    }

    /// Evidence only: where it cannot be kept, the next thing that must be will say so.
    async fn keep_stop(&self, session: SessionId, stop: Stop) {
        if let Err(error) = ask(&self.store, move |store| store.stopped(session, &stop)).await {
            tracing::warn!(%session, %error, "a stop is not remembered");
        }
    }

    /// Carries out outputs until there are none: persist, then transmit.
    async fn drain(
        &mut self,
        machine: &mut dyn Machine,
        on_event: &mut (impl FnMut(Event) + Send),
    ) -> Result<Option<Statement>, SessionError> {
        let mut ended = None;
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Persist(records) => persist(&self.store, records).await?,
                Output::Transmit(message) => self.control.send(&message).await?,
                Output::Grant(limit) => self.meter.set_limit(limit),
                Output::Event(Event::Ended(statement)) => {
                    on_event(Event::Ended(statement.clone()));
                    self.figures.send_replace(Some(statement.clone()));
                    ended = Some(statement);
                }
                Output::Event(event) => on_event(event),
            }
        }
        Ok(ended)
    }
}
