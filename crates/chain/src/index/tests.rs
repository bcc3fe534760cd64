#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sparewire_core::{Amount, ChannelId, Signer, Verified};
use sparewire_protocol::{
    channel::{ChannelConfig, ChannelStatus, Claim, CooperativeClose, Voucher},
    settlement::{Chain, Intent},
};

use super::*;
use crate::{
    Deployment, EmbeddedChain, Endpoint, EvmChain, Fault, Finality, Journal, Policy, deploy,
    testing::{Misbehaving, TestSigner, Verdict, genesis},
};

mod lies;

use lies::{anything, lies};

const PAYER: u8 = 1;
const PAYEE: u8 = 2;

fn amount(units: u128) -> Amount {
    Amount::new(units).unwrap()
}

fn quick(finality: Finality) -> Policy {
    Policy {
        finality,
        poll: Duration::from_millis(5),
        retry_for: Duration::from_millis(50),
        request_timeout: Duration::from_secs(20),
        patience: Duration::from_secs(20),
        ..Policy::default()
    }
}

fn at_once() -> Policy {
    quick(Finality::Blocks(0))
}

/// A chain with the contract on it, seen by a payer and a payee.
struct World {
    chain: EmbeddedChain,
    deployed: Deployment,
    payer: EvmChain,
    payee: EvmChain,
}

impl World {
    async fn new() -> Self {
        let chain = EmbeddedChain::in_memory(genesis(&[PAYER, PAYEE])).unwrap();
        for _ in 0..20 {
            chain.mine().unwrap();
        }
        let endpoint = Endpoint::Embedded(chain.clone());
        let signer = Arc::new(TestSigner::new(PAYER));
        let deployed = deploy(endpoint.clone(), signer, at_once()).await.unwrap();
        let payer = seen(endpoint.clone(), &deployed, PAYER, at_once()).await;
        let payee = seen(endpoint, &deployed, PAYEE, at_once()).await;
        payer.mint(deployed.token, payer.wallet(), amount(1_000_000)).await.unwrap();
        let deposit = Intent::Deposit { token: deployed.token, amount: amount(500_000) };
        payer.perform(&deposit).await.unwrap();
        Self { chain, deployed, payer, payee }
    }

    /// Everything that can happen to four channels: claimed together, topped up, closed by
    /// agreement, left, left and over.
    async fn live(&self) -> [ChannelConfig; 4] {
        let configs = [1, 2, 3, 4].map(|salt| self.config(salt));
        let channels = configs.map(|config| (config, amount(1_000))).to_vec();
        self.payer.perform(&Intent::Open { channels }).await.unwrap();
        let claims = configs.map(|config| self.claim(config, 300)).to_vec();
        self.payee.perform(&Intent::Claim { claims }).await.unwrap();
        let more = Intent::TopUp { config: configs[0], amount: amount(50) };
        self.payer.perform(&more).await.unwrap();
        self.claimed(configs[0], 400).await;
        let agreed = CooperativeClose { channel: self.id(configs[1]), amount: amount(450) };
        let digest = sparewire_core::TypedData::digest(&agreed, &self.deployed.domain);
        let payee_signature = TestSigner::new(12).sign_digest(digest).unwrap();
        let claim = self.claim(configs[1], 450);
        let close = Intent::CloseCooperatively { claim, payee_signature };
        self.payer.perform(&close).await.unwrap();
        for config in [configs[2], configs[3]] {
            self.payer.perform(&Intent::StartClose { config }).await.unwrap();
        }
        self.chain.increase_time(900).unwrap();
        self.payer.perform(&Intent::FinishClose { config: configs[3] }).await.unwrap();
        let out = Intent::Withdraw { token: self.deployed.token, amount: amount(1_234) };
        self.payer.perform(&out).await.unwrap();
        configs
    }

    async fn claimed(&self, config: ChannelConfig, units: u128) -> B256 {
        let claims = vec![self.claim(config, units)];
        let outcome = self.payee.perform(&Intent::Claim { claims }).await.unwrap();
        outcome.transactions[0].hash
    }

    fn config(&self, salt: u64) -> ChannelConfig {
        ChannelConfig {
            payer: TestSigner::new(PAYER).address(),
            payer_authorizer: TestSigner::new(11).address(),
            payee: TestSigner::new(PAYEE).address(),
            payee_authorizer: TestSigner::new(12).address(),
            token: self.deployed.token,
            withdraw_delay_secs: 900,
            salt,
        }
    }

