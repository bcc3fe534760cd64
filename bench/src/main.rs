//! Measures Sparewire as a user runs it: provider and consumer, or whoever shares and downloads, are
//! processes of their own; origin, application and tracker are this one. Every figure is a ratio within one run, since machines
//! are shared and noisy. `bench/README.md` says how to run it and what was found.

mod content;
mod process;
mod rig;
mod traffic;

use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::time::{Duration, sleep};

use crate::rig::{Path, Rig};

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bulk transfer: metered and paid, against the same path without metering, against a bare
    /// iroh stream; interleaved.
    Path {
        /// MiB in each transfer.
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// How many rounds of the three.
        #[arg(long, default_value_t = 15)]
        pairs: usize,
        /// MiB that are paid for before the first round: credit grows with what was paid.
        #[arg(long, default_value_t = 1152)]
        warm_mib: u64,
    },
    /// A new channel's first transfers, against the same path without metering: what it costs
    /// that credit starts small.
    Cold {
        /// MiB in each transfer.
        #[arg(long, default_value_t = 64)]
        mib: u64,
        /// How many transfers of each kind.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
    },
    /// Many concurrent streams and many short connections through one session.
    Streams {
        /// Streams open at the same time.
        #[arg(long, default_value_t = 1000)]
        concurrent: usize,
        /// Short connections, one request each.
        #[arg(long, default_value_t = 20_000)]
        short: usize,
    },
    /// Latency of a 1-byte echo, paid against unpaid, interleaved.
    Latency {
        /// Echoes of each kind.
        #[arg(long, default_value_t = 20_000)]
        echoes: usize,
    },
    /// A torrent to one or several downloaders: ours paid and unpaid, and other clients;
    /// interleaved.
    Content(content::ContentArgs),
    /// (Started by the others.) An unmetered exit.
    #[command(hide = true)]
    PlainExit,
    /// (Started by the others.) An unmetered proxy.
    #[command(hide = true)]
    PlainProxy { exit: sparewire_node::transport::PeerAddress },
    /// (Started by the others.) Sends bytes over a bare stream to whoever connects.
    #[command(hide = true)]
    BareSend { mib: u64 },
    /// (Started by the others.) Receives them.
    #[command(hide = true)]
    BareReceive { sender: sparewire_node::transport::PeerAddress },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Path { mib, pairs, warm_mib } => path(mib, pairs, warm_mib).await,
        Command::Cold { mib, pairs } => cold(mib, pairs).await,
        Command::Streams { concurrent, short } => streams(concurrent, short).await,
        Command::Latency { echoes } => latency(echoes).await,
        Command::Content(args) => content::run(args).await,
        Command::PlainExit => rig::plain_exit().await,
        Command::PlainProxy { exit } => rig::plain_proxy(exit).await,
        Command::BareSend { mib } => rig::bare_send(mib).await,
        Command::BareReceive { sender } => rig::bare_receive(sender).await,
    }
}

async fn path(mib: u64, pairs: usize, warm_mib: u64) -> Result<()> {
    let bytes = mib << 20;
    let gib = bytes as f64 / (1u64 << 30) as f64;
    let rig = Rig::start().await?;
    let metered = rig.metered().await?;
    let plain = rig.plain().await?;
    traffic::fetch(metered.proxy, rig.source, warm_mib << 20).await?;
    traffic::fetch(plain.proxy, rig.source, 64 << 20).await?;
    println!("round  metered MiB/s  plain MiB/s  ratio  CPU-s/GiB: metered  plain  bare iroh");
    let (mut ratios, mut cpus) = (Vec::new(), [const { Vec::new() }; 3]);
    for round in 0..pairs {
        // The order changes from round to round, so that drift does not favour one.
        let order: [&Path; 2] =
            if round % 2 == 0 { [&metered, &plain] } else { [&plain, &metered] };
        let mut seconds = [0.0; 2];
        for path in order {
            let before = path.cpu_secs()?;
            let took = traffic::fetch(path.proxy, rig.source, bytes).await?;
            let index = usize::from(std::ptr::eq(path, &plain));
            seconds[index] = took;
            cpus[index].push((path.cpu_secs()? - before) / gib);
        }
        cpus[2].push(rig.bare(mib).await? / gib);
        let ratio = seconds[1] / seconds[0];
        ratios.push(ratio);
        println!(
            "{round:>5}  {:>13.0}  {:>11.0}  {ratio:>5.3}  {:>18.2}  {:>5.2}  {:>9.2}",
            mib as f64 / seconds[0],
            mib as f64 / seconds[1],
            cpus[0][round],
            cpus[1][round],
            cpus[2][round]
        );
    }
    // Ratios are taken within each round: the machine's own speed drifts from round to round.
    let each = |of: usize| -> Vec<f64> {
        cpus[0].iter().zip(&cpus[of]).map(|(metered, other)| metered / other).collect()
    };
    print_ratio("throughput, metered / plain", ratios);
    print_ratio("CPU, metered / plain", each(1));
    print_ratio("CPU, metered / bare iroh", each(2));
    let [metered, plain, bare] = cpus.map(|mut of| median(&mut of));
    println!("CPU-s per GiB, medians: metered {metered:.2}, plain {plain:.2}, bare iroh {bare:.2}");
    Ok(())
}

