//! A chain, a provider and a consumer, each a process of its own with its own data directory.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Ended, Origin, Running, addr_in, curl, number, owed, run, sparewire, until};

/// One unit of money for about one byte: figures show every byte.
pub const PRICE: &str = "1000";
/// The same in units per GiB.
pub const PRICE_UNITS: u128 = 1_000_000_000;
/// A channel that pays for some 42 MiB.
const CHANNEL: &str = "40";
const BUDGET: &str = "90";

/// One machine: a data directory with keys.
pub struct Node {
    pub dir: PathBuf,
    pub password: PathBuf,
    rpc: String,
}

impl Node {
    /// A machine whose keys are `which` of this test program's two sets: they are made once by
    /// `sparewire wallet new`, because opening them is slow on purpose.
    fn new(root: &Path, name: &str, which: usize, rpc: &str) -> Self {
        static KEYS: OnceLock<[TempDir; 2]> = OnceLock::new();
        let made = KEYS.get_or_init(|| {
            [(); 2].map(|()| {
                let dir = tempfile::tempdir().unwrap();
                wallet_new(dir.path()).ok();
                dir
            })
        });
        let dir = root.join(name);
        copy_dir(made[which].path(), &dir);
        Self { password: dir.join("password"), dir, rpc: rpc.to_owned() }
    }

    /// A machine with keys of its own.
    pub fn fresh(root: &Path, name: &str, rpc: SocketAddr) -> Self {
        let dir = root.join(name);
        fs::create_dir_all(&dir).unwrap();
        wallet_new(&dir).ok();
        Self { password: dir.join("password"), dir, rpc: format!("http://{rpc}") }
    }

    /// A `sparewire` command on this machine.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = sparewire(&self.dir, ["--rpc", &self.rpc]);
        command.args(args);
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        run(self.command(args))
    }

    /// The same with the keys' password.
    pub fn unlock<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        let mut command = self.command(args);
        command.arg("--password-file").arg(&self.password);
        run(command)
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let mut command = self.command(args);
        command.arg("--json");
        run(command).json()
    }

    /// Claims what is owed; the node may be running or not.
    #[track_caller]
    pub fn settle(&self) -> Value {
        let mut command = self.command(["settle", "--json", "--password-file"]);
        command.arg(&self.password);
        run(command).json()
    }

    #[track_caller]
    pub fn wallet(&self) -> String {
        let shown = self.json(&["wallet", "show"]);
        shown["keys"]["wallet"].as_str().unwrap().to_owned()
    }

    /// Has `wallet`'s machine, which asks no chain, sign that this node may be paid to it, and keeps
    /// its word as `delegation.json`.
    #[track_caller]
    pub fn delegated_by(&self, wallet: &Self) {
        let (request, response) = (self.dir.join("request.json"), self.dir.join("response.json"));
        let asked = self.run(["wallet", "delegation", "request", "--wallet", &wallet.wallet()]);
        fs::write(&request, asked.ok()).unwrap();
        let [asked, told] = [&request, &response].map(|path| path.to_str().unwrap());
        fs::write(&response, wallet.unlock(["wallet", "sign", "--request", asked]).ok()).unwrap();
        self.run(["wallet", "delegation", "import", "--request", asked, "--response", told]).ok();
    }

    /// What the running node says of itself.
    pub fn status(&self) -> Value {
        self.json(&["status"])["running"].clone()
    }

    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        self.json(&["session", "list"]).as_array().unwrap().clone()
    }

    #[track_caller]
    pub fn session(&self, id: &str) -> Value {
        self.json(&["session", "show", id])
    }

    /// The one channel that it has.
    #[track_caller]
    pub fn channel(&self) -> Value {
        only(self.json(&["channel", "list"]).as_array().unwrap()).clone()
    }

    #[track_caller]
    pub fn claimed(&self) -> u128 {
        number(&self.channel()["on_chain"]["claimed"])
    }

    #[track_caller]
    pub fn promised(&self) -> u128 {
        number(&self.channel()["promised"])
    }
}

