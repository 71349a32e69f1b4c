//! The socket calls of a level 1 stack.

use std::net::SocketAddr;

use netgraft_plugin::data::{self, Batch, Datagram, Fill, Spare, Streamed, Take};
use netgraft_plugin::option::{OptionName, SocketOption, TcpInfo};
use netgraft_plugin::{
    Error, Events, Handle, Instant, Kind, Received, RecvFlags, Result, SendFlags, Shutdown, SocketSpec,
    Sockets,
};

use super::Level1Stack;
use super::instance::{Instance, call};
use crate::NOT_SUPPORTED;
use crate::codes;
use crate::convert;
use crate::raw;
use crate::watch::Call;

impl Level1Stack {
    /// Notes a socket that the stack made; it must not have that number already.
    fn note(&mut self, call: Call, handle: u64, kind: Kind) -> Result<Handle> {
        let live = self.live_mut()?;
        if live.sockets.contains_key(&handle) {
            return Err(live.instance.nonsense(call, format_args!("the handle {handle} is given twice")));
        }
        live.sockets.insert(handle, kind);
        Ok(Handle(handle))
    }

    fn kind(&self, handle: Handle) -> Result<Kind> {
        self.live()?.sockets.get(&handle.0).copied().ok_or(Error::BadHandle)
    }
}

/// An address that a call must have filled in.
fn address(instance: &Instance, call: Call, addr: &raw::Address) -> Result<SocketAddr> {
    match convert::from_address(addr) {
        Ok(Some(addr)) => Ok(addr),
        _ => Err(instance.nonsense(call, format_args!("an address of family {}", addr.ip.family))),
    }
}

/// A size of a queue; what does not fit cannot be.
fn size(instance: &Instance, call: Call, result: i64) -> Result<usize> {
    let count = instance.count(call, result)?;
    usize::try_from(count).map_err(|_| instance.nonsense(call, format_args!("{count} bytes")))
}

impl Sockets for Level1Stack {
    fn socket(&mut self, spec: SocketSpec) -> Result<Handle> {
        let instance = &self.live()?.instance;
        let (raw_spec, mut handle) = (convert::to_spec(spec), 0);
        let result = call!(instance, NOT_SUPPORTED, socket(&raw const raw_spec, &raw mut handle));
        instance.status(Call::socket, result)?;
        self.note(Call::socket, handle, spec.kind)
    }

    fn bind(&mut self, handle: Handle, addr: SocketAddr) -> Result<()> {
        let instance = self.of(handle)?;
        let addr = convert::to_address(addr);
        instance.status(Call::bind, call!(instance, NOT_SUPPORTED, bind(handle.0, &raw const addr)))
    }

    fn listen(&mut self, handle: Handle, backlog: u32) -> Result<()> {
        let instance = self.of(handle)?;
        instance.status(Call::listen, call!(instance, NOT_SUPPORTED, listen(handle.0, backlog)))
    }

    fn accept(&mut self, handle: Handle) -> Result<(Handle, SocketAddr)> {
        let instance = self.of(handle)?;
        let (mut connection, mut peer) = (0, raw::Address::default());
        let invalid = codes::error_number(Error::Invalid).unwrap_or(NOT_SUPPORTED);
        let result = call!(instance, invalid, accept(handle.0, &raw mut connection, &raw mut peer));
        instance.status(Call::accept, result)?;
        // A wrong peer must not leave an unknown connection behind.
        let peer = address(instance, Call::accept, &peer);
        let connection = self.note(Call::accept, connection, Kind::Stream)?;
        match peer {
            Ok(peer) => Ok((connection, peer)),
            Err(error) => {
                let _ = self.abort(connection, Instant::ZERO);
                Err(error)
            }
        }
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr, now: Instant) -> Result<()> {
        let instance = self.of(handle)?;
        let addr = convert::to_address(addr);
        let result = call!(instance, NOT_SUPPORTED, connect(handle.0, &raw const addr, now.nanos()));
        instance.status(Call::connect, result)
    }

    fn disconnect(&mut self, handle: Handle) -> Result<()> {
        let instance = self.of(handle)?;
        instance.status(Call::disconnect, call!(instance, NOT_SUPPORTED, disconnect(handle.0)))
    }

