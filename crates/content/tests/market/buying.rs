//! The sessions in which a node pays: from the question for terms to a channel, a session and its
//! end, and again.

use std::collections::VecDeque;

use sparewire_core::{ChannelId, Price, Timestamp};
use sparewire_protocol::{
    Agreement, ChannelStatus, Message, Meter, Output, Payer, PayerSetup, ProtocolError,
    RefusalCode, Role, SessionMemory, Statement, Terms,
};

use super::{
    cast::{DOMAIN, bytes, hello, owed, party, session_id, total, units},
    driving::Broke,
    end::{Account, Buy, Command, Key, Machine, Task, Winding},
    vice::Vice,
    world::{ChainOp, Happening, World},
};

const ANSWER_MS: u64 = 20_000;
const WIND_UP_MS: u64 = 4_000;
const JUDGE_MS: u64 = 1_000;
const END_MS: u64 = 10_000;
const TOP_UP_RETRY_MS: u64 = 15_000;

fn may_retry(error: &ProtocolError) -> bool {
    use ProtocolError::{CannotResume, ChannelUnusable, Refused, Silent, TermsExpired};
    match error {
        Refused { code, .. } => !matches!(
            code,
            RefusalCode::WrongNetwork | RefusalCode::Invalid | RefusalCode::ClockSkew
        ),
        CannotResume(_) | ChannelUnusable(_) | Silent(_) | TermsExpired => true,
        _ => false,
    }
}

fn gives_up_session(error: &ProtocolError) -> bool {
    match error {
        ProtocolError::Refused { code, .. } => {
            matches!(code, RefusalCode::UnknownSession | RefusalCode::TermsExpired)
        }
        ProtocolError::CannotResume(_) => true,
        _ => false,
    }
}

impl World {
    pub(crate) fn account(
        agreement: &Agreement,
        begun: &Statement,
        reserved: u128,
        came: u64,
        unit: u64,
    ) -> Account {
        let counted = total(begun.counted);
        let terms = agreement.terms;
        let paid = terms.price.affordable(begun.paid).get().min(counted);
        let payable = agreement.affordable(units(reserved)).get();
        let history = agreement.history.get();
        Account { terms, history, began: counted, paid, came, payable, unit }
    }

    /// Nothing more is to be bought.
    pub(crate) fn is_done(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.closing || node.download.is_complete()
    }

    /// What is to be done now about the session in which we pay.
    pub(crate) fn drive_buying(&mut self, key: Key) {
        let (now, done) = (self.now, self.is_done(key.0));
        let Some(end) = self.ends.get_mut(&key) else { return };
        match &mut end.buy {
            Buy::Rest { .. } if done || end.lost => end.buy = Buy::Over,
            Buy::Rest { until } => {
                if !end.wanted || now < *until {
                    return;
                }
                if end.buy_slot {
                    // Not before the peer has ended its half of the one before.
                    if now >= end.slot_since + END_MS {
                        self.after_purchase(key, &Broke::HungUp);
                    }
                    return;
                }
                (end.buy_slot, end.slot_since, end.came_before) = (true, now, end.came);
                let forgotten = &self.nodes[key.0].past;
                let comes_anew = self.nodes[key.0].vice == Some(Vice::TakesAndLeaves);
                let known = self.nodes[key.0].store.resumable(key.1).filter(|_| !comes_anew);
                let known =
                    known.filter(|known| !forgotten.forgotten.contains(&known.agreement.session));
                let known = known.map(|mut known| {
                    if let Some(counted) = forgotten.broken.get(&known.agreement.session) {
                        known.counted = *counted;
                    }
                    known
                });
                let resume = known.as_ref().map(|known| known.agreement.session);
                end.buy = Buy::Asked { known, since: now };
                self.say(key, Role::Payer, hello(resume));
            }
            Buy::Asked { since, .. } | Buy::Accepting { since, .. }
                if now >= *since + ANSWER_MS =>
            {
                self.give_up_attempt(key, &Broke::HungUp);
            }
            Buy::Asked { .. } | Buy::Accepting { .. } | Buy::Funding { .. } => {
                if end.lost {
                    self.give_up_attempt(key, &Broke::HungUp);
                }
            }
            Buy::Live => self.drive_live(key),
            Buy::Over => {}
        }
    }

