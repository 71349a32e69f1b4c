"""Socket options: what is set is read back, and does what it says."""

import socket
import struct

from lib import *

SOL, IP, IPV6, TCP_LEVEL = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_TCP
SO_PROTOCOL, SO_DOMAIN = 38, 39
TCP_USER_TIMEOUT, TCP_CONGESTION = 18, 13
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
ALL_KINDS = [(V4, TCP), (V6, TCP), (V4, UDP), (V6, UDP)]


@case
def option_identity():
    for family, kind in ALL_KINDS:
        with socket.socket(family, kind) as sock:
            eq("SO_TYPE", sock.getsockopt(SOL, socket.SO_TYPE), kind)
            eq("SO_DOMAIN", sock.getsockopt(SOL, SO_DOMAIN), family)
            protocol = socket.IPPROTO_TCP if kind == TCP else socket.IPPROTO_UDP
            eq("SO_PROTOCOL", sock.getsockopt(SOL, SO_PROTOCOL), protocol)
            eq("SO_ERROR", sock.getsockopt(SOL, socket.SO_ERROR), 0)
            eq("SO_ACCEPTCONN", sock.getsockopt(SOL, socket.SO_ACCEPTCONN), 0)
            fails("SO_TYPE can't be set", "ENOPROTOOPT", sock.setsockopt, SOL, socket.SO_TYPE, 1)
    with listener() as server:
        eq("SO_ACCEPTCONN of a listener", server.getsockopt(SOL, socket.SO_ACCEPTCONN), 1)
    client, accepted = tcp_pair(V6)
    eq("SO_DOMAIN of an accepted socket", accepted.getsockopt(SOL, SO_DOMAIN), V6)
    eq("SO_TYPE of an accepted socket", accepted.getsockopt(SOL, socket.SO_TYPE), TCP)
    eq("SO_PROTOCOL of an accepted socket", accepted.getsockopt(SOL, SO_PROTOCOL), socket.IPPROTO_TCP)


@case
def option_booleans():
    for family, kind in ALL_KINDS:
        with socket.socket(family, kind) as sock:
            for name in ("SO_REUSEADDR", "SO_REUSEPORT", "SO_KEEPALIVE", "SO_BROADCAST"):
                option = getattr(socket, name)
                eq(f"{name} at first", sock.getsockopt(SOL, option), 0)
                sock.setsockopt(SOL, option, 1)
                eq(f"{name} set", sock.getsockopt(SOL, option), 1)
                sock.setsockopt(SOL, option, 77)
                eq(f"{name} set to 77", sock.getsockopt(SOL, option), 1)
                sock.setsockopt(SOL, option, 0)
                eq(f"{name} cleared", sock.getsockopt(SOL, option), 0)


@case
def option_buffers():
    for family, kind in ALL_KINDS:
        with socket.socket(family, kind) as sock:
            for name in ("SO_SNDBUF", "SO_RCVBUF"):
                option = getattr(socket, name)
                check(f"{name} at first", sock.getsockopt(SOL, option) >= 16384, sock.getsockopt(SOL, option))
                sock.setsockopt(SOL, option, 65536)
                eq(f"{name} is doubled", sock.getsockopt(SOL, option), 131072)
                sock.setsockopt(SOL, option, 1)
                check(f"{name} has a minimum", sock.getsockopt(SOL, option) >= 2048)


@case
def option_linger():
    for kind in (TCP, UDP):
        with socket.socket(V4, kind) as sock:
            eq("at first", sock.getsockopt(SOL, socket.SO_LINGER, 8), struct.pack("ii", 0, 0))
            sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 7))
            eq("set", sock.getsockopt(SOL, socket.SO_LINGER, 8), struct.pack("ii", 1, 7))
            fails("too short", "EINVAL", sock.setsockopt, SOL, socket.SO_LINGER, b"1234")


@case
def option_linger_delivers():
    # What `close` does not wait for still goes out. Whether it waits is not asserted: docs/limits.md has it.
    with listener() as server:
        client = socket.create_connection(server.getsockname())
        client.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 10))
        accepted, _ = server.accept()
        reader = Background(receive_all, accepted)
        data = bytes(range(256)) * 4096
        client.sendall(data)
        client.close()
        check("all of it arrives", reader.finish() == data)


