//! A connection over the network, as QUIC gives one: frames arrive once, those on the control stream
//! in order, payload as it comes; it survives loss and a change of address, and notices silence.
//!
//! This stands in for the transport (its cryptography is not simulated: who speaks is known).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::link::Addr;

/// Silence after which a connection is given up, in milliseconds.
pub const IDLE_MS: u64 = 30_000;
const KEEP_ALIVE_MS: u64 = 5_000;
const RETRY_MS: (u64, u64) = (300, 4_000);
/// How many frames may be under way.
pub const WINDOW: usize = 48;
/// Bytes of a packet beside its payload.
const HEAD_LEN: u64 = 60;

/// What is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, as its bytes: kind and body.
    Control(Vec<u8>),
    /// The head of a data stream: what its origin and its application will send.
    Open {
        /// Its number.
        stream: u64,
        /// Bytes that the application sends.
        up: u64,
        /// Bytes that the origin sends.
        down: u64,
    },
    /// Payload.
    Data {
        /// Of which stream.
        stream: u64,
        /// How much.
        bytes: u64,
        /// Whether it is what the origin said.
        genuine: bool,
    },
    /// A stream's end in this direction, and how much it carried.
    Fin {
        /// Which stream.
        stream: u64,
        /// Bytes in all.
        total: u64,
    },
}

impl Frame {
    fn size(&self) -> u64 {
        match self {
            Self::Control(bytes) => bytes.len() as u64,
            Self::Data { bytes, .. } => *bytes,
            Self::Open { .. } | Self::Fin { .. } => 24,
        }
    }
}

/// A packet's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Opens a connection.
    Dial,
    /// Takes it.
    Welcome,
    /// A frame; control frames also have their place on the control stream.
    Frame {
        /// Its number.
        number: u64,
        /// Its place among control frames.
        place: Option<u64>,
        /// It.
        frame: Frame,
    },
    /// These have arrived.
    Ack {
        /// Which frame.
        number: u64,
    },
    /// Still there.
    Ping,
    /// Over.
    Close {
        /// Whether in good order.
        clean: bool,
    },
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The connection.
    pub connection: u64,
    /// What it says.
    pub body: Body,
}

impl Packet {
    /// Bytes on the wire.
    pub fn size(&self) -> u64 {
        HEAD_LEN
            + match &self.body {
                Body::Frame { frame, .. } => frame.size(),
                _ => 0,
            }
    }
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoadState {
    /// `Dial` is sent.
    Dialing,
    /// Frames flow.
    Up,
    /// It is over; in good order or not.
    Over {
        /// In good order.
        clean: bool,
    },
}

#[derive(Clone, Debug)]
struct Sent {
    body: Body,
    again_ms: u64,
    wait_ms: u64,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Road {
    /// Its number.
    pub connection: u64,
    /// The other end, as last seen.
    pub peer: Addr,
    /// How it stands.
    pub state: RoadState,
    dialed_here: bool,
    under_way: BTreeMap<u64, Sent>,
    waiting: VecDeque<(Option<u64>, Frame)>,
    next_number: u64,
    next_place: u64,
    seen: BTreeSet<u64>,
    seen_below: u64,
    early: BTreeMap<u64, Frame>,
    next_early: u64,
    heard_ms: u64,
    spoke_ms: u64,
    dial_again_ms: u64,
    dial_wait_ms: u64,
    out: Vec<(Addr, Packet)>,
}

impl Road {
    /// Dials.
    pub fn dial(connection: u64, peer: Addr, now_ms: u64) -> Self {
        let mut road = Self::new(connection, peer, now_ms);
        (road.state, road.dialed_here) = (RoadState::Dialing, true);
        road.say(Body::Dial, now_ms);
        road
    }

    /// Takes a `Dial`.
    pub fn welcome(connection: u64, peer: Addr, now_ms: u64) -> Self {
        let mut road = Self::new(connection, peer, now_ms);
        road.say(Body::Welcome, now_ms);
        road
    }

    fn new(connection: u64, peer: Addr, now_ms: u64) -> Self {
        Self {
            connection,
            peer,
            state: RoadState::Up,
            dialed_here: false,
            under_way: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_number: 0,
            next_place: 0,
            seen: BTreeSet::new(),
            seen_below: 0,
            early: BTreeMap::new(),
            next_early: 0,
            heard_ms: now_ms,
            spoke_ms: now_ms,
            dial_again_ms: now_ms + RETRY_MS.0,
            dial_wait_ms: RETRY_MS.0,
            out: Vec::new(),
        }
    }