    fn local_addr(&self, handle: Handle) -> Result<SocketAddr> {
        let instance = self.of(handle)?;
        let mut addr = raw::Address::default();
        let result = call!(instance, NOT_SUPPORTED, local_addr(handle.0, &raw mut addr));
        instance.status(Call::local_addr, result)?;
        address(instance, Call::local_addr, &addr)
    }

    fn peer_addr(&self, handle: Handle) -> Result<SocketAddr> {
        let instance = self.of(handle)?;
        let mut addr = raw::Address::default();
        let result = call!(instance, NOT_SUPPORTED, peer_addr(handle.0, &raw mut addr));
        instance.status(Call::peer_addr, result)?;
        address(instance, Call::peer_addr, &addr)
    }

    fn send(
        &mut self,
        handle: Handle,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
        now: Instant,
    ) -> Result<usize> {
        let kind = self.kind(handle)?;
        let instance = self.of(handle)?;
        let to = to.map(convert::to_address);
        let to = to.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (bytes, now) = (data.as_ptr().cast(), now.nanos());
        let unsupported = i64::from(NOT_SUPPORTED);
        let result = call!(instance, unsupported, send(handle.0, bytes, data.len(), to, flags.bits(), now));
        let sent = instance.count(Call::send, result)?;
        let sent = usize::try_from(sent).unwrap_or(usize::MAX);
        if sent > data.len() {
            let what = format_args!("{sent} bytes taken of {}", data.len());
            return Err(instance.nonsense(Call::send, what));
        }
        match sent {
            // Nothing taken and no error: a caller that asks again at once would spin.
            0 if !data.is_empty() && kind == Kind::Stream => Err(Error::Again),
            _ => Ok(sent),
        }
    }

    fn recv(&mut self, handle: Handle, buf: &mut [u8], flags: RecvFlags, now: Instant) -> Result<Received> {
        let instance = self.of(handle)?;
        let mut received = raw::Received::default();
        let (bytes, now) = (buf.as_mut_ptr().cast(), now.nanos());
        let result = call!(
            instance,
            NOT_SUPPORTED,
            recv(handle.0, bytes, buf.len(), flags.bits(), now, &raw mut received)
        );
        instance.status(Call::recv, result)?;
        convert::from_received(&received, buf.len()).ok_or_else(|| {
            let raw::Received { len, full_len, .. } = received;
            let what = format_args!("{len} of {full_len} bytes in a buffer of {}, or its address", buf.len());
            instance.nonsense(Call::recv, what)
        })
    }

    fn send_with(
        &mut self,
        handle: Handle,
        flags: SendFlags,
        now: Instant,
        spare: Spare<'_>,
        fill: &mut Fill<'_>,
    ) -> Result<usize> {
        if spare.spill.is_empty()
            && let Some(sent) = self.send_lent(handle, flags, now, fill)?
        {
            return Ok(sent);
        }
        data::send_copied(self, handle, flags, now, spare, fill)
    }

    fn recv_with(
        &mut self,
        handle: Handle,
        now: Instant,
        spare: Spare<'_>,
        take: &mut Take<'_>,
    ) -> Result<Streamed> {
        if spare.spill.is_empty()
            && let Some(streamed) = self.recv_lent(handle, now, take)?
        {
            return Ok(streamed);
        }
        data::recv_copied(self, handle, now, spare, take)
    }

