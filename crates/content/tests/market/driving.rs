//! One session's machine and everything that it is connected to: one input at a time, then outputs
//! until there are none, each before the next. As the node's driver does it with tasks and channels.

use sparewire_protocol::{Direction, Event, Message, Output, ProtocolError, Record, Role};

use super::{
    cast::total,
    end::{Command, Key, Machine, Sell, take_event},
    ledger::Leg,
    vice::Vice,
    world::{Happening, World},
};

/// Figures are looked at so often, in ms.
const FIGURES_MS: u64 = 1_000;
/// No driver turns so often without time going on.
const TURNS_MAX: u32 = 100_000;

/// Why a session broke off.
#[derive(Clone, Debug)]
pub(crate) enum Broke {
    Protocol(ProtocolError),
    /// The connection, or the other half of the session, is over.
    HungUp,
    /// Nothing can be recorded.
    Disk,
}

#[allow(clippy::large_enum_variant)] // lives for one turn
enum Input {
    Message(Message),
    Command(Command),
    Reading,
    Timeout,
}

impl World {
    /// Wakes a session's driver at `at` at the latest.
    pub(crate) fn wake(&mut self, key: Key, role: Role, at: u64) {
        let Some(task) = self.ends.get_mut(&key).and_then(|end| end.task(role)) else { return };
        if task.wake_at.is_none_or(|before| at < before) {
            task.wake_at = Some(at);
            let id = task.id;
            self.at(at, Happening::Wake { key, role, task: id });
        }
    }

    pub(crate) fn poke(&mut self, key: Key, role: Role) {
        if let Some(task) = self.ends.get_mut(&key).and_then(|end| end.task(role)) {
            task.poked = true;
            self.wake(key, role, self.now);
        }
    }

    pub(crate) fn woken(&mut self, key: Key, role: Role, id: u64) {
        let now = self.now;
        let Some(task) = self.ends.get_mut(&key).and_then(|end| end.task(role)) else { return };
        if task.id == id {
            task.wake_at = task.wake_at.filter(|at| *at > now);
            self.turn(key, role);
        }
    }

    pub(crate) fn turn(&mut self, key: Key, role: Role) {
        self.turns += 1;
        if self.turns_at != self.now {
            (self.turns, self.turns_at) = (0, self.now);
        }
        assert!(self.turns < TURNS_MAX, "a driver spins");
        while self.drain(key, role) {
            let Some(input) = self.next_input(key, role) else { return };
            let now = self.clock();
            let Some(end) = self.ends.get_mut(&key) else { return };
            let before = end.account;
            let cheats = self.nodes[key.0].vice == Some(Vice::SetsOffTwice);
            let more = if cheats { end.set_off_before } else { 0 };
            let account = &mut end.account;
            let task = match role {
                Role::Payer => end.buying.as_mut(),
                Role::Payee => end.selling.as_mut(),
            };
            let Some(task) = task else { return };
            task.look_at = self.now + FIGURES_MS;
            // The newest reading first: a payment must not look as if it ran ahead of it.
            let reading = task.meter.reading();
            let machine = &mut task.machine;
            let timed_out = matches!(input, Input::Timeout);
            let result = (|| {
                machine.hear(account, more, now)?;
                machine.handle_reading(reading, now)?;
                match input {
                    Input::Message(message) => machine.handle_message(message, now)?,
                    Input::Timeout => machine.handle_timeout(now)?,
                    Input::Reading => {}
                    Input::Command(command) => match (command, &mut *machine) {
                        (Command::Close(reason), Machine::Payer(payer)) => {
                            payer.handle_close(reason, now);
                        }
                        (Command::Close(reason), Machine::Payee(payee)) => {
                            payee.handle_close(reason, now);
                        }
                        (Command::ToppedUp(reserved), Machine::Payer(payer)) => {
                            payer.handle_top_up(reserved, now)?;
                        }
                        (Command::Look, Machine::Payee(payee)) => {
                            if let Some(facts) = self.chain.facts(task.channel) {
                                payee.handle_chain_event(facts);
                            }
                        }
                        _ => {}
                    },
                }
                machine.tell(account);
                Ok(())
            })();
            if timed_out && result.is_ok() {
                let due = machine.poll_timeout().is_some_and(|at| at <= now);
                assert!(!due, "a timeout that was handled is due again");
            }
            let other = match role {
                Role::Payer => Role::Payee,
                Role::Payee => Role::Payer,
            };
            let changed = *account != before;
            match result {
                Ok(()) if changed => self.poke(key, other),
                Ok(()) => {}
                Err(error) => return self.break_off(key, role, Broke::Protocol(error)),
            }
        }
    }