    /// Whether payload would be taken now, or has to wait (flow control).
    pub fn has_room(&self) -> bool {
        self.under_way.len() + self.waiting.len() < WINDOW
    }

    /// Whether everything that was sent has arrived.
    pub fn is_drained(&self) -> bool {
        self.under_way.is_empty() && self.waiting.is_empty()
    }

    /// Sends a frame; it arrives unless the connection ends before.
    pub fn send(&mut self, frame: Frame, now_ms: u64) {
        if matches!(self.state, RoadState::Over { .. }) {
            return;
        }
        let place = matches!(frame, Frame::Control(_)).then(|| {
            self.next_place += 1;
            self.next_place - 1
        });
        // Control goes before payload, as in the transport.
        match place {
            Some(_) => {
                let at = self.waiting.iter().take_while(|(place, _)| place.is_some()).count();
                self.waiting.insert(at, (place, frame));
            }
            None => self.waiting.push_back((None, frame)),
        }
        self.fill(now_ms);
    }

    /// Ends it and tells the other end, once.
    pub fn close(&mut self, clean: bool, now_ms: u64) {
        if !matches!(self.state, RoadState::Over { .. }) {
            self.say(Body::Close { clean }, now_ms);
            self.state = RoadState::Over { clean };
        }
    }

    /// Takes a packet of this connection; returns the frames that can be read now.
    pub fn receive(&mut self, from: Addr, body: Body, now_ms: u64) -> Vec<Frame> {
        if matches!(self.state, RoadState::Over { .. }) {
            return Vec::new();
        }
        self.heard_ms = now_ms;
        match body {
            Body::Dial => {
                self.peer = from;
                self.say(Body::Welcome, now_ms); // ours was lost
            }
            Body::Welcome => {
                if self.state == RoadState::Dialing {
                    self.state = RoadState::Up;
                    self.fill(now_ms);
                }
            }
            Body::Ack { number } => {
                self.under_way.remove(&number);
                self.fill(now_ms);
            }
            Body::Ping => {}
            Body::Close { clean } => self.state = RoadState::Over { clean },
            Body::Frame { number, place, frame } => {
                if self.state == RoadState::Dialing {
                    self.state = RoadState::Up; // the welcome was lost
                }
                self.out.push((from, self.packet(Body::Ack { number })));
                if number < self.seen_below || !self.seen.insert(number) {
                    return Vec::new();
                }
                while self.seen.remove(&self.seen_below) {
                    self.seen_below += 1;
                }
                // Who dialed may have moved; the newest packet tells where it is.
                if !self.dialed_here {
                    self.peer = from;
                }
                let Some(place) = place else { return vec![frame] };
                self.early.insert(place, frame);
                let mut ready = Vec::new();
                while let Some(frame) = self.early.remove(&self.next_early) {
                    self.next_early += 1;
                    ready.push(frame);
                }
                return ready;
            }
        }
        Vec::new()
    }

    /// Takes the time: sends again what was not acknowledged, and gives up after silence.
    pub fn tick(&mut self, now_ms: u64) {
        if matches!(self.state, RoadState::Over { .. }) {
            return;
        }
        if now_ms >= self.heard_ms + IDLE_MS {
            self.state = RoadState::Over { clean: false };
            return;
        }
        if self.state == RoadState::Dialing && now_ms >= self.dial_again_ms {
            self.dial_wait_ms = (self.dial_wait_ms * 2).min(RETRY_MS.1);
            self.dial_again_ms = now_ms + self.dial_wait_ms;
            self.say(Body::Dial, now_ms);
        }
        let (mut out, mut spoke) = (Vec::new(), false);
        for sent in self.under_way.values_mut().filter(|sent| now_ms >= sent.again_ms) {
            sent.wait_ms = (sent.wait_ms * 2).min(RETRY_MS.1);
            sent.again_ms = now_ms + sent.wait_ms;
            let packet = Packet { connection: self.connection, body: sent.body.clone() };
            out.push((self.peer, packet));
            spoke = true;
        }
        self.out.append(&mut out);
        if spoke {
            self.spoke_ms = now_ms;
        }
        if self.state == RoadState::Up && now_ms >= self.spoke_ms + KEEP_ALIVE_MS {
            self.say(Body::Ping, now_ms);
        }
    }

