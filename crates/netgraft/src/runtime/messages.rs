//! The data calls that carry addresses or control messages.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netgraft_linux::unix;
use netgraft_plugin::{Domain, Error, Kind, Received, RecvFlags, SendFlags};
use netgraft_sentry::call::{AddressOut, Buffer, Call};
use netgraft_sentry::message::{self, ControlWriter, Header};
use netgraft_sentry::sockaddr::{self, Given};
use netgraft_sentry::sockopt::{Ancillary, Direction};

use super::caller::{Caller, total};
use super::create::errno;
use super::datagram::MAX_DATAGRAM;
use super::engine::{Answer, Engine, Outcome};
use super::stream::CHUNK;
use super::table::{Over, Socket, SocketId, State};

/// `MSG_WAITFORONE` (recvmmsg(2))
const WAIT_FOR_ONE: i32 = 0x1_0000;

/// Which kind of socket a data call is for.
enum Target {
    Datagram,
    Stream,
    /// A stream socket without a connection, and the errno of sending on it.
    Unconnected(i32),
}

impl Engine {
    fn target(&self, id: SocketId, file: &OwnedFd) -> Target {
        let Some(socket) = self.table.get(id) else { return Target::Unconnected(libc::EPIPE) };
        match socket.state {
            State::Datagram(_) => Target::Datagram,
            State::Stream(_) => Target::Stream,
            State::ConnectingBlocked | State::ConnectingGated(..) => Target::Unconnected(libc::EAGAIN),
            State::Ended(_) if socket.spec.kind != Kind::Stream => Target::Unconnected(libc::ENETDOWN),
            // What came before the end is still there, and then the error.
            State::Ended(_) if unix::peer_name(file.as_fd()).is_some() => Target::Stream,
            State::Fresh | State::Listening(_) | State::Ended(_) => Target::Unconnected(libc::EPIPE),
        }
    }

    fn must_not_wait(file: &OwnedFd, flags: i32) -> Result<bool, i32> {
        Ok(flags & libc::MSG_DONTWAIT != 0 || unix::is_nonblocking(file.as_fd()).map_err(|e| errno(&e))?)
    }

