//! A torrent that a command has run, and follows: by the process that runs on the data directory,
//! or by this one.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sparewire_core::ByteCount;
use sparewire_node::store::StoreError;

use crate::{
    content::{ContentRequest, Display, Figures, Library, Order, State, account, meant},
    control::{self, Request},
    hint::Hint,
    home::Home,
    output,
    sharer::Sharer,
};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long whoever handed a torrent over gets to see that it is done, before the process ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long another process that holds the data directory may take until it can be asked.
const HANDING: Duration = Duration::from_secs(10);

/// What a command wants before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Share,
    Get,
}

/// Has a torrent run: by the process that runs here, or by this one.
pub(super) async fn operate(
    home: &Home,
    order: Order,
    password_file: Option<&Path>,
    json: bool,
    goal: Goal,
    ready: impl FnOnce(&str, Option<SocketAddr>) -> Result<()>,
) -> Result<()> {
    let display = Display::new(json);
    let mut watch = Watch { display, goal, json, told: false, accounted: None };
    let settings = std::slice::from_ref(&order.settings);
    let until = Instant::now() + HANDING;
    let (sharer, console) = loop {
        let handed = ask(home, ContentRequest::Run(Box::new(order.clone()))).await?;
        if let Asked::Answer(key) = handed {
            let key = String::deserialize(key)?;
            ready(&key, None)?;
            eprintln!("the sparewire process that runs here does it; Ctrl-C leaves it to that");
            return watch.follow_afar(home, &key).await;
        }
        handed.or_busy()?;
        match Sharer::open(home, settings, password_file).await {
            // Another begins or ends just now. The store is opened first, so nothing was asked.
            Err(error) if is_in_use(&error) && Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
            }
            opened => break opened?,
        }
    };
    let host = sharer.host().clone();
    let key = match host.run(order).await {
        Ok(key) => key,
        Err(error) => {
            sharer.end().await;
            return Err(error);
        }
    };
    ready(&key, Some(host.listens()))?;
    let cut = "what is there is kept; the same command goes on";
    let run = move |shutdown: tokio_util::sync::CancellationToken| async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = host.idle(FAREWELL) => {}
            () = async {
                loop {
                    if let Ok(figures) = host.show(&key) {
                        watch.update(&figures);
                    }
                    tokio::time::sleep(LOOK).await;
                }
            } => {}
        }
        let mut last = host.show(&key);
        watch.display.end();
        if let Ok(last) = &last {
            watch.update(last);
        }
        watch.display.end();
        let torrent = host.torrent(&key);
        sharer.end().await;
        if let Ok(last) = &mut last {
            // What was under way is paid as its sessions settle.
            if let Some(torrent) = torrent {
                last.count(&torrent.status());
            }
            watch.account(last);
        }
        last.and_then(|last| watch.verdict(&last))
    };
    console.run(run, "ending…", cut).await?
}

/// Whether another process holds the store.
fn is_in_use(error: &anyhow::Error) -> bool {
    let in_use = |cause: &StoreError| matches!(cause, StoreError::InUse { .. });
    error.chain().any(|cause| cause.downcast_ref().is_some_and(in_use))
}

/// One torrent that a command waits for.
struct Watch {
    display: Display,
    goal: Goal,
    json: bool,
    /// That it is there was told.
    told: bool,
    /// What was said last of bytes and money.
    accounted: Option<String>,
}

impl Watch {
    fn update(&mut self, figures: &Figures) {
        self.display.update(figures);
        if self.goal == Goal::Get && !self.told && is_there(figures) {
            self.tell(figures, json!(figures.got), json!(figures.paid));
            self.account(figures);
        }
    }

    /// Tells that it is there, and what came and was paid for it; null where that is not known.
    fn tell(&mut self, figures: &Figures, got: Value, paid: Value) {
        self.told = true;
        let path = figures.root.join(&figures.name);
        if self.json {
            let document = json!({
                "info_hash": figures.info_hash, "path": path, "bytes": figures.total,
                "got": got, "paid": paid,
            });
            let _ = output::json(&document); // it is always JSON
        } else {
            self.display.aside(|| output::out!("{}", path.display()));
        }
    }

