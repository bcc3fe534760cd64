//! The buyer's money: finds or opens the channel to a provider, and keeps it funded within the
//! budget.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sparewire_core::{Amount, ByteCount, Price};
use sparewire_protocol::{
    ChannelConfig, ChannelFacts, ChannelStatus, ProtocolError, Role, Service, SessionMemory,
    Statement, Terms,
    settlement::{ChainError, Intent},
};
use tokio::sync::Notify;

use super::{Bought, Buyer, InUse, Purchase, limits::Earmark, may_retry};
use crate::{
    session::{Command, SessionError},
    store::{KnownChannel, ask},
};

/// How long a failed top-up rests.
const TOP_UP_RETRY: Duration = Duration::from_secs(15);

/// A channel that is final on chain and can pay.
pub(super) struct Funded {
    pub(super) config: ChannelConfig,
    pub(super) reserved: Amount,
    /// What the provider had claimed of it.
    pub(super) claimed: Amount,
}

impl Buyer {
    /// Turns a provider down that contradicted itself over a channel of ours, under whichever of
    /// its names it comes back: the wallet that answers, or the key that signed. It would be paid
    /// over a new channel else, and nothing would have come of its lie.
    ///
    /// # Errors
    /// [`SessionError::Policy`], unless it is forgiven.
    pub(super) async fn check_past(&self, terms: &Terms) -> Result<(), SessionError> {
        if self.config.forgive {
            return Ok(());
        }
        let channels = ask(&self.store, |store| store.channels(Role::Payer)).await?;
        let with_it = |config: &ChannelConfig| {
            config.payee == terms.payee || config.payee_authorizer == terms.payee_authorizer
        };
        let Some(frozen) = channels.iter().find(|it| it.frozen && with_it(&it.config)) else {
            return Ok(());
        };
        Err(SessionError::Policy(format!(
            "the provider signed two receipts with one number over channel {}, which is frozen; `session explain` and `stake report` show them, `channel close` returns what is left. Choose another provider, or deal with this one over a new channel by --forgive",
            frozen.id
        )))
    }

