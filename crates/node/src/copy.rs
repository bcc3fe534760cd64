//! The hot path: carries one tunnel's bytes between a TCP connection and a QUIC stream, and counts
//! them where the two meet. Nothing here signs, hashes, logs or waits for a disk.
//!
//! **What is counted when.** The provider counts a byte when its [`Gate`] admits it, before it
//! moves on. The consumer counts a byte toward its application when it is read from the stream
//! and a byte from its application when the stream has taken it. So what one end has counted the
//! other end counts too, as long as streams are read to their end; hence no end ever resets a
//! stream that carries counted bytes, and an end whose TCP connection broke goes on reading the
//! stream, counting and discarding, until the peer, told of it, has finished its half.
//!
//! **Ends.** A FIN on one side becomes a FIN on the other, each direction by itself. A broken TCP
//! connection is told to the peer by a message (`tell`, the caller's), because a reset would drop
//! counted bytes and a bare FIN would look like a clean end; the other end hears of it by `heard`
//! (the caller's) and breaks its TCP connection too. The broken end finishes its half only after
//! the peer has finished in answer (or after the limit of time), so that the message comes first.
//!
//! **Stalls.** An application that does not read must not hold up the credit of the others with
//! bytes that the provider has counted and nobody has read. Once it has been behind for a while,
//! the consumer asks the provider to pause the stream, and takes (counts, and so pays for) what is
//! under way into a bounded queue; the stream goes on once the application has that.
//!
//! An idle tunnel holds no buffer: a buffer is taken when there is something to read and is given
//! away whole to the stream.

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, IoSlice},
    mem::take,
    pin::{Pin, pin},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use sparewire_protocol::Direction;
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::Notify,
    task::coop::consume_budget,
    time::{Instant, sleep_until, timeout},
};

use crate::transport::{RecvStream, STREAM_WINDOW_MAX, SendStream, TransportError};

/// The provider's valve: decides how many bytes may pass, and counts them in the same step.
pub trait Gate: Send + Sync {
    /// Counts up to `want` bytes that are about to move; returns how many may. Never waits.
    fn try_admit(&self, direction: Direction, want: usize) -> usize;

    /// Waits until [`Gate::try_admit`] may let something through again; `false` once nothing ever
    /// will. Only called after it let nothing through.
    fn wait(&self) -> impl Future<Output = bool> + Send;
}

/// The consumer's counter.
pub trait Tally: Send + Sync {
    /// Counts bytes that have moved.
    fn count(&self, direction: Direction, bytes: usize);
}

/// Whether a stream's application has stopped reading; kept by the provider for each stream.
#[derive(Debug, Default)]
pub struct Pause {
    paused: AtomicBool,
    changed: Notify,
}

impl Pause {
    /// Takes what the consumer says.
    pub fn set(&self, paused: bool) {
        self.paused.store(paused, Relaxed);
        self.changed.notify_waiters();
    }

    fn is_set(&self) -> bool {
        self.paused.load(Relaxed)
    }

    async fn over(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.is_set() {
                return;
            }
            changed.await;
        }
    }
}

impl<T: Gate> Gate for std::sync::Arc<T> {
    fn try_admit(&self, direction: Direction, want: usize) -> usize {
        T::try_admit(self, direction, want)
    }

    fn wait(&self) -> impl Future<Output = bool> + Send {
        T::wait(self)
    }
}

impl<T: Tally> Tally for std::sync::Arc<T> {
    fn count(&self, direction: Direction, bytes: usize) {
        T::count(self, direction, bytes);
    }
}

/// The two things to be joined, after their headers.
#[derive(Debug)]
pub struct Tunnel {
    /// The connection to the application or to the origin.
    pub tcp: TcpStream,
    /// What was read from `tcp` already, beyond its header.
    pub leftover: Bytes,
    /// Our sending half of the stream.
    pub send: SendStream,
    /// Our receiving half of the stream.
    pub recv: RecvStream,
}

/// How much is still read and counted for a broken tunnel, so that both ends agree.
#[derive(Clone, Copy, Debug)]
pub struct DrainLimit {
    /// Bytes that are discarded at most.
    pub bytes: u64,
    /// How long it may take.
    pub time: Duration,
}

