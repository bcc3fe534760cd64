//! Durable facts, behind one trait of domain verbs.
//!
//! Facts are stored, progress is computed from them. What a verb says is durable when it returns.

mod evidence;
mod sqlite;

use serde::Serialize;
use sparewire_core::{
    Address, Amount, ByteCount, ChannelId, Domain, NodeId, SessionId, Signature, Signed, Timestamp,
};
use sparewire_protocol::{
    Agreement, ChannelConfig, Claim, Countersigned, Delegation, Memory, Offer, Payment, Record,
    Role, Statement, StopReason, channel::CooperativeClose, stake::Contradiction,
};

use crate::transport::PeerAddress;

pub use evidence::{KeptReceipt, Stops};
pub use sqlite::SqliteStore;
pub(crate) use sqlite::failure;

/// A channel that we pay or are paid by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownChannel {
    /// Its id.
    pub id: ChannelId,
    /// Which side of it we are on.
    pub role: Role,
    /// The chain and contract that it lives on.
    pub domain: Domain,
    /// Its parties and keys.
    pub config: ChannelConfig,
    /// The highest payment over it.
    pub payment: Option<Payment>,
    /// The close that its payee agreed on: no session begins over it any more.
    pub agreed: Option<Signed<CooperativeClose>>,
    /// Whether its payee signed two receipts with one number, and both are kept: no session begins
    /// over it and nothing more is put into it, ever (A1). It can be closed.
    pub frozen: bool,
}

impl KnownChannel {
    /// What is promised over it in all.
    pub fn promised(&self) -> Amount {
        self.payment.map_or(Amount::ZERO, |payment| payment.voucher.body.amount)
    }

    /// The claim of its newest voucher, if there is one worth anything.
    pub fn claim(&self) -> Option<Claim> {
        let voucher = self.payment?.voucher;
        // A claim with a voucher of another channel would spoil every claim beside it.
        (voucher.body.channel == self.id && voucher.body.amount > Amount::ZERO).then_some(Claim {
            config: self.config,
            amount: voucher.body.amount,
            signature: voucher.signature,
        })
    }

    /// What the contract takes to close it at once, where its payee has agreed to that.
    pub fn agreed_close(&self) -> Option<(Claim, Signature)> {
        let Signed { body, signature } = self.agreed?;
        // An agreement is about all that is promised. Where that is nothing, the contract does not
        // look at the signature of a voucher.
        let nothing = Claim { config: self.config, amount: Amount::ZERO, signature };
        let claim = self.claim().unwrap_or(nothing);
        (claim.amount == body.amount && body.channel == self.id).then_some((claim, signature))
    }
}

/// A session as it is remembered.
#[derive(Clone, Debug)]
pub struct KnownSession {
    /// Which side of it we were on.
    pub role: Role,
    /// The device at the other end.
    pub peer: NodeId,
    /// What was agreed.
    pub agreement: Agreement,
    /// When it began.
    pub started: Timestamp,
    /// Its newest payment.
    pub payment: Option<Payment>,
    /// How many of its receipts both sides signed.
    pub receipts: u64,
    /// Bytes that were carried in it and lost unpaid.
    pub lost: ByteCount,
    /// How it ended; `None` while it lives, waits to be resumed, or was broken off.
    pub statement: Option<Statement>,
}

/// A time in which a session stood still. Evidence: nothing is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// When it began, by our clock.
    pub began: Timestamp,
    /// How long it lasted, in milliseconds; `None` while it lasts, or where nobody was left to see
    /// its end.
    pub lasted_ms: Option<u64>,
    /// Why.
    pub reason: StopReason,
    /// The most streams that waited at a time (payee only).
    pub waiting: u32,
    /// What was counted and not paid for then, in bytes.
    pub unpaid: ByteCount,
}

/// Everything that a node remembers. Calls block; async code runs them on a blocking thread.
pub trait Store: Send + Sync {
    /// Makes records durable, all of them or none.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    fn record(&self, records: &[Record]) -> Result<(), StoreError>;

