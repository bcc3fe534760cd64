//! The chain's own tests: the contracts' behaviour through the pool, blocks and views.
#![allow(clippy::unwrap_used)]

use alloy_sol_types::SolCall;
use sparewire_chain::contracts::TestToken;
use sparewire_core::{Amount, Signer, Verified};
use sparewire_protocol::channel::{ChannelStatus, Claim, CooperativeClose, Voucher};
use sparewire_wallet::LocalKey;

use super::*;

const GWEI: u128 = 1_000_000_000;
const ETHER: u128 = GWEI * GWEI;

fn key(seed: u8) -> LocalKey {
    LocalKey::from_secret(&[seed; 32]).unwrap()
}

fn amount(units: u128) -> Amount {
    Amount::new(units).unwrap()
}

/// A payer, a payee and a bystander, the first with tokens, all with money for gas.
struct Scene {
    chain: SimChain,
    payer: LocalKey,
    payee: LocalKey,
    other: LocalKey,
}

impl Scene {
    fn new(weather: Weather, seed: u64) -> Self {
        let mut chain = SimChain::new(weather, seed);
        let [payer, payee, other] = [1, 2, 3].map(key);
        chain.fund(payer.address(), 10 * ETHER, 1_000_000);
        chain.fund(payee.address(), 10 * ETHER, 0);
        chain.fund(other.address(), 10 * ETHER, 500);
        Self { chain, payer, payee, other }
    }

    fn config(&self, salt: u64) -> ChannelConfig {
        ChannelConfig {
            payer: self.payer.address(),
            payer_authorizer: self.payer.address(),
            payee: self.payee.address(),
            payee_authorizer: self.payee.address(),
            token: self.chain.token(),
            withdraw_delay_secs: 900,
            salt,
        }
    }

    fn claim(&self, config: ChannelConfig, units: u128) -> Claim {
        let domain = self.chain.domain();
        let voucher = Voucher { channel: config.id(&domain), amount: amount(units) };
        Claim::new(config, &domain, &Verified::sign(voucher, &domain, &self.payer).unwrap())
    }

    fn close(&self, config: ChannelConfig, units: u128) -> Intent {
        let domain = self.chain.domain();
        let close = CooperativeClose { channel: config.id(&domain), amount: amount(units) };
        let payee_signature = Verified::sign(close, &domain, &self.payee).unwrap().signature();
        Intent::CloseCooperatively { claim: self.claim(config, units), payee_signature }
    }

    /// Submits an intent's calls to endpoint 0.
    fn submit(&mut self, from: Address, intent: &Intent) -> Vec<TxId> {
        let mut nonce = self.chain.truth().nonce(from, Tag::Head).unwrap();
        let calls = self.chain.calls(from, intent);
        let ids = calls.into_iter().map(|call| {
            let transaction = Transaction::new(from, nonce, call, 2 * GWEI, GWEI / 10);
            nonce += 1;
            self.chain.submit(self.chain.now, 0, transaction).unwrap()
        });
        ids.collect()
    }

    /// Lets this many block times pass.
    fn blocks(&mut self, count: u64) {
        self.chain.advance(self.chain.now.plus_ms(count * self.chain.weather.block_time_ms));
    }

    /// As [`Scene::submit`], and sees to it that all succeed.
    fn perform(&mut self, from: Address, intent: &Intent) {
        let ids = self.submit(from, intent);
        self.blocks(1);
        for id in ids {
            let receipt = self.chain.truth().receipt(id).unwrap().expect("mined");
            assert!(receipt.success, "{}: {:?}", intent.kind(), receipt.reason);
        }
        self.chain.assert_conserved();
    }

    /// A deposit of 1,000 and a channel with 600 of it.
    fn open(&mut self, salt: u64) -> ChannelConfig {
        let (payer, token) = (self.payer.address(), self.chain.token());
        self.perform(payer, &Intent::Deposit { token, amount: amount(1_000) });
        let config = self.config(salt);
        self.perform(payer, &Intent::Open { channels: vec![(config, amount(600))] });
        config
    }

    fn facts(&self, config: ChannelConfig) -> sparewire_protocol::channel::ChannelFacts {
        let id = config.id(&self.chain.domain());
        self.chain.truth().channel(id, Tag::Head).unwrap().expect("opened")
    }
}

