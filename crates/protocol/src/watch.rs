//! The watchtower: keeps the newest vouchers of payees who may sleep, and has them claimed when
//! their payers leave. A tributary of settlement; a machine without I/O like the others.
//!
//! **The run loop.** One `handle_*`, then [`Tower::poll_output`] until there is none, each output
//! carried out before the next. An appointment is acknowledged only after it is durable: where a
//! [`WatchOutput::Persist`] fails, the [`WatchOutput::Transmit`] behind it is not sent. A look that
//! was asked for is answered by [`Tower::handle_facts`] or [`Tower::handle_silence`], an intent by
//! [`Tower::handle_settled`], [`Tower::poll_timeout`] by [`Tower::handle_timeout`].
//!
//! **Turns.** The payee's own node claims at once. Tower `k` waits `k + 1` slots after the close
//! was started ([`Entrust::wait_secs`]) and acts only if final state still shows less than its
//! voucher. Where a slot is longer than a claim takes to be final, with the pause between two
//! looks, nobody pays for a transaction in vain; where it is longer than finality alone, at most
//! one does. In the last quarter of the withdraw delay everybody acts, whoever's turn it is.
//!
//! **Time.** Block time orders turns, since it is the same for all. Between blocks our clock
//! carries it on, for at most 10 minutes; and it is never believed to be more than 10 minutes
//! behind our clock. So a clock that is up to 10 minutes wrong, either way, makes no tower act
//! before its turn.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::{
    Address, Amount, ChannelId, DeviceSigner, DeviceStatement, Domain, NodeId, Timestamp,
};

use crate::{
    appointment::{
        APPOINTMENT_SECS_MAX, Entrust, Kept, REWARD_MAX, TOWERS_MAX, WatchMessage, WatchRefusal,
        WatchRefused,
    },
    channel::{ChannelFacts, ChannelStatus},
    settlement::{Intent, RewardFacts},
    terms::CLOCK_SKEW_MS_MAX,
};

/// How many channels the chain is asked about at a time: each is a few round trips.
pub const LOOKS_MAX: usize = 16;
/// After this long without a new block, or with one that is older than clocks may differ, block
/// time is no longer taken for the time of the day.
const HEAD_STALE_MS: u64 = 120_000;
/// Pause before a transaction that failed, or a silent chain, is tried again; doubled each time up
/// to the pause between two looks.
const RETRY_MS: u64 = 5_000;
/// Each channel is looked at at least this many times within its withdraw delay.
const LOOKS_PER_DELAY: u64 = 16;
/// How many appointments one client may hand over at once, and how long another one takes to be
/// allowed, in milliseconds: two signatures are checked and a disk is waited for.
const BURST: u64 = 256;
const REFILL_MS: u64 = 250;
/// How many clients' bursts are remembered; beyond, who was quiet longest starts afresh.
const CLIENTS_REMEMBERED_MAX: usize = 4_096;

/// What a tower takes, and how often it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TowerPolicy {
    /// The chain and channel contract that it watches.
    pub domain: Domain,
    /// The contract that holds rewards; zero where there is none.
    pub towers: Address,
    /// The token that it wants rewards in.
    pub token: Address,
    /// The least reward for a channel, in that token's smallest unit.
    pub reward_min: Amount,
    /// Clients who need no reward.
    pub friends: BTreeSet<NodeId>,
    /// The shortest withdraw delay of a channel that it takes, in seconds.
    pub withdraw_delay_secs_min: u32,
    /// Most appointments in all; each takes about 1 KiB of memory.
    pub appointments_max: usize,
    /// Most appointments of one client.
    pub appointments_per_client_max: usize,
    /// Pause between two looks at a channel, in milliseconds; shorter where a sixteenth of its
    /// withdraw delay is.
    pub look_ms: u64,
}

/// An appointment as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Charge {
    /// Who entrusted it.
    pub client: NodeId,
    /// What.
    pub entrust: Entrust,
    /// When, by our clock.
    pub since: Timestamp,
}

/// What is to be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // what is kept often is the large one
pub enum WatchRecord {
    /// Keep this, instead of what was kept for its channel.
    Keep(Charge),
    /// Nothing is left to do for this channel.
    Forget(ChannelId),
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)]
pub enum WatchOutput {
    /// Make it durable before anything else.
    Persist(WatchRecord),
    /// Answer the client whose appointment was just handed in.
    Transmit(WatchMessage),
    /// Ask the chain about this channel.
    Look(ChannelId),
    /// Have this carried out on chain.
    Settle {
        /// For which channel.
        channel: ChannelId,
        /// What.
        intent: Intent,
        /// When the payer can take the rest, in seconds of block time: what is due first is done
        /// first. `u64::MAX` where nothing is lost by waiting.
        due_secs: u64,
    },
    /// Something worth telling.
    Event(WatchEvent),
}

