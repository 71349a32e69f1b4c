"""poll, select and epoll in each state of a socket."""

import select
import socket
import time

from lib import *

IN, OUT, ERR, HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP
RDHUP, ET, ONESHOT = select.EPOLLRDHUP, select.EPOLLET, select.EPOLLONESHOT


@per_family
def ready_poll_states(family):
    with socket.socket(family, TCP) as fresh:
        eq("fresh", names(poll_bits(fresh)), "OUT|HUP")
    with listener(family) as server:
        eq("listening", names(poll_bits(server)), "nothing")
        client = socket.socket(family, TCP)
        client.connect(server.getsockname())
        poll_becomes("listening with a connection", server, "IN")
        accepted, _ = server.accept()
        poll_becomes("listening, accepted", server, "nothing")
    eq("established", names(poll_bits(client)), "OUT")
    eq("established, accepted", names(poll_bits(accepted)), "OUT")
    accepted.sendall(b"x")
    poll_becomes("data", client, "IN|OUT")
    accepted.shutdown(socket.SHUT_WR)
    poll_becomes("data and FIN", client, "IN|OUT|RDHUP")
    client.recv(10)
    poll_becomes("FIN", client, "IN|OUT|RDHUP")
    client.shutdown(socket.SHUT_WR)
    poll_becomes("both shut down", client, "IN|OUT|HUP|RDHUP")
    client.close()
    accepted.close()
    client, accepted = tcp_pair(family)
    accepted.sendall(b"x")
    poll_becomes("data before a reset", client, "IN|OUT")
    reset(accepted)
    poll_becomes("reset", client, "IN|OUT|ERR|HUP|RDHUP")


@case
def ready_select():
    client, server = tcp_pair()
    eq("nothing to read", select.select([server], [], [], 0.05), ([], [], []))
    eq("writable", select.select([server], [server], [], 0), ([], [server], []))
    client.sendall(b"x")
    eq("readable", select.select([server], [], [], 3), ([server], [], []))
    server.recv(10)
    client.close()
    eq("readable at the end", select.select([server], [], [], 3), ([server], [], []))


@case
def ready_epoll_level():
    client, server = tcp_pair()
    with select.epoll() as poller:
        poller.register(server, IN)
        eq("nothing", poller.poll(0.05), [])
        client.sendall(b"abc")
        eq("ready", poller.poll(3), [(server.fileno(), IN)])
        server.recv(1)
        eq("still ready", poller.poll(3), [(server.fileno(), IN)])
        server.recv(10)
        eq("no longer", poller.poll(0.05), [])
        poller.modify(server, OUT)
        eq("modified", poller.poll(1), [(server.fileno(), OUT)])
        poller.modify(server, IN | ONESHOT)
        client.sendall(b"d")
        eq("one shot", poller.poll(3), [(server.fileno(), IN)])
        eq("and no second", poller.poll(0.05), [])
        poller.modify(server, IN | ONESHOT)
        eq("until it is armed again", poller.poll(3), [(server.fileno(), IN)])


@case
def ready_epoll_edge():
    client, server = tcp_pair()
    with select.epoll() as poller:
        poller.register(server, IN | OUT | RDHUP | ET)
        eq("the first edge", poller.poll(3), [(server.fileno(), OUT)])
        eq("no second", poller.poll(0.05), [])
        client.sendall(b"abc")
        events = poller.poll(3)
        check("data is an edge", events and events[0][1] & IN, events)
        eq("once", poller.poll(0.05), [])
        client.sendall(b"def")
        events = poller.poll(3)
        check("more data is another", events and events[0][1] & IN, events)
        server.recv(100)
        client.shutdown(socket.SHUT_WR)
        events = poller.poll(3)
        check("FIN is one", events and events[0][1] & RDHUP, events)


