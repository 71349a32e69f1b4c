//! Who answers the program's calls when there is no sentry: a process that knows one answer.
//!
//! It is a fork of the launcher, since taking a call can block: the caller may die between a look at the listener
//! and the call that takes it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netgraft_core::codec::call::Call;
use netgraft_core::codec::ioctl::{self, Request};
use netgraft_linux::listener::Listener;
use netgraft_linux::nsfd::Namespace;
use netgraft_linux::task::Tasks;
use netgraft_linux::{confine, process, unix};

use crate::vitals::Taken;

/// Options that mean the same on a surrogate as on what it stands for, and tell nothing of its own kind.
const COMMON_OPTIONS: &[i32] = &[
    libc::SO_ERROR,
    libc::SO_TYPE,
    libc::SO_ACCEPTCONN,
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_RCVLOWAT,
    libc::SO_RCVBUF,
    libc::SO_SNDBUF,
    libc::SO_LINGER,
    libc::SO_KEEPALIVE,
    libc::SO_REUSEADDR,
    libc::SO_BROADCAST,
    libc::SO_COOKIE,
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Refuse(i32),
    LetThrough,
}

/// What a descriptor of the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// A surrogate of a stream socket or another one, or a host socket.
    Stream,
    Datagram,
    /// Nothing of ours.
    Other,
}

fn verdict(call: Option<Call>, target: impl FnOnce(i32) -> Target) -> Verdict {
    let Some(call) = call else { return Verdict::Refuse(libc::ENOSYS) };
    if call == Call::EnterNamespace {
        return Verdict::LetThrough;
    }
    let Some(fd) = call.fd() else { return Verdict::Refuse(libc::ENETDOWN) };
    let target = target(fd);
    match (call, target) {
        (_, Target::Other) => Verdict::LetThrough,
        // The end of what was, and options that the surrogate has, too: the kernel's answers on it do.
        (Call::Shutdown { .. }, _) => Verdict::LetThrough,
        (Call::GetSockOpt { level, name, .. } | Call::SetSockOpt { level, name, .. }, _)
            if level == libc::SOL_SOCKET && COMMON_OPTIONS.contains(&name) =>
        {
            Verdict::LetThrough
        }
        (Call::Ioctl { request, .. }, _)
            if matches!(ioctl::parse(request), Request::QueuedOut | Request::AtMark) =>
        {
            Verdict::LetThrough
        }
        // A stream's last bytes are still there; then comes its end, or a reset.
        (
            Call::SendTo { .. }
            | Call::SendMsg { .. }
            | Call::SendMMsg { .. }
            | Call::RecvFrom { .. }
            | Call::RecvMsg { .. }
            | Call::RecvMMsg { .. },
            Target::Stream,
        ) => Verdict::LetThrough,
        (Call::GetPeerName { .. }, _) => Verdict::Refuse(libc::ENOTCONN),
        _ => Verdict::Refuse(libc::ENETDOWN),
    }
}

