//! Simulates, signs, sends and re-sends one transaction; `follow` says when.

use std::{collections::BTreeSet, mem::discriminant, sync::atomic::Ordering};

use alloy_consensus::{SignableTransaction, TxEip1559, TxLegacy, TypedTransaction};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, Signature as AlloySignature, TxKind, U256};
use serde_json::{Value, json};
use sparewire_core::SignerError;
use sparewire_protocol::settlement::ChainError;

use super::{
    follow::{Follower, is_repeatable, kind_of, now_secs},
    node::{Fees, NodeError},
    quote::Cost,
};
use crate::journal::{Attempt, Call, JournalError, Step, StepState, versions};

/// Most signed versions of one transaction. Each costs 12.5 % more than the one before: 24 of them
/// raise the fee 15 times, and [`super::Policy::fee_max_wei`] ends it before.
pub(super) const ATTEMPTS_MAX: usize = 24;

/// Most transactions of a wallet that wait for blocks together, where they need not go one by one. As
/// many of one account are pending with any node (geth's `txpool.accountslots`), whatever else comes.
const UNDER_WAY_MAX: usize = 16;

/// The least fee that replaces `old`: nodes want 10 % more (geth) or 12.5 % (others) of both parts.
pub(super) fn raised(old: u128) -> u128 {
    old.saturating_add(old.div_ceil(8)).saturating_add(1)
}

/// What a node said to a transaction.
pub(super) enum Sent {
    /// It has it, now or from before, or did not say: follow.
    Following,
    Poor,
    Refused(String),
}

impl Follower {
    /// Simulates a step, signs it with a nonce of its own, writes it down and sends it. Who has the
    /// turn may do this, and nobody else.
    pub(super) async fn sign_and_send(
        &self,
        kind: &'static str,
        intent: i64,
        step: &Step,
        urgent: bool,
    ) -> Result<Sent, ChainError> {
        let cost = match self.prepare(kind, &step.call, urgent, U256::ZERO).await {
            Ok(prepared) => prepared,
            Err(error) => {
                // What would revert now is over in any case; what the wallet cannot pay for, where
                // nothing else of it can still happen. A node's silence ends nothing.
                let over = match error {
                    ChainError::Reverted { .. } => true,
                    ChainError::InsufficientFunds { .. } => !self.is_signed(intent)?,
                    _ => false,
                };
                if over {
                    self.journal.fail(intent, None, &error.to_string())?;
                }
                return Err(error);
            }
        };
        self.sign_step(kind, step, cost).await
    }

    /// Whether anything was signed for an intent that can still happen, or has.
    fn is_signed(&self, intent: i64) -> Result<bool, JournalError> {
        let steps = self.journal.steps(intent)?;
        Ok(steps.iter().any(|step| step.state != StepState::Planned))
    }

    /// Ends an intent of which nothing is signed, and whose caller is told `error`: nothing happens
    /// behind his back any more.
    pub(super) fn give_up_unsigned(
        &self,
        intent: i64,
        error: &ChainError,
    ) -> Result<(), JournalError> {
        let over = self.journal.failure(intent)?.is_some();
        if !over && !self.is_signed(intent)? {
            self.journal.fail(intent, None, &error.to_string())?;
        }
        Ok(())
    }

    /// Signs urgent intents that wait, and sends them, beside what is under way: then they need not
    /// wait for a block each. Each is tried once (`tried`) while somebody has the turn; what cannot
    /// be signed beside others, or is not to be, waits for its own turn, and is told there.
    ///
    /// Only what may be done twice for nothing is signed here: the simulation does not know of what is
    /// under way. Where one reverts for that, gas is lost and nothing else; where one is dropped, the
    /// nodes keep those behind it, or get them again.
    pub(super) async fn sign_beside(&self, tried: &mut BTreeSet<i64>) -> Result<(), ChainError> {
        if self.hurried.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        for (kind, id) in self.journal.urgent_next()? {
            let kind = kind_of(&kind);
            if !is_repeatable(kind) || tried.contains(&id) {
                continue;
            }
            if self.journal.signed_steps()?.len() >= UNDER_WAY_MAX {
                return Ok(());
            }
            tried.insert(id);
            let step = self.journal.step(id)?;
            assert_eq!(step.state, StepState::Planned, "a step is signed with one nonce at a time");
            let signed = async {
                let reserved = self.reserved()?.saturating_add(self.kept_for_raise().await?);
                let cost = self.prepare(kind, &step.call, true, reserved).await?;
                self.sign_step(kind, &step, cost).await
            };
            match signed.await {
                Ok(Sent::Following) => {}
                Ok(Sent::Poor | Sent::Refused(_)) => {
                    // All nodes say so. The nonce is above all others: nothing waits behind it.
                    self.journal.displace(id)?;
                    return Ok(());
                }
                Err(error @ ChainError::Journal { .. }) => return Err(error),
                Err(error) => tracing::debug!(kind, %error, "not signed beside what is under way"),
            }
        }
        Ok(())
    }

