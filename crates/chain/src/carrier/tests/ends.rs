//! A process that ends at any event of a settlement, one after the other: before each read or write
//! of the journal, and before each request to the node. Nothing durable happens between two events,
//! so that these are all places where it can end.
//!
//! Here "the process" is a carrier that is dropped with its handles, over a journal in a file that
//! is opened again, and a chain that lives on. [`kill_everywhere`] does the same to a deposit and to
//! a claim with processes that are killed (signal 9) and a chain in a file.

use std::path::Path;

use super::{beside::Pool, *};
use crate::{chain_work::Stands, testing::Fuse};

const CHILD_DIR: &str = "SPAREWIRE_ENDS_TEST_DIR";
const CHILD_EVENTS: &str = "SPAREWIRE_ENDS_TEST_EVENTS";
const CHILD_SEED: &str = "SPAREWIRE_ENDS_TEST_SEED";
const CHILD_TOTAL: &str = "SPAREWIRE_ENDS_TEST_TOTAL";

/// More events than any of these settlements takes.
const EVENTS_MAX: i64 = 2_000;

struct World {
    chain: EmbeddedChain,
    deployed: Deployment,
    /// Where each run begins.
    base: u64,
    configs: Vec<ChannelConfig>,
    dir: tempfile::TempDir,
    /// Where transactions wait for every so-manieth block, if there is one; else each has its own at
    /// once.
    pool: Option<Pool>,
    /// Whether a transaction was sent that was not in the journal.
    hasty: Arc<AtomicBool>,
}

/// So many requests for a block bring one with what waits.
const REQUESTS_PER_BLOCK: u64 = 12;

fn policy() -> Policy {
    // Two blocks on top, so that "mined" and "final" are apart; each look at the head brings one.
    Policy { finality: Finality::Blocks(2), poll: Duration::from_millis(1), ..quick() }
}

impl World {
    /// A payer with a deposit and four channels, the last of them ready to be left.
    async fn new() -> Self {
        let chain = embedded();
        let endpoint = Endpoint::Embedded(chain.clone());
        let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
        let token = deployed.token;
        let payer = connect(endpoint, &deployed, PAYER, quick()).await;
        payer.mint(token, payer.wallet(), amount(10_000)).await.unwrap();
        payer.perform(&Intent::Deposit { token, amount: amount(5_000) }).await.unwrap();
        let configs: Vec<_> = (0..4).map(|salt| config(token, salt)).collect();
        let channels = configs.iter().map(|config| (*config, amount(500))).collect();
        payer.perform(&Intent::Open { channels }).await.unwrap();
        payer.perform(&Intent::StartClose { config: configs[3] }).await.unwrap();
        chain.increase_time(u64::from(DELAY)).unwrap();
        for _ in 0..3 {
            chain.mine().unwrap();
        }
        let base = chain.block_number();
        let (dir, pool, hasty) = (tempfile::tempdir().unwrap(), None, Arc::default());
        Self { chain, deployed, base, configs, dir, pool, hasty }
    }

    /// A process whose events `fuse` counts.
    async fn process(&self, seed: u8, journal: &Path, fuse: &Fuse) -> EvmChain {
        let (chain, counter, pool) = (self.chain.clone(), fuse.clone(), self.pool.clone());
        let mut journal = Journal::open(journal).unwrap();
        let (is_durable, hasty) = (journal.witness(), self.hasty.clone());
        journal.fuse = Some(fuse.clone());
        let mut asked = 0u64;
        let judge = move |method: &str, params: &serde_json::Value| {
            if !counter.holds() {
                return Verdict::Hang;
            }
            if method == "eth_sendRawTransaction" {
                let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
                hasty.fetch_or(!is_durable(&raw), Ordering::SeqCst);
            }
            match (method, &pool) {
                ("eth_getBlockByNumber", None) => chain.mine().unwrap(),
                ("eth_getBlockByNumber", Some(pool)) => {
                    asked += 1;
                    match asked.is_multiple_of(REQUESTS_PER_BLOCK) {
                        true => pool.mine(&chain),
                        false => chain.mine().unwrap(),
                    }
                }
                ("eth_sendRawTransaction", Some(pool)) => return pool.take(params),
                _ => {}
            }
            Verdict::Pass
        };
        let endpoint = Misbehaving::endpoint(&self.chain, judge);
        EvmChain::connect(endpoint, self.deployed.domain, signer(seed), journal, policy())
            .await
            .unwrap()
    }

