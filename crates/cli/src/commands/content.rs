//! `sparewire content`: share files and fetch them, for money or for nothing.

mod operate;

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::json;
use sparewire_content::Format;
use sparewire_core::ByteCount;

use crate::{
    content::{
        ContentRequest, Entry, Figures, Library, Order, Recipe, Settings, Source, cost, erase,
        make, meant, read_price,
    },
    hint::Hint,
    home::Home,
    output,
    sharer::Sharer,
};

use self::operate::{Asked, Goal, ask, operate};

/// Share files and fetch them, for money or for nothing: torrents.
#[derive(Debug, Subcommand)]
pub(crate) enum ContentCommand {
    /// Make a .torrent file and a magnet link of a file or folder, and share it.
    Share(ShareArgs),
    /// Fetch what a .torrent file or a magnet link names, then share it.
    Get(GetArgs),
    /// Go on with everything in the library that was not stopped.
    Serve(ServeArgs),
    /// What is shared and fetched here.
    List,
    /// All about one torrent.
    Show {
        /// Its name, or enough of its info-hash.
        torrent: String,
    },
    /// Run a torrent no more, until it is asked for again.
    Stop {
        /// Its name, or enough of its info-hash.
        torrent: String,
    },
    /// Forget a torrent; its files stay.
    Remove {
        /// Its name, or enough of its info-hash.
        torrent: String,
        /// Delete its files, too: those that the torrent names, and nothing else.
        #[arg(long)]
        delete_files: bool,
        /// Do not ask before they are deleted.
        #[arg(long)]
        yes: bool,
    },
}

/// Where a process that runs torrents is reached, and opens its keys.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// TCP address to listen on.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The most that all channels may hold and have spent together, in the token.
    #[arg(long)]
    budget: Option<String>,
    /// A file with the keystore's password; only asked for where something is paid.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

/// Who else has it.
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// A peer to connect to, HOST:PORT; may be given several times.
    #[arg(long = "peer", value_name = "HOST:PORT")]
    peers: Vec<String>,
    /// URL of a tracker; may be given several times.
    #[arg(long = "tracker", value_name = "URL")]
    trackers: Vec<String>,
}

/// For what it is given to others.
#[derive(Debug, Args)]
pub(crate) struct SaleArgs {
    /// Price per GiB in the token, for example 0.02; 0 gives it for nothing.
    #[arg(long)]
    price: Option<String>,
    /// Serve those who do not pay, too.
    #[arg(long)]
    free_for_unpaid: bool,
}

/// Make a .torrent file and a magnet link of a file or folder, and share it.
#[derive(Debug, Args)]
pub(crate) struct ShareArgs {
    /// A file or a folder.
    path: PathBuf,
    #[command(flatten)]
    sale: SaleArgs,
    #[command(flatten)]
    find: FindArgs,
    #[command(flatten)]
    serve: ServeArgs,
    /// Length of pieces, a power of two from 16KiB to 64MiB [default: by size].
    #[arg(long)]
    piece_length: Option<String>,
    /// For old clients alone: without hash trees, so that blocks are judged by whole pieces.
    #[arg(long, conflicts_with = "v2")]
    v1: bool,
    /// For clients of BEP 52 alone.
    #[arg(long)]
    v2: bool,
    /// Peers shall be found by the trackers alone (BEP 27).
    #[arg(long)]
    private: bool,
    /// Where the .torrent file goes [default: beside PATH]. Nothing is overwritten.
    #[arg(long, value_name = "FILE.torrent")]
    out: Option<PathBuf>,
}

/// Fetch what a .torrent file or a magnet link names, then share it.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// A .torrent file or a magnet link.
    torrent: String,
    /// The folder in which its files are put [default: this one, or where they are already].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// The dearest price per GiB that is paid, in the token. What is for nothing is taken first.
    /// What was fetched is then sold at this price, unless --price names another.
    #[arg(long)]
    max_price: Option<String>,
    /// Take nothing from those who give it for nothing.
    #[arg(long)]
    no_allow_free: bool,
    /// End when it is there.
    #[arg(long)]
    no_seed: bool,
    #[command(flatten)]
    sale: SaleArgs,
    #[command(flatten)]
    find: FindArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

impl ContentCommand {
    /// Whether it leaves the data directory as it is.
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. })
    }
}

pub(crate) async fn run(command: ContentCommand, home: Home, json: bool) -> Result<()> {
    match command {
        ContentCommand::Share(args) => share(args, home, json).await,
        ContentCommand::Get(args) => get(args, home, json).await,
        ContentCommand::Serve(args) => serve(args, home, json).await,
        ContentCommand::List => list(&home, json).await,
        ContentCommand::Show { torrent } => show(&home, &torrent, json).await,
        ContentCommand::Stop { torrent } => stop(&home, torrent, json).await,
        ContentCommand::Remove { torrent, delete_files, yes } => {
            remove(&home, &torrent, delete_files, yes, json).await
        }
    }
}

