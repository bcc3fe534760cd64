//! `sparewire wallet device`: which keys act for this wallet, and which never again.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use sparewire_core::{Address, NodeId};
use sparewire_protocol::{
    Delegation,
    settlement::{Chain, Intent, Outcome, Standing},
};
use sparewire_wallet::NodeKeys;

use crate::{
    hint::Hint,
    home::{Home, clock, key_error},
    output,
    side::Side,
};

/// Which keys act for this wallet, as the chain has it.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Make public that this node's device and authorizer act for this wallet.
    Add {
        /// For how many days: 1 to 3650.
        #[arg(long, default_value_t = 365)]
        days: u64,
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Give this node another authorizer (voucher key), and move the open channels that it pays to
    /// it: their providers are asked to agree to close them, and what is left in them is put into new
    /// ones in the same transaction. Interrupted, it goes on when it is called again.
    Rotate {
        /// Leave channels whose providers do not agree, by the withdraw delay, instead of keeping
        /// them under the old authorizer.
        #[arg(long)]
        unilateral: bool,
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Show where this node's keys, or those named, stand.
    List {
        #[command(flatten)]
        named: Named,
    },
    /// Revoke a device or an authorizer of this wallet, for good: after the loss of a machine, from
    /// one with the same wallet (`wallet new --mnemonic-file`). Peers turn it down from then on.
    Revoke {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        unlock: Unlock,
    },
}

/// Whose standing it is about.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Named {
    /// A device: a node id.
    #[arg(long)]
    device: Option<NodeId>,
    /// An authorizer: an address.
    #[arg(long)]
    authorizer: Option<Address>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Unlock {
    /// A file with the keystore's password.
    #[arg(long)]
    pub(super) password_file: Option<PathBuf>,
}

pub(crate) async fn run(command: DeviceCommand, home: &Home, json: bool) -> Result<()> {
    if let DeviceCommand::Rotate { unilateral, unlock } = command {
        return super::rotate::run(home, unilateral, unlock.password_file.as_deref(), json).await;
    }
    let registry = home.registry()?.ok_or_else(|| {
        Hint::new("there is no registry of keys on this chain")
            .hint("set [chain] keys in config.toml")
    })?;
    let own = NodeKeys::peek(&home.keys_dir()).map_err(key_error)?;
    match command {
        DeviceCommand::Add { days, unlock } => {
            ensure!((1..=3_650).contains(&days), "--days = {days} is not within 1 to 3650");
            let expiry_secs = clock()().as_secs() + days * 86_400;
            let side = Side::open(home, unlock.password_file.as_deref()).await?;
            let Delegation { wallet, device, authorizer, .. } = side.node.identity.delegation.body;
            let delegation = Delegation { wallet, device, authorizer, expiry_secs };
            let register = Intent::Register { keys: registry, delegation };
            let outcome = side.chain.perform(&register).await?;
            report(&outcome, "registered", device, authorizer, json)
        }
        DeviceCommand::Revoke { named, unlock } => {
            let Named { device, authorizer } = named;
            ensure!(
                device.is_some() || authorizer.is_some(),
                Hint::new("nothing is named that is to be revoked").hint(
                    "give --device or --authorizer, or both; `wallet device list` shows this node's"
                )
            );
            let side = Side::open(home, unlock.password_file.as_deref()).await?;
            let revoke = Intent::Revoke { keys: registry, device, authorizer };
            let outcome = side.chain.perform(&revoke).await?;
            // Each by itself: one that is revoked says nothing of the other.
            let named = [
                device.map(|device| (device, Address::ZERO)),
                authorizer.map(|authorizer| (NodeId::default(), authorizer)),
            ];
            for (device, authorizer) in named.into_iter().flatten() {
                let wallet = side.chain.wallet();
                let asked = Delegation { wallet, device, authorizer, expiry_secs: 0 };
                let standing = side.chain.standing(registry, &asked).await?;
                ensure!(
                    standing == Standing::Revoked,
                    Hint::new(format!(
                        "the contract at {registry} took the call and revoked nothing"
                    ))
                    .hint("check that [chain] keys names the registry of keys")
                );
            }
            if device == Some(own.node_id) || authorizer == Some(own.authorizer) {
                eprintln!(
                    "these are this node's own keys: make another node with the next --index of `wallet new`"
                );
            }
            report(
                &outcome,
                "revoked for good",
                device.unwrap_or_default(),
                authorizer.unwrap_or_default(),
                json,
            )
        }
        DeviceCommand::Rotate { .. } => Ok(()), // above
        DeviceCommand::List { named } => {
            let chain = home.look().await?;
            let device = named.device.unwrap_or(own.node_id);
            let authorizer = named.authorizer.unwrap_or(own.authorizer);
            let wallet = own.wallet;
            let standing = async |device, authorizer| {
                let asked = Delegation { wallet, device, authorizer, expiry_secs: 0 };
                chain.standing(registry, &asked).await
            };
            let both = standing(device, authorizer).await?;
            let revoked = |standing| standing == Standing::Revoked;
            let device_revoked = revoked(standing(device, Address::ZERO).await?);
            let authorizer_revoked = revoked(standing(NodeId::default(), authorizer).await?);
            if json {
                return output::json(&json!({
                    "wallet": wallet, "device": device, "device_revoked": device_revoked,
                    "authorizer": authorizer, "authorizer_revoked": authorizer_revoked,
                    "standing": both,
                }));
            }
            let mark = |revoked| if revoked { " (revoked)" } else { "" };
            output::out!("wallet      {wallet}");
            output::out!("device      {device}{}", mark(device_revoked));
            output::out!("authorizer  {authorizer}{}", mark(authorizer_revoked));
            let words = match both {
                Standing::Unknown => "not registered: the delegations that they show decide",
                Standing::Registered => "registered",
                Standing::Expired => {
                    "the registration is over: newer delegations that they show decide"
                }
                Standing::Revoked => "they act for this wallet no more",
            };
            output::out!("standing    {words}");
            Ok(())
        }
    }
}

fn report(
    outcome: &Outcome,
    what: &str,
    device: NodeId,
    authorizer: Address,
    json: bool,
) -> Result<()> {
    if json {
        return output::json(outcome);
    }
    if device != NodeId::default() {
        output::out!("device {device} {what}");
    }
    if authorizer != Address::default() {
        output::out!("authorizer {authorizer} {what}");
    }
    Ok(())
}
