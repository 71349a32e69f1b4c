//! A connected stream: bytes between the sentry's end of the surrogate and the stack.
//!
//! The end is watched edge-triggered, so each pump goes on until one side would block.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netgraft_linux::epoll::bits;
use netgraft_linux::unix;
use netgraft_plugin::{Error, Handle, Instant, PluginStack, RecvFlags, SendFlags, Shutdown};

/// The most bytes that are moved at a time.
pub(super) const CHUNK: usize = 256 * 1024;
/// The most bytes that one pump moves before others have their turn.
pub(super) const BUDGET: usize = 4 * CHUNK;

/// From the program to the stack.
#[derive(Debug)]
enum Outbound {
    /// Bytes may come.
    Open {
        /// Those that the stack had no room for.
        rest: Vec<u8>,
        /// The stack had no room at the last attempt, and will say when it has.
        blocked: bool,
    },
    /// The program sends no more and the stack knows.
    Finished,
}

/// From the stack to the program.
#[derive(Debug)]
enum Inbound {
    /// Bytes may come; those that the surrogate had no room for, and how many of them have gone.
    Open(Vec<u8>, usize),
    /// The peer sends no more and the program knows, or the program reads no more.
    Finished,
}

/// A connected stream socket.
#[derive(Debug)]
pub(super) struct Stream {
    end: OwnedFd,
    outbound: Outbound,
    inbound: Inbound,
    /// The program's send buffer is still as small as the gate made it: restored at the next chance.
    pub(super) narrow: bool,
    /// A non-blocking `connect` has succeeded, and the program has not called it again: the next call says so, and only
    /// those after it that the socket is connected.
    pub(super) unsaid: bool,
    /// The loop is told when the program reads, since the surrogate had no room.
    pub(super) hears_reads: bool,
    /// The program has called `shutdown`: when both directions are over the end hangs up, which then does not
    /// mean that the program closed. A watch tells.
    pub(super) watched: bool,
}

/// What a pump ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// One side would block.
    Idle,
    /// The budget was used up: more can be moved at once.
    More,
    /// The program closed the socket with bytes unread: the connection is to be reset.
    ResetByProgram,
    /// The program sends no more; this is said once.
    EndOfProgram,
    /// The connection has failed.
    Failed(Error),
}

/// Counts of what was moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// From the program to the stack.
    pub(super) sent: u64,
    /// From the stack to the program.
    pub(super) received: u64,
    /// Whether the stack took bytes that it had no room for before: they were counted then.
    pub(super) resumed: bool,
}

impl Stream {
    /// A stream on the sentry's end of a surrogate.
    pub(super) fn new(end: OwnedFd) -> Stream {
        Stream {
            end,
            outbound: Outbound::Open { rest: Vec::new(), blocked: false },
            inbound: Inbound::Open(Vec::new(), 0),
            narrow: false,
            unsaid: false,
            hears_reads: false,
            watched: false,
        }
    }

    /// The sentry's end.
    pub(super) fn end(&self) -> &OwnedFd {
        &self.end
    }

    /// Gives up the stream for its end.
    pub(super) fn into_end(self) -> OwnedFd {
        self.end
    }

    /// Whether the program may still send.
    pub(super) fn is_open_out(&self) -> bool {
        matches!(self.outbound, Outbound::Open { .. })
    }

    /// Whether bytes of the program wait for room in the stack.
    pub(super) fn waits_for_stack(&self) -> bool {
        matches!(self.outbound, Outbound::Open { blocked: true, .. })
    }

    /// Whether bytes for the program wait for room in the surrogate.
    pub(super) fn waits_for_program(&self) -> bool {
        matches!(&self.inbound, Inbound::Open(rest, _) if !rest.is_empty())
    }

    /// What the loop is to be told of the end. Everything that the program reads makes the end writable once more:
    /// that wakes nobody unless there is something to be written.
    pub(super) fn interest(&self) -> u32 {
        bits::IN | bits::RDHUP | bits::EDGE | if self.hears_reads { bits::OUT } else { 0 }
    }

    /// Whether nobody has the program's end any more, and nothing else will tell of it.
    pub(super) fn program_is_gone(&self) -> bool {
        !self.watched && unix::is_hung_up(self.end.as_fd())
    }

