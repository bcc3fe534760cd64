//! A payee's side: hands its newest vouchers to towers as they grow, so that it may sleep.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use sparewire_core::{Address, Amount, ChannelId, NodeId, Timestamp};
use sparewire_protocol::{
    APPOINTMENT_SECS_MAX, Appointment, Entrust, Kept, Role, TOWERS_MAX, TowersDomain, WatchMessage,
    WatchRefusal, WatchRefused, turn_of,
};
use tokio_util::sync::CancellationToken;

use super::{TowerStore, wire};
use crate::{
    identity::Identity,
    session::Clock,
    store::{KnownChannel, Store, StoreError, ask},
    transport::{Connection, Endpoint, PeerAddress, WATCH_ALPN},
};

/// Pause between two looks at what has grown.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pauses after a tower was not reached: the first, doubled up to the last.
const BACK_OFF_MS: (u64, u64) = (5_000, 600_000);
/// How long a refusal counts, since the tower may change its mind: the first, doubled up to the
/// last. A channel that is claimed or closed is refused for good.
const REFUSED_MS: (u64, u64) = (600_000, 24 * 3_600_000);
/// An appointment is renewed when less than this is left of it, in seconds.
const RENEW_SECS: u64 = APPOINTMENT_SECS_MAX / 2;
/// Channels that one tower is told of in a row, before towers that answer late hold up the rest.
const BATCH_MAX: usize = 200;

/// To whom a payee entrusts its vouchers, and when.
#[derive(Clone, Debug)]
pub struct EntrustConfig {
    /// The towers, at most [`sparewire_protocol::TOWERS_MAX`].
    pub towers: Vec<PeerAddress>,
    /// The contract that holds rewards; zero where there is none.
    pub contract: Address,
    /// The token of the reward.
    pub token: Address,
    /// The reward for each channel that is defended, in its smallest unit; zero for none.
    pub reward: Amount,
    /// What may be promised over a channel beyond what a tower holds before the tower is told.
    pub step: Amount,
    /// How long less than that may wait, in milliseconds.
    pub wait_ms: u64,
}

/// How we stand with a tower. What it holds beyond its word's expiry, and of what is claimed, it does
/// not watch.
#[derive(Clone, Debug, Serialize)]
pub struct TowerStatus {
    /// Its device.
    pub tower: NodeId,
    /// Whether it answered last time; `None` before the first.
    pub reachable: Option<bool>,
    /// What it, or the road to it, said last, where that was not "kept".
    pub trouble: Option<String>,
    /// Channels that it watches.
    pub channels: usize,
    /// What it watches over all of them, in the token's smallest unit.
    pub watched_units: Amount,
    /// What is promised beyond that and not claimed.
    pub unwatched_units: Amount,
    /// How many seconds ago it last said that it keeps something.
    pub age_secs: Option<u64>,
}

#[derive(Default)]
struct Tower {
    reachable: Option<bool>,
    trouble: Option<String>,
    failures: u32,
    /// Not before this.
    next: Timestamp,
    kept: BTreeMap<ChannelId, Kept>,
    /// What it turned down: how often in a row, and until when it is not asked again.
    refused: BTreeMap<ChannelId, (u32, Timestamp)>,
    /// Since when something waits to be told.
    waiting: BTreeMap<ChannelId, Timestamp>,
}

impl Tower {
    /// What it is to be told of, those first that have waited longest: a crowd of others that grow
    /// all the time keeps none from its turn. With `at_once` it is whatever it does not hold yet.
    fn due(
        &mut self,
        config: &EntrustConfig,
        channels: Vec<KnownChannel>,
        at_once: bool,
        now: Timestamp,
    ) -> Vec<KnownChannel> {
        let mut due: Vec<(Timestamp, KnownChannel)> = channels
            .into_iter()
            .filter_map(|channel| Some((self.due_since(config, &channel, at_once, now)?, channel)))
            .collect();
        due.sort_by_key(|(since, channel)| (*since, channel.id));
        if !at_once {
            due.truncate(BATCH_MAX);
        }
        due.into_iter().map(|(_, channel)| channel).collect()
    }

    /// Since when a channel has waited, if it is to be told now.
    fn due_since(
        &mut self,
        config: &EntrustConfig,
        channel: &KnownChannel,
        at_once: bool,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (promised, id) = (channel.promised(), channel.id);
        let kept = self.kept.get(&id);
        let watched = kept.map_or(Amount::ZERO, |kept| kept.amount);
        let renew =
            kept.is_some_and(|kept| kept.expiry_secs.saturating_sub(now.as_secs()) < RENEW_SECS);
        // Nobody is paid more for a channel than it is worth.
        let worth_it = promised > config.reward;
        let grown = promised.saturating_sub(watched);
        let refused = self.refused.get(&id).is_some_and(|(_, until)| now < *until);
        if !worth_it || refused || (grown == Amount::ZERO && !renew) {
            self.waiting.remove(&id);
            return None;
        }
        let since = *self.waiting.entry(id).or_insert(now);
        let waited = now.ms_since(since) >= config.wait_ms;
        (at_once || renew || grown >= config.step || waited).then_some(since)
    }
}

