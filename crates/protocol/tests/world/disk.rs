//! What a disk remembers, naively.

use std::collections::BTreeMap;

use sparewire_core::{ByteCount, SessionId};
use sparewire_protocol::{Countersigned, Memory, Reading, Record, Role, SessionMemory};

use super::cast::*;

/// What a disk remembers: the reference that every store must agree with.
///
/// * `payment`: the highest voucher; of several at one amount the one that was written last.
/// * `pending`: signed by the payer, and no countersigned record has its number.
/// * `history`: what all other sessions over the channel paid for, by their last payments.
/// * `lost`: written off, or carried and unpaid in other sessions that have not ended.
/// * `session`: only while it has not ended and, at the payee, no other one began while it had not
///   paid; counted is what the last `Counted` says, or what is paid for.
/// * `agreed`: the close that was agreed on.
pub(crate) fn recall(disk: &[Record], session: SessionId) -> Memory {
    let mut memory = Memory::default();
    let (mut last, mut counted) = (BTreeMap::new(), BTreeMap::<SessionId, Reading>::new());
    for record in disk {
        match record {
            Record::Session { agreement, .. } if agreement.session == session => {
                memory.session = Some(SessionMemory {
                    agreement: agreement.clone(),
                    counted: Reading::ZERO,
                    reported_up: ByteCount::ZERO,
                    paid: Reading::ZERO,
                });
            }
            Record::Session { role, .. } => {
                if *role == Role::Payee && !last.contains_key(&session) {
                    memory.session = None;
                }
            }
            Record::Counted { session: of, reading } => {
                counted.insert(*of, *reading);
            }
            Record::Payment { payment, .. } => {
                last.insert(payment.session, payment.reading);
                let amount = payment.voucher.body.amount;
                if memory.payment.is_none_or(|known| known.voucher.body.amount <= amount) {
                    memory.payment = Some(*payment);
                }
            }
            Record::Receipt { receipt, payee_signature: Some(payee_signature) } => {
                let countersigned =
                    Countersigned { receipt: *receipt, payee_signature: *payee_signature };
                let newest = memory.receipt.map_or(0, |known| known.receipt.body.sequence);
                if receipt.body.sequence > newest {
                    memory.receipt = Some(countersigned);
                }
                if memory.pending.is_some_and(|p| p.body.sequence <= receipt.body.sequence) {
                    memory.pending = None;
                }
            }
            Record::Receipt { receipt, payee_signature: None } => memory.pending = Some(*receipt),
            Record::Loss { bytes, .. } => {
                memory.lost = memory.lost.checked_add(*bytes).unwrap();
            }
            Record::Ended(statement) => {
                counted.remove(&statement.session);
                if statement.session == session {
                    memory.session = None;
                }
            }
            Record::Agreed { close, .. } => memory.agreed = Some(*close),
        }
    }
    if let Some(known) = &mut memory.session {
        let paid = last.get(&session).copied().unwrap_or_default();
        let carried = counted.get(&session).copied().unwrap_or_default();
        (known.paid, known.reported_up) = (paid, paid.up);
        known.counted = Reading { up: carried.up.max(paid.up), down: carried.down.max(paid.down) };
    }
    counted.remove(&session);
    for (other, carried) in counted {
        let paid = last.get(&other).map_or(0, |reading| total(*reading));
        let unpaid = total(carried).saturating_sub(paid);
        memory.lost = memory.lost.checked_add(bytes(unpaid)).unwrap();
    }
    last.remove(&session);
    memory.history = bytes(last.values().map(|reading| total(*reading)).sum());
    memory
}

/// The newest session on a disk that has not ended.
pub(crate) fn newest_session(disk: &[Record]) -> Option<SessionId> {
    disk.iter().rev().find_map(|record| match record {
        Record::Session { agreement, .. } => {
            let id = agreement.session;
            Some(recall(disk, id).session.map(|_| id))
        }
        _ => None,
    })?
}
