//! The watchtower's machine: what it takes, when it acts, when it is done.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod cast;
mod turns;

use std::{cell::Cell, collections::BTreeSet};

use cast::*;
use proptest::prelude::*;
use sparewire_core::{Address, DeviceSigner, Signature, Signed};
use sparewire_protocol::{
    ChannelStatus, Entrust, Kept, REWARD_MAX, TOWERS_MAX, WATCH_FRAME_LEN_MAX, WatchMessage,
    WatchRefusal, WatchRefused,
    settlement::Intent,
    turn_of,
    watch::{
        Charge, LOOKS_MAX, Stage, Tower, TowerPolicy, WatchEvent, WatchFacts, WatchOutput,
        WatchRecord,
    },
};

const DELAY: u64 = DAY_SECS;

/// Hands an appointment in, with an open channel behind it.
fn hand_in(tower: &mut Tower, entrust: Entrust, secs: u64) -> Result<Kept, WatchRefused> {
    hand_in_with(tower, entrust, open(0, secs), secs)
}

fn hand_in_with(
    tower: &mut Tower,
    entrust: Entrust,
    facts: WatchFacts,
    secs: u64,
) -> Result<Kept, WatchRefused> {
    let checked = tower.check(client(), entrust, at(secs))?;
    tower.handle_entrust(checked, facts, at(secs));
    match &outputs(tower)[..] {
        [
            WatchOutput::Persist(WatchRecord::Keep(charge)),
            WatchOutput::Transmit(WatchMessage::Kept { kept, signature }),
        ] => {
            assert_eq!(charge.entrust, entrust, "what is acknowledged is durable first");
            signature.verify(device(0).node_id(), kept).unwrap();
            Ok(*kept)
        }
        [WatchOutput::Transmit(WatchMessage::Refused(refused))] => Err(refused.clone()),
        other => panic!("{other:?}"),
    }
}

fn refused(tower: &mut Tower, entrust: Entrust) -> WatchRefusal {
    hand_in(tower, entrust, 0).unwrap_err().code
}

fn fresh() -> Tower {
    tower(0, policy(), Vec::new(), at(0))
}

/// A tower that holds a voucher over 70 with a reward of 10, and was shown the open channel.
fn keeping() -> (Tower, Entrust) {
    let mut tower = fresh();
    let entrust = entrust(config(1, DELAY as u32), 70, 10);
    hand_in(&mut tower, entrust, 0).unwrap();
    (tower, entrust)
}

#[test]
fn an_appointment_is_durable_before_its_signed_acknowledgement_leaves() {
    let (mut tower, entrust) = (fresh(), entrust(config(1, DELAY as u32), 70, 10));
    let kept = hand_in(&mut tower, entrust, 5).unwrap();
    assert_eq!((kept.channel, kept.amount, kept.reward), (entrust.channel(), units(70), units(10)));
    assert_eq!((kept.tower, kept.client), (device(0).node_id(), client()));
    // One that is handed in again is made durable again: the first time may have failed.
    assert_eq!(hand_in(&mut tower, entrust, 6).unwrap().amount, units(70));
    assert_eq!(tower.watched().count(), 1);
}

#[test]
fn the_newest_voucher_wins_and_a_lower_one_is_refused() {
    let (mut tower, _) = keeping();
    let config = config(1, DELAY as u32);
    assert_eq!(refused(&mut tower, entrust(config, 69, 400)), WatchRefusal::Older);
    let shorter = entrust_until(config, 70, 10, EPOCH_SECS + 100);
    assert_eq!(refused(&mut tower, shorter), WatchRefusal::Older);
    assert_eq!(refused(&mut tower, entrust(config, 70, 9)), WatchRefusal::Older);
    assert_eq!(hand_in(&mut tower, entrust(config, 70, 11), 1).unwrap().reward, units(11));
    assert_eq!(hand_in(&mut tower, entrust(config, 71, 5), 2).unwrap().amount, units(71));
    assert_eq!(tower.watched().count(), 1);
}

