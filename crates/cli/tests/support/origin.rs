//! An HTTP/1.1 origin on raw TCP, with content whose hash is known and a memory for what it got.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};

/// What an origin received in a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub length: usize,
    pub sha256: String,
}

/// - `GET /bytes/N`: the first N bytes of the content
/// - `GET /paced/N`: the same, 64 KiB every 10 ms
/// - `PUT` or `POST` anything: remembered in `seen`
/// - anything that does not begin like HTTP: read to its end, then answered with its hash
pub struct Origin {
    pub addr: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
}

impl Origin {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (log, ended) = (Arc::clone(&seen), Arc::clone(&over));
        thread::spawn(move || {
            for tcp in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(tcp) = tcp else { continue };
                let (log, ended) = (Arc::clone(&log), Arc::clone(&ended));
                // A peer that leaves early is part of some stories.
                thread::spawn(move || serve(tcp, &log, &ended));
            }
        });
        Self { addr, seen, over }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Waits for the one upload to `path`.
    #[track_caller]
    pub fn upload(&self, path: &str) -> Seen {
        super::until("the upload", || {
            self.seen.lock().unwrap().iter().find(|seen| seen.path == path).cloned()
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr); // wakes the listener
    }
}

fn serve(tcp: TcpStream, seen: &Mutex<Vec<Seen>>, over: &AtomicBool) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(super::PATIENCE))?;
    tcp.set_write_timeout(Some(super::PATIENCE))?;
    let mut out = tcp.try_clone()?;
    let mut reader = BufReader::new(tcp);
    let is_http = reader.fill_buf()?.first().is_some_and(u8::is_ascii_uppercase);
    if !is_http {
        let mut all = Vec::new();
        reader.read_to_end(&mut all)?;
        write!(out, "{} {}", all.len(), sha256(&all))?;
        return out.shutdown(Shutdown::Write);
    }
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    let request: Vec<String> = head[0].split(' ').map(str::to_owned).collect();
    let (method, path) = (request[0].to_uppercase(), request[1].clone());
    if method == "GET" {
        let length: usize = path.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
        let paced = path.starts_with("/paced");
        let content = content(length);
        for chunk in content.chunks(64 << 10) {
            out.write_all(chunk)?;
            if paced {
                thread::sleep(Duration::from_millis(10)); // the pace of this origin's line
            }
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        return out.shutdown(Shutdown::Write);
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if head.iter().any(|line| line == "expect: 100-continue") {
        write!(out, "HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    reader.read_exact(&mut body)?;
    let sha256 = sha256(&body);
    seen.lock().unwrap().push(Seen { method, path, length: body.len(), sha256: sha256.clone() });
    let length = sha256.len();
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{sha256}"
    )?;
    out.shutdown(Shutdown::Write)
}

/// Bytes that do not compress (splitmix64); the beginning of a longer content is the shorter one.
pub fn content(length: usize) -> Vec<u8> {
    let mut state = 0u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The hash of an origin's first `length` bytes.
pub fn sha256_of(length: usize) -> String {
    sha256(&content(length))
}