    fn id(&self, config: ChannelConfig) -> ChannelId {
        config.id(&self.deployed.domain)
    }

    fn claim(&self, config: ChannelConfig, units: u128) -> Claim {
        let voucher = Voucher { channel: self.id(config), amount: amount(units) };
        let domain = &self.deployed.domain;
        let verified = Verified::sign(voucher, domain, &TestSigner::new(11)).unwrap();
        Claim::new(config, domain, &verified)
    }

    fn index(&self) -> Index {
        Index::in_memory(self.deployed.domain).unwrap()
    }

    /// The payee behind a node that `judge` spoils.
    async fn through(
        &self,
        judge: impl FnMut(&str, &Value) -> Verdict + Send + 'static,
    ) -> EvmChain {
        let endpoint = Misbehaving::endpoint(&self.chain, judge);
        seen(endpoint, &self.deployed, PAYEE, at_once()).await
    }

    /// An honest answer to any request.
    fn honest(&self) -> impl Fn(&str, &Value) -> Value + Send + Clone + use<> {
        let chain = self.chain.clone();
        move |method, params| {
            chain.handle(json!({
                "jsonrpc": "2.0", "id": 1, "method": method, "params": params,
            }))["result"]
                .take()
        }
    }
}

async fn seen(endpoint: Endpoint, deployed: &Deployment, seed: u8, policy: Policy) -> EvmChain {
    let (signer, journal) = (Arc::new(TestSigner::new(seed)), Journal::in_memory().unwrap());
    EvmChain::connect(endpoint, deployed.domain, signer, journal, policy).await.unwrap()
}

async fn all(chain: &EvmChain, index: &Index) -> Result<Progress, IndexError> {
    let progress = chain.advance_index(index, usize::MAX).await?;
    assert!(progress.is_done(), "{progress:?}");
    chain.check_index(index, true).await?;
    Ok(progress)
}

fn everything(index: &Index) -> Vec<EventRecord> {
    index.events(&EventFilter::default(), usize::MAX).unwrap()
}

#[tokio::test]
async fn what_the_events_add_up_to_is_what_the_contract_says() {
    let world = World::new().await;
    let configs = world.live().await;
    let index = world.index();
    let progress = all(&world.payee, &index).await.unwrap();
    // Token, then contract: the first block with its code is the one of its deployment.
    assert_eq!(progress.first, 22);
    let status = index.status().unwrap();
    assert_eq!(status.cursor, Some(world.chain.block_number()));
    assert_eq!((status.verified, status.doubt), (status.cursor, None));

    let payee = world.payee.wallet();
    let channels = index.channels_to(payee).unwrap();
    assert_eq!(channels.len(), 4);
    for (channel, config) in channels.iter().zip(configs) {
        assert_eq!(channel.opening.config(), Some(config));
        assert_eq!(channel.id, world.id(config));
        let facts = world.payee.channel(channel.id).await.unwrap();
        assert_eq!(Some(channel.facts), facts, "as the contract has it");
    }
    assert!(index.channels_to(world.payer.wallet()).unwrap().is_empty());

    let claims = index.claims(world.id(configs[1])).unwrap();
    let sums: Vec<_> = claims.iter().map(|it| (it.credited.get(), it.claimed.get())).collect();
    assert_eq!(sums, [(300, 300), (150, 450)], "a packed one, and that of the agreed close");
    let left = world.id(configs[2]);
    let closes = index.closes(Some(payee)).unwrap();
    assert_eq!(closes.iter().map(|close| close.channel).collect::<Vec<_>>(), [left]);
    let finish_at_secs = closes[0].finish_at_secs;
    assert_eq!(channels[2].facts.status, ChannelStatus::Closing { finish_at_secs });
    assert!(index.closes(Some(world.payer.wallet())).unwrap().is_empty());

    // Events in order, with transaction and time as the chain has them; pages continue each other.
    let records = everything(&index);
    let names: Vec<_> = records.iter().map(|record| record.event.name()).collect();
    let count = |name| names.iter().filter(|it| **it == name).count();
    assert_eq!(
        ["deposited", "opened", "claimed", "topped up", "swept", "close started", "closed"]
            .map(count),
        [1, 4, 6, 1, 2, 2, 2]
    );
    assert_eq!(records.len(), 19);
    assert_eq!(index.count().unwrap(), 19);
    assert!(records.is_sorted_by_key(|record| record.position));
    let honest = world.honest();
    for record in &records {
        let receipt = honest("eth_getTransactionReceipt", &json!([record.transaction]));
        assert_eq!(receipt["blockNumber"], json!(format!("{:#x}", record.position.block)));
        let block = honest("eth_getBlockByNumber", &json!([receipt["blockNumber"], false]));
        assert_eq!(block["timestamp"], json!(format!("{:#x}", record.time_secs)));
    }
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|record: &EventRecord| record.position);
        let page = index.events(&EventFilter { after, ..EventFilter::default() }, 2).unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, records);
    let since = records[10].position.block;
    let late = index.events(&EventFilter { since, ..EventFilter::default() }, 99).unwrap();
    assert!(late.iter().eq(records.iter().filter(|record| record.position.block >= since)));
    let of_one = index.events_of(world.id(configs[0])).unwrap();
    let expected = records.iter().filter(|it| it.event.channel() == Some(world.id(configs[0])));
    assert!(of_one.iter().eq(expected) && of_one.len() == 4);
    assert!(index.events_of(ChannelId::default()).unwrap().is_empty());

    // A second time there is nothing to do, and nothing is stored twice.
    assert_eq!(all(&world.payee, &index).await.unwrap().stored, 0);
    assert_eq!(everything(&index), records);
    // What happens later is added.
    let transaction = world.claimed(configs[2], 999).await;
    assert_eq!(all(&world.payee, &index).await.unwrap().stored, 2);
    assert_eq!(index.claims(left).unwrap().last().unwrap().transaction, transaction);
}

