use sparewire_core::{Address, NodeId, Price, Signature, Signed};
use sparewire_protocol::{CountingRule, CreditRule, Receipt, Service, Statement, Terms, Voucher};

use super::*;

const DOMAIN: Domain = Domain { chain_id: 1, contract: Address::repeat_byte(9) };

pub(in crate::store) fn agreement(session: u8, base: u128) -> Agreement {
    let (payee, payee_authorizer) = (Address::repeat_byte(3), Address::repeat_byte(4));
    let token = Address::repeat_byte(5);
    Agreement {
        session: SessionId(B256::repeat_byte(session)),
        config: ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: Address::repeat_byte(2),
            payee,
            payee_authorizer,
            token,
            withdraw_delay_secs: 900,
            salt: 7,
        },
        terms: Terms {
            provider: NodeId(B256::repeat_byte(6)),
            service: Service::ExitTcp,
            counting: CountingRule::StreamPayload,
            price: Price::per_gib(1 << 30).unwrap(),
            credit: CreditRule::default(),
            domain: DOMAIN,
            token,
            payee,
            payee_authorizer,
            withdraw_delay_secs_min: 900,
            channel_min: Amount::ZERO,
            issued: Timestamp::from_ms(1),
            expires: Timestamp::from_ms(2),
        },
        base: Amount::new(base).unwrap(),
        history: ByteCount::ZERO,
    }
}

pub(in crate::store) fn began(session: u8, base: u128) -> Record {
    Record::Session {
        role: Role::Payee,
        peer: NodeId(B256::repeat_byte(8)),
        agreement: agreement(session, base),
        started: Timestamp::from_ms(3),
    }
}

/// Some signature: the store does not check what machines have checked.
pub(in crate::store) fn signature() -> Signature {
    let mut bytes = [1; 65];
    bytes[64] = 27;
    Signature::from_bytes(bytes).unwrap()
}

pub(in crate::store) fn channel() -> ChannelId {
    agreement(1, 0).channel()
}

fn payment(session: u8, bytes: u64, amount: u128) -> Payment {
    let voucher = Voucher { channel: channel(), amount: Amount::new(amount).unwrap() };
    Payment {
        session: SessionId(B256::repeat_byte(session)),
        reading: Reading { up: ByteCount::ZERO, down: ByteCount::new(bytes) },
        voucher: Signed { body: voucher, signature: signature() },
    }
}

pub(in crate::store) fn paid(session: u8, bytes: u64, amount: u128) -> Record {
    Record::Payment { channel: channel(), payment: payment(session, bytes, amount) }
}

fn receipt(session: u8, sequence: u64) -> Signed<Receipt> {
    let body = Receipt {
        channel: channel(),
        session: SessionId(B256::repeat_byte(session)),
        sequence,
        reading: Reading::ZERO,
        amount: Amount::ZERO,
        previous: B256::ZERO,
        time: Timestamp::from_ms(sequence),
    };
    Signed { body, signature: signature() }
}

pub(in crate::store) fn receipted(session: u8, sequence: u64, by_both: bool) -> Record {
    let payee_signature = by_both.then(signature);
    Record::Receipt { receipt: receipt(session, sequence), payee_signature }
}

pub(in crate::store) fn store() -> (tempfile::TempDir, SqliteStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("store.sqlite")).unwrap();
    (directory, store)
}

pub(in crate::store) fn id(session: u8) -> Option<SessionId> {
    Some(SessionId(B256::repeat_byte(session)))
}

