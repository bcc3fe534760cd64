//! `sparewire settle`: claim on chain what was promised.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use clap::Args;
use sparewire_node::provider::settle;
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
    let outcome = match control::ask(&home.control_path(), Request::Settle).await? {
        Some(outcome) => serde_json::from_value(outcome)?,
        None => {
            let store = home.store()?;
            let (domain, _) = home.network()?;
            let node = Node::new(home.keys(args.password_file.as_deref()).await?, &domain)?;
            let chain: Arc<dyn Chain> = home.connect(Arc::clone(&node.wallet)).await?;
            settle(&store, &chain, &node.identity).await?
        }
    };
    if json {
        return output::json(&outcome);
    }
    report(&outcome);
    Ok(())
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