#[tokio::test]
async fn it_goes_on_where_it_stopped_with_a_handful_of_requests() {
    let world = World::new().await;
    world.live().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.sqlite");
    let open = || Index::open(&path, world.deployed.domain).unwrap();
    // One block at a time, each by another process.
    let mut ends = Vec::new();
    loop {
        let index = open();
        index.inner.span.store(1, SeqCst);
        let progress = world.payee.advance_index(&index, 1).await.unwrap();
        ends.push(progress.next);
        if progress.is_done() {
            break;
        }
    }
    assert!(ends.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ends:?}");
    let whole = world.index();
    all(&world.payee, &whole).await.unwrap();
    assert_eq!(everything(&open()), everything(&whole));

    let (requests, heads) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (requests.clone(), heads.clone());
    let counted = world
        .through(move |_, params| {
            counters.0.fetch_add(1, SeqCst);
            counters.1.fetch_add(usize::from(params[0] == "latest"), SeqCst);
            Verdict::Pass
        })
        .await;
    requests.store(0, SeqCst);
    let progress = counted.advance_index(&open(), usize::MAX).await.unwrap();
    assert!(progress.is_done() && progress.stored == 0);
    assert!(requests.load(SeqCst) <= 2, "{} requests to resume", requests.load(SeqCst));
    heads.store(0, SeqCst);
    counted.closes_by_index(&open(), world.payee.wallet(), 1).await.unwrap();
    assert_eq!(heads.load(SeqCst), 1, "one head for the whole look");

    // Two processes at once: what one has stored the other does not store again.
    let (one, other) = (open(), open());
    world.claimed(world.config(1), 500).await;
    let (a, b) = tokio::join!(
        world.payee.advance_index(&one, usize::MAX),
        world.payer.advance_index(&other, usize::MAX)
    );
    assert_eq!(a.unwrap().stored + b.unwrap().stored, 2, "a claim and its payout, once");
    all(&world.payee, &one).await.unwrap();

    let elsewhere = Domain { chain_id: 9, ..world.deployed.domain };
    let refused = Index::open(&path, elsewhere).unwrap_err();
    assert!(refused.to_string().contains("on chain 7357"), "{refused}");
}

