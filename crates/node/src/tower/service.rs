//! The tower at work: one task drives the machine, others carry messages to it, ask the chain and
//! send transactions.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sparewire_core::{ChannelId, DeviceSigner, NodeId};
use sparewire_protocol::{
    Entrust, WatchMessage, WatchRefusal, WatchRefused,
    settlement::{Chain, ChainError},
    watch::{
        Charge, CheckedEntrust, Stage, Tower, TowerPolicy, WatchEvent, WatchFacts, WatchOutput,
        WatchRecord,
    },
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    TowerStore,
    errands::{Errand, Errands},
    look, wire,
};
use crate::{
    session::Clock,
    store::StoreError,
    transport::{Connection, Endpoint},
};

/// Connections at a time. They cost nothing to open, so they must not be able to keep others out:
/// beyond this the oldest has to go, and comes again if it is honest.
const CONNECTIONS_MAX: usize = 256;
/// Appointments at a time for which the chain is asked: their signatures are good, but keys cost
/// nothing, so strangers must not be able to make us ask more than this at once.
const ENTRUSTS_MAX: usize = 32;
/// How long a client may keep a connection without saying anything.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest that we sleep: our clock may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(30);

/// A watchtower. It serves once it is [`TowerService::run`].
pub struct TowerService {
    endpoint: Endpoint,
    store: Arc<TowerStore>,
    chain: Arc<dyn Chain>,
    clock: Clock,
    tower: Mutex<Tower>,
    asking: Arc<Semaphore>,
    errands: Mutex<Errands>,
}

/// An appointment on its way to the machine.
struct Request {
    client: NodeId,
    entrust: Entrust,
    reply: oneshot::Sender<WatchMessage>,
}

/// What came of something that took its time.
enum Done {
    Entrust(Box<CheckedEntrust>, Result<WatchFacts, ChainError>, oneshot::Sender<WatchMessage>),
    Looked(ChannelId, Result<WatchFacts, ChainError>),
    Settled(Box<Errand>, Result<(), ChainError>),
}

impl TowerService {
    /// A tower that goes on with what its store remembers.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read.
    pub fn new(
        policy: TowerPolicy,
        device: Arc<dyn DeviceSigner>,
        endpoint: Endpoint,
        store: Arc<TowerStore>,
        chain: Arc<dyn Chain>,
        clock: Clock,
    ) -> Result<Arc<Self>, StoreError> {
        let tower = Tower::new(policy, device, chain.wallet(), store.charges()?, clock());
        Ok(Arc::new(Self {
            endpoint,
            store,
            chain,
            clock,
            tower: Mutex::new(tower),
            asking: Arc::new(Semaphore::new(ENTRUSTS_MAX)),
            errands: Mutex::new(Errands::new()),
        }))
    }

    /// What is watched now.
    pub fn watched(&self) -> Vec<(Charge, Stage)> {
        self.tower().watched().map(|(charge, stage)| (*charge, stage)).collect()
    }

