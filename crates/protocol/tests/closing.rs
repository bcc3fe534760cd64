//! Cooperative closes over the wire: a payee loses nothing by agreeing to one, and says the same
//! whenever it is asked again; a payer takes none above what it promised.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // each test binary uses its own part of the world
mod world;

use proptest::prelude::*;
use sparewire_core::{
    Address, Amount, ByteCount, DeviceSigner, Domain, Price, Signed, Signer, TypedData, Verified,
};
use sparewire_protocol::{
    AgreedClose, Agreement, CLOSE_FRAME_LEN_MAX, ChannelFacts, ChannelStatus, CloseMessage,
    CloseRequest, CloseSetup, CreditRule, Delegation, Memory, Payee, Payer, Payment, ProtocolError,
    REASON_LEN_MAX, Reading, Record, RefusalCode, Refused, Role, agree, channel::CooperativeClose,
};
use world::{Cast, DAY_MS, EPOCH, local_key, reading, recall, session_id, units};

const RESERVED: u128 = 1_000_000;

/// A unit for each byte, so that amounts can be read as bytes.
fn cast() -> Cast {
    Cast::new(Price::per_gib(1 << 30).unwrap(), CreditRule::default())
}

fn facts(claimed: u128) -> ChannelFacts {
    let status = ChannelStatus::Open;
    ChannelFacts { reserved: units(RESERVED), claimed: units(claimed), status }
}

fn request(cast: &Cast, payment: Option<Payment>) -> CloseRequest {
    let delegation = cast.consumer_delegation();
    CloseRequest { domain: cast.domain, config: cast.config, delegation, payment }
}

/// A payment of a session of its own that promises `amount` in all; none for zero.
fn paid(cast: &Cast, session: u64, amount: u64) -> Option<Payment> {
    (amount > 0).then(|| cast.payment(session_id(session), Amount::ZERO, reading(0, amount)))
}

fn asked(
    cast: &Cast,
    request: &CloseRequest,
    facts: Option<ChannelFacts>,
    memory: Memory,
) -> Result<(Vec<Record>, AgreedClose), ProtocolError> {
    agree(CloseSetup { request, facts, memory, paid_in: None, signer: &*cast.payee })
}

fn unusable<T: std::fmt::Debug>(answer: Result<T, ProtocolError>) {
    assert_eq!(answer.unwrap_err().refusal_code(), RefusalCode::ChannelUnusable);
}

fn closing(cast: &Cast, amount: u128) -> Signed<CooperativeClose> {
    let body = CooperativeClose { channel: cast.config.id(&cast.domain), amount: units(amount) };
    *Verified::sign(body, &cast.domain, &*cast.payee).unwrap().signed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_payee_agrees_at_its_highest_voucher_exactly_and_says_the_same_for_ever(
        ours in 0u64..2_000,
        theirs in 0u64..2_000,
        claimed in 0u128..2_000,
        later in 0u64..4_000,
        restored in prop::bool::weighted(0.1),
        known in any::<bool>(),
    ) {
        let cast = cast();
        let mut disk: Vec<Record> = paid(&cast, 1, ours)
            .map(|payment| Record::Payment { channel: cast.config.id(&cast.domain), payment })
            .into_iter()
            .collect();
        let memory = || Memory {
            resync: restored.then_some(Amount::ZERO),
            ..recall(&disk, session_id(9))
        };
        let told = request(&cast, paid(&cast, 2, theirs));
        let facts = known.then(|| facts(claimed));
        let highest = u128::from(ours.max(theirs));
        let answer = asked(&cast, &told, facts, memory());
        if restored || !known || claimed > highest {
            unusable(answer);
            return Ok(());
        }
        let (records, agreed) = answer.unwrap();
        prop_assert_eq!(agreed.close.body.amount, units(highest));
        // It holds a voucher for all of that, and did so before it signed.
        disk.extend(records);
        let after = recall(&disk, session_id(9));
        let held = after.payment.map_or(0, |payment| payment.voucher.body.amount.get());
        prop_assert_eq!(held, highest);
        prop_assert_eq!(after.agreed, Some(agreed.close));
        // The payer takes it, and would not take it at any other amount.
        let (_, claim) = told.take(&agreed, None, units(RESERVED)).unwrap();
        prop_assert_eq!(claim.amount, units(highest));
        for other in [highest + 1, highest.saturating_sub(1)] {
            let altered = AgreedClose { close: closing(&cast, other), ..agreed };
            prop_assert_eq!(told.take(&altered, None, units(RESERVED)).is_ok(), other == highest);
        }
        // After any crash, whatever is told then, and with a chain that says nothing: the same.
        for told in [None, paid(&cast, 3, later)] {
            let again = asked(&cast, &request(&cast, told), None, recall(&disk, session_id(9)));
            prop_assert_eq!(again, Ok((Vec::new(), agreed)));
        }
    }
}