/// Something worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A payer leaves, and less is claimed than we hold a voucher for.
    Leaving {
        /// The channel.
        channel: ChannelId,
        /// When the close can be finished, in seconds of block time.
        finish_at_secs: u64,
    },
    /// Nothing is left to do: as much as we hold a voucher for is claimed, and our reward, if there
    /// was one, collected.
    Done {
        /// The channel.
        channel: ChannelId,
        /// What is claimed in all.
        claimed: Amount,
    },
    /// The channel was closed with less claimed than we hold a voucher for.
    TooLate {
        /// The channel.
        channel: ChannelId,
        /// What is claimed in all.
        claimed: Amount,
    },
    /// The appointment expired.
    Expired {
        /// The channel.
        channel: ChannelId,
    },
}

/// What the chain's final state says of a channel that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchFacts {
    /// The channel; `None` where final state does not know it.
    pub channel: Option<ChannelFacts>,
    /// Its reward.
    pub reward: RewardFacts,
    /// The newest block's time, in seconds.
    pub head_secs: u64,
}

/// An appointment whose signatures count and that fits the tower's policy. What the chain says of
/// it is not looked at yet.
#[derive(Clone, Copy, Debug)]
pub struct CheckedEntrust {
    client: NodeId,
    entrust: Entrust,
}

impl CheckedEntrust {
    /// What was checked.
    pub fn entrust(&self) -> &Entrust {
        &self.entrust
    }
}

/// How a channel stands with a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Open when last looked at, or not looked at yet.
    Open,
    /// Its payer leaves; somebody else's turn comes first.
    Leaving,
    /// Our transaction is under way.
    Acting,
    /// Defended by us; the reward can be collected when the channel is closed.
    Defended,
}

struct Watched {
    charge: Charge,
    stage: Stage,
    looking: bool,
    failures: u32,
    /// When to look next; its entry in `wakes`. `None` while an answer is awaited.
    wake: Option<Timestamp>,
}

/// The machine.
pub struct Tower {
    policy: TowerPolicy,
    device: Arc<dyn DeviceSigner>,
    /// Who is rewarded: whose transactions they are.
    wallet: Address,
    watched: BTreeMap<ChannelId, Watched>,
    wakes: BTreeSet<(Timestamp, ChannelId)>,
    per_client: BTreeMap<NodeId, usize>,
    looking: usize,
    bursts: BTreeMap<NodeId, Burst>,
    clock: ChainClock,
    outputs: VecDeque<WatchOutput>,
}

impl Tower {
    /// A tower that remembers `kept`, and rewards `wallet` for its transactions.
    pub fn new(
        policy: TowerPolicy,
        device: Arc<dyn DeviceSigner>,
        wallet: Address,
        kept: Vec<Charge>,
        now: Timestamp,
    ) -> Self {
        let mut tower = Self {
            policy,
            device,
            wallet,
            watched: BTreeMap::new(),
            wakes: BTreeSet::new(),
            per_client: BTreeMap::new(),
            looking: 0,
            bursts: BTreeMap::new(),
            clock: ChainClock::default(),
            outputs: VecDeque::new(),
        };
        for charge in kept {
            tower.keep(charge, now);
        }
        tower
    }

    /// What is watched, and how it stands.
    pub fn watched(&self) -> impl Iterator<Item = (&Charge, Stage)> {
        self.watched.values().map(|watched| (&watched.charge, watched.stage))
    }

    /// What is kept for a channel.
    pub fn charge(&self, channel: ChannelId) -> Option<&Charge> {
        self.watched.get(&channel).map(|watched| &watched.charge)
    }

