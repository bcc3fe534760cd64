//! What a peer sends: control frames, the values in them, and the heads of data streams.

use std::fmt::Debug;

use borsh::{BorshDeserialize, BorshSerialize};
use sparewire_core::{
    Amount, B256, ByteCount, ChannelId, DecodeError, DeviceSignature, Domain, NodeId, Price,
    SessionId, Signature, Signed, Signer, Timestamp, decode, encode,
};
use sparewire_node::{
    fuzzing,
    refusal::{Refusal, RefusalKind},
    target::Target,
};
use sparewire_protocol::{
    Acceptance, Accepted, AgreedClose, Agreement, CLOSE_FRAME_LEN_MAX, ChannelConfig, ChannelFacts,
    ChannelStatus, CloseMessage, CloseRequest, CloseSetup, Countersigned, CountingRule, CreditRule,
    Delegation, FRAME_LEN_MAX, Memory, Message, Offer, Payment, REASON_LEN_MAX, Reading, Receipt,
    RefusalCode, Refused, Service, Terms, Voucher, WATCH_FRAME_LEN_MAX, WatchMessage, agree,
    channel::{Claim, CooperativeClose, pack_claims},
};

use super::{assert_tame, seeds, within};

/// What reading one value may allocate: the largest is an acceptance of about 1.5 KiB, boxed.
const ALLOCATION_MAX: usize = 8 << 10;
/// Longest error.
const WORDS_MAX: usize = 512;

/// Kind and body of a control frame, of one between a payee and a watchtower, or of one about a
/// cooperative close.
pub fn frame(data: &[u8]) {
    watch_frame(data);
    close_frame(data);
    match within(ALLOCATION_MAX, || Message::from_frame(data)) {
        Ok(Some(message)) => {
            let frame = message.to_frame();
            assert_eq!(&frame[4..], data, "one value has one encoding");
            assert_eq!(frame[..4], (data.len() as u32).to_le_bytes());
            assert_eq!(Message::from_frame(&frame[4..]), Ok(Some(message.clone())));
            judge(&message);
        }
        Ok(None) => assert!(!(1..=13).contains(&data[0]) && data.len() <= FRAME_LEN_MAX),
        Err(error) => {
            if let DecodeError::TooLong { length, length_max } = &error {
                assert!(length > length_max && data.len() > FRAME_LEN_MAX);
            }
            assert_tame(&error, WORDS_MAX);
        }
    }
}

fn watch_frame(data: &[u8]) {
    match within(ALLOCATION_MAX, || WatchMessage::from_frame(data)) {
        Ok(Some(message)) => {
            assert_eq!(&message.to_frame()[4..], data, "one value has one encoding");
        }
        Ok(None) => assert!(!(1..=3).contains(&data[0]) && data.len() <= WATCH_FRAME_LEN_MAX),
        Err(error) => assert_tame(&error, WORDS_MAX),
    }
}

fn close_frame(data: &[u8]) {
    match within(ALLOCATION_MAX, || CloseMessage::from_frame(data)) {
        Ok(Some(message)) => {
            assert_eq!(&message.to_frame()[4..], data, "one value has one encoding");
            match message {
                CloseMessage::Ask(request) => judge_close(&request),
                CloseMessage::Agreed(agreed) => judge_agreed(&agreed),
                CloseMessage::Refused(refused) => assert_tame(&refused.reason, REASON_LEN_MAX),
            }
        }
        Ok(None) => assert!(!(1..=3).contains(&data[0]) && data.len() <= CLOSE_FRAME_LEN_MAX),
        Err(error) => assert_tame(&error, WORDS_MAX),
    }
}

/// A payee never agrees below the voucher that it is shown, nor above what the channel holds.
fn judge_close(request: &CloseRequest) {
    let Delegation { device, expiry_secs, .. } = request.delegation.body;
    let now = Timestamp::from_ms(expiry_secs.saturating_mul(1_000));
    if let Err(error) =
        request.verify(device, &request.domain, request.config.payee_authorizer, now)
    {
        assert_tame(&error, WORDS_MAX);
    }
    let told = request.payment.map_or(Amount::ZERO, |payment| payment.voucher.body.amount);
    for reserved in [Amount::ZERO, told, Amount::MAX] {
        let status = ChannelStatus::Open;
        let facts = Some(ChannelFacts { reserved, claimed: Amount::ZERO, status });
        let memory = Memory::default();
        let signer = super::wallet::key();
        match agree(CloseSetup { request, facts, memory, paid_in: None, signer }) {
            Ok((_, agreed)) => {
                assert!(agreed.close.body.amount == told && told <= reserved);
                if request.config.payee_authorizer == signer.address() {
                    assert!(request.take(&agreed, None, reserved).is_ok(), "the payer takes that");
                }
            }
            Err(error) => assert_tame(&error, WORDS_MAX),
        }
    }
}

