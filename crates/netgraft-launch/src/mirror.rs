//! The stack's interfaces as devices of the program's network namespace, so that what the kernel tells a program
//! of interfaces, addresses and routes (rtnetlink(7), `/proc/net`) agrees with what its sockets do.
//!
//! Where datagram sockets are the kernel's own, a device is one end of a veth pair (veth(4)), whose other end is in a network
//! namespace that nothing but a packet socket of the sentry's is in: the private link. Otherwise nothing reads what the
//! kernel sends to these devices. Either way the namespace leads nowhere but to the sentry. They are made by a short-lived
//! process that has joined the program's namespaces, from a description that is checked first: the sentry, which gives it,
//! is less trusted than the launcher.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_linux::fdpass::{self, wait_readable};
use netgraft_linux::link::{Packet, make_room};
use netgraft_linux::namespace::{Namespaces, join, unshare};
use netgraft_linux::netdev::{Changes, NextHop, TunKind, index_of, make_tun};
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::sock_diag::Observer;
use netgraft_linux::{confine, process};
use netgraft_plugin::Cidr;
use serde::{Deserialize, Serialize};

use super::launcher::reap;
use crate::control::{Interface, MAX_LISTED, MAX_NAME, Network, PrivateLink, Route};
use crate::error::RunError;

/// How long the making of the devices may take: the kernel's lock of all network devices may be busy.
const TIME: Duration = Duration::from_secs(5);
/// The most bytes that the child says: each thing that failed is a short line.
const REPORT_LIMIT: usize = 128 * 1024;
/// The MTUs that a device can have: what IPv4 needs (RFC 791), and its largest packet.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// A device that is to be made.
#[derive(Debug, PartialEq, Eq)]
struct Device {
    index: u32,
    name: String,
    mtu: u32,
    up: bool,
    mac: Option<[u8; 6]>,
    addresses: Vec<Cidr>,
    /// Those that the kernel does not add by itself, in an order in which each gateway can be reached.
    routes: Vec<(Cidr, NextHop)>,
    /// Mirrors a device of the host's: one without a carrier is as good as any, since the sockets are the host's.
    of_host: bool,
}

/// What the sentry gets of a device that is a private link.
#[derive(Debug)]
pub(super) struct Link {
    /// What it is told.
    pub(super) link: PrivateLink,
    /// The packet socket at the other end.
    pub(super) socket: OwnedFd,
}

/// What the process that makes the devices says; with the descriptors that are kept, those of the links, and the observer's.
#[derive(Serialize, Deserialize)]
struct Made {
    /// What could not be made.
    problems: Vec<String>,
    /// The links that were made.
    links: Vec<PrivateLink>,
    /// Whether there is an observer of the datagram sockets.
    observes: bool,
}

/// The devices, as long as the launcher keeps this.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// What gives them a carrier.
    #[expect(dead_code, reason = "kept open, never read")]
    fds: Vec<OwnedFd>,
    /// Who made them, until it is reaped.
    maker: Option<i32>,
    /// Those that lead to the sentry.
    pub(super) links: Vec<Link>,
    /// Tells the sentry of the datagram sockets that are gone.
    pub(super) observer: Option<OwnedFd>,
}

impl Mirror {
    /// Waits for the end of the process that made the devices, which has nothing left to do.
    pub(super) fn reap_maker(&mut self) {
        if let Some(maker) = self.maker.take() {
            reap(maker);
        }
    }
}

/// Devices that are being made.
pub(super) struct Making {
    /// Private links, without which datagrams have no way out.
    is_private: bool,
    begun: Result<Option<Maker>, String>,
}

/// The process that makes the devices. Dropping it ends it.
struct Maker {
    pid: i32,
    /// Where it says what it has made.
    answer: OwnedFd,
}

impl Drop for Maker {
    fn drop(&mut self) {
        let _ = process::kill(self.pid, libc::SIGKILL);
        reap(self.pid);
    }
}

