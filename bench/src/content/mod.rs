//! Torrents from a seeder to downloaders over loopback: ours paid and unpaid, and other clients,
//! all as processes of their own, interleaved.
//!
//! All seeders serve one file. A transfer is timed from the first block that is on a downloader's
//! disk to the last, as the file system counts them, so that neither starting a client nor finding
//! peers counts; CPU time and peaks of memory are those of all processes of the transfer from then
//! until shortly after.
//! Afterwards, outside of what is timed, every byte is compared.

mod client;
mod tracker;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
    net::SocketAddrV4,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sparewire_content::{Builder, Format, Metainfo};
use tokio::time::{Duration, sleep};

pub(crate) use self::client::Other;
use self::{client::Client, tracker::Tracker};
use crate::{
    print_ratio,
    process::{Process, beside},
    quantile,
};

/// The one file of the torrent.
const NAME: &str = "data";
/// How long a transfer may take, and a seeder to get ready.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often is looked whether all is there.
const LOOK: Duration = Duration::from_millis(2);
/// What clients do after the last block counts as CPU time for so long.
const AFTER: Duration = Duration::from_millis(500);
/// A client that uses less of a second than this has nothing to do: it has checked what it has.
const IDLE_SECS: f64 = 0.05;

#[derive(Debug, Args)]
pub(crate) struct ContentArgs {
    /// MiB in the torrent.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Downloaders at a time: they serve each other, too.
    #[arg(long, default_value_t = 1)]
    downloaders: usize,
    /// How often everything is measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Other clients; those that are not installed are told and left out. webtorrent is looked for
    /// in SPAREWIRE_WEBTORRENT, a folder of node modules.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "rqbit,aria2,transmission,webtorrent"
    )]
    peers: Vec<Other>,
    /// Which of our torrents.
    #[arg(long, value_delimiter = ',', default_value = "v1,hybrid,v2",
          value_parser = clap::builder::PossibleValuesParser::new(["v1", "hybrid", "v2"]))]
    formats: Vec<String>,
}

/// What one transfer took.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// From the start of the downloaders' processes.
    whole_secs: f64,
    /// From the first block to the last of the last.
    secs: f64,
    cpu_secs: f64,
    /// Of the process of each kind that had most.
    seeder_peak: u64,
    downloader_peak: u64,
}

/// A client that seeds, and what was measured of its kind.
struct Lane {
    client: Client,
    torrent: PathBuf,
    seeder: Process,
    port: u16,
    found: Vec<Figures>,
    /// A transfer failed: it has no figures of every round.
    broken: bool,
}

struct Bench {
    dir: PathBuf,
    tracker: Tracker,
    rpc: String,
    args: ContentArgs,
}

