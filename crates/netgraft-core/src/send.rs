//! `sendto`, `sendmsg` and `sendmmsg`: sends that carry an address or control messages.

use std::net::{IpAddr, SocketAddr};

use netgraft_plugin::{Domain, Error, Kind, SendFlags};

use crate::answers::{Answer, Outcome};
use crate::codec::call::{Buffer, Call};
use crate::codec::message::{self, Header};
use crate::codec::sockaddr::{self, Given};
use crate::codec::sockopt::Direction;
use crate::core::{Core, Kernel, Request, Subject};
use crate::datagram::MAX_DATAGRAM;
use crate::flows::Way;
use crate::program::{Caller, Program, total};
use crate::pump::Work;
use crate::socket::{Socket, State};

use crate::table::SocketId;
use crate::uapi::{self, Errno};

/// Which kind of socket a data call is for.
pub(crate) enum Carrier {
    /// A datagram or raw socket.
    Datagram,
    /// A stream that is connected, or was: what came before the end is still there.
    Stream,
    /// A stream socket that is being connected.
    Connecting,
    /// A stream socket without a connection.
    Unconnected,
    /// A datagram socket of a stack that is gone.
    Gone,
}

impl<K: Kernel> Core<K> {
    /// Which kind of socket a data call is for.
    pub(crate) fn carrier(&mut self, subject: &Subject<K>) -> Carrier {
        let Some(socket) = self.table.get(subject.id) else { return Carrier::Unconnected };
        match socket.state {
            State::Datagram(_) => Carrier::Datagram,
            State::Connected(_) | State::Joined(_) => Carrier::Stream,
            State::Connecting(_) => Carrier::Connecting,
            State::Ended(_) if socket.spec.kind != Kind::Stream => Carrier::Gone,
            State::Ended(_) if self.kernel.peer_name(&subject.file).is_some() => Carrier::Stream,
            State::Fresh | State::Listening(_) | State::Ended(_) => Carrier::Unconnected,
        }
    }

    /// Whether a data call must not wait (MSG_DONTWAIT, O_NONBLOCK).
    pub(crate) fn must_not_wait(&mut self, file: &K::File, flags: i32) -> Result<bool, Errno> {
        Ok(flags & uapi::MSG_DONTWAIT != 0 || self.kernel.is_nonblocking(file)?)
    }

    /// sendto(2)
    pub(crate) fn sendto(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        data: Buffer,
        flags: i32,
        addr: Buffer,
    ) -> Outcome {
        let parts = [data];
        match self.carrier(subject) {
            Carrier::Datagram => {
                let name = if addr.address == 0 { Buffer { address: 0, len: 0 } } else { addr };
                let sent = self.send_datagram(&request.caller, subject, &parts, name, flags);
                self.sent_or_parked(request, subject, flags, sent)
            }
            Carrier::Stream => self.send_stream(request, subject, &parts, flags),
            // It waits for the end of the attempt.
            Carrier::Connecting => self.sent_or_parked(request, subject, flags, Err(uapi::EAGAIN)),
            Carrier::Gone => Err(uapi::ENETDOWN),
            Carrier::Unconnected => Err(self.take_pending(subject).map_or(uapi::EPIPE, Error::errno)),
        }
    }

    /// What a send on a datagram socket comes to: who may wait, waits for room.
    fn sent_or_parked(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        flags: i32,
        sent: Result<usize, Errno>,
    ) -> Outcome {
        match sent {
            Err(uapi::EAGAIN) if !self.must_not_wait(&subject.file, flags)? => {
                self.park_data_call(request, subject, Direction::Send, 0)
            }
            sent => sent.map(|n| Answer::Value(n as i64)),
        }
    }

