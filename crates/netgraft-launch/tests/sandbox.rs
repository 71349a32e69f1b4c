//! A sandbox with several programs, each with a listener of its own, on a sentry that is a few lines: what the launcher
//! hands over, and that each call is known as whose it is.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use netgraft_launch::control::{self, FromSentry, Summary, ToSentry};
use netgraft_launch::{NetworkSpec, ProgramSpec, RunError, Sandbox, SentryArgs, SentryMain, Stacks};
use netgraft_linux::confine;
use netgraft_linux::fdpass::{self, wait_readable};
use netgraft_linux::filter::Sockets;
use netgraft_linux::listener::Listener;
use netgraft_linux::process::{self, Change, Wait};
use netgraft_plugin::NetworkType;
use netgraft_plugin::registry::Registry;

/// A sentry whose internet sockets are the two ends of one pair: the first to ask gets one, the second the other. It
/// answers listen(2) with 100 and the listener's place, ends on bind(2), and lets nothing else happen.
fn pair_sentry(args: SentryArgs) -> io::Result<()> {
    let mut listeners: Vec<(u32, Listener)> =
        args.listeners.into_iter().map(|(place, fd)| (place, Listener::new(fd))).collect();
    let (one, other) = fdpass::pair()?;
    let mut ends: Vec<OwnedFd> = vec![other, one];
    let mut calls = 0;
    loop {
        let mut fds = [None; 4];
        let all = std::iter::once(args.control.as_fd()).chain(listeners.iter().map(|(_, l)| l.as_fd()));
        fds.iter_mut().zip(all).for_each(|(slot, fd)| *slot = Some(fd));
        let ready = wait_readable(fds, None)?;
        if ready[0] {
            match control::receive_with_fds::<ToSentry>(args.control.as_fd())? {
                Some((ToSentry::Listener(place), mut fds)) => {
                    listeners.push((place, Listener::new(fds.pop().ok_or(io::ErrorKind::InvalidData)?)));
                    control::send(args.control.as_fd(), &FromSentry::Attached(place))?;
                }
                Some((ToSentry::Stop, _)) => {
                    let summary = Summary { calls, ..Summary::default() };
                    return control::send(args.control.as_fd(), &FromSentry::Summary(summary));
                }
                Some((
                    ToSentry::Operator | ToSentry::PrivateLink(_) | ToSentry::Observer | ToSentry::Home(_),
                    _,
                )) => {}
                None => return Ok(()),
            }
            continue;
        }
        let mut over = Vec::new();
        for (index, (place, listener)) in listeners.iter().enumerate() {
            if !ready[index + 1] {
                continue;
            }
            if Listener::is_over(listener.as_fd()) {
                over.push(index);
                continue;
            }
            let Ok(call) = listener.receive() else { continue };
            calls += 1;
            args.vitals.took(*place as usize, call.id);
            let end = (call.number == libc::SYS_socket).then(|| ends.pop()).flatten();
            match (call.number, end) {
                (_, Some(end)) => drop(listener.answer_with_fd(call.id, end.as_fd(), true)),
                (libc::SYS_listen, _) => drop(listener.answer(call.id, Err(100 + *place as i32))),
                (libc::SYS_bind, _) => return Err(io::Error::other("it was asked to bind")),
                _ => drop(listener.answer(call.id, Err(libc::EPERM))),
            }
            args.vitals.served(*place as usize);
        }
        for index in over.into_iter().rev() {
            listeners.remove(index);
        }
    }
}

const SENTRY: SentryMain = SentryMain { watch: |stack, _, _| stack, run: pair_sentry };

fn network() -> NetworkSpec {
    let mut registry = Registry::new();
    registry.register("smoltcp", netgraft_smoltcp::factory()).unwrap();
    let mut spec = NetworkSpec::new(NetworkType::Sandbox);
    spec.stacks = Stacks::Of(Arc::new(registry));
    spec
}

