//! A connected stream: bytes between the sentry's end of the surrogate and the stack.
//!
//! The end is watched by edge, so each pump goes on until one side would block.

use std::io::{IoSlice, IoSliceMut};

use netgraft_plugin::{Error, Handle, Instant, SendFlags, Shutdown, Spare, Spill, Streamed};

use crate::program::Files;
use crate::stack::Stack;
use crate::surrogate::{Interest, Surrogate};
use crate::uapi;

/// The most bytes that are moved at a time.
pub(crate) const CHUNK: usize = 256 * 1024;
/// The most bytes that one pump moves before others have their turn.
pub(crate) const BUDGET: usize = 4 * CHUNK;

/// From the program to the stack.
#[derive(Debug)]
enum Outbound {
    /// The program may send.
    Open {
        /// Bytes that a stack which lends no memory had no room for.
        spill: Spill,
        /// Which side the next byte waits for.
        waits_for: Side,
        urgent: Urgent,
    },
    /// The program sends no more, and the stack knows.
    Finished,
}

/// Whether urgent data is among what the program has sent (`MSG_OOB`, send(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgent {
    /// None, or the stack has it.
    No,
    /// It lies in the surrogate, and must not be read as other bytes are.
    Ahead,
}

/// Gives the stack a byte as urgent data; one that has none takes it as any other.
fn send_urgent<K>(pump: &mut Pump<'_, K>, byte: u8) -> Result<(), Error> {
    let Pump { stack, handle, now, moved, .. } = pump;
    let sent = match stack.send(*handle, &[byte], None, SendFlags::OUT_OF_BAND, *now) {
        Err(Error::NotSupported) => stack.send(*handle, &[byte], None, SendFlags::empty(), *now),
        sent => sent,
    };
    match sent? {
        0 => Err(Error::Again),
        _ => {
            *moved += 1;
            Ok(())
        }
    }
}

/// Gives the program the first byte as urgent data.
fn send_urgent_in<K: Surrogate>(
    kernel: &mut K,
    end: &K::End,
    pieces: &[IoSlice<'_>],
) -> Result<usize, uapi::Errno> {
    let byte = pieces.first().and_then(|piece| piece.first()).copied().unwrap_or_default();
    kernel.send_urgent(end, byte).map(|()| 1)
}

/// Gives the program bytes of the first piece, at most so many; how many these are, and what came of it.
fn before<K: Surrogate>(
    kernel: &mut K,
    end: &K::End,
    pieces: &[IoSlice<'_>],
    most: usize,
) -> (usize, Result<usize, uapi::Errno>) {
    let first = pieces.first().map_or(&[][..], |piece| piece);
    let part = first.get(..most).unwrap_or(first);
    (part.len(), kernel.send(end, part))
}

/// What the next byte of a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The program: for its bytes, or for room in the surrogate.
    Program,
    /// The stack: for room, or for bytes. It reports when it has some.
    Stack,
}

/// From the stack to the program.
#[derive(Debug)]
enum Inbound {
    /// The peer may send.
    Open {
        /// Bytes of a stack which lends no memory that the surrogate had no room for.
        spill: Spill,
        /// Which side the next byte waits for.
        waits_for: Side,
        /// How many bytes it is until behind the last one of the peer's urgent data; 0 if there is none.
        mark: usize,
    },
    /// The peer sends no more and the program knows, or the program reads no more.
    Finished,
}

/// What is left of a non-blocking `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Nothing: it was blocking, or accepted, or all of it is done.
    Done,
    /// It has succeeded, and the program has not called `connect` again: the next call says so, and only those after it
    /// that the socket is connected.
    Unreported,
}

/// Whether the program's send buffer is still as small as the gate made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendBuffer {
    /// It is as the program knows it.
    Restored,
    /// It is the smallest: restored at the next call.
    Clamped,
}

/// What it means that the sentry's end hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HangUp {
    /// The program has closed its last descriptor.
    Closed,
    /// Both directions are over, since the program has called shutdown(2); a watch tells of its close.
    Shut,
}

/// A connected stream socket.
#[derive(Debug)]
pub(crate) struct Stream<E> {
    end: E,
    outbound: Outbound,
    inbound: Inbound,
    hang_up: HangUp,
    /// How the connection has failed, while bytes that came before the failure wait for the program to read.
    failure: Option<Error>,
    /// Which events of the end the poller reports.
    interest: Interest,
    pub(crate) opening: Opening,
    pub(crate) send_buffer: SendBuffer,
}

/// What a pump ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
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

/// What a pump works with.
pub(crate) struct Pump<'a, K> {
    pub(crate) kernel: &'a mut K,
    pub(crate) stack: &'a mut Stack,
    pub(crate) handle: Handle,
    pub(crate) now: Instant,
    pub(crate) scratch: &'a mut [u8],
    /// Bytes that were moved.
    pub(crate) moved: u64,
}

