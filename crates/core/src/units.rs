//! Newtypes for everything that is counted, so that bytes are never added to money.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// A number of payload bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(transparent)]
pub struct ByteCount(u64);

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);
    /// 2^10 bytes.
    pub const KIB: Self = Self(1 << 10);
    /// 2^20 bytes.
    pub const MIB: Self = Self(1 << 20);
    /// 2^30 bytes.
    pub const GIB: Self = Self(1 << 30);

    /// A count of `bytes`.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The plain number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sum, or `None` above `u64::MAX`.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or zero where `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Reads `1048576`, `64 KiB`, `1.5MiB`, `2GiB` or `1TiB` (binary units only; a fraction is
    /// rounded down to whole bytes).
    ///
    /// # Errors
    /// [`UnitError::Malformed`] for anything else, [`UnitError::OutOfRange`] above `u64::MAX`.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = (text[..split].trim(), text[split..].trim());
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "kib" | "k" => 10,
            "mib" | "m" => 20,
            "gib" | "g" => 30,
            "tib" | "t" => 40,
            _ => return Err(UnitError::Malformed { what: "size", text: text.to_owned() }),
        };
        // Nine decimals are kept, then scaled; the fraction of a byte is dropped.
        let scaled = parse_decimal(number, 9, "size", false)?;
        let bytes = scaled
            .checked_shl(shift)
            .filter(|shifted| shifted >> shift == scaled)
            .ok_or_else(|| UnitError::OutOfRange { what: "size", text: text.to_owned() })?
            / 1_000_000_000;
        u64::try_from(bytes)
            .map(Self)
            .map_err(|_| UnitError::OutOfRange { what: "size", text: text.to_owned() })
    }
}

impl fmt::Display for ByteCount {
    /// The largest binary unit that keeps the number at or above one, with two decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >> shift > 0 {
                let whole = self.0 >> shift;
                let part = ((self.0 & ((1 << shift) - 1)) as u128 * 100) >> shift;
                return write!(f, "{whole}.{part:02} {unit}");
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// An amount of one ERC-20 token in its smallest unit, at most 2^104 - 1: what one storage slot of
/// the contract can hold beside the channel's other fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize)]
pub struct Amount(u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount that the channel contract can hold: 2^104 - 1.
    pub const MAX: Self = Self((1 << 104) - 1);

    /// `units` of the token's smallest unit, or `None` above [`Amount::MAX`].
    pub const fn new(units: u128) -> Option<Self> {
        if units <= Self::MAX.0 { Some(Self(units)) } else { None }
    }

    /// The plain number of smallest units.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The sum, or `None` above [`Amount::MAX`].
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        Self::new(self.0 + other.0) // both are below 2^104: the sum fits
    }

    /// The difference, or `None` where `other` is larger.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The difference, or zero where `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self * numerator / denominator`, rounded up. `None` above [`Amount::MAX`] and for a
    /// denominator of zero.
    pub fn mul_div_ceil(self, numerator: u128, denominator: u128) -> Option<Self> {
        use alloy_primitives::U256;
        if denominator == 0 {
            return None;
        }
        // 104 + 128 bits fit.
        let product = U256::from(self.0) * U256::from(numerator);
        u128::try_from(product.div_ceil(U256::from(denominator))).ok().and_then(Self::new)
    }

    /// Reads a decimal such as `12.5` as an amount of a token with `decimals` decimals.
    ///
    /// # Errors
    /// [`UnitError`] where the text is no such number, has more decimals than the token, or is
    /// too large.
    pub fn parse(text: &str, decimals: u8) -> Result<Self, UnitError> {
        let units = parse_decimal(text.trim(), decimals, "amount", true)?;
        Self::new(units)
            .ok_or_else(|| UnitError::OutOfRange { what: "amount", text: text.to_owned() })
    }

    /// The amount as a decimal of a token with `decimals` decimals, without trailing zeros.
    pub fn display(self, decimals: u8) -> String {
        let digits = format!("{:0width$}", self.0, width = usize::from(decimals) + 1);
        let (whole, part) = digits.split_at(digits.len() - usize::from(decimals));
        match part.trim_end_matches('0') {
            "" => whole.to_owned(),
            part => format!("{whole}.{part}"),
        }
    }
}

impl fmt::Display for Amount {
    /// The plain number of smallest units; [`Amount::display`] knows the token's decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl BorshDeserialize for Amount {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        Self::new(u128::deserialize_reader(reader)?).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, "amount above 2^104 - 1")
        })
    }
}

