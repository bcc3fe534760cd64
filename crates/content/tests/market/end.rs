//! One end of a connection: two sessions, one for each direction, and the blocks that they are about.

use std::collections::{BTreeMap, VecDeque};

use sparewire_content::{Block, PeerId};
use sparewire_core::{Amount, ByteCount, ChannelId, SessionId, Timestamp};
use sparewire_protocol::{
    Event, Message, Meter, Output, Payee, Payer, ProtocolError, Reading, Role, SessionMemory,
    SetOff, Statement, Terms,
};

use super::cast::units;

/// Who, and with whom.
pub(crate) type Key = (usize, usize);

#[allow(clippy::large_enum_variant)] // a few at a time
pub(crate) enum Machine {
    Payer(Payer),
    Payee(Payee),
}

pub(crate) enum Command {
    Close(&'static str),
    ToppedUp(Amount),
    Look,
}

/// A session that is on, and whoever drives it.
pub(crate) struct Task {
    pub(crate) id: u64,
    pub(crate) machine: Machine,
    pub(crate) meter: Meter,
    pub(crate) channel: ChannelId,
    pub(crate) session: SessionId,
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) commands: VecDeque<Command>,
    /// There is something new for it in the account, or at its meter.
    pub(crate) poked: bool,
    /// The machine has said so, and what it said before is durable.
    pub(crate) started: bool,
    /// Something is being made durable: nothing goes in or out before it is.
    pub(crate) busy: bool,
    /// The other end has ended its half.
    pub(crate) half_over: bool,
    pub(crate) wake_at: Option<u64>,
    pub(crate) look_at: u64,
    pub(crate) ended: Option<Statement>,
}

impl Machine {
    /// `more` is what a cheat says that it is owed.
    pub(crate) fn hear(
        &mut self,
        account: &SetOff,
        more: u128,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        match self {
            Self::Payer(payer) => {
                let theirs = account.for_payer();
                let theirs = theirs.map(|theirs| units(theirs.get() + more));
                payer.handle_set_off(theirs, now)
            }
            Self::Payee(payee) => payee.handle_set_off(account.for_payee(), now),
        }
    }

    pub(crate) fn tell(&self, account: &mut SetOff) {
        match self {
            Self::Payer(payer) => account.payer(payer.debt()),
            Self::Payee(payee) => account.payee(payee.debt(), payee.set_off()),
        }
    }

    pub(crate) fn leave(&self, account: &mut SetOff) {
        match self {
            Self::Payer(payer) => account.payer_over(payer.debt()),
            Self::Payee(payee) => account.payee_over(payee.set_off()),
        }
    }

    pub(crate) fn handle_reading(
        &mut self,
        reading: Reading,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        match self {
            Self::Payer(payer) => payer.handle_reading(reading, now),
            Self::Payee(payee) => {
                payee.handle_reading(reading, now);
                Ok(())
            }
        }
    }

    pub(crate) fn handle_message(
        &mut self,
        message: Message,
        now: Timestamp,
    ) -> Result<(), ProtocolError> {
        match self {
            Self::Payer(payer) => payer.handle_message(message, now),
            Self::Payee(payee) => payee.handle_message(message, now),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Timestamp) -> Result<(), ProtocolError> {
        match self {
            Self::Payer(payer) => payer.handle_timeout(now),
            Self::Payee(payee) => payee.handle_timeout(now),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        match self {
            Self::Payer(payer) => payer.poll_timeout(),
            Self::Payee(payee) => payee.poll_timeout(),
        }
    }

    pub(crate) fn poll_mark(&self) -> ByteCount {
        match self {
            Self::Payer(payer) => payer.poll_mark(),
            Self::Payee(payee) => payee.poll_mark(),
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Payer(payer) => payer.poll_output(),
            Self::Payee(payee) => payee.poll_output(),
        }
    }

    pub(crate) fn statement(&self, now: Timestamp) -> Statement {
        match self {
            Self::Payer(payer) => payer.statement(now),
            Self::Payee(payee) => payee.statement(now),
        }
    }
}

/// A session's payments since it began or went on, as whoever buys in it sees them: how far the
/// peer may be asked.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub(crate) terms: Terms,
    pub(crate) history: u64,
    pub(crate) began: u64,
    pub(crate) paid: u64,
    pub(crate) came: u64,
    pub(crate) payable: u64,
    pub(crate) unit: u64,
}

impl Account {
    pub(crate) fn allowed(&self) -> u64 {
        let paid = self.paid.max(self.began);
        if self.payable.saturating_sub(paid) < self.unit {
            return 0;
        }
        let credit = self.terms.credit.credit(ByteCount::new(self.history + self.paid)).get();
        let granted = self.paid.saturating_add(credit).min(self.payable);
        self.came + granted.saturating_sub(self.began)
    }
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) account: Option<Account>,
    pub(crate) allowed: u64,
    pub(crate) unready: bool,
    pub(crate) closing: bool,
}

impl Figures {
    pub(crate) fn allow(&mut self) {
        if let Some(account) = self.account.filter(|_| !self.closing) {
            self.allowed = account.allowed();
        }
    }

