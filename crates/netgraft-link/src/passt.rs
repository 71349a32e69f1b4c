//! The framed stream of passt and QEMU (passt(1), `-netdev stream`): each Ethernet frame behind its length, four bytes in
//! network order.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_linux::unix;
use netgraft_plugin::link::{FrameMeta, Link, Medium};
use netgraft_plugin::{Error, Instant, Result};

use crate::quirks::Quirks;
use crate::silent::Silent;

/// Bytes in front of a frame.
const HEAD: usize = 4;
/// The longest frame: 64 KiB of IP packet, an Ethernet header and a VLAN tag. A greater length is no frame's.
const LONGEST: usize = 65_535 + 18;
/// Bytes that are read at once: several of the longest frames.
const READ: usize = 4 * (HEAD + LONGEST);
/// Bytes that wait for the socket; a frame beyond that is refused.
const WRITE: usize = 512 * 1024;
/// When a socket that had no room is tried again.
const RETRY: Duration = Duration::from_millis(1);
/// How long nothing is written after what passt has to read by itself.
const PAUSE: Duration = Duration::from_millis(2);

/// A link to passt, or whoever speaks its protocol.
pub struct PasstLink {
    socket: OwnedFd,
    mac: [u8; 6],
    mtu: usize,
    /// Bytes that passt's end takes before frames are dropped.
    room: usize,
    /// What was read and not delivered is `input[start..end]`.
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// What was not written is `output[sent..]`.
    output: Vec<u8>,
    sent: usize,
    /// When the socket was last found empty: at the same time it is not asked again, however often the stack is polled.
    empty_at: Option<Instant>,
    /// When to try again to write the rest.
    retry: Option<Instant>,
    quirks: Quirks,
    /// Connections that a passt would give up; `None` for one that does not.
    silent: Option<Silent>,
    /// Until when nothing is written.
    paused: Option<Instant>,
    /// Whether the end of passt is to be told, since nobody else sees it.
    tells: bool,
}

