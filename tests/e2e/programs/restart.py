"""A redis-server whose stack dies and is started anew: what was connected is reset, and new connections work.

Prints `ready` when the stack may be killed, and ends with status 0 when all is as it should be.
"""

import socket
import subprocess
import sys
import time

ADDRESS = ("127.0.0.1", 6399)
LIMIT = 60


def asked():
    """A connection on which redis has answered; tried again until the time is up."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            sock = socket.create_connection(ADDRESS, timeout=LIMIT)
            sock.sendall(b"PING\r\n")
            if sock.recv(64) == b"+PONG\r\n":
                return sock
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"no answer: {error}")
        time.sleep(0.05)


def main():
    command = ["redis-server", "--save", "", "--bind", ADDRESS[0], "--port", str(ADDRESS[1])]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        old = asked()
        print("ready", flush=True)
        try:
            sys.exit(f"a connection to the stack that died: {old.recv(1)!r}")
        except ConnectionResetError:
            pass
        for _ in range(20):
            asked().close()
        if server.poll() is not None:
            sys.exit(f"redis-server ended with {server.returncode}")
    finally:
        server.terminate()
        server.wait(LIMIT)


main()
