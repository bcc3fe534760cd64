//! The carrier: [`Chain`] over any EVM node, or several, with transactions that are followed until
//! final.

mod batch;
mod deploy;
mod follow;
pub(crate) mod logs;
pub(crate) mod many;
mod node;
mod nodes;
mod plan;
mod quorum;
mod quote;
mod send;
mod stake;
mod turns;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy_primitives::{Address, Bytes};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use sparewire_core::{Amount, ChannelId, Domain, Signer, Timestamp};
use sparewire_protocol::{
    channel::{ChannelConfig, ChannelFacts, ChannelStatus, Delegation},
    settlement::{
        Chain, ChainError, Funds, Head, Intent, Outcome, Quote, RewardFacts, Standing,
        StartedClose, TokenInfo,
    },
    stake::BondFacts,
};

pub use deploy::{Deployment, deploy, deploy_keys, deploy_stake, deploy_towers};
use follow::Follower;
pub use node::Endpoint;
use node::NodeError;
use nodes::Nodes;
pub use nodes::{Fault, NodeStatus};
pub use plan::{approval, calls_of};
pub use quorum::Quorum;

use crate::{
    chain_work::ChainWork,
    contracts::{Channels, Keys, TestToken, Towers},
    index::{Index, IndexError},
    journal::Journal,
};

/// Ranges of logs that are read before each answer about closes: what is left is read before the
/// next ones, so that an index that begins does not hold up what a provider does meanwhile.
const RANGES_PER_LOOK: usize = 32;

/// When a block counts as final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// When the node says so (its `finalized` tag); on nodes without the tag, when it has this many
    /// blocks on top.
    Finalized {
        /// Blocks on top where there is no tag.
        else_blocks: u64,
    },
    /// When it has this many blocks on top; 0 takes the newest.
    Blocks(u64),
}

/// How much of our tokens the contract may draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// What a deposit takes, each time anew.
    Exact,
    /// Any amount: deposits save a transaction, and trust the contract with the wallet's tokens.
    Unlimited,
}

/// How patient and how generous a carrier is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When a block counts as final.
    pub finality: Finality,
    /// Pause between looks at a transaction that is not final.
    pub poll: Duration,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long a silent node is asked again before [`ChainError::Unreachable`].
    pub retry_for: Duration,
    /// After how long a transaction that nobody mines gets a higher fee.
    pub bump_after: Duration,
    /// Most that we pay for a unit of gas, in wei. Dearer times are waited out.
    pub fee_max_wei: u128,
    /// The same for what cannot wait, where it is more: claims from channels whose payer is leaving,
    /// defences, revocations, the end of our own leaving, and whatever of ours holds these up.
    pub fee_max_urgent_wei: u128,
    /// How long a call waits for its transactions to be final; they are followed on at
    /// [`Chain::resume`].
    pub patience: Duration,
    /// How much of our tokens the contract may draw.
    pub allowance: Allowance,
}

impl Default for Policy {
    /// For public chains: final as the node says, fees up to 500 gwei (urgent ones 2,000), raised
    /// every minute.
    fn default() -> Self {
        Self {
            finality: Finality::Finalized { else_blocks: 12 },
            poll: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(30),
            bump_after: Duration::from_secs(60),
            fee_max_wei: 500_000_000_000,
            fee_max_urgent_wei: 2_000_000_000_000,
            patience: Duration::from_secs(6 * 3_600),
            allowance: Allowance::Exact,
        }
    }
}

/// [`Chain`] over an EVM node, or several.
pub struct EvmChain {
    domain: Domain,
    pub(crate) follower: Follower,
    index: OnceLock<Index>,
}

impl fmt::Debug for EvmChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvmChain")
            .field("domain", &self.domain)
            .field("node", &self.follower.node)
            .finish_non_exhaustive()
    }
}

