"""What the programs of the survival tests share."""

import errno
import os
import socket
import sys
import threading
import time


def fault(name):
    """Tells the stack to misbehave. The call may be the one that it does not survive."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.sendto(b"!" + name.encode(), ("127.0.0.1", 9))
    except OSError as e:
        return errno.errorcode[e.errno]
    finally:
        s.close()
    return "sent"


def say(*words):
    """Prints a line in one piece, whatever other threads print."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def outcome(call, *args):
    """What a call gives, or the name of its error."""
    try:
        return call(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))


def serve(listener):
    """Echoes to one connection after the other."""
    while True:
        try:
            s, _ = listener.accept()
        except OSError as e:
            say("accept:", errno.errorcode[e.errno])
            return
        with s:
            try:
                while data := s.recv(65536):
                    s.sendall(data)
            except OSError:
                pass


def echo(address, text, family=socket.AF_INET):
    """One connection to an echo server."""
    with socket.socket(family) as s:
        s.settimeout(20)
        s.connect(address)
        s.sendall(text)
        return s.recv(100)


def until(call, wanted, seconds=60):
    """Repeats a call until it gives what is wanted."""
    end = time.monotonic() + seconds
    while (got := outcome(call)) != wanted:
        if time.monotonic() > end:
            sys.exit(f"still {got!r} after {seconds} s")
        time.sleep(0.05)
