//! What torrents are paid with, and what they earn.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use sparewire_chain::EvmChain;
use sparewire_core::{Address, Amount, Price};
use sparewire_node::{
    buyer::Buyer,
    content::{Buying, Money, Sale},
    seller::Seller,
};
use sparewire_protocol::{
    CreditRule, Delegation,
    settlement::{Standing, TokenInfo},
};

use super::Settings;
use crate::{
    assemble, delegation,
    hint::Hint,
    home::{Home, clock},
    set_back,
    side::Side,
};

/// Keys, channels and a chain, opened for torrents.
#[derive(Clone)]
pub(crate) struct Purse {
    pub(crate) money: Arc<Money>,
    pub(crate) seller: Arc<Seller>,
    pub(crate) token: TokenInfo,
    /// Whose gas money is spent, and who is paid.
    pub(crate) wallet: Address,
    pub(crate) delegation: Delegation,
    credit: CreditRule,
    /// The dearest that is paid for any torrent.
    price_max: Price,
}

/// On which terms a torrent is given and taken.
pub(crate) struct Terms {
    pub(crate) sale: Option<Sale>,
    pub(crate) free: bool,
    pub(crate) buying: Buying,
}

impl Purse {
    /// Opens keys and chain of a data directory, for torrents with these settings.
    pub(crate) async fn open<'a>(
        home: &Home,
        all: impl Iterator<Item = &'a Settings>,
        password_file: Option<&Path>,
    ) -> Result<(Self, Side, Arc<EvmChain>)> {
        let (mut side, carrier) = Side::open_to_stay(home, password_file).await?;
        if side.own_standing().await? == Some(Standing::Revoked) {
            bail!(
                Hint::new("this node's own keys are revoked on chain, so that nobody trades with it")
                    .hint("`sparewire settle` still claims what they earned; make another node, in a fresh data directory")
            );
        }
        let decimals = side.token.decimals;
        let mut price_max = Price::FREE;
        let configured = super::priced(&home.config.content.price_max);
        for text in all.filter_map(|one| one.price_max.as_deref()).chain(configured) {
            price_max = price_max.max(Price::parse(text, decimals).context("the dearest price")?);
        }
        let own = side.node.identity.clone();
        let identity = delegation::identity(home, &own)?;
        let delegation = identity.delegation.body;
        side.node.identity = identity.clone();
        set_back::check(home, &side).await?;
        if let Some(warning) = delegation::warning(&delegation, clock()().as_secs()) {
            eprintln!("warning: {warning}");
        }
        let selling = assemble::selling(&home.config.provider, &home.config.settle, &side)?;
        let selling = sparewire_node::seller::SellerConfig {
            sessions_max: home.config.content.connections_max,
            ..selling
        };
        let buying = assemble::buying(&home.config.consumer, price_max, &side)?;
        let (store, chain) = (&side.store, &side.chain);
        let seller =
            Arc::new(Seller::new(selling, identity, Arc::clone(store), Arc::clone(chain), clock()));
        let device = Arc::clone(&own.device);
        let buyer =
            Arc::new(Buyer::new(buying, own, Arc::clone(store), Arc::clone(chain), clock()));
        match home.index() {
            Ok(index) => carrier.use_index(index),
            // Payers that leave are found without it, later.
            Err(error) => eprintln!("warning: no index of the contract's events: {error:#}"),
        }
        let this = Self {
            money: Arc::new(Money::new(Some(buyer), Some(Arc::clone(&seller)), device)),
            seller,
            token: side.token.clone(),
            wallet: side.node.wallet.address(),
            delegation,
            credit: assemble::content_credit(&home.config.content)?,
            price_max,
        };
        Ok((this, side, carrier))
    }

    fn terms(&self, settings: &Settings) -> Result<Terms> {
        let decimals = self.token.decimals;
        let price = |text: &Option<String>, what: &'static str| {
            text.as_deref().map(|text| Price::parse(text, decimals)).transpose().context(what)
        };
        let sale = price(&settings.price, "the price")?;
        let sale = sale.map(|price| Sale { price, credit: self.credit });
        let price_max = price(&settings.price_max, "the dearest price")?.unwrap_or(Price::FREE);
        // The sessions of all torrents are held to one bound: what this process was started with.
        ensure!(
            price_max <= self.price_max,
            Hint::new(format!(
                "the process that runs here pays at most {} {} per GiB",
                Amount::new(self.price_max.get()).unwrap_or(Amount::MAX).display(decimals),
                self.token.symbol
            ))
            .hint("stop it, and give the command again")
        );
        let buying = Buying { free: settings.take_free, price_max };
        Ok(Terms { sale, free: settings.free, buying })
    }
}

/// The terms that a user wants.
///
/// # Errors
/// Where something costs money and there is no purse, or figures are none.
pub(crate) fn terms(purse: Option<&Purse>, settings: &Settings) -> Result<Terms> {
    match purse {
        Some(purse) => purse.terms(settings),
        None => {
            ensure!(
                !settings.needs_money(),
                Hint::new(
                    "the process that runs here has no keys open, and neither pays nor sells"
                )
                .hint("stop it, and give the command again")
            );
            Ok(Terms { sale: None, free: true, buying: Buying::default() })
        }
    }
}
