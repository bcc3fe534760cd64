//! Frames of the watch protocol on a stream: bounded in length and in time.

use std::time::Duration;

use bytes::Bytes;
use sparewire_core::DecodeError;
use sparewire_protocol::{WATCH_FRAME_LEN_MAX, WatchMessage};
use tokio::time::timeout;

use crate::transport::{RecvStream, SendStream, TransportError};

/// How long the other end may take to say or read one message. A tower asks its chain and writes to
/// its disk before it answers.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why nothing was said.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection or stream is gone.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// What came is no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It is one of a newer version, or one that has no place here.
    #[error("an answer that this version does not know; use a matching release")]
    Unexpected,
    /// Nothing came.
    #[error("no answer within 60 s")]
    Silent,
}

pub(super) async fn send(stream: &mut SendStream, message: &WatchMessage) -> Result<(), WireError> {
    let frame = Bytes::from(message.to_frame());
    timeout(MESSAGE_TIMEOUT, stream.write_chunk(frame)).await.map_err(|_| WireError::Silent)??;
    stream.finish();
    Ok(())
}

pub(super) async fn receive(stream: &mut RecvStream) -> Result<WatchMessage, WireError> {
    let read = async {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await?;
        let length = u32::from_le_bytes(length) as usize;
        if length > WATCH_FRAME_LEN_MAX {
            let length_max = WATCH_FRAME_LEN_MAX;
            return Err(DecodeError::TooLong { length, length_max }.into());
        }
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame).await?;
        WatchMessage::from_frame(&frame)?.ok_or(WireError::Unexpected)
    };
    timeout(MESSAGE_TIMEOUT, read).await.map_err(|_| WireError::Silent)?
}