#[test]
fn a_channel_is_remembered_over_its_sessions_and_over_a_restart() {
    let (directory, store) = store();
    store.record(&[began(1, 0), paid(1, 100, 100), receipted(1, 1, true)]).unwrap();
    store.record(&[began(2, 100), paid(2, 50, 150), receipted(2, 2, false)]).unwrap();
    let lost = |session| Record::Loss { session, bytes: ByteCount::new(7) };
    store.record(&[lost(id(1).unwrap()), lost(id(2).unwrap())]).unwrap();
    for _ in 0..2 {
        let memory = store.memory(channel(), id(2)).unwrap();
        assert_eq!(memory.payment, Some(payment(2, 50, 150)));
        assert_eq!(memory.receipt.map(|both| both.receipt), Some(receipt(1, 1)));
        assert_eq!(memory.pending, Some(receipt(2, 2)));
        assert_eq!(memory.history, ByteCount::new(100));
        assert_eq!(memory.lost, ByteCount::new(14));
        let session = memory.session.unwrap();
        assert_eq!(session.agreement, agreement(2, 100));
        assert_eq!(session.paid, payment(2, 50, 150).reading);
        assert_eq!(store.memory(channel(), id(3)).unwrap().history, ByteCount::new(150));
    }
    drop(store);
    let store = SqliteStore::open(&directory.path().join("store.sqlite")).unwrap();
    assert_eq!(store.memory(channel(), id(2)).unwrap().payment, Some(payment(2, 50, 150)));
    assert_eq!(store.channels(Role::Payee).unwrap()[0].promised().get(), 150);
    assert_eq!(store.sessions().unwrap().len(), 2);
}

#[test]
fn what_was_carried_unpaid_is_remembered_over_a_restart() {
    let (directory, store) = store();
    let carried = |session, up, down| Record::Counted {
        session: id(session).unwrap(),
        reading: Reading { up: ByteCount::new(up), down: ByteCount::new(down) },
    };
    store.record(&[began(1, 0), paid(1, 100, 100), carried(1, 5, 120)]).unwrap();
    drop(store);
    let store = SqliteStore::open(&directory.path().join("store.sqlite")).unwrap();
    let memory = store.memory(channel(), id(1)).unwrap();
    let counted = Reading { up: ByteCount::new(5), down: ByteCount::new(120) };
    assert_eq!(memory.session.unwrap().counted, counted);
    assert_eq!(memory.lost, ByteCount::ZERO, "it may come back");
    assert_eq!(store.memory(channel(), id(2)).unwrap().lost, ByteCount::new(25));
    // It went on where the consumer stood, and then paid for more.
    let lost = Record::Loss { session: id(1).unwrap(), bytes: ByteCount::new(15) };
    store.record(&[lost, carried(1, 0, 110), paid(1, 130, 130)]).unwrap();
    let memory = store.memory(channel(), id(1)).unwrap();
    assert_eq!(memory.session.unwrap().counted.down, ByteCount::new(130));
    assert_eq!(memory.lost, ByteCount::new(15));
}

#[test]
fn sessions_that_never_paid_are_forgotten_but_not_what_they_lost() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), paid(1, 100, 100)]).unwrap();
    for session in 2..50 {
        let reading = Reading { up: ByteCount::ZERO, down: ByteCount::new(7) };
        let session_id = id(session).unwrap();
        store.record(&[began(session, 100)]).unwrap();
        store.record(&[Record::Counted { session: session_id, reading }]).unwrap();
    }
    assert_eq!(store.sessions().unwrap().len(), 2, "the paid one and the newest");
    assert_eq!(store.memory(channel(), id(99)).unwrap().lost, ByteCount::new(48 * 7));
    assert_eq!(store.memory(channel(), id(49)).unwrap().lost, ByteCount::new(47 * 7));
    assert!(store.memory(channel(), id(48)).unwrap().session.is_none());
}

#[test]
fn a_session_that_begins_where_another_stands_goes_on_from_the_later_one() {
    let (_directory, store) = store();
    store.record(&[began(9, 0), paid(9, 100, 100)]).unwrap();
    store.record(&[began(1, 100), paid(1, 0, 100)]).unwrap();
    assert_eq!(store.memory(channel(), None).unwrap().payment, Some(payment(1, 0, 100)));
}

