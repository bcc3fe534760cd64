//! Who plays: a payer, a payee that may sleep, towers, and what they sign.

use std::{collections::BTreeSet, sync::Arc};

use sparewire_core::{Address, Amount, DeviceSigner, Domain, NodeId, Signer, Timestamp, Verified};
use sparewire_protocol::{
    Appointment, ChannelConfig, ChannelFacts, ChannelStatus, Entrust, TowersDomain, Voucher,
    settlement::RewardFacts,
    watch::{Charge, Tower, TowerPolicy, WatchFacts, WatchOutput},
};
use sparewire_wallet::{DeviceKey, LocalKey};

/// The world begins here.
pub const EPOCH_SECS: u64 = 1_800_000_000;
pub const DAY_SECS: u64 = 86_400;
pub const TOWERS: Address = Address::repeat_byte(0x70);
pub const TOKEN: Address = Address::repeat_byte(0x71);

pub fn at(secs: u64) -> Timestamp {
    Timestamp::from_ms((EPOCH_SECS + secs) * 1000)
}

pub fn units(amount: u128) -> Amount {
    Amount::new(amount).unwrap()
}

pub fn key(seed: u8) -> LocalKey {
    LocalKey::from_secret(&[seed; 32]).unwrap()
}

pub fn domain() -> Domain {
    Domain { chain_id: 31_337, contract: Address::repeat_byte(0xcc) }
}

/// The device of a client.
pub fn client() -> NodeId {
    DeviceKey::from_secret(&[9; 32]).node_id()
}

pub fn config(salt: u64, withdraw_delay_secs: u32) -> ChannelConfig {
    ChannelConfig {
        payer: key(1).address(),
        payer_authorizer: key(3).address(),
        payee: key(2).address(),
        payee_authorizer: key(4).address(),
        token: TOKEN,
        withdraw_delay_secs,
        salt,
    }
}

/// An appointment for `amount` with `reward`, valid for 20 days.
pub fn entrust(config: ChannelConfig, amount: u128, reward: u128) -> Entrust {
    entrust_until(config, amount, reward, EPOCH_SECS + 20 * DAY_SECS)
}

pub fn entrust_until(
    config: ChannelConfig,
    amount: u128,
    reward: u128,
    expiry_secs: u64,
) -> Entrust {
    let voucher = Voucher { channel: config.id(&domain()), amount: units(amount) };
    let voucher = *Verified::sign(voucher, &domain(), &key(3)).unwrap().signed();
    let appointment = Appointment {
        channel: voucher.body.channel,
        amount: units(amount),
        payee: config.payee,
        token: TOKEN,
        reward: units(reward),
        expiry_secs,
    };
    let towers = TowersDomain { chain_id: domain().chain_id, contract: TOWERS };
    let appointment = appointment.sign(&towers, &key(4)).unwrap();
    let domain = domain();
    Entrust { domain, towers: TOWERS, config, voucher, appointment, turn: 0, turns: 1 }
}

pub fn policy() -> TowerPolicy {
    TowerPolicy {
        domain: domain(),
        towers: TOWERS,
        token: TOKEN,
        reward_min: units(5),
        friends: BTreeSet::new(),
        withdraw_delay_secs_min: 3_600,
        appointments_max: 100,
        appointments_per_client_max: 50,
        look_ms: 60_000,
    }
}

/// Where tower `number`'s rewards go.
pub fn wallet(number: u8) -> Address {
    Address::repeat_byte(0xa0 + number)
}

pub fn device(number: u8) -> DeviceKey {
    DeviceKey::from_secret(&[0x50 + number; 32])
}

pub fn tower(number: u8, policy: TowerPolicy, kept: Vec<Charge>, now: Timestamp) -> Tower {
    Tower::new(policy, Arc::new(device(number)), wallet(number), kept, now)
}

/// A channel that holds 1,000 and whose payee's rewards are covered.
pub fn facts(claimed: u128, status: ChannelStatus, head_secs: u64) -> WatchFacts {
    let (reserved, claimed) = (units(1_000), units(claimed));
    WatchFacts {
        channel: Some(ChannelFacts { reserved, claimed, status }),
        reward: RewardFacts { covered: units(500), balance: units(500), ..Default::default() },
        head_secs: EPOCH_SECS + head_secs,
    }
}

pub fn open(claimed: u128, head_secs: u64) -> WatchFacts {
    facts(claimed, ChannelStatus::Open, head_secs)
}

/// A close that was started at `start`.
pub fn closing(claimed: u128, start: u64, delay: u64, head_secs: u64) -> WatchFacts {
    let finish_at_secs = EPOCH_SECS + start + delay;
    facts(claimed, ChannelStatus::Closing { finish_at_secs }, head_secs)
}

pub fn defended_by(wallet: Address, mut facts: WatchFacts) -> WatchFacts {
    facts.reward.defender = Some(wallet);
    facts
}

pub fn outputs(tower: &mut Tower) -> Vec<WatchOutput> {
    std::iter::from_fn(|| tower.poll_output()).collect()
}
