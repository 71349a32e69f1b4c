//! A stack whose calls are looked at from outside, and whose answers are cut to what its caller can use.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::contract;
use crate::contract::Call;
use crate::data::{Batch, Datagram, Fill, Spare, Streamed, Take};
use crate::faults::{LinkFaults, LinkReport};
use crate::inet::{BufferSizes, Interface, Recovery, Route, Stack, Statistics};
use crate::owners::Owners;
use crate::recording::Recording;
use crate::stack::SetupError;
use crate::{
    Cidr, Domain, Error, Event, Events, Handle, InitStackArgs, Instant, OptionName, PluginNotifier,
    PluginStack, PreInitStack, PreInitStackArgs, Received, RecvFlags, Result, SendFlags, Shutdown,
    SocketOption, SocketSpec, Sockets, StackInfo, SyscallRule, TcpInfo, WakeFd,
};

/// The most events that one call of `drain_events` reports: the rest comes with the next, whatever the stack does.
const EVENTS_A_CALL: usize = 64 * 1024;

/// Hears of each call of a stack. Called twice for each, so it must be cheap.
pub trait Observer: Send {
    /// The stack is about to be called.
    fn begin(&self, call: Call);

    /// It has answered. Not called if it never does, as when it panics.
    fn end(&self, call: Call);

    /// Whether arguments and answers are to be written down for [`Observer::trace`].
    fn traces(&self) -> bool {
        false
    }

    /// What a call that has ended was given, and its answer.
    fn trace(&self, call: Call, arguments: &str, answer: &dyn fmt::Debug) {
        let _ = (call, arguments, answer);
    }
}

/// A stack whose calls an observer hears of, from the table of the contract ([`crate::contract!`]).
///
/// Whatever the stack says, its caller gets lengths that fit its buffers, and no more events in one call than can be
/// served; a stack that loses bytes of lent memory is answered for with [`Error::Io`].
pub struct Watched<O> {
    stack: Box<dyn PluginStack>,
    observer: O,
}

impl<O: Observer> Watched<O> {
    /// Looks at the calls of a stack.
    #[must_use]
    pub fn new(stack: Box<dyn PluginStack>, observer: O) -> Watched<O> {
        Watched { stack, observer }
    }

    /// Who hears of the calls.
    #[must_use]
    pub const fn observer(&self) -> &O {
        &self.observer
    }
}

/// Makes a call, between a word before and one after it.
macro_rules! observed {
    ($self:ident, $call:ident, $arguments:expr, $answer:expr) => {{
        let arguments: Option<String> = if $self.observer.traces() { Some($arguments) } else { None };
        $self.observer.begin(Call::$call);
        let answer = $answer;
        $self.observer.end(Call::$call);
        if let Some(arguments) = arguments {
            $self.observer.trace(Call::$call, &arguments, &answer);
        }
        answer
    }};
}

/// Arguments, with their names.
macro_rules! words {
    ($($arg:ident)*) => {{
        let words: &[String] = &[$(format!(concat!(stringify!($arg), ": {:?}"), $arg)),*];
        words.join(", ")
    }};
}

/// One call of the table.
macro_rules! pass {
    ([] $call:ident(&self $(, $arg:ident: $ty:ty)*) -> $answer:ty) => {
        fn $call(&self $(, $arg: $ty)*) -> $answer {
            observed!(self, $call, words!($($arg)*), self.stack.$call($($arg),*))
        }
    };
    ([] $call:ident(&mut self $(, $arg:ident: $ty:ty)*) -> $answer:ty) => {
        fn $call(&mut self $(, $arg: $ty)*) -> $answer {
            observed!(self, $call, words!($($arg)*), self.stack.$call($($arg),*))
        }
    };
    ([quiet] $call:ident(&self) -> $answer:ty) => {
        fn $call(&self) -> $answer { self.stack.$call() }
    };
    // Written by hand below.
    ([checked] $call:ident($($args:tt)*) -> $answer:ty) => {};
}

