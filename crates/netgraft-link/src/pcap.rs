//! Captures: frames as blocks of pcapng (the format of draft-ietf-opsawg-pcapng, which tcpdump and Wireshark read), sent to
//! whoever writes the file.
//!
//! The sentry has no file system, so it sends whole blocks in messages of a `SOCK_SEQPACKET` socket to a process that has
//! one (`netgraft-launch`). It never waits for that: what finds the socket and `PENDING` bytes full is counted and left
//! out, and the interface's next frame says how many are missing before it. When the sentry stops it has the rest sent
//! ([`Recording`]), and the last blocks are the statistics of the interfaces, which say how many frames are missing in all.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netgraft_linux::unix;
use netgraft_plugin::Instant;
use netgraft_plugin::config::CaptureConfig;
use netgraft_plugin::link::Medium;
use netgraft_plugin::owners::{End, Owners};
use netgraft_plugin::recording::Recording;

use crate::capture::Way;

/// A message is sent when it has so many bytes. The kernel takes one of 32 KiB and a frame of 64 KiB with its default
/// buffer.
const MESSAGE: usize = 32 * 1024;
/// Bytes of messages that wait for the socket.
const PENDING: usize = 8 << 20;
/// Messages whose buffers are kept.
const SPARE: usize = 64;
/// When a socket that had no room is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// Types of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// What the first bytes of a section say: the byte order and version 1.0.
const MAGIC: u32 = 0x1a2b_3c4d;
/// Options of blocks.
const END: u16 = 0;
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const ISB_IFDROP: u16 = 5;
/// The bytes of the block with an interface's statistics.
pub const STATISTICS_LEN: u64 = 40;
/// Transport protocols (IANA's protocol numbers).
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The link type of every interface (https://www.tcpdump.org/linktypes.html): libpcap reads no file with two of them. So
/// packets without a link header get the one that those of Linux's loopback have, which is zero but for its type.
const ETHERNET: u16 = 1;
const ETHERNET_HEADER: usize = 14;
const HEADER_V4: [u8; ETHERNET_HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const HEADER_V6: [u8; ETHERNET_HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd];

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let value = &value[..usize::from(len)];
    block.extend_from_slice(&code.to_le_bytes());
    block.extend_from_slice(&len.to_le_bytes());
    pad(block, value);
}

/// Appends bytes, and zeros to the next multiple of four.
fn pad(block: &mut Vec<u8>, bytes: &[u8]) {
    block.extend_from_slice(bytes);
    block.resize(block.len().next_multiple_of(4), 0);
}

/// Appends a block whose body `fill` writes, between its type and its two lengths.
fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    fill(out);
    // A block has a frame of 64 KiB at most.
    let len = ((out.len() - start + 4) as u32).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&len);
    out.extend_from_slice(&len);
}

/// The length of the block at the start of `bytes`, and whether it is one that every file begins with (a section, an
/// interface), of which the first begins a new section. `None` if the bytes are no block of this module's.
#[must_use]
pub fn block_at(bytes: &[u8]) -> Option<(usize, Part)> {
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let len = word(4)? as usize;
    if len < 12 || !len.is_multiple_of(4) || word(len.checked_sub(4)?)? as usize != len {
        return None;
    }
    match word(0)? {
        SECTION => Some((len, Part::Section)),
        INTERFACE => Some((len, Part::Interface)),
        PACKET => Some((len, Part::Frame { missing: missing(bytes.get(..len)?) })),
        STATISTICS => {
            let options = bytes.get(20..len - 4).unwrap_or(&[]);
            Some((len, Part::Statistics { missing: count_of(options, ISB_IFDROP) }))
        }
        _ => None,
    }
}

/// How many frames a frame's block says are missing before it.
fn missing(block: &[u8]) -> u64 {
    let options = || {
        let kept = u32::from_le_bytes(*block.get(20..)?.first_chunk()?) as usize;
        block.get(28_usize.checked_add(kept)?.checked_next_multiple_of(4)?..block.len().checked_sub(4)?)
    };
    count_of(options().unwrap_or(&[]), EPB_DROPCOUNT)
}

