"""What holds inside a sandbox only: natively each of these cases is a skip with its reason."""

import os
import socket

from lib import *

SYS_SOCKET, SYS_IO_URING_SETUP = 41, 425
AF_VSOCK, IPPROTO_MPTCP = 40, 262


@case
def sandbox_io_uring():
    parameters = ctypes.create_string_buffer(120)
    eq("io_uring_setup", (LIBC.syscall(SYS_IO_URING_SETUP, 8, parameters), ctypes.get_errno()), (-1, errno.ENOSYS))


@case
def sandbox_vsock():
    fails("AF_VSOCK", "EAFNOSUPPORT", socket.socket, AF_VSOCK, TCP)


@case
def sandbox_mptcp():
    fails("MPTCP", "EPROTONOSUPPORT", socket.socket, V4, TCP, IPPROTO_MPTCP)
    fails("MPTCP over IPv6", "EPROTONOSUPPORT", socket.socket, V6, TCP, IPPROTO_MPTCP)


@case
def sandbox_foreign_architecture():
    # getpid through the x32 table, which is one of the ways around a filter by number.
    def child():
        answer = LIBC.syscall(0x40000000 + 39)
        os._exit(0 if answer == -1 else 3)

    status = child_status(in_child(child))
    check("an x32 call does nothing", status in (0, -31), status)


@case
def sandbox_no_new_privileges():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    eq("no_new_privs is set", fields.get("NoNewPrivs"), "1")
    eq("a seccomp filter is in force", fields.get("Seccomp"), "2")
