//! What reaches the chain's side: JSON-RPC requests, raw transactions, revert data, and what a
//! node answers.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use alloy_json_rpc::{RequestPacket, ResponsePacket};
use alloy_primitives::keccak256;
use alloy_rpc_client::RpcClient;
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use serde_json::{Value, json};
use sparewire_chain::{
    Allowance, Deployment, EmbeddedChain, Endpoint, EvmChain, EvmError, Finality, Genesis, Journal,
    Options, Place, Policy, deploy, fuzzing,
};
use sparewire_core::{Address, Amount, B256, ChannelId, Domain, Signer, U256};
use sparewire_protocol::{
    ChannelConfig,
    settlement::{Chain, ChainError, Intent},
};
use tokio::runtime::Runtime;
use tower::Service;

use super::{assert_tame, wallet::key, within};

/// EIP-155 id of the chains here.
pub(super) const CHAIN_ID: u64 = 21_335;
/// When everything happens, in seconds since the epoch.
pub(super) const NOW_SECS: u64 = 1_800_000_000;
/// Most gas of a block: it bounds how long one input runs.
const GAS_LIMIT: u64 = 8_000_000;
/// Longest error.
const WORDS_MAX: usize = 2048;

/// Where the contracts are on a chain of [`open`].
pub(super) fn contracts() -> Deployment {
    let contract = key().address().create(1);
    Deployment { token: key().address().create(0), domain: Domain { chain_id: CHAIN_ID, contract } }
}

/// A chain where gas is free, so that whoever an input turns out to be signed by can run it.
pub(super) fn open(place: Place, dev_methods: bool) -> Result<EmbeddedChain, EvmError> {
    let mut genesis = Genesis::new(CHAIN_ID).fund(key().address(), U256::from(1u64 << 60));
    (genesis.base_fee_wei, genesis.gas_limit) = (0, GAS_LIMIT);
    let clock = Arc::new(|| NOW_SECS);
    EmbeddedChain::open(place, genesis, Options { clock, dev_methods, ..Options::default() })
}

/// A chain with the contracts on it, one open channel and a deposit.
pub(super) fn furnish(chain: &EmbeddedChain) {
    let endpoint = || Endpoint::Embedded(chain.clone());
    let furnished = runtime().block_on(async {
        let deployed = deploy(endpoint(), Arc::new(wallet()), policy()).await?;
        assert_eq!(deployed, contracts());
        let (domain, token) = (deployed.domain, deployed.token);
        let journal = Journal::in_memory()?;
        let chain =
            EvmChain::connect(endpoint(), domain, Arc::new(wallet()), journal, policy()).await?;
        let amount = Amount::new(1_000_000).expect("in range");
        chain.mint(token, chain.wallet(), amount).await?;
        chain.perform(&Intent::Deposit { token, amount }).await?;
        let half = Amount::new(500_000).expect("in range");
        chain.perform(&Intent::Open { channels: vec![(config(), half)] }).await
    });
    furnished.expect("a chain in memory takes them");
}

/// The wallet that sends what is sent.
pub(super) fn wallet() -> sparewire_wallet::LocalKey {
    sparewire_wallet::LocalKey::from_secret(&key().secret()).expect("a scalar")
}

/// A channel of ours to ourselves.
pub(super) fn config() -> ChannelConfig {
    let address = key().address();
    ChannelConfig {
        payer: address,
        payer_authorizer: address,
        payee: address,
        payee_authorizer: address,
        token: contracts().token,
        withdraw_delay_secs: 900,
        salt: 7,
    }
}

/// Everything is final at once, and nothing is waited for.
pub(super) fn policy() -> Policy {
    Policy {
        finality: Finality::Blocks(0),
        poll: Duration::from_millis(1),
        retry_for: Duration::ZERO,
        allowance: Allowance::Exact,
        ..Policy::default()
    }
}

/// The same, without patience.
pub(super) fn hasty() -> Policy {
    Policy { patience: Duration::ZERO, bump_after: Duration::ZERO, ..policy() }
}

pub(super) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("the system has room for a runtime")
}