    fn next_input(&mut self, key: Key, role: Role) -> Option<Input> {
        let (now, clock) = (self.now, self.clock());
        let end = self.ends.get_mut(&key)?;
        if end.broken {
            self.break_off(key, role, Broke::HungUp);
            return None;
        }
        let lost = end.lost;
        let task = end.task(role)?;
        let due = task.machine.poll_timeout();
        let mut ready = Vec::with_capacity(4);
        if !task.inbox.is_empty() {
            ready.push(0);
        }
        if !task.commands.is_empty() {
            ready.push(1);
        }
        if task.poked || now >= task.look_at {
            ready.push(2);
        }
        if due.is_some_and(|at| at <= clock) {
            ready.push(3);
        }
        if task.inbox.is_empty() && (lost || task.half_over) {
            self.break_off(key, role, Broke::HungUp);
            return None;
        }
        if ready.is_empty() {
            let due = due.map_or(u64::MAX, |at| now + at.ms_since(clock));
            let at = due.min(task.look_at).max(now + 1);
            self.wake(key, role, at);
            return None;
        }
        match self.random.of(&ready) {
            0 => task.inbox.pop_front().map(Input::Message),
            1 => task.commands.pop_front().map(Input::Command),
            2 => {
                task.poked = false;
                Some(Input::Reading)
            }
            _ => Some(Input::Timeout),
        }
    }

    /// Carries out outputs; `false` where the session waits for the disk or is over.
    fn drain(&mut self, key: Key, role: Role) -> bool {
        loop {
            let now = self.clock();
            let Some(end) = self.ends.get_mut(&key) else { return false };
            let Some(task) = end.task(role) else { return false };
            if task.busy {
                return false;
            }
            let Some(output) = task.machine.poll_output() else { break };
            if self.fuse_burns(key) {
                return false;
            }
            let Some(end) = self.ends.get_mut(&key) else { return false };
            let came = end.came;
            let Some(task) = end.task(role) else { return false };
            let (id, channel) = (task.id, task.channel);
            match output {
                Output::Persist(records) => {
                    if std::mem::take(&mut self.nodes[key.0].disk_fails) {
                        self.break_off(key, role, Broke::Disk);
                        // Neither it nor who was turned away tries again over this connection:
                        // somebody looks after the disk, and starts it anew.
                        let at = self.now + self.random.below(5_000);
                        self.at(at, Happening::Kill { node: key.0 });
                        return false;
                    }
                    let slow = if self.random.one_in(100) { 2_500 } else { 40 };
                    match self.random.of(&[0, 0, 0, 1, 5, slow]) {
                        0 => self.record(key.0, channel, records),
                        delay => {
                            task.busy = true;
                            let life = self.nodes[key.0].life;
                            let at = self.now + delay;
                            let wait =
                                Happening::Durable { key, role, task: id, life, channel, records };
                            self.at(at, wait);
                            return false;
                        }
                    }
                }
                Output::Transmit(message) => {
                    self.check_transmitted(key.0, channel, &message);
                    if !self.say(key, role, message) {
                        self.break_off(key, role, Broke::HungUp);
                        return false;
                    }
                }
                Output::Grant(limit) => {
                    task.meter.set_limit(limit);
                    self.pump(key);
                }
                Output::Event(event) => {
                    if let Event::Ended(statement) = &event {
                        task.ended = Some(statement.clone());
                    }
                    let started = matches!(event, Event::Started { .. });
                    task.started |= started;
                    match role {
                        Role::Payer => {
                            let (agreement, reserved) = match &task.machine {
                                Machine::Payer(payer) => {
                                    let reserved = self.chain.channels[&channel].reserved;
                                    (payer.agreement().clone(), reserved)
                                }
                                Machine::Payee(_) => unreachable!("a payer"),
                            };
                            let begun = task.machine.statement(now);
                            if started {
                                end.unjudged = 0;
                                let book = &self.nodes[key.0].store.books[&channel];
                                let paid = book.paid().get(&agreement.session).copied();
                                let unpaid = total(begun.counted) - paid.unwrap_or(0);
                                let promised = book.promised();
                                let leg = Leg::new(channel, promised, unpaid);
                                self.ledger.begun(end.link, key, role, agreement.session, leg);
                            }
                            match &event {
                                Event::Exhausted => end.wants_top_up = true,
                                Event::PeerClosing { .. } => end.asked_to_close = true,
                                _ => {}
                            }
                            let unit = self.unit;
                            let start = || Self::account(&agreement, &begun, reserved, came, unit);
                            if take_event(&mut end.figures, &event, start) {
                                self.tell_figures(key);
                            }
                        }
                        Role::Payee => {
                            let session = task.session;
                            if started {
                                end.sales += 1;
                                let promised = self.nodes[key.0].store.books[&channel].promised();
                                let leg = Leg::new(channel, promised, 0);
                                self.ledger.begun(end.link, key, role, session, leg);
                                self.serve(key);
                            }
                            if matches!(event, Event::Funded) {
                                let delay = self.random.of(&[0, 20, 300]);
                                self.at(self.now + delay, Happening::Look { key, task: id });
                            }
                        }
                    }
                }
            }
        }
        let ended = self.ends.get_mut(&key).and_then(|end| end.task(role)?.ended.take());
        match ended {
            Some(statement) => {
                self.finish(key, role, &statement);
                false
            }
            None => true,
        }
    }

