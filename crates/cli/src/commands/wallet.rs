//! `sparewire wallet`: the keys of this node.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Subcommand;
use serde_json::json;
use sparewire_wallet::{
    Cost, Mnemonic, NodeKeys, NodeSecrets, OfflineRequest, PublicKeys, WordCount,
};

use super::{delegation::DelegationCommand, device::DeviceCommand};
use crate::{
    hint::{self, Hint},
    home::{Home, key_error, password, text},
    output, signing,
};

/// The keys of this node.
#[derive(Debug, Subcommand)]
pub(crate) enum WalletCommand {
    /// Make new keys, from a new mnemonic or from one that you have.
    New {
        /// How many words the new mnemonic has: 12 or 24.
        #[arg(long, default_value_t = 12)]
        words: u8,
        /// Read an existing mnemonic from this file instead of making one.
        #[arg(long)]
        mnemonic_file: Option<PathBuf>,
        /// Which of the mnemonic's nodes this is. After the loss of a data directory take the next
        /// one: the lost keys may have signed what nobody remembers.
        #[arg(long, default_value_t = 0)]
        index: u32,
        /// A file with the new password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// Show addresses and what the wallet holds.
    Show,
    /// The devices and authorizers that act for this wallet, in the registry of keys on chain.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Another wallet that is paid for what this node sells.
    #[command(subcommand)]
    Delegation(DelegationCommand),
    /// Sign a request on a machine without a network: reads and writes JSON, and says what the
    /// signature does.
    Sign {
        /// The request file.
        #[arg(long)]
        request: PathBuf,
        /// A file with the password.
        #[arg(long)]
        password_file: Option<PathBuf>,
        /// Sign even what nobody can tell the effect of: a bare digest, a transaction, or a message
        /// that is none of Sparewire's. It can take all that the wallet holds.
        #[arg(long)]
        blind: bool,
    },
}

pub(crate) async fn run(command: WalletCommand, home: &Home, as_json: bool) -> Result<()> {
    match command {
        WalletCommand::New { words, mnemonic_file, index, password_file } => {
            new(home, words, mnemonic_file, index, password_file, as_json).await
        }
        WalletCommand::Show => show(home, as_json).await,
        WalletCommand::Device(command) => super::device::run(command, home, as_json).await,
        WalletCommand::Delegation(command) => super::delegation::run(command, home, as_json),
        WalletCommand::Sign { request, password_file, blind } => {
            let request = OfflineRequest::from_json(&text(&request)?)?;
            let told = signing::told(&request);
            for line in &told.lines {
                eprintln!("{line}");
            }
            if !told.known && !blind {
                bail!(Hint::new("nobody can tell from the request what its signature does").hint(
                    "give --blind only if you know what it is, and would hand whoever asks all \
                     that the wallet holds"
                ));
            }
            let keys = home.keys(password_file.as_deref()).await?;
            let response = if request.signer() == keys.wallet.address() {
                request.sign(&*keys.wallet)?
            } else {
                request.sign(&keys.authorizer)?
            };
            crate::output::out!("{}", response.to_json());
            Ok(())
        }
    }
}

async fn new(
    home: &Home,
    words: u8,
    mnemonic_file: Option<PathBuf>,
    index: u32,
    password_file: Option<PathBuf>,
    as_json: bool,
) -> Result<()> {
    let count = match words {
        12 => WordCount::Twelve,
        24 => WordCount::TwentyFour,
        other => bail!("a mnemonic of {other} words; choose 12 or 24"),
    };
    let dir = home.keys_dir();
    ensure!(
        !dir.exists(),
        Hint::new(format!("there are keys in {} already", dir.display()))
            .hint("`sparewire wallet show` shows them; choose another --data-dir for others")
    );
    let made = mnemonic_file.is_none();
    let mnemonic: Mnemonic = match &mnemonic_file {
        Some(path) => text(path)?.parse()?,
        None => Mnemonic::random(count)?,
    };
    let password = password(password_file.as_deref(), true)?;
    let secrets = NodeSecrets::derive(&mnemonic, index)?;
    let stored =
        tokio::task::spawn_blocking(move || secrets.store(&dir, &password, Cost::STANDARD));
    let keys = stored.await?.map_err(key_error)?;
    let public = keys.public();
    eprintln!(
        "What this node will be owed is not in its words: `sparewire backup create FILE` keeps it."
    );
    if as_json {
        let words = made.then(|| mnemonic.phrase().to_string());
        return output::json(&json!({ "keys": public, "mnemonic": words }));
    }
    if made {
        eprintln!("Write these words down. They are shown once and stored nowhere:");
        eprintln!("\n    {}\n", *mnemonic.phrase());
    }
    print_keys(&public);
    Ok(())
}

async fn show(home: &Home, as_json: bool) -> Result<()> {
    let dir = home.keys_dir();
    if !dir.exists() {
        bail!(
            Hint::new(format!("there are no keys in {}", dir.display()))
                .hint("make them with `sparewire wallet new`")
        );
    }
    let public = NodeKeys::peek(&dir).map_err(key_error)?;
    let funds = super::channel::funds(home, public.wallet).await;
    if as_json {
        let (funds, token) = match &funds {
            Ok((funds, token)) => (Some(funds), Some(token)),
            Err(_) => (None, None),
        };
        return output::json(&json!({ "keys": public, "funds": funds, "token": token }));
    }
    print_keys(&public);
    match funds {
        Ok((funds, token)) => {
            let shown = |units: u128| {
                let amount =
                    sparewire_core::Amount::new(units).unwrap_or(sparewire_core::Amount::MAX);
                output::amount(amount, &token)
            };
            crate::output::out!("gas money   {} wei", funds.native_wei);
            crate::output::out!("in wallet   {}", shown(funds.wallet));
            crate::output::out!("deposited   {}", output::amount(funds.deposit, &token));
            crate::output::out!("claimable   {}", output::amount(funds.claimable, &token));
        }
        Err(error) => {
            eprintln!("the chain cannot be asked what it holds: {error:#}");
            if let Some(advice) = hint::advice(&error) {
                eprintln!("hint: {advice}");
            }
        }
    }
    Ok(())
}

fn print_keys(public: &PublicKeys) {
    crate::output::out!("wallet      {}", public.wallet);
    crate::output::out!("authorizer  {}", public.authorizer);
    crate::output::out!("node id     {}", public.node_id);
}
