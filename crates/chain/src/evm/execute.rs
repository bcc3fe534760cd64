//! Runs transactions and calls on revm.

use alloy_consensus::{
    Eip658Value, Receipt, ReceiptEnvelope, ReceiptWithBloom, Transaction, TxEnvelope,
    proofs::{calculate_receipt_root, calculate_transaction_root},
};
use alloy_eips::{eip2718::Decodable2718, eip7702::SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_rpc_types_eth::TransactionRequest;
use revm::{
    Context, ExecuteEvm, MainBuilder, MainContext,
    context::{
        BlockEnv, CfgEnv, TxEnv,
        result::{EVMError, ExecutionResult, HaltReason, InvalidTransaction, ResultAndState},
        transaction::{RecoveredAuthority, RecoveredAuthorization},
    },
    context_interface::either::Either,
    database_interface::WrapDatabaseRef,
    primitives::{eip7825::TX_GAS_LIMIT_CAP, hardfork::SpecId},
};
use sparewire_core::Signature;

use super::{
    EvmError, Ledger,
    store::{StoreError, TransactionRecord},
    world::{Changes, View},
};

/// What a plain transfer takes, exactly.
const TRANSFER_GAS: u64 = 21_000;

impl Ledger {
    /// Executes a signed transaction in a block of its own.
    pub(crate) fn submit(&mut self, raw: &[u8]) -> Result<B256, EvmError> {
        let envelope = TxEnvelope::decode_2718_exact(raw)
            .map_err(|error| rejected(format!("rlp: {error}")))?;
        if matches!(envelope, TxEnvelope::Eip4844(_)) {
            return Err(rejected("transaction type not supported: no blobs on this chain"));
        }
        match envelope.chain_id() {
            Some(id) if id == self.chain_id => {}
            Some(id) => {
                let want = self.chain_id;
                return Err(rejected(format!(
                    "invalid sender: invalid chain id for signer: have {id} want {want}"
                )));
            }
            None => {
                return Err(rejected(
                    "only replay-protected (EIP-155) transactions allowed over RPC",
                ));
            }
        }
        let signature = envelope.signature();
        let sender =
            recover(envelope.signature_hash(), signature.r(), signature.s(), signature.v())
                .ok_or_else(|| rejected("invalid sender: invalid transaction v, r, s values"))?;

        let executed = run(
            self.view(None),
            self.config(),
            self.block_env(),
            transaction_env(&envelope, sender),
        )?;
        let gas_used = executed.result.tx_gas_used();
        let (success, logs) = match executed.result {
            ExecutionResult::Success { logs, .. } => (true, logs),
            ExecutionResult::Revert { .. } | ExecutionResult::Halt { .. } => (false, Vec::new()),
        };
        let receipt =
            Receipt { status: Eip658Value::Eip658(success), cumulative_gas_used: gas_used, logs };
        let receipt =
            ReceiptEnvelope::from_typed(envelope.tx_type(), ReceiptWithBloom::from(receipt));
        let hash = *envelope.tx_hash();
        let roots = (
            calculate_transaction_root(std::slice::from_ref(&envelope)),
            calculate_receipt_root(std::slice::from_ref(&receipt)),
        );
        let record = TransactionRecord { hash, raw: raw.to_vec().into(), sender, receipt };
        let changes = Changes::from_revm(executed.state);
        self.seal(Some((record, roots.0, roots.1)), changes, gas_used)?;
        Ok(hash)
    }

    /// Runs a call without keeping what it changes.
    pub(crate) fn call(
        &self,
        request: &TransactionRequest,
        view: View<'_>,
        gas_max: u64,
    ) -> Result<ExecutionResult, EvmError> {
        let mut config = self.config();
        config.disable_nonce_check = true;
        config.disable_eip3607 = true;
        config.tx_gas_limit_cap = Some(u64::MAX);
        let mut block = self.block_env();
        let caller = request.from.unwrap_or_default();
        let value = request.value.unwrap_or_default();
        let gas_price = request.max_fee_per_gas.or(request.gas_price).unwrap_or_default();
        let mut gas_limit = request.gas.unwrap_or(gas_max).min(gas_max);
        if gas_price == 0 {
            // As geth: who names no price pays none.
            block.basefee = 0;
        } else {
            let balance = view.account(caller).map(|account| account.balance).unwrap_or_default();
            let affordable = balance.saturating_sub(value) / U256::from(gas_price);
            gas_limit = gas_limit.min(affordable.saturating_to());
        }
        let mut env = TxEnv {
            caller,
            gas_limit,
            gas_price,
            gas_priority_fee: request.max_priority_fee_per_gas,
            kind: request.to.unwrap_or(TxKind::Create),
            value,
            data: request.input.clone().into_input().unwrap_or_default(),
            nonce: request.nonce.unwrap_or_default(),
            chain_id: Some(self.chain_id),
            access_list: request.access_list.clone().unwrap_or_default(),
            authorization_list: authorizations(
                request.authorization_list.as_deref().unwrap_or_default(),
            ),
            ..TxEnv::default()
        };
        env.derive_tx_type().map_err(|error| rejected(error.to_string()))?;
        Ok(run(view, config, block, env)?.result)
    }

    /// The least gas limit (within 1.5 %) with which a transaction succeeds.
    pub(crate) fn estimate(
        &self,
        request: &TransactionRequest,
        view: View<'_>,
    ) -> Result<u64, EvmError> {
        let cap = TX_GAS_LIMIT_CAP.min(self.head.header.gas_limit);
        let mut high = request.gas.unwrap_or(cap).min(cap);
        let attempt =
            |gas| self.call(&TransactionRequest { gas: Some(gas), ..request.clone() }, view, cap);
        if request.input.input().is_none_or(|data| data.is_empty())
            && matches!(attempt(TRANSFER_GAS), Ok(ExecutionResult::Success { .. }))
        {
            return Ok(TRANSFER_GAS);
        }
        let first = attempt(high)?;
        match &first {
            ExecutionResult::Success { .. } => {}
            ExecutionResult::Revert { output, .. } => {
                return Err(EvmError::Reverted { data: output.clone() });
            }
            ExecutionResult::Halt { reason: HaltReason::OutOfGas(_), .. } => {
                return Err(rejected(format!("gas required exceeds allowance ({high})")));
            }
            ExecutionResult::Halt { reason, .. } => {
                return Err(EvmError::Halted(reason.to_string()));
            }
        }
        let mut low = first.tx_gas_used().saturating_sub(1);
        // What is left to a call is 63/64 of what there is, and refunds come only at the end.
        let mut next = (first.gas().total_gas_spent() + 2_300).saturating_mul(64) / 63;
        while low + 1 < high && (high - low) * 1_000 / high > 15 {
            if next >= high || next <= low {
                next = low + (high - low) / 2;
            }
            // "Intrinsic gas too low" counts as a failed attempt too.
            match attempt(next) {
                Ok(ExecutionResult::Success { .. }) => high = next,
                _ => low = next,
            }
            next = low + (high - low) / 2;
        }
        Ok(high)
    }

    fn config(&self) -> CfgEnv {
        CfgEnv::new_with_spec(SpecId::OSAKA).with_chain_id(self.chain_id)
    }

    /// The block that comes next.
    fn block_env(&self) -> BlockEnv {
        let header = super::next_header(&self.head, self.next_time());
        BlockEnv {
            number: U256::from(header.number),
            timestamp: U256::from(header.timestamp),
            gas_limit: header.gas_limit,
            basefee: header.base_fee_per_gas.unwrap_or_default(),
            prevrandao: Some(header.mix_hash),
            ..BlockEnv::default()
        }
    }
}

fn run(
    view: View<'_>,
    config: CfgEnv,
    block: BlockEnv,
    transaction: TxEnv,
) -> Result<ResultAndState, EvmError> {
    let (chain, base_fee) = (config.chain_id, block.basefee);
    let max_fee = transaction.gas_price;
    Context::mainnet()
        .with_db(WrapDatabaseRef(view))
        .with_cfg(config)
        .with_block(block)
        .build_mainnet()
        .transact(transaction)
        .map_err(|error: EVMError<StoreError>| match error {
            EVMError::Transaction(InvalidTransaction::GasPriceLessThanBasefee) => rejected(format!(
                "max fee per gas less than block base fee: maxFeePerGas: {max_fee}, baseFee: {base_fee}"
            )),
            EVMError::Transaction(error) => rejected(geth_words(&error, chain)),
            EVMError::Database(error) => EvmError::Store(error),
            EVMError::Header(error) => EvmError::Halted(error.to_string()),
            EVMError::Custom(error) => EvmError::Halted(error),
            EVMError::CustomAny(error) => EvmError::Halted(error.to_string()),
        })
}

/// The words that clients know from geth and look for.
fn geth_words(error: &InvalidTransaction, chain: u64) -> String {
    use InvalidTransaction as Invalid;
    match error {
        Invalid::NonceTooLow { tx, state } => {
            format!("nonce too low: next nonce {state}, tx nonce {tx}")
        }
        Invalid::NonceTooHigh { tx, state } => {
            format!("nonce too high: next nonce {state}, tx nonce {tx}")
        }
        Invalid::LackOfFundForMaxFee { fee, balance } => format!(
            "insufficient funds for gas * price + value: balance {balance}, tx cost {fee}, overshot {}",
            fee.saturating_sub(**balance)
        ),
        Invalid::InvalidChainId | Invalid::MissingChainId => {
            format!("invalid chain id for signer: want {chain}")
        }
        Invalid::CallerGasLimitMoreThanBlock => "exceeds block gas limit".to_owned(),
        Invalid::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } => {
            format!("intrinsic gas too low: gas {gas_limit}, minimum needed {initial_gas}")
        }
        Invalid::GasFloorMoreThanGasLimit { gas_floor, gas_limit } => format!(
            "insufficient gas for floor data gas cost: gas {gas_limit}, minimum needed {gas_floor}"
        ),
        Invalid::PriorityFeeGreaterThanMaxFee => {
            "max priority fee per gas higher than max fee per gas".to_owned()
        }
        Invalid::TxGasLimitGreaterThanCap { gas_limit, cap } => {
            format!("transaction gas limit too high (cap: {cap}, tx: {gas_limit})")
        }
        Invalid::CreateInitCodeSizeLimit => "max initcode size exceeded".to_owned(),
        Invalid::RejectCallerWithCode => "sender not an eoa".to_owned(),
        other => other.to_string(),
    }
}