impl Serialize for Amount {
    /// A decimal string: JSON numbers lose digits above 2^53.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
        text.parse().ok().and_then(Self::new).ok_or_else(|| {
            serde::de::Error::custom("expected a decimal string of at most 2^104 - 1")
        })
    }
}

/// A price in smallest units of the token per GiB (2^30 bytes), at most 2^96.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, BorshSerialize)]
pub struct Price(u128);

impl Price {
    /// Service for nothing.
    pub const FREE: Self = Self(0);
    /// The dearest price that can be stated.
    pub const MAX: Self = Self(1 << 96);

    /// `units` of the token's smallest unit per GiB, or `None` above [`Price::MAX`].
    pub const fn per_gib(units: u128) -> Option<Self> {
        if units <= Self::MAX.0 { Some(Self(units)) } else { None }
    }

    /// The plain number of smallest units per GiB.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// What `total` bytes cost: `ceil(total * price / 2^30)`, rounded up for the payee. It is always
    /// taken of the session's total, never summed over steps, so that a session costs less than one
    /// unit more than its bytes; rounded down, many sessions of less than a unit each would cost
    /// nothing (ADR 0011). `None` above [`Amount::MAX`].
    pub const fn owed(self, total: ByteCount) -> Option<Amount> {
        // total * price = (high * 2^30 + low) * price, and both products fit: high < 2^34,
        // low < 2^30, price <= 2^96.
        let (high, low) = ((total.0 >> 30) as u128, (total.0 & ((1 << 30) - 1)) as u128);
        match high.checked_mul(self.0) {
            Some(whole) => match whole.checked_add((low * self.0).div_ceil(1 << 30)) {
                Some(units) => Amount::new(units),
                None => None,
            },
            None => None,
        }
    }

    /// The most bytes that `amount` pays for: the inverse of [`Price::owed`], so that
    /// `owed(affordable(a)) <= a < owed(affordable(a) + 1)`. `u64::MAX` where service is free.
    pub fn affordable(self, amount: Amount) -> ByteCount {
        use alloy_primitives::U256;
        if self.0 == 0 {
            return ByteCount(u64::MAX);
        }
        // owed(n) <= a  <=>  n * price <= a * 2^30
        let bytes: U256 = (U256::from(amount.0) << 30) / U256::from(self.0);
        ByteCount(bytes.saturating_to())
    }

    /// Reads `0.02/GiB` or `0.02` as a price in a token with `decimals` decimals.
    ///
    /// # Errors
    /// [`UnitError`] where the text is no such price.
    pub fn parse(text: &str, decimals: u8) -> Result<Self, UnitError> {
        let number = text.trim().strip_suffix("/GiB").unwrap_or(text.trim());
        let units = parse_decimal(number.trim(), decimals, "price", true)?;
        Self::per_gib(units)
            .ok_or_else(|| UnitError::OutOfRange { what: "price", text: text.to_owned() })
    }

    /// The price as `0.02/GiB` of a token with `decimals` decimals.
    pub fn display(self, decimals: u8) -> String {
        format!("{}/GiB", Amount(self.0).display(decimals))
    }
}

impl BorshDeserialize for Price {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        Self::per_gib(u128::deserialize_reader(reader)?)
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "price above 2^96"))
    }
}

