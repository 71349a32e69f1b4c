//! SYN cookies: a listener answers without remembering anything, and reads what it needs from the acknowledgement that
//! comes back. Read RFC 4987 sections 3.6 and 4, and RFC 7323 appendix A for what timestamps carry, first.
//!
//! The initial sequence number has, from the top: five bits of the time in units of 64 seconds, three bits for the peer's
//! largest segment, and 24 bits of a keyed hash. If the peer has timestamps, the lowest six bits of ours hold what else it
//! offered, and come back as the echo.

use std::time::Duration;

use crate::buffer::Pool;
use crate::config::{Config, Ecn};
use crate::connection::{Arrival, Connection};
use crate::handshake::Handshake;
use crate::options::Options;
use crate::segment::{Flags, Header, Segment};
use crate::seq::FIRST;
use crate::time::Instant;

/// A unit of the cookie's time, and how many of them it holds.
const UNIT: Duration = Duration::from_secs(64);
const UNITS: u32 = 2;
/// The largest segments that three bits tell; a peer's is rounded down ("the loss of [...] precision", RFC 4987).
const SIZES: [u16; 8] = [536, 1220, 1300, 1400, 1440, 1460, 4312, 8960];
/// In the timestamp: four bits of the window's shift (15 for no scaling), one for SACK and one for ECN.
const STAMP_BITS: u32 = 6;

fn unit(now: Instant) -> u32 {
    (now.nanos() / UNIT.as_nanos() as u64) as u32
}

/// Stateless answers of a listener. `hash` must be keyed with a secret, and take in the addresses and ports of the
/// segment besides the two numbers that it is given.
pub struct Cookies<H> {
    hash: H,
}

impl<H: Fn(u32, u32) -> u32> Cookies<H> {
    /// Answers by a hash.
    pub fn new(hash: H) -> Self {
        Cookies { hash }
    }

    fn number(&self, unit: u32, size: u32, peer: u32) -> u32 {
        let hash = (self.hash)(unit << 3 | size, peer) & 0xff_ffff;
        (unit & 31) << 27 | size << 24 | hash
    }

    /// The answer to a SYN. `None` if the segment is none.
    #[must_use]
    pub fn answer(&self, config: &Config, syn: &Segment<'_>, now: Instant) -> Option<Header> {
        let flags = syn.header.flags;
        if !flags.has(Flags::SYN) || flags.any(Flags::ACK | Flags::RST | Flags::FIN) {
            return None;
        }
        let offered = &syn.header.options;
        let mss = offered.mss.unwrap_or(SIZES[0]);
        let size = SIZES.iter().rposition(|size| *size <= mss).unwrap_or(0) as u32;
        let seq = self.number(unit(now), size, syn.header.seq);
        let handshake = Handshake::new(config, true, now);
        let mut options = handshake.options();
        let mut flags = Flags::SYN | Flags::ACK;
        match offered.timestamps.filter(|_| config.timestamps) {
            Some((value, _)) => {
                options.sack_permitted &= offered.sack_permitted;
                options.window_scale = options.window_scale.filter(|_| offered.window_scale.is_some());
                let shift = offered.window_scale.filter(|_| options.window_scale.is_some()).unwrap_or(15);
                let ecn = config.ecn != Ecn::Off && syn.header.flags.has(Flags::ECE | Flags::CWR);
                if ecn {
                    flags |= Flags::ECE;
                }
                let bits = u32::from(shift) | u32::from(options.sack_permitted) << 4 | u32::from(ecn) << 5;
                let stamp = (now.millis() as u32).wrapping_add(config.timestamp_offset);
                options.timestamps = Some((with_bits(stamp, bits), value));
            }
            // Nothing can be remembered: the connection does without.
            None => {
                options.sack_permitted = false;
                options.window_scale = None;
            }
        }
        Some(Header {
            seq,
            ack: syn.header.seq.wrapping_add(1),
            flags,
            window: u16::try_from((config.receive.initial as u64).min(config.settings.largest_window()))
                .unwrap_or(u16::MAX),
            urgent: 0,
            options,
        })
    }

