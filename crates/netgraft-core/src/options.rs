//! `getsockopt` and `setsockopt`.

use netgraft_plugin::{Error, Kind, SocketOption, TcpInfo, TcpState};

use crate::answers::{Answer, Outcome};
use crate::codec::call::Buffer;
use crate::codec::sockopt::{self, Get, Set};
use crate::core::{Core, Kernel, Subject};
use crate::join;
use crate::program::Caller;
use crate::socket::{Pending, Socket, State};

use crate::table::SocketId;
use crate::uapi::{self, Errno};

impl<K: Kernel> Core<K> {
    /// setsockopt(2)
    pub(crate) fn setsockopt(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        (level, name): (i32, i32),
        value: Buffer,
    ) -> Outcome {
        if i32::try_from(value.len).is_err() {
            return Err(uapi::EINVAL);
        }
        // What is longer than any value is cut, as the kernel reads only what it needs.
        let mut bytes = [0u8; sockopt::MAX_LEN as usize];
        let len = value.len.min(sockopt::MAX_LEN) as usize;
        self.kernel.read_memory(caller, value.address, &mut bytes[..len])?;
        let value = &bytes[..len];
        let id = subject.id;
        let spec = self.table.get(id).ok_or(uapi::EBADF)?.spec;
        match sockopt::parse_set(spec, level, name, value)? {
            Set::Stack(option) => {
                let is_linger = matches!(option, SocketOption::Linger(_));
                let is_inline = matches!(option, SocketOption::OutOfBandInline(_));
                self.set_in_stack(id, option)?;
                if is_inline && spec.kind == Kind::Stream {
                    // Whether a data call gives the urgent byte is up to the surrogate.
                    self.kernel.set_option(&subject.file, level, name, value)?;
                }
                if is_linger {
                    self.apply_linger(subject);
                }
            }
            Set::Timeout(direction, time) => {
                // Data calls are the kernel's own, and so are their time-outs.
                self.kernel.set_option(&subject.file, level, name, value)?;
                if let Some(socket) = self.table.get_mut(id) {
                    socket.set_timeout(direction, time);
                }
            }
            Set::Ancillary(kind, on) => {
                if let Some(socket) = self.table.get_mut(id) {
                    socket.set_wanted(kind, on);
                }
            }
            Set::Surrogate => self.kernel.set_option(&subject.file, level, name, value)?,
        }
        Ok(Answer::Value(0))
    }

    /// What `SO_LINGER` means for a joined connection, whose close the stack does not see.
    fn apply_linger(&mut self, subject: &Subject<K>) {
        if !self.is_joined(subject.id) {
            return;
        }
        if self.table.get(subject.id).is_some_and(Socket::closes_by_reset) {
            self.reset_at_close(subject);
        } else {
            self.kernel.take_mark(&subject.file);
        }
    }

    fn set_in_stack(&mut self, id: SocketId, option: SocketOption) -> Result<(), Errno> {
        if option == SocketOption::WindowClamp(0) && self.is_joined(id) {
            // Only a socket without a connection can take it back; the stack does not know of this one.
            return Err(uapi::EINVAL);
        }
        self.send_what_was_written(id);
        let handle = self.handle_of(id)?;
        let unknown_algorithm = matches!(option, SocketOption::Congestion(_));
        self.stack.set_option(handle, option.clone()).map_err(|error| match error {
            // tcp(7) has an errno of its own for this.
            Error::NotFound if unknown_algorithm => uapi::ENOENT,
            other => other.errno(),
        })?;
        if let Some(socket) = self.table.get_mut(id) {
            socket.keep_option(&option);
        }
        Ok(())
    }

    /// getsockopt(2)
    pub(crate) fn getsockopt(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        (level, name): (i32, i32),
        value: u64,
        len: u64,
    ) -> Outcome {
        let id = subject.id;
        let socket = self.table.get(id).ok_or(uapi::EBADF)?;
        let bytes = match sockopt::parse_get(socket.spec, level, name)? {
            Get::Number(number) => sockopt::encode_int(number),
            Get::Timeout(direction) => sockopt::encode_timeout(socket.timeout(direction)),
            Get::Ancillary(kind) => sockopt::encode_int(i32::from(socket.wants(kind))),
            Get::AcceptConn => sockopt::encode_int(i32::from(matches!(socket.state, State::Listening(_)))),
            Get::Error => sockopt::encode_int(self.take_error(subject).map_or(0, Error::errno)),
            Get::TcpInfo => sockopt::encode_tcp_info(&self.tcp_info(subject)?),
            Get::Stack(name) => {
                let handle = self.handle_of(id)?;
                sockopt::encode(&self.stack.get_option(handle, name).map_err(Error::errno)?)
            }
            Get::Surrogate => {
                let mut bytes = vec![0; 16];
                let n = self.kernel.get_option(&subject.file, level, name, &mut bytes)?;
                bytes.truncate(n);
                bytes
            }
        };
        self.kernel.write_value(caller, value, len, &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Takes the error that no call has reported, and the surrogate's own sign of it.
    pub(crate) fn take_error(&mut self, subject: &Subject<K>) -> Option<Error> {
        if let Some(error) = self.take_pending(subject) {
            return Some(error);
        }
        let socket = self.table.get(subject.id)?;
        if socket.is_connecting() {
            return None;
        }
        let ended = matches!(socket.state, State::Ended(_) | State::Joined(_));
        let in_stack = socket.handle.filter(|_| !matches!(socket.state, State::Joined(_)));
        let error = in_stack.and_then(|handle| self.stack.take_error(handle));
        let shown = self.kernel.take_error(&subject.file);
        // An error that only the surrogate knows of is the end of its connection with the stack of an earlier sentry.
        error.or_else(|| (shown && ended).then_some(Error::ConnectionReset))
    }

    /// Takes the error that waits for the program. An error that the surrogate has shown itself is not reported twice.
    pub(crate) fn take_pending(&mut self, subject: &Subject<K>) -> Option<Error> {
        let socket = self.table.get_mut(subject.id)?;
        match std::mem::take(&mut socket.pending) {
            Pending::None => None,
            Pending::Hidden(error) => {
                self.kernel.take_error(&subject.file);
                Some(error)
            }
            Pending::Shown(error) => self.kernel.take_error(&subject.file).then_some(error),
        }
    }

    fn tcp_info(&mut self, subject: &Subject<K>) -> Result<TcpInfo, Errno> {
        let socket = self.table.get(subject.id).ok_or(uapi::EBADF)?;
        if let State::Joined(joined) = socket.state {
            return Ok(join::tcp_info(self.kernel.has_ended(&subject.file), joined.has_ended));
        }
        match socket.handle {
            Some(handle) => self.stack.tcp_info(handle).map_err(Error::errno),
            None if socket.spec.kind == Kind::Stream => {
                Ok(TcpInfo { state: TcpState::Closed, ..TcpInfo::default() })
            }
            None => Err(uapi::ENOPROTOOPT),
        }
    }
}
