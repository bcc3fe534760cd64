//! Child processes and what they used, from `/proc`.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tokio::{
    io::AsyncBufReadExt,
    time::{Duration, sleep},
};

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

    /// Starts a program that says nothing that is waited for.
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(proxy);
        }
        command.env("SPAREWIRE_PASSWORD", "bench");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let program = command.get_program().to_owned();
        let child =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, first_line: String::new() })
    }

    /// Has it stand still until [`Process::go_on`].
    pub(crate) fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Has it go on after [`Process::stop`].
    pub(crate) fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        Ok(rustix::process::kill_process(id.context("a process")?, signal)?)
    }

    /// Has it end in its own time, as Ctrl-C does.
    pub(crate) async fn interrupt(&mut self, patience: Duration) -> Result<()> {
        self.signal(Signal::INT)?;
        let began = std::time::Instant::now();
        while !self.has_ended()? {
            ensure!(began.elapsed() < patience, "it does not end when it is asked to");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
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

    /// User and system time that it, and children of it that have ended, used so far, in seconds.
    pub(crate) fn cpu_secs(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Fields 14 to 17, counted behind the name in parentheses, in ticks of 10 ms.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks = fields.skip(11).take(4).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(ticks as f64 / 100.0)
    }

    /// Resident memory in bytes.
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory that it ever had, or since that was forgotten, in bytes.
    pub(crate) fn peak_rss_bytes(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// From now on [`Process::peak_rss_bytes`] is of what comes: proc(5), `clear_refs`.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    fn status_bytes(&self, field: &'static str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(field)).context(field)?;
        let kib: u64 = line.split_whitespace().nth(1).context(field)?.parse()?;
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