    /// Takes up the connection that an acknowledgement completes, and gives it the segment. `None` if it acknowledges no
    /// cookie, or one that is too old.
    pub fn accept(
        &self,
        config: &Config,
        segment: &Segment<'_>,
        now: Instant,
        pool: &mut Pool,
    ) -> Option<(Connection, Arrival)> {
        let header = &segment.header;
        if !header.flags.has(Flags::ACK) || header.flags.any(Flags::SYN | Flags::RST) {
            return None;
        }
        let (cookie, peer) = (header.ack.wrapping_sub(1), header.seq.wrapping_sub(1));
        let size = cookie >> 24 & 7;
        let current = unit(now);
        let valid = |age: u32| self.number(current.wrapping_sub(age), size, peer) == cookie;
        if !(0..UNITS).any(valid) {
            return None;
        }
        let mut options = Options { mss: SIZES.get(size as usize).copied(), ..Options::default() };
        let mut flags = Flags::SYN;
        if let Some((value, echo)) = header.options.timestamps {
            let shift = (echo & 15) as u8;
            options.timestamps = Some((value, 0));
            options.window_scale = (shift < 15).then_some(shift);
            options.sack_permitted = echo & 1 << 4 != 0;
            if echo & 1 << 5 != 0 {
                flags |= Flags::ECE | Flags::CWR;
            }
        }
        let syn = Segment {
            ports: segment.ports,
            header: Header { seq: peer, flags, options, ..Header::default() },
            payload: &[],
            marked: false,
        };
        let mut connection = Connection::accept(config, cookie, &syn, now)?;
        // Its answer has left, some time ago.
        connection.handshake.wanted = false;
        connection.sender.next = FIRST + 1;
        let arrival = connection.input(segment, now, pool);
        Some((connection, arrival))
    }
}

/// A timestamp with these lowest bits, not above `stamp`: what follows must not seem older.
fn with_bits(stamp: u32, bits: u32) -> u32 {
    let mask = (1 << STAMP_BITS) - 1;
    let with = stamp & !mask | bits & mask;
    if (with.wrapping_sub(stamp) as i32) > 0 { with.wrapping_sub(1 << STAMP_BITS) } else { with }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::State;

    fn cookies() -> Cookies<impl Fn(u32, u32) -> u32> {
        Cookies::new(|a, b| (a.wrapping_mul(0x9e37_79b9) ^ b).wrapping_mul(0x85eb_ca6b))
    }

    #[test]
    fn a_connection_comes_out_of_nothing_with_all_its_offers() {
        let (config, mut pool) = (Config::default(), Pool::new(0));
        for timestamps in [true, false] {
            let now = Instant::from_millis(10_000);
            let mut client = Connection::connect(&Config { timestamps, ..config }, 77, now);
            let syn = Segment { ports: (1, 2), header: client.syn(now), payload: &[], marked: false };
            let answer = cookies().answer(&config, &syn, now).unwrap();
            let answer = Segment { ports: (2, 1), header: answer, payload: &[], marked: false };
            client.input(&answer, now, &mut pool);
            assert_eq!(client.state(), State::Established);
            let ack = client.transmit(now).unwrap().header;
            let ack = Segment { ports: (1, 2), header: ack, payload: b"hello", marked: false };
            let later = Instant::from_millis(60_000);
            let (server, arrival) = cookies().accept(&config, &ack, later, &mut pool).unwrap();
            assert_eq!((server.state(), arrival.received), (State::Established, 5));
            let (client, server) = (client.info(), server.info());
            assert_eq!((server.sack, server.timestamps), (timestamps, timestamps));
            assert_eq!(server.scales, if timestamps { (7, 7) } else { (0, 0) });
            assert_eq!((client.sack, client.scales), (timestamps, server.scales));
            assert_eq!((server.mss.0, server.rtt), (if timestamps { 1448 } else { 1460 }, Duration::ZERO));
            // Two minutes later it is worth nothing, nor is another number.
            let late = now + UNIT * 2;
            assert!(cookies().accept(&config, &ack, late, &mut pool).is_none());
            let header = Header { ack: ack.header.ack.wrapping_add(1), ..ack.header };
            assert!(cookies().accept(&config, &Segment { header, ..ack }, now, &mut pool).is_none());
        }
    }

    #[test]
    fn timestamps_never_run_ahead() {
        for stamp in [0, 1, 63, 64, 1000, u32::MAX] {
            for bits in [0, 1, 31, 63] {
                let with = with_bits(stamp, bits);
                assert_eq!(with & 63, bits);
                assert!(stamp.wrapping_sub(with) < 128, "{stamp} {bits}");
            }
        }
    }
}
