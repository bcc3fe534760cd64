//! Settlement: from what a channel is worth to what is asked of the chain. Fifth station of the
//! river. The chain itself stands behind the [`Chain`] trait; its facts come back as inputs.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sparewire_core::{
    Address, Amount, B256, ChannelId, Domain, NodeId, Signature, Signed, Timestamp,
};

pub use crate::claiming::{NativePrice, Occasion, SettlePolicy, Verdict, Waiting, Weighed};
use crate::{
    appointment::Appointment,
    channel::{ChannelConfig, ChannelFacts, Claim, Delegation, Revocation},
    stake::{BondFacts, Contradiction},
};

/// Something that we want the chain to do. It is durable before a transaction is sent for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Puts tokens of our wallet into our deposit (with the allowance that this needs).
    Deposit {
        /// The token.
        token: Address,
        /// How much.
        amount: Amount,
    },
    /// Takes tokens out of our deposit, back into our wallet.
    Withdraw {
        /// The token.
        token: Address,
        /// How much.
        amount: Amount,
    },
    /// Opens channels out of our deposit.
    Open {
        /// Each channel and what is put aside for it.
        channels: Vec<(ChannelConfig, Amount)>,
    },
    /// Puts more aside for an open channel.
    TopUp {
        /// The channel.
        config: ChannelConfig,
        /// How much more.
        amount: Amount,
    },
    /// Credits vouchers to their payee and pays out, in as few transactions as their groups allow.
    Claim {
        /// The vouchers.
        claims: Vec<Claim>,
    },
    /// Ends a channel at once, with the payee side's agreement.
    CloseCooperatively {
        /// The newest voucher.
        claim: Claim,
        /// The payee authorizer's signature of the [`crate::channel::CooperativeClose`].
        payee_signature: Signature,
    },
    /// Ends channels that we pay at once, with their payees' agreement, and opens others out of
    /// what comes back: all of it in one transaction, or nothing. So channels move to another key.
    Move {
        /// The newest voucher of each, and its payee authorizer's signature of the
        /// [`crate::channel::CooperativeClose`].
        closes: Vec<(Claim, Signature)>,
        /// Each new channel and what is put aside for it.
        opens: Vec<(ChannelConfig, Amount)>,
    },
    /// Starts a unilateral close of a channel that we pay.
    StartClose {
        /// The channel.
        config: ChannelConfig,
    },
    /// Ends a unilateral close whose delay is over; the rest returns to the payer's deposit.
    FinishClose {
        /// The channel.
        config: ChannelConfig,
    },
    /// Pays out what is claimed but not yet swept.
    Sweep {
        /// Who is paid.
        payee: Address,
        /// In which token.
        token: Address,
    },
    /// Claims for a payee who sleeps, through the contract that pays our wallet the reward that is
    /// bound to it.
    Defend {
        /// The contract that holds the reward.
        towers: Address,
        /// The newest voucher.
        claim: Box<Claim>,
        /// What the payee's side promised.
        appointment: Signed<Appointment>,
    },
    /// Collects the reward of a channel that we defended, and ends its close if it can be ended.
    CollectReward {
        /// The contract that holds it.
        towers: Address,
        /// The channel.
        config: ChannelConfig,
    },
    /// Puts tokens of our wallet aside for rewards (with the allowance that this needs).
    DepositReward {
        /// The contract that holds them.
        towers: Address,
        /// Whose they are from then on: the payee of the channels that are defended.
        payee: Address,
        /// Whose appointments they back: our authorizer's.
        authorizer: Address,
        /// The token.
        token: Address,
        /// How much.
        amount: Amount,
    },
    /// Announces that reward money is taken back: towers are given notice.
    AnnounceRewardWithdrawal {
        /// The contract that holds it.
        towers: Address,
        /// Whose appointments it backs.
        authorizer: Address,
        /// The token.
        token: Address,
        /// How much; zero takes an announcement back.
        amount: Amount,
    },
    /// Takes back what was announced, once the notice is over.
    WithdrawReward {
        /// The contract that holds it.
        towers: Address,
        /// Whose appointments it backed.
        authorizer: Address,
        /// The token.
        token: Address,
    },
    /// Makes our wallet's word for a device and an authorizer public in the registry of keys.
    Register {
        /// The registry.
        keys: Address,
        /// What our wallet says.
        delegation: Delegation,
    },
    /// Revokes an authorizer of our wallet in the registry, and makes public who takes over.
    Rotate {
        /// The registry.
        keys: Address,
        /// The authorizer that is revoked.
        revoked: Address,
        /// What our wallet says of the next one.
        delegation: Delegation,
    },
    /// Revokes keys of our wallet in the registry, for good.
    Revoke {
        /// The registry.
        keys: Address,
        /// The device; `None` leaves devices alone.
        device: Option<NodeId>,
        /// The authorizer; `None` leaves authorizers alone.
        authorizer: Option<Address>,
    },
    /// Brings a wallet's delegation to the registry, whoever's it is.
    RegisterFor {
        /// The registry.
        keys: Address,
        /// What the wallet signed, in the domain of the channel contract.
        delegation: Signed<Delegation>,
    },
    /// Brings a wallet's revocation to the registry, whoever's it is.
    RevokeFor {
        /// The registry.
        keys: Address,
        /// What the wallet signed, in the registry's domain.
        revocation: Signed<Revocation>,
    },
    /// Says in the registry how much our wallet's channels that name an authorizer are to hold
    /// together.
    SetCap {
        /// The registry.
        keys: Address,
        /// The authorizer.
        authorizer: Address,
        /// The token.
        token: Address,
        /// The most, in the token's smallest unit.
        cap: Amount,
    },
    /// Puts tokens of our wallet at stake (with the allowance that this needs).
    Bond {
        /// The contract that holds them.
        stake: Address,
        /// Whose they are from then on: the wallet that answers for what its authorizer signs.
        holder: Address,
        /// The token.
        token: Address,
        /// How much.
        amount: Amount,
    },
    /// Announces that our bond, or a part of it, is to leave; the notice begins anew.
    AnnounceLeaving {
        /// The contract that holds it.
        stake: Address,
        /// How much; zero takes an announcement back.
        amount: Amount,
    },
    /// Takes back what was announced, once the notice is over.
    Unbond {
        /// The contract that held it.
        stake: Address,
    },
    /// Commits us to a report, so that nobody takes its reward by copying it.
    CommitReport {
        /// The contract that holds the bond.
        stake: Address,
        /// See [`Contradiction::commitment`].
        commitment: B256,
    },
    /// Shows the contract that a provider signed two receipts with one number: its bond is slashed.
    ReportReceipts {
        /// The contract that holds the bond.
        stake: Address,
        /// The evidence.
        contradiction: Box<Contradiction>,
        /// That of our commitment.
        salt: B256,
    },
}

