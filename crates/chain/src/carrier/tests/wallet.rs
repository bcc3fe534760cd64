//! One wallet and its nonces: gaps, stuck transactions, urgent ones, and other programs.

use alloy_primitives::B256;
use serde_json::Value;

use tokio::task::JoinHandle;

use super::*;
use crate::{chain_work::Stands, journal::StepState};

const TO: Address = Address::repeat_byte(5);
const GWEI: u128 = 1_000_000_000;

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..5_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never: {what}");
}

/// A price of gas that a test sets; what pays less is taken and never mined.
#[derive(Clone, Default)]
struct Market {
    price: Arc<AtomicU64>,
    /// How often a transaction was looked for.
    looks: Arc<AtomicU64>,
}

impl Market {
    fn set(&self, gwei: u64) {
        self.price.store(gwei, Ordering::SeqCst);
    }

    /// Returns when what is under way was looked for often enough for anything to happen to it.
    async fn looked(&self) {
        let before = self.looks.load(Ordering::SeqCst);
        until("it is looked for", || self.looks.load(Ordering::SeqCst) > before + 10).await;
    }

    fn judge(&self) -> impl FnMut(&str, &Value) -> Verdict + Send + use<> {
        let Self { price, looks } = self.clone();
        move |method, params| {
            looks.fetch_add(u64::from(method == "eth_getTransactionReceipt"), Ordering::SeqCst);
            let base = u128::from(price.load(Ordering::SeqCst)) * GWEI;
            match method {
                _ if base == 0 => Verdict::Pass,
                "eth_getBlockByNumber" => Verdict::With("baseFeePerGas", json!(U256::from(base))),
                "eth_sendRawTransaction" => {
                    let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
                    let sent = alloy_consensus::TxEnvelope::decode_2718_exact(&raw).unwrap();
                    match sent.max_fee_per_gas() < base {
                        true => Verdict::Result(json!(sent.tx_hash())),
                        false => Verdict::Pass,
                    }
                }
                _ => Verdict::Pass,
            }
        }
    }
}

#[tokio::test]
async fn a_lower_nonce_that_a_reorganisation_dropped_is_sent_again_by_whoever_waits_behind_it() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let policy = Policy { finality: Finality::Blocks(3), ..quick() };
    let carrier = Arc::new(connect(endpoint, &deployed, PAYER, policy).await);
    let transfer = |to: u8| {
        let carrier = carrier.clone();
        tokio::spawn(async move { carrier.transfer(Address::repeat_byte(to), 1_000).await })
    };
    let has = |to: u8| balance(&chain, Address::repeat_byte(to)) == 1_000;
    let first = transfer(5);
    until("the first is mined", || has(5)).await;
    let second = transfer(6);
    until("the second is mined", || has(6)).await;
    // Nobody follows the first any more; the nodes forget both.
    first.abort();
    let _ = first.await;
    chain.rollback(2).unwrap();
    until("both are mined again", || has(5) && has(6)).await;
    for _ in 0..4 {
        chain.mine().unwrap();
    }
    second.await.unwrap().unwrap();
    assert_eq!(carrier.resume().await.unwrap(), 1, "the first was only to be seen final");
    assert!(carrier.follower.journal.signed().values().all(|steps| steps.len() == 1));
}

/// Only hurry raises a fee: up to 100 gwei instead of 3.
fn dear() -> Policy {
    Policy {
        bump_after: Duration::from_secs(3_600),
        fee_max_wei: 3 * GWEI,
        fee_max_urgent_wei: 100 * GWEI,
        ..quick()
    }
}

/// A payer in this market who can finish the close of a channel.
async fn leaving(market: &Market) -> (EmbeddedChain, Deployment, Arc<EvmChain>, ChannelConfig) {
    let (chain, deployed, carrier) =
        misbehaving(dear(), Journal::in_memory().unwrap(), market.judge()).await;
    let token = deployed.token;
    carrier.mint(token, carrier.wallet(), amount(500)).await.unwrap();
    carrier.perform(&Intent::Deposit { token, amount: amount(500) }).await.unwrap();
    let config = config(token, 1);
    carrier.perform(&Intent::Open { channels: vec![(config, amount(300))] }).await.unwrap();
    carrier.perform(&Intent::StartClose { config }).await.unwrap();
    chain.increase_time(u64::from(DELAY)).unwrap();
    chain.mine().unwrap();
    (chain, deployed, Arc::new(carrier), config)
}

