"""Every call that carries data over TCP."""

import array
import fcntl
import os
import socket
import stat
import struct
import tempfile
import termios
import time

from lib import *


@per_family
def data_read_write(family):
    client, server = tcp_pair(family)
    a, b = client.fileno(), server.fileno()
    eq("write", os.write(a, b"hello"), 5)
    eq("read", os.read(b, 100), b"hello")
    eq("writev", os.writev(a, [b"one", b"", b"two", b"three"]), 11)
    buffers = [bytearray(4), bytearray(100)]
    wait_until(lambda: queued(server) == 11)
    eq("readv", os.readv(b, buffers), 11)
    eq("readv's buffers", bytes(buffers[0] + buffers[1][:7]), b"onetwothree")
    eq("send", client.send(b"abc"), 3)
    eq("recv_into", server.recv_into(buffers[1]), 3)
    eq("sendmsg of three parts", client.sendmsg([b"x" * 10, b"y" * 20, b"z"]), 31)
    wait_until(lambda: queued(server) == 31)
    data, control, flags, _ = server.recvmsg(100)
    eq("recvmsg's data", data, b"x" * 10 + b"y" * 20 + b"z")
    eq("recvmsg's control data", control, [])
    eq("recvmsg's flags", flags, 0)
    eq("write of nothing", os.write(a, b""), 0)
    client.send(b"k")
    eq("recv of 0 bytes", server.recv(0), b"")
    eq("what was there is still there", server.recv(10), b"k")


@per_family
def data_address_on_stream(family):
    client, server = tcp_pair(family)
    client.send(b"m")
    eq("recvmsg's address on TCP", server.recvmsg(100)[3], None)
    client.send(b"q")
    eq("recvfrom's address on TCP", server.recvfrom(10), (b"q", None))
    eq("sendto with an address on a connected TCP socket", client.sendto(b"w", client.getpeername()), 1)
    eq("arrives all the same", server.recv(10), b"w")


def queued(sock, request=termios.FIONREAD):
    """What FIONREAD (or another request that gives an int) says."""
    answer = array.array("i", [-1])
    fcntl.ioctl(sock.fileno(), request, answer)
    return answer[0]


@case
def data_peek():
    client, server = tcp_pair()
    client.sendall(b"peek a boo")
    eq("MSG_PEEK", server.recv(4, socket.MSG_PEEK), b"peek")
    eq("peeked again", server.recv(100, socket.MSG_PEEK), b"peek a boo")
    eq("the data is still there", server.recv(100), b"peek a boo")


@case
def data_dontwait():
    client, server = tcp_pair()
    fails("MSG_DONTWAIT with nothing there", "EAGAIN", server.recv, 10, socket.MSG_DONTWAIT)
    client.sendall(b"x")
    wait_until(lambda: queued(server) == 1)
    eq("MSG_DONTWAIT with a byte there", server.recv(10, socket.MSG_DONTWAIT), b"x")
    eq("the socket stays blocking", fcntl.fcntl(server.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK, 0)


@case
def data_waitall():
    client, server = tcp_pair()

    def late():
        client.sendall(b"first ")
        time.sleep(0.1)
        client.sendall(b"second")

    task = Background(late)
    eq("MSG_WAITALL waits for all", server.recv(12, socket.MSG_WAITALL), b"first second")
    task.finish()
    client.sendall(b"short")
    client.close()
    eq("MSG_WAITALL ends with the stream", server.recv(12, socket.MSG_WAITALL), b"short")


@case
def data_fionread():
    client, server = tcp_pair()
    eq("FIONREAD of an empty socket", queued(server), 0)
    client.sendall(b"a" * 1000)
    check("FIONREAD", wait_until(lambda: queued(server) == 1000), queued(server))
    server.recv(400)
    eq("FIONREAD after a read", queued(server), 600)
    check("SIOCOUTQ falls to 0", wait_until(lambda: queued(client, termios.TIOCOUTQ) == 0))


@case
def data_fionbio():
    client, server = tcp_pair()
    fcntl.ioctl(server.fileno(), termios.FIONBIO, struct.pack("i", 1))
    fails("recv after FIONBIO 1", "EAGAIN", os.read, server.fileno(), 10)
    fcntl.ioctl(server.fileno(), termios.FIONBIO, struct.pack("i", 0))
    client.sendall(b"x")
    eq("recv after FIONBIO 0", os.read(server.fileno(), 10), b"x")


@case
def data_sendfile():
    client, server = tcp_pair()
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789" * 10000)
        file.flush()
        task = Background(receive_all, server)
        offset = 5
        while offset < 100000:
            sent = os.sendfile(client.fileno(), file.fileno(), offset, 100000 - offset)
            if sent == 0:
                break
            offset += sent
        client.close()
        eq("sendfile from an offset", task.finish(), (b"0123456789" * 10000)[5:])


@case
def data_splice():
    client, server = tcp_pair()
    out_of, into = os.pipe()
    client.sendall(b"through a pipe")
    wait_until(lambda: queued(server) == 14)
    eq("splice from a socket", os.splice(server.fileno(), into, 100), 14)
    eq("and into one", os.splice(out_of, server.fileno(), 100), 14)
    eq("arrives", client.recv(100), b"through a pipe")


@case
def data_receive_timeout():
    client, server = tcp_pair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200000))
    start = time.monotonic()
    fails("recv with SO_RCVTIMEO", "EAGAIN", server.recv, 10)
    took = time.monotonic() - start
    check("after about 0.2 s", 0.15 < took < 1.0, took)
    client.sendall(b"x")
    eq("recv in time", server.recv(10), b"x")


