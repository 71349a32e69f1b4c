//! AF_PACKET on an interface of the kernel (packet(7)).
//!
//! The kernel sees the interface's frames too. So the interface must carry no IP address of the stack's, or the
//! kernel would answer with resets what the stack accepts; best none at all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::messages::Messages;
use super::ring::{self, Ring, Slot};
use super::{Device, OpenError, check, control_socket, flags_of, interface_ioctl, vlan, vnet};

/// `PACKET_VNET_HDR`, `PACKET_IGNORE_OUTGOING` (linux/if_packet.h)
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Receive buffer of the socket.
const BUFFER: libc::c_int = 4 * 1024 * 1024;

/// A packet socket on an interface.
#[derive(Debug)]
pub struct Packet {
    fd: OwnedFd,
    messages: Messages,
    /// Where frames come, if not as messages.
    pub(super) ring: Option<Ring>,
}

impl Packet {
    /// Takes over the interface `name` of the caller's network namespace, whose address the stack uses: its frames without a
    /// tag, or those of a VLAN.
    ///
    /// # Errors
    /// That the interface is missing, down, or no Ethernet; that CAP_NET_RAW is missing.
    pub fn open(name: &str, vlan: Option<u16>) -> Result<(Packet, Device), OpenError> {
        let problem = |what: &str, e| OpenError::io(format!("interface {name}: {what}"), e);
        let flags = flags_of(name).map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV) => {
                OpenError::new(format!("there is no interface {name} in this network namespace"))
            }
            _ => problem("cannot be looked at", e),
        })?;
        if flags & libc::IFF_UP == 0 {
            return Err(OpenError::new(format!("interface {name} is down: ip link set {name} up")));
        }
        let (mac, index) = Self::identify(name).map_err(|e| match e.kind() {
            io::ErrorKind::Unsupported => OpenError::new(format!(
                "interface {name} is no Ethernet interface: take one end of a veth pair, or --link tap:NAME"
            )),
            _ => problem("cannot be looked at", e),
        })?;
        let mtu = super::mtu_of(name).map_err(|e| problem("has no MTU", e))?;
        let fd = Self::bind(index, vlan).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => OpenError::advise(
                format!("interface {name} needs CAP_NET_RAW over the network namespace"),
                e,
                "run as root",
            ),
            _ => problem("cannot be opened", e),
        })?;
        Ok((Self::from_fd(fd, vlan), Device { name: name.to_owned(), mac, mtu }))
    }

    fn identify(name: &str) -> io::Result<([u8; 6], libc::c_int)> {
        let mac = super::mac_of(name)?;
        let socket = control_socket()?;
        let mut request = super::request(name)?;
        interface_ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: SIOCGIFINDEX has filled `ifru_ifindex`.
        Ok((mac, unsafe { request.ifr_ifru.ifru_ifindex }))
    }

    fn bind(index: libc::c_int, vlan: Option<u16>) -> io::Result<OwnedFd> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0 receives nothing until the socket is bound to its interface.
        // SAFETY: socket has no memory arguments.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the kernel just gave this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set(fd.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        set(fd.as_raw_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        filter(fd.as_fd(), vlan)?;
        // Beyond rmem_max only with CAP_NET_ADMIN; without it the default has to do.
        enlarge(fd.as_fd()).or_else(|_| set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER))?;
        // SAFETY: `sockaddr_ll` is plain data for which zero is valid.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        addr.sll_ifindex = index;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives through the call and has the length that is passed.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len) })?;
        Ok(fd)
    }

    /// The device again, from its descriptor, and the VLAN that it was opened with.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, vlan: Option<u16>) -> Packet {
        Packet { fd, messages: Messages::new().of_vlan(vlan), ring: None }
    }

    /// The device again, from its descriptor; its frames come by a ring if it was given one.
    #[must_use]
    pub fn from_ring(fd: OwnedFd) -> Packet {
        let ring = Ring::map(fd.as_fd()).ok();
        Packet { ring, ..Packet::from_fd(fd, None) }
    }

    /// The descriptor, to be handed to another process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Receives at most `limit` frames with one system call, or none where there is a ring, and hands each to `deliver`, with the payload bytes of each
    /// piece if the kernel has several TCP segments or UDP datagrams in it, else 0; answers how many came, and whether
    /// more may wait.
    ///
    /// # Errors
    /// ENETDOWN once after the interface went down, ENODEV if it is gone.
    pub fn receive(
        &mut self,
        limit: usize,
        deliver: &mut dyn FnMut(&[u8], u16),
    ) -> io::Result<(usize, bool)> {
        let mut got = 0;
        if let Some(ring) = &mut self.ring {
            while got < limit
                && let Some(slot) = ring.peek()
            {
                match slot {
                    Slot::Frame(header, frame) => hand_out(header, frame, deliver),
                    Slot::Message => {
                        let (count, _) = self.messages.receive(self.fd.as_fd(), 1)?;
                        self.messages
                            .received(count)
                            .for_each(|(header, frame)| hand_out(header, frame, deliver));
                    }
                }
                ring.release();
                got += 1;
            }
            if got > 0 {
                return Ok((got, got == limit));
            }
            // What the interface has to say comes by a call.
        }
        let (got, more) = self.messages.receive(self.fd.as_fd(), limit)?;
        self.messages.received(got).for_each(|(header, frame)| hand_out(header, frame, deliver));
        Ok((got, more))
    }

    /// Queues one frame for [`Packet::flush`]. With `segment` the kernel computes a TCP segment's checksum, and cuts it
    /// into pieces of so many payload bytes unless that is 0; without, the frame leaves as it is.
    ///
    /// # Errors
    /// As [`Packet::flush`], which makes room.
    pub fn send(&mut self, frame: &[u8], segment: Option<u16>) -> io::Result<()> {
        if self.messages.is_full_for(frame.len()) {
            self.flush()?;
        }
        self.messages.queue(frame, segment);
        Ok(())
    }

    /// Sends what is queued. A frame that the interface cannot take is dropped, as a full queue of the kernel's
    /// drops it.
    ///
    /// # Errors
    /// `WouldBlock` if the kernel has no room; the rest stays queued. ENETDOWN, ENODEV, ENXIO.
    pub fn flush(&mut self) -> io::Result<()> {
        self.messages.flush(self.fd.as_fd())
    }
}

