//! A proxy between a carrier and a node that does what it likes with each request.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Deed {
    Pass,
    /// Hangs up without asking the node.
    Drop,
    /// Asks the node, and hangs up.
    Lose,
    /// Passes it on after so many milliseconds.
    Delay(u64),
    /// Asks twice and passes the second answer on.
    Repeat,
    /// Answers with this JSON-RPC error.
    Error(i64, &'static str),
    /// Answers with this HTTP status, and in how many seconds to come again.
    Status(u16, u64),
    /// Answers with half of the answer.
    Half,
    /// Moves the numbers of the newest and the final block by so many.
    Head(i64),
    /// Tells a nonce that is so many off.
    Nonce(i64),
}

type Judge = dyn FnMut(u64, &str) -> Deed + Send;

/// A proxy on loopback, until dropped.
pub(super) struct Proxy {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Sits in front of the node at `upstream`; `judge` is told each request's number and method.
    pub(super) async fn start(
        upstream: &str,
        judge: impl FnMut(u64, &str) -> Deed + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let judge: Arc<std::sync::Mutex<Box<Judge>>> =
            Arc::new(std::sync::Mutex::new(Box::new(judge)));
        let (client, upstream) = (client(), upstream.to_owned());
        let count = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, upstream) = (client.clone(), upstream.clone());
                let (judge, count) = (judge.clone(), count.clone());
                tokio::spawn(async move {
                    // Whoever hangs up early is not served.
                    let _ = serve_one(stream, |request| async move {
                        let method = request["method"].as_str().unwrap_or_default().to_owned();
                        let number = count.fetch_add(1, Ordering::SeqCst);
                        let deed = (judge.lock().unwrap())(number, &method);
                        answer(&client, &upstream, deed, request).await
                    })
                    .await;
                });
            }
        });
        Self { addr, task }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Http(format!("http://{}", self.addr))
    }
}

fn client() -> reqwest::Client {
    // The carrier's own transport chooses the provider of cryptography.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// What a node at `url` answers, without a proxy.
pub(super) async fn ask(url: &str, method: &str, params: Value) -> Option<Value> {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let answer = client().post(url).json(&request).send().await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    Some(answer["result"].clone())
}

async fn serve_one<A: Future<Output = Option<String>>>(
    mut stream: TcpStream,
    answer: impl FnOnce(Value) -> A,
) -> std::io::Result<()> {
    let (mut read, mut body_at) = (Vec::new(), None);
    let body = loop {
        let mut chunk = [0; 16_384];
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        read.extend_from_slice(&chunk[..length]);
        if body_at.is_none() {
            let end = read.windows(4).position(|it| it == b"\r\n\r\n");
            body_at = end.map(|end| {
                let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                (end + 4, length.and_then(|it| it.trim().parse::<usize>().ok()).unwrap_or(0))
            });
        }
        match body_at {
            Some((at, length)) if read.len() >= at + length => break &read[at..at + length],
            _ => {}
        }
    };
    let request = serde_json::from_slice(body).unwrap();
    if let Some(answer) = answer(request).await {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
    }
    Ok(())
}

/// The HTTP answer; `None` hangs up.
async fn answer(
    client: &reqwest::Client,
    upstream: &str,
    deed: Deed,
    request: Value,
) -> Option<String> {
    let http = |status: u16, more: &str, body: &str| {
        let length = body.len();
        Some(format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ))
    };
    let forward = async || -> Option<Value> {
        let answer = client.post(upstream).json(&request).send().await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    };
    match deed {
        Deed::Drop => return None,
        Deed::Error(code, message) => {
            let error = json!({ "code": code, "message": message });
            let body = json!({ "jsonrpc": "2.0", "id": request["id"], "error": error });
            return http(200, "", &body.to_string());
        }
        Deed::Status(status, secs) => {
            return http(status, &format!("Retry-After: {secs}\r\n"), "not now");
        }
        Deed::Delay(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Deed::Repeat => {
            forward().await;
        }
        _ => {}
    }
    let mut answer = forward().await?;
    let moved = |value: &mut Value, by: i64| {
        if let Ok(number) = serde_json::from_value::<alloy_primitives::U64>(value.clone()) {
            let number = number.to::<u64>().saturating_add_signed(by);
            *value = json!(alloy_primitives::U64::from(number));
        }
    };
    match deed {
        Deed::Lose => return None,
        Deed::Half => {
            let text = answer.to_string();
            return http(200, "", &text[..text.len() / 2]);
        }
        Deed::Head(by) if request["method"] == "eth_getBlockByNumber" => {
            moved(&mut answer["result"]["number"], by);
        }
        Deed::Nonce(by) if request["method"] == "eth_getTransactionCount" => {
            moved(&mut answer["result"], by);
        }
        _ => {}
    }
    http(200, "", &answer.to_string())
}

/// About every eighth request meets with a mishap, the same ones for the same seed.
pub(super) fn mishaps(seed: u64) -> impl FnMut(u64, &str) -> Deed + Send + 'static {
    move |number, _| {
        let dice = alloy_primitives::keccak256([seed.to_be_bytes(), number.to_be_bytes()].concat());
        match dice[0] {
            0..4 => Deed::Drop,
            4..8 => Deed::Lose,
            8..14 => Deed::Delay(u64::from(dice[1] % 50)),
            14..18 => Deed::Repeat,
            18..21 => Deed::Error(-32603, "internal error"),
            21..24 => Deed::Status(503, 0),
            24..26 => Deed::Status(429, 0),
            26..28 => Deed::Half,
            28..32 => Deed::Head(-i64::from(dice[1] % 4)),
            _ => Deed::Pass,
        }
    }
}

