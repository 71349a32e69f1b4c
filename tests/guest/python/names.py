"""Names of hosts and interfaces."""

import fcntl
import socket
import struct

from lib import *

SIOCGIFCONF = 0x8912


@case
def name_localhost():
    found = socket.getaddrinfo("localhost", 80, type=TCP)
    addresses = {entry[4][0] for entry in found}
    check("localhost is the loopback", addresses and addresses <= {"127.0.0.1", "::1"}, addresses)
    check("with 127.0.0.1 among them", "127.0.0.1" in addresses, addresses)
    with listener() as server:
        client = socket.create_connection(("localhost", server.getsockname()[1]))
        eq("connect by name", client.getpeername()[1], server.getsockname()[1])


@case
def name_numeric():
    for text in ("127.0.0.1", "::1"):
        eq(f"getaddrinfo of {text}", socket.getaddrinfo(text, 1, type=TCP)[0][4][0], text)
    try:
        found = socket.getaddrinfo("no-such-host.invalid", 80)
    except socket.gaierror as failure:
        found = failure.errno
    check("a name that nobody has", found in (socket.EAI_NONAME, socket.EAI_AGAIN), found)
    eq("getnameinfo", socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV), ("127.0.0.1", "80"))


@case
def name_interfaces():
    interfaces = dict(socket.if_nameindex())
    check("lo is there", "lo" in interfaces.values(), interfaces)
    index = socket.if_nametoindex("lo")
    eq("by its index", socket.if_indextoname(index), "lo")
    fails("an unknown one", ("ENODEV", "OSError"), socket.if_nametoindex, "nosuchif0")
    with open("/proc/net/dev") as file:
        check("/proc/net/dev lists it", " lo:" in file.read().replace("lo:", " lo:"))


@case
def name_interface_list_length():
    # Java asks for the length with whatever lies in ifc_len.
    with socket.socket(V4, UDP) as sock:

        def ask(length, buffer):
            return struct.unpack("iiQ", fcntl.ioctl(sock, SIOCGIFCONF, struct.pack("iiQ", length, 0, buffer)))[0]

        wanted = ask(0, 0)
        check("the loopback has an entry", wanted >= 40 and wanted % 40 == 0, wanted)
        for length in (-1, -(2**31), 2**31 - 1, 1, 0x5A5A5A5A):
            eq(f"without a buffer, length {length}", ask(length, 0), wanted)
        room = ctypes.create_string_buffer(wanted + 40)
        address = ctypes.addressof(room)
        eq("a buffer for all", ask(wanted + 40, address), wanted)
        eq("the first name", room.raw[:3], b"lo\0")
        eq("a buffer for one and a half", ask(60, address), 40)
        for length in (39, 0, -1, -(2**31)):
            room.value = b"untouched"
            eq(f"a buffer of {length}", (ask(length, address), room.value), (0, b"untouched"))


@case
def name_hostname():
    name = socket.gethostname()
    check("gethostname", name != "", name)
