//! Ports of the host's that lead into the sandbox.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::str::FromStr;

use netgraft_linux::inet_socket;

/// What a published port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port of the host's that leads to one in the sandbox: `[ADDR:]PORT[:INSIDE][/udp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publish {
    /// The host's address that is bound; `None` for all.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// The port inside.
    pub inside: u16,
    /// What it carries.
    pub transport: Transport,
}

impl Publish {
    /// As passt's `--tcp-ports` and `--udp-ports` have it: `[ADDR/]PORT:INSIDE`.
    pub(crate) fn of_passt(&self) -> String {
        match self.address {
            Some(address) => format!("{address}/{}:{}", self.port, self.inside),
            None => format!("{}:{}", self.port, self.inside),
        }
    }
}

/// Finds out whether ports can be bound, all of each: passt is content with one family of two, and shares a port of UDP with
/// whoever lets it. `has_ipv6` says whether passt binds those of IPv6 as well.
///
/// # Errors
/// The first one that cannot, in one line.
pub(crate) fn check(publish: &[Publish], has_ipv6: bool) -> Result<(), String> {
    for port in publish {
        let all = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = match &port.address {
            Some(address) => std::slice::from_ref(address),
            None if has_ipv6 => &all[..],
            None => &all[..1],
        };
        for address in addresses {
            // passt knows the link of such an address.
            if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
                continue;
            }
            let place = SocketAddr::new(*address, port.port);
            bind(place, port.transport).map_err(|error| {
                let transport = match port.transport {
                    Transport::Tcp => "TCP",
                    Transport::Udp => "UDP",
                };
                let remedy = match (port.address, error.kind()) {
                    (None, io::ErrorKind::AddrInUse) => {
                        ": publish another port, or one address (ADDR:PORT:INSIDE)"
                    }
                    (Some(_), io::ErrorKind::AddrInUse) => ": publish another port",
                    _ => "",
                };
                format!(
                    "--publish {port}: {transport} port {place} of the host cannot be had: {error}{remedy}"
                )
            })?;
        }
    }
    Ok(())
}

/// Binds a port for a moment.
fn bind(place: SocketAddr, transport: Transport) -> io::Result<()> {
    let domain = if place.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = match transport {
        Transport::Tcp => libc::SOCK_STREAM,
        Transport::Udp => libc::SOCK_DGRAM,
    };
    let socket = inet_socket::socket(domain, kind, 0)?;
    let on = 1_i32.to_ne_bytes();
    if place.is_ipv6() {
        inet_socket::setsockopt(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &on)?;
    }
    if transport == Transport::Tcp {
        // Connections of the one before that wait for their end are in nobody's way.
        inet_socket::setsockopt(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &on)?;
    }
    inet_socket::bind(socket.as_fd(), &place)?;
    if transport == Transport::Tcp { inet_socket::listen(socket.as_fd(), 1) } else { Ok(()) }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        write!(f, "{}:{}", self.port, self.inside)?;
        if self.transport == Transport::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Publish, String> {
        let wrong = || {
            format!(
                "'{text}' is no port to publish: use [ADDR:]PORT[:INSIDE][/udp], such as 8080:80 or [::1]:53:53/udp"
            )
        };
        let (ports, transport) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some(_) => return Err(wrong()),
        };
        let (address, ports) = if let Some(rest) = ports.strip_prefix('[') {
            let (address, ports) = rest.split_once("]:").ok_or_else(wrong)?;
            (Some(address), ports)
        } else if let Some((address, ports)) =
            ports.split_once(':').filter(|(address, _)| address.contains('.'))
        {
            (Some(address), ports)
        } else {
            (None, ports)
        };
        let address = address.map(str::parse).transpose().map_err(|_| wrong())?;
        let number = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or_else(wrong);
        let (port, inside) = match ports.split_once(':') {
            Some((port, inside)) => (number(port)?, number(inside)?),
            None => (number(ports)?, number(ports)?),
        };
        Ok(Publish { address, port, inside, transport })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_said_with_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tcp, udp) = (listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port());
        for (text, place) in [
            (format!("127.0.0.1:{tcp}:80"), format!("TCP port 127.0.0.1:{tcp} ")),
            (format!("{tcp}:80"), format!("TCP port 0.0.0.0:{tcp} ")),
            (format!("127.0.0.1:{udp}:53/udp"), format!("UDP port 127.0.0.1:{udp} ")),
            (format!("192.0.2.77:{tcp}:80"), format!("TCP port 192.0.2.77:{tcp} ")),
        ] {
            let said = check(&[text.parse().unwrap()], false).unwrap_err();
            assert!(
                said.starts_with(&format!("--publish {text}: {place}of the host cannot be had: ")),
                "{said}"
            );
        }
        drop((listener, socket));
        let free = format!("127.0.0.1:{tcp}:80").parse().unwrap();
        assert_eq!(check(&[free, free], false), Ok(()));
    }

    #[test]
    fn ports_parse_and_are_said_as_passt_wants_them() {
        for (text, shown, passt) in [
            ("80", "80:80", "80:80"),
            ("8080:80/tcp", "8080:80", "8080:80"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80", "127.0.0.1/8080:80"),
            ("127.0.0.1:53/udp", "127.0.0.1:53:53/udp", "127.0.0.1/53:53"),
            ("[2001:db8::1]:53:5353/udp", "[2001:db8::1]:53:5353/udp", "2001:db8::1/53:5353"),
        ] {
            let publish: Publish = text.parse().unwrap();
            assert_eq!((publish.to_string().as_str(), publish.of_passt().as_str()), (shown, passt), "{text}");
            assert_eq!(shown.parse(), Ok(publish));
        }
        for text in
            ["", "0", "x", "80/sctp", "1.2.3.4", "1.2.3.4.5:80", "[::1]80", "80:", "65536", "80:70:60"]
        {
            assert!(text.parse::<Publish>().is_err(), "{text}");
        }
    }
}
