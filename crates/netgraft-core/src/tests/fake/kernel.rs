//! [`Surrogate`] and [`Journal`] of the fake kernel, and the handles that the core holds.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use netgraft_plugin::{Domain, Shutdown};

use super::unix::{GATED, Kind, SEND_BUFFER};
use super::world::World;
use crate::flows::{FlowRecord, FlowSink, ProcessName};
use crate::join::{Pair, Side};
use crate::journal::{Journal, Kept};
use crate::private_link::PrivateLinks;
use crate::program::Files;
use crate::surrogate::{Cookie, Found, Gate, Name, Shape, Shown, Surrogate};
use crate::uapi::{self, Errno};

/// The kernel that a core under test works on.
pub(crate) struct FakeKernel {
    pub(crate) world: Rc<RefCell<World>>,
}

/// A reference to an open file: a duplicate of the program's, or an end. It goes when it is dropped.
pub(crate) struct File {
    world: Rc<RefCell<World>>,
    pub(crate) cookie: u64,
    pub(crate) fd: Option<Arc<OwnedFd>>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({})", self.cookie)
    }
}

impl File {
    /// One more reference.
    pub(crate) fn new(world: Rc<RefCell<World>>, cookie: u64, fd: Option<Arc<OwnedFd>>) -> File {
        world.borrow_mut().socks.get_mut(cookie).refs += 1;
        File { world, cookie, fd }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A test that panics may hold the world.
        if let Ok(mut world) = self.world.try_borrow_mut() {
            world.release(self.cookie);
        }
    }
}

impl Files for FakeKernel {
    type File = File;
    type End = File;
}

impl FakeKernel {
    fn file(&self, cookie: u64) -> File {
        File::new(self.world.clone(), cookie, None)
    }

    fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.world.borrow_mut())
    }
}

impl Surrogate for FakeKernel {
    fn new_stream(&mut self, domain: Domain, nonblocking: bool) -> Result<File, Errno> {
        let cookie =
            self.with(|w| w.check_room().map(|()| w.socks.make(Kind::Stream, domain, nonblocking)))?;
        Ok(self.file(cookie))
    }

    fn new_datagram(&mut self, domain: Domain, nonblocking: bool) -> Result<(File, File), Errno> {
        let (file, end) = self.with(|w| {
            w.check_room()?;
            let file = w.socks.make(Kind::Datagram, domain, nonblocking);
            let end = w.socks.make(Kind::Datagram, domain, true);
            w.socks.aim(end, Some(file));
            Ok::<_, Errno>((file, end))
        })?;
        Ok((self.file(file), self.file(end)))
    }

    fn cookie(&mut self, file: &File) -> Option<Cookie> {
        self.with(|w| (w.socks.get(file.cookie).kind != Kind::Other).then_some(Cookie(file.cookie)))
    }

    fn peer_name(&mut self, file: &File) -> Option<Name> {
        self.with(|w| w.socks.get(file.cookie).peer_name)
    }

    fn inspect(&mut self, file: &File) -> Option<Found> {
        self.with(|w| {
            let sock = w.socks.get(file.cookie);
            let joined = sock.joined.map(|(pair, side)| Shape::Joined(pair, side));
            let shape = match sock.kind {
                Kind::Other | Kind::Foreign(_) | Kind::Host => return None,
                Kind::Datagram => Shape::Datagram,
                Kind::Stream if w.socks.is_listening(file.cookie) => Shape::Listener,
                Kind::Stream if !w.socks.is_connected(file.cookie) => Shape::Fresh,
                Kind::Stream if sock.send_buffer <= GATED => Shape::Gated,
                Kind::Stream => Shape::Stream,
            };
            Some(Found { domain: sock.domain, shape: joined.unwrap_or(shape) })
        })
    }

    fn is_nonblocking(&mut self, file: &File) -> Result<bool, Errno> {
        Ok(self.with(|w| w.socks.get(file.cookie).nonblocking))
    }

    fn join(&mut self, file: &File) -> Result<File, Errno> {
        let end = self.with(|w| {
            w.check_room()?;
            if w.limits.no_join {
                return Err(uapi::ENFILE);
            }
            w.socks.join(file.cookie)
        })?;
        Ok(self.file(end))
    }

    fn gate(&mut self, file: &File, _end: &File) -> Result<Gate, Errno> {
        self.with(|w| {
            w.socks.set_send_buffer(file.cookie, GATED);
            Ok(Gate { fill: w.socks.send(file.cookie, &[0xee; 2 * GATED])? })
        })
    }

    fn ungate(&mut self, file: Option<&File>, end: &File, gate: Gate) {
        self.with(|w| {
            if let Some(file) = file {
                w.socks.set_send_buffer(file.cookie, SEND_BUFFER);
            }
            let mut junk = vec![0; gate.fill];
            assert_eq!(w.socks.receive(end.cookie, &mut junk, false), Ok(gate.fill));
            assert!(junk.iter().all(|&byte| byte == 0xee), "the gate is not what comes first");
        });
    }