/// Entrusts vouchers while it is [`Entrusting::run`].
pub struct Entrusting {
    config: EntrustConfig,
    identity: Identity,
    endpoint: Endpoint,
    store: Arc<dyn Store>,
    domain: sparewire_core::Domain,
    kept: Arc<TowerStore>,
    clock: Clock,
    towers: Mutex<BTreeMap<NodeId, Tower>>,
}

impl Entrusting {
    /// Remembers what towers acknowledged before. `kept` is a file of our own.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be read.
    pub fn new(
        config: EntrustConfig,
        identity: Identity,
        endpoint: Endpoint,
        store: Arc<dyn Store>,
        domain: sparewire_core::Domain,
        kept: Arc<TowerStore>,
        clock: Clock,
    ) -> Result<Arc<Self>, StoreError> {
        let mut towers: BTreeMap<NodeId, Tower> =
            config.towers.iter().map(|peer| (peer.node, Tower::default())).collect();
        for (word, _) in kept.acknowledgements()? {
            if let Some(tower) = towers.get_mut(&word.tower)
                && word.domain == domain
                && word.client == identity.node_id()
            {
                tower.kept.insert(word.channel, word);
            }
        }
        let towers = Mutex::new(towers);
        Ok(Arc::new(Self { config, identity, endpoint, store, domain, kept, clock, towers }))
    }

