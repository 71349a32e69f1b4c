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
    /// Those that nobody has, as far as is known.
    free: Vec<Ipv6Addr>,
    taken: Vec<Ipv6Addr>,
    /// Until when an answer counts, once it has been asked.
    until: Option<Instant>,
}

impl Detect {
    /// For these addresses of the station `mac`.
    #[must_use]
    pub fn new(mac: [u8; 6], addresses: Vec<Ipv6Addr>) -> Detect {
        Detect { mac, free: addresses, taken: Vec::new(), until: None }
    }

    /// Asks at first, and answers whether to go on.
    pub fn poll(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) -> bool {
        if self.until.is_none() {
            self.free.iter().for_each(|address| send(&solicitation(self.mac, *address)));
        }
        let until = *self.until.get_or_insert(now + WAIT);
        now < until && !self.free.is_empty()
    }

    /// When [`Detect::poll`] is to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.until.unwrap_or(Instant::ZERO)
    }

    /// Takes a frame in.
    pub fn input(&mut self, frame: &[u8]) {
        let Some(target) = claimed(frame, self.mac) else { return };
        if let Some(place) = self.free.iter().position(|address| *address == target) {
            self.taken.push(self.free.swap_remove(place));
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