/// A payer takes no close of another amount than its own voucher beside it.
fn judge_agreed(agreed: &AgreedClose) {
    let (domain, config) = (super::chain::contracts().domain, super::chain::config());
    let delegation = seeds::delegation();
    let request = CloseRequest { domain, config, delegation, payment: None };
    let told = agreed.payment.map_or(Amount::ZERO, |payment| payment.voucher.body.amount);
    for reserved in [Amount::ZERO, told, Amount::MAX] {
        match request.take(agreed, None, reserved) {
            Ok((_, claim)) => assert!(claim.amount == told && told <= reserved),
            Err(error) => assert_tame(&error, WORDS_MAX),
        }
    }
}

/// What a peer says is checked before it is believed; no value breaks the checks.
fn judge(message: &Message) {
    match message {
        Message::Offer(offer) => {
            let terms = &offer.terms;
            let (provider, domain) = (terms.provider, terms.domain);
            for (fresh, now) in [(true, terms.issued), (false, terms.expires)] {
                if let Err(error) = offer.verify(provider, &domain, fresh, now) {
                    assert_tame(&error, WORDS_MAX);
                }
            }
            assert_sound(terms.credit, terms.price);
        }
        Message::Accept { acceptance, signature } => {
            let consumer = acceptance.delegation.body.device;
            let _ = signature.verify(consumer, &**acceptance);
            if let Some(payment) = acceptance.payment {
                let _ = payment.voucher.verify(&DOMAIN, acceptance.channel.payer_authorizer);
            }
            if let Some(receipt) = acceptance.receipt {
                let (payer, payee) =
                    (acceptance.channel.payer_authorizer, acceptance.channel.payee_authorizer);
                let _ = receipt.verify(&DOMAIN, payer, payee);
            }
        }
        Message::Payment { payment, .. } => assert_owed(payment.reading),
        Message::Refused(Refused { reason, .. }) | Message::Close { reason } => {
            assert_tame(reason, REASON_LEN_MAX);
        }
        _ => {}
    }
}

const DOMAIN: Domain =
    Domain { chain_id: 21_335, contract: sparewire_core::Address::repeat_byte(0xcc) };

fn assert_sound(credit: CreditRule, price: Price) {
    let paid = [ByteCount::ZERO, ByteCount::GIB, ByteCount::new(u64::MAX)];
    for paid in paid {
        assert!(credit.credit(paid) >= credit.initial);
        let step = credit.step(paid).get();
        assert!(step >= 1 && (!credit.is_sound() || step <= credit.credit(paid).get()));
        let _ = credit.loss_allowance(paid);
        if let Some(owed) = price.owed(paid) {
            assert!(price.affordable(owed) >= paid, "what is owed for bytes pays for them");
        }
    }
}

fn assert_owed(reading: Reading) {
    if let (Some(total), Some(price)) = (reading.checked_total(), Price::per_gib(20_000)) {
        assert!(price.owed(total).is_some(), "at such a price all that can be counted can be owed");
    }
}

