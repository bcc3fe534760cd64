//! Runs histories, says what broke, and replays it.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sparewire_sim::{
    drill,
    plan::{FAULTS, Plan},
    relay::{RELAY_VICES, RelayVice},
    run::{self, Report},
    vice::{CONSUMER_VICES, ConsumerVice, PROVIDER_VICES, ProviderVice},
    watcher::{WATCHER_VICES, WatcherVice},
};

const USAGE: &str = "\
sparewire-sim run [--seed N | --fresh] [--count N] [--secs N | --hours N] [--threads N] [--pairs]
    histories from a seed on (0), or from one never tried, until a limit is reached
sparewire-sim replay SEED | FILE
    one history, of a seed or of a plan that was kept, made short where it breaks something: its
    plan, and what happens in it
sparewire-sim drill [--count N] [--threads N]
    every way to cheat that a history can play, N times (50): what the honest lost by it, and what
    they may lose at most";

/// A soak says how it stands so often.
const PROGRESS: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("run") => many(&arguments),
        Some("replay") => replay(&arguments),
        Some("drill") => cheat(&arguments),
        _ => usage("what?"),
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("{why}\n{USAGE}");
    ExitCode::from(2)
}

fn many(arguments: &[String]) -> ExitCode {
    let known = ["--seed", "--count", "--secs", "--hours", "--threads"];
    let values = match figures(arguments, &known, &["--fresh", "--pairs"]) {
        Ok(values) => values,
        Err(why) => return usage(&why),
    };
    let value = |name: &str| values.get(name).copied();
    let threads = value("--threads").unwrap_or_else(threads);
    let seed = if arguments.iter().any(|argument| argument == "--fresh") {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (now.as_micros() as u64) << 8
    } else {
        value("--seed").unwrap_or(0)
    };
    let hours = value("--hours").map(|hours| Duration::from_secs(hours * 3_600));
    let limit = hours.or(value("--secs").map(Duration::from_secs));
    let count = value("--count").unwrap_or(u64::MAX);
    if limit.is_none() && count == u64::MAX {
        return usage("for how long? (--count, --secs or --hours)");
    }
    println!("histories from seed {seed} on");
    let mut all = Report::default();
    while all.failures.is_empty()
        && all.coverage.histories < count
        && limit.is_none_or(|limit| all.took < limit)
    {
        let left = limit.map_or(PROGRESS, |limit| limit.saturating_sub(all.took)).min(PROGRESS);
        let done = all.coverage.histories;
        let report = run::run_many(
            seed.wrapping_add(done),
            count.saturating_sub(done),
            threads as usize,
            Some(left),
        );
        all.coverage.add(&report.coverage);
        all.failures.extend(report.failures);
        all.took += report.took;
        eprintln!("{} histories in {:.0} s", all.coverage.histories, all.took.as_secs_f64());
    }
    report(&all, arguments.iter().any(|argument| argument == "--pairs"));
    ExitCode::from(u8::from(!all.failures.is_empty()))
}

/// The numbers among the arguments, by name; the last of a name counts.
fn figures<'a>(
    arguments: &'a [String],
    known: &[&str],
    flags: &[&str],
) -> Result<BTreeMap<&'a str, u64>, String> {
    let mut values = BTreeMap::new();
    let mut rest = arguments.iter().skip(1);
    while let Some(name) = rest.next() {
        if flags.contains(&name.as_str()) {
            continue;
        }
        let value = rest.next().and_then(|value| value.parse().ok());
        let value = value.filter(|_| known.contains(&name.as_str()));
        values.insert(name.as_str(), value.ok_or_else(|| format!("{name}?"))?);
    }
    Ok(values)
}

/// As many threads as there are processors.
fn threads() -> u64 {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64
}

fn cheat(arguments: &[String]) -> ExitCode {
    let values = match figures(arguments, &["--count", "--threads"], &[]) {
        Ok(values) => values,
        Err(why) => return usage(&why),
    };
    let count = values.get("--count").copied().unwrap_or(50);
    let threads = values.get("--threads").copied().unwrap_or_else(threads);
    let outcomes = drill::drill(count as usize, threads as usize);
    println!("{}", drill::head());
    outcomes.iter().for_each(|outcome| print!("{outcome}"));
    let failed = outcomes.iter().filter(|outcome| !outcome.holds()).count();
    match failed {
        0 => println!("{} ways to cheat, none cost more than its bound", outcomes.len()),
        _ => println!("FAILED: {failed} of {} ways to cheat", outcomes.len()),
    }
    ExitCode::from(u8::from(failed > 0))
}

fn report(report: &Report, pairs: bool) {
    let coverage = &report.coverage;
    println!("{coverage}");
    let vices: Vec<_> = CONSUMER_VICES
        .map(ConsumerVice::name)
        .into_iter()
        .chain(PROVIDER_VICES.map(ProviderVice::name))
        .chain(WATCHER_VICES.map(WatcherVice::name))
        .chain(RELAY_VICES.map(RelayVice::name))
        .chain(FAULTS)
        .collect();
    let never = coverage.never_met(&vices, &FAULTS);
    println!("{:>12}  pairs of a vice or fault with a fault that never met", never.len());
    if pairs {
        never.iter().for_each(|pair| println!("              {pair}"));
    }
    let secs = report.took.as_secs_f64();
    println!(
        "{} histories in {secs:.1} s, {:.0} a second",
        coverage.histories,
        coverage.histories as f64 / secs
    );
    for failure in &report.failures {
        println!("FAILED seed {}: {:.400}", failure.seed, failure.what);
        println!("       SEED={} just sim-replay", failure.seed);
    }
}

fn replay(arguments: &[String]) -> ExitCode {
    let Some(which) = arguments.get(1) else { return usage("which seed, or plan?") };
    let mut plan = match which.parse() {
        Ok(seed) => Plan::from_seed(seed),
        Err(_) => match std::fs::read_to_string(which) {
            Err(error) => return usage(&format!("{which}: {error}")),
            Ok(text) => match Plan::from_text(&text) {
                Ok(plan) => plan,
                Err(error) => return usage(&format!("{which}: {error}")),
            },
        },
    };
    if let Err(failure) = run::run(plan.clone()) {
        eprintln!("{}\nmaking it short…", failure.what);
        plan = run::shrink(&plan, &failure.what);
    }
    print!("{}", plan.to_text());
    let (lines, failure) = run::trace(plan);
    lines.iter().for_each(|line| println!("{line}"));
    match failure {
        Some(failure) => {
            println!("FAILED {}", failure.what);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}
