"""Who in a sandbox that root started gets what only root may do on the host's network, or on the stack.

Usage: lent.py PATH-OF-NETGRAFT
"""

import os
import subprocess
import sys

NETGRAFT = sys.argv[1]

# Prints what it could do, one word each: a port below 1024, a raw socket.
ATTACK = r"""
import socket
def able(what, call):
    try:
        call()
        print(what)
    except OSError:
        pass
def port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 81))
def raw():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).close()
able('port', port)
able('raw', raw)
print('end')
"""


def able(network, *wrapper, options=()):
    run = subprocess.run(
        ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh",
         NETGRAFT, "run", "--network", network, *options, "--", *wrapper, "python3", "-c", ATTACK],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
    )
    words = run.stdout.split()
    if run.returncode != 0 or words[-1:] != ["end"]:
        sys.exit(f"{network} {wrapper}: {run}")
    return set(words[:-1])


def check(got, expected, what):
    if got != expected:
        sys.exit(f"{what}: {got} and not {expected}")


other = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
for ids in ([], ["--host-ids"]):
    options = ["--allow-userns", *ids]
    check(able("host", options=options), {"port", "raw"}, f"root {options}")
    check(able("host", *other, options=options), set(), f"another user {options}")
    check(able("host", "setpriv", "--bounding-set=-net_raw,-net_bind_service", options=options), set(), f"root without {options}")
    # Root of a user namespace that it has made itself is root of nothing else.
    check(able("host", *other, "unshare", "-Ur", options=options), set(), f"another user's root {options}")
    check("raw" in able("sandbox", options=options), True, f"root on the stack {options}")
    for wrapper in (other, (*other, "unshare", "-Ur")):
        check("raw" in able("sandbox", *wrapper, options=options), False, f"{wrapper} on the stack {options}")
check(able("host", options=["--user", "12345"]), set(), "--user")
print("done")
