//! `sparewire demo content`: a paid swarm on this machine.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sparewire_content::{Format, Metainfo};
use sparewire_core::{Amount, ByteCount, Price};
use sparewire_node::{
    buyer::Buyer,
    content::{AddTorrent, Buying, Engine, EngineConfig, Money, Sale, Torrent, TorrentState},
    seller::Seller,
};
use sparewire_protocol::{Role, settlement::Chain};

use super::{bar, loopback, market::Party};
use crate::{
    assemble,
    config::{ConsumerConfig, ContentConfig, ProviderConfig, SettleConfig},
    content::{Recipe, make},
    home::clock,
    network, output,
};

/// How many download, and serve each other.
const DOWNLOADERS: usize = 4;
/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Money that each wallet gets for each unit that the sample costs: every one of up to
/// [`DOWNLOADERS`] sellers is paid over a channel of its own.
const PURSE: u64 = 16;

/// One seeder and four downloaders that pay it and each other; who paid and earned what adds up to
/// nothing.
#[derive(Debug, Args)]
pub(crate) struct ContentDemoArgs {
    /// How much is shared.
    #[arg(long, default_value = "64MiB")]
    size: String,
    /// Price per GiB in the test token, of all sellers.
    #[arg(long, default_value = "0.02")]
    price: String,
}

/// One row of the table at the end, from the party's own store and from the chain.
#[derive(Clone, Debug, Serialize)]
struct Row {
    who: String,
    /// Bytes that it paid for, and was paid for.
    bought_bytes: ByteCount,
    sold_bytes: ByteCount,
    /// In the token's smallest units.
    paid: Amount,
    earned: Amount,
    /// What it owed beside that, and did not promise because as much was owed to it.
    set_off: Amount,
    /// What the chain credited it: final.
    claimed: Amount,
    /// Gas that it spent, on deposits, channels and claims.
    gas: u64,
}

/// The table.
#[derive(Debug, Serialize)]
struct Table {
    rows: Vec<Row>,
    sample_bytes: ByteCount,
    secs: f64,
    agree: bool,
    disagreements: Vec<String>,
}

/// Runs it in `dir`, which is the caller's to remove.
pub(super) async fn run(args: &ContentDemoArgs, dir: &Path, json: bool) -> Result<()> {
    let size = ByteCount::parse(&args.size).context("--size")?;
    ensure!(size > ByteCount::ZERO, "--size must be above 0");
    let price = Price::parse(&args.price, network::TOKEN_DECIMALS).context("--price")?;
    ensure!(price > Price::FREE, "--price must be above 0: what costs nothing is not paid for");
    let say = |text: &str| {
        if !json {
            eprintln!("{text}");
        }
    };
    say("starting an embedded EVM chain and deploying the contracts…");
    let embedded = network::open(network::chain_file(dir), true).await?;
    say("making the sample and its torrent…");
    let shared = dir.join("shared");
    let (sample, at) = (shared.join("sample.bin"), dir.join("sample.torrent"));
    let made = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&shared)?;
        fill(&sample, size)?;
        let out = Some(at);
        let (piece_len, trackers, private) = (None, Vec::new(), false);
        let recipe = Recipe { format: Format::Hybrid, piece_len, trackers, private, out };
        make(&sample, &recipe, &|_, _| {})
    });
    let made = made.await??;
    let cost = price.owed(size).context("--price times --size is more than a channel holds")?;
    let purse = Amount::new(cost.get().saturating_mul(PURSE.into())).unwrap_or(Amount::MAX);
    let purse = purse.max(Amount::new(64_000_000).unwrap_or_default());

    say("starting one seeder and four downloaders…");
    let mut traders = Vec::new();
    for number in 0..=DOWNLOADERS {
        let who = if number == 0 { "seeder".into() } else { format!("downloader {number}") };
        let root = if number == 0 { made.root.clone() } else { dir.join(&who) };
        let at = dir.join(format!("party-{number}"));
        let party = Party::open(&at, false, &embedded, purse).await?;
        traders.push(Trader::start(who, party, root, &args.price, cost).await?);
    }
    for trader in &traders {
        trader.add(&made.metainfo, price, trader.root != made.root).await?;
    }
    let addresses: Vec<_> = traders.iter().map(|trader| trader.engine.listens()).collect();
    for (at, trader) in traders.iter().enumerate().skip(1) {
        let others = addresses.iter().enumerate().filter(|(other, _)| *other != at);
        let torrent = trader.torrent().await?;
        others.for_each(|(_, address)| torrent.add_peer(*address));
    }
    let began = Instant::now();
    watch(&traders, size, json).await?;
    let secs = began.elapsed().as_secs_f64();

    say("settling all sessions, and claiming what was earned on chain…");
    let mut rows = Vec::new();
    for trader in &traders {
        trader.torrent().await?.stop();
    }
    for trader in &traders {
        trader.settled().await?;
    }
    for trader in &traders {
        rows.push(trader.row().await?);
    }
    let table = Table::new(rows, size, secs);
    match json {
        true => output::json(&table)?,
        false => table.print(&traders[0]),
    }
    ensure!(table.agree, "the figures do not agree");
    Ok(())
}