/// The number in the first option with this code; 0 without one.
fn count_of(options: &[u8], wanted: u16) -> u64 {
    let mut rest = options;
    while let [c0, c1, l0, l1, value @ ..] = rest {
        let (code, len) = (u16::from_le_bytes([*c0, *c1]), usize::from(u16::from_le_bytes([*l0, *l1])));
        match (code, value.first_chunk()) {
            (_, Some(count)) if code == wanted && len == 8 => return u64::from_le_bytes(*count),
            (END, _) => return 0,
            _ => rest = value.get(len.next_multiple_of(4)..).unwrap_or(&[]),
        }
    }
    0
}

/// The ends of an IP packet of TCP or UDP, that of the stack first; `None` of other packets, and of fragments that do not say.
fn ends(packet: &[u8], way: Way) -> Option<(End, End)> {
    let (protocol, source, destination, ports): (u8, IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => {
            let is_first = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x1fff == 0;
            let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
            let header = usize::from(packet.first()? & 15) * 4;
            is_first.then_some((*packet.get(9)?, address(12)?, address(16)?, header))?
        }
        6 => {
            let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
            (*packet.get(6)?, address(8)?, address(24)?, 40)
        }
        _ => return None,
    };
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let address = |ip, at: usize| {
        let port = u16::from_be_bytes(*packet.get(at..)?.first_chunk()?);
        Some(SocketAddr::new(ip, port))
    };
    let (from, to) = (address(source, ports)?, address(destination, ports + 2)?);
    let (from, to) = (End::new(protocol, from).with_peer(to), End::new(protocol, to).with_peer(from));
    Some(match way {
        Way::In => (to, from),
        Way::Out => (from, to),
    })
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The start of a capture.
    Section,
    /// The description of an interface.
    Interface,
    /// A frame.
    Frame {
        /// How many frames of its interface are missing before it.
        missing: u64,
    },
    /// What is said of an interface at the orderly end of a capture.
    Statistics {
        /// How many of its frames are missing in the whole capture.
        missing: u64,
    },
}

/// Which interface a frame was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceId {
    number: u32,
    medium: Medium,
    /// Whether both ends of its packets are the stack's.
    is_loopback: bool,
}

/// Records frames of a stack's interfaces. Clones are of the same capture.
#[derive(Clone)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
    owners: Arc<Owners>,
}

struct State {
    socket: OwnedFd,
    config: CaptureConfig,
    interfaces: Vec<Missing>,
    /// The message that grows.
    message: Vec<u8>,
    pending: VecDeque<Vec<u8>>,
    pending_bytes: usize,
    spare: Vec<Vec<u8>>,
    /// When to try again to send what is pending.
    retry: Option<Instant>,
    /// Whether the writer is there, and the capture has not ended.
    open: bool,
}

/// Frames of an interface that were left out.
#[derive(Clone, Copy, Default)]
struct Missing {
    /// Since its last one.
    recent: u64,
    all: u64,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Begins a capture on a socket that keeps the boundaries of messages.
    #[must_use]
    pub fn new(socket: OwnedFd, config: CaptureConfig) -> Recorder {
        let mut message = Vec::with_capacity(MESSAGE * 2);
        block(&mut message, SECTION, |body| {
            body.extend_from_slice(&MAGIC.to_le_bytes());
            body.extend_from_slice(&[1, 0, 0, 0]);
            // The section's length is unknown.
            body.extend_from_slice(&u64::MAX.to_le_bytes());
            option(body, SHB_USERAPPL, concat!("netgraft ", env!("CARGO_PKG_VERSION")).as_bytes());
            option(body, END, &[]);
        });
        let state = State {
            socket,
            config,
            interfaces: Vec::new(),
            message,
            pending: VecDeque::new(),
            pending_bytes: 0,
            spare: Vec::new(),
            retry: None,
            open: true,
        };
        Recorder { state: Arc::new(Mutex::new(state)), owners: Arc::default() }
    }

    /// Where the owners of sockets are looked up, whose names become comments.
    #[must_use]
    pub fn owners(&self) -> Arc<Owners> {
        Arc::clone(&self.owners)
    }