impl AsFd for Packet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn hand_out(header: &[u8], frame: &[u8], deliver: &mut dyn FnMut(&[u8], u16)) {
    if vnet::is_intact(header, frame) {
        deliver(frame, vnet::segment_size(header));
    }
}

/// Gives a packet socket room for bursts of frames: a receive buffer beyond `net.core.rmem_max` (socket(7), `SO_RCVBUFFORCE`),
/// which takes memory as it fills, or without CAP_NET_ADMIN of the host a ring, for [`Packet::from_ring`] in whichever process.
///
/// # Errors
/// EINVAL from a kernel without rings, ENOMEM.
pub fn make_room(fd: BorrowedFd<'_>) -> io::Result<()> {
    enlarge(fd).or_else(|_| ring::set_up(fd))
}

fn enlarge(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)
}

/// Lets frames of one VLAN alone through, or those without a tag. The kernel takes tags out of the frames that it shows to packet
/// sockets, so that those of every VLAN would look alike; a filter sees what was taken out (socket(7), `SO_ATTACH_FILTER`;
/// linux/filter.h).
fn filter(socket: BorrowedFd<'_>, vlan: Option<u16>) -> io::Result<()> {
    let place = libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG;
    let step = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut steps = [
        // The tag, 0 if there is none; of it the number.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, place as u32),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, vlan::NUMBER.into()),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, vlan.unwrap_or(0).into()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` has the length that is passed and points to as many steps as it says; the kernel copies both during
    // the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            len,
        )
    };
    check(done).map(drop)
}

fn set(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value lives through the call and has the length that is passed.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) }).map(drop)
}

/// The IP addresses of an interface of the caller's network namespace (getifaddrs(3)).
///
/// # Errors
/// Those of getifaddrs.
pub fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok(networks(name)?.into_iter().map(|(address, _)| address).collect())
}

/// The same, each with the length of its prefix in bits.
///
/// # Errors
/// Those of getifaddrs.
pub fn networks(name: &str) -> io::Result<Vec<(IpAddr, u8)>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes one pointer, to a list that is freed below.
    check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: the list is valid until freeifaddrs; each entry is followed by the next or by null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: `ifa_name` is a C string of the list.
        let entry_name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
        if entry_name.to_bytes() != name.as_bytes() || entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: `ifa_addr` is not null and points to an address of the family that it begins with; so does `ifa_netmask`,
        // which is null for an interface without one.
        let (address, mask) = unsafe { (ip_of(entry.ifa_addr), ip_of(entry.ifa_netmask)) };
        let prefix = match mask {
            Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
            Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
            None if address.is_some_and(|address| address.is_ipv4()) => 32,
            None => 128,
        };
        // At most 128.
        found.extend(address.map(|address| (address, prefix as u8)));
    }
    // SAFETY: the list came from getifaddrs and is not used any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// The IP address in a socket address; `None` for null and other families.
///
/// # Safety
/// `address` is null, or points to an address of the family that it begins with.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: it is not null, and the caller promises that it points to an address.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: an AF_INET address is a `sockaddr_in`; it may be unaligned for one.
            let addr = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(addr.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an AF_INET6 address is a `sockaddr_in6`; it may be unaligned for one.
            let addr = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(addr.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}