    /// Checks an appointment that `client` hands in, as far as that needs no chain. The driver then
    /// asks the chain about its channel and calls [`Tower::handle_entrust`].
    ///
    /// # Errors
    /// [`WatchRefused`], to be sent back.
    pub fn check(
        &mut self,
        client: NodeId,
        entrust: Entrust,
        now: Timestamp,
    ) -> Result<CheckedEntrust, WatchRefused> {
        let refuse = |code, reason: &str| Err(WatchRefused::new(code, reason));
        if !self.spend_burst(client, now) {
            return refuse(
                WatchRefusal::Busy,
                "too many appointments at once; come again in a minute",
            );
        }
        let (policy, appointment) = (&self.policy, &entrust.appointment.body);
        if entrust.domain != policy.domain {
            let Domain { chain_id, contract } = policy.domain;
            let reason = format!("this tower watches chain {chain_id}, contract {contract}");
            return refuse(WatchRefusal::WrongNetwork, &reason);
        }
        let channel = entrust.config.id(&policy.domain);
        if entrust.voucher.body.channel != channel
            || appointment.channel != channel
            || appointment.payee != entrust.config.payee
            || appointment.amount != entrust.amount()
            || appointment.amount == Amount::ZERO
            || appointment.reward.get() > REWARD_MAX
        {
            return refuse(WatchRefusal::Invalid, "voucher, appointment and channel do not fit");
        }
        if entrust.turns > TOWERS_MAX || entrust.turn >= entrust.turns {
            return refuse(WatchRefusal::Invalid, "there is no such turn");
        }
        if entrust.config.withdraw_delay_secs < policy.withdraw_delay_secs_min {
            let least = policy.withdraw_delay_secs_min;
            let reason = format!("this tower wants a withdraw delay of at least {least} s");
            return refuse(WatchRefusal::ChannelUnusable, &reason);
        }
        // The client's clock may be ahead of ours.
        let latest = now.as_secs() + APPOINTMENT_SECS_MAX + CLOCK_SKEW_MS_MAX / 1000;
        if appointment.expiry_secs <= now.as_secs() || appointment.expiry_secs > latest {
            let reason = "an appointment must expire within 30 days from now; check the clocks";
            return refuse(WatchRefusal::Expiry, reason);
        }
        let bound = appointment.reward > Amount::ZERO;
        if bound && (entrust.towers != policy.towers || policy.towers == Address::ZERO) {
            let reason = format!("this tower knows rewards of contract {} only", policy.towers);
            return refuse(WatchRefusal::WrongNetwork, &reason);
        }
        let enough = appointment.reward >= policy.reward_min && appointment.token == policy.token;
        if !enough && policy.reward_min > Amount::ZERO && !policy.friends.contains(&client) {
            let (least, token) = (policy.reward_min.get(), policy.token);
            let reason = format!("this tower wants at least {least} units of token {token}");
            return refuse(WatchRefusal::RewardTooSmall, &reason);
        }
        self.check_kept(client, &entrust)?;
        let Entrust { domain, config, voucher, .. } = entrust;
        let signed = voucher.verify(&domain, config.payer_authorizer).map(|_| ()).and_then(|()| {
            let towers = entrust.towers_domain();
            appointment.verify(entrust.appointment.signature, &towers, config.payee_authorizer)
        });
        match signed {
            Ok(()) => Ok(CheckedEntrust { client, entrust }),
            Err(error) => refuse(WatchRefusal::Invalid, &error.to_string()),
        }
    }

    /// Whether there is room, and nothing newer.
    fn check_kept(&self, client: NodeId, entrust: &Entrust) -> Result<(), WatchRefused> {
        let refuse = |code, reason: &str| Err(WatchRefused::new(code, reason));
        let (held, new) = match self.watched.get(&entrust.channel()) {
            Some(watched) => (&watched.charge.entrust, &entrust.appointment.body),
            None if self.watched.len() >= self.policy.appointments_max => {
                return refuse(WatchRefusal::Full, "this tower has no room left");
            }
            None => {
                let own = self.per_client.get(&client).copied().unwrap_or_default();
                return if own < self.policy.appointments_per_client_max {
                    Ok(())
                } else {
                    refuse(WatchRefusal::Full, "you have no room left at this tower")
                };
            }
        };
        // The newest wins. Of equal ones the better: who sees an old appointment pass by cannot
        // hand it in again to make the reward smaller or shorter.
        let old = &held.appointment.body;
        let worse = new.reward < old.reward || new.expiry_secs < old.expiry_secs;
        if new.amount < old.amount || (new.amount == old.amount && worse) {
            return refuse(WatchRefusal::Older, "this tower holds a newer voucher or appointment");
        }
        Ok(())
    }

