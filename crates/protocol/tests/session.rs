//! Sessions between the real machines: random worlds first, then one story per promise.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // PROPTEST_CASES comes from outside

#[allow(dead_code)] // each test binary uses its own part of the world
mod world;

use std::cell::RefCell;

use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestRunner},
};
use sparewire_core::{ByteCount, Price};
use sparewire_protocol::{CreditRule, Event, Record};
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
        6 => (1u8..3).prop_map(Operation::Settle),
        12 => (0u16..3_000, 0u16..3_000).prop_map(|(up, down)| Operation::Flow(up, down)),
        3 => (1u16..12_000).prop_map(Operation::Tick),
        2 => Just(Operation::Break),
        8 => Just(Operation::Connect),
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

#[derive(Default)]
struct Tally {
    payments: u64,
    receipts: u64,
    resumed: u64,
    crashes: u64,
    exhausted: u64,
    closed: u64,
    refused: u64,
    most_exposed: u64,
    most_lost: u64,
}

impl Tally {
    fn add(&mut self, world: &World, closed: bool) {
        self.payments += world
            .payee_disk
            .iter()
            .filter(|record| matches!(record, Record::Payment { .. }))
            .count() as u64;
        self.receipts += world.ledger.receipts.len() as u64;
        self.resumed += world.ledger.resumed;
        self.crashes += world.ledger.payee_crashes + world.ledger.payer_crashes;
        self.exhausted +=
            u64::from(world.events.iter().any(|(_, event)| *event == Event::Exhausted));
        self.closed += u64::from(closed);
        self.refused += u64::from(!closed);
        self.most_exposed = self.most_exposed.max(world.ledger.worst_exposure);
        self.most_lost = self.most_lost.max(world.ledger.worst_loss);
    }
}

#[test]
fn no_history_breaks_an_invariant_and_every_history_heals() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_024);
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 4_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/session.regressions",
        ))),
        source_file: Some(file!()),
        ..ProptestConfig::default()
    };
    let tally = RefCell::new(Tally::default());
    let histories = (
        price(),
        credit(),
        prop_oneof![1u128..5_000, 1u128..500_000],
        prop::option::weighted(0.05, 0usize..60),
        prop::collection::vec(operation(), 1..120),
    );
    let result =
        TestRunner::new(config).run(&histories, |(price, credit, reserved, leaves, operations)| {
            let mut world = World::new(price, credit, reserved);
            world.run(&[Operation::Connect, Operation::Settle(2)]);
            for (index, operation) in operations.iter().enumerate() {
                if leaves == Some(index) {
                    world.apply(&Operation::PayerLeavesOnChain);
                }
                world.apply(operation);
            }
            let closed = world.heal_and_close().is_some();
            tally.borrow_mut().add(&world, closed);
            Ok(())
        });
    if let Err(error) = result {
        panic!("{error}");
    }
    let tally = tally.into_inner();
    println!(
        "{cases} histories: {} payments, {} receipts, {} resumed, {} crashes, {} exhausted, \
         {} closed, {} refused for good; at most {} % of the credit and {} % of the loss bound",
        tally.payments,
        tally.receipts,
        tally.resumed,
        tally.crashes,
        tally.exhausted,
        tally.closed,
        tally.refused,
        tally.most_exposed,
        tally.most_lost
    );
    // An invariant that nothing could have broken says nothing: the histories must be eventful.
    let cases = u64::from(cases);
    if cases >= 256 {
        assert!(tally.payments > cases * 3 && tally.receipts > cases / 2);
        assert!(tally.resumed > cases && tally.crashes > cases / 4);
        assert!(tally.exhausted > cases / 20 && tally.closed > cases / 2 && tally.refused > 0);
        assert!(tally.most_exposed == 100 && tally.most_lost > 50);
    }
}