fn python(text: &str) -> ProgramSpec {
    let mut program = ProgramSpec::new("python3");
    program.args = vec!["-c".into(), text.into()];
    program
}

/// A directory of this test, which is removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("netgraft-sandbox-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        // Root's programs are nobody on the host.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a test in a process with one thread, and checks that none of its children is left.
fn alone(test: impl FnOnce(&Path) -> Result<(), RunError>) {
    let folder = Folder::new();
    let child = process::fork(|| {
        // A test that is killed leaves no sandbox behind.
        if confine::die_with_parent().is_err() {
            return 3;
        }
        let status = match test(&folder.0) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        };
        let childless = process::wait_any(Wait::Look).err().and_then(|e| e.raw_os_error());
        if childless == Some(libc::ECHILD) { status } else { 2 }
    });
    assert_eq!(process::wait(child.unwrap(), Wait::Block).unwrap(), Some(Change::Exited(0)));
}

#[test]
fn two_programs_with_a_listener_each_talk_to_each_other() {
    alone(|folder| {
        let mut sandbox = Sandbox::start(&network(), SENTRY)?;
        let talk = |name: &str, other: &str, place: u32| {
            python(&format!(
                "import socket, sys\n\
                 s = socket.socket()\n\
                 s.send(b'{name}')\n\
                 got = s.recv(100)\n\
                 try: s.listen()\n\
                 except OSError as e: whose = e.errno\n\
                 open({path:?}, 'w').write(got.decode())\n\
                 sys.exit(got != b'{other}' or whose != {whose})",
                path = folder.join(name),
                whose = 100 + place
            ))
        };
        let first = sandbox.spawn(&talk("first", "second", 0))?;
        let second = sandbox.spawn(&talk("second", "first", 1))?;
        assert_eq!((sandbox.wait(first)?, sandbox.wait(second)?), (0, 0));
        assert_eq!(fs::read_to_string(folder.join("first")).unwrap(), "second");
        // Both of their places are free again.
        let third = sandbox.spawn(&python(
            "import socket, sys\ntry: socket.socket(socket.AF_UNIX).listen()\nexcept OSError as e: sys.exit(e.errno)",
        ))?;
        assert_eq!(sandbox.wait(third)?, 100);
        assert!(sandbox.finish().is_some_and(|summary| summary.calls >= 5));
        Ok(())
    });
}

#[test]
fn programs_share_the_sandbox_and_not_the_caller_s_network() {
    alone(|folder| {
        let mut sandbox = Sandbox::start(&network(), SENTRY)?;
        let show = |name: &str| {
            let path = folder.join(name);
            python(&format!(
                "import os\n\
                 kinds = 'net user pid ipc uts'.split()\n\
                 names = [os.readlink('/proc/self/ns/' + kind) for kind in kinds]\n\
                 open({path:?}, 'w').write(' '.join(names + [os.getcwd()]))"
            ))
        };
        let mut at_root = show("third");
        at_root.directory = Some("/".into());
        for program in [show("first"), show("second"), at_root] {
            let id = sandbox.spawn(&program)?;
            assert_eq!(sandbox.wait(id)?, 0);
        }
        let said = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(said("first"), said("second"));
        assert!(said("first").ends_with(&format!(" {}", std::env::current_dir().unwrap().display())));
        assert!(said("third").ends_with(" /"));
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        assert!(!said("first").contains(own.to_str().unwrap()));
        // An OCI runtime finds the same namespaces by the first process.
        let pid = sandbox.first_process().unwrap();
        if fs::read_link(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|net| !said("first").contains(net.to_str().unwrap()))
        {
            panic!("the first process is elsewhere");
        }
        Ok(())
    });
}

