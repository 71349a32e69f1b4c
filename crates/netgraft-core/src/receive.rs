//! `recvfrom`, `recvmsg` and `recvmmsg`: receives that ask for an address or control messages.

use std::net::IpAddr;
use std::time::Duration;

use netgraft_plugin::{Domain, Error, Received, RecvFlags};

use crate::answers::{Answer, Outcome};
use crate::codec::call::{AddressOut, Buffer, Call};
use crate::codec::message::{self, ControlWriter, Header};
use crate::codec::sockaddr;
use crate::codec::sockopt::{Ancillary, Direction};
use crate::core::{Core, Kernel, Request, Subject};
use crate::datagram::{MAX_DATAGRAM, Queue, Reading};
use crate::flows::Way;
use crate::program::{Caller, Files, Program, total};
use crate::send::Carrier;
use crate::socket::{Over, Socket, State};
use crate::waiting::Progress;

use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// `MSG_WAITFORONE` (recvmmsg(2))
const WAIT_FOR_ONE: i32 = 0x1_0000;

impl<K: Kernel> Core<K> {
    /// recvfrom(2)
    pub(crate) fn recvfrom(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        data: Buffer,
        flags: i32,
        addr: AddressOut,
    ) -> Outcome {
        let caller = &request.caller;
        // What is taken for a caller must reach it, even if a signal interrupts it: from then on nothing can be read.
        let room = self.kernel.address_room(caller, addr);
        if room == Err(uapi::ESRCH) {
            return Err(uapi::ESRCH);
        }
        match self.carrier(subject) {
            Carrier::Datagram if flags & uapi::MSG_ERRQUEUE != 0 => Err(uapi::EAGAIN),
            Carrier::Datagram => match self.receive_datagram(subject, flags) {
                Ok(received) => self.give_datagram(caller, subject.id, &received, data, flags, (addr, room?)),
                Err(errno) => self.refused_or_parked(request, subject, flags, errno),
            },
            Carrier::Stream => match self.receive_stream(request, subject, &[data], flags) {
                Ok(Progress::Done(n)) => {
                    // A stream tells no address: its length is 0.
                    self.kernel.put_address(caller, addr, room?, &[])?;
                    Ok(Answer::Value(n as i64))
                }
                Ok(Progress::Waits(taken)) => self.wait_to_receive(request, subject, flags, taken),
                Err(errno) => self.refused_or_parked(request, subject, flags, errno),
            },
            Carrier::Gone => Err(uapi::ENETDOWN),
            Carrier::Connecting => self.refused_or_parked(request, subject, flags, uapi::EAGAIN),
            Carrier::Unconnected => {
                self.receive_unconnected(subject)?;
                self.kernel.write_address(caller, addr, &[])?;
                Ok(Answer::Value(0))
            }
        }
    }

    /// What a receive that got nothing comes to: who may wait, waits.
    fn refused_or_parked(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        flags: i32,
        errno: Errno,
    ) -> Outcome {
        if errno == uapi::EAGAIN && flags & uapi::MSG_ERRQUEUE == 0 {
            return self.wait_to_receive(request, subject, flags, 0);
        }
        Err(errno)
    }

    /// Who may wait for more than the bytes that were taken, waits.
    fn wait_to_receive(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        flags: i32,
        taken: usize,
    ) -> Outcome {
        if self.must_not_wait(&subject.file, flags)? {
            return Err(uapi::EAGAIN);
        }
        self.park_data_call(request, subject, Direction::Receive, taken)
    }

    fn give_datagram(
        &mut self,
        caller: &Caller,
        id: SocketId,
        received: &Received,
        data: Buffer,
        flags: i32,
        (addr, address_room): (AddressOut, usize),
    ) -> Outcome {
        let room = usize::try_from(data.len).unwrap_or(usize::MAX);
        let len = received.len.min(room);
        self.kernel.write_memory(caller, data.address, &self.buffers.scratch[..len])?;
        let domain = self.table.get(id).map_or(Domain::V4, |s| s.spec.domain);
        let from = received.from.map(|from| sockaddr::encode(domain, from));
        self.kernel.put_address(caller, addr, address_room, from.as_ref().map_or(&[], |f| f.bytes()))?;
        self.pump_datagram_in(id);
        let result = if flags & uapi::MSG_TRUNC != 0 { received.full_len } else { len };
        Ok(Answer::Value(result as i64))
    }

    /// A receive on a stream socket without a connection: the error that waits, and the end of the stream once there was
    /// a connection or an attempt at one.
    fn receive_unconnected(&mut self, subject: &Subject<K>) -> Result<(), Errno> {
        if let Some(error) = self.take_pending(subject) {
            return Err(error.errno());
        }
        match self.table.get(subject.id).map(|s| &s.state) {
            Some(State::Ended(ended)) if ended.over != Over::Listener => Ok(()),
            _ => Err(uapi::ENOTCONN),
        }
    }

