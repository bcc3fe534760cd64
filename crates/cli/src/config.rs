//! The configuration file. Every key has a default; a flag on the command line goes before it.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sparewire_chain::Endpoint;
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
    /// Blocks on top of one that make it final, where the node knows no `finalized` tag.
    #[toml_example(default = 12)]
    pub(crate) confirmations: u64,
    /// Most that is paid for a unit of gas, in gwei; dearer times are waited out.
    #[toml_example(default = 500)]
    pub(crate) fee_max_gwei: u64,
    /// The same for what cannot wait, where it is more: claims from channels whose payer is leaving,
    /// the end of our own leaving, and whatever of ours holds these up.
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
    fn a_misspelled_key_is_an_error_that_names_it() {
        let error = toml::from_str::<Config>("[provider]\nprise = \"1\"").unwrap_err();
        assert!(error.to_string().contains("prise"), "{error}");
    }
}
