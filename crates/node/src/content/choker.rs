//! Who is served: the places for those who do not pay, and how they go round.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::connection::Connection;

/// How often places for those who do not pay are given to others who wait for one.
pub(super) const TURN: Duration = Duration::from_secs(20);

/// Gives out the places of one torrent.
#[derive(Debug)]
pub(super) struct Choker {
    /// How many there are. Whoever pays takes none.
    slots: usize,
    /// How often places have been given anew.
    turns: AtomicU64,
}

impl Choker {
    /// With `slots` places for those who do not pay.
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, turns: AtomicU64::new(1) }
    }

    /// A peer wants nothing any more: its place is for others.
    pub(super) fn not_interested(&self, connection: &Connection) {
        if connection.admission().needs_slot() {
            connection.choke(self.turns.load(Ordering::Relaxed));
        }
    }

    /// Gives free places to those who wait for one longest.
    pub(super) fn serve<'a>(&self, connections: impl Iterator<Item = &'a Arc<Connection>>) {
        let turn = self.turns.load(Ordering::Relaxed);
        let mut slots = self.slots;
        let mut waiting = Vec::new();
        for connection in connections {
            let admission = connection.admission();
            let (interested, unchoked, served_at) = {
                let state = connection.state();
                (state.interested, state.unchoked, state.served_at)
            };
            if !admission.may_serve() {
                connection.choke(turn);
            } else if !admission.needs_slot() {
                if interested {
                    connection.unchoke(turn);
                }
            } else if unchoked {
                slots = slots.saturating_sub(1);
            } else if interested {
                waiting.push((served_at, connection));
            }
        }
        waiting.sort_by_key(|(served_at, connection)| (*served_at, connection.number));
        for (_, connection) in waiting.into_iter().take(slots) {
            connection.unchoke(turn);
        }
    }

    /// Takes the place of who had it longest, where somebody waits for one.
    pub(super) fn rotate<'a>(
        &self,
        connections: impl Iterator<Item = &'a Arc<Connection>> + Clone,
    ) {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let places = |unchoked: bool| {
            let of = connections.clone().filter(|connection| connection.admission().needs_slot());
            of.filter(move |connection| {
                let state = connection.state();
                state.interested && state.unchoked == unchoked
            })
        };
        if places(false).next().is_some()
            && let Some(longest) = places(true).min_by_key(|held| held.state().served_at)
        {
            longest.choke(turn);
        }
        self.serve(connections);
    }
}
