//! JSON-RPC 2.0 for the embedded chain: what Ethereum tools speak, over loopback HTTP
//! ([`serve`]) or without any port ([`InProcess`]).

mod methods;
mod server;
mod transport;

use serde_json::{Value, json};

pub use server::{ServeError, Server, serve};
pub(crate) use transport::HttpTransport;
pub use transport::InProcess;

use crate::evm::{EmbeddedChain, EvmError};

/// Most requests of one batch; clients that batch more split, and one batch holds the chain's lock
/// for each of its requests.
const BATCH_MAX: usize = 1_000;

/// An error as JSON-RPC carries it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Value>,
}

impl RpcError {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub(crate) fn parse(error: &serde_json::Error) -> Self {
        Self::new(-32700, format!("parse error: {error}"))
    }

    fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(-32600, message)
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    /// The whole response.
    pub(crate) fn into_response(self, id: Value) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = self.data {
            error["data"] = data;
        }
        json!({ "jsonrpc": "2.0", "id": id, "error": error })
    }
}

impl From<EvmError> for RpcError {
    fn from(error: EvmError) -> Self {
        let message = match &error {
            EvmError::Reverted { data } => {
                let reason = crate::contracts::plain_reason(data);
                let message =
                    reason.map_or_else(|| error.to_string(), |reason| format!("{error}: {reason}"));
                return Self { code: 3, message, data: Some(json!(data)) };
            }
            _ => error.to_string(),
        };
        let code = match error {
            // The node's own trouble, not the request's.
            EvmError::Store(_) => -32603,
            _ => -32000,
        };
        Self::new(code, message)
    }
}

impl EmbeddedChain {
    /// Answers a JSON-RPC request or a batch of them. `Null` where there is nothing to answer: a
    /// notification, or a batch of nothing else.
    pub fn handle(&self, request: Value) -> Value {
        match request {
            Value::Array(batch) if batch.is_empty() => {
                RpcError::invalid_request("invalid request: empty batch").into_response(Value::Null)
            }
            Value::Array(batch) if batch.len() > BATCH_MAX => {
                RpcError::invalid_request(format!("batch too large: at most {BATCH_MAX} requests"))
                    .into_response(Value::Null)
            }
            Value::Array(batch) => {
                let answers: Vec<_> =
                    batch.into_iter().filter_map(|request| self.handle_one(request)).collect();
                if answers.is_empty() { Value::Null } else { Value::Array(answers) }
            }
            request => self.handle_one(request).unwrap_or(Value::Null),
        }
    }

    fn handle_one(&self, mut request: Value) -> Option<Value> {
        let Some(fields) = request.as_object_mut() else {
            let error = RpcError::invalid_request("invalid request: not an object");
            return Some(error.into_response(Value::Null));
        };
        let id = fields.remove("id");
        let invalid = |message: &str| {
            let id = id.clone().filter(is_id).unwrap_or_default();
            Some(RpcError::invalid_request(message).into_response(id))
        };
        if fields.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return invalid("invalid request: jsonrpc must be \"2.0\"");
        }
        if id.as_ref().is_some_and(|id| !is_id(id)) {
            return invalid("invalid request: id must be a string, a number or null");
        }
        let Some(Value::String(method)) = fields.remove("method") else {
            return invalid("invalid request: no method");
        };
        let params = match fields.remove("params") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(params)) => Ok(params),
            // By-name parameters are JSON-RPC, but no Ethereum method has them.
            Some(_) => Err(RpcError::invalid_params("params must be an array")),
        };
        let result = params.and_then(|params| self.dispatch(&method, params));
        let id = id?;
        Some(match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => error.into_response(id),
        })
    }
}

fn is_id(id: &Value) -> bool {
    matches!(id, Value::Null | Value::String(_) | Value::Number(_))
}

#[cfg(test)]
mod tests;
