//! The tokio shell around the protocol: transport, proxy, exit and the copying between them.

pub mod buyer;
pub mod closing;
pub mod consumer;
pub mod content;
pub mod copy;
pub mod exit;
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod plain;
pub mod provider;
pub mod proxy;
pub mod refusal;
pub mod seller;
pub mod session;
pub mod store;
pub mod target;
pub mod tower;
pub mod transport;
