//! The reference: what was put on the wire and what came, whatever the machines say of it, and what
//! follows from that for everybody's money.

use std::collections::{BTreeMap, BTreeSet};

use sparewire_content::BLOCK_LEN;
use sparewire_core::{B256, ChannelId, SessionId, TypedData};
use sparewire_protocol::{Action, ChannelStatus, Message, ProtocolError, Record, Role, Statement};

use super::{
    cast::{DELAY_SECS, DOMAIN, bytes, owed, total},
    driving::Broke,
    end::Key,
    world::{Kind, World},
};

/// What became of the sessions of one connection.
#[derive(Default)]
struct Link {
    ends: Option<(usize, usize)>,
    /// By whose it is, and which session.
    legs: BTreeMap<(usize, u8, SessionId), Leg>,
    begun: BTreeSet<(SessionId, u8)>,
    ended: BTreeMap<(SessionId, u8), (usize, Statement)>,
}

/// A session, as far as it went over one connection, from one side.
#[derive(Clone, Copy)]
pub(crate) struct Leg {
    channel: ChannelId,
    /// What was promised over the channel before, and in the end.
    promised: u128,
    promised_last: Option<u128>,
    /// Good bytes that came, or bytes that were let pass; at the payer with those that came before
    /// and were not paid.
    moved: u64,
    /// It ended properly, and all that was counted was signed for.
    square: bool,
}

impl Leg {
    pub(crate) fn new(channel: ChannelId, promised: u128, unpaid: u64) -> Self {
        Self { channel, promised, promised_last: None, moved: unpaid, square: false }
    }
}

/// How often worlds came to what they are made for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) histories: u64,
    pub(crate) settled: u64,
    pub(crate) set_off: u64,
    pub(crate) set_off_again: u64,
    pub(crate) broken: u64,
    pub(crate) resumed: u64,
    pub(crate) dry: u64,
    pub(crate) topped: u64,
    pub(crate) banned: u64,
    pub(crate) copies: u64,
    pub(crate) avoided: u64,
    pub(crate) cut: u64,
    pub(crate) stalled: u64,
    pub(crate) killed: u64,
    pub(crate) disk: u64,
    pub(crate) complete: u64,
    pub(crate) left: u64,
    pub(crate) slowest_ms: u64,
    pub(crate) loss_percent: u64,
}

impl Reached {
    pub(crate) fn add(&mut self, other: &Self) {
        self.histories += 1;
        self.settled += other.settled;
        self.set_off += other.set_off;
        self.set_off_again += other.set_off_again;
        self.broken += other.broken;
        self.resumed += other.resumed;
        self.dry += other.dry;
        self.topped += other.topped;
        self.banned += other.banned;
        self.copies += other.copies;
        self.avoided += other.avoided;
        self.cut += other.cut;
        self.stalled += other.stalled;
        self.killed += other.killed;
        self.disk += other.disk;
        self.complete += other.complete;
        self.left += other.left;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.loss_percent = self.loss_percent.max(other.loss_percent);
    }
}

impl Reached {
    /// # Panics
    /// Where none of many histories came to something that all should be about.
    pub(crate) fn check(&self, kind: Kind) {
        let seldom = match kind {
            Kind::Trade => [self.settled, self.set_off, self.set_off_again, self.complete],
            Kind::Scant => [self.complete, self.resumed, self.settled, self.cut],
            Kind::Any => [self.resumed, self.left, self.banned, self.broken],
            Kind::Honest => [self.dry, self.topped, self.killed, self.disk],
        };
        assert!(seldom.iter().all(|count| *count > 0), "{self:?}");
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// Good bytes that came to this node in this session.
    delivered: BTreeMap<(usize, SessionId), u64>,
    /// Bytes that were let pass over this channel.
    served: BTreeMap<ChannelId, u64>,
    links: BTreeMap<u64, Link>,
    /// Bytes that a node counted a second time.
    extra: BTreeMap<usize, u64>,
    receipts: BTreeMap<(ChannelId, u64), B256>,
    /// How often a node's process or disk failed.
    pub(crate) crashes: BTreeMap<usize, u64>,
    pub(crate) reached: Reached,
}

impl Ledger {
    pub(crate) fn delivered(&mut self, link: u64, key: Key, session: SessionId, len: u64) {
        *self.delivered.entry((key.0, session)).or_default() += len;
        self.moved(link, key, Role::Payer, session, len);
    }

