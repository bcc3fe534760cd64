//! What the two sessions of one connection owe each other, shared by those who drive them.

use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use sparewire_core::{Address, Domain};
use sparewire_protocol::{Role, SetOff, Terms};
use tokio::sync::Notify;

/// [`SetOff`], and who waits for what is new of it.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    set_off: Mutex<SetOff>,
    changed: [Notify; 2],
    broken: AtomicBool,
    /// What both owe each other, and where it is settled.
    money: OnceLock<(Domain, Address)>,
}

impl Balance {
    /// Whether a session under these terms belongs in it: only what is owed in one token of one
    /// contract can be set off.
    pub(crate) fn takes(&self, terms: &Terms) -> bool {
        let money = (terms.domain, terms.token);
        *self.money.get_or_init(|| money) == money
    }

    /// Hands out the account for one input of the machine of `role`, and tells the other machine's
    /// driver where that changed it.
    pub(crate) fn turn<R>(&self, role: Role, turn: impl FnOnce(&mut SetOff) -> R) -> R {
        let mut set_off = self.lock();
        let before = *set_off;
        let result = turn(&mut set_off);
        if *set_off != before {
            let other = match role {
                Role::Payer => Role::Payee,
                Role::Payee => Role::Payer,
            };
            self.of(other).notify_one();
        }
        result
    }

    /// Until there is something new for the machine of `role`.
    pub(crate) async fn changed(&self, role: Role) {
        self.of(role).notified().await;
    }

    /// A session broke off. Both ends may have seen something else of it, so where anything was to
    /// be set off, this account cannot go on.
    pub(crate) fn break_off(&self) {
        if self.lock().is_used() {
            self.broken.store(true, Ordering::Release);
            self.changed.iter().for_each(Notify::notify_one);
        }
    }

    /// Whether the connection has to end.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn of(&self, role: Role) -> &Notify {
        match role {
            Role::Payer => &self.changed[0],
            Role::Payee => &self.changed[1],
        }
    }

    fn lock(&self) -> MutexGuard<'_, SetOff> {
        // A turn that panicked takes its session with it; both numbers of it are still bounds.
        self.set_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
