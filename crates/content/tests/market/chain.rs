//! The contract, as far as money is concerned: deposits, channels, claims by voucher, and the way
//! out for a payer, after a delay. Nobody's word counts here but what a key signed.

use std::collections::BTreeMap;

use sparewire_core::{ChannelId, Signed};
use sparewire_protocol::{ChannelConfig, ChannelFacts, ChannelStatus, Voucher};

use super::cast::{DELAY_SECS, DOMAIN, units};

#[derive(Clone, Debug)]
pub(crate) struct OnChain {
    pub(crate) payer: usize,
    pub(crate) payee: usize,
    pub(crate) config: ChannelConfig,
    pub(crate) reserved: u128,
    pub(crate) claimed: u128,
    pub(crate) status: ChannelStatus,
}

/// What a node has that is in no channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Purse {
    /// To be put into channels.
    pub(crate) deposit: u128,
    /// What it was paid.
    pub(crate) earned: u128,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    pub(crate) purses: BTreeMap<usize, Purse>,
    pub(crate) channels: BTreeMap<ChannelId, OnChain>,
    minted: u128,
}

impl Chain {
    pub(crate) fn fund(&mut self, node: usize, amount: u128) {
        self.purses.entry(node).or_default().deposit += amount;
        self.minted += amount;
    }

    fn take(&mut self, node: usize, amount: u128) -> bool {
        let purse = self.purses.entry(node).or_default();
        let left = purse.deposit.checked_sub(amount);
        purse.deposit = left.unwrap_or(purse.deposit);
        left.is_some()
    }

    /// Whether it was opened: there was money for it.
    pub(crate) fn open(
        &mut self,
        (payer, payee): (usize, usize),
        config: ChannelConfig,
        amount: u128,
    ) -> bool {
        let id = config.id(&DOMAIN);
        if self.channels.contains_key(&id) || !self.take(payer, amount) {
            return false;
        }
        let status = ChannelStatus::Open;
        let opened = OnChain { payer, payee, config, reserved: amount, claimed: 0, status };
        self.channels.insert(id, opened);
        true
    }

    pub(crate) fn top_up(&mut self, id: ChannelId, amount: u128) -> bool {
        let Some(channel) = self.channels.get(&id) else { return false };
        if channel.status != ChannelStatus::Open || !self.take(channel.payer, amount) {
            return false;
        }
        self.channels.get_mut(&id).unwrap().reserved += amount;
        true
    }

    pub(crate) fn facts(&self, id: ChannelId) -> Option<ChannelFacts> {
        let channel = self.channels.get(&id)?;
        let (reserved, claimed) = (units(channel.reserved), units(channel.claimed));
        Some(ChannelFacts { reserved, claimed, status: channel.status })
    }

    /// Credits the payee with all that the voucher promises.
    ///
    /// # Errors
    /// Why the contract would not.
    pub(crate) fn claim(&mut self, voucher: &Signed<Voucher>) -> Result<(), String> {
        let (id, amount) = (voucher.body.channel, voucher.body.amount.get());
        let channel = self.channels.get_mut(&id).ok_or("no such channel")?;
        let signer = channel.config.payer_authorizer;
        voucher.verify(&DOMAIN, signer).map_err(|error| error.to_string())?;
        if channel.status == ChannelStatus::Closed {
            return Err("it is closed".into());
        }
        if amount > channel.reserved {
            return Err(format!("{amount} of a channel that holds {}", channel.reserved));
        }
        let more = amount.saturating_sub(channel.claimed);
        channel.claimed += more;
        let payee = channel.payee;
        self.purses.entry(payee).or_default().earned += more;
        Ok(())
    }

    pub(crate) fn start_close(&mut self, id: ChannelId, now_secs: u64) {
        let channel = self.channels.get_mut(&id).unwrap();
        if channel.status == ChannelStatus::Open {
            let finish_at_secs = now_secs + u64::from(DELAY_SECS);
            channel.status = ChannelStatus::Closing { finish_at_secs };
        }
    }

    /// Gives the payer what is left.
    ///
    /// # Errors
    /// Where it is not time yet.
    pub(crate) fn finish_close(&mut self, id: ChannelId, now_secs: u64) -> Result<(), String> {
        let channel = self.channels.get_mut(&id).unwrap();
        match channel.status {
            ChannelStatus::Closing { finish_at_secs } if now_secs >= finish_at_secs => {}
            ChannelStatus::Closed => return Ok(()),
            status => return Err(format!("it is {status:?}")),
        }
        channel.status = ChannelStatus::Closed;
        let (payer, rest) = (channel.payer, channel.reserved - channel.claimed);
        self.purses.entry(payer).or_default().deposit += rest;
        Ok(())
    }

    /// Conservation: all that was ever put in is somewhere, once.
    pub(crate) fn check(&self) {
        let purses: u128 = self.purses.values().map(|purse| purse.deposit + purse.earned).sum();
        let held = |channel: &OnChain| match channel.status {
            ChannelStatus::Closed => 0,
            _ => channel.reserved - channel.claimed,
        };
        let channels: u128 = self.channels.values().map(held).sum();
        assert_eq!(purses + channels, self.minted, "money came out of nowhere, or went there");
    }
}
