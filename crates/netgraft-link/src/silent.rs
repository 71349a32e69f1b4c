//! Connections on which the other end has said nothing yet, which a passt of March 2023, as that of Debian 12, gives up.
//!
//! It takes the end of the handshake for no acknowledgement of its SYN, and waits for one: 10 s, then seven times 2 s, then it
//! resets the connection. An acknowledgement of the first data ends that. Until then, what makes it begin its 2 s again is an
//! acknowledgement that repeats the one before, both with a window of 0: it would fill the window again (RFC 5681 section 3.2),
//! finds none, and waits for one to be said. So two of these go out for such a connection every half second, and one with the
//! window that the stack has said last. passt looks only at the last one of those that it reads at once, so the third follows
//! later, and so does everything else.
//!
//! Once the stack's side has ended passt listens no longer to any of this, and resets after 16 s.

use std::collections::HashMap;
use std::time::Duration;

use netgraft_linux::link::vnet::{self, Layout};
use netgraft_plugin::Instant;

use crate::quirks::{ACK, Ends, FIN, RST, SYN, segment};

/// When a connection is looked after first: before the 10 s are over, which what goes out makes 2 s.
const FIRST: Duration = Duration::from_secs(6);
/// How often it is looked after from then on: several times in the 2 s.
const STEP: Duration = Duration::from_millis(500);
/// Connections that are known at most; what is beyond that is reset by passt.
const MOST: usize = 4096;
/// Headers of Ethernet, IPv6 and TCP, or of IPv4 without options.
const LONGEST: usize = 14 + 40 + 20;

/// The headers of the last segment that left, as an acknowledgement without data.
#[derive(Clone, Copy)]
struct Last {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Last {
    /// From a segment that leaves; `None` if its headers are strange.
    fn of(frame: &[u8], layout: &Layout, flags: u8) -> Option<Last> {
        let at = layout.transport;
        let tcp = frame.get(at..at + 20)?;
        let header = usize::from(tcp[12] >> 4) * 4;
        let data = layout.end.min(frame.len()).checked_sub(at + header)?;
        let mut last = Last { bytes: [0; LONGEST], len: at + 20 };
        let bytes = last.bytes.get_mut(..last.len)?;
        bytes.copy_from_slice(frame.get(..at + 20)?);
        let own = u32::from(flags & SYN != 0);
        let seq = u32::from_be_bytes(*tcp[4..].first_chunk()?).wrapping_add(data as u32).wrapping_add(own);
        bytes[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        bytes[at + 12..at + 14].copy_from_slice(&[5 << 4, ACK]);
        bytes[at + 18..at + 20].fill(0);
        if flags & SYN != 0 {
            // The window of a SYN has no scale (RFC 7323 section 2.2).
            let window =
                u16::from_be_bytes(*tcp[14..].first_chunk()?) >> scale(frame.get(at + 20..at + header)?);
            bytes[at + 14..at + 16].copy_from_slice(&window.max(1).to_be_bytes());
        }
        let length = if layout.v4 { at - 14 + 20 } else { 20 };
        let place = if layout.v4 { 16 } else { 18 };
        bytes[place..place + 2].copy_from_slice(&(length as u16).to_be_bytes());
        Some(last)
    }

    /// The same acknowledgement with a window of 0, or with its own, behind its length, as passt reads it.
    fn write(&self, closed: bool, output: &mut Vec<u8>) {
        let Some(bytes) = self.bytes.get(..self.len) else { return };
        output.extend_from_slice(&(self.len as u32).to_be_bytes());
        let start = output.len();
        output.extend_from_slice(bytes);
        let frame = &mut output[start..];
        let Some(layout) = vnet::layout(frame) else { return };
        if let Some(window) = frame.get_mut(layout.transport + 14..layout.transport + 16).filter(|_| closed) {
            window.fill(0);
        }
        if let Some(header) = frame.get_mut(14..layout.transport).filter(|_| layout.v4) {
            vnet::finish_header(header);
        }
        vnet::finish_checksum(frame);
    }
}

/// The window scale among the options of a SYN (RFC 7323 section 2.2); 0 without one.
fn scale(mut options: &[u8]) -> u8 {
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [3, 3, scale, ..] => return (*scale).min(14),
            [kind, len, ..] if *kind > 1 && *len > 1 => {
                options = options.get(usize::from(*len)..).unwrap_or_default()
            }
            _ => return 0,
        }
    }
}

struct Wait {
    since: Instant,
    last: Option<Last>,
}

/// The connections on which nothing has come.
#[derive(Default)]
pub(crate) struct Silent {
    known: HashMap<Ends, Wait>,
    /// When to look after them.
    next: Option<Instant>,
}

