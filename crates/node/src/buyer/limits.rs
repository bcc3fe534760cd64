//! What may be put into channels: the budget, the wallet's cap, and how little of them goes to
//! sellers that have delivered nothing yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sparewire_core::{Address, Amount, ChannelId};
use sparewire_protocol::{ChannelFacts, ChannelStatus, Role};

use super::Buyer;
use crate::{
    session::SessionError,
    store::{KnownChannel, ask},
};

/// Most channels in use for blocks at a time over which none was paid for yet:
/// as many sellers as one can wait for at once, of whom any may be there to lock up money only.
const UNTRIED_MAX: usize = 4;
/// The part of the budget that may lie in channels over which nothing was ever paid for: what is
/// left is for those who deliver. One channel may always be opened.
const UNTRIED_PART: u128 = 2;

/// What our channels hold, as final state says it.
struct Books {
    known: Vec<KnownChannel>,
    facts: BTreeMap<ChannelId, ChannelFacts>,
    /// What earmarked channels are to hold, and final state does not show in them yet.
    under_way: Amount,
}

impl Books {
    fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
        amounts.fold(Amount::ZERO, |sum, more| sum.checked_add(more).unwrap_or(Amount::MAX))
    }

    /// What was spent, and what open channels hold.
    fn spent(&self) -> Amount {
        // Also of one that was put aside for, and is not known yet: all that are asked about are ours.
        Self::sum(self.facts.values().map(|facts| match facts.status {
            ChannelStatus::Closed => facts.claimed,
            _ => facts.reserved,
        }))
    }

    /// What open channels hold, or are about to, over which nothing was ever paid for.
    fn untried(&self) -> Amount {
        let tried = self.known.iter().filter(|channel| channel.payment.is_some());
        let tried: BTreeSet<ChannelId> = tried.map(|channel| channel.id).collect();
        let untried = self
            .facts
            .iter()
            .filter(|(id, facts)| !tried.contains(id) && facts.status != ChannelStatus::Closed);
        let shown = untried.map(|(_, facts)| facts.reserved.saturating_sub(facts.claimed));
        // What is under way may be for others; that is seldom, and errs on the safe side.
        plus(Self::sum(shown), self.under_way)
    }

    /// What open channels hold that are `ours`, or not known yet, and was not claimed.
    fn held(&self, ours: impl Fn(&KnownChannel) -> bool) -> Amount {
        let others = self.known.iter().filter(|channel| !ours(channel));
        let others: BTreeSet<ChannelId> = others.map(|channel| channel.id).collect();
        let open = self
            .facts
            .iter()
            .filter(|(id, facts)| facts.status != ChannelStatus::Closed && !others.contains(id));
        Self::sum(open.map(|(_, facts)| facts.reserved.saturating_sub(facts.claimed)))
    }
}

impl Buyer {
    /// Puts `amount` aside for a channel: within the limits together with all that is on its way,
    /// and in the deposit beside that. `sparing`: it is for a seller that has delivered nothing.
    pub(super) async fn earmark(
        self: &Arc<Self>,
        channel: ChannelId,
        amount: Amount,
        sparing: bool,
    ) -> Result<Earmark, SessionError> {
        // Held until the deposit is made: two would each count on the same money.
        let _turn = self.funding.lock().await;
        self.finish_earlier().await?;
        let books = self.books().await?;
        self.check_limits(&books, amount).await?;
        if sparing {
            self.check_untried(&books, amount).await?;
        }
        self.ensure_deposit(plus(books.under_way, amount)).await?;
        let mut past = self.past();
        // Others may have let go of theirs meanwhile, but nobody has taken more.
        let holds = books.facts.get(&channel).map_or(Amount::ZERO, |facts| facts.reserved);
        let earlier = past.earmarks.values().filter(|(of, _)| *of == channel);
        let holds = earlier.fold(holds, |most, (_, up_to)| most.max(*up_to));
        let number = past.next_earmark;
        past.next_earmark += 1;
        past.earmarks.insert(number, (channel, plus(holds, amount)));
        Ok(Earmark { buyer: Arc::clone(self), number })
    }

    /// A channel for blocks is about to be opened to `payee`, or used, over which nothing was paid for
    /// yet: it is untried until it is in use no more or something was. Whoever comes under many names is one payee, or brings
    /// many; one that has delivered nothing gets no second channel, and all together few. A session
    /// that is `resumed` is settled, whoever else waits, but takes its place.
    ///
    /// # Errors
    /// [`SessionError::Untried`]: later.
    pub(super) async fn begin_untried(
        &self,
        channel: ChannelId,
        payee: Address,
        resumed: bool,
    ) -> Result<(), SessionError> {
        let known = ask(&self.store, |store| store.channels(Role::Payer)).await?;
        let tried = |id: &ChannelId| known.iter().any(|of| of.id == *id && of.payment.is_some());
        let mut past = self.past();
        past.untried.retain(|id, _| !tried(id));
        if resumed {
            past.untried.insert(channel, payee);
            return Ok(());
        }
        if past.untried.values().any(|of| *of == payee) {
            return Err(SessionError::Untried(
                "a channel to this seller is open, and it has delivered nothing yet: it gets no second one before it does".into(),
            ));
        }
        if past.untried.len() >= UNTRIED_MAX {
            return Err(SessionError::Untried(format!(
                "{UNTRIED_MAX} sellers that have delivered nothing yet have channels: another gets one when one of them delivers or is given up"
            )));
        }
        past.untried.insert(channel, payee);
        Ok(())
    }

