//! From configuration to running parts.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use sparewire_core::{Address, Amount, ByteCount, Price};
use sparewire_node::{
    buyer::BuyerConfig,
    consumer::{Consumer, ConsumerConfig},
    content::{DhtConfig, DiscoveryConfig, EngineConfig},
    exit::{Exit, ExitPolicy},
    provider::{Provider, ProviderConfig},
    seller::SellerConfig,
    tower::{EntrustConfig, Entrusting, TowerService, TowerStore},
    transport::{Endpoint, EndpointConfig, PeerAddress, WATCH_ALPN},
};
use sparewire_protocol::{CreditRule, TOWERS_MAX, watch::TowerPolicy};

use crate::{
    config,
    home::{Home, Node, clock},
    side::Side,
};

/// How often a provider asks the chain about the channels in use.
const FACTS_EVERY: Duration = Duration::from_secs(15);
/// How often it asks whether payers have started to leave.
const CLOSES_EVERY: Duration = Duration::from_secs(60);
/// How often a consumer asks whether its provider's keys are revoked.
const KEYS_EVERY: Duration = Duration::from_secs(60);

/// How often peers are told of others: at most once a minute (BEP 11).
const EXCHANGE_EVERY: Duration = Duration::from_secs(60);
/// How often a torrent is looked up and announced in the DHT.
const DHT_EVERY: Duration = Duration::from_secs(15 * 60);

/// A provider that is bound and not running yet.
pub(crate) async fn provider(
    config: &config::ProviderConfig,
    settle: &config::SettleConfig,
    side: &Side,
) -> Result<(Arc<Provider>, Endpoint)> {
    let decimals = side.token.decimals;
    let credit = CreditRule {
        initial: ByteCount::parse(&config.credit_initial).context("[provider] credit_initial")?,
        maximum: ByteCount::parse(&config.credit_maximum).context("[provider] credit_maximum")?,
    };
    ensure!(
        credit.is_sound(),
        "[provider] credit_initial must be at least 2 bytes and not above credit_maximum"
    );
    check_range(config.streams_max, 1, 4000, "[provider] streams_max")?;
    let per_sec_max = config.streams_per_sec_max;
    check_range(per_sec_max as usize, 1, 1_000_000, "[provider] streams_per_sec_max")?;
    check_range(config.connections_max, 1, 100_000, "[provider] connections_max")?;
    let selling = selling(config, settle, side)?;
    let settings = ProviderConfig {
        selling,
        price: Price::parse(&config.price, decimals).context("[provider] price")?,
        credit,
        streams_max: config.streams_max,
        streams_per_sec_max: per_sec_max,
    };
    let exit = Exit::new(policy(config)?);
    let endpoint = bind(&side.node, Some(config.listen)).await?;
    let identity = side.node.identity.clone();
    let (store, chain) = (Arc::clone(&side.store), Arc::clone(&side.chain));
    let provider = Provider::new(settings, identity, endpoint.clone(), store, chain, exit, clock());
    Ok((provider, endpoint))
}

/// On which conditions a node sells.
pub(crate) fn selling(
    config: &config::ProviderConfig,
    settle: &config::SettleConfig,
    side: &Side,
) -> Result<SellerConfig> {
    check_delay(config.withdraw_delay_secs, "[provider] withdraw_delay_secs")?;
    check_range(config.terms_valid_minutes as usize, 1, 1440, "[provider] terms_valid_minutes")?;
    Ok(SellerConfig {
        token: side.token.address,
        withdraw_delay_secs_min: config.withdraw_delay_secs,
        channel_min: Amount::parse(&config.channel_min, side.token.decimals)
            .context("[provider] channel_min")?,
        terms_valid_ms: config.terms_valid_minutes * 60_000,
        sessions_max: config.connections_max,
        facts_every: FACTS_EVERY,
        closes_every: CLOSES_EVERY,
        keys: side.registry,
        settle: settle.policy(&side.token, side.chain.domain().chain_id)?,
    })
}

