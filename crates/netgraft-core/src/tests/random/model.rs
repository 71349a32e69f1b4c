//! What must hold whatever happens.
//!
//! Every end of a connection sends a stream that names it: four bytes of its number, then bytes that follow from the
//! number and the offset. So who reads a stream sees whose it is, and that no byte is missing, foreign or out of order.

use std::collections::HashMap;

/// An end of a connection: the cookie of a program's open file, or a remote host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct End(pub(crate) u32);

impl End {
    pub(crate) fn of_file(cookie: u64) -> End {
        End(cookie as u32)
    }

    pub(crate) fn of_remote(pipe: usize) -> End {
        End(1 << 30 | pipe as u32)
    }
}

/// What is known of an end.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Bytes that it has sent.
    pub(crate) sent: usize,
    /// Bytes that a call of it may send besides, which has not ended.
    pub(crate) under_way: usize,
    /// Bytes that it has read.
    pub(crate) got: usize,
    /// The first bytes that it has read.
    head: Vec<u8>,
    /// It sends no more.
    pub(crate) has_ended: bool,
    /// It has said that it reads no more.
    pub(crate) is_deaf: bool,
    /// It has seen a failure.
    pub(crate) has_failed: bool,
    /// It has cut the connection off.
    pub(crate) was_cut: bool,
}

/// All ends.
#[derive(Default)]
pub(crate) struct Model {
    ends: HashMap<End, State>,
    peers: HashMap<End, End>,
    /// The last datagram of each port's sender that was received, so that none comes twice.
    last_datagram: HashMap<(u16, u32), u32>,
}

fn byte(end: End, offset: usize) -> u8 {
    match offset {
        0..4 => end.0.to_le_bytes()[offset],
        _ => (end.0 as usize * 31 + offset * 7 + offset / 255) as u8,
    }
}

impl Model {
    pub(crate) fn end(&mut self, end: End) -> &mut State {
        self.ends.entry(end).or_default()
    }

    /// A call of an end has ended, with so many bytes.
    pub(crate) fn has_sent(&mut self, end: End, len: usize) {
        let state = self.end(end);
        (state.sent, state.under_way) = (state.sent + len, 0);
    }

    /// The next bytes of an end.
    pub(crate) fn next(&mut self, end: End, len: usize) -> Vec<u8> {
        let sent = self.end(end).sent;
        (sent..sent + len).map(|offset| byte(end, offset)).collect()
    }

    /// Who is at the other side of an end, once that is known.
    pub(crate) fn peer(&self, end: End) -> Option<End> {
        self.peers.get(&end).copied()
    }

    /// Two ends are one connection.
    pub(crate) fn pair(&mut self, a: End, b: End) -> Result<(), String> {
        for (own, other) in [(a, b), (b, a)] {
            let known = *self.peers.entry(own).or_insert(other);
            if known != other {
                return Err(format!("{own:?} talks to {known:?} and to {other:?}"));
            }
        }
        Ok(())
    }

    /// An end has read bytes.
    pub(crate) fn reads(&mut self, reader: End, bytes: &[u8]) -> Result<(), String> {
        for &got in bytes {
            let state = self.end(reader);
            if state.got < 4 {
                state.head.push(got);
                state.got += 1;
                if let [a, b, c, d] = state.head[..] {
                    self.pair(reader, End(u32::from_le_bytes([a, b, c, d])))?;
                }
                continue;
            }
            let at = state.got;
            state.got += 1;
            let writer = self.peers[&reader];
            let expected = byte(writer, at);
            if got != expected {
                return Err(format!("{reader:?} reads {got} at {at} of {writer:?}, which sent {expected}"));
            }
            let other = self.end(writer);
            if at >= other.sent + other.under_way {
                return Err(format!("{reader:?} reads more than {writer:?} has sent"));
            }
        }
        Ok(())
    }

    /// An end has read the end of the stream, of a connection that was not reset.
    pub(crate) fn reads_end(&mut self, reader: End) -> Result<(), String> {
        let state = self.end(reader).clone();
        let Some(writer) = self.peer(reader) else { return Ok(()) };
        if state.is_deaf || state.has_failed {
            return Ok(());
        }
        let other = self.end(writer).clone();
        if other.has_failed {
            return Ok(());
        }
        if !other.has_ended {
            return Err(format!("{reader:?} sees an end of the stream of {writer:?}, which has not ended"));
        }
        if state.got != other.sent {
            return Err(format!("{reader:?} has got {} bytes of {} by {writer:?}", state.got, other.sent));
        }
        Ok(())
    }

    /// An end has read that its connection failed. One that has never sent anything can only have been failed by its
    /// peer: then all that the peer sent before comes first (RFC 9293 section 3.10.7.4 keeps what was received).
    pub(crate) fn reads_failure(&mut self, reader: End) -> Result<(), String> {
        let state = self.end(reader).clone();
        let Some(writer) = self.peer(reader) else { return Ok(()) };
        let other = self.end(writer).clone();
        if state.is_deaf || state.has_failed || state.sent > 0 || state.has_ended || !other.was_cut {
            return Ok(());
        }
        if state.got != other.sent {
            return Err(format!("{reader:?} sees a failure after {} bytes of {}", state.got, other.sent));
        }
        Ok(())
    }

