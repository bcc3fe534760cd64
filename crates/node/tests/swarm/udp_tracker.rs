//! A UDP tracker (BEP 15), and those that answer badly.
#![allow(unreachable_pub, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    net::{SocketAddr, SocketAddrV4},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{net::UdpSocket, task::JoinHandle};

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const ERROR: u32 = 3;

/// How a tracker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Tells everybody of everybody.
    Honest,
    /// Says nothing.
    Silent,
    /// Cuts its answers to announcements off after so many bytes.
    Cut(usize),
    /// Cuts its answers to `connect` off after so many bytes.
    CutFirst(usize),
    /// Answers under another transaction id.
    OtherTransaction,
    /// Answers an announcement with what belongs to another question.
    OtherAction(u32),
    /// Says that something is wrong, with bytes that are no text.
    Complains,
    /// Names as many peers as a packet holds, all of which lead nowhere; and wants to be asked again
    /// at once.
    Crowds,
    /// Answers each question a hundred times.
    Repeats,
}

pub struct UdpTracker {
    pub url: String,
    task: JoinHandle<()>,
    peers: Arc<Mutex<BTreeSet<SocketAddrV4>>>,
    asked: Arc<AtomicUsize>,
}

impl Drop for UdpTracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl UdpTracker {
    pub async fn start(manner: Manner) -> Self {
        let socket = UdpSocket::bind(super::anywhere()).await.unwrap();
        let url = format!("udp://{}/announce", socket.local_addr().unwrap());
        let (peers, asked) = (Arc::<Mutex<BTreeSet<_>>>::default(), Arc::<AtomicUsize>::default());
        let (known, counts) = (Arc::clone(&peers), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut packet = [0; 2048];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut packet).await else { continue };
                counts.fetch_add(1, Ordering::Relaxed);
                let answers = answer(manner, &packet[..length], from, &known);
                for answer in answers {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { url, task, peers, asked }
    }

    /// How many peers have announced themselves.
    pub fn announced(&self) -> usize {
        self.peers.lock().unwrap().len()
    }

    /// How many packets came.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn number<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    packet[at..at + N].try_into().unwrap()
}

fn answer(
    manner: Manner,
    packet: &[u8],
    from: SocketAddr,
    peers: &Mutex<BTreeSet<SocketAddrV4>>,
) -> Vec<Vec<u8>> {
    let SocketAddr::V4(from) = from else { return Vec::new() };
    let action = u32::from_be_bytes(number(packet, 8));
    let mut transaction = u32::from_be_bytes(number(packet, 12));
    if manner == Manner::OtherTransaction {
        transaction ^= 1;
    }
    let mut out = Vec::new();
    let mut put = |numbers: &[u32]| {
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
    };
    match action {
        CONNECT => {
            assert_eq!(packet.len(), 16);
            assert_eq!(number(packet, 0), 0x0417_2710_1980u64.to_be_bytes());
            put(&[CONNECT, transaction, 0x5eed, 0x5eed]);
        }
        ANNOUNCE => {
            assert_eq!(packet.len(), 98);
            assert_eq!(number(packet, 0), 0x0000_5eed_0000_5eedu64.to_be_bytes());
            let own = SocketAddrV4::new(*from.ip(), u16::from_be_bytes(number(packet, 96)));
            let mut peers = peers.lock().unwrap();
            let others: Vec<SocketAddrV4> = match manner {
                Manner::Crowds => (0..2_700u32)
                    .map(|n| SocketAddrV4::new([127, 9, (n / 250) as u8, n as u8].into(), 9))
                    .collect(),
                _ => peers.iter().filter(|peer| **peer != own).copied().collect(),
            };
            peers.insert(own);
            let interval = if manner == Manner::Crowds { 0 } else { 5 };
            match manner {
                Manner::OtherAction(action) => put(&[action, transaction, 0, 0, 0]),
                Manner::Complains => put(&[ERROR, transaction, u32::MAX, u32::MAX]),
                _ => put(&[ANNOUNCE, transaction, interval, 0, 1]),
            }
            for peer in others {
                out.extend_from_slice(&peer.ip().octets());
                out.extend_from_slice(&peer.port().to_be_bytes());
            }
        }
        other => panic!("action {other}"),
    }
    match manner {
        Manner::Silent => Vec::new(),
        Manner::Cut(length) if action == ANNOUNCE => vec![out[..length].to_vec()],
        Manner::CutFirst(length) if action == CONNECT => vec![out[..length].to_vec()],
        Manner::Repeats => vec![out; 100],
        _ => vec![out],
    }
}
