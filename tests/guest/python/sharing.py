"""Sockets that are dup'ed, inherited by fork and exec, and passed over a unix socket."""

import array
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

from lib import *


@case
def share_dup():
    client, server = tcp_pair()
    copy = os.dup(client.fileno())
    os.write(copy, b"by the copy")
    eq("a dup writes to the same connection", server.recv(100), b"by the copy")
    client.close()
    os.write(copy, b"still open")
    eq("closing one leaves the other", server.recv(100), b"still open")
    server.setblocking(False)
    fails("no end of stream yet", "EAGAIN", server.recv, 10)
    server.setblocking(True)
    os.close(copy)
    eq("the last close ends the stream", server.recv(10), b"")


@case
def share_dup_flags():
    client, _server = tcp_pair()
    copy = client.dup()
    client.setblocking(False)
    flags = fcntl.fcntl(copy.fileno(), fcntl.F_GETFL)
    eq("O_NONBLOCK belongs to the open file", flags & os.O_NONBLOCK, os.O_NONBLOCK)
    eq("names through the copy", copy.getpeername(), client.getpeername())
    copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    eq("so do options", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)


@case
def share_dup_unconnected():
    sock = socket.socket(V4, TCP)
    copy = sock.dup()
    with listener() as server:
        sock.connect(server.getsockname())
        accepted, _ = server.accept()
    copy.sendall(b"copy made before connect")
    eq("a dup made before connect", accepted.recv(100), b"copy made before connect")


@case
def share_dup2_over():
    one, two = tcp_pair()
    three, four = tcp_pair()
    os.dup2(three.fileno(), one.fileno())
    eq("dup2 over a connection closes it", two.recv(10), b"")
    one.sendall(b"x")
    eq("the number now means the other", four.recv(10), b"x")
    eq("its peer", one.getpeername(), three.getpeername())


@case
def share_fork():
    with listener() as server:
        def serve():
            connection, peer = server.accept()
            connection.sendall(repr(peer).encode() + b"\n" + connection.recv(100))

        pid = in_child(serve)
        client = socket.create_connection(server.getsockname())
        client.sendall(b"to the child")
        client.shutdown(socket.SHUT_WR)
        got = receive_all(client)
        eq("a child serves its parent's listener", got, repr(client.getsockname()).encode() + b"\nto the child")
        eq("child's status", child_status(pid), 0)


@case
def share_fork_connection():
    client, server = tcp_pair()
    pid = in_child(lambda: client.sendall(b"from the child"))
    eq("child's status", child_status(pid), 0)
    eq("a child writes to its parent's connection", server.recv(100), b"from the child")
    client.sendall(b"from the parent")
    eq("the parent's copy stays open", server.recv(100), b"from the parent")


@case
def share_fork_server():
    with listener(backlog=64) as server:
        def worker():
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"%d" % os.getpid())

        pids = [in_child(worker) for _ in range(4)]
        seen = []
        for _ in range(40):
            with socket.create_connection(server.getsockname()) as client:
                seen.append(int(receive_all(client) or b"0"))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            child_status(pid)
        eq("40 connections served by 4 processes", (len(seen), set(seen) <= set(pids)), (40, True))


@case
def share_fork_per_connection():
    with listener(backlog=64) as server:
        def serve():
            for _ in range(20):
                connection, _ = server.accept()
                if os.fork() == 0:
                    server.close()
                    while part := connection.recv(100):
                        connection.sendall(part.upper())
                    os._exit(0)
                connection.close()
            for _ in range(20):
                os.wait()

        pid = in_child(serve)
        answers = []
        for _ in range(20):
            with socket.create_connection(server.getsockname()) as client:
                client.sendall(b"forked")
                client.shutdown(socket.SHUT_WR)
                answers.append(receive_all(client))
        eq("a process per connection", answers, [b"FORKED"] * 20)
        eq("server's status", child_status(pid), 0)


@case
def share_exec():
    client, server = tcp_pair()
    program = "import socket,sys; s=socket.socket(fileno=int(sys.argv[1])); s.sendall(repr(s.getpeername()).encode())"
    command = [sys.executable, "-c", program, str(client.fileno())]
    eq("status", subprocess.run(command, pass_fds=[client.fileno()]).returncode, 0)
    eq("a program finds the socket it inherited", server.recv(200).decode(), repr(client.getpeername()))
    shell = ["sh", "-c", f"echo from a shell >&{client.fileno()}" if client.fileno() < 10 else "echo from a shell >&1"]
    subprocess.run(shell, pass_fds=[client.fileno()], stdout=client.fileno())
    eq("a shell writes to it", server.recv(100), b"from a shell\n")


@case
def share_exec_listener():
    with listener() as server:
        program = "import socket,sys; s=socket.socket(fileno=int(sys.argv[1])); c,a=s.accept(); c.sendall(repr(a).encode())"
        command = [sys.executable, "-c", program, str(server.fileno())]
        child = subprocess.Popen(command, pass_fds=[server.fileno()])
        client = socket.create_connection(server.getsockname())
        eq("accepted by another program", receive_all(client).decode(), repr(client.getsockname()))
        eq("status", child.wait(), 0)


