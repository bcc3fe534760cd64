//! The statement that a person understands: both sides, the chain, and whether they agree.

use serde::Serialize;
use sparewire_core::{Amount, ByteCount};
use sparewire_protocol::{
    Statement,
    settlement::{Outcome, TokenInfo},
};

use crate::output;

/// All figures of the measured transfer.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether everything below adds up.
    pub(super) agree: bool,
    /// What does not.
    disagreements: Vec<&'static str>,
    sample_bytes: ByteCount,
    consumer: Statement,
    provider: Statement,
    claimed_on_chain: Amount,
    gas: Vec<Gas>,
    throughput_mib_s: f64,
    unmetered_mib_s: f64,
    /// Metered through unmetered throughput.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Gas {
    what: &'static str,
    gas: u64,
    fee_wei: u128,
}

impl Report {
    pub(super) fn new(
        sample: ByteCount,
        consumer: Statement,
        provider: Statement,
        claimed_on_chain: Amount,
        done: Vec<(&'static str, Outcome)>,
        metered_secs: f64,
        unmetered_secs: f64,
    ) -> Self {
        let owed = provider
            .receipted
            .checked_total()
            .and_then(|total| provider.price.owed(total))
            .unwrap_or(Amount::MAX);
        let checks = [
            ("both sides counted the same bytes", consumer.counted == provider.counted),
            ("the sample is in the count", consumer.counted.down >= sample),
            ("the last receipt is the count", consumer.receipted == consumer.counted),
            ("both sides hold the same receipt", consumer.receipted == provider.receipted),
            ("paid is what the receipt is worth", provider.paid == owed),
            ("both sides say the same was paid", consumer.paid == provider.paid),
            ("the same is promised in all", consumer.cumulative == provider.cumulative),
            ("all that is promised is claimed", claimed_on_chain == provider.cumulative),
            (
                "the provider's exposure kept within its bound",
                provider.exposure_peak <= provider.exposure_bound,
            ),
            // The consumer's exposure is shown and not checked: its machine signs for nothing ahead,
            // so that the check could not fail.
        ];
        let disagreements: Vec<_> =
            checks.iter().filter(|(_, holds)| !holds).map(|(what, _)| *what).collect();
        let mib = sample.get() as f64 / (1 << 20) as f64;
        let gas = done
            .into_iter()
            .flat_map(|(what, outcome)| {
                outcome.transactions.into_iter().map(move |transaction| Gas {
                    what,
                    gas: transaction.gas_used,
                    fee_wei: transaction.fee_wei,
                })
            })
            .collect();
        Self {
            agree: disagreements.is_empty(),
            disagreements,
            sample_bytes: sample,
            consumer,
            provider,
            claimed_on_chain,
            gas,
            throughput_mib_s: mib / metered_secs,
            unmetered_mib_s: mib / unmetered_secs,
            ratio: unmetered_secs / metered_secs,
        }
    }

    /// Prints it for people.
    pub(super) fn print(&self, token: &TokenInfo) {
        let (buyer, seller) = (&self.consumer, &self.provider);
        let row = |what: &str, left: String, right: String| {
            output::out!("  {what:<18} {left:<34} {right}");
        };
        output::out!("");
        output::out!("Statement of session {}", output::short(&buyer.session));
        output::out!("");
        row("", "consumer".into(), "provider".into());
        row("counted up", output::bytes(buyer.counted.up), output::bytes(seller.counted.up));
        row("counted down", output::bytes(buyer.counted.down), output::bytes(seller.counted.down));
        row("receipts", buyer.receipts.to_string(), seller.receipts.to_string());
        row("payments", buyer.payments.to_string(), seller.payments.to_string());
        row("paid", output::amount(buyer.paid, token), output::amount(seller.paid, token));
        let exposure = |statement: &Statement| {
            format!("{} of at most {}", statement.exposure_peak, statement.exposure_bound)
        };
        row("largest exposure", exposure(buyer), exposure(seller));
        output::out!("");
        output::out!("  price              {}", output::price(seller.price, token));
        output::out!("  claimed on chain   {}", output::amount(self.claimed_on_chain, token));
        for gas in &self.gas {
            output::out!(
                "  gas                {} for {}",
                output::grouped(gas.gas),
                gas.what.replace('_', " ")
            );
        }
        output::out!(
            "  throughput         {:.0} MiB/s metered, {:.0} MiB/s without metering: ratio {:.2}",
            self.throughput_mib_s,
            self.unmetered_mib_s,
            self.ratio
        );
        output::out!("");
        if self.agree {
            output::out!("  All figures agree.");
        } else {
            for what in &self.disagreements {
                output::out!("  DOES NOT HOLD: {what}");
            }
        }
    }
}