/// On which conditions a node buys, at no more than `price_max`.
pub(crate) fn buying(
    config: &config::ConsumerConfig,
    price_max: Price,
    side: &Side,
) -> Result<BuyerConfig> {
    check_delay(config.withdraw_delay_secs, "[consumer] withdraw_delay_secs")?;
    let decimals = side.token.decimals;
    let buying = BuyerConfig {
        token: side.token.address,
        price_max,
        channel_amount: Amount::parse(&config.channel_amount, decimals)
            .context("[consumer] channel_amount")?,
        budget: Amount::parse(&config.budget, decimals).context("[consumer] budget")?,
        withdraw_delay_secs: config.withdraw_delay_secs,
        withdraw_delay_secs_max: config.withdraw_delay_secs_max,
        keys: side.registry,
        keys_every: KEYS_EVERY,
        forgive: false,
    };
    ensure!(buying.channel_amount > Amount::ZERO, "[consumer] channel_amount must be above 0");
    Ok(buying)
}

/// How far blocks are sent ahead of payment.
pub(crate) fn content_credit(config: &config::ContentConfig) -> Result<CreditRule> {
    let credit = CreditRule {
        initial: ByteCount::parse(&config.credit_initial).context("[content] credit_initial")?,
        maximum: ByteCount::parse(&config.credit_maximum).context("[content] credit_maximum")?,
    };
    ensure!(
        credit.is_sound(),
        "[content] credit_initial must be at least 2 bytes and not above credit_maximum"
    );
    Ok(credit)
}

/// What an engine of torrents needs to know, money apart.
pub(crate) fn engine(config: &config::ContentConfig) -> Result<EngineConfig> {
    check_range(config.connections_max, 1, 10_000, "[content] connections_max")?;
    check_range(config.peers_max, 1, 1_000, "[content] peers_max")?;
    let free_upload = match config.free_upload.trim() {
        "" => None,
        text => Some(ByteCount::parse(text).context("[content] free_upload")?.get()),
    };
    let dht = (!config.dht_bootstrap.is_empty()).then(|| DhtConfig {
        bootstrap: config.dht_bootstrap.clone(),
        bind: None,
        port: (config.dht_port != 0).then_some(config.dht_port),
        every: DHT_EVERY,
        server: false,
    });
    let discovery = DiscoveryConfig {
        trackers: config.trackers,
        dht,
        local_discovery: config.local_discovery,
        peer_exchange: config.peer_exchange.then_some(EXCHANGE_EVERY),
        private_addresses: config.private_addresses,
        ..DiscoveryConfig::none()
    };
    Ok(EngineConfig {
        discovery,
        connections_max: config.connections_max,
        peers_max: config.peers_max,
        free_upload,
        ..EngineConfig::new(config.listen)
    })
}

/// What entrusts a provider's vouchers to its watchtowers; `None` where it has none.
pub(crate) fn entrusting(
    home: &Home,
    side: &Side,
    endpoint: &Endpoint,
) -> Result<Option<Arc<Entrusting>>> {
    let (config, decimals) = (&home.config.provider, side.token.decimals);
    if config.towers.is_empty() {
        return Ok(None);
    }
    let towers = config
        .towers
        .iter()
        .map(|text| text.parse().with_context(|| format!("[provider] towers: \"{text}\"")));
    let towers: Vec<PeerAddress> = towers.collect::<Result<_>>()?;
    check_range(towers.len(), 1, usize::from(TOWERS_MAX), "the number of [provider] towers")?;
    for (at, tower) in towers.iter().enumerate() {
        let twice = towers[..at].iter().any(|other| other.node == tower.node);
        ensure!(!twice, "[provider] towers names {} twice", tower.node);
    }
    check_range(config.tower_minutes as usize, 0, 1440, "[provider] tower_minutes")?;
    let amount = |text: &str, key: &str| {
        Amount::parse(text, decimals).with_context(|| format!("[provider] {key}"))
    };
    let settings = EntrustConfig {
        towers,
        contract: home.towers()?,
        token: side.token.address,
        reward: amount(&config.tower_reward, "tower_reward")?,
        step: amount(&config.tower_step, "tower_step")?,
        wait_ms: config.tower_minutes * 60_000,
    };
    ensure!(
        settings.reward == Amount::ZERO || settings.contract != Address::ZERO,
        "[provider] tower_reward needs [chain] towers, the contract that holds it"
    );
    let kept = Arc::new(TowerStore::open(&home.watch_path())?);
    let identity = side.node.identity.clone();
    let (store, domain) = (Arc::clone(&side.store), side.chain.domain());
    let endpoint = endpoint.clone();
    Ok(Some(Entrusting::new(settings, identity, endpoint, store, domain, kept, clock())?))
}