impl<E> Stream<E> {
    /// A stream on the sentry's end of a surrogate.
    pub(crate) fn new(end: E) -> Stream<E> {
        Stream {
            end,
            outbound: Outbound::Open { spill: Spill::new(), waits_for: Side::Program, urgent: Urgent::No },
            inbound: Inbound::Open { spill: Spill::new(), waits_for: Side::Stack, mark: 0 },
            hang_up: HangUp::Closed,
            failure: None,
            interest: Interest::Input,
            opening: Opening::Done,
            send_buffer: SendBuffer::Restored,
        }
    }

    /// The sentry's end.
    pub(crate) fn end(&self) -> &E {
        &self.end
    }

    /// Gives up the stream for its end.
    pub(crate) fn into_end(self) -> E {
        self.end
    }

    /// Whether the program may still send.
    pub(crate) fn is_open_out(&self) -> bool {
        matches!(self.outbound, Outbound::Open { .. })
    }

    /// Whether bytes of the program wait for room in the stack.
    pub(crate) fn waits_for_stack(&self) -> bool {
        matches!(self.outbound, Outbound::Open { waits_for: Side::Stack, .. })
    }

    /// Whether bytes for the program wait for room in the surrogate.
    pub(crate) fn waits_for_program(&self) -> bool {
        matches!(self.inbound, Inbound::Open { waits_for: Side::Program, .. })
    }

    /// Bytes that the sentry itself holds for either side.
    pub(crate) fn buffered(&self) -> usize {
        let out = if let Outbound::Open { spill, .. } = &self.outbound { spill.bytes().len() } else { 0 };
        let inward = if let Inbound::Open { spill, .. } = &self.inbound { spill.bytes().len() } else { 0 };
        out + inward
    }

    /// Which events of the end the poller reports.
    pub(crate) fn interest(&self) -> Interest {
        self.interest
    }

    /// Changes which events of the end the poller reports; answers whether that is a change.
    pub(crate) fn set_interest(&mut self, interest: Interest) -> bool {
        std::mem::replace(&mut self.interest, interest) != interest
    }

    /// Whether the program has called shutdown(2), so that only a watch tells of its close.
    pub(crate) fn is_shut(&self) -> bool {
        self.hang_up == HangUp::Shut
    }

    /// The program has called shutdown(2). The mark that is left then makes an ordinary byte of an urgent one.
    pub(crate) fn note_shut(&mut self) {
        self.hang_up = HangUp::Shut;
        if let Outbound::Open { urgent, .. } = &mut self.outbound {
            *urgent = Urgent::No;
        }
    }

    /// Urgent data lies in the surrogate, behind what the program has sent before.
    pub(crate) fn note_urgent(&mut self) {
        if let Outbound::Open { urgent, .. } = &mut self.outbound {
            *urgent = Urgent::Ahead;
        }
    }

    /// The program has closed its last descriptor after a shutdown(2).
    pub(crate) fn note_closed_after_shutdown(&mut self) {
        self.hang_up = HangUp::Closed;
    }

    /// The connection has failed, which the program is to see behind the bytes that it has not read. It sends no more.
    pub(crate) fn note_failure(&mut self, error: Error) {
        self.failure = Some(error);
        self.outbound = Outbound::Finished;
    }

    /// Whether the program has closed its last descriptor.
    pub(crate) fn program_is_gone<K: Surrogate + Files<End = E>>(&self, kernel: &mut K) -> bool {
        self.hang_up == HangUp::Closed && kernel.is_hung_up(&self.end)
    }

