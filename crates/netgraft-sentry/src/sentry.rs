//! The sentry's loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netgraft_core::policy::PolicyRouter;
use netgraft_core::route::{ByKind, Route, Router};
use netgraft_core::{Budget, Core, Journal, ProgramId, Time};
use netgraft_launch::clock;
use netgraft_launch::control::{self, FromSentry, Summary, ToSentry};
use netgraft_launch::vitals::Vitals;
use netgraft_launch::{Join, SentryArgs};
use netgraft_linux::confine;
use netgraft_linux::epoll::EventBuffer;
use netgraft_linux::filter::Sockets;
use netgraft_linux::inspector::Inspector;
use netgraft_linux::memory::{self, Meter};
use netgraft_linux::task::CACHED;
use netgraft_linux::worker::Worker;
use netgraft_plugin::recording::Recording;
use netgraft_plugin::{Events, Instant};

use crate::bindings::{Bindings, FlowsOut, ToLauncher, links};
use crate::calls::{self, Programs, Received};
use crate::operator::{Operators, Ways};
use crate::poller::{Poller, Token, events};
use crate::restore;
use crate::turns::{Sleep, Turn, Turns};

/// Calls of a program that are served before surrogates and the stack have their turn.
const CALLS_A_ROUND: usize = 64;

/// How long the programs' last bytes may take to be delivered after their end: less than the launcher waits.
const LAST_BYTES: Duration = Duration::from_millis(1500);

/// When the end of a capture is given up: nothing was taken for so long, and in any case. The launcher waits longer.
const CAPTURE_STILL: Duration = Duration::from_secs(2);
const CAPTURE_MOST: Duration = Duration::from_secs(10);
/// Between two looks whether more of it can be sent.
const CAPTURE_RETRY: Duration = Duration::from_millis(2);

/// Descriptors of the sentry that no socket gets: those that are open from the start, those that serving a call takes
/// for a moment, and those of files that wait to be closed.
const RESERVED_DESCRIPTORS: usize = 64;

/// The least time between two measurements of the sentry's memory.
const MEASURED: Duration = Duration::from_millis(50);

/// Freed memory that is not given back to the kernel: more than that is.
const SPARE: usize = 4 << 20;
/// How often memory is given back after many sockets have gone, and how long after the last time.
const AGAIN: u8 = 4;
const LATER: Duration = Duration::from_millis(500);

/// How much memory the sentry uses.
struct Memory {
    meter: Meter,
    /// When it is measured again at the earliest.
    next: Instant,
    /// Whether something has happened since it was measured.
    is_stale: bool,
    /// The most sockets that there were since memory was last given back.
    most_sockets: usize,
    /// What there was when it was last given back.
    least: usize,
    /// How often more is to be given back soon: what sockets held is freed a while after they have gone.
    again: u8,
}

