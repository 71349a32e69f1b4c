//! The two interfaces: smoltcp's machine for each, with its queue of outgoing frames.

use std::net::IpAddr;

use netgraft_plugin::link::{Medium, Offload};
use netgraft_plugin::{Cidr, Instant};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium as SmolMedium};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpVersion};

use crate::addr::address;
use crate::device::{Edit, Port, TxQueue};

/// Which interface a packet or a connection is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Loopback,
    Link,
}

impl Side {
    /// The interface's index.
    pub(crate) const fn index(self) -> u32 {
        match self {
            Side::Loopback => 1,
            Side::Link => 2,
        }
    }
}

/// The loopback's MTU, as on Linux. A packet is one byte shorter: an IPv4 length has 16 bits.
pub(crate) const LOOPBACK_MTU: u32 = 65_536;
/// The largest IPv4 packet.
const LARGEST: usize = 65_535;
/// The largest IPv6 packet without a jumbo payload: its length does not count the header.
const LARGEST_V6: usize = 65_535 + 40;
/// Most frames in a queue; TCP stops sending, datagram sockets say `Again`.
const QUEUE: usize = 1024;
/// Addresses that fit on an interface (a feature of smoltcp).
pub(crate) const ADDRESSES: usize = 8;

/// Time for smoltcp, in microseconds.
pub(crate) fn smol(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.micros()).unwrap_or(i64::MAX))
}

/// Time from smoltcp.
pub(crate) fn unsmol(at: smoltcp::time::Instant) -> Instant {
    Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
}

/// An interface.
pub(crate) struct NetIf {
    /// Boxed: it has its tables in itself.
    iface: Box<Interface>,
    caps: DeviceCapabilities,
    pub(crate) tx: TxQueue,
    pub(crate) addresses: Vec<Cidr>,
    /// Largest IP packet.
    pub(crate) mtu: usize,
    /// The Ethernet address, if there is one.
    pub(crate) mac: Option<[u8; 6]>,
    /// Length of the link's header.
    pub(crate) header: usize,
    /// Whether received checksums must be checked, and sent ones computed.
    pub(crate) checksums: bool,
    none: SocketSet<'static>,
}

impl NetIf {
    /// The loopback: any address is its own, nothing is checked.
    pub(crate) fn loopback(seed: u64, now: Instant) -> Self {
        let mut caps = DeviceCapabilities::default();
        caps.medium = SmolMedium::Ip;
        caps.max_transmission_unit = LARGEST;
        caps.checksum = smoltcp::phy::ChecksumCapabilities::ignored();
        let mut loopback = Self::new(caps, HardwareAddress::Ip, LARGEST, seed, now);
        loopback.iface.set_any_ip(true);
        loopback.checksums = false;
        loopback
    }

    /// The interface on a link.
    pub(crate) fn on_link(medium: Medium, mtu: usize, offload: Offload, seed: u64, now: Instant) -> Self {
        let mut caps = DeviceCapabilities::default();
        let hardware = match medium {
            Medium::Ethernet(mac) => {
                caps.medium = SmolMedium::Ethernet;
                HardwareAddress::Ethernet(EthernetAddress(mac))
            }
            Medium::Ip => {
                caps.medium = SmolMedium::Ip;
                HardwareAddress::Ip
            }
        };
        let header = if caps.medium == SmolMedium::Ethernet { 14 } else { 0 };
        // smoltcp sees an MTU that nothing exceeds. TCP keeps to the real one by its MSS options; what else is
        // larger is cut as it is queued, which smoltcp can do for IPv4 only.
        caps.max_transmission_unit = LARGEST_V6 + header;
        if offload.checksum {
            caps.checksum.tcp = Checksum::None;
            caps.checksum.udp = Checksum::Tx;
            let whole = |bytes: usize| {
                let bytes = bytes.min(LARGEST);
                if bytes > mtu { std::num::NonZeroUsize::new(bytes + header) } else { None }
            };
            caps.segmentation.tcpv4 = whole(offload.segment_v4);
            caps.segmentation.tcpv6 = whole(offload.segment_v6);
        }
        let mut netif = Self::new(caps, hardware, mtu, seed, now);
        netif.checksums = !offload.checksum;
        netif.mac = crate::stack::mac_of(medium);
        netif
    }

