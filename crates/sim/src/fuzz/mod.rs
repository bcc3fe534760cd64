//! What is fuzzed over bytes: one body for every decoder that a peer, a disk, a user's file or a
//! chain's node can feed, and for every machine that money depends on.
//!
//! A body takes any bytes and panics where the decoder breaks a promise, which is always more than
//! "it does not panic": what is read is written back as the same bytes, what an input makes us
//! allocate is bounded, errors are values, and what they say fits on a terminal. libFuzzer drives
//! the bodies with coverage (`fuzz/`, `just fuzz TARGET`); `tests/corpora.rs` runs them over the
//! committed corpora, so that a plain `cargo test` replays everything that was ever found.
//!
//! Some bodies run operations of a state machine rather than a decoder: `meter`, `payee`, `payer`
//! and `session` (the simulator's whole world) read a list of them from the bytes, of which any
//! are some list, and check their invariants after each.

mod chain;
mod content;
mod disk;
mod input;
mod meter;
mod payee;
mod payer;
mod proxy;
mod seeds;
mod session;
mod text;
mod torrent;
mod wallet;
mod wire;

pub use chain::{node_answers, raw_transaction, revert_reason, rpc};
pub use content::{content_extension, peer_wire};
pub use disk::{chain_rows, journal_rows, store_rows};
pub use meter::meter;
pub use payee::payee;
pub use payer::payer;
pub use proxy::{http_connect, socks};
pub use seeds::seeds;
pub use session::{plan, session};
pub use text::{exit_rules, names, peer_address, target, units};
pub use torrent::{magnet, metainfo, tracker_answer};
pub use wallet::{keystore, mnemonic, offline_request, offline_response};
pub use wire::{frame, stream_heads, values};

/// A body: it takes any bytes and panics where something is wrong.
pub type Body = fn(&[u8]);

/// Every body by its name, which is also its binary's (`fuzz/fuzz_targets/NAME.rs`) and its
/// corpus's (`fuzz/corpus/NAME`).
pub const TARGETS: &[(&str, Body)] = &[
    ("frame", frame),
    ("values", values),
    ("stream_heads", stream_heads),
    ("units", units),
    ("names", names),
    ("peer_address", peer_address),
    ("target", target),
    ("exit_rules", exit_rules),
    ("socks", socks),
    ("http_connect", http_connect),
    ("keystore", keystore),
    ("mnemonic", mnemonic),
    ("offline_request", offline_request),
    ("offline_response", offline_response),
    ("rpc", rpc),
    ("raw_transaction", raw_transaction),
    ("revert_reason", revert_reason),
    ("node_answers", node_answers),
    ("store_rows", store_rows),
    ("journal_rows", journal_rows),
    ("chain_rows", chain_rows),
    ("metainfo", metainfo),
    ("magnet", magnet),
    ("tracker_answer", tracker_answer),
    ("peer_wire", peer_wire),
    ("content_extension", content_extension),
    ("meter", meter),
    ("payee", payee),
    ("payer", payer),
    ("session", session),
];

/// Runs `work` and fails where it held more than `bytes_max` allocated bytes at a time.
fn within<T>(bytes_max: usize, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(work()));
    assert!(
        info.bytes_max <= bytes_max as u64,
        "{} bytes where {bytes_max} may be",
        info.bytes_max
    );
    result.expect("it was run")
}

/// Fails where a text that is shown to people could move a terminal's cursor, or is endless.
fn assert_tame(words: &impl std::fmt::Display, length_max: usize) {
    let words = words.to_string();
    assert!(!words.chars().any(char::is_control), "control characters in {words:?}");
    assert!(words.len() <= length_max, "{} bytes: {words}", words.len());
}