/// Bytes that no disk compresses, the same in each run.
fn fill(path: &Path, size: ByteCount) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut random = fastrand::Rng::with_seed(size.get());
    let (mut left, mut chunk) = (size.get(), vec![0; 1 << 16]);
    while left > 0 {
        random.fill(&mut chunk);
        let part = left.min(chunk.len() as u64) as usize;
        file.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    Ok(file.flush()?)
}

/// One of the swarm.
struct Trader {
    who: String,
    party: Party,
    engine: Engine,
    seller: Arc<Seller>,
    root: PathBuf,
    running: tokio::sync::OnceCell<Arc<Torrent>>,
}

impl Trader {
    async fn start(
        who: String,
        party: Party,
        root: PathBuf,
        price: &str,
        cost: Amount,
    ) -> Result<Self> {
        let side = &party.side;
        let selling =
            assemble::selling(&ProviderConfig::default(), &SettleConfig::default(), side)?;
        let twice = cost.checked_add(cost).context("--price is too high")?;
        let amount = twice.max(Amount::new(1_000_000).unwrap_or_default());
        let decimals = network::TOKEN_DECIMALS;
        let buying = ConsumerConfig {
            price_max: price.to_owned(),
            channel_amount: amount.display(decimals),
            budget: Amount::MAX.display(decimals),
            ..ConsumerConfig::default()
        };
        let price_max = Price::parse(price, decimals)?;
        let buying = assemble::buying(&buying, price_max, side)?;
        let (store, chain) = (&side.store, &side.chain);
        let (identity, device) = (&side.node.identity, Arc::clone(&side.node.identity.device));
        let buyer =
            Buyer::new(buying, identity.clone(), Arc::clone(store), Arc::clone(chain), clock());
        let seller =
            Seller::new(selling, identity.clone(), Arc::clone(store), Arc::clone(chain), clock());
        let seller = Arc::new(seller);
        let money = Money::new(Some(Arc::new(buyer)), Some(Arc::clone(&seller)), device);
        let config = EngineConfig { money: Some(Arc::new(money)), ..EngineConfig::new(loopback()) };
        let engine = Engine::start(config).await?;
        std::fs::create_dir_all(&root)?;
        Ok(Self { who, party, engine, seller, root, running: tokio::sync::OnceCell::new() })
    }

    /// Sells the torrent, and buys what of it is missing.
    async fn add(&self, metainfo: &Metainfo, price: Price, buys: bool) -> Result<()> {
        let credit = assemble::content_credit(&ContentConfig::default())?;
        let add = AddTorrent {
            sale: Some(Sale { price, credit }),
            free: false,
            buying: if buys { Buying { free: false, price_max: price } } else { Buying::default() },
            ..AddTorrent::new(metainfo.clone(), self.root.clone())
        };
        let torrent = self.engine.add(add).await?;
        ensure!(self.running.set(torrent).is_ok(), "added twice");
        Ok(())
    }

    async fn torrent(&self) -> Result<&Arc<Torrent>> {
        self.running.get().context("not added")
    }

    /// Waits until its sessions are settled, and claims what it earned.
    async fn settled(&self) -> Result<()> {
        let mut state = self.torrent().await?.state();
        let stopped = state.wait_for(|state| *state == TorrentState::Stopped);
        tokio::time::timeout(PATIENCE, stopped).await.context("a session does not settle")??;
        self.seller.settler().settle().await?;
        Ok(())
    }

    async fn row(&self) -> Result<Row> {
        let store = &self.party.side.store;
        let mut row = Row {
            who: self.who.clone(),
            bought_bytes: ByteCount::ZERO,
            sold_bytes: ByteCount::ZERO,
            paid: Amount::ZERO,
            earned: Amount::ZERO,
            set_off: Amount::ZERO,
            claimed: Amount::ZERO,
            gas: 0,
        };
        let add = |sum: &mut Amount, more| *sum = sum.checked_add(more).unwrap_or(Amount::MAX);
        let mut owed_to_it = Amount::ZERO;
        for known in store.sessions()? {
            let Some(payment) = known.payment else { continue };
            let bytes = payment.reading.down;
            let amount = payment.voucher.body.amount.saturating_sub(known.agreement.base);
            let set_off = known.agreement.set_off(payment.reading, payment.voucher.body.amount);
            let (counted, money, left_out) = match known.role {
                Role::Payer => (&mut row.bought_bytes, &mut row.paid, &mut row.set_off),
                Role::Payee => (&mut row.sold_bytes, &mut row.earned, &mut owed_to_it),
            };
            add(left_out, set_off.context("a payment is worth more than its reading")?);
            *counted = counted.checked_add(bytes).unwrap_or_default();
            add(money, amount);
        }
        if owed_to_it != row.set_off {
            bail!("{} set off {}, and {owed_to_it} of what it was owed", row.who, row.set_off);
        }
        for channel in store.channels(Role::Payee)? {
            let facts = self.party.chain.channel(channel.id).await?;
            add(&mut row.claimed, facts.map_or(Amount::ZERO, |facts| facts.claimed));
        }
        let done = self.party.chain.done();
        let transactions = done.iter().flat_map(|(_, outcome)| &outcome.transactions);
        row.gas = transactions.map(|transaction| transaction.gas_used).sum();
        Ok(row)
    }
}

