//! `MSG_FASTOPEN` (tcp(7)): a send that connects.

use netgraft_plugin::{Error, OptionName, SocketOption};

use crate::answers::{Answer, Outcome};
use crate::codec::call::Buffer;
use crate::codec::sockaddr::{self, Given};
use crate::codec::sockopt::Direction;
use crate::core::{Core, Kernel, Request, Subject};
use crate::send::Carrier;
use crate::socket::State;
use crate::stream::Opening;
use crate::uapi::{self, Errno};

impl<K: Kernel> Core<K> {
    /// sendto(2) and sendmsg(2) with MSG_FASTOPEN on a stream socket: connects to the address, and sends. The bytes leave with
    /// the SYN if the stack has a cookie of the peer; else when the connection is made, which a call that may wait awaits.
    pub(crate) fn send_fast(
        &mut self,
        request: &Request,
        subject: &mut Subject<K>,
        (fd, flags): (i32, i32),
        parts: &[Buffer],
        name: Buffer,
    ) -> Outcome {
        let flags = flags & !uapi::MSG_FASTOPEN;
        let waits = !self.must_not_wait(&subject.file, flags)?;
        if !self.is_connecting(subject) && !self.has_just_connected(request, subject)? {
            match self.connect_fast(request, subject, fd, name) {
                Ok(_) => return self.send_stream(request, subject, parts, flags),
                Err(uapi::EINPROGRESS) if waits => {}
                Err(errno) => return Err(errno),
            }
        }
        match self.is_connecting(subject) {
            true if waits => self.park_data_call(request, subject, Direction::Send, 0),
            true => Err(uapi::EALREADY),
            false => {
                // An attempt that is over at once, as on the loopback, may have failed.
                self.take_failed_attempt(subject)?;
                self.send_stream(request, subject, parts, flags)
            }
        }
    }

    fn is_connecting(&mut self, subject: &Subject<K>) -> bool {
        matches!(self.carrier(subject), Carrier::Connecting)
    }

    /// Fails as the attempt did; if it has succeeded, this call says so.
    fn take_failed_attempt(&mut self, subject: &Subject<K>) -> Result<(), Errno> {
        match self.table.get_mut(subject.id).map(|socket| &mut socket.state) {
            Some(State::Connected(stream)) => stream.opening = Opening::Done,
            Some(State::Joined(joined)) => joined.opening = Opening::Done,
            _ => return Err(self.take_pending(subject).map_or(uapi::ECONNABORTED, Error::errno)),
        }
        Ok(())
    }

    /// Whether the attempt that a call has begun has succeeded, and no other call has said so yet.
    fn has_just_connected(&mut self, request: &Request, subject: &Subject<K>) -> Result<bool, Errno> {
        let opening = match self.table.get_mut(subject.id).map(|socket| &mut socket.state) {
            Some(State::Connected(stream)) => &mut stream.opening,
            Some(State::Joined(joined)) => &mut joined.opening,
            _ => return Ok(false),
        };
        match std::mem::replace(opening, Opening::Done) {
            Opening::Unreported => Ok(true),
            // The call goes on that has said so itself.
            Opening::Done if request.resumed.is_some() => Ok(true),
            Opening::Done => Err(uapi::EISCONN),
        }
    }

    /// Begins an attempt as `TCP_FASTOPEN_CONNECT` does, whatever the program has said of that option.
    fn connect_fast(
        &mut self,
        request: &Request,
        subject: &mut Subject<K>,
        fd: i32,
        name: Buffer,
    ) -> Outcome {
        let (bytes, len) = self.kernel.read_address(&request.caller, name)?;
        let spec = self.table.get(subject.id).ok_or(uapi::EBADF)?.spec;
        let Given::Inet(addr) = sockaddr::parse(spec.domain, &bytes[..len])? else {
            return Err(uapi::EOPNOTSUPP);
        };
        let handle = self.handle_of(subject.id)?;
        self.bind_late(subject.id)?;
        let before = self.stack.get_option(handle, OptionName::FastOpenConnect);
        if before == Ok(SocketOption::FastOpenConnect(false)) {
            // A stack that has no such thing connects as ever.
            let _ = self.stack.set_option(handle, SocketOption::FastOpenConnect(true));
        }
        let outcome = self.connect_to(request, subject, fd, addr, false);
        if let (Ok(before), Ok(handle)) = (before, self.handle_of(subject.id)) {
            let _ = self.stack.set_option(handle, before);
        }
        match outcome {
            Ok(Answer::Value(0)) => Ok(Answer::Value(0)),
            Ok(_) => Err(uapi::EALREADY),
            failed => failed,
        }
    }
}