    /// Moves bytes from the program to the stack; `to_end` if the end of the stream is known to be behind them, so that
    /// no new edge will tell of it.
    pub(crate) fn pump_out<K: Surrogate + Files<End = E>>(
        &mut self,
        pump: &mut Pump<'_, K>,
        to_end: bool,
    ) -> Pumped {
        let Outbound::Open { spill, waits_for, urgent } = &mut self.outbound else { return Pumped::Idle };
        // Until the stack has shown that it has room.
        *waits_for = Side::Stack;
        let mut budget = BUDGET;
        while budget > 0 {
            let open_in = matches!(self.inbound, Inbound::Open { .. });
            let shut = self.hang_up == HangUp::Shut && open_in && spill.is_empty();
            if shut && pump.kernel.is_at_mark(&self.end) {
                // Nothing comes behind it. Left unread, it makes a failure look like one.
                self.outbound = Outbound::Finished;
                return Pumped::EndOfProgram;
            }
            let (mut read, mut mark) = (None, None);
            let mut fill = |pieces: &mut [IoSliceMut<'_>]| {
                if *urgent == Urgent::Ahead {
                    mark = pump.kernel.next_urgent(&self.end);
                    if mark.is_some() {
                        return 0;
                    }
                }
                let room = pieces.iter().map(|piece| piece.len()).sum();
                let result = pump.kernel.receive_pieces(&self.end, pieces).map(|n: usize| n.min(room));
                read = Some((result, room));
                result.unwrap_or(0)
            };
            let spare = Spare { scratch: pump.scratch, spill };
            let sent = pump.stack.send_with(pump.handle, pump.now, spare, &mut fill);
            if let Some(byte) = mark.filter(|_| spill.is_empty()) {
                match send_urgent(pump, byte) {
                    Ok(()) => {
                        pump.kernel.take_urgent(&self.end);
                        *urgent = Urgent::No;
                        continue;
                    }
                    Err(Error::Again) => return Pumped::Idle,
                    Err(error) => return Pumped::Failed(error),
                }
            }
            match (read, sent) {
                (_, Err(error)) if error != Error::Again => return Pumped::Failed(error),
                (None, _) => return Pumped::Idle,
                (Some((Ok(0), _)), _) => {
                    self.outbound = Outbound::Finished;
                    return Pumped::EndOfProgram;
                }
                (Some((Err(uapi::EAGAIN), _)), _) => {
                    *urgent = Urgent::No;
                    *waits_for = Side::Program;
                    return Pumped::Idle;
                }
                (Some((Err(_), _)), _) => return Pumped::ResetByProgram,
                (Some((Ok(n), room)), _) => {
                    budget = budget.saturating_sub(n);
                    pump.moved += n as u64;
                    if !spill.is_empty() {
                        return Pumped::Idle;
                    }
                    if n < room && !to_end && *urgent == Urgent::No {
                        // The surrogate is empty; what comes now is a new edge.
                        *waits_for = Side::Program;
                        return Pumped::Idle;
                    }
                }
            }
        }
        // It goes on by itself.
        *waits_for = Side::Program;
        Pumped::More
    }

    /// Moves bytes from the stack to the program.
    pub(crate) fn pump_in<K: Surrogate + Files<End = E>>(&mut self, pump: &mut Pump<'_, K>) -> Pumped {
        let Inbound::Open { spill, waits_for, mark } = &mut self.inbound else {
            return self.failure.map_or(Pumped::Idle, Pumped::Failed);
        };
        // Until the surrogate has shown that it has no room.
        *waits_for = Side::Stack;
        let mut budget = BUDGET;
        while budget > 0 {
            let mut given = None;
            if let Ok(ahead @ 1..) = pump.stack.urgent(pump.handle) {
                *mark = ahead.saturating_add(spill.bytes().len());
            }
            let mut take = |pieces: &[IoSlice<'_>]| {
                let there = pieces.iter().map(|piece| piece.len()).sum();
                let (there, result) = match *mark {
                    1 => (1, send_urgent_in(pump.kernel, &self.end, pieces)),
                    // Up to the urgent byte, which leaves by itself.
                    mark if (2..=there).contains(&mark) => before(pump.kernel, &self.end, pieces, mark - 1),
                    _ => (there, pump.kernel.send_pieces(&self.end, pieces)),
                };
                let taken = match result {
                    Ok(n) => n.min(there),
                    Err(uapi::EAGAIN) => 0,
                    // The program reads no more.
                    Err(_) => there,
                };
                given = Some((taken, there));
                taken
            };
            let spare = Spare { scratch: pump.scratch, spill };
            match (pump.stack.recv_with(pump.handle, pump.now, spare, &mut take), self.failure) {
                (Ok(Streamed::Bytes(_)), _) => {}
                (_, Some(failure)) => return Pumped::Failed(failure),
                (Ok(Streamed::End), None) => {
                    pump.kernel.shut_end(&self.end);
                    self.inbound = Inbound::Finished;
                    if !self.is_open_out() {
                        // Both directions are over, in an orderly way: the mark goes.
                        pump.kernel.clear_mark(&self.end);
                    }
                    return Pumped::Idle;
                }
                (Err(Error::Again), None) => return Pumped::Idle,
                (Err(error), None) => return Pumped::Failed(error),
            }
            let Some((taken, there)) = given else {
                return self.failure.map_or(Pumped::Idle, Pumped::Failed);
            };
            budget = budget.saturating_sub(taken);
            pump.moved += taken as u64;
            *mark = mark.saturating_sub(taken);
            if taken < there {
                *waits_for = Side::Program;
                return Pumped::Idle;
            }
        }
        Pumped::More
    }

    /// Tells the stack that the program sends no more.
    pub(crate) fn finish_out(&mut self, stack: &mut Stack, handle: Handle, now: Instant) {
        // A stream that is not connected any more has nothing to finish.
        let _ = stack.shutdown(handle, Shutdown::Write, now);
    }
}
