//! What becomes of the money: settlement, budgets and top-ups, with a chain that has faults.
#![allow(missing_docs, clippy::unwrap_used)]

mod market;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use market::{Keys, Market, amount, domain, exit_policy, provider_config, until};
use sparewire_core::{ByteCount, ChannelId, SessionId, Signer, Verified};
use sparewire_node::{exit::Exit, session::SessionError, store::Store};
use sparewire_protocol::{
    ChannelConfig, ChannelStatus, Payment, Reading, Record, Role, Voucher, settlement::ChainError,
};

/// The provider remembers a promise of `units` over the channel.
fn promise(market: &Market, keys: &Keys, config: &ChannelConfig, units: u128) -> ChannelId {
    let channel = config.id(&domain());
    let voucher = Voucher { channel, amount: amount(units) };
    let voucher = *Verified::sign(voucher, &domain(), &*keys.authorizer).unwrap().signed();
    let reading = Reading { up: ByteCount::ZERO, down: ByteCount::new(units as u64) };
    let payment = Payment { session: SessionId([7; 32].into()), reading, voucher };
    let disk = &market.seller.disk;
    disk.keep_channel(Role::Payee, &domain(), config).unwrap();
    disk.record(&[Record::Payment { channel, payment }]).unwrap();
    channel
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_cannot_be_asked_about_keeps_no_other_from_being_claimed() {
    let market = Market::new().await;
    let keys = Keys::random();
    let channels: Vec<_> = (0..40)
        .map(|salt| {
            let config = keys.channel_to(&market.seller.keys, salt);
            market.chain.open(&config, 1_000);
            promise(&market, &keys, &config, 100 + u128::from(salt))
        })
        .collect();
    let seat = &market.seller.seat;
    seat.muddled.lock().unwrap().insert(channels[3]);
    *seat.slow.lock().unwrap() = Duration::from_millis(50);
    let failed = market.seller.provider.settle().await.unwrap_err();
    let told = failed.to_string();
    assert!(matches!(failed.error, SessionError::Chain(ChainError::Nonsense { .. })), "{told}");
    assert!(told.contains("muddled"), "{told}");
    assert_eq!(failed.outcome.transactions.len(), 1, "what was done is told");
    for (salt, channel) in channels.iter().enumerate() {
        let expected = if salt == 3 { 0 } else { 100 + salt as u128 };
        assert_eq!(market.chain.facts(*channel).claimed, amount(expected));
    }
    assert_eq!(seat.asking_peak.load(SeqCst), 16, "many are asked about at once, not all");

    seat.muddled.lock().unwrap().clear();
    assert_eq!(market.seller.provider.settle().await.unwrap().transactions.len(), 1);
    assert_eq!(market.chain.facts(channels[3]).claimed, amount(103));

    // A node that answers nothing is not asked about every channel there is.
    seat.asked.lock().unwrap().clear();
    seat.unreachable.store(true, SeqCst);
    let failed = market.seller.provider.settle().await.unwrap_err();
    assert!(matches!(failed.error, SessionError::Chain(ChainError::Unreachable { .. })));
    assert!(failed.outcome.transactions.is_empty());
    assert!(seat.asked.lock().unwrap().len() < 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_who_leaves_is_noticed_and_settled_channels_are_not_asked_about_again() {
    let mut config = provider_config();
    config.closes_every = Duration::from_millis(50);
    let market = Market::with(config, Exit::new(exit_policy())).await;
    let keys = Keys::random();
    let config = |salt| keys.channel_to(&market.seller.keys, salt);
    for salt in 1..=3 {
        market.chain.open(&config(salt), 1_000);
    }
    let [claimed, closed, open] = [1, 2, 3].map(|salt| promise(&market, &keys, &config(salt), 100));
    market.chain.set_claimed(claimed, amount(100));
    market.chain.set_status(closed, ChannelStatus::Closed);
    let asked = |id| market.seller.seat.asked.lock().unwrap().get(&id).copied().unwrap_or(0);
    until("the open one is asked about again and again", || asked(open) >= 5).await;
    assert_eq!((asked(claimed), asked(closed)), (1, 1));
    assert_eq!(market.chain.performed(market.seller.keys.wallet.address()), []);

    // A higher promise is worth asking about; a payer who leaves is claimed from at once, also
    // while another channel cannot be asked about.
    market.seller.seat.muddled.lock().unwrap().insert(open);
    promise(&market, &keys, &config(1), 200);
    market.chain.set_status(claimed, ChannelStatus::Closing { finish_at_secs: u64::MAX });
    until("it is claimed", || market.chain.facts(claimed).claimed == amount(200)).await;
    let before = asked(claimed);
    let others = asked(open);
    until("the other goes on being asked about", || asked(open) >= others + 3).await;
    assert!(asked(claimed) <= before + 1, "settled again");
    assert_eq!(asked(closed), 1);
}
