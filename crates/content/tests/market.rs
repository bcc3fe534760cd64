//! Whole deals, with money: several nodes, each at once downloader and seeder, with the real machines
//! (downloads, payers, payees and what they set off), real signatures, disks that are slow and a
//! chain; connections that break and processes that die at any output; and nodes that lie about
//! blocks, never pay, pay late or less, replay, sign no receipts, stop, or leave on chain. Beside it
//! a ledger that decides by itself what everybody may owe and have.
//!
//! What is not the machines' is done here as `node::content` does it, in virtual time, from a seed.
//! `MARKET_HISTORIES` says how many histories of each kind, `MARKET_SEED` the first seed;
//! `MARKET_TRACE` tells what is said.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // what is asked for comes from outside

#[path = "market/blocks.rs"]
mod blocks;
#[path = "market/buying.rs"]
mod buying;
#[path = "market/cast.rs"]
mod cast;
#[path = "market/chain.rs"]
mod chain;
/// The reference that every store must agree with.
#[allow(dead_code)]
#[path = "../../protocol/tests/world/disk.rs"]
mod disk;
#[path = "market/driving.rs"]
mod driving;
#[path = "market/end.rs"]
mod end;
#[path = "market/faults.rs"]
mod faults;
#[path = "market/ledger.rs"]
mod ledger;
#[path = "market/links.rs"]
mod links;
#[path = "support/random.rs"]
mod random;
#[path = "market/selling.rs"]
mod selling;
#[path = "market/store.rs"]
mod store;
#[path = "market/vice.rs"]
mod vice;
#[path = "market/words.rs"]
mod words;
#[path = "market/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use ledger::Reached;
use world::{Kind, World};

/// Histories of each kind: some 200 of them take a second of one core.
const HISTORIES: u64 = 600;

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, kind: Kind) -> Reached {
    let history = AssertUnwindSafe(|| World::new(seed, kind).run());
    catch_unwind(history).unwrap_or_else(|why| {
        eprintln!("found by World::new({seed}, Kind::{kind:?})");
        resume_unwind(why)
    })
}

fn run_many(kind: Kind) -> Reached {
    let histories = asked_for("MARKET_HISTORIES").unwrap_or(HISTORIES);
    let first = asked_for("MARKET_SEED").unwrap_or(0);
    let mut reached = Reached::default();
    for seed in first..first + histories {
        reached.add(&run(seed, kind));
    }
    println!("{kind:?}: {reached:?}");
    if histories >= HISTORIES {
        reached.check(kind);
    }
    reached
}

/// What was found, and mended: a session that goes on with less unpaid than a step, and a credit of
/// one block, has nothing left to ask for. Its seller was left a moment before it was paid, again and
/// again.
#[test]
fn what_is_less_than_a_step_is_paid_before_its_seller_is_left() {
    run_many(Kind::Scant);
}

#[test]
fn a_swarm_with_cheats_and_faults_settles_and_nobody_honest_loses_more_than_the_bound() {
    run_many(Kind::Any);
}

#[test]
fn an_honest_swarm_completes_and_settles_whatever_breaks() {
    run_many(Kind::Honest);
}

#[test]
fn what_two_owe_each_other_is_set_off_once_however_often_their_sessions_begin() {
    run_many(Kind::Trade);
}
