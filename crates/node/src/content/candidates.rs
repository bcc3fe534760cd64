//! Addresses that may be dialled, when, and those that never are again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use super::discovery::Source;

/// How many addresses of a torrent are remembered.
const CANDIDATES_MAX: usize = 2_000;
/// How many senders of bad data are remembered.
const BANNED_MAX: usize = 2_000;
/// How often an address is tried in vain; one that was named is tried for ever.
const FAILURES_MAX: u32 = 5;
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// What is known of whom one could connect to.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
    banned: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Candidate {
    source: Source,
    failures: u32,
    not_before: Instant,
    /// Being dialled, or connected.
    busy: bool,
}

impl Candidates {
    /// Remembers an address; whether it is a new one. Where there are too many, one that was tried in
    /// vain makes room: whoever names a thousand that lead nowhere keeps no other out for long.
    pub(super) fn add(&mut self, address: SocketAddr, source: Source, now: Instant) -> bool {
        if self.banned.contains(&address.ip()) {
            return false;
        }
        let is_full = self.known.len() >= CANDIDATES_MAX && !self.known.contains_key(&address);
        if is_full && source != Source::Named && !self.make_room() {
            return false;
        }
        let new = !self.known.contains_key(&address);
        let candidate = self.known.entry(address).or_insert(Candidate {
            source,
            failures: 0,
            not_before: now,
            busy: false,
        });
        if source == Source::Named {
            (candidate.source, candidate.not_before) = (source, now);
        }
        new
    }

    /// Forgets the address that was tried in vain most often; `false` where there is none.
    fn make_room(&mut self) -> bool {
        let in_vain = |candidate: &Candidate| {
            candidate.failures > 0 && !candidate.busy && candidate.source != Source::Named
        };
        let worst = self
            .known
            .iter()
            .filter(|(_, candidate)| in_vain(candidate))
            .max_by_key(|(_, candidate)| candidate.failures);
        let Some(worst) = worst.map(|(address, _)| *address) else { return false };
        self.known.remove(&worst).is_some()
    }

    /// The next address to dial, which is busy from now on; else when there may be one.
    pub(super) fn next(&mut self, now: Instant) -> Result<(SocketAddr, Source), Option<Instant>> {
        let idle = self.known.iter_mut().filter(|(_, candidate)| !candidate.busy);
        match idle.min_by_key(|(_, candidate)| candidate.not_before) {
            Some((address, candidate)) if candidate.not_before <= now => {
                candidate.busy = true;
                Ok((*address, candidate.source))
            }
            other => Err(other.map(|(_, candidate)| candidate.not_before)),
        }
    }

    /// A connection to an address ended, or did not come about.
    pub(super) fn ended(&mut self, address: SocketAddr, worked: bool, now: Instant) {
        let Some(candidate) = self.known.get_mut(&address) else { return };
        candidate.busy = false;
        candidate.failures = if worked { 1 } else { candidate.failures + 1 };
        let wait = RETRY_MIN * 2u32.saturating_pow(candidate.failures - 1);
        candidate.not_before = now + wait.min(RETRY_MAX);
        if candidate.failures > FAILURES_MAX && candidate.source != Source::Named {
            self.known.remove(&address);
        }
    }

    /// Nobody at this address is spoken to again.
    pub(super) fn ban(&mut self, ip: IpAddr) {
        if self.banned.len() >= BANNED_MAX {
            self.banned.pop_first();
        }
        self.banned.insert(ip);
        self.known.retain(|address, _| address.ip() != ip);
    }

    /// An address that is of no use: our own, or another way to somebody we speak to.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.known.remove(&address);
    }

    pub(super) fn is_banned(&self, ip: IpAddr) -> bool {
        self.banned.contains(&ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 1))
    }

    #[test]
    fn an_address_is_tried_again_later_and_later_and_then_forgotten() {
        let mut now = Instant::now();
        let mut candidates = Candidates::default();
        assert!(candidates.add(address(1), Source::Dht, now));
        assert!(!candidates.add(address(1), Source::Dht, now));
        for failures in 0..=FAILURES_MAX {
            assert_eq!(candidates.next(now), Ok((address(1), Source::Dht)));
            assert_eq!(candidates.next(now), Err(None), "it is busy");
            candidates.ended(address(1), false, now);
            let wait = (RETRY_MIN * 2u32.pow(failures)).min(RETRY_MAX);
            if failures < FAILURES_MAX {
                assert_eq!(candidates.next(now), Err(Some(now + wait)));
            }
            now += wait;
        }
        assert_eq!(candidates.next(now), Err(None));
    }

    #[test]
    fn nobody_at_a_banned_address_is_dialled() {
        let now = Instant::now();
        let mut candidates = Candidates::default();
        candidates.add(address(1), Source::Named, now);
        candidates.ban(address(1).ip());
        assert!(!candidates.add(address(1), Source::Named, now));
        assert_eq!(candidates.next(now), Err(None));
        assert!(candidates.is_banned(address(1).ip()));
    }

    #[test]
    fn strangers_cannot_fill_the_list_against_those_that_were_named() {
        let now = Instant::now();
        let mut candidates = Candidates::default();
        for n in 0..3_000u16 {
            candidates.add(SocketAddr::from(([127, 0, 0, 1], n)), Source::Exchange, now);
        }
        assert_eq!(candidates.known.len(), CANDIDATES_MAX);
        assert!(candidates.add(address(9), Source::Named, now));
    }

    #[test]
    fn an_address_that_was_tried_in_vain_makes_room_for_another() {
        let now = Instant::now();
        let mut candidates = Candidates::default();
        for n in 0..3_000u16 {
            candidates.add(SocketAddr::from(([127, 0, 0, 1], n)), Source::Tracker, now);
        }
        assert!(!candidates.add(address(2), Source::Tracker, now), "none was tried");
        let Ok((tried, _)) = candidates.next(now) else { panic!("there are some") };
        assert!(!candidates.add(address(2), Source::Tracker, now), "it is being dialled");
        candidates.ended(tried, false, now);
        assert!(candidates.add(address(2), Source::Tracker, now));
        assert_eq!(candidates.known.len(), CANDIDATES_MAX);
        assert!(!candidates.known.contains_key(&tried));
    }
}
