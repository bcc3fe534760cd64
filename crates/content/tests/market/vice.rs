//! Nodes that do not do what they should. Their machines are real, and so are their keys; what they
//! say is not what their machines want said.

use sparewire_protocol::{Message, Payment, Reading, Role};

use super::{
    cast::{bytes, party, total, units},
    end::{Key, Machine},
    world::{Happening, World},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vice {
    /// Sends bad blocks now and then.
    Spoils,
    /// Says that it has all, and sends nothing.
    SendsNothing,
    /// Stops sending after some blocks.
    Stops,
    NeverPays,
    /// Pays, after some seconds.
    PaysLate,
    /// Says that more is set off than is.
    PaysShort,
    /// Sets off once more what was set off in sessions that are over.
    SetsOffTwice,
    /// Says again what it has said before, in other sessions too.
    Replays,
    /// Signs no receipts.
    NoReceipts,
    /// Tells that it owes more than came, and pays with promises of another size.
    Forges,
    /// Never pays, leaves with what it has got, and comes back for another session.
    TakesAndLeaves,
    /// Takes its money out of channels in use.
    LeavesOnChain,
}

pub(crate) const VICES: [Vice; 13] = [
    Vice::Spoils,
    Vice::SendsNothing,
    Vice::Stops,
    Vice::NeverPays,
    Vice::PaysLate,
    Vice::PaysShort,
    Vice::SetsOffTwice,
    Vice::SetsOffTwice,
    Vice::Replays,
    Vice::NoReceipts,
    Vice::Forges,
    Vice::TakesAndLeaves,
    Vice::LeavesOnChain,
];

/// How much of what it said a node remembers.
const SAID_MAX: usize = 200;

impl World {
    /// What is said instead of `message`.
    pub(crate) fn bend(&mut self, key: Key, role: Role, message: Message) -> Vec<Message> {
        let Some(vice) = self.nodes[key.0].vice else { return vec![message] };
        match (vice, message) {
            (Vice::NeverPays | Vice::TakesAndLeaves, Message::Payment { .. }) => vec![],
            (Vice::PaysLate, Message::Payment { payment, receipt }) => {
                let message = Message::Payment { payment, receipt };
                let at = self.now + 500 + self.random.below(12_000);
                let Some(end) = self.ends.get(&key) else { return vec![] };
                self.at(at, Happening::Late { key, link: end.link, message });
                vec![]
            }
            (Vice::PaysShort, Message::Payment { payment, receipt }) => {
                let payment = self.shorter(key, payment).unwrap_or(payment);
                vec![Message::Payment { payment, receipt: receipt.filter(|_| false) }]
            }
            (Vice::NoReceipts, Message::Payment { payment, .. }) => {
                vec![Message::Payment { payment, receipt: None }]
            }
            (Vice::NoReceipts, Message::Countersignature { .. }) => vec![],
            (Vice::Replays, message) => {
                let node = &mut self.nodes[key.0];
                if node.said.len() < SAID_MAX {
                    node.said.push((key.1, role, message.clone()));
                }
                let mut all = vec![message];
                if self.random.one_in(6) {
                    let said: Vec<Message> = self.nodes[key.0]
                        .said
                        .iter()
                        .filter(|(peer, of, _)| (*peer, *of) == (key.1, role))
                        .map(|(_, _, message)| message.clone())
                        .collect();
                    let at = self.random.below(said.len() as u64) as usize;
                    all.push(said[at].clone());
                }
                all
            }
            (Vice::Forges, message) if self.random.one_in(6) => vec![self.forged(key, message)],
            (_, message) => vec![message],
        }
    }

    /// The same bytes, for less.
    fn shorter(&mut self, key: Key, payment: Payment) -> Option<Payment> {
        let Machine::Payer(payer) = &self.ends.get(&key)?.buying.as_ref()?.machine else {
            return None;
        };
        let base = payer.agreement().base.get();
        let amount = payment.voucher.body.amount.get();
        let less = base + amount.checked_sub(base)? * self.random.below(4).min(3) as u128 / 3;
        let config = payer.agreement().config;
        let voucher = party(key.0).voucher(&config, units(less));
        Some(Payment { voucher, ..payment })
    }

    fn forged(&mut self, key: Key, message: Message) -> Message {
        let more = 1 + self.random.below(100_000);
        let ahead = |reading: Reading| Reading { down: bytes(total(reading) + more), ..reading };
        match message {
            Message::Due { reading } => Message::Due { reading: ahead(reading) },
            Message::Payment { payment, receipt } => {
                let Some(end) = self.ends.get(&key) else {
                    return Message::Payment { payment, receipt };
                };
                let config = match end.buying.as_ref().map(|task| &task.machine) {
                    Some(Machine::Payer(payer)) => payer.agreement().config,
                    _ => return Message::Payment { payment, receipt },
                };
                let amount = payment.voucher.body.amount.get();
                let payment = match self.random.below(4) {
                    0 => Payment { reading: ahead(payment.reading), ..payment },
                    1 => {
                        // Of somebody else's hand.
                        let other = (key.0 + 1) % super::cast::NODES_MAX;
                        let voucher = party(other).voucher(&config, units(amount + 1_000));
                        Payment { voucher, ..payment }
                    }
                    2 => {
                        let voucher = party(key.0).voucher(&config, units(1 << 100));
                        Payment { voucher, ..payment }
                    }
                    _ => {
                        let voucher = party(key.0).voucher(&config, units(amount / 2));
                        Payment { voucher, ..payment }
                    }
                };
                Message::Payment { payment, receipt }
            }
            Message::Accepted(mut accepted) => {
                match self.random.below(3) {
                    0 => accepted.base = units(accepted.base.get() + u128::from(more)),
                    1 => accepted.reading = ahead(accepted.reading),
                    _ => accepted.history = bytes(1 << 50),
                }
                Message::Accepted(accepted)
            }
            Message::Report { reading, credit, .. } => {
                let last = self.random.one_in(2);
                Message::Report { reading: ahead(reading), credit, last }
            }
            Message::Countersignature { sequence, signature } => {
                Message::Countersignature { sequence: sequence + 1, signature }
            }
            other => other,
        }
    }
}
