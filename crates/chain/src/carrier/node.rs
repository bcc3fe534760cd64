//! One EVM node: requests with timeouts, and answers parsed into what we need.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy_json_rpc::{ErrorPayload, RpcError, RpcRecv, RpcSend};
use alloy_primitives::{Bytes, U64, U128, U256};
use alloy_rpc_client::RpcClient;
use alloy_transport::TransportErrorKind;
use serde::Deserialize;
use serde_json::Value;
use sparewire_protocol::settlement::{ChainError, Head};

use super::{Finality, Policy};
use crate::{
    evm::EmbeddedChain,
    rpc::{HttpTransport, InProcess},
};

/// Words of nodes that do not have a block yet, or have it no more after a reorganisation: it will
/// come.
const TOO_NEW: [&str; 5] =
    ["header not found", "block not found", "unknown block", "out of range", "requested was"];

/// Words of nodes that limit our requests.
const LIMITING: [&str; 3] = ["rate limit", "too many requests", "request limit"];

/// A node may ask for longer, and is asked again all the same.
const LIMITED_MAX: Duration = Duration::from_secs(600);

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
    /// Several of these at once. What money depends on is what `quorum` of them say; those that are
    /// silent, behind, or contradict the others hold nothing up.
    Several {
        /// Each of them.
        endpoints: Vec<Endpoint>,
        /// How many must say the same: with 1 any of them is believed.
        quorum: usize,
    },
}

impl Endpoint {
    /// What may be shown of it: no user, password, path or query, where keys are kept.
    pub fn name(&self) -> String {
        match self {
            Self::Embedded(_) => "the embedded chain".to_owned(),
            Self::Client { name, .. } => name.clone(),
            Self::Several { endpoints, .. } => {
                endpoints.iter().map(Self::name).collect::<Vec<_>>().join(", ")
            }
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
#[derive(Clone, Debug)]
pub(crate) enum NodeError {
    /// It answered with an error.
    Refused { code: i64, message: String, revert: Option<Bytes> },
    /// It did not answer, or not in time.
    Silent(String),
    /// It answered with something else.
    Nonsense(String),
    /// It limits our requests (HTTP 429), and may say for how long.
    Limited(Option<Duration>),
}

impl NodeError {
    /// For how long it does not want to be asked: `None` where it is not that; nothing where it does
    /// not say.
    pub(crate) fn limit(&self) -> Option<Duration> {
        match self {
            Self::Limited(after) => Some(after.unwrap_or_default().min(LIMITED_MAX)),
            // A contract may use such words too.
            _ if self.is_revert() => None,
            Self::Refused { code: -32005 | -32029 | 429, .. } => Some(Duration::ZERO),
            Self::Refused { message, .. } if says(message, &LIMITING) => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Whether it is worth asking again: it was silent, overloaded, or has trouble of its own.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Nonsense(_) | Self::Limited(_) => true,
            Self::Refused { revert: Some(_), .. } => false,
            Self::Refused { code, message, .. } => {
                // -32603: the node's own trouble.
                self.limit().is_some() || *code == -32603 || says(message, &TOO_NEW)
            }
        }
    }

    /// Whether it does not have what was asked about: a block that is too new for it, or too old.
    fn is_lack(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        !self.is_revert()
            && (says(message, &TOO_NEW) || says(message, &["missing trie node", "pruned"]))
    }

    /// Whether it would answer if it were asked for fewer blocks at a time.
    pub(crate) fn is_too_much(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        !self.is_revert()
            && !says(message, &["too many requests", "rate limit"])
            && says(
                message,
                &[
                    "query returned more than",
                    "more than 10000 results",
                    "too many results",
                    "too many logs",
                    "block range",
                    "blocks range",
                    "range is too",
                    "range too",
                    "response size",
                    "response is too big",
                    "query timeout",
                    "context deadline exceeded",
                ],
            )
    }

    /// Whether it has dropped what is so old (EIP-4444 and pruned nodes).
    pub(crate) fn is_history_gone(&self) -> bool {
        let Self::Refused { code, message, .. } = self else { return false };
        let words =
            ["pruned", "history unavailable", "historical", "missing trie node", "not kept"];
        !self.is_revert() && (*code == 4444 || says(message, &words))
    }

    /// Whether it serves nothing now, or not us, whatever is asked.
    pub(crate) fn is_silence(&self) -> bool {
        let Self::Refused { message, .. } = self else { return true };
        if self.is_too_much() || self.is_history_gone() {
            return false;
        }
        !self.is_revert()
            && !self.is_lack()
            && (self.is_passing() || says(message, &["quota", "unauthorized"]))
    }

    /// Whether that is its answer, to be weighed as any other.
    pub(crate) fn is_verdict(&self) -> bool {
        !self.is_silence() && !self.is_lack() && !self.is_too_much() && !self.is_history_gone()
    }

    /// Whether the contract refuses, and not the node.
    pub(crate) fn is_revert(&self) -> bool {
        matches!(self, Self::Refused { code: 3, .. } | Self::Refused { revert: Some(_), .. })
    }

    /// Whether another node's refusal is the same: by its data where both give it, for not all do,
    /// and the words are each client's own.
    pub(crate) fn says_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused { revert: Some(a), .. }, Self::Refused { revert: Some(b), .. }) => {
                a == b
            }
            (Self::Refused { .. }, Self::Refused { .. }) => true,
            _ => false,
        }
    }
}

