//! Three nodes over one chain, of which some misbehave.

use alloy_primitives::{B256, U64};
use serde_json::Value;

use super::*;

type Judge = Box<dyn FnMut(&str, &Value) -> Verdict + Send>;

fn honest() -> Judge {
    Box::new(|_, _| Verdict::Pass)
}

fn silent() -> Judge {
    Box::new(|_, _| Verdict::Silence)
}

/// Misbehaves where and when the switch is on.
fn switched(
    on: &Arc<AtomicBool>,
    mut judge: impl FnMut(&str, &Value) -> Verdict + Send + 'static,
) -> Judge {
    let on = on.clone();
    Box::new(move |method, params| match on.load(Ordering::SeqCst) {
        true => judge(method, params),
        false => Verdict::Pass,
    })
}

/// Nodes named "node 0" and so on; two must agree.
fn nodes(chain: &EmbeddedChain, judges: impl IntoIterator<Item = Judge>) -> Endpoint {
    let node = |(index, judge)| Misbehaving::named(&format!("node {index}"), chain, judge);
    let endpoints = judges.into_iter().enumerate().map(node).collect();
    Endpoint::Several { endpoints, quorum: 2 }
}

async fn deployed() -> (EmbeddedChain, Deployment) {
    let chain = embedded();
    let deployed = deploy(Endpoint::Embedded(chain.clone()), signer(PAYER), quick()).await.unwrap();
    (chain, deployed)
}

async fn with(judges: impl IntoIterator<Item = Judge>) -> (EmbeddedChain, Deployment, EvmChain) {
    let (chain, deployed) = deployed().await;
    let carrier = connect(nodes(&chain, judges), &deployed, PAYER, quick()).await;
    (chain, deployed, carrier)
}

fn faults(carrier: &EvmChain) -> Vec<Option<Fault>> {
    carrier.nodes().into_iter().map(|node| node.fault).collect()
}

fn ask(chain: &EmbeddedChain, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    chain.handle(request)["result"].clone()
}

fn used_nonces(chain: &EmbeddedChain) -> u64 {
    let wallet = TestSigner::new(PAYER).address();
    let nonce = ask(chain, "eth_getTransactionCount", json!([wallet, "latest"]));
    serde_json::from_value::<U64>(nonce).unwrap().to()
}

const TO: Address = Address::repeat_byte(5);

/// A transfer that must happen once, with one nonce.
async fn transfer_once(chain: &EmbeddedChain, carrier: &EvmChain) {
    let (before, had) = (used_nonces(chain), balance(chain, TO));
    let outcome = carrier.transfer(TO, 1_000).await.unwrap();
    assert_eq!(outcome.transactions.len(), 1);
    assert_eq!(balance(chain, TO), had + 1_000, "exactly once");
    assert_eq!(used_nonces(chain), before + 1);
    assert_eq!(carrier.follower.journal.unfinished().unwrap(), 0);
}

