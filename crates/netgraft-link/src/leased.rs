//! A link whose addresses are the stack's for a time: asks for them again before that is over (RFC 2131 section 4.4.5, RFC
//! 4862 section 5.5.3, RFC 8415 section 18.2.4), and lets nothing of an address pass that has ended.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netgraft_plugin::config::{Giver, Term};
use netgraft_plugin::link::{FrameMeta, Link, Medium};
use netgraft_plugin::{Instant, Result};

use crate::dhcp6;
use crate::lease::{self, Ask, DhcpOptions};

/// "wait one-half of the remaining time [...] down to a minimum of 60 seconds, before retransmitting" (RFC 2131).
const LEAST: Duration = Duration::from_secs(60);

/// Addresses of one giver, and when to ask for them.
struct Held {
    term: Term,
    next: Instant,
    client: Option<dhcp6::Client>,
    /// Whether their time is over.
    over: bool,
}

impl Held {
    fn new(term: Term, mac: [u8; 6]) -> Held {
        let client = match &term.giver {
            Giver::Dhcp6 { server } => {
                Some(dhcp6::Client::with_lease(mac, transaction(&term, mac), server.clone()))
            }
            Giver::Dhcp { .. } | Giver::Router => None,
        };
        Held { next: term.given + term.renew, term, client, over: false }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.term.given + self.term.ends
    }

    /// The question that is due.
    fn question(&mut self, mac: [u8; 6], now: Instant) -> Option<Vec<u8>> {
        let Term { addresses, giver, given, rebind, .. } = &self.term;
        match (giver, addresses.first()?) {
            (Giver::Dhcp { server, station }, IpAddr::V4(address)) => {
                let ask = if self.is_over(now) {
                    Ask::Former { address: *address }
                } else {
                    let of = (now < *given + *rebind).then_some((*server, *station));
                    Ask::Again { address: *address, of }
                };
                Some(lease::question(mac, transaction(&self.term, mac).to_be_bytes(), &ask))
            }
            (Giver::Router, _) => Some(lease::solicitation(mac, lease::link_local(mac))),
            (Giver::Dhcp6 { .. }, IpAddr::V6(address)) => {
                let client = self.client.as_mut()?;
                client.renew(*address);
                client.question(lease::link_local(mac))
            }
            _ => None,
        }
    }

    /// When to ask again, having asked now.
    fn after(&self, now: Instant) -> Instant {
        let Term { given, rebind, ends, .. } = &self.term;
        let bound = [*given + *rebind, *given + *ends].into_iter().find(|at| *at > now);
        bound.map_or(now + LEAST, |bound| (now + (bound.since(now) / 2).max(LEAST)).min(bound))
    }

    /// Takes a frame in: what it says of these addresses, and whether it was for nobody else.
    fn answer(&self, frame: &[u8], mac: [u8; 6], now: Instant) -> Option<(News, bool)> {
        match &self.term.giver {
            Giver::Dhcp { server, .. } => {
                let transaction = transaction(&self.term, mac).to_be_bytes();
                let (options, address) = DhcpOptions::of_answer(frame, mac, transaction)?;
                let own = self.term.addresses.first().copied()?;
                let station = *frame.get(6..)?.first_chunk()?;
                let news = match *options.find(53)?.first()? {
                    lease::ACK if own == IpAddr::V4(address) => {
                        let giver = Giver::Dhcp { server: *server, station };
                        News::Until(lease::v4_term(&options, address, giver, now))
                    }
                    lease::ACK | lease::NAK => News::Over,
                    _ => return None,
                };
                Some((news, true))
            }
            Giver::Router => {
                let (_, message) = lease::advertisement(frame)?;
                let mut news = None;
                lease::router_options(message, &mut |kind, option| {
                    let Some((bits, valid)) = (kind == 3).then(|| lease::prefix(option)).flatten() else {
                        return;
                    };
                    let address = Ipv6Addr::from_bits(bits | u128::from(lease::identifier(mac)));
                    if self.term.addresses.contains(&address.into()) {
                        news =
                            Some(News::Until(lease::v6_term(address, Giver::Router, now, valid / 2, valid)));
                    }
                });
                news.map(|news| (news, false))
            }
            Giver::Dhcp6 { .. } => None,
        }
    }