    fn new(caps: DeviceCapabilities, hardware: HardwareAddress, mtu: usize, seed: u64, now: Instant) -> Self {
        let header = if caps.medium == SmolMedium::Ethernet { 14 } else { 0 };
        let mut config = Config::new(hardware);
        config.random_seed = seed;
        let mut tx = TxQueue::new(header, mtu, seed as u32, QUEUE);
        let iface =
            Box::new(Interface::new(config, &mut Port { rx: None, tx: &mut tx, caps: &caps }, smol(now)));
        NetIf {
            iface,
            caps,
            tx,
            addresses: Vec::new(),
            mtu,
            mac: None,
            header,
            checksums: true,
            none: SocketSet::new(Vec::new()),
        }
    }

    /// Gives a frame to the sockets of `set` and to the interface itself.
    pub(crate) fn ingress(&mut self, now: Instant, frame: &[u8], set: &mut SocketSet<'static>, edit: Edit) {
        self.tx.edit = edit;
        let mut port = Port { rx: Some(frame), tx: &mut self.tx, caps: &self.caps };
        let _ = self.iface.poll_ingress_single(smol(now), &mut port, set);
        self.tx.edit = Edit::default();
    }

    /// Begins a connection with the initial sequence number `isn`; the SYN leaves with the next [`NetIf::egress`].
    ///
    /// # Errors
    /// smoltcp's, if the ends do not fit together or the socket is open.
    pub(crate) fn connect(
        &self,
        socket: &mut tcp::Socket<'static>,
        (local, remote): (IpEndpoint, IpEndpoint),
        isn: u32,
        now: Instant,
    ) -> Result<(), tcp::ConnectError> {
        self.with_number(local.addr, isn, now, None, |iface, _| {
            socket.connect(iface.context(), remote, local)
        })
    }

    /// Gives a SYN to the listening socket in `set`, which answers with the initial sequence number `isn`. The
    /// answer leaves with the next [`NetIf::egress`].
    pub(crate) fn ingress_syn(
        &self,
        now: Instant,
        frame: &[u8],
        set: &mut SocketSet<'static>,
        to: IpAddr,
        isn: u32,
    ) {
        self.with_number(address(to), isn, now, frame.get(self.header..), |iface, port| {
            let _ = iface.poll_ingress_single(smol(now), port, set);
        });
    }

    /// Makes an interface for one call that needs an initial sequence number, with the one address `to` and the
    /// packet `rx`. Nothing is sent through it. It has 20 KiB, so it stays where it was made.
    fn with_number<R>(
        &self,
        to: IpAddress,
        isn: u32,
        now: Instant,
        rx: Option<&[u8]>,
        call: impl FnOnce(&mut Interface, &mut Port<'_>) -> R,
    ) -> R {
        let mut caps = DeviceCapabilities::default();
        caps.medium = SmolMedium::Ip;
        caps.max_transmission_unit = LARGEST;
        caps.checksum = self.caps.checksum.clone();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = crate::isn::seed(isn);
        let mut port = Port { rx, tx: &mut TxQueue::new(0, LARGEST, 0, QUEUE), caps: &caps };
        let mut iface = Interface::new(config, &mut port, smol(now));
        iface.update_ip_addrs(|list| {
            // The list of a new interface is empty.
            let _ = list.push(IpCidr::new(to, if to.version() == IpVersion::Ipv4 { 32 } else { 128 }));
        });
        call(&mut iface, &mut port)
    }

    /// Gives a frame to the interface: it answers what is for no socket.
    pub(crate) fn ingress_unclaimed(&mut self, now: Instant, frame: &[u8]) {
        let mut port = Port { rx: Some(frame), tx: &mut self.tx, caps: &self.caps };
        let _ = self.iface.poll_ingress_single(smol(now), &mut port, &mut self.none);
    }

    /// Sends at most one packet of `set`; answers whether one was sent.
    pub(crate) fn egress(&mut self, now: Instant, set: &mut SocketSet<'static>, edit: Edit) -> bool {
        self.tx.edit = edit;
        let mut port = Port { rx: None, tx: &mut self.tx, caps: &self.caps };
        let sent = self.iface.poll_egress(smol(now), &mut port, set) == PollResult::SocketStateChanged;
        self.tx.edit = Edit::default();
        sent
    }

    /// Sends what the interface has of its own: multicast reports.
    pub(crate) fn egress_own(&mut self, now: Instant) {
        let mut port = Port { rx: None, tx: &mut self.tx, caps: &self.caps };
        let _ = self.iface.poll_egress(smol(now), &mut port, &mut self.none);
    }

    /// When `set` next has something to do; not after `now` for at once.
    pub(crate) fn poll_at(&mut self, now: Instant, set: &SocketSet<'static>) -> Option<Instant> {
        self.iface.poll_at(smol(now), set).map(unsmol)
    }

    /// smoltcp's interface, for addresses, routes and groups.
    pub(crate) fn inner(&mut self) -> &mut Interface {
        &mut self.iface
    }

    /// Tells smoltcp the addresses.
    pub(crate) fn sync_addresses(&mut self) {
        let addresses: Vec<IpCidr> =
            self.addresses.iter().map(|c| IpCidr::new(address(c.addr()), c.prefix())).collect();
        self.iface.update_ip_addrs(|list| {
            list.clear();
            for cidr in addresses {
                // The caller keeps to `ADDRESSES`.
                let _ = list.push(cidr);
            }
        });
    }

    /// Whether the interface has the address.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|c| c.addr() == ip)
    }

