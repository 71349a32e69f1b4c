//! The system calls that the host stack needs in the sentry.

use netgraft_plugin::SyscallRule;

/// Exactly the calls that [`netgraft_linux::inet_socket`], [`netgraft_linux::epoll`], [`netgraft_linux::descriptor`] and
/// the broker's client make for this stack.
pub(crate) fn rules() -> Vec<SyscallRule> {
    let inet = |family: i32| SyscallRule::masked(libc::SYS_socket, 0, u64::from(u32::MAX), family as u64);
    let request = |number: libc::Ioctl| {
        SyscallRule::masked(libc::SYS_ioctl, 1, u64::from(u32::MAX), u64::from(number as u32))
    };
    let fcntl = |command: i32| SyscallRule::masked(libc::SYS_fcntl, 1, u64::from(u32::MAX), command as u64);
    let mut rules = vec![
        inet(libc::AF_INET),
        inet(libc::AF_INET6),
        request(libc::FIONREAD),
        request(libc::TIOCOUTQ),
        fcntl(libc::F_GETFL),
        fcntl(libc::F_SETFL),
    ];
    let any = [
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_listen,
        libc::SYS_accept4,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_getsockopt,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_close,
        libc::SYS_epoll_pwait2,
        // glibc makes this of poll where the architecture has no such call.
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        #[cfg(not(target_arch = "x86_64"))]
        libc::SYS_ppoll,
    ];
    rules.extend(any.into_iter().map(SyscallRule::any));
    rules
}
