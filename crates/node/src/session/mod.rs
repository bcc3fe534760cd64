//! Drives the session machines of `protocol` over a real connection: the tokio shell around them.

mod balance;
mod control;
mod driver;
mod gate;
mod stops;
mod stream;
mod streams;

pub(crate) use balance::Balance;
pub use control::FrameSink;
pub(crate) use control::{ControlReader, ControlWriter, Frame};
pub use driver::{Clock, SessionError};
pub(crate) use driver::{Command, Driver, persist};
pub use gate::SessionMeter;
pub(crate) use stream::{
    HEAD_LEN_MAX, OpenReply, OpenRequest, read_reply, read_request, write_reply, write_request,
};
pub(crate) use streams::{Signals, Streams};