    pub(crate) fn close(&mut self) {
        (self.allowed, self.closing) = (0, true);
    }
}

/// How far the session has come in which we pay.
#[allow(clippy::large_enum_variant)] // a few at a time
pub(crate) enum Buy {
    Rest {
        until: u64,
    },
    Asked {
        known: Option<SessionMemory>,
        since: u64,
    },
    Funding {
        op: u64,
        terms: Terms,
        known: Option<SessionMemory>,
        channel: ChannelId,
    },
    Accepting {
        payer: Payer,
        terms: Terms,
        channel: ChannelId,
        is_seen: bool,
        since: u64,
    },
    Live,
    /// Nothing more is bought over this connection.
    Over,
}

/// A session that is to end: what was asked for is waited for, then what came to be judged.
#[derive(Clone, Copy)]
pub(crate) struct Winding {
    pub(crate) until: u64,
    pub(crate) judging: bool,
    pub(crate) done: bool,
}

#[allow(clippy::large_enum_variant)] // a few at a time
pub(crate) enum Sell {
    Idle,
    Pause { until: u64 },
    Offered { terms: Terms },
    Live,
    Parting { until: u64 },
}

/// Whoever wants to buy, by what it says.
#[derive(Default)]
pub(crate) struct App {
    pub(crate) id: u64,
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) over: bool,
}

pub(crate) struct End {
    pub(crate) link: u64,
    pub(crate) id: PeerId,
    /// We know that the connection is gone.
    pub(crate) lost: bool,
    pub(crate) account: SetOff,
    /// The account cannot go on.
    pub(crate) broken: bool,
    // Serving.
    pub(crate) they_want: bool,
    pub(crate) unchoked: bool,
    pub(crate) requests: VecDeque<Block>,
    pub(crate) waiting: Option<Block>,
    pub(crate) admitted: u64,
    pub(crate) epoch: u64,
    pub(crate) sales: u64,
    pub(crate) sending: bool,
    pub(crate) sent_blocks: u64,
    /// What we set off in sessions that are over.
    pub(crate) set_off_before: u128,
    // Buying.
    pub(crate) wanted: bool,
    pub(crate) buy: Buy,
    /// The other end has not ended its half of the session in which we pay.
    pub(crate) buy_slot: bool,
    pub(crate) slot_since: u64,
    pub(crate) buying: Option<Task>,
    pub(crate) figures: Figures,
    pub(crate) winding: Option<Winding>,
    pub(crate) asked_to_close: bool,
    pub(crate) wants_top_up: bool,
    pub(crate) top_up_at: u64,
    pub(crate) topping: Option<u64>,
    pub(crate) out_of_money: bool,
    pub(crate) pause: u64,
    pub(crate) came_before: u64,
    pub(crate) asked: u64,
    pub(crate) came: u64,
    pub(crate) unjudged: u64,
    // Selling.
    pub(crate) sell: Sell,
    pub(crate) apps: VecDeque<App>,
    pub(crate) sell_slot: Option<u64>,
    pub(crate) selling: Option<Task>,
    pub(crate) fruitless: u32,
}

impl End {
    pub(crate) fn new(link: u64, id: PeerId) -> Self {
        Self {
            link,
            id,
            lost: false,
            account: SetOff::default(),
            broken: false,
            they_want: false,
            unchoked: false,
            requests: VecDeque::new(),
            waiting: None,
            admitted: 0,
            epoch: 0,
            sales: 0,
            sending: false,
            sent_blocks: 0,
            set_off_before: 0,
            wanted: false,
            buy: Buy::Rest { until: 0 },
            buy_slot: false,
            slot_since: 0,
            buying: None,
            figures: Figures::default(),
            winding: None,
            asked_to_close: false,
            wants_top_up: false,
            top_up_at: 0,
            topping: None,
            out_of_money: false,
            pause: 200,
            came_before: 0,
            asked: 0,
            came: 0,
            unjudged: 0,
            sell: Sell::Idle,
            apps: VecDeque::new(),
            sell_slot: None,
            selling: None,
            fruitless: 0,
        }
    }

    pub(crate) fn task(&mut self, role: Role) -> Option<&mut Task> {
        match role {
            Role::Payer => self.buying.as_mut(),
            Role::Payee => self.selling.as_mut(),
        }
    }
}

/// What a session's events mean for whoever buys in it; `true` where figures may have changed.
pub(crate) fn take_event(
    figures: &mut Figures,
    event: &Event,
    start: impl FnOnce() -> Account,
) -> bool {
    match event {
        Event::Started { .. } => {
            (figures.account, figures.closing, figures.unready) = (Some(start()), false, false);
        }
        Event::Paid { reading, .. } => {
            if let Some(account) = &mut figures.account {
                account.paid = account.paid.max(reading.down.get());
            }
        }
        _ => return false,
    }
    figures.allow();
    true
}

/// What broken connections left, what did not work, and what is in use: gone with the process.
#[derive(Default)]
pub(crate) struct Past {
    pub(crate) broken: BTreeMap<SessionId, Reading>,
    pub(crate) forgotten: Vec<SessionId>,
    pub(crate) avoid: Vec<ChannelId>,
}
