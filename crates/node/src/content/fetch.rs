//! The metainfo behind a magnet connection, from peers (BEP 9), with the hashes of its pieces (BEP 52).

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use sparewire_content::{
    BLOCK_LEN, Extended, ExtensionHandshake, ExtensionIds, Hash, HashRequest, Inbox, Magnet,
    Metadata, Metainfo, PeerMessage, TORRENT_LEN_MAX,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    candidates::Candidates,
    connection::ConnectionError,
    discovery::{Finding, Progress, Source, Wanted},
    engine::{Shared, dial},
};

/// How long one peer may take.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);
/// How many peers are asked at a time.
const PEERS_MAX: usize = 8;
/// How many parts are asked of a peer at a time.
const PIPELINE: usize = 16;

/// Asks `peers`, and whoever is found, until one gives what `magnet` names. Never ends by itself.
pub(super) async fn fetch(shared: &Arc<Shared>, magnet: &Magnet, peers: &[SocketAddr]) -> Metainfo {
    let mut candidates = Candidates::default();
    let now = Instant::now();
    for peer in peers {
        candidates.add(*peer, Source::Named, now);
    }
    for peer in magnet.peers.iter().filter_map(|peer| peer.parse::<SocketAddr>().ok()) {
        // A connection is written by strangers.
        if shared.discovery.may_dial(peer, Source::Exchange) {
            candidates.add(peer, Source::Exchange, now);
        }
    }
    let mut findings: Vec<Finding> = magnet
        .hashes
        .topics()
        .map(|info_hash| {
            shared.discovery.find(Wanted {
                info_hash,
                peer_id: shared.peer_id,
                trackers: magnet.trackers.clone(),
                private: false,
                port: shared.listens.port(),
                progress: Arc::new(NothingYet),
            })
        })
        .collect();
    let mut asking = JoinSet::new();
    loop {
        let mut wait = Some(Instant::now() + Duration::from_secs(1));
        while asking.len() < PEERS_MAX {
            match candidates.next(Instant::now()) {
                Ok((address, _)) => {
                    let (shared, magnet) = (Arc::clone(shared), magnet.clone());
                    asking.spawn(async move {
                        let asked = timeout(PEER_TIMEOUT, ask(&shared, address, &magnet)).await;
                        (address, asked.unwrap_or(Err(ConnectionError::Silent)))
                    });
                }
                Err(at) => {
                    wait = at.or(wait);
                    break;
                }
            }
        }
        tokio::select! {
            Some((address, source)) = next(&mut findings) => {
                candidates.add(address, source, Instant::now());
            }
            Some(Ok((address, asked))) = asking.join_next() => match asked {
                Ok(metainfo) => return metainfo,
                Err(error) => {
                    tracing::debug!(%address, "no metainfo: {error}");
                    candidates.ended(address, false, Instant::now());
                }
            },
            () = async { sleep_until(wait.unwrap_or_else(Instant::now)).await } => {}
        }
    }
}

/// From whichever looks first.
async fn next(findings: &mut [Finding]) -> Option<(SocketAddr, Source)> {
    match findings {
        [] => None,
        [only] => only.next().await,
        [first, second, ..] => tokio::select! {
            Some(found) = first.next() => Some(found),
            Some(found) = second.next() => Some(found),
            else => None,
        },
    }
}

struct NothingYet;

impl Progress for NothingYet {
    fn bytes(&self) -> (u64, u64, u64) {
        (0, 0, 1) // something is left to download
    }
}

/// One peer.
struct Asked {
    stream: TcpStream,
    inbox: Inbox,
}

/// What of its messages counts here.
enum Said {
    Handshake(ExtensionHandshake),
    Part { part: u32, data: Vec<u8> },
    Hashes { request: HashRequest, hashes: Vec<u8> },
    Rejected,
}

async fn ask(
    shared: &Shared,
    address: SocketAddr,
    magnet: &Magnet,
) -> Result<Metainfo, ConnectionError> {
    let (stream, theirs) = dial(shared, address, &magnet.hashes).await?;
    if !theirs.extended {
        return Err(ConnectionError::Closed("it does not give metadata"));
    }
    let mut peer = Asked { stream, inbox: Inbox::default() };
    let info = peer.info().await?;
    let mut metainfo = Metainfo::from_info(&info, &magnet.hashes)
        .map_err(|_| ConnectionError::Nonsense("its metadata is not what the link names"))?;
    let missing: Vec<usize> = metainfo.missing_layers().collect();
    for file in missing {
        let layer = peer.layer(&metainfo, file).await?;
        metainfo
            .set_layer(file, layer)
            .map_err(|_| ConnectionError::Nonsense("its hashes are not those of the file"))?;
    }
    if !magnet.trackers.is_empty() {
        metainfo.set_trackers(vec![magnet.trackers.clone()]);
    }
    Ok(metainfo)
}

