//! What is on the wire: every message survives its frame, and no frame that anybody can build
//! panics a reader or makes it allocate more than a bounded amount.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // vectors are files

#[allow(dead_code)] // each test binary uses its own part of the world
mod world;

use std::collections::BTreeMap;

use proptest::prelude::*;
use sparewire_core::{
    Address, Amount, B256, ByteCount, DeviceSignature, DeviceSigner, Domain, NodeId, Price,
    SessionId, Signature, Signed, Signer, Timestamp,
};
use sparewire_protocol::{
    Acceptance, Accepted, ChannelConfig, Countersigned, CountingRule, CreditRule, Delegation,
    FRAME_LEN_MAX, Message, Offer, Payment, REASON_LEN_MAX, Reading, Receipt, RefusalCode, Refused,
    Service, Terms, Voucher,
};
use world::{Cast, EPOCH, bytes, local_key, reading, session_id, units};

/// What reading one frame may allocate at most.
const ALLOCATION_MAX: u64 = 64 << 10;
const HEADER: usize = 4;

fn word() -> impl Strategy<Value = B256> {
    any::<[u8; 32]>().prop_map(B256::from)
}

fn address() -> impl Strategy<Value = Address> {
    any::<[u8; 20]>().prop_map(Address::from)
}

fn amount() -> impl Strategy<Value = Amount> {
    (0..=Amount::MAX.get()).prop_map(units)
}

fn count() -> impl Strategy<Value = ByteCount> {
    any::<u64>().prop_map(ByteCount::new)
}

fn any_reading() -> impl Strategy<Value = Reading> {
    (count(), count()).prop_map(|(up, down)| Reading { up, down })
}

fn signature() -> impl Strategy<Value = Signature> {
    (1u8..=250, word()).prop_map(|(key, digest)| local_key(key).sign_digest(digest).unwrap())
}

fn signed<T: std::fmt::Debug + Clone>(
    body: impl Strategy<Value = T>,
) -> impl Strategy<Value = Signed<T>> {
    (body, signature()).prop_map(|(body, signature)| Signed { body, signature })
}

fn device_signature() -> impl Strategy<Value = DeviceSignature> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(&halves.concat());
        DeviceSignature(bytes)
    })
}

fn domain() -> impl Strategy<Value = Domain> {
    (any::<u64>(), address()).prop_map(|(chain_id, contract)| Domain { chain_id, contract })
}

fn terms() -> impl Strategy<Value = Terms> {
    (
        (word(), 0u128..=Price::MAX.get(), count(), count(), domain()),
        (address(), address(), address()),
        (any::<u32>(), amount(), any::<u64>(), any::<u64>()),
    )
        .prop_map(|(first, second, third)| Terms {
            provider: NodeId(first.0),
            service: Service::ExitTcp,
            counting: CountingRule::StreamPayload,
            price: Price::per_gib(first.1).unwrap(),
            credit: CreditRule { initial: first.2, maximum: first.3 },
            domain: first.4,
            token: second.0,
            payee: second.1,
            payee_authorizer: second.2,
            withdraw_delay_secs_min: third.0,
            channel_min: third.1,
            issued: Timestamp::from_ms(third.2),
            expires: Timestamp::from_ms(third.3),
        })
}

fn config() -> impl Strategy<Value = ChannelConfig> {
    (any::<[[u8; 20]; 5]>(), any::<u32>(), any::<u64>()).prop_map(
        |(parties, withdraw_delay_secs, salt)| {
            let [payer, payer_authorizer, payee, payee_authorizer, token] =
                parties.map(Address::from);
            ChannelConfig {
                payer,
                payer_authorizer,
                payee,
                payee_authorizer,
                token,
                withdraw_delay_secs,
                salt,
            }
        },
    )
}

fn delegation() -> impl Strategy<Value = Delegation> {
    (address(), word(), address(), any::<u64>()).prop_map(
        |(wallet, device, authorizer, expiry_secs)| Delegation {
            wallet,
            device: NodeId(device),
            authorizer,
            expiry_secs,
        },
    )
}

fn payment() -> impl Strategy<Value = Payment> {
    let voucher = (word(), amount()).prop_map(|(channel, amount)| Voucher {
        channel: sparewire_core::ChannelId(channel),
        amount,
    });
    (word(), any_reading(), signed(voucher)).prop_map(|(session, reading, voucher)| Payment {
        session: SessionId(session),
        reading,
        voucher,
    })
}

