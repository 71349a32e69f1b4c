//! Two stacks on a simulated wire, with a clock of the test's own.

mod anything;
mod datagrams;
mod fastopen;
mod hostile;
mod local;
mod measures;
mod nonsense;
mod raw;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netgraft_plugin::link::{FrameMeta, Link, Medium};
use netgraft_plugin::{
    Domain, Error, Event, Events, Handle, InitStackArgs, Instant, Kind, PluginNotifier, PluginStack,
    Protocol, Received, RecvFlags, Result, SendFlags, SocketSpec, Sockets, StackConfig,
};

use crate::SmoltcpStack;

pub(super) const TCP4: SocketSpec =
    SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
pub(super) const TCP6: SocketSpec = SocketSpec { domain: Domain::V6, ..TCP4 };
pub(super) const UDP4: SocketSpec =
    SocketSpec { domain: Domain::V4, kind: Kind::Datagram, protocol: Protocol::Udp };
pub(super) const UDP6: SocketSpec = SocketSpec { domain: Domain::V6, ..UDP4 };

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What happens to a frame.
type Filter = Box<dyn FnMut(usize, &[u8]) -> bool + Send>;

/// Both directions of a wire; the filter says whether a frame from an end passes.
pub(super) struct Wire {
    queues: [VecDeque<Vec<u8>>; 2],
    filter: Filter,
    pub(super) frames: usize,
}

struct End {
    wire: Arc<Mutex<Wire>>,
    end: usize,
}

impl Link for End {
    fn medium(&self) -> Medium {
        Medium::Ethernet([2, 0, 0, 0, 0, self.end as u8 + 1])
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn receive(&mut self, _now: Instant, limit: usize, deliver: &mut dyn FnMut(&[u8])) -> Result<usize> {
        for count in 0..limit {
            let frame = self.wire.lock().unwrap().queues[self.end].pop_front();
            match frame {
                Some(frame) => deliver(&frame),
                None => return Ok(count),
            }
        }
        Ok(limit)
    }
    fn send(&mut self, _now: Instant, frame: &[u8], meta: FrameMeta) -> Result<()> {
        assert!(frame.len() <= 1514, "{} bytes", frame.len());
        assert_eq!(meta.segment_size, 0);
        let mut wire = self.wire.lock().unwrap();
        wire.frames += 1;
        if (wire.filter)(self.end, frame) {
            let other = 1 - self.end;
            wire.queues[other].push_back(frame.to_vec());
        }
        Ok(())
    }
    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }
}

/// Two stacks: 192.0.2.1 and 2001:db8::1, 192.0.2.2 and 2001:db8::2.
pub(super) struct World {
    pub(super) stacks: [SmoltcpStack; 2],
    pub(super) wire: Arc<Mutex<Wire>>,
    pub(super) now: Instant,
}

pub(super) fn alone() -> SmoltcpStack {
    let mut stack = SmoltcpStack::new(StackConfig::default()).unwrap();
    stack.init(InitStackArgs::default()).unwrap();
    stack
}

impl World {
    pub(super) fn new() -> World {
        Self::filtered(|_, _| true)
    }

    pub(super) fn filtered(filter: impl FnMut(usize, &[u8]) -> bool + Send + 'static) -> World {
        Self::with_neighbours([""; 2], filter)
    }

    /// Each stack has one neighbour that the operator has named, or none.
    pub(super) fn with_neighbours(
        neighbours: [&str; 2],
        filter: impl FnMut(usize, &[u8]) -> bool + Send + 'static,
    ) -> World {
        let wire = Wire { queues: Default::default(), filter: Box::new(filter), frames: 0 };
        let wire = Arc::new(Mutex::new(wire));
        let make = |end: usize| {
            let addresses = [format!("192.0.2.{}/24", end + 1), format!("2001:db8::{}/64", end + 1)];
            let config = StackConfig {
                addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
                neighbours: neighbours[end].split_whitespace().map(|n| n.parse().unwrap()).collect(),
                ..StackConfig::default()
            };
            let link = Box::new(End { wire: Arc::clone(&wire), end });
            let mut stack = SmoltcpStack::with_link(config, link).unwrap();
            stack.init(InitStackArgs::default()).unwrap();
            stack
        };
        World { stacks: [make(0), make(1)], wire: Arc::clone(&wire), now: Instant::from_millis(1) }
    }

