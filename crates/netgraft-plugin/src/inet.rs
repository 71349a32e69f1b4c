//! Interfaces, addresses, routes and the settings of a whole stack.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::Cidr;
use crate::error::{Error, Result};
use crate::socket::Domain;

/// A network interface of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index, from 1; the loopback is 1 (netdevice(7)).
    pub index: u32,
    /// Name, 1 to 15 bytes.
    pub name: String,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// Ethernet address, if it has one.
    pub hardware_address: Option<[u8; 6]>,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where it leads; a prefix of 0 is the default route.
    pub destination: Cidr,
    /// The next hop; `None` if the network is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: u32,
}

/// The sizes that a TCP buffer can have, in bytes (`tcp_rmem`, `tcp_wmem`, tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// The least.
    pub min: u32,
    /// What a new socket gets.
    pub default: u32,
    /// The most that a program can ask for.
    pub max: u32,
}

/// Loss recovery of TCP (`tcp_recovery` and friends, tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recovery {
    /// Time-outs only.
    Timeout,
    /// Fast retransmit after three duplicate acknowledgements (RFC 5681, NewReno RFC 6582).
    NewReno,
    /// Selective acknowledgement (RFC 6675).
    Sack,
    /// RACK (RFC 8985).
    Rack,
}

/// Counters since the stack began; a stack leaves at zero what it does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statistics {
    /// IP packets received.
    pub packets_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// IP packets sent.
    pub packets_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Packets that were malformed or for nobody.
    pub packets_dropped: u64,
    /// TCP connections opened from this side (`ActiveOpens`, RFC 4022).
    pub tcp_active_opens: u64,
    /// TCP connections opened from the other side (`PassiveOpens`).
    pub tcp_passive_opens: u64,
    /// TCP connections that exist now (`CurrEstab`).
    pub tcp_established: u64,
    /// Connection attempts that failed (`AttemptFails`).
    pub tcp_attempt_fails: u64,
    /// Resets received on established connections (`EstabResets`).
    pub tcp_resets_received: u64,
    /// Resets sent (`OutRsts`).
    pub tcp_resets_sent: u64,
    /// Connections dropped since a listener's queue was full (`ListenOverflows`).
    pub tcp_listen_overflows: u64,
    /// UDP datagrams received.
    pub udp_received: u64,
    /// UDP datagrams sent.
    pub udp_sent: u64,
    /// UDP datagrams without a socket (`NoPorts`, RFC 4113).
    pub udp_no_port: u64,
    /// UDP datagrams dropped since the receive buffer was full.
    pub udp_receive_overflows: u64,
    /// Sockets that exist now.
    pub sockets: u64,
    /// How TCP has fared in detail.
    pub tcp: TcpStatistics,
}

