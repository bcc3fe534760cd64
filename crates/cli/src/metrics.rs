//! Prometheus metrics of a running node.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};

use crate::config::MetricsConfig;

/// Where metrics are served: `--metrics`, else the configuration's.
pub(crate) fn addr(flag: Option<SocketAddr>, config: &MetricsConfig) -> Result<Option<SocketAddr>> {
    match (flag, config.listen.as_str()) {
        (Some(addr), _) => Ok(Some(addr)),
        (None, "") => Ok(None),
        (None, text) => text.parse().map(Some).context("[metrics] listen"),
    }
}

/// One figure of a node.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: f64,
}

/// Asks a node for its figures at each scrape, so that there is no second truth.
pub(crate) struct Figures(pub(crate) Arc<dyn Fn() -> Vec<Figure> + Send + Sync>);

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for figure in (self.0)() {
            let gauge = ConstGauge::new(figure.value);
            let metric =
                encoder.encode_descriptor(figure.name, figure.help, None, MetricType::Gauge)?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

/// Serves `/metrics` until dropped.
pub(crate) struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the figures at `addr`; port 0 takes a free one.
pub(crate) async fn serve(addr: SocketAddr, figures: Figures) -> Result<(SocketAddr, Server)> {
    let listener = tokio::net::TcpListener::bind(addr).await.with_context(|| {
        format!("cannot serve metrics on {addr}; choose another [metrics] listen")
    })?;
    let addr = listener.local_addr()?;
    let mut registry = Registry::with_prefix("sparewire");
    registry.register_collector(Box::new(figures));
    let registry = Arc::new(registry);
    let scrape = move || {
        let registry = Arc::clone(&registry);
        async move {
            let mut text = String::new();
            // Writing to a string fails only where a collector does, and ours does not.
            let _ = encode(&mut text, &registry);
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], text)
        }
    };
    let app = Router::new().route("/metrics", get(scrape));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the metrics server ended");
        }
    });
    Ok((addr, Server(task)))
}