/// Hands a furnished chain to `work` and takes back what it did.
fn with_chain<T>(work: impl FnOnce(&EmbeddedChain) -> T) -> T {
    thread_local! {
        static CHAIN: (EmbeddedChain, u64) = {
            let chain = open(Place::Memory, false).expect("there is memory for a chain");
            furnish(&chain);
            let number = chain.block_number();
            (chain, number)
        };
    }
    CHAIN.with(|(chain, number)| {
        let result = work(chain);
        let more = chain.block_number().checked_sub(*number).expect("blocks stay");
        if more > 0 {
            chain.rollback(more).expect("a few blocks can be taken back");
        }
        result
    })
}

/// A body that is posted to the JSON-RPC port.
pub fn rpc(data: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Value>(data) else { return };
    // What shifts time and takes blocks back leaves nothing behind: it has a chain of its own.
    if data.windows(4).any(|window| window == b"evm_") {
        let chain = open(Place::Memory, true).expect("there is memory for a chain");
        assert_answered(&request, &chain.handle(request.clone()));
    } else {
        with_chain(|chain| assert_answered(&request, &chain.handle(request.clone())));
    }
}

fn assert_answered(request: &Value, answer: &Value) {
    match (request, answer) {
        (Value::Array(requests), Value::Array(answers)) => {
            assert!(!answers.is_empty() && answers.len() <= requests.len());
            answers.iter().for_each(assert_answer);
        }
        (Value::Array(_), Value::Null) => {}
        (Value::Array(requests), answer) => {
            assert!(requests.is_empty() || requests.len() > 1_000, "a batch's answers are a list");
            assert_answer(answer);
        }
        (request, Value::Null) => assert!(request.get("id").is_none(), "who asks is answered"),
        (request, answer) => {
            assert_answer(answer);
            let id = request.get("id").unwrap_or(&Value::Null);
            let is_id = matches!(id, Value::Null | Value::String(_) | Value::Number(_));
            assert_eq!(&answer["id"], if is_id { id } else { &Value::Null });
        }
    }
}

fn assert_answer(answer: &Value) {
    assert_eq!(answer["jsonrpc"], "2.0");
    let (result, error) = (answer.get("result"), answer.get("error"));
    assert!(result.is_some() != error.is_some(), "{answer}");
    if let Some(error) = error {
        assert!(error["code"].is_i64() && error["message"].is_string(), "{answer}");
        assert_ne!(error["code"], -32603, "the node itself is in trouble: {answer}");
    }
}

/// A signed transaction.
pub fn raw_transaction(data: &[u8]) {
    with_chain(|chain| {
        let before = chain.block_number();
        match chain.submit(data) {
            Ok(hash) => {
                assert_eq!(hash, keccak256(data), "one transaction has one encoding");
                assert_eq!(chain.block_number(), before + 1);
                let sent = ask(chain, "eth_getTransactionByHash", hash);
                let receipt = ask(chain, "eth_getTransactionReceipt", hash);
                assert_eq!(sent["hash"], json!(hash));
                assert_eq!(receipt["transactionHash"], json!(hash));
                assert_eq!(sent["from"], receipt["from"]);
            }
            Err(EvmError::Rejected(words)) => {
                assert_eq!(chain.block_number(), before);
                assert_tame(&words, WORDS_MAX);
            }
            Err(error) => panic!("{error}"),
        }
    });
}

fn ask(chain: &EmbeddedChain, method: &str, hash: B256) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [hash] });
    chain.handle(request)["result"].take()
}

/// What a contract that anybody may have written reverts with.
pub fn revert_reason(data: &[u8]) {
    let words = within((64 << 10) + 16 * data.len(), || fuzzing::reason_in_words(data));
    assert!(!words.is_empty());
    assert_tame(&words, WORDS_MAX);
}

