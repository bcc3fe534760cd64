//! Claims what is owed: when somebody asks, when the policy says so, and in time when a payer
//! leaves; what costs more than it brings is left where it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use sparewire_core::{Address, Amount, ChannelId, Timestamp};
use sparewire_protocol::{
    ChannelStatus, Claim, Role,
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
    store::{Store, ask},
};

/// How many channels the chain is asked about at a time: each is a round trip.
pub(super) const ASKED_AT_ONCE: usize = 16;

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
    /// Up to which amounts claims are on their way. Until a block is final can take a quarter of an
    /// hour; payers that leave meanwhile are not kept waiting.
    under_way: watch::Sender<Settled>,
    leaving: Mutex<Vec<Row>>,
}

/// What one round leaves to the next.
struct Turn {
    /// When something was last claimed, or this began.
    since: Timestamp,
    settled: Settled,
    watch: Watch,
}

/// Up to which amount there is nothing left to claim in a channel: what was claimed, or anything
/// where it is closed. It is learned from final state, which no reorganisation undoes, and not kept
/// longer than the process.
type Settled = HashMap<ChannelId, Amount>;

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
        let (settled, watch) = (Settled::new(), Watch::default());
        let turn = tokio::sync::Mutex::new(Turn { since: clock(), settled, watch });
        let under_way = watch::Sender::new(Settled::new());
        Self { store, chain, policy, clock, turn, under_way, leaving: Mutex::default() }
    }

    /// What [`Settler::settle`] would claim now, and what that costs. Nothing is sent or written.
    ///
    /// # Errors
    /// [`SessionError`] where the store or the chain failed.
    pub async fn plan(&self) -> Result<Plan, SessionError> {
        // Whoever asks wants to know: every channel is looked at, whatever was seen of it before.
        let (waiting, gathered) =
            self.waiting(&mut Settled::new(), &mut Watch::default(), true).await;
        gathered?;
        let block_secs = self.chain.head().await?.time_secs;
        let ((plan, _), weighed) = self.weigh(waiting, Occasion::Asked, block_secs).await;
        weighed.map(|()| plan)
    }

    /// Claims every voucher that brings more than it costs, pays out, and waits until that is final,
    /// and what was on its way before as well.
    ///
    /// # Errors
    /// [`SettleError`] where the store or the chain failed for some channels or all; what is not
    /// claimed stays claimable.
    pub async fn settle(&self) -> Result<Outcome, SettleError> {
        self.turn.lock().await.settled.clear();
        let settled = self.round(Some(Occasion::Asked)).await;
        // The sender lives as long as we do.
        let _ = self.under_way.subscribe().wait_for(HashMap::is_empty).await;
        let (mut outcome, failed) = match settled {
            Ok(outcome) => (outcome, Ok(())),
            Err(SettleError { outcome, error }) => (outcome, Err(error)),
        };
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
                () = tokio::time::sleep(every) => rounds.push(self.round(None)),
                Some(round) = rounds.next() => if let Err(error) = round {
                    tracing::error!(%error, "could not claim all that is due; trying again");
                },
            }
        }
    }

    /// Claims what is due for this reason, or for those that the policy sees.
    async fn round(&self, asked: Option<Occasion>) -> Result<Outcome, SettleError> {
        let mut turn = self.turn.lock().await;
        let Turn { settled, watch, .. } = &mut *turn;
        let (waiting, gathered) = self.waiting(settled, watch, asked.is_some()).await;
        let (claims, weighed) = self.due(&turn, waiting, asked).await;
        let amounts = || claims.iter().map(|(channel, claim)| (*channel, claim.amount));
        self.under_way.send_modify(|under_way| under_way.extend(amounts()));
        let before = turn.since;
        if !claims.is_empty() {
            turn.since = (self.clock)();
        }
        drop(turn);
        // Where this is cut off, the claims stay on their way: the chain's journal has them.
        let (outcome, claimed) = self.claim(claims.iter().map(|(_, claim)| *claim).collect()).await;
        if !claims.is_empty() {
            let mut turn = self.turn.lock().await;
            turn.watch.forget(claims.iter().map(|(channel, _)| *channel));
            if claimed.is_err() && outcome.transactions.is_empty() {
                turn.since = before; // the next look tries again
            }
        }
        self.under_way.send_modify(|under_way| {
            for (channel, amount) in amounts() {
                // A later round may have sent a higher one.
                under_way.extract_if(|id, sent| *id == channel && *sent == amount).for_each(drop);
            }
        });
        match gathered.and(weighed).and(claimed) {
            Ok(()) => Ok(outcome),
            Err(error) => Err(SettleError { outcome, error }),
        }
    }

    /// What is to be claimed now.
    async fn due(
        &self,
        turn: &Turn,
        waiting: Vec<Waiting>,
        asked: Option<Occasion>,
    ) -> Gathered<Vec<(ChannelId, Claim)>> {
        let block_secs = match self.chain.head().await {
            Ok(head) => head.time_secs,
            Err(error) => return (Vec::new(), Err(error.into())),
        };
        let seen = || self.policy.occasion(&waiting, turn.since, (self.clock)(), block_secs);
        let Some(occasion) = asked.or_else(seen) else {
            self.note_leaving(&Plan::default());
            return (Vec::new(), Ok(()));
        };
        let ((plan, claims), weighed) = self.weigh(waiting, occasion, block_secs).await;
        self.note_leaving(&plan);
        if !claims.is_empty() {
            tracing::info!(
                ?occasion,
                channels = claims.len(),
                fee_wei = plan.quote.fee_wei,
                "claiming"
            );
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

    /// The vouchers that promise more than is claimed. Only channels that promise more than
    /// `settled` are asked about, all of them or as many as `watch` says, and one that cannot be
    /// does not keep the others from being claimed.
    async fn waiting(
        &self,
        settled: &mut Settled,
        watch: &mut Watch,
        all: bool,
    ) -> Gathered<Vec<Waiting>> {
        let channels = match ask(&self.store, |store| store.channels(Role::Payee)).await {
            Ok(channels) => channels,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let domain = self.chain.domain();
        let unsettled: Vec<Unsettled> = channels
            .into_iter()
            .filter(|channel| channel.domain == domain)
            .filter_map(|channel| Some((channel.id, channel.claim()?)))
            .filter(|(id, claim)| settled.get(id).is_none_or(|settled| claim.amount > *settled))
            .collect();
        // In order, so that the same vouchers are the same intent when it is tried again.
        let (known, failed) = watch.look(&self.chain, unsettled, all).await;
        let mut waiting = Vec::new();
        for ((channel, claim), facts) in known {
            let finish_at_secs = match facts.status {
                ChannelStatus::Closed => {
                    settled.insert(channel, Amount::MAX);
                    continue;
                }
                ChannelStatus::Open => None,
                ChannelStatus::Closing { finish_at_secs } => Some(finish_at_secs),
            };
            if claim.amount <= facts.claimed {
                settled.insert(channel, facts.claimed);
                continue;
            }
            let sent = self.under_way.borrow().get(&channel).copied().unwrap_or_default();
            let claimed = facts.claimed.max(sent);
            if claim.amount > claimed {
                waiting.push(Waiting { channel, claim, claimed, finish_at_secs });
            }
        }
        (waiting, failed)
    }

    /// What is claimed of all that waits, after asking what that costs.
    async fn weigh(
        &self,
        waiting: Vec<Waiting>,
        occasion: Occasion,
        block_secs: u64,
    ) -> Gathered<(Plan, Vec<(ChannelId, Claim)>)> {
        // What goes into one transaction is weighed together.
        let mut groups: BTreeMap<_, Vec<Waiting>> = BTreeMap::new();
        for one in waiting {
            let config = &one.claim.config;
            let keys = (config.token, config.payee, config.payee_authorizer);
            groups.entry((keys, config.withdraw_delay_secs)).or_default().push(one);
        }
        let (mut plan, mut claims, mut failed) = (Plan::default(), Vec::new(), Ok(()));
        for group in groups.into_values() {
            let ((weighed, quote), told) = self.weigh_group(group, occasion, block_secs).await;
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
        group: Vec<Waiting>,
        occasion: Occasion,
        block_secs: u64,
    ) -> Gathered<(Vec<Weighed>, Quote)> {
        let (mut done, mut total, mut failed) = (Vec::new(), Quote::default(), Ok(()));
        let mut parts = vec![group];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let claims = part.iter().map(|one| one.claim).collect();
            let quote = match self.chain.quote(&Intent::Claim { claims }).await {
                Ok(quote) => quote,
                Err(ChainError::Reverted { .. }) if part.len() > 1 => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right.to_vec(), left.to_vec()]);
                    continue;
                }
                Err(error @ ChainError::Reverted { .. }) => {
                    let channel = part.first().map(|one| one.channel);
                    tracing::error!(?channel, %error, "a claim is refused");
                    failed = failed.and(Err(error.into()));
                    continue;
                }
                Err(error) => return ((done, total), failed.and(Err(error.into()))),
            };
            let weighed = self.policy.weigh(&part, occasion, block_secs, quote.fee_wei);
            let (kept, dear): (Vec<_>, Vec<_>) =
                weighed.into_iter().partition(|one| one.verdict == Verdict::Claim);
            if dear.is_empty() {
                total = total.plus(&quote);
                done.extend(kept);
            } else {
                done.extend(dear);
                parts.push(kept.iter().map(|one| one.waiting).collect());
            }
        }
        ((done, total), failed)
    }

    /// Claims together; where the contract refuses, each alone, so that one bad entry holds up no
    /// other. What was done counts, whatever failed beside it.
    async fn claim(&self, claims: Vec<Claim>) -> Gathered<Outcome> {
        let mut done = Outcome::default();
        if claims.is_empty() {
            return (done, Ok(()));
        }
        let alone = claims.clone();
        match self.chain.perform(&Intent::Claim { claims }).await {
            Ok(outcome) => return (outcome, Ok(())),
            Err(error @ ChainError::Reverted { .. }) if alone.len() > 1 => {
                tracing::error!(%error, "the claims are refused together; claiming each alone");
            }
            Err(error) => return (done, Err(error.into())),
        }
        let mut failed = Ok(());
        for claim in alone {
            match self.chain.perform(&Intent::Claim { claims: vec![claim] }).await {
                Ok(outcome) => done.transactions.extend(outcome.transactions),
                Err(error @ ChainError::Reverted { .. }) => {
                    tracing::error!(payer = %claim.config.payer, %error, "a claim is refused");
                    failed = failed.and(Err(error.into()));
                }
                Err(error) => return (done, failed.and(Err(error.into()))),
            }
        }
        (done, failed)
    }
}
