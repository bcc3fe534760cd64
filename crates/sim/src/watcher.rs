//! A watcher: a party of its own that a provider hands its newest vouchers, and that claims them
//! where a payer leaves, whether the provider is still there or not. And what dishonest ones do
//! instead.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use sparewire_core::{ChannelId, Timestamp};
use sparewire_protocol::{ChannelStatus, Claim, settlement::Intent};

use crate::{
    cast::{WATCHER, identity, network},
    chain::{Asks, SimChain},
    node::Surroundings,
    plan::WatcherPlan,
    purse::Purse,
};

/// How often it looks at the chain, in milliseconds.
pub const LOOK_MS: u64 = 30_000;
/// The longest that a voucher is on its way to it, in milliseconds.
const LETTER_MS: u64 = 5_000;

/// What a dishonest watcher does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatcherVice {
    /// Claims the first voucher that it heard of, in the hope that the newest is then worth nothing.
    ClaimsOld,
    /// Hears, and never claims.
    NeverClaims,
}

/// All of them.
pub const WATCHER_VICES: [WatcherVice; 2] = [WatcherVice::ClaimsOld, WatcherVice::NeverClaims];

impl WatcherVice {
    /// Its name in the coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaimsOld => "vice: watcher claims an old voucher",
            Self::NeverClaims => "vice: watcher never claims",
        }
    }
}

/// What it keeps of a channel.
#[derive(Clone, Copy, Debug)]
struct Kept {
    first: Claim,
    newest: Claim,
}

/// A watcher.
pub struct Watcher {
    /// What is wrong with it.
    pub vice: Option<WatcherVice>,
    /// Its transactions.
    pub purse: Purse,
    /// Of a thousand vouchers that it is sent, how many are lost.
    lost: u16,
    /// Durable: it outlives the process.
    kept: BTreeMap<ChannelId, Kept>,
    down_until_ms: u64,
    rng: Rng,
}

impl Watcher {
    /// One that runs and has heard of nothing.
    pub fn new(plan: WatcherPlan, seed: u64) -> Self {
        Self {
            vice: plan.vice,
            purse: Purse::new(identity(WATCHER).address(), plan.asks),
            lost: plan.lost,
            kept: BTreeMap::new(),
            down_until_ms: 0,
            rng: Rng::with_seed(seed),
        }
    }

    /// A voucher is sent to it: how long it takes, in milliseconds; `None` where it is lost.
    pub fn post(&mut self, world: &mut Surroundings) -> Option<u64> {
        if self.rng.u16(0..1_000) < self.lost {
            world.coverage.met("a voucher is lost on its way to the watcher");
            return None;
        }
        Some(self.rng.u64(0..=LETTER_MS))
    }

    /// A voucher arrives. The newest is kept, in whatever order they come.
    pub fn hear(&mut self, world: &mut Surroundings, claim: Claim) {
        if !self.is_up(world) {
            world.coverage.met("nobody hears what the watcher is sent");
            return;
        }
        world.coverage.met("a watcher hears of a voucher");
        let id = claim.config.id(&network().0);
        if world.in_time(id, claim.config.withdraw_delay_secs) {
            let heard = &mut world.ledger.channel(id).heard;
            *heard = claim.amount.max(*heard);
        }
        let kept = self.kept.entry(id).or_insert(Kept { first: claim, newest: claim });
        if claim.amount > kept.newest.amount {
            kept.newest = claim;
        }
    }

    /// Looks at the chain, and claims where a payer leaves and more is promised than was claimed.
    pub fn look(&mut self, world: &mut Surroundings) {
        if !self.is_up(world) || !self.purse.is_idle() {
            return;
        }
        let view = world.chain.ask(self.purse.asks);
        let mut claims = Vec::new();
        for (id, kept) in &self.kept {
            let Ok(Some(facts)) = view.channel(*id) else { continue };
            let leaves = matches!(facts.status, ChannelStatus::Closing { .. });
            let due = match self.vice {
                None => leaves && kept.newest.amount > facts.claimed,
                Some(WatcherVice::ClaimsOld) => {
                    facts.status != ChannelStatus::Closed && kept.first.amount < kept.newest.amount
                }
                Some(WatcherVice::NeverClaims) => false,
            };
            if due {
                claims.push(if self.vice.is_none() { kept.newest } else { kept.first });
            }
        }
        if !claims.is_empty() {
            world.say(|| format!("the watcher claims over {} channels", claims.len()));
            world.coverage.met(match self.vice {
                None => "a watcher claims",
                Some(_) => "a watcher claims an old voucher",
            });
            self.purse.want(Intent::Claim { claims });
        }
    }