impl Intent {
    /// A word for logs, tables and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Deposit { .. } => "deposit",
            Self::Withdraw { .. } => "withdraw",
            Self::Open { .. } => "open",
            Self::TopUp { .. } => "top_up",
            Self::Claim { .. } => "claim",
            Self::CloseCooperatively { .. } => "close_cooperatively",
            Self::Move { .. } => "move",
            Self::StartClose { .. } => "start_close",
            Self::FinishClose { .. } => "finish_close",
            Self::Sweep { .. } => "sweep",
            Self::Defend { .. } => "defend",
            Self::CollectReward { .. } => "collect_reward",
            Self::DepositReward { .. } => "deposit_reward",
            Self::AnnounceRewardWithdrawal { .. } => "announce_reward_withdrawal",
            Self::WithdrawReward { .. } => "withdraw_reward",
            Self::Register { .. } => "register",
            Self::Rotate { .. } => "rotate",
            Self::Revoke { .. } => "revoke",
            Self::RegisterFor { .. } => "register_for",
            Self::RevokeFor { .. } => "revoke_for",
            Self::SetCap { .. } => "set_cap",
            Self::Bond { .. } => "bond",
            Self::AnnounceLeaving { .. } => "announce_leaving",
            Self::Unbond { .. } => "unbond",
            Self::CommitReport { .. } => "commit_report",
            Self::ReportReceipts { .. } => "report_receipts",
        }
    }
}

/// What became of an intent: final, and what it cost. An intent may take several transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The transactions that carried it out, in order; empty where nothing was left to do.
    pub transactions: Vec<TransactionSummary>,
}

impl Outcome {
    /// Gas used by all of them.
    pub fn gas_used(&self) -> u64 {
        self.transactions.iter().map(|transaction| transaction.gas_used).sum()
    }
}

/// A final transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionSummary {
    /// Its hash.
    pub hash: B256,
    /// The block that holds it.
    pub block: u64,
    /// Gas used.
    pub gas_used: u64,
    /// What the gas cost in the chain's native currency, in wei.
    pub fee_wei: u128,
}

