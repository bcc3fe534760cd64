//! The provider's way out: takes a consumer's destination to a TCP connection, or says why not.
//!
//! A name is resolved once, here; every address it has is checked by the [`ExitPolicy`]; what is
//! dialled is a checked address and never the name again, so a name that changes its mind between
//! check and use (DNS rebinding) changes nothing.

mod policy;
mod share;
mod special;

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt};
use ipnet::IpNet;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};

pub use policy::{AllowHost, AllowRule, DomainRule, ExitPolicy, RuleError};
pub use share::Share;
pub(crate) use special::is_public;

use crate::{
    refusal::{Refusal, RefusalKind},
    target::{Host, Target},
};

/// Of a name's addresses that may be dialled, this many are tried.
const ADDRESSES_MAX: usize = 4;
/// A name that has more addresses than this has its tail ignored.
const CANDIDATES_MAX: usize = 64;
/// How long the next address waits for the one before (RFC 8305's "connection attempt delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Dials under way at once; a further one is refused as busy.
const DIALS_MAX: usize = 512;
/// Look-ups under way at once, each of which holds a thread of the blocking pool; a further one
/// waits within its time.
const LOOKUPS_MAX: usize = 64;
/// How long the list of our own networks stays fresh.
const OWN_NETWORKS_AGE_MAX: Duration = Duration::from_secs(30);

/// Turns names into addresses. A look-up counts as under way until it ends, also when nobody waits
/// for it any more: an implementation bounds how long it takes.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of `name`. A name that does not exist is an error or an empty list.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let name = name.to_owned();
        let addresses = spawn_blocking(move || {
            (name.as_str(), 0).to_socket_addrs().map(|addrs| addrs.map(|addr| addr.ip()).collect())
        });
        addresses.await.map_err(io::Error::other)?
    }
}

/// Dials for consumers.
pub struct Exit {
    policy: ExitPolicy,
    resolver: Arc<dyn Resolve>,
    dials: Semaphore,
    lookups: Arc<Semaphore>,
    own: RwLock<OwnNetworks>,
}

impl std::fmt::Debug for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exit").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Exit {
    /// An exit with the system's resolver.
    pub fn new(policy: ExitPolicy) -> Self {
        Self::with_resolver(policy, Arc::new(SystemResolver))
    }

    /// An exit with a resolver of the caller's.
    pub fn with_resolver(policy: ExitPolicy, resolver: Arc<dyn Resolve>) -> Self {
        let own = RwLock::new(OwnNetworks { networks: own_networks(), seen: Instant::now() });
        let (dials, lookups) = (Semaphore::new(DIALS_MAX), Arc::new(Semaphore::new(LOOKUPS_MAX)));
        Self { policy, resolver, dials, lookups, own }
    }

    /// The policy.
    pub fn policy(&self) -> &ExitPolicy {
        &self.policy
    }

    /// Connects to `target`, in at most 10 s. The connection has `TCP_NODELAY` set, and its far
    /// end is an address that the policy has allowed.
    ///
    /// # Errors
    /// [`Refusal`], to be told to the consumer as it is: it names no address that the consumer did
    /// not name.
    pub async fn dial(&self, target: &Target) -> Result<TcpStream, Refusal> {
        self.dial_for(target, None).await
    }

    /// Connects to `target` when it is the session's turn; that it is not within `patience` is a
    /// [`RefusalKind::Busy`].
    ///
    /// # Errors
    /// [`Refusal`], as of [`Exit::dial`].
    pub async fn dial_in(
        &self,
        share: &Share,
        target: &Target,
        patience: Duration,
    ) -> Result<TcpStream, Refusal> {
        let _turn = share.turn(patience).await?;
        self.dial_for(target, Some(share)).await
    }

    async fn dial_for(&self, target: &Target, share: Option<&Share>) -> Result<TcpStream, Refusal> {
        self.policy.check_target(target)?;
        let Ok(_permit) = self.dials.try_acquire() else {
            return Err(Refusal::new(RefusalKind::Busy, "too many connections are being opened"));
        };
        let dialling = async {
            let allowed = self.allowed_addresses(target, share).await?;
            connect_any(&allowed).await
        };
        timeout(DIAL_TIMEOUT, dialling).await.unwrap_or_else(|_| {
            Err(Refusal::new(RefusalKind::TimedOut, "no answer from the destination within 10 s"))
        })
    }

    /// The addresses of `target` that may be dialled, each of them checked; never empty.
    async fn allowed_addresses(
        &self,
        target: &Target,
        share: Option<&Share>,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let addresses = match &target.host {
            Host::Ip(ip) => vec![*ip],
            Host::Domain(name) => self.resolve(name.as_str(), share).await?,
        };
        let own = self.own_networks().await;
        let mut refusal = None;
        let mut allowed: Vec<SocketAddr> = Vec::new();
        for ip in interleave(&addresses) {
            let addr = SocketAddr::new(ip.to_canonical(), target.port);
            match self.policy.check_address(target, addr.ip(), &own) {
                Ok(()) if allowed.len() < ADDRESSES_MAX && !allowed.contains(&addr) => {
                    allowed.push(addr);
                }
                Ok(()) => {}
                Err(denied) => refusal = refusal.or(Some(denied)),
            }
        }
        match (allowed.is_empty(), refusal) {
            (false, _) => Ok(allowed),
            (true, Some(denied)) => Err(denied),
            (true, None) => Err(unresolvable()),
        }
    }

    async fn resolve(&self, name: &str, share: Option<&Share>) -> Result<Vec<IpAddr>, Refusal> {
        // With the last dot the name is taken as it is: no search list of the host's turns it into
        // a neighbour of the host. A name that the operator allowed may be in the `hosts` file,
        // where names have no last dot.
        let name =
            if self.policy.is_local_name(name) { name.to_owned() } else { format!("{name}.") };
        let (resolver, lookups) = (Arc::clone(&self.resolver), Arc::clone(&self.lookups));
        let looking = async {
            // The session's turn first: who waits for that holds up nobody else.
            let of_session = match share {
                Some(share) => Some(Arc::clone(&share.lookups).acquire_owned().await),
                None => None,
            };
            let of_all = lookups.acquire_owned().await;
            // A look-up in a thread cannot be called back: it keeps its places until it is done,
            // and not only as long as somebody waits for it.
            let look_up = tokio::spawn(async move {
                let _places = (of_session, of_all);
                resolver.resolve(&name).await
            });
            look_up.await.map_err(io::Error::other)?
        };
        match timeout(RESOLVE_TIMEOUT, looking).await {
            Ok(Ok(mut addresses)) => {
                addresses.truncate(CANDIDATES_MAX);
                Ok(addresses)
            }
            Ok(Err(_)) => Err(unresolvable()),
            Err(_) => {
                Err(Refusal::new(RefusalKind::TimedOut, "the name was not resolved within 5 s"))
            }
        }
    }

    async fn own_networks(&self) -> Arc<[IpNet]> {
        {
            let own = self.own.read().unwrap_or_else(|poison| poison.into_inner());
            if own.seen.elapsed() < OWN_NETWORKS_AGE_MAX {
                return Arc::clone(&own.networks);
            }
        }
        let fresh = spawn_blocking(own_networks).await;
        let mut own = self.own.write().unwrap_or_else(|poison| poison.into_inner());
        if let Ok(networks) = fresh {
            *own = OwnNetworks { networks, seen: Instant::now() };
        }
        Arc::clone(&own.networks)
    }
}

