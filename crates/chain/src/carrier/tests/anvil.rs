//! The same settlement on the embedded chain and on an Ethereum node that nobody here wrote: anvil,
//! which `scripts/contracts` installs from npm beside forge; alone, behind a proxy that misbehaves,
//! as one of three, and with reorganisations in the middle.

use std::{
    io::Write as _,
    net::TcpListener,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{
    proxy::{Proxy, ask, lies, mishaps},
    *,
};

/// A node under our control. It mines when it is told to.
struct Net {
    url: String,
    /// Ends with the test.
    anvil: Option<Child>,
    embedded: Option<(EmbeddedChain, crate::Server)>,
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(child) = &mut self.anvil {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where npm puts it. `None` on machines that npm has none for, or where npm was not run, unless
/// `SPAREWIRE_REQUIRE_ANVIL` is set, as `scripts/test` does: then a test that needs it fails.
fn anvil() -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contracts/node_modules");
    let file = modules.join("@foundry-rs/anvil-linux-amd64/bin/anvil");
    if file.exists() {
        return Some(file);
    }
    let required = std::env::var_os("SPAREWIRE_REQUIRE_ANVIL").is_some();
    assert!(
        !required,
        "no anvil at {}: run `npm ci --ignore-scripts` in contracts/",
        file.display()
    );
    // Not captured as `eprintln!` is: who runs the tests is to know.
    let words = "skipped: no anvil here; scripts/contracts installs it where npm has it";
    let _ = writeln!(std::io::stderr(), "{words}");
    None
}

impl Net {
    async fn embedded() -> Self {
        let chain = embedded();
        let server = serve(chain.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self { url: server.url(), anvil: None, embedded: Some((chain, server)) }
    }

    async fn anvil() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(anvil()?);
        command.args(["--port", &port.to_string(), "--chain-id", &CHAIN_ID.to_string()]);
        command.args(["--hardfork", "osaka", "--no-mining", "--silent"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("anvil is there and cannot be started");
        let url = format!("http://127.0.0.1:{port}");
        let net = Self { url, anvil: Some(child), embedded: None };
        for _ in 0..600 {
            if ask(&net.url, "eth_chainId", json!([])).await.is_some() {
                for seed in [PAYER, PAYEE] {
                    let owner = TestSigner::new(seed).address();
                    let ether = U256::from(10).pow(U256::from(20));
                    net.ask("anvil_setBalance", json!([owner, ether])).await;
                }
                return Some(net);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("anvil was started and does not answer within 30 s");
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Http(self.url.clone())
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        ask(&self.url, method, params).await.unwrap()
    }

    async fn mine(&self, blocks: u64) {
        for _ in 0..blocks {
            self.ask("evm_mine", json!([])).await;
        }
    }

    /// Takes the newest blocks away, and puts as many empty ones in their place.
    async fn reorganise(&self, depth: u64) {
        match &self.embedded {
            Some((chain, _)) => {
                chain.rollback(depth).unwrap();
                self.mine(depth).await;
            }
            None => {
                self.ask("anvil_reorg", json!([depth, []])).await;
            }
        }
    }

    async fn number(&self) -> u64 {
        let number = self.ask("eth_blockNumber", json!([])).await;
        serde_json::from_value::<alloy_primitives::U64>(number).unwrap().to()
    }

    async fn balance(&self, owner: Address) -> u128 {
        let balance = self.ask("eth_getBalance", json!([owner, "latest"])).await;
        serde_json::from_value::<U256>(balance).unwrap().to()
    }

    /// Mines a block every few milliseconds while `work` goes on.
    async fn mining<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(Duration::from_millis(10)) => self.mine(1).await,
            }
        }
    }
}

fn policy() -> Policy {
    Policy {
        finality: Finality::Blocks(2),
        retry_for: Duration::from_secs(20),
        request_timeout: Duration::from_secs(5),
        patience: Duration::from_secs(40),
        ..quick()
    }
}

/// The whole of a settlement between payer and payee, each through an endpoint of its own.
async fn settlement(net: &Net, endpoints: [Endpoint; 2]) {
    let work = async {
        let deployed = deploy(net.endpoint(), signer(PAYER), policy()).await.unwrap();
        let (token, domain) = (deployed.token, deployed.domain);
        let [payer, payee] = endpoints;
        let payer = connect(payer, &deployed, PAYER, policy()).await;
        let payee = connect(payee, &deployed, PAYEE, policy()).await;
        // A node that tells an older head than before tells older facts: up to three blocks here.
        let perform = async |chain: &EvmChain, intent: &Intent| {
            let done = chain.perform(intent).await;
            net.mine(4).await;
            done
        };
        payer.mint(token, payer.wallet(), amount(10_000)).await.unwrap();
        net.mine(4).await;
        let deposit = Intent::Deposit { token, amount: amount(5_000) };
        assert_eq!(perform(&payer, &deposit).await.unwrap().transactions.len(), 2);

        let configs: Vec<_> = (0..40).map(|salt| config(token, salt)).collect();
        let channels: Vec<_> = configs.iter().map(|config| (*config, amount(100))).collect();
        perform(&payer, &Intent::Open { channels: channels.clone() }).await.unwrap();
        assert_eq!(perform(&payer, &Intent::Open { channels }).await.unwrap(), Outcome::default());
        perform(&payer, &Intent::TopUp { config: configs[0], amount: amount(50) }).await.unwrap();

        // Many in one transaction; a second time is nothing.
        let claims: Vec<_> = configs.iter().map(|it| claim(*it, &domain, 30)).collect();
        let claimed = perform(&payee, &Intent::Claim { claims: claims.clone() }).await.unwrap();
        assert_eq!(claimed.transactions.len(), 1);
        assert_eq!(perform(&payee, &Intent::Claim { claims }).await.unwrap(), Outcome::default());
        assert_eq!(payee.funds(payee.wallet(), token).await.unwrap().wallet, 1_200);

        // Claimed without being paid out, as anybody may, and paid out.
        let packed = sparewire_protocol::channel::pack_claims(&[claim(configs[1], &domain, 45)]);
        let data = Channels::claimPackedCall::new((packed[0].clone().into(),)).abi_encode();
        let call =
            crate::Call { target: Some(domain.contract), data: data.into(), value: U256::ZERO };
        let plan = follow::Plan::new(vec![call]);
        payer.follower.perform("claim", alloy_primitives::B256::ZERO, plan).await.unwrap();
        net.mine(4).await;
        let funds = payee.funds(payee.wallet(), token).await.unwrap();
        assert_eq!((funds.wallet, funds.claimable), (1_200, amount(15)));
        let sweep = Intent::Sweep { payee: payee.wallet(), token };
        assert_eq!(perform(&payee, &sweep).await.unwrap().transactions.len(), 1);
        assert_eq!(payee.funds(payee.wallet(), token).await.unwrap().wallet, 1_215);

        // Both agree to end the first; what is refused is refused in words.
        let agreed = CooperativeClose { channel: configs[0].id(&domain), amount: amount(60) };
        let payee_signature = TestSigner::new(12).sign_digest(agreed.digest(&domain)).unwrap();
        let last = claim(configs[0], &domain, 60);
        let close = Intent::CloseCooperatively { claim: last, payee_signature };
        perform(&payer, &close).await.unwrap();
        let start = Intent::StartClose { config: configs[0] };
        assert_eq!(perform(&payer, &start).await.unwrap(), Outcome::default(), "it is closed");
        let top_up = Intent::TopUp { config: configs[0], amount: amount(1) };
        let refused = perform(&payer, &top_up).await.unwrap_err();
        assert!(refused.to_string().contains("is not open"), "{refused}");
        let start = Intent::StartClose { config: configs[1] };
        let refused = perform(&payee, &start).await.unwrap_err();
        assert!(refused.to_string().contains("only the payer"), "{refused}");

        // The payer leaves the second alone; the payee still claims meanwhile.
        perform(&payer, &start).await.unwrap();
        let finish = Intent::FinishClose { config: configs[1] };
        let early = perform(&payer, &finish).await.unwrap_err();
        assert!(early.to_string().contains("cannot be closed before"), "{early}");
        let claims = vec![claim(configs[1], &domain, 80)];
        perform(&payee, &Intent::Claim { claims }).await.unwrap();
        net.ask("evm_increaseTime", json!([DELAY])).await;
        net.mine(3).await;
        perform(&payer, &finish).await.unwrap();
        let facts = payer.channel(configs[1].id(&domain)).await.unwrap().unwrap();
        assert_eq!((facts.status, facts.claimed), (ChannelStatus::Closed, amount(80)));

        // 5,000 less 38 channels of 100, and what two others paid.
        let left = 5_000 - 3_800 - 60 - 80;
        let deposit = payer.funds(payer.wallet(), token).await.unwrap().deposit;
        assert_eq!(deposit, amount(left));
        perform(&payer, &Intent::Withdraw { token, amount: deposit }).await.unwrap();
        let (paid, back) =
            tokio::join!(payee.funds(payee.wallet(), token), payer.funds(payer.wallet(), token));
        assert_eq!(paid.unwrap().wallet, 38 * 30 + 60 + 80);
        assert_eq!(back.unwrap().wallet, 5_000 + left);
        for chain in [&payer, &payee] {
            assert!(chain.work().unwrap().under_way.is_empty());
            assert_eq!(chain.work().unwrap().foreign_use, None);
            let signed = chain.follower.journal.signed();
            assert!(signed.values().all(|steps| steps.len() == 1), "{signed:?}");
        }
    };
    let bounded = tokio::time::timeout(Duration::from_secs(55), net.mining(work)).await;
    bounded.expect("it takes too long");
}

#[tokio::test]
async fn a_settlement_on_the_embedded_chain() {
    let net = Net::embedded().await;
    settlement(&net, [net.endpoint(), net.endpoint()]).await;
}

#[tokio::test]
async fn a_settlement_on_anvil() {
    let Some(net) = Net::anvil().await else { return };
    settlement(&net, [net.endpoint(), net.endpoint()]).await;
}

#[tokio::test]
async fn a_settlement_over_a_bad_line_to_the_embedded_chain() {
    let net = Net::embedded().await;
    let (one, two) =
        (Proxy::start(&net.url, mishaps(1)).await, Proxy::start(&net.url, mishaps(2)).await);
    settlement(&net, [one.endpoint(), two.endpoint()]).await;
}

#[tokio::test]
async fn a_settlement_over_a_bad_line_to_anvil() {
    for seed in [3, 4] {
        let Some(net) = Net::anvil().await else { return };
        let (one, two) = (
            Proxy::start(&net.url, mishaps(seed)).await,
            Proxy::start(&net.url, mishaps(seed + 100)).await,
        );
        settlement(&net, [one.endpoint(), two.endpoint()]).await;
    }
}

#[tokio::test]
async fn a_settlement_on_three_nodes_of_which_one_lies() {
    for at in 0..3 {
        let Some(net) = Net::anvil().await else { return };
        let liars = [
            Proxy::start(&net.url, lies(5 + at)).await,
            Proxy::start(&net.url, lies(50 + at)).await,
        ];
        let three = liars.each_ref().map(|liar| {
            let mut endpoints = vec![net.endpoint(), net.endpoint()];
            endpoints.insert(at as usize, liar.endpoint());
            Endpoint::Several { endpoints, quorum: 2 }
        });
        settlement(&net, three).await;
    }
}

/// Reorganisations of every depth up to this one, in the middle of settlements that are final only
/// beyond.
const DEPTH_MAX: u64 = 32;

async fn reorganisations_lose_and_double_nothing(net: &Net, depths: RangeInclusive<u64>) {
    let deep = Policy { finality: Finality::Blocks(DEPTH_MAX + 1), ..policy() };
    let at_once = Policy { finality: Finality::Blocks(0), ..policy() };
    let (token, domain, configs) = {
        let begin = async {
            let deployed = deploy(net.endpoint(), signer(PAYER), at_once.clone()).await.unwrap();
            let token = deployed.token;
            let payer = connect(net.endpoint(), &deployed, PAYER, at_once.clone()).await;
            payer.mint(token, payer.wallet(), amount(10_000)).await.unwrap();
            payer.perform(&Intent::Deposit { token, amount: amount(9_000) }).await.unwrap();
            let configs = [1, 2].map(|salt| config(token, salt));
            let channels = configs.map(|config| (config, amount(1_000))).to_vec();
            payer.perform(&Intent::Open { channels }).await.unwrap();
            (token, deployed.domain, configs)
        };
        net.mining(begin).await
    };
    net.mine(DEPTH_MAX + 2).await;
    let deployed = Deployment { token, domain };
    let payer = Arc::new(connect(net.endpoint(), &deployed, PAYER, deep.clone()).await);
    let payee = Arc::new(connect(net.endpoint(), &deployed, PAYEE, deep).await);
    let (mut reserved, mut paid, mut sent) = (1_000, 0, 0);
    let to = Address::repeat_byte(5);
    for depth in depths {
        let (top_up, claimed) = (u128::from(depth), 10 * u128::from(depth));
        let at = net.number().await;
        let performing = |chain: &Arc<EvmChain>, intent: Intent| {
            let chain = chain.clone();
            tokio::spawn(async move { chain.perform(&intent).await })
        };
        // Two of the payer's, which must keep their order, and one of the payee's.
        let first =
            performing(&payer, Intent::TopUp { config: configs[0], amount: amount(top_up) });
        let second = tokio::spawn({
            let payer = payer.clone();
            async move { payer.transfer(to, top_up).await }
        });
        let claims = vec![claim(configs[1], &domain, claimed)];
        let third = performing(&payee, Intent::Claim { claims });
        sent += top_up;
        let mined = async {
            while net.balance(to).await < sent {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), net.mining(mined)).await.expect("mined");
        // So that the reorganisation reaches the transactions, or only the last of them.
        let above = net.number().await - at;
        net.mine(depth.saturating_sub(above)).await;
        net.reorganise(depth).await;
        let all = async { tokio::join!(first, second, third) };
        let all = tokio::time::timeout(Duration::from_secs(30), net.mining(all)).await;
        let (first, second, third) = all.unwrap_or_else(|_| panic!("depth {depth}: never final"));
        for done in [first, second, third] {
            let outcome = done.unwrap().unwrap_or_else(|error| panic!("depth {depth}: {error}"));
            assert_eq!(outcome.transactions.len(), 1);
        }
        reserved += top_up;
        paid = claimed;
        let facts = payer.channel(configs[0].id(&domain)).await.unwrap().unwrap();
        assert_eq!(facts.reserved, amount(reserved), "depth {depth}");
        assert_eq!(net.balance(to).await, sent, "depth {depth}");
    }
    let funds = payee.funds(payee.wallet(), token).await.unwrap();
    assert_eq!(funds.wallet, paid);
    for chain in [&payer, &payee] {
        assert!(chain.work().unwrap().under_way.is_empty());
        assert_eq!(chain.work().unwrap().foreign_use, None);
    }
}

#[tokio::test]
async fn reorganisations_of_the_embedded_chain_lose_and_double_nothing() {
    reorganisations_lose_and_double_nothing(&Net::embedded().await, 1..=DEPTH_MAX).await;
}

#[tokio::test]
async fn reorganisations_of_anvil_lose_and_double_nothing() {
    // A few on each: anvil 1.7.1 forgot the contracts' code at a reorganisation some 1,000 blocks on.
    for first in (1..=DEPTH_MAX).step_by(8) {
        let Some(net) = Net::anvil().await else { return };
        reorganisations_lose_and_double_nothing(&net, first..=first + 7).await;
    }
}

#[tokio::test]
async fn urgent_claims_share_blocks_of_anvil() {
    let Some(net) = Net::anvil().await else { return };
    let at_once = Policy { finality: Finality::Blocks(0), ..policy() };
    let begin = async {
        let deployed = deploy(net.endpoint(), signer(PAYER), at_once.clone()).await.unwrap();
        let token = deployed.token;
        let payer = connect(net.endpoint(), &deployed, PAYER, at_once.clone()).await;
        payer.mint(token, payer.wallet(), amount(10_000)).await.unwrap();
        payer.perform(&Intent::Deposit { token, amount: amount(10_000) }).await.unwrap();
        let configs: Vec<_> = (0..20).map(|salt| config(token, salt)).collect();
        let channels = configs.iter().map(|config| (*config, amount(100))).collect();
        payer.perform(&Intent::Open { channels }).await.unwrap();
        for config in &configs {
            payer.perform(&Intent::StartClose { config: *config }).await.unwrap();
        }
        (deployed, configs)
    };
    let (deployed, configs) = net.mining(begin).await;
    let payee = Arc::new(connect(net.endpoint(), &deployed, PAYEE, at_once).await);
    let claims: Vec<_> = configs
        .iter()
        .map(|config| {
            let (payee, claim) = (payee.clone(), claim(*config, &deployed.domain, 60));
            let intent = Intent::Claim { claims: vec![claim] };
            tokio::spawn(async move { payee.perform(&intent).await })
        })
        .collect();
    for waiting in ["0x10", "0x4"] {
        let pooled = async {
            while net.ask("txpool_status", json!([])).await["pending"] != waiting {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), pooled).await.expect("never so many");
        net.mine(1).await;
    }
    let mut blocks = std::collections::BTreeSet::new();
    for claim in claims {
        let done = tokio::time::timeout(Duration::from_secs(30), claim).await.expect("never final");
        blocks.extend(done.unwrap().unwrap().transactions.iter().map(|it| it.block));
    }
    assert_eq!(blocks.len(), 2, "20 claims in two blocks");
    assert_eq!(payee.funds(payee.wallet(), deployed.token).await.unwrap().wallet, 20 * 60);
}