fn transferring(carrier: &Arc<EvmChain>, wei: u128) -> JoinHandle<Result<Outcome, ChainError>> {
    let carrier = carrier.clone();
    tokio::spawn(async move { carrier.transfer(TO, wei).await })
}

/// Returns when the oldest intent has a transaction that is in no block.
async fn sent(carrier: &EvmChain) {
    let in_no_block = || {
        let under_way = carrier.work().unwrap().under_way;
        let stands = under_way.first().map(|it| &it.stands);
        matches!(stands, Some(Stands::Sent { mined: false, .. }))
    };
    until("it is sent", in_no_block).await;
}

#[tokio::test]
async fn what_holds_an_urgent_intent_up_is_replaced_at_the_urgent_price() {
    let market = Market::default();
    let (chain, deployed, carrier, config) = leaving(&market).await;
    // Gas becomes dear; a transfer is caught by it.
    market.set(10);
    let transfer = transferring(&carrier, 1_000);
    sent(&carrier).await;
    let [waiting] = &carrier.work().unwrap().under_way[..] else { panic!() };
    let words = waiting.words(waiting.since_secs + 5, carrier.work().unwrap().base_fee_wei);
    assert!(words.starts_with("transfer, asked for 5 s ago: 0x"), "{words}");
    let end = "is in no block yet; it pays up to 3.000 gwei, and gas costs 10.000 gwei: too little \
               for now";
    assert!(words.ends_with(end), "{words}");
    assert_eq!(balance(&chain, TO), 0);

    carrier.perform(&Intent::FinishClose { config }).await.unwrap();
    let facts = carrier.channel(config.id(&deployed.domain)).await.unwrap().unwrap();
    assert_eq!(facts.status, ChannelStatus::Closed);
    transfer.await.unwrap().unwrap();
    assert_eq!(balance(&chain, TO), 1_000, "it went before");
    assert!(carrier.work().unwrap().under_way.is_empty());

    // What is not urgent waits again.
    let next = transferring(&carrier, 1);
    sent(&carrier).await;
    market.looked().await;
    let [waiting] = &carrier.work().unwrap().under_way[..] else { panic!() };
    let Stands::Sent { max_fee_wei, replaced, mined, .. } = waiting.stands else { panic!() };
    assert_eq!((max_fee_wei, replaced, mined), (3 * GWEI, 0, false), "its limit is 3 gwei");
    next.abort();
    let _ = next.await;
    market.set(2);
    assert_eq!(carrier.resume().await.unwrap(), 1);
    assert_eq!(balance(&chain, TO), 1_001);
}

#[tokio::test]
async fn a_claim_is_urgent_while_its_payer_leaves_and_becomes_so_while_it_is_stuck() {
    let market = Market::default();
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let (token, domain) = (deployed.token, deployed.domain);
    let payer = connect(endpoint, &deployed, PAYER, quick()).await;
    let misbehaving = Misbehaving::endpoint(&chain, market.judge());
    let payee = Arc::new(connect(misbehaving, &deployed, PAYEE, dear()).await);
    payer.mint(token, payer.wallet(), amount(500)).await.unwrap();
    payer.perform(&Intent::Deposit { token, amount: amount(500) }).await.unwrap();
    let config = config(token, 1);
    payer.perform(&Intent::Open { channels: vec![(config, amount(300))] }).await.unwrap();

    let claims = Intent::Claim { claims: vec![claim(config, &domain, 200)] };
    assert!(!payee.plan_for(&claims).await.unwrap().urgent);
    market.set(10);
    let stuck = tokio::spawn({
        let (payee, claims) = (payee.clone(), claims.clone());
        async move { payee.perform(&claims).await }
    });
    sent(&payee).await;
    market.looked().await;
    stuck.abort();
    let _ = stuck.await;
    let cheap = payee.quote(&claims).await.unwrap();

    payer.perform(&Intent::StartClose { config }).await.unwrap();
    assert!(payee.plan_for(&claims).await.unwrap().urgent);
    payee.perform(&claims).await.unwrap();
    let facts = payee.channel(config.id(&domain)).await.unwrap().unwrap();
    assert_eq!(facts.claimed, amount(200));
    assert_eq!(cheap.transactions, 1);
    let steps = payee.follower.journal.signed();
    assert_eq!(steps.len(), 1, "one nonce for all of it: {steps:?}");
}