@case
def option_low_water():
    for family, kind in ALL_KINDS:
        with socket.socket(family, kind) as sock:
            eq("SO_RCVLOWAT at first", sock.getsockopt(SOL, socket.SO_RCVLOWAT), 1)
            for value in (1, 0):
                sock.setsockopt(SOL, socket.SO_RCVLOWAT, value)
                eq(f"SO_RCVLOWAT of {value}", sock.getsockopt(SOL, socket.SO_RCVLOWAT), 1)
            eq("SO_SNDLOWAT", sock.getsockopt(SOL, socket.SO_SNDLOWAT), 1)
            fails("SO_SNDLOWAT, set", "ENOPROTOOPT", sock.setsockopt, SOL, socket.SO_SNDLOWAT, 1)
            fails("a short value", "EINVAL", sock.setsockopt, SOL, socket.SO_RCVLOWAT, b"1")
            if kind == UDP:
                # It says nothing there: a datagram is one.
                sock.setsockopt(SOL, socket.SO_RCVLOWAT, 50)
                eq("SO_RCVLOWAT of a datagram socket", sock.getsockopt(SOL, socket.SO_RCVLOWAT), 50)


@case
def option_low_water_tcp():
    client, accepted = tcp_pair()
    accepted.setsockopt(SOL, socket.SO_RCVLOWAT, 4)
    eq("SO_RCVLOWAT", accepted.getsockopt(SOL, socket.SO_RCVLOWAT), 4)
    client.send(b"abc")
    eq("not readable yet", names(poll_bits(accepted, 50)), "OUT")
    client.send(b"d")
    poll_becomes("readable", accepted, "IN|OUT")


@case
def option_timeouts():
    for family, kind in ALL_KINDS:
        with socket.socket(family, kind) as sock:
            for name in ("SO_SNDTIMEO", "SO_RCVTIMEO"):
                option = getattr(socket, name)
                eq(f"{name} at first", sock.getsockopt(SOL, option, 16), struct.pack("ll", 0, 0))
                sock.setsockopt(SOL, option, struct.pack("ll", 3, 500000))
                eq(f"{name} set", sock.getsockopt(SOL, option, 16), struct.pack("ll", 3, 500000))
                fails(f"{name} of a million µs", "EDOM", sock.setsockopt, SOL, option, struct.pack("ll", 0, 1000000))