/// The process; returns its exit status when there is nobody left to answer.
///
/// `surrogates` is the network namespace that the surrogates are in; `None` if the program has host sockets.
/// `pending` are calls that the sentry had taken.
pub(super) fn main(listener: OwnedFd, surrogates: Option<&Namespace>, pending: Option<Taken>) -> i32 {
    let mut kept = vec![listener.as_raw_fd()];
    kept.extend(surrogates.map(|namespace| namespace.as_fd().as_raw_fd()));
    let ready = confine::die_with_parent()
        .and_then(|()| confine::not_dumpable())
        .and_then(|()| confine::set_name(c"netgraft-down"))
        .and_then(|()| process::close_all_but(&kept));
    if ready.is_err() {
        return 1;
    }
    let listener = Listener::new(listener);
    // Before those that come now: their callers have waited longer.
    answer_pending(&listener, pending, libc::ENETDOWN);
    answer_unnoted(&listener, pending, libc::ENETDOWN);
    let mut tasks = Tasks::new();
    let mut failures = 0;
    while failures < 100 {
        let taken = match listener.receive() {
            Ok(taken) => taken,
            Err(error) => {
                // ENOENT is a caller that has gone, or with no caller left the end, which the launcher makes.
                failures += u32::from(error.raw_os_error() != Some(libc::EINTR));
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
        };
        failures = 0;
        let decided = verdict(Call::parse(taken.number, taken.args), |fd| {
            // The kernel knows what to say of a descriptor that is none.
            target(&mut tasks, taken.tid, fd, surrogates).unwrap_or(Target::Other)
        });
        let _ = match decided {
            Verdict::LetThrough => listener.let_through(taken.id),
            Verdict::Refuse(errno) => listener.answer(taken.id, Err(errno)),
        };
    }
    0
}

fn target(tasks: &mut Tasks, tid: u32, fd: i32, surrogates: Option<&Namespace>) -> io::Result<Target> {
    let file = tasks.duplicate(tid, fd)?;
    let ours = match (unix::domain(file.as_fd())?, surrogates) {
        (libc::AF_INET | libc::AF_INET6, _) => true,
        (libc::AF_UNIX, Some(namespace)) => Namespace::of_socket(file.as_fd())?.is(namespace)?,
        _ => false,
    };
    Ok(match (ours, unix::is_stream(file.as_fd())?) {
        (false, _) => Target::Other,
        (true, true) => Target::Stream,
        (true, false) => Target::Datagram,
    })
}

/// Answers the calls that a dead sentry had taken: they cannot be taken again, but their ids follow each other, so
/// that those which still wait are found from the last one back to the first.
///
/// The call that was being served fails in any case: made again, it might end the next sentry, too.
pub(super) fn answer_pending(listener: &Listener, taken: Option<Taken>, errno: i32) {
    let Some(Taken { first, last, serving }) = taken else { return };
    // What a sentry wrote is no reason to search for years.
    let count = last.wrapping_sub(first).min(MOST_IDS);
    for back in 0..=count {
        let id = last.wrapping_sub(back);
        if listener.is_waiting(id) {
            let errno = if back == 0 && serving { libc::ENETDOWN } else { errno };
            // One that was interrupted meanwhile needs no answer.
            let _ = listener.answer(id, Err(errno));
        }
    }
}

/// Answers the call that a dead sentry had received and not noted any more: a signal that kills a thread in the kernel may
/// leave it with a call. Only while nobody receives from this listener.
pub(super) fn answer_unnoted(listener: &Listener, taken: Option<Taken>, errno: i32) {
    let Some(Taken { last, .. }) = taken else { return };
    let mut ahead = (1..=AHEAD).map(|ahead| last.wrapping_add(ahead));
    if let Some(id) = ahead.find(|&id| listener.is_waiting(id)) {
        let _ = listener.answer(id, Err(errno));
    }
}

/// How far ahead of the last call that was noted: those in between were interrupted before they were received.
const AHEAD: u64 = 256;

/// The most ids that are searched: some tens of seconds, in a process that nobody waits for.
const MOST_IDS: u64 = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: i64, target: Target) -> Verdict {
        verdict(Call::parse(number, [3, 0x1000, 16, 0, 0x1000, 16]), |_| target)
    }

    #[test]
    fn a_call_that_was_received_and_not_noted_is_answered() {
        let (give, given) = std::sync::mpsc::channel();
        // The filter is of this thread alone.
        let program = std::thread::spawn(move || {
            confine::no_new_privileges().unwrap();
            give.send(Listener::new(
                netgraft_linux::filter::install(netgraft_linux::filter::Sockets::Surrogates).unwrap(),
            ))
            .unwrap();
            let ask = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err().raw_os_error();
            [ask(), ask()]
        });
        let listener = given.recv().unwrap();
        let first = listener.receive().unwrap().id;
        let taken = Taken { first, last: first, serving: false };
        assert!(listener.answer(first, Err(libc::ENFILE)).is_ok());
        // As by a thread that a signal kills then.
        listener.receive().unwrap();
        answer_pending(&listener, Some(taken), libc::ENFILE);
        answer_unnoted(&listener, Some(taken), libc::ENETDOWN);
        assert_eq!(program.join().unwrap(), [Some(libc::ENFILE), Some(libc::ENETDOWN)]);
    }

    #[test]
    fn the_network_is_down_for_surrogates_only() {
        for number in [libc::SYS_connect, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept4] {
            assert_eq!(of(number, Target::Stream), Verdict::Refuse(libc::ENETDOWN));
            assert_eq!(of(number, Target::Other), Verdict::LetThrough);
        }
        assert_eq!(of(libc::SYS_sendto, Target::Datagram), Verdict::Refuse(libc::ENETDOWN));
        assert_eq!(of(libc::SYS_recvmsg, Target::Stream), Verdict::LetThrough);
        let option = |level: i32, name: i32| {
            let args = [3, level as u64, name as u64, 0x1000, 0x1000, 0];
            verdict(Call::parse(libc::SYS_getsockopt, args), |_| Target::Stream)
        };
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_ERROR), Verdict::LetThrough);
        // What would tell that it is an AF_UNIX socket.
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_DOMAIN), Verdict::Refuse(libc::ENETDOWN));
        assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_NODELAY), Verdict::Refuse(libc::ENETDOWN));
        let socket = verdict(Call::parse(libc::SYS_socket, [2, 1, 0, 0, 0, 0]), |_| Target::Other);
        assert_eq!(socket, Verdict::Refuse(libc::ENETDOWN));
        assert_eq!(verdict(None, |_| Target::Other), Verdict::Refuse(libc::ENOSYS));
    }
}