    /// Says what came, and what was paid and earned, unless that was said.
    fn account(&mut self, figures: &Figures) {
        let line = account(figures);
        if line.is_some() && line != self.accounted {
            self.display.aside(|| eprintln!("{}", line.as_deref().unwrap_or_default()));
            self.accounted = line;
        }
    }

    /// Follows what another process does, until the goal is met.
    async fn follow_afar(&mut self, home: &Home, key: &str) -> Result<()> {
        let mut state = None;
        loop {
            let Asked::Answer(figures) = ask(home, ContentRequest::Show(key.to_owned())).await?
            else {
                self.display.end();
                // Perhaps because it was done. What it came to nobody can say any more.
                if let Some(last) = done(home, key).filter(|_| self.goal == Goal::Get) {
                    self.tell(&last, Value::Null, Value::Null);
                    return Ok(());
                }
                bail!(Hint::new("the sparewire process that ran it has ended").hint(goes_on(state)))
            };
            let figures = Figures::deserialize(figures)?;
            state = Some(figures.state);
            self.update(&figures);
            let met = match self.goal {
                Goal::Share => figures.state == State::Seeding,
                Goal::Get => self.told,
            };
            if met || figures.state.is_over() {
                self.display.end();
                self.account(&figures);
                return self.verdict(&figures);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How it has ended.
    fn verdict(&self, last: &Figures) -> Result<()> {
        if let (State::Failed, Some(trouble)) = (last.state, &last.trouble) {
            bail!("{}", output::tame(trouble));
        }
        if last.state == State::Looking {
            bail!(
                Hint::new("nobody has told yet what the link names, so that nothing is kept")
                    .hint(goes_on(Some(last.state)))
            );
        }
        if self.goal == Goal::Get && !self.told {
            bail!(
                Hint::new(format!(
                    "{} is not complete: {} of {} are there",
                    output::tame(&last.name),
                    ByteCount::new(last.have),
                    ByteCount::new(last.total)
                ))
                .hint(goes_on(Some(last.state)))
            );
        }
        Ok(())
    }
}

/// A torrent of the library that is all there and is not to be shared on.
fn done(home: &Home, key: &str) -> Option<Figures> {
    let library = Library::look(&home.dir);
    let last = library.figures(meant(&library.all().ok()?, key).ok()?);
    (last.total > 0 && last.have == last.total && !last.settings.seed).then_some(last)
}

/// What goes on with a torrent that was in this state.
fn goes_on(state: Option<State>) -> &'static str {
    match state {
        // The library knows torrents, not links.
        Some(State::Looking) | None => "give the same command again",
        Some(_) => "the same command, or `sparewire content serve`, goes on",
    }
}

/// Whether all is there, and, where it is not shared on, paid.
fn is_there(figures: &Figures) -> bool {
    let settled = match figures.state {
        State::Seeding => figures.settings.seed,
        State::Stopped => true,
        _ => false,
    };
    settled && figures.total > 0 && figures.have == figures.total
}

// --- the process that runs here ------------------------------------------------------------------

/// What came of a question to the process that runs on this data directory.
pub(super) enum Asked {
    Answer(Value),
    /// It has nothing to do with torrents.
    Busy,
    /// There is none.
    Nobody,
}

impl Asked {
    /// Fails where another process has the data directory.
    pub(super) fn or_busy(&self) -> Result<()> {
        match self {
            Self::Busy => bail!(
                Hint::new("another sparewire process runs on this data directory")
                    .hint("stop it, or give the torrents a --data-dir of their own")
            ),
            _ => Ok(()),
        }
    }

    /// The same where one that runs torrents is in the way, too.
    pub(super) fn or_none(&self) -> Result<()> {
        ensure!(
            !matches!(self, Self::Answer(_)),
            "a process runs the torrents of this data directory already"
        );
        self.or_busy()
    }
}

pub(super) async fn ask(home: &Home, request: ContentRequest) -> Result<Asked> {
    Ok(match control::ask(&home.control_path(), Request::Content(request)).await? {
        None => Asked::Nobody,
        Some(Value::Null) => Asked::Busy,
        Some(answer) => Asked::Answer(answer),
    })
}
