//! The control stream: frames in both directions, bounded in length and in time.

use std::time::Duration;

use bytes::Bytes;
use sparewire_protocol::{FRAME_LEN_MAX, Message};
use tokio::{sync::mpsc, time::timeout};

use super::SessionError;
use crate::transport::{RecvStream, SendStream, TransportError};

/// How many messages may wait for the machine; the sender is slowed down beyond that.
const QUEUE_LEN_MAX: usize = 64;
/// How long the peer may leave our control messages unread. They are tiny: this is a dead peer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends messages.
#[derive(Debug)]
pub(crate) struct ControlWriter(SendStream);

impl ControlWriter {
    /// Payments are never queued behind payload: the stream goes before all others.
    pub(crate) fn new(stream: SendStream) -> Self {
        stream.set_priority(1);
        Self(stream)
    }

    pub(crate) async fn send(&mut self, message: &Message) -> Result<(), SessionError> {
        let frame = Bytes::from(message.to_frame());
        timeout(WRITE_TIMEOUT, self.0.write_chunk(frame))
            .await
            .map_err(|_| SessionError::Stalled)?
            .map_err(SessionError::from)
    }

    /// Says that nothing more will come and waits a little for the peer to have read everything.
    pub(crate) async fn finish(mut self) {
        self.0.finish();
        let _ = timeout(Duration::from_secs(2), self.0.delivered()).await;
    }
}

/// Receives messages.
#[derive(Debug)]
pub(crate) struct ControlReader(RecvStream);

impl ControlReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self(stream)
    }

    /// The next message that this version knows; `None` at the stream's end.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, SessionError> {
        loop {
            let mut length = [0; 4];
            match self.0.read_exact(&mut length).await {
                Ok(()) => {}
                Err(TransportError::FinishedEarly) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let length = u32::from_le_bytes(length) as usize;
            if length > FRAME_LEN_MAX {
                return Err(sparewire_core::DecodeError::TooLong {
                    length,
                    length_max: FRAME_LEN_MAX,
                }
                .into());
            }
            let mut frame = vec![0; length];
            self.0.read_exact(&mut frame).await?;
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
