//! `sparewire chain`: the embedded chain on its own, for nodes that run apart.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use sparewire_chain::{deploy, deploy_keys, deploy_stake, deploy_towers, serve};
use sparewire_core::{Address, Amount};
use sparewire_protocol::settlement::ChainError;

use crate::{hint::Hint, home::Home, interrupt::Interrupts, network, output, wallet_lock};

/// Run the embedded chain, take test money from it, or look at what happened on any chain.
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
    /// Put the channel contract, a test token, the contract for watchtowers' rewards, the registry of
    /// keys and the contract that holds bonds on the chain of --rpc, paid by this node's wallet; for
    /// chains that have none yet.
    Deploy {
        /// A file with the keystore's password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// What happened at the channel contract, oldest first; amounts in the token's smallest unit.
    Events(super::events::EventsArgs),
    /// Bring the index of the contract's events up to date, as `events` and a provider do too.
    Index(super::events::IndexArgs),
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
            let mut interrupts = Interrupts::listen()?;
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
            interrupts.next().await;
            Ok(())
        }
        ChainCommand::Deploy { password_file } => {
            let keys = home.keys(password_file.as_deref()).await?;
            let endpoint = home.config.chain.endpoint()?;
            let policy = home.policy();
            wallet_lock::hold(home.config.chain.chain_id, keys.wallet.address())?;
            let wallet = keys.wallet;
            let deployed = deploy(endpoint.clone(), wallet.clone(), policy.clone()).await?;
            let (contract, chain_id) = (deployed.domain.contract, deployed.domain.chain_id);
            let token = deployed.token;
            let beside = async {
                let (from, terms) = (endpoint.clone(), policy.clone());
                let towers = deploy_towers(from, wallet.clone(), terms, contract).await?;
                let (from, terms) = (endpoint.clone(), policy.clone());
                let keys = deploy_keys(from, wallet.clone(), terms, contract).await?;
                let penalty = Amount::new(network::PENALTY).expect("in range");
                let stake = deploy_stake(endpoint, wallet, policy, keys, token, penalty).await?;
                Ok::<_, ChainError>((towers, keys, stake))
            };
            let there = || format!("the contract is at {contract}, the token at {token}; the rest");
            let (towers, keys, stake) = beside.await.with_context(there)?;
            if json {
                return output::json(&serde_json::json!({
                    "chain_id": chain_id, "contract": contract, "token": token,
                    "towers": towers, "keys": keys, "stake": stake,
                }));
            }
            output::out!("chain id  {chain_id}");
            output::out!("contract  {contract}");
            output::out!("token     {token} (a test token that anybody can mint)");
            output::out!("towers    {towers} (rewards for watchtowers: [chain] towers)");
            output::out!("keys      {keys} (where wallets revoke keys: [chain] keys)");
            output::out!("stake     {stake} (what providers bond: [chain] stake)");
            Ok(())
        }
        ChainCommand::Events(args) => super::events::list(args, home, json).await,
        ChainCommand::Index(args) => super::events::index(args, home, json).await,
        ChainCommand::Faucet { address } => {
            network::faucet(home.config.chain.endpoint()?, address).await?;
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
