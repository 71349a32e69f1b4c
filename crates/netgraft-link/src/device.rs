//! The links that an operator can name: devices of the host's.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netgraft_linux::link::{Device, Packet, Tap, packet, vnet};
use netgraft_plugin::config::PasstConfig;
use netgraft_plugin::link::{FrameMeta, Link, Medium, Offload};
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Error, Instant, InterfaceName, LinkConfig, PreInitStack, Result, StackConfig, SyscallRule,
};

use crate::MTU_OF_IPV6;
use crate::capture::Captured;
use crate::cut::Cutter;
use crate::faulty::{Dial, Faulty};
use crate::leased::Leased;
use crate::passt::PasstLink;
use crate::pcap::Recorder;
use crate::unique::Unique;

/// Largest frame that is sent whole, to be cut into segments.
const WHOLE: usize = 65_535;

/// A passt that somebody else has started, in a description.
const FOREIGN_PASST: &str = "passt-at";
/// What stands behind a passt that serves half-closed connections right.
const HALF_CLOSES: &str = "+";

/// Opens the link of a configuration, in the launcher: what a stack's `pre_init` returns.
///
/// # Errors
/// What is missing, for the operator.
pub fn open(config: &StackConfig) -> Result<PreInitStack, SetupError> {
    if let Some(text) = &config.wrappers.opened {
        return Ok(PreInitStack { init_str: text.clone(), fds: Vec::new() });
    }
    let mtu = config.wrappers.mtu.map(usize::from);
    let (kind, mut device, fd) = match &config.link {
        LinkConfig::None => return Ok(PreInitStack { init_str: "none".to_owned(), fds: Vec::new() }),
        LinkConfig::Tap(config) => {
            let (tap, device) = Tap::open(config.name.as_str(), mtu).map_err(setup)?;
            ("tap", device, tap.into_fd())
        }
        LinkConfig::Packet(packet) => {
            check_addresses(&packet.interface, config)?;
            let (packet, device) =
                Packet::open(packet.interface.as_str(), config.wrappers.vlan).map_err(setup)?;
            ("packet", device, packet.into_fd())
        }
        // The launcher has its socket.
        LinkConfig::Passt(passt) => {
            let device = Device { name: "passt".to_owned(), mac: passt.mac, mtu: usize::from(passt.mtu) };
            // The launcher sees the end of one that it has started.
            let kind = if passt.socket.is_some() { FOREIGN_PASST } else { "passt" };
            let kind = format!("{kind}{}", if passt.half_closes { HALF_CLOSES } else { "" });
            return Ok(PreInitStack { init_str: describe(&kind, &device), fds: Vec::new() });
        }
        other => return Err(SetupError::new(format!("this version cannot open the link {other}"))),
    };
    if let Some(mtu) = mtu {
        if mtu > device.mtu {
            return Err(SetupError::new(format!(
                "interface {0} carries packets of {1} bytes, so --mtu {mtu} is too much: ip link set {0} mtu {mtu}",
                device.name, device.mtu
            )));
        }
        device.mtu = mtu;
    }
    Ok(PreInitStack { init_str: describe(kind, &device), fds: vec![fd] })
}

fn setup(error: netgraft_linux::link::OpenError) -> SetupError {
    SetupError::new(error.to_string())
}

