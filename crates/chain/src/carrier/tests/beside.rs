//! Urgent intents: before the others, and several under way at once.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use alloy_consensus::TxEnvelope;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::*;

const TO: Address = Address::repeat_byte(5);

/// A node that keeps transactions until it is told to make blocks of them, as most chains do.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Pooled>>);

#[derive(Default)]
struct Pooled {
    /// By nonce: the newest version, of one wallet.
    waiting: BTreeMap<u64, Bytes>,
    /// What is taken and forgotten.
    forgets: Option<u64>,
    /// What is not taken: the wallet is said to be too poor for it.
    refuses: Option<u64>,
    /// How often that was said.
    refused: u64,
    /// Every nonce that was ever taken, in the order in which they came first.
    came: Vec<u64>,
    used: u64,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Pooled> {
        self.0.lock().unwrap()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Forgets all, and goes on from a chain of which the wallet has used so many nonces.
    pub(super) fn reset(&self, used: u64) {
        *self.lock() = Pooled { used, ..Pooled::default() };
    }

    /// Takes a transaction.
    pub(super) fn take(&self, params: &Value) -> Verdict {
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        let sent = TxEnvelope::decode_2718_exact(&raw).unwrap();
        let mut pooled = self.lock();
        let nonce = sent.nonce();
        if nonce < pooled.used {
            return Verdict::Error(-32000, "nonce too low");
        }
        if pooled.refuses == Some(nonce) {
            pooled.refused += 1;
            return Verdict::Error(-32000, "insufficient funds for gas * price + value");
        }
        if !pooled.came.contains(&nonce) {
            pooled.came.push(nonce);
        }
        if pooled.forgets != Some(nonce) {
            pooled.waiting.insert(nonce, raw);
        }
        Verdict::Result(json!(sent.tx_hash()))
    }

    /// Mines what can be mined: nothing behind a nonce that is missing.
    pub(super) fn mine(&self, chain: &EmbeddedChain) {
        let mut pooled = self.lock();
        while let Some((nonce, raw)) = pooled.waiting.pop_first() {
            if nonce > pooled.used {
                pooled.waiting.insert(nonce, raw);
                break;
            }
            if chain.submit(&raw).is_ok() {
                pooled.used = nonce + 1;
            }
        }
        chain.mine().unwrap();
    }
}

/// A payee with channels whose payer leaves, behind a node with a pool.
struct World {
    chain: EmbeddedChain,
    deployed: Deployment,
    pool: Pool,
    payee: Arc<EvmChain>,
    configs: Vec<ChannelConfig>,
    /// How often a transaction was looked for.
    looks: Arc<AtomicU64>,
    /// Whether the next simulation succeeds whatever is simulated.
    blind: Arc<AtomicBool>,
    /// What the wallet has in wei, as the node says; 0 for the truth.
    purse: Arc<AtomicU64>,
}

type Performing = JoinHandle<Result<Outcome, ChainError>>;

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never: {what}");
}

impl World {
    async fn new(channels: u64) -> Self {
        Self::with(channels, quick()).await
    }

