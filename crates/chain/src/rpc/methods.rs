//! The methods themselves.

use alloy_consensus::{Transaction as _, TxEnvelope, transaction::Recovered};
use alloy_eips::{BlockId, BlockNumberOrTag, eip2718::Decodable2718};
use alloy_primitives::{Address, B256, Bytes, Sealable, U64, U256, keccak256};
use alloy_rpc_types_eth::{
    Block, BlockTransactions, FeeHistory, Filter, FilterBlockOption, Header, Log, Transaction,
    TransactionReceipt, TransactionRequest,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::RpcError;
use crate::evm::{
    BlockRecord, Changes, EmbeddedChain, EvmError, Ledger, LogRecord, StoreError,
    TransactionRecord, output_of,
};

/// Widest block range of one `eth_getLogs`, so that one request holds the lock for milliseconds.
const LOG_RANGE_MAX: u64 = 100_000;
/// Most logs of one answer: about 5 MB of JSON.
const LOGS_MAX: usize = 10_000;
/// Most blocks of one `eth_feeHistory`, as geth has it.
const FEE_HISTORY_MAX: u64 = 1_024;

type Answer = Result<Value, RpcError>;

impl EmbeddedChain {
    pub(super) fn dispatch(&self, method: &str, params: Vec<Value>) -> Answer {
        let params = Params(params);
        if method.starts_with("evm_") && self.options().dev_methods {
            return self.dispatch_dev(method, &params);
        }
        match method {
            "web3_clientVersion" => {
                Ok(json!(concat!("sparewire-embedded/v", env!("CARGO_PKG_VERSION"), "/revm-43")))
            }
            "web3_sha3" => Ok(json!(keccak256(params.required::<Bytes>(0)?))),
            "net_version" => Ok(json!(self.chain_id().to_string())),
            "net_listening" => Ok(json!(true)),
            "eth_chainId" => Ok(json!(U64::from(self.chain_id()))),
            "eth_syncing" => Ok(json!(false)),
            "eth_accounts" => Ok(json!([])),
            "eth_blockNumber" => {
                let ledger = self.caught_up();
                Ok(json!(U64::from(ledger.head.header.number)))
            }
            "eth_gasPrice" => Ok(json!(U64::from(self.base_fee()))),
            // Blocks are never full, so nobody has to pay to be in one.
            "eth_maxPriorityFeePerGas" => Ok(json!(U64::ZERO)),
            "eth_blobBaseFee" => Ok(json!(U64::from(1))),
            "eth_feeHistory" => self.fee_history(&params),
            "eth_getBalance" => {
                let address: Address = params.required(0)?;
                self.at(&params, 1, |view| {
                    Ok(json!(view.account(address).unwrap_or_default().balance))
                })
            }
            "eth_getTransactionCount" => {
                let address: Address = params.required(0)?;
                self.at(&params, 1, |view| {
                    Ok(json!(U64::from(view.account(address).unwrap_or_default().nonce)))
                })
            }
            "eth_getCode" => {
                let address: Address = params.required(0)?;
                self.at(&params, 1, |view| Ok(json!(view.code(address))))
            }
            "eth_getStorageAt" => {
                let (address, slot): (Address, U256) = (params.required(0)?, params.required(1)?);
                self.at(&params, 2, |view| Ok(json!(B256::from(view.slot(address, slot)))))
            }
            "eth_call" => {
                let request: TransactionRequest = params.required(0)?;
                self.reject_overrides(&params)?;
                let ledger = self.ledger();
                let overlay = overlay_at(&ledger, params.optional(1)?)?;
                let gas_max = ledger.head.header.gas_limit;
                let result = ledger.call(&request, ledger.view(overlay.as_ref()), gas_max)?;
                Ok(json!(output_of(result)?))
            }
            "eth_estimateGas" => {
                let request: TransactionRequest = params.required(0)?;
                self.reject_overrides(&params)?;
                let ledger = self.ledger();
                let overlay = overlay_at(&ledger, params.optional(1)?)?;
                Ok(json!(U64::from(ledger.estimate(&request, ledger.view(overlay.as_ref()))?)))
            }
            "eth_sendRawTransaction" => {
                let raw: Bytes = params.required(0)?;
                Ok(json!(self.submit(&raw)?))
            }
            "eth_getTransactionByHash" => {
                let hash: B256 = params.required(0)?;
                let block =
                    self.ledger().store.block_by_transaction(hash).map_err(EvmError::from)?;
                block.as_ref().map_or(Ok(Value::Null), |block| {
                    to_json(
                        &block
                            .transaction
                            .as_ref()
                            .map(|record| transaction(block, record))
                            .transpose()?,
                    )
                })
            }
            "eth_getTransactionReceipt" => {
                let hash: B256 = params.required(0)?;
                let block =
                    self.ledger().store.block_by_transaction(hash).map_err(EvmError::from)?;
                block.as_ref().map_or(Ok(Value::Null), |block| {
                    to_json(
                        &block
                            .transaction
                            .as_ref()
                            .map(|record| receipt(block, record))
                            .transpose()?,
                    )
                })
            }
            "eth_getBlockReceipts" => {
                let id = params.optional::<BlockId>(0)?.unwrap_or_default();
                let block = find_block(&self.caught_up(), id)?;
                block.map_or(Ok(Value::Null), |block| {
                    let all = block.transaction.iter().map(|record| receipt(&block, record));
                    to_json(&all.collect::<Result<Vec<_>, _>>()?)
                })
            }
            "eth_getBlockByNumber" => {
                let tag: BlockNumberOrTag = params.required(0)?;
                let full = params.optional(1)?.unwrap_or(false);
                let block = find_block(&self.caught_up(), tag.into())?;
                block.map_or(Ok(Value::Null), |block| to_json(&rpc_block(&block, full)?))
            }
            "eth_getBlockByHash" => {
                let hash: B256 = params.required(0)?;
                let full = params.optional(1)?.unwrap_or(false);
                let block = find_block(&self.ledger(), hash.into())?;
                block.map_or(Ok(Value::Null), |block| to_json(&rpc_block(&block, full)?))
            }
            "eth_getBlockTransactionCountByNumber" => {
                let tag: BlockNumberOrTag = params.required(0)?;
                let block = find_block(&self.caught_up(), tag.into())?;
                Ok(json!(block.map(|block| U64::from(u64::from(block.transaction.is_some())))))
            }
            "eth_getLogs" => self.logs(&params),
            _ => Err(RpcError::new(
                -32601,
                format!("the method {} does not exist/is not available", shortened(method)),
            )),
        }
    }

    fn dispatch_dev(&self, method: &str, params: &Params) -> Answer {
        match method {
            "evm_mine" => {
                if let Some(Secs(secs)) = params.optional(0)? {
                    self.ledger().set_next_time(secs)?;
                }
                self.mine()?;
                Ok(json!("0x0"))
            }
            "evm_increaseTime" => {
                let Secs(secs) = params.required(0)?;
                Ok(json!(self.increase_time(secs)?))
            }
            "evm_setNextBlockTimestamp" => {
                let Secs(secs) = params.required(0)?;
                self.ledger().set_next_time(secs)?;
                Ok(Value::Null)
            }
            "evm_snapshot" => Ok(json!(U64::from(self.ledger().snapshot()))),
            "evm_revert" => {
                let id: U64 = params.required(0)?;
                Ok(json!(self.ledger().revert_to(id.to())?))
            }
            _ => Err(RpcError::new(
                -32601,
                format!("the method {} does not exist", shortened(method)),
            )),
        }
    }

    /// The ledger with an empty block mined where the newest is old.
    fn caught_up(&self) -> std::sync::MutexGuard<'_, Ledger> {
        let mut ledger = self.ledger();
        ledger.catch_up(self.options().idle_block_secs);
        ledger
    }

    fn base_fee(&self) -> u64 {
        self.ledger().head.header.base_fee_per_gas.unwrap_or_default()
    }

    fn at(
        &self,
        params: &Params,
        position: usize,
        read: impl FnOnce(crate::evm::View<'_>) -> Answer,
    ) -> Answer {
        let id = params.optional(position)?;
        let ledger = self.ledger();
        let overlay = overlay_at(&ledger, id)?;
        read(ledger.view(overlay.as_ref()))
    }

    fn reject_overrides(&self, params: &Params) -> Result<(), RpcError> {
        match params.0.iter().skip(2).all(Value::is_null) {
            true => Ok(()),
            false => Err(RpcError::invalid_params("state overrides are not supported")),
        }
    }

    fn fee_history(&self, params: &Params) -> Answer {
        let count: U64 = params.required(0)?;
        let count = count.to::<u64>().min(FEE_HISTORY_MAX);
        let newest: BlockNumberOrTag = params.required(1)?;
        let percentiles: Vec<f64> = params.optional(2)?.unwrap_or_default();
        let ledger = self.ledger();
        let newest = block_number(&ledger, newest).min(ledger.head.header.number);
        let oldest = (newest + 1).saturating_sub(count);
        let mut history = FeeHistory { oldest_block: oldest, ..FeeHistory::default() };
        let mut rewards = Vec::new();
        for number in oldest..=newest.min(oldest.saturating_add(count).saturating_sub(1)) {
            let Some(block) = ledger.store.block(number).map_err(EvmError::from)? else { break };
            history.base_fee_per_gas.push(block.header.base_fee_per_gas.unwrap_or_default().into());
            history.base_fee_per_blob_gas.push(1);
            history.blob_gas_used_ratio.push(0.0);
            history
                .gas_used_ratio
                .push(block.header.gas_used as f64 / block.header.gas_limit as f64);
            rewards.push(vec![0; percentiles.len().min(100)]);
        }
        history
            .base_fee_per_gas
            .push(ledger.head.header.base_fee_per_gas.unwrap_or_default().into());
        history.base_fee_per_blob_gas.push(1);
        history.reward = (!percentiles.is_empty()).then_some(rewards);
        to_json(&history)
    }

    fn logs(&self, params: &Params) -> Answer {
        let filter: Filter = params.required(0)?;
        let ledger = self.caught_up();
        let newest = ledger.head.header.number;
        let (from, to) = match filter.block_option {
            FilterBlockOption::AtBlockHash(hash) => {
                let block = ledger.store.block_by_hash(hash).map_err(EvmError::from)?;
                let number =
                    block.ok_or_else(|| RpcError::new(-32000, "unknown block"))?.header.number;
                (number, number)
            }
            FilterBlockOption::Range { from_block, to_block } => (
                block_number(&ledger, from_block.unwrap_or_default()),
                block_number(&ledger, to_block.unwrap_or_default()).min(newest),
            ),
        };
        if from > to {
            return match from > newest {
                true => Ok(json!([])),
                false => Err(RpcError::invalid_params("invalid block range")),
            };
        }
        if to - from >= LOG_RANGE_MAX {
            return Err(RpcError::new(
                -32005,
                format!("block range too wide: at most {LOG_RANGE_MAX} blocks"),
            ));
        }
        let mut found = Vec::new();
        let only = match filter.address.len() {
            1 => filter.address.iter().next().copied(),
            _ => None,
        };
        let visit = |record: LogRecord| {
            if filter.matches_address(record.log.address)
                && filter.matches_topics(record.log.topics())
            {
                found.push(record);
            }
            found.len() <= LOGS_MAX
        };
        ledger.store.scan_logs(from, to, only, visit).map_err(EvmError::from)?;
        if found.len() > LOGS_MAX {
            return Err(RpcError::new(
                -32005,
                format!("query returned more than {LOGS_MAX} results; narrow the block range"),
            ));
        }
        let mut logs = Vec::with_capacity(found.len());
        let mut block: Option<BlockRecord> = None;
        for record in found {
            if block.as_ref().is_none_or(|block| block.header.number != record.number) {
                block = ledger.store.block(record.number).map_err(EvmError::from)?;
            }
            let Some(block) = &block else {
                return Err(EvmError::from(StoreError::Damaged("log without a block")).into());
            };
            logs.push(rpc_log(block, record.position, record.log));
        }
        to_json(&logs)
    }
}

/// The parameters of a request, by position.
struct Params(Vec<Value>);

impl Params {
    fn required<T: DeserializeOwned>(&self, position: usize) -> Result<T, RpcError> {
        self.optional(position)?.ok_or_else(|| {
            RpcError::invalid_params(format!("missing value for required argument {position}"))
        })
    }

    fn optional<T: DeserializeOwned>(&self, position: usize) -> Result<Option<T>, RpcError> {
        match self.0.get(position) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|error| {
                RpcError::invalid_params(format!("invalid argument {position}: {error}"))
            }),
        }
    }
}

