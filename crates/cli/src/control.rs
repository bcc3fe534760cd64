//! A running node's control socket: other `sparewire` commands on the same data directory ask it
//! instead of touching its files. One JSON line each way.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{
    content::ContentRequest,
    hint::{Hint, advice},
};

/// Longest request line, in bytes: room for a magnet link of 64 KiB, and paths.
const REQUEST_LEN_MAX: u64 = 256 << 10;
/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: a settlement waits until it is final on the chain.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// How long answers under way get when the node ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// What is going on.
    Status,
    /// Claim what is owed.
    Settle,
    /// What that would bring and cost.
    SettlePlan,
    /// What was asked of the chain and is over, and what it cost.
    Spendings,
    /// Copy the journal of transactions for a backup.
    Snapshot,
    /// Something about torrents; null where the process runs none.
    Content(ContentRequest),
}

/// Answers requests until dropped. The socket is reachable by this user only: its directory is
/// private.
pub(crate) struct Server {
    path: std::path::PathBuf,
    task: tokio::task::JoinHandle<()>,
    answering: TaskTracker,
}

impl Server {
    /// Listens at `path`. The caller holds the store's lock, so whatever is there is left over.
    pub(crate) fn start<F, A>(path: &Path, answer: F) -> Result<Self>
    where
        F: Fn(Request) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Value>> + Send + 'static,
    {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| {
            format!("cannot listen on {}; is --data-dir too long?", path.display())
        })?;
        let answering = TaskTracker::new();
        let answers = answering.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                answers.spawn(async move {
                    let _ = serve(stream, answer).await; // the client is gone: nobody to tell
                });
            }
        });
        Ok(Self { path: path.to_owned(), task, answering })
    }

    /// Takes no more requests, and lets the answers to those that came be written.
    pub(crate) async fn end(self) {
        self.task.abort();
        self.answering.close();
        let _ = timeout(LAST_ANSWERS, self.answering.wait()).await; // a longer one is cut off
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve<F, A>(stream: UnixStream, answer: F) -> Result<()>
where
    F: Fn(Request) -> A,
    A: Future<Output = Result<Value>>,
{
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_LEN_MAX));
    timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await??;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => match answer(request).await {
            Ok(value) => serde_json::json!({ "ok": value }),
            Err(error) => {
                serde_json::json!({ "error": format!("{error:#}"), "hint": advice(&error) })
            }
        },
        Err(error) => serde_json::json!({ "error": format!("not a request: {error}") }),
    };
    write.write_all(format!("{reply}\n").as_bytes()).await?;
    Ok(())
}

/// Asks the node that runs on this data directory; `None` where none does.
pub(crate) async fn ask(path: &Path, request: Request) -> Result<Option<Value>> {
    let Ok(mut stream) = UnixStream::connect(path).await else { return Ok(None) };
    let mut line = serde_json::to_string(&request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut reply = String::new();
    timeout(ANSWER_TIMEOUT, stream.read_to_string(&mut reply))
        .await
        .context("the running node does not answer")??;
    let mut reply: Value = serde_json::from_str(&reply).context("the running node's answer")?;
    match reply.get_mut("ok") {
        Some(value) => Ok(Some(value.take())),
        None => {
            let refusal = Hint::new(reply["error"].as_str().unwrap_or("the running node refused"));
            match reply["hint"].as_str() {
                Some(hint) => bail!(refusal.hint(hint)),
                None => bail!(refusal),
            }
        }
    }
}
