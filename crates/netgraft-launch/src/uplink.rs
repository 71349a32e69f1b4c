//! Links that are asked for what they offer before the sandbox is made. passt is started or reached by the launcher, and ends
//! with the sandbox: it ends by itself when its socket is closed, whoever was killed.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use netgraft_link::dad::Detect;
use netgraft_link::lease::{Acquire, Lease, link_local};
use netgraft_link::{MTU_OF_IPV6, PasstLink};
use netgraft_linux::{fdpass, link, memory, process, unix};
use netgraft_plugin::config::PasstConfig;
use netgraft_plugin::link::{FrameMeta, Link, Medium};
use netgraft_plugin::{Cidr, Error, Instant, LinkConfig, PreInitStack, StackConfig};

use crate::clock;
use crate::error::RunError;
use crate::publish::{self, Publish, Transport};
use crate::spec::Ask;
use crate::taken;

/// What passt takes: 64 KiB of frame without its header, in steps of four.
const MTU: u16 = 65_520;
/// Where passt takes questions for a name server of the host's that only the host itself reaches: a link-local address
/// (RFC 3927), as is usual for it.
const NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The most bytes of passt's own message that an error repeats.
const WORDS: usize = 300;

/// A link that was opened before the sandbox was made.
pub(crate) struct Uplink {
    /// The launcher's duplicate.
    socket: OwnedFd,
    /// What it is, if it is a passt.
    passt: Option<Passt>,
    /// Which of the offered addresses are somebody else's, as a warning.
    pub(crate) duplicates: Option<String>,
}

/// A passt that serves the sandbox.
struct Passt {
    /// The one that was started here.
    child: Option<Started>,
    config: PasstConfig,
    publish: Vec<Publish>,
    /// The largest MTU that is asked for.
    most: u16,
    /// Whether one that is started hands questions to [`NAME_SERVER`] on to the host's own server.
    asks_host: bool,
}

struct Started {
    child: Child,
    /// What it says.
    errors: File,
}

impl Drop for Started {
    fn drop(&mut self) {
        // Its socket is closed, so it has ended or is about to; it has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused(text: String) -> RunError {
    RunError::Options(text)
}

impl Uplink {
    /// Opens a link that is to be asked, and puts what it offers into the configuration: addresses and gateways unless some
    /// are given, the MTU, and name servers if there are none. `None` if there is nothing to ask.
    ///
    /// # Errors
    /// [`RunError::Options`]: what is missing, in one line; what [`netgraft_link::open`] says.
    pub(crate) fn prepare(
        config: &mut StackConfig,
        name_servers: &mut Vec<IpAddr>,
        (publish, ask): (&[Publish], Option<Ask>),
    ) -> Result<Option<Uplink>, RunError> {
        match (&config.link, ask) {
            (LinkConfig::Passt(passt), _) => {
                let most = config.wrappers.mtu.unwrap_or(MTU).min(MTU);
                let mut passt = passt.clone();
                let no_random =
                    |e| refused(format!("passt: there are no random numbers for an address: {e}"));
                passt.mac = link::random_mac().map_err(no_random)?;
                // One that is running is most likely the one that is installed.
                passt.half_closes = half_closes(&version());
                let hidden = name_servers.is_empty() && are_hidden(&host_servers());
                let asks_host = hidden && passt.socket.is_none();
                let publish = publish.to_vec();
                let (mut uplink, lease) =
                    Passt { child: None, config: passt, publish, most, asks_host }.begin()?;
                if config.addresses.is_empty() && lease.addresses.is_empty() {
                    return Err(uplink.broken(
                        "it offers no address within 6 s: has this network namespace an uplink itself?",
                    ));
                }
                if let Some(passt) = &mut uplink.passt {
                    // 65,520 is what passt offers; something else may say nothing.
                    passt.config.mtu =
                        lease.mtu.map_or(1500, |said| u16::try_from(said).unwrap_or(MTU)).min(most);
                    config.link = LinkConfig::Passt(passt.config.clone());
                }
                take(lease, config, name_servers);
                if name_servers.is_empty() {
                    if asks_host && config.addresses.iter().any(|cidr| cidr.addr().is_ipv4()) {
                        name_servers.push(NAME_SERVER);
                    } else if hidden {
                        tracing::warn!("{HIDDEN}");
                    }
                }
                Ok(Some(uplink))
            }
            (LinkConfig::Tap(_) | LinkConfig::Packet(_), Some(ask)) => {
                let PreInitStack { init_str, mut fds } = netgraft_link::open(config)?;
                let Some(socket) = fds.pop() else { return Ok(None) };
                let (lease, duplicates) = ask_device(config, ask, &init_str, &socket)?;
                if let Some(said) = lease.mtu.and_then(|said| u16::try_from(said).ok()) {
                    config.wrappers.mtu = Some(config.wrappers.mtu.map_or(said, |mtu| mtu.min(said)));
                }
                config.wrappers.terms.clone_from(&lease.terms);
                config.wrappers.opened = Some(init_str);
                take(lease, config, name_servers);
                Ok(Some(Uplink { socket, passt: None, duplicates }))
            }
            _ => Ok(None),
        }
    }

