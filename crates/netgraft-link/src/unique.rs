//! A link whose addresses of IPv6 are looked for: each is used at once, as an optimistic one (RFC 4429 section 3.3), while
//! others are asked whether it is theirs (RFC 4862 section 5.4). One that is another station's is used no more.
//!
//! A stack chooses addresses for itself as well, link-local ones: those are asked for when it first sends from them.

use std::net::{IpAddr, Ipv6Addr};

use netgraft_plugin::link::{FrameMeta, Link, Medium};
use netgraft_plugin::{Instant, Result};

use crate::dad::Detect;

/// How many addresses of a stack's own are looked for.
const MOST: usize = 16;

/// Such a link.
pub(crate) struct Unique<L> {
    link: L,
    detect: Detect,
    /// Whether an answer counts still.
    looks: bool,
    /// What was asked for, by whomever.
    known: Vec<Ipv6Addr>,
    /// Those of others.
    barred: Vec<Ipv6Addr>,
    /// How many of them the stack has been told.
    told: usize,
}

impl<L: Link> Unique<L> {
    /// Wraps a link with Ethernet headers, on which these addresses are to be asked for; others have been.
    pub(crate) fn new(link: L, asked: Vec<Ipv6Addr>, others: &[Ipv6Addr]) -> Unique<L> {
        let mac = match link.medium() {
            Medium::Ethernet(mac) => mac,
            Medium::Ip => [0; 6],
        };
        let known = asked.iter().chain(others).copied().collect();
        Unique {
            link,
            looks: !asked.is_empty(),
            detect: Detect::new(mac, asked),
            known,
            barred: Vec::new(),
            told: 0,
        }
    }

    /// Asks for what was not asked for.
    fn ask(&mut self, now: Instant) -> Result<()> {
        let Unique { link, detect, looks, .. } = self;
        let mut asked = false;
        *looks = detect.poll(now, &mut |frame| {
            // What the link has no room for is lost, as it may be on the wire.
            asked |= link.send(now, frame, FrameMeta::default()).is_ok();
        });
        if asked { link.flush(now) } else { Ok(()) }
    }
}

