//! The road between two nodes: QUIC by [iroh], behind a seam as thin as it can be. It knows
//! nothing of money; it carries streams between two device keys.
//!
//! Nobody else's infrastructure is used: no relay, no DNS or pkarr lookup, no n0 preset. A peer
//! is reached at the socket addresses that its [`PeerAddress`] names.

use std::{
    error::Error as StdError,
    fmt, io,
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use iroh::{
    EndpointAddr, PublicKey, RelayMode, SecretKey, TransportAddr,
    endpoint::{
        ConnectionError, NetReportConfig, QuicTransportConfig, ReadError, ReadExactError, VarInt,
        WriteError, presets,
    },
};
use sparewire_core::{B256, NodeId};

/// The name and version of our protocol in the TLS handshake.
pub const ALPN: &[u8] = b"sparewire/1";
/// The same for what is said between a payee and a watchtower.
pub const WATCH_ALPN: &[u8] = b"sparewire-watch/1";
/// The same for how a payer asks its payee to close channels at once.
pub const CLOSE_ALPN: &[u8] = b"sparewire-close/1";

/// The most streams that one peer may have open at once. 1,000 tunnels at a time are ordinary;
/// the rest is room for streams that are just ending.
const STREAMS_MAX: u32 = 4096;
/// Unread bytes that we hold for one stream, at most; with 100 ms of round trip it carries
/// 80 Mbit/s to one stream, and a stream that nobody reads can hold up no more unpaid bytes than
/// this. More is dangerous: noq-proto 1.4 ends the whole *connection* ("too many gaps in stream
/// buffer") when a stream holds more than 2,048 unread packets, gaps or none, and with 4 MiB it
/// did on loopback. Within this window it takes 2,049 packets of less than 512 bytes on a stream
/// that is not read (quinn-rs/quinn#2809; quinn has mended it in #2814, noq 1.4.0 has not).
pub(crate) const STREAM_WINDOW_MAX: u32 = 1 << 20;
/// Unread bytes that we hold for all streams of one connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Unacknowledged bytes that we hold for one connection. 64 MiB made loopback slower.
const SEND_WINDOW: u64 = 8 << 20;
const IDLE_TIMEOUT_MS: u32 = 30_000;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From this many unfinished handshakes on, a source must prove its address (QUIC Retry) before
/// any state is held for it.
const HANDSHAKES_UNPROVEN_MAX: usize = 32;
/// From this many unfinished handshakes on, further ones are refused.
const HANDSHAKES_MAX: usize = 1024;
/// How long the other side is given to hear that we are gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How an [`Endpoint`] is bound.
#[derive(Clone)]
pub struct EndpointConfig {
    /// The Ed25519 device key.
    pub secret: [u8; 32],
    /// The UDP address to listen on; `None` takes any port on all IPv4 and IPv6 addresses.
    pub bind_addr: Option<SocketAddr>,
    /// Unread bytes held for one stream, at most 1 MiB: what a stalled stream can hold unpaid.
    pub stream_window: u32,
    /// Unread bytes held for one connection.
    pub connection_window: u32,
    /// The protocols that are spoken with those who connect to us.
    pub alpns: &'static [&'static [u8]],
}

impl EndpointConfig {
    /// The defaults for a device key.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            bind_addr: None,
            stream_window: STREAM_WINDOW_MAX,
            connection_window: CONNECTION_WINDOW,
            alpns: &[ALPN, CLOSE_ALPN],
        }
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConfig").field("bind_addr", &self.bind_addr).finish_non_exhaustive()
    }
}

/// One node's end of the network: opens connections to peers and takes theirs.
#[derive(Clone, Debug)]
pub struct Endpoint {
    inner: iroh::Endpoint,
    handshakes: Arc<AtomicUsize>,
}