/// The sentry's loop: everything but the calls of the first program, which have a thread of their own.
pub(crate) struct Sentry {
    turns: Arc<Turns>,
    poller: Arc<Poller>,
    vitals: Vitals,
    /// Programs with calls that wait.
    calling: Vec<ProgramId>,
    /// The programs have ended: until when their last bytes may take to be delivered.
    ends_at: Option<Instant>,
    stack: String,
    memory: Memory,
    /// The thread for calls, until a program has it.
    calls: Option<Worker>,
    operators: Operators,
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
            calls,
            wake,
            home,
            is_successor,
            limits,
            join,
            sockets,
            is_private,
            of_host,
            policy,
            flows,
            name_keys,
            meter,
            inspector,
        } = args;
        let least = meter.own()?;
        let poller = Arc::new(Poller::new()?);
        poller.add(control.as_fd(), Events::IN | Events::RDHUP, Token::Control)?;
        for wake in stack.wake_fds() {
            poller.add(wake.fd, wake.events & (Events::IN | Events::OUT), Token::Stack)?;
        }
        let behind = sockets;
        let routes = match sockets {
            Sockets::Host => ByKind { streams: Route::Host, datagrams: Route::Host },
            Sockets::Surrogates => ByKind { streams: Route::Stack, datagrams: Route::Stack },
            Sockets::StreamSurrogates => ByKind { streams: Route::Stack, datagrams: Route::Kernel },
        };
        let info = stack.info();
        let descriptors = confine::descriptor_limit()?.saturating_sub(RESERVED_DESCRIPTORS);
        // Where there are few, sockets need them more.
        let threads = (descriptors / 8).max(1);
        let mut programs = Programs::new(vitals.clone(), home, is_successor, threads);
        if let Some(inspector) = inspector {
            programs.tasks.set_inspector(Inspector::new(inspector));
        }
        let launcher = ToLauncher::new(control, journal);
        let bindings = Bindings::new(
            programs,
            Arc::clone(&poller),
            launcher,
            disposal,
            (sockets == Sockets::Host, name_keys),
        )?;
        let sockets = limits.sockets.min(descriptors.saturating_sub(threads.min(CACHED)));
        let budget = Budget {
            sockets,
            process_sockets: limits.process_sockets.unwrap_or(sockets / 4 * 3 + sockets % 4),
            memory: limits.memory,
            bytes: 64 << 20,
        };
        let router: Box<dyn Router> = match policy {
            Some(policy) => Box::new(PolicyRouter { routes, policy }),
            None => Box::new(routes),
        };
        let mut core = Core::new(bindings, stack, router, budget);
        core.set_joining(join == Join::Always);
        if let Some(socket) = flows {
            core.kernel().flows = Some(FlowsOut::new(socket));
            core.record_flows();
        }
        core.set_time(time());
        if is_private {
            core.expect_private_links();
        }
        let turns = Arc::new(Turns::new(core, wake));
        poller.add(turns.wake_fd(), Events::IN, Token::Wake)?;
        let mut sentry = Sentry {
            turns: Arc::clone(&turns),
            poller,
            vitals,
            calling: Vec::new(),
            ends_at: None,
            stack: format!("{} {}", info.name, info.version),
            memory: Memory { meter, next: Instant::ZERO, is_stale: true, most_sockets: 0, least, again: 0 },
            calls,
            operators: Operators::new(Ways { sockets: behind, is_private, of_host, routes }),
        };
        let mut turn = turns.take();
        restore::restore(&mut turn.core, &kept);
        for (place, listener) in listeners {
            sentry.attach(&mut turn.core, place, listener)?;
        }
        Ok(sentry)
    }

    /// Serves a further program: the first by a thread that waits for its calls, the others in the loop.
    fn attach(&mut self, core: &mut Core<Bindings>, place: u32, listener: OwnedFd) -> io::Result<()> {
        let bindings = core.kernel();
        let program = bindings.programs.attach(place, listener)?;
        let listener = Arc::clone(bindings.programs.listener(program).ok_or(io::ErrorKind::NotFound)?);
        // Its end is reported in any case.
        let events = if self.calls.is_some() { Events::empty() } else { Events::IN };
        let watched = bindings.poller.add(listener.as_fd(), events, Token::Listener(program));
        if watched.is_err() {
            bindings.programs.detach(program);
        } else if let Some(worker) = self.calls.take() {
            let (turns, vitals) = (Arc::clone(&self.turns), self.vitals.clone());
            worker.run(move || calls::serve(&turns, &listener, program, &vitals));
        }
        watched
    }

    /// Serves until the launcher says stop.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut buffer = EventBuffer::new(512);
        let turns = Arc::clone(&self.turns);
        let mut turn = turns.take();
        loop {
            turn = match self.wait(&turns, turn, &mut buffer) {
                Ok(turn) => turn,
                Err(error) => {
                    // Also that the poller was closed behind its owner's back, with all the others: nothing is to be closed again.
                    std::mem::forget(self);
                    return Err(error);
                }
            };
            let core = &mut turn.core;
            if let Some(error) = turns.take_ended() {
                // What the thread worked on is in an unknown state: nothing is to touch it, not even to drop it.
                std::mem::forget((turn, self));
                return Err(error);
            }
            core.set_time(time());
            // Unless a call has found that the stack is not to be used any more.
            if !calls::is_over(core) {
                for (events, token) in events(&buffer) {
                    self.on_event(core, events, token);
                }
                while let Some(program) = self.calling.pop() {
                    serve_calls(core, program);
                }
                core.run();
                core.kernel().flush_flows();
                self.operators.rounds += 1;
                self.measure_memory(core);
            }
            if let Some(error) = core.kernel().launcher.take_broken() {
                // What was closed behind its owner's back must not be closed again: the process ends anyway.
                std::mem::forget((turn, self));
                return Err(io::Error::other(format!(
                    "the stack has closed a descriptor of the sentry: {error}"
                )));
            }
            if let Some(reason) = core.stack().failure() {
                let sent = core.kernel().launcher.send(&FromSentry::Broke(reason));
                // It is not called again, not even to be destroyed: the process ends.
                std::mem::forget((turn, self));
                return sent;
            }
            if let Some(at) = self.ends_at
                && (clock::now() >= at || !core.has_last_bytes())
            {
                let stopped = self.stop(core);
                // A call that comes now finds no stack.
                std::mem::forget(turn);
                return stopped;
            }
        }
    }

    /// Gives the turn up and sleeps until something happens, then waits for a turn: from then on another round is under
    /// way, and the launcher sees one that does not end.
    fn wait<'a>(
        &self,
        turns: &'a Turns,
        mut turn: MutexGuard<'a, Turn>,
        buffer: &mut EventBuffer,
    ) -> io::Result<MutexGuard<'a, Turn>> {
        let timeout = self.timeout(&mut turn);
        self.vitals.end_round();
        drop(turn);
        self.poller.wait(buffer, timeout)?;
        let mut turn = turns.take();
        turn.sleeps = None;
        calls::begin_round(&self.vitals, &mut turn);
        Ok(turn)
    }

    /// Measures the memory in use now and then, and gives back what was freed when many sockets have gone.
    fn measure_memory(&mut self, core: &mut Core<Bindings>) {
        let now = clock::now();
        self.memory.most_sockets = self.memory.most_sockets.max(core.sockets());
        if now < self.memory.next {
            self.memory.is_stale = true;
            return;
        }
        self.memory.is_stale = false;
        self.memory.next = now + MEASURED;
        // Without a measurement there is no limit but that of sockets.
        let Ok(mut used) = self.memory.meter.own() else { return };
        let have_gone = core.sockets() < self.memory.most_sockets / 2 && used > self.memory.least + SPARE;
        if have_gone {
            self.memory.again = AGAIN;
        }
        if self.memory.again > 0 || core.is_short() {
            self.memory.again = self.memory.again.saturating_sub(1);
            core.shrink();
            memory::trim();
            used = self.memory.meter.own().unwrap_or(used);
            self.memory.least = used;
            self.memory.most_sockets = core.sockets();
        }
        if self.memory.again > 0 && !core.is_short() {
            // Also if nothing happens until then.
            self.memory.next = now + LATER;
            self.memory.is_stale = true;
        }
        core.note_memory(used);
    }

    /// How long to sleep at most, which the turn remembers.
    fn timeout(&self, turn: &mut Turn) -> Option<Duration> {
        // What was freed at the end of something is given back even if nothing follows.
        let measured = (turn.core.is_short() || self.memory.is_stale).then_some(self.memory.next);
        let deadline = [turn.core.next_deadline(), self.ends_at, measured].into_iter().flatten().min();
        turn.sleeps = Some(deadline.map_or(Sleep::Forever, Sleep::Until));
        let deadline = deadline?;
        if deadline == Instant::ZERO {
            return Some(Duration::ZERO);
        }
        Some(deadline.since(clock::now()))
    }

    fn on_event(&mut self, core: &mut Core<Bindings>, events: Events, token: Token) {
        match token {
            Token::Listener(program) if events.contains(Events::HUP) && !events.contains(Events::IN) => {
                // No thread of the program is left.
                let bindings = core.kernel();
                if let Some(fd) = bindings.programs.listener_fd(program) {
                    bindings.poller.remove(fd);
                }
                bindings.programs.detach(program);
            }
            Token::Listener(program) => self.calling.push(program),
            Token::Control => self.on_message(core),
            Token::Closes => core.harvest_closes(),
            Token::Stack => core.wake_stack(),
            Token::Host(token) => core.host_ready(token),
            Token::Files => files_ready(core),
            Token::Wake => self.turns.clear_wake(),
            Token::End(id) => core.end_ready(id, events),
            Token::Operator(number) => self.operators.ready(number, core),
            Token::Link(number) => links::ready(core, number),
            Token::Observer => links::observed(core),
        }
    }

    /// The launcher says something, or is gone.
    fn on_message(&mut self, core: &mut Core<Bindings>) {
        match control::receive_with_fds::<ToSentry>(core.kernel().launcher.fd()) {
            Ok(Some((ToSentry::Listener(place), fds))) => {
                let attached = match <[OwnedFd; 1]>::try_from(fds) {
                    Ok([listener]) => self.attach(core, place, listener),
                    Err(_) => Err(io::ErrorKind::InvalidInput.into()),
                };
                let answer = match attached {
                    Ok(()) => FromSentry::Attached(place),
                    Err(error) => FromSentry::NotAttached(place, error.to_string()),
                };
                let _ = core.kernel().launcher.send(&answer);
            }
            Ok(Some((ToSentry::Operator, fds))) => {
                if let Ok([client]) = <[OwnedFd; 1]>::try_from(fds) {
                    self.operators.admit(client, &core.kernel().poller);
                }
            }
            Ok(Some((ToSentry::PrivateLink(link), fds))) => {
                if let Some(socket) = fds.into_iter().next()
                    && let Err(error) = add_link(core, &link, socket)
                {
                    core.kernel().warn(format!("datagrams reach no other hosts: {error}"));
                }
            }
            Ok(Some((ToSentry::Observer, fds))) => {
                if let Some(fd) = fds.into_iter().next()
                    && let Err(error) = self.observe(core, fd)
                {
                    tracing::debug!(%error, "datagram sockets cannot be observed");
                }
            }
            Ok(Some((ToSentry::Home(home), _))) => core.kernel().programs.home = home,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Some((ToSentry::Stop, _)) | None) | Err(_) => {
                let bindings = core.kernel();
                bindings.poller.remove(bindings.launcher.fd());
                self.ends_at = Some(clock::now() + LAST_BYTES);
            }
        }
    }

    /// Has the ends of datagram sockets told; a successor also hears which there are.
    fn observe(&self, core: &mut Core<Bindings>, fd: OwnedFd) -> io::Result<()> {
        let bindings = core.kernel();
        bindings.links.observe(fd);
        if let Some(fd) = bindings.links.observer_fd() {
            bindings.poller.add(fd, Events::IN, Token::Observer)?;
        }
        if bindings.programs.is_successor() {
            links::list(core);
        }
        Ok(())
    }

    fn stop(&self, core: &mut Core<Bindings>) -> io::Result<()> {
        // The last packets are made in here, and the stack is gone after it.
        let recording = core.stack().recording();
        core.set_time(time());
        let statistics = core.stop();
        let counts = core.counts();
        let summary = Summary {
            stack: self.stack.clone(),
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
            denied: core.denied(),
        };
        let sent = core.kernel().launcher.send(&FromSentry::Summary(summary));
        self.vitals.end_round();
        finish_flows(core);
        if let Some(recording) = recording {
            // This takes as long as the writer does, and is no round of the loop that hangs.
            self.vitals.end_round();
            finish_capture(recording);
        }
        sent
    }
}

