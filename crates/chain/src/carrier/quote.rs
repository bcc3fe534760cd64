//! What transactions cost before they are signed: gas, and what a rollup takes for data beside it.

use alloy_consensus::SignableTransaction;
use alloy_primitives::{Address, Bytes, U256, address};
use alloy_sol_types::{SolCall, sol};
use sparewire_core::Amount;
use sparewire_protocol::settlement::{ChainError, Intent, Quote};

use super::{
    EvmChain,
    follow::Follower,
    node::{Fees, NodeError},
};
use crate::{
    contracts::{TestToken, reason_in_words},
    journal::{Call, StepState},
};

/// Most gas that one transaction may use (EIP-7825); chains without that rule are fine with it.
pub(super) const GAS_MAX: u64 = 1 << 24;

/// What a deposit takes beside moving the tokens: the contract's own accounts, two of them new.
/// A deposit takes 49,383 gas in all where a transfer of the same token takes about 30,000
/// (`contracts/snapshots/gas.json`), and a fresh slot 22,100 more.
const DEPOSIT_MORE_GAS: u64 = 60_000;

/// Where chains of the OP stack tell what data costs; there is no code on other chains.
/// <https://specs.optimism.io/protocol/predeploys.html#gaspriceoracle>
const GAS_PRICE_ORACLE: Address = address!("0x420000000000000000000000000000000000000F");

/// Gas that a byte takes at most on the chain below, and what a batch adds for each transaction.
const DATA_GAS_PER_BYTE: u64 = 16;
const DATA_MORE_BYTES: u64 = 100;

sol! {
    interface GasPriceOracle {
        /// The fee for the data of an unsigned transaction, in wei; the signature is added there.
        function getL1Fee(bytes unsigned) external view returns (uint256);
    }
}

/// What one transaction takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// What it is estimated to use.
    gas: u64,
    pub(super) gas_limit: u64,
    pub(super) fees: Fees,
    /// What a rollup takes for its data, in wei.
    data_fee: u128,
}

impl Cost {
    /// At the present prices, in wei.
    fn fee(&self) -> u128 {
        u128::from(self.gas).saturating_mul(self.fees.expected).saturating_add(self.data_fee)
    }

    /// At most, as it is signed, in wei. The price of data may double until it is mined, as that of
    /// gas may; the transaction itself puts no cap on it.
    pub(super) fn fee_max(&self) -> u128 {
        u128::from(self.gas_limit)
            .saturating_mul(self.fees.max_fee)
            .saturating_add(self.data_fee.saturating_mul(2))
    }
}

impl EvmChain {
    pub(super) async fn quote_for(&self, intent: &Intent) -> Result<Quote, ChainError> {
        let follower = &self.follower;
        let kind = intent.kind();
        let (calls, urgent) = match follower.journal.open_intent(self.digest_of(intent))? {
            None => {
                let plan = self.plan_for(intent).await?;
                (plan.calls, plan.urgent)
            }
            Some(unfinished) => {
                let left =
                    |state: StepState| matches!(state, StepState::Planned | StepState::Signed);
                let steps = follower.journal.steps(unfinished)?.into_iter();
                let calls = steps.filter(|step| left(step.state)).map(|step| step.call).collect();
                (calls, follower.journal.is_urgent(unfinished)?)
            }
        };
        let mut quote = Quote::default();
        for (index, call) in calls.iter().enumerate() {
            let cost = match intent {
                Intent::Deposit { token, amount } if index > 0 && index + 1 == calls.len() => {
                    self.cost_of_deposit(kind, *token, self.domain.contract, *amount, call).await?
                }
                Intent::DepositReward { towers, token, amount, .. }
                    if index > 0 && index + 1 == calls.len() =>
                {
                    self.cost_of_deposit(kind, *token, *towers, *amount, call).await?
                }
                Intent::Bond { stake, token, amount, .. }
                    if index > 0 && index + 1 == calls.len() =>
                {
                    self.cost_of_deposit(kind, *token, *stake, *amount, call).await?
                }
                _ => follower.cost(kind, call, urgent).await?,
            };
            quote.transactions += 1;
            quote.gas = quote.gas.saturating_add(cost.gas);
            quote.fee_wei = quote.fee_wei.saturating_add(cost.fee());
            quote.fee_wei_max = quote.fee_wei_max.saturating_add(cost.fee_max());
            quote.data_fee_wei = quote.data_fee_wei.saturating_add(cost.data_fee);
        }
        assert!(quote.fee_wei <= quote.fee_wei_max, "a cap lies above what it caps: {quote:?}");
        Ok(quote)
    }

