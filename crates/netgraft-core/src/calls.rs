//! Which function serves which call.

use netgraft_plugin::{Domain, Kind};

use crate::answers::{Answer, Outcome};
use crate::codec::call::{AddressOut, Buffer, Call};
use crate::core::{Core, Kernel, Request, Subject};
use crate::program::{Caller, ForeignCall, Serves};
use crate::refused;
use crate::route::{Denial, Flow, Route};
use crate::socket::Seen;
use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// What a descriptor of the program stands for.
pub(crate) enum Target<K: Kernel> {
    /// A socket of the table.
    Socket(Subject<K>),
    /// A socket of the host's.
    Host(K::File, Domain),
    /// Nothing that the sentry serves: an open file, if it could be looked at.
    Foreign(Option<K::File>),
}

impl<K: Kernel> Core<K> {
    /// Serves a call that was received.
    pub fn call(&mut self, caller: &Caller) {
        self.counts.calls += 1;
        let resumed = self.take_part(caller);
        self.forget_host_wait(caller.tid);
        let bound_before = self.answers.take_bound(caller.tid);
        if self.repeat_lost(caller) {
            return;
        }
        let outcome = match Call::parse(caller.number, caller.args) {
            Some(call) => {
                tracing::trace!(tid = caller.tid, ?call);
                let request = Request { bound_before, resumed, ..Request::new(*caller, call) };
                let outcome = self.serve(&request);
                self.keep_part_of(&request, &outcome);
                outcome
            }
            None => Err(uapi::ENOSYS),
        };
        self.answer(caller, outcome);
    }

    /// Serves a call. When this returns, no duplicate of the program's file is held any more: the program may close it
    /// as soon as it is answered.
    pub(crate) fn serve(&mut self, request: &Request) -> Outcome {
        let caller = &request.caller;
        let Some(fd) = request.call.fd() else {
            return match request.call {
                Call::Socket { domain, kind, protocol } => self.socket(caller, domain, kind, protocol),
                Call::EnterNamespace => {
                    self.kernel.expect_leavers(caller.program);
                    Ok(Answer::Kernel)
                }
                _ => Err(uapi::ENOSYS),
            };
        };
        if takes_address(&request.call) {
            // The address of a socket that was just closed is free, and its listener answers no more.
            self.harvest_closes();
        }
        match self.resolve(caller, fd)? {
            Target::Socket(mut subject) => {
                let outcome = self.serve_socket(request, fd, &mut subject);
                self.watch_close(subject.id, &subject.file);
                self.journal(subject.id, &request.call);
                self.tell_owner_after(subject.id, &request.call);
                outcome
            }
            Target::Host(file, domain) => self.serve_host(request, file, domain),
            Target::Foreign(None) => of_no_socket(&request.call, uapi::ENOTSOCK),
            Target::Foreign(Some(file)) => {
                let outcome = self.serve_foreign(request, &file);
                self.kernel.dispose(file);
                outcome
            }
        }
    }

    /// A call on a file that is not the sentry's is the kernel's, but for those that would tell a name, connect, bind or listen
    /// if the descriptor stood for a surrogate by the time that the kernel looks.
    fn serve_foreign(&mut self, request: &Request, file: &K::File) -> Outcome {
        if let Some(errno) = self.kernel.no_socket(file) {
            return of_no_socket(&request.call, errno);
        }
        match request.call {
            Call::GetSockName { addr, .. } => self.tell_foreign_name(&request.caller, file, false, addr),
            Call::GetPeerName { addr, .. } => self.tell_foreign_name(&request.caller, file, true, addr),
            Call::Connect { addr, .. } => self.name_foreign(request, file, ForeignCall::Connect, addr),
            Call::Bind { addr, .. } => self.name_foreign(request, file, ForeignCall::Bind, addr),
            Call::Listen { .. } => match self.kernel.who_serves(file, ForeignCall::Listen) {
                Serves::Kernel => Ok(Answer::Kernel),
                Serves::Fails(errno) => Err(errno),
                // Nothing that the sentry binds can listen.
                Serves::Sentry => Err(uapi::EOPNOTSUPP),
            },
            Call::SetSockOpt { level, name, value, .. } => {
                let joined = self.membership_asked(&request.caller, file, (level, name), value);
                joined.map_or(Ok(Answer::Kernel), |done| done.map(|()| Answer::Value(0)))
            }
            _ => Ok(Answer::Kernel),
        }
    }

