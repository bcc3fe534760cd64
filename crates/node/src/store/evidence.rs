//! What is kept to explain, to report and to carry away, and decides nothing: offers, stops,
//! uncountersigned and contradicting receipts, snapshots.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use sparewire_core::{Address, Domain, SessionId, Signature, Signed, Timestamp, encode};
use sparewire_protocol::{
    ChannelConfig, Countersigned, Delegation, Offer, Receipt, Role, StopReason,
    stake::Contradiction,
};

use super::{
    SqliteStore, Stop, StoreError,
    sqlite::{Trouble, blob, bytes, integer, read, read_countersigned},
};

/// How many stops of a session are kept from its beginning, and as many from its end.
const KEPT: i64 = 8;

/// When a session stood still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// How many times.
    pub number: u64,
    /// How long in all, in milliseconds, those not counted that nobody saw the end of.
    pub lasted_ms: u64,
    /// The first and the last of them, oldest first.
    pub kept: Vec<Stop>,
}

/// A receipt as it is kept: the payer signed it, the payee perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptReceipt {
    /// With the payer's signature.
    pub receipt: Signed<Receipt>,
    /// The payee's.
    pub payee_signature: Option<Signature>,
}

impl SqliteStore {
    pub(super) fn keep_offer(&self, session: SessionId, offer: &Offer) -> Result<(), StoreError> {
        self.with(|connection| {
            connection
                .prepare_cached(
                    "insert into offers (session, offer)
                     select ?1, ?2 where exists (select 1 from sessions where id = ?1)
                     on conflict (session) do nothing",
                )?
                .execute(params![blob(&session.0), encode(offer)])?;
            Ok(())
        })
    }

