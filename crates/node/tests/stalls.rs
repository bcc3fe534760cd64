//! Applications that read slowly or not at all, over real loopback sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use rig::{Meter, Rig, Running, SOON, hash, pattern, read_all};
use sparewire_node::copy::CopyEnd;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

/// Waits until both ends have counted the same and no more comes.
async fn standstill(gate: &Meter, tally: &Meter) -> u64 {
    let still = async {
        let mut before = (0, 0);
        loop {
            sleep(Duration::from_millis(300)).await;
            let now = (gate.counts().1, tally.counts().1);
            if now == before && now.0 == now.1 && now.0 > 0 {
                return now.0;
            }
            before = now;
        }
    };
    timeout(SOON, still).await.expect("everything under way is taken")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stalled_application_has_not_read_is_counted_by_both_ends_and_waits_for_it() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let Running { mut app, mut origin, consumer, provider, pauses } =
        rig.tunnel(&gate, &tally).await;
    let sent = pattern(7, 48 << 20);
    let expected = hash(&sent);
    let feeding = tokio::spawn(async move {
        origin.write_all(&sent).await.unwrap();
        origin.shutdown().await.unwrap();
        origin
    });
    let counted = standstill(&gate, &tally).await;
    assert!(counted < 48 << 20, "the origin is held up, too");
    assert_eq!(pauses.load(SeqCst), 1);
    // The other direction is not.
    app.write_all(b"still there").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(hash(&read_all(&mut app).await), expected);
    let mut origin = feeding.await.unwrap();
    assert_eq!(read_all(&mut origin).await, b"still there");
    for report in [consumer.await.unwrap(), provider.await.unwrap()] {
        assert_eq!((report.end, report.settled), (CopyEnd::Finished, true));
        assert_eq!((report.up, report.down), (11, 48 << 20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_application_that_gives_up_leaves_both_ends_with_one_count() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let Running { app, mut origin, consumer, provider, .. } = rig.tunnel(&gate, &tally).await;
    let feeding = tokio::spawn(async move {
        let _ = origin.write_all(&pattern(7, 48 << 20)).await;
    });
    standstill(&gate, &tally).await;
    app.set_zero_linger().unwrap();
    drop(app);
    let both = async { (consumer.await.unwrap(), provider.await.unwrap()) };
    let (ours, theirs) = timeout(SOON, both).await.expect("both pumps end");
    assert!(ours.settled && theirs.settled, "{ours:?} {theirs:?}");
    assert_eq!(ours.down, theirs.down);
    assert_eq!(gate.counts(), tally.counts());
    feeding.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_application_is_paused_and_served_on_and_on() {
    let rig = Rig::new().await;
    let (gate, tally) = (Meter::open(), Meter::open());
    let Running { mut app, mut origin, consumer, provider, pauses } =
        rig.tunnel(&gate, &tally).await;
    let sent = pattern(9, 24 << 20);
    let expected = hash(&sent);
    let feeding = tokio::spawn(async move {
        origin.write_all(&sent).await.unwrap();
        origin
    });
    let (mut got, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
    while got.len() < 24 << 20 {
        sleep(Duration::from_millis(30)).await;
        let read = timeout(SOON, app.read(&mut buffer)).await.expect("it goes on").unwrap();
        got.extend_from_slice(&buffer[..read]);
    }
    assert_eq!(hash(&got), expected);
    assert!(pauses.load(SeqCst) >= 1);
    drop((app, feeding.await.unwrap()));
    let (ours, theirs) = (consumer.await.unwrap(), provider.await.unwrap());
    assert_eq!((ours.down, theirs.down), (24 << 20, 24 << 20));
}