/// A number of seconds, plain or in hex: tools send both.
struct Secs(u64);

impl<'de> serde::Deserialize<'de> for Secs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_u64().map(Self),
            Value::String(text) => text.parse::<U64>().ok().map(|secs| Self(secs.to())),
            _ => None,
        }
        .ok_or_else(|| serde::de::Error::custom("expected a number of seconds"))
    }
}

fn to_json(value: &impl Serialize) -> Answer {
    serde_json::to_value(value).map_err(|error| RpcError::new(-32603, error.to_string()))
}

/// Method names come from outside; only their beginning is repeated.
fn shortened(method: &str) -> String {
    method.chars().take(64).filter(|c| !c.is_control()).collect()
}

fn block_number(ledger: &Ledger, tag: BlockNumberOrTag) -> u64 {
    match tag {
        BlockNumberOrTag::Number(number) => number,
        BlockNumberOrTag::Earliest => 0,
        // A block that is written is final: nobody else makes blocks.
        _ => ledger.head.header.number,
    }
}

fn find_block(ledger: &Ledger, id: BlockId) -> Result<Option<BlockRecord>, RpcError> {
    let block = match id {
        BlockId::Hash(hash) => ledger.store.block_by_hash(hash.block_hash),
        BlockId::Number(tag) => match block_number(ledger, tag) {
            number if number == ledger.head.header.number => return Ok(Some(ledger.head.clone())),
            number => ledger.store.block(number),
        },
    };
    Ok(block.map_err(EvmError::from)?)
}