impl Default for DrainLimit {
    /// 8 MiB (what is under way in a stream is about one stream window) and 10 s.
    fn default() -> Self {
        Self { bytes: 8 << 20, time: Duration::from_secs(10) }
    }
}

/// What became of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// Bytes counted from the application to the origin.
    pub up: u64,
    /// Bytes counted from the origin to the application.
    pub down: u64,
    /// How it ended.
    pub end: CopyEnd,
    /// Whether both directions of the stream were carried to their end, so that the peer's
    /// counts, if it is honest, are the same as ours.
    pub settled: bool,
}

/// How a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// Both directions were finished in order.
    Finished,
    /// Our TCP connection broke: at the consumer the application gave up, at the provider the
    /// origin did. The peer was told by `tell`.
    Broken(io::ErrorKind),
    /// The peer's TCP connection broke, as `heard` said.
    PeerBroken,
    /// The gate is closed for good.
    Stopped,
    /// The stream or the connection failed, or the peer gave up a stream that it should have
    /// finished.
    Transport(TransportError),
}

/// Carries a tunnel at the provider: `tunnel.tcp` is the origin. Every byte passes `gate` first.
///
/// `heard` resolves once the consumer says that its application gave up; `tell` is run once if the
/// origin's connection breaks, and tells the consumer. While `pause` is set, nothing is read from
/// the origin.
pub async fn provider_copy<G: Gate>(
    tunnel: Tunnel,
    gate: &G,
    limit: DrainLimit,
    pause: &Pause,
    heard: impl Future<Output = ()> + Send,
    tell: impl Future<Output = ()> + Send,
) -> CopyReport {
    copy(tunnel, &ProviderEnd { gate, pause }, limit, heard, tell).await
}

/// Carries a tunnel at the consumer: `tunnel.tcp` is the application.
///
/// `heard` resolves once the provider says that the origin broke; `tell` is run once if the
/// application gives up, and tells the provider; `flow` tells it to pause the stream (`true`) or to
/// go on.
pub async fn consumer_copy<T: Tally, F: Future<Output = ()> + Send>(
    tunnel: Tunnel,
    tally: &T,
    limit: DrainLimit,
    flow: impl Fn(bool) -> F + Send + Sync,
    heard: impl Future<Output = ()> + Send,
    tell: impl Future<Output = ()> + Send,
) -> CopyReport {
    copy(tunnel, &ConsumerEnd { tally, flow }, limit, heard, tell).await
}

/// What differs between the two ends. "Outward" is from TCP to the stream.
trait End: Send + Sync {
    const OUTWARD: Direction;
    /// Whether outward bytes count when the stream has taken them rather than when they are
    /// admitted. What has been counted must go, whatever happens; what has not, need not.
    const COUNTS_WHEN_SENT: bool;
    /// Whether the application is at this end. What an origin had sent before it broke is still
    /// delivered; what an application had sent before it gave up is not.
    const SERVES_APPLICATION: bool;

    /// Before outward bytes are handed to the stream: how many may be.
    fn admit_outward(&self, want: usize) -> usize;
    /// After the stream has taken outward bytes.
    fn sent_outward(&self, bytes: usize);
    /// Before inward bytes are handed to TCP: how many may be.
    fn admit_inward(&self, want: usize) -> usize;
    /// Waits until more may be; `false` where nothing ever will.
    fn wait(&self) -> impl Future<Output = bool> + Send;
    /// Tells the peer to pause the stream, or to go on.
    fn flow(&self, paused: bool) -> impl Future<Output = ()> + Send;
    /// Where the peer has asked us to pause, waits until we may go on.
    fn flowing(&self) -> impl Future<Output = ()> + Send;
}

struct ProviderEnd<'a, G> {
    gate: &'a G,
    pause: &'a Pause,
}

impl<G: Gate> End for ProviderEnd<'_, G> {
    const OUTWARD: Direction = Direction::Down;
    const COUNTS_WHEN_SENT: bool = false;
    const SERVES_APPLICATION: bool = false;

    fn admit_outward(&self, want: usize) -> usize {
        self.gate.try_admit(Direction::Down, want)
    }
    fn sent_outward(&self, _bytes: usize) {}
    fn admit_inward(&self, want: usize) -> usize {
        self.gate.try_admit(Direction::Up, want)
    }
    fn wait(&self) -> impl Future<Output = bool> + Send {
        self.gate.wait()
    }
    async fn flow(&self, _paused: bool) {}
    fn flowing(&self) -> impl Future<Output = ()> + Send {
        self.pause.over()
    }
}

