//! The sessions in which a node is paid: applications in the order in which they come.

use std::collections::VecDeque;

use sparewire_protocol::{
    Acceptance, Message, Meter, Payee, PayeeSetup, ProtocolError, RefusalCode, Refused, Role,
    Terms, short_reason,
};

use super::{
    cast::{DOMAIN, bytes, party},
    driving::Broke,
    end::{App, Command, Key, Machine, Sell, Task},
    world::World,
};

impl World {
    /// How long whoever comes to nothing again and again has to wait.
    pub(crate) fn pause(fruitless: u32, now: u64) -> Sell {
        match fruitless {
            0 | 1 => Sell::Idle,
            more => Sell::Pause { until: now + (200u64 << (more - 2).min(6)).min(10_000) },
        }
    }

    /// A message, or the end of its half, of whoever pays us.
    pub(crate) fn hear_as_payee(&mut self, key: Key, message: Option<Message>) {
        let id = self.number();
        let Some(end) = self.ends.get_mut(&key) else { return };
        let Some(message) = message else {
            match end.sell_slot.take() {
                Some(slot) => {
                    if let Some(app) = end.apps.iter_mut().find(|app| app.id == slot) {
                        app.over = true;
                    }
                    self.drive_selling(key);
                }
                // It wanted to begin a session, and thought better of it: it waits for our half.
                None => self.say_over(key, Role::Payee),
            }
            return;
        };
        let slot = match end.sell_slot {
            Some(slot) => slot,
            None if end.apps.len() >= 2 => {
                let link = end.link;
                return self.end_link(key, link); // faster than they can be taken
            }
            None => {
                end.apps.push_back(App { id, ..App::default() });
                end.sell_slot = Some(id);
                id
            }
        };
        if let Some(app) = end.apps.iter_mut().find(|app| app.id == slot) {
            app.inbox.push_back(message);
            self.drive_selling(key);
        }
    }

    pub(crate) fn drive_selling(&mut self, key: Key) {
        let now = self.now;
        loop {
            let closing = self.nodes[key.0].closing;
            let Some(end) = self.ends.get_mut(&key) else { return };
            if end.lost && end.selling.is_none() {
                return;
            }
            let Some(app) = end.apps.front_mut() else {
                if let Sell::Pause { until } = end.sell
                    && now >= until
                {
                    end.sell = Sell::Idle;
                }
                return;
            };
            match &mut end.sell {
                Sell::Pause { until } if now < *until => return,
                Sell::Pause { .. } => end.sell = Sell::Idle,
                Sell::Idle if closing => return,
                Sell::Idle => {
                    let Some(message) = app.inbox.pop_front() else {
                        if app.over {
                            self.turn_away(key, None);
                            continue;
                        }
                        return;
                    };
                    let Message::Hello { resume, .. } = message else {
                        self.turn_away(key, None);
                        continue;
                    };
                    let (node, clock) = (&self.nodes[key.0], self.clock());
                    let known = resume.filter(|session| node.store.is_open(*session));
                    let known = known.and_then(|session| node.store.agreement(session));
                    let device = party(key.0);
                    let ours = device.terms(node.price, node.credit, clock);
                    let known = known.filter(|(agreement, _)| {
                        let peer = party(key.1);
                        agreement.config.payer == peer.wallet_address()
                            && agreement.terms.provider == device.device_id()
                    });
                    let terms = known.map_or(ours, |(agreement, _)| agreement.terms);
                    let offer = device.offer(terms);
                    let Some(end) = self.ends.get_mut(&key) else { return };
                    end.sell = Sell::Offered { terms };
                    self.say(key, Role::Payee, Message::Offer(Box::new(offer)));
                }
                Sell::Offered { terms } => {
                    let terms = *terms;
                    match app.inbox.pop_front() {
                        Some(Message::Accept { acceptance, signature }) => {
                            self.admit(key, terms, *acceptance, signature);
                        }
                        Some(_) => self.turn_away(key, None),
                        None if app.over => self.turn_away(key, None), // only looked
                        None => return,
                    }
                }
                Sell::Live => {
                    let Some(task) = &mut end.selling else { return };
                    task.inbox.append(&mut app.inbox);
                    task.half_over = app.over;
                    self.wake(key, Role::Payee, now);
                    return;
                }
                Sell::Parting { until } => {
                    if !app.over && now < *until {
                        return;
                    }
                    end.apps.pop_front();
                    end.sell = Sell::Idle;
                }
            }
        }
    }

