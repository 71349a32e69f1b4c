//! Calls on sockets that are the host's own.
//!
//! The program holds the host's socket itself, and the filter leaves it every call but those that make a
//! socket or carry an address. The sentry does these on a duplicate: it never lets the kernel do one with
//! arguments that may have changed since they were looked at.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_linux::epoll::bits;
use netgraft_linux::{inet_socket, unix};
use netgraft_plugin::{Domain, Error, Instant, Kind};
use netgraft_sentry::call::{Buffer, Call, NewSocket};
use netgraft_sentry::message;
use netgraft_sentry::sockaddr::{self, Given};

use super::caller::{Caller, total};
use super::create::errno;
use super::datagram::MAX_DATAGRAM;
use super::engine::{Answer, Engine, Outcome, TOKEN_HOST};
use super::stream::CHUNK;

/// A call that waits for its socket.
struct Waiting {
    caller: Caller,
    call: Call,
    file: OwnedFd,
    deadline: Option<Instant>,
}

/// The calls on host sockets that wait.
#[derive(Default)]
pub(super) struct HostCalls {
    waiting: HashMap<u64, Waiting>,
    next: u64,
}

impl HostCalls {
    /// The earliest time-out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|w| w.deadline).min()
    }
}

impl Engine {
    /// socket(2)
    pub(super) fn host_socket(&mut self, caller: &Caller, new: &NewSocket) -> Outcome {
        let handle = self.stack.socket(new.spec).map_err(Error::errno)?;
        let file = match self.stack.take_host_fd(handle) {
            Ok(file) => file,
            Err(error) => {
                let _ = self.stack.close(handle, self.now);
                return Err(error.errno());
            }
        };
        self.summary.sockets += 1;
        unix::set_nonblocking(file.as_fd(), new.nonblocking).map_err(|e| errno(&e))?;
        match self.listener.answer_with_fd(caller.id, file.as_fd(), new.close_on_exec) {
            Ok(_) => Ok(Answer::Done),
            Err(error) => match error.raw_os_error() {
                Some(code @ (libc::EMFILE | libc::ENFILE)) => Err(code),
                _ => Ok(Answer::Done),
            },
        }
    }

    /// Serves a call on a host socket.
    pub(super) fn serve_host(&mut self, caller: &Caller, call: Call) -> Outcome {
        let Some(fd) = call.fd() else { return Err(libc::ENOSYS) };
        // The kernel knows what to say of a descriptor that is none.
        let Ok(file) = self.tasks.duplicate(caller.tid, fd) else { return Ok(Answer::Kernel) };
        let domain = match unix::domain(file.as_fd()) {
            Ok(libc::AF_INET) => Domain::V4,
            Ok(libc::AF_INET6) => Domain::V6,
            // A local socket, or no socket.
            _ => return Ok(Answer::Kernel),
        };
        match call {
            Call::Bind { addr, .. } => self.host_bind(caller, domain, &file, addr),
            Call::Listen { backlog, .. } => {
                inet_socket::listen(file.as_fd(), backlog).map_err(|e| errno(&e))?;
                Ok(Answer::Value(0))
            }
            Call::Connect { addr, .. } => self.host_connect(caller, call, domain, file, addr),
            Call::SendTo { data, flags, addr, .. } => {
                let result = self.host_send(caller, domain, &file, &[data], addr, &[], flags);
                self.host_send_outcome(caller, call, file, flags, result)
            }
            Call::SendMsg { message, flags, .. } => {
                if is_stream(&file) && flags & libc::MSG_FASTOPEN == 0 {
                    // A stream ignores the message's address: nothing to look at.
                    return Ok(Answer::Kernel);
                }
                let result = self.host_send_message(caller, domain, &file, message, flags);
                self.host_send_outcome(caller, call, file, flags, result)
            }
            Call::SendMMsg { messages, count, flags, .. } => {
                if is_stream(&file) && flags & libc::MSG_FASTOPEN == 0 {
                    return Ok(Answer::Kernel);
                }
                let mut done = 0;
                for i in 0..count.min(message::MAX_MESSAGES) {
                    let at = messages.wrapping_add(u64::from(i) * message::MULTI_LEN as u64);
                    match self.host_send_message(caller, domain, &file, at, flags) {
                        Ok(n) => {
                            let len_at = at.wrapping_add(message::MESSAGE_LEN_OFFSET);
                            caller.write(len_at, &(n as u32).to_ne_bytes())?;
                            done += 1;
                        }
                        Err(code) if done == 0 => {
                            return self.host_send_outcome(caller, call, file, flags, Err(code));
                        }
                        Err(_) => break,
                    }
                }
                Ok(Answer::Value(done))
            }
            // The filter leaves the other calls to the kernel.
            _ => Ok(Answer::Kernel),
        }
    }

