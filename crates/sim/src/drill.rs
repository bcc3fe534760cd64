//! The drill: each way to cheat that a history can play is played, and what the honest lost by it is
//! measured against what it may cost at most (`docs/security.md`).

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use fastrand::Rng;
use sparewire_core::{Amount, ByteCount, Price};
use sparewire_protocol::channel::ChannelFacts;

use crate::{
    chain::{Asks, Endpoint, TROUBLES, Tag, Weather},
    ledger::{ChannelAccount, SessionAccount, allowance, credit, credit_and_step},
    node::Surroundings,
    plan::{LONE, Operation, PANEL, Plan, WATCHED_DELAY_SECS, WatcherPlan},
    run::{self, Failure},
    vice::{ConsumerVice, ProviderVice},
};

/// What somebody honest can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A provider, in one session: carried and not paid; at most the credit.
    Unpaid,
    /// The same where it, or its consumer, died once: at most the credit and one step.
    UnpaidOverACrash,
    /// The same of a channel that was not final, or of which the chain said something else: at most
    /// the initial credit.
    UnpaidByAStranger,
    /// A provider, over all sessions of a channel: at most the loss allowance and the credit.
    UnpaidOfAChannel,
    /// A provider, over a channel: beyond what the channel can pay for. Nothing.
    Unaffordable,
    /// A consumer, in one session: promised and neither arrived nor sent; at most one step.
    Overpaid,
    /// A payee: a voucher that it held in time, and what of it was not claimed. Nothing.
    Unclaimed,
    /// A payee that is gone: the same of what its watcher had heard of. Nothing.
    Unwatched,
    /// A payer: claimed beyond the newest voucher. Nothing.
    Overclaimed,
    /// A payer whose key was stolen: at most what its open channels hold.
    Stolen,
}

impl Kind {
    /// The bound in words.
    fn words(self) -> &'static str {
        match self {
            Self::Unpaid => "unpaid in a session <= W*p",
            Self::UnpaidOverACrash => "unpaid in a session <= (W+q)*p",
            Self::UnpaidByAStranger => "unpaid in a session <= W0*p",
            Self::UnpaidOfAChannel => {
                "unpaid over a channel <= (W0 + min(3*W0, 4 MiB) + paid/64 + W)*p"
            }
            Self::Unaffordable => "served beyond what the channel holds: 0",
            Self::Overpaid => "promised for what did not arrive <= q*p",
            Self::Unclaimed => "held in time and not claimed: 0",
            Self::Unwatched => "watched and not claimed: 0",
            Self::Overclaimed => "claimed beyond the newest voucher: 0",
            Self::Stolen => "taken with the key <= its open channels",
        }
    }

    /// The worst of a history.
    fn of(self, plan: &Plan, end: &Surroundings) -> Loss {
        let rule = plan.credit;
        let channels = || end.ledger.channels.iter();
        let claimed = |channel| {
            let facts = end.chain.truth().channel(channel, Tag::Final).ok().flatten();
            facts.map_or(0, |it: ChannelFacts| it.claimed.get())
        };
        let paid = |of: &ChannelAccount| of.paid_bytes.values().sum::<u64>();
        // What was carried in a session and paid for, and its channel.
        let sessions = || {
            end.ledger.sessions.iter().filter_map(|(session, of)| {
                let (id, price) = of.sold?;
                let channel = end.ledger.channels.get(&id)?;
                let settled = channel.paid_bytes.get(session).copied().unwrap_or(0);
                Some((of, carried(of), settled, channel, price))
            })
        };
        let unpaid = |most: &dyn Fn(u64) -> u64| {
            let losses = sessions().map(|(_, carried, settled, channel, price)| {
                let (lost, bound) = (carried.saturating_sub(settled), most(paid(channel)));
                Loss::new(owed(price, lost), owed(price, bound), owed(price, carried))
            });
            Loss::worst(losses)
        };
        match self {
            Self::Unpaid => unpaid(&|paid| credit(rule, paid)),
            Self::UnpaidOverACrash => unpaid(&|paid| credit_and_step(rule, paid)),
            Self::UnpaidByAStranger => unpaid(&|_| rule.initial.get()),
            Self::UnpaidOfAChannel => Loss::worst(channels().map(|(_, of)| {
                let lost = of.served.saturating_sub(paid(of));
                let bound = allowance(rule, paid(of)) + credit(rule, paid(of));
                let money = |bytes| owed(plan.price, bytes);
                Loss::new(money(lost), money(bound), money(of.served))
            })),
            Self::Unaffordable => Loss::worst(channels().map(|(_, of)| {
                let served = owed(plan.price, of.served);
                Loss::new(served.saturating_sub(of.reserved), 0, served)
            })),
            Self::Overpaid => Loss::worst(sessions().map(|(of, _, _, channel, price)| {
                let fair = owed(price, of.arrived_down + of.sent_up);
                let promised = of.promised.saturating_sub(of.base).get();
                let step = credit_and_step(rule, paid(channel)) - credit(rule, paid(channel));
                Loss::new(promised.saturating_sub(fair), owed(price, step), promised)
            })),
            Self::Unclaimed => Loss::worst(channels().map(|(id, of)| {
                let due = of.due.get();
                Loss::new(due.saturating_sub(claimed(*id)), 0, due)
            })),
            Self::Unwatched => Loss::worst(channels().map(|(id, of)| {
                let heard = of.heard.get();
                Loss::new(heard.saturating_sub(claimed(*id)), 0, heard)
            })),
            Self::Overclaimed => Loss::worst(channels().map(|(id, of)| {
                let claimed = claimed(*id);
                Loss::new(claimed.saturating_sub(of.promised.get()), 0, claimed)
            })),
            Self::Stolen => {
                let stolen = channels().filter(|(_, of)| of.stolen);
                stolen.fold(Loss::default(), |sum, (id, of)| Loss {
                    lost: sum.lost + claimed(*id),
                    bound: sum.bound + of.reserved,
                    at_stake: sum.at_stake + of.reserved,
                })
            }
        }
    }
}