#[test]
fn what_cannot_be_started_is_an_error_and_the_sandbox_goes_on() {
    alone(|_| {
        let mut sandbox = Sandbox::start(&network(), SENTRY)?;
        let missing = sandbox.spawn(&ProgramSpec::new("/no/such/program")).unwrap_err();
        assert!(matches!(missing, RunError::NotFound(_)), "{missing}");
        let mut nowhere = python("");
        nowhere.directory = Some("/no/such/directory".into());
        let missing = sandbox.spawn(&nowhere).unwrap_err().to_string();
        assert!(missing.starts_with("cannot enter the program's working directory"), "{missing}");
        let id = sandbox.spawn(&python("import sys; sys.exit(7)"))?;
        assert_eq!(sandbox.wait(id)?, 7);
        Ok(())
    });
}

#[test]
fn a_listener_of_somebody_else_is_served_too() {
    alone(|folder| {
        let mut sandbox = Sandbox::start(&network(), SENTRY)?;
        let (mut numbers, number) = io::pipe().unwrap();
        let path = folder.join("errno");
        // As an OCI runtime's process: it installs the filter itself, and the listener is taken from it.
        let other = process::fork(|| {
            let Ok(listener) = netgraft_linux::confine::no_new_privileges()
                .and_then(|()| netgraft_linux::filter::install(Sockets::Surrogates))
            else {
                return 1;
            };
            if (&number).write_all(&listener.as_raw_fd().to_ne_bytes()).is_err() {
                return 2;
            }
            let listen = netgraft_linux::unix::stream(true)
                .and_then(|socket| netgraft_linux::unix::listen(socket.as_fd(), 1));
            let errno = listen.err().and_then(|e| e.raw_os_error()).unwrap_or(0);
            i32::from(fs::write(&path, errno.to_string()).is_err())
        })
        .unwrap();
        let mut bytes = [0; 4];
        numbers.read_exact(&mut bytes).unwrap();
        let pidfd = process::pidfd(other).unwrap();
        sandbox.attach(process::take_fd(pidfd.as_fd(), i32::from_ne_bytes(bytes)).unwrap())?;
        assert_eq!(process::wait(other, Wait::Block).unwrap(), Some(Change::Exited(0)));
        assert_eq!(fs::read_to_string(folder.join("errno")).unwrap(), "100");
        Ok(())
    });
}

#[test]
fn when_the_sentry_ends_every_program_is_answered() {
    alone(|folder| {
        let mut sandbox = Sandbox::start(&network(), SENTRY)?;
        let ask = |name: &str, call: &str| {
            let (ready, go) = (folder.join(format!("{name}.ready")), folder.join("go"));
            python(&format!(
                "import errno, os, socket, sys, time\n\
                 s = socket.socket()\n\
                 open({ready:?}, 'w').close()\n\
                 while not os.path.exists({go:?}): time.sleep(0.01)\n\
                 try: {call}\n\
                 except OSError as e: first = e.errno\n\
                 last = first\n\
                 for _ in range(6000):\n\
                 \x20   if last == errno.ENETDOWN: break\n\
                 \x20   time.sleep(0.01)\n\
                 \x20   try: socket.socket()\n\
                 \x20   except OSError as e: last = e.errno\n\
                 sys.exit(first not in (errno.EPERM, errno.ENETDOWN) or last != errno.ENETDOWN)"
            ))
        };
        let killer = sandbox.spawn(&ask("killer", "s.bind(('', 0))"))?;
        let witness = sandbox.spawn(&ask("witness", "socket.socket()"))?;
        while !(folder.join("killer.ready").exists() && folder.join("witness.ready").exists()) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        fs::write(folder.join("go"), "").unwrap();
        assert_eq!(sandbox.wait(killer)?, 0);
        assert_eq!(sandbox.wait(witness)?, 0);
        let refused = sandbox.spawn(&python("")).unwrap_err().to_string();
        assert!(refused.contains("goes on without a network"), "{refused}");
        Ok(())
    });
}

