//! The chain as a party hears of it: from one endpoint, or from three of which two must agree, by
//! the carrier's own rule ([`Quorum`]).

use serde::{Deserialize, Serialize};
use sparewire_chain::carrier::Quorum;
use sparewire_core::{Address, ChannelId, Timestamp};
use sparewire_protocol::{channel::ChannelFacts, settlement::Head};

use super::{
    Endpoint, Lie, Receipt, RpcError, SimChain, SubmitError, Tag, Transaction, TxId, View,
};

/// Whom a party asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asks {
    /// This endpoint, which is believed.
    One(usize),
    /// These, of which two must say the same.
    TwoOf([usize; 3]),
}

/// What is wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// It says that there is more than there is, further than it is.
    Boasts,
    /// It says that nothing is there and nothing has happened.
    Hides,
    /// It takes transactions and passes none on.
    Swallows,
    /// It tells what was so ten minutes ago.
    Stale,
    /// It answers nobody.
    Silent,
    /// It loses every other answer to a transaction, and takes few questions.
    Overloaded,
}

/// All of them.
pub const TROUBLES: [Trouble; 6] = [
    Trouble::Boasts,
    Trouble::Hides,
    Trouble::Swallows,
    Trouble::Stale,
    Trouble::Silent,
    Trouble::Overloaded,
];

impl Trouble {
    /// Its name in the coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boasts => "endpoint: boasts",
            Self::Hides => "endpoint: hides",
            Self::Swallows => "endpoint: swallows",
            Self::Stale => "endpoint: stale",
            Self::Silent => "endpoint: silent",
            Self::Overloaded => "endpoint: overloaded",
        }
    }

    /// An endpoint with it.
    pub fn endpoint(self) -> Endpoint {
        let more = |units| sparewire_core::Amount::new(units).unwrap_or_default();
        match self {
            Self::Boasts => Endpoint::lying(vec![
                Lie::MoreReserved(more(1 << 40)),
                Lie::NeverClosing,
                Lie::MoreDeposit(more(1 << 40)),
                Lie::NoFailures,
                Lie::HeadIsFinal,
                Lie::Ahead(1_000),
            ]),
            Self::Hides => {
                let lies = vec![Lie::NoChannels, Lie::NoClaims, Lie::NoReceipts, Lie::NoNonces];
                Endpoint { swallows: 1_000, ..Endpoint::lying(lies) }
            }
            Self::Swallows => Endpoint { swallows: 1_000, ..Endpoint::default() },
            Self::Stale => Endpoint::lagging(50),
            Self::Silent => Endpoint { requests_per_sec: Some(0), ..Endpoint::default() },
            Self::Overloaded => {
                Endpoint { requests_per_sec: Some(3), answers_lost: 500, ..Endpoint::default() }
            }
        }
    }
}

/// What a party is told by those that it asks.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    chain: &'a SimChain,
    asks: Asks,
}

fn quorum() -> Quorum {
    Quorum::of(2, 3).unwrap_or_else(|| unreachable!("two of three can agree"))
}

impl SimChain {
    /// The chain as those tell it whom a party asks.
    pub fn ask(&self, asks: Asks) -> Asked<'_> {
        Asked { chain: self, asks }
    }

    /// How often an endpoint was outvoted.
    pub fn outvoted(&self) -> u64 {
        self.outvoted.get()
    }

    /// Hands a transaction to those whom a party asks: to all of them.
    ///
    /// # Errors
    /// [`SubmitError`], where nobody took it: one that may have been passed on before any other.
    pub fn submit_to(
        &mut self,
        now: Timestamp,
        asks: Asks,
        transaction: &Transaction,
    ) -> Result<TxId, SubmitError> {
        let three = match asks {
            Asks::One(endpoint) => return self.submit(now, endpoint, transaction.clone()),
            Asks::TwoOf(three) => three,
        };
        let said = three.map(|endpoint| self.submit(now, endpoint, transaction.clone()));
        let worth = |it: &Result<TxId, SubmitError>| match it {
            Ok(_) => 0,
            Err(SubmitError::Rpc(_)) => 1,
            Err(_) => 2,
        };
        let best = said.into_iter().min_by_key(worth);
        best.unwrap_or(Err(SubmitError::Invalid("nobody was asked")))
    }
}

impl<'a> Asked<'a> {
    /// What final state says of a channel; `None` where it does not know it.
    ///
    /// # Errors
    /// [`RpcError`], where too few answer or agree; so for all of these.
    pub fn channel(&self, id: ChannelId) -> Result<Option<ChannelFacts>, RpcError> {
        match self.asks {
            Asks::One(endpoint) => self.chain.view(endpoint).channel(id, Tag::Final),
            Asks::TwoOf(three) => {
                let block = self.final_block()?;
                self.vote(three, |view| view.channel_at(id, block), |a, b| a == b)
            }
        }
    }

    /// Number of the newest final block.
    pub fn final_block(&self) -> Result<u64, RpcError> {
        match self.asks {
            Asks::One(endpoint) => self.chain.view(endpoint).final_block(),
            Asks::TwoOf(three) => {
                self.reached(three, |view| view.head().map(|head: Head| head.final_number))
            }
        }
    }

    /// The receipt of a transaction that is in a block.
    pub fn receipt(&self, id: TxId) -> Result<Option<Receipt>, RpcError> {
        match self.asks {
            Asks::One(endpoint) => self.chain.view(endpoint).receipt(id),
            Asks::TwoOf(three) => {
                let what = |it: &Option<Receipt>| {
                    it.as_ref().map(|it| (it.block, it.success, it.gas_used))
                };
                self.vote(three, |view| view.receipt(id), |a, b| what(a) == what(b))
            }
        }
    }

