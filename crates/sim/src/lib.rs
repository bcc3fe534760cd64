//! The simulator: a seeded world in which the real protocol machines, the real store and the real
//! contracts live through everything that can happen to them, watched by a naive ledger.
//!
//! Nothing here is shipped. Same seed, same history, on any machine.
pub mod fuzz;
