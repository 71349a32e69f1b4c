"""Runs in a network namespace of its own, which it owns: netgraft (argv[1]) on a TAP device and on a veth pair, with dnsmasq on
the other side; and a stack in a shared object (argv[2]). Prints OK."""
import atexit
import os
import re
import subprocess
import sys
import time

NETGRAFT, OBJECT = sys.argv[1:]
CHILDREN = []


@atexit.register
def end():
    for process in CHILDREN:
        if process.poll() is None:
            process.kill()
        process.wait()


def sh(script):
    subprocess.run(["sh", "-ec", script], check=True)


def child(*words):
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    CHILDREN.append(process)
    return process


def run(*words, status=0):
    done = subprocess.run([NETGRAFT, "run", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done


def servers(device, *more):
    """dnsmasq on a device, once it serves."""
    process = child("dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file",
                    f"--interface={device}", "--bind-dynamic", "--except-interface=lo", "--no-hosts", "--no-resolv", "--user=",
                    "--group=", f"--dhcp-leasefile={os.getcwd()}/{device}.leases", "--address=/server.test/192.0.2.1", *more)
    for line in process.stderr:
        if "using local addresses only" in line or "read " in line or "advertisement enabled" in line or "DHCP, " in line or "sockets bound" in line:
            break
    return process


# One end is the kernel's, with everything that a network has.
sh("""
ip link set lo up
ip tuntap add ng0 mode tap
sysctl -qw net.ipv6.conf.ng0.accept_dad=0
ip address add 192.0.2.1/24 dev ng0
ip address add 2001:db8::1/64 dev ng0 nodad
ip link set ng0 up
""")
CHILDREN.append(subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "::", "8000"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL))
servers("ng0", "--dhcp-range=192.0.2.100,192.0.2.109,255.255.255.0,2m", "--dhcp-option=option:mtu,1400",
                 "--dhcp-range=2001:db8::100,2001:db8::1ff,64,10m", "--enable-ra", "--ra-param=ng0,4,600")

script = """ip -o address show dev eth0; ip route; ip -6 route; ip link show dev eth0; cat /etc/resolv.conf
curl -sS -o /dev/null -w 'v4 %{http_code}\\n' http://server.test:8000/
curl -gsS -o /dev/null -w 'v6 %{http_code}\\n' 'http://[2001:db8::1]:8000/'"""
seen = run("--link", "tap:ng0", "--address", "auto", "--", "sh", "-c", script).stdout
for part in ("inet 192.0.2.10", "inet6 2001:db8::1", "default via 192.0.2.1 dev eth0", "default via fe80:", "mtu 1400",
             "nameserver 192.0.2.1", "v4 200", "v6 200"):
    assert part in seen, (part, seen)

seen = run("--link", "tap:ng0", "--address", "dhcp", "--", "sh", "-c", script.rsplit("\n", 1)[0]).stdout
assert "inet 192.0.2.10" in seen and "2001:db8" not in seen and "v4 200" in seen, seen

# An object is given what was asked for, and its frames cross what keeps the lease.
seen = run("--network", "plugin", "--plugin", OBJECT, "--link", "tap:ng0", "--address", "dhcp", "--", "sh", "-c",
           script.rsplit("\n", 1)[0].replace("eth0", "ng0")).stdout
assert "inet 192.0.2.10" in seen and "v4 200" in seen, seen

# The same with an interface of the kernel's, and a fresh stack after a crash.
sh("""
ip link add v0 type veth peer name v1
ip address add 198.51.100.1/24 dev v0
ip link set v0 up
ip link set v1 up
""")
second = servers("v0", "--dhcp-range=198.51.100.100,198.51.100.109,255.255.255.0,infinite")
seen = run("--link", "packet:v1", "--address", "dhcp", "--", "sh", "-c", "ip -o address; ping -c 1 198.51.100.1").stdout
assert "inet 198.51.100.10" in seen and "1 received" in seen, seen

# An address that is another station's already (RFC 4862 section 5.4) is not used, and one line says so; without any, netgraft
# does not start.
sh("""
ip link add d0 type veth peer name d1
sysctl -qw net.ipv6.conf.d0.accept_dad=0 net.ipv6.conf.d1.disable_ipv6=1
ip address add 2001:db8:7::1/64 dev d0 nodad
ip link set d0 up
ip link set d1 up
""")
third = servers("d0", "--dhcp-range=2001:db8:7::,ra-only,64", "--enable-ra", "--ra-param=d0,4,600")
on_d1 = ("--link", "packet:d1", "--address", "auto", "--", "sh", "-c", "ip -o address; ping -c 1 2001:db8:7::1")
done = run(*on_d1)
own = [line.split()[3].split("/")[0] for line in done.stdout.splitlines() if " inet6 2001:db8:7:" in line]
assert len(own) == 1 and "1 received" in done.stdout and done.stderr == "", done
sh(f"ip address add {own[0]}/64 dev d0 nodad")
done = run(*on_d1[:-1], "ip -o address")
assert own[0] not in done.stdout and " inet6 fe80:" in done.stdout, done.stdout
assert done.stderr == f"netgraft: warning: --link packet:d1: {own[0]} is another station's already, and not used (duplicate " \
    "address)\n", done.stderr
local = next(line.split()[3].split("/")[0] for line in done.stdout.splitlines() if " inet6 fe80:" in line)
sh(f"ip address add {local}/64 dev d0 nodad")
done = run(*on_d1, status=125)
assert f"{own[0]}, {local} are another station's already: give an --address" in done.stderr and done.stdout == "", done
third.kill()
third.wait()
# One that is given by hand is used at once and asked for all the same; the other one stays.
box = subprocess.Popen([NETGRAFT, "run", "--link", "packet:d1", "--address", f"{own[0]}/64", "--address", "2001:db8:7::77/64", "--",
                        "sh", "-c", "read x; ping -q -c 1 -W 2 -I $0 2001:db8:7::1; ping -q -c 1 -W 9 -I $1 2001:db8:7::1",
                        own[0], "2001:db8:7::77"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
assert box.stderr.readline() == f"netgraft: sentry: warning: the address {own[0]} is another station's already, and is not used " \
    "(duplicate address)\n"
out, errors = box.communicate("\n", timeout=60)
assert ", 0 received" in out and ", 1 received" in out, (out, errors)
assert out.index(", 0 received") < out.index(", 1 received") and errors == "", (out, errors)

# Nobody answers: one line says so, and nothing is started.
second.kill()
second.wait()
quiet = run("--link", "packet:v1", "--address", "dhcp", "--", "echo", "started", status=125)
assert "no DHCP server has answered on --link packet:v1" in quiet.stderr and quiet.stdout == "", quiet
# The kernel's own addresses: said, moved, and given back, however netgraft ends.
sh("""
sysctl -qw net.ipv6.conf.v0.accept_dad=0 net.ipv6.conf.v1.accept_dad=0
ip address add 2001:db8:2::1/64 dev v0 nodad
ip address add 198.51.100.9/24 dev v1
ip address add 198.51.100.10/24 dev v1
ip address add 2001:db8:2::9/64 dev v1 nodad
ip route add default via 198.51.100.1 dev v1
""")


def of_kernel():
    shown = subprocess.run("ip -o address show dev v1 scope global; ip route show default", shell=True, capture_output=True,
                           text=True, check=True).stdout
    return [part for part in ("198.51.100.9/24", "198.51.100.10/24", "2001:db8:2::9/64", "default via 198.51.100.1") if part in shown]


ALL = ["198.51.100.9/24", "198.51.100.10/24", "2001:db8:2::9/64", "default via 198.51.100.1"]
assert of_kernel() == ALL
# Whatever else leads through it.
sh("""
ip route add 192.0.2.128/25 via 198.51.100.1 dev v1 metric 7
ip route add 10.9.0.0/16 dev v1 src 198.51.100.10
ip route add default via 198.51.100.1 dev v1 metric 100
ip -6 route add default via 2001:db8:2::99 dev v1 metric 50
ip -6 route add 2001:db8:77::/48 via 2001:db8:2::99 dev v1
ip address add 198.51.100.77/32 dev v1 valid_lft 5000 preferred_lft 4000
""")


def all_of_kernel():
    """All addresses and routes, without the seconds that are left."""
    shown = subprocess.run("ip -o address show dev v1 scope global; ip route show dev v1; ip -6 route show dev v1", shell=True,
                           capture_output=True, text=True, check=True).stdout
    return sorted(re.sub(r"[0-9]+sec", "some", line).strip() for line in shown.splitlines())


EVERYTHING = all_of_kernel()
assert sum("default" in line for line in EVERYTHING) >= 2 and any("some" in line for line in EVERYTHING), EVERYTHING
both = run("--link", "packet:v1", "--address", "198.51.100.8/24", "--", "true")
assert "has addresses of the kernel's, which answers on it, too (198.51.100.9/24, 198.51.100.77/32, 198.51.100.10/24, 2001:db8:2::9/64)" in both.stderr, both
take = [NETGRAFT, "run", "--link", "packet:v1", "--take-address", "--", "sh", "-c"]
box = subprocess.Popen([*take, "ip -o address; ip route; ping -c 1 198.51.100.1; ping -c 1 2001:db8:2::1; echo up; read x"],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
CHILDREN.append(box)
seen = "".join(iter(box.stdout.readline, "up\n"))
assert of_kernel() == [] and seen.count("1 received") == 2 and all(part in seen for part in ALL), seen
box.communicate("\n", timeout=30)
assert box.returncode == 0 and of_kernel() == ALL
assert all_of_kernel() == EVERYTHING, (all_of_kernel(), EVERYTHING)
box = subprocess.Popen([*take, "echo up; sleep 1000"], stdout=subprocess.PIPE, text=True)
CHILDREN.append(box)
assert box.stdout.readline() == "up\n" and of_kernel() == []
box.kill()
box.wait()
for _ in range(400):
    if of_kernel() == ALL:
        break
    time.sleep(0.025)
assert of_kernel() == ALL
for _ in range(400):
    if all_of_kernel() == EVERYTHING:
        break
    time.sleep(0.025)
assert all_of_kernel() == EVERYTHING, (all_of_kernel(), EVERYTHING)

# The MTU that an interface has is the stack's.
sh("""
ip link add m0 mtu 1300 type veth peer name m1 mtu 1300
ip address add 203.0.113.1/24 dev m0
ip link set m0 up
ip link set m1 up
""")
sink = subprocess.Popen(["sh", "-c", "nc -l -N 203.0.113.1 7777 | wc -c"], stdout=subprocess.PIPE, text=True)
CHILDREN.append(sink)
for _ in range(400):
    if ":1E61 " in open("/proc/net/tcp").read():
        break
    time.sleep(0.025)
seen = run("--link", "packet:m1", "--address", "203.0.113.9/24", "--", "sh", "-c",
           "ip link show eth0; head -c 3000000 /dev/zero | nc -N 203.0.113.1 7777; ping -c 1 203.0.113.1")
assert "mtu 1300" in seen.stdout and "1 received" in seen.stdout and sink.communicate(timeout=30)[0].strip() == "3000000", seen
for words, part in (((), "goes with --link packet:"), (("--link", "packet:v0x"), "v0x")):
    done = run(*words, "--take-address", "--", "true", status=125)
    assert part in done.stderr and done.stderr.count("\n") == 1, done
for words, part in (((), "need a --link to ask"), (("--link", "tap:ng0", "--address", "192.0.2.9/24"), "leave the others out")):
    done = run(*words, "--address", "auto", "--", "true", status=125)
    assert part in done.stderr and done.stderr.count("\n") == 1, done
# A link without an address is no network: said, and nothing is started.
for link in ("tap:ng0", "packet:v1"):
    done = run("--link", link, "--", "echo", "started", status=125)
    assert f"the stack has no address on --link {link}" in done.stderr and done.stderr.count("\n") == 1 and not done.stdout, done
print("OK")