TCP_INTEGERS = [
    # name, option, at first (None: not said), set, read back
    ("TCP_NODELAY", socket.TCP_NODELAY, 0, 1, 1),
    ("TCP_CORK", socket.TCP_CORK, 0, 1, 1),
    ("TCP_KEEPIDLE", socket.TCP_KEEPIDLE, 7200, 42, 42),
    ("TCP_KEEPINTVL", socket.TCP_KEEPINTVL, 75, 7, 7),
    ("TCP_KEEPCNT", socket.TCP_KEEPCNT, 9, 3, 3),
    ("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT, 0, 12345, 12345),
    ("TCP_SYNCNT", socket.TCP_SYNCNT, None, 3, 3),
    ("TCP_QUICKACK", socket.TCP_QUICKACK, None, 1, 1),
]


@per_family
def option_tcp(family):
    client, accepted = tcp_pair(family)
    for sock, state in ((socket.socket(family, TCP), "fresh"), (client, "connected"), (accepted, "accepted")):
        for name, option, first, value, back in TCP_INTEGERS:
            if first is not None:
                eq(f"{state} {name} at first", sock.getsockopt(TCP_LEVEL, option), first)
            sock.setsockopt(TCP_LEVEL, option, value)
            eq(f"{state} {name}", sock.getsockopt(TCP_LEVEL, option), back)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
            fails(f"{state} {name} of 0", "EINVAL", sock.setsockopt, TCP_LEVEL, getattr(socket, name), 0)


@case
def option_tcp_defer_accept():
    with socket.socket(V4, TCP) as sock:
        eq("at first", sock.getsockopt(TCP_LEVEL, socket.TCP_DEFER_ACCEPT), 0)
        sock.setsockopt(TCP_LEVEL, socket.TCP_DEFER_ACCEPT, 5)
        check("set", sock.getsockopt(TCP_LEVEL, socket.TCP_DEFER_ACCEPT) >= 5)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        client = socket.create_connection(sock.getsockname())
        client.sendall(b"x")
        accepted, _ = sock.accept()
        eq("a connection with data is accepted", accepted.recv(10), b"x")


@case
def option_tcp_maxseg():
    client, accepted = tcp_pair()
    for sock in (client, accepted):
        size = sock.getsockopt(TCP_LEVEL, socket.TCP_MAXSEG)
        check("TCP_MAXSEG of a connection", 500 <= size <= 65535, size)
    with socket.socket(V4, TCP) as sock:
        sock.setsockopt(TCP_LEVEL, socket.TCP_MAXSEG, 1000)
        fails("too small", "EINVAL", sock.setsockopt, TCP_LEVEL, socket.TCP_MAXSEG, 5)


@case
def option_tcp_congestion():
    with socket.socket(V4, TCP) as sock:
        name = sock.getsockopt(TCP_LEVEL, TCP_CONGESTION, 16)
        eq("16 bytes", len(name), 16)
        check("a name", name.rstrip(b"\0").isalnum(), name)
        sock.setsockopt(TCP_LEVEL, TCP_CONGESTION, name.rstrip(b"\0"))
        eq("set to itself", sock.getsockopt(TCP_LEVEL, TCP_CONGESTION, 16), name)
        fails("an unknown one", "ENOENT", sock.setsockopt, TCP_LEVEL, TCP_CONGESTION, b"nosuchthing")


@case
def option_tcp_info():
    def state(sock):
        info = sock.getsockopt(TCP_LEVEL, socket.TCP_INFO, 104)
        eq("TCP_INFO's length", len(info), 104)
        return info[0]

    with socket.socket(V4, TCP) as sock:
        eq("CLOSE", state(sock), 7)
    with listener() as server:
        eq("LISTEN", state(server), 10)
    client, accepted = tcp_pair()
    eq("ESTABLISHED", (state(client), state(accepted)), (1, 1))
    info = client.getsockopt(TCP_LEVEL, socket.TCP_INFO, 104)
    mss = struct.unpack_from("I", info, 16)[0]
    check("tcpi_snd_mss", mss >= 500, mss)
    accepted.close()
    check("CLOSE_WAIT after the peer's FIN", wait_until(lambda: client.getsockopt(TCP_LEVEL, socket.TCP_INFO, 104)[0] == 8))


@case
def option_tcp_info_measures():
    """Measures of a connection at rest."""
    size = 232
    client, accepted = tcp_pair()
    client.sendall(b"x" * 100000)
    left = 100000
    while left:
        left -= len(accepted.recv(left))

    def told():
        info = client.getsockopt(TCP_LEVEL, socket.TCP_INFO, size)
        return {
            "ca_state": info[1],
            "unacked": struct.unpack_from("I", info, 24)[0],
            "sacked": struct.unpack_from("I", info, 28)[0],
            "lost": struct.unpack_from("I", info, 32)[0],
            "cwnd": struct.unpack_from("I", info, 80)[0],
            "notsent": struct.unpack_from("I", info, 144)[0],
            "min_rtt": struct.unpack_from("I", info, 148)[0],
        }

    check("all is acknowledged in the end", wait_until(lambda: told()["unacked"] == 0), told())
    info = told()
    for name in ("ca_state", "sacked", "lost", "notsent"):
        eq(f"tcpi_{name}", info[name], 0)
    check("tcpi_snd_cwnd", info["cwnd"] >= 2, info)
    check("tcpi_min_rtt", info["min_rtt"] < 10000000, info)


@per_family
def option_fast_open_send(family):
    MSG_FASTOPEN = 0x20000000
    with listener(family) as server, socket.socket(family, TCP) as client:
        eq("a send that connects", client.sendto(b"hello", MSG_FASTOPEN, server.getsockname()), 5)
        accepted, peer = server.accept()
        eq("the peer", peer, client.getsockname())
        eq("what it sent", receive_exactly(accepted, 5), b"hello")
        fails("another one", "EISCONN", client.sendto, b"x", MSG_FASTOPEN, server.getsockname())
        accepted.sendall(b"back")
        eq("the answer", receive_exactly(client, 4), b"back")
        accepted.close()
        address = server.getsockname()
        with socket.socket(family, TCP) as other:
            other.setblocking(False)
            sent = error_of(other.sendto, b"hello", MSG_FASTOPEN, address)
            check("one that must not wait", sent in ("success", "EINPROGRESS"), sent)
            accepted, _ = server.accept()
            check("and is writable then", poll_bits(other, 3000, select.POLLOUT) & select.POLLOUT)
            accepted.close()
    with socket.socket(family, TCP) as client:
        fails("to a closed port", "ECONNREFUSED", client.sendto, b"x", MSG_FASTOPEN, address)
        fails("without an address", "EINVAL", client.send, b"x", MSG_FASTOPEN)


@per_family
def option_tcp_fast_open(family):
    """Data in the SYN, or behind it if the peer is not known: nothing but time tells (RFC 7413)."""
    TCP_FASTOPEN, TCP_FASTOPEN_CONNECT = 23, 30
    with listener(family) as server:
        server.setsockopt(TCP_LEVEL, TCP_FASTOPEN, 5)
        eq("TCP_FASTOPEN", server.getsockopt(TCP_LEVEL, TCP_FASTOPEN), 5)
        for count in range(3):
            with socket.socket(family, TCP) as client:
                eq("TCP_FASTOPEN_CONNECT at first", client.getsockopt(TCP_LEVEL, TCP_FASTOPEN_CONNECT), 0)
                client.setsockopt(TCP_LEVEL, TCP_FASTOPEN_CONNECT, 1)
                eq("TCP_FASTOPEN_CONNECT", client.getsockopt(TCP_LEVEL, TCP_FASTOPEN_CONNECT), 1)
                client.settimeout(20)
                client.connect(server.getsockname())
                question = bytes([count]) * (10 + 3000 * count)
                client.sendall(question)
                accepted, peer = server.accept()
                with accepted:
                    eq("the peer's address", peer[1], client.getsockname()[1])
                    got = b""
                    while len(got) < len(question):
                        got += accepted.recv(10000)
                    eq("the question", got, question)
                    accepted.sendall(b"answer")
                    eq("the answer", client.recv(100), b"answer")
                    client.shutdown(socket.SHUT_WR)
                    eq("the end", accepted.recv(100), b"")
    with socket.socket(family, TCP) as sock:
        fails("neither on nor off", "EINVAL", sock.setsockopt, TCP_LEVEL, TCP_FASTOPEN_CONNECT, 2)


@case
def option_inherited():
    with socket.socket(V4, TCP) as server:
        server.setsockopt(TCP_LEVEL, socket.TCP_NODELAY, 1)
        server.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
        server.setsockopt(TCP_LEVEL, socket.TCP_KEEPIDLE, 33)
        server.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 9))
        server.bind(("127.0.0.1", 0))
        server.listen()
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        eq("TCP_NODELAY", accepted.getsockopt(TCP_LEVEL, socket.TCP_NODELAY), 1)
        eq("SO_KEEPALIVE", accepted.getsockopt(SOL, socket.SO_KEEPALIVE), 1)
        eq("TCP_KEEPIDLE", accepted.getsockopt(TCP_LEVEL, socket.TCP_KEEPIDLE), 33)
        eq("SO_LINGER", accepted.getsockopt(SOL, socket.SO_LINGER, 8), struct.pack("ii", 1, 9))
        client.close()