    pub(crate) fn served(
        &mut self,
        link: u64,
        key: Key,
        (channel, session): (ChannelId, SessionId),
        len: u64,
    ) {
        *self.served.entry(channel).or_default() += len;
        self.moved(link, key, Role::Payee, session, len);
    }

    fn moved(&mut self, link: u64, key: Key, role: Role, session: SessionId, len: u64) {
        let legs = self.links.get_mut(&link).map(|link| &mut link.legs);
        if let Some(leg) = legs.and_then(|legs| legs.get_mut(&(key.0, role as u8, session))) {
            leg.moved += len;
        }
    }

    pub(crate) fn extra(&mut self, node: usize, len: u64) {
        *self.extra.entry(node).or_default() += len;
    }

    pub(crate) fn begun(&mut self, link: u64, key: Key, role: Role, session: SessionId, leg: Leg) {
        let link = self.links.entry(link).or_default();
        link.legs.insert((key.0, role as u8, session), leg);
        link.ends = Some((key.0.min(key.1), key.0.max(key.1)));
        link.begun.insert((session, role as u8));
    }

    pub(crate) fn ended(&mut self, link: u64, key: Key, role: Role, statement: &Statement) {
        let link = self.links.entry(link).or_default();
        link.ended.insert((statement.session, role as u8), (key.0, statement.clone()));
    }

    fn came(&self, node: usize, session: SessionId) -> u64 {
        self.delivered.get(&(node, session)).copied().unwrap_or(0)
    }
}

impl World {
    /// Makes records durable, and looks at what they say.
    pub(crate) fn record(&mut self, node: usize, channel: ChannelId, records: Vec<Record>) {
        if self.is_honest(node) {
            for record in &records {
                self.check_record(node, channel, record);
            }
        }
        self.nodes[node].store.record(channel, records);
    }

    fn check_record(&mut self, node: usize, channel: ChannelId, record: &Record) {
        let book = &self.nodes[node].store.books[&channel];
        match record {
            Record::Payment { payment, .. } => {
                let (session, promise) = (payment.session, payment.voucher.body.amount.get());
                assert!(promise >= book.promised(), "a promise shrank");
                let reserved = self.chain.channels[&channel].reserved;
                assert!(promise <= reserved, "more is promised than the channel holds");
                if book.role == Role::Payee {
                    return;
                }
                // Nothing is paid ahead, nothing for what is bad, over all sessions together.
                let price = self.nodes[book.peer].price;
                let came = self.ledger.came(node, session);
                let paid = total(payment.reading);
                assert!(paid <= came, "{node} pays for {paid} bytes, {came} good ones came");
                let mut sessions: BTreeSet<SessionId> = book.paid().into_keys().collect();
                sessions.insert(session);
                let fair: u128 =
                    sessions.iter().map(|of| owed(price, self.ledger.came(node, *of))).sum();
                assert!(promise <= fair, "{node} promised {promise} for what is worth {fair}");
            }
            Record::Receipt { receipt, .. } => {
                let digest = receipt.body.digest(&DOMAIN);
                let at = (channel, receipt.body.sequence);
                // Each side signs one receipt of a number.
                if book.role == Role::Payer {
                    let known = *self.ledger.receipts.entry(at).or_insert(digest);
                    assert_eq!(known, digest, "two receipts number {}", at.1);
                }
            }
            _ => {}
        }
    }