fn says(message: &str, words: &[&str]) -> bool {
    let message = message.to_ascii_lowercase();
    words.iter().any(|word| message.contains(word))
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(reason) | Self::Nonsense(reason) => f.write_str(reason),
            Self::Refused { code, message, .. } => write!(f, "{message} ({code})"),
            Self::Limited(None) => f.write_str("it limits our requests"),
            Self::Limited(Some(after)) => {
                write!(f, "it limits our requests, for {} s", after.as_secs())
            }
        }
    }
}

/// What we need of a block.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockFacts {
    pub(crate) number: U64,
    pub(crate) timestamp: U64,
    /// Absent on chains without EIP-1559.
    pub(crate) base_fee_per_gas: Option<U128>,
    pub(crate) gas_limit: Option<U64>,
}

/// What we need of a receipt.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
    /// What it costs now, at most `max_fee`.
    pub(crate) expected: u128,
    pub(crate) max_fee: u128,
    /// `None` on chains without EIP-1559.
    pub(crate) tip: Option<u128>,
}

/// One node.
#[derive(Clone)]
pub(crate) struct Node {
    client: RpcClient,
    name: String,
    request_timeout: Duration,
    finality: Finality,
    /// Blocks behind the newest one, or `None` for the `finalized` tag; known once it has answered.
    final_depth: Arc<OnceLock<Option<u64>>>,
}

impl Node {
    /// A node that has not been asked anything yet.
    pub(crate) fn new(endpoint: Endpoint, policy: &Policy) -> Result<Self, ChainError> {
        let name = endpoint.name();
        let unreachable =
            |reason: String| ChainError::Unreachable { endpoint: name.clone(), reason };
        let client = match endpoint {
            Endpoint::Embedded(chain) => RpcClient::new(InProcess::new(chain), true),
            Endpoint::Client { client, .. } => client,
            Endpoint::Several { .. } => {
                return Err(unreachable("several nodes cannot be one of several".into()));
            }
            Endpoint::Http(url) => {
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
        Ok(Self {
            client,
            name,
            request_timeout: policy.request_timeout,
            finality: policy.finality,
            final_depth: Arc::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// One request, one answer, in time.
    pub(crate) async fn ask<P: RpcSend, R: RpcRecv>(
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

    async fn block(&self, tag: &'static str) -> Result<Option<BlockFacts>, NodeError> {
        self.ask("eth_getBlockByNumber", (tag, false)).await
    }

    pub(crate) async fn newest(&self) -> Result<BlockFacts, NodeError> {
        self.block("latest").await?.ok_or(NodeError::Nonsense("no newest block".to_owned()))
    }

    /// How far it is.
    pub(crate) async fn head(&self) -> Result<Head, NodeError> {
        let depth = match (self.final_depth.get(), self.finality) {
            (Some(depth), _) => *depth,
            (None, Finality::Blocks(depth)) => Some(depth),
            (None, Finality::Finalized { else_blocks }) => match self.block("finalized").await {
                Ok(Some(_)) => *self.final_depth.get_or_init(|| None),
                // It has no such block yet, or a node behind the same URL has not.
                Ok(None) => Some(else_blocks),
                // It knows no such tag.
                Err(error @ NodeError::Refused { .. }) if error.is_verdict() => {
                    *self.final_depth.get_or_init(|| Some(else_blocks))
                }
                Err(error) => return Err(error),
            },
        };
        let newest = self.newest().await?;
        let number = newest.number.to::<u64>();
        let final_number = match depth {
            Some(depth) => number.saturating_sub(depth),
            // Who once told it has not lost it: to count blocks instead would be to trust less.
            None => match self.block("finalized").await {
                Ok(Some(block)) => block.number.to(),
                Err(error) if !error.is_verdict() => return Err(error),
                _ => return Err(NodeError::Nonsense("it told no final block".to_owned())),
            },
        };
        Ok(Head {
            number: number.max(final_number),
            time_secs: newest.timestamp.to(),
            final_number,
        })
    }
}

fn classify(error: RpcError<TransportErrorKind>) -> NodeError {
    match error {
        RpcError::ErrorResp(payload) => {
            let revert = payload.as_revert_data().or_else(|| nested_revert(&payload));
            // Words from outside: bounded, and nothing that moves a terminal's cursor.
            let message = payload.message.chars().filter(|c| !c.is_control()).take(300).collect();
            NodeError::Refused { code: payload.code, message, revert }
        }
        RpcError::DeserError { err, .. } => NodeError::Nonsense(err.to_string()),
        RpcError::NullResp => NodeError::Nonsense("null".to_owned()),
        RpcError::Transport(TransportErrorKind::HttpError(error)) if error.status == 429 => {
            NodeError::Limited(error.body.parse().ok().map(Duration::from_secs))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i64, message: &str) -> NodeError {
        NodeError::Refused { code, message: message.to_owned(), revert: None }
    }

    #[test]
    fn a_node_that_limits_us_is_asked_again_however_it_says_so() {
        for limited in [
            NodeError::Limited(Some(Duration::from_secs(7))),
            refused(-32005, "daily request count exceeded"),
            refused(-32029, "slow down"),
            refused(429, "no"),
            refused(-32000, "Too Many Requests"),
            refused(-32000, "your request limit is reached"),
            refused(-32000, "rate limited"),
        ] {
            assert!(limited.limit().is_some(), "{limited:?}");
            assert!(limited.is_passing() && limited.is_silence(), "{limited:?}");
            assert!(!limited.is_verdict() && !limited.is_too_much(), "{limited:?}");
        }
        // A contract's own words are its answer, and so is a refusal of another kind.
        for verdict in [refused(3, "execution reverted: too many requests"), refused(-32602, "no")]
        {
            assert_eq!(verdict.limit(), None, "{verdict:?}");
            assert!(!verdict.is_passing() && verdict.is_verdict(), "{verdict:?}");
        }
    }
}