    /// Takes an appointment for whose channel the chain was asked, or answers why not.
    pub fn handle_entrust(&mut self, checked: CheckedEntrust, facts: WatchFacts, now: Timestamp) {
        self.clock.heard(facts.head_secs, now);
        let CheckedEntrust { client, mut entrust } = checked;
        // Another one may have come while the chain was asked.
        let admitted = self.check_kept(client, &entrust).and_then(|()| suits(&entrust, &facts));
        if let Err(refused) = admitted {
            let refused = WatchMessage::Refused(refused);
            self.outputs.push_back(WatchOutput::Transmit(refused));
            return;
        }
        let mut owner = client;
        if let Some(Watched { charge: held, .. }) = self.watched.get(&entrust.channel())
            && held.client != client
            && held.entrust.amount() == entrust.amount()
        {
            // Turns are not signed for, and whoever was shown the appointment can hand it on: a copy
            // gives its bearer neither another turn nor the place. The answer says which turn holds.
            (owner, entrust.turn, entrust.turns) =
                (held.client, held.entrust.turn, held.entrust.turns);
        }
        let charge = Charge { client: owner, entrust, since: now };
        self.outputs.push_back(WatchOutput::Persist(WatchRecord::Keep(charge)));
        let appointment = &entrust.appointment.body;
        let kept = Kept {
            tower: self.device.node_id(),
            client,
            domain: self.policy.domain,
            channel: entrust.channel(),
            amount: entrust.amount(),
            reward: appointment.reward,
            expiry_secs: appointment.expiry_secs,
            turn: (entrust.turn, entrust.turns),
            time: now,
        };
        let signature = self.device.sign_bytes(&kept.signing_bytes());
        self.outputs.push_back(WatchOutput::Transmit(WatchMessage::Kept { kept, signature }));
        self.keep(charge, now);
    }

    fn keep(&mut self, charge: Charge, now: Timestamp) {
        let channel = charge.entrust.channel();
        match self.watched.get_mut(&channel) {
            Some(watched) => {
                let before = std::mem::replace(&mut watched.charge, charge).client;
                self.leave(before);
            }
            None => {
                let stage = Stage::Open;
                let watched = Watched { charge, stage, looking: false, failures: 0, wake: None };
                self.watched.insert(channel, watched);
                // The chain was asked just now, or we start; looks are paced either way.
                self.wake_at(channel, now);
            }
        }
        *self.per_client.entry(charge.client).or_default() += 1;
    }