/// An address of an IPv6 packet in a frame, which begins there.
fn address(frame: &[u8], at: usize) -> Option<Ipv6Addr> {
    if frame.get(12..14)? != [0x86, 0xdd] {
        return None;
    }
    frame.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

fn source(frame: &[u8]) -> Option<Ipv6Addr> {
    address(frame, 22)
}

fn destination(frame: &[u8]) -> Option<Ipv6Addr> {
    address(frame, 38)
}

impl<L: Link> Link for Unique<L> {
    as_the_link_within!();

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        if !self.looks && self.barred.is_empty() {
            return self.link.receive(now, limit, deliver);
        }
        if self.looks {
            self.ask(now)?;
        }
        let Unique { link, detect, barred, .. } = self;
        link.receive(now, limit, &mut |frame| {
            detect.input(frame);
            for taken in detect.taken().get(barred.len()..).unwrap_or_default() {
                barred.push(*taken);
                tracing::warn!(
                    "the address {taken} is another station's already, and is not used (duplicate address)"
                );
            }
            if destination(frame).is_none_or(|to| !barred.contains(&to)) {
                deliver(frame);
            }
        })
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        let Some(from) = source(frame) else { return self.link.send(now, frame, meta) };
        if self.barred.contains(&from) {
            return Ok(());
        }
        if from.is_unicast_link_local() && !self.known.contains(&from) && self.known.len() < MOST {
            self.known.push(from);
            self.detect.add(from);
            self.looks = true;
        }
        self.link.send(now, frame, meta)
    }

    fn withdrawn(&mut self) -> Option<IpAddr> {
        let address = *self.barred.get(self.told)?;
        self.told += 1;
        Some(address.into())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let asks = self.looks.then(|| self.detect.next_deadline());
        [asks, self.link.next_deadline()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    const NOW: Instant = Instant::from_millis(5);
    const LATER: Instant = Instant::from_millis(1005);

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn packet(from: &str, to: &str) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        frame[22..38].copy_from_slice(&ip(from).octets());
        frame[38..54].copy_from_slice(&ip(to).octets());
        frame
    }

    fn frames(link: &mut impl Link, now: Instant) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        link.receive(now, 100, &mut |frame| seen.push(frame.to_vec())).unwrap();
        seen
    }

    /// What comes out at the other end of what a stack sends: sources and destinations, or the address that is asked for.
    fn sent(link: &mut impl Link, other: &mut impl Link, packets: &[Vec<u8>]) -> Vec<String> {
        for packet in packets {
            link.send(NOW, packet, FrameMeta::default()).unwrap();
        }
        link.flush(NOW).unwrap();
        let shown = |frame: &Vec<u8>| match frame.get(62..78) {
            Some(target) => format!("{}?", Ipv6Addr::from(<[u8; 16]>::try_from(target).unwrap())),
            None => format!("{} > {}", source(frame).unwrap(), destination(frame).unwrap()),
        };
        frames(other, NOW).iter().map(shown).collect()
    }

    #[test]
    fn an_address_is_used_at_once_and_no_more_when_it_is_anothers() {
        let (a, mut b) = wire::pair(1500);
        let mut a = Unique::new(a, vec![ip("2001:db8::2"), ip("2001:db8::3")], &[]);
        assert_eq!(a.next_deadline(), Some(Instant::ZERO));
        let both = [packet("2001:db8::2", "2001:db8::1"), packet("2001:db8::3", "2001:db8::1")];
        assert!(frames(&mut a, NOW).is_empty());
        assert_eq!(
            sent(&mut a, &mut b, &both),
            ["2001:db8::2?", "2001:db8::3?", "2001:db8::2 > 2001:db8::1", "2001:db8::3 > 2001:db8::1"]
        );
        assert_eq!(a.next_deadline(), Some(LATER));
        // Another station begins to use one.
        let (other, mut theirs) = wire::pair(1500);
        let mut other_unique = Unique::new(other, vec![ip("2001:db8::2")], &[]);
        assert!(frames(&mut other_unique, NOW).is_empty());
        let mut question = frames(&mut theirs, NOW).remove(0);
        question[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
        b.send(NOW, &question, FrameMeta::default()).unwrap();
        b.send(NOW, &packet("2001:db8::1", "2001:db8::2"), FrameMeta::default()).unwrap();
        b.send(NOW, &packet("2001:db8::1", "2001:db8::3"), FrameMeta::default()).unwrap();
        b.flush(NOW).unwrap();
        assert_eq!(a.withdrawn(), None);
        assert_eq!(frames(&mut a, NOW), [question.clone(), packet("2001:db8::1", "2001:db8::3")]);
        assert_eq!((a.withdrawn(), a.withdrawn()), (Some(ip("2001:db8::2").into()), None));
        assert_eq!(sent(&mut a, &mut b, &both), ["2001:db8::3 > 2001:db8::1"]);
        // Who begins later is not believed: it is answered by the stack.
        assert!(frames(&mut a, LATER).is_empty());
        question[77] = 3;
        b.send(NOW, &question, FrameMeta::default()).unwrap();
        b.flush(NOW).unwrap();
        assert_eq!(frames(&mut a, LATER).len(), 1);
        assert_eq!(sent(&mut a, &mut b, &both), ["2001:db8::3 > 2001:db8::1"]);
        assert_eq!(a.next_deadline(), None);
    }

    #[test]
    fn link_local_addresses_of_the_stacks_own_are_asked_for_when_they_are_used() {
        let (a, mut b) = wire::pair(1500);
        let mut a = Unique::new(a, Vec::new(), &[ip("fe80::1")]);
        assert_eq!(a.next_deadline(), None);
        let local = [packet("fe80::1", "ff02::2"), packet("fe80::2", "ff02::2"), packet("::", "ff02::2")];
        assert_eq!(sent(&mut a, &mut b, &local).len(), 3);
        assert_eq!(a.next_deadline(), Some(Instant::ZERO));
        assert!(frames(&mut a, NOW).is_empty());
        assert_eq!(sent(&mut a, &mut b, &[]), ["fe80::2?"]);
        assert_eq!(sent(&mut a, &mut b, &local).len(), 3);
        assert!(frames(&mut a, LATER).is_empty());
        assert_eq!(a.next_deadline(), None);
        // One that makes up new ones for ever is not followed.
        let many: Vec<_> = (0..100).map(|n| packet(&format!("fe80::1:{n}"), "ff02::2")).collect();
        sent(&mut a, &mut b, &many);
        assert_eq!(a.known.len(), MOST);
    }
}
