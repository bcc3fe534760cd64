//! The configuration file. Every key has a default; a flag on the command line goes before it.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sparewire_chain::Endpoint;
use sparewire_core::Amount;
use sparewire_protocol::settlement::{NativePrice, SettlePolicy, TokenInfo};
use toml_example::TomlExample;

/// Everything that can be configured, in TOML.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The chain that money settles on.
    #[toml_example(nesting)]
    pub(crate) chain: ChainConfig,
    /// What you sell (sparewire provide).
    #[toml_example(nesting)]
    pub(crate) provider: ProviderConfig,
    /// What you buy (sparewire connect).
    #[toml_example(nesting)]
    pub(crate) consumer: ConsumerConfig,
    /// How torrents are shared and fetched (sparewire content).
    #[toml_example(nesting)]
    pub(crate) content: ContentConfig,
    /// When what was earned is claimed on chain.
    #[toml_example(nesting)]
    pub(crate) settle: SettleConfig,
    /// What you watch for others (sparewire watch serve).
    #[toml_example(nesting)]
    pub(crate) watch: WatchConfig,
    /// What others may watch.
    #[toml_example(nesting)]
    pub(crate) metrics: MetricsConfig,
}

/// The chain that money settles on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ChainConfig {
    /// URL of an Ethereum JSON-RPC node (http or https), or a list of several that are asked at
    /// once. The default is where `sparewire chain serve` listens.
    #[toml_example(default = "http://127.0.0.1:8545")]
    pub(crate) rpc: Rpc,
    /// How many of several nodes must say the same. 0 stands for more than half.
    #[toml_example(default = 0)]
    pub(crate) rpc_quorum: usize,
    /// EIP-155 chain id. The default is the embedded chain's.
    #[toml_example(default = 21335)]
    pub(crate) chain_id: u64,
    /// Address of the channel contract. Empty stands for the embedded chain's.
    #[toml_example(default = "")]
    pub(crate) contract: String,
    /// Address of the ERC-20 token that is paid in. Empty stands for the embedded chain's test
    /// token.
    #[toml_example(default = "")]
    pub(crate) token: String,
    /// Address of the contract that holds rewards for watchtowers. Empty stands for the embedded
    /// chain's, elsewhere for none.
    #[toml_example(default = "")]
    pub(crate) towers: String,
    /// Address of the registry in which wallets revoke keys. Empty stands for the embedded chain's,
    /// elsewhere for none: nobody's keys are revoked then.
    #[toml_example(default = "")]
    pub(crate) keys: String,
    /// Address of the contract that holds providers' bonds. Empty stands for the embedded chain's,
    /// elsewhere for none.
    #[toml_example(default = "")]
    pub(crate) stake: String,
    /// Blocks on top of one that make it final, where the node knows no `finalized` tag.
    #[toml_example(default = 12)]
    pub(crate) confirmations: u64,
    /// Most that is paid for a unit of gas, in gwei; dearer times are waited out.
    #[toml_example(default = 500)]
    pub(crate) fee_max_gwei: u64,
    /// The same for what cannot wait, where it is more: claims from channels whose payer is leaving,
    /// defences, revocations, the end of our own leaving, and whatever of ours holds these up.
    #[toml_example(default = 2000)]
    pub(crate) fee_max_urgent_gwei: u64,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            rpc: Rpc::One("http://127.0.0.1:8545".into()),
            rpc_quorum: 0,
            chain_id: crate::network::CHAIN_ID,
            contract: String::new(),
            token: String::new(),
            towers: String::new(),
            keys: String::new(),
            stake: String::new(),
            confirmations: 12,
            fee_max_gwei: 500,
            fee_max_urgent_gwei: 2000,
        }
    }
}

impl ChainConfig {
    /// Where the chain is reached: one node, or several and how many of them must agree.
    ///
    /// # Errors
    /// Where none is named, one is named twice, or `rpc_quorum` of them cannot agree.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        let urls = match &self.rpc {
            Rpc::One(url) => std::slice::from_ref(url),
            Rpc::Several(urls) => urls,
        };
        let (count, quorum) = (urls.len(), self.rpc_quorum);
        ensure!(count > 0, "[chain] rpc names no node");
        ensure!(quorum <= count, "[chain] rpc_quorum = {quorum}, but rpc names {count} of them");
        for (at, url) in urls.iter().enumerate() {
            let name = Endpoint::Http(url.clone()).name();
            ensure!(
                !urls[..at].contains(url),
                "the node at {name} is named twice: it has one vote"
            );
        }
        let quorum = if quorum == 0 { count / 2 + 1 } else { quorum };
        let mut endpoints: Vec<_> = urls.iter().cloned().map(Endpoint::Http).collect();
        Ok(match endpoints.pop() {
            Some(only) if endpoints.is_empty() => only,
            last => {
                endpoints.extend(last);
                Endpoint::Several { endpoints, quorum }
            }
        })
    }
}

