//! When to claim: before it is too late, and never at a loss.
//!
//! Nothing here is a state: what waits comes from the store and the chain, what a claim costs from
//! a [`Quote`](crate::settlement::Quote), and the answers are computed from them each time.

use serde::{Deserialize, Serialize};
use sparewire_core::{Address, Amount, ChannelId, Timestamp};

use crate::channel::{ChannelConfig, Claim};

/// Wei in one whole coin of the chain's native currency.
const WEI_PER_COIN: u128 = 1_000_000_000_000_000_000;

/// Percent that a fee may take of a claim that is made as long as anything is left of it.
const ANYTHING_LEFT: u8 = 100;

/// What gas money is worth: units of a token for one whole coin (10^18 wei) of the chain's native
/// currency. No oracle is asked: whoever settles says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativePrice {
    /// The token whose units are meant.
    pub token: Address,
    /// Its smallest units for 10^18 wei; at most 2^104 - 1.
    pub per_coin: Amount,
}

impl NativePrice {
    /// What `fee_wei` is worth, rounded up (against whoever pays it); [`Amount::MAX`] where it is
    /// more than that.
    fn of(self, fee_wei: u128) -> Amount {
        self.per_coin.mul_div_ceil(fee_wei, WEI_PER_COIN).unwrap_or(Amount::MAX)
    }
}

/// When promises are claimed without being asked for, and what that may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettlePolicy {
    /// Claim when this much waits over all channels together; `None` never claims for that.
    pub threshold: Option<Amount>,
    /// Claim when this many milliseconds have passed since the last time; `None` never claims for
    /// that.
    pub period_ms: Option<u64>,
    /// Claim when the provider shuts down.
    pub at_shutdown: bool,
    /// Most of a claim that its fee may take, in percent: 0 to 100. When somebody asks, and in the
    /// last moment before a payer has left, it may take up to 100: as long as anything is left.
    pub fee_percent_max: u8,
    /// What fees are worth. `None`, and tokens other than its own, where nobody has said it: fees
    /// cannot be weighed then.
    pub native_price: Option<NativePrice>,
}

impl Default for SettlePolicy {
    /// Nothing unasked, save for payers that leave; at most a tenth for fees.
    fn default() -> Self {
        Self {
            threshold: None,
            period_ms: None,
            at_shutdown: false,
            fee_percent_max: 10,
            native_price: None,
        }
    }
}

/// Why something is to be claimed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// Enough has waited long enough.
    Period,
    /// Enough waits.
    Threshold,
    /// The provider shuts down.
    Shutdown,
    /// A payer is leaving, and there is time.
    Leaving,
    /// A payer is leaving, and it must be now.
    LastMoment,
    /// Somebody asked.
    Asked,
}

/// A voucher that promises more than the chain has credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its channel.
    pub channel: ChannelId,
    /// The voucher.
    pub claim: Claim,
    /// What was credited so far; less than the voucher's amount.
    pub claimed: Amount,
    /// The block time, in seconds, from which the channel can be closed under us; `None` where its
    /// payer stays.
    pub finish_at_secs: Option<u64>,
}

impl Waiting {
    /// What claiming brings.
    pub fn worth(&self) -> Amount {
        self.claim.amount.saturating_sub(self.claimed)
    }

    /// The last safe moment, in seconds of block time; `None` where its payer stays.
    pub fn claim_by_secs(&self) -> Option<u64> {
        Some(self.finish_at_secs?.saturating_sub(margin_secs(&self.claim.config)))
    }

    fn occasion(&self, block_secs: u64) -> Option<Occasion> {
        let by = self.claim_by_secs()?;
        Some(if block_secs >= by { Occasion::LastMoment } else { Occasion::Leaving })
    }
}

/// How long before the end of the withdraw delay a claim is sent at the latest: a quarter of the
/// delay, at least half an hour or, in short ones, half of the delay. It is what a transaction gets
/// for being raised until it is mined.
fn margin_secs(config: &ChannelConfig) -> u64 {
    let delay = u64::from(config.withdraw_delay_secs);
    (delay / 4).max((delay / 2).min(1_800))
}

/// What becomes of one waiting voucher, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// It is claimed.
    Claim,
    /// Its share of the fee is more than the policy allows, or more than it is worth; it waits for
    /// lower fees or a higher voucher.
    TooDear {
        /// The most that its share may be.
        fee_max: Amount,
    },
    /// Nobody has said what gas money is worth, so nobody can say that this is no loss.
    CannotBeWeighed,
}