impl Serialize for Price {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
        text.parse()
            .ok()
            .and_then(Self::per_gib)
            .ok_or_else(|| serde::de::Error::custom("expected a decimal string of at most 2^96"))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds left out. A number that can be signed,
/// stored and fuzzed; no machine reads a clock, `now` is always handed in.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `ms` milliseconds after the epoch.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch: the resolution of block time.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The moment `ms` milliseconds later (at most the end of time, `u64::MAX`).
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`; zero where `earlier` is later: a clock may jump back.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Why a text is not the unit it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number with a known unit.
    #[error("'{text}' is not a {what}; write for example 64KiB, 12.5 or 0.02/GiB")]
    Malformed {
        /// What was expected: `size`, `amount` or `price`.
        what: &'static str,
        /// The text as given.
        text: String,
    },
    /// More decimals than the token has.
    #[error("'{text}' has more than the {decimals} decimals of the token")]
    TooPrecise {
        /// The text as given.
        text: String,
        /// How many decimals there may be.
        decimals: u8,
    },
    /// Too large to be held.
    #[error("{what} '{text}' is too large")]
    OutOfRange {
        /// What was expected.
        what: &'static str,
        /// The text as given.
        text: String,
    },
}

fn parse_decimal(
    text: &str,
    decimals: u8,
    what: &'static str,
    exact: bool,
) -> Result<u128, UnitError> {
    let malformed = || UnitError::Malformed { what, text: text.to_owned() };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !all_digits(whole) || !all_digits(part) {
        return Err(malformed());
    }
    let kept = part.len().min(usize::from(decimals));
    if exact && part[kept..].bytes().any(|b| b != b'0') {
        return Err(UnitError::TooPrecise { text: text.to_owned(), decimals });
    }
    let digits = format!("{whole}{:0<width$}", &part[..kept], width = usize::from(decimals));
    digits.parse().map_err(|_| UnitError::OutOfRange { what, text: text.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(ByteCount::parse("64 KiB"), Ok(ByteCount::new(65_536)));
        assert_eq!(ByteCount::parse("1.5MiB"), Ok(ByteCount::new(1_572_864)));
        assert_eq!(ByteCount::parse("10"), Ok(ByteCount::new(10)));
        assert!(ByteCount::parse("10 parsecs").is_err());
        assert!(ByteCount::parse("-1").is_err());
        assert!(ByteCount::parse("99999999999999TiB").is_err());
        assert_eq!(ByteCount::new(1_572_864).to_string(), "1.50 MiB");
    }

    #[test]
    fn amounts_are_read_and_shown_in_the_tokens_decimals() {
        assert_eq!(Amount::parse("12.5", 6).map(Amount::get), Ok(12_500_000));
        assert!(Amount::parse("0.0000001", 6).is_err());
        assert!(Amount::parse("", 6).is_err());
        assert!(Amount::parse(".", 6).is_err());
        assert_eq!(Amount::new(12_500_000).map(|a| a.display(6)), Some("12.5".into()));
        assert_eq!(Amount::new(1).map(|a| a.display(6)), Some("0.000001".into()));
        assert_eq!(Amount::new(7).map(|a| a.display(0)), Some("7".into()));
    }

    proptest! {
        #[test]
        fn owed_is_the_exact_product_rounded_up(total: u64, price in 0u128..=(1 << 96)) {
            use alloy_primitives::U256;
            let exact = (U256::from(total) * U256::from(price)).div_ceil(U256::from(1 << 30));
            let owed = Price::per_gib(price).and_then(|p| p.owed(ByteCount::new(total)));
            if exact <= U256::from(Amount::MAX.get()) {
                prop_assert_eq!(owed.map(|a| U256::from(a.get())), Some(exact));
            } else {
                prop_assert_eq!(owed, None);
            }
        }

        #[test]
        fn affordable_is_the_last_byte_that_the_amount_pays_for(
            price in 0u128..=(1 << 60),
            amount in 0u128..(1 << 70),
        ) {
            let (price, amount) = (Price::per_gib(price).unwrap(), Amount::new(amount).unwrap());
            let most = price.affordable(amount);
            prop_assert!(most == ByteCount::new(u64::MAX) || price.owed(most).unwrap() <= amount);
            if let Some(more) = most.checked_add(ByteCount::new(1)) {
                prop_assert!(price.owed(more).is_none_or(|owed| owed > amount));
            }
        }

        #[test]
        fn a_part_of_an_amount_is_the_exact_product_rounded_up(
            units in 0u128..(1 << 104),
            numerator: u128,
            denominator: u128,
        ) {
            use alloy_primitives::U256;
            let part = Amount::new(units).unwrap().mul_div_ceil(numerator, denominator);
            let (product, by) = (U256::from(units) * U256::from(numerator), U256::from(denominator));
            let exact = product
                .checked_div(by)
                .map(|floor| floor + U256::from(u8::from(!(product % by).is_zero())))
                .filter(|units| *units <= U256::from(Amount::MAX.get()));
            prop_assert_eq!(part.map(|part| U256::from(part.get())), exact);
        }

        #[test]
        fn amounts_survive_text_and_json(units in 0u128..(1 << 104), decimals in 0u8..=18) {
            let amount = Amount::new(units).expect("in range");
            prop_assert_eq!(Amount::parse(&amount.display(decimals), decimals), Ok(amount));
            let json = serde_json::to_string(&amount).expect("serializes");
            prop_assert_eq!(serde_json::from_str::<Amount>(&json).expect("reads back"), amount);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}", decimals in 0u8..=30) {
            let _ = ByteCount::parse(&text);
            let _ = Amount::parse(&text, decimals);
            let _ = Price::parse(&text, decimals);
        }
    }
}
