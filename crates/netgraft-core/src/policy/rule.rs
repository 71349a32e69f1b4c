//! One rule, and its text: `[out|in|bind] [tcp|udp|icmp|raw] ADDRESS[/BITS][:PORT[-PORT]]`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::place::{Net, masked, width};

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// A program connects, or sends a datagram.
    Out,
    /// Somebody connects to a program, or a datagram comes.
    In,
    /// A socket takes a local address, or listens.
    Bind,
}

impl Direction {
    pub(crate) const ALL: [Direction; 3] = [Direction::Out, Direction::In, Direction::Bind];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Out => "out",
            Direction::In => "in",
            Direction::Bind => "bind",
        })
    }
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// Echo requests and replies, of sockets that do nothing else (icmp(7)).
    Icmp,
    /// Anything that a program writes itself (raw(7)): only a rule about all addresses means it, since the program writes them.
    Raw,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 4] = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Raw];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
            Protocol::Raw => "raw",
        })
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The flow may be.
    Allow,
    /// It may not.
    Deny,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        })
    }
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Where in the text, in characters from 1.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub text: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.text)
    }
}

/// A rule. In messages it is its text, with the verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Who begins.
    pub direction: Direction,
    /// What is spoken; `None` is TCP, UDP and ICMP.
    pub protocol: Option<Protocol>,
    /// The peer's address; of [`Direction::Bind`] the socket's own.
    pub net: Net,
    /// The port that is reached: the peer's of [`Direction::Out`], else the socket's own. `None` is any.
    pub ports: Option<RangeInclusive<u16>>,
}

/// A word of a text, and where it begins.
type Word<'a> = (usize, &'a str);

impl Rule {
    /// Reads a rule without its verb, as `--allow` and `--deny` have it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(action: Action, text: &str) -> Result<Rule, RuleError> {
        Rule::of_words(action, words(text, 0), text)
    }

    /// Reads a rule with its verb, as a file has it: `allow out tcp 192.0.2.1:443`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_with_verb(text: &str) -> Result<Rule, RuleError> {
        let mut words = words(text, 0);
        let action = match words.first().copied() {
            Some((_, "allow")) => Action::Allow,
            Some((_, "deny")) => Action::Deny,
            Some((at, other)) => {
                return Err(wrong(text, at, format!("'{other}' is no verb: expected allow or deny")));
            }
            None => {
                return Err(wrong(
                    text,
                    0,
                    "expected a rule, such as 'allow out tcp 192.0.2.1:443'".to_owned(),
                ));
            }
        };
        words.remove(0);
        Rule::of_words(action, words, text)
    }

    fn of_words(action: Action, words: Vec<Word<'_>>, text: &str) -> Result<Rule, RuleError> {
        let mut words = words.into_iter().peekable();
        let direction = match words.peek() {
            Some((_, "out")) => Some(Direction::Out),
            Some((_, "in")) => Some(Direction::In),
            Some((_, "bind")) => Some(Direction::Bind),
            _ => None,
        };
        if direction.is_some() {
            words.next();
        }
        let protocol = match words.peek() {
            Some((_, "tcp")) => Some(Protocol::Tcp),
            Some((_, "udp")) => Some(Protocol::Udp),
            Some((_, "icmp")) => Some(Protocol::Icmp),
            Some((_, "raw")) => Some(Protocol::Raw),
            _ => None,
        };
        if protocol.is_some() {
            words.next();
        }
        let (net, ports) = match words.next() {
            Some((at, word)) => target(text, at, word)?,
            None if protocol.is_some() => (Net::Any, None),
            None => {
                let what = "expected an address, such as 192.0.2.1:443, 10.0.0.0/8 or any";
                return Err(wrong(text, text.len(), what.to_owned()));
            }
        };
        if let Some((at, word)) = words.next() {
            return Err(wrong(
                text,
                at,
                format!("'{word}' follows the address, which is the last word of a rule"),
            ));
        }
        let rule = Rule { action, direction: direction.unwrap_or(Direction::Out), protocol, net, ports };
        rule.check().map_err(|what| wrong(text, 0, what))?;
        Ok(rule)
    }

    fn check(&self) -> Result<(), String> {
        match self.protocol {
            Some(Protocol::Icmp | Protocol::Raw) if self.ports.is_some() => {
                Err("icmp and raw have no ports: leave them out".to_owned())
            }
            Some(Protocol::Raw) if self.net != Net::Any => Err(
                "raw sockets write their addresses themselves, so a rule about them is about all: 'raw any'"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Whether it is about a protocol.
    #[must_use]
    pub fn speaks(&self, protocol: Protocol) -> bool {
        match self.protocol {
            Some(own) => own == protocol,
            // What has no ports is not meant by one.
            None => match protocol {
                Protocol::Tcp | Protocol::Udp => true,
                Protocol::Icmp => self.ports.is_none(),
                Protocol::Raw => false,
            },
        }
    }

    /// Whether it is about a port.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Rule, RuleError> {
        Rule::parse_with_verb(&text)
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.direction)?;
        if let Some(protocol) = self.protocol {
            write!(f, " {protocol}")?;
        }
        let Some(ports) = &self.ports else { return write!(f, " {}", self.net) };
        match self.net {
            Net::Prefix(IpAddr::V6(_), _) => write!(f, " [{}]:", self.net)?,
            net => write!(f, " {net}:")?,
        }
        if ports.start() == ports.end() {
            write!(f, "{}", ports.start())
        } else {
            write!(f, "{}-{}", ports.start(), ports.end())
        }
    }
}