#[tokio::test]
async fn a_batch_that_is_cut_off_leaves_cursor_and_events_as_they_were() {
    let world = World::new().await;
    world.live().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.sqlite");
    let open = || Index::open(&path, world.deployed.domain).unwrap();
    let index = open();
    index.inner.span.store(4, SeqCst);
    let before = world.payee.advance_index(&index, 1).await.unwrap();
    let (records, next) = (everything(&index), before.next);
    // The disk is full in the middle of what comes next.
    let full = index.with(|db| {
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
        db.pragma_update(None, "max_page_count", pages)?;
        Ok(())
    });
    full.unwrap();
    let channels = (100..160).map(|salt| (world.config(salt), amount(10))).collect();
    world.payer.perform(&Intent::Open { channels }).await.unwrap();
    index.inner.span.store(1_000, SeqCst);
    let error = world.payee.advance_index(&index, usize::MAX).await.unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    drop(index);
    let index = open();
    assert_eq!(index.status().unwrap().cursor, Some(next - 1));
    assert_eq!(everything(&index), records);
    // Nor does what another process began and did not end.
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch(
            "BEGIN IMMEDIATE; DELETE FROM events; INSERT INTO checkpoints VALUES (999, x'')",
        )
        .unwrap();
    drop(other);
    assert_eq!(everything(&index), records);
    all(&world.payee, &index).await.unwrap();
    assert_eq!(index.channels_to(world.payee.wallet()).unwrap().len(), 64);
}

#[tokio::test]
async fn ranges_shrink_to_what_the_node_takes() {
    let world = World::new().await;
    world.live().await;
    let whole = world.index();
    all(&world.payee, &whole).await.unwrap();
    let number = |value: &Value| {
        u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    };
    for (code, words) in [
        (-32005, "query returned more than 10000 results"),
        (-32000, "exceed maximum block range: 3"),
        (-32602, "eth_getLogs is limited to a 3 blocks range"),
        (-32000, "block range is too wide"),
        (-32602, "Log response size exceeded"),
        (-32000, "query timeout exceeded"),
    ] {
        let widest = Arc::new(AtomicUsize::new(0));
        let seen = widest.clone();
        let chain = world
            .through(move |method, params| {
                if method != "eth_getLogs" {
                    return Verdict::Pass;
                }
                let [from, to] = ["fromBlock", "toBlock"].map(|key| number(&params[0][key]));
                if to - from >= 3 {
                    return Verdict::Error(code, words);
                }
                seen.fetch_max((to - from + 1) as usize, SeqCst);
                Verdict::Pass
            })
            .await;
        let index = world.index();
        all(&chain, &index).await.unwrap();
        assert_eq!(everything(&index), everything(&whole), "{words}");
        assert_eq!(widest.load(SeqCst), 3, "and no smaller than needed: {words}");
        assert_eq!(chain.nodes()[0].fault, None, "nothing is wrong with the node");
    }
    // Silence looks like an answer that is too large, up to a point.
    let silent = AtomicUsize::new(0);
    let chain = world
        .through(move |method, _| match method {
            "eth_getLogs" if silent.fetch_add(1, SeqCst) < 3 => Verdict::Silence,
            _ => Verdict::Pass,
        })
        .await;
    all(&chain, &world.index()).await.unwrap();
    let chain = world
        .through(|method, _| match method {
            "eth_getLogs" => Verdict::Silence,
            _ => Verdict::Pass,
        })
        .await;
    let error = chain.advance_index(&world.index(), usize::MAX).await.unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

#[tokio::test]
async fn a_node_that_limits_us_is_not_asked_before_it_says_and_not_for_less() {
    let world = World::new().await;
    world.live().await;
    // What is asked for the logs, and when: the first `limits` answers are refusals.
    let limited = async |limits: usize, after: &'static str, retry_for: Duration| {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let judge = move |method: &str, params: &Value| {
            if method != "eth_getLogs" {
                return Verdict::Pass;
            }
            let mut asked = log.lock().unwrap();
            asked.push((params[0]["toBlock"].clone(), std::time::Instant::now()));
            match asked.len() <= limits {
                true => Verdict::Limit(after),
                false => Verdict::Pass,
            }
        };
        let policy = Policy { retry_for, ..at_once() };
        let endpoint = Misbehaving::endpoint(&world.chain, judge);
        let chain = seen(endpoint, &world.deployed, PAYEE, policy).await;
        let done = chain.advance_index(&world.index(), usize::MAX).await;
        let asked = asked.lock().unwrap().clone();
        (done, asked)
    };
    let (done, asked) = limited(2, "", Duration::from_millis(50)).await;
    assert!(done.unwrap().is_done());
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|(to, _)| *to == asked[0].0), "no fewer blocks: {asked:?}");

    let (done, asked) = limited(1, "1", Duration::from_secs(20)).await;
    assert!(done.unwrap().is_done());
    let [(_, first), (_, second)] = asked[..] else { panic!("{asked:?}") };
    assert!(second - first >= Duration::from_secs(1), "{:?}", second - first);

    // Longer than we wait: the next look asks again.
    let (done, asked) = limited(1, "1000", Duration::from_secs(20)).await;
    let error = done.unwrap_err().to_string();
    assert!(error.contains("limits our requests, for 1000 s"), "{error}");
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn a_node_without_old_logs_or_old_state_is_told_as_such() {
    let world = World::new().await;
    world.live().await;
    for (code, words) in [(4444, "pruned history unavailable"), (-32000, "logs were pruned")] {
        let chain = world
            .through(move |method, _| match method {
                "eth_getLogs" => Verdict::Error(code, words),
                _ => Verdict::Pass,
            })
            .await;
        let error = chain.advance_index(&world.index(), usize::MAX).await.unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, IndexError::HistoryGone { from: 22, .. }), "{told}");
        assert!(told.contains(words) && told.contains("the misbehaving node"), "{told}");
    }
    // Without old state the deployment cannot be found: everything is read.
    let newest = json!(format!("{:#x}", world.chain.block_number()));
    let chain = world
        .through(move |method, params| match method {
            "eth_getCode" if params[1] != newest && params[1] != "latest" => {
                Verdict::Error(-32000, "missing trie node")
            }
            _ => Verdict::Pass,
        })
        .await;
    let index = world.index();
    assert_eq!(all(&chain, &index).await.unwrap().first, 0);
    assert_eq!(index.count().unwrap(), 19);
}