/// One URL, or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a URL or a list of URLs")]
pub(crate) enum Rpc {
    One(String),
    Several(Vec<String>),
}

/// What you sell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProviderConfig {
    /// UDP address to listen on.
    #[toml_example(default = "0.0.0.0:4433")]
    pub(crate) listen: SocketAddr,
    /// Price per GiB, both directions together, in the token.
    #[toml_example(default = "0.02")]
    pub(crate) price: String,
    /// How many bytes a new channel is served ahead of payment: what a stranger can cost you.
    #[toml_example(default = "128KiB")]
    pub(crate) credit_initial: String,
    /// How many bytes the best customer is served ahead of payment. Between the two, credit is
    /// 1/64 of what was paid for.
    #[toml_example(default = "16MiB")]
    pub(crate) credit_maximum: String,
    /// The least that a channel must hold, in the token.
    #[toml_example(default = "0.01")]
    pub(crate) channel_min: String,
    /// Seconds that you want to have for claiming when a payer leaves: 900 to 2592000.
    #[toml_example(default = 86400)]
    pub(crate) withdraw_delay_secs: u32,
    /// How long an offer stays valid, in minutes: 1 to 1440.
    #[toml_example(default = 60)]
    pub(crate) terms_valid_minutes: u64,
    /// Most sessions at a time.
    #[toml_example(default = 256)]
    pub(crate) connections_max: usize,
    /// Most streams of one connection at a time: 1 to 4000.
    #[toml_example(default = 2048)]
    pub(crate) streams_max: usize,
    /// Most new streams of one session a second, and ten times as many at once: connecting is not
    /// billed. Others wait up to 10 seconds for their turn. 1 to 1000000.
    #[toml_example(default = 200)]
    pub(crate) streams_per_sec_max: u32,
    /// Destinations that are reached in spite of the rules: `host:port`, `ip:port`,
    /// `network:port`, `*` for any port. Everything in private networks is denied otherwise.
    #[toml_example(default = [])]
    pub(crate) allow: Vec<String>,
    /// Domain names that are not served, with all names below them.
    #[toml_example(default = [])]
    pub(crate) deny_domains: Vec<String>,
    /// Networks that are not served, beside all special ones and your own: for example your
    /// router's public address.
    #[toml_example(default = [])]
    pub(crate) deny_networks: Vec<String>,
    /// Ports that are not served. The default is mail's.
    #[toml_example(default = [25, 465, 587, 2525])]
    pub(crate) deny_ports: Vec<u16>,
    /// A wallet that is paid instead of this node's own, whose key need not be here: the file with its
    /// word for this node, in the data directory, as `sparewire wallet delegation import` wrote it.
    /// This node's own wallet pays gas all the same. Empty: the own wallet is paid.
    #[toml_example(default = "")]
    pub(crate) delegation: String,
    /// Watchtowers that your newest vouchers are entrusted to, as `sparewire watch serve` shows
    /// them: `node-id@ip:port`. At most 16. They claim for you if a payer leaves while you sleep.
    #[toml_example(default = [])]
    pub(crate) towers: Vec<String>,
    /// What a watchtower gets for defending one of your channels, in the token; paid out of what
    /// `sparewire watch fund` put aside. 0 for towers that want nothing.
    #[toml_example(default = "0")]
    pub(crate) tower_reward: String,
    /// How much may be promised over a channel beyond what a tower holds before it is told, in the
    /// token.
    #[toml_example(default = "0.01")]
    pub(crate) tower_step: String,
    /// How many minutes less than that may wait: 0 to 1440.
    #[toml_example(default = 10)]
    pub(crate) tower_minutes: u64,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4433)),
            price: "0.02".into(),
            credit_initial: "128KiB".into(),
            credit_maximum: "16MiB".into(),
            channel_min: "0.01".into(),
            withdraw_delay_secs: 86_400,
            terms_valid_minutes: 60,
            connections_max: 256,
            streams_max: 2048,
            streams_per_sec_max: 200,
            allow: Vec::new(),
            deny_domains: Vec::new(),
            deny_networks: Vec::new(),
            deny_ports: vec![25, 465, 587, 2525],
            delegation: String::new(),
            towers: Vec::new(),
            tower_reward: "0".into(),
            tower_step: "0.01".into(),
            tower_minutes: 10,
        }
    }
}

