//! Which channels are asked about when nobody asks: those that are new, those that their payers are
//! leaving, as logs tell, and at each look a part of all others, since logs can be left out. Each is
//! asked about within a quarter of its withdraw delay, so that three quarters are left to claim in.
//! What is not asked about is what it was when it was: claimed by us or not, that only grows.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::stream::{self, StreamExt};
use sparewire_core::ChannelId;
use sparewire_protocol::{
    ChannelFacts, ChannelStatus, Claim,
    settlement::{Chain, ChainError},
};
use tokio::time::Instant;

use super::settling::{ASKED_AT_ONCE, Gathered};

/// How often each channel is asked about within its withdraw delay.
const LOOKS_PER_DELAY: u128 = 4;
/// At least so many are asked about at each look: one request tells of as many.
const PART_MIN: usize = 192;
/// At most so many of which nothing is known yet: 22 requests.
const NEW_MAX: usize = 4_096;

/// A channel with something to claim in it.
pub(super) type Unsettled = (ChannelId, Claim);

/// What is known of channels, and since when.
#[derive(Default)]
pub(super) struct Watch {
    /// What final state said of a channel, and at which look.
    known: HashMap<ChannelId, (u64, Option<ChannelFacts>)>,
    looks: u64,
    last: Option<Instant>,
}

impl Watch {
    /// What is known of channels, in their order, after a look at some of them: at all of them with
    /// `all`, or where the chain follows no logs. A close that was started and is not final counts:
    /// the delay has begun. What cannot be told does not keep the others from being told.
    pub(super) async fn look(
        &mut self,
        chain: &Arc<dyn Chain>,
        unsettled: Vec<Unsettled>,
        all: bool,
    ) -> Gathered<Vec<(Unsettled, ChannelFacts)>> {
        let since = self.last.replace(Instant::now()).map_or(Duration::ZERO, |at| at.elapsed());
        let (mut failed, mut silent) = (Ok(()), false);
        let told = match all {
            true => None,
            false => match closes(chain, &unsettled).await {
                Ok(told) => told,
                // Without a word of logs, state is asked in time all the same.
                Err(error) => {
                    silent = matches!(error, ChainError::Unreachable { .. });
                    failed = Err(error.into());
                    Some(HashMap::new())
                }
            },
        };
        self.looks += 1;
        let present: HashSet<ChannelId> = unsettled.iter().map(|(id, _)| *id).collect();
        self.known.retain(|id, _| present.contains(id));
        let due = match &told {
            // A chain that does not answer is not waited for twice at one look.
            _ if silent => Vec::new(),
            None => unsettled.iter().map(|(id, _)| *id).collect(),
            Some(told) => self.due(&unsettled, told, since),
        };
        let (facts, asked) = facts_of(chain, &due).await;
        for (id, facts) in due.into_iter().zip(facts) {
            if let Some(facts) = facts {
                self.known.insert(id, (self.looks, facts));
            }
        }
        let told = told.unwrap_or_default();
        let known = unsettled.into_iter().filter_map(|channel| {
            let (_, facts) = self.known.get(&channel.0)?;
            let mut facts = (*facts)?;
            if let (ChannelStatus::Open, Some(at)) = (facts.status, told.get(&channel.0)) {
                facts.status = ChannelStatus::Closing { finish_at_secs: *at };
            }
            Some((channel, facts))
        });
        (known.collect(), failed.and(asked))
    }

    /// Forgets channels in which something has happened: they are asked about at the next look.
    pub(super) fn forget(&mut self, channels: impl Iterator<Item = ChannelId>) {
        for channel in channels {
            self.known.remove(&channel);
        }
    }