    async fn with(channels: u64, policy: Policy) -> Self {
        let chain = embedded();
        let endpoint = Endpoint::Embedded(chain.clone());
        let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
        let token = deployed.token;
        let payer = connect(endpoint, &deployed, PAYER, quick()).await;
        payer.mint(token, payer.wallet(), amount(100_000)).await.unwrap();
        payer.perform(&Intent::Deposit { token, amount: amount(100_000) }).await.unwrap();
        let configs: Vec<_> = (0..channels).map(|salt| config(token, salt)).collect();
        let opened = configs.iter().map(|config| (*config, amount(100))).collect();
        payer.perform(&Intent::Open { channels: opened }).await.unwrap();
        for config in &configs {
            payer.perform(&Intent::StartClose { config: *config }).await.unwrap();
        }
        let (pool, looks) = (Pool::default(), Arc::new(AtomicU64::new(0)));
        let (blind, purse) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (node, counter, eyes, told) =
            (pool.clone(), looks.clone(), blind.clone(), purse.clone());
        let judge = move |method: &str, params: &Value| match method {
            "eth_sendRawTransaction" => node.take(params),
            "eth_estimateGas" if eyes.swap(false, Ordering::SeqCst) => {
                Verdict::Result(json!("0x30d40"))
            }
            "eth_getBalance" if told.load(Ordering::SeqCst) > 0 => {
                Verdict::Result(json!(U256::from(told.load(Ordering::SeqCst))))
            }
            "eth_getTransactionReceipt" => {
                counter.fetch_add(1, Ordering::SeqCst);
                Verdict::Pass
            }
            _ => Verdict::Pass,
        };
        let endpoint = Misbehaving::endpoint(&chain, judge);
        let payee = Arc::new(connect(endpoint, &deployed, PAYEE, policy).await);
        Self { chain, deployed, pool, payee, configs, looks, blind, purse }
    }

    fn perform(&self, intent: Intent) -> Performing {
        let payee = self.payee.clone();
        tokio::spawn(async move { payee.perform(&intent).await })
    }

    fn claim(&self, channel: usize) -> Performing {
        let claims = vec![claim(self.configs[channel], &self.deployed.domain, 60)];
        self.perform(Intent::Claim { claims })
    }

    fn transfer(&self, wei: u128) -> Performing {
        let payee = self.payee.clone();
        tokio::spawn(async move { payee.transfer(TO, wei).await })
    }

    async fn pooled(&self, count: usize) {
        until(&format!("{count} are sent"), || self.pool.len() == count).await;
    }

    /// Returns when what is under way was looked for often enough for anything to happen to it.
    async fn looked(&self) {
        let before = self.looks.load(Ordering::SeqCst);
        until("it is looked for", || self.looks.load(Ordering::SeqCst) > before + 20).await;
    }

    fn mine(&self) {
        self.pool.mine(&self.chain);
    }

    /// Makes blocks while `work` goes on.
    async fn mining<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(Duration::from_millis(5)) => self.mine(),
            }
        }
    }

    /// What was claimed in each channel; and that no nonce is of two steps, and none is left out.
    async fn claimed(&self) -> Vec<u128> {
        let signed = self.payee.follower.journal.signed();
        assert!(signed.values().all(|steps| steps.len() == 1), "a nonce for two: {signed:?}");
        let nonces: Vec<u64> = signed.keys().copied().collect();
        assert!(nonces.iter().enumerate().all(|(at, nonce)| *nonce == at as u64), "{nonces:?}");
        assert!(self.payee.work().unwrap().under_way.is_empty());
        let ids: Vec<_> = self.configs.iter().map(|it| it.id(&self.deployed.domain)).collect();
        let facts = self.payee.channels(&ids).await.unwrap();
        facts.into_iter().map(|facts| facts.unwrap().claimed.get()).collect()
    }
}

#[tokio::test]
async fn urgent_intents_wait_for_blocks_together_and_not_one_by_one() {
    let world = World::new(20).await;
    let claims: Vec<_> = (0..20).map(|channel| world.claim(channel)).collect();
    world.pooled(16).await;
    world.looked().await;
    assert_eq!(world.pool.len(), 16, "as many as nodes keep of one wallet, and no more");
    let stands = world.payee.work().unwrap().under_way;
    assert_eq!(stands.len(), 20, "those that wait are durable too");
    world.mine();
    world.pooled(4).await;
    world.mine();
    for claim in claims {
        assert_eq!(claim.await.unwrap().unwrap().transactions.len(), 1);
    }
    assert_eq!(world.claimed().await, [60; 20]);
    assert_eq!(world.payee.follower.journal.signed().len(), 20, "each once");
}

