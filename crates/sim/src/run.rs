//! Runs histories: one, many, or one made short.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{coverage::Coverage, node::Surroundings, plan::Plan, world::World};

/// A history that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What broke.
    pub what: String,
}

/// Runs a plan; what happened, or what broke.
///
/// # Errors
/// [`Failure`].
pub fn run(plan: Plan) -> Result<Coverage, Failure> {
    lived(plan).map(|end| end.coverage)
}

/// Runs a plan; what it left behind, or what broke.
///
/// # Errors
/// [`Failure`].
pub fn lived(plan: Plan) -> Result<Surroundings, Failure> {
    let seed = plan.seed;
    caught(|| World::new(plan, None).run()).map_err(|what| Failure { seed, what })
}

/// Runs a plan and writes down what happens, to the end or to what broke.
pub fn trace(plan: Plan) -> (Vec<String>, Option<Failure>) {
    let seed = plan.seed;
    let trace = Arc::new(Mutex::new(Vec::new()));
    let kept = trace.clone();
    let result = caught(|| drop(World::new(plan, Some(kept)).run()));
    let failure = result.err().map(|what| Failure { seed, what });
    let lines = trace.lock().map(|lines| lines.clone()).unwrap_or_default();
    (lines, failure)
}

/// The fewest operations of a failing plan that still break the same invariant.
pub fn shrink(plan: &Plan, what: &str) -> Plan {
    let kind = |what: &str| what.split(':').next().unwrap_or_default().to_owned();
    let wanted = kind(what);
    let fails = |plan: &Plan| run(plan.clone()).is_err_and(|f| kind(&f.what) == wanted);
    let mut best = plan.clone();
    let mut size = best.operations.len().div_ceil(2).max(1);
    loop {
        let (mut at, mut shorter) = (0, false);
        while at < best.operations.len() {
            let mut less = best.clone();
            less.operations.drain(at..(at + size).min(less.operations.len()));
            if fails(&less) {
                (best, shorter) = (less, true);
            } else {
                at += size;
            }
        }
        if size == 1 && !shorter {
            return best;
        }
        size = if shorter { size } else { size.div_ceil(2) };
    }
}

/// What many histories gave.
#[derive(Debug, Default)]
pub struct Report {
    /// What happened in them.
    pub coverage: Coverage,
    /// Those that broke something, at most a few.
    pub failures: Vec<Failure>,
    /// How long they took.
    pub took: Duration,
}

/// How many failures are enough to stop for.
const FAILURES_MAX: usize = 5;

/// Runs the histories of `seeds` on `threads` threads, until one of the limits is reached.
pub fn run_many(first: u64, count: u64, threads: usize, limit: Option<Duration>) -> Report {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let report = Mutex::new(Report::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut own = Coverage::default();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let late = limit.is_some_and(|limit| began.elapsed() >= limit);
                    if index >= count || late || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match run(Plan::from_seed(first.wrapping_add(index))) {
                        Ok(coverage) => own.add(&coverage),
                        Err(failure) => {
                            let mut report = report.lock().expect("nobody panics in it");
                            report.failures.push(failure);
                            if report.failures.len() >= FAILURES_MAX {
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                }
                report.lock().expect("nobody panics in it").coverage.add(&own);
            });
        }
    });
    let mut report = report.into_inner().expect("nobody panics in it");
    report.took = began.elapsed();
    report.failures.sort_by_key(|failure| failure.seed);
    report
}

thread_local! {
    static IN_HISTORY: Cell<bool> = const { Cell::new(false) };
}

/// Lives through a history. A panic is how it says what broke: nobody wants to read it twice.
fn caught<T>(history: impl FnOnce() -> T) -> Result<T, String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let otherwise = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IN_HISTORY.get() || std::env::var_os("SIM_BACKTRACE").is_some() {
                otherwise(info);
            }
        }));
    });
    IN_HISTORY.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(history));
    IN_HISTORY.set(false);
    result.map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}