    /// Money for a session that is on, and its end.
    fn drive_live(&mut self, key: Key) {
        let (now, done) = (self.now, self.is_done(key.0));
        let unit = self.unit;
        let Some(end) = self.ends.get_mut(&key) else { return };
        let Some(task) = &mut end.buying else { return };
        if let Some(winding) = &mut end.winding {
            if !winding.done && !winding.judging && (end.asked == 0 || now >= winding.until) {
                (winding.judging, winding.until) = (true, now + JUDGE_MS);
            }
            if winding.judging && !winding.done && (end.unjudged == 0 || now >= winding.until) {
                winding.done = true;
                task.commands.push_back(Command::Close("the consumer is done"));
                self.wake(key, Role::Payer, now);
            }
            return;
        }
        let mut ends = done || end.asked_to_close;
        if end.wants_top_up && end.topping.is_none() {
            let (channel, amount) = (task.channel, self.nodes[key.0].channel_amount);
            if self.chain.purses[&key.0].deposit < amount {
                // No more is to be had: what is left is used.
                let reserved = self.chain.channels[&channel].reserved;
                let Machine::Payer(payer) = &task.machine else { return };
                let payable = payer.agreement().affordable(units(reserved)).get();
                let figures = payer.statement(Timestamp::default());
                let counted = total(figures.counted).min(payable);
                let paid = figures.price.owed(bytes(counted)).is_some_and(|o| figures.paid >= o);
                if payable - counted < unit && paid {
                    end.out_of_money = true;
                    self.ledger.reached.dry += 1;
                    ends = true;
                }
            } else if now >= end.top_up_at {
                end.top_up_at = now + TOP_UP_RETRY_MS;
                let op = self.chain_op(key, ChainOp::TopUp { channel, amount });
                if let Some(end) = self.ends.get_mut(&key) {
                    end.topping = Some(op);
                }
            }
        }
        let Some(end) = self.ends.get_mut(&key) else { return };
        if ends {
            end.winding = Some(Winding { until: now + WIND_UP_MS, judging: false, done: false });
            end.figures.close();
            self.tell_figures(key);
            self.drive_live(key);
        }
    }

    /// What the session lets the peer be asked.
    pub(crate) fn tell_figures(&mut self, key: Key) {
        let Some(end) = self.ends.get(&key) else { return };
        let (figures, id, live) = (end.figures, end.id, !matches!(end.buy, Buy::Over));
        let price = self.nodes[key.1].price;
        let download = &mut self.nodes[key.0].download;
        if !live || figures.unready {
            download.unpriced(id);
        } else {
            download.priced(id, price);
            download.allow(id, bytes(figures.allowed));
        }
        self.carry_out(key.0);
    }

    pub(crate) fn unprice(&mut self, key: Key) {
        let Some(end) = self.ends.get(&key) else { return };
        let id = end.id;
        self.nodes[key.0].download.unpriced(id);
        self.carry_out(key.0);
    }

    /// A session that did not come to be.
    fn give_up_attempt(&mut self, key: Key, why: &Broke) {
        self.check_breach(key, why);
        self.tell(|| format!("{key:?} gets no session: {why:?}"));
        if let Some(end) = self.ends.get_mut(&key) {
            end.buy = Buy::Rest { until: 0 };
        }
        self.say_over(key, Role::Payer);
        self.after_purchase(key, why);
    }

    /// Whether and when to try again.
    pub(crate) fn after_purchase(&mut self, key: Key, why: &Broke) {
        let (now, done) = (self.now, self.is_done(key.0));
        let Some(end) = self.ends.get_mut(&key) else { return };
        let retries = match why {
            Broke::Protocol(error) => may_retry(error),
            Broke::HungUp => true,
            Broke::Disk => false,
        };
        if done || end.lost || !retries || std::mem::take(&mut end.out_of_money) {
            end.buy = Buy::Over;
            return self.unprice(key);
        }
        if end.came > end.came_before {
            end.pause = 200;
        }
        end.figures.unready = true;
        end.buy = Buy::Rest { until: now + end.pause };
        end.pause = (end.pause * 2).min(10_000);
        self.tell_figures(key);
    }

