//! `sparewire channel`: the money that is put aside, and the way out.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::json;
use sparewire_chain::{EvmChain, Journal, Policy};
use sparewire_core::{Address, Amount, ChannelId};
use sparewire_node::{
    store::{KnownChannel, Store},
    transport::PeerAddress,
};
use sparewire_protocol::{
    ChannelFacts, ChannelStatus, Role,
    settlement::{Chain, ChainError, Funds, Intent, TokenInfo},
};
use sparewire_wallet::LocalKey;

use crate::{
    closing,
    hint::{self, Hint},
    home::{Home, Node, known_token, smallest_units},
    output,
    side::Side,
};

/// What is wrong with a channel over which its payee contradicted itself.
pub(super) const FROZEN: &str = "frozen: two receipts of one number";

/// The money that is put aside, and the way out.
#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// All channels and where they stand on chain.
    List,
    /// Leave a channel that you pay. Its provider is asked first: where it agrees, the rest is back
    /// in your deposit at once. Where it does not, this starts the withdraw delay, and a call after
    /// that is over returns the rest.
    Close {
        /// The channel's id, or enough of its beginning.
        id: String,
        /// Do not ask the provider.
        #[arg(long, conflicts_with = "provider")]
        unilateral: bool,
        /// Where the provider is, if not where it was reached last: <node-id>@<ip>:<port>.
        #[arg(long)]
        provider: Option<PeerAddress>,
        /// A file with the password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// Take what is free in your deposit back into your wallet.
    Withdraw {
        /// A file with the password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
}

pub(crate) async fn run(command: ChannelCommand, home: &Home, as_json: bool) -> Result<()> {
    let (_, token) = home.network()?;
    match command {
        ChannelCommand::List => list(home, as_json).await,
        ChannelCommand::Close { id, unilateral, provider, password_file } => {
            let channel = find(home, &id)?;
            let side = Side::open(home, password_file.as_deref()).await?;
            let said = close(&side, channel.id, unilateral, provider).await?;
            if as_json {
                let facts = side.chain.channel(channel.id).await?;
                return output::json(
                    &json!({ "channel": channel.id, "facts": facts, "said": said }),
                );
            }
            crate::output::out!("{said}");
            Ok(())
        }
        ChannelCommand::Withdraw { password_file } => {
            let chain = wallet_chain(home, password_file).await?;
            let info = known_token(&*chain, token).await?;
            let amount = chain.funds(chain.wallet(), token).await?.deposit;
            if amount > Amount::ZERO {
                chain.perform(&Intent::Withdraw { token, amount }).await?;
            }
            if as_json {
                return output::json(&json!({ "withdrawn": amount }));
            }
            crate::output::out!("withdrawn {}", output::amount(amount, &info));
            Ok(())
        }
    }
}

/// Takes the next step out of a channel, the shortest that there is; returns what to tell.
async fn close(
    side: &Side,
    id: ChannelId,
    unilateral: bool,
    provider: Option<PeerAddress>,
) -> Result<String> {
    let chain = &side.chain;
    let (Some(channel), Some(facts)) = (side.store.channel(id)?, chain.channel(id).await?) else {
        bail!("the chain does not know channel {id}");
    };
    let closed = |facts: ChannelFacts| {
        let rest = facts.reserved.saturating_sub(facts.claimed);
        format!("closed; {} are back in your deposit", output::amount(rest, &side.token))
    };
    let finish_at_secs = match facts.status {
        ChannelStatus::Closed => return Ok("closed already".to_owned()),
        ChannelStatus::Open => None,
        ChannelStatus::Closing { finish_at_secs } => Some(finish_at_secs),
    };
    let now_secs = chain.head().await?.time_secs;
    if finish_at_secs.is_some_and(|at| at <= now_secs) {
        chain.perform(&Intent::FinishClose { config: channel.config }).await?;
        return Ok(closed(chain.channel(id).await?.unwrap_or(facts)));
    }
    if !unilateral {
        let asking =
            closing::ask(side, &side.node.identity, &channel, facts.reserved, provider).await;
        let closing = async |(claim, payee_signature)| {
            chain.perform(&Intent::CloseCooperatively { claim, payee_signature }).await
        };
        match asking {
            Ok(agreed) => match closing(agreed).await {
                Ok(_) => return Ok(closed(chain.channel(id).await?.unwrap_or(facts))),
                // Whatever is wrong with it will be so the next time: there is the other way.
                Err(error @ ChainError::Reverted { .. }) => {
                    eprintln!("the close that the provider agreed on is not carried out: {error}");
                }
                Err(error) => return Err(error.into()),
            },
            Err(error) => {
                let reason = output::tame(&format!("{error:#}"));
                eprintln!("the provider does not agree to close it at once: {reason}");
                if let Some(advice) = hint::advice(&error) {
                    eprintln!("hint: {advice}");
                }
            }
        }
    }
    let left = match finish_at_secs {
        Some(at) => at - now_secs,
        None => {
            chain.perform(&Intent::StartClose { config: channel.config }).await?;
            channel.config.withdraw_delay_secs.into()
        }
    };
    Ok(format!("closing; call again in {left} s to get the rest back"))
}

async fn list(home: &Home, as_json: bool) -> Result<()> {
    let mut channels = Vec::new();
    if let Some(store) = home.store_to_read()? {
        channels.extend(store.channels(Role::Payer)?);
        channels.extend(store.channels(Role::Payee)?);
    }
    if channels.is_empty() {
        // There is nothing to ask the chain about.
        if as_json {
            crate::output::out!("[]");
        } else {
            eprintln!("no channels yet; `sparewire connect` opens one");
        }
        return Ok(());
    }
    let chain = reading_chain(home).await?;
    let now_secs = chain.head().await?.time_secs;
    let mut rows = Vec::new();
    for channel in &channels {
        rows.push((channel, chain.channel(channel.id).await?));
    }
    if as_json {
        let document = |(channel, facts): &(&KnownChannel, Option<ChannelFacts>)| {
            json!({
                "channel": channel.id, "side": channel.role, "config": channel.config,
                "promised": channel.promised(), "on_chain": facts,
                "close_agreed": channel.agreed.is_some(), "frozen": channel.frozen,
            })
        };
        return output::json(&rows.iter().map(document).collect::<Vec<_>>());
    }
    crate::output::out!(
        "{:<16} {:<6} {:>18} {:>18} {:>18}  state",
        "channel",
        "side",
        "holds",
        "promised",
        "claimed"
    );
    for (channel, facts) in rows {
        let token = channel.config.token;
        let token = chain.token(token).await.unwrap_or_else(|_| smallest_units(token));
        let shown = |amount: Option<Amount>| {
            amount.map_or("-".to_owned(), |amount| output::amount(amount, &token))
        };
        let state = match facts.map(|facts| facts.status) {
            None => "not on chain".to_owned(),
            Some(ChannelStatus::Open) if channel.agreed.is_some() => {
                "open; its close is agreed on, call `channel close` again".to_owned()
            }
            Some(ChannelStatus::Open) => "open".to_owned(),
            Some(ChannelStatus::Closing { finish_at_secs }) => {
                let left = finish_at_secs.saturating_sub(now_secs);
                format!("closing, {left} s left")
            }
            Some(ChannelStatus::Closed) => "closed".to_owned(),
        };
        let state = match channel.frozen {
            true => format!("{state}; {FROZEN}"),
            false => state,
        };
        crate::output::out!(
            "{:<16} {:<6} {:>18} {:>18} {:>18}  {state}",
            output::short(&channel.id),
            match channel.role {
                Role::Payer => "payer",
                Role::Payee => "payee",
            },
            shown(facts.map(|facts| facts.reserved)),
            shown(Some(channel.promised())),
            shown(facts.map(|facts| facts.claimed)),
        );
    }
    Ok(())
}

fn find(home: &Home, id: &str) -> Result<KnownChannel> {
    let channels = match home.store_to_read()? {
        Some(store) => store.channels(Role::Payer)?,
        None => Vec::new(),
    };
    let mut matches: Vec<_> = channels
        .into_iter()
        .filter(|channel| {
            let text = channel.id.to_string();
            text.starts_with(id) || text.trim_start_matches("0x").starts_with(id)
        })
        .collect();
    match (matches.pop(), matches.len()) {
        (Some(channel), 0) => Ok(channel),
        (_, more) => bail!(
            Hint::new(format!("{} channels that you pay begin with \"{id}\"", more))
                .hint("`sparewire channel list` shows their ids")
        ),
    }
}

async fn wallet_chain(home: &Home, password_file: Option<PathBuf>) -> Result<Arc<EvmChain>> {
    let (domain, _) = home.network()?;
    let node = Node::new(home.keys(password_file.as_deref()).await?, &domain)?;
    home.connect(node.wallet).await
}

/// A carrier that can only look: its key is drawn for it and holds nothing.
pub(super) async fn reading_chain(home: &Home) -> Result<EvmChain> {
    let (domain, _) = home.network()?;
    let policy = Policy {
        retry_for: std::time::Duration::from_secs(3),
        ..crate::network::embedded_policy()
    };
    let endpoint = home.config.chain.endpoint()?;
    let reader = Arc::new(LocalKey::random()?);
    Ok(EvmChain::connect(endpoint, domain, reader, Journal::in_memory()?, policy).await?)
}

/// What a wallet holds, and of which token.
pub(crate) async fn funds(home: &Home, wallet: Address) -> Result<(Funds, TokenInfo)> {
    let (_, token) = home.network()?;
    let chain = reading_chain(home).await?;
    Ok((chain.funds(wallet, token).await?, known_token(&chain, token).await?))
}