struct ConsumerEnd<'a, T, F> {
    tally: &'a T,
    flow: F,
}

impl<T: Tally, F: Fn(bool) -> P + Send + Sync, P: Future<Output = ()> + Send> End
    for ConsumerEnd<'_, T, F>
{
    const OUTWARD: Direction = Direction::Up;
    const COUNTS_WHEN_SENT: bool = true;
    const SERVES_APPLICATION: bool = true;

    fn admit_outward(&self, want: usize) -> usize {
        want
    }
    fn sent_outward(&self, bytes: usize) {
        self.tally.count(Direction::Up, bytes);
    }
    fn admit_inward(&self, want: usize) -> usize {
        self.tally.count(Direction::Down, want);
        want
    }
    fn wait(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(true) // never called: everything is admitted
    }
    fn flow(&self, paused: bool) -> impl Future<Output = ()> + Send {
        (self.flow)(paused)
    }
    fn flowing(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(()) // what an application sends is counted when it is taken
    }
}

/// One read takes at most this much. From 64 to 256 KiB `examples/path_cost.rs` tells no
/// difference; below, it does.
const BUFFER_MAX: usize = 128 << 10;
/// A tunnel starts with this and grows while reads fill the buffer.
const BUFFER_MIN: usize = 8 << 10;
/// Packets' worth of payload that are handed to TCP in one call.
const CHUNKS_MAX: usize = 64;

/// An application that has been behind for this long is stalled. Between a burst that the kernel's
/// buffers take and a pause that holds up others, 100 ms of a full line is one credit.
const STALLED_AFTER: Duration = Duration::from_millis(100);
/// What is taken of a stalled stream at most. An honest provider cannot have more under way: a
/// stream window that nobody has read, another one that it may fill until it hears of the pause,
/// and what it had read from the origin already.
const HELD_MAX: usize = 2 * STREAM_WINDOW_MAX as usize + 2 * BUFFER_MAX;

/// What both pumps of a tunnel know of its fate. One task polls them all; the atomics are for
/// `Sync` only.
#[derive(Default)]
struct Fate {
    flags: AtomicU8,
    changed: Notify,
    broken: OnceLock<CopyEnd>,
    outward: AtomicU64,
    inward: AtomicU64,
}

/// One of the ends is broken.
const BROKEN: u8 = 1;
/// Read no more from TCP.
const CUT: u8 = 2;
/// Write no more to TCP; count and discard.
const DISCARD: u8 = 4;

impl Fate {
    fn set(&self, flags: u8) {
        self.flags.fetch_or(flags, Relaxed);
        self.changed.notify_waiters();
    }

    fn is(&self, flag: u8) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    async fn until(&self, flag: u8) {
        loop {
            let changed = self.changed.notified();
            if self.is(flag) {
                return;
            }
            changed.await;
        }
    }

    /// TCP failed.
    fn tcp_broke<E: End>(&self, kind: io::ErrorKind) {
        let _ = self.broken.set(CopyEnd::Broken(kind)); // the first cause stands
        self.set(BROKEN | DISCARD | if E::SERVES_APPLICATION { CUT } else { 0 });
    }

    /// The peer says that its TCP connection failed.
    fn peer_broke<E: End>(&self) {
        let _ = self.broken.set(CopyEnd::PeerBroken);
        self.set(BROKEN | CUT | if E::SERVES_APPLICATION { 0 } else { DISCARD });
    }
}

/// How one direction ended.
enum PumpEnd {
    /// At its FIN, everything carried or, where the tunnel is broken, counted.
    Fin,
    /// Because the tunnel is broken; nothing that was counted is lost.
    Cut,
    /// Because more had to be discarded than the limit allows.
    Overrun,
    /// By the gate.
    Stopped,
    /// By the stream.
    Transport(TransportError),
}