    /// A frame of somebody else on the wire comes to an end.
    pub(super) fn inject(&mut self, end: usize, frame: &[u8]) {
        self.wire.lock().unwrap().queues[end].push_back(frame.to_vec());
        self.settle();
    }

    pub(super) fn filter(&mut self, filter: impl FnMut(usize, &[u8]) -> bool + Send + 'static) {
        self.wire.lock().unwrap().filter = Box::new(filter);
    }

    /// Runs both until nothing moves at this time.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let frames = self.wire.lock().unwrap().frames;
            for stack in &mut self.stacks {
                stack.poll(self.now);
            }
            let wire = self.wire.lock().unwrap();
            let quiet = wire.frames == frames && wire.queues.iter().all(VecDeque::is_empty);
            if quiet && self.stacks.iter().all(|s| s.next_deadline().is_none_or(|at| at > self.now)) {
                return;
            }
        }
        panic!("the stacks never come to rest");
    }

    /// Lets time pass, from one deadline to the next.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(next) = self.stacks.iter().filter_map(|s| s.next_deadline()).min() {
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    pub(super) fn connect(&mut self, from: usize, spec: SocketSpec, to: &str) -> Handle {
        let handle = self.stacks[from].socket(spec).unwrap();
        assert_eq!(self.stacks[from].connect(handle, addr(to), self.now), Err(Error::InProgress));
        self.settle();
        handle
    }

    pub(super) fn listen(&mut self, on: usize, spec: SocketSpec, at: &str, backlog: u32) -> Handle {
        let handle = self.stacks[on].socket(spec).unwrap();
        self.stacks[on].bind(handle, addr(at)).unwrap();
        self.stacks[on].listen(handle, backlog).unwrap();
        handle
    }

    /// A connection from stack 0 to stack 1.
    pub(super) fn pair(&mut self) -> (Handle, Handle) {
        let listener = self.listen(1, TCP4, "0.0.0.0:80", 16);
        let client = self.connect(0, TCP4, "192.0.2.2:80");
        let (server, _) = self.stacks[1].accept(listener).unwrap();
        (client, server)
    }

    pub(super) fn send(&mut self, on: usize, handle: Handle, data: &[u8]) -> Result<usize> {
        self.stacks[on].send(handle, data, None, SendFlags::empty(), self.now)
    }

    pub(super) fn recv(&mut self, on: usize, handle: Handle) -> Result<Vec<u8>> {
        recv(&mut self.stacks[on], handle, self.now)
    }

    pub(super) fn ready(&self, on: usize, handle: Handle) -> Events {
        self.stacks[on].readiness(handle).unwrap()
    }
}

pub(super) fn recv(stack: &mut SmoltcpStack, handle: Handle, now: Instant) -> Result<Vec<u8>> {
    receive(stack, handle, now).map(|(data, _)| data)
}

pub(super) fn receive(stack: &mut SmoltcpStack, handle: Handle, now: Instant) -> Result<(Vec<u8>, Received)> {
    let mut buf = vec![0; 70_000];
    let got = stack.recv(handle, &mut buf, RecvFlags::empty(), now)?;
    buf.truncate(got.len);
    Ok((buf, got))
}

pub(super) fn events(stack: &mut SmoltcpStack) -> Vec<Event> {
    let mut events = Vec::new();
    stack.drain_events(&mut |event| {
        events.push(event);
        true
    });
    events
}

/// Polls a stack that has no wire until it rests.
pub(super) fn rest(stack: &mut SmoltcpStack, now: Instant) {
    for _ in 0..100_000 {
        stack.poll(now);
        if stack.next_deadline().is_none_or(|at| at > now) {
            return;
        }
    }
    panic!("the stack never comes to rest");
}

/// Registers for events.
pub(super) fn watch(stack: &mut SmoltcpStack, handle: Handle, mask: Events) {
    stack.add_fd(handle, mask).unwrap();
}