/// What an intent would cost now, told before anything is signed. Prices move: what it costs in the
/// end is between nothing (somebody else did it) and `fee_wei_max`, while nobody has to raise a fee.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Transactions that are left to do; 0 where the chain shows the intent as done.
    pub transactions: usize,
    /// Gas that they are estimated to use, together.
    pub gas: u64,
    /// What they cost at the present price of gas, in wei, with what a rollup adds for their data.
    pub fee_wei: u128,
    /// The most that they cost as they would be signed, in wei: their gas limits at their fee caps,
    /// and twice the present price of their data. At least `fee_wei`.
    pub fee_wei_max: u128,
    /// The part of `fee_wei` that a rollup takes for data beside the price of gas, in wei. It is 0
    /// on chains without such a fee, and on those that count it in gas (Arbitrum).
    pub data_fee_wei: u128,
}

impl Quote {
    /// What both take together.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            transactions: self.transactions.saturating_add(other.transactions),
            gas: self.gas.saturating_add(other.gas),
            fee_wei: self.fee_wei.saturating_add(other.fee_wei),
            fee_wei_max: self.fee_wei_max.saturating_add(other.fee_wei_max),
            data_fee_wei: self.data_fee_wei.saturating_add(other.data_fee_wei),
        }
    }
}

/// The chain's newest block, and the newest one that money may be built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the newest block.
    pub number: u64,
    /// Its time in seconds since the epoch.
    pub time_secs: u64,
    /// Number of the newest block that counts as final.
    pub final_number: u64,
}

/// What the registry of keys says of a device and an authorizer that act for a wallet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing: the delegation that they show decides.
    #[default]
    Unknown,
    /// They act for it while the registered delegation lasts.
    Registered,
    /// What was registered is over; a newer delegation that they show may count.
    Expired,
    /// One of the two never counts again.
    Revoked,
}

/// What an owner has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funds {
    /// Native currency for gas, in wei.
    pub native_wei: u128,
    /// Tokens in the wallet.
    pub wallet: u128,
    /// Tokens in the deposit, free to open channels with.
    pub deposit: Amount,
    /// Tokens claimed and not yet paid out.
    pub claimable: Amount,
}

/// What the contract that holds rewards says of a channel and of who pays for its defence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardFacts {
    /// Reward money that cannot be taken back before the contract's notice is over. Rewards of
    /// other channels may use it up.
    pub covered: Amount,
    /// Reward money in all, what is announced for withdrawal included.
    pub balance: Amount,
    /// When what is announced may be withdrawn, in seconds of block time; zero where nothing is.
    pub withdrawal_due_secs: u64,
    /// Who defended the channel last and waits for the reward.
    pub defender: Option<Address>,
}

/// How a token is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// The contract.
    pub address: Address,
    /// Its symbol, at most 32 characters, control characters removed.
    pub symbol: String,
    /// Its decimals.
    pub decimals: u8,
}

/// A close that its payer has started and nobody has finished, as logs tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedClose {
    /// The channel.
    pub channel: ChannelId,
    /// Block time in seconds from which anybody can finish it.
    pub finish_at_secs: u64,
}

/// An EVM chain with the channel contract on it, seen by one wallet.
///
/// Facts are of final state: what a reorganisation can still undo is not told. Calls may take as
/// long as the chain takes; every implementation bounds how long it waits for one answer.
#[async_trait]
pub trait Chain: Send + Sync {
    /// The chain id and the channel contract.
    fn domain(&self) -> Domain;

    /// The wallet that sends our transactions.
    fn wallet(&self) -> Address;

    /// The newest block.
    async fn head(&self) -> Result<Head, ChainError>;

    /// What final state says of a channel; `None` where it does not know it.
    async fn channel(&self, id: ChannelId) -> Result<Option<ChannelFacts>, ChainError>;

    /// The same of several channels, in their order, in as few requests as the chain allows.
    async fn channels(&self, ids: &[ChannelId]) -> Result<Vec<Option<ChannelFacts>>, ChainError> {
        let mut facts = Vec::with_capacity(ids.len());
        for id in ids {
            facts.push(self.channel(*id).await?);
        }
        Ok(facts)
    }

    /// Closes of channels to `payee` that were started and are not finished, told by logs and
    /// sooner than they are final: where to look first. `None` where no logs are followed. Logs can
    /// be left out and a start that is not final can be undone, so that this is no fact: whoever
    /// must not miss one also asks [`Chain::channels`] in time.
    async fn closes_started(
        &self,
        _payee: Address,
    ) -> Result<Option<Vec<StartedClose>>, ChainError> {
        Ok(None)
    }

    /// What `owner` has of `token`.
    async fn funds(&self, owner: Address, token: Address) -> Result<Funds, ChainError>;

    /// How `token` is shown.
    async fn token(&self, token: Address) -> Result<TokenInfo, ChainError>;

    /// What the rest of `intent` would cost, estimated on the newest state. Writes and sends nothing.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] where the contract would refuse it.
    async fn quote(&self, intent: &Intent) -> Result<Quote, ChainError>;