    /// Sends one datagram and says how long it was.
    fn send_datagram(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        parts: &[Buffer],
        name: Buffer,
        flags: i32,
    ) -> Result<usize, Errno> {
        if flags & uapi::MSG_OOB != 0 {
            return Err(uapi::EOPNOTSUPP);
        }
        if let Some(error) = self.take_pending(subject) {
            return Err(error.errno());
        }
        let socket = self.table.get(subject.id).ok_or(uapi::EBADF)?;
        let (spec, handle) = (socket.spec, socket.handle.ok_or(uapi::EBADF)?);
        let to = destination(&mut self.kernel, caller, spec.domain, name)?;
        if total(parts) > MAX_DATAGRAM {
            return Err(uapi::EMSGSIZE);
        }
        if let Some(to) = to {
            self.require_datagram(caller, handle, (spec, to))?;
        }
        self.send_what_was_written(subject.id);
        let mut send_flags = SendFlags::empty();
        send_flags.set(SendFlags::MORE, flags & uapi::MSG_MORE != 0);
        send_flags.set(SendFlags::DONT_ROUTE, flags & uapi::MSG_DONTROUTE != 0);
        let payload = &mut self.buffers.payload;
        self.kernel.gather(caller, parts, MAX_DATAGRAM, payload)?;
        self.stack.send(handle, payload, to, send_flags, self.time.now).map_err(Error::errno)?;
        let len = payload.len();
        self.counts.datagrams_sent += 1;
        self.counts.bytes_sent += len as u64;
        self.datagram_passed(subject.id, Way::Out, to, len);
        Ok(len)
    }

    /// sendmsg(2)
    pub(crate) fn sendmsg(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        message: u64,
        flags: i32,
    ) -> Outcome {
        let caller = &request.caller;
        match self.carrier(subject) {
            Carrier::Datagram => {
                let sent = self.send_message(caller, subject, message, flags);
                self.sent_or_parked(request, subject, flags, sent)
            }
            Carrier::Stream => {
                let header = self.kernel.read_header(caller, message)?;
                if flags & uapi::MSG_OOB == 0 && header.name.address == 0 && header.control.len == 0 {
                    return Ok(Answer::Kernel);
                }
                let parts = self.kernel.read_parts(caller, header.parts)?;
                self.send_stream(request, subject, &parts, flags)
            }
            Carrier::Connecting if flags & uapi::MSG_OOB != 0 => {
                self.sent_or_parked(request, subject, flags, Err(uapi::EAGAIN))
            }
            // Waits until the gate opens, as for a connection.
            Carrier::Connecting => Ok(Answer::Kernel),
            Carrier::Gone => Err(uapi::ENETDOWN),
            Carrier::Unconnected => Err(uapi::EPIPE),
        }
    }

    fn send_message(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        message: u64,
        flags: i32,
    ) -> Result<usize, Errno> {
        let header = self.kernel.read_header(caller, message)?;
        let parts = self.kernel.read_parts(caller, header.parts)?;
        self.check_controls(caller, &header)?;
        let name = if header.name.len == 0 { Buffer { address: 0, len: 0 } } else { header.name };
        self.send_datagram(caller, subject, &parts, name, flags)
    }

    /// The control messages that a send may carry: a source address which is the stack's own.
    fn check_controls(&mut self, caller: &Caller, header: &Header) -> Result<(), Errno> {
        let bytes = self.kernel.read_control(caller, header)?;
        for control in message::parse_controls(&bytes)? {
            let source = match (control.level, control.kind) {
                // struct in_pktinfo: index, local address, header address
                (uapi::IPPROTO_IP, uapi::IP_PKTINFO) => {
                    let octets: [u8; 4] =
                        control.data.get(4..8).and_then(|b| b.try_into().ok()).ok_or(uapi::EINVAL)?;
                    IpAddr::from(octets)
                }
                (uapi::IPPROTO_IPV6, uapi::IPV6_PKTINFO) => {
                    let octets: [u8; 16] = *control.data.first_chunk().ok_or(uapi::EINVAL)?;
                    IpAddr::from(octets)
                }
                _ => return Err(uapi::EINVAL),
            };
            let own = |ip: IpAddr| {
                self.stack.interfaces().iter().any(|i| i.addresses.iter().any(|a| a.addr() == ip))
            };
            if !source.is_unspecified() && !own(source) {
                return Err(uapi::EINVAL);
            }
        }
        Ok(())
    }

