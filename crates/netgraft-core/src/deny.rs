//! What the router denies: asked in one place, and told to the operator.

use netgraft_plugin::{Handle, Instant, Kind, SocketSpec};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::core::{Core, Kernel};
use crate::policy::{Heard, protocol_of};
use crate::program::Caller;
use crate::route::{Flow, Route, Router};
use crate::stack::Stack;
use crate::uapi::Errno;

/// How many denials are told of at once, and in a second after that.
const AT_ONCE: u32 = 20;
const A_SECOND: u32 = 5;

/// Bounds how often something is told of that a program can bring about as often as it likes.
#[derive(Debug)]
pub(crate) struct Bucket {
    at_once: u32,
    a_second: u32,
    left: u32,
    refilled: Instant,
    /// What there was since one was last told of.
    untold: u64,
}

impl Bucket {
    /// Tells of so many at once, and of so many in a second after that.
    pub(crate) fn new(at_once: u32, a_second: u32) -> Bucket {
        Bucket { at_once, a_second, left: at_once, refilled: Instant::ZERO, untold: 0 }
    }

    /// Counts one. `None` if it is not told of; else how many were not told of before it.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        let seconds = now.since(self.refilled).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(self.a_second);
            self.left = self.left.saturating_add(more).min(self.at_once);
            self.refilled = self.refilled + Duration::from_secs(seconds);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.untold))
            }
            None => {
                self.untold += 1;
                None
            }
        }
    }
}

/// What was denied.
#[derive(Debug)]
pub(crate) struct Denials {
    /// Bounds the messages about it.
    told: Bucket,
    /// All that were denied.
    pub(crate) total: u64,
}

impl Default for Denials {
    fn default() -> Denials {
        Denials { told: Bucket::new(AT_ONCE, A_SECOND), total: 0 }
    }
}

impl Denials {
    /// Counts one. `None` if it is not told of; else how many were not told of before it.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.total += 1;
        self.told.note(now)
    }
}

impl<K: Kernel> Core<K> {
    /// Where a flow of a call goes. What is denied is told to the operator.
    pub(crate) fn route(&mut self, caller: &Caller, flow: &Flow) -> Route {
        let decided = self.decided(flow);
        let route = self.router.route(&decided);
        if matches!(route, Route::Denied(_)) {
            self.note_denied(Some(caller), &decided);
        }
        route
    }

    /// The flow that is decided on: to an address of the stack's own it stays in the sandbox, and is decided as what goes over
    /// its loopback.
    pub(crate) fn decided(&self, flow: &Flow) -> Flow {
        let inner = if self.router.own_is_loopback() {
            flow.within(|ip| !ip.is_loopback() && self.is_own(ip))
        } else {
            None
        };
        inner.unwrap_or(*flow)
    }

    /// Asks where a datagram of a socket goes, and refuses what is denied and answers nobody.
    pub(crate) fn require_datagram(
        &mut self,
        caller: &Caller,
        handle: Handle,
        (spec, to): (SocketSpec, SocketAddr),
    ) -> Result<(), Errno> {
        let flow = Flow::Datagram(spec, to);
        // An answer to who was let in; but no rule is passed by that.
        if !self.router.is_open()
            && !self.router.decides_by_rule(&flow)
            && self
                .stack
                .local_addr(handle)
                .is_ok_and(|local| self.heard.has(protocol_of(spec), local.port(), to))
        {
            return Ok(());
        }
        self.require_stack(caller, &flow)
    }

    /// Whether what has come is to be dropped, a connection or a datagram.
    pub(crate) fn is_unwanted(&mut self, spec: SocketSpec, handle: Handle, peer: Option<SocketAddr>) -> bool {
        let asked = Asked { router: self.router.as_mut(), stack: &self.stack, heard: &mut self.heard };
        match incoming(asked, (spec, handle), peer) {
            Some(flow) => {
                self.note_denied(None, &flow);
                true
            }
            None => false,
        }
    }

    /// Tells the operator, within bounds.
    pub(crate) fn tell_denied(&mut self, caller: Option<&Caller>, flow: &Flow) {
        let Some(untold) = self.denials.note(self.time.now) else { return };
        let who = caller.and_then(|caller| self.kernel.title(caller.tid)).unwrap_or_else(|| "-".to_owned());
        let what = flow_text(flow);
        let why = self.router.reason(flow).unwrap_or_default();
        let more = if untold == 0 { String::new() } else { format!(" ({untold} more were denied before)") };
        tracing::warn!("denied: {who} {what}: {why}{more}");
    }
}

/// What is asked about what comes in.
pub(crate) struct Asked<'a> {
    pub(crate) router: &'a mut dyn Router,
    pub(crate) stack: &'a Stack,
    pub(crate) heard: &'a mut Heard,
}

/// A flow that has come, if it is denied.
pub(crate) fn incoming(
    Asked { router, stack, heard }: Asked<'_>,
    (spec, handle): (SocketSpec, Handle),
    peer: Option<SocketAddr>,
) -> Option<Flow> {
    if router.is_open() {
        return None;
    }
    // What is not known is nobody's.
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let local = stack.local_addr(handle).unwrap_or(nobody);
    let peer = peer.unwrap_or(nobody);
    let flow = Flow::Incoming(spec, local, peer);
    let is_own = |ip: IpAddr| !ip.is_loopback() && stack.is_own(ip);
    let inner = if router.own_is_loopback() { flow.within(is_own) } else { None };
    let decided = inner.unwrap_or(flow);
    if matches!(router.route(&decided), Route::Denied(_)) {
        return Some(decided);
    }
    if spec.kind == Kind::Datagram && local.port() != 0 && router.decides_by_rule(&decided) {
        heard.note(protocol_of(spec), local.port(), peer);
    }
    None
}

fn flow_text(flow: &Flow) -> String {
    let protocol = protocol_of(flow.spec());
    match *flow {
        Flow::Socket(_) => format!("{protocol} socket"),
        Flow::Connect(_, addr) | Flow::Datagram(_, addr) => format!("out {protocol} {addr}"),
        Flow::Bind(_, addr) => format!("bind {protocol} {addr}"),
        Flow::Listen(_) => format!("listen {protocol}"),
        Flow::Incoming(_, local, peer) => format!("in {protocol} {peer} to {local}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_bounded_and_what_was_not_told_is_counted() {
        let mut denials = Denials::default();
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let told = (0..1000).filter(|_| denials.note(at(0)).is_some()).count();
        assert_eq!(told, AT_ONCE as usize);
        assert_eq!(denials.note(at(1)), Some(1000 - u64::from(AT_ONCE)));
        let told = (0..1000).filter(|_| denials.note(at(1)).is_some()).count();
        assert_eq!(told, A_SECOND as usize - 1);
        let told = (0..1000).filter(|_| denials.note(at(1000)).is_some()).count();
        assert_eq!(told, AT_ONCE as usize);
        assert_eq!(denials.total, 3001);
    }
}