    fn leave(&mut self, client: NodeId) {
        if let Some(count) = self.per_client.get_mut(&client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_client.remove(&client);
            }
        }
    }

    /// Takes what the chain says of a channel.
    pub fn handle_facts(&mut self, channel: ChannelId, facts: WatchFacts, now: Timestamp) {
        self.clock.heard(facts.head_secs, now);
        let Some(watched) = self.watched.get_mut(&channel) else { return };
        if std::mem::take(&mut watched.looking) {
            self.looking -= 1;
        }
        if watched.stage == Stage::Acting {
            return; // its outcome comes
        }
        watched.failures = 0;
        let entrust = watched.charge.entrust;
        let delay_secs = u64::from(entrust.config.withdraw_delay_secs);
        let is_ours = facts.reward.defender == Some(self.wallet);
        let expired = entrust.appointment.body.expiry_secs < now.as_secs();
        let wake = now.plus_ms(self.look_ms(&entrust));
        // Final state is behind, or of another fork, where it does not know the channel.
        let Some(ChannelFacts { claimed, status, .. }) = facts.channel else {
            return self.wake_at(channel, wake);
        };
        let missing = claimed < entrust.amount();
        match status {
            ChannelStatus::Open if !missing => self.forget(WatchEvent::Done { channel, claimed }),
            ChannelStatus::Open if expired => self.forget(WatchEvent::Expired { channel }),
            ChannelStatus::Open => {
                self.stage(channel, Stage::Open);
                self.wake_at(channel, wake);
            }
            // The contract takes it no more, and nobody relies on it. What we did before that is
            // still rewarded.
            ChannelStatus::Closing { .. } if missing && expired && !is_ours => {
                self.forget(WatchEvent::Expired { channel });
            }
            ChannelStatus::Closing { finish_at_secs } if missing && !expired => {
                if self.stage(channel, Stage::Leaving) != Stage::Leaving {
                    let leaving = WatchEvent::Leaving { channel, finish_at_secs };
                    self.outputs.push_back(WatchOutput::Event(leaving));
                }
                let turn =
                    finish_at_secs.saturating_sub(delay_secs).saturating_add(entrust.wait_secs());
                let last = finish_at_secs.saturating_sub(delay_secs / 4);
                if self.clock.least_secs(now) >= turn || self.clock.likely_secs(now) >= last {
                    self.settle(channel, defence(&entrust), finish_at_secs);
                } else {
                    let until = turn - self.clock.least_secs(now);
                    self.wake_at(channel, wake.min(now.plus_ms(until.saturating_mul(1000))));
                }
            }
            ChannelStatus::Closing { finish_at_secs } if is_ours => {
                // Anybody can finish the close now, so we can: then rewards are paid.
                if facts.head_secs >= finish_at_secs {
                    self.settle(channel, reward(&entrust), u64::MAX);
                } else {
                    self.stage(channel, Stage::Defended);
                    self.wake_at(channel, wake);
                }
            }
            ChannelStatus::Closed if is_ours => self.settle(channel, reward(&entrust), u64::MAX),
            ChannelStatus::Closed if missing => {
                self.forget(WatchEvent::TooLate { channel, claimed });
            }
            ChannelStatus::Closing { .. } | ChannelStatus::Closed => {
                self.forget(WatchEvent::Done { channel, claimed });
            }
        }
    }

    /// The chain did not tell of a channel that was asked about.
    pub fn handle_silence(&mut self, channel: ChannelId, now: Timestamp) {
        let Some(watched) = self.watched.get_mut(&channel) else { return };
        if std::mem::take(&mut watched.looking) {
            self.looking -= 1;
        }
        if watched.stage != Stage::Acting {
            self.retry(channel, now);
        }
    }

    /// What was asked for a channel is done and final (`done`), or was given up.
    pub fn handle_settled(&mut self, channel: ChannelId, done: bool, now: Timestamp) {
        let Some(watched) = self.watched.get_mut(&channel) else { return };
        if watched.stage != Stage::Acting {
            return;
        }
        watched.stage = Stage::Leaving;
        if done {
            watched.failures = 0;
            self.wake_at(channel, now);
        } else {
            self.retry(channel, now);
        }
    }

    fn retry(&mut self, channel: ChannelId, now: Timestamp) {
        let Some(watched) = self.watched.get_mut(&channel) else { return };
        let pause_ms = RETRY_MS << watched.failures.min(16);
        watched.failures = watched.failures.saturating_add(1);
        let entrust = watched.charge.entrust;
        self.wake_at(channel, now.plus_ms(pause_ms.min(self.look_ms(&entrust))));
    }

    /// Time has come to look at some channels.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while self.looking < LOOKS_MAX
            && let Some((at, channel)) = self.wakes.first().copied()
            && at <= now
        {
            self.wakes.pop_first();
            if let Some(watched) = self.watched.get_mut(&channel) {
                watched.wake = None;
                watched.looking = true;
                self.looking += 1;
                self.outputs.push_back(WatchOutput::Look(channel));
            }
        }
    }

    /// What the driver is to do next.
    pub fn poll_output(&mut self) -> Option<WatchOutput> {
        self.outputs.pop_front()
    }

    /// When [`Tower::handle_timeout`] has something to do. `None` while nothing is watched, or
    /// while as many answers are awaited as are asked for at a time.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        (self.looking < LOOKS_MAX).then(|| self.wakes.first().map(|(at, _)| *at)).flatten()
    }

    fn settle(&mut self, channel: ChannelId, intent: Intent, due_secs: u64) {
        self.stage(channel, Stage::Acting);
        self.outputs.push_back(WatchOutput::Settle { channel, intent, due_secs });
    }

    fn stage(&mut self, channel: ChannelId, stage: Stage) -> Stage {
        match self.watched.get_mut(&channel) {
            Some(watched) => std::mem::replace(&mut watched.stage, stage),
            None => stage,
        }
    }

    fn forget(&mut self, event: WatchEvent) {
        let (WatchEvent::Leaving { channel, .. }
        | WatchEvent::Done { channel, .. }
        | WatchEvent::TooLate { channel, .. }
        | WatchEvent::Expired { channel }) = event;
        if let Some(watched) = self.watched.remove(&channel) {
            if let Some(wake) = watched.wake {
                self.wakes.remove(&(wake, channel));
            }
            self.looking -= usize::from(watched.looking);
            self.leave(watched.charge.client);
            self.outputs.push_back(WatchOutput::Persist(WatchRecord::Forget(channel)));
            self.outputs.push_back(WatchOutput::Event(event));
        }
    }

    fn wake_at(&mut self, channel: ChannelId, at: Timestamp) {
        let Some(watched) = self.watched.get_mut(&channel) else { return };
        if let Some(before) = watched.wake.replace(at) {
            self.wakes.remove(&(before, channel));
        }
        self.wakes.insert((at, channel));
    }

    /// The pause between two looks at a channel, in milliseconds.
    fn look_ms(&self, entrust: &Entrust) -> u64 {
        let delay_ms = u64::from(entrust.config.withdraw_delay_secs) * 1000;
        self.policy.look_ms.min(delay_ms / LOOKS_PER_DELAY)
    }

    fn spend_burst(&mut self, client: NodeId, now: Timestamp) -> bool {
        if self.bursts.len() >= CLIENTS_REMEMBERED_MAX && !self.bursts.contains_key(&client) {
            let quietest = self.bursts.iter().min_by_key(|(_, burst)| burst.at).map(|(id, _)| *id);
            quietest.and_then(|id| self.bursts.remove(&id));
        }
        let burst = self.bursts.entry(client).or_insert(Burst { left: BURST, at: now });
        let refilled = now.ms_since(burst.at) / REFILL_MS;
        if refilled > 0 {
            *burst = Burst { left: burst.left.saturating_add(refilled).min(BURST), at: now };
        }
        let admitted = burst.left > 0;
        burst.left = burst.left.saturating_sub(1);
        admitted
    }
}

