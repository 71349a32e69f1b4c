"""A joined connection outlives the stack: bytes, addresses and options are there when a fresh one has taken over.

Prints `ready` when the stack may be killed, and ends with status 0 when all is as it should be.
"""

import socket
import sys
import time

LIMIT = 60


def await_network():
    """Until a socket can be made on the fresh stack."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            with socket.create_server(("127.0.0.1", 0)):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"no network: {error}")
        time.sleep(0.05)


def main():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    accepted, peer = server.accept()
    before = client.getsockname(), client.getpeername()
    print("ready", flush=True)
    # The network of the stack that is killed is gone until the next one is there.
    time.sleep(0.5)
    await_network()
    for sender, receiver in ((client, accepted), (accepted, client)):
        sender.sendall(b"x" * 100_000)
        got = b""
        while len(got) < 100_000:
            got += receiver.recv(100_000)
    after = client.getsockname(), client.getpeername()
    assert after == before, (before, after)
    assert accepted.getpeername() == peer == before[0], (accepted.getpeername(), peer)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    # The listener listens again.
    assert socket.create_connection(server.getsockname()).getpeername() == server.getsockname()


main()
