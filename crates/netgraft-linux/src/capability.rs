//! Capabilities (capabilities(7)) and the change of user that goes with dropping them.

use std::io;
use std::ptr;

use crate::result::{check, check_long};

/// A capability's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(u32);

impl Capability {
    /// What root in a container usually has: the ids, files and processes of its namespace, its network, and nothing that
    /// mounts, traces, loads or configures.
    pub const OF_CONTAINED_ROOT: &'static [Capability] = &[
        Capability(0),  // CAP_CHOWN
        Capability(1),  // CAP_DAC_OVERRIDE
        Capability(2),  // CAP_DAC_READ_SEARCH
        Capability(3),  // CAP_FOWNER
        Capability(4),  // CAP_FSETID
        Capability(5),  // CAP_KILL
        Capability(6),  // CAP_SETGID
        Capability(7),  // CAP_SETUID
        Capability(8),  // CAP_SETPCAP
        Capability(10), // CAP_NET_BIND_SERVICE
        Capability(11), // CAP_NET_BROADCAST
        Capability(12), // CAP_NET_ADMIN
        Capability(13), // CAP_NET_RAW
        Capability(14), // CAP_IPC_LOCK
        Capability(15), // CAP_IPC_OWNER
        Capability(18), // CAP_SYS_CHROOT
        Capability(23), // CAP_SYS_NICE
        Capability(29), // CAP_AUDIT_WRITE
        Capability(31), // CAP_SETFCAP
    ];
    /// Arbitrary group ids.
    pub const SETGID: Capability = Capability(6);
    /// Arbitrary user ids.
    pub const SETUID: Capability = Capability(7);
    /// Network administration.
    pub const NET_ADMIN: Capability = Capability(12);
    /// Raw and packet sockets.
    pub const NET_RAW: Capability = Capability(13);
    /// Inspection of other processes.
    pub const SYS_PTRACE: Capability = Capability(19);

    const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// Changes of the bounding set.
const SETPCAP: Capability = Capability(8);

/// `struct __user_cap_header_struct`
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`
const VERSION: u32 = 0x2008_0522;
/// Higher than every capability that kernels know.
const LAST: u32 = 63;

/// Whether the caller has a capability in effect, in its own user namespace.
///
/// # Errors
/// As capget(2).
pub fn has(capability: Capability) -> io::Result<bool> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both point to structures of the layout that version 3 has (two data elements), alive during
    // the call.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let effective = u64::from(data[0].effective) | u64::from(data[1].effective) << 32;
    Ok(effective & capability.bit() != 0)
}

/// Becomes another user and group, real, effective and saved, with no supplementary groups, and keeps the
/// permitted capabilities (prctl(2), `PR_SET_KEEPCAPS`). For a process with one thread.
///
/// # Errors
/// EPERM without CAP_SETUID and CAP_SETGID, EINVAL if the namespace has no such id.
pub fn become_user(user: u32, group: u32) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    let (user, group) = (i64::from(user), i64::from(group));
    // The raw calls change this thread only; libc's would also visit threads that a clone did not bring along.
    // SAFETY: a count of zero reads no memory.
    check_long(unsafe { libc::syscall(libc::SYS_setgroups, 0_i64, ptr::null::<libc::gid_t>()) })?;
    // SAFETY: no memory arguments.
    check_long(unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) })?;
    // SAFETY: no memory arguments.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) })?;
    prctl(libc::PR_SET_KEEPCAPS, 0)
}

/// Keeps one capability, permitted and effective, and gives up every other for good: in the bounding, ambient
/// and inheritable sets too.
///
/// # Errors
/// EPERM if the capability is not permitted, or without CAP_SETPCAP.
pub fn keep_only(capability: Capability) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL)?;
    // After a change of user only the permitted set is left: CAP_SETPCAP is needed for what follows.
    set(capability.bit() | SETPCAP.bit())?;
    for other in (0..=LAST).filter(|&c| c != capability.0) {
        match prctl(libc::PR_CAPBSET_DROP, other as libc::c_int) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break, // past the last one of this kernel
            result => result?,
        }
    }
    set(capability.bit())
}

/// Keeps these capabilities and gives up all others for good, in the bounding set too, so that execve(2) as root gives no
/// others.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn keep(capabilities: &[Capability]) -> io::Result<()> {
    let kept = capabilities.iter().fold(0, |bits, capability| bits | capability.bit());
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL)?;
    for other in (0..=LAST).filter(|other| kept & (1 << other) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, other as libc::c_int) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break, // past the last one of this kernel
            result => result?,
        }
    }
    set(kept)
}

/// Gives up every capability for good, in the bounding, ambient and inheritable sets too as far as the caller may.
///
/// # Errors
/// As capset(2).
pub fn drop_all() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL)?;
    // Permitted and not in effect after a change of user. Who never had it cannot take it.
    let _ = set(SETPCAP.bit());
    for capability in 0..=LAST {
        match prctl(libc::PR_CAPBSET_DROP, capability as libc::c_int) {
            // Past the last one of this kernel; or without CAP_SETPCAP, and then there is nothing to gain either.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => break,
            result => result?,
        }
    }
    set(0)
}

fn set(capabilities: u64) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let half = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [half(capabilities), half(capabilities >> 32)];
    // SAFETY: as in `has`.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

fn prctl(option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers only; unused arguments must be zero.
    check(unsafe { libc::prctl(option, value as libc::c_ulong, zero, zero, zero) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Change, Wait, fork, wait};

    #[test]
    fn one_capability_is_kept() {
        assert!(has(Capability::SETUID).unwrap(), "this test changes its user: run it as root");
        let child = fork(|| {
            let done = become_user(65534, 65534).and_then(|()| keep_only(Capability::SYS_PTRACE));
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let line =
                |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
            let only = Some("0000000000080000".to_owned());
            let none = Some("0000000000000000".to_owned());
            let good = done.is_ok()
                && line("CapPrm:") == only
                && line("CapEff:") == only
                && line("CapBnd:") == only
                && line("CapInh:") == none
                && line("CapAmb:") == none
                && line("Uid:") == Some("65534\t65534\t65534\t65534".to_owned());
            i32::from(!good)
        });
        assert_eq!(wait(child.unwrap(), Wait::Block).unwrap(), Some(Change::Exited(0)));
    }
}
