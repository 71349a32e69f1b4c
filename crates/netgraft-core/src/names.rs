//! `getsockname`, `getpeername`, and the `ioctl` requests of sockets and interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Domain, Error};

use crate::answers::{Answer, Outcome};
use crate::codec::call::AddressOut;
use crate::codec::ioctl::{self, Request};
use crate::codec::sockaddr;
use crate::core::{Core, Kernel, Subject};
use crate::program::Caller;
use crate::pump::Work;
use crate::send::Carrier;
use crate::socket::State;
use crate::uapi::{self, Errno};

impl<K: Kernel> Core<K> {
    /// getsockname(2)
    pub(crate) fn getsockname(&mut self, caller: &Caller, subject: &Subject<K>, addr: AddressOut) -> Outcome {
        let socket = self.table.get(subject.id).ok_or(uapi::EBADF)?;
        let domain = socket.spec.domain;
        let past = match &socket.state {
            State::Ended(ended) => ended.local,
            State::Joined(joined) => Some(joined.pair.local),
            _ => None,
        };
        let local = match (past, socket.handle) {
            (Some(past), _) => past,
            (None, None) if socket.kept.binds_without_port() => socket.setup.bound.unwrap_or(unbound(domain)),
            (None, None) if socket.setup.bound.is_some() => {
                let handle = self.handle_of(subject.id)?;
                self.stack.local_addr(handle).map_err(Error::errno)?
            }
            (None, Some(handle)) => {
                let local = self.stack.local_addr(handle).map_err(Error::errno)?;
                let late =
                    socket.setup.bound.filter(|_| local.port() == 0 && socket.kept.binds_without_port());
                late.unwrap_or(local)
            }
            (None, None) => unbound(domain),
        };
        self.tell_name(caller, addr, sockaddr::encode(domain, local).bytes())
    }

    /// getpeername(2)
    pub(crate) fn getpeername(&mut self, caller: &Caller, subject: &Subject<K>, addr: AddressOut) -> Outcome {
        let socket = self.table.get(subject.id).ok_or(uapi::EBADF)?;
        let peer = match &socket.state {
            State::Joined(joined) if joined.has_ended && self.kernel.has_ended(&subject.file) => {
                return Err(uapi::ENOTCONN);
            }
            State::Joined(joined) => joined.pair.peer,
            State::Connecting(_) => return Err(uapi::ENOTCONN),
            _ => self.stack.peer_addr(socket.handle.ok_or(uapi::ENOTCONN)?).map_err(Error::errno)?,
        };
        self.tell_name(caller, addr, sockaddr::encode(socket.spec.domain, peer).bytes())
    }

    fn tell_name(&mut self, caller: &Caller, addr: AddressOut, name: &[u8]) -> Outcome {
        if addr.address == 0 {
            return Err(uapi::EFAULT);
        }
        self.kernel.write_address(caller, addr, name)?;
        Ok(Answer::Value(0))
    }

    /// ioctl(2) on a socket
    pub(crate) fn ioctl(
        &mut self,
        caller: &Caller,
        subject: &Subject<K>,
        request: u32,
        argument: u64,
    ) -> Outcome {
        match ioctl::parse(request) {
            Request::QueuedOut => {
                self.pump(subject.id, Work::Out);
                let socket = self.table.get(subject.id).ok_or(uapi::EBADF)?;
                let queued = match socket.handle {
                    // The other side has all that was sent, read or not.
                    _ if self.is_joined(subject.id) => 0,
                    Some(handle) => self.stack.queued_out(handle).map_err(Error::errno)?,
                    None => 0,
                };
                let queued = i32::try_from(queued).unwrap_or(i32::MAX);
                self.kernel.write_memory(caller, argument, &queued.to_ne_bytes())?;
            }
            Request::AtMark => {
                let stream = matches!(self.carrier(subject), Carrier::Stream);
                let at_mark =
                    stream && !self.has_reset_mark(subject.id) && self.kernel.is_at_urgent(&subject.file);
                self.kernel.write_memory(caller, argument, &i32::from(at_mark).to_ne_bytes())?;
            }
            Request::List => self.list_interfaces(caller, argument)?,
            Request::Interface(request) => {
                let mut bytes = [0; ioctl::REQUEST_LEN];
                self.kernel.read_memory(caller, argument, &mut bytes)?;
                ioctl::answer(request, &self.stack.interfaces(), &mut bytes)?;
                self.kernel.write_memory(caller, argument, &bytes)?;
            }
            Request::Unknown => return Err(uapi::ENOTTY),
        }
        Ok(Answer::Value(0))
    }

    /// `SIOCGIFCONF`: as much of the list as fits, and its length; without a buffer only the length.
    fn list_interfaces(&mut self, caller: &Caller, argument: u64) -> Result<(), Errno> {
        let mut bytes = [0; ioctl::LIST_LEN];
        self.kernel.read_memory(caller, argument, &mut bytes)?;
        let list = ioctl::list(&self.stack.interfaces());
        let len = match ioctl::parse_list(&bytes) {
            None => list.len(),
            Some(buffer) => {
                let room = usize::try_from(buffer.len).unwrap_or(usize::MAX);
                let fits = room.min(list.len()) / ioctl::REQUEST_LEN * ioctl::REQUEST_LEN;
                self.kernel.write_memory(caller, buffer.address, &list[..fits])?;
                fits
            }
        };
        self.kernel.write_memory(caller, argument, &(i32::try_from(len).unwrap_or(i32::MAX)).to_ne_bytes())
    }
}

fn unbound(domain: Domain) -> SocketAddr {
    let ip = match domain {
        Domain::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Domain::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}