@case
def option_survives_connect():
    with listener() as server, socket.socket(V4, TCP) as client:
        client.setsockopt(TCP_LEVEL, socket.TCP_NODELAY, 1)
        client.setsockopt(SOL, socket.SO_RCVBUF, 65536)
        client.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
        client.connect(server.getsockname())
        eq("TCP_NODELAY", client.getsockopt(TCP_LEVEL, socket.TCP_NODELAY), 1)
        eq("SO_RCVBUF", client.getsockopt(SOL, socket.SO_RCVBUF), 131072)
        eq("SO_KEEPALIVE", client.getsockopt(SOL, socket.SO_KEEPALIVE), 1)


@case
def option_ip():
    with socket.socket(V4, UDP) as sock:
        eq("IP_TTL at first", sock.getsockopt(IP, socket.IP_TTL), 64)
        sock.setsockopt(IP, socket.IP_TTL, 5)
        eq("IP_TTL", sock.getsockopt(IP, socket.IP_TTL), 5)
        fails("IP_TTL of 256", "EINVAL", sock.setsockopt, IP, socket.IP_TTL, 256)
        sock.setsockopt(IP, socket.IP_TOS, 0x10)
        eq("IP_TOS", sock.getsockopt(IP, socket.IP_TOS), 0x10)
    with socket.socket(V6, TCP) as sock:
        eq("IPV6_V6ONLY at first", sock.getsockopt(IPV6, socket.IPV6_V6ONLY), 0)
        sock.setsockopt(IPV6, socket.IPV6_V6ONLY, 1)
        eq("IPV6_V6ONLY", sock.getsockopt(IPV6, socket.IPV6_V6ONLY), 1)
        eq("IPV6_UNICAST_HOPS at first", sock.getsockopt(IPV6, socket.IPV6_UNICAST_HOPS), 64)
        sock.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, 9)
        eq("IPV6_UNICAST_HOPS", sock.getsockopt(IPV6, socket.IPV6_UNICAST_HOPS), 9)


