//! A relay: a host that passes packets between those who cannot reach each other. Whoever wants to
//! be called keeps a mapping to it open; whoever calls sends to it as if it were the one called. It
//! cannot read, alter or make packets: the transport is encrypted from end to end.
//!
//! ```text
//! caller -> relay -> translator -> called, which has registered
//! ```

use std::collections::BTreeMap;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    link::Addr,
    node::Surroundings,
    road::{Body, Packet},
};

/// How often whoever is behind a translator tells the relay where it is, in milliseconds: more often
/// than any translator forgets.
pub const REGISTER_MS: u64 = 15_000;
/// After so long without a packet a connection is forgotten, in milliseconds.
const SILENCE_MS: u64 = 60_000;
/// The connection that registrations go over: nobody dials it.
const REGISTER: u64 = 0;

/// What a dishonest relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelayVice {
    /// Passes some packets on, and others not.
    Drops,
    /// Passes packets on more than once.
    Repeats,
    /// Passes nothing on for a while, now and then.
    FallsSilent,
}

/// All of them.
pub const RELAY_VICES: [RelayVice; 3] =
    [RelayVice::Drops, RelayVice::Repeats, RelayVice::FallsSilent];

impl RelayVice {
    /// Its name in the coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drops => "vice: relay drops",
            Self::Repeats => "vice: relay repeats",
            Self::FallsSilent => "vice: relay falls silent",
        }
    }
}

/// A connection through it: the hosts at both ends.
#[derive(Clone, Copy, Debug)]
struct Call {
    caller: usize,
    called: usize,
    heard_ms: u64,
}

/// A relay.
pub struct Relay {
    /// Its host.
    pub host: usize,
    /// What is wrong with it.
    pub vice: Option<RelayVice>,
    /// Who can be called.
    registered: Option<usize>,
    /// Where each host was heard from last. Hosts are told apart by more than that: each has its own
    /// connection to the relay.
    places: BTreeMap<usize, Addr>,
    calls: BTreeMap<u64, Call>,
    down_until_ms: u64,
    silent_until_ms: u64,
    rng: Rng,
}

/// What tells the relay where its sender is.
pub fn registration() -> Packet {
    Packet { connection: REGISTER, body: Body::Ping }
}

impl Relay {
    /// One that knows nobody.
    pub fn new(host: usize, vice: Option<RelayVice>, seed: u64) -> Self {
        Self {
            host,
            vice,
            registered: None,
            places: BTreeMap::new(),
            calls: BTreeMap::new(),
            down_until_ms: 0,
            silent_until_ms: 0,
            rng: Rng::with_seed(seed),
        }
    }

    /// Takes a packet that host `by` has sent, and passes it on.
    pub fn take(&mut self, world: &mut Surroundings, by: usize, from: Addr, packet: Packet) {
        let now_ms = world.now_ms;
        if now_ms < self.down_until_ms {
            return;
        }
        if self.places.insert(by, from).is_some_and(|place| place != from) {
            world.coverage.met("a relayed party moved");
        }
        if packet.connection == REGISTER {
            self.registered = Some(by);
            return;
        }
        let known = self.calls.contains_key(&packet.connection);
        let Some(to) = self.other_end(by, packet.connection, now_ms) else {
            world.coverage.met("the relay does not know whereto");
            return;
        };
        if !known && matches!(packet.body, Body::Frame { .. } | Body::Ping) {
            world.coverage.met("a connection outlives the relay");
        }
        if matches!(packet.body, Body::Close { .. }) {
            self.calls.remove(&packet.connection);
        }
        for _ in 0..self.copies(world) {
            world.coverage.met("relayed");
            world.outbox.push((self.host, to, packet.clone()));
        }
    }

    /// Where a connection's other end is. Whoever calls for the first time calls who has registered.
    fn other_end(&mut self, by: usize, connection: u64, now_ms: u64) -> Option<Addr> {
        self.calls.retain(|_, call| now_ms < call.heard_ms + SILENCE_MS);
        if !self.calls.contains_key(&connection) {
            let called = self.registered.filter(|called| *called != by)?;
            self.calls.insert(connection, Call { caller: by, called, heard_ms: now_ms });
        }
        let call = self.calls.get_mut(&connection)?;
        call.heard_ms = now_ms;
        let other = if by == call.called { call.caller } else { call.called };
        self.places.get(&other).copied()
    }

    /// How many times a packet is passed on.
    fn copies(&mut self, world: &mut Surroundings) -> usize {
        match self.vice {
            None => 1,
            Some(RelayVice::Drops) => match self.rng.u8(0..6) {
                0 => {
                    world.coverage.met("a relay drops");
                    0
                }
                _ => 1,
            },
            Some(RelayVice::Repeats) => match self.rng.u8(0..4) {
                0 => {
                    world.coverage.met("a relay repeats");
                    self.rng.usize(2..4)
                }
                _ => 1,
            },
            Some(RelayVice::FallsSilent) => {
                if world.now_ms >= self.silent_until_ms && self.rng.u16(0..400) == 0 {
                    world.coverage.met("a relay falls silent");
                    self.silent_until_ms = world.now_ms + self.rng.u64(2_000..60_000);
                }
                usize::from(world.now_ms >= self.silent_until_ms)
            }
        }
    }

