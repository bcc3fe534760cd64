//! How a torrent's progress is shown to people, on stderr.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use sparewire_core::{Amount, ByteCount};

use super::{Figures, State};
use crate::output;

/// How long nothing may happen before it is said what is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// One torrent on the terminal. Where stderr is none, only what changes is said.
pub(crate) struct Display {
    bar: ProgressBar,
    state: Option<State>,
    /// What was there last, and since when it has not changed.
    last: (u64, Instant),
    /// What was sent until when, for the rate.
    sent: (u64, Instant),
    rate: u64,
    said: Option<String>,
}

impl Display {
    /// A `quiet` one only talks.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let now = Instant::now();
        Self { bar, state: None, last: (0, now), sent: (0, now), rate: 0, said: None }
    }

    /// Shows where it stands now.
    pub(crate) fn update(&mut self, figures: &Figures) {
        if self.state != Some(figures.state) {
            self.enter(figures);
        }
        match figures.state {
            State::Downloading => {
                self.bar.set_position(figures.have);
                self.bar.set_message(match figures.settings.price_max {
                    Some(_) => format!("{} peers, {} paid", figures.peers, cost(figures)),
                    None => format!("{} peers", figures.peers),
                });
                self.wait(figures);
            }
            State::Seeding => {
                let elapsed = self.sent.1.elapsed();
                if elapsed >= Duration::from_secs(1) {
                    let new = figures.sent.saturating_sub(self.sent.0) as f64;
                    self.rate = (new / elapsed.as_secs_f64()) as u64;
                    self.sent = (figures.sent, Instant::now());
                }
                self.bar.set_message(seeding(figures, self.rate));
            }
            _ => self.bar.tick(),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes something else meanwhile.
    pub(crate) fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    fn say(&mut self, line: String) {
        if self.said.as_ref() != Some(&line) {
            self.bar.suspend(|| eprintln!("{line}"));
            self.said = Some(line);
        }
    }

    fn enter(&mut self, figures: &Figures) {
        let before = self.state.replace(figures.state);
        // It may be over before it is looked at.
        let is_over = matches!(figures.state, State::Seeding | State::Stopped | State::Resting);
        if is_over && before != Some(State::Downloading) && figures.got > 0 {
            self.say(begun(figures));
        }
        self.last = (figures.have, Instant::now());
        self.sent = (figures.sent, Instant::now());
        let name = output::tame(&figures.name);
        let style = match figures.state {
            State::Downloading => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
            _ => "{spinner} {msg}",
        };
        self.bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
        self.bar.set_length(figures.total);
        self.bar.set_position(figures.have);
        self.bar.reset_eta();
        match figures.state {
            State::Looking => {
                self.say(format!("looking for the torrent of the link ({})…", figures.searching));
            }
            State::Checking => self.bar.set_message(format!("checking what is there of {name}")),
            State::Downloading => self.say(begun(figures)),
            State::Seeding => self.say(format!(
                "sharing {name}: {}{}",
                output::bytes(ByteCount::new(figures.total)),
                terms(figures)
            )),
            State::Failed => {
                let trouble = figures.trouble.as_deref().unwrap_or("it failed");
                self.say(format!("{name} stands still: {}", output::tame(trouble)));
            }
            State::Stopped | State::Resting => {}
        }
    }

    /// Says what is waited for where nothing has come for a while.
    fn wait(&mut self, figures: &Figures) {
        if figures.have != self.last.0 {
            self.last = (figures.have, Instant::now());
        }
        if self.last.1.elapsed() < PATIENCE {
            return;
        }
        let searching = &figures.searching;
        let line = match (figures.peers, &figures.trouble) {
            (_, Some(trouble)) => format!("waiting: {}", output::tame(trouble)),
            (0, None) => format!("nobody has it so far: waiting for peers ({searching})"),
            (_, None) => format!(
                "none of the connected peers gives what is missing: waiting for others ({searching})"
            ),
        };
        self.say(line);
    }
}

/// What a download began with.
fn begun(figures: &Figures) -> String {
    let (name, folder) = (output::tame(&figures.name), figures.root.display());
    let total = ByteCount::new(figures.total);
    match figures.had {
        0 => format!("downloading {name} to {folder}: {}", output::bytes(total)),
        had => format!(
            "going on with {name} in {folder}: {} of {total} are there",
            ByteCount::new(had)
        ),
    }
}

/// What sharing has come to.
fn seeding(figures: &Figures, rate: u64) -> String {
    let mut line = format!(
        "{} sent ({}/s), {} peers",
        ByteCount::new(figures.sent),
        ByteCount::new(rate),
        figures.peers
    );
    if let Some(token) = &figures.token {
        line += &format!(", {} earned", output::amount(figures.earned, token));
    }
    line
}

fn terms(figures: &Figures) -> String {
    match (&figures.settings.price, figures.settings.free) {
        (None, _) => ", for nothing".into(),
        (Some(price), false) => format!(", at {price} per GiB"),
        (Some(price), true) => format!(", at {price} per GiB, and for nothing to who does not pay"),
    }
}

/// What was paid so far, and for each GiB that came.
pub(crate) fn cost(figures: &Figures) -> String {
    let Some(token) = &figures.token else { return "nothing".into() };
    let per_gib = figures.paid.get().saturating_mul(1 << 30) / u128::from(figures.got.max(1));
    let per_gib = Amount::new(rounded(per_gib)).unwrap_or(Amount::MAX);
    format!("{} ({} per GiB)", output::amount(figures.paid, token), per_gib.display(token.decimals))
}

/// To four digits: for people, nobody is paid by it.
fn rounded(units: u128) -> u128 {
    let mut step = 1;
    while units / step >= 10_000 {
        step *= 10;
    }
    units.saturating_add(step / 2) / step * step
}

/// What a torrent has come to since the process began to run it: bytes that came and went, and the
/// money for them. `None` where nothing moved.
pub(crate) fn account(figures: &Figures) -> Option<String> {
    let mut parts = Vec::new();
    if figures.got > 0 {
        parts.push(format!("{} came", ByteCount::new(figures.got)));
        let paid = if figures.paid > Amount::ZERO { cost(figures) } else { "nothing".into() };
        parts.push(format!("{paid} paid"));
    }
    if figures.sent > 0 {
        parts.push(format!("{} sent", ByteCount::new(figures.sent)));
        let earned = figures.token.as_ref().filter(|_| figures.earned > Amount::ZERO);
        let earned = earned.map(|token| output::amount(figures.earned, token));
        parts.push(format!("{} earned", earned.unwrap_or_else(|| "nothing".into())));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn figures_for_people_have_four_digits() {
        for (units, shown) in [(0, 0), (9_999, 9_999), (12_345, 12_350), (99_996, 100_000)] {
            assert_eq!(rounded(units), shown);
        }
        assert_eq!(rounded(1_000_000_170), 1_000_000_000);
        assert!(rounded(u128::MAX) > u128::MAX / 2);
    }
}
