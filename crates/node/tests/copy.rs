//! The pumps between TCP and QUIC over real loopback sockets: what arrives, what is counted, and
//! how the ends end.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use rig::{Meter, Rig, Running, SOON, hash, pattern, read_all};
use sparewire_node::{
    copy::{CopyEnd, CopyReport, DrainLimit},
    transport::TransportError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Both reports, in time.
async fn reports(running: Running) -> (CopyReport, CopyReport) {
    let Running { consumer, provider, .. } = running;
    let both = async { (consumer.await.unwrap(), provider.await.unwrap()) };
    timeout(SOON, both).await.expect("both pumps end")
}

/// That both ends have counted the same, and that this is what the gates were told.
fn assert_settled(gate: &Meter, tally: &Meter, consumer: &CopyReport, provider: &CopyReport) {
    assert!(consumer.settled && provider.settled, "{consumer:?} {provider:?}");
    assert_eq!((consumer.up, consumer.down), (provider.up, provider.down));
    assert_eq!(gate.counts(), (provider.up, provider.down));
    assert_eq!(tally.counts(), (consumer.up, consumer.down));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_unchanged_both_ways_at_once_and_are_counted_once() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let (early, up, down) = (pattern(1, 777), pattern(2, 5_000_001), pattern(3, 7_000_003));
    let leftover = Bytes::from(early.clone());
    let mut running = rig.tunnel_with(&gate, &tally, leftover, DrainLimit::default()).await;
    let (app, origin) = (&mut running.app, &mut running.origin);
    let (mut app_read, mut app_write) = app.split();
    let (mut origin_read, mut origin_write) = origin.split();
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (sent_up, sent_down, got_all_up, got_all_down) = tokio::join!(
        async { (app_write.write_all(&up).await, app_write.shutdown().await) },
        async { (origin_write.write_all(&down).await, origin_write.shutdown().await) },
        origin_read.read_to_end(&mut got_up),
        app_read.read_to_end(&mut got_down),
    );
    assert!(sent_up.0.is_ok() && sent_up.1.is_ok() && sent_down.0.is_ok() && sent_down.1.is_ok());
    assert!(got_all_up.is_ok() && got_all_down.is_ok());
    assert_eq!(hash(&got_up), hash(&[early.clone(), up.clone()].concat()));
    assert_eq!(hash(&got_down), hash(&down));
    let (consumer, provider) = reports(running).await;
    assert_eq!(
        (consumer.end.clone(), provider.end.clone()),
        (CopyEnd::Finished, CopyEnd::Finished)
    );
    assert_eq!(consumer.up as usize, early.len() + up.len());
    assert_eq!(consumer.down as usize, down.len());
    assert_settled(&gate, &tally, &consumer, &provider);
}

#[tokio::test]
async fn either_side_may_close_its_half_first() {
    let rig = Rig::new().await;
    for app_first in [true, false] {
        let (gate, tally) = (Meter::open(), Meter::open());
        let mut running = rig.tunnel(&gate, &tally).await;
        let Running { app, origin, .. } = &mut running;
        let (first, second) = if app_first { (app, origin) } else { (origin, app) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(read_all(second).await, b"question");
        second.write_all(b"answer after the end of the question").await.unwrap();
        second.shutdown().await.unwrap();
        assert_eq!(read_all(first).await, b"answer after the end of the question");
        let (consumer, provider) = reports(running).await;
        assert_eq!(provider.end, CopyEnd::Finished);
        assert_settled(&gate, &tally, &consumer, &provider);
    }
}

/// Closes as a killed process does.
fn kill(tcp: TcpStream) {
    tcp.set_zero_linger().unwrap();
    drop(tcp);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_gives_up_within_a_download_leaves_equal_counts() {
    let rig = Rig::new().await;
    for by_reset in [true, false] {
        let (gate, tally) = (Meter::open(), Meter::open());
        let Running { mut app, mut origin, consumer, provider, .. } =
            rig.tunnel(&gate, &tally).await;
        let feeding = tokio::spawn(async move {
            let block = vec![7; 1 << 20];
            let written = async { while origin.write_all(&block).await.is_ok() {} };
            timeout(SOON, written).await.expect("the origin hears of it");
        });
        app.read_exact(&mut vec![0; 3_000_000]).await.unwrap();
        if by_reset {
            kill(app);
        } else {
            drop(app); // unread data is in the socket, or will be
        }
        let started = Instant::now();
        let both = async { (consumer.await.unwrap(), provider.await.unwrap()) };
        let (consumer, provider) = timeout(SOON, both).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "no limit of time was needed");
        assert!(matches!(consumer.end, CopyEnd::Broken(_)), "{consumer:?}");
        assert_eq!(provider.end, CopyEnd::PeerBroken);
        assert!(provider.down >= 3_000_000);
        assert_settled(&gate, &tally, &consumer, &provider);
        feeding.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_gives_up_within_an_upload_leaves_equal_counts() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let Running { mut app, mut origin, consumer, provider, .. } = rig.tunnel(&gate, &tally).await;
    // The origin reads a little and then no more: everything between is full.
    let block = vec![7; 1 << 20];
    let feeding = async { while app.write_all(&block).await.is_ok() {} };
    assert!(timeout(Duration::from_millis(500), feeding).await.is_err(), "back-pressure");
    let counted = gate.counts().0;
    assert!(counted < 32 << 20, "what is under way is bounded: {counted}");
    kill(app);
    let both = async { (consumer.await.unwrap(), provider.await.unwrap()) };
    let (consumer, provider) = timeout(SOON, both).await.unwrap();
    assert!(matches!(consumer.end, CopyEnd::Broken(_)), "{consumer:?}");
    assert_eq!(provider.end, CopyEnd::PeerBroken);
    assert_settled(&gate, &tally, &consumer, &provider);
    // The origin sees a broken upload, not a complete one.
    let mut rest = Vec::new();
    let error = timeout(SOON, origin.read_to_end(&mut rest)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_breaks_leaves_equal_counts_and_a_broken_application() {
    let rig = Rig::new().await;
    for uploading in [false, true] {
        let (gate, tally) = (Meter::open(), Meter::open());
        let Running { mut app, mut origin, consumer, provider, .. } =
            rig.tunnel(&gate, &tally).await;
        origin.write_all(&pattern(1, 2_000_000)).await.unwrap();
        let mut got = vec![0; 2_000_000];
        app.read_exact(&mut got).await.unwrap();
        assert_eq!(hash(&got), hash(&pattern(1, 2_000_000)));
        if uploading {
            let block = vec![7; 1 << 20];
            let feeding = async { while app.write_all(&block).await.is_ok() {} };
            assert!(timeout(Duration::from_millis(300), feeding).await.is_err());
        }
        kill(origin);
        let error = timeout(SOON, app.read_to_end(&mut Vec::new())).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let both = async { (consumer.await.unwrap(), provider.await.unwrap()) };
        let (consumer, provider) = timeout(SOON, both).await.unwrap();
        assert!(matches!(provider.end, CopyEnd::Broken(_)), "{provider:?}");
        assert_eq!(consumer.end, CopyEnd::PeerBroken);
        assert_settled(&gate, &tally, &consumer, &provider);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_may_break_at_once() {
    let rig = Rig::new().await;
    for _ in 0..20 {
        let (gate, tally) = (Meter::open(), Meter::open());
        let Running { mut app, mut origin, consumer, provider, .. } =
            rig.tunnel(&gate, &tally).await;
        app.write_all(&[1; 10_000]).await.unwrap();
        origin.write_all(&[2; 10_000]).await.unwrap();
        tokio::join!(async { kill(app) }, async { kill(origin) });
        let started = Instant::now();
        let both = async { (consumer.await.unwrap(), provider.await.unwrap()) };
        let (consumer, provider) = timeout(SOON, both).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_settled(&gate, &tally, &consumer, &provider);
    }
}

#[tokio::test]
async fn no_byte_passes_beyond_the_grant() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::new(0), Meter::open());
    let Running { app, origin, consumer, provider, .. } = rig.tunnel(&gate, &tally).await;
    let (arrived_up, arrived_down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for (tcp, arrived) in [(app, arrived_down.clone()), (origin, arrived_up.clone())] {
        let (mut reader, mut writer) = tcp.into_split();
        tokio::spawn(async move { writer.write_all(&[7; 1 << 20]).await });
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes @ 1..) = reader.read(&mut buffer).await {
                arrived.fetch_add(bytes as u64, SeqCst);
            }
        });
    }
    let mut total = 0;
    for grant in [0, 1, 1000, 100_000] {
        gate.raise(grant);
        total += grant;
        sleep(Duration::from_millis(200)).await;
        let (up, down) = gate.counts();
        assert_eq!(up + down, total);
        assert_eq!((arrived_up.load(SeqCst), arrived_down.load(SeqCst)), (up, down));
        assert_eq!(tally.counts().1, down);
    }
    gate.stop();
    let both = async { (consumer.await.unwrap(), provider.await.unwrap()) };
    let (consumer, provider) = timeout(SOON, both).await.expect("the consumer hears of the stop");
    assert_eq!(provider.end, CopyEnd::Stopped);
    assert!(matches!(consumer.end, CopyEnd::Transport(TransportError::Stopped { .. })));
    let (up, down) = gate.counts();
    assert_eq!(up + down, total);
    assert_eq!((arrived_up.load(SeqCst), arrived_down.load(SeqCst)), (up, down));
}

#[tokio::test]
async fn a_gate_that_opens_again_lets_everything_through() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::new(0), Meter::open());
    let mut running = rig.tunnel(&gate, &tally).await;
    let data = pattern(5, 300_000);
    running.origin.write_all(&data).await.unwrap();
    running.origin.shutdown().await.unwrap();
    running.app.shutdown().await.unwrap();
    let raising = async {
        while gate.counts().1 < 300_000 {
            gate.raise(1 + gate.counts().1 % 7919);
            sleep(Duration::from_millis(1)).await;
        }
    };
    let (got, ()) = tokio::join!(read_all(&mut running.app), raising);
    assert_eq!(hash(&got), hash(&data));
    let (consumer, provider) = reports(running).await;
    assert_settled(&gate, &tally, &consumer, &provider);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_is_bounded_in_bytes() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let limit = DrainLimit { bytes: 1000, time: Duration::from_secs(2) };
    let Running { mut app, mut origin, consumer, provider, .. } =
        rig.tunnel_with(&gate, &tally, Bytes::new(), limit).await;
    let feeding = tokio::spawn(async move {
        let block = vec![7; 1 << 20];
        while origin.write_all(&block).await.is_ok() {}
    });
    app.read_exact(&mut vec![0; 1_000_000]).await.unwrap();
    kill(app);
    let consumer = timeout(SOON, consumer).await.unwrap().unwrap();
    assert!(matches!(consumer.end, CopyEnd::Broken(_)));
    assert!(!consumer.settled);
    timeout(SOON, provider).await.unwrap().unwrap();
    feeding.await.unwrap();
}

#[tokio::test]
async fn a_lost_connection_ends_both_pumps_and_breaks_both_tcp_connections() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let Running { mut app, mut origin, consumer, provider, .. } = rig.tunnel(&gate, &tally).await;
    rig.consumer.close(7, "bye");
    for tcp in [&mut app, &mut origin] {
        let end = timeout(SOON, tcp.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(consumer.await.unwrap().end, CopyEnd::Transport(TransportError::ClosedLocally));
    let closed = TransportError::Closed { code: 7, reason: "bye".into() };
    assert_eq!(provider.await.unwrap().end, CopyEnd::Transport(closed));
}

#[tokio::test]
async fn a_peer_that_resets_or_stops_the_stream_ends_the_pump() {
    use sparewire_node::copy::{Pause, Tunnel, provider_copy};
    let rig = Rig::new().await;
    for stop in [false, true] {
        let ((mut send, mut recv), (provider_send, provider_recv)) = rig.stream().await;
        let (mut origin, tcp) = rig::tcp_pair().await;
        let gate = Meter::open();
        let tunnel =
            Tunnel { tcp, leftover: Bytes::new(), send: provider_send, recv: provider_recv };
        let never = std::future::pending();
        let limit = DrainLimit::default();
        let pause = Pause::default();
        let copying = provider_copy(tunnel, &gate, limit, &pause, never, async {});
        let breaking = async {
            if stop {
                recv.stop(3);
                sleep(Duration::from_millis(100)).await;
                let _ = origin.write_all(b"data").await;
            } else {
                send.reset(3);
            }
        };
        let (report, ()) = timeout(SOON, async { tokio::join!(copying, breaking) }).await.unwrap();
        let expected = match stop {
            true => TransportError::Stopped { code: 3 },
            false => TransportError::Reset { code: 3 },
        };
        assert_eq!(report.end, CopyEnd::Transport(expected));
        assert!(!report.settled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_tunnels_hold_no_buffers_and_still_work() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let before = resident_bytes();
    let mut tunnels = Vec::new();
    for _ in 0..1000 {
        let mut running = rig.tunnel(&gate, &tally).await;
        running.app.write_all(b"hello").await.unwrap();
        running.origin.read_exact(&mut [0; 5]).await.unwrap();
        tunnels.push(running);
    }
    sleep(Duration::from_millis(200)).await;
    // Both ends of each tunnel and four sockets are in this process.
    let each = resident_bytes().saturating_sub(before) / 1000;
    println!("{each} bytes resident for both ends of an idle tunnel");
    assert!(each < 64 << 10, "{each} bytes for both ends of an idle tunnel");
    for running in &mut tunnels {
        running.origin.write_all(b"still here").await.unwrap();
        running.app.read_exact(&mut [0; 10]).await.unwrap();
        running.app.shutdown().await.unwrap();
        running.origin.shutdown().await.unwrap();
    }
    for running in tunnels {
        let (consumer, provider) = reports(running).await;
        assert_eq!((consumer.end, provider.end), (CopyEnd::Finished, CopyEnd::Finished));
    }
    assert_eq!(gate.counts(), (5000, 10_000));
    assert_eq!(tally.counts(), (5000, 10_000));
    assert_eq!(gate.up.load(SeqCst), 5000);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_streams_by_the_thousand_go_through_one_connection() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    for _ in 0..3000 {
        let mut running = rig.tunnel(&gate, &tally).await;
        running.app.write_all(b"q").await.unwrap();
        running.app.shutdown().await.unwrap();
        running.origin.write_all(b"a").await.unwrap();
        running.origin.shutdown().await.unwrap();
        assert_eq!(read_all(&mut running.app).await, b"a");
        reports(running).await;
    }
    assert_eq!(gate.counts(), (3000, 3000));
    assert_eq!(tally.counts(), (3000, 3000));
}
