"""How connections end, and who is told: resets, what was sent before them, and calls that wait meanwhile."""

import fcntl
import os
import signal
import socket
import time

from lib import *

RESET = struct.pack("ii", 1, 0)


def native_accept(server):
    """accept(2) without an address."""
    fd = LIBC.accept(server.fileno(), None, None)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=fd)


def native_pair(family=V4):
    """A connected pair whose accepted end no call has named since."""
    with listener(family) as server:
        client = socket.socket(family, TCP)
        client.connect(server.getsockname())
        return client, native_accept(server)


def raw_call(function, sock, size, flags=0, want_address=True):
    """recvfrom with an address, or recvmsg with a name: what was received."""
    data = ctypes.create_string_buffer(size)
    address, length = ctypes.create_string_buffer(128), ctypes.c_uint(128)
    if function == "recvfrom":
        got = LIBC.recvfrom(sock.fileno(), data, size, flags, address, ctypes.byref(length))
    elif function == "recv":
        got = LIBC.recv(sock.fileno(), data, size, flags)
    else:
        got = LIBC.recvmsg(sock.fileno(), ctypes.byref(message(data, size, address)), flags)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return data.raw[:got]


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("parts", ctypes.POINTER(Part)),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


def message(data, size, address):
    """A msghdr of two parts and room for a name."""
    half = size // 2
    parts = (Part * 2)((ctypes.addressof(data), half), (ctypes.addressof(data) + half, size - half))
    return Message(ctypes.addressof(address), 128, parts, 2, None, 0, 0)


RECEIVES = ("recv", "recvfrom", "recvmsg")


@per_family
def end_reset_of_a_native_accept(family):
    client, server = native_pair(family)
    client.sendall(b"before")
    reset(client)
    eq("what came before it", receive_exactly(server, 6), b"before")
    fails("and then the reset", "ECONNRESET", server.recv, 10)
    eq("and then the end", server.recv(10), b"")
    client, server = native_pair(family)
    waiting = Background(error_of, server.recv, 10)
    time.sleep(0.05)
    reset(client)
    eq("a recv that waits is told", waiting.finish(5), "ECONNRESET")
    client, server = native_pair(family)
    reset(client)
    check("poll says so", wait_until(lambda: poll_bits(server) & select.POLLERR), names(poll_bits(server)))


@per_family
def end_reset_sends_what_was_written(family):
    for pair in (tcp_pair, native_pair):
        for size in (1000, 100_000):
            client, server = pair(family)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            data = os.urandom(size)
            client.sendall(data)
            client.close()
            got = b""
            while len(got) < size:
                try:
                    part = server.recv(size)
                except ConnectionResetError:
                    break
                got += part
                if not part:
                    break
            # A window's worth is there before the close; the rest may be dropped with it.
            least = min(size, 10_000)
            check(f"{pair.__name__} {size}: what was written before", got == data[: len(got)] and len(got) >= least, len(got))
            if len(got) == size:
                fails(f"{pair.__name__} {size}: then the reset", "ECONNRESET", server.recv, 10)
            eq(f"{pair.__name__} {size}: and then the end", server.recv(10), b"")


@per_family
def end_in_order_stays_in_order(family):
    for pair in (tcp_pair, native_pair):
        client, server = pair(family)
        server.sendall(b"answer")
        server.close()
        time.sleep(0.05)
        client.setblocking(False)
        # Nobody is there to take it: the answer is a reset.
        error_of(client.send, b"too late")
        time.sleep(0.05)
        client.setblocking(True)
        eq(f"{pair.__name__}: what came before", client.recv(100), b"answer")
        eq(f"{pair.__name__}: the end", client.recv(100), b"")
        fails(f"{pair.__name__}: sending", "EPIPE", client.send, b"x")


def in_parts(sock, parts, pause=0.05):
    for part in parts:
        time.sleep(pause)
        sock.sendall(part)