#[test]
fn a_payment_that_names_another_channels_session_touches_only_its_own_channel() {
    // Found by review: it overwrote what that session had paid, and spoiled every claim.
    let (_directory, store) = store();
    store.record(&[began(1, 0), paid(1, 100, 100)]).unwrap();
    let other = ChannelId(B256::repeat_byte(99));
    let mut lie = payment(1, 7, 500);
    lie.voucher.body.channel = other;
    store.record(&[Record::Payment { channel: other, payment: lie }]).unwrap();
    assert_eq!(store.memory(channel(), id(1)).unwrap().payment, Some(payment(1, 100, 100)));
    assert_eq!(store.memory(other, None).unwrap().payment, Some(lie));
    assert_eq!(store.channels(Role::Payee).unwrap()[0].promised().get(), 100);
    assert_eq!(store.sessions().unwrap()[0].payment, Some(payment(1, 100, 100)));
}

#[test]
fn a_countersignature_completes_a_receipt_and_never_leaves_it_again() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), receipted(1, 1, false)]).unwrap();
    store.record(&[receipted(1, 1, true)]).unwrap();
    store.record(&[receipted(1, 1, false)]).unwrap();
    let memory = store.memory(channel(), id(1)).unwrap();
    assert!(memory.receipt.is_some() && memory.pending.is_none());
    assert_eq!(store.receipts(id(1).unwrap()).unwrap().len(), 1);
}

#[test]
#[should_panic(expected = "a promise never shrinks")]
fn a_lower_promise_is_not_written() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), paid(1, 100, 100)]).unwrap();
    let _ = store.record(&[paid(1, 50, 50)]);
}

#[test]
#[should_panic(expected = "one receipt for each sequence number")]
fn a_second_receipt_of_one_number_is_not_written() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), began(2, 0), receipted(1, 1, true)]).unwrap();
    let _ = store.record(&[receipted(2, 1, true)]);
}

#[test]
fn an_ended_session_is_shown_with_its_statement_and_not_resumed() {
    let (_directory, store) = store();
    let statement = Statement {
        role: Role::Payee,
        session: id(1).unwrap(),
        channel: channel(),
        counted: Reading::ZERO,
        receipted: Reading::ZERO,
        price: Price::FREE,
        paid: Amount::ZERO,
        cumulative: Amount::ZERO,
        payments: 1,
        receipts: 1,
        exposure_peak: ByteCount::ZERO,
        exposure_bound: ByteCount::KIB,
        ended: Timestamp::from_ms(4),
    };
    store.record(&[began(1, 0), Record::Ended(statement.clone())]).unwrap();
    let known = store.session(id(1).unwrap()).unwrap().unwrap();
    assert_eq!(known.statement, Some(statement));
    assert!(store.memory(channel(), id(1)).unwrap().session.is_none());
}

#[test]
fn what_does_not_fit_on_the_disk_is_written_not_at_all_and_said() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), paid(1, 1, 1)]).unwrap();
    store.limit_pages(1).unwrap();
    let mut many: Vec<_> = (1..500).map(|sequence| receipted(1, sequence, true)).collect();
    many.insert(0, paid(1, 2, 2));
    let error = store.record(&many).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(error.to_string().contains("free some space"));
    assert_eq!(store.memory(channel(), id(1)).unwrap().payment, Some(payment(1, 1, 1)));
    store.limit_pages(100_000).unwrap();
    store.record(&many).unwrap();
    assert_eq!(store.memory(channel(), id(1)).unwrap().payment, Some(payment(1, 2, 2)));
}

#[test]
fn one_process_writes_and_others_may_look() {
    let (directory, store) = store();
    let path = directory.path().join("store.sqlite");
    store.record(&[began(1, 0), paid(1, 100, 100)]).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(StoreError::InUse { .. })));
    let reader = SqliteStore::open_to_read(&path).unwrap().unwrap();
    assert_eq!(reader.sessions().unwrap().len(), 1);
    store.record(&[began(2, 100)]).unwrap();
    assert_eq!(reader.sessions().unwrap().len(), 2);
    assert!(reader.record(&[began(3, 100)]).is_err());
    assert!(SqliteStore::open_to_read(&directory.path().join("none")).unwrap().is_none());
}

