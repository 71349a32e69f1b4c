"""Asks every socket option of options.txt what it does, and prints one answer a line: KEY, a tab, and the answer.

Of each option and kind of socket: what getsockopt gives (bytes and length), what it does with short buffers, which values
setsockopt takes and what is shown then, which lengths it refuses, and whether an accepted connection inherits it.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
# Values as ints. 1 comes last: what an accepted connection has then is asked.
VALUES = (0, -1, 2, 100, 70_000, 1)
# A setting of these says nothing to a probe: they end, or change what the others say.
NOT_SET = {"TCP_REPAIR", "SO_ATTACH_BPF", "IPV6_ADDRFORM", "SO_LOCK_FILTER", "TCP_ULP"}


def result(value):
    return "ok" if value >= 0 else errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))


def get(sock, level, name, size=64, varies=False):
    data, length = ctypes.create_string_buffer(b"\xee" * size, size), ctypes.c_uint(size)
    answer = result(LIBC.getsockopt(sock.fileno(), level, name, data, ctypes.byref(length)))
    if answer != "ok":
        return answer
    return f"{length.value} bytes" if varies else data.raw[: length.value].hex() or "none"


def put(sock, level, name, data):
    return result(LIBC.setsockopt(sock.fileno(), level, name, data, len(data)))


def pair(family):
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        server.listen(4)
        client = socket.socket(family, socket.SOCK_STREAM)
        client.connect(server.getsockname())
        return client, server.accept()[0]


V4, V6 = socket.AF_INET, socket.AF_INET6
KINDS = {
    "tcp4": lambda: socket.socket(V4, socket.SOCK_STREAM),
    "tcp6": lambda: socket.socket(V6, socket.SOCK_STREAM),
    "udp4": lambda: socket.socket(V4, socket.SOCK_DGRAM),
    "udp6": lambda: socket.socket(V6, socket.SOCK_DGRAM),
    "raw4": lambda: socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "raw6": lambda: socket.socket(V6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
}


def ask(kind, level, name, number, varies, say):
    with KINDS[kind]() as sock:
        say("default", get(sock, level, number, varies=varies))
        for size in (0, 1, 3, 4):
            say(f"get of {size}", get(sock, level, number, size, varies))
    if name in NOT_SET:
        return
    for value in VALUES:
        with KINDS[kind]() as sock:
            said = put(sock, level, number, struct.pack("i", value))
            shown = get(sock, level, number, varies=varies) if said == "ok" else ""
            say(f"set {value}", f"{said} {shown}".strip())
    for size in (0, 1, 2, 3, 8, 40):
        with KINDS[kind]() as sock:
            say(f"set of {size} bytes", put(sock, level, number, b"\1" + bytes(size - 1) if size else b""))


def ask_connected(family, level, number, varies, say):
    client, server = pair(family)
    with client, server:
        say("connected", get(client, level, number, varies=varies))
        said = put(client, level, number, struct.pack("i", 1))
        say("set 1, connected", f"{said} {get(client, level, number, varies=varies) if said == 'ok' else ''}".strip())


def ask_inherited(family, level, number, varies, say):
    with socket.socket(family, socket.SOCK_STREAM) as server:
        if put(server, level, number, struct.pack("i", 1)) != "ok":
            return
        server.bind(("127.0.0.1" if family == V4 else "::1", 0))
        server.listen(4)
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            try:
                client.connect(server.getsockname())
                server.settimeout(5)
                with server.accept()[0] as accepted:
                    say("inherited", get(accepted, level, number, varies=varies))
            except OSError as failure:
                say("inherited", f"no connection: {failure}")


def main():
    kinds = sys.argv[1:] or list(KINDS)
    table = Path(__file__).with_name("options.txt").read_text(encoding="utf-8")
    for line in table.splitlines():
        if not line or line.startswith("#"):
            continue
        level_name, level, name, number, _since, shape = line.split()
        level, number, varies = int(level), int(number), shape == "varies"
        for kind in kinds:

            def say(question, answer):
                print(f"{kind} {name} {question}\t{answer}", flush=True)

            try:
                ask(kind, level, name, number, varies, say)
            except OSError as failure:
                say("socket", errno.errorcode.get(failure.errno, "?"))
                continue
            if kind.startswith("tcp") and name not in NOT_SET:
                family = V4 if kind.endswith("4") else V6
                ask_connected(family, level, number, varies, say)
                ask_inherited(family, level, number, varies, say)


main()
