//! `getsockopt` and `setsockopt`.

use std::os::fd::{AsFd, OwnedFd};

use netgraft_linux::{inet_socket, unix};
use netgraft_plugin::{Error, Kind, SocketOption, TcpInfo, TcpState};
use netgraft_sentry::call::Buffer;
use netgraft_sentry::sockopt::{self, Get, Set};

use super::caller::Caller;
use super::create::errno;
use super::engine::{Answer, Engine, Outcome};
use super::table::{SocketId, State};

impl Engine {
    /// setsockopt(2)
    pub(super) fn setsockopt(
        &mut self,
        caller: &Caller,
        fd: i32,
        level: i32,
        name: i32,
        value: Buffer,
    ) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        if i32::try_from(value.len).is_err() {
            return Err(libc::EINVAL);
        }
        // What is longer than any value is cut, as the kernel reads only what it needs.
        let mut bytes = [0u8; sockopt::MAX_LEN as usize];
        let len = value.len.min(sockopt::MAX_LEN) as usize;
        caller.read(value.address, &mut bytes[..len])?;
        let value = &bytes[..len];
        let spec = self.table.get(id).ok_or(libc::EBADF)?.spec;
        match sockopt::parse_set(spec, level, name, value)? {
            Set::Stack(option) => {
                self.send_what_was_written(id);
                let handle = self.handle_of(id)?;
                let unknown_algorithm = matches!(option, SocketOption::Congestion(_));
                self.stack.set_option(handle, option.clone()).map_err(|error| match error {
                    // tcp(7) has an errno of its own for this.
                    Error::NotFound if unknown_algorithm => libc::ENOENT,
                    other => other.errno(),
                })?;
                if let Some(socket) = self.table.get_mut(id) {
                    socket.keep_option(&option);
                }
                self.stack_busy = true;
            }
            Set::Timeout(direction, time) => {
                // Data calls are the kernel's own, and so are their time-outs.
                inet_socket::setsockopt(file.as_fd(), level, name, value).map_err(|e| errno(&e))?;
                if let Some(socket) = self.table.get_mut(id) {
                    socket.set_timeout(direction, time);
                }
            }
            Set::Ancillary(kind, on) => {
                if let Some(socket) = self.table.get_mut(id) {
                    socket.set_wanted(kind, on);
                }
            }
            Set::Surrogate => {
                inet_socket::setsockopt(file.as_fd(), level, name, value).map_err(|e| errno(&e))?;
            }
        }
        Ok(Answer::Value(0))
    }

    /// getsockopt(2)
    pub(super) fn getsockopt(
        &mut self,
        caller: &Caller,
        fd: i32,
        level: i32,
        name: i32,
        value: u64,
        len: u64,
    ) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let socket = self.table.get(id).ok_or(libc::EBADF)?;
        let bytes = match sockopt::parse_get(socket.spec, level, name)? {
            Get::Number(number) => sockopt::encode_int(number),
            Get::Timeout(direction) => sockopt::encode_timeout(socket.timeout(direction)),
            Get::Ancillary(kind) => sockopt::encode_int(i32::from(socket.wants(kind))),
            Get::AcceptConn => sockopt::encode_int(i32::from(matches!(socket.state, State::Listening(_)))),
            Get::Error => sockopt::encode_int(self.take_error(id, &file).map_or(0, Error::errno)),
            Get::TcpInfo => sockopt::encode_tcp_info(&self.tcp_info(id)?),
            Get::Stack(name) => {
                let handle = self.handle_of(id)?;
                sockopt::encode(&self.stack.get_option(handle, name).map_err(Error::errno)?)
            }
            Get::Surrogate => {
                let mut bytes = [0; 16];
                let n =
                    inet_socket::getsockopt(file.as_fd(), level, name, &mut bytes).map_err(|e| errno(&e))?;
                bytes[..n.min(16)].to_vec()
            }
        };
        caller.write_value(value, len, &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Takes the error that the program has not been told, and the surrogate's own sign of it.
    pub(super) fn take_error(&mut self, id: SocketId, file: &OwnedFd) -> Option<Error> {
        if let Some(error) = self.take_pending(id, file) {
            return Some(error);
        }
        let socket = self.table.get(id)?;
        if matches!(socket.state, State::ConnectingBlocked | State::ConnectingGated(..)) {
            return None;
        }
        let ended = matches!(socket.state, State::Ended(_));
        let error = socket.handle.and_then(|handle| self.stack.take_error(handle));
        let shown = unix::clear_error(file.as_fd());
        // An error that only the surrogate knows of is the end of its connection with the stack of an earlier sentry.
        error.or_else(|| (shown && ended).then_some(Error::ConnectionReset))
    }

    /// Takes the error that waits for the program. What the surrogate has shown in its own words is not told twice.
    pub(super) fn take_pending(&mut self, id: SocketId, file: &OwnedFd) -> Option<Error> {
        let socket = self.table.get_mut(id)?;
        let error = socket.pending_error.take()?;
        let was_shown = std::mem::take(&mut socket.shows_error);
        let is_unread = unix::clear_error(file.as_fd());
        (is_unread || !was_shown).then_some(error)
    }

    fn tcp_info(&mut self, id: SocketId) -> Result<TcpInfo, i32> {
        let socket = self.table.get(id).ok_or(libc::EBADF)?;
        match socket.handle {
            Some(handle) => self.stack.tcp_info(handle).map_err(Error::errno),
            None if socket.spec.kind == Kind::Stream => {
                Ok(TcpInfo { state: TcpState::Closed, ..TcpInfo::default() })
            }
            None => Err(libc::ENOPROTOOPT),
        }
    }
}