// --- share, get, serve ---------------------------------------------------------------------------

async fn share(args: ShareArgs, home: Home, json: bool) -> Result<()> {
    let home = args.serve.applied(home);
    let piece_len = args.piece_length.as_deref().map(ByteCount::parse).transpose();
    let piece_len = piece_len.context("--piece-length")?;
    let recipe = Recipe {
        format: match (args.v1, args.v2) {
            (true, _) => Format::V1,
            (_, true) => Format::V2,
            _ => Format::Hybrid,
        },
        // What does not fit is refused as too long.
        piece_len: piece_len.map(|len| u32::try_from(len.get()).unwrap_or(u32::MAX)),
        trackers: args.find.trackers.clone(),
        private: args.private,
        out: args.out,
    };
    let settings = settings(&home, &args.sale, &args.find)?;
    // Ordinary clients come where something is given for nothing.
    let others = settings.free && recipe.format == Format::Hybrid;
    let bar = bar("hashing", json);
    let (hashing, path) = (bar.clone(), args.path);
    let made = tokio::task::spawn_blocking(move || {
        make(&path, &recipe, &|done, total| {
            hashing.set_length(total);
            hashing.set_position(done);
        })
    });
    let made = made.await?;
    bar.finish_and_clear();
    let made = made?;
    let magnet = made.metainfo.magnet().to_string();
    let file = made.file.display().to_string();
    let order = Order {
        source: Source::File(made.file),
        root: Some(made.root.clone()),
        otherwise: made.root,
        settings: Settings { seed: true, ..settings },
    };
    let ready = move |key: &str, listen: Option<SocketAddr>| {
        if json {
            let document = json!({
                "info_hash": key, "torrent": file, "magnet": magnet, "listen": listen,
            });
            return output::json(&document);
        }
        output::out!("{magnet}");
        eprintln!("made {file}");
        if others {
            eprintln!(
                "for clients that read no hybrid torrents (transmission 3, aria2 1.36) make it with --v1"
            );
        }
        if let Some(listen) = listen {
            eprintln!("listening at {listen}");
        }
        Ok(())
    };
    let password_file = args.serve.password_file.as_deref();
    operate(&home, order, password_file, json, Goal::Share, ready).await
}

async fn get(args: GetArgs, home: Home, json: bool) -> Result<()> {
    let home = args.serve.applied(home);
    let config = &home.config.content;
    let price_max = match &args.max_price {
        Some(text) => read_price("--max-price", text)?,
        None => read_price("[content] price_max", &config.price_max)?,
    };
    ensure!(
        price_max.is_some() || !args.no_allow_free,
        Hint::new("nothing may be paid, and nothing is to be taken for nothing")
            .hint("give --max-price, or leave --no-allow-free away")
    );
    let mut settings = Settings {
        take_free: !args.no_allow_free,
        price_max,
        seed: !args.no_seed,
        ..settings(&home, &args.sale, &args.find)?
    };
    let to_all = args.sale.free_for_unpaid || config.free_for_unpaid;
    let said = args.sale.price.is_some() || !config.price.trim().is_empty();
    let sold_on = settings.sell_on(said, to_all);
    let source = match args.torrent.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("magnet:") => Source::Magnet(args.torrent),
        _ => {
            let is_address = args.torrent.contains("://") && !Path::new(&args.torrent).exists();
            ensure!(
                !is_address,
                Hint::new(format!("{} is an address, not a file", output::tame(&args.torrent)))
                    .hint("download the .torrent file first, or give a magnet link")
            );
            Source::File(std::path::absolute(&args.torrent)?)
        }
    };
    let here = std::env::current_dir().context("this folder is gone")?;
    let root = args.to.map(|to| made_folder(&to)).transpose()?;
    let order = Order { source, root, otherwise: here, settings };
    let ready = |_: &str, listen: Option<SocketAddr>| {
        if let Some(price) = sold_on {
            eprintln!(
                "what comes is sold at {price} per GiB; --price names another, 0 gives it for nothing"
            );
        }
        if let Some(listen) = listen {
            eprintln!("listening at {listen}");
        }
        Ok(())
    };
    let password_file = args.serve.password_file.as_deref();
    operate(&home, order, password_file, json, Goal::Get, ready).await
}

/// A folder that is there, under its own name.
fn made_folder(path: &Path) -> Result<PathBuf> {
    let cannot = || format!("cannot make {}", path.display());
    std::fs::create_dir_all(path).with_context(cannot)?;
    path.canonicalize().with_context(cannot)
}

