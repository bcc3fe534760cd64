//! What a tower wants done on chain, and in which order it is begun.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use sparewire_core::{Address, ChannelId};
use sparewire_protocol::settlement::Intent;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// What falls due within this is begun together, in the order of deadlines, and its claims share
/// transactions. It is short beside a block.
const GATHER: Duration = Duration::from_secs(1);
/// Rewards that are being collected at a time: a defence may find so many transactions before it.
const COLLECTS_MAX: usize = 4;
/// Claims that are begun together; the carrier shares them out over transactions.
const CLAIMS_MAX: usize = 1_000;

/// Something that is to be done for channels, each of which waits for it.
pub(super) struct Errand {
    pub(super) channels: Vec<ChannelId>,
    pub(super) intent: Intent,
    _place: Option<OwnedSemaphorePermit>,
}

/// What waits to be begun.
///
/// A channel has one errand at a time, so there are never more of them, waiting and under way, than
/// appointments. Nothing else bounds defences: one is over only when it is final, which takes minutes
/// on a public chain and hours on a bad day, and nobody must be able to keep others waiting so long.
pub(super) struct Errands {
    /// By deadline, and then by channel.
    waiting: BTreeMap<(u64, ChannelId), Intent>,
    /// When to begin what waits.
    ripe: Option<Instant>,
    collecting: Arc<Semaphore>,
    /// Whose claims the chain refused together with others: each is tried by itself.
    alone: BTreeSet<ChannelId>,
}

impl Errands {
    pub(super) fn new() -> Self {
        let collecting = Arc::new(Semaphore::new(COLLECTS_MAX));
        let (waiting, ripe, alone) = Default::default();
        Self { waiting, ripe, collecting, alone }
    }

