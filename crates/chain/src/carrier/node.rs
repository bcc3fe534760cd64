//! One EVM node: requests with timeouts and retries, and answers parsed into what we need.

use std::{fmt, time::Duration};

use alloy_json_rpc::{ErrorPayload, RpcError, RpcRecv, RpcSend};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use alloy_rpc_client::RpcClient;
use serde::Deserialize;
use serde_json::{Value, json};
use sparewire_protocol::settlement::{ChainError, Head};

use super::{Finality, Policy};
use crate::{
    evm::EmbeddedChain,
    rpc::{HttpTransport, InProcess},
};

/// Where an EVM chain is reached.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A chain in this process.
    Embedded(EmbeddedChain),
    /// A node's HTTP(S) URL. Credentials in it are never shown.
    Http(String),
    /// Any alloy client, with the name that errors show for it.
    Client {
        /// The client.
        client: RpcClient,
        /// Its name.
        name: String,
    },
}

impl Endpoint {
    /// What may be shown of it: no user, password, path or query, where keys are kept.
    pub fn name(&self) -> String {
        match self {
            Self::Embedded(_) => "the embedded chain".to_owned(),
            Self::Client { name, .. } => name.clone(),
            Self::Http(url) => match reqwest::Url::parse(url) {
                Ok(url) => {
                    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
                }
                Err(_) => "(malformed URL)".to_owned(),
            },
        }
    }
}

/// Why a node did not give an answer.
#[derive(Debug)]
pub(crate) enum NodeError {
    /// It answered with an error.
    Refused { code: i64, message: String, revert: Option<Bytes> },
    /// It did not answer, or not in time.
    Silent(String),
    /// It answered with something else.
    Nonsense(String),
}

/// What we need of a block.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockFacts {
    pub(crate) number: U64,
    pub(crate) timestamp: U64,
    /// Absent on chains without EIP-1559.
    pub(crate) base_fee_per_gas: Option<U128>,
}

/// What we need of a receipt.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReceiptFacts {
    pub(crate) block_number: Option<U64>,
    pub(crate) status: Option<U64>,
    pub(crate) gas_used: U64,
    pub(crate) effective_gas_price: Option<U128>,
    /// What a rollup adds for its data on the chain below (OP stack).
    pub(crate) l1_fee: Option<U256>,
}

impl ReceiptFacts {
    /// Before Byzantium there was no status; no chain of today lacks it.
    pub(crate) fn succeeded(&self) -> bool {
        self.status != Some(U64::ZERO)
    }

    pub(crate) fn fee_wei(&self) -> u128 {
        let price = self.effective_gas_price.map_or(0, |price| price.to());
        let l1: u128 = self.l1_fee.map_or(0, |fee| fee.saturating_to());
        u128::from(self.gas_used.to::<u64>()).saturating_mul(price).saturating_add(l1)
    }
}

/// What a unit of gas may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fees {
    pub(crate) max_fee: u128,
    /// `None` on chains without EIP-1559.
    pub(crate) tip: Option<u128>,
}

/// A node and how patient we are with it.
#[derive(Clone)]
pub(crate) struct Node {
    client: RpcClient,
    name: String,
    request_timeout: Duration,
    retry_for: Duration,
    /// Blocks behind the newest one, or `None` for the `finalized` tag.
    final_depth: Option<u64>,
    fee_max_wei: u128,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.name).finish()
    }
}

