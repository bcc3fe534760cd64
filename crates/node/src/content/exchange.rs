//! Peers tell each other of peers (BEP 11).

use std::{net::SocketAddr, sync::Arc};

use sparewire_content::{Extended, Pex};

use super::{connection::Connection, discovery::Source, swarm::Swarm, torrent::Torrent};

/// Most others that one message tells of (BEP 11).
const EXCHANGE_PEERS_MAX: usize = 50;

impl Torrent {
    fn exchanges(&self) -> bool {
        let wanted = self.discovery().config().peer_exchange.is_some();
        wanted && !self.storage().metainfo().is_private()
    }

    /// A peer tells of others.
    pub(super) fn take_exchange(&self, pex: &Pex) {
        if !self.exchanges() {
            return;
        }
        for (address, _) in &pex.added {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if self.discovery().may_dial(address, Source::Exchange) {
                self.found(address, Source::Exchange);
            }
        }
    }

    /// Tells everybody of the others, as far as they have not been told.
    pub(super) fn exchange(&self, swarm: &Swarm) {
        if !self.exchanges() {
            return;
        }
        let listening = |connection: &Arc<Connection>| connection.state().listens;
        let all: Vec<SocketAddr> = swarm.connections().filter_map(listening).collect();
        for connection in swarm.connections() {
            let own = connection.state().listens;
            let mut state = connection.state();
            let others = all.iter().filter(|address| Some(**address) != own);
            let others: Vec<SocketAddr> = others.copied().take(EXCHANGE_PEERS_MAX).collect();
            let told = std::mem::replace(&mut state.told, others.clone());
            drop(state);
            let pex = Pex {
                added: others.iter().filter(|a| !told.contains(a)).map(|a| (*a, 0)).collect(),
                dropped: told.into_iter().filter(|address| !others.contains(address)).collect(),
            };
            if !pex.added.is_empty() || !pex.dropped.is_empty() {
                connection.send_extended(&Extended::Pex(pex));
            }
        }
    }
}
