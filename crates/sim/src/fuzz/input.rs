//! Bytes read as operations, and the papers that the machines of a session start from.

use sparewire_core::{
    Amount, B256, ByteCount, ChannelId, DeviceSigner, Domain, Price, SessionId, Signed, Signer,
    Timestamp, TypedData, Verified,
};
use sparewire_protocol::{
    ChannelConfig, Countersigned, CountingRule, CreditRule, Payment, Reading, Receipt, Service,
    Terms, Voucher,
};
use sparewire_wallet::LocalKey;

use crate::cast::{self, EPOCH_MS};

/// Who is who in the cast.
pub(super) const PROVIDER: usize = 0;
pub(super) const CONSUMER: usize = 1;
/// When every list of operations begins.
pub(super) const EPOCH: Timestamp = Timestamp::from_ms(EPOCH_MS);

/// Bytes that are read from the front; where they are used up, zeroes. So any bytes are some list.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number, mostly a small one: the first byte is it, or says how many follow, or that it is
    /// one of the largest.
    pub(super) fn number(&mut self) -> u64 {
        let first = self.byte();
        let width = match first {
            ..0x80 => return first.into(),
            0x80..0xc0 => 2,
            0xc0..0xe0 => 4,
            0xe0..0xf0 => 8,
            _ => return u64::MAX - u64::from(first & 0xf),
        };
        (0..width).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    pub(super) fn amount(&mut self) -> Amount {
        match self.number() {
            u64::MAX => Amount::MAX,
            number => Amount::new(number.into()).unwrap_or(Amount::MAX),
        }
    }

    /// What the rest of the bytes says, one after another, at most `most`.
    pub(super) fn list<T>(mut self, most: usize, read: impl Fn(&mut Self) -> T) -> Vec<T> {
        let mut list = Vec::new();
        while !self.0.is_empty() && list.len() < most {
            list.push(read(&mut self));
        }
        list
    }
}

/// A reading, told by where a session stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Counted,
    Paid,
    Between { up: u8, down: u8 },
    Beyond { up: u64, down: u64 },
    Any { up: u64, down: u64 },
}

impl Which {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        match input.below(8) {
            0..=3 => Self::Counted,
            4 => Self::Between { up: input.byte(), down: input.byte() },
            5 => Self::Paid,
            6 => Self::Beyond { up: input.number(), down: input.number() },
            _ => Self::Any { up: input.number(), down: input.number() },
        }
    }

    pub(super) fn of(self, counted: Reading, paid: Reading) -> Reading {
        let part = |counted: ByteCount, paid: ByteCount, share: u8| {
            let more = u128::from(counted.saturating_sub(paid).get()) * u128::from(share) / 255;
            paid.get().saturating_add(more as u64)
        };
        let (up, down) = match self {
            Self::Counted => return counted,
            Self::Paid => return paid,
            Self::Between { up, down } => {
                (part(counted.up, paid.up, up), part(counted.down, paid.down, down))
            }
            Self::Beyond { up, down } => {
                (counted.up.get().saturating_add(up), counted.down.get().saturating_add(down))
            }
            Self::Any { up, down } => (up, down),
        };
        Reading { up: ByteCount::new(up), down: ByteCount::new(down) }
    }
}

/// A sum of money, told by what is owed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sum {
    Owed,
    More(u64),
    Less(u64),
    Any(Amount),
}

impl Sum {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        match input.below(8) {
            0..=4 => Self::Owed,
            5 => Self::More(input.number()),
            6 => Self::Less(input.number()),
            _ => Self::Any(input.amount()),
        }
    }

    pub(super) fn of(self, owed: Option<Amount>) -> Amount {
        let owed = owed.unwrap_or(Amount::MAX);
        match self {
            Self::Owed => owed,
            Self::More(more) => {
                Amount::new(more.into()).and_then(|more| owed.checked_add(more)).unwrap_or(owed)
            }
            Self::Less(less) => owed.saturating_sub(Amount::new(less.into()).unwrap_or(owed)),
            Self::Any(amount) => amount,
        }
    }
}

/// Whose signature is under something, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    Right,
    OtherKey,
    OtherChannel,
    OtherChain,
}