fn overlay_at(ledger: &Ledger, id: Option<BlockId>) -> Result<Option<Changes>, RpcError> {
    let number = match id.unwrap_or_default() {
        BlockId::Number(tag) => block_number(ledger, tag),
        BlockId::Hash(hash) => {
            let block = ledger.store.block_by_hash(hash.block_hash).map_err(EvmError::from)?;
            block.ok_or_else(|| RpcError::new(-32000, "header for hash not found"))?.header.number
        }
    };
    if number > ledger.head.header.number {
        return Err(RpcError::new(-32000, "header not found"));
    }
    Ok(ledger.overlay(number)?)
}

fn envelope(record: &TransactionRecord) -> Result<TxEnvelope, RpcError> {
    TxEnvelope::decode_2718_exact(&record.raw)
        .map_err(|_| EvmError::from(StoreError::Damaged("transaction")).into())
}

fn transaction(block: &BlockRecord, record: &TransactionRecord) -> Result<Transaction, RpcError> {
    let envelope = envelope(record)?;
    Ok(Transaction {
        effective_gas_price: Some(envelope.effective_gas_price(block.header.base_fee_per_gas)),
        inner: Recovered::new_unchecked(envelope, record.sender),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        transaction_index: Some(0),
        block_timestamp: Some(block.header.timestamp),
    })
}

