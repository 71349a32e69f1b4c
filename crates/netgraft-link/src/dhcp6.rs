//! The client's side of DHCPv6 (RFC 8415): one address, and name servers. No I/O, no clock.

use std::net::Ipv6Addr;

use netgraft_linux::link::vnet;

/// Messages (RFC 8415 section 7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REPLY: u8 = 7;
const INFORMATION_REQUEST: u8 = 11;
/// Options (section 21, RFC 3646).
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const WANTED: u16 = 6;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;
const DNS_SERVERS: u16 = 23;
/// All servers and relays of the link (section 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Longest identifier of a server (section 11.1: 128 octets and a type).
const LONGEST_ID: usize = 130;

/// What a server gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) address: Option<Ipv6Addr>,
    pub(crate) name_servers: Vec<Ipv6Addr>,
    /// Seconds: until the address is to be renewed, and until it ends. `u32::MAX` for never (section 7.7).
    pub(crate) renew: u32,
    pub(crate) valid: u32,
}

/// How far the client has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody has asked for it.
    Off,
    /// Asking who has an address.
    Soliciting,
    /// Asking for everything but an address.
    Informing,
    /// Asking this server for this address.
    Requesting { server: Vec<u8>, address: Ipv6Addr },
    /// Asking the same for the same again.
    Renewing { server: Vec<u8>, address: Ipv6Addr },
    /// There is an answer; of this server.
    Done { server: Vec<u8> },
}

/// A client.
pub(crate) struct Client {
    mac: [u8; 6],
    transaction: [u8; 3],
    pub(crate) stage: Stage,
}

impl Client {
    pub(crate) fn new(mac: [u8; 6], random: u32) -> Client {
        let [_, a, b, c] = random.to_be_bytes();
        Client { mac, transaction: [a, b, c], stage: Stage::Off }
    }

    /// One that has an address of this server's.
    pub(crate) fn with_lease(mac: [u8; 6], random: u32, server: Vec<u8>) -> Client {
        Client { stage: Stage::Done { server }, ..Client::new(mac, random) }
    }

    /// A router has said that addresses (`managed`), or other things (`other`), are had here (RFC 4861 section 4.2).
    pub(crate) fn advised(&mut self, managed: bool, other: bool) {
        if self.stage == Stage::Off {
            self.stage = match (managed, other) {
                (true, _) => Stage::Soliciting,
                (false, true) => Stage::Informing,
                (false, false) => Stage::Off,
            };
        }
    }

    /// Begins to ask for `address` again.
    pub(crate) fn renew(&mut self, address: Ipv6Addr) {
        if let Stage::Done { server } = &self.stage {
            self.stage = Stage::Renewing { server: server.clone(), address };
        }
    }

    /// Whether an answer is waited for.
    pub(crate) fn asks(&self) -> bool {
        !matches!(self.stage, Stage::Off | Stage::Done { .. })
    }