/// What the chain must say of a channel that is entrusted.
fn suits(entrust: &Entrust, facts: &WatchFacts) -> Result<(), WatchRefused> {
    let unusable = |reason: &str| Err(WatchRefused::new(WatchRefusal::ChannelUnusable, reason));
    let Some(ChannelFacts { reserved, claimed, status }) = facts.channel else {
        return unusable("final state does not know the channel yet");
    };
    if status == ChannelStatus::Closed {
        return unusable("the channel is closed");
    }
    if entrust.amount() > reserved {
        return unusable("the voucher is above what the channel holds");
    }
    if entrust.amount() <= claimed {
        return unusable("as much is claimed already");
    }
    if entrust.appointment.body.reward > facts.reward.covered {
        let reason = "the reward is not put aside; see `sparewire watch fund`";
        return Err(WatchRefused::new(WatchRefusal::RewardUncovered, reason));
    }
    Ok(())
}

/// What makes the payee be paid.
fn defence(entrust: &Entrust) -> Intent {
    if entrust.appointment.body.reward == Amount::ZERO {
        return Intent::Claim { claims: vec![entrust.claim()] };
    }
    Intent::Defend {
        towers: entrust.towers,
        claim: Box::new(entrust.claim()),
        appointment: entrust.appointment,
    }
}

/// What makes us be paid.
fn reward(entrust: &Entrust) -> Intent {
    Intent::CollectReward { towers: entrust.towers, config: entrust.config }
}

/// How many appointments a client may hand over now.
#[derive(Clone, Copy, Debug)]
struct Burst {
    left: u64,
    at: Timestamp,
}

/// What time it is on the chain.
#[derive(Clone, Copy, Debug, Default)]
struct ChainClock {
    /// The newest block's time in seconds, and when we first heard of it.
    head: Option<(u64, Timestamp)>,
}

impl ChainClock {
    fn heard(&mut self, head_secs: u64, now: Timestamp) {
        if self.head.is_none_or(|(known, _)| known != head_secs) {
            self.head = Some((head_secs, now));
        }
    }

    /// What block time is at least, in seconds, where our clock is at most 10 minutes ahead.
    fn least_secs(&self, now: Timestamp) -> u64 {
        let by_clock = (now.as_ms() / 1000).saturating_sub(CLOCK_SKEW_MS_MAX / 1000);
        let by_head = self.head.map_or(0, |(secs, seen)| {
            secs.saturating_add(now.ms_since(seen).min(CLOCK_SKEW_MS_MAX) / 1000)
        });
        by_clock.max(by_head)
    }

    /// What it is likely to be: where no block has come for a while, our clock is believed too.
    fn likely_secs(&self, now: Timestamp) -> u64 {
        let least = self.least_secs(now);
        let fresh = self.head.is_some_and(|(secs, seen)| {
            now.ms_since(seen) <= HEAD_STALE_MS
                && now.as_secs().saturating_sub(secs) <= CLOCK_SKEW_MS_MAX / 1000
        });
        if fresh { least } else { least.max(now.as_secs()) }
    }
}
