//! `sparewire chain events` and `chain index`: what happened at the channel contract.

use anyhow::Result;
use clap::Args;
use sparewire_chain::{
    EvmChain, Index,
    index::{Event, EventFilter, EventRecord, Progress},
};
use sparewire_core::ChannelId;

use crate::{home::Home, output};

/// Ranges of logs that are read between two words about how far it is.
const RANGES_PER_WORD: usize = 16;
/// Events that are in memory at a time.
const PAGE: usize = 1_000;

/// Which events are shown.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only those of this channel.
    #[arg(long)]
    channel: Option<ChannelId>,
    /// Only those of this block and later ones.
    #[arg(long, default_value_t = 0)]
    since: u64,
}

/// How the index is brought up to date.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Compare everything that the events add up to with the contract's state.
    #[arg(long)]
    check: bool,
}

pub(crate) async fn list(args: EventsArgs, home: &Home, json: bool) -> Result<()> {
    let index = home.index()?;
    let chain = home.look().await?;
    advance(&chain, &index).await?;
    let mut filter = EventFilter { channel: args.channel, since: args.since, after: None };
    let mut first = true;
    loop {
        let asked = (index.clone(), filter);
        let page = tokio::task::spawn_blocking(move || asked.0.events(&asked.1, PAGE)).await??;
        let Some(last) = page.last() else { break };
        filter.after = Some(last.position);
        for record in &page {
            if json {
                // One array, written as it is read: there may be millions.
                let opening = if first { "[\n" } else { "," };
                output::out!("{opening}{}", serde_json::to_string(record)?);
            } else {
                output::out!("{}", in_words(record));
            }
            first = false;
        }
    }
    if json {
        output::out!("{}", if first { "[]" } else { "]" });
    } else if first {
        eprintln!("nothing happened");
    }
    Ok(())
}

pub(crate) async fn index(args: IndexArgs, home: &Home, json: bool) -> Result<()> {
    let index = home.index()?;
    let chain = home.look().await?;
    let progress = advance(&chain, &index).await?;
    if args.check {
        eprintln!("comparing what the events add up to with the contract's state…");
        let checked = chain.check_index(&index, true).await?;
        eprintln!("{} channels and {} accounts fit", checked.channels, checked.accounts);
    }
    let events = index.count()?;
    let status = index.status()?;
    if json {
        return output::json(&serde_json::json!({
            "first_block": progress.first, "last_block": status.cursor, "events": events,
            "final_block": progress.final_number, "verified_block": status.verified,
        }));
    }
    output::out!("first block   {}", progress.first);
    output::out!("last block    {}", progress.next.saturating_sub(1));
    output::out!("events        {}", output::grouped(events));
    match status.verified {
        Some(block) => output::out!("verified      up to block {block}"),
        None => output::out!("verified      never; --check does"),
    }
    Ok(())
}

/// Stores all that is final, and says how far it is where that takes long.
async fn advance(chain: &EvmChain, index: &Index) -> Result<Progress> {
    loop {
        let progress = chain.advance_index(index, RANGES_PER_WORD).await?;
        if progress.is_done() {
            return Ok(progress);
        }
        let done = progress.next.saturating_sub(progress.first);
        let all = progress.final_number.saturating_sub(progress.first).max(1);
        eprintln!(
            "block {} of {} ({} %)",
            progress.next,
            progress.final_number,
            u128::from(done) * 100 / u128::from(all)
        );
    }
}

fn in_words(record: &EventRecord) -> String {
    let what = match &record.event {
        Event::Deposited { payer, token, from, amount } => {
            format!("{amount} of {token} into the deposit of {payer} from {from}")
        }
        Event::Withdrawn { payer, token, to, amount } => {
            format!("{amount} of {token} out of the deposit of {payer} to {to}")
        }
        Event::Opened { channel, opening } => format!(
            "{channel} by {} for {} with {} of {}",
            opening.payer,
            opening.payee,
            opening.amount.get(),
            opening.token
        ),
        Event::ToppedUp { channel, amount, reserved } => {
            format!("{channel} by {}, holds {} now", amount.get(), reserved.get())
        }
        Event::Claimed { channel, claimed } => format!("{channel} up to {}", claimed.get()),
        Event::Swept { payee, token, amount } => format!("{amount} of {token} paid to {payee}"),
        Event::CloseStarted { channel, finish_at_secs } => {
            format!("{channel}, can be finished from {finish_at_secs} (Unix time)")
        }
        Event::Closed { channel, claimed, refunded } => {
            format!("{channel}, {} claimed, {} given back", claimed.get(), refunded.get())
        }
    };
    format!(
        "block {} at {} in {}  {:<13}  {what}",
        record.position.block,
        record.time_secs,
        record.transaction,
        record.event.name()
    )
}
