//! What it takes to have many channels, and an index of many events. Both are measured in a process
//! of their own, as a provider's would be; the chain is in this one, over HTTP.
//!
//!     cargo run --release -p sparewire-cli --example scale -- channels 10000
//!     cargo run --release -p sparewire-cli --example scale -- events 1000000
//!
//! Absolute times are for orientation: `bench/README.md` has some with the machine's load.

use std::{path::Path, process::Command, sync::Arc, time::Instant};

use anyhow::{Context, Result, bail};
use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use sparewire_chain::{
    Deployment, EmbeddedChain, Endpoint, EvmChain, Finality, Genesis, Index, Journal, Policy,
    deploy, serve,
};
use sparewire_core::{
    Address, Amount, B256, ByteCount, Domain, SessionId, Signer, U256, Verified, keccak256,
};
use sparewire_node::store::{SqliteStore, Store};
use sparewire_protocol::{
    ChannelConfig, Payment, Reading, Record, Role, Voucher,
    settlement::{Chain, Intent},
};
use sparewire_wallet::LocalKey;

const CHAIN_ID: u64 = 7_357;
/// Events of one block of the synthetic chain: 100 channels are opened in the first blocks, and
/// claimed from in all others.
const EVENTS_PER_BLOCK: u64 = 10;
const CHANNELS: u64 = 100;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["channels", count] => channels(count.parse()?).await,
        ["events", count] => events(count.parse()?).await,
        // Started by these two.
        ["start", dir, url] => start(Path::new(dir), url).await,
        ["index", dir, url] => index(Path::new(dir), url).await,
        _ => bail!("scale channels COUNT | scale events COUNT"),
    }
}

fn key(seed: u8) -> Arc<LocalKey> {
    Arc::new(LocalKey::from_secret(&[seed; 32]).expect("a scalar"))
}

fn policy() -> Policy {
    let poll = std::time::Duration::from_millis(20);
    Policy { finality: Finality::Blocks(0), poll, ..Policy::default() }
}

fn amount(units: u128) -> Amount {
    Amount::new(units).expect("in range")
}

fn config(token: Address, salt: u64) -> ChannelConfig {
    ChannelConfig {
        payer: key(1).address(),
        payer_authorizer: key(11).address(),
        payee: key(2).address(),
        payee_authorizer: key(12).address(),
        token,
        withdraw_delay_secs: 86_400,
        salt,
    }
}

async fn connect(endpoint: Endpoint, domain: Domain, seed: u8) -> Result<EvmChain> {
    let journal = Journal::in_memory()?;
    Ok(EvmChain::connect(endpoint, domain, key(seed), journal, policy()).await?)
}

/// Runs this program again, and waits for it.
async fn again(arguments: [String; 3]) -> Result<()> {
    let program = std::env::current_exe()?;
    let ran = tokio::task::spawn_blocking(move || Command::new(program).args(arguments).status());
    anyhow::ensure!(ran.await??.success(), "the measured process failed");
    Ok(())
}

/// What the system says of our memory, in MiB: `VmRSS` or, at its most, `VmHWM`.
fn memory_mib(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
    let kib = line.split_whitespace().nth(1).context("no figure")?;
    Ok(kib.parse::<u64>()? / 1_024)
}

fn told(what: &str, since: Instant) -> Result<()> {
    let (secs, rss) = (since.elapsed().as_secs_f64(), memory_mib("VmRSS")?);
    println!("{what:<48} {secs:>8.3} s   {rss:>4} MiB");
    Ok(())
}

// --- channels ---

