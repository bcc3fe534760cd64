//! HTTP trackers: asked again and again, and believed in nothing but that somebody may be there.

use std::{
    net::SocketAddr,
    sync::{Arc, Once},
    time::Duration,
};

use sparewire_content::{Announce, TRACKER_ANSWER_LEN_MAX, TrackerError, tracked_peers};
use tokio::sync::mpsc;
use url::Url;

use crate::exit::is_public;

/// How long a tracker may take for its answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Pauses between questions that were not answered, doubling.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Why a tracker named nobody.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpTrackerError {
    #[error("it cannot be asked: {0}")]
    Http(#[from] reqwest::Error),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("its answer is longer than {TRACKER_ANSWER_LEN_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Answer(#[from] TrackerError),
}

/// Who asks HTTP trackers.
#[derive(Clone, Debug)]
pub(super) struct HttpTrackers {
    client: reqwest::Client,
}

impl HttpTrackers {
    /// Those whose addresses are not public are not asked, unless `private_addresses`: not by a name,
    /// and not by being sent on.
    pub(super) fn new(private_addresses: bool) -> Result<Self, reqwest::Error> {
        static PROVIDER: Once = Once::new();
        // Only where nobody chose before; losing that race is as good.
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sparewire/", env!("CARGO_PKG_VERSION")));
        if private_addresses {
            // A proxy that the environment names cannot reach our own network.
            builder = builder.no_proxy();
        } else {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        Ok(Self { client: builder.build()? })
    }

    /// Asks a tracker, and says whom it names.
    async fn ask(
        &self,
        tracker: &Url,
        announce: &Announce,
    ) -> Result<Vec<SocketAddr>, HttpTrackerError> {
        let mut url = tracker.clone();
        let query = announce.query();
        let query = match tracker.query() {
            Some(own) => format!("{query}&{own}"),
            None => query,
        };
        url.set_query(Some(&query));
        let mut response = self.client.get(url).send().await?;
        if !response.status().is_success() {
            return Err(HttpTrackerError::Status(response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await? {
            if answer.len() + part.len() > TRACKER_ANSWER_LEN_MAX {
                return Err(HttpTrackerError::TooLong);
            }
            answer.extend_from_slice(&part);
        }
        Ok(tracked_peers(&answer)?)
    }

    /// Asks a tracker `every` so often, whatever it says about that (an interval of 0 would have us
    /// ask without end), with what is to be said `now`. Ends when nobody wants to know whom it `named`.
    pub(super) async fn follow(
        self,
        tracker: Url,
        every: Duration,
        now: impl Fn() -> Announce,
        named: mpsc::Sender<SocketAddr>,
    ) {
        let (mut started, mut pause) = (true, RETRY.0);
        loop {
            let announce = Announce { started, ..now() };
            let wait = match self.ask(&tracker, &announce).await {
                Ok(peers) => {
                    (started, pause) = (false, RETRY.0);
                    for peer in peers {
                        if named.send(peer).await.is_err() {
                            return;
                        }
                    }
                    every
                }
                Err(error) => {
                    tracing::debug!(%tracker, %error, "the tracker names nobody");
                    let wait = pause;
                    pause = (pause * 2).min(RETRY.1);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// A client that asks nobody whom this does not ask.
    pub(super) fn client(&self) -> reqwest::Client {
        self.client.clone()
    }
}

struct PublicOnly;

impl reqwest::dns::Resolve for PublicOnly {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| is_public(found.ip())).collect();
            if public.is_empty() {
                return Err("its address is not public".into());
            }
            Ok(Box::new(public.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const ANNOUNCE: Announce = Announce {
        info_hash: [1; 20],
        peer_id: [2; 20],
        port: 1,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        started: true,
    };

    /// What is made of an answer, of which `more` follows without end.
    async fn answered(head: &[u8], more: &[u8]) -> Result<Vec<SocketAddr>, HttpTrackerError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/announce?key=x", listener.local_addr().unwrap());
        let (head, more) = (head.to_vec(), more.to_vec());
        let tracker = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let read = stream.read(&mut asked).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
            let _ = stream.write_all(&head).await;
            while !more.is_empty() && stream.write_all(&more).await.is_ok() {}
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        let trackers = HttpTrackers::new(true).unwrap();
        let found = trackers.ask(&Url::parse(&url).unwrap(), &ANNOUNCE).await;
        let asked = tracker.await.unwrap();
        assert!(asked.starts_with("GET /announce?info_hash=%01"), "{asked}");
        assert!(asked.lines().next().unwrap().contains("&event=started&key=x "), "{asked}");
        found
    }

    #[tokio::test]
    async fn a_tracker_is_asked_and_its_answer_read() {
        let found = answered(b"d8:intervali0e5:peers6:\x01\x02\x03\x04\0\x05e", b"").await.unwrap();
        assert_eq!(found, ["1.2.3.4:5".parse().unwrap()]);
        let refused = answered(b"d14:failure reason2:noe", b"").await;
        assert!(matches!(refused, Err(HttpTrackerError::Answer(TrackerError::Refused(_)))));
    }

    #[tokio::test]
    async fn numbers_that_fit_nowhere_and_answers_without_end_are_refused() {
        let long = answered(b"d8:intervali99999999999999999999e5:peers0:e", b"").await;
        assert!(matches!(long, Err(HttpTrackerError::Answer(_))));
        let endless = answered(b"d5:peers", &[b'9'; 4096]).await;
        assert!(matches!(endless, Err(HttpTrackerError::TooLong)));
    }

    #[tokio::test]
    async fn a_name_that_leads_into_our_own_network_is_not_resolved() {
        let name: reqwest::dns::Name = "localhost".parse().unwrap();
        assert!(reqwest::dns::Resolve::resolve(&PublicOnly, name).await.is_err());
    }
}
