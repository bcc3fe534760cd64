//! The chain as an RPC endpoint tells it.

use alloy_primitives::Address;
use revm::context::result::ExecutionResult;
use sparewire_chain::{Call, contracts::reason_in_words};
use sparewire_core::{Amount, ChannelId};
use sparewire_protocol::{
    channel::{ChannelFacts, ChannelStatus},
    settlement::{Funds, Head},
};

use super::{Endpoint, Event, Lie, Logged, Receipt, SimChain, TxId, state::StateAt};

/// Which state is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The newest final block's.
    Final,
    /// The newest block's.
    Head,
}

/// Why an endpoint did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// It is down, or there is none of that number.
    #[error("the endpoint does not answer")]
    Unreachable,
    /// It wants fewer requests.
    #[error("too many requests")]
    RateLimited,
    /// It has no such block yet.
    #[error("unknown block")]
    UnknownBlock,
    /// Those that were asked contradict each other.
    #[error("the endpoints contradict each other")]
    Contradicted,
    /// The answer was lost on its way: what was submitted may have been passed on.
    #[error("the answer was lost")]
    AnswerLost,
}

/// One endpoint's view. Every method is one request, but for [`View::funds`], as nodes batch it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) chain: &'a SimChain,
    /// `None`: the truth, always there.
    pub(super) endpoint: Option<usize>,
}

impl<'a> View<'a> {
    /// What the chain says of a channel; `None` where it does not know it.
    pub fn channel(&self, id: ChannelId, tag: Tag) -> Result<Option<ChannelFacts>, RpcError> {
        Ok(self.twisted(self.state(tag)?.channel(id)))
    }

    /// The same at a block of this number.
    pub fn channel_at(&self, id: ChannelId, block: u64) -> Result<Option<ChannelFacts>, RpcError> {
        if block > self.asked()?.number {
            return Err(RpcError::UnknownBlock);
        }
        Ok(self.twisted(self.chain.state_at(block).channel(id)))
    }

    fn twisted(&self, facts: Option<ChannelFacts>) -> Option<ChannelFacts> {
        let facts = facts.filter(|_| !self.lies().any(|lie| *lie == Lie::NoChannels));
        facts.map(|facts| self.lies().fold(facts, |facts, lie| twist(facts, *lie)))
    }

    /// What is in a payer's deposit, in the token's smallest unit.
    pub fn deposit(&self, payer: Address, tag: Tag) -> Result<u128, RpcError> {
        Ok(self.state(tag)?.deposit(payer).saturating_add(self.false_deposit()))
    }

    /// What a payee was credited and not sent yet, in the token's smallest unit.
    pub fn claimable(&self, payee: Address, tag: Tag) -> Result<u128, RpcError> {
        Ok(self.state(tag)?.claimable(payee))
    }

    /// Tokens in a wallet, in the token's smallest unit.
    pub fn token_balance(&self, owner: Address, tag: Tag) -> Result<u128, RpcError> {
        Ok(self.state(tag)?.tokens(owner))
    }

    /// All that an owner has.
    pub fn funds(&self, owner: Address, tag: Tag) -> Result<Funds, RpcError> {
        let mut funds = self.state(tag)?.funds(owner);
        let more = funds.deposit.get().saturating_add(self.false_deposit());
        funds.deposit = Amount::new(more).unwrap_or(Amount::MAX);
        Ok(funds)
    }

    /// The nonce of an account's next transaction; what waits in the pool does not count.
    pub fn nonce(&self, address: Address, tag: Tag) -> Result<u64, RpcError> {
        let nonce = self.state(tag)?.account(address).nonce;
        Ok(if self.lies().any(|lie| *lie == Lie::NoNonces) { 0 } else { nonce })
    }

    /// Base fee of the newest block, in wei per gas.
    pub fn base_fee(&self) -> Result<u64, RpcError> {
        Ok(self.chain.block(self.asked()?.number).base_fee)
    }

    /// The newest block and the newest final one.
    pub fn head(&self) -> Result<Head, RpcError> {
        let mut head = self.asked()?;
        for lie in self.lies() {
            if let Lie::Ahead(blocks) = lie {
                head.number += blocks;
                head.final_number += blocks;
            }
        }
        Ok(head)
    }

    /// Time of the newest block, in seconds since the epoch.
    pub fn time(&self) -> Result<u64, RpcError> {
        Ok(self.asked()?.time_secs)
    }