    /// The question that is due, from the address `from` of the link.
    pub(crate) fn question(&self, from: Ipv6Addr) -> Option<Vec<u8>> {
        let (kind, server, address) = match &self.stage {
            Stage::Off | Stage::Done { .. } => return None,
            Stage::Soliciting => (SOLICIT, None, None),
            Stage::Informing => (INFORMATION_REQUEST, None, None),
            Stage::Requesting { server, address } => (REQUEST, Some(server), Some(address)),
            Stage::Renewing { server, address } => (RENEW, Some(server), Some(address)),
        };
        let mut frame = vec![0x33, 0x33, 0, 1, 0, 2];
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 17, 1]);
        frame.extend_from_slice(&from.octets());
        frame.extend_from_slice(&SERVERS.octets());
        // Ports, length, and a checksum that is to be computed.
        frame.extend_from_slice(&[2, 34, 2, 35, 0, 0, 0xff, 0xff, kind]);
        frame.extend_from_slice(&self.transaction);
        let mut option = |code: u16, value: &[&[u8]]| {
            let len: usize = value.iter().map(|part| part.len()).sum();
            frame.extend_from_slice(&code.to_be_bytes());
            frame.extend_from_slice(&(len as u16).to_be_bytes());
            value.iter().for_each(|part| frame.extend_from_slice(part));
        };
        // An identifier made of the Ethernet address (section 11.4).
        option(CLIENT_ID, &[&[0, 3, 0, 1], &self.mac]);
        if let Some(server) = server {
            option(SERVER_ID, &[server]);
        }
        if kind != INFORMATION_REQUEST {
            // One association, number 1; the server chooses its times. With the address that was offered.
            let association = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            let head = [&IA_ADDRESS.to_be_bytes()[..], &[0, 24]].concat();
            match address {
                Some(address) => option(IA_NA, &[&association, &head, &address.octets(), &[0; 8]]),
                None => option(IA_NA, &[&association]),
            }
        }
        option(WANTED, &[&DNS_SERVERS.to_be_bytes()]);
        option(ELAPSED, &[&[0, 0]]);
        let len = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame[58..60].copy_from_slice(&len.to_be_bytes());
        vnet::finish_checksum(&mut frame);
        Some(frame)
    }

    /// Takes an answer in; what was given, if it is the one that was waited for.
    pub(crate) fn answer(&mut self, frame: &[u8]) -> Option<Given> {
        let found = vnet::layout(frame).filter(|l| !l.v4 && l.protocol == 17)?;
        let udp = frame.get(found.transport..found.end)?;
        let (kind, rest) = udp.get(8..)?.split_first()?;
        let ours = udp.get(..4)? == [2, 35, 2, 34] && rest.get(..3)? == self.transaction;
        if !ours || !vnet::is_intact(&[0; vnet::LEN], frame) {
            return None;
        }
        let options = Options(rest.get(3..)?);
        let id = [&[0, 3, 0, 1], &self.mac[..]].concat();
        let server = options.find(SERVER_ID).filter(|id| id.len() <= LONGEST_ID)?.to_vec();
        if options.find(CLIENT_ID)? != id || options.failed() {
            return None;
        }
        match (*kind, &self.stage) {
            (ADVERTISE, Stage::Soliciting) => {
                let (address, ..) = options.address()?;
                self.stage = Stage::Requesting { server, address };
                None
            }
            (REPLY, Stage::Informing) => {
                self.stage = Stage::Done { server };
                let name_servers = options.name_servers();
                Some(Given { address: None, name_servers, renew: u32::MAX, valid: u32::MAX })
            }
            (REPLY, Stage::Requesting { .. } | Stage::Renewing { .. }) => {
                let (address, renew, valid) = options.address()?;
                self.stage = Stage::Done { server };
                Some(Given { address: Some(address), name_servers: options.name_servers(), renew, valid })
            }
            _ => None,
        }
    }
}

/// Options, one behind the other.
#[derive(Clone, Copy)]
struct Options<'a>(&'a [u8]);

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

impl<'a> Options<'a> {
    fn find(self, code: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let [a, b, high, low, behind @ ..] = rest {
            let (value, next) = behind.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
            if u16::from_be_bytes([*a, *b]) == code {
                return Some(value);
            }
            rest = next;
        }
        None
    }

    /// Whether a status other than success (0) is told.
    fn failed(self) -> bool {
        self.find(STATUS).is_some_and(|status| status.get(..2) != Some(&[0, 0]))
    }

    /// The address of the association, when it is to be renewed and when it ends, in seconds.
    fn address(self) -> Option<(Ipv6Addr, u32, u32)> {
        let association = self.find(IA_NA)?;
        let inner = Options(association.get(12..)?);
        let value = inner.find(IA_ADDRESS)?;
        let address = Ipv6Addr::from(*value.first_chunk::<16>()?);
        let (preferred, valid) = (be32(value, 16)?, be32(value, 20)?);
        let failed = inner.failed() || Options(value.get(24..)?).failed();
        if failed || valid == 0 || address.is_multicast() || address.is_unspecified() || address.is_loopback()
        {
            return None;
        }
        // "the client SHOULD use times of 0.5 [...] of the shortest preferred lifetime" if the server leaves it (section 14.2).
        let renew = match be32(association, 4)? {
            0 if preferred == u32::MAX => u32::MAX,
            0 => preferred / 2,
            given => given,
        };
        Some((address, renew.min(valid), valid))
    }