#[tokio::test]
async fn a_restart_replaces_what_holds_an_urgent_intent_up_and_not_what_comes_after_it() {
    let market = Market::default();
    let (chain, deployed, carrier, config) = leaving(&market).await;
    // Gas becomes dear; a process ends that has sent a transfer and written down two more intents.
    market.set(10);
    let transfer = transferring(&carrier, 1_000);
    sent(&carrier).await;
    transfer.abort();
    let _ = transfer.await;
    let journal = &carrier.follower.journal;
    let other = crate::Call { target: Some(TO), data: Bytes::new(), value: U256::from(10) };
    journal.plan("transfer", B256::repeat_byte(1), &[other], false, 1).unwrap();
    let finish = Intent::FinishClose { config };
    let calls = carrier.plan_for(&finish).await.unwrap().calls;
    journal.plan("finish_close", carrier.digest_of(&finish), &calls, true, 1).unwrap();

    let resumed = tokio::spawn({
        let carrier = carrier.clone();
        async move { carrier.resume().await }
    });
    let only_the_last = || {
        let under_way = carrier.work().unwrap().under_way;
        under_way.len() == 1 && matches!(under_way[0].stands, Stands::Sent { mined: false, .. })
    };
    until("only the last one waits", only_the_last).await;
    market.looked().await;
    assert!(only_the_last() && !resumed.is_finished());
    let facts = carrier.channel(config.id(&deployed.domain)).await.unwrap().unwrap();
    assert_eq!(facts.status, ChannelStatus::Closed);
    assert_eq!(balance(&chain, TO), 1_000, "it held the urgent one up; the other does not");
    market.set(2);
    assert_eq!(resumed.await.unwrap().unwrap(), 3);
    assert_eq!(balance(&chain, TO), 1_010);
}

#[tokio::test]
async fn a_restart_brings_all_into_blocks_before_it_waits_for_any_to_be_final() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    // Blocks come with transactions only: the first is not final by itself.
    let policy = Policy { finality: Finality::Blocks(5), ..quick() };
    let carrier = Arc::new(connect(endpoint, &deployed, PAYER, policy).await);
    let first = tokio::spawn({
        let carrier = carrier.clone();
        async move { carrier.transfer(TO, 1_000).await }
    });
    until("the first is mined", || balance(&chain, TO) == 1_000).await;
    first.abort();
    let _ = first.await;
    let other = crate::Call { target: Some(TO), data: Bytes::new(), value: U256::from(10) };
    carrier.follower.journal.plan("transfer", B256::repeat_byte(1), &[other], false, 1).unwrap();
    let resumed = tokio::spawn({
        let carrier = carrier.clone();
        async move { carrier.resume().await }
    });
    until("the second is mined", || balance(&chain, TO) == 1_010).await;
    assert!(!resumed.is_finished());
    for _ in 0..6 {
        chain.mine().unwrap();
    }
    assert_eq!(resumed.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_chain_that_stands_still_is_not_offered_more_and_more() {
    let sent = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::<Bytes>::new()));
    let versions = sent.clone();
    let judge = move |method: &str, params: &Value| {
        if method != "eth_sendRawTransaction" {
            return Verdict::Pass;
        }
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        let hash = *alloy_consensus::TxEnvelope::decode_2718_exact(&raw).unwrap().tx_hash();
        versions.lock().unwrap().insert(raw);
        Verdict::Result(json!(hash))
    };
    let policy = Policy { bump_after: Duration::from_millis(1), ..quick() };
    let (chain, _, carrier) = misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    let carrier = Arc::new(carrier);
    let stays = async |count: usize| {
        until("it is raised", || sent.lock().unwrap().len() >= count).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(sent.lock().unwrap().len(), count, "no block came");
    };
    let transfer = tokio::spawn({
        let carrier = carrier.clone();
        async move { carrier.transfer(TO, 1).await }
    });
    stays(1).await;
    chain.mine().unwrap();
    stays(2).await;
    transfer.abort();
    let _ = transfer.await;
    // A later process cannot know when it was signed: it raises it once.
    let resumed = tokio::spawn(async move { carrier.resume().await });
    stays(3).await;
    resumed.abort();
}

