//! What people and programs read: stdout is data, stderr is talk.

use std::time::Duration;

use serde::Serialize;
use sparewire_core::{Amount, ByteCount, Price};
use sparewire_protocol::settlement::TokenInfo;

/// How long people wait without wondering.
const MOMENT: Duration = Duration::from_secs(2);

/// Prints one JSON document.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    out!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a line of data to stdout.
macro_rules! out {
    ($($argument:tt)*) => { $crate::output::line(format_args!($($argument)*)) };
}
pub(crate) use out;

/// Writes a line to stdout. Whoever reads it may have read enough (`| head`): that is no error.
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Says what is being waited for where `work` takes longer than a moment.
pub(crate) async fn patiently<T>(waiting_for: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(MOMENT, &mut work).await {
        return done;
    }
    eprintln!("waiting for {waiting_for}…");
    work.await
}

/// An amount with its symbol.
pub(crate) fn amount(amount: Amount, token: &TokenInfo) -> String {
    format!("{} {}", amount.display(token.decimals), token.symbol)
}

/// A price with its symbol.
pub(crate) fn price(price: Price, token: &TokenInfo) -> String {
    let units = Amount::new(price.get()).unwrap_or(Amount::MAX);
    format!("{} {} per GiB", units.display(token.decimals), token.symbol)
}

/// Bytes in full and in words.
pub(crate) fn bytes(bytes: ByteCount) -> String {
    if bytes < ByteCount::KIB {
        return format!("{} B", bytes.get());
    }
    format!("{bytes} ({} B)", grouped(bytes.get()))
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The first and last digits of a long id.
pub(crate) fn short(id: &impl ToString) -> String {
    let text = id.to_string();
    if text.len() <= 20 { text } else { format!("{}…{}", &text[..10], &text[text.len() - 4..]) }
}

/// Makes text from elsewhere safe for a terminal.
pub(crate) fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