impl Endpoint {
    /// Binds the UDP sockets.
    ///
    /// # Errors
    /// [`TransportError::PortTaken`] or [`TransportError::Bind`].
    pub async fn bind(config: EndpointConfig) -> Result<Self, TransportError> {
        let timeout = VarInt::from_u32(IDLE_TIMEOUT_MS).into();
        let quic = QuicTransportConfig::builder()
            .max_concurrent_bidi_streams(STREAMS_MAX.into())
            .max_concurrent_uni_streams(0u32.into())
            .stream_receive_window(config.stream_window.min(STREAM_WINDOW_MAX).into())
            .receive_window(config.connection_window.into())
            .send_window(SEND_WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .max_idle_timeout(Some(timeout))
            .build();
        let mut builder = iroh::Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&config.secret))
            .alpns(config.alpns.iter().map(|alpn| alpn.to_vec()).collect())
            .relay_mode(RelayMode::Disabled)
            .clear_address_lookup()
            .net_report_config(NetReportConfig::minimal())
            .transport_config(quic);
        if let Some(addr) = config.bind_addr {
            let bind = |reason: String| TransportError::Bind { addr: Some(addr), reason };
            builder = builder
                .clear_ip_transports()
                .bind_addr(addr)
                .map_err(|error| bind(error.to_string()))?;
        }
        let inner = builder.bind().await.map_err(|error| match config.bind_addr {
            Some(addr) if is_port_taken(&error) => TransportError::PortTaken { addr },
            addr => TransportError::Bind { addr, reason: chain(&error) },
        })?;
        Ok(Self { inner, handshakes: Arc::default() })
    }

    /// Our own name.
    pub fn node_id(&self) -> NodeId {
        node_id(self.inner.id())
    }

    /// The sockets that we listen on, as bound: an unspecified address stands for all.
    pub fn bound_addrs(&self) -> Vec<SocketAddr> {
        self.inner.bound_sockets()
    }

    /// What to hand to a peer: our name and the addresses of our interfaces. Behind a NAT these
    /// are the inner ones.
    pub fn address(&self) -> PeerAddress {
        let specified = |addr: &SocketAddr| !addr.ip().is_unspecified();
        let mut addrs: Vec<_> = self.bound_addrs().into_iter().filter(specified).collect();
        addrs.extend(self.inner.addr().ip_addrs());
        addrs.sort();
        addrs.dedup();
        addrs.truncate(PeerAddress::ADDRS_MAX);
        PeerAddress { node: self.node_id(), addrs }
    }

    /// Opens a connection to a peer and checks that it holds the key of `peer.node`.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`] where nobody answers at its addresses within 10 s.
    pub async fn connect(&self, peer: &PeerAddress) -> Result<Connection, TransportError> {
        self.connect_for(peer, ALPN).await
    }

    /// The same to speak another protocol of ours.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub async fn connect_for(
        &self,
        peer: &PeerAddress,
        alpn: &[u8],
    ) -> Result<Connection, TransportError> {
        let unreachable = |reason: String| TransportError::Unreachable { node: peer.node, reason };
        let key = PublicKey::from_bytes(&peer.node.0.0)
            .map_err(|_| unreachable("its node id is not an Ed25519 key".into()))?;
        if peer.addrs.is_empty() {
            return Err(unreachable("no address of it is known".into()));
        }
        let addrs = peer.addrs.iter().copied().map(TransportAddr::Ip);
        let connecting = self.inner.connect(EndpointAddr::from_parts(key, addrs), alpn);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(Connection(connection)),
            Ok(Err(error)) => Err(unreachable(chain(&error))),
            Err(_) => Err(unreachable("no answer within 10 s".into())),
        }
    }

    /// The next connection that somebody opens to us, before any work was done for it; `None`
    /// once the endpoint is closed. Run [`Incoming::handshake`] in a task of its own, so that a
    /// slow peer holds up nobody.
    ///
    /// Under load a source that has not proven its address is asked to do so first (QUIC Retry,
    /// no state held), and beyond 1,024 handshakes at once all are refused.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.inner.accept().await?;
            let pending = self.handshakes.load(Relaxed);
            if pending >= HANDSHAKES_MAX {
                incoming.refuse();
            } else if pending >= HANDSHAKES_UNPROVEN_MAX && !incoming.remote_addr_validated() {
                let _ = incoming.retry(); // fails only where it is validated
            } else {
                return Some(Incoming { inner: incoming, slot: Slot::take(&self.handshakes) });
            }
        }
    }

    /// Closes every connection and the sockets, and waits up to 3 s for the peers to hear of it.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.inner.close()).await;
    }
}

/// One unfinished handshake, counted while it lives.
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection that a peer has begun to open.
#[derive(Debug)]
pub struct Incoming {
    inner: iroh::endpoint::Incoming,
    slot: Slot,
}

