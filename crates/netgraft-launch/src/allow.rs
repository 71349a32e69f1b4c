//! The sentry's allow-list: the system calls that an event loop over sockets, a listener and /proc makes.
//!
//! A call with conditions goes through the filter program each time; one without is answered from the
//! kernel's bitmap. So conditions stand only where they keep something out.

use std::fmt;

use netgraft_linux::confine::Allow;
use netgraft_linux::syscall;
use netgraft_plugin::SyscallRule;

const fn any(number: i64) -> (i64, &'static [(u8, u64, u64)]) {
    (number, &[])
}

/// All bits of an argument that the kernel reads as an int.
const INT: u64 = 0xffff_ffff;
const EXEC: u64 = libc::PROT_EXEC as u64;
/// The type byte of an ioctl number, and its value for the listener's own.
const IOCTL_TYPE: u64 = 0xff00;
const LISTENER: u64 = 0x2100;
const SOCKET: u64 = 0x8900;

/// System call, and conditions that must all hold: index, mask and value of an argument.
type Entry = (i64, &'static [(u8, u64, u64)]);

/// What the sentry itself does once it is confined, with a stack of this tree in it.
const BASE: &[Entry] = &[
    // Waiting.
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_pwait2),
    any(libc::SYS_timer_settime),
    any(libc::SYS_inotify_init1),
    any(libc::SYS_inotify_add_watch),
    any(libc::SYS_inotify_rm_watch),
    any(libc::SYS_clock_nanosleep),
    // The program: its descriptors, its memory, its entries in /proc. The root file system is read-only.
    any(libc::SYS_pidfd_open),
    any(libc::SYS_pidfd_getfd),
    any(libc::SYS_process_vm_readv),
    any(libc::SYS_process_vm_writev),
    any(libc::SYS_openat),
    any(libc::SYS_statx),
    any(libc::SYS_getdents64),
    (libc::SYS_ioctl, &[(1, IOCTL_TYPE, LISTENER)]),
    // Sockets that are no way out: surrogates.
    (libc::SYS_socket, &[(0, INT, libc::AF_UNIX as u64)]),
    (libc::SYS_socketpair, &[(0, INT, libc::AF_UNIX as u64)]),
    any(libc::SYS_connect),
    any(libc::SYS_bind),
    any(libc::SYS_listen),
    any(libc::SYS_accept4),
    any(libc::SYS_shutdown),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
    any(libc::SYS_getsockopt),
    any(libc::SYS_setsockopt),
    any(libc::SYS_sendto),
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendmsg),
    any(libc::SYS_recvmsg),
    (libc::SYS_ioctl, &[(1, IOCTL_TYPE, SOCKET)]),
    (libc::SYS_ioctl, &[(1, INT, libc::FIONREAD)]),
    (libc::SYS_ioctl, &[(1, INT, libc::TIOCOUTQ)]),
    // Descriptors.
    any(libc::SYS_read),
    any(libc::SYS_pread64),
    any(libc::SYS_write),
    any(libc::SYS_close),
    any(libc::SYS_fcntl),
    // Memory, never executable.
    (libc::SYS_mmap, &[(2, EXEC, 0)]),
    (libc::SYS_mprotect, &[(2, EXEC, 0)]),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_madvise),
    any(libc::SYS_brk),
    // The process itself, and its end, an abort included.
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    any(libc::SYS_getrandom),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    (libc::SYS_prlimit64, &[(0, INT, 0), (2, u64::MAX, 0)]), // its own limits, read only
    // Of any signal but SIGSYS, whose handler names what was refused: 31 has the five low bits and no other.
    (libc::SYS_rt_sigaction, &[(0, 1, 0)]),
    (libc::SYS_rt_sigaction, &[(0, 2, 0)]),
    (libc::SYS_rt_sigaction, &[(0, 4, 0)]),
    (libc::SYS_rt_sigaction, &[(0, 8, 0)]),
    (libc::SYS_rt_sigaction, &[(0, 16, 0)]),
    (libc::SYS_rt_sigaction, &[(0, 32, 32)]),
    (libc::SYS_rt_sigaction, &[(1, u64::MAX, 0)]), // reads only
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_tgkill),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(POLL),
    // Where a panic is, for RUST_BACKTRACE.
    any(libc::SYS_getcwd),
    any(READLINK),
];