#[tokio::test]
async fn deposits_asked_for_at_a_time_each_have_their_own_allowance() {
    // The first deposit's second transaction is lost once: the second one is asked for meanwhile.
    let mut sends = 0;
    let judge = move |method: &str, _: &Value| {
        sends += u32::from(method == "eth_sendRawTransaction");
        match (method, sends) {
            // After mint and approval.
            ("eth_sendRawTransaction", 3) => Verdict::Result(json!(B256::ZERO)),
            _ => Verdict::Pass,
        }
    };
    let policy = Policy { poll: Duration::from_millis(50), ..quick() };
    let (_, deployed, carrier) = misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    let (token, carrier) = (deployed.token, Arc::new(carrier));
    carrier.mint(token, carrier.wallet(), amount(1_000)).await.unwrap();
    let deposit = |units: u128| {
        let carrier = carrier.clone();
        tokio::spawn(async move {
            carrier.perform(&Intent::Deposit { token, amount: amount(units) }).await
        })
    };
    let first = deposit(300);
    let allowance =
        TestToken::allowanceCall { owner: carrier.wallet(), spender: deployed.domain.contract };
    while carrier.read_newest(token, allowance.clone()).await.unwrap().is_zero() {
        tokio::task::yield_now().await;
    }
    let second = deposit(200);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let funds = carrier.funds(carrier.wallet(), token).await.unwrap();
    assert_eq!((funds.deposit, funds.wallet), (amount(500), 500));
}

#[tokio::test]
async fn another_program_on_the_wallet_is_noticed_and_told() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let one = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    let other = connect(endpoint, &deployed, PAYER, quick()).await;
    one.transfer(TO, 1).await.unwrap();
    one.transfer(TO, 1).await.unwrap();
    assert_eq!(one.work().unwrap().foreign_use, None, "all of it was ours, as far as is known");
    let before = one.follower.node.nonce(one.wallet()).await.unwrap();
    other.transfer(TO, 1).await.unwrap();
    one.transfer(TO, 1).await.unwrap();
    assert_eq!(one.work().unwrap().foreign_use.unwrap().nonce, before);
    one.transfer(TO, 1).await.unwrap();
    assert_eq!(one.work().unwrap().foreign_use.unwrap().nonce, before, "ours are not foreign");
}

