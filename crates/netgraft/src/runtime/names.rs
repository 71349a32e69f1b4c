//! `getsockname`, `getpeername` and `ioctl`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netgraft_plugin::{Domain, Error};
use netgraft_sentry::call::AddressOut;
use netgraft_sentry::ioctl::{self, Request};
use netgraft_sentry::sockaddr;

use super::caller::Caller;
use super::engine::{Answer, Engine, Outcome, Work};
use super::table::State;

impl Engine {
    /// getsockname(2)
    pub(super) fn getsockname(&mut self, caller: &Caller, fd: i32, addr: AddressOut) -> Outcome {
        let Some((id, _file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let Some(socket) = self.table.get(id) else { return Ok(Answer::Kernel) };
        let domain = socket.spec.domain;
        let past = socket.past_local.filter(|_| matches!(socket.state, State::Ended(_)));
        let handle = match socket.handle {
            None if socket.setup.bound.is_some() && past.is_none() => Some(self.handle_of(id)?),
            handle => handle,
        };
        let local = match (past, handle) {
            (Some(past), _) => past,
            (None, Some(handle)) => self.stack.local_addr(handle).map_err(Error::errno)?,
            (None, None) => unbound(domain),
        };
        caller.write_address(addr, sockaddr::encode(domain, local).bytes())?;
        Ok(Answer::Value(0))
    }

    /// getpeername(2)
    pub(super) fn getpeername(&mut self, caller: &Caller, fd: i32, addr: AddressOut) -> Outcome {
        let Some((id, _file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        let Some(socket) = self.table.get(id) else { return Ok(Answer::Kernel) };
        let connecting = matches!(socket.state, State::ConnectingBlocked | State::ConnectingGated(..));
        let handle = socket.handle.filter(|_| !connecting).ok_or(libc::ENOTCONN)?;
        let peer = self.stack.peer_addr(handle).map_err(Error::errno)?;
        caller.write_address(addr, sockaddr::encode(socket.spec.domain, peer).bytes())?;
        Ok(Answer::Value(0))
    }

    /// ioctl(2) on a socket
    pub(super) fn ioctl(&mut self, caller: &Caller, fd: i32, request: u32, argument: u64) -> Outcome {
        let Some((id, _file)) = self.resolve(caller, fd) else { return Ok(Answer::Kernel) };
        match ioctl::parse(request) {
            Request::QueuedOut => {
                self.pump(id, Work::Out);
                let socket = self.table.get(id).ok_or(libc::EBADF)?;
                let queued = match socket.handle {
                    Some(handle) => self.stack.queued_out(handle).map_err(Error::errno)?,
                    None => 0,
                };
                let queued = i32::try_from(queued).unwrap_or(i32::MAX);
                caller.write(argument, &queued.to_ne_bytes())?;
            }
            // Urgent data does not exist here.
            Request::AtMark => caller.write(argument, &0i32.to_ne_bytes())?,
            Request::List => self.list_interfaces(caller, argument)?,
            Request::Interface(request) => {
                let mut bytes = [0; ioctl::REQUEST_LEN];
                caller.read(argument, &mut bytes)?;
                ioctl::answer(request, &self.stack.interfaces(), &mut bytes)?;
                caller.write(argument, &bytes)?;
            }
            Request::Unknown => return Err(libc::ENOTTY),
        }
        Ok(Answer::Value(0))
    }

    /// `SIOCGIFCONF`: as much of the list as fits, and its length; without a buffer only the length.
    fn list_interfaces(&mut self, caller: &Caller, argument: u64) -> Result<(), i32> {
        let mut bytes = [0; ioctl::LIST_LEN];
        caller.read(argument, &mut bytes)?;
        let list = ioctl::list(&self.stack.interfaces());
        let len = match ioctl::parse_list(&bytes) {
            None => list.len(),
            Some(buffer) => {
                let room = usize::try_from(buffer.len).unwrap_or(usize::MAX);
                let fits = room.min(list.len()) / ioctl::REQUEST_LEN * ioctl::REQUEST_LEN;
                caller.write(buffer.address, &list[..fits])?;
                fits
            }
        };
        caller.write(argument, &(i32::try_from(len).unwrap_or(i32::MAX)).to_ne_bytes())
    }
}

fn unbound(domain: Domain) -> SocketAddr {
    let ip = match domain {
        Domain::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Domain::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}