    /// Who is asked about at this look: all that were told of, those of which nothing is known, and
    /// of the others those whose turn it is, as many as it takes to be through with all in a part of
    /// the shortest delay.
    fn due(
        &self,
        unsettled: &[Unsettled],
        told: &HashMap<ChannelId, u64>,
        since: Duration,
    ) -> Vec<ChannelId> {
        let delay = unsettled.iter().map(|(_, claim)| claim.config.withdraw_delay_secs).min();
        let delay_ms = u128::from(delay.unwrap_or_default()) * 1_000;
        // ceil(n * since / (delay / 4)): n channels, oldest first, are through within that time.
        let share = (unsettled.len() as u128).saturating_mul(since.as_millis() * LOOKS_PER_DELAY);
        let part = share.div_ceil(delay_ms.max(1));
        let part = usize::try_from(part).unwrap_or(usize::MAX).max(PART_MIN);
        let (mut first, mut new, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for (id, _) in unsettled {
            match self.known.get(id) {
                _ if told.contains_key(id) => first.push(*id),
                None => new.push(*id),
                Some((look, _)) => rest.push((*look, *id)),
            }
        }
        new.truncate(NEW_MAX);
        rest.sort_unstable();
        rest.truncate(part);
        first.into_iter().chain(new).chain(rest.into_iter().map(|(_, id)| id)).collect()
    }
}

/// When closes can be finished that the payers of these channels have started, as logs tell; `None`
/// where no logs are followed.
async fn closes(
    chain: &Arc<dyn Chain>,
    unsettled: &[Unsettled],
) -> Result<Option<HashMap<ChannelId, u64>>, ChainError> {
    let payees: BTreeSet<_> = unsettled.iter().map(|(_, claim)| claim.config.payee).collect();
    let mut told = HashMap::new();
    for payee in payees {
        let Some(closes) = chain.closes_started(payee).await? else { return Ok(None) };
        told.extend(closes.into_iter().map(|close| (close.channel, close.finish_at_secs)));
    }
    Ok(Some(told))
}

/// What is final about channels, in their order: in as few requests as can be, and where that fails
/// for another reason than silence, one by one. Nothing for those that nothing was told of.
async fn facts_of(
    chain: &Arc<dyn Chain>,
    ids: &[ChannelId],
) -> Gathered<Vec<Option<Option<ChannelFacts>>>> {
    match chain.channels(ids).await {
        Ok(facts) => return (facts.into_iter().map(Some).collect(), Ok(())),
        Err(error @ ChainError::Unreachable { .. }) => return (Vec::new(), Err(error.into())),
        Err(error) => tracing::debug!(%error, "asking about each channel alone"),
    }
    let mut answers = stream::iter(ids.to_vec())
        .map(|id| {
            let chain = Arc::clone(chain);
            async move { (id, chain.channel(id).await) }
        })
        .buffered(ASKED_AT_ONCE);
    let (mut facts, mut failed, mut silent) = (Vec::new(), Ok(()), 0);
    while let Some((channel, answer)) = answers.next().await {
        match answer {
            Ok(answer) => {
                silent = 0;
                facts.push(Some(answer));
            }
            Err(error) => {
                tracing::warn!(%channel, %error, "cannot ask about a channel");
                silent += usize::from(matches!(error, ChainError::Unreachable { .. }));
                failed = failed.and(Err(error.into()));
                facts.push(None);
                if silent == ASKED_AT_ONCE {
                    break; // it is the node that does not answer, whatever it is asked
                }
            }
        }
    }
    (facts, failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sparewire_core::{Address, Amount, B256, Signature};
    use sparewire_protocol::ChannelConfig;

    fn channels(count: u64, delay: u32) -> Vec<Unsettled> {
        let channel = |salt: u64| {
            let config = ChannelConfig {
                payer: Address::ZERO,
                payer_authorizer: Address::ZERO,
                payee: Address::ZERO,
                payee_authorizer: Address::ZERO,
                token: Address::ZERO,
                withdraw_delay_secs: delay,
                salt,
            };
            let mut signature = [1; 65];
            signature[64] = 27;
            let signature = Signature::from_bytes(signature).expect("in range");
            let amount = Amount::new(1).expect("in range");
            let mut id = B256::ZERO;
            id.0[..8].copy_from_slice(&salt.to_be_bytes());
            (ChannelId(id), Claim { config, amount, signature })
        };
        (0..count).map(channel).collect()
    }

    /// A look whose questions are all answered.
    fn look(
        watch: &mut Watch,
        all: &[Unsettled],
        told: &HashMap<ChannelId, u64>,
        since: Duration,
    ) -> Vec<ChannelId> {
        watch.looks += 1;
        let due = watch.due(all, told, since);
        watch.known.extend(due.iter().map(|id| (*id, (watch.looks, None))));
        due
    }

    #[test]
    fn each_of_many_channels_is_asked_about_within_a_quarter_of_its_delay() {
        let (count, delay, every) = (10_000u64, 900, Duration::from_secs(60));
        let all = channels(count, delay);
        let (mut watch, told) = (Watch::default(), HashMap::new());
        // What is new is asked about first, as fast as is bearable.
        for left in [10_000, 10_000 - NEW_MAX, 10_000 - 2 * NEW_MAX] {
            let due = look(&mut watch, &all, &told, Duration::ZERO);
            assert!(due.len() >= left.min(NEW_MAX) && due.len() <= NEW_MAX + PART_MIN);
        }
        assert_eq!(watch.known.len(), 10_000);
        let mut last: HashMap<ChannelId, u64> = HashMap::new();
        let looks_max = u64::from(delay) / 4 / every.as_secs() + 1;
        for now in 0..40 {
            let due = look(&mut watch, &all, &told, every);
            assert!(due.len() <= 2_667, "{} at a time", due.len());
            last.extend(due.iter().map(|id| (*id, now)));
            if now > looks_max {
                let oldest = all.iter().map(|(id, _)| now - last[id]).max();
                assert!(oldest <= Some(looks_max), "{oldest:?} looks ago");
            }
        }
        // A day's delay asks for no more than one request at each look, and who is told of is first.
        let all = channels(count, 86_400);
        assert_eq!(look(&mut watch, &all, &told, every).len(), PART_MIN);
        let told = HashMap::from([(all[9_999].0, 7)]);
        let due = look(&mut watch, &all, &told, every);
        assert_eq!((due.len(), due[0]), (PART_MIN + 1, all[9_999].0));
        // What has changed is new again.
        watch.forget([all[5].0].into_iter());
        assert!(look(&mut watch, &all, &told, every).contains(&all[5].0));
    }
}
