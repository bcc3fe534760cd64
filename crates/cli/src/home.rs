//! The data directory: keys, store, transactions; and what is built from them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use sparewire_chain::{
    ChainWork, EvmChain, Finality, Index, Journal, JournalError, Policy, Spending,
};
use sparewire_core::{Address, DeviceSigner, Domain, Signer, Timestamp};
use sparewire_node::{
    identity::Identity,
    session::Clock,
    store::{SqliteStore, Store},
};
use sparewire_protocol::settlement::{Chain, ChainError, TokenInfo};
use sparewire_wallet::{LocalKey, NodeKeys, NodeSecrets};
use zeroize::Zeroizing;

use crate::{
    config::{ChainConfig, Config},
    control::{self, Request},
    hint::Hint,
    network, output, wallet_lock,
};

/// How long our wallet's word for our own hot keys counts, in seconds: it is renewed at each start.
pub(crate) const DELEGATION_SECS: u64 = 30 * 24 * 3600;

/// How long an earlier run's transactions rest when the chain fails us.
const FINISH_RETRY: Duration = Duration::from_secs(60);

/// Where a node lives on disk.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) config: Config,
}

impl Home {
    /// Opens a data directory, making it where it is missing, and reads its configuration.
    pub(crate) fn open(dir: Option<PathBuf>, config: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir,
            None => default_dir()?,
        };
        make_private_dir(&dir)?;
        Self::open_to_read(Some(dir), config)
    }

    /// The same to look at what is there: nothing is made.
    pub(crate) fn open_to_read(dir: Option<PathBuf>, config: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir,
            None => default_dir()?,
        };
        let config = match config {
            Some(path) => Config::load(path, true)?,
            None => Config::load(&dir.join("config.toml"), false)?,
        };
        Ok(Self { dir, config })
    }

    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.dir.join("keys")
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    fn store_path(&self) -> PathBuf {
        self.dir.join("store.sqlite")
    }

    /// What towers keep for others, and what towers keep for us.
    pub(crate) fn watch_path(&self) -> PathBuf {
        self.dir.join("watch.sqlite")
    }

    /// The contract that holds watchtowers' rewards; zero where there is none.
    pub(crate) fn towers(&self) -> Result<Address> {
        match self.config.chain.towers.as_str() {
            "" if self.config.chain.chain_id == network::CHAIN_ID => Ok(network::towers()),
            "" => Ok(Address::ZERO),
            text => text.parse().with_context(|| format!("[chain] towers = \"{text}\"")),
        }
    }

    /// The registry of keys, where there is one.
    pub(crate) fn registry(&self) -> Result<Option<Address>> {
        match self.config.chain.keys.as_str() {
            "" if self.config.chain.chain_id == network::CHAIN_ID => Ok(Some(network::keys())),
            "" => Ok(None),
            text => text.parse().map(Some).with_context(|| format!("[chain] keys = \"{text}\"")),
        }
    }

    /// The contract that holds bonds.
    ///
    /// # Errors
    /// Where none is known on this chain.
    pub(crate) fn stake(&self) -> Result<Address> {
        self.bonds()?.ok_or_else(|| {
            Hint::new("no contract that holds bonds is known on this chain")
                .hint("set [chain] stake in config.toml")
                .into()
        })
    }

    /// The contract that holds bonds, where there is one.
    pub(crate) fn bonds(&self) -> Result<Option<Address>> {
        match self.config.chain.stake.as_str() {
            "" if self.config.chain.chain_id == network::CHAIN_ID => Ok(Some(network::stake())),
            "" => Ok(None),
            text => text.parse().map(Some).with_context(|| format!("[chain] stake = \"{text}\"")),
        }
    }

    /// Opens the store as its only writer.
    pub(crate) fn store(&self) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(SqliteStore::open(&self.store_path())?))
    }

    /// Opens the store to look at it; `None` where nothing was ever stored.
    pub(crate) fn store_to_read(&self) -> Result<Option<SqliteStore>> {
        Ok(SqliteStore::open_to_read(&self.store_path())?)
    }

    /// The file that keeps the transactions on the configured chain.
    pub(crate) fn journal_name(&self) -> Result<String> {
        Ok(format!("transactions-{}.sqlite", self.network()?.0.chain_id))
    }

    /// What was asked of the configured chain and is over, from whoever holds the journal.
    pub(crate) async fn spendings(&self) -> Result<Vec<Spending>> {
        let (domain, _) = self.network()?;
        if let Some(mut told) = control::ask(&self.control_path(), Request::Spendings).await?
            && told["chain_id"] == domain.chain_id
        {
            return Ok(serde_json::from_value(told["spendings"].take())?);
        }
        self.stored_spendings()
    }

    /// The same from the journal itself, which nobody may hold.
    pub(crate) fn stored_spendings(&self) -> Result<Vec<Spending>> {
        let path = self.dir.join(self.journal_name()?);
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(Journal::open(path)?.spendings()?)
    }

    /// Opens the keys with the password that the environment, a file or the terminal gives.
    pub(crate) async fn keys(&self, password_file: Option<&Path>) -> Result<NodeKeys> {
        let dir = self.keys_dir();
        if !dir.exists() {
            bail!(
                Hint::new(format!("there are no keys in {}", dir.display()))
                    .hint("make them with `sparewire wallet new`")
            );
        }
        let password = password(password_file, false)?;
        self.keys_under(password).await
    }

    /// The same with a password that is known.
    pub(crate) async fn keys_under(&self, password: Zeroizing<String>) -> Result<NodeKeys> {
        let dir = self.keys_dir();
        let opened = tokio::task::spawn_blocking(move || NodeKeys::open(&dir, &password)).await?;
        let (keys, warnings) = opened.map_err(key_error)?;
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        Ok(keys)
    }

    /// Chain, contract and token of the configuration.
    pub(crate) fn network(&self) -> Result<(Domain, Address)> {
        network_of(&self.config.chain)
    }

    /// What is under way on chain, where no node runs that could tell it.
    pub(crate) fn chain_work(&self) -> Result<ChainWork> {
        // Its name is known before the contract is configured.
        let file = format!("transactions-{}.sqlite", self.config.chain.chain_id);
        match Journal::peek(self.dir.join(file)) {
            Ok(work) => Ok(work.unwrap_or_default()),
            // A command that does not answer, such as `settle`, is at work on it.
            Err(JournalError::InUse) => Ok(ChainWork::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// How transactions are followed on the configured chain.
    pub(crate) fn policy(&self) -> Policy {
        let chain = &self.config.chain;
        let policy = if chain.chain_id == network::CHAIN_ID {
            network::embedded_policy()
        } else {
            let finality = Finality::Finalized { else_blocks: chain.confirmations };
            Policy { finality, ..Policy::default() }
        };
        Policy {
            fee_max_wei: u128::from(chain.fee_max_gwei) * 1_000_000_000,
            fee_max_urgent_wei: u128::from(chain.fee_max_urgent_gwei) * 1_000_000_000,
            ..policy
        }
    }

    /// Opens the index of the contract's events. It holds nothing that the chain does not.
    pub(crate) fn index(&self) -> Result<Index> {
        let (domain, _) = self.network()?;
        let file = format!("events-{}-{}.sqlite", domain.chain_id, domain.contract);
        Ok(Index::open(self.dir.join(file), domain)?)
    }

    /// Connects to the configured chain to look at it, with a key that nothing belongs to.
    pub(crate) async fn look(&self) -> Result<EvmChain> {
        let (domain, _) = self.network()?;
        let endpoint = self.config.chain.endpoint()?;
        let node = format!("the chain node at {}", endpoint.name());
        let (reader, journal) = (Arc::new(LocalKey::random()?), Journal::in_memory()?);
        let connecting = EvmChain::connect(endpoint, domain, reader, journal, self.policy());
        Ok(output::patiently(&node, connecting).await?)
    }

    /// Connects the wallet to the configured chain and finishes what was left unfinished.
    pub(crate) async fn connect(&self, wallet: Arc<dyn Signer>) -> Result<Arc<EvmChain>> {
        let carrier = self.carrier(wallet).await?;
        told_finished(carrier.resume().await?);
        Ok(carrier)
    }

    /// The same for who stays: what was left unfinished is finished meanwhile, since what is urgent
    /// may wait behind what takes hours.
    pub(crate) async fn connect_to_stay(&self, wallet: Arc<dyn Signer>) -> Result<Arc<EvmChain>> {
        let carrier = self.carrier(wallet).await?;
        // What was only asked for counts too: nobody else may ask for it again.
        if !carrier.work()?.under_way.is_empty() {
            let resumed = Arc::clone(&carrier);
            let resume = move || {
                let carrier = Arc::clone(&resumed);
                async move { carrier.resume().await }
            };
            // It ends with the process: the journal has all that it does.
            tokio::spawn(async move { told_finished(finish(resume, FINISH_RETRY).await) });
        }
        Ok(carrier)
    }

    /// The wallet on the configured chain.
    async fn carrier(&self, wallet: Arc<dyn Signer>) -> Result<Arc<EvmChain>> {
        let (domain, _) = self.network()?;
        wallet_lock::hold(domain.chain_id, wallet.address())?;
        let journal = Journal::open(self.dir.join(self.journal_name()?))?;
        if journal.unfinished()? > 0 {
            eprintln!("finishing what an earlier run left under way on chain…");
        }
        let endpoint = self.config.chain.endpoint()?;
        let node = format!("the chain node at {}", endpoint.name());
        let connecting = EvmChain::connect(endpoint, domain, wallet, journal, self.policy());
        Ok(Arc::new(output::patiently(&node, connecting).await?))
    }
}

/// Resumes until nothing is left to be; returns how many transactions the last time finished.
async fn finish<F>(resume: impl Fn() -> F, retry: Duration) -> usize
where
    F: Future<Output = Result<usize, ChainError>>,
{
    loop {
        match resume().await {
            Ok(finished) => return finished,
            Err(error) => tracing::warn!(%error, "an earlier run's transactions are unfinished"),
        }
        tokio::time::sleep(retry).await;
    }
}

fn told_finished(transactions: usize) {
    if transactions > 0 {
        eprintln!("finished {transactions} transactions of an earlier run");
    }
}

/// The keys of a node as its parts use them.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) device_secret: Zeroizing<[u8; 32]>,
    pub(crate) wallet: Arc<dyn Signer>,
}

impl Node {
    pub(crate) fn new(keys: NodeKeys, domain: &Domain) -> Result<Self> {
        let NodeKeys { wallet, authorizer, device } = keys;
        let device_secret = device.secret();
        let device: Arc<dyn DeviceSigner> = Arc::new(device);
        let authorizer: Arc<dyn Signer> = Arc::new(authorizer);
        let now = clock()();
        let identity =
            Identity::delegate(&*wallet, device, authorizer, domain, now, DELEGATION_SECS)?;
        Ok(Self { identity, device_secret, wallet })
    }

    /// A node whose keys are kept nowhere.
    pub(crate) fn passing(domain: &Domain) -> Result<Self> {
        let NodeSecrets { wallet, authorizer, device } = NodeSecrets::random()?;
        Self::new(NodeKeys { wallet: Arc::new(wallet), authorizer, device }, domain)
    }
}

/// Chain, contract and token that a configuration names.
pub(crate) fn network_of(chain: &ChainConfig) -> Result<(Domain, Address)> {
    let embedded = network::contracts();
    let address = |text: &str, key: &str, known: Address| -> Result<Address> {
        match text {
            "" if chain.chain_id == network::CHAIN_ID => Ok(known),
            "" => bail!(
                Hint::new(format!("chain {} needs [chain] {key}", chain.chain_id))
                    .hint("set it in config.toml, or give --contract and --token")
            ),
            text => text.parse().with_context(|| format!("[chain] {key} = \"{text}\"")),
        }
    };
    let contract = address(&chain.contract, "contract", embedded.domain.contract)?;
    let token = address(&chain.token, "token", embedded.token)?;
    Ok((Domain { chain_id: chain.chain_id, contract }, token))
}

/// The system's clock.
pub(crate) fn clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    })
}

