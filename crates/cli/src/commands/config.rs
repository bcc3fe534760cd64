//! `sparewire config`: what can be configured.

use anyhow::Result;
use clap::Subcommand;

use crate::{config::Config, output};

/// Show what can be configured.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a configuration file with every key, its meaning and its default.
    Example,
}

pub(crate) fn run(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Example => output::out!("{}", Config::example().trim_end()),
    }
    Ok(())
}
