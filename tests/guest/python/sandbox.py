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


@case
def sandbox_urgent():
    client, accepted = tcp_pair()
    data = ctypes.create_string_buffer(b"u")
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(data), 1)
    # struct mmsghdr: no name, one part, no control messages, flags, and the length that is written.
    messages = (ctypes.c_size_t * 16)(0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0, *[0] * 8)

    def sendmmsg():
        if LIBC.sendmmsg(client.fileno(), messages, 1, socket.MSG_OOB) < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")

    fails("send", "EOPNOTSUPP", client.send, b"u", socket.MSG_OOB)
    fails("sendto", "EOPNOTSUPP", client.sendto, b"u", socket.MSG_OOB, accepted.getsockname())
    fails("sendmsg", "EOPNOTSUPP", client.sendmsg, [b"u"], [], socket.MSG_OOB)
    fails("sendmmsg", "EOPNOTSUPP", sendmmsg)
    fails("recv", "EINVAL", accepted.recv, 1, socket.MSG_OOB)
    client.sendall(b"data")
    eq("nothing of it was sent", receive_exactly(accepted, 4), b"data")