fn carried(of: &SessionAccount) -> u64 {
    of.carried[0] + of.carried[1]
}

fn owed(price: Price, bytes: u64) -> u128 {
    price.owed(ByteCount::new(bytes)).unwrap_or(Amount::MAX).get()
}

/// What was lost, in the token's smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// By the honest.
    pub lost: u128,
    /// What they may lose at most.
    pub bound: u128,
    /// What there was to lose.
    pub at_stake: u128,
}

impl Loss {
    fn new(lost: u128, bound: u128, at_stake: u128) -> Self {
        Self { lost, bound, at_stake }
    }

    /// What was lost by what may be: 0 where nothing was, and endless where nothing may be.
    pub fn ratio(self) -> f64 {
        if self.lost == 0 { 0.0 } else { self.lost as f64 / self.bound as f64 }
    }

    /// The one nearest to its bound, or above it; of those, where most was at stake.
    fn worst(losses: impl IntoIterator<Item = Self>) -> Self {
        let worse =
            |a: &Self, b: &Self| a.ratio().total_cmp(&b.ratio()).then(a.at_stake.cmp(&b.at_stake));
        losses.into_iter().max_by(worse).unwrap_or_default()
    }
}

/// A row of the table of threats.
struct Row {
    threat: &'static str,
    /// Makes of a calm history one in which this is tried; `turn` counts the histories.
    plan: fn(&mut Plan, turn: usize, &mut Rng),
    /// What must have happened, each at least once: the names of [`crate::coverage`].
    shows: &'static [&'static str],
    losses: &'static [Kind],
}

use Operation as Op;

