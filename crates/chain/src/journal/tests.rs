#![allow(clippy::unwrap_used)]

use super::*;
use crate::chain_work::Stands;

fn call() -> Call {
    Call { target: None, data: Bytes::from_static(&[1]), value: U256::ONE }
}

fn attempt(nonce: u64) -> Attempt {
    let hash = B256::repeat_byte(nonce as u8 + 1);
    let raw = Bytes::from_static(&[2]);
    Attempt { hash, nonce, raw, gas: 3, max_fee: u128::MAX, tip: None, signed_secs: 4 }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let journal = Journal::open(&path).unwrap();
    journal.claim(Address::ZERO, 1).unwrap();
    let intent = journal.plan("deposit", B256::ZERO, &[call(), call()], false, 5).unwrap();
    let step = journal.steps(intent).unwrap()[0].id;
    journal.sign(step, &attempt(7)).unwrap();
    drop(journal);

    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.open_intent(B256::ZERO).unwrap(), Some(intent));
    assert_eq!(journal.nonces_in_flight().unwrap(), [7]);
    assert_eq!(journal.unfinished().unwrap(), 1);
    let steps = journal.steps(intent).unwrap();
    assert_eq!(steps[0].state, StepState::Signed);
    assert_eq!((steps[1].state, &steps[1].call), (StepState::Planned, &call()));
    assert_eq!(journal.attempts(step).unwrap()[0].max_fee, u128::MAX);
    journal.displace(step).unwrap();
    assert_eq!(journal.unfinished().unwrap(), 0);
    assert!(matches!(
        journal.claim(Address::repeat_byte(1), 1),
        Err(JournalError::OtherOwner { chain_id: 1, .. })
    ));
}

#[test]
fn a_journal_of_the_first_version_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(SCHEMA).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute(
        "INSERT INTO intents VALUES (7, ?1, 'claim', 'open', NULL, 5)",
        [B256::ZERO.as_slice()],
    )
    .unwrap();
    drop(old);
    for _ in 0..2 {
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.open_intent(B256::ZERO).unwrap(), Some(7));
        assert!(!journal.is_urgent(7).unwrap());
        assert_eq!(journal.foreign_use().unwrap(), None);
    }
    let shown = Journal::peek(&path).unwrap().unwrap().under_way;
    assert_eq!((shown.len(), &*shown[0].intent, shown[0].since_secs), (1, "claim", 5));
    assert_eq!(Journal::peek(dir.path().join("none")).unwrap(), None);
}

#[test]
fn a_second_holder_is_told_that_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let first = Journal::open(&path).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::InUse)));
    drop(first);
    Journal::open(&path).unwrap();
}

#[test]
fn a_transaction_that_another_program_displaced_is_no_raised_fee() {
    let journal = Journal::in_memory().unwrap();
    let intent = journal.plan("transfer", B256::ZERO, &[call()], false, 5).unwrap();
    let step = journal.steps(intent).unwrap()[0].id;
    let told = || {
        let [it] = &journal.work().unwrap().under_way[..] else { panic!() };
        match it.stands {
            Stands::Sent { nonce, replaced, .. } => (nonce, replaced),
            ref other => panic!("{other:?}"),
        }
    };
    let version =
        |nonce: u64, hash: u8| Attempt { hash: B256::repeat_byte(hash), ..attempt(nonce) };
    journal.sign(step, &version(7, 1)).unwrap();
    journal.sign(step, &version(7, 2)).unwrap();
    assert_eq!(told(), (7, 1));
    journal.displace(step).unwrap();
    journal.sign(step, &version(9, 3)).unwrap();
    assert_eq!(told(), (9, 0), "signed anew, not raised");
    journal.sign(step, &version(9, 4)).unwrap();
    assert_eq!(told(), (9, 1));
}

#[test]
fn an_unfinished_intent_is_written_down_once_and_is_as_urgent_as_it_was_ever_asked_for() {
    let journal = Journal::in_memory().unwrap();
    let plan = |urgent| journal.plan("claim", B256::ZERO, &[call()], urgent, 5).unwrap();
    let intent = plan(false);
    assert_eq!((plan(true), plan(false)), (intent, intent));
    assert!(journal.is_urgent(intent).unwrap());
    assert_eq!(journal.steps(intent).unwrap().len(), 1);
    journal.finish(intent).unwrap();
    assert_ne!(plan(false), intent, "asked for again when it is over, it is another one");
}

