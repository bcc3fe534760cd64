//! `sparewire wallet device`: which keys act for this wallet, and which never again.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use sparewire_core::{Address, Amount, Domain, NodeId};
use sparewire_protocol::{
    Delegation, Revocation,
    settlement::{Chain, Intent, Outcome, Standing},
};
use sparewire_wallet::NodeKeys;

use crate::{
    delegation::{self, Word},
    hint::Hint,
    home::{Home, clock, key_error, text, token_info},
    output,
    side::Side,
};

const NOTHING_NAMED: &str = "nothing is named that is to be revoked";

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
    /// Say how much this wallet's channels that name an authorizer are to hold together: the most
    /// that its thief could spend. A node asks before it opens a channel or puts more into one; what
    /// channels hold already stays there. A cap is raised and lowered, but never lifted.
    Cap {
        /// How much, in the token.
        amount: String,
        /// The authorizer: an address; this node's, where none is named.
        #[arg(long)]
        authorizer: Option<Address>,
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Ask a wallet whose key is elsewhere to revoke a device or an authorizer: prints the request
    /// that `wallet sign` reads there.
    Ask {
        /// The wallet.
        #[arg(long)]
        wallet: Address,
        /// For how many days its answer is good to be relayed: 1 to 3650.
        #[arg(long, default_value_t = 30)]
        days: u64,
        #[command(flatten)]
        named: Named,
    },
    /// Bring what a wallet signed elsewhere to the registry, at this node's expense: its revocation,
    /// or its delegation (`wallet delegation request`).
    Relay {
        /// The request, as it was printed.
        #[arg(long)]
        request: PathBuf,
        /// What `wallet sign` answered.
        #[arg(long)]
        response: PathBuf,
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
        /// Replace an authorizer that has taken over from another one and served in no session yet.
        /// Without this nothing is done then: the rotation that is called again is complete.
        #[arg(long)]
        again: bool,
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
    if let DeviceCommand::Rotate { unilateral, again, unlock } = command {
        let password_file = unlock.password_file.as_deref();
        return super::rotate::run(home, unilateral, again, password_file, json).await;
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
        DeviceCommand::Ask { wallet, days, named: Named { device, authorizer } } => {
            ensure!((1..=3_650).contains(&days), "--days = {days} is not within 1 to 3650");
            ensure!(
                device.is_some() || authorizer.is_some(),
                Hint::new(NOTHING_NAMED).hint("give --device or --authorizer, or both")
            );
            let deadline_secs = clock()().as_secs() + days * 86_400;
            let (device, authorizer) = (device.unwrap_or_default(), authorizer.unwrap_or_default());
            let revocation = Revocation { wallet, device, authorizer, deadline_secs };
            let (Domain { chain_id, .. }, _) = home.network()?;
            let at = Domain { chain_id, contract: registry };
            let request = delegation::revocation_request(&revocation, at)?;
            output::out!("{}", request.to_json().trim_end());
            eprintln!(
                "where the key of {wallet} is: `sparewire wallet sign --request FILE`; then here or anywhere: `sparewire wallet device relay`"
            );
            Ok(())
        }
        DeviceCommand::Relay { request, response, unlock } => {
            let (domain, _) = home.network()?;
            let word = delegation::word(&text(&request)?, &text(&response)?, &domain, registry)?;
            let side = Side::open(home, unlock.password_file.as_deref()).await?;
            match word {
                Word::Delegation(delegation) => {
                    let Delegation { device, authorizer, .. } = delegation.body;
                    let register = Intent::RegisterFor { keys: registry, delegation };
                    let outcome = side.chain.perform(&register).await?;
                    report(&outcome, "registered", device, authorizer, json)
                }
                Word::Revocation(revocation) => {
                    let Revocation { wallet, device, authorizer, .. } = revocation.body;
                    let revoke = Intent::RevokeFor { keys: registry, revocation };
                    let outcome = side.chain.perform(&revoke).await?;
                    ensure_revoked(&*side.chain, registry, wallet, device, authorizer).await?;
                    if device == own.node_id || authorizer == own.authorizer {
                        eprintln!("these are this node's own keys: they act for {wallet} no more");
                    }
                    report(&outcome, "revoked for good", device, authorizer, json)
                }
            }
        }
        DeviceCommand::Cap { amount, authorizer, unlock } => {
            let side = Side::open(home, unlock.password_file.as_deref()).await?;
            let authorizer = authorizer.unwrap_or(own.authorizer);
            let (token, cap) = (side.token.address, Amount::parse(&amount, side.token.decimals)?);
            ensure!(cap.get() < 1 << 104, "a cap is below 2^104 units; {amount} is not");
            let set = Intent::SetCap { keys: registry, authorizer, token, cap };
            let outcome = side.chain.perform(&set).await?;
            let now = side.chain.cap(registry, side.chain.wallet(), authorizer, token).await?;
            ensure!(
                now == Some(cap),
                Hint::new(format!("the contract at {registry} took the call and caps nothing"))
                    .hint("check that [chain] keys names the registry of keys")
            );
            if json {
                return output::json(&outcome);
            }
            let cap = output::amount(cap, &side.token);
            output::out!("channels of authorizer {authorizer} are to hold at most {cap} together");
            Ok(())
        }
        DeviceCommand::Revoke { named, unlock } => {
            let Named { device, authorizer } = named;
            ensure!(
                device.is_some() || authorizer.is_some(),
                Hint::new(NOTHING_NAMED).hint(
                    "give --device or --authorizer, or both; `wallet device list` shows this node's"
                )
            );
            let side = Side::open(home, unlock.password_file.as_deref()).await?;
            let revoke = Intent::Revoke { keys: registry, device, authorizer };
            let outcome = side.chain.perform(&revoke).await?;
            let wallet = side.chain.wallet();
            let named = (device.unwrap_or_default(), authorizer.unwrap_or_default());
            ensure_revoked(&*side.chain, registry, wallet, named.0, named.1).await?;
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
            let (_, token) = home.network()?;
            let cap = chain.cap(registry, wallet, authorizer, token).await?;
            if json {
                return output::json(&json!({
                    "wallet": wallet, "device": device, "device_revoked": device_revoked,
                    "authorizer": authorizer, "authorizer_revoked": authorizer_revoked,
                    "standing": both, "cap": cap,
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
            match cap {
                None => output::out!("cap         none; `wallet device cap` sets one"),
                Some(cap) => {
                    let cap = output::amount(cap, &token_info(home, token).await);
                    output::out!("cap         {cap}, of all channels of the authorizer together");
                }
            }
            Ok(())
        }
    }
}

/// That what was named (not zero) of a wallet's keys is revoked now, each by itself: one that is
/// revoked says nothing of the other.
async fn ensure_revoked(
    chain: &dyn Chain,
    registry: Address,
    wallet: Address,
    device: NodeId,
    authorizer: Address,
) -> Result<()> {
    let each = [(device, Address::ZERO), (NodeId::default(), authorizer)];
    let nobody = (NodeId::default(), Address::ZERO);
    for (device, authorizer) in each.into_iter().filter(|it| *it != nobody) {
        let asked = Delegation { wallet, device, authorizer, expiry_secs: 0 };
        let standing = chain.standing(registry, &asked).await?;
        ensure!(
            standing == Standing::Revoked,
            Hint::new(format!("the contract at {registry} took the call and revoked nothing"))
                .hint("check that [chain] keys names the registry of keys")
        );
    }
    Ok(())
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
