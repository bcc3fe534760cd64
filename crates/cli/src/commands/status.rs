//! `sparewire status`: what is going on in a data directory.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sparewire_chain::ChainWork;
use sparewire_core::{Address, ChannelId};
use sparewire_protocol::Role;
use sparewire_wallet::NodeKeys;

use super::{channel::FROZEN, provide::promised};
use crate::{
    backup::Stamp,
    control::{self, Request},
    dates, delegation,
    home::{Home, clock},
    output,
};

pub(crate) async fn run(home: &Home, json: bool) -> Result<()> {
    let running = control::ask(&home.control_path(), Request::Status).await?;
    let keys = NodeKeys::peek(&home.keys_dir()).ok();
    let store = home.store_to_read()?;
    let (earned, spent, sessions, frozen) = match &store {
        Some(store) => {
            use sparewire_node::store::Store;
            let sessions = store.sessions()?.len();
            let frozen = store.channels(Role::Payer)?.into_iter().filter(|it| it.frozen);
            let frozen: Vec<ChannelId> = frozen.map(|it| it.id).collect();
            (promised(store, Role::Payee)?, promised(store, Role::Payer)?, sessions, frozen)
        }
        None => Default::default(),
    };
    // Keys are kept in such URLs: only scheme and host are shown.
    let chain = home.config.chain.endpoint()?.name();
    // A running node holds its journal; otherwise nobody follows what is in it.
    let work = match &running {
        // An older node does not tell.
        Some(running) => ChainWork::deserialize(&running["chain_work"]).unwrap_or_default(),
        None => home.chain_work()?,
    };
    let backup = Stamp::read(home);
    let payee = Payee::of(home);
    let value = json!({
        "data_dir": home.dir, "chain_work": work, "keys": keys, "chain": chain, "last_backup": backup,
        "payee": payee, "sessions": sessions, "earned_units": earned, "spent_units": spent,
        "frozen": frozen, "running": running,
    });
    if json {
        return output::json(&value);
    }
    crate::output::out!("data dir  {}", home.dir.display());
    match keys {
        Some(keys) => {
            crate::output::out!("wallet    {}", keys.wallet);
            crate::output::out!("node id   {}", keys.node_id);
        }
        None => crate::output::out!("wallet    none; make one with `sparewire wallet new`"),
    }
    for line in payee.iter().flat_map(Payee::lines) {
        crate::output::out!("{line}");
    }
    crate::output::out!("chain     {}", chain);
    let nodes = running.as_ref().and_then(|running| running["nodes"].as_array());
    for node in nodes.into_iter().flatten() {
        if let (Some(name), Some(fault)) = (node["name"].as_str(), node["fault"].as_str()) {
            crate::output::out!("          {name} {fault}");
        }
    }
    let now_secs = clock()().as_ms() / 1000;
    for line in work.lines(now_secs) {
        crate::output::out!("          {line}");
    }
    if running.is_none() && !work.under_way.is_empty() {
        crate::output::out!("          (followed when a node runs here again, or by `settle`)");
    }
    crate::output::out!("sessions  {sessions}; earned {earned}, spent {spent} (smallest units)");
    for channel in frozen {
        crate::output::out!("channel   {} {FROZEN}", output::short(&channel));
    }
    match backup {
        Some(stamp) => {
            let age = dates::duration(stamp.age_ms());
            crate::output::out!("backup    {age} old: {}", stamp.file.display());
        }
        None => crate::output::out!("backup    none; make one with `sparewire backup create FILE`"),
    }
    match running {
        Some(running) => {
            crate::output::out!("running   {}", serde_json::to_string_pretty(&running)?)
        }
        None => crate::output::out!("running   nothing"),
    }
    Ok(())
}

/// Another wallet that is paid instead of ours, as the configuration has it.
#[derive(Debug, Serialize)]
struct Payee {
    /// `None` where its delegation cannot be read.
    wallet: Option<Address>,
    /// When its delegation ends, in seconds since the epoch.
    expiry: Option<u64>,
    /// What is wrong, or will be.
    trouble: Option<String>,
}

impl Payee {
    /// `None` where this node's own wallet is paid.
    fn of(home: &Home) -> Option<Self> {
        let found = match delegation::configured(home) {
            Ok(found) => found?.body,
            Err(error) => {
                return Some(Self {
                    wallet: None,
                    expiry: None,
                    trouble: Some(format!("{error:#}")),
                });
            }
        };
        let own = NodeKeys::peek(&home.keys_dir()).ok();
        let is_ours =
            own.is_none_or(|own| (found.device, found.authorizer) == (own.node_id, own.authorizer));
        let trouble = match is_ours {
            true => delegation::warning(&found, clock()().as_secs()),
            false => Some("its delegation is for another node".into()),
        };
        Some(Self { wallet: Some(found.wallet), expiry: Some(found.expiry_secs), trouble })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let (Some(wallet), Some(expiry)) = (self.wallet, self.expiry) {
            lines.push(format!("paid to   {wallet}, until {}", dates::Day::of_secs(expiry)));
        }
        lines.extend(self.trouble.as_ref().map(|trouble| format!("          WARNING: {trouble}")));
        lines
    }
}
