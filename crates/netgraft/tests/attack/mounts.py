"""A program tries to look below what is mounted in its sandbox, or to change what is read-only.

Usage: mounts.py PATH-OF-NETGRAFT
"""

import os
import subprocess
import sys
import tempfile

NETGRAFT = sys.argv[1]
ROOT = os.geteuid() == 0

# Prints what it could do, one word each. What is looked for: a file below an empty directory, a change of what is read-only, the
# host's processes below /proc, the device below /dev/fuse.
ATTACK = r"""
import ctypes, itertools, os, sys
covered, read_only, work = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNS, NEWPID, NEWNET = 0x10000000, 0x20000, 0x20000000, 0x40000000
BIND, MOVE, REC, REMOUNT, PRIVATE, RDONLY = 4096, 8192, 16384, 32, 1 << 18, 1
here = work if os.path.isdir(work) else '/media'

def mount(source, target, kind=None, flags=0, data=None):
    text = lambda value: None if value is None else value.encode()
    return libc.mount(text(source), text(target), text(kind), flags, text(data)) == 0

def looks(prefix):
    # What can be seen and done where the tree, or a part of it, is at this place.
    found = set()
    for place in {covered, '', covered.rsplit('/', 1)[-1]}:
        if os.path.exists(f'{prefix}{place}/secret'):
            found.add('secret')
    for place in {read_only, ''}:
        try:
            with open(f'{prefix}{place}/marker', 'r+') as file:
                file.write('changed')
            found.add('writes')
        except OSError:
            pass
    for place in ('/proc', ''):
        for name in ('1', *filter(str.isdigit, os.listdir(f'{prefix}{place}') if os.path.isdir(f'{prefix}{place}') else [])):
            try:
                with open(f'{prefix}{place}/{name}/comm') as file:
                    # Of the sandbox's own there are the first process and this one's like.
                    if file.read() in ('netgraft\n', 'netgraft-sentry\n', 'netgraft-keeper\n'):
                        found.add('processes')
            except OSError:
                pass
    for place in ('/dev/fuse', '/fuse', ''):
        try:
            if os.stat(f'{prefix}{place}').st_rdev == os.makedev(10, 229):
                found.add('fuse')
        except OSError:
            pass
    return found

def mounted():
    with open('/proc/self/mountinfo') as file:
        return [line.split()[4] for line in file]

FIRST = set(mounted())

def umounts():
    done = False
    # What the host has mounted since, and its copies: it is not hidden what was in sight before.
    later = {place.rsplit('/', 1)[-1] for place in mounted() if place not in FIRST and not place.startswith(here)}
    for place in reversed(mounted()):
        if place not in ('/', here) and place.rsplit('/', 1)[-1] not in later:
            done |= libc.umount2(place.encode(), 0) == 0 or libc.umount2(place.encode(), 2) == 0
    return looks('') | ({'umounts'} if done else set())

def remounts():
    done = False
    for place in (read_only, '/', '/proc/sys', '/sys'):
        done |= mount(None, place, None, REMOUNT | BIND) or mount(None, place, None, REMOUNT)
        # mount_setattr(2): what is set is taken away.
        attributes = (ctypes.c_uint64 * 4)(0, RDONLY, 0, 0)
        done |= libc.syscall(442, -100, place.encode(), 0, attributes, 32) == 0
    return looks('') | ({'remounts'} if done and looks('') else set())

def binds():
    found = set()
    for place in ('/', '/proc', '/dev/fuse', '/dev', covered, os.path.dirname(covered), read_only, '/sys'):
        for flags in (BIND, BIND | REC):
            if mount(place, here, None, flags):
                found |= looks(here) | (umounts() if flags & REC else set())
                libc.umount2(here.encode(), 2)
    return found

def moves():
    found = set()
    for place in ('/proc', covered, read_only, '/dev/fuse', '/sys'):
        if mount(place, here, None, MOVE):
            found |= looks('')
    return found

def trees():
    # open_tree(2) without what is mounted below.
    found = set()
    for place in ('/', '/proc', '/dev', covered, os.path.dirname(covered)):
        fd = libc.syscall(428, -100, place.encode(), 1)
        if fd >= 0:
            found |= looks(f'/proc/self/fd/{fd}')
            if libc.syscall(429, fd, b'', -100, here.encode(), 4) == 0:
                found |= looks(here)
                libc.umount2(here.encode(), 2)
    return found

def overlays():
    found = set()
    if not mount('none', here, 'tmpfs'):
        return found
    for place in ('/', '/proc', '/dev', covered, os.path.dirname(covered), '/sys'):
        os.makedirs(f'{here}/upper', exist_ok=True)
        os.makedirs(f'{here}/work', exist_ok=True)
        os.makedirs(f'{here}/seen', exist_ok=True)
        for options in (f'lowerdir={place}:{here}/upper', f'lowerdir={place},upperdir={here}/upper,workdir={here}/work'):
            if mount('overlay', f'{here}/seen', 'overlay', 0, options):
                found |= looks(f'{here}/seen') - {'writes'}
                libc.umount2(f'{here}/seen'.encode(), 2)
    libc.umount2(here.encode(), 2)
    return found

def pivots():
    # A root directory of its own, and the old one below it.
    if not mount('none', here, 'tmpfs'):
        return set()
    os.makedirs(f'{here}/old', exist_ok=True)
    if libc.syscall(155, here.encode(), f'{here}/old'.encode()) != 0:
        return set()
    os.chdir('/')
    found = looks('/old')
    mount('none', '/old/proc', 'proc')
    for place in ('/old/proc', f'/old{covered}', f'/old{read_only}', '/old/dev/fuse', '/old'):
        libc.umount2(place.encode(), 2)
    return found | looks('/old')

def news():
    # File systems of the kernel's, mounted again.
    found = set()
    for kind in ('proc', 'sysfs', 'devtmpfs', 'cgroup', 'cgroup2'):
        if mount('none', here, kind):
            found |= looks(here) - {'processes'} if kind == 'proc' and os.getpid() == 1 else looks(here)
            libc.umount2(here.encode(), 2)
    return found

def handles():
    # Files by number (open_by_handle_at(2)): the root directory of what is mounted here has the number 2 in ext4.
    handle = (ctypes.c_uint32 * 4)(8, 1, 2, 0)
    fd = os.open(here, os.O_RDONLY)
    opened = libc.syscall(304, fd, handle, os.O_RDONLY)
    return {'handle'} if opened >= 0 else set()

def directories():
    # The working directory may be one that was covered after it was entered.
    return looks('.')

found = directories()
for flags in (0, NEWUSER | NEWNS, NEWUSER | NEWNS | NEWPID | NEWNET):
    for attack in (umounts, remounts, binds, moves, trees, overlays, pivots, news, handles):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            said = set()
            try:
                user, group = os.getuid(), os.getgid()
                if flags:
                    if libc.unshare(flags) != 0:
                        os._exit(0)
                    for name, text in (('setgroups', 'deny'), ('uid_map', f'0 {user} 1'), ('gid_map', f'0 {group} 1')):
                        with open(f'/proc/self/{name}', 'w') as file:
                            file.write(text)
                    os.write(writer, b'userns ')
                    if flags & NEWPID and (inner := os.fork()):
                        os.waitpid(inner, 0)
                        os._exit(0)
                elif libc.unshare(NEWNS) == 0:
                    mount(None, '/', None, REC | PRIVATE)
                said = attack()
            except OSError:
                pass
            for word in said:
                os.write(writer, f'{word} '.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            said = set(file.read().split())
        os.waitpid(child, 0)
        found |= said
        if len(sys.argv) > 4 and said:
            print(attack.__name__, hex(flags), *said, file=sys.stderr)
print(*sorted(found))
print('end')
"""


