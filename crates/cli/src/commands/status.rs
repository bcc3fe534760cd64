//! `sparewire status`: what is going on in a data directory.

use anyhow::Result;
use serde_json::json;
use sparewire_protocol::Role;
use sparewire_wallet::NodeKeys;

use super::provide::promised;
use crate::{
    control::{self, Request},
    home::Home,
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
    let value = json!({
        "data_dir": home.dir, "keys": keys, "chain": home.config.chain.rpc,
        "sessions": sessions, "earned_units": earned, "spent_units": spent, "running": running,
    });
    if json {
        return output::json(&value);
    }
    println!("data dir  {}", home.dir.display());
    match keys {
        Some(keys) => {
            println!("wallet    {}", keys.wallet);
            println!("node id   {}", keys.node_id);
        }
        None => println!("wallet    none; make one with `sparewire wallet new`"),
    }
    println!("chain     {}", home.config.chain.rpc);
    println!("sessions  {sessions}; earned {earned}, spent {spent} (smallest units)");
    match running {
        Some(running) => println!("running   {}", serde_json::to_string_pretty(&running)?),
        None => println!("running   nothing"),
    }
    Ok(())
}