/// A voucher, what its claim costs, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// The voucher.
    pub waiting: Waiting,
    /// Why it would be claimed.
    pub occasion: Occasion,
    /// Its share of the fee in its token, rounded up; `None` where that cannot be said.
    pub fee: Option<Amount>,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl SettlePolicy {
    /// What is to be weighed now of all that waits, and why. `since` is when something was last
    /// claimed, or when the provider began.
    ///
    /// A payer that leaves is a reason to claim from its own channel and from no other: whoever
    /// leaves on purpose must not make us claim everywhere at any price.
    pub fn due(
        &self,
        waiting: &[Waiting],
        since: Timestamp,
        now: Timestamp,
        block_secs: u64,
    ) -> Vec<(Waiting, Occasion)> {
        let worth = waiting
            .iter()
            .fold(Amount::ZERO, |sum, one| sum.checked_add(one.worth()).unwrap_or(Amount::MAX));
        let all = if self.threshold.is_some_and(|threshold| worth >= threshold) {
            Some(Occasion::Threshold)
        } else {
            let waited = now.ms_since(since);
            self.period_ms.is_some_and(|period| waited >= period).then_some(Occasion::Period)
        };
        let why = |one: &Waiting| Some((*one, one.occasion(block_secs).or(all)?));
        waiting.iter().filter_map(why).collect()
    }

    /// All that waits, for a reason of ours. Where nobody asked, what waits in channels that their
    /// payers are leaving has that for its reason.
    pub fn all(waiting: &[Waiting], asked: Occasion, block_secs: u64) -> Vec<(Waiting, Occasion)> {
        let why = |one: &Waiting| match (asked, one.occasion(block_secs)) {
            (Occasion::Asked, _) | (_, None) => (*one, asked),
            (_, Some(leaving)) => (*one, leaving),
        };
        waiting.iter().map(why).collect()
    }

    /// Whether a transaction that brings `worth` of `token` is no loss, as far as anybody can say.
    pub fn pays(&self, token: Address, worth: Amount, fee_wei: u128) -> bool {
        match self.native_price {
            Some(price) if price.token == token => price.of(fee_wei) < worth,
            _ => worth > Amount::ZERO,
        }
    }

    /// Weighs vouchers that are claimed together (one token, one quote) against what that costs.
    ///
    /// The fee is shared alike: an entry's gas does not depend on its amount. Where one is left
    /// out, the others' share grows: ask for a new quote and weigh what is left again, until all
    /// that is weighed is claimed.
    ///
    /// Invariant, asserted: where fees can be weighed, no claim costs as much as it brings.
    pub fn weigh(&self, due: &[(Waiting, Occasion)], fee_wei: u128) -> Vec<Weighed> {
        let count = due.len().max(1) as u128;
        let share_wei = fee_wei.div_ceil(count);
        let weigh = |(waiting, occasion): &(Waiting, Occasion)| {
            let (fee, verdict) = self.weigh_one(waiting, *occasion, share_wei);
            Weighed { waiting: *waiting, occasion: *occasion, fee, verdict }
        };
        due.iter().map(weigh).collect()
    }

    fn weigh_one(
        &self,
        waiting: &Waiting,
        occasion: Occasion,
        share_wei: u128,
    ) -> (Option<Amount>, Verdict) {
        let token = waiting.claim.config.token;
        let fee = match self.native_price {
            _ if share_wei == 0 => Amount::ZERO,
            Some(price) if price.token == token => price.of(share_wei),
            // What was earned is not lost to a missing setting, and whoever asks has decided.
            _ => {
                let verdict = match occasion {
                    Occasion::Asked | Occasion::Leaving | Occasion::LastMoment => Verdict::Claim,
                    Occasion::Period | Occasion::Threshold | Occasion::Shutdown => {
                        Verdict::CannotBeWeighed
                    }
                };
                return (None, verdict);
            }
        };
        let percent = match occasion {
            Occasion::Asked | Occasion::LastMoment => ANYTHING_LEFT,
            // While there is time, a payer that leaves is a claim like any other: fees may fall.
            _ => self.fee_percent_max.min(ANYTHING_LEFT),
        };
        let fee_max = fee_max(waiting.worth(), percent);
        if fee > fee_max {
            return (Some(fee), Verdict::TooDear { fee_max });
        }
        assert!(fee < waiting.worth(), "never at a loss");
        (Some(fee), Verdict::Claim)
    }
}