impl EvmChain {
    /// Checks that the node (or a quorum) is on the domain's chain and knows the contract.
    ///
    /// # Errors
    /// [`ChainError::WrongChain`], [`ChainError::NoContract`], [`ChainError::Unreachable`], or
    /// [`ChainError::Journal`] where the journal is another wallet's.
    pub async fn connect(
        endpoint: Endpoint,
        domain: Domain,
        signer: Arc<dyn Signer>,
        journal: Journal,
        policy: Policy,
    ) -> Result<Self, ChainError> {
        let node = Nodes::new(endpoint, &policy)?;
        let actual = node.chain_id().await?;
        if actual != domain.chain_id {
            return Err(ChainError::WrongChain { expected: domain.chain_id, actual });
        }
        let missing =
            ChainError::NoContract { contract: domain.contract, chain_id: domain.chain_id };
        if node.code(domain.contract, None).await?.is_empty() {
            return Err(missing);
        }
        let follower = Follower::new(node, signer, journal, policy, domain.chain_id)?;
        let chain = Self { domain, follower, index: OnceLock::new() };
        // Any contract has code; ours has this separator.
        let separator = async {
            let newest = chain.follower.node.newest().await?;
            let call = Channels::domainSeparatorCall {}.abi_encode();
            chain.read_raw(domain.contract, call.into(), newest).await
        };
        match separator.await {
            Ok(raw) => match Channels::domainSeparatorCall::abi_decode_returns(&raw) {
                Ok(separator) if separator == domain.separator() => Ok(chain),
                _ => Err(missing),
            },
            Err(ChainError::Reverted { .. }) => Err(missing),
            // Several may contradict each other, which says nothing about the contract.
            Err(ChainError::Nonsense { .. }) if !chain.follower.node.several() => Err(missing),
            Err(error) => Err(error),
        }
    }

    /// Answers [`Chain::closes_started`] from this index from now on; the first one stays.
    ///
    /// # Panics
    /// Where it is another contract's.
    pub fn use_index(&self, index: Index) {
        self.assert_of(&index);
        let _ = self.index.set(index);
    }

    /// The name of the node, or nodes, that errors show.
    pub fn endpoint(&self) -> &str {
        self.follower.node.name()
    }

    /// How each node stands.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.follower.node.status()
    }

    /// The record of its transactions.
    pub fn journal(&self) -> &Journal {
        &self.follower.journal
    }

    /// What is under way: what was asked for and is not final yet, and who else uses the wallet.
    ///
    /// # Errors
    /// [`ChainError::Journal`] where the journal cannot be read.
    pub fn work(&self) -> Result<ChainWork, ChainError> {
        let base_fee_wei = self.follower.node.base_fee();
        Ok(ChainWork { base_fee_wei, ..self.follower.journal.work()? })
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.follower.policy
    }

    /// Calls a view at a block.
    async fn read<C: SolCall>(
        &self,
        target: Address,
        call: C,
        block: u64,
    ) -> Result<C::Return, ChainError> {
        let answer = self.read_raw(target, call.abi_encode().into(), block).await?;
        C::abi_decode_returns(&answer).map_err(|error| {
            self.follower.node.blame(NodeError::Nonsense(format!("{}: {error}", C::SIGNATURE)))
        })
    }

    async fn read_newest<C: SolCall>(
        &self,
        target: Address,
        call: C,
    ) -> Result<C::Return, ChainError> {
        let newest = self.follower.node.newest().await?;
        self.read(target, call, newest).await
    }

    async fn read_raw(
        &self,
        target: Address,
        data: Bytes,
        block: u64,
    ) -> Result<Bytes, ChainError> {
        let node = &self.follower.node;
        node.call(target, data, block).await.map_err(|error| match error {
            NodeError::Refused { revert: Some(data), .. } => ChainError::Reverted {
                what: "a query",
                reason: crate::contracts::reason_in_words(&data),
            },
            NodeError::Refused { code: 3, message, .. } => {
                ChainError::Reverted { what: "a query", reason: message }
            }
            error => node.blame(error),
        })
    }
}

/// What the contract's answer about a channel means; `None` where it was never opened.
///
/// # Errors
/// In words, where the contract cannot have answered that.
pub fn facts_of(state: &Channels::ChannelState) -> Result<Option<ChannelFacts>, String> {
    let status = match state.status {
        0 => return Ok(None),
        1 => ChannelStatus::Open,
        2 => ChannelStatus::Closing { finish_at_secs: state.closeAt.to() },
        3 => ChannelStatus::Closed,
        other => return Err(format!("channel status {other}")),
    };
    let amount = |units| Amount::new(units).ok_or("an amount above 2^104 - 1");
    let (reserved, claimed) = (amount(state.reserved)?, amount(state.claimed)?);
    Ok(Some(ChannelFacts { reserved, claimed, status }))
}

