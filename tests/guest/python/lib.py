"""What every guest case uses: the registry of cases, the checks, and sockets ready to use.

A case is a function that is registered with `@case`, or with `@per_family` once for IPv4 and once
for IPv6. A check that fails is written down and the case goes on, so that one run shows everything
that is wrong; an exception ends the case.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import threading

CASES = {}
FAILURES = []
COUNT = [0]

V4, V6 = socket.AF_INET, socket.AF_INET6
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
LOOPBACK = {V4: "127.0.0.1", V6: "::1"}
ANY = {V4: "0.0.0.0", V6: "::"}
LIBC = ctypes.CDLL(None, use_errno=True)


def case(function):
    """Registers a case under the function's name."""
    assert function.__name__ not in CASES, function.__name__
    CASES[function.__name__] = function
    return function


def per_family(function):
    """Registers a case twice, as NAME_v4 and NAME_v6; the function is given the address family."""
    for family, suffix in ((V4, "v4"), (V6, "v6")):
        name = f"{function.__name__}_{suffix}"
        assert name not in CASES, name
        CASES[name] = lambda family=family: function(family)
    return function


def check(what, ok, seen=""):
    """Counts one assertion and writes down what failed."""
    COUNT[0] += 1
    if not ok:
        FAILURES.append(f"{what}: {seen}" if seen != "" else what)
        print(f"FAIL {FAILURES[-1]}", flush=True)


def eq(what, got, want):
    """The value seen is the value wanted."""
    short = lambda value: repr(value) if len(repr(value)) < 200 else repr(value)[:200] + "..."
    check(what, got == want, f"expected {short(want)}, saw {short(got)}")


def error_of(function, *arguments):
    """The name of the errno that a call fails with, or `success`."""
    try:
        function(*arguments)
    except OSError as failure:
        if failure.errno is None:
            return type(failure).__name__
        # Two names of one number: the socket calls' pages use this one.
        name = errno.errorcode.get(failure.errno, str(failure.errno))
        return "EOPNOTSUPP" if name == "ENOTSUP" else name
    return "success"


def fails(what, want, function, *arguments):
    """The call fails with the errno of this name (or one of a tuple of names)."""
    got = error_of(function, *arguments)
    wanted = want if isinstance(want, tuple) else (want,)
    check(what, got in wanted, f"expected {' or '.join(wanted)}, saw {got}")


def listener(family=V4, backlog=16, host=None, port=0, **options):
    """A listening TCP socket on a free port of the loopback."""
    sock = socket.socket(family, TCP)
    for name, value in options.items():
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    sock.bind((host or LOOPBACK[family], port))
    sock.listen(backlog)
    return sock


def tcp_pair(family=V4):
    """A connected pair: the client's end and the server's end."""
    with listener(family) as server:
        client = socket.socket(family, TCP)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
    return client, accepted


def udp_bound(family=V4, host=None):
    """A UDP socket on a free port of the loopback."""
    sock = socket.socket(family, UDP)
    sock.bind((host or LOOPBACK[family], 0))
    return sock


def udp_pair(family=V4):
    """Two UDP sockets that are connected to each other."""
    one, other = udp_bound(family), udp_bound(family)
    one.connect(other.getsockname())
    other.connect(one.getsockname())
    return one, other


def receive_exactly(sock, size):
    """Reads until `size` bytes have come or the peer has ended."""
    parts, missing = [], size
    while missing:
        part = sock.recv(min(missing, 1 << 20))
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def receive_all(sock):
    """Reads until the peer has ended."""
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def poll_bits(sock, timeout_ms=0, asked=0):
    """What `poll` says of a socket, with every bit asked for."""
    poller = select.poll()
    poller.register(sock, asked or select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    events = poller.poll(timeout_ms)
    return events[0][1] if events else 0


def names(bits):
    """The bits of `poll` by name."""
    all_bits = ("IN", "OUT", "ERR", "HUP", "RDHUP")
    return "|".join(name for name in all_bits if bits & getattr(select, "POLL" + name)) or "nothing"


def wait_until(condition, seconds=5.0):
    """Waits for what takes a moment to become true; says whether it did."""
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return condition()


def poll_becomes(what, sock, *wanted):
    """`poll` comes to say exactly these bits (the first of the wanted ones is Linux's usual one)."""
    ok = wait_until(lambda: names(poll_bits(sock)) in wanted, 3.0)
    check(what, ok, f"expected {' or '.join(wanted)}, saw {names(poll_bits(sock))}")


def reset(sock):
    """Closes a TCP socket so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Background(threading.Thread):
    """A thread whose failure is the case's failure, and whose result is kept."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.call = (function, arguments)
        self.failure = None
        self.result = None
        self.start()

    def run(self):
        try:
            function, arguments = self.call
            self.result = function(*arguments)
        except BaseException as failure:  # handed to whoever joins
            self.failure = failure

    def finish(self, seconds=30.0):
        """Waits for the thread and gives back what its function returned."""
        self.join(seconds)
        if self.is_alive():
            raise TimeoutError("a background thread did not end")
        if self.failure:
            raise self.failure
        return self.result


def in_child(function):
    """Runs a function in a forked child; gives the child's pid. Its exit status is 0 unless it raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def child_status(pid):
    """Waits for a child; its exit status, or minus the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