/// A watchtower that is bound and not running yet.
pub(crate) async fn tower(home: &Home, side: &Side) -> Result<(Arc<TowerService>, Endpoint)> {
    let config = &home.config.watch;
    check_delay(config.withdraw_delay_secs_min, "[watch] withdraw_delay_secs_min")?;
    check_range(config.channels_max, 1, 1_000_000, "[watch] channels_max")?;
    check_range(config.look_secs as usize, 1, 3_600, "[watch] look_secs")?;
    let friends = config
        .friends
        .iter()
        .map(|text| text.parse().with_context(|| format!("[watch] friends: \"{text}\"")));
    let policy = TowerPolicy {
        domain: side.chain.domain(),
        towers: home.towers()?,
        token: side.token.address,
        reward_min: Amount::parse(&config.reward_min, side.token.decimals)
            .context("[watch] reward_min")?,
        friends: friends.collect::<Result<_>>()?,
        withdraw_delay_secs_min: config.withdraw_delay_secs_min,
        appointments_max: config.channels_max,
        appointments_per_client_max: config.channels_per_client_max,
        look_ms: config.look_secs * 1000,
    };
    let mut settings = EndpointConfig::new(*side.node.device_secret);
    (settings.bind_addr, settings.alpns) = (Some(config.listen), &[WATCH_ALPN]);
    let endpoint = Endpoint::bind(settings).await?;
    let store = Arc::new(TowerStore::open(&home.watch_path())?);
    let device = Arc::clone(&side.node.identity.device);
    let chain = Arc::clone(&side.chain);
    let tower = TowerService::new(policy, device, endpoint.clone(), store, chain, clock())?;
    Ok((tower, endpoint))
}

/// A consumer of one provider, not running yet. It deals with one that contradicted itself only
/// where it is to `forgive`.
pub(crate) async fn consumer(
    config: &config::ConsumerConfig,
    provider: PeerAddress,
    forgive: bool,
    side: &Side,
) -> Result<(Arc<Consumer>, Endpoint)> {
    check_range(config.streams_max, 1, 4000, "[consumer] streams_max")?;
    let decimals = side.token.decimals;
    let price_max = Price::parse(&config.price_max, decimals).context("[consumer] price_max")?;
    let buying = BuyerConfig { forgive, ..buying(config, price_max, side)? };
    let settings = ConsumerConfig { buying, streams_max: config.streams_max };
    let endpoint = bind(&side.node, None).await?;
    let identity = side.node.identity.clone();
    let (store, chain) = (Arc::clone(&side.store), Arc::clone(&side.chain));
    let consumer =
        Consumer::new(settings, provider, identity, endpoint.clone(), store, chain, clock());
    Ok((consumer, endpoint))
}

/// Where a configuration lets consumers go.
pub(crate) fn policy(config: &config::ProviderConfig) -> Result<ExitPolicy> {
    fn all<T: std::str::FromStr>(texts: &[String], key: &str) -> Result<Vec<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let parse =
            |text: &String| text.parse().with_context(|| format!("[provider] {key}: \"{text}\""));
        texts.iter().map(parse).collect()
    }
    Ok(ExitPolicy {
        allow: all(&config.allow, "allow")?,
        deny_domains: all(&config.deny_domains, "deny_domains")?,
        deny_networks: all(&config.deny_networks, "deny_networks")?,
        deny_ports: config.deny_ports.clone(),
    })
}

/// The transport endpoint of a node.
pub(crate) async fn bind(node: &Node, addr: Option<SocketAddr>) -> Result<Endpoint> {
    let mut config = EndpointConfig::new(*node.device_secret);
    config.bind_addr = addr;
    Ok(Endpoint::bind(config).await?)
}

/// The contract takes 15 minutes to 30 days.
fn check_delay(secs: u32, key: &str) -> Result<()> {
    check_range(secs as usize, 900, 2_592_000, key)
}

fn check_range(value: usize, least: usize, most: usize, key: &str) -> Result<()> {
    ensure!((least..=most).contains(&value), "{key} = {value} is not within {least} to {most}");
    Ok(())
}
