//! What a process gives up: privileges to gain, a readable memory image, system calls.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::sock_filter;

use crate::bpf::{self, AUDIT_ARCH, JUMP_EQUAL, OFFSET_ARCH, OFFSET_NUMBER, if_all, jump, load, ret};
use crate::result::{check, check_long};

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers, or for PR_SET_NAME a pointer to a string that the caller
    // keeps alive; unused arguments must be zero.
    check(unsafe { libc::prctl(option, value, zero, zero, zero) }).map(drop)
}

/// Gives up gaining privileges through execve(2), for good (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// None are known.
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Closes the process's memory to every other process that has no capability for it, and lets it leave no
/// core file (`PR_SET_DUMPABLE`).
///
/// # Errors
/// None are known.
pub fn not_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Opens the process to others of its user again, which a change of user has ended (`PR_SET_DUMPABLE`).
///
/// # Errors
/// None are known.
pub fn dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 1)
}

/// Lets the kernel kill the caller when the thread that made it ends (`PR_SET_PDEATHSIG`). A change of user
/// resets this, so it comes after.
///
/// # Errors
/// None are known.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
}

/// Makes the caller the parent of each descendant that loses its own (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// None are known.
pub fn adopt_orphans() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Names the calling thread for ps(1), at most 15 bytes (`PR_SET_NAME`).
///
/// # Errors
/// None are known.
pub fn set_name(name: &CStr) -> io::Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr().addr() as libc::c_ulong)
}

/// Raises the number of descriptors that the process may have to its hard limit (setrlimit(2)).
///
/// # Errors
/// As setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// How many descriptors the process may have (getrlimit(2)).
///
/// # Errors
/// As getrlimit(2).
pub fn descriptor_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Forbids core files (setrlimit(2)).
///
/// # Errors
/// As setrlimit(2).
pub fn no_core_file() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) }).map(drop)
}

/// What the kernel lacks for a sandbox, or does not allow here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// seccomp(2) with filters: `CONFIG_SECCOMP_FILTER`.
    Filters,
    /// User notification: Linux 5.0.
    Listener,
    /// A request of the listener (seccomp_unotify(2)): its name.
    Request(&'static str),
    /// A system call: its name.
    Call(&'static str),
}

/// Looks for what can be looked for before there is a listener; `None` if everything is there. For the rest see
/// [`crate::listener::Listener::missing_request`].
#[must_use]
pub fn missing_feature() -> Option<Missing> {
    missing_listener().or_else(missing_call)
}

fn missing_listener() -> Option<Missing> {
    let seccomp = |operation: libc::c_uint, flags: libc::c_ulong, args: *mut libc::c_void| {
        // SAFETY: `args` points to what the operation reads or writes, or is null, which is answered EFAULT.
        check_long(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, args) })
    };
    let mut action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    match seccomp(libc::SECCOMP_GET_ACTION_AVAIL, 0, (&raw mut action).cast()) {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Some(Missing::Listener),
        Err(_) => return Some(Missing::Filters),
    }
    let mut sizes = libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    if seccomp(libc::SECCOMP_GET_NOTIF_SIZES, 0, (&raw mut sizes).cast()).is_err() {
        return Some(Missing::Listener);
    }
    None
}

/// Looks for calls that a kernel may be without, or that a filter around netgraft may refuse.
fn missing_call() -> Option<Missing> {
    let own = i64::from(std::process::id());
    let nowhere: *const libc::c_void = std::ptr::null();
    // SAFETY: pidfd_open has no memory arguments.
    let Ok(pidfd) = check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, own, 0_i64) }) else {
        return Some(Missing::Call("pidfd_open"));
    };
    // SAFETY: the kernel just gave this descriptor to us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as RawFd) };
    // SAFETY: pidfd_getfd has no memory arguments. No process has a descriptor of this number.
    let taken = unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, i64::from(pidfd.as_raw_fd()), i64::from(i32::MAX), 0_i64)
    };
    if check_long(taken).err().and_then(|e| e.raw_os_error()) != Some(libc::EBADF) {
        return Some(Missing::Call("pidfd_getfd"));
    }
    for (name, number) in
        [("process_vm_readv", libc::SYS_process_vm_readv), ("process_vm_writev", libc::SYS_process_vm_writev)]
    {
        // SAFETY: with no parts on either side nothing is read or written.
        let moved = unsafe { libc::syscall(number, own, nowhere, 0_i64, nowhere, 0_i64, 0_i64) };
        if moved != 0 {
            return Some(Missing::Call(name));
        }
    }
    // SAFETY: no descriptor has this number, so that none is closed.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, i64::from(u32::MAX), i64::from(u32::MAX), 0_i64) };
    (closed != 0).then_some(Missing::Call("close_range"))
}

/// One rule of an allow-list: a system call, and conditions on its arguments that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// The system call's number.
    pub number: i64,
    /// Index, mask and value of each argument that is looked at: `argument & mask == value`.
    pub conditions: Vec<(u8, u64, u64)>,
}

/// A compiled allow-list.
pub struct AllowList(Vec<sock_filter>);