    /// What the newest state of the registry `keys` says of the keys that a delegation names: a
    /// revocation counts from the block on that has it.
    ///
    /// # Errors
    /// [`ChainError::NoRegistry`] where there is no contract at `keys`.
    async fn standing(
        &self,
        keys: Address,
        delegation: &Delegation,
    ) -> Result<Standing, ChainError> {
        let _ = (keys, delegation);
        Ok(Standing::Unknown)
    }

    /// How much, by the newest state of the registry `keys`, the channels of `wallet` that name
    /// `authorizer` are to hold together of `token`; `None` where the wallet never said.
    ///
    /// # Errors
    /// [`ChainError::NoRegistry`] where there is no contract at `keys`.
    async fn cap(
        &self,
        keys: Address,
        wallet: Address,
        authorizer: Address,
        token: Address,
    ) -> Result<Option<Amount>, ChainError> {
        let _ = (keys, wallet, authorizer, token);
        Ok(None)
    }

    /// What final state of the contract `towers` says of the channel of `config` and of its payee's
    /// reward money in `reward_token`. A chain that knows no such contract has nothing to say.
    async fn reward(
        &self,
        towers: Address,
        config: &ChannelConfig,
        reward_token: Address,
    ) -> Result<RewardFacts, ChainError> {
        let _ = (towers, config, reward_token);
        Ok(RewardFacts::default())
    }

    /// When we last began to claim something, by our own clock; `None` where we never did, or nobody
    /// remembers.
    async fn last_claim(&self) -> Result<Option<Timestamp>, ChainError> {
        Ok(None)
    }

    /// What final state of the contract `stake` says of what `holder` has bonded there.
    ///
    /// # Errors
    /// [`ChainError::NoStake`] where final state has no contract at `stake`.
    async fn bond(&self, stake: Address, holder: Address) -> Result<BondFacts, ChainError> {
        let _ = holder;
        Err(ChainError::NoStake { stake, chain_id: self.domain().chain_id })
    }

    /// Carries `intent` out and returns when it is final. The intent is durable before its
    /// transaction is sent; a call that is cut off goes on at [`Chain::resume`].
    async fn perform(&self, intent: &Intent) -> Result<Outcome, ChainError>;

    /// Follows what an earlier process left unfinished until it is final; returns how many
    /// transactions that were.
    async fn resume(&self) -> Result<usize, ChainError>;
}

/// Why the chain did not do, or did not tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No answer, or none in time. Nothing is lost; try again when the node is back.
    #[error(
        "chain node at {endpoint} does not answer ({reason}); check --rpc and that the node is up"
    )]
    Unreachable {
        /// Which node.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The node is on another chain than we were set up for.
    #[error("chain node is on chain {actual}, but this data directory belongs to chain {expected}")]
    WrongChain {
        /// Our chain id.
        expected: u64,
        /// Its chain id.
        actual: u64,
    },
    /// There is no channel contract of ours where there should be one.
    #[error("no channel contract at {contract} on chain {chain_id}; check [chain] contract")]
    NoContract {
        /// Where we looked.
        contract: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// There is no registry of keys where there should be one: nobody can tell what is revoked.
    #[error("no registry of keys at {keys} on chain {chain_id}; check [chain] keys")]
    NoRegistry {
        /// Where we looked.
        keys: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// There is no stake contract where there should be one.
    #[error("no stake contract at {stake} on chain {chain_id}; check [chain] stake")]
    NoStake {
        /// Where we looked.
        stake: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// The transaction would revert, or did.
    #[error("{what} was refused by the contract: {reason}")]
    Reverted {
        /// The intent.
        what: &'static str,
        /// The revert reason in words.
        reason: String,
    },
    /// Not enough tokens or gas money.
    #[error("not enough {of} in {wallet}: {available} of {needed} (smallest units)")]
    InsufficientFunds {
        /// `tokens` or `native currency for gas`.
        of: &'static str,
        /// Whose.
        wallet: Address,
        /// What is there.
        available: u128,
        /// What it takes.
        needed: u128,
    },
    /// The wallet's key did not sign.
    #[error(transparent)]
    Signer(#[from] sparewire_core::SignerError),
    /// The record of transactions could not be read or written; what is not in it was not sent.
    #[error("the transaction journal failed ({reason}); nothing was sent that is not in it")]
    Journal {
        /// What went wrong.
        reason: String,
    },
    /// The node answered with something that makes no sense.
    #[error("chain node at {endpoint} answered nonsense: {reason}")]
    Nonsense {
        /// Which node.
        endpoint: String,
        /// What was wrong with it.
        reason: String,
    },
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} (final: {})", self.number, self.final_number)
    }
}
