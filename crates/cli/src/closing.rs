//! Asks providers to agree that channels which we pay end at once.

use anyhow::Result;
use sparewire_core::{Amount, Signature};
use sparewire_node::{
    closing::ask_to_close,
    identity::Identity,
    session::SessionError,
    store::{KnownChannel, KnownSession, Store, StoreError},
    transport::PeerAddress,
};
use sparewire_protocol::{Claim, ProtocolError, Role};

use crate::{assemble, hint::Hint, output, side::Side};

/// What the contract takes to close `channel` at once: its provider's agreement, from `provider` or
/// from where it was reached last. `identity` is of our wallet; its authorizer may be another one
/// than the channel's. An agreement is remembered, and given again where it was lost; none is taken
/// of more than the `reserved` that the chain says the channel holds.
pub(crate) async fn ask(
    side: &Side,
    identity: &Identity,
    channel: &KnownChannel,
    reserved: Amount,
    provider: Option<PeerAddress>,
) -> Result<(Claim, Signature)> {
    if let Some(agreed) = channel.agreed_close() {
        let amount = agreed.0.amount;
        if amount > reserved {
            return Err(SessionError::from(ProtocolError::OverDeposit { amount, reserved }).into());
        }
        return Ok(agreed);
    }
    let provider = match provider {
        Some(provider) => provider,
        None => last_reached(&*side.store, channel)?,
    };
    let endpoint = assemble::bind(&side.node, None).await?;
    let asking = ask_to_close(&endpoint, &provider, identity, &side.store, channel, reserved);
    let answer = output::patiently("the provider's agreement", asking).await;
    endpoint.close().await;
    Ok(answer?)
}

/// The newest session with the node that serves over a channel, over whichever channel it was.
pub(crate) fn last_session(
    store: &dyn Store,
    channel: &KnownChannel,
) -> Result<Option<KnownSession>, StoreError> {
    let mut sessions = store.sessions()?;
    sessions.retain(|session| session.role == Role::Payer);
    let newest = || sessions.iter().rev();
    let payee = channel.config.payee_authorizer;
    let over = newest().find(|session| session.agreement.config == channel.config);
    let with = || newest().find(|session| session.agreement.terms.payee_authorizer == payee);
    let node = over.or_else(with).map(|session| session.peer);
    Ok(newest().find(|session| Some(session.peer) == node).cloned())
}

/// Where the provider of a channel was reached last.
fn last_reached(store: &dyn Store, channel: &KnownChannel) -> Result<PeerAddress> {
    let known = match last_session(store, channel)? {
        Some(session) => store.address(session.peer)?,
        None => None,
    };
    known.ok_or_else(|| {
        Hint::new("it is not known where the provider of this channel is")
            .hint("give --provider, as its `provide` prints it")
            .into()
    })
}

/// Whether an error of [`ask`] is what the provider said, and not that it was not reached.
pub(crate) fn is_answer(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(SessionError::Protocol(error)) => !matches!(error, ProtocolError::Silent(_)),
        _ => false,
    }
}
