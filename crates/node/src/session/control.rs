//! The control messages of a session: frames in both directions, bounded in length and in time, over
//! a stream of their own or among the messages of another protocol.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sparewire_protocol::{FRAME_LEN_MAX, Message};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use super::SessionError;
use crate::transport::{RecvStream, SendStream, TransportError};

/// How many messages may wait for the machine; the sender is slowed down beyond that.
const QUEUE_LEN_MAX: usize = 64;
/// How long the peer may leave our control messages unread. They are tiny: this is a dead peer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// A frame's length before it, in bytes.
const LENGTH_LEN: usize = 4;

/// Where the frames of a session go that has no stream of its own.
pub trait FrameSink: Send + Sync {
    /// Takes a frame (kind and body, without its length), in order; an empty one says that no more
    /// will come. `false` where the peer does not read: the session is over then.
    fn send(&self, frame: &[u8]) -> bool;
}

/// Sends messages.
pub(crate) enum ControlWriter {
    /// On a stream.
    Stream(SendStream),
    /// Among others.
    Frames(Ended),
}

/// A sink that is told, whatever happens, that no more will come.
pub(crate) struct Ended(Arc<dyn FrameSink>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.send(&[]); // or the connection is gone
    }
}

impl ControlWriter {
    /// Payments are never queued behind payload: the stream goes before all others.
    pub(crate) fn new(stream: SendStream) -> Self {
        stream.set_priority(1);
        Self::Stream(stream)
    }

    /// Among the messages of another protocol.
    pub(crate) fn frames(sink: Arc<dyn FrameSink>) -> Self {
        Self::Frames(Ended(sink))
    }

    pub(crate) async fn send(&mut self, message: &Message) -> Result<(), SessionError> {
        let frame = Bytes::from(message.to_frame());
        match self {
            Self::Stream(stream) => timeout(WRITE_TIMEOUT, stream.write_chunk(frame))
                .await
                .map_err(|_| SessionError::Stalled)?
                .map_err(SessionError::from),
            Self::Frames(Ended(sink)) => match sink.send(&frame[LENGTH_LEN..]) {
                true => Ok(()),
                false => Err(SessionError::Stalled),
            },
        }
    }

    /// Says that nothing more will come and, on a stream, waits a little for the peer to have read
    /// everything.
    pub(crate) async fn finish(self) {
        if let Self::Stream(mut stream) = self {
            stream.finish();
            let _ = timeout(Duration::from_secs(2), stream.delivered()).await;
        }
    }
}

/// Receives messages.
pub(crate) enum ControlReader {
    /// From a stream.
    Stream(RecvStream),
    /// From frames, until there are no more.
    Frames(mpsc::Receiver<Frame>),
}

/// A frame that waits to be read: kind and body, and the room that it takes up meanwhile.
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) _room: OwnedSemaphorePermit,
}

impl ControlReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self::Stream(stream)
    }

    /// The next message that this version knows; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, SessionError> {
        loop {
            let frame = match self {
                Self::Stream(stream) => read_frame(stream).await?,
                Self::Frames(frames) => frames.recv().await.map(|frame| frame.bytes),
            };
            let Some(frame) = frame else { return Ok(None) };
            if let Some(message) = Message::from_frame(&frame)? {
                return Ok(Some(message));
            }
        }
    }

    /// Reads in a task of its own, so that the machine's loop can wait for other things too.
    pub(crate) fn into_queue(mut self) -> mpsc::Receiver<Result<Message, SessionError>> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN_MAX);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = self.next() => next,
                    () = sender.closed() => return,
                };
                let done = !matches!(next, Ok(Some(_)));
                let Some(next) = next.transpose() else { return };
                if sender.send(next).await.is_err() || done {
                    return;
                }
            }
        });
        receiver
    }
}

/// Kind and body; `None` at the stream's end.
async fn read_frame(stream: &mut RecvStream) -> Result<Option<Bytes>, SessionError> {
    let mut length = [0; LENGTH_LEN];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(TransportError::FinishedEarly) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_LEN_MAX {
        let length_max = FRAME_LEN_MAX;
        return Err(sparewire_core::DecodeError::TooLong { length, length_max }.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(Some(frame.into()))
}