    /// A signature leaves only after what it commits to is durable.
    pub(crate) fn check_transmitted(&self, node: usize, channel: ChannelId, message: &Message) {
        if !self.is_honest(node) {
            return;
        }
        let records = &self.nodes[node].store.books[&channel].records;
        let durable = match message {
            Message::Payment { payment, .. } => records.iter().rev().any(
                |record| matches!(record, Record::Payment { payment: known, .. } if known == payment),
            ),
            Message::Countersignature { sequence, signature } => records.iter().rev().any(|record| {
                matches!(record, Record::Receipt { receipt, payee_signature: Some(known) }
                    if receipt.body.sequence == *sequence && known == signature)
            }),
            _ => true,
        };
        assert!(durable, "{message:?} leaves before it is durable");
    }

    /// Two that are honest break off for few reasons only.
    pub(crate) fn check_breach(&mut self, key: Key, why: &Broke) {
        use ProtocolError::{CannotResume, ChannelUnusable, LossAllowanceUsed, Refused};
        let Broke::Protocol(error) = why else { return };
        if !self.is_honest(key.0) || !self.is_honest(key.1) {
            return;
        }
        assert_ne!(error.action(), Action::Dispute, "a false dispute: {error}");
        let known = match error {
            CannotResume(_) | LossAllowanceUsed { .. } | ChannelUnusable(_) => true,
            // It broke off before it answered: its disk failed, or the account is no good any more.
            ProtocolError::Unexpected("end of the control stream") => true,
            Refused { code, .. } => {
                use sparewire_protocol::RefusalCode as Code;
                matches!(
                    code,
                    Code::UnknownSession
                        | Code::ChannelUnusable
                        | Code::LossAllowanceUsed
                        | Code::GoingAway
                )
            }
            // The other end is gone and this one has not noticed, or what it said is late.
            ProtocolError::Silent(_) => {
                self.ends.get(&key).is_none_or(|end| !self.is_quick(end.link))
            }
            _ => false,
        };
        assert!(known, "{key:?}: two honest ends break off: {error}");
    }

    /// Everything that holds at any time: what can be claimed and withdrawn, and what may be lost.
    pub(crate) fn audit(&mut self, with_signatures: bool) {
        self.chain.check();
        let mut dry_run = self.chain.clone();
        let secs = self.clock().as_secs();
        for (id, on) in &self.chain.channels {
            let payee = self.nodes[on.payee].store.books.get(id);
            let payer = &self.nodes[on.payer].store.books[id];
            let promise = payee.and_then(|book| book.promise());
            let held = promise.map_or(0, |payment| payment.voucher.body.amount.get());
            if self.is_honest(on.payee) {
                assert!(held <= on.reserved, "a promise that nobody can claim");
                let claimable = on.status != ChannelStatus::Closed || on.claimed >= held;
                assert!(claimable, "the payer left with what was promised");
            }
            if self.is_honest(on.payer) {
                let promised = payer.promised();
                assert!(promised <= on.reserved && on.claimed <= promised);
                let honest = self.is_honest(on.payee);
                assert!(!honest || held <= promised, "{held} of {promised} can be claimed");
            }
            if let (true, Some(payment)) = (with_signatures, promise) {
                let claimed = dry_run.claim(&payment.voucher);
                assert!(!self.is_honest(on.payee) || claimed.is_ok(), "{claimed:?}");
            }
            if with_signatures {
                // The payer leaves now.
                dry_run.start_close(*id, secs);
                let later = secs + u64::from(DELAY_SECS);
                dry_run.finish_close(*id, later).unwrap_or_else(|error| panic!("{error}"));
            }
            if self.is_honest(on.payee) {
                self.ledger.reached.loss_percent =
                    self.ledger.reached.loss_percent.max(self.check_loss(*id));
            }
        }
        dry_run.check();
        let links: BTreeSet<u64> = self.ends.values().map(|end| end.link).collect();
        links.into_iter().for_each(|link| self.check_link(link));
        for one in 0..self.nodes.len() {
            for other in (0..self.nodes.len()).filter(|other| *other != one) {
                self.check_net((one, other));
            }
        }
    }

