#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;

/// Answers from a table; a name that is asked for again gets the next answer.
#[derive(Default)]
struct Table {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Table {
    fn new(entries: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let parse = |ips: &&[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers = entries
            .iter()
            .map(|(name, answers)| (format!("{name}."), answers.iter().rev().map(parse).collect()));
        Arc::new(Self { answers: Mutex::new(answers.collect()), asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Resolve for Table {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap();
        let list = answers.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(if list.len() > 1 { list.pop().unwrap() } else { list[0].clone() })
    }
}

fn target(text: &str) -> Target {
    Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What the exit would dial, without dialling it.
async fn would_dial(exit: &Exit, text: &str) -> Result<Vec<SocketAddr>, RefusalKind> {
    let target = target(text);
    exit.policy.check_target(&target).map_err(|refusal| refusal.kind())?;
    exit.allowed_addresses(&target, None).await.map_err(|refusal| refusal.kind())
}

/// One or more addresses of every special range, at its edges, in every spelling.
const SPECIAL: &[&str] = &[
    // 0/8, 10/8, 100.64/10, 127/8
    "0.0.0.0",
    "0",
    "0x0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "10.1",
    "012.0.0.1",
    "0xa.0.0.1",
    "167772161",
    "100.64.0.0",
    "100.127.255.255",
    "100.100.100.200",
    "127.0.0.0",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0x7f000001",
    "0X7F.0X1",
    "0177.0.0.1",
    "017700000001",
    "2130706433",
    "127.255.255.255",
    // 169.254/16 with the metadata services, 172.16/12, 192.0.0/24, documentation
    "169.254.0.0",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "169.254.255.255",
    "168.63.129.16",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.170",
    "192.0.0.192",
    "192.0.0.255",
    "192.0.2.0",
    "192.0.2.255",
    "198.51.100.1",
    "203.0.113.1",
    // 6to4 relays, 192.168/16, benchmarking, multicast, reserved, broadcast
    "192.88.99.1",
    "192.168.0.0",
    "192.168.255.255",
    "0300.0250.1",
    "3232235777",
    "198.18.0.0",
    "198.19.255.255",
    "224.0.0.0",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.254",
    "255.255.255.255",
    "4294967295",
    // IPv6: unspecified, loopback, compatible, mapped
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::8.8.8.8]",
    "[::7f00:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:192.168.0.1]",
    "[::ffff:0.0.0.0]",
    "[::ffff:100.64.0.1]",
    "[::ffff:0:127.0.0.1]",
    // Translation and tunnels with a special address inside
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::1]",
    "[64:ff9b:1::8.8.8.8]",
    "[64:ff9b::1:808:808]",
    "[2002:7f00:1::]",
    "[2002:a00:1::1]",
    "[2002:c0a8:101::1]",
    "[2001:0:808:808::f5ff:fffe]",
    "[2001:0:7f00:1::f7f7:f7f7]",
    "[2a00:1450::5efe:7f00:1]",
    "[2a00:1450::200:5efe:a00:1]",
    // Protocol assignments, documentation, discard, ULA, link-local, site-local, multicast, rest
    "[2001:2::1]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[2001:1ff:ffff::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[3fff:fff:ffff::1]",
    "[100::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fdff:ffff::1]",
    "[fe80::1]",
    "[febf::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[ffff::1]",
    "[400::1]",
    "[4000::1]",
    "[5f00::1]",
    "[::2:0:0:0]",
];

#[tokio::test]
async fn no_special_address_is_dialled_in_any_spelling() {
    let exit = Exit::with_resolver(ExitPolicy::default(), Table::new(&[]));
    for host in SPECIAL {
        let dial = exit.dial(&target(&format!("{host}:443"))).await;
        assert_eq!(dial.unwrap_err().kind(), RefusalKind::Policy, "{host}");
    }
}

#[tokio::test]
async fn no_name_leads_to_a_special_address() {
    for host in SPECIAL {
        let Host::Ip(ip) = host.parse().unwrap() else { panic!("{host}") };
        let ip = ip.to_string();
        let table = Table::new(&[("evil.example", &[&[ip.as_str()]])]);
        let exit = Exit::with_resolver(ExitPolicy::default(), table);
        assert_eq!(would_dial(&exit, "evil.example:443").await, Err(RefusalKind::Policy), "{host}");
    }
}

#[tokio::test]
async fn the_public_internet_is_open_at_the_edges_of_special_ranges() {
    let exit = Exit::with_resolver(ExitPolicy::default(), Table::new(&[]));
    for (host, dialled) in [
        ("1.0.0.0", "1.0.0.0"),
        ("9.255.255.255", "9.255.255.255"),
        ("11.0.0.0", "11.0.0.0"),
        ("100.63.255.255", "100.63.255.255"),
        ("100.128.0.0", "100.128.0.0"),
        ("126.255.255.255", "126.255.255.255"),
        ("128.0.0.0", "128.0.0.0"),
        ("169.253.255.255", "169.253.255.255"),
        ("169.255.0.0", "169.255.0.0"),
        ("172.15.255.255", "172.15.255.255"),
        ("172.32.0.0", "172.32.0.0"),
        ("192.0.1.0", "192.0.1.0"),
        ("192.167.255.255", "192.167.255.255"),
        ("192.169.0.0", "192.169.0.0"),
        ("198.17.255.255", "198.17.255.255"),
        ("198.20.0.0", "198.20.0.0"),
        ("223.255.255.255", "223.255.255.255"),
        ("134744072", "8.8.8.8"),
        ("[::ffff:8.8.8.8]", "8.8.8.8"),
        ("[64:ff9b::8.8.8.8]", "64:ff9b::808:808"),
        ("[2002:808:808::1]", "2002:808:808::1"),
        ("[2a00:1450:4001:81a::200e]", "2a00:1450:4001:81a::200e"),
        ("[2001:4860:4860::8888]", "2001:4860:4860::8888"),
        ("[2001:200::1]", "2001:200::1"),
        ("[2400:cb00::1]", "2400:cb00::1"),
    ] {
        let addr = SocketAddr::new(dialled.parse().unwrap(), 443);
        assert_eq!(would_dial(&exit, &format!("{host}:443")).await, Ok(vec![addr]), "{host}");
    }
}

#[tokio::test]
async fn local_names_are_refused_without_asking_anybody() {
    let table = Table::new(&[]);
    let exit = Exit::with_resolver(ExitPolicy::default(), table.clone());
    for host in [
        "localhost",
        "localhost.",
        "LOCALHOST",
        "a.localhost",
        "printer.local",
        "router.lan",
        "metadata.google.internal",
        "nas.home.arpa",
        "hidden.onion",
        "x.localdomain",
    ] {
        let dial = exit.dial(&target(&format!("{host}:80"))).await;
        assert_eq!(dial.unwrap_err().kind(), RefusalKind::Policy, "{host}");
    }
    assert_eq!(table.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn mail_and_denied_ports_and_names_are_refused() {
    let table = Table::new(&[("mail.example", &[&["8.8.8.8"]])]);
    let policy = ExitPolicy {
        deny_domains: vec!["bad.example".parse().unwrap(), "*.worse.example".parse().unwrap()],
        deny_networks: vec!["9.9.9.0/24".parse().unwrap()],
        ..ExitPolicy::default()
    };
    let exit = Exit::with_resolver(policy, table);
    for text in [
        "mail.example:25",
        "mail.example:465",
        "mail.example:587",
        "mail.example:2525",
        "8.8.8.8:25",
        "8.8.8.8:0",
        "bad.example:443",
        "BAD.example.:443",
        "a.bad.example:443",
        "worse.example:443",
        "a.b.worse.example:443",
        "9.9.9.9:443",
        "[64:ff9b::9.9.9.9]:443",
        "[::ffff:9.9.9.9]:443",
    ] {
        let dial = exit.dial(&target(text)).await;
        assert_eq!(dial.unwrap_err().kind(), RefusalKind::Policy, "{text}");
    }
    assert!(would_dial(&exit, "mail.example:443").await.is_ok());
    let unknown = would_dial(&exit, "notbad.example:443").await;
    assert_eq!(unknown, Err(RefusalKind::Unresolvable), "only names below it are denied with it");
}

#[tokio::test]
async fn our_own_networks_are_refused_public_or_not() {
    let exit = Exit::with_resolver(ExitPolicy::default(), Table::new(&[]));
    let own = ["93.184.216.0/24", "2a01:4f8:1:2::/64"].map(|net| net.parse().unwrap());
    exit.own.write().unwrap().networks = Arc::from(own);
    for text in [
        "93.184.216.34:80",
        "[::ffff:93.184.216.34]:80",
        "[2a01:4f8:1:2::99]:80",
        "[2002:5db8:d822::1]:80",
        "[64:ff9b::5db8:d822]:80",
    ] {
        assert_eq!(would_dial(&exit, text).await, Err(RefusalKind::Policy), "{text}");
    }
    assert!(would_dial(&exit, "93.184.217.34:80").await.is_ok());
    assert!(would_dial(&exit, "[2a01:4f8:1:3::99]:80").await.is_ok());
}

#[tokio::test]
async fn the_hosts_interfaces_are_found() {
    let own = own_networks();
    assert!(own.iter().any(|net| net.contains(&IpAddr::from([127, 0, 0, 1]))), "{own:?}");
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_asked_once_and_dialled_where_it_was_checked() {
    let answers: &[&[&str]] = &[&["8.8.8.8"], &["127.0.0.1"]];
    let table = Table::new(&[("rebind.example", answers)]);
    let exit = Exit::with_resolver(ExitPolicy::default(), table.clone());
    let dialled = would_dial(&exit, "rebind.example:80").await;
    assert_eq!(dialled, Ok(vec!["8.8.8.8:80".parse().unwrap()]));
    assert_eq!(table.asked.load(Ordering::Relaxed), 1);
    assert_eq!(would_dial(&exit, "rebind.example:80").await, Err(RefusalKind::Policy));
}

#[tokio::test]
async fn of_mixed_answers_only_the_allowed_ones_are_dialled_and_at_most_four() {
    let mixed: &[&str] = &["127.0.0.1", "8.8.8.8", "::1", "10.0.0.1", "2a00::1", "8.8.8.8"];
    let many: &[&str] = &["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"];
    let table = Table::new(&[("mixed.example", &[mixed]), ("many.example", &[many])]);
    let exit = Exit::with_resolver(ExitPolicy::default(), table);
    let dialled = would_dial(&exit, "mixed.example:80").await;
    assert_eq!(dialled, Ok(vec!["8.8.8.8:80".parse().unwrap(), "[2a00::1]:80".parse().unwrap()]));
    assert_eq!(would_dial(&exit, "many.example:80").await.unwrap().len(), 4);
}

#[tokio::test]
async fn an_exception_opens_exactly_what_it_names() {
    let answers: &[&[&str]] = &[&["127.0.0.1", "127.0.0.2"]];
    let table = Table::new(&[("origin.example", answers)]);
    let allow = vec!["127.0.0.1:8080".parse().unwrap(), "10.0.0.0/8:*".parse().unwrap()];
    let exit = Exit::with_resolver(ExitPolicy { allow, ..ExitPolicy::default() }, table);
    let only = |text: &str| Ok(vec![text.parse().unwrap()]);
    assert_eq!(would_dial(&exit, "127.0.0.1:8080").await, only("127.0.0.1:8080"));
    assert_eq!(would_dial(&exit, "[::ffff:127.0.0.1]:8080").await, only("127.0.0.1:8080"));
    assert_eq!(would_dial(&exit, "origin.example:8080").await, only("127.0.0.1:8080"));
    assert_eq!(would_dial(&exit, "10.2.3.4:25").await, only("10.2.3.4:25"));
    for text in ["127.0.0.1:8081", "127.0.0.2:8080", "origin.example:8081", "192.168.1.1:80"] {
        assert_eq!(would_dial(&exit, text).await, Err(RefusalKind::Policy), "{text}");
    }
}

#[tokio::test]
async fn a_dial_reaches_the_allowed_origin() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let allow = vec![AllowRule::addr(addr)];
    let exit = Exit::new(ExitPolicy { allow, ..ExitPolicy::default() });
    for host in ["127.0.0.1", "localhost"] {
        let stream = exit.dial(&target(&format!("{host}:{}", addr.port()))).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addr);
        assert!(stream.nodelay().unwrap());
        drop(stream);
        let (mut accepted, _) = listener.accept().await.unwrap();
        assert_eq!(accepted.read(&mut [0]).await.unwrap(), 0);
    }
    drop(listener);
    let refused = exit.dial(&target(&addr.to_string())).await.unwrap_err();
    assert_eq!(refused.kind(), RefusalKind::ConnectionRefused);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap();
    let closed = {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let stream = connect_any(&[closed, open]).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), open);
    assert_eq!(connect_any(&[]).await.unwrap_err().kind(), RefusalKind::Unreachable);
}

#[test]
fn rules_are_read_and_shown() {
    for (text, shown) in [
        ("127.0.0.1:8080", "127.0.0.1/32:8080"),
        ("10.1.2.3/8:*", "10.0.0.0/8:*"),
        ("[::1]:80", "[::1/128]:80"),
        ("[fd00::/8]:*", "[fd00::/8]:*"),
        ("Origin.Example:443", "origin.example:443"),
    ] {
        let rule: AllowRule = text.parse().unwrap();
        assert_eq!(rule.to_string(), shown);
        assert_eq!(rule.to_string().parse::<AllowRule>().unwrap(), rule);
    }
    for text in ["", "host", "host:", "host:0", "host:99999", ":80", "10.0.0.0/33:80"] {
        assert!(text.parse::<AllowRule>().is_err(), "{text}");
    }
    assert!("*.".parse::<DomainRule>().is_err());
    assert!("127.0.0.1".parse::<DomainRule>().is_err());
}