    /// Remembers what is to be done before `due_secs`.
    pub(super) fn push(&mut self, channel: ChannelId, intent: Intent, due_secs: u64) {
        self.waiting.insert((due_secs, channel), intent);
        self.ripe.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// When [`Errands::take`] has something to give. `None` while nothing can be begun.
    pub(super) fn ripe(&self) -> Option<Instant> {
        self.ripe
    }

    /// What is to be begun now, in this order.
    pub(super) fn take(&mut self) -> Vec<Errand> {
        self.ripe = None;
        let mut taken: Vec<Errand> = Vec::new();
        // Where the claims for a payee that are begun now are. Payees do not share a transaction:
        // one whom the token does not pay would hold the others up.
        let mut shared: BTreeMap<(Address, Address), usize> = BTreeMap::new();
        let mut collects = BTreeMap::new();
        for ((due_secs, channel), intent) in mem::take(&mut self.waiting) {
            if let Intent::CollectReward { .. } = intent {
                collects.insert((due_secs, channel), intent);
                continue;
            }
            let payee = match &intent {
                Intent::Claim { claims } if !self.alone.remove(&channel) => {
                    claims.first().map(|claim| (claim.config.payee, claim.config.token))
                }
                _ => None,
            };
            if let (Some(payee), Intent::Claim { claims: more }) = (payee, &intent) {
                if let Some(Errand { channels, intent: Intent::Claim { claims }, .. }) =
                    shared.get(&payee).and_then(|at| taken.get_mut(*at))
                    && claims.len() < CLAIMS_MAX
                {
                    channels.push(channel);
                    claims.extend(more);
                    continue;
                }
                shared.insert(payee, taken.len());
            }
            taken.push(Errand { channels: vec![channel], intent, _place: None });
        }
        // After all defences, and only few at a time: rewards do not run away.
        for (key, intent) in collects {
            match Arc::clone(&self.collecting).try_acquire_owned() {
                Ok(place) => {
                    taken.push(Errand { channels: vec![key.1], intent, _place: Some(place) });
                }
                Err(_) => {
                    self.waiting.insert(key, intent);
                }
            }
        }
        taken
    }

    /// An errand is over: others may have waited for its place. Returns its channels. Where it was
    /// `refused`, they are tried one by one; where it was not carried out for another reason, the same
    /// ones go together again, and the carrier knows them by that.
    pub(super) fn over(&mut self, errand: Errand, refused: bool) -> Vec<ChannelId> {
        let channels = errand.channels;
        if refused && channels.len() > 1 {
            if self.alone.len() >= CLAIMS_MAX {
                self.alone.clear(); // of channels that are over, mostly; the others are refused again
            }
            self.alone.extend(&channels);
        }
        if !self.waiting.is_empty() {
            self.ripe.get_or_insert_with(Instant::now);
        }
        channels
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_core::{Amount, Signature};
    use sparewire_protocol::{ChannelConfig, Claim};

    use super::*;

    fn channel(number: u8) -> ChannelId {
        ChannelId([number; 32].into())
    }

    fn config(payee: u8) -> ChannelConfig {
        let address = Address::repeat_byte(payee);
        ChannelConfig {
            payer: address,
            payer_authorizer: address,
            payee: address,
            payee_authorizer: address,
            token: address,
            withdraw_delay_secs: 900,
            salt: 0,
        }
    }

    fn claim(payee: u8) -> Intent {
        let mut raw = [1; 65];
        raw[64] = 27;
        let signature = Signature::from_bytes(raw).unwrap();
        Intent::Claim {
            claims: vec![Claim { config: config(payee), amount: Amount::ZERO, signature }],
        }
    }

    fn collect(payee: u8) -> Intent {
        Intent::CollectReward { towers: Address::ZERO, config: config(payee) }
    }

    fn begun(taken: &[Errand]) -> Vec<Vec<u8>> {
        taken.iter().map(|errand| errand.channels.iter().map(|id| id.0.0[0]).collect()).collect()
    }

    #[test]
    fn all_defences_are_begun_at_once_in_the_order_of_their_deadlines() {
        let mut errands = Errands::new();
        for number in 0..200 {
            errands.push(channel(number), claim(number), 1_000 - u64::from(number));
        }
        let taken = errands.take();
        assert!(begun(&taken).into_iter().flatten().eq((0..200).rev()));
        assert_eq!(errands.ripe(), None);
    }

    #[test]
    fn collects_come_after_defences_and_only_few_are_under_way() {
        let mut errands = Errands::new();
        for number in 0..6 {
            errands.push(channel(number), collect(number), u64::MAX);
        }
        errands.push(channel(9), claim(9), 5);
        let mut taken = errands.take();
        assert_eq!(begun(&taken), [[9], [0], [1], [2], [3]]);
        assert_eq!(errands.ripe(), None, "the others wait for a place");
        errands.push(channel(8), claim(8), u64::MAX - 1);
        assert_eq!(begun(&errands.take()), [[8]], "which a defence does not");
        assert_eq!(errands.over(taken.pop().unwrap(), false), [channel(3)]);
        assert!(errands.ripe().is_some());
        assert_eq!(begun(&errands.take()), [[4]]);
    }

    #[test]
    fn claims_for_one_payee_share_an_intent_until_they_are_refused_together() {
        let mut errands = Errands::new();
        let push = |errands: &mut Errands| {
            for (number, payee) in [(1, 1), (2, 2), (3, 1), (4, 1)] {
                errands.push(channel(number), claim(payee), u64::from(number));
            }
        };
        push(&mut errands);
        let mut taken = errands.take();
        assert_eq!(begun(&taken), [vec![1, 3, 4], vec![2]]);
        let Intent::Claim { claims } = &taken[0].intent else { panic!() };
        assert_eq!(claims.len(), 3);
        assert_eq!(errands.over(taken.remove(0), true).len(), 3);
        push(&mut errands);
        assert_eq!(begun(&errands.take()), [[1], [2], [3], [4]]);
        push(&mut errands);
        assert_eq!(begun(&errands.take()), [vec![1, 3, 4], vec![2]], "once");
    }
}