/// Any value of the canonical encoding; the first byte says which type.
pub fn values(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match kind {
        0 => {
            if let Some(terms) = canonical::<Terms>(bytes) {
                assert_sound(terms.credit, terms.price);
                let _ = terms.hash();
            }
        }
        1 => drop(canonical::<Offer>(bytes)),
        2 => drop(canonical::<Acceptance>(bytes)),
        3 => drop(canonical::<Accepted>(bytes)),
        4 => {
            if let Some(refused) = canonical::<Refused>(bytes) {
                assert_tame(&refused.reason, REASON_LEN_MAX);
            }
        }
        5 => drop(canonical::<RefusalCode>(bytes)),
        6 => {
            if let Some(payment) = canonical::<Payment>(bytes) {
                assert_owed(payment.reading);
            }
        }
        7 => drop(canonical::<Signed<Receipt>>(bytes)),
        8 => drop(canonical::<Countersigned>(bytes)),
        9 => {
            if let Some(voucher) = canonical::<Signed<Voucher>>(bytes) {
                assert_packed(voucher);
            }
        }
        10 => drop(canonical::<CooperativeClose>(bytes)),
        11 => drop(canonical::<Signed<Delegation>>(bytes)),
        12 => drop(canonical::<ChannelConfig>(bytes)),
        13 => {
            if let Some(rule) = canonical::<CreditRule>(bytes) {
                assert_sound(rule, Price::MAX);
            }
        }
        14 => {
            if let Some(agreement) = canonical::<Agreement>(bytes) {
                assert_agreed(&agreement);
            }
        }
        15 => drop(canonical::<Domain>(bytes)),
        16 => {
            if let Some(amount) = canonical::<Amount>(bytes) {
                assert!(amount <= Amount::MAX);
            }
        }
        17 => {
            if let Some(price) = canonical::<Price>(bytes) {
                assert_sound(CreditRule::default(), price);
            }
        }
        18 => {
            if let Some(signature) = canonical::<Signature>(bytes) {
                assert_signature(signature);
            }
        }
        19 => drop(canonical::<DeviceSignature>(bytes)),
        20 => drop(canonical::<Service>(bytes)),
        21 => drop(canonical::<CountingRule>(bytes)),
        22 => drop(canonical::<(ByteCount, Timestamp)>(bytes)),
        23 => drop(canonical::<(ChannelId, SessionId)>(bytes)),
        24 => drop(canonical::<NodeId>(bytes)),
        25 => drop(canonical::<Target>(bytes)),
        26 => {
            if let Some(refusal) = canonical::<Refusal>(bytes) {
                assert_tame(&refusal.reason(), Refusal::REASON_LENGTH_MAX);
            }
        }
        27 => drop(canonical::<RefusalKind>(bytes)),
        _ => {}
    }
}

/// Reads a value, in one way only and without allocating on the input's word.
fn canonical<T>(bytes: &[u8]) -> Option<T>
where
    T: BorshSerialize + BorshDeserialize + PartialEq + Debug,
{
    match within(ALLOCATION_MAX, || decode::<T>(bytes, FRAME_LEN_MAX)) {
        Ok(value) => {
            let again = encode(&value);
            assert_eq!(again, bytes, "one value has one encoding");
            assert_eq!(decode::<T>(&again, again.len()).as_ref(), Ok(&value));
            if let Some(length_max) = bytes.len().checked_sub(1) {
                let too_long = DecodeError::TooLong { length: bytes.len(), length_max };
                assert_eq!(decode::<T>(bytes, length_max), Err(too_long));
            }
            Some(value)
        }
        Err(error) => {
            assert_tame(&error, WORDS_MAX);
            None
        }
    }
}

fn assert_agreed(agreement: &Agreement) {
    for reading in [Reading::ZERO, Reading { up: ByteCount::GIB, down: ByteCount::new(u64::MAX) }] {
        if let (Some(owed), Some(total)) = (agreement.owed(reading), reading.checked_total()) {
            assert!(owed >= agreement.base && agreement.affordable(owed) >= total);
        }
    }
    let _ = agreement.channel();
}

fn assert_signature(signature: Signature) {
    let bytes = signature.to_bytes();
    let mut parts = [0; 64];
    parts.copy_from_slice(&bytes[..64]);
    assert_eq!(Signature::from_parts(parts, bytes[64] == 28), Ok(signature), "it was normal");
    let compact = signature.to_compact();
    assert_eq!(compact[32] >> 7, bytes[64] - 27, "a low s leaves room for the parity");
    if let Ok(signer) = signature.recover(B256::repeat_byte(7)) {
        let mut other = bytes;
        other[64] = 27 + 28 - bytes[64];
        let other = Signature::from_bytes(other).expect("the other parity is well formed too");
        assert_ne!(other.recover(B256::repeat_byte(7)), Ok(signer));
    }
}

fn assert_packed(voucher: Signed<Voucher>) {
    let config = ChannelConfig {
        payer: DOMAIN.contract,
        payer_authorizer: DOMAIN.contract,
        payee: DOMAIN.contract,
        payee_authorizer: DOMAIN.contract,
        token: DOMAIN.contract,
        withdraw_delay_secs: 900,
        salt: 1,
    };
    let (amount, signature) = (voucher.body.amount, voucher.signature);
    let packed = pack_claims(&[Claim { config, amount, signature }]);
    let [group] = &packed[..] else { panic!("one claim makes one group") };
    assert!(group.ends_with(&signature.to_compact()));
}

/// The head of a data stream: what a consumer asks (even first byte) and a provider answers.
pub fn stream_heads(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let read = match kind % 2 {
        0 => fuzzing::open_request,
        _ => fuzzing::open_reply,
    };
    match within(ALLOCATION_MAX, || read(body)) {
        Ok(again) => assert_eq!(again, body, "one value has one encoding"),
        Err(error) => assert_tame(&error, WORDS_MAX),
    }
}
