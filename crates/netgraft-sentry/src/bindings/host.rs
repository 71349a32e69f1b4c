//! [`HostSocket`] with the host's own sockets, which are in the sentry's network namespace.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netgraft_core::{HostSocket, HostToken};
use netgraft_linux::{inet_socket, unix};
use netgraft_plugin::{Domain, Events};

use super::{Bindings, errno};
use crate::poller::Token;

impl HostSocket for Bindings {
    fn host_domain(&mut self, file: &OwnedFd) -> Option<Domain> {
        if !self.serves_host {
            return None;
        }
        let domain = match unix::domain(file.as_fd()).ok()? {
            libc::AF_INET => Domain::V4,
            libc::AF_INET6 => Domain::V6,
            // A local socket.
            _ => return None,
        };
        // A socket that the program made in another network namespace is the kernel's there.
        (unix::network(file.as_fd()).ok()? == self.network).then_some(domain)
    }

    fn take_over(&mut self, fd: OwnedFd) -> OwnedFd {
        fd
    }

    fn as_fd<'a>(&self, file: &'a OwnedFd) -> BorrowedFd<'a> {
        file.as_fd()
    }

    fn is_stream(&mut self, file: &OwnedFd) -> bool {
        unix::is_stream(file.as_fd()).unwrap_or(false)
    }

    fn host_bind(&mut self, file: &OwnedFd, addr: SocketAddr) -> Result<(), i32> {
        inet_socket::bind(file.as_fd(), &addr).map_err(|e| errno(&e))
    }

    fn host_listen(&mut self, file: &OwnedFd, backlog: i32) -> Result<(), i32> {
        inet_socket::listen(file.as_fd(), backlog).map_err(|e| errno(&e))
    }

    fn host_connect(&mut self, file: &OwnedFd, addr: Option<SocketAddr>) -> Result<(), i32> {
        let file = file.as_fd();
        let Some(addr) = addr else { return inet_socket::disconnect(file).map_err(|e| errno(&e)) };
        // A socket that is being connected is nobody else's to read or write, so that its mode for a moment is not seen.
        let blocking = !unix::is_nonblocking(file).map_err(|e| errno(&e))?;
        if blocking {
            unix::set_nonblocking(file, true).map_err(|e| errno(&e))?;
        }
        // Another thread of the program may change the mode back at once.
        let result = unix::bounded(|| inet_socket::connect(file, &addr));
        if blocking {
            unix::set_nonblocking(file, false).map_err(|e| errno(&e))?;
        }
        result.map_err(|e| match errno(&e) {
            // The timer had to help: the attempt goes on.
            libc::EINTR => libc::EINPROGRESS,
            other => other,
        })
    }

    fn host_send(
        &mut self,
        file: &OwnedFd,
        data: &[u8],
        to: Option<SocketAddr>,
        control: &[u8],
        flags: i32,
    ) -> Result<usize, i32> {
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        inet_socket::sendmsg(file.as_fd(), data, to.as_ref(), control, flags).map_err(|e| errno(&e))
    }

    fn send_timeout(&mut self, file: &OwnedFd) -> Option<Duration> {
        let read = || -> io::Result<Duration> {
            let mut bytes = [0u8; 16];
            inet_socket::getsockopt(file.as_fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, &mut bytes)?;
            let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
            let seconds = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
            Ok(Duration::from_secs(seconds) + Duration::from_micros(u64::from_ne_bytes(rest)))
        };
        read().ok().filter(|timeout| !timeout.is_zero())
    }

    fn was_attempt_shut(&mut self, file: &OwnedFd) -> bool {
        // An attempt that has failed by itself has ended in both directions.
        let was_shut = unix::has_error(file.as_fd()) && !unix::has_ended(file.as_fd());
        if was_shut {
            unix::clear_error(file.as_fd());
        }
        was_shut
    }

    fn watch_host(&mut self, file: &OwnedFd, token: HostToken) -> Result<(), i32> {
        self.poller.add(file.as_fd(), Events::OUT, Token::Host(token)).map_err(|e| errno(&e))
    }

    fn release(&mut self, file: OwnedFd) {
        unix::close_bounded(file);
    }

    fn unwatch_host(&mut self, file: &OwnedFd) {
        self.poller.remove(file.as_fd());
    }
}
