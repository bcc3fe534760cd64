//! `sparewire wallet device rotate`: another authorizer takes over, and channels move to it.
//!
//! Killed at any step and called again, it goes on: the next key is durable before anything names
//! it, what is asked of the chain is in the journal before it is sent, and which channels are left
//! to move is what the chain and the store say. Only the last step puts the key in its place.

use std::{path::Path, sync::Arc};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use sparewire_core::{Address, Amount, ChannelId, NodeId, Signature, Signer};
use sparewire_node::{identity::Identity, store::KnownChannel};
use sparewire_protocol::{
    ChannelConfig, ChannelFacts, ChannelStatus, Claim, Delegation, Role,
    settlement::{Intent, Outcome, Standing},
};
use sparewire_wallet::NodeKeys;

use crate::{
    closing,
    hint::Hint,
    home::{DELEGATION_SECS, Home, clock, key_error, password},
    output,
    side::Side,
};

/// Most channels that one transaction moves, at about 63,000 gas each (`contracts/snapshots`).
const MOVES_MAX: usize = 50;

/// A channel that is closed, with its provider's agreement, and opened again under the next key.
struct Move {
    from: ChannelId,
    close: (Claim, Signature),
    /// Nothing where nothing is left in it.
    open: Option<(ChannelConfig, Amount)>,
}

pub(crate) async fn run(
    home: &Home,
    unilateral: bool,
    password_file: Option<&Path>,
    as_json: bool,
) -> Result<()> {
    let dir = home.keys_dir();
    ensure!(
        dir.exists(),
        Hint::new(format!("there are no keys in {}", dir.display()))
            .hint("make them with `sparewire wallet new`")
    );
    let password = password(password_file, false)?;
    // The store's lock first, so that no running node signs with the key that goes.
    let side = Side::open_with(home, async || home.keys_under(password.clone()).await).await?;
    let (keys_dir, known) = (dir.clone(), password.clone());
    let next =
        tokio::task::spawn_blocking(move || NodeKeys::next_authorizer(&keys_dir, &known)).await?;
    let next: Arc<dyn Signer> = Arc::new(next.map_err(key_error)?);
    let old = side.node.identity.authorizer.address();
    let identity = Identity::delegate(
        &*side.node.wallet,
        Arc::clone(&side.node.identity.device),
        Arc::clone(&next),
        &side.chain.domain(),
        clock()(),
        DELEGATION_SECS,
    )?;
    let mut outcome = revoke(&side, &identity, old).await?;
    let (moves, left) = agreed_moves(&side, &identity).await?;
    let moved: Vec<ChannelId> = moves.iter().map(|one| one.from).collect();
    outcome.transactions.extend(perform(&side, moves).await?.transactions);
    for (channel, reason) in &left {
        let then = match unilateral {
            true => {
                let start = Intent::StartClose { config: channel.config };
                outcome.transactions.extend(side.chain.perform(&start).await?.transactions);
                "it is closing; `channel close` returns the rest after the withdraw delay"
            }
            false => "it stays under the old authorizer; `channel close` ends it",
        };
        eprintln!("channel {} is not moved: {reason}; {then}", output::short(&channel.id));
    }
    let selling = side.store.channels(Role::Payee)?.iter().any(|channel| {
        channel.config.payee_authorizer == old && channel.domain == side.chain.domain()
    });
    if selling {
        eprintln!(
            "warning: this node sells as well: channels that pay it name the old authorizer. What they promised is claimed as before, but their payers have to open others"
        );
    }
    tokio::task::spawn_blocking(move || NodeKeys::use_next_authorizer(&dir))
        .await?
        .map_err(key_error)?;
    if as_json {
        let left: Vec<_> = left.iter().map(|(channel, _)| channel.id).collect();
        return output::json(&json!({
            "authorizer": next.address(), "before": old, "moved": moved, "left": left,
            "transactions": outcome.transactions,
        }));
    }
    output::out!("authorizer {} takes over from {old}", next.address());
    output::out!("{} channels moved, {} left", moved.len(), left.len());
    eprintln!("a backup from before does not hold the new key: make another one");
    Ok(())
}

