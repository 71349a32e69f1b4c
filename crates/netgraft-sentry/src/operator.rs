//! Operators who are connected to the sentry ([`netgraft_launch::operator`]): what they ask, and what they are answered.
//!
//! One of them may be anything that the caller has started. It has a descriptor, a request of bounded length and an answer
//! that is made as fast as it is read, and no longer than a part of it. Nothing here waits.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use netgraft_core::policy::{Loopback, MOST_RULES, Policy, PolicyRouter, PolicySpec};
use netgraft_core::route::ByKind;
use netgraft_core::{Core, EndedFlows, Inspected};
use netgraft_launch::control::{FromSentry, LinkSetting, RULES_A_PART};
use netgraft_launch::operator::{
    Answer, Answered, Asked, Behind, Direction, Info, LinkChange, LinkState, MOST_REQUEST, Request,
    SocketLine, VERSION,
};
use netgraft_linux::filter::Sockets;
use netgraft_linux::unix;
use netgraft_plugin::faults::{Counts, Faults, LinkFaults, LinkReport};
use netgraft_plugin::{Events, Protocol, TcpState};

use crate::bindings::Bindings;
use crate::figures::figures;
use crate::poller::{Poller, Token};

/// How many there may be at a time.
const MOST_CLIENTS: usize = 16;
/// How much is read from one of them in a round.
const READ: usize = 64 << 10;
/// How many places of the table are looked at for a part of an answer.
const SOCKETS_A_PART: usize = 128;

/// How many requests of one of them are answered before others have their turn.
const REQUESTS_A_TURN: usize = 16;

/// An answer that has more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    /// Sockets, from this place of the table on.
    Sockets(usize),
    /// Flows that are to be ended, from this place of the table on, and what became of those before.
    Kill(usize, EndedFlows),
}

/// What an operator can change, or cannot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ways {
    /// What stands behind the programs' sockets.
    pub(crate) sockets: Sockets,
    /// Whether datagrams pass over private links, past the rules.
    pub(crate) is_private: bool,
    /// Whether the stack's network, its loopback too, is the host's own.
    pub(crate) of_host: bool,
    /// Where goes what no rule denies.
    pub(crate) routes: ByKind,
}

/// One who is connected.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// What it has sent and is not answered yet.
    input: Vec<u8>,
    /// What it is still to be sent.
    output: Vec<u8>,
    /// What is to follow that.
    more: Option<More>,
    /// Whether it is to be reported when it reads, and not when it writes.
    is_written: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Operators {
    clients: HashMap<u32, Client>,
    next: u32,
    ways: Ways,
    /// Rounds of the sentry's loop.
    pub(crate) rounds: u64,
}

/// A connection is over, in order or not.
struct Over;

impl Operators {
    /// None yet.
    pub(crate) fn new(ways: Ways) -> Operators {
        Operators { clients: HashMap::new(), next: 0, ways, rounds: 0 }
    }

