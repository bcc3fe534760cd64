//! `sparewire status`: what is going on in a data directory.

use anyhow::Result;
use serde::Deserialize;
use serde_json::json;
use sparewire_chain::ChainWork;
use sparewire_protocol::Role;
use sparewire_wallet::NodeKeys;

use super::provide::promised;
use crate::{
    backup::Stamp,
    control::{self, Request},
    dates,
    home::{Home, clock},
    output,
};

pub(crate) async fn run(home: &Home, json: bool) -> Result<()> {
    let running = control::ask(&home.control_path(), Request::Status).await?;
    let keys = NodeKeys::peek(&home.keys_dir()).ok();
    let store = home.store_to_read()?;
    let (earned, spent, sessions) = match &store {
        Some(store) => {
            use sparewire_node::store::Store;
            let sessions = store.sessions()?.len();
            (promised(store, Role::Payee)?, promised(store, Role::Payer)?, sessions)
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
    let value = json!({
        "data_dir": home.dir, "chain_work": work, "keys": keys, "chain": chain, "last_backup": backup,
        "sessions": sessions, "earned_units": earned, "spent_units": spent, "running": running,
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
