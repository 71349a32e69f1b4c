//! Calls on sockets that are the host's own.
//!
//! The program holds the host's socket itself, and the filter leaves the kernel every call but those that make a
//! socket or carry an address. These are done on a duplicate: the kernel never does one with arguments that may have
//! changed since they were looked at.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_plugin::{Domain, Error, Instant, Kind, Protocol, SocketSpec};

use crate::answers::{Answer, Outcome};
use crate::codec::call::{Buffer, Call, NewSocket};
use crate::codec::sockaddr::{self, Given};
use crate::core::{Core, Kernel, Request};
use crate::datagram::MAX_DATAGRAM;
use crate::program::{Caller, Files, InjectError, Privilege, total};
use crate::route::Flow;
use crate::send::destination;
use crate::stream::CHUNK;

use crate::uapi::{self, Errno};

/// Names a call that waits for a host socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostToken(pub u32);

/// What the sentry can do with the host's sockets. No operation waits.
pub trait HostSocket: Files {
    /// The address family of a host socket that is the sandbox's; `None` for any other file.
    fn host_domain(&mut self, file: &Self::File) -> Option<Domain>;

    /// Takes over a descriptor that a stack gave.
    fn take_over(&mut self, fd: OwnedFd) -> Self::File;

    /// The descriptor, to be given to a stack.
    fn as_fd<'a>(&self, file: &'a Self::File) -> BorrowedFd<'a>;

    /// Whether it is a stream socket.
    fn is_stream(&mut self, file: &Self::File) -> bool;

    /// bind(2)
    ///
    /// # Errors
    /// bind(2)
    fn host_bind(&mut self, file: &Self::File, addr: SocketAddr) -> Result<(), Errno>;

    /// listen(2)
    ///
    /// # Errors
    /// listen(2)
    fn host_listen(&mut self, file: &Self::File, backlog: i32) -> Result<(), Errno>;

    /// connect(2), without waiting whatever the open file's mode is; `None` forgets the peer.
    ///
    /// # Errors
    /// connect(2)
    fn host_connect(&mut self, file: &Self::File, addr: Option<SocketAddr>) -> Result<(), Errno>;

    /// sendmsg(2), without waiting.
    ///
    /// # Errors
    /// sendmsg(2)
    fn host_send(
        &mut self,
        file: &Self::File,
        data: &[u8],
        to: Option<SocketAddr>,
        control: &[u8],
        flags: i32,
    ) -> Result<usize, Errno>;

    /// `SO_SNDTIMEO`
    fn send_timeout(&mut self, file: &Self::File) -> Option<Duration>;

    /// Whether an attempt to connect was ended by shutdown(2): the socket is as new then, but for its error, which this
    /// takes. Asked again, the kernel would begin another attempt.
    fn was_attempt_shut(&mut self, file: &Self::File) -> bool;

    /// Reports once that a host socket is writable ([`crate::Core::host_ready`]).
    ///
    /// # Errors
    /// epoll_ctl(2)
    fn watch_host(&mut self, file: &Self::File, token: HostToken) -> Result<(), Errno>;

    /// Stops reporting.
    fn unwatch_host(&mut self, file: &Self::File);

    /// Closes a duplicate of a host socket. If it is the last, the close must not wait all the same (`SO_LINGER`).
    fn release(&mut self, file: Self::File) {
        drop(file);
    }
}

/// A call that waits for its socket.
struct Waiting<F> {
    caller: Caller,
    call: Call,
    file: F,
    deadline: Option<Instant>,
}

/// The calls on host sockets that wait.
pub(crate) struct HostCalls<F> {
    waiting: HashMap<HostToken, Waiting<F>>,
    next: u32,
}

impl<F> Default for HostCalls<F> {
    fn default() -> HostCalls<F> {
        HostCalls { waiting: HashMap::new(), next: 0 }
    }
}

