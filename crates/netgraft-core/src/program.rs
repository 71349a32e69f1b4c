//! The program's side: the threads that make calls, their memory and their descriptors.

use crate::codec::call::{AddressOut, Buffer};
use crate::codec::message::{self, Header, PART_LEN};
use crate::codec::sockaddr;
use crate::uapi::{self, Errno};

/// One program of a sandbox: the processes whose calls come through one seccomp listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProgramId(pub u32);

/// A thread of the program that waits for the answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The program that it belongs to.
    pub program: ProgramId,
    /// The notification (seccomp_unotify(2)), unique within its program.
    pub id: u64,
    /// The thread.
    pub tid: u32,
    /// The call's number.
    pub number: i64,
    /// The call's arguments.
    pub args: [u64; 6],
}

/// What a program may need a capability for (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// CAP_NET_RAW: raw sockets (raw(7)).
    NetRaw,
    /// CAP_NET_ADMIN: more than the limits allow (socket(7)).
    NetAdmin,
    /// CAP_NET_BIND_SERVICE: ports below 1024 of the host.
    NetBindService,
}

/// The caller does not wait any more: a signal interrupted its call, or it has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Why a descriptor could not be put into the caller's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectError {
    /// The caller does not wait any more.
    Gone,
    /// Its table is full, or the system's is (EMFILE, ENFILE): the call is still to be answered.
    Full(Errno),
}

/// A call on a file that is not the sentry's which would do something to a surrogate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignCall {
    /// connect(2)
    Connect,
    /// bind(2)
    Bind,
    /// listen(2)
    Listen,
}

/// Who serves a [`ForeignCall`].
///
/// The kernel serves it on what the descriptor stands for when it looks, which may be a surrogate by then: a second thread
/// turns it there. So it is left to the kernel only where the program could do the same with a socket of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// The kernel: an AF_UNIX socket that has no peer yet, or one that the program has inherited.
    Kernel,
    /// The sentry, on its duplicate: a socket that reaches nothing outside of the program (netlink(7), packet(7)).
    Sentry,
    /// Nobody can: EISCONN, EINVAL.
    Fails(Errno),
}

/// An open file of the program, and the sentry's end of a surrogate.
pub trait Files {
    /// A duplicate of an open file of the program. It is dropped before the call that it was made for is answered:
    /// while it lives, the program's last close does not close the file.
    type File;
    /// The sentry's end of a surrogate.
    type End;
}

/// What the sentry can do with the threads of a program.
pub trait Program: Files {
    /// Fills `buf` from the caller's memory.
    ///
    /// # Errors
    /// EFAULT; ESRCH if the caller does not wait any more, so that its thread's number may be another's by now.
    fn read_memory(&mut self, caller: &Caller, address: u64, buf: &mut [u8]) -> Result<(), Errno>;

    /// Writes all of `data` to the caller's memory.
    ///
    /// # Errors
    /// As [`Program::read_memory`].
    fn write_memory(&mut self, caller: &Caller, address: u64, data: &[u8]) -> Result<(), Errno>;

    /// Duplicates a descriptor of the caller.
    ///
    /// # Errors
    /// EBADF if it has no such descriptor, ENFILE if the sentry has no room, ESRCH if the caller is gone.
    fn duplicate(&mut self, caller: &Caller, fd: i32) -> Result<Self::File, Errno>;

    /// Duplicates a descriptor of a thread that need not wait in a call: whoever asks compares the file's cookie.
    ///
    /// # Errors
    /// As [`Program::duplicate`].
    fn duplicate_of(&mut self, tid: u32, fd: i32) -> Result<Self::File, Errno>;

    /// The address of a socket that is not the sentry's, or of its peer (getsockname(2), getpeername(2)). The kernel would
    /// answer for the file that the descriptor stands for by then, which may be a surrogate, whose name is nobody's to
    /// know.
    ///
    /// # Errors
    /// ENOTCONN.
    fn name_of_foreign(&mut self, file: &Self::File, of_peer: bool) -> Result<Vec<u8>, Errno>;

    /// Whether a file that is not the sentry's is a UDP socket of the kernel's.
    fn is_udp(&mut self, _file: &Self::File) -> bool {
        false
    }

    /// Who is to serve a call on a file that is not the sentry's.
    fn who_serves(&mut self, file: &Self::File, call: ForeignCall) -> Serves;

    /// Connects or binds a socket for which [`Program::who_serves`] says so, without waiting.
    ///
    /// # Errors
    /// As connect(2) and bind(2).
    fn serve_foreign(&mut self, file: &Self::File, call: ForeignCall, address: &[u8]) -> Result<(), Errno>;