    async fn check_untried(&self, books: &Books, more: Amount) -> Result<(), SessionError> {
        let untried = books.untried();
        let most = Amount::new(self.config.budget.get() / UNTRIED_PART).unwrap_or(Amount::MAX);
        if untried == Amount::ZERO || plus(untried, more) <= most {
            return Ok(());
        }
        let [untried, most] = self.in_words([untried, most]).await;
        Err(SessionError::Untried(format!(
            "{untried} lie in channels to sellers that have delivered nothing, of at most {most}: wait until they do, close those channels (`channel close`) or raise --budget"
        )))
    }

    /// Each channel is asked about once, after what is on its way was looked up: so what arrives
    /// meanwhile is counted in its channel or as under way, and never as both.
    async fn books(&self) -> Result<Books, SessionError> {
        let mut up_to: BTreeMap<ChannelId, Amount> = BTreeMap::new();
        for (channel, most) in self.past().earmarks.values() {
            let known = up_to.entry(*channel).or_default();
            *known = (*known).max(*most);
        }
        let domain = self.chain.domain();
        let mut known = ask(&self.store, |store| store.channels(Role::Payer)).await?;
        known.retain(|channel| channel.domain == domain);
        let ids: BTreeSet<ChannelId> =
            known.iter().map(|channel| channel.id).chain(up_to.keys().copied()).collect();
        let mut facts = BTreeMap::new();
        for id in ids {
            if let Some(of) = self.chain.channel(id).await? {
                facts.insert(id, of);
            }
        }
        let missing = up_to.iter().map(|(id, up_to)| {
            let shown = facts.get(id).map_or(Amount::ZERO, |facts| facts.reserved);
            up_to.saturating_sub(shown)
        });
        Ok(Books { under_way: Books::sum(missing), known, facts })
    }

    /// The budget bounds what was spent and what our channels hold together. What those hold that
    /// name our authorizer is bounded by the wallet's cap too, where it set one: that is all that
    /// the authorizer's thief can spend.
    async fn check_limits(&self, books: &Books, more: Amount) -> Result<(), SessionError> {
        let (budget, token) = (self.config.budget, self.config.token);
        let spent = plus(books.spent(), books.under_way);
        if plus(spent, more) > budget {
            let [spent, budget, more] = self.in_words([spent, budget, more]).await;
            return Err(SessionError::Policy(format!(
                "the budget is used up: {spent} of {budget} are spent or put aside and {more} more are needed; raise --budget"
            )));
        }
        let Some(keys) = self.config.keys else { return Ok(()) };
        let (wallet, authorizer) = (self.identity.wallet(), self.identity.authorizer.address());
        let ours = |channel: &KnownChannel| {
            let config = &channel.config;
            (config.payer, config.payer_authorizer, config.token) == (wallet, authorizer, token)
        };
        let at_stake = plus(books.held(ours), books.under_way);
        match self.chain.cap(keys, wallet, authorizer, token).await? {
            Some(cap) if plus(at_stake, more) > cap => {
                let needed = plus(at_stake, more);
                let [at_stake, cap, more, needed] =
                    self.in_words([at_stake, cap, more, needed]).await;
                Err(SessionError::Policy(format!(
                    "the wallet's cap on this node's authorizer is reached: its channels hold {at_stake} of {cap} and {more} more are needed; `wallet device cap` raises it, to {needed} at least"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Amounts of our token as people write them, which is also how commands take them; in its
    /// smallest units where the chain does not say how.
    async fn in_words<const N: usize>(&self, amounts: [Amount; N]) -> [String; N] {
        let token = self.chain.token(self.config.token).await.ok();
        amounts.map(|amount| match &token {
            Some(token) => format!("{} {}", amount.display(token.decimals), token.symbol),
            None => format!("{amount} smallest units"),
        })
    }
}

fn plus(a: Amount, b: Amount) -> Amount {
    a.checked_add(b).unwrap_or(Amount::MAX)
}

/// Money on its way into a channel, until this is dropped.
pub(super) struct Earmark {
    buyer: Arc<Buyer>,
    number: u64,
}

impl Drop for Earmark {
    fn drop(&mut self) {
        self.buyer.past().earmarks.remove(&self.number);
    }
}
