//! What an intent would cost, told before anything is signed.

use serde_json::Value;

use super::*;

const ORACLE: &str = "0x420000000000000000000000000000000000000f";

/// A rollup of the OP stack, which takes `fee` for each transaction's data.
fn rollup(fee: U256) -> impl FnMut(&str, &Value) -> Verdict + Send + 'static {
    move |method, params| match method {
        "eth_getCode" if params[0] == ORACLE => Verdict::Result(json!("0x60")),
        "eth_call" if params[0]["to"] == ORACLE => {
            Verdict::Result(json!(Bytes::from(fee.to_be_bytes::<32>())))
        }
        _ => Verdict::Pass,
    }
}

/// Asks, performs, and compares; then nothing is left.
async fn as_quoted(chain: &EvmChain, intent: Intent, transactions: usize) {
    let quote = chain.quote(&intent).await.unwrap();
    assert_eq!(quote.transactions, transactions, "{intent:?}");
    assert_eq!(chain.quote(&intent).await.unwrap(), quote, "asking changes nothing");
    assert!(chain.follower.journal.open_intents().unwrap().is_empty());
    let outcome = chain.perform(&intent).await.unwrap();
    assert_eq!(outcome.transactions.len(), transactions);
    let used = outcome.gas_used();
    assert!(used <= quote.gas, "{used} used, {} quoted for {intent:?}", quote.gas);
    assert!(quote.gas <= used * 8 / 5, "{used} used, {} quoted for {intent:?}", quote.gas);
    let fee: u128 = outcome.transactions.iter().map(|it| it.fee_wei).sum();
    assert!(fee <= quote.fee_wei && quote.fee_wei <= quote.fee_wei_max, "{fee} {quote:?}");
    assert!(quote.fee_wei < fee * 2, "{fee} {quote:?}");
    assert_eq!(quote.data_fee_wei, 0, "this is no rollup");
}

#[tokio::test]
async fn what_is_quoted_is_what_it_costs() {
    let chain = embedded();
    let endpoint = Endpoint::Embedded(chain);
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let (token, domain) = (deployed.token, deployed.domain);
    let payer = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
    let payee = connect(endpoint, &deployed, PAYEE, quick()).await;
    payer.mint(token, payer.wallet(), amount(10_000)).await.unwrap();

    as_quoted(&payer, Intent::Deposit { token, amount: amount(5_000) }, 2).await;
    let configs = (0..101).map(|salt| config(token, salt)).collect::<Vec<_>>();
    let channels: Vec<_> = configs.iter().map(|config| (*config, amount(40))).collect();
    as_quoted(&payer, Intent::Open { channels: channels.clone() }, 2).await;
    let claims: Vec<_> = configs.iter().map(|config| claim(*config, &domain, 30)).collect();
    as_quoted(&payee, Intent::Claim { claims: claims.clone() }, 1).await;

    // What is done costs nothing more, and what would be refused is refused now.
    for (chain, done) in [(&payer, Intent::Open { channels }), (&payee, Intent::Claim { claims })] {
        assert_eq!(chain.quote(&done).await.unwrap(), Quote::default());
    }
    let refused = payer.quote(&Intent::FinishClose { config: configs[0] }).await.unwrap_err();
    assert!(matches!(refused, ChainError::Reverted { what: "finish_close", .. }), "{refused:?}");
    let poor = payer.quote(&Intent::Deposit { token, amount: amount(9_999) }).await.unwrap_err();
    assert!(matches!(poor, ChainError::InsufficientFunds { of: "tokens", .. }), "{poor:?}");
}

#[tokio::test]
async fn a_quote_for_what_is_half_done_is_for_the_rest() {
    let dead = Arc::new(AtomicBool::new(false));
    let (switch, mut sends) = (dead.clone(), 0);
    let judge = move |method: &str, _: &Value| {
        sends += u32::from(method == "eth_sendRawTransaction");
        // Dies between approval and deposit: the first transaction minted.
        match switch.load(Ordering::SeqCst) && sends > 2 {
            true => Verdict::Silence,
            false => Verdict::Pass,
        }
    };
    let (_, deployed, carrier) = misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    let token = deployed.token;
    carrier.mint(token, carrier.wallet(), amount(70)).await.unwrap();
    let deposit = Intent::Deposit { token, amount: amount(50) };
    assert_eq!(carrier.quote(&deposit).await.unwrap().transactions, 2);
    dead.store(true, Ordering::SeqCst);
    carrier.perform(&deposit).await.unwrap_err();
    dead.store(false, Ordering::SeqCst);
    let rest = carrier.quote(&deposit).await.unwrap();
    assert_eq!(rest.transactions, 1);
    assert!((50_000..120_000).contains(&rest.gas), "{rest:?}");
    assert_eq!(carrier.perform(&deposit).await.unwrap().transactions.len(), 2);
}

#[tokio::test]
async fn what_a_rollup_takes_for_data_is_quoted_and_must_be_there() {
    const FEE: u128 = 7_000_000_000_000;
    let balance = Arc::new(std::sync::Mutex::new(None::<u128>));
    let (told, mut rollup) = (balance.clone(), rollup(U256::from(FEE)));
    let judge = move |method: &str, params: &Value| match *told.lock().unwrap() {
        Some(wei) if method == "eth_getBalance" => Verdict::Result(json!(U256::from(wei))),
        _ => rollup(method, params),
    };
    let (chain, deployed, carrier) =
        misbehaving(quick(), Journal::in_memory().unwrap(), judge).await;
    let truth = connect(Endpoint::Embedded(chain), &deployed, PAYER, quick()).await;
    let sweep = Intent::Deposit { token: deployed.token, amount: amount(50) };
    truth.mint(deployed.token, truth.wallet(), amount(50)).await.unwrap();
    let (quote, plain) = (carrier.quote(&sweep).await.unwrap(), truth.quote(&sweep).await.unwrap());
    assert_eq!((quote.transactions, quote.data_fee_wei), (2, 2 * FEE));
    assert_eq!((quote.gas, quote.fee_wei), (plain.gas, plain.fee_wei + 2 * FEE));
    assert_eq!(quote.fee_wei_max, plain.fee_wei_max + 4 * FEE);

    // 21,000 gas and a quarter at 2 gwei, a wei that is sent, and data at twice its price.
    let needed = 26_250 * 2_000_000_000 + 1 + 2 * FEE;
    *balance.lock().unwrap() = Some(needed - 1);
    let error = carrier.transfer(Address::repeat_byte(5), 1).await.unwrap_err();
    let ChainError::InsufficientFunds { available, needed: told, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((available, told), (needed - 1, needed));
    *balance.lock().unwrap() = Some(needed);
    carrier.transfer(Address::repeat_byte(5), 1).await.unwrap();
}

#[tokio::test]
async fn a_price_of_data_beyond_reason_is_not_believed_and_nothing_is_signed() {
    let beyond = [U256::MAX, U256::from(10).pow(U256::from(18))];
    for fee in beyond {
        let (chain, _, carrier) =
            misbehaving(quick(), Journal::in_memory().unwrap(), rollup(fee)).await;
        let error = carrier.transfer(Address::repeat_byte(5), 1).await.unwrap_err();
        let ChainError::Nonsense { reason, .. } = &error else { panic!("{error:?}") };
        assert!(reason.contains("bytes of data is more than fee_max_gwei"), "{reason}");
        assert_eq!(carrier.follower.journal.unfinished().unwrap(), 0);
        assert_eq!(balance(&chain, Address::repeat_byte(5)), 0);
    }
}
