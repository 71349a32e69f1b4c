//! [`Program`]: memory through process_vm_readv(2), descriptors through pidfd_getfd(2), answers through the listener.
//!
//! A thread's number may be another's as soon as it has died. What was read or duplicated counts only if the call still
//! waits afterwards. Nothing is written unless the call waits, or a signal has interrupted it and its thread lives: what
//! was taken for it, such as a datagram, it gets when it calls again, and the bytes are in place by then.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netgraft_core::codec::call::AddressOut;
use netgraft_core::{Caller, ForeignCall, Gone, InjectError, Privilege, Program, ProgramId, Serves};
use netgraft_linux::unix;

use super::{Bindings, errno};

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW (capabilities(7)).
const NET_BIND_SERVICE: u8 = 10;
const NET_ADMIN: u8 = 12;
const NET_RAW: u8 = 13;

impl Bindings {
    fn is_valid(&self, caller: &Caller) -> bool {
        self.programs.listener(caller.program).is_some_and(|listener| listener.is_waiting(caller.id))
    }

    /// Whether a descriptor of a thread is a socket, found without touching its file.
    pub(crate) fn is_socket(&self, tid: u32, fd: i32) -> bool {
        self.programs.tasks.is_socket(tid, fd, self.own.as_fd())
    }

    fn still_waits(&self, caller: &Caller) -> Result<(), i32> {
        if self.is_valid(caller) { Ok(()) } else { Err(libc::ESRCH) }
    }
}

impl Bindings {
    fn write_pieces(&self, caller: &Caller, first: (u64, &[u8]), second: (u64, &[u8])) -> Result<(), i32> {
        if first.1.is_empty() {
            return whole(self.programs.tasks.write_memory(caller.tid, second.0, second.1), second.1.len());
        }
        whole(self.programs.tasks.write_both(caller.tid, first, second), first.1.len() + second.1.len())
    }
}

/// All of a buffer, or EFAULT.
fn whole(moved: io::Result<usize>, len: usize) -> Result<(), i32> {
    match moved {
        Ok(n) if n == len => Ok(()),
        Ok(_) => Err(libc::EFAULT),
        Err(error) => Err(error.raw_os_error().unwrap_or(libc::EFAULT)),
    }
}

fn inject_error(error: &io::Error) -> InjectError {
    match error.raw_os_error() {
        Some(code @ (libc::EMFILE | libc::ENFILE)) => InjectError::Full(code),
        _ => InjectError::Gone,
    }
}

impl Program for Bindings {
    fn read_memory(&mut self, caller: &Caller, address: u64, buf: &mut [u8]) -> Result<(), i32> {
        if buf.is_empty() {
            return Ok(());
        }
        let len = buf.len();
        whole(self.programs.tasks.read_memory(caller.tid, address, buf), len)?;
        self.still_waits(caller)
    }

    fn write_memory(&mut self, caller: &Caller, address: u64, data: &[u8]) -> Result<(), i32> {
        if data.is_empty() {
            return Ok(());
        }
        if !self.is_valid(caller) && !self.programs.tasks.is_alive(caller.tid) {
            return Err(libc::ESRCH);
        }
        whole(self.programs.tasks.write_memory(caller.tid, address, data), data.len())
    }

    fn write_both(&mut self, caller: &Caller, first: (u64, &[u8]), second: (u64, &[u8])) -> Result<(), i32> {
        if !self.is_valid(caller) && !self.programs.tasks.is_alive(caller.tid) {
            return Err(libc::ESRCH);
        }
        self.write_pieces(caller, first, second)
    }

    /// One check serves for the length that is read and what is written after it.
    fn write_address(&mut self, caller: &Caller, to: AddressOut, address: &[u8]) -> Result<(), i32> {
        if to.address == 0 {
            return Ok(());
        }
        let mut room = [0; 4];
        whole(self.programs.tasks.read_memory(caller.tid, to.len, &mut room), room.len())?;
        self.still_waits(caller)?;
        let room = usize::try_from(i32::from_ne_bytes(room)).map_err(|_| libc::EINVAL)?;
        let fits = &address[..room.min(address.len())];
        self.write_pieces(caller, (to.address, fits), (to.len, &(address.len() as u32).to_ne_bytes()))
    }

    fn duplicate(&mut self, caller: &Caller, fd: i32) -> Result<OwnedFd, i32> {
        if self.disposal.is_stuck() && !self.is_socket(caller.tid, fd) {
            return Err(if self.programs.tasks.has_descriptor(caller.tid, fd) {
                libc::ENOTSOCK
            } else {
                libc::EBADF
            });
        }
        let file = self.duplicate_of(caller.tid, fd)?;
        match self.still_waits(caller) {
            Ok(()) => Ok(file),
            Err(errno) => {
                self.dispose(file);
                Err(errno)
            }
        }
    }

    fn duplicate_of(&mut self, tid: u32, fd: i32) -> Result<OwnedFd, i32> {
        self.programs.tasks.duplicate(tid, fd).map_err(|error| errno(&error))
    }

    fn name_of_foreign(&mut self, file: &OwnedFd, of_peer: bool) -> Result<Vec<u8>, i32> {
        unix::any_address(file.as_fd(), of_peer).map_err(|error| errno(&error))
    }

