//! What the channel contract's logs mean, and what they make of a channel.

use alloy_primitives::{Address, B256, IntoLogData, LogData, U256};
use alloy_sol_types::SolEventInterface;
use serde::{Serialize, Serializer};
use sparewire_core::{Amount, ChannelId, Domain, StructHasher, TypedData};
use sparewire_protocol::channel::{ChannelConfig, ChannelFacts, ChannelStatus};

use crate::contracts::Channels::{ChannelsEvents, ClaimedBatch, Opened};

/// Length of an entry of `ClaimedBatch`: the channel's id, and what is claimed in it (big endian).
const BATCH_ENTRY_LEN: usize = 45;

/// What happened at the contract. Amounts are in the token's smallest unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Money arrived in a payer's deposit.
    Deposited {
        /// Whose deposit.
        payer: Address,
        /// The token.
        token: Address,
        /// Who sent it.
        from: Address,
        /// What arrived.
        #[serde(serialize_with = "decimal")]
        amount: U256,
    },
    /// Money left a payer's deposit and the contract.
    Withdrawn {
        /// Whose deposit.
        payer: Address,
        /// The token.
        token: Address,
        /// Who got it.
        to: Address,
        /// How much.
        #[serde(serialize_with = "decimal")]
        amount: U256,
    },
    /// A channel was opened.
    Opened {
        /// Which.
        channel: ChannelId,
        /// Its parties, and what was put into it.
        #[serde(flatten)]
        opening: Opening,
    },
    /// More money went into a channel.
    ToppedUp {
        /// Which.
        channel: ChannelId,
        /// How much more.
        amount: Amount,
        /// What was ever put into it, this included.
        reserved: Amount,
    },
    /// The payee was credited: by a plain claim, a packed one, or a cooperative close.
    Claimed {
        /// In which channel.
        channel: ChannelId,
        /// What was ever claimed in it, this included.
        claimed: Amount,
    },
    /// What a payee had earned left the contract.
    Swept {
        /// Who was paid.
        payee: Address,
        /// The token.
        token: Address,
        /// How much.
        #[serde(serialize_with = "decimal")]
        amount: U256,
    },
    /// The payer wants to leave.
    CloseStarted {
        /// Which channel.
        channel: ChannelId,
        /// Block time in seconds from which anybody can end the channel.
        finish_at_secs: u64,
    },
    /// A channel is over.
    Closed {
        /// Which.
        channel: ChannelId,
        /// What the payee got in all.
        claimed: Amount,
        /// What went back to the payer's deposit.
        refunded: Amount,
    },
}

/// A channel's parties as its opening tells them. Other than [`ChannelConfig`] it holds any salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Opening {
    /// Wallet that owns the money.
    pub payer: Address,
    /// Wallet that is paid.
    pub payee: Address,
    /// Key that signs vouchers; zero where the payer's own EIP-1271 wallet does.
    pub payer_authorizer: Address,
    /// Key that signs cooperative closes for the payee; zero where the payee's own wallet does.
    pub payee_authorizer: Address,
    /// The token that is paid in.
    pub token: Address,
    /// Seconds between the two halves of a unilateral close.
    pub withdraw_delay_secs: u32,
    /// Tells channels between the same parties apart.
    pub salt: B256,
    /// What was put into it.
    pub amount: Amount,
}

impl Opening {
    /// The configuration, if its salt is one that sessions use (64 bits).
    pub fn config(&self) -> Option<ChannelConfig> {
        Some(ChannelConfig {
            payer: self.payer,
            payer_authorizer: self.payer_authorizer,
            payee: self.payee,
            payee_authorizer: self.payee_authorizer,
            token: self.token,
            withdraw_delay_secs: self.withdraw_delay_secs,
            salt: u64::try_from(U256::from_be_bytes(self.salt.0)).ok()?,
        })
    }
}

impl TypedData for Opening {
    const TYPE: &'static str = ChannelConfig::TYPE;

    fn fields(&self, hasher: &mut StructHasher) {
        hasher
            .address(self.payer)
            .address(self.payer_authorizer)
            .address(self.payee)
            .address(self.payee_authorizer)
            .address(self.token)
            .uint(u128::from(self.withdraw_delay_secs))
            .word(self.salt);
    }
}