macro_rules! tcp_statistics {
    ($($(#[$doc:meta])* $name:literal $field:ident,)*) => {
        /// How TCP has fared since the stack began, all connections together. [`TcpStatistics::named`] has the names that
        /// Linux gives them in `/proc/net/netstat` (`TcpExt`) and `/proc/net/snmp` (`Tcp`).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct TcpStatistics {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl TcpStatistics {
            /// Nothing has happened.
            pub const NONE: TcpStatistics = TcpStatistics { $($field: 0,)* };

            /// All of them, with the names that Linux has.
            #[must_use]
            pub const fn named(&self) -> [(&'static str, u64); [$($name,)*].len()] {
                [$(($name, self.$field),)*]
            }
        }
    };
}

tcp_statistics! {
    /// Segments sent again.
    "RetransSegs" retransmitted,
    /// Retransmission time-outs.
    "TCPTimeouts" timeouts,
    /// Time-outs that were in vain: what seemed lost was late (RFC 5682).
    "TCPSpuriousRTOs" spurious_timeouts,
    /// Tail loss probes (RFC 8985 section 7).
    "TCPLossProbes" loss_probes,
    /// Times that losses were found without a time-out, by selective acknowledgements.
    "TCPSackRecovery" sack_recoveries,
    /// Times that losses were found without a time-out, by duplicate acknowledgements.
    "TCPRenoRecovery" reno_recoveries,
    /// Times that a loss turned out to be none, so that the window was restored.
    "TCPFullUndo" undone,
    /// Duplicates that peers reported (RFC 2883).
    "TCPDSACKRecv" duplicates_reported,
    /// Segments that came out of order.
    "TCPOFOQueue" out_of_order,
    /// Challenges to segments that could be forged (RFC 5961).
    "TCPChallengeACK" challenges,
    /// SYN cookies sent, and taken up (RFC 4987).
    "SyncookiesSent" cookies_sent,
    /// See `cookies_sent`.
    "SyncookiesRecv" cookies_received,
    /// Connections that ended since nobody answered.
    "TCPAbortOnTimeout" timed_out,
    /// Connections begun with data in the SYN that the peer took (RFC 7413), and those that peers began so.
    "TCPFastOpenActive" fast_open_active,
    /// See `fast_open_active`.
    "TCPFastOpenPassive" fast_open_passive,
    /// Times that the memory for data became short.
    "TCPMemoryPressures" memory_pressures,
}

/// The sizes of TCP buffers that a stack has which says nothing else: fixed.
const FIXED: BufferSizes = BufferSizes { min: 65_536, default: 65_536, max: 65_536 };

/// The administration of a whole stack. All of it is optional: a setting that the stack does not have answers
/// [`Error::NotSupported`], and so do all of them by default; `impl inet::Stack for Mine {}` is enough for a stack
/// without interfaces, routes and counters.
pub trait Stack {
    /// The interfaces, the loopback first.
    fn interfaces(&self) -> Vec<Interface> {
        Vec::new()
    }

    /// Whether an address is one of an interface's, or of the loopback. Asked for each connection where there are rules, so a
    /// stack that knows it without making a list says so.
    fn is_own(&self, ip: IpAddr) -> bool {
        let has = |interface: &Interface| interface.addresses.iter().any(|address| address.addr() == ip);
        ip.is_loopback() || self.interfaces().iter().any(has)
    }

    /// Adds an address to an interface.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Exists`], [`Error::NoBuffers`] if no more fit.
    fn add_address(&mut self, interface: u32, address: Cidr) -> Result<()> {
        let _ = (interface, address);
        Err(Error::NotSupported)
    }

    /// Removes an address.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the interface has not this address.
    fn remove_address(&mut self, interface: u32, address: Cidr) -> Result<()> {
        let _ = (interface, address);
        Err(Error::NotSupported)
    }

    /// The routes, the most specific first.
    fn routes(&self) -> Vec<Route> {
        Vec::new()
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NetworkUnreachable`] if the gateway is on no link, [`Error::NoBuffers`].
    fn add_route(&mut self, route: Route) -> Result<()> {
        let _ = route;
        Err(Error::NotSupported)
    }

    /// Removes a route.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn remove_route(&mut self, route: Route) -> Result<()> {
        let _ = route;
        Err(Error::NotSupported)
    }

    /// Sizes of TCP receive buffers.
    fn tcp_receive_buffer(&self) -> BufferSizes {
        FIXED
    }

    /// Changes them, for sockets made later.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 0 < min ≤ default ≤ max.
    fn set_tcp_receive_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        Err(Error::NotSupported)
    }

    /// Sizes of TCP send buffers.
    fn tcp_send_buffer(&self) -> BufferSizes {
        FIXED
    }

    /// Changes them, for sockets made later.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 0 < min ≤ default ≤ max.
    fn set_tcp_send_buffer(&mut self, sizes: BufferSizes) -> Result<()> {
        check_buffer_sizes(sizes)?;
        Err(Error::NotSupported)
    }

    /// Whether selective acknowledgements are used (RFC 2018).
    fn tcp_sack(&self) -> bool {
        false
    }

    /// Turns them on or off.
    ///
    /// # Errors
    /// [`Error::NotSupported`].
    fn set_tcp_sack(&mut self, on: bool) -> Result<()> {
        let _ = on;
        Err(Error::NotSupported)
    }

    /// How TCP recovers from loss.
    fn tcp_recovery(&self) -> Recovery {
        Recovery::Timeout
    }

    /// Changes it.
    ///
    /// # Errors
    /// [`Error::NotSupported`].
    fn set_tcp_recovery(&mut self, recovery: Recovery) -> Result<()> {
        let _ = recovery;
        Err(Error::NotSupported)
    }

    /// The counters.
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    /// First and last port that are given to sockets which ask for none (`ip_local_port_range`, ip(7)).
    fn port_range(&self) -> (u16, u16) {
        (32_768, 60_999)
    }

    /// Changes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 0 < first ≤ last.
    fn set_port_range(&mut self, first: u16, last: u16) -> Result<()> {
        Err(if first == 0 || first > last { Error::Invalid } else { Error::NotSupported })
    }

    /// Whether packets for others are forwarded (`ip_forward`, ip(7)).
    fn forwarding(&self, domain: Domain) -> bool {
        let _ = domain;
        false
    }

    /// Turns it on or off.
    ///
    /// # Errors
    /// [`Error::NotSupported`].
    fn set_forwarding(&mut self, domain: Domain, on: bool) -> Result<()> {
        let _ = (domain, on);
        Err(Error::NotSupported)
    }

    /// Stops all traffic and timers: the stack stands still until [`Stack::resume`].
    ///
    /// # Errors
    /// [`Error::NotSupported`].
    fn pause(&mut self) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Goes on after [`Stack::pause`].
    ///
    /// # Errors
    /// [`Error::NotSupported`].
    fn resume(&mut self) -> Result<()> {
        Err(Error::NotSupported)
    }
}

/// The route that leads to `destination`: the one with the longest prefix, the first of equals (RFC 1812
/// section 5.2.4.3).
#[must_use]
pub fn best_route(routes: &[Route], destination: IpAddr) -> Option<&Route> {
    let mut best: Option<&Route> = None;
    for route in routes.iter().filter(|r| r.destination.contains(destination)) {
        if best.is_none_or(|b| route.destination.prefix() > b.destination.prefix()) {
            best = Some(route);
        }
    }
    best
}

/// Checks what [`Stack::set_tcp_receive_buffer`] and its like ask of sizes.
///
/// # Errors
/// [`Error::Invalid`] unless 0 < min ≤ default ≤ max.
pub fn check_buffer_sizes(sizes: BufferSizes) -> Result<()> {
    let ordered = 0 < sizes.min && sizes.min <= sizes.default && sizes.default <= sizes.max;
    if ordered { Ok(()) } else { Err(Error::Invalid) }
}

/// Whether `addr` means a limited or, for one of `networks`, a directed broadcast (RFC 919).
#[must_use]
pub fn is_broadcast(networks: &[Cidr], addr: Ipv4Addr) -> bool {
    addr.is_broadcast() || networks.iter().any(|n| n.broadcast() == Some(addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let route =
            |dest: &str, interface| Route { destination: dest.parse().unwrap(), gateway: None, interface };
        let routes = [route("0.0.0.0/0", 1), route("10.0.0.0/8", 2), route("10.1.0.0/16", 3)];
        let to = |a: &str| best_route(&routes, a.parse().unwrap()).map(|r| r.interface);
        assert_eq!(to("10.1.2.3"), Some(3));
        assert_eq!(to("10.2.2.3"), Some(2));
        assert_eq!(to("192.0.2.1"), Some(1));
        assert_eq!(to("::1"), None);
    }
}
