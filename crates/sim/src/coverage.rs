//! What happened in histories, and what met what: a simulator in which nothing happens finds
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use sparewire_protocol::Message;

/// What happened in one history, or in many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// How many histories.
    pub histories: u64,
    /// How often each thing happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// In how many histories two things happened together.
    pub pairs: BTreeMap<(&'static str, &'static str), u64>,
    here: BTreeSet<&'static str>,
}

impl Coverage {
    /// Something happened.
    pub fn met(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
        self.here.insert(what);
    }

    /// A message left.
    pub fn said(&mut self, message: &Message) {
        self.met(match message {
            Message::Hello { resume: Some(_), .. } => "Hello to resume",
            Message::Hello { .. } => "Hello",
            Message::Offer(_) => "Offer",
            Message::Accept { acceptance, .. } if acceptance.pending.is_some() => {
                "Accept with a pending receipt"
            }
            Message::Accept { .. } => "Accept",
            Message::Accepted(_) => "Accepted",
            Message::Refused(refused) => refusal(refused.code),
            Message::Payment { receipt: Some(_), .. } => "Payment with a receipt",
            Message::Payment { .. } => "Payment",
            Message::Countersignature { .. } => "Countersignature",
            Message::Report { last: true, .. } => "last Report",
            Message::Report { .. } => "Report",
            Message::Abort { .. } => "Abort",
            Message::Broken { .. } => "Broken",
            Message::Flow { .. } => "Flow",
            Message::Due { .. } => "Due",
            Message::Funded => "Funded",
            Message::Close { .. } => "Close",
        });
    }

    /// The history has ended: what happened in it happened together.
    pub fn close(&mut self) {
        self.histories += 1;
        let here: Vec<_> = std::mem::take(&mut self.here).into_iter().collect();
        for (index, first) in here.iter().enumerate() {
            for second in &here[index + 1..] {
                *self.pairs.entry((first, second)).or_default() += 1;
            }
        }
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        for (pair, count) in &other.pairs {
            *self.pairs.entry(*pair).or_default() += count;
        }
    }

    /// Those of `things` that never happened.
    pub fn missing<'a>(&self, things: &[&'a str]) -> Vec<&'a str> {
        things.iter().copied().filter(|thing| !self.counts.contains_key(thing)).collect()
    }

    /// The pairs of a vice or fault and a fault that never met in one history.
    pub fn never_met(&self, left: &[&'static str], right: &[&'static str]) -> Vec<String> {
        let mut never = Vec::new();
        for a in left {
            for b in right {
                let pair = if a < b { (*a, *b) } else { (*b, *a) };
                if a != b && !self.pairs.contains_key(&pair) {
                    never.push(format!("{a} + {b}"));
                }
            }
        }
        never
    }
}

fn refusal(code: sparewire_protocol::RefusalCode) -> &'static str {
    use sparewire_protocol::RefusalCode as Code;
    match code {
        Code::WrongNetwork => "Refused WrongNetwork",
        Code::TermsExpired => "Refused TermsExpired",
        Code::UnknownSession => "Refused UnknownSession",
        Code::ChannelUnusable => "Refused ChannelUnusable",
        Code::Invalid => "Refused Invalid",
        Code::LossAllowanceUsed => "Refused LossAllowanceUsed",
        Code::Busy => "Refused Busy",
        Code::ChainUnavailable => "Refused ChainUnavailable",
        Code::ClockSkew => "Refused ClockSkew",
        Code::GoingAway => "Refused GoingAway",
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.counts {
            writeln!(f, "{count:>12}  {what}")?;
        }
        write!(f, "{:>12}  pairs that met", self.pairs.len())
    }
}
