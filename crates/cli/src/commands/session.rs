//! `sparewire session`: what was carried and paid, from stored evidence.

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use sparewire_node::store::{KnownSession, SqliteStore, Store};
use sparewire_protocol::{Role, settlement::Chain};

use crate::{
    account::paid,
    hint::Hint,
    home::{Home, token_info},
    output,
    story::{Evidence, Story},
};

/// What was carried and paid.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// All sessions, oldest first.
    List,
    /// One session and its receipts.
    Show {
        /// The session's id, or enough of its beginning.
        id: String,
    },
    /// The whole story of a session's money, from stored evidence: what was agreed, signed, stopped,
    /// claimed and spent, and what is missing.
    Explain {
        /// The session's id, or enough of its beginning.
        id: String,
    },
}

pub(crate) async fn run(command: SessionCommand, home: &Home, json: bool) -> Result<()> {
    let store = home.store_to_read()?;
    let sessions = store.as_ref().map_or(Ok(Vec::new()), |store| store.sessions())?;
    match command {
        SessionCommand::List if json => {
            output::json(&sessions.iter().map(summary).collect::<Vec<_>>())
        }
        SessionCommand::List => {
            if sessions.is_empty() {
                eprintln!("no sessions yet");
                return Ok(());
            }
            crate::output::out!(
                "{:<16} {:<8} {:>12} {:>12} {:>18} {:>8}  state",
                "session",
                "side",
                "up",
                "down",
                "paid",
                "receipts"
            );
            for session in &sessions {
                let token = token_info(home, session.agreement.config.token).await;
                let reading = session.payment.map(|payment| payment.reading).unwrap_or_default();
                crate::output::out!(
                    "{:<16} {:<8} {:>12} {:>12} {:>18} {:>8}  {}",
                    output::short(&session.agreement.session),
                    side(session.role),
                    reading.up.to_string(),
                    reading.down.to_string(),
                    output::amount(paid(session), &token),
                    session.receipts,
                    state(session)
                );
            }
            Ok(())
        }
        SessionCommand::Explain { id } => {
            let session = only(&sessions, &id)?;
            match &store {
                Some(store) => explain(session, store, home, json).await,
                None => Ok(()), // it would have been looked for in vain
            }
        }
        SessionCommand::Show { id } => {
            let session = only(&sessions, &id)?;
            let receipts = match &store {
                Some(store) => store.receipts(session.agreement.session)?,
                None => Vec::new(),
            };
            show(session, receipts.len(), home, json, &receipts).await
        }
    }
}

/// The one session whose id begins so.
pub(super) fn only<'a>(sessions: &'a [KnownSession], id: &str) -> Result<&'a KnownSession> {
    let matches: Vec<_> = sessions
        .iter()
        .filter(|session| {
            let text = session.agreement.session.to_string();
            text.starts_with(id) || text.trim_start_matches("0x").starts_with(id)
        })
        .collect();
    let [session] = matches[..] else {
        bail!(
            Hint::new(format!("{} sessions begin with \"{id}\"", matches.len()))
                .hint("`sparewire session list` shows their ids")
        );
    };
    Ok(session)
}

async fn explain(
    session: &KnownSession,
    store: &SqliteStore,
    home: &Home,
    json: bool,
) -> Result<()> {
    let agreement = &session.agreement;
    let id = agreement.session;
    let (receipts, stops) = (store.kept_receipts(id)?, store.stops(id)?);
    let (domain, _) = home.network()?;
    let (mut spendings, mut facts) = (Vec::new(), None);
    if *agreement.domain() == domain {
        spendings = home.spendings().await?;
        // The story is told without the chain too: what it says is one line of it.
        if let Ok(chain) = super::channel::reading_chain(home).await {
            facts = chain.channel(agreement.channel()).await.ok().flatten();
        }
    } else {
        let chain_id = agreement.domain().chain_id;
        eprintln!(
            "this session is of chain {chain_id}; give its --chain-id and --contract to see its claims"
        );
    }
    let evidence = Evidence {
        session,
        offer: store.offer(id)?,
        contradictions: &store.contradictions(id)?,
        receipts: &receipts,
        carried: store.carried(id)?,
        stops: &stops,
        spendings: &spendings,
        facts,
    };
    let story = Story::of(evidence);
    if json {
        return output::json(&story.json());
    }
    let token = token_info(home, agreement.config.token).await;
    for line in story.lines(&token) {
        output::out!("{line}");
    }
    Ok(())
}

async fn show(
    session: &KnownSession,
    count: usize,
    home: &Home,
    json: bool,
    receipts: &[sparewire_protocol::Countersigned],
) -> Result<()> {
    let agreement = &session.agreement;
    let rows: Vec<Value> = receipts
        .iter()
        .map(|countersigned| {
            let receipt = &countersigned.receipt.body;
            let verified = countersigned.verify(
                agreement.domain(),
                agreement.config.payer_authorizer,
                agreement.config.payee_authorizer,
            );
            json!({
                "sequence": receipt.sequence, "up": receipt.reading.up, "down": receipt.reading.down,
                "amount": receipt.amount, "time_ms": receipt.time, "signatures_valid": verified.is_ok(),
            })
        })
        .collect();
    if json {
        let mut value = summary(session);
        value["channel_config"] = serde_json::to_value(agreement.config)?;
        value["terms"] = serde_json::to_value(agreement.terms)?;
        value["receipts_signed_by_both"] = rows.into();
        return output::json(&value);
    }
    let token = token_info(home, agreement.config.token).await;
    let reading = session.payment.map(|payment| payment.reading).unwrap_or_default();
    crate::output::out!("session   {}", agreement.session);
    crate::output::out!("side      {} (peer {})", side(session.role), session.peer);
    crate::output::out!("state     {}", state(session));
    crate::output::out!("channel   {}", agreement.channel());
    crate::output::out!("price     {}", output::price(agreement.terms.price, &token));
    crate::output::out!(
        "paid for  {} up, {} down",
        output::bytes(reading.up),
        output::bytes(reading.down)
    );
    crate::output::out!("paid      {}", output::amount(paid(session), &token));
    crate::output::out!("lost      {}", output::bytes(session.lost));
    crate::output::out!("receipts  {count}, signed by both");
    for row in rows {
        crate::output::out!(
            "  #{:<5} up {:<14} down {:<14} total {:<14} {}",
            row["sequence"],
            row["up"],
            row["down"],
            row["amount"].as_str().unwrap_or_default(),
            if row["signatures_valid"] == true { "valid" } else { "INVALID SIGNATURE" }
        );
    }
    Ok(())
}

fn summary(session: &KnownSession) -> Value {
    let agreement = &session.agreement;
    let reading = session.payment.map(|payment| payment.reading).unwrap_or_default();
    json!({
        "session": agreement.session, "side": session.role, "peer": session.peer.to_string(),
        "channel": agreement.channel(), "started_ms": session.started, "paid_for": reading,
        "paid": paid(session), "receipts": session.receipts, "lost_bytes": session.lost,
        "state": state(session), "statement": session.statement,
    })
}

fn side(role: Role) -> &'static str {
    match role {
        Role::Payer => "consumer",
        Role::Payee => "provider",
    }
}

fn state(session: &KnownSession) -> &'static str {
    if session.statement.is_some() { "settled" } else { "open or broken off" }
}