async fn serve(args: ServeArgs, home: Home, json: bool) -> Result<()> {
    let home = args.applied(home);
    // Whoever answers runs here.
    ask(&home, ContentRequest::List).await?.or_none()?;
    let library = Library::open(&home.dir)?;
    let settings = library.all()?.into_iter().filter(|entry| !entry.stopped);
    let settings: Vec<Settings> = settings.map(|entry| entry.settings).collect();
    let (sharer, console) = Sharer::open(&home, &settings, args.password_file.as_deref()).await?;
    let host = sharer.host().clone();
    let running = host.run_all().await?;
    let listen = host.listens();
    console.ready(
        json,
        &listen.to_string(),
        &json!({ "listen": listen, "torrents": running }),
        &format!("{running} torrents of {}", home.dir.display()),
    )?;
    let live = if json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let cut = "what is there is kept; the next `sparewire content serve` goes on";
    let run = move |shutdown: tokio_util::sync::CancellationToken| async move {
        while !shutdown.is_cancelled() {
            live.set_message(summary(&host.list().unwrap_or_default()));
            live.tick();
            let pause = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! { () = pause => {}, () = shutdown.cancelled() => {} }
        }
        live.finish_and_clear();
        sharer.end().await;
    };
    console.run(run, "ending…", cut).await
}

/// All that runs in one line.
fn summary(all: &[Figures]) -> String {
    let running = || all.iter().filter(|figures| !figures.state.is_over());
    let sent = running().map(|figures| figures.sent).sum();
    let peers: usize = running().map(|figures| figures.peers).sum();
    let mut line =
        format!("{} torrents, {} sent, {peers} peers", running().count(), ByteCount::new(sent));
    if let Some(token) = running().find_map(|figures| figures.token.as_ref()) {
        let earned = running().fold(sparewire_core::Amount::ZERO, |sum, figures| {
            sum.checked_add(figures.earned).unwrap_or(sparewire_core::Amount::MAX)
        });
        line += &format!(", {} earned", output::amount(earned, token));
    }
    line
}

impl ServeArgs {
    /// What flags say goes before the configuration.
    fn applied(&self, mut home: Home) -> Home {
        home.config.content.listen = self.listen.unwrap_or(home.config.content.listen);
        if let Some(budget) = &self.budget {
            home.config.consumer.budget.clone_from(budget);
        }
        home
    }
}

fn settings(home: &Home, sale: &SaleArgs, find: &FindArgs) -> Result<Settings> {
    let config = &home.config.content;
    let price = match &sale.price {
        Some(text) => read_price("--price", text)?,
        None => read_price("[content] price", &config.price)?,
    };
    Ok(Settings {
        free: price.is_none() || sale.free_for_unpaid || config.free_for_unpaid,
        price,
        take_free: true,
        price_max: None,
        seed: true,
        peers: find.peers.clone(),
        trackers: find.trackers.clone(),
    })
}

fn bar(what: &'static str, json: bool) -> ProgressBar {
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
    bar.set_message(what);
    bar
}

// --- list, show, stop, remove --------------------------------------------------------------------

async fn list(home: &Home, json: bool) -> Result<()> {
    let all: Vec<Figures> = match ask(home, ContentRequest::List).await? {
        Asked::Answer(told) => serde_json::from_value(told)?,
        Asked::Busy | Asked::Nobody => {
            let library = Library::look(&home.dir);
            library.all()?.iter().map(|entry| library.figures(entry)).collect()
        }
    };
    if json {
        return output::json(&all);
    }
    for figures in &all {
        output::out!(
            "{}  {:<11} {:>4}  {:>10}  {}",
            &figures.info_hash[..figures.info_hash.len().min(8)],
            figures.state.word(),
            percent(figures),
            ByteCount::new(figures.total).to_string(),
            output::tame(&figures.name)
        );
    }
    if all.is_empty() && !home.dir.exists() {
        eprintln!("nothing is shared or fetched here: there is no {}", home.dir.display());
    } else if all.is_empty() {
        eprintln!("nothing is shared or fetched here");
    }
    Ok(())
}

fn percent(figures: &Figures) -> String {
    match figures.total {
        0 => "-".into(),
        // Rounded down: 100% is all.
        total => format!("{}%", u128::from(figures.have) * 100 / u128::from(total)),
    }
}

/// Figures of one torrent, from whoever knows.
async fn figures(home: &Home, which: &str) -> Result<Figures> {
    match ask(home, ContentRequest::Show(which.to_owned())).await? {
        Asked::Answer(told) => Ok(Figures::deserialize(told)?),
        Asked::Busy | Asked::Nobody => {
            let library = Library::look(&home.dir);
            Ok(library.figures(meant(&library.all()?, which)?))
        }
    }
}

