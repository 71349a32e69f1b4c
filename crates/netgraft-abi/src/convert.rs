//! Between the values of the contract and the structures of the header. What comes from outside is checked here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use netgraft_plugin::inet::{BufferSizes, Interface, Route, Statistics, TcpStatistics};
use netgraft_plugin::option::{Agreed, OptionName, SocketOption, TcpInfo};
use netgraft_plugin::seccomp::{ArgCondition, SyscallRule};
use netgraft_plugin::{Cidr, Domain, Kind, Protocol, Received, SocketSpec};

use crate::codes::{self, FAMILY_NONE, FAMILY_V4, FAMILY_V6};
use crate::raw;

pub(crate) fn to_ip(addr: IpAddr) -> raw::Ip {
    match addr {
        IpAddr::V4(a) => {
            let mut ip = raw::Ip { family: FAMILY_V4, ..Default::default() };
            ip.bytes[..4].copy_from_slice(&a.octets());
            ip
        }
        IpAddr::V6(a) => raw::Ip { family: FAMILY_V6, reserved: 0, bytes: a.octets() },
    }
}

/// `Ok(None)` is no address; an unknown family is nonsense.
pub(crate) fn from_ip(ip: &raw::Ip) -> Result<Option<IpAddr>, ()> {
    let [a, b, c, d, ..] = ip.bytes;
    match ip.family {
        FAMILY_NONE => Ok(None),
        FAMILY_V4 => Ok(Some(Ipv4Addr::new(a, b, c, d).into())),
        FAMILY_V6 => Ok(Some(Ipv6Addr::from(ip.bytes).into())),
        _ => Err(()),
    }
}

pub(crate) fn to_address(addr: SocketAddr) -> raw::Address {
    let (flow_info, scope_id) = match addr {
        SocketAddr::V4(_) => (0, 0),
        SocketAddr::V6(a) => (a.flowinfo(), a.scope_id()),
    };
    raw::Address { ip: to_ip(addr.ip()), port: addr.port(), reserved: 0, flow_info, scope_id }
}

/// As [`from_ip`].
pub(crate) fn from_address(addr: &raw::Address) -> Result<Option<SocketAddr>, ()> {
    Ok(from_ip(&addr.ip)?.map(|ip| match ip {
        IpAddr::V4(a) => SocketAddr::from((a, addr.port)),
        IpAddr::V6(a) => SocketAddrV6::new(a, addr.port, addr.flow_info, addr.scope_id).into(),
    }))
}

pub(crate) fn to_cidr(cidr: Cidr) -> raw::Cidr {
    raw::Cidr { ip: to_ip(cidr.addr()), prefix: cidr.prefix(), reserved: [0; 3] }
}

/// `None` if it is no address, or its prefix too long.
pub(crate) fn from_cidr(cidr: &raw::Cidr) -> Option<Cidr> {
    Cidr::new(from_ip(&cidr.ip).ok()??, cidr.prefix)
}

pub(crate) const fn to_family(domain: Domain) -> u16 {
    match domain {
        Domain::V4 => FAMILY_V4,
        Domain::V6 => FAMILY_V6,
    }
}

pub(crate) const fn from_family(family: u32) -> Option<Domain> {
    const V4: u32 = FAMILY_V4 as u32;
    const V6: u32 = FAMILY_V6 as u32;
    match family {
        V4 => Some(Domain::V4),
        V6 => Some(Domain::V6),
        _ => None,
    }
}

pub(crate) fn to_spec(spec: SocketSpec) -> raw::SocketSpec {
    let kind = match spec.kind {
        Kind::Stream => codes::KIND_STREAM,
        Kind::Datagram => codes::KIND_DATAGRAM,
        Kind::Raw => codes::KIND_RAW,
    };
    let (protocol, number) = match spec.protocol {
        Protocol::Tcp => (codes::PROTOCOL_TCP, 0),
        Protocol::Udp => (codes::PROTOCOL_UDP, 0),
        Protocol::Icmp => (codes::PROTOCOL_ICMP, 0),
        Protocol::Icmpv6 => (codes::PROTOCOL_ICMPV6, 0),
        Protocol::Raw(number) => (codes::PROTOCOL_RAW, number),
    };
    raw::SocketSpec { family: to_family(spec.domain), kind, protocol, number, reserved: [0; 3] }
}

