"""What fails, and with which errno."""

import os
import socket

from lib import *


@per_family
def error_bind(family):
    with listener(family) as server:
        with socket.socket(family, TCP) as other:
            fails("a port that listens", "EADDRINUSE", other.bind, server.getsockname())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            fails("REUSEADDR does not help against a listener", "EADDRINUSE", other.bind, server.getsockname())
        with socket.socket(family, TCP) as other:
            fails("the wildcard of the same port", "EADDRINUSE", other.bind, (ANY[family], server.getsockname()[1]))
        fails("bind twice", "EINVAL", server.bind, (LOOPBACK[family], 0))
    for kind in (TCP, UDP):
        with socket.socket(family, kind) as sock, socket.socket(family, kind) as other:
            other.bind((LOOPBACK[family], 0))
            sock.bind((LOOPBACK[family], 0))
            fails("bind to another port", "EINVAL", sock.bind, (LOOPBACK[family], other.getsockname()[1]))
    foreign = "192.0.2.77" if family == V4 else "2001:db8::77"
    for kind in (TCP, UDP):
        with socket.socket(family, kind) as sock:
            fails("an address that is not ours", "EADDRNOTAVAIL", sock.bind, (foreign, 0))


@case
def error_bind_client_twice():
    client, _ = tcp_pair()
    fails("bind of a connected socket", "EINVAL", client.bind, ("127.0.0.1", 0))


@case
def error_connect():
    client, _ = tcp_pair()
    fails("connect of a connected socket", "EISCONN", client.connect, ("127.0.0.1", 9))
    with listener() as server:
        fails("connect of a listener", "EISCONN", server.connect, ("127.0.0.1", 9))
    for kind in (TCP, UDP):
        with socket.socket(V4, kind) as sock:
            short = bytes([2, 0, 0, 9])
            eq("a short address", (LIBC.connect(sock.fileno(), short, 4), ctypes.get_errno()), (-1, errno.EINVAL))
            six = b"\x0a\x00\x00\x09" + bytes(24)
            eq("an IPv6 address", (LIBC.connect(sock.fileno(), six, 28), ctypes.get_errno()), (-1, errno.EAFNOSUPPORT))
            unix = b"\x01\x00/nowhere" + bytes(8)
            eq("a unix address", (LIBC.connect(sock.fileno(), unix, 16), ctypes.get_errno()), (-1, errno.EAFNOSUPPORT))


@case
def error_not_connected():
    for family in (V4, V6):
        with socket.socket(family, TCP) as sock:
            fails("getpeername", "ENOTCONN", sock.getpeername)
            fails("recv", "ENOTCONN", sock.recv, 10)
            fails("send", "EPIPE", sock.send, b"x")
            fails("shutdown", "ENOTCONN", sock.shutdown, socket.SHUT_RDWR)
            fails("accept", "EINVAL", sock.accept)


@case
def error_listener():
    with listener() as server:
        fails("getpeername", "ENOTCONN", server.getpeername)
        fails("recv", "ENOTCONN", server.recv, 10)
        fails("send", "EPIPE", server.send, b"x")
        eq("listen again", error_of(server.listen, 99), "success")
    client, _ = tcp_pair()
    fails("listen on a connected socket", "EINVAL", client.listen, 5)
    fails("accept on a connected socket", "EINVAL", client.accept)


@case
def error_descriptor():
    reader, _writer = os.pipe()
    sock = socket.socket(V4, TCP)
    number = sock.fileno()
    sock.close()
    address = b"\x02\x00\x00\x09\x7f\x00\x00\x01" + bytes(8)
    buffer = ctypes.create_string_buffer(16)
    length = ctypes.c_int(16)
    for fd, name in ((number, "EBADF"), (-1, "EBADF"), (reader, "ENOTSOCK")):
        want = (-1, getattr(errno, name))
        eq(f"bind {name}", (LIBC.bind(fd, address, 16), ctypes.get_errno()), want)
        eq(f"connect {name}", (LIBC.connect(fd, address, 16), ctypes.get_errno()), want)
        eq(f"listen {name}", (LIBC.listen(fd, 5), ctypes.get_errno()), want)
        eq(f"accept {name}", (LIBC.accept(fd, None, None), ctypes.get_errno()), want)
        eq(f"accept with an address {name}", (LIBC.accept(fd, buffer, ctypes.byref(length)), ctypes.get_errno()), want)
        eq(f"getsockname {name}", (LIBC.getsockname(fd, buffer, ctypes.byref(length)), ctypes.get_errno()), want)
        eq(f"getpeername {name}", (LIBC.getpeername(fd, buffer, ctypes.byref(length)), ctypes.get_errno()), want)
        eq(f"shutdown {name}", (LIBC.shutdown(fd, 2), ctypes.get_errno()), want)
        eq(f"sendto {name}", (LIBC.sendto(fd, b"x", 1, 0, address, 16), ctypes.get_errno()), want)
        eq(f"recvfrom {name}", (LIBC.recvfrom(fd, buffer, 1, 0, buffer, ctypes.byref(length)), ctypes.get_errno()), want)
        eq(f"getsockopt {name}", (LIBC.getsockopt(fd, 1, 3, buffer, ctypes.byref(length)), ctypes.get_errno()), want)
        eq(f"setsockopt {name}", (LIBC.setsockopt(fd, 1, 2, b"\1\0\0\0", 4), ctypes.get_errno()), want)


