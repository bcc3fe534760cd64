//! Connections: what is said arrives in order and late, or never; each end notices for itself.

use sparewire_content::{PeerId, Supply};
use sparewire_protocol::{Message, Role};

use super::{
    end::{End, Key},
    words::brief,
    world::{Happening, Wire, World},
};

/// A connection that is there, whether or not both ends still think so.
pub(crate) struct Link {
    pub(crate) ends: Key,
    /// When the newest message of either end arrives.
    pub(crate) arrives: [u64; 2],
    pub(crate) latency: u64,
    /// What was on it was held up for long, once.
    pub(crate) stalled: bool,
}

impl World {
    pub(crate) fn connect(&mut self, one: usize, other: usize) {
        let (a, b) = (&self.nodes[one], &self.nodes[other]);
        let banned = a.banned.contains(&other) || b.banned.contains(&one);
        if banned || !a.up || !b.up || a.closing || b.closing {
            return;
        }
        let stale: Vec<(Key, u64)> = [(one, other), (other, one)]
            .into_iter()
            .filter_map(|key| Some((key, self.ends.get(&key)?.link)))
            .collect();
        if !stale.is_empty() {
            for (key, link) in stale {
                // The newer one stays; this end had not noticed.
                let other_gone = self.ends.get(&(key.1, key.0)).is_none_or(|end| end.link != link);
                if other_gone {
                    self.notice(link, key);
                }
            }
            return;
        }
        let link = self.number();
        let latency = self.random.of(&[0, 1, 10, 40, 150]);
        self.links
            .insert(link, Link { ends: (one, other), arrives: [0, 0], latency, stalled: false });
        let keys = [(one, other), (other, one)];
        for key in keys {
            let id = PeerId(self.number() as u32);
            self.ends.insert(key, End::new(link, id));
            let node = &mut self.nodes[key.0];
            node.ids.insert(id, key.1);
            node.download.peer_joined(id, Supply { price: None, queue_max: 250 });
        }
        for key in keys {
            self.tell_all(key);
            if let (Some(price), Some(end)) = (self.price_of(key), self.ends.get(&key)) {
                let id = end.id;
                self.nodes[key.0].download.priced(id, price);
                self.carry_out(key.0);
            }
        }
    }

    pub(crate) fn send(&mut self, key: Key, wire: Wire) {
        let Some(end) = self.ends.get(&key).filter(|end| !end.lost) else { return };
        let number = end.link;
        let jitter = if self.random.one_in(10) { self.random.below(400) } else { 0 };
        let now = self.now;
        let Some(link) = self.links.get_mut(&number) else { return };
        let side = usize::from(link.ends.0 != key.0);
        let at = (now + link.latency + jitter).max(link.arrives[side]);
        link.arrives[side] = at;
        self.at(at, Happening::Wire { link: number, key: (key.1, key.0), wire });
    }

    /// Says something of a session; `false` where nobody is there any more.
    pub(crate) fn say(&mut self, key: Key, role: Role, message: Message) -> bool {
        if self.ends.get(&key).is_none_or(|end| end.lost) {
            return false;
        }
        let from_payer = role == Role::Payer;
        for message in self.bend(key, role, message) {
            self.tell(|| format!("{key:?} {role:?} says {}", brief(&message)));
            let message = Some(Box::new(message));
            self.send(key, Wire::Frame { from_payer, message });
        }
        true
    }

    /// Ends our half of a session.
    pub(crate) fn say_over(&mut self, key: Key, role: Role) {
        let from_payer = role == Role::Payer;
        self.send(key, Wire::Frame { from_payer, message: None });
    }

    /// This end closes the connection; what was said before arrives.
    pub(crate) fn end_link(&mut self, key: Key, link: u64) {
        let (now, other) = (self.now, (key.1, key.0));
        if let Some(known) = self.links.get(&link) {
            let side = usize::from(known.ends.0 != key.0);
            let at = (now + known.latency).max(known.arrives[side]);
            self.at(at, Happening::Notice { link, key: other });
            self.at(now, Happening::Notice { link, key });
        }
    }

    /// What is said from now on comes late.
    pub(crate) fn stall(&mut self, link: u64) {
        let (late, side) = (self.random.below(14_000), self.random.below(2) as usize);
        let now = self.now;
        if let Some(link) = self.links.get_mut(&link) {
            link.arrives[side] = link.arrives[side].max(now + late);
            link.stalled = true;
            self.ledger.reached.stalled += 1;
        }
    }

    /// The connection breaks: what is under way is lost, and each end notices at its own time.
    pub(crate) fn cut(&mut self, link: u64) {
        let Some(Link { ends: (one, other), .. }) = self.links.remove(&link) else { return };
        self.ledger.reached.cut += 1;
        self.tell(|| format!("link {link} of {one} and {other} breaks"));
        for key in [(one, other), (other, one)] {
            let at = self.now + self.random.of(&[0, 1, 100, 3_000]);
            self.at(at, Happening::Notice { link, key });
        }
    }

    pub(crate) fn notice(&mut self, link: u64, key: Key) {
        let Some(end) = self.ends.get_mut(&key).filter(|end| end.link == link && !end.lost) else {
            return;
        };
        end.lost = true;
        end.requests.clear();
        end.waiting = None;
        let id = end.id;
        if self.ends.get(&(key.1, key.0)).is_none_or(|end| end.link != link || end.lost) {
            self.links.remove(&link);
        }
        self.nodes[key.0].copies.retain(|copy| copy.from != id);
        self.nodes[key.0].download.peer_left(id);
        self.carry_out(key.0);
        self.poke(key, Role::Payer);
        self.poke(key, Role::Payee);
        self.drive(key);
    }
}