#[test]
fn an_appointment_that_does_not_fit_or_is_signed_by_another_is_refused() {
    let good = entrust(config(1, DELAY as u32), 70, 10);
    let other = entrust(config(2, DELAY as u32), 70, 10);
    let mut tower = fresh();
    let mut bad = |change: fn(&mut Entrust, &Entrust)| {
        let mut bad = good;
        change(&mut bad, &other);
        refused(&mut tower, bad)
    };
    use WatchRefusal::{Expiry, Invalid, RewardTooSmall, WrongNetwork};
    assert_eq!(bad(|bad, _| bad.domain.chain_id += 1), WrongNetwork);
    assert_eq!(bad(|bad, _| bad.domain.contract = Address::ZERO), WrongNetwork);
    assert_eq!(bad(|bad, _| bad.towers = Address::ZERO), WrongNetwork);
    assert_eq!(bad(|bad, other| bad.config = other.config), Invalid);
    assert_eq!(bad(|bad, other| bad.voucher = other.voucher), Invalid);
    assert_eq!(bad(|bad, other| bad.voucher.signature = other.voucher.signature), Invalid);
    assert_eq!(bad(|bad, other| bad.appointment = other.appointment), Invalid);
    assert_eq!(bad(|bad, other| bad.appointment.signature = other.appointment.signature), Invalid);
    assert_eq!(bad(|bad, _| bad.appointment.body.reward = units(11)), Invalid, "not as signed");
    assert_eq!(bad(|bad, _| bad.appointment.body.amount = units(71)), Invalid);
    assert_eq!(bad(|bad, _| bad.appointment.body.payee = Address::ZERO), Invalid);
    assert_eq!(bad(|bad, _| bad.appointment.body.token = Address::ZERO), RewardTooSmall);
    assert_eq!(bad(|bad, _| bad.appointment.body.reward = units(REWARD_MAX + 1)), Invalid);
    assert_eq!(bad(|bad, _| bad.turn = bad.turns), Invalid);
    assert_eq!(bad(|bad, _| bad.turns = TOWERS_MAX + 1), Invalid);
    assert_eq!(bad(|bad, _| bad.appointment.body.expiry_secs = EPOCH_SECS), Expiry);
    assert_eq!(bad(|bad, _| bad.appointment.body.expiry_secs += 30 * DAY_SECS), Expiry);
    assert_eq!(tower.watched().count(), 0);
}

#[test]
fn a_channel_that_the_chain_does_not_know_or_that_cannot_be_claimed_is_refused() {
    let good = entrust(config(1, DELAY as u32), 70, 10);
    let mut tower = fresh();
    let mut code = |facts| hand_in_with(&mut tower, good, facts, 0).unwrap_err().code;
    let mut unknown = open(0, 0);
    unknown.channel = None;
    assert_eq!(code(unknown), WatchRefusal::ChannelUnusable);
    assert_eq!(code(facts(0, ChannelStatus::Closed, 0)), WatchRefusal::ChannelUnusable);
    assert_eq!(code(open(70, 0)), WatchRefusal::ChannelUnusable, "claimed already");
    let mut uncovered = open(0, 0);
    uncovered.reward.covered = units(9);
    assert_eq!(code(uncovered), WatchRefusal::RewardUncovered);
    let above = entrust(config(1, DELAY as u32), 1_001, 10);
    assert_eq!(refused(&mut tower, above), WatchRefusal::ChannelUnusable);
    assert_eq!(
        refused(&mut tower, entrust(config(1, 3_599), 70, 10)),
        WatchRefusal::ChannelUnusable
    );
    assert!(
        hand_in_with(&mut tower, good, closing(0, 0, DELAY, 0), 0).is_ok(),
        "late, not too late"
    );
}

#[test]
fn a_tower_wants_its_reward_and_friends_need_none() {
    let free = entrust(config(1, DELAY as u32), 70, 0);
    assert_eq!(refused(&mut fresh(), free), WatchRefusal::RewardTooSmall);
    assert_eq!(
        refused(&mut fresh(), entrust(config(1, DELAY as u32), 70, 4)),
        WatchRefusal::RewardTooSmall
    );
    let friends = BTreeSet::from([client()]);
    let mut friendly = tower(0, TowerPolicy { friends, ..policy() }, vec![], at(0));
    assert!(hand_in(&mut friendly, free, 0).is_ok());
    // What it does for a friend is a plain claim.
    friendly.handle_facts(free.channel(), closing(0, 0, DELAY, DELAY / 2), at(DELAY / 2));
    let [_, WatchOutput::Settle { intent, .. }] = &outputs(&mut friendly)[..] else { panic!() };
    assert_eq!(*intent, Intent::Claim { claims: vec![free.claim()] });
}