@case
def error_socket():
    fails("an unknown family", "EAFNOSUPPORT", socket.socket, 99, TCP)
    fails("an unknown type", "EINVAL", socket.socket, V4, 77)
    fails("TCP asked for UDP", "EPROTONOSUPPORT", socket.socket, V4, TCP, socket.IPPROTO_UDP)
    fails("UDP asked for TCP", "EPROTONOSUPPORT", socket.socket, V6, UDP, socket.IPPROTO_TCP)
    fails("a type without a protocol", ("EPROTONOSUPPORT", "ESOCKTNOSUPPORT"), socket.socket, V4, socket.SOCK_SEQPACKET)
    eq("an explicit protocol", error_of(lambda: socket.socket(V4, TCP, socket.IPPROTO_TCP).close()), "success")


@case
def error_socket_flags():
    import fcntl

    for kind in (TCP, UDP):
        plain = LIBC.socket(V4, kind, 0)
        eq("no flags", (fcntl.fcntl(plain, fcntl.F_GETFD), fcntl.fcntl(plain, fcntl.F_GETFL) & os.O_NONBLOCK), (0, 0))
        eq("access mode", fcntl.fcntl(plain, fcntl.F_GETFL) & os.O_ACCMODE, os.O_RDWR)
        both = LIBC.socket(V4, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        seen = (fcntl.fcntl(both, fcntl.F_GETFD), fcntl.fcntl(both, fcntl.F_GETFL) & os.O_NONBLOCK)
        eq("SOCK_CLOEXEC and SOCK_NONBLOCK", seen, (fcntl.FD_CLOEXEC, os.O_NONBLOCK))
        eq("the lowest free number is used", both, plain + 1)


@case
def error_unreachable():
    for family, address in ((V4, "203.0.113.1"), (V6, "2001:db8:ffff::1")):
        for kind in (TCP, UDP):
            with socket.socket(family, kind) as sock:
                fails("no route", "ENETUNREACH", sock.connect, (address, 9))
        with socket.socket(family, UDP) as sock:
            fails("sendto without a route", "ENETUNREACH", sock.sendto, b"x", (address, 9))


@case
def error_descriptor_limit():
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard))
    socks = []
    for _ in range(40):
        failed = error_of(lambda: socks.append(socket.socket(V4, TCP)))
        if failed != "success":
            break
    eq("more descriptors than allowed", failed, "EMFILE")
    socks.pop().close()
    eq("one closed, one free", error_of(lambda: socks.append(socket.socket(V4, TCP))), "success")


@case
def error_other_sockets():
    import tempfile

    path = os.open("/", os.O_PATH)
    address = b"\x02\x00\x00\x09\x7f\x00\x00\x01" + bytes(8)
    for call, rest in ((LIBC.connect, (address, 16)), (LIBC.listen, (5,)), (LIBC.shutdown, (2,)), (LIBC.sendto, (b"x", 1, 0, address, 16))):
        eq(f"{call.__name__} on a path", (call(path, *rest), ctypes.get_errno()), (-1, errno.EBADF))
    os.close(path)
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        with one, other, tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, kind) as server:
            server.bind(folder + "/socket")
            server.listen(2)
            fails("connect of a pair", "EISCONN", one.connect, server.getsockname())
            fails("connect of a listener", "EINVAL", server.connect, server.getsockname())
            with socket.socket(socket.AF_UNIX, kind) as client:
                client.connect(server.getsockname())
                eq("connect of one that is fresh", server.accept()[0].send(b"x"), 1)
                fails("connect again", "EISCONN", client.connect, server.getsockname())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.connect((0, 0))
        eq("netlink is connected to the kernel", netlink.getpeername(), (0, 0))
        check("and has a number of its own", netlink.getsockname()[0] != 0, netlink.getsockname())