/// A call of the token that costs little and changes little.
fn nothing(chain: &SimChain, to: Address) -> Call {
    let data = TestToken::transferCall { to, value: U256::ZERO }.abi_encode();
    Call { target: Some(chain.token()), data: data.into(), value: U256::ZERO }
}

#[test]
fn money_goes_from_deposit_through_channel_to_payee_and_back() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let (payer, payee) = (scene.payer.address(), scene.payee.address());
    let config = scene.open(7);
    let id = config.id(&scene.chain.domain());
    assert_eq!(scene.chain.truth().channel(id, Tag::Final), Ok(None), "not final yet");

    scene.perform(payer, &Intent::TopUp { config, amount: amount(100) });
    scene.perform(payee, &Intent::Claim { claims: vec![scene.claim(config, 250)] });
    assert_eq!(scene.facts(config).claimed, amount(250));
    scene.perform(payee, &scene.close(config, 300));
    let facts = scene.facts(config);
    assert_eq!((facts.reserved, facts.claimed), (amount(700), amount(300)));
    assert_eq!(facts.status, ChannelStatus::Closed);
    scene.perform(payer, &Intent::Sweep { payee, token: config.token });
    scene.perform(payer, &Intent::Withdraw { token: config.token, amount: amount(700) });

    let truth = scene.chain.truth();
    assert_eq!(truth.token_balance(payee, Tag::Head), Ok(300));
    assert_eq!(truth.token_balance(payer, Tag::Head), Ok(999_700));
    assert_eq!(truth.deposit(payer, Tag::Head), Ok(0));
    let kinds: Vec<_> = truth.logs(0, Tag::Head).unwrap();
    assert!(matches!(kinds[1].event, Event::Opened { config: opened, .. } if opened == config));
    assert!(
        kinds
            .iter()
            .any(|logged| logged.event
                == Event::Claimed { channel: id, payee, claimed: amount(250) })
    );
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

#[test]
fn a_unilateral_close_waits_for_its_delay() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let (payer, payee) = (scene.payer.address(), scene.payee.address());
    let config = scene.open(7);
    scene.perform(payer, &Intent::StartClose { config });
    let [finish] = scene.submit(payer, &Intent::FinishClose { config })[..] else { panic!() };
    scene.blocks(1);
    let receipt = scene.chain.truth().receipt(finish).unwrap().unwrap();
    assert!(!receipt.success && receipt.reason.unwrap().contains("cannot be closed before"));
    scene.perform(payee, &Intent::Claim { claims: vec![scene.claim(config, 600)] });
    scene.blocks(900 / 12);
    scene.perform(payer, &Intent::FinishClose { config });
    assert_eq!(scene.facts(config).claimed, amount(600));
}

#[test]
fn a_reorg_gives_a_mined_claim_back_to_the_pool_and_it_is_mined_again() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let config = scene.open(7);
    scene.blocks(8);
    let payee = scene.payee.address();
    let claim = Intent::Claim { claims: vec![scene.claim(config, 250)] };
    let [id] = scene.submit(payee, &claim)[..] else { panic!() };
    scene.blocks(3);
    let mined = scene.chain.truth().receipt(id).unwrap().unwrap();
    let (hash, before) = (scene.chain.head_hash(), scene.chain.truth().head().unwrap());

    assert_eq!(scene.chain.reorg(3), 3);
    assert_eq!(scene.facts(config).claimed, Amount::ZERO);
    assert_eq!(scene.chain.truth().receipt(id), Ok(None));
    assert_eq!(scene.chain.truth().knows(id), Ok(true));
    assert_eq!(scene.chain.pending().map(|pending| pending.id).collect::<Vec<_>>(), [id]);
    scene.chain.assert_conserved();

    // Somebody uses the moment to be first.
    let call = nothing(&scene.chain, payee);
    let first = Transaction::new(scene.other.address(), 0, call, 3 * GWEI, 2 * GWEI);
    scene.chain.submit(scene.chain.now, 0, first).unwrap();
    scene.chain.advance(scene.chain.now);
    assert_eq!(scene.chain.truth().head(), Ok(before));
    assert_ne!(scene.chain.head_hash(), hash);
    assert_eq!(scene.chain.truth().receipt(id).unwrap().unwrap().block, mined.block);
    assert_eq!(scene.facts(config).claimed, amount(250));

    // What is final stays, however deep the reorganisation would like to be.
    scene.blocks(8);
    assert_eq!(scene.chain.reorg(100), 8);
    assert_eq!(scene.facts(config).claimed, amount(250));
    scene.chain.assert_conserved();
}