/// The rows that a history can play. The others have tests of their own (`docs/security.md`).
const ROWS: [Row; 14] = [
    Row {
        threat: "consumer does not pay",
        plan: |plan, turn, _| {
            use ConsumerVice::{NeverPays, NeverSettles, OverstatesReceipts, PaysLate, PaysLess};
            let vices = [NeverPays, PaysLate, PaysLess, OverstatesReceipts, NeverSettles];
            plan.consumers[0].vice = Some(vices[turn % vices.len()]);
        },
        shows: &["did not pay", "pays late", "pays less"],
        losses: &[Kind::Unpaid, Kind::Unclaimed],
    },
    Row {
        threat: "consumer breaks off and comes back",
        plan: |plan, turn, rng| {
            let vices = [ConsumerVice::BreaksOff, ConsumerVice::Understates];
            plan.consumers[0].vice = Some(vices[turn % vices.len()]);
            cut(plan, rng);
        },
        shows: &["broke off on purpose", "understates"],
        losses: &[Kind::UnpaidOfAChannel],
    },
    Row {
        threat: "consumer opens dust, promises more than there is",
        plan: |plan, turn, _| {
            let vices = [ConsumerVice::OpensDust, ConsumerVice::OverPromises];
            plan.consumers[0].vice = Some(vices[turn % vices.len()]);
        },
        shows: &["over-promises"],
        losses: &[Kind::Unaffordable],
    },
    Row {
        threat: "provider does not serve",
        plan: |plan, turn, _| {
            use ProviderVice::{DropsSilently, FallsMute, Floods, ServesRubbish};
            let vices = [DropsSilently, FallsMute, Floods, ServesRubbish];
            plan.vice = Some(vices[turn % vices.len()]);
        },
        shows: &["dropped silently", "fell mute", "flooded", "rubbish noticed"],
        losses: &[Kind::Overpaid, Kind::Overclaimed],
    },
    Row {
        threat: "provider lies about volume",
        plan: |plan, turn, rng| {
            use ProviderVice::{EquivocatesInReceipts, OverReports, Overstates, UnderstatesBase};
            let vices = [OverReports, Overstates, UnderstatesBase, EquivocatesInReceipts];
            plan.vice = Some(vices[turn % vices.len()]);
            cut(plan, rng);
        },
        shows: &[
            "over-reported",
            "overstated",
            "misstates the base",
            "countersigned something else",
        ],
        losses: &[Kind::Overpaid, Kind::Overclaimed],
    },
    Row {
        threat: "close with an old voucher, and withdrawal in a session",
        plan: |plan, turn, rng| {
            use ConsumerVice::{ClosesWithOldVoucher, WithdrawsWhileServed};
            let vices = [ClosesWithOldVoucher, WithdrawsWhileServed];
            plan.consumers[0].vice = Some(vices[turn % vices.len()]);
            leave(plan, rng);
        },
        shows: &[
            "old voucher claimed by the payer",
            "a payer leaves",
            "a payer takes what is left",
        ],
        losses: &[Kind::Unclaimed, Kind::Unpaid],
    },
    Row {
        threat: "the same while the payee is gone, and one watcher is there",
        plan: |plan, _, rng| {
            plan.watcher = Some(WatcherPlan { vice: None, asks: Asks::One(0), lost: 0 });
            let gone = end(plan) + rng.u64(0..60_000);
            plan.operations.push((gone, Op::ProviderGone));
            leave(plan, rng);
        },
        shows: &["the provider is gone for good", "who is gone for good is paid"],
        losses: &[Kind::Unwatched],
    },
    Row {
        threat: "replay of payments and claims",
        plan: |plan, turn, _| match turn % 2 {
            0 => plan.consumers[0].vice = Some(ConsumerVice::Replays),
            _ => plan.vice = Some(ProviderVice::ClaimsAgain),
        },
        shows: &["replayed", "claimed again"],
        losses: &[Kind::Overclaimed, Kind::Overpaid],
    },
    Row {
        threat: "front-running a claim",
        plan: |plan, _, rng| {
            let from = end(plan);
            plan.operations.push((from, Op::Settle { provider: 0 }));
            for _ in 0..8 {
                plan.operations.push((from + rng.u64(0..30_000), Op::FrontRun));
            }
        },
        shows: &["front-run", "claim"],
        losses: &[Kind::Unclaimed, Kind::Overclaimed],
    },
    Row {
        threat: "theft of a voucher key",
        plan: |plan, _, _| {
            plan.vice = Some(ProviderVice::Colludes);
            plan.consumers[0].vice = Some(ConsumerVice::Colludes);
        },
        shows: &["all claimed with a partner's key"],
        losses: &[Kind::Stolen, Kind::Overclaimed],
    },
    Row {
        threat: "reorganisations",
        plan: |plan, _, rng| {
            let until = end(plan);
            for _ in 0..6 {
                let depth = rng.u64(1..8);
                plan.operations.push((rng.u64(0..until + 60_000), Op::Reorg { depth }));
            }
            plan.operations.push((until, Op::Settle { provider: 0 }));
        },
        shows: &["op reorg", "claim"],
        losses: &[Kind::UnpaidByAStranger, Kind::Unclaimed],
    },
    Row {
        threat: "one endpoint of three lies, stalls or loses",
        plan: |plan, turn, rng| {
            plan.asks = Asks::TwoOf(PANEL);
            plan.consumers.iter_mut().for_each(|it| it.asks = Asks::TwoOf(PANEL));
            let trouble = TROUBLES[turn % TROUBLES.len()];
            let endpoint = PANEL[rng.usize(0..PANEL.len())];
            plan.operations.push((0, Op::Troubled { endpoint, trouble }));
        },
        shows: &["endpoint: boasts", "endpoint: hides", "an endpoint is outvoted"],
        losses: &[Kind::UnpaidByAStranger, Kind::Unclaimed],
    },
    Row {
        threat: "clocks up to ten minutes apart",
        plan: |plan, turn, rng| {
            let (node, ms) = (turn % 2, rng.i64(-299_000..299_000));
            plan.operations.push((rng.u64(0..460_000), Op::Skew { node, ms }));
            plan.operations.push((0, Op::Skew { node: 1 - node, ms: -ms }));
            plan.operations.push((end(plan), Op::Settle { provider: 0 }));
        },
        shows: &["op clock skew", "claim"],
        losses: &[Kind::Unpaid, Kind::Overpaid, Kind::Unclaimed],
    },
    Row {
        threat: "crash between signing and recording",
        plan: |plan, turn, rng| {
            let node = turn % 2;
            let (at, power) = (rng.u64(1..end(plan)), rng.bool());
            plan.operations.push((at, traffic(plan, rng)));
            plan.operations.push((
                at,
                match turn % 4 {
                    0 | 1 => Op::CutBefore { node, outputs: rng.u8(0..24), power },
                    _ => Op::StopDiskAt { node, step: rng.u64(1..60), power },
                },
            ));
        },
        shows: &["op crash between outputs", "op power cut in a write"],
        losses: &[Kind::UnpaidOverACrash, Kind::Overpaid, Kind::Unclaimed],
    },
];