/// `None` for numbers that this version does not know.
pub(crate) fn from_spec(spec: &raw::SocketSpec) -> Option<SocketSpec> {
    let kind = match spec.kind {
        codes::KIND_STREAM => Kind::Stream,
        codes::KIND_DATAGRAM => Kind::Datagram,
        codes::KIND_RAW => Kind::Raw,
        _ => return None,
    };
    let protocol = match spec.protocol {
        codes::PROTOCOL_TCP => Protocol::Tcp,
        codes::PROTOCOL_UDP => Protocol::Udp,
        codes::PROTOCOL_ICMP => Protocol::Icmp,
        codes::PROTOCOL_ICMPV6 => Protocol::Icmpv6,
        codes::PROTOCOL_RAW => Protocol::Raw(spec.number),
        _ => return None,
    };
    Some(SocketSpec { domain: from_family(spec.family.into())?, kind, protocol })
}

/// Nanoseconds; what does not fit becomes the longest time but one, since the longest means "none".
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(raw::NONE - 1)
}

/// The same the other way: the longest time is one less.
fn from_nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos.min(raw::NONE - 1))
}

fn text(value: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    // One zero byte must stay at the end.
    bytes[..31].get_mut(..value.len())?.copy_from_slice(value.as_bytes());
    Some(bytes)
}

fn from_text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0)?;
    str::from_utf8(bytes.get(..end)?).ok().map(str::to_owned)
}

/// The type that an option's value has.
pub(crate) const fn value_type(name: OptionName) -> u32 {
    use OptionName as N;
    match name {
        N::ReuseAddress | N::ReusePort | N::KeepAlive | N::Broadcast | N::OutOfBandInline | N::DontRoute => {
            codes::VALUE_BOOL
        }
        N::MulticastLoop | N::MulticastLoop6 | N::ReceiveErrors | N::V6Only => codes::VALUE_BOOL,
        N::NoDelay | N::Cork | N::QuickAck | N::HeaderIncluded | N::FastOpenConnect => codes::VALUE_BOOL,
        N::Linger | N::KeepIdle | N::KeepInterval | N::UserTimeout | N::DeferAccept | N::FinTimeout => {
            codes::VALUE_DURATION
        }
        N::BindToDevice | N::Congestion => codes::VALUE_TEXT,
        N::MulticastInterface => codes::VALUE_IPV4,
        N::JoinGroup | N::LeaveGroup => codes::VALUE_GROUP4,
        N::JoinGroup6 | N::LeaveGroup6 => codes::VALUE_GROUP6,
        _ => codes::VALUE_NUMBER,
    }
}