#[tokio::test]
async fn a_node_that_lacks_the_end_of_a_range_is_not_one_where_nothing_happened() {
    let world = World::new().await;
    let behind = world.chain.block_number();
    world.live().await;
    // It knows how far the chain is, and has no more than the beginning of it.
    let number = |value: &Value| {
        let hex = value.as_str().and_then(|it| it.strip_prefix("0x"));
        hex.and_then(|hex| u64::from_str_radix(hex, 16).ok())
    };
    let honest = world.honest();
    let behind = move |method: &str, params: &Value| match method {
        "eth_getLogs" => {
            let Value::Array(mut logs) = honest(method, params) else { return Verdict::Pass };
            logs.retain(|log| number(&log["blockNumber"]) <= Some(behind));
            Verdict::Result(json!(logs))
        }
        "eth_getBlockByNumber" if number(&params[0]) > Some(behind) => Verdict::Result(Value::Null),
        _ => Verdict::Pass,
    };
    let index = world.index();
    let error = all(&world.through(behind.clone()).await, &index).await.unwrap_err().to_string();
    assert!(error.contains("header not found"), "{error}");
    // Two of three that lag are no quorum, and one does no harm.
    for lagging in [2, 1] {
        let endpoints = (0..3).map(|at| match at < lagging {
            true => Misbehaving::named("behind", &world.chain, behind.clone()),
            false => Endpoint::Embedded(world.chain.clone()),
        });
        let endpoint = Endpoint::Several { endpoints: endpoints.collect(), quorum: 2 };
        let chain = seen(endpoint, &world.deployed, PAYEE, at_once()).await;
        let read = all(&chain, &index).await;
        assert_eq!(read.is_ok(), lagging == 1, "{lagging} of three lag: {read:?}");
    }
    assert_eq!(index.count().unwrap(), 19);
}

/// A judge that spoils the logs of a node.
fn liar(
    world: &World,
    lie: fn(&mut Vec<Value>),
) -> impl FnMut(&str, &Value) -> Verdict + Send + use<> {
    let honest = world.honest();
    move |method, params| {
        if method != "eth_getLogs" {
            return Verdict::Pass;
        }
        let Value::Array(mut logs) = honest(method, params) else { return Verdict::Pass };
        if !logs.is_empty() {
            lie(&mut logs);
        }
        Verdict::Result(json!(logs))
    }
}

