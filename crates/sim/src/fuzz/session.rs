//! The simulator's whole world, with what happens in it read from bytes.

use super::input::Input;
use sparewire_core::Price;

use crate::{
    chain::TROUBLES,
    disk::Fault,
    plan::{LONE, Operation, Plan},
    vice::{CONSUMER_VICES, PROVIDER_VICES},
    world::World,
};

/// How much may happen in one history.
const OPERATIONS_MAX: usize = 24;

/// A history whose parties, lines and weather come from a seed, and what happens from the bytes:
/// every invariant of the world holds to its end. At most one party has a vice.
pub fn session(bytes: &[u8]) {
    World::new(plan(bytes), None).run();
}

/// The plan that the bytes say.
pub fn plan(bytes: &[u8]) -> Plan {
    let mut input = Input(bytes);
    let seed = u64::from(input.byte()) << 8 | u64::from(input.byte());
    let mut plan = Plan::from_seed(seed);
    plan.vice = None;
    plan.consumers.iter_mut().for_each(|consumer| consumer.vice = None);
    match usize::from(input.byte()) {
        vice @ 0x80.. if vice & 1 == 0 => {
            plan.vice = Some(PROVIDER_VICES[vice / 2 % PROVIDER_VICES.len()]);
        }
        vice @ 0x80.. => {
            plan.consumers[0].vice = Some(CONSUMER_VICES[vice / 2 % CONSUMER_VICES.len()]);
        }
        _ => {}
    }
    let (consumers, initial, price) = (plan.consumers.len(), plan.credit.initial.get(), plan.price);
    let lines: Vec<_> = plan.consumers.iter().map(|consumer| consumer.line).collect();
    let operations = input.list(OPERATIONS_MAX, |input| {
        let later = u64::from(input.byte()) * u64::from(input.byte()) * 2;
        let kind = input.below(32);
        let node = usize::from(input.byte()) % (1 + consumers);
        let consumer = node.saturating_sub(1);
        let (one, two) = (u64::from(input.byte()), u64::from(input.byte()));
        let ms = 500 + one * 350;
        let operation = match kind {
            0..=5 => {
                let (up, down) = (one * initial / 32, two * initial / 16);
                Operation::Traffic { consumer, up, down }
            }
            6 => Operation::CloseSession { consumer },
            7 => Operation::LeaveChain { consumer },
            8 => Operation::ClaimOld { consumer },
            9 => Operation::Settle { provider: 0 },
            10 => Operation::ShutDown { provider: 0, ms },
            11 => Operation::Cut { node, ms },
            12 => Operation::Line { node, line: lines[(one as usize) % lines.len()] },
            13 => Operation::Readdress { node: 1 + consumer },
            14 => Operation::Rebind { node: 1 + consumer },
            15 => Operation::Kill { node, ms: ms / 4 },
            16 => Operation::PowerCut { node, ms: ms / 4 },
            17 | 18 => Operation::CutBefore { node, outputs: one as u8 % 24, power: two & 1 == 1 },
            19 => Operation::StopDiskAt { node, step: 1 + one % 60, power: two.is_multiple_of(2) },
            20 => Operation::DiskFull { node, ms },
            21 => {
                let faults = [Fault::Read, Fault::Write, Fault::Sync, Fault::SyncForgets];
                Operation::DiskFault { node, fault: faults[two as usize % 4], nth: 1 + one % 40 }
            }
            22 => {
                let hours = one as i64 % 13 - 6;
                Operation::Skew { node, ms: hours * 3_600_000 + two as i64 * 39 - 5_000 }
            }
            23 => Operation::Reorg { depth: 1 + one % 7 },
            24 => Operation::Halt { ms },
            25 => Operation::Spike { factor: 2 + two % 58, ms: ms * 4 },
            26 => Operation::TakeDown { endpoint: two as usize % 4, ms },
            27 => Operation::FrontRun,
            28 => Operation::Backup { consumer },
            29 => Operation::Restore { consumer },
            30 => {
                let trouble = TROUBLES[one as usize % TROUBLES.len()];
                Operation::Troubled { endpoint: LONE + two as usize % 3, trouble }
            }
            _ => {
                let other = price.get() * u128::from(one) / 64;
                Operation::Price { price: Price::per_gib(other).unwrap_or(price) }
            }
        };
        (later, operation)
    });
    let mut at = 0;
    plan.operations = operations
        .into_iter()
        .map(|(later, operation)| {
            at += later;
            (at, operation)
        })
        .collect();
    plan
}
