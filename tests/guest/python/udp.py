"""UDP: addresses, boundaries, connected sockets, errors."""

import array
import fcntl
import socket
import struct
import termios
import time

from lib import *

IP_PKTINFO = 8
IPV6_RECVPKTINFO, IPV6_PKTINFO = 49, 50


@per_family
def udp_addresses(family):
    server = udp_bound(family)
    client = socket.socket(family, UDP)
    eq("sendto", client.sendto(b"hello", server.getsockname()), 5)
    port = client.getsockname()[1]
    check("sendto bound the socket", port > 0, port)
    data, peer = server.recvfrom(100)
    eq("data", data, b"hello")
    eq("the sender's address", peer[:2], (LOOPBACK[family], port))
    server.sendto(b"answer", peer)
    eq("the answer and its sender", client.recvfrom(100), (b"answer", server.getsockname()))
    eq("the client's port stays", client.getsockname()[1], port)
    client.sendmsg([b"two ", b"parts"], [], 0, server.getsockname())
    data, control, flags, peer = server.recvmsg(100)
    eq("sendmsg with an address", (data, control, flags, peer[1]), (b"two parts", [], 0, port))


@per_family
def udp_connected(family):
    one, other = udp_pair(family)
    eq("getpeername", one.getpeername(), other.getsockname())
    one.send(b"plain")
    eq("recv", other.recv(100), b"plain")
    one.send(b"with a name")
    eq("recvfrom", other.recvfrom(100), (b"with a name", one.getsockname()))
    stranger = udp_bound(family)
    stranger.sendto(b"from elsewhere", other.getsockname())
    one.send(b"from the peer")
    eq("only the peer's datagrams arrive", other.recv(100), b"from the peer")
    other.setblocking(False)
    fails("and no other", "EAGAIN", other.recv, 100)
    third = udp_bound(family)
    one.sendto(b"past the peer", third.getsockname())
    eq("sendto another address", third.recv(100), b"past the peer")
    one.connect(third.getsockname())
    one.send(b"new peer")
    eq("connect again changes the peer", third.recv(100), b"new peer")


@per_family
def udp_disconnect(family):
    one, other = udp_pair(family)
    unspec = struct.pack("H", socket.AF_UNSPEC) + bytes(26)
    eq("connect to AF_UNSPEC", LIBC.connect(one.fileno(), unspec, len(unspec)), 0)
    fails("no peer then", "ENOTCONN", one.getpeername)
    fails("send without a peer", "EDESTADDRREQ", one.send, b"x")
    other.close()


@per_family
def udp_boundaries(family):
    server, client = udp_bound(family), socket.socket(family, UDP)
    to = server.getsockname()
    for size in (1, 0, 1000, 2):
        client.sendto(b"m" * size, to)
    eq("four datagrams keep their bounds", [len(server.recv(2000)) for _ in range(4)], [1, 0, 1000, 2])
    client.sendto(b"0123456789", to)
    client.sendto(b"next", to)
    eq("a short buffer cuts a datagram", server.recv(4), b"0123")
    eq("and the rest is gone", server.recv(100), b"next")
    client.sendto(b"0123456789", to)
    data, _, flags, _ = server.recvmsg(4)
    eq("recvmsg tells", (data, flags & socket.MSG_TRUNC), (b"0123", socket.MSG_TRUNC))
    client.sendto(b"0123456789", to)
    buffer = bytearray(4)
    eq("MSG_TRUNC gives the whole length", server.recv_into(buffer, 4, socket.MSG_TRUNC), 10)


@per_family
def udp_peek(family):
    server, client = udp_bound(family), udp_bound(family)
    client.sendto(b"one", server.getsockname())
    client.sendto(b"two", server.getsockname())
    me = client.getsockname()
    eq("MSG_PEEK with an address", server.recvfrom(100, socket.MSG_PEEK), (b"one", me))
    eq("peeked again without one", server.recv(100, socket.MSG_PEEK), b"one")
    eq("then read", server.recvfrom(100), (b"one", me))
    eq("the next one", server.recvfrom(100), (b"two", me))


@per_family
def udp_sizes(family):
    one, other = udp_pair(family)
    for sock in (one, other):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    for size in (1400, 9000, 60000):
        one.send(bytes([size % 251]) * size)
        eq(f"a datagram of {size} bytes", other.recv(65536), bytes([size % 251]) * size)
    fails("more than UDP carries", "EMSGSIZE", one.send, bytes(65536))


@case
def udp_queue():
    server, client = udp_bound(), udp_bound()
    client.connect(server.getsockname())
    for number in range(100):
        client.send(b"%d" % number)
    time.sleep(0.05)
    got = [int(server.recvfrom(100)[0]) for _ in range(100)]
    eq("100 queued datagrams arrive in order", got, list(range(100)))


