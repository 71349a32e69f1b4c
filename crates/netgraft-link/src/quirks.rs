//! What an old passt, as that of Debian 12, gets wrong at the beginning and at the end of a connection. The first three do not
//! disturb later ones, and the last is for those that need it ([`Quirks::new`]). [`crate::silent`] has one more.
//!
//! Refused connections: it answers a SYN that leads nowhere with a reset that acknowledges
//! nothing, which a client does not believe: "if the RST bit is set: if the ACK was acceptable then signal to the user
//! 'error: connection reset' [...] otherwise (no ACK), drop the segment" (RFC 9293 section 3.10.7.3). So the SYNs that leave
//! are noted, and such a reset is made to acknowledge the one that it answers.
//!
//! Slow connections: a SYN that is sent again while passt is connecting makes it give the connection up. The first one has
//! reached it and the outside's kernel repeats its own, so the repetition stays here.
//!
//! Published ports: it does not acknowledge a SYN,ACK before the client outside has sent something, so that a server which
//! speaks first would wait for ever (RFC 9293 section 3.5: the third segment of the handshake). A SYN,ACK is acknowledged here
//! in its place; a stream socket has lost none.
//!
//! Half-closed connections: once the stack's side has ended, it takes what is acknowledged for delivered and leaves it in its
//! socket, so that it sends the same bytes again, as new ones. So from the end of the stack's side on the acknowledgement
//! number that leaves stays what it was. Then bytes come once, as many as fit into a window. passt never says the end of such
//! a stream: it sends again what seems lost, and resets the connection after some seconds, which is what the program sees.

use std::collections::HashMap;

use netgraft_linux::link::vnet::{self, Layout};

/// TCP flags (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;
/// SYNs that are remembered, at most one of each place: a new one takes the place of an old one.
const PLACES: usize = 256;
const BOTH: u8 = SYN | ACK;
/// Acknowledgements that wait for the stack at most; a SYN,ACK that gets none is sent again.
const REPLIES: usize = 1024;
/// Half-closed connections that are known at most.
const HALVES: usize = 4096;

/// Addresses and ports of a connection, ours first; those of IPv4 with zeros behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends([u8; 36]);

impl Ends {
    /// The ends of a TCP segment; `out` says that it leaves.
    pub(crate) fn of(frame: &[u8], layout: &Layout, out: bool) -> Option<Ends> {
        let (first, len) = if layout.v4 { (26, 4) } else { (22, 16) };
        let (source, destination) =
            (frame.get(first..first + len)?, frame.get(first + len..first + 2 * len)?);
        let ports = frame.get(layout.transport..layout.transport + 4)?;
        let (from, to) = ports.split_at(2);
        let order = if out { [source, destination, from, to] } else { [destination, source, to, from] };
        let mut all = [0; 36];
        let mut at = 0;
        for part in order {
            all.get_mut(at..at + part.len())?.copy_from_slice(part);
            at += part.len();
        }
        Some(Ends(all))
    }

    fn place(&self) -> usize {
        // FNV-1a: whoever makes collisions forgets their own SYNs.
        let hash = self
            .0
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        hash as usize % PLACES
    }
}

/// What is known of connections.
pub(crate) struct Quirks {
    /// The SYNs that left last, with the number that acknowledges each.
    asked: Box<[Option<(Ends, u32)>]>,
    /// Acknowledgements for the stack.
    replies: Vec<Vec<u8>>,
    /// Half-closed connections, with the acknowledgement number that leaves on each; `None` for a passt that does well
    /// without.
    halves: Option<HashMap<Ends, u32>>,
}

/// The layout and the flags of a TCP segment whose header is there.
pub(crate) fn segment(frame: &[u8]) -> Option<(Layout, u8)> {
    let layout = vnet::layout(frame).filter(|l| l.protocol == 6 && !l.fragment)?;
    frame.get(layout.transport..layout.transport + 20)?;
    Some((layout, frame[layout.transport + 13]))
}

