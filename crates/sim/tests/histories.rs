//! Histories that once broke something, histories that are the same everywhere, and enough of them
//! to show that things happen.
#![allow(missing_docs, clippy::unwrap_used)]

use sparewire_core::{B256, keccak256};
use sparewire_sim::{
    chain::{TROUBLES, Trouble},
    drill,
    plan::{FAULTS, Plan},
    relay::{RELAY_VICES, RelayVice},
    run,
    vice::{CONSUMER_VICES, ConsumerVice, PROVIDER_VICES, ProviderVice},
    watcher::{WATCHER_VICES, WatcherVice},
};

/// Seeds whose histories broke an invariant once, in the code or in the simulator itself;
/// `docs/simulation.md` says what each found.
const ONCE_BROKEN: [u64; 27] = [
    124, 285, 323, 378, 516, 527, 623, 741, 813, 1015, 1706, 1826, 2_006_782, 2_009_129, 3_000_803,
    3_001_689, 185, 2_474, 3_819, 5_001_129, 43_545, 54_660, 926, 128_577, 473_496, 10_001_725,
    629_513,
];

/// A short one; `scripts/drill cheat` plays more of it, and prints it.
#[test]
fn no_way_to_cheat_costs_more_than_its_bound() {
    for outcome in drill::drill(10, 2) {
        assert!(outcome.holds(), "{}\n{outcome}", drill::head());
    }
}

#[test]
fn what_was_once_broken_stays_mended() {
    for seed in ONCE_BROKEN {
        if let Err(failure) = run::run(Plan::from_seed(seed)) {
            panic!("seed {seed}: {}", failure.what);
        }
    }
}

/// How many plans there are at least.
const PLANS_MIN: usize = 8;

/// The shortest plans that broke an invariant with a bug that was once there, or that
/// `scripts/mutants` plants; unlike seeds they go on meaning the same. Their first lines say which.
#[test]
fn what_a_kept_plan_once_broke_stays_mended() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/plans");
    let mut lived = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let plan = Plan::from_text(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        if let Err(failure) = run::run(plan) {
            panic!("{path:?}: {}", failure.what);
        }
        lived += 1;
    }
    assert!(lived >= PLANS_MIN, "{lived} plans in {folder}");
}

fn digest(seeds: std::ops::Range<u64>) -> B256 {
    let mut words = Vec::new();
    for seed in seeds {
        let (lines, failure) = run::trace(Plan::from_seed(seed));
        assert!(failure.is_none(), "seed {seed}: {failure:?}");
        words.extend_from_slice(keccak256(lines.join("\n")).as_slice());
    }
    keccak256(words)
}

#[test]
fn the_same_seed_is_the_same_history_on_every_thread_and_in_every_build() {
    let here = digest(0..12);
    let there = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| digest(0..12))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(there, [here; 2]);
    // The same in debug and release. Whoever changes what happens in a history writes it anew.
    assert_eq!(here.to_string(), include_str!("histories.digest").trim());
}

#[test]
fn histories_are_eventful_and_break_nothing() {
    let report = run::run_many(1_000_000, 1_500, 2, None);
    for failure in &report.failures {
        println!("FAILED seed {}: {}", failure.seed, failure.what);
    }
    assert!(report.failures.is_empty(), "just sim-replay with SEED set to one of these");
    let coverage = &report.coverage;
    let mut expected: Vec<&str> = FAULTS.to_vec();
    expected.extend(CONSUMER_VICES.map(ConsumerVice::name));
    expected.extend(PROVIDER_VICES.map(ProviderVice::name));
    expected.extend(WATCHER_VICES.map(WatcherVice::name));
    expected.extend(RELAY_VICES.map(RelayVice::name));
    expected.extend(TROUBLES.map(Trouble::name));
    expected.extend([
        "resumes",
        "takeover",
        "conviction",
        "connection lost",
        "store error",
        "kill",
        "power cut",
        "payer exhausted",
        "payee exhausted",
        "top-up",
        "provider asks to close",
        "a payer leaves",
        "claim",
        "somebody was paid",
        "statements agree",
        "rubbish noticed",
        "payload on no stream of ours",
        "more than half of the loss bound used",
        "Accept with a pending receipt",
        "a watcher hears of a voucher",
        "a voucher is lost on its way to the watcher",
        "nobody hears what the watcher is sent",
        "a watcher claims",
        "a watcher claims an old voucher",
        "the watcher was killed",
        "the provider is gone for good",
        "who is gone for good is paid",
        "relayed",
        "a relayed party moved",
        "a connection outlives the relay",
        "the relay was killed",
        "a relay drops",
        "a relay repeats",
        "a relay falls silent",
        "an endpoint is outvoted",
        "Refused ChannelUnusable",
        "Refused GoingAway",
        "Refused UnknownSession",
        "Refused LossAllowanceUsed",
        "broke off on purpose",
        "over-promises as it accepts",
        "a receipt that does not fit",
        "all claimed with a partner's key",
        "a payer takes what is left",
        "misstates the base",
        "withheld a countersignature",
        "countersigned something else",
        "over-reported",
        "overstated",
        "over-served",
        "flooded",
        "fell mute",
        "dropped silently",
        "did not pay",
        "pays late",
        "pays less",
        "replayed",
        "equivocates",
        "understates",
        "garbled frame",
        "leaves on chain",
        "front-run",
        "old voucher claimed by the payer",
        "a store is set back",
    ]);
    assert_eq!(coverage.missing(&expected), [""; 0], "a quiet simulator finds nothing");
    let count = |what: &str| coverage.counts.get(what).copied().unwrap_or(0);
    assert!(count("Payment") > 5_000 && count("statements agree") > 500);
}