    /// Describes an interface, before its first frame.
    #[must_use]
    pub fn interface(&self, name: &str, medium: Medium) -> InterfaceId {
        let mut state = lock(&self.state);
        let snap = state.config.snap;
        block(&mut state.message, INTERFACE, |body| {
            body.extend_from_slice(&ETHERNET.to_le_bytes());
            body.extend_from_slice(&[0; 2]);
            body.extend_from_slice(&snap.to_le_bytes());
            option(body, IF_NAME, name.as_bytes());
            // Times are in nanoseconds.
            option(body, IF_TSRESOL, &[9]);
            option(body, END, &[]);
        });
        state.interfaces.push(Missing::default());
        InterfaceId { number: state.interfaces.len() as u32 - 1, medium, is_loopback: false }
    }

    /// Describes the stack's loopback, whose frames come from the stack and go to it: they are recorded as [`Way::In`], without
    /// a link header.
    #[must_use]
    pub fn loopback(&self, name: &str) -> InterfaceId {
        InterfaceId { is_loopback: true, ..self.interface(name, Medium::Ip) }
    }

    /// Records a frame.
    pub fn frame(&self, on: InterfaceId, way: Way, now: Instant, frame: &[u8]) {
        let mut state = lock(&self.state);
        if !state.open {
            return;
        }
        if state.pending_bytes + state.message.len() > PENDING {
            state.leave_out(on.number);
            return;
        }
        let time = state.config.epoch.saturating_add(now.nanos());
        // A snap length of 0 is none.
        let most = if state.config.snap == 0 { usize::MAX } else { state.config.snap as usize };
        let header: &[u8] = match (on.medium, frame.first().map(|byte| byte >> 4)) {
            (Medium::Ethernet(_), _) => &[],
            (Medium::Ip, Some(6)) => &HEADER_V6,
            (Medium::Ip, _) => &HEADER_V4,
        };
        let header = &header[..header.len().min(most)];
        let kept = &frame[..frame.len().min(most - header.len())];
        let lengths =
            [(header.len() + kept.len()) as u32, (frame.len() + ETHERNET_HEADER - on.medium.header()) as u32];
        let missing =
            state.interfaces.get_mut(on.number as usize).map_or(0, |of| std::mem::take(&mut of.recent));
        block(&mut state.message, PACKET, |body| {
            for word in [on.number, (time >> 32) as u32, time as u32, lengths[0], lengths[1]] {
                body.extend_from_slice(&word.to_le_bytes());
            }
            body.extend_from_slice(header);
            body.extend_from_slice(kept);
            body.resize(body.len() + (lengths[0].next_multiple_of(4) - lengths[0]) as usize, 0);
            let flags = match way {
                Way::In => 1_u32,
                Way::Out => 2,
            };
            option(body, EPB_FLAGS, &flags.to_le_bytes());
            if missing > 0 {
                option(body, EPB_DROPCOUNT, &missing.to_le_bytes());
            }
            if let Some((own, other)) = ends(&frame[on.medium.header().min(frame.len())..], way) {
                let mut comment = |owner: &str| option(body, COMMENT, owner.as_bytes());
                if on.is_loopback {
                    // The sender is a socket of the sandbox, too.
                    self.owners.find(other, &mut comment);
                }
                self.owners.find(own, &mut comment);
            }
            option(body, END, &[]);
        });
        if state.message.len() >= MESSAGE {
            state.close_message();
            state.send(now);
        }
    }

    /// Sends what there is, as far as there is room.
    pub fn flush(&self, now: Instant) {
        let mut state = lock(&self.state);
        if state.retry.is_none_or(|at| at <= now) {
            state.close_message();
            state.send(now);
        }
    }

    /// When [`Recorder::flush`] is to be called again, if something waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        lock(&self.state).retry
    }
}

impl Recording for Recorder {
    fn send(&mut self, now: Instant) -> usize {
        let mut state = lock(&self.state);
        state.close_message();
        state.send(now);
        state.pending_bytes
    }

    fn end(&mut self, now: Instant) {
        let mut state = lock(&self.state);
        if !state.open {
            return;
        }
        state.close_message();
        state.send(now);
        state.give_up();
        state.say_missing(now);
        state.close();
    }
}

