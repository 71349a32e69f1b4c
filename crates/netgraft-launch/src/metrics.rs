//! What is counted in a sandbox, as OpenMetrics text.
//!
//! The sentry says numbers by their keys, and [`FAMILIES`] says what they are called outside and what they mean: a key that is not
//! there is not believed.

use std::collections::BTreeMap;
use std::fmt;

use netgraft_plugin::inet::TcpStatistics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use serde::{Deserialize, Serialize};

use crate::said::printable;

/// The numbers of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The stack's name.
    pub stack: String,
    /// And its version.
    pub stack_version: String,
    /// The numbers, by the keys of [`FAMILIES`]; those that are not known are left out.
    pub values: BTreeMap<String, u64>,
}

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does, while the sentry lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Metrics of one name.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Without the prefix, the unit, and what OpenMetrics adds to counters.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How.
    pub kind: Kind,
    /// Whether it counts bytes.
    pub in_bytes: bool,
    /// The name of the label; empty if there is none.
    pub label: &'static str,
    /// The label's values, each with the key of its number.
    pub values: &'static [(&'static str, &'static str)],
}

/// What precedes every name.
const PREFIX: &str = "netgraft";
/// What precedes the name that Linux has for a number of [`TcpStatistics`], in its key.
pub const TCP_PREFIX: &str = "tcp.";

const fn counter(
    name: &'static str,
    help: &'static str,
    key: &'static [(&'static str, &'static str)],
) -> Family {
    Family { name, help, kind: Kind::Counter, in_bytes: false, label: "", values: key }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    key: &'static [(&'static str, &'static str)],
) -> Family {
    Family { kind: Kind::Gauge, ..counter(name, help, key) }
}

impl Family {
    const fn by(self, label: &'static str) -> Family {
        Family { label, ..self }
    }

    const fn bytes(self) -> Family {
        Family { in_bytes: true, ..self }
    }
}

/// All of them but [`TcpStatistics`], which have the names of Linux as labels.
pub const FAMILIES: &[Family] = &[
    // The sentry.
    counter("calls", "System calls of programs that the sentry has served", &[("", "calls")]),
    counter("rounds", "Rounds of the sentry's loop", &[("", "rounds")]),
    gauge("sockets", "Sockets of programs that the sentry has", &[("", "sockets")]),
    gauge("memory", "Memory of the sentry's own, as it was last measured", &[("", "memory")]).bytes(),
    gauge(
        "memory_limit",
        "Memory of the sentry beyond which there are no new sockets",
        &[("", "memory_limit")],
    )
    .bytes(),
    gauge("descriptors", "Open descriptors of the sentry", &[("", "descriptors")]),
    // What programs did.
    counter("sockets_made", "Sockets that programs have made", &[("", "sockets_made")]),
    counter(
        "connections",
        "TCP connections of programs, by who began",
        &[("out", "connections_out"), ("in", "connections_in")],
    )
    .by("direction"),
    counter(
        "connections_joined",
        "TCP connections between two programs of the sandbox, past the stack",
        &[("", "connections_joined")],
    ),
    counter(
        "payload",
        "Payload between programs and the stack",
        &[("out", "bytes_sent"), ("in", "bytes_received")],
    )
    .bytes()
    .by("direction"),
    counter(
        "datagrams",
        "Datagrams between programs and the stack",
        &[("out", "datagrams_sent"), ("in", "datagrams_received")],
    )
    .by("direction"),
    // Rules.
    gauge("policy_rules", "Rules about who may talk to whom", &[("", "rules")]),
    counter("policy_denied", "Flows that were denied", &[("", "denied")]),
    // The stack.
    counter(
        "ip_packets",
        "IP packets of the stack, loopback included",
        &[("out", "ip_packets_sent"), ("in", "ip_packets_received")],
    )
    .by("direction"),
    counter(
        "ip_octets",
        "Bytes of IP packets of the stack, loopback included",
        &[("out", "ip_bytes_sent"), ("in", "ip_bytes_received")],
    )
    .bytes()
    .by("direction"),
    counter("ip_dropped", "IP packets that were malformed or for nobody", &[("", "ip_dropped")]),
    counter(
        "tcp_opens",
        "TCP connections that the stack opened: tcpActiveOpens and tcpPassiveOpens of RFC 4022",
        &[("active", "tcp_active_opens"), ("passive", "tcp_passive_opens")],
    )
    .by("side"),
    gauge("tcp_established", "TCP connections that there are: tcpCurrEstab", &[("", "tcp_established")]),
    counter(
        "tcp_attempt_fails",
        "Attempts to connect that failed: tcpAttemptFails",
        &[("", "tcp_attempt_fails")],
    ),
    counter(
        "tcp_resets",
        "Resets: tcpOutRsts, and tcpEstabResets of the peers'",
        &[("out", "tcp_resets_sent"), ("in", "tcp_resets_received")],
    )
    .by("direction"),
    counter(
        "tcp_listen_overflows",
        "Connections that a full listener's queue has lost",
        &[("", "tcp_listen_overflows")],
    ),
    counter(
        "udp_datagrams",
        "UDP datagrams of the stack: udpOutDatagrams and udpInDatagrams of RFC 4113",
        &[("out", "udp_sent"), ("in", "udp_received")],
    )
    .by("direction"),
    counter("udp_no_ports", "UDP datagrams to ports without a socket: udpNoPorts", &[("", "udp_no_port")]),
    counter("udp_overflows", "UDP datagrams that a full buffer has lost", &[("", "udp_receive_overflows")]),
    // The link.
    counter("link_frames", "Frames of the link", &[("out", "link_frames_out"), ("in", "link_frames_in")])
        .by("direction"),
    counter(
        "link_overflowed",
        "Frames that found the queue of a link with a rate full",
        &[("out", "link_overflowed_out"), ("in", "link_overflowed_in")],
    )
    .by("direction"),
    counter(
        "link_lost",
        "Frames that a link with faults has lost",
        &[("out", "link_lost_out"), ("in", "link_lost_in")],
    )
    .by("direction"),
];