    /// When [`Road::tick`] wants to be called next.
    pub fn wake_ms(&self) -> Option<u64> {
        if matches!(self.state, RoadState::Over { .. }) {
            return None;
        }
        let again = self.under_way.values().map(|sent| sent.again_ms).min();
        let dial = (self.state == RoadState::Dialing).then_some(self.dial_again_ms);
        let ping = (self.state == RoadState::Up).then_some(self.spoke_ms + KEEP_ALIVE_MS);
        [again, dial, ping, Some(self.heard_ms + IDLE_MS)].into_iter().flatten().min()
    }

    /// The packets to be sent.
    pub fn take_out(&mut self) -> Vec<(Addr, Packet)> {
        std::mem::take(&mut self.out)
    }

    fn fill(&mut self, now_ms: u64) {
        while self.state == RoadState::Up && self.under_way.len() < WINDOW {
            let Some((place, frame)) = self.waiting.pop_front() else { return };
            let number = self.next_number;
            self.next_number += 1;
            let body = Body::Frame { number, place, frame };
            let sent =
                Sent { body: body.clone(), again_ms: now_ms + RETRY_MS.0, wait_ms: RETRY_MS.0 };
            self.under_way.insert(number, sent);
            self.say(body, now_ms);
        }
    }

    fn say(&mut self, body: Body, now_ms: u64) {
        self.spoke_ms = now_ms;
        self.out.push((self.peer, self.packet(body)));
    }

    fn packet(&self, body: Body) -> Packet {
        Packet { connection: self.connection, body }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::link::{Flight, Line, Network};

    /// Sends `frames` from a to b over a bad line; what arrived, in order of arrival.
    fn carry(seed: u64, line: Line, readdress: bool, frames: &[Frame]) -> Vec<Frame> {
        let mut network = Network::new(seed);
        let (a, b) = (network.join(line, None), network.join(line, None));
        let mut near = Road::dial(1, network.address(b), 0);
        let mut far: Option<Road> = None;
        let mut flights = Vec::new();
        let mut arrived = Vec::new();
        for frame in frames {
            near.send(frame.clone(), 0);
        }
        for now in 0..200_000 {
            if readdress && now == 2_000 {
                network.readdress(a);
            }
            let due = |(flight, _): &mut (Flight, Packet)| flight.at_ms <= now;
            let due: Vec<_> = flights.extract_if(.., due).collect();
            for (flight, packet) in due {
                match network.arrive(now, &flight) {
                    Some(host) if host == a => drop(near.receive(flight.from, packet.body, now)),
                    Some(_) => {
                        let far = far.get_or_insert_with(|| Road::welcome(1, flight.from, now));
                        arrived.extend(far.receive(flight.from, packet.body, now));
                    }
                    None => {}
                }
            }
            let mut roads = vec![(a, &mut near)];
            roads.extend(far.as_mut().map(|far| (b, far)));
            for (host, road) in roads {
                road.tick(now);
                for (to, packet) in road.take_out() {
                    for flight in network.send(now, host, to, packet.size()) {
                        flights.push((flight, packet.clone()));
                    }
                }
            }
            if near.is_drained() {
                break;
            }
        }
        assert!(near.is_drained(), "everything arrives in the end");
        arrived
    }

    #[test]
    fn everything_arrives_once_and_control_in_order_over_a_bad_line_and_a_change_of_address() {
        let line = Line { jitter_ms: 80, lost: 200, repeated: 200, ..Line::PERFECT };
        for seed in 0..5 {
            let frames: Vec<_> = (0..150u8)
                .map(|n| match n % 3 {
                    0 => Frame::Control(vec![n]),
                    _ => Frame::Data { stream: n.into(), bytes: 100, genuine: true },
                })
                .collect();
            let arrived = carry(seed, line, true, &frames);
            assert_eq!(arrived.len(), frames.len());
            let control = |frames: &[Frame]| -> Vec<Frame> {
                frames.iter().filter(|f| matches!(f, Frame::Control(_))).cloned().collect()
            };
            assert_eq!(control(&arrived), control(&frames));
            assert_ne!(arrived, frames, "payload overtakes");
        }
    }

    #[test]
    fn silence_ends_it() {
        let mut network = Network::new(1);
        let host = network.join(Line::PERFECT, None);
        let mut road = Road::dial(1, network.address(host), 0);
        while let Some(wake) = road.wake_ms() {
            road.tick(wake);
        }
        assert_eq!(road.state, RoadState::Over { clean: false });
        assert!(road.take_out().len() > 5, "it has tried");
    }
}
