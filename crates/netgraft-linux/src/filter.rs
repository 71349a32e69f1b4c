//! The program's seccomp filter and its listener (seccomp(2), seccomp_unotify(2)).
//!
//! The filter traps the calls that control an internet socket and leaves every other call to the kernel. It
//! tells them apart by number, address family, flags and whether an address is given: all that classic BPF
//! can see.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::sock_filter;

use crate::bpf::{
    self, AUDIT_ARCH, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, OFFSET_ARCH, OFFSET_NUMBER, arg_high, arg_low,
    jump, load, ret,
};
use crate::unix;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// x32 calls carry this bit in their number (syscall(2)).
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// The families that stay the kernel's: local ones, and those that reach no further than the program's empty
/// network namespace. `AF_VSOCK` is not among them: it does not know network namespaces; nor `AF_ALG`, whose bind waits for
/// modules to be loaded.
pub(crate) const NATIVE_FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_KEY];

const fn errno(code: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | code as u32
}

/// What stands behind the program's internet sockets, which decides on the calls that are trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// The host's own sockets.
    Host,
    /// Surrogates.
    Surrogates,
    /// Surrogates for streams; datagram and raw sockets are those of the program's own network namespace.
    StreamSurrogates,
}

/// When a call is trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Always answered by the sentry.
    Notify,
    /// Refused with an errno.
    Refuse(i32),
    /// `socket`: trapped for internet families, refused for those that could leave the sandbox.
    Socket,
    /// `socketpair`: the kernel's for AF_UNIX and for internet families (which it refuses).
    SocketPair,
    /// Trapped if one of the bits is set in the argument.
    IfBits { argument: u32, bits: u32 },
    /// Trapped if the pointer argument is given.
    IfPointer(u32),
    /// Trapped if the pointer argument is given, or one of the bits is set in the flags argument.
    IfPointerOrFlags { pointer: u32, flags: u32, bits: u32 },
    /// `ioctl`: trapped for the requests of sockets and interfaces, refused for those of [`TYPING`].
    Ioctl,
    /// `ioctl`: refused for the requests of [`TYPING`].
    Terminal,
    /// `setsockopt`: trapped, but for `SO_PASSRIGHTS`, which is refused as on a kernel without it: the sentry has turned
    /// it off where a descriptor in a message would harm.
    SetSockOpt,
}

/// Requests that put text into the input of a terminal, which then is the operator's typing to whoever reads it next
/// (ioctl_tty(2), ioctl_console(2)).
pub(crate) const TYPING: [u32; 2] = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32];

/// The calls that the filter does not simply allow when the program's sockets are the host's own: those that make one, or
/// that may need a privilege which the program has in its own user namespace only. The kernel does the rest on them as on
/// any socket.
fn host_socket_rules() -> Vec<(libc::c_long, Rule)> {
    let harmless = [
        libc::SYS_connect,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_accept4,
        libc::SYS_accept,
        libc::SYS_getsockopt,
        libc::SYS_setsockopt,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_shutdown,
    ];
    let weaker = |rule| if rule == Rule::Ioctl { Rule::Terminal } else { rule };
    surrogate_rules()
        .into_iter()
        .filter(|(number, _)| !harmless.contains(number))
        .map(|(number, rule)| (number, weaker(rule)))
        .collect()
}

/// Flags with which AF_UNIX does something else than TCP.
const SEND_BITS: u32 = (libc::MSG_OOB | libc::MSG_FASTOPEN) as u32;
const RECV_BITS: u32 = (libc::MSG_OOB | libc::MSG_ERRQUEUE) as u32;

