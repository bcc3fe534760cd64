//! The reference ledger: a naive account of what each party gave and got, kept apart from
//! everything that is tried, and the invariants that are checked against it (`docs/invariants.md`).

use std::collections::{BTreeMap, BTreeSet};

use sparewire_core::{Amount, B256, ChannelId, Price, SessionId};
use sparewire_protocol::{CreditRule, Reading, Statement};

/// An invariant's number in `docs/invariants.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Invariant {
    I1Conservation,
    I2NeverMoreThanTheNewestVoucher,
    I3NeverPaidForMoreThanArrived,
    I4ExposureWithinCredit,
    I5LossWithinAllowance,
    I6PromisesOnlyGrow,
    I7NothingLeavesBeforeItIsDurable,
    I8StatementsAgree,
    I9WhoKeepsAVoucherIsPaid,
    I10EverySessionEnds,
    I11OnlyWhatWasAskedForIsBilled,
    I12HonestPartiesDoNotAccuse,
    I13NothingPanics,
    I14OneReceiptForEachNumber,
}

impl Invariant {
    /// As it is written in the document: `I5`.
    pub fn number(self) -> u32 {
        self as u32 + 1
    }
}

/// Ends the history: an invariant is broken.
///
/// # Panics
/// Always; whoever runs histories catches it.
pub fn broken(invariant: Invariant, what: &str) -> ! {
    panic!("I{} {invariant:?}: {what}", invariant.number());
}

/// The credit rule once more, from its words: what was paid by 64, within the rule's limits.
pub fn credit(rule: CreditRule, paid: u64) -> u64 {
    (paid / 64).max(rule.initial.get()).min(rule.maximum.get())
}

/// The credit and one step: half of it, at most 8 MiB.
pub fn credit_and_step(rule: CreditRule, paid: u64) -> u64 {
    let credit = credit(rule, paid);
    credit + (credit / 2).clamp(1, 8 << 20)
}

/// The loss allowance once more.
pub fn allowance(rule: CreditRule, paid: u64) -> u64 {
    let initial = rule.initial.get();
    initial + (3 * initial).min(4 << 20) + paid / 64
}

/// What is known of a channel from outside.
#[derive(Clone, Debug, Default)]
pub struct ChannelAccount {
    /// The highest amount that ever left the payer under its signature.
    pub promised: Amount,
    /// The highest amount that an honest payer had durable when it was signed for.
    pub recorded: Amount,
    /// The highest amount that an honest payee had durable.
    pub kept: Amount,
    /// The highest that it had in time to claim it.
    pub due: Amount,
    /// Its payer has ordered to close it.
    pub leaving: bool,
    /// The highest amount that the watcher, while it ran, was told of.
    pub heard: Amount,
    /// Bytes that an honest provider let pass over it.
    pub served: u64,
    /// Bytes that each session over it paid an honest provider for, as that one recorded them.
    pub paid_bytes: BTreeMap<SessionId, u64>,
    /// How often its provider lost power or was killed while it served.
    pub crashes: u64,
    /// What the payer has put aside by its own orders.
    pub reserved: u128,
    /// Its payer's key was given away, and all of it claimed.
    pub stolen: bool,
}

/// What is known of a session from outside.
#[derive(Clone, Debug, Default)]
pub struct SessionAccount {
    /// The channel, and at what price it is served.
    pub sold: Option<(ChannelId, Price)>,
    /// Payload that arrived at the consumer on streams that it had opened.
    pub arrived_down: u64,
    /// Payload that the consumer's transport took.
    pub sent_up: u64,
    /// Payload that an honest provider's meter let pass, up and down.
    pub carried: [u64; 2],
    /// What an honest provider's meter says in the connection of this number.
    pub metered: Option<(u64, Reading)>,
    /// The statements of both sides.
    pub statements: [Option<Statement>; 2],
    /// What the channel was at when it began.
    pub base: Amount,
    /// The highest amount that an honest payer promised in it.
    pub promised: Amount,
    /// What its payer takes the channel to hold.
    pub reserved: Amount,
    /// Its payer died in it, and with it what it had counted.
    pub forgotten: bool,
}

/// Everything that is known from outside.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Channels.
    pub channels: BTreeMap<ChannelId, ChannelAccount>,
    /// Sessions.
    pub sessions: BTreeMap<SessionId, SessionAccount>,
    /// What was signed as receipt number so-and-so of a channel, by an honest party.
    pub receipts: BTreeMap<(ChannelId, usize, u64), B256>,
    /// Channel and number of each receipt whose countersignature an honest payee went to record.
    pub countersigned: BTreeSet<(ChannelId, u64)>,
}

impl Ledger {
    /// A channel's account.
    pub fn channel(&mut self, id: ChannelId) -> &mut ChannelAccount {
        self.channels.entry(id).or_default()
    }

    /// A session's account.
    pub fn session(&mut self, id: SessionId) -> &mut SessionAccount {
        self.sessions.entry(id).or_default()
    }
}
