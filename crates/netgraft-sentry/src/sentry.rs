//! The sentry's loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netgraft_core::route::{Always, Route};
use netgraft_core::{Budget, Core, ProgramId, Time};
use netgraft_launch::{Join, SentryArgs};
use netgraft_launch::clock;
use netgraft_launch::control::{self, FromSentry, Summary, ToSentry};
use netgraft_linux::confine;
use netgraft_linux::epoll::EventBuffer;
use netgraft_linux::memory::{self, Meter};
use netgraft_linux::task::CACHED;
use netgraft_plugin::{Events, Instant};

use crate::bindings::{Bindings, ToLauncher};
use crate::calls::{Programs, Received};
use crate::poller::{Poller, Token, events};
use crate::restore;

/// Calls of a program that are served before surrogates and the stack have their turn.
const CALLS_A_ROUND: usize = 64;

/// How long the programs' last bytes may take to be delivered after their end: less than the launcher waits.
const LAST_BYTES: Duration = Duration::from_millis(1500);

/// Descriptors of the sentry that no socket gets: those that are open from the start, those that serving a call takes
/// for a moment, and those of files that wait to be closed.
const RESERVED_DESCRIPTORS: usize = 64;

/// The least time between two measurements of the sentry's memory.
const MEASURED: Duration = Duration::from_millis(50);

/// Freed memory that is not given back to the kernel: more than that is.
const SPARE: usize = 4 << 20;

/// How much memory the sentry uses.
struct Memory {
    meter: Meter,
    /// When it is measured again at the earliest.
    next: Instant,
    /// The most sockets that there were since memory was last given back.
    most_sockets: usize,
    /// What there was when it was last given back.
    least: usize,
}

/// The sentry.
pub(crate) struct Sentry {
    core: Core<Bindings>,
    /// Programs with calls that wait.
    calling: Vec<ProgramId>,
    /// The programs have ended: until when their last bytes may take to be delivered.
    ends_at: Option<Instant>,
    stack: String,
    memory: Memory,
}