@per_family
def ready_epoll_before_connect(family):
    with listener(family) as server, select.epoll() as poller:
        client = socket.socket(family, TCP)
        client.setblocking(False)
        poller.register(client, IN | OUT | RDHUP | ET)
        eq("fresh", poller.poll(1), [(client.fileno(), OUT | HUP)])
        fails("connect", "EINPROGRESS", client.connect, server.getsockname())
        events = poller.poll(3)
        check("OUT is an edge when connected", events and events[0][1] & OUT, events)
        eq("no error", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
        wait_until(lambda: not poller.poll(0.02), 0.2)
        accepted, _ = server.accept()
        accepted.sendall(b"x")
        events = poller.poll(3)
        check("data is an edge", events and events[0][1] & IN, events)


@per_family
def ready_epoll_before_refusal(family):
    with listener(family) as gone:
        address = gone.getsockname()
    with select.epoll() as poller:
        client = socket.socket(family, TCP)
        client.setblocking(False)
        poller.register(client, IN | OUT | ET)
        poller.poll(0.1)
        fails("connect", ("EINPROGRESS", "ECONNREFUSED"), client.connect, address)
        events = poller.poll(3)
        check("a refusal is an edge", events and events[0][1] & ERR, events)


@case
def ready_epoll_before_listen():
    with select.epoll() as poller:
        server = socket.socket(V4, TCP)
        server.bind(("127.0.0.1", 0))
        poller.register(server, IN | ET)
        poller.poll(0.05)
        server.listen()
        poller.poll(0.05)
        client = socket.create_connection(server.getsockname())
        events = poller.poll(3)
        check("a connection is an edge", events and events[0][1] & IN, events)
        second = socket.create_connection(server.getsockname())
        events = poller.poll(3)
        check("so is the next one", events and events[0][1] & IN, events)
        server.accept()[0].close()
        server.accept()[0].close()
        client.close()
        second.close()


@case
def ready_epoll_level_before_listen():
    with select.epoll() as poller:
        server = socket.socket(V4, TCP)
        poller.register(server, IN)
        eq("fresh, registered for reading: HUP only", [bits for _, bits in poller.poll(0.05)], [HUP])
        server.bind(("127.0.0.1", 0))
        server.listen()
        eq("listening", poller.poll(0.05), [])
        client = socket.create_connection(server.getsockname())
        eq("a connection", poller.poll(3), [(server.fileno(), IN)])
        server.accept()[0].close()
        eq("accepted", poller.poll(0.05), [])
        client.close()


@case
def ready_writable_edge_after_full():
    client, server = tcp_pair()
    client.setblocking(False)
    with select.epoll() as poller:
        poller.register(client, OUT | ET)
        poller.poll(1)
        sent = 0
        while True:
            try:
                sent += client.send(b"w" * 65536)
            except BlockingIOError:
                if not poller.poll(0.2):
                    break
        receive_exactly(server, sent)
        events = poller.poll(3)
        check("room is an edge", events and events[0][1] & OUT, events)


@case
def ready_udp_epoll():
    server, client = udp_bound(), udp_bound()
    with select.epoll() as poller:
        poller.register(server, IN | ET)
        eq("nothing", poller.poll(0.05), [])
        for turn in range(3):
            client.sendto(b"x", server.getsockname())
            events = poller.poll(3)
            check(f"datagram {turn} is an edge", events and events[0][1] & IN, events)
            server.recvfrom(10)
        client.sendto(b"1", server.getsockname())
        client.sendto(b"2", server.getsockname())
        poller.poll(3)
        server.setblocking(False)
        wait_until(lambda: False, 0.05)
        eq("two datagrams are read until EAGAIN", [server.recvfrom(10)[0], server.recvfrom(10)[0]], [b"1", b"2"])
        fails("EAGAIN", "EAGAIN", server.recvfrom, 10)


@case
def ready_shared_epoll():
    pairs = [tcp_pair() for _ in range(50)]
    with select.epoll() as poller:
        for _, server in pairs:
            poller.register(server, IN)
        for client, _ in pairs[::2]:
            client.sendall(b"x")
        seen = set()
        end = time.monotonic() + 3
        while len(seen) < 25 and time.monotonic() < end:
            for number, _ in poller.poll(1):
                seen.add(number)
        eq("exactly those with data are ready", seen, {server.fileno() for _, server in pairs[::2]})
