//! Which function serves which call, and calls that are served again.

use netgraft_plugin::Instant;
use netgraft_sentry::call::Call;
use netgraft_sentry::sockopt::Direction;

use super::caller::Caller;
use super::engine::{Answer, Engine, Outcome};
use super::parked::Parked;
use super::table::SocketId;

/// What is known of a parked call when it is served again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumed {
    deadline: Option<Instant>,
    /// Messages that were received before (recvmmsg(2)).
    pub(super) progress: u32,
}

impl Engine {
    /// Serves a call.
    pub(super) fn serve(&mut self, caller: &Caller, call: Call) -> Outcome {
        tracing::trace!(tid = caller.tid, ?call);
        if self.host.is_some() && !matches!(call, Call::Socket { .. }) {
            return self.serve_host(caller, call);
        }
        match call {
            Call::Socket { domain, kind, protocol } => self.socket(caller, domain, kind, protocol),
            Call::Bind { fd, addr } => self.bind(caller, fd, addr),
            Call::Listen { fd, backlog } => self.listen(caller, fd, backlog),
            Call::Accept { fd, addr, flags } => self.accept(caller, call, fd, addr, flags),
            Call::Connect { fd, addr } => self.connect(caller, call, fd, addr),
            Call::GetSockName { fd, addr } => self.getsockname(caller, fd, addr),
            Call::GetPeerName { fd, addr } => self.getpeername(caller, fd, addr),
            Call::Shutdown { fd, how } => self.shutdown(caller, fd, how),
            Call::GetSockOpt { fd, level, name, value, len } => {
                self.getsockopt(caller, fd, level, name, value, len)
            }
            Call::SetSockOpt { fd, level, name, value } => self.setsockopt(caller, fd, level, name, value),
            Call::SendTo { fd, data, flags, addr } => self.sendto(caller, call, fd, data, flags, addr),
            Call::RecvFrom { fd, data, flags, addr } => self.recvfrom(caller, call, fd, data, flags, addr),
            Call::SendMsg { fd, message, flags } => self.sendmsg(caller, call, fd, message, flags),
            Call::RecvMsg { fd, message, flags } => self.recvmsg(caller, call, fd, message, flags),
            Call::SendMMsg { fd, messages, count, flags } => {
                self.sendmmsg(caller, call, fd, messages, count, flags)
            }
            Call::RecvMMsg { .. } => self.recvmmsg(caller, call),
            Call::Ioctl { fd, request, argument } => self.ioctl(caller, fd, request, argument),
        }
    }

    /// Parks a call until something happens on the socket, or its time-out comes.
    pub(super) fn park(&mut self, caller: &Caller, call: Call, id: SocketId, direction: Direction) -> Answer {
        self.park_with_progress(caller, call, id, direction, 0)
    }

    /// Parks a call that has done a part.
    pub(super) fn park_with_progress(
        &mut self,
        caller: &Caller,
        call: Call,
        id: SocketId,
        direction: Direction,
        progress: u32,
    ) -> Answer {
        let deadline = match self.resumed {
            Some(resumed) => resumed.deadline,
            None => self.table.get(id).and_then(|s| s.timeout(direction)).map(|t| self.now + t),
        };
        self.parked.park(id, Parked { caller: *caller, call, deadline, progress });
        Answer::Done
    }

    /// Serves the parked calls of a socket again, those that `wanted` picks, until one has to wait on.
    pub(super) fn serve_parked(&mut self, id: SocketId, wanted: impl Fn(&Call) -> bool) {
        while let Some(parked) = self.parked.first(id, &wanted) {
            self.parked.forget_thread(parked.caller.tid);
            if !self.listener.is_waiting(parked.caller.id) {
                // Interrupted or dead.
                continue;
            }
            self.resumed = Some(Resumed { deadline: parked.deadline, progress: parked.progress });
            let outcome = self.serve(&parked.caller, parked.call);
            self.resumed = None;
            let waits_on = self.parked.is_parked(id, &parked.caller);
            self.answer(&parked.caller, outcome);
            if waits_on {
                return;
            }
        }
    }
}