async fn copy<E: End>(
    tunnel: Tunnel,
    end: &E,
    limit: DrainLimit,
    heard: impl Future<Output = ()> + Send,
    tell: impl Future<Output = ()> + Send,
) -> CopyReport {
    let Tunnel { mut tcp, leftover, send, recv } = tunnel;
    let fate = Fate::default();
    let (outcome, settled) = {
        let (reader, writer) = tcp.split();
        let stopped = send.delivered();
        let outward = pin!(outward(&reader, leftover, send, end, &fate));
        let inward = pin!(inward(writer, recv, end, &fate, limit.bytes));
        let failed = async {
            // A reset is noticed even while neither pump reads or writes TCP.
            match reader.ready(Interest::ERROR).await {
                Ok(_) => reader.as_ref().take_error().ok().flatten(),
                Err(error) => Some(error),
            }
            .map_or(io::ErrorKind::ConnectionReset, |error| error.kind())
        };
        let watch = Watch { failed, stopped, heard, tell };
        join::<E, _, _, _, _>(outward, inward, &fate, limit.time, watch).await
    };
    if outcome != CopyEnd::Finished {
        // A bare FIN would look like a clean end to whoever is on the other side of TCP.
        let _ = tcp.set_zero_linger();
    }
    let (outward, inward) = (fate.outward.load(Relaxed), fate.inward.load(Relaxed));
    let (up, down) = match E::OUTWARD {
        Direction::Up => (outward, inward),
        Direction::Down => (inward, outward),
    };
    CopyReport { up, down, end: outcome, settled }
}

/// What may happen beside the pumps.
struct Watch<F, S, H, T> {
    /// Our TCP connection fails.
    failed: F,
    /// The peer reads our half of the stream no more.
    stopped: S,
    /// The caller hears that the peer's TCP connection failed.
    heard: H,
    /// What the caller does to tell the peer that ours failed.
    tell: T,
}

/// Runs both pumps to the end of the tunnel; says how it ended and whether all counted bytes
/// arrived.
async fn join<E, F, S, H, T>(
    mut outward: Pin<&mut (impl Future<Output = (SendStream, PumpEnd)> + Send)>,
    mut inward: Pin<&mut (impl Future<Output = PumpEnd> + Send)>,
    fate: &Fate,
    drain_time: Duration,
    watch: Watch<F, S, H, T>,
) -> (CopyEnd, bool)
where
    E: End,
    F: Future<Output = io::ErrorKind> + Send,
    S: Future<Output = Result<(), TransportError>> + Send,
    H: Future<Output = ()> + Send,
    T: Future<Output = ()> + Send,
{
    let (mut failed, mut stopped) = (pin!(watch.failed), pin!(watch.stopped));
    let mut heard = pin!(watch.heard);
    let (mut sent, mut received) = (None, None);
    let mut delivered = false;
    // While all is well.
    while !fate.is(BROKEN) && (sent.is_none() || received.is_none()) {
        tokio::select! {
            biased;
            (send, how) = &mut outward, if sent.is_none() => match how {
                PumpEnd::Stopped => return (CopyEnd::Stopped, false),
                PumpEnd::Transport(error) => return (CopyEnd::Transport(error), false),
                how => sent = Some((send, how)),
            },
            how = &mut inward, if received.is_none() => match how {
                PumpEnd::Stopped => return (CopyEnd::Stopped, false),
                PumpEnd::Transport(error) => return (CopyEnd::Transport(error), false),
                how => received = Some(how),
            },
            () = fate.until(BROKEN) => {}
            () = &mut heard => fate.peer_broke::<E>(),
            kind = &mut failed => fate.tcp_broke::<E>(kind),
            // While the stream is read too, its failure is seen there.
            end = &mut stopped, if received.is_some() && !delivered => match end {
                Ok(()) => delivered = true,
                Err(error) => return (CopyEnd::Transport(error), false),
            },
        }
    }
    let Some(outcome) = fate.broken.get().cloned() else {
        return (CopyEnd::Finished, true);
    };
    // One end is broken: see what is counted through to the other end, and no more.
    let peer_broke = outcome == CopyEnd::PeerBroken;
    let inward_ended = Notify::new();
    let finishing = async {
        let tell = async {
            if !peer_broke {
                watch.tell.await;
            }
        };
        let sending = async {
            match sent {
                Some(sent) => sent,
                None => outward.await,
            }
        };
        let ((mut send, how), ()) = tokio::join!(sending, tell);
        if !peer_broke {
            // The peer finishes in answer to what it was told, or has broken as well.
            tokio::select! {
                () = inward_ended.notified() => {}
                () = &mut heard => {}
            }
        }
        send.finish();
        matches!(how, PumpEnd::Fin | PumpEnd::Cut)
    };
    let draining = async {
        let how = match received {
            Some(how) => how,
            None => inward.await,
        };
        inward_ended.notify_one();
        matches!(how, PumpEnd::Fin)
    };
    let both = async { tokio::join!(finishing, draining) };
    let settled = if peer_broke && E::SERVES_APPLICATION {
        // The application takes the rest at its own pace.
        let (sent, received) = both.await;
        sent && received
    } else {
        timeout(drain_time, both).await.is_ok_and(|(sent, received)| sent && received)
    };
    (outcome, settled)
}