#[tokio::test]
async fn an_urgent_intent_goes_beside_what_is_under_way_and_before_what_waits() {
    let world = World::new(1).await;
    let first = world.transfer(1);
    world.pooled(1).await;
    let second = world.transfer(10);
    // It stands in line once it was polled: nothing that it awaits before takes time.
    tokio::task::yield_now().await;
    let claim = world.claim(0);
    world.pooled(2).await;
    world.looked().await;
    assert_eq!(world.pool.len(), 2, "what is not urgent waits for a block of its own");
    // And one that may not be done twice for nothing: alone, and still before the second transfer.
    let follower = world.payee.clone();
    let alone = tokio::spawn(async move {
        let call = crate::Call { target: Some(TO), data: Bytes::new(), value: U256::from(100) };
        let plan = follow::Plan { calls: vec![call], urgent: true };
        follower.follower.perform("revoke", alloy_primitives::B256::ZERO, plan).await
    });
    world.looked().await;
    assert_eq!(world.pool.len(), 2);
    world.mine();
    world.pooled(1).await;
    assert_eq!(balance(&world.chain, TO), 1);
    world.mine();
    until("the urgent one is mined", || balance(&world.chain, TO) == 101).await;
    world.pooled(1).await;
    world.mine();
    for done in [first, second, claim, alone] {
        done.await.unwrap().unwrap();
    }
    assert_eq!(balance(&world.chain, TO), 111);
    assert_eq!(world.claimed().await, [60]);
}

#[tokio::test]
async fn a_lower_nonce_that_is_dropped_is_sent_again_with_others_behind_it() {
    for first_goes_away in [false, true] {
        let world = World::new(3).await;
        world.pool.lock().forgets = Some(0);
        let first = world.claim(0);
        until("the first is sent", || world.pool.lock().came == [0]).await;
        let mut others = vec![world.claim(1), world.claim(2)];
        until("all are sent", || world.pool.lock().came.len() == 3).await;
        world.mine();
        assert_eq!(world.pool.len(), 2, "nothing behind it is mined");
        world.pool.lock().forgets = None;
        if first_goes_away {
            first.abort();
            let _ = first.await;
        } else {
            others.push(first);
        }
        let all = async {
            for claim in others {
                claim.await.unwrap().unwrap();
            }
        };
        world.mining(all).await;
        world.payee.resume().await.unwrap();
        assert_eq!(world.claimed().await, [60; 3]);
        assert_eq!(world.payee.follower.journal.signed().len(), 3, "each once");
    }
}

#[tokio::test]
async fn one_that_reverts_in_its_block_takes_none_with_it() {
    for reverts_first in [true, false] {
        let world = World::new(3).await;
        // Simulated, it succeeds; in its block it comes too early.
        let early = || {
            world.blind.store(true, Ordering::SeqCst);
            world.perform(Intent::FinishClose { config: world.configs[2] })
        };
        let (early, first) = if reverts_first {
            let early = early();
            world.pooled(1).await;
            (early, world.claim(0))
        } else {
            let first = world.claim(0);
            world.pooled(1).await;
            (early(), first)
        };
        world.pooled(2).await;
        let second = world.claim(1);
        world.pooled(3).await;
        world.mine();
        let error = world.mining(early).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("cannot be closed before"), "{error}");
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(world.claimed().await, [60, 60, 0]);
        assert_eq!(world.pool.lock().used, 3, "it cost gas, and its nonce is used");
    }
}

#[tokio::test]
async fn what_cannot_be_signed_beside_others_is_told_when_its_turn_comes() {
    let world = World::new(2).await;
    let first = world.claim(0);
    world.pooled(1).await;
    // Its time has not come: the simulation says so.
    let early = world.perform(Intent::FinishClose { config: world.configs[1] });
    let second = world.claim(1);
    world.pooled(2).await;
    world.looked().await;
    assert!(!early.is_finished(), "it may have to wait for what is under way");
    world.mine();
    let early = world.mining(early).await.unwrap().unwrap_err();
    assert!(early.to_string().contains("cannot be closed before"), "{early}");
    first.await.unwrap().unwrap();
    world.mining(second).await.unwrap().unwrap();
    assert_eq!(world.claimed().await, [60; 2]);
    assert_eq!(world.payee.follower.journal.signed().len(), 2, "nothing was paid for it");
}

