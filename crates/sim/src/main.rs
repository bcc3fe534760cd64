//! `sparewire-sim`: runs histories, says what broke, and replays it.
//!
//! ```text
//! sparewire-sim run [--seed N] [--count N] [--secs N]   histories from a seed on
//! sparewire-sim replay SEED [--keep 1,4,7]              one of them, made short, with its trace
//! ```

use std::{process::ExitCode, time::Duration};

use sparewire_sim::{plan::Plan, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str| value(name).and_then(|value| value.parse::<u64>().ok());
    match arguments.first().map(String::as_str) {
        Some("run") => {
            let threads = number("--threads").unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
            });
            let (seed, count) =
                (number("--seed").unwrap_or(0), number("--count").unwrap_or(u64::MAX));
            let limit = number("--secs").map(Duration::from_secs);
            let report = run::run_many(seed, count, threads as usize, limit);
            let secs = report.took.as_secs_f64();
            println!("{}", report.coverage);
            println!(
                "{} histories in {secs:.1} s, {:.0} a second",
                report.coverage.histories,
                report.coverage.histories as f64 / secs
            );
            for failure in &report.failures {
                println!("FAILED seed {}: {:.300}", failure.seed, failure.what);
            }
            ExitCode::from(u8::from(!report.failures.is_empty()))
        }
        Some("replay") => {
            let Some(seed) = arguments.get(1).and_then(|seed| seed.parse().ok()) else {
                eprintln!("which seed?");
                return ExitCode::from(2);
            };
            let mut plan = Plan::from_seed(seed);
            if let Err(failure) = run::run(plan.clone()) {
                eprintln!("{}\nmaking it short…", failure.what);
                plan = run::shrink(&plan, &failure.what);
            }
            println!("{plan:#?}");
            let (lines, failure) = run::trace(plan);
            for line in lines {
                println!("{line}");
            }
            match failure {
                Some(failure) => {
                    println!("FAILED {}", failure.what);
                    ExitCode::FAILURE
                }
                None => ExitCode::SUCCESS,
            }
        }
        _ => {
            eprintln!("sparewire-sim run|replay; see its source's first lines");
            ExitCode::from(2)
        }
    }
}