/// From TCP to the stream.
async fn outward<E: End>(
    reader: &ReadHalf<'_>,
    leftover: Bytes,
    mut send: SendStream,
    end: &E,
    fate: &Fate,
) -> (SendStream, PumpEnd) {
    let mut capacity = BUFFER_MIN;
    let mut chunk = leftover;
    loop {
        while !chunk.is_empty() {
            let granted = end.admit_outward(chunk.len());
            if granted == 0 {
                tokio::select! {
                    biased;
                    () = fate.until(CUT) => return (send, PumpEnd::Cut),
                    open = end.wait() => if !open { return (send, PumpEnd::Stopped) },
                }
                continue;
            }
            let mut piece = chunk.split_to(granted);
            if !E::COUNTS_WHEN_SENT {
                fate.outward.fetch_add(granted as u64, Relaxed);
            }
            while !piece.is_empty() {
                let written = if E::COUNTS_WHEN_SENT {
                    tokio::select! {
                        biased;
                        written = send.write_some(&mut piece) => written,
                        () = fate.until(CUT) => return (send, PumpEnd::Cut),
                    }
                } else {
                    send.write_some(&mut piece).await
                };
                match written {
                    Ok(bytes) => {
                        end.sent_outward(bytes);
                        if E::COUNTS_WHEN_SENT {
                            fate.outward.fetch_add(bytes as u64, Relaxed);
                        }
                    }
                    Err(error) => return (send, PumpEnd::Transport(error)),
                }
            }
        }
        consume_budget().await;
        if fate.is(CUT) {
            return (send, PumpEnd::Cut);
        }
        let readable = async {
            end.flowing().await;
            reader.readable().await
        };
        let readable = tokio::select! {
            biased;
            readable = readable => readable,
            () = fate.until(CUT) => return (send, PumpEnd::Cut),
        };
        let mut buffer = BytesMut::new();
        let read = readable.and_then(|()| {
            buffer.reserve(capacity);
            reader.try_read_buf(&mut buffer)
        });
        match read {
            Ok(0) => {
                send.finish();
                return (send, PumpEnd::Fin);
            }
            Ok(bytes) if bytes >= capacity => capacity = (capacity * 4).min(BUFFER_MAX),
            Ok(bytes) if bytes < capacity / 4 => capacity = (capacity / 2).max(BUFFER_MIN),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                fate.tcp_broke::<E>(error.kind());
                return (send, PumpEnd::Cut);
            }
        }
        chunk = buffer.freeze();
    }
}