impl State {
    fn leave_out(&mut self, interface: u32) {
        if let Some(of) = self.interfaces.get_mut(interface as usize) {
            of.recent += 1;
            of.all += 1;
        }
    }

    /// Counts the frames that wait as left out.
    fn give_up(&mut self) {
        while let Some(message) = self.pending.pop_front() {
            let mut rest = message.as_slice();
            while let Some((len, part)) = block_at(rest) {
                if let (Part::Frame { .. }, Some(number)) =
                    (part, rest.get(8..).and_then(<[u8]>::first_chunk))
                {
                    self.leave_out(u32::from_le_bytes(*number));
                }
                rest = rest.get(len..).unwrap_or(&[]);
            }
        }
        self.pending_bytes = 0;
    }

    /// Sends the statistics of the interfaces.
    fn say_missing(&mut self, now: Instant) {
        let time = self.config.epoch.saturating_add(now.nanos());
        let mut message = Vec::new();
        for (number, of) in self.interfaces.iter().enumerate() {
            block(&mut message, STATISTICS, |body| {
                for word in [number as u32, (time >> 32) as u32, time as u32] {
                    body.extend_from_slice(&word.to_le_bytes());
                }
                option(body, ISB_IFDROP, &of.all.to_le_bytes());
                option(body, END, &[]);
            });
        }
        if message.is_empty() {
            return;
        }
        if unix::send(self.socket.as_fd(), &message).is_err() {
            // The buffer is full of frames that a slow writer has not taken: it becomes as large as the system allows, which is
            // more than the default. Where it is not, the writer says that the end is missing.
            let _ = unix::set_send_buffer(self.socket.as_fd(), i32::MAX / 2);
            let _ = unix::send(self.socket.as_fd(), &message);
        }
    }

    /// Nothing is recorded any more.
    fn close(&mut self) {
        self.open = false;
        self.pending.clear();
        self.pending_bytes = 0;
        self.message = Vec::new();
        self.retry = None;
    }

    fn close_message(&mut self) {
        if self.message.is_empty() {
            return;
        }
        let mut next = self.spare.pop().unwrap_or_default();
        next.clear();
        let message = std::mem::replace(&mut self.message, next);
        self.pending_bytes += message.len();
        self.pending.push_back(message);
    }