/// What acknowledges a SYN,ACK.
fn acknowledgement(frame: &[u8], layout: &Layout) -> Option<Vec<u8>> {
    let (ip, at) = (frame.get(..layout.transport)?, layout.transport);
    let mut reply = ip.to_vec();
    let mut swap = |first: usize, len: usize| {
        reply.get_mut(first..first + len)?.copy_from_slice(ip.get(first + len..first + 2 * len)?);
        reply.get_mut(first + len..first + 2 * len)?.copy_from_slice(ip.get(first..first + len)?);
        Some(())
    };
    swap(0, 6)?;
    swap(if layout.v4 { 26 } else { 22 }, if layout.v4 { 4 } else { 16 })?;
    let length = if layout.v4 { at - 14 + 20 } else { 20 };
    let place = if layout.v4 { 16 } else { 18 };
    reply.get_mut(place..place + 2)?.copy_from_slice(&(length as u16).to_be_bytes());
    let seq = u32::from_be_bytes(*frame.get(at + 4..)?.first_chunk()?);
    reply.extend_from_slice(frame.get(at + 2..at + 4)?);
    reply.extend_from_slice(frame.get(at..at + 2)?);
    reply.extend_from_slice(frame.get(at + 8..at + 12)?);
    reply.extend_from_slice(&seq.wrapping_add(1).to_be_bytes());
    // A window that is small in any unit; passt tells its own soon.
    reply.extend_from_slice(&[5 << 4, ACK, 0, 255, 0, 0, 0, 0]);
    if layout.v4 {
        vnet::finish_header(reply.get_mut(14..at)?);
    }
    vnet::finish_checksum(&mut reply);
    Some(reply)
}

impl Quirks {
    /// For a passt that needs its half-closed connections to be held, or not.
    pub(crate) fn new(holds_halves: bool) -> Quirks {
        Quirks {
            asked: vec![None; PLACES].into_boxed_slice(),
            replies: Vec::new(),
            halves: holds_halves.then(HashMap::new),
        }
    }

    /// Keeps the acknowledgement number of a half-closed connection in a frame that leaves.
    pub(crate) fn hold(&mut self, frame: &mut [u8]) {
        let Some(halves) = &mut self.halves else { return };
        let Some((layout, flags)) =
            segment(frame).filter(|(_, flags)| flags & FIN != 0 || !halves.is_empty())
        else {
            return;
        };
        let Some(ends) = Ends::of(frame, &layout, true) else { return };
        let at = layout.transport + 8;
        let Some(number) =
            frame.get(at..).and_then(|rest| rest.first_chunk()).map(|n| u32::from_be_bytes(*n))
        else {
            return;
        };
        if flags & (SYN | RST) != 0 {
            halves.remove(&ends);
        } else if let Some(held) = halves.get(&ends) {
            if *held != number {
                frame[at..at + 4].copy_from_slice(&held.to_be_bytes());
                vnet::finish_checksum(frame);
            }
        } else if flags & FIN != 0 {
            if halves.len() >= HALVES {
                // passt has forgotten some of them without a word.
                halves.clear();
            }
            halves.insert(ends, number);
        }
    }

    /// Sees a frame that is to leave; whether it does.
    pub(crate) fn sees(&mut self, frame: &[u8]) -> bool {
        match segment(frame).map(|(layout, flags)| (layout, flags & (SYN | ACK | RST))) {
            Some((layout, SYN)) => return self.note(frame, &layout).unwrap_or(true),
            Some((layout, BOTH)) if self.replies.len() < REPLIES => {
                self.replies.extend(acknowledgement(frame, &layout));
            }
            _ => {}
        }
        true
    }

    /// Whether there is a reply for the stack.
    pub(crate) fn has_reply(&self) -> bool {
        !self.replies.is_empty()
    }

    /// The next reply for the stack.
    pub(crate) fn reply(&mut self) -> Option<Vec<u8>> {
        self.replies.pop()
    }