/// Waits until all have all.
async fn watch(traders: &[Trader], size: ByteCount, json: bool) -> Result<()> {
    let total = ByteCount::new(size.get().saturating_mul(DOWNLOADERS as u64));
    let bar = bar(total, "four downloads", json);
    let began = Instant::now();
    loop {
        let mut have = 0;
        let mut done = true;
        for trader in &traders[1..] {
            let status = trader.torrent().await?.status();
            have += status.have;
            match status.state {
                TorrentState::Seeding => {}
                TorrentState::Failed(error) => bail!("{}: {error}", trader.who),
                _ => done = false,
            }
            if began.elapsed() > PATIENCE {
                bail!("{} has not come through: {status:?}", trader.who);
            }
        }
        bar.set_position(have);
        if done {
            bar.finish_and_clear();
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Table {
    fn new(rows: Vec<Row>, sample: ByteCount, secs: f64) -> Self {
        let sum = |of: &dyn Fn(&Row) -> Amount| {
            rows.iter().map(of).fold(0_u128, |sum, amount| sum + amount.get())
        };
        let mut disagreements = Vec::new();
        let mut check = |holds: bool, what: &str| {
            if !holds {
                disagreements.push(what.to_owned());
            }
        };
        let earned = sum(&|row| row.earned);
        check(sum(&|row| row.paid) == earned, "what all paid is what all earned");
        check(earned == sum(&|row| row.claimed), "what was earned is claimed on chain");
        let bought = rows[1..].iter().all(|row| row.bought_bytes >= sample);
        check(bought, "each downloader paid for all that it has");
        let agree = disagreements.is_empty();
        Self { rows, sample_bytes: sample, secs, agree, disagreements }
    }

    fn print(&self, trader: &Trader) {
        let token = &trader.party.side.token;
        let mib = |bytes: ByteCount| format!("{:.2} MiB", bytes.get() as f64 / f64::from(1 << 20));
        let signed = |plus: Amount, minus: Amount| match plus.checked_sub(minus) {
            Some(more) => format!("+{}", output::amount(more, token)),
            None => format!("-{}", output::amount(minus.saturating_sub(plus), token)),
        };
        output::out!("");
        output::out!(
            "{:<14} {:>12} {:>12} {:>16} {:>16} {:>16} {:>17} {:>16} {:>9}",
            "",
            "bought",
            "sold",
            "set off",
            "paid",
            "earned",
            "net",
            "claimed on chain",
            "gas"
        );
        for row in &self.rows {
            output::out!(
                "{:<14} {:>12} {:>12} {:>16} {:>16} {:>16} {:>17} {:>16} {:>9}",
                row.who,
                mib(row.bought_bytes),
                mib(row.sold_bytes),
                output::amount(row.set_off, token),
                output::amount(row.paid, token),
                output::amount(row.earned, token),
                signed(row.earned, row.paid),
                output::amount(row.claimed, token),
                output::grouped(row.gas)
            );
        }
        let all = |of: fn(&Row) -> Amount| {
            let sum = |sum: Amount, row| sum.checked_add(of(row)).unwrap_or(Amount::MAX);
            self.rows.iter().fold(Amount::ZERO, sum)
        };
        let (paid, earned) = (all(|row| row.paid), all(|row| row.earned));
        output::out!(
            "{:<14} {:>12} {:>12} {:>16} {:>16} {:>16} {:>17}",
            "together",
            "",
            "",
            "",
            output::amount(paid, token),
            output::amount(earned, token),
            signed(earned, paid)
        );
        output::out!("");
        output::out!(
            "{} by four downloaders in {:.1} s, channels opened on the way; gas is paid beside it",
            mib(ByteCount::new(self.sample_bytes.get().saturating_mul(DOWNLOADERS as u64))),
            self.secs
        );
        output::out!("");
        match self.agree {
            true => output::out!("  All figures agree."),
            false => self.disagreements.iter().for_each(|what| {
                output::out!("  DOES NOT HOLD: {what}");
            }),
        }
    }
}