#[test]
fn room_is_bounded_for_each_client_and_in_all_and_what_is_kept_can_be_renewed() {
    let small = TowerPolicy { appointments_max: 3, appointments_per_client_max: 2, ..policy() };
    let mut tower = tower(0, small, Vec::new(), at(0));
    let nth = |salt| entrust(config(salt, DELAY as u32), 70, 10);
    hand_in(&mut tower, nth(1), 0).unwrap();
    hand_in(&mut tower, nth(2), 0).unwrap();
    assert_eq!(refused(&mut tower, nth(3)), WatchRefusal::Full);
    assert!(hand_in(&mut tower, entrust(config(2, DELAY as u32), 71, 10), 0).is_ok());
    let others = [device(7).node_id(), device(8).node_id()];
    for (salt, expected) in [(3, true), (4, false)] {
        let taken = tower.check(others[salt as usize - 3], nth(salt), at(0)).map(|checked| {
            tower.handle_entrust(checked, open(0, 0), at(0));
            outputs(&mut tower)
        });
        assert_eq!(taken.is_ok(), expected);
    }
    // What is over makes room.
    tower.handle_facts(nth(1).channel(), open(70, 1), at(1));
    assert!(
        outputs(&mut tower).contains(&WatchOutput::Persist(WatchRecord::Forget(nth(1).channel())))
    );
    assert!(hand_in(&mut tower, nth(5), 1).is_ok());
}

#[test]
fn a_client_that_hands_in_too_many_at_once_has_to_wait() {
    let (mut tower, entrust) = keeping();
    let busy = (0..1_000).find(|_| {
        tower.check(client(), entrust, at(0)).is_err_and(|error| error.code == WatchRefusal::Busy)
    });
    assert_eq!(busy, Some(255), "one of 256 was spent before");
    assert!(tower.check(device(7).node_id(), entrust, at(0)).is_ok(), "others need not");
    let admitted = |tower: &mut Tower, secs| {
        (0..1_000).take_while(|_| tower.check(client(), entrust, at(secs)).is_ok()).count()
    };
    assert_eq!(admitted(&mut tower, 1), 4, "one for each quarter of a second");
    // Clients cost nothing to make up, so only so many are remembered, the newest: who was quiet
    // for longest starts afresh.
    let mut crowd = |others: u32, secs| {
        for number in 0..others {
            let mut id = client();
            id.0.0[..4].copy_from_slice(&number.to_le_bytes());
            assert!(tower.check(id, entrust, at(secs)).is_ok(), "others need not");
        }
        admitted(&mut tower, secs)
    };
    assert_eq!(crowd(4_000, 3), 8);
    assert_eq!(crowd(4_200, 4), 256);
}