/// The highest fee that leaves something of `worth` and takes at most `percent` of it.
fn fee_max(worth: Amount, percent: u8) -> Amount {
    // 2^104 * 100 fits.
    let share = worth.get() * u128::from(percent) / 100;
    let most = share.min(worth.get().saturating_sub(1));
    Amount::new(most).unwrap_or(Amount::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sparewire_core::Signature;

    use super::*;

    const TOKEN: Address = Address::repeat_byte(7);
    const HOUR_MS: u64 = 3_600_000;

    fn amount(units: u128) -> Amount {
        Amount::new(units).expect("an amount")
    }

    fn waiting(worth: u128) -> Waiting {
        let config = ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: Address::repeat_byte(2),
            payee: Address::repeat_byte(3),
            payee_authorizer: Address::repeat_byte(4),
            token: TOKEN,
            withdraw_delay_secs: 86_400,
            salt: 1,
        };
        let mut signature = [1; 65];
        signature[64] = 27;
        let signature = Signature::from_bytes(signature).expect("a signature");
        let claim = Claim { config, amount: amount(1_000 + worth), signature };
        let channel = ChannelId([1; 32].into());
        Waiting { channel, claim, claimed: amount(1_000), finish_at_secs: None }
    }

    fn leaving(worth: u128, finish_at_secs: u64) -> Waiting {
        Waiting { finish_at_secs: Some(finish_at_secs), ..waiting(worth) }
    }

    /// A coin is worth a million units: 10^12 wei are worth one.
    fn policy() -> SettlePolicy {
        let native_price = Some(NativePrice { token: TOKEN, per_coin: amount(1_000_000) });
        SettlePolicy { native_price, ..SettlePolicy::default() }
    }

    const UNIT_WEI: u128 = 1_000_000_000_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn verdicts(policy: &SettlePolicy, waiting: &[Waiting], why: Occasion, fee: u128) -> Vec<bool> {
        let due: Vec<_> = waiting.iter().map(|one| (*one, why)).collect();
        let weighed = policy.weigh(&due, fee);
        weighed.iter().map(|one| one.verdict == Verdict::Claim).collect()
    }

    /// Why something is claimed, if it is: all for one reason.
    fn occasion(
        policy: &SettlePolicy,
        waiting: &[Waiting],
        since: u64,
        now: u64,
        block: u64,
    ) -> Option<Occasion> {
        let due = policy.due(waiting, at(since), at(now), block);
        let first = due.first()?.1;
        assert_eq!(due.len(), waiting.len());
        assert!(due.iter().all(|(_, occasion)| *occasion == first));
        Some(first)
    }

    #[test]
    fn nothing_is_claimed_unasked_where_nobody_said_when() {
        let rich = [waiting(1 << 100)];
        assert_eq!(policy().due(&rich, at(0), at(u64::MAX), u64::MAX), []);
        assert_eq!(policy().due(&[], at(0), at(0), 0), []);
    }

    #[test]
    fn the_threshold_is_of_all_channels_together_and_reached_at_its_last_unit() {
        let policy = SettlePolicy { threshold: Some(amount(300)), ..policy() };
        let why = |second| occasion(&policy, &[waiting(100), waiting(second)], 0, 0, 0);
        assert_eq!(why(199), None);
        assert_eq!(why(200), Some(Occasion::Threshold));
    }

    #[test]
    fn the_period_runs_from_the_last_claim_and_needs_something_to_claim() {
        let policy = SettlePolicy { period_ms: Some(HOUR_MS), ..policy() };
        let why = |waiting: &[Waiting], now| occasion(&policy, waiting, 5, 5 + now, 0);
        assert_eq!(why(&[waiting(1)], HOUR_MS - 1), None);
        assert_eq!(why(&[waiting(1)], HOUR_MS), Some(Occasion::Period));
        assert_eq!(why(&[], HOUR_MS), None);
    }

    #[test]
    fn a_payer_that_leaves_is_a_reason_for_its_own_channel_and_its_last_moment_is_known() {
        // A day's delay leaves a quarter of it.
        let going = leaving(10, 100_000);
        assert_eq!(going.claim_by_secs(), Some(100_000 - 21_600));
        let both = [waiting(500), going];
        let why = |policy: &SettlePolicy, block| policy.due(&both, at(0), at(0), block);
        assert_eq!(why(&policy(), 78_399), [(going, Occasion::Leaving)]);
        assert_eq!(why(&policy(), 78_400), [(going, Occasion::LastMoment)]);
        // The others keep their own reasons, and their own prices.
        let enough = SettlePolicy { threshold: Some(amount(510)), ..policy() };
        let [first, second] = both;
        let expected = [(first, Occasion::Threshold), (second, Occasion::LastMoment)];
        assert_eq!(why(&enough, 78_400), expected);
    }

    #[test]
    fn short_delays_leave_half_and_never_more_than_all() {
        for (delay, margin) in [(900, 450), (3_600, 1_800), (7_200, 1_800), (86_400, 21_600)] {
            let mut config = waiting(1).claim.config;
            config.withdraw_delay_secs = delay;
            assert_eq!(margin_secs(&config), margin, "{delay}");
        }
    }

    #[test]
    fn a_claim_waits_while_its_fee_takes_more_than_its_share() {
        let policy = SettlePolicy { fee_percent_max: 10, ..policy() };
        for (worth, fee, claimed) in [(1_000, 100, true), (1_000, 101, false), (9, 1, false)] {
            let one = [waiting(worth)];
            let verdicts = verdicts(&policy, &one, Occasion::Period, fee * UNIT_WEI);
            assert_eq!(verdicts, [claimed], "{worth} for {fee}");
        }
    }

    #[test]
    fn whoever_asks_is_served_as_long_as_anything_is_left() {
        let one = [waiting(1_000)];
        assert_eq!(verdicts(&policy(), &one, Occasion::Asked, 999 * UNIT_WEI), [true]);
        assert_eq!(verdicts(&policy(), &one, Occasion::Asked, 999 * UNIT_WEI + 1), [false]);
    }

    #[test]
    fn a_leaving_payers_claim_waits_for_lower_fees_until_the_last_moment() {
        let one = [leaving(1_000, 100_000)];
        let claimed = |block, fee: u128| {
            let weighed = policy().weigh(&policy().due(&one, at(0), at(0), block), fee * UNIT_WEI);
            (weighed[0].occasion, weighed[0].verdict == Verdict::Claim)
        };
        assert_eq!(claimed(0, 100), (Occasion::Leaving, true));
        assert_eq!(claimed(0, 500), (Occasion::Leaving, false));
        assert_eq!(claimed(78_400, 500), (Occasion::LastMoment, true));
        assert_eq!(claimed(78_400, 1_000), (Occasion::LastMoment, false));
    }

    #[test]
    fn a_transaction_pays_when_something_is_left_of_what_it_brings() {
        let pays = |worth, fee: u128| policy().pays(TOKEN, amount(worth), fee * UNIT_WEI);
        assert!(pays(11, 10) && !pays(10, 10) && !pays(0, 0));
        assert!(
            policy().pays(Address::ZERO, amount(1), u128::MAX),
            "nobody said what gas is worth"
        );
    }

    #[test]
    fn the_small_are_left_out_and_the_share_of_the_others_is_told() {
        let batch = [waiting(1_000), waiting(3), waiting(40)];
        let weighed = policy().weigh(&batch.map(|one| (one, Occasion::Threshold)), 10 * UNIT_WEI);
        assert_eq!(weighed.iter().map(|one| one.fee).collect::<Vec<_>>(), [Some(amount(4)); 3]);
        assert_eq!(weighed[0].verdict, Verdict::Claim);
        assert_eq!(weighed[1].verdict, Verdict::TooDear { fee_max: Amount::ZERO });
        assert_eq!(weighed[2].verdict, Verdict::Claim);
    }

    #[test]
    fn free_gas_needs_no_price_and_a_fee_without_one_stops_only_what_can_wait() {
        let policy = SettlePolicy { native_price: None, ..policy() };
        let one = [waiting(1)];
        assert_eq!(verdicts(&policy, &one, Occasion::Period, 0), [true]);
        for (why, claimed) in [
            (Occasion::Period, false),
            (Occasion::Threshold, false),
            (Occasion::Shutdown, false),
            (Occasion::Asked, true),
            (Occasion::Leaving, true),
            (Occasion::LastMoment, true),
        ] {
            assert_eq!(verdicts(&policy, &one, why, 1), [claimed], "{why:?}");
        }
        // The price of one token says nothing of another.
        let other = NativePrice { token: Address::ZERO, per_coin: Amount::ZERO };
        let policy = SettlePolicy { native_price: Some(other), ..policy };
        assert_eq!(verdicts(&policy, &one, Occasion::Period, 1), [false]);
    }

    proptest! {
        #[test]
        fn no_claim_that_can_be_weighed_brings_less_than_it_costs(
            worths in prop::collection::vec(1u128..1_000_000, 1..20),
            fee_wei in 0u128..1_000_000 * UNIT_WEI,
            percent in 0u8..=100,
            asked: bool,
        ) {
            let policy = SettlePolicy { fee_percent_max: percent, ..policy() };
            let mut left: Vec<_> = worths.into_iter().map(waiting).collect();
            let why = if asked { Occasion::Asked } else { Occasion::Period };
            loop {
                let due: Vec<_> = left.iter().map(|one| (*one, why)).collect();
                let weighed = policy.weigh(&due, fee_wei);
                let before = left.len();
                left = weighed
                    .iter()
                    .filter(|one| one.verdict == Verdict::Claim)
                    .map(|one| one.waiting)
                    .collect();
                if left.len() == before {
                    break;
                }
            }
            let brings: u128 = left.iter().map(|one| one.worth().get()).sum();
            let costs = fee_wei.div_ceil(UNIT_WEI);
            prop_assert!(left.is_empty() || brings > costs, "{brings} for {costs}");
        }
    }
}
