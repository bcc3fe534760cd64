#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_consensus::Transaction as _;
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::U256;
use serde_json::json;
use sparewire_core::{NodeId, TypedData, Verified};
use sparewire_protocol::channel::{ChannelConfig, Claim, CooperativeClose, Voucher};

use super::*;
use crate::{
    EmbeddedChain, serve,
    testing::{CHAIN_ID, Misbehaving, TestSigner, Verdict, genesis},
};

mod anvil;
mod batch;
mod beside;
mod ends;
mod proxy;
mod quorum;
mod quote;
mod stake;
mod wallet;

const PAYER: u8 = 1;
const PAYEE: u8 = 2;
const DELAY: u32 = 900;

fn amount(units: u128) -> Amount {
    Amount::new(units).unwrap()
}

fn quick() -> Policy {
    Policy {
        poll: Duration::from_millis(5),
        retry_for: Duration::from_millis(300),
        request_timeout: Duration::from_secs(20),
        patience: Duration::from_secs(20),
        ..Policy::default()
    }
}

fn signer(seed: u8) -> Arc<dyn Signer> {
    Arc::new(TestSigner::new(seed))
}

fn embedded() -> EmbeddedChain {
    EmbeddedChain::in_memory(genesis(&[PAYER, PAYEE])).unwrap()
}

async fn connect(endpoint: Endpoint, deployed: &Deployment, seed: u8, policy: Policy) -> EvmChain {
    let journal = Journal::in_memory().unwrap();
    EvmChain::connect(endpoint, deployed.domain, signer(seed), journal, policy).await.unwrap()
}

fn config(token: Address, salt: u64) -> ChannelConfig {
    ChannelConfig {
        payer: TestSigner::new(PAYER).address(),
        payer_authorizer: TestSigner::new(11).address(),
        payee: TestSigner::new(PAYEE).address(),
        payee_authorizer: TestSigner::new(12).address(),
        token,
        withdraw_delay_secs: DELAY,
        salt,
    }
}

fn claim(config: ChannelConfig, domain: &Domain, units: u128) -> Claim {
    let voucher = Voucher { channel: config.id(domain), amount: amount(units) };
    let verified = Verified::sign(voucher, domain, &TestSigner::new(11)).unwrap();
    Claim::new(config, domain, &verified)
}

/// All tokens are somewhere: in the wallets, or with the contract as deposits, open channels and
/// what is claimed.
async fn assert_conserved(chain: &EvmChain, token: Address, in_channels: u128) {
    let (payer, payee) = (TestSigner::new(PAYER).address(), TestSigner::new(PAYEE).address());
    let contract = chain.domain().contract;
    let held = chain.funds(contract, token).await.unwrap().wallet;
    let (payer, payee) =
        (chain.funds(payer, token).await.unwrap(), chain.funds(payee, token).await.unwrap());
    let promised = [payer, payee]
        .map(|funds| funds.deposit.get() + funds.claimable.get())
        .iter()
        .sum::<u128>()
        + in_channels;
    assert_eq!(held, promised, "the contract holds what it owes");
    let supply = chain.read_newest(token, TestToken::totalSupplyCall {}).await.unwrap();
    assert_eq!(supply, U256::from(held + payer.wallet + payee.wallet));
}