/// The calls that the filter does not simply allow when the program's sockets are surrogates.
fn surrogate_rules() -> Vec<(libc::c_long, Rule)> {
    vec![
        (libc::SYS_recvfrom, Rule::IfPointerOrFlags { pointer: 4, flags: 3, bits: RECV_BITS }),
        (libc::SYS_sendto, Rule::IfPointerOrFlags { pointer: 4, flags: 3, bits: SEND_BITS }),
        (libc::SYS_ioctl, Rule::Ioctl),
        (libc::SYS_recvmsg, Rule::Notify),
        (libc::SYS_sendmsg, Rule::Notify),
        (libc::SYS_recvmmsg, Rule::Notify),
        (libc::SYS_sendmmsg, Rule::Notify),
        (libc::SYS_accept4, Rule::IfPointer(1)),
        (libc::SYS_accept, Rule::IfPointer(1)),
        (libc::SYS_socket, Rule::Socket),
        (libc::SYS_connect, Rule::Notify),
        (libc::SYS_getsockopt, Rule::Notify),
        (libc::SYS_setsockopt, Rule::SetSockOpt),
        (libc::SYS_getsockname, Rule::Notify),
        (libc::SYS_getpeername, Rule::Notify),
        (libc::SYS_shutdown, Rule::Notify),
        (libc::SYS_bind, Rule::Notify),
        (libc::SYS_listen, Rule::Notify),
        (libc::SYS_socketpair, Rule::SocketPair),
        // Who may be in another network namespace from now on is looked at before it gets a socket.
        (libc::SYS_setns, Rule::Notify),
        (libc::SYS_unshare, Rule::IfBits { argument: 0, bits: libc::CLONE_NEWNET as u32 }),
        (libc::SYS_clone, Rule::IfBits { argument: 0, bits: libc::CLONE_NEWNET as u32 }),
        // Its flags are in memory, where no filter sees them: libraries go on to clone(2).
        (libc::SYS_clone3, Rule::Refuse(libc::ENOSYS)),
        // Its requests would pass every trap by.
        (libc::SYS_io_uring_setup, Rule::Refuse(libc::ENOSYS)),
        (libc::SYS_io_uring_enter, Rule::Refuse(libc::ENOSYS)),
        (libc::SYS_io_uring_register, Rule::Refuse(libc::ENOSYS)),
        // A page that the program serves itself would stop the sentry while it reads the program's memory.
        (libc::SYS_userfaultfd, Rule::Refuse(libc::ENOSYS)),
    ]
}

/// The calls that the filter does not simply allow when streams alone are surrogates: what a datagram is sent to or comes
/// from is the kernel's business, so an address is nothing to trap for. Nor is a message, where the sentry's ends refuse
/// descriptors that are sent with it.
fn stream_surrogate_rules(rights_are_refused: bool) -> Vec<(libc::c_long, Rule)> {
    let weaker = |number, rule| match (number, rule) {
        (_, Rule::IfPointerOrFlags { flags, bits, .. }) => Rule::IfBits { argument: flags, bits },
        (libc::SYS_sendmsg, _) if rights_are_refused => Rule::IfBits { argument: 2, bits: SEND_BITS },
        (libc::SYS_recvmsg, _) if rights_are_refused => Rule::IfBits { argument: 2, bits: RECV_BITS },
        (libc::SYS_sendmmsg, _) if rights_are_refused => Rule::IfBits { argument: 3, bits: SEND_BITS },
        (libc::SYS_recvmmsg, _) if rights_are_refused => Rule::IfBits { argument: 3, bits: RECV_BITS },
        (_, other) => other,
    };
    surrogate_rules().into_iter().map(|(number, rule)| (number, weaker(number, rule))).collect()
}

