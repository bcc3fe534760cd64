//! What applications send to the proxy, over a real loopback connection: greeting and request of
//! SOCKS5, and HTTP `CONNECT`.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sparewire_node::{
    proxy::{Proxy, ProxyHandler, ProxyRequest},
    refusal::{Refusal, RefusalKind},
    target::Target,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    runtime::Runtime,
    time::timeout,
};

use super::chain::runtime;

/// Longer than anything here may take: everything is sent at once, and nothing follows.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request that is tried: beyond twice what the proxy reads.
const LENGTH_MAX: usize = 40 << 10;

/// The rest of a SOCKS5 greeting and request, after the version.
pub fn socks(data: &[u8]) {
    let bytes = [&[5], data].concat();
    let (answer, target) = talk(&bytes);
    assert!(matches!(answer.first(), None | Some(5)), "{answer:?}");
    if target.is_some() {
        // The method, then the reply: both as RFC 1928 has them.
        assert!(answer.len() <= 2 + 10, "{answer:?}");
        let methods = usize::from(data[0]);
        let request = &data[1 + methods..];
        assert!(data[1..][..methods].contains(&0), "it did without authentication");
        assert_eq!(request[..2], [5, 1], "it asked to connect");
    }
}

/// An HTTP request.
pub fn http_connect(data: &[u8]) {
    if data.first() == Some(&5) {
        return; // that is SOCKS5
    }
    let (answer, target) = talk(data);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
    if target.is_some() {
        let empty_lines = data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        assert!(data[empty_lines..].starts_with(b"CONNECT "), "only tunnels");
    }
}

/// What a session with the proxy left.
#[derive(Default)]
struct Seen(Mutex<Option<Target>>);

impl Seen {
    fn put(&self, target: Option<Target>) -> Option<Target> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), target)
    }
}

#[async_trait]
impl ProxyHandler for Seen {
    async fn handle(&self, request: ProxyRequest) {
        let target = request.target().clone();
        let accepted = target.port.is_multiple_of(2);
        self.put(Some(target));
        if accepted {
            if let Ok(mut accepted) = request.accept().await {
                let _ = accepted.tcp.shutdown().await;
                let _ = accepted.tcp.read_to_end(&mut Vec::new()).await;
            }
        } else {
            request.refuse(Refusal::new(RefusalKind::Policy, "no \"odd\" ports\\")).await;
        }
    }
}

/// Sends everything, and returns the answer and where it was understood to lead.
fn talk(bytes: &[u8]) -> (Vec<u8>, Option<Target>) {
    thread_local! {
        static PROXY: RefCell<(Runtime, SocketAddr, Arc<Seen>)> = RefCell::new({
            let (runtime, seen) = (runtime(), Arc::new(Seen::default()));
            let proxy = runtime.block_on(Proxy::bind(SocketAddr::from(([127, 0, 0, 1], 0))));
            let proxy = proxy.expect("there is a port");
            let addr = proxy.addr();
            runtime.spawn(proxy.serve(seen.clone()));
            (runtime, addr, seen)
        });
        static CLIENT: Cell<u16> = const { Cell::new(0) };
    }
    let bytes = &bytes[..bytes.len().min(LENGTH_MAX)];
    // Each connection waits a minute for stragglers after its end, so each has an address of its
    // own where there are more than one.
    let number = CLIENT.replace(CLIENT.get().wrapping_add(1)).to_be_bytes();
    let ip =
        if cfg!(target_os = "linux") { [127, 1, number[0], number[1]] } else { [127, 0, 0, 1] };
    PROXY.with_borrow(|(runtime, addr, seen)| {
        seen.put(None);
        let session = async {
            let socket = TcpSocket::new_v4().expect("there is a socket");
            socket.bind(SocketAddr::from((Ipv4Addr::from(ip), 0))).expect("there is a port");
            let mut tcp = socket.connect(*addr).await.expect("the proxy listens");
            let (mut answer, mut rest) = (Vec::new(), bytes);
            let (mut read, mut write) = tcp.split();
            let send = async {
                let _ = write.write_all_buf(&mut rest).await; // it may not want to hear the rest
                let _ = write.shutdown().await;
            };
            // It may reset the connection where it did not read everything.
            let receive = async { read.read_to_end(&mut answer).await };
            let _ = tokio::join!(send, receive);
            answer
        };
        let answer = runtime.block_on(async { timeout(PATIENCE, session).await });
        (answer.expect("the proxy answers or ends the connection"), seen.put(None))
    })
}
