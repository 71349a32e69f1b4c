"""A program that may make no AF_UNIX sockets tries to turn others into such, and to reach a socket of the host's with them.

Usage: paths.py PATH-OF-NETGRAFT PATH-OF-THE-ATTACK
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading

NETGRAFT, ATTACK = sys.argv[1:]
seen = {"connections": 0, "datagrams": 0}


def take(server, what):
    while True:
        try:
            got = server.accept()[0] if what == "connections" else server.recv(1)
        except OSError:
            return
        seen[what] += 1
        if what == "connections":
            got.close()


def main():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as stream:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "socket")
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for server, place in ((stream, path), (datagrams, f"{path}.d")):
            server.bind(place)
            os.chmod(place, 0o777)
        stream.listen(64)
        for server, what in ((stream, "connections"), (datagrams, "datagrams")):
            threading.Thread(target=take, args=(server, what), daemon=True).start()

        def attack(kind, *options, path=path):
            seen.update(connections=0, datagrams=0)
            run = subprocess.run(
                [NETGRAFT, "run", "--network", "none", *options, "--", ATTACK, path, "1", kind],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
            )
            if run.returncode != 0 or not run.stdout.endswith("end\n"):
                sys.exit(f"{kind} {options}: {run}")
            return run.stdout

        # Where every user of a sandbox may make files.
        place = os.path.join(folder, "open")
        os.mkdir(place)
        os.chmod(place, 0o777)

        # Who may have AF_UNIX sockets can turn a surrogate into one: here the attack is seen to work.
        if attack("own").startswith("0 of ") or seen["connections"] == 0:
            sys.exit(f"a surrogate was never turned: {seen}")
        # The same with a socket of the kernel's, made in a network namespace of the program's own.
        if attack("left", "--allow-userns").startswith("0 of ") or seen["connections"] == 0:
            sys.exit(f"a surrogate was never turned in another network: {seen}")
        # So it can bind one to a path, and listen there.
        if attack("bound", path=f"{place}/own") != "1 bound\nend\n" or not os.path.exists(f"{place}/own"):
            sys.exit("a surrogate was never bound to a path")
        attack("datagrams")
        if seen["datagrams"] == 0:
            sys.exit(f"no datagram came: {seen}")
        if attack("left", "--no-path-sockets", "--allow-userns") != "0 of 0\nend\n" or seen["connections"]:
            sys.exit(f"a network namespace of its own, or the host's sockets, were reached: {seen}")
        for kind in ("bound-stream", "bound-netlink", "bound-inet"):
            said = attack(kind, "--no-path-sockets", path=f"{place}/{kind}")
            if said != "0 bound\nend\n" or os.path.exists(f"{place}/{kind}"):
                sys.exit(f"{kind}: a surrogate was bound to a path of the host's")
        for kind in ("pipe", "stream", "packets", "netlink", "datagrams"):
            said = attack(kind, "--no-path-sockets")
            if seen["connections"] or seen["datagrams"] or not (said.startswith("0 of ") or kind == "datagrams"):
                sys.exit(f"{kind}: the host's sockets were reached: {seen}, {said}")
        # Where the stack carries datagrams, a socket in sight could be reached: it is named, and to be hidden.
        options = ["--join", "never", "--no-path-sockets"]
        for tries in range(20):
            run = subprocess.run(
                [NETGRAFT, "run", "--network", "none", *options, "--", ATTACK, path, "1", "datagrams"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
            )
            refused = "cannot keep the program from the socket" in run.stderr
            if not refused:
                break
            if run.returncode != 125 or run.stdout:
                sys.exit(f"not refused as a wrong option: {run}")
            options += ["--tmpfs", run.stderr.strip().rsplit(" --tmpfs ", 1)[1]]
        if not tries or folder not in options or seen["connections"] or seen["datagrams"] or not run.stdout.endswith("end\n"):
            sys.exit(f"{options}: {seen}, {run}")


main()
print("done")