@per_family
def udp_refused(family):
    with udp_bound(family) as gone:
        address = gone.getsockname()
    client = socket.socket(family, UDP)
    client.connect(address)
    eq("the first send", client.send(b"x"), 1)
    client.settimeout(3)
    fails("recv reports the refusal", "ECONNREFUSED", client.recv, 10)
    client.send(b"x")
    ok = wait_until(lambda: poll_bits(client) & select.POLLERR)
    check("poll says ERR", ok, names(poll_bits(client)))
    eq("SO_ERROR", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)


@per_family
def udp_sent_before_a_change(family):
    one, other, client = udp_bound(family), udp_bound(family), socket.socket(family, UDP)
    for server in (one, other):
        server.settimeout(10)
    # Many times: what is asserted is an order.
    for _ in range(50):
        client.connect(one.getsockname())
        client.send(b"to one")
        client.connect(other.getsockname())
        client.send(b"to other")
        eq("what was sent before connect goes to the peer before", one.recv(20), b"to one")
        eq("and then to the next", other.recv(20), b"to other")
        sock = socket.socket(family, UDP)
        sock.connect(one.getsockname())
        sock.send(b"last")
        sock.shutdown(socket.SHUT_WR)
        eq("what was sent before shutdown", one.recv(20), b"last")
        sock.close()


@per_family
def udp_refusal_is_told_once(family):
    with udp_bound(family) as gone:
        address = gone.getsockname()
    client = socket.socket(family, UDP)
    client.setblocking(False)
    client.connect(address)
    client.send(b"x")
    wait_until(lambda: poll_bits(client) & select.POLLERR)
    fails("recvfrom tells it", "ECONNREFUSED", client.recvfrom, 10)
    eq("and then send works", client.send(b"x"), 1)
    wait_until(lambda: poll_bits(client) & select.POLLERR)
    # AF_UNIX has its own word for it.
    fails("recv tells it", ("ECONNREFUSED", "ECONNRESET"), client.recv, 10)
    fails("and then recvfrom has nothing", "EAGAIN", client.recvfrom, 10)


@case
def udp_unconnected_ignores_refusal():
    with udp_bound() as gone:
        address = gone.getsockname()
    client = udp_bound()
    client.sendto(b"x", address)
    time.sleep(0.05)
    eq("an unconnected socket hears of no refusal", client.sendto(b"y", client.getsockname()), 1)
    eq("and works", client.recv(10), b"y")


@case
def udp_nonblocking():
    server, client = udp_bound(), udp_bound()
    fails("MSG_DONTWAIT", "EAGAIN", server.recvfrom, 10, socket.MSG_DONTWAIT)
    fails("MSG_DONTWAIT without an address", "EAGAIN", server.recv, 10, socket.MSG_DONTWAIT)
    server.setblocking(False)
    fails("a non-blocking socket", "EAGAIN", server.recvfrom, 10)
    client.sendto(b"x", server.getsockname())
    check("readable", poll_bits(server, 3000, select.POLLIN) & select.POLLIN)
    eq("then it is there", server.recvfrom(10)[0], b"x")
    fails("and then not", "EAGAIN", server.recv, 10)


@case
def udp_blocking_receive():
    server, client = udp_bound(), udp_bound()
    for call in (server.recvfrom, server.recv, server.recvmsg):
        waiting = Background(call, 100)
        time.sleep(0.05)
        client.sendto(b"wake", server.getsockname())
        got = waiting.finish(5)
        eq(f"a blocked {call.__name__} wakes", got if isinstance(got, bytes) else got[0], b"wake")


@case
def udp_receive_timeout():
    server = udp_bound()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200000))
    for call in (server.recv, server.recvfrom):
        start = time.monotonic()
        fails(f"{call.__name__} with SO_RCVTIMEO", "EAGAIN", call, 10)
        took = time.monotonic() - start
        check("after about 0.2 s", 0.15 < took < 1.0, took)


@case
def udp_poll():
    server, client = udp_bound(), udp_bound()
    eq("a fresh socket is writable", names(poll_bits(server)), "OUT")
    client.sendto(b"1", server.getsockname())
    client.sendto(b"2", server.getsockname())
    poll_becomes("readable with a datagram there", server, "IN|OUT")
    server.recvfrom(10)
    poll_becomes("still readable with the second", server, "IN|OUT")
    server.recv(10)
    poll_becomes("no longer", server, "OUT")