struct OwnNetworks {
    networks: Arc<[IpNet]>,
    seen: Instant,
}

/// The networks that our interfaces are in. An IPv6 address stands for its /64 at least: a host's
/// neighbours are in it even where the interface shows a /128.
fn own_networks() -> Arc<[IpNet]> {
    let mut networks = Vec::new();
    for interface in netdev::get_interfaces() {
        let v4 = interface.ipv4.iter().map(|net| {
            // A tunnel interface may claim the whole internet as its neighbour; it is not.
            let length = if net.prefix_len() < 8 { 32 } else { net.prefix_len() };
            IpNet::new(IpAddr::V4(net.addr()), length)
        });
        let v6 = interface.ipv6.iter().map(|net| {
            let length = if net.prefix_len() < 16 { 64 } else { net.prefix_len().min(64) };
            IpNet::new(IpAddr::V6(net.addr()), length)
        });
        networks.extend(v4.chain(v6).flatten().map(|network| network.trunc()));
    }
    networks.sort();
    networks.dedup();
    networks.into()
}

/// IPv6 and IPv4 by turns, beginning with what the resolver prefers (RFC 8305).
fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.iter().rev().copied().partition(|ip| ip.is_ipv6() == first_is_v6);
    let mut turns = Vec::with_capacity(addresses.len());
    while !first.is_empty() || !second.is_empty() {
        turns.extend(first.pop());
        turns.extend(second.pop());
    }
    turns
}

/// Connects to whichever address answers first; each has a head start before the next.
async fn connect_any(addresses: &[SocketAddr]) -> Result<TcpStream, Refusal> {
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if attempts.is_empty() {
            match waiting.next() {
                Some(&addr) => attempts.push(connect(addr)),
                None => {
                    let last = failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
                    return Err(connect_refusal(&last));
                }
            }
        }
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    failure = Some(error);
                    attempts.extend(waiting.next().map(|&addr| connect(addr)));
                }
            },
            () = sleep(ATTEMPT_DELAY), if !waiting.as_slice().is_empty() => {
                attempts.extend(waiting.next().map(|&addr| connect(addr)));
            }
        }
    }
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    // The kernel connects where it is told; this holds even if a future change above does not.
    if stream.peer_addr()? != addr {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connect_refusal(error: &io::Error) -> Refusal {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        TimedOut,
    };
    match error.kind() {
        ConnectionRefused | ConnectionReset => {
            Refusal::new(RefusalKind::ConnectionRefused, "the destination refused the connection")
        }
        TimedOut => Refusal::new(RefusalKind::TimedOut, "no answer from the destination"),
        HostUnreachable | NetworkUnreachable | AddrNotAvailable => {
            Refusal::new(RefusalKind::Unreachable, "there is no route to the destination")
        }
        _ => Refusal::new(RefusalKind::Unreachable, "the destination could not be connected to"),
    }
}

fn unresolvable() -> Refusal {
    Refusal::new(RefusalKind::Unresolvable, "the name does not resolve")
}

#[cfg(test)]
mod tests;