/// An option to be asked for: its name, its type, and zeros.
pub(crate) fn option_query(name: OptionName) -> Option<raw::Opt> {
    let name_number = codes::option_number(name)?;
    Some(raw::Opt { name: name_number, r#type: value_type(name), value: raw::Value { text: [0; 32] } })
}

/// `None` for an option that the header does not know, and a text that does not fit.
pub(crate) fn to_option(option: &SocketOption) -> Option<raw::Opt> {
    use SocketOption as O;
    let mut out = option_query(option.name())?;
    let value = &mut out.value;
    match option {
        O::ReuseAddress(on) | O::ReusePort(on) | O::KeepAlive(on) | O::Broadcast(on) | O::DontRoute(on) => {
            value.number = (*on).into();
        }
        O::OutOfBandInline(on) | O::MulticastLoop(on) | O::MulticastLoop6(on) | O::ReceiveErrors(on) => {
            value.number = (*on).into();
        }
        O::V6Only(on) | O::NoDelay(on) | O::Cork(on) | O::QuickAck(on) | O::HeaderIncluded(on) => {
            value.number = (*on).into()
        }
        O::FastOpenConnect(on) => value.number = (*on).into(),
        O::FastOpen(n) => value.number = (*n).into(),
        O::Linger(time) => value.nanoseconds = time.map_or(raw::NONE, nanos),
        O::KeepIdle(time) | O::KeepInterval(time) | O::UserTimeout(time) => value.nanoseconds = nanos(*time),
        O::DeferAccept(time) | O::FinTimeout(time) => value.nanoseconds = nanos(*time),
        O::SendBuffer(n) | O::ReceiveBuffer(n) | O::Priority(n) | O::PathMtu(n) => value.number = (*n).into(),
        O::MulticastInterface6(n) | O::KeepCount(n) | O::SynCount(n) => value.number = (*n).into(),
        O::WindowClamp(n) | O::NotSentLowWater(n) | O::MaxSegment(n) => value.number = (*n).into(),
        O::Ttl(n) | O::TypeOfService(n) | O::MulticastTtl(n) | O::MtuDiscover(n) => {
            value.number = (*n).into();
        }
        O::UnicastHops(n) | O::TrafficClass(n) | O::MulticastHops(n) => value.number = (*n).into(),
        O::BindToDevice(name) | O::Congestion(name) => value.text = text(name)?,
        O::MulticastInterface(addr) => value.ipv4 = addr.octets(),
        O::JoinGroup((group, interface)) | O::LeaveGroup((group, interface)) => {
            let (group, interface_address) = (group.octets(), interface.octets());
            value.group4 = raw::Group4 { group, interface_address };
        }
        O::JoinGroup6((group, index)) | O::LeaveGroup6((group, index)) => {
            value.group6 = raw::Group6 { group: group.octets(), interface_index: *index };
        }
        _ => return None,
    }
    Some(out)
}

/// `None` for nonsense: an unknown name, a type that the name has not, a number out of its range.
pub(crate) fn from_option(option: &raw::Opt) -> Option<SocketOption> {
    use OptionName as N;
    use SocketOption as O;
    let name = codes::option_of(option.name)?;
    if option.r#type != value_type(name) {
        return None;
    }
    // SAFETY: every member of the union is made of integers, for which all bit patterns are values, and all
    // 32 bytes are initialised: `raw::Opt`s of this crate begin as zeros, and a C caller passes a whole object.
    let (number, bytes, ipv4, group4, group6) = unsafe {
        let v = option.value;
        (v.number, v.text, v.ipv4, v.group4, v.group6)
    };
    let flag = || if number <= 1 { Some(number == 1) } else { None };
    let small = || u8::try_from(number).ok();
    let wide = || u32::try_from(number).ok();
    let time = from_nanos(number);
    let groups4 = (Ipv4Addr::from(group4.group), Ipv4Addr::from(group4.interface_address));
    let groups6 = (Ipv6Addr::from(group6.group), group6.interface_index);
    Some(match name {
        N::ReuseAddress => O::ReuseAddress(flag()?),
        N::ReusePort => O::ReusePort(flag()?),
        N::KeepAlive => O::KeepAlive(flag()?),
        N::Linger => O::Linger((number != raw::NONE).then_some(time)),
        N::SendBuffer => O::SendBuffer(wide()?),
        N::ReceiveBuffer => O::ReceiveBuffer(wide()?),
        N::Broadcast => O::Broadcast(flag()?),
        N::OutOfBandInline => O::OutOfBandInline(flag()?),
        N::DontRoute => O::DontRoute(flag()?),
        N::Priority => O::Priority(wide()?),
        N::BindToDevice => O::BindToDevice(from_text(&bytes)?),
        N::Ttl => O::Ttl(small()?),
        N::TypeOfService => O::TypeOfService(small()?),
        N::MulticastTtl => O::MulticastTtl(small()?),
        N::MulticastLoop => O::MulticastLoop(flag()?),
        N::MulticastInterface => O::MulticastInterface(ipv4.into()),
        N::JoinGroup => O::JoinGroup(groups4),
        N::LeaveGroup => O::LeaveGroup(groups4),
        N::PathMtu => O::PathMtu(wide()?),
        N::MtuDiscover => O::MtuDiscover(small()?),
        N::ReceiveErrors => O::ReceiveErrors(flag()?),
        N::V6Only => O::V6Only(flag()?),
        N::UnicastHops => O::UnicastHops(small()?),
        N::TrafficClass => O::TrafficClass(small()?),
        N::MulticastHops => O::MulticastHops(small()?),
        N::MulticastLoop6 => O::MulticastLoop6(flag()?),
        N::MulticastInterface6 => O::MulticastInterface6(wide()?),
        N::JoinGroup6 => O::JoinGroup6(groups6),
        N::LeaveGroup6 => O::LeaveGroup6(groups6),
        N::NoDelay => O::NoDelay(flag()?),
        N::Cork => O::Cork(flag()?),
        N::QuickAck => O::QuickAck(flag()?),
        N::KeepIdle => O::KeepIdle(time),
        N::KeepInterval => O::KeepInterval(time),
        N::KeepCount => O::KeepCount(wide()?),
        N::UserTimeout => O::UserTimeout(time),
        N::DeferAccept => O::DeferAccept(time),
        N::SynCount => O::SynCount(wide()?),
        N::FinTimeout => O::FinTimeout(time),
        N::WindowClamp => O::WindowClamp(wide()?),
        N::NotSentLowWater => O::NotSentLowWater(wide()?),
        N::MaxSegment => O::MaxSegment(wide()?),
        N::Congestion => O::Congestion(from_text(&bytes)?),
        N::HeaderIncluded => O::HeaderIncluded(flag()?),
        N::FastOpen => O::FastOpen(wide()?),
        N::FastOpenConnect => O::FastOpenConnect(flag()?),
        _ => return None,
    })
}

pub(crate) fn to_received(received: &Received) -> raw::Received {
    raw::Received {
        len: received.len as u64,
        full_len: received.full_len as u64,
        from: received.from.map(to_address).unwrap_or_default(),
        to: received.to.map(to_ip).unwrap_or_default(),
        interface_index: received.interface,
        hop_limit: received.hop_limit,
        traffic_class: received.traffic_class,
        reserved: [0; 2],
    }
}

/// What a stack says it wrote to a buffer of `capacity` bytes; `None` for nonsense.
pub(crate) fn from_received(received: &raw::Received, capacity: usize) -> Option<Received> {
    let len = usize::try_from(received.len).ok().filter(|len| *len <= capacity)?;
    let full_len = usize::try_from(received.full_len).ok().filter(|full| *full >= len)?;
    Some(Received {
        len,
        full_len,
        from: from_address(&received.from).ok()?,
        to: from_ip(&received.to).ok()?,
        interface: received.interface_index,
        hop_limit: received.hop_limit,
        traffic_class: received.traffic_class,
    })
}

pub(crate) fn to_tcp_info(info: &TcpInfo) -> raw::TcpInfo {
    raw::TcpInfo {
        state: codes::tcp_state_number(info.state).unwrap_or(0),
        reserved: 0,
        rtt: nanos(info.rtt),
        rtt_variance: nanos(info.rtt_variance),
        rto: nanos(info.rto),
        send_mss: info.send_mss,
        receive_mss: info.receive_mss,
        congestion_window: info.congestion_window,
        unacknowledged: info.unacknowledged,
        retransmits: info.retransmits,
        send_window: info.send_window,
        receive_window: info.receive_window,
        reserved2: 0,
        bytes_sent: info.bytes_sent,
        bytes_received: info.bytes_received,
    }
}

/// `None` for a state that does not exist.
pub(crate) fn from_tcp_info(info: &raw::TcpInfo) -> Option<TcpInfo> {
    Some(TcpInfo {
        state: codes::tcp_state_of(info.state)?,
        rtt: from_nanos(info.rtt),
        rtt_variance: from_nanos(info.rtt_variance),
        rto: from_nanos(info.rto),
        send_mss: info.send_mss,
        receive_mss: info.receive_mss,
        congestion_window: info.congestion_window,
        unacknowledged: info.unacknowledged,
        retransmits: info.retransmits,
        send_window: info.send_window,
        receive_window: info.receive_window,
        bytes_sent: info.bytes_sent,
        bytes_received: info.bytes_received,
        // The rest is in the details.
        ..TcpInfo::default()
    })
}

pub(crate) fn to_tcp_details(info: &TcpInfo) -> raw::TcpDetails {
    let agreed = &info.agreed;
    let (send_window_scale, receive_window_scale) = agreed.window_scales.unwrap_or_default();
    let bits = [
        (agreed.timestamps, codes::AGREED_TIMESTAMPS),
        (agreed.sack, codes::AGREED_SACK),
        (agreed.window_scales.is_some(), codes::AGREED_WINDOW_SCALES),
        (agreed.ecn, codes::AGREED_ECN),
        (agreed.fast_open, codes::AGREED_FAST_OPEN),
    ];
    raw::TcpDetails {
        slow_start_threshold: info.slow_start_threshold,
        selectively_acknowledged: info.selectively_acknowledged,
        lost: info.lost,
        not_sent: info.not_sent,
        least_rtt: nanos(info.least_rtt),
        delivery_rate: info.delivery_rate,
        pacing_rate: info.pacing_rate,
        bytes_retransmitted: info.bytes_retransmitted,
        congestion_state: codes::congestion_number(info.congestion_state).unwrap_or(0),
        agreed: bits.iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum(),
        backoff: info.backoff.into(),
        send_window_scale,
        receive_window_scale,
        reserved: [0; 2],
    }
}

/// Adds the details to what is known; `None` for a congestion state that does not exist, a window scale beyond RFC 7323
/// section 2.3, or more time-outs than there can be. Bits that are newer than this are ignored.
pub(crate) fn with_tcp_details(info: TcpInfo, details: &raw::TcpDetails) -> Option<TcpInfo> {
    let has = |bit: u32| details.agreed & bit != 0;
    let scales = (details.send_window_scale, details.receive_window_scale);
    let window_scales = has(codes::AGREED_WINDOW_SCALES).then_some(scales);
    if window_scales.is_some_and(|(send, receive)| send.max(receive) > 14) {
        return None;
    }
    Some(TcpInfo {
        slow_start_threshold: details.slow_start_threshold,
        selectively_acknowledged: details.selectively_acknowledged,
        lost: details.lost,
        not_sent: details.not_sent,
        least_rtt: from_nanos(details.least_rtt),
        delivery_rate: details.delivery_rate,
        pacing_rate: details.pacing_rate,
        bytes_retransmitted: details.bytes_retransmitted,
        congestion_state: codes::congestion_of(details.congestion_state)?,
        agreed: Agreed {
            timestamps: has(codes::AGREED_TIMESTAMPS),
            sack: has(codes::AGREED_SACK),
            window_scales,
            ecn: has(codes::AGREED_ECN),
            fast_open: has(codes::AGREED_FAST_OPEN),
        },
        backoff: u8::try_from(details.backoff).ok()?,
        ..info
    })
}

macro_rules! tcp_counters {
    ($($number:ident $field:ident)*) => {
        /// All counters of TCP.
        pub(crate) fn to_tcp_counters(s: &TcpStatistics) -> impl ExactSizeIterator<Item = raw::TcpCounter> {
            // A counter that has no number here does not compile.
            let TcpStatistics { $($field,)* } = *s;
            [$((codes::$number, $field),)*]
                .into_iter()
                .map(|(count, value)| raw::TcpCounter { count, reserved: 0, value })
        }

        /// What a list of counters says; those of a newer version are skipped.
        pub(crate) fn from_tcp_counters(list: &[raw::TcpCounter]) -> TcpStatistics {
            let mut s = TcpStatistics::NONE;
            for counter in list {
                match counter.count {
                    $(codes::$number => s.$field = counter.value,)*
                    _ => {}
                }
            }
            s
        }
    };
}
tcp_counters! {
    TCP_RETRANSMITTED retransmitted
    TCP_TIMEOUTS timeouts
    TCP_SPURIOUS_TIMEOUTS spurious_timeouts
    TCP_LOSS_PROBES loss_probes
    TCP_SACK_RECOVERIES sack_recoveries
    TCP_RENO_RECOVERIES reno_recoveries
    TCP_UNDONE undone
    TCP_DUPLICATES_REPORTED duplicates_reported
    TCP_OUT_OF_ORDER out_of_order
    TCP_CHALLENGES challenges
    TCP_COOKIES_SENT cookies_sent
    TCP_COOKIES_RECEIVED cookies_received
    TCP_TIMED_OUT timed_out
    TCP_FAST_OPEN_ACTIVE fast_open_active
    TCP_FAST_OPEN_PASSIVE fast_open_passive
    TCP_MEMORY_PRESSURES memory_pressures
}

/// A name longer than the kernel's limit is cut.
pub(crate) fn to_interface(interface: &Interface) -> raw::Interface {
    let mut name = [0; 16];
    name[..15].iter_mut().zip(interface.name.bytes()).for_each(|(to, from)| *to = from);
    raw::Interface {
        index: interface.index,
        mtu: interface.mtu,
        name,
        up: interface.up.into(),
        loopback: interface.loopback.into(),
        has_hardware_address: interface.hardware_address.is_some().into(),
        reserved: 0,
        hardware_address: interface.hardware_address.unwrap_or_default(),
        reserved2: [0; 2],
    }
}

/// `None` for nonsense: index 0, or a name that cannot be one (netdevice(7)).
pub(crate) fn from_interface(interface: &raw::Interface, addresses: Vec<Cidr>) -> Option<Interface> {
    let name = from_text(&interface.name)?;
    let legal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    (legal && interface.index != 0).then_some(Interface {
        index: interface.index,
        name,
        mtu: interface.mtu,
        up: interface.up != 0,
        loopback: interface.loopback != 0,
        hardware_address: (interface.has_hardware_address != 0).then_some(interface.hardware_address),
        addresses,
    })
}

pub(crate) fn to_route(route: &Route) -> raw::Route {
    raw::Route {
        destination: to_cidr(route.destination),
        gateway: route.gateway.map(to_ip).unwrap_or_default(),
        interface_index: route.interface,
    }
}

/// `None` for nonsense.
pub(crate) fn from_route(route: &raw::Route) -> Option<Route> {
    Some(Route {
        destination: from_cidr(&route.destination)?,
        gateway: from_ip(&route.gateway).ok()?,
        interface: route.interface_index,
    })
}

pub(crate) const fn to_sizes(sizes: BufferSizes) -> raw::BufferSizes {
    raw::BufferSizes { min: sizes.min, default_size: sizes.default, max: sizes.max }
}

/// `None` unless they are in order.
pub(crate) fn from_sizes(sizes: raw::BufferSizes) -> Option<BufferSizes> {
    let sizes = BufferSizes { min: sizes.min, default: sizes.default_size, max: sizes.max };
    netgraft_plugin::inet::check_buffer_sizes(sizes).ok().map(|()| sizes)
}

macro_rules! statistics {
    ($($field:ident)*) => {
        pub(crate) const fn to_statistics(s: &Statistics) -> raw::Statistics {
            raw::Statistics { $($field: s.$field,)* }
        }

        pub(crate) const fn from_statistics(s: &raw::Statistics) -> Statistics {
            Statistics { $($field: s.$field,)* tcp: TcpStatistics::NONE }
        }
    };
}
statistics! {
    packets_received bytes_received packets_sent bytes_sent packets_dropped tcp_active_opens
    tcp_passive_opens tcp_established tcp_attempt_fails tcp_resets_received tcp_resets_sent
    tcp_listen_overflows udp_received udp_sent udp_no_port udp_receive_overflows sockets
}

/// A rule with more conditions than a system call has arguments cannot be written down: `None`.
pub(crate) fn to_rule(rule: &SyscallRule) -> Option<raw::Rule> {
    let mut conditions = [raw::Condition::default(); 6];
    for (to, from) in conditions.iter_mut().zip(&rule.conditions) {
        *to = raw::Condition { index: from.index.into(), mask: from.mask, value: from.value };
    }
    let condition_count = rule.conditions.len() as u64;
    (condition_count <= 6).then_some(raw::Rule { number: rule.number, condition_count, conditions })
}

/// `None` for an argument that does not exist.
pub(crate) fn from_rule(rule: &raw::Rule) -> Option<SyscallRule> {
    let conditions = rule.conditions.get(..usize::try_from(rule.condition_count).ok()?)?;
    let conditions = conditions
        .iter()
        .map(|c| {
            let index = u8::try_from(c.index).ok().filter(|index| *index < 6)?;
            Some(ArgCondition { index, mask: c.mask, value: c.value })
        })
        .collect::<Option<_>>()?;
    Some(SyscallRule { number: rule.number, conditions })
}