@case
def option_mtu_discover():
    for family, kind in ALL_KINDS:
        level, option = (IP, IP_MTU_DISCOVER) if family == V4 else (IPV6, IPV6_MTU_DISCOVER)
        with socket.socket(family, kind) as sock:
            eq("at first: IP_PMTUDISC_WANT", sock.getsockopt(level, option), 1)
            for mode in (0, 2, 3, 4, 5, 1):
                sock.setsockopt(level, option, mode)
                eq(f"mode {mode}", sock.getsockopt(level, option), mode)
            for mode in (-1, 6):
                fails(f"mode {mode}", "EINVAL", sock.setsockopt, level, option, mode)


@case
def option_errors():
    with socket.socket(V4, TCP) as tcp, socket.socket(V4, UDP) as udp:
        fails("unknown SOL_SOCKET option", "ENOPROTOOPT", tcp.setsockopt, SOL, 9999, 1)
        fails("unknown SOL_SOCKET option, read", "ENOPROTOOPT", tcp.getsockopt, SOL, 9999)
        fails("unknown TCP option", "ENOPROTOOPT", tcp.setsockopt, TCP_LEVEL, 9999, 1)
        fails("unknown TCP option, read", "ENOPROTOOPT", tcp.getsockopt, TCP_LEVEL, 9999)
        fails("TCP option of a UDP socket", "ENOPROTOOPT", udp.setsockopt, TCP_LEVEL, socket.TCP_NODELAY, 1)
        fails("TCP option of a UDP socket, read", "EOPNOTSUPP", udp.getsockopt, TCP_LEVEL, socket.TCP_NODELAY)
        fails("a short value", "EINVAL", tcp.setsockopt, SOL, socket.SO_REUSEADDR, b"1")
        fails("a short TCP value", "EINVAL", tcp.setsockopt, TCP_LEVEL, socket.TCP_NODELAY, b"1")
        fails("unknown level", ("ENOPROTOOPT", "EOPNOTSUPP"), tcp.setsockopt, 9999, 1, 1)


@case
def option_reuseport():
    one = listener(backlog=64, SO_REUSEPORT=1)
    address = one.getsockname()
    with socket.socket(V4, TCP) as stranger:
        fails("a port whose owner allows it only to those who ask", "EADDRINUSE", stranger.bind, address)
    other = socket.socket(V4, TCP)
    other.setsockopt(SOL, socket.SO_REUSEPORT, 1)
    other.bind(address)
    other.listen(64)
    clients = [socket.create_connection(address) for _ in range(40)]
    counts = []
    for sock in (one, other):
        sock.setblocking(False)
        taken = 0
        while error_of(lambda: sock.accept()[0].close()) == "success":
            taken += 1
        counts.append(taken)
    eq("each connection is accepted by one of two listeners", sum(counts), len(clients))


@case
def option_error_queue():
    # What the C library's resolver asks for on its sockets.
    with socket.socket(V4, UDP) as sock:
        eq("IP_RECVERR", error_of(sock.setsockopt, IP, 11, 1), "success")
    with socket.socket(V6, UDP) as sock:
        eq("IPV6_RECVERR", error_of(sock.setsockopt, IPV6, 25, 1), "success")