/// The text, with the end that OpenMetrics has.
///
/// # Errors
/// Never: it is written into memory.
pub fn text(figures: Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Collected(figures)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Writes numbers that were collected elsewhere.
#[derive(Debug)]
struct Collected(Figures);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Collected(figures) = self;
        let labels = [("stack", printable(&figures.stack)), ("version", printable(&figures.stack_version))];
        let info = encoder.encode_descriptor("stack_info", "The stack", None, MetricType::Gauge)?;
        one(info, &labels, Kind::Gauge, 1)?;
        for family in FAMILIES {
            let known: Vec<(&str, u64)> = family
                .values
                .iter()
                .filter_map(|&(label, key)| Some((label, *figures.values.get(key)?)))
                .collect();
            if known.is_empty() {
                continue;
            }
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let unit = family.in_bytes.then_some(&Unit::Bytes);
            let mut metrics = encoder.encode_descriptor(family.name, family.help, unit, kind)?;
            for (label, value) in known {
                if family.label.is_empty() {
                    number(&mut metrics, family.kind, value)?;
                } else {
                    let labels = [(family.label, label)];
                    let metric = metrics.encode_family(&labels)?;
                    one_of(metric, family.kind, value)?;
                }
            }
        }
        let help =
            "What happened in TCP, by the names that /proc/net/netstat and /proc/net/snmp of Linux have";
        let mut events = encoder.encode_descriptor("tcp_events", help, None, MetricType::Counter)?;
        for (name, _) in TcpStatistics::NONE.named() {
            if let Some(&value) = figures.values.get(&format!("{TCP_PREFIX}{name}")) {
                let labels = [("event", name)];
                let metric = events.encode_family(&labels)?;
                one_of(metric, Kind::Counter, value)?;
            }
        }
        Ok(())
    }
}

fn one(mut metrics: MetricEncoder<'_>, labels: &[(&str, String)], kind: Kind, value: u64) -> fmt::Result {
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let metric = metrics.encode_family(&labels)?;
    one_of(metric, kind, value)
}

fn number(metrics: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> fmt::Result {
    let none: [(&str, &str); 0] = [];
    let metric = metrics.encode_family(&none)?;
    one_of(metric, kind, value)
}

fn one_of(metric: MetricEncoder<'_>, kind: Kind, value: u64) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(metric),
        // Gauges have a sign.
        Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: &[(&str, u64)]) -> Figures {
        let values = values.iter().map(|&(key, value)| (key.to_owned(), value)).collect();
        Figures { stack: "smol\"tcp".to_owned(), stack_version: "1\n2".to_owned(), values }
    }

    #[test]
    fn numbers_have_names_by_convention() {
        let text = text(figures(&[
            ("calls", 7),
            ("memory", 4096),
            ("bytes_sent", 5),
            ("tcp.TCPTimeouts", 2),
            ("no such key", 9),
        ]))
        .unwrap();
        for line in [
            "# TYPE netgraft_calls counter",
            "netgraft_calls_total 7",
            "# UNIT netgraft_memory_bytes bytes",
            "netgraft_memory_bytes 4096",
            "netgraft_payload_bytes_total{direction=\"out\"} 5",
            "netgraft_tcp_events_total{event=\"TCPTimeouts\"} 2",
            "netgraft_stack_info{stack=\"smol\\\"tcp\",version=\"1\u{fffd}2\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(
            text.ends_with("# EOF\n") && !text.contains("no such key") && !text.contains("direction=\"in\"")
        );
    }

    #[test]
    fn keys_and_names_are_each_there_once() {
        let mut keys: Vec<_> = FAMILIES.iter().flat_map(|family| family.values).map(|(_, key)| key).collect();
        let mut names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
        let (all_keys, all_names) = (keys.len(), names.len());
        keys.sort_unstable();
        keys.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((keys.len(), names.len()), (all_keys, all_names));
        for family in FAMILIES {
            assert_eq!(family.label.is_empty(), family.values.len() == 1, "{}", family.name);
        }
    }
}