impl Node {
    /// A node whose notion of finality is settled by asking it.
    pub(crate) async fn connect(endpoint: Endpoint, policy: &Policy) -> Result<Self, ChainError> {
        let name = endpoint.name();
        let client = match endpoint {
            Endpoint::Embedded(chain) => RpcClient::new(InProcess::new(chain), true),
            Endpoint::Client { client, .. } => client,
            Endpoint::Http(url) => {
                let unreachable =
                    |reason: String| ChainError::Unreachable { endpoint: name.clone(), reason };
                let url = reqwest::Url::parse(&url)
                    .map_err(|error| unreachable(format!("malformed URL: {error}")))?;
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(unreachable("its URL must begin with http:// or https://".into()));
                }
                let transport = HttpTransport::new(url, policy.request_timeout)
                    .map_err(|error| unreachable(error.without_url().to_string()))?;
                RpcClient::new(transport, false)
            }
        };
        let mut node = Self {
            client,
            name,
            request_timeout: policy.request_timeout,
            retry_for: policy.retry_for,
            final_depth: None,
            fee_max_wei: policy.fee_max_wei,
        };
        node.final_depth = match policy.finality {
            Finality::Blocks(depth) => Some(depth),
            Finality::Finalized { else_blocks } => match node.block("finalized").await {
                Ok(Some(_)) => None,
                // The node answers, but knows no such tag or has no such block yet.
                Ok(None) | Err(NodeError::Refused { .. }) => Some(else_blocks),
                Err(error) => return Err(node.blame(error)),
            },
        };
        Ok(node)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// One request, one answer, in time.
    pub(crate) async fn ask_once<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, NodeError> {
        let request = self.client.request::<P, R>(method, params);
        match tokio::time::timeout(self.request_timeout, request).await {
            Err(_) => {
                let secs = self.request_timeout.as_secs_f32();
                Err(NodeError::Silent(format!("no answer within {secs} s")))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(classify(error)),
        }
    }

    /// Asks again, with growing pauses, while the node is silent or overloaded.
    pub(crate) async fn ask<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, NodeError> {
        let started = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let error = match self.ask_once(method, params.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match &error {
                NodeError::Silent(_) | NodeError::Nonsense(_) => true,
                NodeError::Refused { revert: Some(_), .. } => false,
                NodeError::Refused { code, message, .. } => {
                    // -32005 and 429: too many requests; -32603: the node's own trouble.
                    matches!(code, -32005 | 429 | -32603)
                        || message.contains("header not found")
                        || message.contains("rate limit")
                }
            };
            if !again || started.elapsed() + pause > self.retry_for {
                return Err(error);
            }
            tracing::debug!(node = %self.name, method, ?error, "asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// As [`Node::ask`], for facts: whatever is no answer is the node's fault.
    pub(crate) async fn facts<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, ChainError> {
        self.ask(method, params).await.map_err(|error| self.blame(error))
    }

    pub(crate) fn blame(&self, error: NodeError) -> ChainError {
        let endpoint = self.name.clone();
        match error {
            NodeError::Silent(reason) => ChainError::Unreachable { endpoint, reason },
            NodeError::Refused { code, message, .. } => {
                ChainError::Unreachable { endpoint, reason: format!("{message} ({code})") }
            }
            NodeError::Nonsense(reason) => ChainError::Nonsense { endpoint, reason },
        }
    }

    pub(crate) async fn chain_id(&self) -> Result<u64, ChainError> {
        Ok(self.facts::<_, U64>("eth_chainId", ()).await?.to())
    }

    async fn block(&self, tag: &str) -> Result<Option<BlockFacts>, NodeError> {
        self.ask("eth_getBlockByNumber", (tag.to_owned(), false)).await
    }

    pub(crate) async fn newest(&self) -> Result<BlockFacts, ChainError> {
        let block = self.block("latest").await.map_err(|error| self.blame(error))?;
        block.ok_or_else(|| self.blame(NodeError::Nonsense("no newest block".to_owned())))
    }

    pub(crate) async fn head(&self) -> Result<Head, ChainError> {
        let newest = self.newest().await?;
        let number = newest.number.to::<u64>();
        let final_number = match self.final_depth {
            Some(depth) => number.saturating_sub(depth),
            None => {
                let block = self.block("finalized").await.map_err(|error| self.blame(error))?;
                block.map_or(0, |block| block.number.to())
            }
        };
        Ok(Head {
            number: number.max(final_number),
            time_secs: newest.timestamp.to(),
            final_number,
        })
    }

    /// Calls a contract at a block.
    pub(crate) async fn call(
        &self,
        target: Address,
        data: Bytes,
        block: u64,
    ) -> Result<Bytes, NodeError> {
        let request = json!({ "to": target, "data": data });
        self.ask("eth_call", (request, U64::from(block))).await
    }

    /// The wallet's nonce at a block, or at the newest.
    pub(crate) async fn nonce(
        &self,
        wallet: Address,
        block: Option<u64>,
    ) -> Result<u64, ChainError> {
        let block = block.map_or(json!("latest"), |number| json!(U64::from(number)));
        Ok(self.facts::<_, U64>("eth_getTransactionCount", (wallet, block)).await?.to())
    }

    pub(crate) async fn balance(
        &self,
        owner: Address,
        block: Option<u64>,
    ) -> Result<u128, ChainError> {
        let block = block.map_or(json!("latest"), |number| json!(U64::from(number)));
        let balance: U256 = self.facts("eth_getBalance", (owner, block)).await?;
        Ok(balance.saturating_to())
    }

    pub(crate) async fn code(&self, address: Address) -> Result<Bytes, ChainError> {
        self.facts("eth_getCode", (address, "latest")).await
    }

    /// The receipt of a transaction that is in a block.
    pub(crate) async fn receipt(&self, hash: B256) -> Result<Option<ReceiptFacts>, ChainError> {
        let receipt: Option<ReceiptFacts> =
            self.facts("eth_getTransactionReceipt", (hash,)).await?;
        Ok(receipt.filter(|receipt| receipt.block_number.is_some()))
    }

    pub(crate) async fn estimate_gas(&self, request: &Value) -> Result<u64, NodeError> {
        Ok(self.ask::<_, U64>("eth_estimateGas", (request.clone(),)).await?.to())
    }

    pub(crate) async fn send_raw(&self, raw: &Bytes) -> Result<B256, NodeError> {
        self.ask_once("eth_sendRawTransaction", (raw.clone(),)).await
    }

    /// What gas costs now, at most [`Policy::fee_max_wei`]: twice the base fee, so that the price
    /// covers six full blocks in a row, and the tip that the node advises.
    pub(crate) async fn fees(&self) -> Result<Fees, ChainError> {
        let Some(base) = self.newest().await?.base_fee_per_gas else {
            let price: U128 = self.facts("eth_gasPrice", ()).await?;
            return Ok(Fees { max_fee: price.to::<u128>().min(self.fee_max_wei), tip: None });
        };
        let tip = match self.ask::<_, U128>("eth_maxPriorityFeePerGas", ()).await {
            Ok(tip) => tip.to::<u128>(),
            // Not every node has the method; a gwei is what they advise.
            Err(NodeError::Refused { .. }) => 1_000_000_000,
            Err(error) => return Err(self.blame(error)),
        };
        let max_fee = base.to::<u128>().saturating_mul(2).saturating_add(tip).min(self.fee_max_wei);
        Ok(Fees { max_fee, tip: Some(tip.min(max_fee)) })
    }
}

fn classify(error: RpcError<alloy_transport::TransportErrorKind>) -> NodeError {
    match error {
        RpcError::ErrorResp(payload) => {
            let revert = payload.as_revert_data().or_else(|| nested_revert(&payload));
            // Words from outside: bounded, and nothing that moves a terminal's cursor.
            let message = payload.message.chars().filter(|c| !c.is_control()).take(300).collect();
            NodeError::Refused { code: payload.code, message, revert }
        }
        RpcError::DeserError { err, .. } => NodeError::Nonsense(err.to_string()),
        RpcError::NullResp => NodeError::Nonsense("null".to_owned()),
        RpcError::Transport(kind) => {
            // The cause at the bottom ("connection refused") says more than the top.
            let mut cause: &dyn std::error::Error = &kind;
            while let Some(source) = cause.source() {
                cause = source;
            }
            NodeError::Silent(cause.to_string())
        }
        other => NodeError::Silent(other.to_string()),
    }
}

/// Nodes differ in where they put revert data: as a string, or under `data` or `result`.
fn nested_revert(payload: &ErrorPayload) -> Option<Bytes> {
    let data: Value = serde_json::from_str(payload.data.as_ref()?.get()).ok()?;
    let text = match &data {
        Value::String(text) => text.as_str(),
        Value::Object(fields) => fields.get("data").or_else(|| fields.get("result"))?.as_str()?,
        _ => return None,
    };
    text.strip_prefix("Reverted ").unwrap_or(text).parse().ok()
}