    /// A block may have been made.
    pub fn block(&mut self, chain: &mut SimChain, now: Timestamp, now_ms: u64) {
        if now_ms >= self.down_until_ms && !self.purse.is_idle() {
            self.purse.tick(chain, now);
        }
    }

    /// The process dies: what is sent to it meanwhile is not heard, what it kept stays.
    pub fn die(&mut self, world: &mut Surroundings, ms: u64) {
        world.say(|| "the watcher IS KILLED".into());
        world.coverage.met("the watcher was killed");
        self.purse.restart();
        self.down_until_ms = self.down_until_ms.max(world.now_ms + ms);
    }

    /// It works again, and everything that it is sent arrives.
    pub fn heal(&mut self) {
        if let Asks::One(endpoint) = &mut self.purse.asks {
            *endpoint = 0;
        }
        (self.lost, self.down_until_ms) = (0, 0);
    }

    fn is_up(&self, world: &Surroundings) -> bool {
        world.now_ms >= self.down_until_ms
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{Amount, Verified};
    use sparewire_protocol::{ChannelConfig, Voucher};

    use super::*;
    use crate::{
        cast::channel,
        chain::{Tag, Weather},
        link::Network,
    };

    const DELAY_SECS: u32 = 3_600;

    fn units(n: u128) -> Amount {
        Amount::new(n).unwrap()
    }

    fn claim(config: ChannelConfig, amount: u128) -> Claim {
        let voucher = Voucher { channel: config.id(&network().0), amount: units(amount) };
        let key = &*identity(1).authorizer;
        let signed = *Verified::sign(voucher, &network().0, key).unwrap().signed();
        Claim { config, amount: units(amount), signature: signed.signature }
    }

    /// A chain on which consumer 1 has a channel with the provider and is leaving it, a watcher that
    /// heard of vouchers for 40, 70 and 55 of its 100, and what is claimed when the payer has gone.
    fn claimed(vice: Option<WatcherVice>, killed_ms: u64) -> (Amount, Surroundings) {
        let mut chain = SimChain::new(Weather::calm(), 7);
        for party in [1, WATCHER] {
            chain.fund(identity(party).address(), 1 << 90, 1 << 80);
        }
        let mut world = Surroundings::new(chain, Network::new(7), None);
        let mut watcher = Watcher::new(WatcherPlan { vice, asks: Asks::One(0), lost: 0 }, 7);
        let config = channel(1, 0, 1, DELAY_SECS);
        let (token, amount) = (network().1, units(100));
        let mut payer = Purse::new(identity(1).address(), Asks::One(0));
        payer.want(Intent::Deposit { token, amount });
        payer.want(Intent::Open { channels: vec![(config, amount)] });
        payer.want(Intent::StartClose { config });
        for second in 0..12_000u64 {
            world.now_ms = second * 1_000;
            let now = world.time();
            world.chain.advance(now);
            if second % 12 == 0 {
                payer.tick(&mut world.chain, now);
                watcher.block(&mut world.chain, now, second * 1_000);
            }
            match second {
                100 => {
                    for amount in [40, 70, 55] {
                        watcher.hear(&mut world, claim(config, amount));
                    }
                }
                120 if killed_ms > 0 => {
                    watcher.die(&mut world, killed_ms);
                    watcher.hear(&mut world, claim(config, 90));
                }
                8_000 => payer.want(Intent::FinishClose { config }),
                _ => {}
            }
            if world.now_ms.is_multiple_of(LOOK_MS) {
                watcher.look(&mut world);
            }
        }
        let id = config.id(&network().0);
        let facts = world.chain.truth().channel(id, Tag::Final).unwrap().unwrap();
        assert_eq!(facts.status, ChannelStatus::Closed);
        (facts.claimed, world)
    }

    #[test]
    fn what_it_heard_of_is_claimed_when_the_payer_leaves() {
        let (claimed, world) = claimed(None, 0);
        assert_eq!(claimed, units(70), "the newest, not the last that came");
        assert!(world.ledger.channels.values().all(|account| account.heard == claimed));
        let has = world.chain.truth().token_balance(identity(WATCHER).address(), Tag::Final);
        assert_eq!(has, Ok(1 << 80), "and not for itself");
    }

    #[test]
    fn what_it_heard_of_outlives_it_and_what_comes_meanwhile_is_not_heard() {
        let (claimed, world) = claimed(None, 2_000_000);
        assert_eq!(claimed, units(70));
        assert_eq!(world.coverage.counts["nobody hears what the watcher is sent"], 1);
    }

    #[test]
    fn an_old_voucher_is_worth_what_it_says_and_one_that_never_claims_is_worth_nothing() {
        assert_eq!(claimed(Some(WatcherVice::ClaimsOld), 0).0, units(40));
        assert_eq!(claimed(Some(WatcherVice::NeverClaims), 0).0, Amount::ZERO);
    }
}