/// Begins to make the devices. The program's process waits until they are finished.
pub(super) fn begin(network: &Network, program: i32, is_private: bool) -> Making {
    let begun = if network.interfaces.is_empty() {
        Ok(None)
    } else {
        devices(network)
            .and_then(|devices| make_in_child(&devices, program, is_private).map_err(cannot_make).map(Some))
    };
    Making { is_private, begun }
}

impl Making {
    /// Waits until the devices are there. What cannot be made is a warning: the program's sockets work without.
    ///
    /// # Errors
    /// If they are private links and there is none.
    pub(super) fn finish(self) -> Result<Mirror, RunError> {
        let made = match self.begun {
            Ok(None) => return Ok(Mirror::default()),
            Ok(Some(maker)) => finish(maker).map_err(cannot_make),
            Err(problem) => Err(problem),
        };
        let (problems, mirror) = match made {
            Ok((problems, mirror)) => (problems, mirror),
            Err(problem) => (vec![problem], Mirror::default()),
        };
        if self.is_private && mirror.links.is_empty() {
            return Err(RunError::Options(format!(
                "the private link of datagram sockets cannot be made: {}; add --datagrams stack to do without",
                problems.join(", ")
            )));
        }
        for problem in problems {
            tracing::warn!("the program does not see all of the stack's interfaces: {problem}");
        }
        Ok(mirror)
    }
}

fn cannot_make(error: io::Error) -> String {
    format!("cannot make devices for them: {error}")
}

/// Checks what the sentry says.
fn devices(network: &Network) -> Result<Vec<Device>, String> {
    if network.interfaces.len() > MAX_LISTED || network.routes.len() > MAX_LISTED {
        return Err(format!("there are more than {MAX_LISTED} interfaces or routes"));
    }
    let mut devices: Vec<Device> = Vec::new();
    for interface in &network.interfaces {
        let device = device(interface)?;
        if devices.iter().any(|other| other.name == device.name || other.index == device.index) {
            return Err(format!("{} is there twice", device.name));
        }
        devices.push(device);
    }
    for route in &network.routes {
        let device = devices.iter_mut().find(|device| device.index == route.interface);
        add_route(device.ok_or("a route has no interface")?, route)?;
    }
    for device in &mut devices {
        device.of_host = network.of_host;
        device.routes.sort_by_key(|(_, next)| *next != NextHop::Link);
    }
    Ok(devices)
}

/// Whether what gets past [`devices`] can be devices of the kernel's; what does not is none of them.
#[cfg(feature = "fuzzing")]
pub(super) fn check_devices(network: &Network) -> Result<(), String> {
    let Ok(devices) = devices(network) else { return Ok(()) };
    let routes: usize = devices.iter().map(|device| device.routes.len()).sum();
    if devices.len() > MAX_LISTED || routes > MAX_LISTED {
        return Err(format!("{} devices with {routes} routes", devices.len()));
    }
    for (at, device) in devices.iter().enumerate() {
        let same = |other: &Device| other.name == device.name || other.index == device.index;
        let is_name = (1..=MAX_NAME).contains(&device.name.len())
            && device.name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !is_name || device.index < 2 || devices[..at].iter().any(same) {
            return Err(format!("a device {:?} with index {}", device.name, device.index));
        }
    }
    Ok(())
}

fn device(interface: &Interface) -> Result<Device, String> {
    let Interface { index, name, mtu, up, mac, addresses } = interface;
    // What dev_valid_name() of the kernel refuses, and '%', which it replaces by a number.
    let allowed = |b: u8| b.is_ascii_graphic() && !b"/:%".contains(&b);
    if !(1..=MAX_NAME).contains(&name.len())
        || !name.bytes().all(allowed)
        || [".", "..", "lo"].contains(&&**name)
    {
        return Err("a name is one that no device can have".to_owned());
    }
    let wrong = |what: &str| Err(format!("{name} has {what}"));
    // 1 is the loopback's.
    if !(2..=i32::MAX.cast_unsigned()).contains(index) {
        return wrong("an index that no device can have");
    }
    if !MTUS.contains(mtu) {
        return wrong("an MTU that no device can have");
    }
    if mac.is_some_and(|mac| mac[0] & 1 != 0 || mac == [0; 6]) {
        return wrong("an Ethernet address that is not unicast");
    }
    if addresses.len() > MAX_LISTED {
        return wrong("too many addresses");
    }
    let mut checked = Vec::new();
    for &(address, prefix) in addresses {
        match Cidr::new(address, prefix) {
            Some(cidr) if !address.is_unspecified() && !address.is_multicast() => checked.push(cidr),
            _ => return wrong("an address that no device can have"),
        }
    }
    Ok(Device {
        index: *index,
        name: name.clone(),
        mtu: *mtu,
        up: *up,
        mac: *mac,
        addresses: checked,
        routes: Vec::new(),
        of_host: false,
    })
}