    /// The most that may be lost over a channel, in bytes: the allowance, what is under way, and as
    /// much again, with a step, for each time that the payee's process or disk failed.
    fn loss_bound(&self, id: ChannelId) -> u64 {
        let on = &self.chain.channels[&id];
        let rule = self.nodes[on.payee].credit;
        let book = self.nodes[on.payee].store.books.get(&id);
        let paid = bytes(book.map_or(0, |book| book.paid().values().sum()));
        let crashes = self.ledger.crashes.get(&on.payee).copied().unwrap_or(0);
        let at_once = rule.credit(paid).get() + rule.step(paid).get();
        rule.loss_allowance(paid).get() + at_once * (1 + crashes)
    }

    /// What was served over a channel and is not paid is within the bound; returns its share.
    fn check_loss(&self, id: ChannelId) -> u64 {
        let on = &self.chain.channels[&id];
        let Some(book) = self.nodes[on.payee].store.books.get(&id) else { return 0 };
        let served = self.ledger.served.get(&id).copied().unwrap_or(0);
        let paid: u64 = book.paid().values().sum();
        let (lost, bound) = (served.saturating_sub(paid), self.loss_bound(id));
        assert!(lost <= bound, "{} lost {lost} bytes to {}, of {bound}", on.payee, on.payer);
        lost * 100 / bound
    }

    /// The same in money, with what was set off: what `one` sent `other` is worth no more than what
    /// it can claim, what it has got and not promised, and what may be lost.
    fn check_net(&self, (one, other): Key) {
        if !self.is_honest(one) {
            return;
        }
        let price = self.nodes[one].price;
        let (mut sent, mut has, mut bound) = (0, 0, 0);
        for (id, book) in &self.nodes[one].store.books {
            if book.peer != other {
                continue;
            }
            let sessions = book.paid();
            if book.role == Role::Payee {
                sent += owed(price, self.ledger.served.get(id).copied().unwrap_or(0));
                has += book.promised();
                bound += owed(price, self.loss_bound(*id)) + 1 + sessions.len() as u128;
            } else {
                let theirs = self.nodes[other].price;
                let of = |session: &SessionId| owed(theirs, self.ledger.came(one, *session));
                let began = book.records.iter().filter_map(|record| match record {
                    Record::Session { agreement, .. } => Some(agreement.session),
                    _ => None,
                });
                let came: u128 = began.map(|session| of(&session)).sum();
                // It may have paid for what it did not count, where a record came back to it.
                has += came.saturating_sub(book.promised());
            }
        }
        assert!(sent <= has + bound, "{one} has {has} of {other} for {sent}, and may lose {bound}");
    }

    /// A session goes on no more over this connection, at this end.
    pub(crate) fn leg_over(
        &mut self,
        link: u64,
        key: Key,
        role: Role,
        session: SessionId,
        square: bool,
    ) {
        let node = &self.nodes[key.0];
        let legs = self.ledger.links.get_mut(&link).map(|link| &mut link.legs);
        if let Some(leg) = legs.and_then(|legs| legs.get_mut(&(key.0, role as u8, session))) {
            leg.promised_last = Some(node.store.books[&leg.channel].promised());
            leg.square = square;
        }
        self.check_link(link);
    }

    /// Over one connection, whatever is under way: what an honest end let pass is worth no more than
    /// what it was promised for it, what came and it has not promised, and its credit (with the step
    /// that is being made durable) in each session that has not ended, or not properly.
    fn check_link(&self, number: u64) {
        let Some(link) = self.ledger.links.get(&number) else { return };
        let Some((one, other)) = link.ends else { return };
        for (ours, theirs) in [(one, other), (other, one)] {
            if !self.is_honest(ours) {
                continue;
            }
            let (node, mut balance) = (&self.nodes[ours], 0i128);
            let (mut bound, mut sessions) = (0, 1);
            for ((whose, role, _), leg) in &link.legs {
                if *whose != ours {
                    continue;
                }
                sessions += 1;
                let book = &node.store.books[&leg.channel];
                let promised = leg.promised_last.unwrap_or_else(|| book.promised());
                let promised = (promised - leg.promised) as i128;
                if *role == Role::Payee as u8 {
                    balance += promised - owed(node.price, leg.moved) as i128;
                    let paid = bytes(book.paid().values().sum());
                    let most = node.credit.credit(paid).get() + node.credit.step(paid).get();
                    bound += if leg.square { 0 } else { owed(node.price, most) };
                } else {
                    balance += owed(self.nodes[theirs].price, leg.moved) as i128 - promised;
                }
            }
            let bound = (bound + 2 * sessions) as i128;
            assert!(
                balance >= -bound,
                "{ours} is {balance} behind with {theirs} over connection {number}, of {bound}"
            );
        }
    }

