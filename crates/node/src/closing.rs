//! The cooperative close on the wire: how a payer asks, and the frames of both sides, bounded in
//! length and in time. How a payee answers is in [`crate::provider`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sparewire_core::{Amount, DecodeError, Signature};
use sparewire_protocol::{
    AgreedClose, CLOSE_FRAME_LEN_MAX, Claim, CloseMessage, CloseRequest, ProtocolError, Role,
};
use tokio::time::timeout;

use crate::{
    identity::Identity,
    session::SessionError,
    store::{KnownChannel, KnownSession, Store, StoreError, ask},
    transport::{CLOSE_ALPN, Endpoint, PeerAddress, RecvStream, SendStream},
};

/// How long a payee is waited for in all, connecting included: without it there is the unilateral
/// close.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the payee of a channel that we pay, at `provider`, to agree that it ends at once; what it
/// answers is durable when this returns. Asked again it answers the same. `reserved` is what the
/// chain says that the channel holds. Returns what [`Intent::CloseCooperatively`] takes.
///
/// [`Intent::CloseCooperatively`]: sparewire_protocol::settlement::Intent::CloseCooperatively
///
/// # Errors
/// [`SessionError`] where it does not answer within 10 s, says no, or answers something that we do
/// not take; where our store fails. Nothing is lost: there is the unilateral close.
pub async fn ask_to_close(
    endpoint: &Endpoint,
    provider: &PeerAddress,
    identity: &Identity,
    store: &Arc<dyn Store>,
    channel: &KnownChannel,
    reserved: Amount,
) -> Result<(Claim, Signature), SessionError> {
    let request = CloseRequest {
        domain: channel.domain,
        config: channel.config,
        delegation: identity.delegation,
        payment: channel.payment,
    };
    let asking = ask_once(endpoint, provider, &request);
    let agreed =
        timeout(ASK_TIMEOUT, asking).await.map_err(|_| ProtocolError::Silent("answer"))??;
    let payee_signature = agreed.close.signature;
    let claim = ask(store, move |store| Ok(take(store, &request, &agreed, reserved))).await??;
    Ok((claim, payee_signature))
}

async fn ask_once(
    endpoint: &Endpoint,
    provider: &PeerAddress,
    request: &CloseRequest,
) -> Result<AgreedClose, SessionError> {
    let connection = endpoint.connect_for(provider, CLOSE_ALPN).await?;
    let (mut send_stream, mut receive_stream) = connection.open_bi().await?;
    send(&mut send_stream, &CloseMessage::Ask(request.clone())).await?;
    let answer = receive(&mut receive_stream).await?;
    connection.close(0, "done");
    match answer {
        CloseMessage::Agreed(agreed) => Ok(agreed),
        CloseMessage::Refused(refused) => {
            Err(ProtocolError::Refused { code: refused.code, reason: refused.reason }.into())
        }
        CloseMessage::Ask(_) => Err(ProtocolError::Unexpected("answer to a close").into()),
    }
}

/// Takes an answer, durably.
fn take(
    store: &dyn Store,
    request: &CloseRequest,
    agreed: &AgreedClose,
    reserved: Amount,
) -> Result<Claim, SessionError> {
    let paid_in = match agreed.payment {
        Some(payment) => store.session(payment.session)?.filter(|of| of.role == Role::Payer),
        None => None,
    };
    let (records, claim) =
        request.take(agreed, paid_in.map(|of| of.agreement).as_ref(), reserved)?;
    store.record(&records)?;
    Ok(claim)
}

/// What was agreed in the session that a request's payment is of, where we were its payee.
pub(crate) fn paid_in(
    store: &dyn Store,
    request: &CloseRequest,
) -> Result<Option<KnownSession>, StoreError> {
    let Some(payment) = request.payment else { return Ok(None) };
    Ok(store.session(payment.session)?.filter(|of| of.role == Role::Payee))
}

pub(crate) async fn send(
    stream: &mut SendStream,
    message: &CloseMessage,
) -> Result<(), SessionError> {
    stream.write_chunk(Bytes::from(message.to_frame())).await?;
    stream.finish();
    Ok(())
}

pub(crate) async fn receive(stream: &mut RecvStream) -> Result<CloseMessage, SessionError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > CLOSE_FRAME_LEN_MAX {
        return Err(DecodeError::TooLong { length, length_max: CLOSE_FRAME_LEN_MAX }.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    let message = CloseMessage::from_frame(&frame)?;
    // One of a newer version has no place here: there is one question, and one answer.
    Ok(message.ok_or(ProtocolError::Unexpected("message on a close stream"))?)
}