#[test]
fn a_replacement_must_pay_ten_percent_more() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let from = scene.other.address();
    let call = nothing(&scene.chain, from);
    let first = Transaction::new(from, 0, call.clone(), 2 * GWEI, GWEI);
    let now = scene.chain.now;
    let old = scene.chain.submit(now, 0, first.clone()).unwrap();
    assert_eq!(scene.chain.submit(now, 0, first.clone()), Ok(old), "the same one again");
    let refused = scene.chain.submit(now, 0, first.bumped(9)).unwrap_err();
    let needed = SubmitError::Underpriced { max_fee: 22 * GWEI / 10, priority_fee: 11 * GWEI / 10 };
    assert_eq!(refused, needed);
    let new = scene.chain.submit(now, 0, first.bumped(10)).unwrap();
    scene.blocks(1);
    assert_eq!(scene.chain.truth().receipt(old), Ok(None));
    let receipt = scene.chain.truth().receipt(new).unwrap().unwrap();
    assert_eq!(receipt.effective_gas_price, GWEI + 11 * GWEI / 10);
    let late = scene.chain.submit(now, 0, first.bumped(20)).unwrap_err();
    assert_eq!(late, SubmitError::NonceTooLow { next: 1 });

    let mut dear = Transaction::new(from, 1, call, 2 * GWEI, GWEI);
    dear.max_fee = 10 * ETHER;
    let refused = scene.chain.submit(now, 0, dear).unwrap_err();
    assert!(matches!(refused, SubmitError::InsufficientFunds { .. }), "{refused}");
}

#[test]
fn a_nonce_gap_waits_until_it_is_filled() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let from = scene.other.address();
    let call = nothing(&scene.chain, from);
    let at = |nonce| Transaction::new(from, nonce, call.clone(), 2 * GWEI, GWEI);
    let now = scene.chain.now;
    let second = scene.chain.submit(now, 0, at(1)).unwrap();
    scene.blocks(3);
    assert_eq!(scene.chain.truth().receipt(second), Ok(None));
    scene.chain.submit(now, 0, at(0)).unwrap();
    scene.blocks(1);
    assert_eq!(scene.chain.truth().receipt(second).unwrap().unwrap().block, 4);
}

#[test]
fn a_fee_spike_holds_a_cheap_transaction() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let from = scene.other.address();
    scene.chain.spike(20, 120_000);
    let call = nothing(&scene.chain, from);
    let cheap = Transaction::new(from, 0, call, 2 * GWEI, GWEI);
    let id = scene.chain.submit(scene.chain.now, 0, cheap).unwrap();
    scene.blocks(9);
    assert_eq!(scene.chain.truth().base_fee(), Ok(20_000_000_000));
    assert_eq!(scene.chain.truth().receipt(id), Ok(None));
    scene.blocks(1);
    assert_eq!(scene.chain.truth().base_fee(), Ok(1_000_000_000));
    assert!(scene.chain.truth().receipt(id).unwrap().unwrap().success);
}

#[test]
fn who_sees_the_pool_and_pays_more_is_first() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let config = scene.open(7);
    let (payee, other) = (scene.payee.address(), scene.other.address());
    let claim = Intent::Claim { claims: vec![scene.claim(config, 250)] };
    let [slow] = scene.submit(payee, &claim)[..] else { panic!() };

    let seen = scene.chain.pending().next().unwrap().transaction.clone();
    let copied = Transaction { from: other, nonce: 0, ..seen.bumped(100) };
    let fast = scene.chain.submit(scene.chain.now, 0, copied).unwrap();
    scene.blocks(1);
    let truth = scene.chain.truth();
    let mined: Vec<_> = scene.chain.head().receipts.iter().map(|receipt| receipt.id).collect();
    assert_eq!(mined, [fast, slow]);
    assert!(truth.receipt(slow).unwrap().unwrap().success, "an old voucher is passed over");
    assert_eq!(truth.token_balance(payee, Tag::Head), Ok(250), "the copy pays the payee");
    scene.chain.assert_conserved();
}