    /// connect(2) or bind(2) of a file that is not the sentry's.
    fn name_foreign(
        &mut self,
        request: &Request,
        file: &K::File,
        call: ForeignCall,
        addr: Buffer,
    ) -> Outcome {
        match self.kernel.who_serves(file, call) {
            Serves::Kernel => Ok(Answer::Kernel),
            Serves::Fails(errno) => Err(errno),
            Serves::Sentry => {
                let (bytes, len) = self.kernel.read_address(&request.caller, addr)?;
                let address = &bytes[..len];
                let linked = self.linked_socket(&request.caller, file);
                let owner = linked.map_or(0, |_| self.kernel.process(&request.caller));
                if let Some(socket) = linked {
                    self.before_name(socket, owner, (call == ForeignCall::Bind).then_some(address))?;
                }
                let done = self.kernel.serve_foreign(file, call, address);
                if let Some(socket) = linked {
                    let seen = Seen { tid: request.caller.tid, fd: request.call.fd().unwrap_or(-1) };
                    self.named_by_kernel(file, socket, owner, seen)?;
                }
                done.map(|()| Answer::Value(0))
            }
        }
    }

    fn tell_foreign_name(
        &mut self,
        caller: &Caller,
        file: &K::File,
        of_peer: bool,
        addr: AddressOut,
    ) -> Outcome {
        let name = self.kernel.name_of_foreign(file, of_peer)?;
        if addr.address == 0 {
            return Err(uapi::EFAULT);
        }
        self.kernel.write_address(caller, addr, &name)?;
        Ok(Answer::Value(0))
    }

    fn serve_socket(&mut self, request: &Request, fd: i32, subject: &mut Subject<K>) -> Outcome {
        let caller = &request.caller;
        match request.call {
            Call::Socket { .. } | Call::EnterNamespace => Err(uapi::ENOSYS),
            Call::Bind { addr, .. } => self.bind(request, subject, fd, addr),
            Call::Listen { backlog, .. } => self.listen(caller, subject, fd, backlog),
            Call::Accept { addr, flags, .. } => self.accept(request, subject, addr, flags),
            Call::Connect { addr, .. } => self.connect(request, subject, fd, addr),
            Call::GetSockName { addr, .. } => self.getsockname(caller, subject, addr),
            Call::GetPeerName { addr, .. } => self.getpeername(caller, subject, addr),
            Call::Shutdown { how, .. } => self.shutdown(subject, how),
            Call::GetSockOpt { level, name, value, len, .. } => {
                let outcome = self.getsockopt(caller, subject, (level, name), value, len);
                self.tell_refused("getsockopt", (level, name), &outcome);
                outcome
            }
            Call::SetSockOpt { level, name, value, .. } => {
                let outcome = self.setsockopt(caller, subject, (level, name), value);
                self.tell_refused("setsockopt", (level, name), &outcome);
                outcome
            }
            Call::SendTo { data, flags, addr, .. } if self.is_fast(subject, flags) => {
                self.send_fast(request, subject, (fd, flags), &[data], addr)
            }
            Call::SendMsg { message, flags, .. } if self.is_fast(subject, flags) => {
                let header = self.kernel.read_header(caller, message)?;
                let parts = self.kernel.read_parts(caller, header.parts)?;
                self.send_fast(request, subject, (fd, flags), &parts, header.name)
            }
            Call::SendTo { data, flags, addr, .. } => self.sendto(request, subject, data, flags, addr),
            Call::RecvFrom { data, flags, addr, .. } => self.recvfrom(request, subject, data, flags, addr),
            Call::SendMsg { message, flags, .. } => self.sendmsg(request, subject, message, flags),
            Call::RecvMsg { message, flags, .. } => self.recvmsg(request, subject, message, flags),
            Call::SendMMsg { messages, count, flags, .. } => {
                self.sendmmsg(request, subject, messages, count, flags)
            }
            Call::RecvMMsg { messages, count, flags, timeout, .. } => {
                self.recvmmsg(request, subject, (messages, count), flags, timeout)
            }
            Call::Ioctl { request: number, argument, .. } => self.ioctl(caller, subject, number, argument),
        }
    }

