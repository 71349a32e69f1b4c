//! The system calls that level 0 objects make beyond the sentry's base.

use std::io;

use netgraft_plugin::SyscallRule;

/// The flags of clone(2) that every thread has and no process: shared memory, and the thread group.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;

/// The type byte of an ioctl number (ioctl(2)), and that of vhost's requests (`VHOST_VIRTIO` in linux/vhost.h).
const IOCTL_TYPE: u64 = 0xff00;
const VHOST: u64 = 0xaf00;

/// Rules for threads, their scheduling and their memory, and for what an environment such as DPDK's does as it starts
/// (`strace -f dpdk-testpmd --no-huge --no-pci`). Packets need none: the base has what reads and writes descriptors,
/// and shared anonymous mappings at fixed addresses, as long as they are not executable.
///
/// A device behind vhost-net is driven with ioctls. The sentry can open no such device, so that rule is worth
/// something only for a descriptor that pre-init opened.
///
/// clone3(2) passes its flags in memory, where no filter looks: [`forbid_clone3`] answers it with ENOSYS, and the
/// C library then makes its threads with clone(2).
pub(crate) fn rules() -> Vec<SyscallRule> {
    let any = [
        libc::SYS_clone3,
        // What each new thread does.
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_set_tid_address,
        // Where and how threads run.
        libc::SYS_sched_getscheduler,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_getparam,
        libc::SYS_sched_setparam,
        libc::SYS_sched_get_priority_max,
        libc::SYS_sched_get_priority_min,
        libc::SYS_membarrier,
        // Where memory lies.
        libc::SYS_mlock,
        libc::SYS_mlock2,
        libc::SYS_mlockall,
        libc::SYS_munlock,
        libc::SYS_munlockall,
        libc::SYS_mincore,
        libc::SYS_mbind,
        libc::SYS_get_mempolicy,
        libc::SYS_set_mempolicy,
        libc::SYS_fallocate,
        // Files of the environment's own. The sentry's file system is empty and read-only: all but locks of its own
        // memory files fail there, and such an environment goes on without.
        libc::SYS_flock,
        libc::SYS_fstatfs,
        libc::SYS_statfs,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        // What the machine has.
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_clock_getres,
    ];
    let threads = SyscallRule::masked(libc::SYS_clone, 0, THREAD, THREAD);
    let vhost = SyscallRule::masked(libc::SYS_ioctl, 1, IOCTL_TYPE, VHOST);
    let any = any.iter().chain(OLDER).map(|number| SyscallRule::any(*number));
    [threads, vhost].into_iter().chain(any).collect()
}

/// The same, of calls that only this architecture has. `iopl` needs CAP_SYS_RAWIO, which no sentry has: it fails, where
/// drivers that are linked in try it, and do without.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_iopl];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Makes clone3(2) answer ENOSYS in this process, for good, if the process is one that gains no privileges any more:
/// a sentry on its way to its allow-list.
///
/// # Errors
/// As seccomp(2).
pub fn forbid_clone3() -> io::Result<()> {
    // SAFETY: the operation takes no memory; unused arguments are zero.
    if unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } != 1 {
        return Ok(());
    }
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let errno = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    // The number stands at offset 0 of what a filter sees. clone3 has the same number on every architecture.
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_clone3 as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, errno),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let flags: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: the program and its statements live through the call, which copies them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netgraft_linux::process::{Change, Wait, fork, wait};

    #[test]
    fn threads_can_still_be_made_without_clone3() {
        let child = fork(|| {
            // SAFETY: nothing is read where both arguments are zero: EINVAL or EFAULT, or ENOSYS.
            let clone3 = || unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
            let errno = || io::Error::last_os_error().raw_os_error();
            if clone3() != -1 || errno() == Some(libc::ENOSYS) || forbid_clone3().is_err() {
                return 1;
            }
            // Not yet: the process could gain privileges.
            if clone3() != -1 || errno() == Some(libc::ENOSYS) {
                return 2;
            }
            if netgraft_linux::confine::no_new_privileges().is_err() || forbid_clone3().is_err() {
                return 3;
            }
            if clone3() != -1 || errno() != Some(libc::ENOSYS) {
                return 4;
            }
            std::thread::spawn(|| 5).join().map_or(6, |five| five - 5)
        })
        .unwrap();
        assert_eq!(wait(child, Wait::Block).unwrap(), Some(Change::Exited(0)));
    }

    #[test]
    fn only_threads_are_allowed_and_no_way_out() {
        let rules = rules();
        let clone = rules.iter().find(|r| r.number == libc::SYS_clone).unwrap();
        let fork = libc::SIGCHLD as u64;
        assert!(clone.conditions.iter().any(|c| fork & c.mask != c.value));
        let ioctls: Vec<_> = rules.iter().filter(|r| r.number == libc::SYS_ioctl).collect();
        let may = |request: u64| {
            ioctls.iter().any(|r| r.conditions.iter().all(|c| c.index == 1 && request & c.mask == c.value))
        };
        // VHOST_SET_OWNER, VHOST_NET_SET_BACKEND; and a terminal's input.
        assert!(may(0xaf01) && may(0x4008_af30) && !may(libc::TIOCSTI) && !may(libc::TUNSETIFF));
        for number in [libc::SYS_socket, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_setns, libc::SYS_mmap]
        {
            assert!(rules.iter().all(|r| r.number != number));
        }
    }
}