impl AllowList {
    /// Compiles rules; several for one system call are alternatives.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] with the reason: an argument that does not exist, too many rules.
    pub fn compile(rules: &[Allow]) -> io::Result<AllowList> {
        AllowList::compile_for(rules, KILL)
    }

    /// The same, but any other system call raises SIGSYS, which goes to the handler of
    /// [`crate::shared::report_ends`], if that was set before, and kills the process if not.
    ///
    /// # Errors
    /// As [`AllowList::compile`].
    pub fn compile_with_names(rules: &[Allow]) -> io::Result<AllowList> {
        AllowList::compile_for(rules, libc::SECCOMP_RET_TRAP)
    }

    /// The same, but any other system call is answered EPERM, for code that may ask for more and do without.
    ///
    /// # Errors
    /// As [`AllowList::compile`].
    pub fn compile_refusing(rules: &[Allow]) -> io::Result<AllowList> {
        AllowList::compile_for(rules, Action::Errno(libc::EPERM).verdict())
    }

    fn compile_for(rules: &[Allow], otherwise: u32) -> io::Result<AllowList> {
        program(rules, libc::SECCOMP_RET_ALLOW, otherwise).map(AllowList)
    }

    /// Installs the list on all threads of the process, for good: any other system call kills the process with
    /// SIGSYS (seccomp(2)). Also sets `no_new_privs`. A list that is installed on top of another allows what both
    /// allow.
    ///
    /// # Errors
    /// As seccomp(2); one for a thread that has a filter of its own.
    pub fn install(&self) -> io::Result<()> {
        match bpf::install(&self.0, libc::SECCOMP_FILTER_FLAG_TSYNC)? {
            0 => Ok(()),
            thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
        }
    }
}

const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Compiles rules to a program that returns `matched` if one of them holds, and `otherwise` if not. A call of a foreign
/// architecture kills.
fn program(rules: &[Allow], matched: u32, otherwise: u32) -> io::Result<Vec<sock_filter>> {
    if matched == otherwise {
        return Err(invalid("what matches and what does not are treated alike"));
    }
    let mut table: BTreeMap<u32, Vec<&Allow>> = BTreeMap::new();
    for rule in rules {
        if rule.conditions.iter().any(|(index, ..)| *index > 5) {
            return Err(invalid("a system call has six arguments"));
        }
        if rule.conditions.len() > bpf::MOST_CONDITIONS {
            return Err(invalid("a rule has too many conditions"));
        }
        let number = u32::try_from(rule.number).map_err(|_| invalid("a system call has no such number"))?;
        table.entry(number).or_default().push(rule);
    }
    let mut decisions = Vec::with_capacity(table.len());
    for (number, alternatives) in table {
        let mut code = match alternatives.iter().any(|rule| rule.conditions.is_empty()) {
            true => vec![ret(matched)],
            false => alternatives.iter().flat_map(|rule| if_all(&rule.conditions, matched)).collect(),
        };
        code.push(ret(otherwise));
        decisions.push((number, code));
    }
    let start = [load(OFFSET_ARCH), jump(JUMP_EQUAL, AUDIT_ARCH, 1, 0), ret(KILL), load(OFFSET_NUMBER)];
    let code = [&start[..], &bpf::search(&decisions, otherwise)].concat();
    if code.len() > bpf::MOST { Err(invalid("there are too many rules")) } else { Ok(code) }
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The kernel does it.
    Allow,
    /// It fails with this error.
    Errno(i32),
    /// It ends the process with SIGSYS.
    Kill,
}

impl Action {
    /// What a filter returns (seccomp(2)).
    const fn verdict(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA),
            Action::Kill => KILL,
        }
    }
}

/// A compiled filter of system calls.
pub struct CallFilter(Vec<sock_filter>);

impl CallFilter {
    /// Compiles rules: `matched` becomes of a call for which one of them holds, `otherwise` of all others.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] with the reason: an argument that does not exist, too many rules, two actions that
    /// are the same.
    pub fn compile(rules: &[Allow], matched: Action, otherwise: Action) -> io::Result<CallFilter> {
        program(rules, matched.verdict(), otherwise.verdict()).map(CallFilter)
    }

    /// Installs the filter on the calling thread and what it starts, for good (seccomp(2)). Also sets `no_new_privs`. Of
    /// several filters the strictest answer counts.
    ///
    /// # Errors
    /// As seccomp(2).
    pub fn install(&self) -> io::Result<()> {
        bpf::install(&self.0, 0).map(drop)
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };

    use super::*;
    use crate::process::{Change, Wait, exit_now, fork, wait};

    fn allow(number: i64, conditions: &[(u8, u64, u64)]) -> Allow {
        Allow { number, conditions: conditions.to_vec() }
    }

    fn confined(rules: &[Allow], child: impl FnOnce() -> i32) -> Change {
        let list = AllowList::compile(rules).unwrap();
        let pid = fork(|| if list.install().is_err() { 99 } else { exit_now(child()) }).unwrap();
        wait(pid, Wait::Block).unwrap().unwrap()
    }

