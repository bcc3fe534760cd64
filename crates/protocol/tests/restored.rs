//! A store that was restored from a backup: nothing is signed on the word of what it remembers.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // each test binary uses its own part of the world
mod world;

use sparewire_core::{Amount, ByteCount, Price};
use sparewire_protocol::{
    Accepted, CreditRule, Memory, Message, Output, Payee, Payer, Payment, ProtocolError, Reading,
    RefusalCode,
};
use world::{Cast, EPOCH, World, reading, session_id, units};

fn cast() -> Cast {
    Cast::new(Price::per_gib(1 << 30).unwrap(), CreditRule::default())
}

fn accepted(payment: Option<Payment>) -> Message {
    Message::Accepted(Box::new(Accepted {
        session: session_id(1),
        reading: Reading::ZERO,
        base: payment.map_or(Amount::ZERO, |payment| payment.voucher.body.amount),
        history: ByteCount::ZERO,
        payment,
        receipt: None,
    }))
}

#[test]
fn a_restored_payer_signs_nothing_before_it_is_told_what_it_had_signed() {
    let cast = cast();
    let ours = cast.payment(session_id(2), Amount::ZERO, reading(0, 500));
    let newer = cast.payment(session_id(3), Amount::ZERO, reading(0, 900));
    // What the store remembers, what the chain says was claimed, what the provider tells.
    let cases = [
        (None, 0, None, false),
        (Some(ours), 0, None, false),
        (None, 0, Some(newer), true),
        (Some(ours), 0, Some(newer), true),
        (Some(ours), 500, Some(ours), true),
        (Some(ours), 501, Some(ours), false),
        (Some(newer), 0, Some(ours), false),
        (Some(ours), 900, Some(newer), true),
    ];
    for (payment, claimed, told, goes_on) in cases {
        let memory = Memory { payment, resync: Some(units(claimed)), ..Memory::default() };
        let setup = cast.payer_setup(session_id(1), units(1_000_000), memory);
        let mut payer = Payer::accept(setup, EPOCH).unwrap();
        let first: Vec<Output> = std::iter::from_fn(|| payer.poll_output()).collect();
        let [Output::Transmit(Message::Accept { acceptance, .. })] = &first[..] else {
            panic!("{first:?}")
        };
        assert_eq!(acceptance.payment, None, "it asks, and does not prompt");
        let answer = payer.handle_message(accepted(told), EPOCH);
        if !goes_on {
            let refused = matches!(answer, Err(ProtocolError::ChannelUnusable(_)));
            assert!(refused, "{payment:?} {claimed} {told:?}: {answer:?}");
            assert!(payer.poll_output().is_none(), "nothing was signed");
            continue;
        }
        answer.unwrap();
        let cumulative = payer.statement(EPOCH).cumulative;
        assert_eq!(Some(cumulative), told.map(|told| told.voucher.body.amount));
    }
}

#[test]
fn a_restored_payee_takes_no_payer_that_tells_less_than_the_backup() {
    let cast = cast();
    let ours = cast.payment(session_id(2), Amount::ZERO, reading(0, 500));
    let less = cast.payment(session_id(2), Amount::ZERO, reading(0, 400));
    let more = cast.payment(session_id(2), Amount::ZERO, reading(0, 900));
    let start = |payment, told, resync| {
        let mut acceptance = cast.acceptance(session_id(1));
        acceptance.payment = told;
        let facts = World::new(cast.terms.price, cast.terms.credit, 1_000_000).facts();
        let memory = Memory { payment, resync, ..Memory::default() };
        Payee::start(cast.payee_setup(acceptance, facts, memory), EPOCH)
    };
    let zero = Some(Amount::ZERO);
    for told in [None, Some(less)] {
        let error = start(Some(ours), told, zero).err().unwrap();
        assert_eq!(error.refusal_code(), RefusalCode::ChannelUnusable, "{error}");
        // One that was never set back tells the payer what it remembers.
        start(Some(ours), told, None).unwrap();
    }
    let known = [(None, None, 0), (Some(ours), Some(ours), 500), (Some(ours), Some(more), 900)];
    for (remembered, told, promised) in known {
        let payee = start(remembered, told, zero).unwrap();
        assert_eq!(payee.statement(EPOCH).cumulative, units(promised));
    }
}
