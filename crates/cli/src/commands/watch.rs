//! `sparewire watch`: watchtowers. Watch over others' channels, and have yours watched.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Result, bail, ensure};
use clap::Subcommand;
use serde_json::{Value, json};
use sparewire_core::{Address, Amount};
use sparewire_node::{
    identity::Identity,
    tower::{TowerService, TowerStore},
};
use sparewire_protocol::{
    ChannelConfig, Kept,
    settlement::{Chain, Intent, RewardFacts, TokenInfo},
    watch::{Charge, Stage},
};
use sparewire_wallet::NodeKeys;

use crate::{
    assemble,
    console::{Console, Shown},
    delegation,
    hint::Hint,
    home::{Home, Node, key_error, known_token, token_info},
    metrics::{self, Figure},
    output,
    side::Side,
};

/// Watch over others' channels, and have yours watched.
#[derive(Debug, Subcommand)]
pub(crate) enum WatchCommand {
    /// Keep other providers' newest vouchers, and claim for them when their payers leave.
    Serve {
        /// UDP address to listen on.
        #[arg(long)]
        listen: Option<SocketAddr>,
        /// Where Prometheus metrics are served.
        #[arg(long)]
        metrics: Option<SocketAddr>,
        /// A file with the keystore's password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// What is watched here for others, and what towers said that they watch for you.
    List,
    /// Put tokens aside for the rewards of your watchtowers.
    Fund {
        /// How much, in the token.
        amount: String,
        /// A file with the password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// Take reward money back: the first call announces it to towers, a call 30 days later pays it
    /// out. Also what lies under authorizers that this node's has taken over from.
    Withdraw {
        /// Only what lies under this authorizer of your wallet: an address, say of a machine that is
        /// lost.
        #[arg(long)]
        authorizer: Option<Address>,
        /// A file with the password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
}

pub(crate) async fn run(command: WatchCommand, mut home: Home, json: bool) -> Result<()> {
    match command {
        WatchCommand::Serve { listen, metrics, password_file } => {
            home.config.watch.listen = listen.unwrap_or(home.config.watch.listen);
            serve(&home, metrics, password_file, json).await
        }
        WatchCommand::List => list(&home, json).await,
        WatchCommand::Fund { amount, password_file } => {
            let purse = Purse::open(&home, password_file).await?;
            let more = Amount::parse(&amount, purse.info.decimals)?;
            // It backs the appointments of channels that pay this wallet.
            let payee = delegation::identity(&home, &purse.own)?.wallet();
            let Purse { towers, authorizer, .. } = purse;
            let (token, amount) = (purse.info.address, more);
            let deposit = Intent::DepositReward { towers, payee, authorizer, token, amount };
            purse.chain.perform(&deposit).await?;
            if payee != purse.own.wallet() {
                eprintln!("it is {payee}'s from now on: only that wallet can take it back");
            }
            let RewardFacts { covered, .. } = purse.facts(payee, authorizer).await?;
            if json {
                return output::json(&json!({ "deposited": more, "covered": covered }));
            }
            let (more, covered) =
                (output::amount(more, &purse.info), output::amount(covered, &purse.info));
            output::out!("put {more} aside for rewards; {covered} in all");
            Ok(())
        }
        WatchCommand::Withdraw { authorizer, password_file } => {
            withdraw(&home, authorizer, password_file, json).await
        }
    }
}

async fn serve(
    home: &Home,
    metrics: Option<SocketAddr>,
    password_file: Option<PathBuf>,
    json: bool,
) -> Result<()> {
    let metrics_at = metrics::addr(metrics, &home.config.metrics)?;
    let (side, carrier) = Side::open_to_stay(home, password_file.as_deref()).await?;
    let (tower, endpoint) = assemble::tower(home, &side).await?;
    let address = endpoint.address().to_string();
    let wallet = side.node.wallet.address();
    let shown = Watcher { tower: Arc::clone(&tower), address: address.clone(), wallet };
    let console = Console::open(home, metrics_at, shown, Some(carrier)).await?;
    let funds = side.chain.funds(wallet, side.token.address).await?;
    if funds.native_wei == 0 {
        eprintln!("warning: {wallet} has nothing to pay gas with; send it some");
    }
    let reward = &home.config.watch.reward_min;
    console.ready(
        json,
        &address,
        &json!({ "address": address, "wallet": wallet }),
        &format!(
            "watching for {reward} {} a channel; a provider puts this address into [provider] towers",
            side.token.symbol
        ),
    )?;
    let run = |shutdown| async move {
        tower.run(shutdown).await;
        endpoint.close().await;
    };
    let cut = "nothing that was acknowledged is lost; the next `sparewire watch serve` goes on";
    console.run(run, "stopping; nobody is watched until the next start…", cut).await
}

/// A running tower, to be shown.
#[derive(Clone)]
struct Watcher {
    tower: Arc<TowerService>,
    address: String,
    wallet: Address,
}

impl Watcher {
    fn count(&self, stage: Stage) -> usize {
        self.tower.watched().iter().filter(|(_, at)| *at == stage).count()
    }
}

impl Shown for Watcher {
    fn status(&self) -> Result<Value> {
        Ok(json!({
            "role": "watchtower",
            "address": self.address,
            "wallet": self.wallet,
            "watched": self.tower.watched().len(),
            "leaving": self.count(Stage::Leaving),
            "acting": self.count(Stage::Acting),
            "defended": self.count(Stage::Defended),
        }))
    }

    fn figures(&self) -> Vec<Figure> {
        let count = |stage| self.count(stage) as f64;
        vec![
            Figure {
                name: "watched_channels",
                help: "Channels watched for others",
                value: self.tower.watched().len() as f64,
            },
            Figure {
                name: "watched_leaving",
                help: "Of these, channels whose payer leaves and that wait for another's turn",
                value: count(Stage::Leaving),
            },
            Figure {
                name: "watched_acting",
                help: "Of these, channels for which a transaction is under way",
                value: count(Stage::Acting),
            },
            Figure {
                name: "watched_defended",
                help: "Of these, channels that were defended here and whose reward is not paid yet",
                value: count(Stage::Defended),
            },
        ]
    }

    async fn settle(&self) -> Result<Value> {
        bail!(
            Hint::new("a watchtower has nothing of its own to settle")
                .hint("rewards are collected by themselves when a defended channel can be closed")
        )
    }

    async fn plan(&self) -> Result<serde_json::Value> {
        self.settle().await
    }
}

async fn list(home: &Home, as_json: bool) -> Result<()> {
    let store = TowerStore::open_to_read(&home.watch_path())?;
    let (charges, kept) = match &store {
        Some(store) => (store.charges()?, store.acknowledgements()?),
        None => Default::default(),
    };
    let kept: Vec<Kept> = kept.into_iter().map(|(kept, _)| kept).collect();
    if as_json {
        let watching = |charge: &Charge| {
            let promise = &charge.entrust.appointment.body;
            json!({
                "channel": promise.channel, "client": charge.client, "payee": promise.payee,
                "amount": promise.amount, "reward": promise.reward,
                "reward_token": promise.token, "expiry": promise.expiry_secs,
                "turn": charge.entrust.turn, "turns": charge.entrust.turns,
                "since_ms": charge.since.as_ms(),
            })
        };
        let watched = |kept: &Kept| {
            json!({
                "channel": kept.channel, "tower": kept.tower, "amount": kept.amount,
                "reward": kept.reward, "expiry": kept.expiry_secs, "turn": kept.turn.0,
                "turns": kept.turn.1, "time_ms": kept.time.as_ms(),
            })
        };
        return output::json(&json!({
            "watching": charges.iter().map(watching).collect::<Vec<_>>(),
            "watched_by": kept.iter().map(watched).collect::<Vec<_>>(),
        }));
    }
    if charges.is_empty() && kept.is_empty() {
        eprintln!(
            "nothing yet; `sparewire watch serve` watches for others, [provider] towers has your channels watched"
        );
        return Ok(());
    }
    let (_, token) = home.network()?;
    let info = token_info(home, token).await;
    for Charge { client, entrust, .. } in &charges {
        let promise = &entrust.appointment.body;
        output::out!(
            "watching   {} for {}: {}, reward {}",
            output::short(&promise.channel),
            output::short(client),
            output::amount(promise.amount, &info),
            output::amount(promise.reward, &info)
        );
    }
    for kept in &kept {
        output::out!(
            "watched by {} over {}: {}, reward {}",
            output::short(&kept.tower),
            output::short(&kept.channel),
            output::amount(kept.amount, &info),
            output::amount(kept.reward, &info)
        );
    }
    Ok(())
}

/// Our reward money, and who moves it.
struct Purse {
    chain: Arc<dyn Chain>,
    towers: Address,
    authorizer: Address,
    /// With this node's own wallet, which pays.
    own: Identity,
    info: TokenInfo,
}

impl Purse {
    async fn open(home: &Home, password_file: Option<PathBuf>) -> Result<Self> {
        let towers = home.towers()?;
        if towers == Address::ZERO {
            bail!(
                Hint::new("no contract for watchtowers' rewards is known on this chain")
                    .hint("set [chain] towers in config.toml")
            );
        }
        let (domain, token) = home.network()?;
        let node = Node::new(home.keys(password_file.as_deref()).await?, &domain)?;
        let chain = home.connect(Arc::clone(&node.wallet)).await?;
        let info = known_token(&*chain, token).await?;
        let own = node.identity;
        Ok(Self { chain, towers, authorizer: own.authorizer.address(), own, info })
    }

    async fn facts(&self, payee: Address, payee_authorizer: Address) -> Result<RewardFacts> {
        // Reward money is kept by payee, authorizer and token; the other fields name a channel.
        let config = ChannelConfig {
            payer: Address::ZERO,
            payer_authorizer: Address::ZERO,
            payee,
            payee_authorizer,
            token: self.info.address,
            withdraw_delay_secs: 0,
            salt: 0,
        };
        Ok(self.chain.reward(self.towers, &config, self.info.address).await?)
    }
}

async fn withdraw(
    home: &Home,
    named: Option<Address>,
    password_file: Option<PathBuf>,
    json: bool,
) -> Result<()> {
    let purse = Purse::open(home, password_file).await?;
    let own = purse.own.wallet();
    let mut authorizers = vec![named.unwrap_or(purse.authorizer)];
    if named.is_none() {
        authorizers.extend(NodeKeys::replaced_authorizers(&home.keys_dir()).map_err(key_error)?);
    }
    let mut said = Vec::new();
    for &authorizer in &authorizers {
        let Some(step) = take_back(&purse, authorizer).await? else { continue };
        let present = authorizer == purse.authorizer;
        said.push(if present { step } else { format!("under {authorizer}: {step}") });
    }
    if said.is_empty()
        && let Some(signed) = delegation::configured(home)?
    {
        let payee = signed.body.wallet;
        let theirs = match payee == own {
            true => Amount::ZERO,
            false => purse.facts(payee, authorizers[0]).await?.balance,
        };
        ensure!(
            theirs == Amount::ZERO,
            Hint::new(format!(
                "the reward money, {}, is {payee}'s, and only that wallet can take it back",
                output::amount(theirs, &purse.info)
            ))
            .hint("call `announceWithdrawal` and `withdraw` of [chain] towers with its key")
        );
    }
    if said.is_empty() {
        said.push("there is no reward money".to_owned());
    }
    let said = said.join("\n");
    if json {
        let reward = purse.facts(own, authorizers[0]).await?;
        return output::json(&json!({ "said": said, "reward": reward }));
    }
    output::out!("{said}");
    Ok(())
}

/// Takes the next step to the reward money that lies under one authorizer of our wallet, and tells
/// what it was; `None` where nothing lies there.
async fn take_back(purse: &Purse, authorizer: Address) -> Result<Option<String>> {
    let (towers, token) = (purse.towers, purse.info.address);
    let RewardFacts { balance, withdrawal_due_secs: due, .. } =
        purse.facts(purse.own.wallet(), authorizer).await?;
    if balance == Amount::ZERO {
        return Ok(None);
    }
    let now = purse.chain.head().await?.time_secs;
    Ok(Some(if due == 0 {
        let amount = balance;
        let announce = Intent::AnnounceRewardWithdrawal { towers, authorizer, token, amount };
        purse.chain.perform(&announce).await?;
        "announced; towers count on it for 30 more days: call again after that".to_owned()
    } else if now < due {
        format!("announced; call again in {} s", due - now)
    } else {
        purse.chain.perform(&Intent::WithdrawReward { towers, authorizer, token }).await?;
        "paid out to your wallet".to_owned()
    }))
}