    fn answer6(&mut self, frame: &[u8], now: Instant) -> Option<(News, bool)> {
        let given = self.client.as_mut()?.answer(frame)?;
        let address = given.address?;
        if !self.term.addresses.contains(&address.into()) {
            return Some((News::Over, true));
        }
        let term = lease::v6_term(address, self.term.giver.clone(), now, given.renew, given.valid);
        Some((News::Until(term), true))
    }
}

/// What was said of addresses.
enum News {
    /// They are the stack's for this time; `None` for ever.
    Until(Option<Term>),
    /// They are not the stack's any more.
    Over,
}

/// A transaction's number: of the client and the lease.
fn transaction(term: &Term, mac: [u8; 6]) -> u32 {
    let bytes = mac.into_iter().chain(term.given.nanos().to_be_bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A link with such addresses.
pub(crate) struct Leased<L> {
    link: L,
    mac: [u8; 6],
    held: Vec<Held>,
    /// Whether one is over.
    over: bool,
}

impl<L: Link> Leased<L> {
    /// Wraps a link with Ethernet headers.
    pub(crate) fn new(link: L, terms: &[Term]) -> Leased<L> {
        let mac = match link.medium() {
            Medium::Ethernet(mac) => mac,
            Medium::Ip => [0; 6],
        };
        let held = terms.iter().map(|term| Held::new(term.clone(), mac)).collect();
        Leased { link, mac, held, over: false }
    }

    /// Asks for what is due.
    fn ask(&mut self, now: Instant) -> Result<()> {
        let Leased { link, mac, held, over } = self;
        let mut asked = false;
        for held in held.iter_mut() {
            if !held.over && held.is_over(now) {
                (held.over, *over) = (true, true);
                tracing::warn!(
                    "the address {} was not given again and is not used any more",
                    shown(&held.term)
                );
            }
            if now >= held.next {
                if let Some(frame) = held.question(*mac, now) {
                    // What the link has no room for is asked the next time.
                    let _ = link.send(now, &frame, FrameMeta::default());
                    asked = true;
                }
                held.next = held.after(now);
            }
        }
        if asked { link.flush(now) } else { Ok(()) }
    }

    fn next(&self) -> Option<Instant> {
        self.held
            .iter()
            .flat_map(|held| [Some(held.next), (!held.over).then(|| held.term.given + held.term.ends)])
            .flatten()
            .min()
    }
}

fn shown(term: &Term) -> String {
    term.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// Takes a frame in: whether the stack is to have it.
fn take(held: &mut [Held], frame: &[u8], mac: [u8; 6], now: Instant) -> bool {
    let mut wanted = true;
    for held in held {
        let Some((news, ours)) = held.answer(frame, mac, now).or_else(|| held.answer6(frame, now)) else {
            continue;
        };
        wanted &= !ours;
        match news {
            News::Until(term) => {
                let ends = term.as_ref().map_or(Duration::MAX, |term| term.ends);
                let (giver, addresses) = (held.term.giver.clone(), held.term.addresses.clone());
                held.term =
                    term.unwrap_or(Term { addresses, giver, given: now, renew: ends, rebind: ends, ends });
                held.next = now + held.term.renew;
                held.over = false;
            }
            News::Over => {
                held.term.ends = now.since(held.term.given);
                held.next = now + LEAST;
            }
        }
    }
    wanted
}

/// Whether a frame is of an address that is over.
fn is_barred(held: &[Held], frame: &[u8], out: bool) -> bool {
    let v4 = |at: usize| {
        frame.get(at..).and_then(|f| f.first_chunk::<4>()).map(|f| IpAddr::V4(Ipv4Addr::from(*f)))
    };
    let v6 = |at: usize| {
        frame.get(at..).and_then(|f| f.first_chunk::<16>()).map(|f| IpAddr::V6(Ipv6Addr::from(*f)))
    };
    let own = match frame.get(12..14) {
        Some([0x08, 0x00]) => v4(if out { 26 } else { 30 }),
        // A question for it, or an answer (RFC 826).
        Some([0x08, 0x06]) => v4(if out { 28 } else { 38 }),
        Some([0x86, 0xdd]) => v6(if out { 22 } else { 38 }),
        _ => None,
    };
    own.is_some_and(|own| held.iter().any(|held| held.over && held.term.addresses.contains(&own)))
}

impl<L: Link> Link for Leased<L> {
    as_the_link_within!();

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        if self.next().is_some_and(|next| next <= now) {
            self.ask(now)?;
        }
        let Leased { link, mac, held, over } = self;
        let got = link.receive(now, limit, &mut |frame| {
            if take(held, frame, *mac, now) && !(*over && is_barred(held, frame, false)) {
                deliver(frame);
            }
        });
        if *over {
            *over = held.iter().any(|held| held.over);
        }
        got
    }

    fn send(&mut self, now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        if self.over && is_barred(&self.held, frame, true) {
            Ok(())
        } else {
            self.link.send(now, frame, meta)
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.next(), self.link.next_deadline()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use netgraft_linux::link::vnet;

    use super::*;
    use crate::wire;

    const SERVER: [u8; 6] = [2, 9, 9, 9, 9, 9];

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn at(count: u64) -> Instant {
        Instant::ZERO + seconds(count)
    }

    /// A lease of 1000 s at the second 0.
    fn term(giver: Giver, address: &str) -> Term {
        Term {
            addresses: vec![address.parse().unwrap()],
            giver,
            given: Instant::ZERO,
            renew: seconds(500),
            rebind: seconds(875),
            ends: seconds(1000),
        }
    }

    fn dhcp() -> Term {
        term(Giver::Dhcp { server: [192, 0, 2, 1].into(), station: SERVER }, "192.0.2.7")
    }

    fn frames(link: &mut impl Link, now: Instant) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        link.receive(now, 64, &mut |frame| seen.push(frame.to_vec())).unwrap();
        seen
    }

    /// A server's answer to the question.
    fn answer(question: &[u8], kind: u8) -> Vec<u8> {
        let mut frame = question[..14 + 28 + 240].to_vec();
        frame.copy_within(6..12, 0);
        frame[6..12].copy_from_slice(&SERVER);
        frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
        frame[42] = 2;
        frame[14 + 28 + 16..14 + 28 + 20].copy_from_slice(&[192, 0, 2, 7]);
        frame.extend_from_slice(&[53, 1, kind, 51, 4, 0, 0, 3, 232, 255]);
        let len = frame.len();
        frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
        frame[38..40].copy_from_slice(&((len - 34) as u16).to_be_bytes());
        vnet::finish_header(&mut frame[14..34]);
        frame
    }

    fn ipv4(own: [u8; 4], out: bool) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        let place = if out { 26 } else { 30 };
        frame[place..place + 4].copy_from_slice(&own);
        frame
    }

    #[test]
    fn a_lease_is_renewed_in_time_and_the_stack_hears_nothing_of_it() {
        let (ours, mut server) = wire::pair(1500);
        let mut link = Leased::new(ours, &[dhcp()]);
        assert_eq!(link.next_deadline(), Some(at(500)));
        assert!(frames(&mut link, at(499)).is_empty() && frames(&mut server, at(499)).is_empty());
        assert!(frames(&mut link, at(500)).is_empty());
        let questions = frames(&mut server, at(500));
        assert_eq!((questions.len(), &questions[0][..6]), (1, &SERVER[..]));
        // From its address, to the server; with the address where clients have theirs.
        assert_eq!(
            (&questions[0][26..30], &questions[0][30..34]),
            (&[192, 0, 2, 7][..], &[192, 0, 2, 1][..])
        );
        assert_eq!(questions[0][42 + 12..42 + 16], [192, 0, 2, 7]);
        server.send(at(501), &answer(&questions[0], lease::ACK), FrameMeta::default()).unwrap();
        assert!(frames(&mut link, at(501)).is_empty());
        // A lease of 1000 s again.
        assert_eq!(link.next_deadline(), Some(at(501 + 500)));
    }

    #[test]
    fn without_an_answer_any_server_is_asked_and_then_the_address_is_over() {
        let (ours, mut server) = wire::pair(1500);
        let mut link = Leased::new(ours, &[dhcp()]);
        let mut asked = Vec::new();
        while let Some(next) = link.next_deadline().filter(|next| *next <= at(1000)) {
            frames(&mut link, next);
            for frame in frames(&mut server, next) {
                asked.push((next.since(Instant::ZERO).as_secs(), frame[0] == 0xff));
            }
        }
        // Half of what is left until 875, then until 1000, but for 60 s at least.
        assert_eq!(
            asked,
            [
                (500, false),
                (687, false),
                (781, false),
                (841, false),
                (875, true),
                (937, true),
                (997, true),
                (1000, true)
            ]
        );
        // Nothing of that address passes any more, and other things do.
        link.send(at(1001), &ipv4([192, 0, 2, 7], true), FrameMeta::default()).unwrap();
        link.send(at(1001), &ipv4([192, 0, 2, 8], true), FrameMeta::default()).unwrap();
        server.send(at(1001), &ipv4([192, 0, 2, 7], false), FrameMeta::default()).unwrap();
        server.send(at(1001), &ipv4([192, 0, 2, 8], false), FrameMeta::default()).unwrap();
        assert_eq!(frames(&mut server, at(1001)), [ipv4([192, 0, 2, 8], true)]);
        assert_eq!(frames(&mut link, at(1001)), [ipv4([192, 0, 2, 8], false)]);
        // It is given back.
        frames(&mut link, at(1061));
        let question = frames(&mut server, at(1061)).remove(0);
        server.send(at(1061), &answer(&question, lease::ACK), FrameMeta::default()).unwrap();
        frames(&mut link, at(1061));
        link.send(at(1062), &ipv4([192, 0, 2, 7], true), FrameMeta::default()).unwrap();
        assert_eq!(frames(&mut server, at(1062)), [ipv4([192, 0, 2, 7], true)]);
    }

    #[test]
    fn a_refusal_ends_the_address_at_once() {
        let (ours, mut server) = wire::pair(1500);
        let mut link = Leased::new(ours, &[dhcp()]);
        frames(&mut link, at(500));
        let question = frames(&mut server, at(500)).remove(0);
        server.send(at(500), &answer(&question, lease::NAK), FrameMeta::default()).unwrap();
        frames(&mut link, at(500));
        frames(&mut link, at(501));
        link.send(at(501), &ipv4([192, 0, 2, 7], true), FrameMeta::default()).unwrap();
        assert!(frames(&mut server, at(501)).is_empty());
    }

    #[test]
    fn routers_and_dhcpv6_servers_are_asked_in_their_own_way() {
        let (ours, mut server) = wire::pair(1500);
        let given = Giver::Dhcp6 { server: vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9] };
        let terms = [term(Giver::Router, "2001:db8::7"), term(given, "2001:db8::8")];
        let mut link = Leased::new(ours, &terms);
        frames(&mut link, at(500));
        let asked = frames(&mut server, at(500));
        let solicits = asked.iter().filter(|frame| frame[20] == 58 && frame[54] == 133).count();
        let renews = asked.iter().filter(|frame| frame[20] == 17 && frame[62] == 5).count();
        assert_eq!((asked.len(), solicits, renews), (2, 1, 1));
    }
}
