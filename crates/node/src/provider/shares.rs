//! Which share of the exit each channel's sessions have. A consumer that comes back has the share
//! that it left: coming again and again brings nothing more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sparewire_core::ChannelId;

use crate::exit::Share;

#[derive(Debug)]
pub(super) struct Shares {
    per_sec_max: u32,
    of: Mutex<HashMap<ChannelId, Arc<Share>>>,
}

impl Shares {
    pub(super) fn new(per_sec_max: u32) -> Self {
        Self { per_sec_max, of: Mutex::default() }
    }

    pub(super) fn of(&self, channel: ChannelId) -> Arc<Share> {
        // Plain inserts and removes: a panic leaves no half.
        let mut shares = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| Arc::strong_count(share) > 1 || !share.is_idle());
        let new = || Arc::new(Share::new(self.per_sec_max));
        Arc::clone(shares.entry(channel).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_one_share_and_those_not_in_use_are_forgotten() {
        let shares = Shares::new(1_000_000_000);
        let id = |byte| ChannelId([byte; 32].into());
        let (one, two) = (shares.of(id(1)), shares.of(id(2)));
        assert!(!Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&one, &shares.of(id(1))));
        drop(two);
        shares.of(id(3));
        let known = shares.of.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert_eq!(known, 2);
    }
}