impl<F> HostCalls<F> {
    /// The earliest time-out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|w| w.deadline).min()
    }

    /// Takes out what a thread waited for: its call was interrupted.
    fn take_thread(&mut self, tid: u32) -> Option<F> {
        // Nothing waits most of the time.
        let (&token, _) = self.waiting.iter().find(|(_, w)| w.caller.tid == tid)?;
        self.waiting.remove(&token).map(|waiting| waiting.file)
    }

    fn fresh_token(&mut self) -> HostToken {
        loop {
            self.next = self.next.wrapping_add(1);
            if !self.waiting.contains_key(&HostToken(self.next)) {
                return HostToken(self.next);
            }
        }
    }
}

/// How far a call on a host socket has come.
enum Step {
    /// It is answered so.
    Answer(Answer),
    /// It waits for its socket.
    Wait,
}

/// What a send on a host socket is made of.
struct HostMessage<'a> {
    parts: &'a [Buffer],
    name: Buffer,
    control: &'a [u8],
    flags: i32,
}

impl<K: Kernel> Core<K> {
    /// socket(2)
    pub(crate) fn host_socket(&mut self, caller: &Caller, new: &NewSocket) -> Outcome {
        // What the caller may not do by itself, the stack must not do for it.
        if new.spec.kind == Kind::Raw && !self.kernel.has_privilege(caller, Privilege::NetRaw) {
            return Err(uapi::EPERM);
        }
        let handle = self.stack.socket(new.spec).map_err(Error::errno)?;
        let file = match self.stack.take_host_fd(handle) {
            Ok(fd) => self.kernel.take_over(fd),
            Err(error) => {
                self.stack.close(handle, self.time.now);
                return Err(error.errno());
            }
        };
        self.counts.sockets += 1;
        self.kernel.set_nonblocking(&file, new.nonblocking)?;
        // The program connects and closes it without the sentry: none of its references may be left by then.
        match self.kernel.give(caller, file, new.close_on_exec) {
            Ok(fd) => Ok(Answer::Value(i64::from(fd))),
            Err(InjectError::Gone) => Ok(Answer::Done),
            Err(InjectError::Full(errno)) => Err(errno),
        }
    }

    /// Forgets what a thread waited for on a host socket: its call was interrupted.
    pub(crate) fn forget_host_wait(&mut self, tid: u32) {
        while let Some(file) = self.host.take_thread(tid) {
            self.kernel.unwatch_host(&file);
            self.kernel.release(file);
        }
    }

    /// Serves a call on a host socket.
    pub(crate) fn serve_host(&mut self, request: &Request, file: K::File, domain: Domain) -> Outcome {
        match self.serve_host_call(request, &file, domain) {
            Ok(Step::Wait) => self.host_wait(request, file),
            Ok(Step::Answer(answer)) => {
                self.kernel.release(file);
                Ok(answer)
            }
            Err(errno) => {
                self.kernel.release(file);
                Err(errno)
            }
        }
    }

    fn serve_host_call(&mut self, request: &Request, file: &K::File, domain: Domain) -> Result<Step, Errno> {
        let caller = &request.caller;
        match request.call {
            Call::Bind { addr, .. } => self.host_bind(request, domain, file, addr).map(Step::Answer),
            Call::Listen { backlog, .. } => {
                self.require_host(caller, &Flow::Listen(host_spec(domain, Kind::Stream)))?;
                self.kernel.host_listen(file, backlog)?;
                Ok(Step::Answer(Answer::Value(0)))
            }
            Call::Connect { addr, .. } => self.host_connect(request, domain, file, addr),
            Call::SendTo { data, flags, addr, .. } => {
                let message = HostMessage { parts: &[data], name: addr, control: &[], flags };
                let sent = self.host_send(caller, domain, file, &message);
                self.host_sent_or_waiting(file, flags, sent)
            }
            Call::SendMsg { message, flags, .. } => {
                if self.ignores_address(file, flags) {
                    return Ok(Step::Answer(Answer::Kernel));
                }
                let sent = self.host_send_message(caller, domain, file, message, flags);
                self.host_sent_or_waiting(file, flags, sent)
            }
            Call::SendMMsg { messages, count, flags, .. } => {
                if self.ignores_address(file, flags) {
                    return Ok(Step::Answer(Answer::Kernel));
                }
                let sent = self.send_each(caller, messages, count, |core, at| {
                    core.host_send_message(caller, domain, file, at, flags)
                });
                self.host_sent_or_waiting(file, flags, sent)
            }
            // The filter leaves the other calls to the kernel.
            _ => Ok(Step::Answer(Answer::Kernel)),
        }
    }

