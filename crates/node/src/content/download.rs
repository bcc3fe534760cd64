//! The reading half of a connection: messages, and the blocks that we asked for.
//!
//! A block's bytes are copied once, from the socket to the page cache: they stay in the buffer that
//! was read into until they are hashed and written from there, on a blocking thread, while the next
//! buffer fills.

use std::{ops::Range, sync::Arc, time::Duration};

use sparewire_content::{BLOCK_LEN, Block, Decoded, PeerMessage, decode};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{
    connection::{Connection, ConnectionError},
    files::DiskError,
    intake::{Landed, Outcome},
    torrent::Torrent,
};

/// What a quiet connection needs: a block and what is around it.
const BUFFER_LEN_MIN: usize = 2 * BLOCK_LEN as usize;
/// What a fast one gets: at 400 MB/s and a dozen blocks a turn, a turn takes a millisecond. A
/// connection has two of them.
const BUFFER_LEN_MAX: usize = 256 << 10;
/// Who says nothing for so long is gone: others say something every two minutes (BEP 3).
const SILENCE_MAX: Duration = Duration::from_secs(150);

/// A buffer, the blocks in it, and what came of them.
type Judged = (Vec<u8>, Vec<Landed>, Result<(u64, Vec<Outcome>), DiskError>);

/// Reads until the connection ends.
pub(super) async fn receive(
    torrent: Arc<Torrent>,
    connection: Arc<Connection>,
    from: impl AsyncRead + Unpin,
) -> Result<(), ConnectionError> {
    let pieces = torrent.storage().metainfo().geometry().pieces();
    let mut reader = Reader {
        torrent,
        connection,
        from,
        pieces,
        buffer: vec![0; BUFFER_LEN_MIN],
        begin: 0,
        end: 0,
        needs: 4,
        arrived: Vec::new(),
        blocks: Vec::new(),
        spare: (Vec::new(), Vec::new()),
        job: None,
    };
    let ended = reader.run().await;
    // What has arrived is not thrown away because the connection is over: the machine counts on it.
    loop {
        if let Some(job) = reader.job.take() {
            let _ = reader.done(job.await);
        } else if !reader.blocks.is_empty() {
            reader.hand_over();
        } else {
            return ended;
        }
    }
}

struct Reader<R> {
    torrent: Arc<Torrent>,
    connection: Arc<Connection>,
    from: R,
    pieces: u32,
    buffer: Vec<u8>,
    /// What was read and not understood yet lies between.
    begin: usize,
    end: usize,
    /// So many bytes in all say what the next message is.
    needs: usize,
    /// Blocks in `buffer` of which the machine was not told yet.
    arrived: Vec<(Block, Range<usize>)>,
    /// Blocks in `buffer`, to be judged and written.
    blocks: Vec<Landed>,
    spare: (Vec<u8>, Vec<Landed>),
    /// Other blocks that are being judged and written.
    job: Option<JoinHandle<Judged>>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(&mut self) -> Result<(), ConnectionError> {
        let mut silent_at = Instant::now() + SILENCE_MAX;
        loop {
            self.read_messages()?;
            if self.job.is_none() && !self.blocks.is_empty() {
                self.hand_over();
            }
            self.make_room();
            let room = self.begin + self.needs <= self.buffer.len() && self.end < self.buffer.len();
            debug_assert!(room || self.job.is_some());
            tokio::select! {
                read = self.from.read(&mut self.buffer[self.end..]), if room => {
                    match read? {
                        0 => return Err(ConnectionError::Left),
                        length => self.end += length,
                    }
                    silent_at = Instant::now() + SILENCE_MAX;
                }
                done = finished(&mut self.job) => {
                    self.job = None;
                    self.done(done)?;
                }
                () = self.connection.ended.cancelled() => return Err(ConnectionError::Closed("closed by us")),
                () = sleep_until(silent_at) => return Err(ConnectionError::Silent),
            }
        }
    }

    fn read_messages(&mut self) -> Result<(), ConnectionError> {
        let read = self.read_whole_messages();
        let (arrived, blocks) = (&mut self.arrived, &mut self.blocks);
        self.torrent.arrived(&self.connection, &self.buffer, arrived, blocks);
        read
    }

    fn read_whole_messages(&mut self) -> Result<(), ConnectionError> {
        loop {
            match decode(&self.buffer[self.begin..self.end], Some(self.pieces))? {
                Decoded::Needs(needs) => {
                    self.needs = needs;
                    return Ok(());
                }
                Decoded::Message { message, length } => {
                    let end = self.begin + length;
                    match message {
                        PeerMessage::Piece { block, .. } => {
                            // The block's bytes are the last of its message.
                            self.arrived.push((block, end - block.len as usize..end));
                        }
                        other => {
                            // In the order in which they came.
                            let (arrived, blocks) = (&mut self.arrived, &mut self.blocks);
                            self.torrent.arrived(&self.connection, &self.buffer, arrived, blocks);
                            self.torrent.handle(&self.connection, &other)?;
                        }
                    }
                    self.begin = end;
                    self.needs = 4;
                }
            }
        }
    }

    /// Gives the buffer with the blocks in it away, and goes on with another.
    fn hand_over(&mut self) {
        let (mut next, mut next_blocks) = std::mem::take(&mut self.spare);
        let rest = self.end - self.begin;
        // Whoever fills a buffer gets a larger one.
        let full = self.end * 2 > self.buffer.len();
        let len = if full { self.buffer.len() * 2 } else { self.buffer.len() };
        let len = len.clamp(BUFFER_LEN_MIN, BUFFER_LEN_MAX).max(rest).max(self.needs);
        if next.len() < len {
            next.resize(len, 0);
        }
        next[..rest].copy_from_slice(&self.buffer[self.begin..self.end]);
        (self.begin, self.end) = (0, rest);
        let buffer = std::mem::replace(&mut self.buffer, next);
        next_blocks.clear();
        let blocks = std::mem::replace(&mut self.blocks, next_blocks);
        let (torrent, from) = (Arc::clone(&self.torrent), self.connection.number);
        let generation = torrent.generation();
        self.job = Some(spawn_blocking(move || {
            // Before anybody can say that all is there.
            torrent.count_got(blocks.iter().map(|landed| u64::from(landed.block.len)).sum());
            let result = torrent.intake().take(from, &buffer, &blocks);
            (buffer, blocks, result.map(|outcomes| (generation, outcomes)))
        }));
    }

    /// Moves what is left to the front, where no block in the buffer forbids it.
    fn make_room(&mut self) {
        if !self.blocks.is_empty() {
            return;
        }
        let short = self.begin + self.needs > self.buffer.len() || self.end == self.buffer.len();
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if short && self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.needs > self.buffer.len() {
            self.buffer.resize(self.needs, 0);
        }
    }

    fn done(&mut self, done: Result<Judged, JoinError>) -> Result<(), ConnectionError> {
        let Ok((buffer, blocks, result)) = done else {
            return Err(ConnectionError::Closed("writing stopped"));
        };
        self.spare = (buffer, blocks);
        match result {
            Ok((generation, outcomes)) => {
                self.torrent.settle(generation, outcomes);
                Ok(())
            }
            Err(error) => {
                self.torrent.fail(error.clone());
                Err(error.into())
            }
        }
    }
}

/// Waits for a job; for ever where there is none.
async fn finished(job: &mut Option<JoinHandle<Judged>>) -> Result<Judged, JoinError> {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}