impl Silent {
    /// When [`Silent::probe`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    fn add(&mut self, ends: Ends, since: Instant, last: Option<Last>) {
        if self.known.len() < MOST || self.known.contains_key(&ends) {
            self.known.insert(ends, Wait { since, last });
            self.next.get_or_insert(since + FIRST);
        }
    }

    /// Sees a frame that leaves.
    pub(crate) fn leaves(&mut self, now: Instant, frame: &[u8]) {
        let Some((layout, flags)) =
            segment(frame).filter(|(_, flags)| flags & SYN != 0 || !self.known.is_empty())
        else {
            return;
        };
        let Some(ends) = Ends::of(frame, &layout, true) else { return };
        if flags & (FIN | RST) != 0 || flags & (SYN | ACK) == SYN {
            self.known.remove(&ends);
        } else if flags & SYN != 0 {
            self.add(ends, now, Last::of(frame, &layout, flags));
        } else if let Some(wait) = self.known.get_mut(&ends).filter(|_| flags & ACK != 0) {
            wait.last = Last::of(frame, &layout, flags);
        }
    }

    /// Sees a frame that has come.
    pub(crate) fn comes(&mut self, now: Instant, frame: &[u8]) {
        let Some((layout, flags)) =
            segment(frame).filter(|(_, flags)| flags & SYN != 0 || !self.known.is_empty())
        else {
            return;
        };
        let Some(ends) = Ends::of(frame, &layout, false) else { return };
        let header = frame.get(layout.transport + 12).map_or(0, |byte| usize::from(byte >> 4) * 4);
        if flags & (SYN | ACK) == SYN | ACK {
            self.add(ends, now, None);
        } else if flags & (SYN | FIN | RST) != 0 || layout.end > layout.transport + header {
            self.known.remove(&ends);
        }
    }

    /// Writes two acknowledgements for each connection that has to be looked after to `first`, and what takes them back to
    /// `then`.
    pub(crate) fn probe(&mut self, now: Instant, first: &mut Vec<u8>, then: &mut Vec<u8>) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let mut next: Option<Instant> = None;
        for wait in self.known.values() {
            let due = wait.since + FIRST;
            let again = if due > now { due } else { now + STEP };
            next = Some(next.map_or(again, |next| next.min(again)));
            if let Some(last) = wait.last.filter(|_| due <= now) {
                last.write(true, first);
                last.write(true, first);
                last.write(false, then);
            }
        }
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u16 = 0x8001;

    /// A TCP segment with options and data, with its checksum.
    fn frame(v4: bool, out: bool, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14];
        let len = if v4 { 4 } else { 16 };
        let payload = (20 + options.len() + data.len()) as u16;
        let (ours, theirs) = (vec![1; len], vec![2; len]);
        if v4 {
            frame[12..14].copy_from_slice(&[8, 0]);
            frame.extend_from_slice(&[0x45, 0]);
            frame.extend_from_slice(&(20 + payload).to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0]);
        } else {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&payload.to_be_bytes());
            frame.extend_from_slice(&[6, 64]);
        }
        let (from, to) = if out { (ours, theirs) } else { (theirs, ours) };
        let ports = if out { [OURS, 80] } else { [80, OURS] };
        frame.extend_from_slice(&from);
        frame.extend_from_slice(&to);
        frame.extend(ports.map(u16::to_be_bytes).as_flattened());
        frame.extend_from_slice(&1000_u32.to_be_bytes());
        frame.extend_from_slice(&77_u32.to_be_bytes());
        frame.extend_from_slice(&[((20 + options.len()) as u8 / 4) << 4, flags, 0x40, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(options);
        frame.extend_from_slice(data);
        if v4 {
            vnet::finish_header(&mut frame[14..34]);
        }
        vnet::finish_checksum(&mut frame);
        frame
    }

    fn at(seconds: f64) -> Instant {
        Instant::ZERO + Duration::from_secs_f64(seconds)
    }

    /// What is written at a time: frames of both kinds.
    fn written(silent: &mut Silent, now: Instant) -> [Vec<Vec<u8>>; 2] {
        let (mut first, mut then) = (Vec::new(), Vec::new());
        silent.probe(now, &mut first, &mut then);
        [first, then].map(|mut stream| {
            let mut frames = Vec::new();
            while !stream.is_empty() {
                let len = u32::from_be_bytes(*stream.first_chunk().unwrap()) as usize;
                frames.push(stream[4..4 + len].to_vec());
                stream.drain(..4 + len);
            }
            frames
        })
    }

    /// Sequence number, acknowledgement and window of an acknowledgement.
    fn said(frame: &[u8]) -> (u32, u32, u16) {
        let (layout, flags) = segment(frame).unwrap();
        assert_eq!((flags, layout.end, frame[layout.transport + 12]), (ACK, frame.len(), 5 << 4));
        assert!(vnet::is_intact(&[0; vnet::LEN], frame));
        let tcp = &frame[layout.transport..];
        let number = |at: usize| u32::from_be_bytes(*tcp[at..].first_chunk().unwrap());
        (number(4), number(8), u16::from_be_bytes(*tcp[14..].first_chunk().unwrap()))
    }

    #[test]
    fn a_connection_without_an_answer_is_looked_after() {
        for v4 in [true, false] {
            let mut silent = Silent::default();
            silent.leaves(at(0.0), &frame(v4, true, SYN, &[], &[]));
            assert_eq!(silent.next_deadline(), None);
            silent.comes(at(1.0), &frame(v4, false, SYN | ACK, &[], &[]));
            silent.leaves(at(1.0), &frame(v4, true, ACK, &[], &[]));
            silent.leaves(at(1.5), &frame(v4, true, ACK, &[1; 12], b"abc"));
            assert_eq!(silent.next_deadline(), Some(at(7.0)));
            assert_eq!(written(&mut silent, at(6.9)), [const { Vec::<Vec<u8>>::new() }; 2]);
            for now in [7.0, 7.5, 8.0, 99.0] {
                let [first, then] = written(&mut silent, at(now));
                assert_eq!(first.iter().map(|f| said(f)).collect::<Vec<_>>(), [(1003, 77, 0); 2]);
                assert_eq!(then.iter().map(|f| said(f)).collect::<Vec<_>>(), [(1003, 77, 0x4000)]);
                assert_eq!(silent.next_deadline(), Some(at(now + 0.5)));
            }
            // Acknowledgements and probes of the other end's are no data.
            silent.comes(at(100.0), &frame(v4, false, ACK, &[1; 4], &[]));
            assert_eq!(written(&mut silent, at(100.0))[0].len(), 2);
        }
    }

    #[test]
    fn what_ends_the_silence_ends_the_care() {
        for v4 in [true, false] {
            for (out, flags, data) in [
                (false, ACK, &b"x"[..]),
                (false, FIN | ACK, b""),
                (false, RST, b""),
                (true, FIN | ACK, b""),
                (true, RST, b""),
                (true, SYN, b""),
            ] {
                let mut silent = Silent::default();
                silent.comes(at(0.0), &frame(v4, false, SYN | ACK, &[], &[]));
                silent.leaves(at(0.0), &frame(v4, true, ACK, &[], &[]));
                let last = frame(v4, out, flags, &[], data);
                if out {
                    silent.leaves(at(1.0), &last)
                } else {
                    silent.comes(at(1.0), &last)
                }
                assert_eq!(
                    written(&mut silent, at(9.0)),
                    [const { Vec::<Vec<u8>>::new() }; 2],
                    "{out} {flags}"
                );
                assert_eq!(silent.next_deadline(), None);
            }
        }
    }

    #[test]
    fn a_published_connection_has_the_window_of_its_syn() {
        for v4 in [true, false] {
            let mut silent = Silent::default();
            silent.leaves(at(0.0), &frame(v4, true, SYN | ACK, &[2, 4, 5, 0xb4, 1, 3, 3, 7], &[]));
            let [first, then] = written(&mut silent, at(6.0));
            assert_eq!(first.iter().map(|f| said(f)).collect::<Vec<_>>(), [(1001, 77, 0); 2]);
            assert_eq!(then.iter().map(|f| said(f)).collect::<Vec<_>>(), [(1001, 77, 0x80)]);
        }
        for (options, expected) in [
            (&[][..], 0),
            (&[1, 1], 0),
            (&[3, 3, 200], 14),
            (&[2, 0, 3, 3, 1], 0),
            (&[0, 3, 3, 1], 0),
            (&[4, 90], 0),
        ] {
            assert_eq!(scale(options), expected, "{options:?}");
        }
    }

    #[test]
    fn connections_are_bounded() {
        let mut silent = Silent::default();
        let syn = frame(true, true, SYN | ACK, &[], &[]);
        for port in 0..2 * MOST as u16 {
            let mut syn = syn.clone();
            syn[34..36].copy_from_slice(&port.to_be_bytes());
            silent.leaves(at(0.0), &syn);
        }
        assert_eq!(silent.known.len(), MOST);
        assert_eq!(written(&mut silent, at(6.0))[1].len(), MOST);
    }
}
