//! The network: hosts, address translation, and lines that delay, lose, reorder, repeat and starve
//! packets. It knows nothing of what is in them.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Where a packet comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addr {
    /// The machine, or the translator in front of it.
    pub ip: u16,
    /// Its port.
    pub port: u16,
}

/// How translation treats other remote addresses (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dependence {
    /// All are alike.
    EndpointIndependent,
    /// Each remote machine is apart.
    AddressDependent,
    /// Each remote machine and port is apart.
    AddressAndPortDependent,
}

impl Dependence {
    fn key(self, remote: Addr) -> Addr {
        match self {
            Self::EndpointIndependent => Addr { ip: 0, port: 0 },
            Self::AddressDependent => Addr { ip: remote.ip, port: 0 },
            Self::AddressAndPortDependent => remote,
        }
    }
}

/// A translator's behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// Which remotes share one public port.
    pub mapping: Dependence,
    /// Which remotes may answer.
    pub filtering: Dependence,
    /// How long an unused mapping lives, in milliseconds.
    pub timeout_ms: u64,
    /// Whether one port is forwarded to the host whatever happens.
    pub forwarded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    key: Addr,
    public_port: u16,
    used_ms: u64,
}

/// The port that a host listens on, and that a forwarding translator opens.
pub const PORT: u16 = 1;

#[derive(Clone, Debug)]
struct Host {
    ip: u16,
    nat: Option<Nat>,
    mappings: Vec<Mapping>,
    /// Where it has sent to lately, through which mapping: what filtering looks at.
    sent: Vec<(u16, Addr)>,
    next_port: u16,
}

/// What a line does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// One way, in milliseconds.
    pub delay_ms: u64,
    /// At most so much more; packets overtake each other by it.
    pub jitter_ms: u64,
    /// Of a thousand packets, how many are lost.
    pub lost: u16,
    /// Of a thousand packets, how many come twice.
    pub repeated: u16,
    /// Bytes a millisecond.
    pub rate: u64,
    /// How long a packet may wait for its turn before it is dropped, in milliseconds.
    pub queue_ms: u64,
}

impl Line {
    /// A fast line without faults.
    pub const PERFECT: Self =
        Self { delay_ms: 5, jitter_ms: 0, lost: 0, repeated: 0, rate: 1_000_000, queue_ms: 1_000 };
}

/// A packet on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// When it arrives.
    pub at_ms: u64,
    /// As its receiver sees it.
    pub from: Addr,
    /// Where it was sent to.
    pub to: Addr,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Sent.
    pub sent: u64,
    /// Lost on the line or in a partition.
    pub lost: u64,
    /// Repeated.
    pub repeated: u64,
    /// Dropped by a full queue.
    pub starved: u64,
    /// Kept out by a translator.
    pub filtered: u64,
}

/// All hosts and lines. Each host has one line to the rest of the world.
#[derive(Clone, Debug)]
pub struct Network {
    hosts: Vec<Host>,
    lines: Vec<Line>,
    busy_until_ms: Vec<u64>,
    cut_until_ms: Vec<u64>,
    rng: Rng,
    next_ip: u16,
    /// What became of packets so far.
    pub counters: LinkCounters,
}

impl Network {
    /// An empty one.
    pub fn new(seed: u64) -> Self {
        Self {
            hosts: Vec::new(),
            lines: Vec::new(),
            busy_until_ms: Vec::new(),
            cut_until_ms: Vec::new(),
            rng: Rng::with_seed(seed),
            next_ip: 1,
            counters: LinkCounters::default(),
        }
    }

    /// Another host; its number.
    pub fn join(&mut self, line: Line, nat: Option<Nat>) -> usize {
        let ip = self.new_ip();
        let host = Host { ip, nat, mappings: Vec::new(), sent: Vec::new(), next_port: 1_000 };
        self.hosts.push(host);
        self.lines.push(line);
        self.busy_until_ms.push(0);
        self.cut_until_ms.push(0);
        self.hosts.len() - 1
    }

    fn new_ip(&mut self) -> u16 {
        self.next_ip += 1;
        self.next_ip
    }

    /// Where others find a host that can be found.
    pub fn address(&self, host: usize) -> Addr {
        Addr { ip: self.hosts[host].ip, port: PORT }
    }

