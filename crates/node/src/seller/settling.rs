//! Claims what is owed: when somebody asks, when the policy says so, and in time when a payer
//! leaves; what costs more than it brings is left where it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    future::join_all,
    stream::{self, FuturesUnordered, StreamExt},
};
use serde::{Deserialize, Serialize};
use sparewire_core::{Address, Amount, ChannelId, Timestamp};
use sparewire_protocol::{
    CLOCK_SKEW_MS_MAX, ChannelStatus, Claim, Role,
    settlement::{
        Chain, ChainError, Intent, Occasion, Outcome, Quote, SettlePolicy, Verdict, Waiting,
        Weighed,
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watching::{Unsettled, Watch};
use crate::{
    session::{Clock, SessionError},
    store::{KnownSession, Store, ask},
};

/// How many channels the chain is asked about at a time: each is a round trip.
pub(super) const ASKED_AT_ONCE: usize = 16;
/// How often a claim that is on its way is asked for again while its payer leaves, so that the chain
/// hurries, in milliseconds.
const HURRY_MS: u64 = 5 * 60_000;

/// Something could not be settled. What could be was, and the rest stays claimable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not every channel could be settled, the others are; settle again: {error}")]
pub struct SettleError {
    /// What was claimed all the same.
    pub outcome: Outcome,
    /// What went wrong first; each channel that it concerns is in the log.
    pub error: SessionError,
}

/// What a claim would bring and cost: one row for each voucher that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The vouchers that wait.
    pub rows: Vec<Row>,
    /// What claiming those takes that are claimed.
    pub quote: Quote,
}

/// One voucher of a [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its channel.
    pub channel: ChannelId,
    /// Who promised it.
    pub payer: Address,
    /// In which token.
    pub token: Address,
    /// What claiming it brings, in the token's smallest units.
    pub worth: Amount,
    /// Its share of the fee in the same units, rounded up; `None` where nobody has said what gas
    /// money is worth. It is also its break-even: with less it would be left where it is.
    pub fee: Option<Amount>,
    /// Why it would be claimed.
    pub occasion: Occasion,
    /// The last safe moment, in seconds of block time, where its payer is leaving.
    pub claim_by_secs: Option<u64>,
    /// What becomes of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl From<&Weighed> for Row {
    fn from(weighed: &Weighed) -> Self {
        let waiting = &weighed.waiting;
        Self {
            channel: waiting.channel,
            payer: waiting.claim.config.payer,
            token: waiting.claim.config.token,
            worth: waiting.worth(),
            fee: weighed.fee,
            occasion: weighed.occasion,
            claim_by_secs: waiting.claim_by_secs(),
            verdict: weighed.verdict,
        }
    }
}

/// Claims by a policy. It needs no running provider.
pub struct Settler {
    store: Arc<dyn Store>,
    chain: Arc<dyn Chain>,
    policy: SettlePolicy,
    clock: Clock,
    /// One at a time decides what is claimed: two would claim the same and pay twice for it.
    turn: tokio::sync::Mutex<Turn>,
    /// Claims on their way. Until a block is final can take a quarter of an hour; payers that leave
    /// meanwhile are not kept waiting.
    under_way: watch::Sender<HashMap<ChannelId, Sent>>,
    settled: Mutex<Settled>,
    leaving: Mutex<Vec<Row>>,
}

/// What one round leaves to the next.
struct Turn {
    /// Since when nothing was claimed; `None` where that is still to be found out.
    since: Option<Timestamp>,
    watch: Watch,
}

/// Up to which amount there is nothing left to claim in a channel: what was claimed, or anything
/// where it is closed. It is learned from final state, which no reorganisation undoes, and not kept
/// longer than the process.
type Settled = HashMap<ChannelId, Amount>;

/// Vouchers that are claimed together: asked for again, they are the same intent.
type Batch = Arc<[(ChannelId, Claim)]>;

/// A claim on its way.
#[derive(Clone)]
struct Sent {
    amount: Amount,
    batch: Batch,
    /// Somebody waits for its end. Where nobody does, nobody knows what became of it, and the next
    /// round asks for the same again.
    followed: bool,
    /// When it was last asked for again because its payer leaves.
    hurried: Option<Timestamp>,
}

/// Says that nobody waits for a batch any more, also where the wait is cut off.
struct Following<'a> {
    under_way: &'a watch::Sender<HashMap<ChannelId, Sent>>,
    batch: Batch,
    /// Whether it is known what became of it.
    over: bool,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.under_way.send_modify(|under_way| {
            for (channel, _) in self.batch.iter() {
                // A later round may have sent a higher one.
                let ours = under_way.get_mut(channel);
                let Some(sent) = ours.filter(|sent| Arc::ptr_eq(&sent.batch, &self.batch)) else {
                    continue;
                };
                sent.followed = false;
                if self.over {
                    under_way.remove(channel);
                }
            }
        });
    }
}

