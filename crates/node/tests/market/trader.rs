//! A node that buys and sells, without a transport.

use std::sync::Arc;

use sparewire_core::Signer;
use sparewire_node::{
    buyer::{Buyer, BuyerConfig},
    seller::Seller,
    store::{KnownSession, Store},
};
use sparewire_protocol::Role;
use tempfile::TempDir;

use super::{Disk, FakeChain, Keys, Seat, WEALTH, clock, open_store};

/// A node that buys and sells.
pub struct Trader {
    pub keys: Arc<Keys>,
    pub disk: Arc<Disk>,
    pub seat: Arc<Seat>,
    pub buyer: Arc<Buyer>,
    pub seller: Arc<Seller>,
    _directory: TempDir,
}

impl Trader {
    pub async fn new(chain: &Arc<FakeChain>) -> Self {
        Self::with(chain, super::consumer_config().buying).await
    }

    pub async fn with(chain: &Arc<FakeChain>, buying: BuyerConfig) -> Self {
        let (keys, directory) = (Keys::random(), tempfile::tempdir().unwrap());
        chain.mint(keys.wallet.address(), WEALTH);
        let seat = Seat::new(chain, keys.wallet.address());
        let sqlite = open_store(directory.path()).await;
        let disk = Arc::new(Disk { sqlite, full: false.into() });
        let selling = super::provider_config().selling;
        let buyer = Buyer::new(buying, keys.identity(), disk.clone(), seat.clone(), clock());
        let seller = Seller::new(selling, keys.identity(), disk.clone(), seat.clone(), clock());
        let (buyer, seller) = (Arc::new(buyer), Arc::new(seller));
        Self { keys, disk, seat, buyer, seller, _directory: directory }
    }

    pub fn sessions(&self, role: Role) -> Vec<KnownSession> {
        let all = self.disk.sessions().unwrap();
        all.into_iter().filter(|known| known.role == role).collect()
    }
}