/// The calls of one trait of the table.
macro_rules! pass_all {
    ($of:ident; $($trait:ident { $($rows:tt)* })*) => { $(pass_all!(@ $of $trait { $($rows)* });)* };
    (@ PluginStack PluginStack { $($rows:tt)* }) => { pass_all!(@ rows $($rows)*); };
    (@ Sockets Sockets { $($rows:tt)* }) => { pass_all!(@ rows $($rows)*); };
    (@ PluginNotifier PluginNotifier { $($rows:tt)* }) => { pass_all!(@ rows $($rows)*); };
    (@ Stack Stack { $($rows:tt)* }) => { pass_all!(@ rows $($rows)*); };
    (@ rows $($(#[$mark:ident])? fn $call:ident ($($args:tt)*) -> $answer:ty;)*) => {
        $(pass!([$($mark)?] $call($($args)*) -> $answer);)*
    };
    (@ $of:ident $other:ident { $($rows:tt)* }) => {};
}

impl<O: Observer> PluginStack for Watched<O> {
    contract!(pass_all for PluginStack);

    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let (mut left, mut seen) = (EVENTS_A_CALL, Vec::new());
        let traces = self.observer.traces();
        let mut bounded = |event: Event| {
            left = left.saturating_sub(1);
            if traces {
                seen.push(event);
            }
            sink(event) && left > 0
        };
        self.observer.begin(Call::drain_events);
        self.stack.drain_events(&mut bounded);
        self.observer.end(Call::drain_events);
        if traces {
            self.observer.trace(Call::drain_events, "", &seen);
        }
    }
}

impl<O: Observer> Sockets for Watched<O> {
    contract!(pass_all for Sockets);

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize> {
        let words = || format!("{handle:?}, {} bytes, to: {to:?}, {flags:?}, now: {now:?}", data.len());
        let sent = observed!(self, send, words(), self.stack.send(handle, data, to, flags, now))?;
        Ok(sent.min(data.len()))
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, now: Instant) -> Result<Received> {
        let words = || format!("{handle:?}, room for {}, {flags:?}, now: {now:?}", buf.len());
        let received = observed!(self, recv, words(), self.stack.recv(handle, buf, flags, now))?;
        Ok(Received { len: received.len.min(buf.len()), ..received })
    }

    fn send_with(
        &mut self,
        handle: Handle,
        flags: SendFlags,
        now: Instant,
        spare: Spare<'_>,
        fill: &mut Fill<'_>,
    ) -> Result<usize> {
        let mut filled = None;
        let mut once = |pieces: &mut [IoSliceMut<'_>]| match filled {
            Some(_) => 0,
            None => {
                let room = pieces.iter().map(|piece| piece.len()).sum();
                *filled.insert(fill(pieces).min(room))
            }
        };
        let words = || format!("{handle:?}, {flags:?}, now: {now:?}");
        let sent = observed!(self, send_with, words(), {
            self.stack.send_with(handle, flags, now, spare, &mut once)
        })?;
        if sent == filled.unwrap_or(0) { Ok(sent) } else { Err(Error::Io) }
    }

    fn recv_with(
        &mut self,
        handle: Handle,
        now: Instant,
        spare: Spare<'_>,
        take: &mut Take<'_>,
    ) -> Result<Streamed> {
        let mut taken = None;
        let mut once = |pieces: &[IoSlice<'_>]| match taken {
            Some(_) => 0,
            None => {
                let there = pieces.iter().map(|piece| piece.len()).sum();
                *taken.insert(take(pieces).min(there))
            }
        };
        let words = || format!("{handle:?}, now: {now:?}");
        let received =
            observed!(self, recv_with, words(), self.stack.recv_with(handle, now, spare, &mut once))?;
        match (received, taken) {
            (Streamed::Bytes(count), Some(taken)) if count == taken => Ok(received),
            (Streamed::End, None) => Ok(received),
            _ => Err(Error::Io),
        }
    }

    fn send_batch(
        &mut self,
        handle: Handle,
        batch: &[Datagram<'_>],
        flags: SendFlags,
        now: Instant,
    ) -> Batch {
        let words = || format!("{handle:?}, {} datagrams, {flags:?}, now: {now:?}", batch.len());
        let sent = observed!(self, send_batch, words(), self.stack.send_batch(handle, batch, flags, now));
        Batch { count: sent.count.min(batch.len()), ..sent }
    }

    fn recv_batch(
        &mut self,
        handle: Handle,
        limit: usize,
        now: Instant,
        scratch: &mut [u8],
        deliver: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        let mut count = 0;
        let mut bounded = |received: &Received, data: &[u8]| {
            if count < limit {
                count += 1;
                deliver(&Received { len: data.len(), ..*received }, data);
            }
        };
        let words = || format!("{handle:?}, limit: {limit}, now: {now:?}");
        let batch = observed!(self, recv_batch, words(), {
            self.stack.recv_batch(handle, limit, now, scratch, &mut bounded)
        });
        Batch { count, ..batch }
    }
}

impl<O: Observer> PluginNotifier for Watched<O> {
    contract!(pass_all for PluginNotifier);
}

impl<O: Observer> Stack for Watched<O> {
    contract!(pass_all for Stack);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A stack that says of lent memory and of lengths what it likes.
    #[derive(Default)]
    struct Liar {
        lends: usize,
        answers: usize,
        events: usize,
    }

    const HANDLE: Handle = Handle(7);

    impl Sockets for Liar {
        fn socket(&mut self, _: SocketSpec) -> Result<Handle> {
            Ok(HANDLE)
        }
        fn bind(&mut self, _: Handle, _: SocketAddr) -> Result<()> {
            Err(Error::AddressInUse)
        }
        fn connect(&mut self, _: Handle, _: SocketAddr, _: Instant) -> Result<()> {
            Ok(())
        }
        fn local_addr(&self, _: Handle) -> Result<SocketAddr> {
            Err(Error::BadHandle)
        }
        fn peer_addr(&self, _: Handle) -> Result<SocketAddr> {
            Err(Error::NotConnected)
        }
        fn send(
            &mut self,
            _: Handle,
            _: &[u8],
            _: Option<SocketAddr>,
            _: SendFlags,
            _: Instant,
        ) -> Result<usize> {
            Ok(usize::MAX)
        }
        fn recv(&mut self, _: Handle, _: &mut [u8], _: RecvFlags, _: Instant) -> Result<Received> {
            Ok(Received { len: usize::MAX, ..Received::default() })
        }
        fn send_with(
            &mut self,
            _: Handle,
            _: SendFlags,
            _: Instant,
            _: Spare<'_>,
            fill: &mut Fill<'_>,
        ) -> Result<usize> {
            for _ in 0..self.lends {
                fill(&mut [IoSliceMut::new(&mut [0; 4])]);
            }
            Ok(self.answers)
        }
        fn recv_with(
            &mut self,
            _: Handle,
            _: Instant,
            _: Spare<'_>,
            take: &mut Take<'_>,
        ) -> Result<Streamed> {
            for _ in 0..self.lends {
                take(&[IoSlice::new(b"word")]);
            }
            Ok(Streamed::Bytes(self.answers))
        }
        fn recv_batch(
            &mut self,
            _: Handle,
            _: usize,
            _: Instant,
            _: &mut [u8],
            deliver: &mut dyn FnMut(&Received, &[u8]),
        ) -> Batch {
            for _ in 0..self.lends {
                deliver(&Received { len: usize::MAX, ..Received::default() }, b"word");
            }
            Batch { count: self.answers, stopped: None }
        }
        fn shutdown(&mut self, _: Handle, _: Shutdown, _: Instant) -> Result<()> {
            Ok(())
        }
        fn close(&mut self, _: Handle, _: Instant) -> Result<()> {
            Ok(())
        }
        fn readiness(&self, _: Handle) -> Result<Events> {
            Ok(Events::empty())
        }
    }

    impl PluginNotifier for Liar {
        fn add_fd(&mut self, _: Handle, _: Events) -> Result<()> {
            Ok(())
        }
        fn update_fd(&mut self, _: Handle, _: Events) -> Result<()> {
            Ok(())
        }
        fn remove_fd(&mut self, _: Handle) -> Result<()> {
            Ok(())
        }
    }

    impl Stack for Liar {}

    impl PluginStack for Liar {
        fn info(&self) -> StackInfo {
            StackInfo::default()
        }
        fn init(&mut self, _: InitStackArgs) -> Result<(), SetupError> {
            Ok(())
        }
        fn poll(&mut self, _: Instant) {}
        fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
            while sink(Event { handle: HANDLE, events: Events::IN }) {
                self.events += 1;
            }
        }
        fn destroy(&mut self) {}
        fn failure(&self) -> Option<String> {
            Some("asked for and not heard of".to_owned())
        }
    }

    #[derive(Clone, Default)]
    struct Notes {
        lines: Arc<Mutex<Vec<String>>>,
        traces: bool,
    }

    impl Observer for Notes {
        fn begin(&self, call: Call) {
            self.lines.lock().unwrap().push(format!("begin {}", call.name()));
        }
        fn end(&self, call: Call) {
            self.lines.lock().unwrap().push(format!("end {}", call.name()));
        }
        fn traces(&self) -> bool {
            self.traces
        }
        fn trace(&self, call: Call, arguments: &str, answer: &dyn fmt::Debug) {
            self.lines.lock().unwrap().push(format!("{}({arguments}) = {answer:?}", call.name()));
        }
    }

    fn watched(stack: Liar, traces: bool) -> Watched<Notes> {
        Watched::new(Box::new(stack), Notes { traces, ..Notes::default() })
    }

    #[test]
    fn each_call_is_heard_of_before_and_after_but_the_quiet_ones() {
        let mut stack = watched(Liar::default(), false);
        stack.poll(Instant::ZERO);
        assert!(stack.failure().is_some());
        assert_eq!(stack.queued_out(HANDLE), Err(Error::NotSupported));
        assert_eq!(stack.set_tcp_sack(true), Err(Error::NotSupported));
        let expected = ["poll", "queued_out", "set_tcp_sack"];
        let expected: Vec<String> =
            expected.iter().flat_map(|call| [format!("begin {call}"), format!("end {call}")]).collect();
        assert_eq!(*stack.observer().lines.lock().unwrap(), expected);
    }

    #[test]
    fn a_trace_has_arguments_and_answers() {
        let mut stack = watched(Liar::default(), true);
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        assert!(stack.bind(HANDLE, addr).is_err());
        let _ = stack.send(HANDLE, b"four", None, SendFlags::MORE, Instant::ZERO);
        let lines = stack.observer().lines.lock().unwrap();
        assert_eq!(lines[2], "bind(handle: Handle(7), addr: 127.0.0.1:80) = Err(AddressInUse)");
        assert!(lines[5].starts_with("send(Handle(7), 4 bytes, to: None, SendFlags(MORE)"), "{}", lines[5]);
        assert!(lines[5].ends_with(&format!("= Ok({})", usize::MAX)), "as the stack said it: {}", lines[5]);
    }

    #[test]
    fn lengths_that_cannot_be_are_cut() {
        let mut stack = watched(Liar { lends: 5, ..Liar::default() }, false);
        let now = Instant::ZERO;
        assert_eq!(stack.send(HANDLE, b"four", None, SendFlags::empty(), now), Ok(4));
        let received = stack.recv(HANDLE, &mut [0; 3], RecvFlags::empty(), now).unwrap();
        assert_eq!(received.len, 3);
        let mut lengths = Vec::new();
        let mut deliver = |received: &Received, _: &[u8]| lengths.push(received.len);
        let batch = stack.recv_batch(HANDLE, 2, now, &mut [], &mut deliver);
        assert_eq!((batch.count, lengths), (2, vec![4, 4]));
    }

    #[test]
    fn lent_memory_is_lent_once_and_its_bytes_are_accounted_for() {
        let now = Instant::ZERO;
        let both = |lends, answers| {
            let mut stack = watched(Liar { lends, answers, events: 0 }, false);
            let (mut calls, mut spill) = (0, crate::Spill::new());
            let mut fill = |pieces: &mut [IoSliceMut<'_>]| {
                calls += 1;
                crate::data::copy_into(pieces, b"xyz")
            };
            let spare = Spare { scratch: &mut [], spill: &mut spill };
            let sent = stack.send_with(HANDLE, SendFlags::empty(), now, spare, &mut fill);
            let mut take = |pieces: &[IoSlice<'_>]| {
                calls += 1;
                crate::data::copy_from(pieces, &mut [0; 3])
            };
            let spare = Spare { scratch: &mut [], spill: &mut spill };
            let received = stack.recv_with(HANDLE, now, spare, &mut take);
            (calls, sent, received)
        };
        assert_eq!(both(1, 3), (2, Ok(3), Ok(Streamed::Bytes(3))));
        assert_eq!(both(9, 3), (2, Ok(3), Ok(Streamed::Bytes(3))), "the first time counts");
        assert_eq!(both(1, 2), (2, Err(Error::Io), Err(Error::Io)), "a byte is lost");
        assert_eq!(both(0, 1), (0, Err(Error::Io), Err(Error::Io)), "bytes from nowhere");
    }

    #[test]
    fn a_stack_without_end_of_events_is_left() {
        let mut stack = watched(Liar::default(), false);
        let mut seen = 0;
        stack.drain_events(&mut |_| {
            seen += 1;
            true
        });
        assert_eq!(seen, EVENTS_A_CALL);
    }
}
