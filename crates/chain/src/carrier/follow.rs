//! Signs, sends and follows transactions until they are final: the transaction state machine.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256};
use futures_util::future::join_all;
use sparewire_core::Signer;
use sparewire_protocol::settlement::{ChainError, Outcome, TransactionSummary};
use tokio::time::Instant;

use super::{
    Policy,
    node::NodeError,
    nodes::Nodes,
    send::{ATTEMPTS_MAX, Sent, raised},
    turns::Turns,
};
use crate::{
    chain_work::ForeignUse,
    contracts::reason_in_words,
    journal::{Call, Journal, JournalError, Step, StepState, versions},
};

/// How often a nonce must be seen taken, with none of our hashes mined, before we believe it: the
/// nodes behind one URL may be a few blocks apart.
const DISPLACED_POLLS: u32 = 3;

/// A transaction that is in no block is sent again after so many looks for it.
const RESEND_POLLS: u32 = 5;

/// How many times, before each time that it is sent again, a transaction must be seen behind a
/// nonce that nobody uses: a reorganisation mostly gives back what it took, within a few blocks.
const GAP_LOOKS: u32 = 6;

/// After so long a node may have forgotten receipts, and a nonce that is taken proves nothing.
const DISPLACED_AGE_SECS_MAX: u64 = 14 * 86_400;

/// One wallet's transactions on one chain.
pub(crate) struct Follower {
    pub(crate) node: Nodes,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) journal: Journal,
    pub(crate) policy: Policy,
    pub(crate) chain_id: u64,
    /// Whether the chain is a rollup that takes a fee for data; known once it was asked.
    pub(super) data_oracle: OnceLock<bool>,
    /// Taken from choosing a nonce until its transaction is mined: one performer at a time, who also
    /// signs what is urgent beside his own ([`Follower::sign_beside`]).
    turns: Arc<Turns>,
    /// How many urgent intents wait for their turn, or for their transaction to be mined.
    pub(super) hurried: AtomicUsize,
}

/// What an intent takes, as far as nothing of it is under way.
pub(crate) struct Plan {
    pub(crate) calls: Vec<Call>,
    /// Whether delay costs more than gas: [`Policy::fee_max_urgent_wei`] is its limit.
    pub(crate) urgent: bool,
}

impl Plan {
    pub(crate) fn new(calls: Vec<Call>) -> Self {
        Self { calls, urgent: false }
    }
}

/// As long as it lives, what goes before an urgent intent may cost as much as that.
struct Hurry<'a>(&'a AtomicUsize);