    /// What the transactions that are under way may take from the wallet, in wei, without what a rollup
    /// takes for their data: where that is missing, the nodes say so.
    pub(super) fn reserved(&self) -> Result<U256, JournalError> {
        let mut reserved = U256::ZERO;
        for step in self.journal.signed_steps()? {
            let Some(newest) = self.journal.attempts(step)?.into_iter().next() else { continue };
            let gas = U256::from(newest.gas) * U256::from(newest.max_fee);
            reserved = reserved.saturating_add(gas + self.journal.step(step)?.call.value);
        }
        Ok(reserved)
    }

    /// What is not signed away beside others, in wei, so that the transaction that all wait for can
    /// be raised when gas becomes dearer: what that takes up to our limit, and half of what the
    /// wallet has at most. So it can be raised at least half as far as if nothing were signed beside it; nodes
    /// take no raise that the wallet cannot pay for together with all that is pending.
    async fn kept_for_raise(&self) -> Result<U256, ChainError> {
        let mut under_way = Vec::new();
        for step in self.journal.signed_steps()? {
            under_way.extend(self.journal.attempts(step)?.into_iter().next());
        }
        let Some(lowest) = under_way.iter().min_by_key(|it| it.nonce) else {
            return Ok(U256::ZERO);
        };
        let more = self.fee_cap(true).saturating_sub(lowest.max_fee);
        let half = U256::from(self.node.balance(self.wallet(), None).await? / 2);
        Ok((U256::from(more) * U256::from(lowest.gas)).min(half))
    }

    /// Signs a step that was simulated, writes it down and sends it.
    async fn sign_step(
        &self,
        kind: &'static str,
        step: &Step,
        cost: Cost,
    ) -> Result<Sent, ChainError> {
        let nonce = self.free_nonce().await?;
        let attempt = self.sign(&step.call, nonce, cost.gas_limit, cost.fees).await?;
        self.journal.sign(step.id, &attempt)?;
        let sent = self.send(&attempt).await;
        tracing::info!(kind, hash = %attempt.hash, nonce, "transaction sent");
        Ok(sent)
    }

    /// What a call that would succeed now takes, where the wallet can pay for it beside what is
    /// `reserved`, in wei.
    async fn prepare(
        &self,
        kind: &'static str,
        call: &Call,
        urgent: bool,
        reserved: U256,
    ) -> Result<Cost, ChainError> {
        let cost = self.cost(kind, call, urgent).await?;
        let needed = (U256::from(cost.fee_max()) + call.value).saturating_add(reserved);
        let available = self.node.balance(self.wallet(), None).await?;
        if U256::from(available) < needed {
            return Err(self.poor(needed).await);
        }
        Ok(cost)
    }