/// What you buy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ConsumerConfig {
    /// Where the proxy listens (SOCKS5 and HTTP CONNECT on one port). Loopback only.
    #[toml_example(default = "127.0.0.1:1080")]
    pub(crate) proxy: SocketAddr,
    /// The dearest price per GiB that is accepted, in the token.
    #[toml_example(default = "0.05")]
    pub(crate) price_max: String,
    /// What is put into a new channel, and what one is topped up by, in the token.
    #[toml_example(default = "1")]
    pub(crate) channel_amount: String,
    /// The most that all your channels may hold and have spent together, in the token.
    #[toml_example(default = "10")]
    pub(crate) budget: String,
    /// Seconds a provider gets for claiming when you leave; more where it asks for more.
    #[toml_example(default = 86400)]
    pub(crate) withdraw_delay_secs: u32,
    /// The longest such delay that is accepted.
    #[toml_example(default = 604800)]
    pub(crate) withdraw_delay_secs_max: u32,
    /// Most streams at a time: 1 to 4000.
    #[toml_example(default = 2048)]
    pub(crate) streams_max: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            proxy: SocketAddr::from(([127, 0, 0, 1], 1080)),
            price_max: "0.05".into(),
            channel_amount: "1".into(),
            budget: "10".into(),
            withdraw_delay_secs: 86_400,
            withdraw_delay_secs_max: 604_800,
            streams_max: 2048,
        }
    }
}

/// How torrents are shared and fetched. Nobody is asked for peers but those whom you or a torrent
/// name: there are no servers of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ContentConfig {
    /// TCP address to listen on.
    #[toml_example(default = "0.0.0.0:6881")]
    pub(crate) listen: SocketAddr,
    /// Price per GiB at which is sold what you share, and what you have fetched, in the token.
    /// Empty: it is given for nothing, save what is fetched for money, which is sold at the dearest
    /// price that is paid for it. Anything else needs keys and a chain.
    #[toml_example(default = "")]
    pub(crate) price: String,
    /// Serve those who do not pay, too, where there is a price.
    #[toml_example(default = false)]
    pub(crate) free_for_unpaid: bool,
    /// The dearest price per GiB that is paid for what you fetch, in the token. Empty: only what
    /// is for nothing is taken. [consumer] has the budget, and what channels are like.
    #[toml_example(default = "")]
    pub(crate) price_max: String,
    /// How many bytes a new channel is served ahead of payment. Of a torrent without hash trees
    /// (v1) at least two of its pieces are.
    #[toml_example(default = "128KiB")]
    pub(crate) credit_initial: String,
    /// How many bytes the best customer is served ahead of payment.
    #[toml_example(default = "16MiB")]
    pub(crate) credit_maximum: String,
    /// Bytes a second for all together who do not pay, for example 2MiB. Empty: 1 MiB for what has
    /// a price, and no bound for what has none.
    #[toml_example(default = "")]
    pub(crate) free_upload: String,
    /// Most connections of all torrents together: 1 to 10000.
    #[toml_example(default = 200)]
    pub(crate) connections_max: usize,
    /// Most connections of one torrent: 1 to 1000.
    #[toml_example(default = 50)]
    pub(crate) peers_max: usize,
    /// Ask the trackers that torrents name.
    #[toml_example(default = true)]
    pub(crate) trackers: bool,
    /// Nodes of the mainline DHT to begin with, `host:port`. Without any the DHT is not used.
    #[toml_example(default = [])]
    pub(crate) dht_bootstrap: Vec<String>,
    /// UDP port of our node of the DHT. 0 stands for any.
    #[toml_example(default = 0)]
    pub(crate) dht_port: u16,
    /// Find peers in the local network by multicast (BEP 14).
    #[toml_example(default = true)]
    pub(crate) local_discovery: bool,
    /// Learn peers from peers (BEP 11).
    #[toml_example(default = true)]
    pub(crate) peer_exchange: bool,
    /// Trackers, and peers that strangers name, may have addresses that are not public. A torrent
    /// can then make this machine talk to others of your network.
    #[toml_example(default = false)]
    pub(crate) private_addresses: bool,
}

impl Default for ContentConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 6881)),
            price: String::new(),
            free_for_unpaid: false,
            price_max: String::new(),
            credit_initial: "128KiB".into(),
            credit_maximum: "16MiB".into(),
            free_upload: String::new(),
            connections_max: 200,
            peers_max: 50,
            trackers: true,
            dht_bootstrap: Vec::new(),
            dht_port: 0,
            local_discovery: true,
            peer_exchange: true,
            private_addresses: false,
        }
    }
}

