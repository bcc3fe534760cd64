//! The river from bytes to settled money, as state machines without I/O.
//!
//! ```text
//! bytes -> meter -> receipt -> voucher -> channel -> settlement -> chain
//! ```
//!
//! It is not a network program: it opens no socket, reads no clock, touches no disk and knows no
//! chain library. Whoever drives it (the `node` crate, a simulator, a test) hands in messages,
//! readings, chain facts and the time, and carries out what comes out.
//!
//! **The run loop.** One input, then outputs until there are none, each carried out before the
//! next. That order is what makes crashes harmless: a signature leaves only after the record that
//! it commits us to is durable.
//!
//! ```
//! use sparewire_core::Timestamp;
//! use sparewire_protocol::{Message, Output, Payee, ProtocolError};
//!
//! trait World {
//!     fn make_durable(&mut self, records: Vec<sparewire_protocol::Record>) -> std::io::Result<()>;
//!     fn send(&mut self, message: Message);
//!     fn open_valve_to(&mut self, total: sparewire_core::ByteCount);
//!     fn tell(&mut self, event: sparewire_protocol::Event);
//! }
//!
//! fn turn(payee: &mut Payee, message: Message, now: Timestamp, world: &mut dyn World)
//!     -> Result<(), Box<dyn std::error::Error>>
//! {
//!     payee.handle_message(message, now)?;
//!     while let Some(output) = payee.poll_output() {
//!         match output {
//!             Output::Persist(records) => world.make_durable(records)?, // or stop here
//!             Output::Transmit(message) => world.send(message),
//!             Output::Grant(total) => world.open_valve_to(total),
//!             Output::Event(event) => world.tell(event),
//!         }
//!     }
//!     Ok(()) // call again at payee.poll_timeout(), and when the meter passes payee.poll_mark()
//! }
//! ```
//!
//! `docs/protocol.md` describes what is on the wire, `GLOSSARY.md` the words.

mod appointment;
pub mod channel;
mod claiming;
mod closing;
mod credit;
mod error;
mod message;
mod meter;
mod opening;
mod payee;
mod payer;
mod receipt;
mod session;
mod set_off;
pub mod settlement;
pub mod stake;
mod terms;
pub mod watch;

pub use appointment::{
    APPOINTMENT_SECS_MAX, Appointment, Entrust, Kept, REWARD_MAX, TOWERS_MAX, TowersDomain,
    WATCH_FRAME_LEN_MAX, WatchMessage, WatchRefusal, WatchRefused, turn_of,
};
pub use channel::{
    ChannelConfig, ChannelFacts, ChannelStatus, Claim, Delegation, Revocation, Voucher,
};
pub use closing::{
    AgreedClose, CLOSE_FRAME_LEN_MAX, CloseMessage, CloseRequest, CloseSetup, agree,
};
pub use credit::{CreditRule, LOST_AGAIN_MAX, PAID_PER_CREDIT, STEP_MAX};
pub use error::{Action, ProtocolError};
pub use message::{
    Accepted, FRAME_LEN_MAX, Message, Payment, REASON_LEN_MAX, RefusalCode, Refused, short_reason,
};
pub use meter::{Direction, Meter, Reading};
pub use payee::{Payee, PayeeSetup};
pub use payer::{Payer, PayerSetup};
pub use receipt::{Countersigned, Receipt, ReceiptChain};
pub use session::{
    ANSWER_MS_MAX, Agreement, CHECKPOINT_BYTES, CHECKPOINT_MS, Event, Memory, Output, Record, Role,
    SessionMemory, Statement, StopReason,
};
pub use set_off::SetOff;
pub use terms::{Acceptance, CLOCK_SKEW_MS_MAX, CountingRule, Offer, Service, Terms};
