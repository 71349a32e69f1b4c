"""Random sequences of socket calls, and what each call gave: a line for each sequence.

    sequences.py run --seed 1 --count 100 [--ops 12]      each sequence's number, a tab, and its results
    sequences.py show --seed 1 --number 17 [--only 0,3,4]   the calls of one sequence and their results, one a line

A sequence is made from its seed and number alone, so that it is the same natively and on a stack; fuzz.py compares the two.
Two threads make the calls, one after the other: whatever is said does not depend on time, and a call that waits is ended by
the other thread's next one or by its time-out.
"""

import argparse
import errno
import random
import select
import socket
import struct
import sys
import threading
import time

V4, V6 = socket.AF_INET, socket.AF_INET6
HOST = {V4: "127.0.0.1", V6: "::1"}
# What a call may wait for, in seconds (--patience). What differs on a busy machine is played again with more of it.
PATIENCE = 0.01
EVENTS = [(select.POLLIN, "in"), (select.POLLPRI, "pri"), (select.POLLOUT, "out"), (select.POLLERR, "err"),
          (select.POLLHUP, "hup"), (select.POLLRDHUP, "rdhup")]  # fmt: skip
SOL, TCP, IP = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP
OPTIONS = [
    (SOL, socket.SO_REUSEADDR), (SOL, socket.SO_KEEPALIVE), (SOL, socket.SO_ERROR), (SOL, socket.SO_ACCEPTCONN),
    (SOL, socket.SO_TYPE), (SOL, socket.SO_OOBINLINE), (TCP, socket.TCP_NODELAY), (IP, socket.IP_TOS), (IP, socket.IP_TTL),
]  # fmt: skip


class World:
    """The sockets of a sequence."""

    def __init__(self, family):
        self.family = family
        self.socks = [None] * 4
        # Ports are the kernel's choice: a name is the socket whose port it is.
        self.names = {}

    def close(self):
        for sock in self.socks:
            if sock is not None:
                sock.close()

    def name(self, address):
        port = address[1]
        return f"{address[0]}:{self.names.setdefault(port, len(self.names)) if port else 0}"


def settle(sock):
    """Until what the other side did has arrived."""
    time.sleep(PATIENCE / 5)
    return sock


def op_socket(world, i, _):
    if world.socks[i] is not None:
        world.socks[i].close()
    world.socks[i] = socket.socket(world.family, socket.SOCK_STREAM)
    world.socks[i].settimeout(PATIENCE)
    return "ok"


def op_bind(world, i, _):
    world.socks[i].bind((HOST[world.family], 0))
    return world.name(world.socks[i].getsockname())


def op_listen(world, i, _):
    world.socks[i].listen(3)
    world.name(world.socks[i].getsockname())
    return "ok"


def op_connect(world, i, j):
    world.socks[i].connect(world.socks[j].getsockname())
    return "ok"


def op_accept(world, i, j):
    accepted, peer = world.socks[i].accept()
    accepted.settimeout(PATIENCE)
    if j != i and world.socks[j] is not None:
        world.socks[j].close()
    if j == i:
        accepted.close()
    else:
        world.socks[j] = accepted
    return peer[0]


def op_send(world, i, n):
    # Not the first write after the peer's close: SIGPIPE and timing are the stack's.
    return world.socks[i].send(bytes([97 + n % 26]) * (1 + n), socket.MSG_NOSIGNAL)


def op_recv(world, i, n):
    return settle(world.socks[i]).recv(1 + n).decode()


def op_peek(world, i, n):
    return settle(world.socks[i]).recv(1 + n, socket.MSG_PEEK).decode()


def op_shutdown(world, i, n):
    world.socks[i].shutdown(n % 3)
    return "ok"


def op_close(world, i, _):
    world.socks[i].close()
    world.socks[i] = None
    return "ok"


def op_linger(world, i, n):
    world.socks[i].setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0) if n % 2 else struct.pack("ii", 0, 0))
    return "ok"


def op_poll(world, i, _):
    poller = select.poll()
    poller.register(settle(world.socks[i]), sum(bit for bit, _ in EVENTS))
    bits = dict(poller.poll(0)).get(world.socks[i].fileno(), 0)
    return "|".join(name for bit, name in EVENTS if bits & bit) or "nothing"


