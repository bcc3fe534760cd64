#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    Genesis, Options, Place,
    testing::{CHAIN_ID, ether, genesis, signed},
};

fn chain() -> EmbeddedChain {
    EmbeddedChain::in_memory(genesis(&[1])).unwrap()
}

fn ask(chain: &EmbeddedChain, method: &str, params: Value) -> Value {
    chain.handle(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }))
}

fn result(chain: &EmbeddedChain, method: &str, params: Value) -> Value {
    let answer = ask(chain, method, params);
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

fn error(chain: &EmbeddedChain, method: &str, params: Value) -> (i64, String) {
    let answer = ask(chain, method, params);
    let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer}"));
    (answer["error"]["code"].as_i64().unwrap(), message.to_owned())
}

#[test]
fn requests_that_are_none_get_the_standard_codes() {
    let chain = chain();
    let code = |request: Value| chain.handle(request)["error"]["code"].as_i64();
    assert_eq!(code(json!(7)), Some(-32600));
    assert_eq!(code(json!([])), Some(-32600));
    assert_eq!(code(json!({ "id": 1, "method": "eth_chainId" })), Some(-32600), "no version");
    assert_eq!(code(json!({ "jsonrpc": "2.0", "id": 1 })), Some(-32600));
    assert_eq!(code(json!({ "jsonrpc": "2.0", "id": {}, "method": "eth_chainId" })), Some(-32600));
    let call = |method: &str, params: Value| {
        code(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }))
    };
    assert_eq!(call("eth_nonsense", json!([])), Some(-32601));
    assert_eq!(call("eth_getBalance", json!([])), Some(-32602));
    assert_eq!(call("eth_getBalance", json!(["0x12"])), Some(-32602));
    assert_eq!(call("eth_getBalance", json!({ "address": "0x" })), Some(-32602));
    assert_eq!(call("eth_chainId", json!(null)), None);
    let many = vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" }); BATCH_MAX + 1];
    assert_eq!(code(Value::Array(many)), Some(-32600));
}

#[test]
fn batches_answer_each_request_and_notifications_get_none() {
    let chain = chain();
    let id = json!({ "jsonrpc": "2.0", "id": "a", "method": "eth_chainId" });
    let silent = json!({ "jsonrpc": "2.0", "method": "eth_chainId" });
    let answers = chain.handle(json!([id, silent, 7]));
    assert_eq!(answers.as_array().map(Vec::len), Some(2));
    assert_eq!(answers[0]["id"], "a");
    assert_eq!(answers[0]["result"], format!("{CHAIN_ID:#x}"));
    assert_eq!(answers[1]["error"]["code"], -32600);
    assert_eq!(chain.handle(json!([silent])), Value::Null);
    assert_eq!(chain.handle(silent), Value::Null);
}

#[test]
fn transactions_that_break_a_rule_are_refused_in_geth_s_words() {
    let chain = chain();
    let refuse = |change: &dyn Fn(&mut alloy_consensus::TxEip1559)| {
        let (_, raw) = signed(1, change);
        let (code, message) = error(&chain, "eth_sendRawTransaction", json!([raw]));
        assert_eq!(code, -32000);
        message
    };
    assert!(
        refuse(&|tx| tx.chain_id = 1).contains("invalid chain id for signer: have 1 want 7357")
    );
    assert!(refuse(&|tx| tx.nonce = 9).starts_with("nonce too high"));
    assert!(refuse(&|tx| tx.gas_limit = 20_000).starts_with("intrinsic gas too low"));
    assert!(refuse(&|tx| tx.gas_limit = 17_000_000).starts_with("transaction gas limit too high"));
    assert!(
        refuse(&|tx| tx.value = ether(1_000)).starts_with("insufficient funds for gas * price")
    );
    assert!(
        refuse(&|tx| tx.max_fee_per_gas = 1).starts_with("max fee per gas less than block base")
    );
    let high_tip = |tx: &mut alloy_consensus::TxEip1559| tx.max_priority_fee_per_gas = 1 << 60;
    assert!(refuse(&high_tip).starts_with("max priority fee per gas higher"));

    let (hash, raw) = signed(1, |_| {});
    assert_eq!(result(&chain, "eth_sendRawTransaction", json!([raw])), json!(hash));
    assert!(error(&chain, "eth_sendRawTransaction", json!([raw])).1.starts_with("nonce too low"));
    let garbage = json!(["0xdeadbeef"]);
    assert_eq!(error(&chain, "eth_sendRawTransaction", garbage).0, -32000);
    for len in 0..raw.len() {
        let cut = Bytes::copy_from_slice(&raw[..len]);
        assert_eq!(error(&chain, "eth_sendRawTransaction", json!([cut])).0, -32000);
    }
    assert_eq!(chain.block_number(), 1);
}