    /// The nonce of an account's next transaction at the newest block.
    pub fn nonce(&self, address: Address) -> Result<u64, RpcError> {
        match self.asks {
            Asks::One(endpoint) => self.chain.view(endpoint).nonce(address, Tag::Head),
            Asks::TwoOf(three) => self.reached(three, |view| view.nonce(address, Tag::Head)),
        }
    }

    /// Base fee of the newest block, in wei per gas: of several, the one in the middle, and of two
    /// the lower, as the carrier takes it.
    pub fn base_fee(&self) -> Result<u64, RpcError> {
        match self.asks {
            Asks::One(endpoint) => self.chain.view(endpoint).base_fee(),
            Asks::TwoOf(three) => {
                let mut said = self.gather(three, |view| view.base_fee())?;
                said.sort_unstable();
                Ok(said[(said.len() - 1) / 2])
            }
        }
    }

    /// Asks one after the other until a quorum says the same.
    fn vote<T>(
        &self,
        three: [usize; 3],
        ask: impl Fn(&View<'a>) -> Result<T, RpcError>,
        same: impl Fn(&T, &T) -> bool,
    ) -> Result<T, RpcError> {
        let (mut said, mut error) = (Vec::new(), RpcError::Contradicted);
        for endpoint in three {
            match ask(&self.chain.view(endpoint)) {
                Ok(answer) => said.push(answer),
                Err(silence) => error = silence,
            }
            let winners = quorum().agreed(said.len(), |a, b| same(&said[a], &said[b]));
            if let Some(winners) = winners {
                self.outvote(winners.len() < said.len());
                return Ok(said.swap_remove(winners[0]));
            }
        }
        Err(error)
    }

    fn gather<T>(
        &self,
        three: [usize; 3],
        ask: impl Fn(&View<'a>) -> Result<T, RpcError>,
    ) -> Result<Vec<T>, RpcError> {
        let said: Vec<T> = three.iter().filter_map(|it| ask(&self.chain.view(*it)).ok()).collect();
        if said.len() < quorum().needed() {
            return Err(RpcError::Unreachable);
        }
        Ok(said)
    }

    fn reached(
        &self,
        three: [usize; 3],
        ask: impl Fn(&View<'a>) -> Result<u64, RpcError>,
    ) -> Result<u64, RpcError> {
        let said = self.gather(three, ask)?;
        let reached = quorum().reached(said.iter().copied()).ok_or(RpcError::Unreachable)?;
        self.outvote(said.iter().any(|it| *it != reached));
        Ok(reached)
    }

    fn outvote(&self, somebody: bool) {
        self.chain.outvoted.set(self.chain.outvoted.get() + u64::from(somebody));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::Amount;
    use sparewire_protocol::{channel::ChannelStatus, settlement::Intent};

    use super::*;
    use crate::{
        cast::{channel, identity, network},
        chain::Weather,
        purse::Purse,
    };

    const ALL: Asks = Asks::TwoOf([0, 1, 2]);

    /// A chain with three endpoints, one of them in trouble, on which consumer 1 has opened a
    /// channel through all three.
    fn world(trouble: Trouble, at: usize) -> (SimChain, ChannelId) {
        let mut endpoints = vec![Endpoint::default(); 3];
        endpoints[at] = trouble.endpoint();
        let mut chain = SimChain::new(Weather { endpoints, ..Weather::calm() }, 7);
        chain.fund(identity(1).address(), 1 << 90, 1 << 80);
        let mut purse = Purse::new(identity(1).address(), ALL);
        let config = channel(1, 0, 1, 900);
        let amount = Amount::new(100).unwrap();
        purse.want(Intent::Deposit { token: network().1, amount });
        purse.want(Intent::Open { channels: vec![(config, amount)] });
        for block in 0..200 {
            let now = Weather::calm().genesis.plus_ms(block * 12_000);
            chain.advance(now);
            purse.tick(&mut chain, now);
        }
        assert!(purse.is_idle(), "{trouble:?} at {at} holds everything up");
        assert_eq!(purse.reverted, [""; 0]);
        (chain, config.id(&network().0))
    }

    #[test]
    fn one_in_trouble_among_three_neither_deceives_nor_holds_up() {
        for trouble in TROUBLES {
            for at in 0..3 {
                let (chain, id) = world(trouble, at);
                let facts = chain.ask(ALL).channel(id).unwrap().unwrap();
                assert_eq!(facts.reserved.get(), 100, "{trouble:?} at {at}");
                assert_eq!(facts.status, ChannelStatus::Open);
                let truth = chain.truth();
                assert_eq!(chain.ask(ALL).final_block(), truth.final_block());
                let nonce = truth.nonce(identity(1).address(), Tag::Head);
                assert_eq!(chain.ask(ALL).nonce(identity(1).address()), nonce);
            }
        }
    }

    #[test]
    fn one_endpoint_alone_is_believed() {
        let (chain, id) = world(Trouble::Boasts, 1);
        assert!(chain.ask(Asks::One(1)).channel(id).unwrap().unwrap().reserved.get() > 100);
        let (chain, id) = world(Trouble::Hides, 2);
        assert_eq!(chain.ask(Asks::One(2)).channel(id), Ok(None));
    }

    #[test]
    fn two_in_trouble_are_an_error_and_no_lie() {
        let (mut chain, id) = world(Trouble::Boasts, 1);
        chain.weather_mut().endpoints[0] = Trouble::Silent.endpoint();
        assert_eq!(chain.ask(ALL).channel(id), Err(RpcError::RateLimited));
        chain.weather_mut().endpoints[0] = Trouble::Hides.endpoint();
        assert_eq!(chain.ask(ALL).channel(id), Err(RpcError::Contradicted));
    }
}
