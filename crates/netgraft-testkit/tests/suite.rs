//! The suite sees what a stack does wrong: a good stack behind a wrapper that breaks one promise.

use std::cell::Cell;
use std::io::IoSliceMut;
use std::net::SocketAddr;

use netgraft_plugin::data::{Batch, Datagram, Fill, Spare};
use netgraft_plugin::inet::{Interface, Statistics};
use netgraft_plugin::{
    Error, Event, Events, Handle, InitStackArgs, Instant, OptionName, PluginNotifier, PluginStack, Received,
    RecvFlags, Result, SendFlags, Shutdown, SocketOption, SocketSpec, Sockets, StackConfig, StackInfo,
    TcpInfo, inet, stack::SetupError,
};
use netgraft_smoltcp::SmoltcpStack;
use netgraft_testkit::conformance::{Progress, Report, Skips, Subject, Time, run, run_each};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    InitFails,
    ListenPanics,
    BytesChange,
    EndIsLost,
    PeekTakes,
    PeerIsWrong,
    SenderIsWrong,
    AlwaysReadable,
    EventsAreLost,
    EventsForAll,
    ErrorsStay,
    OptionsAreIgnored,
    SocketsStay,
    ResetsAreEnds,
    LengthsAreWrong,
    NothingIsTaken,
    AlwaysDue,
    LentBytesVanish,
    EmptyMemoryIsLent,
    BatchesForgetErrors,
    BatchesGoOn,
}

struct Faulty {
    stack: SmoltcpStack,
    fault: Fault,
    /// Counts what a fault spares.
    turn: Cell<u32>,
    /// The sockets that were registered.
    masks: Vec<Handle>,
}

impl Faulty {
    /// Whether this is the fault, and its turn has come: each `every` times.
    fn strikes(&self, fault: Fault, every: u32) -> bool {
        self.fault == fault && {
            self.turn.set(self.turn.get() + 1);
            self.turn.get().is_multiple_of(every)
        }
    }
}

/// What is passed on as it is.
macro_rules! pass {
    ($($name:ident(&mut self $(, $arg:ident: $ty:ty)*) -> $out:ty;)*) => {
        $(fn $name(&mut self $(, $arg: $ty)*) -> $out { self.stack.$name($($arg),*) })*
    };
    ($($name:ident(&self $(, $arg:ident: $ty:ty)*) -> $out:ty;)*) => {
        $(fn $name(&self $(, $arg: $ty)*) -> $out { self.stack.$name($($arg),*) })*
    };
}

impl Sockets for Faulty {
    pass! {
        socket(&mut self, spec: SocketSpec) -> Result<Handle>;
        bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()>;
        connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()>;
        disconnect(&mut self, handle: Handle) -> Result<()>;
        shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()>;
    }
    pass! {
        local_addr(&self, handle: Handle) -> Result<SocketAddr>;
        peer_addr(&self, handle: Handle) -> Result<SocketAddr>;
        send_room(&self, handle: Handle) -> usize;
        queued_in(&self, handle: Handle) -> Result<usize>;
        queued_out(&self, handle: Handle) -> Result<usize>;
        get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption>;
        tcp_info(&self, handle: Handle) -> Result<TcpInfo>;
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize> {
        if self.fault == Fault::NothingIsTaken {
            return Ok(0);
        }
        self.stack.send(handle, data, to, flags, now)
    }

    fn send_with(
        &mut self,
        handle: Handle,
        flags: SendFlags,
        now: Instant,
        spare: Spare<'_>,
        fill: &mut Fill<'_>,
    ) -> Result<usize> {
        if self.fault == Fault::EmptyMemoryIsLent {
            return Ok(fill(&mut [IoSliceMut::new(&mut [])]));
        }
        let mut fill = |pieces: &mut [IoSliceMut<'_>]| match fill(pieces) {
            count @ 10.. if self.fault == Fault::LentBytesVanish => count - 1,
            count => count,
        };
        self.stack.send_with(handle, flags, now, spare, &mut fill)
    }

    fn send_batch(
        &mut self,
        handle: Handle,
        batch: &[Datagram<'_>],
        flags: SendFlags,
        now: Instant,
    ) -> Batch {
        if self.fault == Fault::BatchesGoOn {
            for datagram in batch {
                let _ = self.stack.send(handle, datagram.data, datagram.to, flags, now);
            }
            return Batch { count: batch.len(), stopped: None };
        }
        self.stack.send_batch(handle, batch, flags, now)
    }

    fn recv_batch(
        &mut self,
        handle: Handle,
        limit: usize,
        now: Instant,
        scratch: &mut [u8],
        deliver: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        let batch = self.stack.recv_batch(handle, limit, now, scratch, deliver);
        match batch.stopped {
            Some(_) if self.fault == Fault::BatchesForgetErrors => {
                Batch { stopped: Some(Error::Again), ..batch }
            }
            _ => batch,
        }
    }

    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        assert_ne!(self.fault, Fault::ListenPanics, "a broken stack");
        self.stack.listen(handle, backlog)
    }

    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let (handle, mut peer) = self.stack.accept(handle)?;
        if self.fault == Fault::PeerIsWrong {
            peer.set_port(peer.port() ^ 1);
        }
        Ok((handle, peer))
    }

