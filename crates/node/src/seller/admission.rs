//! Who may start or resume a session, decided on what the store and the chain say. No I/O but the
//! store's, so that a simulation decides as a provider does.

use std::sync::Arc;

use sparewire_core::{DeviceSignature, NodeId, SessionId, Signer, Timestamp};
use sparewire_protocol::{
    Acceptance, ChannelFacts, Payee, PayeeSetup, ProtocolError, Reading, RefusalCode, Role, Terms,
};

use crate::{
    session::SessionError,
    store::{KnownSession, Store, StoreError},
};

/// The terms of a session that this peer may resume; where there is none, it is offered new ones.
///
/// # Errors
/// [`StoreError`].
pub fn terms_of(
    store: &dyn Store,
    session: SessionId,
    peer: NodeId,
    now: Timestamp,
) -> Result<Option<Terms>, StoreError> {
    Ok(store
        .session(session)?
        .filter(|known| known.role == Role::Payee && known.peer == peer)
        .filter(|known| known.statement.is_none() && now <= known.agreement.terms.expires)
        .map(|known| known.agreement.terms))
}

/// Someone who has accepted our terms.
pub struct Applicant {
    /// The terms that it was offered.
    pub terms: Terms,
    /// Its device.
    pub peer: NodeId,
    /// What it accepts.
    pub acceptance: Acceptance,
    /// Its signature of that.
    pub signature: DeviceSignature,
}

/// Starts or resumes the session of an applicant; the machine's first outputs record and answer it.
///
/// # Errors
/// What to tell the applicant, and under which code. Nothing has changed then.
pub fn admit(
    store: &dyn Store,
    facts: Option<ChannelFacts>,
    applicant: Applicant,
    signer: Arc<dyn Signer>,
    now: Timestamp,
) -> Result<Payee, (SessionError, RefusalCode)> {
    let Applicant { terms, peer, acceptance, signature } = applicant;
    let Some(facts) = facts else {
        let unknown = ProtocolError::ChannelUnusable("the chain does not know it (yet)");
        return Err((unknown.into(), RefusalCode::ChannelUnusable));
    };
    let session = acceptance.session;
    let channel = acceptance.channel.id(&terms.domain);
    let pending = acceptance.pending.map(|pending| pending.body.session);
    let recall = || {
        let pending_of = match pending.filter(|pending| *pending != session) {
            Some(pending) => store.session(pending)?,
            None => None,
        };
        Ok((store.session(session)?, store.memory(channel, Some(session))?, pending_of))
    };
    let (known, memory, pending_of) =
        recall().map_err(|error: StoreError| (error.into(), RefusalCode::Busy))?;
    let is_anothers = |known: &KnownSession| known.role != Role::Payee || known.peer != peer;
    if known.is_some_and(|known| known.statement.is_some() || is_anothers(&known)) {
        let ended = SessionError::Policy("this session has ended; start a new one".into());
        return Err((ended, RefusalCode::UnknownSession));
    }
    let pending_of = pending_of.filter(|of| !is_anothers(of)).map(|of| {
        let paid = of.payment.map_or(Reading::ZERO, |payment| payment.reading);
        (of.agreement, paid)
    });
    let setup = PayeeSetup {
        terms,
        consumer: peer,
        acceptance,
        signature,
        facts,
        memory,
        pending_of,
        signer,
    };
    Payee::start(setup, now).map_err(|error| {
        let code = error.refusal_code();
        (error.into(), code)
    })
}