async fn channels(count: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ether = U256::from(10u64).pow(U256::from(18)) * U256::from(100);
    let (payer, payee) = (key(1), key(2));
    let genesis = Genesis::new(CHAIN_ID).fund(payer.address(), ether).fund(payee.address(), ether);
    let embedded = EmbeddedChain::in_memory(genesis)?;
    let endpoint = Endpoint::Embedded(embedded.clone());
    let Deployment { domain, token } = deploy(endpoint.clone(), payer, policy()).await?;
    let chain = connect(endpoint, domain, 1).await?;
    let all = amount(u128::from(count) * 1_000);
    chain.mint(token, chain.wallet(), all).await?;
    chain.perform(&Intent::Deposit { token, amount: all }).await?;
    let configs: Vec<_> = (0..count).map(|salt| config(token, salt)).collect();
    let opened = configs.iter().map(|config| (*config, amount(1_000))).collect();
    chain.perform(&Intent::Open { channels: opened }).await?;
    let store = SqliteStore::open(&dir.path().join("store.sqlite"))?;
    for config in &configs {
        store.keep_channel(Role::Payee, &domain, config)?;
    }
    for configs in configs.chunks(500) {
        let payments = configs.iter().map(|config| {
            let channel = config.id(&domain);
            let voucher = Voucher { channel, amount: amount(700) };
            let voucher = *Verified::sign(voucher, &domain, &*key(11))?.signed();
            let reading = Reading { up: ByteCount::ZERO, down: ByteCount::new(700) };
            let session = SessionId(keccak256(channel.0));
            anyhow::Ok(Record::Payment { channel, payment: Payment { session, reading, voucher } })
        });
        store.record(&payments.collect::<Result<Vec<_>>>()?)?;
    }
    drop(store);
    eprintln!("{count} channels are open and promised over; starting the process that has them");
    let server = serve(embedded, "127.0.0.1:0".parse()?).await?;
    again(["start".into(), dir.path().display().to_string(), server.url()]).await
}

async fn start(dir: &Path, url: &str) -> Result<()> {
    let began = Instant::now();
    let (token, contract) = (key(1).address().create(0), key(1).address().create(1));
    let domain = Domain { chain_id: CHAIN_ID, contract };
    let store = SqliteStore::open(&dir.join("store.sqlite"))?;
    let known = store.channels(Role::Payee)?;
    told("start-up: the store, and its channels read", began)?;
    let chain = connect(Endpoint::Http(url.to_owned()), domain, 2).await?;
    chain.use_index(Index::open(dir.join("events.sqlite"), domain)?);
    told("start-up: connected, and the index opened", began)?;
    let ids: Vec<_> = known.iter().map(|channel| channel.id).collect();
    let asking = Instant::now();
    let facts = chain.channels(&ids).await?;
    anyhow::ensure!(facts.iter().all(Option::is_some), "they are open");
    told("state of all channels asked", asking)?;
    let asking = Instant::now();
    chain.closes_started(key(2).address()).await?;
    told("index made, and who leaves", asking)?;
    let asking = Instant::now();
    chain.closes_started(key(2).address()).await?;
    told("who leaves, again", asking)?;

    let claims: Vec<_> = known.iter().filter_map(|channel| channel.claim()).collect();
    let (count, claiming) = (claims.len() as u64, Instant::now());
    let outcome = chain.perform(&Intent::Claim { claims }).await?;
    told("all claimed, and final", claiming)?;
    let transactions = outcome.transactions.len();
    let gas = outcome.gas_used();
    println!("{count} claims in {transactions} transactions, {} gas each", gas / count);
    let funds = chain.funds(key(2).address(), token).await?;
    anyhow::ensure!(funds.wallet == u128::from(count) * 700, "paid in full");
    println!("memory at most (VmHWM) {} MiB", memory_mib("VmHWM")?);
    Ok(())
}

// --- events ---

async fn events(count: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let blocks = count.div_ceil(EVENTS_PER_BLOCK);
    let answer = move |Json(request): Json<Value>| async move {
        let result = answer(&request["method"], &request["params"], blocks);
        Json(json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }))
    };
    let router = Router::new().route("/", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let arguments = || ["index".into(), dir.path().display().to_string(), url.clone()];
    again(arguments()).await?;
    eprintln!("once more, where it stopped");
    again(arguments()).await
}

