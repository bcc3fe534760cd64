//! `sparewire wallet device rotate`: another authorizer takes over, and channels move to it.
//!
//! Killed at any step and called again, it goes on: the next key is durable before anything names
//! it, what is asked of the chain is in the journal before it is sent, and which channels are left
//! to move is what the chain and the store say. Only the last step puts the key in its place, and
//! called after that it does nothing: a key that took over and served in no session yet is not replaced
//! unless that is asked for, as no channel of it could move.

use std::{collections::VecDeque, path::Path, sync::Arc};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use sparewire_core::{Address, Amount, ChannelId, NodeId, Signature, Signer};
use sparewire_node::{
    identity::Identity,
    store::{KnownChannel, Store},
};
use sparewire_protocol::{
    ChannelConfig, ChannelFacts, ChannelStatus, Claim, Delegation, Role, Terms,
    settlement::{Chain, ChainError, Intent, Outcome, Standing, TransactionSummary},
};
use sparewire_wallet::NodeKeys;

use crate::{
    closing, delegation,
    hint::Hint,
    home::{DELEGATION_SECS, Home, clock, key_error, password},
    output,
    side::Side,
};

/// Most channels that one transaction moves, at about 63,000 gas each (`contracts/snapshots`).
const MOVES_MAX: usize = 50;

/// A channel that is closed, with its provider's agreement, and opened again under the next key.
struct Move {
    channel: KnownChannel,
    close: (Claim, Signature),
    /// Nothing where what is left in it would pay nobody.
    open: Option<(ChannelConfig, Amount)>,
}