impl Sentry {
    /// A sentry that has restored what the one before it left.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub(crate) fn new(args: SentryArgs) -> io::Result<Sentry> {
        let SentryArgs {
            stack,
            listeners,
            control,
            vitals,
            journal,
            kept,
            disposal,
            home,
            limits,
            join,
            name_keys,
        } = args;
        let meter = Meter::new()?;
        let least = meter.own()?;
        let poller = Poller::new()?;
        poller.add(control.as_fd(), Events::IN | Events::RDHUP, Token::Control)?;
        for wake in stack.wake_fds() {
            poller.add(wake.fd, wake.events & (Events::IN | Events::OUT), Token::Stack)?;
        }
        let route = if stack.offers_host_fds() { Route::Host } else { Route::Stack };
        let info = stack.info();
        let descriptors = confine::descriptor_limit()?.saturating_sub(RESERVED_DESCRIPTORS);
        // Where there are few, sockets need them more.
        let threads = (descriptors / 8).max(1);
        let programs = Programs::new(vitals, home, threads);
        let launcher = ToLauncher::new(control, journal);
        let bindings = Bindings::new(programs, poller, launcher, disposal, (route == Route::Host, name_keys))?;
        let sockets = limits.sockets.min(descriptors.saturating_sub(threads.min(CACHED)));
        let budget = Budget {
            sockets,
            process_sockets: limits.process_sockets.unwrap_or(sockets / 4 * 3 + sockets % 4),
            memory: limits.memory,
            bytes: 64 << 20,
        };
        let mut sentry = Sentry {
            core: Core::new(bindings, stack, Box::new(Always(route)), budget),
            calling: Vec::new(),
            ends_at: None,
            stack: format!("{} {}", info.name, info.version),
            memory: Memory { meter, next: Instant::ZERO, most_sockets: 0, least },
        };
        sentry.core.set_joining(join == Join::Always);
        for (place, listener) in listeners {
            sentry.attach(place, listener)?;
        }
        sentry.tell_time();
        restore::restore(&mut sentry.core, &kept);
        Ok(sentry)
    }

    /// Serves a further program.
    fn attach(&mut self, place: u32, listener: OwnedFd) -> io::Result<()> {
        let bindings = self.core.kernel();
        let program = bindings.programs.attach(place, listener)?;
        let fd = bindings.programs.listener_fd(program).ok_or(io::ErrorKind::NotFound)?;
        let watched = bindings.poller.add(fd, Events::IN, Token::Listener(program));
        if watched.is_err() {
            bindings.programs.detach(program);
        }
        watched
    }

    fn tell_time(&mut self) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.core.set_time(Time { now: clock::now(), wall });
    }

    /// Serves until the launcher says stop.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut buffer = EventBuffer::new(512);
        loop {
            let timeout = self.timeout();
            self.wait(&mut buffer, timeout)?;
            self.tell_time();
            for (events, token) in events(&buffer) {
                self.on_event(events, token);
            }
            while let Some(program) = self.calling.pop() {
                self.serve_calls(program);
            }
            self.core.run();
            self.measure_memory();
            if let Some(error) = self.core.kernel().launcher.take_broken() {
                // What was closed behind its owner's back must not be closed again: the process ends anyway.
                std::mem::forget(self);
                return Err(io::Error::other(format!(
                    "the stack has closed a descriptor of the sentry: {error}"
                )));
            }
            if let Some(reason) = self.core.stack().failure() {
                let sent = self.core.kernel().launcher.send(&FromSentry::Broke(reason));
                // It is not called again, not even to be destroyed: the process ends.
                std::mem::forget(self);
                return sent;
            }
            if let Some(at) = self.ends_at
                && (clock::now() >= at || !self.core.has_last_bytes())
            {
                return self.stop();
            }
        }
    }

    /// Sleeps until something happens, and notes that another round has begun: one that does not end is seen by the
    /// launcher.
    fn wait(&mut self, buffer: &mut EventBuffer, timeout: Option<Duration>) -> io::Result<()> {
        let bindings = self.core.kernel();
        bindings.programs.vitals().end_round();
        bindings.poller.wait(buffer, timeout)?;
        if bindings.programs.vitals().begin_round() {
            bindings.programs.vitals().set_asleep(false);
            // If it is gone, the hang-up of the control socket ends the sentry.
            let _ = bindings.launcher.send(&FromSentry::Busy);
        }
        Ok(())
    }

    /// Measures the memory in use now and then, and gives back what was freed when many sockets have gone.
    fn measure_memory(&mut self) {
        let now = clock::now();
        self.memory.most_sockets = self.memory.most_sockets.max(self.core.sockets());
        if now < self.memory.next {
            return;
        }
        self.memory.next = now + MEASURED;
        // Without a measurement there is no limit but that of sockets.
        let Ok(mut used) = self.memory.meter.own() else { return };
        let have_gone = self.core.sockets() < self.memory.most_sockets / 2;
        if (have_gone && used > self.memory.least + SPARE) || self.core.is_short() {
            self.core.shrink();
            memory::trim();
            used = self.memory.meter.own().unwrap_or(used);
            self.memory.least = used;
            self.memory.most_sockets = self.core.sockets();
        }
        self.core.note_memory(used);
    }

    /// How long to sleep at most.
    fn timeout(&self) -> Option<Duration> {
        let measured = self.core.is_short().then_some(self.memory.next);
        let deadline = [self.core.next_deadline(), self.ends_at, measured].into_iter().flatten().min()?;
        if deadline == Instant::ZERO {
            return Some(Duration::ZERO);
        }
        Some(deadline.since(clock::now()))
    }

    fn on_event(&mut self, events: Events, token: Token) {
        match token {
            Token::Listener(program) if events.contains(Events::HUP) && !events.contains(Events::IN) => {
                // No thread of the program is left.
                let bindings = self.core.kernel();
                if let Some(fd) = bindings.programs.listener_fd(program) {
                    bindings.poller.remove(fd);
                }
                bindings.programs.detach(program);
            }
            Token::Listener(program) => self.calling.push(program),
            Token::Control => self.on_message(),
            Token::Closes => self.core.harvest_closes(),
            Token::Stack => self.core.wake_stack(),
            Token::Host(token) => self.core.host_ready(token),
            Token::Files => self.files_ready(),
            Token::End(id) => self.core.end_ready(id, events),
        }
    }

    fn files_ready(&mut self) {
        let mut buffer = EventBuffer::new(64);
        let ready = self.core.kernel().poller.take_files(&mut buffer).unwrap_or_default();
        for id in ready {
            self.core.file_ready(id);
        }
    }

    /// The launcher says something, or is gone.
    fn on_message(&mut self) {
        match control::receive_with_fds::<ToSentry>(self.core.kernel().launcher.fd()) {
            Ok(Some((ToSentry::Listener(place), fds))) => {
                let attached = match <[OwnedFd; 1]>::try_from(fds) {
                    Ok([listener]) => self.attach(place, listener),
                    Err(_) => Err(io::ErrorKind::InvalidInput.into()),
                };
                let answer = match attached {
                    Ok(()) => FromSentry::Attached(place),
                    Err(error) => FromSentry::NotAttached(place, error.to_string()),
                };
                let _ = self.core.kernel().launcher.send(&answer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Some((ToSentry::Stop, _)) | None) | Err(_) => {
                let bindings = self.core.kernel();
                bindings.poller.remove(bindings.launcher.fd());
                self.ends_at = Some(clock::now() + LAST_BYTES);
            }
        }
    }

    /// Serves the calls of a program that wait, as many as a round allows.
    fn serve_calls(&mut self, program: ProgramId) {
        for _ in 0..CALLS_A_ROUND {
            match self.core.kernel().programs.receive(program) {
                Ok(Received::Call(caller)) => {
                    self.core.call(&caller);
                    self.core.kernel().programs.served(program);
                }
                Ok(Received::Gone) => {}
                Ok(Received::Nothing) => return,
                Err(error) => return self.core.kernel().launcher.note_broken(error),
            }
        }
    }

    fn stop(mut self) -> io::Result<()> {
        let statistics = self.core.stack().statistics();
        self.tell_time();
        self.core.stop();
        let counts = self.core.counts();
        let summary = Summary {
            stack: self.stack,
            sockets: counts.sockets,
            connections_out: counts.connections_out,
            connections_in: counts.connections_in,
            connections_joined: counts.connections_joined,
            bytes_received: counts.bytes_received,
            bytes_sent: counts.bytes_sent,
            datagrams_received: counts.datagrams_received,
            datagrams_sent: counts.datagrams_sent,
            packets: (statistics.packets_received, statistics.packets_sent),
            calls: counts.calls,
        };
        self.core.kernel().launcher.send(&FromSentry::Summary(summary))
    }
}
