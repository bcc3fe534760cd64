//! The river from bytes to settled money, as state machines without I/O.
pub mod channel;
pub mod settlement;