pub(crate) async fn run(args: ContentArgs) -> Result<()> {
    ensure!(args.mib > 0 && args.downloaders > 0 && args.rounds > 0, "nothing is to be measured");
    let directory = tempfile::tempdir()?;
    let dir = directory.path().to_owned();
    let chain_dir = dir.join("chain");
    let chain_dir = chain_dir.to_str().context("a path in UTF-8")?;
    let serve = ["chain", "serve", "--listen", "127.0.0.1:0", "--data-dir", chain_dir];
    let chain = Process::start(beside("sparewire")?, &serve).await?;
    let rpc = chain.first_line.trim_start_matches("rpc").trim().to_owned();
    let bench = Bench { dir, tracker: Tracker::start().await?, rpc, args };

    let torrents = bench.sample()?;
    let mut lanes = Vec::new();
    for client in bench.clients() {
        let format = client.format();
        let torrent = torrents.iter().find(|(made, _)| *made == format).context("not made")?;
        lanes.push(bench.seed(client, torrent.1.clone()).await?);
    }
    println!(
        "{} MiB to {} downloaders; load average {}",
        bench.args.mib,
        bench.args.downloaders,
        std::fs::read_to_string("/proc/loadavg")?.trim()
    );
    println!("round  client            MB/s  CPU-s/GiB  seconds in all");
    // Round 0 does not count: its channels are new, and credit follows what was paid.
    for round in 0..=bench.args.rounds {
        // Each begins once in a while, so that drift does not favour one.
        let first = round % lanes.len();
        lanes.rotate_left(first);
        for lane in &mut lanes {
            let name = lane.client.name();
            if lane.broken {
                continue;
            }
            let figures = match bench.transfer(lane).await {
                Ok(figures) => figures,
                // Another client's trouble is told, and does not keep us from ours.
                Err(error) if matches!(lane.client, Client::Other(_)) => {
                    println!("{round:>5}  {name:<14}  is left out from now on: {error:#}");
                    lane.broken = true;
                    continue;
                }
                Err(error) => return Err(error.context(name)),
            };
            println!(
                "{round:>5}  {name:<14}  {:>6.0}  {:>9.2}  {:>14.1}",
                bench.rate(&figures),
                bench.cpu(&figures),
                figures.whole_secs
            );
            if round > 0 {
                lane.found.push(figures);
            }
        }
        lanes.rotate_right(first);
    }
    bench.report(&lanes);
    println!("load average {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

impl Bench {
    fn gib(&self) -> f64 {
        (self.args.mib * self.args.downloaders as u64) as f64 / 1024.0
    }

    /// MB a second, of all downloaders together.
    fn rate(&self, figures: &Figures) -> f64 {
        self.gib() * f64::from(1 << 30) / figures.secs / 1e6
    }

    /// CPU seconds per GiB, of both ends.
    fn cpu(&self, figures: &Figures) -> f64 {
        figures.cpu_secs / self.gib()
    }

    fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for format in &self.args.formats {
            let format = match format.as_str() {
                "v1" => Format::V1,
                "v2" => Format::V2,
                _ => Format::Hybrid,
            };
            clients.extend([false, true].map(|paid| Client::Ours { format, paid }));
        }
        for other in &self.args.peers {
            match other.missing() {
                Some(why) => println!("{other:?} is left out: {why}"),
                None => clients.push(Client::Other(*other)),
            }
        }
        clients
    }

    fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// Makes the file, and a torrent of each format.
    fn sample(&self) -> Result<Vec<(Format, Metainfo)>> {
        std::fs::create_dir_all(self.shared())?;
        let mut file = File::create(self.shared().join(NAME))?;
        let builder = |format| -> Result<_> {
            let builder = Builder::file(NAME, self.args.mib << 20)?.format(format);
            // Peers shall be found by the tracker alone.
            Ok((format, builder.private()))
        };
        let formats = [Format::V1, Format::Hybrid, Format::V2];
        let mut builders = formats.into_iter().map(builder).collect::<Result<Vec<_>>>()?;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..self.args.mib {
            // xorshift: what no disk compresses.
            let words = (0..(1 << 20) / 8).flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            let part: Vec<u8> = words.collect();
            file.write_all(&part)?;
            for (_, builder) in &mut builders {
                builder.update(&part)?;
            }
        }
        file.sync_all()?;
        builders.into_iter().map(|(format, made)| Ok((format, made.finish()?))).collect()
    }

    /// Starts a seeder, and waits until it has checked what it has.
    async fn seed(&self, client: Client, mut metainfo: Metainfo) -> Result<Lane> {
        let name = client.name();
        let torrent = self.dir.join(format!("{name}.torrent"));
        metainfo.set_trackers(vec![vec![self.tracker.url(&name)]]);
        std::fs::write(&torrent, metainfo.to_torrent())?;
        let (seeder, port) = self.seeder(client, &torrent).await?;
        let mut lane = Lane { client, torrent, seeder, port, found: Vec::new(), broken: false };
        let began = Instant::now();
        let mut before = 0.0;
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = lane.seeder.cpu_secs()?;
            if now - before < IDLE_SECS && !self.tracker.peers(&name).is_empty() {
                return Ok(lane);
            }
            before = now;
            ensure!(!lane.seeder.has_ended()?, "{name} ended before it seeded");
            ensure!(began.elapsed() < PATIENCE, "{name} does not announce that it seeds");
        }
    }

    async fn seeder(&self, client: Client, torrent: &Path) -> Result<(Process, u16)> {
        let home = self.dir.join(format!("{}-seeder", client.name()));
        client.start(torrent, &self.shared(), &home, true, &[], self).await
    }

    /// One transfer to all downloaders.
    async fn transfer(&self, lane: &mut Lane) -> Result<Figures> {
        let name = lane.client.name();
        let seeds = self.tracker.peers(&name);
        let (mut downloaders, mut ports) = (Vec::new(), vec![lane.port]);
        let began = Instant::now();
        // Nobody has anything to send before all are there: ours derive a key first. (rqbit does not
        // announce itself while its peer stands still.)
        let waits = matches!(lane.client, Client::Ours { .. });
        if waits {
            lane.seeder.stop()?;
        }
        for number in 0..self.args.downloaders {
            let folder = self.dir.join(format!("{name}-{number}"));
            let home = self.dir.join(format!("{name}-{number}-home"));
            let client = lane.client;
            let started = client.start(&lane.torrent, &folder, &home, false, &ports, self).await?;
            let (process, port) = started;
            ports.push(port);
            downloaders.push((process, folder));
        }
        if waits {
            self.are_ready(&name, &seeds, &downloaders, began).await?;
            lane.seeder.go_on()?;
        } else if lane.client.never_dials() {
            // The seeder asks the tracker once, when it starts.
            while self.tracker.peers(&name).difference(&seeds).count() < downloaders.len() {
                ensure!(began.elapsed() < PATIENCE, "a downloader does not announce itself");
                sleep(LOOK).await;
            }
            lane.seeder.interrupt(PATIENCE).await?;
            (lane.seeder, lane.port) = self.seeder(lane.client, &lane.torrent).await?;
        }
        let cpu = |downloaders: &[(Process, PathBuf)]| -> Result<f64> {
            let each = downloaders.iter().map(|(process, _)| process.cpu_secs());
            Ok(lane.seeder.cpu_secs()? + each.sum::<Result<f64>>()?)
        };
        let all = self.args.mib << 20;
        let (mut first, mut last) = (None, None);
        while last.is_none() {
            sleep(LOOK).await;
            let there = downloaders.iter().map(|(_, folder)| written(&folder.join(NAME)));
            let there: Vec<u64> = there.collect();
            if first.is_none() && there.iter().any(|bytes| *bytes > 0) {
                first = Some((Instant::now(), cpu(&downloaders)?));
                // What a client takes to start (ours to open its keys) is over.
                lane.seeder.forget_peak()?;
                downloaders.iter().try_for_each(|(process, _)| process.forget_peak())?;
            }
            if there.iter().all(|bytes| *bytes >= all) {
                last = Some(Instant::now());
            }
            if began.elapsed() > PATIENCE {
                bail!("not all is there after {PATIENCE:?}: {there:?} of {all} bytes");
            }
            for (process, _) in &mut downloaders {
                ensure!(!process.has_ended()?, "a downloader has ended");
            }
        }
        let ((first, cpu_before), last) = first.zip(last).context("nothing came")?;
        sleep(AFTER).await;
        let peaks = downloaders.iter().map(|(process, _)| process.peak_rss_bytes());
        let peaks = peaks.collect::<Result<Vec<_>>>()?;
        let figures = Figures {
            whole_secs: (last - began).as_secs_f64(),
            secs: (last - first).as_secs_f64(),
            cpu_secs: cpu(&downloaders)? - cpu_before,
            seeder_peak: lane.seeder.peak_rss_bytes()?,
            downloader_peak: peaks.into_iter().max().unwrap_or_default(),
        };
        for (number, (mut process, folder)) in downloaders.into_iter().enumerate() {
            same(&self.shared().join(NAME), &folder.join(NAME))?;
            let home = self.dir.join(format!("{name}-{number}-home"));
            if matches!(lane.client, Client::Ours { paid: true, .. }) {
                // Its sessions end as they should, and its channels are there for the next round.
                process.interrupt(PATIENCE).await?;
                std::fs::remove_dir_all(home.join("content"))?;
            } else {
                drop(process);
                std::fs::remove_dir_all(home)?;
            }
            std::fs::remove_dir_all(folder)?;
        }
        self.tracker.keep(&name, seeds);
        Ok(figures)
    }

    /// Waits until downloaders have announced themselves and have nothing more to do (ours derive a
    /// key) than to wait for the seeder.
    async fn are_ready(
        &self,
        name: &str,
        seeds: &BTreeSet<SocketAddrV4>,
        downloaders: &[(Process, PathBuf)],
        began: Instant,
    ) -> Result<()> {
        let used = || -> Result<f64> {
            downloaders.iter().map(|(process, _)| process.cpu_secs()).sum::<Result<f64>>()
        };
        let mut before = 0.0;
        loop {
            let now = used()?;
            let all_there = self.tracker.peers(name).difference(seeds).count() >= downloaders.len();
            if all_there && now - before < IDLE_SECS / 2.0 {
                return Ok(());
            }
            before = now;
            ensure!(began.elapsed() < PATIENCE, "a downloader does not announce itself");
            sleep(Duration::from_millis(300)).await;
        }
    }

    fn report(&self, lanes: &[Lane]) {
        println!(
            "\nmedians (quartiles)  MB/s               CPU-s/GiB  peak MiB: seeder  downloader"
        );
        for lane in lanes.iter().filter(|lane| !lane.broken) {
            let of = |of: &dyn Fn(&Figures) -> f64| {
                let mut values: Vec<f64> = lane.found.iter().map(of).collect();
                [0.25, 0.5, 0.75].map(|share| quantile(&mut values, share))
            };
            let (rate, cpu) = (of(&|f| self.rate(f)), of(&|f| self.cpu(f)));
            let peak = |of: fn(&Figures) -> u64| lane.found.iter().map(of).max().unwrap_or(0) >> 20;
            println!(
                "{:<14} {:>8.0} ({:.0} to {:.0})  {:>8.2} ({:.2} to {:.2})  {:>12}  {:>10}",
                lane.client.name(),
                rate[1],
                rate[0],
                rate[2],
                cpu[1],
                cpu[0],
                cpu[2],
                peak(|f| f.seeder_peak),
                peak(|f| f.downloader_peak),
            );
        }
        println!(
            "\nratios within each round; others have the v1 torrent, and transmission our seeder"
        );
        let found = |client: Client| lanes.iter().find(|lane| lane.client == client);
        let compare = |one: &Lane, other: &Lane| {
            let pairs = || one.found.iter().zip(&other.found);
            let (a, b) = (one.client.name(), other.client.name());
            let rates = pairs().map(|(one, other)| other.secs / one.secs);
            print_ratio(&format!("rate, {a} / {b}"), rates.collect());
            let cpus = pairs().map(|(one, other)| one.cpu_secs / other.cpu_secs);
            print_ratio(&format!("CPU, {a} / {b}"), cpus.collect());
        };
        for format in [Format::V1, Format::Hybrid, Format::V2] {
            let both = [true, false].map(|paid| found(Client::Ours { format, paid }));
            if let [Some(paid), Some(unpaid)] = both {
                compare(paid, unpaid);
            }
            let Some(unpaid) = both[1] else { continue };
            let others = lanes.iter().filter(|lane| matches!(lane.client, Client::Other(_)));
            others.filter(|lane| !lane.broken).for_each(|other| compare(unpaid, other));
        }
    }
}

/// How many bytes of a file were written: holes apart.
fn written(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.blocks() * 512)
}

/// Whether two files have the same bytes.
fn same(one: &Path, other: &Path) -> Result<()> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    ensure!(one.metadata()?.len() == other.metadata()?.len(), "it has another length");
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(());
        }
        other.read_exact(&mut right[..read])?;
        ensure!(left[..read] == right[..read], "it has other bytes");
    }
}
