//! `sparewire channel`: the money that is put aside, and the way out.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::json;
use sparewire_chain::{EvmChain, Journal, Policy};
use sparewire_core::{Address, Amount};
use sparewire_node::store::{KnownChannel, Store};
use sparewire_protocol::{
    ChannelFacts, ChannelStatus, Role,
    settlement::{Chain, Funds, Intent, TokenInfo},
};
use sparewire_wallet::LocalKey;

use crate::{
    hint::Hint,
    home::{Home, Node, known_token, smallest_units},
    output,
};

/// The money that is put aside, and the way out.
#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// All channels and where they stand on chain.
    List,
    /// Leave a channel that you pay: the first call starts the withdraw delay, a call after it is
    /// over returns the rest to your deposit.
    Close {
        /// The channel's id, or enough of its beginning.
        id: String,
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
        ChannelCommand::Close { id, password_file } => {
            let channel = find(home, &id)?;
            let chain = wallet_chain(home, password_file).await?;
            let info = known_token(&*chain, token).await?;
            let Some(facts) = chain.channel(channel.id).await? else {
                bail!("the chain does not know channel {}", channel.id);
            };
            let head = chain.head().await?;
            let said = match facts.status {
                ChannelStatus::Open => {
                    chain.perform(&Intent::StartClose { config: channel.config }).await?;
                    let delay = channel.config.withdraw_delay_secs;
                    format!("closing; call again in {delay} s to get the rest back")
                }
                ChannelStatus::Closing { finish_at_secs } if head.time_secs < finish_at_secs => {
                    format!("closing; call again in {} s", finish_at_secs - head.time_secs)
                }
                ChannelStatus::Closing { .. } => {
                    chain.perform(&Intent::FinishClose { config: channel.config }).await?;
                    let rest = facts.reserved.saturating_sub(facts.claimed);
                    format!("closed; {} are back in your deposit", output::amount(rest, &info))
                }
                ChannelStatus::Closed => "closed already".to_owned(),
            };
            if as_json {
                let facts = chain.channel(channel.id).await?;
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
            Some(ChannelStatus::Open) => "open".to_owned(),
            Some(ChannelStatus::Closing { finish_at_secs }) => {
                let left = finish_at_secs.saturating_sub(now_secs);
                format!("closing, {left} s left")
            }
            Some(ChannelStatus::Closed) => "closed".to_owned(),
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