@per_family
def end_waitall(family):
    for receive in RECEIVES:
        client, server = tcp_pair(family)
        sender = Background(in_parts, client, [b"a" * 10, b"b" * 20, b"c" * 30])
        got = raw_call(receive, server, 60, socket.MSG_WAITALL)
        eq(f"{receive} waits for all of it", got, b"a" * 10 + b"b" * 20 + b"c" * 30)
        sender.finish()
        sender = Background(in_parts, client, [b"d" * 10, b"e" * 5])
        waiting = Background(raw_call, receive, server, 60, socket.MSG_WAITALL)
        sender.finish()
        time.sleep(0.05)
        client.shutdown(socket.SHUT_WR)
        eq(f"{receive} gives what there is at the end", waiting.finish(5), b"d" * 10 + b"e" * 5)
        eq(f"{receive} and the end", raw_call(receive, server, 60, socket.MSG_WAITALL), b"")
    for receive in RECEIVES:
        client, server = tcp_pair(family)
        server.settimeout(None)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200_000))
        client.sendall(b"some")
        eq(f"{receive} gives what there is when its time is over", raw_call(receive, server, 60, socket.MSG_WAITALL), b"some")
        fails(f"{receive} and nothing is EAGAIN", "EAGAIN", raw_call, receive, server, 60, socket.MSG_WAITALL)
        client.sendall(b"more")
        time.sleep(0.05)
        eq(f"{receive} and MSG_DONTWAIT", raw_call(receive, server, 60, socket.MSG_WAITALL | socket.MSG_DONTWAIT), b"more")


@per_family
def end_signals_lose_no_bytes_in(family):
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    main = threading.main_thread().ident
    for receive in RECEIVES:
        client, server = tcp_pair(family)
        data = os.urandom(1000)

        def send():
            for at in range(0, 1000, 100):
                client.sendall(data[at : at + 100])
                time.sleep(0.01)
                signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.01)

        sender, got = Background(send), b""
        while len(got) < 1000:
            got += raw_call(receive, server, 1000 - len(got), socket.MSG_WAITALL)
        eq(f"{receive}: all of it, in order", got == data, True)
        sender.finish()


def send_big(function, sock, data, flags=0):
    """sendto with an address, which a stream does not look at, or sendmsg: how much was taken."""
    buffer = ctypes.create_string_buffer(data, len(data))
    if function == "sendto":
        address = ctypes.create_string_buffer(128)
        address.raw = struct.pack("=H", int(sock.family)) + bytes(126)
        size = 16 if sock.family == V4 else 28
        got = LIBC.sendto(sock.fileno(), buffer, len(data), flags, address, size)
    elif function == "send":
        got = LIBC.send(sock.fileno(), buffer, len(data), flags)
    else:
        address = ctypes.create_string_buffer(128)
        what = message(buffer, len(data), address)
        what.name, what.namelen = None, 0
        if function == "sendmsg with controls":
            # An empty control message of a level that TCP does not look at is as none.
            control = ctypes.create_string_buffer(struct.pack("=Qii", 16, 0xFF, 1), 16)
            what.control, what.controllen = ctypes.addressof(control), 16
        got = LIBC.sendmsg(sock.fileno(), ctypes.byref(what), flags)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got


def sending(plain, with_address):
    """Registers a case for each family, with the sends that have no address, and with the one that has: a stream does
    not look at it."""

    def register(function):
        for name, sends in ((plain, ("send", "sendmsg", "sendmsg with controls")), (with_address, ("sendto",))):
            run = lambda family, sends=sends: function(family, sends)
            run.__name__ = name
            per_family(run)
        return function

    return register


@sending("end_send_all", "end_send_all_to_an_address")
def end_send_all(family, sends):
    data = os.urandom(16 << 20)
    for send in sends:
        client, server = tcp_pair(family)
        sender = Background(send_big, send, client, data)
        time.sleep(0.1)
        check(f"{send} waits", sender.is_alive())
        eq(f"{send}: all of it arrives", receive_exactly(server, len(data)) == data, True)
        eq(f"{send} took all of it", sender.finish(5), len(data))
        client.setblocking(False)
        got = send_big(send, client, data)
        check(f"{send} that does not wait takes a part", 0 < got < len(data), got)
        fails(f"{send} and then nothing", "EAGAIN", lambda: [send_big(send, client, data) for _ in range(1000)])
        client.setblocking(True)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200_000))
        fails(f"{send} waits for its time only", "EAGAIN", lambda: [send_big(send, client, data) for _ in range(3)])