#[tokio::test]
async fn one_lying_node_of_three_is_outvoted_whatever_it_tells() {
    let world = World::new().await;
    world.live().await;
    let whole = world.index();
    all(&world.payee, &whole).await.unwrap();
    for (name, lie) in lies() {
        let endpoints = vec![
            Misbehaving::named("liar", &world.chain, liar(&world, lie)),
            Endpoint::Embedded(world.chain.clone()),
            Endpoint::Embedded(world.chain.clone()),
        ];
        let endpoint = Endpoint::Several { endpoints, quorum: 2 };
        let chain = seen(endpoint, &world.deployed, PAYEE, at_once()).await;
        let index = world.index();
        all(&chain, &index).await.unwrap();
        assert_eq!(everything(&index), everything(&whole), "{name}");
        let fault = chain.nodes()[0].fault.clone();
        assert!(
            matches!(fault, Some(Fault::Outvoted("eth_getLogs") | Fault::Silent(_))),
            "{name}: {fault:?}"
        );
    }
}

#[tokio::test]
async fn what_a_lone_node_lies_is_noticed_named_and_never_used() {
    let world = World::new().await;
    world.live().await;
    for (name, lie) in lies() {
        // State shows neither times nor hashes, nor what was never heard of at all.
        let unseen = ["tells the wrong time", "gives other transactions", "leaves all out"];
        if unseen.contains(&name) {
            continue;
        }
        let honest_again = Arc::new(AtomicBool::new(false));
        let (switch, mut judge) = (honest_again.clone(), liar(&world, lie));
        let chain = world
            .through(move |method, params| match switch.load(SeqCst) {
                true => Verdict::Pass,
                false => judge(method, params),
            })
            .await;
        let index = world.index();
        let error = all(&chain, &index).await.unwrap_err().to_string();
        assert!(error.contains("the misbehaving node"), "{name}: {error}");
        // Either nothing of it was taken, or the index is in doubt and says nothing.
        match index.events(&EventFilter::default(), 99) {
            Ok(events) => assert!(events.is_empty(), "{name}"),
            Err(IndexError::InDoubt { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
        }
        honest_again.store(true, SeqCst);
        all(&chain, &index).await.unwrap();
        assert_eq!(index.count().unwrap(), 19, "{name}");
        assert_eq!(index.status().unwrap().doubt, None);
    }
}

#[tokio::test]
async fn each_log_that_is_left_out_or_told_twice_or_in_another_order_is_noticed() {
    let world = World::new().await;
    world.live().await;
    let honest = world.honest();
    let filter = json!([{ "fromBlock": "0x0", "address": world.deployed.domain.contract }]);
    let count = honest("eth_getLogs", &filter).as_array().unwrap().len();
    assert_eq!(count, 16);
    // Duplicates and another order change nothing.
    let index = world.index();
    let judge = liar(&world, |logs| {
        let again = logs.clone();
        logs.extend(again);
        logs.reverse();
    });
    all(&world.through(judge).await, &index).await.unwrap();
    assert_eq!(index.count().unwrap(), 19);
    // Each one that is missing shows, and not because of an error somewhere else.
    for missing in 0..count {
        let honest = world.honest();
        let judge = move |method: &str, params: &Value| {
            if method != "eth_getLogs" {
                return Verdict::Pass;
            }
            let Value::Array(mut logs) = honest(method, params) else { return Verdict::Pass };
            // The whole story lies in one range.
            logs.remove(missing);
            Verdict::Result(json!(logs))
        };
        let chain = world.through(judge).await;
        let error = all(&chain, &world.index()).await.unwrap_err();
        assert!(matches!(error, IndexError::InDoubt { .. }), "log {missing}: {error}");
    }
}

#[tokio::test]
async fn a_round_over_all_channels_finds_what_was_left_out_about_one_that_is_quiet() {
    let world = World::new().await;
    let config = world.config(1);
    let open = Intent::Open { channels: vec![(config, amount(1_000))] };
    world.payer.perform(&open).await.unwrap();
    let leaving = Arc::new(AtomicBool::new(false));
    let (hidden, honest) = (leaving.clone(), world.honest());
    let chain = world
        .through(move |method, params| match method {
            "eth_getLogs" if hidden.load(SeqCst) => Verdict::Result(json!([])),
            "eth_getLogs" => Verdict::Result(honest(method, params)),
            _ => Verdict::Pass,
        })
        .await;
    let index = world.index();
    let payee = world.payee.wallet();
    // A round is a look at each part, and one that finds its end.
    for _ in 0..2 {
        assert_eq!(chain.closes_by_index(&index, payee, 99).await.unwrap(), []);
    }
    let verified = index.status().unwrap().verified.unwrap();
    leaving.store(true, SeqCst);
    world.payer.perform(&Intent::StartClose { config }).await.unwrap();
    let error = chain.closes_by_index(&index, payee, 99).await.unwrap_err();
    assert!(error.to_string().contains("closing"), "{error}");
    assert!(index.closes(None).is_err(), "it is not told that nobody leaves");
    let status = index.status().unwrap();
    assert!(status.cursor <= Some(verified) && status.doubt.is_some(), "{status:?}");
    leaving.store(false, SeqCst);
    let closes = chain.closes_by_index(&index, payee, 99).await.unwrap();
    assert_eq!(closes[0].channel, world.id(config));
}

#[tokio::test]
async fn what_is_not_final_is_told_and_not_kept_and_a_deeper_reorganisation_is_followed() {
    let world = World::new().await;
    let configs = [1, 2].map(|salt| world.config(salt));
    let channels = configs.map(|config| (config, amount(1_000))).to_vec();
    world.payer.perform(&Intent::Open { channels }).await.unwrap();
    let endpoint = Endpoint::Embedded(world.chain.clone());
    let slow = seen(endpoint, &world.deployed, PAYEE, quick(Finality::Blocks(5))).await;
    let (index, payee) = (world.index(), world.payee.wallet());
    let mine = |blocks: u64| (0..blocks).for_each(|_| world.chain.mine().unwrap());
    let closes = async || slow.closes_by_index(&index, payee, 99).await.unwrap();
    mine(5);
    assert!(closes().await.is_empty());
    assert_eq!(index.count().unwrap(), 3);

    // Newer than final: told at once, stored later, gone with its block.
    world.payer.perform(&Intent::StartClose { config: configs[0] }).await.unwrap();
    assert_eq!(closes().await[0].channel, world.id(configs[0]));
    assert_eq!(index.count().unwrap(), 3, "it is not final");
    assert!(index.closes(None).unwrap().is_empty());
    world.chain.rollback(1).unwrap();
    assert!(closes().await.is_empty());
    mine(1);
    world.payer.perform(&Intent::StartClose { config: configs[1] }).await.unwrap();
    mine(5);
    assert_eq!(closes().await[0].channel, world.id(configs[1]));
    assert_eq!(index.count().unwrap(), 4);
    assert_eq!(index.closes(None).unwrap().len(), 1);

    // Deeper than what counted as final: what is gone there is gone here.
    mine(3);
    closes().await;
    world.chain.rollback(10).unwrap();
    mine(1);
    assert_eq!(closes().await.len(), 1, "the node may only be behind");
    mine(14);
    assert!(closes().await.is_empty());
    assert_eq!(index.count().unwrap(), 3);
    slow.check_index(&index, true).await.unwrap();
    // Another chain altogether.
    world.chain.rollback(world.chain.block_number() - 21).unwrap();
    assert!(index.status().unwrap().first.is_some());
    mine(40);
    let error = slow.advance_index(&index, 99).await;
    assert!(error.is_ok(), "{error:?}");
    assert_eq!(index.count().unwrap(), 0, "there is no contract on it");
}

#[tokio::test]
async fn many_channels_are_asked_about_in_few_requests_of_one_kind_or_one_by_one() {
    let world = World::new().await;
    for part in 0..4 {
        let salts = part * 100..(part + 1) * 100;
        let channels = salts.map(|salt| (world.config(salt), amount(10 + u128::from(salt))));
        world.payer.perform(&Intent::Open { channels: channels.collect() }).await.unwrap();
    }
    world.payer.perform(&Intent::StartClose { config: world.config(7) }).await.unwrap();
    let mut ids: Vec<_> = (0..400).map(|salt| world.id(world.config(salt))).collect();
    ids.push(ChannelId::default());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let counted = world
        .through(move |method, params| {
            seen.lock().unwrap().push((method.to_owned(), params[0].get("to").is_some()));
            Verdict::Pass
        })
        .await;
    calls.lock().unwrap().clear();
    let facts = counted.channels(&ids).await.unwrap();
    let asked = std::mem::take(&mut *calls.lock().unwrap());
    assert_eq!(asked.iter().filter(|(method, _)| method == "eth_call").count(), 3, "401 / 192");
    assert!(asked.len() <= 5, "{asked:?}");
    for (salt, facts) in facts[..400].iter().enumerate() {
        assert_eq!(facts.unwrap().reserved, amount(10 + salt as u128));
    }
    assert!(matches!(facts[7].unwrap().status, ChannelStatus::Closing { .. }));
    assert_eq!(facts[400], None);
    // A node that runs no code of the moment is asked one by one, and answers the same.
    let plain = world
        .through(|method, params| match method {
            "eth_call" if params[0].get("to").is_none() => {
                Verdict::Error(-32602, "contract creation is not allowed")
            }
            _ => Verdict::Pass,
        })
        .await;
    assert_eq!(plain.channels(&ids).await.unwrap(), facts);
    // One that answers with too little is not taken at its word.
    let short = world
        .through(|method, params| match method {
            "eth_call" if params[0].get("to").is_none() => Verdict::Result(json!("0x00")),
            _ => Verdict::Pass,
        })
        .await;
    assert_eq!(short.channels(&ids).await.unwrap(), facts);

    // Who leaves is known for all of them in as many requests as for one.
    let index = world.index();
    counted.closes_by_index(&index, world.payee.wallet(), 99).await.unwrap();
    counted.closes_by_index(&index, world.payee.wallet(), 99).await.unwrap();
    calls.lock().unwrap().clear();
    let closes = counted.closes_by_index(&index, world.payee.wallet(), 99).await.unwrap();
    assert_eq!(closes.iter().map(|close| close.channel).collect::<Vec<_>>(), [ids[7]]);
    let asked = calls.lock().unwrap().len();
    assert!(asked <= 10, "{asked} requests");
}

#[tokio::test]
async fn no_log_that_a_node_can_send_does_harm() {
    let world = World::new().await;
    world.live().await;
    let whole = world.index();
    all(&world.payee, &whole).await.unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        // xorshift64: the same lies each time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below.max(1)
    };
    let honest = world.honest();
    let filter = json!([{ "fromBlock": "0x0", "address": world.deployed.domain.contract }]);
    let Value::Array(good) = honest("eth_getLogs", &filter) else { panic!("no logs") };
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut logs = good.clone();
        for _ in 0..=draw(3) {
            let at = draw(logs.len() as u64) as usize;
            match draw(8) {
                0 => {
                    logs.remove(at);
                }
                1 => logs.push(logs[at].clone()),
                2 => logs[at] = anything(&mut draw, &good),
                _ => {
                    let value = anything(&mut draw, &good);
                    let keys: Vec<_> = good[0].as_object().unwrap().keys().cloned().collect();
                    if let Some(fields) = logs[at].as_object_mut() {
                        fields.insert(keys[draw(keys.len() as u64) as usize].clone(), value);
                    }
                }
            }
        }
        let told = json!(logs);
        let judge = move |method: &str, _: &Value| match method {
            "eth_getLogs" => Verdict::Result(told.clone()),
            _ => Verdict::Pass,
        };
        let spoilt = Misbehaving::endpoint(&world.chain, judge);
        let policy = Policy { retry_for: Duration::ZERO, ..at_once() };
        let chain = seen(spoilt, &world.deployed, PAYEE, policy).await;
        let index = world.index();
        match all(&chain, &index).await {
            // What was spoilt has no bearing on money (an order, a sender), or was told twice.
            Ok(_) => {
                let facts = |index: &Index| {
                    let channels = index.channels_to(world.payee.wallet()).unwrap();
                    let mut facts: Vec<_> = channels.iter().map(|it| (it.id, it.facts)).collect();
                    facts.sort_by_key(|(id, _)| *id);
                    facts
                };
                assert_eq!(facts(&index), facts(&whole));
                taken += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 20 && refused > 200, "{taken} taken, {refused} refused");
}