    fn send_batch(
        &mut self,
        handle: Handle,
        batch: &[Datagram<'_>],
        flags: SendFlags,
        now: Instant,
    ) -> Batch {
        match self.send_together(handle, batch, flags, now) {
            Batch { count: 0, stopped: Some(Error::NotSupported) } => {
                data::send_each(self, handle, batch, flags, now)
            }
            batch => batch,
        }
    }

    fn recv_batch(
        &mut self,
        handle: Handle,
        limit: usize,
        now: Instant,
        scratch: &mut [u8],
        deliver: &mut dyn FnMut(&Received, &[u8]),
    ) -> Batch {
        match self.recv_delivered(handle, limit, now, deliver) {
            Batch { count: 0, stopped: Some(Error::NotSupported) } => {
                data::recv_each(self, handle, limit, now, scratch, deliver)
            }
            batch => batch,
        }
    }

    fn send_room(&self, handle: Handle) -> usize {
        let Ok(instance) = self.of(handle) else { return usize::MAX };
        usize::try_from(call!(instance, raw::NONE, send_room(handle.0))).unwrap_or(usize::MAX)
    }

    fn queued_in(&self, handle: Handle) -> Result<usize> {
        let instance = self.of(handle)?;
        let result = call!(instance, NOT_SUPPORTED.into(), queued_in(handle.0));
        size(instance, Call::queued_in, result)
    }

    fn queued_out(&self, handle: Handle) -> Result<usize> {
        let instance = self.of(handle)?;
        let result = call!(instance, NOT_SUPPORTED.into(), queued_out(handle.0));
        size(instance, Call::queued_out, result)
    }

    fn urgent(&self, handle: Handle) -> Result<usize> {
        let instance = self.of(handle)?;
        let result = call!(instance, NOT_SUPPORTED.into(), urgent(handle.0));
        size(instance, Call::urgent, result)
    }

    fn shutdown(&mut self, handle: Handle, how: Shutdown, now: Instant) -> Result<()> {
        let instance = self.of(handle)?;
        let how = codes::shutdown_number(how).ok_or(Error::Invalid)?;
        instance.status(Call::shutdown, call!(instance, NOT_SUPPORTED, shutdown(handle.0, how, now.nanos())))
    }

    fn close(&mut self, handle: Handle, now: Instant) -> Result<()> {
        let instance = self.of(handle)?;
        let result = instance.status(Call::close, call!(instance, 0, close(handle.0, now.nanos())));
        // Whatever the stack says, the caller is done with it.
        self.live_mut()?.sockets.remove(&handle.0);
        result
    }

    fn abort(&mut self, handle: Handle, now: Instant) -> Result<()> {
        let instance = self.of(handle)?;
        if instance.table.abort.is_none() {
            return self.close(handle, now);
        }
        let result = instance.status(Call::abort, call!(instance, 0, abort(handle.0, now.nanos())));
        self.live_mut()?.sockets.remove(&handle.0);
        result
    }

    fn readiness(&self, handle: Handle) -> Result<Events> {
        let instance = self.of(handle)?;
        let bits =
            instance.count(Call::readiness, call!(instance, NOT_SUPPORTED.into(), readiness(handle.0)))?;
        // A bit that is not known is none of the caller's business.
        Ok(Events::from_bits_truncate(bits as u32))
    }

    fn take_error(&mut self, handle: Handle) -> Option<Error> {
        let instance = self.of(handle).ok()?;
        instance.status(Call::take_error, call!(instance, 0, take_error(handle.0))).err()
    }

    fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        let instance = self.of(handle)?;
        let raw_option = convert::to_option(&option).ok_or(Error::UnknownOption)?;
        let result = call!(instance, UNKNOWN_OPTION, set_option(handle.0, &raw const raw_option));
        instance.status(Call::set_option, result)
    }

    fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        let instance = self.of(handle)?;
        let mut raw_option = convert::option_query(name).ok_or(Error::UnknownOption)?;
        let result = call!(instance, UNKNOWN_OPTION, get_option(handle.0, &raw mut raw_option));
        instance.status(Call::get_option, result)?;
        convert::from_option(&raw_option).filter(|option| option.name() == name).ok_or_else(|| {
            instance.nonsense(Call::get_option, format_args!("the value of {name:?} is out of its range"))
        })
    }

    fn tcp_info(&self, handle: Handle) -> Result<TcpInfo> {
        let instance = self.of(handle)?;
        let mut info = raw::TcpInfo::default();
        instance.status(Call::tcp_info, call!(instance, NOT_SUPPORTED, tcp_info(handle.0, &raw mut info)))?;
        let known = convert::from_tcp_info(&info).ok_or_else(|| {
            instance.nonsense(Call::tcp_info, format_args!("there is no TCP state {}", info.state))
        })?;
        let mut details = raw::TcpDetails::default();
        let result = call!(instance, NOT_SUPPORTED, tcp_details(handle.0, &raw mut details));
        match instance.status(Call::tcp_details, result) {
            Ok(()) => {}
            Err(Error::NotSupported) => return Ok(known),
            Err(error) => return Err(error),
        }
        convert::with_tcp_details(known, &details)
            .ok_or_else(|| instance.nonsense(Call::tcp_details, format_args!("{details:?}")))
    }
}

/// What [`Error::UnknownOption`] is in the header.
const UNKNOWN_OPTION: i32 = -22;