    fn restore_send_buffer(&mut self, file: &File, _end: &File) -> bool {
        self.with(|w| w.socks.set_send_buffer(file.cookie, SEND_BUFFER));
        true
    }

    fn wake(&mut self, file: &File, end: &File) {
        self.with(|w| {
            assert_eq!(w.socks.send(file.cookie, b"c"), Ok(1));
            assert_eq!(w.socks.receive(end.cookie, &mut [0], false), Ok(1));
        });
    }

    fn mark(&mut self, file: &File) {
        self.with(|w| w.socks.mark(file.cookie));
    }

    fn is_at_mark(&mut self, end: &File) -> bool {
        self.with(|w| w.socks.is_at_mark(end.cookie))
    }

    fn clear_mark(&mut self, end: &File) {
        let _ = self.with(|w| w.socks.receive(end.cookie, &mut [0], false));
    }

    fn send_urgent_as_program(&mut self, file: &File, data: &[u8]) -> Result<usize, Errno> {
        self.with(|w| w.socks.send_urgent(file.cookie, data))
    }

    fn is_at_urgent(&mut self, file: &File) -> bool {
        self.with(|w| w.socks.is_at_mark(file.cookie))
    }

    fn next_urgent(&mut self, end: &File) -> Option<u8> {
        self.with(|w| w.socks.urgent(end.cookie).filter(|_| w.socks.is_at_mark(end.cookie)))
    }

    fn take_urgent(&mut self, end: &File) {
        self.with(|w| w.socks.take_mark(end.cookie));
    }

    fn send_urgent(&mut self, end: &File, byte: u8) -> Result<(), Errno> {
        self.with(|w| w.socks.send_urgent(end.cookie, &[byte])).map(drop)
    }

    fn shut(&mut self, file: &File, how: Shutdown) -> Result<(), Errno> {
        self.with(|w| w.socks.shut(file.cookie, how != Shutdown::Write, how != Shutdown::Read));
        Ok(())
    }

    fn shut_end(&mut self, end: &File) {
        self.with(|w| w.socks.shut(end.cookie, false, true));
    }

    fn reset(&mut self, end: File, file: Option<&File>) -> Shown {
        if let Some(file) = file {
            let _ = self.with(|w| w.socks.send(file.cookie, b"x"));
        }
        drop(end);
        let shows =
            |file: &File| self.with(|w| w.socks.poll(file.cookie).contains(netgraft_plugin::Events::ERR));
        if file.is_some_and(shows) { Shown::Yes } else { Shown::No }
    }

    fn take_error(&mut self, file: &File) -> bool {
        self.with(|w| w.socks.take_error(file.cookie))
    }

    fn is_hung_up(&mut self, end: &File) -> bool {
        self.with(|w| w.socks.poll(end.cookie).contains(netgraft_plugin::Events::HUP))
    }

    fn has_input(&mut self, end: &File) -> bool {
        self.with(|w| w.socks.has_input(end.cookie))
    }

    fn receive(&mut self, end: &File, buf: &mut [u8]) -> Result<usize, Errno> {
        self.with(|w| w.socks.receive(end.cookie, buf, false)).map(|n| n.min(buf.len()))
    }

    fn send(&mut self, end: &File, data: &[u8]) -> Result<usize, Errno> {
        self.with(|w| w.socks.send(end.cookie, data))
    }

    fn receive_as_program(&mut self, file: &File, buf: &mut [u8], flags: i32) -> Result<usize, Errno> {
        let room = buf.len();
        let peek = flags & uapi::MSG_PEEK != 0;
        if flags & uapi::MSG_OOB != 0 {
            let byte = self.with(|w| w.socks.urgent(file.cookie)).ok_or(uapi::EINVAL)?;
            if !peek {
                self.with(|w| w.socks.take_mark(file.cookie));
            }
            if let Some(first) = buf.first_mut() {
                *first = byte;
            }
            return Ok(room.min(1));
        }
        let len = self.with(|w| w.socks.receive(file.cookie, buf, peek))?;
        Ok(if flags & uapi::MSG_TRUNC != 0 { len } else { len.min(room) })
    }

    fn send_as_program(&mut self, file: &File, data: &[u8]) -> Result<usize, Errno> {
        self.with(|w| w.socks.send(file.cookie, data))
    }

    fn listen(
        &mut self,
        file: &File,
        named: Option<Name>,
        _domain: Domain,
        backlog: u32,
    ) -> Result<Name, Errno> {
        self.with(|w| {
            let name = named.unwrap_or_else(|| {
                let name = w.socks.fresh_name();
                w.socks.bind(file.cookie, name);
                name
            });
            w.socks.listen(file.cookie, backlog);
            Ok(name)
        })
    }