impl<'a> Hurry<'a> {
    fn begin(hurried: &'a AtomicUsize) -> Self {
        hurried.fetch_add(1, Ordering::SeqCst);
        Self(hurried)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a look at the chain showed of a step.
enum Seen {
    /// In no block up to this one, the newest.
    Pending {
        head: u64,
    },
    Mined {
        succeeded: bool,
    },
    Final,
    Failed(String),
    /// Something else took its nonce, for good.
    Displaced {
        nonce: u64,
    },
}

impl Follower {
    pub(crate) fn new(
        node: Nodes,
        signer: Arc<dyn Signer>,
        journal: Journal,
        policy: Policy,
        chain_id: u64,
    ) -> Result<Self, JournalError> {
        journal.claim(signer.address(), chain_id)?;
        let (data_oracle, turns, hurried) = Default::default();
        Ok(Self { node, signer, journal, policy, chain_id, data_oracle, turns, hurried })
    }

    pub(crate) fn wallet(&self) -> Address {
        self.signer.address()
    }

    /// Carries a plan out in order and returns when all of it is final. `digest` says what is asked:
    /// an unfinished intent of the same digest is gone on with instead of being done twice.
    pub(crate) async fn perform(
        &self,
        kind: &'static str,
        digest: B256,
        plan: Plan,
    ) -> Result<Outcome, ChainError> {
        if plan.calls.is_empty() {
            return Ok(Outcome::default());
        }
        let Plan { calls, urgent } = plan;
        let hurry = urgent.then(|| Hurry::begin(&self.hurried));
        let planned = || self.journal.plan(kind, digest, &calls, urgent, now_secs());
        // What is urgent is durable before its turn: whoever has the turn signs it beside his own.
        let waiting = urgent.then(planned).transpose()?;
        let turn = self.turns.take(urgent).await;
        // What an earlier process left un-mined holds lower nonces: it goes first.
        for earlier in self.journal.signed_intents()? {
            self.mine_signed(kind_of(&earlier.kind), earlier.id).await?;
        }
        let intent = match waiting {
            Some(intent) => intent,
            None => planned()?,
        };
        self.mine_asked(kind, intent).await?;
        drop((turn, hurry));
        self.wait_until_final(kind, intent).await
    }

    /// As `perform` for what builds on others of its kind: it is planned when those that were asked
    /// for before are in blocks. Two deposits planned at once would share one allowance.
    pub(crate) async fn perform_after_others(
        &self,
        kind: &'static str,
        digest: B256,
        plan: impl Future<Output = Result<Plan, ChainError>> + Send,
    ) -> Result<Outcome, ChainError> {
        let turn = self.turns.take(false).await;
        let open = self.journal.open_intents()?;
        for earlier in open.iter().filter(|earlier| earlier.kind == kind) {
            match self.mine_all(kind, earlier.id).await {
                // Whoever asked for it is told; here it is only out of the way.
                Ok(())
                | Err(ChainError::Reverted { .. } | ChainError::InsufficientFunds { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for earlier in open.iter().filter(|earlier| earlier.kind != kind) {
            self.mine_signed(kind_of(&earlier.kind), earlier.id).await?;
        }
        let intent = match self.journal.open_intent(digest)? {
            Some(intent) => intent,
            None => {
                let Plan { calls, urgent } = plan.await?;
                if calls.is_empty() {
                    return Ok(Outcome::default());
                }
                self.journal.plan(kind, digest, &calls, urgent, now_secs())?
            }
        };
        self.mine_asked(kind, intent).await?;
        drop(turn);
        self.wait_until_final(kind, intent).await
    }

    /// Goes on with an intent that is in the journal, to its end.
    pub(crate) async fn go_on(
        &self,
        kind: &'static str,
        intent: i64,
    ) -> Result<Outcome, ChainError> {
        {
            let urgent = self.journal.is_urgent(intent)?;
            let _hurry = urgent.then(|| Hurry::begin(&self.hurried));
            let _turn = self.turns.take(urgent).await;
            self.mine_all(kind, intent).await?;
        }
        self.wait_until_final(kind, intent).await
    }

    /// The most that is paid for a unit of gas of an intent's transactions, in wei. What goes before
    /// an urgent intent may cost as much as that.
    pub(super) fn fee_cap(&self, urgent: bool) -> u128 {
        let Policy { fee_max_wei, fee_max_urgent_wei, .. } = self.policy;
        match urgent || self.hurried.load(Ordering::SeqCst) > 0 {
            true => fee_max_wei.max(fee_max_urgent_wei),
            false => fee_max_wei,
        }
    }

    /// Goes on with everything that is not final; returns how many transactions that were. All of it
    /// is brought into blocks, what is urgent first, before any of it is waited for.
    pub(crate) async fn resume(&self) -> Result<usize, ChainError> {
        let (mut open, mut transactions) = (Vec::new(), 0);
        for intent in self.journal.open_intents()? {
            let kind = kind_of(&intent.kind);
            for step in self.journal.steps(intent.id)? {
                transactions += usize::from(step.state != StepState::Final);
                if step.state == StepState::Mined {
                    // What was seen in a block then may be in none now, and hold up the rest.
                    let _turn = self.turns.take(false).await;
                    if let Seen::Failed(reason) = self.look(kind, &step).await? {
                        self.journal.fail_step(intent.id, step.id, &reason)?;
                    }
                }
            }
            open.push((kind, intent.id));
        }
        // What is signed holds nonces below all that is not.
        for (kind, id) in &open {
            let urgent = self.urgent_waits(&open)?;
            let _hurry = urgent.then(|| Hurry::begin(&self.hurried));
            let _turn = self.turns.take(urgent).await;
            unless_over(kind, self.mine_signed(kind, *id).await)?;
        }
        // Turns are taken in this order: an urgent one never waits for what does not block it.
        let (mut turns, mut patient) = (Vec::new(), Vec::new());
        for (kind, id) in open {
            let list = if self.journal.is_urgent(id)? { &mut turns } else { &mut patient };
            list.push(async move { unless_over(kind, self.go_on(kind, id).await.map(drop)) });
        }
        turns.append(&mut patient);
        join_all(turns).await.into_iter().collect::<Result<(), ChainError>>()?;
        Ok(transactions)
    }

    /// Whether an urgent one of these intents has transactions that are in no block.
    fn urgent_waits(&self, intents: &[(&'static str, i64)]) -> Result<bool, JournalError> {
        for (_, id) in intents {
            let waits = |step: &Step| matches!(step.state, StepState::Planned | StepState::Signed);
            if self.journal.is_urgent(*id)? && self.journal.steps(*id)?.iter().any(waits) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sees that what was signed for an intent is mined, and leaves the rest of it.
    async fn mine_signed(&self, kind: &'static str, intent: i64) -> Result<(), ChainError> {
        for step in self.journal.steps(intent)? {
            if step.state == StepState::Signed {
                match self.mine(kind, intent, step.id).await {
                    Ok(_) | Err(ChainError::Reverted { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// As `mine_all` for who asked for it now, and is told what becomes of it.
    async fn mine_asked(&self, kind: &'static str, intent: i64) -> Result<(), ChainError> {
        let mined = self.mine_all(kind, intent).await;
        if let Err(error) = &mined {
            self.give_up_unsigned(intent, error)?;
        }
        mined
    }

    /// Signs, sends and sees mined every step of an intent, in order.
    async fn mine_all(&self, kind: &'static str, intent: i64) -> Result<(), ChainError> {
        self.still_wanted(kind, intent)?;
        for step in self.journal.steps(intent)? {
            match step.state {
                StepState::Planned | StepState::Signed => {
                    if !self.mine(kind, intent, step.id).await? {
                        // It reverted on chain; what comes after it builds on it.
                        break;
                    }
                }
                StepState::Mined | StepState::Final => {}
                StepState::Failed => break,
            }
        }
        Ok(())
    }

    /// Brings one step into a block; `false` where it reverted there.
    async fn mine(&self, kind: &'static str, intent: i64, step: i64) -> Result<bool, ChainError> {
        let urgent = self.journal.is_urgent(intent)?;
        // As it is now: whoever had the turn before may have signed it.
        let step = self.journal.step(step)?;
        let mut tried = BTreeSet::new();
        let mut planned = step.state == StepState::Planned;
        let (mut sent_at, mut displaced, mut gaps) = (Instant::now(), 0, 0);
        let mut resent_at = Instant::now();
        // The newest block when the newest version was signed: by an earlier call, before any block
        // that comes; by this one, what the first look finds.
        let mut signed_at = (!planned).then_some(0);
        let started = Instant::now();
        if !planned {
            self.resend_up_to(&step).await?;
        }
        loop {
            if planned {
                match self.sign_and_send(kind, intent, &step, urgent).await? {
                    Sent::Following => {}
                    Sent::Poor => {
                        let reason = "not enough native currency for gas";
                        let needed = self.reserved()?;
                        self.journal.fail(intent, Some(step.id), reason)?;
                        return Err(self.poor(needed).await);
                    }
                    Sent::Refused(reason) => {
                        self.journal.fail(intent, Some(step.id), &reason)?;
                        return Err(ChainError::Reverted { what: kind, reason });
                    }
                }
                planned = false;
                (sent_at, signed_at, displaced) = (Instant::now(), None, 0);
            }
            match self.look(kind, &step).await? {
                Seen::Final => return Ok(true),
                Seen::Mined { succeeded } => return Ok(succeeded),
                Seen::Failed(reason) => {
                    self.journal.fail_step(intent, step.id, &reason)?;
                    return Ok(false);
                }
                Seen::Displaced { nonce } => {
                    displaced += 1;
                    if displaced >= DISPLACED_POLLS {
                        self.tell_foreign(nonce)?;
                        tracing::warn!(kind, nonce, "another program took our nonce; signing anew");
                        self.journal.displace(step.id)?;
                        planned = true;
                        continue;
                    }
                }
                Seen::Pending { head } => {
                    displaced = 0;
                    // A chain that stands still takes nobody's transactions, whatever they pay.
                    let moved = head > *signed_at.get_or_insert(head);
                    let due = moved && sent_at.elapsed() >= self.policy.bump_after;
                    if due || self.is_held_up(&step).await? {
                        self.bump_up_to(&step, urgent).await?;
                        (sent_at, signed_at) = (Instant::now(), Some(head));
                        resent_at = Instant::now();
                    } else if resent_at.elapsed() >= self.policy.poll * RESEND_POLLS {
                        let gap = self.gap_below(&step).await?;
                        gaps = gap.map_or(0, |_| gaps + 1);
                        if let Some(nonce) = gap.filter(|_| gaps >= GAP_LOOKS) {
                            gaps = 0;
                            if is_repeatable(kind) {
                                tracing::warn!(kind, nonce, "nobody uses this nonce; signing anew");
                                self.journal.displace(step.id)?;
                                planned = true;
                                continue;
                            }
                            // Signed with both, it might be done twice.
                            tracing::warn!(
                                kind,
                                nonce,
                                "a transaction waits behind a nonce that nobody uses; send anything \
                                 with that nonce from another program"
                            );
                        }
                        self.resend_up_to(&step).await?;
                        resent_at = Instant::now();
                    }
                    self.sign_beside(&mut tried).await?;
                }
            }
            self.pause(started).await?;
        }
    }

    /// Follows the mined steps of an intent until all are final.
    async fn wait_until_final(
        &self,
        kind: &'static str,
        intent: i64,
    ) -> Result<Outcome, ChainError> {
        let started = Instant::now();
        loop {
            self.still_wanted(kind, intent)?;
            // A step that failed ends what is not signed yet; what is signed is followed to its end.
            let (mut open, mut halted, mut failed) = (0, false, false);
            for step in self.journal.steps(intent)? {
                let _turn = match step.state {
                    StepState::Final => continue,
                    StepState::Failed => {
                        (halted, failed) = (true, true);
                        continue;
                    }
                    StepState::Planned if halted => continue,
                    _ => self.turns.take(false).await,
                };
                if step.state == StepState::Planned {
                    // What it waited for was reverted, then reorganised into a success.
                    self.mine(kind, intent, step.id).await?;
                    open += 1;
                    continue;
                }
                match self.look(kind, &step).await? {
                    Seen::Final => {}
                    Seen::Mined { succeeded } => {
                        open += 1;
                        halted |= !succeeded;
                    }
                    Seen::Failed(reason) => {
                        self.journal.fail_step(intent, step.id, &reason)?;
                        (halted, failed) = (true, true);
                    }
                    // A reorganisation took it out of its block: bring it back into one.
                    Seen::Pending { .. } | Seen::Displaced { .. } => {
                        self.mine(kind, intent, step.id).await?;
                        open += 1;
                    }
                }
            }
            if open == 0 {
                if failed {
                    let reason = self.journal.reason(intent)?;
                    let reason = reason.unwrap_or_else(|| "it reverted in its block".to_owned());
                    self.journal.fail(intent, None, &reason)?;
                    return Err(ChainError::Reverted { what: kind, reason });
                }
                break;
            }
            self.pause(started).await?;
        }
        let summaries = self.journal.steps(intent)?.into_iter().filter_map(|step| step.summary);
        let outcome = Outcome { transactions: summaries.collect() };
        self.journal.finish(intent)?;
        Ok(outcome)
    }

    /// Somebody else who follows the same intent may have seen it fail.
    fn still_wanted(&self, kind: &'static str, intent: i64) -> Result<(), ChainError> {
        match self.journal.failure(intent)? {
            Some(reason) => Err(ChainError::Reverted { what: kind, reason }),
            None => Ok(()),
        }
    }

    /// Looks for a step's transactions on chain and writes down what it finds.
    async fn look(&self, kind: &'static str, step: &Step) -> Result<Seen, ChainError> {
        // The head first: a receipt at or below its final block is final.
        let head = self.node.head().await?;
        let attempts = self.journal.attempts(step.id)?;
        for attempt in &attempts {
            let Some(receipt) = self.node.receipt(attempt.hash).await? else { continue };
            let block = receipt.block_number.unwrap_or_default().to::<u64>();
            let succeeded = receipt.succeeded();
            if block > head.final_number {
                self.journal.set_state(step.id, StepState::Mined)?;
                return Ok(Seen::Mined { succeeded });
            }
            let summary = TransactionSummary {
                hash: attempt.hash,
                block,
                gas_used: receipt.gas_used.to(),
                fee_wei: receipt.fee_wei(),
            };
            if !succeeded {
                let reason = self.why_it_failed(step).await;
                // What failed has its price all the same.
                self.journal.spend(step.id, &summary)?;
                return Ok(Seen::Failed(reason));
            }
            self.journal.finish_step(step.id, &summary)?;
            return Ok(Seen::Final);
        }
        self.journal.set_state(step.id, StepState::Signed)?;
        let Some(nonce) = attempts.first().map(|attempt| attempt.nonce) else {
            return Err(JournalError::Damaged("a signed step without a transaction").into());
        };
        let hashes: Vec<B256> = attempts.iter().map(|attempt| attempt.hash).collect();
        // Signed anew before the other transaction is final, both could be mined after all: only
        // where doing it twice does nothing is it not waited for.
        let block = if is_repeatable(kind) { head.number } else { head.final_number };
        if !self.node.displaced(self.wallet(), nonce, &hashes, block).await? {
            return Ok(Seen::Pending { head: head.number });
        }
        let with_it = attempts.iter().filter(|attempt| attempt.nonce == nonce);
        let signed_secs = with_it.map(|attempt| attempt.signed_secs).min().unwrap_or(0);
        if now_secs().saturating_sub(signed_secs) > DISPLACED_AGE_SECS_MAX {
            let words = "its nonce was used long ago, and the node no longer knows by what";
            return Ok(Seen::Failed(words.to_owned()));
        }
        Ok(Seen::Displaced { nonce })
    }

    /// The nonce that the chain waits for before it can take a step's, where nothing of ours that
    /// is under way has it: another program's transaction did, and a reorganisation dropped that one.
    async fn gap_below(&self, step: &Step) -> Result<Option<u64>, ChainError> {
        let attempts = self.journal.attempts(step.id)?;
        let Some(newest) = attempts.first() else { return Ok(None) };
        let next = self.node.nonce(self.wallet()).await?;
        let missing = next < newest.nonce && !self.journal.nonces_in_flight()?.contains(&next);
        Ok(missing.then_some(next))
    }

    /// Whether an urgent intent waits for a transaction that is too cheap to be mined now.
    async fn is_held_up(&self, step: &Step) -> Result<bool, ChainError> {
        if self.hurried.load(Ordering::SeqCst) == 0 {
            return Ok(false);
        }
        let attempts = self.journal.attempts(step.id)?;
        let Some(newest) = attempts.first() else { return Ok(false) };
        let cap = self.fee_cap(true);
        let now = self.node.fees(cap).await?;
        let can_be_raised = versions(&attempts) < ATTEMPTS_MAX && raised(newest.max_fee) <= cap;
        Ok(newest.max_fee < now.expected && can_be_raised)
    }

    /// Remembers, and says, that another program uses the wallet.
    pub(super) fn tell_foreign(&self, nonce: u64) -> Result<(), ChainError> {
        let found = ForeignUse { nonce, seen_secs: now_secs() };
        if self.journal.foreign_use()?.is_none_or(|known| known.nonce < nonce) {
            let wallet = self.wallet();
            tracing::warn!(%wallet, nonce, "another program sends transactions of this wallet");
            self.journal.note_foreign(found)?;
        }
        Ok(())
    }

    /// What a transaction that reverted in its block would revert with now.
    async fn why_it_failed(&self, step: &Step) -> String {
        match self.node.estimate_gas(&self.request_of(&step.call)).await {
            Err(NodeError::Refused { revert: Some(data), .. }) => reason_in_words(&data),
            Err(NodeError::Refused { message, .. }) => message,
            _ => "it reverted in its block, but would succeed now".to_owned(),
        }
    }

    async fn pause(&self, started: Instant) -> Result<(), ChainError> {
        if started.elapsed() > self.policy.patience {
            return Err(ChainError::Unreachable {
                endpoint: self.node.name().to_owned(),
                reason: "a transaction is not final yet; it stays in the journal and is followed \
                         again at the next start"
                    .to_owned(),
            });
        }
        tokio::time::sleep(self.policy.poll.max(Duration::from_millis(1))).await;
        Ok(())
    }
}

/// Whether the contract takes the same call a second time for nothing, or refuses it: vouchers are
/// cumulative, and a channel is opened and closed once.
pub(super) fn is_repeatable(kind: &str) -> bool {
    matches!(
        kind,
        "claim"
            | "defend"
            | "collect_reward"
            | "sweep"
            | "open"
            | "close_cooperatively"
            | "move"
            | "start_close"
            | "finish_close"
    )
}

/// Where an unfinished intent failed for good, the others go on.
fn unless_over(kind: &'static str, result: Result<(), ChainError>) -> Result<(), ChainError> {
    match result {
        Err(error @ (ChainError::Reverted { .. } | ChainError::InsufficientFunds { .. })) => {
            tracing::warn!(kind, %error, "an unfinished intent failed");
            Ok(())
        }
        other => other,
    }
}

/// Kinds are words of ours; what a newer version wrote is told in general.
pub(super) fn kind_of(kind: &str) -> &'static str {
    const KINDS: [&str; 29] = [
        "deposit",
        "withdraw",
        "open",
        "top_up",
        "claim",
        "close_cooperatively",
        "move",
        "start_close",
        "finish_close",
        "sweep",
        "defend",
        "collect_reward",
        "deposit_reward",
        "announce_reward_withdrawal",
        "withdraw_reward",
        "register",
        "rotate",
        "revoke",
        "register_for",
        "revoke_for",
        "set_cap",
        "bond",
        "announce_leaving",
        "unbond",
        "commit_report",
        "report_receipts",
        "deploy",
        "mint",
        "transfer",
    ];
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("transaction")
}

pub(super) fn now_secs() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