    /// Whether a message's address means nothing: that of a stream, unless it opens a connection.
    fn ignores_address(&mut self, file: &K::File, flags: i32) -> bool {
        flags & uapi::MSG_FASTOPEN == 0 && self.kernel.is_stream(file)
    }

    fn host_bind(&mut self, request: &Request, domain: Domain, file: &K::File, addr: Buffer) -> Outcome {
        let caller = &request.caller;
        let (bytes, len) = self.kernel.read_address(caller, addr)?;
        let addr = sockaddr::parse_for_bind(domain, &bytes[..len])?;
        let kind = if self.kernel.is_stream(file) { Kind::Stream } else { Kind::Datagram };
        self.require_host(caller, &Flow::Bind(host_spec(domain, kind), addr))?;
        let cookie = self.kernel.cookie(file);
        match self.kernel.host_bind(file, addr) {
            Ok(()) => {}
            // A privileged port: the stack may have the right to it, and lends that to who has it in the sandbox.
            Err(uapi::EACCES) if self.kernel.has_privilege(caller, Privilege::NetBindService) => {
                let fd = self.kernel.as_fd(file);
                self.stack.bind_host_fd(fd, addr).map_err(|error| match error {
                    Error::NotSupported => uapi::EACCES,
                    other => other.errno(),
                })?;
            }
            Err(uapi::EINVAL) => return self.bind_again(request, cookie, addr),
            Err(errno) => return Err(errno),
        }
        self.note_bind(caller, cookie, addr);
        Ok(Answer::Value(0))
    }

    fn host_connect(
        &mut self,
        request: &Request,
        domain: Domain,
        file: &K::File,
        addr: Buffer,
    ) -> Result<Step, Errno> {
        let (bytes, len) = self.kernel.read_address(&request.caller, addr)?;
        let addr = match sockaddr::parse(domain, &bytes[..len])? {
            Given::Inet(addr) => addr,
            Given::Unspecified => {
                self.kernel.host_connect(file, None)?;
                return Ok(Step::Answer(Answer::Value(0)));
            }
        };
        if !self.kernel.is_stream(file) {
            self.require_host(&request.caller, &Flow::Datagram(host_spec(domain, Kind::Datagram), addr))?;
            self.kernel.host_connect(file, Some(addr))?;
            return Ok(Step::Answer(Answer::Value(0)));
        }
        self.require_host(&request.caller, &Flow::Connect(host_spec(domain, Kind::Stream), addr))?;
        match self.kernel.host_connect(file, Some(addr)) {
            Ok(()) => {
                self.counts.connections_out += 1;
                Ok(Step::Answer(Answer::Value(0)))
            }
            // Asked again after it has become writable, the kernel says how the attempt went.
            Err(uapi::EINPROGRESS | uapi::EALREADY) if !self.kernel.is_nonblocking(file)? => Ok(Step::Wait),
            Err(errno) => Err(errno),
        }
    }

    /// Has a call wait until its socket is writable.
    fn host_wait(&mut self, request: &Request, file: K::File) -> Outcome {
        let deadline = match request.resumed {
            Some(resumed) => resumed.deadline,
            None => self.kernel.send_timeout(&file).map(|t| self.time.now + t),
        };
        let token = self.host.fresh_token();
        if let Err(errno) = self.kernel.watch_host(&file, token) {
            self.kernel.release(file);
            return Err(errno);
        }
        let waiting = Waiting { caller: request.caller, call: request.call, file, deadline };
        self.host.waiting.insert(token, waiting);
        Ok(Answer::Done)
    }