#[test]
fn a_mined_transaction_is_found_by_every_method() {
    let chain = chain();
    let (hash, raw) = signed(1, |_| {});
    result(&chain, "eth_sendRawTransaction", json!([raw]));
    let to = Address::repeat_byte(0xee);
    assert_eq!(result(&chain, "eth_getBalance", json!([to, "latest"])), "0x5");
    assert_eq!(result(&chain, "eth_getBalance", json!([to, "0x0"])), "0x0", "a block ago");
    assert_eq!(error(&chain, "eth_getBalance", json!([to, "0x7"])).1, "header not found");
    let receipt = result(&chain, "eth_getTransactionReceipt", json!([hash]));
    assert_eq!(
        (&receipt["status"], &receipt["gasUsed"], &receipt["type"], &receipt["effectiveGasPrice"]),
        (&json!("0x1"), &json!("0x5208"), &json!("0x2"), &json!("0x3b9aca00"))
    );
    let block = result(&chain, "eth_getBlockByNumber", json!(["latest", true]));
    assert_eq!(block["transactions"][0]["hash"], json!(hash));
    let genesis = result(&chain, "eth_getBlockByNumber", json!(["earliest", false]));
    assert_eq!(block["parentHash"], genesis["hash"]);
    assert_eq!(result(&chain, "eth_getBlockByHash", json!([block["hash"], true])), block);
    assert_eq!(block["hash"], receipt["blockHash"]);
    // The hash is the header's own: whoever parses it comes to the same.
    let parsed: alloy_rpc_types_eth::Block = serde_json::from_value(block.clone()).unwrap();
    assert_eq!(json!(parsed.header.inner.hash_slow()), block["hash"]);
    for tag in ["finalized", "safe", "pending", "latest"] {
        let tagged = result(&chain, "eth_getBlockByNumber", json!([tag, true]));
        assert_eq!(tagged["hash"], block["hash"]);
    }
    assert_eq!(result(&chain, "eth_getTransactionByHash", json!([hash]))["blockNumber"], "0x1");
    let nobody = json!([B256::ZERO]);
    assert_eq!(result(&chain, "eth_getTransactionByHash", nobody.clone()), Value::Null);
    assert_eq!(result(&chain, "eth_getTransactionReceipt", nobody.clone()), Value::Null);
    assert_eq!(result(&chain, "eth_getBlockByHash", json!([B256::ZERO, false])), Value::Null);
    let history = result(&chain, "eth_feeHistory", json!(["0x5", "latest", [50.0]]));
    assert_eq!(history["baseFeePerGas"].as_array().map(Vec::len), Some(3));
    assert_eq!(history["reward"].as_array().map(Vec::len), Some(2));
    for method in ["eth_accounts", "eth_syncing", "net_version", "web3_clientVersion"] {
        result(&chain, method, json!([]));
    }
    assert_eq!(result(&chain, "eth_blockNumber", json!([])), "0x1");
}

/// Init code of a contract that logs topic 7 with 1 word of data when it is called with nothing,
/// and reverts with `Error("no")` when it is called with anything.
fn noisy() -> Bytes {
    let no = alloy_sol_types::SolError::abi_encode(&alloy_sol_types::Revert::from("no"));
    let mut runtime = vec![0x36, 0x60, 0x0e, 0x57]; // CALLDATASIZE, PUSH1 14, JUMPI
    runtime.extend([0x60, 7, 0x60, 32, 0x60, 0, 0xa1, 0x00, 0, 0]); // LOG1(0, 32, 7), STOP
    let len = no.len() as u8;
    runtime.extend([0x5b, 0x60, len, 0x60, 27, 0x60, 0, 0x39, 0x60, len, 0x60, 0, 0xfd]);
    assert_eq!(runtime.len(), 27);
    runtime.extend(no);
    let len = runtime.len() as u8;
    let mut init = vec![0x60, len, 0x60, 12, 0x60, 0, 0x39, 0x60, len, 0x60, 0, 0xf3];
    init.extend(runtime);
    init.into()
}