/// What the C library's poll(3) is.
#[cfg(target_arch = "x86_64")]
const POLL: i64 = libc::SYS_poll;
#[cfg(not(target_arch = "x86_64"))]
const POLL: i64 = libc::SYS_ppoll;

/// What the C library's readlink(3) is.
#[cfg(target_arch = "x86_64")]
const READLINK: i64 = libc::SYS_readlink;
#[cfg(not(target_arch = "x86_64"))]
const READLINK: i64 = libc::SYS_readlinkat;

/// Calls of the base that not every run of a sentry makes, and when one does.
const RARE: &[(i64, &str)] = &[
    (libc::SYS_clock_gettime, "where the clock is read by a call, not in memory that the kernel shares"),
    (
        libc::SYS_clock_nanosleep,
        "while the thread that closes files is behind, or the writer of a capture at the end",
    ),
    (libc::SYS_restart_syscall, "after the sentry was stopped and continued (SIGCONT)"),
    (libc::SYS_sched_yield, "while another thread has a lock for a moment"),
    (libc::SYS_getrandom, "the first hash table of a thread"),
    (libc::SYS_mremap, "large buffers that grow"),
    (libc::SYS_munmap, "large buffers that go"),
    (libc::SYS_brk, "memory, if there is little of it"),
    (libc::SYS_mprotect, "memory of threads"),
    (libc::SYS_madvise, "the end of a thread"),
    (libc::SYS_sigaltstack, "the end of a thread"),
    (libc::SYS_exit, "the end of a thread"),
    (libc::SYS_exit_group, "its end, where the launcher does not come first"),
    (libc::SYS_rt_sigreturn, "a timer's signal"),
    (
        libc::SYS_getdents64,
        "a search for the descriptors of programs, when a sentry takes over or a capture is to say whose a datagram is",
    ),
    (libc::SYS_write, "messages for the operator"),
    (libc::SYS_getcwd, "a panic, with RUST_BACKTRACE"),
    (READLINK, "a panic, with RUST_BACKTRACE"),
    (libc::SYS_getpid, "a sentry that takes over, which must not find itself"),
    (libc::SYS_gettid, "abort(3)"),
    (libc::SYS_tgkill, "abort(3)"),
    (libc::SYS_rt_sigprocmask, "abort(3)"),
];

/// What the sentry itself makes on private links: many frames at a time.
#[must_use]
pub fn on_private_links() -> [SyscallRule; 2] {
    [libc::SYS_sendmmsg, libc::SYS_recvmmsg].map(SyscallRule::any)
}

/// The calls that the operator allows, and those on private links.
pub(super) fn of_private_link(is_private: bool, mut allowed: Vec<SyscallRule>) -> Vec<SyscallRule> {
    if is_private {
        allowed.extend(on_private_links());
    }
    allowed
}