#[tokio::test]
async fn a_transaction_that_is_delivered_twice_is_not_paid_twice() {
    // The first delivery is mined; the answer that comes back is the second one's.
    let slot = Arc::new(std::sync::OnceLock::<EmbeddedChain>::new());
    let (chain, mut first) = (slot.clone(), true);
    let judge = move |method: &str, params: &Value| {
        if method != "eth_sendRawTransaction" || !std::mem::take(&mut first) {
            return Verdict::Pass;
        }
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        chain.get().unwrap().submit(&raw).unwrap();
        Verdict::Error(-32000, "nonce too low: next nonce 3, tx nonce 2")
    };
    let (chain, _, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    slot.set(chain.clone()).unwrap();
    assert_eq!(carrier.transfer(TO, 1_000).await.unwrap().transactions.len(), 1);
    assert_eq!(balance(&chain, TO), 1_000);
    assert_eq!(carrier.work().unwrap().foreign_use, None);
}

#[tokio::test]
async fn what_may_be_done_twice_does_not_wait_until_a_foreign_transaction_is_final() {
    let chain = embedded();
    let deployed = deploy(Endpoint::Embedded(chain.clone()), signer(PAYER), quick()).await.unwrap();
    let token = deployed.token;
    let payer = connect(Endpoint::Embedded(chain.clone()), &deployed, PAYER, quick()).await;
    payer.mint(token, payer.wallet(), amount(500)).await.unwrap();
    payer.perform(&Intent::Deposit { token, amount: amount(500) }).await.unwrap();
    let config = config(token, 1);
    payer.perform(&Intent::Open { channels: vec![(config, amount(300))] }).await.unwrap();
    drop(payer);
    for _ in 0..20 {
        chain.mine().unwrap();
    }

    // Each node swallows the first transaction that it is handed, and another one takes its nonce.
    let taken = Arc::new(AtomicBool::new(false));
    let node = |name: &str| {
        let (taken, inner, mut first) = (taken.clone(), chain.clone(), true);
        Misbehaving::named(name, &chain, move |method, params| {
            if method != "eth_sendRawTransaction" || !std::mem::take(&mut first) {
                return Verdict::Pass;
            }
            if !taken.swap(true, Ordering::SeqCst) {
                let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
                let nonce = alloy_consensus::TxEnvelope::decode_2718_exact(&raw).unwrap().nonce();
                let (_, other) = crate::testing::signed(PAYER, |it| it.nonce = nonce);
                inner.submit(&other).unwrap();
            }
            Verdict::Error(-32000, "nonce too low")
        })
    };
    let endpoints = ["a", "b", "c"].map(node).to_vec();
    let endpoint = Endpoint::Several { endpoints, quorum: 2 };
    let policy = Policy { finality: Finality::Blocks(12), ..quick() };
    let carrier = Arc::new(connect(endpoint, &deployed, PAYER, policy).await);
    let start = tokio::spawn({
        let carrier = carrier.clone();
        async move { carrier.perform(&Intent::StartClose { config }).await }
    });
    let call = Channels::channelCall::new((config.id(&deployed.domain).0,));
    let started = async {
        loop {
            let state = carrier.read_newest(deployed.domain.contract, call.clone()).await.unwrap();
            if state.status == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), started).await.expect("no block was mined");
    assert!(carrier.work().unwrap().foreign_use.is_some());
    for _ in 0..14 {
        chain.mine().unwrap();
    }
    start.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_step_that_fails_leaves_no_signed_transaction_behind() {
    // Two transactions of one intent are mined; a reorganisation takes both out, and then the first
    // one reverts.
    const NOTHING: u64 = 0;
    const THE_SECOND: u64 = 1;
    const BOTH: u64 = 2;
    let holding = Arc::new(AtomicU64::new(NOTHING));
    let hold = holding.clone();
    let judge = move |method: &str, params: &Value| {
        let held = hold.load(Ordering::SeqCst);
        if method != "eth_sendRawTransaction" || held == NOTHING {
            return Verdict::Pass;
        }
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        let sent = alloy_consensus::TxEnvelope::decode_2718_exact(&raw).unwrap();
        match held == BOTH || sent.to() == Some(TO) {
            true => Verdict::Result(json!(sent.tx_hash())),
            false => Verdict::Pass,
        }
    };
    let policy = Policy { finality: Finality::Blocks(3), ..quick() };
    let (chain, deployed, carrier) =
        misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    let (token, domain, carrier) = (deployed.token, deployed.domain, Arc::new(carrier));
    let endpoint = Endpoint::Embedded(chain.clone());
    let direct = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    direct.mint(token, direct.wallet(), amount(500)).await.unwrap();
    direct.perform(&Intent::Deposit { token, amount: amount(500) }).await.unwrap();
    let config = config(token, 1);
    direct.perform(&Intent::Open { channels: vec![(config, amount(300))] }).await.unwrap();
    let before = carrier.follower.node.nonce(carrier.wallet()).await.unwrap();

    let mut calls = calls_of(domain.contract, carrier.wallet(), &Intent::StartClose { config });
    calls.push(crate::Call { target: Some(TO), data: Bytes::new(), value: U256::from(1_000) });
    let both = tokio::spawn({
        let carrier = carrier.clone();
        let plan = follow::Plan::new(calls);
        async move { carrier.follower.perform("start_close", B256::ZERO, plan).await }
    });
    until("both are mined", || balance(&chain, TO) == 1_000).await;
    holding.store(BOTH, Ordering::SeqCst);
    chain.rollback(2).unwrap();
    let journal = &carrier.follower.journal;
    let [open] = &journal.open_intents().unwrap()[..] else { panic!() };
    let first = journal.steps(open.id).unwrap()[0].id;
    let state = |at: usize| journal.steps(open.id).unwrap()[at].state;
    until("it is noticed", || state(0) == StepState::Signed).await;
    both.abort();
    let _ = both.await;
    let agreed = CooperativeClose { channel: config.id(&domain), amount: amount(100) };
    let payee_signature = TestSigner::new(12).sign_digest(agreed.digest(&domain)).unwrap();
    let close = Intent::CloseCooperatively { claim: claim(config, &domain, 100), payee_signature };
    connect(endpoint, &deployed, PAYEE, quick()).await.perform(&close).await.unwrap();
    // A node that still had the first brings it into a block, where it reverts for good.
    chain.submit(&journal.attempts(first).unwrap()[0].raw).unwrap();
    for _ in 0..4 {
        chain.mine().unwrap();
    }

    holding.store(THE_SECOND, Ordering::SeqCst);
    let resumed = tokio::spawn({
        let carrier = carrier.clone();
        async move { carrier.resume().await }
    });
    until("the first is seen", || state(0) == StepState::Failed).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!resumed.is_finished(), "what is signed is not left behind");
    let [waiting] = &carrier.work().unwrap().under_way[..] else { panic!() };
    assert_eq!(waiting.stands, Stands::Failed);
    holding.store(NOTHING, Ordering::SeqCst);
    until("the second is mined again", || balance(&chain, TO) == 1_000).await;
    for _ in 0..4 {
        chain.mine().unwrap();
    }
    assert_eq!(resumed.await.unwrap().unwrap(), 2);
    let reason = journal.failure(open.id).unwrap().unwrap();
    assert!(reason.contains("is not open") || reason.contains("is closed"), "{reason}");
    assert_eq!(carrier.follower.node.nonce(carrier.wallet()).await.unwrap(), before + 2);
    assert!(carrier.work().unwrap().under_way.is_empty());
}

/// A payer behind a node that cannot simulate anything while it is told so.
async fn dumb() -> (EmbeddedChain, EvmChain, Arc<AtomicBool>) {
    let silent = Arc::new(AtomicBool::new(false));
    let told = silent.clone();
    let judge = move |method: &str, _: &Value| match method {
        "eth_estimateGas" if told.load(Ordering::SeqCst) => Verdict::Silence,
        _ => Verdict::Pass,
    };
    let (chain, _, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    (chain, carrier, silent)
}

#[tokio::test]
async fn an_urgent_intent_outlives_a_start_at_which_the_node_is_silent() {
    let (chain, carrier, silent) = dumb().await;
    // Its caller was killed while it waited for its turn.
    let call = crate::Call { target: Some(TO), data: Bytes::new(), value: U256::from(100) };
    carrier.follower.journal.plan("revoke", B256::ZERO, &[call], true, 0).unwrap();
    silent.store(true, Ordering::SeqCst);
    let error = carrier.resume().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error:?}");
    silent.store(false, Ordering::SeqCst);
    assert_eq!(carrier.resume().await.unwrap(), 1);
    assert_eq!(balance(&chain, TO), 100);
}

#[tokio::test]
async fn what_its_caller_was_told_was_not_sent_is_not_sent_later() {
    let (chain, carrier, silent) = dumb().await;
    silent.store(true, Ordering::SeqCst);
    let error = carrier.transfer(TO, 100).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error:?}");
    silent.store(false, Ordering::SeqCst);
    assert_eq!(carrier.resume().await.unwrap(), 0);
    assert_eq!(balance(&chain, TO), 0);
}

