//! `sparewire chain`: the embedded chain on its own, for nodes that run apart.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Subcommand;
use sparewire_chain::{Endpoint, serve};
use sparewire_core::Address;

use crate::{assemble::interrupted, hint::Hint, home::Home, network, output};

/// Run the embedded chain, or take test money from it.
#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Serve the embedded chain as standard Ethereum JSON-RPC on loopback; it is kept in the data
    /// directory.
    Serve {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8545")]
        listen: SocketAddr,
        /// Let callers shift time and take blocks back (`evm_*` methods), for tests.
        #[arg(long)]
        dev_methods: bool,
    },
    /// Give an address 1 ether for gas and 100 test tokens of the embedded chain.
    Faucet {
        /// Who gets them.
        address: Address,
    },
}

pub(crate) async fn run(command: ChainCommand, home: &Home, json: bool) -> Result<()> {
    match command {
        ChainCommand::Serve { listen, dev_methods } => {
            let opened = network::open(network::chain_file(&home.dir), dev_methods).await;
            let chain = opened.map_err(|error| {
                let file = home.dir.join("chain.sqlite");
                Hint::new(format!("cannot open {}: {error:#}", file.display()))
                    .hint("another `sparewire chain serve` may use it: stop it, or choose another --data-dir")
            })?;
            let server = serve(chain, listen).await?;
            let contracts = network::contracts();
            let (contract, token) = (contracts.domain.contract, contracts.token);
            if json {
                output::json(&serde_json::json!({
                    "rpc": server.url(), "chain_id": network::CHAIN_ID,
                    "contract": contract, "token": token,
                }))?;
            } else {
                output::out!("rpc       {}", server.url());
                output::out!("chain id  {}", network::CHAIN_ID);
                output::out!("contract  {contract}");
                output::out!("token     {token} (tUSD, 6 decimals)");
            }
            eprintln!(
                "serving the embedded chain; test money: sparewire chain faucet ADDRESS; Ctrl-C ends"
            );
            interrupted().await;
            Ok(())
        }
        ChainCommand::Faucet { address } => {
            network::faucet(Endpoint::Http(home.config.chain.rpc.clone()), address).await?;
            if json {
                output::json(
                    &serde_json::json!({ "address": address, "ether": "1", "tokens": "100" }),
                )
            } else {
                output::out!("{address} got 1 ether and 100 tUSD");
                Ok(())
            }
        }
    }
}
