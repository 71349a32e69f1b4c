//! Whether somebody has an address already: duplicate address detection (RFC 4862 section 5.4). No I/O, no clock.

use std::net::Ipv6Addr;
use std::time::Duration;

use netgraft_linux::link::vnet;
use netgraft_plugin::Instant;

use crate::lease::icmp_checksum;

/// How long an answer may take (RetransTimer, RFC 4861 section 10), after one question (DupAddrDetectTransmits, RFC 4862 section
/// 5.1).
const WAIT: Duration = Duration::from_secs(1);

/// Asks who has addresses that are to be used.
pub struct Detect {
    mac: [u8; 6],
    /// Those that nobody has, as far as is known, and until when an answer counts, once it has been asked.
    free: Vec<(Ipv6Addr, Option<Instant>)>,
    taken: Vec<Ipv6Addr>,
}

impl Detect {
    /// For these addresses of the station `mac`.
    #[must_use]
    pub fn new(mac: [u8; 6], addresses: Vec<Ipv6Addr>) -> Detect {
        let free = addresses.into_iter().map(|address| (address, None)).collect();
        Detect { mac, free, taken: Vec::new() }
    }

    /// Looks for one more.
    pub fn add(&mut self, address: Ipv6Addr) {
        self.free.push((address, None));
    }

    /// Asks for those that were not asked for, and answers whether to go on.
    pub fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) -> bool {
        self.free.retain_mut(|(address, until)| {
            let until = *until.get_or_insert_with(|| {
                send(&solicitation(self.mac, *address));
                now + WAIT
            });
            now < until
        });
        !self.free.is_empty()
    }

    /// When [`Detect::poll`] is to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.free.iter().map(|(_, until)| until.unwrap_or(Instant::ZERO)).min().unwrap_or(Instant::ZERO)
    }

    /// Takes a frame in.
    pub fn input(&mut self, frame: &[u8]) {
        let Some(target) = claimed(frame, self.mac) else { return };
        if let Some(place) = self.free.iter().position(|(address, _)| *address == target) {
            self.taken.push(self.free.swap_remove(place).0);
        }
    }

    /// Those that somebody else has or is about to have.
    #[must_use]
    pub fn taken(&self) -> &[Ipv6Addr] {
        &self.taken
    }
}

/// The address that a frame of somebody else's claims: an advertisement of a neighbour (RFC 4862 section 5.4.4), or a question from
/// the unspecified address, which is that of one who is about to use it (section 5.4.3).
fn claimed(frame: &[u8], mac: [u8; 6]) -> Option<Ipv6Addr> {
    let found = vnet::layout(frame).filter(|l| !l.v4 && l.protocol == 58 && frame.get(21) == Some(&255))?;
    let packet = frame.get(..found.end)?;
    // One's own question may come back.
    let is_others = packet.get(6..12)? != mac;
    let claims = match packet.get(54)? {
        136 => true,
        135 => packet.get(22..38)? == [0; 16],
        _ => false,
    };
    let target = Ipv6Addr::from(*packet.get(62..)?.first_chunk::<16>()?);
    (is_others && claims && icmp_checksum(packet) == 0).then_some(target)
}

