//! The `sparewire` command: sells and buys spare bandwidth, byte by byte.

mod account;
mod assemble;
mod backup;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod cast;
mod closing;
mod commands;
mod config;
mod console;
mod content;
mod control;
mod dates;
mod delegation;
mod descriptors;
mod hint;
mod home;
mod interrupt;
mod metrics;
mod network;
mod output;
mod set_back;
mod sharer;
mod side;
mod signing;
mod story;
mod wallet_lock;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{home::Home, interrupt::Interrupted};

/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// A marketplace for spare bandwidth: every byte is metered by both ends, receipted with
/// signatures, and paid for as it moves.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Where keys, store and chain are kept [default: the user's data directory; for `demo` a
    /// temporary one].
    #[arg(long, global = true, env = "SPAREWIRE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Another configuration file than config.toml in the data directory.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// URL of an Ethereum node, instead of the configured one. Of several (given again, or with
    /// commas between) more than half must agree.
    #[arg(long, global = true, value_delimiter = ',')]
    rpc: Vec<String>,
    /// EIP-155 id of its chain.
    #[arg(long, global = true)]
    chain_id: Option<u64>,
    /// Address of the channel contract on it.
    #[arg(long, global = true)]
    contract: Option<String>,
    /// Address of the ERC-20 token that is paid in.
    #[arg(long, global = true)]
    token: Option<String>,
    /// Print results as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// How logs are written to stderr; RUST_LOG sets the level.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole bandwidth market on this machine and show that it adds up.
    Demo(commands::demo::DemoArgs),
    /// Sell your line as an exit.
    Provide(commands::provide::ProvideArgs),
    /// Use a provider's line through a local proxy.
    Connect(commands::connect::ConnectArgs),
    /// Share files and fetch them, for money or for nothing: torrents.
    #[command(subcommand)]
    Content(commands::content::ContentCommand),
    /// What was carried and paid.
    #[command(subcommand)]
    Session(commands::session::SessionCommand),
    /// What was earned, spent, claimed and paid out.
    Earnings(commands::earnings::EarningsArgs),
    /// One sealed file from which this node can go on elsewhere.
    #[command(subcommand)]
    Backup(commands::backup::BackupCommand),
    /// The money that is put aside, and the way out.
    #[command(subcommand)]
    Channel(commands::channel::ChannelCommand),
    /// Claim on chain what your vouchers are worth.
    Settle(commands::settle::SettleArgs),
    /// Watch over others' channels, and have yours watched.
    #[command(subcommand)]
    Watch(commands::watch::WatchCommand),
    /// What a provider puts at stake, and what is taken from one that contradicts itself.
    #[command(subcommand)]
    Stake(commands::stake::StakeCommand),
    /// What is going on.
    Status,
    /// The keys of this node.
    #[command(subcommand)]
    Wallet(commands::wallet::WalletCommand),
    /// Run the embedded chain, take test money from it, or look at what happened on any chain.
    #[command(subcommand)]
    Chain(commands::chain::ChainCommand),
    /// Show what can be configured.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.log_format);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Err(error) = runtime.block_on(run(cli)) else { return ExitCode::SUCCESS };
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        eprintln!("{interrupted}");
        // Not by returning: that would wait for what still runs, which is what was refused.
        std::process::exit(INTERRUPTED);
    }
    eprintln!("error: {error:#}");
    if let Some(advice) = hint::advice(&error) {
        eprintln!("hint: {advice}");
    }
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Result<()> {
    let json = cli.json;
    if let Command::Demo(args) = cli.command {
        return commands::demo::run(args, cli.data_dir, json).await;
    }
    if let Command::Config(command) = cli.command {
        return commands::config::run(&command);
    }
    let open = match &cli.command {
        Command::Content(command) if command.only_looks() => Home::open_to_read,
        _ => Home::open,
    };
    let mut home = open(cli.data_dir, cli.config.as_deref())?;
    let chain = &mut home.config.chain;
    if !cli.rpc.is_empty() {
        chain.rpc = config::Rpc::Several(cli.rpc);
        chain.rpc_quorum = 0;
    }
    chain.chain_id = cli.chain_id.unwrap_or(chain.chain_id);
    chain.contract = cli.contract.unwrap_or(std::mem::take(&mut chain.contract));
    chain.token = cli.token.unwrap_or(std::mem::take(&mut chain.token));
    match cli.command {
        Command::Provide(args) => commands::provide::run(args, home, json).await,
        Command::Connect(args) => commands::connect::run(args, home, json).await,
        Command::Content(command) => commands::content::run(command, home, json).await,
        Command::Session(command) => commands::session::run(command, &home, json).await,
        Command::Earnings(args) => commands::earnings::run(args, &home, json).await,
        Command::Backup(command) => commands::backup::run(command, &home, json).await,
        Command::Channel(command) => commands::channel::run(command, &home, json).await,
        Command::Settle(args) => commands::settle::run(args, &home, json).await,
        Command::Watch(command) => commands::watch::run(command, home, json).await,
        Command::Stake(command) => commands::stake::run(command, &home, json).await,
        Command::Status => commands::status::run(&home, json).await,
        Command::Wallet(command) => commands::wallet::run(command, &home, json).await,
        Command::Chain(command) => commands::chain::run(command, &home, json).await,
        Command::Demo(_) | Command::Config(_) => Ok(()), // above
    }
}

/// Logs go to stderr, warnings and errors by default. Destinations and secrets are never logged
/// above TRACE.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,iroh=error,noq=error"));
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(colour).init(),
        LogFormat::Json => builder.json().init(),
    }
}