#[test]
fn no_session_begins_or_goes_on_over_a_channel_whose_close_is_agreed_on() {
    let cast = cast();
    let session = Record::Session {
        role: Role::Payee,
        peer: cast.consumer.node_id(),
        agreement: Agreement {
            session: session_id(1),
            config: cast.config,
            terms: cast.terms,
            base: Amount::ZERO,
            history: ByteCount::ZERO,
        },
        started: EPOCH,
    };
    let (channel, payment) = (cast.config.id(&cast.domain), paid(&cast, 1, 500).unwrap());
    let mut disk = vec![session, Record::Payment { channel, payment }];
    let start = |disk: &[Record], session, told| {
        let mut acceptance = cast.acceptance(session_id(session));
        acceptance.payment = told;
        acceptance.reading = if session == 1 { reading(0, 500) } else { Reading::ZERO };
        let setup = cast.payee_setup(acceptance, facts(0), recall(disk, session_id(session)));
        Payee::start(setup, EPOCH).map(drop)
    };
    let pay = |disk: &[Record], session| {
        let memory = recall(disk, session_id(session));
        Payer::accept(cast.payer_setup(session_id(session), units(RESERVED), memory), EPOCH)
            .map(drop)
    };
    for session in [1, 2] {
        start(&disk, session, Some(payment)).unwrap();
        pay(&disk, session).unwrap();
    }
    let told = request(&cast, Some(payment));
    let (records, _) = asked(&cast, &told, Some(facts(0)), recall(&disk, session_id(9))).unwrap();
    disk.extend(records);
    for session in [1, 2] {
        unusable(start(&disk, session, Some(payment)));
        unusable(pay(&disk, session));
    }
}

#[test]
fn only_devices_that_the_payers_wallet_delegates_to_may_ask_whichever_authorizer_they_have() {
    let cast = cast();
    let (device, ours) = (cast.consumer.node_id(), cast.payee.address());
    let verify = |request: &CloseRequest| request.verify(device, &cast.domain, ours, EPOCH);
    let good = request(&cast, None);
    verify(&good).unwrap();
    // The channel's authorizer is lost or rotated; the wallet says who speaks for it now.
    let of = |delegation: Delegation, wallet: &dyn Signer| CloseRequest {
        delegation: *Verified::sign(delegation, &cast.domain, wallet).unwrap().signed(),
        ..good.clone()
    };
    let word = good.delegation.body;
    let wallet = &cast.payer_wallet;
    verify(&of(Delegation { authorizer: Address::repeat_byte(7), ..word }, wallet)).unwrap();

    let stranger = local_key(77);
    let code = |request: &CloseRequest| verify(request).unwrap_err().refusal_code();
    let invalid = [
        // Not the wallet's word; another wallet's word; the word for another device; an old one.
        of(word, &stranger),
        of(Delegation { wallet: stranger.address(), ..word }, &stranger),
        of(Delegation { device: cast.provider.node_id(), ..word }, wallet),
        of(Delegation { expiry_secs: EPOCH.as_secs() - 1, ..word }, wallet),
        CloseRequest {
            config: sparewire_protocol::ChannelConfig { payer: stranger.address(), ..cast.config },
            ..good.clone()
        },
    ];
    assert!(invalid.iter().all(|request| code(request) == RefusalCode::Invalid));
    assert!(good.verify(cast.provider.node_id(), &cast.domain, ours, EPOCH).is_err());
    let later = EPOCH.plus_ms(366 * DAY_MS);
    assert!(good.verify(device, &cast.domain, ours, later).is_err());
    let elsewhere = Domain { chain_id: 1, ..cast.domain };
    let elsewhere = CloseRequest { domain: elsewhere, ..good.clone() };
    assert_eq!(code(&elsewhere), RefusalCode::WrongNetwork);
    // A channel that names a key which this payee has no more.
    let other = good.verify(device, &cast.domain, stranger.address(), EPOCH);
    unusable(other);
}

#[test]
fn what_the_payer_tells_is_taken_only_under_its_signature_and_within_the_channel() {
    let cast = cast();
    let payment = paid(&cast, 1, 700).unwrap();
    let code = |payment: Payment, paid_in: Option<Agreement>| {
        let request = request(&cast, Some(payment));
        let memory = Memory::default();
        let setup = CloseSetup {
            request: &request,
            facts: Some(facts(0)),
            memory,
            paid_in,
            signer: &*cast.payee,
        };
        agree(setup).map_err(|error| error.refusal_code())
    };
    let mut forged = payment;
    forged.voucher.signature =
        local_key(9).sign_digest(forged.voucher.body.digest(&cast.domain)).unwrap();
    assert_eq!(code(forged, None), Err(RefusalCode::Invalid));
    let mut other = payment;
    other.voucher.body.channel.0.0[0] ^= 1;
    assert_eq!(code(other, None), Err(RefusalCode::Invalid));
    let above = cast.payment(session_id(1), Amount::ZERO, reading(0, RESERVED as u64 + 1));
    assert_eq!(code(above, None), Err(RefusalCode::ChannelUnusable));
    // The reading beside a voucher is not signed: it counts where its session is known and fits.
    let agreement = Agreement {
        session: session_id(1),
        config: cast.config,
        terms: cast.terms,
        base: Amount::ZERO,
        history: ByteCount::ZERO,
    };
    let boast = Payment { reading: reading(0, 1 << 40), ..payment };
    assert_eq!(code(boast, Some(agreement.clone())), Err(RefusalCode::Invalid));
    let kept = |payment, paid_in| match &code(payment, paid_in).unwrap().0[..] {
        [Record::Payment { payment, .. }, Record::Agreed { .. }] => payment.reading,
        other => panic!("{other:?}"),
    };
    assert_eq!(kept(boast, None), Reading::ZERO);
    assert_eq!(kept(payment, Some(agreement)), payment.reading);
}

