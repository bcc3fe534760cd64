//! A first look at bencode that somebody else sent, before it is read into types.
//!
//! The reader that we use adds up digits without looking whether they still fit, and in a build
//! with overflow checks that is a panic. So each value is walked here first.

use std::ops::RangeInclusive;

/// How deep lists and dictionaries may lie in each other: a file of BEP 52 that is 64 names down
/// takes 68, what peers send stays below 8. The reader recurses, and has a limit of 128.
pub const DEPTH_MAX: usize = 100;

/// Why bytes are no bencode that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BencodeError {
    /// Cut off, or a byte where none such may be.
    #[error("malformed bencode at byte {0}")]
    Malformed(usize),
    /// Beyond the range that is asked for.
    #[error("number out of range at byte {0} of bencode")]
    OutOfRange(usize),
    /// Beyond [`DEPTH_MAX`].
    #[error("bencode nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// Sound bencode, but not of the type that is due: a key is missing or of another kind.
    #[error("bencode without what belongs there")]
    Mistyped,
}

/// The length in bytes of the value that `bytes` begins with, of which all numbers lie within
/// `numbers`. Bytes after it are not looked at. Nothing is allocated.
///
/// # Errors
/// [`BencodeError`] where there is no such value.
pub fn measure(bytes: &[u8], numbers: RangeInclusive<i64>) -> Result<usize, BencodeError> {
    let mut at = 0;
    // What is open: a list, or a dictionary and whether its next string is a key.
    let mut open = [Open::List; DEPTH_MAX];
    let mut depth = 0usize;
    loop {
        let inner = depth.checked_sub(1).map(|top| open[top]);
        let first = *bytes.get(at).ok_or(BencodeError::Malformed(at))?;
        match (first, inner) {
            (b'e', Some(Open::List | Open::Key)) => {
                at += 1;
                depth -= 1;
            }
            (b'0'..=b'9', _) => at = string_end(bytes, at)?,
            (_, Some(Open::Key)) => return Err(BencodeError::Malformed(at)),
            (b'i', _) => at = number_end(bytes, at, &numbers)?,
            (b'l' | b'd', _) => {
                let place = open.get_mut(depth).ok_or(BencodeError::TooDeep)?;
                *place = if first == b'l' { Open::List } else { Open::Key };
                depth += 1;
                at += 1;
                continue;
            }
            _ => return Err(BencodeError::Malformed(at)),
        }
        // A value has ended: in a dictionary, keys and values take turns.
        let Some(top) = depth.checked_sub(1) else { return Ok(at) };
        open[top] = match open[top] {
            Open::List => Open::List,
            Open::Key => Open::Value,
            Open::Value => Open::Key,
        };
    }
}

#[derive(Clone, Copy)]
enum Open {
    List,
    Key,
    Value,
}

/// Reads a value that fills `bytes`, whose numbers fit an `i64`. Fields must be `i64` or wider.
///
/// # Errors
/// [`BencodeError`].
pub(crate) fn read<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BencodeError> {
    let length = measure(bytes, i64::MIN..=i64::MAX)?;
    if length != bytes.len() {
        return Err(BencodeError::Malformed(length));
    }
    librqbit_bencode::from_bytes(bytes).map_err(|_| BencodeError::Mistyped)
}

/// The bencode of `value`, appended to `out`.
pub(crate) fn write(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    // Writing to memory does not fail, and our own types hold nothing that bencode has no form for.
    librqbit_bencode::bencode_serialize_to_writer(value, out)
        .unwrap_or_else(|error| unreachable!("bencode to memory: {error}"));
}

/// The byte strings of a list that [`measure`] has walked; it ends at what is none.
pub(crate) fn strings(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 1;
    std::iter::from_fn(move || {
        let begin = at + digits(list.get(at..)?, 0).len() + 1;
        at = string_end(list, at).ok()?;
        list.get(begin..at)
    })
}

/// The byte string that a value is.
pub(crate) fn string(value: &[u8]) -> Option<&[u8]> {
    if !value.first()?.is_ascii_digit() {
        return None;
    }
    let end = string_end(value, 0).ok()?;
    value.get(digits(value, 0).len() + 1..end)
}