#[test]
fn reverts_carry_their_data_and_logs_are_found_by_address_topic_and_block() {
    let chain = chain();
    let (hash, raw) = signed(1, |tx| {
        (tx.to, tx.input, tx.gas_limit, tx.value) =
            (TxKind::Create, noisy(), 1_000_000, U256::ZERO);
    });
    result(&chain, "eth_sendRawTransaction", json!([raw]));
    let receipt = result(&chain, "eth_getTransactionReceipt", json!([hash]));
    let contract: Address = serde_json::from_value(receipt["contractAddress"].clone()).unwrap();
    assert_ne!(result(&chain, "eth_getCode", json!([contract, "latest"])), "0x");

    for method in ["eth_call", "eth_estimateGas"] {
        let answer = ask(&chain, method, json!([{ "to": contract, "data": "0x01" }]));
        assert_eq!(answer["error"]["code"], 3);
        assert_eq!(answer["error"]["message"], "execution reverted: no");
        assert!(answer["error"]["data"].as_str().unwrap().starts_with("0x08c379a0"));
    }
    let overrides = json!([{ "to": contract }, "latest", { "0x00": {} }]);
    assert_eq!(error(&chain, "eth_call", overrides).0, -32602);

    for nonce in 1..4 {
        let (_, raw) = signed(1, |tx| {
            (tx.to, tx.nonce, tx.gas_limit) = (TxKind::Call(contract), nonce, 100_000);
            tx.value = U256::ZERO;
        });
        result(&chain, "eth_sendRawTransaction", json!([raw]));
    }
    let topic = B256::from(U256::from(7));
    let found =
        |filter: Value| result(&chain, "eth_getLogs", json!([filter])).as_array().unwrap().len();
    assert_eq!(found(json!({ "fromBlock": "earliest" })), 3);
    assert_eq!(found(json!({ "fromBlock": "0x3", "toBlock": "latest", "address": contract })), 2);
    assert_eq!(found(json!({ "fromBlock": "0x0", "topics": [topic] })), 3);
    assert_eq!(found(json!({ "fromBlock": "0x0", "topics": [[B256::ZERO, topic]] })), 3);
    assert_eq!(found(json!({ "fromBlock": "0x0", "topics": [B256::ZERO] })), 0);
    assert_eq!(found(json!({ "fromBlock": "0x0", "topics": [null, topic] })), 0);
    assert_eq!(found(json!({ "fromBlock": "0x0", "address": [contract, Address::ZERO] })), 3);
    assert_eq!(found(json!({})), 1, "the newest block alone");
    let block = result(&chain, "eth_getBlockByNumber", json!(["0x2", false]));
    assert_eq!(found(json!({ "blockHash": block["hash"] })), 1);
    assert_eq!(error(&chain, "eth_getLogs", json!([{ "blockHash": B256::ZERO }])).0, -32000);
    assert_eq!(
        error(&chain, "eth_getLogs", json!([{ "fromBlock": "0x2", "toBlock": "0x1" }])).0,
        -32602
    );
    // A transaction that reverts is mined, has no logs and still costs.
    let (hash, raw) = signed(1, |tx| {
        (tx.to, tx.nonce, tx.gas_limit) = (TxKind::Call(contract), 4, 100_000);
        (tx.input, tx.value) = (Bytes::from_static(&[1]), U256::ZERO);
    });
    result(&chain, "eth_sendRawTransaction", json!([raw]));
    let receipt = result(&chain, "eth_getTransactionReceipt", json!([hash]));
    assert_eq!((&receipt["status"], &receipt["logs"]), (&json!("0x0"), &json!([])));
    // Taking blocks back takes their logs along.
    chain.rollback(2).unwrap();
    assert_eq!(found(json!({ "fromBlock": "earliest" })), 2);
}

#[test]
fn what_a_contract_needs_is_what_is_estimated() {
    let chain = chain();
    let (_, raw) = signed(1, |tx| {
        let code = crate::contracts::TestToken::BYTECODE.clone();
        (tx.to, tx.input, tx.gas_limit) = (TxKind::Create, code.clone(), 10_000_000);
        tx.value = U256::ZERO;
        let request = json!([{ "data": code }]);
        let estimate = result(&chain, "eth_estimateGas", request);
        let estimate: alloy_primitives::U64 = serde_json::from_value(estimate).unwrap();
        tx.gas_limit = estimate.to();
    });
    let hash = result(&chain, "eth_sendRawTransaction", json!([raw]));
    let receipt = result(&chain, "eth_getTransactionReceipt", json!([hash]));
    assert_eq!(receipt["status"], "0x1");
    let transfer = json!([{ "to": Address::repeat_byte(1), "value": "0x1", "from": crate::testing::TestSigner::new(1).address_of() }]);
    assert_eq!(result(&chain, "eth_estimateGas", transfer), "0x5208");
}