    /// Whether a send is to connect a stream socket.
    fn is_fast(&self, subject: &Subject<K>, flags: i32) -> bool {
        let kind = self.table.get(subject.id).map(|socket| socket.spec.kind);
        flags & uapi::MSG_FASTOPEN != 0 && kind == Some(Kind::Stream)
    }

    /// Tells the operator of an option that is refused: of each once, and of each call to whoever wants more.
    fn tell_refused(&mut self, call: &str, (level, name): (i32, i32), outcome: &Outcome) {
        let Err(errno) = *outcome else { return };
        tracing::debug!("{call}({}) = {}", refused::text(level, name), refused::errno_name(errno));
        if let Some(option) = self.refused.note(level, name, errno) {
            let errno = refused::errno_name(errno);
            tracing::info!("the program's {call}({option}) is refused: {errno}");
        }
    }

    /// Duplicates a descriptor of the caller and finds what stands behind it. The kernel answers only for what is known
    /// not to be the sentry's: a descriptor that could not be looked at is an error.
    fn resolve(&mut self, caller: &Caller, fd: i32) -> Result<Target<K>, Errno> {
        let file = match self.kernel.duplicate(caller, fd) {
            Ok(file) => file,
            // The kernel knows what to say of a file that must not be touched.
            Err(uapi::ENOTSOCK) => return Ok(Target::Foreign(None)),
            Err(errno) => return Err(errno),
        };
        if let Some(domain) = self.kernel.host_domain(&file) {
            return Ok(Target::Host(file, domain));
        }
        let known = match self.identify(&file) {
            Some(id) => Some(id),
            None => self.adopt(caller, &file)?,
        };
        match known {
            Some(id) => Ok(Target::Socket(self.subject(caller, id, file, fd))),
            None => Ok(Target::Foreign(Some(file))),
        }
    }

    fn subject(&mut self, caller: &Caller, id: SocketId, file: K::File, fd: i32) -> Subject<K> {
        if let Some(socket) = self.table.get_mut(id) {
            socket.seen = Some(Seen { tid: caller.tid, fd });
        }
        self.restore_send_buffer(id, &file);
        Subject { id, file }
    }

    /// Asks where a flow of a surrogate goes, and refuses what is denied.
    pub(crate) fn require_stack(&mut self, caller: &Caller, flow: &Flow) -> Result<(), Errno> {
        match self.route(caller, flow) {
            Route::Stack => Ok(()),
            Route::Denied(denial) => Err(denial.errno()),
            // A socket that was made for the stack stays there.
            Route::Host | Route::Kernel | Route::Joined(_) => Err(Denial::AccessDenied.errno()),
        }
    }

    /// The same for a socket of the host's.
    pub(crate) fn require_host(&mut self, caller: &Caller, flow: &Flow) -> Result<(), Errno> {
        match self.route(caller, flow) {
            Route::Host => Ok(()),
            Route::Denied(denial) => Err(denial.errno()),
            Route::Stack | Route::Kernel | Route::Joined(_) => Err(Denial::AccessDenied.errno()),
        }
    }
}

/// A call on a file that is no socket: it is answered here, since the descriptor may stand for a surrogate by the time that
/// the kernel looks. Terminals and devices have requests of their own.
fn of_no_socket(call: &Call, errno: Errno) -> Outcome {
    if matches!(call, Call::Ioctl { .. }) { Ok(Answer::Kernel) } else { Err(errno) }
}

/// Whether a call takes an address that another socket may just have given up, or reaches one.
fn takes_address(call: &Call) -> bool {
    match call {
        Call::Bind { .. } | Call::Listen { .. } | Call::Connect { .. } => true,
        Call::SendTo { flags, .. } | Call::SendMsg { flags, .. } => flags & uapi::MSG_FASTOPEN != 0,
        _ => false,
    }
}