@case
def share_cloexec():
    client, server = tcp_pair()
    child = subprocess.Popen(["sleep", "5"], close_fds=False)  # python's sockets are CLOEXEC
    client.close()
    eq("a socket that is closed on exec is not kept open", server.recv(10), b"")
    child.kill()
    child.wait()


def pass_over(socks):
    """Sends sockets over a unix socket to a child that uses them, and waits for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def child():
        ours.close()
        _, fds, _, _ = socket.recv_fds(theirs, 10, len(socks))
        for fd in fds:
            sock = socket.socket(fileno=fd)
            if sock.type == UDP:
                data, peer = sock.recvfrom(100)
                sock.sendto(data.upper(), peer)
            elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.accept()[0].sendall(b"accepted")
            else:
                sock.sendall(sock.recv(100).upper())
                sock.close()

    pid = in_child(child)
    theirs.close()
    socket.send_fds(ours, [b"x"], [sock.fileno() for sock in socks])
    for sock in socks:
        sock.close()
    return pid


@per_family
def share_scm_rights(family):
    client, server = tcp_pair(family)
    pid = pass_over([server])
    client.sendall(b"connection")
    eq("a connection that was passed", receive_all(client), b"CONNECTION")
    eq("status", child_status(pid), 0)

    passed = listener(family)
    address = passed.getsockname()
    pid = pass_over([passed])
    with socket.socket(family, TCP) as other:
        other.connect(address)
        eq("a listener that was passed", receive_all(other), b"accepted")
    eq("status", child_status(pid), 0)

    passed, mine = udp_bound(family), udp_bound(family)
    address = passed.getsockname()
    pid = pass_over([passed])
    mine.sendto(b"datagram", address)
    eq("a UDP socket that was passed", mine.recvfrom(100)[0], b"DATAGRAM")
    eq("status", child_status(pid), 0)


@case
def share_scm_rights_in_flight():
    client, server = tcp_pair()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    socket.send_fds(ours, [b"x"], [server.fileno()])
    server.close()
    client.sendall(b"written while it is in flight")
    time.sleep(0.05)
    _, fds, _, _ = socket.recv_fds(theirs, 10, 1)
    with socket.socket(fileno=fds[0]) as arrived:
        eq("data waits for a socket in flight", arrived.recv(100), b"written while it is in flight")
        eq("and its name is its own", arrived.getpeername(), client.getsockname())
    eq("closed at last", client.recv(10), b"")


@case
def share_two_readers():
    client, server = tcp_pair()
    totals = []

    def reader():
        total = 0
        while part := server.recv(4096):
            total += len(part)
        totals.append(total)

    tasks = [Background(reader) for _ in range(4)]
    client.sendall(b"r" * (4 << 20))
    client.close()
    for task in tasks:
        task.finish()
    eq("four threads share what arrives", sum(totals), 4 << 20)


@case
def share_unix_untouched():
    ours, theirs = socket.socketpair()
    ours.sendall(b"unix")
    eq("socketpair", theirs.recv(10), b"unix")
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\0netgraft-guest-{os.getpid()}")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    client.sendall(b"named")
    eq("an abstract name", accepted.recv(10), b"named")
    eq("SO_DOMAIN", client.getsockopt(socket.SOL_SOCKET, 39), socket.AF_UNIX)
    eq("getsockname", server.getsockname(), f"\0netgraft-guest-{os.getpid()}".encode())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        datagram.bind("")
        datagram.sendto(b"to itself", datagram.getsockname())
        eq("a unix datagram", datagram.recvfrom(100)[0], b"to itself")


@case
def share_leaves_the_network():
    """A process that moves to another network namespace has the network of that one, and keeps its old sockets."""
    new_user, new_network = 0x10000000, 0x40000000
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    results, report = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(report, "w") as out:
            eq("a namespace of its own", LIBC.unshare(new_user | new_network), 0)
            mine = socket.socket()
            out.write(error_of(mine.connect, ("127.0.0.1", port)) + "\n")
            # No address of a loopback that is down, but every port.
            other = socket.socket()
            other.bind(("0.0.0.0", port))
            out.write(f"{other.getsockname()[1] == port}\n")
            out.write(f"{listener.getsockname()[1] == port}\n")
        os._exit(0)
    os.close(report)
    with os.fdopen(results) as told:
        refused, its_port, old_socket = told.read().split()
    os.waitpid(child, 0)
    eq("nothing of the sandbox is reached", refused, "ENETUNREACH")
    eq("its ports are its own", its_port, "True")
    eq("a socket stays where it was made", old_socket, "True")
    client = socket.create_connection(("127.0.0.1", port))
    server, _ = listener.accept()
    client.sendall(b"here")
    eq("its parent is still in the sandbox", server.recv(10), b"here")