#[test]
fn it_waits_for_its_turn_defends_and_collects_its_reward_when_the_channel_can_be_closed() {
    let (mut tower, entrust) = keeping();
    let channel = entrust.channel();
    let turn = 1_000 + entrust.wait_secs();
    tower.handle_facts(channel, closing(0, 1_000, DELAY, 1_010), at(1_010));
    let finish_at_secs = EPOCH_SECS + 1_000 + DELAY;
    let leaving = WatchOutput::Event(WatchEvent::Leaving { channel, finish_at_secs });
    assert_eq!(outputs(&mut tower), [leaving]);
    tower.handle_facts(channel, closing(0, 1_000, DELAY, turn - 1), at(turn - 1));
    assert_eq!(outputs(&mut tower), [], "a second too early");
    tower.handle_facts(channel, closing(0, 1_000, DELAY, turn), at(turn));
    let [WatchOutput::Settle { intent, .. }] = &outputs(&mut tower)[..] else { panic!() };
    let (claim, appointment) = (Box::new(entrust.claim()), entrust.appointment);
    assert_eq!(*intent, Intent::Defend { towers: TOWERS, claim, appointment });
    // Looks that were under way change nothing while it acts.
    tower.handle_facts(channel, closing(0, 1_000, DELAY, turn + 5), at(turn + 5));
    assert_eq!(outputs(&mut tower), []);

    tower.handle_settled(channel, true, at(turn + 60));
    tower.handle_timeout(at(turn + 60));
    assert_eq!(outputs(&mut tower), [WatchOutput::Look(channel)]);
    let credited = |head| defended_by(wallet(0), closing(70, 1_000, DELAY, head));
    tower.handle_facts(channel, credited(turn + 60), at(turn + 60));
    assert_eq!(outputs(&mut tower), []);
    assert_eq!(tower.watched().next().unwrap().1, Stage::Defended);
    tower.handle_facts(channel, credited(1_000 + DELAY), at(1_000 + DELAY));
    let [WatchOutput::Settle { intent, .. }] = &outputs(&mut tower)[..] else { panic!() };
    assert_eq!(*intent, Intent::CollectReward { towers: TOWERS, config: entrust.config });
    tower.handle_settled(channel, true, at(1_001 + DELAY));
    tower.handle_facts(channel, facts(70, ChannelStatus::Closed, 1_002 + DELAY), at(1_002 + DELAY));
    let done = WatchOutput::Event(WatchEvent::Done { channel, claimed: units(70) });
    assert_eq!(outputs(&mut tower), [WatchOutput::Persist(WatchRecord::Forget(channel)), done]);
    assert_eq!((tower.watched().count(), tower.poll_timeout()), (0, None));
}

#[test]
fn in_the_last_quarter_everybody_acts_even_where_the_chain_stands_still() {
    let entrust = Entrust { turn: 15, turns: 16, ..entrust(config(1, 900), 70, 10) };
    let charge = Charge { client: client(), entrust, since: at(0) };
    // It comes back when the payer has started to leave; the newest block is the one that says so.
    let acts = |secs| {
        let mut tower = tower(0, policy(), vec![charge], at(secs));
        tower.handle_facts(entrust.channel(), closing(0, 0, 900, 0), at(secs));
        outputs(&mut tower).len() == 2
    };
    assert!(!acts(300), "its turn is at 416");
    assert!(!acts(660), "and no clock that may be 10 minutes ahead says that it is");
    assert!(acts(676), "but there is no time left to be sure");
    // Where blocks come, they tell the time, and this clock is ahead.
    let mut fast = tower(0, policy(), vec![charge], at(676));
    fast.handle_facts(entrust.channel(), closing(0, 0, 900, 100), at(676));
    assert_eq!(outputs(&mut fast).len(), 1, "it only tells of the close");
}

#[test]
fn what_somebody_else_claimed_ends_it_and_a_close_that_was_missed_is_told() {
    for end in [open(70, 1), closing(71, 0, DELAY, DELAY / 2), facts(80, ChannelStatus::Closed, 1)]
    {
        let (mut tower, entrust) = keeping();
        tower.handle_facts(entrust.channel(), end, at(DELAY / 2));
        let told = outputs(&mut tower);
        assert!(matches!(told[1], WatchOutput::Event(WatchEvent::Done { .. })), "{told:?}");
    }
    let (mut tower, entrust) = keeping();
    tower.handle_facts(entrust.channel(), facts(69, ChannelStatus::Closed, 1), at(1));
    let channel = entrust.channel();
    let late = WatchEvent::TooLate { channel, claimed: units(69) };
    assert_eq!(outputs(&mut tower)[1], WatchOutput::Event(late));
}

#[test]
fn what_is_claimed_below_its_voucher_does_not_end_it() {
    let (mut tower, entrust) = keeping();
    let turn = entrust.wait_secs();
    let old = defended_by(wallet(1), closing(69, 0, DELAY, turn));
    tower.handle_facts(entrust.channel(), old, at(turn));
    assert!(matches!(outputs(&mut tower)[..], [_, WatchOutput::Settle { .. }]));
}