/// What the code of a stack that is not of this tree may do besides: what event loops in C and their library do, and what
/// opens no way out either.
const FOREIGN: &[Entry] = &[
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_pselect6),
    any(libc::SYS_eventfd2),
    any(libc::SYS_timerfd_create),
    any(libc::SYS_timerfd_settime),
    any(libc::SYS_timerfd_gettime),
    any(libc::SYS_getitimer),
    any(libc::SYS_nanosleep),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_pidfd_send_signal),
    any(libc::SYS_kcmp),
    any(libc::SYS_newfstatat),
    any(libc::SYS_fstat),
    any(libc::SYS_faccessat),
    any(libc::SYS_chdir),
    any(libc::SYS_fchdir),
    any(libc::SYS_accept),
    any(libc::SYS_sendmmsg),
    any(libc::SYS_recvmmsg),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_pwrite64),
    any(libc::SYS_lseek),
    any(libc::SYS_close_range),
    any(libc::SYS_dup),
    any(libc::SYS_dup3),
    any(libc::SYS_pipe2),
    any(libc::SYS_splice),
    any(libc::SYS_memfd_create),
    any(libc::SYS_ftruncate),
    (libc::SYS_ioctl, &[(1, INT, libc::FIONBIO)]),
    (libc::SYS_ioctl, &[(1, INT, libc::FIOCLEX)]),
    (libc::SYS_ioctl, &[(1, INT, libc::TCGETS)]), // isatty(3) on standard error
    any(libc::SYS_getuid),
    any(libc::SYS_geteuid),
    any(libc::SYS_getgid),
    any(libc::SYS_getegid),
    any(libc::SYS_getrusage),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_sched_setaffinity),
    any(libc::SYS_getcpu),
    (libc::SYS_prctl, &[(0, INT, libc::PR_SET_NAME as u64)]),
    (libc::SYS_prctl, &[(0, INT, libc::PR_SET_TIMERSLACK as u64)]),
    any(libc::SYS_getrlimit),
];

/// Older forms of the same calls, which only some architectures have: each does what a call of the two lists with other
/// arguments does, and nothing else.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Entry] = &[
    any(libc::SYS_ppoll),
    any(libc::SYS_readlinkat),
    any(libc::SYS_epoll_create),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd),
    any(libc::SYS_inotify_init),
    any(libc::SYS_select),
    any(libc::SYS_pause),
    any(libc::SYS_alarm),
    any(libc::SYS_pipe),
    any(libc::SYS_getdents),
    any(libc::SYS_open),
    any(libc::SYS_creat), // openat(2) with O_CREAT, O_WRONLY and O_TRUNC
    any(libc::SYS_stat),
    any(libc::SYS_lstat),
    any(libc::SYS_access),
    any(libc::SYS_dup2),
    any(libc::SYS_time),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Entry] = &[];

/// Whose code runs in a sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A stack of this tree, which names what it needs beyond the sentry's own calls.
    Tree,
    /// Any other: a shared object, or a stack of the program that embeds netgraft.
    Foreign,
}

fn of_table((number, conditions): Entry) -> Allow {
    Allow { number, conditions: conditions.to_vec() }
}

fn base(origin: Origin) -> impl Iterator<Item = Allow> {
    let more: [&[Entry]; 2] = match origin {
        Origin::Tree => [&[], &[]],
        Origin::Foreign => [FOREIGN, OLDER],
    };
    BASE.iter().chain(more.into_iter().flatten()).copied().map(of_table)
}

fn of_stack(rule: &SyscallRule) -> Allow {
    let conditions = rule.conditions.iter().map(|c| (c.index, c.mask, c.value)).collect();
    Allow { number: rule.number, conditions }
}

/// The base and what a stack adds.
///
/// Of signals the base allows all that there is to have: a stack cannot have SIGSYS.
pub(super) fn rules(origin: Origin, stack: &[SyscallRule]) -> Vec<Allow> {
    base(origin).chain(stack.iter().map(of_stack).filter(|r| r.number != libc::SYS_rt_sigaction)).collect()
}

/// What --allow-syscall adds: calls with any arguments.
#[must_use]
pub fn allowed_calls(numbers: &[i64]) -> Vec<SyscallRule> {
    numbers.iter().copied().map(SyscallRule::any).collect()
}

/// How an operator allows a system call that a stack was killed for.
#[must_use]
pub fn remedy(number: i64) -> String {
    match syscall::name(number) {
        Some(name) => format!("--allow-syscall {name} allows it"),
        None => format!("--allow-syscall {number} allows it"),
    }
}

