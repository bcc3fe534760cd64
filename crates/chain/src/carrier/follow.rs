//! Signs, sends and follows transactions until they are final: the transaction state machine.

use std::{sync::Arc, time::Duration};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope, TxLegacy};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Signature as AlloySignature, TxKind, U256};
use serde_json::{Value, json};
use sparewire_core::{Signer, SignerError};
use sparewire_protocol::settlement::{ChainError, Outcome, TransactionSummary};
use tokio::{sync::Mutex, time::Instant};

use super::{
    Policy,
    node::{Fees, Node, NodeError},
};
use crate::{
    contracts::reason_in_words,
    journal::{Attempt, Call, Journal, JournalError, Step, StepState},
};

/// Most gas that one transaction may use (EIP-7825); chains without that rule are fine with it.
pub(crate) const GAS_MAX: u64 = 1 << 24;

/// How often a nonce must be seen taken, with none of our hashes mined, before we believe it: the
/// nodes behind one URL may be a few blocks apart.
const DISPLACED_POLLS: u32 = 3;

/// A transaction that is in no block is sent again after so many looks for it.
const RESEND_POLLS: u32 = 5;

/// Most signed versions of one transaction. Each costs 12.5 % more than the one before: 24 of them
/// raise the fee 15 times, and [`Policy::fee_max_wei`] ends it before.
const ATTEMPTS_MAX: usize = 24;

/// After so long a node may have forgotten receipts, and a nonce that is taken proves nothing.
const DISPLACED_AGE_SECS_MAX: u64 = 14 * 86_400;

/// One wallet's transactions on one chain.
pub(crate) struct Follower {
    pub(crate) node: Node,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) journal: Journal,
    pub(crate) policy: Policy,
    pub(crate) chain_id: u64,
    /// Held from choosing a nonce until its transaction is mined: one performer at a time.
    performer: Mutex<()>,
}

/// What a look at the chain showed of a step.
enum Seen {
    Pending,
    Mined { succeeded: bool },
    Final,
    Failed(String),
    /// Something else took its nonce, and that is final.
    Displaced,
}

/// What a node said to a transaction.
enum Sent {
    /// It has it, now or from before, or did not say: follow.
    Following,
    NonceTaken,
    Poor,
    Refused(String),
}

impl Follower {
    pub(crate) fn new(
        node: Node,
        signer: Arc<dyn Signer>,
        journal: Journal,
        policy: Policy,
        chain_id: u64,
    ) -> Result<Self, JournalError> {
        journal.claim(signer.address(), chain_id)?;
        Ok(Self { node, signer, journal, policy, chain_id, performer: Mutex::new(()) })
    }

    pub(crate) fn wallet(&self) -> Address {
        self.signer.address()
    }

    /// Carries calls out in order and returns when all are final. `digest` says what is asked: an
    /// unfinished intent of the same digest is gone on with instead of being done twice.
    pub(crate) async fn perform(
        &self,
        kind: &'static str,
        digest: B256,
        calls: Vec<Call>,
    ) -> Result<Outcome, ChainError> {
        if calls.is_empty() {
            return Ok(Outcome::default());
        }
        let intent = {
            let _performer = self.performer.lock().await;
            // What an earlier process left un-mined holds lower nonces: it goes first.
            for earlier in self.journal.open_intents()? {
                self.mine_signed(kind_of(&earlier.kind), earlier.id).await?;
            }
            let intent = match self.journal.open_intent(digest)? {
                Some(intent) => intent,
                None => self.journal.plan(kind, digest, &calls, now_secs())?,
            };
            self.mine_all(kind, intent).await?;
            intent
        };
        self.wait_until_final(kind, intent).await
    }