#[test]
fn a_restart_resumes_at_every_stage() {
    let (_, entrust) = keeping();
    let charge = Charge { client: client(), entrust, since: at(0) };
    let channel = entrust.channel();
    let resumed = |facts: WatchFacts, secs| {
        let mut tower = tower(0, policy(), vec![charge], at(secs));
        assert_eq!(tower.poll_timeout(), Some(at(secs)));
        tower.handle_timeout(at(secs));
        assert_eq!(outputs(&mut tower), [WatchOutput::Look(channel)]);
        tower.handle_facts(channel, facts, at(secs));
        outputs(&mut tower)
    };
    assert_eq!(resumed(open(0, 100), 100), []);
    let turn = entrust.wait_secs();
    let due = resumed(closing(0, 0, DELAY, turn), turn);
    assert!(matches!(due[..], [_, WatchOutput::Settle { .. }]), "{due:?}");
    let ours = defended_by(wallet(0), facts(70, ChannelStatus::Closed, DELAY));
    let [WatchOutput::Settle { intent, .. }] = &resumed(ours, DELAY)[..] else { panic!() };
    assert_eq!(intent.kind(), "collect_reward");
}

#[test]
fn a_silent_chain_is_asked_again_and_a_transaction_that_failed_is_tried_again() {
    let (mut tower, entrust) = keeping();
    let channel = entrust.channel();
    let (mut secs, mut looks) = (0, 0);
    while secs < 600 {
        secs += 1;
        tower.handle_timeout(at(secs));
        for output in outputs(&mut tower) {
            assert_eq!(output, WatchOutput::Look(channel));
            looks += 1;
            tower.handle_silence(channel, at(secs));
        }
    }
    assert!((10..=20).contains(&looks), "{looks} looks within ten minutes");
    let turn = entrust.wait_secs();
    tower.handle_facts(channel, closing(0, 0, DELAY, turn), at(turn));
    assert_eq!(outputs(&mut tower).len(), 2);
    tower.handle_settled(channel, false, at(turn + 30));
    assert_eq!(tower.poll_timeout(), Some(at(turn + 35)));
    tower.handle_facts(channel, closing(0, 0, DELAY, turn + 35), at(turn + 35));
    assert!(matches!(outputs(&mut tower)[..], [WatchOutput::Settle { .. }]));
}

#[test]
fn an_appointment_that_expired_is_forgotten_but_not_its_reward() {
    let (mut tower, entrust) = keeping();
    let (channel, late) = (entrust.channel(), 20 * DAY_SECS + 1);
    let ours = defended_by(wallet(0), closing(70, late - 10, DELAY, late));
    tower.handle_facts(channel, ours, at(late));
    assert_eq!(outputs(&mut tower), []);
    tower.handle_facts(channel, open(0, late), at(late));
    assert_eq!(outputs(&mut tower)[1], WatchOutput::Event(WatchEvent::Expired { channel }));
}

#[test]
fn a_reward_that_was_earned_outlives_the_appointment_where_a_newer_voucher_came_too_late() {
    let (mut tower, entrust) = keeping();
    let (channel, late) = (entrust.channel(), 20 * DAY_SECS + 1);
    // It credited 70 and is the defender; 75 was entrusted since, and has expired.
    hand_in(&mut tower, cast::entrust(config(1, DELAY as u32), 75, 10), 1).unwrap();
    let ours = |head| defended_by(wallet(0), closing(70, late - 10, DELAY, head));
    tower.handle_facts(channel, ours(late), at(late));
    assert_eq!(outputs(&mut tower), []);
    assert_eq!(tower.watched().next().unwrap().1, Stage::Defended);
    let over = late - 10 + DELAY;
    tower.handle_facts(channel, ours(over), at(over));
    let [WatchOutput::Settle { intent, due_secs: u64::MAX, .. }] = &outputs(&mut tower)[..] else {
        panic!()
    };
    assert_eq!(intent.kind(), "collect_reward");
}

