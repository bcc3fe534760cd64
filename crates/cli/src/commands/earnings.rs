//! `sparewire earnings`: what was earned, spent, claimed and paid out.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sparewire_core::{ChannelId, SessionId};
use sparewire_node::store::Store;
use sparewire_protocol::Role;

use crate::{
    account::{self, Entry, Sums},
    dates::Day,
    home::{Home, clock, token_info},
    output,
};

/// What was earned, spent, claimed and paid out, by the configured chain and token.
#[derive(Debug, Args)]
pub(crate) struct EarningsArgs {
    /// What a line is for. Days are days in UTC.
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// Only from this day on (UTC), for example 2026-11-21.
    #[arg(long)]
    since: Option<Day>,
    /// Print comma-separated values (RFC 4180); amounts in the token's smallest unit, fees in wei.
    #[arg(long)]
    csv: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Day,
    Session,
    Channel,
}

/// What a line is for; nothing of it where a figure belongs to no session or no channel.
type Key = (Side, Option<Day>, Option<ChannelId>, Option<SessionId>);

/// Provider before consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Provider,
    Consumer,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Consumer => "consumer",
        }
    }
}

pub(crate) async fn run(args: EarningsArgs, home: &Home, as_json: bool) -> Result<()> {
    ensure!(!(args.csv && as_json), "--csv and --json are two forms; choose one");
    let (domain, token) = home.network()?;
    let (mut told, mut others) = (Vec::new(), 0_usize);
    if let Some(store) = home.store_to_read()? {
        for session in store.sessions()? {
            let agreement = &session.agreement;
            if *agreement.domain() == domain && agreement.config.token == token {
                let receipts = store.kept_receipts(agreement.session)?;
                told.push((session, receipts));
            } else {
                others += 1;
            }
        }
    }
    let spendings = home.spendings().await?;
    let mut entries = account::entries(&told, &spendings, clock()());
    entries.retain(|entry| args.since.is_none_or(|since| entry.day >= since));
    let lines = grouped(&entries, args.by);
    if others > 0 {
        eprintln!("{others} sessions of other chains or tokens are left out");
    }
    if args.csv {
        csv(&lines, args.by);
        return Ok(());
    }
    let totals = totals(&lines);
    if as_json {
        let rows: Vec<Value> = lines.iter().map(|(key, sums)| document(key, sums)).collect();
        let total = |side| totals.get(&side).copied().unwrap_or_default();
        return output::json(&json!({
            "chain_id": domain.chain_id, "contract": domain.contract, "token": token,
            "days": "UTC", "lines": rows, "sessions_left_out": others,
            "provider": total(Side::Provider), "consumer": total(Side::Consumer),
        }));
    }
    if lines.is_empty() {
        eprintln!("nothing was earned or spent yet");
        return Ok(());
    }
    let token = token_info(home, token).await;
    let name = match args.by {
        By::Day => "day (UTC)",
        By::Session => "session",
        By::Channel => "channel",
    };
    output::out!(
        "{name:<16} {:<8} {:>14} {:>16} {:>16} {:>16} {:>16} {:>20}",
        "side",
        "bytes",
        "receipted",
        "promised",
        "claimed",
        "paid out",
        "fees (wei)"
    );
    let line = |name: &str, side: Side, sums: &Sums| {
        let money = |amount| output::amount(amount, &token);
        let of_provider = |amount| match side {
            Side::Provider => money(amount),
            Side::Consumer => "-".into(),
        };
        output::out!(
            "{name:<16} {:<8} {:>14} {:>16} {:>16} {:>16} {:>16} {:>20}",
            side.name(),
            sums.bytes,
            money(sums.receipted),
            money(sums.promised),
            of_provider(sums.claimed),
            of_provider(sums.settled),
            sums.fees_wei
        );
    };
    for (key, sums) in &lines {
        line(&label(key, args.by), key.0, sums);
    }
    for (side, sums) in &totals {
        line("all", *side, sums);
    }
    Ok(())
}

fn grouped(entries: &[Entry], by: By) -> BTreeMap<Key, Sums> {
    let mut lines: BTreeMap<Key, Sums> = BTreeMap::new();
    for entry in entries {
        let side = match entry.side {
            Role::Payee => Side::Provider,
            Role::Payer => Side::Consumer,
        };
        let key = match by {
            By::Day => (side, Some(entry.day), None, None),
            By::Channel => (side, None, entry.channel, None),
            By::Session => (side, None, entry.channel, entry.session),
        };
        lines.entry(key).or_default().add(&entry.sums);
    }
    lines.retain(|_, sums| *sums != Sums::default());
    lines
}

fn totals(lines: &BTreeMap<Key, Sums>) -> BTreeMap<Side, Sums> {
    let mut totals: BTreeMap<Side, Sums> = BTreeMap::new();
    for ((side, ..), sums) in lines {
        totals.entry(*side).or_default().add(sums);
    }
    totals
}

fn document((side, day, channel, session): &Key, sums: &Sums) -> Value {
    json!({
        "side": side.name(), "day": day, "channel": channel, "session": session,
        "bytes": sums.bytes, "receipted": sums.receipted, "promised": sums.promised,
        "claimed": sums.claimed, "settled": sums.settled, "fees_wei": sums.fees_wei.to_string(),
    })
}

fn label((_, day, channel, session): &Key, by: By) -> String {
    match by {
        By::Day => day.map(|day| day.to_string()),
        By::Channel => channel.map(|channel| output::short(&channel)),
        By::Session => session.map(|session| output::short(&session)),
    }
    .unwrap_or_else(|| "of none".into())
}

/// RFC 4180: a header, commas, lines that end with CR LF.
fn csv(lines: &BTreeMap<Key, Sums>, by: By) {
    let names = match by {
        By::Day => "day",
        By::Channel => "channel",
        By::Session => "channel,session",
    };
    output::out!("side,{names},bytes,receipted,promised,claimed,settled,fees_wei\r");
    for ((side, day, channel, session), sums) in lines {
        let text = |field: Option<String>| field.unwrap_or_default();
        let channel = text(channel.map(|channel| channel.to_string()));
        let name = match by {
            By::Day => text(day.map(|day| day.to_string())),
            By::Channel => channel,
            By::Session => format!("{channel},{}", text(session.map(|id| id.to_string()))),
        };
        // Digits, hexadecimal and dashes: no field needs quotes.
        output::out!(
            "{},{name},{},{},{},{},{},{}\r",
            side.name(),
            sums.bytes,
            sums.receipted,
            sums.promised,
            sums.claimed,
            sums.settled,
            sums.fees_wei
        );
    }
}
