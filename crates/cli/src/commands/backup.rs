//! `sparewire backup`: one sealed file from which a node can go on elsewhere.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;
use sparewire_wallet::Cost;

use crate::{
    backup::{self, Manifest},
    dates,
    home::{Home, clock, password},
    output,
};

/// One sealed file from which this node can go on elsewhere.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Seal the data directory into a new file, also while `provide` or `connect` runs.
    Create {
        /// The file to make.
        file: PathBuf,
        /// Leave the keystores out; you have the words.
        #[arg(long)]
        without_keys: bool,
        /// A file with the backup's password, which need not be that of the keys.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// Read a backup to its end and say what is inside; nothing is written.
    Verify {
        /// The backup.
        file: PathBuf,
        /// A file with its password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// Make a data directory from a backup. The one that it was made of must never run again.
    Restore {
        /// The backup.
        file: PathBuf,
        /// A file with its password.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
}

pub(crate) async fn run(command: BackupCommand, home: &Home, json: bool) -> Result<()> {
    match command {
        BackupCommand::Create { file, without_keys, password_file } => {
            let password = password(password_file.as_deref(), true)?;
            let made =
                backup::create(home, &file, !without_keys, &password, Cost::STANDARD).await?;
            if json {
                return output::json(&json!({ "file": file, "manifest": made }));
            }
            output::out!("{}", file.display());
            describe(&made);
            eprintln!("keep it on another machine, and its password elsewhere");
            Ok(())
        }
        BackupCommand::Verify { file, password_file } => {
            let password = password(password_file.as_deref(), false)?;
            let named = file.clone();
            let found =
                tokio::task::spawn_blocking(move || backup::verify(&named, &password)).await??;
            if json {
                let age_ms = clock()().ms_since(found.created_ms);
                return output::json(
                    &json!({ "file": file, "intact": true, "age_ms": age_ms, "manifest": found }),
                );
            }
            output::out!("{}: intact", file.display());
            describe(&found);
            Ok(())
        }
        BackupCommand::Restore { file, password_file } => {
            let password = password(password_file.as_deref(), false)?;
            let (from, to) = (file.clone(), home.dir.clone());
            let found = tokio::task::spawn_blocking(move || backup::restore(&from, &to, &password))
                .await??;
            if json {
                return output::json(&json!({ "data_dir": home.dir, "manifest": found }));
            }
            output::out!("{}", home.dir.display());
            describe(&found);
            advise(&found);
            Ok(())
        }
    }
}

fn describe(manifest: &Manifest) {
    let age = clock()().ms_since(manifest.created_ms);
    output::out!("made      {}, {} ago", dates::utc(manifest.created_ms), dates::duration(age));
    let wallet = manifest.node["wallet"].as_str().unwrap_or("none");
    output::out!("wallet    {wallet}");
    output::out!(
        "keys      {}",
        if manifest.keys { "inside, under their own password" } else { "not inside" }
    );
    output::out!(
        "store     {} sessions over {} channels; earned {}, spent {} (smallest units)",
        manifest.sessions,
        manifest.channels,
        manifest.earned_units,
        manifest.spent_units
    );
    for inside in &manifest.files {
        output::out!("          {} ({} B)", inside.name, output::grouped(inside.bytes));
    }
}

fn advise(manifest: &Manifest) {
    eprintln!("Never start the directory that this backup was made of again: two nodes with one");
    eprintln!("set of keys would contradict each other.");
    if !manifest.keys {
        eprintln!("Its keys: `sparewire wallet new --mnemonic-file WORDS --index N`, N as before.");
    }
    eprintln!("Then start `provide` or `connect` as before. What was signed since the backup is");
    eprintln!("asked of the peers before anything is signed on their channels; `sparewire settle`");
    eprintln!("claims what the backup holds.");
}