/// A sentry that says whatever comes to its mind, for ever.
fn flooding_sentry(args: SentryArgs) -> io::Result<()> {
    let kept = netgraft_launch::control::Kept {
        cookie: 0,
        name: 0,
        role: netgraft_launch::control::KeptRole::Datagrams,
        address: "127.0.0.1:1".parse().map_err(io::Error::other)?,
        peer: None,
        on: vec![netgraft_launch::control::KeptOption::V6Only; 3],
        seen: None,
    };
    for round in 0_u64.. {
        let text = format!("{round}\nnetgraft: error: forged\r\x1b[2J{}", "x".repeat(50_000));
        control::send(args.control.as_fd(), &FromSentry::Warning(text))?;
        control::send_with_fd(args.control.as_fd(), &FromSentry::Keeper, args.control.as_fd())?;
        for cookie in round * 10..round * 10 + 10 {
            let kept = netgraft_launch::control::Kept { cookie, ..kept.clone() };
            control::send(args.control.as_fd(), &FromSentry::Keep(kept))?;
        }
    }
    Ok(())
}

/// The most memory that this process has had, in KiB.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_sentry_that_floods_neither_fills_memory_nor_forges_lines() {
    alone(|folder| {
        let log = fs::File::create(folder.join("log")).unwrap();
        tracing_subscriber::fmt()
            .with_writer(std::sync::Mutex::new(log))
            .with_ansi(false)
            .without_time()
            .init();
        let mut spec = network();
        spec.on_crash = netgraft_launch::OnCrash::Restart;
        let mut sandbox = Sandbox::start(&spec, SentryMain { run: flooding_sentry, ..SENTRY })?;
        let before = most_memory();
        // The listener is never served: this fails in time, though messages never end.
        let refused = sandbox.spawn(&python("")).unwrap_err().to_string();
        assert!(refused.contains("it did not answer in time"), "{refused}");
        assert_eq!(sandbox.finish(), None);
        let grown = most_memory() - before;
        assert!(grown < 48 * 1024, "{grown} KiB");
        let log = fs::read_to_string(folder.join("log")).unwrap();
        assert!(log.contains("the rest is not shown") && log.len() < 128 * 1024, "{} bytes", log.len());
        assert!(
            !log.lines().any(|line| line.starts_with("netgraft: error: forged")) && !log.contains('\x1b')
        );
        Ok(())
    });
}

#[test]
fn a_sentry_that_floods_does_not_hold_up_signals() {
    alone(|folder| {
        let ready = folder.join("ready");
        let program = python(&format!(
            "import signal, sys, time\n\
             signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n\
             open({ready:?}, 'w').close()\n\
             time.sleep(600)"
        ));
        let own = std::process::id() as i32;
        let alarm = process::fork(|| {
            while !ready.exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            i32::from(process::kill(own, libc::SIGTERM).is_err())
        })
        .unwrap();
        let flooding = SentryMain { run: flooding_sentry, ..SENTRY };
        let ended = netgraft_launch::run(&network(), &program, flooding)?;
        assert_eq!((ended.code, ended.summary), (5, None));
        assert_eq!(process::wait(alarm, Wait::Block).unwrap(), Some(Change::Exited(0)));
        Ok(())
    });
}

/// A sentry whose loop stands still, outside of any call of its stack.
fn stuck_sentry(args: SentryArgs) -> io::Result<()> {
    args.vitals.begin_round();
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

#[test]
fn a_sentry_that_stands_still_is_ended_and_its_program_answered() {
    alone(|_| {
        let program = python(
            "import errno, socket, sys\n\
             try: socket.socket()\n\
             except OSError as e: sys.exit(7 if e.errno == errno.ENETDOWN else 8)\n\
             sys.exit(9)",
        );
        let ended = netgraft_launch::run(&network(), &program, SentryMain { run: stuck_sentry, ..SENTRY })?;
        assert_eq!(ended.code, 7);
        Ok(())
    });
}