    /// Serves until `shutdown`. Transactions that are under way are followed on at the next start.
    pub async fn run(self: &Arc<Self>, shutdown: CancellationToken) {
        let (requests, mut receiver) = mpsc::channel(ENTRUSTS_MAX);
        let (mut clients, mut places) = (JoinSet::new(), VecDeque::new());
        let mut jobs = JoinSet::new();
        loop {
            // What is due comes first: events, however many, do not put it off.
            let now = (self.clock)();
            if self.tower().poll_timeout().is_some_and(|at| at <= now) {
                self.tower().handle_timeout(now);
                self.carry_out(&mut jobs, None).await;
            }
            let ripe = self.errands().ripe();
            if ripe.is_some_and(|at| at <= Instant::now()) {
                self.begin(&mut jobs);
                continue;
            }
            let wake = self.tower().poll_timeout();
            let nap = wake.map_or(NAP_MAX, |at| {
                Duration::from_millis(at.ms_since((self.clock)())).min(NAP_MAX)
            });
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(nap) => {}
                () = sleep_until(ripe.unwrap_or_else(Instant::now)), if ripe.is_some() => {}
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { break };
                    let (requests, place) = (requests.clone(), place(&mut places));
                    clients.spawn(async move {
                        let _gone = place.gone.clone().drop_guard();
                        let served = async {
                            match incoming.handshake().await {
                                Ok(connection) => {
                                    serve(&connection, &requests, &place.answering).await;
                                }
                                Err(error) => tracing::debug!(%error, "no connection"),
                            }
                        };
                        let _ = place.gone.run_until_cancelled(served).await;
                    });
                }
                Some(request) = receiver.recv() => self.take(request, &mut jobs),
                Some(done) = jobs.join_next(), if !jobs.is_empty() => match done {
                    Ok(done) => self.finish(done, &mut jobs).await,
                    Err(error) => tracing::error!(%error, "a task of the tower ended early"),
                },
                Some(_) = clients.join_next(), if !clients.is_empty() => {}
            }
        }
    }

    /// Checks an appointment and asks the chain about its channel.
    fn take(self: &Arc<Self>, request: Request, jobs: &mut JoinSet<Done>) {
        let Request { client, entrust, reply } = request;
        let Ok(asking) = Arc::clone(&self.asking).try_acquire_owned() else {
            let _ = reply.send(busy());
            return;
        };
        let checked = self.tower().check(client, entrust, (self.clock)());
        match checked {
            Ok(checked) => {
                let chain = Arc::clone(&self.chain);
                jobs.spawn(async move {
                    let facts = look(&chain, checked.entrust(), true).await;
                    drop(asking);
                    Done::Entrust(Box::new(checked), facts, reply)
                });
            }
            Err(refused) => {
                tracing::debug!(%client, %refused, "an appointment is refused");
                let _ = reply.send(WatchMessage::Refused(refused));
            }
        }
    }

    async fn finish(self: &Arc<Self>, done: Done, jobs: &mut JoinSet<Done>) {
        let now = (self.clock)();
        match done {
            Done::Entrust(checked, Ok(facts), reply) => {
                self.tower().handle_entrust(*checked, facts, now);
                return self.carry_out(jobs, Some(reply)).await;
            }
            Done::Entrust(_, Err(error), reply) => {
                tracing::warn!(%error, "cannot ask about a channel that is entrusted");
                let _ = reply.send(unavailable("this tower cannot ask its chain now"));
            }
            Done::Looked(channel, Ok(facts)) => self.tower().handle_facts(channel, facts, now),
            Done::Looked(channel, Err(error)) => {
                tracing::warn!(%channel, %error, "cannot ask about a channel");
                self.tower().handle_silence(channel, now);
            }
            Done::Settled(errand, outcome) => {
                let refused = matches!(outcome, Err(ChainError::Reverted { .. }));
                let channels = self.errands().over(*errand, refused);
                for channel in channels {
                    if let Err(error) = &outcome {
                        tracing::error!(%channel, %error, "could not act; trying again");
                    }
                    self.tower().handle_settled(channel, outcome.is_ok(), now);
                }
            }
        }
        self.carry_out(jobs, None).await;
    }

    /// Carries outputs out, each before the next.
    async fn carry_out(
        self: &Arc<Self>,
        jobs: &mut JoinSet<Done>,
        mut reply: Option<oneshot::Sender<WatchMessage>>,
    ) {
        loop {
            // Not in the loop's head: the guard would live as long as its body.
            let Some(output) = self.tower().poll_output() else { return };
            match output {
                WatchOutput::Persist(record) => {
                    if let Err(error) = self.persist(record).await {
                        // Nothing was acknowledged. What the machine holds beyond the store it may
                        // still use; what is to be forgotten is looked at again after a restart.
                        tracing::error!(%error, "cannot record what is watched");
                        if let Some(reply) = reply.take() {
                            let _ = reply.send(unavailable("nothing can be recorded here now"));
                        }
                    }
                }
                WatchOutput::Transmit(message) => {
                    if let Some(reply) = reply.take() {
                        let _ = reply.send(message); // the client may be gone
                    }
                }
                WatchOutput::Look(channel) => {
                    let Some(charge) = self.tower().charge(channel).copied() else { continue };
                    let chain = Arc::clone(&self.chain);
                    jobs.spawn(async move {
                        Done::Looked(channel, look(&chain, &charge.entrust, false).await)
                    });
                }
                WatchOutput::Settle { channel, intent, due_secs } => {
                    tracing::warn!(%channel, kind = intent.kind(), "acting");
                    self.errands().push(channel, intent, due_secs);
                }
                WatchOutput::Event(event) => tell(event),
            }
        }
    }

    /// Begins what is to be done on chain. The chain's carrier sends one transaction after the other;
    /// what waits there to be final holds nobody up.
    fn begin(&self, jobs: &mut JoinSet<Done>) {
        let errands = self.errands().take();
        for errand in errands {
            let chain = Arc::clone(&self.chain);
            jobs.spawn(async move {
                let outcome = chain.perform(&errand.intent).await;
                Done::Settled(Box::new(errand), outcome.map(|_| ()))
            });
        }
    }

    async fn persist(&self, record: WatchRecord) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || store.record(&record)).await {
            Ok(recorded) => recorded,
            Err(error) => Err(StoreError::Damaged {
                path: "the tower's store".into(),
                reason: format!("the write was cut off: {error}"),
            }),
        }
    }

    fn errands(&self) -> MutexGuard<'_, Errands> {
        self.errands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tower(&self) -> MutexGuard<'_, Tower> {
        // The machine holds no half-made change across a panic that we know of.
        self.tower.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection among the others.