#[test]
fn stale_and_lying_endpoints_differ_from_the_honest_one() {
    let mut weather = Weather::calm();
    weather.endpoints.push(Endpoint::lagging(3));
    let lies =
        vec![Lie::MoreReserved(amount(5)), Lie::NeverClosing, Lie::NoClaims, Lie::HeadIsFinal];
    weather.endpoints.push(Endpoint::lying(lies));
    weather.endpoints.push(Endpoint { requests_per_sec: Some(2), ..Endpoint::default() });
    let mut scene = Scene::new(weather, 1);
    let config = scene.open(7);
    let id = config.id(&scene.chain.domain());
    scene.blocks(10);
    let payee = scene.payee.address();
    scene.perform(payee, &Intent::Claim { claims: vec![scene.claim(config, 250)] });
    scene.perform(scene.payer.address(), &Intent::StartClose { config });

    let [honest, stale, liar] = [0, 1, 2].map(|endpoint| scene.chain.view(endpoint));
    let truth = honest.channel(id, Tag::Head).unwrap().unwrap();
    assert_eq!((truth.reserved, truth.claimed), (amount(600), amount(250)));
    assert!(matches!(truth.status, ChannelStatus::Closing { .. }));
    let old = stale.channel(id, Tag::Head).unwrap().unwrap();
    assert_eq!((old.claimed, old.status), (Amount::ZERO, ChannelStatus::Open));
    assert_eq!(stale.head().unwrap().number + 3, honest.head().unwrap().number);
    assert_eq!(honest.channel(id, Tag::Final).unwrap(), Some(old));
    let told = liar.channel(id, Tag::Final).unwrap().unwrap();
    assert_eq!((told.reserved, told.claimed), (amount(605), Amount::ZERO));
    assert_eq!(told.status, ChannelStatus::Open);
    assert!(liar.logs(0, Tag::Head).unwrap().len() < honest.logs(0, Tag::Head).unwrap().len());

    let limited = scene.chain.view(3);
    assert!(limited.time().is_ok() && limited.time().is_ok());
    assert_eq!(limited.time(), Err(RpcError::RateLimited));
    scene.chain.take_down(0, 5_000);
    assert_eq!(scene.chain.view(0).time(), Err(RpcError::Unreachable));
    scene.blocks(1);
    assert!(scene.chain.view(0).time().is_ok() && scene.chain.view(3).time().is_ok());
}

#[test]
fn an_estimate_is_enough_and_tells_why_a_call_would_fail() {
    let mut scene = Scene::new(Weather::calm(), 1);
    let config = scene.open(7);
    let (payee, other) = (scene.payee.address(), scene.other.address());
    let claim = Intent::Claim { claims: vec![scene.claim(config, 250)] };
    let [call] = &scene.chain.calls(payee, &claim)[..] else { panic!() };
    let gas = scene.chain.view(0).estimate(payee, call).unwrap().unwrap();
    let mut tight = Transaction::new(payee, 0, call.clone(), 2 * GWEI, GWEI);
    tight.gas = gas;
    let id = scene.chain.submit(scene.chain.now, 0, tight).unwrap();
    scene.blocks(1);
    assert!(scene.chain.truth().receipt(id).unwrap().unwrap().success);

    let [call] = &scene.chain.calls(other, &Intent::StartClose { config })[..] else { panic!() };
    let reason = scene.chain.view(0).estimate(other, call).unwrap().unwrap_err();
    assert!(reason.contains("only the payer"), "{reason}");
}

#[test]
fn a_halted_chain_makes_no_blocks_and_then_goes_on() {
    let mut scene = Scene::new(Weather::calm(), 1);
    scene.blocks(2);
    scene.chain.halt(60_000);
    scene.blocks(4);
    assert_eq!(scene.chain.truth().head().unwrap().number, 2);
    scene.blocks(1);
    let head = scene.chain.truth().head().unwrap();
    assert_eq!((head.number, head.time_secs), (3, scene.chain.now.as_secs()));
}