    fn used(&self, seed: u8) -> u64 {
        let owner = TestSigner::new(seed).address();
        let answer = self.chain.handle(json!({
            "jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionCount", "params": [owner, "latest"]
        }));
        serde_json::from_value::<alloy_primitives::U64>(answer["result"].clone()).unwrap().to()
    }

    /// What is in all places where money can be.
    async fn money(&self) -> Vec<String> {
        let endpoint = Endpoint::Embedded(self.chain.clone());
        let chain = connect(endpoint, &self.deployed, PAYER, quick()).await;
        let token = self.deployed.token;
        let mut money = Vec::new();
        for owner in [PAYER, PAYEE].map(|seed| TestSigner::new(seed).address()) {
            let funds = chain.funds(owner, token).await.unwrap();
            money.push(format!("{} {} {}", funds.wallet, funds.deposit, funds.claimable));
        }
        for config in self.configs.iter().chain([&config(token, 9)]) {
            let facts = chain.channel(config.id(&self.deployed.domain)).await.unwrap();
            money.push(facts.map_or("none".to_owned(), |facts| {
                let closing = matches!(facts.status, ChannelStatus::Closing { .. });
                let closed = facts.status == ChannelStatus::Closed;
                format!("{} {} {closing} {closed}", facts.reserved, facts.claimed)
            }));
        }
        money
    }

    /// What a process does until its end; `None` where it was ended.
    async fn run(
        &self,
        seed: u8,
        journal: &Path,
        events: i64,
        work: impl AsyncFn(&EvmChain) -> Result<(), ChainError>,
    ) -> Option<()> {
        let fuse = Fuse::unarmed();
        let process = self.process(seed, journal, &fuse).await;
        fuse.arm(events);
        let done = tokio::select! {
            biased;
            () = fuse.blown() => None,
            done = work(&process) => Some(done),
        };
        assert!(!self.hasty.load(Ordering::SeqCst), "a transaction was sent before it was durable");
        match done {
            _ if fuse.is_blown() => None,
            Some(done) => {
                done.unwrap();
                Some(())
            }
            None => None,
        }
    }
}