    /// Takes one over, unless there are as many as there may be.
    pub(crate) fn admit(&mut self, socket: OwnedFd, poller: &Poller) {
        if self.clients.len() >= MOST_CLIENTS {
            let answer = Answer::Error { text: format!("the sandbox serves {MOST_CLIENTS} clients already") };
            let _ = unix::send(socket.as_fd(), &line(answer));
            return;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        if poller.add(socket.as_fd(), Events::IN, Token::Operator(number)).is_ok() {
            let (input, output) = (Vec::new(), Vec::new());
            self.clients.insert(number, Client { socket, input, output, more: None, is_written: false });
        }
    }

    /// One of them has sent something, has read something, or is gone.
    pub(crate) fn ready(&mut self, number: u32, core: &mut Core<Bindings>) {
        let Some(mut client) = self.clients.remove(&number) else { return };
        let poller = std::sync::Arc::clone(&core.kernel().poller);
        if self.serve(&mut client, core).and_then(|()| client.await_next(number, &poller)).is_ok() {
            self.clients.insert(number, client);
        } else {
            poller.remove(client.socket.as_fd());
        }
    }

    /// Reads if nothing is to be answered, answers, and sends what there is room for.
    fn serve(&self, client: &mut Client, core: &mut Core<Bindings>) -> Result<(), Over> {
        if client.output.is_empty() && client.more.is_none() && !client.has_request() {
            client.read()?;
        }
        for _ in 0..REQUESTS_A_TURN {
            client.write()?;
            if !client.output.is_empty() {
                return Ok(());
            }
            match client.more.take() {
                Some(more) => {
                    self.go_on(client, more, core);
                    // The others have their turn before the rest.
                    return client.write();
                }
                None => match client.take_request()? {
                    Some(request) => self.answer(client, &request, core),
                    None => return Ok(()),
                },
            }
        }
        client.write()
    }

    /// Answers a request, or begins to.
    fn answer(&self, client: &mut Client, request: &[u8], core: &mut Core<Bindings>) {
        let asked = match serde_json::from_slice::<Asked>(request) {
            Ok(asked) if asked.v == VERSION => asked.request,
            Ok(asked) => {
                let text = format!("version {} is not spoken here, but version {VERSION}", asked.v);
                return client.say(Answer::Error { text });
            }
            Err(error) => return client.say(Answer::Error { text: format!("no request: {error}") }),
        };
        match asked {
            Request::Info => client.say(Answer::Info(self.info(core))),
            Request::Sockets => client.more = Some(More::Sockets(0)),
            Request::Metrics => client.say(Answer::Metrics(figures(core, self.rounds))),
            Request::SetPolicy { policy, kill } => match self.set_policy(policy, core) {
                Ok(()) if kill => client.more = Some(More::Kill(0, EndedFlows::default())),
                Ok(()) => client.say(Answer::PolicySet { ended: 0, left: 0 }),
                Err(text) => client.say(Answer::Error { text }),
            },
            Request::Link(change) => client.say(match self.link(&change, core) {
                Ok(state) => Answer::Link(state),
                Err(text) => Answer::Error { text },
            }),
            _ => client.say(Answer::Error { text: "this sentry does not know that request".to_owned() }),
        }
    }

    /// The next part of an answer that has several.
    fn go_on(&self, client: &mut Client, more: More, core: &mut Core<Bindings>) {
        match more {
            More::Sockets(from) => {
                let (sockets, next) = core.inspect(from, SOCKETS_A_PART);
                for socket in sockets {
                    client.say(Answer::Socket(socket_line(&socket)));
                }
                match next {
                    Some(next) => client.more = Some(More::Sockets(next)),
                    None => client.say(Answer::Done),
                }
            }
            More::Kill(from, before) => {
                let (some, next) = core.end_denied(from, SOCKETS_A_PART);
                let all = EndedFlows { ended: before.ended + some.ended, left: before.left + some.left };
                match next {
                    Some(next) => client.more = Some(More::Kill(next, all)),
                    None => client.say(Answer::PolicySet { ended: all.ended, left: all.left }),
                }
            }
        }
    }

    /// Has other rules kept from now on, by a sentry that takes over as well.
    fn set_policy(&self, mut policy: PolicySpec, core: &mut Core<Bindings>) -> Result<(), String> {
        if policy.is_empty() {
            return Err("there is neither a rule nor a default: that would allow everything".to_owned());
        }
        if policy.rules.len() > MOST_RULES {
            return Err(format!("there are more than {MOST_RULES} rules"));
        }
        if self.ways.of_host {
            policy.loopback = Loopback::OfHost;
        }
        let compiled = Policy::new(policy);
        let text = match self.ways.sockets {
            Sockets::Host => {
                "its sockets are the host's, since it was started without rules: start it with --policy"
            }
            Sockets::StreamSurrogates if self.ways.is_private => {
                "its datagrams go past rules, since it was started without any: start it with --policy, or with --datagrams stack"
            }
            Sockets::StreamSurrogates if compiled.concerns_loopback_datagrams() => {
                "its datagrams stay on its loopback and go past rules, since it was started without any about them: start it with --policy, or with --datagrams stack"
            }
            _ => {
                tell_launcher(core, compiled.spec()).map_err(|error| error.to_string())?;
                let policy = Arc::new(compiled);
                core.set_router(Box::new(PolicyRouter { routes: self.ways.routes, policy }));
                return Ok(());
            }
        };
        Err(text.to_owned())
    }

    /// Changes the faults of the link, if there is something to change, and says what they are.
    fn link(&self, change: &LinkChange, core: &mut Core<Bindings>) -> Result<LinkState, String> {
        let report =
            |core: &Core<Bindings>| core.stack().link_report().ok_or_else(|| self.without_faults(core));
        let current = report(core)?;
        if *change == LinkChange::default() {
            return Ok(link_state(&current));
        }
        let LinkFaults { mut incoming, mut outgoing } =
            if change.reset { LinkFaults::default() } else { current.faults };
        for (way, faults, text) in
            [("in", &mut incoming, &change.incoming), ("out", &mut outgoing, &change.outgoing)]
        {
            faults.change(text).and_then(|()| faults.check()).map_err(|error| format!("{way}: {error}"))?;
        }
        let faults = LinkFaults { incoming, outgoing };
        core.set_link_faults(faults, change.seed)
            .map_err(|error| format!("the stack refuses that: {error}"))?;
        let state = link_state(&report(core)?);
        let setting = LinkSetting {
            incoming: state.incoming.faults.clone(),
            outgoing: state.outgoing.faults.clone(),
            seed: state.seed,
        };
        // For a sentry that takes over; this one has what it was told.
        let _ = core.kernel().launcher.send(&FromSentry::Link(setting));
        Ok(state)
    }

    /// Why there are no faults to change.
    fn without_faults(&self, core: &Core<Bindings>) -> String {
        let stack = core.stack();
        if matches!(self.ways.sockets, Sockets::Host) {
            return "its sockets are the host's, so it has no link of its own".to_owned();
        }
        if stack.interfaces().iter().all(|interface| interface.loopback) {
            return "it has no link: 'netgraft run --link' gives it one".to_owned();
        }
        format!(
            "the stack {} has its device itself: start the sandbox with --link-delay 0ms, so that netgraft carries the frames",
            stack.info().name
        )
    }

    fn info(&self, core: &Core<Bindings>) -> Info {
        let stack = core.stack();
        let own = stack.info();
        let interfaces = stack.interfaces().into_iter().filter(|interface| !interface.loopback).take(64);
        let interfaces = interfaces.map(|interface| {
            let addresses = interface.addresses.iter().take(64).map(ToString::to_string).collect();
            (interface.name, addresses)
        });
        Info {
            stack: own.name,
            stack_version: own.version,
            interfaces: interfaces.collect(),
            sockets: core.sockets() as u64,
            behind: match self.ways.sockets {
                Sockets::Host => Behind::Host,
                Sockets::Surrogates => Behind::Stack,
                Sockets::StreamSurrogates => Behind::StackAndKernel,
            },
        }
    }
}

impl Client {
    fn read(&mut self) -> Result<(), Over> {
        let begin = self.input.len();
        let room = MOST_REQUEST.saturating_sub(begin).min(READ);
        self.input.resize(begin + room, 0);
        let got = unix::recv(self.socket.as_fd(), self.input.get_mut(begin..).unwrap_or_default(), 0);
        self.input.truncate(begin + *got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => Err(Over),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Over),
        }
    }