/// Vouchers on their way to the chain, and what failed on the way for some: one must not hold up
/// the others.
pub(super) type Gathered<T> = (T, Result<(), SessionError>);

impl Settler {
    /// A settler of what is promised over channels that this store knows. Whoever is named in them
    /// is paid, whichever wallet sends the claims.
    pub fn new(
        store: Arc<dyn Store>,
        chain: Arc<dyn Chain>,
        policy: SettlePolicy,
        clock: Clock,
    ) -> Self {
        let turn = tokio::sync::Mutex::new(Turn { since: None, watch: Watch::default() });
        let under_way = watch::Sender::new(HashMap::new());
        let (settled, leaving) = (Mutex::default(), Mutex::default());
        Self { store, chain, policy, clock, turn, under_way, settled, leaving }
    }

    /// What [`Settler::settle`] would claim now, and what that costs. Nothing is sent or written.
    ///
    /// # Errors
    /// [`SessionError`] where the store or the chain failed.
    pub async fn plan(&self) -> Result<Plan, SessionError> {
        let ((waiting, _), gathered) =
            self.waiting(&mut Watch::default(), Some(Occasion::Asked)).await;
        gathered?;
        let due = SettlePolicy::all(&waiting, Occasion::Asked, self.block_secs().await?);
        let ((plan, _), weighed) = self.weigh(due).await;
        weighed.map(|()| plan)
    }

    /// Claims every voucher that brings more than it costs, pays out, and waits until that is final,
    /// and what was on its way before as well.
    ///
    /// # Errors
    /// [`SettleError`] where the store or the chain failed for some channels or all; what is not
    /// claimed stays claimable.
    pub async fn settle(&self) -> Result<Outcome, SettleError> {
        let settled = self.round(Some(Occasion::Asked)).await;
        // The sender lives as long as we do.
        let followed = |under_way: &HashMap<_, Sent>| under_way.values().any(|sent| sent.followed);
        let _ = self.under_way.subscribe().wait_for(|under_way| !followed(under_way)).await;
        let (mut outcome, failed) = match settled {
            Ok(outcome) => (outcome, Ok(())),
            Err(SettleError { outcome, error }) => (outcome, Err(error)),
        };
        if let Err(error @ SessionError::Chain(ChainError::Unreachable { .. })) = failed {
            return Err(SettleError { outcome, error }); // it need not be waited for once more
        }
        let swept = self.sweep(&mut outcome).await;
        match failed.and(swept) {
            Ok(()) => Ok(outcome),
            Err(error) => Err(SettleError { outcome, error }),
        }
    }

    /// Pays out what others had credited to us: towers, or whoever claims for somebody else. (Our own
    /// claims pay out by themselves, that as well.)
    async fn sweep(&self, outcome: &mut Outcome) -> Result<(), SessionError> {
        let channels = ask(&self.store, |store| store.channels(Role::Payee)).await?;
        let domain = self.chain.domain();
        let paid: BTreeSet<_> = channels
            .iter()
            .filter(|channel| channel.domain == domain)
            .map(|channel| (channel.config.payee, channel.config.token))
            .collect();
        for (payee, token) in paid {
            let claimable = self.chain.funds(payee, token).await?.claimable;
            if claimable == Amount::ZERO {
                continue;
            }
            let sweep = Intent::Sweep { payee, token };
            let fee_wei = self.chain.quote(&sweep).await?.fee_wei;
            if self.policy.pays(token, claimable, fee_wei) {
                let swept = self.chain.perform(&sweep).await?;
                outcome.transactions.extend(swept.transactions);
            } else {
                tracing::info!(%claimable, fee_wei, "paying out costs more than it brings; it waits");
            }
        }
        Ok(())
    }

    /// Claims what the policy wants claimed at shutdown. What was sent is followed by the next
    /// process where this is cut off.
    ///
    /// # Errors
    /// As [`Settler::settle`].
    pub async fn shut_down(&self) -> Result<Outcome, SettleError> {
        match self.policy.at_shutdown {
            true => self.round(Some(Occasion::Shutdown)).await,
            false => Ok(Outcome::default()),
        }
    }

