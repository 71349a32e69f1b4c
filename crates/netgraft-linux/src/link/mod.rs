//! Devices that carry Ethernet frames, TAP and AF_PACKET, and a pair of sockets that stands in for one.
//!
//! A device is opened with privileges in one process and used without any in another: `open` gives a device,
//! and `from_fd` makes it again from its descriptor.

pub mod channel;
mod lazy;
mod messages;
pub mod packet;
mod ring;
pub mod tap;
mod vlan;
pub mod vnet;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub(crate) use crate::result::{check, check_len};

pub use channel::Channel;
pub use lazy::keep_large_buffers_lazy;
pub use packet::{Packet, make_room};
pub use tap::Tap;

/// Room for one frame: 64 KiB of IP packet, an Ethernet header and a VLAN tag.
pub(crate) const FRAME: usize = 65_536 + 18;

/// What is known of an opened device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name of the interface.
    pub name: String,
    /// Address of the stack's side.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes that is not cut by the device.
    pub mtu: usize,
}

impl Device {
    /// The same with an MTU of `most` at most.
    #[must_use]
    pub fn within(self, most: usize) -> Device {
        Device { mtu: self.mtu.min(most), ..self }
    }
}

/// Why a device could not be opened: what failed on which device, and what to do.
#[derive(Debug)]
pub struct OpenError {
    text: String,
    source: Option<io::Error>,
}

impl OpenError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        OpenError { text: text.into(), source: None }
    }

    pub(crate) fn io(text: impl fmt::Display, source: io::Error) -> Self {
        OpenError { text: format!("{text}: {source}"), source: Some(source) }
    }

    /// The same with what can be done about it.
    pub(crate) fn advise(text: impl fmt::Display, source: io::Error, what_to_do: impl fmt::Display) -> Self {
        OpenError { text: format!("{text}: {source}; {what_to_do}"), source: Some(source) }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

/// A new request for an interface (netdevice(7)).
pub(crate) fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// A socket for interface requests.
pub(crate) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket has no memory arguments.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an interface request.
pub(crate) fn interface_ioctl(fd: RawFd, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every code that is passed here reads or writes one `ifreq`, alive and exclusive during the call.
    check(unsafe { libc::ioctl(fd, code as _, std::ptr::from_mut(request)) }).map(drop)
}

/// The Ethernet address of an interface.
///
/// # Errors
/// ENODEV if there is none of that name; [`io::ErrorKind::Unsupported`] if it is no Ethernet.
pub fn mac_of(name: &str) -> io::Result<[u8; 6]> {
    let mut request = request(name)?;
    interface_ioctl(control_socket()?.as_raw_fd(), libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: SIOCGIFHWADDR has filled `ifru_hwaddr`.
    let hardware = unsafe { request.ifr_ifru.ifru_hwaddr };
    if hardware.sa_family != libc::ARPHRD_ETHER {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(hardware.sa_data) {
        *to = from as u8;
    }
    Ok(mac)
}

/// MTU of an interface.
pub fn mtu_of(name: &str) -> io::Result<usize> {
    let mut request = request(name)?;
    interface_ioctl(control_socket()?.as_raw_fd(), libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU has filled `ifru_mtu`.
    usize::try_from(unsafe { request.ifr_ifru.ifru_mtu })
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Sets the MTU of an interface; needs CAP_NET_ADMIN.
pub(crate) fn set_mtu(name: &str, mtu: usize) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = libc::c_int::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
    interface_ioctl(control_socket()?.as_raw_fd(), libc::SIOCSIFMTU, &mut request)
}

/// Flags of an interface.
pub(crate) fn flags_of(name: &str) -> io::Result<libc::c_int> {
    let mut request = request(name)?;
    interface_ioctl(control_socket()?.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has filled `ifru_flags`.
    Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// An address for the stack's side of a device: random, locally administered, unicast.
///
/// # Errors
/// As getrandom(2).
pub fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0u8; 6];
    // SAFETY: the buffer is ours and has the length that is passed.
    check_len(unsafe { libc::getrandom(mac.as_mut_ptr().cast(), mac.len(), 0) })?;
    mac[0] = mac[0] & 0xfc | 2;
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        for name in ["", "0123456789abcdef", "a\0b"] {
            assert!(request(name).is_err(), "{name:?}");
        }
        assert!(request("lo").is_ok());
    }

    #[test]
    fn random_addresses_are_unicast_and_local() {
        let mac = random_mac().unwrap();
        assert_eq!(mac[0] & 3, 2);
    }
}