@sending("end_send_of_a_reader_that_dies", "end_send_to_an_address_that_dies")
def end_send_of_a_reader_that_dies(family, sends):
    data = bytes(16 << 20)
    for send in sends:
        client, server = tcp_pair(family)
        sender = Background(send_big, send, client, data, socket.MSG_NOSIGNAL)
        time.sleep(0.1)
        reset(server)
        try:
            got = sender.finish(5)
            check(f"{send}: the part that was taken", 0 < got < len(data), got)
        except OSError as error:
            check(f"{send}: the reset", error.errno in (errno.ECONNRESET, errno.EPIPE), error)


@per_family
def end_shutdown_wakes_receives(family):
    for receive in RECEIVES:
        for how in (socket.SHUT_RD, socket.SHUT_RDWR):
            client, server = tcp_pair(family)
            waiting = Background(raw_call, receive, server, 10)
            time.sleep(0.05)
            server.shutdown(how)
            eq(f"{receive} that waits gets the end", waiting.finish(5), b"")
            eq(f"{receive} after it", raw_call(receive, server, 10), b"")


@sending("end_shutdown_wakes_sends", "end_shutdown_wakes_sends_to_an_address")
def end_shutdown_wakes_sends(family, sends):
    data = bytes(16 << 20)
    for send in sends:
        client, server = tcp_pair(family)
        waiting = Background(send_big, send, client, data, socket.MSG_NOSIGNAL)
        time.sleep(0.1)
        client.shutdown(socket.SHUT_WR)
        try:
            got = waiting.finish(5)
            check(f"{send}: the part that was taken", 0 < got < len(data), got)
        except OSError as error:
            eq(f"{send}: nothing was", error.errno, errno.EPIPE)
        fails(f"{send} after it", "EPIPE", send_big, send, client, b"x", socket.MSG_NOSIGNAL)


@sending("end_signals_lose_no_bytes_out", "end_signals_lose_no_bytes_to_an_address")
def end_signals(family, sends):
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    main = threading.main_thread().ident
    for send in sends:
        client, server = tcp_pair(family)
        data = os.urandom(16 << 20)

        def read():
            time.sleep(0.05)
            got = []
            for turn in range(1 << 20):
                part = server.recv(1 << 20)
                if not part:
                    return b"".join(got)
                got.append(part)
                if turn < 50:
                    signal.pthread_kill(main, signal.SIGUSR1)

        reader, sent = Background(read), 0
        while sent < len(data):
            sent += send_big(send, client, data[sent:])
        client.close()
        eq(f"{send}: all of it, in order", reader.finish() == data, True)


def fill(sock):
    """Sends until nothing more goes, for a while."""
    quiet = time.monotonic() + 0.3
    while time.monotonic() < quiet:
        for size in (4096, 1):
            while error_of(sock.send, bytes(size)) == "success":
                quiet = time.monotonic() + 0.3
        time.sleep(0.01)


@case
def end_larger_buffer_wakes_a_send():
    for send in ("send", "sendmsg"):
        client, server = tcp_pair()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setblocking(False)
        fill(client)
        client.setblocking(True)
        waiting = Background(send_big, send, client, b"last")
        time.sleep(0.2)
        check(f"{send} waits", waiting.is_alive())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        eq(f"{send} goes on with more room", waiting.finish(5), 4)