    /// The channel that pays under these terms: the one of the session to resume, else one that we
    /// have, that no other session uses and that still holds money, else a new one. It is `in_use`
    /// from here on.
    pub(super) async fn channel_for(
        self: &Arc<Self>,
        terms: &Terms,
        resumed: Option<&SessionMemory>,
        in_use: &mut InUse<'_>,
    ) -> Result<Funded, SessionError> {
        {
            let _turn = self.funding.lock().await;
            self.finish_earlier().await?;
        }
        let mut best: Option<(KnownChannel, ChannelFacts)> = None;
        for channel in self.channels_to(terms).await? {
            let Some(facts) = self.chain.channel(channel.id).await? else { continue };
            if facts.status != ChannelStatus::Open {
                continue;
            }
            if resumed.is_some_and(|known| known.agreement.config == channel.config) {
                best = Some((channel, facts));
                break;
            }
            let left = |channel: &KnownChannel, facts: &ChannelFacts| {
                facts.reserved.saturating_sub(channel.promised())
            };
            if best.as_ref().is_none_or(|(c, f)| left(&channel, &facts) > left(c, f)) {
                best = Some((channel, facts));
            }
        }
        // Between looking and taking, another session may have taken it.
        let best = best.filter(|(channel, _)| self.past().live_channels.insert(channel.id));
        let Some((channel, facts)) = best else { return self.open_channel(terms, in_use).await };
        in_use.channel = Some(channel.id);
        if channel.payment.is_none() && is_sparing(terms) {
            let goes_on = resumed.is_some_and(|known| known.agreement.config == channel.config);
            self.begin_untried(channel.id, terms.payee, goes_on).await?;
        }
        let mut reserved = facts.reserved;
        // A channel that is nearly used up is topped up before it is used again, and so is one that
        // holds less than its provider asks of channels today.
        let left = reserved.saturating_sub(channel.promised());
        let is_enough = reserved >= terms.channel_min;
        if !is_enough {
            self.check_channel_min(terms)?;
        }
        let can_pay = is_enough && terms.price.affordable(left) > ByteCount::ZERO;
        if !can_pay || (terms.price > Price::FREE && left <= self.low_water()) {
            match self.top_up(&channel.config).await {
                Ok(more) => reserved = more,
                // What is left can still be used, and a session that broke off be settled.
                Err(error) if can_pay || resumed.is_some() => {
                    tracing::warn!(%error, "the channel cannot be topped up; using what is left");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Funded { config: channel.config, reserved, claimed: facts.claimed })
    }

    /// How much is to be left in a channel when it is topped up: a quarter of what it gets, since a
    /// chain may take many minutes to be final.
    pub(super) fn low_water(&self) -> Amount {
        Amount::new(self.config.channel_amount.get() / 4).unwrap_or_default()
    }

    /// Tops the channel up whenever little is left in it. Returns only when the session cannot go on
    /// for want of money: no more is to be had, and what was left is used up.
    pub(super) async fn keep_funded(
        self: &Arc<Self>,
        funded: &Funded,
        wanted: &Notify,
        live: &Bought,
        purchase: &impl Purchase,
    ) -> SessionError {
        let mut reserved = funded.reserved;
        loop {
            wanted.notified().await;
            let mut told = String::new();
            reserved = loop {
                let error = match self.top_up(&funded.config).await {
                    Ok(reserved) => break reserved,
                    Err(error) => error,
                };
                let reason = error.to_string();
                if reason != told {
                    tracing::warn!(%error, "the channel cannot be topped up; using what is left");
                    told = reason;
                }
                // Money may come while the rest is used, and a silent chain may answer again:
                // streams wait for that.
                tokio::select! {
                    () = tokio::time::sleep(TOP_UP_RETRY) => {}
                    () = used_up(live, reserved, purchase.unit()), if !may_retry(&error) => return error,
                }
            };
            purchase.funded(live.payable(reserved));
            if live.commands.send(Command::ToppedUp(reserved)).await.is_err() {
                return std::future::pending().await; // the session is over
            }
        }
    }

    /// That what we put aside at a time is as much as the terms ask of a channel.
    fn check_channel_min(&self, terms: &Terms) -> Result<(), SessionError> {
        let amount = self.config.channel_amount;
        if amount < terms.channel_min {
            return Err(SessionError::Policy(format!(
                "the provider asks for channels of {} units, more than the {amount} that new ones get; raise --channel-amount or choose another",
                terms.channel_min
            )));
        }
        Ok(())
    }

    async fn open_channel(
        self: &Arc<Self>,
        terms: &Terms,
        in_use: &mut InUse<'_>,
    ) -> Result<Funded, SessionError> {
        self.check_channel_min(terms)?;
        let amount = self.config.channel_amount;
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(|error| {
            SessionError::Policy(format!("the system gives no randomness ({error})"))
        })?;
        let config = ChannelConfig {
            payer: self.identity.wallet(),
            payer_authorizer: self.identity.authorizer.address(),
            payee: terms.payee,
            payee_authorizer: terms.payee_authorizer,
            token: terms.token,
            withdraw_delay_secs: self.config.withdraw_delay_secs.max(terms.withdraw_delay_secs_min),
            salt: u64::from_le_bytes(salt),
        };
        let domain = self.chain.domain();
        let channel = config.id(&domain);
        self.past().live_channels.insert(channel);
        in_use.channel = Some(channel);
        let sparing = is_sparing(terms);
        if sparing {
            self.begin_untried(channel, terms.payee, false).await?;
        }
        let earmark = self.earmark(channel, amount, sparing).await?;
        // Remembered before it is opened: a crash in between leaves a name without money, not
        // money without a name.
        let kept = move |store: &dyn crate::store::Store| {
            store.keep_channel(Role::Payer, &domain, &config)
        };
        ask(&self.store, kept).await?;
        let open = Intent::Open { channels: vec![(config, amount)] };
        self.perform(open, Some(earmark)).await?;
        let facts = self.chain.channel(channel).await?;
        let reserved = facts.map(|facts| facts.reserved).ok_or(ProtocolError::ChannelUnusable(
            "it was opened, but the chain does not show it",
        ))?;
        tracing::info!(%channel, %reserved, "channel opened");
        Ok(Funded { config, reserved, claimed: Amount::ZERO })
    }

    async fn top_up(self: &Arc<Self>, config: &ChannelConfig) -> Result<Amount, SessionError> {
        let amount = self.config.channel_amount;
        let earmark = self.earmark(config.id(&self.chain.domain()), amount, false).await?;
        self.perform(Intent::TopUp { config: *config, amount }, Some(earmark)).await?;
        let facts = self.chain.channel(config.id(&self.chain.domain())).await?;
        facts
            .map(|facts| facts.reserved)
            .ok_or(ProtocolError::ChannelUnusable("the chain does not show it").into())
    }

    /// Has the chain do something, to its end whoever waits for it: until then its `earmark` counts
    /// against the limits.
    async fn perform(
        self: &Arc<Self>,
        intent: Intent,
        earmark: Option<Earmark>,
    ) -> Result<(), SessionError> {
        let buyer = Arc::clone(self);
        let performing = tokio::spawn(async move {
            let _earmark = earmark;
            let performed = buyer.chain.perform(&intent).await;
            if performed.is_err() {
                // Nobody knows yet what became of it: that is asked before the next.
                buyer.unfinished.store(true, Ordering::Release);
            }
            performed
        });
        let performed = performing.await;
        performed.map_err(|error| SessionError::Policy(format!("cut off: {error}")))??;
        Ok(())
    }

    /// Makes sure that the deposit holds `amount`, from the wallet.
    pub(super) async fn ensure_deposit(
        self: &Arc<Self>,
        amount: Amount,
    ) -> Result<(), SessionError> {
        let (wallet, token) = (self.identity.wallet(), self.config.token);
        let funds = self.chain.funds(wallet, token).await?;
        let missing = amount.saturating_sub(funds.deposit);
        if missing == Amount::ZERO {
            return Ok(());
        }
        if funds.wallet < missing.get() {
            return Err(ChainError::InsufficientFunds {
                of: "tokens",
                wallet,
                available: funds.wallet,
                needed: missing.get(),
            }
            .into());
        }
        self.perform(Intent::Deposit { token, amount: missing }, None).await
    }

    /// Our channels that may pay under these terms. The invariant (A1): none is frozen, so that no
    /// session, and no top-up, is of one.
    async fn channels_to(&self, terms: &Terms) -> Result<Vec<KnownChannel>, SessionError> {
        let channels = ask(&self.store, |store| store.channels(Role::Payer)).await?;
        let domain = self.chain.domain();
        let past = self.past();
        let avoided = |id: &sparewire_core::ChannelId| {
            past.avoid.contains(id) || past.live_channels.contains(id)
        };
        let ours = |channel: &KnownChannel| {
            let config = &channel.config;
            channel.domain == domain
                && channel.agreed.is_none()
                && !channel.frozen
                && config.payer == self.identity.wallet()
                && config.payer_authorizer == self.identity.authorizer.address()
                && config.payee == terms.payee
                && config.payee_authorizer == terms.payee_authorizer
                && config.token == terms.token
                && config.withdraw_delay_secs >= terms.withdraw_delay_secs_min
                && !avoided(&channel.id)
        };
        Ok(channels.into_iter().filter(ours).collect())
    }
}

/// Returns when the session has promised all that a channel holding `reserved` can pay for, save less
/// than a `unit`. The last bytes are paid for within the time between payments.
async fn used_up(live: &Bought, reserved: Amount, unit: ByteCount) {
    let payable = live.payable(reserved);
    let is_used_up = |figures: &Option<Statement>| {
        figures.as_ref().is_some_and(|figures| {
            // A unit of money is promised at its first byte: the others of it are still to come.
            let counted = figures.counted.checked_total().unwrap_or(payable).min(payable);
            payable.saturating_sub(counted) < unit
                && figures.price.owed(counted).is_some_and(|owed| figures.paid >= owed)
        })
    };
    if live.figures.clone().wait_for(is_used_up).await.is_err() {
        std::future::pending().await // the session is over
    }
}

/// Whether many sellers of what these terms are for are tried at a time, so that little goes to those
/// that have delivered nothing.
fn is_sparing(terms: &Terms) -> bool {
    matches!(terms.service, Service::Content(_))
}
