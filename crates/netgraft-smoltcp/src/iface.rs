//! The two interfaces: smoltcp's machine for each, with its queue of outgoing frames.

use std::net::IpAddr;

use netgraft_plugin::link::{Medium, Offload};
use netgraft_plugin::{Cidr, Instant};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium as SmolMedium};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

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

/// What the interface on the link is called.
pub(crate) const LINK_NAME: &str = "eth0";
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
    /// Largest TCP packets of IPv4 and IPv6 that the link cuts into segments; 0 for none.
    pub(crate) whole: (usize, usize),
    /// The largest receive buffer of a connection, so that the link drops nothing that a window allows.
    pub(crate) buffer: usize,
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
            caps.checksum.udp = Checksum::Tx;
        }
        let mut netif = Self::new(caps, hardware, mtu, seed, now);
        netif.checksums = !offload.checksum;
        if offload.checksum {
            netif.whole = (offload.segment_v4, offload.segment_v6);
        }
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
            whole: (0, 0),
            buffer: usize::MAX,
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

    /// Keeps what connections receive below the room of the link: a quarter of it each, since several may be busy, and
    /// two of the largest packets at least.
    pub(crate) fn limit_buffers(&mut self, room: Option<usize>) {
        self.buffer = room.map_or(usize::MAX, |room| (room / 4).max(2 * LARGEST));
    }

    /// What the interface carries of a TCP connection; `wanted` is the largest segment that the program wants, or 0.
    pub(crate) fn tcp_path(&self, v4: bool, wanted: u16) -> netgraft_tcp::Path {
        let headers = if v4 { 40 } else { 60 };
        let fits = u16::try_from(self.mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        let mss = if wanted == 0 { fits } else { wanted.min(fits) };
        let whole = if v4 { self.whole.0 } else { self.whole.1 };
        // A data segment has timestamps and no other options.
        netgraft_tcp::Path { mss, whole: whole.min(LARGEST).saturating_sub(headers + 12) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_small_enough_for_the_stack() {
        let size = std::mem::size_of::<Interface>();
        assert!((1..32 << 10).contains(&size), "{size}");
    }
}