    /// Remembers a channel before it is opened on chain.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    fn keep_channel(
        &self,
        role: Role,
        domain: &Domain,
        config: &ChannelConfig,
    ) -> Result<(), StoreError>;

    /// What is remembered of a channel, with `session` as the one to resume.
    ///
    /// # Errors
    /// [`StoreError`].
    fn memory(&self, channel: ChannelId, session: Option<SessionId>) -> Result<Memory, StoreError>;

    /// All channels on our side `role`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn channels(&self, role: Role) -> Result<Vec<KnownChannel>, StoreError>;

    /// One channel, on whichever side of it we are.
    ///
    /// # Errors
    /// [`StoreError`].
    fn channel(&self, id: ChannelId) -> Result<Option<KnownChannel>, StoreError>;

    /// All sessions, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn sessions(&self) -> Result<Vec<KnownSession>, StoreError>;

    /// One session.
    ///
    /// # Errors
    /// [`StoreError`].
    fn session(&self, id: SessionId) -> Result<Option<KnownSession>, StoreError>;

    /// The receipts of a session that both sides signed, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn receipts(&self, session: SessionId) -> Result<Vec<Countersigned>, StoreError>;

    /// Keeps a stop of a session; told again with the same beginning, it is the same one. Of each
    /// session the first and the last few are kept, and how many and how long the others were.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    fn stopped(&self, session: SessionId, stop: &Stop) -> Result<(), StoreError>;

    /// Keeps the offer under which a session began, with the provider's signature; a later one of
    /// the same session changes nothing. Evidence, as stops are.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    fn offered(&self, session: SessionId, offer: &Offer) -> Result<(), StoreError>;

    /// Compares a receipt that the payee showed with ours of its number. Where its authorizer signed
    /// both and they differ, both are kept, with the wallet's `delegation` to that authorizer. The
    /// first of a number is enough, so that nobody fills the disk. `None` where `theirs` proves
    /// nothing: we hold no such receipt, or the same, or it is not signed by the payee.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    fn contradicted(
        &self,
        delegation: &Signed<Delegation>,
        theirs: &Countersigned,
    ) -> Result<Option<Contradiction>, StoreError>;

    /// Whether `authorizer` may have signed what this store does not know of, since the store was
    /// restored from a backup. That does not wear off: no peer's word rules it out.
    ///
    /// # Errors
    /// [`StoreError`].
    fn was_restored(&self, authorizer: Address) -> Result<bool, StoreError>;

    /// Remembers where a peer was reached last.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    fn reached(&self, peer: &PeerAddress) -> Result<(), StoreError>;

    /// Where a peer was reached last; `None` where it never was.
    ///
    /// # Errors
    /// [`StoreError`].
    fn address(&self, node: NodeId) -> Result<Option<PeerAddress>, StoreError>;
}

/// Why something was not remembered, or not found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub enum StoreError {
    /// No room.
    #[error(
        "the disk that holds {path} is full; free some space. Nothing was lost, and nothing more is served or paid until it can be recorded"
    )]
    Full {
        /// The file.
        path: String,
    },
    /// The disk fails.
    #[error(
        "the disk that holds {path} fails ({reason}); look at its state. Nothing more is served or paid until it can be read and written"
    )]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// Another process holds the file.
    #[error("{path} is in use by another sparewire process; stop it or choose another --data-dir")]
    InUse {
        /// The file.
        path: String,
    },
    /// Written by a newer version, or not ours.
    #[error(
        "{path} has schema version {found}, this sparewire reads version {known}; use a matching release"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A payment over a channel whose close we have agreed on, at less.
    #[error(
        "the close of channel {channel} is agreed on: no payment above that is taken; let its payer open another channel"
    )]
    Agreed {
        /// Which channel.
        channel: ChannelId,
    },
    /// Damaged, or not readable.
    #[error("{path}: {reason}; restore it from a backup or move it away")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// Asks a store on a blocking thread.
pub(crate) async fn ask<T: Send + 'static>(
    store: &std::sync::Arc<dyn Store>,
    question: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, crate::session::SessionError> {
    let store = std::sync::Arc::clone(store);
    match tokio::task::spawn_blocking(move || question(&*store)).await {
        Ok(answer) => Ok(answer?),
        Err(error) => Err(StoreError::Damaged {
            path: "store".into(),
            reason: format!("the question was cut off: {error}"),
        }
        .into()),
    }
}