impl PasstLink {
    /// A link on a connected stream socket, on which the stack has the address `mac`.
    #[must_use]
    pub fn new(socket: OwnedFd, mac: [u8; 6], mtu: usize) -> PasstLink {
        // The buffers of both ends are set in the same way, to the most that the kernel allows.
        let room = unix::send_buffer(socket.as_fd()).map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0));
        PasstLink {
            socket,
            mac,
            mtu,
            room,
            // Pages that no frame touches cost nothing.
            input: vec![0; READ].into_boxed_slice(),
            start: 0,
            end: 0,
            output: Vec::new(),
            sent: 0,
            empty_at: None,
            retry: None,
            quirks: Quirks::new(false),
            silent: None,
            paused: None,
            tells: false,
        }
    }

    /// The same, which warns of the end of passt.
    #[must_use]
    pub fn telling_its_end(self) -> PasstLink {
        PasstLink { tells: true, ..self }
    }

    /// The same, with one that does not empty its sockets on half-closed connections.
    #[must_use]
    pub fn holding_halves(self) -> PasstLink {
        PasstLink { quirks: Quirks::new(true), ..self }
    }

    /// The same, with one that gives connections up whose other end is silent.
    #[must_use]
    pub fn keeping_silent(self) -> PasstLink {
        PasstLink { silent: Some(Silent::default()), ..self }
    }

    /// passt is gone, or has lost its place in the stream.
    fn down(&mut self) -> Error {
        if std::mem::take(&mut self.tells) {
            tracing::warn!("passt has closed the link; the sandbox has no uplink from here on");
        }
        Error::NetworkDown
    }

    /// The place of the next whole frame in `input`; `None` if the rest of it has not come.
    fn next_frame(&self) -> Result<Option<std::ops::Range<usize>>> {
        let waiting = &self.input[self.start..self.end];
        let Some(head) = waiting.first_chunk::<HEAD>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        // Whoever sends that has lost its place, and so have we.
        if len > LONGEST {
            return Err(Error::NetworkDown);
        }
        let first = self.start + HEAD;
        Ok((waiting.len() >= HEAD + len).then_some(first..first + len))
    }

    /// Reads what there is; whether something came.
    fn read(&mut self, now: Instant) -> Result<bool> {
        if self.empty_at == Some(now) {
            return Ok(false);
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match unix::recv(self.socket.as_fd(), &mut self.input[self.end..], libc::MSG_DONTWAIT) {
            Ok(0) => Err(self.down()),
            Ok(got) => {
                // What comes now makes the descriptor readable again.
                self.empty_at = (self.end + got < self.input.len()).then_some(now);
                self.end += got;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.empty_at = Some(now);
                Ok(false)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(_) => Err(self.down()),
        }
    }

    /// Looks after connections whose other end is silent.
    fn look_after(&mut self, now: Instant) -> Result<()> {
        if self.silent.as_ref().and_then(Silent::next_deadline).is_none_or(|next| next > now) {
            return Ok(());
        }
        self.write(now)?;
        let Some(silent) = &mut self.silent else { return Ok(()) };
        let mut then = Vec::new();
        silent.probe(now, &mut self.output, &mut then);
        let written = self.write(now);
        if written.is_ok() && !then.is_empty() {
            // They are read before the rest. If they are not, because passt is late, the next ones may be.
            self.paused = Some(now + PAUSE);
            self.retry = self.paused;
        }
        self.output.extend_from_slice(&then);
        written
    }

    fn write(&mut self, now: Instant) -> Result<()> {
        match self.paused {
            Some(until) if until > now => {
                self.retry = self.paused;
                return Err(Error::Again);
            }
            _ => self.paused = None,
        }
        while self.sent < self.output.len() {
            match unix::send(self.socket.as_fd(), &self.output[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.retry = Some(now + RETRY);
                    return Err(Error::Again);
                }
                Err(_) => return Err(self.down()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}

impl Link for PasstLink {
    fn medium(&self) -> Medium {
        Medium::Ethernet(self.mac)
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn room(&self) -> Option<usize> {
        Some(self.room)
    }

    fn receive(&mut self, now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        if self.retry.take_if(|at| *at <= now).is_some() {
            match self.write(now) {
                Ok(()) | Err(Error::Again) => {}
                Err(error) => return Err(error),
            }
        }
        match self.look_after(now) {
            Ok(()) | Err(Error::Again) => {}
            Err(error) => return Err(error),
        }
        let mut count = 0;
        while count < limit {
            let Some(reply) = self.quirks.reply() else { break };
            deliver(&reply);
            count += 1;
        }
        while count < limit {
            match self.next_frame()? {
                Some(place) => {
                    self.start = place.end;
                    let frame = &mut self.input[place];
                    self.quirks.mend(frame);
                    if let Some(silent) = &mut self.silent {
                        silent.comes(now, frame);
                    }
                    deliver(frame);
                    count += 1;
                }
                // A frame fits into the buffer, so there is room behind the part of one.
                None if !self.read(now)? => break,
                None => {}
            }
        }
        Ok(count)
    }

    fn send(&mut self, now: Instant, frame: &[u8], _meta: FrameMeta) -> Result<()> {
        if frame.len() > LONGEST {
            return Ok(());
        }
        if self.output.len() + HEAD + frame.len() > WRITE {
            self.write(now)?;
        }
        if !self.quirks.sees(frame) {
            return Ok(());
        }
        if let Some(silent) = &mut self.silent {
            silent.leaves(now, frame);
        }
        self.output.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        let start = self.output.len();
        self.output.extend_from_slice(frame);
        self.quirks.hold(&mut self.output[start..]);
        if self.quirks.has_reply() {
            // There is something to receive.
            self.retry = Some(now);
        }
        Ok(())
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.write(now)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.retry.into_iter().chain(self.silent.as_ref().and_then(Silent::next_deadline)).min()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const NOW: Instant = Instant::ZERO;

    /// Another time in each call.
    fn later() -> Instant {
        static TICKS: AtomicU64 = AtomicU64::new(1);
        Instant::from_nanos(TICKS.fetch_add(1, Ordering::Relaxed))
    }

    fn pair() -> (PasstLink, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (PasstLink::new(ours.into(), [2; 6], 65_520), theirs)
    }

    fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
        frames.iter().flat_map(|f| [&(f.len() as u32).to_be_bytes(), f.as_slice()].concat()).collect()
    }

    fn received(link: &mut PasstLink, limit: usize) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        link.receive(later(), limit, &mut |frame| seen.push(frame.to_vec())).unwrap();
        seen
    }

    #[test]
    fn frames_come_whole_however_the_stream_is_cut() {
        let frames: Vec<Vec<u8>> = [1, 60, 1514, 65_534, 0, 3].map(|len| vec![len as u8; len]).to_vec();
        let stream = framed(&frames);
        for piece in [1, 3, 7, 1000, 65_536, stream.len()] {
            let (mut link, mut passt) = pair();
            let mut seen = Vec::new();
            // One byte at a time would take a while for the long one.
            let cuts = if piece < 1000 { &stream[..1700] } else { &stream[..] };
            for part in cuts.chunks(piece) {
                passt.write_all(part).unwrap();
                seen.extend(received(&mut link, 64));
            }
            let whole = if piece < 1000 { 3 } else { 6 };
            assert_eq!(seen, frames[..whole], "{piece}");
        }
    }

    #[test]
    fn a_limit_is_kept_and_the_rest_comes_later() {
        let (mut link, mut passt) = pair();
        passt.write_all(&framed(&vec![vec![7; 100]; 5])).unwrap();
        assert_eq!(received(&mut link, 2).len(), 2);
        assert_eq!(received(&mut link, 9).len(), 3);
        assert_eq!(received(&mut link, 9).len(), 0);
    }

    #[test]
    fn an_empty_socket_is_asked_once_at_a_time() {
        let (mut link, mut passt) = pair();
        passt.write_all(&framed(&[vec![7; 10]])).unwrap();
        let mut count = |now| link.receive(now, 9, &mut |_| ()).unwrap();
        assert_eq!(count(NOW), 1);
        passt.write_all(&framed(&[vec![7; 10]])).unwrap();
        assert_eq!((count(NOW), count(Instant::from_nanos(1))), (0, 1));
    }

    #[test]
    fn what_is_sent_is_framed_and_waits_for_room() {
        let (mut link, mut passt) = pair();
        let frame = vec![9; 60_000];
        let mut sent = 0;
        let full = loop {
            match link.send(NOW, &frame, FrameMeta::default()).and_then(|()| link.flush(NOW)) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, Error::Again);
        // The last one waits in the link.
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            passt.read_to_end(&mut all).unwrap();
            all
        });
        // The rest leaves when the link is looked at.
        while let Some(at) = link.next_deadline() {
            assert_eq!(received(&mut link, 0).len(), 0);
            link.receive(at, 1, &mut |_| ()).unwrap();
            std::thread::yield_now();
        }
        drop(link);
        assert_eq!(reader.join().unwrap(), framed(&vec![frame; sent + 1]));
    }

    #[test]
    fn a_peer_that_is_gone_or_talks_nonsense_takes_the_link_down() {
        let (mut link, passt) = pair();
        drop(passt);
        assert_eq!(link.receive(NOW, 1, &mut |_| ()), Err(Error::NetworkDown));
        link.send(NOW, b"x", FrameMeta::default()).unwrap();
        assert_eq!(link.flush(NOW), Err(Error::NetworkDown));
        let (mut link, mut passt) = pair();
        passt.write_all(&[0, 2, 0, 0]).unwrap();
        assert_eq!(link.receive(NOW, 1, &mut |_| ()), Err(Error::NetworkDown));
    }
}