    /// A duplicate of the descriptor for a sentry.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// A descriptor for a sentry that takes over. Of passt another one's, since nobody knows where in the stream the one before
    /// was.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn again(&mut self) -> Result<OwnedFd, RunError> {
        if let Some(passt) = &mut self.passt {
            self.socket = passt.open()?;
        }
        self.socket().map_err(|e| refused(format!("the link cannot be duplicated: {e}")))
    }

    /// How the passt that was started here has ended, reported once.
    pub(crate) fn end(&mut self) -> Option<String> {
        let passt = self.passt.as_mut()?;
        let started = passt.child.as_mut()?;
        let status = started.child.try_wait().ok().flatten()?;
        let words = words_of(&mut started.errors);
        passt.child = None;
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        Some(format!("passt has ended ({status}){words}"))
    }

    fn broken(&mut self, what: &str) -> RunError {
        self.passt.as_mut().map_or_else(|| refused(what.to_owned()), |passt| passt.broken(what))
    }
}

/// What to do about an interface that has addresses of the kernel's beside the stack's, as a warning.
pub(crate) fn doubled(config: &StackConfig) -> Option<String> {
    let LinkConfig::Packet(link) = &config.link else { return None };
    // A missing interface is an error when it is opened.
    let own = taken::of_kernel(link.interface.as_str()).ok()?;
    let all: Vec<String> = own.iter().map(Cidr::to_string).collect();
    (!all.is_empty()).then(|| {
        format!(
            "interface {} has addresses of the kernel's, which answers on it, too ({}): --take-address makes them the stack's",
            link.interface,
            all.join(", ")
        )
    })
}

/// Puts addresses of IPv6 into networks of 64 bits, which is what lwIP and others know.
pub(crate) fn widen(config: &mut StackConfig) {
    for cidr in config.addresses.iter_mut().filter(|cidr| cidr.addr().is_ipv6()) {
        *cidr = Cidr::new(cidr.addr(), 64).unwrap_or(*cidr);
    }
}

/// Leaves IPv6 out where a link's MTU is too small for it and its addresses were offered; what to say of that.
///
/// # Errors
/// [`RunError::Options`] if such an address was given, or if there is no other.
pub(crate) fn fit_ipv6(
    config: &mut StackConfig,
    name_servers: &mut Vec<IpAddr>,
    (is_address_given, is_server_given): (bool, bool),
) -> Result<Option<String>, RunError> {
    let wanted = config.wrappers.mtu.map(usize::from);
    let mtu = match &config.link {
        LinkConfig::Passt(passt) => Some(usize::from(passt.mtu)),
        // A TAP device gets the MTU that is wanted, and may not exist yet.
        LinkConfig::Tap(tap) => wanted.or_else(|| link::mtu_of(tap.name.as_str()).ok()),
        // A missing interface is an error when it is opened.
        LinkConfig::Packet(packet) => {
            wanted.into_iter().chain(link::mtu_of(packet.interface.as_str()).ok()).min()
        }
        _ => None,
    };
    let Some(mtu) = mtu.filter(|mtu| *mtu < MTU_OF_IPV6) else { return Ok(None) };
    let Some(address) = config.addresses.iter().find(|cidr| cidr.addr().is_ipv6()) else { return Ok(None) };
    let why = format!("IPv6 needs an MTU of {MTU_OF_IPV6} or more, and --link {} has {mtu}", config.link);
    if is_address_given {
        return Err(refused(format!("the address {address}: {why}: raise it, or leave the address out")));
    }
    config.addresses.retain(|cidr| cidr.addr().is_ipv4());
    config.gateways.retain(IpAddr::is_ipv4);
    if !is_server_given {
        name_servers.retain(IpAddr::is_ipv4);
    }
    if config.addresses.is_empty() {
        return Err(refused(format!("{why}: it offers no address of IPv4: raise the MTU")));
    }
    Ok(Some(format!("IPv6 is left out: {why}")))
}