#[test]
fn a_forgotten_transaction_is_gone_until_it_is_sent_again() {
    let mut scene = Scene::new(Weather { forgotten: 1_000, ..Weather::calm() }, 1);
    let from = scene.other.address();
    let call = nothing(&scene.chain, from);
    let cheap = Transaction::new(from, 0, call, GWEI / 2, 0);
    let id = scene.chain.submit(scene.chain.now, 0, cheap.clone()).unwrap();
    assert_eq!(scene.chain.view(0).knows(id), Ok(true));
    scene.blocks(10);
    assert_eq!(scene.chain.view(0).knows(id), Ok(false));
    assert!(scene.chain.log().iter().any(|(_, what)| *what == Happening::Forgotten(id)));
    scene.chain.weather_mut().forgotten = 0;
    scene.chain.submit(scene.chain.now, 0, cheap.bumped(200)).unwrap();
    scene.blocks(1);
    assert_eq!(scene.chain.view(0).nonce(from, Tag::Head), Ok(1));
}

#[test]
fn a_delayed_transaction_is_seen_by_nobody_until_it_arrives() {
    let weather = Weather { delayed: 1_000, delay_max_ms: 60_000, ..Weather::calm() };
    let mut scene = Scene::new(weather, 3);
    let from = scene.other.address();
    let transaction = Transaction::new(from, 0, nothing(&scene.chain, from), 2 * GWEI, GWEI);
    let id = scene.chain.submit(scene.chain.now, 0, transaction).unwrap();
    assert_eq!(scene.chain.pending().count(), 0);
    assert_eq!(scene.chain.truth().knows(id), Ok(true));
    scene.blocks(6);
    assert!(scene.chain.truth().receipt(id).unwrap().unwrap().block > 1);
}

#[test]
fn an_endpoint_may_swallow_a_transaction_or_lose_its_answer() {
    let mut weather = Weather::calm();
    weather.endpoints.push(Endpoint { swallows: 1_000, ..Endpoint::default() });
    weather.endpoints.push(Endpoint { answers_lost: 1_000, ..Endpoint::default() });
    let mut scene = Scene::new(weather, 1);
    let from = scene.other.address();
    let transaction = Transaction::new(from, 0, nothing(&scene.chain, from), 2 * GWEI, GWEI);
    let id = transaction.id();
    let now = scene.chain.now;
    assert_eq!(scene.chain.submit(now, 1, transaction.clone()), Ok(id));
    scene.blocks(2);
    assert_eq!(scene.chain.truth().knows(id), Ok(false));
    let lost = scene.chain.submit(now, 2, transaction.clone());
    assert_eq!(lost, Err(SubmitError::Rpc(RpcError::AnswerLost)));
    scene.blocks(1);
    assert!(scene.chain.truth().receipt(id).unwrap().unwrap().success);
    let nowhere = scene.chain.submit(now, 9, transaction);
    assert_eq!(nowhere, Err(SubmitError::Rpc(RpcError::Unreachable)));
}

#[test]
fn full_blocks_make_gas_dearer_and_demand_makes_it_cheap_again() {
    let mut scene = Scene::new(Weather { demand_swing: 500, ..Weather::calm() }, 1);
    let fees = (0..2_000).map(|_| {
        scene.blocks(1);
        scene.chain.truth().base_fee().unwrap()
    });
    let fees: Vec<_> = fees.collect();
    let change = |pair: &[u64]| pair[0].abs_diff(pair[1]) * 8 <= pair[0] + 8;
    assert!(fees.windows(2).all(change), "an eighth at most (EIP-1559)");
    let (least, most) = (fees.iter().min().unwrap(), fees.iter().max().unwrap());
    assert!((500_000_000..900_000_000).contains(least), "{least}");
    assert!((1_100_000_000..2_000_000_000).contains(most), "{most}");
}

