//! How far service may run ahead of payment.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use sparewire_core::ByteCount;

/// The provider's credit rule: `clamp(paid / 64, initial, maximum)` bytes.
///
/// It starts small, grows with what has been paid over the channel, and so covers bandwidth x
/// delay without ever risking more than a small share of what was earned.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize,
)]
pub struct CreditRule {
    /// What a channel that has not paid yet is trusted with.
    pub initial: ByteCount,
    /// What the best customer is trusted with.
    pub maximum: ByteCount,
}

/// One byte of credit for so many paid ones.
pub const PAID_PER_CREDIT: u64 = 64;

/// The longest payment step. A payment costs about 0.4 ms of CPU at both ends together (two durable
/// writes, one signature and its check): for every 8 MiB that is less than 2 % of the path's.
pub const STEP_MAX: ByteCount = ByteCount::new(8 << 20);

/// The most of the loss allowance that goes beyond one initial credit, payments apart.
pub const LOST_AGAIN_MAX: ByteCount = ByteCount::new(4 << 20);

impl Default for CreditRule {
    /// 128 KiB initial, 16 MiB maximum.
    fn default() -> Self {
        Self { initial: ByteCount::new(128 << 10), maximum: ByteCount::new(16 << 20) }
    }
}

impl CreditRule {
    /// Whether the rule can be served by: the credit is at least 2 bytes, so that half of it is a
    /// payment step, and the maximum is not below the initial.
    pub fn is_sound(self) -> bool {
        self.initial.get() >= 2 && self.maximum >= self.initial
    }

    /// The credit (in bytes) of a channel over which `paid` bytes have been paid for.
    pub fn credit(self, paid: ByteCount) -> ByteCount {
        let earned = paid.get() / PAID_PER_CREDIT;
        ByteCount::new(earned.clamp(self.initial.get(), self.maximum.get().max(self.initial.get())))
    }

    /// After how many unpaid bytes the consumer pays: half of the credit, at most [`STEP_MAX`].
    /// While one half is being paid for, the other half is served.
    pub fn step(self, paid: ByteCount) -> ByteCount {
        ByteCount::new((self.credit(paid).get() / 2).clamp(1, STEP_MAX.get()))
    }

    /// How many bytes a channel may lose in all to broken connections before it is no longer
    /// served: `initial + min(3 * initial, 4 MiB) + paid / 64`. Bytes that were on the way when a
    /// connection broke are nobody's fault, but a consumer that breaks connections on purpose must
    /// not profit from it. Once all that was granted may be lost, however large that is (as with
    /// torrents of long pieces); not four times.
    pub fn loss_allowance(self, paid: ByteCount) -> ByteCount {
        let initial = self.initial.get();
        let again = initial.saturating_mul(3).min(LOST_AGAIN_MAX.get());
        ByteCount::new(initial.saturating_add(again).saturating_add(paid.get() / PAID_PER_CREDIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_starts_small_follows_what_was_paid_and_is_capped() {
        let rule = CreditRule::default();
        assert_eq!(rule.credit(ByteCount::ZERO), ByteCount::new(128 << 10));
        assert_eq!(rule.credit(ByteCount::new(64 << 20)), ByteCount::new(1 << 20));
        assert_eq!(rule.credit(ByteCount::new(1 << 40)), ByteCount::new(16 << 20));
        assert_eq!(rule.step(ByteCount::ZERO), ByteCount::new(64 << 10));
        assert_eq!(rule.step(ByteCount::new(1 << 40)), STEP_MAX);
    }

    #[test]
    fn a_large_initial_credit_may_be_lost_once_and_not_four_times() {
        let lost = |initial| {
            let initial = ByteCount::new(initial);
            CreditRule { initial, maximum: initial }.loss_allowance(ByteCount::new(64 << 10)).get()
        };
        assert_eq!(lost(128 << 10), (512 << 10) + (1 << 10));
        assert_eq!(lost(32 << 20), (36 << 20) + (1 << 10));
        assert_eq!(lost(u64::MAX), u64::MAX);
    }
}
