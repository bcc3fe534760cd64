//! `sparewire settle`: claim on chain what was promised.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use sparewire_node::provider::{SettleError, settle};
use sparewire_protocol::settlement::{Chain, Outcome};

use crate::{
    control::{self, Request},
    home::{Home, Node},
    output,
};

/// Claim on chain what your vouchers are worth, and pay it out to your wallet.
#[derive(Debug, Args)]
pub(crate) struct SettleArgs {
    /// A file with the keystore's password (not needed while `provide` runs).
    #[arg(long)]
    password_file: Option<PathBuf>,
}

pub(crate) async fn run(args: SettleArgs, home: &Home, json: bool) -> Result<()> {
    let Settled { outcome, failed } =
        match control::ask(&home.control_path(), Request::Settle).await? {
            Some(settled) => serde_json::from_value(settled)?,
            None => {
                let store = home.store()?;
                let (domain, _) = home.network()?;
                let node = Node::new(home.keys(args.password_file.as_deref()).await?, &domain)?;
                let chain: Arc<dyn Chain> = home.connect(Arc::clone(&node.wallet)).await?;
                settle(&store, &chain, &node.identity).await.into()
            }
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