    /// The host gets another public address (another access line, a new lease): its mappings are
    /// gone.
    pub fn readdress(&mut self, host: usize) {
        self.hosts[host].ip = self.new_ip();
        self.rebind(host);
    }

    /// Its translator forgets all mappings, as one that restarts does.
    pub fn rebind(&mut self, host: usize) {
        self.hosts[host].mappings.clear();
        self.hosts[host].sent.clear();
    }

    /// Another line.
    pub fn set_line(&mut self, host: usize, line: Line) {
        self.lines[host] = line;
    }

    /// Nothing passes its line before `until_ms`.
    pub fn cut(&mut self, host: usize, until_ms: u64) {
        self.cut_until_ms[host] = self.cut_until_ms[host].max(until_ms);
    }

    /// All lines work perfectly from now on.
    pub fn heal(&mut self) {
        self.cut_until_ms.fill(0);
        self.lines.fill(Line::PERFECT);
        for host in &mut self.hosts {
            if let Some(nat) = &mut host.nat {
                nat.timeout_ms = u64::MAX;
            }
        }
    }

    /// Sends a packet of `bytes`; what of it is on its way: nothing, once, or twice.
    pub fn send(&mut self, now_ms: u64, host: usize, to: Addr, bytes: u64) -> Vec<Flight> {
        self.counters.sent += 1;
        let from = self.translate_out(now_ms, host, to);
        let line = self.lines[host];
        let start = self.busy_until_ms[host].max(now_ms);
        if start - now_ms > line.queue_ms {
            self.counters.starved += 1;
            return Vec::new();
        }
        let sent = start + bytes / line.rate.max(1);
        self.busy_until_ms[host] = sent;
        let mut copies = 1;
        if self.rng.u16(0..1_000) < line.lost || now_ms < self.cut_until_ms[host] {
            self.counters.lost += 1;
            copies = 0;
        } else if self.rng.u16(0..1_000) < line.repeated {
            self.counters.repeated += 1;
            copies = 2;
        }
        (0..copies)
            .map(|_| Flight {
                at_ms: sent + line.delay_ms + self.rng.u64(0..=line.jitter_ms),
                from,
                to,
            })
            .collect()
    }

    /// The host that takes a packet which arrives now, if one does.
    pub fn arrive(&mut self, now_ms: u64, flight: &Flight) -> Option<usize> {
        let host = self.hosts.iter().position(|host| host.ip == flight.to.ip)?;
        if now_ms < self.cut_until_ms[host] || self.rng.u16(0..1_000) < self.lines[host].lost / 2 {
            self.counters.lost += 1;
            return None;
        }
        if self.translate_in(now_ms, host, flight) {
            Some(host)
        } else {
            self.counters.filtered += 1;
            None
        }
    }

    fn translate_out(&mut self, now_ms: u64, host: usize, to: Addr) -> Addr {
        let host = &mut self.hosts[host];
        let Some(nat) = host.nat else { return Addr { ip: host.ip, port: PORT } };
        let key = nat.mapping.key(to);
        let alive = |mapping: &Mapping| now_ms.saturating_sub(mapping.used_ms) < nat.timeout_ms;
        host.mappings.retain(alive);
        let public_port = match host.mappings.iter_mut().find(|mapping| mapping.key == key) {
            Some(mapping) => {
                mapping.used_ms = now_ms;
                mapping.public_port
            }
            None => {
                let public_port = if nat.forwarded { PORT } else { host.next_port };
                host.next_port += 1;
                host.mappings.push(Mapping { key, public_port, used_ms: now_ms });
                public_port
            }
        };
        let through = (public_port, nat.filtering.key(to));
        if !host.sent.contains(&through) {
            host.sent.push(through);
        }
        Addr { ip: host.ip, port: public_port }
    }