fn receipt() -> impl Strategy<Value = Signed<Receipt>> {
    let body = (word(), word(), any::<u64>(), any_reading(), amount(), word(), any::<u64>())
        .prop_map(|(channel, session, sequence, reading, amount, previous, time)| Receipt {
            channel: sparewire_core::ChannelId(channel),
            session: SessionId(session),
            sequence,
            reading,
            amount,
            previous,
            time: Timestamp::from_ms(time),
        });
    signed(body)
}

fn countersigned() -> impl Strategy<Value = Countersigned> {
    (receipt(), signature())
        .prop_map(|(receipt, payee_signature)| Countersigned { receipt, payee_signature })
}

fn reason() -> impl Strategy<Value = String> {
    "\\PC{0,64}".prop_map(|text| sparewire_protocol::short_reason(&text))
}

fn code() -> impl Strategy<Value = RefusalCode> {
    use RefusalCode as C;
    prop::sample::select(vec![
        C::WrongNetwork,
        C::TermsExpired,
        C::UnknownSession,
        C::ChannelUnusable,
        C::Invalid,
        C::LossAllowanceUsed,
        C::Busy,
        C::ChainUnavailable,
        C::ClockSkew,
        C::GoingAway,
    ])
}

fn acceptance() -> impl Strategy<Value = Acceptance> {
    (
        (word(), word(), config(), signed(delegation())),
        (any_reading(), count()),
        (
            prop::option::of(payment()),
            prop::option::of(countersigned()),
            prop::option::of(receipt()),
        ),
    )
        .prop_map(|(first, (reading, up_max), (payment, receipt, pending))| Acceptance {
            session: SessionId(first.0),
            terms_hash: first.1,
            channel: first.2,
            delegation: first.3,
            reading,
            up_max,
            payment,
            receipt,
            pending,
        })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u16>(), domain(), address(), prop::option::of(word())).prop_map(
            |(minor, domain, token, resume)| Message::Hello {
                minor,
                domain,
                token,
                resume: resume.map(SessionId),
            }
        ),
        (terms(), signed(delegation()), device_signature()).prop_map(
            |(terms, delegation, signature)| Message::Offer(Box::new(Offer {
                terms,
                delegation,
                signature
            }))
        ),
        (acceptance(), device_signature()).prop_map(|(acceptance, signature)| Message::Accept {
            acceptance: Box::new(acceptance),
            signature,
        }),
        (
            (word(), any_reading(), amount(), count()),
            prop::option::of(payment()),
            prop::option::of(countersigned())
        )
            .prop_map(|((session, reading, base, history), payment, receipt)| {
                let session = SessionId(session);
                Message::Accepted(Box::new(Accepted {
                    session,
                    reading,
                    base,
                    history,
                    payment,
                    receipt,
                }))
            }),
        (code(), reason()).prop_map(|(code, reason)| Message::Refused(Refused { code, reason })),
        (payment(), prop::option::of(receipt()))
            .prop_map(|(payment, receipt)| Message::Payment { payment, receipt }),
        (any::<u64>(), signature())
            .prop_map(|(sequence, signature)| Message::Countersignature { sequence, signature }),
        (any_reading(), count(), any::<bool>())
            .prop_map(|(reading, credit, last)| Message::Report { reading, credit, last }),
        any::<u64>().prop_map(|stream| Message::Abort { stream }),
        any::<(u64, bool)>().prop_map(|(stream, paused)| Message::Flow { stream, paused }),
        any_reading().prop_map(|reading| Message::Due { reading }),
        any::<u64>().prop_map(|stream| Message::Broken { stream }),
        Just(Message::Funded),
        reason().prop_map(|reason| Message::Close { reason }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_survives_its_frame(message in message()) {
        let frame = message.to_frame();
        let length = u32::from_le_bytes(frame[..HEADER].try_into().unwrap()) as usize;
        prop_assert_eq!(length, frame.len() - HEADER);
        prop_assert!(length <= FRAME_LEN_MAX);
        prop_assert_eq!(Message::from_frame(&frame[HEADER..]), Ok(Some(message)));
    }

    #[test]
    fn a_frame_that_is_cut_or_has_more_behind_it_is_malformed(message in message(), more in 1usize..40) {
        let frame = &message.to_frame()[HEADER..];
        for length in 0..frame.len() {
            prop_assert!(Message::from_frame(&frame[..length]).is_err(), "cut to {}", length);
        }
        let longer = [frame, &vec![0; more]].concat();
        prop_assert!(Message::from_frame(&longer).is_err());
    }

    #[test]
    fn what_a_changed_frame_still_says_it_says_in_one_way_only(
        message in message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut frame = message.to_frame()[HEADER..].to_vec();
        for (index, byte) in changes {
            let at = index.index(frame.len());
            frame[at] = byte;
        }
        // The encoding is canonical: what can be read is written back as the same bytes.
        if let Ok(Some(read)) = Message::from_frame(&frame) {
            prop_assert_eq!(&read.to_frame()[HEADER..], &frame[..]);
        }
    }

    #[test]
    fn kinds_of_newer_versions_are_skipped_unless_they_are_too_long(
        kind in 15u8..,
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let frame = [&[kind][..], &body].concat();
        prop_assert_eq!(Message::from_frame(&frame), Ok(None));
        let long = [&[kind][..], &vec![0; FRAME_LEN_MAX]].concat();
        prop_assert!(Message::from_frame(&long).is_err());
    }
}

