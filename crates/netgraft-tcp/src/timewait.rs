//! TIME-WAIT: what is left of a connection, and what its last segments mean. Read RFC 9293 section 3.6.1, RFC 6191 and RFC
//! 1337 first.

use std::time::Duration;

use crate::connection::{Connection, State};
use crate::options::Options;
use crate::segment::{Flags, Header, Segment};
use crate::time::Instant;

/// How long it lasts (2 MSL; `TCP_TIMEWAIT_LEN` of Linux).
pub const TIME_WAIT: Duration = Duration::from_secs(60);

/// A connection in TIME-WAIT: a few numbers, without buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWait {
    /// The next sequence numbers: ours, and the peer's.
    pub next: (u32, u32),
    /// The peer's last timestamp, and when it came; our clock's offset.
    stamps: Option<(u32, Instant, u32)>,
    /// The window that was offered last, and its shift.
    window: u16,
}

/// What a segment for one of them means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing.
    Ignore,
    /// It is answered with [`TimeWait::acknowledgement`]; the wait begins anew.
    Acknowledge,
    /// It begins a new connection, if somebody listens (RFC 6191).
    Begin,
    /// It ends the wait: the peer knows nothing of the connection.
    End,
}

impl Connection {
    /// What is left in state TIME-WAIT.
    #[must_use]
    pub fn time_wait(&self) -> Option<TimeWait> {
        (self.state == State::TimeWait).then(|| TimeWait {
            next: (
                self.sender.numbers.wire(self.sender.next),
                self.receiver.numbers.wire(self.receiver.next),
            ),
            stamps: self.stamps.map(|stamps| (stamps.recent, stamps.recent_at, self.stamp_offset)),
            window: (self.receiver.edge.saturating_sub(self.receiver.next) >> self.receiver.shift)
                .min(u64::from(u16::MAX)) as u16,
        })
    }
}

impl TimeWait {
    /// What a segment means. `local` says that nothing old can be underway, as both ends are on one machine.
    #[must_use]
    pub fn meaning(&self, segment: &Segment<'_>, local: bool) -> Meaning {
        let header = &segment.header;
        let ahead = header.seq.wrapping_sub(self.next.1) as i32;
        if header.flags.has(Flags::RST) {
            // An exact reset answers our acknowledgement of a SYN that seemed old: the next SYN must find the addresses
            // free. As on Linux with `tcp_rfc1337` of 0, against RFC 1337.
            return if ahead == 0 { Meaning::End } else { Meaning::Ignore };
        }
        let stamp = match (self.stamps, header.options.timestamps) {
            (Some((recent, _, _)), Some((value, _))) => Some(value.wrapping_sub(recent) as i32),
            _ => None,
        };
        if header.flags.has(Flags::SYN) && !header.flags.has(Flags::ACK) {
            // RFC 6191 section 2: a greater timestamp, or the same or none and a greater sequence number.
            let newer = match stamp {
                Some(difference) if difference != 0 => difference > 0 || ahead > 0,
                _ => ahead > 0,
            };
            return if newer || local { Meaning::Begin } else { Meaning::Acknowledge };
        }
        if segment.is_empty() && ahead == 0 { Meaning::Ignore } else { Meaning::Acknowledge }
    }

    /// The acknowledgement that answers a segment (RFC 9293 section 3.10.7.4: "retransmission of the remote FIN").
    #[must_use]
    pub fn acknowledgement(&self, now: Instant) -> Header {
        let timestamps =
            self.stamps.map(|(recent, _, offset)| ((now.millis() as u32).wrapping_add(offset), recent));
        Header {
            seq: self.next.0,
            ack: self.next.1,
            flags: Flags::ACK,
            window: self.window,
            urgent: 0,
            options: Options { timestamps, ..Options::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(seq: u32, stamp: Option<u32>) -> Segment<'static> {
        let options = Options { timestamps: stamp.map(|s| (s, 0)), ..Options::default() };
        let header = Header { seq, flags: Flags::SYN, options, ..Header::default() };
        Segment { ports: (1, 2), header, payload: &[], marked: false }
    }

    #[test]
    fn a_new_connection_begins_as_rfc_6191_says() {
        let waits = TimeWait { next: (1, 1000), stamps: Some((50, Instant::ZERO, 0)), window: 9 };
        for (seq, stamp, expected) in [
            (5, Some(51), Meaning::Begin),
            (5, Some(50), Meaning::Acknowledge),
            (1001, Some(50), Meaning::Begin),
            (1001, None, Meaning::Begin),
            (999, None, Meaning::Acknowledge),
        ] {
            assert_eq!(waits.meaning(&syn(seq, stamp), false), expected, "{seq} {stamp:?}");
        }
        assert_eq!(waits.meaning(&syn(5, None), true), Meaning::Begin);
        assert_eq!(waits.acknowledgement(Instant::from_millis(7)).options.timestamps, Some((7, 50)));
    }
}