    fn recv(
        &mut self,
        handle: Handle,
        buf: &mut [u8],
        mut flags: RecvFlags,
        now: Instant,
    ) -> Result<Received> {
        if self.fault == Fault::PeekTakes {
            flags = RecvFlags::empty();
        }
        let mut got = match self.stack.recv(handle, buf, flags, now) {
            Err(Error::ConnectionReset) if self.fault == Fault::ResetsAreEnds => Received::default(),
            got => got?,
        };
        if self.strikes(Fault::BytesChange, 20) && got.len > 0 {
            buf[got.len - 1] ^= 1;
        }
        if self.fault == Fault::EndIsLost && got.len == 0 && got.from.is_none() {
            return Err(Error::Again);
        }
        if self.fault == Fault::LengthsAreWrong {
            got.len = buf.len() + 1;
        }
        if self.fault == Fault::SenderIsWrong {
            got.from = got.from.map(|from| SocketAddr::new(from.ip(), from.port() ^ 1));
        }
        Ok(got)
    }

    fn close(&mut self, handle: Handle, now: Instant) -> Result<()> {
        if self.fault == Fault::SocketsStay {
            return self.stack.shutdown(handle, Shutdown::Both, now).or(Ok(()));
        }
        self.stack.close(handle, now)
    }

    fn abort(&mut self, handle: Handle, now: Instant) -> Result<()> {
        self.stack.abort(handle, now)
    }

    fn readiness(&self, handle: Handle) -> Result<Events> {
        let more = if self.fault == Fault::AlwaysReadable { Events::IN } else { Events::empty() };
        Ok(self.stack.readiness(handle)? | more)
    }

    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        if self.fault == Fault::ErrorsStay {
            let refused = self.stack.readiness(handle).is_ok_and(|ready| ready.contains(Events::ERR));
            return refused.then_some(Error::ConnectionRefused);
        }
        self.stack.take_error(handle)
    }

    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        if self.fault == Fault::OptionsAreIgnored { Ok(()) } else { self.stack.set_option(handle, option) }
    }
}

impl PluginNotifier for Faulty {
    fn add_fd(&mut self, handle: Handle, mask: Events) -> Result<()> {
        self.masks.push(handle);
        self.stack.add_fd(handle, mask)
    }
    pass! {
        update_fd(&mut self, handle: Handle, mask: Events) -> Result<()>;
        remove_fd(&mut self, handle: Handle) -> Result<()>;
    }
}

impl inet::Stack for Faulty {
    pass! {
        interfaces(&self) -> Vec<Interface>;
        statistics(&self) -> Statistics;
    }
}

impl PluginStack for Faulty {
    fn init(&mut self, args: InitStackArgs) -> Result<(), SetupError> {
        if self.fault == Fault::InitFails {
            return Err(SetupError::new("it does not want to"));
        }
        self.stack.init(args)
    }
    pass! {
        info(&self) -> StackInfo;
    }
    fn next_deadline(&self) -> Option<Instant> {
        if self.fault == Fault::AlwaysDue { Some(Instant::ZERO) } else { self.stack.next_deadline() }
    }
    fn destroy(&mut self) {
        self.stack.destroy();
    }
    fn poll(&mut self, now: Instant) {
        self.stack.poll(now);
    }
    fn drain_events(&mut self, sink: &mut dyn FnMut(Event) -> bool) {
        let (fault, turn, masks) = (self.fault, &self.turn, &self.masks);
        self.stack.drain_events(&mut |event| {
            turn.set(turn.get() + 1);
            match fault {
                Fault::EventsAreLost if turn.get().is_multiple_of(3) => true,
                Fault::EventsForAll => masks.iter().all(|handle| sink(Event { handle: *handle, ..event })),
                _ => sink(event),
            }
        });
    }
}

/// What the suite finds with a fault.
fn report(fault: Fault, filter: &str) -> Report {
    let factory = std::sync::Arc::new(move |config: &StackConfig| {
        let stack = SmoltcpStack::new(config.clone())?;
        Ok(Box::new(Faulty { stack, fault, turn: Cell::new(0), masks: Vec::new() }) as Box<dyn PluginStack>)
    });
    let subject = Subject::from_factory("smoltcp", factory, StackConfig::default(), Time::Simulated);
    let report = run(&subject, filter);
    assert!(!report.rows.is_empty(), "{filter} names no case");
    report
}