@per_family
def option_window_clamp(family):
    level, name, linger2 = socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, socket.TCP_LINGER2
    with listener(family) as server:
        eq("a fresh socket has none", server.getsockopt(level, name), 0)
        client = socket.socket(family, TCP)
        for value, kept in ((30000, 30000), (0, 0), (100, 1152), (-1, 1152), (2000, 2000)):
            client.setsockopt(level, name, value)
            eq(f"{value} is kept", client.getsockopt(level, name), kept)
        server.setsockopt(level, name, 5000)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        eq("a connection keeps it", client.getsockopt(level, name), 2000)
        eq("and has it from the listener", accepted.getsockopt(level, name), 5000)
        fails("it cannot be taken back from a connection", "EINVAL", client.setsockopt, level, name, 0)
        client.setsockopt(level, name, 65535)
        eq("but changed", client.getsockopt(level, name), 65535)
        data = bytes(range(256)) * 400
        sender = Background(lambda: (accepted.sendall(data), accepted.shutdown(socket.SHUT_WR)))
        eq("data comes", receive_all(client) == data, True)
        sender.finish()
        for value, kept in ((-1, -1), (-7, -1), (0, 60), (20, 20), (100, 100)):
            client.setsockopt(level, linger2, value)
            eq(f"TCP_LINGER2 of {value}", client.getsockopt(level, linger2), kept)


@case
def option_buffers_of_a_negative_size():
    for name in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock = socket.socket(V4, TCP)
        sock.setsockopt(socket.SOL_SOCKET, name, (1 << 31) - 1)
        most = sock.getsockopt(socket.SOL_SOCKET, name)
        sock.setsockopt(socket.SOL_SOCKET, name, 10000)
        sock.setsockopt(socket.SOL_SOCKET, name, -1)
        eq("it is taken for a large one", sock.getsockopt(socket.SOL_SOCKET, name), most)


SHORT_OF_IP = (6, 7, 8, 11, 12, 13, 18, 20, 23, 24)


def value_of(sock, level, name, size=4):
    """The bytes of an option, or the name of the errno."""
    try:
        return sock.getsockopt(level, name, size)
    except OSError as failure:
        return errno.errorcode[failure.errno]


@per_family
def option_kept_by_a_stream(family):
    """Options from which nothing follows on a connection are what they were set to, and a connection has its listener's."""
    flags = {socket.SOL_SOCKET: (11, 40, 41, 43, 45), socket.IPPROTO_IP: (6, 18, 20, 23)}
    if family == V6:
        flags[socket.IPPROTO_IPV6] = (2, 8, 33, 53, 56, 58, 60, 70, 74)
    with listener(family) as server:
        for level, names in flags.items():
            for name in names:
                server.setsockopt(level, name, 7)
                eq(f"level {level}, option {name} is on", server.getsockopt(level, name), 1)
        server.setsockopt(socket.IPPROTO_TCP, 25, 16384)
        client = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
        for level, names in flags.items():
            for name in names:
                eq(f"level {level}, option {name} is inherited", accepted.getsockopt(level, name), 1)
                accepted.setsockopt(level, name, 0)
                eq(f"level {level}, option {name} is off again", accepted.getsockopt(level, name), 0)
        eq("TCP_NOTSENT_LOWAT is inherited", accepted.getsockopt(socket.IPPROTO_TCP, 25), 16384)
        client.close()


