//! How many transactions it takes to claim from many channels.

use super::*;
use crate::Genesis;

/// Claims from `count` channels on a chain with this block gas limit, through a node that `judge`
/// spoils: the transactions that it took, and the largest batch's gas for each claim.
async fn claimed(
    count: u64,
    gas_limit: u64,
    judge: impl FnMut(&str, &serde_json::Value) -> Verdict + Send + 'static,
) -> (usize, u64) {
    let genesis = Genesis { gas_limit, ..genesis(&[PAYER, PAYEE]) };
    let chain = EmbeddedChain::in_memory(genesis).unwrap();
    let endpoint = Endpoint::Embedded(chain.clone());
    let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
    let (token, domain) = (deployed.token, deployed.domain);
    let payer = connect(endpoint, &deployed, PAYER, quick()).await;
    payer.mint(token, payer.wallet(), amount(1_000_000)).await.unwrap();
    payer.perform(&Intent::Deposit { token, amount: amount(1_000_000) }).await.unwrap();
    let configs: Vec<_> = (0..count).map(|salt| config(token, salt)).collect();
    let channels = configs.iter().map(|config| (*config, amount(10))).collect();
    payer.perform(&Intent::Open { channels }).await.unwrap();
    let spoilt = Misbehaving::endpoint(&chain, judge);
    let payee = connect(spoilt, &deployed, PAYEE, quick()).await;
    let claims: Vec<_> = configs.iter().map(|config| claim(*config, &domain, 7)).collect();
    let outcome = payee.perform(&Intent::Claim { claims }).await.unwrap();
    let funds = payee.funds(payee.wallet(), token).await.unwrap();
    assert_eq!(funds.wallet, 7 * u128::from(count), "every one of them, once");
    let dearest = outcome.transactions.iter().map(|it| it.gas_used).max().unwrap();
    let transactions = outcome.transactions.len();
    (transactions, dearest / count.div_ceil(transactions as u64))
}

#[tokio::test]
async fn claims_share_as_few_transactions_as_the_chain_allows() {
    let (transactions, gas) = claimed(1_050, 60_000_000, |_, _| Verdict::Pass).await;
    // 1,039 fit into the 128 KiB that nodes pass on.
    assert_eq!(transactions, 2);
    assert!(gas < 24_000, "{gas} for each of a half full batch on average");
    // Blocks of 8 million gas, of which a fifth is kept free, take 520.
    let (transactions, gas) = claimed(1_050, 8_000_000, |_, _| Verdict::Pass).await;
    assert_eq!(transactions, 3);
    assert!(gas < 18_000, "{gas}");
}

#[tokio::test]
async fn a_chain_that_finds_a_batch_too_large_gets_smaller_ones() {
    let size = |params: &serde_json::Value| params[0]["data"].as_str().unwrap().len() / 2;
    for words in ["gas required exceeds allowance (5000000)", "transaction size exceeds limit"] {
        let judge = move |method: &str, params: &serde_json::Value| match method {
            "eth_estimateGas" if size(params) > 150 * 125 => Verdict::Error(-32000, words),
            _ => Verdict::Pass,
        };
        let (transactions, _) = claimed(400, 60_000_000, judge).await;
        assert_eq!(transactions, 4, "1,039, 519, 259, 129 at a time: {words}");
    }
}