async fn life_of_channels(embedded: EmbeddedChain, endpoint: Endpoint) {
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let (token, domain) = (deployed.token, deployed.domain);
    let payer = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    let payee = connect(endpoint, &deployed, PAYEE, quick()).await;

    let info = payer.token(token).await.unwrap();
    assert!(info.decimals <= 18 && !info.symbol.is_empty());
    payer.mint(token, payer.wallet(), amount(10_000)).await.unwrap();
    let deposited = payer.perform(&Intent::Deposit { token, amount: amount(5_000) }).await.unwrap();
    assert_eq!(deposited.transactions.len(), 2, "approve, deposit");
    assert!(deposited.gas_used() > 21_000 && deposited.transactions[1].fee_wei > 0);
    let funds = payer.funds(payer.wallet(), token).await.unwrap();
    assert_eq!((funds.wallet, funds.deposit), (5_000, amount(5_000)));

    // One channel alone, two in a batch.
    let configs = [1, 2, 3].map(|salt| config(token, salt));
    payer.perform(&Intent::Open { channels: vec![(configs[0], amount(1_000))] }).await.unwrap();
    let rest = configs[1..].iter().map(|config| (*config, amount(500))).collect::<Vec<_>>();
    let opened = payer.perform(&Intent::Open { channels: rest.clone() }).await.unwrap();
    assert_eq!(opened.transactions.len(), 1);
    assert_eq!(payer.perform(&Intent::Open { channels: rest }).await.unwrap(), Outcome::default());
    for config in &configs {
        let facts = payee.channel(config.id(&domain)).await.unwrap().unwrap();
        assert_eq!((facts.claimed, facts.status), (Amount::ZERO, ChannelStatus::Open));
    }
    assert_eq!(payee.channel(ChannelId::default()).await.unwrap(), None);
    assert_conserved(&payer, token, 2_000).await;

    // Ids, digests and the separator are the contract's.
    let call = Channels::channelIdCall::new((plan::config_of(&configs[0]),));
    let id = payer.read_newest(domain.contract, call).await.unwrap();
    assert_eq!(configs[0].id(&domain).0, id);
    let voucher = Voucher { channel: configs[0].id(&domain), amount: amount(77) };
    let call = Channels::voucherDigestCall::new((voucher.channel.0, 77));
    assert_eq!(voucher.digest(&domain), payer.read_newest(domain.contract, call).await.unwrap());
    let close = CooperativeClose { channel: configs[0].id(&domain), amount: amount(77) };
    let call = Channels::cooperativeCloseDigestCall::new((close.channel.0, 77));
    assert_eq!(close.digest(&domain), payer.read_newest(domain.contract, call).await.unwrap());

    // Three vouchers of one payee in one transaction, paid out at once; a second time is nothing.
    let claims = configs.iter().map(|config| claim(*config, &domain, 300)).collect::<Vec<_>>();
    let claimed = payee.perform(&Intent::Claim { claims: claims.clone() }).await.unwrap();
    assert_eq!(claimed.transactions.len(), 1);
    assert_eq!(payee.perform(&Intent::Claim { claims }).await.unwrap(), Outcome::default());
    let funds = payee.funds(payee.wallet(), token).await.unwrap();
    assert_eq!((funds.wallet, funds.claimable), (900, Amount::ZERO));
    let sweep = Intent::Sweep { payee: payee.wallet(), token };
    assert_eq!(payee.perform(&sweep).await.unwrap(), Outcome::default());
    assert_conserved(&payer, token, 1_100).await;

    // A top-up, then both sides agree to end the first channel.
    let top_up = Intent::TopUp { config: configs[0], amount: amount(100) };
    payer.perform(&top_up).await.unwrap();
    let facts = payer.channel(configs[0].id(&domain)).await.unwrap().unwrap();
    assert_eq!((facts.reserved, facts.claimed), (amount(1_100), amount(300)));
    let agreed = CooperativeClose { channel: configs[0].id(&domain), amount: amount(450) };
    let payee_signature = TestSigner::new(12).sign_digest(agreed.digest(&domain)).unwrap();
    let claim_450 = claim(configs[0], &domain, 450);
    let close = Intent::CloseCooperatively { claim: claim_450, payee_signature };
    payer.perform(&close).await.unwrap();
    let facts = payer.channel(configs[0].id(&domain)).await.unwrap().unwrap();
    assert_eq!((facts.claimed, facts.status), (amount(450), ChannelStatus::Closed));
    assert_eq!(payer.perform(&close).await.unwrap(), Outcome::default());
    assert_conserved(&payer, token, 400).await;

    // The payer leaves the second one alone; the payee still claims meanwhile.
    let start = Intent::StartClose { config: configs[1] };
    let refused = payee.perform(&start).await.unwrap_err();
    assert!(refused.to_string().contains("only the payer"), "{refused}");
    payer.perform(&start).await.unwrap();
    let facts = payer.channel(configs[1].id(&domain)).await.unwrap().unwrap();
    let ChannelStatus::Closing { finish_at_secs } = facts.status else { panic!("{facts:?}") };
    assert!(finish_at_secs >= payer.head().await.unwrap().time_secs + u64::from(DELAY) - 60);
    let finish = Intent::FinishClose { config: configs[1] };
    let early = payer.perform(&finish).await.unwrap_err();
    assert!(early.to_string().contains("cannot be closed before"), "{early}");
    payee.perform(&Intent::Claim { claims: vec![claim(configs[1], &domain, 400)] }).await.unwrap();
    embedded.increase_time(u64::from(DELAY)).unwrap();
    assert!(payer.head().await.unwrap().time_secs >= finish_at_secs, "time goes by unasked");
    payer.perform(&finish).await.unwrap();
    assert_eq!(payer.perform(&finish).await.unwrap(), Outcome::default());
    assert_conserved(&payer, token, 200).await;

    let deposit = payer.funds(payer.wallet(), token).await.unwrap().deposit;
    assert_eq!(deposit, amount(5_000 - 450 - 400 - 500));
    payer.perform(&Intent::Withdraw { token, amount: deposit }).await.unwrap();
    let funds = payer.funds(payer.wallet(), token).await.unwrap();
    assert_eq!((funds.wallet, funds.deposit), (10_000 - 450 - 400 - 500, Amount::ZERO));
    assert_conserved(&payer, token, 200).await;
    assert_eq!(payer.follower.journal.unfinished().unwrap(), 0);
    assert_eq!(payer.resume().await.unwrap(), 0);
}