    /// What is changed in a connection's packets: `class` and the largest segment that the program wants, or 0.
    pub(crate) fn edit(&self, v4: bool, class: u8, wanted: u16, peer_mss: u16) -> Edit {
        let fits = (self.mtu - if v4 { 40 } else { 60 }) as u16;
        let loopback = self.mtu == LARGEST && self.mac.is_none();
        let mss = match wanted {
            0 if loopback => 0,
            0 => fits,
            wanted => wanted.min(fits),
        };
        // Only a link that cuts segments is asked to.
        let cuts = if v4 { self.caps.segmentation.tcpv4 } else { self.caps.segmentation.tcpv6 };
        let segment = if cuts.is_none() { 0 } else { mss.min(peer_mss) };
        let header_checksum = !loopback;
        let tcp_checksum = self.checksums;
        Edit { traffic_class: class, mss, segment, header_checksum, tcp_checksum, ..Edit::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet;

    #[test]
    fn an_interface_is_small_enough_for_the_stack() {
        let size = std::mem::size_of::<Interface>();
        assert!((1..32 << 10).contains(&size), "{size}");
    }

    #[test]
    fn connections_begin_with_the_number_that_was_chosen() {
        let mut netif = NetIf::loopback(1, Instant::ZERO);
        let end = |port| IpEndpoint::new(IpAddress::v4(127, 0, 0, 1), port);
        let make = || {
            let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
            let mut set = SocketSet::new(Vec::new());
            let inner = set.add(tcp::Socket::new(buffer(), buffer()));
            (set, inner)
        };
        let sent = |netif: &mut NetIf, set: &mut SocketSet<'static>| {
            netif.egress(Instant::ZERO, set, Edit::default());
            let frame = netif.tx.pop().unwrap();
            let seq = packet::segment(packet::parse(frame.bytes()).unwrap().payload).unwrap().seq;
            (frame, seq)
        };
        let some = (0..200u32).map(|i| i.wrapping_mul(0x9e37_79b9));
        for isn in [0, 1, u32::MAX, 1 << 31].into_iter().chain(some) {
            let (mut set, inner) = make();
            netif.connect(set.get_mut(inner), (end(1), end(2)), isn, Instant::ZERO).unwrap();
            let (syn, seq) = sent(&mut netif, &mut set);
            assert_eq!(seq, isn);
            let (mut set, inner) = make();
            set.get_mut::<tcp::Socket<'static>>(inner).listen(end(2)).unwrap();
            let to = IpAddr::from([127, 0, 0, 1]);
            netif.ingress_syn(Instant::ZERO, syn.bytes(), &mut set, to, !isn);
            assert_eq!(sent(&mut netif, &mut set).1, !isn);
        }
    }
}
