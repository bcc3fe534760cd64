//! The writing half of a connection: messages, and the blocks that the peer asked for.

use std::{
    io::IoSlice,
    sync::Arc,
    time::{Duration, Instant},
};

use sparewire_content::{BLOCK_LEN, Block, PIECE_HEADER_LEN, PeerMessage, piece_header};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    connection::{Connection, ConnectionError},
    disk::{Standing, Storage},
    files::DiskError,
    torrent::Torrent,
};

/// Blocks that are read and sent at once: at most so many bytes.
const RUN_MAX: u32 = 16 * BLOCK_LEN;
/// A run that took longer to send makes the next shorter, so that a payment does not wait for it.
const RUN_TIME_MAX: Duration = Duration::from_millis(100);
/// How long a peer may leave unread what we send.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long what was said last may still take to be sent when we end a connection.
const PARTING: Duration = Duration::from_secs(1);
/// Others close what has been silent for two minutes (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(90);

/// Sends until the connection ends.
pub(super) async fn send(
    torrent: Arc<Torrent>,
    connection: Arc<Connection>,
    to: impl AsyncWrite + Unpin,
) -> Result<(), ConnectionError> {
    let storage = Arc::clone(torrent.storage());
    let mut sender = Sender {
        connection,
        storage,
        to,
        run_max: 2 * BLOCK_LEN,
        waiting: Vec::new(),
        admitted: 0,
        epoch: 0,
        spare: Vec::new(),
    };
    let closed = Arc::clone(&sender.connection);
    let parted = async {
        closed.ended.cancelled().await;
        tokio::time::sleep(PARTING).await;
    };
    let ended = tokio::select! {
        ended = sender.run() => ended,
        () = parted => Err(ConnectionError::Closed("closed by us")),
    };
    if let Err(ConnectionError::Closed(SPOILT)) = &ended {
        torrent.spoilt();
    }
    ended
}

/// How often what is read may turn out to be written to meanwhile.
const READS_MAX: u32 = 3;
const SPOILT: &str = "the files were changed: what was offered is not there any more";

struct Sender<W> {
    connection: Arc<Connection>,
    storage: Arc<Storage>,
    to: W,
    /// How many bytes are sent at once.
    run_max: u32,
    /// Blocks that wait for admission, one after the other in one piece.
    waiting: Vec<Block>,
    /// Bytes that may pass and have not, under the session of this `epoch`: what one session paid
    /// for is not sent in another.
    admitted: usize,
    epoch: u64,
    /// A buffer to read into.
    spare: Vec<u8>,
}

/// Blocks and their bytes: the first in a buffer.
#[derive(Default)]
struct Run {
    blocks: Vec<Block>,
    bytes: Vec<u8>,
}