/// Revokes the old authorizer where there is a registry; the next one is registered there where the
/// old one was. Done before, it is not done again.
async fn revoke(side: &Side, identity: &Identity, old: Address) -> Result<Outcome> {
    let Some(keys) = side.registry else {
        eprintln!(
            "there is no registry of keys on this chain: peers are not told that the old key is gone"
        );
        return Ok(Outcome::default());
    };
    let present = side.node.identity.delegation.body;
    // By itself: a device that is revoked says nothing of the authorizer.
    let alone = Delegation { device: NodeId::default(), ..present };
    if side.chain.standing(keys, &alone).await? == Standing::Revoked {
        return Ok(Outcome::default());
    }
    let intent = match side.chain.standing(keys, &present).await? {
        Standing::Registered | Standing::Expired => {
            Intent::Rotate { keys, revoked: old, delegation: identity.delegation.body }
        }
        Standing::Unknown | Standing::Revoked => {
            Intent::Revoke { keys, device: None, authorizer: Some(old) }
        }
    };
    let outcome = side.chain.perform(&intent).await?;
    ensure!(
        side.chain.standing(keys, &alone).await? == Standing::Revoked,
        Hint::new(format!("the contract at {keys} took the call and revoked nothing"))
            .hint("check that [chain] keys names the registry of keys")
    );
    Ok(outcome)
}

type Left = (KnownChannel, String);

/// Asks the provider of each open channel that names another authorizer; tells which channels can
/// move, and why the others cannot.
async fn agreed_moves(side: &Side, identity: &Identity) -> Result<(Vec<Move>, Vec<Left>)> {
    let (domain, wallet) = (side.chain.domain(), identity.wallet());
    let authorizer = identity.authorizer.address();
    let (mut moves, mut left) = (Vec::new(), Vec::new());
    let mut gone: Vec<Address> = Vec::new();
    for channel in side.store.channels(Role::Payer)? {
        let config = channel.config;
        if channel.domain != domain
            || config.payer != wallet
            || config.payer_authorizer == authorizer
        {
            continue;
        }
        let Some(facts) = side.chain.channel(channel.id).await? else { continue };
        if facts.status != ChannelStatus::Open {
            continue; // on its way out already, or gone
        }
        // Its payee is not given a new one by the way (A1).
        if channel.frozen {
            left.push((channel, "its provider signed two receipts of one number".to_owned()));
            continue;
        }
        // A provider that does not answer is not waited for once for each of its channels.
        if gone.contains(&config.payee_authorizer) {
            left.push((channel, "its provider is not reached".to_owned()));
            continue;
        }
        match closing::ask(side, identity, &channel, None).await {
            Ok(close) => moves.push(to_next(channel.id, close, &facts, authorizer)?),
            Err(error) => {
                if !closing::is_answer(&error) {
                    gone.push(config.payee_authorizer);
                }
                left.push((channel, output::tame(&format!("{error:#}"))));
            }
        }
    }
    Ok((moves, left))
}

fn to_next(
    from: ChannelId,
    close: (Claim, Signature),
    facts: &ChannelFacts,
    authorizer: Address,
) -> Result<Move> {
    let claim = &close.0;
    let mut salt = [0; 8];
    if let Err(error) = getrandom::fill(&mut salt) {
        bail!("the system gives no randomness ({error})");
    }
    let config = ChannelConfig {
        payer_authorizer: authorizer,
        salt: u64::from_le_bytes(salt),
        ..claim.config
    };
    // The invariant: no more is put aside than what comes back, so that the rest of our deposit is
    // not touched, and the payee is credited all that it was promised before.
    let credited = claim.amount.max(facts.claimed);
    let Some(rest) = facts.reserved.checked_sub(credited) else {
        bail!("the chain says that channel {from} holds less than was promised over it; ask again");
    };
    Ok(Move { from, close, open: (rest > Amount::ZERO).then_some((config, rest)) })
}

/// Closes and opens, each channel with its successor in one transaction.
async fn perform(side: &Side, moves: Vec<Move>) -> Result<Outcome> {
    let domain = side.chain.domain();
    let mut outcome = Outcome::default();
    for part in moves.chunks(MOVES_MAX) {
        let closes = part.iter().map(|one| one.close).collect();
        let opens: Vec<_> = part.iter().filter_map(|one| one.open).collect();
        // Remembered before they are opened: a crash in between leaves names without money, not
        // money without names.
        for (config, _) in &opens {
            side.store.keep_channel(Role::Payer, &domain, config)?;
        }
        let done = side.chain.perform(&Intent::Move { closes, opens }).await?;
        outcome.transactions.extend(done.transactions);
    }
    Ok(outcome)
}
