//! What is not final yet, told in words: what is waited for, since when, and at which fee.

use std::{fmt, path::Path};

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use crate::journal::{Journal, JournalError, Step, StepState, versions};

/// Most intents that are told of.
const TOLD_MAX: i64 = 1_000;

/// What a wallet has under way on its chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainWork {
    /// What is not over yet, the oldest first: at most 1,000 intents.
    pub under_way: Vec<UnderWay>,
    /// The base fee of gas when it was last asked for, in wei.
    pub base_fee_wei: Option<u128>,
    /// Whether another program was seen to use the wallet.
    pub foreign_use: Option<ForeignUse>,
}

/// That another program used the wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignUse {
    /// The newest nonce that was not ours.
    pub nonce: u64,
    /// When that was found, in seconds since the epoch.
    pub seen_secs: u64,
}

impl ChainWork {
    /// In words, a line each.
    pub fn lines(&self, now_secs: u64) -> Vec<String> {
        let told = |it: &UnderWay| it.words(now_secs, self.base_fee_wei);
        let mut lines: Vec<String> = self.under_way.iter().map(told).collect();
        if let Some(ForeignUse { nonce, seen_secs }) = self.foreign_use {
            let ago = Lasting(now_secs.saturating_sub(seen_secs));
            lines.push(format!(
                "another program sends transactions of this wallet (nonce {nonce}, noticed {ago} \
                 ago): give each its own, or expect delays"
            ));
        }
        lines
    }
}

impl Journal {
    /// What a journal that no process holds says; `None` where there is no such file.
    ///
    /// # Errors
    /// [`JournalError::InUse`] where a process holds it: ask that one.
    pub fn peek(path: impl AsRef<Path>) -> Result<Option<ChainWork>, JournalError> {
        let path = path.as_ref();
        if !path.exists() {
            return Ok(None);
        }
        Self::open(path)?.work().map(Some)
    }

    /// What is under way, as far as the journal knows.
    pub(crate) fn work(&self) -> Result<ChainWork, JournalError> {
        let (under_way, foreign_use) = (self.under_way()?, self.foreign_use()?);
        Ok(ChainWork { under_way, base_fee_wei: None, foreign_use })
    }

    fn under_way(&self) -> Result<Vec<UnderWay>, JournalError> {
        let open = self.with(|db| {
            let mut statement = db.prepare(
                "SELECT id, kind, urgent, created_secs FROM intents WHERE state = 'open'
                 ORDER BY id LIMIT ?1",
            )?;
            let rows = statement.query_map([TOLD_MAX], |row| {
                let since: i64 = row.get(3)?;
                Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, since as u64))
            })?;
            Ok(rows.collect::<Result<Vec<(i64, String, bool, u64)>, _>>()?)
        })?;
        open.into_iter()
            .map(|(id, intent, urgent, since_secs)| {
                let steps = self.steps(id)?;
                let over = |step: &&Step| step.state == StepState::Final;
                let stands = match steps.iter().find(|step| !over(step)) {
                    None => Stands::Final,
                    Some(step) => {
                        let attempts = self.attempts(step.id)?;
                        match (step.state, attempts.first()) {
                            (StepState::Planned, _) | (_, None) => Stands::Planned,
                            (StepState::Failed, _) => Stands::Failed,
                            (state, Some(newest)) => Stands::Sent {
                                hash: newest.hash,
                                nonce: newest.nonce,
                                replaced: versions(&attempts) - 1,
                                since_secs: newest.signed_secs,
                                max_fee_wei: newest.max_fee,
                                mined: state == StepState::Mined,
                            },
                        }
                    }
                };
                let (done, steps) = (steps.iter().filter(over).count(), steps.len());
                Ok(UnderWay { intent, urgent, since_secs, steps, done, stands })
            })
            .collect()
    }
}

/// An intent that is not carried out yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// What was asked for, as [`sparewire_protocol::settlement::Intent::kind`] has it.
    pub intent: String,
    /// Whether it may cost up to [`crate::Policy::fee_max_urgent_wei`].
    pub urgent: bool,
    /// When it was asked for, in seconds since the epoch.
    pub since_secs: u64,
    /// Transactions that it takes.
    pub steps: usize,
    /// How many of them are final.
    pub done: usize,
    /// How the first stands that is not final.
    pub stands: Stands,
}