    /// Takes the next datagram, into the scratch buffer.
    fn receive_datagram(&mut self, subject: &Subject<K>, flags: i32) -> Result<Received, Errno> {
        if let Some(error) = self.take_pending(subject) {
            return Err(error.errno());
        }
        let datagram = self.table.get(subject.id).and_then(Socket::datagram);
        if datagram.is_some_and(|datagram| datagram.reading == Reading::Shut) {
            // A receive that would wait gets nothing (shutdown(2)).
            let must_not_wait = self.must_not_wait(&subject.file, flags)?;
            return if must_not_wait { Err(uapi::EAGAIN) } else { Ok(Received::default()) };
        }
        let socket = self.table.get_mut(subject.id).ok_or(uapi::EBADF)?;
        let handle = socket.handle.ok_or(uapi::EBADF)?;
        let datagram = socket.datagram_mut().ok_or(uapi::EBADF)?;
        let peek = flags & uapi::MSG_PEEK;
        let buf = &mut self.buffers.scratch[..MAX_DATAGRAM];
        if let Queue::Holds(last) = datagram.queue {
            match self.kernel.receive_as_program(&subject.file, buf, peek | uapi::MSG_TRUNC) {
                Ok(len) => {
                    if peek == 0 {
                        datagram.queue = Queue::Empty;
                    }
                    return Ok(Received { len: len.min(MAX_DATAGRAM), ..last });
                }
                Err(uapi::EAGAIN) => datagram.queue = Queue::Empty,
                Err(errno) => return Err(errno),
            }
        }
        let spec = self.table.get(subject.id).ok_or(uapi::EBADF)?.spec;
        let recv_flags = if peek != 0 { RecvFlags::PEEK } else { RecvFlags::empty() };
        let received = loop {
            let buf = &mut self.buffers.scratch[..MAX_DATAGRAM];
            let received = self.stack.recv(handle, buf, recv_flags, self.time.now).map_err(Error::errno)?;
            if !self.is_unwanted(spec, handle, received.from) {
                break received;
            }
            if peek != 0 {
                // It is still there.
                let dropped = self.stack.recv(handle, &mut [], RecvFlags::empty(), self.time.now);
                dropped.map_err(Error::errno)?;
            }
        };
        if peek == 0 {
            self.counts.datagrams_received += 1;
            self.counts.bytes_received += received.len as u64;
            self.datagram_passed(subject.id, Way::In, received.from, received.len);
        }
        Ok(received)
    }

    /// recvmsg(2)
    pub(crate) fn recvmsg(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        message: u64,
        flags: i32,
    ) -> Outcome {
        let caller = &request.caller;
        match self.carrier(subject) {
            Carrier::Datagram => match self.receive_message(caller, subject, message, flags) {
                Ok(n) => Ok(Answer::Value(n as i64)),
                Err(errno) => self.refused_or_parked(request, subject, flags, errno),
            },
            Carrier::Stream if flags & uapi::MSG_ERRQUEUE != 0 => Err(uapi::EAGAIN),
            Carrier::Stream => {
                let header = self.kernel.read_header(caller, message)?;
                if header.name.address == 0 && flags & uapi::MSG_OOB == 0 {
                    return Ok(Answer::Kernel);
                }
                // The kernel would tell the name of the sentry's end.
                let parts = self.kernel.read_parts(caller, header.parts)?;
                match self.receive_stream(request, subject, &parts, flags) {
                    Ok(Progress::Done(n)) => {
                        let controls = ControlWriter::new(header.control.len);
                        finish_message(&mut self.kernel, caller, &header, message, &[], controls, 0)?;
                        Ok(Answer::Value(n as i64))
                    }
                    Ok(Progress::Waits(taken)) => self.wait_to_receive(request, subject, flags, taken),
                    Err(errno) => self.refused_or_parked(request, subject, flags, errno),
                }
            }
            Carrier::Connecting => Ok(Answer::Kernel),
            Carrier::Gone => Err(uapi::ENETDOWN),
            Carrier::Unconnected => Err(uapi::ENOTCONN),
        }
    }