/// As [`mishaps`], and what no quorum believes: blocks that are not there, and other nonces.
pub(super) fn lies(seed: u64) -> impl FnMut(u64, &str) -> Deed + Send + 'static {
    let mut mishaps = mishaps(seed);
    move |number, method| {
        let dice = alloy_primitives::keccak256([number.to_be_bytes(), seed.to_be_bytes()].concat());
        match (method, dice[0]) {
            ("eth_getBlockByNumber", 0..128) => Deed::Head(i64::from(dice[1]) * 4 - 512),
            ("eth_getTransactionCount", 0..128) => Deed::Nonce(i64::from(dice[1]) - 128),
            ("eth_sendRawTransaction", 0..64) => Deed::Error(-32000, "nonce too low"),
            ("eth_sendRawTransaction", 64..128) => Deed::Error(-32000, "insufficient funds"),
            ("eth_estimateGas", 0..64) => Deed::Error(3, "execution reverted"),
            _ => mishaps(number, method),
        }
    }
}

#[tokio::test]
async fn a_node_that_limits_us_is_not_asked_before_it_says() {
    let chain = embedded();
    let server = serve(chain.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let direct = Endpoint::Http(server.url());
    let deployed = deploy(direct.clone(), signer(PAYER), quick()).await.unwrap();
    let limit = Arc::new(AtomicU64::new(u64::MAX));
    let (secs, asked) = (limit.clone(), Arc::new(AtomicU64::new(0)));
    let counter = asked.clone();
    let proxy = Proxy::start(&server.url(), move |_, _| match secs.load(Ordering::SeqCst) {
        u64::MAX => Deed::Pass,
        secs => {
            counter.fetch_add(1, Ordering::SeqCst);
            Deed::Status(429, secs)
        }
    })
    .await;

    // One alone: an error that says why, at once where it is long.
    let alone = connect(proxy.endpoint(), &deployed, PAYER, quick()).await;
    limit.store(3_600, Ordering::SeqCst);
    let error = alone.head().await.unwrap_err().to_string();
    assert!(error.contains("(it limits our requests, for 3600 s)"), "{error}");
    assert_eq!(asked.swap(0, Ordering::SeqCst), 1, "and it is not asked again");

    // One of three: named, and left alone meanwhile.
    limit.store(u64::MAX, Ordering::SeqCst);
    let endpoints = vec![proxy.endpoint(), direct.clone(), direct];
    let three = Endpoint::Several { endpoints, quorum: 2 };
    let several = connect(three, &deployed, PAYER, quick()).await;
    limit.store(120, Ordering::SeqCst);
    several.transfer(Address::repeat_byte(5), 7).await.unwrap();
    let fault = several.nodes()[0].fault.clone().unwrap();
    assert_eq!(fault, Fault::Limited(120));
    assert_eq!(fault.to_string(), "limits our requests, for 120 s");
    let names: Vec<_> = several.nodes().into_iter().map(|it| it.name).collect();
    assert_eq!(names[2], format!("{} (number 2)", names[1]), "two URLs of one host");
    let so_far = asked.load(Ordering::SeqCst);
    for _ in 0..5 {
        several.head().await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), so_far);
}