    /// A message of the provider, of the session in which we pay.
    pub(crate) fn hear_as_payer(&mut self, key: Key, message: Message) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        match (&mut end.buy, message) {
            (Buy::Live, message) => {
                if let Some(task) = &mut end.buying {
                    task.inbox.push_back(message);
                    self.wake(key, Role::Payer, self.now);
                }
            }
            (Buy::Asked { known, .. }, Message::Offer(offer)) => {
                let known = known.take();
                let known = known.filter(|known| known.agreement.terms == offer.terms);
                let provider = party(key.1).device_id();
                let clock = self.clock();
                match offer.verify(provider, &DOMAIN, known.is_none(), clock) {
                    Ok(terms) if terms.price > self.nodes[key.0].price_max => {
                        let error = ProtocolError::Inconsistent("dearer than we pay");
                        self.give_up_attempt(key, &Broke::Protocol(error));
                    }
                    Ok(terms) => self.find_channel(key, terms, known),
                    Err(error) => self.give_up_attempt(key, &Broke::Protocol(error)),
                }
            }
            (Buy::Asked { .. }, Message::Refused(refused)) => {
                let error = ProtocolError::Refused { code: refused.code, reason: refused.reason };
                self.give_up_attempt(key, &Broke::Protocol(error));
            }
            (Buy::Asked { .. }, _) => {
                let error = ProtocolError::Unexpected("answer to hello");
                self.give_up_attempt(key, &Broke::Protocol(error));
            }
            (Buy::Accepting { .. }, message) => self.answered(key, message),
            // What a session that is over here was still told.
            (Buy::Rest { .. } | Buy::Over | Buy::Funding { .. }, _) => {}
        }
    }

    /// The peer has ended its half.
    pub(crate) fn half_over_as_payer(&mut self, key: Key) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        end.buy_slot = false;
        match &end.buy {
            Buy::Live => {
                if let Some(task) = &mut end.buying {
                    task.half_over = true;
                    self.wake(key, Role::Payer, self.now);
                }
            }
            Buy::Asked { .. } | Buy::Accepting { .. } => {
                let error = ProtocolError::Unexpected("end of the control stream");
                self.give_up_attempt(key, &Broke::Protocol(error));
            }
            Buy::Rest { .. } | Buy::Over | Buy::Funding { .. } => {}
        }
    }

    /// The channel that pays: that of the session to resume, else the fullest, else a new one.
    fn find_channel(&mut self, key: Key, terms: Terms, known: Option<SessionMemory>) {
        let node = &self.nodes[key.0];
        let mut best: Option<(u128, ChannelId)> = None;
        for (id, book) in &node.store.books {
            let open = self.chain.channels.get(id).filter(|on| on.status == ChannelStatus::Open);
            let ours = book.role == Role::Payer && book.peer == key.1;
            let Some(on) = open.filter(|_| ours && !node.past.avoid.contains(id)) else { continue };
            if known.as_ref().is_some_and(|known| known.agreement.config == book.config) {
                best = Some((u128::MAX, *id));
                break;
            }
            let left = on.reserved - book.promised();
            if best.is_none_or(|(most, _)| left > most) {
                best = Some((left, *id));
            }
        }
        let deposit = self.chain.purses[&key.0].deposit;
        let amount = node.channel_amount;
        let (resumes, left) = (best.is_some_and(|(left, _)| left == u128::MAX), best);
        let worth = owed(terms.price, self.unit);
        let op = match left {
            Some((left, channel)) if resumes || left >= worth.max(amount / 4) => {
                return self.accept(key, terms, known, channel);
            }
            Some((_, channel)) if deposit >= amount => {
                (ChainOp::TopUp { channel, amount }, channel)
            }
            Some((left, channel)) if left >= worth => {
                return self.accept(key, terms, known, channel);
            }
            None if deposit >= amount => {
                let salt = self.number();
                let config = party(key.0).channel_to(party(key.1), salt);
                // Remembered before it is opened.
                self.nodes[key.0].store.keep_channel(Role::Payer, key.1, config);
                (ChainOp::Open { config, amount }, config.id(&DOMAIN))
            }
            _ => {
                self.ledger.reached.dry += 1;
                if let Some(end) = self.ends.get_mut(&key) {
                    end.out_of_money = true;
                }
                return self.give_up_attempt(key, &Broke::HungUp);
            }
        };
        let (what, channel) = op;
        let op = self.chain_op(key, what);
        if let Some(end) = self.ends.get_mut(&key) {
            end.buy = Buy::Funding { op, terms, known, channel };
        }
    }

    /// What we asked of the chain is final.
    pub(crate) fn mined(&mut self, key: Key, op: u64, worked: bool) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        if end.topping == Some(op) {
            end.topping = None;
            if let (true, Some(task)) = (worked, &mut end.buying) {
                end.wants_top_up = false;
                end.top_up_at = 0;
                let reserved = units(self.chain.channels[&task.channel].reserved);
                task.commands.push_back(Command::ToppedUp(reserved));
                if let (Machine::Payer(payer), Some(account)) =
                    (&task.machine, &mut end.figures.account)
                {
                    account.payable = payer.agreement().affordable(reserved).get();
                }
                end.figures.allow();
                self.ledger.reached.topped += 1;
                self.wake(key, Role::Payer, self.now);
                self.tell_figures(key);
            }
            return;
        }
        if let Buy::Funding { op: ours, terms, known, channel } = &mut end.buy
            && *ours == op
        {
            let (terms, known, channel) = (*terms, known.take(), *channel);
            match worked {
                true => self.accept(key, terms, known, channel),
                false => {
                    end.out_of_money = true;
                    self.give_up_attempt(key, &Broke::HungUp);
                }
            }
        }
    }

    fn accept(&mut self, key: Key, terms: Terms, known: Option<SessionMemory>, channel: ChannelId) {
        let config = self.nodes[key.0].store.books[&channel].config;
        let known = known.filter(|known| known.agreement.config == config);
        let session = match &known {
            Some(known) => known.agreement.session,
            None => session_id(self.number()),
        };
        self.ledger.reached.resumed += u64::from(known.is_some());
        let mut memory = self.nodes[key.0].store.memory(channel, session);
        if known.is_some() {
            memory.session = known;
        }
        let book = &self.nodes[key.0].store.books[&channel];
        let is_seen = !book.records.is_empty();
        let party = party(key.0);
        let setup = PayerSetup {
            terms,
            session,
            config,
            reserved: units(self.chain.channels[&channel].reserved),
            low_water: units(self.nodes[key.0].channel_amount / 4),
            delegation: party.delegation,
            memory,
            signer: party.authorizer.clone(),
            device: &party.device,
        };
        let mut payer = match Payer::accept(setup, self.clock()) {
            Ok(payer) => payer,
            Err(error) => return self.violation(key, session, error),
        };
        while let Some(output) = payer.poll_output() {
            if let Output::Transmit(message) = output {
                self.say(key, Role::Payer, message);
            }
        }
        let since = self.now;
        if let Some(end) = self.ends.get_mut(&key) {
            end.buy = Buy::Accepting { payer, terms, channel, is_seen, since };
        }
    }

    fn violation(&mut self, key: Key, session: sparewire_core::SessionId, error: ProtocolError) {
        if gives_up_session(&error) {
            let past = &mut self.nodes[key.0].past;
            past.broken.remove(&session);
            past.forgotten.push(session);
        }
        self.give_up_attempt(key, &Broke::Protocol(error));
    }

    fn answered(&mut self, key: Key, answer: Message) {
        let clock = self.clock();
        let id = self.number();
        let Some(end) = self.ends.get_mut(&key) else { return };
        let buy = std::mem::replace(&mut end.buy, Buy::Rest { until: 0 });
        let Buy::Accepting { mut payer, terms, channel, is_seen, .. } = buy else { return };
        let session = payer.agreement().session;
        match answer {
            Message::Refused(refused) => {
                use RefusalCode::{ChannelUnusable, LossAllowanceUsed};
                if matches!(refused.code, ChannelUnusable | LossAllowanceUsed) && is_seen {
                    self.nodes[key.0].past.avoid.push(channel);
                    self.ledger.reached.avoided += 1;
                }
                let error = ProtocolError::Refused { code: refused.code, reason: refused.reason };
                return self.violation(key, session, error);
            }
            Message::Close { reason } => {
                let code = RefusalCode::GoingAway;
                return self.violation(key, session, ProtocolError::Refused { code, reason });
            }
            answer => {
                if let Err(error) = payer.handle_message(answer, clock) {
                    if matches!(error, ProtocolError::ChannelUnusable(_)) {
                        self.nodes[key.0].past.avoid.push(channel);
                    }
                    return self.violation(key, session, error);
                }
            }
        }
        debug_assert_eq!(payer.agreement().terms, terms);
        let begun = payer.statement(clock);
        let Some(end) = self.ends.get_mut(&key) else { return };
        end.buying = Some(Task {
            id,
            meter: Meter::new(begun.counted, bytes(u64::MAX)),
            machine: Machine::Payer(payer),
            channel,
            session,
            inbox: VecDeque::new(),
            commands: VecDeque::new(),
            poked: false,
            started: false,
            busy: false,
            half_over: !end.buy_slot,
            wake_at: None,
            look_at: self.now,
            ended: None,
        });
        end.buy = Buy::Live;
        (end.asked_to_close, end.wants_top_up, end.top_up_at) = (false, false, 0);
        self.turn(key, Role::Payer);
    }

    /// Another price than was said at first is not paid.
    pub(crate) fn price_of(&self, key: Key) -> Option<Price> {
        let price = self.nodes[key.1].price;
        (price <= self.nodes[key.0].price_max).then_some(price)
    }

    /// What the chain is asked to do, and is done some time later, whoever still waits for it.
    fn chain_op(&mut self, key: Key, op: ChainOp) -> u64 {
        let number = self.number();
        let delay = self.random.of(&[50, 300, 2_000, 6_000]);
        self.at(self.now + delay, Happening::Mined { key, number, op });
        number
    }
}