/// The instructions that decide a call whose number has matched; they end in a return.
fn body(rule: Rule) -> Vec<sock_filter> {
    match rule {
        Rule::Notify => vec![ret(NOTIFY)],
        Rule::Refuse(code) => vec![ret(errno(code))],
        Rule::Socket => {
            let mut code = vec![
                arg_low(0),
                jump(JUMP_EQUAL, libc::AF_INET as u32, 1, 0),
                jump(JUMP_EQUAL, libc::AF_INET6 as u32, 0, 1),
                ret(NOTIFY),
            ];
            for family in NATIVE_FAMILIES {
                code.extend([jump(JUMP_EQUAL, family as u32, 0, 1), ret(ALLOW)]);
            }
            code.push(ret(errno(libc::EAFNOSUPPORT)));
            code
        }
        Rule::SocketPair => {
            let mut code = vec![arg_low(0)];
            for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
                code.extend([jump(JUMP_EQUAL, family as u32, 0, 1), ret(ALLOW)]);
            }
            code.push(ret(errno(libc::EAFNOSUPPORT)));
            code
        }
        Rule::IfBits { argument, bits } => {
            vec![arg_low(argument), jump(JUMP_ANY_BIT, bits, 1, 0), ret(ALLOW), ret(NOTIFY)]
        }
        Rule::IfPointer(pointer) => vec![
            arg_low(pointer),
            jump(JUMP_EQUAL, 0, 0, 3),
            arg_high(pointer),
            jump(JUMP_EQUAL, 0, 0, 1),
            ret(ALLOW),
            ret(NOTIFY),
        ],
        Rule::IfPointerOrFlags { pointer, flags, bits } => vec![
            arg_low(flags),
            jump(JUMP_ANY_BIT, bits, 5, 0),
            arg_low(pointer),
            jump(JUMP_EQUAL, 0, 0, 3),
            arg_high(pointer),
            jump(JUMP_EQUAL, 0, 0, 1),
            ret(ALLOW),
            ret(NOTIFY),
        ],
        Rule::Ioctl => vec![
            arg_low(1),
            jump(JUMP_EQUAL, TYPING[0], 6, 0),
            jump(JUMP_EQUAL, TYPING[1], 5, 0),
            jump(JUMP_EQUAL, libc::TIOCOUTQ as u32, 3, 0),
            jump(JUMP_AT_LEAST, 0x8900, 0, 1),
            jump(JUMP_AT_LEAST, 0x8A00, 0, 1),
            ret(ALLOW),
            ret(NOTIFY),
            ret(errno(libc::EPERM)),
        ],
        Rule::SetSockOpt => vec![
            arg_low(1),
            jump(JUMP_EQUAL, libc::SOL_SOCKET as u32, 0, 3),
            arg_low(2),
            jump(JUMP_EQUAL, unix::PASS_RIGHTS as u32, 0, 1),
            ret(errno(libc::ENOPROTOOPT)),
            ret(NOTIFY),
        ],
        Rule::Terminal => vec![
            arg_low(1),
            jump(JUMP_EQUAL, TYPING[0], 2, 0),
            jump(JUMP_EQUAL, TYPING[1], 1, 0),
            ret(ALLOW),
            ret(errno(libc::EPERM)),
        ],
    }
}

/// The calls that are not simply allowed.
pub(crate) fn rules(sockets: Sockets, rights_are_refused: bool) -> Vec<(libc::c_long, Rule)> {
    match sockets {
        Sockets::Host => host_socket_rules(),
        Sockets::Surrogates => surrogate_rules(),
        Sockets::StreamSurrogates => stream_surrogate_rules(rights_are_refused),
    }
}

/// The whole filter.
pub(crate) fn program(sockets: Sockets, rights_are_refused: bool) -> Vec<sock_filter> {
    let rules = rules(sockets, rights_are_refused);
    let mut code =
        vec![load(OFFSET_ARCH), jump(JUMP_EQUAL, AUDIT_ARCH, 1, 0), ret(KILL), load(OFFSET_NUMBER)];
    #[cfg(target_arch = "x86_64")]
    code.extend([jump(JUMP_AT_LEAST, X32_BIT, 0, 1), ret(errno(libc::ENOSYS))]);
    // The bodies are a dozen instructions at most.
    let mut table: Vec<bpf::Decision> =
        rules.into_iter().map(|(number, rule)| (number as u32, body(rule))).collect();
    table.sort_unstable_by_key(|(number, _)| *number);
    code.extend(bpf::search(&table, ALLOW));
    code
}