    /// Number of the newest final block.
    pub fn final_block(&self) -> Result<u64, RpcError> {
        Ok(self.head()?.final_number)
    }

    /// The receipt of a transaction that is in a block.
    pub fn receipt(&self, id: TxId) -> Result<Option<Receipt>, RpcError> {
        let head = self.asked()?;
        let mut found = self.chain.find_receipt(id).filter(|found| found.block <= head.number);
        for lie in self.lies() {
            match lie {
                Lie::NoReceipts => found = None,
                Lie::NoFailures => {
                    if let Some(receipt) = &mut found {
                        (receipt.success, receipt.reason) = (true, None);
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Whether a transaction is in the pool or in a block.
    pub fn knows(&self, id: TxId) -> Result<bool, RpcError> {
        let mined = self.receipt(id)?.is_some();
        Ok(mined || self.chain.pool.values().any(|pending| pending.id == id))
    }

    /// The channel contract's events in the blocks after `since`, oldest first.
    pub fn logs(&self, since: u64, tag: Tag) -> Result<Vec<Logged>, RpcError> {
        let head = self.asked()?;
        let newest = match tag {
            Tag::Head => head.number,
            Tag::Final => head.final_number,
        };
        let hidden = |event: &Event| {
            self.lies().any(|lie| match lie {
                Lie::NeverClosing => {
                    matches!(event, Event::CloseStarted { .. } | Event::Closed { .. })
                }
                Lie::NoClaims => matches!(event, Event::Claimed { .. } | Event::Swept { .. }),
                _ => false,
            })
        };
        let blocks = self.chain.blocks_after(since, newest);
        let logs = blocks.flat_map(|block| &block.events).filter(|logged| !hidden(&logged.event));
        Ok(logs.copied().collect())
    }

    /// The gas limit with which a call succeeds on the newest state, or why it reverts, in words.
    pub fn estimate(&self, from: Address, call: &Call) -> Result<Result<u64, String>, RpcError> {
        let head = self.asked()?;
        let state = self.chain.state_at(head.number);
        let time_secs = head.time_secs + self.chain.weather.block_time_ms.div_ceil(1_000);
        Ok(match state.simulate(from, call, head.number + 1, time_secs) {
            // 1/64 stays behind at every call; refunds come only at the end.
            done @ ExecutionResult::Success { .. } => {
                Ok(done.gas().total_gas_spent() * 21 / 20 + 5_000)
            }
            ExecutionResult::Revert { output, .. } => Err(reason_in_words(&output)),
            ExecutionResult::Halt { reason, .. } => Err(reason.to_string()),
        })
    }

    /// Counts a request and tells what the endpoint takes for the head.
    fn asked(&self) -> Result<Head, RpcError> {
        let Some(endpoint) = self.endpoint else { return Ok(self.chain.head_behind(0)) };
        let behaviour = self.chain.answers(endpoint)?;
        let mut head = self.chain.head_behind(behaviour.lag);
        if behaviour.lies.contains(&Lie::HeadIsFinal) {
            head.final_number = head.number;
        }
        Ok(head)
    }

    pub(super) fn state(&self, tag: Tag) -> Result<StateAt<'a>, RpcError> {
        let head = self.asked()?;
        Ok(self.chain.state_at(match tag {
            Tag::Head => head.number,
            Tag::Final => head.final_number,
        }))
    }

    fn behaviour(&self) -> Option<&'a Endpoint> {
        self.chain.weather.endpoints.get(self.endpoint?)
    }

    fn lies(&self) -> impl Iterator<Item = &'a Lie> {
        self.behaviour().into_iter().flat_map(|endpoint| &endpoint.lies)
    }

    fn false_deposit(&self) -> u128 {
        self.lies().map(|lie| if let Lie::MoreDeposit(more) = lie { more.get() } else { 0 }).sum()
    }
}

fn twist(mut facts: ChannelFacts, lie: Lie) -> ChannelFacts {
    match lie {
        Lie::MoreReserved(more) => {
            facts.reserved = facts.reserved.checked_add(more).unwrap_or(Amount::MAX);
        }
        Lie::NeverClosing => facts.status = ChannelStatus::Open,
        Lie::NoClaims => facts.claimed = Amount::ZERO,
        _ => {}
    }
    facts
}