    /// Notes a SYN; whether it is a new one.
    fn note(&mut self, frame: &[u8], layout: &Layout) -> Option<bool> {
        let ends = Ends::of(frame, layout, true)?;
        let number = u32::from_be_bytes(*frame.get(layout.transport + 4..)?.first_chunk()?).wrapping_add(1);
        let place = self.asked.get_mut(ends.place())?;
        let new = *place != Some((ends, number));
        *place = Some((ends, number));
        Some(new)
    }

    /// Mends a frame that has come, if it is a reset without an acknowledgement that answers a SYN.
    pub(crate) fn mend(&mut self, frame: &mut [u8]) {
        if let Some(halves) = self.halves.as_mut().filter(|halves| !halves.is_empty())
            && let Some((layout, _)) = segment(frame).filter(|(_, flags)| flags & (FIN | RST) != 0)
            && let Some(ends) = Ends::of(frame, &layout, false)
        {
            // All has been said.
            halves.remove(&ends);
        }
        let Some((layout, RST)) = segment(frame).map(|(layout, flags)| (layout, flags & (SYN | ACK | RST)))
        else {
            return;
        };
        let Some(ends) = Ends::of(frame, &layout, false) else { return };
        let Some(place) = self.asked.get_mut(ends.place()) else { return };
        let Some((_, number)) = place.take_if(|(asked, _)| *asked == ends) else { return };
        let at = layout.transport;
        frame[at + 8..at + 12].copy_from_slice(&number.to_be_bytes());
        frame[at + 13] |= ACK;
        vnet::finish_checksum(frame);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A TCP segment without options or data, with its checksum.
    fn frame(v4: bool, out: bool, flags: u8, seq: u32) -> Vec<u8> {
        let mut frame = vec![0; 14];
        let len = if v4 { 4 } else { 16 };
        let (ours, theirs) = (vec![1; len], vec![2; len]);
        if v4 {
            frame[12..14].copy_from_slice(&[8, 0]);
            frame.extend_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
        } else {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame.extend_from_slice(&[0x60, 0, 0, 0, 0, 20, 6, 64]);
        }
        let ports = if out { [0x80, 1, 0, 80] } else { [0, 80, 0x80, 1] };
        let (from, to) = if out { (ours, theirs) } else { (theirs, ours) };
        for part in [&from[..], &to, &ports, &seq.to_be_bytes(), &[0; 4], &[5 << 4, flags], &[0; 6]] {
            frame.extend_from_slice(part);
        }
        vnet::finish_checksum(&mut frame);
        frame
    }

    #[test]
    fn a_reset_acknowledges_the_syn_that_it_answers_and_no_other() {
        for v4 in [true, false] {
            let mut quirks = Quirks::new(true);
            let transport = if v4 { 34 } else { 54 };
            let bare = frame(v4, false, RST, 0);
            let mut unasked = bare.clone();
            quirks.mend(&mut unasked);
            assert_eq!(unasked, bare);
            assert!(quirks.sees(&frame(v4, true, SYN, u32::MAX)));
            // Sent again, it stays here; another one does not.
            assert!(!quirks.sees(&frame(v4, true, SYN, u32::MAX)));
            assert!(quirks.sees(&frame(v4, true, SYN, 7)) && quirks.sees(&frame(v4, true, SYN, u32::MAX)));
            // What acknowledges something stays as it is.
            let full = frame(v4, false, RST | ACK, 7);
            let mut same = full.clone();
            quirks.mend(&mut same);
            assert_eq!(same, full);
            let mut reset = bare.clone();
            quirks.mend(&mut reset);
            assert_eq!(
                (reset[transport + 13], &reset[transport + 8..transport + 12]),
                (RST | ACK, &[0; 4][..])
            );
            assert!(vnet::is_intact(&[0; vnet::LEN], &reset));
            // Once.
            let mut again = bare.clone();
            quirks.mend(&mut again);
            assert_eq!(again, bare);
        }
    }

    /// The acknowledgement number with which a segment of these flags and this number leaves.
    fn leaves(quirks: &mut Quirks, v4: bool, flags: u8, number: u32) -> u32 {
        let at = if v4 { 42 } else { 62 };
        let mut frame = frame(v4, true, flags, 9);
        frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
        vnet::finish_checksum(&mut frame);
        quirks.hold(&mut frame);
        assert!(vnet::is_intact(&[0; vnet::LEN], &frame));
        u32::from_be_bytes(*frame[at..].first_chunk().unwrap())
    }

    #[test]
    fn the_acknowledgement_of_a_half_closed_connection_stays_until_all_is_said() {
        for v4 in [true, false] {
            for end in [FIN | ACK, RST, RST | ACK] {
                let mut quirks = Quirks::new(true);
                assert_eq!(leaves(&mut quirks, v4, ACK, 5), 5);
                assert_eq!(leaves(&mut quirks, v4, FIN | ACK, 7), 7);
                assert_eq!(leaves(&mut quirks, v4, ACK, 8), 7);
                assert_eq!(leaves(&mut quirks, v4, FIN | ACK, u32::MAX), 7);
                // Of another connection.
                assert_eq!(leaves(&mut quirks, !v4, ACK, 8), 8);
                quirks.mend(&mut frame(v4, false, ACK, 1));
                assert_eq!(leaves(&mut quirks, v4, ACK, 8), 7);
                quirks.mend(&mut frame(v4, false, end, 1));
                assert_eq!(leaves(&mut quirks, v4, ACK, 8), 8);
            }
            let mut quirks = Quirks::new(true);
            leaves(&mut quirks, v4, FIN | ACK, 7);
            leaves(&mut quirks, v4, SYN, 0);
            assert_eq!(leaves(&mut quirks, v4, ACK, 8), 8, "a new connection");
            let mut quirks = Quirks::new(false);
            leaves(&mut quirks, v4, FIN | ACK, 7);
            assert_eq!(leaves(&mut quirks, v4, ACK, 8), 8, "a passt that needs none of it");
        }
    }

    #[test]
    fn half_closed_connections_are_bounded() {
        let mut quirks = Quirks::new(true);
        for port in 0..2 * HALVES as u16 {
            let mut frame = frame(true, true, FIN | ACK, 9);
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            quirks.hold(&mut frame);
        }
        assert_eq!(quirks.halves.map(|halves| halves.len()), Some(HALVES));
    }

    #[test]
    fn a_syn_ack_is_acknowledged_once() {
        for v4 in [true, false] {
            let mut quirks = Quirks::new(true);
            assert!(quirks.sees(&frame(v4, true, SYN, 1)) && !quirks.has_reply());
            assert!(quirks.sees(&frame(v4, true, BOTH, 41)) && quirks.has_reply());
            let reply = quirks.reply().unwrap();
            // As the peer sends it: its ports and addresses, our number and the one behind it.
            let mut expected = frame(v4, false, ACK, 0);
            let at = if v4 { 34 } else { 54 };
            expected[at + 8..at + 12].copy_from_slice(&42u32.to_be_bytes());
            expected[at + 14..at + 16].copy_from_slice(&[0, 255]);
            if v4 {
                vnet::finish_header(&mut expected[14..34]);
            }
            vnet::finish_checksum(&mut expected);
            assert_eq!(reply, expected);
            assert_eq!(quirks.reply(), None);
        }
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(
            noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            cut in any::<prop::sample::Index>(), v4: bool, out: bool,
        ) {
            let mut frame = frame(v4, out, if out { SYN } else { RST }, 9);
            for (place, byte) in noise {
                let at = place.index(frame.len());
                frame[at] = byte;
            }
            frame.truncate(cut.index(frame.len() + 1));
            let mut quirks = Quirks::new(true);
            quirks.sees(&frame);
            quirks.hold(&mut frame);
            while quirks.reply().is_some() {}
            let len = frame.len();
            quirks.mend(&mut frame);
            prop_assert_eq!(frame.len(), len);
        }
    }
}
