//! The simulator: a seeded world in which the real protocol machines, the real store and the real
//! contracts live through everything that can happen to them, watched by a naive ledger.
//!
//! Nothing here is shipped. Same seed, same history, on any machine.

pub mod cast;
pub mod chain;
pub mod consumer;
pub mod coverage;
pub mod disk;
pub mod drill;
pub mod fuzz;
pub mod ledger;
pub mod link;
pub mod node;
pub mod plan;
pub mod provider;
pub mod purse;
pub mod relay;
pub mod road;
pub mod run;
pub mod vice;
pub mod watcher;
pub mod world;
