//! Notices when a session stands still, and why: evidence for whoever asks later.

use sparewire_core::{ByteCount, Timestamp};
use sparewire_protocol::{ANSWER_MS_MAX, StopReason};

use crate::store::Stop;

/// Shorter ones are how long a payment is on its way, and not told of, in milliseconds.
const STOP_MS_MIN: u64 = 100;
/// One that lasts longer is kept before it ends, in milliseconds: nobody may see its end.
const STOP_MS_KEPT: u64 = 1_000;

/// What is seen of a session at one look.
pub(super) struct Look {
    /// Why it stands still, where something waits for it not to.
    pub(super) stopped: Option<StopReason>,
    /// Streams that wait.
    pub(super) waiting: u32,
    /// What is counted and unpaid.
    pub(super) unpaid: ByteCount,
    /// When something was last heard of the peer.
    pub(super) heard: Timestamp,
}

/// The stop that lasts, if one does.
#[derive(Debug, Default)]
pub(super) struct StopWatch {
    current: Option<Stop>,
    kept: bool,
}

impl StopWatch {
    /// Looks once more; what comes back is to be kept.
    pub(super) fn look(&mut self, look: &Look, now: Timestamp) -> Option<Stop> {
        let Some(reason) = look.stopped else { return self.end(now) };
        let silent = reason == StopReason::Unpaid && now.ms_since(look.heard) >= ANSWER_MS_MAX;
        let reason = if silent { StopReason::Silent } else { reason };
        let stop = self.current.get_or_insert(Stop {
            began: now,
            lasted_ms: None,
            reason,
            waiting: 0,
            unpaid: look.unpaid,
        });
        let changed = stop.reason != reason;
        stop.reason = reason;
        stop.waiting = stop.waiting.max(look.waiting);
        stop.unpaid = stop.unpaid.max(look.unpaid);
        let due = now.ms_since(stop.began) >= STOP_MS_KEPT && (!self.kept || changed);
        self.kept |= due;
        due.then_some(*stop)
    }

    /// The stop has ended, or the session has.
    pub(super) fn end(&mut self, now: Timestamp) -> Option<Stop> {
        let mut stop = self.current.take()?;
        let lasted = now.ms_since(stop.began);
        stop.lasted_ms = Some(lasted);
        let kept = std::mem::take(&mut self.kept);
        (kept || lasted >= STOP_MS_MIN).then_some(stop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(1_000_000 + ms)
    }

    fn look(stopped: Option<StopReason>, waiting: u32, heard: u64) -> Look {
        Look { stopped, waiting, unpaid: ByteCount::KIB, heard: at(heard) }
    }

    #[test]
    fn a_stop_is_kept_while_it_lasts_and_once_more_as_it_ends() {
        let mut watch = StopWatch::default();
        let unpaid = Some(StopReason::Unpaid);
        assert_eq!(watch.look(&look(unpaid, 1, 0), at(0)), None);
        assert_eq!(watch.look(&look(unpaid, 3, 0), at(999)), None);
        let lasting = watch.look(&look(unpaid, 2, 0), at(1_000)).unwrap();
        assert_eq!((lasting.began, lasting.lasted_ms, lasting.waiting), (at(0), None, 3));
        assert_eq!(watch.look(&look(unpaid, 2, 0), at(2_000)), None, "it is kept already");
        let silent = watch.look(&look(unpaid, 2, 0), at(ANSWER_MS_MAX)).unwrap();
        assert_eq!((silent.began, silent.reason), (at(0), StopReason::Silent));
        let ended = watch.look(&look(None, 0, 11_000), at(11_000)).unwrap();
        assert_eq!((ended.began, ended.lasted_ms), (at(0), Some(11_000)));
        assert_eq!(ended.reason, StopReason::Silent);
        assert_eq!(watch.end(at(12_000)), None);
    }

    #[test]
    fn the_way_of_a_payment_is_no_stop() {
        let mut watch = StopWatch::default();
        assert_eq!(watch.look(&look(Some(StopReason::Unpaid), 1, 0), at(0)), None);
        assert_eq!(watch.look(&look(None, 0, 0), at(STOP_MS_MIN - 1)), None);
        assert_eq!(watch.look(&look(Some(StopReason::ChannelSpent), 1, 0), at(200)), None);
        assert!(watch.end(at(200 + STOP_MS_MIN)).is_some(), "a session's end is a stop's");
    }
}
