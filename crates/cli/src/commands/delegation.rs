//! `sparewire wallet delegation`: have another wallet be paid, whose key is not here.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Subcommand;
use sparewire_core::Address;
use sparewire_protocol::Delegation;
use sparewire_wallet::NodeKeys;

use crate::{
    dates::Day,
    delegation::{self, FILE},
    hint::Hint,
    home::{Home, clock, key_error, text},
    output,
};

/// Another wallet that is paid for what this node sells.
#[derive(Debug, Subcommand)]
pub(crate) enum DelegationCommand {
    /// Ask a wallet to let this node be paid to it: prints the request that `wallet sign` reads where
    /// the wallet's key is.
    Request {
        /// The wallet that is to be paid.
        #[arg(long)]
        wallet: Address,
        /// For how many days it is to count: 1 to 3650.
        #[arg(long, default_value_t = 365)]
        days: u64,
    },
    /// Take the wallet's answer and keep it for `[provider] delegation`.
    Import {
        /// The request, as it was printed.
        #[arg(long)]
        request: PathBuf,
        /// What `wallet sign` answered.
        #[arg(long)]
        response: PathBuf,
    },
}

pub(crate) fn run(command: DelegationCommand, home: &Home, json: bool) -> Result<()> {
    let own = NodeKeys::peek(&home.keys_dir()).map_err(key_error)?;
    match command {
        DelegationCommand::Request { wallet, days } => {
            ensure!((1..=3_650).contains(&days), "--days = {days} is not within 1 to 3650");
            let expiry_secs = clock()().as_secs() + days * 86_400;
            let (device, authorizer) = (own.node_id, own.authorizer);
            let delegation = Delegation { wallet, device, authorizer, expiry_secs };
            let (domain, _) = home.network()?;
            output::out!("{}", delegation::request(&delegation, domain)?.to_json().trim_end());
            eprintln!(
                "where the key of {wallet} is: `sparewire wallet sign --request FILE`; then here: `sparewire wallet delegation import`"
            );
            Ok(())
        }
        DelegationCommand::Import { request, response } => {
            let (request, response) = (text(&request)?, text(&response)?);
            let (_, signed) = delegation::answered(&request, &response)?;
            let Delegation { wallet, device, authorizer, expiry_secs } = signed.body;
            // It would take the place of one that counts, and not count itself.
            ensure!(
                (device, authorizer) == (own.node_id, own.authorizer),
                Hint::new(format!(
                    "it is for another node: device {device}, authorizer {authorizer}"
                ))
                .hint("import it there, or ask anew with `sparewire wallet delegation request`")
            );
            delegation::keep(&home.dir.join(FILE), &request, &response)?;
            if home.config.provider.delegation.is_empty() {
                eprintln!(
                    "to be paid there, put into config.toml: [provider] delegation = \"{FILE}\""
                );
            }
            if json {
                return output::json(&signed.body);
            }
            let day = Day::of_secs(expiry_secs);
            output::out!("{wallet} lets node {device} be paid to it until {day}");
            Ok(())
        }
    }
}