#[tokio::test]
async fn channels_move_together_or_not_at_all_and_those_that_are_closed_already_hold_up_none() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain);
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let (token, domain) = (deployed.token, deployed.domain);
    let payer = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    let payee = connect(endpoint, &deployed, PAYEE, quick()).await;
    payer.mint(token, payer.wallet(), amount(1_000)).await.unwrap();
    payer.perform(&Intent::Deposit { token, amount: amount(1_000) }).await.unwrap();
    let configs = [1, 2].map(|salt| config(token, salt));
    let channels = configs.map(|config| (config, amount(500))).to_vec();
    payer.perform(&Intent::Open { channels }).await.unwrap();
    let agreed = |config: ChannelConfig, signer: u8| {
        let close = CooperativeClose { channel: config.id(&domain), amount: amount(90) };
        let signature = TestSigner::new(signer).sign_digest(close.digest(&domain)).unwrap();
        (claim(config, &domain, 90), signature)
    };
    let next = configs.map(|config| {
        let payer_authorizer = TestSigner::new(77).address();
        (ChannelConfig { payer_authorizer, ..config }, amount(410))
    });
    let to_next = |signer| Intent::Move {
        closes: vec![agreed(configs[0], 12), agreed(configs[1], signer)],
        opens: next.to_vec(),
    };
    let status = async |config: &ChannelConfig| {
        payer.channel(config.id(&domain)).await.unwrap().map(|facts| facts.status)
    };
    let refused = payer.perform(&to_next(77)).await.unwrap_err();
    assert!(refused.to_string().contains("did not sign the close"), "{refused}");
    assert_eq!(status(&configs[0]).await, Some(ChannelStatus::Open), "nothing is half done");

    // The payee has closed one of them by itself meanwhile.
    let (claim, payee_signature) = agreed(configs[0], 12);
    payee.perform(&Intent::CloseCooperatively { claim, payee_signature }).await.unwrap();
    let moved = payer.perform(&to_next(12)).await.unwrap();
    assert_eq!(moved.transactions.len(), 1);
    for (old, (new, _)) in configs.iter().zip(&next) {
        let (old, new) = (status(old).await, status(new).await);
        assert_eq!((old, new), (Some(ChannelStatus::Closed), Some(ChannelStatus::Open)));
    }
    assert_eq!(payer.perform(&to_next(12)).await.unwrap(), Outcome::default(), "it is done");
    assert_eq!(payer.funds(payer.wallet(), token).await.unwrap().deposit, Amount::ZERO);
    assert_conserved(&payer, token, 2 * 410).await;
}

