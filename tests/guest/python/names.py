"""Names of hosts and interfaces."""

import socket

from lib import *


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
def name_hostname():
    name = socket.gethostname()
    check("gethostname", name != "", name)