@case
def option_lengths():
    sock = socket.socket(V4, TCP)
    for name in (11, socket.SO_KEEPALIVE, socket.SO_TYPE, 57):
        fails(f"three bytes for option {name}", "EINVAL", sock.setsockopt, socket.SOL_SOCKET, name, bytes(3))
    for name in SHORT_OF_IP:
        sock.setsockopt(socket.IPPROTO_IP, name, b"\1")
        eq(f"IP option {name} from one byte", sock.getsockopt(socket.IPPROTO_IP, name), 1)
        eq(f"IP option {name} into three bytes", sock.getsockopt(socket.IPPROTO_IP, name, 3), b"\1")
        sock.setsockopt(socket.IPPROTO_IP, name, b"")
        eq(f"IP option {name} from none", sock.getsockopt(socket.IPPROTO_IP, name), 0)
    for given, shown in ((b"\xff", 0xFC), (b"\x10\xff", 0x10), (b"\x20\xff\xff", 0x20), (b"", 0), (struct.pack("i", 2), 0)):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, given)
        eq(f"IP_TOS from {len(given)} bytes", sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS), shown)
    eq("a cookie is not cut", value_of(sock, socket.SOL_SOCKET, 57, 4), "EINVAL")
    eq("nobody at the other end", value_of(sock, socket.SOL_SOCKET, 17, 12), struct.pack("iii", 0, -1, -1))
    for name in (16, 34):
        eq(f"option {name} of AF_UNIX", value_of(sock, socket.SOL_SOCKET, name), errno.errorcode[errno.EOPNOTSUPP])
    eq("options of IPv6", value_of(sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), errno.errorcode[errno.EOPNOTSUPP])
    eq("no device", value_of(sock, socket.SOL_SOCKET, 25, 16), b"")
    fails("a device that there is not", "ENODEV", sock.setsockopt, socket.SOL_SOCKET, 25, b"none-such")
    sock.setsockopt(socket.SOL_SOCKET, 25, b"")
    for name in (35, 36):
        fails(f"membership {name} of a stream", "EPROTO", sock.setsockopt, socket.IPPROTO_IP, name, bytes(12))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    eq("TCP_QUICKACK off", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK), 0)
    eq("TCP_QUICKACK at first", socket.socket(V4, TCP).getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK), 1)
    for seconds, shown in ((0, 0), (1, 1), (2, 3), (100, 127), (127, 127), (128, 247)):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)
        eq(f"TCP_DEFER_ACCEPT {seconds}", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT), shown)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 100)
    eq("TCP_MAXSEG", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), 100)
    six = socket.socket(V6, TCP)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 0)
    eq("IPV6_UNICAST_HOPS 0", six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS), 0)
    six.setsockopt(socket.IPPROTO_IPV6, 24, 1280)
    fails("IPV6_MTU below the least", "EINVAL", six.setsockopt, socket.IPPROTO_IPV6, 24, 1279)


@case
def option_bind_without_a_port():
    """IP_BIND_ADDRESS_NO_PORT: connect chooses the port of a socket that is bound to an address."""
    with listener(V4) as server:
        sock = socket.socket(V4, TCP)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)
        sock.bind(("127.0.0.1", 0))
        eq("bound to an address", sock.getsockname(), ("127.0.0.1", 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        eq("still without a port", sock.getsockname(), ("127.0.0.1", 0))
        sock.connect(server.getsockname())
        check("connected from a port", sock.getsockname()[1] != 0, sock.getsockname())
        eq("which the peer sees", server.accept()[1], sock.getsockname())
        eq("and with the option", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
        other = socket.socket(V4, TCP)
        other.setsockopt(socket.IPPROTO_IP, 24, 1)
        fails("an address of others", "EADDRNOTAVAIL", other.bind, ("192.0.2.1", 0))
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        check("listen needs one", other.getsockname()[1] != 0, other.getsockname())


@case
def option_peek_offset():
    """SO_PEEK_OFF: each look begins behind the one before."""
    client, server = tcp_pair()
    client.sendall(b"abcdefgh")
    eq("at first there is none", server.getsockopt(socket.SOL_SOCKET, 42), -1)
    server.setsockopt(socket.SOL_SOCKET, 42, 2)
    check("there is something", wait_until(lambda: poll_bits(server) & select.POLLIN))
    server.setsockopt(socket.SOL_SOCKET, 42, 2)
    eq("from the third byte", server.recv(3, socket.MSG_PEEK), b"cde")
    eq("and on", server.recv(2, socket.MSG_PEEK), b"fg")
    eq("a read is from the beginning", server.recv(3), b"abc")
    eq("and takes the offset along", server.getsockopt(socket.SOL_SOCKET, 42), 4)
    server.setsockopt(socket.SOL_SOCKET, 42, -1)
    eq("none again", server.recv(10, socket.MSG_PEEK), b"defgh")
