//! Sockets of the host's: what they answer is scripted, and what is asked of them is noted.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use netgraft_plugin::Domain;

use super::kernel::{FakeKernel, File};
use super::unix::Kind;
use crate::host::{HostSocket, HostToken};
use crate::uapi::Errno;

/// What was asked of a host socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Bind(SocketAddr),
    Listen(i32),
    Connect(Option<SocketAddr>),
    Send { data: Vec<u8>, to: Option<SocketAddr>, control: usize, flags: i32 },
}

/// The host's side of a socket of its own.
#[derive(Debug, Default)]
pub(crate) struct HostSide {
    pub(crate) is_stream: bool,
    pub(crate) asked: Vec<Asked>,
    /// What the next calls answer; success if there is nothing.
    pub(crate) answers: VecDeque<Errno>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) was_attempt_shut: bool,
    pub(crate) watched: Option<HostToken>,
}

impl HostSide {
    fn ask(&mut self, asked: Asked) -> Result<(), Errno> {
        self.asked.push(asked);
        match self.answers.pop_front() {
            None | Some(0) => Ok(()),
            Some(errno) => Err(errno),
        }
    }
}

impl FakeKernel {
    fn host_side<T>(&self, file: &File, act: impl FnOnce(&mut HostSide) -> T) -> T {
        act(&mut self.world.borrow_mut().socks.get_mut(file.cookie).host)
    }
}

impl HostSocket for FakeKernel {
    fn host_domain(&mut self, file: &File) -> Option<Domain> {
        let world = self.world.borrow();
        let sock = world.socks.get(file.cookie);
        (sock.kind == Kind::Host).then_some(sock.domain)
    }

    fn take_over(&mut self, fd: OwnedFd) -> File {
        let mut world = self.world.borrow_mut();
        let (domain, is_stream) = world.host_spec;
        let cookie = world.socks.make(Kind::Host, domain, true);
        world.socks.get_mut(cookie).host.is_stream = is_stream;
        drop(world);
        File::new(self.world.clone(), cookie, Some(Arc::new(fd)))
    }

    fn as_fd<'a>(&self, file: &'a File) -> BorrowedFd<'a> {
        file.fd.as_ref().unwrap().as_fd()
    }

    fn is_stream(&mut self, file: &File) -> bool {
        self.host_side(file, |host| host.is_stream)
    }

    fn host_bind(&mut self, file: &File, addr: SocketAddr) -> Result<(), Errno> {
        self.host_side(file, |host| host.ask(Asked::Bind(addr)))
    }

    fn host_listen(&mut self, file: &File, backlog: i32) -> Result<(), Errno> {
        self.host_side(file, |host| host.ask(Asked::Listen(backlog)))
    }

    fn host_connect(&mut self, file: &File, addr: Option<SocketAddr>) -> Result<(), Errno> {
        self.host_side(file, |host| host.ask(Asked::Connect(addr)))
    }

    fn host_send(
        &mut self,
        file: &File,
        data: &[u8],
        to: Option<SocketAddr>,
        control: &[u8],
        flags: i32,
    ) -> Result<usize, Errno> {
        let asked = Asked::Send { data: data.to_vec(), to, control: control.len(), flags };
        self.host_side(file, |host| host.ask(asked)).map(|()| data.len())
    }

    fn send_timeout(&mut self, file: &File) -> Option<Duration> {
        self.host_side(file, |host| host.send_timeout)
    }

    fn was_attempt_shut(&mut self, file: &File) -> bool {
        self.host_side(file, |host| std::mem::take(&mut host.was_attempt_shut))
    }

    fn watch_host(&mut self, file: &File, token: HostToken) -> Result<(), Errno> {
        self.host_side(file, |host| host.watched = Some(token));
        Ok(())
    }

    fn unwatch_host(&mut self, file: &File) {
        self.host_side(file, |host| host.watched = None);
    }
}