/// Sends the last flows, for as long as the end of a capture may take.
fn finish_flows(core: &mut Core<Bindings>) {
    let until = clock::now() + CAPTURE_STILL;
    while !core.kernel().flush_flows() && clock::now() < until {
        std::thread::sleep(CAPTURE_RETRY);
    }
}

/// Sends the rest of a capture for as long as its writer takes some of it, and then how much is missing.
fn finish_capture(mut recording: Box<dyn Recording>) {
    let begun = clock::now();
    let (mut least, mut moved) = (usize::MAX, begun);
    loop {
        let now = clock::now();
        let waits = recording.send(now);
        if waits < least {
            (least, moved) = (waits, now);
        }
        if waits == 0 || now >= moved + CAPTURE_STILL || now >= begun + CAPTURE_MOST {
            return recording.end(now);
        }
        std::thread::sleep(CAPTURE_RETRY);
    }
}

/// What time it is.
pub(crate) fn time() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { now: clock::now(), wall }
}

/// Adds a private link.
fn add_link(core: &mut Core<Bindings>, link: &control::PrivateLink, socket: OwnedFd) -> io::Result<()> {
    let bindings = core.kernel();
    let number = bindings.links.add(link, socket);
    if let Some(fd) = bindings.links.fd(number) {
        bindings.poller.add(fd, Events::IN, Token::Link(number))?;
    }
    links::added(core, link);
    Ok(())
}

fn files_ready(core: &mut Core<Bindings>) {
    let mut buffer = EventBuffer::new(64);
    let ready = core.kernel().poller.take_files(&mut buffer).unwrap_or_default();
    for id in ready {
        core.file_ready(id);
    }
}

/// Serves the calls of a program that wait, as many as a round allows.
fn serve_calls(core: &mut Core<Bindings>, program: ProgramId) {
    for _ in 0..CALLS_A_ROUND {
        match core.kernel().programs.receive(program) {
            Ok(Received::Call(caller)) => {
                core.call(&caller);
                core.kernel().programs.served(program);
            }
            Ok(Received::Gone) => {}
            Ok(Received::Nothing) => return,
            Err(error) => return core.kernel().launcher.note_broken(error),
        }
    }
}