    /// Moves bytes from the program to the stack; `to_end` if the end of the stream is known to be behind
    /// them, so that no new edge will tell of it.
    pub(super) fn pump_out(
        &mut self,
        stack: &mut dyn PluginStack,
        handle: Handle,
        now: Instant,
        scratch: &mut [u8],
        moved: &mut Moved,
        to_end: bool,
    ) -> Pumped {
        let Outbound::Open { rest, blocked } = &mut self.outbound else { return Pumped::Idle };
        // Until the stack has shown that it has room.
        *blocked = true;
        if !rest.is_empty() {
            match stack.send(handle, rest, None, SendFlags::empty(), now) {
                Ok(n) => {
                    moved.resumed |= n > 0;
                    drop(rest.drain(..n.min(rest.len())));
                }
                Err(Error::Again) => return Pumped::Idle,
                Err(error) => return Pumped::Failed(error),
            }
            if !rest.is_empty() {
                return Pumped::Idle;
            }
        }
        let mut budget = BUDGET;
        while budget > 0 {
            let room = stack.send_room(handle).min(scratch.len());
            if room == 0 {
                return Pumped::Idle;
            }
            if self.watched && matches!(self.inbound, Inbound::Open(..)) && unix::is_at_mark(self.end.as_fd())
            {
                // Nothing comes behind it. Left unread, it makes a failure look like one.
                self.outbound = Outbound::Finished;
                return Pumped::EndOfProgram;
            }
            let n = match unix::recv(self.end.as_fd(), &mut scratch[..room], 0) {
                Ok(0) => {
                    self.outbound = Outbound::Finished;
                    return Pumped::EndOfProgram;
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *blocked = false;
                    return Pumped::Idle;
                }
                Err(_) => return Pumped::ResetByProgram,
            };
            budget = budget.saturating_sub(n);
            moved.sent += n as u64;
            let taken = match stack.send(handle, &scratch[..n], None, SendFlags::empty(), now) {
                Ok(taken) => taken.min(n),
                Err(Error::Again) => 0,
                Err(error) => return Pumped::Failed(error),
            };
            if taken < n {
                rest.extend_from_slice(&scratch[taken..n]);
                return Pumped::Idle;
            }
            if n < room && !to_end {
                // The surrogate is empty; what comes now is a new edge.
                *blocked = false;
                return Pumped::Idle;
            }
        }
        // It goes on by itself.
        *blocked = false;
        Pumped::More
    }

    /// Moves bytes from the stack to the program.
    pub(super) fn pump_in(
        &mut self,
        stack: &mut dyn PluginStack,
        handle: Handle,
        now: Instant,
        scratch: &mut [u8],
        moved: &mut Moved,
    ) -> Pumped {
        let Inbound::Open(rest, done) = &mut self.inbound else { return Pumped::Idle };
        if !rest.is_empty() {
            match unix::send(self.end.as_fd(), &rest[*done..]) {
                Ok(n) => *done += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Pumped::Idle,
                // The program reads no more.
                Err(_) => *done = rest.len(),
            }
            if *done < rest.len() {
                return Pumped::Idle;
            }
            rest.clear();
            *done = 0;
        }
        let mut budget = BUDGET;
        while budget > 0 {
            let n = match stack.recv(handle, scratch, RecvFlags::empty(), now) {
                Ok(received) if received.len == 0 => {
                    let _ = unix::shutdown(self.end.as_fd(), libc::SHUT_WR);
                    self.inbound = Inbound::Finished;
                    if !self.is_open_out() {
                        // Both directions are over, in an orderly way: the mark goes.
                        let _ = unix::recv(self.end.as_fd(), &mut [0], 0);
                    }
                    return Pumped::Idle;
                }
                Ok(received) => received.len.min(scratch.len()),
                Err(Error::Again) => return Pumped::Idle,
                Err(error) => return Pumped::Failed(error),
            };
            budget = budget.saturating_sub(n);
            moved.received += n as u64;
            let gone = match unix::send(self.end.as_fd(), &scratch[..n]) {
                Ok(gone) => gone,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => n,
            };
            if gone < n {
                rest.extend_from_slice(&scratch[gone..n]);
                return Pumped::Idle;
            }
        }
        Pumped::More
    }

    /// Tells the stack that the program sends no more.
    pub(super) fn finish_out(&mut self, stack: &mut dyn PluginStack, handle: Handle, now: Instant) {
        // A stream that is not connected any more has nothing to finish.
        let _ = stack.shutdown(handle, Shutdown::Write, now);
    }
}