#[test]
fn time_and_blocks_can_be_shifted_by_tests_only() {
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = now.clone();
    let options = Options {
        clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        dev_methods: true,
        idle_block_secs: 10,
    };
    let chain = EmbeddedChain::open(Place::Memory, genesis(&[1]), options.clone()).unwrap();
    let time = |chain: &EmbeddedChain| {
        let block = result(chain, "eth_getBlockByNumber", json!(["latest", false]));
        u64::from_str_radix(&block["timestamp"].as_str().unwrap()[2..], 16).unwrap()
    };
    assert_eq!((time(&chain), chain.block_number()), (1_000, 0));
    now.store(1_009, Ordering::SeqCst);
    assert_eq!((time(&chain), chain.block_number()), (1_000, 0), "not idle for long enough");
    now.store(1_010, Ordering::SeqCst);
    assert_eq!((time(&chain), chain.block_number()), (1_010, 1), "an empty block shows the time");
    now.store(5, Ordering::SeqCst);
    chain.mine().unwrap();
    assert_eq!(time(&chain), 1_010, "time never goes back");
    let snapshot = result(&chain, "evm_snapshot", json!([]));
    result(&chain, "evm_setNextBlockTimestamp", json!([2_000]));
    result(&chain, "evm_mine", json!([]));
    assert_eq!(time(&chain), 2_000);
    assert!(error(&chain, "evm_setNextBlockTimestamp", json!([1_999])).1.contains("before"));
    result(&chain, "evm_increaseTime", json!(["0xbb8"]));
    result(&chain, "evm_mine", json!([]));
    assert_eq!(time(&chain), 3_005);
    assert_eq!(result(&chain, "evm_revert", json!([snapshot])), true);
    assert_eq!((time(&chain), chain.block_number()), (1_010, 2));
    assert_eq!(result(&chain, "evm_revert", json!([snapshot])), false, "only once");

    let options = Options { dev_methods: false, ..options };
    let chain = EmbeddedChain::open(Place::Memory, genesis(&[1]), options).unwrap();
    assert_eq!(error(&chain, "evm_increaseTime", json!([1])).0, -32601);
    assert!(matches!(chain.rollback(1), Err(EvmError::Unknown(_))));
}

#[test]
fn a_chain_is_the_same_after_a_restart_and_after_taking_blocks_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain");
    let open = |genesis: Genesis| EmbeddedChain::open(&path, genesis, Options::default());
    let chain = open(genesis(&[1])).unwrap();
    let (mut hashes, mut last) = (Vec::new(), Value::Null);
    for nonce in 0..20 {
        let (hash, raw) = signed(1, |tx| {
            tx.nonce = nonce;
            if nonce == 3 {
                (tx.to, tx.input) = (TxKind::Create, noisy());
                (tx.gas_limit, tx.value) = (1_000_000, U256::ZERO);
            }
        });
        hashes.push(hash);
        last = result(&chain, "eth_sendRawTransaction", json!([raw]));
    }
    let everything = |chain: &EmbeddedChain| {
        let blocks = (0..=chain.block_number()).map(|number| {
            result(chain, "eth_getBlockByNumber", json!([format!("{number:#x}"), true]))
        });
        let receipts =
            hashes.iter().map(|hash| result(chain, "eth_getTransactionReceipt", json!([hash])));
        let balance =
            result(chain, "eth_getBalance", json!([Address::repeat_byte(0xee), "latest"]));
        (blocks.collect::<Vec<_>>(), receipts.collect::<Vec<_>>(), balance)
    };
    let before = everything(&chain);
    assert_eq!(before.1.last().unwrap()["transactionHash"], last);
    assert!(matches!(open(genesis(&[1])), Err(EvmError::Store(_))), "held by this process");
    drop(chain);
    let other = Genesis { chain_id: 9, ..genesis(&[1]) };
    assert!(matches!(open(other), Err(EvmError::WrongChain { expected: 9, actual: CHAIN_ID })));

    let chain = open(genesis(&[])).unwrap();
    assert_eq!(everything(&chain), before);
    chain.rollback(15).unwrap();
    assert_eq!(chain.block_number(), 5);
    let (_, raw) = signed(1, |tx| tx.nonce = 5);
    chain.submit(&raw).unwrap();
    drop(chain);
    let chain = open(genesis(&[])).unwrap();
    let balance = result(&chain, "eth_getBalance", json!([Address::repeat_byte(0xee), "latest"]));
    assert_eq!(balance, "0x19", "five transfers of 5");
}

