//! Whoever asks us to agree to closes, over a connection of its own.

use std::{sync::Arc, time::Duration};

use sparewire_protocol::{CloseMessage, ProtocolError, Refused, short_reason};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Provider;
use crate::{
    closing::{receive, send},
    session::SessionError,
    transport::Connection,
};

/// How long the other end may take to ask, or to read an answer.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions of one connection; whoever has more connects again, and stands in line again.
const QUESTIONS_MAX: usize = 64;

impl Provider {
    /// Answers whoever asks us to agree to closes, one after the other, until it goes.
    pub(super) async fn answer_closes(
        self: &Arc<Self>,
        connection: &Connection,
        shutdown: &CancellationToken,
    ) -> Result<(), SessionError> {
        let stranger = self.strangers.enter();
        let answering = async {
            let late = |_| SessionError::Stalled;
            for _ in 0..QUESTIONS_MAX {
                let Ok(Ok(streams)) = timeout(MESSAGE_TIMEOUT, connection.accept_bi()).await else {
                    break;
                };
                let (mut reply, mut question) = streams;
                let asked =
                    timeout(MESSAGE_TIMEOUT, receive(&mut question)).await.map_err(late)??;
                let CloseMessage::Ask(request) = asked else {
                    return Err(ProtocolError::Unexpected("question about a close").into());
                };
                let (peer, tasks) = (connection.peer(), &self.tracker);
                let answered = self.seller.answer_close(peer, request, shutdown, tasks).await;
                let answer = match answered {
                    Ok(agreed) => CloseMessage::Agreed(agreed),
                    Err((error, code)) => {
                        tracing::info!(peer = %connection.peer(), %error, "no close is agreed on");
                        let reason = short_reason(&error.for_peer());
                        CloseMessage::Refused(Refused { code, reason })
                    }
                };
                timeout(MESSAGE_TIMEOUT, send(&mut reply, &answer)).await.map_err(late)??;
            }
            Ok(())
        };
        tokio::select! {
            answered = answering => answered,
            () = stranger.evicted.cancelled() => {
                Err(SessionError::Policy("others needed the room; come again".into()))
            }
            () = shutdown.cancelled() => Err(SessionError::Shutdown),
        }
    }
}
