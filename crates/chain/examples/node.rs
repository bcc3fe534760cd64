//! An embedded chain in memory behind JSON-RPC, for any Ethereum tool to talk to:
//! `cargo run -p sparewire-chain --example node [PORT] [FUNDED_ADDRESS]...`

use sparewire_chain::{EmbeddedChain, Genesis, serve};
use sparewire_core::U256;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().map_or(Ok(0), |port| port.parse())?;
    let mut genesis = Genesis::new(7357);
    for owner in args {
        genesis = genesis.fund(owner.parse()?, U256::from(10).pow(U256::from(20)));
    }
    let server = serve(EmbeddedChain::in_memory(genesis)?, ([127, 0, 0, 1], port).into()).await?;
    println!("{}", server.url());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
