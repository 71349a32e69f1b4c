"""Small servers and clients: an echo, one that forks, and a peer that misbehaves on purpose."""

import errno
import os
import signal
import socket
import socketserver
import struct
import sys
import threading
import time

HOST, PORT, BIND = os.environ["HOST"], int(os.environ["PORT"]), os.environ["BIND"]
FAMILY = socket.AF_INET6 if ":" in BIND else socket.AF_INET


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while part := self.request.recv(65536):
            self.request.sendall(part)


class Threaded(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, request_queue_size, daemon_threads = FAMILY, True, 128, True


class Forking(socketserver.ForkingTCPServer):
    address_family, allow_reuse_address, request_queue_size, max_children = FAMILY, True, 128, 64


def connect(port=PORT):
    return socket.create_connection((HOST, port), timeout=15)


def read_all(sock):
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def many():
    """60 connections to a server that forks for each."""
    def one(number):
        with connect() as sock:
            message = b"%d " % number * 2000
            sock.sendall(message)
            sock.shutdown(socket.SHUT_WR)
            answers.append(read_all(sock) == message)

    answers = []
    for start in range(0, 60, 10):
        threads = [threading.Thread(target=one, args=(start + n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{sum(answers)} of 60 connections were served")
    return 0 if sum(answers) == 60 else 1


def misbehave():
    """PORT: an echo. PORT+1: resets. PORT+2: half-closes, and then echoes what it reads. PORT+4: UDP echo."""
    def accepting(port, serve):
        server = socket.create_server((BIND, port), family=FAMILY, backlog=16)
        while True:
            connection, _ = server.accept()
            try:
                serve(connection)
            except OSError:
                pass
            finally:
                connection.close()

    def resets(connection):
        connection.recv(100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def half_closes(connection):
        connection.sendall(b"all I have to say")
        connection.shutdown(socket.SHUT_WR)
        total = len(read_all(connection))
        with open(os.path.join(os.environ["WORK"], "half-closed"), "w") as file:
            file.write(str(total))

    def datagrams():
        sock = socket.socket(FAMILY, socket.SOCK_DGRAM)
        sock.bind((BIND, PORT + 4))
        while True:
            data, peer = sock.recvfrom(65536)
            sock.sendto(data[::-1], peer)

    threading.Thread(target=datagrams, daemon=True).start()
    threading.Thread(target=accepting, args=(PORT + 1, resets), daemon=True).start()
    threading.Thread(target=accepting, args=(PORT + 2, half_closes), daemon=True).start()
    Threaded((BIND, PORT), Echo).serve_forever()


FAILED = []


def expect(what, seen, wanted):
    if seen != wanted:
        FAILED.append(what)
        print(f"FAIL {what}: expected {wanted!r}, saw {seen!r}", flush=True)


def failure_of(function, *arguments):
    try:
        return function(*arguments)
    except OSError as failure:
        return errno.errorcode.get(failure.errno, repr(failure))


def faults():
    """What a client sees of a peer that refuses, never answers, resets and half-closes."""
    sock = socket.socket(FAMILY, socket.SOCK_STREAM)
    expect("refused", failure_of(sock.connect, (HOST, PORT + 9)), "ECONNREFUSED")
    sock.close()

    with connect(PORT + 1) as sock:
        sock.sendall(b"please reset me")
        expect("reset by the peer", failure_of(sock.recv, 100), "ECONNRESET")

    with connect(PORT + 2) as sock:
        expect("what a half-closing peer says", read_all(sock), b"all I have to say")
        for _ in range(10):
            sock.sendall(b"x" * 10000)
            time.sleep(0.01)
        expect("the other half still works", failure_of(sock.shutdown, socket.SHUT_WR), None)

    with socket.socket(FAMILY, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        for size in (1, 1200, 5000):
            data = os.urandom(size)
            sock.sendto(data, (HOST, PORT + 4))
            answer, peer = sock.recvfrom(65536)
            expect(f"a datagram of {size} bytes", (answer[::-1] == data, peer[:2]), (True, (HOST, PORT + 4)))
        sock.connect((HOST, PORT + 8))
        sock.send(b"to a closed port")
        # With an address: tests/skips.toml says why (udp_refused).
        expect("refused over UDP", failure_of(sock.recvfrom, 10), "ECONNREFUSED")

    blackhole = os.environ.get("BLACKHOLE")
    if blackhole:
        with socket.socket(FAMILY, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, 18, 1500)  # TCP_USER_TIMEOUT
            start = time.monotonic()
            expect("a connect that nobody answers", failure_of(sock.connect, (blackhole, PORT)), "ETIMEDOUT")
            took = time.monotonic() - start
            # Without the option it takes over two minutes.
            expect(f"after the user's time ({took:.1f} s)", 1.0 < took < 60.0, True)
        with socket.socket(FAMILY, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            expect("not blocking", failure_of(sock.connect, (blackhole, PORT)), "EINPROGRESS")
            expect("again", failure_of(sock.connect, (blackhole, PORT)), "EALREADY")
            expect("send while connecting", failure_of(sock.send, b"x"), "EAGAIN")

        # A signal ends a blocking connect; python repeats it, so the handler raises.
        class Interrupted(Exception):
            pass

        def handler(*_):
            raise Interrupted

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        start = time.monotonic()
        try:
            with socket.socket(FAMILY, socket.SOCK_STREAM) as sock:
                sock.connect((blackhole, PORT))
            expect("a signal during connect", "connected", "Interrupted")
        except Interrupted:
            expect("before the connect timed out", time.monotonic() - start < 60.0, True)
    print("FAILED" if FAILED else "every fault was seen as Linux shows it")
    return 1 if FAILED else 0


COMMANDS = {
    "echo": lambda: Threaded((BIND, PORT), Echo).serve_forever(),
    "forking": lambda: Forking((BIND, PORT), Echo).serve_forever(),
    "misbehave": misbehave,
    "many": many,
    "faults": faults,
}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]]())