    fn offer(&mut self, listener: Name) -> Result<(File, Name), Errno> {
        let (end, name) = self.with(|w| {
            w.check_room()?;
            w.socks.offer(listener)
        })?;
        Ok((self.file(end), name))
    }

    fn join_listener(
        &mut self,
        file: &File,
        listener: Name,
        pair: Pair,
        _nonblocking: bool,
    ) -> Result<(), Errno> {
        self.with(|w| w.socks.join_listener(file.cookie, listener, pair))
    }

    fn accepted_pair(&mut self, file: &File) -> Option<Pair> {
        let (pair, side) = self.with(|w| w.socks.get(file.cookie).joined)?;
        (side == Side::Server).then_some(pair)
    }

    fn has_mark(&mut self, file: &File) -> bool {
        self.with(|w| w.socks.has_mark(file.cookie))
    }

    fn take_mark(&mut self, file: &File) {
        self.with(|w| w.socks.take_mark(file.cookie));
    }

    fn has_ended(&mut self, file: &File) -> bool {
        self.with(|w| w.socks.poll(file.cookie)).contains(netgraft_plugin::Events::RDHUP)
    }

    fn accept(&mut self, file: &File, nonblocking: bool) -> Result<File, Errno> {
        let accepted = self.with(|w| {
            w.check_room()?;
            w.socks.accept(file.cookie, nonblocking)
        })?;
        let file = self.file(accepted);
        // The queue's reference is this file's now.
        self.with(|w| w.release(accepted));
        Ok(file)
    }

    fn set_nonblocking(&mut self, file: &File, on: bool) -> Result<(), Errno> {
        self.with(|w| w.socks.get_mut(file.cookie).nonblocking = on);
        Ok(())
    }

    fn aim(&mut self, file: &File, end: &File) -> Result<(), Errno> {
        self.with(|w| w.socks.aim(file.cookie, Some(end.cookie)));
        Ok(())
    }

    fn unaim(&mut self, file: &File) -> Result<(), Errno> {
        self.with(|w| w.socks.aim(file.cookie, None));
        Ok(())
    }

    fn is_drained(&mut self, end: &File) -> bool {
        self.with(|w| w.socks.is_drained(end.cookie))
    }

    fn show_datagram_error(&mut self, end: &File, file: &File) -> Shown {
        self.with(|w| {
            if w.socks.send(file.cookie, b"x").is_err() {
                return Shown::No;
            }
            w.socks.aim(end.cookie, None);
            w.socks.aim(end.cookie, Some(file.cookie));
            Shown::Yes
        })
    }

    fn replace_end(&mut self, file: &File, aimed: bool) -> Result<File, Errno> {
        let end = self.with(|w| {
            w.check_room()?;
            let end = w.socks.make(Kind::Datagram, Domain::V4, true);
            if aimed {
                w.socks.aim(file.cookie, Some(end));
            }
            w.socks.aim(end, Some(file.cookie));
            Ok::<u64, Errno>(end)
        })?;
        Ok(self.file(end))
    }

    fn set_option(&mut self, file: &File, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        self.with(|w| w.socks.get_mut(file.cookie).options.insert((level, name), value.to_vec()));
        Ok(())
    }

    fn get_option(&mut self, file: &File, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
        self.with(|w| {
            let options = &w.socks.get(file.cookie).options;
            let bytes = options.get(&(level, name)).ok_or(uapi::ENOPROTOOPT)?;
            let n = bytes.len().min(value.len());
            value[..n].copy_from_slice(&bytes[..n]);
            Ok(n)
        })
    }
}

impl PrivateLinks for FakeKernel {
    fn emit(&mut self, interface: u32, frame: &[u8]) {
        self.world.borrow_mut().emitted.push((interface, frame.to_vec()));
    }

    fn flush(&mut self) {}
}

impl FlowSink for FakeKernel {
    fn flow(&mut self, record: FlowRecord) {
        self.with(|w| w.notes.flows.push(record));
    }

    fn process_name(&mut self, tid: u32) -> Option<ProcessName> {
        self.with(|w| w.threads.contains_key(&tid))
            .then(|| ProcessName { pid: tid, executable: Some("/bin/program".to_owned()) })
    }
}

impl Journal for FakeKernel {
    fn is_kept(&self) -> bool {
        self.with(|w| w.notes.is_kept)
    }

    fn keep(&mut self, kept: Kept) {
        self.with(|w| w.notes.kept.push(kept));
    }

    fn forget(&mut self, cookie: Cookie) {
        self.with(|w| w.notes.forgotten.push(cookie));
    }

    fn warn(&mut self, text: String) {
        self.with(|w| w.notes.warnings.push(text));
    }
}