pub(crate) async fn run(
    home: &Home,
    unilateral: bool,
    again: bool,
    password_file: Option<&Path>,
    as_json: bool,
) -> Result<()> {
    let dir = home.keys_dir();
    ensure!(
        dir.exists(),
        Hint::new(format!("there are no keys in {}", dir.display()))
            .hint("make them with `sparewire wallet new`")
    );
    refuse_beneficiary(home)?;
    let password = password(password_file, false)?;
    // The store's lock first, so that no running node signs with the key that goes.
    let side = Side::open_with(home, async || home.keys_under(password.clone()).await).await?;
    let old = side.node.identity.authorizer.address();
    if !again && has_just_taken_over(&*side.store, &dir, old)? {
        eprintln!("to replace it all the same: `sparewire wallet device rotate --again`");
        if as_json {
            let none: [ChannelId; 0] = [];
            return output::json(&json!({
                "authorizer": old, "before": null, "moved": none, "left": none,
                "transactions": none,
            }));
        }
        output::out!(
            "authorizer {old} has taken over and served in no session yet: nothing is done"
        );
        return Ok(());
    }
    let (keys_dir, known) = (dir.clone(), password.clone());
    let next =
        tokio::task::spawn_blocking(move || NodeKeys::next_authorizer(&keys_dir, &known)).await?;
    let next: Arc<dyn Signer> = Arc::new(next.map_err(key_error)?);
    let identity = Identity::delegate(
        &*side.node.wallet,
        Arc::clone(&side.node.identity.device),
        Arc::clone(&next),
        &side.chain.domain(),
        clock()(),
        DELEGATION_SECS,
    )?;
    let mut outcome = revoke(&side, &identity, old).await?;
    outcome.transactions.extend(carry_cap(&side, old, next.address()).await?.transactions);
    let (moves, mut left) = agreed_moves(&side, &identity).await?;
    let Moved { moved, left: more, transactions } =
        perform(&*side.chain, &*side.store, moves).await?;
    left.extend(more);
    outcome.transactions.extend(transactions);
    for (channel, reason) in &left {
        let then = match unilateral {
            true => {
                let start = Intent::StartClose { config: channel.config };
                match side.chain.perform(&start).await {
                    Ok(started) => {
                        outcome.transactions.extend(started.transactions);
                        "it is closing; `channel close` returns the rest after the withdraw delay"
                    }
                    // Whatever is the matter with one channel, the key is replaced.
                    Err(ChainError::Reverted { .. }) => {
                        "nor does the contract let it be left now; `channel list` shows where it stands"
                    }
                    Err(error) => return Err(error.into()),
                }
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
            "warning: this node sells as well: channels that pay it name the old authorizer. Their payers have to open others, and what they promised is entrusted to no watchtower any more: claim it now with `sparewire settle`. Reward money for towers stays under the old authorizer: `watch withdraw` takes it back"
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

/// Another wallet's word names the authorizer that would go, and nobody here can take it back: the
/// node would not start, and whoever stole the key would still be believed.
fn refuse_beneficiary(home: &Home) -> Result<()> {
    if home.config.provider.delegation.is_empty() {
        return Ok(());
    }
    let old = NodeKeys::peek(&home.keys_dir()).map_err(key_error)?.authorizer;
    let wallet = match delegation::configured(home) {
        Ok(Some(signed)) => signed.body.wallet.to_string(),
        _ => "WALLET".to_owned(), // the file says nothing
    };
    bail!(
        Hint::new(format!(
            "this node is paid to another wallet, {wallet}, whose word names authorizer {old} and would go on to count for it"
        ))
        .hint(format!(
            "have that wallet revoke it: `sparewire wallet device ask --wallet {wallet} --authorizer {old}`, `wallet sign` where its key is, `wallet device relay`. Then empty [provider] delegation in config.toml and call this again; then ask for its word for the new authorizer with `wallet delegation request --wallet {wallet}`, import it, and put [provider] delegation back"
        ))
    )
}

/// Whether a rotation is complete and its key has served in no session since, on either side: what
/// is called again then is that rotation, whose end nobody may have seen.
fn has_just_taken_over(store: &dyn Store, keys_dir: &Path, present: Address) -> Result<bool> {
    if NodeKeys::has_next_authorizer(keys_dir) {
        return Ok(false); // it has not got there
    }
    let replaced = NodeKeys::replaced_authorizers(keys_dir).map_err(key_error)?;
    let serves = |config: &ChannelConfig| {
        [config.payer_authorizer, config.payee_authorizer].contains(&present)
    };
    Ok(!replaced.is_empty()
        && !store.sessions()?.iter().any(|session| serves(&session.agreement.config)))
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

/// Caps the next authorizer as the wallet has capped the old one, before channels name it.
async fn carry_cap(side: &Side, old: Address, next: Address) -> Result<Outcome> {
    let Some(keys) = side.registry else { return Ok(Outcome::default()) };
    let (chain, token) = (&side.chain, side.token.address);
    let of = |authorizer| chain.cap(keys, chain.wallet(), authorizer, token);
    match of(old).await? {
        Some(cap) if of(next).await? != Some(cap) => {
            Ok(chain.perform(&Intent::SetCap { keys, authorizer: next, token, cap }).await?)
        }
        _ => Ok(Outcome::default()),
    }
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
        let asking = closing::ask(side, identity, &channel, facts.reserved, None).await;
        let terms = closing::last_session(&*side.store, &channel)?;
        let terms = terms.map(|session| session.agreement.terms);
        let next = |close| to_next(&channel, close, &facts, terms.as_ref(), authorizer);
        match asking.and_then(next) {
            Ok(one) => moves.push(one),
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

/// What becomes of a channel that its provider agrees to close. What is left is put into another one
/// where the provider would serve over that by the newest `terms` that we know of it; else it goes
/// back to our deposit with the close.
fn to_next(
    channel: &KnownChannel,
    close: (Claim, Signature),
    facts: &ChannelFacts,
    terms: Option<&Terms>,
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
        bail!("the chain says that it holds less than was promised over it");
    };
    let is_taken = terms.is_none_or(|terms| {
        rest >= terms.channel_min
            && config.payee == terms.payee
            && config.payee_authorizer == terms.payee_authorizer
            && config.token == terms.token
            && config.withdraw_delay_secs >= terms.withdraw_delay_secs_min
    });
    let open = (is_taken && rest > Amount::ZERO).then_some((config, rest));
    Ok(Move { channel: channel.clone(), close, open })
}

/// What came of the moves.
#[derive(Default)]
struct Moved {
    moved: Vec<ChannelId>,
    /// What the contract does not carry out, and why.
    left: Vec<Left>,
    transactions: Vec<TransactionSummary>,
}

/// Closes and opens, each channel with its successor in one transaction, and many of them together.
/// Where the contract refuses, each moves by itself: a provider can have closed its channel meanwhile,
/// and is not to hold up the others.
async fn perform(chain: &dyn Chain, store: &dyn Store, mut moves: Vec<Move>) -> Result<Moved> {
    let domain = chain.domain();
    let mut done = Moved::default();
    let mut parts = VecDeque::new();
    while !moves.is_empty() {
        parts.push_back(moves.drain(..moves.len().min(MOVES_MAX)).collect::<Vec<_>>());
    }
    while let Some(part) = parts.pop_front() {
        let closes = part.iter().map(|one| one.close).collect();
        let opens: Vec<_> = part.iter().filter_map(|one| one.open).collect();
        // Remembered before they are opened: a crash in between leaves names without money, not
        // money without names.
        for (config, _) in &opens {
            store.keep_channel(Role::Payer, &domain, config)?;
        }
        match chain.perform(&Intent::Move { closes, opens }).await {
            Ok(outcome) => {
                done.transactions.extend(outcome.transactions);
                done.moved.extend(part.iter().map(|one| one.channel.id));
            }
            Err(error @ ChainError::Reverted { .. }) if part.len() == 1 => {
                let of = part.into_iter().map(|one| (one.channel, error.to_string()));
                done.left.extend(of);
            }
            Err(ChainError::Reverted { .. }) => {
                part.into_iter().rev().for_each(|one| parts.push_front(vec![one]));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use sparewire_core::{Domain, Price, Timestamp};
    use sparewire_node::store::SqliteStore;
    use sparewire_protocol::{
        CountingRule, CreditRule, Service,
        settlement::{Funds, Head, Quote, TokenInfo},
    };

    use super::*;

    /// A chain on which some channels cannot be closed, and that may fall silent.
    struct Contrary {
        closed: Vec<ChannelId>,
        silent_after: usize,
        done: Mutex<Vec<usize>>,
    }

    fn silent<T>() -> Result<T, ChainError> {
        let (endpoint, reason) = ("node".to_owned(), "silent".to_owned());
        Err(ChainError::Unreachable { endpoint, reason })
    }

    #[async_trait]
    impl Chain for Contrary {
        fn domain(&self) -> Domain {
            Domain { chain_id: 1, contract: Address::repeat_byte(9) }
        }
        fn wallet(&self) -> Address {
            Address::repeat_byte(1)
        }
        async fn head(&self) -> Result<Head, ChainError> {
            silent()
        }
        async fn channel(&self, _: ChannelId) -> Result<Option<ChannelFacts>, ChainError> {
            silent()
        }
        async fn funds(&self, _: Address, _: Address) -> Result<Funds, ChainError> {
            silent()
        }
        async fn token(&self, _: Address) -> Result<TokenInfo, ChainError> {
            silent()
        }
        async fn quote(&self, _: &Intent) -> Result<Quote, ChainError> {
            silent()
        }
        async fn perform(&self, intent: &Intent) -> Result<Outcome, ChainError> {
            let Intent::Move { closes, opens } = intent else { return silent() };
            assert_eq!(closes.len(), opens.len(), "each with its successor");
            let mut done = self.done.lock().unwrap();
            if done.len() == self.silent_after {
                return silent();
            }
            let domain = self.domain();
            if closes.iter().any(|(claim, _)| self.closed.contains(&claim.config.id(&domain))) {
                let reason = "the channel is closed".to_owned();
                return Err(ChainError::Reverted { what: "move", reason });
            }
            done.push(closes.len());
            Ok(Outcome::default())
        }
        async fn resume(&self) -> Result<usize, ChainError> {
            Ok(0)
        }
    }

    fn moves(chain: &Contrary, number: u64) -> Vec<Move> {
        let mut bytes = [1; 65];
        bytes[64] = 27;
        let signature = Signature::from_bytes(bytes).unwrap();
        let of = |salt| {
            let config = ChannelConfig {
                payer: chain.wallet(),
                payer_authorizer: Address::repeat_byte(2),
                payee: Address::repeat_byte(3),
                payee_authorizer: Address::repeat_byte(4),
                token: Address::repeat_byte(5),
                withdraw_delay_secs: 900,
                salt,
            };
            let domain = chain.domain();
            let channel = KnownChannel {
                id: config.id(&domain),
                role: Role::Payer,
                domain,
                config,
                payment: None,
                agreed: None,
                frozen: false,
            };
            let next = ChannelConfig { payer_authorizer: Address::repeat_byte(6), ..config };
            let claim = Claim { config, amount: Amount::ZERO, signature };
            Move { channel, close: (claim, signature), open: Some((next, Amount::MAX)) }
        };
        (0..number).map(of).collect()
    }

    #[test]
    fn what_its_provider_would_not_serve_over_goes_back_to_the_deposit() {
        let chain = Contrary { closed: vec![], silent_after: 0, done: Mutex::default() };
        let Move { channel, close, .. } = moves(&chain, 1).remove(0);
        let next = Address::repeat_byte(6);
        let units = |units| Amount::new(units).unwrap();
        let open = |reserved, claimed, terms: Option<&Terms>| {
            let (reserved, claimed) = (units(reserved), units(claimed));
            let facts = ChannelFacts { reserved, claimed, status: ChannelStatus::Open };
            to_next(&channel, close, &facts, terms, next).map(|one| one.open)
        };
        let ChannelConfig { payee, payee_authorizer, token, withdraw_delay_secs, .. } =
            channel.config;
        let terms = Terms {
            provider: NodeId::default(),
            service: Service::ExitTcp,
            counting: CountingRule::StreamPayload,
            price: Price::FREE,
            credit: CreditRule::default(),
            domain: chain.domain(),
            token,
            payee,
            payee_authorizer,
            withdraw_delay_secs_min: withdraw_delay_secs,
            channel_min: units(40),
            issued: Timestamp::from_ms(1),
            expires: Timestamp::from_ms(2),
        };
        let (config, rest) = open(100, 60, Some(&terms)).unwrap().unwrap();
        assert_eq!((config.payer_authorizer, config.payee, rest), (next, payee, units(40)));
        assert_eq!(open(100, 61, Some(&terms)).unwrap(), None, "less than it asks of channels");
        assert_eq!(open(100, 100, None).unwrap(), None, "nothing");
        assert!(open(100, 61, None).unwrap().is_some(), "it is not known what it asks");
        // It is paid to another wallet now.
        let moved = Terms { payee: next, ..terms };
        assert_eq!(open(100, 0, Some(&moved)).unwrap(), None);
        let longer = Terms { withdraw_delay_secs_min: withdraw_delay_secs + 1, ..terms };
        assert_eq!(open(100, 0, Some(&longer)).unwrap(), None);
        assert!(open(100, 101, Some(&terms)).is_err());
    }

    #[tokio::test]
    async fn a_channel_that_its_provider_closed_meanwhile_holds_up_no_other_move() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("store.sqlite")).unwrap();
        let mut chain = Contrary { closed: vec![], silent_after: 99, done: Mutex::default() };
        let ids: Vec<_> = moves(&chain, 60).iter().map(|one| one.channel.id).collect();
        chain.closed = vec![ids[1], ids[55]];
        let moved = perform(&chain, &store, moves(&chain, 60)).await.unwrap();
        let others = |id: &&ChannelId| !chain.closed.contains(id);
        assert_eq!(moved.moved, ids.iter().filter(others).copied().collect::<Vec<_>>());
        let left: Vec<_> = moved.left.iter().map(|(channel, _)| channel.id).collect();
        assert_eq!(left, chain.closed);
        assert!(moved.left[0].1.contains("the channel is closed"), "{}", moved.left[0].1);

        // A chain that says nothing has refused nothing: that is not the end of it.
        let chain = Contrary { closed: vec![], silent_after: 1, done: Mutex::default() };
        assert!(perform(&chain, &store, moves(&chain, 60)).await.is_err());
        assert_eq!(*chain.done.lock().unwrap(), [50]);
    }
}