    /// sendmmsg(2)
    pub(crate) fn sendmmsg(
        &mut self,
        request: &Request,
        subject: &Subject<K>,
        messages: u64,
        count: u32,
        flags: i32,
    ) -> Outcome {
        let caller = request.caller;
        let sent = match self.carrier(subject) {
            Carrier::Datagram => self.send_each(&caller, messages, count, |core, at| {
                core.send_message(&caller, subject, at, flags)
            }),
            // The sentry is to know where urgent data lies.
            Carrier::Stream if flags & uapi::MSG_OOB != 0 => {
                self.send_each(&caller, messages, count, |core, at| {
                    let header = core.kernel.read_header(&caller, at)?;
                    let parts = core.kernel.read_parts(&caller, header.parts)?;
                    core.give_to_stream(&caller, subject, &parts, flags)
                })
            }
            _ if flags & (uapi::MSG_OOB | uapi::MSG_FASTOPEN) != 0 => return Err(uapi::EOPNOTSUPP),
            _ => return Ok(Answer::Kernel),
        };
        self.sent_or_parked(request, subject, flags, sent)
    }

    /// Sends the messages of a sendmmsg(2) until one fails; says how many went, or why the first did not.
    pub(crate) fn send_each(
        &mut self,
        caller: &Caller,
        messages: u64,
        count: u32,
        mut send: impl FnMut(&mut Self, u64) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        for i in 0..count.min(message::MAX_MESSAGES) {
            let at = messages.wrapping_add(u64::from(i) * message::MULTI_LEN as u64);
            match send(self, at) {
                Ok(n) => {
                    let len_at = at.wrapping_add(message::MESSAGE_LEN_OFFSET);
                    self.kernel.write_memory(caller, len_at, &(n as u32).to_ne_bytes())?;
                    done += 1;
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// The stack has room again: callers that wait to send go on.
    pub(crate) fn retry_sends(&mut self, id: SocketId) {
        if self.parked.has(id) {
            self.serve_parked(id, is_send);
        }
    }

    /// Before a call changes a datagram socket, what the program has sent on it leaves: under the conditions of then.
    pub(crate) fn send_what_was_written(&mut self, id: SocketId) {
        if self.table.get(id).and_then(Socket::datagram).is_some() {
            self.pump(id, Work::Datagrams);
        }
    }
}

/// Whether a call is a send.
pub(crate) fn is_send(call: &Call) -> bool {
    matches!(call, Call::SendTo { .. } | Call::SendMsg { .. } | Call::SendMMsg { .. })
}

/// Where a datagram goes. An IPv4 address on an IPv6 socket means the mapped one (ipv6(7)).
pub(crate) fn destination<P: Program>(
    program: &mut P,
    caller: &Caller,
    domain: Domain,
    name: Buffer,
) -> Result<Option<SocketAddr>, Errno> {
    if name.address == 0 {
        return Ok(None);
    }
    let (bytes, len) = program.read_address(caller, name)?;
    let bytes = &bytes[..len];
    match (sockaddr::parse(domain, bytes), domain) {
        (Ok(Given::Inet(addr)), _) => Ok(Some(addr)),
        // udp(7): taken for AF_INET.
        (Ok(Given::Unspecified), Domain::V4) => {
            let mut v4 = [0u8; 16];
            let head = bytes.get(..16).ok_or(uapi::EINVAL)?;
            v4.copy_from_slice(head);
            v4[..2].copy_from_slice(&(uapi::AF_INET as u16).to_ne_bytes());
            match sockaddr::parse(Domain::V4, &v4)? {
                Given::Inet(addr) => Ok(Some(addr)),
                Given::Unspecified => Err(uapi::EINVAL),
            }
        }
        (Ok(Given::Unspecified), Domain::V6) => Ok(None),
        (Err(uapi::EAFNOSUPPORT), Domain::V6) => match sockaddr::parse(Domain::V4, bytes)? {
            Given::Inet(SocketAddr::V4(v4)) => {
                Ok(Some(SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port())))
            }
            _ => Err(uapi::EAFNOSUPPORT),
        },
        (Err(errno), _) => Err(errno),
    }
}