#[async_trait]
impl Chain for EvmChain {
    fn domain(&self) -> Domain {
        self.domain
    }

    fn wallet(&self) -> Address {
        self.follower.wallet()
    }

    async fn head(&self) -> Result<Head, ChainError> {
        self.follower.node.head().await
    }

    async fn channel(&self, id: ChannelId) -> Result<Option<ChannelFacts>, ChainError> {
        let facts = self.channels(&[id]).await?;
        assert_eq!(facts.len(), 1, "each channel that is asked about is answered");
        Ok(facts[0])
    }

    async fn channels(&self, ids: &[ChannelId]) -> Result<Vec<Option<ChannelFacts>>, ChainError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let block = self.head().await?.final_number;
        match self.channels_at(ids, block).await {
            // The final block may be older than the contract.
            Err(ChainError::Nonsense { .. }) if self.deployed_after(block).await? => {
                Ok(vec![None; ids.len()])
            }
            answer => Ok(answer?.into_iter().map(|(facts, _)| facts).collect()),
        }
    }

    async fn closes_started(
        &self,
        payee: Address,
    ) -> Result<Option<Vec<StartedClose>>, ChainError> {
        let Some(index) = self.index.get() else { return Ok(None) };
        match self.closes_by_index(index, payee, RANGES_PER_LOOK).await {
            Ok(closes) => Ok(Some(closes)),
            Err(IndexError::Chain(error)) => Err(error),
            Err(error) => {
                let endpoint = self.endpoint().to_owned();
                Err(ChainError::Nonsense { endpoint, reason: error.to_string() })
            }
        }
    }

    async fn funds(&self, owner: Address, token: Address) -> Result<Funds, ChainError> {
        let block = self.head().await?.final_number;
        let contract = self.domain.contract;
        let (native_wei, wallet, deposit, claimable) = futures_util::try_join!(
            self.follower.node.balance(owner, Some(block)),
            self.read(token, TestToken::balanceOfCall { account: owner }, block),
            self.read(contract, Channels::depositOfCall::new((owner, token)), block),
            self.read(contract, Channels::claimableOfCall::new((owner, token)), block),
        )?;
        Ok(Funds {
            native_wei,
            wallet: wallet.saturating_to(),
            // Sums over channels may exceed what one channel can hold; nobody can use more.
            deposit: Amount::new(deposit.saturating_to()).unwrap_or(Amount::MAX),
            claimable: Amount::new(claimable.saturating_to()).unwrap_or(Amount::MAX),
        })
    }

    async fn token(&self, token: Address) -> Result<TokenInfo, ChainError> {
        let newest = self.follower.node.newest().await?;
        let decimals = self.read(token, TestToken::decimalsCall {}, newest).await?;
        let raw =
            self.read_raw(token, TestToken::symbolCall {}.abi_encode().into(), newest).await?;
        let symbol = match TestToken::symbolCall::abi_decode_returns(&raw) {
            Ok(symbol) => symbol,
            // Tokens from before the standard settled give a bytes32.
            Err(_) if raw.len() == 32 => String::from_utf8_lossy(&raw).into_owned(),
            Err(error) => {
                return Err(self.follower.node.blame(NodeError::Nonsense(error.to_string())));
            }
        };
        let symbol = symbol.chars().filter(|c| !c.is_control()).take(32).collect();
        Ok(TokenInfo { address: token, symbol, decimals })
    }

    async fn quote(&self, intent: &Intent) -> Result<Quote, ChainError> {
        self.quote_for(intent).await
    }

    async fn standing(
        &self,
        keys: Address,
        delegation: &Delegation,
    ) -> Result<Standing, ChainError> {
        let newest = self.follower.node.newest().await?;
        self.require_registry(keys, newest).await?;
        let Delegation { wallet, device, authorizer, .. } = *delegation;
        let call = Keys::standingCall::new((wallet, device.0, authorizer));
        match self.read(keys, call, newest).await? {
            0 => Ok(Standing::Unknown),
            1 => Ok(Standing::Registered),
            2 => Ok(Standing::Expired),
            3 => Ok(Standing::Revoked),
            other => {
                let reason = format!("standing {other}");
                Err(self.follower.node.blame(NodeError::Nonsense(reason)))
            }
        }
    }

    async fn last_claim(&self) -> Result<Option<Timestamp>, ChainError> {
        let secs = self.follower.journal.last_planned("claim")?;
        Ok(secs.map(|secs| Timestamp::from_ms(secs.saturating_mul(1_000))))
    }

    async fn cap(
        &self,
        keys: Address,
        wallet: Address,
        authorizer: Address,
        token: Address,
    ) -> Result<Option<Amount>, ChainError> {
        let newest = self.follower.node.newest().await?;
        self.require_registry(keys, newest).await?;
        let cap =
            self.read(keys, Keys::capOfCall::new((wallet, authorizer, token)), newest).await?;
        Ok(cap.declared.then(|| Amount::new(cap.amount.to()).unwrap_or(Amount::MAX)))
    }

    async fn reward(
        &self,
        towers: Address,
        config: &ChannelConfig,
        reward_token: Address,
    ) -> Result<RewardFacts, ChainError> {
        let block = self.head().await?.final_number;
        if self.follower.node.code(towers, Some(block)).await?.is_empty() {
            return Ok(RewardFacts::default());
        }
        let money = (config.payee, config.payee_authorizer, reward_token);
        let id = config.id(&self.domain);
        let (account, defence) = futures_util::try_join!(
            self.read(towers, Towers::accountCall::new(money), block),
            self.read(towers, Towers::defenceCall::new((id.0,)), block),
        )?;
        let announced = alloy_primitives::U256::from(account.announced);
        // Accounts may hold more than one reward can be; nobody relies on that.
        let amount = |units: alloy_primitives::U256| {
            Amount::new(units.saturating_to()).unwrap_or(Amount::MAX)
        };
        Ok(RewardFacts {
            covered: amount(account.balance.saturating_sub(announced)),
            balance: amount(account.balance),
            withdrawal_due_secs: account.due.to(),
            defender: Some(defence.beneficiary).filter(|wallet| !wallet.is_zero()),
        })
    }

    async fn bond(&self, stake: Address, holder: Address) -> Result<BondFacts, ChainError> {
        self.bond_facts(stake, holder).await
    }

    async fn perform(&self, intent: &Intent) -> Result<Outcome, ChainError> {
        let digest = self.digest_of(intent);
        // What is half done is gone on with; what is left of it then is in the journal.
        if let Some(unfinished) = self.follower.journal.open_intent(digest)? {
            if self.is_urgent(intent).await? {
                self.follower.journal.hurry(unfinished)?;
            }
            return self.follower.go_on(intent.kind(), unfinished).await;
        }
        // Each draws on an allowance that another of its kind could have counted on.
        if matches!(
            intent,
            Intent::Deposit { .. } | Intent::DepositReward { .. } | Intent::Bond { .. }
        ) {
            let plan = self.plan_for(intent);
            return self.follower.perform_after_others(intent.kind(), digest, plan).await;
        }
        let plan = self.plan_for(intent).await?;
        self.follower.perform(intent.kind(), digest, plan).await
    }

    async fn resume(&self) -> Result<usize, ChainError> {
        self.follower.resume().await
    }
}

impl EvmChain {
    /// A call to an address without code succeeds and does nothing: nobody may take that for a
    /// revocation.
    async fn require_registry(&self, keys: Address, block: u64) -> Result<(), ChainError> {
        if self.follower.node.code(keys, Some(block)).await?.is_empty() {
            return Err(ChainError::NoRegistry { keys, chain_id: self.domain.chain_id });
        }
        Ok(())
    }

    async fn deployed_after(&self, block: u64) -> Result<bool, ChainError> {
        Ok(self.follower.node.code(self.domain.contract, Some(block)).await?.is_empty())
    }
}

#[cfg(test)]
mod tests;