/// When what was earned is claimed on chain. A payer that leaves is always claimed from in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SettleConfig {
    /// Claim when this much waits over all channels together, in the token. Empty: never for that.
    #[toml_example(default = "")]
    pub(crate) threshold: String,
    /// Claim when so many hours have passed since the last time, or since the start. 0: never for
    /// that.
    #[toml_example(default = 24)]
    pub(crate) period_hours: u64,
    /// Claim when `provide` ends.
    #[toml_example(default = false)]
    pub(crate) at_shutdown: bool,
    /// Most of a claim that its fee may take, in percent, 0 to 100. When you ask, and in the last
    /// moment before a payer has left, anything above the fee is claimed.
    #[toml_example(default = 10)]
    pub(crate) fee_percent_max: u8,
    /// What one whole coin of the chain's own currency (10^18 wei) is worth in the token, for
    /// example 3000. Where gas costs something and this is empty, nobody can say what is a loss:
    /// claims are made when you ask and when a payer leaves, and for no other reason. The embedded
    /// chain's coins are worth nothing unless you say otherwise.
    #[toml_example(default = "")]
    pub(crate) native_price: String,
}

impl Default for SettleConfig {
    fn default() -> Self {
        Self {
            threshold: String::new(),
            period_hours: 24,
            at_shutdown: false,
            fee_percent_max: 10,
            native_price: String::new(),
        }
    }
}

/// What you watch for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WatchConfig {
    /// UDP address to listen on.
    #[toml_example(default = "0.0.0.0:4434")]
    pub(crate) listen: SocketAddr,
    /// The least reward for a channel, in the token: it should pay for two transactions. 0 watches
    /// for everybody and for nothing, and lets strangers spend your gas.
    #[toml_example(default = "0.05")]
    pub(crate) reward_min: String,
    /// Node ids of providers who need no reward.
    #[toml_example(default = [])]
    pub(crate) friends: Vec<String>,
    /// The shortest withdraw delay of a channel that is watched, in seconds: 900 to 2592000. It
    /// should be many times what your chain needs to make a transaction final.
    #[toml_example(default = 7200)]
    pub(crate) withdraw_delay_secs_min: u32,
    /// Most channels watched: 1 to 1000000. Each takes about 1 KiB of memory, and a few questions
    /// to your chain node each `look_secs`.
    #[toml_example(default = 10000)]
    pub(crate) channels_max: usize,
    /// Most channels watched for one provider.
    #[toml_example(default = 2000)]
    pub(crate) channels_per_client_max: usize,
    /// Seconds between two looks at a channel: 1 to 3600. Less where a sixteenth of its withdraw
    /// delay is less.
    #[toml_example(default = 300)]
    pub(crate) look_secs: u64,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4434)),
            reward_min: "0.05".into(),
            friends: Vec::new(),
            withdraw_delay_secs_min: 7_200,
            channels_max: 10_000,
            channels_per_client_max: 2_000,
            look_secs: 300,
        }
    }
}

impl SettleConfig {
    /// The policy that this describes, in `token` on a chain. The embedded chain's own currency is
    /// made out of nothing, and worth nothing where nobody says otherwise.
    ///
    /// # Errors
    /// Where a figure is none, or out of range.
    pub(crate) fn policy(&self, token: &TokenInfo, chain_id: u64) -> Result<SettlePolicy> {
        let amount = |text: &str, key: &'static str| match text.trim() {
            "" => Ok(None),
            text => Amount::parse(text, token.decimals).map(Some).context(key),
        };
        ensure!(
            self.fee_percent_max <= 100,
            "[settle] fee_percent_max = {} is not within 0 to 100",
            self.fee_percent_max
        );
        let hour_ms = 3_600_000;
        let period_ms = (self.period_hours > 0).then(|| self.period_hours.saturating_mul(hour_ms));
        let worthless = (chain_id == crate::network::CHAIN_ID).then_some(Amount::ZERO);
        let per_coin = amount(&self.native_price, "[settle] native_price")?.or(worthless);
        Ok(SettlePolicy {
            threshold: amount(&self.threshold, "[settle] threshold")?,
            period_ms,
            at_shutdown: self.at_shutdown,
            fee_percent_max: self.fee_percent_max,
            native_price: per_coin.map(|per_coin| NativePrice { token: token.address, per_coin }),
        })
    }
}