#[tokio::test]
async fn no_more_is_signed_beside_others_than_the_wallet_can_pay_for() {
    let world = World::new(2).await;
    let first = world.claim(0);
    world.pooled(1).await;
    // Enough for one of them at a time.
    let reserved: u64 = world.payee.follower.reserved().unwrap().to();
    world.purse.store(reserved + reserved / 2, Ordering::SeqCst);
    let second = world.claim(1);
    world.looked().await;
    assert_eq!(world.pool.len(), 1);
    world.mine();
    world.pooled(1).await;
    world.mine();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(world.claimed().await, [60; 2]);
}

#[tokio::test]
async fn what_all_nodes_refused_beside_others_is_signed_again_the_same() {
    let world = World::new(1).await;
    let first = world.transfer(1);
    world.pooled(1).await;
    world.pool.lock().refuses = Some(1);
    let claim = world.claim(0);
    until("it is refused", || world.pool.lock().refused == 1).await;
    world.looked().await;
    world.pool.lock().refuses = None;
    // Nonce, gas and fee are what they were, so that its hash is as well.
    world.mine();
    world.pooled(1).await;
    world.mine();
    first.await.unwrap().unwrap();
    claim.await.unwrap().unwrap();
    assert_eq!(world.claimed().await, [60]);
    let attempts = world.payee.follower.journal.attempts(2).unwrap();
    assert_eq!(attempts.len(), 1, "one transaction, signed twice");
}

#[tokio::test]
async fn what_all_nodes_refused_alone_is_signed_again_the_same_when_it_is_asked_for_again() {
    let world = World::new(1).await;
    world.pool.lock().refuses = Some(0);
    let error = world.claim(0).await.unwrap().unwrap_err();
    let ChainError::InsufficientFunds { available, needed, .. } = error else { panic!("{error}") };
    assert!(needed > available && needed < 2 * available, "{needed} of {available}");
    world.pool.lock().refuses = None;
    let again = world.claim(0);
    world.pooled(1).await;
    world.mine();
    again.await.unwrap().unwrap();
    assert_eq!(world.claimed().await, [60]);
}

#[tokio::test]
async fn a_nonce_that_another_program_took_and_a_reorganisation_gave_back_is_filled() {
    let world = World::with(1, Policy { finality: Finality::Blocks(3), ..quick() }).await;
    let claim = world.claim(0);
    world.pooled(1).await;
    // Another program's transaction takes its nonce, and ours is signed anew with the next one.
    let (_, foreign) = crate::testing::signed(PAYEE, |transaction| transaction.nonce = 0);
    let before = world.chain.block_number();
    world.chain.submit(&foreign).unwrap();
    world.chain.mine().unwrap();
    {
        let mut pooled = world.pool.lock();
        pooled.waiting.remove(&0);
        pooled.used = 1;
    }
    until("it is signed anew", || world.pool.lock().waiting.contains_key(&1)).await;
    // That is never mined: the other transaction is gone for good.
    world.chain.rollback(world.chain.block_number() - before).unwrap();
    world.pool.lock().used = 0;
    world.mining(claim).await.unwrap().unwrap();
    assert_eq!(world.claimed().await, [60]);
    assert_eq!(world.payee.follower.journal.signed().len(), 2);
}

#[tokio::test]
async fn what_is_signed_beside_others_leaves_enough_to_raise_them() {
    let world = World::new(2).await;
    let first = world.claim(0);
    world.pooled(1).await;
    // Enough for both as they are signed, and for little more.
    let reserved: u64 = world.payee.follower.reserved().unwrap().to();
    world.purse.store(2 * reserved + reserved / 2, Ordering::SeqCst);
    let second = world.claim(1);
    world.looked().await;
    assert_eq!(world.pool.len(), 1);
    world.mine();
    world.pooled(1).await;
    world.mine();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(world.claimed().await, [60; 2]);
}
