//! Membership of groups on the private link: what the program's kernel reports for its hosts (RFC 3376, RFC 3810), the stack does.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Handle, SocketOption};

use super::packet::{self, Header, ICMPV6, IGMP, Packet};
use super::{PrivateLink, spec_of};
use crate::core::{Core, Kernel};

/// `0x22`: a report of IGMP's version 3 (RFC 3376, section 4.2).
const REPORT: u8 = 0x22;
/// A report of MLD's version 2 (RFC 3810, section 5.2).
const REPORT_V6: u8 = 143;
/// Where the records of both begin.
const RECORDS: usize = 8;
/// The most groups that are joined: more than 20 for each of many sockets (`igmp_max_memberships`, ip(7)).
const MOST: usize = 1024;
/// A General Query (RFC 3376, section 4.1) that is to be answered within 0.1 s.
const QUERY: [u8; 12] = [0x11, 1, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
/// The same of MLD (RFC 3810, section 5.1).
const QUERY_V6: [u8; 28] = {
    let mut query = [0; 28];
    query[0] = 130;
    query[5] = 100;
    query[24] = 2;
    query[25] = 125;
    query
};

/// The groups that the stack has joined for the program.
#[derive(Debug, Default)]
pub(super) struct Groups {
    joined: HashSet<IpAddr>,
    /// The stack's sockets that are members, of IPv4 and of IPv6.
    members: [Option<Handle>; 2],
}

impl<K: Kernel> Core<K> {
    /// Asks the program's kernel which groups it is a member of: a sentry that follows another does not know.
    pub(super) fn ask_for_groups(&mut self, link: PrivateLink) {
        let mut query = QUERY;
        let check = packet::plain_checksum(&query);
        query[2..4].copy_from_slice(&check.to_be_bytes());
        let header = Header {
            source: Ipv4Addr::UNSPECIFIED.into(),
            destination: Ipv4Addr::new(224, 0, 0, 1).into(),
            protocol: IGMP,
            hop_limit: 1,
            traffic_class: 0xc0,
            dont_fragment: true,
        };
        self.emit_packet(link.interface, &header, &query);
        let frame = packet::multicast_listener_query(link.mac, QUERY_V6);
        self.emit_frame(link.interface, &frame);
    }

    /// Reads a report of the kernel's. Answers whether the packet was one.
    pub(super) fn take_report(&mut self, packet: &Packet<'_>) -> bool {
        let (&[kind, _, _, _, _, _, high, low, ..], protocol) = (packet.payload, packet.header.protocol)
        else {
            return false;
        };
        let v6 = match (protocol, kind) {
            (IGMP, REPORT) => false,
            (ICMPV6, REPORT_V6) => true,
            _ => return protocol == IGMP,
        };
        let mut rest = packet.payload.get(RECORDS..).unwrap_or_default();
        for _ in 0..u16::from_be_bytes([high, low]) {
            let Some((group, is_member, after)) = record(rest, v6) else { break };
            if let Some(is_member) = is_member.filter(|_| is_of_programs(group)) {
                self.set_membership(group, is_member);
            }
            rest = after;
        }
        true
    }

    /// A program asks the kernel for membership of a group (ip(7)): the stack joins it before the call returns, and leaves it when
    /// the kernel says so.
    pub(super) fn set_membership(&mut self, group: IpAddr, is_member: bool) {
        let groups = &mut self.links.groups;
        let is_new = if is_member {
            groups.joined.len() < MOST && groups.joined.insert(group)
        } else {
            groups.joined.remove(&group)
        };
        if !is_new {
            return;
        }
        let Some(member) = self.member(group.is_ipv6()) else { return };
        let option = match (group, is_member) {
            (IpAddr::V4(group), true) => SocketOption::JoinGroup((group, Ipv4Addr::UNSPECIFIED)),
            (IpAddr::V4(group), false) => SocketOption::LeaveGroup((group, Ipv4Addr::UNSPECIFIED)),
            (IpAddr::V6(group), true) => SocketOption::JoinGroup6((group, 0)),
            (IpAddr::V6(group), false) => SocketOption::LeaveGroup6((group, 0)),
        };
        if let Err(error) = self.stack.set_option(member, option) {
            tracing::debug!(%group, %error, "the stack does not change its membership of a group");
        }
    }

    fn member(&mut self, v6: bool) -> Option<Handle> {
        if let Some(member) = self.links.groups.members[usize::from(v6)] {
            return Some(member);
        }
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let member = self.stack.socket(spec_of(SocketAddr::new(any, 0))).ok()?;
        self.links.groups.members[usize::from(v6)] = Some(member);
        Some(member)
    }
}

/// The group of a record, whether the host is a member from now on, if the record says that, and what follows it (RFC 3376, section
/// 4.2.4; RFC 3810, section 5.2.5).
fn record(bytes: &[u8], v6: bool) -> Option<(IpAddr, Option<bool>, &[u8])> {
    let &[kind, auxiliary, high, low] = bytes.first_chunk()?;
    let sources = usize::from(u16::from_be_bytes([high, low]));
    let (group, len): (IpAddr, usize) = if v6 {
        (Ipv6Addr::from(*bytes.get(4..)?.first_chunk::<16>()?).into(), 16)
    } else {
        (Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?).into(), 4)
    };
    let is_member = match kind {
        // "Include", which means that it has left if there is nothing to include.
        1 | 3 => Some(sources > 0),
        // "Exclude", and further sources.
        2 | 4 | 5 => Some(true),
        _ => None,
    };
    let after = bytes.get(4 + len + sources * len + usize::from(auxiliary) * 4..)?;
    Some((group, is_member, after))
}

/// Whether programs ask for such groups: those that a host needs for itself, to be found by neighbours, are the stack's own.
fn is_of_programs(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.is_multicast() && group != Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => {
            let [first, .., sixth, seventh, _] = group.segments();
            let is_solicited = first == 0xff02 && sixth == 1 && seventh & 0xff00 == 0xff00;
            group.is_multicast() && !is_solicited && group != Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_whether_a_host_is_a_member() {
        let said = |kind: u8, sources: u8| {
            let mut bytes = vec![kind, 0, 0, sources, 239, 1, 2, 3];
            bytes.resize(8 + 4 * usize::from(sources), 1);
            bytes.push(77);
            let (group, is_member, after) = record(&bytes, false).unwrap();
            assert_eq!((group, after), (Ipv4Addr::new(239, 1, 2, 3).into(), &[77][..]));
            is_member
        };
        let all: Vec<_> = (1..=7).map(|kind| (said(kind, 0), said(kind, 2))).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(
            all,
            [(no, yes), (yes, yes), (no, yes), (yes, yes), (yes, yes), (None, None), (None, None)]
        );
        for len in 0..8 {
            assert_eq!(record(&[4, 0, 0, 0, 239, 1, 2, 3][..len], false), None);
        }
        assert_eq!(record(&[4, 0, 255, 255, 239, 1, 2, 3], false), None);
        assert_eq!(record(&[4, 0, 0, 0, 255, 2, 0, 0], true), None);
    }

    #[test]
    fn what_neighbours_need_is_no_program_s() {
        for (group, is_programs) in [
            ("239.1.2.3", true),
            ("224.0.0.251", true),
            ("224.0.0.1", false),
            ("192.0.2.1", false),
            ("ff02::fb", true),
            ("ff02::1", false),
            ("ff02::1:ff00:1", false),
            ("ff05::1:3", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_of_programs(group.parse().unwrap()), is_programs, "{group}");
        }
    }
}