impl Incoming {
    /// Finishes the handshake: after it the peer has proven its key.
    ///
    /// # Errors
    /// [`TransportError::Handshake`] where it fails or takes longer than 10 s.
    pub async fn handshake(self) -> Result<Connection, TransportError> {
        let handshake = |reason: String| TransportError::Handshake { reason };
        let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.inner.into_future()).await;
        drop(self.slot);
        match result {
            Ok(Ok(connection)) => Ok(Connection(connection)),
            Ok(Err(error)) => Err(handshake(chain(&error))),
            Err(_) => Err(handshake("no answer within 10 s".into())),
        }
    }

    /// Turns it away.
    pub fn refuse(self) {
        self.inner.refuse();
    }
}

/// A connection to one peer. Clones are the same connection; it closes with the last one.
#[derive(Clone, Debug)]
pub struct Connection(iroh::endpoint::Connection);

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        node_id(self.0.remote_id())
    }

    /// The protocol that is spoken, as both ends agreed on in the TLS handshake.
    pub fn alpn(&self) -> &[u8] {
        self.0.alpn()
    }

    /// Opens a stream; waits while the peer allows no more. The peer learns of it with the first
    /// byte.
    ///
    /// # Errors
    /// [`TransportError::Closed`] and its kin where the connection is gone.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), TransportError> {
        let (send, recv) = self.0.open_bi().await?;
        Ok((SendStream(send), RecvStream(recv)))
    }

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// [`TransportError::Closed`] and its kin where the connection is gone.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), TransportError> {
        let (send, recv) = self.0.accept_bi().await?;
        Ok((SendStream(send), RecvStream(recv)))
    }

    /// Ends the connection at once; what is under way is lost. The peer is told code and reason.
    pub fn close(&self, code: u32, reason: &str) {
        self.0.close(code.into(), reason.as_bytes());
    }

    /// Waits until the connection is gone and says why.
    pub async fn closed(&self) -> TransportError {
        self.0.closed().await.into()
    }

    /// Why the connection is gone, if it is.
    pub fn close_reason(&self) -> Option<TransportError> {
        self.0.close_reason().map(Into::into)
    }

    /// The path that payload takes now; `None` for the moment in which there is none.
    pub fn path(&self) -> Option<PathStats> {
        let paths = self.0.paths();
        let path = paths.iter().find(|path| path.is_selected()).or(paths.iter().next())?;
        let stats = path.stats();
        Some(PathStats {
            remote: match path.remote_addr() {
                TransportAddr::Ip(addr) => Some(*addr),
                _ => None,
            },
            rtt: stats.rtt,
            congestion_window: stats.cwnd,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.lost_packets,
        })
    }

    /// The round trip on that path.
    pub fn rtt(&self) -> Option<Duration> {
        self.path().map(|path| path.rtt)
    }
}

/// The state of the path in use. Bytes are those on the wire, headers included: they are for
/// people to look at and never for billing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStats {
    /// The peer's address on this path; `None` through a relay.
    pub remote: Option<SocketAddr>,
    /// The estimated round trip.
    pub rtt: Duration,
    /// The congestion window in bytes.
    pub congestion_window: u64,
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// Packets lost.
    pub lost_packets: u64,
}

/// Our sending half of a stream.
#[derive(Debug)]
pub struct SendStream(iroh::endpoint::SendStream);

impl SendStream {
    /// The stream's number, the same at both ends.
    pub fn id(&self) -> u64 {
        self.0.id().into()
    }