@case
def data_send_timeout():
    client, _server = tcp_pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200000))
    failed, start = "success", time.monotonic()
    for _ in range(4096):
        start = time.monotonic()
        failed = error_of(client.sendall, b"s" * 65536)
        if failed != "success":
            break
    took = time.monotonic() - start
    eq("send with SO_SNDTIMEO to a reader that sleeps", failed, "EAGAIN")
    check("after about 0.2 s", 0.15 < took < 2.0, took)


@case
def data_accept_timeout():
    with listener() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200000))
        start = time.monotonic()
        fails("accept with SO_RCVTIMEO", "EAGAIN", server.accept)
        took = time.monotonic() - start
        check("after about 0.2 s", 0.15 < took < 1.0, took)


@case
def data_is_a_socket():
    client, server = tcp_pair()
    info = os.fstat(client.fileno())
    check("fstat says socket", stat.S_ISSOCK(info.st_mode), oct(info.st_mode))
    link = os.readlink(f"/proc/self/fd/{client.fileno()}")
    check("so does /proc/self/fd", link.startswith("socket:["), link)
    fails("lseek", "ESPIPE", os.lseek, client.fileno(), 0, os.SEEK_SET)
    fails("pread", "ESPIPE", os.pread, client.fileno(), 10, 0)
    check("two sockets are two files", info.st_ino != os.fstat(server.fileno()).st_ino)


@case
def data_order_of_small_writes():
    client, server = tcp_pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    expected = b"".join(b"%d," % number for number in range(5000))

    def send():
        for number in range(5000):
            client.sendall(b"%d," % number)
        client.shutdown(socket.SHUT_WR)

    task = Background(send)
    eq("5000 small writes arrive in order", receive_all(server), expected)
    task.finish()


@case
def data_cork():
    client, server = tcp_pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    client.sendall(b"head ")
    client.sendall(b"body")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    eq("uncorked data arrives", receive_exactly(server, 9), b"head body")


@case
def data_ping_pong():
    client, server = tcp_pair()

    def echo():
        while part := server.recv(64):
            server.sendall(part)

    task = Background(echo)
    for number in range(2000):
        message = b"%06d" % number
        client.sendall(message)
        got = receive_exactly(client, 6)
        if got != message:
            eq(f"answer {number}", got, message)
            return
    client.close()
    task.finish()
    check("2000 requests and responses", True)


@case
def data_more():
    client, server = tcp_pair()
    client.send(b"first ", socket.MSG_MORE)
    client.send(b"second")
    eq("MSG_MORE is only a hint", receive_exactly(server, 12), b"first second")


@case
def data_long_idle():
    pairs = [tcp_pair() for _ in range(100)]
    time.sleep(1)
    for number, (client, server) in enumerate(pairs):
        client.sendall(b"%03d" % number)
        if receive_exactly(server, 3) != b"%03d" % number:
            eq("an idle connection", "silent", "alive")
            return
    check("100 idle connections are alive", True)