#[test]
fn no_nonce_is_of_two_unfinished_transactions() {
    let journal = Journal::in_memory().unwrap();
    let step = |digest: u8| {
        let digest = B256::repeat_byte(digest);
        let intent = journal.plan("claim", digest, &[call()], true, 5).unwrap();
        journal.steps(intent).unwrap()[0].id
    };
    let (one, other) = (step(1), step(2));
    let version =
        |nonce: u64, hash: u8| Attempt { hash: B256::repeat_byte(hash), ..attempt(nonce) };
    journal.sign(one, &version(7, 1)).unwrap();
    let error = journal.sign(other, &version(7, 2)).unwrap_err();
    assert!(error.to_string().contains("another transaction holds"), "{error}");
    assert!(journal.attempts(other).unwrap().is_empty());
    journal.sign(one, &version(7, 3)).unwrap(); // a raised fee
    journal.set_state(one, StepState::Mined).unwrap();
    assert!(journal.sign(other, &version(7, 2)).is_err(), "a reorganisation may take it out");
    journal.displace(one).unwrap();
    journal.sign(other, &version(7, 2)).unwrap();
}

#[test]
fn the_next_step_of_an_urgent_intent_is_told_when_those_before_it_are_in_blocks() {
    let journal = Journal::in_memory().unwrap();
    let calm = journal.plan("claim", B256::repeat_byte(1), &[call()], false, 5).unwrap();
    let urgent = journal.plan("claim", B256::repeat_byte(2), &[call(), call()], true, 5).unwrap();
    let steps: Vec<i64> = journal.steps(urgent).unwrap().iter().map(|step| step.id).collect();
    let next = || -> Vec<i64> {
        journal.urgent_next().unwrap().into_iter().map(|(_, step)| step).collect()
    };
    assert_eq!(next(), steps[..1]);
    journal.sign(steps[0], &attempt(1)).unwrap();
    assert_eq!((next().len(), journal.signed_steps().unwrap()), (0, steps[..1].to_vec()));
    let signed: Vec<i64> = journal.signed_intents().unwrap().iter().map(|it| it.id).collect();
    assert_eq!(signed, [urgent]);
    journal.set_state(steps[0], StepState::Mined).unwrap();
    assert_eq!((next(), journal.signed_steps().unwrap().len()), (steps[1..].to_vec(), 0));
    journal.set_state(steps[0], StepState::Failed).unwrap();
    assert_eq!(next().len(), 0, "what comes after it builds on it");
    journal.hurry(calm).unwrap();
    assert_eq!(next().len(), 1);
    journal.fail(calm, None, "over").unwrap();
    assert_eq!(next().len(), 0);
}

#[test]
fn the_same_transaction_is_of_whoever_signed_it_last_and_the_newest_again() {
    let journal = Journal::in_memory().unwrap();
    let intent = journal.plan("claim", B256::ZERO, &[call()], true, 5).unwrap();
    let step = journal.steps(intent).unwrap()[0].id;
    journal.sign(step, &attempt(7)).unwrap();
    journal.displace(step).unwrap();
    journal.sign(step, &attempt(8)).unwrap();
    journal.displace(step).unwrap();
    journal.sign(step, &attempt(7)).unwrap();
    let nonces: Vec<_> = journal.attempts(step).unwrap().iter().map(|it| it.nonce).collect();
    assert_eq!(nonces, [7, 8], "what is followed and raised is what was signed last");

    // Restored from a backup: it is not known what became of it, and it is asked for again.
    assert_eq!(journal.abandon_open().unwrap(), 1);
    let again = journal.plan("claim", B256::ZERO, &[call()], true, 5).unwrap();
    let other = journal.steps(again).unwrap()[0].id;
    journal.sign(other, &attempt(7)).unwrap();
    assert_eq!(journal.attempts(other).unwrap().len(), 1);

    // While it is under way, nobody else signs it.
    let third = journal.plan("sweep", B256::repeat_byte(1), &[call()], true, 5).unwrap();
    let third = journal.steps(third).unwrap()[0].id;
    assert!(matches!(journal.sign(third, &attempt(7)), Err(JournalError::Damaged(_))));
}
