//! What the contracts say in their logs.

use alloy_primitives::{Address, B256, Log, U256};
use alloy_sol_types::{SolEvent, SolEventInterface};
use sparewire_chain::contracts::{
    Channels::{self, ChannelsEvents},
    TestToken,
};
use sparewire_core::{Amount, ChannelId};
use sparewire_protocol::channel::ChannelConfig;

use super::{TxId, state::base};

/// An event and where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Number of the block.
    pub block: u64,
    /// The transaction.
    pub transaction: TxId,
    /// What happened.
    pub event: Event,
}

/// An event of the channel contract. A packed claim is told entry by entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the contract's
pub enum Event {
    Deposited { payer: Address, from: Address, amount: u128 },
    Withdrawn { payer: Address, to: Address, amount: u128 },
    Opened { channel: ChannelId, config: ChannelConfig, amount: Amount },
    ToppedUp { channel: ChannelId, amount: Amount, reserved: Amount },
    Claimed { channel: ChannelId, payee: Address, claimed: Amount },
    Swept { payee: Address, amount: u128 },
    CloseStarted { channel: ChannelId, close_at_secs: u64 },
    Closed { channel: ChannelId, claimed: Amount, refunded: Amount },
}

/// A transfer of tokens; from the zero address they are minted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) amount: U256,
}

/// Reads a log; other contracts' logs are none of ours.
pub(super) fn read(log: &Log, events: &mut Vec<Event>, transfers: &mut Vec<Transfer>) {
    if log.address == base().token {
        if let Ok(TestToken::Transfer { from, to, value }) =
            TestToken::Transfer::decode_log_data(&log.data)
        {
            transfers.push(Transfer { from, to, amount: value });
        }
        return;
    }
    if log.address != base().contract {
        return;
    }
    match ChannelsEvents::decode_log(log).map(|log| log.data) {
        Ok(ChannelsEvents::ClaimedBatch(Channels::ClaimedBatch { payee, entries, .. })) => {
            events.extend(entries.chunks_exact(45).map(|entry| {
                let mut claimed = [0; 16];
                claimed[3..].copy_from_slice(&entry[32..]);
                let (channel, claimed) =
                    (B256::from_slice(&entry[..32]), u128::from_be_bytes(claimed));
                Event::Claimed { channel: ChannelId(channel), payee, claimed: held(claimed) }
            }));
        }
        Ok(event) => events.extend(of_contract(event)),
        Err(error) => panic!("the contract logged what it cannot: {error}"),
    }
}

fn of_contract(event: ChannelsEvents) -> Option<Event> {
    use ChannelsEvents as E;
    let channel = ChannelId;
    Some(match event {
        E::Deposited(e) => {
            Event::Deposited { payer: e.payer, from: e.from, amount: e.amount.saturating_to() }
        }
        E::Withdrawn(e) => {
            Event::Withdrawn { payer: e.payer, to: e.to, amount: e.amount.saturating_to() }
        }
        E::Opened(e) => Event::Opened {
            channel: channel(e.channelId),
            amount: held(e.amount),
            config: ChannelConfig {
                payer: e.payer,
                payer_authorizer: e.payerAuthorizer,
                payee: e.payee,
                payee_authorizer: e.payeeAuthorizer,
                token: e.token,
                withdraw_delay_secs: e.withdrawDelay.saturating_to(),
                salt: U256::from_be_bytes(e.salt.0).saturating_to(),
            },
        },
        E::ToppedUp(e) => Event::ToppedUp {
            channel: channel(e.channelId),
            amount: held(e.amount),
            reserved: held(e.reserved),
        },
        E::Claimed(e) => Event::Claimed {
            channel: channel(e.channelId),
            payee: e.payee,
            claimed: held(e.claimed),
        },
        E::Swept(e) => Event::Swept { payee: e.payee, amount: e.amount.saturating_to() },
        E::CloseStarted(e) => Event::CloseStarted {
            channel: channel(e.channelId),
            close_at_secs: e.closeAt.saturating_to(),
        },
        E::Closed(e) => Event::Closed {
            channel: channel(e.channelId),
            claimed: held(e.claimed),
            refunded: held(e.refunded),
        },
        _ => return None,
    })
}

/// The contract holds no more than [`Amount::MAX`] in a channel.
fn held(units: u128) -> Amount {
    Amount::new(units).unwrap_or_else(|| panic!("a channel with {units} in it"))
}
