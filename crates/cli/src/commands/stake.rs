//! `sparewire stake`: what a provider bonds as a sign that it does not lie, its way back, and the
//! report of one that did.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use sparewire_chain::EvmChain;
use sparewire_core::{Address, Amount, B256, Signer, keccak256};
use sparewire_node::{identity::Identity, store::Store};
use sparewire_protocol::{
    settlement::{Chain, ChainError, Intent, TokenInfo},
    stake::{BondFacts, Contradiction, Slashing},
};
use sparewire_wallet::NodeKeys;

use super::session::only;
use crate::{
    dates::Day,
    delegation,
    hint::Hint,
    home::{Home, Node, key_error, known_token},
    output, set_back,
};

/// How long block time may take to come as far as it is waited for: many times the 5 minutes between
/// a commitment and its report.
const WAIT_MAX: Duration = Duration::from_secs(3_600);
/// What the contract lets pass between a commitment and its report (`REVEAL_DELAY`), in seconds.
const REVEAL_SECS: u64 = 5 * 60;
/// What is signed for a report's salt begins with this.
const SALT_TAG: &[u8] = b"sparewire report salt v1";
/// What the contract says to a commitment that it has.
const COMMITTED_BEFORE: &str = "committed to before";
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What a provider puts at stake, and what is taken from one that contradicts itself.
#[derive(Debug, Subcommand)]
pub(crate) enum StakeCommand {
    /// What is bonded: all of it, what others can rely on, and what is leaving.
    Show {
        /// Of this wallet; without it, of the one that this node is paid to.
        #[arg(long)]
        of: Option<Address>,
    },
    /// Bond more for the wallet that this node is paid to. Whoever shows that its authorizer signed
    /// two receipts with one number has a penalty taken from it. Where a beneficiary is paid, the
    /// bond is the beneficiary's, and only that wallet's key takes it back.
    Bond {
        /// How much, in the token.
        amount: String,
        /// Whose the bond is to be: it must be named where it is not this node's own wallet.
        #[arg(long)]
        holder: Option<Address>,
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Announce that so much of this wallet's bond is to leave. It can be taken back 30 days later,
    /// and is at stake until then. Another amount begins the 30 days anew; 0 takes an announcement
    /// back.
    Leave {
        /// How much, in the token.
        amount: String,
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Take back what was announced 30 days ago.
    Unbond {
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Show the contract the two receipts by which a provider contradicted itself: a penalty is taken
    /// from its bond, at most half of it is yours, the rest is burned. It takes two transactions, 5
    /// minutes apart; broken off in between and asked for again, it goes on.
    Report {
        /// The session that the receipts are of: its id, or enough of its beginning.
        session: String,
        #[command(flatten)]
        unlock: Unlock,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Unlock {
    /// A file with the keystore's password.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

pub(crate) async fn run(command: StakeCommand, home: &Home, json: bool) -> Result<()> {
    match command {
        StakeCommand::Show { of } => show(of, home, json).await,
        StakeCommand::Bond { amount, holder, unlock } => {
            bond(&amount, holder, &unlock, home, json).await
        }
        StakeCommand::Leave { amount, unlock } => leave(&amount, &unlock, home, json).await,
        StakeCommand::Unbond { unlock } => unbond(&unlock, home, json).await,
        StakeCommand::Report { session, unlock } => report(&session, &unlock, home, json).await,
    }
}

async fn show(of: Option<Address>, home: &Home, json: bool) -> Result<()> {
    let stake = home.stake()?;
    let holder = match (of, delegation::configured(home)?) {
        (Some(named), _) => named,
        (None, Some(signed)) => signed.body.wallet,
        (None, None) => NodeKeys::peek(&home.keys_dir()).map_err(key_error)?.wallet,
    };
    let chain = home.look().await?;
    let facts = chain.bond(stake, holder).await?;
    let token = known_token(&chain, facts.token).await?;
    tell(stake, holder, &facts, &token, json)
}

/// A bond for people, or for programs: amounts are in the token's smallest unit then.
fn tell(
    stake: Address,
    holder: Address,
    facts: &BondFacts,
    token: &TokenInfo,
    json: bool,
) -> Result<()> {
    if json {
        return output::json(&json!({ "stake": stake, "holder": holder, "bond": facts }));
    }
    let money = |amount| output::amount(amount, token);
    output::out!("stake    {stake}; evidence takes {}", money(facts.penalty));
    output::out!("wallet   {holder}");
    output::out!("bonded   {}", money(facts.bonded));
    output::out!("covered  {}, which others can rely on", money(facts.covered));
    if facts.due_secs > 0 {
        let day = Day::of_secs(facts.due_secs);
        output::out!(
            "leaving  {}, from {day} on; at stake until it is taken back",
            money(facts.leaving)
        );
    }
    if facts.locked > Amount::ZERO {
        output::out!("locked   {}, by disputes", money(facts.locked));
    }
    Ok(())
}

/// This node's wallet at the contract that holds bonds.
struct Purse {
    chain: Arc<EvmChain>,
    stake: Address,
    own: Identity,
    wallet: Arc<dyn Signer>,
    token: TokenInfo,
}

impl Purse {
    async fn open(home: &Home, unlock: &Unlock) -> Result<Self> {
        let stake = home.stake()?;
        let (domain, _) = home.network()?;
        let node = Node::new(home.keys(unlock.password_file.as_deref()).await?, &domain)?;
        let chain = home.connect(Arc::clone(&node.wallet)).await?;
        let facts = chain.bond(stake, chain.wallet()).await?;
        let token = known_token(&*chain, facts.token).await?;
        Ok(Self { chain, stake, own: node.identity, wallet: node.wallet, token })
    }

    async fn tell(&self, holder: Address, json: bool) -> Result<()> {
        let facts = self.chain.bond(self.stake, holder).await?;
        tell(self.stake, holder, &facts, &self.token, json)
    }

    /// What this node's own wallet has bonded.
    ///
    /// # Errors
    /// Where it has nothing: what another wallet has, only that wallet can take back.
    async fn own_bond(&self, home: &Home) -> Result<BondFacts> {
        let own = self.chain.wallet();
        let facts = self.chain.bond(self.stake, own).await?;
        if facts.bonded > Amount::ZERO {
            return Ok(facts);
        }
        let beneficiary = delegation::configured(home)?.map(|signed| signed.body.wallet);
        for holder in beneficiary.into_iter().filter(|holder| *holder != own) {
            let theirs = self.chain.bond(self.stake, holder).await?.bonded;
            ensure!(
                theirs == Amount::ZERO,
                Hint::new(format!(
                    "the bond, {}, is {holder}'s, and only that wallet can take it back",
                    output::amount(theirs, &self.token)
                ))
                .hint("call `announceLeaving` and `unbond` of [chain] stake with its key")
            );
        }
        Err(Hint::new(format!("{own} has nothing bonded"))
            .hint("`sparewire stake bond AMOUNT` bonds something")
            .into())
    }
}

async fn bond(
    amount: &str,
    named: Option<Address>,
    unlock: &Unlock,
    home: &Home,
    json: bool,
) -> Result<()> {
    let under_way = home.chain_work()?.under_way.into_iter();
    let earlier = under_way.filter(|it| it.intent == "bond").map(|it| it.since_secs).max();
    let purse = Purse::open(home, unlock).await?;
    let amount = Amount::parse(amount, purse.token.decimals)?;
    ensure!(amount > Amount::ZERO, "there is nothing to bond in an amount of zero");
    // What the authorizer signs, the wallet answers for that named it.
    let holder = delegation::identity(home, &purse.own)?.wallet();
    if let Some(store) = home.store_to_read()? {
        set_back::check_unbonded(&store, purse.own.authorizer.address())?;
    }
    let (stake, token) = (purse.stake, purse.token.address);
    // Whoever asks again for what was broken off wants one bond, not two.
    if earlier.is_some() && purse.chain.journal().last_planned("bond")? >= earlier {
        eprintln!(
            "the bond of an earlier call, which was broken off, is put up now; nothing more was: ask again if you want more"
        );
        return purse.tell(holder, json).await;
    }
    ensure!(
        named.unwrap_or(purse.own.wallet()) == holder,
        Hint::new(format!(
            "the bond would be {holder}'s, which this node is paid to: only that wallet's key could take it back"
        ))
        .hint(format!("give --holder {holder} if that is what you want"))
    );
    purse.chain.perform(&Intent::Bond { stake, holder, token, amount }).await?;
    purse.tell(holder, json).await
}

async fn leave(amount: &str, unlock: &Unlock, home: &Home, json: bool) -> Result<()> {
    let purse = Purse::open(home, unlock).await?;
    let amount = Amount::parse(amount, purse.token.decimals)?;
    let facts = purse.own_bond(home).await?;
    ensure!(
        amount <= facts.bonded,
        Hint::new(format!(
            "only {} are bonded, {} cannot leave",
            output::amount(facts.bonded, &purse.token),
            output::amount(amount, &purse.token)
        ))
        .hint("`sparewire stake show` tells what is there")
    );
    purse.chain.perform(&Intent::AnnounceLeaving { stake: purse.stake, amount }).await?;
    purse.tell(purse.chain.wallet(), json).await
}

async fn unbond(unlock: &Unlock, home: &Home, json: bool) -> Result<()> {
    let purse = Purse::open(home, unlock).await?;
    let before = purse.own_bond(home).await?;
    ensure!(
        before.due_secs > 0,
        Hint::new("nothing of the bond is announced to leave").hint(
            "`sparewire stake leave AMOUNT` announces it; 30 days later it can be taken back"
        )
    );
    let now = purse.chain.head().await?.time_secs;
    ensure!(
        now >= before.due_secs,
        Hint::new(format!(
            "the bond cannot be taken back before {}, in {} s of block time",
            Day::of_secs(before.due_secs),
            before.due_secs - now
        ))
        .hint("call again then; it is at stake until it is taken back")
    );
    purse.chain.perform(&Intent::Unbond { stake: purse.stake }).await?;
    purse.tell(purse.chain.wallet(), json).await
}

async fn report(session: &str, unlock: &Unlock, home: &Home, json: bool) -> Result<()> {
    let kept = kept_contradictions(session, home)?;
    let purse = Purse::open(home, unlock).await?;
    let (chain, stake, own) = (&purse.chain, purse.stake, purse.chain.wallet());
    let (mut earlier, mut refused) = (None, None);
    for contradiction in kept {
        let evidence = contradiction.evidence();
        let salt = salt(&*purse.wallet, evidence)?;
        let commitment = contradiction.commitment(own, salt);
        let facts = chain.report_facts(stake, evidence, commitment).await?;
        if facts.used {
            // Ours may have become final without anybody being told.
            earlier = earlier.or(purse.reported(evidence, commitment).await?);
            continue;
        }
        let contradiction = match purse.reportable(contradiction, facts.ready_secs).await? {
            Ok(reportable) => reportable,
            // Other evidence may be taken still.
            Err(why) => {
                refused = Some(why);
                continue;
            }
        };
        let ready_secs = purse.commit(evidence, commitment).await?;
        wait_until(chain, ready_secs).await?;
        let contradiction = Box::new(contradiction);
        chain.perform(&Intent::ReportReceipts { stake, contradiction, salt }).await?;
        let done = purse.reported(evidence, commitment).await?;
        let done = done.ok_or_else(|| {
            Hint::new("somebody else reported this first")
                .hint("the provider lost its penalty all the same; there is no second reward")
        })?;
        return purse.tell_report(&done, json);
    }
    if let Some(done) = earlier {
        return purse.tell_report(&done, json);
    }
    Err(refused
        .unwrap_or_else(|| {
            Hint::new(format!("what the provider of session {session} did was reported before"))
                .hint("`sparewire stake show --of` tells what is left of its bond")
        })
        .into())
}

/// What was kept of a provider that contradicted itself; not empty.
fn kept_contradictions(session: &str, home: &Home) -> Result<Vec<Contradiction>> {
    let store = home.store_to_read()?;
    let sessions = store.as_ref().map_or(Ok(Vec::new()), |store| store.sessions())?;
    let agreement = &only(&sessions, session)?.agreement;
    let (domain, _) = home.network()?;
    ensure!(
        *agreement.domain() == domain,
        Hint::new(format!("this session is of chain {}", agreement.domain().chain_id))
            .hint("give its --chain-id and --contract")
    );
    let kept = store.map_or(Ok(Vec::new()), |store| store.contradictions(agreement.session))?;
    ensure!(
        !kept.is_empty(),
        Hint::new("there is no evidence: no two receipts of this session that the provider signed have one number")
            .hint("`sparewire session explain` tells what is wrong with a session")
    );
    Ok(kept)
}

/// Hides our commitment's evidence from others until it is shown. It follows from the wallet's key,
/// whose signatures are deterministic (RFC 6979) and which no rotation replaces, so that a report
/// that was broken off finds it again. What is signed is no EIP-712 digest: it means nothing to any
/// contract.
fn salt(wallet: &dyn Signer, evidence: B256) -> Result<B256> {
    let digest = keccak256([SALT_TAG, evidence.as_slice()].concat());
    Ok(keccak256(wallet.sign_digest(digest)?.to_bytes()))
}

/// Returns when block time has come so far.
async fn wait_until(chain: &EvmChain, ready_secs: u64) -> Result<()> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let left = ready_secs.saturating_sub(chain.head().await?.time_secs);
        if left == 0 {
            return Ok(());
        }
        if !told {
            eprintln!(
                "committed; in {left} s of block time the evidence is shown. If you end this, ask again later: it goes on"
            );
            told = true;
        }
        ensure!(
            started.elapsed() < WAIT_MAX,
            Hint::new(format!("{left} s of block time are still missing: the chain stands still"))
                .hint("ask again later: it goes on")
        );
        tokio::time::sleep(Duration::from_secs(left).min(LOOK)).await;
    }
}

/// A report of ours that is final.
struct Reported {
    slashing: Slashing,
    /// What committing and reporting cost together, as far as this journal has both.
    gas_used: u64,
    fee_wei: u128,
}

impl Purse {
    /// Evidence as the contract takes it, or why it would not: nobody pays gas for that.
    /// `ready_secs` is when it may be shown, where it was committed to before.
    async fn reportable(
        &self,
        contradiction: Contradiction,
        ready_secs: Option<u64>,
    ) -> Result<Result<Contradiction, Hint>> {
        let provider = contradiction.provider();
        let liability = self.chain.liability(self.stake, &contradiction.delegation().body).await?;
        let now = self.chain.head().await?.time_secs;
        if ready_secs.unwrap_or(now + REVEAL_SECS).max(now) > liability.until_secs {
            return Ok(Err(Hint::new(format!(
                "{provider} answers for the key that signed this until {} only: the contract takes no report of it any more",
                Day::of_secs(liability.until_secs)
            ))));
        }
        let bond = self.chain.bond(self.stake, provider).await?;
        let within = bond.bonded.saturating_sub(bond.locked);
        if within == Amount::ZERO {
            return Ok(Err(Hint::new(format!("{provider} has nothing bonded that could be taken"))
                .hint("the evidence is kept: report it when there is a bond again, see `sparewire stake show --of`")));
        }
        let shown = |amount| output::amount(amount, &self.token);
        if within < bond.penalty {
            eprintln!(
                "only {} can be taken, and half of it is yours; gas is paid all the same",
                shown(within)
            );
        }
        if bond.due_secs > 0 && bond.due_secs <= now + REVEAL_SECS {
            eprintln!(
                "the provider can take {} back before the evidence is shown",
                shown(bond.leaving)
            );
        }
        Ok(Ok(contradiction.registered_until(liability.expiry_secs)))
    }

    /// Commits to evidence; returns from when on it may be shown, in seconds of block time.
    async fn commit(&self, evidence: B256, commitment: B256) -> Result<u64> {
        let (chain, stake) = (&self.chain, self.stake);
        let copied = match chain.perform(&Intent::CommitReport { stake, commitment }).await {
            Ok(_) => false,
            // Who copied it out of the nodes' pools has committed for us: whose it is, is in it.
            Err(ChainError::Reverted { reason, .. }) if reason.contains(COMMITTED_BEFORE) => true,
            Err(error) => return Err(error.into()),
        };
        let started = Instant::now();
        loop {
            let facts = chain.report_facts(stake, evidence, commitment).await?;
            if let Some(ready_secs) = facts.ready_secs {
                return Ok(ready_secs);
            }
            // What another sent may not be final yet.
            ensure!(
                copied && started.elapsed() < WAIT_MAX,
                Hint::new(format!("the contract at {stake} knows nothing of our commitment"))
                    .hint("check that [chain] stake names the contract that holds bonds")
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Our report of `evidence`, by our journal and the contract's word; `None` where it is not ours.
    async fn reported(&self, evidence: B256, commitment: B256) -> Result<Option<Reported>> {
        let spendings = self.chain.journal().spendings()?;
        let ours = |kind: &'static str| {
            spendings.iter().rev().filter(move |it| it.kind == kind && it.succeeded)
        };
        for spending in ours("report_receipts") {
            let block = spending.transaction.block;
            let found = self.chain.slashing(self.stake, evidence, block).await?;
            let Some(slashing) = found.filter(|it| it.reporter == self.chain.wallet()) else {
                continue;
            };
            let (mut gas_used, mut fee_wei) =
                (spending.transaction.gas_used, spending.transaction.fee_wei);
            for commit in ours("commit_report").map(|it| &it.transaction) {
                if self.chain.committed_in(self.stake, commitment, commit.block).await? {
                    gas_used += commit.gas_used;
                    fee_wei = fee_wei.saturating_add(commit.fee_wei);
                    break;
                }
            }
            return Ok(Some(Reported { slashing, gas_used, fee_wei }));
        }
        Ok(None)
    }

    fn tell_report(&self, reported: &Reported, json: bool) -> Result<()> {
        let Reported { slashing, gas_used, fee_wei } = reported;
        if json {
            return output::json(&json!({
                "slashed": slashing, "gas_used": gas_used, "fee_wei": fee_wei.to_string(),
            }));
        }
        let money = |amount| output::amount(amount, &self.token);
        output::out!("reported {}", slashing.provider);
        output::out!("reward   {}, to your wallet", money(slashing.reward));
        output::out!("burned   {}", money(slashing.burned));
        output::out!("cost     {} gas, {fee_wei} wei", output::grouped(*gas_used));
        Ok(())
    }
}