/// A file that the command line names.
pub(crate) fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The token that is paid in, as the chain knows it.
pub(crate) async fn known_token(chain: &dyn Chain, token: Address) -> Result<TokenInfo> {
    match chain.token(token).await {
        Err(ChainError::Nonsense { .. } | ChainError::Reverted { .. }) => {
            let chain_id = chain.domain().chain_id;
            bail!(
                Hint::new(format!("there is no ERC-20 token at {token} on chain {chain_id}"))
                    .hint("check --token, or [chain] token in config.toml")
            )
        }
        answer => Ok(answer?),
    }
}

/// How a token is shown when the chain cannot be asked: in its smallest units.
pub(crate) async fn token_info(home: &Home, token: Address) -> TokenInfo {
    if token == network::contracts().token {
        return TokenInfo {
            address: token,
            symbol: "tUSD".into(),
            decimals: network::TOKEN_DECIMALS,
        };
    }
    let asked = async {
        let (domain, _) = home.network()?;
        let endpoint = home.config.chain.endpoint()?;
        let reader = Arc::new(LocalKey::random()?);
        let journal = Journal::in_memory()?;
        let policy = Policy { retry_for: Duration::from_secs(2), ..Policy::default() };
        let chain = EvmChain::connect(endpoint, domain, reader, journal, policy).await?;
        anyhow::Ok(chain.token(token).await?)
    };
    asked.await.unwrap_or_else(|_: anyhow::Error| smallest_units(token))
}

