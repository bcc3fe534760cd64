//! A running process that shares and fetches torrents, as people and programs see it.

use std::{path::Path, sync::Arc};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use sparewire_node::store::Store;

use crate::{
    assemble,
    console::{Console, Shown},
    content::{ContentRequest, Figures, Host, Library},
    descriptors,
    hint::Hint,
    home::Home,
    metrics::{self, Figure},
};

/// Runs torrents of one data directory, and answers for it.
#[derive(Clone)]
pub(crate) struct Sharer {
    host: Host,
    /// Its lock says that nobody else runs here.
    _store: Arc<dyn Store>,
}

impl Sharer {
    /// Opens the data directory as the one process that runs torrents there. Where nothing is paid
    /// it needs neither keys nor a chain.
    pub(crate) async fn open(
        home: &Home,
        needs_money: bool,
        _password_file: Option<&Path>,
    ) -> Result<(Self, Console)> {
        if needs_money {
            bail!("torrents are not paid for yet");
        }
        let config = &home.config.content;
        let metrics_at = metrics::addr(None, &home.config.metrics)?;
        let connections = config.connections_max;
        descriptors::raise(connections, &format!("{connections} connections"));
        let store = home.store()?;
        let engine = assemble::engine(config)?;
        let host = Host::start(Library::open(&home.dir)?, engine).await?;
        let this = Self { host, _store: store };
        let console = Console::open(home, metrics_at, this.clone(), None).await?;
        Ok((this, console))
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Ends all torrents.
    pub(crate) async fn end(&self) {
        self.host.shut_down().await;
    }
}

impl Shown for Sharer {
    fn status(&self) -> Result<Value> {
        let torrents = self.host.list()?;
        Ok(json!({ "role": "content", "listen": self.host.listens(), "torrents": torrents }))
    }

    fn figures(&self) -> Vec<Figure> {
        let all = self.host.list().unwrap_or_default();
        let sum = |of: &dyn Fn(&Figures) -> u64| all.iter().map(of).sum::<u64>() as f64;
        vec![
            Figure {
                name: "content_torrents",
                help: "Torrents in the library",
                value: all.len() as f64,
            },
            Figure {
                name: "content_peers",
                help: "Connections of all torrents",
                value: sum(&|figures| figures.peers as u64),
            },
            Figure {
                name: "content_sent_bytes",
                help: "Bytes of blocks sent by torrents that run",
                value: sum(&|figures| figures.sent),
            },
            Figure {
                name: "content_received_bytes",
                help: "Bytes of blocks received by torrents that run",
                value: sum(&|figures| figures.got),
            },
        ]
    }

    async fn settle(&self) -> Result<Value> {
        bail!(
            Hint::new("the process that runs here gives for nothing, and has no keys open")
                .hint("stop it, then settle")
        )
    }

    async fn plan(&self) -> Result<Value> {
        self.settle().await
    }

    async fn content(&self, request: ContentRequest) -> Result<Value> {
        self.host.answer(request).await
    }
}