#[tokio::test]
async fn channels_live_and_end_in_process() {
    let chain = embedded();
    life_of_channels(chain.clone(), Endpoint::Embedded(chain)).await;
}

#[tokio::test]
async fn channels_live_and_end_over_http() {
    let chain = embedded();
    let server = serve(chain.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    life_of_channels(chain, Endpoint::Http(server.url())).await;
}

#[tokio::test]
async fn wrong_chain_no_contract_and_no_node_are_told_apart() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let try_with = async |endpoint: Endpoint, domain: Domain| {
        let journal = Journal::in_memory().unwrap();
        EvmChain::connect(endpoint, domain, signer(PAYER), journal, quick()).await.unwrap_err()
    };
    let error = try_with(endpoint.clone(), Domain { chain_id: 1, ..deployed.domain }).await;
    assert_eq!(error, ChainError::WrongChain { expected: 1, actual: CHAIN_ID });
    for contract in [Address::repeat_byte(9), deployed.token] {
        let error = try_with(endpoint.clone(), Domain { contract, ..deployed.domain }).await;
        assert_eq!(error, ChainError::NoContract { contract, chain_id: CHAIN_ID });
    }
    let url = "http://user:pa55@127.0.0.1:9/v2/s3cret?key=s3cret";
    let error = try_with(Endpoint::Http(url.to_owned()), deployed.domain).await;
    let ChainError::Unreachable { endpoint, .. } = &error else { panic!("{error:?}") };
    assert_eq!(endpoint, "http://127.0.0.1:9");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("pa55"), "{shown}");
}

#[tokio::test]
async fn nothing_is_registered_or_revoked_where_there_is_no_registry() {
    let embedded = embedded();
    let endpoint = Endpoint::Embedded(embedded);
    let deployed = deploy(endpoint.clone(), signer(1), quick()).await.unwrap();
    let chain = connect(endpoint, &deployed, 1, quick()).await;
    let keys = Address::repeat_byte(0xdd);
    let (wallet, device, authorizer) = (chain.wallet(), NodeId::default(), signer(2).address());
    let delegation = Delegation { wallet, device, authorizer, expiry_secs: u64::MAX };
    let none = ChainError::NoRegistry { keys, chain_id: CHAIN_ID };
    for intent in [
        Intent::Register { keys, delegation },
        Intent::Revoke { keys, device: Some(device), authorizer: Some(authorizer) },
        Intent::SetCap { keys, authorizer, token: deployed.token, cap: amount(1) },
    ] {
        assert_eq!(chain.perform(&intent).await.unwrap_err(), none);
    }
    assert_eq!(chain.standing(keys, &delegation).await.unwrap_err(), none);
    let cap = chain.cap(keys, wallet, authorizer, deployed.token).await;
    assert_eq!(cap.unwrap_err(), none);
}