async fn show(home: &Home, which: &str, json: bool) -> Result<()> {
    let figures = figures(home, which).await?;
    if json {
        return output::json(&figures);
    }
    let line = |what: &str, value: String| output::out!("{what:<10} {value}");
    let bytes = |bytes: u64| output::bytes(ByteCount::new(bytes));
    line("name", output::tame(&figures.name));
    line("info-hash", figures.info_hash.clone());
    line("state", figures.state.word().into());
    if let Some(trouble) = &figures.trouble {
        line("trouble", output::tame(trouble));
    }
    line("folder", figures.root.display().to_string());
    line("files", figures.files.to_string());
    line("there", format!("{} of {}", bytes(figures.have), bytes(figures.total)));
    if !figures.state.is_over() {
        line("sent", bytes(figures.sent));
        line("received", bytes(figures.got));
        line("peers", format!("{}; {}", figures.peers, figures.searching));
        if let Some(token) = &figures.token {
            let since = "since this process began to run it";
            line("paid", format!("{}, {since}", cost(&figures)));
            line("earned", format!("{}, {since}", output::amount(figures.earned, token)));
        }
    }
    if figures.spoilt > 0 {
        line("changed", format!("{} times its files were not as they had been", figures.spoilt));
    }
    let settings = &figures.settings;
    let price = settings.price.as_ref().map(|price| format!("{price} per GiB"));
    let price = price.unwrap_or_else(|| "nothing".into());
    let free = settings.price.is_some() && settings.free;
    let others = if free { "; for nothing to who does not pay" } else { "" };
    line("given for", format!("{price}{others}"));
    if let Some(price_max) = &settings.price_max {
        line("taken for", format!("at most {price_max} per GiB"));
    }
    line("magnet", figures.magnet.clone());
    Ok(())
}

/// Opens the library to change it, as the only process that does.
fn alone(home: &Home) -> Result<(Library, Arc<dyn sparewire_node::store::Store>)> {
    let lock = home.store()?;
    Ok((Library::open(&home.dir)?, lock))
}

async fn stop(home: &Home, which: String, json: bool) -> Result<()> {
    let asked = ask(home, ContentRequest::Stop(which.clone())).await?;
    asked.or_busy()?;
    let figures = match asked {
        Asked::Answer(told) => Figures::deserialize(told)?,
        Asked::Busy | Asked::Nobody => {
            let (library, _lock) = alone(home)?;
            let mut entry: Entry = meant(&library.all()?, &which)?.clone();
            entry.stopped = true;
            library.update(&entry)?;
            library.figures(&entry)
        }
    };
    if json {
        return output::json(&figures);
    }
    eprintln!("stopped {}; `sparewire content get` runs it again", output::tame(&figures.name));
    Ok(())
}

async fn remove(home: &Home, which: &str, delete: bool, yes: bool, json: bool) -> Result<()> {
    let figures = figures(home, which).await?;
    let name = output::tame(&figures.name);
    let key = figures.info_hash.clone();
    let library = Library::open(&home.dir)?;
    let mut to_delete = None;
    if delete {
        let entries = library.all()?;
        // Of a link whose torrent is not known there are no files.
        if let Ok(entry) = meant(&entries, &key) {
            let question = format!(
                "delete {} ({} files of {name} below {})?",
                output::bytes(ByteCount::new(figures.total)),
                figures.files,
                figures.root.display()
            );
            ensure!(yes || confirmed(&question)?, "nothing was removed");
            to_delete = Some((entry.root.clone(), library.torrent(entry)?));
        }
    }
    let asked = ask(home, ContentRequest::Remove(key.clone())).await?;
    asked.or_busy()?;
    if !matches!(asked, Asked::Answer(_)) {
        let (library, _lock) = alone(home)?;
        library.remove(meant(&library.all()?, &key)?)?;
    }
    let erased = match &to_delete {
        Some((root, metainfo)) => erase(root, metainfo)
            .with_context(|| format!("{name} is forgotten, but not all files are deleted"))?,
        None => Default::default(),
    };
    if json {
        return output::json(&json!({
            "info_hash": key, "deleted": erased.files, "kept": erased.kept,
        }));
    }
    match to_delete {
        None => eprintln!("forgot {name}; its files stay in {}", figures.root.display()),
        Some(_) => eprintln!("forgot {name} and deleted {} files", erased.files),
    }
    if erased.kept > 0 {
        eprintln!("{} were left alone: something else is in their place", erased.kept);
    }
    Ok(())
}

/// Asks a person.
fn confirmed(question: &str) -> Result<bool> {
    ensure!(
        std::io::stdin().is_terminal(),
        Hint::new("nobody is there to be asked whether files are to be deleted")
            .hint("give --yes where you are sure")
    );
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