impl Event {
    /// The channel that it is about.
    pub fn channel(&self) -> Option<ChannelId> {
        match self {
            Self::Opened { channel, .. }
            | Self::ToppedUp { channel, .. }
            | Self::Claimed { channel, .. }
            | Self::CloseStarted { channel, .. }
            | Self::Closed { channel, .. } => Some(*channel),
            Self::Deposited { .. } | Self::Withdrawn { .. } | Self::Swept { .. } => None,
        }
    }

    /// A word for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deposited { .. } => "deposited",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Opened { .. } => "opened",
            Self::ToppedUp { .. } => "topped up",
            Self::Claimed { .. } => "claimed",
            Self::Swept { .. } => "swept",
            Self::CloseStarted { .. } => "close started",
            Self::Closed { .. } => "closed",
        }
    }
}

/// An event and the parties that its log names beside: they must be the channel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) event: Event,
    pub(crate) payer: Option<Address>,
    pub(crate) payee: Option<Address>,
    pub(crate) token: Option<Address>,
}

impl Told {
    fn of(event: Event) -> Self {
        Self { event, payer: None, payee: None, token: None }
    }

    /// Whether the parties that the log names are these.
    pub(crate) fn is_of(&self, payer: Address, payee: Address, token: Address) -> bool {
        self.payer.is_none_or(|it| it == payer)
            && self.payee.is_none_or(|it| it == payee)
            && self.token.is_none_or(|it| it == token)
    }
}

/// What a log of the contract on `domain` tells: one event, or several for a packed claim.
///
/// # Errors
/// In words, where the contract cannot have written it: it writes one encoding only, and a
/// channel's id is the hash of what its opening tells.
pub(crate) fn read(domain: &Domain, log: &LogData) -> Result<Vec<Told>, &'static str> {
    use ChannelsEvents as E;
    let read = ChannelsEvents::decode_raw_log(log.topics(), &log.data);
    let read = read.map_err(|_| "a log that the contract does not write")?;
    if read.to_log_data() != *log {
        return Err("a log in an encoding that the contract does not write");
    }
    let amount = |units| Amount::new(units).ok_or("an amount above 2^104 - 1");
    Ok(vec![match read {
        E::Deposited(e) => Told::of(Event::Deposited {
            payer: e.payer,
            token: e.token,
            from: e.from,
            amount: e.amount,
        }),
        E::Withdrawn(e) => Told::of(Event::Withdrawn {
            payer: e.payer,
            token: e.token,
            to: e.to,
            amount: e.amount,
        }),
        E::Opened(e) => {
            let (channel, opening) = (ChannelId(e.channelId), opening_of(&e)?);
            if opening.digest(domain) != channel.0 {
                return Err("an opened channel whose id is not its configuration's");
            }
            Told::of(Event::Opened { channel, opening })
        }
        E::ToppedUp(e) => Told {
            payer: Some(e.payer),
            payee: Some(e.payee),
            ..Told::of(Event::ToppedUp {
                channel: ChannelId(e.channelId),
                amount: amount(e.amount)?,
                reserved: amount(e.reserved)?,
            })
        },
        E::Claimed(e) => claimed(ChannelId(e.channelId), amount(e.claimed)?, e.payee, e.token),
        E::ClaimedBatch(e) => return batch(&e),
        E::Swept(e) => Told::of(Event::Swept { payee: e.payee, token: e.token, amount: e.amount }),
        E::CloseStarted(e) => Told {
            payer: Some(e.payer),
            payee: Some(e.payee),
            ..Told::of(Event::CloseStarted {
                channel: ChannelId(e.channelId),
                finish_at_secs: e.closeAt.to(),
            })
        },
        E::Closed(e) => Told {
            payer: Some(e.payer),
            payee: Some(e.payee),
            ..Told::of(Event::Closed {
                channel: ChannelId(e.channelId),
                claimed: amount(e.claimed)?,
                refunded: amount(e.refunded)?,
            })
        },
        E::EIP712DomainChanged(_) => return Err("a log that the contract does not write"),
    }])
}

fn claimed(channel: ChannelId, claimed: Amount, payee: Address, token: Address) -> Told {
    Told { payee: Some(payee), token: Some(token), ..Told::of(Event::Claimed { channel, claimed }) }
}

fn batch(event: &ClaimedBatch) -> Result<Vec<Told>, &'static str> {
    let entries = event.entries.chunks_exact(BATCH_ENTRY_LEN);
    if event.entries.is_empty() || !entries.remainder().is_empty() {
        return Err("a packed claim with part of an entry");
    }
    let told = entries.map(|entry| {
        let (id, sum) = entry.split_at(32);
        let mut units = [0; 16];
        units[3..].copy_from_slice(sum);
        // 13 bytes are 104 bits: every value is an amount.
        let amount = Amount::new(u128::from_be_bytes(units)).ok_or("an amount too large")?;
        Ok(claimed(ChannelId(B256::from_slice(id)), amount, event.payee, event.token))
    });
    told.collect()
}