/// Ends a settlement at each of its events, and then what goes on with it at each `again`th of its.
async fn end_everywhere(
    seed: u8,
    intent: impl Fn(&World) -> Intent,
    steps: u64,
    again: Option<(i64, i64)>,
) {
    let world = World::new().await;
    let intent = intent(&world);
    let before = world.money().await;
    let used = world.used(seed);
    let mut after = Vec::new();
    let (mut runs, mut not_begun, mut gone_on) = (0, 0, 0);
    let mut check = async |journal: &Path, ended: bool| {
        // Only what was durable is gone on with, and all of it.
        let durable = !Journal::peek(journal).unwrap().unwrap().under_way.is_empty();
        let fuse = Fuse::unarmed();
        let process = world.process(seed, journal, &fuse).await;
        process.resume().await.unwrap();
        let under_way = process.work().unwrap().under_way;
        assert!(under_way.is_empty(), "forgotten: {under_way:?}");
        let signed = process.follower.journal.signed();
        assert!(signed.values().all(|steps| steps.len() == 1), "a nonce for two: {signed:?}");
        drop(process);
        let (money, took) = (world.money().await, world.used(seed) - used);
        runs += 1;
        match took {
            0 => {
                assert!(ended && !durable, "it was durable, and is lost");
                assert_eq!(money, before);
                not_begun += 1;
            }
            _ => {
                assert_eq!(took, steps, "done once");
                assert_ne!(money, before);
                if after.is_empty() {
                    after = money.clone();
                }
                assert_eq!(money, after);
                gone_on += u32::from(ended);
            }
        }
        world.chain.rollback(world.chain.block_number() - world.base).unwrap();
    };
    for events in 1..EVENTS_MAX {
        let journal = world.dir.path().join(format!("{events}"));
        let perform = async |chain: &EvmChain| chain.perform(&intent).await.map(drop);
        let done = world.run(seed, &journal, events, perform).await;
        check(&journal, done.is_none()).await;
        if done.is_some() {
            assert!(runs > 20 && not_begun > 1 && gone_on > 10, "{runs} {not_begun} {gone_on}");
            println!("{}: ended at each of {events} events", intent.kind());
            break;
        }
        assert!(events + 1 < EVENTS_MAX, "it does not come to an end");
        // And once more while it is gone on with.
        let Some((every, stride)) = again else { continue };
        if events % every != 0 {
            continue;
        }
        for later in (1..EVENTS_MAX).step_by(stride as usize) {
            let journal = world.dir.path().join(format!("{events}-{later}"));
            world.run(seed, &journal, events, perform).await;
            let resume = async |chain: &EvmChain| chain.resume().await.map(drop);
            let done = world.run(seed, &journal, later, resume).await;
            check(&journal, true).await;
            if done.is_some() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_deposit_that_ends_anywhere_is_gone_on_with_and_done_once() {
    let deposit =
        |world: &World| Intent::Deposit { token: world.deployed.token, amount: amount(700) };
    end_everywhere(PAYER, deposit, 2, Some((11, 13))).await;
}

#[tokio::test]
async fn a_withdrawal_and_a_top_up_that_end_anywhere_are_done_once() {
    let withdraw =
        |world: &World| Intent::Withdraw { token: world.deployed.token, amount: amount(700) };
    end_everywhere(PAYER, withdraw, 1, None).await;
    let top_up = |world: &World| Intent::TopUp { config: world.configs[0], amount: amount(70) };
    end_everywhere(PAYER, top_up, 1, None).await;
}

#[tokio::test]
async fn an_opening_that_ends_anywhere_is_done_once() {
    let open = |world: &World| Intent::Open {
        channels: vec![(config(world.deployed.token, 9), amount(80))],
    };
    end_everywhere(PAYER, open, 1, None).await;
}

#[tokio::test]
async fn a_claim_that_ends_anywhere_is_gone_on_with_and_done_once() {
    let claims = |world: &World| Intent::Claim {
        claims: world.configs.iter().map(|it| claim(*it, &world.deployed.domain, 90)).collect(),
    };
    end_everywhere(PAYEE, claims, 1, Some((7, 11))).await;
}

#[tokio::test]
async fn closes_that_end_anywhere_are_done_once() {
    let cooperative = |world: &World| {
        let (config, domain) = (world.configs[0], world.deployed.domain);
        let agreed = CooperativeClose { channel: config.id(&domain), amount: amount(90) };
        let payee_signature = TestSigner::new(12).sign_digest(agreed.digest(&domain)).unwrap();
        Intent::CloseCooperatively { claim: claim(config, &domain, 90), payee_signature }
    };
    end_everywhere(PAYER, cooperative, 1, None).await;
    let start = |world: &World| Intent::StartClose { config: world.configs[1] };
    end_everywhere(PAYER, start, 1, None).await;
    let finish = |world: &World| Intent::FinishClose { config: world.configs[3] };
    end_everywhere(PAYER, finish, 1, None).await;
}

#[tokio::test]
async fn a_move_to_another_key_that_ends_anywhere_is_done_once() {
    let to_another_key = |world: &World| {
        let (domain, token) = (world.deployed.domain, world.deployed.token);
        let agreed = |at: usize| {
            let config = world.configs[at];
            let close = CooperativeClose { channel: config.id(&domain), amount: amount(90) };
            let payee_signature = TestSigner::new(12).sign_digest(close.digest(&domain)).unwrap();
            (claim(config, &domain, 90), payee_signature)
        };
        let authorizer = TestSigner::new(77).address();
        let next = ChannelConfig { payer_authorizer: authorizer, ..config(token, 10) };
        let opens = vec![(config(token, 9), amount(5)), (next, amount(6))];
        Intent::Move { closes: vec![agreed(0), agreed(1)], opens }
    };
    end_everywhere(PAYER, to_another_key, 1, None).await;
}

/// Two claims of one wallet, whose transactions wait for blocks together: ended at each event, and
/// ended again at some while they are gone on with.
#[tokio::test]
async fn two_urgent_intents_that_end_anywhere_while_both_are_under_way_are_each_done_once() {
    let mut world = World::new().await;
    let endpoint = Endpoint::Embedded(world.chain.clone());
    let payer = connect(endpoint, &world.deployed, PAYER, quick()).await;
    let (domain, leaving) = (world.deployed.domain, [world.configs[1], world.configs[2]]);
    for config in leaving {
        payer.perform(&Intent::StartClose { config }).await.unwrap();
    }
    (0..3).for_each(|_| world.chain.mine().unwrap());
    world.base = world.chain.block_number();
    let used = world.used(PAYEE);
    let pool = Pool::default();
    world.pool = Some(pool.clone());
    let intents = leaving.map(|config| Intent::Claim { claims: vec![claim(config, &domain, 90)] });
    let both = async |chain: &EvmChain| {
        let (one, other) = tokio::join!(chain.perform(&intents[0]), chain.perform(&intents[1]));
        one.and(other).map(drop)
    };
    let (mut together, mut runs) = (0, 0);
    let mut check = async |journal: &Path, ended: bool| {
        let under_way = Journal::peek(journal).unwrap().unwrap().under_way;
        let in_no_block = |stands: &Stands| matches!(stands, Stands::Sent { mined: false, .. });
        together += u32::from(under_way.iter().filter(|it| in_no_block(&it.stands)).count() == 2);
        runs += 1;
        let process = world.process(PAYEE, journal, &Fuse::unarmed()).await;
        process.resume().await.unwrap();
        assert!(process.work().unwrap().under_way.is_empty(), "forgotten");
        let signed = process.follower.journal.signed();
        assert!(signed.values().all(|steps| steps.len() == 1), "a nonce for two: {signed:?}");
        let ids = leaving.map(|config| config.id(&domain));
        let claimed = process.channels(&ids).await.unwrap();
        let claimed = claimed.iter().filter(|facts| facts.unwrap().claimed == amount(90)).count();
        drop(process);
        assert_eq!(world.used(PAYEE) - used, claimed as u64, "each once");
        assert!(claimed >= under_way.len(), "it was durable, and is lost: {under_way:?}");
        assert!(ended || claimed == 2);
        world.chain.rollback(world.chain.block_number() - world.base).unwrap();
        pool.reset(used);
    };
    for events in 1..EVENTS_MAX {
        pool.reset(used);
        let journal = world.dir.path().join(format!("{events}"));
        let done = world.run(PAYEE, &journal, events, both).await;
        check(&journal, done.is_none()).await;
        if done.is_some() {
            assert!(runs > 40 && together > 10, "{runs} runs, {together} with both under way");
            println!("ended at each of {events} events, {together} times with both under way");
            return;
        }
        for later in (1..EVENTS_MAX).step_by(13) {
            if events % 11 != 0 {
                break;
            }
            let journal = world.dir.path().join(format!("{events}-{later}"));
            world.run(PAYEE, &journal, events, both).await;
            let resume = async |chain: &EvmChain| chain.resume().await.map(drop);
            let done = world.run(PAYEE, &journal, later, resume).await;
            check(&journal, true).await;
            if done.is_some() {
                break;
            }
        }
    }
    panic!("it does not come to an end");
}

/// Somebody on a chain in a file, whose events `fuse` counts.
async fn on_disk(dir: &Path, seed: u8, fuse: &Fuse) -> (EmbeddedChain, EvmChain) {
    let chain = on_file(dir);
    let contract = std::fs::read_to_string(dir.join("contract")).unwrap().parse().unwrap();
    let (miner, counter) = (chain.clone(), fuse.clone());
    let judge = move |method: &str, _: &serde_json::Value| {
        assert!(counter.holds(), "only the process ends it");
        if method == "eth_getBlockByNumber" {
            miner.mine().unwrap();
        }
        Verdict::Pass
    };
    let mut journal = Journal::open(dir.join("journal")).unwrap();
    journal.fuse = Some(fuse.clone());
    let (endpoint, domain) =
        (Misbehaving::endpoint(&chain, judge), Domain { chain_id: CHAIN_ID, contract });
    let carrier =
        EvmChain::connect(endpoint, domain, signer(seed), journal, policy()).await.unwrap();
    (chain, carrier)
}

fn on_file(dir: &Path) -> EmbeddedChain {
    let genesis = genesis(&[PAYER, PAYEE]);
    EmbeddedChain::open(dir.join("chain"), genesis, Default::default()).unwrap()
}

/// What the killed process does.
#[tokio::test]
#[ignore = "runs only as the child of the other tests"]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<i64>().unwrap();
    let (dir, seed) = (Path::new(&dir), number(CHILD_SEED) as u8);
    let token = std::fs::read_to_string(dir.join("token")).unwrap().parse().unwrap();
    let fuse = Fuse::lethal();
    let (_, carrier) = on_disk(dir, seed, &fuse).await;
    fuse.arm(number(CHILD_EVENTS));
    let total = number(CHILD_TOTAL) as u128;
    carrier.perform(&settled_by(seed, token, &carrier.domain(), total)).await.unwrap();
}

const STEP: u128 = 90;

/// What brings what is settled to `total`: a deposit of the payer, or the payee's claim over three
/// channels.
fn settled_by(seed: u8, token: Address, domain: &Domain, total: u128) -> Intent {
    match seed {
        PAYER => Intent::Deposit { token, amount: amount(STEP) },
        _ => Intent::Claim { claims: three(token).map(|it| claim(it, domain, total)).to_vec() },
    }
}

fn three(token: Address) -> [ChannelConfig; 3] {
    [0, 1, 2].map(|salt| config(token, salt))
}

/// Kills a process at each event of a settlement, of a little more each time. What was durable is
/// settled, once, and nothing else.
async fn kill_everywhere(seed: u8) {
    let dir = tempfile::tempdir().unwrap();
    let (token, domain) = {
        let endpoint = Endpoint::Embedded(on_file(dir.path()));
        let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
        let (token, domain) = (deployed.token, deployed.domain);
        for (name, address) in [("token", token), ("contract", domain.contract)] {
            std::fs::write(dir.path().join(name), address.to_string()).unwrap();
        }
        let payer = connect(endpoint, &deployed, PAYER, quick()).await;
        payer.mint(token, payer.wallet(), amount(2_000_000)).await.unwrap();
        payer.perform(&Intent::Deposit { token, amount: amount(900_000) }).await.unwrap();
        let channels = three(token).map(|it| (it, amount(300_000))).to_vec();
        payer.perform(&Intent::Open { channels }).await.unwrap();
        (token, domain)
    };
    let (mut settled, mut killed) = (0, 0);
    for events in 1..EVENTS_MAX {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["carrier::tests::ends::child", "--exact", "--ignored"])
            .env(CHILD_DIR, dir.path())
            .env(CHILD_EVENTS, events.to_string())
            .env(CHILD_SEED, seed.to_string())
            .env(CHILD_TOTAL, (settled + STEP).to_string())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        let done = status.success();
        if !done {
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
            killed += 1;
        }
        let durable =
            !Journal::peek(dir.path().join("journal")).unwrap().unwrap().under_way.is_empty();
        let (_, carrier) = on_disk(dir.path(), seed, &Fuse::unarmed()).await;
        carrier.resume().await.unwrap();
        settled += if durable || done { STEP } else { 0 };
        let figures = match seed {
            PAYER => vec![carrier.funds(carrier.wallet(), token).await.unwrap().deposit],
            _ => {
                let ids = three(token).map(|it| it.id(&domain));
                let facts = carrier.channels(&ids).await.unwrap();
                facts.into_iter().map(|facts| facts.unwrap().claimed).collect()
            }
        };
        assert!(figures.iter().all(|it| it.get() == settled), "{figures:?} after {events} events");
        let signed = carrier.follower.journal.signed();
        assert!(signed.values().all(|steps| steps.len() == 1), "{signed:?}");
        assert_eq!(carrier.work().unwrap().foreign_use, None);
        if done {
            assert!(killed > 25 && settled > 10 * STEP, "{killed} {settled}");
            println!("killed {killed} times");
            return;
        }
    }
    panic!("it does not come to an end");
}

#[tokio::test]
async fn a_deposit_whose_process_is_killed_at_any_event_is_done_once() {
    kill_everywhere(PAYER).await;
}

#[tokio::test]
async fn a_claim_whose_process_is_killed_at_any_event_is_done_once() {
    kill_everywhere(PAYEE).await;
}