    fn translate_in(&mut self, now_ms: u64, host: usize, flight: &Flight) -> bool {
        let host = &mut self.hosts[host];
        let Some(nat) = host.nat else { return flight.to.port == PORT };
        if nat.forwarded && flight.to.port == PORT {
            return true;
        }
        let alive = |mapping: &Mapping| now_ms.saturating_sub(mapping.used_ms) < nat.timeout_ms;
        host.mappings.retain(alive);
        let mapped = host.mappings.iter_mut().find(|m| m.public_port == flight.to.port);
        let allowed = host.sent.contains(&(flight.to.port, nat.filtering.key(flight.from)));
        match mapped {
            Some(mapping) if allowed => {
                mapping.used_ms = now_ms;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nat(mapping: Dependence, filtering: Dependence) -> Option<Nat> {
        Some(Nat { mapping, filtering, timeout_ms: 60_000, forwarded: false })
    }

    fn one(mut flights: Vec<Flight>) -> Flight {
        assert_eq!(flights.len(), 1);
        flights.remove(0)
    }

    #[test]
    fn who_is_behind_a_translator_is_answered_and_not_called() {
        use Dependence::{AddressAndPortDependent, EndpointIndependent};
        let mut network = Network::new(1);
        let public = network.join(Line::PERFECT, None);
        let stranger = network.join(Line::PERFECT, None);
        let home = network.join(Line::PERFECT, nat(EndpointIndependent, AddressAndPortDependent));
        let call = one(network.send(0, public, network.address(home), 100));
        assert_eq!(network.arrive(5, &call), None, "nobody calls it");
        let question = one(network.send(10, home, network.address(public), 100));
        assert_eq!(network.arrive(15, &question), Some(public));
        let answer = one(network.send(20, public, question.from, 100));
        assert_eq!(network.arrive(25, &answer), Some(home));
        let other = one(network.send(30, stranger, question.from, 100));
        assert_eq!(network.arrive(35, &other), None, "whom it did not ask is kept out");
        let late = one(network.send(100_000, public, question.from, 100));
        assert_eq!(network.arrive(100_005, &late), None, "the mapping is gone");
        assert_eq!(network.counters.filtered, 3);
    }

    #[test]
    fn mapping_and_filtering_depend_on_what_they_should() {
        use Dependence::{AddressDependent, EndpointIndependent};
        let mut network = Network::new(1);
        let (a, b) = (network.join(Line::PERFECT, None), network.join(Line::PERFECT, None));
        let cone = network.join(Line::PERFECT, nat(EndpointIndependent, EndpointIndependent));
        let symmetric = network.join(Line::PERFECT, nat(AddressDependent, AddressDependent));
        let (to_a, to_b) = (network.address(a), network.address(b));
        let port = |network: &mut Network, host, to| one(network.send(0, host, to, 1)).from.port;
        assert_eq!(port(&mut network, cone, to_a), port(&mut network, cone, to_b));
        assert_ne!(port(&mut network, symmetric, to_a), port(&mut network, symmetric, to_b));
        let opened = one(network.send(0, cone, to_a, 1)).from;
        let from_b = one(network.send(1, b, opened, 1));
        assert_eq!(network.arrive(6, &from_b), Some(cone), "anybody may answer a full cone");
    }

    #[test]
    fn a_line_delays_loses_repeats_and_starves_as_it_says() {
        let mut network = Network::new(7);
        let line = Line {
            delay_ms: 40,
            jitter_ms: 20,
            lost: 100,
            repeated: 50,
            rate: 10,
            queue_ms: 50_000,
        };
        let (a, b) = (network.join(line, None), network.join(Line::PERFECT, None));
        let to = network.address(b);
        let mut arrivals = Vec::new();
        for packet in 0..1_000 {
            for flight in network.send(packet, a, to, 10) {
                assert!((40..=61 + 1_000).contains(&(flight.at_ms - packet)));
                arrivals.push(flight.at_ms);
            }
        }
        let counters = network.counters;
        assert!((60..140).contains(&counters.lost) && (20..80).contains(&counters.repeated));
        assert!(arrivals.windows(2).any(|pair| pair[0] > pair[1]), "some overtake others");
        network.set_line(a, Line { queue_ms: 1, ..line });
        (0..100).for_each(|_| drop(network.send(1_000, a, to, 1_000)));
        assert!(network.counters.starved > 90);
    }

    #[test]
    fn a_cut_line_carries_nothing_until_it_is_mended() {
        let mut network = Network::new(7);
        let (a, b) = (network.join(Line::PERFECT, None), network.join(Line::PERFECT, None));
        let to = network.address(b);
        network.cut(a, 100);
        assert!(network.send(99, a, to, 1).is_empty());
        let passes = one(network.send(100, a, to, 1));
        network.cut(b, 200);
        assert_eq!(network.arrive(105, &passes), None);
        network.heal();
        assert_eq!(network.arrive(105, &passes), Some(b));
    }
}