    /// Up to which amount nothing is left to claim in a channel, as far as this process has seen.
    pub fn settled_up_to(&self, channel: ChannelId) -> Amount {
        self.settled().get(&channel).copied().unwrap_or_default()
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        // Single inserts and look-ups: a panic leaves no half.
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vouchers whose payers were leaving at the last look, each with its last safe moment.
    pub fn leaving(&self) -> Vec<Row> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks every `every` whether something is to be claimed, until `shutdown`.
    pub(super) async fn run(&self, every: Duration, shutdown: CancellationToken) {
        let mut rounds = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(every) => {
                    // One that still looks, at a slow chain, will do for this one.
                    if self.turn.try_lock().is_ok() {
                        rounds.push(self.round(None));
                    }
                }
                Some(round) = rounds.next() => if let Err(error) = round {
                    tracing::error!(%error, "could not claim all that is due; trying again");
                },
            }
        }
    }

    /// Claims what is due for this reason, or for those that the policy sees.
    async fn round(&self, asked: Option<Occasion>) -> Result<Outcome, SettleError> {
        let mut turn = self.turn.lock().await;
        let ((waiting, again), gathered) = self.waiting(&mut turn.watch, asked).await;
        if turn.since.is_none() && !waiting.is_empty() {
            turn.since = self.unclaimed_since().await;
        }
        let silent = matches!(gathered, Err(SessionError::Chain(ChainError::Unreachable { .. })));
        let (claims, weighed) = match silent {
            true => (Vec::new(), Ok(())), // nothing can be weighed or sent now
            false => self.due(&turn, waiting, asked).await,
        };
        let before = turn.since;
        let mut batches = again;
        if !claims.is_empty() {
            turn.since = Some((self.clock)());
            batches.push((claims.into(), false));
        }
        let followed: Vec<_> =
            batches.into_iter().map(|(b, hurry)| self.follow(b, hurry)).collect();
        drop(turn);
        let (mut done, mut failed) = (Outcome::default(), Ok(()));
        for (outcome, claimed) in join_all(followed.into_iter().map(|one| self.claim(one))).await {
            done.transactions.extend(outcome.transactions);
            failed = failed.and(claimed);
        }
        if failed.is_err() && done.transactions.is_empty() {
            self.turn.lock().await.since = before; // the next look tries again
        }
        match gathered.and(weighed).and(failed) {
            Ok(()) => Ok(done),
            Err(error) => Err(SettleError { outcome: done, error }),
        }
    }

    /// Since when nothing was claimed, over restarts: when we last claimed, or else when the first
    /// session began that was paid for. `None` where neither can be told now.
    async fn unclaimed_since(&self) -> Option<Timestamp> {
        let now = (self.clock)();
        let earlier = |at: Timestamp| at.min(now);
        match self.chain.last_claim().await {
            Ok(Some(at)) => return Some(earlier(at)),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot tell when something was last claimed");
                return None;
            }
        }
        let sessions = ask(&self.store, |store| store.sessions()).await.ok()?;
        let paid = |it: &KnownSession| it.role == Role::Payee && it.payment.is_some();
        let first = sessions.iter().filter(|it| paid(it)).map(|it| it.started).min();
        Some(earlier(first.unwrap_or(now)))
    }

    /// Remembers that a batch is on its way, until what this returns is dropped.
    fn follow(&self, batch: Batch, hurry: bool) -> Following<'_> {
        let hurried = hurry.then(|| (self.clock)());
        self.under_way.send_modify(|under_way| {
            for (channel, claim) in batch.iter() {
                let (amount, batch) = (claim.amount, Arc::clone(&batch));
                let sent = Sent { amount, batch, followed: true, hurried };
                // What is asked for again is no more than what was sent since.
                if under_way.get(channel).is_none_or(|known| known.amount <= amount) {
                    under_way.insert(*channel, sent);
                }
            }
        });
        Following { under_way: &self.under_way, batch, over: false }
    }

    /// The newest block's time, in seconds, or ours less what it may be wrong by: a node whose newest
    /// block is older than that does not keep the last safe moment from coming.
    async fn block_secs(&self) -> Result<u64, SessionError> {
        let ours = (self.clock)().as_secs().saturating_sub(CLOCK_SKEW_MS_MAX / 1000);
        Ok(self.chain.head().await?.time_secs.max(ours))
    }

    /// What is to be claimed now.
    async fn due(
        &self,
        turn: &Turn,
        waiting: Vec<Waiting>,
        asked: Option<Occasion>,
    ) -> Gathered<Vec<(ChannelId, Claim)>> {
        if waiting.is_empty() {
            self.note_leaving(&Plan::default());
            return (Vec::new(), Ok(())); // and a silent chain is not waited for once more
        }
        let block_secs = match self.block_secs().await {
            Ok(block_secs) => block_secs,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let due = match asked {
            Some(asked) => SettlePolicy::all(&waiting, asked, block_secs),
            None => {
                let now = (self.clock)();
                self.policy.due(&waiting, turn.since.unwrap_or(now), now, block_secs)
            }
        };
        let ((plan, claims), weighed) = self.weigh(due).await;
        self.note_leaving(&plan);
        if !claims.is_empty() {
            let fee_wei = plan.quote.fee_wei;
            tracing::info!(channels = claims.len(), fee_wei, "claiming");
        }
        (claims, weighed)
    }

    fn note_leaving(&self, plan: &Plan) {
        let leaving: Vec<_> =
            plan.rows.iter().filter(|row| row.claim_by_secs.is_some()).copied().collect();
        if plan.rows.iter().any(|row| row.verdict == Verdict::CannotBeWeighed) {
            tracing::warn!(
                "nobody has said what gas money is worth, so nothing is claimed unasked; set [settle] native_price"
            );
        }
        for row in &leaving {
            let Row { channel, worth, claim_by_secs, .. } = row;
            match row.verdict {
                Verdict::Claim => {
                    tracing::warn!(%channel, %worth, ?claim_by_secs, "its payer is leaving; claiming");
                }
                verdict => tracing::warn!(
                    %channel, %worth, ?claim_by_secs, ?verdict,
                    "its payer is leaving, and claiming is too dear now"
                ),
            }
        }
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = leaving;
    }

    /// The vouchers that promise more than is claimed and on its way, and the batches that are to be
    /// asked for again: what became of them is not known, or (said beside them) a payer of theirs is
    /// leaving.
    ///
    /// Where somebody asked, every channel is looked at; else those that promise more than is settled:
    /// with an occasion all of them, without one as many as `watch` says. One that cannot be looked at
    /// does not keep the others from being claimed.
    async fn waiting(
        &self,
        watch: &mut Watch,
        asked: Option<Occasion>,
    ) -> Gathered<(Vec<Waiting>, Vec<(Batch, bool)>)> {
        let channels = match ask(&self.store, |store| store.channels(Role::Payee)).await {
            Ok(channels) => channels,
            Err(error) => return (Default::default(), Err(error)),
        };
        let domain = self.chain.domain();
        // In order, so that the same vouchers are the same intent when it is tried again.
        let mut unsettled: Vec<Unsettled> = channels
            .into_iter()
            .filter(|channel| channel.domain == domain)
            .filter_map(|channel| Some((channel.id, channel.claim()?)))
            .collect();
        if asked != Some(Occasion::Asked) {
            let settled = self.settled();
            unsettled.retain(|(id, claim)| settled.get(id).is_none_or(|it| claim.amount > *it));
        }
        let (known, failed) = watch.look(&self.chain, unsettled, asked.is_some()).await;
        let now = (self.clock)();
        let (mut waiting, mut again) = (Vec::new(), Vec::<(Batch, bool)>::new());
        for ((channel, claim), facts) in known {
            let (claimed, finish_at_secs) = match facts.status {
                ChannelStatus::Closed => (Amount::MAX, None),
                ChannelStatus::Open => (facts.claimed, None),
                ChannelStatus::Closing { finish_at_secs } => (facts.claimed, Some(finish_at_secs)),
            };
            let sent = self.under_way.borrow().get(&channel).cloned();
            let sent = sent.filter(|sent| sent.amount > claimed);
            match claim.amount <= claimed {
                true => self.settled().insert(channel, claimed),
                false => self.settled().remove(&channel),
            };
            let Some(sent) = sent else {
                // It is final, whatever those who follow it have heard.
                self.under_way.send_if_modified(|under_way| under_way.remove(&channel).is_some());
                if claim.amount > claimed {
                    waiting.push(Waiting { channel, claim, claimed, finish_at_secs });
                }
                continue;
            };
            let rested = sent.hurried.is_none_or(|at| now.ms_since(at) >= HURRY_MS);
            let hurry = finish_at_secs.is_some() && rested;
            if hurry || !sent.followed {
                match again.iter_mut().find(|(batch, _)| Arc::ptr_eq(batch, &sent.batch)) {
                    Some((_, hurried)) => *hurried |= hurry,
                    None => again.push((sent.batch, hurry)),
                }
            }
            if claim.amount > sent.amount {
                waiting.push(Waiting { channel, claim, claimed: sent.amount, finish_at_secs });
            }
        }
        ((waiting, again), failed)
    }

    /// What is claimed of all that is due, after asking what that costs.
    async fn weigh(
        &self,
        due: Vec<(Waiting, Occasion)>,
    ) -> Gathered<(Plan, Vec<(ChannelId, Claim)>)> {
        // What goes into one transaction is weighed together.
        let mut groups: BTreeMap<_, Vec<(Waiting, Occasion)>> = BTreeMap::new();
        for one in due {
            let config = &one.0.claim.config;
            let keys = (config.token, config.payee, config.payee_authorizer);
            groups.entry((keys, config.withdraw_delay_secs)).or_default().push(one);
        }
        let (mut plan, mut claims, mut failed) = (Plan::default(), Vec::new(), Ok(()));
        for group in groups.into_values() {
            let ((weighed, quote), told) = self.weigh_group(group).await;
            failed = failed.and(told);
            plan.rows.extend(weighed.iter().map(Row::from));
            plan.quote = plan.quote.plus(&quote);
            let kept = weighed.iter().filter(|one| one.verdict == Verdict::Claim);
            claims.extend(kept.map(|one| (one.waiting.channel, one.waiting.claim)));
        }
        ((plan, claims), failed)
    }

    /// Leaves out what is too dear until all that is left is worth its share: with each that goes,
    /// the others' share of a transaction grows. Where one entry is refused, halves are weighed by
    /// themselves until it is found.
    async fn weigh_group(
        &self,
        group: Vec<(Waiting, Occasion)>,
    ) -> Gathered<(Vec<Weighed>, Quote)> {
        let (mut done, mut total, mut failed) = (Vec::new(), Quote::default(), Ok(()));
        let mut parts = vec![group];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let claims = part.iter().map(|(waiting, _)| waiting.claim).collect();
            let quote = match self.chain.quote(&Intent::Claim { claims }).await {
                Ok(quote) => quote,
                Err(ChainError::Reverted { .. }) if part.len() > 1 => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right.to_vec(), left.to_vec()]);
                    continue;
                }
                Err(error @ ChainError::Reverted { .. }) => {
                    let channel = part.first().map(|(waiting, _)| waiting.channel);
                    tracing::error!(?channel, %error, "a claim is refused");
                    failed = failed.and(Err(error.into()));
                    continue;
                }
                Err(error) => return ((done, total), failed.and(Err(error.into()))),
            };
            let weighed = self.policy.weigh(&part, quote.fee_wei);
            let (kept, dear): (Vec<_>, Vec<_>) =
                weighed.into_iter().partition(|one| one.verdict == Verdict::Claim);
            if dear.is_empty() {
                total = total.plus(&quote);
                done.extend(kept);
            } else {
                done.extend(dear);
                parts.push(kept.iter().map(|one| (one.waiting, one.occasion)).collect());
            }
        }
        ((done, total), failed)
    }

    /// Claims together; where the contract refuses, each alone, so that one bad entry holds up no
    /// other. What was done counts, whatever failed beside it.
    async fn claim(&self, mut following: Following<'_>) -> Gathered<Outcome> {
        let batch = Arc::clone(&following.batch);
        let all = batch.iter().map(|(_, claim)| *claim).collect();
        let (done, failed) = match self.chain.perform(&Intent::Claim { claims: all }).await {
            Ok(outcome) => (outcome, Ok(())),
            Err(error @ ChainError::Reverted { .. }) if batch.len() > 1 => {
                tracing::error!(%error, "the claims are refused together; claiming each alone");
                self.claim_each(&batch).await
            }
            Err(error) => (Outcome::default(), Err(error)),
        };
        // Of what nobody could tell, the chain's journal may still have a transaction under way.
        following.over =
            !matches!(failed, Err(ChainError::Unreachable { .. } | ChainError::Nonsense { .. }));
        let mut turn = self.turn.lock().await;
        turn.watch.forget(batch.iter().map(|(channel, _)| *channel));
        drop(turn);
        (done, failed.map_err(SessionError::from))
    }

    async fn claim_each(&self, batch: &Batch) -> (Outcome, Result<(), ChainError>) {
        let claims: Vec<Claim> = batch.iter().map(|(_, claim)| *claim).collect();
        let mut each = stream::iter(claims)
            .map(|claim| async move {
                let claimed = self.chain.perform(&Intent::Claim { claims: vec![claim] }).await;
                (claim.config.payer, claimed)
            })
            // Each waits until it is final; they need not wait for each other.
            .buffer_unordered(ASKED_AT_ONCE);
        let (mut done, mut failed) = (Outcome::default(), Ok(()));
        while let Some((payer, claimed)) = each.next().await {
            match claimed {
                Ok(outcome) => done.transactions.extend(outcome.transactions),
                Err(error) => {
                    tracing::error!(%payer, %error, "a claim is refused, or not known to be made");
                    failed = failed.and(Err(error));
                }
            }
        }
        (done, failed)
    }
}