#[tokio::test]
async fn poverty_is_told_in_figures_before_anything_is_signed() {
    let chain = EmbeddedChain::in_memory(genesis(&[PAYER])).unwrap();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let payer = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    let error = payer
        .perform(&Intent::Deposit { token: deployed.token, amount: amount(7) })
        .await
        .unwrap_err();
    let wallet = payer.wallet();
    let expected = ChainError::InsufficientFunds { of: "tokens", wallet, available: 0, needed: 7 };
    assert_eq!(error, expected);
    let payee = connect(endpoint, &deployed, PAYEE, quick()).await;
    let error = payee.mint(deployed.token, payee.wallet(), amount(7)).await.unwrap_err();
    assert!(
        matches!(error, ChainError::InsufficientFunds { of: "native currency for gas", available: 0, needed, .. } if needed > 0),
        "{error:?}"
    );
    payer.transfer(payee.wallet(), 10u128.pow(17)).await.unwrap();
    payee.mint(deployed.token, payee.wallet(), amount(7)).await.unwrap();
    let open = Intent::Open { channels: vec![(config(deployed.token, 1), amount(5))] };
    let error = payer.perform(&open).await.unwrap_err();
    assert!(error.to_string().contains("holds 0"), "{error}");
}

/// A chain with contracts, and the payer seen through a node that `judge` spoils.
async fn misbehaving(
    policy: Policy,
    journal: Journal,
    judge: impl FnMut(&str, &serde_json::Value) -> Verdict + Send + 'static,
) -> (EmbeddedChain, Deployment, EvmChain) {
    let chain = embedded();
    let deployed = deploy(Endpoint::Embedded(chain.clone()), signer(PAYER), quick()).await.unwrap();
    let endpoint = Misbehaving::endpoint(&chain, judge);
    let carrier =
        EvmChain::connect(endpoint, deployed.domain, signer(PAYER), journal, policy).await.unwrap();
    (chain, deployed, carrier)
}

fn balance(chain: &EmbeddedChain, owner: Address) -> u128 {
    let answer = chain.handle(json!({
        "jsonrpc": "2.0", "id": 1, "method": "eth_getBalance", "params": [owner, "latest"]
    }));
    serde_json::from_value::<U256>(answer["result"].clone()).unwrap().to()
}

#[tokio::test]
async fn a_node_that_drops_the_transaction_gets_it_again() {
    let sends = Arc::new(AtomicU64::new(0));
    let counter = sends.clone();
    let judge = move |method: &str, _: &serde_json::Value| {
        if method == "eth_sendRawTransaction" && counter.fetch_add(1, Ordering::SeqCst) < 3 {
            return match counter.load(Ordering::SeqCst) {
                1 => Verdict::Result(json!(alloy_primitives::B256::ZERO)),
                2 => Verdict::Error(-32000, "already known"),
                _ => Verdict::Silence,
            };
        }
        Verdict::Pass
    };
    let (chain, _, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    let to = Address::repeat_byte(5);
    let outcome = carrier.transfer(to, 1_000).await.unwrap();
    assert_eq!(outcome.transactions.len(), 1);
    assert_eq!(balance(&chain, to), 1_000, "exactly once");
    assert_eq!(sends.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_answer_that_is_lost_does_not_pay_twice() {
    let lost = AtomicBool::new(false);
    let judge = move |method: &str, _: &serde_json::Value| {
        if method == "eth_sendRawTransaction" && !lost.swap(true, Ordering::SeqCst) {
            return Verdict::LoseAnswer;
        }
        Verdict::Pass
    };
    let (chain, _, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    let to = Address::repeat_byte(5);
    carrier.transfer(to, 1_000).await.unwrap();
    assert_eq!(balance(&chain, to), 1_000);
}

#[tokio::test]
async fn a_stuck_transaction_is_replaced_at_a_higher_fee_with_the_same_nonce() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::<(u64, u128)>::new()));
    let fees = seen.clone();
    let judge = move |method: &str, params: &serde_json::Value| {
        if method != "eth_sendRawTransaction" {
            return Verdict::Pass;
        }
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        let envelope = alloy_consensus::TxEnvelope::decode_2718_exact(&raw).unwrap();
        fees.lock().unwrap().push((envelope.nonce(), envelope.max_fee_per_gas()));
        // Mines nothing below 3 gwei; the first price is 2.
        match envelope.max_fee_per_gas() < 3_000_000_000 {
            true => Verdict::Result(json!(envelope.tx_hash())),
            false => Verdict::Pass,
        }
    };
    let policy = Policy { bump_after: Duration::from_millis(30), ..quick() };
    let (chain, _, carrier) = misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    let to = Address::repeat_byte(5);
    // Blocks come without it.
    let blocks = async {
        loop {
            chain.mine().unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        done = carrier.transfer(to, 1_000) => assert_eq!(done.unwrap().transactions.len(), 1),
        () = blocks => {}
    }
    assert_eq!(balance(&chain, to), 1_000);
    let mut seen = seen.lock().unwrap().clone();
    seen.dedup();
    assert!(seen.len() >= 4, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].0 == pair[1].0), "one nonce: {seen:?}");
    assert!(seen.windows(2).all(|pair| pair[1].1 * 8 >= pair[0].1 * 9), "12.5 %: {seen:?}");
}