#[test]
fn a_file_of_another_version_or_of_something_else_is_refused_in_words() {
    let (directory, store) = store();
    let path = directory.path().join("store.sqlite");
    store.lock().pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let error = SqliteStore::open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Version { found: 99, .. }), "{error}");
    let other = directory.path().join("other.sqlite");
    std::fs::write(&other, [7; 8192]).unwrap();
    let error = SqliteStore::open(&other).err().unwrap();
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
}

fn closed(units: u128) -> Signed<CooperativeClose> {
    let body = CooperativeClose { channel: channel(), amount: Amount::new(units).unwrap() };
    Signed { body, signature: signature() }
}

fn agreed(units: u128) -> Record {
    Record::Agreed { channel: channel(), close: closed(units) }
}

#[test]
fn a_close_that_is_agreed_on_is_remembered_with_the_voucher_that_was_taken_for_it() {
    let (directory, store) = store();
    assert_eq!(store.channel(channel()).unwrap(), None);
    store.record(&[began(1, 0), paid(1, 100, 100)]).unwrap();
    let known = store.channel(channel()).unwrap().unwrap();
    assert_eq!((known.role, known.agreed, known.agreed_close()), (Role::Payee, None, None));
    assert_eq!(store.channels(Role::Payee).unwrap(), [known]);
    store.record(&[paid(2, 0, 150), agreed(150)]).unwrap();
    store.record(&[agreed(150)]).unwrap(); // told again
    drop(store);
    let store = SqliteStore::open(&directory.path().join("store.sqlite")).unwrap();
    assert_eq!(store.memory(channel(), None).unwrap().agreed, Some(closed(150)));
    let known = store.channel(channel()).unwrap().unwrap();
    let (claim, signature_of_payee) = known.agreed_close().unwrap();
    assert_eq!((Some(claim), signature_of_payee), (known.claim(), signature()));
    assert_eq!(claim.amount.get(), 150);
}

#[test]
fn a_close_over_which_nothing_was_promised_needs_no_voucher() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), agreed(0)]).unwrap();
    let (claim, _) = store.channel(channel()).unwrap().unwrap().agreed_close().unwrap();
    assert_eq!(claim.amount, Amount::ZERO);
}

#[test]
#[should_panic(expected = "no close gives up what is promised")]
fn a_close_below_what_is_promised_is_not_written() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), paid(1, 100, 100)]).unwrap();
    let _ = store.record(&[agreed(99)]);
}

#[test]
#[should_panic(expected = "close is agreed on once")]
fn a_second_close_of_another_amount_is_not_written() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), paid(1, 100, 100), agreed(100)]).unwrap();
    let _ = store.record(&[agreed(101)]);
}

#[test]
fn where_a_peer_was_reached_last_is_remembered() {
    let (directory, store) = store();
    let node =
        sparewire_core::DeviceSigner::node_id(&sparewire_wallet::DeviceKey::from_secret(&[7; 32]));
    assert_eq!(store.address(node).unwrap(), None);
    for addr in ["127.0.0.1:1", "127.0.0.1:2", "[::1]:3"] {
        let addrs = vec![addr.parse().unwrap()];
        store.reached(&PeerAddress { node, addrs }).unwrap();
    }
    drop(store);
    let store = SqliteStore::open(&directory.path().join("store.sqlite")).unwrap();
    let at = store.address(node).unwrap().unwrap();
    assert_eq!((at.node, at.addrs), (node, vec!["[::1]:3".parse().unwrap()]));
}

#[test]
fn a_payment_that_comes_after_the_close_was_agreed_on_changes_nothing_about_it() {
    let (_directory, store) = store();
    store.record(&[began(1, 0), paid(1, 100, 100), agreed(100)]).unwrap();
    // The write of a session that was cut off for the close.
    let late = store.record(&[paid(1, 150, 150)]).unwrap_err();
    assert_eq!(late, StoreError::Agreed { channel: channel() });
    let known = store.channel(channel()).unwrap().unwrap();
    assert_eq!(known.promised().get(), 100);
    assert!(known.agreed_close().is_some(), "the same answer for ever");
    store.record(&[paid(1, 100, 100)]).unwrap(); // told again
}