/// What others may watch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, TomlExample)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MetricsConfig {
    /// Where Prometheus metrics are served (`/metrics`); empty turns them off.
    #[toml_example(default = "")]
    pub(crate) listen: String,
}

impl Config {
    /// Reads the file; a missing one is all defaults.
    pub(crate) fn load(path: &Path, required: bool) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        toml::from_str(&text).with_context(|| {
            format!("{} is not valid; compare it with `sparewire config example`", path.display())
        })
    }

    /// A file with every key, its meaning and its default.
    pub(crate) fn example() -> String {
        Self::toml_example()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let example = Config::example();
        assert_eq!(toml::from_str::<Config>(&example).unwrap(), Config::default());
        let keys = toml::Value::try_from(Config::default()).unwrap();
        for (section, table) in keys.as_table().unwrap() {
            assert!(example.contains(&format!("[{section}]")), "{section}");
            for key in table.as_table().unwrap().keys() {
                assert!(example.lines().any(|line| line.starts_with(&format!("{key} ="))), "{key}");
            }
        }
    }

    #[test]
    fn one_node_or_several_are_named_and_more_than_half_must_agree() {
        let endpoint = |text: &str| {
            let config = toml::from_str::<Config>(&format!("[chain]\n{text}")).unwrap();
            config.chain.endpoint().map_err(|error| error.to_string())
        };
        for one in ["rpc = \"http://a\"", "rpc = [\"http://a\"]\nrpc_quorum = 1"] {
            assert!(matches!(endpoint(one).unwrap(), Endpoint::Http(url) if url == "http://a"));
        }
        let quorum_of = |text: &str| match endpoint(text).unwrap() {
            Endpoint::Several { endpoints, quorum } => (endpoints.len(), quorum),
            other => panic!("{other:?}"),
        };
        let three = "rpc = [\"http://a\", \"http://b\", \"http://c/key\"]";
        assert_eq!(quorum_of("rpc = [\"http://a\", \"http://b\"]"), (2, 2));
        assert_eq!(quorum_of(three), (3, 2));
        assert_eq!(quorum_of(&format!("{three}\nrpc_quorum = 3")), (3, 3));
        assert_eq!(endpoint(three).unwrap().name(), "http://a, http://b, http://c");

        assert!(endpoint("rpc = []").unwrap_err().contains("no node"));
        assert!(endpoint(&format!("{three}\nrpc_quorum = 4")).unwrap_err().contains("names 3"));
        let twice = endpoint("rpc = [\"http://a/s3cret\", \"http://a/s3cret\"]").unwrap_err();
        assert!(twice.contains("http://a is named twice") && !twice.contains("s3cret"), "{twice}");
        let error = toml::from_str::<Config>("[chain]\nrpc = 1").unwrap_err();
        assert!(error.to_string().contains("a URL or a list of URLs"), "{error}");
    }

    #[test]
    fn when_to_claim_is_read_in_the_tokens_units_and_odd_figures_are_named() {
        let address = sparewire_core::Address::repeat_byte(1);
        let token = TokenInfo { address, symbol: "T".into(), decimals: 6 };
        let policy = |text: &str, chain_id| {
            let config = toml::from_str::<Config>(&format!("[settle]\n{text}")).unwrap();
            config.settle.policy(&token, chain_id).map_err(|error| format!("{error:#}"))
        };
        let read = policy("threshold = \"1.5\"\nperiod_hours = 0\nnative_price = \"3000\"", 1);
        let read = read.unwrap();
        assert_eq!((read.threshold, read.period_ms), (Amount::new(1_500_000), None));
        assert_eq!(read.native_price.map(|price| price.per_coin), Amount::new(3_000_000_000));

        let unsaid = policy("", 1).unwrap();
        assert_eq!((unsaid.threshold, unsaid.period_ms), (None, Some(86_400_000)));
        assert_eq!(unsaid.native_price, None, "nobody guesses what gas is worth");
        let embedded = policy("", crate::network::CHAIN_ID).unwrap().native_price;
        assert_eq!(embedded.map(|price| price.per_coin), Some(Amount::ZERO));

        for (text, named) in [
            ("fee_percent_max = 101", "fee_percent_max = 101"),
            ("threshold = \"much\"", "threshold"),
            ("native_price = \"0.0000001\"", "native_price"),
        ] {
            assert!(policy(text, 1).unwrap_err().contains(named), "{text}");
        }
    }

    #[test]
    fn a_misspelled_key_is_an_error_that_names_it() {
        let error = toml::from_str::<Config>("[provider]\nprise = \"1\"").unwrap_err();
        assert!(error.to_string().contains("prise"), "{error}");
    }
}