/// From the stream to TCP.
async fn inward<E: End>(
    mut writer: WriteHalf<'_>,
    mut recv: RecvStream,
    end: &E,
    fate: &Fate,
    discard_max: u64,
) -> PumpEnd {
    let mut chunks = [const { Bytes::new() }; CHUNKS_MAX];
    let mut discarded = 0u64;
    let mut behind = None;
    'stream: loop {
        consume_budget().await;
        let filled = match recv.read_chunks(&mut chunks).await {
            Ok(Some(filled)) => filled,
            Ok(None) => {
                if !fate.is(BROKEN)
                    && let Err(error) = writer.shutdown().await
                {
                    fate.tcp_broke::<E>(error.kind());
                }
                return PumpEnd::Fin;
            }
            Err(error) => return PumpEnd::Transport(error),
        };
        let mut queue = &mut chunks[..filled];
        let mut blocked = false;
        let mut queued: usize = queue.iter().map(Bytes::len).sum();
        while queued > 0 {
            let granted = end.admit_inward(queued);
            if granted == 0 {
                if !end.wait().await {
                    return PumpEnd::Stopped;
                }
                continue;
            }
            fate.inward.fetch_add(granted as u64, Relaxed);
            queued -= granted;
            let mut admitted = granted;
            while admitted > 0 {
                let moved = if fate.is(DISCARD) {
                    discarded += admitted as u64;
                    admitted
                } else {
                    match write_front(&writer, queue, admitted) {
                        Ok(moved) => moved,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            blocked = true;
                            let stalls = *behind.get_or_insert_with(Instant::now) + STALLED_AFTER;
                            tokio::select! {
                                biased;
                                () = fate.until(DISCARD) => {}
                                ready = writer.writable() => if let Err(error) = ready {
                                    fate.tcp_broke::<E>(error.kind());
                                },
                                () = sleep_until(stalls), if E::SERVES_APPLICATION => {
                                    let held = VecDeque::from_iter(queue.iter_mut().map(take));
                                    match hold(&writer, &mut recv, end, fate, held).await {
                                        Ok(left) => discarded += left,
                                        Err(how) => return how,
                                    }
                                    behind = None;
                                    continue 'stream;
                                }
                            }
                            continue;
                        }
                        Err(error) => {
                            fate.tcp_broke::<E>(error.kind());
                            continue;
                        }
                    }
                };
                queue = advance(queue, moved);
                admitted -= moved;
            }
            if discarded > discard_max {
                return PumpEnd::Overrun;
            }
        }
        if !blocked {
            behind = None; // it keeps up
        }
    }
}

/// The application is stalled: has the stream paused, and takes what is under way until the
/// application has taken that. Returns how much it never took.
async fn hold<E: End>(
    writer: &WriteHalf<'_>,
    recv: &mut RecvStream,
    end: &E,
    fate: &Fate,
    mut held: VecDeque<Bytes>,
) -> Result<u64, PumpEnd> {
    end.flow(true).await;
    let mut chunks = [const { Bytes::new() }; CHUNKS_MAX];
    let mut length: usize = held.iter().map(Bytes::len).sum();
    let mut more = true;
    while length > 0 {
        tokio::select! {
            biased;
            () = fate.until(DISCARD) => break,
            ready = writer.writable() => {
                let moved = ready.and_then(|()| write_front(writer, held.make_contiguous(), length));
                match moved {
                    Ok(moved) => {
                        let left = advance(held.make_contiguous(), moved).len();
                        held.drain(..held.len() - left);
                        length -= moved;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => fate.tcp_broke::<E>(error.kind()),
                }
            }
            read = recv.read_chunks(&mut chunks), if more && length < HELD_MAX => match read {
                Ok(Some(filled)) => {
                    let taken: usize = chunks[..filled].iter().map(Bytes::len).sum();
                    let counted = end.admit_inward(taken);
                    assert_eq!(counted, taken, "a consumer counts whatever has arrived");
                    fate.inward.fetch_add(counted as u64, Relaxed);
                    held.extend(chunks[..filled].iter_mut().map(take));
                    length += taken;
                }
                Ok(None) => more = false,
                Err(error) => return Err(PumpEnd::Transport(error)),
            },
        }
    }
    if more && length == 0 {
        end.flow(false).await;
    }
    Ok(length as u64)
}

/// Hands the first `length` bytes of `queue` to TCP in one call; returns how many it took.
fn write_front(writer: &WriteHalf<'_>, queue: &[Bytes], length: usize) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); CHUNKS_MAX];
    let (mut used, mut left) = (0, length);
    for (slice, chunk) in slices.iter_mut().zip(queue) {
        let bytes = &chunk[..chunk.len().min(left)];
        *slice = IoSlice::new(bytes);
        (used, left) = (used + 1, left - bytes.len());
        if left == 0 {
            break;
        }
    }
    match writer.try_write_vectored(&slices[..used])? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        moved => Ok(moved),
    }
}

/// Drops the first `length` bytes of `queue`.
fn advance(queue: &mut [Bytes], mut length: usize) -> &mut [Bytes] {
    let mut done = 0;
    for chunk in queue.iter_mut() {
        if chunk.len() > length {
            chunk.advance(length);
            break;
        }
        length -= chunk.len();
        *chunk = Bytes::new(); // gives its packet's memory back at once
        done += 1;
    }
    &mut queue[done..]
}