    /// Writes a whole chunk without copying it; waits for flow control. Not cancel-safe.
    ///
    /// # Errors
    /// [`TransportError::Stopped`] where the peer wants no more.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), TransportError> {
        Ok(self.0.write_chunk(chunk).await?)
    }

    /// Writes several whole chunks without copying them. Not cancel-safe.
    ///
    /// # Errors
    /// As [`SendStream::write_chunk`].
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), TransportError> {
        Ok(self.0.write_all_chunks(chunks).await?)
    }

    /// Hands over the front of `chunk`, as much as flow control lets through at once and at least
    /// one byte, and leaves the rest in it. Cancel-safe: the return value is exactly what was
    /// taken.
    ///
    /// # Errors
    /// As [`SendStream::write_chunk`].
    pub async fn write_some(&mut self, chunk: &mut Bytes) -> Result<usize, TransportError> {
        let mut chunks = std::slice::from_mut(chunk);
        let length = chunks[0].len();
        let written = self.0.write_many_chunks(&mut chunks).await?;
        if written == length {
            *chunk = Bytes::new(); // a chunk that went as a whole may be left in its place
        }
        Ok(written)
    }

    /// Says that no more will come; what was written still arrives, again and again if need be.
    /// A second call does nothing.
    pub fn finish(&mut self) {
        let _ = self.0.finish(); // fails only where it is closed already
    }

    /// Gives the stream up: what was written may be lost.
    pub fn reset(&mut self, code: u32) {
        let _ = self.0.reset(code.into());
    }

    /// Higher goes first; streams start at 0.
    pub fn set_priority(&self, priority: i32) {
        let _ = self.0.set_priority(priority);
    }

    /// Resolves once the peer has all of the finished stream, or wants no more of it. Does not
    /// borrow the stream.
    ///
    /// # Errors
    /// [`TransportError::Stopped`] where the peer did not want it all.
    pub fn delivered(&self) -> impl Future<Output = Result<(), TransportError>> + Send + use<> {
        let stopped = self.0.stopped();
        async move {
            match stopped.await.map_err(WriteError::from)? {
                None => Ok(()),
                Some(code) => Err(TransportError::Stopped { code: code.into_inner() }),
            }
        }
    }
}

/// Our receiving half of a stream.
#[derive(Debug)]
pub struct RecvStream(iroh::endpoint::RecvStream);

impl RecvStream {
    /// The stream's number, the same at both ends.
    pub fn id(&self) -> u64 {
        self.0.id().into()
    }

    /// The next bytes, at most `length_max`, without copying them; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// [`TransportError::Reset`] where the peer gave the stream up.
    pub async fn read_chunk(&mut self, length_max: usize) -> Result<Option<Bytes>, TransportError> {
        Ok(self.0.read_chunk(length_max).await?)
    }

    /// The next chunks as they came off the wire (a packet's worth each), as many as there are
    /// and fit; `None` at the end. Takes the connection's lock once for all of them. Cancel-safe.
    ///
    /// # Errors
    /// As [`RecvStream::read_chunk`].
    pub async fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> Result<Option<usize>, TransportError> {
        Ok(self.0.read_many_chunks(chunks).await?)
    }

    /// Fills `buffer`; for headers and messages. Not cancel-safe.
    ///
    /// # Errors
    /// [`TransportError::FinishedEarly`] where the stream ends before.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), TransportError> {
        Ok(self.0.read_exact(buffer).await?)
    }

    /// Tells the peer that we read no more; what is under way is dropped.
    pub fn stop(&mut self, code: u32) {
        let _ = self.0.stop(code.into());
    }
}

/// Where a peer is: its name and some socket addresses, written
/// `<node id in hex>@<ip>:<port>[,<ip>:<port>…]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// The device key that it must prove to hold.
    pub node: NodeId,
    /// Where to try, all at once.
    pub addrs: Vec<SocketAddr>,
}

impl PeerAddress {
    /// The most addresses that one peer has.
    pub const ADDRS_MAX: usize = 16;
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.node)?;
        for (index, addr) in self.addrs.iter().enumerate() {
            write!(f, "{}{addr}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<Self, PeerAddressError> {
        let (node, addrs) = text.trim().split_once('@').ok_or(PeerAddressError::NoAt)?;
        if node.len() != 64 || !node.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PeerAddressError::Node);
        }
        let node: NodeId = node.parse().map_err(|_| PeerAddressError::Node)?;
        PublicKey::from_bytes(&node.0.0).map_err(|_| PeerAddressError::NotAKey)?;
        let addrs = addrs
            .split(',')
            .map(|addr| match addr.trim().parse::<SocketAddr>() {
                Ok(parsed) if parsed.port() != 0 => Ok(parsed),
                _ => Err(PeerAddressError::Addr { text: addr.trim().to_owned() }),
            })
            .take(Self::ADDRS_MAX + 1)
            .collect::<Result<Vec<_>, _>>()?;
        if addrs.len() > Self::ADDRS_MAX {
            return Err(PeerAddressError::TooMany);
        }
        Ok(Self { node, addrs })
    }
}