#[tokio::test]
async fn a_silent_node_is_unreachable_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let dead = Arc::new(AtomicBool::new(false));
    let switch = dead.clone();
    let judge = move |method: &str, _: &serde_json::Value| {
        // Dies while it is handed the transaction.
        if method == "eth_sendRawTransaction" {
            switch.store(true, Ordering::SeqCst);
        }
        match switch.load(Ordering::SeqCst) {
            true => Verdict::Silence,
            false => Verdict::Pass,
        }
    };
    let journal = Journal::open(&path).unwrap();
    let (chain, deployed, carrier) = misbehaving(quick(), journal, judge).await;
    let to = Address::repeat_byte(5);
    let error = carrier.transfer(to, 1_000).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error:?}");
    assert_eq!(balance(&chain, to), 0);
    drop(carrier);

    // A new process, a node that works: what was signed is sent and followed.
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.unfinished().unwrap(), 1);
    let endpoint = Endpoint::Embedded(chain.clone());
    let carrier = EvmChain::connect(endpoint, deployed.domain, signer(PAYER), journal, quick())
        .await
        .unwrap();
    assert_eq!(carrier.resume().await.unwrap(), 1);
    assert_eq!(balance(&chain, to), 1_000);
    assert_eq!(carrier.resume().await.unwrap(), 0);

    // Asking for the same again is a new transfer now; while it was unfinished it was not.
    carrier.transfer(to, 1_000).await.unwrap();
    assert_eq!(balance(&chain, to), 2_000);
}

