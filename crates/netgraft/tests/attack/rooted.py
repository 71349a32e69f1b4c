"""Root's program, or an ordinary user's, tries to leave its sandbox by what root may do.

Usage: rooted.py PATH-OF-NETGRAFT
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile

NETGRAFT = sys.argv[1]
ROOT = os.geteuid() == 0

# Prints what it could do, one word each.
ATTACK = r"""
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def able(what, call):
    try:
        if call() is not False:
            print(what)
    except OSError:
        pass
def syscall(number, *args):
    return libc.syscall(number, *args) >= 0
def opens(path, flags):
    os.close(os.open(path, flags))
def wrote(path, text):
    with open(path, 'w') as file:
        file.write(text)
def unshared(*command):
    return subprocess.run(['unshare', *command], stderr=subprocess.DEVNULL).returncode == 0
host_ids = [line.split() for line in open('/proc/self/uid_map')]
if any(inside == outside == '0' for inside, outside, _ in host_ids):
    print('is-host-root')
able('umount', lambda: any([libc.umount2(b'/proc', 2) == 0 for _ in range(3)]))
able('mount', lambda: libc.mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0)
able('sees-launcher', lambda: any('netgraft' in open(f'/proc/{p}/comm').read() and p != '1' for p in os.listdir('/proc') if p.isdigit()))
able('shadow', lambda: opens('/etc/shadow', os.O_RDONLY))
able('root-file', lambda: opens(sys.argv[1], os.O_RDWR))
able('core-pattern', lambda: opens('/proc/sys/kernel/core_pattern', os.O_WRONLY))
able('sysrq', lambda: opens('/proc/sysrq-trigger', os.O_WRONLY))
able('sysfs', lambda: opens('/sys/kernel/mm/transparent_hugepage/enabled', os.O_WRONLY))
able('group', lambda: [opens(os.path.join(d, 'cgroup.procs'), os.O_WRONLY) for d, _, f in os.walk('/sys/fs/cgroup') if 'cgroup.procs' in f and d.count('/') < 6] or False)
able('sees-group', lambda: any(line.split(':', 2)[2] not in ('/\n',) for line in open('/proc/self/cgroup')))
able('keyctl', lambda: syscall(250, 0, -3, 1))
def reads_key():
    key = libc.syscall(250, 10, -3, b'user', b'netgraft-attack', 0)
    text = ctypes.create_string_buffer(20)
    return key > 0 and libc.syscall(250, 11, key, text, 20) == 6 and text.value == b'secret'
able('key', reads_key)
able('bpf', lambda: ctypes.get_errno() != 1 if not syscall(321, 0, 0, 0) else True)
able('userns', lambda: unshared('-U', 'true'))
able('userns-umount', lambda: unshared('-Urm', 'umount', '/proc'))
able('ptrace', lambda: syscall(101, 16, os.getppid(), 0, 0))
able('chroot', lambda: os.chroot('/'))
able('fuse', lambda: os.stat('/dev/fuse').st_rdev == os.makedev(10, 229))
able('own-network', lambda: wrote('/proc/sys/net/ipv4/ip_default_ttl', '65'))
able('other-user', lambda: os.setresuid(1000, 1000, 1000))
print('end')
"""


def able(secret, *options):
    run = subprocess.run(
        [NETGRAFT, "run", "--network", "none", *options, "--", "python3", "-c", ATTACK, secret],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
    )
    words = run.stdout.split()
    if run.returncode != 0 or words[-1:] != ["end"]:
        sys.exit(f"{options}: {run}")
    return set(words[:-1])


def check(got, expected, options):
    if got != expected:
        sys.exit(f"{options}: able to {sorted(got - expected)}, not able to {sorted(expected - got)}")


def ids():
    """Sandboxes that run at the same time have no id in common, and none below those of the host's users."""
    shown = ["sh", "-c", "tail -n1 /proc/self/uid_map /proc/self/gid_map | grep -v '^=' ; read _"]
    runs = [
        subprocess.Popen([NETGRAFT, "run", "--network", "none", "--", *shown], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    users, groups = [], []
    for run in runs:
        lines = [run.stdout.readline().split() for _ in range(3)]
        maps = [tuple(map(int, line)) for line in lines if line]
        for all_maps, one in zip((users, groups), maps):
            all_maps.append(one)
    for run in runs:
        run.communicate("\n", timeout=60)
    for kind in (users, groups):
        ranges = sorted((outside, outside + count) for inside, outside, count in kind)
        apart = all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:]))
        if len(ranges) != 4 or not apart or any(start < 61184 or end - start not in (1, 65536) for start, end in ranges):
            sys.exit(f"ids of sandboxes: {users} {groups}")