    /// Entrusts until `shutdown`, then once more whatever has grown, for at most 10 s.
    pub async fn run(self: &Arc<Self>, shutdown: CancellationToken) {
        let each = self.config.towers.iter().map(|peer| {
            let shutdown = shutdown.clone();
            async move {
                while !shutdown.is_cancelled() {
                    self.tell(peer, false).await;
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
                // We are about to sleep: now it matters that they hold the newest.
                let last = self.tell(peer, true);
                let _ = tokio::time::timeout(Duration::from_secs(10), last).await;
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// How we stand with each tower. `settled` says up to which amount nothing is left to claim in a
    /// channel.
    ///
    /// # Errors
    /// [`StoreError`] where the store does not tell our channels.
    pub fn status(
        &self,
        settled: impl Fn(ChannelId) -> Amount,
    ) -> Result<Vec<TowerStatus>, StoreError> {
        let channels = self.ours(self.store.channels(Role::Payee)?);
        let now = (self.clock)();
        let sum = |sum: Amount, more: Amount| sum.checked_add(more).unwrap_or(Amount::MAX);
        let towers = self.towers();
        let status = towers.iter().map(|(node, tower)| {
            let kept = |channel: &KnownChannel| {
                let kept = tower.kept.get(&channel.id)?;
                let counts = kept.expiry_secs > now.as_secs() && kept.amount > settled(channel.id);
                counts.then_some(kept.amount)
            };
            let unwatched = |channel: &KnownChannel| {
                let over = kept(channel).unwrap_or_else(|| settled(channel.id));
                channel.promised().saturating_sub(over)
            };
            let watched: Vec<Amount> = channels.iter().filter_map(kept).collect();
            let newest = tower.kept.values().map(|kept| kept.time).max();
            TowerStatus {
                tower: *node,
                reachable: tower.reachable,
                trouble: tower.trouble.clone(),
                channels: watched.len(),
                watched_units: watched.into_iter().fold(Amount::ZERO, sum),
                unwatched_units: channels.iter().map(unwatched).fold(Amount::ZERO, sum),
                age_secs: newest.map(|time| now.ms_since(time) / 1000),
            }
        });
        Ok(status.collect())
    }

    fn ours(&self, channels: Vec<KnownChannel>) -> Vec<KnownChannel> {
        // Whichever wallet they pay: appointments are our authorizer's to sign.
        let (domain, authorizer) = (self.domain, self.identity.authorizer.address());
        let ours = |channel: &KnownChannel| {
            channel.domain == domain
                && channel.config.payee_authorizer == authorizer
                && channel.claim().is_some()
        };
        channels.into_iter().filter(ours).collect()
    }

    /// Tells one tower what it should know; with `at_once` whatever it does not hold yet.
    async fn tell(&self, peer: &PeerAddress, at_once: bool) {
        let channels = match ask(&self.store, |store| store.channels(Role::Payee)).await {
            Ok(channels) => self.ours(channels),
            Err(error) => return tracing::warn!(%error, "cannot look what to entrust"),
        };
        let now = (self.clock)();
        let due: Vec<KnownChannel> = {
            let mut towers = self.towers();
            let Some(tower) = towers.get_mut(&peer.node) else { return };
            if now < tower.next && !at_once {
                return;
            }
            tower.due(&self.config, channels, at_once, now)
        };
        if due.is_empty() {
            return;
        }
        let told = async {
            let connection = self.endpoint.connect_for(peer, WATCH_ALPN).await?;
            for channel in &due {
                self.entrust(&connection, channel).await?;
            }
            connection.close(0, "done");
            Ok::<_, EntrustError>(())
        };
        let told = told.await;
        let now = (self.clock)();
        let mut towers = self.towers();
        let Some(tower) = towers.get_mut(&peer.node) else { return };
        match told {
            Ok(()) => (tower.failures, tower.reachable) = (0, Some(true)),
            Err(error) => {
                let (first, last) = BACK_OFF_MS;
                tower.next = now.plus_ms((first << tower.failures.min(16)).min(last));
                tower.failures = tower.failures.saturating_add(1);
                tower.reachable = Some(false);
                tower.trouble = Some(error.to_string());
                tracing::warn!(tower = %peer.node, %error, "cannot entrust; trying again");
            }
        }
    }

    /// Entrusts one channel and makes the answer durable before it is relied on.
    async fn entrust(
        &self,
        connection: &Connection,
        channel: &KnownChannel,
    ) -> Result<(), EntrustError> {
        let tower = connection.peer();
        let Some(entrust) = self.entrust_of(channel, tower)? else { return Ok(()) };
        let (mut send, mut receive) = connection.open_bi().await?;
        wire::send(&mut send, &WatchMessage::Entrust(entrust)).await?;
        match wire::receive(&mut receive).await? {
            WatchMessage::Kept { kept, signature } => {
                signature.verify(tower, &kept).map_err(|_| EntrustError::Forged)?;
                // The turn may be another, where a copy of this came there first: it is watched all
                // the same.
                let (Kept { time, turn, .. }, asked) = (kept, self.word_for(&entrust, tower));
                let is_turn = turn.0 < turn.1 && turn.1 <= TOWERS_MAX;
                if !is_turn || kept != (Kept { time, turn, ..asked }) {
                    return Err(EntrustError::Forged);
                }
                let store = Arc::clone(&self.kept);
                let write = move || store.acknowledge(&kept, signature);
                tokio::task::spawn_blocking(write).await.map_err(|_| EntrustError::CutOff)??;
                if let Some(tower) = self.towers().get_mut(&tower) {
                    tower.kept.insert(kept.channel, kept);
                    tower.waiting.remove(&kept.channel);
                    tower.refused.remove(&kept.channel);
                    tower.trouble = None;
                }
                Ok(())
            }
            // They are about the tower, not about this channel: others would hear the same.
            WatchMessage::Refused(refused)
                if matches!(refused.code, WatchRefusal::Busy | WatchRefusal::Unavailable) =>
            {
                Err(refused.into())
            }
            WatchMessage::Refused(refused) => {
                tracing::info!(%tower, channel = %channel.id, %refused, "not watched");
                if let Some(tower) = self.towers().get_mut(&tower) {
                    let (count, until) = tower.refused.entry(channel.id).or_default();
                    let (first, last) = REFUSED_MS;
                    *until = (self.clock)().plus_ms((first << (*count).min(16)).min(last));
                    *count = count.saturating_add(1);
                    tower.trouble = Some(refused.to_string());
                }
                Ok(())
            }
            WatchMessage::Entrust(_) => Err(EntrustError::Forged),
        }
    }

    /// What is handed over of a channel.
    fn entrust_of(
        &self,
        channel: &KnownChannel,
        tower: NodeId,
    ) -> Result<Option<Entrust>, EntrustError> {
        let Some(payment) = channel.payment else { return Ok(None) };
        let config = &self.config;
        let bound = config.contract != Address::ZERO && config.reward > Amount::ZERO;
        let contract = if bound { config.contract } else { Address::ZERO };
        let appointment = Appointment {
            channel: channel.id,
            amount: payment.voucher.body.amount,
            payee: channel.config.payee,
            token: config.token,
            reward: if bound { config.reward } else { Amount::ZERO },
            expiry_secs: (self.clock)().as_secs() + APPOINTMENT_SECS_MAX,
        };
        let domain = TowersDomain { chain_id: self.domain.chain_id, contract };
        let nodes: Vec<NodeId> = config.towers.iter().map(|peer| peer.node).collect();
        Ok(Some(Entrust {
            domain: self.domain,
            towers: contract,
            config: channel.config,
            voucher: payment.voucher,
            appointment: appointment.sign(&domain, &*self.identity.authorizer)?,
            turn: turn_of(channel.id, tower, &nodes),
            turns: u8::try_from(nodes.len()).unwrap_or(u8::MAX),
        }))
    }

    /// What the tower must say to `entrust`, but for the time.
    fn word_for(&self, entrust: &Entrust, tower: NodeId) -> Kept {
        let promise = &entrust.appointment.body;
        Kept {
            tower,
            client: self.identity.node_id(),
            domain: self.domain,
            channel: entrust.channel(),
            amount: entrust.amount(),
            reward: promise.reward,
            expiry_secs: promise.expiry_secs,
            turn: (entrust.turn, entrust.turns),
            time: Timestamp::default(),
        }
    }

    fn towers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Tower>> {
        // Plain inserts and removes: a panic leaves no half.
        self.towers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a tower was not told.
#[derive(Debug, thiserror::Error)]
enum EntrustError {
    #[error(transparent)]
    Transport(#[from] crate::transport::TransportError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error(transparent)]
    Refused(#[from] WatchRefused),
    #[error(transparent)]
    Signer(#[from] sparewire_core::SignerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the tower's word is not about what was entrusted, or not signed by it")]
    Forged,
    #[error("the write was cut off")]
    CutOff,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{ByteCount, Domain, SessionId, Signature, Signed};
    use sparewire_protocol::{ChannelConfig, Payment, Reading, Voucher};

    use super::*;

    const DOMAIN: Domain = Domain { chain_id: 1, contract: Address::ZERO };
    const NODE: NodeId = NodeId(sparewire_core::B256::ZERO);

    fn config() -> EntrustConfig {
        EntrustConfig {
            towers: Vec::new(),
            contract: Address::ZERO,
            token: Address::ZERO,
            reward: Amount::ZERO,
            step: Amount::ZERO,
            wait_ms: 0,
        }
    }

    fn promised(salt: u64, units: u128) -> KnownChannel {
        let address = Address::repeat_byte(1);
        let config = ChannelConfig {
            payer: address,
            payer_authorizer: address,
            payee: address,
            payee_authorizer: address,
            token: address,
            withdraw_delay_secs: 900,
            salt,
        };
        let (id, amount) = (config.id(&DOMAIN), Amount::new(units).unwrap());
        let mut raw = [1; 65];
        raw[64] = 27;
        let signature = Signature::from_bytes(raw).unwrap();
        let payment = Payment {
            session: SessionId([7; 32].into()),
            reading: Reading { up: ByteCount::ZERO, down: ByteCount::ZERO },
            voucher: Signed { body: Voucher { channel: id, amount }, signature },
        };
        let role = Role::Payee;
        let (domain, payment) = (DOMAIN, Some(payment));
        KnownChannel { id, role, domain, config, payment, agreed: None, frozen: false }
    }

    fn keep(tower: &mut Tower, told: &[KnownChannel]) {
        for channel in told {
            let kept = Kept {
                tower: NODE,
                client: NODE,
                domain: DOMAIN,
                channel: channel.id,
                amount: channel.promised(),
                reward: Amount::ZERO,
                expiry_secs: u64::MAX,
                turn: (0, 1),
                time: Timestamp::default(),
            };
            tower.kept.insert(channel.id, kept);
            tower.waiting.remove(&channel.id);
        }
    }

    #[test]
    fn a_crowd_that_grows_at_each_look_keeps_nobody_from_its_turn() {
        let (mut tower, mut seen) = (Tower::default(), std::collections::BTreeSet::new());
        for look in 1..=2u64 {
            let all = (0..300).map(|salt| promised(salt, u128::from(look))).collect();
            let due = tower.due(&config(), all, false, Timestamp::from_ms(look));
            assert_eq!(due.len(), BATCH_MAX);
            seen.extend(due.iter().map(|channel| channel.id));
            keep(&mut tower, &due);
        }
        assert_eq!(seen.len(), 300);
    }

    #[test]
    fn before_it_sleeps_a_payee_tells_all_that_a_tower_does_not_hold() {
        let (mut tower, slow) = (Tower::default(), EntrustConfig { wait_ms: 60_000, ..config() });
        let slow = EntrustConfig { step: Amount::MAX, ..slow };
        let all: Vec<_> = (0..300).map(|salt| promised(salt, 5)).collect();
        keep(&mut tower, &all[..20]);
        let now = Timestamp::from_ms(9);
        assert_eq!(tower.due(&slow, all.clone(), false, now), []);
        assert_eq!(tower.due(&slow, all, true, now).len(), 280);
    }
}