fn opening_of(event: &Opened) -> Result<Opening, &'static str> {
    let delay = event.withdrawDelay.to::<u64>();
    Ok(Opening {
        payer: event.payer,
        payee: event.payee,
        payer_authorizer: event.payerAuthorizer,
        payee_authorizer: event.payeeAuthorizer,
        token: event.token,
        withdraw_delay_secs: u32::try_from(delay).map_err(|_| "a delay above 30 days")?,
        salt: event.salt,
        amount: Amount::new(event.amount).ok_or("an amount above 2^104 - 1")?,
    })
}

/// What an event makes of its channel, of which `before` was known; the rules are the contract's.
///
/// # Errors
/// In words, where that cannot follow: something before it is missing, or one of both was made up.
pub(crate) fn fold(
    before: Option<ChannelFacts>,
    event: &Event,
) -> Result<ChannelFacts, &'static str> {
    if let Event::Opened { opening, .. } = event {
        return match before {
            Some(_) => Err("it is opened a second time"),
            None => Ok(ChannelFacts {
                reserved: opening.amount,
                claimed: Amount::ZERO,
                status: ChannelStatus::Open,
            }),
        };
    }
    let mut facts = before.ok_or("its opening is missing")?;
    if facts.status == ChannelStatus::Closed {
        return Err("it is closed already");
    }
    match event {
        Event::ToppedUp { amount, reserved, .. } => {
            if facts.status != ChannelStatus::Open {
                return Err("it is topped up while it closes");
            }
            if facts.reserved.checked_add(*amount) != Some(*reserved) {
                return Err("a top-up does not add up with what was put into it before");
            }
            facts.reserved = *reserved;
        }
        Event::Claimed { claimed, .. } => {
            if *claimed <= facts.claimed || *claimed > facts.reserved {
                return Err("a claim does not follow from what was claimed and reserved before");
            }
            facts.claimed = *claimed;
        }
        Event::CloseStarted { finish_at_secs, .. } => {
            if facts.status != ChannelStatus::Open {
                return Err("its close is started a second time");
            }
            facts.status = ChannelStatus::Closing { finish_at_secs: *finish_at_secs };
        }
        Event::Closed { claimed, refunded, .. } => {
            if *claimed != facts.claimed || claimed.checked_add(*refunded) != Some(facts.reserved) {
                return Err("its close does not add up with what was claimed and reserved before");
            }
            facts.status = ChannelStatus::Closed;
        }
        // These are about no channel.
        Event::Opened { .. }
        | Event::Deposited { .. }
        | Event::Withdrawn { .. }
        | Event::Swept { .. } => {}
    }
    Ok(facts)
}