#[derive(Clone, Default)]
struct Place {
    /// Cancelled when it has to go, or is gone.
    gone: CancellationToken,
    /// Whether it handed in an appointment that is not answered yet.
    answering: Arc<AtomicBool>,
}

/// A place for one more connection; where there is none left, the oldest has to go. One that waits
/// for our answer goes only where all do.
fn place(places: &mut VecDeque<Place>) -> Place {
    if places.len() >= CONNECTIONS_MAX {
        places.retain(|place| !place.gone.is_cancelled());
    }
    if places.len() >= CONNECTIONS_MAX {
        let idle = places.iter().position(|place| !place.answering.load(Relaxed));
        if let Some(place) = places.remove(idle.unwrap_or_default()) {
            place.gone.cancel();
        }
    }
    let place = Place::default();
    places.push_back(place.clone());
    place
}

fn busy() -> WatchMessage {
    let reason = "too much to do at once; come again in a minute";
    WatchMessage::Refused(WatchRefused::new(WatchRefusal::Busy, reason))
}

fn unavailable(reason: &str) -> WatchMessage {
    WatchMessage::Refused(WatchRefused::new(WatchRefusal::Unavailable, reason))
}

fn tell(event: WatchEvent) {
    match event {
        WatchEvent::Leaving { channel, finish_at_secs } => {
            tracing::warn!(%channel, finish_at_secs, "a payer leaves");
        }
        WatchEvent::Done { channel, claimed } => {
            tracing::info!(%channel, %claimed, "nothing is left to claim");
        }
        WatchEvent::TooLate { channel, claimed } => {
            tracing::error!(%channel, %claimed, "closed with less claimed than was entrusted");
        }
        WatchEvent::Expired { channel } => tracing::info!(%channel, "an appointment expired"),
    }
}

/// Carries one client's appointments to the machine, one at a time, and its answers back.
async fn serve(connection: &Connection, requests: &mpsc::Sender<Request>, answering: &AtomicBool) {
    let client = connection.peer();
    loop {
        let stream = tokio::time::timeout(IDLE_TIMEOUT, connection.accept_bi()).await;
        let Ok(Ok((mut send, mut receive))) = stream else { break };
        let answer = match wire::receive(&mut receive).await {
            Ok(WatchMessage::Entrust(entrust)) => {
                answering.store(true, Relaxed);
                let (reply, answer) = oneshot::channel();
                match requests.try_send(Request { client, entrust, reply }) {
                    Ok(()) => answer.await.unwrap_or_else(|_| unavailable("shutting down")),
                    Err(_) => busy(),
                }
            }
            Ok(_) | Err(_) => break connection.close(1, "that is no appointment"),
        };
        // How long the answer takes from here on is up to the client.
        answering.store(false, Relaxed);
        if wire::send(&mut send, &answer).await.is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_waits_for_its_answer_is_not_the_first_to_go() {
        let mut places = VecDeque::new();
        let all: Vec<_> = (0..CONNECTIONS_MAX).map(|_| place(&mut places)).collect();
        all[0].answering.store(true, Relaxed);
        let more: Vec<_> = (0..CONNECTIONS_MAX - 1).map(|_| place(&mut places)).collect();
        assert!(!all[0].gone.is_cancelled());
        assert!(all[1..].iter().all(|place| place.gone.is_cancelled()));
        for place in &more {
            place.answering.store(true, Relaxed);
        }
        place(&mut places);
        assert!(all[0].gone.is_cancelled(), "where all wait, it is the oldest");
        assert_eq!(places.len(), CONNECTIONS_MAX);
    }
}