    /// What every call for sockets says of a file that is not the sentry's, if it is no socket: ENOTSOCK, or EBADF for one
    /// that is open as a path only (open(2), O_PATH).
    fn no_socket(&mut self, file: &Self::File) -> Option<Errno>;

    /// Closes a duplicate that turned out to be no socket: closing some files waits for a server that the program may be
    /// (fuse(4)), and the sentry must not.
    fn dispose(&mut self, file: Self::File);

    /// Answers a call with its return value or an errno.
    ///
    /// # Errors
    /// [`Gone`]: the caller did not get it.
    fn answer(&mut self, caller: &Caller, result: Result<i64, Errno>) -> Result<(), Gone>;

    /// Lets the kernel do the call. Never for a decision about policy: the arguments may have changed.
    fn let_kernel(&mut self, caller: &Caller);

    /// Puts a file into the caller's table and answers the call with its descriptor, in one step.
    ///
    /// # Errors
    /// Either both happen or neither.
    fn inject(&mut self, caller: &Caller, file: &Self::File, close_on_exec: bool)
    -> Result<i32, InjectError>;

    /// Puts a file into the caller's table and gives it up, so that the last close is the program's; the call is still to
    /// be answered with the descriptor.
    ///
    /// # Errors
    /// As [`Program::inject`].
    fn give(&mut self, caller: &Caller, file: Self::File, close_on_exec: bool) -> Result<i32, InjectError>;

    /// Replaces a descriptor of the caller by `file`; whether it is closed on exec stays. The call is not answered.
    ///
    /// # Errors
    /// As [`Program::inject`].
    fn replace(&mut self, caller: &Caller, fd: i32, file: &Self::File) -> Result<(), InjectError>;

    /// Whether the caller still waits for this call.
    fn is_waiting(&mut self, caller: &Caller) -> bool;

    /// From now on a process of this program may be in another network namespace: before, none can be.
    fn expect_leavers(&mut self, program: ProgramId);

    /// Whether the caller is in the sandbox's network namespace. One that has left it has the kernel's network there.
    fn is_in_sandbox(&mut self, caller: &Caller) -> bool;

    /// Whether the caller has a privilege in the program's own user namespace. One that it has in a namespace that it
    /// made itself counts for nothing here.
    fn has_privilege(&mut self, caller: &Caller, privilege: Privilege) -> bool;

    /// The process that the caller is a thread of, for the limit of a process's sockets.
    fn process(&mut self, caller: &Caller) -> u32 {
        caller.tid
    }

    /// A number that tells a thread from a later one with the same `tid` (its start time); `None` if it is gone.
    fn incarnation(&mut self, tid: u32) -> Option<u64>;

    /// What people call the process of a thread, such as `curl[12]`; `None` if that is not known.
    fn title(&mut self, _tid: u32) -> Option<String> {
        None
    }

    /// Writes two pieces of data to the caller's memory.
    ///
    /// # Errors
    /// As [`Program::write_memory`].
    fn write_both(
        &mut self,
        caller: &Caller,
        first: (u64, &[u8]),
        second: (u64, &[u8]),
    ) -> Result<(), Errno> {
        self.write_memory(caller, first.0, first.1)?;
        self.write_memory(caller, second.0, second.1)
    }

    /// The bytes of an address argument, and how many they are.
    ///
    /// # Errors
    /// EINVAL for a length beyond any address, EFAULT.
    fn read_address(
        &mut self,
        caller: &Caller,
        from: Buffer,
    ) -> Result<([u8; sockaddr::MAX_LEN], usize), Errno> {
        let mut bytes = [0; sockaddr::MAX_LEN];
        let len = usize::try_from(from.len).ok().filter(|&l| l <= bytes.len()).ok_or(uapi::EINVAL)?;
        self.read_memory(caller, from.address, &mut bytes[..len])?;
        Ok((bytes, len))
    }

