//! The calls of the contract, on a bench's sockets.

use std::net::SocketAddr;

use netgraft_plugin::{
    Error, Events, OptionName, Received, RecvFlags, Result, SendFlags, Shutdown, SocketOption, SocketSpec,
    TcpInfo,
};

use super::bench::{Bench, Side, Sock};

/// The calls of the contract, for sockets of either stack. A length that cannot be is [`Error::Io`].
#[expect(missing_docs, clippy::missing_errors_doc, reason = "each is the contract's call of the same name")]
impl Bench {
    pub fn socket(&mut self, side: Side, spec: SocketSpec) -> Result<Sock> {
        let stack = self.stack_of(side);
        self.stacks[stack].socket(spec).map(|handle| Sock { stack, handle })
    }

    pub fn bind(&mut self, sock: Sock, addr: SocketAddr) -> Result<()> {
        self.stacks[sock.stack].bind(sock.handle, addr)
    }

    pub fn listen(&mut self, sock: Sock, backlog: u32) -> Result<()> {
        self.stacks[sock.stack].listen(sock.handle, backlog)
    }

    pub fn accept(&mut self, sock: Sock) -> Result<(Sock, SocketAddr)> {
        let (handle, peer) = self.stacks[sock.stack].accept(sock.handle)?;
        Ok((Sock { stack: sock.stack, handle }, peer))
    }

    pub fn connect(&mut self, sock: Sock, addr: SocketAddr) -> Result<()> {
        let now = self.now();
        self.stacks[sock.stack].connect(sock.handle, addr, now)
    }

    pub fn disconnect(&mut self, sock: Sock) -> Result<()> {
        self.stacks[sock.stack].disconnect(sock.handle)
    }

    pub fn local_addr(&self, sock: Sock) -> Result<SocketAddr> {
        self.stacks[sock.stack].local_addr(sock.handle)
    }

    pub fn peer_addr(&self, sock: Sock) -> Result<SocketAddr> {
        self.stacks[sock.stack].peer_addr(sock.handle)
    }

    pub fn send(&mut self, sock: Sock, data: &[u8]) -> Result<usize> {
        self.send_with(sock, data, None, SendFlags::empty())
    }

    pub fn send_to(&mut self, sock: Sock, data: &[u8], to: SocketAddr) -> Result<usize> {
        self.send_with(sock, data, Some(to), SendFlags::empty())
    }

    pub fn send_with(
        &mut self,
        sock: Sock,
        data: &[u8],
        to: Option<SocketAddr>,
        flags: SendFlags,
    ) -> Result<usize> {
        let now = self.now();
        match self.stacks[sock.stack].send(sock.handle, data, to, flags, now) {
            Ok(count) if count > data.len() || (count == 0 && !data.is_empty()) => Err(Error::Io),
            sent => sent,
        }
    }

    pub fn recv(&mut self, sock: Sock, buf: &mut [u8]) -> Result<Received> {
        self.recv_with(sock, buf, RecvFlags::empty())
    }

    pub fn recv_with(&mut self, sock: Sock, buf: &mut [u8], flags: RecvFlags) -> Result<Received> {
        let now = self.now();
        match self.stacks[sock.stack].recv(sock.handle, buf, flags, now) {
            Ok(got) if got.len > buf.len() || got.len > got.full_len => Err(Error::Io),
            got => got,
        }
    }

    pub fn queued_in(&self, sock: Sock) -> Result<usize> {
        self.stacks[sock.stack].queued_in(sock.handle)
    }

    pub fn queued_out(&self, sock: Sock) -> Result<usize> {
        self.stacks[sock.stack].queued_out(sock.handle)
    }

    pub fn shutdown(&mut self, sock: Sock, how: Shutdown) -> Result<()> {
        let now = self.now();
        self.stacks[sock.stack].shutdown(sock.handle, how, now)
    }

    pub fn close(&mut self, sock: Sock) -> Result<()> {
        let now = self.now();
        self.stacks[sock.stack].close(sock.handle, now)
    }

    pub fn abort(&mut self, sock: Sock) -> Result<()> {
        let now = self.now();
        self.stacks[sock.stack].abort(sock.handle, now)
    }

    pub fn readiness(&self, sock: Sock) -> Result<Events> {
        self.stacks[sock.stack].readiness(sock.handle)
    }

    pub fn take_error(&mut self, sock: Sock) -> Option<Error> {
        self.stacks[sock.stack].take_error(sock.handle)
    }

    pub fn set(&mut self, sock: Sock, option: SocketOption) -> Result<()> {
        self.stacks[sock.stack].set_option(sock.handle, option)
    }

    pub fn get(&self, sock: Sock, name: OptionName) -> Result<SocketOption> {
        self.stacks[sock.stack].get_option(sock.handle, name)
    }

    pub fn tcp_info(&self, sock: Sock) -> Result<TcpInfo> {
        self.stacks[sock.stack].tcp_info(sock.handle)
    }

    pub fn add_fd(&mut self, sock: Sock, mask: Events) -> Result<()> {
        self.stacks[sock.stack].add_fd(sock.handle, mask)
    }

    pub fn update_fd(&mut self, sock: Sock, mask: Events) -> Result<()> {
        self.stacks[sock.stack].update_fd(sock.handle, mask)
    }

    pub fn remove_fd(&mut self, sock: Sock) -> Result<()> {
        self.stacks[sock.stack].remove_fd(sock.handle)
    }
}