    fn receive_message(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        at: u64,
        flags: i32,
    ) -> Result<usize, Errno> {
        let header = self.kernel.read_header(caller, at)?;
        let parts = self.kernel.read_parts(caller, header.parts)?;
        if flags & uapi::MSG_ERRQUEUE != 0 {
            return self.receive_error(caller, subject.id, &header, at);
        }
        let received = self.receive_datagram(subject, flags)?;
        let room = total(&parts);
        let len = received.len.min(room);
        self.kernel.scatter(caller, &parts, &self.buffers.scratch[..len])?;
        let socket = self.table.get(subject.id).ok_or(uapi::EBADF)?;
        let from = received.from.map(|from| sockaddr::encode(socket.spec.domain, from));
        let mut controls = ControlWriter::new(header.control.len);
        if socket.wants_any() {
            write_controls(socket, &received, self.time.wall, &mut controls);
        }
        let out_flags = if received.full_len > room { uapi::MSG_TRUNC } else { 0 };
        let from = from.as_ref().map_or(&[][..], |f| f.bytes());
        finish_message(&mut self.kernel, caller, &header, at, from, controls, out_flags)?;
        self.pump_datagram_in(subject.id);
        Ok(if flags & uapi::MSG_TRUNC != 0 { received.full_len } else { len })
    }

    /// The error queue (ip(7), `IP_RECVERR`): the pending error, without the packet that caused it.
    fn receive_error(
        &mut self,
        caller: &Caller,
        id: SocketId,
        header: &Header,
        at: u64,
    ) -> Result<usize, Errno> {
        let socket = self.table.get_mut(id).ok_or(uapi::EBADF)?;
        let (v4, v6) = (socket.wants(Ancillary::Errors), socket.wants(Ancillary::Errors6));
        if !v4 && !v6 {
            return Err(uapi::EAGAIN);
        }
        let error = socket.pending.take().ok_or(uapi::EAGAIN)?;
        // struct sock_extended_err: errno, origin (ICMP 2, ICMPv6 3), type, code, pad, info, data
        let mut extended = [0u8; 16];
        extended[..4].copy_from_slice(&error.errno().to_ne_bytes());
        extended[4] = if v6 { 3 } else { 2 };
        extended[5] = if v6 { 1 } else { 3 };
        extended[6] = if v6 { 4 } else { 3 };
        let mut controls = ControlWriter::new(header.control.len);
        let (level, kind) =
            if v6 { (uapi::IPPROTO_IPV6, uapi::IPV6_RECVERR) } else { (uapi::IPPROTO_IP, uapi::IP_RECVERR) };
        controls.push(level, kind, &extended);
        finish_message(&mut self.kernel, caller, header, at, &[], controls, uapi::MSG_ERRQUEUE)?;
        Ok(0)
    }