    #[test]
    fn what_is_not_allowed_kills() {
        let exit = allow(libc::SYS_exit_group, &[]);
        let id = allow(libc::SYS_getppid, &[]);
        let call = || {
            // SAFETY: getppid has no arguments and cannot fail.
            unsafe { libc::getppid() };
            3
        };
        assert_eq!(confined(&[exit.clone(), id], call), Change::Exited(3));
        assert_eq!(confined(&[exit], call), Change::Signaled(libc::SIGSYS));
    }

    #[test]
    fn conditions_are_alternatives_between_rules_and_all_needed_within_one() {
        let rules = [
            allow(libc::SYS_exit_group, &[(0, 0xff, 3)]),
            allow(libc::SYS_exit_group, &[(0, 0x0f, 5), (0, 0xf0, 0x10)]),
        ];
        assert_eq!(confined(&rules, || 3), Change::Exited(3));
        assert_eq!(confined(&rules, || 0x15), Change::Exited(0x15));
        assert_eq!(confined(&rules, || 0x25), Change::Signaled(libc::SIGSYS));
        let with_any = [rules[0].clone(), allow(libc::SYS_exit_group, &[])];
        assert_eq!(confined(&with_any, || 0x25), Change::Exited(0x25));
    }

    /// The same rules as seccompiler compiles them.
    fn reference(rules: &[Allow], matched: SeccompAction, otherwise: SeccompAction) -> Vec<sock_filter> {
        let mut table: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let anything: Vec<i64> = rules.iter().filter(|r| r.conditions.is_empty()).map(|r| r.number).collect();
        for rule in rules {
            let entry = table.entry(rule.number).or_default();
            // An empty list is how that one is told "with any arguments".
            if !anything.contains(&rule.number) {
                let condition = |&(index, mask, value): &(u8, u64, u64)| {
                    let (len, compare) = (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask));
                    SeccompCondition::new(index, len, compare, value).unwrap()
                };
                entry.push(SeccompRule::new(rule.conditions.iter().map(condition).collect()).unwrap());
            }
        }
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let program: BpfProgram =
            SeccompFilter::new(table, otherwise, matched, arch).unwrap().try_into().unwrap();
        let same =
            |op: seccompiler::sock_filter| sock_filter { code: op.code, jt: op.jt, jf: op.jf, k: op.k };
        program.into_iter().map(same).collect()
    }

    #[test]
    fn another_compiler_makes_the_same_of_the_same_rules() {
        // An arbitrary generator: the same sequence each time.
        let mut state = 7u64;
        let mut next = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let masks = [0, 1, 0xff00, 0xffff_ffff, 0xffff_ffff_0000_0000, u64::MAX];
        let values = [0, 1, 2, 0x2100, 0xffff_ffff, 1 << 32, u64::MAX];
        for (rules, numbers) in [(0, 1), (1, 9), (3, 9), (4, 9), (60, 120), (150, 120), (300, 3)] {
            let rules: Vec<Allow> = (0..rules)
                .map(|_| {
                    let conditions = (0..next(3)).map(|_| {
                        let [mask, value] = [masks[next(6) as usize], values[next(7) as usize]];
                        (next(6) as u8, mask, value & mask)
                    });
                    let conditions = conditions.collect();
                    Allow { number: next(numbers) as i64, conditions }
                })
                .collect();
            let ours = program(&rules, libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRAP).unwrap();
            let theirs = reference(&rules, SeccompAction::Allow, SeccompAction::Trap);
            for number in (0..125).chain([0x4000_0000, 0x4000_0029, 0xffff_ffff]) {
                for arch in [AUDIT_ARCH, AUDIT_ARCH ^ 1, 0x4000_0003] {
                    for _ in 0..40 {
                        let args = [(); 6].map(|()| values[next(7) as usize]);
                        let answers = [&ours, &theirs].map(|code| bpf::run(code, arch, number, args));
                        assert_eq!(answers[0], answers[1], "call {number} {args:x?} of {rules:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn rules_that_mean_nothing_are_errors() {
        let refuse = Action::Errno(libc::EPERM);
        let compile = |number| CallFilter::compile(&[allow(number, &[])], refuse, refuse).map(drop);
        assert_eq!(compile(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            AllowList::compile(&[allow(-1, &[])]).map(drop).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        let many = |rules| -> Vec<Allow> { (0..rules).map(|n| allow(1, &[(0, u64::MAX, n)])).collect() };
        assert!(AllowList::compile(&many(500)).is_ok());
        assert_eq!(
            AllowList::compile(&many(1000)).map(drop).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        let one = allow(1, &[(0, u64::MAX, 3); bpf::MOST_CONDITIONS + 1]);
        assert_eq!(AllowList::compile(&[one]).map(drop).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_argument_that_does_not_exist_is_an_error() {
        let error = AllowList::compile(&[allow(libc::SYS_ioctl, &[(6, 1, 1)])]).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn this_kernel_lacks_nothing() {
        assert_eq!(missing_feature(), None);
    }
}
