//! Bonds and reports: what the contract `Stake` says of them, and the calls to it.

use alloy_primitives::{Address, B256, LogData, U256};
use alloy_sol_types::{SolCall, SolEvent};
use serde_json::{Value, json};
use sparewire_core::{Amount, Signed};
use sparewire_protocol::{
    Delegation, Receipt,
    settlement::{Chain, ChainError, Intent},
    stake::{BondFacts, Contradiction, Liability, ReportFacts, Slashing},
};

use super::{
    EvmChain,
    logs::{LogQuery, LogsError},
    node::NodeError,
    plan::config_of,
};
use crate::{
    contracts::{Keys, Stake, StakeDelegation, StakeReceipt},
    journal::Call,
};

impl EvmChain {
    /// How far the report of a piece of evidence has come, of which `commitment` was to be made.
    ///
    /// # Errors
    /// [`ChainError::NoStake`] where final state has no contract at `stake`.
    pub async fn report_facts(
        &self,
        stake: Address,
        evidence: B256,
        commitment: B256,
    ) -> Result<ReportFacts, ChainError> {
        let block = self.staked_at(stake).await?;
        let (used, committed, delay) = futures_util::try_join!(
            self.read(stake, Stake::isUsedCall::new((evidence,)), block),
            self.read(stake, Stake::committedAtCall::new((commitment,)), block),
            self.read(stake, Stake::REVEAL_DELAYCall {}, block),
        )?;
        let ready = committed.saturating_add(U256::from(delay));
        let ready_secs = (!committed.is_zero()).then(|| ready.saturating_to());
        Ok(ReportFacts { ready_secs, used })
    }

    /// For how long the contract at `stake` takes evidence that a delegation's authorizer signed,
    /// by its own registry of keys.
    ///
    /// # Errors
    /// [`ChainError::NoStake`] where final state has no contract at `stake`.
    pub async fn liability(
        &self,
        stake: Address,
        delegation: &Delegation,
    ) -> Result<Liability, ChainError> {
        let Delegation { wallet, device, authorizer, expiry_secs } = *delegation;
        let block = self.staked_at(stake).await?;
        let (keys, grace) = futures_util::try_join!(
            self.read(stake, Stake::KEYSCall {}, block),
            self.read(stake, Stake::GRACECall {}, block),
        )?;
        let (registered, revoked) = futures_util::try_join!(
            self.read(keys, Keys::expiryOfCall::new((wallet, device.0, authorizer)), block),
            self.read(keys, Keys::authorizerRevokedAtCall::new((wallet, authorizer)), block),
        )?;
        let expiry_secs = expiry_secs.max(registered);
        let ended = if revoked == 0 { expiry_secs } else { revoked.min(expiry_secs) };
        Ok(Liability { expiry_secs, until_secs: ended.saturating_add(grace.to()) })
    }

    /// What the report of `evidence` took, if it is in block `block`.
    ///
    /// # Errors
    /// As [`sparewire_protocol::settlement::Chain::perform`].
    pub async fn slashing(
        &self,
        stake: Address,
        evidence: B256,
        block: u64,
    ) -> Result<Option<Slashing>, ChainError> {
        let topics = [json!(Stake::Slashed::SIGNATURE_HASH), json!(null), json!(evidence)];
        let Some(log) = self.log_in(stake, topics.into(), block).await? else { return Ok(None) };
        let told = Stake::Slashed::decode_log_data(&log)
            .map_err(|error| self.follower.node.blame(NodeError::Nonsense(error.to_string())))?;
        let Stake::Slashed { provider, reporter, reward, burned, .. } = told;
        Ok(Some(Slashing { provider, reporter, reward: units(reward), burned: units(burned) }))
    }

    /// Whether `commitment` was made in block `block`.
    ///
    /// # Errors
    /// As [`sparewire_protocol::settlement::Chain::perform`].
    pub async fn committed_in(
        &self,
        stake: Address,
        commitment: B256,
        block: u64,
    ) -> Result<bool, ChainError> {
        let topics = [json!(Stake::Committed::SIGNATURE_HASH), json!(commitment)];
        Ok(self.log_in(stake, topics.into(), block).await?.is_some())
    }

    /// The first log of a block with these topics.
    async fn log_in(
        &self,
        stake: Address,
        topics: Vec<Value>,
        block: u64,
    ) -> Result<Option<LogData>, ChainError> {
        let query = LogQuery { contract: stake, topics, from: block, to: block };
        let range = self.follower.node.logs(&query).await.map_err(|error| {
            self.follower.node.blame(match error {
                LogsError::TooMuch(reason) | LogsError::Gone(reason) => NodeError::Nonsense(reason),
                LogsError::Node(error) => error,
            })
        })?;
        Ok(range.logs.into_iter().next().map(|log| log.data))
    }

