//! Level 1 objects that break the contract, and what becomes of it.

use std::io::{IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::OnceLock;

use netgraft_linux::process::{Change, Wait, fork, wait};
use netgraft_plugin::data::{copy_from, copy_into};
use netgraft_plugin::{
    Batch, Datagram, Error, Events, LinkConfig, Received, SendFlags, Spare, Spill, StackConfig, Streamed,
};

use crate::common;
use crate::rig::{NOW, Rig, TCP, UDP, again};

fn hostile() -> PathBuf {
    static OBJECT: OnceLock<PathBuf> = OnceLock::new();
    OBJECT.get_or_init(|| common::build("level1_hostile", "hostile.c", &[])).clone()
}

fn rig(fault: &str) -> Rig {
    Rig::new(&hostile(), Some(fault))
}

fn refused(fault: &str) -> String {
    Rig::try_new(&hostile(), Some(fault)).err().unwrap().to_string()
}

#[test]
fn several_instances_live_in_one_process() {
    let object = common::build("level1_loop", "loop.c", &[]);
    let (mut a, mut b) = (Rig::new(&object, None), Rig::new(&object, None));
    let (client, server) = a.connection();
    let (other, _) = b.connection();
    a.transfer(client, server, &[5; 300_000]);
    assert_eq!(b.stack.queued_in(other), Ok(0));
    drop(a);
    assert!(b.stack.socket(TCP).is_ok());
    b.stack.destroy();
    assert_eq!(b.stack.socket(TCP), Err(Error::NetworkDown));
}

#[test]
fn what_the_operator_chose_reaches_the_stack() {
    let object =
        std::sync::Arc::new(crate::common::load(&common::build("level1_config", "loop.c", &[])).unwrap());
    let config = StackConfig { link: LinkConfig::tap("t0".parse().unwrap()), ..StackConfig::default() };
    let mut stack = object.factory()(&config).unwrap();
    let error = stack.init(Default::default()).err().unwrap().to_string();
    let reason = "it has a loopback only: leave --link, --address and --gateway out";
    assert_eq!(error, format!("the stack liblevel1_config.so refuses its configuration: {reason}"));
}

#[test]
fn nonsense_is_an_error_and_no_more() {
    let mut buf = [0; 16];
    assert_eq!(rig("socket:error").stack.socket(TCP), Err(Error::Io));
    let mut twice = rig("socket:again");
    twice.stack.socket(TCP).unwrap();
    assert_eq!(twice.stack.socket(TCP), Err(Error::Io));
    for fault in ["send:length", "send:error"] {
        let mut send = rig(fault);
        let (client, _) = send.connection();
        assert_eq!(send.send(client, b"abc"), Err(Error::Io));
    }
    for fault in ["recv:length", "recv:address"] {
        let mut recv = rig(fault);
        let (client, server) = recv.connection();
        recv.send(client, b"abc").unwrap();
        assert_eq!(recv.recv(server, &mut buf), Err(Error::Io));
    }
    for fault in ["accept:handle", "accept:address", "accept:error"] {
        let mut accept = rig(fault);
        let (listener, addr) = accept.listener();
        let client = accept.stack.socket(TCP).unwrap();
        let _ = accept.stack.connect(client, addr, NOW);
        assert_eq!(accept.stack.accept(listener), Err(Error::Io), "{fault}");
    }
    for fault in ["interfaces:length", "interfaces:address"] {
        assert!(rig(fault).stack.interfaces().is_empty(), "{fault}");
    }
}

/// A list that is always longer than the room for it is given up after a few calls.
#[test]
fn a_list_that_grows_without_end_is_an_error() {
    let rig = rig("interfaces:grow");
    let before = rig.object.current_call().1;
    assert!(rig.stack.interfaces().is_empty());
    let calls = rig.object.current_call().1 - before;
    assert!(calls < 100, "{calls} calls");
}

/// Sends and receives through lent memory, and answers what came of both.
fn lent(fault: &str) -> (Result<usize, Error>, Result<Vec<u8>, Error>) {
    let mut rig = rig(fault);
    let (client, server) = rig.connection();
    rig.send(client, b"abc").unwrap();
    rig.wait(server, Events::IN);
    let (mut scratch, mut spill, mut buf) = ([0; 64], Spill::new(), [0; 16]);
    let spare = Spare { scratch: &mut scratch, spill: &mut spill };
    let mut take = |pieces: &[IoSlice<'_>]| copy_from(pieces, &mut buf);
    let received = match rig.stack.recv_with(server, NOW, spare, &mut take) {
        Ok(Streamed::Bytes(count)) => Ok(buf[..count].to_vec()),
        Ok(Streamed::End) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let spare = Spare { scratch: &mut scratch, spill: &mut spill };
    let mut fill = |pieces: &mut [IoSliceMut<'_>]| copy_into(pieces, b"word");
    (rig.stack.send_with(server, SendFlags::empty(), NOW, spare, &mut fill), received)
}

#[test]
fn nonsense_about_lent_memory_is_an_error_and_no_more() {
    assert_eq!(lent("none:none"), (Ok(4), Ok(b"abc".to_vec())), "through send and recv");
    assert_eq!(lent("lend:none"), (Ok(4), Ok(b"abc".to_vec())));
    assert_eq!(lent("lend:again"), (Ok(4), Ok(b"abc".to_vec())), "the second time moves nothing");
    for fault in ["null", "long", "empty", "length", "unasked", "error"] {
        assert_eq!(lent(&format!("lend:{fault}")), (Err(Error::Io), Err(Error::Io)), "{fault}");
    }
}

/// Sends and receives batches of three; what came of both, and the lengths that were delivered.
fn batches(fault: &str) -> (Batch, Batch, Vec<usize>) {
    let mut rig = rig(fault);
    let (client, server) = (rig.stack.socket(UDP).unwrap(), rig.stack.socket(UDP).unwrap());
    rig.stack.bind(server, "127.0.0.1:0".parse().unwrap()).unwrap();
    let to = Some(rig.stack.local_addr(server).unwrap());
    let batch = ["a", "bc", "def"].map(|text| Datagram { data: text.as_bytes(), to });
    let sent = rig.stack.send_batch(client, &batch, SendFlags::empty(), NOW);
    for datagram in batch.iter().skip(sent.count) {
        rig.stack.send(client, datagram.data, to, SendFlags::empty(), NOW).unwrap();
    }
    let mut lengths = Vec::new();
    let mut deliver = |_: &Received, data: &[u8]| lengths.push(data.len());
    let received = rig.stack.recv_batch(server, 4, NOW, &mut [0; 64], &mut deliver);
    (sent, received, lengths)
}

#[test]
fn nonsense_about_batches_is_an_error_and_no_more() {
    let all = Batch { count: 3, stopped: None };
    let (again, io) = (Some(Error::Again), Some(Error::Io));
    for fault in ["none:none", "batch:none"] {
        assert_eq!(batches(fault), (all, Batch { count: 3, stopped: again }, vec![1, 2, 3]), "{fault}");
    }
    let none = Batch { count: 0, stopped: io };
    for fault in ["length", "empty", "error"] {
        assert_eq!(batches(&format!("batch:{fault}")).0, none, "{fault}");
    }
    for fault in ["long", "address", "null"] {
        assert_eq!(batches(&format!("batch:{fault}")), (all, none, vec![]), "{fault}");
    }
    assert_eq!(batches("batch:length").1, Batch { count: 3, stopped: io });
    assert_eq!(batches("batch:again"), (all, Batch { count: 4, stopped: io }, vec![1, 1, 1, 1]), "the limit");
}

/// An object that was built against version 1.0 has a shorter table.
#[test]
fn a_table_of_version_1_0_is_taken() {
    let code = "#define LOOP_AS_A_PART\n#include \"loop.c\"\n
        const struct netgraft_stack_v1 *netgraft_stack(uint32_t requested) {
            static struct netgraft_stack_v1 old;
            (void)requested;
            memcpy(&old, &LOOP, offsetof(struct netgraft_stack_v1, send_with));
            memset((char *)&old + offsetof(struct netgraft_stack_v1, send_with), 0x5a,
                   sizeof old - offsetof(struct netgraft_stack_v1, send_with));
            old.size = offsetof(struct netgraft_stack_v1, send_with);
            old.version = 1u << 16;
            return &old;
        }\n";
    let mut rig = Rig::new(&common::build_text("level1_old", code, &[]), None);
    let (client, server) = rig.connection();
    rig.transfer(client, server, &[6; 100_000]);
    let (mut scratch, mut spill) = ([0; 64], Spill::new());
    let spare = Spare { scratch: &mut scratch, spill: &mut spill };
    let mut fill = |pieces: &mut [IoSliceMut<'_>]| copy_into(pieces, b"through the copy");
    assert_eq!(rig.stack.send_with(client, SendFlags::empty(), NOW, spare, &mut fill), Ok(16));
    let mut buf = [0; 32];
    assert_eq!(again(rig.recv(server, &mut buf)).map(|r| r.len), Some(16));
}

#[test]
fn events_without_end_and_for_nobody_stop_nobody() {
    for fault in ["drain_events:length", "drain_events:event"] {
        let mut rig = rig(fault);
        let udp = rig.stack.socket(UDP).unwrap();
        rig.stack.add_fd(udp, Events::OUT).unwrap();
        for event in rig.step() {
            assert_eq!(event.handle, udp, "{fault}");
        }
    }
}

#[test]
fn handles_that_the_stack_did_not_give_never_reach_it() {
    let mut rig = rig("none:none");
    let udp = rig.stack.socket(UDP).unwrap();
    let other = netgraft_plugin::Handle(udp.0 + 1);
    assert_eq!(rig.stack.close(other, NOW), Err(Error::BadHandle));
    assert_eq!(rig.stack.add_fd(other, Events::IN), Err(Error::BadHandle));
    assert_eq!(rig.send(other, b"x"), Err(Error::BadHandle));
    rig.stack.close(udp, NOW).unwrap();
    assert_eq!(rig.stack.readiness(udp), Err(Error::BadHandle));
}

#[test]
fn set_up_that_fails_or_dies_is_told() {
    let name = "the stack liblevel1_hostile.so ";
    assert_eq!(refused("pre_init:abort"), format!("{name}died of SIGABRT in pre_init"));
    assert_eq!(refused("pre_init:segfault"), format!("{name}died of SIGSEGV in pre_init"));
    assert_eq!(refused("pre_init:exit"), format!("{name}exited with status 0 in pre_init"));
    assert!(refused("pre_init:length").ends_with("it says that it wrote more than there is room for"));
    assert!(refused("pre_init:handle").starts_with(name));
    assert!(refused("pre_init:close-all").starts_with(name));
}

/// A process that dies in a call leaves the call's name behind for the launcher.
#[test]
fn the_last_call_is_known_after_death() {
    for (fault, call, signal) in
        [("socket:abort", "socket", libc::SIGABRT), ("send:segfault", "send", libc::SIGSEGV)]
    {
        let mut rig = rig(fault);
        let child = fork(|| {
            let (client, _) = rig.connection();
            let _ = rig.send(client, b"x");
            0
        })
        .unwrap();
        assert_eq!(wait(child, Wait::Block).unwrap(), Some(Change::Signaled(signal)));
        let death_text = rig.object.death_text(signal);
        assert!(death_text.ends_with(&format!(" in {call}")), "{death_text}");
    }
}

#[test]
fn streams_end_and_reset_as_the_contract_says() {
    let mut rig = rig("none:none");
    let (client, server) = rig.connection();
    rig.send(client, b"unread").unwrap();
    rig.stack.close(server, NOW).unwrap();
    rig.wait(client, Events::ERR | Events::HUP);
    assert_eq!(rig.stack.take_error(client), Some(Error::ConnectionReset));
    assert_eq!(again(rig.recv(client, &mut [0; 4])).map(|r| r.len), Some(0));
}

/// Collects what is logged in the test's thread.
#[derive(Clone, Default)]
struct Lines(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(format!("{} {}", event.metadata().level(), text.0));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_panic_of_a_stack_in_rust_stops_at_the_boundary() {
    let object = common::build_example("panicking_plugin");
    let error = Rig::try_new(&object, Some("thing")).err().unwrap().to_string();
    assert_eq!(error, "the stack libpanicking_plugin.so refuses its configuration: it wants no 'thing'");
    let lines = Lines::default();
    let guard = tracing::subscriber::set_default(lines.clone());
    let mut rig = Rig::new(&object, None);
    let socket = rig.stack.socket(TCP).unwrap();
    assert_eq!(rig.stack.local_addr(socket), Err(Error::AddressNotAvailable));
    assert_eq!(rig.stack.failure(), None);
    assert_eq!(rig.stack.bind(socket, "127.0.0.1:1".parse().unwrap()), Err(Error::NetworkDown));
    // The stack is in a state that nobody knows: it is not called again.
    assert_eq!(rig.stack.local_addr(socket), Err(Error::NetworkDown));
    let why = "it is broken since its call 'bind': the stack panicked in 'bind': no address for you";
    assert_eq!(rig.stack.failure().as_deref(), Some(why));
    rig.stack.poll(NOW);
    drop(rig);
    drop(guard);
    let lines = lines.0.lock().unwrap();
    for expected in ["WARN a socket number=1", "ERROR the stack panicked in 'bind': no address for you"] {
        assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:?}");
    }
}
