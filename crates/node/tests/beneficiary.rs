//! A provider that is paid to another wallet than the one that pays its gas.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use market::{
    Buyer, Client, Keys, Market, Seller, assert_agree, clock, consumer_config, domain, echo,
    exit_policy, provider_config, source, until, within,
};
use sparewire_core::{DeviceSigner, Domain, Signed, Signer, Timestamp, Verified};
use sparewire_node::{
    exit::Exit,
    identity::{DelegationError, Identity},
};
use sparewire_protocol::{Delegation, settlement::Intent};
use sparewire_wallet::LocalKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The word of `wallet` for a node, for an hour.
fn delegation(wallet: &LocalKey, keys: &Keys) -> Delegation {
    Delegation {
        wallet: wallet.address(),
        device: keys.device.node_id(),
        authorizer: keys.authorizer.address(),
        expiry_secs: clock()().as_secs() + 3_600,
    }
}

fn signed(delegation: Delegation, by: &LocalKey) -> Signed<Delegation> {
    *Verified::sign(delegation, &domain(), by).unwrap().signed()
}

fn identity(
    keys: &Keys,
    delegation: Signed<Delegation>,
    domain: Domain,
    now: Timestamp,
) -> Result<Identity, DelegationError> {
    let (device, authorizer) = (keys.device.clone(), keys.authorizer.clone());
    Identity::delegated(device, authorizer, delegation, &domain, now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wallet_gets_what_was_promised_to_it_where_another_one_is_paid_from_now_on() {
    let mut market = Market::new().await;
    let (buyer, directory) = market.buyer().await;
    let (payer, id) = (buyer.keys.clone(), buyer.session_id().await);
    let download = buyer.download(source().await).await;
    until("a MiB is paid", || {
        market.seller.payment(id).is_some_and(|paid| paid.voucher.body.amount.get() >= 1 << 20)
    })
    .await;
    buyer.kill().await;
    within(20, download).await.unwrap();
    until("the session is not live", || market.seller.provider.live().is_empty()).await;
    let before = market.seller.payment(id).unwrap().voucher.body.amount.get();

    let (keys, addr) = (market.seller.keys.clone(), market.seller.address().addrs[0]);
    let path = market.seller_directory.path().to_owned();
    market.seller.stop().await;
    let cold = LocalKey::random().unwrap();
    let word = signed(delegation(&cold, &keys), &cold);
    let paid_to_cold = identity(&keys, word, domain(), clock()()).unwrap();
    let (config, exit) = (provider_config(), Exit::new(exit_policy()));
    let chain = &market.chain;
    market.seller =
        Seller::start_as(chain, &keys, paid_to_cold, &path, Some(addr), config, exit).await;

    // The old session cannot go on: its terms name another payee than the one that we speak for.
    let mut client = Client::connect(&payer, &market.seller.address()).await;
    assert_eq!(client.terms(Some(id)).await.payee, cold.address());
    drop(client);
    let (address, config) = (market.seller.address(), consumer_config());
    let buyer = Buyer::start(chain, &payer, directory.path(), address, config).await;
    assert_ne!(buyer.session_id().await, id);
    let mut tcp = buyer.connect(echo().await).await.unwrap();
    tcp.write_all(b"for another").await.unwrap();
    within(10, tcp.read_exact(&mut [0; 11])).await.unwrap();
    drop(tcp);
    let statement = buyer.close().await.unwrap();
    assert_agree(&statement, &market.seller.statement(statement.session).await);

    market.seller.provider.settler().settle().await.unwrap();
    assert_eq!(chain.wallet(cold.address()), 22, "eleven bytes each way");
    assert_eq!(chain.wallet(keys.wallet.address()), before);
    let all_claims =
        |intents: &[Intent]| intents.iter().all(|it| matches!(it, Intent::Claim { .. }));
    let sent = chain.performed(keys.wallet.address());
    assert!(!sent.is_empty() && all_claims(&sent), "{sent:?}");
    assert_eq!(chain.performed(cold.address()), [], "it has nothing to do");
}

#[test]
fn a_wallets_word_counts_for_the_node_that_it_names_on_its_chain_and_until_its_end() {
    let (keys, cold, now) = (Keys::random(), LocalKey::random().unwrap(), clock()());
    let good = delegation(&cold, &keys);
    let at = |word, now| identity(&keys, word, domain(), now).map(|identity| identity.wallet());
    assert_eq!(at(signed(good, &cold), now), Ok(cold.address()));
    let last = Timestamp::from_ms(good.expiry_secs * 1_000);
    assert!(at(signed(good, &cold), last).is_ok());
    let expired = DelegationError::Expired { expired_secs: good.expiry_secs };
    assert_eq!(at(signed(good, &cold), last.plus_ms(1_000)), Err(expired));

    let other = Keys::random();
    for word in [
        Delegation { device: other.device.node_id(), ..good },
        Delegation { authorizer: other.authorizer.address(), ..good },
    ] {
        let Delegation { device, authorizer, .. } = word;
        let others = DelegationError::OtherKeys { device, authorizer };
        assert_eq!(at(signed(word, &cold), now), Err(others));
    }
    let is_forged = |made: Result<_, _>| matches!(made, Err(DelegationError::Forged(_)));
    assert!(is_forged(at(signed(good, &other.wallet), now)));
    let elsewhere = Domain { chain_id: 1, ..domain() };
    assert!(is_forged(identity(&keys, signed(good, &cold), elsewhere, now).map(|it| it.wallet())));
}