#[tokio::test]
async fn where_the_wallet_cannot_pay_for_the_raise_what_was_taken_before_is_sent_again() {
    // The first version is taken and forgotten, and the wallet cannot pay for more than that.
    let (mut taken, mut refused) = (None, 0);
    let judge = move |method: &str, params: &Value| {
        if method != "eth_sendRawTransaction" {
            return Verdict::Pass;
        }
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        let sent = alloy_consensus::TxEnvelope::decode_2718_exact(&raw).unwrap();
        if sent.max_fee_per_gas() > *taken.get_or_insert(sent.max_fee_per_gas()) {
            refused += 1;
            return Verdict::Error(-32000, "insufficient funds for gas * price + value");
        }
        // Asked often enough that a raise of a raise would have come by now.
        if refused > 4 { Verdict::Pass } else { Verdict::Result(json!(sent.tx_hash())) }
    };
    let policy = Policy { bump_after: Duration::from_millis(10), ..quick() };
    let (chain, _, carrier) = misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    let blocks = async {
        loop {
            chain.mine().unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = carrier.transfer(TO, 1_000) => assert_eq!(done.unwrap().transactions.len(), 1),
        () = blocks => {}
    }
    assert_eq!(balance(&chain, TO), 1_000);
    let attempts = carrier.follower.journal.attempts(1).unwrap();
    assert_eq!(attempts.len(), 2, "one that is refused is not raised further");
}
