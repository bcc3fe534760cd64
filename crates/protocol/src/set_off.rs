//! What two peers that buy of each other owe each other, before vouchers are signed for it.
//!
//! Each is the payer of one session and the payee of another. A payer tells what it owes
//! ([`crate::Message::Due`]) before it pays; what both have told is set off, and only what one owes
//! beyond that is promised over a channel. Nothing is signed for it: what each carried and promised is
//! in the receipts of both sessions, and the difference between the two is what was set off.
//!
//! Nobody has to be believed. A payer leaves out of its vouchers no more than the other told that it
//! owes and has not promised; a payee takes as paid no more than it owes itself and has not promised.
//! So neither is ever owed more than its credit, and whoever leaves owes no more than without this.

use sparewire_core::Amount;

/// The account of one connection, as one end sees it. Whoever drives the two machines holds it fast
/// from before an input of one of them until after: [`SetOff::for_payer`] and [`SetOff::for_payee`]
/// go in before, [`SetOff::payer`] and [`SetOff::payee`] take what they say after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOff {
    ours: Debt,
    theirs: Debt,
    /// The peer buys of us.
    sells: bool,
    /// What we have taken as paid by set-off in the session that is on.
    taken: Amount,
}

/// What one owes the other and has not promised it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Debt {
    /// What was set off in sessions that are over.
    over: Amount,
    /// What was told in the session that is on.
    now: Amount,
}

impl Debt {
    fn sum(self) -> Amount {
        self.over.checked_add(self.now).unwrap_or(Amount::MAX)
    }

    fn end(&mut self, set_off: Amount) {
        *self =
            Self { over: self.over.checked_add(set_off).unwrap_or(Amount::MAX), now: Amount::ZERO };
    }
}

impl SetOff {
    /// For [`crate::Payer::handle_set_off`]: what the peer owes us; `None` where it never bought
    /// anything of us.
    pub fn for_payer(&self) -> Option<Amount> {
        let owed = self.theirs.sum();
        (self.sells || owed > Amount::ZERO).then(|| owed.saturating_sub(self.ours.over))
    }

    /// For [`crate::Payee::handle_set_off`]: what we owe the peer.
    pub fn for_payee(&self) -> Amount {
        self.ours.sum().saturating_sub(self.theirs.over)
    }

    /// After each input of the session in which we pay: [`crate::Payer::debt`].
    ///
    /// # Panics
    /// Where it promised what was set off already.
    pub fn payer(&mut self, debt: Amount) {
        self.ours.now = debt;
        self.check();
    }

    /// After each input of the session in which we are paid: [`crate::Payee::debt`], and
    /// [`crate::Payee::set_off`].
    ///
    /// # Panics
    /// Where it took as set off what we do not owe.
    pub fn payee(&mut self, debt: Amount, set_off: Amount) {
        (self.theirs.now, self.taken, self.sells) = (debt, set_off, true);
        self.check();
    }

    /// S1: what we take as set off we owe, and have not promised as well.
    fn check(&self) {
        assert!(self.taken <= self.for_payee(), "nothing is both set off and promised");
    }

    /// The session in which we pay has ended properly, and this was set off in it
    /// ([`crate::Payer::debt`]: everything that was told is paid or set off then).
    pub fn payer_over(&mut self, set_off: Amount) {
        self.ours.end(set_off);
    }

    /// The session in which we are paid has ended properly, and this was set off in it
    /// ([`crate::Payee::set_off`]).
    pub fn payee_over(&mut self, set_off: Amount) {
        self.theirs.end(set_off);
        (self.taken, self.sells) = (Amount::ZERO, false);
    }

    /// Whether anything was told or set off: where a session breaks off then, the account of this
    /// connection cannot go on, because both ends may not have seen the same of it.
    pub fn is_used(&self) -> bool {
        self.ours.sum() > Amount::ZERO || self.theirs.sum() > Amount::ZERO
    }
}