    /// What was being made durable is.
    pub(crate) fn durable(
        &mut self,
        (key, role, id): (Key, Role, u64),
        channel: sparewire_core::ChannelId,
        records: Vec<Record>,
    ) {
        self.record(key.0, channel, records);
        if let Some(task) = self.ends.get_mut(&key).and_then(|end| end.task(role))
            && task.id == id
        {
            task.busy = false;
            self.turn(key, role);
        }
    }

    /// The session has ended properly at this end.
    fn finish(&mut self, key: Key, role: Role, statement: &sparewire_protocol::Statement) {
        let done = self.is_done(key.0);
        let now = self.now;
        let Some(end) = self.ends.get_mut(&key) else { return };
        let task = match role {
            Role::Payer => end.buying.take(),
            Role::Payee => end.selling.take(),
        };
        let Some(task) = task else { return };
        let before = end.account;
        task.machine.leave(&mut end.account);
        if let Machine::Payer(payer) = &task.machine {
            end.set_off_before += payer.debt().get();
        }
        let changed = end.account != before;
        let link = end.link;
        self.ledger.ended(link, key, role, statement);
        let square = statement.receipted.covers(statement.counted);
        self.leg_over(link, key, role, task.session, square);
        let Some(end) = self.ends.get_mut(&key) else { return };
        match role {
            Role::Payer => {
                end.figures.account = None;
                end.figures.close();
                end.winding = None;
                if done || std::mem::take(&mut end.out_of_money) {
                    end.buy = super::end::Buy::Over;
                } else {
                    end.buy = super::end::Buy::Rest { until: now + end.pause };
                    end.pause = (end.pause * 2).min(10_000);
                }
                let over = matches!(end.buy, super::end::Buy::Over);
                self.nodes[key.0].past.broken.remove(&task.session);
                if over {
                    self.unprice(key);
                }
                self.tell_figures(key);
            }
            Role::Payee => {
                end.sell = Sell::Parting { until: now + 5_000 };
                end.sales += 1;
                end.fruitless = 0;
                self.ledger.reached.settled += 1;
                self.serve(key);
            }
        }
        self.say_over(key, role);
        if changed {
            self.poke(key, if role == Role::Payer { Role::Payee } else { Role::Payer });
        }
        self.drive(key);
    }

    pub(crate) fn break_off(&mut self, key: Key, role: Role, why: Broke) {
        let (now, clock) = (self.now, self.clock());
        let Some(end) = self.ends.get_mut(&key) else { return };
        let task = match role {
            Role::Payer => end.buying.take(),
            Role::Payee => end.selling.take(),
        };
        let Some(mut task) = task else { return };
        self.check_breach(key, &why);
        self.tell(|| format!("{key:?} {role:?} breaks off: {why:?}"));
        let Some(end) = self.ends.get_mut(&key) else { return };
        if end.account.is_used() {
            end.broken = true;
        }
        let (broken, link) = (end.broken, end.link);
        match role {
            Role::Payer => {
                let past = &mut self.nodes[key.0].past;
                past.broken.insert(task.session, task.meter.reading());
                if broken {
                    past.broken.remove(&task.session);
                    past.forgotten.push(task.session);
                }
                end.figures.account = None;
                end.figures.close();
                end.winding = None;
                self.say_over(key, role);
                self.after_purchase(key, &why);
            }
            Role::Payee => {
                if let Broke::Protocol(error) = &why {
                    self.refuse(key, error);
                }
                self.say_over(key, role);
                if let Machine::Payee(payee) = &mut task.machine {
                    payee.handle_disconnect(task.meter.reading(), clock);
                    while let Some(output) = payee.poll_output() {
                        let Output::Persist(records) = output else {
                            panic!("only what was carried is remembered");
                        };
                        self.record(key.0, task.channel, records);
                    }
                }
                if let Some(end) = self.ends.get_mut(&key) {
                    end.sales += 1;
                    end.apps.pop_front();
                    end.fruitless += 1;
                    end.sell = Self::pause(end.fruitless, now);
                    self.serve(key);
                }
            }
        }
        self.leg_over(link, key, role, task.session, false);
        if broken {
            self.ledger.reached.broken += 1;
            self.end_link(key, link);
        }
        self.poke(key, if role == Role::Payer { Role::Payee } else { Role::Payer });
        self.drive(key);
    }

    /// Bytes that passed are counted in the session that is on.
    pub(crate) fn count(&mut self, key: Key, len: u64) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        let Some(task) = end.buying.as_mut().filter(|task| task.started) else { return };
        let counts = end.unjudged.min(len);
        end.unjudged -= counts;
        let counted = task.meter.admit(Direction::Down, counts as usize) as u64;
        assert_eq!(counted, counts, "a payer's meter lets all pass");
        if task.meter.admitted() >= task.machine.poll_mark().get() {
            self.poke(key, Role::Payer);
        }
    }
}
