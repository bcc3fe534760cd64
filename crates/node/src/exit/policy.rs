//! Where an exit goes and where not.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::special::{embedded, special};
use crate::{
    refusal::{Refusal, RefusalKind},
    target::{DomainName, Host, Target},
};

/// SMTP and its submission ports: mail is the abuse that gets a line shut down.
const MAIL_PORTS: [u16; 4] = [25, 465, 587, 2525];

/// Names that mean something on the host's own network only, or must not be asked of DNS
/// (RFC 6761, 6762, 7686, 8375, 9476 and ICANN's `internal`).
const LOCAL_NAMES: [&str; 9] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home.arpa",
    "onion",
    "alt",
];

/// Where an exit goes. The default lets consumers reach the public internet and nothing of the
/// provider's, on every port but mail's.
#[derive(Clone, Debug)]
pub struct ExitPolicy {
    /// Exceptions: what one of these names is reached, whatever the rules below say.
    pub allow: Vec<AllowRule>,
    /// Names that are not served.
    pub deny_domains: Vec<DomainRule>,
    /// Address ranges that are not served, beside all special ones and our own networks: for
    /// example the public address of the router and the IPv6 prefix of the line.
    pub deny_networks: Vec<IpNet>,
    /// Ports that are not served; mail's by default.
    pub deny_ports: Vec<u16>,
}

impl Default for ExitPolicy {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny_domains: Vec::new(),
            deny_networks: Vec::new(),
            deny_ports: MAIL_PORTS.to_vec(),
        }
    }
}

impl ExitPolicy {
    /// What can be told before a name is resolved.
    pub(super) fn check_target(&self, target: &Target) -> Result<(), Refusal> {
        if target.port == 0 {
            return Err(denied("port 0 cannot be connected to"));
        }
        if self.allow.iter().any(|rule| rule.may_match(target)) {
            return Ok(());
        }
        self.check_name_and_port(target)
    }

    /// Whether `ip`, one of `target`'s addresses, may be dialled. All rules are checked again: an
    /// exception for addresses lets a name pass the first check, but not its other addresses.
    pub(super) fn check_address(
        &self,
        target: &Target,
        ip: IpAddr,
        own: &[IpNet],
    ) -> Result<(), Refusal> {
        let ip = ip.to_canonical();
        if self.allow.iter().any(|rule| rule.matches(target, ip)) {
            return Ok(());
        }
        self.check_name_and_port(target)?;
        // An address that leads to another one is judged by both.
        for ip in std::iter::once(ip).chain(embedded(ip)) {
            if let Some(reason) = special(ip) {
                return Err(denied(&format!("the destination is {reason}")));
            }
            if own.iter().any(|network| network.contains(&ip)) {
                return Err(denied("the destination is in the provider's own network"));
            }
            if self.deny_networks.iter().any(|network| network.contains(&ip)) {
                return Err(denied("this address is not served"));
            }
        }
        Ok(())
    }

    fn check_name_and_port(&self, target: &Target) -> Result<(), Refusal> {
        if self.deny_ports.contains(&target.port) {
            return Err(denied(&format!("port {} is not served", target.port)));
        }
        if let Host::Domain(name) = &target.host {
            if LOCAL_NAMES.iter().any(|local| name.is_within(local)) {
                return Err(denied("this name is local to a network"));
            }
            if self.deny_domains.iter().any(|rule| rule.matches(name)) {
                return Err(denied("this name is not served"));
            }
        }
        Ok(())
    }

    /// Whether the operator means this name as the host itself knows it, rather than as DNS does.
    pub(super) fn is_local_name(&self, name: &str) -> bool {
        name == "localhost"
            || self.allow.iter().any(|rule| match &rule.host {
                AllowHost::Domain(domain) => domain.as_str() == name,
                AllowHost::Network(_) => false,
            })
    }
}

fn denied(reason: &str) -> Refusal {
    Refusal::new(RefusalKind::Policy, reason)
}

/// An exception to everything that is denied, written `host:port`, `ip:port` or `network:port`;
/// the port `*` is any. A name is allowed wherever it resolves to: name only what is your own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// The destination.
    pub host: AllowHost,
    /// Its port; `None` is any.
    pub port: Option<u16>,
}

/// What an [`AllowRule`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowHost {
    /// This name, wherever it resolves to.
    Domain(DomainName),
    /// These addresses, whatever name led to them.
    Network(IpNet),
}

impl AllowRule {
    /// Exactly this address and port.
    pub fn addr(addr: std::net::SocketAddr) -> Self {
        Self { host: AllowHost::Network(addr.ip().into()), port: Some(addr.port()) }
    }

    fn port_matches(&self, port: u16) -> bool {
        self.port.is_none_or(|allowed| allowed == port)
    }

    /// Whether it matches, or may once the name is resolved.
    fn may_match(&self, target: &Target) -> bool {
        self.port_matches(target.port)
            && match (&self.host, &target.host) {
                (AllowHost::Domain(domain), Host::Domain(name)) => domain == name,
                (AllowHost::Network(network), Host::Ip(ip)) => network.contains(&ip.to_canonical()),
                (AllowHost::Network(_), Host::Domain(_)) => true,
                (AllowHost::Domain(_), Host::Ip(_)) => false,
            }
    }

    fn matches(&self, target: &Target, ip: IpAddr) -> bool {
        self.port_matches(target.port)
            && match (&self.host, &target.host) {
                (AllowHost::Domain(domain), Host::Domain(name)) => domain == name,
                (AllowHost::Domain(_), Host::Ip(_)) => false,
                (AllowHost::Network(network), _) => network.contains(&ip),
            }
    }
}

impl FromStr for AllowRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let malformed = || RuleError { text: text.to_owned(), wants: "host:port or network:port" };
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(malformed)?;
        let port = match port {
            "*" => None,
            port => match port.parse() {
                Ok(port) if port != 0 => Some(port),
                _ => return Err(malformed()),
            },
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = match (bare.parse::<IpNet>(), host.parse::<Host>()) {
            (Ok(network), _) => AllowHost::Network(network.trunc()),
            (_, Ok(Host::Ip(ip))) => AllowHost::Network(ip.to_canonical().into()),
            (_, Ok(Host::Domain(name))) => AllowHost::Domain(name),
            _ => return Err(malformed()),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            AllowHost::Domain(name) => f.write_str(name.as_str())?,
            AllowHost::Network(IpNet::V6(network)) => write!(f, "[{network}]")?,
            AllowHost::Network(network) => write!(f, "{network}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

/// A name that is not served, with all names below it: `example.com` (or `*.example.com`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRule {
    name: DomainName,
}

impl DomainRule {
    /// Whether it covers `name`.
    pub fn matches(&self, name: &DomainName) -> bool {
        name.is_within(self.name.as_str())
    }
}

impl FromStr for DomainRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        let host = text.strip_prefix("*.").unwrap_or(text);
        match host.parse() {
            Ok(Host::Domain(name)) => Ok(Self { name }),
            _ => Err(RuleError { text: text.to_owned(), wants: "example.com or *.example.com" }),
        }
    }
}

/// Why a text of the operator's is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a rule; write {wants}")]
pub struct RuleError {
    text: String,
    wants: &'static str,
}
