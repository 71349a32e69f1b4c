//! `getsockopt` and `setsockopt`.

use netgraft_plugin::{Error, Kind, OptionName, SocketOption, TcpInfo, TcpState};

use crate::answers::{Answer, Outcome};
use crate::codec::call::Buffer;
use crate::codec::sockopt::{self, Get, Set};
use crate::core::{Core, Kernel, Subject};
use crate::join;
use crate::program::{Caller, Privilege};
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
            Set::Stack(SocketOption::BindToDevice(name)) if name.is_empty() => {}
            Set::Stack(SocketOption::BindToDevice(name)) if !self.has_interface(&name) => {
                return Err(uapi::ENODEV);
            }
            Set::Forced(option) => {
                if !self.kernel.has_privilege(caller, Privilege::NetAdmin) {
                    return Err(uapi::EPERM);
                }
                self.set_in_stack(id, option)?;
            }
            Set::Kept(key, value) => {
                self.table.get_mut(id).ok_or(uapi::EBADF)?.kept.set(key, value);
                if let Some(hint) = key.as_hint(value)
                    && let Err(errno) = self.set_in_stack(id, hint)
                {
                    tracing::debug!(errno, "the stack does without a hint");
                }
            }
            Set::Stack(option) => {
                let is_linger = matches!(option, SocketOption::Linger(_));
                let is_inline = matches!(option, SocketOption::OutOfBandInline(_));
                let room = match option {
                    SocketOption::SendBuffer(bytes) => Some(bytes),
                    _ => None,
                };
                self.set_in_stack(id, option)?;
                if let Some(bytes) = room {
                    self.make_room_in_surrogate(subject, bytes);
                }
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

    /// Whether there is an interface of this name.
    fn has_interface(&self, name: &str) -> bool {
        name == "lo" || self.stack.interfaces().iter().any(|interface| interface.name == name)
    }

    /// A larger `SO_SNDBUF` of a connection: a send that waits for room goes on, as on Linux. A smaller one leaves the
    /// surrogate as it is.
    fn make_room_in_surrogate(&mut self, subject: &Subject<K>, bytes: u32) {
        let connected = |s: &Socket<K>| matches!(s.state, State::Joined(_) | State::Connected(_));
        if !self.table.get(subject.id).is_some_and(connected) {
            return;
        }
        let mut before = [0; 4];
        let (level, name) = (uapi::SOL_SOCKET, uapi::SO_SNDBUF);
        let Ok(4) = self.kernel.get_option(&subject.file, level, name, &mut before) else { return };
        let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
        // The kernel shows twice what is set.
        if wanted > i32::from_ne_bytes(before) / 2
            && let Err(errno) = self.kernel.set_option(&subject.file, level, name, &wanted.to_ne_bytes())
        {
            tracing::debug!(errno, "the buffer of a surrogate stays as it is");
        }
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
        let is_connected =
            |s: &Socket<K>| matches!(s.state, State::Joined(_) | State::Connected(_) | State::Connecting(_));
        let is_fast_open = matches!(option, SocketOption::FastOpen(_) | SocketOption::FastOpenConnect(_));
        if is_fast_open && self.table.get(id).is_some_and(is_connected) {
            return Err(uapi::EINVAL);
        }
        self.send_what_was_written(id);
        let handle = self.handle_of(id)?;
        let unknown_algorithm = matches!(option, SocketOption::Congestion(_));
        match self.stack.set_option(handle, option.clone()) {
            Ok(()) => {}
            // tcp(7) has an errno of its own for this.
            Err(Error::NotFound) if unknown_algorithm => return Err(uapi::ENOENT),
            // Turned off in a stack that lacks it. One without urgent data has all of it in line.
            Err(Error::UnknownOption)
                if option == SocketOption::OutOfBandInline(true)
                    || sockopt::off(option.name()).as_ref() == Some(&option) => {}
            Err(other) => return Err(other.errno()),
        }
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
        let socket_kind = socket.spec.kind;
        let bytes = match sockopt::parse_get(socket.spec, level, name)? {
            Get::Number(number) => sockopt::encode_int(number),
            Get::Kept(key, first) => sockopt::encode_int(socket.kept.get(key).unwrap_or(first)),
            Get::Bytes(bytes) => bytes.to_vec(),
            // The loopback's MTU, and half of what fits into a window (`net/ipv4/tcp_output.c`, tcp_bound_to_half_wnd).
            Get::Stack(OptionName::PathMtu) if matches!(socket.state, State::Joined(_)) => {
                sockopt::encode_int(if is_v4(socket) { 65_535 } else { 65_536 })
            }
            Get::Stack(OptionName::MaxSegment) if matches!(socket.state, State::Joined(_)) => {
                sockopt::encode_int(if is_v4(socket) { 32_741 } else { 32_732 })
            }
            Get::Stack(OptionName::BindToDevice) if socket.spec.kind == Kind::Stream => Vec::new(),
            Get::Timeout(direction) => sockopt::encode_timeout(socket.timeout(direction)),
            Get::Ancillary(kind) => sockopt::encode_int(i32::from(socket.wants(kind))),
            Get::AcceptConn => sockopt::encode_int(i32::from(matches!(socket.state, State::Listening(_)))),
            Get::Error => sockopt::encode_int(self.take_error(subject).map_or(0, Error::errno)),
            Get::TcpInfo => sockopt::encode_tcp_info(&self.tcp_info(subject)?),
            Get::Stack(name) => {
                let handle = self.handle_of(id)?;
                match self.stack.get_option(handle, name) {
                    // A stack that lacks it, and a program that has not turned it on.
                    Err(Error::UnknownOption) if socket_kind == Kind::Stream => {
                        let set = self
                            .table
                            .get(id)
                            .and_then(|s| s.setup.options.iter().find(|o| o.name() == name));
                        let option = set.cloned().or_else(|| sockopt::off(name)).ok_or(uapi::ENOPROTOOPT)?;
                        sockopt::encode(&option)
                    }
                    value => sockopt::encode(&value.map_err(Error::errno)?),
                }
            }
            Get::Surrogate => {
                let mut bytes = vec![0; 16];
                let n = self.kernel.get_option(&subject.file, level, name, &mut bytes)?;
                bytes.truncate(n);
                bytes
            }
        };
        let bytes = self.as_long_as_asked(caller, (level, name), len, bytes)?;
        self.kernel.write_value(caller, value, len, &bytes)?;
        Ok(Answer::Value(0))
    }

    /// A value as the kernel gives it to who has room for less: a number of IP that fits into one byte is one
    /// (`do_ip_getsockopt` of Linux), and a cookie is not cut.
    fn as_long_as_asked(
        &mut self,
        caller: &Caller,
        (level, name): (i32, i32),
        len: u64,
        mut bytes: Vec<u8>,
    ) -> Result<Vec<u8>, Errno> {
        if level == uapi::SOL_SOCKET && name == uapi::SO_COOKIE {
            let fits = self.kernel.read_room(caller, len)? >= bytes.len();
            return if fits { Ok(bytes) } else { Err(uapi::EINVAL) };
        }
        let is_small = matches!(bytes.first_chunk(), Some(&[_, 0, 0, 0])) && bytes.len() == 4;
        if level == uapi::IPPROTO_IP
            && name != uapi::IP_MULTICAST_IF
            && is_small
            && matches!(self.kernel.read_room(caller, len)?, 1..=3)
        {
            bytes.truncate(1);
        }
        Ok(bytes)
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

/// Whether a joined connection is one of IPv4.
fn is_v4<K: Kernel>(socket: &Socket<K>) -> bool {
    matches!(&socket.state, State::Joined(joined) if joined.pair.local.ip().to_canonical().is_ipv4())
}
