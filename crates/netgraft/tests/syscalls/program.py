# Sockets in the ways that make the sentry do all that it does.
import array
import fcntl
import os
import select
import socket
import termios

SIOCATMARK = 0x8905

server = socket.create_server(("127.0.0.1", 0))
at = server.getsockname()
for blocking in (True, False):
    here = socket.socket()
    here.setblocking(blocking)
    try:
        here.connect(at)
    except BlockingIOError:
        select.select([], [here], [], 20)
    here.setblocking(True)
    there, peer = server.accept()
    assert here.getpeername() == at and there.getpeername() == peer == here.getsockname()
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert there.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    here.sendall(b"some")
    here.sendmsg([b"more"])
    assert there.recv(4, socket.MSG_WAITALL) == b"some" and there.recvmsg(10)[0] == b"more"
    there.sendall(b"back")
    select.select([here], [], [], 20)
    number = array.array("i", [0])
    fcntl.ioctl(here, termios.FIONREAD, number)
    fcntl.ioctl(here, termios.TIOCOUTQ, number)
    fcntl.ioctl(here, SIOCATMARK, number)
    assert here.recv(4) == b"back"
    here.shutdown(socket.SHUT_WR)
    assert there.recv(1) == b""
    there.close()
    here.close()

one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
one.bind(("127.0.0.1", 0))
other.sendto(b"datagram", one.getsockname())
assert one.recvfrom(10)[0] == b"datagram"
bound = socket.socket()
bound.bind(("127.0.0.1", 0))
bound.close()
many = [socket.socket() for _ in range(100)]
for s in many:
    s.close()
# Not a socket of the sandbox's: it is looked at, and left to the kernel.
pipe = os.pipe()
try:
    socket.socket(fileno=pipe[0]).getsockname()
except OSError:
    pass