def named_ids():
    """Files of a folder that was given to the ids which the operator names."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        work = os.path.join(folder, "work")
        os.mkdir(work, 0o700)
        os.chown(work, 1_000_000, 1_000_000)
        for number, user in enumerate((0, 7)):
            run = [NETGRAFT, "run", "--network", "none", "--ids", "1000000", "--", "sh", "-c", f"echo > {work}/{number} && chown {user} {work}/{number}"]
            subprocess.run(run, check=True, timeout=60)
            owner = os.stat(os.path.join(work, str(number))).st_uid
            if owner != 1_000_000 + user:
                sys.exit(f"--ids: {owner} owns a file of user {user}")


def keep_a_key():
    """A key in a session keyring of this process, which programs inherit; whether the kernel has keys."""
    libc = ctypes.CDLL(None)
    return libc.syscall(250, 1, None) > 0 and libc.syscall(248, b"user", b"netgraft-attack", b"secret", 6, -3) > 0


def main():
    keys = {"key"} if keep_a_key() else set()
    if ROOT:
        ids()
        named_ids()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        secret = os.path.join(folder, "secret")
        with open(secret, "w") as file:
            file.write("of the one who started it")
        os.chmod(secret, 0o600)
        if ROOT:
            # What root of a container may do, and nothing that leads out.
            inside = {"chroot", "own-network", "other-user"}
            check(able(secret), inside, "by default")
            check(able(secret, "--allow-userns"), inside | {"userns"}, "--allow-userns")
            got = able(secret, "--seccomp", "none")
            check(got - {"ptrace", "bpf"}, inside | {"userns", "keyctl"}, "--seccomp none")
            # Who wants the host's root has it: here the attacks are seen to work.
            got = able(secret, "--host-ids")
            must = inside | keys | {"is-host-root", "umount", "mount", "shadow", "root-file", "core-pattern", "userns", "keyctl"}
            check(got & must, must, "--host-ids")
        else:
            own = {"root-file", "userns", "keyctl"} | keys
            check(able(secret) - {"ptrace", "bpf"}, own, "by default")
            check(able(secret, "--seccomp", "default"), {"root-file"}, "--seccomp default")
        check(able(secret, "--untrusted", "--seccomp", "none") & {"key"}, set(), "--untrusted without a profile")
        # The device for file systems of its own is there for who asks for it.
        fuse = "/dev/fuse"
        if os.path.exists(fuse):
            for options in ([], ["--host-ids"]):
                check(able(secret, *options) & {"fuse"}, set(), options)
                options = [*options, "--bind", f"{fuse}:{fuse}"]
                check(able(secret, *options) & {"fuse"}, {"fuse"}, options)
        profile = os.path.join(folder, "profile.json")
        printed = subprocess.run([NETGRAFT, "seccomp"], stdout=subprocess.PIPE, text=True, check=True).stdout
        changed = json.loads(printed)
        changed["syscalls"].append({"names": ["chroot", "setresuid"], "action": "SCMP_ACT_ERRNO"})
        with open(profile, "w") as file:
            json.dump(changed, file)
        expected = {"own-network"} if ROOT else {"root-file"}
        check(able(secret, "--seccomp", profile), expected, "a profile of one's own")


main()
print("done")
