//! What is counted, by the keys of [`netgraft_launch::metrics::FAMILIES`].

use std::collections::BTreeMap;

use netgraft_core::Core;
use netgraft_launch::metrics::{Figures, TCP_PREFIX};

use crate::bindings::Bindings;

/// The numbers of this sandbox.
pub(crate) fn figures(core: &Core<Bindings>, rounds: u64) -> Figures {
    let (counts, stack) = (core.counts(), core.stack());
    let (statistics, info) = (stack.statistics(), stack.info());
    let (memory, memory_limit) = core.memory();
    let mut values: BTreeMap<String, u64> = [
        ("calls", counts.calls),
        ("rounds", rounds),
        ("sockets", core.sockets() as u64),
        ("memory", memory as u64),
        ("memory_limit", memory_limit as u64),
        ("sockets_made", counts.sockets),
        ("connections_out", counts.connections_out),
        ("connections_in", counts.connections_in),
        ("connections_joined", counts.connections_joined),
        ("bytes_sent", counts.bytes_sent),
        ("bytes_received", counts.bytes_received),
        ("datagrams_sent", counts.datagrams_sent),
        ("datagrams_received", counts.datagrams_received),
        ("rules", core.rules() as u64),
        ("denied", core.denied()),
        ("ip_packets_sent", statistics.packets_sent),
        ("ip_packets_received", statistics.packets_received),
        ("ip_bytes_sent", statistics.bytes_sent),
        ("ip_bytes_received", statistics.bytes_received),
        ("ip_dropped", statistics.packets_dropped),
        ("tcp_active_opens", statistics.tcp_active_opens),
        ("tcp_passive_opens", statistics.tcp_passive_opens),
        ("tcp_established", statistics.tcp_established),
        ("tcp_attempt_fails", statistics.tcp_attempt_fails),
        ("tcp_resets_sent", statistics.tcp_resets_sent),
        ("tcp_resets_received", statistics.tcp_resets_received),
        ("tcp_listen_overflows", statistics.tcp_listen_overflows),
        ("udp_sent", statistics.udp_sent),
        ("udp_received", statistics.udp_received),
        ("udp_no_port", statistics.udp_no_port),
        ("udp_receive_overflows", statistics.udp_receive_overflows),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let tcp = statistics.tcp.named();
    values.extend(tcp.into_iter().map(|(name, value)| (format!("{TCP_PREFIX}{name}"), value)));
    // Since Linux 6.2 (proc(5), `/proc/PID/fd`); 0 before.
    let descriptors = std::fs::metadata("/proc/self/fd").map_or(0, |found| found.len());
    if descriptors > 0 {
        values.insert("descriptors".to_owned(), descriptors);
    }
    if let Some(report) = stack.link_report() {
        for (way, seen) in [("in", report.incoming), ("out", report.outgoing)] {
            values.insert(format!("link_frames_{way}"), seen.frames);
            values.insert(format!("link_overflowed_{way}"), seen.overflowed);
            values.insert(format!("link_lost_{way}"), seen.lost);
        }
    }
    Figures { stack: info.name, stack_version: info.version, values }
}
