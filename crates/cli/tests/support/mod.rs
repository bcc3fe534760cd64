//! A small world for process stories: the real `sparewire`, the real curl, an origin of our own.
//!
//! Every wait is bounded and polls a condition; every process is ended by its id when its guard
//! is dropped; every port is one that the system gave out.
#![allow(dead_code, unused_imports, clippy::unwrap_used)] // each story uses a part of it
#![allow(unreachable_pub)]

mod market;
mod origin;

use std::{
    ffi::OsStr,
    fmt,
    io::Read,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

pub use market::{Market, Node, assert_receipts, copy_dir, only, paid, wallet_new};
pub use origin::{Origin, Seen, sha256, sha256_of};
use serde_json::Value;

/// The longest that anything may take before a story fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const SPAREWIRE: &str = env!("CARGO_BIN_EXE_sparewire");

/// A `sparewire` command in a clean environment.
pub fn sparewire<S: AsRef<OsStr>>(data_dir: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(SPAREWIRE);
    command.arg("--data-dir").arg(data_dir).args(args);
    clean(&mut command);
    command
}

/// A curl that reads no configuration and always uses the proxy it is told to.
pub fn curl<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("curl");
    command.args(["-q", "--silent", "--show-error", "--noproxy", "", "--max-time", "60"]);
    command.args(args);
    clean(&mut command);
    command
}

fn clean(command: &mut Command) {
    let names = ["SPAREWIRE_PASSWORD", "SPAREWIRE_DATA_DIR", "RUST_LOG"];
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "NO_PROXY", "ALL_PROXY"];
    for name in names.iter().chain(&proxies) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
}

/// Runs a command to its end.
pub fn run(command: Command) -> Ended {
    Running::start(command).ended()
}

/// What a command said and how it ended.
#[derive(Clone)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    what: String,
}

impl Ended {
    /// Its standard output, where it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }

    /// Its standard output as JSON, where it succeeded.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Its standard error, where it failed in an orderly way: with an exit code, and an error
    /// that a person can read.
    #[track_caller]
    pub fn failed(self) -> String {
        let code = self.status.code();
        assert!(code.is_some_and(|code| code != 0), "{self:?}");
        assert!(self.stderr.contains("error: "), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self.stderr
    }

    /// Fails with all these words.
    #[track_caller]
    pub fn fails_with(self, words: &[&str]) {
        let said = self.clone();
        let stderr = self.failed();
        for word in words {
            assert!(stderr.contains(word), "no {word:?} in {said:?}");
        }
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr, took, what } = self;
        write!(f, "{what}: {status} after {took:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A process of ours; killed when dropped.
pub struct Running {
    child: Child,
    started: Instant,
    what: String,
    stdout: Arc<Heard>,
    stderr: Arc<Heard>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdout = Heard::from(child.stdout.take().unwrap());
        let stderr = Heard::from(child.stderr.take().unwrap());
        Self { child, started: Instant::now(), what, stdout, stderr }
    }

    /// Waits for a line on stdout that `pick` takes something from.
    #[track_caller]
    pub fn said<T>(&mut self, pick: impl Fn(&str) -> Option<T>) -> T {
        self.wait(Arc::clone(&self.stdout), pick)
    }

    /// Waits for a line on stderr that contains `words`.
    #[track_caller]
    pub fn warned(&mut self, words: &str) {
        self.wait(Arc::clone(&self.stderr), |line| line.contains(words).then_some(()));
    }

    /// All of stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    #[track_caller]
    fn wait<T>(&mut self, heard: Arc<Heard>, pick: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = heard.find(&pick, Duration::from_millis(200)) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            // What it said last may still be in the pipe.
            if ended.is_some()
                && heard.is_over()
                && let Some(found) = heard.find(&pick, Duration::ZERO)
            {
                return found;
            }
            assert!(
                Instant::now() < until && !(ended.is_some() && heard.is_over()),
                "{} ({ended:?}) never said it\n--- stdout\n{}\n--- stderr\n{}",
                self.what,
                self.stdout.text(),
                self.stderr.text()
            );
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// As Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal("-INT");
    }

    /// A signal by name, to this process only.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.id().to_string()]).status().unwrap();
        assert!(sent.success(), "{} is gone already: {}", self.what, self.stderr.text());
    }

    /// As a power cut does.
    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(mut self) -> Ended {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(
                    Instant::now() < until,
                    "{} does not end\n--- stderr\n{}",
                    self.what,
                    self.stderr.text()
                ),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let took = self.started.elapsed();
        let (stdout, stderr) = (self.stdout.to_end(), self.stderr.to_end());
        Ended { status, stdout, stderr, took, what: self.what.clone() }
    }

    /// Interrupts it and waits for its end.
    #[track_caller]
    pub fn stopped(self) -> Ended {
        self.interrupt();
        self.ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // gone already, mostly
        let _ = self.child.wait();
    }
}

/// What a pipe has said so far.
#[derive(Default)]
struct Heard {
    state: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Heard {
    fn from(mut pipe: impl Read + Send + 'static) -> Arc<Self> {
        let heard = Arc::new(Self::default());
        let writer = Arc::clone(&heard);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = writer.state.lock().unwrap();
                state.0.extend_from_slice(&buffer[..read]);
                state.1 = read == 0;
                writer.more.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        heard
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.state.lock().unwrap().0).into_owned()
    }

    fn is_over(&self) -> bool {
        self.state.lock().unwrap().1
    }

    fn find<T>(&self, pick: impl Fn(&str) -> Option<T>, within: Duration) -> Option<T> {
        let state = self.state.lock().unwrap();
        let search = |text: &[u8]| String::from_utf8_lossy(text).lines().find_map(&pick);
        if let Some(found) = search(&state.0) {
            return Some(found);
        }
        let (state, _) = self.more.wait_timeout(state, within).unwrap();
        search(&state.0)
    }

    fn to_end(&self) -> String {
        // The process has ended; a grandchild could hold the pipe, but we start none that does.
        let state = self.state.lock().unwrap();
        let (state, _) =
            self.more.wait_timeout_while(state, Duration::from_secs(5), |state| !state.1).unwrap();
        String::from_utf8_lossy(&state.0).into_owned()
    }
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A JSON number, or a decimal number in a JSON string, as amounts are written.
#[track_caller]
pub fn number(value: &Value) -> u128 {
    match value {
        Value::Number(number) => u128::from(number.as_u64().unwrap()),
        Value::String(text) => text.parse().unwrap(),
        other => panic!("{other} is not a number"),
    }
}

/// What so many bytes cost, by the rule of the protocol: rounded up once, over the total.
pub fn owed(bytes: u128, price_per_gib: u128) -> u128 {
    (bytes * price_per_gib).div_ceil(1 << 30)
}

/// An address on a line, alone or as the value of a word.
pub fn addr_in(line: &str) -> Option<SocketAddr> {
    line.split_whitespace().last()?.trim_start_matches("http://").parse().ok()
}