/// `wallet new` in `dir`, with a password file beside the keys.
pub fn wallet_new(dir: &Path) -> Ended {
    let password = dir.join("password");
    fs::write(&password, "correct horse\n").unwrap();
    let mut command = sparewire(dir, ["wallet", "new", "--json", "--password-file"]);
    command.arg(password);
    run(command)
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// What a session says was paid.
#[track_caller]
pub fn paid(session: &Value) -> u128 {
    number(&session["paid"])
}

/// The only one.
#[track_caller]
pub fn only<T: std::fmt::Debug>(all: &[T]) -> &T {
    let [one] = all else { panic!("not one, but {all:#?}") };
    one
}

/// Two machines, a chain and an origin.
pub struct Market {
    pub root: TempDir,
    pub origin: Origin,
    pub chain: Option<Running>,
    pub rpc: SocketAddr,
    /// The test token's address.
    pub token: String,
    pub provider: Node,
    pub consumer: Node,
    pub providing: Option<Running>,
    pub connecting: Option<Running>,
    /// `<node id>@<address>` of the provider.
    pub address: String,
    pub proxy: SocketAddr,
    /// More arguments of `connect`.
    pub connect_args: Vec<String>,
    /// More arguments of `provide`.
    pub provide_args: Vec<String>,
    provide_addr: SocketAddr,
}

impl Market {
    /// A chain and two funded machines; nobody sells or buys yet.
    pub fn funded() -> Self {
        let root = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (mut chain, rpc) = serve_chain(root.path(), any);
        let token =
            chain.said(|line| line.strip_prefix("token")?.split_whitespace().next()?.parse().ok());
        let url = format!("http://{rpc}");
        let provider = Node::new(root.path(), "provider", 0, &url);
        let consumer = Node::new(root.path(), "consumer", 1, &url);
        for node in [&provider, &consumer] {
            node.run(["chain", "faucet", &node.wallet()]).ok();
        }
        let flags = ["--max-price", PRICE, "--channel-amount", CHANNEL, "--budget", BUDGET];
        Self {
            root,
            origin: Origin::start(),
            chain: Some(chain),
            rpc,
            token,
            provider,
            consumer,
            providing: None,
            connecting: None,
            address: String::new(),
            proxy: any,
            provide_args: Vec::new(),
            connect_args: flags.map(str::to_owned).to_vec(),
            provide_addr: any,
        }
    }

    /// The same with a provider and a consumer at work.
    pub fn open() -> Self {
        let mut market = Self::funded();
        market.provide();
        market.connect();
        market.connected();
        market
    }

    pub fn provide_command(&self) -> Command {
        let mut command = self.provider.command(["provide", "--price", PRICE]);
        command.args(["--listen", &self.provide_addr.to_string()]);
        command.args(["--allow", &self.origin.addr.to_string(), "--password-file"]);
        command.arg(&self.provider.password).args(&self.provide_args);
        command
    }

    /// Starts the provider, at its old address where it had one.
    pub fn provide(&mut self) {
        self.provide_with(self.provide_command());
    }

    pub fn provide_with(&mut self, command: Command) {
        let mut running = Running::start(command);
        self.address = running.said(|line| line.contains('@').then(|| line.trim().to_owned()));
        let addrs = self.address.split_once('@').unwrap().1;
        self.provide_addr = addrs.split(',').find_map(|addr| addr.parse().ok()).unwrap();
        self.providing = Some(running);
    }

    pub fn connect_command(&self) -> Command {
        let proxy = self.proxy.to_string();
        let mut command = self.consumer.command(["connect", &self.address, "--proxy", &proxy]);
        command.args(&self.connect_args).arg("--password-file").arg(&self.consumer.password);
        command
    }

    /// Starts the consumer, with its proxy at its old address where it had one.
    pub fn connect(&mut self) {
        self.connect_with(self.connect_command());
    }

    pub fn connect_with(&mut self, command: Command) {
        let mut running = Running::start(command);
        self.proxy = running.said(addr_in);
        self.connecting = Some(running);
    }

    /// Waits until the session is up.
    #[track_caller]
    pub fn connected(&self) {
        until("a session", || (self.consumer.status()["link"] == "connected").then_some(()));
    }

    /// Asks the chain node.
    #[track_caller]
    pub fn rpc(&self, method: &str, params: Value) -> Value {
        let body =
            serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let (body, url) = (body.to_string(), format!("http://{}/", self.rpc));
        let json = "content-type: application/json";
        let answer = run(curl(["--fail", "--header", json, "--data", &body, &url])).json();
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Lets so many seconds of block time go by.
    pub fn pass(&self, secs: u64) {
        self.rpc("evm_increaseTime", serde_json::json!([secs]));
        self.rpc("evm_mine", serde_json::json!([]));
    }

    /// Restarts the chain where it was.
    pub fn chain_again(&mut self) {
        let (chain, rpc) = serve_chain(self.root.path(), self.rpc);
        assert_eq!(rpc, self.rpc);
        self.chain = Some(chain);
    }

    pub fn chain_gone(&mut self) {
        self.chain.take().unwrap().kill_9();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// curl through the SOCKS5 side of the proxy.
    pub fn curl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = curl(["--proxy", &format!("socks5h://{}", self.proxy)]);
        command.args(args);
        command
    }

    /// curl through its HTTP CONNECT side.
    pub fn curl_connect<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let proxy = format!("http://{}", self.proxy);
        let mut command = curl(["--proxytunnel", "--proxy", &proxy]);
        command.args(args);
        command
    }

    /// Downloads through the proxy and returns what arrived.
    #[track_caller]
    pub fn download(&self, path: &str) -> Vec<u8> {
        let file = self.path("download");
        let url = self.origin.url(path);
        run(self.curl(["--fail".as_ref(), url.as_ref(), "--output".as_ref(), file.as_os_str()]))
            .ok();
        fs::read(file).unwrap()
    }

    /// A download that goes on until it is done or its guard is dropped.
    pub fn downloading(&self, path: &str) -> Running {
        let mut command = self.curl(["--output", "/dev/null"]);
        command.arg(self.origin.url(path));
        Running::start(command)
    }

    /// Bytes that the consumer has counted in the running session, both ways together.
    pub fn counted(&self) -> Option<u128> {
        let counted = self.consumer.status()["session"]["counted"].clone();
        (!counted.is_null()).then(|| number(&counted["up"]) + number(&counted["down"]))
    }

    /// Waits until the running session has carried more than so many bytes.
    #[track_caller]
    pub fn carried(&self, bytes: u128) {
        until("bytes", || self.counted().filter(|counted| *counted > bytes));
    }

    /// Waits until the running session's figures change no more, and returns its bytes. They may
    /// lag behind the last bytes by less than a payment step.
    #[track_caller]
    pub fn at_rest(&self) -> u128 {
        let mut before = None;
        until("rest", || {
            let now = self.counted();
            let rests = now.is_some() && now == before;
            before = now;
            if rests { now } else { None }
        })
    }

    /// Waits until the running session has carried at least so many bytes and all is paid, which
    /// it is 10 s after the last byte, and returns its bytes exactly.
    #[track_caller]
    pub fn all_paid(&self, least: u128) -> u128 {
        until("the last payment", || {
            let session = self.consumer.status()["session"].clone();
            let counted = number(&session["counted"]["up"]) + number(&session["counted"]["down"]);
            let is_paid = paid(&session) == owed(counted, PRICE_UNITS);
            (counted >= least && is_paid).then_some(counted)
        })
    }

    /// Ends the consumer's session properly.
    #[track_caller]
    pub fn disconnect(&mut self) -> Ended {
        let ended = self.connecting.take().unwrap().stopped();
        assert!(ended.status.success(), "{ended:?}");
        ended
    }

    #[track_caller]
    pub fn stop_providing(&mut self) -> Ended {
        let ended = self.providing.take().unwrap().stopped();
        assert!(ended.status.success(), "{ended:?}");
        ended
    }

    /// Holds the two sides' stories of one session against each other, and their receipts against
    /// arithmetic. Both must have settled it.
    #[track_caller]
    pub fn assert_sides_agree(&self, session: &str) {
        let (ours, theirs) = (self.consumer.session(session), self.provider.session(session));
        assert_eq!((&ours["side"], &theirs["side"]), (&"payer".into(), &"payee".into()));
        for side in [&ours, &theirs] {
            assert_eq!(side["state"], "settled", "{side:#}");
            assert_eq!(side["statement"]["counted"], side["statement"]["receipted"], "{side:#}");
            assert_receipts(side);
        }
        for key in ["session", "channel", "paid", "paid_for", "terms", "receipts_signed_by_both"] {
            assert_eq!(ours[key], theirs[key], "{key} of {ours:#}\n{theirs:#}");
        }
        for key in ["counted", "receipted", "price", "paid", "cumulative"] {
            assert_eq!(ours["statement"][key], theirs["statement"][key], "{key}");
        }
    }
}

/// Every receipt is signed by both, and none takes back what one before it said.
#[track_caller]
pub fn assert_receipts(session: &Value) {
    let receipts = session["receipts_signed_by_both"].as_array().unwrap();
    assert_eq!(number(&session["receipts"]), receipts.len() as u128);
    for receipt in receipts {
        assert_eq!(receipt["signatures_valid"], true, "{session:#}");
    }
    for pair in receipts.windows(2) {
        assert_eq!(number(&pair[0]["sequence"]) + 1, number(&pair[1]["sequence"]), "{session:#}");
        for key in ["up", "down", "amount"] {
            assert!(number(&pair[0][key]) <= number(&pair[1][key]), "{key} in {session:#}");
        }
    }
}

fn serve_chain(root: &Path, listen: SocketAddr) -> (Running, SocketAddr) {
    let listen = listen.to_string();
    let command =
        sparewire(&root.join("chain"), ["chain", "serve", "--dev-methods", "--listen", &listen]);
    let mut running = Running::start(command);
    let rpc = running.said(|line| line.starts_with("rpc").then(|| addr_in(line)).flatten());
    (running, rpc)
}