fn wrong(text: &str, at: usize, what: String) -> RuleError {
    let before = text.get(..at).unwrap_or(text);
    RuleError { column: before.chars().count() + 1, text: what }
}

/// The words of a text, each with its place in bytes.
fn words(text: &str, base: usize) -> Vec<Word<'_>> {
    let mut found = Vec::new();
    let mut begin = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_whitespace(), begin) {
            (false, None) => begin = Some(at),
            (true, Some(start)) => {
                found.push((base + start, text.get(start..at).unwrap_or_default()));
                begin = None;
            }
            _ => {}
        }
    }
    found
}

type Target = (Net, Option<RangeInclusive<u16>>);

/// `ADDRESS[/BITS][:PORTS]`, of IPv6 with ports in brackets.
fn target(text: &str, at: usize, word: &str) -> Result<Target, RuleError> {
    if let Some(rest) = word.strip_prefix('[') {
        let Some((inside, rest)) = rest.split_once(']') else {
            return Err(wrong(text, at, "'[' has no ']'".to_owned()));
        };
        let net = net(text, at + 1, inside)?;
        return match (rest, rest.strip_prefix(':')) {
            ("", _) => Ok((net, None)),
            (_, Some(list)) => Ok((net, ports(text, at + word.len() - list.len(), list)?)),
            _ => Err(wrong(
                text,
                at + word.len() - rest.len(),
                format!("expected ':' and a port, not '{rest}'"),
            )),
        };
    }
    // More than one colon without brackets is an address of IPv6 alone.
    match word.split_once(':') {
        Some((address, list)) if !list.contains(':') => {
            Ok((net(text, at, address)?, ports(text, at + address.len() + 1, list)?))
        }
        _ => Ok((net(text, at, word)?, None)),
    }
}

fn net(text: &str, at: usize, word: &str) -> Result<Net, RuleError> {
    if matches!(word, "any" | "*") {
        return Ok(Net::Any);
    }
    let (address, bits) = match word.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (word, None),
    };
    let ip: IpAddr = address.parse().map_err(|_| {
        let hint = if address.contains(|c: char| c.is_ascii_alphabetic()) && !address.contains(':') {
            "names are not rules yet: use an address"
        } else {
            "expected an address, such as 192.0.2.1 or 2001:db8::1, or any"
        };
        wrong(text, at, format!("'{address}' is no address: {hint}"))
    })?;
    let Some(bits) = bits else { return Ok(Net::of(ip)) };
    let place = at + address.len() + 1;
    let most = width(ip);
    let length: u8 = bits.parse().ok().filter(|&length| length <= most).ok_or_else(|| {
        wrong(text, place, format!("'{bits}' is no length of a prefix: expected 0 to {most}"))
    })?;
    let first = masked(ip, length);
    if first != ip {
        let what = format!("{ip} has bits behind the first {length}: expected {first}/{length}");
        return Err(wrong(text, at, what));
    }
    // A part of ::ffff:0:0/96 is a network of IPv4.
    match ip.to_canonical() {
        IpAddr::V4(v4) if ip.is_ipv6() && length >= 96 => Ok(Net::Prefix(v4.into(), length - 96)),
        _ => Ok(Net::Prefix(ip, length)),
    }
}

fn ports(text: &str, at: usize, word: &str) -> Result<Option<RangeInclusive<u16>>, RuleError> {
    if word == "*" {
        return Ok(None);
    }
    let port = |at: usize, word: &str| {
        let number = word.parse().ok().filter(|&port: &u16| port != 0 && !word.starts_with('+'));
        number.ok_or_else(|| wrong(text, at, format!("'{word}' is no port: expected 1 to 65535, 80-90 or *")))
    };
    let Some((first, last)) = word.split_once('-') else {
        let port = port(at, word)?;
        return Ok(Some(port..=port));
    };
    let (low, high) = (port(at, first)?, port(at + first.len() + 1, last)?);
    if low > high {
        return Err(wrong(text, at, format!("the range {word} ends before it begins")));
    }
    Ok(Some(low..=high))
}

/// A flow as a text has it: `[out|in|bind] tcp ADDRESS:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_flow(text: &str) -> Result<(Direction, Protocol, SocketAddr), RuleError> {
    let rule = Rule::parse(Action::Allow, text)?;
    let Net::Prefix(ip, _) = rule.net else {
        return Err(wrong(text, 0, "a flow has one address, not any".to_owned()));
    };
    if !rule.net.is_single() {
        return Err(wrong(text, 0, "a flow has one address, not a network".to_owned()));
    }
    let protocol = rule.protocol.unwrap_or(Protocol::Tcp);
    let port = match rule.ports {
        Some(ports) if ports.start() == ports.end() => *ports.start(),
        None if matches!(protocol, Protocol::Icmp | Protocol::Raw) => 0,
        _ => return Err(wrong(text, text.len(), "a flow of tcp or udp has one port".to_owned())),
    };
    Ok((rule.direction, protocol, SocketAddr::new(ip, port)))
}