/// Why a text is not a [`PeerAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerAddressError {
    /// No `@`.
    #[error("expected <node-id>@<ip>:<port>")]
    NoAt,
    /// Not 64 hexadecimal digits before the `@`.
    #[error("the node id before '@' must be 64 hexadecimal digits")]
    Node,
    /// 32 bytes, but not a point on the curve.
    #[error("the node id is not an Ed25519 public key; a digit may be wrong")]
    NotAKey,
    /// Not `ip:port`.
    #[error(
        "'{text}' is not <ip>:<port>; a name must be resolved first, IPv6 is written [ip]:port"
    )]
    Addr {
        /// The address as given.
        text: String,
    },
    /// More than [`PeerAddress::ADDRS_MAX`].
    #[error("more than 16 addresses for one peer")]
    TooMany,
}

/// What goes wrong between two nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Another program listens on this UDP port.
    #[error("UDP port {addr} is taken by another program")]
    PortTaken {
        /// The address.
        addr: SocketAddr,
    },
    /// The sockets cannot be bound.
    #[error("cannot listen on {}: {reason}", addr.map_or("any UDP port".to_owned(), |a| a.to_string()))]
    Bind {
        /// The address, where one was asked for.
        addr: Option<SocketAddr>,
        /// What the system said.
        reason: String,
    },
    /// The peer did not answer or did not prove its key.
    #[error("cannot reach {node}: {reason}")]
    Unreachable {
        /// The peer.
        node: NodeId,
        /// What happened.
        reason: String,
    },
    /// Somebody began a connection to us and did not finish the handshake.
    #[error("handshake failed: {reason}")]
    Handshake {
        /// What happened.
        reason: String,
    },
    /// The peer closed the connection.
    #[error("closed by the peer with code {code}: {reason}")]
    Closed {
        /// Its code.
        code: u64,
        /// Its reason, at most 200 characters, without control characters.
        reason: String,
    },
    /// We closed the connection.
    #[error("closed by us")]
    ClosedLocally,
    /// Nothing was heard for 30 s.
    #[error("connection timed out")]
    TimedOut,
    /// The connection broke in another way.
    #[error("connection lost: {reason}")]
    Lost {
        /// What happened.
        reason: String,
    },
    /// The peer gave this stream up.
    #[error("stream reset by the peer with code {code}")]
    Reset {
        /// Its code.
        code: u64,
    },
    /// The peer reads no more of this stream.
    #[error("the peer stopped reading the stream with code {code}")]
    Stopped {
        /// Its code.
        code: u64,
    },
    /// The stream ended within a message.
    #[error("stream finished early")]
    FinishedEarly,
    /// We had ended this stream already.
    #[error("stream already closed")]
    StreamClosed,
}

impl TransportError {
    /// Whether it concerns one stream only and the connection lives on.
    pub fn is_stream_only(&self) -> bool {
        use TransportError::{FinishedEarly, Reset, Stopped, StreamClosed};
        matches!(self, Reset { .. } | Stopped { .. } | FinishedEarly | StreamClosed)
    }
}

impl From<ConnectionError> for TransportError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: close.error_code.into_inner(),
                reason: tame(&String::from_utf8_lossy(&close.reason)),
            },
            ConnectionError::LocallyClosed => Self::ClosedLocally,
            ConnectionError::TimedOut => Self::TimedOut,
            other => Self::Lost { reason: tame(&other.to_string()) },
        }
    }
}

impl From<WriteError> for TransportError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped { code: code.into_inner() },
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::StreamClosed,
        }
    }
}

impl From<ReadError> for TransportError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset { code: code.into_inner() },
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::ClosedStream | ReadError::ZeroRttRejected => Self::StreamClosed,
        }
    }
}

impl From<ReadExactError> for TransportError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::FinishedEarly,
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

fn node_id(key: PublicKey) -> NodeId {
    NodeId(B256::from(*key.as_bytes()))
}

/// What a peer or a library wrote, made safe to show: short and without control characters.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An error with its causes on one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<_> = causes(error).map(ToString::to_string).collect();
    texts.dedup();
    tame(&texts.join(": "))
}

fn is_port_taken(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|error| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    })
}
