//! TAP devices (Documentation/networking/tuntap.rst of the kernel).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{
    Device, FRAME, OpenError, check, check_len, control_socket, flags_of, interface_ioctl, vlan, vnet,
};

const PATH: &std::ffi::CStr = c"/dev/net/tun";
/// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6` (linux/if_tun.h): what this side takes.
const OFFLOADS: libc::c_ulong = 1 | 2 | 4;

/// What root does for a user who is to have a TAP device.
fn command_for_user(name: &str) -> String {
    format!("ip tuntap add {name} mode tap user USER && ip link set {name} up")
}

/// A TAP device: the stack's end of an interface of the kernel.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    buf: Box<[u8]>,
    /// The VLAN whose frames are received and sent; `None` for those without a tag.
    vlan: Option<u16>,
}

impl Tap {
    /// Opens the TAP device `name` in the caller's network namespace and sets it up. It is made if absent, and
    /// then vanishes with its last descriptor; a persistent one stays. With `mtu` it carries packets of so many bytes at
    /// least, if the caller may change that.
    ///
    /// # Errors
    /// What is missing: `/dev/net/tun`, CAP_NET_ADMIN, or that the device is in use or of another kind.
    pub fn open(name: &str, mtu: Option<usize>) -> Result<(Tap, Device), OpenError> {
        // SAFETY: the path is a C string; open has no other memory arguments.
        let fd =
            check(unsafe { libc::open(PATH.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK) });
        let fd = fd.map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                OpenError::io("TAP needs /dev/net/tun (load the module tun, or pass the device in)", e)
            }
            Some(libc::EACCES | libc::EPERM) => {
                let advice = format!(
                    "run as root, or let root open it to users (chmod 0666 /dev/net/tun, or a udev rule) and make \
                     the device for you ({})",
                    command_for_user(name)
                );
                OpenError::advise("/dev/net/tun cannot be opened", e, advice)
            }
            _ => OpenError::io("/dev/net/tun cannot be opened", e),
        })?;
        // SAFETY: the kernel just gave this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Self::attach(&fd, name)?;
        let problem = |what: &str, e| OpenError::io(format!("TAP device {name}: {what}"), e);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, OFFLOADS) })
            .map_err(|e| problem("offloads cannot be set", e))?;
        Self::set_up(name).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => {
                let text = format!("TAP device {name} is down, and setting it up needs CAP_NET_ADMIN");
                OpenError::advise(text, e, format!("run as root, or let root do it (ip link set {name} up)"))
            }
            _ => problem("cannot be set up", e),
        })?;
        let has = super::mtu_of(name).map_err(|e| problem("has no MTU", e))?;
        let mtu = match mtu.filter(|wanted| *wanted > has) {
            Some(wanted) if super::set_mtu(name, wanted).is_ok() => wanted,
            _ => has,
        };
        let mac = super::random_mac().map_err(|e| problem("no random address", e))?;
        Ok((Self::from_fd(fd), Device { name: name.to_owned(), mac, mtu }))
    }

    fn attach(fd: &OwnedFd, name: &str) -> Result<(), OpenError> {
        let problem = |e: io::Error| match e.raw_os_error() {
            Some(libc::EPERM) => OpenError::advise(
                format!("TAP device {name} needs CAP_NET_ADMIN over the network namespace"),
                e,
                format!("run as root, or let root make the device for you ({})", command_for_user(name)),
            ),
            Some(libc::EBUSY) => OpenError::advise(
                format!("TAP device {name} is in use by another program"),
                e,
                "choose another name, or end that program ('fuser -v /dev/net/tun' as root lists who has TAP devices)",
            ),
            // An interface of another kind, or a TAP device with `multi_queue`.
            Some(libc::EINVAL) => OpenError::advise(
                format!("{name} exists and is no TAP device with one queue"),
                e,
                "choose another name: a device that does not exist is made",
            ),
            _ => OpenError::io(format!("TAP device {name} cannot be opened"), e),
        };
        let mut request = super::request(name).map_err(problem)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        interface_ioctl(fd.as_raw_fd(), libc::TUNSETIFF as libc::c_ulong, &mut request).map_err(problem)
    }

    fn set_up(name: &str) -> io::Result<()> {
        let flags = flags_of(name)?;
        if flags & libc::IFF_UP != 0 {
            return Ok(());
        }
        let mut request = super::request(name)?;
        request.ifr_ifru.ifru_flags = (flags | libc::IFF_UP) as libc::c_short;
        interface_ioctl(control_socket()?.as_raw_fd(), libc::SIOCSIFFLAGS, &mut request)
    }

    /// The device again, from its descriptor.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Tap {
        Tap { fd, buf: vec![0; FRAME].into_boxed_slice(), vlan: None }
    }

    /// The same on a VLAN.
    #[must_use]
    pub fn of_vlan(self, vlan: Option<u16>) -> Tap {
        Tap { vlan, ..self }
    }

    /// The descriptor, to be handed to another process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Receives one frame, and the payload bytes of each piece if the kernel has merged several TCP segments into it,
    /// else 0; `None` if none waits. A frame whose checksum is wrong, or that is of another VLAN, is empty.
    ///
    /// # Errors
    /// EBADFD if the device is gone.
    pub fn receive(&mut self) -> io::Result<Option<(&[u8], u16)>> {
        let mut header = [0u8; vnet::LEN];
        let parts = [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() },
            libc::iovec { iov_base: self.buf.as_mut_ptr().cast(), iov_len: self.buf.len() },
        ];
        // SAFETY: both parts are ours, exclusive during the call, with their own lengths.
        let got = check_len(unsafe { libc::readv(self.fd.as_raw_fd(), parts.as_ptr(), 2) });
        match got {
            Ok(len) => {
                let frame = vlan::strip(&mut self.buf[..len.saturating_sub(vnet::LEN)], self.vlan);
                let frame = frame.filter(|frame| vnet::is_intact(&header, frame));
                Ok(Some((frame.map_or(&[], |frame| frame), vnet::segment_size(&header))))
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends one frame. With `segment` the kernel computes a TCP segment's checksum, and cuts it into pieces of so many
    /// payload bytes unless that is 0; without, the frame leaves as it is.
    ///
    /// # Errors
    /// `WouldBlock` if the queue is full, EBADFD if the device is gone, EIO if it is down.
    pub fn send(&mut self, frame: &[u8], segment: Option<u16>) -> io::Result<()> {
        let mut head = [0u8; vnet::HEAD];
        let split = frame.len().min(vnet::HEAD);
        head[..split].copy_from_slice(&frame[..split]);
        let mut header =
            segment.map_or([0; vnet::LEN], |size| vnet::describe(&mut head[..split], frame.len(), size));
        let (head, rest) = (&head[..split], &frame[split..]);
        let (addresses, tag, behind) = match (self.vlan, head.split_at_checked(12)) {
            (Some(vlan), Some((addresses, behind))) => {
                vlan::shift(&mut header);
                (addresses, vlan::tag(vlan), behind)
            }
            _ => (head, [0; vlan::LEN], &[][..]),
        };
        let tag: &[u8] = if self.vlan.is_some() { &tag } else { &[] };
        let part =
            |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let parts = [part(&header), part(addresses), part(tag), part(behind), part(rest)];
        // SAFETY: writev only reads the five parts, which live through the call.
        check_len(unsafe { libc::writev(self.fd.as_raw_fd(), parts.as_ptr(), 5) }).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