/// What a node answers, a line for each of our questions: a JSON result, `!` and an error object,
/// or `@` and a whole body. The first byte says what we ask.
pub fn node_answers(data: &[u8]) {
    thread_local! {
        static CLIENT: RefCell<(Runtime, Script, EvmChain)> = RefCell::new({
            let (runtime, script) = (runtime(), Script::default());
            let chain = runtime.block_on(connect(&script)).expect("it answers as it should");
            (runtime, script, chain)
        });
    }
    let Some((&question, answers)) = data.split_first() else { return };
    CLIENT.with_borrow(|(runtime, script, chain)| {
        let read = answers.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let (token, address) = (contracts().token, key().address());
        let amount = Amount::new(1_000).expect("in range");
        let asked = runtime.block_on(async {
            match question % 8 {
                0 => {
                    script.say(read);
                    let head = chain.head().await?;
                    assert!(head.final_number <= head.number);
                }
                1 => {
                    script.say(read);
                    if let Some(facts) = chain.channel(ChannelId(B256::repeat_byte(1))).await? {
                        assert!(facts.reserved <= Amount::MAX && facts.claimed <= Amount::MAX);
                    }
                }
                2 => {
                    script.say(read);
                    let funds = chain.funds(address, token).await?;
                    assert!(funds.deposit <= Amount::MAX && funds.claimable <= Amount::MAX);
                }
                3 => {
                    script.say(read);
                    let token = chain.token(token).await?;
                    assert!(token.symbol.chars().count() <= 32);
                    assert_tame(&token.symbol, 4 * 32);
                }
                4 => {
                    script.say(read);
                    let client = RpcClient::new(script.clone(), true);
                    let endpoint = Endpoint::Client { client, name: "the node".to_owned() };
                    let (domain, journal) = (contracts().domain, Journal::in_memory()?);
                    let policy = Policy { finality: Policy::default().finality, ..hasty() };
                    EvmChain::connect(endpoint, domain, Arc::new(wallet()), journal, policy)
                        .await?
                        .head()
                        .await?;
                }
                kind => {
                    let intent = match kind {
                        5 => Intent::Deposit { token, amount },
                        6 => Intent::Sweep { payee: address, token },
                        _ => Intent::TopUp { config: config(), amount },
                    };
                    let chain = connect(script).await?;
                    script.say(read);
                    let outcome = chain.perform(&intent).await?;
                    let _ = outcome.gas_used();
                }
            }
            Ok::<(), ChainError>(())
        });
        if let Err(error) = asked {
            assert_tame(&error, WORDS_MAX);
        }
    });
}

/// A client of a node that is honest until it is connected.
async fn connect(script: &Script) -> Result<EvmChain, ChainError> {
    let domain = contracts().domain;
    script.say(
        [
            json!("0x5357"),
            json!("0x01"),
            json!({ "number": "0x10", "timestamp": "0x6b49d200", "baseFeePerGas": "0x1" }),
            json!(domain.separator()),
        ]
        .map(|answer| answer.to_string().into_bytes())
        .into(),
    );
    let client = RpcClient::new(script.clone(), true);
    let endpoint = Endpoint::Client { client, name: "the node".to_owned() };
    let journal = Journal::in_memory()?;
    EvmChain::connect(endpoint, domain, Arc::new(wallet()), journal, hasty()).await
}

/// A node that says what it was told to say, and then nothing.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Script {
    fn say(&self, answers: VecDeque<Vec<u8>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }

    fn next(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Service<RequestPacket> for Script {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: RequestPacket) -> Self::Future {
        let answer = self.next();
        Box::pin(async move {
            let Some(answer) = answer else {
                return Err(TransportErrorKind::custom_str("connection refused"));
            };
            let body = match answer.split_first() {
                Some((b'@', body)) => body.to_vec(),
                Some((b'!', error)) => enclose("error", error),
                _ => enclose("result", &answer),
            };
            serde_json::from_slice(&body)
                .map_err(|error| TransportError::deser_err(error, String::new()))
        })
    }
}

fn enclose(name: &str, value: &[u8]) -> Vec<u8> {
    [format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"{name}\":").as_bytes(), value, b"}"].concat()
}

/// Some address that nothing is at.
pub(super) const NOBODY: Address = Address::repeat_byte(0xee);