/// The rules of a stack that the base does not contain, as texts.
pub(super) fn wider_than_base(stack: &[SyscallRule]) -> Vec<String> {
    stack
        .iter()
        .map(of_stack)
        .filter(|rule| !base(Origin::Foreign).any(|b| covers(&b, rule)))
        .map(|rule| match rule.conditions.len() {
            0 => call_text(rule.number),
            1 => format!("{} under 1 condition", call_text(rule.number)),
            n => format!("{} under {n} conditions", call_text(rule.number)),
        })
        .collect()
}

/// A system call by its name, or by its number if it has none that is known.
#[must_use]
pub fn call_text(number: i64) -> String {
    match syscall::name(number) {
        Some(name) => format!("system call {name}"),
        None => format!("system call {number}"),
    }
}

/// Whether everything that `inner` allows is allowed by `outer`: each condition of `outer` follows from one of
/// `inner`.
fn covers(outer: &Allow, inner: &Allow) -> bool {
    outer.number == inner.number
        && outer.conditions.iter().all(|&(index, mask, value)| {
            inner.conditions.iter().any(|&(i, m, v)| i == index && m & mask == mask && v & mask == value)
        })
}

/// A list of system calls for people: one a line, with the arguments that are looked at, or with when a rare one is made.
pub struct Listing(Vec<Listed>);