/// How a transaction stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stands {
    /// It is not signed yet: others go first, or the node does not answer.
    Planned,
    /// It is signed and handed to the nodes.
    Sent {
        /// The newest version's hash.
        hash: B256,
        /// Its nonce.
        nonce: u64,
        /// How many versions with this nonce it replaces, each at a lower fee.
        replaced: usize,
        /// When it was signed, in seconds since the epoch.
        since_secs: u64,
        /// Most that it pays for a unit of gas, in wei.
        max_fee_wei: u128,
        /// Whether it is in a block that is not final yet.
        mined: bool,
    },
    /// It failed; other transactions of the intent are still waited for.
    Failed,
    /// All are final; that is about to be written down.
    Final,
}

impl UnderWay {
    /// The whole of it in one line. `base_fee_wei` is what gas costs at least now, where known.
    pub fn words(&self, now_secs: u64, base_fee_wei: Option<u128>) -> String {
        let ago = |since: u64| Lasting(now_secs.saturating_sub(since));
        let intent = self.intent.replace('_', " ");
        let part = match self.steps {
            0 | 1 => String::new(),
            steps => format!(" ({} of {steps} transactions are final)", self.done),
        };
        let hurry = if self.urgent { ", urgent" } else { "" };
        let asked = format!("{intent}{hurry}, asked for {} ago{part}", ago(self.since_secs));
        match &self.stands {
            Stands::Planned => format!("{asked}: waits to be sent"),
            Stands::Failed => format!("{asked}: failed; the rest of it is still waited for"),
            Stands::Final => format!("{asked}: final"),
            Stands::Sent { hash, nonce, since_secs, mined: true, .. } => format!(
                "{asked}: {hash} (nonce {nonce}, sent {} ago) is in a block and not final yet",
                ago(*since_secs)
            ),
            Stands::Sent { hash, nonce, replaced, since_secs, max_fee_wei, mined: false } => {
                let bumps = match replaced {
                    0 => String::new(),
                    1 => ", its fee was raised once".to_owned(),
                    times => format!(", its fee was raised {times} times"),
                };
                let price = match base_fee_wei {
                    None => String::new(),
                    Some(base) if base > *max_fee_wei => {
                        format!(", and gas costs {} gwei: too little for now", Gwei(base))
                    }
                    Some(base) => format!(", and gas costs {} gwei", Gwei(base)),
                };
                format!(
                    "{asked}: {hash} (nonce {nonce}, sent {} ago{bumps}) is in no block yet; it \
                     pays up to {} gwei{price}",
                    ago(*since_secs),
                    Gwei(*max_fee_wei)
                )
            }
        }
    }
}

/// A length of time in its largest unit.
struct Lasting(u64);

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            secs @ 0..120 => write!(f, "{secs} s"),
            secs @ 120..7_200 => write!(f, "{} min", secs / 60),
            secs => write!(f, "{} h", secs / 3_600),
        }
    }
}

/// Wei as gwei with three decimals.
struct Gwei(u128);

impl fmt::Display for Gwei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_told_with_its_age_and_fee() {
        let mut it = UnderWay {
            intent: "finish_close".to_owned(),
            urgent: true,
            since_secs: 1_000,
            steps: 1,
            done: 0,
            stands: Stands::Planned,
        };
        let words = it.words(1_030, None);
        assert_eq!(words, "finish close, urgent, asked for 30 s ago: waits to be sent");
        it.urgent = false;
        (it.steps, it.done) = (2, 1);
        let sent = |mined| Stands::Sent {
            hash: B256::ZERO,
            nonce: 7,
            replaced: 2,
            since_secs: 1_060,
            max_fee_wei: 2_500_000_000,
            mined,
        };
        it.stands = sent(false);
        let words = it.words(8_300, Some(3_000_000_000));
        assert!(
            words.starts_with("finish close, asked for 2 h ago (1 of 2 transactions are final)")
        );
        let end = "(nonce 7, sent 2 h ago, its fee was raised 2 times) is in no block yet; it pays \
                   up to 2.500 gwei, and gas costs 3.000 gwei: too little for now";
        assert!(words.ends_with(end), "{words}");
        assert!(it.words(1_360, Some(1)).ends_with("gwei, and gas costs 0.000 gwei"));
        it.stands = sent(true);
        assert!(it.words(1_360, None).ends_with("sent 5 min ago) is in a block and not final yet"));
        let json = serde_json::to_string(&it).unwrap_or_default();
        assert_eq!(serde_json::from_str::<UnderWay>(&json).ok(), Some(it));
    }
}
