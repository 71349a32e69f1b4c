"""The life of a TCP socket: connect, accept, names, half-close, reset, ports."""

import fcntl
import hashlib
import os
import random
import signal
import socket
import time

from lib import *


@per_family
def tcp_lifecycle(family):
    server = socket.socket(family, TCP)
    eq("an unbound socket's port", server.getsockname()[1], 0)
    server.bind((LOOPBACK[family], 0))
    address = server.getsockname()
    check("bind to port 0 chose a port", address[1] > 0, address)
    eq("bound address", address[0], LOOPBACK[family])
    server.listen(5)
    client = socket.socket(family, TCP)
    client.connect(address)
    accepted, peer = server.accept()
    eq("accept's address is the client's", peer, client.getsockname())
    eq("getpeername of the client", client.getpeername(), address)
    eq("getpeername of the accepted socket", accepted.getpeername(), client.getsockname())
    eq("getsockname of the accepted socket", accepted.getsockname(), address)
    client.sendall(b"ping")
    eq("client to server", accepted.recv(100), b"ping")
    accepted.sendall(b"pong!")
    eq("server to client", client.recv(100), b"pong!")
    client.close()
    eq("end of stream after close", accepted.recv(100), b"")
    accepted.close()
    server.close()


@per_family
def tcp_connect_nonblocking(family):
    with listener(family) as server, socket.socket(family, TCP) as client:
        client.setblocking(False)
        fails("connect of a non-blocking socket", "EINPROGRESS", client.connect, server.getsockname())
        check("writable when connected", poll_bits(client, 3000, select.POLLOUT) & select.POLLOUT)
        eq("SO_ERROR after it", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
        accepted, peer = server.accept()
        eq("peer's address", peer, client.getsockname())
        # The first call after an asynchronous connect reports its success, the next one EISCONN.
        eq("connect when it is done", client.connect_ex(server.getsockname()), 0)
        fails("connect again", "EISCONN", client.connect, server.getsockname())
        fails("recv with nothing there", "EAGAIN", client.recv, 10)
        accepted.sendall(b"x")
        check("readable", poll_bits(client, 3000, select.POLLIN) & select.POLLIN)
        eq("recv", client.recv(10), b"x")
        accepted.close()


@per_family
def tcp_connect_refused(family):
    with listener(family) as gone:
        address = gone.getsockname()
    client = socket.socket(family, TCP)
    fails("connect to a closed port", "ECONNREFUSED", client.connect, address)
    fails("and again", "ECONNREFUSED", client.connect, address)
    with listener(family) as server:
        client.connect(server.getsockname())
        eq("the same socket then connects", client.getpeername(), server.getsockname())
    client.close()


@per_family
def tcp_connect_refused_nonblocking(family):
    with listener(family) as gone:
        address = gone.getsockname()
    client = socket.socket(family, TCP)
    client.setblocking(False)
    fails("connect", ("EINPROGRESS", "ECONNREFUSED"), client.connect, address)
    ok = wait_until(lambda: poll_bits(client) & select.POLLERR)
    check("poll says ERR", ok, names(poll_bits(client)))
    check("poll says OUT too", poll_bits(client) & select.POLLOUT, names(poll_bits(client)))
    eq("SO_ERROR", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)
    eq("SO_ERROR is cleared by reading", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)


@per_family
def tcp_failed_attempt_leaves_a_socket(family):
    with listener(family) as gone:
        address = gone.getsockname()
    client = socket.socket(family, TCP)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind((LOOPBACK[family], 0))
    with socket.socket(family, TCP) as other:
        other.bind((LOOPBACK[family], 0))
        port = other.getsockname()[1]
    again = socket.socket(family, TCP)
    again.bind((LOOPBACK[family], port))
    for sock, name in ((client, "port chosen"), (again, "port asked for")):
        sock.setblocking(False)
        fails(f"{name}: connect", ("EINPROGRESS", "ECONNREFUSED"), sock.connect, address)
        wait_until(lambda: poll_bits(sock) & select.POLLERR)
    eq("SO_ERROR", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)
    check("TCP_NODELAY is kept", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    check("SO_REUSEADDR is kept", client.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
    fails("connect says that the attempt is over", "ECONNABORTED", client.connect, address)
    eq("SO_ERROR of the other", again.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)
    fails("connect says that it is over", "ECONNABORTED", again.connect, address)
    with listener(family) as server:
        for sock in (client, again):
            sock.setblocking(True)
            sock.connect(server.getsockname())
            accepted, peer = server.accept()
            eq("the peer sees the client's address", peer, sock.getsockname())
            sock.sendall(b"x")
            eq("data", accepted.recv(2), b"x")
            accepted.close()
        eq("the port is kept", again.getsockname()[1], port)
        check("TCP_NODELAY is kept on the connection", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@per_family
def tcp_failed_attempt_receives(family):
    with listener(family) as gone:
        address = gone.getsockname()
    client = socket.socket(family, TCP)
    client.setblocking(False)
    fails("connect", ("EINPROGRESS", "ECONNREFUSED"), client.connect, address)
    wait_until(lambda: poll_bits(client) & select.POLLERR)
    fails("recvfrom says the error", "ECONNREFUSED", receive_from, client)
    eq("the end of the stream after it", receive_from(client), 0)
    fails("connect says that the attempt is over", "ECONNABORTED", client.connect, address)


def receive_from(sock):
    """recvfrom with an address, which Python's own leaves out for a stream."""
    data, address = ctypes.create_string_buffer(16), ctypes.create_string_buffer(128)
    length = ctypes.c_uint(128)
    got = LIBC.recvfrom(sock.fileno(), data, 16, 0, address, ctypes.byref(length))
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got


@per_family
def tcp_disconnect(family):
    unspecified = bytes(28)
    disconnect = lambda sock: (LIBC.connect(sock.fileno(), unspecified, 28), ctypes.get_errno())[0]
    with listener(family) as server:
        client = socket.socket(family, TCP)
        eq("of a fresh socket", disconnect(client), 0)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        eq("of a connection", disconnect(client), 0)
        fails("getpeername after it", "ENOTCONN", client.getpeername)
        fails("the peer is told", "ECONNRESET", accepted.recv, 1)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        client.sendall(b"again")
        eq("the socket connects again", accepted.recv(9), b"again")
        address = server.getsockname()
        eq("of a listener", disconnect(server), 0)
        eq("it does not listen any more", server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 0)
        with socket.socket(family, TCP) as other:
            fails("connect to it", "ECONNREFUSED", other.connect, address)


@case
def tcp_shutdown_ends_a_blocking_connect():
    with listener(backlog=0) as server, listener() as other:
        waiting = []
        for _ in range(16):
            sock = socket.socket(V4, TCP)
            sock.setblocking(False)
            waiting.append(sock)
            sock.connect_ex(server.getsockname())
            if not poll_bits(sock, 200, select.POLLOUT):
                break
        check("a full queue keeps a connect waiting", len(waiting) < 16)
        client, seen = socket.socket(V4, TCP), []
        thread = threading.Thread(target=lambda: seen.append(error_of(client.connect, server.getsockname())))
        thread.start()
        check("the call waits", not wait_until(lambda: seen, 0.3))
        client.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        check("the call has failed", seen and seen[0] not in ("success", "EINPROGRESS"), seen)
        client.settimeout(10)
        # Linux says once more that the attempt is over, and then begins anew.
        again = [error_of(client.connect, other.getsockname()) for _ in range(2)]
        check("the socket connects again", "success" in again, again)
        for sock in waiting:
            sock.close()


@case
def tcp_listener_shut_down():
    with listener() as server:
        address = server.getsockname()
        server.shutdown(socket.SHUT_WR)
        client = socket.create_connection(address)
        accepted, _ = server.accept()
        accepted.sendall(b"x")
        eq("it goes on after SHUT_WR", client.recv(2), b"x")
        server.shutdown(socket.SHUT_RD)
        with socket.socket(V4, TCP) as other:
            fails("and not after SHUT_RD", "ECONNREFUSED", other.connect, address)
        server.listen(4)
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        accepted.sendall(b"y")
        eq("until it listens again", client.recv(2), b"y")


@case
def tcp_dual_stack():
    server = listener(V6, host="::")
    port = server.getsockname()[1]
    client = socket.socket(V4, TCP)
    client.connect(("127.0.0.1", port))
    accepted, peer = server.accept()
    eq("an IPv4 peer of an IPv6 listener", peer[0], "::ffff:127.0.0.1")
    eq("its port", peer[1], client.getsockname()[1])
    eq("the local address", accepted.getsockname()[:2], ("::ffff:127.0.0.1", port))
    client.sendall(b"4to6")
    eq("data", accepted.recv(10), b"4to6")
    six = socket.socket(V6, TCP)
    six.connect(("::1", port))
    _, peer = server.accept()
    eq("an IPv6 peer of the same listener", peer[0], "::1")
    with listener(V4) as four:
        mapped = socket.socket(V6, TCP)
        mapped.connect(("::ffff:127.0.0.1", four.getsockname()[1]))
        _, peer = four.accept()
        eq("an IPv6 socket that connects to a mapped address", peer[0], "127.0.0.1")
        eq("its name of itself", mapped.getsockname()[0], "::ffff:127.0.0.1")
        eq("its name of the peer", mapped.getpeername()[:2], ("::ffff:127.0.0.1", four.getsockname()[1]))


@case
def tcp_v6only():
    server = socket.socket(V6, TCP)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::", 0))
    server.listen()
    port = server.getsockname()[1]
    with socket.socket(V4, TCP) as client:
        fails("IPv4 to an IPv6-only listener", "ECONNREFUSED", client.connect, ("127.0.0.1", port))
    four = socket.socket(V4, TCP)
    four.bind(("0.0.0.0", port))
    four.listen()
    with socket.socket(V4, TCP) as client:
        client.connect(("127.0.0.1", port))
        eq("the IPv4 listener of the same port", four.accept()[1], client.getsockname())
    with socket.socket(V6, TCP) as client:
        client.connect(("::1", port))
        eq("the IPv6 listener of it", server.accept()[1][:2], client.getsockname()[:2])
    with socket.socket(V6, TCP) as late:
        late.bind(("::1", 0))
        fails("V6ONLY after bind", "EINVAL", late.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


@per_family
def tcp_wildcard(family):
    with listener(family, host=ANY[family]) as server:
        eq("a wildcard listener's name", server.getsockname()[0], ANY[family])
        port = server.getsockname()[1]
        client = socket.socket(family, TCP)
        client.connect((LOOPBACK[family], port))
        accepted, _ = server.accept()
        eq("the accepted socket's name", accepted.getsockname()[:2], (LOOPBACK[family], port))
        other = socket.socket(family, TCP)
        other.connect((ANY[family], port))
        eq("connect to the wildcard address reaches the loopback", other.getpeername()[0], LOOPBACK[family])
        server.accept()[0].close()


@case
def tcp_whole_loopback_net():
    with listener(V4, host="127.0.0.1") as server, socket.socket(V4, TCP) as client:
        client.bind(("127.0.0.2", 0))
        client.connect(server.getsockname())
        eq("127.0.0.2 is ours as well", server.accept()[1][0], "127.0.0.2")
    with listener(V4, host="127.1.2.3") as server, socket.socket(V4, TCP) as client:
        client.connect(("127.1.2.3", server.getsockname()[1]))
        eq("a listener on 127.1.2.3", client.getpeername()[0], "127.1.2.3")


@per_family
def tcp_listen_unbound(family):
    server = socket.socket(family, TCP)
    server.listen()
    name = server.getsockname()
    check("listen binds an unbound socket", name[1] > 0, name)
    eq("to the wildcard address", name[0], ANY[family])
    client = socket.socket(family, TCP)
    client.connect((LOOPBACK[family], name[1]))
    eq("and it accepts", server.accept()[1], client.getsockname())


@per_family
def tcp_bound_client(family):
    client = socket.socket(family, TCP)
    client.bind((LOOPBACK[family], 0))
    mine = client.getsockname()
    with listener(family) as server:
        client.connect(server.getsockname())
        eq("a client that bound its port keeps it", client.getsockname(), mine)
        eq("and its peer sees it", server.accept()[1], mine)


@per_family
def tcp_half_close(family):
    client, server = tcp_pair(family)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    eq("all that was sent before shutdown", receive_all(server), b"question")
    server.sendall(b"a" * 100000)
    server.close()
    eq("the other direction stays open", len(receive_all(client)), 100000)
    fails("send after shutdown", "EPIPE", client.send, b"x")
    client.close()


@case
def tcp_shutdown_read():
    client, server = tcp_pair()
    client.shutdown(socket.SHUT_RD)
    eq("recv after shutdown of reading", client.recv(10), b"")
    client.sendall(b"still")
    eq("writing goes on", server.recv(10), b"still")


@case
def tcp_shutdown_wakes_reader():
    client, server = tcp_pair()
    reader = Background(client.recv, 10)
    time.sleep(0.05)
    client.shutdown(socket.SHUT_RDWR)
    eq("a blocked recv ends with the stream", reader.finish(5), b"")
    eq("and the peer sees the end", server.recv(10), b"")


@case
def tcp_shutdown_wakes_accept():
    server = listener()
    waiting = Background(lambda: error_of(server.accept))
    time.sleep(0.05)
    server.shutdown(socket.SHUT_RDWR)
    eq("a blocked accept ends when the listener is shut down", waiting.finish(5), "EINVAL")


@case
def tcp_write_after_peer_closed():
    client, server = tcp_pair()
    server.close()
    eq("end of stream", client.recv(10), b"")
    client.send(b"first")  # answered with a reset
    ok = wait_until(lambda: error_of(client.send, b"more") in ("EPIPE", "ECONNRESET"))
    check("writing to a closed peer fails soon", ok)
    fails("and then with EPIPE", "EPIPE", client.send, b"more")


@case
def tcp_sigpipe():
    def child():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        client, _ = tcp_pair()
        client.shutdown(socket.SHUT_WR)
        assert error_of(client.send, b"x", socket.MSG_NOSIGNAL) == "EPIPE"
        os.write(client.fileno(), b"x")  # ends the process

    eq("write after shutdown raises SIGPIPE", child_status(in_child(child)), -signal.SIGPIPE)


@per_family
def tcp_reset_by_linger(family):
    client, server = tcp_pair(family)
    reset(server)
    check("poll says so", wait_until(lambda: poll_bits(client) & select.POLLERR), names(poll_bits(client)))
    fails("recv after a reset", "ECONNRESET", client.recv, 10)
    eq("and then the end", client.recv(10), b"")
    fails("send after it", "EPIPE", client.send, b"x")


@case
def tcp_reset_by_unread_data():
    client, server = tcp_pair()
    client.sendall(b"never read")
    wait_until(lambda: poll_bits(server) & select.POLLIN)
    server.close()
    fails("closing with unread data resets", "ECONNRESET", client.recv, 10)


@case
def tcp_so_error_after_reset():
    client, server = tcp_pair()
    reset(server)
    wait_until(lambda: poll_bits(client) & select.POLLERR)
    eq("SO_ERROR", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNRESET)
    eq("SO_ERROR is read once", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)


@per_family
def tcp_backlog(family):
    count = 200
    with listener(family, backlog=256) as server:
        clients = []
        for number in range(count):
            client = socket.socket(family, TCP)
            client.connect(server.getsockname())
            client.sendall(b"%4d" % number)
            clients.append(client)
        eq("all connected before the first accept", len(clients), count)
        seen = set()
        for _ in range(count):
            accepted, _ = server.accept()
            seen.add(int(receive_exactly(accepted, 4)))
            accepted.close()
        eq("each is accepted once, with its data", seen, set(range(count)))
        server.setblocking(False)
        fails("no more", "EAGAIN", server.accept)


@case
def tcp_accept_nonblocking():
    with listener() as server:
        server.setblocking(False)
        fails("accept with nobody there", "EAGAIN", server.accept)
        client = socket.create_connection(server.getsockname())
        check("readable", poll_bits(server, 3000, select.POLLIN) & select.POLLIN)
        accepted, _ = server.accept()
        flags = fcntl.fcntl(accepted.fileno(), fcntl.F_GETFL)
        eq("O_NONBLOCK is not inherited", flags & os.O_NONBLOCK, 0)
        flags = fcntl.fcntl(accepted.fileno(), fcntl.F_GETFD)
        eq("python asks accept4 for CLOEXEC", flags & fcntl.FD_CLOEXEC, fcntl.FD_CLOEXEC)
        client.close()


@case
def tcp_listener_closed_resets_pending():
    server = listener()
    client = socket.create_connection(server.getsockname())
    server.close()
    fails("a connection that nobody accepted is reset", "ECONNRESET", client.recv, 10)


@per_family
def tcp_port_released(family):
    holder = socket.socket(family, TCP)
    holder.bind((LOOPBACK[family], 0))
    address = holder.getsockname()
    with socket.socket(family, TCP) as other:
        fails("a bound port is taken", "EADDRINUSE", other.bind, address)
    holder.close()
    with socket.socket(family, TCP) as other:
        eq("free after close", error_of(other.bind, address), "success")
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what it leaves in TIME_WAIT allows reuse
        other.listen()
        with socket.socket(family, TCP) as third:
            fails("a listening port is taken", "EADDRINUSE", third.bind, address)
        with socket.socket(family, TCP) as client:
            eq("it accepts", error_of(client.connect, address), "success")
            other.accept()[0].close()
    with socket.socket(family, TCP) as client:
        fails("refused after close", "ECONNREFUSED", client.connect, address)
    with socket.socket(family, TCP) as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        eq("bound again with REUSEADDR", error_of(again.bind, address), "success")
        eq("and listening again", error_of(again.listen), "success")


@case
def tcp_server_process_dies():
    with listener() as server:
        address = server.getsockname()

        def serve():
            connection, _ = server.accept()
            connection.sendall(b"hello")
            signal.pause()

        pid = in_child(serve)
    client = socket.create_connection(address)
    eq("served", client.recv(10), b"hello")
    os.kill(pid, signal.SIGKILL)
    eq("killed", child_status(pid), -signal.SIGKILL)
    eq("its connection ends", client.recv(10), b"")
    with socket.socket(V4, TCP) as late:
        fails("its listener is gone", "ECONNREFUSED", late.connect, address)


@per_family
def tcp_bulk_both_ways(family):
    size = 32 << 20
    client, server = tcp_pair(family)
    payload = random.Random(7).randbytes(1 << 20) * (size >> 20)
    digest = hashlib.sha256(payload).hexdigest()

    def send(sock):
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)

    def take(sock):
        got, length = hashlib.sha256(), 0
        while part := sock.recv(1 << 18):
            got.update(part)
            length += len(part)
        return length, got.hexdigest()

    tasks = [Background(send, client), Background(send, server)]
    readers = [Background(take, client), Background(take, server)]
    for reader in readers:
        eq("32 MiB arrive whole", reader.finish(), (size, digest))
    for task in tasks:
        task.finish()


@case
def tcp_backpressure():
    client, server = tcp_pair()
    client.setblocking(False)
    sent, block = 0, b"b" * 65536
    while sent < 1 << 28:
        try:
            sent += client.send(block)
        except BlockingIOError:
            if not wait_until(lambda: poll_bits(client) & select.POLLOUT, 0.2):
                break
    check("a sender without a reader is stopped", sent < 1 << 28, sent)
    eq("not writable then", poll_bits(client) & select.POLLOUT, 0)
    eq("all that was accepted arrives", len(receive_exactly(server, sent)), sent)
    check("writable again", poll_bits(client, 3000, select.POLLOUT) & select.POLLOUT)
    client.setblocking(True)
    client.sendall(b"end")
    eq("and it works", receive_exactly(server, 3), b"end")


@case
def tcp_many_short():
    with listener(backlog=128) as server:
        def serve():
            for _ in range(300):
                connection, _ = server.accept()
                connection.sendall(connection.recv(64))
                connection.close()

        task = Background(serve)
        for number in range(300):
            with socket.create_connection(server.getsockname()) as client:
                message = b"number %d" % number
                client.sendall(message)
                got = receive_all(client)
                if got != message:
                    eq(f"connection {number}", got, message)
                    return
        task.finish()
    check("300 short connections", True)


@case
def tcp_close_sends_everything():
    payload = b"z" * (4 << 20)
    client, server = tcp_pair()

    def send():
        client.sendall(payload)
        client.close()

    task = Background(send)
    time.sleep(0.05)
    eq("what was written before close arrives", len(receive_all(server)), len(payload))
    task.finish()


@case
def tcp_asyncio_500():
    import asyncio
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))

    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    async def one(port, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        good = True
        for turn in range(4):
            message = b"%d %d\n" % (number, turn)
            writer.write(message)
            good &= await reader.readline() == message
        writer.close()
        await writer.wait_closed()
        return good

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
        port = server.sockets[0].getsockname()[1]
        return await asyncio.gather(*(one(port, number) for number in range(500)))

    results = asyncio.run(run())
    eq("500 clients at once are answered", (len(results), all(results)), (500, True))