impl Asked {
    async fn send(&mut self, messages: &[PeerMessage<'_>]) -> Result<(), ConnectionError> {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.write(&mut bytes));
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// The next message that counts.
    async fn next(&mut self) -> Result<Said, ConnectionError> {
        loop {
            while let Some(message) = self.inbox.poll()? {
                return Ok(match message {
                    PeerMessage::Extended(Extended::Handshake(handshake)) => {
                        Said::Handshake(handshake)
                    }
                    PeerMessage::Extended(Extended::Metadata(Metadata::Data {
                        part,
                        data,
                        ..
                    })) => Said::Part { part, data: data.to_vec() },
                    PeerMessage::Hashes { request, hashes } => {
                        Said::Hashes { request, hashes: hashes.to_vec() }
                    }
                    PeerMessage::Extended(Extended::Metadata(Metadata::Reject(_)))
                    | PeerMessage::HashReject(_) => Said::Rejected,
                    _ => continue,
                });
            }
            match self.stream.read(self.inbox.space()).await? {
                0 => return Err(ConnectionError::Left),
                length => self.inbox.filled(length),
            }
        }
    }

    /// The info dictionary.
    async fn info(&mut self) -> Result<Vec<u8>, ConnectionError> {
        const NONE: ConnectionError = ConnectionError::Closed("it does not give metadata");
        let ids = ExtensionIds { pex: None, pay: None, ..ExtensionIds::OURS };
        let ours = ExtensionHandshake { ids, ..ExtensionHandshake::default() };
        self.send(&[PeerMessage::Extended(Extended::Handshake(ours))]).await?;
        let theirs = loop {
            if let Said::Handshake(theirs) = self.next().await? {
                break theirs;
            }
        };
        let (Some(len), Some(_)) = (theirs.metadata_len, theirs.ids.metadata) else {
            return Err(NONE);
        };
        if len as usize > TORRENT_LEN_MAX {
            return Err(ConnectionError::Nonsense("its metadata is longer than we read"));
        }
        let parts = len.div_ceil(BLOCK_LEN);
        let mut info = vec![0; len as usize];
        let mut missing: BTreeSet<u32> = (0..parts).collect();
        let mut asked = 0;
        while !missing.is_empty() {
            // As many are under way as were asked for and are missing.
            let under_way = missing.range(..asked).count();
            let mut bytes = Vec::new();
            for _ in under_way..PIPELINE {
                if asked < parts {
                    let request = Extended::Metadata(Metadata::Request(asked));
                    let _ = theirs.ids.write(&request, &mut bytes);
                    asked += 1;
                }
            }
            self.stream.write_all(&bytes).await?;
            match self.next().await? {
                Said::Part { part, data } if missing.remove(&part) => {
                    let begin = (part * BLOCK_LEN) as usize;
                    let end = (begin + BLOCK_LEN as usize).min(info.len());
                    if data.len() != end - begin {
                        return Err(ConnectionError::Nonsense(
                            "a part of metadata of another length",
                        ));
                    }
                    info[begin..end].copy_from_slice(&data);
                }
                Said::Rejected => return Err(NONE),
                _ => {}
            }
        }
        Ok(info)
    }

    /// The hashes of a file's pieces.
    async fn layer(
        &mut self,
        metainfo: &Metainfo,
        file: usize,
    ) -> Result<Vec<Hash>, ConnectionError> {
        let mut layer = Vec::new();
        for requests in metainfo.ask_layer(file).chunks(PIPELINE) {
            let messages: Vec<_> = requests.iter().copied().map(PeerMessage::HashRequest).collect();
            self.send(&messages).await?;
            let mut parts = vec![None; requests.len()];
            while parts.iter().any(Option::is_none) {
                match self.next().await? {
                    Said::Hashes { request, hashes } => {
                        let at = requests.iter().position(|asked| *asked == request);
                        let proven = metainfo.proven(&request, &hashes).map(<[Hash]>::to_vec);
                        let (Some(at), Some(proven)) = (at, proven) else {
                            return Err(ConnectionError::Nonsense("hashes that prove nothing"));
                        };
                        parts[at] = Some(proven);
                    }
                    Said::Rejected => {
                        return Err(ConnectionError::Closed("it does not give the pieces' hashes"));
                    }
                    _ => {}
                }
            }
            layer.extend(parts.into_iter().flatten().flatten());
        }
        let of = metainfo.layout().pieces(file);
        layer.truncate((of.end - of.start) as usize);
        Ok(layer)
    }
}