    /// sendto(2)
    pub(super) fn sendto(
        &mut self,
        caller: &Caller,
        call: Call,
        fd: i32,
        data: Buffer,
        flags: i32,
        addr: Buffer,
    ) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let parts = [data];
        match self.target(id, &file) {
            Target::Datagram => {
                let name = if addr.address == 0 { Buffer { address: 0, len: 0 } } else { addr };
                match self.send_datagram(caller, (id, &file), &parts, name, flags) {
                    Err(libc::EAGAIN) if !Self::must_not_wait(&file, flags)? => {
                        Ok(self.park(caller, call, id, Direction::Send))
                    }
                    result => result.map(|n| Answer::Value(n as i64)),
                }
            }
            Target::Stream => self.send_stream(caller, (id, &file), &parts, flags),
            Target::Unconnected(code) => {
                let code = self.take_pending(id, &file).map_or(code, Error::errno);
                Err(no_fast_open(flags).unwrap_or(code))
            }
        }
    }

    /// A stream ignores the address (send(2)); urgent data does not exist here.
    fn send_stream(
        &mut self,
        caller: &Caller,
        (id, file): (SocketId, &OwnedFd),
        parts: &[Buffer],
        flags: i32,
    ) -> Outcome {
        if flags & (libc::MSG_OOB | libc::MSG_FASTOPEN) != 0 {
            return Err(libc::EOPNOTSUPP);
        }
        if let Some(error) = self.take_pending(id, file) {
            return Err(error.errno());
        }
        let mut data = std::mem::take(&mut self.payload);
        let sent = caller.gather(parts, CHUNK, &mut data).and_then(|()| {
            unix::send(file.as_fd(), &data).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
        });
        self.payload = data;
        sent.map(|n| Answer::Value(n as i64))
    }

    /// Sends one datagram and says how long it was.
    fn send_datagram(
        &mut self,
        caller: &Caller,
        (id, file): (SocketId, &OwnedFd),
        parts: &[Buffer],
        name: Buffer,
        flags: i32,
    ) -> Result<usize, i32> {
        if flags & libc::MSG_OOB != 0 {
            return Err(libc::EOPNOTSUPP);
        }
        if let Some(error) = self.take_pending(id, file) {
            return Err(error.errno());
        }
        let socket = self.table.get(id).ok_or(libc::EBADF)?;
        let (domain, handle) = (socket.spec.domain, socket.handle.ok_or(libc::EBADF)?);
        let to = destination(caller, domain, name)?;
        if total(parts) > MAX_DATAGRAM {
            return Err(libc::EMSGSIZE);
        }
        self.send_what_was_written(id);
        let mut send_flags = SendFlags::empty();
        send_flags.set(SendFlags::MORE, flags & libc::MSG_MORE != 0);
        send_flags.set(SendFlags::DONT_ROUTE, flags & libc::MSG_DONTROUTE != 0);
        let mut data = std::mem::take(&mut self.payload);
        let result = caller
            .gather(parts, MAX_DATAGRAM, &mut data)
            .and_then(|()| self.stack.send(handle, &data, to, send_flags, self.now).map_err(Error::errno));
        let len = data.len();
        self.payload = data;
        result?;
        self.stack_busy = true;
        self.summary.datagrams_sent += 1;
        self.summary.bytes_sent += len as u64;
        Ok(len)
    }

    /// recvfrom(2)
    pub(super) fn recvfrom(
        &mut self,
        caller: &Caller,
        call: Call,
        fd: i32,
        data: Buffer,
        flags: i32,
        addr: AddressOut,
    ) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        match self.target(id, &file) {
            Target::Datagram if flags & libc::MSG_ERRQUEUE != 0 => Err(libc::EAGAIN),
            Target::Datagram => {
                let received = match self.receive_datagram(id, &file, flags) {
                    Err(libc::EAGAIN) if !Self::must_not_wait(&file, flags)? => {
                        return Ok(self.park(caller, call, id, Direction::Receive));
                    }
                    result => result?,
                };
                let room = usize::try_from(data.len).unwrap_or(usize::MAX);
                let len = received.len.min(room);
                caller.write(data.address, &self.scratch[..len])?;
                let domain = self.table.get(id).map_or(Domain::V4, |s| s.spec.domain);
                let from = received.from.map(|from| sockaddr::encode(domain, from));
                caller.write_address(addr, from.as_ref().map_or(&[], |f| f.bytes()))?;
                self.pump_datagram_in(id);
                let result = if flags & libc::MSG_TRUNC != 0 { received.full_len } else { len };
                Ok(Answer::Value(result as i64))
            }
            Target::Stream => match self.receive_stream((id, &file), &[data], flags) {
                Ok(n) => {
                    caller.write(data.address, &self.scratch[..n])?;
                    // A stream tells no address: its length is 0.
                    caller.write_address(addr, &[])?;
                    Ok(Answer::Value(n as i64))
                }
                Err(libc::EAGAIN)
                    if flags & libc::MSG_ERRQUEUE == 0 && !Self::must_not_wait(&file, flags)? =>
                {
                    Ok(self.park(caller, call, id, Direction::Receive))
                }
                Err(code) => Err(code),
            },
            Target::Unconnected(libc::ENETDOWN) => Err(libc::ENETDOWN),
            Target::Unconnected(_) => {
                self.receive_unconnected(id, &file)?;
                caller.write_address(addr, &[])?;
                Ok(Answer::Value(0))
            }
        }
    }

    /// A receive on a stream socket without a connection: the error that waits, and the end of the stream once there was
    /// a connection or an attempt at one.
    fn receive_unconnected(&mut self, id: SocketId, file: &OwnedFd) -> Result<(), i32> {
        if let Some(error) = self.take_pending(id, file) {
            return Err(error.errno());
        }
        match self.table.get(id).map(|s| &s.state) {
            Some(State::Ended(Over::Attempt | Over::Connection)) => Ok(()),
            _ => Err(libc::ENOTCONN),
        }
    }

    /// Takes bytes of a stream, into the scratch buffer.
    fn receive_stream(
        &mut self,
        (id, file): (SocketId, &OwnedFd),
        parts: &[Buffer],
        flags: i32,
    ) -> Result<usize, i32> {
        if flags & libc::MSG_ERRQUEUE != 0 {
            return Err(libc::EAGAIN);
        }
        if flags & libc::MSG_OOB != 0 {
            return Err(libc::EINVAL);
        }
        let room = total(parts).min(self.scratch.len());
        unix::recv(file.as_fd(), &mut self.scratch[..room], flags & libc::MSG_PEEK).map_err(|e| {
            match e.raw_os_error() {
                // AF_UNIX has one word for every failure.
                Some(libc::ECONNRESET) => {
                    let error = self.table.get_mut(id).and_then(|socket| {
                        socket.shows_error = false;
                        socket.pending_error.take()
                    });
                    error.map_or(libc::ECONNRESET, Error::errno)
                }
                code => code.unwrap_or(libc::EIO),
            }
        })
    }

    /// Takes the next datagram, into the scratch buffer.
    fn receive_datagram(&mut self, id: SocketId, file: &OwnedFd, flags: i32) -> Result<Received, i32> {
        if let Some(error) = self.take_pending(id, file) {
            return Err(error.errno());
        }
        let socket = self.table.get_mut(id).ok_or(libc::EBADF)?;
        let handle = socket.handle.ok_or(libc::EBADF)?;
        let State::Datagram(datagram) = &mut socket.state else { return Err(libc::EBADF) };
        if datagram.shut_in {
            // Who would wait gets nothing (shutdown(2)).
            return if Self::must_not_wait(file, flags)? {
                Err(libc::EAGAIN)
            } else {
                Ok(Received::default())
            };
        }
        let peek = flags & libc::MSG_PEEK;
        let buf = &mut self.scratch[..MAX_DATAGRAM];
        if datagram.occupied {
            match unix::recv(file.as_fd(), buf, peek | libc::MSG_TRUNC) {
                Ok(len) => {
                    datagram.occupied = peek != 0;
                    return Ok(Received { len: len.min(MAX_DATAGRAM), ..datagram.last });
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => datagram.occupied = false,
                Err(error) => return Err(errno(&error)),
            }
        }
        let mut recv_flags = RecvFlags::empty();
        recv_flags.set(RecvFlags::PEEK, peek != 0);
        let mut received = self.stack.recv(handle, buf, recv_flags, self.now).map_err(Error::errno)?;
        received.len = received.len.min(buf.len());
        if peek == 0 {
            self.summary.datagrams_received += 1;
            self.summary.bytes_received += received.len as u64;
        }
        Ok(received)
    }

    /// sendmsg(2)
    pub(super) fn sendmsg(
        &mut self,
        caller: &Caller,
        call: Call,
        fd: i32,
        message: u64,
        flags: i32,
    ) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        match self.target(id, &file) {
            Target::Datagram => match self.send_message(caller, (id, &file), message, flags) {
                Err(libc::EAGAIN) if !Self::must_not_wait(&file, flags)? => {
                    Ok(self.park(caller, call, id, Direction::Send))
                }
                result => result.map(|n| Answer::Value(n as i64)),
            },
            Target::Stream if flags & (libc::MSG_OOB | libc::MSG_FASTOPEN) != 0 => Err(libc::EOPNOTSUPP),
            Target::Stream => {
                let header = caller.read_header(message)?;
                if header.name.address == 0 && header.control.len == 0 {
                    return Ok(Answer::Kernel);
                }
                let parts = caller.read_parts(header.parts)?;
                self.send_stream(caller, (id, &file), &parts, flags)
            }
            // Waits until the gate opens, as for a connection.
            Target::Unconnected(libc::EAGAIN) => Ok(Answer::Kernel),
            Target::Unconnected(code) => Err(no_fast_open(flags).unwrap_or(code)),
        }
    }

    fn send_message(
        &mut self,
        caller: &Caller,
        at: (SocketId, &OwnedFd),
        message: u64,
        flags: i32,
    ) -> Result<usize, i32> {
        let header = caller.read_header(message)?;
        let parts = caller.read_parts(header.parts)?;
        self.check_controls(caller, &header)?;
        let name = if header.name.len == 0 { Buffer { address: 0, len: 0 } } else { header.name };
        self.send_datagram(caller, at, &parts, name, flags)
    }

    /// The control messages that a send may carry: a source address which is the stack's own.
    fn check_controls(&self, caller: &Caller, header: &Header) -> Result<(), i32> {
        if header.control.address == 0 || header.control.len == 0 {
            return Ok(());
        }
        if header.control.len > message::MAX_CONTROL {
            return Err(libc::ENOBUFS);
        }
        let mut bytes = message::Bytes::from_elem(0, header.control.len as usize);
        caller.read(header.control.address, &mut bytes)?;
        for control in message::parse_controls(&bytes)? {
            let source = match (control.level, control.kind) {
                // struct in_pktinfo: index, local address, header address
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let octets: [u8; 4] =
                        control.data.get(4..8).and_then(|b| b.try_into().ok()).ok_or(libc::EINVAL)?;
                    IpAddr::from(octets)
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let octets: [u8; 16] = *control.data.first_chunk().ok_or(libc::EINVAL)?;
                    IpAddr::from(octets)
                }
                _ => return Err(libc::EINVAL),
            };
            let own = |ip: IpAddr| {
                self.stack.interfaces().iter().any(|i| i.addresses.iter().any(|a| a.addr() == ip))
            };
            if !source.is_unspecified() && !own(source) {
                return Err(libc::EINVAL);
            }
        }
        Ok(())
    }

    /// recvmsg(2)
    pub(super) fn recvmsg(
        &mut self,
        caller: &Caller,
        call: Call,
        fd: i32,
        message: u64,
        flags: i32,
    ) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        match self.target(id, &file) {
            Target::Datagram => match self.receive_message(caller, id, &file, message, flags) {
                Err(libc::EAGAIN) if flags & libc::MSG_ERRQUEUE != 0 => Err(libc::EAGAIN),
                Err(libc::EAGAIN) if !Self::must_not_wait(&file, flags)? => {
                    Ok(self.park(caller, call, id, Direction::Receive))
                }
                result => result.map(|n| Answer::Value(n as i64)),
            },
            Target::Stream if flags & libc::MSG_ERRQUEUE != 0 => Err(libc::EAGAIN),
            Target::Stream => {
                let header = caller.read_header(message)?;
                if header.name.address == 0 {
                    return Ok(Answer::Kernel);
                }
                // The kernel would tell the name of the sentry's end.
                let parts = caller.read_parts(header.parts)?;
                match self.receive_stream((id, &file), &parts, flags) {
                    Ok(n) => {
                        caller.scatter(&parts, &self.scratch[..n])?;
                        let controls = ControlWriter::new(header.control.len);
                        finish_message(caller, &header, message, &[], controls, 0)?;
                        Ok(Answer::Value(n as i64))
                    }
                    Err(libc::EAGAIN) if !Self::must_not_wait(&file, flags)? => {
                        Ok(self.park(caller, call, id, Direction::Receive))
                    }
                    Err(code) => Err(code),
                }
            }
            Target::Unconnected(libc::EAGAIN) => Ok(Answer::Kernel),
            Target::Unconnected(libc::ENETDOWN) => Err(libc::ENETDOWN),
            Target::Unconnected(_) => Err(libc::ENOTCONN),
        }
    }

    fn receive_message(
        &mut self,
        caller: &Caller,
        id: SocketId,
        file: &OwnedFd,
        at: u64,
        flags: i32,
    ) -> Result<usize, i32> {
        let header = caller.read_header(at)?;
        let parts = caller.read_parts(header.parts)?;
        if flags & libc::MSG_ERRQUEUE != 0 {
            return self.receive_error(caller, id, &header, at);
        }
        let received = self.receive_datagram(id, file, flags)?;
        let room = total(&parts);
        let len = received.len.min(room);
        caller.scatter(&parts, &self.scratch[..len])?;
        let socket = self.table.get(id).ok_or(libc::EBADF)?;
        let from = received.from.map(|from| sockaddr::encode(socket.spec.domain, from));
        let mut controls = ControlWriter::new(header.control.len);
        if socket.wants_any() {
            write_controls(socket, &received, &mut controls);
        }
        let mut out_flags = 0;
        if received.full_len > room {
            out_flags |= libc::MSG_TRUNC;
        }
        finish_message(caller, &header, at, from.as_ref().map_or(&[], |f| f.bytes()), controls, out_flags)?;
        self.pump_datagram_in(id);
        Ok(if flags & libc::MSG_TRUNC != 0 { received.full_len } else { len })
    }

    /// The error queue (ip(7), `IP_RECVERR`): the pending error, without the packet that caused it.
    fn receive_error(
        &mut self,
        caller: &Caller,
        id: SocketId,
        header: &Header,
        at: u64,
    ) -> Result<usize, i32> {
        let socket = self.table.get_mut(id).ok_or(libc::EBADF)?;
        let (v4, v6) = (socket.wants(Ancillary::Errors), socket.wants(Ancillary::Errors6));
        if !v4 && !v6 {
            return Err(libc::EAGAIN);
        }
        let error = socket.pending_error.take().ok_or(libc::EAGAIN)?;
        // struct sock_extended_err: errno, origin (ICMP 2, ICMPv6 3), type, code, pad, info, data
        let mut extended = [0u8; 16];
        extended[..4].copy_from_slice(&error.errno().to_ne_bytes());
        extended[4] = if v6 { 3 } else { 2 };
        extended[5] = if v6 { 1 } else { 3 };
        extended[6] = if v6 { 4 } else { 3 };
        let mut controls = ControlWriter::new(header.control.len);
        let (level, kind) =
            if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
        controls.push(level, kind, &extended);
        finish_message(caller, header, at, &[], controls, libc::MSG_ERRQUEUE)?;
        Ok(0)
    }

    /// sendmmsg(2)
    pub(super) fn sendmmsg(
        &mut self,
        caller: &Caller,
        call: Call,
        fd: i32,
        messages: u64,
        count: u32,
        flags: i32,
    ) -> Outcome {
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        if !matches!(self.target(id, &file), Target::Datagram) {
            // AF_UNIX would send urgent data, which does not exist here.
            let urgent = flags & (libc::MSG_OOB | libc::MSG_FASTOPEN) != 0;
            return if urgent { Err(libc::EOPNOTSUPP) } else { Ok(Answer::Kernel) };
        }
        let mut done = 0;
        for i in 0..count.min(message::MAX_MESSAGES) {
            let at = messages.wrapping_add(u64::from(i) * message::MULTI_LEN as u64);
            match self.send_message(caller, (id, &file), at, flags) {
                Ok(n) => {
                    let len_at = at.wrapping_add(message::MESSAGE_LEN_OFFSET);
                    caller.write(len_at, &(n as u32).to_ne_bytes())?;
                    done += 1;
                }
                Err(libc::EAGAIN) if done == 0 && !Self::must_not_wait(&file, flags)? => {
                    return Ok(self.park(caller, call, id, Direction::Send));
                }
                Err(code) if done == 0 => return Err(code),
                Err(_) => break,
            }
        }
        Ok(Answer::Value(done))
    }

    /// recvmmsg(2)
    pub(super) fn recvmmsg(&mut self, caller: &Caller, call: Call) -> Outcome {
        let Call::RecvMMsg { fd, messages, count, flags, timeout } = call else { return Err(libc::ENOSYS) };
        let Some((id, file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        if !matches!(self.target(id, &file), Target::Datagram) {
            return Ok(Answer::Kernel);
        }
        let time_out = read_timeout(caller, timeout)?;
        let count = count.min(message::MAX_MESSAGES);
        let mut done = self.resumed.map_or(0, |r| r.progress);
        while done < count {
            let at = messages.wrapping_add(u64::from(done) * message::MULTI_LEN as u64);
            match self.receive_message(caller, id, &file, at, flags & !WAIT_FOR_ONE) {
                Ok(n) => {
                    let len_at = at.wrapping_add(message::MESSAGE_LEN_OFFSET);
                    caller.write(len_at, &(n as u32).to_ne_bytes())?;
                    done += 1;
                }
                Err(libc::EAGAIN) => {
                    let enough = done > 0 && flags & WAIT_FOR_ONE != 0;
                    if enough || Self::must_not_wait(&file, flags)? {
                        break;
                    }
                    let answer = self.park_with_progress(caller, call, id, Direction::Receive, done);
                    if let (Some(time_out), None) = (time_out, self.resumed) {
                        self.parked.limit(id, caller, self.now + time_out);
                    }
                    return Ok(answer);
                }
                Err(code) if done == 0 => return Err(code),
                Err(_) => break,
            }
        }
        if done == 0 && count > 0 {
            return Err(libc::EAGAIN);
        }
        Ok(Answer::Value(i64::from(done)))
    }

    /// Datagrams have come: callers that wait get them.
    pub(super) fn serve_parked_receive(&mut self, id: SocketId) {
        self.serve_parked(id, |call| {
            matches!(call, Call::RecvFrom { .. } | Call::RecvMsg { .. } | Call::RecvMMsg { .. })
        });
    }

    /// The stack has room again: callers that wait to send go on.
    pub(super) fn retry_sends(&mut self, id: SocketId) {
        if self.parked.has(id) {
            self.serve_parked(id, |call| {
                matches!(call, Call::SendTo { .. } | Call::SendMsg { .. } | Call::SendMMsg { .. })
            });
        }
    }
}

/// `MSG_FASTOPEN` on a socket without a connection: not supported, as on a system that has it turned off.
fn no_fast_open(flags: i32) -> Option<i32> {
    (flags & libc::MSG_FASTOPEN != 0).then_some(libc::EOPNOTSUPP)
}

/// Where a datagram goes. An IPv4 address on an IPv6 socket means the mapped one (ipv6(7)).
pub(super) fn destination(caller: &Caller, domain: Domain, name: Buffer) -> Result<Option<SocketAddr>, i32> {
    if name.address == 0 {
        return Ok(None);
    }
    let (bytes, len) = caller.read_address(name)?;
    let bytes = &bytes[..len];
    match (sockaddr::parse(domain, bytes), domain) {
        (Ok(Given::Inet(addr)), _) => Ok(Some(addr)),
        // udp(7): taken for AF_INET.
        (Ok(Given::Unspecified), Domain::V4) => {
            let mut v4 = [0u8; 16];
            let head = bytes.get(..16).ok_or(libc::EINVAL)?;
            v4.copy_from_slice(head);
            v4[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            match sockaddr::parse(Domain::V4, &v4)? {
                Given::Inet(addr) => Ok(Some(addr)),
                Given::Unspecified => Err(libc::EINVAL),
            }
        }
        (Ok(Given::Unspecified), Domain::V6) => Ok(None),
        (Err(libc::EAFNOSUPPORT), Domain::V6) => match sockaddr::parse(Domain::V4, bytes)? {
            Given::Inet(SocketAddr::V4(v4)) => {
                Ok(Some(SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port())))
            }
            _ => Err(libc::EAFNOSUPPORT),
        },
        (Err(code), _) => Err(code),
    }
}

/// Writes the results of a receive that are not data: address, control messages and flags.
fn finish_message(
    caller: &Caller,
    header: &Header,
    at: u64,
    from: &[u8],
    controls: ControlWriter,
    mut flags: i32,
) -> Result<(), i32> {
    if header.name.address != 0 {
        let fits = from.len().min(usize::try_from(header.name.len).unwrap_or(0));
        caller.write(header.name.address, &from[..fits])?;
        let len = from.len() as u32;
        caller.write(at.wrapping_add(message::NAME_LEN_OFFSET), &len.to_ne_bytes())?;
    }
    let (controls, cut) = controls.finish();
    if cut {
        flags |= libc::MSG_CTRUNC;
    }
    if header.control.address != 0 {
        caller.write(header.control.address, &controls)?;
    }
    let len = controls.len() as u64;
    caller.write(at.wrapping_add(message::CONTROL_LEN_OFFSET), &len.to_ne_bytes())?;
    caller.write(at.wrapping_add(message::FLAGS_OFFSET), &flags.to_ne_bytes())
}

fn write_controls(socket: &Socket, received: &Received, controls: &mut ControlWriter) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // struct timeval and struct timespec: seconds, and a fraction
    let time = |fraction: u32| {
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let mut value = [0; 16];
        value[..8].copy_from_slice(&seconds.to_ne_bytes());
        value[8..].copy_from_slice(&i64::from(fraction).to_ne_bytes());
        value
    };
    if socket.wants(Ancillary::Timestamp) {
        controls.push(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &time(since.subsec_micros()));
    }
    if socket.wants(Ancillary::TimestampNanos) {
        controls.push(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &time(since.subsec_nanos()));
    }
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    if socket.wants(Ancillary::PacketInfo)
        && let Some(IpAddr::V4(to)) = received.to
    {
        // struct in_pktinfo: index, local address, header address
        let mut value = [0; 12];
        value[..4].copy_from_slice(&received.interface.to_ne_bytes());
        value[4..8].copy_from_slice(&to.octets());
        value[8..].copy_from_slice(&to.octets());
        controls.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &value);
    }
    if socket.wants(Ancillary::PacketInfo6)
        && let Some(to) = received.to
    {
        // struct in6_pktinfo: address, index
        let mut value = [0; 20];
        value[..16].copy_from_slice(&mapped(to));
        value[16..].copy_from_slice(&received.interface.to_ne_bytes());
        controls.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &value);
    }
    let hops = i32::from(received.hop_limit).to_ne_bytes();
    if socket.wants(Ancillary::Ttl) && socket.spec.domain == Domain::V4 {
        controls.push(libc::IPPROTO_IP, libc::IP_TTL, &hops);
    }
    if socket.wants(Ancillary::HopLimit) {
        controls.push(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &hops);
    }
    if socket.wants(Ancillary::TypeOfService) && socket.spec.domain == Domain::V4 {
        controls.push(libc::IPPROTO_IP, libc::IP_TOS, &[received.traffic_class]);
    }
    if socket.wants(Ancillary::TrafficClass) {
        let class = i32::from(received.traffic_class).to_ne_bytes();
        controls.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
    }
}

/// The time-out of recvmmsg(2), a `struct timespec`.
fn read_timeout(caller: &Caller, at: u64) -> Result<Option<Duration>, i32> {
    if at == 0 {
        return Ok(None);
    }
    let mut bytes = [0u8; 16];
    caller.read(at, &mut bytes)?;
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let seconds = u64::try_from(i64::from_ne_bytes([a, b, c, d, e, f, g, h])).map_err(|_| libc::EINVAL)?;
    let nanos = u32::try_from(i64::from_ne_bytes(rest)).map_err(|_| libc::EINVAL)?;
    if nanos >= 1_000_000_000 {
        return Err(libc::EINVAL);
    }
    Ok(Some(Duration::new(seconds, nanos)))
}