def op_getsockopt(world, i, n):
    level, name = OPTIONS[n % len(OPTIONS)]
    return f"{level}/{name}={settle(world.socks[i]).getsockopt(level, name)}"


def op_setsockopt(world, i, n):
    level, name = OPTIONS[n % len(OPTIONS)]
    world.socks[i].setsockopt(level, name, 1 + n % 40)
    return f"{level}/{name}"


def op_getpeername(world, i, _):
    return settle(world.socks[i]).getpeername()[0]


def op_getsockname(world, i, _):
    name = world.socks[i].getsockname()
    return f"{name[0]}:{'port' if name[1] else 0}"


def op_nonblocking(world, i, n):
    world.socks[i].settimeout(0 if n % 2 else PATIENCE)
    return "ok"


WEIGHTS = {
    op_socket: 1, op_bind: 3, op_listen: 3, op_connect: 6, op_accept: 5, op_send: 8, op_recv: 8, op_peek: 2, op_shutdown: 4,
    op_close: 3, op_linger: 1, op_poll: 5, op_getsockopt: 3, op_setsockopt: 2, op_getpeername: 2, op_getsockname: 2,
    op_nonblocking: 1,
}  # fmt: skip


def make(seed, number, length):
    """The calls of a sequence: each with its function, a socket, a number, and which thread makes it."""
    dice = random.Random(f"{seed}/{number}")
    family = dice.choice((V4, V6))
    # The usual beginning in most of them, so that there is something to break.
    calls = [(op_socket, i, 0, 0) for i in range(3)]
    if dice.random() < 0.8:
        calls += [(op_bind, 0, 0, 0), (op_listen, 0, 0, 0), (op_connect, 1, 0, 1), (op_accept, 0, 3, 0)]
    functions, weights = list(WEIGHTS), list(WEIGHTS.values())
    for _ in range(length):
        function = dice.choices(functions, weights)[0]
        i = dice.choice((0, 1, 1, 2, 3, 3))
        other = dice.choice((0, 0, 2, 3)) if function in (op_connect, op_accept) else dice.randrange(60)
        calls.append((function, i, other, dice.randrange(2)))
    return family, calls


def told(function, world, i, n):
    """What a call gave, without what is chance."""
    if world.socks[i] is None and function is not op_socket:
        return "no socket"
    try:
        return str(function(world, i, n))
    except (TimeoutError, BlockingIOError) as failure:
        # A time-out of python's is a call that says EAGAIN.
        return "EINPROGRESS" if failure.errno == errno.EINPROGRESS else "EAGAIN"
    except OSError as failure:
        return errno.errorcode.get(failure.errno, str(failure))
    except AttributeError:
        return "no socket"


def play(family, calls):
    """Makes the calls, each by its thread, and gives their results."""
    world, results = World(family), []
    turn, threads = [threading.Semaphore(0), threading.Semaphore(0)], []
    done = threading.Semaphore(0)

    def run(me):
        for function, i, n, who in calls:
            if who != me:
                continue
            turn[me].acquire()
            results.append(told(function, world, i, n))
            done.release()

    for me in (0, 1):
        threads.append(threading.Thread(target=run, args=(me,), daemon=True))
        threads[-1].start()
    for _, _, _, who in calls:
        turn[who].release()
        done.acquire()
    world.close()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--seed", default="1")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--ops", type=int, default=12)
    parser.add_argument("--only", default="")
    parser.add_argument("--patience", type=float, default=PATIENCE)
    asked = parser.parse_args()
    globals()["PATIENCE"] = asked.patience
    if asked.what == "run":
        for number in range(asked.first, asked.first + asked.count):
            print(f"{number}\t" + " ".join(result.replace(" ", "_") for result in play(*make(asked.seed, number, asked.ops))), flush=True)
        return
    family, calls = make(asked.seed, asked.number, asked.ops)
    if asked.only:
        calls = [calls[int(at)] for at in asked.only.split(",")]
    for (function, i, n, who), result in zip(calls, play(family, calls)):
        print(f"thread {who}: {function.__name__[3:]} {i} {n}\t{result}")


if __name__ == "__main__":
    main()
