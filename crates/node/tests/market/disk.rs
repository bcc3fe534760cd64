//! A store whose disk can be full at any moment, whatever room SQLite still has in its pages.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use sparewire_core::{Address, ChannelId, Domain, NodeId, SessionId, Signed};
use sparewire_node::{
    store::{KnownChannel, KnownSession, SqliteStore, Stop, Store, StoreError},
    transport::PeerAddress,
};
use sparewire_protocol::{
    ChannelConfig, Countersigned, Delegation, Memory, Offer, Record, Role, stake::Contradiction,
};

pub struct Disk {
    pub sqlite: Arc<SqliteStore>,
    pub full: AtomicBool,
}

impl Disk {
    fn room(&self) -> Result<(), StoreError> {
        match self.full.load(SeqCst) {
            true => Err(StoreError::Full { path: "disk".to_owned() }),
            false => Ok(()),
        }
    }
}

impl Store for Disk {
    fn record(&self, records: &[Record]) -> Result<(), StoreError> {
        self.room()?;
        self.sqlite.record(records)
    }

    fn keep_channel(
        &self,
        role: Role,
        domain: &Domain,
        config: &ChannelConfig,
    ) -> Result<(), StoreError> {
        self.room()?;
        self.sqlite.keep_channel(role, domain, config)
    }

    fn memory(&self, channel: ChannelId, session: Option<SessionId>) -> Result<Memory, StoreError> {
        self.sqlite.memory(channel, session)
    }

    fn channels(&self, role: Role) -> Result<Vec<KnownChannel>, StoreError> {
        self.sqlite.channels(role)
    }

    fn channel(&self, id: ChannelId) -> Result<Option<KnownChannel>, StoreError> {
        self.sqlite.channel(id)
    }

    fn sessions(&self) -> Result<Vec<KnownSession>, StoreError> {
        self.sqlite.sessions()
    }

    fn session(&self, id: SessionId) -> Result<Option<KnownSession>, StoreError> {
        self.sqlite.session(id)
    }

    fn receipts(&self, session: SessionId) -> Result<Vec<Countersigned>, StoreError> {
        self.sqlite.receipts(session)
    }

    fn stopped(&self, session: SessionId, stop: &Stop) -> Result<(), StoreError> {
        self.room()?;
        self.sqlite.stopped(session, stop)
    }

    fn offered(&self, session: SessionId, offer: &Offer) -> Result<(), StoreError> {
        self.room()?;
        self.sqlite.offered(session, offer)
    }

    fn contradicted(
        &self,
        delegation: &Signed<Delegation>,
        theirs: &Countersigned,
    ) -> Result<Option<Contradiction>, StoreError> {
        self.room()?;
        self.sqlite.contradicted(delegation, theirs)
    }

    fn was_restored(&self, authorizer: Address) -> Result<bool, StoreError> {
        self.sqlite.was_restored(authorizer)
    }

    fn reached(&self, peer: &PeerAddress) -> Result<(), StoreError> {
        self.room()?;
        self.sqlite.reached(peer)
    }

    fn address(&self, node: NodeId) -> Result<Option<PeerAddress>, StoreError> {
        self.sqlite.address(node)
    }
}