/// The number that a value is, if it fits.
pub(crate) fn number(value: &[u8]) -> Option<i64> {
    let text = value.strip_prefix(b"i")?.split(|byte| *byte == b'e').next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The values of a list that [`measure`] has walked; none of anything else.
pub(crate) fn items(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list.strip_prefix(b"l").unwrap_or_default();
    std::iter::from_fn(move || {
        let length = measure(rest, i64::MIN..=i64::MAX).ok()?;
        let (item, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(item)
    })
}

/// The keys and values of a dictionary that [`measure`] has walked; none of anything else.
pub(crate) fn entries(dictionary: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = dictionary.strip_prefix(b"d").unwrap_or_default();
    std::iter::from_fn(move || {
        let end = string_end(rest, 0).ok().filter(|_| rest.first() != Some(&b'e'))?;
        let (key, after) = rest.split_at_checked(end)?;
        let length = measure(after, i64::MIN..=i64::MAX).ok()?;
        let (value, after) = after.split_at_checked(length)?;
        rest = after;
        Some((string(key)?, value))
    })
}

/// Appends a byte string.
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// Appends a number.
pub(crate) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(format!("i{number}e").as_bytes());
}

fn digits(bytes: &[u8], at: usize) -> &[u8] {
    let rest = &bytes[at..];
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    &rest[..end]
}

fn string_end(bytes: &[u8], at: usize) -> Result<usize, BencodeError> {
    let malformed = BencodeError::Malformed(at);
    let digits = digits(bytes, at);
    let colon = at + digits.len();
    // No length of more than 10 digits is one of bytes that are here.
    if digits.len() > 10 || bytes.get(colon) != Some(&b':') {
        return Err(malformed);
    }
    let length = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let end = usize::try_from(length).ok().and_then(|length| (colon + 1).checked_add(length));
    end.filter(|end| *end <= bytes.len()).ok_or(malformed)
}

fn number_end(
    bytes: &[u8],
    at: usize,
    numbers: &RangeInclusive<i64>,
) -> Result<usize, BencodeError> {
    let minus = usize::from(bytes.get(at + 1) == Some(&b'-'));
    let begin = at + 1 + minus;
    let digits = digits(bytes, begin.min(bytes.len()));
    let end = begin + digits.len();
    if digits.is_empty() || bytes.get(end) != Some(&b'e') {
        return Err(BencodeError::Malformed(at));
    }
    let number = digits.iter().try_fold(0i64, |sum, digit| {
        let digit = i64::from(digit - b'0');
        sum.checked_mul(10)?.checked_add(if minus == 1 { -digit } else { digit })
    });
    number.filter(|number| numbers.contains(number)).ok_or(BencodeError::OutOfRange(at))?;
    Ok(end + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use librqbit_bencode::{BencodeValue, ByteBuf};
    use proptest::prelude::*;

    use super::*;

    const ANY: RangeInclusive<i64> = i64::MIN..=i64::MAX;

    #[test]
    fn the_length_of_a_sound_value_is_found_and_what_follows_is_left_alone() {
        for (text, length) in [
            ("i-5exyz", 4),
            ("3:abcd", 5),
            ("le", 2),
            ("d1:ai1e1:bl1:xd0:0:eee", 22),
            ("i9223372036854775807e", 21),
            ("i-9223372036854775808e", 22),
        ] {
            assert_eq!(measure(text.as_bytes(), ANY), Ok(length), "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_or_out_of_place_is_refused() {
        for text in [
            "",
            "i",
            "i-e",
            "ie",
            "i1",
            "5:abcd",
            "5",
            "99999999999999999999:a",
            "l",
            "d",
            "d1:a",
            "di1ei2ee",
            "d1:ae",
            "e",
            "x",
            "i1x",
            "4294967296:",
        ] {
            assert!(
                matches!(measure(text.as_bytes(), ANY), Err(BencodeError::Malformed(_))),
                "{text}"
            );
        }
        for text in ["i9223372036854775808e", "i-9223372036854775809e", "i99999999999999999999999e"]
        {
            assert_eq!(measure(text.as_bytes(), ANY), Err(BencodeError::OutOfRange(0)), "{text}");
        }
        assert_eq!(measure(b"li5ei6ee", 0..=5), Err(BencodeError::OutOfRange(4)));
    }

    #[test]
    fn nesting_is_bounded_without_recursion() {
        let nested = |depth: usize| ["l".repeat(depth), "e".repeat(depth)].concat();
        assert_eq!(measure(nested(DEPTH_MAX).as_bytes(), ANY), Ok(2 * DEPTH_MAX));
        assert_eq!(measure(nested(DEPTH_MAX + 1).as_bytes(), ANY), Err(BencodeError::TooDeep));
        assert_eq!(measure(&[b'd'; 1 << 20], ANY), Err(BencodeError::Malformed(1)));
        assert_eq!(measure(&[b'l'; 1 << 20], ANY), Err(BencodeError::TooDeep));
    }

    proptest! {
        #[test]
        fn what_passes_can_be_read_without_a_panic(
            bytes in proptest::collection::vec(proptest::sample::select(&b"ilde019:-ab"[..]), 0..24),
        ) {
            if let Ok(length) = measure(&bytes, ANY) {
                let _ = librqbit_bencode::from_bytes::<BencodeValue<ByteBuf<'_>>>(&bytes[..length]);
            }
        }

        #[test]
        fn what_is_written_is_measured_whole(
            value in proptest::collection::btree_map("[a-c]{0,3}", any::<i64>(), 0..4),
        ) {
            let mut bytes = Vec::new();
            write(&value, &mut bytes);
            prop_assert_eq!(measure(&bytes, ANY), Ok(bytes.len()));
            prop_assert_eq!(read::<BTreeMap<String, i64>>(&bytes), Ok(value));
        }
    }
}
