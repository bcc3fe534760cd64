//! What a node has on disk of its sessions and channels, by the reference that every store must
//! agree with.

use std::collections::BTreeMap;

use sparewire_core::{Amount, ChannelId, SessionId};
use sparewire_protocol::{
    Agreement, ChannelConfig, Memory, Payment, Reading, Record, Role, SessionMemory,
};

use super::{
    cast::{DOMAIN, total},
    disk::recall,
};

/// A channel, from one side.
pub(crate) struct Book {
    pub(crate) role: Role,
    pub(crate) peer: usize,
    pub(crate) config: ChannelConfig,
    pub(crate) records: Vec<Record>,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) books: BTreeMap<ChannelId, Book>,
    /// In the order in which they began.
    sessions: Vec<(SessionId, ChannelId)>,
}

impl Book {
    /// The highest promise.
    pub(crate) fn promise(&self) -> Option<Payment> {
        let mut best: Option<Payment> = None;
        for record in &self.records {
            if let Record::Payment { payment, .. } = record
                && best.is_none_or(|b| b.voucher.body.amount <= payment.voucher.body.amount)
            {
                best = Some(*payment);
            }
        }
        best
    }

    pub(crate) fn promised(&self) -> u128 {
        self.promise().map_or(0, |payment| payment.voucher.body.amount.get())
    }

    /// What each session has paid for, in bytes.
    pub(crate) fn paid(&self) -> BTreeMap<SessionId, u64> {
        let mut paid = BTreeMap::new();
        for record in &self.records {
            if let Record::Payment { payment, .. } = record {
                paid.insert(payment.session, total(payment.reading));
            }
        }
        paid
    }
}

impl Store {
    pub(crate) fn keep_channel(&mut self, role: Role, peer: usize, config: ChannelConfig) {
        let new = || Book { role, peer, config, records: Vec::new() };
        self.books.entry(config.id(&DOMAIN)).or_insert_with(new);
    }

    pub(crate) fn record(&mut self, channel: ChannelId, records: Vec<Record>) {
        for record in &records {
            if let Record::Session { agreement, .. } = record {
                self.sessions.push((agreement.session, channel));
            }
        }
        self.books.get_mut(&channel).unwrap().records.extend(records);
    }

    pub(crate) fn memory(&self, channel: ChannelId, session: SessionId) -> Memory {
        self.books.get(&channel).map_or_else(Memory::default, |book| recall(&book.records, session))
    }

    pub(crate) fn is_known(&self, session: SessionId) -> bool {
        self.sessions.iter().any(|(known, _)| *known == session)
    }

    /// Whether it began here and has not ended.
    pub(crate) fn is_open(&self, session: SessionId) -> bool {
        let known = self.sessions.iter().find(|(known, _)| *known == session);
        known.is_some_and(|(_, channel)| !self.has_ended(*channel, session))
    }

    fn has_ended(&self, channel: ChannelId, session: SessionId) -> bool {
        self.books[&channel].records.iter().any(
            |record| matches!(record, Record::Ended(statement) if statement.session == session),
        )
    }

    pub(crate) fn agreement(&self, session: SessionId) -> Option<(Agreement, Reading)> {
        let (_, channel) = self.sessions.iter().find(|(known, _)| *known == session)?;
        let (mut agreed, mut paid) = (None, Reading::ZERO);
        for record in &self.books[channel].records {
            match record {
                Record::Session { agreement, .. } if agreement.session == session => {
                    agreed = Some(agreement.clone());
                }
                Record::Payment { payment, .. } if payment.session == session => {
                    paid = payment.reading;
                }
                _ => {}
            }
        }
        Some((agreed?, paid))
    }

    /// The newest session in which we pay `peer`, where it can go on.
    pub(crate) fn resumable(&self, peer: usize) -> Option<SessionMemory> {
        let ours = |channel: &ChannelId| {
            let book = &self.books[channel];
            book.role == Role::Payer && book.peer == peer
        };
        let (session, channel) = self.sessions.iter().rev().find(|(_, of)| ours(of))?;
        if self.has_ended(*channel, *session) {
            return None;
        }
        let memory = self.memory(*channel, *session);
        let promised = memory.payment.map_or(Amount::ZERO, |newest| newest.voucher.body.amount);
        // What was set off over a connection that is gone is not known to both alike.
        memory.session.filter(|known| known.agreement.owed(known.paid) == Some(promised))
    }
}