/// A history in which nobody cheats and nothing fails: the seed's parties and lines, and some
/// traffic, so that there is something to cheat with.
fn calm(seed: u64, rng: &mut Rng) -> Plan {
    let mut plan = Plan::from_seed(seed);
    plan.seed = seed;
    if plan.price == Price::FREE {
        plan.price = Price::per_gib(1 << 30).unwrap_or(plan.price); // a unit for a byte
    }
    (plan.vice, plan.watcher, plan.relay) = (None, None, None);
    plan.weather = Weather { endpoints: vec![Endpoint::default(); LONE], ..Weather::calm() };
    plan.withdraw_delay_secs = WATCHED_DELAY_SECS;
    plan.asks = Asks::One(0);
    let worth = ByteCount::new(plan.credit.initial.get() * 40);
    let amount = plan.price.owed(worth).unwrap_or(Amount::MAX);
    for consumer in &mut plan.consumers {
        (consumer.vice, consumer.asks) = (None, Asks::One(0));
        consumer.channel_amount = amount;
    }
    plan.operations.clear();
    for _ in 0..4 {
        // Opening a channel takes minutes.
        let at = rng.u64(200_000..400_000);
        let operation = traffic(&plan, rng);
        plan.operations.push((at, operation));
    }
    plan.operations.push((410_000, Op::CloseSession { consumer: 0 }));
    for _ in 0..2 {
        let operation = traffic(&plan, rng);
        plan.operations.push((rng.u64(420_000..450_000), operation));
    }
    plan
}

fn end(plan: &Plan) -> u64 {
    plan.operations.iter().map(|(at, _)| *at).max().unwrap_or(0)
}

fn traffic(plan: &Plan, rng: &mut Rng) -> Operation {
    let initial = plan.credit.initial.get();
    Op::Traffic { consumer: 0, up: rng.u64(0..initial), down: initial * rng.u64(1..6) }
}

/// Lines are cut, so that sessions are resumed.
fn cut(plan: &mut Plan, rng: &mut Rng) {
    for _ in 0..3 {
        let at = rng.u64(200_000..460_000);
        plan.operations.push((at, Op::Cut { node: 1, ms: rng.u64(30_000..60_000) }));
    }
}