fn add_route(device: &mut Device, route: &Route) -> Result<(), String> {
    let (address, prefix) = route.destination;
    let cidr = Cidr::new(address, prefix).ok_or("a route's prefix is too long")?;
    let network = Cidr::new(cidr.network(), prefix).unwrap_or(cidr);
    let on_link = |ip: IpAddr| device.addresses.iter().any(|own| own.contains(ip));
    let next = match route.gateway {
        None => {
            let own = device.addresses.iter().any(|a| a.prefix() == prefix && a.network() == network.addr());
            if own {
                // The kernel adds it with the address.
                return Ok(());
            }
            NextHop::Link
        }
        Some(gateway) if gateway.is_ipv4() != address.is_ipv4() => {
            return Err("a route's gateway is of another family".to_owned());
        }
        Some(gateway) if on_link(gateway) || is_link_local(gateway) => NextHop::Gateway(gateway),
        Some(gateway) => NextHop::GatewayOnLink(gateway),
    };
    device.routes.push((network, next));
    Ok(())
}

/// Such a gateway is on the link whatever addresses there are (RFC 4861).
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn make_in_child(devices: &[Device], program: i32, is_private: bool) -> io::Result<Maker> {
    let pidfd = process::pidfd(program)?;
    let (answer, theirs) = fdpass::pair()?;
    let pid = process::fork(|| match make_all(devices, is_private, pidfd.as_fd(), theirs.as_fd()) {
        Ok(()) => 0,
        Err(_) => 1,
    })?;
    Ok(Maker { pid, answer })
}

/// Waits for what the maker says; it has nothing left to do then.
fn finish(maker: Maker) -> io::Result<(Vec<String>, Mirror)> {
    let answer = maker.answer.as_fd();
    let received = match wait_readable([Some(answer)], Some(TIME))? {
        [true] => fdpass::receive(answer, REPORT_LIMIT)?,
        [false] => return Err(io::ErrorKind::TimedOut.into()),
    };
    let (report, fds) = received.ok_or(io::ErrorKind::UnexpectedEof)?;
    let (problems, mirror) = sort_out(serde_json::from_slice(&report)?, fds)?;
    for link in &mirror.links {
        // The maker has not the launcher's rights. Where it cannot be had, the default has to do.
        let _ = make_room(link.socket.as_fd());
    }
    let maker = Some(std::mem::ManuallyDrop::new(maker).pid);
    Ok((problems, Mirror { maker, ..mirror }))
}

/// Finds out what each descriptor is.
fn sort_out(made: Made, mut fds: Vec<OwnedFd>) -> io::Result<(Vec<String>, Mirror)> {
    let Made { problems, links, observes } = made;
    let observer = if observes { fds.pop() } else { None };
    let kept = fds.len().checked_sub(links.len()).ok_or(io::ErrorKind::InvalidData)?;
    let sockets = fds.split_off(kept);
    let links = links.into_iter().zip(sockets).map(|(link, socket)| Link { link, socket }).collect();
    Ok((problems, Mirror { fds, maker: None, links, observer }))
}