#[test]
fn the_empty_frame_kind_zero_and_overlong_texts_are_handled() {
    assert!(Message::from_frame(&[]).is_err());
    assert_eq!(Message::from_frame(&[0]), Ok(None));
    for (kind, head) in [(12u8, &[][..]), (5, &[1][..])] {
        for (length, fits) in [(REASON_LEN_MAX, true), (REASON_LEN_MAX + 1, false)] {
            let mut frame = vec![kind];
            frame.extend_from_slice(head);
            frame.extend_from_slice(&(length as u32).to_le_bytes());
            frame.extend(std::iter::repeat_n(b'a', length));
            assert_eq!(Message::from_frame(&frame).is_ok(), fits, "{kind} {length}");
        }
        // A length that the frame does not hold.
        let lying = [&[kind][..], head, &u32::MAX.to_le_bytes()].concat();
        let info = allocation_counter::measure(|| assert!(Message::from_frame(&lying).is_err()));
        assert!(info.bytes_max <= ALLOCATION_MAX, "{info:?}");
    }
}

/// A small generator (splitmix64): the same frames on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[test]
fn a_hundred_thousand_hostile_frames_neither_panic_nor_allocate_beyond_64_kib() {
    let examples: Vec<Vec<u8>> =
        examples().values().map(|message| message.to_frame()[HEADER..].to_vec()).collect();
    let mut random = Random(2026);
    let (mut read, mut refused, mut skipped, mut worst) = (0, 0, 0, 0);
    for round in 0..100_000 {
        let mut frame = match round % 4 {
            // Noise with a kind that means something.
            0 => {
                let length = random.below(600);
                let mut frame: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                frame.insert(0, random.below(14) as u8);
                frame
            }
            // A long one, now and then longer than may be.
            1 if round % 64 == 1 => {
                let mut frame = vec![random.next() as u8; random.below(2 * FRAME_LEN_MAX)];
                frame.insert(0, random.below(14) as u8);
                frame
            }
            _ => examples[random.below(examples.len())].clone(),
        };
        for _ in 0..random.below(4) {
            let at = random.below(frame.len());
            match random.below(5) {
                0 => frame[at] = random.next() as u8,
                1 => frame[at] ^= 1 << random.below(8),
                2 => frame.truncate(at + 1),
                3 => frame.insert(at, 0xff),
                // A length or count blown up.
                _ => {
                    for byte in frame.iter_mut().skip(at).take(4) {
                        *byte = 0xff;
                    }
                }
            }
        }
        let mut result = Ok(None);
        let info = allocation_counter::measure(|| result = Message::from_frame(&frame));
        worst = worst.max(info.bytes_max);
        assert!(
            info.bytes_max <= ALLOCATION_MAX,
            "{} bytes for {}",
            info.bytes_max,
            hex::encode(&frame)
        );
        match result {
            Ok(Some(_)) => read += 1,
            Ok(None) => skipped += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{read} read, {refused} refused, {skipped} skipped; at most {worst} bytes allocated");
    assert!(read > 5_000 && refused > 30_000 && skipped > 500, "{read} {refused} {skipped}");
}

/// One message of each kind, with fixed keys and no randomness.
fn examples() -> BTreeMap<&'static str, Message> {
    let cast = Cast::new(
        Price::per_gib(20_000).unwrap(),
        CreditRule { initial: bytes(131_072), maximum: bytes(8 << 20) },
    );
    let payment = cast.payment(session_id(1), units(1_000), reading(1 << 20, 15 << 20));
    let receipt = cast.receipt(Receipt {
        channel: cast.config.id(&cast.domain),
        session: session_id(1),
        sequence: 1,
        reading: payment.reading,
        amount: payment.voucher.body.amount,
        previous: B256::ZERO,
        time: EPOCH,
    });
    let countersigned = cast.countersign(receipt);
    let acceptance = Acceptance {
        reading: payment.reading,
        up_max: bytes((1 << 20) + 77),
        payment: Some(payment),
        receipt: Some(countersigned),
        pending: Some(receipt),
        ..cast.acceptance(session_id(1))
    };
    let accepted = Accepted {
        session: session_id(1),
        reading: payment.reading,
        base: units(1_000),
        history: bytes(12_345),
        payment: Some(payment),
        receipt: Some(countersigned),
    };
    let (sequence, signature) = (1, countersigned.payee_signature);
    BTreeMap::from([
        (
            "hello",
            Message::Hello {
                minor: 0,
                domain: cast.domain,
                token: cast.terms.token,
                resume: Some(session_id(1)),
            },
        ),
        ("offer", Message::Offer(Box::new(cast.offer()))),
        (
            "accept",
            Message::Accept {
                signature: cast.sign_acceptance(&acceptance),
                acceptance: Box::new(acceptance),
            },
        ),
        ("accepted", Message::Accepted(Box::new(accepted))),
        (
            "refused",
            Message::Refused(Refused {
                code: RefusalCode::ChannelUnusable,
                reason: "it is closing or closed".into(),
            }),
        ),
        ("payment", Message::Payment { payment, receipt: Some(receipt) }),
        ("countersignature", Message::Countersignature { sequence, signature }),
        (
            "report",
            Message::Report { reading: payment.reading, credit: bytes(131_072), last: true },
        ),
        ("abort", Message::Abort { stream: 12 }),
        ("flow", Message::Flow { stream: 12, paused: true }),
        ("due", Message::Due { reading: payment.reading }),
        ("broken", Message::Broken { stream: 16 }),
        ("funded", Message::Funded),
        ("close", Message::Close { reason: "settled".into() }),
    ])
}

#[test]
fn frames_are_the_golden_ones() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/messages.json");
    let frames: BTreeMap<&str, String> = examples()
        .into_iter()
        .map(|(name, message)| (name, format!("0x{}", hex::encode(message.to_frame()))))
        .collect();
    assert_eq!(frames.len(), 14, "one of each kind");
    let now = serde_json::to_string_pretty(&frames).unwrap() + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let golden: BTreeMap<String, String> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (name, frame) in &golden {
        assert_eq!(
            frames.get(name.as_str()),
            Some(frame),
            "{name}: run with UPDATE_VECTORS=1 if this is meant"
        );
        let bytes = hex::decode(frame.trim_start_matches("0x")).unwrap();
        let read = Message::from_frame(&bytes[HEADER..]).unwrap().unwrap();
        assert_eq!(read, examples()[name.as_str()]);
    }
    assert_eq!(golden.len(), frames.len());
}

#[test]
fn the_golden_offer_and_acceptance_verify() {
    let cast = Cast::new(Price::FREE, CreditRule::default());
    let Message::Offer(offer) = examples().remove("offer").unwrap() else { unreachable!() };
    assert!(offer.verify(cast.provider.node_id(), &cast.domain, true, EPOCH).is_ok());
    let Message::Accept { acceptance, signature } = examples().remove("accept").unwrap() else {
        unreachable!()
    };
    assert!(signature.verify(cast.consumer.node_id(), &*acceptance).is_ok());
    assert_eq!(acceptance.terms_hash, offer.terms.hash());
}