/// A system call, the rules that allow it, and when it is made if it is rare.
type Listed = (i64, Vec<Allow>, Option<&'static str>);

impl Listing {
    fn of(rules: impl Iterator<Item = Allow>, rare: &[(i64, &'static str)]) -> Listing {
        let mut by_name: Vec<Listed> = Vec::new();
        for rule in rules {
            match by_name.iter_mut().find(|(number, ..)| *number == rule.number) {
                Some((_, rules, _)) => rules.push(rule),
                None => {
                    let when = rare.iter().find(|(number, _)| *number == rule.number).map(|(_, when)| *when);
                    by_name.push((rule.number, vec![rule], when));
                }
            }
        }
        by_name.sort_by_key(|(number, ..)| name_or_number(*number));
        Listing(by_name)
    }

    /// How many system calls there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, rules, when) in &self.0 {
            let name = name_or_number(*number);
            let ways: Vec<String> =
                rules.iter().filter(|rule| !rule.conditions.is_empty()).map(conditions_text).collect();
            let only = (!ways.is_empty()).then(|| format!("only if {}", ways.join(", or ")));
            let rare = when.map(|when| format!("rare: {when}"));
            let more = [only, rare].into_iter().flatten().collect::<Vec<_>>().join("; ");
            writeln!(f, "{}", format!("  {name:<20}{more}").trim_end())?;
        }
        Ok(())
    }
}

fn name_or_number(number: i64) -> String {
    syscall::name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// The conditions of a rule, with arguments counted from 0 as seccomp(2) does.
fn conditions_text(rule: &Allow) -> String {
    let one = |&(index, mask, value): &(u8, u64, u64)| match mask {
        u64::MAX | INT => format!("argument {index} is {value:#x}"),
        _ => format!("argument {index} & {mask:#x} is {value:#x}"),
    };
    rule.conditions.iter().map(one).collect::<Vec<_>>().join(" and ")
}

/// The system calls of a sentry with a stack of this tree in it, before the stack's own.
#[must_use]
pub fn base_listing() -> Listing {
    Listing::of(base(Origin::Tree), RARE)
}

/// What a sentry may call besides for a stack that is not of this tree.
#[must_use]
pub fn foreign_listing() -> Listing {
    Listing::of(FOREIGN.iter().chain(OLDER).copied().map(of_table), &[])
}

/// What a stack adds to the calls of a sentry: those that are not there already.
#[must_use]
pub fn stack_listing(origin: Origin, stack: &[SyscallRule]) -> Listing {
    let new = |rule: &Allow| !base(origin).any(|b| covers(&b, rule));
    Listing::of(stack.iter().map(of_stack).filter(new), &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use netgraft_linux::confine::AllowList;

    #[test]
    fn the_base_compiles_and_has_no_way_out() {
        assert!(AllowList::compile(&rules(Origin::Foreign, &[])).is_ok());
        let forbidden = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_open_by_handle_at,
            libc::SYS_seccomp,
            libc::SYS_setrlimit,
        ];
        assert!(base(Origin::Foreign).all(|rule| !forbidden.contains(&rule.number)));
        let may = |signal: u64| {
            let rules = base(Origin::Foreign).filter(|r| r.number == libc::SYS_rt_sigaction);
            let args = [signal, 1];
            rules.into_iter().any(|r| r.conditions.iter().all(|&(i, m, v)| args[usize::from(i)] & m == v))
        };
        assert!((1..=64).all(|signal| may(signal) == (signal != libc::SIGSYS as u64)));
        let guarded =
            [libc::SYS_socket, libc::SYS_socketpair, libc::SYS_ioctl, libc::SYS_mmap, libc::SYS_mprotect];
        for number in guarded {
            assert!(base(Origin::Foreign).filter(|r| r.number == number).all(|r| !r.conditions.is_empty()));
        }
    }

    /// SECURITY.md says the number: a new call is an old one less, or a decision.
    #[test]
    fn the_sentry_has_60_system_calls() {
        let listing = base_listing();
        assert!(listing.len() <= 60 && !listing.is_empty(), "{}\n{listing}", listing.len());
        assert!(RARE.iter().all(|(number, _)| BASE.iter().any(|(of_base, _)| of_base == number)));
        assert!(base(Origin::Tree).all(|rule| syscall::name(rule.number).is_some()));
    }

    #[test]
    fn what_a_stack_of_the_tree_has_is_less_than_what_others_have() {
        let own = [SyscallRule::any(libc::SYS_readv), SyscallRule::any(libc::SYS_read)];
        assert_eq!(stack_listing(Origin::Tree, &own).to_string(), "  readv\n");
        assert!(stack_listing(Origin::Foreign, &own).is_empty());
        let masked = [SyscallRule::masked(libc::SYS_socket, 0, 0xffff_ffff, libc::AF_INET as u64)];
        let text = stack_listing(Origin::Tree, &masked).to_string();
        assert_eq!(text, "  socket              only if argument 0 is 0x2\n");
    }

    #[test]
    fn no_rule_of_the_base_is_contained_in_another() {
        let all: Vec<Allow> = base(Origin::Foreign).collect();
        for (i, outer) in all.iter().enumerate() {
            for (j, inner) in all.iter().enumerate() {
                assert!(i == j || !covers(outer, inner), "{outer:?} covers {inner:?}");
            }
        }
    }

    #[test]
    fn the_listener_s_ioctls_are_allowed_and_a_terminal_s_input_is_not() {
        let allowed = |request: u64| {
            base(Origin::Foreign).filter(|r| r.number == libc::SYS_ioctl).any(|r| {
                r.conditions.iter().all(|&(index, mask, value)| index == 1 && request & mask == value)
            })
        };
        for request in [0xc050_2100, 0xc018_2101, 0x4008_2102, 0x4018_2103, 0x4008_2104] {
            assert!(allowed(request), "{request:x}");
        }
        assert!(allowed(libc::FIONREAD));
        assert!(!allowed(libc::TIOCSTI));
    }

    #[test]
    fn what_a_stack_adds_is_told_unless_the_base_has_it() {
        let stack = [
            SyscallRule::any(libc::SYS_read),
            SyscallRule::any(libc::SYS_execve),
            SyscallRule::masked(libc::SYS_socket, 0, u64::MAX, libc::AF_UNIX as u64),
            SyscallRule::masked(libc::SYS_socket, 0, 0xffff_ffff, libc::AF_INET as u64),
            SyscallRule::any(libc::SYS_socket),
        ];
        let told = wider_than_base(&stack);
        let expected = ["system call execve", "system call socket under 1 condition", "system call socket"];
        assert_eq!(told, expected);
    }
}