/// 200 steps of anybody doing anything, in a storm.
fn storm(seed: u64) -> SimChain {
    let mut scene = Scene::new(Weather::storm(), seed);
    let mut dice = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let token = scene.chain.token();
    let parties = [&scene.payer, &scene.payee, &scene.other].map(|key| key.address());
    let mut finals = BTreeMap::new();
    for _ in 0..200 {
        let config = scene.config(dice.u64(0..6));
        let units = dice.u128(1..2_000);
        let intent = match dice.u8(0..12) {
            0..=2 => Intent::Deposit { token, amount: amount(units) },
            3 => Intent::Withdraw { token, amount: amount(units / 4 + 1) },
            4..=5 => Intent::Open { channels: vec![(config, amount(units))] },
            6 => Intent::TopUp { config, amount: amount(units / 2 + 1) },
            7..=8 => Intent::Claim { claims: vec![scene.claim(config, units)] },
            9 => scene.close(config, units / 8),
            10 => Intent::StartClose { config },
            _ => match dice.bool() {
                true => Intent::FinishClose { config },
                false => Intent::Sweep { payee: config.payee, token },
            },
        };
        let from = if dice.u8(0..4) == 0 { *dice.choice(&parties).unwrap() } else { config.payer };
        let endpoint = dice.usize(0..4);
        if let Ok(nonce) = scene.chain.view(endpoint).nonce(from, Tag::Head) {
            let nonce = nonce + dice.u64(0..3);
            for (nonce, call) in (nonce..).zip(scene.chain.calls(from, &intent)) {
                let max_fee = GWEI + dice.u128(0..4 * GWEI);
                let tip = dice.u128(0..=max_fee / 2);
                let transaction = Transaction::new(from, nonce, call, max_fee, tip);
                scene.chain.submit(scene.chain.now, endpoint, transaction).ok();
            }
        }
        if dice.u8(0..20) == 0 {
            scene.chain.reorg(dice.u64(1..10));
        }
        scene.chain.advance(scene.chain.now.plus_ms(dice.u64(0..30_000)));
        // No later history may differ below what was final at any time.
        for number in 0..=scene.chain.final_number {
            let hash = scene.chain.block(number).hash;
            assert_eq!(*finals.entry(number).or_insert(hash), hash);
        }
        if dice.u8(0..50) == 0 {
            scene.chain.assert_conserved();
        }
    }
    scene.chain.assert_conserved();
    scene.chain
}

#[test]
fn nothing_is_lost_or_made_in_any_storm() {
    let (mut mined, mut failed, mut lost, mut claims) = (0, 0, 0, 0);
    for seed in 0..50 {
        let chain = storm(seed);
        for (_, happening) in chain.log() {
            match happening {
                Happening::Mined(receipt) if receipt.success => mined += 1,
                Happening::Mined(_) => failed += 1,
                Happening::Lost(_) | Happening::Forgotten(_) => lost += 1,
                _ => {}
            }
        }
        let logs = chain.truth().logs(0, Tag::Head).unwrap();
        claims += logs.iter().filter(|log| matches!(log.event, Event::Claimed { .. })).count();
    }
    println!("{mined} mined, {failed} failed, {lost} lost, {claims} claims");
    assert!(mined > 2_000 && failed > 500 && lost > 100 && claims > 50);
}

#[test]
fn the_same_seed_makes_the_same_history() {
    let (one, two, other) = (storm(7), storm(7), storm(8));
    assert_eq!(one.log(), two.log());
    assert_eq!(one.head_hash(), two.head_hash());
    assert_ne!(one.log(), other.log());

    // A clone has the same future, on any thread.
    fn movable<T: Send + Clone>(_: &T) {}
    movable(&one);
    let (mut one, mut clone) = (one.clone(), one);
    let later = one.now.plus_ms(3_600_000);
    one.advance(later);
    clone.advance(later);
    assert_eq!(one.log(), clone.log());
}

/// `cargo test --release -p sparewire-sim how_long -- --ignored --nocapture`
#[test]
#[ignore = "a timing, for people"]
#[allow(clippy::disallowed_methods)]
fn how_long_things_take() {
    let time = |what: &str, times: u32, work: &mut dyn FnMut()| {
        let started = std::time::Instant::now();
        (0..times).for_each(|_| work());
        println!("{what}: {:?}", started.elapsed() / times);
    };
    base();
    time("a new chain", 1_000, &mut || drop(SimChain::new(Weather::calm(), 1)));
    let mut scene = Scene::new(Weather::calm(), 1);
    let config = scene.open(7);
    time("an empty block", 10_000, &mut || scene.blocks(1));
    let claims: Vec<_> = (1..=500).map(|units| scene.claim(config, units)).collect();
    let mut claims = claims.into_iter();
    time("a claim in a block", 500, &mut || {
        let payee = scene.payee.address();
        scene.submit(payee, &Intent::Claim { claims: vec![claims.next().unwrap()] });
        scene.blocks(1);
    });
    assert_eq!(scene.facts(config).claimed, amount(500));
    let id = config.id(&scene.chain.domain());
    time("channel facts", 1_000, &mut || {
        scene.chain.truth().channel(id, Tag::Final).unwrap().unwrap();
    });
    time("an audit", 100, &mut || {
        scene.chain.audit();
    });
    time("a clone", 100, &mut || drop(scene.chain.clone()));
}