fn decimal<S: Serializer>(amount: &U256, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use alloy_primitives::{Bytes, aliases::U40};

    use super::*;
    use crate::contracts::Channels;

    fn domain() -> Domain {
        Domain { chain_id: 1, contract: Address::repeat_byte(0xc0) }
    }

    fn opened() -> Channels::Opened {
        let opening = Opening {
            payer: Address::repeat_byte(1),
            payee: Address::repeat_byte(2),
            payer_authorizer: Address::repeat_byte(3),
            payee_authorizer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            withdraw_delay_secs: 900,
            salt: B256::repeat_byte(6),
            amount: Amount::new(7).unwrap(),
        };
        Channels::Opened {
            channelId: opening.digest(&domain()),
            payer: opening.payer,
            payee: opening.payee,
            payerAuthorizer: opening.payer_authorizer,
            payeeAuthorizer: opening.payee_authorizer,
            token: opening.token,
            withdrawDelay: U40::from(900),
            salt: opening.salt,
            amount: 7,
        }
    }

    #[test]
    fn an_opening_is_read_whatever_its_salt_and_its_id_is_checked() {
        let told = read(&domain(), &opened().to_log_data()).unwrap();
        let Event::Opened { channel, opening } = &told[0].event else { panic!("{told:?}") };
        assert_eq!((channel.0, opening.amount.get()), (opened().channelId, 7));
        assert_eq!(opening.config(), None, "the salt has more than 64 bits");
        for forged in [
            Channels::Opened { payee: Address::repeat_byte(9), ..opened() },
            Channels::Opened { salt: B256::ZERO, ..opened() },
            Channels::Opened { withdrawDelay: U40::from(901), ..opened() },
        ] {
            assert!(read(&domain(), &forged.to_log_data()).is_err());
        }
        let small = Opening { salt: B256::from(U256::from(8)), ..*opening };
        let config = small.config().unwrap();
        assert_eq!((config.salt, config.id(&domain()).0), (8, small.digest(&domain())));
    }

    #[test]
    fn what_the_contract_cannot_have_written_is_refused() {
        let good = opened().to_log_data();
        let with = |topics: &[B256], data: &[u8]| {
            LogData::new(topics.to_vec(), Bytes::copy_from_slice(data)).unwrap()
        };
        let (topics, data) = (good.topics(), good.data.as_ref());
        assert!(read(&domain(), &with(&[], data)).is_err(), "anonymous");
        assert!(read(&domain(), &with(&[B256::ZERO], data)).is_err(), "some other event");
        assert!(read(&domain(), &with(&topics[..3], data)).is_err(), "a topic too few");
        for len in 0..data.len() {
            assert!(read(&domain(), &with(topics, &data[..len])).is_err(), "cut off at {len}");
        }
        assert!(read(&domain(), &with(topics, &[data, &[0; 32]].concat())).is_err(), "too long");
        let mut dirty = topics.to_vec();
        dirty[2].0[0] = 1;
        assert!(read(&domain(), &with(&dirty, data)).is_err(), "an address of 21 bytes");
    }

    #[test]
    fn a_packed_claim_is_one_event_for_each_entry_and_parts_of_entries_are_refused() {
        let entry = |id: u8, units: u8| {
            let mut entry = [id; 45];
            entry[32..].fill(0);
            entry[44] = units;
            entry
        };
        let log = |entries: Vec<u8>| {
            let (payee, token) = (Address::repeat_byte(2), Address::repeat_byte(5));
            ClaimedBatch { payee, token, entries: entries.into() }.to_log_data()
        };
        let told = read(&domain(), &log([entry(1, 10), entry(2, 20)].concat())).unwrap();
        let claimed: Vec<_> = told
            .iter()
            .map(|told| match &told.event {
                Event::Claimed { channel, claimed } => (channel.0[0], claimed.get()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(claimed, [(1, 10), (2, 20)]);
        assert!(!told[0].is_of(Address::ZERO, Address::ZERO, Address::repeat_byte(5)));
        for len in [0, 1, 44, 46, 89] {
            assert!(read(&domain(), &log(vec![0; len])).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn events_that_do_not_follow_each_other_are_refused() {
        let channel = ChannelId::default();
        let amount = |units| Amount::new(units).unwrap();
        let opened = Event::Opened { channel, opening: opening_of(&opened()).unwrap() };
        let top_up =
            |more, sum| Event::ToppedUp { channel, amount: amount(more), reserved: amount(sum) };
        let claim = |units| Event::Claimed { channel, claimed: amount(units) };
        let leave = Event::CloseStarted { channel, finish_at_secs: 99 };
        let close = |claimed, refunded| Event::Closed {
            channel,
            claimed: amount(claimed),
            refunded: amount(refunded),
        };
        let all = |events: &[Event]| {
            events.iter().try_fold(None, |facts, event| fold(facts, event).map(Some))
        };
        let story = [opened.clone(), top_up(3, 10), claim(4), leave.clone(), claim(6), close(6, 4)];
        let facts = all(&story).unwrap().unwrap();
        assert_eq!((facts.reserved, facts.claimed), (amount(10), amount(6)));
        assert_eq!(facts.status, ChannelStatus::Closed);
        // One told twice shows at once, one left out when something builds on it: nothing does on
        // the first claim, the start of the close and the close. Those show in state reads.
        for at in 0..story.len() {
            let mut twice = story.to_vec();
            twice.insert(at, story[at].clone());
            assert!(all(&twice).is_err(), "{at} twice");
            let mut without = story.to_vec();
            without.remove(at);
            let shows = all(&without).is_err();
            assert_eq!(shows, !matches!(at, 2 | 3 | 5), "{at} left out");
        }
        assert!(all(&[opened.clone(), claim(8)]).is_err(), "more than it holds");
        assert!(all(&[opened, leave, top_up(1, 8)]).is_err());
    }
}
