//! From intents to contract calls: what there is left to do, checked against final facts first.

use alloy_primitives::{Address, B256, Bytes, U256, aliases::U40, keccak256};
use alloy_sol_types::SolCall;
use sparewire_core::{Amount, Signature};
use sparewire_protocol::{
    channel::{ChannelConfig, ChannelFacts, ChannelStatus, Claim, Delegation, Revocation},
    settlement::{Chain, ChainError, Intent},
};

use super::{
    Allowance, EvmChain,
    batch::{CLAIMS_MAX, claim_calls},
    follow::Plan,
    stake::stake_calls,
};
use crate::{
    contracts::{Channels, Keys, KeysDelegation, TestToken, Towers},
    journal::Call,
};

/// Most channels that one transaction opens: about 60,000 gas each.
const OPENS_MAX: usize = 100;

impl EvmChain {
    /// What identifies an intent: asked for again while it is unfinished, it is the same one.
    pub(super) fn digest_of(&self, intent: &Intent) -> B256 {
        let mut bytes = intent.kind().as_bytes().to_vec();
        for call in self.all_calls(intent) {
            // The same words to another contract ask for something else.
            bytes.extend_from_slice(call.target.unwrap_or_default().as_slice());
            bytes.extend_from_slice(&call.value.to_be_bytes::<32>());
            bytes.extend_from_slice(&(call.data.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&call.data);
        }
        keccak256(bytes)
    }

    /// What is left to do for an intent, and whether it is urgent.
    pub(super) async fn plan_for(&self, intent: &Intent) -> Result<Plan, ChainError> {
        let over = async |config: &ChannelConfig, over: fn(ChannelStatus) -> bool| {
            let facts = self.channel(config.id(&self.domain())).await?;
            let nothing = facts.is_some_and(|facts| over(facts.status));
            Ok::<_, ChainError>(if nothing { Vec::new() } else { self.all_calls(intent) })
        };
        let closed = |status| status == ChannelStatus::Closed;
        let calls = match intent {
            Intent::Deposit { token, amount } => self.deposit_calls(*token, *amount).await?,
            Intent::Open { channels } => {
                let left = self.unopened(channels).await?;
                self.all_calls(&Intent::Open { channels: left })
            }
            Intent::Claim { claims } => {
                let (left, urgent) = self.unclaimed(claims).await?;
                let calls = self.fewest_claim_calls(&left).await?;
                return Ok(Plan { calls, urgent });
            }
            Intent::CloseCooperatively { claim, .. } => over(&claim.config, closed).await?,
            Intent::Move { closes, opens } => {
                let left = self.unmoved(closes, opens).await?;
                self.all_calls(&left)
            }
            Intent::StartClose { config } => {
                over(config, |status| status != ChannelStatus::Open).await?
            }
            Intent::FinishClose { config } => over(config, closed).await?,
            Intent::Sweep { payee, token } => {
                let funds = self.funds(*payee, *token).await?;
                let nothing = funds.claimable == Amount::ZERO;
                if nothing { Vec::new() } else { self.all_calls(intent) }
            }
            Intent::Defend { claim, .. } => {
                let facts = self.channel(claim.config.id(&self.domain())).await?;
                // The contract takes a defence only while the channel is closing.
                let due = facts.is_some_and(|facts| {
                    matches!(facts.status, ChannelStatus::Closing { .. })
                        && facts.claimed < claim.amount
                });
                if due { self.all_calls(intent) } else { Vec::new() }
            }
            Intent::CollectReward { towers, config } => {
                let facts = self.reward(*towers, config, config.token).await?;
                let ours = facts.defender == Some(self.wallet());
                if ours { self.all_calls(intent) } else { Vec::new() }
            }
            Intent::DepositReward { towers, token, amount, .. } => {
                let mut calls = self.approvals(*token, *towers, *amount).await?;
                calls.extend(self.all_calls(intent));
                calls
            }
            Intent::Withdraw { .. }
            | Intent::TopUp { .. }
            | Intent::AnnounceRewardWithdrawal { .. }
            | Intent::WithdrawReward { .. } => self.all_calls(intent),
            Intent::Register { keys, .. }
            | Intent::Revoke { keys, .. }
            | Intent::RegisterFor { keys, .. }
            | Intent::RevokeFor { keys, .. }
            | Intent::Rotate { keys, .. }
            | Intent::SetCap { keys, .. } => {
                self.require_registry(*keys, self.follower.node.newest().await?).await?;
                self.all_calls(intent)
            }
            Intent::Bond { .. }
            | Intent::AnnounceLeaving { .. }
            | Intent::Unbond { .. }
            | Intent::CommitReport { .. }
            | Intent::ReportReceipts { .. } => self.stake_plan(intent).await?,
        };
        Ok(Plan { calls, urgent: cannot_wait(intent) })
    }

    /// Whether an intent that is under way has become urgent.
    pub(super) async fn is_urgent(&self, intent: &Intent) -> Result<bool, ChainError> {
        match intent {
            Intent::Claim { claims } => Ok(self.unclaimed(claims).await?.1),
            _ => Ok(cannot_wait(intent)),
        }
    }

    /// The calls of an intent of which nothing is done yet.
    pub(super) fn all_calls(&self, intent: &Intent) -> Vec<Call> {
        calls_of(self.domain().contract, self.wallet(), intent)
    }

    async fn deposit_calls(&self, token: Address, amount: Amount) -> Result<Vec<Call>, ChainError> {
        let mut calls = self.approvals(token, self.domain().contract, amount).await?;
        calls.extend(self.all_calls(&Intent::Deposit { token, amount }));
        Ok(calls)
    }

    /// What lets `spender` draw `amount` of our wallet's `token`, where it cannot yet.
    pub(super) async fn approvals(
        &self,
        token: Address,
        spender: Address,
        amount: Amount,
    ) -> Result<Vec<Call>, ChainError> {
        let wallet = self.wallet();
        let funds = self.funds(wallet, token).await?;
        if funds.wallet < amount.get() {
            return Err(ChainError::InsufficientFunds {
                of: "tokens",
                wallet,
                available: funds.wallet,
                needed: amount.get(),
            });
        }
        let approve = |value| approval(token, spender, value);
        let allowance =
            self.read_newest(token, TestToken::allowanceCall { owner: wallet, spender }).await?;
        let needed = U256::from(amount.get());
        let mut calls = Vec::new();
        if allowance < needed {
            if !allowance.is_zero() {
                // Some tokens (USDT) change an allowance only from or to zero.
                calls.push(approve(U256::ZERO));
            }
            calls.push(approve(match self.policy().allowance {
                Allowance::Exact => needed,
                Allowance::Unlimited => U256::MAX,
            }));
        }
        Ok(calls)
    }

    /// The channels that final state does not know yet.
    async fn unopened(
        &self,
        channels: &[(ChannelConfig, Amount)],
    ) -> Result<Vec<(ChannelConfig, Amount)>, ChainError> {
        let domain = self.domain();
        let ids: Vec<_> = channels.iter().map(|(config, _)| config.id(&domain)).collect();
        let facts = self.channels(&ids).await?;
        let looked =
            channels.iter().zip(facts).map(|((config, amount), facts)| (*config, *amount, facts));
        // One that is open with as much in it is what was asked for; any other makes the call
        // revert, in words.
        let left = looked.filter(|(_, amount, facts)| {
            !facts.is_some_and(|facts| {
                facts.status == ChannelStatus::Open && facts.reserved >= *amount
            })
        });
        Ok(left.map(|(config, amount, _)| (config, amount)).collect())
    }

    /// What is left of a move: anybody who holds both signatures can have closed a channel of it by
    /// itself, which would make the whole call revert.
    async fn unmoved(
        &self,
        closes: &[(Claim, Signature)],
        opens: &[(ChannelConfig, Amount)],
    ) -> Result<Intent, ChainError> {
        let domain = self.domain();
        let ids: Vec<_> = closes.iter().map(|(claim, _)| claim.config.id(&domain)).collect();
        let looked = closes.iter().zip(self.channels(&ids).await?);
        let left = looked
            .filter(|(_, facts)| !facts.is_some_and(|facts| facts.status == ChannelStatus::Closed));
        let closes = left.map(|(close, _)| *close).collect();
        Ok(Intent::Move { closes, opens: self.unopened(opens).await? })
    }

    /// The claims that would still credit something, and whether a payer of them is leaving.
    async fn unclaimed(&self, claims: &[Claim]) -> Result<(Vec<Claim>, bool), ChainError> {
        let domain = self.domain();
        let ids: Vec<_> = claims.iter().map(|claim| claim.config.id(&domain)).collect();
        let looked = claims.iter().copied().zip(self.channels(&ids).await?);
        let left = looked.filter(|(claim, facts)| {
            !facts.is_some_and(|facts| {
                facts.status == ChannelStatus::Closed || facts.claimed >= claim.amount
            })
        });
        let left: Vec<_> = left.collect();
        let leaving = |facts: &Option<ChannelFacts>| {
            facts.is_some_and(|facts| matches!(facts.status, ChannelStatus::Closing { .. }))
        };
        let urgent = left.iter().any(|(_, facts)| leaving(facts));
        Ok((left.into_iter().map(|(claim, _)| claim).collect(), urgent))
    }
}

/// Whether an intent is urgent whenever it is asked for: the end of our own leaving, a defence, which
/// is asked for only while a payer leaves, and a revocation. A claim is while its payer leaves.
fn cannot_wait(intent: &Intent) -> bool {
    matches!(
        intent,
        Intent::FinishClose { .. }
            | Intent::Defend { .. }
            | Intent::Revoke { .. }
            | Intent::RevokeFor { .. }
            | Intent::Rotate { .. }
    )
}

/// The calls that carry out the whole of `wallet`'s intent, in order: to the channel contract, or
/// to the one that the intent names. A deposit also needs an [`approval`] before it.
pub fn calls_of(contract: Address, wallet: Address, intent: &Intent) -> Vec<Call> {
    let call =
        |data: Vec<u8>| Call { target: Some(contract), data: data.into(), value: U256::ZERO };
    let one = |data| vec![call(data)];
    match intent {
        Intent::Deposit { token, amount } => {
            one(Channels::depositCall::new((*token, amount.get())).abi_encode())
        }
        Intent::Withdraw { token, amount } => {
            one(Channels::withdrawCall::new((*token, amount.get(), wallet)).abi_encode())
        }
        Intent::Open { channels } => {
            channels.chunks(OPENS_MAX).map(|chunk| call(open_data(chunk))).collect()
        }
        Intent::TopUp { config, amount } => {
            let amount = amount.get();
            one(Channels::topUpCall::new((config_of(config), amount)).abi_encode())
        }
        Intent::Claim { claims } => claim_calls(contract, claims, CLAIMS_MAX),
        Intent::CloseCooperatively { claim, payee_signature } => {
            one(close_data(claim, *payee_signature))
        }
        Intent::Move { closes, opens } => {
            let mut parts: Vec<Bytes> =
                closes.iter().map(|(claim, agreed)| close_data(claim, *agreed).into()).collect();
            parts.extend(opens.chunks(OPENS_MAX).map(|chunk| open_data(chunk).into()));
            match parts.is_empty() {
                true => Vec::new(),
                false => one(Channels::multicallCall::new((parts,)).abi_encode()),
            }
        }
        Intent::StartClose { config } => {
            one(Channels::startCloseCall::new((config_of(config),)).abi_encode())
        }
        Intent::FinishClose { config } => {
            one(Channels::finishCloseCall::new((config_of(config),)).abi_encode())
        }
        Intent::Sweep { payee, token } => {
            one(Channels::sweepCall::new((*payee, *token)).abi_encode())
        }
        Intent::Defend { .. }
        | Intent::CollectReward { .. }
        | Intent::DepositReward { .. }
        | Intent::AnnounceRewardWithdrawal { .. }
        | Intent::WithdrawReward { .. } => reward_calls(wallet, intent),
        Intent::Register { keys, delegation } => {
            let call = Keys::registerCall::new((delegation_of(delegation),));
            key_call(*keys, call.abi_encode())
        }
        Intent::RegisterFor { keys, delegation } => {
            let signature = delegation.signature.to_bytes().into();
            let call = Keys::registerForCall::new((delegation_of(&delegation.body), signature));
            key_call(*keys, call.abi_encode())
        }
        Intent::RevokeFor { keys, revocation } => {
            let Revocation { wallet, device, authorizer, deadline_secs } = revocation.body;
            let (deadline, signature) =
                (U256::from(deadline_secs), revocation.signature.to_bytes().into());
            let call =
                Keys::revokeForCall::new((wallet, device.0, authorizer, deadline, signature));
            key_call(*keys, call.abi_encode())
        }
        Intent::Rotate { keys, revoked, delegation } => {
            let call = Keys::rotateCall::new((B256::ZERO, *revoked, delegation_of(delegation)));
            key_call(*keys, call.abi_encode())
        }
        Intent::Revoke { keys, device, authorizer } => {
            let device = device.unwrap_or_default().0;
            let authorizer = authorizer.unwrap_or_default();
            key_call(*keys, Keys::revokeCall::new((device, authorizer)).abi_encode())
        }
        Intent::SetCap { keys, authorizer, token, cap } => {
            // What no channel can hold is no limit: the contract's caps have 104 bits.
            let cap = alloy_primitives::aliases::U104::saturating_from(cap.get());
            key_call(*keys, Keys::setCapCall::new((*authorizer, *token, cap)).abi_encode())
        }
        Intent::Bond { .. }
        | Intent::AnnounceLeaving { .. }
        | Intent::Unbond { .. }
        | Intent::CommitReport { .. }
        | Intent::ReportReceipts { .. } => stake_calls(wallet, intent),
    }
}

/// The data of a call that opens channels.
fn open_data(channels: &[(ChannelConfig, Amount)]) -> Vec<u8> {
    if let [(config, amount)] = channels {
        return Channels::openCall::new((config_of(config), amount.get())).abi_encode();
    }
    let configs = channels.iter().map(|(config, _)| config_of(config));
    let amounts = channels.iter().map(|(_, amount)| amount.get());
    Channels::openBatchCall::new((configs.collect(), amounts.collect())).abi_encode()
}

/// The data of a call that closes a channel with its payee's agreement.
fn close_data(claim: &Claim, payee_signature: Signature) -> Vec<u8> {
    let last = Channels::Claim {
        config: config_of(&claim.config),
        amount: claim.amount.get(),
        signature: claim.signature.to_bytes().into(),
    };
    let agreed = payee_signature.to_bytes().into();
    Channels::closeCooperativelyCall::new((last, agreed)).abi_encode()
}

fn delegation_of(delegation: &Delegation) -> KeysDelegation {
    KeysDelegation {
        wallet: delegation.wallet,
        device: delegation.device.0,
        authorizer: delegation.authorizer,
        expiry: delegation.expiry_secs,
    }
}

fn key_call(keys: Address, data: Vec<u8>) -> Vec<Call> {
    vec![Call { target: Some(keys), data: data.into(), value: U256::ZERO }]
}

/// The calls to the contract that holds watchtowers' rewards.
fn reward_calls(wallet: Address, intent: &Intent) -> Vec<Call> {
    let (towers, data) = match intent {
        Intent::Defend { towers, claim, appointment } => {
            let promise = &appointment.body;
            let claim = Towers::Claim {
                config: config_of(&claim.config),
                amount: claim.amount.get(),
                signature: claim.signature.to_bytes().into(),
            };
            let promise = Towers::Appointment {
                channelId: promise.channel.0,
                amount: promise.amount.get(),
                payee: promise.payee,
                token: promise.token,
                reward: promise.reward.get(),
                expiry: promise.expiry_secs,
            };
            let signature = appointment.signature.to_bytes().into();
            (towers, Towers::defendCall::new((claim, promise, signature, wallet)).abi_encode())
        }
        Intent::CollectReward { towers, config } => {
            (towers, Towers::collectCall::new((config_of(config),)).abi_encode())
        }
        Intent::DepositReward { towers, payee, authorizer, token, amount } => {
            let money = (*payee, *authorizer, *token, amount.get());
            (towers, Towers::depositCall::new(money).abi_encode())
        }
        Intent::AnnounceRewardWithdrawal { towers, authorizer, token, amount } => {
            let money = (*authorizer, *token, amount.get());
            (towers, Towers::announceWithdrawalCall::new(money).abi_encode())
        }
        Intent::WithdrawReward { towers, authorizer, token } => {
            (towers, Towers::withdrawCall::new((*authorizer, *token, wallet)).abi_encode())
        }
        _ => return Vec::new(),
    };
    vec![Call { target: Some(*towers), data: data.into(), value: U256::ZERO }]
}

/// The call that lets `spender` draw up to `value` of the sender's `token`.
pub fn approval(token: Address, spender: Address, value: U256) -> Call {
    let data = TestToken::approveCall { spender, value }.abi_encode();
    Call { target: Some(token), data: data.into(), value: U256::ZERO }
}

/// The configuration as contracts' ABIs have it, each in its own type.
pub(super) fn config_of<C: From<ConfigWords>>(config: &ChannelConfig) -> C {
    C::from((
        config.payer,
        config.payer_authorizer,
        config.payee,
        config.payee_authorizer,
        config.token,
        U40::from(config.withdraw_delay_secs),
        B256::from(U256::from(config.salt)),
    ))
}

/// What a configuration is in all of them: payer, its authorizer, payee, its authorizer, token,
/// withdraw delay in seconds, salt.
type ConfigWords = (Address, Address, Address, Address, Address, U40, B256);