    /// A socket on which a call waits is ready.
    pub fn host_ready(&mut self, token: HostToken) {
        let Some(waiting) = self.host.waiting.remove(&token) else { return };
        let Waiting { caller, call, file, deadline } = waiting;
        self.kernel.unwatch_host(&file);
        if !self.kernel.is_waiting(&caller) {
            return self.kernel.release(file);
        }
        let was_shut = matches!(call, Call::Connect { .. }) && self.kernel.was_attempt_shut(&file);
        // The duplicate goes first: the program may close its own as soon as it is answered.
        self.kernel.release(file);
        if was_shut {
            return self.answer(&caller, Err(uapi::ECONNRESET));
        }
        let resumed = crate::core::Resumed { deadline, progress: 0 };
        let outcome = self.serve(&Request { resumed: Some(resumed), ..Request::new(caller, call) });
        self.answer(&caller, outcome);
    }

    /// Calls whose time-out has come.
    pub(crate) fn run_host_timers(&mut self) {
        if self.host.waiting.is_empty() {
            return;
        }
        let now = self.time.now;
        let is_due = |w: &Waiting<K::File>| w.deadline.is_some_and(|d| d <= now);
        let due: Vec<HostToken> =
            self.host.waiting.iter().filter(|(_, w)| is_due(w)).map(|(token, _)| *token).collect();
        for token in due {
            let Some(waiting) = self.host.waiting.remove(&token) else { continue };
            self.kernel.unwatch_host(&waiting.file);
            self.kernel.release(waiting.file);
            let connecting = matches!(waiting.call, Call::Connect { .. });
            let errno = if connecting { uapi::EINPROGRESS } else { uapi::EAGAIN };
            self.answer(&waiting.caller, Err(errno));
        }
    }

    fn host_send_message(
        &mut self,
        caller: &Caller,
        domain: Domain,
        file: &K::File,
        at: u64,
        flags: i32,
    ) -> Result<usize, Errno> {
        let header = self.kernel.read_header(caller, at)?;
        let parts = self.kernel.read_parts(caller, header.parts)?;
        let control = self.kernel.read_control(caller, &header)?;
        let message = HostMessage { parts: &parts, name: header.name, control: &control, flags };
        self.host_send(caller, domain, file, &message)
    }

    fn host_send(
        &mut self,
        caller: &Caller,
        domain: Domain,
        file: &K::File,
        message: &HostMessage<'_>,
    ) -> Result<usize, Errno> {
        let stream = self.kernel.is_stream(file);
        let to = destination(&mut self.kernel, caller, domain, message.name)?;
        if !stream && total(message.parts) > MAX_DATAGRAM {
            return Err(uapi::EMSGSIZE);
        }
        if let Some(to) = to {
            let kind = if stream { Kind::Stream } else { Kind::Datagram };
            let flow = match kind {
                Kind::Stream => Flow::Connect(host_spec(domain, kind), to),
                _ => Flow::Datagram(host_spec(domain, kind), to),
            };
            self.require_host(caller, &flow)?;
        }
        let most = if stream { CHUNK } else { MAX_DATAGRAM };
        let payload = &mut self.buffers.payload;
        self.kernel.gather(caller, message.parts, most, payload)?;
        let sent = self.kernel.host_send(file, payload, to, message.control, message.flags)?;
        if !stream {
            self.counts.datagrams_sent += 1;
        }
        self.counts.bytes_sent += sent as u64;
        Ok(sent)
    }

    fn host_sent_or_waiting(
        &mut self,
        file: &K::File,
        flags: i32,
        sent: Result<usize, Errno>,
    ) -> Result<Step, Errno> {
        match sent {
            Err(uapi::EAGAIN) if !self.must_not_wait(file, flags)? => Ok(Step::Wait),
            sent => sent.map(|n| Step::Answer(Answer::Value(n as i64))),
        }
    }
}

/// What a flow of a host socket is decided on. Its protocol is not looked up: a datagram socket counts as UDP.
fn host_spec(domain: Domain, kind: Kind) -> SocketSpec {
    let protocol = if kind == Kind::Stream { Protocol::Tcp } else { Protocol::Udp };
    SocketSpec { domain, kind, protocol }
}
