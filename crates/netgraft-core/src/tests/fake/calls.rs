//! The calls of a program, as it makes them.

use std::net::SocketAddr;

use netgraft_plugin::{Error, Handle};

use super::net::{Answer, Remote};
use super::rig::{DONE, REMOTE, Rig, addr, fails};
use super::world::Reply;
use crate::codec::sockaddr;
use crate::uapi::{self, Errno};

impl Rig {
    /// socket(2)
    pub(crate) fn try_socket(&mut self, domain: i32, kind: i32, protocol: i32) -> Reply {
        self.call(uapi::SYS_socket, [domain as u64, kind as u64, protocol as u64, 0, 0, 0])
    }

    fn must_socket(&mut self, domain: i32, kind: i32, protocol: i32) -> i32 {
        match self.try_socket(domain, kind, protocol) {
            Reply::Is(fd) => fd as i32,
            other => panic!("socket: {other:?}"),
        }
    }

    /// A blocking TCP socket.
    pub(crate) fn tcp(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_STREAM, 0)
    }

    /// A TCP socket that does not block.
    pub(crate) fn tcp_nonblocking(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_STREAM | uapi::SOCK_NONBLOCK, 0)
    }

    pub(crate) fn tcp6(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET6, uapi::SOCK_STREAM, 0)
    }

    pub(crate) fn udp(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_DGRAM, 0)
    }

    pub(crate) fn udp6(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET6, uapi::SOCK_DGRAM, 0)
    }

    pub(crate) fn udp_nonblocking(&mut self) -> i32 {
        self.must_socket(uapi::AF_INET, uapi::SOCK_DGRAM | uapi::SOCK_NONBLOCK, 0)
    }

    /// Has a remote address answer connection attempts.
    pub(crate) fn remote(&mut self, at: &str, answer: Answer) {
        self.net().remotes.insert(addr(at), answer);
    }

    /// A connection to a remote host.
    pub(crate) fn connected(&mut self) -> (i32, Remote) {
        self.remote(REMOTE, Answer::Accepts);
        let fd = self.tcp();
        assert_eq!(self.connect(fd, REMOTE), Reply::Waits);
        assert_eq!(self.reply_at_rest(), DONE);
        let remote = *self.net().accepted.last().unwrap();
        (fd, remote)
    }

    /// A connection attempt that does not block and that a remote host does not answer yet.
    pub(crate) fn connecting(&mut self) -> i32 {
        let fd = self.tcp_nonblocking();
        assert_eq!(self.connect(fd, REMOTE), fails(uapi::EINPROGRESS));
        self.settle();
        fd
    }

    /// A listener.
    pub(crate) fn listener(&mut self, at: &str, backlog: i32) -> i32 {
        let fd = self.tcp();
        assert_eq!(self.bind(fd, at), DONE);
        assert_eq!(self.listen(fd, backlog), DONE);
        self.settle();
        fd
    }

    /// A remote host connects to a listener.
    pub(crate) fn dial(&mut self, to: &str, from: &str) -> Remote {
        let remote = self.net().dial(addr(to), addr(from)).unwrap();
        self.settle();
        remote
    }

    /// The handle behind a descriptor.
    pub(crate) fn handle(&self, fd: i32) -> Handle {
        self.core.table.get(self.id(fd)).unwrap().handle.unwrap()
    }

    /// The remote host sends.
    pub(crate) fn remote_sends(&mut self, remote: Remote, data: &[u8]) {
        assert_eq!(self.net().remote_sends(remote, data), Ok(data.len()));
        self.settle();
    }

    /// The remote host sends no more.
    pub(crate) fn remote_ends(&mut self, remote: Remote) {
        self.net().remote_ends(remote);
        self.settle();
    }

    /// The connection fails on its way.
    pub(crate) fn remote_fails(&mut self, remote: Remote, error: Error) {
        self.net().remote_fails(remote, error);
        self.settle();
    }

    /// All that the remote host gets while the sentry works.
    pub(crate) fn remote_reads(&mut self, remote: Remote) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            self.settle();
            let bytes = self.net().remote_reads(remote);
            if bytes.is_empty() {
                return all;
            }
            all.extend(bytes);
        }
    }

    /// Puts an address into memory: where it is, and its length.
    pub(crate) fn put_addr(&mut self, to: SocketAddr) -> (u64, u64) {
        let bytes = sockaddr::encode(netgraft_plugin::Domain::of(&to), to);
        (self.put(bytes.bytes()), bytes.bytes().len() as u64)
    }

    fn with_addr(&mut self, number: i64, fd: i32, to: &str) -> Reply {
        let (at, len) = self.put_addr(addr(to));
        self.call(number, [fd as u64, at, len, 0, 0, 0])
    }

    pub(crate) fn connect(&mut self, fd: i32, to: &str) -> Reply {
        self.with_addr(uapi::SYS_connect, fd, to)
    }

    /// connect(2) with `AF_UNSPEC`
    pub(crate) fn disconnect(&mut self, fd: i32) -> Reply {
        let at = self.put(&[0; 16]);
        self.call(uapi::SYS_connect, [fd as u64, at, 16, 0, 0, 0])
    }

    pub(crate) fn bind(&mut self, fd: i32, to: &str) -> Reply {
        self.with_addr(uapi::SYS_bind, fd, to)
    }

    pub(crate) fn listen(&mut self, fd: i32, backlog: i32) -> Reply {
        self.call(uapi::SYS_listen, [fd as u64, backlog as u64, 0, 0, 0, 0])
    }

    /// accept4(2) with an address, which goes to [`Rig::out`].
    pub(crate) fn accept(&mut self, fd: i32, flags: i32) -> Reply {
        let (at, len) = self.put_out();
        self.call(uapi::SYS_accept4, [fd as u64, at, len, flags as u64, 0, 0])
    }

    /// Room for an address in memory, and its length.
    pub(crate) fn put_out(&mut self) -> (u64, u64) {
        let at = self.put(&[0; 64]);
        let len = self.put(&64u32.to_ne_bytes());
        self.core.kernel().world.borrow_mut().out = (at, len);
        (at, len)
    }

    /// The address that the last call gave; `None` for no address.
    pub(crate) fn out(&self) -> Option<SocketAddr> {
        let (at, len) = self.world().out;
        let len = self.peek_u32(len) as usize;
        let bytes = self.peek(at, len.min(64));
        let domain = if len == 28 { netgraft_plugin::Domain::V6 } else { netgraft_plugin::Domain::V4 };
        match sockaddr::parse(domain, &bytes) {
            Ok(sockaddr::Given::Inet(addr)) if len > 0 => Some(addr),
            _ => None,
        }
    }

    pub(crate) fn getsockname(&mut self, fd: i32) -> Reply {
        let (at, len) = self.put_out();
        self.call(uapi::SYS_getsockname, [fd as u64, at, len, 0, 0, 0])
    }

    pub(crate) fn getpeername(&mut self, fd: i32) -> Reply {
        let (at, len) = self.put_out();
        self.call(uapi::SYS_getpeername, [fd as u64, at, len, 0, 0, 0])
    }

    pub(crate) fn shutdown(&mut self, fd: i32, how: i32) -> Reply {
        self.call(uapi::SYS_shutdown, [fd as u64, how as u64, 0, 0, 0, 0])
    }

    pub(crate) fn setsockopt(&mut self, fd: i32, level: i32, name: i32, value: &[u8]) -> Reply {
        let at = self.put(value);
        self.call(uapi::SYS_setsockopt, [fd as u64, level as u64, name as u64, at, value.len() as u64, 0])
    }

    pub(crate) fn set_int(&mut self, fd: i32, level: i32, name: i32, value: i32) -> Reply {
        self.setsockopt(fd, level, name, &value.to_ne_bytes())
    }

    /// getsockopt(2): the bytes, or the errno.
    pub(crate) fn getsockopt(&mut self, fd: i32, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let at = self.put(&[0; 256]);
        let len = self.put(&256u32.to_ne_bytes());
        match self.call(uapi::SYS_getsockopt, [fd as u64, level as u64, name as u64, at, len, 0]) {
            Reply::Is(0) => Ok(self.peek(at, self.peek_u32(len) as usize)),
            Reply::Fails(errno) => Err(errno),
            other => panic!("getsockopt: {other:?}"),
        }
    }

    pub(crate) fn get_int(&mut self, fd: i32, level: i32, name: i32) -> Result<i32, Errno> {
        self.getsockopt(fd, level, name).map(|bytes| i32::from_ne_bytes(bytes[..4].try_into().unwrap()))
    }

    /// `SO_ERROR`
    pub(crate) fn so_error(&mut self, fd: i32) -> Errno {
        self.get_int(fd, uapi::SOL_SOCKET, uapi::SO_ERROR).unwrap()
    }

    /// Sets a time-out of socket(7) in milliseconds.
    pub(crate) fn set_timeout(&mut self, fd: i32, name: i32, millis: i64) {
        let value = [(millis / 1000).to_ne_bytes(), (millis % 1000 * 1000).to_ne_bytes()].concat();
        assert_eq!(self.setsockopt(fd, uapi::SOL_SOCKET, name, &value), DONE);
    }

    /// The same, as another thread.
    pub(crate) fn set_timeout_as(&mut self, tid: u32, fd: i32, name: i32, millis: i64) {
        self.as_thread(tid, |rig| rig.set_timeout(fd, name, millis));
    }

    /// sendto(2) with an address
    pub(crate) fn sendto(&mut self, fd: i32, data: &[u8], flags: i32, to: Option<&str>) -> Reply {
        let at = self.put(data);
        let (name, len) = to.map_or((0, 0), |to| self.put_addr(addr(to)));
        self.call(uapi::SYS_sendto, [fd as u64, at, data.len() as u64, flags as u64, name, len])
    }

    /// recvfrom(2) with an address, which goes to [`Rig::out`], and data, which goes to [`Rig::data`].
    pub(crate) fn recvfrom(&mut self, fd: i32, len: usize, flags: i32) -> Reply {
        let at = self.put(&vec![0; len]);
        self.world_mut().data = at;
        let (name, name_len) = self.put_out();
        self.call(uapi::SYS_recvfrom, [fd as u64, at, len as u64, flags as u64, name, name_len])
    }

    /// What the last receive gave.
    pub(crate) fn data(&self, len: usize) -> Vec<u8> {
        let at = self.world().data;
        self.peek(at, len)
    }
}
