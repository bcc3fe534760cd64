//! Sessions between the real machines: random worlds first, then one story per promise.
#![allow(clippy::unwrap_used)]

mod world;

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use sparewire_core::{ByteCount, Price};
use sparewire_protocol::CreditRule;
use world::{Forgery, Operation, Side, World};

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Payer), Just(Side::Payee)]
}

fn forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        Just(Forgery::WrongSigner),
        Just(Forgery::OtherChannel),
        Just(Forgery::OtherChain),
        Just(Forgery::OtherContract),
        Just(Forgery::Lower),
        Just(Forgery::OverDeposit),
        Just(Forgery::LargerReading),
        Just(Forgery::HugeReading),
        Just(Forgery::WorthLess),
        Just(Forgery::BadReceipt),
        Just(Forgery::BadCountersignature),
        Just(Forgery::AcceptedAgain),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (1u16..4_000).prop_map(Operation::ServeDown),
        4 => (1u16..4_000).prop_map(Operation::SendUp),
        4 => (1u16..6_000).prop_map(Operation::ArriveDown),
        3 => (1u16..6_000).prop_map(Operation::ArriveUp),
        4 => (1u8..4).prop_map(Operation::DeliverToPayee),
        4 => (1u8..4).prop_map(Operation::DeliverToPayer),
        8 => (1u8..3).prop_map(Operation::Settle),
        3 => (1u16..12_000).prop_map(Operation::Tick),
        1 => Just(Operation::Break),
        3 => Just(Operation::Connect),
        2 => (side(), 0u8..12).prop_map(|(side, after)| Operation::Crash(side, after)),
        1 => side().prop_map(Operation::DiskFull),
        1 => (1u16..20_000).prop_map(Operation::TopUp),
        1 => Just(Operation::Look),
        1 => any::<u64>().prop_map(Operation::Abort),
        1 => Just(Operation::Close),
        1 => Just(Operation::CloseByProvider),
        1 => Just(Operation::NewSession),
        1 => (side(), any::<u8>()).prop_map(|(side, i)| Operation::Duplicate(side, i)),
        1 => (side(), any::<u16>()).prop_map(|(side, i)| Operation::Replay(side, i)),
        1 => side().prop_map(Operation::Reorder),
        1 => (side(), forgery()).prop_map(|(side, f)| Operation::Forge(side, f)),
    ]
}

/// Free, less than a unit for many bytes, a unit for a byte, several units for a byte.
fn price() -> impl Strategy<Value = Price> {
    prop_oneof![
        1 => Just(0u128),
        2 => Just(1 << 18), // a unit for 4 KiB
        4 => Just(1 << 30),
        1 => 1u128..1 << 33,
    ]
    .prop_map(|price| Price::per_gib(price).unwrap())
}

fn credit() -> impl Strategy<Value = CreditRule> {
    (2u64..4_000, 1u64..5).prop_map(|(initial, times)| CreditRule {
        initial: ByteCount::new(initial),
        maximum: ByteCount::new(initial * times),
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(256),
        max_shrink_iters: 4_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/session.regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_history_breaks_an_invariant_and_every_history_heals(
        price in price(),
        credit in credit(),
        reserved in 1u128..200_000,
        leaves in prop::option::weighted(0.05, 0usize..60),
        operations in prop::collection::vec(operation(), 1..90),
    ) {
        let mut world = World::new(price, credit, reserved);
        world.run(&[Operation::Connect, Operation::Settle(2)]);
        for (index, operation) in operations.iter().enumerate() {
            if leaves == Some(index) {
                world.apply(&Operation::PayerLeavesOnChain);
            }
            world.apply(operation);
        }
        world.heal_and_close();
    }
}