def in_covered_directories():
    """Where it begins in a directory that its own /proc, /sys or /dev covers, it is in its own."""
    ours = "grep -l netgraft [0-9]*/comm"
    for place, script in (("/proc", ours), ("/proc/self/task", "cd .. && " + ours), ("/sys/class/net", "ls")):
        run = subprocess.run(
            [NETGRAFT, "run", "--network", "none", "--", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=place, timeout=60
        )
        seen = set(run.stdout.split())
        if not seen <= {"1/comm", "lo"}:
            sys.exit(f"in {place}: {seen}")


# What the host mounts while a sandbox runs comes to who sees the host's files, but not to who may change none: MOUNTED is
# made where the sandbox's caller is, in a mount namespace whose mounts spread.
SPREADS = r"""
mount --make-rshared /
for options in "" "--read-only" "--untrusted"; do
    "$0" run --network none $options -- sh -c 'echo ready; read _; cd /mnt; ls of-the-host; echo end' <"$1/in" >"$1/out" &
    exec 3>"$1/in" 4<"$1/out"
    read ready <&4
    mount -t tmpfs none /mnt && touch /mnt/of-the-host
    echo >&3
    echo "$options:$(cat <&4 | tr '\n' ' ')"
    exec 3>&- 4<&-
    wait
    umount /mnt
done
"""


def later_mounts():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("in", "out"):
            os.mkfifo(os.path.join(folder, name))
        run = subprocess.run(
            ["unshare", "-m", "sh", "-c", SPREADS, NETGRAFT, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120
        )
        expected = ":of-the-host end \n--read-only:end \n--untrusted:end \n"
        if run.stdout != expected:
            sys.exit(f"what the host mounts: {run.stdout!r} {run.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        covered, read_only, work = (os.path.join(folder, name) for name in ("covered", "fixed", "work"))
        for place in (covered, read_only, work):
            os.mkdir(place)
            os.chmod(place, 0o777)
        marker = os.path.join(read_only, "marker")
        for place, mode in ((os.path.join(covered, "secret"), 0o644), (marker, 0o666)):
            with open(place, "w") as file:
                file.write("as it was")
            os.chmod(place, mode)

        def able(*options, cwd="/"):
            with open(marker, "w") as file:
                file.write("as it was")
            # The folder is below /tmp, which is empty for who is not trusted.
            place = "/mnt" if "--untrusted" in options else read_only
            given = [] if "--untrusted" in options else ["--tmpfs", covered]
            given += ["--bind", f"{read_only}:{place}:ro", *options]
            run = subprocess.run(
                [NETGRAFT, "run", "--network", "none", *given, "--", "python3", "-c", ATTACK, covered, place, work, *sys.argv[2:]],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, cwd=cwd,
            )
            if run.stderr and sys.argv[2:]:
                print(options, cwd, run.stderr)
            lines = run.stdout.splitlines()
            if run.returncode != 0 or lines[-1:] != ["end"]:
                sys.exit(f"{options}: {run.returncode} {run.stdout}{run.stderr}")
            found = set(lines[0].split())
            with open(marker) as file:
                if (file.read() != "as it was") != ("writes" in found):
                    sys.exit(f"{options}: the file was changed: {found}")
            return found

        def check(got, expected, options):
            if got != expected:
                sys.exit(f"{options}: able to {sorted(got - expected)}, not able to {sorted(expected - got)}")

        # Where a program may make user namespaces, it has all capabilities over a copy of the mounts: these are locked.
        nested = ("--allow-userns", "--seccomp", "none")
        bind = ("--bind", f"{work}:{work}")
        ways = {
            (): set() if ROOT else {"userns"},
            nested: {"userns"},
            (*nested, "--read-only", *bind): {"userns"},
            ("--untrusted",): set(),
            ("--untrusted", *nested): {"userns"},
        }
        for options, expected in ways.items():
            check(able(*options), expected, options)
        for place in ("/proc", "/proc/1", "/sys/class/net", "/dev", covered, os.path.dirname(covered)):
            check(able(*nested, cwd=place), {"userns"}, f"in {place}")
        in_covered_directories()
        if ROOT:
            # The host's root is not kept from it: here the attacks are seen to work.
            must = {"secret", "writes", "processes", "umounts", "remounts", "userns"}
            got = able("--host-ids", *nested)
            check(got & must, must, "--host-ids")
            later_mounts()


main()
print("done")
