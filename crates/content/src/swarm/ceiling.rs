//! Up to which price peers are asked: the cheapest that keep the line full.
//!
//! All peers at or below the ceiling are asked, free ones always. It is found by trying:
//!
//! 1. Where nothing comes at all, the ceiling goes up to the next price at once.
//! 2. Else, after a rest, the rate is measured, the ceiling moved to the next price above or below
//!    (in turn, where there is one; above, a price further each time that it was for nothing), some time left to settle, and the rate measured again.
//!    Up: it stays there if the rate has grown by a tenth. Down: it stays if no more than a twentieth
//!    was lost. Else it goes back.
//! 3. Rests grow while nothing changes.
//!
//! What lies between a twentieth and a tenth is not taken on, and not let go: nothing flaps.

use sparewire_core::{Price, Timestamp};

/// How long the rate is measured, in ms.
const WINDOW_MS: u64 = 3_000;
/// How long after a move before it is: queues have to grow or drain.
const SETTLE_MS: u64 = 2_000;
/// Rest after a move that stayed, in ms. It doubles for each that did not.
const REST_MS_MIN: u64 = 5_000;
/// Longest rest.
const REST_MS_MAX: u64 = 160_000;
/// How long dearer ones are held up for a new peer to be ready (to answer, and its channel to be
/// opened), in ms: it may still get ready later, and is asked then.
pub(super) const PREPARE_MS: u64 = 20_000;

#[derive(Debug)]
pub(super) struct Ceiling {
    price: Price,
    phase: Phase,
    rest_ms: u64,
    /// Which way is tried next.
    upwards: bool,
    /// How many prices upwards: beyond one that changed nothing there may be one that does.
    reach: usize,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Rest { until: Timestamp },
    Before { since: Timestamp, bytes: u64 },
    Settling { back: Price, rate: u64, since: Timestamp, moved: Timestamp },
    After { back: Price, rate: u64, since: Timestamp, bytes: u64 },
}

/// What there is to decide by.
pub(super) struct Market<'a> {
    /// Prices at which there is something that we want, ascending, each once.
    pub(super) prices: &'a [Price],
    /// Bytes that have come in all.
    pub(super) bytes: u64,
    /// Nothing comes from those that are asked.
    pub(super) starved: bool,
    /// Some peer at the ceiling is not ready yet to serve.
    pub(super) preparing: bool,
}

impl Ceiling {
    pub(super) fn new(now: Timestamp) -> Self {
        let phase = Phase::Rest { until: now.plus_ms(REST_MS_MIN) };
        Self { price: Price::FREE, phase, rest_ms: REST_MS_MIN, upwards: true, reach: 0 }
    }

    pub(super) fn price(&self) -> Price {
        self.price
    }

    /// Starts the rest anew: what was being measured is worthless, since the clock jumped.
    pub(super) fn interrupt(&mut self, now: Timestamp) {
        if let Phase::Settling { back, .. } | Phase::After { back, .. } = self.phase {
            self.price = back;
        }
        self.rest(now);
    }

    /// Moves on; says whether the ceiling changed.
    pub(super) fn step(&mut self, now: Timestamp, market: &Market<'_>) -> bool {
        let before = self.price;
        if market.starved {
            if let Some(above) = self.above(market) {
                self.price = above;
                self.rest_ms = REST_MS_MIN;
                self.rest(now);
            }
            return self.price != before;
        }
        match self.phase {
            Phase::Rest { until } => {
                if now >= until && (self.above(market).is_some() || self.below(market).is_some()) {
                    self.phase = Phase::Before { since: now, bytes: market.bytes };
                }
            }
            Phase::Before { since, bytes } if now.ms_since(since) >= WINDOW_MS => {
                let rate = rate(market.bytes, bytes, now.ms_since(since));
                let (above, below) = (self.reached(market), self.below(market));
                let next = if self.upwards { above.or(below) } else { below.or(above) };
                match next {
                    Some(next) => {
                        self.upwards = next < self.price;
                        self.price = next;
                        self.phase = Phase::Settling { back: before, rate, since: now, moved: now };
                    }
                    None => self.rest(now),
                }
            }
            Phase::Settling { back, rate, since, moved } => {
                let waits = market.preparing && self.price > back;
                if waits && now.ms_since(moved) < PREPARE_MS {
                    self.phase = Phase::Settling { back, rate, since: now, moved };
                } else if now.ms_since(since) >= SETTLE_MS {
                    self.phase = Phase::After { back, rate, since: now, bytes: market.bytes };
                }
            }
            Phase::After { back, rate: earlier, since, bytes }
                if now.ms_since(since) >= WINDOW_MS =>
            {
                let later = rate(market.bytes, bytes, now.ms_since(since));
                let stays = if self.price > back {
                    u128::from(later) * 10 >= u128::from(earlier) * 11 && later > 0
                } else {
                    u128::from(later) * 20 >= u128::from(earlier) * 19
                };
                if stays {
                    (self.rest_ms, self.reach) = (REST_MS_MIN, 0);
                } else {
                    self.reach += usize::from(self.price > back);
                    self.price = back;
                    self.rest_ms = (self.rest_ms * 2).min(REST_MS_MAX);
                }
                self.rest(now);
            }
            Phase::Before { .. } | Phase::After { .. } => {}
        }
        self.price != before
    }