/// Installs the filter on the calling thread, which becomes the program, and returns the listener.
/// Sets `no_new_privs` (prctl(2)); no other thread may exist.
///
/// A signal may interrupt a trapped call, as it may on Linux: `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` is not
/// set, since it would make blocking calls deaf to signals and to job control. The sentry is prepared for
/// calls that are interrupted and made again.
///
/// # Errors
/// EBUSY if the thread has a listener already; EINVAL or ENOSYS if the kernel has no listeners.
pub fn install(sockets: Sockets) -> io::Result<OwnedFd> {
    let code = program(sockets, unix::can_refuse_rights());
    let fd = bpf::install(&code, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sockets: Sockets, arch: u32, number: i64, args: [u64; 6]) -> u32 {
        run_where(true, sockets, arch, number, args)
    }

    fn run_where(rights_are_refused: bool, sockets: Sockets, arch: u32, number: i64, args: [u64; 6]) -> u32 {
        bpf::run(&program(sockets, rights_are_refused), arch, number, args)
    }

    fn native(number: i64, args: [u64; 6]) -> u32 {
        run(Sockets::Surrogates, AUDIT_ARCH, number, args)
    }

    #[test]
    fn on_host_sockets_only_calls_that_need_a_privilege_trap() {
        let host = |number, args| run(Sockets::Host, AUDIT_ARCH, number, args);
        assert_eq!(host(libc::SYS_socket, [2; 6]), NOTIFY);
        assert_eq!(host(libc::SYS_bind, [3; 6]), NOTIFY);
        assert_eq!(host(libc::SYS_connect, [3; 6]), ALLOW);
        assert_eq!(host(libc::SYS_sendmsg, [3; 6]), ALLOW);
        assert_eq!(host(libc::SYS_sendto, [3, 0, 0, 0, 8, 16]), ALLOW);
        assert_eq!(host(libc::SYS_recvfrom, [3, 0, 0, 0, 8, 16]), ALLOW);
        assert_eq!(host(libc::SYS_getsockopt, [3; 6]), ALLOW);
        assert_eq!(host(libc::SYS_io_uring_setup, [3; 6]), errno(libc::ENOSYS));
    }

    #[test]
    fn an_address_does_not_trap_where_datagram_sockets_are_the_kernels() {
        let verdict = |number, args| run(Sockets::StreamSurrogates, AUDIT_ARCH, number, args);
        assert_eq!(verdict(libc::SYS_sendto, [3, 9, 9, 0, 8, 16]), ALLOW);
        assert_eq!(verdict(libc::SYS_recvfrom, [3, 9, 9, 0, 8, 16]), ALLOW);
        assert_eq!(verdict(libc::SYS_sendto, [3, 9, 9, libc::MSG_FASTOPEN as u64, 8, 16]), NOTIFY);
        assert_eq!(verdict(libc::SYS_recvfrom, [3, 9, 9, libc::MSG_OOB as u64, 0, 0]), NOTIFY);
        assert_eq!(verdict(libc::SYS_accept4, [3, 9, 9, 0, 0, 0]), NOTIFY);
        for number in [libc::SYS_socket, libc::SYS_bind, libc::SYS_connect, libc::SYS_setsockopt] {
            assert_eq!(verdict(number, [2; 6]), NOTIFY);
        }
        let messages = [
            (libc::SYS_sendmsg, 2, libc::MSG_FASTOPEN),
            (libc::SYS_recvmsg, 2, libc::MSG_ERRQUEUE),
            (libc::SYS_sendmmsg, 3, libc::MSG_OOB),
            (libc::SYS_recvmmsg, 3, libc::MSG_OOB),
        ];
        for (number, argument, flag) in messages {
            let mut args = [3, 0x1000, 0, 0, 0, 0];
            assert_eq!(verdict(number, args), ALLOW);
            let older = run_where(false, Sockets::StreamSurrogates, AUDIT_ARCH, number, args);
            assert_eq!(older, NOTIFY, "where descriptors can be sent into a surrogate");
            args[argument] = flag as u64;
            assert_eq!(verdict(number, args), NOTIFY);
        }
    }

    #[test]
    fn families_are_told_apart() {
        let socket = |family: i32| native(libc::SYS_socket, [family as u64, 1, 0, 0, 0, 0]);
        assert_eq!(socket(libc::AF_INET), NOTIFY);
        assert_eq!(socket(libc::AF_INET6), NOTIFY);
        assert_eq!(socket(libc::AF_UNIX), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK), ALLOW);
        assert_eq!(socket(libc::AF_VSOCK), errno(libc::EAFNOSUPPORT));
        assert_eq!(socket(libc::AF_TIPC), errno(libc::EAFNOSUPPORT));
        // Only the low word counts, as in the kernel.
        assert_eq!(native(libc::SYS_socket, [(7 << 32) | 2, 1, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(native(libc::SYS_socketpair, [libc::AF_TIPC as u64; 6]), errno(libc::EAFNOSUPPORT));
        assert_eq!(native(libc::SYS_socketpair, [libc::AF_UNIX as u64; 6]), ALLOW);
    }

    #[test]
    fn who_may_leave_the_network_is_noticed() {
        let new_network = libc::CLONE_NEWNET as u64;
        for sockets in [Sockets::Host, Sockets::Surrogates, Sockets::StreamSurrogates] {
            let verdict = |number, first| run(sockets, AUDIT_ARCH, number, [first, 0, 0, 0, 0, 0]);
            assert_eq!(verdict(libc::SYS_setns, 3), NOTIFY);
            assert_eq!(verdict(libc::SYS_unshare, new_network | libc::CLONE_NEWUSER as u64), NOTIFY);
            assert_eq!(verdict(libc::SYS_unshare, libc::CLONE_NEWNS as u64), ALLOW);
            assert_eq!(verdict(libc::SYS_clone, new_network | 17), NOTIFY);
            assert_eq!(verdict(libc::SYS_clone, 17), ALLOW);
            assert_eq!(verdict(libc::SYS_clone3, 0x1000), errno(libc::ENOSYS));
        }
    }

    #[test]
    fn the_refusal_of_descriptors_cannot_be_undone() {
        for sockets in [Sockets::Surrogates, Sockets::StreamSurrogates] {
            let set = |level: i32, option: i32, high: u64| {
                let args = [3, level as u64 | high, option as u64 | high, 8, 4, 0];
                run(sockets, AUDIT_ARCH, libc::SYS_setsockopt, args)
            };
            // The kernel reads two ints.
            for high in [0, 1 << 32, 0xffff_ffff << 32] {
                assert_eq!(set(libc::SOL_SOCKET, unix::PASS_RIGHTS, high), errno(libc::ENOPROTOOPT));
            }
            assert_eq!(set(libc::SOL_SOCKET, libc::SO_LINGER, 0), NOTIFY);
            assert_eq!(set(libc::IPPROTO_TCP, unix::PASS_RIGHTS, 0), NOTIFY);
        }
    }

    #[test]
    fn an_address_in_either_word_traps() {
        for pointer in [1u64, 1 << 32, u64::MAX] {
            assert_eq!(native(libc::SYS_sendto, [3, 0, 0, 0, pointer, 16]), NOTIFY);
            assert_eq!(native(libc::SYS_recvfrom, [3, 0, 0, 0, pointer, 0]), NOTIFY);
            assert_eq!(native(libc::SYS_accept4, [3, pointer, 0, 0, 0, 0]), NOTIFY);
        }
        assert_eq!(native(libc::SYS_sendto, [3, 9, 9, 0, 0, 0]), ALLOW);
        assert_eq!(native(libc::SYS_recvfrom, [3, 9, 9, libc::MSG_PEEK as u64, 0, 0]), ALLOW);
        assert_eq!(native(libc::SYS_recvfrom, [3, 9, 9, libc::MSG_ERRQUEUE as u64, 0, 0]), NOTIFY);
        assert_eq!(native(libc::SYS_sendto, [3, 9, 9, libc::MSG_OOB as u64, 0, 0]), NOTIFY);
        assert_eq!(native(libc::SYS_accept4, [3, 0, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn data_and_file_calls_are_free() {
        for number in
            [libc::SYS_read, libc::SYS_write, libc::SYS_close, libc::SYS_epoll_wait, libc::SYS_openat]
        {
            assert_eq!(native(number, [3, 1, 1, 0, 0, 0]), ALLOW);
        }
        assert_eq!(native(libc::SYS_ioctl, [0, libc::TCGETS, 0, 0, 0, 0]), ALLOW);
        assert_eq!(native(libc::SYS_ioctl, [0, libc::FIONREAD, 0, 0, 0, 0]), ALLOW);
        assert_eq!(native(libc::SYS_ioctl, [0, 0x8912, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(native(libc::SYS_ioctl, [0, libc::TIOCOUTQ, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(native(libc::SYS_ioctl, [0, 0x8A00, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn nothing_is_typed_into_a_terminal() {
        for sockets in [Sockets::Host, Sockets::Surrogates, Sockets::StreamSurrogates] {
            for request in [libc::TIOCSTI, libc::TIOCLINUX] {
                // The kernel reads an unsigned int: what stands above it changes nothing.
                for high in [0, 1 << 32, 0xffff_ffff << 32] {
                    let args = [0, request | high, 0x1000, 0, 0, 0];
                    let verdict = run(sockets, AUDIT_ARCH, libc::SYS_ioctl, args);
                    assert_eq!(verdict, errno(libc::EPERM));
                }
            }
            for request in [libc::TIOCGWINSZ, libc::TIOCSCTTY, libc::TCSETS] {
                let args = [0, request, 0x1000, 0, 0, 0];
                assert_eq!(run(sockets, AUDIT_ARCH, libc::SYS_ioctl, args), ALLOW);
            }
        }
    }

    #[test]
    fn ways_around_are_closed() {
        assert_eq!(native(libc::SYS_io_uring_setup, [0; 6]), errno(libc::ENOSYS));
        assert_eq!(run(Sockets::Surrogates, 0x4000_0003, 102, [0; 6]), KILL, "i386");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(native(0x4000_0029, [2, 1, 0, 0, 0, 0]), errno(libc::ENOSYS), "x32");
    }
}