/// The child's work.
fn make_all(
    devices: &[Device],
    is_private: bool,
    program: BorrowedFd<'_>,
    launcher: BorrowedFd<'_>,
) -> io::Result<()> {
    // It enters a namespace that the program rules: nothing of the launcher's may come along.
    process::close_all_but(&[program.as_raw_fd(), launcher.as_raw_fd()])?;
    let (mut problems, mut fds, mut links, mut observer) = (Vec::new(), Vec::new(), Vec::new(), None);
    match join(program, Namespaces::USER | Namespaces::NET).and_then(|()| confine::die_with_parent()) {
        Ok(()) if is_private => match make_links(devices, &mut problems) {
            Ok((made, observes)) => (links, observer) = (made, Some(observes)),
            Err(error) => problems.push(format!("no private link can be made: {error}")),
        },
        Ok(()) => {
            for (id, device) in (1..).zip(devices) {
                make(device, id, &mut problems, &mut fds)
                    .unwrap_or_else(|error| problems.push(format!("{}: {error}", device.name)));
            }
        }
        Err(error) => problems.push(format!("the program's namespaces cannot be joined: {error}")),
    }
    let made =
        Made { problems, links: links.iter().map(|link| link.link).collect(), observes: observer.is_some() };
    let sockets = links.iter().map(|link| link.socket.as_fd());
    let fds: Vec<BorrowedFd<'_>> =
        fds.iter().map(AsFd::as_fd).chain(sockets).chain(observer.as_ref().map(AsFd::as_fd)).collect();
    fdpass::send(launcher, &serde_json::to_vec(&made)?, &fds)
}

/// Makes the devices as private links, and an observer of the program's datagram sockets. The other ends are in a network
/// namespace of their own, which lives as long as the packet sockets in it.
fn make_links(devices: &[Device], problems: &mut Vec<String>) -> io::Result<(Vec<Link>, OwnedFd)> {
    let observer = Observer::open()?;
    let home = Namespace::own("net")?;
    unshare(Namespaces::NET)?;
    let mut links = Vec::new();
    for device in devices {
        links.push(make_link_to(device, &home)?);
    }
    home.enter(Namespaces::NET)?;
    for (device, link) in devices.iter().zip(&mut links) {
        describe(device, true, problems)?;
        link.link.mac = netgraft_linux::link::mac_of(&device.name)?;
    }
    Ok((links, observer))
}

/// Makes a veth pair with one end in the network namespace `home`, and opens a packet socket on the other.
fn make_link_to(device: &Device, home: &Namespace) -> io::Result<Link> {
    let name = &device.name;
    make_link(|changes, index| changes.make_veth_at(name, home.as_fd(), index.max(2)), device.index)?;
    let index = index_of(name)?;
    let mut changes = Changes::new();
    changes.configure(index, *MTUS.end(), None);
    changes.no_automatic_address(index);
    changes.up(index);
    let outcomes = changes.make()?;
    for (at, outcome) in outcomes.into_iter().enumerate() {
        // A kernel without IPv6 has no such addresses.
        if at != 1 {
            outcome?;
        }
    }
    let (packet, _) = Packet::open(name, None).map_err(|error| io::Error::other(error.to_string()))?;
    let link = PrivateLink { interface: device.index, mac: [0; 6], mtu: device.mtu };
    Ok(Link { link, socket: packet.into_fd() })
}

/// Makes one device with all that belongs to it; `id` is its own among those of the sandbox.
///
/// Of the kinds of devices that have a carrier, VXLAN needs neither another end nor a descriptor that is kept, and
/// the kernel removes it by itself, with the namespace. A TAP device makes its owner wait for some 10 ms at the end.
/// A bridge, which is there on most kernels, has no carrier.
fn make(device: &Device, id: u32, problems: &mut Vec<String>, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    let name = &device.name;
    if device.mac.is_none() && !device.of_host {
        fds.push(make_tun(name, device.index, TunKind::Ip)?);
        return describe(device, false, problems);
    }
    let vxlan = make_link(|changes, index| changes.make_vxlan(name, index, id), device.index);
    // Without the kernel's module for it.
    if vxlan.is_err() {
        let bridge = || make_link(|changes, index| changes.make_bridge(name, index), device.index);
        if device.of_host {
            bridge()?;
        } else {
            match make_tun(name, device.index, TunKind::Ethernet) {
                Ok(fd) => fds.push(fd),
                Err(error) => {
                    bridge()?;
                    problems.push(format!(
                        "{name} has no carrier, since /dev/net/tun cannot be used ({error}) and there is no module vxlan"
                    ));
                }
            }
        }
    }
    describe(device, false, problems)
}