    /// The offer under which a session began; `None` where it began under a release that kept none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn offer(&self, session: SessionId) -> Result<Option<Offer>, StoreError> {
        self.with(|connection| {
            let kept: Option<Vec<u8>> = connection
                .prepare_cached("select offer from offers where session = ?")?
                .query_row([blob(&session.0)], |row| row.get(0))
                .optional()?;
            kept.map(|bytes| read(&bytes)).transpose()
        })
    }

    pub(super) fn keep_contradiction(
        &self,
        delegation: &Signed<Delegation>,
        theirs: &Countersigned,
    ) -> Result<Option<Contradiction>, StoreError> {
        let Receipt { channel, session, sequence, .. } = theirs.receipt.body;
        // No number of ours is that high.
        let Ok(number) = i64::try_from(sequence) else { return Ok(None) };
        self.with(|connection| {
            let ours = connection
                .prepare_cached(
                    "select receipt, payee_signature from receipts
                     where channel = ? and sequence = ? and payee_signature is not null",
                )?
                .query_row(params![blob(&channel.0), number], read_countersigned)
                .optional()?
                .transpose()?;
            let known = connection
                .prepare_cached("select domain, config from channels where id = ?")?
                .query_row([blob(&channel.0)], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (Some(ours), Some((domain, config))) = (ours, known) else { return Ok(None) };
            let (domain, config) = read_channel(domain, config)?;
            let found = Contradiction::new(&domain, *delegation, config, [ours, *theirs]);
            let Ok(contradiction) = found else { return Ok(None) };
            connection
                .prepare_cached(
                    "insert into contradictions (channel, sequence, session, delegation, theirs)
                     values (?, ?, ?, ?, ?) on conflict (channel, sequence) do nothing",
                )?
                .execute(params![
                    blob(&channel.0),
                    number,
                    blob(&session.0),
                    encode(delegation),
                    encode(theirs)
                ])?;
            Ok(Some(contradiction))
        })
    }

    /// By which receipts of a session the payee contradicted itself, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn contradictions(&self, session: SessionId) -> Result<Vec<Contradiction>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "select r.receipt, r.payee_signature, h.domain, h.config, c.delegation, c.theirs
                 from contradictions c
                 join receipts r on r.channel = c.channel and r.sequence = c.sequence
                 join channels h on h.id = c.channel
                 where c.session = ? order by c.sequence",
            )?;
            let mut rows = statement.query([blob(&session.0)])?;
            let mut kept = Vec::new();
            while let Some(row) = rows.next()? {
                let ours = read_countersigned(row)??;
                let (domain, config) = read_channel(row.get(2)?, row.get(3)?)?;
                let delegation = read(&row.get::<_, Vec<u8>>(4)?)?;
                let theirs = read(&row.get::<_, Vec<u8>>(5)?)?;
                let found = Contradiction::new(&domain, delegation, config, [ours, theirs]);
                kept.push(found.map_err(|error| Trouble::Content(error.to_string()))?);
            }
            Ok(kept)
        })
    }

    pub(super) fn keep_stop(&self, session: SessionId, stop: &Stop) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let mut write = || -> Result<(), Trouble> {
            let transaction = connection.transaction()?;
            let id = blob(&session.0);
            transaction
                .prepare_cached(
                    "insert into stops (session, began, lasted, reason, waiting, unpaid)
                     select ?1, ?2, ?3, ?4, ?5, ?6 where exists (select 1 from sessions where id = ?1)
                     on conflict (session, began) do update
                     set lasted = ?3, reason = ?4, waiting = ?5, unpaid = ?6",
                )?
                .execute(params![
                    id,
                    integer(stop.began.as_ms()),
                    stop.lasted_ms.map(integer),
                    stop.reason as i64,
                    stop.waiting,
                    integer(stop.unpaid.get())
                ])?;
            let number: i64 = transaction
                .prepare_cached("select count(*) from stops where session = ?")?
                .query_row([id], |row| row.get(0))?;
            if number > 2 * KEPT {
                let (began, lasted): (i64, i64) = transaction
                    .prepare_cached(
                        "select began, coalesce(lasted, 0) from stops
                         where session = ?1 order by began limit 1 offset ?2",
                    )?
                    .query_row(params![id, KEPT], |row| Ok((row.get(0)?, row.get(1)?)))?;
                transaction
                    .prepare_cached("delete from stops where session = ? and began = ?")?
                    .execute(params![id, began])?;
                transaction
                    .prepare_cached(
                        "insert into stops_forgotten values (?1, 1, ?2)
                         on conflict (session) do update
                         set number = number + 1, lasted = lasted + ?2",
                    )?
                    .execute(params![id, lasted])?;
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|trouble| self.name(trouble))
    }

    /// When a session stood still.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stops(&self, session: SessionId) -> Result<Stops, StoreError> {
        self.with(|connection| {
            let forgotten: Option<(i64, i64)> = connection
                .prepare_cached("select number, lasted from stops_forgotten where session = ?")?
                .query_row([blob(&session.0)], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (number, lasted) = forgotten.unwrap_or_default();
            let mut stops = Stops {
                number: number.unsigned_abs(),
                lasted_ms: lasted.unsigned_abs(),
                kept: Vec::new(),
            };
            let mut statement = connection.prepare_cached(
                "select began, lasted, reason, waiting, unpaid from stops
                 where session = ? order by began",
            )?;
            let mut rows = statement.query([blob(&session.0)])?;
            while let Some(row) = rows.next()? {
                let reason = match row.get::<_, i64>(2)? {
                    1 => StopReason::Unpaid,
                    2 => StopReason::Silent,
                    3 => StopReason::ChannelSpent,
                    4 => StopReason::ChannelLeaving,
                    5 => StopReason::Unreported,
                    other => return Err(Trouble::Content(format!("reason {other} of a stop"))),
                };
                let stop = Stop {
                    began: Timestamp::from_ms(row.get::<_, i64>(0)?.unsigned_abs()),
                    lasted_ms: row.get::<_, Option<i64>>(1)?.map(i64::unsigned_abs),
                    reason,
                    waiting: row.get(3)?,
                    unpaid: bytes(row.get(4)?),
                };
                stops.number = stops.number.saturating_add(1);
                stops.lasted_ms = stops.lasted_ms.saturating_add(stop.lasted_ms.unwrap_or(0));
                stops.kept.push(stop);
            }
            Ok(stops)
        })
    }

    /// The receipts of a session, oldest first, also those that the payee has not countersigned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn kept_receipts(&self, session: SessionId) -> Result<Vec<KeptReceipt>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "select receipt, payee_signature from receipts where session = ? order by sequence",
            )?;
            let mut rows = statement.query([blob(&session.0)])?;
            let mut receipts = Vec::new();
            while let Some(row) = rows.next()? {
                let signature: Option<Vec<u8>> = row.get(1)?;
                receipts.push(KeptReceipt {
                    receipt: read(&row.get::<_, Vec<u8>>(0)?)?,
                    payee_signature: signature.map(|bytes| read(&bytes)).transpose()?,
                });
            }
            Ok(receipts)
        })
    }

    /// What the payee had carried of a session as its connection last broke; nothing where it
    /// never did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn carried(&self, session: SessionId) -> Result<sparewire_protocol::Reading, StoreError> {
        self.with(|connection| {
            let counted = connection
                .prepare_cached("select up, down from sessions where id = ?")?
                .query_row([blob(&session.0)], |row| {
                    Ok(sparewire_protocol::Reading {
                        up: bytes(row.get(0)?),
                        down: bytes(row.get(1)?),
                    })
                })
                .optional()?;
            Ok(counted.unwrap_or_default())
        })
    }

    /// Writes all that is durable now into a new file, in one piece, whoever writes meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; also where there is such a file.
    pub fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        self.with(|connection| {
            connection.execute("vacuum into ?", [to.to_string_lossy()])?;
            Ok(())
        })
    }

    /// Says of every channel that it comes from a backup: its peer may know more of it than we do,
    /// and is asked first ([`Memory::resync`](sparewire_protocol::Memory::resync)), for as long as
    /// the channel lives. The node's `authorizers` are remembered as well
    /// ([`Store::was_restored`](super::Store::was_restored)): they may have signed over channels
    /// that the backup never knew, so that the same is said of each that the store meets from now on
    /// and that pays one of them.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    pub fn mark_restored(&self, authorizers: &[Address]) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let mut write = || -> Result<(), Trouble> {
            let transaction = connection.transaction()?;
            transaction.execute("update channels set restored = 1", [])?;
            for authorizer in authorizers {
                transaction.execute(
                    "insert into restored_authorizers values (?) on conflict do nothing",
                    [authorizer.as_slice()],
                )?;
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|trouble| self.name(trouble))
    }
}

