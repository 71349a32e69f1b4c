//! Options that act on more than the socket's own notes.

use std::net::{IpAddr, Ipv4Addr};

use netgraft_plugin::option::{OptionName, SocketOption, TcpInfo};
use netgraft_plugin::{Domain, Error, Handle, Kind, Protocol, Result, TcpState};
use smoltcp::iface::MulticastError;

use crate::addr::address;
use crate::core::Core;
use crate::iface::Side;
use crate::options::is_tcp;
use crate::ports::Sharing;
use crate::sock::{Body, Hold};

impl Core {
    /// Sets an option.
    ///
    /// # Errors
    /// [`Error::UnknownOption`], [`Error::Invalid`] and what Linux gives for the option.
    pub(crate) fn set_option(&mut self, handle: Handle, option: SocketOption) -> Result<()> {
        let sock = self.socks.held_mut(handle)?;
        let name = option.name();
        if is_tcp(name) && sock.spec.protocol != Protocol::Tcp {
            return Err(Error::UnknownOption);
        }
        match option {
            SocketOption::JoinGroup((group, interface)) => {
                let index = self.interface_with(interface, group.into())?;
                return self.join(handle, index, group.into());
            }
            SocketOption::LeaveGroup((group, interface)) => {
                let index = self.interface_with(interface, group.into())?;
                return self.leave(handle, index, group.into());
            }
            SocketOption::JoinGroup6((group, index)) => {
                let index = self.interface_or_default(index)?;
                return self.join(handle, index, group.into());
            }
            SocketOption::LeaveGroup6((group, index)) => {
                let index = self.interface_or_default(index)?;
                return self.leave(handle, index, group.into());
            }
            SocketOption::MulticastInterface(interface) => {
                let index = match interface {
                    Ipv4Addr::UNSPECIFIED => 0,
                    _ => self.interface_with(interface, interface.into())?,
                };
                return self.set_multicast_interface(handle, index, Some(interface));
            }
            SocketOption::MulticastInterface6(index) => {
                if index != 0 {
                    self.interface_or_default(index)?;
                }
                return self.set_multicast_interface(handle, index, None);
            }
            SocketOption::HeaderIncluded(_) if sock.spec.kind != Kind::Raw => {
                return Err(Error::UnknownOption);
            }
            SocketOption::V6Only(_) if sock.spec.domain == Domain::V4 => return Err(Error::UnknownOption),
            // Only a socket without a connection can take it back.
            SocketOption::WindowClamp(0) if matches!(&sock.body, Body::Conn(conn) if !conn.has_ended()) => {
                return Err(Error::Invalid);
            }
            SocketOption::V6Only(_) if sock.bound.hold != Hold::Nothing => return Err(Error::Invalid),
            _ => {}
        }
        sock.options.set(option)?;
        self.apply(handle, name);
        Ok(())
    }

    /// Makes a changed option take effect.
    fn apply(&mut self, handle: Handle, name: OptionName) {
        let Some(sock) = self.socks.get_mut(handle) else { return };
        let reuse = matches!(name, OptionName::ReuseAddress | OptionName::ReusePort);
        if let Hold::Connection(old) = sock.bound.hold
            && reuse
        {
            let new = Sharing::of(&sock.options);
            self.tcp_ports.remove_connection(sock.bound.addr(), old);
            self.tcp_ports.add_connection(sock.bound.addr(), new);
            sock.bound.hold = Hold::Connection(new);
        }
        if reuse && sock.bound.hold == Hold::Entry {
            let ports = match sock.spec.protocol {
                Protocol::Tcp => &mut self.tcp_ports,
                _ => &mut self.udp_ports,
            };
            if let Some(entry) = ports.entry(sock.bound.port, handle) {
                entry.reuse_address = sock.options.reuse_address;
                entry.reuse_port = sock.options.reuse_port;
            }
        }
        if let Body::Conn(conn) = &mut sock.body
            && !conn.has_ended()
        {
            conn.apply(&sock.options, self.now);
            match (name, sock.options.send_buffer, sock.options.receive_buffer) {
                (OptionName::SendBuffer, Some(bytes), _) => {
                    conn.tcp.set_send_capacity(
                        bytes.saturating_mul(2).clamp(self.send_buffer.min, self.send_buffer.max) as usize,
                    );
                }
                (OptionName::ReceiveBuffer, _, Some(bytes)) => {
                    conn.tcp.set_receive_capacity(
                        bytes.saturating_mul(2).clamp(self.receive_buffer.min, self.receive_buffer.max)
                            as usize,
                    );
                }
                (OptionName::NoDelay, ..) => conn.tcp.push(),
                _ => {}
            }
            self.mark_dirty(handle);
        }
    }

