//! The head of a data stream: what the consumer asks for and what the provider answers. Payload
//! follows as it is. Heads are not counted and not billed.

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use sparewire_core::{decode, encode};

use super::SessionError;
use crate::{
    refusal::Refusal,
    target::Target,
    transport::{RecvStream, SendStream},
};

/// Longest head: a domain name of 253 bytes, or a refusal's reason.
pub(crate) const HEAD_LEN_MAX: usize = 512;

/// What the consumer asks of a data stream.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum OpenRequest {
    /// A TCP connection from the provider's line; names are resolved there.
    Tcp(Target) = 1,
}

/// What the provider answers.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub(crate) enum OpenReply {
    /// It is connected; payload follows.
    Opened = 0,
    /// It is not, and this is why.
    Refused(Refusal) = 1,
}

pub(crate) async fn write_request(
    stream: &mut SendStream,
    request: &OpenRequest,
) -> Result<(), SessionError> {
    write_head(stream, request).await
}

pub(crate) async fn read_request(stream: &mut RecvStream) -> Result<OpenRequest, SessionError> {
    read_head(stream).await
}

pub(crate) async fn write_reply(
    stream: &mut SendStream,
    reply: &OpenReply,
) -> Result<(), SessionError> {
    write_head(stream, reply).await
}

pub(crate) async fn read_reply(stream: &mut RecvStream) -> Result<OpenReply, SessionError> {
    read_head(stream).await
}

async fn write_head<T: BorshSerialize>(
    stream: &mut SendStream,
    head: &T,
) -> Result<(), SessionError> {
    let body = encode(head);
    let mut bytes = Vec::with_capacity(2 + body.len());
    bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(stream.write_chunk(Bytes::from(bytes)).await?)
}

async fn read_head<T: BorshDeserialize>(stream: &mut RecvStream) -> Result<T, SessionError> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > HEAD_LEN_MAX {
        return Err(
            sparewire_core::DecodeError::TooLong { length, length_max: HEAD_LEN_MAX }.into()
        );
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(decode(&body, HEAD_LEN_MAX)?)
}