    pub(super) async fn bond_facts(
        &self,
        stake: Address,
        holder: Address,
    ) -> Result<BondFacts, ChainError> {
        let block = self.staked_at(stake).await?;
        let (token, penalty, bond, covered) = futures_util::try_join!(
            self.read(stake, Stake::TOKENCall {}, block),
            self.read(stake, Stake::PENALTYCall {}, block),
            self.read(stake, Stake::bondOfCall::new((holder,)), block),
            self.read(stake, Stake::coveredCall::new((holder,)), block),
        )?;
        Ok(BondFacts {
            token,
            penalty: units(U256::from(penalty)),
            bonded: units(U256::from(bond.amount)),
            leaving: units(U256::from(bond.leaving)),
            due_secs: bond.due.to(),
            locked: units(U256::from(bond.locked)),
            covered: units(covered),
        })
    }

    /// The final block, in which there is code at `stake`. A call to an address without code succeeds
    /// and does nothing: nobody may take that for a bond.
    async fn staked_at(&self, stake: Address) -> Result<u64, ChainError> {
        let block = self.head().await?.final_number;
        if self.follower.node.code(stake, Some(block)).await?.is_empty() {
            return Err(ChainError::NoStake { stake, chain_id: self.domain.chain_id });
        }
        Ok(block)
    }

    /// What is left to do for an intent about stake.
    pub(super) async fn stake_plan(&self, intent: &Intent) -> Result<Vec<Call>, ChainError> {
        let done = match intent {
            Intent::Bond { stake, holder, token, amount } => {
                let facts = self.bond_facts(*stake, *holder).await?;
                if facts.token != *token {
                    let reason =
                        format!("{stake} holds bonds in token {}, not in {token}", facts.token);
                    return Err(ChainError::Reverted { what: intent.kind(), reason });
                }
                let mut calls = self.approvals(*token, *stake, *amount).await?;
                calls.extend(self.all_calls(intent));
                return Ok(calls);
            }
            // Announced again, the notice would begin anew.
            Intent::AnnounceLeaving { stake, amount } => {
                let facts = self.bond_facts(*stake, self.wallet()).await?;
                facts.leaving == *amount && (facts.due_secs > 0) == (*amount > Amount::ZERO)
            }
            Intent::CommitReport { stake, commitment } => {
                let facts = self.report_facts(*stake, B256::ZERO, *commitment).await?;
                facts.ready_secs.is_some()
            }
            Intent::ReportReceipts { stake, contradiction, salt } => {
                let commitment = contradiction.commitment(self.wallet(), *salt);
                self.report_facts(*stake, contradiction.evidence(), commitment).await?.used
            }
            Intent::Unbond { stake } => {
                self.staked_at(*stake).await?;
                false
            }
            _ => true,
        };
        Ok(if done { Vec::new() } else { self.all_calls(intent) })
    }
}

/// Sums over transfers may exceed what one amount can be; nobody relies on that.
fn units(units: U256) -> Amount {
    Amount::new(units.saturating_to()).unwrap_or(Amount::MAX)
}

/// The calls to the contract that holds bonds.
pub(super) fn stake_calls(wallet: Address, intent: &Intent) -> Vec<Call> {
    let (stake, data) = match intent {
        Intent::Bond { stake, holder, amount, .. } => {
            (stake, Stake::bondCall::new((*holder, amount.get())).abi_encode())
        }
        Intent::AnnounceLeaving { stake, amount } => {
            (stake, Stake::announceLeavingCall::new((amount.get(),)).abi_encode())
        }
        Intent::Unbond { stake } => (stake, Stake::unbondCall::new((wallet,)).abi_encode()),
        Intent::CommitReport { stake, commitment } => {
            (stake, Stake::commitCall::new((*commitment,)).abi_encode())
        }
        Intent::ReportReceipts { stake, contradiction, salt } => {
            (stake, report_of(contradiction, *salt).abi_encode())
        }
        _ => return Vec::new(),
    };
    vec![Call { target: Some(*stake), data: data.into(), value: U256::ZERO }]
}

fn report_of(contradiction: &Contradiction, salt: B256) -> Stake::reportReceiptsCall {
    let Signed { body, signature } = contradiction.delegation();
    let Delegation { wallet, device, authorizer, expiry_secs } = *body;
    let delegation = Stake::SignedDelegation {
        delegation: StakeDelegation { wallet, device: device.0, authorizer, expiry: expiry_secs },
        signature: signature.to_bytes().into(),
    };
    let signed = |Signed { body, signature }: &Signed<Receipt>| Stake::SignedReceipt {
        receipt: StakeReceipt {
            channelId: body.channel.0,
            sessionId: body.session.0,
            sequence: body.sequence,
            up: body.reading.up.get(),
            down: body.reading.down.get(),
            amount: body.amount.get(),
            previous: body.previous,
            time: body.time.as_ms(),
        },
        signature: signature.to_bytes().into(),
    };
    let config = config_of(contradiction.config());
    let [first, second] = contradiction.receipts();
    Stake::reportReceiptsCall::new((delegation, config, signed(first), signed(second), salt))
}