    fn rest(&mut self, now: Timestamp) {
        self.phase = Phase::Rest { until: now.plus_ms(self.rest_ms) };
    }

    /// The next dearer price.
    fn above(&self, market: &Market<'_>) -> Option<Price> {
        market.prices.iter().copied().find(|price| *price > self.price)
    }

    /// The price that is tried next above, and once around through all of them.
    fn reached(&mut self, market: &Market<'_>) -> Option<Price> {
        let mut above = market.prices.iter().copied().filter(|price| *price > self.price);
        let reached = above.nth(self.reach);
        if reached.is_none() {
            self.reach = 0;
        }
        reached.or_else(|| self.above(market))
    }

    /// The price below the dearest that is paid now, where there is one.
    fn below(&self, market: &Market<'_>) -> Option<Price> {
        let paid = market.prices.iter().rev().filter(|price| **price <= self.price);
        paid.copied().nth(1)
    }
}

/// Bytes a second.
fn rate(later: u64, earlier: u64, ms: u64) -> u64 {
    later.saturating_sub(earlier).saturating_mul(1000) / ms.max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn price(units: u128) -> Price {
        Price::per_gib(units).unwrap()
    }

    /// Runs for `secs`, while `rate_at` says how many bytes a second come at a ceiling.
    fn run(
        ceiling: &mut Ceiling,
        from: u64,
        secs: u64,
        prices: &[Price],
        rate_at: impl Fn(Price) -> u64,
    ) -> u64 {
        let mut bytes = 0;
        let mut at_a_price = 0;
        for ms in (from..from + secs * 1000).step_by(100) {
            let rate = rate_at(ceiling.price());
            bytes += rate / 10;
            at_a_price += u64::from(ceiling.price() > Price::FREE) * 100;
            let market = Market { prices, bytes, starved: rate == 0, preparing: false };
            ceiling.step(Timestamp::from_ms(ms), &market);
        }
        at_a_price
    }

    #[test]
    fn where_nothing_comes_the_cheapest_is_asked_at_once() {
        let mut ceiling = Ceiling::new(Timestamp::default());
        let prices = [price(5), price(9)];
        run(&mut ceiling, 0, 1, &prices, |ceiling| if ceiling >= price(5) { 1000 } else { 0 });
        assert_eq!(ceiling.price(), price(5));
    }

    #[test]
    fn a_dearer_price_is_paid_only_where_it_makes_the_whole_faster() {
        let prices = [Price::FREE, price(5), price(9)];
        let mut ceiling = Ceiling::new(Timestamp::default());
        run(&mut ceiling, 0, 60, &prices, |ceiling| match ceiling.get() {
            0 => 1000,
            5..9 => 2000,
            _ => 2100, // the line is nearly full
        });
        assert_eq!(ceiling.price(), price(5));
        let mut ceiling = Ceiling::new(Timestamp::default());
        run(&mut ceiling, 0, 100, &prices, |ceiling| 1000 + 1000 * ceiling.get() as u64);
        assert!(ceiling.price() >= price(5));
    }

    #[test]
    fn a_fast_dear_peer_is_found_behind_slow_cheaper_ones() {
        let prices = [Price::FREE, price(5), price(7), price(9)];
        let mut ceiling = Ceiling::new(Timestamp::default());
        let rate = |ceiling: Price| if ceiling >= price(9) { 2000 } else { 1000 };
        run(&mut ceiling, 0, 200, &prices, rate);
        assert_eq!(ceiling.price(), price(9));
    }

    #[test]
    fn a_dearer_price_is_given_up_when_cheaper_ones_fill_the_line() {
        let prices = [price(5), price(9)];
        let mut ceiling = Ceiling::new(Timestamp::default());
        let both = |ceiling: Price| match ceiling.get() {
            0..5 => 0,
            5..9 => 1000,
            _ => 2000,
        };
        run(&mut ceiling, 0, 30, &prices, both);
        assert_eq!(ceiling.price(), price(9));
        let prices = [Price::FREE, price(5), price(9)];
        run(&mut ceiling, 30_000, 600, &prices, |_| 2000);
        assert_eq!(ceiling.price(), Price::FREE);
    }

    #[test]
    fn trying_gets_rarer_while_it_changes_nothing() {
        let prices = [Price::FREE, price(5)];
        let mut ceiling = Ceiling::new(Timestamp::default());
        let early = run(&mut ceiling, 0, 300, &prices, |_| 1000);
        let late = run(&mut ceiling, 300_000, 3_000, &prices, |_| 1000);
        assert_eq!(ceiling.price(), Price::FREE);
        assert!(early > 0);
        // A trial of 5 s in each 168 s.
        assert!(late <= 3_000_000 / 150 * 5, "{late} ms at a price");
    }

    #[test]
    fn a_trial_waits_for_a_peer_to_be_ready_but_not_for_ever() {
        let prices = [Price::FREE, price(5)];
        let mut ceiling = Ceiling::new(Timestamp::default());
        let mut raised = Vec::new();
        for ms in (0..200_000).step_by(100) {
            let market = Market { prices: &prices, bytes: ms, starved: false, preparing: true };
            if ceiling.step(Timestamp::from_ms(ms), &market) {
                raised.push(ms);
            }
        }
        assert!(
            raised[1] - raised[0] >= PREPARE_MS && raised[1] - raised[0] <= PREPARE_MS + 10_000
        );
    }
}