    /// A `u32` of the caller's memory.
    ///
    /// # Errors
    /// EFAULT.
    fn read_u32(&mut self, caller: &Caller, address: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.read_memory(caller, address, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// Writes an address result: as much as fits, and its full length (accept(2)).
    ///
    /// # Errors
    /// EINVAL for a negative length, EFAULT.
    fn write_address(&mut self, caller: &Caller, to: AddressOut, address: &[u8]) -> Result<(), Errno> {
        let room = self.address_room(caller, to)?;
        self.put_address(caller, to, room, address)
    }

    /// The room that a caller offers for an address result.
    ///
    /// # Errors
    /// As [`Program::write_address`].
    fn address_room(&mut self, caller: &Caller, to: AddressOut) -> Result<usize, Errno> {
        if to.address == 0 { Ok(0) } else { self.read_room(caller, to.len) }
    }

    /// Writes an address result into the room that [`Program::address_room`] has found. Nothing is read: it also works
    /// for a caller that a signal has interrupted meanwhile.
    ///
    /// # Errors
    /// EFAULT.
    fn put_address(
        &mut self,
        caller: &Caller,
        to: AddressOut,
        room: usize,
        address: &[u8],
    ) -> Result<(), Errno> {
        if to.address == 0 {
            return Ok(());
        }
        let fits = &address[..room.min(address.len())];
        self.write_both(caller, (to.address, fits), (to.len, &(address.len() as u32).to_ne_bytes()))
    }

    /// Writes a `getsockopt` result: as much as fits, and how much that is.
    ///
    /// # Errors
    /// As [`Program::write_address`].
    fn write_value(&mut self, caller: &Caller, address: u64, len: u64, value: &[u8]) -> Result<(), Errno> {
        let fits = self.read_room(caller, len)?.min(value.len());
        self.write_both(caller, (address, &value[..fits]), (len, &(fits as u32).to_ne_bytes()))
    }

    /// A length that the caller offers for a result; the kernel takes it for an `int`.
    ///
    /// # Errors
    /// EINVAL for a negative one, EFAULT.
    fn read_room(&mut self, caller: &Caller, address: u64) -> Result<usize, Errno> {
        let room = self.read_u32(caller, address)?;
        i32::try_from(room).ok().and_then(|room| usize::try_from(room).ok()).ok_or(uapi::EINVAL)
    }

    /// A `struct msghdr`.
    ///
    /// # Errors
    /// EFAULT.
    fn read_header(&mut self, caller: &Caller, address: u64) -> Result<Header, Errno> {
        let mut bytes = [0; message::HEADER_LEN];
        self.read_memory(caller, address, &mut bytes)?;
        Ok(message::parse_header(&bytes))
    }

    /// An I/O vector.
    ///
    /// # Errors
    /// EMSGSIZE for too many parts, EINVAL for a length beyond `ssize_t`, EFAULT.
    fn read_parts(&mut self, caller: &Caller, parts: Buffer) -> Result<message::Parts, Errno> {
        if parts.len > message::MAX_PARTS {
            return Err(uapi::EMSGSIZE);
        }
        let mut bytes = message::Bytes::from_elem(0, parts.len as usize * PART_LEN);
        self.read_memory(caller, parts.address, &mut bytes)?;
        message::parse_parts(&bytes)
    }

    /// The bytes of the caller's control messages.
    ///
    /// # Errors
    /// ENOBUFS for too many, EFAULT.
    fn read_control(&mut self, caller: &Caller, header: &Header) -> Result<message::Bytes, Errno> {
        if header.control.address == 0 || header.control.len == 0 {
            return Ok(message::Bytes::new());
        }
        if header.control.len > message::MAX_CONTROL {
            return Err(uapi::ENOBUFS);
        }
        let mut bytes = message::Bytes::from_elem(0, header.control.len as usize);
        self.read_memory(caller, header.control.address, &mut bytes)?;
        Ok(bytes)
    }

    /// Gathers an I/O vector into `data`, which it clears first; stops at `most` bytes.
    ///
    /// # Errors
    /// EFAULT.
    fn gather(
        &mut self,
        caller: &Caller,
        parts: &[Buffer],
        most: usize,
        data: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        data.clear();
        for part in parts {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX).min(most - data.len());
            let start = data.len();
            data.resize(start + len, 0);
            self.read_memory(caller, part.address, &mut data[start..])?;
        }
        Ok(())
    }

    /// Spreads `data` over an I/O vector.
    ///
    /// # Errors
    /// EFAULT.
    fn scatter(&mut self, caller: &Caller, parts: &[Buffer], mut data: &[u8]) -> Result<(), Errno> {
        for part in parts {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX).min(data.len());
            let (head, tail) = data.split_at(len);
            self.write_memory(caller, part.address, head)?;
            data = tail;
            if data.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// All bytes of an I/O vector.
#[must_use]
pub fn total(parts: &[Buffer]) -> usize {
    parts.iter().fold(0, |sum, p| sum.saturating_add(usize::try_from(p.len).unwrap_or(usize::MAX)))
}
