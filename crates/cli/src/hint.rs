//! An error with a line that says what to do.

use std::fmt;

use sparewire_node::session::SessionError;
use sparewire_protocol::settlement::ChainError;

/// An error message and a hint; `main` prints the hint on a line of its own.
#[derive(Debug)]
pub(crate) struct Hint {
    message: String,
    hint: Option<String>,
}

impl Hint {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What to do about an error, if it is known: its own hint, or what helps against its kind.
pub(crate) fn advice(error: &anyhow::Error) -> Option<String> {
    if let Some(own) = error.downcast_ref::<Hint>() {
        return own.hint.clone();
    }
    let of_chain = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(SessionError::Chain(error)) => Some(error),
        _ => cause.downcast_ref::<ChainError>(),
    })?;
    match of_chain {
        ChainError::Unreachable { .. } => Some(
            "`sparewire chain serve` runs a chain to try things out on; --rpc URL names another node, or several"
                .into(),
        ),
        ChainError::WrongChain { actual, .. } => Some(format!(
            "give --chain-id {actual} with its --contract and --token, or the --rpc of the right chain"
        )),
        ChainError::NoContract { .. } => Some(
            "check --contract; `sparewire chain deploy` puts the contract on a chain that has none"
                .into(),
        ),
        ChainError::NoRegistry { .. } => Some(
            "until it names the registry, no revocation is made and none is seen; without a registry, leave [chain] keys empty"
                .into(),
        ),
        ChainError::NoStake { .. } => Some(
            "set [chain] stake to the contract that holds bonds; `sparewire chain deploy` puts one on a chain that has none"
                .into(),
        ),
        ChainError::InsufficientFunds { wallet, .. } => Some(format!(
            "send it there; on the embedded chain: `sparewire chain faucet {wallet}`"
        )),
        _ => None,
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hint {}