/// The question for an address, from nobody, to all that may have it (RFC 4861 section 4.3).
fn solicitation(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let target = address.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&target[13..]);
    let mut frame = vec![0x33, 0x33];
    frame.extend_from_slice(&group[12..]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
    frame.extend_from_slice(&[0; 16]);
    frame.extend_from_slice(&group);
    frame.extend_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&target);
    let check = icmp_checksum(&frame);
    frame[56..58].copy_from_slice(&check.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 8];

    fn address(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
    }

    /// A question for an address, or the answer to it.
    fn message(kind: u8, from: Ipv6Addr, mac: [u8; 6], target: Ipv6Addr) -> Vec<u8> {
        let mut frame = solicitation(mac, target);
        frame[54] = kind;
        frame[22..38].copy_from_slice(&from.octets());
        frame[56..58].fill(0);
        let check = icmp_checksum(&frame);
        frame[56..58].copy_from_slice(&check.to_be_bytes());
        frame
    }

    fn asked(detect: &mut Detect, now: Instant) -> (bool, Vec<Vec<u8>>) {
        let mut frames = Vec::new();
        (detect.poll(now, &mut |frame| frames.push(frame.to_vec())), frames)
    }

    #[test]
    fn each_address_is_asked_for_once_and_answers_have_a_second() {
        let mut detect = Detect::new(OURS, vec![address(1), address(2)]);
        let (goes_on, frames) = asked(&mut detect, Instant::ZERO);
        assert!(goes_on && frames.len() == 2);
        for (frame, last) in frames.iter().zip([1, 2]) {
            assert_eq!((&frame[..6], &frame[6..12]), (&[0x33, 0x33, 0xff, 0, 0, last][..], &OURS[..]));
            assert_eq!(&frame[22..38], &[0; 16]);
            assert_eq!((icmp_checksum(frame), frame.len(), frame[77]), (0, 78, last));
        }
        assert_eq!(asked(&mut detect, Instant::from_millis(999)), (true, vec![]));
        assert_eq!(detect.next_deadline(), Instant::from_millis(1000));
        assert_eq!(asked(&mut detect, Instant::from_millis(1000)), (false, vec![]));
        assert!(detect.taken().is_empty());
    }

    #[test]
    fn one_that_is_added_has_a_second_of_its_own() {
        let mut detect = Detect::new(OURS, vec![address(1)]);
        assert!(asked(&mut detect, Instant::ZERO).0);
        detect.add(address(2));
        assert_eq!(detect.next_deadline(), Instant::ZERO);
        let (goes_on, frames) = asked(&mut detect, Instant::from_millis(600));
        assert!(goes_on && frames.len() == 1 && frames[0][77] == 2);
        assert_eq!(detect.next_deadline(), Instant::from_millis(1000));
        assert!(asked(&mut detect, Instant::from_millis(1599)).0);
        assert!(!asked(&mut detect, Instant::from_millis(1600)).0);
    }

    #[test]
    fn who_has_an_address_or_is_about_to_is_found() {
        for (kind, from) in [(136, address(1)), (135, Ipv6Addr::UNSPECIFIED)] {
            let mut detect = Detect::new(OURS, vec![address(1), address(2)]);
            assert!(asked(&mut detect, Instant::ZERO).0);
            detect.input(&message(kind, from, THEIRS, address(1)));
            assert_eq!(detect.taken(), [address(1)]);
            assert!(asked(&mut detect, Instant::ZERO).0, "the other one is waited for");
            detect.input(&message(kind, from, THEIRS, address(2)));
            assert!(!asked(&mut detect, Instant::ZERO).0);
            assert_eq!(detect.taken(), [address(1), address(2)]);
        }
    }

    #[test]
    fn what_is_no_claim_takes_nothing() {
        let own_question = message(135, Ipv6Addr::UNSPECIFIED, OURS, address(1));
        let mut damaged = message(136, address(1), THEIRS, address(1));
        damaged[60] ^= 1;
        let mut routed = message(136, address(1), THEIRS, address(1));
        routed[21] = 254;
        for frame in [
            own_question,
            damaged,
            routed,
            // Whoever looks for the address of a neighbour.
            message(135, address(9), THEIRS, address(1)),
            message(136, address(9), THEIRS, address(9)),
            message(134, address(9), THEIRS, address(1)),
            message(136, address(1), THEIRS, address(1))[..70].to_vec(),
            Vec::new(),
        ] {
            let mut detect = Detect::new(OURS, vec![address(1)]);
            assert!(asked(&mut detect, Instant::ZERO).0);
            detect.input(&frame);
            assert!(detect.taken().is_empty());
        }
    }
}