fn receipt(
    block: &BlockRecord,
    record: &TransactionRecord,
) -> Result<TransactionReceipt, RpcError> {
    let envelope = envelope(record)?;
    let mut position = 0;
    let inner = record.receipt.clone().map_logs(|log| {
        position += 1;
        rpc_log(block, position - 1, log)
    });
    Ok(TransactionReceipt {
        inner,
        transaction_hash: record.hash,
        transaction_index: Some(0),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        gas_used: block.header.gas_used,
        effective_gas_price: envelope.effective_gas_price(block.header.base_fee_per_gas),
        blob_gas_used: None,
        blob_gas_price: None,
        from: record.sender,
        to: envelope.to(),
        contract_address: envelope.is_create().then(|| record.sender.create(envelope.nonce())),
    })
}

fn rpc_log(block: &BlockRecord, position: u64, log: alloy_primitives::Log) -> Log {
    Log {
        inner: log,
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        block_timestamp: Some(block.header.timestamp),
        transaction_hash: block.transaction.as_ref().map(|record| record.hash),
        transaction_index: Some(0),
        log_index: Some(position),
        removed: false,
    }
}

fn rpc_block(block: &BlockRecord, full: bool) -> Result<Block, RpcError> {
    let transactions = match full {
        true => BlockTransactions::Full(
            block
                .transaction
                .iter()
                .map(|record| transaction(block, record))
                .collect::<Result<_, _>>()?,
        ),
        false => {
            BlockTransactions::Hashes(block.transaction.iter().map(|record| record.hash).collect())
        }
    };
    let size = alloy_rlp::Encodable::length(&block.header)
        + block.transaction.as_ref().map_or(0, |record| record.raw.len());
    let header = block.header.clone().seal_unchecked(block.hash);
    Ok(Block {
        header: Header::from_consensus(header, None, Some(U256::from(size))),
        uncles: Vec::new(),
        transactions,
        withdrawals: Some(Default::default()),
    })
}