@case
def udp_fionread():
    server, client = udp_bound(), udp_bound()
    for size in (300, 20):
        client.sendto(b"d" * size, server.getsockname())
    poll_bits(server, 3000, select.POLLIN)
    answer = array.array("i", [-1])
    fcntl.ioctl(server.fileno(), termios.FIONREAD, answer)
    eq("FIONREAD is the first datagram's size", answer[0], 300)
    server.recv(1000)
    poll_bits(server, 3000, select.POLLIN)
    fcntl.ioctl(server.fileno(), termios.FIONREAD, answer)
    eq("then the second's", answer[0], 20)


@case
def udp_dual_stack():
    server = socket.socket(V6, UDP)
    server.bind(("::", 0))
    port = server.getsockname()[1]
    client = udp_bound(V4)
    client.sendto(b"four", ("127.0.0.1", port))
    data, peer = server.recvfrom(100)
    eq("an IPv4 sender seen by an IPv6 socket", (data, peer[0]), (b"four", "::ffff:127.0.0.1"))
    server.sendto(b"back", peer)
    eq("the answer's sender", client.recvfrom(100), (b"back", ("127.0.0.1", port)))
    client6 = udp_bound(V6)
    client6.sendto(b"six", ("::1", port))
    eq("an IPv6 sender", server.recvfrom(100)[1][:2], client6.getsockname()[:2])


@per_family
def udp_ports(family):
    one = udp_bound(family)
    address = one.getsockname()
    with socket.socket(family, UDP) as other:
        fails("a bound port is taken", "EADDRINUSE", other.bind, address)
    one.close()
    with socket.socket(family, UDP) as other:
        eq("free after close", error_of(other.bind, address), "success")


@case
def udp_reuse():
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        one, other = socket.socket(V4, UDP), socket.socket(V4, UDP)
        for sock in (one, other):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind(("127.0.0.1", 0))
        eq("two sockets that both allow it share a port", error_of(other.bind, one.getsockname()), "success")


@case
def udp_no_address():
    sock = socket.socket(V4, UDP)
    fails("send without a peer", "EDESTADDRREQ", sock.send, b"x")
    fails("getpeername", "ENOTCONN", sock.getpeername)
    fails("shutdown", "ENOTCONN", sock.shutdown, socket.SHUT_RDWR)
    fails("listen", "EOPNOTSUPP", sock.listen, 1)
    fails("accept", "EOPNOTSUPP", sock.accept)


@case
def udp_wildcard_answers():
    server = udp_bound(V4, "0.0.0.0")
    client = udp_bound(V4)
    client.connect(("127.0.0.1", server.getsockname()[1]))
    client.send(b"question")
    _, peer = server.recvfrom(100)
    server.sendto(b"answer", peer)
    eq("an answer comes from the address that was asked", client.recv(100), b"answer")


@case
def udp_connect_chooses_address():
    server = udp_bound(V4)
    client = socket.socket(V4, UDP)
    client.connect(server.getsockname())
    eq("connect chooses the local address", client.getsockname()[0], "127.0.0.1")
    check("and the port", client.getsockname()[1] > 0)


@case
def udp_pktinfo_v4():
    server = udp_bound(V4, "0.0.0.0")
    server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    eq("IP_PKTINFO is set", server.getsockopt(socket.IPPROTO_IP, IP_PKTINFO), 1)
    client = udp_bound(V4)
    client.sendto(b"x", ("127.0.0.1", server.getsockname()[1]))
    data, control, _, _ = server.recvmsg(100, 256)
    eq("one control message", [(level, kind) for level, kind, _ in control], [(socket.IPPROTO_IP, IP_PKTINFO)])
    index, _local, destination = struct.unpack("i4s4s", control[0][2]) if control else (0, b"", b"")
    eq("its destination", destination, socket.inet_aton("127.0.0.1"))
    check("its interface", index > 0, index)


@case
def udp_pktinfo_v6():
    server = udp_bound(V6, "::")
    server.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    client = udp_bound(V6)
    client.sendto(b"x", ("::1", server.getsockname()[1]))
    data, control, _, _ = server.recvmsg(100, 256)
    eq("one control message", [(level, kind) for level, kind, _ in control], [(socket.IPPROTO_IPV6, IPV6_PKTINFO)])
    destination = control[0][2][:16] if control else b""
    eq("its destination", destination, socket.inet_pton(V6, "::1"))


@case
def udp_many_sockets():
    socks = [udp_bound() for _ in range(64)]
    for sock in socks:
        sock.sendto(b"%d" % sock.getsockname()[1], socks[0].getsockname())
    got = sorted(int(socks[0].recvfrom(100)[0]) for _ in socks)
    eq("64 senders to one socket", got, sorted(sock.getsockname()[1] for sock in socks))
