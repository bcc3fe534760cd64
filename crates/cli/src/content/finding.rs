//! Where peers of a torrent are looked for: what the user named, and what is said of it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use sparewire_content::Metainfo;
use sparewire_node::content::DiscoveryConfig;
use tokio::{net::lookup_host, time::timeout};

use super::Settings;
use crate::hint::Hint;

/// How long the name of a peer may take to be found.
const RESOLVE: Duration = Duration::from_secs(10);

/// What is known, and behind it what is new.
pub(super) fn with_more(known: &[String], new: &[String]) -> Vec<String> {
    let mut all = known.to_vec();
    for text in new {
        if !all.contains(text) {
            all.push(text.clone());
        }
    }
    all
}

/// Adds trackers that the user named, as a tier of their own.
pub(super) fn with_trackers(metainfo: &mut Metainfo, settings: &Settings) {
    let mut tiers = metainfo.trackers().to_vec();
    let known = |url: &String| tiers.iter().flatten().any(|known| known == url);
    let new: Vec<String> = settings.trackers.iter().filter(|url| !known(url)).cloned().collect();
    if !new.is_empty() {
        tiers.push(new);
        metainfo.set_trackers(tiers);
    }
}

/// The addresses of peers that were named.
pub(super) async fn resolve(peers: &[String]) -> Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for peer in peers {
        let unknown =
            || Hint::new(format!("there is no peer \"{peer}\"")).hint("a peer is HOST:PORT");
        let found = timeout(RESOLVE, lookup_host(peer)).await.ok().and_then(Result::ok);
        let before = addresses.len();
        addresses.extend(found.into_iter().flatten());
        if addresses.len() == before {
            bail!(unknown());
        }
    }
    Ok(addresses)
}

/// Where peers of a torrent with so many trackers are looked for, for people.
pub(super) fn searching(config: &DiscoveryConfig, trackers: usize, private: bool) -> String {
    let mut ways = Vec::new();
    match (config.trackers, trackers) {
        (_, 0) => ways.push("it names no trackers".to_owned()),
        (true, 1) => ways.push("asking its tracker".into()),
        (true, many) => ways.push(format!("asking its {many} trackers")),
        (false, _) => ways.push("trackers are off: [content] trackers".into()),
    }
    if !private {
        ways.push(match config.dht {
            Some(_) => "asking the DHT".into(),
            None => "the DHT is off: [content] dht_bootstrap".into(),
        });
        if config.local_discovery {
            ways.push("asking the local network".into());
        }
    }
    ways.push("--peer HOST:PORT names one".into());
    ways.join(", ")
}