#[test]
fn a_copy_of_an_appointment_from_another_client_changes_neither_turn_nor_client() {
    let (mut tower, entrust) = (fresh(), entrust(config(1, DELAY as u32), 70, 10));
    let asked = Entrust { turn: 1, turns: 3, ..entrust };
    hand_in(&mut tower, asked, 0).unwrap();
    let other = device(7).node_id();
    let copy = Entrust { turn: 15, turns: 16, ..entrust };
    let better = cast::entrust(config(1, DELAY as u32), 70, 11);
    for (copy, reward) in [(copy, 10), (Entrust { turn: 0, ..better }, 11)] {
        let checked = tower.check(other, copy, at(1)).unwrap();
        tower.handle_entrust(checked, open(0, 1), at(1));
        let [WatchOutput::Persist(_), WatchOutput::Transmit(WatchMessage::Kept { kept, .. })] =
            &outputs(&mut tower)[..]
        else {
            panic!()
        };
        assert_eq!((kept.client, kept.turn, kept.reward), (other, (1, 3), units(reward)));
        let held = tower.charge(entrust.channel()).unwrap();
        assert_eq!((held.client, held.entrust.turn, held.entrust.turns), (client(), 1, 3));
    }
    // Who entrusted it may change its turn, and whoever has a newer voucher too.
    let moved = hand_in(&mut tower, Entrust { turn: 2, turns: 4, ..better }, 2).unwrap();
    assert_eq!(moved.turn, (2, 4));
    let newer = cast::entrust(config(1, DELAY as u32), 71, 10);
    let checked = tower.check(other, newer, at(3)).unwrap();
    tower.handle_entrust(checked, open(0, 3), at(3));
    assert_eq!(tower.charge(entrust.channel()).unwrap().client, other);
}

#[test]
fn the_chain_is_asked_about_a_bounded_number_of_channels_at_a_time() {
    let mut tower = fresh();
    let all: Vec<_> = (0..40).map(|salt| entrust(config(salt, DELAY as u32), 70, 10)).collect();
    for entrust in &all {
        hand_in(&mut tower, *entrust, 0).unwrap();
    }
    tower.handle_timeout(at(100));
    let asked = outputs(&mut tower);
    assert_eq!(asked.len(), LOOKS_MAX);
    assert_eq!(tower.poll_timeout(), None, "answers come first");
    tower.handle_timeout(at(100));
    assert_eq!(outputs(&mut tower), []);
    let [WatchOutput::Look(first), ..] = asked[..] else { panic!() };
    tower.handle_facts(first, open(0, 100), at(100));
    tower.handle_timeout(at(100));
    assert_eq!(outputs(&mut tower).len(), 1);
}

#[test]
fn a_channel_with_a_short_delay_is_looked_at_more_often() {
    for (delay, pause) in [(DELAY as u32, 60), (3_600, 60), (900, 56)] {
        let lax = TowerPolicy { withdraw_delay_secs_min: 900, ..policy() };
        let mut tower = tower(0, lax, Vec::new(), at(0));
        let entrust = entrust(config(1, delay), 70, 10);
        hand_in(&mut tower, entrust, 0).unwrap();
        tower.handle_facts(entrust.channel(), open(0, 0), at(0));
        assert_eq!(tower.poll_timeout().unwrap().as_secs(), EPOCH_SECS + pause);
    }
}

#[test]
fn every_tower_has_a_turn_of_its_own_and_another_order_for_each_channel() {
    let towers: Vec<_> = (0..TOWERS_MAX).map(|number| device(number).node_id()).collect();
    let mut firsts = BTreeSet::new();
    for salt in 0..50 {
        let channel = config(salt, 900).id(&domain());
        let mut turns: Vec<_> = towers.iter().map(|t| turn_of(channel, *t, &towers)).collect();
        firsts.insert(turns.iter().position(|turn| *turn == 0));
        turns.sort_unstable();
        assert!(turns.iter().copied().eq(0..TOWERS_MAX), "{turns:?}");
    }
    assert!(firsts.len() > 8);
}

#[test]
fn all_towers_have_acted_when_half_the_delay_is_over() {
    for delay in [900u32, 3_600, 86_400, 2_592_000] {
        for turns in 1..=TOWERS_MAX {
            let waits = (0..turns).map(|turn| {
                let entrust = entrust(config(1, delay), 70, 10);
                Entrust { turn, turns, ..entrust }.wait_secs()
            });
            let waits: Vec<_> = waits.collect();
            assert!(waits.is_sorted_by(|a, b| a < b) && waits[0] > 0, "{waits:?}");
            assert!(waits[waits.len() - 1] <= u64::from(delay) / 2);
        }
    }
}