#[test]
fn without_a_fault_the_wrapper_passes() {
    let report = report(Fault::Nothing, "");
    let skips = Skips::parse(include_str!("../deviations.toml")).unwrap();
    assert!(skips.unexplained(&report).is_empty(), "{}", report.table());
}

#[test]
fn every_fault_is_seen() {
    let seen = [
        (Fault::InitFails, "create/a fresh datagram socket is writable [v4]"),
        (Fault::ListenPanics, "listen/a second listen changes the backlog [v4]"),
        (Fault::BytesChange, "stream/a megabyte arrives whole [v6]"),
        (Fault::EndIsLost, "shutdown/closing the sending half ends the peer's reading [v4]"),
        (Fault::PeekTakes, "stream/a peek leaves everything [v4]"),
        (Fault::PeekTakes, "datagram/a peek leaves it [v6]"),
        (Fault::PeerIsWrong, "listen/connections come in order [v4]"),
        (Fault::SenderIsWrong, "datagram/a datagram comes with its sender [v4]"),
        (Fault::AlwaysReadable, "stream/nothing there says again [v4]"),
        (Fault::AlwaysReadable, "random/calls in any order keep the stack's word [v4]"),
        (Fault::EventsAreLost, "notify/data after an empty read is reported [v4]"),
        (Fault::EventsForAll, "notify/readiness is reported for the socket that has it only [v4]"),
        (Fault::ErrorsStay, "connect/a port without a listener refuses [v4]"),
        (Fault::OptionsAreIgnored, "options/switches are kept [v4]"),
        (Fault::OptionsAreIgnored, "options/what the stack does not name it refuses [v4]"),
        (Fault::SocketsStay, "many/sockets that are made and closed leave nothing [v4]"),
        (Fault::SocketsStay, "create/a closed handle is gone at once [v4]"),
        (Fault::LengthsAreWrong, "stream/questions and answers [v4]"),
        (Fault::LengthsAreWrong, "datagram/boundaries are kept and order too [v4]"),
        (Fault::LentBytesVanish, "lent/a megabyte passes through lent memory [v4]"),
        (Fault::EmptyMemoryIsLent, "lent/what is written into lent memory arrives [v4]"),
        (Fault::EndIsLost, "lent/the end comes after the bytes and stays [v6]"),
        (Fault::LengthsAreWrong, "lent/what is written into lent memory arrives [v6]"),
        (Fault::ResetsAreEnds, "lent/a reset is reported, and nothing is taken [v4]"),
        (Fault::BatchesGoOn, "lent/a batch stops at what cannot be sent [v4]"),
        (Fault::BatchesForgetErrors, "lent/a refusal stops a batch [v4]"),
        (Fault::NothingIsTaken, "stream/a megabyte arrives whole [v4]"),
        (Fault::NothingIsTaken, "random/bytes of random streams arrive as they were sent [v4]"),
        (Fault::ResetsAreEnds, "stream/closing with unread data resets [v4]"),
    ];
    for (fault, case) in seen {
        let report = report(fault, case);
        let failed: Vec<String> = report.failures().map(|row| row.id()).collect();
        assert_eq!(failed, [case], "{fault:?} was not seen: {}", report.table());
    }
}

#[test]
fn a_stack_that_is_always_due_does_not_stop_time() {
    let report = report(Fault::AlwaysDue, "what a full queue turned away comes later");
    assert_eq!(report.failures().count(), 0, "{}", report.table());
}

#[test]
fn progress_is_told_before_and_after_each_case() {
    let factory = netgraft_smoltcp::factory();
    let subject = Subject::from_factory("smoltcp", factory, StackConfig::default(), Time::Simulated);
    let mut seen = Vec::new();
    let report = run_each(&subject, "create/handles", &mut |progress| {
        seen.push(match progress {
            Progress::Begins(id) => format!("begins {id}"),
            Progress::Ended(row) => format!("ended {}", row.id()),
        });
    });
    assert_eq!(seen, ["begins", "ended"].map(|way| format!("{way} create/handles are not used again [v4]")));
    assert_eq!(report.counts(), (1, 0, 0));
}

#[test]
fn a_failure_says_what_a_stack_did() {
    let table = report(Fault::InitFails, "create/").table();
    assert!(table.contains("init: expected a stack, got it does not want to"), "{table}");
    let table = report(Fault::ListenPanics, "listen/a second listen").table();
    assert!(table.contains("expected no panic, got") && table.contains("a broken stack"), "{table}");
}