    /// Who applied gets no session.
    fn turn_away(&mut self, key: Key, error: Option<&ProtocolError>) {
        if let Some(error) = error {
            self.check_breach(key, &Broke::Protocol(error.clone()));
            self.refuse(key, error);
        }
        self.say_over(key, Role::Payee);
        let now = self.now;
        if let Some(end) = self.ends.get_mut(&key) {
            end.apps.pop_front();
            end.fruitless += 1;
            end.sell = Self::pause(end.fruitless, now);
        }
    }

    pub(crate) fn refuse(&mut self, key: Key, error: &ProtocolError) {
        let reason = short_reason(&error.to_string());
        let refused = Refused { code: error.refusal_code(), reason };
        self.say(key, Role::Payee, Message::Refused(refused));
    }

    fn admit(
        &mut self,
        key: Key,
        terms: Terms,
        acceptance: Acceptance,
        signature: sparewire_core::DeviceSignature,
    ) {
        let clock = self.clock();
        let (ours, peer) = (party(key.0), party(key.1));
        let consumer = peer.device_id();
        if let Err(error) = acceptance.verify(&signature, consumer, &terms, clock) {
            return self.turn_away(key, Some(&error));
        }
        let (session, config) = (acceptance.session, acceptance.channel);
        let channel = config.id(&DOMAIN);
        let Some(facts) = self.chain.facts(channel) else {
            let unknown = ProtocolError::ChannelUnusable("the chain does not know it (yet)");
            return self.turn_away(key, Some(&unknown));
        };
        let store = &self.nodes[key.0].store;
        if store.is_known(session) && !store.is_open(session) {
            let code = RefusalCode::UnknownSession;
            let reason = "this session has ended".to_owned();
            let ended = ProtocolError::Refused { code, reason };
            return self.turn_away(key, Some(&ended));
        }
        let pending = acceptance.pending.map(|pending| pending.body.session);
        let pending_of = pending.filter(|of| *of != session).and_then(|of| store.agreement(of));
        let memory = store.memory(channel, session);
        let remembers = memory.session.is_some();
        let setup = PayeeSetup {
            terms,
            consumer,
            acceptance,
            signature,
            facts,
            memory,
            pending_of,
            signer: ours.authorizer.clone(),
        };
        let payee = match Payee::start(setup, clock) {
            Ok(payee) => payee,
            Err(error) => {
                let forgets = error == ProtocolError::CannotResume("nothing is remembered of it");
                assert!(!forgets || !remembers, "a session that is remembered is not resumed");
                return self.turn_away(key, Some(&error));
            }
        };
        self.nodes[key.0].store.keep_channel(Role::Payee, key.1, config);
        let start = payee.statement(clock).counted;
        let id = self.number();
        let Some(end) = self.ends.get_mut(&key) else { return };
        end.selling = Some(Task {
            id,
            machine: Machine::Payee(payee),
            meter: Meter::new(start, bytes(0)),
            channel,
            session,
            inbox: VecDeque::new(),
            commands: VecDeque::new(),
            poked: false,
            started: false,
            busy: false,
            half_over: false,
            wake_at: None,
            look_at: self.now,
            ended: None,
        });
        end.sell = Sell::Live;
        self.turn(key, Role::Payee);
    }

    /// What the chain says of the channel is looked at.
    pub(crate) fn look(&mut self, key: Key, id: u64) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        if let Some(task) = end.selling.as_mut().filter(|task| task.id == id) {
            task.commands.push_back(Command::Look);
            self.wake(key, Role::Payee, self.now);
        }
    }
}