/// Makes room for blocks; says how many bytes they have.
fn grow(buffer: &mut Vec<u8>, blocks: &[Block]) -> usize {
    let len = blocks.iter().map(|block| block.len as usize).sum();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    len
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    async fn run(&mut self) -> Result<(), ConnectionError> {
        // What was read and is to be sent while the next is read.
        let mut ready = Run::default();
        loop {
            let taken = self.connection.outbox.take(self.run_max, self.waiting.is_empty());
            let Some(next) = taken else { return Err(ConnectionError::Closed("closed by us")) };
            if !next.messages.is_empty() {
                within(self.to.write_all(&next.messages)).await?;
            }
            if self.connection.ended.is_cancelled() {
                return Err(ConnectionError::Closed("closed by us"));
            }
            if self.waiting.is_empty() {
                self.waiting = next.run;
            }
            let now = self.admit();
            if self.read_at_once(&now) {
                // In memory, as most is: no other thread is troubled.
                for run in [std::mem::take(&mut ready), self.run_of(now)] {
                    let (sent, took) = write(&mut self.to, &self.connection, run).await?;
                    self.pace(sent.blocks.len(), took);
                    self.spare = sent.bytes;
                }
            } else if !now.is_empty() {
                let buffer = std::mem::take(&mut self.spare);
                let read = read(Arc::clone(&self.storage), now, buffer);
                let sent = std::mem::take(&mut ready);
                let write = write(&mut self.to, &self.connection, sent);
                let (read, (sent, took)) = tokio::try_join!(read, write)?;
                self.pace(sent.blocks.len(), took);
                self.spare = sent.bytes;
                ready = read;
            } else if !ready.blocks.is_empty() {
                let sent = std::mem::take(&mut ready);
                let (sent, took) = write(&mut self.to, &self.connection, sent).await?;
                self.pace(sent.blocks.len(), took);
                self.spare = sent.bytes;
            } else if next.messages.is_empty() {
                self.wait().await;
            }
        }
    }

    /// Reads blocks into the spare buffer, where they are in memory.
    fn read_at_once(&mut self, blocks: &[Block]) -> bool {
        let Some(first) = blocks.first() else { return false };
        let len = grow(&mut self.spare, blocks);
        self.storage.read_at_once(first.piece, first.begin, &mut self.spare[..len])
    }

    /// Blocks that were read into the spare buffer.
    fn run_of(&mut self, blocks: Vec<Block>) -> Run {
        Run { blocks, bytes: std::mem::take(&mut self.spare) }
    }

    /// Blocks that may be sent now: whole ones, as far as is admitted. What is admitted is counted,
    /// so it is kept for the next block where it is not enough for this one.
    fn admit(&mut self) -> Vec<Block> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let admission = self.connection.admission();
        let epoch = admission.epoch();
        if epoch != self.epoch {
            (self.admitted, self.epoch) = (0, epoch);
        }
        let wanted: usize = self.waiting.iter().map(|block| block.len as usize).sum();
        if let Some(missing) = wanted.checked_sub(self.admitted).filter(|missing| *missing > 0) {
            self.admitted += admission.try_admit(missing);
        }
        let mut whole = 0;
        for block in &self.waiting {
            let Some(rest) = self.admitted.checked_sub(block.len as usize) else { break };
            self.admitted = rest;
            whole += 1;
        }
        let later = self.waiting.split_off(whole);
        std::mem::replace(&mut self.waiting, later)
    }

    /// Until there is something to send, or something may be sent.
    async fn wait(&mut self) {
        let admission = self.connection.admission();
        let blocked = !self.waiting.is_empty();
        tokio::select! {
            () = self.connection.outbox.changed() => {}
            () = self.connection.ended.cancelled() => {}
            goes_on = admission.wait(), if blocked => {
                if !goes_on {
                    // Nothing of it will ever be sent.
                    self.waiting.clear();
                    self.connection.choke(0);
                }
            }
            () = tokio::time::sleep(KEEP_ALIVE) => self.connection.send(&PeerMessage::KeepAlive),
        }
    }

    /// Longer runs are cheaper; shorter ones let messages through sooner.
    fn pace(&mut self, blocks: usize, took: Duration) {
        if took > RUN_TIME_MAX {
            self.run_max = (self.run_max / 2).max(BLOCK_LEN);
        } else if blocks as u32 * BLOCK_LEN >= self.run_max {
            self.run_max = (self.run_max * 2).min(RUN_MAX);
        }
    }
}

async fn within<T>(
    writing: impl Future<Output = std::io::Result<T>>,
) -> Result<T, ConnectionError> {
    Ok(timeout(WRITE_TIMEOUT, writing).await.map_err(|_| ConnectionError::Silent)??)
}

async fn read(
    storage: Arc<Storage>,
    blocks: Vec<Block>,
    mut bytes: Vec<u8>,
) -> Result<Run, ConnectionError> {
    let Some(first) = blocks.first().copied() else { return Ok(Run::default()) };
    let reading = spawn_blocking(move || {
        let len = grow(&mut bytes, &blocks);
        for _ in 0..READS_MAX {
            match storage.stands(first.piece, first.begin, len as u32)? {
                Standing::Good => {}
                Standing::Absent => {
                    return Err(ConnectionError::Nonsense("a piece that we do not have"));
                }
                Standing::Spoilt => return Err(ConnectionError::Closed(SPOILT)),
            }
            match storage.read(first.piece, first.begin, &mut bytes[..len]) {
                Err(DiskError::Missing(_) | DiskError::EndsEarly(_)) => {
                    storage.doubt_around(first.piece, first.begin, len as u32);
                    return Err(ConnectionError::Closed(SPOILT));
                }
                read => read?,
            }
            if storage.still_stands(first.piece, first.begin, len as u32) {
                return Ok(Run { blocks, bytes });
            }
        }
        Err(ConnectionError::Closed("its file is being written to"))
    });
    reading.await.map_err(|_| ConnectionError::Closed("reading stopped"))?
}

async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    connection: &Connection,
    run: Run,
) -> Result<(Run, Duration), ConnectionError> {
    let begun = Instant::now();
    if run.blocks.is_empty() {
        return Ok((run, Duration::ZERO));
    }
    let headers: Vec<[u8; PIECE_HEADER_LEN]> =
        run.blocks.iter().map(|block| piece_header(*block)).collect();
    let mut parts = Vec::with_capacity(2 * headers.len());
    let mut rest = &run.bytes[..];
    for (block, header) in run.blocks.iter().zip(&headers) {
        let (data, later) = rest.split_at(block.len as usize);
        parts.push(IoSlice::new(header));
        parts.push(IoSlice::new(data));
        rest = later;
    }
    let mut parts = &mut parts[..];
    while !parts.is_empty() {
        let written = within(to.write_vectored(parts)).await?;
        if written == 0 {
            return Err(ConnectionError::Left);
        }
        IoSlice::advance_slices(&mut parts, written);
    }
    connection.count_sent(run.blocks.iter().map(|block| u64::from(block.len)).sum());
    Ok((run, begun.elapsed()))
}