    /// Nothing is under way any more: whoever reads has got all.
    pub(crate) fn is_whole(&mut self, reader: End) -> Result<(), String> {
        let state = self.end(reader).clone();
        let Some(writer) = self.peer(reader) else { return Ok(()) };
        let State { sent, has_failed, .. } = *self.end(writer);
        if !state.is_deaf && !state.has_failed && !has_failed && state.got != sent {
            return Err(format!("{reader:?} never gets what {writer:?} sent: {} bytes of {sent}", state.got));
        }
        Ok(())
    }

    /// A datagram: the port that it was sent to, its sender, and its number among the sender's.
    pub(crate) fn datagram(port: u16, sender: u32, number: u32, len: usize) -> Vec<u8> {
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend(sender.to_le_bytes());
        bytes.extend(number.to_le_bytes());
        bytes.resize(bytes.len() + len, port as u8);
        bytes
    }

    /// A socket with a port has received a datagram.
    pub(crate) fn receives(&mut self, port: u16, bytes: &[u8]) -> Result<(), String> {
        let Some((head, rest)) = bytes.split_first_chunk::<10>() else {
            return Err(format!("a datagram of {} bytes was sent by nobody", bytes.len()));
        };
        let to = u16::from_le_bytes([head[0], head[1]]);
        let sender = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let number = u32::from_le_bytes([head[6], head[7], head[8], head[9]]);
        if to != port {
            return Err(format!("the socket with port {port} got a datagram for {to}"));
        }
        if rest.iter().any(|&byte| byte != port as u8) {
            return Err(format!("a datagram for {port} is not as it was sent"));
        }
        let last = self.last_datagram.insert((port, sender), number);
        if last.is_some_and(|last| last >= number) {
            return Err(format!("port {port} got datagram {number} of {sender} after {last:?}"));
        }
        Ok(())
    }
}

/// The model itself can say no.
mod tests {
    use super::*;

    const A: End = End(1);
    const B: End = End(2);
    const C: End = End(3);

    /// A model in which an end has sent so many bytes; and the bytes.
    fn sent(by: End, len: usize) -> (Model, Vec<u8>) {
        let mut model = Model::default();
        let bytes = model.next(by, len);
        model.end(by).sent = len;
        (model, bytes)
    }

    #[test]
    fn a_stream_that_arrives_whole_is_right() {
        let (mut model, bytes) = sent(A, 1000);
        assert_eq!(model.reads(B, &bytes[..3]), Ok(()));
        assert_eq!(model.reads(B, &bytes[3..]), Ok(()));
        model.end(A).has_ended = true;
        assert_eq!((model.reads_end(B), model.is_whole(B)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_byte_that_is_missing_twice_or_foreign_is_wrong() {
        let (mut model, mut bytes) = sent(A, 1000);
        bytes.remove(500);
        assert!(model.reads(B, &bytes).is_err());
        let (mut model, mut bytes) = sent(A, 1000);
        bytes.insert(500, bytes[500]);
        assert!(model.reads(B, &bytes).is_err());
        let (mut model, bytes) = sent(A, 1000);
        model.end(C).sent = 1000;
        let foreign = model.next(C, 0);
        assert!(foreign.is_empty());
        assert_eq!(model.reads(B, &bytes[..500]), Ok(()));
        assert!(model.reads(B, &[byte(C, 500), byte(C, 501)]).is_err());
    }

    #[test]
    fn bytes_that_were_never_sent_are_wrong() {
        let (mut model, bytes) = sent(A, 1000);
        model.end(A).sent = 999;
        assert!(model.reads(B, &bytes).is_err());
    }

    #[test]
    fn an_end_that_comes_early_or_without_reason_is_wrong() {
        let (mut model, bytes) = sent(A, 1000);
        assert_eq!(model.reads(B, &bytes[..999]), Ok(()));
        assert!(model.reads_end(B).is_err(), "it has not ended");
        model.end(A).has_ended = true;
        assert!(model.reads_end(B).is_err(), "a byte is missing");
        assert!(model.is_whole(B).is_err());
    }

    #[test]
    fn a_failure_that_overtakes_bytes_is_wrong() {
        let (mut model, bytes) = sent(A, 1000);
        model.end(A).was_cut = true;
        assert_eq!(model.reads(B, &bytes[..999]), Ok(()));
        assert!(model.reads_failure(B).is_err());
        assert_eq!(model.reads(B, &bytes[999..]), Ok(()));
        assert_eq!(model.reads_failure(B), Ok(()));
    }

    #[test]
    fn two_peers_of_one_end_are_wrong() {
        let (mut model, bytes) = sent(A, 1000);
        assert_eq!(model.reads(B, &bytes), Ok(()));
        assert!(model.reads(C, &bytes).is_err());
    }

    #[test]
    fn a_datagram_of_another_port_changed_or_again_is_wrong() {
        let mut model = Model::default();
        let mut bytes = Model::datagram(2001, 7, 1, 20);
        assert!(model.receives(2002, &bytes).is_err());
        assert_eq!(model.receives(2001, &bytes), Ok(()));
        assert!(model.receives(2001, &bytes).is_err());
        bytes = Model::datagram(2001, 7, 2, 20);
        bytes[15] += 1;
        assert!(model.receives(2001, &bytes).is_err());
    }
}