/// Gives a device its address, its networks and its routes.
fn describe(device: &Device, is_private: bool, problems: &mut Vec<String>) -> io::Result<()> {
    let name = &device.name;
    let index = index_of(name)?;
    let mut changes = Changes::new();
    let mut names = vec!["device".to_owned()];
    if is_private {
        names.push("neighbours".to_owned());
    }
    names.push("settings for IPv6".to_owned());
    changes.configure(index, device.mtu, device.mac);
    if is_private {
        changes.no_neighbours(index);
    }
    // Before the device comes up, or it has that address already.
    changes.no_automatic_address(index);
    if device.up {
        names.extend(["state".to_owned(), "operational state".to_owned()]);
        changes.up(index);
        changes.operational(index);
    }
    for cidr in &device.addresses {
        names.push(format!("address {cidr}"));
        changes.add_address(index, cidr.addr(), cidr.prefix(), cidr.broadcast());
    }
    // The kernel has no routes through a device that is down.
    for (network, next) in device.routes.iter().filter(|_| device.up) {
        names.push(format!("route to {network}"));
        changes.add_route(index, network.addr(), network.prefix(), *next);
    }
    for (what, outcome) in names.iter().zip(changes.make()?) {
        match outcome {
            // A route that the kernel made itself, or a kernel without IPv6.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EAFNOSUPPORT)) => {}
            Err(error) => problems.push(format!("{name}, {what}: {error}")),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Makes a device under its index, or under one of the kernel's choice if that is taken.
fn make_link(kind: impl Fn(&mut Changes, u32), index: u32) -> io::Result<()> {
    let made = |index: u32| {
        let mut changes = Changes::new();
        kind(&mut changes, index);
        changes.make()?.into_iter().collect::<io::Result<()>>()
    };
    made(index).or_else(|_| made(0))
}

#[cfg(test)]
mod tests {
    use netgraft_plugin::inet;

    use super::*;

    fn interface() -> Interface {
        Interface {
            index: 2,
            name: "eth0".to_owned(),
            mtu: 1500,
            up: true,
            mac: Some([2, 0, 0, 0, 0, 1]),
            addresses: vec![("192.0.2.2".parse().unwrap(), 24), ("2001:db8::2".parse().unwrap(), 64)],
        }
    }

    fn route(destination: &str, gateway: Option<&str>) -> Route {
        let cidr: Cidr = destination.parse().unwrap();
        let gateway = gateway.map(|g| g.parse().unwrap());
        Route { destination: (cidr.addr(), cidr.prefix()), gateway, interface: 2 }
    }

    #[test]
    fn routes_are_those_that_the_kernel_does_not_add_itself_with_gateways_last() {
        let routes = vec![
            route("0.0.0.0/0", Some("192.0.2.1")),
            route("192.0.2.0/24", None),
            route("2001:db8::/64", None),
            route("10.1.2.3/8", None),
            route("::/0", Some("fe80::1")),
            route("198.51.100.0/24", Some("203.0.113.1")),
        ];
        let made = devices(&Network { interfaces: vec![interface()], routes, of_host: false }).unwrap();
        let expected = [
            ("10.0.0.0/8".parse().unwrap(), NextHop::Link),
            ("0.0.0.0/0".parse().unwrap(), NextHop::Gateway("192.0.2.1".parse().unwrap())),
            ("::/0".parse().unwrap(), NextHop::Gateway("fe80::1".parse().unwrap())),
            ("198.51.100.0/24".parse().unwrap(), NextHop::GatewayOnLink("203.0.113.1".parse().unwrap())),
        ];
        assert_eq!(made[0].routes, expected);
        assert_eq!(made[0].addresses, ["192.0.2.2/24".parse().unwrap(), "2001:db8::2/64".parse().unwrap()]);
    }

    #[test]
    fn nonsense_of_a_sentry_is_refused() {
        let refused = |change: &dyn Fn(&mut Interface)| {
            let mut one = interface();
            change(&mut one);
            devices(&Network { interfaces: vec![one], routes: Vec::new(), of_host: false }).unwrap_err()
        };
        for name in ["", "lo", ".", "..", "a/b", "a:b", "tap%d", "a b", "a\0", "é", "0123456789abcdef"] {
            assert!(refused(&|i| i.name = name.to_owned()).contains("name"), "{name:?}");
        }
        for index in [0, 1, 1 << 31, u32::MAX] {
            assert!(refused(&|i| i.index = index).contains("index"));
        }
        for mtu in [0, 67, 65_536, u32::MAX] {
            assert!(refused(&|i| i.mtu = mtu).contains("MTU"));
        }
        for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [255; 6]] {
            assert!(refused(&|i| i.mac = Some(mac)).contains("unicast"));
        }
        for address in [("192.0.2.2", 33), ("2001:db8::2", 129), ("::", 0), ("224.0.0.1", 4), ("ff02::1", 8)]
        {
            let address = (address.0.parse().unwrap(), address.1);
            assert!(refused(&|i| i.addresses = vec![address]).contains("address"));
        }
        assert!(refused(&|i| i.addresses = vec![i.addresses[0]; MAX_LISTED + 1]).contains("too many"));
    }

    /// A stack that says a lot.
    struct Talker;

    impl inet::Stack for Talker {
        fn interfaces(&self) -> Vec<inet::Interface> {
            let one = |index| inet::Interface {
                index,
                name: "long".repeat(1 << 16),
                mtu: 1500,
                up: true,
                loopback: index == 1,
                hardware_address: None,
                addresses: vec!["192.0.2.2/24".parse().unwrap(); 1 << 12],
            };
            (1..100).map(one).collect()
        }

        fn routes(&self) -> Vec<inet::Route> {
            let destination = "192.0.2.0/24".parse().unwrap();
            (0..1 << 16).map(|i| inet::Route { destination, gateway: None, interface: i % 100 }).collect()
        }
    }

    #[test]
    fn a_stack_that_says_too_much_does_not_make_the_message_too_long() {
        let network = Network::of(&Talker);
        let bytes = serde_json::to_vec(&network).unwrap();
        assert!(bytes.len() < 32 * 1024, "{}", bytes.len());
        assert!(
            network.interfaces.iter().all(|i| i.index > 1) && network.routes.iter().all(|r| r.interface > 1)
        );
        assert!(devices(&network).unwrap_err().contains("more than 16"));
        let network =
            Network { interfaces: network.interfaces[..1].to_vec(), routes: Vec::new(), of_host: false };
        assert!(devices(&network).unwrap_err().contains("name"));
    }

    #[test]
    fn lists_that_are_too_long_or_do_not_fit_together_are_refused() {
        let many = |count: u32| {
            let one = |n| Interface { index: 2 + n, name: format!("eth{n}"), ..interface() };
            Network { interfaces: (0..count).map(one).collect(), routes: Vec::new(), of_host: false }
        };
        assert_eq!(devices(&many(16)).unwrap().len(), 16);
        assert!(devices(&many(17)).unwrap_err().contains("more than 16"));
        let routes =
            |routes| devices(&Network { interfaces: vec![interface()], routes, of_host: false }).unwrap_err();
        assert!(routes(vec![route("10.0.0.0/8", None); 17]).contains("more than 16"));
        assert!(routes(vec![Route { interface: 3, ..route("10.0.0.0/8", None) }]).contains("no interface"));
        assert!(routes(vec![route("10.0.0.0/8", Some("fe80::1"))]).contains("family"));
        let long = Route { destination: ("10.0.0.0".parse().unwrap(), 33), ..route("::/0", None) };
        assert!(routes(vec![long]).contains("prefix"));
        let twice =
            Network { interfaces: vec![interface(), interface()], routes: Vec::new(), of_host: false };
        assert!(devices(&twice).unwrap_err().contains("twice"));
    }
}
