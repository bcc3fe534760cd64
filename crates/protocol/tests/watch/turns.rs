//! Turn-taking: towers with clocks of their own, some of them dead, answers that come late, in
//! another order or not at all. At most one pays for a transaction in vain, and who lives is in
//! time.

use proptest::prelude::*;
use sparewire_protocol::{
    ChannelStatus, Entrust,
    watch::{Charge, Tower, WatchFacts, WatchOutput},
};

use super::cast::*;

/// The grain of this world, in seconds.
const STEP: u64 = 4;
/// When the payer starts to leave.
const START: u64 = 2_000;
/// Our clock's error is at most this, in seconds either way.
const SKEW: i64 = 600;

/// What befalls one tower.
#[derive(Clone, Debug)]
struct Fate {
    lives: bool,
    /// Its clock's error in seconds.
    skew: i64,
    /// Seconds that its node is behind.
    lag: u64,
    /// How long answers take, in steps, and which of 16 do not come: played over and over.
    answers: Vec<(u64, bool)>,
    /// Every so many seconds it is killed and starts again.
    restart_every: u64,
    /// Seconds until its transaction is in a block.
    inclusion: u64,
}

fn fate() -> impl Strategy<Value = Fate> {
    let answers = proptest::collection::vec((0u64..5, proptest::bool::weighted(0.1)), 1..16);
    (any::<bool>(), -SKEW..=SKEW, 0u64..24, answers, 300u64..50_000, 1u64..40).prop_map(
        |(lives, skew, lag, answers, restart_every, inclusion)| Fate {
            lives,
            skew,
            lag,
            answers,
            restart_every,
            inclusion,
        },
    )
}

struct Player {
    fate: Fate,
    number: u8,
    charge: Charge,
    tower: Tower,
    looks: usize,
    /// Answers under way: when they arrive and what they say.
    letters: Vec<(u64, Option<WatchFacts>)>,
    /// When its transaction is in a block: the carrier's journal outlives the process.
    sent: Option<u64>,
}

/// What happened: seconds after the close was started at which claims landed.
struct Told {
    landed: Vec<u64>,
}

/// Plays until the close can be finished. Without `blocks` the chain makes one only for a
/// transaction, so that its time stands still.
fn play(fates: &[Fate], delay: u64, finality: u64, blocks: bool) -> Told {
    let turns = fates.len() as u8;
    let channel = config(1, delay as u32);
    let mut players: Vec<Player> = fates
        .iter()
        .zip(0u8..)
        .filter(|(fate, _)| fate.lives)
        .map(|(fate, number)| {
            let entrust = Entrust { turn: number, turns, ..entrust(channel, 70, 10) };
            let charge = Charge { client: client(), entrust, since: at(0) };
            let tower = tower(number, policy(), vec![charge], clock(fate, 0));
            let (fate, letters) = (fate.clone(), Vec::new());
            Player { fate, number, charge, tower, looks: 0, letters, sent: None }
        })
        .collect();
    let mut landed: Vec<u64> = Vec::new();
    let end = START + delay;
    let mut now = 0;
    while now < end {
        now += STEP;
        for player in &mut players {
            let clock = clock(&player.fate, now);
            let id = player.charge.entrust.channel();
            if now / player.fate.restart_every != (now - STEP) / player.fate.restart_every {
                player.tower = tower(player.number, policy(), vec![player.charge], clock);
                player.letters.clear();
            }
            if player.sent.is_some_and(|at| at <= now && !landed.contains(&at)) {
                landed.push(player.sent.unwrap());
            }
            // Its perform returns when that is final.
            if player.sent.is_some_and(|at| at + finality <= now) {
                player.tower.handle_settled(id, true, clock);
            }
            let (due, later) = player.letters.drain(..).partition(|(at, _)| *at <= now);
            player.letters = later;
            let due: Vec<(u64, Option<WatchFacts>)> = due;
            // The later letter first.
            for (_, facts) in due.into_iter().rev() {
                match facts {
                    Some(facts) => player.tower.handle_facts(id, facts, clock),
                    None => player.tower.handle_silence(id, clock),
                }
            }
            player.tower.handle_timeout(clock);
            while let Some(output) = player.tower.poll_output() {
                match output {
                    WatchOutput::Look(_) => {
                        let answers = &player.fate.answers;
                        let (steps, lost) = answers[player.looks % answers.len()];
                        // Not every answer is lost, or nothing can be asked of it.
                        let lost = lost && answers.iter().any(|(_, lost)| !lost);
                        player.looks += 1;
                        let head = now.saturating_sub(player.fate.lag);
                        let facts = (!lost).then(|| view(head, finality, delay, blocks, &landed));
                        player.letters.push((now + steps * STEP, facts));
                    }
                    WatchOutput::Settle { .. } if player.sent.is_none() => {
                        player.sent = Some(now + player.fate.inclusion);
                    }
                    _ => {}
                }
            }
        }
    }
    landed.sort_unstable();
    Told { landed }
}

