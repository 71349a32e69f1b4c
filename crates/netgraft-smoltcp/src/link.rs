//! The host's devices as links of the stack.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_linux::link::{Device, Packet, Tap, packet};
use netgraft_plugin::link::{FrameMeta, Link, Medium, Offload};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{Error, Instant, LinkConfig, PreInitStack, Result, StackConfig, SyscallRule};

/// Largest frame that is sent whole, to be cut into segments.
const WHOLE: usize = 65_535;

/// Opens the device of a configuration, in the launcher.
///
/// # Errors
/// What is missing, for the operator.
pub(crate) fn open(config: &StackConfig) -> Result<PreInitStack, SetupError> {
    let (kind, device, fd) = match &config.link {
        LinkConfig::None => return Ok(PreInitStack { init_str: "none".to_owned(), fds: Vec::new() }),
        LinkConfig::Tap(name) => {
            let (tap, device) = Tap::open(name).map_err(setup)?;
            ("tap", device, tap.into_fd())
        }
        LinkConfig::Packet(name) => {
            check_addresses(name, config)?;
            let (packet, device) = Packet::open(name).map_err(setup)?;
            ("packet", device, packet.into_fd())
        }
        other => return Err(SetupError::new(format!("this stack has no link {other}"))),
    };
    Ok(PreInitStack { init_str: describe(kind, &device), fds: vec![fd] })
}

fn setup(error: netgraft_linux::link::OpenError) -> SetupError {
    SetupError::new(error.to_string())
}

/// The kernel must not have the stack's addresses: it would answer for them.
fn check_addresses(name: &str, config: &StackConfig) -> Result<(), SetupError> {
    let have = packet::addresses(name).map_err(|e| SetupError::host(format!("interface {name}"), e))?;
    match config.addresses.iter().find(|c| have.contains(&c.addr())) {
        None => Ok(()),
        Some(cidr) => Err(SetupError::new(format!(
            "interface {name} has the address {} itself, so the kernel would answer for it: ip addr del {cidr} dev {name}",
            cidr.addr()
        ))),
    }
}

fn describe(kind: &str, device: &Device) -> String {
    let mac = device.mac.map(|b| format!("{b:02x}")).join(":");
    format!("{kind} {} {mac} {}", device.name, device.mtu)
}

fn undescribe(text: &str) -> Option<(&str, Device)> {
    let parts: Vec<&str> = text.split(' ').collect();
    let &[kind, name, mac, mtu] = parts.as_slice() else { return None };
    let mac: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect::<Option<_>>()?;
    let mac = mac.try_into().ok()?;
    // The least MTU of IPv4 (RFC 791), and the largest packet.
    let mtu = mtu.parse().ok().filter(|m| (68..=65_535).contains(m))?;
    Some((kind, Device { name: name.to_owned(), mac, mtu }))
}

/// Makes the link again, in the sentry.
///
/// # Errors
/// If the launcher's text or descriptors are not those of [`open`].
pub(crate) fn rebuild(text: &str, fds: Vec<OwnedFd>) -> Result<Option<Box<dyn Link>>, SetupError> {
    let unknown = || SetupError::new(format!("the link '{text}' that the launcher opened is unknown"));
    let mut fds = fds.into_iter();
    match (text, fds.next(), fds.next()) {
        ("none" | "", None, _) => Ok(None),
        (_, Some(fd), None) => match undescribe(text).ok_or_else(unknown)? {
            ("tap", device) => Ok(Some(Box::new(TapLink { tap: Tap::from_fd(fd), device }))),
            ("packet", device) => Ok(Some(Box::new(PacketLink { packet: Packet::from_fd(fd), device }))),
            _ => Err(unknown()),
        },
        _ => Err(unknown()),
    }
}

/// System calls that the link needs in the sentry.
pub(crate) fn syscalls(link: &LinkConfig) -> Vec<SyscallRule> {
    let numbers: &[i64] = match link {
        LinkConfig::Tap(_) => &[libc::SYS_readv, libc::SYS_writev],
        LinkConfig::Packet(_) => &[libc::SYS_recvmmsg, libc::SYS_sendmmsg],
        _ => &[],
    };
    numbers.iter().map(|&n| SyscallRule::any(n)).collect()
}

const OFFLOAD: Offload = Offload { checksum: true, segment_v4: WHOLE, segment_v6: WHOLE };

fn error(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => Error::Again,
        Some(libc::EBADFD | libc::ENODEV | libc::ENXIO) => Error::NetworkDown,
        _ => Error::Io,
    }
}

struct TapLink {
    tap: Tap,
    device: Device,
}

impl Link for TapLink {
    fn medium(&self) -> Medium {
        Medium::Ethernet(self.device.mac)
    }

    fn mtu(&self) -> usize {
        self.device.mtu
    }

    fn offload(&self) -> Offload {
        OFFLOAD
    }

    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        for count in 0..limit {
            match self.tap.receive().map_err(|e| error(&e))? {
                Some(&[]) => {}
                Some(frame) => deliver(frame),
                None => return Ok(count),
            }
        }
        Ok(limit)
    }

    fn send(&mut self, _now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.tap.send(frame, meta.segment_size).map_err(|e| error(&e))
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tap.as_fd())
    }
}

struct PacketLink {
    packet: Packet,
    device: Device,
}

impl Link for PacketLink {
    fn medium(&self) -> Medium {
        Medium::Ethernet(self.device.mac)
    }

    fn mtu(&self) -> usize {
        self.device.mtu
    }

    fn offload(&self) -> Offload {
        OFFLOAD
    }

    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let mut count = 0;
        while count < limit {
            let (got, more) = self.packet.receive(limit - count, deliver).map_err(|e| error(&e))?;
            count += got;
            if !more {
                break;
            }
        }
        Ok(count)
    }

    fn send(&mut self, _now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.packet.send(frame, meta.segment_size).map_err(|e| error(&e))
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        self.packet.flush().map_err(|e| error(&e))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.packet.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_survives_the_way_to_the_sentry_and_nonsense_does_not() {
        let device = Device { name: "veth-1".into(), mac: [2, 0, 0xab, 3, 4, 5], mtu: 1500 };
        assert_eq!(undescribe(&describe("tap", &device)), Some(("tap", device)));
        for text in ["", "tap", "tap a 02:00:00:00:00 1500", "tap a 02:00:00:00:00:01 0", "tap a b c d"] {
            assert_eq!(undescribe(text), None, "{text}");
        }
        assert!(rebuild("tap a 02:00:00:00:00:01 1500", Vec::new()).is_err());
        assert!(matches!(rebuild("none", Vec::new()), Ok(None)));
    }
}
