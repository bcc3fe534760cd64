//! Where bad data came from, remembered over restarts. By address alone: what is carried is not
//! authenticated, so whoever stands between us and an honest device could spoil it in its name.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How long somebody is remembered, in seconds: a week. Addresses change hands, and disks get mended.
pub(super) const BAN_SECS: u64 = 7 * 24 * 3600;
/// How many are; the oldest are forgotten first.
const BANS_MAX: usize = 2_000;
/// The longest file that is read: a line is below 128 bytes.
const FILE_LEN_MAX: u64 = 128 * BANS_MAX as u64;

/// All who are remembered, of all torrents.
#[derive(Debug, Default)]
pub(super) struct Bans {
    /// And until when, in seconds of Unix time.
    until: Mutex<BTreeMap<IpAddr, u64>>,
    /// `None` forgets with the process.
    path: Option<PathBuf>,
    /// One at a time writes.
    writing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bans {
    /// Those that `path` names. What cannot be read there is nobody: they will show themselves again.
    pub(super) fn load(path: Option<PathBuf>, now_secs: u64) -> Self {
        let mut text = String::new();
        let file = path.as_deref().and_then(|path| fs::File::open(path).ok());
        if let Some(file) = file {
            let _ = file.take(FILE_LEN_MAX).read_to_string(&mut text);
        }
        let line = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let sender: IpAddr = words.next()?.parse().ok()?;
            let until: u64 = words.next()?.parse().ok()?;
            // A clock that was wrong bans nobody for ever.
            (now_secs < until).then_some((sender, until.min(now_secs.saturating_add(BAN_SECS))))
        };
        let until = text.lines().filter_map(line).take(BANS_MAX).collect();
        Self { until: Mutex::new(until), path, writing: Mutex::default() }
    }

    /// Whether somebody is remembered.
    pub(super) fn has(&self, sender: IpAddr, now_secs: u64) -> bool {
        lock(&self.until).get(&sender).is_some_and(|until| now_secs < *until)
    }

    /// Remembers somebody from now on; it is [`Bans::save`] that makes it last.
    pub(super) fn add(&self, sender: IpAddr, now_secs: u64) {
        let mut until = lock(&self.until);
        until.retain(|_, until| now_secs < *until);
        if until.len() >= BANS_MAX
            && let Some(oldest) = until.iter().min_by_key(|(_, until)| **until).map(|(who, _)| *who)
        {
            until.remove(&oldest);
        }
        until.insert(sender, now_secs.saturating_add(BAN_SECS));
    }

    /// Writes down all who are remembered, whole or not at all. On a blocking thread.
    ///
    /// # Errors
    /// What the disk says; nothing that was written before is lost.
    pub(super) fn save(&self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let _writing = lock(&self.writing);
        let lines: Vec<String> =
            lock(&self.until).iter().map(|(sender, until)| format!("{sender} {until}\n")).collect();
        write_whole(path, lines.concat().as_bytes())
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let staged = path.with_extension("new");
    let mut file = fs::File::create(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn address(last: u16) -> IpAddr {
        let [high, low] = last.to_be_bytes();
        IpAddr::from([127, 0, high, low])
    }

    #[test]
    fn whoever_was_remembered_is_so_after_a_restart_and_for_a_week() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banned");
        let now = 1_000_000;
        let six: IpAddr = "2001:db8::5".parse().unwrap();
        let bans = Bans::load(Some(path.clone()), now);
        bans.add(six, now);
        bans.add(address(1), now + 10);
        bans.save().unwrap();
        let bans = Bans::load(Some(path.clone()), now + 20);
        assert!(bans.has(six, now + 20) && bans.has(address(1), now + 20));
        assert!(!bans.has(address(2), now + 20));
        assert!(!bans.has(six, now + BAN_SECS));
        assert!(!Bans::load(Some(path), now + BAN_SECS).has(six, now));
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_a_spoilt_file_names_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banned");
        let bans = Bans::load(Some(path.clone()), 0);
        for number in 0..=BANS_MAX as u16 {
            bans.add(address(number), u64::from(number));
        }
        assert!(!bans.has(address(0), 5) && bans.has(address(1), 5));
        bans.save().unwrap();
        let kept = fs::read_to_string(&path).unwrap();
        assert!(kept.len() < FILE_LEN_MAX as usize);
        fs::write(&path, format!("x 9\nnobody\n127.0.0.9 99999999999999\n{kept}")).unwrap();
        let bans = Bans::load(Some(path), 5);
        assert!(bans.has(address(9), 5) && bans.has(address(77), 5));
        assert!(!bans.has(address(9), 5 + BAN_SECS), "no longer than anybody else");
    }
}