#[test]
fn messages_survive_the_wire_and_unknown_kinds_are_skipped() {
    let entrust = entrust(config(1, 900), 70, 10);
    let kept = hand_in(&mut fresh(), cast::entrust(config(1, DELAY as u32), 70, 10), 0).unwrap();
    let signature = device(0).sign_bytes(b"anything");
    let refused = WatchRefused::new(WatchRefusal::Full, "no\nroom");
    assert_eq!(refused.reason, "no room");
    for message in [
        WatchMessage::Entrust(entrust),
        WatchMessage::Kept { kept, signature },
        WatchMessage::Refused(refused),
    ] {
        let frame = message.to_frame();
        assert_eq!(frame[..4], ((frame.len() - 4) as u32).to_le_bytes());
        assert_eq!(WatchMessage::from_frame(&frame[4..]), Ok(Some(message)));
        assert!(WatchMessage::from_frame(&frame[4..frame.len() - 1]).is_err());
        assert!(WatchMessage::from_frame(&[&frame[4..], &[0]].concat()).is_err());
    }
    assert_eq!(WatchMessage::from_frame(&[99, 1, 2]), Ok(None));
    assert!(WatchMessage::from_frame(&[]).is_err());
    assert!(WatchMessage::from_frame(&[99; WATCH_FRAME_LEN_MAX + 1]).is_err());
}

/// Seconds since the epoch: anything, but mostly within the world's first month.
fn secs() -> impl Strategy<Value = u64> {
    let near = EPOCH_SECS..EPOCH_SECS + 30 * DAY_SECS;
    prop_oneof![4 => near, 1 => any::<u64>()]
}

#[test]
fn no_bytes_and_no_fields_make_a_tower_panic() {
    let [kept, acted, forged] = [const { Cell::new(0u32) }; 3];
    proptest!(|(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        expiry in secs(), finish in secs(), head in secs(),
        now_ms in prop_oneof![
            4 => EPOCH_SECS * 1_000..(EPOCH_SECS + DAY_SECS) * 1_000,
            1 => any::<u64>(),
        ],
        turns in 4..=TOWERS_MAX + 1, turn in 0u8..6, delay in any::<u32>(), claimed in 0u128..100,
        (rs, odd_y) in any::<([u8; 64], bool)>(),
    )| {
        let _ = WatchMessage::from_frame(&bytes);
        let now = sparewire_core::Timestamp::from_ms(now_ms);
        let mut entrust = entrust_until(config(1, delay), 70, 10, expiry);
        (entrust.turn, entrust.turns) = (turn, turns);
        let lax = TowerPolicy { withdraw_delay_secs_min: 0, ..policy() };
        let mut tower = tower(0, lax, Vec::new(), now);
        let mut facts = facts(claimed, ChannelStatus::Closing { finish_at_secs: finish }, 0);
        facts.head_secs = head;
        if let Ok(checked) = tower.check(client(), entrust, now) {
            tower.handle_entrust(checked, facts, now);
            kept.update(|count| count + u32::from(tower.watched().count() == 1));
            if let Ok(signature) = Signature::from_parts(rs, odd_y) {
                let voucher = Signed { body: entrust.voucher.body, signature };
                let refused = tower.check(client(), Entrust { voucher, ..entrust }, now);
                let code = refused.map(drop).map_err(|refused| refused.code);
                prop_assert_eq!(code, Err(WatchRefusal::Invalid));
                forged.update(|count| count + 1);
            }
        }
        outputs(&mut tower);
        for _ in 0..3 {
            tower.handle_facts(entrust.channel(), facts, now);
            let told = outputs(&mut tower);
            let acts = matches!(told.last(), Some(WatchOutput::Settle { .. }));
            acted.update(|count| count + u32::from(acts));
            tower.handle_settled(entrust.channel(), head % 2 == 0, now);
            tower.handle_silence(entrust.channel(), now);
            tower.handle_timeout(now);
            outputs(&mut tower);
        }
    });
    // Most are turned down for one reason or another; what it is about must have happened too.
    let counts = [kept, acted, forged].map(Cell::into_inner);
    assert!(counts.iter().all(|count| *count > 20), "kept, acted, forged: {counts:?}");
}