    /// The process dies and forgets everybody.
    pub fn die(&mut self, world: &mut Surroundings, ms: u64) {
        world.say(|| "the relay IS KILLED".into());
        world.coverage.met("the relay was killed");
        self.registered = None;
        self.places.clear();
        self.calls.clear();
        self.down_until_ms = self.down_until_ms.max(world.now_ms + ms);
    }

    /// It works again, and everybody has found an honest one.
    pub fn heal(&mut self) {
        (self.vice, self.down_until_ms) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::{SimChain, Weather},
        link::Network,
    };

    const CALLED: usize = 0;
    const CALLER: usize = 1;
    const HOME: Addr = Addr { ip: 2, port: 1_000 };
    const AWAY: Addr = Addr { ip: 3, port: 1 };
    const CONNECTION: u64 = 17;

    fn world() -> Surroundings {
        Surroundings::new(SimChain::new(Weather::calm(), 1), Network::new(1), None)
    }

    fn packet(body: Body) -> Packet {
        Packet { connection: CONNECTION, body }
    }

    /// Where a packet from `by` is passed on to.
    fn passed(
        relay: &mut Relay,
        world: &mut Surroundings,
        by: usize,
        from: Addr,
        body: Body,
    ) -> Vec<Addr> {
        relay.take(world, by, from, packet(body.clone()));
        let out = std::mem::take(&mut world.outbox);
        assert!(out.iter().all(|(host, _, it)| *host == relay.host && *it == packet(body.clone())));
        out.into_iter().map(|(_, to, _)| to).collect()
    }

    #[test]
    fn who_has_registered_is_called_answers_and_is_followed_where_it_moves() {
        let (mut relay, mut world) = (Relay::new(2, None, 1), world());
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Dial), [], "nobody is there");
        relay.take(&mut world, CALLED, HOME, registration());
        assert_eq!(world.outbox, [], "that is for the relay itself");
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Dial), [HOME]);
        assert_eq!(passed(&mut relay, &mut world, CALLED, HOME, Body::Welcome), [AWAY]);
        let moved = Addr { ip: 2, port: 1_001 };
        assert_eq!(passed(&mut relay, &mut world, CALLED, moved, Body::Ping), [AWAY]);
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Ping), [moved]);
        let elsewhere = Addr { ip: 9, port: 1 };
        assert_eq!(passed(&mut relay, &mut world, CALLER, elsewhere, Body::Ping), [moved]);
        assert_eq!(passed(&mut relay, &mut world, CALLED, moved, Body::Ping), [elsewhere]);
    }

    #[test]
    fn one_that_was_killed_knows_a_connection_again_once_both_have_spoken() {
        let (mut relay, mut world) = (Relay::new(2, None, 1), world());
        relay.take(&mut world, CALLED, HOME, registration());
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Dial), [HOME]);
        relay.die(&mut world, 1_000);
        world.now_ms = 999;
        relay.take(&mut world, CALLED, HOME, registration());
        world.now_ms = 1_000;
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Ping), [], "down till now");
        relay.take(&mut world, CALLED, HOME, registration());
        assert_eq!(passed(&mut relay, &mut world, CALLED, HOME, Body::Ping), [], "whose is it?");
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Ping), [HOME]);
        assert_eq!(passed(&mut relay, &mut world, CALLED, HOME, Body::Ping), [AWAY]);
    }

    #[test]
    fn a_connection_that_is_closed_or_silent_is_forgotten() {
        let (mut relay, mut world) = (Relay::new(2, None, 1), world());
        relay.take(&mut world, CALLED, HOME, registration());
        let close = Body::Close { clean: true };
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, close), [HOME]);
        assert_eq!(passed(&mut relay, &mut world, CALLED, HOME, Body::Ping), []);
        assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Dial), [HOME]);
        world.now_ms = SILENCE_MS;
        assert_eq!(passed(&mut relay, &mut world, CALLED, HOME, Body::Ping), []);
    }

    #[test]
    fn dishonest_ones_drop_repeat_and_fall_silent_until_everything_works_again() {
        for vice in RELAY_VICES {
            let (mut relay, mut world) = (Relay::new(2, Some(vice), 1), world());
            relay.take(&mut world, CALLED, HOME, registration());
            let mut copies = [0; 4];
            for step in 0..3_000 {
                world.now_ms = step * 10;
                copies[passed(&mut relay, &mut world, CALLER, AWAY, Body::Ping).len()] += 1;
            }
            match vice {
                RelayVice::Drops => assert!(copies[0] > 300 && copies[1] > 2_000),
                RelayVice::Repeats => assert!(copies[0] == 0 && copies[2] + copies[3] > 500),
                RelayVice::FallsSilent => assert!(copies[0] > 100 && copies[2] + copies[3] == 0),
            }
            relay.heal();
            assert_eq!(passed(&mut relay, &mut world, CALLER, AWAY, Body::Ping), [HOME]);
        }
    }
}
