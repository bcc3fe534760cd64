//! The road between two nodes.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::time::Duration;

use bytes::Bytes;
use rig::{Rig, endpoint};
use sparewire_core::NodeId;
use sparewire_node::transport::{
    Endpoint, EndpointConfig, PeerAddress, PeerAddressError, TransportError,
};
use tokio::time::timeout;

#[tokio::test]
async fn peers_know_each_other_by_key() {
    let rig = Rig::new().await;
    assert_eq!(rig.consumer.peer(), rig.endpoints[0].node_id());
    assert_eq!(rig.provider.peer(), rig.endpoints[1].node_id());
    let ((mut send, mut recv), (mut provider_send, mut provider_recv)) = rig.stream().await;
    assert_eq!(send.id(), provider_recv.id());
    let mut chunks = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
    send.write_chunks(&mut chunks).await.unwrap();
    send.finish();
    let mut six = [0; 6];
    provider_recv.read_exact(&mut six).await.unwrap();
    assert_eq!(&six, b"onetwo");
    assert_eq!(provider_recv.read_chunk(10).await, Ok(None));
    send.delivered().await.unwrap();
    provider_send.set_priority(1);
    provider_send.write_chunk(Bytes::from_static(b"abc")).await.unwrap();
    provider_send.finish();
    let error = recv.read_exact(&mut [0; 4]).await.unwrap_err();
    assert_eq!(error, TransportError::FinishedEarly);
    assert!(error.is_stream_only());
    let path = rig.consumer.path().unwrap();
    assert!(path.remote.unwrap().ip().is_loopback() && path.sent_bytes > 0);
    assert!(rig.consumer.rtt().unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn closing_tells_the_peer_code_and_reason() {
    let rig = Rig::new().await;
    rig.consumer.close(42, "no\nmoney");
    let closed = TransportError::Closed { code: 42, reason: "no money".into() };
    assert_eq!(rig.provider.closed().await, closed);
    assert_eq!(rig.provider.close_reason(), Some(closed.clone()));
    assert_eq!(rig.provider.open_bi().await.unwrap_err(), closed);
    assert_eq!(rig.consumer.closed().await, TransportError::ClosedLocally);
}

#[tokio::test]
async fn a_peer_with_another_key_is_not_reached() {
    let (real, other, caller) = (endpoint(1).await, endpoint(2).await, endpoint(3).await);
    let impostor = PeerAddress { node: other.node_id(), addrs: real.address().addrs };
    let accepting = async {
        let incoming = real.accept().await.unwrap();
        incoming.handshake().await
    };
    let both = async { tokio::join!(caller.connect(&impostor), accepting) };
    let (connected, accepted) = timeout(Duration::from_secs(15), both).await.unwrap();
    assert!(matches!(connected, Err(TransportError::Unreachable { .. })), "{connected:?}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let one = endpoint(1).await;
    let taken = one.bound_addrs()[0];
    let config = EndpointConfig { bind_addr: Some(taken), ..EndpointConfig::new([2; 32]) };
    let error = Endpoint::bind(config).await.unwrap_err();
    assert_eq!(error, TransportError::PortTaken { addr: taken });
    assert!(error.to_string().contains(&taken.to_string()));

    let nobody = PeerAddress { node: endpoint(9).await.node_id(), addrs: vec![] };
    let error = one.connect(&nobody).await.unwrap_err().to_string();
    assert!(error.contains("no address"), "{error}");
    let error = one.connect(&one.address()).await.unwrap_err().to_string();
    assert!(error.contains("ourself"), "{error}");
    one.close().await;
    assert!(one.accept().await.is_none());
}

#[tokio::test]
async fn addresses_are_read_and_shown() {
    let mut address = endpoint(1).await.address();
    assert_eq!(address.to_string().parse(), Ok(address.clone()));
    address.addrs.push("[2001:db8::1]:443".parse().unwrap());
    let text = address.to_string();
    assert_eq!(text.split('@').next().unwrap().len(), 64);
    assert_eq!(text.parse(), Ok(address.clone()));
    let node: NodeId = address.node;
    let parse = |text: &str| text.parse::<PeerAddress>().unwrap_err();
    assert_eq!(parse("nothing"), PeerAddressError::NoAt);
    assert_eq!(parse("abc@1.2.3.4:5"), PeerAddressError::Node);
    assert_eq!(parse(&format!("0x{node}@1.2.3.4:5")), PeerAddressError::Node);
    assert_eq!(parse(&format!("{}@1.2.3.4:5", "02".repeat(32))), PeerAddressError::NotAKey);
    for addr in ["", "1.2.3.4", "1.2.3.4:0", "host:80", "1.2.3.4:5,", "::1:80"] {
        let error = parse(&format!("{node}@{addr}"));
        assert!(matches!(error, PeerAddressError::Addr { .. }), "{addr}: {error}");
    }
    let many = vec!["1.2.3.4:5"; 17].join(",");
    assert_eq!(parse(&format!("{node}@{many}")), PeerAddressError::TooMany);
}

/// A stream that nobody reads must not take the connection with it: see `STREAM_WINDOW_MAX`.
#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_harm_the_others() {
    for piece in [65_536, 1200, 600] {
        let rig = Rig::new().await;
        let ((_send, mut unread), (mut stalled, _recv)) = rig.stream().await;
        let filling = async {
            loop {
                stalled.write_chunk(Bytes::from(vec![7; piece])).await.unwrap();
                // Each piece in a packet of its own.
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(Duration::from_secs(2), filling).await.is_err(), "flow control holds it");
        let ((mut send, _recv), (_send, mut recv)) = rig.stream().await;
        send.write_chunk(Bytes::from_static(b"alive")).await.unwrap();
        recv.read_exact(&mut [0; 5]).await.unwrap();
        let mut read = 0;
        while read < 1 << 20 {
            read += unread.read_chunk(1 << 20).await.unwrap().unwrap().len();
        }
    }
}