#[test]
fn a_channel_that_is_closed_is_not_agreed_on_and_one_that_is_closing_is() {
    let cast = cast();
    let told = request(&cast, paid(&cast, 1, 5));
    let with =
        |status| asked(&cast, &told, Some(ChannelFacts { status, ..facts(0) }), Memory::default());
    unusable(with(ChannelStatus::Closed));
    let (_, agreed) = with(ChannelStatus::Closing { finish_at_secs: 7 }).unwrap();
    assert_eq!(agreed.close.body.amount, units(5));
}

#[test]
fn a_payer_takes_no_close_that_somebody_else_signed_or_that_is_above_its_own_vouchers() {
    let cast = cast();
    let told = request(&cast, paid(&cast, 1, 500));
    let reserved = units(900);
    let good = AgreedClose { close: closing(&cast, 500), payment: paid(&cast, 1, 500) };
    assert!(told.take(&good, None, reserved).is_ok());
    // Its store was set back: its own signature tells what it has promised since.
    let newer = AgreedClose { close: closing(&cast, 900), payment: paid(&cast, 2, 900) };
    let (records, claim) = told.take(&newer, None, reserved).unwrap();
    assert_eq!(claim.amount, units(900));
    assert!(matches!(records[..], [Record::Payment { .. }, Record::Agreed { .. }]), "{records:?}");

    let mut by_another = good;
    by_another.close.signature =
        local_key(9).sign_digest(good.close.body.digest(&cast.domain)).unwrap();
    let mut unsigned = newer;
    let voucher = &mut unsigned.payment.as_mut().unwrap().voucher;
    voucher.signature = local_key(9).sign_digest(voucher.body.digest(&cast.domain)).unwrap();
    let mut another = good;
    another.close.body.channel.0.0[0] ^= 1;
    let wrong = [
        by_another,
        unsigned,
        another,
        AgreedClose { close: closing(&cast, 501), ..good },
        AgreedClose { payment: None, ..good },
        // Less than it promised: whoever says so is not its provider as it knows it.
        AgreedClose { close: closing(&cast, 400), payment: paid(&cast, 1, 400) },
        AgreedClose { close: closing(&cast, 0), payment: None },
        // Whoever has its key signed more than the channel holds: no contract pays that, ever.
        AgreedClose { close: closing(&cast, 901), payment: paid(&cast, 2, 901) },
    ];
    for answer in wrong {
        assert!(told.take(&answer, None, reserved).is_err(), "{answer:?}");
    }
    // Nothing was promised: nothing is paid, and no voucher is needed.
    let nothing = AgreedClose { close: closing(&cast, 0), payment: None };
    let (_, claim) = request(&cast, None).take(&nothing, None, reserved).unwrap();
    assert_eq!(claim.amount, Amount::ZERO);
}

#[test]
fn messages_survive_their_frames_and_the_longest_fit() {
    let cast = cast();
    let refused = Refused { code: RefusalCode::Busy, reason: "x".repeat(REASON_LEN_MAX) };
    let agreed = AgreedClose { close: closing(&cast, 5), payment: paid(&cast, 1, 5) };
    let messages = [
        CloseMessage::Ask(request(&cast, paid(&cast, 1, 5))),
        CloseMessage::Agreed(agreed),
        CloseMessage::Refused(refused),
    ];
    for (kind, message) in (1u8..).zip(messages) {
        let frame = message.to_frame();
        let length = frame.len() - 4;
        assert_eq!(frame[..4], u32::try_from(length).unwrap().to_le_bytes());
        assert_eq!(frame[4], kind);
        assert_eq!(CloseMessage::from_frame(&frame[4..]), Ok(Some(message.clone())));
        assert!(CloseMessage::from_frame(&frame[4..frame.len() - 1]).is_err(), "cut off");
        let longer = [&frame[4..], &[0]].concat();
        assert!(CloseMessage::from_frame(&longer).is_err(), "a frame is filled exactly");
    }
    assert!(CloseMessage::from_frame(&[]).is_err());
    assert_eq!(CloseMessage::from_frame(&[9]), Ok(None), "of a newer version");
    assert!(CloseMessage::from_frame(&vec![9; CLOSE_FRAME_LEN_MAX + 1]).is_err());
}