#[tokio::test]
async fn asking_again_while_unfinished_goes_on_instead_of_paying_twice() {
    let dead = Arc::new(AtomicBool::new(false));
    let (switch, mut sends) = (dead.clone(), 0);
    let judge = move |method: &str, _: &serde_json::Value| {
        if method == "eth_sendRawTransaction" {
            sends += 1;
            if sends == 1 {
                // Dies right after it took the transaction.
                switch.store(true, Ordering::SeqCst);
                return Verdict::LoseAnswer;
            }
        }
        match switch.load(Ordering::SeqCst) {
            true => Verdict::Silence,
            false => Verdict::Pass,
        }
    };
    let (chain, _, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    let to = Address::repeat_byte(5);
    assert!(carrier.transfer(to, 1_000).await.is_err());
    // The node is back.
    dead.store(false, Ordering::SeqCst);
    let sent = balance(&chain, to);
    assert_eq!(sent, 1_000, "it had arrived");
    assert_eq!(carrier.transfer(to, 1_000).await.unwrap().transactions.len(), 1);
    assert_eq!(balance(&chain, to), 1_000, "and was not sent again");
}

#[tokio::test]
async fn a_reorganisation_under_a_pending_transaction_brings_it_back() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let policy = Policy { finality: Finality::Blocks(3), ..quick() };
    let carrier = Arc::new(connect(endpoint, &deployed, PAYER, policy).await);
    let to = Address::repeat_byte(5);
    let transfer = tokio::spawn({
        let carrier = carrier.clone();
        async move { carrier.transfer(to, 1_000).await }
    });
    let wait_for = async |wei: u128| {
        for _ in 0..1_000 {
            if balance(&chain, to) == wei {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("never {wei} wei");
    };
    wait_for(1_000).await;
    chain.mine().unwrap();
    assert!(!transfer.is_finished(), "one block on top is not final");
    chain.rollback(2).unwrap();
    assert_eq!(balance(&chain, to), 0, "undone");
    wait_for(1_000).await;
    for _ in 0..3 {
        chain.mine().unwrap();
    }
    let outcome = transfer.await.unwrap().unwrap();
    assert_eq!(outcome.transactions[0].block, chain.block_number() - 3);
}

#[tokio::test]
async fn a_nonce_in_flight_is_not_used_again_though_the_node_has_not_heard_of_it() {
    // Nodes behind one URL are a few blocks apart: one mined it, the next one asked has not seen it.
    let frozen = Arc::new(AtomicU64::new(u64::MAX));
    let told = frozen.clone();
    let judge = move |method: &str, params: &serde_json::Value| match told.load(Ordering::SeqCst) {
        nonce
            if nonce < u64::MAX && method == "eth_getTransactionCount" && params[1] == "latest" =>
        {
            Verdict::Result(json!(alloy_primitives::U64::from(nonce)))
        }
        _ => Verdict::Pass,
    };
    let policy = Policy { finality: Finality::Blocks(3), ..quick() };
    let (chain, _, carrier) = misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    let carrier = Arc::new(carrier);
    let before = carrier.follower.node.nonce(carrier.wallet()).await.unwrap();
    let transfer = |to: u8| {
        let carrier = carrier.clone();
        tokio::spawn(async move { carrier.transfer(Address::repeat_byte(to), 1_000).await })
    };
    let arrived = async |to: u8| {
        for _ in 0..2_000 {
            if balance(&chain, Address::repeat_byte(to)) == 1_000 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("never mined");
    };
    let first = transfer(5);
    arrived(5).await;
    frozen.store(before, Ordering::SeqCst);
    let second = transfer(6);
    arrived(6).await;
    frozen.store(u64::MAX, Ordering::SeqCst);
    for _ in 0..4 {
        chain.mine().unwrap();
    }
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn two_journals_on_one_wallet_both_get_through() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let one = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    let two = connect(endpoint, &deployed, PAYER, quick()).await;
    let to = Address::repeat_byte(5);
    for round in 0..5 {
        let (first, second) =
            tokio::join!(one.transfer(to, 1 + round), two.transfer(to, 100 + round));
        first.unwrap();
        second.unwrap();
    }
    assert_eq!(balance(&chain, to), (1..=5).sum::<u128>() + (100..=104).sum::<u128>());
}

#[tokio::test]
async fn a_nonce_that_another_program_took_is_signed_anew() {
    // The node swallows our first transaction; another one takes its nonce meanwhile.
    let first = AtomicBool::new(true);
    let chain_slot = Arc::new(std::sync::OnceLock::<EmbeddedChain>::new());
    let slot = chain_slot.clone();
    let judge = move |method: &str, params: &serde_json::Value| {
        if method == "eth_sendRawTransaction" && first.swap(false, Ordering::SeqCst) {
            let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
            let nonce = alloy_consensus::TxEnvelope::decode_2718_exact(&raw).unwrap().nonce();
            let (_, other) = crate::testing::signed(PAYER, |transaction| transaction.nonce = nonce);
            slot.get().unwrap().submit(&other).unwrap();
            return Verdict::Result(json!(alloy_primitives::B256::ZERO));
        }
        Verdict::Pass
    };
    let (chain, _, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    chain_slot.set(chain.clone()).unwrap();
    let to = Address::repeat_byte(5);
    carrier.transfer(to, 1_000).await.unwrap();
    assert_eq!(balance(&chain, to), 1_000);
}

#[tokio::test]
async fn nodes_without_eip_1559_or_the_finalized_tag_are_served() {
    let judge = |method: &str, params: &serde_json::Value| match method {
        "eth_getBlockByNumber" if params[0] == "finalized" => {
            Verdict::Error(-32602, "invalid block tag")
        }
        "eth_getBlockByNumber" => Verdict::Without("baseFeePerGas"),
        _ => Verdict::Pass,
    };
    let policy = Policy { finality: Finality::Finalized { else_blocks: 1 }, ..quick() };
    let (chain, _, carrier) = misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    let head = carrier.head().await.unwrap();
    assert_eq!(head.final_number + 1, head.number);
    let transfer = carrier.transfer(Address::repeat_byte(5), 1);
    let mining = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        chain.mine().unwrap();
    };
    let (outcome, ()) = tokio::join!(transfer, mining);
    outcome.unwrap();
}

#[tokio::test]
async fn a_revert_in_a_block_is_told_with_its_reason() {
    let mut estimates = 0;
    let judge = move |method: &str, _: &serde_json::Value| {
        estimates += u32::from(method == "eth_estimateGas");
        match (method, estimates) {
            // The simulation succeeds; the state changes before the block.
            ("eth_estimateGas", 1) => Verdict::Result(json!("0x30d40")),
            _ => Verdict::Pass,
        }
    };
    let (chain, deployed, carrier) =
        misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    let before = chain.block_number();
    let start = Intent::StartClose { config: config(deployed.token, 9) };
    let error = carrier.perform(&start).await.unwrap_err();
    let ChainError::Reverted { what: "start_close", reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("channel 0x"), "{reason}");
    assert_eq!(chain.block_number(), before + 1, "it was mined, and cost gas");
    assert_eq!(carrier.follower.journal.unfinished().unwrap(), 0);
    carrier.transfer(Address::repeat_byte(5), 1).await.unwrap();
}

#[tokio::test]
async fn many_claims_share_a_transaction_and_many_callers_share_one_wallet() {
    const CHANNELS: u64 = 201;
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let (token, domain) = (deployed.token, deployed.domain);
    let payer = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    let payee = connect(endpoint, &deployed, PAYEE, quick()).await;
    payer.mint(token, payer.wallet(), amount(1_000_000)).await.unwrap();
    // The same deposit, asked for twice at a time, is one deposit or two, but whole ones.
    let deposit = Intent::Deposit { token, amount: amount(300_000) };
    let (one, two) = tokio::join!(payer.perform(&deposit), payer.perform(&deposit));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    let funds = payer.funds(payer.wallet(), token).await.unwrap();
    assert_eq!(funds.wallet + funds.deposit.get(), 1_000_000);

    let configs = (0..CHANNELS).map(|salt| config(token, salt)).collect::<Vec<_>>();
    let channels = configs.iter().map(|config| (*config, amount(100))).collect();
    let opened = payer.perform(&Intent::Open { channels }).await.unwrap();
    assert_eq!(opened.transactions.len(), 3);
    let claims = configs.iter().map(|config| claim(*config, &domain, 60)).collect();
    let claimed = payee.perform(&Intent::Claim { claims }).await.unwrap();
    assert_eq!(claimed.transactions.len(), 1);
    let funds = payee.funds(payee.wallet(), token).await.unwrap();
    assert_eq!(funds.wallet, 60 * u128::from(CHANNELS));
    println!("gas: {} an opening", opened.gas_used() / CHANNELS);
    println!("gas: {} a claim of {CHANNELS}", claimed.gas_used() / CHANNELS);
    assert_conserved(&payer, token, 40 * u128::from(CHANNELS)).await;
}