impl Hand {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        match input.below(16) {
            0..=12 => Self::Right,
            13 => Self::OtherKey,
            14 => Self::OtherChannel,
            _ => Self::OtherChain,
        }
    }
}

/// What the two parties have agreed on.
pub(super) struct Papers {
    pub(super) terms: Terms,
    pub(super) config: ChannelConfig,
    pub(super) channel: ChannelId,
}

impl Papers {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        let price = match input.below(6) {
            0 => 0,
            1 => 1 << 18,     // a unit for 4 KiB
            2 | 3 => 1 << 30, // a unit for a byte
            4 => 1 << 50,
            _ => u128::from(input.number()),
        };
        let initial = input.number().max(2);
        let maximum = initial.saturating_add(input.number());
        let (domain, token) = cast::network();
        let provider = cast::identity(PROVIDER);
        let config = cast::channel(CONSUMER, PROVIDER, 1, 3_600);
        let terms = Terms {
            provider: provider.device.node_id(),
            service: Service::ExitTcp,
            counting: CountingRule::StreamPayload,
            price: Price::per_gib(price).unwrap_or(Price::FREE),
            credit: CreditRule {
                initial: ByteCount::new(initial),
                maximum: ByteCount::new(maximum),
            },
            domain,
            token,
            payee: config.payee,
            payee_authorizer: config.payee_authorizer,
            withdraw_delay_secs_min: 900,
            channel_min: Amount::ZERO,
            issued: EPOCH,
            expires: EPOCH.plus_ms(365 * 86_400_000),
        };
        Self { channel: config.id(&domain), terms, config }
    }

    fn domain(&self, hand: Hand) -> Domain {
        let mut domain = self.terms.domain;
        if hand == Hand::OtherChain {
            domain.chain_id += 1;
        }
        domain
    }

    fn channel(&self, hand: Hand) -> ChannelId {
        if hand == Hand::OtherChannel { ChannelId(B256::repeat_byte(7)) } else { self.channel }
    }

    /// The consumer's payment, or one that only looks like it.
    pub(super) fn payment(
        &self,
        session: SessionId,
        reading: Reading,
        amount: Amount,
        hand: Hand,
    ) -> Payment {
        let voucher = Voucher { channel: self.channel(hand), amount };
        let voucher = sign(voucher, &self.domain(hand), consumers_key(hand));
        Payment { session, reading, voucher }
    }

    /// The consumer's signature of a receipt, or one that only looks like it.
    pub(super) fn receipt(&self, mut receipt: Receipt, hand: Hand) -> Signed<Receipt> {
        receipt.channel = self.channel(hand);
        sign(receipt, &self.domain(hand), consumers_key(hand))
    }

    /// The provider's signature under that, or one that only looks like it.
    pub(super) fn countersigned(&self, receipt: Signed<Receipt>, hand: Hand) -> Countersigned {
        let key = match hand {
            Hand::Right => &cast::identity(PROVIDER).authorizer,
            _ => &cast::identity(CONSUMER).authorizer,
        };
        let digest = receipt.body.digest(&self.domain(hand));
        Countersigned { receipt, payee_signature: key.sign_digest(digest).expect("it signs") }
    }
}

fn consumers_key(hand: Hand) -> &'static LocalKey {
    let whose = if hand == Hand::OtherKey { PROVIDER } else { CONSUMER };
    &cast::identity(whose).authorizer
}

fn sign<T: TypedData + Copy>(body: T, domain: &Domain, key: &LocalKey) -> Signed<T> {
    *Verified::sign(body, domain, key).expect("it signs").signed()
}

pub(super) fn session_id(number: u8) -> SessionId {
    SessionId(B256::repeat_byte(number))
}

pub(super) fn total(reading: Reading) -> ByteCount {
    reading.checked_total().unwrap_or(ByteCount::new(u64::MAX))
}

pub(super) fn saturating_sum(counts: impl IntoIterator<Item = ByteCount>) -> ByteCount {
    counts
        .into_iter()
        .try_fold(ByteCount::ZERO, ByteCount::checked_add)
        .unwrap_or(ByteCount::new(u64::MAX))
}