async fn cold(mib: u64, pairs: usize) -> Result<()> {
    let rig = Rig::start().await?;
    let plain = rig.plain().await?;
    traffic::fetch(plain.proxy, rig.source, 64 << 20).await?;
    let mut ratios = Vec::new();
    for _ in 0..pairs {
        let metered = rig.metered().await?; // a new wallet, so a new channel
        let paid = traffic::fetch(metered.proxy, rig.source, mib << 20).await?;
        let unpaid = traffic::fetch(plain.proxy, rig.source, mib << 20).await?;
        ratios.push(unpaid / paid);
        println!(
            "first {mib} MiB: {paid:.3} s metered, {unpaid:.3} s plain, ratio {:.3}",
            unpaid / paid
        );
    }
    println!(
        "throughput of a new channel's first {mib} MiB, metered / plain: {:.3}",
        median(&mut ratios)
    );
    Ok(())
}

async fn streams(concurrent: usize, short: usize) -> Result<()> {
    let rig = Rig::start().await?;
    let metered = rig.metered().await?;
    traffic::fetch(metered.proxy, rig.source, 8 << 20).await?;
    let before = metered.provider_rss_bytes()?;
    let idle = traffic::idle(metered.proxy, rig.echo, concurrent).await?;
    sleep(Duration::from_secs(2)).await;
    let after = metered.provider_rss_bytes()?;
    println!("{concurrent} concurrent streams, each answered: no error");
    println!(
        "provider memory per idle stream: {:.1} KiB",
        after.saturating_sub(before) as f64 / 1024.0 / concurrent as f64
    );
    traffic::answer_all(idle).await?;
    let start = Instant::now();
    traffic::short(metered.proxy, rig.echo, short, 64).await?;
    let took = start.elapsed().as_secs_f64();
    println!(
        "{short} short connections in {took:.1} s ({:.0} a second): no error",
        short as f64 / took
    );
    Ok(())
}

async fn latency(echoes: usize) -> Result<()> {
    let rig = Rig::start().await?;
    let metered = rig.metered().await?;
    let plain = rig.plain().await?;
    let mut paid = traffic::Echo::open(metered.proxy, rig.echo).await?;
    let mut unpaid = traffic::Echo::open(plain.proxy, rig.echo).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..echoes + 1000 {
        // Alternating, each first every second time.
        let (a, b) = if round % 2 == 0 {
            let a = paid.once().await?;
            (a, unpaid.once().await?)
        } else {
            let b = unpaid.once().await?;
            (paid.once().await?, b)
        };
        if round >= 1000 {
            with.push(a);
            without.push(b);
        }
    }
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let (a, b) = (quantile(&mut with, share), quantile(&mut without, share));
        println!("{name}: paid {:.1} us, unpaid {:.1} us, ratio {:.3}", a * 1e6, b * 1e6, a / b);
    }
    Ok(())
}

/// The median and the quartiles of `ratios`.
fn print_ratio(what: &str, mut ratios: Vec<f64>) {
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(&mut ratios, share));
    println!("{what}: {middle:.3} (quartiles {low:.3} to {high:.3}, {} rounds)", ratios.len());
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}