    /// recvmmsg(2)
    pub(crate) fn recvmmsg(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        (messages, count): (u64, u32),
        flags: i32,
        timeout: u64,
    ) -> Outcome {
        let caller = request.caller;
        if !matches!(self.carrier(subject), Carrier::Datagram) {
            // The kernel would write the other side's name to whoever asks for one: of a joined connection that is the
            // listener's, which no program is to know.
            return if self.is_joined(subject.id) && self.asks_for_name(&caller, messages, count)? {
                Err(uapi::EOPNOTSUPP)
            } else {
                Ok(Answer::Kernel)
            };
        }
        let timeout = read_timeout(&mut self.kernel, &caller, timeout)?;
        let count = count.min(message::MAX_MESSAGES);
        let mut done = request.resumed.map_or(0, |r| r.progress);
        while done < count {
            let at = messages.wrapping_add(u64::from(done) * message::MULTI_LEN as u64);
            match self.receive_message(&caller, subject, at, flags & !WAIT_FOR_ONE) {
                Ok(n) => {
                    let len_at = at.wrapping_add(message::MESSAGE_LEN_OFFSET);
                    self.kernel.write_memory(&caller, len_at, &(n as u32).to_ne_bytes())?;
                    done += 1;
                }
                Err(uapi::EAGAIN) => {
                    let enough = done > 0 && flags & WAIT_FOR_ONE != 0;
                    if enough || self.must_not_wait(&subject.file, flags)? {
                        break;
                    }
                    let outcome = self.park_with_progress(request, subject.id, Direction::Receive, done);
                    if let (Some(timeout), None) = (timeout, request.resumed) {
                        self.parked.limit(subject.id, &caller, self.time.now + timeout);
                    }
                    return outcome;
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        if done == 0 && count > 0 {
            return Err(uapi::EAGAIN);
        }
        Ok(Answer::Value(i64::from(done)))
    }

    /// Whether one of the messages of a recvmmsg(2) has room for an address.
    fn asks_for_name(&mut self, caller: &Caller, messages: u64, count: u32) -> Result<bool, Errno> {
        for i in 0..count.min(message::MAX_MESSAGES) {
            let at = messages.wrapping_add(u64::from(i) * message::MULTI_LEN as u64);
            if self.kernel.read_header(caller, at)?.name.address != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Datagrams have come: callers that wait get them.
    pub(crate) fn serve_parked_receive(&mut self, id: SocketId) {
        if self.parked.has(id) {
            self.serve_parked(id, is_receive);
        }
    }
}

/// Whether a call is a receive.
pub(crate) fn is_receive(call: &Call) -> bool {
    matches!(call, Call::RecvFrom { .. } | Call::RecvMsg { .. } | Call::RecvMMsg { .. })
}

/// Writes the results of a receive that are not data: address, control messages and flags.
fn finish_message<P: Program>(
    program: &mut P,
    caller: &Caller,
    header: &Header,
    at: u64,
    from: &[u8],
    controls: ControlWriter,
    mut flags: i32,
) -> Result<(), Errno> {
    if header.name.address != 0 {
        let fits = from.len().min(usize::try_from(header.name.len).unwrap_or(0));
        program.write_memory(caller, header.name.address, &from[..fits])?;
        let len = from.len() as u32;
        program.write_memory(caller, at.wrapping_add(message::NAME_LEN_OFFSET), &len.to_ne_bytes())?;
    }
    let (controls, cut) = controls.finish();
    if cut {
        flags |= uapi::MSG_CTRUNC;
    }
    if header.control.address != 0 {
        program.write_memory(caller, header.control.address, &controls)?;
    }
    let len = controls.len() as u64;
    program.write_memory(caller, at.wrapping_add(message::CONTROL_LEN_OFFSET), &len.to_ne_bytes())?;
    program.write_memory(caller, at.wrapping_add(message::FLAGS_OFFSET), &flags.to_ne_bytes())
}

/// The control messages that the program wants with a datagram. `wall` is the time since the epoch.
fn write_controls<K: Files>(
    socket: &Socket<K>,
    received: &Received,
    wall: Duration,
    controls: &mut ControlWriter,
) {
    // struct timeval and struct timespec: seconds, and a fraction
    let time = |fraction: u32| {
        let seconds = i64::try_from(wall.as_secs()).unwrap_or(i64::MAX);
        let mut value = [0; 16];
        value[..8].copy_from_slice(&seconds.to_ne_bytes());
        value[8..].copy_from_slice(&i64::from(fraction).to_ne_bytes());
        value
    };
    if socket.wants(Ancillary::Timestamp) {
        controls.push(uapi::SOL_SOCKET, uapi::SO_TIMESTAMP, &time(wall.subsec_micros()));
    }
    if socket.wants(Ancillary::TimestampNanos) {
        controls.push(uapi::SOL_SOCKET, uapi::SO_TIMESTAMPNS, &time(wall.subsec_nanos()));
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
        controls.push(uapi::IPPROTO_IP, uapi::IP_PKTINFO, &value);
    }
    if socket.wants(Ancillary::PacketInfo6)
        && let Some(to) = received.to
    {
        // struct in6_pktinfo: address, index
        let mut value = [0; 20];
        value[..16].copy_from_slice(&mapped(to));
        value[16..].copy_from_slice(&received.interface.to_ne_bytes());
        controls.push(uapi::IPPROTO_IPV6, uapi::IPV6_PKTINFO, &value);
    }
    let hops = i32::from(received.hop_limit).to_ne_bytes();
    if socket.wants(Ancillary::Ttl) && socket.spec.domain == Domain::V4 {
        controls.push(uapi::IPPROTO_IP, uapi::IP_TTL, &hops);
    }
    if socket.wants(Ancillary::HopLimit) {
        controls.push(uapi::IPPROTO_IPV6, uapi::IPV6_HOPLIMIT, &hops);
    }
    if socket.wants(Ancillary::TypeOfService) && socket.spec.domain == Domain::V4 {
        controls.push(uapi::IPPROTO_IP, uapi::IP_TOS, &[received.traffic_class]);
    }
    if socket.wants(Ancillary::TrafficClass) {
        let class = i32::from(received.traffic_class).to_ne_bytes();
        controls.push(uapi::IPPROTO_IPV6, uapi::IPV6_TCLASS, &class);
    }
}

/// The time-out of recvmmsg(2), a `struct timespec`.
fn read_timeout<P: Program>(program: &mut P, caller: &Caller, at: u64) -> Result<Option<Duration>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let mut bytes = [0u8; 16];
    program.read_memory(caller, at, &mut bytes)?;
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let seconds = u64::try_from(i64::from_ne_bytes([a, b, c, d, e, f, g, h])).map_err(|_| uapi::EINVAL)?;
    let nanos = u32::try_from(i64::from_ne_bytes(rest)).map_err(|_| uapi::EINVAL)?;
    if nanos >= 1_000_000_000 {
        return Err(uapi::EINVAL);
    }
    Ok(Some(Duration::new(seconds, nanos)))
}
