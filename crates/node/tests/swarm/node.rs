//! A node that shares and downloads for money, with a chain in memory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{path::Path, sync::Arc};

use sparewire_core::Price;
use sparewire_node::{
    content::{AddTorrent, Buying, Engine, EngineConfig, Money, Sale, Torrent, TorrentState},
    store::Store,
};
use sparewire_protocol::{CreditRule, Role};
use tempfile::TempDir;

use crate::{
    market::{FakeChain, PRICE, Trader},
    swarm::{Content, anywhere, reaches},
};

/// A node that shares and downloads.
pub struct Node {
    pub trader: Trader,
    pub engine: Engine,
    pub files: TempDir,
}

impl Node {
    pub async fn new(chain: &Arc<FakeChain>) -> Self {
        let trader = Trader::new(chain).await;
        let engine = engine_of(&trader).await;
        Self { trader, engine, files: tempfile::tempdir().unwrap() }
    }

    /// Sells `content` at a price, and gives nothing away.
    pub async fn share(&self, content: &Content, price: u128) -> Arc<Torrent> {
        let torrent = self.engine.add(selling(content.seed(), price)).await.unwrap();
        reaches(&torrent, TorrentState::Seeding).await;
        torrent
    }

    /// Downloads it for money, and sells what it has.
    pub async fn get(&self, content: &Content, from: &[&Self]) -> Arc<Torrent> {
        self.get_into(content, self.files.path(), from).await
    }

    /// What it downloads, for money, into `root`.
    pub async fn get_into(&self, content: &Content, root: &Path, from: &[&Self]) -> Arc<Torrent> {
        let remembered_at = Some(root.join("content.have"));
        let add = AddTorrent { buying: paying(), remembered_at, ..content.below(root) };
        let torrent = self.engine.add(selling(add, PRICE)).await.unwrap();
        from.iter().for_each(|seeder| torrent.add_peer(seeder.engine.listens()));
        torrent
    }

    /// What all its sessions on one side come to, in bytes and in money.
    pub fn sum(&self, role: Role) -> (u64, u128) {
        let paying = self.trader.sessions(role);
        let paying = paying.iter().filter_map(|known| Some((known, known.payment?)));
        paying.fold((0, 0), |(bytes, money), (known, payment)| {
            let paid = payment.voucher.body.amount.saturating_sub(known.agreement.base);
            (bytes + payment.reading.down.get(), money + paid.get())
        })
    }

    pub fn all_ended(&self) -> bool {
        self.trader.disk.sessions().unwrap().iter().all(|known| known.statement.is_some())
    }
}

/// An engine with a peer id of its own, and with the keys of `trader`.
pub async fn engine_of(trader: &Trader) -> Engine {
    let (buyer, seller) = (trader.buyer.clone(), trader.seller.clone());
    let money = Money::new(Some(buyer), Some(seller), trader.keys.device.clone());
    let money = Some(Arc::new(money));
    Engine::start(EngineConfig { money, ..EngineConfig::new(anywhere()) }).await.unwrap()
}

pub fn selling(add: AddTorrent, price: u128) -> AddTorrent {
    let sale = Sale { price: Price::per_gib(price).unwrap(), credit: CreditRule::default() };
    AddTorrent { sale: Some(sale), free: false, ..add }
}

pub fn paying() -> Buying {
    Buying { free: true, price_max: Price::per_gib(PRICE).unwrap() }
}