    fn host_bind(&mut self, caller: &Caller, domain: Domain, file: &OwnedFd, addr: Buffer) -> Outcome {
        let (bytes, len) = caller.read_address(addr)?;
        let addr = sockaddr::parse_for_bind(domain, &bytes[..len])?;
        match inet_socket::bind(file.as_fd(), &addr) {
            Ok(()) => {}
            // A privileged port: the launcher's broker may.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                self.stack.bind_host_fd(file.as_fd(), addr).map_err(|e| match e {
                    Error::NotSupported => libc::EACCES,
                    other => other.errno(),
                })?;
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return self.bind_again(caller, unix::cookie(file.as_fd()).ok(), addr);
            }
            Err(error) => return Err(errno(&error)),
        }
        self.note_bind(caller, unix::cookie(file.as_fd()).ok(), addr);
        Ok(Answer::Value(0))
    }

    fn host_connect(
        &mut self,
        caller: &Caller,
        call: Call,
        domain: Domain,
        file: OwnedFd,
        addr: Buffer,
    ) -> Outcome {
        let (bytes, len) = caller.read_address(addr)?;
        let addr = match sockaddr::parse(domain, &bytes[..len])? {
            Given::Inet(addr) => addr,
            Given::Unspecified => {
                inet_socket::disconnect(file.as_fd()).map_err(|e| errno(&e))?;
                return Ok(Answer::Value(0));
            }
        };
        if !is_stream(&file) {
            inet_socket::connect(file.as_fd(), &addr).map_err(|e| errno(&e))?;
            return Ok(Answer::Value(0));
        }
        let blocking = !unix::is_nonblocking(file.as_fd()).map_err(|e| errno(&e))?;
        // The sentry must not wait. A socket that is being connected is nobody else's to read or write, so
        // that its mode for a moment is not seen.
        if blocking {
            unix::set_nonblocking(file.as_fd(), true).map_err(|e| errno(&e))?;
        }
        let result = inet_socket::connect(file.as_fd(), &addr);
        if blocking {
            unix::set_nonblocking(file.as_fd(), false).map_err(|e| errno(&e))?;
        }
        match result {
            Ok(()) => {
                self.summary.connections_out += 1;
                Ok(Answer::Value(0))
            }
            Err(error) => match error.raw_os_error() {
                // Asked again after it has become writable, the kernel says how the attempt went.
                Some(libc::EINPROGRESS | libc::EALREADY) if blocking => {
                    let deadline = send_timeout(file.as_fd()).map(|t| self.now + t);
                    self.host_wait(caller, call, file, deadline)
                }
                _ => Err(errno(&error)),
            },
        }
    }

    fn host_wait(
        &mut self,
        caller: &Caller,
        call: Call,
        file: OwnedFd,
        deadline: Option<Instant>,
    ) -> Outcome {
        let Some(host) = &mut self.host else { return Err(libc::ENOSYS) };
        // A thread waits in one call: what it waited for before was interrupted.
        host.waiting.retain(|_, w| w.caller.tid != caller.tid);
        let token = host.next;
        // 62 bits do not come round.
        host.next += 1;
        self.epoll.add(file.as_fd(), bits::OUT, TOKEN_HOST | token).map_err(|e| errno(&e))?;
        host.waiting.insert(token, Waiting { caller: *caller, call, file, deadline });
        Ok(Answer::Done)
    }

    /// A socket on which a call waits is ready.
    pub(super) fn host_ready(&mut self, token: u64) {
        let Some(waiting) = self.host.as_mut().and_then(|h| h.waiting.remove(&token)) else { return };
        let _ = self.epoll.remove(waiting.file.as_fd());
        if !self.listener.is_waiting(waiting.caller.id) {
            return;
        }
        // An attempt that shutdown(2) has ended leaves a socket which is as new, but for its error. Asked again, the kernel
        // would begin another attempt. One that has failed has ended in both directions.
        let file = waiting.file.as_fd();
        if matches!(waiting.call, Call::Connect { .. }) && unix::has_error(file) && !unix::has_ended(file) {
            unix::clear_error(file);
            drop(waiting.file);
            return self.answer(&waiting.caller, Err(libc::ECONNRESET));
        }
        // The duplicate goes first: the program may close its own as soon as it is answered.
        drop(waiting.file);
        let outcome = self.serve_host(&waiting.caller, waiting.call);
        self.answer(&waiting.caller, outcome);
    }

    /// Calls whose time-out has come.
    pub(super) fn host_timers(&mut self) {
        let Some(host) = &mut self.host else { return };
        let now = self.now;
        let due: Vec<u64> = host
            .waiting
            .iter()
            .filter(|(_, w)| w.deadline.is_some_and(|d| d <= now))
            .map(|(token, _)| *token)
            .collect();
        for token in due {
            let Some(waiting) = self.host.as_mut().and_then(|h| h.waiting.remove(&token)) else { continue };
            let _ = self.epoll.remove(waiting.file.as_fd());
            drop(waiting.file);
            let code =
                if matches!(waiting.call, Call::Connect { .. }) { libc::EINPROGRESS } else { libc::EAGAIN };
            self.answer(&waiting.caller, Err(code));
        }
    }

    fn host_send_message(
        &mut self,
        caller: &Caller,
        domain: Domain,
        file: &OwnedFd,
        at: u64,
        flags: i32,
    ) -> Result<usize, i32> {
        let header = caller.read_header(at)?;
        let parts = caller.read_parts(header.parts)?;
        if header.control.len > message::MAX_CONTROL {
            return Err(libc::ENOBUFS);
        }
        let control_len = if header.control.address == 0 { 0 } else { header.control.len as usize };
        let mut control = message::Bytes::from_elem(0, control_len);
        caller.read(header.control.address, &mut control)?;
        self.host_send(caller, domain, file, &parts, header.name, &control, flags)
    }

    #[expect(clippy::too_many_arguments, reason = "the arguments of sendmsg(2), taken apart")]
    fn host_send(
        &mut self,
        caller: &Caller,
        domain: Domain,
        file: &OwnedFd,
        parts: &[Buffer],
        name: Buffer,
        control: &[u8],
        flags: i32,
    ) -> Result<usize, i32> {
        let stream = is_stream(file);
        let to = super::messages::destination(caller, domain, name)?;
        if !stream && total(parts) > MAX_DATAGRAM {
            return Err(libc::EMSGSIZE);
        }
        let most = if stream { CHUNK } else { MAX_DATAGRAM };
        let mut data = std::mem::take(&mut self.payload);
        let result = caller.gather(parts, most, &mut data).and_then(|()| {
            let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            inet_socket::sendmsg(file.as_fd(), &data, to.as_ref(), control, flags)
                .map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
        });
        self.payload = data;
        let n = result?;
        if !stream {
            self.summary.datagrams_sent += 1;
        }
        self.summary.bytes_sent += n as u64;
        Ok(n)
    }

    fn host_send_outcome(
        &mut self,
        caller: &Caller,
        call: Call,
        file: OwnedFd,
        flags: i32,
        result: Result<usize, i32>,
    ) -> Outcome {
        match result {
            Ok(n) => Ok(Answer::Value(n as i64)),
            Err(libc::EAGAIN)
                if flags & libc::MSG_DONTWAIT == 0
                    && !unix::is_nonblocking(file.as_fd()).map_err(|e| errno(&e))? =>
            {
                let deadline = send_timeout(file.as_fd()).map(|t| self.now + t);
                self.host_wait(caller, call, file, deadline)
            }
            Err(code) => Err(code),
        }
    }
}

fn is_stream(file: &OwnedFd) -> bool {
    inet_socket::getsockopt_int(file.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)
        .is_ok_and(|kind| kind == netgraft_sentry::call::kind_number(Kind::Stream))
}

/// `SO_SNDTIMEO` of a host socket.
fn send_timeout(file: BorrowedFd<'_>) -> Option<Duration> {
    let read = || -> io::Result<Duration> {
        let mut bytes = [0u8; 16];
        inet_socket::getsockopt(file, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &mut bytes)?;
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        let seconds = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        Ok(Duration::from_secs(seconds) + Duration::from_micros(u64::from_ne_bytes(rest)))
    };
    read().ok().filter(|t| !t.is_zero())
}
