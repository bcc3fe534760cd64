//! A running process that shares and fetches torrents, as people and programs see it.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use serde_json::{Value, json};
use sparewire_core::Amount;
use sparewire_node::store::Store;
use sparewire_protocol::Role;
use tokio_util::sync::CancellationToken;

use crate::{
    assemble, backup,
    commands::{provide::promised, settle::Settled},
    console::{Console, Shown},
    content::{ContentRequest, Figures, Host, Library, Purse, Settings},
    descriptors,
    hint::Hint,
    home::Home,
    metrics::{self, Figure},
};

/// Runs torrents of one data directory, and answers for it.
#[derive(Clone)]
pub(crate) struct Sharer {
    host: Host,
    purse: Option<Purse>,
    /// Its lock says that nobody else runs here.
    store: Arc<dyn Store>,
    /// Ends what claims by itself.
    asleep: CancellationToken,
}

impl Sharer {
    /// Opens the data directory as the one process that runs torrents there, with these settings at
    /// first. Where nothing is paid it needs neither keys nor a chain.
    pub(crate) async fn open(
        home: &Home,
        settings: &[Settings],
        password_file: Option<&Path>,
    ) -> Result<(Self, Console)> {
        let config = &home.config.content;
        let metrics_at = metrics::addr(None, &home.config.metrics)?;
        let connections = config.connections_max;
        descriptors::raise(connections, &format!("{connections} connections"));
        let engine = assemble::engine(config)?;
        let (store, purse, carrier) = if settings.iter().any(Settings::needs_money) {
            let (purse, side, carrier) = Purse::open(home, settings.iter(), password_file).await?;
            backup::remind(home);
            (side.store, Some(purse), Some(carrier))
        } else {
            (home.store()?, None, None)
        };
        let host = Host::start(Library::open(&home.dir)?, engine, purse.clone()).await?;
        let asleep = CancellationToken::new();
        let this = Self { host, purse, store, asleep };
        let console = Console::open(home, metrics_at, this.clone(), carrier).await?;
        if let Some(purse) = &this.purse {
            let (seller, asleep) = (Arc::clone(&purse.seller), this.asleep.clone());
            tokio::spawn(async move { seller.watch(asleep).await });
        }
        Ok((this, console))
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Ends all torrents, settles their sessions, and claims where the configuration says so.
    pub(crate) async fn end(&self) {
        self.host.shut_down().await;
        self.asleep.cancel();
        if let Some(purse) = &self.purse {
            purse.seller.shut_down().await;
        }
    }

    fn selling(&self) -> Result<&Purse> {
        let nothing = || {
            Hint::new("the process that runs here gives for nothing, and has no keys open")
                .hint("stop it, then settle")
        };
        Ok(self.purse.as_ref().ok_or_else(nothing)?)
    }
}

impl Shown for Sharer {
    fn status(&self) -> Result<Value> {
        let mut status = json!({
            "role": "content", "listen": self.host.listens(), "torrents": self.host.list()?,
        });
        if let Some(purse) = &self.purse {
            status["wallet"] = serde_json::to_value(purse.wallet)?;
            status["payee"] = serde_json::to_value(purse.delegation.wallet)?;
            status["delegation_expiry"] = purse.delegation.expiry_secs.into();
            status["token"] = serde_json::to_value(&purse.token)?;
            status["promised"] = serde_json::to_value(promised(&*self.store, Role::Payee)?)?;
            status["spent"] = serde_json::to_value(promised(&*self.store, Role::Payer)?)?;
            status["leaving"] = serde_json::to_value(purse.seller.settler().leaving())?;
        }
        Ok(status)
    }

    fn figures(&self) -> Vec<Figure> {
        let all = self.host.list().unwrap_or_default();
        let sum = |of: &dyn Fn(&Figures) -> u64| all.iter().map(of).sum::<u64>() as f64;
        let money = |of: &dyn Fn(&Figures) -> Amount| {
            all.iter().map(|figures| of(figures).get() as f64).sum::<f64>()
        };
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
            Figure {
                name: "content_earned_units",
                help: "Earned by torrents that run, in the token's smallest unit",
                value: money(&|figures| figures.earned),
            },
            Figure {
                name: "content_paid_units",
                help: "Paid for torrents that run, in the token's smallest unit",
                value: money(&|figures| figures.paid),
            },
        ]
    }

    async fn settle(&self) -> Result<Value> {
        let settled = self.selling()?.seller.settler().settle().await;
        Ok(serde_json::to_value(Settled::from(settled))?)
    }

    async fn plan(&self) -> Result<Value> {
        Ok(serde_json::to_value(self.selling()?.seller.settler().plan().await?)?)
    }

    async fn content(&self, request: ContentRequest) -> Result<Value> {
        self.host.answer(request).await
    }
}