fn clock(fate: &Fate, now: u64) -> sparewire_core::Timestamp {
    at((10 * DAY_SECS).saturating_add_signed(fate.skew) + now)
}

/// What a node says whose newest block is of `head`.
fn view(head: u64, finality: u64, delay: u64, blocks: bool, landed: &[u64]) -> WatchFacts {
    let head = match blocks {
        true => head / 12 * 12,
        // The newest block is the newest transaction's.
        false => landed.iter().copied().chain([0, START]).filter(|at| *at <= head).max().unwrap(),
    };
    // Where blocks come only with transactions, they are final at once.
    let last = if blocks { head.saturating_sub(finality) } else { head };
    let claimed = if landed.iter().any(|at| *at <= last) { 70 } else { 0 };
    let finish_at_secs = EPOCH_SECS + 10 * DAY_SECS + START + delay;
    let status = match START <= last {
        true => ChannelStatus::Closing { finish_at_secs },
        false => ChannelStatus::Open,
    };
    facts(claimed, status, 10 * DAY_SECS + head)
}

fn slot(delay: u64, turns: usize) -> u64 {
    let turns = turns as u8;
    Entrust { turn: 0, turns, ..entrust(config(1, delay as u32), 70, 10) }.wait_secs()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_transaction_is_in_vain_and_who_lives_is_in_time(
        fates in proptest::collection::vec(fate(), 1..6),
        delay in prop_oneof![Just(3_600u64), 3_600u64..20_000, Just(86_400)],
        finality_of_slot in 0u64..1_000,
    ) {
        let slot = slot(delay, fates.len());
        // Any finality below the slot; the close too must be final before it is seen.
        let finality = (slot - 1) * finality_of_slot / 1_000;
        let told = play(&fates, delay, finality, true);
        let alive = fates.iter().filter(|fate| fate.lives).count();
        prop_assert_eq!(told.landed.is_empty(), alive == 0, "claimed if anybody lives");
        prop_assert!(told.landed.len() <= 2, "one in vain at most: {:?}", told.landed);
        if let Some(first) = told.landed.first() {
            prop_assert!(*first < START + delay, "in time");
        }
        // With room for what comes between the turn and finality, none is in vain.
        if finality + 200 < slot {
            prop_assert!(told.landed.len() <= 1, "{:?}", told.landed);
        }
    }

    #[test]
    fn on_a_chain_whose_time_stands_still_who_lives_is_in_time_by_its_own_clock(
        fates in proptest::collection::vec(fate(), 1..6),
        delay in 3_600u64..20_000,
    ) {
        let told = play(&fates, delay, 0, false);
        let alive = fates.iter().any(|fate| fate.lives);
        prop_assert_eq!(told.landed.first().is_some_and(|at| *at < START + delay), alive);
    }
}