fn transaction_env(envelope: &TxEnvelope, caller: Address) -> TxEnv {
    TxEnv {
        tx_type: envelope.tx_type() as u8,
        caller,
        gas_limit: envelope.gas_limit(),
        gas_price: envelope.max_fee_per_gas(),
        kind: envelope.kind(),
        value: envelope.value(),
        data: envelope.input().clone(),
        nonce: envelope.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: authorizations(envelope.authorization_list().unwrap_or_default()),
    }
}

fn authorizations(
    list: &[SignedAuthorization],
) -> Vec<Either<SignedAuthorization, RecoveredAuthorization>> {
    let recovered = list.iter().map(|signed| {
        let odd_y = signed.y_parity() == 1;
        let authority = match recover(signed.signature_hash(), signed.r(), signed.s(), odd_y) {
            Some(address) if signed.y_parity() <= 1 => RecoveredAuthority::Valid(address),
            _ => RecoveredAuthority::Invalid,
        };
        Either::Right(RecoveredAuthorization::new_unchecked(signed.inner().clone(), authority))
    });
    recovered.collect()
}

/// Who signed `digest`; `None` for a high `s` too (EIP-2).
fn recover(digest: B256, r: U256, s: U256, odd_y: bool) -> Option<Address> {
    let mut bytes = [0; 65];
    bytes[..32].copy_from_slice(&r.to_be_bytes::<32>());
    bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    bytes[64] = 27 + u8::from(odd_y);
    Signature::from_bytes(bytes).ok()?.recover(digest).ok()
}

fn rejected(words: impl Into<String>) -> EvmError {
    EvmError::Rejected(words.into())
}

/// What a call returns, or why it does not.
pub(crate) fn output_of(result: ExecutionResult) -> Result<Bytes, EvmError> {
    match result {
        ExecutionResult::Success { output, .. } => Ok(output.into_data()),
        ExecutionResult::Revert { output, .. } => Err(EvmError::Reverted { data: output }),
        ExecutionResult::Halt { reason, .. } => Err(EvmError::Halted(reason.to_string())),
    }
}
