"""A program that is not trusted looks for files, sockets and descriptors of who started it.

Usage: files.py PATH-OF-NETGRAFT
"""

import os
import socket
import subprocess
import sys
import tempfile

NETGRAFT = sys.argv[1]

# Prints what it could do, one word each.
ATTACK = r"""
import os, socket, sys
secret, path, name, work = sys.argv[1:]
def able(what, call):
    try:
        call()
        print(what)
    except OSError:
        pass
def connect(address):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(address)
        s.sendall(b'x')
def wrote(place):
    with open(place, 'w') as file:
        file.write('x')
    if not place.startswith('/dev/null'):
        os.remove(place)
able('secret', lambda: open(secret).read())
able('path-socket', lambda: connect(path))
able('abstract-socket', lambda: connect('\0' + name))
able('descriptor', lambda: os.fstat(9))
able('kept', lambda: os.fstat(8))
able('tmp', lambda: wrote('/tmp/' + name))
able('work', lambda: wrote(work + '/new'))
able('usr', lambda: wrote('/usr/' + name))
able('dev', lambda: wrote('/dev/' + name))
able('null', lambda: wrote('/dev/null'))
able('remount', lambda: os.system('mount -o remount,bind,rw / 2>/dev/null') and os.stat('/nowhere'))
if 'SECRET_KEY' in os.environ:
    print('environment')
a, b = socket.socketpair()
a.send(b'x')
print('pair' if b.recv(1) == b'x' else 'nothing')
print('end')
"""


def check(got, expected, options):
    if got != expected:
        sys.exit(f"{options}: able to {sorted(got - expected)}, not able to {sorted(expected - got)}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        secret, path, work = (os.path.join(folder, name) for name in ("secret", "socket", "work"))
        with open(secret, "w") as file:
            file.write("x")
        os.mkdir(work)
        os.chmod(work, 0o777)
        with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as by_name:
            by_path.bind(path)
            os.chmod(path, 0o777)
            by_path.listen(16)
            name = f"netgraft-attack-{os.getpid()}"
            by_name.bind("\0" + name)
            by_name.listen(16)
            for number in (8, 9):
                os.dup2(by_path.fileno(), number)

            def able(*options):
                run = subprocess.run(
                    [NETGRAFT, "run", "--network", "none", *options, "--", "python3", "-c", ATTACK, secret, path, name, work],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, close_fds=False,
                    env={"PATH": os.environ["PATH"], "SECRET_KEY": "x", "HOME": "/nonexistent"},
                )
                words = run.stdout.split()
                if run.returncode != 0 or words[-1:] != ["end"]:
                    sys.exit(f"{options}: {run}")
                return set(words[:-1])

            # What an ordinary run has: here the attacks are seen to work. Abstract sockets are the network's.
            plain = {"secret", "path-socket", "tmp", "work", "null", "environment", "pair"}
            check(able(), plain, "by default")
            check(able("--keep-fd", "8"), plain | {"kept"}, "--keep-fd")
            bare = {"null", "pair", "tmp"}
            check(able("--untrusted"), bare, "--untrusted")
            given = able("--untrusted", "--bind", f"{work}:/mnt", "--workdir", "/mnt", "--bind", f"{secret}:/etc/hostname:ro")
            check(given, bare, "--untrusted with other places")
            shown = subprocess.run(
                [NETGRAFT, "run", "--network", "none", "--untrusted", "--bind", f"{work}:/mnt", "--bind", f"{secret}:/etc/hostname:ro",
                 "--env", "A=1", "--env", "A=2", "--", "sh", "-c",
                 "cat /etc/hostname; echo y > /etc/hostname; echo z > /mnt/made; echo $A; pwd"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60, cwd=folder,
            )
            check({shown.stdout}, {"x2\n/\n"}, "what was given")
            with open(secret) as file, open(os.path.join(work, "made")) as made:
                check({file.read(), made.read()}, {"x", "z\n"}, "what was written")
            read_only = able("--read-only", "--tmpfs", "/tmp")
            check(read_only, {"tmp", "null", "environment", "pair"}, "--read-only")
            check(able("--no-path-sockets"), plain - {"path-socket"}, "--no-path-sockets")
            # A root directory whose links lead out of it leads nowhere.
            made = os.path.join(folder, "root")
            os.mkdir(made)
            os.chmod(made, 0o755)
            for place in ("usr", "dev", "proc", "tmp"):
                os.mkdir(os.path.join(made, place))
            for link in ("lib", "lib64", "bin"):
                os.symlink(f"usr/{link}", os.path.join(made, link))
            os.symlink("/etc", os.path.join(made, "etc"))
            os.symlink("/proc/1/root", os.path.join(made, "out"))
            rooted = subprocess.run(
                [NETGRAFT, "run", "--network", "none", "--rootfs", made, "--bind", "/usr:/usr:ro", "--", "sh", "-c",
                 "ls /; ls /etc/passwd /out/etc/passwd; ls /proc/1/root/etc/passwd; echo x > /usr/x || echo safe"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60,
            )
            expected = "bin\ndev\netc\nlib\nlib64\nout\nproc\ntmp\nusr\nsafe\n"
            check({rooted.stdout}, {expected}, "--rootfs")
            outside = subprocess.run(
                [NETGRAFT, "run", "--network", "none", "--rootfs", made, "--bind", f"{secret}:/etc/hostname", "--", "true"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60,
            )
            if outside.returncode != 125 or "cannot lay out the program's files" not in outside.stderr:
                sys.exit(f"a link in the root directory leads out of it: {outside}")


main()
print("done")