    /// Goes on with everything that is not final; returns how many transactions that were.
    pub(crate) async fn resume(&self) -> Result<usize, ChainError> {
        let mut transactions = 0;
        for open in self.journal.open_intents()? {
            let kind = kind_of(&open.kind);
            let unfinished = |step: &&Step| !matches!(step.state, StepState::Final);
            transactions += self.journal.steps(open.id)?.iter().filter(unfinished).count();
            let mined = {
                let _performer = self.performer.lock().await;
                self.mine_all(kind, open.id).await
            };
            let outcome = match mined {
                Ok(()) => self.wait_until_final(kind, open.id).await.map(drop),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => {}
                // The intent is over; the others go on.
                Err(error @ (ChainError::Reverted { .. } | ChainError::InsufficientFunds { .. })) => {
                    tracing::warn!(kind, %error, "an unfinished intent failed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(transactions)
    }

    /// Sees that what was signed for an intent is mined, and leaves the rest of it.
    async fn mine_signed(&self, kind: &'static str, intent: i64) -> Result<(), ChainError> {
        for step in self.journal.steps(intent)? {
            if step.state == StepState::Signed {
                match self.mine(kind, intent, step).await {
                    Ok(_) | Err(ChainError::Reverted { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Signs, sends and sees mined every step of an intent, in order.
    async fn mine_all(&self, kind: &'static str, intent: i64) -> Result<(), ChainError> {
        for step in self.journal.steps(intent)? {
            match step.state {
                StepState::Planned | StepState::Signed => {
                    if !self.mine(kind, intent, step).await? {
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
    async fn mine(&self, kind: &'static str, intent: i64, step: Step) -> Result<bool, ChainError> {
        let mut planned = step.state == StepState::Planned;
        let (mut sent_at, mut displaced) = (Instant::now(), 0);
        let mut resent_at = Instant::now();
        let started = Instant::now();
        if !planned {
            self.resend(&step).await?;
        }
        loop {
            if planned {
                match self.sign_and_send(kind, intent, &step).await? {
                    Sent::NonceTaken => {
                        self.pause(started).await?;
                        continue;
                    }
                    Sent::Following => {}
                    Sent::Poor => {
                        let reason = "not enough native currency for gas";
                        self.journal.fail(intent, Some(step.id), reason)?;
                        return Err(self.poor(U256::MAX).await);
                    }
                    Sent::Refused(reason) => {
                        self.journal.fail(intent, Some(step.id), &reason)?;
                        return Err(ChainError::Reverted { what: kind, reason });
                    }
                }
                planned = false;
                (sent_at, displaced) = (Instant::now(), 0);
            }
            match self.look(&step).await? {
                Seen::Final => return Ok(true),
                Seen::Mined { succeeded } => return Ok(succeeded),
                Seen::Failed(reason) => {
                    self.journal.fail(intent, Some(step.id), &reason)?;
                    return Err(ChainError::Reverted { what: kind, reason });
                }
                Seen::Displaced => {
                    displaced += 1;
                    if displaced >= DISPLACED_POLLS {
                        tracing::warn!(kind, "another transaction took our nonce; signing anew");
                        self.journal.displace(step.id)?;
                        planned = true;
                        continue;
                    }
                }
                Seen::Pending => {
                    displaced = 0;
                    if sent_at.elapsed() >= self.policy.bump_after {
                        self.bump(&step).await?;
                        sent_at = Instant::now();
                    } else if resent_at.elapsed() >= self.policy.poll * RESEND_POLLS {
                        self.resend(&step).await?;
                        resent_at = Instant::now();
                    }
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
            let mut open = 0;
            for step in self.journal.steps(intent)? {
                let _performer = match step.state {
                    StepState::Final => continue,
                    _ => self.performer.lock().await,
                };
                if step.state == StepState::Planned {
                    // What it waited for was reverted, then reorganised into a success.
                    self.mine(kind, intent, step).await?;
                    open += 1;
                    continue;
                }
                match self.look(&step).await? {
                    Seen::Final => {}
                    Seen::Mined { succeeded: true } => open += 1,
                    Seen::Mined { succeeded: false } => {
                        open += 1;
                        break;
                    }
                    Seen::Failed(reason) => {
                        self.journal.fail(intent, Some(step.id), &reason)?;
                        return Err(ChainError::Reverted { what: kind, reason });
                    }
                    // A reorganisation took it out of its block: bring it back into one.
                    Seen::Pending | Seen::Displaced => {
                        self.mine(kind, intent, Step { state: StepState::Signed, ..step }).await?;
                        open += 1;
                    }
                }
            }
            if open == 0 {
                break;
            }
            self.pause(started).await?;
        }
        let summaries = self.journal.steps(intent)?.into_iter().filter_map(|step| step.summary);
        let outcome = Outcome { transactions: summaries.collect() };
        self.journal.finish(intent)?;
        Ok(outcome)
    }

    /// Looks for a step's transactions on chain and writes down what it finds.
    async fn look(&self, step: &Step) -> Result<Seen, ChainError> {
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
            if !succeeded {
                return Ok(Seen::Failed(self.why_it_failed(step).await));
            }
            self.journal.finish_step(
                step.id,
                &TransactionSummary {
                    hash: attempt.hash,
                    block,
                    gas_used: receipt.gas_used.to(),
                    fee_wei: receipt.fee_wei(),
                },
            )?;
            return Ok(Seen::Final);
        }
        self.journal.set_state(step.id, StepState::Signed)?;
        let Some(nonce) = attempts.first().map(|attempt| attempt.nonce) else {
            return Ok(Seen::Displaced);
        };
        if self.node.nonce(self.wallet(), Some(head.final_number)).await? <= nonce {
            return Ok(Seen::Pending);
        }
        let signed_secs = attempts.iter().map(|attempt| attempt.signed_secs).min().unwrap_or(0);
        if now_secs().saturating_sub(signed_secs) > DISPLACED_AGE_SECS_MAX {
            let words = "its nonce was used long ago, and the node no longer knows by what";
            return Ok(Seen::Failed(words.to_owned()));
        }
        Ok(Seen::Displaced)
    }

    /// Simulates a step, signs it with a nonce of its own, writes it down and sends it.
    async fn sign_and_send(
        &self,
        kind: &'static str,
        intent: i64,
        step: &Step,
    ) -> Result<Sent, ChainError> {
        let (gas, fees) = match self.prepare(kind, &step.call).await {
            Ok(prepared) => prepared,
            Err(error) => {
                // With nothing signed, nothing can happen behind the caller's back any more; what
                // would revert now is over in any case.
                let signed = self.journal.steps(intent)?.iter().any(|other| {
                    other.id != step.id && other.state != StepState::Planned
                });
                if !signed || matches!(error, ChainError::Reverted { .. }) {
                    self.journal.fail(intent, None, &error.to_string())?;
                }
                return Err(error);
            }
        };
        let nonce = self.free_nonce().await?;
        let attempt = self.sign(&step.call, nonce, gas, fees).await?;
        self.journal.sign(step.id, &attempt)?;
        let sent = self.send(&attempt).await;
        match &sent {
            // Nobody but this node has seen it, and it did not take it.
            Sent::NonceTaken => self.journal.displace(step.id)?,
            _ => tracing::info!(kind, hash = %attempt.hash, nonce, "transaction sent"),
        }
        Ok(sent)
    }

    /// The gas limit and fees of a call that would succeed now.
    async fn prepare(&self, kind: &'static str, call: &Call) -> Result<(u64, Fees), ChainError> {
        let request = self.request_of(call);
        let estimate = match self.node.estimate_gas(&request).await {
            Ok(estimate) => estimate,
            Err(NodeError::Refused { revert: Some(data), .. }) => {
                return Err(ChainError::Reverted { what: kind, reason: reason_in_words(&data) });
            }
            Err(NodeError::Refused { message, .. }) if message.contains("insufficient funds") => {
                return Err(self.poor(call.value).await);
            }
            Err(NodeError::Refused { message, .. }) => {
                // Some nodes give the data only to eth_call.
                return Err(match self.node.ask::<_, alloy_primitives::Bytes>("eth_call", (request, "latest")).await {
                    Err(NodeError::Refused { revert: Some(data), .. }) => {
                        ChainError::Reverted { what: kind, reason: reason_in_words(&data) }
                    }
                    _ => ChainError::Reverted { what: kind, reason: message },
                });
            }
            Err(error) => return Err(self.node.blame(error)),
        };
        if estimate > GAS_MAX {
            let reason = format!("it takes {estimate} gas, more than a transaction may use");
            return Err(ChainError::Reverted { what: kind, reason });
        }
        // A quarter on top: between estimate and block, others' claims may turn a warm slot cold.
        let gas = (estimate + estimate / 4).min(GAS_MAX);
        let fees = self.node.fees().await?;
        let needed = U256::from(fees.max_fee) * U256::from(gas) + call.value;
        let available = self.node.balance(self.wallet(), None).await?;
        if U256::from(available) < needed {
            return Err(self.poor(needed).await);
        }
        Ok((gas, fees))
    }

    /// The least nonce that neither the chain nor an unfinished transaction of ours has used.
    async fn free_nonce(&self) -> Result<u64, ChainError> {
        let mut nonce = self.node.nonce(self.wallet(), None).await?;
        let in_flight = self.journal.nonces_in_flight()?;
        while in_flight.contains(&nonce) {
            nonce += 1;
        }
        Ok(nonce)
    }

    async fn sign(
        &self,
        call: &Call,
        nonce: u64,
        gas: u64,
        fees: Fees,
    ) -> Result<Attempt, ChainError> {
        let to = call.target.map_or(TxKind::Create, TxKind::Call);
        let (value, input, chain_id) = (call.value, call.data.clone(), self.chain_id);
        let envelope = match fees.tip {
            Some(tip) => {
                let transaction = TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit: gas,
                    max_fee_per_gas: fees.max_fee,
                    max_priority_fee_per_gas: tip,
                    to,
                    value,
                    access_list: Default::default(),
                    input,
                };
                let signature = self.signature(transaction.signature_hash()).await?;
                TxEnvelope::Eip1559(transaction.into_signed(signature))
            }
            None => {
                let transaction = TxLegacy {
                    chain_id: Some(chain_id),
                    nonce,
                    gas_price: fees.max_fee,
                    gas_limit: gas,
                    to,
                    value,
                    input,
                };
                let signature = self.signature(transaction.signature_hash()).await?;
                TxEnvelope::Legacy(transaction.into_signed(signature))
            }
        };
        Ok(Attempt {
            hash: *envelope.tx_hash(),
            nonce,
            raw: envelope.encoded_2718().into(),
            gas,
            max_fee: fees.max_fee,
            tip: fees.tip,
            signed_secs: now_secs(),
        })
    }

    async fn signature(&self, digest: B256) -> Result<AlloySignature, ChainError> {
        let refused = |reason: String| ChainError::Signer(SignerError::Refused { reason });
        let signer = self.signer.clone();
        // A keeper may be a device that takes its time.
        let signature = tokio::task::spawn_blocking(move || signer.sign_digest(digest))
            .await
            .map_err(|_| refused("it ended unexpectedly".to_owned()))??;
        if signature.recover(digest) != Ok(self.wallet()) {
            return Err(refused("it signed with another key than the wallet's".to_owned()));
        }
        let bytes = signature.to_bytes();
        let (r, s) = (U256::from_be_slice(&bytes[..32]), U256::from_be_slice(&bytes[32..64]));
        Ok(AlloySignature::new(r, s, bytes[64] == 28))
    }

    async fn send(&self, attempt: &Attempt) -> Sent {
        let (message, code) = match self.node.send_raw(&attempt.raw).await {
            Ok(_) => return Sent::Following,
            Err(NodeError::Refused { message, code, .. }) => (message.to_ascii_lowercase(), code),
            // It may have arrived all the same.
            Err(error) => {
                tracing::debug!(?error, "no answer to a transaction");
                return Sent::Following;
            }
        };
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if says(&["already known", "known transaction", "already imported", "already exists"]) {
            Sent::Following
        } else if says(&["nonce too low", "nonce has already been used", "oldnonce"]) {
            Sent::NonceTaken
        } else if says(&["insufficient funds", "insufficient balance"]) {
            Sent::Poor
        } else if says(&[
            "intrinsic gas",
            "floor data gas",
            "exceeds block gas limit",
            "gas limit too high",
            "invalid sender",
            "chain id",
            "oversized data",
            "initcode",
            "not supported",
            "higher than max fee",
        ]) {
            Sent::Refused(format!("the node refused the transaction: {message}"))
        } else {
            // Full pools, fees too low for now, trouble of the node's own: it is sent again.
            tracing::warn!(code, message, "the node did not take a transaction; trying on");
            Sent::Following
        }
    }

    /// Sends the newest attempt again: nodes forget, and reorganisations do not always give back.
    async fn resend(&self, step: &Step) -> Result<(), ChainError> {
        if let Some(attempt) = self.journal.attempts(step.id)?.first() {
            self.send(attempt).await;
        }
        Ok(())
    }

    /// Replaces a transaction that nobody mines by one with the same nonce and a higher fee.
    async fn bump(&self, step: &Step) -> Result<(), ChainError> {
        let attempts = self.journal.attempts(step.id)?;
        let Some(newest) = attempts.first() else { return Ok(()) };
        let now = self.node.fees().await?;
        // Nodes replace for at least 10 % more (geth) or 12.5 % (others) of both parts.
        let more = |old: u128| old.saturating_add(old.div_ceil(8)).saturating_add(1);
        let max_fee = now.max_fee.max(more(newest.max_fee));
        if attempts.len() >= ATTEMPTS_MAX || max_fee > self.policy.fee_max_wei {
            tracing::warn!(hash = %newest.hash, "a transaction is stuck, and its fee is at our limit");
            self.send(newest).await;
            return Ok(());
        }
        let tip = newest.tip.map(|tip| more(tip).max(now.tip.unwrap_or(0)).min(max_fee));
        let fees = Fees { max_fee, tip };
        let attempt = self.sign(&step.call, newest.nonce, newest.gas, fees).await?;
        self.journal.sign(step.id, &attempt)?;
        tracing::info!(old = %newest.hash, new = %attempt.hash, max_fee, "fee raised");
        self.send(&attempt).await;
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

    async fn poor(&self, needed: U256) -> ChainError {
        let available = self.node.balance(self.wallet(), None).await.unwrap_or_default();
        ChainError::InsufficientFunds {
            of: "native currency for gas",
            wallet: self.wallet(),
            available,
            needed: needed.saturating_to(),
        }
    }

    fn request_of(&self, call: &Call) -> Value {
        let mut request = json!({ "from": self.wallet(), "data": call.data, "value": call.value });
        if let Some(target) = call.target {
            request["to"] = json!(target);
        }
        request
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

/// Kinds are words of ours; what a newer version wrote is told in general.
fn kind_of(kind: &str) -> &'static str {
    const KINDS: [&str; 12] = [
        "deposit",
        "withdraw",
        "open",
        "top_up",
        "claim",
        "close_cooperatively",
        "start_close",
        "finish_close",
        "sweep",
        "deploy",
        "mint",
        "transfer",
    ];
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("transaction")
}

fn now_secs() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
