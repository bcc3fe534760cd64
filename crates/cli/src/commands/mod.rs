//! One file for each noun of the command line.

pub(crate) mod backup;
pub(crate) mod chain;
pub(crate) mod channel;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod content;
pub(crate) mod delegation;
pub(crate) mod demo;
pub(crate) mod device;
pub(crate) mod earnings;
pub(crate) mod events;
pub(crate) mod provide;
pub(crate) mod rotate;
pub(crate) mod session;
pub(crate) mod settle;
pub(crate) mod stake;
pub(crate) mod status;
pub(crate) mod wallet;
pub(crate) mod watch;
