//! Child processes and what they used, from `/proc`.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncBufReadExt;

/// A child that is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) first_line: String,
}

impl Process {
    /// Starts a program and waits for the first line that it prints.
    pub(crate) async fn start(program: PathBuf, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(&program)
            .args(arguments)
            .env("SPAREWIRE_PASSWORD", "bench")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| {
                format!("cannot start {}; build it with cargo build --release", program.display())
            })?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stdout = tokio::process::ChildStdout::from_std(stdout)?;
        let mut process = Self { child, first_line: String::new() };
        tokio::io::BufReader::new(stdout).read_line(&mut process.first_line).await?;
        process.first_line = process.first_line.trim().to_owned();
        ensure!(!process.first_line.is_empty(), "{arguments:?} ended without a word");
        Ok(process)
    }

    /// Runs a program to its end and returns what it printed.
    pub(crate) async fn run(program: PathBuf, arguments: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(&program)
            .args(arguments)
            .env("SPAREWIRE_PASSWORD", "bench")
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// User and system time that it used so far, in seconds.
    pub(crate) fn cpu_secs(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Fields 14 and 15, counted behind the name in parentheses, in ticks of 10 ms.
        let fields: Vec<_> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.get(11).context("stat")?.parse::<u64>()?
            + fields.get(12).context("stat")?.parse::<u64>()?;
        Ok(ticks as f64 / 100.0)
    }

    /// Resident memory in bytes.
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        Ok(kib << 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A binary of this workspace, beside this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name(name))
}