/// Whether `authorizer` may have signed what a restored store does not know of.
pub(super) fn has_past(connection: &Connection, authorizer: Address) -> Result<bool, Trouble> {
    let named: bool = connection
        .prepare_cached("select exists (select 1 from restored_authorizers where authorizer = ?)")?
        .query_row([authorizer.as_slice()], |row| row.get(0))?;
    if named {
        return Ok(true);
    }
    // A backup does not always know its node's keys, and older releases marked channels only.
    let mut statement =
        connection.prepare_cached("select config from channels where restored = 1 and role = ?")?;
    let mut rows = statement.query([Role::Payee as i64])?;
    while let Some(row) = rows.next()? {
        let config: ChannelConfig = read(&row.get::<_, Vec<u8>>(0)?)?;
        if config.payee_authorizer == authorizer {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_channel(domain: Vec<u8>, config: Vec<u8>) -> Result<(Domain, ChannelConfig), Trouble> {
    Ok((read(&domain)?, read(&config)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use sparewire_core::{Amount, B256, ByteCount, DeviceSignature, Signer, TypedData};
    use sparewire_protocol::{Agreement, Reading, Record, Terms};
    use sparewire_wallet::LocalKey;

    use super::*;
    use crate::store::{
        Store,
        sqlite::tests::{agreement, began, channel, id, paid, receipted, signature, store},
    };

    fn offer(by_device: DeviceSignature) -> Offer {
        let terms = agreement(1, 0).terms;
        let delegation = Delegation {
            wallet: terms.payee,
            device: terms.provider,
            authorizer: terms.payee_authorizer,
            expiry_secs: 9,
        };
        let delegation = Signed { body: delegation, signature: signature() };
        Offer { terms, delegation, signature: by_device }
    }

    fn stop(began: u64, lasted_ms: Option<u64>) -> Stop {
        let reason = StopReason::Unpaid;
        let began = Timestamp::from_ms(began);
        Stop { began, lasted_ms, reason, waiting: 2, unpaid: ByteCount::KIB }
    }

    #[test]
    fn the_first_and_last_stops_of_a_session_are_kept_and_the_others_added_up() {
        let (_directory, store) = store();
        let session = id(1).unwrap();
        store.stopped(session, &stop(1, None)).unwrap();
        assert_eq!(store.stops(session).unwrap(), Stops::default(), "of no session of ours");
        store.record(&[began(1, 0)]).unwrap();
        for time in 1..=30 {
            store.stopped(session, &stop(time, None)).unwrap();
            store.stopped(session, &stop(time, Some(10))).unwrap();
        }
        let stops = store.stops(session).unwrap();
        assert_eq!((stops.number, stops.lasted_ms), (30, 300));
        let times: Vec<u64> = stops.kept.iter().map(|stop| stop.began.as_ms()).collect();
        assert_eq!(times, (1..=8).chain(23..=30).collect::<Vec<_>>());
        // A session that never paid goes with the next one, and its stops with it.
        store.record(&[began(2, 0)]).unwrap();
        assert_eq!(store.stops(session).unwrap(), Stops::default());
    }

    #[test]
    fn the_offer_of_a_session_is_kept_as_it_was_and_goes_with_it() {
        let (_directory, store) = store();
        let session = id(1).unwrap();
        let signed_by = |byte| offer(DeviceSignature([byte; 64]));
        store.offered(session, &signed_by(1)).unwrap();
        assert_eq!(store.offer(session).unwrap(), None, "of no session of ours");
        store.record(&[began(1, 0)]).unwrap();
        for byte in [1, 2] {
            store.offered(session, &signed_by(byte)).unwrap();
            assert_eq!(store.offer(session).unwrap(), Some(signed_by(1)));
        }
        // A session that never paid goes with the next one, and its offer with it.
        store.record(&[began(2, 0)]).unwrap();
        assert_eq!(store.offer(session).unwrap(), None);
    }

    /// A payee whose keys sign, its delegation, and its receipt 1 of session 1 over so many units:
    /// the payer's signature is nobody's.
    struct Payee {
        agreement: Agreement,
        delegation: Signed<Delegation>,
    }

    impl Payee {
        const WALLET: [u8; 32] = [3; 32];
        const AUTHORIZER: [u8; 32] = [4; 32];

        fn sign(key: [u8; 32], digest: B256) -> Signature {
            let key = LocalKey::from_secret(&key).unwrap();
            key.sign_digest(digest).unwrap()
        }

        fn new() -> Self {
            let address = |key| LocalKey::from_secret(&key).unwrap().address();
            let (wallet, authorizer) = (address(Self::WALLET), address(Self::AUTHORIZER));
            let mut agreement = agreement(1, 0);
            (agreement.config.payee, agreement.config.payee_authorizer) = (wallet, authorizer);
            let device = agreement.terms.provider;
            let body = Delegation { wallet, device, authorizer, expiry_secs: 9 };
            let signature = Self::sign(Self::WALLET, body.digest(agreement.domain()));
            Self { agreement, delegation: Signed { body, signature } }
        }

        fn receipt(&self, units: u128) -> Countersigned {
            let body = Receipt {
                channel: self.agreement.channel(),
                session: self.agreement.session,
                sequence: 1,
                reading: Reading::ZERO,
                amount: Amount::new(units).unwrap(),
                previous: B256::ZERO,
                time: Timestamp::from_ms(5),
            };
            let payee_signature =
                Self::sign(Self::AUTHORIZER, body.digest(self.agreement.domain()));
            let receipt = Signed { body, signature: signature() };
            Countersigned { receipt, payee_signature }
        }

        /// A store that holds the receipt over 7 units.
        fn kept(&self) -> (tempfile::TempDir, SqliteStore) {
            let (directory, store) = store();
            let Countersigned { receipt, payee_signature } = self.receipt(7);
            let began = Record::Session {
                role: Role::Payer,
                peer: self.agreement.terms.provider,
                agreement: self.agreement.clone(),
                started: Timestamp::from_ms(3),
            };
            let payee_signature = Some(payee_signature);
            store.record(&[began, Record::Receipt { receipt, payee_signature }]).unwrap();
            (directory, store)
        }
    }

    #[test]
    fn a_receipt_that_contradicts_ours_under_the_payees_signature_is_kept_over_a_crash() {
        let payee = Payee::new();
        let (directory, store) = payee.kept();
        let session = payee.agreement.session;
        let other = payee.receipt(6);
        // Whether the channel is frozen, and whether the session goes on over it.
        let stands = |store: &SqliteStore| {
            let known = store.channel(payee.agreement.channel()).unwrap().unwrap();
            assert_eq!(store.channels(Role::Payer).unwrap(), std::slice::from_ref(&known));
            let Terms { provider, service, .. } = payee.agreement.terms;
            let resumed =
                crate::buyer::resumable(store, provider, service, &BTreeSet::new(), |_| None)
                    .unwrap();
            (known.frozen, resumed.is_some())
        };
        assert_eq!(stands(&store), (false, true));
        let found = store.contradicted(&payee.delegation, &other).unwrap().unwrap();
        assert_eq!(found.receipts().map(|receipt| receipt.body.amount.get()), [7, 6]);
        // The first is enough; our own receipt stays as it was.
        assert!(store.contradicted(&payee.delegation, &payee.receipt(5)).unwrap().is_some());
        assert_eq!(store.contradictions(session).unwrap(), std::slice::from_ref(&found));
        assert_eq!(store.receipts(session).unwrap(), [payee.receipt(7)]);

        // What a process that was killed then leaves: its files as they are, never closed.
        let crashed = directory.path().join("crashed.sqlite");
        let wal = |path: &Path| path.with_extension("sqlite-wal");
        let path = directory.path().join("store.sqlite");
        std::fs::copy(&path, &crashed).unwrap();
        std::fs::copy(wal(&path), wal(&crashed)).unwrap();
        let after = SqliteStore::open(&crashed).unwrap();
        assert_eq!(after.contradictions(session).unwrap(), [found]);
        assert_eq!(stands(&after), (true, false));
    }

    #[test]
    fn what_convicts_nobody_is_not_kept() {
        let payee = Payee::new();
        let (_directory, store) = payee.kept();
        let nothing = |delegation: &Signed<Delegation>, theirs: &Countersigned| {
            assert_eq!(store.contradicted(delegation, theirs).unwrap(), None);
        };
        nothing(&payee.delegation, &payee.receipt(7)); // the same
        let mut forged = payee.receipt(6);
        forged.payee_signature = signature();
        nothing(&payee.delegation, &forged);
        let changed = |change: fn(&mut Receipt)| {
            let mut other = payee.receipt(6);
            change(&mut other.receipt.body);
            let digest = other.receipt.body.digest(payee.agreement.domain());
            other.payee_signature = Payee::sign(Payee::AUTHORIZER, digest);
            nothing(&payee.delegation, &other);
        };
        changed(|receipt| receipt.sequence = 2);
        changed(|receipt| receipt.sequence = u64::MAX);
        changed(|receipt| receipt.session = SessionId(B256::repeat_byte(9)));
        changed(|receipt| receipt.channel = sparewire_core::ChannelId(B256::repeat_byte(9)));
        // Of a wallet that the channel does not pay, or that never said so.
        let mut delegation = payee.delegation;
        delegation.body.expiry_secs += 1;
        nothing(&delegation, &payee.receipt(6));
        delegation.body.wallet = sparewire_core::Address::repeat_byte(9);
        nothing(&delegation, &payee.receipt(6));
        assert_eq!(store.contradictions(payee.agreement.session).unwrap(), []);
        assert!(!store.channels(Role::Payer).unwrap()[0].frozen);
    }

    #[test]
    fn receipts_are_told_with_and_without_the_payees_signature() {
        let (_directory, store) = store();
        store.record(&[began(1, 0), receipted(1, 1, true), receipted(1, 2, false)]).unwrap();
        let receipts = store.kept_receipts(id(1).unwrap()).unwrap();
        let signed: Vec<bool> = receipts.iter().map(|r| r.payee_signature.is_some()).collect();
        assert_eq!(signed, [true, false]);
    }

    #[test]
    fn a_snapshot_is_whole_while_the_store_is_written_and_knows_that_it_is_one_once_marked() {
        let (directory, store) = store();
        store.record(&[began(1, 0), paid(1, 100, 100)]).unwrap();
        let copy = directory.path().join("copy.sqlite");
        store.snapshot(&copy).unwrap();
        assert!(store.snapshot(&copy).is_err(), "nothing is overwritten");
        store.record(&[paid(1, 200, 200)]).unwrap();
        let restored = SqliteStore::open(&copy).unwrap();
        assert_eq!(restored.channels(Role::Payee).unwrap()[0].promised().get(), 100);
        assert_eq!(restored.memory(channel(), None).unwrap().resync, None);
        let past =
            |store: &SqliteStore, key| store.was_restored(Address::repeat_byte(key)).unwrap();
        let payee = agreement(1, 0).config.payee_authorizer;
        assert!(!restored.was_restored(payee).unwrap() && !past(&restored, 0x77));
        restored.mark_restored(&[0x77, 0x77, 0x78].map(Address::repeat_byte)).unwrap();
        drop(restored);
        let restored = SqliteStore::open(&copy).unwrap();
        assert!(past(&restored, 0x77) && past(&restored, 0x78) && !past(&restored, 0x79));
        assert!(restored.was_restored(payee).unwrap(), "as its channel says");
        assert!(
            !store.was_restored(payee).unwrap() && !past(&store, 0x77),
            "the one it was made of"
        );
        assert_eq!(restored.memory(channel(), None).unwrap().resync, Some(Amount::ZERO));
        assert_eq!(store.memory(channel(), None).unwrap().resync, None);

        // A channel that it meets for the first time may be one that it has forgotten; not so where
        // an authorizer is named that has no past, nor where we pay.
        let config = agreement(1, 0).config;
        let another = |role, payee_authorizer, salt, store: &SqliteStore| {
            let config = ChannelConfig { payee_authorizer, salt, ..config };
            let domain = agreement(1, 0).terms.domain;
            store.keep_channel(role, &domain, &config).unwrap();
            store.memory(config.id(&domain), None).unwrap().resync
        };
        assert_eq!(another(Role::Payee, payee, 8, &restored), Some(Amount::ZERO));
        let named = Address::repeat_byte(0x77);
        assert_eq!(another(Role::Payee, named, 9, &restored), Some(Amount::ZERO));
        assert_eq!(another(Role::Payee, Address::repeat_byte(0x79), 10, &restored), None);
        assert_eq!(another(Role::Payer, payee, 11, &restored), None);
        assert_eq!(another(Role::Payee, payee, 8, &store), None);
    }

    #[test]
    fn a_file_of_the_version_before_is_opened_with_all_that_is_in_it() {
        let (directory, store) = store();
        let path = directory.path().join("store.sqlite");
        store.record(&[began(1, 0), paid(1, 100, 100), receipted(1, 1, true)]).unwrap();
        drop(store);
        // As versions 4, 3 and 2 left it.
        let back_to_4 = || {
            let file = Connection::open(&path).unwrap();
            let undo_5 = "drop table restored_authorizers; pragma user_version = 4;";
            file.execute_batch(undo_5).unwrap();
            file
        };
        drop(back_to_4());
        let reader = SqliteStore::open_to_read(&path).unwrap().unwrap();
        assert!(!reader.was_restored(Address::ZERO).unwrap());
        drop(reader);
        let back = |to_2: bool| {
            let file = back_to_4();
            let undo_4 = "drop table offers; drop table contradictions; drop table addresses;
                alter table channels drop column agreed; pragma user_version = 3;";
            file.execute_batch(undo_4).unwrap();
            let undo_3 = "drop table stops; drop table stops_forgotten;
                alter table channels drop column restored; pragma user_version = 2;";
            if to_2 {
                file.execute_batch(undo_3).unwrap();
            }
        };
        back(false);
        let reader = SqliteStore::open_to_read(&path).unwrap().unwrap();
        assert_eq!(reader.offer(id(1).unwrap()).unwrap(), None);
        assert_eq!(reader.contradictions(id(1).unwrap()).unwrap(), []);
        assert_eq!(reader.memory(channel(), None).unwrap().agreed, None);
        drop(reader);
        back(true);
        let reader = SqliteStore::open_to_read(&path).unwrap().unwrap();
        assert_eq!(reader.stops(id(1).unwrap()).unwrap(), Stops::default());
        drop(reader);
        back(true);
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(store.channels(Role::Payee).unwrap()[0].promised().get(), 100);
        assert_eq!(store.memory(channel(), id(1)).unwrap().resync, None);
        assert_eq!(store.kept_receipts(id(1).unwrap()).unwrap().len(), 1);
        store.stopped(id(1).unwrap(), &stop(1, Some(5))).unwrap();
        assert_eq!(store.stops(id(1).unwrap()).unwrap().number, 1);
    }
}