    /// A deposit whose allowance is not there yet cannot be simulated; a transfer can.
    async fn cost_of_deposit(
        &self,
        kind: &'static str,
        token: Address,
        to: Address,
        amount: Amount,
        deposit: &Call,
    ) -> Result<Cost, ChainError> {
        let data = TestToken::transferCall { to, value: U256::from(amount.get()) }.abi_encode();
        let transfer = Call { target: Some(token), data: data.into(), value: U256::ZERO };
        let gas = self.follower.estimate(kind, &transfer).await?;
        let gas = gas.saturating_add(DEPOSIT_MORE_GAS);
        self.follower.cost_with(kind, deposit, gas, false).await
    }
}

impl Follower {
    /// What a call that would succeed now takes.
    pub(super) async fn cost(
        &self,
        kind: &'static str,
        call: &Call,
        urgent: bool,
    ) -> Result<Cost, ChainError> {
        let gas = self.estimate(kind, call).await?;
        self.cost_with(kind, call, gas, urgent).await
    }

    async fn cost_with(
        &self,
        kind: &'static str,
        call: &Call,
        gas: u64,
        urgent: bool,
    ) -> Result<Cost, ChainError> {
        if gas > GAS_MAX {
            let reason = format!("it takes {gas} gas, more than a transaction may use");
            return Err(ChainError::Reverted { what: kind, reason });
        }
        // A quarter on top: between estimate and block, others' claims may turn a warm slot cold.
        let gas_limit = (gas + gas / 4).min(GAS_MAX);
        let fees = self.node.fees(self.fee_cap(urgent)).await?;
        let data_fee = self.data_fee(call, gas_limit, fees).await?;
        Ok(Cost { gas, gas_limit, fees, data_fee })
    }

    /// The gas that a call would use now.
    async fn estimate(&self, kind: &'static str, call: &Call) -> Result<u64, ChainError> {
        let request = self.request_of(call);
        let reverted = |reason: String| ChainError::Reverted { what: kind, reason };
        match self.node.estimate_gas(&request).await {
            Ok(estimate) => Ok(estimate),
            Err(NodeError::Refused { revert: Some(data), .. }) => {
                Err(reverted(reason_in_words(&data)))
            }
            Err(NodeError::Refused { message, .. }) if message.contains("insufficient funds") => {
                Err(self.poor(call.value).await)
            }
            // Some nodes give the data only to eth_call.
            Err(NodeError::Refused { message, .. }) => match self.node.simulate(request).await {
                Err(NodeError::Refused { revert: Some(data), .. }) => {
                    Err(reverted(reason_in_words(&data)))
                }
                _ => Err(reverted(message)),
            },
            Err(error) => Err(self.node.blame(error)),
        }
    }

    /// What a rollup of the OP stack takes for a transaction's data, in wei. Where the chain has no
    /// oracle for it, data costs gas or nothing.
    ///
    /// A node is not believed a price above what the data takes at most on the chain below at
    /// the higher of the policy's two limits: nothing is signed on the word of that.
    async fn data_fee(&self, call: &Call, gas: u64, fees: Fees) -> Result<u128, ChainError> {
        let oracle = match self.data_oracle.get() {
            Some(oracle) => *oracle,
            None => {
                let code = self.node.code(GAS_PRICE_ORACLE, None).await?;
                *self.data_oracle.get_or_init(|| !code.is_empty())
            }
        };
        if !oracle {
            return Ok(0);
        }
        // The nonce's length is all that it adds.
        let unsigned: Bytes =
            self.unsigned(call, u64::from(u32::MAX), gas, fees).encoded_for_signing().into();
        let bytes = unsigned.len() as u64;
        let newest = self.node.newest().await?;
        let data = GasPriceOracle::getL1FeeCall { unsigned }.abi_encode();
        let nonsense = |reason: String| self.node.blame(NodeError::Nonsense(reason));
        let answer = self.node.call(GAS_PRICE_ORACLE, data.into(), newest).await;
        let answer = answer.map_err(|error| self.node.blame(error))?;
        let fee = GasPriceOracle::getL1FeeCall::abi_decode_returns(&answer)
            .map_err(|error| nonsense(format!("getL1Fee: {error}")))?;
        let gas_max = (bytes + DATA_MORE_BYTES) * DATA_GAS_PER_BYTE;
        let fee_max = self.fee_cap(true).saturating_mul(u128::from(gas_max));
        if fee > U256::from(fee_max) {
            return Err(nonsense(format!(
                "{fee} wei for {bytes} bytes of data is more than fee_max_gwei and fee_max_urgent_gwei allow"
            )));
        }
        Ok(fee.saturating_to())
    }
}