    fn name_servers(self) -> Vec<Ipv6Addr> {
        let servers = self.find(DNS_SERVERS).unwrap_or(&[]).chunks_exact(16);
        servers
            .filter_map(|server| server.first_chunk::<16>())
            .map(|server| Ipv6Addr::from(*server))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
    const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

    fn option(code: u16, value: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    /// What a server sends.
    fn told(client: &Client, kind: u8, inner: &[u8]) -> Vec<u8> {
        let address = [&ADDRESS.octets()[..], &[0, 0, 0, 200], &[0, 0, 1, 44], inner].concat();
        let association = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], &option(IA_ADDRESS, &address)].concat();
        let body = [
            vec![kind],
            client.transaction.to_vec(),
            option(SERVER_ID, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]),
            option(CLIENT_ID, &[&[0, 3, 0, 1], &MAC[..]].concat()),
            option(IA_NA, &association),
            option(DNS_SERVERS, &"2001:db8::53".parse::<Ipv6Addr>().unwrap().octets()),
        ]
        .concat();
        let len = ((body.len() + 8) as u16).to_be_bytes();
        let mut frame = [&MAC[..], &[4; 6], &[0x86, 0xdd, 0x60, 0, 0, 0], &len, &[17, 64]].concat();
        frame.extend_from_slice(&FROM.octets());
        frame.extend_from_slice(&FROM.octets());
        frame.extend_from_slice(&[&[2, 35, 2, 34][..], &len, &[0xff, 0xff], &body].concat());
        vnet::finish_checksum(&mut frame);
        frame
    }

    fn kind(client: &Client) -> Option<u8> {
        client.question(FROM).map(|frame| {
            assert!(vnet::is_intact(&[0; vnet::LEN], &frame));
            frame[62]
        })
    }

    #[test]
    fn an_address_is_solicited_requested_and_renewed() {
        let mut client = Client::new(MAC, 0x0012_3456);
        assert_eq!((kind(&client), client.asks()), (None, false));
        client.advised(true, false);
        assert_eq!((kind(&client), client.asks()), (Some(SOLICIT), true));
        // A reply to what was not asked is none.
        assert_eq!(client.answer(&told(&client, REPLY, &[])), None);
        assert_eq!(client.answer(&told(&client, ADVERTISE, &[])), None);
        assert_eq!(kind(&client), Some(REQUEST));
        let question = client.question(FROM).unwrap();
        assert!(question.windows(16).any(|bytes| bytes == ADDRESS.octets()));
        let given = client.answer(&told(&client, REPLY, &[])).unwrap();
        // Half of the preferred lifetime of 200 s; valid for 300.
        assert_eq!((given.address, given.renew, given.valid), (Some(ADDRESS), 100, 300));
        assert_eq!(given.name_servers, ["2001:db8::53".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!((kind(&client), client.asks()), (None, false));
        client.renew(ADDRESS);
        assert_eq!(kind(&client), Some(RENEW));
        assert!(client.answer(&told(&client, REPLY, &[])).is_some());
        assert!(!client.asks());
    }

    #[test]
    fn other_things_alone_are_asked_without_an_address() {
        let mut client = Client::new(MAC, 1);
        client.advised(false, true);
        assert_eq!(kind(&client), Some(INFORMATION_REQUEST));
        let given = client.answer(&told(&client, REPLY, &[])).unwrap();
        assert_eq!((given.address, given.name_servers.len()), (None, 1));
        let mut client = Client::new(MAC, 1);
        client.advised(false, false);
        assert_eq!(kind(&client), None);
    }

    #[test]
    fn refusals_and_answers_to_others_are_no_answers() {
        let mut client = Client::new(MAC, 1);
        client.advised(true, false);
        // No address is left (status 2).
        let refused = told(&client, ADVERTISE, &option(STATUS, &[0, 2]));
        assert!(client.answer(&refused).is_none());
        let other = told(&Client::new(MAC, 2), ADVERTISE, &[]);
        assert!(client.answer(&other).is_none());
        let mut damaged = told(&client, ADVERTISE, &[]);
        *damaged.last_mut().unwrap() ^= 1;
        assert!(client.answer(&damaged).is_none());
        let stranger = Client { mac: [3; 6], ..Client::new(MAC, 1) };
        let mut stranger = Client { stage: Stage::Soliciting, ..stranger };
        assert!(stranger.answer(&told(&client, ADVERTISE, &[])).is_none());
        assert_eq!((kind(&client), kind(&stranger)), (Some(SOLICIT), Some(SOLICIT)));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(
            noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            cut in any::<prop::sample::Index>(), which in 0..3,
        ) {
            let mut client = Client::new(MAC, 1);
            client.stage = match which {
                0 => Stage::Soliciting,
                1 => Stage::Informing,
                _ => Stage::Requesting { server: vec![1], address: ADDRESS },
            };
            let mut frame = told(&client, if which == 0 { ADVERTISE } else { REPLY }, &[]);
            for (place, byte) in noise {
                let at = place.index(frame.len());
                frame[at] = byte;
            }
            frame.truncate(cut.index(frame.len() + 1));
            // As if its checksum held.
            vnet::finish_checksum(&mut frame);
            client.answer(&frame);
            client.question(FROM);
        }
    }
}