#[test]
fn a_full_disk_is_an_error_and_the_state_stays_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain");
    let open = || EmbeddedChain::open(&path, genesis(&[1]), Options::default()).unwrap();
    let chain = open();
    chain.limit_growth(3).unwrap();
    let mut mined = 0;
    let full = loop {
        let (_, raw) = signed(1, |tx| tx.nonce = mined);
        let answer = ask(&chain, "eth_sendRawTransaction", json!([raw]));
        if answer.get("error").is_some() {
            break answer;
        }
        mined += 1;
        assert!(mined < 1_000, "the limit holds");
    };
    assert_eq!(full["error"]["code"], -32603);
    assert!(full["error"]["message"].as_str().unwrap().contains("full"), "{full}");
    let nonce = json!([crate::testing::TestSigner::new(1).address_of(), "latest"]);
    let shown = result(&chain, "eth_getTransactionCount", nonce.clone());
    assert_eq!(shown, format!("{mined:#x}"));
    assert_eq!(chain.block_number(), mined);
    // Reading goes on, though no empty block can be mined.
    result(&chain, "eth_getBlockByNumber", json!(["latest", true]));
    // With room again, so does writing; and a restart sees the same.
    chain.limit_growth(1_000).unwrap();
    let (_, raw) = signed(1, |tx| tx.nonce = mined);
    chain.submit(&raw).unwrap();
    drop(chain);
    let chain = open();
    assert_eq!(result(&chain, "eth_getTransactionCount", nonce), format!("{:#x}", mined + 1));
}

#[test]
fn state_older_than_the_undo_records_is_refused_in_words() {
    let chain = chain();
    for _ in 0..crate::evm::UNDO_DEPTH + 300 {
        chain.mine().unwrap();
    }
    let (code, message) = error(&chain, "eth_getBalance", json!([Address::ZERO, "0x0"]));
    assert_eq!(code, -32000);
    assert!(message.starts_with("historical state of block 0 is not available"), "{message}");
    assert!(matches!(chain.rollback(1_300), Err(EvmError::HistoryGone { number: 24 })));
}

async fn http(addr: std::net::SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    // The server may close before it has read a body that is too long.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_server_answers_its_own_computer_and_nobody_s_web_page() {
    let server = serve(chain(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = server.addr();
    let taken = serve(chain(), addr).await.unwrap_err();
    assert!(matches!(taken, ServeError::PortTaken { .. }) && taken.to_string().contains("in use"));
    let public = serve(chain(), "0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert!(matches!(public, ServeError::NotLoopback { .. }));

    let head = |host: &str, kind: &str| {
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n")
    };
    let id = br#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
    for host in ["localhost", "localhost:8545", "127.0.0.1:1", "[::1]:8545"] {
        let answer = http(addr, &head(host, "application/json"), id).await;
        assert!(answer.contains("0x1cbd"), "{answer}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""] {
        let answer = http(addr, &head(host, "application/json"), id).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
    }
    let answer = http(addr, &head("localhost", "text/plain"), id).await;
    assert!(answer.starts_with("HTTP/1.1 415"), "no CORS preflight: {answer}");
    let answer = http(addr, &head("localhost", "application/json"), b"{\"jsonrpc\"").await;
    assert!(answer.contains("-32700") && answer.starts_with("HTTP/1.1 200"), "{answer}");
    let deep = "[".repeat(100_000);
    let answer = http(addr, &head("localhost", "application/json"), deep.as_bytes()).await;
    assert!(answer.contains("-32700"), "{answer}");
    let notification = br#"{"jsonrpc":"2.0","method":"eth_chainId"}"#;
    let answer = http(addr, &head("localhost", "application/json"), notification).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let large = vec![b' '; (2 << 20) + 1];
    let answer = http(addr, &head("localhost", "application/json"), &large).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    drop(server);
}