@per_family
def end_connect_beside_close_wait(family):
    with listener(family) as first, listener(family) as second:
        client = socket.socket(family, TCP)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((LOOPBACK[family], 0))
        mine = client.getsockname()
        client.connect(first.getsockname())
        accepted, _ = first.accept()
        client.close()
        eq("its peer sees the end, and stays in CLOSE_WAIT", accepted.recv(10), b"")
        again = socket.socket(family, TCP)
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(mine)
        again.settimeout(5)
        again.connect(second.getsockname())
        eq("the port connects to another listener", second.accept()[1][:2], mine[:2])
        late = socket.socket(family, TCP)
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        late.bind(mine)
        late.settimeout(5)
        got = error_of(late.connect, first.getsockname())
        check("and is not hung up on by its old peer", got in ("EADDRNOTAVAIL", "success", "ECONNRESET"), got)
        accepted.close()


@per_family
def end_send_at_once_after_connect(family):
    for wait in (0, 0.02):
        with listener(family) as server:
            client = socket.socket(family, TCP)
            client.setblocking(False)
            fails("connect", "EINPROGRESS", client.connect, server.getsockname())
            time.sleep(wait)
            eq(f"a send at once ({wait})", error_of(client.send, b"hello"), "success")
            accepted, _ = server.accept()
            eq("arrives", receive_exactly(accepted, 5), b"hello")


@per_family
def end_of_both_directions(family):
    for first in (0, 1):
        ends = tcp_pair(family)
        ends[first].shutdown(socket.SHUT_WR)
        eq("the end", ends[1 - first].recv(10), b"")
        ends[1 - first].shutdown(socket.SHUT_WR)
        eq("and the other", ends[first].recv(10), b"")
        for sock in ends:
            # The last acknowledgement may still be on its way.
            check("it is no connection any more", wait_until(lambda: error_of(sock.shutdown, socket.SHUT_RD) == "ENOTCONN"))
            fails("shutdown", "ENOTCONN", sock.shutdown, socket.SHUT_WR)
            fails("getpeername", "ENOTCONN", sock.getpeername)


@case
def end_names_and_addresses_of_odd_lengths():
    client, server = tcp_pair()
    length = ctypes.c_uint(16)
    for name in ("getsockname", "getpeername"):
        call = getattr(LIBC, name)
        got = call(client.fileno(), None, ctypes.byref(length)), errno.errorcode.get(ctypes.get_errno())
        eq(f"{name} without room", got, (-1, "EFAULT"))
    four = struct.pack("=HH4s8x", V4, 0, bytes([127, 0, 0, 1]))
    for address, expected in ((four, "EINVAL"), (four + bytes(12), "EAFNOSUPPORT")):
        for call in (LIBC.bind, LIBC.connect):
            with socket.socket(V6, TCP) as sock:
                got = call(sock.fileno(), address, len(address)), errno.errorcode.get(ctypes.get_errno())
                eq(f"an address of IPv4 of {len(address)} bytes", got, (-1, expected))


@per_family
def end_of_a_listener_resets_who_waits(family):
    """Connections that nobody has accepted are reset as their listener ends, by shutdown as by close."""
    for end in (lambda server: server.shutdown(socket.SHUT_RD), lambda server: server.shutdown(socket.SHUT_RDWR), socket.socket.close):
        server = socket.socket(family, TCP)
        server.bind((LOOPBACK[family], 0))
        server.listen(8)
        address = server.getsockname()
        clients = [socket.socket(family, TCP) for _ in range(4)]
        for client in clients:
            client.connect(address)
        clients[1].sendall(b"said before")
        clients[2].setblocking(False)
        waiting = Background(error_of, clients[3].recv, 10)
        time.sleep(0.1)
        poller = select.epoll()
        poller.register(clients[2].fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        end(server)
        eq("a recv that waits", waiting.finish(5), "ECONNRESET")
        fails("a silent one", "ECONNRESET", clients[0].recv, 10)
        eq("and then the end", clients[0].recv(10), b"")
        fails("one that has sent", "ECONNRESET", clients[1].recv, 10)
        told = poller.poll(5)
        check("one that polls", told and told[0][1] & select.EPOLLERR and told[0][1] & select.EPOLLHUP, told)
        eq("SO_ERROR of it", clients[2].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNRESET)
        fails("and there it listens no more", "ECONNREFUSED", socket.create_connection, address[:2])
