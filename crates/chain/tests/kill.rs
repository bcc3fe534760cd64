//! `kill -9` at any moment: the chain keeps whole blocks, the carrier pays exactly once.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use serde_json::{Value, json};
use sparewire_chain::{EmbeddedChain, Endpoint, EvmChain, Genesis, Journal, Policy, deploy};
use sparewire_core::{Address, B256, Domain, Signature, Signer, SignerError, U256, keccak256};
use sparewire_protocol::settlement::Chain;

const ROUNDS: u64 = 16;
const TO: Address = Address::repeat_byte(0xee);
const CHILD_DIR: &str = "SPAREWIRE_KILL_TEST_DIR";

struct Key(SecretKey);

impl Signer for Key {
    fn address(&self) -> Address {
        let public = PublicKey::from_secret_key(SECP256K1, &self.0).serialize_uncompressed();
        Address::from_slice(&keccak256(&public[1..])[12..])
    }

    fn sign_digest(&self, digest: B256) -> Result<Signature, SignerError> {
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.0);
        let (id, rs) = signature.serialize_compact();
        Ok(Signature::from_parts(rs, i32::from(id) & 1 == 1).unwrap())
    }
}

fn key() -> Arc<dyn Signer> {
    Arc::new(Key(SecretKey::from_byte_array([7; 32]).unwrap()))
}

fn policy() -> Policy {
    Policy { poll: Duration::from_millis(2), ..Policy::default() }
}

fn open(dir: &Path) -> EmbeddedChain {
    let wei = U256::from(10).pow(U256::from(21));
    let genesis = Genesis::new(7357).fund(key().address(), wei);
    EmbeddedChain::open(dir.join("chain"), genesis, Default::default()).unwrap()
}

async fn carrier(dir: &Path, chain: &EmbeddedChain) -> EvmChain {
    let contract = std::fs::read_to_string(dir.join("contract")).unwrap();
    let domain = Domain { chain_id: 7357, contract: contract.parse().unwrap() };
    let journal = Journal::open(dir.join("journal")).unwrap();
    let endpoint = Endpoint::Embedded(chain.clone());
    EvmChain::connect(endpoint, domain, key(), journal, policy()).await.unwrap()
}

fn ask(chain: &EmbeddedChain, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let answer = chain.handle(request);
    assert!(answer.get("error").is_none(), "{answer}");
    answer["result"].clone()
}

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// What the killed process does: one wei after the other, telling each that is final.
#[tokio::test]
#[ignore = "runs only as the child of the other test"]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    let chain = open(dir);
    let carrier = carrier(dir, &chain).await;
    carrier.resume().await.unwrap();
    let paid = number(&ask(&chain, "eth_getBalance", json!([TO, "latest"])));
    for total in paid + 1.. {
        carrier.transfer(TO, 1).await.unwrap();
        println!("paid {total}");
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_whole_blocks_and_pays_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(dir.path());
    let deployed = deploy(Endpoint::Embedded(chain.clone()), key(), policy()).await.unwrap();
    std::fs::write(dir.path().join("contract"), deployed.domain.contract.to_string()).unwrap();
    drop(chain);
    let mut paid = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut told = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut read = |lines: &mut dyn Iterator<Item = std::io::Result<String>>| {
            let line = lines.next()?.ok()?;
            let total = line.split_once("paid ").and_then(|(_, total)| total.parse::<u64>().ok());
            told = total.unwrap_or(told);
            Some(told)
        };
        while read(&mut lines).unwrap() < paid + 3 + round {}
        // Wherever it is just now: between two steps, in a commit, in a transaction.
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        while read(&mut lines).is_some() {}

        let chain = open(dir.path());
        let newest = number(&ask(&chain, "eth_blockNumber", json!([])));
        let mut parent = Value::Null;
        for at in 0..=newest {
            let block = ask(&chain, "eth_getBlockByNumber", json!([format!("{at:#x}"), true]));
            assert!(at == 0 || block["parentHash"] == parent, "block {at} follows its parent");
            if let Some(hash) = block["transactions"][0]["hash"].as_str() {
                let receipt = ask(&chain, "eth_getTransactionReceipt", json!([hash]));
                assert_eq!(receipt["status"], "0x1");
            }
            parent = block["hash"].clone();
        }
        let carrier = carrier(dir.path(), &chain).await;
        let resumed = carrier.resume().await.unwrap() as u64;
        paid = number(&ask(&chain, "eth_getBalance", json!([TO, "latest"])));
        assert!((told..=told + 1).contains(&paid), "told {told}, paid {paid}, resumed {resumed}");
        let nonce = json!([key().address(), "latest"]);
        let nonce = number(&ask(&chain, "eth_getTransactionCount", nonce));
        assert_eq!(nonce, paid + 2, "two deployments, and a transaction for each wei");
        assert_eq!(carrier.resume().await.unwrap(), 0);
        println!("round {round}: told {told}, paid {paid}, resumed {resumed}");
    }
}