    /// Reads an option.
    ///
    /// # Errors
    /// [`Error::UnknownOption`]
    pub(crate) fn get_option(&self, handle: Handle, name: OptionName) -> Result<SocketOption> {
        let sock = self.socks.held(handle)?;
        if is_tcp(name) && sock.spec.protocol != Protocol::Tcp {
            return Err(Error::UnknownOption);
        }
        let stream = sock.spec.protocol == Protocol::Tcp;
        let default = |size: u32| if stream { size / 2 } else { 212_992 / 2 };
        Ok(match (name, &sock.body) {
            (OptionName::SendBuffer, _) => SocketOption::SendBuffer(
                sock.options.send_buffer.unwrap_or(default(self.send_buffer.default)),
            ),
            (OptionName::ReceiveBuffer, _) => SocketOption::ReceiveBuffer(
                sock.options.receive_buffer.unwrap_or(default(self.receive_buffer.default)),
            ),
            (OptionName::WindowClamp, Body::Conn(conn)) if sock.options.window_clamp == 0 => {
                SocketOption::WindowClamp(u32::try_from(conn.tcp.receive_capacity()).unwrap_or(u32::MAX))
            }
            (OptionName::MaxSegment, Body::Conn(conn)) => SocketOption::MaxSegment(u32::from(conn.mss())),
            (OptionName::MaxSegment, _) => SocketOption::MaxSegment(match sock.options.max_segment {
                0 => 536,
                asked => u32::from(asked),
            }),
            (OptionName::PathMtu, body) => {
                let side = match body {
                    Body::Conn(conn) if !conn.has_ended() => conn.side,
                    Body::Datagrams(datagrams) => {
                        self.path(datagrams.peer.ok_or(Error::NotConnected)?.ip())?.side
                    }
                    _ => return Err(Error::NotConnected),
                };
                SocketOption::PathMtu(self.net.mtu(side) as u32)
            }
            (OptionName::MulticastInterface, Body::Datagrams(datagrams)) => {
                SocketOption::MulticastInterface(datagrams.multicast_address.unwrap_or(Ipv4Addr::UNSPECIFIED))
            }
            (OptionName::MulticastInterface6, Body::Datagrams(datagrams)) => {
                SocketOption::MulticastInterface6(datagrams.multicast_interface)
            }
            (OptionName::V6Only, _) if sock.spec.domain == Domain::V4 => return Err(Error::UnknownOption),
            _ => sock.options.get(name)?,
        })
    }

    /// What is known of a TCP socket.
    ///
    /// # Errors
    /// [`Error::NotSupported`]
    pub(crate) fn tcp_info(&self, handle: Handle) -> Result<TcpInfo> {
        let sock = self.socks.held(handle)?;
        match &sock.body {
            Body::Conn(conn) => Ok(conn.info()),
            Body::Listener(listener) => Ok(TcpInfo {
                state: TcpState::Listen,
                unacknowledged: listener.queue().0 as u32,
                selectively_acknowledged: listener.queue().1 as u32,
                ..TcpInfo::default()
            }),
            Body::Fresh => Ok(TcpInfo::default()),
            Body::Datagrams(_) => Err(Error::NotSupported),
        }
    }

    /// The interface that has an address; for "any" the one that leads to `group`.
    fn interface_with(&self, interface: Ipv4Addr, group: IpAddr) -> Result<u32> {
        if interface.is_unspecified() {
            return self.interface_or_default(0).and_then(|index| match group {
                _ if group.is_multicast() || !group.is_unspecified() => Ok(index),
                _ => Err(Error::Invalid),
            });
        }
        let ip = IpAddr::V4(interface);
        match &self.net.link {
            _ if ip.is_loopback() || self.net.lo.has(ip) => Ok(Side::Loopback.index()),
            Some(link) if link.has(ip) => Ok(Side::Link.index()),
            _ => Err(Error::NotFound),
        }
    }

    fn interface_or_default(&self, index: u32) -> Result<u32> {
        match (index, &self.net.link) {
            (1, _) | (2, Some(_)) => Ok(index),
            (0, Some(_)) => Ok(2),
            // Linux wants a route for the group and has none.
            _ => Err(Error::NotFound),
        }
    }

    fn set_multicast_interface(&mut self, handle: Handle, index: u32, name: Option<Ipv4Addr>) -> Result<()> {
        match &mut self.socks.held_mut(handle)?.body {
            Body::Datagrams(datagrams) => {
                datagrams.multicast_interface = index;
                datagrams.multicast_address = name;
                Ok(())
            }
            _ => Err(Error::UnknownOption),
        }
    }

    fn join(&mut self, handle: Handle, index: u32, group: IpAddr) -> Result<()> {
        if !group.is_multicast() {
            return Err(Error::Invalid);
        }
        let Body::Datagrams(datagrams) = &mut self.socks.held_mut(handle)?.body else {
            return Err(Error::UnknownOption);
        };
        if datagrams.groups.contains(&(index, group)) {
            return Err(Error::AddressInUse);
        }
        let members = self.groups.get(&(index, group)).copied().unwrap_or(0);
        if members == 0
            && index == Side::Link.index()
            && let Some(link) = &mut self.net.link
        {
            link.inner().join_multicast_group(address(group)).map_err(|error| match error {
                MulticastError::GroupTableFull => Error::NoBuffers,
                MulticastError::Unaddressable => Error::Invalid,
            })?;
            link.egress_own(self.now);
        }
        self.groups.insert((index, group), members + 1);
        if let Body::Datagrams(datagrams) = &mut self.socks.held_mut(handle)?.body {
            datagrams.groups.push((index, group));
        }
        Ok(())
    }

    fn leave(&mut self, handle: Handle, index: u32, group: IpAddr) -> Result<()> {
        let Body::Datagrams(datagrams) = &mut self.socks.held_mut(handle)?.body else {
            return Err(Error::UnknownOption);
        };
        let at = datagrams.groups.iter().position(|g| *g == (index, group));
        datagrams.groups.remove(at.ok_or(Error::AddressNotAvailable)?);
        self.leave_group(index, group);
        Ok(())
    }

    /// One member less; the last one leaves the group on the link.
    pub(crate) fn leave_group(&mut self, index: u32, group: IpAddr) {
        let Some(members) = self.groups.get_mut(&(index, group)) else { return };
        *members -= 1;
        if *members > 0 {
            return;
        }
        self.groups.remove(&(index, group));
        if index == Side::Link.index()
            && let Some(link) = &mut self.net.link
        {
            // Only a group that was joined is left, so there is nothing to fail.
            let _ = link.inner().leave_multicast_group(address(group));
            link.egress_own(self.now);
        }
    }
}