    /// The least nonce that neither the chain nor an unfinished transaction of ours has used.
    async fn free_nonce(&self) -> Result<u64, ChainError> {
        let mut nonce = self.node.nonce(self.wallet()).await?;
        // Nonces that the chain has used and we have not. (It has used fewer where the journal is
        // older than the chain, or the node behind.)
        if let Some(next) = self.journal.next_nonce()?
            && nonce > next
        {
            self.tell_foreign(nonce - 1)?;
        }
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
        let transaction = self.unsigned(call, nonce, gas, fees);
        let signature = self.signature(transaction.signature_hash()).await?;
        let envelope = transaction.into_envelope(signature);
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

    /// A transaction as it is signed.
    pub(super) fn unsigned(
        &self,
        call: &Call,
        nonce: u64,
        gas: u64,
        fees: Fees,
    ) -> TypedTransaction {
        let to = call.target.map_or(TxKind::Create, TxKind::Call);
        let (value, input, chain_id) = (call.value, call.data.clone(), self.chain_id);
        match fees.tip {
            Some(tip) => TypedTransaction::Eip1559(TxEip1559 {
                chain_id,
                nonce,
                gas_limit: gas,
                max_fee_per_gas: fees.max_fee,
                max_priority_fee_per_gas: tip,
                to,
                value,
                access_list: Default::default(),
                input,
            }),
            None => TypedTransaction::Legacy(TxLegacy {
                chain_id: Some(chain_id),
                nonce,
                gas_price: fees.max_fee,
                gas_limit: gas,
                to,
                value,
                input,
            }),
        }
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

    /// A transaction that any node took, or may have taken, is followed; it is over only where all
    /// say the same.
    async fn send(&self, attempt: &Attempt) -> Sent {
        let mut said = self.answers(attempt).await;
        let same = said.windows(2).all(|pair| discriminant(&pair[0]) == discriminant(&pair[1]));
        match said.pop() {
            Some(sent) if same => sent,
            _ => Sent::Following,
        }
    }

    async fn answers(&self, attempt: &Attempt) -> Vec<Sent> {
        self.node.send_raw(&attempt.raw).await.into_iter().map(Self::sent).collect()
    }

    /// What a node's answer to a transaction means.
    fn sent(answer: Result<B256, NodeError>) -> Sent {
        let (message, code) = match answer {
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
            // It may be this very transaction that has used it: a request may be delivered twice,
            // or another node may have taken it. Whose the nonce is shows on the chain.
            Sent::Following
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

    /// Sends a step's transaction again: nodes forget, and reorganisations do not always give back.
    pub(super) async fn resend(&self, step: i64) -> Result<(), ChainError> {
        self.send_again(&self.journal.attempts(step)?).await;
        Ok(())
    }

    /// Sends the newest version of a transaction, and where a node refuses that, the one before it,
    /// down to one that all take: a raise that the wallet cannot pay for must not be all that is
    /// left of it. Returns whether any node took the newest one, or may have.
    async fn send_again(&self, attempts: &[Attempt]) -> bool {
        let nonce = attempts.first().map(|newest| newest.nonce);
        let mut newest_taken = None;
        for attempt in attempts.iter().filter(|attempt| Some(attempt.nonce) == nonce) {
            let said = self.answers(attempt).await;
            let takes = |sent: &Sent| matches!(sent, Sent::Following);
            newest_taken.get_or_insert(said.iter().any(takes));
            if said.iter().all(takes) {
                break;
            }
        }
        newest_taken.unwrap_or(true)
    }

    /// Sends a step again, and before it whatever of ours has a lower nonce and is in no block: no
    /// transaction is mined while one with a lower nonce is missing.
    pub(super) async fn resend_up_to(&self, step: &Step) -> Result<(), ChainError> {
        for below in self.blocking(step).await? {
            self.resend(below).await?;
        }
        // What gas costs now is told beside what waits for it; nothing depends on it.
        let _ = self.node.fees(self.fee_cap(false)).await;
        self.resend(step.id).await
    }

    /// Replaces a step's transaction that nobody mines, and those of ours that it waits for.
    pub(super) async fn bump_up_to(&self, step: &Step, urgent: bool) -> Result<(), ChainError> {
        for below in self.blocking(step).await? {
            self.bump(below, urgent).await?;
        }
        self.bump(step.id, urgent).await
    }

    /// Steps whose nonces are lower than the step's and not used at the newest block.
    async fn blocking(&self, step: &Step) -> Result<Vec<i64>, ChainError> {
        let Some(nonce) = self.journal.attempts(step.id)?.first().map(|it| it.nonce) else {
            return Ok(Vec::new());
        };
        let below = self.journal.steps_below(nonce)?;
        if below.is_empty() {
            return Ok(below);
        }
        let used = self.node.nonce(self.wallet()).await?;
        let mut blocking = Vec::new();
        for id in below {
            if self.journal.attempts(id)?.first().is_some_and(|it| it.nonce >= used) {
                blocking.push(id);
            }
        }
        Ok(blocking)
    }

    /// Replaces a transaction that nobody mines by one with the same nonce and a higher fee.
    async fn bump(&self, step: i64, urgent: bool) -> Result<(), ChainError> {
        let attempts = self.journal.attempts(step)?;
        let Some(newest) = attempts.first() else { return Ok(()) };
        let cap = self.fee_cap(urgent);
        let now = self.node.fees(cap).await?;
        let max_fee = now.max_fee.max(raised(newest.max_fee));
        if versions(&attempts) >= ATTEMPTS_MAX || max_fee > cap {
            tracing::warn!(hash = %newest.hash, "a transaction is stuck, and its fee is at our limit");
            self.send_again(&attempts).await;
            return Ok(());
        }
        if !self.send_again(&attempts).await {
            // What they refuse now they would refuse at a higher price.
            let (wallet, hash) = (self.wallet(), newest.hash);
            tracing::warn!(%wallet, %hash, "nodes refuse to raise a fee: has the wallet enough for gas?");
            return Ok(());
        }
        let tip = newest.tip.map(|tip| raised(tip).max(now.tip.unwrap_or(0)).min(max_fee));
        let fees = Fees { max_fee, tip, ..now };
        let call = self.journal.step(step)?.call;
        let attempt = self.sign(&call, newest.nonce, newest.gas, fees).await?;
        self.journal.sign(step, &attempt)?;
        tracing::info!(old = %newest.hash, new = %attempt.hash, max_fee, "fee raised");
        self.resend(step).await
    }

    /// The wallet has less than `needed`, in wei, or the nodes say so: they may count more than us.
    pub(super) async fn poor(&self, needed: U256) -> ChainError {
        let available = self.node.balance(self.wallet(), None).await.unwrap_or_default();
        ChainError::InsufficientFunds {
            of: "native currency for gas",
            wallet: self.wallet(),
            available,
            needed: needed.saturating_to::<u128>().max(available.saturating_add(1)),
        }
    }

    pub(super) fn request_of(&self, call: &Call) -> Value {
        let mut request = json!({ "from": self.wallet(), "data": call.data, "value": call.value });
        if let Some(target) = call.target {
            request["to"] = json!(target);
        }
        request
    }
}
