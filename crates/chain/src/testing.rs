//! What tests share: keys, chains, and a node that misbehaves on command.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_json_rpc::{RequestPacket, ResponsePacket};
use alloy_primitives::{
    Address, B256, Bytes, Signature as AlloySignature, TxKind, U256, keccak256,
};
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use serde_json::{Value, json};
use sparewire_core::{Signature, Signer, SignerError};
use tokio::sync::Notify;
use tower::Service;

use crate::{EmbeddedChain, Genesis};

pub(crate) const CHAIN_ID: u64 = 7357;

/// A key out of thin air.
pub(crate) struct TestSigner {
    key: SecretKey,
    address: Address,
}

impl TestSigner {
    pub(crate) fn new(seed: u8) -> Self {
        let key = SecretKey::from_byte_array([seed; 32]).unwrap();
        let public = PublicKey::from_secret_key(SECP256K1, &key).serialize_uncompressed();
        Self { key, address: Address::from_slice(&keccak256(&public[1..])[12..]) }
    }

    pub(crate) fn address_of(&self) -> Address {
        self.address
    }
}

impl Signer for TestSigner {
    fn address(&self) -> Address {
        self.address
    }

    fn sign_digest(&self, digest: B256) -> Result<Signature, SignerError> {
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.key);
        let (id, rs) = signature.serialize_compact();
        Ok(Signature::from_parts(rs, i32::from(id) & 1 == 1).unwrap())
    }
}

pub(crate) fn ether(whole: u64) -> U256 {
    U256::from(whole) * U256::from(10).pow(U256::from(18))
}

pub(crate) fn genesis(seeds: &[u8]) -> Genesis {
    seeds.iter().fold(Genesis::new(CHAIN_ID), |genesis, seed| {
        genesis.fund(TestSigner::new(*seed).address(), ether(100))
    })
}

/// A transaction with sensible fields that `change` may spoil.
pub(crate) fn signed(seed: u8, change: impl FnOnce(&mut TxEip1559)) -> (B256, Bytes) {
    let mut transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        gas_limit: 21_000,
        max_fee_per_gas: 2_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0xee)),
        value: U256::from(5),
        ..TxEip1559::default()
    };
    change(&mut transaction);
    let signature = TestSigner::new(seed).sign_digest(transaction.signature_hash()).unwrap();
    let bytes = signature.to_bytes();
    let (r, s) = (U256::from_be_slice(&bytes[..32]), U256::from_be_slice(&bytes[32..64]));
    let signed = transaction.into_signed(AlloySignature::new(r, s, bytes[64] == 28));
    let envelope = TxEnvelope::Eip1559(signed);
    (*envelope.tx_hash(), envelope.encoded_2718().into())
}

/// Ends a process at a chosen moment: it holds for so many events, and then nothing is written,
/// asked or answered any more.
#[derive(Clone)]
pub(crate) struct Fuse {
    left: Arc<AtomicI64>,
    blown: Arc<Notify>,
    /// Whether this process is really killed.
    lethal: bool,
}

impl Fuse {
    /// One that holds until it is [`Fuse::arm`]ed.
    pub(crate) fn unarmed() -> Self {
        Self { left: Arc::new(AtomicI64::new(i64::MAX)), blown: Arc::default(), lethal: false }
    }

    /// One that kills this process with signal 9 when it blows.
    pub(crate) fn lethal() -> Self {
        Self { lethal: true, ..Self::unarmed() }
    }

    /// Lets `events` more happen.
    pub(crate) fn arm(&self, events: i64) {
        self.left.store(events, Ordering::SeqCst);
    }

    /// An event is about to happen: whether it may.
    pub(crate) fn holds(&self) -> bool {
        let holds = self.left.fetch_sub(1, Ordering::SeqCst) > 0;
        if !holds && self.lethal {
            let id = std::process::id().to_string();
            std::process::Command::new("kill").args(["-9", &id]).status().unwrap();
        }
        if !holds {
            self.blown.notify_one();
        }
        holds
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// Returns when it has blown.
    pub(crate) async fn blown(&self) {
        self.blown.notified().await;
    }
}

/// What a misbehaving node does with a request.
pub(crate) enum Verdict {
    /// Nothing special.
    Pass,
    /// Answers this without asking the chain.
    Result(Value),
    /// Answers with this error.
    Error(i64, &'static str),
    /// Asks the chain, and takes this field out of its answer.
    Without(&'static str),
    /// Asks the chain, and puts this into a field of its answer.
    With(&'static str, Value),
    /// Refuses to be asked so often (HTTP 429), with these words as `Retry-After`.
    Limit(&'static str),
    /// Does not answer.
    Silence,
    /// Never answers, and does not hang up.
    Hang,
    /// Hands the request to the chain, but loses the answer.
    LoseAnswer,
}

type Judge = dyn FnMut(&str, &Value) -> Verdict + Send;

/// An embedded chain behind a node that a test judges each request for.
#[derive(Clone)]
pub(crate) struct Misbehaving {
    chain: EmbeddedChain,
    judge: Arc<Mutex<Box<Judge>>>,
}

impl Misbehaving {
    pub(crate) fn endpoint(
        chain: &EmbeddedChain,
        judge: impl FnMut(&str, &Value) -> Verdict + Send + 'static,
    ) -> crate::Endpoint {
        Self::named("the misbehaving node", chain, judge)
    }

    pub(crate) fn named(
        name: &str,
        chain: &EmbeddedChain,
        judge: impl FnMut(&str, &Value) -> Verdict + Send + 'static,
    ) -> crate::Endpoint {
        let node = Self { chain: chain.clone(), judge: Arc::new(Mutex::new(Box::new(judge))) };
        let client = alloy_rpc_client::RpcClient::new(node, true);
        crate::Endpoint::Client { client, name: name.to_owned() }
    }
}

impl Service<RequestPacket> for Misbehaving {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let request = serde_json::to_value(&request).unwrap();
            let method = request["method"].as_str().unwrap_or_default();
            let verdict = (this.judge.lock().unwrap())(method, &request["params"]);
            let answer = match verdict {
                Verdict::Pass => this.chain.handle(request),
                Verdict::Result(result) => {
                    json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })
                }
                Verdict::Error(code, message) => {
                    json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": message } })
                }
                Verdict::Without(field) => {
                    let mut answer = this.chain.handle(request);
                    answer["result"].as_object_mut().unwrap().remove(field);
                    answer
                }
                Verdict::With(field, value) => {
                    let mut answer = this.chain.handle(request);
                    answer["result"][field] = value;
                    answer
                }
                Verdict::Limit(after) => {
                    return Err(TransportErrorKind::http_error(429, after.to_owned()));
                }
                Verdict::Silence => {
                    return Err(TransportErrorKind::custom_str("connection refused"));
                }
                Verdict::Hang => std::future::pending().await,
                Verdict::LoseAnswer => {
                    this.chain.handle(request);
                    return Err(TransportErrorKind::custom_str("connection reset"));
                }
            };
            Ok(serde_json::from_str(&answer.to_string()).unwrap())
        })
    }
}