/// Puts what was offered into the configuration.
fn take(lease: Lease, config: &mut StackConfig, name_servers: &mut Vec<IpAddr>) {
    let Lease { addresses, gateways, name_servers: offered, .. } = lease;
    if config.addresses.is_empty() {
        config.addresses = addresses;
        if config.gateways.is_empty() {
            config.gateways = gateways;
        }
    }
    if name_servers.is_empty() {
        *name_servers = offered;
    }
}

/// Asks what is on the other side of a device, and who has the addresses of IPv6 that are offered; a warning names those that
/// somebody has.
fn ask_device(
    config: &StackConfig,
    ask: Ask,
    text: &str,
    fd: &OwnedFd,
) -> Result<(Lease, Option<String>), RunError> {
    let failed = |e: io::Error| refused(format!("--link {}: it cannot be asked: {e}", config.link));
    let mut bare = StackConfig { link: config.link.clone(), ..StackConfig::default() };
    bare.wrappers.vlan = config.wrappers.vlan;
    let link = netgraft_link::rebuild(&bare, "link", text, vec![fd.try_clone().map_err(failed)?])?.link;
    let Some(mut link) = link else { return Ok((Lease::default(), None)) };
    let Medium::Ethernet(mac) = link.medium() else { return Ok((Lease::default(), None)) };
    // What it would leave to a device is done here, since the frames are read here.
    link.refuse_offload();
    let random = random_number().map_err(failed)?;
    let mut acquire = Acquire::on_network(mac, random, ask == Ask::Auto);
    let broken = |error: Result<String, io::Error>| {
        let error = error.unwrap_or_else(|e| e.to_string());
        refused(format!("--link {}: it cannot be asked: {error}", config.link))
    };
    question(link.as_mut(), fd, &mut acquire).map_err(broken)?;
    let mut lease = acquire.lease();
    if lease.addresses.is_empty() {
        let (option, servers) = match ask {
            Ask::Dhcp => ("dhcp", "no DHCP server has"),
            Ask::Auto => ("auto", "neither a DHCP server nor a router has"),
        };
        return Err(refused(format!(
            "--address {option}: {servers} answered on --link {} within 12 s",
            config.link
        )));
    }
    if lease.addresses.iter().any(|cidr| cidr.addr().is_ipv6()) {
        // Servers and routers answer it later, too.
        lease.addresses.extend(Cidr::new(link_local(mac).into(), 64));
    }
    let wanted = lease.addresses.iter().filter_map(|cidr| match cidr.addr() {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    let mut detect = Detect::new(mac, wanted.collect());
    question(link.as_mut(), fd, &mut detect).map_err(broken)?;
    let duplicates = give_up(&mut lease, detect.taken(), &config.link)?;
    Ok((lease, duplicates))
}

/// Takes addresses that somebody has out of a lease; what to say of that.
///
/// # Errors
/// [`RunError::Options`] if no address is left.
fn give_up(lease: &mut Lease, taken: &[Ipv6Addr], link: &LinkConfig) -> Result<Option<String>, RunError> {
    if taken.is_empty() {
        return Ok(None);
    }
    let is_taken = |address: &IpAddr| matches!(address, IpAddr::V6(address) if taken.contains(address));
    lease.addresses.retain(|cidr| !is_taken(&cidr.addr()));
    for term in &mut lease.terms {
        term.addresses.retain(|address| !is_taken(address));
    }
    lease.terms.retain(|term| !term.addresses.is_empty());
    if lease.addresses.iter().all(|cidr| cidr.addr().is_ipv4()) {
        lease.gateways.retain(IpAddr::is_ipv4);
        lease.name_servers.retain(IpAddr::is_ipv4);
    }
    let all: Vec<String> = taken.iter().map(Ipv6Addr::to_string).collect();
    let (all, verb) = (all.join(", "), if taken.len() == 1 { "is" } else { "are" });
    if lease.addresses.is_empty() {
        return Err(refused(format!(
            "--link {link}: {all} {verb} another station's already: give an --address"
        )));
    }
    Ok(Some(format!(
        "--link {link}: {all} {verb} another station's already, and not used (duplicate address)"
    )))
}

/// Whether an interface of the caller's network namespace has an IPv6 address that leads further than its own link (proc(5),
/// `/proc/net/if_inet6`: the fourth field is the scope, 0 for such addresses).
fn has_ipv6() -> bool {
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    addresses.lines().any(|line| line.split_whitespace().nth(3) == Some("00"))
}

/// What to do where the program reads of a name server that it cannot reach.
const HIDDEN: &str = "the name servers of /etc/resolv.conf are on the host's loopback, which the sandbox does not reach: name others with \
                      --dns";

/// The name servers that a program reads of in the host's resolv.conf(5).
fn host_servers() -> Vec<IpAddr> {
    servers_of(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn servers_of(text: &str) -> Vec<IpAddr> {
    let words = |line: &str| {
        let mut words = line.split_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // An address of IPv6 may name its interface.
        server.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(words).collect()
}

/// Whether there are name servers, and all are the host's alone.
fn are_hidden(servers: &[IpAddr]) -> bool {
    !servers.is_empty() && servers.iter().all(|server| server.to_canonical().is_loopback())
}

fn random_number() -> io::Result<u32> {
    let random = link::random_mac()?;
    Ok(u32::from_be_bytes([random[2], random[3], random[4], random[5]]))
}

/// Who asks something on a link.
trait Asks {
    /// Sends what is due; whether to go on.
    fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) -> bool;
    /// When that is to be done at the latest.
    fn next_deadline(&self) -> Instant;
    /// Takes a frame in.
    fn input(&mut self, now: Instant, frame: &[u8]);
}

impl Asks for Acquire {
    fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) -> bool {
        Acquire::poll(self, now, send)
    }
    fn next_deadline(&self) -> Instant {
        Acquire::next_deadline(self)
    }
    fn input(&mut self, now: Instant, frame: &[u8]) {
        Acquire::input(self, now, frame);
    }
}

impl Asks for Detect {
    fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) -> bool {
        Detect::poll(self, now, send)
    }
    fn next_deadline(&self) -> Instant {
        Detect::next_deadline(self)
    }
    fn input(&mut self, _now: Instant, frame: &[u8]) {
        Detect::input(self, frame);
    }
}

/// Asks on a link until there is an answer, or none within the time. The error is the link's, or the caller's.
fn question(
    link: &mut dyn Link,
    fd: &OwnedFd,
    client: &mut dyn Asks,
) -> Result<(), Result<String, io::Error>> {
    loop {
        let now = clock::now();
        let mut sent = Ok(());
        let go_on = client.poll(now, &mut |frame| sent = link.send(now, frame, FrameMeta::default()));
        if !go_on {
            return Ok(());
        }
        let received = sent
            .and_then(|()| link.flush(now))
            .and_then(|()| link.receive(now, 64, &mut |frame| client.input(now, frame)));
        match received {
            // An answer may be followed by a question at once.
            Ok(1..) => continue,
            Ok(0) | Err(Error::Again) => {}
            Err(error) => return Err(Ok(error.to_string())),
        }
        let wait = client.next_deadline().since(clock::now());
        fdpass::wait_readable([Some(fd.as_fd())], Some(wait)).map_err(Err)?;
    }
}

impl Passt {
    /// Starts or reaches it, and asks it.
    fn begin(mut self) -> Result<(Uplink, Lease), RunError> {
        let failed = |e: io::Error| refused(format!("passt: its socket cannot be used: {e}"));
        let socket = self.open()?;
        let mac = self.config.mac;
        let mut link = PasstLink::new(socket.try_clone().map_err(failed)?, mac, usize::from(MTU));
        let mut acquire = Acquire::new(mac, random_number().map_err(failed)?);
        if self.child.is_some() && !has_ipv6() {
            // One that was started here offers what this network namespace has: nothing is worth waiting for.
            acquire = acquire.of_v4();
        }
        match question(&mut link, &socket, &mut acquire).map(|()| acquire.lease()) {
            Ok(lease) => Ok((Uplink { socket, passt: Some(self), duplicates: None }, lease)),
            Err(Ok(_)) => Err(self.gone()),
            Err(Err(error)) => Err(failed(error)),
        }
    }

    /// Starts or reaches one, in place of the one before.
    fn open(&mut self) -> Result<OwnedFd, RunError> {
        self.child = None;
        match &self.config.socket {
            None => {
                let (socket, child) = start(&self.publish, self.most, self.asks_host)?;
                self.child = Some(child);
                Ok(socket)
            }
            Some(_) if !self.publish.is_empty() => Err(refused(
                "--publish is for a passt that netgraft starts: give --tcp-ports to the one that is running"
                    .to_owned(),
            )),
            Some(path) => reach(path),
        }
    }

    fn broken(&mut self, what: &str) -> RunError {
        let place = match &self.config.socket {
            Some(path) => format!("passt at {}", path.display()),
            None => "passt".to_owned(),
        };
        let words = self.child.as_mut().map(|started| words_of(&mut started.errors)).unwrap_or_default();
        let words = if words.is_empty() { words } else { format!(" ({words})") };
        refused(format!("--link passt: {place}: {what}{words}"))
    }

    /// passt has closed its end.
    fn gone(&mut self) -> RunError {
        let status = self.child.as_mut().and_then(|started| started.child.wait().ok());
        match status {
            Some(status) => self.broken(&format!("it ended at once, {status}")),
            None => self.broken("it closed the connection; it serves one client at a time"),
        }
    }
}

/// What the installed passt says of its version; nothing if there is none.
fn version() -> String {
    let output = Command::new("passt").arg("--version").stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Whether a passt of this version serves half-closed connections right: since its release 2025_09_11. Versions are dates, such
/// as `2025_09_19.623dbf6` or `0.0~git20230309.7c7625d`, or, as Debian 12's, unknown.
fn half_closes(version: &str) -> bool {
    let line: String = version.lines().next().unwrap_or_default().chars().filter(|c| *c != '_').collect();
    let digits = line.split(|c: char| !c.is_ascii_digit()).find(|digits| digits.len() == 8);
    digits.and_then(|date| date.parse::<u32>().ok()).is_some_and(|date| date >= 20_250_911)
}

/// Starts a passt whose socket is its standard input, which every version that has `--fd` takes.
fn start(publish: &[Publish], mtu: u16, asks_host: bool) -> Result<(OwnedFd, Started), RunError> {
    let failed = |e: io::Error| refused(format!("--link passt: passt cannot be started: {e}"));
    publish::check(publish, has_ipv6()).map_err(refused)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    for end in [&ours, &theirs] {
        enlarge(end.as_fd()).map_err(failed)?;
    }
    let errors = memory::unnamed_file(c"passt").map_err(failed)?;
    let mut command = Command::new("passt");
    // The host's own addresses are not reachable through the gateway's.
    command.args(["--foreground", "--quiet", "--no-map-gw", "--fd", "0", "--mtu", &mtu.to_string()]);
    if asks_host {
        command.args(["--dns-forward", &NAME_SERVER.to_string()]);
    }
    for (option, transport) in [("--tcp-ports", Transport::Tcp), ("--udp-ports", Transport::Udp)] {
        let mut ports = publish.iter().filter(|port| port.transport == transport).peekable();
        if ports.peek().is_none() {
            command.args([option, "none"]);
        }
        for port in ports {
            command.args([option, &port.of_passt()]);
        }
    }
    // Ctrl-C is for the program, which may have something to send still.
    command.process_group(0);
    // It faces the network, and needs nothing of the caller's.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    process::inherit_nothing(&mut command);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(errors.try_clone().map_err(failed)?);
    let child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => refused(
            "--link passt: there is no passt here: install the package passt (apt install passt)".to_owned(),
        ),
        _ => failed(e),
    })?;
    unix::set_nonblocking(ours.as_fd(), true).map_err(failed)?;
    Ok((ours.into(), Started { child, errors }))
}

/// Gives a socket the largest buffer that the kernel allows (`net.core.wmem_max`): passt drops frames when its own is full,
/// and sets that of a socket that it accepts in the same way.
fn enlarge(socket: BorrowedFd<'_>) -> io::Result<()> {
    unix::set_send_buffer(socket, i32::MAX / 2)
}

fn reach(path: &Path) -> Result<OwnedFd, RunError> {
    let place = path.display();
    let failed = |e: io::Error| {
        refused(format!(
            "--link passt:{place}: {e}; is 'passt --socket {place}' running, and without a client?"
        ))
    };
    let socket = UnixStream::connect(path).map_err(failed)?;
    enlarge(socket.as_fd()).map_err(failed)?;
    unix::set_nonblocking(socket.as_fd(), true).map_err(failed)?;
    Ok(socket.into())
}

/// What passt has said last, in one line.
fn words_of(errors: &mut File) -> String {
    let mut text = Vec::new();
    // Words that cannot be read are no words.
    let _ = errors.rewind().and_then(|()| errors.take(64 * 1024).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    // Where no syslog is, passt complains of that, too.
    let mut lines = text.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.contains("to syslog") && !line.starts_with("Don't run as root")
    });
    lines.next_back().unwrap_or_default().chars().take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_host_alone_are_told_from_others() {
        let hidden = |text: &str| are_hidden(&servers_of(text));
        assert!(hidden("# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0\nsearch example.com\n"));
        assert!(hidden("nameserver ::1\nnameserver 127.0.0.1"));
        assert!(!hidden("nameserver 127.0.0.53\nnameserver 192.0.2.1\n"));
        assert!(!hidden("nameserver fe80::1%eth0\n"));
        for text in ["", "#nameserver 127.0.0.1", "nameserver", "nameserver x", "options 127.0.0.1"] {
            assert!(!hidden(text), "{text}");
        }
    }

    #[test]
    fn addresses_of_others_are_not_used() {
        let link = LinkConfig::tap("t0".parse().unwrap());
        let [v4, one, two]: [Cidr; 3] =
            ["192.0.2.2/24", "2001:db8::1/64", "fe80::1/64"].map(|cidr| cidr.parse().unwrap());
        let gateways = vec!["192.0.2.1".parse().unwrap(), "fe80::9".parse().unwrap()];
        let all = Lease { addresses: vec![v4, one, two], gateways, ..Lease::default() };
        let taken = |cidrs: &[Cidr]| -> Vec<Ipv6Addr> {
            cidrs.iter().map(|cidr| cidr.addr().to_string().parse().unwrap()).collect()
        };
        let mut lease = all.clone();
        assert_eq!(give_up(&mut lease, &[], &link).unwrap(), None);
        assert_eq!(lease, all);
        let said = give_up(&mut lease, &taken(&[one]), &link).unwrap().unwrap();
        assert!(said.contains("2001:db8::1 is another station's"), "{said}");
        assert_eq!((&lease.addresses[..], lease.gateways.len()), (&[v4, two][..], 2));
        give_up(&mut lease, &taken(&[two]), &link).unwrap();
        assert_eq!((&lease.addresses[..], lease.gateways.len()), (&[v4][..], 1));
        let mut lease = Lease { addresses: vec![one, two], ..Lease::default() };
        let said = give_up(&mut lease, &taken(&[one, two]), &link).unwrap_err().to_string();
        assert!(said.contains("2001:db8::1, fe80::1 are another station's"), "{said}");
    }

    #[test]
    fn half_closed_connections_are_a_matter_of_the_version() {
        for (version, expected) in [
            ("passt 2025_09_19.623dbf6\nCopyright Red Hat\n", true),
            ("passt 2025_09_11.8bbd9d4", true),
            ("passt 2025_08_05.309eefd", false),
            ("passt 0.0~git20230309.7c7625d-1", false),
            ("passt 0.0~git20260101.7c7625d-1", true),
            ("passt unknown version\nCopyright 20260101", false),
            ("", false),
        ] {
            assert_eq!(half_closes(version), expected, "{version}");
        }
    }
}
