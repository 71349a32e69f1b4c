//! A stack with something that drives it, on the machine's clock.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use netgraft_abi::Loaded;
use netgraft_linux::fdpass::wait_readable;
use netgraft_plugin::stack::SetupError;
use netgraft_plugin::{
    Domain, Error, Event, Events, Handle, InitStackArgs, Instant, Kind, PluginStack, PreInitStackArgs,
    Protocol, Received, RecvFlags, Result, SendFlags, SocketSpec, StackConfig,
};

pub(crate) const TCP: SocketSpec =
    SocketSpec { domain: Domain::V4, kind: Kind::Stream, protocol: Protocol::Tcp };
pub(crate) const UDP: SocketSpec =
    SocketSpec { domain: Domain::V4, kind: Kind::Datagram, protocol: Protocol::Udp };
pub(crate) const NOW: Instant = Instant::ZERO;
const ALL: Events = Events::IN.union(Events::OUT).union(Events::RDHUP);

/// A stack that is up.
pub(crate) struct Rig {
    pub(crate) object: Arc<Loaded>,
    pub(crate) stack: Box<dyn PluginStack>,
    /// Every event that has come.
    pub(crate) events: Vec<Event>,
}

impl Rig {
    /// Sets an object up as a launcher and a sentry do.
    pub(crate) fn try_new(object: &Path, argument: Option<&str>) -> Result<Rig, SetupError> {
        let object = Arc::new(crate::common::load_trusted(object).unwrap());
        let config = StackConfig { argument: argument.map(str::to_owned), ..StackConfig::default() };
        let factory = object.factory();
        let _alone = crate::common::alone();
        let pre = factory(&config)?.pre_init(PreInitStackArgs { pid: std::process::id() })?;
        let mut stack = factory(&config)?;
        stack.prepare()?;
        stack.init(InitStackArgs { init_str: pre.init_str, fds: pre.fds, now: NOW })?;
        Ok(Rig { object, stack, events: Vec::new() })
    }

    pub(crate) fn new(object: &Path, argument: Option<&str>) -> Rig {
        Rig::try_new(object, argument).unwrap()
    }

    /// Waits a moment for something to happen, and lets the stack work.
    pub(crate) fn step(&mut self) -> Vec<Event> {
        let first = self.stack.wake_fds().first().map(|wake| wake.fd.try_clone_to_owned().unwrap());
        let fd = first.as_ref().map(std::os::fd::AsFd::as_fd);
        wait_readable([fd], Some(Duration::from_millis(10))).unwrap();
        self.stack.poll(NOW);
        let mut events = Vec::new();
        self.stack.drain_events(&mut |event| {
            events.push(event);
            true
        });
        self.events.extend(&events);
        events
    }

    /// Works until `ready` answers.
    pub(crate) fn until<T>(&mut self, what: &str, mut ready: impl FnMut(&mut Rig) -> Option<T>) -> T {
        let deadline = Clock::now() + Duration::from_secs(5);
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            assert!(Clock::now() < deadline, "nothing within 5 s: {what}");
            self.step();
        }
    }

    /// Waits for events of a socket that have all of `events`.
    pub(crate) fn wait(&mut self, handle: Handle, events: Events) {
        self.until(&format!("{events:?}"), |rig| {
            let place = rig.events.iter().position(|e| e.handle == handle && e.events.contains(events))?;
            rig.events.remove(place);
            Some(())
        });
    }

    pub(crate) fn listener(&mut self) -> (Handle, SocketAddr) {
        let listener = self.stack.socket(TCP).unwrap();
        self.stack.bind(listener, "127.0.0.1:0".parse().unwrap()).unwrap();
        self.stack.listen(listener, 16).unwrap();
        self.stack.add_fd(listener, Events::IN).unwrap();
        (listener, self.stack.local_addr(listener).unwrap())
    }

    /// A connection: the ends of who connected and who accepted, both registered for everything.
    pub(crate) fn connection(&mut self) -> (Handle, Handle) {
        let (listener, addr) = self.listener();
        let client = self.stack.socket(TCP).unwrap();
        match self.stack.connect(client, addr, NOW) {
            Ok(()) | Err(Error::InProgress) => {}
            Err(error) => panic!("connect: {error}"),
        }
        self.stack.add_fd(client, ALL).unwrap();
        let (server, _) = self.until("a connection", |rig| again(rig.stack.accept(listener)));
        self.stack.add_fd(server, ALL).unwrap();
        self.wait(client, Events::OUT);
        self.stack.close(listener, NOW).unwrap();
        (client, server)
    }

    pub(crate) fn send(&mut self, handle: Handle, data: &[u8]) -> Result<usize> {
        self.stack.send(handle, data, None, SendFlags::empty(), NOW)
    }

    pub(crate) fn recv(&mut self, handle: Handle, buf: &mut [u8]) -> Result<Received> {
        self.stack.recv(handle, buf, RecvFlags::empty(), NOW)
    }

    /// Sends everything and receives it at the other end, as events say; how many sends it took.
    pub(crate) fn transfer(&mut self, from: Handle, to: Handle, data: &[u8]) -> usize {
        let (mut sent, mut got, mut calls) = (0, Vec::new(), 0);
        let mut buf = vec![0; 65536];
        self.until("the data", |rig| {
            while sent < data.len() {
                calls += 1;
                match again(rig.send(from, &data[sent..])) {
                    Some(count) => sent += count,
                    None => break,
                }
            }
            while let Some(received) = again(rig.recv(to, &mut buf)) {
                got.extend_from_slice(&buf[..received.len]);
            }
            (got.len() == data.len()).then_some(())
        });
        assert!(got == data, "the bytes that were sent");
        calls
    }
}

/// Success, or nothing yet.
pub(crate) fn again<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Again) => None,
        Err(error) => panic!("{error}"),
    }
}