async fn index(dir: &Path, url: &str) -> Result<()> {
    let chain = connect(Endpoint::Http(url.to_owned()), synthetic(), 2).await?;
    let (path, began) = (dir.join("events.sqlite"), Instant::now());
    let index = Index::open(&path, synthetic())?;
    let progress = chain.advance_index(&index, usize::MAX).await?;
    anyhow::ensure!(progress.is_done(), "it goes to the end");
    told(&format!("resumed, {} events stored", progress.stored), began)?;
    let asking = Instant::now();
    let channels = index.channels_to(key(2).address())?;
    told(&format!("facts of {} channels", channels.len()), asking)?;
    let asking = Instant::now();
    let claims = index.claims(channels[0].id)?;
    told(&format!("{} claims of one channel", claims.len()), asking)?;
    let asking = Instant::now();
    index.closes(Some(key(2).address()))?;
    told("who leaves", asking)?;
    let mib = std::fs::metadata(&path)?.len() >> 20;
    println!("file {mib} MiB; memory at most (VmHWM) {} MiB", memory_mib("VmHWM")?);
    Ok(())
}

fn synthetic() -> Domain {
    Domain { chain_id: CHAIN_ID, contract: Address::repeat_byte(0xc0) }
}

/// A chain of which every block has events of the contract, made up as they are asked for.
fn answer(method: &Value, params: &Value, blocks: u64) -> Value {
    let number = |value: &Value| {
        let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
        digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(blocks)
    };
    match method.as_str().unwrap_or_default() {
        "eth_chainId" => json!(format!("{CHAIN_ID:#x}")),
        "eth_getCode" if params[1] == json!("latest") || number(&params[1]) > 0 => json!("0x01"),
        "eth_getCode" => json!("0x"),
        "eth_call" => json!(synthetic().separator()),
        "eth_getBlockByNumber" => match number(&params[0]) {
            number if number <= blocks => json!({
                "number": format!("{number:#x}"), "hash": hash("block", number),
                "timestamp": format!("{:#x}", time_of(number)), "gasLimit": "0x3938700",
            }),
            _ => Value::Null,
        },
        "eth_getLogs" => {
            let [from, to] = ["fromBlock", "toBlock"].map(|key| number(&params[0][key]));
            (from..=to)
                .flat_map(|block| (0..EVENTS_PER_BLOCK).map(move |at| log(block, at)))
                .collect()
        }
        _ => Value::Null,
    }
}

fn log(block: u64, at: u64) -> Value {
    let event = (block - 1) * EVENTS_PER_BLOCK + at;
    let config = config(Address::repeat_byte(0x70), event % CHANNELS);
    let id = config.id(&synthetic()).0;
    let word = |value: u64| B256::from(U256::from(value));
    let (topics, data) = if event < CHANNELS {
        let signature =
            "Opened(bytes32,address,address,address,address,address,uint40,bytes32,uint128)";
        let [authorizer, other, token] =
            [config.payer_authorizer, config.payee_authorizer, config.token]
                .map(|address| address.into_word());
        let rest = [word(86_400), word(config.salt), word(1 << 40)];
        let topics = [keccak256(signature), id, config.payer.into_word(), config.payee.into_word()];
        (topics, [&[authorizer, other, token][..], &rest].concat())
    } else {
        let signature = keccak256("Claimed(bytes32,address,address,uint128)");
        let topics = [signature, id, config.payee.into_word(), config.token.into_word()];
        (topics, vec![word(event / CHANNELS)])
    };
    let data: String = data.iter().map(|word| format!("{word:x}")).collect();
    json!({
        "address": synthetic().contract, "topics": topics, "data": format!("0x{data}"),
        "blockNumber": format!("{block:#x}"), "blockHash": hash("block", block),
        "blockTimestamp": format!("{:#x}", time_of(block)),
        "transactionHash": hash("transaction", event), "transactionIndex": format!("{at:#x}"),
        "logIndex": format!("{at:#x}"), "removed": false,
    })
}

fn time_of(block: u64) -> u64 {
    1_700_000_000 + block * 12
}

fn hash(what: &str, number: u64) -> B256 {
    keccak256(format!("{what} {number}"))
}