    fn send(&mut self, now: Instant) {
        self.retry = None;
        while let Some(message) = self.pending.front() {
            match unix::send(self.socket.as_fd(), message) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                    self.retry = Some(now + RETRY);
                    return;
                }
                Err(_) => {
                    // The writer is gone, and says why itself.
                    self.close();
                    return;
                }
            }
            if let Some(sent) = self.pending.pop_front() {
                self.pending_bytes -= sent.len();
                if self.spare.len() < SPARE {
                    self.spare.push(sent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netgraft_linux::fdpass;

    use super::*;

    fn record(snap: u32, frames: usize, len: usize) -> (Recorder, OwnedFd) {
        let (ours, theirs) = fdpass::pair().unwrap();
        let config = CaptureConfig { snap, epoch: 1_000_000_000 << 32 };
        let recorder = Recorder::new(theirs, config);
        let on = recorder.interface("eth0", Medium::Ethernet([2; 6]));
        for number in 0..frames {
            recorder.frame(on, Way::Out, Instant::from_nanos(5), &vec![number as u8; len]);
        }
        recorder.flush(Instant::ZERO);
        (recorder, ours)
    }

    /// The blocks of what waits in the socket.
    fn drain(ours: &OwnedFd) -> Vec<(Vec<u8>, Part)> {
        let mut blocks = Vec::new();
        while fdpass::wait_readable([Some(ours.as_fd())], Some(Duration::ZERO)).unwrap() == [true] {
            let Some((message, _)) = fdpass::receive(ours.as_fd(), 1 << 20).unwrap() else { break };
            let mut rest = message.as_slice();
            while !rest.is_empty() {
                let (len, part) = block_at(rest).expect("a block");
                blocks.push((rest[..len].to_vec(), part));
                rest = &rest[len..];
            }
        }
        blocks
    }

    #[test]
    fn a_capture_is_a_section_interfaces_and_frames() {
        let (recorder, ours) = record(0, 2, 61);
        let lo = recorder.interface("lo", Medium::Ip);
        recorder.frame(lo, Way::In, Instant::ZERO, &[0x45, 1, 2]);
        recorder.flush(Instant::ZERO);
        let blocks = drain(&ours);
        let parts: Vec<Part> = blocks.iter().map(|(_, part)| *part).collect();
        let frame = Part::Frame { missing: 0 };
        assert_eq!(parts, [Part::Section, Part::Interface, frame, frame, Part::Interface, frame]);
        let block = &blocks[3].0;
        let word = |at: usize| u32::from_le_bytes(*block[at..].first_chunk().unwrap());
        assert_eq!((word(8), word(12), word(16)), (0, 1_000_000_000, 5));
        assert_eq!((word(20), word(24), block[28..28 + 61] == [1; 61]), (61, 61, true));
        // Outbound.
        assert_eq!((word(92), word(96)), (0x0004_0002, 2));
        let packet = &blocks[5].0;
        assert_eq!(
            (packet[8], packet[20], packet[24], &packet[40..45]),
            (1, 17, 17, &[8, 0, 0x45, 1, 2][..])
        );
    }

    #[test]
    fn the_owner_of_a_frames_socket_is_its_comment() {
        let (recorder, ours) = record(0, 0, 0);
        let local: SocketAddr = "192.0.2.1:80".parse().unwrap();
        recorder.owners().set(End::new(6, local), "curl[7] fd 5");
        let on = InterfaceId { number: 0, medium: Medium::Ethernet([2; 6]), is_loopback: false };
        let mut frame = vec![0; 54];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = 6;
        frame[26..38].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 9, 0, 80, 0, 9]);
        let comment = b"\x01\x00\x0c\x00curl[7] fd 5";
        let is_told = |way: Way, frame: &[u8]| {
            recorder.frame(on, way, Instant::ZERO, frame);
            recorder.flush(Instant::ZERO);
            let (block, part) = drain(&ours).pop().unwrap();
            assert_eq!(part, Part::Frame { missing: 0 });
            block.windows(comment.len()).any(|part| part == comment)
        };
        assert!(is_told(Way::Out, &frame));
        // That is the peer's address here, and the stack's own with the addresses and ports the other way round.
        assert!(!is_told(Way::In, &frame));
        let mut answer = frame.clone();
        answer[26..38].copy_from_slice(&[192, 0, 2, 9, 192, 0, 2, 1, 0, 9, 0, 80]);
        assert!(is_told(Way::In, &answer) && !is_told(Way::Out, &answer));
        // Of another port or protocol, a later fragment, or cut off.
        let changed = |at: usize, to: u8| {
            let mut other = frame.clone();
            other[at] = to;
            other
        };
        for other in [changed(35, 81), changed(23, 17), changed(23, 1), changed(21, 9), frame[..37].to_vec()]
        {
            assert!(!is_told(Way::Out, &other));
        }
    }

    #[test]
    fn a_snap_length_cuts_and_keeps_the_length() {
        let (_recorder, ours) = record(20, 1, 100);
        let block = &drain(&ours)[2].0;
        assert_eq!((block[20], block[24], block.len()), (20, 100, 28 + 20 + 12 + 4));
    }

    #[test]
    fn what_finds_no_room_is_counted_in_the_next_frame() {
        // Nobody reads: the socket fills up, then what may wait.
        let (recorder, ours) = record(0, 1000, 60_000);
        assert!(recorder.next_deadline().is_some());
        let mut frames = 0_u64;
        let mut missing = 0;
        for turn in 1..100 {
            for (_, part) in drain(&ours) {
                if let Part::Frame { missing: before } = part {
                    frames += 1;
                    missing += before;
                }
            }
            recorder.flush(Instant::ZERO + RETRY * turn);
        }
        assert_eq!(recorder.next_deadline(), None);
        assert!(frames > 100 && missing == 0, "{frames} {missing}");
        let on = InterfaceId { number: 0, medium: Medium::Ethernet([2; 6]), is_loopback: false };
        recorder.frame(on, Way::In, Instant::from_millis(500), b"later");
        recorder.flush(Instant::from_millis(500));
        let (_, part) = drain(&ours).pop().unwrap();
        assert_eq!(part, Part::Frame { missing: 1000 - frames });
    }

    #[test]
    fn the_end_says_what_is_missing_of_each_interface() {
        // Nothing is read: the socket fills up, then what may wait.
        let (mut recorder, ours) = record(0, 1000, 60_000);
        let lo = recorder.loopback("lo");
        recorder.frame(lo, Way::In, Instant::ZERO, &[0x45, 1, 2]);
        let waits = Recording::send(&mut recorder, Instant::ZERO);
        assert!(waits > PENDING / 2, "{waits}");
        recorder.end(Instant::from_nanos(9));
        // Nothing follows.
        recorder.frame(lo, Way::In, Instant::ZERO, &[0x45, 1, 2]);
        recorder.flush(Instant::from_millis(500));
        let blocks = drain(&ours);
        let frames = blocks.iter().filter(|(_, part)| matches!(part, Part::Frame { .. })).count() as u64;
        let [.., (first, of_eth0), (second, of_lo)] = blocks.as_slice() else { panic!("two interfaces") };
        let word = |block: &[u8], at: usize| u32::from_le_bytes(*block[at..].first_chunk().unwrap());
        assert_eq!((first.len() as u64, word(first, 8), word(second, 8)), (STATISTICS_LEN, 0, 1));
        assert_eq!((word(first, 12), word(first, 16)), (1_000_000_000, 9));
        assert!(frames > 0);
        assert_eq!(
            (*of_eth0, *of_lo),
            (Part::Statistics { missing: 1000 - frames }, Part::Statistics { missing: 1 })
        );
        assert_eq!(recorder.next_deadline(), None);
    }

    #[test]
    fn a_writer_that_takes_all_misses_nothing() {
        let (mut recorder, ours) = record(0, 100, 60_000);
        let mut blocks = Vec::new();
        while Recording::send(&mut recorder, Instant::ZERO) > 0 {
            let more = drain(&ours);
            assert!(!more.is_empty());
            blocks.extend(more);
        }
        recorder.end(Instant::ZERO);
        blocks.extend(drain(&ours));
        let parts: Vec<Part> = blocks.iter().map(|(_, part)| *part).collect();
        assert_eq!(parts.iter().filter(|part| **part == Part::Frame { missing: 0 }).count(), 100);
        assert_eq!(parts.last(), Some(&Part::Statistics { missing: 0 }));
    }

    #[test]
    fn a_writer_that_is_gone_ends_the_capture() {
        let (recorder, ours) = record(0, 1, 10);
        drop(ours);
        let on = InterfaceId { number: 0, medium: Medium::Ethernet([2; 6]), is_loopback: false };
        for _ in 0..2 {
            recorder.frame(on, Way::In, Instant::ZERO, &[0; 100]);
            recorder.flush(Instant::ZERO);
        }
        assert_eq!(recorder.next_deadline(), None);
        assert!(!lock(&recorder.state).open);
    }

    #[test]
    fn a_frame_that_looks_like_an_option_is_a_frame() {
        let (recorder, ours) = record(0, 0, 0);
        let on = InterfaceId { number: 0, medium: Medium::Ethernet([2; 6]), is_loopback: false };
        recorder.frame(on, Way::In, Instant::ZERO, &[4, 0, 8, 0]);
        recorder.flush(Instant::ZERO);
        assert_eq!(drain(&ours)[2].1, Part::Frame { missing: 0 });
    }

    #[test]
    fn nonsense_is_no_block() {
        for bytes in [&b""[..], &[0; 11], &[1, 0, 0, 0, 4, 0, 0, 0], &[1, 0, 0, 0, 12, 0, 0, 0, 16, 0, 0, 0]]
        {
            assert_eq!(block_at(bytes), None, "{bytes:?}");
        }
        let mut huge = vec![6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff];
        huge.resize(64, 0);
        assert_eq!(block_at(&huge), None);
    }
}