    fn is_udp(&mut self, file: &OwnedFd) -> bool {
        // One of another network namespace is none of the link's, whoever has it.
        let home = self.links.network();
        unix::is_udp(file.as_fd()) && home.is_none_or(|home| unix::network(file.as_fd()).ok() == Some(home))
    }

    fn who_serves(&mut self, file: &OwnedFd, call: ForeignCall) -> Serves {
        let file = file.as_fd();
        match (unix::domain(file), call) {
            // What they do waits for nothing: a datagram socket only takes a peer or an address.
            (Ok(libc::AF_NETLINK | libc::AF_PACKET | libc::AF_KEY), _) => Serves::Sentry,
            (Ok(libc::AF_INET | libc::AF_INET6), _) if unix::is_inet_datagram(file) => Serves::Sentry,
            // One that has a peer keeps it, and one that listens never gets one.
            (Ok(libc::AF_UNIX), ForeignCall::Connect) if unix::is_connection(file) => {
                Serves::Fails(libc::EISCONN)
            }
            (Ok(libc::AF_UNIX), _) if unix::is_connection(file) => Serves::Fails(libc::EINVAL),
            (Ok(libc::AF_UNIX), ForeignCall::Connect) if unix::is_listening(file).is_ok_and(|on| on) => {
                Serves::Fails(libc::EINVAL)
            }
            _ => Serves::Kernel,
        }
    }

    fn serve_foreign(&mut self, file: &OwnedFd, call: ForeignCall, address: &[u8]) -> Result<(), i32> {
        let done = match call {
            ForeignCall::Connect => unix::connect_any(file.as_fd(), address),
            ForeignCall::Bind => unix::bind_any(file.as_fd(), address),
            ForeignCall::Listen => return Err(libc::EOPNOTSUPP),
        };
        done.map_err(|error| errno(&error))
    }

    fn no_socket(&mut self, file: &OwnedFd) -> Option<i32> {
        unix::domain(file.as_fd()).err().map(|error| errno(&error))
    }

    fn dispose(&mut self, file: OwnedFd) {
        self.disposal.close(file);
    }

    fn answer(&mut self, caller: &Caller, result: Result<i64, i32>) -> Result<(), Gone> {
        let listener = self.programs.listener(caller.program).ok_or(Gone)?;
        listener.answer(caller.id, result).map_err(|_| Gone)
    }

    fn let_kernel(&mut self, caller: &Caller) {
        if let Some(listener) = self.programs.listener(caller.program) {
            // If the caller is gone there is nothing to let through.
            let _ = listener.let_through(caller.id);
        }
    }

    fn inject(&mut self, caller: &Caller, file: &OwnedFd, close_on_exec: bool) -> Result<i32, InjectError> {
        let listener = self.programs.listener(caller.program).ok_or(InjectError::Gone)?;
        listener.answer_with_fd(caller.id, file.as_fd(), close_on_exec).map_err(|error| inject_error(&error))
    }

    fn give(&mut self, caller: &Caller, file: OwnedFd, close_on_exec: bool) -> Result<i32, InjectError> {
        let listener = self.programs.listener(caller.program).ok_or(InjectError::Gone)?;
        let given = listener.add_fd(caller.id, file.as_fd(), close_on_exec);
        given.map_err(|error| inject_error(&error))
    }

    fn replace(&mut self, caller: &Caller, fd: i32, file: &OwnedFd) -> Result<(), InjectError> {
        let listener = self.programs.listener(caller.program).ok_or(InjectError::Gone)?;
        let number = u32::try_from(fd).map_err(|_| InjectError::Full(libc::EBADF))?;
        let close_on_exec = self.programs.tasks.is_closed_on_exec(caller.tid, fd);
        listener
            .replace_fd(caller.id, file.as_fd(), number, close_on_exec)
            .map_err(|error| inject_error(&error))
    }

    fn is_waiting(&mut self, caller: &Caller) -> bool {
        self.is_valid(caller)
    }

    fn expect_leavers(&mut self, program: ProgramId) {
        self.programs.expect_leavers(program);
    }

    fn is_in_sandbox(&mut self, caller: &Caller) -> bool {
        if !self.programs.may_have_left(caller.program) {
            return true;
        }
        // A caller that cannot be looked at is dying: whatever it is answered.
        self.programs
            .tasks
            .namespace(caller.tid, "net")
            .is_ok_and(|network| network == self.programs.home.network)
    }

    fn has_privilege(&mut self, caller: &Caller, privilege: Privilege) -> bool {
        let capability = match privilege {
            Privilege::NetRaw => NET_RAW,
            Privilege::NetAdmin => NET_ADMIN,
            Privilege::NetBindService => NET_BIND_SERVICE,
        };
        self.programs.tasks.namespace(caller.tid, "user").is_ok_and(|user| user == self.programs.home.user)
            && self.programs.tasks.has_capability(caller.tid, capability)
            && self.is_valid(caller)
    }

    fn process(&mut self, caller: &Caller) -> u32 {
        // One that is dying gets no socket.
        self.programs.tasks.process(caller.tid).unwrap_or(caller.tid)
    }

    fn incarnation(&mut self, tid: u32) -> Option<u64> {
        self.programs.tasks.started(tid)
    }

    fn title(&mut self, tid: u32) -> Option<String> {
        self.programs.tasks.title(tid)
    }
}
