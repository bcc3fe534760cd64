//! A party's transactions, one after the other, each followed until it is final.

use std::collections::VecDeque;

use sparewire_chain::Call;
use sparewire_core::{Address, Timestamp};
use sparewire_protocol::settlement::Intent;

use crate::chain::{Asks, SimChain, SubmitError, Transaction, TxId};

/// After how long an unmined transaction is sent again with a higher fee, in milliseconds.
const PATIENCE_MS: u64 = 40_000;
/// What the block builder gets, in wei per gas.
const TIP: u128 = 2_000_000_000;

/// What a purse wants done, and how far it is.
#[derive(Debug)]
pub struct Purse {
    /// Whose money.
    pub wallet: Address,
    /// Whom it asks about the chain.
    pub asks: Asks,
    wanted: VecDeque<Intent>,
    calls: VecDeque<Call>,
    /// The newest attempt, when it was made, and all of them: any may be mined.
    sent: Option<(Transaction, u64, Vec<TxId>)>,
    /// Calls that were reverted for good, and why.
    pub reverted: Vec<String>,
    /// Transactions that are final and succeeded.
    pub done: u64,
}

impl Purse {
    /// One with nothing to do.
    pub fn new(wallet: Address, asks: Asks) -> Self {
        Self {
            wallet,
            asks,
            wanted: VecDeque::new(),
            calls: VecDeque::new(),
            sent: None,
            reverted: Vec::new(),
            done: 0,
        }
    }

    /// Has something done, after what is under way.
    pub fn want(&mut self, intent: Intent) {
        self.wanted.push_back(intent);
    }

    /// Whether everything is final.
    pub fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.calls.is_empty() && self.sent.is_none()
    }

    /// The process died: what was only wanted is forgotten, what was sent is followed on (the
    /// journal is durable; it is tried in `sparewire-chain`).
    pub fn restart(&mut self) {
        self.wanted.clear();
    }

    /// Takes a step, where the endpoint answers. Called once for each block.
    pub fn tick(&mut self, chain: &mut SimChain, now: Timestamp) {
        if self.sent.is_some() {
            self.follow(chain, now);
        }
        if self.sent.is_none() {
            self.start(chain, now);
        }
    }

    fn follow(&mut self, chain: &mut SimChain, now: Timestamp) {
        let Some((transaction, since, mut ids)) = self.sent.clone() else { return };
        let view = chain.ask(self.asks);
        let receipts: Result<Vec<_>, _> = ids.iter().map(|id| view.receipt(*id)).collect();
        let (Ok(receipts), Ok(final_block)) = (receipts, view.final_block()) else { return };
        match receipts.into_iter().flatten().next() {
            Some(receipt) if receipt.block <= final_block => {
                if receipt.success {
                    self.done += 1;
                } else {
                    self.reverted.push(receipt.reason.unwrap_or_default());
                    self.calls.clear(); // what builds on it is not tried
                }
                self.sent = None;
            }
            Some(_) => {} // mined, and may still be taken back
            None if now.as_ms() >= since + PATIENCE_MS => {
                let Ok(base_fee) = view.base_fee() else { return };
                let mut next = transaction.bumped(15);
                next.max_fee = next.max_fee.max(2 * u128::from(base_fee) + next.priority_fee);
                match chain.submit_to(now, self.asks, &next) {
                    // Taken, or nobody knows: it may have been.
                    Ok(_) | Err(SubmitError::Rpc(_)) => {
                        ids.push(next.id());
                        self.sent = Some((next, now.as_ms(), ids));
                    }
                    // The one before was mined meanwhile, or the answer was lost: look again, and
                    // offer the one before again too, in case it was forgotten.
                    Err(SubmitError::NonceTooLow { .. }) => {}
                    Err(_) => {
                        let _ = chain.submit_to(now, self.asks, &transaction);
                    }
                }
            }
            None => {}
        }
    }

    fn start(&mut self, chain: &mut SimChain, now: Timestamp) {
        if self.calls.is_empty() {
            let Some(intent) = self.wanted.pop_front() else { return };
            self.calls = chain.calls(self.wallet, &intent).into();
        }
        let view = chain.ask(self.asks);
        let (Ok(nonce), Ok(base_fee)) = (view.nonce(self.wallet), view.base_fee()) else {
            return;
        };
        let Some(call) = self.calls.front().cloned() else { return };
        let max_fee = 2 * u128::from(base_fee) + TIP;
        let transaction = Transaction::new(self.wallet, nonce, call, max_fee, TIP);
        // Whatever the answer was, it may have been taken: from here on it is followed.
        match chain.submit_to(now, self.asks, &transaction) {
            Ok(_) | Err(SubmitError::Rpc(_)) => {
                self.calls.pop_front();
                let id = transaction.id();
                self.sent = Some((transaction, now.as_ms(), vec![id]));
            }
            Err(_) => {} // a stale nonce: again with the next block
        }
    }
}
