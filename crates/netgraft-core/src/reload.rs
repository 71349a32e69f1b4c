//! Another router for a sandbox that runs: what begins from then on is decided by it, and what goes on and would be denied now
//! can be ended ([`Core::end_denied`]).

use netgraft_plugin::{Error, Kind, Shutdown};

use crate::core::{Core, Kernel, Subject};
use crate::flows::FlowEnd;
use crate::join::{Joined, Side};
use crate::policy::Heard;
use crate::route::{Denial, Flow, Route, Router};
use crate::socket::{Origin, Over, Pending, State};
use crate::table::SocketId;

/// What became of flows that were to be ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedFlows {
    /// Those that are over.
    pub ended: u64,
    /// Those between two programs of the sandbox, past the stack, of which no descriptor was found that could be shut down.
    pub left: u64,
}

impl<K: Kernel> Core<K> {
    /// Has another router decide from now on. Who may be answered since the one before has let it in is forgotten.
    pub fn set_router(&mut self, router: Box<dyn Router>) {
        self.router = router;
        self.heard = Heard::default();
    }

    /// Ends the flows that the router denies, of the sockets from this place in the table on, at most so many; and the next
    /// place, `None` when these were the last. Begins at 0. A connection is reset, on both sides; a datagram socket loses its
    /// peer, and a raw socket its network. Listeners stay: what comes to them is decided when it comes.
    pub fn end_denied(&mut self, from: usize, most: usize) -> (EndedFlows, Option<usize>) {
        let (ids, next) = self.table.ids_from(from, most);
        let mut all = EndedFlows::default();
        for id in ids {
            let Some((flow, denial)) = self.flows_of(id).into_iter().flatten().find_map(|flow| {
                let decided = self.decided(&flow);
                match self.router.route(&decided) {
                    Route::Denied(denial) => Some((decided, denial)),
                    _ => None,
                }
            }) else {
                continue;
            };
            match self.end_flow(id, denial) {
                Some(true) => {
                    all.ended += 1;
                    self.tell_denied(None, &flow);
                }
                Some(false) => all.left += 1,
                None => {}
            }
        }
        (all, next)
    }

    /// What a socket is doing, as it is decided on: a connection between two programs of the sandbox is two flows.
    fn flows_of(&self, id: SocketId) -> [Option<Flow>; 2] {
        let Some(socket) = self.table.get(id) else { return [None; 2] };
        let spec = socket.spec;
        let peer = || socket.handle.and_then(|handle| self.stack.peer_addr(handle).ok());
        let first = match &socket.state {
            State::Connecting(_) => socket.toward.map(|to| Flow::Connect(spec, to)),
            State::Connected(_) => match socket.origin {
                Origin::Made => socket.toward.or_else(peer).map(|to| Flow::Connect(spec, to)),
                Origin::Accepted => {
                    let local = socket.handle.and_then(|handle| self.stack.local_addr(handle).ok());
                    local.zip(peer()).map(|(local, peer)| Flow::Incoming(spec, local, peer))
                }
            },
            State::Joined(Joined { pair, side, .. }) => {
                let (client, server) = match side {
                    Side::Client => (pair.local, pair.peer),
                    Side::Server => (pair.peer, pair.local),
                };
                return [Some(Flow::Connect(spec, server)), Some(Flow::Incoming(spec, server, client))];
            }
            State::Datagram(_) if spec.kind == Kind::Raw => Some(Flow::Socket(spec)),
            State::Datagram(_) => peer().map(|peer| Flow::Datagram(spec, peer)),
            State::Fresh | State::Listening(_) | State::Ended(_) => None,
        };
        [first, None]
    }

    /// Ends what a socket is doing: whether that could be done, or `None` if there is nothing to end.
    fn end_flow(&mut self, id: SocketId, denial: Denial) -> Option<bool> {
        let socket = self.table.get(id)?;
        match &socket.state {
            State::Connecting(_) => {
                self.abort_handle(id);
                let error = match denial {
                    Denial::AccessDenied => Error::AccessDenied,
                    Denial::Refused => Error::ConnectionRefused,
                };
                self.connect_failed(id, error);
            }
            State::Connected(_) => {
                let local = socket.handle.and_then(|handle| self.stack.local_addr(handle).ok());
                self.abort_handle(id);
                self.fail_stream(id, Error::ConnectionReset);
                if let Some(State::Ended(ended)) = self.table.get_mut(id).map(|socket| &mut socket.state) {
                    ended.local = local;
                }
            }
            State::Joined(joined) => {
                let joined = *joined;
                return self.end_joined(id, joined);
            }
            State::Datagram(_) if socket.spec.kind == Kind::Raw => self.end_raw(id, denial),
            State::Datagram(_) => {
                // What was written before it is ended still belongs to the peer, and is not sent any more.
                let handle = socket.handle;
                self.flow_ended(id, FlowEnd::Killed);
                if let Some(handle) = handle {
                    let _ = self.stack.disconnect(handle);
                }
                if let Some(file) = self.find_file(id) {
                    let _ = self.kernel.unaim(&file);
                    self.kernel.dispose(file);
                }
                let pending = Error::from_errno(denial.errno()).map_or(Pending::None, Pending::Hidden);
                if let Some(socket) = self.table.get_mut(id) {
                    socket.pending = pending;
                }
            }
            State::Fresh | State::Listening(_) | State::Ended(_) => return None,
        }
        Some(true)
    }

    fn abort_handle(&mut self, id: SocketId) {
        self.flow_ended(id, FlowEnd::Killed);
        if let Some(handle) = self.table.set_handle(id, None) {
            self.stack.abort(handle, self.time.now);
        }
    }

    /// Neither end is the sentry's: one of the program's descriptors is shut down, with a mark that makes a reset of it for the
    /// other side.
    fn end_joined(&mut self, id: SocketId, joined: Joined) -> Option<bool> {
        let file = match self.find_file(id) {
            Some(file) => Some(file),
            None => self.find_side(joined.pair.reversed()),
        };
        let Some(file) = file else { return Some(false) };
        if joined.has_ended && self.kernel.has_ended(&file) {
            self.kernel.dispose(file);
            return None;
        }
        let subject = Subject { id, file };
        self.reset_at_close(&subject);
        self.flow_ended(id, FlowEnd::Killed);
        let shut = self.kernel.shut(&subject.file, Shutdown::Both);
        self.kernel.dispose(subject.file);
        if let Some(State::Joined(joined)) = self.table.get_mut(id).map(|socket| &mut socket.state) {
            joined.has_ended = true;
        }
        shut.is_ok().then_some(true)
    }

    fn end_raw(&mut self, id: SocketId, denial: Denial) {
        for parked in self.parked.take_all(id) {
            self.answer(&parked.caller, Err(denial.errno()));
        }
        self.flow_ended(id, FlowEnd::Killed);
        if let Some(handle) = self.table.set_handle(id, None) {
            self.stack.close(handle, self.time.now);
        }
        if let Some(file) = self.find_file(id) {
            let _ = self.kernel.shut(&file, Shutdown::Both);
            self.kernel.dispose(file);
        }
        self.enter(id, State::Ended(Over::Connection.ended()));
    }
}