    /// What two honest ends set off over a connection is the same for both, once all is settled.
    pub(crate) fn check_set_off(&mut self) {
        for link in self.ledger.links.values() {
            let Some((one, other)) = link.ends else { continue };
            if !self.is_honest(one) || !self.is_honest(other) {
                continue;
            }
            let mut set_off = [0u128; 2];
            let mut all = true;
            for (session, _) in &link.begun {
                let of = |role: Role| link.ended.get(&(*session, role as u8));
                let (Some((payer, ours)), Some((_, theirs))) = (of(Role::Payer), of(Role::Payee))
                else {
                    all = false;
                    continue;
                };
                let figures =
                    |s: &Statement| (s.channel, s.receipted, s.paid, s.cumulative, s.price);
                assert_eq!(figures(ours), figures(theirs), "two ends state something else");
                let worth = owed(ours.price, total(ours.receipted));
                // Each session is of two ends: half of each.
                let paid = ours.paid.get();
                set_off[usize::from(*payer != one)] += worth - paid;
            }
            if all {
                assert_eq!(set_off[0], set_off[1], "what is set off is set off twice");
                self.ledger.reached.set_off += u64::from(set_off[0] > 0);
                self.ledger.reached.set_off_again +=
                    u64::from(set_off[0] > 0 && link.begun.len() > 4);
            }
        }
    }

    /// Nobody pays for more than what it has got, save copies.
    pub(crate) fn check_paid(&self) {
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.vice.is_none())
        {
            let books = node.store.books.values().filter(|book| book.role == Role::Payer);
            let paid: u64 = books.map(|book| book.paid().values().sum::<u64>()).sum();
            let once: u64 = node.passed.iter().map(|block| u64::from(block.len)).sum();
            let twice = node.twice + u64::from(node.download.paid_twice());
            let most = once - node.had_first + twice * u64::from(BLOCK_LEN);
            assert!(paid <= most, "{number} paid for {paid} bytes of {most}");
            assert!(
                twice <= u64::from(sparewire_content::PAID_TWICE_MAX) * (1 + u64::from(node.life))
            );
        }
    }

    /// Everybody takes what is theirs, and leaves.
    pub(crate) fn settle_all(&mut self) {
        let ids: Vec<ChannelId> = self.chain.channels.keys().copied().collect();
        let now = self.clock().as_secs();
        for id in &ids {
            self.chain.start_close(*id, now);
            let payee = self.chain.channels[id].payee;
            let promise = self.nodes[payee].store.books.get(id).and_then(|book| book.promise());
            if let Some(payment) = promise {
                let claimed = self.chain.claim(&payment.voucher);
                let was_closed = self.chain.channels[id].status == ChannelStatus::Closed;
                assert!(!self.is_honest(payee) || was_closed || claimed.is_ok(), "{claimed:?}");
            }
        }
        for id in &ids {
            let closed = self.chain.finish_close(*id, now + u64::from(DELAY_SECS));
            closed.unwrap_or_else(|error| panic!("a withdrawal is blocked: {error}"));
        }
        self.chain.check();
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.vice.is_none())
        {
            let of = |role: Role| {
                let books = node.store.books.values().filter(move |book| book.role == role);
                books.map(|book| book.promised()).sum::<u128>()
            };
            let purse = self.chain.purses[&number];
            assert_eq!(purse.earned, of(Role::Payee), "{number} has what it was promised");
            let spent = node.funds - purse.deposit;
            assert!(spent <= of(Role::Payer), "{number} paid {spent}, more than it promised");
        }
    }
}
