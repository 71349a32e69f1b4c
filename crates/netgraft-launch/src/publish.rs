//! Ports of the host's that lead into the sandbox.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

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