/// A token of which nothing is known.
pub(crate) fn smallest_units(token: Address) -> TokenInfo {
    TokenInfo { address: token, symbol: "units".into(), decimals: 0 }
}

/// A password: from `SPAREWIRE_PASSWORD`, a file, or the terminal (twice for a new one).
pub(crate) fn password(file: Option<&Path>, new: bool) -> Result<Zeroizing<String>> {
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the password file {}", path.display()))?;
        return Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    if let Ok(text) = std::env::var("SPAREWIRE_PASSWORD") {
        return Ok(Zeroizing::new(text));
    }
    let ask = |prompt: &str| -> Result<Zeroizing<String>> {
        let typed = rpassword::prompt_password(prompt).map_err(|error| {
            Hint::new(format!("no password: {error}"))
                .hint("give --password-file FILE or set SPAREWIRE_PASSWORD")
        })?;
        Ok(Zeroizing::new(typed))
    };
    let first = ask("password: ")?;
    if new && *ask("again: ")? != *first {
        bail!("the two passwords differ");
    }
    Ok(first)
}

/// An error of the key files, with its hint.
pub(crate) fn key_error(error: sparewire_wallet::KeyFileError) -> anyhow::Error {
    let hint = error.hint();
    Hint::new(error.to_string()).hint(hint).into()
}

pub(crate) fn make_private_dir(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| {
        Hint::new(format!("cannot make {}: {error}", dir.display()))
            .hint("choose another --data-dir, or set SPAREWIRE_DATA_DIR")
            .into()
    })
}

fn default_dir() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("XDG_DATA_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("sparewire"))
        .ok_or_else(|| Hint::new("no home directory").hint("give --data-dir DIR").into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_an_earlier_run_left_is_tried_again_while_the_chain_fails() {
        let calls = AtomicUsize::new(0);
        let resume = || {
            std::future::ready(match calls.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Err(ChainError::Unreachable { endpoint: "n".into(), reason: "r".into() }),
                _ => Ok(7),
            })
        };
        assert_eq!(finish(resume, Duration::ZERO).await, 7);
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }
}