#[tokio::test]
async fn one_silent_node_holds_nothing_up_and_is_named() {
    for at in 0..3 {
        let judge = |index| if index == at { silent() } else { honest() };
        let (chain, _, carrier) = with((0..3).map(judge)).await;
        transfer_once(&chain, &carrier).await;
        let status = carrier.nodes();
        assert_eq!(status[at].name, format!("node {at}"));
        let fault = status[at].fault.as_ref().unwrap();
        assert_eq!(fault.to_string(), "does not answer (connection refused)");
        assert_eq!(status.iter().filter(|node| node.fault.is_some()).count(), 1);
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_waited_for_once() {
    let (chain, deployed) = deployed().await;
    // Transactions go to all, and wait for none of them.
    let counted = |then: fn() -> Verdict| {
        let asked = Arc::new(AtomicU64::new(0));
        let counter = asked.clone();
        let judge: Judge = Box::new(move |method, _| {
            let waited_for = method != "eth_sendRawTransaction";
            counter.fetch_add(u64::from(waited_for), Ordering::SeqCst);
            then()
        });
        (judge, asked)
    };
    let ((hangs, asked), (answers, answered)) =
        (counted(|| Verdict::Hang), counted(|| Verdict::Pass));
    let judges = [hangs, answers, honest()];
    let carrier = connect(nodes(&chain, judges), &deployed, PAYER, quick()).await;
    transfer_once(&chain, &carrier).await;
    assert!(matches!(&faults(&carrier)[..], [Some(Fault::Silent(_)), None, None]));
    // Each of its requests held something up for a second. (Where the others take as long, one by
    // one, it is asked beside them.)
    let (asked, answered) = (asked.load(Ordering::SeqCst), answered.load(Ordering::SeqCst));
    assert!(answered > 12 && asked * 4 < answered, "{asked} of {answered}");
}

#[tokio::test]
async fn a_node_that_limits_its_rate_is_named_and_one_that_lacks_a_block_is_not() {
    let limited: Judge = Box::new(|_, _| Verdict::Error(-32005, "daily request count exceeded"));
    let lacking: Judge = Box::new(|method, _| match method {
        "eth_call" => Verdict::Error(-32000, "missing trie node 1f"),
        _ => Verdict::Pass,
    });
    let (chain, deployed) = deployed().await;
    let carrier = connect(
        Endpoint::Several {
            endpoints: [limited, lacking, honest(), honest()]
                .into_iter()
                .map(|judge| Misbehaving::endpoint(&chain, judge))
                .collect(),
            quorum: 2,
        },
        &deployed,
        PAYER,
        quick(),
    )
    .await;
    carrier.channel(ChannelId::default()).await.unwrap();
    transfer_once(&chain, &carrier).await;
    let faults = faults(&carrier);
    assert_eq!(faults, [Some(Fault::Limited(0)), None, None, None]);
}

#[tokio::test]
async fn a_lie_about_a_channel_is_outvoted_and_its_teller_is_asked_last() {
    let (lies, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let counter = told.clone();
    let liar = switched(&lies, move |method, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        match method {
            // Never opened.
            "eth_call" => Verdict::Result(json!(Bytes::from(vec![0; 128]))),
            _ => Verdict::Pass,
        }
    });
    let (_, deployed, carrier) = with([liar, honest(), honest()]).await;
    let token = deployed.token;
    carrier.mint(token, carrier.wallet(), amount(500)).await.unwrap();
    carrier.perform(&Intent::Deposit { token, amount: amount(500) }).await.unwrap();
    let config = config(token, 1);
    carrier.perform(&Intent::Open { channels: vec![(config, amount(300))] }).await.unwrap();

    lies.store(true, Ordering::SeqCst);
    let facts = carrier.channel(config.id(&deployed.domain)).await.unwrap().unwrap();
    assert_eq!(facts.reserved, amount(300));
    assert_eq!(faults(&carrier), [Some(Fault::Outvoted("eth_call")), None, None]);
    assert!(told.swap(0, Ordering::SeqCst) > 0);
    for _ in 0..3 {
        carrier.channel(config.id(&deployed.domain)).await.unwrap().unwrap();
        carrier.funds(carrier.wallet(), token).await.unwrap();
    }
    assert_eq!(told.load(Ordering::SeqCst), 0, "two agree: nobody else is asked");
    assert_eq!(faults(&carrier)[0], Some(Fault::Outvoted("eth_call")));
}

#[tokio::test]
async fn a_stale_node_is_named_as_behind_and_nothing_waits_for_it() {
    let frozen = Arc::new(std::sync::Mutex::new(None::<(Value, Value)>));
    let seen = frozen.clone();
    let stale: Judge =
        Box::new(move |method, params| match (method, seen.lock().unwrap().as_ref()) {
            ("eth_getBlockByNumber", Some((block, _))) => Verdict::Result(block.clone()),
            ("eth_getTransactionCount", Some((_, nonce))) if params[1] == "latest" => {
                Verdict::Result(nonce.clone())
            }
            _ => Verdict::Pass,
        });
    let (chain, _, carrier) = with([stale, honest(), honest()]).await;
    let wallet = carrier.wallet();
    let block = ask(&chain, "eth_getBlockByNumber", json!(["latest", false]));
    let nonce = ask(&chain, "eth_getTransactionCount", json!([wallet, "latest"]));
    *frozen.lock().unwrap() = Some((block, nonce));
    // A little is nothing: the nonce is the others'.
    transfer_once(&chain, &carrier).await;
    transfer_once(&chain, &carrier).await;
    assert_eq!(faults(&carrier), [None, None, None]);
    for _ in 0..30 {
        chain.mine().unwrap();
    }
    let head = carrier.head().await.unwrap();
    assert_eq!((head.number, head.final_number), (chain.block_number(), chain.block_number()));
    assert_eq!(faults(&carrier), [Some(Fault::Behind(32)), None, None]);
    transfer_once(&chain, &carrier).await;
    assert_eq!(faults(&carrier), [Some(Fault::Behind(32)), None, None], "answers do not clear it");
}

#[tokio::test]
async fn what_one_alone_says_of_the_head_the_nonce_and_the_fee_is_not_believed() {
    let chain_slot = Arc::new(std::sync::OnceLock::<EmbeddedChain>::new());
    let slot = chain_slot.clone();
    let boaster: Judge = Box::new(move |method, params| match (method, slot.get()) {
        ("eth_getBlockByNumber", Some(chain)) => {
            let mut block = ask(chain, method, params.clone());
            block["number"] = json!("0xffffff");
            block["timestamp"] = json!("0xffffffffff");
            block["baseFeePerGas"] = json!("0xffffffffff");
            Verdict::Result(block)
        }
        ("eth_getTransactionCount", Some(_)) => Verdict::Result(json!("0xffff")),
        ("eth_maxPriorityFeePerGas", _) => Verdict::Result(json!("0xffffffffff")),
        ("eth_estimateGas", _) => Verdict::Result(json!("0xffffffff")),
        ("eth_getBalance", _) => Verdict::Result(json!("0x0")),
        _ => Verdict::Pass,
    });
    let (chain, _, carrier) = with([boaster, honest(), honest()]).await;
    let truth = connect_directly(&chain, &carrier).await;
    let fees = truth.follower.node.fees(u128::MAX).await.unwrap();
    chain_slot.set(chain.clone()).unwrap();
    assert_eq!(carrier.head().await.unwrap(), truth.head().await.unwrap());
    assert_eq!(carrier.follower.node.fees(u128::MAX).await.unwrap(), fees);
    transfer_once(&chain, &carrier).await;
}

#[tokio::test]
async fn a_liar_about_the_fee_is_not_believed_while_another_is_silent() {
    let on = Arc::new(AtomicBool::new(false));
    let liar = switched(&on, |method, _| match method {
        "eth_getBlockByNumber" => Verdict::With("baseFeePerGas", json!("0xffffffffff")),
        _ => Verdict::Pass,
    });
    let dying = switched(&on, |_, _| Verdict::Silence);
    let (_, _, carrier) = with([liar, honest(), dying]).await;
    let fees = carrier.follower.node.fees(u128::MAX).await.unwrap();
    on.store(true, Ordering::SeqCst);
    assert_eq!(carrier.follower.node.fees(u128::MAX).await.unwrap(), fees);
}

async fn connect_directly(chain: &EmbeddedChain, carrier: &EvmChain) -> EvmChain {
    let endpoint = Endpoint::Embedded(chain.clone());
    let journal = Journal::in_memory().unwrap();
    EvmChain::connect(endpoint, carrier.domain(), signer(PAYER), journal, quick()).await.unwrap()
}

#[tokio::test]
async fn two_silent_of_three_are_unreachable_and_named() {
    let dead = Arc::new(AtomicBool::new(false));
    let dying = || switched(&dead, |_, _| Verdict::Silence);
    let (chain, _, carrier) = with([dying(), honest(), dying()]).await;
    dead.store(true, Ordering::SeqCst);
    for error in [
        carrier.channel(ChannelId::default()).await.unwrap_err(),
        carrier.transfer(TO, 1_000).await.unwrap_err(),
    ] {
        let ChainError::Unreachable { reason, .. } = &error else { panic!("{error:?}") };
        assert!(reason.contains("node 0: connection refused"), "{reason}");
        assert!(reason.contains("node 2: connection refused"), "{reason}");
        assert!(!reason.contains("node 1"), "{reason}");
    }
    assert_eq!(balance(&chain, TO), 0);
    dead.store(false, Ordering::SeqCst);
    transfer_once(&chain, &carrier).await;
    assert!(faults(&carrier).contains(&None));
}

#[tokio::test]
async fn two_that_contradict_each_other_are_not_believed() {
    let lies = Arc::new(AtomicBool::new(false));
    let liar = switched(&lies, |method, _| match method {
        "eth_call" => Verdict::Result(json!(Bytes::from(vec![0; 128]))),
        _ => Verdict::Pass,
    });
    let (_, deployed, carrier) = with([liar, honest()]).await;
    lies.store(true, Ordering::SeqCst);
    let error = carrier.token(deployed.token).await.unwrap_err();
    let ChainError::Nonsense { endpoint, reason } = &error else { panic!("{error:?}") };
    assert_eq!(endpoint, "node 0, node 1");
    assert_eq!(reason, "the nodes contradict each other on eth_call");
    // Nobody knows who lies, and a contract is not missing for it.
    assert_eq!(faults(&carrier), [None, None]);
    let journal = Journal::in_memory().unwrap();
    let chain = embedded();
    let liar = Box::new(|method: &str, _: &Value| match method {
        "eth_getCode" => Verdict::Result(json!("0x00")),
        "eth_call" => Verdict::Result(json!(B256::ZERO)),
        _ => Verdict::Pass,
    });
    let endpoint = nodes(&chain, [liar as Judge, honest()]);
    let error = EvmChain::connect(endpoint, deployed.domain, signer(PAYER), journal, quick())
        .await
        .unwrap_err();
    assert!(matches!(error, ChainError::Nonsense { .. }), "{error:?}");
}

#[tokio::test]
async fn another_contract_is_told_by_several_as_by_one() {
    let (chain, deployed) = deployed().await;
    for contract in [Address::repeat_byte(9), deployed.token] {
        let endpoint = nodes(&chain, [honest(), honest(), silent()]);
        let (domain, journal) =
            (Domain { contract, ..deployed.domain }, Journal::in_memory().unwrap());
        let error = EvmChain::connect(endpoint, domain, signer(PAYER), journal, quick()).await;
        let expected = ChainError::NoContract { contract, chain_id: CHAIN_ID };
        assert_eq!(error.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_node_on_another_chain_is_known_by_its_id() {
    let stranger: Judge = Box::new(|method, _| match method {
        "eth_chainId" => Verdict::Result(json!("0x1")),
        "eth_sendRawTransaction" => Verdict::Error(-32000, "invalid chain id for signer"),
        _ => Verdict::Pass,
    });
    let (chain, _, carrier) = with([honest(), honest(), stranger]).await;
    assert_eq!(faults(&carrier), [None, None, Some(Fault::Outvoted("eth_chainId"))]);
    transfer_once(&chain, &carrier).await;
}

#[tokio::test]
async fn as_many_must_agree_as_there_are_at_most() {
    let (chain, deployed) = deployed().await;
    for quorum in [0, 3] {
        let one = Endpoint::Embedded(chain.clone());
        let endpoint = Endpoint::Several { endpoints: vec![one.clone(), one], quorum };
        let journal = Journal::in_memory().unwrap();
        let error = EvmChain::connect(endpoint, deployed.domain, signer(PAYER), journal, quick())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("of 2 nodes cannot agree"), "{error}");
    }
}

/// What a node says to a transaction.
#[derive(Clone, Copy, Debug)]
enum Says {
    Taken,
    TakenLost,
    /// It hands it on, and says this.
    TakenBut(&'static str),
    /// It says that it has it, and forgets it.
    Swallowed,
    Refused(&'static str),
    Nothing,
}

fn taking(chain: &EmbeddedChain, says: Says) -> Judge {
    let chain = chain.clone();
    Box::new(move |method, params| match says {
        _ if method != "eth_sendRawTransaction" => Verdict::Pass,
        Says::Taken => Verdict::Pass,
        Says::TakenLost => Verdict::LoseAnswer,
        Says::TakenBut(words) => {
            ask(&chain, method, params.clone());
            Verdict::Error(-32000, words)
        }
        Says::Swallowed => Verdict::Result(json!(B256::ZERO)),
        Says::Refused(words) => Verdict::Error(-32000, words),
        Says::Nothing => Verdict::Silence,
    })
}

#[tokio::test]
async fn whatever_nodes_say_to_a_transaction_it_is_done_once() {
    use Says::*;
    let (low, poor) = ("nonce too low", "insufficient funds for gas * price + value");
    for says in [
        [Taken, Refused(low), Refused(low)],
        [Refused(low), Refused(low), Taken],
        [Refused(poor), Refused(poor), Taken],
        [Refused(poor), Taken, Refused(low)],
        [Refused("intrinsic gas too low"), TakenLost, Nothing],
        [TakenLost, Nothing, Nothing],
        [TakenLost, TakenLost, TakenLost],
        [Nothing, Nothing, TakenLost],
        // The others find it in a block already, and say so.
        [TakenBut(low), Taken, Taken],
        [TakenBut(low), Refused(low), Refused(low)],
        [TakenBut(poor), Refused(low), Refused(low)],
        [Swallowed, Taken, Taken],
        [Swallowed, TakenLost, Refused(low)],
    ] {
        let (chain, deployed) = deployed().await;
        let judges = says.map(|says| taking(&chain, says));
        let carrier = connect(nodes(&chain, judges), &deployed, PAYER, quick()).await;
        println!("{says:?}");
        transfer_once(&chain, &carrier).await;
    }
}

#[tokio::test]
async fn a_transaction_that_all_refuse_is_over_and_one_that_nobody_mines_is_not() {
    let (chain, deployed) = deployed().await;
    let poor = "insufficient funds for gas * price + value";
    let judges = [(); 3].map(|()| taking(&chain, Says::Refused(poor)));
    let carrier = connect(nodes(&chain, judges), &deployed, PAYER, quick()).await;
    let error = carrier.transfer(TO, 1_000).await.unwrap_err();
    assert!(matches!(error, ChainError::InsufficientFunds { .. }), "{error:?}");
    assert_eq!(carrier.follower.journal.unfinished().unwrap(), 0);

    // One says that it is in a block, succeeded or not: nothing is done, and nothing given up.
    for status in ["0x0", "0x1"] {
        let mut liar = taking(&chain, Says::Swallowed);
        let liar = Box::new(move |method: &str, params: &Value| match method {
            "eth_getTransactionReceipt" => Verdict::Result(json!({
                "blockNumber": "0x1", "status": status, "gasUsed": "0x5208",
                "effectiveGasPrice": "0x1"
            })),
            "eth_getTransactionCount" => Verdict::Result(json!("0xffff")),
            _ => liar(method, params),
        });
        let swallowing = || taking(&chain, Says::Swallowed);
        let endpoint = nodes(&chain, [liar as Judge, swallowing(), swallowing()]);
        let policy = Policy { patience: Duration::from_millis(300), ..quick() };
        let carrier = connect(endpoint, &deployed, PAYER, policy).await;
        let error = carrier.transfer(TO, 1_000).await.unwrap_err();
        assert!(error.to_string().contains("stays in the journal"), "{error}");
        assert_eq!(carrier.follower.journal.unfinished().unwrap(), 1);
        assert_eq!(balance(&chain, TO), 0);
    }
}

#[tokio::test]
async fn receipts_that_one_lies_about_change_nothing() {
    let lies = [
        Value::Null,
        json!({ "blockNumber": "0x1", "status": "0x0", "gasUsed": "0x1" }),
        json!({ "blockNumber": "0xffffff", "status": "0x1", "gasUsed": "0x5208" }),
        json!("what?"),
    ];
    for lie in lies {
        let liar = Box::new(move |method: &str, _: &Value| match method {
            "eth_getTransactionReceipt" => Verdict::Result(lie.clone()),
            _ => Verdict::Pass,
        });
        let (chain, _, carrier) = with([liar as Judge, honest(), honest()]).await;
        transfer_once(&chain, &carrier).await;
    }
}

#[tokio::test]
async fn a_nonce_that_one_alone_calls_used_is_not_given_up() {
    // Nobody mines it for a while; one says that its nonce is long gone.
    let (chain, deployed) = deployed().await;
    let (holding, sent) =
        (Arc::new(AtomicBool::new(true)), Arc::new(std::sync::Mutex::new(vec![])));
    let holder = || {
        let sent = sent.clone();
        switched(&holding, move |method, params| match method {
            "eth_sendRawTransaction" => {
                sent.lock().unwrap().push(params[0].clone());
                Verdict::Result(json!(B256::ZERO))
            }
            _ => Verdict::Pass,
        })
    };
    let (mut liar, looks) = (holder(), Arc::new(AtomicU64::new(0)));
    let looked = looks.clone();
    let liar = Box::new(move |method: &str, params: &Value| match method {
        "eth_getTransactionCount" => {
            looked.fetch_add(u64::from(params[1] != "latest"), Ordering::SeqCst);
            Verdict::Result(json!("0xffff"))
        }
        _ => liar(method, params),
    });
    let endpoint = nodes(&chain, [liar as Judge, holder(), holder()]);
    let carrier = connect(endpoint, &deployed, PAYER, quick()).await;
    let release = async {
        // Longer than a nonce must be seen taken to be given up.
        for _ in 0..10_000 {
            if looks.load(Ordering::SeqCst) > 20 && !sent.lock().unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        holding.store(false, Ordering::SeqCst);
    };
    tokio::join!(transfer_once(&chain, &carrier), release);
    let mut sent = sent.lock().unwrap().clone();
    sent.dedup();
    assert_eq!(sent.len(), 1, "one and the same all the time");
}

#[tokio::test]
async fn a_nonce_that_another_program_took_is_signed_anew_with_several_too() {
    let (chain, deployed) = deployed().await;
    let carrier =
        connect(nodes(&chain, [honest(), honest(), honest()]), &deployed, PAYER, quick()).await;
    let other = connect_directly(&chain, &carrier).await;
    for round in 0..5 {
        let (first, second) =
            tokio::join!(carrier.transfer(TO, 1 + round), other.transfer(TO, 100 + round));
        first.unwrap();
        second.unwrap();
    }
    assert_eq!(balance(&chain, TO), (1..=5).sum::<u128>() + (100..=104).sum::<u128>());
}

#[tokio::test]
async fn channels_live_and_end_though_one_of_three_lies_about_everything() {
    // First, in the middle, last: who is asked first differs.
    for at in 0..3 {
        let chain = embedded();
        let mut told = 0u32;
        let liar = Box::new(move |method: &str, _: &Value| {
            told += 1;
            match method {
                "eth_chainId" if told.is_multiple_of(2) => Verdict::Result(json!("0x1")),
                "eth_call" | "eth_getCode" => Verdict::Result(json!(B256::with_last_byte(1))),
                "eth_getBlockByNumber" => Verdict::Result(json!({
                    "number": if told.is_multiple_of(3) { "0xffffff" } else { "0x0" },
                    "timestamp": "0xffffffffff", "baseFeePerGas": "0xffffffffffff"
                })),
                "eth_getBalance" if told.is_multiple_of(2) => Verdict::Result(json!("0x0")),
                "eth_getTransactionCount" => {
                    Verdict::Result(json!(if told.is_multiple_of(2) { "0x0" } else { "0xffff" }))
                }
                "eth_getTransactionReceipt" if told.is_multiple_of(2) => {
                    Verdict::Result(Value::Null)
                }
                "eth_getTransactionReceipt" => Verdict::Result(json!({
                    "blockNumber": "0x1", "status": "0x0", "gasUsed": "0x1"
                })),
                "eth_estimateGas" => Verdict::Error(3, "execution reverted"),
                "eth_maxPriorityFeePerGas" => Verdict::Result(json!("0xffffffffffff")),
                "eth_sendRawTransaction" => match told % 4 {
                    0 => Verdict::Error(-32000, "nonce too low"),
                    1 => Verdict::Error(-32000, "insufficient funds"),
                    2 => Verdict::LoseAnswer,
                    _ => Verdict::Result(json!(B256::ZERO)),
                },
                _ => Verdict::Error(-32005, "too many requests"),
            }
        });
        let mut judges = vec![honest(), honest()];
        judges.insert(at, liar);
        let endpoint = nodes(&chain, judges);
        life_of_channels(chain, endpoint).await;
    }
}

#[tokio::test]
async fn a_node_that_stops_telling_its_final_block_is_not_believed_less_or_more() {
    let tell = Arc::new(AtomicU64::new(0));
    let told = tell.clone();
    let judge = move |method: &str, params: &Value| match told.load(Ordering::SeqCst) {
        _ if method != "eth_getBlockByNumber" || params[0] != "finalized" => Verdict::Pass,
        // It has none yet; it has one; its answer is missing; it knows no such tag any more.
        0 | 2 => Verdict::Result(Value::Null),
        3 => Verdict::Error(-32602, "invalid block tag"),
        _ => Verdict::Pass,
    };
    let policy = Policy { finality: Finality::Finalized { else_blocks: 2 }, ..quick() };
    let (chain, _, carrier) = misbehaving(policy, Journal::in_memory().unwrap(), judge).await;
    for _ in 0..5 {
        chain.mine().unwrap();
    }
    let newest = chain.block_number();
    assert_eq!(carrier.head().await.unwrap().final_number, newest - 2);
    tell.store(1, Ordering::SeqCst);
    assert_eq!(carrier.head().await.unwrap().final_number, newest, "it has the tag now");
    for gap in [2, 3] {
        tell.store(gap, Ordering::SeqCst);
        let error = carrier.head().await.unwrap_err();
        let told = ChainError::Nonsense {
            endpoint: "the misbehaving node".to_owned(),
            reason: "it told no final block".to_owned(),
        };
        assert_eq!(error, told);
    }
    tell.store(1, Ordering::SeqCst);
    assert_eq!(carrier.head().await.unwrap().final_number, newest);
}

#[tokio::test]
async fn what_a_node_says_is_pending_is_never_asked() {
    let judge = |_: &str, params: &Value| {
        assert!(!params.to_string().contains("pending"), "{params}");
        Verdict::Pass
    };
    let (chain, _, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    transfer_once(&chain, &carrier).await;
}
