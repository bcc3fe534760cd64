//! What bytes from elsewhere must be before they are read as bencode (BEP 3).
//!
//! `librqbit-bencode` turns bytes into types. Its numbers are read without a look at their size: one
//! too long for its type would wrap, or, with overflow checks as in our builds, panic. So everything
//! that a peer, a file or a tracker sent goes through [`check`] first, and every number is read as
//! an `i64`.

/// How deep values may be nested: a file of BEP 52 that is 64 folders down needs 68.
pub const DEPTH_MAX: usize = 100;
/// Digits of the longest number: below 10^18, which fits an `i64`.
const DIGITS_MAX: usize = 18;

/// Why bytes are not bencode that we read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BencodeError {
    /// The end came within a value.
    #[error("it ends in the middle of a value: it may be truncated, get it again")]
    Truncated,
    /// What stands there is not a value, or a number that is not written as it must be.
    #[error("there is no sound bencode at byte {0}: get it again")]
    Malformed(usize),
    /// Nested more than [`DEPTH_MAX`] deep.
    #[error("its values are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// Bytes follow the value.
    #[error("{0} bytes follow where it should end")]
    Trailing(usize),
}

/// Whether `bytes` are one value and nothing else. Keys need not be sorted.
///
/// # Errors
/// [`BencodeError`].
pub fn check(bytes: &[u8]) -> Result<(), BencodeError> {
    match bytes.len() - check_prefix(bytes)? {
        0 => Ok(()),
        trailing => Err(BencodeError::Trailing(trailing)),
    }
}

/// How many bytes the value takes with which `bytes` begin: what follows is not looked at.
///
/// # Errors
/// [`BencodeError`].
pub fn check_prefix(bytes: &[u8]) -> Result<usize, BencodeError> {
    let mut open = Vec::new();
    let mut at = 0;
    loop {
        let byte = *bytes.get(at).ok_or(BencodeError::Truncated)?;
        match (byte, open.last()) {
            // A dictionary may end where a key would be, not where its value is due.
            (b'e', Some(Within::List | Within::Key)) => {
                open.pop();
                at += 1;
            }
            (b'0'..=b'9', _) => at = string_end(bytes, at)?,
            (_, Some(Within::Key)) => return Err(BencodeError::Malformed(at)),
            (b'i', _) => at = integer_end(bytes, at)?,
            (b'l' | b'd', _) => {
                if open.len() == DEPTH_MAX {
                    return Err(BencodeError::TooDeep);
                }
                open.push(if byte == b'l' { Within::List } else { Within::Key });
                at += 1;
                continue;
            }
            _ => return Err(BencodeError::Malformed(at)),
        }
        // A key or a value is over.
        match open.last_mut() {
            None => return Ok(at),
            Some(Within::List) => {}
            Some(expected @ Within::Key) => *expected = Within::Value,
            Some(expected @ Within::Value) => *expected = Within::Key,
        }
    }
}

/// What is due in a list or dictionary that is not closed yet.
#[derive(Clone, Copy)]
enum Within {
    List,
    Key,
    Value,
}

/// Where the decimal digits that begin at `at` end, and what they say.
fn digits(bytes: &[u8], at: usize) -> Result<(usize, u64), BencodeError> {
    let digits = bytes.get(at..).unwrap_or_default();
    let count = digits.iter().take(DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
    let end = at + count;
    if end == bytes.len() {
        return Err(BencodeError::Truncated);
    }
    if count == 0 || count > DIGITS_MAX || (count > 1 && bytes[at] == b'0') {
        return Err(BencodeError::Malformed(at));
    }
    let value = bytes[at..end].iter().fold(0, |value, b| value * 10 + u64::from(b - b'0'));
    Ok((end, value))
}

fn integer_end(bytes: &[u8], at: usize) -> Result<usize, BencodeError> {
    let negative = bytes.get(at + 1) == Some(&b'-');
    let (end, value) = digits(bytes, at + 1 + usize::from(negative))?;
    if bytes[end] != b'e' || (negative && value == 0) {
        return Err(BencodeError::Malformed(at));
    }
    Ok(end + 1)
}

fn string_end(bytes: &[u8], at: usize) -> Result<usize, BencodeError> {
    let (end, len) = digits(bytes, at)?;
    if bytes[end] != b':' {
        return Err(BencodeError::Malformed(at));
    }
    let begin = end + 1;
    match usize::try_from(len) {
        Ok(len) if len <= bytes.len() - begin => Ok(begin + len),
        _ => Err(BencodeError::Truncated),
    }
}

/// The byte strings of a list that was checked; it ends at what is none.
pub(crate) fn strings(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 1;
    std::iter::from_fn(move || {
        let (digits, _) = digits(list, at).ok()?;
        let end = string_end(list, at).ok()?;
        at = end;
        list.get(digits + 1..end)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bencode_is_passes_and_its_end_is_found() {
        for sound in ["i0e", "i-7e", "0:", "4:spam", "le", "de", "d1:al1:bi3ee1:cd0:0:ee"] {
            assert_eq!(check(sound.as_bytes()), Ok(()), "{sound}");
            let more = format!("{sound}rest");
            assert_eq!(check_prefix(more.as_bytes()), Ok(sound.len()), "{sound}");
            assert_eq!(check(more.as_bytes()), Err(BencodeError::Trailing(4)), "{sound}");
            for end in 0..sound.len() {
                assert_eq!(
                    check(&sound.as_bytes()[..end]),
                    Err(BencodeError::Truncated),
                    "{sound}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_bencode_is_refused_where_it_goes_wrong() {
        for (unsound, at) in [
            ("x", 0),
            ("i-0e", 0),
            ("i03e", 1),
            ("ie", 1),
            ("i1.5e", 0),
            ("03:abc", 0),
            ("3-abc", 0),
            ("e", 0),
            ("di1e1:ae", 1),
            ("d1:ae", 4),
            ("i1000000000000000000e", 1),
            ("9999999999999999999:", 0),
            ("d1:pi99999999999999999999ee", 5),
        ] {
            assert_eq!(check(unsound.as_bytes()), Err(BencodeError::Malformed(at)), "{unsound}");
        }
    }

    #[test]
    fn depth_and_lengths_are_bounded() {
        let nested = |depth| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert_eq!(check(&nested(DEPTH_MAX)), Ok(()));
        assert_eq!(check(&nested(DEPTH_MAX + 1)), Err(BencodeError::TooDeep));
        assert_eq!(check(b"999999999999999999:"), Err(BencodeError::Truncated));
    }
}
