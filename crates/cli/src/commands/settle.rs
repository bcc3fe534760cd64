//! `sparewire settle`: claim on chain what was promised.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sparewire_core::Amount;
use sparewire_node::seller::{Plan, Row, SettleError, Settler};
use sparewire_protocol::settlement::{Outcome, TokenInfo, Verdict};

use crate::{
    control::{self, Request},
    home::{Home, clock, token_info},
    output,
    side::Side,
};

/// Claim on chain what your vouchers are worth, and pay it out to the wallet that they name.
#[derive(Debug, Args)]
pub(crate) struct SettleArgs {
    /// Show what would be claimed, what that costs and from where on it pays. Nothing is sent.
    #[arg(long)]
    dry_run: bool,
    /// A file with the keystore's password (not needed while `provide` runs).
    #[arg(long)]
    password_file: Option<PathBuf>,
}

pub(crate) async fn run(args: SettleArgs, home: &Home, json: bool) -> Result<()> {
    let request = if args.dry_run { Request::SettlePlan } else { Request::Settle };
    let running = control::ask(&home.control_path(), request).await?;
    let alone = match running {
        Some(_) => None,
        None => {
            let side = Side::open(home, args.password_file.as_deref()).await?;
            let policy = home.config.settle.policy(&side.token, side.chain.domain().chain_id)?;
            Some(Settler::new(side.store, Arc::clone(&side.chain), policy, clock()))
        }
    };
    if args.dry_run {
        let plan: Plan = match (running, alone) {
            (Some(told), _) => serde_json::from_value(told)?,
            (None, Some(settler)) => settler.plan().await?,
            (None, None) => Plan::default(),
        };
        return show(&plan, home, json).await;
    }
    let Settled { outcome, failed } = match (running, alone) {
        (Some(told), _) => serde_json::from_value(told)?,
        (None, Some(settler)) => settler.settle().await.into(),
        (None, None) => Ok(Outcome::default()).into(),
    };
    if json {
        output::json(&outcome)?;
    } else if failed.is_none() || !outcome.transactions.is_empty() {
        report(&outcome);
    }
    failed.map_or(Ok(()), |failed| Err(anyhow::Error::msg(failed)))
}

/// What a running provider answers: what was claimed, and what could not be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settled {
    outcome: Outcome,
    failed: Option<String>,
}

impl From<Result<Outcome, SettleError>> for Settled {
    fn from(settled: Result<Outcome, SettleError>) -> Self {
        match settled {
            Ok(outcome) => Self { outcome, failed: None },
            Err(error) => Self { failed: Some(error.to_string()), outcome: error.outcome },
        }
    }
}

fn report(outcome: &Outcome) {
    if outcome.transactions.is_empty() {
        crate::output::out!("nothing to claim");
    }
    for transaction in &outcome.transactions {
        crate::output::out!(
            "claimed in block {}: {} ({} gas, {} wei)",
            transaction.block,
            transaction.hash,
            output::grouped(transaction.gas_used),
            transaction.fee_wei
        );
    }
}

/// What a claim would bring and cost.
async fn show(plan: &Plan, home: &Home, json: bool) -> Result<()> {
    let claimed = || plan.rows.iter().filter(|row| row.verdict == Verdict::Claim);
    let quote = &plan.quote;
    let brings = total(claimed().map(|row| row.worth));
    let fee = claimed().map(|row| row.fee).collect::<Option<Vec<_>>>().map(total);
    let net = fee.map(|fee| brings.saturating_sub(fee));
    if json {
        return output::json(&json!({
            "channels": plan.rows, "transactions": quote.transactions, "gas": quote.gas,
            "fee_wei": quote.fee_wei, "fee_wei_max": quote.fee_wei_max,
            "data_fee_wei": quote.data_fee_wei, "brings": brings, "fee": fee, "net": net,
        }));
    }
    let Some(first) = plan.rows.first() else {
        crate::output::out!("nothing to claim");
        return Ok(());
    };
    let token = token_info(home, first.token).await;
    crate::output::out!("{:<20} {:>18} {:>18}  claim", "channel", "brings", "costs");
    for row in &plan.rows {
        let token = match row.token == first.token {
            true => token.clone(),
            false => token_info(home, row.token).await,
        };
        crate::output::out!(
            "{:<20} {:>18} {:>18}  {}",
            output::short(&row.channel),
            output::amount(row.worth, &token),
            row.fee.map_or("?".to_owned(), |fee| output::amount(fee, &token)),
            decision(row, &token)
        );
    }
    crate::output::out!(
        "in all: {} of {} channels, {} transactions, {} gas, {} wei",
        claimed().count(),
        plan.rows.len(),
        quote.transactions,
        output::grouped(quote.gas),
        quote.fee_wei
    );
    if plan.rows.iter().any(|row| row.token != first.token) {
        return Ok(()); // sums of several tokens say nothing
    }
    match net {
        Some(net) => crate::output::out!(
            "brings {}, net {}",
            output::amount(brings, &token),
            output::amount(net, &token)
        ),
        None => {
            crate::output::out!("brings {}", output::amount(brings, &token));
            eprintln!(
                "what gas money is worth is not known: set [settle] native_price to see the net"
            );
        }
    }
    Ok(())
}

fn decision(row: &Row, token: &TokenInfo) -> String {
    let decision = match (row.verdict, row.fee) {
        (Verdict::Claim, _) => "yes".to_owned(),
        (Verdict::TooDear { .. }, Some(fee)) => {
            format!("no: pays from above {} on", output::amount(fee, token))
        }
        (Verdict::TooDear { .. } | Verdict::CannotBeWeighed, _) => "no".to_owned(),
    };
    match row.claim_by_secs {
        Some(by) => format!("{decision} (its payer leaves: by block time {by})"),
        None => decision,
    }
}

fn total(amounts: impl IntoIterator<Item = Amount>) -> Amount {
    let sum = |sum: Amount, more| sum.checked_add(more).unwrap_or(Amount::MAX);
    amounts.into_iter().fold(Amount::ZERO, sum)
}
