//! What each step does.

use netgraft_plugin::Error;

use super::super::super::fake::net::{Answer, Remote};
use super::super::super::fake::rig::{MAIN, addr};
use super::super::super::fake::unix::Kind;
use super::super::super::fake::world::Reply;
use super::super::model::{End, Model};
use super::super::ops::{Op, What};
use super::{Check, Made, Play, Purpose, THREADS};
use crate::program::ProgramId;
use crate::uapi::{self, Errno};

impl Play<'_> {
    pub(super) fn make_socket(&mut self, op: &Op) {
        let kind = match op.what {
            What::Udp => uapi::SOCK_DGRAM,
            What::TcpNonblocking => uapi::SOCK_STREAM | uapi::SOCK_NONBLOCK,
            _ => uapi::SOCK_STREAM,
        };
        let args = [uapi::AF_INET as u64, kind as u64, 0, 0, 0, 0];
        let Some(Reply::Is(fd)) = self.call(op, -1, Purpose::Other, uapi::SYS_socket, args) else { return };
        let fd = fd as i32;
        self.fds.push(fd);
        if op.what == What::Udp {
            let port = 2000 + self.number() as u16;
            self.ports.insert(self.rig.file(fd), port);
            self.with_address(op, fd, Purpose::Other, uapi::SYS_bind, &format!("127.0.0.1:{port}"));
        }
    }

    fn with_address(&mut self, op: &Op, fd: i32, purpose: Purpose, number: i64, to: &str) -> Option<Reply> {
        let (at, len) = self.rig.put_addr(addr(to));
        self.call(op, fd, purpose, number, [fd as u64, at, len, 0, 0, 0])
    }

    fn is_stream(&self, fd: i32) -> bool {
        self.rig.world().socks.get(self.rig.file(fd)).kind == Kind::Stream
    }

    pub(super) fn connect(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        if self.is_stream(fd) == (op.what == What::ConnectUdp) {
            return;
        }
        let port = 1000 + self.number() as u16;
        let to = match op.what {
            What::ConnectHere if !self.listening.is_empty() => {
                format!("127.0.0.1:{}", self.listening[op.size % self.listening.len()])
            }
            What::ConnectHere => "127.0.0.1:1".to_owned(),
            What::ConnectUdp => format!("127.0.0.1:{}", 2001 + op.size % 20),
            _ => format!("198.51.100.1:{port}"),
        };
        if op.what == What::Connect {
            let answer = [Answer::Accepts, Answer::Accepts, Answer::Refuses, Answer::Silent][op.size % 4];
            self.rig.remote(&to, answer);
        }
        let reply = self.with_address(op, fd, Purpose::Connect, uapi::SYS_connect, &to);
        if matches!(reply, Some(Reply::Waits | Reply::Is(0) | Reply::Fails(uapi::EINPROGRESS))) {
            self.dialed.insert(port, self.rig.file(fd));
        }
    }

    pub(super) fn listen(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        let port = 3000 + self.number() as u16;
        self.with_address(op, fd, Purpose::Other, uapi::SYS_bind, &format!("127.0.0.1:{port}"));
        let args = [fd as u64, op.size as u64 % 3, 0, 0, 0, 0];
        if self.call(op, fd, Purpose::Other, uapi::SYS_listen, args) == Some(Reply::Is(0)) {
            let handle = self.rig.handle(fd);
            let port = self.rig.net().get(handle).unwrap().local.unwrap().port();
            if !self.listening.contains(&port) {
                self.listening.push(port);
            }
        }
    }

    pub(super) fn accept(&mut self, op: &Op) -> Check {
        let Some(mut fd) = self.fd(op) else { return Ok(()) };
        if !op.size.is_multiple_of(8) {
            // Mostly on what listens.
            let listens = |fd: &i32| self.rig.world().socks.is_listening(self.rig.file(*fd));
            let listeners: Vec<i32> = self.fds.iter().copied().filter(listens).collect();
            let Some(&listener) = listeners.get(op.at % listeners.len().max(1)) else { return Ok(()) };
            fd = listener;
        }
        if op.what == What::AcceptUntrapped {
            if let Ok(new) = self.rig.accept_untrapped(fd) {
                self.seen.accepted += 1;
                self.fds.push(new);
            }
            return Ok(());
        }
        let (at, len) = self.rig.put_out();
        self.call(op, fd, Purpose::Accept, uapi::SYS_accept4, [fd as u64, at, len, 0, 0, 0]);
        Ok(())
    }

    /// read(2) and write(2), which the kernel does alone.
    pub(super) fn kernel_data(&mut self, op: &Op) -> Check {
        let Some(fd) = self.fd(op) else { return Ok(()) };
        let cookie = self.rig.file(fd);
        if op.what == What::Read {
            return match self.rig.read(fd, op.size.max(2000)) {
                Ok(bytes) => self.received(cookie, &bytes),
                Err(errno) => self.reads_failure(cookie, errno),
            };
        }
        if !self.is_stream(fd) {
            let Some(port) = self.peer_port(fd) else { return Ok(()) };
            let bytes = Model::datagram(port, cookie as u32, self.number(), op.size % 500);
            let _ = self.rig.write(fd, &bytes);
            return Ok(());
        }
        let end = End::of_file(cookie);
        if self.made.iter().any(|made| made.cookie == cookie && made.purpose == Purpose::Send) {
            // It would come between the bytes of a call that waits.
            return Ok(());
        }
        let bytes = self.model.next(end, op.size);
        match self.rig.write(fd, &bytes) {
            Ok(n) => self.model.end(end).sent += n,
            Err(errno) => self.failed(cookie, errno)?,
        }
        Ok(())
    }

    /// The port that a datagram socket is connected to.
    fn peer_port(&self, fd: i32) -> Option<u16> {
        let handle = self.rig.core.table.get(self.rig.id(fd))?.handle?;
        Some(self.rig.net().peer_addr(handle).ok()?.port())
    }

    pub(super) fn trapped_data(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        let cookie = self.rig.file(fd);
        let waits = |made: &Made| made.cookie == cookie && made.purpose != Purpose::Accept;
        if self.made.iter().any(waits) {
            // Whose bytes come first would not be known.
            return;
        }
        let flags = if op.size.is_multiple_of(3) { uapi::MSG_DONTWAIT } else { 0 };
        if op.what == What::SendTo || op.what == What::InterruptAnswer && op.size.is_multiple_of(2) {
            let port = 2001 + op.size as u16 % 20;
            let bytes = if self.is_stream(fd) {
                self.model.next(End::of_file(cookie), op.size)
            } else {
                Model::datagram(port, cookie as u32, self.number(), op.size % 500)
            };
            let data = self.rig.put(&bytes);
            let (at, len) = self.rig.put_addr(addr(&format!("127.0.0.1:{port}")));
            let args = [fd as u64, data, bytes.len() as u64, flags as u64, at, len];
            if self.is_stream(fd) {
                self.model.end(End::of_file(cookie)).under_way = bytes.len();
            }
            self.call(op, fd, Purpose::Send, uapi::SYS_sendto, args);
            return;
        }
        let room = op.size.max(2000);
        let data = self.rig.put(&vec![0; room]);
        let (at, len) = self.rig.put_out();
        let args = [fd as u64, data, room as u64, flags as u64, at, len];
        self.call(op, fd, Purpose::Receive(data), uapi::SYS_recvfrom, args);
    }

    pub(super) fn change(&mut self, op: &Op) {
        let Some(fd) = self.fd(op) else { return };
        let cookie = self.rig.file(fd);
        let end = End::of_file(cookie);
        match op.what {
            What::Shutdown => {
                let how = op.size as i32 % 3;
                let args = [fd as u64, how as u64, 0, 0, 0, 0];
                let Some(Reply::Is(0)) = self.call(op, fd, Purpose::Other, uapi::SYS_shutdown, args) else {
                    return;
                };
                let state = self.model.end(end);
                state.has_ended |= how != uapi::SHUT_RD;
                state.is_deaf |= how != uapi::SHUT_WR;
            }
            What::Close => {
                self.close(op.at % self.fds.len());
            }
            What::Dup => {
                self.fds.extend(self.rig.try_dup(fd));
            }
            _ => {
                let at = self.rig.put(&[0; 16]);
                let args = [fd as u64, at, 16, 0, 0, 0];
                self.call(op, fd, Purpose::Other, uapi::SYS_connect, args);
                if self.is_stream(fd) {
                    let state = self.model.end(end);
                    (state.has_ended, state.has_failed) = (true, true);
                }
            }
        }
    }

    pub(super) fn close(&mut self, index: usize) {
        let fd = self.fds.swap_remove(index);
        let cookie = self.rig.file(fd);
        self.rig.close(fd);
        if !self.rig.world().socks.is_open(cookie) {
            let end = End::of_file(cookie);
            let sent = self.model.peer(end).map_or(0, |peer| self.model.end(peer).sent);
            let state = self.model.end(end);
            state.has_ended = true;
            // Bytes that are left unread reset the connection.
            state.has_failed |= state.got < sent;
        }
    }

    pub(super) fn ask(&mut self, op: &Op) -> Check {
        let Some(fd) = self.fd(op) else { return Ok(()) };
        let (at, len) = self.rig.put_out();
        let cookie = self.rig.file(fd);
        match op.what {
            What::SoError => {
                let args = [fd as u64, uapi::SOL_SOCKET as u64, uapi::SO_ERROR as u64, at, len, 0];
                if self.call(op, fd, Purpose::Other, uapi::SYS_getsockopt, args) == Some(Reply::Is(0)) {
                    let errno = self.rig.peek_u32(at) as Errno;
                    if errno != 0 {
                        self.failed(cookie, errno)?;
                    }
                }
            }
            What::Names => {
                let number =
                    if op.size.is_multiple_of(2) { uapi::SYS_getpeername } else { uapi::SYS_getsockname };
                self.call(op, fd, Purpose::Other, number, [fd as u64, at, len, 0, 0, 0]);
            }
            _ => {
                let (name, value) = if op.what == What::Timeout {
                    let name = if op.size.is_multiple_of(2) { uapi::SO_RCVTIMEO } else { uapi::SO_SNDTIMEO };
                    (name, [0i64.to_ne_bytes(), (op.size as i64).to_ne_bytes()].concat())
                } else {
                    (uapi::SO_KEEPALIVE, 1i32.to_ne_bytes().to_vec())
                };
                let at = self.rig.put(&value);
                let args = [fd as u64, uapi::SOL_SOCKET as u64, name as u64, at, value.len() as u64, 0];
                self.call(op, fd, Purpose::Other, uapi::SYS_setsockopt, args);
            }
        }
        Ok(())
    }

    pub(super) fn remote(&mut self, op: &Op) -> Check {
        if self.remotes.is_empty() {
            return Ok(());
        }
        let index = op.at % self.remotes.len();
        let remote = self.remotes[index];
        let end = End::of_remote(remote.pipe);
        if self.rig.net().was_reset(remote) {
            self.model.end(end).has_failed = true;
        }
        match op.what {
            What::RemoteSends if !self.model.end(end).has_ended => {
                let bytes = self.model.next(end, op.size);
                if let Ok(n) = self.rig.net().remote_sends(remote, &bytes) {
                    self.model.end(end).sent += n;
                }
            }
            What::RemoteReads => self.remote_reads(remote)?,
            What::RemoteEnds => {
                self.rig.net().remote_ends(remote);
                self.model.end(end).has_ended = true;
            }
            What::RemoteFails => {
                let error = if op.size.is_multiple_of(2) { Error::ConnectionReset } else { Error::TimedOut };
                self.rig.net().remote_fails(remote, error);
                let state = self.model.end(end);
                (state.has_ended, state.has_failed, state.was_cut) = (true, true, true);
                self.remotes.swap_remove(index);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn remote_reads(&mut self, remote: Remote) -> Check {
        let end = End::of_remote(remote.pipe);
        let bytes = self.rig.net().remote_reads(remote);
        self.seen.bytes += bytes.len();
        self.model.reads(end, &bytes)?;
        if self.rig.net().was_reset(remote) {
            self.model.end(end).has_failed = true;
            self.seen.resets += 1;
        }
        if self.rig.net().remote_sees_end(remote) {
            self.seen.ends += 1;
            self.model.reads_end(end)?;
        }
        Ok(())
    }

    pub(super) fn remote_opens(&mut self, op: &Op) {
        if op.what == What::RemoteAnswers {
            let answer = if op.size.is_multiple_of(3) { Answer::Refuses } else { Answer::Accepts };
            let mut net = self.rig.net();
            net.remotes.values_mut().filter(|a| **a == Answer::Silent).for_each(|a| *a = answer);
            net.is_woken = true;
            return;
        }
        if self.listening.is_empty() {
            return;
        }
        let port = self.listening[op.at % self.listening.len()];
        let from = addr(&format!("198.51.100.2:{}", 1000 + self.number()));
        let dialed = self.rig.net().dial(addr(&format!("127.0.0.1:{port}")), from);
        self.remotes.extend(dialed);
    }

    pub(super) fn datagrams(&mut self, op: &Op) {
        let mut bound: Vec<u16> = self.ports.values().copied().collect();
        bound.sort_unstable();
        if bound.is_empty() {
            return;
        }
        let port = bound[op.at % bound.len()];
        match op.what {
            What::Arrives => {
                let bytes = Model::datagram(port, 0, self.number(), op.size % 500);
                let to = addr(&format!("127.0.0.1:{port}"));
                self.rig.net().arrives(addr("198.51.100.1:53"), to, &bytes);
            }
            What::UdpFails => {
                let found =
                    self.fds.iter().copied().find(|&fd| self.ports.get(&self.rig.file(fd)) == Some(&port));
                let Some(fd) = found else { return };
                let handle = self.rig.core.table.get(self.rig.id(fd)).and_then(|socket| socket.handle);
                if let Some(handle) = handle {
                    self.rig.net().datagram_fails(handle, Error::ConnectionRefused);
                }
            }
            _ if op.size.is_multiple_of(2) => self.rig.net().open_datagram_room(0),
            _ => self.rig.net().open_datagram_room(op.size % 20 + 1),
        }
    }

    pub(super) fn disturb(&mut self, op: &Op) {
        let tid = THREADS[op.thread];
        if op.what == What::Kill {
            self.rig.world_mut().kill(tid);
            self.rig.world_mut().add_thread(tid, MAIN, ProgramId(0));
            return;
        }
        let waiting = self.made.iter().copied().find(|made| made.caller.tid == tid);
        if self.rig.world_mut().interrupt(tid)
            && op.size.is_multiple_of(2)
            && let Some(made) = waiting
            && self.rig.world().file(tid, made.fd).is_ok_and(|file| file.cookie == made.cookie)
        {
            // The call is made again, on the same socket, and goes on where it was.
            self.made
                .iter_mut()
                .filter(|old| old.caller == made.caller)
                .for_each(|old| old.purpose = Purpose::Other);
            let op = Op { what: What::Interrupt, ..*op };
            self.call(&op, made.fd, made.purpose, made.caller.number, made.caller.args);
        }
    }
}