/// The kernel must not have the stack's addresses: it would answer for them.
fn check_addresses(name: &InterfaceName, config: &StackConfig) -> Result<(), SetupError> {
    let have =
        packet::addresses(name.as_str()).map_err(|e| SetupError::host(format!("interface {name}"), e))?;
    match config.addresses.iter().find(|c| have.contains(&c.addr())) {
        None => Ok(()),
        Some(cidr) => Err(SetupError::new(format!(
            "interface {name} has the address {} itself, so the kernel would answer for it: add --take-address",
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

/// What a stack is given in the sentry.
pub struct Rebuilt {
    /// Its link, with the wrappers of the configuration; `None` for no link.
    pub link: Option<Box<dyn Link>>,
    /// The capture, if there is one, for what crosses no link: the stack's loopback. The stack flushes it when it has
    /// polled.
    pub recorder: Option<Recorder>,
    /// Changes the faults of the link, if there is one; the stack's
    /// [`set_link_faults`](netgraft_plugin::PluginStack::set_link_faults) turns it.
    pub dial: Option<Dial>,
}

/// Makes the link again of what [`open`] gave, in the sentry: what a stack's `init` is passed. `name` is what the stack
/// calls its interface.
///
/// # Errors
/// If the launcher's text or descriptors are not those of [`open`].
pub fn rebuild(
    config: &StackConfig,
    name: &str,
    text: &str,
    mut fds: Vec<OwnedFd>,
) -> Result<Rebuilt, SetupError> {
    let wrappers = &config.wrappers;
    let recorder = match wrappers.capture {
        Some(capture) => {
            let socket = fds.pop().ok_or_else(|| SetupError::new("the launcher has opened no capture"))?;
            Some(Recorder::new(socket, capture))
        }
        None => None,
    };
    let mut link = bare(text, fds, (wrappers.mtu.map_or(usize::MAX, usize::from), wrappers.vlan))?;
    let mut dial = None;
    if let Some(bare) = link.take() {
        let (faulty, its) = Faulty::new(bare, wrappers.faults, wrappers.seed);
        (link, dial) = (Some(Box::new(faulty) as Box<dyn Link>), Some(its));
    }
    if let (Some(bare), Some(recorder)) = (link.take_if(|_| recorder.is_some()), &recorder) {
        let on = recorder.interface(name, bare.medium());
        let recorder = recorder.clone();
        let view = move |way, now, frame: &[u8]| recorder.frame(on, way, now, frame);
        link = Some(Box::new(Captured::new(bare, Box::new(view))));
    }
    if !wrappers.terms.is_empty() {
        link = link.map(|link| Box::new(Leased::new(link, &wrappers.terms)) as Box<dyn Link>);
    }
    // What passt offers is the sandbox's alone.
    if matches!(config.link, LinkConfig::Tap(_) | LinkConfig::Packet(_)) && !config.addresses.is_empty() {
        link = link.map(|link| {
            if link.mtu() < MTU_OF_IPV6 {
                return link;
            }
            let all = config.addresses.iter().filter_map(|cidr| match cidr.addr() {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
            // Those that were offered have been asked for.
            let (asked, others) = if wrappers.opened.is_some() {
                (Vec::new(), all.collect())
            } else {
                (all.collect(), Vec::new())
            };
            Box::new(Unique::new(link, asked, &others)) as Box<dyn Link>
        });
    }
    Ok(Rebuilt { link, recorder, dial })
}

fn bare(
    text: &str,
    fds: Vec<OwnedFd>,
    (mtu, vlan): (usize, Option<u16>),
) -> Result<Option<Box<dyn Link>>, SetupError> {
    let unknown = || SetupError::new(format!("the link '{text}' that the launcher opened is unknown"));
    let mut fds = fds.into_iter();
    match (text, fds.next(), fds.next()) {
        ("none" | "", None, _) => Ok(None),
        (_, Some(fd), None) => {
            match undescribe(text).map(|(kind, device)| (kind, device.within(mtu))).ok_or_else(unknown)? {
                ("tap", device) => Ok(Some(Box::new(TapLink {
                    tap: Tap::from_fd(fd).of_vlan(vlan),
                    device,
                    rest: Rest::default(),
                    cutter: Cutter::default(),
                }))),
                ("packet", device) => Ok(Some(Box::new(PacketLink {
                    packet: Packet::from_fd(fd, vlan),
                    device,
                    rest: Rest::default(),
                    cutter: Cutter::default(),
                }))),
                (kind, device) => {
                    let mut link = PasstLink::new(fd, device.mac, device.mtu);
                    let (kind, half_closes) = match kind.strip_suffix(HALF_CLOSES) {
                        Some(kind) => (kind, true),
                        None => (kind, false),
                    };
                    if !half_closes {
                        link = link.holding_halves().keeping_silent();
                    }
                    match kind {
                        "passt" => Ok(Some(Box::new(link))),
                        FOREIGN_PASST => Ok(Some(Box::new(link.telling_its_end()))),
                        _ => Err(unknown()),
                    }
                }
            }
        }
        _ => Err(unknown()),
    }
}

/// What a link needs of the host, in words; empty for nothing.
#[must_use]
pub fn needs(link: &LinkConfig) -> String {
    match link {
        LinkConfig::Tap(tap) => format!("/dev/net/tun and CAP_NET_ADMIN for {}", tap.name),
        LinkConfig::Packet(packet) => format!("CAP_NET_RAW on {}", packet.interface),
        LinkConfig::Passt(PasstConfig { socket: None, .. }) => "the program passt".to_owned(),
        LinkConfig::Passt(PasstConfig { socket: Some(path), .. }) => format!("passt at {}", path.display()),
        _ => String::new(),
    }
}

/// The system calls that a link needs in the sentry.
#[must_use]
pub fn syscalls(link: &LinkConfig) -> Vec<SyscallRule> {
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

/// What the kernel leaves undone in a frame, or would do.
#[derive(Default)]
enum Rest {
    /// The kernel merges, cuts and computes.
    #[default]
    Kernel,
    /// It is done here.
    Here,
}

impl Rest {
    const fn offload(&self) -> Offload {
        match self {
            Rest::Kernel => OFFLOAD,
            Rest::Here => Offload { checksum: false, segment_v4: 0, segment_v6: 0 },
        }
    }

    /// How a driver is to send a frame.
    const fn segment(&self, meta: FrameMeta) -> Option<u16> {
        match self {
            Rest::Kernel => Some(meta.segment_size),
            Rest::Here => None,
        }
    }

    /// Hands on what the kernel delivers in one piece: merged TCP segments as they are if it may merge; datagrams never,
    /// since where one ends means something.
    fn deliver(&self, cutter: &mut Cutter, frame: &[u8], segment: u16, deliver: &mut dyn FnMut(&[u8])) {
        match self {
            Rest::Kernel if segment == 0 || vnet::layout(frame).is_none_or(|l| l.protocol != 17) => {
                deliver(frame);
            }
            _ => cutter.cut(frame, segment, deliver),
        }
    }
}

struct TapLink {
    tap: Tap,
    device: Device,
    rest: Rest,
    cutter: Cutter,
}

impl Link for TapLink {
    fn medium(&self) -> Medium {
        Medium::Ethernet(self.device.mac)
    }

    fn mtu(&self) -> usize {
        self.device.mtu
    }

    fn offload(&self) -> Offload {
        self.rest.offload()
    }

    fn refuse_offload(&mut self) {
        self.rest = Rest::Here;
    }

    fn resume_offload(&mut self) {
        self.rest = Rest::Kernel;
    }

    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let TapLink { tap, rest, cutter, .. } = self;
        for count in 0..limit {
            match tap.receive().map_err(|e| error(&e))? {
                Some((&[], _)) => {}
                Some((frame, segment)) => rest.deliver(cutter, frame, segment, deliver),
                None => return Ok(count),
            }
        }
        Ok(limit)
    }

    fn send(&mut self, _now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.tap.send(frame, self.rest.segment(meta)).map_err(|e| error(&e))
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
    rest: Rest,
    cutter: Cutter,
}

impl Link for PacketLink {
    fn medium(&self) -> Medium {
        Medium::Ethernet(self.device.mac)
    }

    fn mtu(&self) -> usize {
        self.device.mtu
    }

    fn offload(&self) -> Offload {
        self.rest.offload()
    }

    fn refuse_offload(&mut self) {
        self.rest = Rest::Here;
    }

    fn resume_offload(&mut self) {
        self.rest = Rest::Kernel;
    }

    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let PacketLink { packet, rest, cutter, .. } = self;
        let mut count = 0;
        while count < limit {
            let mut whole = |frame: &[u8], segment: u16| rest.deliver(cutter, frame, segment, deliver);
            let (got, more) = packet.receive(limit - count, &mut whole).map_err(|e| error(&e))?;
            count += got;
            if !more {
                break;
            }
        }
        Ok(count)
    }

    fn send(&mut self, _now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        self.packet.send(frame, self.rest.segment(meta)).map_err(|e| error(&e))
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
        assert!(bare("tap a 02:00:00:00:00:01 1500", Vec::new(), (1500, None)).is_err());
        assert!(matches!(bare("none", Vec::new(), (1500, None)), Ok(None)));
    }

    #[test]
    fn merged_segments_stay_whole_only_with_offloads_and_datagrams_never() {
        let mut frame = vec![0; 14 + 20 + 8 + 100];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[17] = 128;
        for (protocol, rest, pieces) in
            [(6, Rest::Kernel, 1), (17, Rest::Kernel, 2), (17, Rest::Here, 2), (6, Rest::Here, 2)]
        {
            frame[23] = protocol;
            // As TCP: a header of 20 bytes, 88 of payload.
            frame[34 + 12] = 5 << 4;
            let mut count = 0;
            rest.deliver(&mut Cutter::default(), &frame, 50, &mut |_| count += 1);
            assert_eq!(count, pieces, "{protocol}");
        }
        assert_eq!(Rest::Kernel.segment(FrameMeta { segment_size: 9 }), Some(9));
        assert_eq!(Rest::Here.segment(FrameMeta { segment_size: 9 }), None);
    }
}
