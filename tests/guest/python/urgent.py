"""Urgent data: MSG_OOB, SIOCATMARK, SO_OOBINLINE, SIGURG."""

import fcntl
import os
import signal
import socket
import struct

from lib import *

SIOCATMARK = 0x8905


def at_mark(sock):
    return struct.unpack("i", fcntl.ioctl(sock, SIOCATMARK, bytes(4)))[0]


def urgent_comes(sock):
    return bool(poll_bits(sock, 3000, select.POLLPRI) & select.POLLPRI)


@per_family
def urgent_out_of_band(family):
    client, accepted = tcp_pair(family)
    fails("MSG_OOB with nothing there", "EINVAL", accepted.recv, 1, socket.MSG_OOB)
    eq("SIOCATMARK with nothing there", at_mark(accepted), 0)
    client.sendall(b"ab")
    eq("send of two bytes, the second urgent", client.send(b"c!", socket.MSG_OOB), 2)
    client.sendall(b"de")
    check("poll says PRI", urgent_comes(accepted))
    eq("not at the mark yet", at_mark(accepted), 0)
    eq("data before the mark", receive_exactly(accepted, 3), b"abc")
    eq("at the mark", at_mark(accepted), 1)
    eq("the urgent byte, looked at", accepted.recv(10, socket.MSG_OOB | socket.MSG_PEEK), b"!")
    eq("the urgent byte", accepted.recv(10, socket.MSG_OOB), b"!")
    fails("MSG_OOB once it was read", "EINVAL", accepted.recv, 1, socket.MSG_OOB)
    eq("data behind the mark", receive_exactly(accepted, 2), b"de")
    eq("the mark is passed", at_mark(accepted), 0)
    # And the other way, with nothing around it.
    accepted.send(b"?", socket.MSG_OOB)
    check("poll says PRI to the other side", urgent_comes(client))
    eq("the urgent byte alone", client.recv(1, socket.MSG_OOB), b"?")
    accepted.close()
    eq("and the end of the stream", client.recv(10), b"")
    client.close()


@per_family
def urgent_before_the_data(family):
    # Telnet's way: the urgent byte is read before what came ahead of it.
    client, accepted = tcp_pair(family)
    client.sendall(b"x" * 5000)
    client.send(b"!", socket.MSG_OOB)
    client.sendall(b"behind")
    check("poll says PRI", urgent_comes(accepted))
    eq("the urgent byte first", accepted.recv(1, socket.MSG_OOB), b"!")
    got = receive_exactly(accepted, 5006)
    eq("then the stream without it", (got[:5000] == b"x" * 5000, got[5000:]), (True, b"behind"))
    client.close()
    accepted.close()


@per_family
def urgent_inline(family):
    client, accepted = tcp_pair(family)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    eq("SO_OOBINLINE", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE), 1)
    client.sendall(b"ab")
    client.send(b"!", socket.MSG_OOB)
    client.sendall(b"cd")
    check("poll says PRI", urgent_comes(accepted))
    fails("MSG_OOB", "EINVAL", accepted.recv, 1, socket.MSG_OOB)
    eq("data before the mark", receive_exactly(accepted, 2), b"ab")
    eq("at the mark", at_mark(accepted), 1)
    eq("the urgent byte in line", receive_exactly(accepted, 3), b"!cd")
    client.close()
    accepted.close()


@case
def urgent_signal():
    client, accepted = tcp_pair()
    seen = []
    signal.signal(signal.SIGURG, lambda number, frame: seen.append(number))
    fcntl.fcntl(accepted, fcntl.F_SETOWN, os.getpid())
    client.send(b"!", socket.MSG_OOB)
    check("SIGURG", wait_until(lambda: seen))
    check("poll says PRI", urgent_comes(accepted))
    eq("the urgent byte", accepted.recv(1, socket.MSG_OOB), b"!")


@case
def urgent_by_every_call():
    client, accepted = tcp_pair()
    data = ctypes.create_string_buffer(b"m")
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(data), 1)
    # struct mmsghdr: no name, one part, no control messages, flags, and the length that is written.
    messages = (ctypes.c_size_t * 16)(0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0, *[0] * 8)
    calls = [
        (b"s", lambda: client.send(b"s", socket.MSG_OOB)),
        (b"t", lambda: client.sendto(b"t", socket.MSG_OOB, accepted.getsockname())),
        (b"g", lambda: client.sendmsg([b"", b"g"], [], socket.MSG_OOB)),
        (b"m", lambda: LIBC.sendmmsg(client.fileno(), messages, 1, socket.MSG_OOB)),
    ]
    for byte, call in calls:
        eq(f"sends of {byte}", call(), 1)
        check(f"poll says PRI of {byte}", urgent_comes(accepted))
        eq(f"recvmsg of {byte}", accepted.recvmsg(4, 0, socket.MSG_OOB)[0], byte)
        client.sendall(b".")
        eq(f"the stream after {byte}", receive_exactly(accepted, 1), b".")
    datagram = socket.socket(V4, UDP)
    datagram.connect(accepted.getsockname())
    fails("a datagram socket", "EOPNOTSUPP", datagram.send, b"u", socket.MSG_OOB)


@case
def urgent_then_end():
    client, accepted = tcp_pair()
    client.send(b"ab!", socket.MSG_OOB)
    client.shutdown(socket.SHUT_WR)
    check("poll says PRI", urgent_comes(accepted))
    eq("data before the mark", receive_exactly(accepted, 2), b"ab")
    eq("the urgent byte", accepted.recv(1, socket.MSG_OOB), b"!")
    eq("the end", accepted.recv(10), b"")