    fn has_request(&self) -> bool {
        self.input.contains(&b'\n')
    }

    /// The next request, without its end of line. One that is too long ends the connection.
    fn take_request(&mut self) -> Result<Option<Vec<u8>>, Over> {
        let Some(end) = self.input.iter().position(|&byte| byte == b'\n') else {
            return if self.input.len() >= MOST_REQUEST { Err(Over) } else { Ok(None) };
        };
        let rest = self.input.split_off(end + 1);
        let mut request = std::mem::replace(&mut self.input, rest);
        request.truncate(end);
        Ok(Some(request))
    }

    fn say(&mut self, answer: Answer) {
        self.output.extend(line(answer));
    }

    fn write(&mut self) -> Result<(), Over> {
        while !self.output.is_empty() {
            match unix::send(self.socket.as_fd(), &self.output) {
                Ok(n) => {
                    self.output.drain(..n.min(self.output.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Over),
            }
        }
        Ok(())
    }

    /// Has it reported when there is room for the rest, or when it asks again.
    fn await_next(&mut self, number: u32, poller: &Poller) -> Result<(), Over> {
        let is_written = !self.output.is_empty() || self.more.is_some() || self.has_request();
        if self.is_written != is_written {
            self.is_written = is_written;
            let events = if is_written { Events::OUT } else { Events::IN };
            poller.change(self.socket.as_fd(), events, Token::Operator(number)).map_err(|_| Over)?;
        }
        Ok(())
    }
}

/// Tells the launcher which rules there are now, in parts that fit into a message.
fn tell_launcher(core: &mut Core<Bindings>, policy: &PolicySpec) -> io::Result<()> {
    let mut parts = policy.rules.chunks(RULES_A_PART).peekable();
    loop {
        let rules = parts.next().unwrap_or_default().to_vec();
        let more = parts.peek().is_some();
        let spec = PolicySpec { rules, ..*policy };
        core.kernel().launcher.send(&FromSentry::Policy { spec, more })?;
        if !more {
            return Ok(());
        }
    }
}

fn link_state(report: &LinkReport) -> LinkState {
    let direction = |faults: &Faults, counts: &Counts| Direction {
        faults: faults.to_string(),
        frames: counts.frames,
        overflowed: counts.overflowed,
        lost: counts.lost,
        corrupted: counts.corrupted,
        duplicated: counts.duplicated,
        reordered: counts.reordered,
    };
    LinkState {
        incoming: direction(&report.faults.incoming, &report.incoming),
        outgoing: direction(&report.faults.outgoing, &report.outgoing),
        seed: report.seed,
    }
}

/// A message, with its end of line.
fn line(answer: Answer) -> Vec<u8> {
    // A message of ours is JSON in any case.
    let mut bytes = serde_json::to_vec(&Answered::new(answer)).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn socket_line(socket: &Inspected) -> SocketLine {
    let (protocol, is_tcp) = match socket.spec.protocol {
        Protocol::Tcp => ("tcp", true),
        Protocol::Udp => ("udp", false),
        Protocol::Icmp => ("icmp", false),
        Protocol::Icmpv6 => ("icmp6", false),
        Protocol::Raw(_) => ("raw", false),
    };
    SocketLine {
        protocol: protocol.to_owned(),
        state: state_name(socket.state, is_tcp).to_owned(),
        local: socket.local,
        peer: socket.peer,
        received: socket.received,
        unsent: socket.unsent,
        joined: socket.joined,
        process: socket.owner,
        descriptor: socket.seen.map(|seen| seen.fd),
    }
}

/// As ss(8) prints it.
fn state_name(state: TcpState, is_tcp: bool) -> &'static str {
    match state {
        TcpState::Established => "ESTAB",
        TcpState::SynSent => "SYN-SENT",
        TcpState::SynReceived => "SYN-RECV",
        TcpState::FinWait1 => "FIN-WAIT-1",
        TcpState::FinWait2 => "FIN-WAIT-2",
        TcpState::TimeWait => "TIME-WAIT",
        TcpState::Closed if is_tcp => "CLOSE",
        TcpState::Closed => "UNCONN",
        TcpState::CloseWait => "CLOSE-WAIT",
        TcpState::LastAck => "LAST-ACK",
        TcpState::Listen => "LISTEN",
        TcpState::Closing => "CLOSING",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn client() -> (UnixStream, Client) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (input, output) = (Vec::new(), Vec::new());
        (ours, Client { socket: theirs.into(), input, output, more: None, is_written: false })
    }

    #[test]
    fn requests_are_lines_whatever_they_are_cut_into() {
        let (mut ours, mut client) = client();
        for part in ["{\"v\":1", ",\"ask\":\"info\"}\n{}\n", "x"] {
            ours.write_all(part.as_bytes()).unwrap();
            assert!(client.read().is_ok());
        }
        let request = client.take_request().ok().flatten().unwrap();
        assert_eq!(serde_json::from_slice::<Asked>(&request).unwrap(), Asked::new(Request::Info));
        assert_eq!(client.take_request().ok().flatten().unwrap(), b"{}");
        assert!(client.take_request().ok().flatten().is_none());
        assert_eq!(client.input, b"x");
        drop(ours);
        assert!(client.read().is_err());
    }

    #[test]
    fn a_request_without_an_end_is_cut_off() {
        let (mut ours, mut client) = client();
        let writer = std::thread::spawn(move || {
            let _ = ours.write_all(&vec![b'a'; MOST_REQUEST + 1]);
        });
        let mut rounds = 0;
        while client.take_request().is_ok() {
            assert!(client.read().is_ok());
            rounds += 1;
            assert!(rounds < 10_000_000 && client.input.len() <= MOST_REQUEST);
        }
        assert_eq!(client.input.len(), MOST_REQUEST);
        drop(client);
        writer.join().unwrap();
    }

    #[test]
    fn one_who_does_not_read_is_not_waited_for() {
        let (mut ours, mut client) = client();
        for _ in 0..20_000 {
            client.say(Answer::Done);
        }
        let all = client.output.len();
        assert!(client.write().is_ok());
        let left = client.output.len();
        assert!(0 < left && left < all, "the kernel takes a part");
        let mut read = vec![0; all - left];
        ours.read_exact(&mut read).unwrap();
        assert!(read.starts_with(b"{\"v\":1,\"is\":\"done\"}\n"));
        drop(ours);
        assert!(client.write().is_err());
    }

    #[test]
    fn states_are_those_of_ss() {
        assert_eq!(state_name(TcpState::Closed, true), "CLOSE");
        assert_eq!(state_name(TcpState::Closed, false), "UNCONN");
        assert_eq!(state_name(TcpState::Established, false), "ESTAB");
    }
}
