//! Plans as text, to be kept: one line of JSON for the parties, one for each operation. What is added
//! to plans later has a default here, so that a plan means the same for as long as its words do.

use super::{Operation, Plan};

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A line of it is not what it should be.
    #[error("line {line} of the plan: {source}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// There is nothing in it.
    #[error("the plan is empty; its first line says who is in it")]
    Empty,
    /// An operation is about a party that is not in it.
    #[error("the plan has no such party: {0:?}")]
    Nobody(Operation),
}

impl Plan {
    /// The plan in words. Its seed is in it, and with it what is left to chance.
    pub fn to_text(&self) -> String {
        let line = |words: serde_json::Result<String>| {
            words.unwrap_or_else(|error| unreachable!("a plan is plain data: {error}")) + "\n"
        };
        let head = line(serde_json::to_string(self));
        self.operations.iter().fold(head, |text, it| text + &line(serde_json::to_string(it)))
    }

    /// Reads [`Plan::to_text`] back. Empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn from_text(text: &str) -> Result<Self, PlanError> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let wrong = |line| move |source| PlanError::Line { line, source };
        let (line, words) = lines.next().ok_or(PlanError::Empty)?;
        let mut plan: Self = serde_json::from_str(words).map_err(wrong(line))?;
        for (line, words) in lines {
            plan.operations.push(serde_json::from_str(words).map_err(wrong(line))?);
        }
        plan.operations.sort_by_key(|(at, _)| *at);
        let stranger = plan.operations.iter().find(|(_, it)| !plan.has(it));
        match stranger {
            Some((_, operation)) => Err(PlanError::Nobody(operation.clone())),
            None => Ok(plan),
        }
    }

    /// Whether all that an operation is about is there.
    fn has(&self, operation: &Operation) -> bool {
        use Operation as O;
        let consumers = self.consumers.len();
        match operation {
            O::Traffic { consumer, .. }
            | O::CloseSession { consumer }
            | O::LeaveChain { consumer }
            | O::ClaimOld { consumer }
            | O::Backup { consumer }
            | O::Restore { consumer }
            | O::FinishLeaving { consumer } => *consumer < consumers,
            // A relay is a host as well.
            O::Cut { node, .. } | O::Line { node, .. } | O::Kill { node, .. } => {
                *node < 1 + consumers + usize::from(self.relay.is_some())
            }
            O::Readdress { node }
            | O::Rebind { node }
            | O::PowerCut { node, .. }
            | O::CutBefore { node, .. }
            | O::StopDiskAt { node, .. }
            | O::DiskFull { node, .. }
            | O::DiskFault { node, .. }
            | O::Skew { node, .. } => *node < 1 + consumers,
            _ => true,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_the_same_plan_after_it_was_written_down() {
        for seed in 0..2_000 {
            let plan = Plan::from_seed(seed);
            let text = plan.to_text();
            let again = Plan::from_text(&format!("# found by somebody\n\n{text}")).unwrap();
            assert_eq!(format!("{again:?}"), format!("{plan:?}"), "{text}");
        }
    }

    #[test]
    fn what_a_plan_does_not_say_is_as_it_was_before_there_was_such_a_thing() {
        let mut words: serde_json::Value =
            serde_json::from_str(Plan::from_seed(1).to_text().lines().next().unwrap()).unwrap();
        for later in ["watcher", "relay", "withdraw_delay_secs"] {
            words.as_object_mut().unwrap().remove(later);
        }
        words["weather"] = serde_json::json!({ "reorgs": 50 });
        let plan = Plan::from_text(&words.to_string()).unwrap();
        assert!(plan.watcher.is_none() && plan.relay.is_none());
        assert_eq!((plan.withdraw_delay_secs, plan.weather.reorgs), (900, 50));
        assert_eq!(plan.weather.block_time_ms, 12_000);
    }

    #[test]
    fn what_is_no_plan_is_told_by_its_line() {
        let head = Plan::from_seed(1).to_text().lines().next().unwrap().to_owned();
        let told = |text: &str| Plan::from_text(text).unwrap_err().to_string();
        assert_eq!(told("# nothing\n"), PlanError::Empty.to_string());
        assert!(told(&format!("{head}\n\n[5,\"dance\"]")).starts_with("line 3 of the plan: "));
        assert!(
            told(&format!("{head}\n[5,{{\"settle\":{{\"provider\":0}}}}]\n7")).contains("line 3")
        );
        let nobody = format!("{head}\n[5,{{\"close-session\":{{\"consumer\":9}}}}]");
        assert!(told(&nobody).starts_with("the plan has no such party"));
    }
}