/// The first consumer leaves, and takes the rest as soon as the contract lets it.
fn leave(plan: &mut Plan, rng: &mut Rng) {
    let at = end(plan) + rng.u64(0..60_000);
    plan.operations.push((at, Op::LeaveChain { consumer: 0 }));
    let at = at + u64::from(WATCHED_DELAY_SECS) * 1_000 + rng.u64(30_000..300_000);
    plan.operations.push((at, Op::FinishLeaving { consumer: 0 }));
}

/// What a row of the table came to.
#[derive(Debug)]
pub struct Outcome {
    /// The threat.
    pub threat: &'static str,
    /// Each bound, and the worst that came near it.
    pub losses: Vec<(Kind, Loss)>,
    /// What should have happened and did not: then nothing was tried.
    pub missing: Vec<&'static str>,
    /// What broke an invariant.
    pub failure: Option<Failure>,
}

impl Outcome {
    /// Whether it was tried, and cost no more than it may.
    pub fn holds(&self) -> bool {
        let within = |(_, loss): &(Kind, Loss)| loss.lost <= loss.bound && loss.at_stake > 0;
        self.missing.is_empty() && self.failure.is_none() && self.losses.iter().all(within)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut threat = self.threat;
        for (kind, loss) in &self.losses {
            let Loss { lost, bound, at_stake } = loss;
            let ratio = loss.ratio();
            let words = kind.words();
            writeln!(
                f,
                "{threat:<58} {words:<52} {lost:>12} {bound:>12} {at_stake:>12} {ratio:>6.3}"
            )?;
            threat = "";
        }
        for what in &self.missing {
            writeln!(f, "  NEVER TRIED: {what}")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "  FAILED seed {}: {}", failure.seed, failure.what)?;
        }
        Ok(())
    }
}

/// The head of the table of [`Outcome`]s.
pub fn head() -> String {
    let [lost, bound, at_stake] = ["lost", "bound", "at stake"];
    format!(
        "{:<58} {:<52} {lost:>12} {bound:>12} {at_stake:>12}  ratio",
        "threat", "bound in words"
    )
}

/// Plays every row in `count` histories each, on `threads` threads: the same whenever it is played.
pub fn drill(count: usize, threads: usize) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(row) = ROWS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = play(row, count);
                    outcomes.lock().expect("nobody panics in it").push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("nobody panics in it");
    let place = |it: &Outcome| ROWS.iter().position(|row| row.threat == it.threat);
    outcomes.sort_by_key(place);
    outcomes
}

fn play(row: &Row, count: usize) -> Outcome {
    let mut losses: Vec<_> = row.losses.iter().map(|kind| (*kind, Loss::default())).collect();
    let mut missing = row.shows.to_vec();
    for turn in 0..count {
        let mut rng = Rng::with_seed(turn as u64);
        let mut plan = calm(turn as u64, &mut rng);
        (row.plan)(&mut plan, turn, &mut rng);
        plan.operations.sort_by_key(|(at, _)| *at);
        let end = match run::lived(plan.clone()) {
            Ok(end) => end,
            Err(failure) => {
                let (threat, failure) = (row.threat, Some(failure));
                return Outcome { threat, losses, missing, failure };
            }
        };
        missing.retain(|what| !end.coverage.counts.contains_key(what));
        for (kind, worst) in &mut losses {
            *worst = Loss::worst([*worst, kind.of(&plan, &end)]);
        }
    }
    Outcome { threat: row.threat, losses, missing, failure: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_beyond_its_bound_or_was_never_tried_does_not_hold() {
        let of = |lost, bound, at_stake, missing| Outcome {
            threat: "",
            losses: vec![(Kind::Unpaid, Loss::new(lost, bound, at_stake))],
            missing,
            failure: None,
        };
        assert!(of(5, 5, 9, vec![]).holds());
        assert!(!of(6, 5, 9, vec![]).holds());
        assert!(!of(0, 0, 0, vec![]).holds(), "nothing was at stake");
        assert!(!of(0, 0, 9, vec!["never"]).holds());
        let worst = [Loss::new(0, 0, 7), Loss::new(1, 0, 2), Loss::new(3, 4, 9)];
        assert_eq!(Loss::worst(worst), Loss::new(1, 0, 2), "where nothing may be lost");
    }
}
